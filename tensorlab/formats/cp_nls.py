"""CP by nonlinear least squares: an algebraic start [Leurgans1993], then Gauss-Newton steps with
damping, Levenberg-Marquardt [Tomasi2006].

    minimize |e|^2,    e = [[A_1, ..., A_d]] - x,    by steps (JᴴJ + damping) p = -Jᴴe

The Jacobian J is never formed. With G_m = A_mᵀ conj(A_m) and W_S the entrywise product of the G_m
with m not in S, the part of JᴴJ v that belongs to A_k is

    (JᴴJ v)_k = v_k W_k + A_k sum_{l != k} (v_lᵀ conj(A_l)) * W_kl

Across the columns of A_k only the first term acts. So the equations split into r x r ones, and
those in the spans of the factors: d r^2 unknowns, however long the modes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from ..arguments import count, number, rank_caps
from ..fit import Fit
from ..linalg import (
    dense_norm,
    orthogonalize,
    orthonormal,
    right_basis,
    small_svd,
    truncated_svd,
    widen,
)
from ..multilinear import khatri_rao, unfold
from ..rng import check_generator, randn
from .base import distance
from .cp import CP, check_mask, cp_als, cp_start, mttkrps, of_length, others, seen_gram
from .tucker import st_hosvd

EPS = torch.finfo(torch.float64).eps
CUT = 1e-6  # relative error up to which the core, where the steps begin, may lose a direction
CORE_TOL = 1e-5  # `tol` in the core; what is left is for the steps on the whole tensor
PENCILS = 8  # pairs of slices whose common eigenvectors are tried as a start
SWEEPS = 100  # of alternating least squares where there is no algebraic start
FEW = 20  # such sweeps where entries are unknown or must not be negative
DENSE = 1200  # unknowns up to which the equations are solved by a Cholesky factor
DENSE_SEEN = 3000  # the same with unknown entries, where a product costs a pass over the tensor
PRODUCTS = 60  # of conjugate gradients in one step, above that
RESTARTS, TRIAL = 3, 60  # with a mask: random starts after one whose terms cancel, steps for each
FIRST, LATER = 1e-6, 1e-3  # damping at first, from the algebraic start and from sweeps
LEAST, SMALL, MOST = (
    1e-13,
    1e-6,
    1e12,
)  # its ends, and where a small step tells that the end is near
GROWING = (
    10.0  # largest term over |x| from which terms are suspected to cancel, another start tried,
)
DEGENERATE = 1e3  # and a fit called degenerate: from the former where it has not converged


@dataclass(frozen=True, eq=False, repr=False)
class CPFit(Fit[CP]):
    """A `Fit` of a CP that says how it ended.

    largest: norm of the largest term over |x|; about 1 or less where terms do not cancel. reason:
    why there were no more steps, in words.

    >>> fit = cp_nls(torch.ones(3, 4, 5), 1)
    >>> round(fit.largest, 6), fit.reason
    (1.0, 'exact to rounding')
    """

    largest: float = 0.0
    reason: str = ""

    def __repr__(self):
        return f"{super().__repr__()[:-1]}: {self.reason})"


def cp_nls(
    x: Tensor,
    rank: int,
    *,
    init: str | CP = "gevd",
    tol: float = 1e-8,
    max_iter: int = 200,
    nonnegative: bool = False,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> CPFit:
    """CP decomposition by nonlinear least squares, all factors at once [Tomasi2006].

        minimize | mask * (x - sum_r w_r a_r ∘ b_r ∘ c_r ∘ ...) |

    Where `cp_als` crawls through a swamp of nearly parallel columns, this takes a few steps, in
    float64 whatever x is. The first steps are taken in the Tucker core of x, and what lies outside
    counts there too, right to 1e-8.

    x: (n_0, ..., n_{d-1}).
    rank: the number of terms.
    init: "gevd", common eigenvectors of the slices [Leurgans1993] where two groups of modes have
        `rank` rows each and a third is left, else as "hosvd"; "hosvd" and "random", sweeps of
        `cp_als` from there; or a CP. With a mask or nonnegative, "gevd" is followed by sweeps too.
    tol: the steps end when the next can lower the error by no more than this share of itself.
    max_iter: the most steps.
    nonnegative: factors and weights >= 0.
    mask: True where x is known; None: everywhere.
    generator: draws random columns and pairs of slices; None: the latter from a fixed seed.

    The result is a `CPFit`; history holds the relative error at the start and after each step, and
    the last is that of the value. A best CP need not exist [DeSilvaLim2008]: where terms grow and
    cancel, `largest`, the largest term over |x|, tells it, `reason` names it, and `converged` is
    False. The value has no gradient; one sweep of `cp_als` from it has.

    Raises TypeError or ValueError unless x is a finite tensor of floating-point numbers, and for
    bad arguments.

    >>> g = torch.Generator().manual_seed(0)
    >>> x = CP.randn((5, 6, 7), 2, generator=g, dtype=torch.float64).to_dense()
    >>> fit = cp_nls(x, 2)
    >>> fit.converged, fit.history[-1] < 1e-13, fit.reason
    (True, True, 'exact to rounding')
    """
    who, max_iter = "cp_nls", count("cp_nls", "max_iter", max_iter)
    tol, mask = number(who, "tol", tol), check_mask(who, mask, x)
    x = x if mask is None else x.masked_fill(~mask, 0)  # what is unknown may be anything, NaN too
    size = dense_norm(x, who)
    (r,) = rank_caps(who, rank, None, x.shape, 1)
    check_generator(who, generator)
    if nonnegative and x.is_complex():
        raise TypeError(f"{who}: a nonnegative fit needs real entries, got {x.dtype}")
    if not isinstance(init, CP) and init not in ("gevd", "hosvd", "random"):
        raise ValueError(f'{who}: init must be "gevd", "hosvd", "random" or a CP, got {init!r}')
    y = widen(x.detach()) / (size or 1.0)
    path = _path(_Problem(y, mask, bool(nonnegative), tol), r, init, size, max_iter, generator)
    unit = CP(torch.ones_like(path.factors[0][0]), tuple(path.factors)).normalized()
    cp, history = of_length(unit.weights, unit.factors, size, x.dtype), path.history
    if cp.dtype != y.dtype:  # rounding has moved it
        history = (*history[:-1], distance(x, cp, mask))
    return CPFit(cp, history, path.converged and not path.degenerate, path.largest, path.reason)


@dataclass
class _Problem:
    """What is fitted: x of norm 1, which of its entries are known, and when to stop."""

    x: Tensor
    mask: Tensor | None = None
    nonnegative: bool = False
    tol: float = 1e-8
    outside: float = 0.0  # square of what the tensor has besides x

    def residual(self, factors) -> Tensor:
        half = (len(factors) + 1) // 2
        right = factors[half:] or [torch.ones_like(factors[0][:1])]
        dense = (khatri_rao(*factors[:half]) @ khatri_rao(*right).mT).reshape(self.x.shape)
        rest = dense.sub_(self.x)
        return rest if self.mask is None else rest.mul_(self.mask)

    def normal(self, factors) -> "_Whole":
        return _Whole(factors) if self.mask is None else _Masked(factors, self.mask)


@dataclass
class _Path:
    """Where steps have come to, and why they ended."""

    factors: list[Tensor]
    history: tuple[float, ...]
    ended: str
    converged: bool
    damping: float = FIRST

    def __post_init__(self):
        lengths = [torch.linalg.vector_norm(a, dim=0) for a in self.factors]
        self.largest = float(reduce(torch.mul, lengths).max())
        self.degenerate = self.largest > (GROWING if not self.converged else DEGENERATE)

    @property
    def reason(self) -> str:
        if not self.degenerate:
            return self.ended
        return (
            f"degenerate, the largest term is {self.largest:.1e} |x| and others cancel it: a best "
            f"CP of this rank may not exist, `cp_stable` bounds the terms; {self.ended}"
        )


# ------------------------------------------------------------------------------ from start to end


def _path(problem, r, init, size, steps, generator) -> _Path:
    """The way from the start that is asked for."""
    x = problem.x
    if size == 0.0:
        return _Path([x.new_zeros(n, r) for n in x.shape], (0.0,), "exact to rounding", True)
    if isinstance(init, CP):
        options = init, 1 / size, problem.nonnegative, generator
        weights, factors = cp_start("cp_nls", x, r, *options)
        return _descend(problem, [factors[0] * weights, *factors[1:]], steps)
    if init == "gevd" and problem.mask is None:
        path = _free(_Problem(x, tol=problem.tol), r, steps, generator)
        if not problem.nonnegative:
            return path
        init = CP(torch.ones_like(path.factors[0][0]), tuple(map(_mostly_positive, path.factors)))
    return _sane(problem, r, init, steps, generator)


def _free(problem, r, steps, generator) -> _Path:
    """Steps in the Tucker core, and then on the whole tensor."""
    x = problem.x
    if sum(n > 1 for n in x.shape) <= 2:
        return _matrix(x, r)
    if max(x.shape) <= r:
        return _sane(problem, r, "gevd", steps, generator)
    tucker = st_hosvd(x, tuple(min(n, r) for n in x.shape), rtol=CUT)
    core = tucker.core
    outside = max(0.0, 1 - float(torch.linalg.vector_norm(core)) ** 2)
    inner = _Problem(core, tol=max(problem.tol, CORE_TOL), outside=outside)
    path = _sane(inner, r, "gevd", steps, generator)
    lifted = [u @ a for u, a in zip(tucker.factors, path.factors)]
    rest = _descend(problem, lifted, max(1, steps + 1 - len(path.history)), path.damping)
    return _Path(rest.factors, path.history[:-1] + rest.history, rest.ended, rest.converged)


def _starts(problem, r, init, generator):
    """Factors to start from, one after the other: the next where terms cancel after the last."""
    if init == "gevd" and problem.mask is None:
        factors = gevd(problem.x, r, generator)
        if factors is not None:
            yield factors, FIRST
        init = "hosvd"
    yield _sweeps(problem, r, "random" if init == "gevd" else init, generator), LATER
    for _ in range(RESTARTS if problem.mask is not None else 0):
        yield _sweeps(problem, r, "random", generator), LATER


def _sane(problem, r, init, steps, generator) -> _Path:
    """From the first start whose terms do not cancel, or the best of all."""
    trial = steps if problem.mask is None else min(steps, TRIAL)
    paths = []
    for factors, damping in _starts(problem, r, init, generator):
        paths.append(_descend(problem, factors, trial, damping))
        if paths[-1].largest <= GROWING:
            break
    path = min(paths, key=lambda p: p.history[-1] * max(1.0, p.largest / GROWING))
    if path.converged or trial == steps:
        return path
    rest = _descend(problem, path.factors, steps - trial, path.damping)
    return replace(rest, history=path.history[:-1] + rest.history)


def _matrix(x, r) -> _Path:
    """Of a matrix, and of a tensor with at most two modes longer than 1, the best CP is its SVD."""
    longs = [k for k, n in enumerate(x.shape) if n > 1]
    rows = x.shape[longs[0]] if longs else 1
    u, s, vh = truncated_svd(x.reshape(rows, -1), r)
    missed = float(torch.linalg.vector_norm(x.reshape(rows, -1) - (u * s) @ vh))
    pad = lambda a: torch.nn.functional.pad(a, (0, r - len(s)))
    factors = [x.new_ones(1, r)] * x.ndim
    for k, a in zip(longs, (pad(u * s), pad(vh.mT))):
        factors[k] = a
    if len(longs) < 2:
        factors[0] = factors[0] * pad(vh.mT if longs else u * s * vh.mT)
    return _Path(factors, (missed,), "exact, by the SVD of a matrix", True)


def _sweeps(problem, r, init, generator) -> list[Tensor]:
    """Factors after sweeps of `cp_als`."""
    free = problem.mask is None and not problem.nonnegative
    fit = cp_als(
        problem.x,
        r,
        init=init,
        tol=1e-6,
        max_iter=SWEEPS if free else FEW,
        nonnegative=problem.nonnegative,
        mask=problem.mask,
        generator=generator,
    )
    weights, *factors = fit.value.tensors()
    return [factors[0] * weights, *factors[1:]]


def _mostly_positive(a: Tensor) -> Tensor:
    """Columns turned so that they are mostly positive, and the rest of each cut off."""
    return torch.where(a.sum(0) < 0, -a, a).clamp_min(0)


# ---------------------------------------------------------------------------- the algebraic start


def gevd(x: Tensor, r: int, generator: torch.Generator | None = None) -> list[Tensor] | None:
    """Factors of a CP of rank r by generalized eigenvectors; exact where x is one [Leurgans1993].

    All slices of x = [[A, B, C]] along the third mode are A D Bᵀ with a diagonal D, so A holds the
    eigenvectors of S_1 S_2^-1 for any two combinations of them. Row k of A^-1 x_(0) is b_k ⊗ c_k.
    More modes than three are grouped, and the columns of a group are split. Of several pairs that
    which fits best is taken. None where no grouping has r rows, r columns and two slices.

    >>> g = torch.Generator().manual_seed(0)
    >>> x = CP.randn((4, 5, 6), 3, generator=g, dtype=torch.float64).to_dense()
    >>> float((CP(torch.ones(3).double(), gevd(x, 3)).to_dense() - x).norm()) < 1e-12
    True
    """
    groups = _three_groups(x.shape, r)
    if groups is None:
        return None
    t = x.permute(*sum(groups, [])).reshape([math.prod(x.shape[k] for k in g) for g in groups])
    tucker = st_hosvd(t, tuple(min(n, r) for n in t.shape), rtol=CUT) if max(t.shape) > r else None
    core = t if tucker is None else tucker.core
    found = _best_pencil(core, r, generator) if min(core.shape[:2]) == r else None
    if found is None:
        return None
    found = found if tucker is None else [u @ a for u, a in zip(tucker.factors, found)]
    factors = {}
    for group, a in zip(groups, found):
        for k, column in zip(group, _rank_ones(a.mT, [x.shape[k] for k in group])):
            factors[k] = column.mT
    return [factors[k] for k in range(x.ndim)]


def _three_groups(shape, r):
    """The modes in three groups, the first two with r rows and the third with two, or None."""
    left, groups = sorted(range(len(shape)), key=lambda k: shape[k]), ([], [], [])
    for group in groups[:2]:
        while left and (not group or math.prod(shape[k] for k in group) < r):
            group.append(left.pop())
    groups[2].extend(left)
    sizes = [math.prod(shape[k] for k in g) for g in groups]
    return groups if min(sizes[:2]) >= r and sizes[2] > 1 else None


def _best_pencil(t: Tensor, r: int, generator):
    """A, B, C (r, r), (r, r), (m, r) of t (r, r, m) from the pair of slices that fits it best; None
    where every pair is singular."""
    s = _pencils(t, r, generator)  # (2, pairs, r, r)
    ratio = torch.linalg.solve_ex(s[1].mT, s[0].mT).result.mT
    ratio = torch.where(ratio.isfinite().all(-1).all(-1)[:, None, None], ratio, s[0])
    values, a = torch.linalg.eig(ratio)
    if not t.is_complex():  # of two conjugate columns the real and the imaginary part
        a = torch.where(values.imag[:, None] >= 0, a.real, a.imag)
    rows = torch.linalg.solve_ex(a, t.reshape(r, -1).expand(len(a), -1, -1)).result
    u, sigma, vh = small_svd(torch.nan_to_num(rows.reshape(len(a), r, *t.shape[1:]), 0.0, 0.0, 0.0))
    b, c = u[..., 0].mT, (sigma[..., :1] * vh[..., 0, :]).mT
    kr = (b[:, :, None] * c[:, None]).flatten(1, 2)
    gram = (b.mT @ b.conj()) * (c.mT @ c.conj())
    a = torch.linalg.solve_ex(gram.mT, (unfold(t, 0) @ kr.conj()).mT).result.mT
    missed = torch.linalg.vector_norm(unfold(t, 0) - a @ kr.mT, dim=(1, 2)).nan_to_num(math.inf)
    best = int(missed.argmin())
    return (a[best], b[best], c[best]) if math.isfinite(float(missed[best])) else None


def _pencils(t, r, generator):
    """Pairs of combinations of the slices of t (r, r, m): of its two leading directions, and of
    random orthonormal ones among the leading r."""
    w, _ = right_basis(unfold(t, 2).mH, min(max(r, 2), t.shape[2]))  # (m, q)
    q, pairs = w.shape[1], min(2, w.shape[1])
    g = generator if generator is not None else torch.Generator().manual_seed(0)
    turns = orthonormal(randn(PENCILS, q, pairs, generator=g, dtype=t.dtype, device=t.device))
    turns[0] = torch.eye(q, pairs)
    s = torch.einsum("abm,mq,pqt->tpab", t, w.conj(), turns)
    return s if pairs == 2 else s.expand(2, -1, -1, -1)  # one direction alone: r is 1


def _rank_ones(rows: Tensor, shape) -> list[Tensor]:
    """Vectors (r, n) for each n of `shape`, whose products come near the rows (r, product)."""
    if len(shape) == 1:
        return [rows]
    u, s, vh = small_svd(rows.reshape(len(rows), shape[0], -1))
    return [u[..., 0], *_rank_ones(s[:, :1] * vh[:, 0], shape[1:])]


# ------------------------------------------------------------------------------ Levenberg-Marquardt


def _linearized(problem: _Problem, factors, rest):
    """At these factors: all of them in one tensor, JᴴJ, the gradient, which entries may move."""
    point, normal = torch.cat(factors), problem.normal(factors)
    gradient = torch.cat([m for _, m, _ in mttkrps(rest, factors)])
    free = ~((point <= 0) & (gradient > 0)) if problem.nonnegative else None
    return point, normal, gradient, free


def _descend(problem: _Problem, factors, steps: int, damping: float = FIRST) -> _Path:
    """At most `steps` steps (JᴴJ + damping) p = -Jᴴe. The damping, in units of the largest diagonal
    entry of JᴴJ, falls where the model foresees the drop of |e|^2 well, and grows where it is wrong
    [Nielsen1999]."""
    factors = _even(factors)
    rest, sizes = problem.residual(factors), [len(a) for a in factors]
    cost, moved, growth = _square(rest), True, 4.0
    history, ended, converged = [math.sqrt(cost + problem.outside)], "max_iter steps taken", False
    at = None
    for _ in range(steps):
        if math.sqrt(cost) <= 64 * EPS:
            ended, converged = "exact to rounding", True
            break
        if at is None or moved:
            at = _linearized(problem, factors, rest)
        point, normal, gradient, free = at
        p = normal.solve(-gradient, damping * normal.top, free)
        if problem.nonnegative:
            p = (point + p).clamp_min(0) - point
        foreseen = -float(2 * _inner(gradient, p) + _inner(p, normal.times(p)))
        least = 2 * problem.tol * (cost + problem.outside)
        if 0 <= foreseen <= least and (damping <= SMALL or not moved):
            ended, converged = "the next step lowers the error by less than tol of itself", True
            break
        trial = _even((point + p).split(sizes))
        left = problem.residual(trial)
        drop = cost - _square(left)
        moved = drop > 1e-4 * foreseen > 0
        if moved:
            factors, rest, cost, growth = trial, left, cost - drop, 4.0
            damping = max(LEAST, damping * max(0.1, 1 - (2 * drop / foreseen - 1) ** 3))
        elif math.sqrt(cost) <= 1e4 * EPS:
            ended, converged = "exact to rounding", True
            break
        else:
            damping, growth = damping * growth, growth * 4
            if damping > MOST:
                ended = "no step lowers the error"
                break
        history.append(math.sqrt(cost + problem.outside))
    return _Path(factors, tuple(history), ended, converged, damping)


def _even(factors) -> list[Tensor]:
    """The same terms with columns of equal norm over the modes, which makes one damping fair to
    all."""
    norms = torch.stack([torch.linalg.vector_norm(a, dim=0) for a in factors])
    ratio = norms.log().mean(0).exp() / torch.where(norms > 0, norms, 1)
    return [a * t for a, t in zip(factors, ratio)]


class _Whole:
    """JᴴJ where every entry is known, from Gram matrices alone. Its vectors hold the columns of all
    factors one below the other: (n_0 + n_1 + ..., r)."""

    limit = DENSE

    def __init__(self, factors):
        self.factors, self.sizes = factors, [len(a) for a in factors]
        grams, modes = [a.mT @ a.conj() for a in factors], range(len(factors))
        one = torch.ones_like(grams[0])

        def but(*skip):  # W_S
            return reduce(torch.mul, [g for m, g in enumerate(grams) if m not in skip] or [one])

        pairs = [but(k, m) if k != m else torch.zeros_like(one) for k in modes for m in modes]
        self.pairs = torch.stack(pairs).unflatten(0, (len(factors), -1))  # (d, d, r, r)
        self.own = torch.stack([but(k) for k in modes])  # (d, r, r)
        self.top = float(self.own.diagonal(dim1=-2, dim2=-1).real.max())

    def times(self, v: Tensor) -> Tensor:
        """JᴴJ v."""
        moved = v.split(self.sizes)
        inner = torch.stack([b.mT @ a.conj() for a, b in zip(self.factors, moved)])
        across = (self.pairs * inner).sum(1)
        parts = zip(self.factors, moved, self.own, across)
        return torch.cat([b @ w + a @ m for a, b, w, m in parts])

    def by_modes(self, v: Tensor, damping: float) -> Tensor:
        """v_k (W_k + damping)^-1 for each mode."""
        factors = _cholesky(self.own, damping)
        parts = zip(v.split(self.sizes), factors)
        return torch.cat([torch.cholesky_solve(b.mT, f).mT for b, f in parts])

    def solve(self, v: Tensor, damping: float, free: Tensor | None) -> Tensor:
        """(JᴴJ + damping)^-1 v among the entries that are `free`."""
        r, longest = v.shape[1], max(self.sizes)
        if free is not None or len(self.sizes) * min(longest, r) * r > self.limit:
            return _conjugate_gradients(self, v, damping, free)
        spans = [orthogonalize(a) if len(a) > r else (None, a) for a in self.factors]
        within = [b if q is None else q.mH @ b for (q, _), b in zip(spans, v.split(self.sizes))]
        p = _cholesky_solve(self._dense(_stacked([t for _, t in spans])), _stacked(within), damping)
        p = [b[: len(w)] for b, w in zip(p, within)]
        if longest <= r:
            return torch.cat(p)
        lift = lambda parts: torch.cat(
            [b if q is None else q @ b for (q, _), b in zip(spans, parts)]
        )
        return lift(p) + self.by_modes(v - lift(within), damping)

    def _dense(self, a: Tensor) -> Tensor:
        """JᴴJ for factors a (d, s, r) with the same Gram matrices: (d s r, d s r)."""
        left = (a[:, :, None, :, None] * self.pairs[:, None]).permute(0, 1, 4, 2, 3)  # k i a l b
        h = left[:, :, :, :, None] * a.conj().permute(2, 0, 1)[..., None]  # k i a l j b
        own = h.diagonal(dim1=0, dim2=3).diagonal(dim1=0, dim2=2)  # a b k i
        own.add_(self.own.permute(2, 1, 0)[..., None])
        return h.reshape(a.numel(), a.numel())


class _Masked(_Whole):
    """JᴴJ where only the entries of a mask are known."""

    def __init__(self, factors, mask):
        self.factors, self.sizes, self.mask = factors, [len(a) for a in factors], mask
        grams = [seen_gram(mask, k, others(factors, k)) for k in range(len(factors))]
        self.own = grams  # W of each row, (n_k, r, r)
        self.top = max(float(w.diagonal(dim1=-2, dim2=-1).real.max()) for w in grams)

    def times(self, v: Tensor) -> Tensor:
        moved = _tangent(self.factors, v.split(self.sizes)).mul_(self.mask)
        return torch.cat([m for _, m, _ in mttkrps(moved, self.factors)])

    def by_modes(self, v: Tensor, damping: float) -> Tensor:
        parts = zip(v.split(self.sizes), self.own)
        return torch.cat(
            [torch.cholesky_solve(b[..., None], _cholesky(w, damping))[..., 0] for b, w in parts]
        )

    def solve(self, v: Tensor, damping: float, free: Tensor | None) -> Tensor:
        if v.numel() > DENSE_SEEN:
            return _conjugate_gradients(self, v, damping, free)
        h = self._dense()
        if free is not None:
            v, at = v * free, free.flatten()
            h = h * at * at[:, None]
        return _cholesky_solve(h, v, damping)

    def _dense(self) -> Tensor:
        """JᴴJ, ((n_0 + n_1 + ...) r) squared."""
        r = self.factors[0].shape[1]
        h: list[list] = [[None] * len(self.sizes) for _ in self.sizes]
        for k, a in enumerate(self.factors):
            h[k][k] = a.new_zeros(len(a), r, len(a), r)
            h[k][k].diagonal(dim1=0, dim2=2).copy_(self.own[k].permute(2, 1, 0))
            for m, b in enumerate(self.factors[:k]):
                pair = self.mask.movedim((k, m), (0, 1)).flatten(0, 1)
                gram = seen_gram(pair, 0, others(self.factors, k, m)).unflatten(0, (len(a), -1))
                block = a[:, None, :, None] * b.conj()[:, None] * gram  # i j b a
                h[k][m] = block.permute(0, 3, 1, 2)
                h[m][k] = block.permute(1, 2, 0, 3).conj()
        flat = [[b.reshape(n * r, -1) for b in row] for n, row in zip(self.sizes, h)]
        return torch.cat([torch.cat(row, 1) for row in flat])


def _tangent(factors, moved) -> Tensor:
    """J v: what the tensor does where the factors move by `moved`."""
    half = (len(factors) + 1) // 2
    sides = []
    for lo, hi in ((0, half), (half, len(factors))):
        part = list(factors[lo:hi]) or [torch.ones_like(factors[0][:1])]
        change = [khatri_rao(*part[: k - lo], moved[k], *part[k - lo + 1 :]) for k in range(lo, hi)]
        still = khatri_rao(*part)
        sides.append((still, sum(change, torch.zeros_like(still))))
    (a, da), (b, db) = sides
    return (torch.cat([da, a], 1) @ torch.cat([b, db], 1).mT).reshape([len(f) for f in factors])


def _conjugate_gradients(normal: _Whole, v: Tensor, damping: float, free) -> Tensor:
    """(JᴴJ + damping)^-1 v, about, by conjugate gradients with a preconditioner of blocks; the
    smaller v is, the nearer."""
    hold: Callable = (lambda u: u) if free is None else (lambda u: u * free)
    p, rest = torch.zeros_like(v), hold(v)
    way = z = hold(normal.by_modes(rest, damping))
    size, start = _inner(rest, z), float(torch.linalg.vector_norm(rest))
    for _ in range(PRODUCTS):
        if float(torch.linalg.vector_norm(rest)) <= min(0.1, math.sqrt(start)) * start:
            break
        image = hold(normal.times(way)) + damping * way
        length = size / _inner(way, image)
        p, rest = p + length * way, rest - length * image
        z, last = hold(normal.by_modes(rest, damping)), size
        size = _inner(rest, z)
        way = z + (size / last) * way
    return p


def _cholesky(w: Tensor, damping: float) -> Tensor:
    """Cholesky factors of (W + damping)ᵀ; where it is not positive, no step with them is good."""
    shift = damping * torch.eye(w.shape[-1], dtype=w.dtype, device=w.device)
    return torch.linalg.cholesky_ex(w.mT + shift).L


def _cholesky_solve(h: Tensor, v: Tensor, damping: float) -> Tensor:
    h.diagonal().add_(damping)
    return torch.cholesky_solve(v.reshape(-1, 1), torch.linalg.cholesky_ex(h).L).reshape(v.shape)


def _stacked(parts) -> Tensor:
    """Matrices (n_k, r) as one tensor (d, longest n, r), with rows of zeros below."""
    longest = max(len(a) for a in parts)
    pad = torch.nn.functional.pad
    return torch.stack([pad(a, (0, 0, 0, longest - len(a))) for a in parts])


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a.conj() * b).sum().real


def _square(a: Tensor) -> float:
    return float(torch.linalg.vector_norm(a)) ** 2
