"""Sums of Kronecker products, and the nearest ones to a matrix [VanLoanPitsianis1993].

Rearranged so that each block of the matrix becomes a row, a Kronecker product is a matrix of rank
one: what the SVD does for low rank it does here for another pattern.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arguments import check_same, check_shape, rank_caps
from ..capture import read, readable
from ..linalg import (
    UNREAD,
    check_cut,
    choose_rank,
    norm,
    orthogonalize,
    safe_scale,
    spread,
    triangle,
    truncated_svd,
    wide,
    wide_svd,
    widen,
    zero_level,
)
from ..multilinear import khatri_rao
from ..rng import randn
from .base import SplitMatrix, ratio
from .modes import check_matrix, check_unpadded, matrix_norm, pad, pad_input, split_shape


@dataclass(frozen=True, eq=False, repr=False)
class Kronecker(SplitMatrix):
    """w = sum_k F_0[k] ⊗ F_1[k] ⊗ ... ⊗ F_{d-1}[k].

    factors: d tensors (terms, out_j, in_j). ranks: (terms,). unpadded_shape: (out, in) where
    these are less than the products of the factors' sizes: the padding is stored, counted in
    `numel`, and cut. Raises ValueError for factors that do not fit.

    >>> Kronecker.randn((16, 24), rank=2, generator=torch.Generator().manual_seed(0))
    Kronecker(shape=(16, 24), ranks=(2,), stores 80 of 384)
    """

    factors: tuple[Tensor, ...]
    unpadded_shape: tuple[int, int] | None = None

    _terms = 0

    def _check(self):
        got = [tuple(f.shape) for f in self.factors]
        if len(got) < 2 or any(len(g) != 3 or 0 in g or g[0] != got[0][0] for g in got):
            raise ValueError(
                f"Kronecker: needs two or more factors (terms, out, in) with as many terms each, "
                f"got shapes {got}"
            )
        check_same("Kronecker", self.factors)
        if self.unpadded_shape is not None:
            check_unpadded("Kronecker", self.unpadded_shape, self.padded_shape)

    @classmethod
    def from_dense(
        cls,
        w: Tensor,
        rank=None,
        *,
        rtol: float | None = None,
        factors: int = 2,
        out=None,
        in_=None,
    ) -> "Kronecker":
        """The sum of Kronecker products near a dense matrix, by SVDs of its rearrangement.

            |w - result| <= (rtol + 64 eps) |w|      when `rank` does not cut earlier

        Two factors: the *best* sum of so many terms, the truncated SVD of the rearranged matrix
        [VanLoanPitsianis1993]. More: successive SVDs, which split off one factor after another from
        each term [BatselierWong2017]; the terms are orthogonal, the largest are kept and the error
        is exactly the norm of the others, but with fewer terms a smaller error may exist.

        w: (out, in).
        rank: a cap on the number of terms; None: no cap.
        rtol: the relative Frobenius error that is allowed; None: only the cap counts.
        factors: how many factors each term has, where `out` and `in_` do not say it.
        out, in_: their numbers of rows and of columns, as many each; None: nearly equal ones. Zeros
            are padded where the products are larger than w.

        Raises ValueError or TypeError for a bad argument.

        >>> a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]])
        >>> Kronecker.from_dense(torch.kron(a, b), rtol=0.0, out=(1, 2), in_=(2, 1)).ranks
        (1,)
        """
        who = "Kronecker.from_dense"
        whole = matrix_norm(who, w, rank)
        out, in_, unpadded = split_shape(who, w.shape, factors, out, in_, least=2)
        (cap,) = rank_caps(who, rank, rtol, w.shape, 1)
        x = _rearranged(pad(w, (math.prod(out), math.prod(in_))), out, in_)
        if len(out) == 2:
            u, s, vh = wide_svd(who, x, cap, rtol=rtol)
            columns = u * s.sqrt(), vh.mT * s.sqrt()
        elif not readable(w):  # how many terms there are is seen on the way
            raise ValueError(f"{who}: needs two factors {UNREAD}, got {len(out)}")
        else:
            scale = safe_scale(whole)
            level = max(rtol or 0.0, zero_level(w.dtype))
            columns = _successive(widen(x) * scale, cap, level * whole * scale)
            columns = spread(columns, 0, 1 - math.frexp(scale)[1], columns[0].dtype)
        made = (c.mT.reshape(-1, m, n) for c, m, n in zip(columns, out, in_))
        return cls(tuple(made), unpadded).to(w.dtype)

    @classmethod
    def randn(
        cls,
        shape,
        rank,
        *,
        factors: int = 2,
        out=None,
        in_=None,
        generator=None,
        dtype=None,
        device=None,
    ) -> "Kronecker":
        """Gaussian factors, scaled so that the entries of w have variance 1.

        shape: (out, in).
        rank: the number of terms.
        factors: how many factors each term has, where `out` and `in_` do not say it.
        out, in_: their numbers of rows and of columns, as many each; None: nearly equal ones.
        generator, dtype, device: as in `torch.randn`.
        """
        out, in_, unpadded = split_shape("Kronecker.randn", shape, factors, out, in_, least=2)
        (r,) = rank_caps("Kronecker.randn", rank, None, shape, 1)
        made = [
            randn(r, m, n, generator=generator, dtype=dtype, device=device)
            for m, n in zip(out, in_)
        ]
        return cls((made[0] / r**0.5, *made[1:]), unpadded)

    @property
    def out(self) -> tuple[int, ...]:
        """The rows of each factor."""
        return tuple(f.shape[1] for f in self.factors)

    @property
    def in_(self) -> tuple[int, ...]:
        """The columns of each factor."""
        return tuple(f.shape[2] for f in self.factors)

    @property
    def ranks(self) -> tuple[int, ...]:
        """(terms,)."""
        return (self.factors[0].shape[0],)

    def _dense(self):
        d, columns = len(self.factors), self._columns()
        half = (d + 1) // 2
        x = khatri_rao(*columns[:half]) @ khatri_rao(*columns[half:]).mT
        x = x.reshape([k for pair in zip(self.out, self.in_) for k in pair])
        x = x.permute(*range(0, 2 * d, 2), *range(1, 2 * d, 2)).reshape(self.padded_shape)
        return x[: self.shape[0], : self.shape[1]]

    def _apply(self, x):
        """Without forming a product: of two factors and the input as a matrix X, sum_k F_0[k] X
        F_1[k]ᵀ."""
        (first, *middle, last), batch, r = self.factors, x.shape[0], self.ranks[0]
        before = math.prod(self.in_[:-1])  # inputs before the factor in turn
        z = pad_input(x, self.padded_shape[1]).reshape(batch * before, last.shape[2])
        z = z @ last.flatten(0, 1).t()  # (batch and inputs before, terms and outputs after)
        for f in reversed(middle):
            before //= f.shape[2]
            z = z.reshape(batch * before, f.shape[2], r, z.shape[1] // r).permute(2, 0, 1, 3)
            z = (f[:, None] @ z).flatten(2).transpose(0, 1).flatten(1)
        z = z.reshape(batch, first.shape[2] * r, z.shape[1] // r)
        return (first.permute(1, 2, 0).flatten(1) @ z).flatten(1).narrow(1, 0, self.shape[0])

    def _flops(self, batch: int) -> int:
        """The sum over the factors of 2 batch (inputs before) (outputs after) numel."""
        total, before, after = 0, self.padded_shape[1], 1
        for f in reversed(self.factors):
            before //= f.shape[2]
            total += 2 * batch * before * after * f.numel()
            after *= f.shape[1]
        return total

    def lr_multipliers(self) -> tuple[float, ...]:
        """in / (fan-in of the factor) / d; the fan-in is in_j, of the first factor, which adds the
        terms, terms · in_0 [Qiu2024].

        >>> Kronecker.randn((1024, 1024), 2).lr_multipliers()
        (8.0, 16.0)
        """
        fan_in = [f.shape[2] * (1 if j else f.shape[0]) for j, f in enumerate(self.factors)]
        return tuple(ratio(self.shape[1], n) / len(fan_in) for n in fan_in)

    def _norm(self):
        """Right for nearly canceling terms too; w is formed only where there is padding to cut."""
        if self.shape != self.padded_shape:
            return norm(self._dense())
        r = self.factors[0].new_ones(1, self.ranks[0])
        for c in self._columns():
            r = triangle(khatri_rao(r, c))
        return norm(r.sum(1))

    def _dot(self, other):
        """From the d products of factors; with padding both are formed."""
        if self.shape != self.padded_shape:
            return (self._dense().conj() * other._dense()).sum()
        grams = [a.mH @ b for a, b in zip(self._columns(), other._columns())]
        return torch.stack(grams).prod(0).sum()

    def _at(self, index):
        rows, columns = index.unbind(1)
        terms = self.factors[0].new_ones(1, 1)
        for f in reversed(self.factors):
            terms = terms * f[:, rows % f.shape[1], columns % f.shape[2]]
            rows, columns = rows // f.shape[1], columns // f.shape[2]
        return terms.sum(0)

    def round(self, rank=None, *, rtol: float | None = None) -> "Kronecker":
        """Fewer terms: the best for two factors, from the small matrix between orthonormal ones
        (padding counts as it is); of more, what `from_dense` finds if that has fewer terms than
        w."""
        (cap,) = rank_caps("Kronecker.round", rank, rtol, self.shape, 1)
        for f in self.factors:
            check_cut(f, "Kronecker.round", rank)
        whole = self.to(wide(self.dtype))._even()
        if len(self.factors) > 2:
            form = Kronecker.from_dense(whole._dense(), rank, rtol=rtol, out=self.out, in_=self.in_)
            fewer = form.ranks < self.ranks or (cap is not None and self.ranks > (cap,))
            return form.to(self.dtype) if fewer else self
        (qa, ra), (qb, rb) = (orthogonalize(c) for c in whole._columns())
        u, s, vh = truncated_svd(ra @ rb.mT, cap, atol=(rtol or 0.0) * read(whole._norm()))
        columns = qa @ (u * s.sqrt()), qb @ (vh.mT * s.sqrt())
        return self.with_tensors(
            c.mT.reshape(-1, *f.shape[1:]).to(f.dtype) for c, f in zip(columns, self.factors)
        )

    def _columns(self):
        """Each factor as the matrix (out_j in_j, terms) of which the rearranged w is made."""
        return [f.flatten(1).mT for f in self.factors]

    def _same(self, other, sign):
        super()._same(other, sign)
        if (other.out, other.in_) != (self.out, self.in_):
            raise ValueError(
                f"Kronecker {sign}: needs factors {self.out} x {self.in_}, got {other.out} x "
                f"{other.in_}"
            )

    def _add(self, other):
        return Kronecker(
            tuple(torch.cat(pair) for pair in zip(self.factors, other.factors)), self.unpadded_shape
        )

    def _times(self, other):
        return Kronecker(
            tuple((a[:, None] * b).flatten(0, 1) for a, b in zip(self.factors, other.factors)),
            self.unpadded_shape,
        )


def kron_svd(w: Tensor, left, rank: int | None = None, *, rtol: float | None = None) -> Kronecker:
    """The nearest sum of `rank` Kronecker products, in the Frobenius norm [VanLoanPitsianis1993].

        minimize | w - sum_k A_k ⊗ B_k |  =  | R(w) - sum_k vec(A_k) vec(B_k)ᵀ |,
            R = `kron_rearrange`

    w: (out, in). left: the (rows, columns) of the A_k; those of the B_k are what is left, rounded
    up, and zeros are padded. The smallest rank that meets `rtol`, capped by `rank`. ValueError or
    TypeError for a bad rank, rtol, matrix or size.

    >>> kron_svd(torch.ones(6, 6), (2, 3), rtol=0.0)
    Kronecker(shape=(6, 6), ranks=(1,), stores 12 of 36)
    """
    check_matrix("kron_svd", w, rank)
    out, in_ = _around("kron_svd", w, left)
    return Kronecker.from_dense(w, rank, rtol=rtol, out=out, in_=in_)


def kron_rearrange(w: Tensor, left) -> Tensor:
    """The matrix whose row (a, c) is block (a, c) of w: of A ⊗ B it is vec(A) vec(B)ᵀ
    [VanLoanPitsianis1993].

    w: (out, in), left: (rows, columns) of A -> (rows · columns, rows of B · columns of B). It keeps
    the Frobenius norm, and no other.

    >>> kron_rearrange(torch.kron(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])), (1, 2))
    tensor([[3., 4.],
            [6., 8.]])
    """
    check_matrix("kron_rearrange", w, rank=1)  # nothing is cut
    out, in_ = _around("kron_rearrange", w, left)
    return _rearranged(pad(w, (math.prod(out), math.prod(in_))), out, in_)


def _around(who, w, left) -> tuple[tuple[int, int], tuple[int, int]]:
    """The sizes out and in_ of two factors, the left one's given."""
    left = check_shape(who, left)
    if len(left) != 2:
        raise ValueError(f"{who}: needs left = (rows, columns) of the left factors, got {left}")
    (m, n), (rows, columns) = w.shape, left
    return (rows, -(-m // rows)), (columns, -(-n // columns))


def _rearranged(w: Tensor, out, in_) -> Tensor:
    """(out, in) -> (out_0 in_0, ..., out_{d-1} in_{d-1})."""
    pairs = [axis for k in range(len(out)) for axis in (k, len(out) + k)]
    return w.reshape(*out, *in_).permute(pairs).reshape([m * n for m, n in zip(out, in_)])


def _successive(x: Tensor, cap: int | None, atol: float) -> list[Tensor]:
    """Orthogonal rank-one terms of a tensor near 1 in size by successive SVDs, the largest: a
    matrix (n_j, terms) for each mode."""
    *units, last = _terms(x)
    weights = torch.linalg.vector_norm(last, dim=0)
    order = weights.detach().argsort(descending=True)
    order = order[: choose_rank(weights[order], cap, atol=atol)]
    share = weights[order] ** (1 / x.ndim)
    last = last[:, order] * (share / torch.where(weights > 0, weights, 1.0)[order])
    return [*(u[:, order] * share for u in units), last]


def _terms(x: Tensor) -> list[Tensor]:
    """All terms of x: columns of norm 1 for all modes but the last, which carries the norms."""
    u, s, vh = truncated_svd(x.flatten(1), rtol=0.0)
    rest = s[:, None] * vh
    if x.ndim == 2:
        return [u, rest.mT]
    parts = [_terms(row.reshape(x.shape[1:])) for row in rest]
    first = torch.cat(
        [u[:, k : k + 1].expand(-1, part[0].shape[1]) for k, part in enumerate(parts)], 1
    )
    return [first, *(torch.cat(columns, 1) for columns in zip(*parts))]
