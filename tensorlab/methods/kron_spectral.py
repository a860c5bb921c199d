"""Sums of Kronecker products near a matrix in the spectral norm, the largest error of an output.

Rearranged (`kron_rearrange`, R), the sums of K products are the matrices u yᴴ of rank K: a
manifold. The spectral norm is not smooth, and its best sum is NP-hard to find; the Schatten norms
are, and lead to it from the Frobenius norm, whose best sum one SVD finds [SeguinKressner2022]:

    |e|_p = (sum_i σ_i(e)^p)^(1/p),     p = 2, 4, 8, ...
    |e| <= |e|_p <= n^(1/p) |e|         for the spectral norm |e|

Each problem starts at the solution u yᴴ of the one before it and is solved by L-BFGS in coordinates
of the manifold there. With u orthonormal and v = y t an orthonormal basis of the columns of y,

    sums near u yᴴ:         (u + a tᴴ) (y + b)ᴴ,  uᴴ a = 0       have the coordinates [a; b]
    tangent vectors:        a vᴴ + u bᴴ                          of the same length as [a; b]
    projection of z:        a = (1 - u uᴴ) z v,  b = zᴴ u

All moves and gradients of a problem thus lie in one linear space, as L-BFGS [LiuNocedal1989] needs.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..arguments import check_shape, count, is_integer, number
from ..fit import Fit
from ..formats.kronecker import Kronecker
from ..formats.modes import check_matrix
from ..linalg import (
    EPS,
    check_dense,
    eigh,
    ldexp,
    least_squares,
    near_one,
    orthogonalize,
    real,
    singular_values,
    spread,
    truncated_svd,
    wide,
    widen,
)
from ..rng import randn

TINY = torch.finfo(torch.float64).tiny
RIDGE = 1e-6  # of the mean eigenvalue of the inputs
CURVED = 1e-10  # cosine between move and turn of the gradient, under which they are forgotten
ARMIJO = 1e-4  # share of the decrease that the slope promises, with which a step is accepted
MEMORY = 6  # pairs that L-BFGS remembers
HALF = 60  # iterations of the alternating way for each half
SOLVED = 1.0  # times what the exponent leaves is what a problem that counts as solved may leave
HALVINGS = 20  # shorter steps that are tried before a problem counts as solved


@dataclass(frozen=True, eq=False, repr=False)
class SpectralFit(Fit[Kronecker]):
    """A `Fit` in the spectral norm; its history holds the relative error at each iterate.

    error: the spectral norm of w - value. bound: no sum of so many products has a smaller error.
    certificate: no sum with the left factors of `value` and any right ones, or with its right
    factors and any left ones, has a smaller error than this. exponents: p at each
    iterate. Errors are weighted where inputs were.

        bound <= |w - best sum|_2 <= |w - value|_2 = error

    >>> g = torch.Generator().manual_seed(0)
    >>> fit = kron_spectral(torch.randn(8, 8, generator=g, dtype=torch.float64), (2, 4), 2)
    >>> 0 < fit.bound <= fit.error
    True
    """

    error: float = math.nan
    bound: float = 0.0
    certificate: float = 0.0
    exponents: tuple[float, ...] = ()

    @property
    def gap(self) -> float:
        """1 - certificate / error: the most that new factors on one side alone would gain."""
        return 1 - self.certificate / self.error if self.error else 0.0


def kron_spectral(
    w: Tensor,
    left,
    rank: int,
    *,
    inputs: Tensor | None = None,
    tol: float = 0.01,
    p_max: float = 256,
    max_iter: int = 300,
    starts: int = 1,
    generator: torch.Generator | None = None,
) -> SpectralFit:
    """A sum of `rank` Kronecker products near w in the spectral norm, by continuation.

        minimize | w - sum_k A_k ⊗ B_k |_2  =  max |(w - sum_k A_k ⊗ B_k) x| / |x|

    The first iterate is `kron_svd`, the best one is returned; it is a local minimum as a rule, for
    the problem is NP-hard. The exponent doubles when what is left of the gradient matters less than
    the exponent does.

    w: (out, in).
    left: the (rows, columns) of the A_k, divisors of w's.
    rank: how many products.
    inputs: (samples, in); given, the error is the largest one of outputs over these inputs,
        |(w - value) (inputsᵀ inputs / samples)^(1/2)|_2.
    tol: the search has converged when the certificate is within this share of the error.
    p_max: the largest exponent; 2 is the Frobenius norm, over inputs too.
    max_iter: the most steps from one start.
    starts: the number of searches, the first from w and the others from w with noise.
    generator: draws the noise; None: torch's global one.

    Raises ValueError or TypeError for a bad matrix, shape, rank or number.

    >>> from tensorlab import kron_svd
    >>> w = torch.randn(16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> fit = kron_spectral(w, (4, 4), 3)
    >>> frobenius = torch.linalg.matrix_norm(w - kron_svd(w, (4, 4), 3).to_dense(), 2)
    >>> fit.value, fit.bound < fit.certificate < fit.error < 0.9 * float(frobenius)
    (Kronecker(shape=(16, 16), ranks=(3,), stores 96 of 256), True)
    """
    who = "kron_spectral"
    problem, sizes = scaled_problem(who, w, inputs), factor_sizes(who, w.shape, left)
    check_terms(who, rank, sizes)
    tol, p_max = number(who, "tol", tol), number(who, "p_max", p_max, 2)
    count(who, "max_iter", max_iter, 0)
    found = []
    for start in points(problem, sizes, rank, count(who, "starts", starts), generator):
        found.append(Search(problem, start))
        found[-1].run(tol, p_max, max_iter)
    return problem.fit(min(found, key=lambda search: search.error), tol)


def kron_alternating(
    w: Tensor, left, rank: int, *, sweeps: int = 5, tol: float = 0.01, p_max: float = 256
) -> SpectralFit:
    """`kron_spectral` by the older method: right factors for fixed left ones, then the reverse.

    Each half is a convex problem, solved here by the same continuation. It is slow, and serves as a
    baseline.

    w, left, rank, tol, p_max: as in `kron_spectral`.
    sweeps: how often each half is solved.

    Raises ValueError or TypeError as `kron_spectral`.

    >>> kron_alternating(torch.eye(4), (2, 2), 1, sweeps=1).error < 1e-6
    True
    """
    who = "kron_alternating"
    problem, sizes = scaled_problem(who, w), factor_sizes(who, w.shape, left)
    check_terms(who, rank, sizes)
    (point,) = points(problem, sizes, rank, 1, None)
    search = Search(problem, point)
    for half in range(2 * count(who, "sweeps", sweeps)):
        search.fix(search.best, "left" if half % 2 else "right")
        search.run(tol, p_max, HALF)
    return problem.fit(search, tol)


def schatten(e: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """The Schatten norm of a matrix and its gradient, for any p >= 2, without overflow.

        |e|_p = σ_1 (sum_i ρ_i^p)^(1/p),     ρ = σ / σ_1
        gradient = e g diag(ρ^(p-2)) gᴴ / (σ_1 (sum_i ρ_i^p)^(1-1/p))

    with g the right singular vectors of e. Of zeros the gradient given is zero.

    >>> value, gradient = schatten(torch.diag(torch.tensor([3.0, 4.0])), 2)
    >>> value, gradient.diagonal()
    (tensor(5.), tensor([0.6000, 0.8000]))
    """
    check_matrix("schatten", e, rank=1)  # nothing is cut
    y, exponent = near_one(widen(e))
    spectrum = _Spectrum(y, number("schatten", "p", p, 2))
    gradient = spectrum.slope() / spectrum.norm.clamp_min(TINY)
    return ldexp(spectrum.norm, exponent).to(real(e.dtype)), gradient.to(e.dtype)


# -------------------------------------------------------------------------------------- the problem


class _Spectrum:
    """The singular values of e, relative to the largest, and the Schatten norm that they give."""

    def __init__(self, e: Tensor, p: float):
        self.e, self.wide = e, e.shape[0] < e.shape[1]
        squares, self.vectors = eigh(e @ e.mH if self.wide else e.mH @ e)
        self.top = squares[-1].clamp_min(0).sqrt()  # σ_1
        self.rho2 = (squares / squares[-1].clamp_min(TINY)).clamp_min(0)
        self.use(p)

    def use(self, p: float) -> None:
        """Take another exponent."""
        self.p, self.total = p, (self.rho2 ** (p / 2)).sum().clamp_min(TINY)
        self.norm = self.top * self.total ** (1 / p)

    def slope(self) -> Tensor:
        """The gradient of |e|_p² / 2: e with its singular values weighted, those near σ_1 most."""
        weights = self.rho2 ** (self.p / 2 - 1) * self.total ** (2 / self.p - 1)
        even = (self.vectors * weights) @ self.vectors.mH
        return even @ self.e if self.wide else self.e @ even

    def gap(self) -> float:
        """What is between error and certificate where the gradient vanishes, relative:
        1 - sum ρ^p / sum ρ^(p-1)."""
        return 1 - float(self.total / (self.rho2 ** ((self.p - 1) / 2)).sum().clamp_min(TINY))


class Sizes(NamedTuple):
    """(rows, columns) of left, then of right factors: how a matrix is rearranged, and back."""

    m: int
    n: int
    rows: int
    columns: int

    def rearrange(self, w: Tensor) -> Tensor:
        """R(w), as `kron_rearrange`, without its checks."""
        blocks = w.reshape(self.m, self.rows, self.n, self.columns).transpose(1, 2)
        return blocks.reshape(self.m * self.n, self.rows * self.columns)

    def back(self, x: Tensor) -> Tensor:
        """R⁻¹(x)."""
        blocks = x.reshape(self.m, self.n, self.rows, self.columns).transpose(1, 2)
        return blocks.reshape(self.m * self.rows, self.n * self.columns)


class Sum(NamedTuple):
    """R⁻¹(u yᴴ): a sum of K Kronecker products of these sizes. u: (m n, K). y: (rows columns,
    K)."""

    sizes: Sizes
    u: Tensor
    y: Tensor

    @staticmethod
    def nearest(sizes: Sizes, w: Tensor, rank: int) -> "Sum":
        """The nearest sum in the Frobenius norm, as `kron_svd`."""
        u, s, vh = truncated_svd(sizes.rearrange(w), rank)
        return Sum(sizes, u, vh.mH * s)

    @property
    def rank(self) -> int:
        return self.u.shape[1]

    def dense(self) -> Tensor:
        return self.sizes.back(self.u @ self.y.mH)

    def format(self, exponent, dtype: torch.dtype) -> Kronecker:
        """2^exponent times the sum, with balanced factors."""
        m, n, rows, columns = self.sizes
        columns_of = lambda t, *shape: t.mT.reshape(self.rank, *shape)
        pair = columns_of(self.u, m, n), columns_of(self.y.conj(), rows, columns)
        even = Kronecker(pair).round(self.rank).tensors()
        return Kronecker(tuple(spread(even, 0, exponent, dtype)))


class Chart(NamedTuple):
    """Coordinates [a; b] of the sums near R⁻¹(u yᴴ), with u and v = y t orthonormal, and of its
    tangent vectors. side: "left" or "right", where the factors on the other side are to stay.
    Coordinates are flat: K (m n + rows columns); matrices are dense."""

    base: Sum
    v: Tensor
    t: Tensor
    side: str | None

    @staticmethod
    def of(near: Sum, side: str | None = None) -> "Chart":
        u, r = orthogonalize(near.u)
        y = near.y @ r.mH
        v, s = orthogonalize(y)
        t = least_squares(s, torch.eye(len(s)).to(s), len(s) * torch.finfo(s.dtype).eps)
        return Chart(Sum(near.sizes, u, y), v, t, side)

    @property
    def length(self) -> int:
        return self.base.u.numel() + self.base.y.numel()

    def at(self, x: Tensor) -> Sum:
        """The sum that has these coordinates."""
        (sizes, u, y), (a, b) = self.base, self._split(x)
        return Sum(sizes, u + a @ self.t.mH, y + b)

    def gradient(self, z: Tensor, at: Sum) -> Tensor:
        """Of a function, by coordinates, at a sum of this chart. z: its gradient by matrices."""
        return self._pull(z, at.u, at.y @ self.t)

    def project(self, z: Tensor) -> Tensor:
        """The tangent vector nearest to a matrix."""
        return self._pull(z, self.base.u, self.v)

    def matrix(self, tangent: Tensor) -> Tensor:
        """R⁻¹(a vᴴ + u bᴴ)."""
        a, b = self._split(tangent)
        return self.base.sizes.back(a @ self.v.mH + self.base.u @ b.mH)

    def _pull(self, z: Tensor, u: Tensor, v: Tensor) -> Tensor:
        z = self.base.sizes.rearrange(z)
        a, b = z @ v, z.mH @ u
        if self.side is None:  # what a has of u, b has
            a = a - self.base.u @ (self.base.u.mH @ a)
        elif self.side == "left":
            b = torch.zeros_like(b)
        else:
            a = torch.zeros_like(a)
        return torch.cat([a, b]).flatten()

    def _split(self, x: Tensor):
        return x.view(-1, self.base.rank).split([len(self.base.u), len(self.base.y)])


class Point(NamedTuple):
    """One or several sums of Kronecker products, each with other sizes, added up."""

    parts: tuple[Sum, ...]

    def dense(self) -> Tensor:
        return sum(p.dense() for p in self.parts)


class Charts(NamedTuple):
    """The coordinates of the points near one, those of one part after another."""

    parts: tuple[Chart, ...]

    @staticmethod
    def of(point: Point, side: str | None = None) -> "Charts":
        return Charts(tuple(Chart.of(p, side) for p in point.parts))

    @property
    def base(self) -> Point:
        return Point(tuple(c.base for c in self.parts))

    def at(self, x: Tensor) -> Point:
        each = zip(self.parts, x.split([c.length for c in self.parts]))
        return Point(tuple(c.at(part) for c, part in each))

    def gradient(self, z: Tensor, at: Point) -> Tensor:
        return torch.cat([c.gradient(z, p) for c, p in zip(self.parts, at.parts)])


class Problem(NamedTuple):
    """w: near 1 in size, float64. root: (in, in) by which errors are multiplied, near 1 too, or
    None. dtype, exponent, root_exponent: what the caller's matrices have."""

    w: Tensor
    root: Tensor | None
    dtype: torch.dtype
    exponent: Tensor
    root_exponent: int = 0

    def weighted(self, e: Tensor) -> Tensor:
        return e if self.root is None else e @ self.root

    def slope(self, spectrum: _Spectrum) -> Tensor:
        """The gradient of |error|_p² / 2 by the sum."""
        z = spectrum.slope()
        return -z if self.root is None else -z @ self.root.mH

    def certificate(self, point: Point, spectrum: _Spectrum) -> float:
        """The least error that new left factors alone, or new right ones, might have.

        z without its tangent part is orthogonal to all tangent matrices m, and the point is one, so

            |w - m|_2 |z|_* >= <z, w - m> = <z, w>        for all of them
        """
        if len(point.parts) > 1:  # tangent spaces overlap
            return 0.0
        z, chart = self.slope(spectrum), Chart.of(point.parts[0])
        z = z - chart.matrix(chart.project(z))
        dual = z if self.root is None else torch.linalg.solve_ex(self.root.mH, z, left=False)[0]
        nuclear = singular_values(dual).sum()
        return float(((z.conj() * self.w).sum().real.abs() / nuclear.clamp_min(TINY)).nan_to_num())

    def bound(self, sizes: Sizes, rank: int) -> float:
        """An error that no sum of `rank` products is below: whatever the sum,

            |e root|_2 |root⁻¹ d|_F >= |e d|_F >= |tail of R(w d)|     for each Kronecker product d

        The identity is one, the product nearest to the root another.
        """
        tail = lambda w: float(torch.linalg.vector_norm(singular_values(sizes.rearrange(w))[rank:]))
        if self.root is None:
            return tail(self.w) / math.sqrt(min(self.w.shape))
        square = Sizes(sizes.n, sizes.n, sizes.columns, sizes.columns)
        near = Sum.nearest(square, self.root, 1).dense()
        over = lambda d: float(torch.linalg.vector_norm(torch.linalg.solve(self.root, d)))
        return max(tail(self.w @ d) / over(d) for d in (near, torch.eye(len(near)).to(near)))

    def fit(self, search: "Search", tol: float) -> SpectralFit:
        """What was found, in the size and the dtype of the caller's matrix."""
        (best,), error = search.best.parts, search.error
        bound = min(self.bound(best.sizes, best.rank), error)
        least = min(max(search.certificate, bound), error)
        return SpectralFit(
            best.format(self.exponent, self.dtype),
            search.relative(),
            search.exact or error - least <= tol * error,
            *map(self.back, (error, bound, least)),
            tuple(search.exponents),
        )

    def back(self, error: float) -> float:
        """An error as the caller's matrix has it."""
        return math.ldexp(error, int(self.exponent) + self.root_exponent)


def points(problem: Problem, sizes: Sizes, rank: int, many: int, generator) -> Iterator[Point]:
    """The nearest sum in the Frobenius norm, then those of w with noise of twice its size.

    problem: whose w is approximated.
    sizes: of the factors.
    rank: the number of products.
    many: how many points are yielded.
    generator: draws the noise; None: torch's global one.
    """
    w = problem.w
    size = 2 * torch.linalg.vector_norm(w) / math.sqrt(w.numel())
    for k in range(many):
        draw = dict(generator=generator, dtype=w.dtype, device=w.device)
        noisy = w + size * randn(*w.shape, **draw) if k else w
        yield Point((Sum.nearest(sizes, noisy, rank),))


# --------------------------------------------------------------------------------------- the search


class Search:
    """L-BFGS for one exponent after another, each in charts about the solution of the one before,
    and the best point on the way."""

    def __init__(self, problem: Problem, point: Point):
        self.problem, self.best, self.error = problem, point, math.inf
        self.history, self.exponents, self.certificate = [], [], 0.0
        self.whole = float(torch.linalg.matrix_norm(problem.weighted(problem.w), 2))
        self.fix(point)

    def fix(self, point: Point, side: str | None = None) -> None:
        """Start anew at a point, with the exponent 2, to move factors on one side or on both."""
        self.side, self.point = side, point
        self.spectrum = self._error(point, 2.0)
        self._use(2.0)
        self._note()

    def run(self, tol: float, p_max: float, max_iter: int) -> None:
        """Steps, and a larger exponent whenever the problem with the present one is solved.

        With p_max = 2 the last point is the best: there the Frobenius norm is asked for.
        """
        self._climb(tol, p_max, max_iter)
        if p_max == 2:
            self.best, self.error = self.point, float(self.spectrum.top)

    def _climb(self, tol: float, p_max: float, max_iter: int) -> None:
        for _ in range(max_iter):
            while self._solved(tol, p_max) or not self.step():
                if self.exact or self.certified(tol) or self.spectrum.p >= p_max:
                    return
                self._use(min(2 * self.spectrum.p, p_max))
        self.certified(tol)

    def _solved(self, tol: float, p_max: float) -> bool:
        """Whether what is left of the gradient matters less than the exponent, or than `tol`."""
        goal = max(self.spectrum.gap(), tol) if self.spectrum.p < p_max else tol
        return self.exact or self.left <= SOLVED * goal

    @property
    def exact(self) -> bool:
        return self.error <= 64 * EPS * self.whole

    def certified(self, tol: float) -> bool:
        """Whether the best error is within `tol` of what its certificate promises."""
        if self.side is None:
            least = self.problem.certificate(self.point, self.spectrum)
            self.certificate = max(self.certificate, least)
        return self.error - self.certificate <= tol * self.error

    def step(self) -> bool:
        """One step with Armijo's rule; False where none decreases the norm."""
        move, slope = self._direction()
        f, t = float(self.spectrum.norm) ** 2 / 2, 1.0
        for _ in range(HALVINGS):
            x = self.x + t * move
            point = self.charts.at(x)
            spectrum = self._error(point, self.spectrum.p)
            rise = float(spectrum.norm) ** 2 / 2 - f
            if rise <= ARMIJO * t * slope:
                self._arrive(x, point, spectrum)
                return True
            vertex = -slope * t * t / (2 * (rise - t * slope))  # of the parabola
            t = min(max(vertex, 0.1 * t), 0.5 * t) if math.isfinite(rise) else 0.1 * t
        return False

    def relative(self) -> tuple[float, ...]:
        """The history, relative to the norm of w."""
        return tuple(e / self.whole for e in self.history) if self.whole else (0.0,)

    def _error(self, point: Point, p: float) -> _Spectrum:
        return _Spectrum(self.problem.weighted(self.problem.w - point.dense()), p)

    def _use(self, p: float) -> None:
        """Go on from here with an exponent, in new coordinates."""
        self.spectrum.use(p)
        self.charts = Charts.of(self.point, self.side)
        self.point = self.charts.base
        self.gradient = self._gradient()
        self.x = torch.zeros_like(self.gradient)
        self.memory = self.x.new_zeros(2, 0, len(self.x))  # moves and turns

    def _gradient(self) -> Tensor:
        """That of |error|_p² / 2 by coordinates; sets how much of the one by matrices it is."""
        z = self.problem.slope(self.spectrum)
        g = self.charts.gradient(z, self.point)
        size = torch.linalg.vector_norm(z).clamp_min(TINY)
        self.left = float(torch.linalg.vector_norm(g) / size)
        return g

    def _direction(self) -> tuple[Tensor, float]:
        """Minus the inverse Hessian that the memory knows, times the gradient; and its slope.

        The two loops of L-BFGS work on the inner products alone: the direction is a combination of
        what is in the memory and of the gradient.
        """
        basis = torch.cat([self.memory.flatten(0, 1), self.gradient[None]])
        gram = _inner(basis, basis).cpu().numpy()
        c = _two_loops(gram, self.memory.shape[1])
        slope = float(c @ gram[-1])
        if not slope < 0:
            self.memory = self.memory[:, :0]
            return -self.gradient, -float(gram[-1, -1])
        weights = torch.from_numpy(c).to(basis.device, basis.dtype)
        return weights @ basis, slope

    def _arrive(self, x: Tensor, point: Point, spectrum: _Spectrum) -> None:
        """Go to a point, and remember the move and how the gradient turned."""
        before = torch.stack([self.x, self.gradient])
        self.x, self.point, self.spectrum = x, point, spectrum
        self.gradient = self._gradient()
        pair = torch.stack([self.x, self.gradient]) - before
        (move, curve), (_, turn) = _inner(pair, pair).tolist()
        if curve > CURVED * math.sqrt(move * turn):
            self.memory = torch.cat([self.memory, pair[:, None]], 1)[:, -MEMORY:]
        self._note()

    def _note(self) -> None:
        top = float(self.spectrum.top)
        self.history.append(top)
        self.exponents.append(self.spectrum.p)
        if top < self.error:
            self.best, self.error = self.point, top


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """The real inner products of two stacks of tangent vectors."""
    return (a.conj() @ b.mT).real


def _two_loops(gram, k: int):
    """The coefficients of the direction by k moves, k turns and the gradient, from their inner
    products [LiuNocedal1989]."""
    c = np.zeros(2 * k + 1)
    c[-1], alpha = -1.0, np.zeros(k)
    for i in reversed(range(k)):
        alpha[i] = gram[i] @ c / gram[i, k + i]
        c[k + i] -= alpha[i]
    if k:
        c *= gram[k - 1, 2 * k - 1] / gram[2 * k - 1, 2 * k - 1]
    for i in range(k):
        c[i] += alpha[i] - gram[k + i] @ c / gram[i, k + i]
    return c


# ---------------------------------------------------------------------------------------- arguments


def scaled_problem(who: str, w: Tensor, inputs: Tensor | None = None) -> Problem:
    """The problem for w scaled by a power of two; refuses what is not a matrix, and inputs that do
    not fit."""
    check_matrix(who, w, rank=1)  # nothing is cut
    y, exponent = near_one(widen(w.detach()))
    if inputs is None:
        return Problem(y, None, w.dtype, exponent)
    root, unit = near_one(input_root(who, inputs, w))
    return Problem(y, root, w.dtype, exponent, int(unit))


def factor_sizes(who: str, shape, left) -> Sizes:
    """The (rows, columns) of left, then of right factors. ValueError, with the sizes that would do,
    unless the left ones divide the shape.

    >>> factor_sizes("kron_spectral", (6, 8), (2, 4))
    Sizes(m=2, n=4, rows=3, columns=2)
    """
    shape, left = check_shape(who, shape), check_shape(who, left)
    if len(left) != 2 or any(n % d for n, d in zip(shape, left)):
        rows, columns = (", ".join(map(str, divisors(n))) for n in shape)
        raise ValueError(
            f"{who}: needs left = (rows, columns), rows of {rows} and columns of {columns} for a "
            f"matrix of shape {tuple(shape)}, got {left}"
        )
    return Sizes(*left, shape[0] // left[0], shape[1] // left[1])


def divisors(n: int) -> list[int]:
    """
    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    return [d for d in range(1, n + 1) if n % d == 0]


def most_terms(sizes: Sizes) -> int:
    """The number of terms that holds every matrix."""
    return min(sizes.m * sizes.n, sizes.rows * sizes.columns)


def check_terms(who: str, rank, sizes) -> None:
    """Raises ValueError unless the rank is an integer from 1 to the most terms that are of use."""
    (m, n, rows, columns), most = sizes, most_terms(sizes)
    if not is_integer(rank) or not 1 <= rank <= most:
        raise ValueError(
            f"{who}: needs a rank from 1 to {most} for factors {m} x {n} and {rows} x {columns}, "
            f"got {rank!r}"
        )


def input_root(who: str, inputs: Tensor, w: Tensor) -> Tensor:
    """The square root of inputsᵀ inputs / samples, with RIDGE of its mean eigenvalue added, so that
    no direction is free. ValueError or TypeError for inputs that do not fit w.

    >>> input_root("kron_spectral", torch.tensor([[3.0, 4.0]]), torch.ones(2, 2)).shape
    torch.Size([2, 2])
    """
    check_dense(inputs, who)
    if inputs.shape[-1] != w.shape[1]:
        raise ValueError(
            f"{who}: needs inputs of shape (samples, {w.shape[1]}), got {tuple(inputs.shape)}"
        )
    x = inputs.detach().reshape(-1, w.shape[1]).to(w.device)
    x = widen(x).to(wide(w.dtype))
    values, vectors = eigh(x.mT @ x.conj() / len(x))
    root = (values.clamp_min(0) + RIDGE * values.mean()).sqrt()
    return (vectors * root) @ vectors.mH
