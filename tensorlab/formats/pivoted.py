"""A matrix of rank r by r of its rows, and the others as combinations of them: r (n + m - r)
numbers, as many as such matrices have degrees of freedom [Zhao2025].

    w[rows] = top,     w[others] = t top,     |t| <= 2 by the choice of the rows [Goreinov2010]

Two factors u vᴴ store r² more, for (u g)(v g⁻ᴴ)ᴴ is the same matrix for any g; here g is fixed such
that u is 1 in the pivot rows. So any r < min(n, m) saves.
"""

import functools
import math
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from ..arguments import check_same, check_shape, rank_caps
from ..capture import differentiated, known, readable
from ..linalg import orthogonalize, solve, widen
from ..rng import randn
from .base import MatrixFormat
from .lowrank import LowRank

LARGEST = 2.0  # entry of t, in absolute value, after the exchange of rows


@dataclass(frozen=True, eq=False, repr=False)
class PivotedLowRank(MatrixFormat):
    """w[rows] = top and w[others] = t top, the other rows in their order.

    top: (r, in). t: (out - r, r). rows: r indices, ascending. ranks: (r,). The indices are metadata
    and are not counted as numbers; a state dict of a layer stores them.

    >>> w = PivotedLowRank(torch.ones(1, 3), torch.tensor([[2.0]]), (1,))
    >>> w, w.to_dense().tolist()
    (PivotedLowRank(shape=(2, 3), ranks=(1,), stores 4 of 6), [[2.0, 2.0, 2.0], [1.0, 1.0, 1.0]])
    """

    top: Tensor
    t: Tensor
    rows: tuple[int, ...]

    def _check(self):
        check_same("PivotedLowRank", self.tensors())
        got = [tuple(x.shape) for x in self.tensors()]
        if any(len(g) != 2 for g in got) or got[1][1] != got[0][0] or 0 in got[0]:
            raise ValueError(
                f"PivotedLowRank: needs top (r, in) and t (out - r, r), got shapes {got}"
            )
        r, out = len(self.rows), sum(g[0] for g in got)
        ascending = all(a < b for a, b in zip(self.rows, self.rows[1:]))
        if r != got[0][0] or not ascending or self.rows[0] < 0 or self.rows[-1] >= out:
            raise ValueError(
                f"PivotedLowRank: needs {got[0][0]} ascending rows below {out}, got {self.rows}"
            )

    @classmethod
    def from_dense(
        cls, w: Tensor, rank: int | None = None, *, rtol: float | None = None
    ) -> "PivotedLowRank":
        """The best w of its rank, as `LowRank.from_dense` finds it.

        >>> PivotedLowRank.from_dense(torch.ones(4, 3), rank=1)
        PivotedLowRank(shape=(4, 3), ranks=(1,), stores 6 of 12)
        """
        rank_caps("PivotedLowRank.from_dense", rank, rtol, w.shape, 1)
        low = LowRank.from_dense(w, rank, rtol=rtol)
        return cls.from_lowrank(low)

    @classmethod
    def from_lowrank(cls, low: LowRank) -> "PivotedLowRank":
        """The same matrix. Where pivots save nothing, or cannot be chosen because no number can be
        read, all rows are pivots: the dense matrix.

        >>> low = LowRank.randn((9, 8), 3, dtype=torch.float64)
        >>> w = PivotedLowRank.from_lowrank(low)
        >>> torch.allclose(w.to_dense(), low.to_dense()), bool(w.t.abs().max() <= 2)
        (True, True)
        """
        low, dtype = low.merged().to(widen(low.u[:0]).dtype), low.dtype
        n, r = low.shape[0], low.ranks[0]
        if r >= min(low.shape) or not readable(low.u):
            top, t, rows = low.to_dense(), low.u.new_empty(0, n), tuple(range(n))
        else:
            q = orthogonalize(low.u.detach())[0]  # of full column rank, whatever that of u
            rows = pivot_rows(q)
            others = _others(rows, n)
            if differentiated(low.u):  # right gradients are those of the product u vᴴ
                q = low.u @ (low.v.mH @ orthogonalize(low.v.detach())[0])
            top = low.u[list(rows)] @ low.v.mH
            t = solve(q[list(rows)].mT, q[others].mT).mT
        return cls(top.to(dtype), t.to(dtype), rows)

    @classmethod
    def randn(
        cls, shape, rank: int, *, generator=None, dtype=None, device=None
    ) -> "PivotedLowRank":
        """Gaussian parts, scaled so that the entries of w have variance 1; the first rows are the
        pivots.

        shape: (out, in).
        rank: the number of pivots.
        generator, dtype, device: as in `torch.randn`.
        """
        shape = check_shape("PivotedLowRank.randn", shape)
        if len(shape) != 2:
            raise ValueError(f"PivotedLowRank.randn: needs a shape (out, in), got {shape}")
        (n, m), (r,) = shape, rank_caps("PivotedLowRank.randn", rank, None, shape, 1)
        r, options = min(r, n), dict(generator=generator, dtype=dtype, device=device)
        top, t = randn(r, m, **options), randn(n - r, r, **options) / r**0.5
        return cls(top, t, tuple(range(r)))

    @property
    def shape(self):
        """(out, in)."""
        return (len(self.rows) + self.t.shape[0], self.top.shape[1])

    @property
    def ranks(self):
        """The number of chosen rows."""
        return (len(self.rows),)

    def to_lowrank(self) -> LowRank:
        """The same matrix as u vᴴ, u being 1 in the pivot rows.

        >>> PivotedLowRank.randn((6, 5), 2).to_lowrank()
        LowRank(shape=(6, 5), ranks=(2,), stores 22 of 30)
        """
        eye = torch.eye(len(self.rows), dtype=self.dtype, device=self.device)
        return LowRank(self._sorted(torch.cat([eye, self.t])), self.top.mH)

    def round(self, rank=None, *, rtol: float | None = None) -> NoReturn:
        """Raises TypeError: its rows are chosen, and no SVD truncates them.

        `to_lowrank().round(...)` is the same matrix at a lower rank.
        """
        raise TypeError(
            "PivotedLowRank.round: needs a format that SVDs can truncate, got PivotedLowRank; "
            "`to_lowrank()` gives one"
        )

    def with_tensors(self, tensors, rows: tuple[int, ...] | None = None) -> "PivotedLowRank":
        """The same format with other tensors; rows: other pivots, of which there may be more."""
        if rows is None:
            return super().with_tensors(tensors)
        top, t = tensors
        return PivotedLowRank(top, t, tuple(rows))

    def _flops(self, batch: int) -> int:
        """Of the product with `top`, and of that of its result with t."""
        return 2 * batch * self.numel

    def lr_multipliers(self) -> tuple[float, ...]:
        """in / (fan-in of the part) / 2 [Qiu2024]."""
        return 0.5, self.shape[1] / len(self.rows) / 2

    def initial(self) -> "PivotedLowRank":
        """As of any matrix format; w is linear in the pivot rows only."""
        return self.with_tensors([self.top * (3 * self.shape[1]) ** -0.5, self.t])

    def _even(self):
        """Itself: entries of t are near 1, so that no product leaves the floats on the way."""
        return self

    def _dense(self):
        return self._sorted(torch.cat([self.top, self.t @ self.top]))

    def _apply(self, x):
        y = x @ self.top.t()
        y = torch.cat([y, y @ self.t.t()], 1)
        return self._sorted(y, 1)

    def _sorted(self, x, dim=0):
        """Pivots and the others, one after the other, in the order of the matrix."""
        r = len(self.rows)
        if self.rows[-1] == r - 1:  # the first rows are the pivots
            return x
        make = _order if known(x) else _order.__wrapped__
        return x.index_select(dim, make(self.rows, self.shape[0], x.device))

    def _norm(self):
        return self.to_lowrank()._even()._norm()

    def _dot(self, other):
        return self.to_lowrank()._even()._dot(other.to_lowrank()._even())

    def _at(self, index):
        return self.to_lowrank()._at(index)

    def _add(self, other):
        return PivotedLowRank.from_lowrank(self.to_lowrank() + other.to_lowrank())

    def _times(self, other):
        return PivotedLowRank.from_lowrank(self.to_lowrank() * other.to_lowrank())


@functools.lru_cache(maxsize=512)
def _order(rows, n, device) -> Tensor:
    """Where each row of the matrix is among pivots and others; kept, for each product needs it."""
    place = [*rows, *_others(rows, n)]
    return torch.tensor(sorted(range(n), key=place.__getitem__), device=device)


def _others(rows, n) -> list[int]:
    pivots = set(rows)
    return [i for i in range(n) if i not in pivots]


@torch.no_grad()
def pivot_rows(q: Tensor, largest: float = LARGEST) -> tuple[int, ...]:
    """r rows of q (n, r) such that no entry of q q[rows]⁻¹ is above `largest`: those of an LU
    factorization, then one exchanged for another while that increases |det q[rows]| [Goreinov2010].

    q: of full column rank, with numbers that can be read. largest: above 1.

    >>> pivot_rows(torch.tensor([[0.1, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    (1, 2)
    """
    r = q.shape[1]
    permutation = torch.linalg.lu(q).P.real.argmax(0)
    rows = permutation[:r].tolist()
    t = solve(q[rows].mT, q.mT).mT  # (n, r), 1 in the pivot rows
    while True:
        k = int(t.abs().argmax())
        i, j = divmod(k, r)
        if not math.isfinite(size := float(t[i, j].abs())) or size <= largest:
            return tuple(sorted(rows))
        step = t[i].clone()
        step[j] -= 1
        t = t - torch.outer(t[:, j], step / t[i, j])
        rows[j] = i
