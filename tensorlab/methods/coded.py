"""Layers whose parts are in few bits: two factors with feedback, and the rows of a table
[Frantar2023].

    w ≈ u v,    v in bits under A = mean of x xᵀ,
                u = w A vᵀ (v A vᵀ)⁻¹ for the v that is stored, in bits under v A vᵀ
"""

import torch
from torch import Tensor, nn

from ..arguments import count
from ..formats.lowrank import LowRank
from ..layers.embedding import checked_ids
from ..linalg import near_one, widen
from .codes import Quantized, quantize, unpack
from .feedback import quantize_with_feedback
from .quantize import HoldsCodes, QuantizedLinear


class QuantizedFactors(nn.Module):
    """y = x vᵀ uᵀ + bias with both factors quantized: (..., in) -> (..., out).

    u: (out, r), v: (r, in). bias: (out,) or None. `weight` is their product, dense.

    >>> low = LowRank.randn((8, 6), 2, generator=torch.Generator().manual_seed(0))
    >>> layer = QuantizedFactors(quantize(low.u, 8), quantize(low.v.mT.contiguous(), 8))
    >>> layer(torch.ones(3, 6)).shape
    torch.Size([3, 8])
    """

    def __init__(self, u: Quantized, v: Quantized, bias: Tensor | None = None):
        super().__init__()
        if u.matrix_shape[1] != v.matrix_shape[0]:
            got = f"{u.matrix_shape} and {v.matrix_shape}"
            raise ValueError(f"QuantizedFactors: needs u (out, r) and v (r, in), got {got}")
        self.v, self.u = QuantizedLinear(v), QuantizedLinear(u, bias)

    @property
    def weight(self) -> Tensor:
        """u v, (out, in)."""
        return self.u.weight.to_dense() @ self.v.weight.to_dense()

    @property
    def bias(self) -> Tensor | None:
        return self.u.bias

    @property
    def in_features(self) -> int:
        return self.v.in_features

    @property
    def out_features(self) -> int:
        return self.u.out_features

    def forward(self, x: Tensor) -> Tensor:
        return self.u(self.v(x))


class QuantizedEmbedding(HoldsCodes):
    """ids (...,) -> (..., width): rows of a quantized table; no other row is decoded.

    weight: of "uniform" or "kmeans", one group for each row, whole bytes for each row. Raises
    ValueError for another weight and for ids out of range, TypeError for ids that are not integers.

    >>> table = quantize(torch.eye(4, 8), 8, method="uniform", group="channel")
    >>> QuantizedEmbedding(table)(torch.tensor([2])).round().tolist()
    [[0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    """

    def __init__(self, weight: Quantized):
        super().__init__(weight)
        rows, width = weight.matrix_shape
        if weight.q is not None or len(weight.scale) != rows or width * weight.bits % 8:
            need = "rows with a scale and whole bytes each, and no rotation"
            raise ValueError(f"QuantizedEmbedding: needs {need}, got {weight}")

    @property
    def num_embeddings(self) -> int:
        return self._form.matrix_shape[0]

    @property
    def embedding_dim(self) -> int:
        return self._form.matrix_shape[1]

    def flops(self, batch: int) -> int:
        """None: rows are looked up."""
        return 0 * count("QuantizedEmbedding.flops", "batch", batch, 0)

    def forward(self, ids: Tensor) -> Tensor:
        ids = checked_ids("QuantizedEmbedding", ids, self.num_embeddings)
        w, at = self.weight, ids.flatten()
        packed = w.codes.reshape(self.num_embeddings, -1)[at].flatten()
        codes = unpack(packed, w.bits, len(at) * self.embedding_dim).reshape(len(at), -1)
        scale = w.scale[at].float()
        if w.method == "uniform":
            rows = scale[:, :1] + scale[:, 1:] * codes
        else:
            rows = scale[:, None] * w.codebook.float()[codes, 0]
        wide = torch.promote_types(w.dtype, torch.float32)
        rows = rows.to(wide) * w.size.to(wide)
        return rows.to(w.dtype).reshape(*ids.shape, -1)


def quantize_rows(table: Tensor, bits: int) -> Quantized:
    """A table (rows, width) in bits, a scale for each row: levels by k-means up to 4 bits, on a
    grid above. Where rows would not be of whole bytes, in 8 bits."""
    bits = bits if table.shape[1] * bits % 8 == 0 else 8
    method = "kmeans" if bits <= 4 else "uniform"
    return quantize(table, bits, method=method, group="channel")


def coded(w: Tensor, moment: Tensor, bits: int, damping: float, generator=None) -> Quantized:
    """`quantize_with_feedback` of any matrix: method "pairs" where it is possible, else "rotate".

    w, moment, bits, damping, generator: as in `quantize_with_feedback`.
    """
    method = "pairs" if bits <= 4 and w.shape[1] % 2 == 0 else "rotate"
    options = dict(method=method, damping=damping, generator=generator)
    return quantize_with_feedback(w, moment, bits, **options)


@torch.no_grad()
def factors_with_feedback(
    w: Tensor, low: LowRank, moment: Tensor, bits: int, *, damping: float = 0.01, generator=None
) -> tuple[Quantized, Quantized]:
    """u and v of `low` in bits, such that |(w - u v) C| is small, C Cᵀ = moment.

    w: the matrix that u v approximates, (out, in).
    low: the factors to start from; v is quantized first, and u solved for what v became.
    moment, bits, damping, generator: as in `quantize_with_feedback`.

    >>> w, g = torch.diag(torch.arange(8.0)), torch.Generator().manual_seed(0)
    >>> u, v = factors_with_feedback(w, LowRank.from_dense(w, 4), torch.eye(8), 8, generator=g)
    >>> float((u.to_dense() @ v.to_dense()).diagonal()[7].round())
    7.0
    """
    v = coded(low.v.mT.contiguous(), moment, bits, damping, generator)
    a, right = near_one(widen(moment))[0], widen(v.to_dense())
    inner = right @ a @ right.mT
    mean = float(inner.diagonal().mean())
    ridge = 1e-6 * mean if mean > 0 else 1.0
    eye = torch.eye(len(inner), dtype=inner.dtype, device=inner.device)
    u = torch.linalg.solve(inner + ridge * eye, right @ a @ widen(w).mT).mT
    if mean == 0:  # no input was seen
        u = widen(low.u)
    return coded(u.to(w.dtype), inner, bits, damping, generator), v
