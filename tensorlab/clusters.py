"""Points of R^D in clusters: the nearest of several centers, centers to start from, k-means.

    nearest       argmin_j |x_i - c_j|
    far_apart     each center one of the points, drawn with its squared distance to those before
                  [Arthur2007]
    kmeans        every center the mean of the points that it is nearest to, again and again
                  [Lloyd1982]
    kmeans_line   the same on a line, where sorted points make an iteration cost k log n

Everything is computed in float64, in units of the points' size and, where distances are compared,
from the mean of the centers, so that neither scale nor place matters.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import count
from .fit import Fit
from .linalg import check_dense, ldexp, near_one, widen
from .rng import check_generator, rand, randint

BLOCK = 1 << 19  # distances held at a time: 4 MiB of float64, which caches hold
FAR = 500  # binary orders beyond which a point is as good as at infinity


def nearest(points: Tensor, centers: Tensor) -> Tensor:
    """The number of the center that is nearest to each point: (n, D), (k, D) -> (n,) int64.

        argmin_j |c_j|^2 / 2 - x_i . c_j

    At most about `BLOCK` distances are held at a time; on a line sorted centers are searched
    instead. Nothing is checked, and it never waits for a GPU: a NaN gets some number.

    >>> nearest(torch.tensor([[0.2], [0.9]]), torch.tensor([[0.0], [1.0]])).tolist()
    [0, 1]
    """
    if not len(points):
        return torch.empty(0, dtype=torch.int64, device=points.device)
    y, unit = near_one(widen(centers.detach()))
    x, own = near_one(widen(points.detach()))
    x, middle = ldexp(x, (own - unit).clamp(max=FAR)), y.mean(0)
    x, y = x - middle, y - middle
    if y.shape[1] == 1:
        line, order = y[:, 0].sort()
        return order[torch.searchsorted((line[1:] + line[:-1]) / 2, x[:, 0].contiguous())]
    half = y.square().sum(1) / 2
    parts = x.split(max(1, BLOCK // len(y)))
    return torch.cat([torch.addmm(half, part, y.mT, alpha=-1).argmin(1) for part in parts])


def far_apart(points: Tensor, k: int, *, generator: torch.Generator | None = None) -> Tensor:
    """k of the points, each drawn with its squared distance to those before as weight [Arthur2007].

    points: (n, D) -> (k, D). Where all points are taken the weights are equal. It never waits
    for a GPU.

    >>> far_apart(torch.tensor([[0.0], [0.0], [9.0]]), 2).sort(0).values.flatten()
    tensor([0., 9.])
    """
    x, _ = near_one(widen(points.detach()))
    place = randint(len(x), 1, generator=generator, device=x.device)
    chosen, far = [place], (x - x[place]).square().sum(1)
    for _ in range(k - 1):
        weights = torch.where(far.amax() > 0, far, 1.0).cumsum(0)
        draw = rand(1, generator=generator, dtype=x.dtype, device=x.device) * weights[-1]
        place = torch.searchsorted(weights, draw, right=True).clamp(max=len(x) - 1)
        chosen.append(place)
        far = torch.minimum(far, (x - x[place]).square().sum(1))
    return points[torch.cat(chosen)]


def kmeans(
    points: Tensor,
    init: int | Tensor,
    *,
    max_iter: int = 50,
    tol: float = 1e-6,
    generator: torch.Generator | None = None,
) -> Fit[Tensor]:
    """Centers that make mean_i min_j |x_i - c_j|^2 small, by Lloyd's iteration [Lloyd1982].

    points: (n, D) -> (k, D), real.
    init: k, for a start from `far_apart`, or the centers (k, D) to start from.
    max_iter: the most steps.
    tol: the steps end when the mean squared distance falls by no more than this share of itself.
    generator: draws the start; None: torch's global one.

    A center that loses all its points stays where it is. history holds the mean squared distance,
    of the start and after each step; the last is that of the result. Raises ValueError for NaN and
    for k outside 1..n, TypeError for numbers that are not real floating-point ones.

    >>> kmeans(torch.tensor([[0.0], [1.0], [9.0], [10.0]]), 2).value.sort(0).values.flatten()
    tensor([0.5000, 9.5000])
    """
    check_points("kmeans", points)
    check_generator("kmeans", generator)
    max_iter = count("kmeans", "max_iter", max_iter)
    x, exponent = near_one(widen(points.detach()))
    centers = _start(points, init, generator)
    centers = ldexp(widen(centers.detach()), -exponent)
    own = nearest(x, centers)
    history, converged = [_distortion(x, centers, own)], False
    for _ in range(max_iter):
        centers = _means(x, own, centers)
        own = nearest(x, centers)
        history.append(_distortion(x, centers, own))
        if history[-1] >= history[-2] * (1 - tol):
            converged = True
            break
    history = ldexp(torch.tensor(history, dtype=x.dtype), 2 * exponent.cpu())
    return Fit(ldexp(centers, exponent).to(points.dtype), tuple(history.tolist()), converged)


def kmeans_line(x: Tensor, k: int, *, max_iter: int = 1000) -> Tensor:
    """`kmeans` of numbers, ascending: each level the mean of the numbers that it is nearest to.

    x: (n,) -> (k,). Numbers are sorted once; sums of neighbors are then differences of prefix sums,
    so an iteration costs k log n. It starts where the density to the power 1/3 has equal parts,
    which is right for many levels [Gersho1979].

    >>> kmeans_line(torch.tensor([0.0, 1.0, 10.0, 11.0, 12.0]), 2)
    tensor([ 0.5000, 11.0000])
    """
    x = x.double().sort().values
    sums = F.pad(x.cumsum(0), (1, 0))
    share = F.pad(x.diff().pow(2 / 3).cumsum(0), (1, 0))
    at = (torch.arange(k, dtype=torch.float64, device=x.device) + 0.5) / k * share[-1]
    levels = x[torch.searchsorted(share, at).clamp(max=len(x) - 1)]
    for _ in range(max_iter):
        ends = torch.searchsorted(x, (levels[1:] + levels[:-1]) / 2)
        ends = F.pad(F.pad(ends, (1, 0)), (0, 1), value=len(x))
        many = ends.diff()
        new = torch.where(many > 0, sums[ends].diff() / many.clamp_min(1), levels)
        if torch.equal(new, levels):
            break
        levels = new
    return levels.float()


def check_points(who: str, points) -> None:
    """Raises ValueError or TypeError for anything but a cloud (n, D) of finite real numbers.

    >>> check_points("kmeans", torch.ones(3))
    Traceback (most recent call last):
    ValueError: kmeans: needs points (n, D), got shape (3,)
    """
    check_dense(points, who)
    if points.is_complex():
        raise TypeError(f"{who}: needs real points, got {points.dtype}")
    if points.ndim != 2:
        raise ValueError(f"{who}: needs points (n, D), got shape {tuple(points.shape)}")


def _start(points, init, generator) -> Tensor:
    if not isinstance(init, Tensor):
        k = count("kmeans", "k", init, 1, len(points))
        return far_apart(points, k, generator=generator)
    check_points("kmeans: init", init)
    if init.shape[1] != points.shape[1]:
        raise ValueError(
            f"kmeans: needs init (k, D) with D = {points.shape[1]}, got shape {tuple(init.shape)}"
        )
    return init.to(points.device)


def _means(x, own, centers) -> Tensor:
    """The mean of the points of each center; one without points stays."""
    many = torch.bincount(own, minlength=len(centers))[:, None]
    sums = torch.zeros_like(centers).index_add(0, own, x)
    return torch.where(many > 0, sums / many.clamp_min(1), centers)


def _distortion(x, centers, own) -> float:
    return float((x - centers[own]).square().sum(1).mean())
