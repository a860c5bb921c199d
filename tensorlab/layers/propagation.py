"""How a layer multiplies: the path through the cores of a TT-matrix, and what is kept for the
gradient [Chekalina2023].

A TT-matrix has many products. Neighboring cores may be merged first, all of them is w itself; then
the cores are taken from the left or from the right. `plans` says which way is the fastest; every
path is walked in chunks of tokens whose states stay in the cache.

No path permutes a state. From the left core k takes (batch O, r i, I) to (batch O, o q, I), from
the right (batch I, i q, O) to (batch I, r o, O), with O and I the products of the row and column
indices done and to come.

The gradient saves x and the cores and nothing else: the states of a chunk are made again. Autograd
saves every state.
"""

import math
from functools import reduce

import torch
from torch import Tensor

from ..capture import constant, tokens, watched
from ..formats.base import MatrixFormat
from ..formats.ttmatrix import TTMatrix
from .plans import Path, beats_dense, choose_plan, chunk_tokens

# columns of one product of the gradient of a core: more are slower, fewer are not faster
FOLD = 1 << 12


def propagate(weight: MatrixFormat, x: Tensor, strategy: str = "auto") -> Tensor:
    """y = w x on the last mode, (..., in) -> (..., out), by the plan that `strategy` names.

    strategy: "auto", the plan that `plans` expects to be fastest; or a path ("left", "right",
    "right 1+2", "rebuild"), a way to differentiate (`plans.BACKWARDS`), or both with a comma
    between, such as "right 1+2, recompute". What is left out is chosen. A second derivative goes by
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
        y = _by_autograd(forward, rows, weight.cores).narrow(1, 0, out)
    else:
        y = _Product.apply(forward, backward, way, out, rows, *weight.cores)
    return y.reshape(*x.shape[:-1], out)


def beats_its_dense(weight: MatrixFormat, batch: int) -> bool:
    """Whether a format multiplies a batch of this many tokens faster than its dense matrix would: a
    TT-matrix by the model of `plans`, any other where it needs less than half the operations.

    >>> from tensorlab import LowRank
    >>> [beats_its_dense(LowRank.randn((64, 64), r), 100) for r in (4, 24)]
    [True, False]
    """
    if not isinstance(weight, TTMatrix):
        return bool(2 * weight.flops(batch) < 2 * batch * math.prod(weight.shape))
    shapes = tuple(tuple(c.shape) for c in weight.cores)
    return beats_dense(shapes, batch, weight.dtype.itemsize, weight.device.type)


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
            t.select(2, 0),
            matrix.t(),
            **({} if out is None else dict(out=out.view(n, len(matrix)))),
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
    flat = lambda t, rows: t.transpose(0, 1).reshape(rows, len(t) * c)
    parts = (flat(gs, m) @ flat(ts, k).mH for gs, ts in zip(g.split(few), t.split(few)))
    return reduce(Tensor.add_, parts)


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
    x, shapes = tensors[0], [tuple(c.shape) for c in cores]
    most = chunk_tokens(shapes, path, x.element_size(), x.device.type)
    return zip(*(t.split(min(most, max(1, len(x)))) for t in tensors))


def _pad(x: Tensor, width: int) -> Tensor:
    return x if x.shape[1] == width else torch.nn.functional.pad(x, (0, width - x.shape[1]))


def _grouped(cores, path: Path):
    """The cores by the groups of a path."""
    ends = [sum(path.groups[: k + 1]) for k in range(len(path.groups))]
    return [cores[end - n : end] for end, n in zip(ends, path.groups)]


def _merge(cores) -> Tensor:
    """Neighboring cores as one: (r, o .. o', i .. i', q)."""
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
    sums: dict[int, Tensor] = {}
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
                sums[k] = sums[k].add_(step) if k in sums else step
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
    turn = 1 if path.start == "left" else -1
    grads = [
        _environments(group, _interleaved(group, sums.pop(k), path.start))
        for k, group in enumerate(_grouped(cores, path)[::turn])
    ]
    grads = [g for group in grads[::turn] for g in group]
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
    dy, grads = _pad(dy, out), _none(d)
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
    all_cores, grads = [a for k in range(d) for a in (cores[k].conj(), at[k])], _none(d)
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


def _none(d: int) -> list[Tensor | None]:
    """No gradient yet for each of d cores."""
    return [None] * d


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


@constant
def _chosen(*about) -> tuple[Path, str, Path]:
    return choose_plan(*about)


def _sum_dtype(dtype):
    """Sums over chunks of halves are in float32."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
