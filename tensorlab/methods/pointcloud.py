"""TT point clouds: n points of R^D as the rows, in any order, of a train of shape (n_1, ..., n_d,
D).

    cloud[i_1 ... i_d] = G_1[i_1] ... G_d[i_d] G_D,        n = n_1 ... n_d

Two ways to forget the order: losses that do not see it, the sliced Wasserstein distance
[Bonneel2015] and the distance to nearest neighbors [Fan2017], or a permutation P sought together
with the train, TT ≈ P A.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import clusters
from ..arguments import check_shape, count, number, one_of, rank_caps
from ..fit import Fit
from ..formats.tt import TT, tt_svd
from ..linalg import check_dense, dense_norm, norm, right_basis, safe_scale, widen
from ..multilinear import digit_shape
from ..rng import check_generator, randn

# ----------------------------------------------------------------- losses that do not see the order


def wasserstein(x: Tensor, y: Tensor, p: float = 2) -> Tensor:
    """W_p^p of the points on a line in each column, by sorting: the mean of |x_(i) - y_(i)|^p.

    x: (n, l), y: (m, l) -> (l,). For n != m the two quantile functions, constant between multiples
    of 1/n and of 1/m, are compared exactly. Raises ValueError if p < 1, where sorting is not the
    best match.

    >>> wasserstein(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [1.0]]))
    tensor([1.])
    """
    x, y = _clouds("wasserstein", x, y)
    number("wasserstein", "p", p, 1)
    return _wasserstein(x, y, p)


def sliced_wasserstein(
    x: Tensor, y: Tensor, directions: int | Tensor = 64, *, generator=None
) -> Tensor:
    """Mean of W_2^2 over projections onto unit directions, times D so that a shift by t counts
    |t|^2 [Bonneel2015].

        D mean_u W_2^2(x u, y u)

    x: (n, D), y: (m, D). directions: how many random ones, or the directions themselves as columns
    (D, l).

    >>> x = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    >>> sliced_wasserstein(x, x.flip(0) + 1, torch.eye(2))
    tensor(2.)
    """
    who = "sliced_wasserstein"
    x, y = _clouds(who, x, y)
    if not isinstance(directions, Tensor):
        count(who, "directions", directions, 1)
    elif directions.ndim != 2 or len(directions) != x.shape[1] or not directions.numel():
        raise ValueError(
            f"{who}: needs directions as columns (D, l) with D = {x.shape[1]}, got shape "
            f"{tuple(directions.shape)}"
        )
    return _sliced(x, y, directions, generator)


def nearest(x: Tensor, y: Tensor) -> Tensor:
    """Number of the row of y that is nearest to each row of x. x: (n, D), y: (m, D) -> (n,).

    As `clusters.nearest`, checked. Raises ValueError for NaN and if y has no rows.

    >>> nearest(torch.tensor([[0.0], [5.0]]), torch.tensor([[4.0], [1.0]]))
    tensor([1, 0])
    """
    x, y = _clouds("nearest", x, y, empty=True)
    for cloud in (x, y) if len(x) else (y,):
        check_dense(cloud, "nearest")
    return clusters.nearest(x, y)


def chamfer(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared distance to the nearest neighbor, both ways [Fan2017].

        mean_i min_j |x_i - y_j|^2 + mean_j min_i |x_i - y_j|^2

    x: (n, D), y: (m, D). Differentiable for fixed neighbors, which is where the distance is.

    >>> chamfer(torch.tensor([[0.0], [5.0]]), torch.tensor([[4.0], [1.0], [0.0]]))
    tensor(1.1667)
    """
    return _chamfer(*_clouds("chamfer", x, y))


def distortion(x: Tensor, y: Tensor) -> Tensor:
    """mean_i min_j |x_i - y_j|^2, what k-means makes small. x: (n, D), y: (m, D).

    >>> distortion(torch.tensor([[0.0], [5.0]]), torch.tensor([[4.0], [1.0], [0.0]]))
    tensor(0.5000)
    """
    return _distortion(*_clouds("distortion", x, y))


def _wasserstein(x, y, p=2):
    n, m = len(x), len(y)
    x, y = x.sort(0).values, y.sort(0).values
    if n == m:
        return (x - y).abs().pow(p).mean(0)
    steps = (torch.arange(1, a + 1, device=x.device) * b for a, b in ((n, m), (m, n)))
    levels = torch.cat(list(steps)).unique()  # in units of 1 / (n m)
    mass = torch.diff(levels, prepend=levels.new_zeros(1)).to(x) / (n * m)
    i, j = (levels - 1) // m, (levels - 1) // n
    return (mass[:, None] * (x[i] - y[j]).abs().pow(p)).sum(0)


def _sliced(x, y, directions, generator):
    if not isinstance(directions, Tensor):
        directions = randn(
            x.shape[1], directions, generator=generator, dtype=x.dtype, device=x.device
        )
        directions = directions / torch.linalg.vector_norm(directions, dim=0)
    directions = directions.to(x)
    return x.shape[1] * _wasserstein(x @ directions, y @ directions).mean()


def _distortion(x, y):
    return (x - y[clusters.nearest(x, y)]).square().sum(1).mean()


def _chamfer(x, y):
    return _distortion(x, y) + _distortion(y, x)


# ----------------------------------------------------------------------------- the train of a cloud


def rows(tt: TT) -> Tensor:
    """The points of a train, (n_1 ... n_d, D).

    >>> rows(TT.randn((4, 5, 2), rank=3)).shape
    torch.Size([20, 2])
    """
    _cloud_train("rows", tt)
    return tt.to_dense().reshape(-1, tt.shape[-1])


def centers(tt: TT) -> list[Tensor]:
    """The hierarchy of a train: for k = 1, ..., d the mean of all points whose first k indices
    agree, (n_1 ... n_k, D).

    >>> [c.shape[0] for c in centers(TT.randn((4, 5, 2), rank=3))]
    [4, 20]
    """
    _cloud_train("centers", tt)
    out, left = [], tt.cores[0].new_ones(1, 1)
    for core, right in zip(tt.cores[:-1], _tails(tt)):
        left = (left @ core.flatten(1)).reshape(-1, core.shape[2])
        out.append(left @ right)
    return out


def tt_nearest(tt: TT, queries: Tensor, beam: int = 8) -> tuple[Tensor, Tensor]:
    """Beam search for the point of a train that is nearest to each query, one index after another.

    queries: (q, D) -> multi-indices (q, d) and squared distances (q,). Of all prefixes i_1 ... i_k
    the `beam` whose centers (`centers`) are nearest are kept: q beam n_k r (r + D) operations for
    each index, where a search of all points costs q n_1 ... n_d D. Exact when beam >= n_1 ...
    n_{d-1}; else as good as prefixes are clusters.

    >>> tt = tt_svd(torch.arange(12.0).reshape(3, 4, 1), 2)
    >>> tt_nearest(tt, torch.tensor([[6.2]]))[0]
    tensor([[1, 2]])
    """
    who = "tt_nearest"
    _cloud_train(who, tt)
    count(who, "beam", beam, 1)
    if not isinstance(queries, Tensor) or not queries.is_floating_point():
        raise TypeError(f"{who}: needs queries of floating-point numbers, got {_kind(queries)}")
    if queries.ndim != 2 or queries.shape[1] != tt.shape[-1]:
        raise ValueError(
            f"{who}: needs queries of shape (q, {tt.shape[-1]}), got {tuple(queries.shape)}"
        )
    q, largest = len(queries), float(tt.norm())
    if q:
        largest = max(largest, dense_norm(queries, who))
    dtype = torch.promote_types(tt.dtype, queries.dtype)
    wider, unit = torch.promote_types(dtype, torch.float32), _unit(largest)
    queries, tt = queries.to(wider) * unit, tt.to(wider).scale(unit)
    state = queries.new_ones(q, 1, 1)
    index = torch.zeros(q, 1, 0, dtype=torch.long, device=queries.device)
    for core, right in zip(tt.cores[:-1], _tails(tt)):
        r, n, s = core.shape
        state = (state @ core.reshape(r, -1)).reshape(q, state.shape[1] * n, s)  # (q, beam n, s)
        far = (state @ right - queries[:, None]).square().sum(2)
        new = torch.arange(n, device=queries.device).expand(q, index.shape[1], n)
        index = index[:, :, None].expand(-1, -1, n, -1)
        index = torch.cat([index, new[..., None]], 3).flatten(1, 2)
        far, best = far.topk(min(beam, far.shape[1]), 1, largest=False)
        state, index = _pick(state, best), _pick(index, best)
    return index[:, 0], (far[:, 0] / unit / unit).to(dtype)


def cluster_order(points: Tensor, shape) -> Tensor:
    """An order in which all points with the same first indices lie together: halves of halves along
    principal directions.

    points: (n, D), shape: (n_1, ..., n_d) with product n -> (n,), a permutation. Each index is
    split by its prime factors. Raises ValueError for NaN and for another number of points.

    >>> order = cluster_order(torch.tensor([[0.0], [9.0], [1.0], [8.0]]), (2, 2))
    >>> order.reshape(2, 2).sort(1).values.tolist()
    [[0, 2], [1, 3]]
    """
    size = _size("cluster_order", points)
    shape = _shape("cluster_order", points, shape)
    points = widen(points.detach()) * _unit(size)

    def split(index, parts):
        if len(index) == 1 or not parts:
            return index
        x = points[index]
        direction = x[1] - x[0] if len(index) == 2 else right_basis(x - x.mean(0), 1)[0][:, 0]
        direction = direction * direction[direction.abs().argmax()].sign()  # the same way in all
        index = index[torch.argsort(x @ direction, stable=True)]
        return torch.cat([split(part, parts[1:]) for part in index.chunk(parts[0])])

    return split(torch.arange(len(points), device=points.device), digit_shape(shape))


def tt_cloud(
    points: Tensor,
    shape,
    rank,
    *,
    wasserstein: float = 1.0,
    neighbors: float = 1.0,
    hierarchy: float = 0.1,
    steps: int = 300,
    lr: float = 0.02,
    directions: int = 32,
    batch: int = 2048,
    init: str = "clusters",
    generator: torch.Generator | None = None,
) -> Fit[TT]:
    """A train whose rows, in any order, are a cloud like the points; Adam on its cores.

        wasserstein * sliced_wasserstein + neighbors * chamfer
        + hierarchy * mean_k distortion(points, centers_k)

    points: (n, D).
    shape: (n_1, ..., n_d), of any product.
    rank: one integer for all bonds, or one for each.
    wasserstein, neighbors, hierarchy: the weights of the losses; the last makes prefixes clusters,
        so that `tt_nearest` finds its way.
    steps: of Adam.
    lr: its rate.
    directions: lines of the sliced distance, drawn anew at each step.
    batch: how many points a step takes, and as many rows of the train.
    init: "clusters", the TT-SVD of points in `cluster_order`, or "random".
    generator: draws the start, directions and batches; None: torch's global one.

    history holds the loss in units of the points' variance.

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(64, 2, generator=g)
    >>> fit = tt_cloud(x, (4, 4, 4), 3, steps=30, generator=g)
    >>> fit.value.shape, fit.history[-1] < fit.history[0]
    ((4, 4, 4, 2), True)
    """
    settings = dict(wasserstein=wasserstein, neighbors=neighbors, hierarchy=hierarchy)
    settings |= dict(steps=steps, lr=lr, directions=directions, batch=batch, init=init)
    path = tt_cloud_steps(points, shape, rank, **settings, generator=generator)
    values, history = zip(*path)
    return Fit(values[-1], history, False)


def tt_cloud_steps(
    points: Tensor,
    shape,
    rank,
    *,
    wasserstein: float = 1.0,
    neighbors: float = 1.0,
    hierarchy: float = 0.1,
    steps: int = 300,
    lr: float = 0.02,
    directions: int = 32,
    batch: int = 2048,
    init: str = "clusters",
    generator: torch.Generator | None = None,
):
    """`tt_cloud` step by step: yields the train and its loss, beginning with the start.

    points, shape, rank: as in `tt_cloud`.
    wasserstein, neighbors, hierarchy: as in `tt_cloud`.
    steps, lr, directions, batch: as in `tt_cloud`.
    init, generator: as in `tt_cloud`.

    >>> x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    >>> len(list(tt_cloud_steps(x, (2, 4), 2, steps=3)))
    4
    """
    who = "tt_cloud"
    size, shape = _size(who, points), check_shape(who, shape)
    weights = dict(wasserstein=wasserstein, neighbors=neighbors, hierarchy=hierarchy)
    for name, value in (weights | dict(lr=lr)).items():
        number(who, name, value)
    for name, value in dict(directions=directions, batch=batch).items():
        count(who, name, value, 1)
    count(who, "steps", steps, 0)
    one_of(who, "init", init, ("clusters", "random"))
    if not (wasserstein or neighbors or (hierarchy and len(shape) > 1)):
        raise ValueError(f"{who}: needs a loss with a weight, got {weights}")
    caps = rank_caps(who, rank, None, (*shape, points.shape[1]), len(shape))
    unit, dtype = _unit(size), points.dtype
    target = points.detach().to(torch.promote_types(dtype, torch.float32)) * unit
    scale = _deviation(target)  # so that the loss counts in variances
    target = target / scale

    def loss(tt):
        levels = centers(tt)
        x, y = _sample(target, batch, generator), _sample(levels[-1], batch, generator)
        value = target.new_zeros(())
        if wasserstein:
            value = value + wasserstein * _sliced(x, y, directions, generator)
        if neighbors:
            value = value + neighbors * _chamfer(x, y)
        if hierarchy and levels[:-1]:
            means = [_distortion(x, c) for c in levels[:-1]]
            value = value + hierarchy * sum(means) / len(means)
        return value

    path = _descent(_start(target, shape, caps, init, generator), loss, steps, lr)
    return ((tt.scale(scale / unit).to(dtype), value) for tt, value in path)


def _descent(tt: TT, loss, steps, lr):
    """Adam on the cores, each at a rate in units of its entries that falls to 0: trains and their
    losses."""
    cores = [core.detach().clone().requires_grad_() for core in tt.cores]
    sizes = [float(core.detach().square().mean().sqrt()) for core in cores]
    optimizer = torch.optim.Adam([dict(params=[c], lr=lr * size) for c, size in zip(cores, sizes)])
    for step in range(steps + 1):
        value = loss(TT(tuple(cores)))
        yield TT(tuple(core.detach() for core in cores)), float(value.detach())
        if step < steps:
            for group, size in zip(optimizer.param_groups, sizes):
                group["lr"] = lr * size * (1 - step / steps)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()


# ---------------------------------------------------------------------------------- the permutation


class Permuted(NamedTuple):
    """points[order] ≈ the rows of tt; `restored` has them in the order of the points."""

    tt: TT
    order: Tensor

    def restored(self) -> Tensor:
        """The points as the train has them, in their own order: Pᵀ TT, (n, D)."""
        x = rows(self.tt)
        return torch.empty_like(x).index_copy(0, self.order, x)


def tt_permute(
    points: Tensor,
    shape,
    rank,
    *,
    max_iter: int = 20,
    block: int = 512,
    tol: float = 1e-4,
    order=None,
    generator: torch.Generator | None = None,
) -> Fit[Permuted]:
    """A train and a permutation with TT ≈ P A, each in turn the better for the other.

        minimize |points[order] - rows(tt)|_F

    points: (n, D).
    shape: (n_1, ..., n_d) with product n.
    rank: one integer for all bonds, or one for each.
    max_iter: the most iterations.
    block: the permutation is an exact assignment [Kuhn1955] within blocks of so many rows, drawn
        anew each time; of all rows when n <= block.
    tol: it ends when the error falls by less than this share of itself.
    order: where to start; None: `cluster_order`.
    generator: draws the blocks; None: torch's global one.

    The train is found by TT-SVD, or where it is no better by a sweep of least squares from the last
    one. Neither step can raise the error; history holds it relative to |points|, after each train.

    >>> x = torch.randperm(8, generator=torch.Generator().manual_seed(0)).double()[:, None]
    >>> fit = tt_permute(x, (2, 2, 2), (2, 2, 1))
    >>> torch.dist(fit.value.restored(), x) < 1e-12
    tensor(True)
    """
    who = "tt_permute"
    check_generator(who, generator)
    size = _size(who, points)
    shape, n = _shape(who, points, shape), len(points)
    full = (*shape, points.shape[1])
    caps = rank_caps(who, rank, None, full, len(shape))
    max_iter, block = count(who, "max_iter", max_iter, 1), count(who, "block", block, 1)
    order = cluster_order(points, shape) if order is None else torch.as_tensor(order)
    if sorted(order.tolist()) != list(range(n)):
        raise ValueError(
            f"{who}: needs an order of the {n} points, got one of shape {tuple(order.shape)}"
        )
    unit, order = safe_scale(size), order.to(points.device, torch.int64)
    points = points.detach() * unit
    tt, history, converged = None, [], False
    for _ in range(max_iter):
        if tt is not None:
            order = _assign(points, rows(tt), order, block, generator)
        x = points[order].reshape(full)
        tried = [tt_svd(x, caps)] if tt is None else [tt_svd(x, caps), _sweep(x, tt)]
        errors = [float(norm(t.to_dense() - x)) / (size * unit or 1.0) for t in tried]
        error = min(errors)
        tt = tried[errors.index(error)]
        history.append(error)
        if len(history) > 1 and history[-2] - error <= tol * error:
            converged = True
            break
    return Fit(Permuted(tt.scale(1 / unit), order), tuple(history), converged)


def assignment(cost: Tensor) -> Tensor:
    """The column of each row such that every column is taken once and the costs add up to the least
    [Kuhn1955].

    cost: (n, n) -> (n,). Shortest augmenting paths with potentials u, v: cost - u - v >= 0, and = 0
    where assigned. At most n^3 operations, in NumPy, in float64. Raises ValueError for NaN, Inf and
    other shapes, TypeError for integers and complex costs.

    >>> assignment(torch.tensor([[4.0, 1.0, 3.0], [2.0, 0.0, 5.0], [3.0, 2.0, 2.0]]))
    tensor([1, 0, 2])
    """
    size = dense_norm(cost, "assignment")
    if cost.is_complex():
        raise TypeError(f"assignment: needs real costs, got {cost.dtype}")
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1]:
        raise ValueError(
            f"assignment: needs a square matrix of costs, got shape {tuple(cost.shape)}"
        )
    c = cost.detach().double().cpu().numpy() * _unit(size)
    n = len(c)
    u = c.min(1)
    v = (c - u[:, None]).min(0)
    row, column = np.full(n, -1), np.full(n, -1)  # the row of each column, the column of each row
    for i, j in zip(*np.nonzero(c - u[:, None] - v <= 0)):
        if row[j] < 0 and column[i] < 0:
            row[j], column[i] = i, j
    for free in np.flatnonzero(column < 0):
        far, before = c[free] - u[free] - v, np.full(n, free)
        done = np.zeros(n, dtype=bool)
        while True:  # Dijkstra, from the free row to the nearest free column
            j = int(np.where(done, np.inf, far).argmin())
            if row[j] < 0:
                break
            done[j], i = True, row[j]
            through = far[j] + c[i] - u[i] - v
            shorter = ~done & (through < far)
            far[shorter], before[shorter] = through[shorter], i
        u[free] += far[j]
        u[row[done]] += far[j] - far[done]
        v[done] -= far[j] - far[done]
        i = -1
        while i != free:  # turn the path around
            i = before[j]
            row[j] = i
            column[i], j = j, column[i]
    return torch.as_tensor(column, device=cost.device)


# -------------------------------------------------------------------- what a train is compared with


def coreset(points: Tensor, k: int) -> Tensor:
    """Numbers of k points that cover all: each the farthest from those before, at most twice the
    best radius [Gonzalez1985].

    points: (n, D) -> (k,). The first is the one farthest from the mean. Raises ValueError for NaN
    and for k beyond 1..n.

    >>> coreset(torch.tensor([[0.0], [1.0], [9.0], [10.0]]), 2)
    tensor([0, 3])
    """
    unit = _unit(_size("coreset", points))
    k = count("coreset", "k", k, 1, len(points))
    points = widen(points.detach()) * unit
    far = (points - points.mean(0)).square().sum(1)
    chosen = []
    for step in range(k):
        chosen.append(int(far.argmax()))
        new = (points - points[chosen[-1]]).square().sum(1)
        far = new if step == 0 else torch.minimum(far, new)
    return torch.tensor(chosen, device=points.device)


# ------------------------------------------------------------------------------------------ helpers


def _kind(x):
    return f"a tensor of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__


def _clouds(who, x, y, empty=False):
    """Two clouds in one dtype; `empty`: the first may have no points."""
    for cloud in (x, y):
        if not isinstance(cloud, Tensor) or not cloud.is_floating_point():
            raise TypeError(f"{who}: needs clouds of real floating numbers, got {_kind(cloud)}")
    shapes = f"got shapes {tuple(x.shape)} and {tuple(y.shape)}"
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"{who}: needs clouds (n, D) and (m, D), {shapes}")
    if not y.numel() or not (x.numel() or empty):
        raise ValueError(f"{who}: needs clouds with points, {shapes}")
    dtype = torch.promote_types(x.dtype, y.dtype)
    return x.to(dtype), y.to(dtype)


def _size(who, points) -> float:
    """The norm of a cloud, which is checked."""
    clusters.check_points(who, points)
    return float(norm(points))


def _shape(who, points, shape):
    shape = check_shape(who, shape)
    if math.prod(shape) != len(points):
        raise ValueError(
            f"{who}: needs points (n, D) with n the product of {shape}, got shape "
            f"{tuple(points.shape)}"
        )
    return shape


def _cloud_train(who, tt):
    if not isinstance(tt, TT) or tt.ndim < 2:
        got = repr(tt) if isinstance(tt, TT) else _kind(tt)
        raise TypeError(
            f"{who}: needs a TT of at least two modes, the last of them coordinates, got {got}"
        )


def _unit(size: float) -> float:
    """A power of two that brings numbers of this size near 1, so that they can be squared in
    float32, too; it rounds nothing."""
    return math.ldexp(1.0, min(max(-math.frexp(size)[1], -1022), 1022)) if size else 1.0


def _deviation(points):
    """The root mean square of the distances from the mean; of points that are all equal their size,
    or 1."""
    spread, size = (norm(x) / len(x) ** 0.5 for x in (points - points.mean(0), points))
    if spread > 8 * torch.finfo(points.dtype).eps * size:
        return spread.to(points)
    return (size if size > 0 else torch.ones_like(size)).to(points)


def _tails(tt):
    """What is right of each of the first d cores, averaged over its indices: (r_k, D)."""
    tails = [tt.cores[-1][:, :, 0]]
    for core in reversed(tt.cores[1:-1]):
        tails.insert(0, core.mean(1) @ tails[0])
    return tails


def _pick(x, best):
    """x: (q, many, s), best: (q, few)  ->  (q, few, s)."""
    return x.gather(1, best[:, :, None].expand(-1, -1, x.shape[2]))


def _sample(x, batch, generator):
    if len(x) <= batch:
        return x
    source = generator.device if generator is not None else None
    return x[torch.randperm(len(x), generator=generator, device=source)[:batch].to(x.device)]


def _start(target, shape, caps, init, generator):
    if init == "random":
        return TT.randn(
            (*shape, target.shape[1]),
            caps,
            generator=generator,
            dtype=target.dtype,
            device=target.device,
        ).scale(0.5)
    n = math.prod(shape)
    even = (
        torch.arange(n, device=target.device) * len(target) // n
    )  # each point as often as another, or nearly
    chosen = target[even]
    return tt_svd(chosen[cluster_order(chosen, shape)].reshape(*shape, -1), caps)


def _assign(points, cloud, order, block, generator):
    """A better order for a cloud: within each of random blocks of places, the points there are
    dealt out anew."""
    source = generator.device if generator is not None else None
    places = torch.randperm(len(order), generator=generator, device=source).to(order.device)
    order = order.clone()
    mean = widen(points).mean(0)
    for part in places.split(block):
        x, y = widen(points[order[part]]) - mean, widen(cloud[part]) - mean
        order[part] = order[part][assignment(-(y @ x.mT))]  # |y - x|^2 without what any order adds
    return order


def _sweep(x, tt):
    """Each core in turn the best for the others, along the train and back; the error never
    rises."""
    d = tt.ndim
    for k in [*range(d), *range(d - 2, -1, -1)]:
        tt = tt.orthogonal(k)
        left, right = x.new_ones(1, 1), x.new_ones(1, 1)
        for core in tt.cores[:k]:
            left = (left @ core.flatten(1)).reshape(
                -1, core.shape[2]
            )  # (n_0 ... n_{k-1}, r_k), orthonormal columns
        for core in tt.cores[:k:-1]:
            right = (core.flatten(0, 1) @ right).reshape(
                core.shape[0], -1
            )  # (r_{k+1}, n_{k+1} ...), orthonormal rows
        core = left.mT @ x.reshape(len(left), -1)
        core = core.reshape(-1, right.shape[1]) @ right.mT
        tt = TT((*tt.cores[:k], core.reshape(left.shape[1], x.shape[k], -1), *tt.cores[k + 1 :]))
    return tt
