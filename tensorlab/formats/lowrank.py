"""A matrix as a product of two thin ones [EckartYoung1936]: the SVD layer, LoRA and DLRT all hold
one of these."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..arguments import check_same, check_shape, rank_caps
from ..capture import differentiated
from ..linalg import norm, orthogonalize, project, root, wide, wide_svd
from ..rng import randn
from .base import MatrixFormat
from .tt import TT


@dataclass(frozen=True, eq=False, repr=False)
class LowRank(MatrixFormat):
    """w = u s vᴴ with a middle factor s, or w = u vᴴ without one.

    u: (out, r), v: (in, r), s: (r, r) full or None.  ranks: (r,).

    >>> w = LowRank.from_dense(torch.ones(4, 3), rank=1)
    >>> w, w.s
    (LowRank(shape=(4, 3), ranks=(1,), stores 7 of 12), None)
    """

    u: Tensor
    v: Tensor
    s: Tensor | None = None

    def _check(self):
        check_same("LowRank", self.tensors())
        got = [tuple(t.shape) for t in self.tensors()]
        fits = self.u.ndim == self.v.ndim == 2 and self.u.shape[1] == self.v.shape[1]
        if (
            not fits
            or 0 in got[0] + got[1]
            or (self.s is not None and self.s.shape != 2 * self.u.shape[1:])
        ):
            raise ValueError(
                f"LowRank: needs u (out, r), v (in, r) and s (r, r) or None, got shapes {got}"
            )

    @classmethod
    def from_dense(
        cls, w: Tensor, rank: int | None = None, *, rtol: float | None = None
    ) -> "LowRank":
        """The best w of its rank, as two balanced factors: u √Σ and v √Σ of the truncated SVD.

        w: (out, in). `rank` is a cap, `rtol` the relative Frobenius error; the smallest rank that
        meets it, capped.
        """
        u, s, vh = wide_svd("LowRank.from_dense", w, rank, rtol=rtol)
        weight = root(s)
        left, right = u * weight, vh.mH * weight
        if differentiated(w):
            # uᴴ w v is diag(s), and stays so where the values differ; where they are equal its
            # derivative is full
            rest = (u.mH @ project(w, vh.mH)).fill_diagonal_(0)
            rest = rest / (weight + weight[:, None]).clamp_min(torch.finfo(s.dtype).tiny)
            rest = rest - rest.detach()
            left, right = left + u @ rest, right + vh.mH @ rest.mH
        return cls(left.to(w.dtype), right.to(w.dtype))

    @classmethod
    def randn(cls, shape, rank: int, *, generator=None, dtype=None, device=None) -> "LowRank":
        """Gaussian factors, scaled so that the entries of w have variance 1.

        shape: (out, in).
        rank: the columns of u and v.
        generator, dtype, device: as in `torch.randn`.
        """
        shape = check_shape("LowRank.randn", shape)
        if len(shape) != 2:
            raise ValueError(f"LowRank.randn: needs a shape (out, in), got {shape}")
        (m, n), (r,) = shape, rank_caps("LowRank.randn", rank, None, shape, 1)
        options = dict(generator=generator, dtype=dtype, device=device)
        return cls(randn(m, r, **options), randn(n, r, **options) / r**0.5)

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return (self.u.shape[0], self.v.shape[0])

    @property
    def ranks(self) -> tuple[int, ...]:
        """(r,), the columns of u and v."""
        return (self.u.shape[1],)

    @property
    def _terms(self):
        return -1 if self.s is None else None

    def _dense(self):
        return self._left() @ self.v.conj().t()

    def _apply(self, x):
        return x @ self.v.conj() @ self._left().t()

    def _flops(self, batch: int) -> int:
        """2 batch r (out + in), and 2 r^2 out for s."""
        (m, n), r = self.shape, self.ranks[0]
        return 2 * batch * r * (m + n) + (0 if self.s is None else 2 * r * r * m)

    def lr_multipliers(self) -> tuple[float, ...]:
        """in / (fan-in of the factor) / (number of factors); the fan-in is in for v, and r for u
        and s [Qiu2024].

        >>> LowRank.randn((64, 64), 4).lr_multipliers()
        (8.0, 0.5)
        """
        fan_in = (self.ranks[0], self.shape[1], self.v.shape[1])[: len(self.tensors())]
        return tuple(self.shape[1] / n / len(fan_in) for n in fan_in)

    def orthogonal(self) -> "LowRank":
        """The same matrix with orthonormal u and v and a full s in between; the rank is at most the
        shorter side."""
        u, s, v = self._even()._bases()
        if len(s) > s.shape[1]:  # more rows than columns: u turns into the range of s
            q, s = orthogonalize(s)
            u = u @ q
        elif len(s) < s.shape[1]:
            q, r = orthogonalize(s.mH)
            v, s = v @ q, r.mH
        return LowRank(u, v, s)

    def merged(self) -> "LowRank":
        """The same matrix as two factors: s goes into u."""
        even = self._even()
        return LowRank(even._left(), even.v)

    def to_tt(self) -> TT:
        """The tensor train of two modes, out and in, with the cores u s and vᴴ.

        >>> LowRank.randn((5, 4), 2).to_tt()
        TT(shape=(5, 4), ranks=(2,), stores 18 of 20)
        """
        w = self.merged()
        return TT((w.u[None], w.v.mH[:, :, None]))

    def round(self, rank: int | None = None, *, rtol: float | None = None) -> "LowRank":
        """The best w of lower rank, from the SVD of the small middle factor; balanced factors as in
        `from_dense`."""
        u, s, v = self.to(wide(self.dtype))._even()._bases()
        small = LowRank.from_dense(s, rank, rtol=rtol)
        return LowRank(u @ small.u, v @ small.v).to(self.dtype)

    def _norm(self):
        return norm(self._bases()[1])

    def _dot(self, other):
        return ((self._left().mH @ other._left()) * (self.v.mH @ other.v).conj()).sum()

    def _at(self, index):
        i, j = index.unbind(1)
        return (self._left()[i] * self.v[j].conj()).sum(1)

    def _bases(self):
        """Orthonormal u and v and the matrix between them, which need not be square."""
        u, ru = orthogonalize(self.u)
        v, rv = orthogonalize(self.v)
        return u, (ru if self.s is None else ru @ self.s) @ rv.mH, v

    def _left(self):
        return self.u if self.s is None else self.u @ self.s

    def _add(self, other):
        a, b = self._even(), other._even()
        return LowRank(torch.cat([a._left(), b._left()], 1), torch.cat([a.v, b.v], 1))

    def _times(self, other):
        a, b = self._left(), other._left()
        return LowRank(
            (a[:, :, None] * b[:, None, :]).flatten(1),
            (self.v[:, :, None] * other.v[:, None, :]).flatten(1),
        )
