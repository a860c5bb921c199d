"""What the layers of a model store and cost: one report, and one count of operations, for every kind
of layer [Qiu2024]."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..formats.base import ReadAsMatrix, digits
from ..linalg import wide
from .dense import CONVS, dense_weight, is_dense, parameters_of
from .select import TRANSPOSED, WEIGHTS, is_factorized, linear_layers


@dataclass(frozen=True)
class LayerRow:
    """One linear layer: numbers stored and those of the dense weight, FLOPs for one input vector,
    bytes, relative error."""

    name: str
    kind: str
    shape: tuple[int, ...]
    ranks: tuple
    parameters: int
    dense: int
    flops: int
    bytes: int
    error: float | None

    @property
    def rate(self) -> float:
        """Numbers stored for each number of the dense weight: r (out + in) / (out · in) for two
        factors; NaN for a layer whose weight an earlier row counts."""
        return self.parameters / self.dense if self.dense else math.nan


@dataclass(frozen=True)
class LayerReport:
    """The rows of all linear layers of a model, and their sums."""

    rows: tuple[LayerRow, ...]

    def __getitem__(self, name: str) -> LayerRow:
        found = {row.name: row for row in self.rows}
        if name not in found:
            raise KeyError(f"layer_report: needs one of {', '.join(found)}, got {name!r}")
        return found[name]

    def total(self, what: str) -> int:
        """The sum of a column: "parameters", "dense", "flops" or "bytes"."""
        return sum(getattr(row, what) for row in self.rows)

    def __str__(self):
        head = "layer kind shape ranks parameters rate flops bytes error".split()
        lines = [head]
        for row in self.rows:
            error = "" if row.error is None else f"{row.error:.2e}"
            shape, ranks = "x".join(map(digits, row.shape)), " ".join(map(str, row.ranks))
            rate = f"{row.rate:.3f}" if row.dense else ""
            counts = [digits(row.parameters), rate, digits(row.flops), digits(row.bytes)]
            lines.append([row.name, row.kind, shape, ranks, *counts, error])
        rate = self.total("parameters") / max(1, self.total("dense"))
        counts = [
            digits(self.total("parameters")),
            f"{rate:.3f}",
            digits(self.total("flops")),
            digits(self.total("bytes")),
        ]
        lines.append(["total", "", "", "", *counts, ""])
        wide = [max(map(len, column)) for column in zip(*lines)]
        pad = lambda k, text: text.ljust(wide[k]) if k < 4 else text.rjust(wide[k])
        return "\n".join(
            "  ".join(pad(k, text) for k, text in enumerate(line)).rstrip() for line in lines
        )


@torch.no_grad()
def layer_report(model: nn.Module, reference: nn.Module | None = None) -> LayerReport:
    """What each linear layer stores and costs, and how far it is from the same layer of
    `reference`, biases not counted.

        error = |w - w_reference| / |w_reference|     in the Frobenius norm

    Any module whose `weight` is a matrix format or quantized is listed, and every dense linear
    layer; one that stands in two places once. Of packed indices the bytes are counted.

    >>> from tensorlab import LowRank, replace_linear
    >>> print(layer_report(replace_linear(nn.Sequential(nn.Linear(8, 6, bias=False)), "0", LowRank.from_dense, rank=2)))
    layer  kind     shape  ranks  parameters   rate  flops  bytes  error
    0      LowRank  6x8    2              28  0.583     56    112
    total                                 28  0.583     56    112
    """
    there = dict(reference.named_modules(remove_duplicate=False)) if reference is not None else {}
    dense, rows, seen = linear_layers(model), [], set()
    for name, layer in model.named_modules():
        weight = _weight(layer, name in dense)
        if weight is None:
            continue
        factorised = isinstance(weight, ReadAsMatrix)
        held = weight.tensors() if factorised else parameters_of(layer) or (weight,)
        new = [t for t in held if t not in seen]
        seen |= set(held)
        rows.append(
            LayerRow(
                name,
                type(weight).__name__ if factorised else "dense",
                tuple(weight.shape),
                weight.ranks if factorised else (),
                sum(t.numel() for t in new),
                math.prod(weight.shape) if new else 0,
                weight.flops(1) if factorised else 2 * weight.numel(),
                sum(t.numel() * t.element_size() for t in new),
                _error(name, weight, there.get(name)),
            )
        )
    return LayerReport(tuple(rows))


def _weight(layer, dense) -> ReadAsMatrix | Tensor | None:
    """The weight of a layer that the report lists, None of any other."""
    if dense:
        return dense_weight(layer)
    held = None if parametrize.is_parametrized(layer) else getattr(layer, "weight", None)
    return held if isinstance(held, ReadAsMatrix) else None


def _error(name, weight, layer) -> float | None:
    if layer is None:
        return None
    other = dense_weight(layer) if is_dense(layer) or isinstance(layer, CONVS) else layer.weight
    if weight.device.type == "meta" or other.device.type == "meta":
        raise ValueError(f"layer_report: needs numbers to compare, got layer {name!r} on meta")
    have, want = _matrix(weight), _matrix(other)
    return float((have.to(want.device) - want).norm() / want.norm())


def _matrix(weight) -> Tensor:
    """A weight as a matrix in float64; a kernel (out, in, ...) has one row for each output."""
    return (weight.to_dense() if isinstance(weight, ReadAsMatrix) else weight.flatten(1)).to(
        wide(weight.dtype)
    )


@torch.no_grad()
def layer_flops(
    model: nn.Module, x: Tensor, masks: dict[str, Tensor] | None = None
) -> dict[str, int]:
    """FLOPs of each linear and convolution layer on the input x, by name: two for each multiply-add,
    no bias. A layer that is called twice counts twice.

    Dense, transposed and factorized layers count, and what `nn.MultiheadAttention` reads. masks:
    weights that have fallen cost nothing.

    >>> layer_flops(nn.Sequential(nn.Linear(3, 2)), torch.ones(5, 3))
    {'0': 60}
    """
    kept = {model.get_submodule(name): int(mask.sum()) for name, mask in (masks or {}).items()}
    counts, hooks = {}, []

    def count(name):
        def hook(layer, args, kwargs, output):
            inputs = (*args, *kwargs.values())
            counts[name] = counts.get(name, 0) + _flops(layer, inputs, output, kept)

        return hook

    for name, layer in model.named_modules():
        if WEIGHTS.takes(layer) or is_factorized(layer) or isinstance(layer, _COUNTED):
            hooks.append(layer.register_forward_hook(count(name), with_kwargs=True))
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return counts


_COUNTED = (nn.MultiheadAttention, *TRANSPOSED)


def _flops(layer, inputs, output, kept) -> int:
    if isinstance(layer, nn.MultiheadAttention):
        return _attention_flops(layer, inputs, kept)
    if isinstance(layer, TRANSPOSED):  # each input goes to all entries of its part of the kernel
        return 2 * inputs[0].numel() * layer.weight[0].numel()
    weight = layer.weight if is_factorized(layer) else dense_weight(layer)
    places = output.numel() // weight.shape[0]
    if hasattr(weight, "flops"):
        return weight.flops(places)
    return 2 * places * kept.get(layer, math.prod(weight.shape))


def _attention_flops(layer, inputs, kept) -> int:
    """The projections of queries, keys, values and of what comes out; they are read, not called."""
    q, k, v = (t.numel() // t.shape[-1] for t in inputs[:3])
    n, out = layer.embed_dim, layer.out_proj
    each = q * n * n + k * n * layer.kdim + v * n * layer.vdim
    return 2 * (each + q * kept.get(out, out.weight.numel()))
