"""Codes that know the inputs: columns are rounded one after another, and each hands its error on to
those that follow, worth about one bit [Frantar2023].

    w = size · scale · Q1 z Q2ᵀ
    H = Q2ᵀ (mean of x xᵀ) Q2 + δ mean(diagonal) 1,     H⁻¹ = Uᵀ U, U upper

    for columns b, two at a time for "pairs":
        ẑ_b = nearest,   z_rest <- z_rest - (z_b - ẑ_b) U_bb⁻¹ U_b,rest

Q1 is orthogonal on the side of the outputs and changes no error. Codebook, scale and rotation stay
those of `quantize`. Without a rotation the error of a layer falls too, but a task may lose, so only
rotated methods are taken.
"""

from dataclasses import replace as changed

import torch
from torch import Tensor, nn

from ..layers.dense import current, dense_weight
from ..layers.select import LINEAR
from ..layers.surgery import replace
from ..linalg import check_dense, near_one, widen
from .codes import Quantized, nearest, pack, quantize, spiral
from .quantize import QuantizedLinear
from .weighted import Statistics, damping_of

BLOCK = 128  # columns whose errors are handed on together to those after them


@torch.no_grad()
def quantize_with_feedback(
    w: Tensor,
    moment: Tensor,
    bits: int = 4,
    *,
    method: str | None = None,
    damping: float = 0.01,
    generator: torch.Generator | None = None,
) -> Quantized:
    """A weight in few bits with a small |(w - w_q) C|, C Cᵀ = moment, where `quantize` has a small
    |w - w_q|.

    w: (out, in), real; for "pairs" the number of inputs must be even.
    moment: (in, in), a second moment of the inputs, sum or mean.
    bits, generator: as in `quantize`.
    method: "rotate" or "pairs"; None: "pairs" up to 4 bits, "rotate" above.
    damping: δ, in units of the mean of the moment's diagonal; 0.1 is better where there are fewer
        than two tokens for each input (`damping_of`).

    Raises ValueError for a method without a rotation, an odd number of inputs for "pairs" and a
    moment that does not fit.

    >>> g = torch.Generator().manual_seed(0)
    >>> w, x = torch.randn(32, 32, generator=g), torch.randn(99, 32, generator=g)
    >>> x = x * torch.logspace(1, -1, 32)
    >>> plain = quantize(w, 2, generator=torch.Generator().manual_seed(1))
    >>> fed = quantize_with_feedback(w, x.mT @ x, 2, generator=torch.Generator().manual_seed(1))
    >>> change = lambda q: float((x @ (w - q.to_dense()).mT).norm())
    >>> change(fed) < 0.8 * change(plain)
    True
    """
    plain = quantize(w, bits, method=method, generator=generator)
    h = _curvature(plain, moment, damping)
    wide = 2 if plain.method == "pairs" else 1
    z = plain.q.adjoint(widen(w) / widen(plain.size) / float(plain.scale.float()))
    levels = plain.codebook if len(plain.codebook) else spiral(2 * plain.bits, device=w.device)
    codes = _rounded(z, h, levels.float(), wide)
    packed = pack(codes.flatten().to(torch.uint8), wide * plain.bits)
    fed = changed(plain, codes=packed)
    return changed(fed, error=distance_of(w, fed))


def feedback_layers(
    model: nn.Module,
    statistics: dict[str, Statistics],
    bits: int = 4,
    *,
    method: str | None = None,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Quantize the layers of `calibrate` with feedback; changes the model and returns it.

    model: whose linear layers are quantized.
    statistics: of `calibrate`, by the names of the layers.
    bits, method, generator: as in `quantize_with_feedback`; its damping is that of `damping_of`.

    >>> from tensorlab.methods.weighted import calibrate
    >>> model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 4))
    >>> found = calibrate(model, [torch.randn(64, 16)])
    >>> [type(layer).__name__ for layer in feedback_layers(model, found, 3)]
    ['QuantizedLinear', 'QuantizedLinear']
    """

    def build(name, layer):
        s, w = statistics[name], dense_weight(layer)
        damping = damping_of(s.rows, w.shape[1])
        options = dict(method=method, damping=damping, generator=generator)
        weight = quantize_with_feedback(w, s.inputs.total, bits, **options)
        return QuantizedLinear(weight, current(layer, "bias"))

    return replace("feedback_layers", model, lambda name, _: name in statistics, build, LINEAR)


def distance_of(w: Tensor, weight: Quantized) -> float:
    """|w - w_q| / |w|; 0 for zeros."""
    a, b = widen(w), widen(weight.to_dense())
    size = float(a.norm())
    return float((a - b).norm()) / size if size else 0.0


def _curvature(plain: Quantized, moment: Tensor, damping: float) -> Tensor:
    """H of the rotated columns. Raises ValueError for what does not fit."""
    who, n = "quantize_with_feedback", plain.matrix_shape[1]
    if plain.q is None or plain.method == "kashin":
        raise ValueError(f"{who}: needs method pairs or rotate, got {plain.method}")
    if plain.method == "pairs" and n % 2:
        raise ValueError(f"{who}: needs an even number of inputs for pairs, got {n}")
    check_dense(moment, f"{who}: moment")
    if tuple(moment.shape) != (n, n):
        raise ValueError(f"{who}: needs a moment of shape ({n}, {n}), got {tuple(moment.shape)}")
    h = near_one(widen(moment))[0]
    turn = plain.q.factor(1).adjoint
    h = turn(turn(h).mT.contiguous())
    mean = float(h.diagonal().mean())
    eye = torch.eye(n, dtype=h.dtype, device=h.device)
    return (h + h.mT) / 2 + (damping * mean if mean > 0 else 1.0) * eye


def _rounded(z: Tensor, h: Tensor, levels: Tensor, wide: int) -> Tensor:
    """The index of each `wide` entries of z (out, in), from the left with feedback:
    (out, in / wide)."""
    u = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h))).mT
    z, n, codes = z.clone(), z.shape[1], []
    for start in range(0, n, BLOCK):
        end = min(start + BLOCK, n)
        errors = torch.empty_like(z[:, start:end])
        for k in range(start, end, wide):
            b, rest = slice(k, k + wide), slice(k + wide, end)
            index = nearest(z[:, b].float(), levels)
            off = z[:, b] - levels[index].to(z.dtype)
            e = torch.linalg.solve_triangular(u[b, b], off, upper=True, left=False)
            z[:, rest] -= e @ u[b, rest]
            errors[:, k - start : k - start + wide] = e
            codes.append(index)
        z[:, end:] -= errors @ u[start:end, end:]
    return torch.stack(codes, 1)
