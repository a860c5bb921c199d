"""A Kronecker product whose second factor may be of low rank, the adapter LoKr [Yeh2024]."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..linalg import norm
from .base import MatrixFormat, check_same


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

    @property
    def shape(self):
        return (self.w1.shape[0] * self.a.shape[0], self.w1.shape[1] * self._last().shape[1])

    @property
    def ranks(self):
        return (min(self.a.shape),)

    def _dense(self):
        return torch.kron(self.w1, self.a if self.b is None else self.a @ self.b)

    def _apply(self, x):
        """y = w1 X (a b)ᵀ with the input as a matrix X (i1, i2), from the right."""
        y = x.reshape(x.shape[0], self.w1.shape[1], self._last().shape[1])
        if self.b is not None:
            y = y @ self.b.t()
        return (self.w1 @ y @ self.a.t()).flatten(1)

    def flops(self, batch: int) -> int:
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
