"""What the layers of a model store and cost: one report, and one count of operations, for every
kind of layer [Qiu2024]."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..formats.base import ReadAsMatrix, digits
from ..linalg import wide
from .dense import CONVS, current, dense_weight, is_dense, is_lazy, parameters_of
from .select import TRANSPOSED, WEIGHTS, is_factorized


@dataclass(frozen=True)
class LayerRow:
    """One layer: numbers stored, how many of them are not zero, numbers of the dense weight, FLOPs
    for one input vector or one place of an image, bytes, relative errors: in the Frobenius norm, in
    the spectral norm, and of the outputs over given inputs."""

    name: str
    kind: str
    shape: tuple[int, ...]
    ranks: tuple
    parameters: int
    nonzero: int
    dense: int
    flops: int
    bytes: int
    error: float | None
    spectral: float | None = None
    weighted: float | None = None

    @property
    def storage_ratio(self) -> float:
        """Numbers stored for each number of the dense weight: r (out + in) / (out · in) for two
        factors; NaN for a layer whose weight an earlier row counts."""
        return self.parameters / self.dense if self.dense else math.nan

    @property
    def beaten(self) -> bool:
        """Whether a train or a block train takes more operations than two linear layers of as many
        numbers, which use each of them once, and so cannot be faster."""
        return self.kind in ("TTMatrix", "BlockTT") and self.flops > 2 * self.parameters > 0


@dataclass(frozen=True)
class LayerReport:
    """The rows of all layers of a model that have a weight, and their sums."""

    rows: tuple[LayerRow, ...]

    def __getitem__(self, name: str) -> LayerRow:
        found = {row.name: row for row in self.rows}
        if name not in found:
            raise KeyError(f"layer_report: needs one of {', '.join(found)}, got {name!r}")
        return found[name]

    def total(self, what: str) -> int:
        """The sum of a column: "parameters", "nonzero", "dense", "flops" or "bytes"."""
        return sum(getattr(row, what) for row in self.rows)

    def __str__(self):
        seen = lambda name: any(getattr(row, name) is not None for row in self.rows)
        errors = ["error", *filter(seen, ("spectral", "weighted"))]
        head = "layer kind shape ranks parameters nonzero storage_ratio flops bytes"
        lines: list[list[str]] = [head.split() + errors]
        show = lambda x: "" if x is None else f"{x:.2e}"
        for row in self.rows:
            shape, ranks = "x".join(map(digits, row.shape)), " ".join(map(str, row.ranks))
            ratio = f"{row.storage_ratio:.3f}" if row.dense else ""
            counts = [digits(n) for n in (row.parameters, row.nonzero)]
            counts += [ratio, digits(row.flops), digits(row.bytes)]
            found = [show(getattr(row, name)) for name in errors]
            lines.append([row.name, row.kind, shape, ranks, *counts, *found])
        ratio = self.total("parameters") / max(1, self.total("dense"))
        counts = [
            digits(self.total("parameters")),
            digits(self.total("nonzero")),
            f"{ratio:.3f}",
            digits(self.total("flops")),
            digits(self.total("bytes")),
        ]
        lines.append(["total", "", "", "", *counts, *("" for _ in errors)])
        wide = [max(map(len, column)) for column in zip(*lines)]
        pad = lambda k, text: text.ljust(wide[k]) if k < 4 else text.rjust(wide[k])
        whole = ["  ".join(pad(k, text) for k, text in enumerate(line)).rstrip() for line in lines]
        for row in (row for row in self.rows if row.beaten):
            pair, own = digits(2 * row.parameters), digits(row.flops)
            whole.append(
                f"{row.name}: two linear layers of as many numbers take {pair} flops, "
                f"this {row.kind} {own}"
            )
        return "\n".join(whole)


@torch.no_grad()
def layer_report(
    model: nn.Module,
    reference: nn.Module | None = None,
    *,
    inputs: Mapping[str, Tensor] | None = None,
) -> LayerReport:
    """What the weight of each layer stores and costs, and how far it is from the same layer of
    `reference`, biases not counted.

        error = |w - w_reference| / |w_reference|     in the Frobenius norm
        spectral                                      the same in the spectral norm
        weighted = |(w - w_reference) xᵀ| / |w_reference xᵀ|

    inputs: x by the layer's name, (samples, in), as `layer_inputs` gives it; the error of its
    outputs. Listed are linear layers, convolutions and embeddings: dense ones, those whose `weight`
    is a format or quantized, and those that compute it from parts, such as a layer with an adapter
    or a chain of convolutions, in one row. A layer that is in two places is listed once, and
    what two layers share is counted in the first row. For packed indices the bytes are counted. The
    projections inside `nn.MultiheadAttention` are not listed. Printed, the report names the trains
    that two linear layers of as many numbers beat (`LayerRow.beaten`).

    >>> from tensorlab import LowRank, replace_linear
    >>> model = nn.Sequential(nn.Linear(8, 6, bias=False))
    >>> print(layer_report(replace_linear(model, "0", LowRank.from_dense, rank=2)))
    layer  kind     shape  ranks  parameters  nonzero  storage_ratio  flops  bytes  error
    0      LowRank  6x8    2              28       28          0.583     56    112
    total                                 28       28          0.583     56    112
    """
    there = dict(reference.named_modules(remove_duplicate=False)) if reference is not None else {}
    rows, seen, inside = [], set(), set()
    for name, layer in model.named_modules():
        held = None if layer in inside else _held(layer)
        if held is not None or isinstance(layer, nn.MultiheadAttention):
            inside |= set(layer.modules())
        if held is None:
            continue
        new = [t for t in held.tensors if t not in seen]
        seen |= set(new)
        dense = held.weight if held.kind == "dense" else None
        read = [dense] if new and isinstance(dense, Tensor) else new
        rows.append(
            LayerRow(
                name,
                held.kind,
                held.shape,
                held.ranks,
                sum(t.numel() for t in new),
                sum(map(_nonzero, read)),
                math.prod(held.shape) if new else 0,
                held.flops,
                sum(t.numel() * t.element_size() for t in new),
                **_errors(name, held.weight, there.get(name), (inputs or {}).get(name)),
            )
        )
    return LayerReport(tuple(rows))


class _Compressed(Protocol):
    """What is read of a weight that is not a tensor: a format, or indices into a codebook."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def ranks(self) -> tuple: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    def tensors(self) -> tuple[Tensor, ...]: ...
    def flops(self, batch: int) -> int: ...
    def to_dense(self) -> Tensor: ...


def _is_compressed(weight: object) -> TypeGuard[_Compressed]:
    return isinstance(weight, ReadAsMatrix)


class _Held(NamedTuple):
    """What a layer multiplies by, or looks up in: the tensors that are stored, operations for one
    input vector or one place of an image."""

    kind: str
    weight: _Compressed | Tensor | None
    shape: tuple[int, ...]
    ranks: tuple[int, ...]
    tensors: Sequence[Tensor]
    flops: int


def _held(layer: nn.Module) -> _Held | None:
    """The weight of a layer that the report lists, None of any other."""
    if is_dense(layer) or isinstance(layer, (*CONVS, *TRANSPOSED, nn.Embedding)):
        return None if is_lazy(layer) else _dense(layer)
    if parametrize.is_parametrized(layer) or not any(hasattr(layer, name) for name in _SIZES):
        return None
    weight = getattr(layer, "weight", None)
    kind, flops = type(layer).__name__, getattr(layer, "flops", None)
    if _is_compressed(weight):
        count = weight.flops if flops is None else flops
        kind, shape = type(weight).__name__, tuple(weight.shape)
        return _Held(kind, weight, shape, weight.ranks, weight.tensors(), count(1))
    if flops is not None and weight is None:  # a train for each token
        shape = tuple(int(getattr(layer, name)) for name in ("num_embeddings", "embedding_dim"))
        return _Held(kind, None, shape, (), list(layer.parameters()), flops(1))
    parts = [held for part in layer.children() if (held := _held(part)) is not None]
    if not parts or not isinstance(weight, Tensor):
        return None
    tensors = [t for part in parts for t in part.tensors]
    tensors += [p for name, p in layer.named_parameters(recurse=False) if name != "bias"]
    ranks = tuple(r for part in parts for r in part.ranks)
    return _Held(kind, weight, tuple(weight.shape), ranks, tensors, sum(p.flops for p in parts))


_SIZES = ("in_features", "in_channels", "num_embeddings")


def _dense(layer) -> _Held:
    linear = is_dense(layer) or isinstance(layer, CONVS)
    weight = dense_weight(layer) if linear else current(layer)
    flops = 0 if isinstance(layer, nn.Embedding) else 2 * weight.numel()
    return _Held("dense", weight, tuple(weight.shape), (), parameters_of(layer) or (weight,), flops)


def _nonzero(t: Tensor) -> int:
    """Numbers that are not zero; where none can be read all of them, and so of packed indices."""
    return t.numel() if t.is_meta or not t.is_floating_point() else int(t.count_nonzero())


def _errors(name, weight, layer, x) -> dict[str, float | None]:
    held = None if layer is None else _held(layer)
    if weight is None or held is None or held.weight is None:
        return {"error": None}
    other = held.weight
    if weight.device.type == "meta" or other.device.type == "meta":
        raise ValueError(f"layer_report: needs numbers to compare, got layer {name!r} on meta")
    want = _matrix(other)
    difference = _matrix(weight).to(want.device) - want
    found: dict[str, float | None] = {
        "error": float(difference.norm() / want.norm()),
        "spectral": _largest(difference) / _largest(want),
    }
    if x is None:
        return found
    if x.shape[-1] != want.shape[1]:
        needs = f"inputs (samples, {want.shape[1]}) of layer {name!r}"
        raise ValueError(f"layer_report: needs {needs}, got {tuple(x.shape)}")
    x = x.reshape(-1, want.shape[1]).to(want)
    return found | {"weighted": float((difference @ x.mT).norm() / (want @ x.mT).norm())}


def _largest(w: Tensor) -> float:
    """The spectral norm, from the Gram matrix of the shorter side."""
    gram = w @ w.mH if w.shape[0] < w.shape[1] else w.mH @ w
    return math.sqrt(max(0.0, float(torch.linalg.eigvalsh(gram)[-1])))


def _matrix(weight) -> Tensor:
    """A weight as a matrix in float64; a kernel (out, in, ...) has one row for each output."""
    dense = weight.to_dense() if _is_compressed(weight) else weight.flatten(1)
    return dense.to(wide(weight.dtype))


@torch.no_grad()
def layer_flops(
    model: nn.Module, x: Tensor, masks: dict[str, Tensor] | None = None
) -> dict[str, int]:
    """FLOPs of each linear and convolution layer on the input x, by name: two for each
    multiply-add, no bias. A layer that is called twice counts twice.

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
    if _is_compressed(weight):
        return weight.flops(places)
    return 2 * places * kept.get(layer, math.prod(weight.shape))


def _attention_flops(layer, inputs, kept) -> int:
    """The projections of queries, keys, values and of what comes out; they are read, not called."""
    q, k, v = (t.numel() // t.shape[-1] for t in inputs[:3])
    n, out = layer.embed_dim, layer.out_proj
    each = q * n * n + k * n * layer.kdim + v * n * layer.vdim
    return 2 * (each + q * kept.get(out, out.weight.numel()))
