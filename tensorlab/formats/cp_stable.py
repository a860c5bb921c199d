"""CP whose terms cannot diverge: alternating least squares with a penalty on their energy
[Phan2020]."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..arguments import count, number, rank_caps
from ..fit import Fit
from ..linalg import dense_norm, solve_gram, wide, widen
from ..multilinear import khatri_rao, unfold
from ..rng import check_generator
from .base import distance
from .cp import CP, cp_als_steps, of_length

RIDGE = 1e-3


def cp_degeneracy(cp: CP) -> float:
    """Energy of the terms over the energy of their sum: sum_r |term_r|^2 / |cp|^2.

    1 for orthogonal terms, 1/r for r equal ones; it grows without bound where terms grow and
    cancel. The terms of a chain of convolutions are what training moves: this is the factor by
    which their noise outweighs the kernel's.

    >>> unit = torch.eye(3)
    >>> round(cp_degeneracy(CP(torch.ones(3), (unit, unit, unit))), 6)
    1.0
    """
    energy = widen(cp.normalized().weights).abs().square().sum()
    return float(energy / cp.norm().double().square())


def cp_stable(
    x: Tensor,
    rank: int,
    *,
    ridge: float = RIDGE,
    init: str | CP = "hosvd",
    tol: float = 1e-8,
    max_iter: int = 200,
    generator: torch.Generator | None = None,
) -> Fit[CP]:
    """CP whose terms cannot diverge: alternating least squares that penalizes the energy of
    the terms.

        minimize |x - sum_r term_r|^2 + ridge sum_r |term_r|^2,    so that
            sum_r |term_r|^2 <= |x|^2 / ridge

    With the other factors at unit columns a mode solves a (Γ + ridge I) = m: a ridge on the normal
    equations, and the objective never grows. A best CP need not exist [DeSilvaLim2008]: without the
    penalty terms may grow and cancel; that a small energy at the same error is what makes a CP of a
    kernel train is [Phan2020], where the error is held and the sensitivity minimized. From the rank
    x.numel() / max(x.shape) on the answer is exact and needs no sweep: one term for each fiber
    along the longest mode.

    x: (n_0, ..., n_{d-1}).
    rank: the number of terms.
    ridge: the weight of the penalty; 0.0 is plain `cp_als`, in float64.
    init, generator: as in `cp_als`.
    tol: the sweeps end when the root of the objective, relative to |x|, changes by less than this.
    max_iter: the most sweeps.

    history holds the relative error after each sweep, the last that of the value.

    >>> x = CP.randn((5, 6, 7), 2, generator=torch.Generator().manual_seed(0)).to_dense()
    >>> cp_stable(x, 2, ridge=1e-6).history[-1] < 1e-3
    True
    """
    max_iter = count("cp_stable", "max_iter", max_iter)
    sweeps, history, costs = _stable_sweeps(x, rank, ridge, init, generator), [], []
    converged = False
    while not converged and len(history) < max_iter:
        cp, error, energy = next(sweeps)
        history.append(error)
        costs.append(math.sqrt(error**2 + ridge * energy))  # without a penalty `cp_als`'s error
        converged = error == 0.0 or (len(costs) > 1 and abs(costs[-2] - costs[-1]) < tol)
    history[-1] = distance(x, cp)  # with what rounding to x.dtype adds
    return Fit(cp, tuple(history), converged)


def cp_stable_steps(
    x: Tensor, rank: int, *, ridge: float = RIDGE, init="hosvd", generator=None
) -> Iterator[tuple[CP, float]]:
    """The sweeps of `cp_stable`, one after another: pairs of the CP so far, with unit columns, and
    its relative error.

    x, rank, ridge, generator: as in `cp_stable`.
    init: as in `cp_als`, whose first sweep is the start.

    >>> cp, error = next(cp_stable_steps(torch.ones(3, 4, 5), 1))
    >>> round(error, 2)
    0.0
    """
    for cp, error, _ in _stable_sweeps(x, rank, ridge, init, generator):
        yield cp, error if cp.dtype == wide(cp.dtype) else distance(x, cp)


def _stable_sweeps(x, rank, ridge, init, generator):
    """Triples of the CP, and of its relative error and the energy of its terms before rounding to
    x.dtype."""
    length = dense_norm(x, "cp_stable")
    if x.ndim < 2:
        raise ValueError(f"cp_stable: needs at least 2 modes, got shape {tuple(x.shape)}")
    (r,) = rank_caps("cp_stable", rank, None, x.shape, 1)
    ridge = number("cp_stable", "ridge", ridge)
    check_generator("cp_stable", generator)
    if length == 0.0 or r >= x.numel() // max(x.shape):
        yield of_length(*_fibers(widen(x.detach()), r), 1.0, x.dtype), 0.0, 0.0
        return
    y = widen(x.detach()) / length
    start, _ = next(cp_als_steps(y, r, init=init, generator=generator))
    factors = list(start.normalized().factors)
    penalty = ridge * torch.eye(r).to(y)
    while True:
        for k in range(x.ndim):
            kr = khatri_rao(*factors[:k], *factors[k + 1 :])
            gamma, m = kr.mT @ kr.conj(), unfold(y, k) @ kr.conj()
            a = solve_gram((gamma + penalty).mT, m.mT).mT  # a (Γ + ridge I) = m
            weights = torch.linalg.vector_norm(a, dim=0)
            factors[k] = a / torch.where(weights > 0, weights, torch.ones_like(weights))
        error = float(torch.linalg.vector_norm(unfold(y, k) - a @ kr.mT))
        energy = float(weights.square().sum())
        yield of_length(weights, factors, length, x.dtype), error, energy


def _fibers(x: Tensor, r: int):
    """Weights and factors of the CP with one term for each fiber along the longest mode, which is
    exact; the first r terms, largest first."""
    long = max(range(x.ndim), key=lambda k: x.shape[k])
    others = [n for k, n in enumerate(x.shape) if k != long]
    index = torch.cartesian_prod(*(torch.arange(n, device=x.device) for n in others)).reshape(
        -1, len(others)
    )
    factors = [
        torch.nn.functional.one_hot(i, n).mT.to(x.dtype) for i, n in zip(index.unbind(1), others)
    ]
    factors.insert(long, unfold(x, long))
    cp = CP(torch.ones_like(factors[long][0]), tuple(factors)).normalized()
    return cp.weights[:r], [f[:, :r] for f in cp.factors]
