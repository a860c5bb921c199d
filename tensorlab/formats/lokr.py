"""A Kronecker product whose second factor may be of low rank, the adapter LoKr [Yeh2024]."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..arguments import check_same, check_shape, rank_caps
from ..linalg import norm, root, wide_svd
from ..multilinear import balanced_shape
from ..rng import randn
from .base import MatrixFormat
from .kronecker import Kronecker
from .lowrank import LowRank
from .modes import check_matrix


@dataclass(frozen=True, eq=False, repr=False)
class LoKr(MatrixFormat):
    """w = w1 ⊗ (a b), or w1 ⊗ a without b: a Kronecker product whose second factor may be of low
    rank [Yeh2024].

    w1: (o1, i1), a: (o2, r), b: (r, i2) or None, and then a: (o2, i2). ranks: (r,), of w1 ⊗ a the
    shorter side of a.

    >>> LoKr(torch.ones(2, 3), torch.ones(8, 2), torch.ones(2, 9))
    LoKr(shape=(16, 27), ranks=(2,), stores 40 of 432)
    """

    w1: Tensor
    a: Tensor
    b: Tensor | None = None

    def _check(self):
        check_same("LoKr", self.tensors())
        got = [tuple(t.shape) for t in self.tensors()]
        if any(len(g) != 2 or 0 in g for g in got) or (
            self.b is not None and self.a.shape[1] != self.b.shape[0]
        ):
            raise ValueError(
                f"LoKr: needs matrices w1 (o1, i1), a (o2, r) and b (r, i2) or None, got shapes "
                f"{got}"
            )

    @classmethod
    def from_dense(cls, w: Tensor, rank: int) -> "LoKr":
        """The nearest Kronecker product, its second factor then cut to a rank: two truncated SVDs,
        of the rearranged matrix and of that factor.

        Each step is the best, both together need not be. w: (out, in); the sizes are split as
        evenly as they factor. rank: a cap. Raises ValueError or TypeError for a bad rank or matrix.

        >>> w = torch.kron(torch.ones(2, 3), torch.eye(4, 5))
        >>> LoKr.from_dense(w, 4), bool((LoKr.from_dense(w, 4).to_dense() - w).norm() < 1e-5)
        (LoKr(shape=(8, 15), ranks=(4,), stores 42 of 120), True)
        """
        check_matrix("LoKr.from_dense", w, rank)
        (o2, o1), (i2, i1) = (balanced_shape(n, 2) for n in w.shape)
        blocks = w.reshape(o1, o2, i1, i2).transpose(1, 2)  # (o1, i1, o2, i2)
        u, s, vh = wide_svd("LoKr.from_dense", blocks.reshape(o1 * i1, o2 * i2), 1)
        w1, second = u * root(s), root(s) * vh
        u, s, vh = wide_svd("LoKr.from_dense", second.reshape(o2, i2), rank)
        return cls(w1.reshape(o1, i1), u * root(s), root(s)[:, None] * vh).to(w.dtype)

    @classmethod
    def randn(cls, shape, rank: int, *, generator=None, dtype=None, device=None) -> "LoKr":
        """Gaussian factors, scaled so that the entries of w have variance 1.

        shape: (out, in).
        rank: of the second factor.
        generator, dtype, device: as in `torch.randn`.

        >>> LoKr.randn((6, 8), 2)
        LoKr(shape=(6, 8), ranks=(2,), stores 18 of 48)
        """
        shape = check_shape("LoKr.randn", shape)
        if len(shape) != 2:
            raise ValueError(f"LoKr.randn: needs a shape (out, in), got {shape}")
        (o2, o1), (i2, i1) = (balanced_shape(n, 2) for n in shape)
        (r,) = rank_caps("LoKr.randn", rank, None, shape, 1)
        draw = lambda *size: randn(*size, generator=generator, dtype=dtype, device=device)
        return cls(draw(o1, i1), draw(o2, r), draw(r, i2) / r**0.5)

    @property
    def shape(self) -> tuple[int, int]:
        """(o1 o2, i1 i2)."""
        return (self.w1.shape[0] * self.a.shape[0], self.w1.shape[1] * self._last().shape[1])

    @property
    def ranks(self) -> tuple[int, ...]:
        """(r,), the shorter side of a."""
        return (min(self.a.shape),)

    def to_kronecker(self) -> Kronecker:
        """The same matrix as a sum of one Kronecker product, which a sum of several may join.

        >>> w = LoKr(torch.ones(2, 3), torch.ones(8, 2), torch.ones(2, 9))
        >>> w.to_kronecker(), (w + w).ranks
        (Kronecker(shape=(16, 27), ranks=(1,), stores 78 of 432), (2,))
        """
        second = self.a if self.b is None else self.a @ self.b
        return Kronecker((self.w1[None], second[None]))

    def round(self, rank: int | None = None, *, rtol: float | None = None) -> "LoKr":
        """The same w1 and a second factor of lower rank, by its SVD: the best for this w1.

            |w - result| <= (rtol + 64 eps) |w|      when `rank` does not cut earlier

        Raises ValueError or TypeError for a bad rank or rtol.

        >>> LoKr(torch.ones(2, 3), torch.ones(8, 2), torch.ones(2, 9)).round(rtol=0.0)
        LoKr(shape=(16, 27), ranks=(1,), stores 23 of 432)
        """
        b = torch.eye(self._last().shape[1]).to(self.a) if self.b is None else self.b
        second = LowRank(self.a, b.mH).round(rank, rtol=rtol)
        return LoKr(self.w1, second.u, second.v.mH)

    def _add(self, other) -> Kronecker:
        return self.to_kronecker() + other.to_kronecker()

    def _times(self, other) -> Kronecker:
        return self.to_kronecker() * other.to_kronecker()

    def _dot(self, other):
        return self.to_kronecker().dot(other.to_kronecker())

    def _at(self, index):
        return self.to_kronecker().at(index)

    def _dense(self):
        return torch.kron(self.w1, self.a if self.b is None else self.a @ self.b)

    def _apply(self, x):
        """y = w1 X (a b)ᵀ with the input as a matrix X (i1, i2), from the right."""
        y = x.reshape(x.shape[0], self.w1.shape[1], self._last().shape[1])
        if self.b is not None:
            y = y @ self.b.t()
        return (self.w1 @ y @ self.a.t()).flatten(1)

    def _flops(self, batch: int) -> int:
        """2 batch (i1 r i2 + o1 i1 r + o1 r o2), the products with b, w1 and a."""
        (o1, i1), (o2, r) = self.w1.shape, self.a.shape
        first = 0 if self.b is None else i1 * self.b.numel()
        return 2 * batch * (first + o1 * i1 * r + o1 * r * o2)

    def lr_multipliers(self) -> tuple[float, ...]:
        """in / (fan-in of the factor) / (number of factors) [Qiu2024]."""
        return tuple(self.shape[1] / t.shape[1] / len(self.tensors()) for t in self.tensors())

    def _norm(self):
        """|w1| |a b|: the Frobenius norm of a Kronecker product is the product of the norms."""
        return norm(self.w1) * norm(self.a if self.b is None else self.a @ self.b)

    def _last(self):
        return self.a if self.b is None else self.b
