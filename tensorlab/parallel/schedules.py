"""Pipelines: in which order each rank works, and when each piece of work then runs [Huang2019]
[Narayanan2019] [Narayanan2021] [Qi2024] [Athlur2022].

A model is cut into stages, one or several on each rank; a batch is cut into micro-batches. A
schedule is nothing but an order of operations for each rank. When they run is the longest path:

    start(op) = max( end of the operation before it on its rank, ends of all that it needs )

    F(i, s)  needs F(i, s-1)                 the forward of micro-batch i on stage s
    B(i, s)  needs F(i, s) and B(i, s+1)     the backward
             and R(i, s)                     where the activations are recomputed
    W(i, s)  needs B(i, s)                   the weights' share of a backward, where it waits

All times are in the unit of the durations that are given; micro-batches and stages count from 0.
"""

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

KINDS = "FRBW"


class Op(NamedTuple):
    """One piece of work: its kind of "FRBW", its micro-batch and its stage.

    >>> Op("B", 2, 1).name
    'B2 of stage 1'
    """

    kind: str
    micro: int
    stage: int

    @property
    def name(self) -> str:
        return f"{self.kind}{self.micro} of stage {self.stage}"


class Run(NamedTuple):
    """An operation with the time in which its rank works on it."""

    rank: int
    op: Op
    start: float
    end: float


Orders = Sequence[Sequence[Op]]
Durations = Mapping[str, float] | Mapping[Op, float]

# ------------------------------------------------------------------------------------ the schedules


def naive(stages: int, micro: int) -> Orders:
    """One micro-batch in the pipe at a time: F0 B0 F1 B1 ...

    >>> show(naive(2, 2))
    ['F0 B0 F1 B1', 'F0 B0 F1 B1']
    """
    _check("naive", stages, micro)
    return [[Op(k, i, s) for i in range(micro) for k in "FB"] for s in range(stages)]


def gpipe(stages: int, micro: int, *, recompute: bool = False) -> Orders:
    """All forwards, then all backwards [Huang2019]. recompute: backwards start with the newest
    micro-batch, whose activations are still there, and all others are computed again.

    >>> show(gpipe(2, 3)), show(gpipe(1, 3, recompute=True))
    (['F0 F1 F2 B0 B1 B2', 'F0 F1 F2 B0 B1 B2'], ['F0 F1 F2 B2 R1 B1 R0 B0'])
    """
    _check("gpipe", stages, micro)
    forward = [("F", i) for i in range(micro)]
    back = [("B", i) for i in range(micro)]
    if recompute:
        back = [("B", micro - 1)] + [(k, i) for i in reversed(range(micro - 1)) for k in "RB"]
    return [[Op(k, i, s) for k, i in forward + back] for s in range(stages)]


def one_f_one_b(stages: int, micro: int) -> Orders:
    """1F1B: w = min(p - 1 - s, m) forwards, then one forward and one backward in turn, then the
    last w backwards; as fast as GPipe, with fewer activations held [Narayanan2019].

    >>> show(one_f_one_b(3, 3))
    ['F0 F1 F2 B0 B1 B2', 'F0 F1 B0 F2 B1 B2', 'F0 B0 F1 B1 F2 B2']
    """
    _check("one_f_one_b", stages, micro)
    return [
        [Op(kind, i, s) for kind, i in _in_turn(min(stages - 1 - s, micro), micro)]
        for s in range(stages)
    ]


def interleaved(ranks: int, micro: int, chunks: int) -> Orders:
    """1F1B with several stages on each rank: rank s holds the stages s, s + p, ...; the bubble is
    shorter by the number of chunks [Narayanan2021].

    w = min( 2 (p - 1 - s) + (v - 1) p, m v ) forwards come first; the n-th forward of a rank is,
    with g, q = divmod(n, p v) and c, i = divmod(q, p), micro-batch g p + i of chunk c, and the n-th
    backward that of chunk v - 1 - c. Raises ValueError where p does not divide m.

    >>> show(interleaved(2, 2, 2))
    ['F0:0 F1:0 F0:2 F1:2 B0:2 B1:2 B0:0 B1:0', 'F0:1 F1:1 F0:3 B0:3 F1:3 B1:3 B0:1 B1:1']
    """
    _check("interleaved", ranks, micro, chunks)
    check_divides("interleaved", "ranks", ranks, "micro-batches", micro)

    def op(kind, n, s):
        group, rest = divmod(n, ranks * chunks)
        chunk, i = divmod(rest, ranks)
        chunk = chunk if kind == "F" else chunks - 1 - chunk
        return Op(kind, group * ranks + i, chunk * ranks + s)

    total = micro * chunks
    warm = [min(2 * (ranks - 1 - s) + (chunks - 1) * ranks, total) for s in range(ranks)]
    return [[op(kind, n, s) for kind, n in _in_turn(warm[s], total)] for s in range(ranks)]


def zb_h1(stages: int, micro: int) -> Orders:
    """1F1B with backwards in two: B, which the stage before waits for, and W, which nobody waits
    for and which fills the bubble [Qi2024].

    On stage s the W of micro-batch j comes right after the B of micro-batch j + s.

    >>> show(zb_h1(2, 3))
    ['F0 F1 B0 W0 F2 B1 W1 B2 W2', 'F0 B0 F1 B1 W0 F2 B2 W1 W2']
    """
    orders = []
    for s, order in enumerate(one_f_one_b(stages, micro)):
        row = []
        for op in order:
            row.append(op)
            if op.kind == "B" and op.micro >= s:
                row.append(Op("W", op.micro - s, s))
        rest = range(max(0, micro - s), micro)
        orders.append(row + [Op("W", i, s) for i in rest])
    return orders


def varuna(stages: int, micro: int, durations: Durations) -> "Timeline":
    """What a list of priorities makes of a pipe with recomputation: each stage, whenever it is
    free, takes the oldest operation that is ready, B before R before F [Athlur2022].

    R of a micro-batch is ready when the next stage is so far in its backward that R ends as the
    gradient arrives. The last stage never recomputes. It decides while it runs, so it goes on where
    a fixed order would wait.

    >>> varuna(2, 2, {"F": 1, "R": 1, "B": 2}).makespan
    9
    """
    _check("varuna", stages, micro)
    done: dict[Op, Run] = {}
    free, todo, now = [0] * stages, [dict.fromkeys("BRF", 0) for _ in range(stages)], 0
    todo[-1].pop("R")
    total = micro * (3 * stages - 1)
    while True:
        for s in reversed(range(stages)):  # a backward that starts now may make an R ready
            ops = (Op(kind, i, s) for kind, i in todo[s].items() if i < micro)
            op = next((op for op in ops if _ready(op, now, done, stages - 1, durations)), None)
            if free[s] <= now and op is not None:
                free[s] = now + duration(durations, op)
                done[op] = Run(s, op, now, free[s])
                todo[s][op.kind] += 1
        if len(done) == total:
            return Timeline(tuple(done.values()), stages)
        now = min(t for t in _moments(done, durations) if t > now)


def _ready(op: Op, now, done: dict[Op, Run], last: int, durations) -> bool:
    """Whether Varuna's stage may start an operation now."""
    kind, i, s = op
    ended = lambda kind, s: (kind, i, s) in done and done[kind, i, s].end <= now
    if kind == "F":
        return s == 0 or ended("F", s - 1)
    if kind == "R":
        after = done.get(Op("B", i, s + 1))
        return after is not None and after.end - duration(durations, op) <= now
    return ended("F", s) if s == last else ended("R", s) and ended("B", s + 1)


def _moments(done: dict[Op, Run], durations):
    """The times at which something may become ready."""
    for op, run in done.items():
        yield run.end
        if op.kind == "B" and op.stage > 0:
            yield run.end - duration(durations, Op("R", op.micro, op.stage - 1))


def _in_turn(warm: int, total: int) -> list[tuple[str, int]]:
    """`warm` forwards, forward and backward in turn, and the backwards that are left."""
    pairs = [(k, i) for n in range(total - warm) for k, i in (("F", warm + n), ("B", n))]
    return [("F", i) for i in range(warm)] + pairs + [("B", i) for i in range(total - warm, total)]


# ---------------------------------------------------------------------------------------- the times


@dataclass(frozen=True)
class Timeline:
    """When each operation ran, or would run.

    runs: in any order. ranks: how many there are.

    >>> line = times(gpipe(2, 3), {"F": 1, "B": 2})
    >>> line
    Timeline(2 ranks, 12 runs, makespan 12, idle 0.25)
    >>> print(line.table(), line.held(0))
    F0 F1 F2    B0 B0 B1 B1 B2 B2
       F0 F1 F2 B0 B0 B1 B1 B2 B2 3
    """

    runs: tuple[Run, ...]
    ranks: int

    @property
    def makespan(self):
        """From the first start to the last end."""
        return max(run.end for run in self.runs) - min(run.start for run in self.runs)

    @property
    def bubble(self) -> float:
        """The share of the time in which ranks are idle."""
        busy = sum(run.end - run.start for run in self.runs)
        return 1 - busy / (self.ranks * self.makespan)

    def of(self, rank: int) -> list[Run]:
        """The runs of a rank, in the order of time."""
        return sorted((r for r in self.runs if r.rank == rank), key=lambda r: (r.start, r.end))

    @property
    def orders(self) -> Orders:
        """The order in which each rank works."""
        return [[run.op for run in self.of(rank)] for rank in range(self.ranks)]

    def held(self, rank: int) -> int:
        """The most micro-batches whose activations a rank holds at once, of all its stages: from
        the start of F to the end of B, or of W where backwards are in two."""
        frees = "W" if any(run.op.kind == "W" for run in self.runs) else "B"
        now = most = 0
        for op in self.orders[rank]:
            now += (op.kind == "F") - (op.kind == frees)
            most = max(most, now)
        return most

    def table(self, slot=1, *, first: int = 0) -> str:
        """One line for each rank, one cell for each slot of time. first: the number of the first
        micro-batch."""
        start, count = min(r.start for r in self.runs), round(self.makespan / slot)
        cells = [[""] * count for _ in range(self.ranks)]
        for rank, op, a, b in self.runs:
            span = slice(round((a - start) / slot), round((b - start) / slot))
            cells[rank][span] = [f"{op.kind}{op.micro + first}"] * len(range(count)[span])
        wide = max(len(text) for row in cells for text in row)
        return "\n".join(" ".join(text.ljust(wide) for text in row).rstrip() for row in cells)

    def __repr__(self):
        about = f"makespan {self.makespan:.6g}, idle {self.bubble:.3g}"
        return f"Timeline({self.ranks} ranks, {len(self.runs)} runs, {about})"


def times(orders: Orders, durations: Durations) -> Timeline:
    """When each operation of these orders runs: the longest path.

    orders: for each rank its operations, checked to be complete. durations: by kind, or
    by operation, as `jittered` gives them. Raises ValueError for orders that lack an operation,
    have one twice, or wait for each other in a circle; the message names where.

    >>> times(one_f_one_b(4, 8), {"F": 1, "B": 2}).makespan
    33
    """
    needs = _needs("times", orders)
    left, free, ends, runs = [deque(order) for order in orders], [0] * len(orders), {}, []
    while any(left):
        before = len(runs)
        for rank, queue in enumerate(left):
            while queue and needs[queue[0]] <= ends.keys():
                op = queue.popleft()
                start = max([free[rank], *(ends[need] for need in needs[op])])
                free[rank] = ends[op] = start + duration(durations, op)
                runs.append(Run(rank, op, start, ends[op]))
        if len(runs) == before:
            raise ValueError(f"times: the orders deadlock: {_stuck(left, needs, ends)}")
    return Timeline(tuple(runs), len(orders))


def jittered(
    orders: Orders, durations: Mapping[str, float], spread: float, generator: random.Random
) -> dict[Op, float]:
    """Durations by operation, each times 1 + spread · |z| with z Gaussian: machines are late, never
    early.

    >>> jittered(naive(1, 1), {"F": 1.0, "B": 2.0}, 0.0, random.Random(0))
    {Op(kind='F', micro=0, stage=0): 1.0, Op(kind='B', micro=0, stage=0): 2.0}
    """
    if not spread >= 0:
        raise ValueError(f"jittered: needs spread >= 0, got {spread}")
    late = lambda: 1 + spread * abs(generator.gauss(0, 1))
    return {op: duration(durations, op) * late() for order in orders for op in order}


def duration(durations: Durations, op: Op):
    """How long an operation takes; ValueError where that is not said, or not above zero."""
    found = durations.get(op, durations.get(op.kind))
    if found is None or not found > 0:
        raise ValueError(
            f"times: needs a duration > 0 for {op.name}, got {'none' if found is None else found}"
        )
    return found


def _needs(who, orders: Orders) -> dict[Op, set[Op]]:
    """What each operation of the orders waits for, besides its rank."""
    ops = [op for order in orders for op in order]
    known = set(ops)
    if not ops or len(known) < len(ops) or not {op.kind for op in ops} <= set(KINDS):
        twice = next((op.name for k, op in enumerate(ops) if op in ops[:k]), None)
        got = f"{twice} twice" if twice else sorted({op.kind for op in ops})
        raise ValueError(f"{who}: needs operations of the kinds F, R, B, W, once each, got {got}")
    last = max(op.stage for op in ops)
    needs = {op: _needed(op, known, last) for op in ops}
    micro = range(1 + max(op.micro for op in ops))
    every = {Op(kind, i, s) for kind in "FB" for i in micro for s in range(last + 1)}
    absent = sorted((every | {n for found in needs.values() for n in found}) - known)
    if any(op.kind == "W" for op in ops):
        absent += [op for i in micro for s in range(last + 1) if (op := Op("W", i, s)) not in known]
    if absent:
        raise ValueError(
            f"{who}: needs every forward and backward of {last + 1} stages and {len(micro)} "
            f"micro-batches, got none of {', '.join(op.name for op in absent[:4])}"
        )
    return needs


def _needed(op: Op, known: set[Op], last: int) -> set[Op]:
    kind, i, s = op
    if kind == "F":
        return {Op("F", i, s - 1)} if s else set()
    if kind in "RW":
        return {Op("F" if kind == "R" else "B", i, s)}
    after, again = {Op("B", i, s + 1)} if s < last else set(), {Op("R", i, s)} & known
    return {Op("F", i, s)} | after | again


def _stuck(left, needs, ends) -> str:
    """Where each rank waits, and for what."""
    return "; ".join(
        f"rank {rank} at {queue[0].name} waits for "
        + ", ".join(need.name for need in sorted(needs[queue[0]] - ends.keys()))
        for rank, queue in enumerate(left)
        if queue
    )


# -------------------------------------------------------------------------- orders as they are read


def show(orders: Orders) -> list[str]:
    """The orders as text, one line for each rank; with :stage where a rank has several.

    >>> read(show(interleaved(2, 4, 2))) == interleaved(2, 4, 2)
    True
    """
    several = any(len({op.stage for op in order}) > 1 for order in orders)
    text = lambda op: f"{op.kind}{op.micro}" + f":{op.stage}" * several
    return [" ".join(map(text, order)) for order in orders]


def read(lines: Sequence[str]) -> Orders:
    """Orders from text, as `show` writes them: "F0 F1 B0 B1", the stage is the rank's unless it is
    said, "F0:2". Raises ValueError for a word that is no operation.

    >>> times(read(["F0 F1 B0 B1", "F0 B0 F1 B1"]), {"F": 1, "B": 1}).makespan
    6
    """
    orders = []
    for rank, line in enumerate(lines):
        orders.append([])
        for word in line.split():
            micro, _, stage = word[1:].partition(":")
            if word[0] not in KINDS or not micro.isdigit() or not (stage or "0").isdigit():
                raise ValueError(f"read: needs operations such as F0, B3 or W1:2, got {word!r}")
            orders[-1].append(Op(word[0], int(micro), int(stage or rank)))
    return orders


# ---------------------------------------------------------------------------------- what is refused


def check_divides(who: str, parts_name: str, parts: int, whole_name: str, whole: int) -> None:
    """Raises ValueError where `parts` does not divide `whole`, with the numbers that would do.

    who: the function that the user called, for the error.
    parts_name, whole_name: what the two numbers count, for the error.
    parts, whole: the two numbers.

    >>> check_divides("split", "ranks", 3, "heads", 8)
    Traceback (most recent call last):
    ValueError: split: needs a number of ranks that divides 8 heads (1, 2, 4, 8), got 3
    """
    if not 1 <= parts <= whole or whole % parts:
        good = ", ".join(str(n) for n in range(1, whole + 1) if whole % n == 0)
        raise ValueError(
            f"{who}: needs a number of {parts_name} that divides {whole} {whole_name} ({good}), "
            f"got {parts}"
        )


def check_stages(who: str, stages: int, layers: int) -> None:
    """Raises ValueError for more stages than layers."""
    if not 1 <= stages <= layers:
        raise ValueError(f"{who}: needs 1 to {layers} stages for {layers} layers, got {stages}")


def _check(who: str, stages: int, micro: int, chunks: int = 1) -> None:
    if min(stages, micro, chunks) < 1:
        got = f"{stages}, {micro}" + f" and {chunks}" * (chunks < 1)
        raise ValueError(f"{who}: needs stages, micro-batches and chunks of 1 or more, got {got}")
