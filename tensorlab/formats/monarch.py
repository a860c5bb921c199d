"""Monarch matrices [Dao2022]: block-diagonal, permutation, block-diagonal.

They are the block tensor trains whose grid of slices is b by b and whose rank is the least that
makes the middle as wide as the matrix; with √n blocks, that of rank 1. So `BlockTT` multiplies and
truncates, and this module adds the view as a product.
"""

from dataclasses import dataclass

from torch import Tensor

from ..arguments import check_matrix_shape, count
from .blocktt import BlockTT
from .modes import split_shape


@dataclass(frozen=True, eq=False, repr=False)
class Monarch(BlockTT):
    """w = P L Pᵀ R with L and R block-diagonal and P the permutation that deals the values of one
    block to all others.

        w[(a, b), (c, d)] = sum_s L[b, a, (c, s)] R[c, (s, b), d]
            rows (a, b), columns (c, d), b and c count blocks

    cores: as of `BlockTT`; `blocks()` gives L and R. With b blocks in each, L and R hold out·middle
    / b and middle·in / b numbers, middle = b² s. More cores: the product P₀ B₀ P₁ B₁ ... of the
    order-d Monarch matrices [Fu2023], each with n^(1-1/d) blocks. A sum of two has wider middles,
    and stays a Monarch.

    >>> import torch
    >>> w = Monarch.randn((64, 64), blocks=4, generator=torch.Generator().manual_seed(0))
    >>> w, [tuple(b.shape) for b in w.blocks()]
    (Monarch(shape=(64, 64), ranks=(4,), stores 2048 of 4096), [(4, 16, 16), (4, 16, 16)])
    """

    @classmethod
    def from_dense(cls, w: Tensor, blocks: int | None = None, *, cores: int = 2) -> "Monarch":
        """The Monarch matrix nearest to a dense one: truncated SVDs of its slices w[:, b, c, :]
        [Dao2022].

        Two cores: the *best* approximation, and so exact for a Monarch matrix. More:
        *quasi-optimal*, at most √(d-1) times the best error. w: (out, in). blocks: how many L and R
        have each; None: about √n for two cores, n^(1-1/d) for d. Sizes that are not multiples of it
        are padded with zeros.

        >>> import torch
        >>> Monarch.from_dense(torch.ones(16, 16), blocks=4)
        Monarch(shape=(16, 16), ranks=(1,), stores 128 of 256)
        """
        if not isinstance(w, Tensor):
            raise TypeError(f"Monarch.from_dense: needs a torch tensor, got {type(w).__name__}")
        out, in_, ranks = _grid("Monarch.from_dense", w.shape, blocks, cores)
        form = BlockTT.from_dense(w, ranks, out=out, in_=in_)
        return cls(form.cores, form.unpadded_shape)

    @classmethod
    def randn(
        cls,
        shape,
        blocks: int | None = None,
        *,
        cores: int = 2,
        generator=None,
        dtype=None,
        device=None,
    ) -> "Monarch":
        """Gaussian blocks, scaled so that the entries of w have variance 1.

        shape: (out, in).
        blocks: the number of blocks; None: as in `from_dense`.
        cores: how many cores, two or more.
        generator, dtype, device: as in `torch.randn`.
        """
        out, in_, ranks = _grid("Monarch.randn", shape, blocks, cores)
        form = BlockTT.randn(
            shape, ranks, out=out, in_=in_, generator=generator, dtype=dtype, device=device
        )
        return cls(form.cores, form.unpadded_shape)

    def blocks(self) -> tuple[Tensor, ...]:
        """The diagonal blocks of each factor, the last one first to act: (number, rows,
        columns)."""
        return tuple(c.flatten(4).flatten(2, 3).flatten(0, 1) for c in self.cores)


def _grid(who, shape, blocks, cores):
    """The modes and ranks of a Monarch with so many blocks: slices of out / b by in / b, of rank
    min(out, in) / b² rounded up."""
    if blocks is None:
        out, in_, _ = split_shape(who, shape, cores)
        return out, in_, (1,) * (cores - 1)
    m, n = check_matrix_shape(who, shape)
    if cores != 2:
        raise ValueError(f"{who}: blocks need two cores, got cores={cores!r}")
    blocks = count(who, "blocks", blocks, 1, min(m, n))
    rows, columns = -(-m // blocks), -(-n // blocks)
    return (rows, blocks), (blocks, columns), (-(-min(rows, columns) // blocks),)
