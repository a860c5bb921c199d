"""Block tensor trains [Qiu2024]: a TT-matrix whose cores are not shared along the indices that they
pass by.

Each core is a stack of small dense matrices, one for every value of the inputs that are still to be
contracted and of the outputs that are already made, so a product with w costs one multiply-add for
each number stored, as with a dense weight.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arguments import check_same, rank_caps
from ..linalg import choose_rank, norm, root, safe_scale, small_svd, wide, zero_level
from ..rng import randn
from .base import SplitMatrix
from .modes import check_unpadded, matrix_norm, pad, pad_input, split_shape


@dataclass(frozen=True, eq=False, repr=False)
class BlockTT(SplitMatrix):
    """w[o, i] = sum over bonds of the product of cores, each of which sees the inputs left of it
    and the outputs right of it.

        two cores:  w[(a, b), (c, d)] = sum_s L[b, a, c, s] R[c, s, b, d]
            rows (a, b), columns (c, d)

    cores: core k of shape (I_k, O_k, r_k, out_k, in_k, r_{k+1}) with I_k = in_0 ... in_{k-1}, O_k =
    out_{k+1} ... out_{d-1}, r_0 = r_d = 1. ranks: the d-1 free ones. For two cores, w is a BlockTT
    of rank r if each of its slices [:, b, c, :] has rank at most r: a TT-matrix has all slices in
    one common span, a Monarch matrix of √n blocks has r = 1, and any matrix is had at r = √n.
    unpadded_shape: (out, in) where these are less than the products of the modes: the padding is
    stored, counted in `numel`, and cut [Qiu2024, Appendix C]. Raises ValueError for cores that do
    not chain.

    >>> BlockTT.randn((16, 16), rank=2, generator=torch.Generator().manual_seed(0))
    BlockTT(shape=(16, 16), ranks=(2,), stores 256 of 256)
    """

    cores: tuple[Tensor, ...]
    unpadded_shape: tuple[int, int] | None = None

    def _check(self):
        name, got = type(self).__name__, [tuple(c.shape) for c in self.cores]
        fits = (
            bool(got)
            and all(len(g) == 6 and 0 not in g for g in got)
            and got[0][2] == got[-1][5] == 1
        )
        fits = fits and all(a[5] == b[2] for a, b in zip(got, got[1:]))
        if not fits or any(
            g[:2] != (math.prod(self.in_[:k]), math.prod(self.out[k + 1 :]))
            for k, g in enumerate(got)
        ):
            raise ValueError(
                f"{name}: needs cores (inputs before, outputs after, r_left, out, in, r_right) "
                f"that chain from rank 1 to rank 1, got shapes {got}"
            )
        check_same(name, self.cores)
        if self.unpadded_shape is not None:
            check_unpadded(name, self.unpadded_shape, self.padded_shape)

    @classmethod
    def from_dense(
        cls, w: Tensor, rank=None, *, rtol: float | None = None, cores: int = 2, out=None, in_=None
    ) -> "BlockTT":
        """The BlockTT of a dense matrix by truncated SVDs of its slices, from the first core to the
        last [Qiu2024].

            |w - result| <= (rtol + 64 eps) |w|      when `rank` does not cut earlier

        Two cores: the *best* approximation of its rank, for the slices are independent. More:
        *quasi-optimal*, at most √(d-1) times the best error, for the errors of the d-1 cuts are
        orthogonal. Differentiable where the singular values of each slice differ.

        w: (out, in).
        rank: a cap, one integer or d - 1 of them; all slices of a cut get the same rank. None: no
            cap.
        rtol: the relative Frobenius error that is allowed, of all slices together; None: only the
            cap counts.
        cores: how many cores, where `out` and `in_` do not say it.
        out, in_: the modes of the rows and of the columns, as many each; None: nearly equal ones.
            Zeros are padded where the products are larger than w.

        Raises ValueError or TypeError for a bad argument.

        >>> w = torch.randn(16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> form = BlockTT.from_dense(w, rank=4)
        >>> form.ranks, bool((form.to_dense() - w).norm() < 1e-13 * w.norm())
        ((4,), True)
        """
        who, norm = "BlockTT.from_dense", matrix_norm("BlockTT.from_dense", w, rank)
        out, in_, unpadded = split_shape(who, w.shape, cores, out, in_)
        caps = rank_caps(who, rank, rtol, w.shape, len(out) - 1)
        atol = norm * max((rtol or 0.0) / math.sqrt(max(1, len(caps))), zero_level(w.dtype))
        whole = pad(w, (math.prod(out), math.prod(in_)))
        return cls(_slice_svds(whole, out, in_, caps, atol, safe_scale(norm)), unpadded)

    @classmethod
    def randn(
        cls,
        shape,
        rank,
        *,
        cores: int = 2,
        out=None,
        in_=None,
        generator=None,
        dtype=None,
        device=None,
    ) -> "BlockTT":
        """Gaussian cores, scaled so that the entries of w have variance 1; ranks are capped by the
        slices'.

        shape: (out, in).
        rank: one integer for all bonds, or one for each.
        cores: how many cores, where `out` and `in_` do not say it.
        out, in_: the modes of the rows and of the columns, as many each; None: nearly equal ones.
        generator, dtype, device: as in `torch.randn`.
        """
        out, in_, unpadded = split_shape("BlockTT.randn", shape, cores, out, in_)
        caps = rank_caps("BlockTT.randn", rank, None, shape, len(out) - 1)
        options = dict(generator=generator, dtype=dtype, device=device)
        made, r = [], 1
        for k, (m, n) in enumerate(zip(out, in_)):
            rest = math.prod(in_[k + 1 :])
            q = min(caps[k], r * m, rest) if k < len(caps) else 1
            before, after = math.prod(in_[:k]), math.prod(out[k + 1 :])
            made.append(randn(before, after, r, m, n, q, **options) / r**0.5)
            r = q
        return cls(tuple(made), unpadded)

    @property
    def out(self) -> tuple[int, ...]:
        """The sizes that the row index is split into."""
        return tuple(c.shape[3] for c in self.cores)

    @property
    def in_(self) -> tuple[int, ...]:
        """The sizes that the column index is split into."""
        return tuple(c.shape[4] for c in self.cores)

    @property
    def ranks(self) -> tuple[int, ...]:
        """(r_1, ..., r_{d-1}), one for each bond."""
        return tuple(c.shape[2] for c in self.cores[1:])

    def _dense(self):
        # (inputs before, bond, outputs made, inputs taken)
        z = self.cores[0].new_ones(self.padded_shape[1], 1, 1, 1)
        for core in reversed(self.cores):
            I, O, r, m, n, q = core.shape
            left = core.permute(0, 4, 1, 2, 3, 5).reshape(I, n, O, r * m, q)
            z = left @ z.reshape(I, n, q, O, -1).transpose(2, 3)  # (I, n, O, r m, taken)
            z = z.reshape(I, n, O, r, m, -1).permute(0, 3, 4, 2, 1, 5).reshape(I, r, m * O, -1)
        return z[0, 0, : self.shape[0], : self.shape[1]]

    def _apply(self, x):
        """From the last core to the first: each is one batched product with its small matrices, and
        a permutation."""
        z, batch = pad_input(x, self.padded_shape[1]).t(), x.shape[0]
        for k in range(len(self.cores) - 1, -1, -1):
            I, O, r, m, n, q = self.cores[k].shape
            blocks = self.cores[k].reshape(I * O, r * m, n * q)
            z = blocks @ z.reshape(I * O, n * q, batch)  # (I O, r m, batch)
            n = self.in_[k - 1] if k else 1
            z = z.reshape(I // n, n, O, r, m, batch)
            z = z.permute(0, 4, 2, 1, 3, 5)  # (earlier inputs, m, O, n, r, batch)
        return z.reshape(self.padded_shape[0], batch)[: self.shape[0]].t()

    def _flops(self, batch: int) -> int:
        """2 batch numel: one multiply-add for each number stored."""
        return 2 * batch * self.numel

    def lr_multipliers(self) -> tuple[float, ...]:
        """in / (fan-in of the core) / d; the fan-in of a core is in_k r_{k+1} [Qiu2024].

        >>> BlockTT.randn((1024, 1024), 1).lr_multipliers()
        (16.0, 16.0)
        """
        return tuple(
            self.shape[1] / (c.shape[4] * c.shape[5]) / len(self.cores) for c in self.cores
        )

    def _norm(self):
        """Forms w, so that small differences keep their digits."""
        return norm(self._dense())

    def _dot(self, other):
        """Forms both."""
        a, b = (t.to(wide(t.dtype))._dense() for t in (self, other))
        return (a.conj() * b).sum().to(self.dtype)

    def _at(self, index):
        rows, columns = index.unbind(1)
        v = self.cores[0].new_ones(len(rows), 1, 1)
        after, before = self.padded_shape  # outputs from here on, inputs from here on
        for core in self.cores:
            I, O, r, m, n, q = core.shape
            after, before = after // m, before // n
            o, i = rows // after % m, columns // before % n
            v = v @ core[columns // (before * n), rows % after, :, o, i]  # (batch, 1, q)
        return v[:, 0, 0]

    def round(self, rank=None, *, rtol: float | None = None) -> "BlockTT":
        """The same modes at lower ranks: `from_dense` of w, best for two cores and quasi-optimal
        for more."""
        form = BlockTT.from_dense(
            self.to(wide(self.dtype)).to_dense(), rank, rtol=rtol, out=self.out, in_=self.in_
        )
        return type(self)(form.cores, form.unpadded_shape).to(self.dtype)

    def _same(self, other, sign):
        super()._same(other, sign)
        if (other.out, other.in_) != (self.out, self.in_):
            modes = f"{self.out} x {self.in_}, got {other.out} x {other.in_}"
            raise ValueError(f"{type(self).__name__} {sign}: needs modes {modes}")

    def _add(self, other):
        cores = []
        for k, (a, b) in enumerate(zip(self.cores, other.cores)):
            first, last = k == 0, k == len(self.cores) - 1
            if not (first or last):
                a = torch.cat([a, a.new_zeros(*a.shape[:5], b.shape[5])], 5)
                b = torch.cat([b.new_zeros(*b.shape[:5], a.shape[5] - b.shape[5]), b], 5)
            cores.append(a + b if first and last else torch.cat([a, b], 5 if first else 2))
        return type(self)(tuple(cores), self.unpadded_shape)

    def _times(self, other):
        pairs = zip(self.cores, other.cores)
        products = (torch.einsum("iormnq,iosmnt->iorsmnqt", a, b) for a, b in pairs)
        return type(self)(tuple(p.flatten(6).flatten(2, 3) for p in products), self.unpadded_shape)


def _slice_svds(w: Tensor, out, in_, caps, atol: float, scale: float) -> tuple[Tensor, ...]:
    """The cores of a padded matrix, each of whose cuts may lose `atol`.

    Cut k takes the slices [(r_k, out_k), later inputs], one for each value of the other indices,
    and keeps the same rank of all: what is measured is the root of the sum of the squares of their
    j-th singular values, j = 1, 2, ...
    """
    rest, r, cores = (w * scale).to(wide(w.dtype)), 1, []
    for k, cap in enumerate(caps):
        I, O, m, n = math.prod(in_[:k]), math.prod(out[k + 1 :]), out[k], in_[k]
        slices = rest.reshape(I, r, m, O, n, -1).permute(0, 3, 4, 1, 2, 5)
        slices = slices.flatten(3, 4)  # (I, O, n, r m, later inputs)
        u, s, vh = small_svd(slices)
        q = choose_rank(torch.linalg.vector_norm(s, dim=(0, 1, 2)), cap, atol=atol * scale)
        u, s, vh = u[..., :q], s[..., None, :q], vh[..., :q, :]
        # the last two cores are balanced; before, what is left must weigh what it represents
        if k == len(caps) - 1:
            u, s = u * root(s), root(s)
        cores.append(u.reshape(I, O, n, r, m, q).permute(0, 1, 3, 4, 2, 5))
        rest, r = (s.mT * vh).permute(0, 2, 3, 1, 4).reshape(I * n, q, O, -1), q
    cores.append(rest.reshape(math.prod(in_[:-1]), 1, r, out[-1], in_[-1], 1) / scale)
    return tuple(c.to(w.dtype) for c in cores)
