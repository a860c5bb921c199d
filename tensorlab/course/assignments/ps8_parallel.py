"""Problem set 8: when the work of a pipeline runs, stages, sums around a ring, and bytes at the
peak."""

import math

import torch

from ...parallel import cost, schedules
from ..checks import Check, Unusable, gaussian, returned, tensors


def _waits(orders):
    """For each operation (kind, micro, rank) those that it waits for, and the one before it."""
    last, waits = len(orders) - 1, {}
    for s, order in enumerate(orders):
        for k, (kind, i) in enumerate(order):
            far = ("F", i, s - 1) if kind == "F" else ("B", i, s + 1)
            found = [far] if 0 <= far[2] <= last else []
            found += [("F", i, s)] if kind == "B" else []
            waits[kind, i, s] = found + [(*before, s) for before in order[max(0, k - 1) : k]]
    return waits


def given_when(orders, seconds, delay) -> dict:
    """The start and the end of each operation (kind, micro, rank); ValueError for orders that wait
    for ever.

    >>> given_when([[("F", 0), ("B", 0)]], {"F": [1], "B": [2]}, 0)
    {('F', 0, 0): (0, 1), ('B', 0, 0): (1, 3)}
    """
    waits = _waits(orders)
    starts = dict.fromkeys(waits, 0)
    if any(other not in waits for others in waits.values() for other in others):
        raise ValueError("when: an operation waits for one that nobody does")
    for _ in range(len(waits) + 1):  # the longest chain has so many operations
        before = dict(starts)
        for op, others in waits.items():
            ends = [starts[o] + seconds[o[0]][o[2]] + delay * (o[2] != op[2]) for o in others]
            starts[op] = max(ends, default=0)
        if starts == before:
            return {op: (t, t + seconds[op[0]][op[2]]) for op, t in starts.items()}
    raise ValueError("when: the orders wait for each other in a circle")


def given_slack(spans, orders, delay) -> dict:
    """How much longer each operation alone could take while the last end stays.

    >>> spans = {("F", 0, 0): (0, 1), ("B", 0, 0): (1, 3)}
    >>> given_slack(spans, [[("F", 0), ("B", 0)]], 0)
    {('F', 0, 0): 0, ('B', 0, 0): 0}
    """
    followers = {op: [] for op in spans}
    for op, others in _waits(orders).items():
        for other in others:
            followers[other].append(op)
    tails = {}  # the longest chain that follows an operation
    for op in sorted(spans, key=lambda op: spans[op][1], reverse=True):
        chains = [
            delay * (f[2] != op[2]) + spans[f][1] - spans[f][0] + tails[f] for f in followers[op]
        ]
        tails[op] = max(chains, default=0)
    done = max(end for _, end in spans.values())
    return {op: done - spans[op][1] - tails[op] for op in spans}


def given_cut(times, p) -> list[int]:
    """The numbers of layers of p stages whose longest time is the smallest.

    >>> given_cut([1, 1, 4], 2)
    [2, 1]
    """
    spans = (sum(times[i:j]) for j in range(len(times) + 1) for i in range(j))
    sums = sorted({total for total in spans if total >= max(times)})
    parts = next(parts for most in sums if len(parts := _filled(times, most)) <= p)
    while len(parts) < p:  # to cut a stage in two makes none longer
        k = max(range(len(parts)), key=parts.__getitem__)
        parts[k : k + 1] = [parts[k] - 1, 1]
    return parts


def _filled(times, most):
    """Stages that are filled one after another, as long as they need no more than this."""
    parts, spent = [], math.inf
    for t in times:
        if spent + t > most * (1 + 1e-12):  # sums of the same layers in another order
            parts, spent = [*parts, 0], 0
        parts[-1] += 1
        spent += t
    return parts


def given_peak(layers, n, stage) -> int:
    """The most bytes on a rank, with what a backward gathers.

    >>> [given_peak([8, 8], 2, stage) for stage in range(4)]
    [256, 160, 160, 176]
    """
    most = 0
    for k, count in enumerate(layers):
        pad = lambda size: n * -(-size // n)
        held = 0
        for size in layers:
            piece = pad(size) // n
            held += 12 * (piece if stage > 0 else size)
            held += 2 * (piece if stage > 1 else size) + 2 * (piece if stage > 2 else size)
        held += 2 * pad(count) if stage > 1 else 0
        held += 2 * (pad(count) + (pad(layers[k - 1]) if k else 0)) if stage > 2 else 0
        most = max(most, held)
    return most


FORBIDDEN = tuple(
    (function, "write it yourself; functions that do the same are not allowed here.")
    for function in (
        schedules.times,
        schedules.varuna,
        cost.makespan,
        cost.zero_bytes,
        given_when,
        given_slack,
        given_cut,
        given_peak,
    )
)


def _numbers(function, *case):
    """A dict by operations, as numbers in the order of the operations' names."""
    found = returned(function, *case)
    if found is None:
        return None
    if not isinstance(found, dict):
        raise Unusable(f"a dict by operations is needed, this is a {type(found).__name__}.")
    spans = [torch.as_tensor(found[op], dtype=torch.float64).reshape(-1) for op in sorted(found)]
    return torch.cat(spans) if spans else torch.zeros(0)


def _sorted(found):
    return torch.tensor([found[op] for op in sorted(found)], dtype=torch.float64).flatten()


def _slowest(function, times, p):
    """The longest time of a stage."""
    parts = returned(function, times, p)
    if parts is None:
        return None
    parts = [int(n) for n in parts]
    if len(parts) != p or sum(parts) != len(times) or min(parts) < 1:
        raise Unusable(f"{p} stages with {len(times)} layers in all are needed, this is {parts}.")
    return torch.tensor(_longest(times, parts), dtype=torch.float64)


def _longest(times, parts):
    return max(sum(times[sum(parts[:k]) :][:n]) for k, n in enumerate(parts))


def _stacked(function, parts):
    sums = returned(function, parts)
    return None if sums is None else torch.stack(tensors(sums))


_PIPE = [[("F", 0), ("F", 1), ("B", 1), ("B", 0)]] * 3
_SECONDS = {"F": [1, 3, 2], "B": [2, 1, 2]}

when = Check(
    function=True,
    cases=lambda: [(_PIPE, _SECONDS, delay) for delay in (0, 1)],
    read=_numbers,
    right=lambda *case: _sorted(given_when(*case)),
    hint="for three ranks with F0 F1 B1 B0 each. An operation starts when its rank is free and "
    "all that it needs has arrived.",
    moral="One case with a delay and one without are right; try orders that wait for ever.",
)

slack = Check(
    function=True,
    cases=lambda: [(given_when(_PIPE, _SECONDS, delay), _PIPE, delay) for delay in (0, 1)],
    read=_numbers,
    right=lambda *case: _sorted(given_slack(*case)),
    hint="for three ranks with F0 F1 B1 B0 each. The last operation has none, and neither has "
    "what it waits for to the last.",
    moral="These cases are right; try 1F1B with many micro-batches.",
)

cut = Check(
    function=True,
    cases=lambda: [([3, 1, 4, 1, 5], p) for p in (2, 4)],
    read=_slowest,
    right=lambda times, p: torch.tensor(_longest(times, given_cut(times, p))).double(),
    hint="the layers 3, 1, 4, 1, 5 can be cut with less than your longest stage needs.",
    moral="Two cuts are right; try as many stages as layers.",
)

ring = Check(
    function=True,
    cases=lambda: [(list(gaussian((4,), (4,))),), (list(gaussian((7,), (7,), (7,))),)],
    read=_stacked,
    right=lambda parts: torch.stack([sum(parts)] * len(parts)),
    hint="each rank needs the whole sum.",
    moral="The sums of two and of three ranks are right; whether little is sent is another test.",
)

peak = Check(
    function=True,
    cases=lambda: [([6, 12, 4], 3, stage) for stage in range(4)],
    right=lambda *case: torch.tensor(given_peak(*case)).double(),
    hint="for layers of 6, 12 and 4 parameters on 3 ranks; go through the stages one by one.",
    moral="All stages are right for one case; try layers that the ranks do not divide.",
)
