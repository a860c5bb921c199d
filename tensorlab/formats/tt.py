"""Tensor trains [Oseledets2011]: the format, its arithmetic, TT-SVD and rounding.

TT-SVD here works from both ends: it takes modes off the end that is cheaper, several small ones at
once as a slab, and replaces them by the leading basis of the slab (`linalg.right_basis`), so that
already the first pass over the data shrinks it [RohrigZollner2022].
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arguments import is_integer
from ..linalg import (
    check_dense,
    orthogonalize,
    project,
    rank_caps,
    right_basis,
    safe_scale,
    triangle,
    truncated_svd,
    wide,
    zero_level,
)
from ..rng import randn
from .base import Format, check_same, check_shape

SLAB = 64  # columns up to which trailing modes are merged


@dataclass(frozen=True, eq=False, repr=False)
class TT(Format):
    """Tensor train: x[i_0, ..., i_{d-1}] = G_0[i_0] G_1[i_1] ... G_{d-1}[i_{d-1}], a product of
    matrices.

    cores: d tensors, core k of shape (r_k, n_k, r_{k+1}) with r_0 = r_d = 1. ranks: the d-1 free
    ones.

    >>> TT.randn((4, 5, 6), rank=3, generator=torch.Generator().manual_seed(0))
    TT(shape=(4, 5, 6), ranks=(3, 3), stores 75 of 120)
    """

    cores: tuple[Tensor, ...]

    def _check(self):
        got = [tuple(c.shape) for c in self.cores]
        chained = all(a[-1:] == b[:1] for a, b in zip(got, got[1:]))
        if (
            not got
            or any(len(g) != 3 or 0 in g for g in got)
            or not chained
            or got[0][0] != 1
            or got[-1][2] != 1
        ):
            raise ValueError(
                f"TT: needs cores (r_left, n, r_right) that chain from rank 1 to rank 1, got "
                f"shapes {got}"
            )
        check_same("TT", self.cores)

    @classmethod
    def randn(cls, shape, rank, *, generator=None, dtype=None, device=None) -> "TT":
        """Gaussian cores, scaled so that the entries have variance 1; ranks are capped by the
        unfoldings'."""
        shape = check_shape("TT.randn", shape)
        caps = rank_caps("TT.randn", rank, None, shape, len(shape) - 1)
        r = [1, *(min(c, m) for c, m in zip(caps, unfolding_ranks(shape))), 1]
        options = dict(generator=generator, dtype=dtype, device=device)
        return cls(
            tuple(randn(r[k], n, r[k + 1], **options) / r[k] ** 0.5 for k, n in enumerate(shape))
        )

    @property
    def shape(self):
        return tuple(c.shape[1] for c in self.cores)

    @property
    def ranks(self):
        return tuple(c.shape[0] for c in self.cores[1:])

    def to_dense(self) -> Tensor:
        out = self.cores[0].reshape(-1, self.cores[0].shape[2])
        for core in self.cores[1:]:
            r, _, q = core.shape
            out = (out @ core.reshape(r, -1)).reshape(-1, q)
        return out.reshape(self.shape)

    def norm(self) -> Tensor:
        """Frobenius norm by orthogonalisation: right to full accuracy for differences too, and for
        any d and scale."""
        r, exponent = self.cores[0].new_ones(1, 1).to(wide(self.dtype)), 0
        for core in self.cores:
            r, shift = _near_one(triangle(torch.tensordot(r, core.to(r.dtype), 1).flatten(0, 1)))
            exponent += shift
        size = torch.linalg.matrix_norm(r)
        for part in (
            exponent // 2,
            exponent - exponent // 2,
        ):  # in two steps: 2^exponent alone may not be a float
            size = size * math.ldexp(1.0, min(part, 1023))
        return size.to(self.dtype.to_real())

    def dot(self, other: "TT") -> Tensor:
        """<self, other> = sum of conj(self) * other, in d (r^2 q + r q^2) n operations."""
        self, other = self._pair(other, "dot")
        e = self.cores[0].new_ones(1, 1)
        for a, b in zip(self.cores, other.cores):
            e = a.conj().reshape(-1, a.shape[2]).mT @ (e @ b.reshape(b.shape[0], -1)).reshape(
                -1, b.shape[2]
            )
        return e.reshape(())

    def at(self, index) -> Tensor:
        """Entries at many multi-indices: (batch, d) -> (batch,).

        The batch is sorted by its index in each mode in turn, so that a mode costs one matrix
        product per index value and no core is gathered once per entry.
        """
        index = self._index(index)
        v = self.cores[0][0].index_select(0, index[:, 0])  # (batch, r)
        for core, i in zip(self.cores[1:], index.unbind(1)[1:]):
            counts = torch.bincount(i, minlength=core.shape[1]).tolist()
            order = torch.argsort(i)
            parts = v.index_select(0, order).split(counts)
            v = torch.cat([p @ m for p, m in zip(parts, core.unbind(1))])
            v = torch.empty_like(v).index_copy(0, order, v)
        return v[:, 0]

    def orthogonal(self, center: int = 0) -> "TT":
        """The same train with orthonormal cores on both sides of `center`, which alone carries the
        norm."""
        d = self.ndim
        if not is_integer(center) or not 0 <= center < d:
            raise ValueError(f"TT.orthogonal: center must be in 0..{d - 1}, got {center}")
        cores = list(self.cores)
        for k in range(center):
            cores[k], cores[k + 1] = _push_right(cores[k], cores[k + 1])
        for k in range(d - 1, center, -1):
            cores[k], cores[k - 1] = (
                _mirror(c) for c in _push_right(_mirror(cores[k]), _mirror(cores[k - 1]))
            )
        return TT(tuple(cores))

    def round(self, rank=None, *, rtol: float | None = None) -> "TT":
        return tt_round(self, rank, rtol=rtol)

    def _add(self, other):
        if self.ndim == 1:
            return TT((self.cores[0] + other.cores[0],))
        cores = [torch.cat([self.cores[0], other.cores[0]], 2)]
        for a, b in zip(self.cores[1:-1], other.cores[1:-1]):
            top = torch.cat([a, a.new_zeros(a.shape[0], a.shape[1], b.shape[2])], 2)
            cores.append(
                torch.cat(
                    [top, torch.cat([b.new_zeros(b.shape[0], b.shape[1], a.shape[2]), b], 2)], 0
                )
            )
        return TT((*cores, torch.cat([self.cores[-1], other.cores[-1]], 0)))

    def _times(self, other):
        pairs = zip(self.cores, other.cores)
        return TT(
            tuple(torch.einsum("anb,cnd->acnbd", a, b).flatten(3).flatten(0, 1) for a, b in pairs)
        )


def tt_svd(x: Tensor, rank=None, *, rtol: float | None = None) -> TT:
    """Tensor train of a dense tensor, by truncated SVDs of its unfoldings [Oseledets2011, Alg. 1].

        |x - tt| <= (rtol + 64 eps) |x|      when `rank` does not cut earlier, eps that of x.dtype, d <= 10

    x: (n_0, ..., n_{d-1}). `rank`: a cap, one integer or d-1 of them. Each of the d-1 cuts may lose
    rtol |x| / sqrt(d-1), and their errors are orthogonal. The cut that each step makes is found
    from a small Gram matrix (`right_basis`); the scale stays on the dense side, so no later cut
    sees a distorted norm. The cores come orthonormal up to one in the middle, which carries the
    norm. Raises ValueError or TypeError for a bad rank, rtol or tensor.

    >>> i = torch.arange(1.0, 9.0, dtype=torch.float64)
    >>> tt_svd(1 / (i[:, None, None] + i[:, None] + i), rtol=1e-2)
    TT(shape=(8, 8, 8), ranks=(2, 2), stores 64 of 512)
    """
    size = check_dense(x, "tt_svd")
    caps = rank_caps("tt_svd", rank, rtol, x.shape, x.ndim - 1)
    scale = safe_scale(size)
    modes, dtype = list(x.shape), x.dtype
    delta = size * scale * max((rtol or 0.0) / math.sqrt(max(1, x.ndim - 1)), zero_level(dtype))

    y = x if scale == 1.0 else x * scale  # (a, modes lo..hi-1, b): what is still dense
    left, right, a, b, lo, hi = [], [], 1, 1, 0, len(modes)
    while hi - lo > 1:
        p, q = _slab(modes[lo:hi], a), _slab(modes[lo:hi][::-1], b)
        rows, columns = a * math.prod(modes[lo : lo + p]), math.prod(modes[hi - q : hi]) * b
        if columns <= rows:
            matrix = y.reshape(-1, columns)
            v, s = right_basis(matrix, caps[hi - q - 1], atol=delta)
            slab = v.mH.reshape(-1, *modes[hi - q : hi], b)
            y, b, hi = project(matrix, v), len(s), hi - q
            right = _split(slab, _weight(y, s), caps[hi : hi + q - 1], delta) + right
        else:  # the same from the left, mirrored
            matrix = y.reshape(rows, -1).mT
            v, s = right_basis(matrix, caps[lo + p - 1], atol=delta)
            slab = v.mH.reshape(-1, a, *modes[lo : lo + p])
            slab = slab.permute(0, *range(p + 1, 0, -1))
            y, a, lo = project(matrix, v), len(s), lo + p
            cores = _split(slab, _weight(y, s), caps[lo - p : lo - 1][::-1], delta)
            left, y = left + [_mirror(c) for c in cores][::-1], y.mT
    middle = y.reshape(a, modes[lo], b).to(wide(dtype))
    return TT(tuple(_narrow([*left, middle, *right], len(left), dtype, 1 - math.frexp(scale)[1])))


def tt_round(tt: TT, rank=None, *, rtol: float | None = None) -> TT:
    """The train of smallest ranks within a tolerance, by weighing each bond and cutting it
    [Oseledets2011, Alg. 2].

        |tt - result| <= (rtol + 64 eps) |tt|      when `rank` does not cut earlier

    From left to right the triangular factor of all that stands left of each bond (no q is formed);
    from right to left the leading basis of each core so weighed. Exact ranks are found: of x + 2x
    at rtol=1e-10 come the ranks of x. The cores come right-orthonormal, the norm in the first.
    Trains of any length: every factor is kept near 1 in size.

    >>> x = TT.randn((4, 5, 6), rank=2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> tt_round(x + 2 * x, rtol=1e-10).ranks
    (2, 2)
    """
    if not isinstance(tt, TT):
        raise TypeError(f"tt_round: needs a TT, got {type(tt).__name__}")
    caps = rank_caps("tt_round", rank, rtol, tt.shape, tt.ndim - 1)
    for core in tt.cores:
        check_dense(core, "tt_round")
    share = max((rtol or 0.0) / math.sqrt(max(1, tt.ndim - 1)), zero_level(tt.dtype))
    cores = [core.to(wide(tt.dtype)) for core in tt.cores]

    weights = [cores[0].new_ones(1, 1)]
    for core in cores[:-1]:
        weights.append(_near_one(triangle(torch.tensordot(weights[-1], core, 1).flatten(0, 1)))[0])
    carry, exponent = cores[0].new_ones(1, 1), 0
    for k in range(tt.ndim - 1, -1, -1):
        core, shift = _near_one(torch.tensordot(cores[k], carry, 1))  # (r_k, n_k, q)
        exponent += shift
        if k == 0:
            cores[0] = core
            break
        rows = core.flatten(1)
        weighed = weights[k] @ rows  # the unfolding of the train at this bond, up to an isometry
        v, _ = right_basis(
            weighed, caps[k - 1], atol=share * float(torch.linalg.matrix_norm(weighed.detach()))
        )
        cores[k], carry = v.mH.reshape(-1, *core.shape[1:]), rows @ v
    return TT(tuple(_narrow(cores, 0, tt.dtype, exponent)))


def unfolding_ranks(shape) -> tuple[int, ...]:
    """The largest ranks a train of this shape can need: the smaller side of each of its d-1
    unfoldings.

    >>> unfolding_ranks((2, 3, 4))
    (2, 4)
    """
    return tuple(min(math.prod(shape[:k]), math.prod(shape[k:])) for k in range(1, len(shape)))


def _slab(modes, r):
    """How many modes to take off an end at once: as many as keep the slab within SLAB columns, one
    at least."""
    count, width = 1, r * modes[0]
    while count < len(modes) - 1 and width * modes[count] <= SLAB:
        width *= modes[count]
        count += 1
    return count


def _weight(y: Tensor, s: Tensor) -> Tensor:
    """The root of yᴴ y: diag(s), but where values of s are equal its derivative is a full block. y:
    (m, k), s: (k,)."""
    weight = torch.diag(s).to(y.dtype)
    if not (y.requires_grad and torch.is_grad_enabled()):
        return weight
    total = s + s[:, None]
    rest = (y.mH @ y).fill_diagonal_(0) / torch.where(total > 0, total, torch.ones_like(total))
    return weight + rest - rest.detach()


def _split(slab: Tensor, weight: Tensor, caps, delta: float) -> list[Tensor]:
    """Cut a slab with orthonormal rows (k, n_0, ..., n_{p-1}, b) into p cores, the last p-1 of them
    right-orthonormal.

    What is measured is weight @ slab, the part of the whole tensor that it stands for; what is
    projected is the slab.
    """
    k, *modes, b = slab.shape
    cores = []
    for j in range(len(modes) - 1, 0, -1):
        rows = slab.reshape(k, -1, modes[j] * b)
        v = truncated_svd(
            torch.tensordot(weight, rows, 1).flatten(0, 1), caps[j - 1], atol=delta
        ).vh.mH
        cores.insert(0, v.mH.reshape(-1, modes[j], b))
        slab, b = rows @ v, v.shape[1]
    return [slab.reshape(k, modes[0], b), *cores]


def _push_right(core: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
    """Make a core left-orthonormal and hand its triangular factor to the next."""
    r, n, q = core.shape
    basis, factor = orthogonalize(core.reshape(r * n, q))
    return basis.reshape(r, n, -1), torch.tensordot(factor, following, 1)


def _mirror(core: Tensor) -> Tensor:
    return core.permute(2, 1, 0)


def _near_one(x: Tensor) -> tuple[Tensor, int]:
    """x / 2^e with largest entry near 1, and e: so that long products neither over- nor
    underflow."""
    exponent = math.frexp(float(torch.linalg.vector_norm(x.detach(), math.inf)))[1]
    return x * math.ldexp(1.0, -exponent), exponent


def _narrow(cores, center: int, dtype, exponent: int):
    """Cast to `dtype` and multiply by 2^exponent: the core at `center`, or all alike where one
    could not hold it."""
    size = exponent + math.frexp(float(cores[center].detach().abs().max()))[1]
    if abs(size) >= math.frexp(torch.finfo(dtype).max)[1] - 2:
        shift = size // len(cores)
        cores = [c * math.ldexp(1.0, shift) for c in cores]
        exponent -= shift * len(cores)
    cores[center] = cores[center] * math.ldexp(1.0, exponent)
    return [c.to(dtype) for c in cores]
