"""Hybrid sums: Kronecker products of several shapes, chosen one by one [Cai2023].

    minimize | w - sum_j sum_k A_jk ⊗ B_jk |      with no more than a budget of numbers

Greedy: of all shapes that divide w's, take the product that lowers the squared error most for each
number that it stores; then fit the terms of each shape anew to what the others leave (one SVD:
terms of one shape are a matrix of low rank, rearranged), in turn. No step raises the error. A
product of a column and a row is a term of the SVD, so the shapes hold low rank too.
"""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from ..arguments import count
from ..fit import Fit
from ..formats.kron_sum import KronSum
from ..linalg import singular_values
from .kron_spectral import (
    Point,
    Problem,
    Search,
    Sizes,
    Sum,
    divisors,
    factor_sizes,
    most_terms,
    scaled_problem,
)

NORMS = ("frobenius", "spectral")


def kron_hybrid(
    w: Tensor,
    budget: int,
    *,
    shapes: Iterable | None = None,
    norm: str = "frobenius",
    sweeps: int = 5,
    tol: float = 0.01,
    p_max: float = 256,
    max_iter: int = 200,
) -> Fit[KronSum]:
    """A sum of Kronecker products of several shapes near w that stores at most `budget` numbers.

    w: (out, in).
    budget: the most numbers that are stored.
    shapes: of the left factors, (rows, columns) that divide w's; None: all such.
    norm: "frobenius", or "spectral", which goes on from there as `kron_spectral` does, over the
        product of the manifolds of all shapes [SeguinKressner2022].
    sweeps: of fitting anew, after each term.
    tol: the search has converged when its certificate is within this share of the error.
    p_max: the largest exponent; 2 is the Frobenius norm.
    max_iter: the most steps.

    The result is never worse in that norm than what one shape alone gives for the budget, by
    `kron_svd` or `kron_spectral`. history holds the relative error after each term, then after each
    step. Raises ValueError or TypeError for a bad argument.

    >>> fit = kron_hybrid(torch.kron(torch.eye(2), torch.ones(3, 3)), 13)
    >>> fit.value, fit.history[-1] < 1e-6
    (KronSum(shape=(6, 6), ranks=(1,), stores 13 of 36), True)
    """
    who = "kron_hybrid"
    problem, budget = scaled_problem(who, w), count(who, "budget", budget)
    choice = _shapes(who, w, shapes, budget)
    if norm not in NORMS:
        raise ValueError(f"{who}: needs a norm of {', '.join(NORMS)}, got {norm!r}")
    found, history = _greedy(problem.w, choice, budget, count(who, "sweeps", sweeps, 0))
    singles = [Point((Sum.nearest(s, problem.w, _most(s, budget)),)) for s in choice]
    if norm == "spectral":
        search = _spectral(problem, [found, *singles], tol, p_max, max_iter)
        best, history = search.best, [*history, *search.relative()]
    else:
        best = min([found, *singles], key=lambda point: _error(problem.w, point))
        whole = float(torch.linalg.vector_norm(problem.w))
        history.append(_error(problem.w, best) / whole if whole else 0.0)
    value = KronSum.of(*(part.format(problem.exponent, w.dtype) for part in best.parts))
    return Fit(value, tuple(history), True)


def _shapes(who: str, w: Tensor, shapes, budget: int) -> list[Sizes]:
    """The shapes whose products the budget holds."""
    if shapes is None:
        shapes = [(m, n) for m in divisors(w.shape[0]) for n in divisors(w.shape[1])]
    sizes = [factor_sizes(who, w.shape, left) for left in shapes]
    fitting = [s for s in dict.fromkeys(sizes) if _cost(s) <= budget]
    if not fitting:
        least = min(map(_cost, sizes), default=None)
        raise ValueError(f"{who}: needs a budget of {least} numbers or more, got {budget}")
    return fitting


def _cost(s: Sizes) -> int:
    return s.m * s.n + s.rows * s.columns


def _most(s: Sizes, budget: int) -> int:
    """The terms of one shape that the budget holds and that are of use."""
    return min(budget // _cost(s), most_terms(s))


def _error(w: Tensor, point: Point) -> float:
    return float(torch.linalg.vector_norm(w - point.dense()))


def _greedy(w: Tensor, shapes: list[Sizes], budget: int, sweeps: int):
    """The sum, and the relative errors after each term."""
    parts: dict[Sizes, Sum] = {}
    rest, history, whole = w, [], float(torch.linalg.vector_norm(w))
    while True:
        terms = {s: parts[s].rank if s in parts else 0 for s in shapes}
        open_ = [s for s in shapes if _cost(s) <= budget and terms[s] < most_terms(s)]
        if not open_ or torch.linalg.vector_norm(rest) <= 64 * torch.finfo(w.dtype).eps * whole:
            break
        best = max(open_, key=partial(_gain, rest))
        budget -= _cost(best)
        parts[best] = _fitted(parts, best, rest, terms[best] + 1)
        rest = w - sum(p.dense() for p in parts.values())
        for _ in range(sweeps if len(parts) > 1 else 0):
            for s in parts:
                parts[s] = _fitted(parts, s, rest, parts[s].rank)
                rest = w - sum(p.dense() for p in parts.values())
        history.append(float(torch.linalg.vector_norm(rest)) / whole)
    found = Point(tuple(parts.values())) if parts else Point((Sum.nearest(shapes[0], w, 1),))
    return found, history


def _gain(rest: Tensor, s: Sizes) -> float:
    """By how much a product of this shape lowers the squared error, for each number it stores."""
    return float(singular_values(s.rearrange(rest))[0]) ** 2 / _cost(s)


def _fitted(parts: dict[Sizes, Sum], s: Sizes, rest: Tensor, rank: int) -> Sum:
    """The best terms of one shape for what the other shapes leave."""
    return Sum.nearest(s, rest + parts[s].dense() if s in parts else rest, rank)


def _spectral(problem: Problem, points: list[Point], tol: float, p_max: float, max_iter: int):
    """The best of the searches in the spectral norm from several points."""
    searches = []
    for point in points:
        searches.append(Search(problem, point))
        searches[-1].run(tol, p_max, max_iter)
    return min(searches, key=lambda search: search.error)
