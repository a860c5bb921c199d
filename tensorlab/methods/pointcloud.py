"""TT point clouds: n points of R^D as the rows, in any order, of a train of shape (n_1, ..., n_d,
D).

    cloud[i_1 ... i_d] = G_1[i_1] ... G_d[i_d] G_D,        n = n_1 ... n_d

Two ways to forget the order: losses that do not see it, the sliced Wasserstein distance
[Bonneel2015] and the distance to nearest neighbours [Fan2017], or a permutation P sought together
with the train, TT ≈ P A.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..arguments import is_integer
from ..fit import Fit
from ..formats.tt import TT, tt_svd
from ..linalg import check_dense, rank_caps, right_basis, widen
from ..multilinear import digit_shape
from ..rng import randn

BLOCK = 1 << 22  # distances held at a time


# ----------------------------------------------------------------- losses that do not see the order


def wasserstein(x: Tensor, y: Tensor, p: float = 2) -> Tensor:
    """W_p^p of the points on a line in each column, by sorting: the mean of |x_(i) - y_(i)|^p.

    x: (n, l), y: (m, l) -> (l,). For n != m the two quantile functions, constant between multiples
    of 1/n and of 1/m, are compared exactly.

    >>> wasserstein(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [1.0]]))
    tensor([1.])
    """
    n, m = len(x), len(y)
    x, y = x.sort(0).values, y.sort(0).values
    if n == m:
        return (x - y).abs().pow(p).mean(0)
    levels = torch.cat(
        [torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]
    ).unique()  # in units of 1 / (n m)
    mass = torch.diff(levels, prepend=levels.new_zeros(1)).to(x) / (n * m)
    i, j = ((levels - 1) // m).to(x.device), ((levels - 1) // n).to(x.device)
    return (mass[:, None] * (x[i] - y[j]).abs().pow(p)).sum(0)


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
    x, y = _clouds("sliced_wasserstein", x, y)
    if not isinstance(directions, Tensor):
        directions = randn(
            x.shape[1], directions, generator=generator, dtype=x.dtype, device=x.device
        )
        directions = directions / torch.linalg.vector_norm(directions, dim=0)
    return x.shape[1] * wasserstein(x @ directions, y @ directions).mean()


def nearest(x: Tensor, y: Tensor) -> Tensor:
    """Number of the row of y that is nearest to each row of x.  x: (n, D), y: (m, D)  ->  (n,).

    At most about `BLOCK` distances are held at a time.

    >>> nearest(torch.tensor([[0.0], [5.0]]), torch.tensor([[4.0], [1.0]]))
    tensor([1, 0])
    """
    x, y = _clouds("nearest", x, y)
    x, y = x.detach(), y.detach()
    half = y.square().sum(1) / 2
    return torch.cat(
        [torch.argmin(half - block @ y.mT, 1) for block in x.split(max(1, BLOCK // len(y)))]
    )


def chamfer(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared distance to the nearest neighbour, both ways [Fan2017].

        mean_i min_j |x_i - y_j|^2 + mean_j min_i |x_i - y_j|^2

    x: (n, D), y: (m, D).  Differentiable for fixed neighbours, which is where the distance is.

    >>> chamfer(torch.tensor([[0.0], [5.0]]), torch.tensor([[4.0], [1.0], [0.0]]))
    tensor(1.1667)
    """
    return distortion(x, y) + distortion(y, x)


def distortion(x: Tensor, y: Tensor) -> Tensor:
    """mean_i min_j |x_i - y_j|^2, what k-means makes small.  x: (n, D), y: (m, D).

    >>> distortion(torch.tensor([[0.0], [5.0]]), torch.tensor([[4.0], [1.0], [0.0]]))
    tensor(0.5000)
    """
    return (x - y[nearest(x, y)]).square().sum(1).mean()


# ----------------------------------------------------------------------------- the train of a cloud


def rows(tt: TT) -> Tensor:
    """The points of a train, (n_1 ... n_d, D).

    >>> rows(TT.randn((4, 5, 2), rank=3)).shape
    torch.Size([20, 2])
    """
    return tt.to_dense().reshape(-1, tt.shape[-1])


def centres(tt: TT) -> list[Tensor]:
    """The hierarchy of a train: for k = 1, ..., d the mean of all points whose first k indices
    agree, (n_1 ... n_k, D).

    >>> [c.shape[0] for c in centres(TT.randn((4, 5, 2), rank=3))]
    [4, 20]
    """
    out, left = [], tt.cores[0].new_ones(1, 1)
    for core, right in zip(tt.cores[:-1], _tails(tt)):
        left = (left @ core.flatten(1)).reshape(-1, core.shape[2])
        out.append(left @ right)
    return out


def tt_nearest(tt: TT, queries: Tensor, beam: int = 8) -> tuple[Tensor, Tensor]:
    """Beam search for the point of a train that is nearest to each query, one index after another.

    queries: (q, D) -> multi-indices (q, d) and squared distances (q,). Of all prefixes i_1 ... i_k
    the `beam` whose centres (`centres`) are nearest are kept: q beam n_k r (r + D) operations for
    each index, where a search of all points costs q n_1 ... n_d D. Exact when beam >= n_1 ...
    n_{d-1}; else as good as prefixes are clusters.

    >>> tt = tt_svd(torch.arange(12.0).reshape(3, 4, 1), 2)
    >>> tt_nearest(tt, torch.tensor([[6.2]]))[0]
    tensor([[1, 2]])
    """
    if not isinstance(tt, TT) or tt.ndim < 2:
        raise TypeError(
            f"tt_nearest: needs a TT of at least two modes, the last of them coordinates, got "
            f"{tt!r}"
        )
    if queries.ndim != 2 or queries.shape[1] != tt.shape[-1]:
        raise ValueError(
            f"tt_nearest: needs queries of shape (q, {tt.shape[-1]}), got {tuple(queries.shape)}"
        )
    if not is_integer(beam) or beam < 1:
        raise ValueError(f"tt_nearest: needs beam >= 1, got {beam}")
    q = len(queries)
    state, index = (
        queries.new_ones(q, 1, 1),
        torch.zeros(q, 1, 0, dtype=torch.long, device=queries.device),
    )
    for core, right in zip(tt.cores[:-1], _tails(tt)):
        r, n, s = core.shape
        state = (state @ core.reshape(r, -1)).reshape(q, -1, s)  # (q, beam n, s)
        far = (state @ right - queries[:, None]).square().sum(2)
        new = torch.arange(n, device=queries.device).expand(q, index.shape[1], n)
        index = torch.cat([index[:, :, None].expand(-1, -1, n, -1), new[..., None]], 3).flatten(
            1, 2
        )
        far, best = far.topk(min(beam, far.shape[1]), 1, largest=False)
        state, index = _pick(state, best), _pick(index, best)
    return index[:, 0], far[:, 0]


def cluster_order(points: Tensor, shape) -> Tensor:
    """An order in which all points with the same first indices lie together: halves of halves along
    principal directions.

    points: (n, D), shape: (n_1, ..., n_d) with product n -> (n,), a permutation. Each index is
    split by its prime factors.

    >>> cluster_order(torch.tensor([[0.0], [9.0], [1.0], [8.0]]), (2, 2)).reshape(2, 2).sort(1).values.tolist()
    [[0, 2], [1, 3]]
    """
    shape = _shape("cluster_order", points, shape)
    points = widen(points)

    def split(index, parts):
        if len(index) == 1 or not parts:
            return index
        x = points[index]
        direction = x[1] - x[0] if len(index) == 2 else right_basis(x - x.mean(0), 1)[0][:, 0]
        direction = (
            direction * direction[direction.abs().argmax()].sign()
        )  # the same way in every part
        index = index[torch.argsort(x @ direction, stable=True)]
        return torch.cat([split(part, parts[1:]) for part in index.chunk(parts[0])])

    return split(torch.arange(len(points), device=points.device), digit_shape(shape))


def tt_cloud(
    points: Tensor,
    shape,
    rank,
    *,
    wasserstein: float = 1.0,
    neighbours: float = 1.0,
    hierarchy: float = 0.1,
    steps: int = 300,
    lr: float = 0.02,
    directions: int = 32,
    batch: int = 2048,
    start: str = "clusters",
    generator: torch.Generator | None = None,
) -> Fit[TT]:
    """A train whose rows, in any order, are a cloud like the points; Adam on its cores.

        wasserstein * sliced_wasserstein + neighbours * chamfer + hierarchy * mean_k distortion(points, centres_k)

    points: (n, D), shape: (n_1, ..., n_d), of any product. The three numbers weigh the losses; the
    last keeps prefixes clusters, so that `tt_nearest` finds its way. start: "clusters", the TT-SVD
    of points in `cluster_order`, or "random". Each step takes `batch` points and as many rows of
    the train. history: the loss in units of the points' variance.

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(64, 2, generator=g)
    >>> fit = tt_cloud(x, (4, 4, 4), 3, steps=30, generator=g)
    >>> fit.value.shape, fit.history[-1] < fit.history[0]
    ((4, 4, 4, 2), True)
    """
    path = tt_cloud_steps(
        points,
        shape,
        rank,
        wasserstein=wasserstein,
        neighbours=neighbours,
        hierarchy=hierarchy,
        steps=steps,
        lr=lr,
        directions=directions,
        batch=batch,
        start=start,
        generator=generator,
    )
    values, history = zip(*path)
    return Fit(values[-1], history, False)


def tt_cloud_steps(
    points: Tensor,
    shape,
    rank,
    *,
    wasserstein: float = 1.0,
    neighbours: float = 1.0,
    hierarchy: float = 0.1,
    steps: int = 300,
    lr: float = 0.02,
    directions: int = 32,
    batch: int = 2048,
    start: str = "clusters",
    generator: torch.Generator | None = None,
):
    """`tt_cloud` step by step: yields the train and its loss, beginning with the start.

    >>> x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    >>> len(list(tt_cloud_steps(x, (2, 4), 2, steps=3)))
    4
    """
    check_dense(points, "tt_cloud")
    shape = tuple(shape)
    if points.ndim != 2:
        raise ValueError(f"tt_cloud: needs points (n, D), got shape {tuple(points.shape)}")
    if start not in ("clusters", "random"):
        raise ValueError(f"tt_cloud: start must be clusters or random, got {start}")
    caps = rank_caps("tt_cloud", rank, None, (*shape, points.shape[1]), len(shape))
    scale = (
        (points - points.mean(0)).square().sum(1).mean().sqrt()
    )  # so that the loss counts in variances
    target = points / scale
    tt = _start(target, shape, caps, start, generator)
    cores = [core.detach().clone().requires_grad_() for core in tt.cores]
    sizes = [float(core.detach().square().mean().sqrt()) for core in cores]
    optimizer = torch.optim.Adam(
        [dict(params=[core], lr=lr * size) for core, size in zip(cores, sizes)]
    )
    for step in range(steps + 1):
        tt = TT(tuple(cores))
        levels = centres(tt)
        x, y = _sample(target, batch, generator), _sample(levels[-1], batch, generator)
        loss = target.new_zeros(())
        if wasserstein:
            loss = loss + wasserstein * sliced_wasserstein(x, y, directions, generator=generator)
        if neighbours:
            loss = loss + neighbours * chamfer(x, y)
        if hierarchy and levels[:-1]:
            loss = loss + hierarchy * sum(distortion(x, c) for c in levels[:-1]) / len(levels[:-1])
        yield TT(tuple(core.detach() for core in cores)).scale(scale), float(loss.detach())
        if step < steps:
            for group, size in zip(optimizer.param_groups, sizes):
                group["lr"] = lr * size * (1 - step / steps)
            optimizer.zero_grad()
            loss.backward()
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

        minimise |points[order] - rows(tt)|_F

    points: (n, D), shape: (n_1, ..., n_d) with product n. order: where to start, `cluster_order` by
    default. The train: TT-SVD, or where it is no better a sweep of least squares from the last one.
    The permutation: exact assignment [Kuhn1955] within blocks of `block` rows, drawn anew each time
    (of all rows when n <= block). Neither step can raise the error; history holds it relative to
    |points|, after each train. Stops when it falls by less than `tol` of itself.

    >>> x = torch.arange(8.0, dtype=torch.float64)[torch.randperm(8, generator=torch.Generator().manual_seed(0))][:, None]
    >>> fit = tt_permute(x, (2, 2, 2), (2, 2, 1))
    >>> torch.dist(fit.value.restored(), x) < 1e-12
    tensor(True)
    """
    size = check_dense(points, "tt_permute")
    shape = _shape("tt_permute", points, shape)
    full = (*shape, points.shape[1])
    caps = rank_caps("tt_permute", rank, None, full, len(shape))
    order = cluster_order(points, shape) if order is None else order
    if sorted(order.tolist()) != list(range(len(points))):
        raise ValueError(
            f"tt_permute: needs an order of the {len(points)} points, got one of shape "
            f"{tuple(order.shape)}"
        )
    tt, history, converged = None, [], False
    for _ in range(max_iter):
        if tt is not None:
            order = _assign(points, rows(tt), order, block, generator)
        x = points[order].reshape(full)
        tried = [tt_svd(x, caps)] if tt is None else [tt_svd(x, caps), _sweep(x, tt)]
        errors = [
            float(torch.linalg.vector_norm(t.to_dense() - x)) / size if size else 0.0 for t in tried
        ]
        error = min(errors)
        tt = tried[errors.index(error)]
        history.append(error)
        if len(history) > 1 and history[-2] - error <= tol * error:
            converged = True
            break
    return Fit(Permuted(tt, order), tuple(history), converged)


def assignment(cost: Tensor) -> Tensor:
    """The column of each row such that every column is taken once and the costs add up to the least
    [Kuhn1955].

    cost: (n, n) -> (n,). Shortest augmenting paths with potentials u, v: cost - u - v >= 0, and = 0
    where assigned. At most n^3 operations, in NumPy.

    >>> assignment(torch.tensor([[4.0, 1.0, 3.0], [2.0, 0.0, 5.0], [3.0, 2.0, 2.0]]))
    tensor([1, 0, 2])
    """
    check_dense(cost, "assignment")
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1]:
        raise ValueError(
            f"assignment: needs a square matrix of costs, got shape {tuple(cost.shape)}"
        )
    c = cost.detach().double().cpu().numpy()
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


def kmeans(
    points: Tensor, k: int, *, max_iter: int = 50, generator: torch.Generator | None = None
) -> Fit[Tensor]:
    """k centres that make `distortion(points, centres)` small: Lloyd's iteration from far points
    [Arthur2007].

    points: (n, D) -> (k, D). The start draws each centre with probability as its squared distance
    to those before. A centre that loses all its points stays. history: the distortion.

    >>> kmeans(torch.tensor([[0.0], [1.0], [9.0], [10.0]]), 2).value.sort(0).values.flatten()
    tensor([0.5000, 9.5000])
    """
    _some("kmeans", points, k)
    found = points[torch.randint(len(points), (1,), generator=generator)]
    far = (points - found).square().sum(1)
    for _ in range(k - 1):
        weights = far if float(far.sum()) > 0 else torch.ones_like(far)
        new = points[
            torch.multinomial(weights.double().cpu(), 1, generator=generator).to(points.device)
        ]
        found, far = torch.cat([found, new]), torch.minimum(far, (points - new).square().sum(1))
    history, converged = [], False
    for _ in range(max_iter):
        own = nearest(points, found)
        history.append(float((points - found[own]).square().sum(1).mean()))
        if len(history) > 1 and history[-1] >= history[-2] * (1 - 1e-6):
            converged = True
            break
        count = torch.bincount(own, minlength=k)[:, None].to(points)
        sums = torch.zeros_like(found).index_add(0, own, points)
        found = torch.where(count > 0, sums / count.clamp_min(1), found)
    return Fit(found, tuple(history), converged)


def coreset(points: Tensor, k: int) -> Tensor:
    """Numbers of k points that cover all: each the farthest from those before, at most twice the
    best radius [Gonzalez1985].

    points: (n, D)  ->  (k,).  The first is the one farthest from the mean.

    >>> coreset(torch.tensor([[0.0], [1.0], [9.0], [10.0]]), 2)
    tensor([0, 3])
    """
    _some("coreset", points, k)
    far = (points - points.mean(0)).square().sum(1)
    chosen = []
    for step in range(k):
        chosen.append(int(far.argmax()))
        new = (points - points[chosen[-1]]).square().sum(1)
        far = new if step == 0 else torch.minimum(far, new)
    return torch.tensor(chosen, device=points.device)


# ------------------------------------------------------------------------------------------ helpers


def _clouds(who, x, y):
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{who}: needs clouds (n, D) and (m, D), got shapes {tuple(x.shape)} and "
            f"{tuple(y.shape)}"
        )
    return x, y


def _shape(who, points, shape):
    shape = tuple(shape)
    if points.ndim != 2 or math.prod(shape) != len(points):
        raise ValueError(
            f"{who}: needs points (n, D) with n the product of {shape}, got shape "
            f"{tuple(points.shape)}"
        )
    return shape


def _some(who, points, k):
    check_dense(points, who)
    if points.ndim != 2 or not 1 <= k <= len(points):
        raise ValueError(
            f"{who}: needs points (n, D) and 1 <= k <= n, got shape {tuple(points.shape)} and k={k}"
        )


def _tails(tt):
    """What stands right of each of the first d cores, averaged over its indices: (r_k, D)."""
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


def _start(target, shape, caps, start, generator):
    if start == "random":
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
    for part in places.split(block):
        x, y = widen(points[order[part]]), widen(cloud[part])
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
