"""How a layer multiplies: the path through the cores of a TT-matrix, and what is kept for the
gradient [Chekalina2023].

A TT-matrix has many products. Neighbouring cores may be merged first, all of them is w itself; then
the cores are taken from the left or from the right. Few operations are not enough: a product of
skinny matrices runs at a tenth of the speed of a wide one, and states that leave the cache cost
more than their arithmetic. So every path is walked in chunks of tokens whose states stay in the
cache, and a plan is chosen by counted operations, each at the speed that its sizes allow, and
counted bytes.

No path permutes a state. From the left core k takes (batch O, r i, I) to (batch O, o q, I), from
the right (batch I, i q, O) to (batch I, r o, O), with O and I the products of the row and column
indices done and to come.

The gradient saves x and the cores and nothing else: the states of a chunk are made again. Autograd
saves every state.
"""

import math
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from ..capture import constant, tokens, watched
from ..formats.base import MatrixFormat
from ..formats.ttmatrix import TTMatrix

FOLD = (
    1 << 12
)  # columns of one product of the gradient of a core: more are slower, fewer are not faster
SHORT = 32  # numbers that a copy of short rows costs more for each row
BACKWARDS = ("autograd", "full einsum", "full matrix", "environment", "recompute")


class Machine(NamedTuple):
    """What the choice of a plan knows of a machine; for one in between, the order of the plans is
    what matters."""

    rate: float  # operations a second of a large product in float32
    half: float  # size of a side at which a product of matrices runs at half that speed
    bandwidth: float  # bytes a second
    call: float  # seconds to start an operation
    each: float  # seconds to start one matrix of a batched product
    chunk: int  # bytes of the states of one chunk of tokens


CPU = Machine(rate=140e9, half=6, bandwidth=8e9, call=8e-6, each=0.15e-6, chunk=3 << 19)
GPU = Machine(rate=40e12, half=48, bandwidth=3e12, call=10e-6, each=0.0, chunk=1 << 30)


class Path(NamedTuple):
    """Which neighbouring cores are merged, and from which end the merged ones are taken.

    >>> str(Path("left", (1, 1, 1))), str(Path("right", (1, 2))), str(Path("left", (3,)))
    ('left', 'right 1+2', 'rebuild')
    """

    start: str
    groups: tuple[int, ...]

    def __str__(self):
        if len(self.groups) == 1:
            return "rebuild"
        return (
            self.start
            if max(self.groups) == 1
            else f"{self.start} {'+'.join(map(str, self.groups))}"
        )


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


def propagate(weight: MatrixFormat, x: Tensor, strategy: str = "auto") -> Tensor:
    """y = w x on the last mode, (..., in) -> (..., out), by the plan that `strategy` names.

    strategy: "auto", the plan that `plans` expects to be fastest; or a path ("left", "right",
    "right 1+2", "rebuild"), a way to differentiate (`BACKWARDS`), or both with a comma between,
    such as "right 1+2, recompute". What is left out is chosen. A second derivative goes by
    autograd. Formats with one path multiply by their `apply`. Raises ValueError for an unknown
    strategy or an x that does not fit.

    >>> w = TTMatrix.randn(out=(4, 5), in_=(3, 2), rank=2)
    >>> x = torch.randn(7, 6)
    >>> torch.allclose(propagate(w, x, "left, recompute"), x @ w.to_dense().mT, atol=1e-5)
    True
    """
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"propagate: needs x of shape (..., {weight.shape[1]}), got {tuple(x.shape)}"
        )
    if not isinstance(weight, TTMatrix):
        if strategy != "auto":
            raise ValueError(
                f"propagate: needs strategy auto for a {type(weight).__name__}, which has one "
                f"path, got {strategy!r}"
            )
        return weight.apply(x)
    if (dtype := autocast_dtype(x)) is not None:
        weight, x = weight.to(dtype), x.to(dtype)
    if x.dtype != weight.dtype:
        raise ValueError(f"propagate: needs x of dtype {weight.dtype}, got {x.dtype}")
    rows, (out, _) = x.reshape(-1, x.shape[-1]), weight.shape
    shapes = tuple(tuple(map(int, c.shape)) for c in weight.cores)  # in a trace they are tensors
    forward, backward, way = _chosen(
        shapes, max(1, tokens(x)), x.dtype.itemsize, x.device.type, strategy
    )
    if watched(x) or backward == "autograd":
        y = _by_autograd(forward, rows, weight.cores)[:, :out]
    else:
        y = _Product.apply(forward, backward, way, out, rows, *weight.cores)
    return y.reshape(*x.shape[:-1], out)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype that autocast multiplies x in, None where it leaves x alone: where it is off, and
    for float64 and complex numbers.

    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     autocast_dtype(torch.ones(2)), autocast_dtype(torch.ones(2, dtype=torch.float64))
    (torch.bfloat16, None)
    """
    kind = x.device.type  # no autocast is there for meta, and not all versions trace the question
    on = not x.is_meta and torch.is_autocast_enabled(kind)
    cast = on and x.is_floating_point() and x.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if cast else None


# ----------------------------------------------------------------------------------------- the walk


def _matrices(cores, path: Path) -> tuple[list[Tensor], list[int]]:
    """The matrices of the steps of a path, in their order, and how many columns a state has in
    each."""
    merged = [_merge(group) for group in _grouped(cores, path)]
    if path.start == "left":
        matrices = [
            c.permute(1, 3, 0, 2).reshape(c.shape[1] * c.shape[3], -1) for c in merged
        ]  # (o q, r i)
        sizes = [c.shape[2] for c in merged]
        return matrices, [math.prod(sizes[k + 1 :]) for k in range(len(sizes))]
    matrices = [c.flatten(0, 1).flatten(1) for c in merged]  # (r o, i q)
    sizes = [c.shape[1] for c in merged]
    return matrices[::-1], [math.prod(sizes[k + 1 :]) for k in range(len(sizes))][::-1]


def _states(matrices, columns, x: Tensor, out: Tensor | None = None) -> list[Tensor]:
    """The states (n, side, columns) before each step, and the result, written to `out` if given. x:
    (batch, in)."""
    states = [x]
    for k, (matrix, c) in enumerate(zip(matrices, columns)):
        states[k] = states[k].reshape(-1, matrix.shape[1], c)
        states.append(_multiply(matrix, states[k], out if k == len(columns) - 1 else None))
    return states


def _multiply(matrix: Tensor, t: Tensor, out: Tensor | None = None) -> Tensor:
    """matrix @ t for each of n: (m, k), (n, k, c) -> (n, m, c); with one column it is one product,
    t matrixᵀ."""
    n, _, c = t.shape
    if c == 1:
        return torch.mm(
            t[:, :, 0], matrix.t(), **({} if out is None else dict(out=out.view(n, len(matrix))))
        ).unsqueeze(2)
    return torch.bmm(
        matrix.expand(n, -1, -1),
        t,
        **({} if out is None else dict(out=out.view(n, len(matrix), c))),
    )


def _outer(g: Tensor, t: Tensor) -> Tensor:
    """The sum of g tᴴ over n: (n, m, c), (n, k, c) -> (m, k), by products with the columns of a few
    n side by side."""
    (_, m, c), k = g.shape, t.shape[1]
    if c == 1:
        return g[:, :, 0].mT @ t[:, :, 0].conj()
    few = max(1, FOLD // c)
    total = None
    for gs, ts in zip(g.split(few), t.split(few)):
        part = (
            gs.transpose(0, 1).reshape(m, len(gs) * c)
            @ ts.transpose(0, 1).reshape(k, len(gs) * c).mH
        )
        total = part if total is None else total.add_(part)
    return total


class _Product(torch.autograd.Function):
    """y = w x by chunks of tokens.  What is saved is x and the cores."""

    @staticmethod
    def forward(path, backward, way, out, x, *cores):
        matrices, columns = _matrices(cores, path)
        rows, width = _whole(cores)
        whole = rows == out
        y = x.new_empty(len(x), out)
        for xs, ys in _chunks(cores, path, x, y):
            result = _states(matrices, columns, _pad(xs, width), ys if whole else None)[-1]
            if not whole:
                ys.copy_(result.reshape(len(xs), rows)[:, :out])
        return y

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.path, ctx.kind, ctx.way, _, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, dy):
        x, *cores = ctx.saved_tensors
        needed = ctx.needs_input_grad[4:]
        if torch.is_grad_enabled():  # the gradient is itself to be differentiated
            grads = _again(ctx.path, x, cores, dy, needed)
        elif ctx.kind == "full einsum":
            grads = _full_einsum(x, cores, dy, needed)
        elif ctx.kind == "full matrix":
            grads = _full_matrix(x, cores, dy, needed)
        else:
            grads = _recompute(ctx.way, x, cores, dy, needed)
        return None, None, None, None, *grads


def _chunks(cores, path, *tensors):
    """Pieces of the tensors, of as many tokens each as have their states in the cache."""
    x = tensors[0]
    tokens = _tokens(
        _steps([tuple(c.shape) for c in cores], path), x.element_size(), _machine(x.device.type)
    )
    return zip(*(t.split(min(tokens, max(1, len(x)))) for t in tensors))


def _pad(x: Tensor, width: int) -> Tensor:
    return x if x.shape[1] == width else torch.nn.functional.pad(x, (0, width - x.shape[1]))


def _grouped(cores, path: Path):
    """The cores by the groups of a path."""
    ends = [sum(path.groups[: k + 1]) for k in range(len(path.groups))]
    return [cores[end - n : end] for end, n in zip(ends, path.groups)]


def _merge(cores) -> Tensor:
    """Neighbouring cores as one: (r, o .. o', i .. i', q)."""
    if len(cores) == 1:
        return cores[0]
    p = _prefixes(cores)[-1]
    rows, columns = [c.shape[1] for c in cores], [c.shape[2] for c in cores]
    p = p.reshape(cores[0].shape[0], *(n for pair in zip(rows, columns) for n in pair), p.shape[1])
    p = p.permute(
        0, *range(1, 2 * len(cores), 2), *range(2, 2 * len(cores) + 1, 2), 2 * len(cores) + 1
    )
    return p.reshape(cores[0].shape[0], math.prod(rows), math.prod(columns), cores[-1].shape[3])


def _prefixes(cores) -> list[Tensor]:
    """G_0, G_0 G_1, ... as matrices (r n_0 n_1 .., q), with n_k = out_k in_k."""
    products = [cores[0].reshape(-1, cores[0].shape[3])]
    for core in cores[1:]:
        products.append((products[-1] @ core.flatten(1)).reshape(-1, core.shape[3]))
    return products


# ---------------------------------------------------------------------------------------- gradients


def _recompute(path: Path, x, cores, dy, needed):
    """Walk each chunk of tokens forth again and back. On the path "rebuild" this is the method of
    environments."""
    wanted, (out, width) = any(needed[1:]), _whole(cores)
    matrices, columns = _matrices(cores, path)
    sums = [None] * len(matrices)
    dx = torch.empty_like(x) if needed[0] else None
    tensors = (x, dy) if dx is None else (x, dy, dx)
    for xs, g, *ds in _chunks(cores, path, *tensors):
        last = len(matrices) - 1 if wanted else 0
        states = _states(matrices[:last], columns, _pad(xs, width))
        states[last] = states[last].reshape(-1, matrices[last].shape[1], columns[last])
        g = _pad(g, out)
        for k in range(len(matrices) - 1, -1, -1):
            g = g.reshape(-1, len(matrices[k]), columns[k])
            if wanted:
                step = _outer(g, states.pop()).to(_sum_dtype(x.dtype))
                sums[k] = step if sums[k] is None else sums[k].add_(step)
                del step
            if k:
                g = _multiply(matrices[k].mH, g)
            elif ds and width == x.shape[1]:
                _multiply(matrices[k].mH, g, ds[0])
            elif ds:
                ds[0].copy_(_multiply(matrices[k].mH, g).reshape(len(xs), width)[:, : x.shape[1]])
    del matrices
    if not wanted:
        return [dx, *[None] * len(cores)]
    grads = []
    for group in _grouped(cores, path) if path.start == "left" else _grouped(cores, path)[::-1]:
        grads.append(_environments(group, _interleaved(group, sums.pop(0), path.start)))
    grads = [g for group in (grads if path.start == "left" else grads[::-1]) for g in group]
    return [dx, *(g.to(c.dtype) if need else None for g, c, need in zip(grads, cores, needed[1:]))]


def _interleaved(cores, g: Tensor, start: str) -> Tensor:
    """The gradient of the matrix of a merged core with its indices in the order of the cores, (r,
    o_0, i_0, o_1, .., q)."""
    d, r, q = len(cores), cores[0].shape[0], cores[-1].shape[3]
    rows, columns = [c.shape[1] for c in cores], [c.shape[2] for c in cores]
    if start == "left":
        g = g.reshape(math.prod(rows), q, r, -1).permute(2, 0, 3, 1)
    g = g.reshape(r, *rows, *columns, q)
    return g.permute(0, *(a for k in range(d) for a in (1 + k, 1 + d + k)), 2 * d + 1).contiguous()


def _environments(cores, g: Tensor) -> list[Tensor]:
    """From the gradient of a product of cores those of the cores: prefix products, and one sweep
    back over the others."""
    before, grads = _prefixes(cores[:-1]) if len(cores) > 1 else [], []
    for k in range(len(cores) - 1, 0, -1):
        core = cores[k].flatten(1).to(g.dtype)
        g = g.reshape(-1, core.shape[1])
        grads.append((before[k - 1].to(g.dtype).mH @ g).reshape(cores[k].shape))
        g = g @ core.mH
    return [g.reshape(cores[0].shape), *grads[::-1]]


def _full_matrix(x, cores, dy, needed):
    """The batch is contracted first, dw = dyᵀ x; then each core is one einsum of dw and the other
    cores."""
    d, out, width = len(cores), *_whole(cores)
    dy, grads = _pad(dy, out), [None] * len(cores)
    dx = (dy @ _merge(cores)[0, :, :, 0].conj())[:, : x.shape[1]] if needed[0] else None
    if any(needed[1:]):
        dw = _interleaved(cores, dy.mT @ _pad(x, width).conj(), "left").reshape(
            [c.shape[1] * c.shape[2] for c in cores]
        )
        at = [(d + k, k, d + k + 1) for k in range(d)]
        for k in (k for k in range(d) if needed[1 + k]):
            others = [a for j in range(d) if j != k for a in (cores[j].flatten(1, 2).conj(), at[j])]
            grads[k] = torch.einsum(
                dw, range(d), *others, *_ends(dw, d, 2 * d, k, d), at[k]
            ).reshape(cores[k].shape)
    return [dx, *grads]


def _full_einsum(x, cores, dy, needed):
    """One einsum of x, dy and the other cores for each gradient, nothing shared; the order is that
    of `torch.einsum`."""
    d, out, width = len(cores), *_whole(cores)
    rows, columns, batch = range(d), range(d, 2 * d), 3 * d + 1
    xs = _pad(x, width).conj().reshape(len(x), *(c.shape[2] for c in cores))
    g = _pad(dy, out).reshape(len(x), *(c.shape[1] for c in cores))
    at = [(2 * d + k, rows[k], columns[k], 2 * d + k + 1) for k in range(d)]
    all_cores, grads = [a for k in range(d) for a in (cores[k].conj(), at[k])], [None] * d
    dx = None
    if needed[0]:
        dx = torch.einsum(g, (batch, *rows), *all_cores, (batch, *columns)).reshape(len(x), width)[
            :, : x.shape[1]
        ]
    for k in (k for k in range(d) if needed[1 + k]):
        others = all_cores[: 2 * k] + all_cores[2 * k + 2 :]
        grads[k] = torch.einsum(
            xs, (batch, *columns), g, (batch, *rows), *others, *_ends(x, 2 * d, 3 * d, k, d), at[k]
        )
    return [dx, *grads]


def _ends(like, first, last, k, d):
    """The bonds of size 1 that core k alone would have: of the first core the left, of the last the
    right."""
    one = like.new_ones(1)
    return [*([one, (first,)] if k == 0 else []), *([one, (last,)] if k == d - 1 else [])]


def _again(path, x, cores, dy, needed):
    """The gradients by autograd, so that they can be differentiated too."""
    inputs = [t for t, need in zip((x, *cores), needed) if need]
    y = _by_autograd(path, x, cores)[:, : dy.shape[1]]
    found = iter(torch.autograd.grad(y, inputs, dy, create_graph=True))
    return [next(found) if need else None for need in needed]


def _by_autograd(path, x, cores):
    out, width = _whole(cores)
    return _states(*_matrices(cores, path), _pad(x, width))[-1].reshape(-1, out)


def _whole(cores) -> tuple[int, int]:
    """(out, in) with padding."""
    return math.prod([c.shape[1] for c in cores]), math.prod([c.shape[2] for c in cores])


def _sum_dtype(dtype):
    """Sums over chunks of halves are in float32."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


# --------------------------------------------------------------------------------------- the choice


def plans(weight: TTMatrix, batch: int) -> list[Plan]:
    """Every plan for a batch of this many tokens, the one expected to be fastest first.

    >>> len(plans(TTMatrix.randn(out=(4, 5), in_=(3, 2), rank=2), batch=64))
    15
    """
    shapes = tuple(tuple(c.shape) for c in weight.cores)
    kinds = _all_plans(shapes, batch, weight.dtype.itemsize, weight.device.type)
    return [plan for plan, *_ in kinds]


def paths(d: int) -> list[Path]:
    """All ways to merge neighbours of d cores, each from both ends; of more than eight cores only
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


def _tokens(steps, itemsize, machine: Machine) -> int:
    """Tokens in a chunk.  A single step has no state to keep in the cache."""
    if len(steps) == 1:
        return 1 << 40
    widest = max([n * (m + k) * c for n, m, k, c in steps])
    return max(16, machine.chunk // (widest * itemsize))


def _seconds(n, m, k, c, itemsize, machine: Machine) -> float:
    """Time of n products (m, k) (k, c): operations at the speed of their sizes, bytes, and
    calls."""
    if c == 1:
        n, m, k, c = 1, n, k, m
    speed = machine.rate * math.prod(a / (a + machine.half) for a in (m, k, c)) * 4 / itemsize
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
    tokens = min(batch, _tokens(steps, itemsize, machine))
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


@constant
def _chosen(*about) -> tuple[Path, str, Path]:
    return _choose(*about)


@lru_cache(maxsize=4096)
def _choose(shapes, batch: int, itemsize: int, kind: str, strategy: str) -> tuple[Path, str, Path]:
    """The forward path, the way to differentiate, and the path of the gradient."""
    named = [part.strip() for part in strategy.split(",")]
    known = {str(path): path for path in paths(len(shapes))}
    wrong = [part for part in named if part not in known and part not in (*BACKWARDS, "auto")]
    forward, backward = [p for p in named if p in known], [p for p in named if p in BACKWARDS]
    if wrong or len(forward) > 1 or len(backward) > 1:
        raise ValueError(
            f"propagate: needs auto, a path of {', '.join(known)}, a gradient of "
            f"{', '.join(BACKWARDS)}, or a path and a "
            f"gradient with a comma between, got {strategy!r}"
        )
    machine = _machine(kind)
    cost = {path: _cost(shapes, path, batch, itemsize, machine) for path in known.values()}
    path = known[forward[0]] if forward else min(cost, key=lambda p: cost[p].seconds)
    kind = backward[0] if backward else "recompute"
    if kind == "recompute":  # a forced path is walked both ways, otherwise each way has its own
        return path, kind, path if forward else min(cost, key=lambda p: cost[p].back_seconds)
    return path, kind, Path("left", (len(shapes),))
