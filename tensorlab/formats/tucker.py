"""The Tucker format and the higher-order SVDs [DeLathauwer2000] [Vannieuwenhoven2012]."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arguments import check_same, check_shape, count, rank_caps
from ..capture import read
from ..fit import Fit
from ..linalg import (
    check_cut,
    cut_norm,
    dense_norm,
    near_one,
    norm,
    orthogonalize,
    project,
    right_basis,
    safe_scale,
    spread,
    wide,
    zero_level,
)
from ..multilinear import mode_product, unfold
from ..rng import randn
from .base import Format, distance


@dataclass(frozen=True, eq=False, repr=False)
class Tucker(Format):
    """A small core multiplied by a matrix along each mode: x = core ×_0 U_0 ×_1 U_1 ... ×_{d-1}
    U_{d-1}.

    core: (r_0, ..., r_{d-1}).  factors: d matrices (n_k, r_k).  ranks: (r_0, ..., r_{d-1}).

    >>> Tucker.randn((4, 5, 6), rank=2, generator=torch.Generator().manual_seed(0))
    Tucker(shape=(4, 5, 6), ranks=(2, 2, 2), stores 38 of 120)
    """

    core: Tensor
    factors: tuple[Tensor, ...]

    def _check(self):
        got, core = [tuple(f.shape) for f in self.factors], tuple(self.core.shape)
        if (
            not got
            or 0 in core
            or any(len(g) != 2 or 0 in g for g in got)
            or core != tuple(g[1] for g in got)
        ):
            raise ValueError(
                f"Tucker: needs a core (r_0, r_1, ...) and factors (n_k, r_k), got shapes {core} "
                f"and {got}"
            )
        check_same("Tucker", self.tensors())

    @classmethod
    def randn(cls, shape, rank, *, generator=None, dtype=None, device=None) -> "Tucker":
        """Gaussian core and factors, scaled so that the entries have variance 1; ranks are capped
        by the mode sizes.

        shape: (n_0, ..., n_{d-1}).
        rank: one integer for all modes, or d of them.
        generator, dtype, device: as in `torch.randn`.
        """
        shape = check_shape("Tucker.randn", shape)
        ranks = [
            min(r, n)
            for r, n in zip(rank_caps("Tucker.randn", rank, None, shape, len(shape)), shape)
        ]
        options = dict(generator=generator, dtype=dtype, device=device)
        factors = tuple(randn(n, r, **options) / r**0.5 for n, r in zip(shape, ranks))
        return cls(randn(*ranks, **options), factors)

    @property
    def shape(self) -> tuple[int, ...]:
        """The rows (n_0, ..., n_{d-1}) of the factors."""
        return tuple(f.shape[0] for f in self.factors)

    @property
    def ranks(self) -> tuple[int, ...]:
        """(r_0, ..., r_{d-1}), the shape of the core."""
        return tuple(self.core.shape)

    def _dense(self):
        return _multiply(self.core, self.factors)

    def orthogonal(self) -> "Tucker":
        """The same tensor with orthonormal factors; the core carries the norm."""
        even = self._even()
        bases, triangles = zip(*(orthogonalize(f) for f in even.factors))
        return Tucker(_multiply(even.core, triangles), bases)

    def round(self, rank=None, *, rtol: float | None = None) -> "Tucker":
        """The Tucker tensor of smaller ranks within a tolerance: `st_hosvd` of the core of the
        orthogonal form."""
        caps = rank_caps("Tucker.round", rank, rtol, self.shape, self.ndim)
        for t in self.tensors():
            check_cut(t, "Tucker.round", rank)
        whole = self.to(wide(self.dtype)).orthogonal()
        core, exponent = near_one(whole.core)
        size = read(torch.linalg.vector_norm(core.detach()))
        small = _truncate(core, size, caps, rtol, self.dtype)
        factors = [a @ b for a, b in zip(whole.factors, small.factors)]
        return _narrow(small.core, factors, exponent, self.dtype)

    def _norm(self):
        return norm(self.orthogonal().core)

    def _dot(self, other):
        core = _multiply(other.core, [a.mH @ b for a, b in zip(self.factors, other.factors)])
        return (self.core.conj() * core).sum()

    def _at(self, index):
        out = self.factors[0][index[:, 0]] @ self.core.reshape(self.ranks[0], -1)
        for k in range(1, self.ndim):
            rows = self.factors[k][index[:, k]][:, None, :]
            rest = math.prod(self.ranks[k + 1 :])
            out = (rows @ out.reshape(len(index), self.ranks[k], rest))[:, 0]
        return out[:, 0]

    def _add(self, other):
        factors = tuple(torch.cat(p, 1) for p in zip(self.factors, other.factors))
        pad = torch.nn.functional.pad  # takes the last mode first
        core = pad(self.core, [m for r in other.ranks[::-1] for m in (0, r)])
        return Tucker(
            core + pad(other.core, [m for r in self.ranks[::-1] for m in (r, 0)]), factors
        )

    def _times(self, other):
        factors = tuple(
            (a[:, :, None] * b[:, None, :]).flatten(1) for a, b in zip(self.factors, other.factors)
        )
        core = torch.tensordot(self.core, other.core, 0)
        order = [j for k in range(self.ndim) for j in (k, self.ndim + k)]
        return Tucker(core.permute(order).reshape([f.shape[1] for f in factors]), factors)


def hosvd(x: Tensor, rank=None, *, rtol: float | None = None) -> Tucker:
    """Higher-order SVD: leading left singular vectors of every unfolding of x [DeLathauwer2000].

        |x - tucker| <= (rtol + 64 eps) |x|
            when `rank` does not cut earlier, and <= sqrt(d) times the best error

    x: (n_0, ..., n_{d-1}). `rank`: a cap, one integer or d of them. Each mode may lose rtol |x| /
    sqrt(d). `st_hosvd` is cheaper and usually as good.

    >>> hosvd(torch.ones(4, 5, 6), rtol=1e-3).ranks
    (1, 1, 1)
    """
    size = cut_norm(x, "hosvd", rank)
    caps = rank_caps("hosvd", rank, rtol, x.shape, x.ndim)
    dtype, scale = x.dtype, safe_scale(size)
    x = x if scale == 1.0 else x * scale
    size *= scale
    cut = dict(atol=_share(rtol, x.ndim, dtype) * size, size=size)
    factors = [right_basis(unfold(x, k).mH, caps[k], **cut)[0] for k in range(x.ndim)]
    core = x
    for f in factors:  # the mode at the front is multiplied and goes to the back
        core = project(core.reshape(core.shape[0], -1).mT, f.conj()).reshape(
            *core.shape[1:], f.shape[1]
        )
    return _narrow(core, factors, 1 - math.frexp(scale)[1], dtype)


def st_hosvd(x: Tensor, rank=None, *, rtol: float | None = None) -> Tucker:
    """Sequentially truncated higher-order SVD: each mode is cut from what the last cut left
    [Vannieuwenhoven2012].

        |x - tucker| <= (rtol + 64 eps) |x|
            when `rank` does not cut earlier, and <= sqrt(d) times the best error

    x: (n_0, ..., n_{d-1}). `rank`: a cap, one integer or d of them. The modes are cut in order;
    after each the tensor is smaller, so the first costs most.

    >>> st_hosvd(torch.ones(4, 5, 6), rtol=1e-3)
    Tucker(shape=(4, 5, 6), ranks=(1, 1, 1), stores 16 of 120)
    """
    size = cut_norm(x, "st_hosvd", rank)
    caps = rank_caps("st_hosvd", rank, rtol, x.shape, x.ndim)
    scale = safe_scale(size)
    y = x if scale == 1.0 else x * scale
    tucker = _truncate(y, size * scale, caps, rtol, x.dtype)
    return _narrow(tucker.core, tucker.factors, 1 - math.frexp(scale)[1], x.dtype)


def hooi(x: Tensor, rank, *, tol: float = 1e-8, max_iter: int = 50) -> Fit[Tucker]:
    """Higher-order orthogonal iteration: from `st_hosvd`, improve one factor after another
    [DeLathauwer2000b].

        maximize | x ×_0 U_0ᴴ ... ×_{d-1} U_{d-1}ᴴ |  over orthonormal U_k (n_k, r_k)

    x: (n_0, ..., n_{d-1}). `rank`: one integer or d of them. Stops when the relative error changes
    by less than `tol`; history holds the relative error after each sweep, which never grows; the
    last is that of the value, with what rounding to x.dtype adds.

    >>> hooi(torch.ones(4, 5, 6), 1).value.ranks
    (1, 1, 1)
    """
    size = dense_norm(x, "hooi")
    caps = rank_caps("hooi", rank, None, x.shape, x.ndim)
    max_iter, dtype, scale = count("hooi", "max_iter", max_iter), x.dtype, safe_scale(size)
    y = x if scale == 1.0 else x * scale
    start = _truncate(y, size * scale, caps, None, dtype)
    y, factors, ranks = y.to(start.dtype), list(start.factors), start.ranks
    size = float(torch.linalg.vector_norm(y.detach()))
    history, converged = [], False
    while not converged and len(history) < max_iter:
        for k in range(y.ndim):
            z = _multiply(y, [None if j == k else f.mH for j, f in enumerate(factors)])
            factors[k] = right_basis(unfold(z, k).mH, ranks[k])[0]
        core = mode_product(z, factors[-1].mH, y.ndim - 1)
        history.append(_relative_error(y, Tucker(core, tuple(factors)), size))
        converged = len(history) > 1 and abs(history[-2] - history[-1]) < tol
    value = _narrow(core, factors, 1 - math.frexp(scale)[1], dtype)
    if dtype != y.dtype:  # rounding has moved it
        history[-1] = distance(x, value)
    return Fit(value, tuple(history), converged)


def _truncate(x: Tensor, size: float, caps, rtol, dtype) -> Tucker:
    """`st_hosvd` in float64 of a tensor of norm `size`, a moderate one; the mode at the front is
    cut and goes to the back."""
    delta = size * _share(rtol, x.ndim, dtype)
    core, factors, known = x, [], size
    for cap in caps:
        matrix = core.reshape(core.shape[0], -1).mT  # (the others, n_k)
        v, _ = right_basis(matrix, cap, atol=delta, size=known)
        known = None  # what is left is smaller
        factors.append(v.conj())
        core = project(matrix, v).reshape(*core.shape[1:], v.shape[1])
    return Tucker(core, tuple(factors))


def _narrow(core: Tensor, factors, exponent, dtype) -> Tucker:
    """2^exponent times a Tucker tensor, in `dtype`."""
    core, *factors = spread([core, *factors], 0, exponent, dtype)
    return Tucker(core, tuple(factors))


def _share(rtol, d, dtype):
    """What each of d cuts may lose, relative to the norm."""
    return max((rtol or 0.0) / math.sqrt(d), zero_level(dtype))


def _multiply(core: Tensor, factors) -> Tensor:
    """core times a matrix along each mode, those that shrink it most first; None leaves a mode as
    it is."""
    todo = [k for k, f in enumerate(factors) if f is not None]
    for k in sorted(todo, key=lambda k: factors[k].shape[0] / factors[k].shape[1]):
        core = mode_product(core, factors[k], k)
    return core


def _relative_error(x, tucker, size):
    """|x - tucker| / |x| from the norm of the core; formed where the difference of squares keeps
    less than three digits."""
    if size == 0.0:
        return 0.0
    with torch.no_grad():
        square = 1 - (float(torch.linalg.vector_norm(tucker.core)) / size) ** 2
        if square < 1024 * torch.finfo(torch.float64).eps:
            return float(torch.linalg.vector_norm(x - tucker.to_dense())) / size
    return math.sqrt(square)
