"""TT-matrices [Oseledets2010] [Novikov2015]: a weight as a train whose cores have an index of the
rows and one of the columns.

Everything but the product with a vector is that of the tensor train of the interleaved tensor, so
`TT` does it. How to multiply well, over which path and with what kept for the gradient, is
`layers.propagation`; this is the plain reference.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arguments import check_same, check_shape
from ..linalg import check_cut
from .base import SplitMatrix, ratio
from .modes import check_matrix, check_unpadded, pad, pad_input, split_shape
from .tt import TT, tt_round, tt_svd


@dataclass(frozen=True, eq=False, repr=False)
class TTMatrix(SplitMatrix):
    """w[(o_0 .. o_{d-1}), (i_0 .. i_{d-1})] = G_0[o_0, i_0] ... G_{d-1}[o_{d-1}, i_{d-1}], a
    product of matrices.

    cores: d tensors, core k of shape (r_k, out_k, in_k, r_{k+1}) with r_0 = r_d = 1. ranks: the d-1
    free ones. unpadded_shape: (out, in) where these are less than the products of the modes; the
    padding is stored, counted in `numel`, and cut.

    >>> TTMatrix.randn(out=(4, 5), in_=(3, 2), rank=2, generator=torch.Generator().manual_seed(0))
    TTMatrix(shape=(20, 6), ranks=(2,), stores 44 of 120)
    """

    cores: tuple[Tensor, ...]
    unpadded_shape: tuple[int, int] | None = None

    def _check(self):
        got = [tuple(c.shape) for c in self.cores]
        chained = all(a[-1:] == b[:1] for a, b in zip(got, got[1:]))
        if (
            not got
            or any(len(g) != 4 or 0 in g for g in got)
            or not chained
            or got[0][0] != 1
            or got[-1][3] != 1
        ):
            raise ValueError(
                f"TTMatrix: needs cores (r_left, out, in, r_right) that chain from rank 1 to rank "
                f"1, got shapes {got}"
            )
        check_same("TTMatrix", self.cores)
        if self.unpadded_shape is not None:
            check_unpadded("TTMatrix", self.unpadded_shape, self.padded_shape)

    @classmethod
    def from_dense(
        cls, w: Tensor, rank=None, *, rtol: float | None = None, cores: int = 2, out=None, in_=None
    ) -> "TTMatrix":
        """`tt_matrix_svd`, by default with modes out and in_ of `cores` nearly equal sizes.

        w, rank, rtol, out, in_: as in `tt_matrix_svd`.
        cores: how many modes, where `out` and `in_` do not say it.

        >>> TTMatrix.from_dense(torch.ones(6, 8), rtol=0.0)
        TTMatrix(shape=(6, 8), ranks=(1,), stores 16 of 48)
        """
        check_matrix("TTMatrix.from_dense", w, rank)
        out, in_, _ = split_shape("TTMatrix.from_dense", w.shape, cores, out, in_)
        return tt_matrix_svd(w, out, in_, rank, rtol=rtol)

    @classmethod
    def randn(
        cls,
        shape=None,
        rank=None,
        *,
        cores: int = 2,
        out=None,
        in_=None,
        generator=None,
        dtype=None,
        device=None,
    ) -> "TTMatrix":
        """Gaussian cores, scaled so that the entries of w have variance 1; ranks are capped by the
        unfoldings'.

        shape: (out, in); None: the products of the modes.
        rank: one integer for all bonds, or one for each.
        cores: how many cores, where `out` and `in_` do not say it.
        out, in_: the modes of the rows and of the columns, as many each; None: nearly equal ones.
        generator, dtype, device: as in `torch.randn`.

        Raises ValueError where shape and modes are both missing or do not fit.
        """
        if shape is None:
            out, in_ = _modes("TTMatrix.randn", out, in_)
            shape = math.prod(out), math.prod(in_)
        out, in_, unpadded = split_shape("TTMatrix.randn", shape, cores, out, in_)
        modes = [m * n for m, n in zip(out, in_)]
        train = TT.randn(modes, rank, generator=generator, dtype=dtype, device=device)
        return _from_tt(train, out, in_, unpadded)

    @property
    def out(self) -> tuple[int, ...]:
        """The sizes that the row index is split into."""
        return tuple(c.shape[1] for c in self.cores)

    @property
    def in_(self) -> tuple[int, ...]:
        """The sizes that the column index is split into."""
        return tuple(c.shape[2] for c in self.cores)

    @property
    def ranks(self) -> tuple[int, ...]:
        """(r_1, ..., r_{d-1}), one for each bond."""
        return tuple(c.shape[0] for c in self.cores[1:])

    def to_tt(self) -> TT:
        """The tensor train of the interleaved tensor, modes out_k in_k, padding included.

        >>> TTMatrix.randn(out=(2, 3), in_=(4, 5), rank=2).to_tt()
        TT(shape=(8, 15), ranks=(2,), stores 46 of 120)
        """
        return TT(tuple(c.flatten(1, 2) for c in self.cores))

    def to_dense(self) -> Tensor:
        """The dense matrix, (out, in), without the padding."""
        d, (m, n) = len(self.cores), self.shape
        x = self.to_tt().to_dense().reshape([k for pair in zip(self.out, self.in_) for k in pair])
        return x.permute(*range(0, 2 * d, 2), *range(1, 2 * d, 2)).reshape(self.padded_shape)[
            :m, :n
        ]

    def _apply(self, x):
        """Core by core from the left: each core takes the bond and its column index, and gives its
        row index and the next bond. The order of the indices stays, so that nothing is permuted:
        (batch O, r i, I) -> (batch O, o q, I)."""
        t, rows, columns = pad_input(x, self.padded_shape[1]), x.shape[0], self.padded_shape[1]
        for core in self.cores:
            r, o, i, q = core.shape
            columns //= i
            t = core.permute(1, 3, 0, 2).reshape(o * q, r * i) @ t.reshape(rows, r * i, columns)
            rows = rows * o
        return t.reshape(x.shape[0], self.padded_shape[0]).narrow(1, 0, self.shape[0])

    def _flops(self, batch: int) -> int:
        """The sum over the cores of 2 batch (outputs made) (inputs left) numel."""
        total, rows, columns = 0, 1, self.padded_shape[1]
        for core in self.cores:
            columns //= core.shape[2]
            total += 2 * batch * rows * columns * core.numel()
            rows *= core.shape[1]
        return total

    def lr_multipliers(self) -> tuple[float, ...]:
        """in / (fan-in of the core) / d; the fan-in of a core is r_left in_k [Qiu2024]."""
        return tuple(
            ratio(self.shape[1], c.shape[0] * c.shape[2]) / len(self.cores) for c in self.cores
        )

    def norm(self) -> Tensor:
        """Frobenius norm of w, without the padding: that of the train."""
        return self._inside().to_tt().norm()

    def dot(self, other: "TTMatrix") -> Tensor:
        """<self, other> = sum of conj(self) * other, in the trains."""
        a, b = self._pair(other, "dot")
        return a._inside().to_tt().dot(b.to_tt())

    def at(self, index) -> Tensor:
        """Entries at many indices: (batch, 2) -> (batch,)."""
        rows, columns = self._index(index).unbind(1)
        digits = []
        for m, n in zip(self.out[::-1], self.in_[::-1]):
            digits.append(rows % m * n + columns % n)
            rows, columns = rows // m, columns // n
        return self.to_tt().at(torch.stack(digits[::-1], 1))

    def round(self, rank=None, *, rtol: float | None = None) -> "TTMatrix":
        """The TT-matrix of smallest ranks within a tolerance, `tt_round` of its train; padding is
        first set to zero."""
        return self._like(tt_round(self._inside().to_tt(), rank, rtol=rtol))

    def _same(self, other, sign):
        super()._same(other, sign)
        if (other.out, other.in_) != (self.out, self.in_):
            raise ValueError(
                f"TTMatrix {sign}: needs modes {self.out} x {self.in_}, got {other.out} x "
                f"{other.in_}"
            )

    def _add(self, other):
        return self._like(self.to_tt() + other.to_tt())

    def _times(self, other):
        return self._like(self.to_tt() * other.to_tt())

    def _like(self, train):
        return _from_tt(train, self.out, self.in_, self.unpadded_shape)

    def _inside(self) -> "TTMatrix":
        """The same matrix with zeros as padding: times the indicator of row < out and column < in,
        a train of rank 2 x 2."""
        if self.unpadded_shape in (None, self.padded_shape):
            return self
        pairs = zip(
            _below(self.unpadded_shape[0], self.out), _below(self.unpadded_shape[1], self.in_)
        )
        ones = [
            torch.einsum("amb,cnd->acmnbd", a, b).flatten(4).flatten(0, 1).flatten(1, 2)
            for a, b in pairs
        ]
        return self._like(self.to_tt() * TT(tuple(c.to(self.dtype).to(self.device) for c in ones)))


def tt_matrix_svd(w: Tensor, out, in_, rank=None, *, rtol: float | None = None) -> TTMatrix:
    """TT-matrix of a dense matrix: TT-SVD of the tensor with modes out_k in_k [Oseledets2010].

        |w - result| <= (rtol + 64 eps) |w|      when `rank` does not cut earlier

    w: (out, in).
    out, in_: the modes of the rows and of the columns, as many each; where their products are
        larger than w, it is padded with zeros, and the result has w's shape.
    rank: a cap, one integer or d - 1 of them; None: no cap.
    rtol: the relative Frobenius error that is allowed; None: only the cap counts.

    Which index lies in which mode matters: the ranks are those of w with rows and columns in this
    order. Raises ValueError or TypeError for a bad rank, rtol, matrix or sizes.

    >>> i = torch.arange(1.0, 17.0, dtype=torch.float64)
    >>> tt_matrix_svd(1 / (i[:, None] + i), (4, 4), (4, 4), rtol=1e-2)
    TTMatrix(shape=(16, 16), ranks=(2,), stores 64 of 256)
    """
    check_cut(w, "tt_matrix_svd", rank)
    out, in_ = _modes("tt_matrix_svd", out, in_)
    if w.ndim != 2:
        raise ValueError(f"tt_matrix_svd: needs a matrix, got shape {tuple(w.shape)}")
    d, padded_shape = len(out), (math.prod(out), math.prod(in_))
    unpadded = check_unpadded("tt_matrix_svd", w.shape, padded_shape)
    w = w if unpadded is None else pad(w, padded_shape)
    pairs = [axis for k in range(d) for axis in (k, d + k)]
    x = w.reshape(*out, *in_).permute(pairs).reshape([m * n for m, n in zip(out, in_)])
    return _from_tt(tt_svd(x, rank, rtol=rtol), out, in_, unpadded)


def _from_tt(train: TT, out, in_, unpadded_shape) -> TTMatrix:
    cores = (c.unflatten(1, (m, n)) for c, m, n in zip(train.cores, out, in_))
    return TTMatrix(tuple(cores), unpadded_shape)


def _modes(who, out, in_):
    """The mode sizes as two tuples of one length."""
    out, in_ = check_shape(who, out), check_shape(who, in_)
    if len(out) != len(in_):
        raise ValueError(f"{who}: needs as many sizes in out as in in_, got {out} and {in_}")
    return out, in_


def _below(n: int, modes) -> list[Tensor]:
    """Cores (a, mode, b) of the indicator of index < n: the bond tells whether the digits so far
    are equal to those of n - 1 or already less."""
    cores, rest = [], n - 1
    for k in range(len(modes) - 1, -1, -1):
        rest, digit = divmod(rest, modes[k])
        core = torch.zeros(2, modes[k], 2, dtype=torch.float64)
        core[0, digit, 0], core[0, :digit, 1], core[1, :, 1] = 1, 1, 1
        cores.append(core)
    cores = cores[::-1]
    cores[-1] = cores[-1].sum(2, keepdim=True)
    cores[0] = cores[0][:1]
    return cores
