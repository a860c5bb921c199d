"""The cost model of paths through the cores of a TT-matrix, and the choice among them
[Chekalina2023].

    seconds of a step = operations / (rate that its sizes allow) + bytes / bandwidth + calls

It knows shapes, never numbers: nothing here needs torch. Few operations are not enough, because a
product of skinny matrices runs at a tenth of the speed of a wide one, and states that leave the
cache cost more than their arithmetic; so both are counted. `propagation` walks what is chosen here.
"""

import math
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..formats.ttmatrix import TTMatrix

SHORT = 32  # numbers that a copy of short rows costs more for each row
BACKWARDS = ("autograd", "full einsum", "full matrix", "environment", "recompute")


class Machine(NamedTuple):
    """What the choice of a plan knows of a machine. The numbers need not be exact, since only the
    order of the plans matters."""

    rate: float  # operations a second of a large product in float32
    half: float  # size of a side at which a product of matrices runs at half that speed
    thin: float  # the same of the columns in each product of a batch
    bandwidth: float  # bytes a second
    call: float  # seconds to start an operation
    each: float  # seconds to start one matrix of a batched product
    chunk: int  # bytes of the states of one chunk of tokens


CPU = Machine(rate=140e9, half=6, thin=24, bandwidth=8e9, call=8e-6, each=0.15e-6, chunk=3 << 19)
GPU = Machine(rate=40e12, half=48, thin=48, bandwidth=3e12, call=10e-6, each=0.0, chunk=1 << 30)


class Path(NamedTuple):
    """Which neighboring cores are merged, and from which end the merged ones are taken.

    >>> str(Path("left", (1, 1, 1))), str(Path("right", (1, 2))), str(Path("left", (3,)))
    ('left', 'right 1+2', 'rebuild')
    """

    start: str
    groups: tuple[int, ...]

    def __str__(self):
        if len(self.groups) == 1:
            return "rebuild"
        merged = "" if max(self.groups) == 1 else f" {'+'.join(map(str, self.groups))}"
        return self.start + merged


class Plan(NamedTuple):
    """One way to multiply and to differentiate. Operations count 2 for each multiply-add; bytes are
    those of tensors."""

    forward: str
    backward: str
    flops: int  # of y
    backward_flops: int  # of the gradients of x and of the cores
    saved: int  # bytes kept between the two, beside x and the cores
    peak: int  # bytes of all that is made and alive at once, y and the gradient of x included
    seconds: float  # what the machine's constants say

    @property
    def strategy(self) -> str:
        return f"{self.forward}, {self.backward}"


def plans(weight: "TTMatrix", batch: int) -> list[Plan]:
    """Every plan for a batch of this many tokens, the one expected to be fastest first.

    >>> from tensorlab import TTMatrix
    >>> len(plans(TTMatrix.randn(out=(4, 5), in_=(3, 2), rank=2), batch=64))
    15
    """
    shapes = tuple(tuple(c.shape) for c in weight.cores)
    kinds = _all_plans(shapes, batch, weight.dtype.itemsize, weight.device.type)
    return [plan for plan, *_ in kinds]


def paths(d: int) -> list[Path]:
    """All ways to merge neighbors of d cores, each from both ends; of more than eight cores only
    the plain ones, the rebuilt one and those with two groups.

    >>> [str(path) for path in paths(3)]
    ['left', 'right', 'left 1+2', 'right 1+2', 'left 2+1', 'right 2+1', 'rebuild']
    """
    counts = range(d) if d <= 8 else (0, 1, d - 1)
    cuts = [c for n in sorted(counts, reverse=True) for c in combinations(range(1, d), n)]
    groups = [tuple(b - a for a, b in zip((0, *c), (*c, d))) for c in cuts]
    return [
        Path(start, g) for g in groups for start in (("left", "right") if len(g) > 1 else ("left",))
    ]


def _machine(kind: str) -> Machine:
    return CPU if kind == "cpu" else GPU


def _merged_shapes(shapes, groups):
    """The shapes of the merged cores, and the operations of merging."""
    merged, flops, at = [], 0, 0
    for n in groups:
        r, o, i, q = shapes[at]
        for _, oo, ii, qq in shapes[at + 1 : at + n]:
            flops += 2 * r * o * i * q * oo * ii * qq
            o, i, q = o * oo, i * ii, qq
        merged.append((r, o, i, q))
        at += n
    return merged, flops


def _steps(shapes, path: Path):
    """(n, m, k, c) of each step for one token: n products of (m, k) and (k, c)."""
    merged, steps = _merged_shapes(shapes, path.groups)[0], []
    if path.start == "left":
        n, c = 1, math.prod([i for _, _, i, _ in merged])
        for r, o, i, q in merged:
            c //= i
            steps.append((n, o * q, r * i, c))
            n *= o
    else:
        n, c = math.prod([i for _, _, i, _ in merged]), 1
        for r, o, i, q in merged[::-1]:
            n //= i
            steps.append((n, r * o, i * q, c))
            c *= o
    return steps


def chunk_tokens(shapes, path: Path, itemsize: int, kind: str) -> int:
    """How many tokens to walk a path with at a time, such that their states stay in the cache.

    >>> w = 4, 8, 8, 4
    >>> chunk_tokens([(1, 8, 8, 4), w, (4, 8, 8, 1)], Path("left", (1, 1, 1)), 4, "cpu")
    96
    """
    return _chunk(_steps(shapes, path), itemsize, _machine(kind))


def _chunk(steps, itemsize, machine: Machine) -> int:
    """Tokens in a chunk.  A single step has no state to keep in the cache."""
    if len(steps) == 1:
        return 1 << 40
    widest = max([n * (m + k) * c for n, m, k, c in steps])
    return max(16, int(machine.chunk // (widest * itemsize)))


def _seconds(n, m, k, c, itemsize, machine: Machine) -> float:
    """Time of n products (m, k) (k, c): operations at the speed of their sizes, bytes, and
    calls."""
    if c == 1:
        n, m, k, c = 1, n, k, m
    halves = machine.half, machine.half, machine.half if n == 1 else machine.thin
    speed = machine.rate * math.prod(a / (a + h) for a, h in zip((m, k, c), halves)) * 4 / itemsize
    moved = n * (m + k) * c * itemsize
    return 2 * n * m * k * c / speed + moved / machine.bandwidth + machine.call + n * machine.each


@lru_cache(maxsize=4096)
def _all_plans(shapes, batch: int, itemsize: int, kind: str):
    """(plan, forward path, path of the gradient) for all of them, the fastest first."""
    machine, found = _machine(kind), []
    rows, columns = math.prod(s[1] for s in shapes), math.prod(s[2] for s in shapes)
    ends, dense, numel = batch * (rows + columns), rows * columns, sum(math.prod(s) for s in shapes)
    rebuilt = Path("left", (len(shapes),))
    costs = {path: _cost(shapes, path, batch, itemsize, machine) for path in paths(len(shapes))}
    for path, cost in costs.items():
        for backward in BACKWARDS:
            way = path if backward in ("autograd", "recompute") else rebuilt
            back = costs[way]
            flops = back.backward - (back.again if backward == "autograd" else 0)
            seconds = cost.seconds + back.back_seconds
            kept = cost.states * batch if backward == "autograd" else 0
            if backward == "autograd":
                peak = kept + cost.merged + (cost.widest + cost.spread) * batch
                seconds += 3 * cost.spread * batch * itemsize / machine.bandwidth
            elif len(way.groups) == 1:
                peak = max(2 * dense, cost.widest * min(batch, cost.tokens))
            else:
                peak = 2 * back.merged + (back.states + 2 * back.widest) * min(batch, back.tokens)
            if backward in ("full einsum", "full matrix"):  # nothing is shared between the cores
                flops += (len(shapes) - 1) * 2 * dense * max(s[0] for s in shapes)
            if backward == "full einsum":
                flops += (len(shapes) - 1) * 2 * batch * dense
                seconds += (len(shapes) - 1) * _seconds(1, rows, batch, columns, itemsize, machine)
            plan = Plan(
                str(path),
                backward,
                cost.forward,
                flops,
                kept * itemsize,
                (ends + peak + numel) * itemsize,
                seconds,
            )
            found.append((plan, path, way))
    return sorted(found, key=lambda f: (f[0].seconds, BACKWARDS[::-1].index(f[0].backward)))


class _Cost(NamedTuple):
    """Of a path: operations and seconds of y and of the gradients, and numbers per token."""

    forward: int
    again: int  # operations of making the states again
    backward: int
    seconds: float
    back_seconds: float
    states: int  # numbers per token in all states between the steps
    widest: int
    spread: int  # a core's gradient that autograd makes for each token before it sums
    merged: int  # numbers of the merged cores
    tokens: int


def _cost(shapes, path, batch, itemsize, machine) -> _Cost:
    merged, merging = _merged_shapes(shapes, path.groups)
    steps = _steps(shapes, path)
    tokens = min(batch, _chunk(steps, itemsize, machine))
    chunks = -(-batch // max(tokens, 1))
    flops = [2 * batch * n * m * k * c for n, m, k, c in steps]
    step = lambda n, m, k, c: chunks * _seconds(tokens * n, m, k, c, itemsize, machine)
    copied = lambda n, m, k, c: (
        0 if c == 1 else 2 * batch * n * (m + k) * (c + SHORT) * itemsize / machine.bandwidth
    )
    turned = lambda n, m, k, c: (
        chunks * _seconds(1, m, tokens * n * c, k, itemsize, machine) + copied(n, m, k, c)
    )
    forth, back = (
        sum(step(*s) for s in steps),
        sum(step(n, k, m, c) + turned(n, m, k, c) for n, m, k, c in steps),
    )
    again = sum(step(*s) for s in steps[:-1])
    numbers = sum(math.prod(s) for s in merged)
    merge_seconds = merging / machine.rate + (
        0 if max(path.groups) == 1 else 4 * numbers * itemsize / machine.bandwidth
    )
    return _Cost(
        sum(flops) + merging,
        sum(flops[:-1]) + merging,
        sum(flops[:-1]) + 2 * sum(flops) + 3 * merging,
        forth + merge_seconds,
        again + back + 3 * merge_seconds,
        sum(n * k * c for n, _, k, c in steps[1:]),
        max(n * max(m, k) * c for n, m, k, c in steps),
        max(n * (m * k if c > 1 else max(m, k)) for n, m, k, c in steps),
        numbers,
        tokens,
    )


@lru_cache(maxsize=4096)
def beats_dense(shapes, batch: int, itemsize: int, kind: str) -> bool:
    """Whether the best path through these cores is expected to take less than half the time of a
    product with the dense matrix; between half and whole the model may be wrong.

    >>> wide = (1, 32, 32, 2), (2, 32, 32, 1)
    >>> beats_dense(wide, 1024, 4, "cpu"), beats_dense(((1, 4, 4, 2), (2, 4, 4, 1)), 64, 4, "cpu")
    (True, False)
    """
    machine, d = _machine(kind), len(shapes)
    rows, columns = math.prod(s[1] for s in shapes), math.prod(s[2] for s in shapes)
    walks = (path for path in paths(d) if len(path.groups) > 1)
    best = min(
        (_cost(shapes, p, batch, itemsize, machine).seconds for p in walks), default=math.inf
    )
    return bool(2 * best < _seconds(1, rows, columns, batch, itemsize, machine))


@lru_cache(maxsize=4096)
def choose_plan(
    shapes, batch: int, itemsize: int, kind: str, strategy: str
) -> tuple[Path, str, Path]:
    """What `strategy` names, and the fastest for the rest: the forward path, the way to
    differentiate, and the path of the gradient.

    shapes: of the cores, (r_left, out, in, r_right) each, as tuples.
    batch: the number of tokens.
    itemsize: bytes of a number.
    kind: of the device, as `torch.device.type`.
    strategy: as in `propagate`.

    Raises ValueError for an unknown strategy.

    >>> choose_plan(((1, 4, 4, 2), (2, 4, 4, 1)), 8, 4, "cpu", "left")[1]
    'recompute'
    """
    named = [part.strip() for part in strategy.split(",")]
    known = {str(path): path for path in paths(len(shapes))}
    wrong = [part for part in named if part not in known and part not in (*BACKWARDS, "auto")]
    forward, backward = [p for p in named if p in known], [p for p in named if p in BACKWARDS]
    if wrong or len(forward) > 1 or len(backward) > 1:
        raise ValueError(
            f"propagate: needs auto, a path of {', '.join(known)}, a gradient of "
            f"{', '.join(BACKWARDS)}, or a path and a gradient with a comma between, got "
            f"{strategy!r}"
        )
    machine = _machine(kind)
    cost = {path: _cost(shapes, path, batch, itemsize, machine) for path in known.values()}
    path = known[forward[0]] if forward else min(cost, key=lambda p: cost[p].seconds)
    kind = backward[0] if backward else "recompute"
    if kind == "recompute":  # a forced path is walked both ways, otherwise each way has its own
        return path, kind, path if forward else min(cost, key=lambda p: cost[p].back_seconds)
    return path, kind, Path("left", (len(shapes),))
