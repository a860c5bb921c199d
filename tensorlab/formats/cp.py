"""The canonical polyadic format and its alternating least squares [KoldaBader2009]."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from string import ascii_letters
from typing import NoReturn

import torch
from torch import Tensor

from ..arguments import check_same, check_shape, count, rank_caps
from ..fit import Fit
from ..linalg import (
    check_dense,
    dense_norm,
    ldexp,
    near_one,
    norm,
    real,
    right_basis,
    safe_scale,
    solve_gram,
    spread,
    triangle,
    wide,
)
from ..multilinear import khatri_rao, unfold
from ..rng import check_generator, rand, randn
from .base import Format, distance

LETTERS = ascii_letters.replace("r", "")
HALVES = (torch.float16, torch.bfloat16)
HALS_PASSES = 5  # rounds over the columns in each nonnegative update


@dataclass(frozen=True, eq=False, repr=False)
class CP(Format):
    """Sum of r rank-one tensors: x[i_0, ..., i_{d-1}] = sum_r w_r F_0[i_0, r] ... F_{d-1}[i_{d-1},
    r].

    weights: (r,).  factors: d matrices (n_k, r).  ranks: (r,).

    >>> CP.randn((4, 5, 6), rank=3, generator=torch.Generator().manual_seed(0))
    CP(shape=(4, 5, 6), ranks=(3,), stores 48 of 120)
    """

    weights: Tensor
    factors: tuple[Tensor, ...]

    _terms = -1

    def _check(self):
        got = [tuple(f.shape) for f in self.factors]
        r = tuple(self.weights.shape)
        if not got or len(r) != 1 or any(len(g) != 2 or g[1:] != r or 0 in g for g in got):
            raise ValueError(f"CP: needs weights (r,) and factors (n, r), got shapes {r} and {got}")
        check_same("CP", self.tensors())

    @classmethod
    def randn(cls, shape, rank: int, *, generator=None, dtype=None, device=None) -> "CP":
        """Gaussian factors and equal weights, scaled so that the entries have variance 1.

        shape: (n_0, ..., n_{d-1}).
        rank: the number of terms.
        generator, dtype, device: as in `torch.randn`.
        """
        shape = check_shape("CP.randn", shape)
        (r,) = rank_caps("CP.randn", rank, None, shape, 1)
        factors = tuple(randn(n, r, generator=generator, dtype=dtype, device=device) for n in shape)
        return cls(torch.full_like(factors[0][0], r**-0.5), factors)

    @property
    def shape(self) -> tuple[int, ...]:
        """The rows (n_0, ..., n_{d-1}) of the factors."""
        return tuple(f.shape[0] for f in self.factors)

    @property
    def ranks(self) -> tuple[int, ...]:
        """(r,), the number of terms."""
        return tuple(self.weights.shape)

    def _dense(self):
        half = (self.ndim + 1) // 2
        left, right = khatri_rao(*self.factors[:half]), self.factors[half:]
        if not right:
            return (left @ self.weights).reshape(self.shape)
        return ((left * self.weights) @ khatri_rao(*right).mT).reshape(self.shape)

    def _norm(self):
        """By orthogonalizing the Khatri-Rao product mode by mode: right for nearly canceling terms
        too."""
        r, exponent = self.weights[None], 0
        for f in self.factors:
            r, shift = near_one(triangle(khatri_rao(r, f)))
            exponent = exponent + shift
        return ldexp(norm(r.sum(1)), exponent)

    def _dot(self, other):
        g, exponent = torch.outer(self.weights.conj(), other.weights), 0
        for a, b in zip(self.factors, other.factors):
            g, shift = near_one(g * (a.mH @ b))
            exponent = exponent + shift
        return ldexp(g.sum(), exponent)

    def at(self, index) -> Tensor:
        """Entries at many multi-indices: (batch, d) -> (batch,).

        Each term keeps a separate exponent, as it may grow in one mode and shrink in another.
        """
        terms, exponent = near_one(self.weights, ())
        for f, i in zip(self.factors, self._index(index).unbind(1)):
            terms, shift = near_one(terms * f[i], ())
            exponent = exponent + shift
        return ldexp(terms, exponent).sum(-1)

    def normalized(self) -> "CP":
        """The same tensor with unit columns in the factors and the weights descending; weights real
        and >= 0 as far as the terms allow (signs and phases stay in the first factor). Where the
        dtype cannot hold the weights, the factors share their size."""
        given, *factors = self.to(wide(self.dtype)).tensors()
        size = torch.where(given == 0, 1, given.abs())
        (weights, exponent), units = near_one(given.abs(), ()), []
        for f in factors:
            y, shift = near_one(f, 0)
            length = torch.linalg.vector_norm(y, dim=0)
            units.append(y / torch.where(length > 0, length, 1))
            weights, more = near_one(weights * length, ())
            exponent = exponent + shift[0] + more
        units[0] = units[0] * (given / size)
        weights = ldexp(weights, exponent)
        order = weights.detach().argsort(descending=True)
        ordered = CP(weights[order].to(given.dtype), tuple(u[:, order] for u in units))
        return CP(*_narrow(ordered, 0, self.dtype))

    def round(self, rank=None, *, rtol: float | None = None) -> NoReturn:
        """Raises TypeError: no SVD truncates a sum of rank-one terms that are not orthogonal.

        A CP of lower rank is fitted anew: `cp_als(x.to_dense(), rank)`.
        """
        raise TypeError(
            "CP.round: needs a format that SVDs can truncate, got CP; `cp_als` fits one"
        )

    def _add(self, other):
        pairs = zip(self.factors, other.factors)
        return CP(torch.cat([self.weights, other.weights]), tuple(torch.cat(p, 1) for p in pairs))

    def _times(self, other):
        def columns(a, b):
            return (a[..., :, None] * b[..., None, :]).flatten(-2)

        pairs = zip(self.factors, other.factors)
        return CP(columns(self.weights, other.weights), tuple(columns(a, b) for a, b in pairs))


def cp_als(
    x: Tensor,
    rank: int,
    *,
    init: str | CP = "hosvd",
    tol: float = 1e-8,
    max_iter: int = 200,
    nonnegative: bool = False,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Fit[CP]:
    """CP decomposition by alternating least squares [KoldaBader2009, Fig. 3.3].

        minimize | mask * (x - sum_r w_r a_r ∘ b_r ∘ c_r ∘ ...) |

    x: (n_0, ..., n_{d-1}).
    rank: the number of terms.
    init: "hosvd" (leading singular vectors, random columns where rank > n), "random", or a CP to
        start from, which is not changed.
    tol: the sweeps end when the relative error changes by less than this.
    max_iter: the most sweeps.
    nonnegative: factors and weights >= 0, by HALS [CichockiPhan2009].
    mask: True where x is known; None: everywhere.
    generator: draws random columns; None: torch's global one.

    history holds the relative error after each sweep, with a mask that of the observed entries; the
    last is that of the value, with what rounding to x.dtype adds. ALS may crawl through a swamp or
    meet a degenerate pair of terms that grow and cancel: the history and the weights show it.

    >>> g = torch.Generator().manual_seed(0)
    >>> x = CP.randn((5, 6, 7), 2, generator=g, dtype=torch.float64).to_dense()
    >>> cp_als(x, 2).history[-1] < 1e-6
    True
    """
    max_iter, history, converged = count("cp_als", "max_iter", max_iter), [], False
    sweeps = _sweeps(x, rank, init, nonnegative, mask, generator)
    while not converged and len(history) < max_iter:
        cp, error = next(sweeps)
        history.append(error)
        converged = len(history) > 1 and abs(history[-2] - error) < tol
    if cp.dtype != wide(cp.dtype):  # rounding has moved it
        history[-1] = _missed(x, mask, cp)
    return Fit(cp, tuple(history), converged)


def cp_als_steps(
    x: Tensor, rank: int, *, init="hosvd", nonnegative=False, mask=None, generator=None
) -> Iterator[tuple[CP, float]]:
    """The sweeps of `cp_als`, one after another without end: pairs of the CP so far and its
    relative error.

    x, rank, init, nonnegative, mask, generator: as in `cp_als`.

    >>> x = torch.ones(3, 4, 5)
    >>> cp, error = next(cp_als_steps(x, 1))
    >>> round(error, 3)
    0.0
    """
    for cp, error in _sweeps(x, rank, init, nonnegative, mask, generator):
        yield cp, _missed(x, mask, cp) if cp.dtype in HALVES else error


def _sweeps(x, rank, init, nonnegative, mask, generator):
    """`cp_als_steps`, the errors before the CP is rounded to a half dtype."""
    mask = check_mask("cp_als", mask, x)
    x = x if mask is None else x.masked_fill(~mask, 0)  # what is unknown may be anything, NaN too
    size = dense_norm(x, "cp_als")
    (r,) = rank_caps("cp_als", rank, None, x.shape, 1)
    check_generator("cp_als", generator)
    if nonnegative and x.is_complex():
        raise TypeError(f"cp_als: a nonnegative fit needs real entries, got {x.dtype}")
    dtype = x.dtype
    x = x.float() if dtype in HALVES else x
    scale = safe_scale(size, 1e90 if x.dtype == wide(x.dtype) else 1e9)
    x = x if scale == 1.0 else x * scale
    size = float(torch.linalg.vector_norm(x.detach(), dtype=wide(x.dtype)))

    weights, factors = cp_start("cp_als", x, r, init, scale, nonnegative, generator)
    grams = [f.mT @ f.conj() for f in factors]
    while True:
        products = mttkrps(x, factors) if mask is None else _masked_products(x, mask, factors)
        for k, m, gamma in products:
            # minimize | x_(k) - a KRᵀ |, KR the Khatri-Rao product of the others: a Γ = m
            if gamma is None:
                gamma = math.prod(grams[:k] + grams[k + 1 :], start=torch.ones_like(grams[0]))
            a = _hals(m, gamma, factors[k] * weights) if nonnegative else _solve_rows(m, gamma)
            weights = torch.linalg.vector_norm(a, dim=0)
            factors[k] = a / torch.where(weights > 0, weights, torch.ones_like(weights))
            grams[k] = factors[k].mT @ factors[k].conj()
        cp = CP(weights.to(x.dtype), tuple(factors))
        error = _relative_error(x, mask, cp, m, gamma, a, size)
        yield CP(*_narrow(cp, 1 - math.frexp(scale)[1], dtype)), error


def _narrow(cp: CP, exponent, dtype):
    """Weights and factors of 2^exponent times a CP, in `dtype`."""
    weights, *factors = spread(cp.tensors(), 0, exponent, dtype)
    return weights, tuple(factors)


def of_length(weights, factors, length: float, dtype) -> CP:
    """`length` times a CP, in `dtype`."""
    mantissa, exponent = math.frexp(length)
    weights, *factors = spread([weights * mantissa, *factors], 0, exponent, dtype)
    return CP(weights, tuple(factors))


def _missed(x, mask, cp) -> float:
    """The relative error of a CP as it is held, with a mask that of the observed entries."""
    mask = check_mask("cp_als", mask, x)
    return distance(x if mask is None else x.masked_fill(~mask, 0), cp, mask)


def _solve_rows(m: Tensor, gamma: Tensor) -> Tensor:
    """a with a Γ = m row by row; Γ (r, r) for all rows, or (n, r, r) with one for each."""
    if gamma.ndim == 2:
        return solve_gram(gamma.mT, m.mT).mT
    return solve_gram(gamma.mT, m[:, :, None])[:, :, 0]


def _times_gamma(a, gamma):
    return a @ gamma if gamma.ndim == 2 else (a[:, None, :] @ gamma)[:, 0]


def _hals(m, gamma, a):
    """Nonnegative least squares for a Γ = m, column by column: a_r <- max(0, a_r + (m - a Γ)_r /
    Γ_rr)."""
    a = a.clone()
    for _ in range(HALS_PASSES):
        for r in range(a.shape[1]):
            grr = gamma[..., r, r].clamp_min(torch.finfo(a.dtype).tiny)
            gradient = m[:, r] - _times_gamma(a, gamma[..., r : r + 1])[:, 0]
            column = (a[:, r] + gradient / grr).clamp_min(0)[:, None]
            a = a.index_copy(1, a.new_tensor([r], dtype=torch.long), column)
    return a


def mttkrps(x: Tensor, factors: list[Tensor]):
    """For each mode k in turn, the unfolding x_(k) times the conjugate Khatri-Rao product of the
    *current* others.

    The tensor is met twice a sweep, not d times: its product with the right half of the factors
    serves the left half of the modes, and the other way round [Phan2013].
    """
    d, r = x.ndim, factors[0].shape[1]
    half = max(1, d // 2)
    matrix = x.reshape(math.prod(x.shape[:half]), -1)
    for lo, hi in ((0, half), (half, d)):
        if lo == hi:
            return
        others = factors[half:] if lo == 0 else factors[:half]
        kr = x.new_ones(r, 1)  # rank first, in rows: narrow products are faster so, and
        for f in others:  # what follows are r small contiguous problems
            kr = (kr[:, :, None] * f.mH.contiguous()[:, None]).reshape(r, -1)
        part = (kr @ matrix.mT if lo == 0 else kr @ matrix).reshape(r, *x.shape[lo:hi])
        modes = LETTERS[: hi - lo]
        for k in range(lo, hi):
            rest = [j for j in range(lo, hi) if j != k]
            terms = ",".join(["r" + modes, *(modes[j - lo] + "r" for j in rest)])
            inner = (factors[j].conj() for j in rest)
            yield k, torch.einsum(f"{terms}->{modes[k - lo]}r", part, *inner), None


def _masked_products(x: Tensor, mask: Tensor, factors: list[Tensor]):
    """As `mttkrps`, with Γ of each row from its observed entries only: (n, r, r). x is zero where
    unknown."""
    for k in range(x.ndim):
        kr = others(factors, k)
        yield k, unfold(x, k) @ kr.conj(), seen_gram(mask, k, kr)


def others(factors, *but: int) -> Tensor:
    """Khatri-Rao product of all factors but those of some modes."""
    rest = [f for k, f in enumerate(factors) if k not in but]
    return khatri_rao(*rest) if rest else factors[0].new_ones(1, factors[0].shape[1])


def seen_gram(mask: Tensor, k: int, kr: Tensor) -> Tensor:
    """Γ of each row of the unfolding k from its observed entries, (n_k, r, r), with the Khatri-Rao
    product of the other factors."""
    r, seen = kr.shape[1], unfold(mask, k).to(kr.dtype)
    step = max(1, (1 << 22) // r**2)  # columns at a time: 2^22 numbers
    gamma = seen.new_zeros(len(seen), r * r)
    for some, columns in zip(kr.split(step), seen.split(step, 1)):
        squares = (some[:, :, None] * some[:, None, :].conj()).flatten(1)
        gamma = gamma + columns @ squares
    return gamma.reshape(-1, r, r)


def _relative_error(x, mask, cp, m, gamma, a, size):
    """|x - cp| / |x| from the last least-squares problem, |x|² - 2 Re <m, a> + <a Γ, a>: no pass
    over the data.

    Where the difference of squares keeps less than three digits, the residual is formed.
    """
    if size == 0.0:
        return 0.0
    with torch.no_grad():
        m, gamma, a = (t.detach().to(wide(x.dtype)) for t in (m, gamma, a))
        square = size**2 + float(((_times_gamma(a, gamma) - 2 * m) * a.conj()).real.sum())
        if square < 1024 * torch.finfo(x.dtype).eps * size**2:
            rest = x - cp.to_dense() if mask is None else (x - cp.to_dense()) * mask
            return float(torch.linalg.vector_norm(rest, dtype=wide(x.dtype))) / size
    return math.sqrt(square) / size


def cp_start(who: str, x, r, init, scale, nonnegative, generator):
    """Weights (r,) and factors (n_k, r) with unit columns to start from.

    who: the function that the user called, for the error.
    x: the tensor, already multiplied by `scale`.
    r: the number of terms.
    init: as in `cp_als`.
    scale: what a CP given as `init` is multiplied by, as x was.
    nonnegative: whether factors must be >= 0; a CP given as `init` with others is refused.
    generator: draws random columns; None: torch's global one.

    Raises ValueError for an `init` that is unknown, does not fit or has negative numbers where none
    are allowed.
    """
    if isinstance(init, CP):
        if init.shape != tuple(x.shape) or init.ranks != (r,):
            raise ValueError(
                f"{who}: init needs shape {tuple(x.shape)} and rank {r}, got shape {init.shape} "
                f"and rank {init.ranks[0]}"
            )
        for t in init.tensors():
            check_dense(t, f"{who}: init")
        if nonnegative and any(bool((t < 0).any()) for t in init.tensors()):
            raise ValueError(
                f"{who}: a nonnegative fit needs an init without negative numbers, got some"
            )
        if init.dtype.is_complex and not x.is_complex():
            raise ValueError(f"{who}: init needs real numbers for x of {x.dtype}, got {init.dtype}")
        cp = init.to(dtype=x.dtype, device=x.device).scale(scale).normalized()
        return cp.weights, list(cp.factors)
    options = dict(generator=generator, dtype=x.dtype, device=x.device)
    if init == "random":
        factors = [(rand if nonnegative else randn)(n, r, **options) for n in x.shape]
    elif init == "hosvd":
        factors = []
        for k, n in enumerate(x.shape):
            u = right_basis(unfold(x.detach(), k).mH, min(r, n))[0].to(x.dtype)
            if u.shape[1] < r:
                u = torch.cat([u, randn(n, r - u.shape[1], **options) / n**0.5], 1)
            factors.append(u.abs() if nonnegative else u)
    else:
        raise ValueError(f'cp_als: init must be "hosvd", "random" or a CP, got {init!r}')
    size = torch.linalg.vector_norm(x.detach(), dtype=wide(x.dtype)).to(real(x.dtype))
    return size.expand(r), [f / torch.linalg.vector_norm(f, dim=0) for f in factors]


def check_mask(who: str, mask, x):
    if mask is None or not isinstance(x, Tensor):
        return None
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != x.shape:
        got = (
            f"{mask.dtype} of shape {tuple(mask.shape)}"
            if isinstance(mask, Tensor)
            else type(mask).__name__
        )
        raise ValueError(f"{who}: mask needs booleans of shape {tuple(x.shape)}, got {got}")
    if not mask.any():
        raise ValueError(f"{who}: mask needs at least one observed entry, got none")
    return mask.to(x.device)
