"""Sums of Kronecker products whose factors have several shapes, the hybrid sums of [Cai2023]."""

from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from ..arguments import check_same
from ..linalg import norm
from .base import MatrixFormat, ratio
from .kronecker import Kronecker


@dataclass(frozen=True, eq=False, repr=False)
class KronSum(MatrixFormat):
    """w = sum_j w_j, each w_j a sum of Kronecker products with factors of another shape.

    factors: A_0, B_0, A_1, B_1, ..., of w_j = sum_k A_j[k] ⊗ B_j[k]: (terms, rows, columns) each.
    ranks: the terms of each. Found by `kron_hybrid`. There is no elementwise product of two. Raises
    ValueError for factors that do not fit.

    >>> low_rank = Kronecker.randn((6, 8), 2, out=(6, 1), in_=(1, 8))
    >>> blocks = Kronecker.randn((6, 8), 1)
    >>> KronSum.of(low_rank, blocks)
    KronSum(shape=(6, 8), ranks=(2, 1), stores 44 of 48)
    """

    factors: tuple[Tensor, ...]

    @classmethod
    def of(cls, *parts: Kronecker) -> "KronSum":
        """The sum of sums of two factors each."""
        return cls(tuple(t for part in parts for t in part.tensors()))

    @classmethod
    def from_dense(cls, w: Tensor, rank=None, *, rtol: float | None = None, out=None, in_=None):
        """One part, as `Kronecker.from_dense` finds it; `kron_hybrid` finds several.

        w, rank, rtol, out, in_: as in `Kronecker.from_dense`.

        >>> KronSum.from_dense(torch.eye(6), rank=1).ranks
        (1,)
        """
        return cls.of(Kronecker.from_dense(w, rank, rtol=rtol, out=out, in_=in_))

    @classmethod
    def randn(
        cls, shape, rank, *, out=None, in_=None, generator=None, dtype=None, device=None
    ) -> "KronSum":
        """One part with Gaussian factors, as `Kronecker.randn` draws it.

        shape, rank, out, in_: as in `Kronecker.randn`.
        generator, dtype, device: as in `torch.randn`.
        """
        options: dict = dict(generator=generator, dtype=dtype, device=device)
        return cls.of(Kronecker.randn(shape, rank, out=out, in_=in_, **options))

    @property
    def parts(self) -> tuple[Kronecker, ...]:
        """The sums of one shape each."""
        return tuple(map(Kronecker, zip(self.factors[::2], self.factors[1::2])))

    def _check(self):
        check_same("KronSum", self.factors)
        if not self.factors or len(self.factors) % 2:
            raise ValueError(f"KronSum: needs pairs of factors, got {len(self.factors)} of them")
        shapes = [part.shape for part in self.parts]
        if len(set(shapes)) > 1:
            raise ValueError(f"KronSum: needs parts of one shape, got {shapes}")

    @property
    def shape(self):
        """(out, in)."""
        return Kronecker(self.factors[:2]).shape

    @property
    def ranks(self):
        """The number of terms of each part."""
        return tuple(a.shape[0] for a in self.factors[::2])

    def _dense(self):
        return torch.stack([part.to_dense() for part in self.parts]).sum(0)

    def _apply(self, x):
        return sum(part._apply(x) for part in self.parts)

    def _flops(self, batch: int) -> int:
        """Those of the parts, and of the sums of their products."""
        adding = (len(self.parts) - 1) * batch * self.shape[0]
        return adding + sum(part.flops(batch) for part in self.parts)

    def lr_multipliers(self) -> tuple[float, ...]:
        """As of each part, over how many there are [Qiu2024].

        >>> KronSum.of(*[Kronecker.randn((1024, 1024), 1)] * 2).lr_multipliers()
        (8.0, 8.0, 8.0, 8.0)
        """
        each = (m for part in self.parts for m in part.lr_multipliers())
        return tuple(ratio(1, len(self.parts)) * m for m in each)

    def initial(self) -> "KronSum":
        """The parts share the variance of the start."""
        return KronSum.of(*(part.initial() * len(self.parts) ** -0.5 for part in self.parts))

    def round(self, rank=None, *, rtol: float | None = None) -> NoReturn:
        """Raises TypeError: parts of different shapes are not orthogonal; no SVD truncates them.

        A sum of fewer terms is found anew: `kron_hybrid(x.to_dense(), ...)`.
        """
        raise TypeError(
            "KronSum.round: needs a format that SVDs can truncate, got KronSum; `kron_hybrid` fits "
            "one"
        )

    def scale(self, number) -> "KronSum":
        """number * x, by a multiple of each part."""
        return KronSum.of(*(part.scale(number) for part in self.parts))

    def _even(self):
        return KronSum.of(*(part._even() for part in self.parts))

    def _norm(self):
        return norm(self._dense())

    def _dot(self, other):
        return (self._dense().conj() * other._dense()).sum()

    def _at(self, index):
        return torch.stack([part._at(index) for part in self.parts]).sum(0)

    def _add(self, other):
        """Parts of one shape become one."""
        found: dict[tuple, Kronecker] = {}
        for part in (*self.parts, *other.parts):
            key = (part.out, part.in_)
            found[key] = found[key] + part if key in found else part
        return KronSum.of(*found.values())

    def _times(self, other):
        raise TypeError("KronSum *: needs a number, got a KronSum")
