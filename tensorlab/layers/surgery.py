"""Surgery: dense linear layers of a model replaced by factorised ones, and a report of what each
layer costs [Qiu2024]."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from ..formats.base import MatrixFormat
from ..linalg import wide
from .linear import FactorizedLinear, dense_weight, factorize, is_dense, less_than


def replace_linear(
    model: nn.Module, names, make: Callable, rank=None, *, strategy: str = "auto"
) -> nn.Module:
    """Every dense linear layer that `names` chooses becomes a `FactorizedLinear`; changes the model
    and returns it.

        y = w x + b   becomes   y = make(w) x + b        make: w (out, in) -> MatrixFormat

    names: a pattern of `fnmatch` such as "blocks.*.mlp.*", several of them, or a predicate (name,
    layer) -> bool. Chosen are `nn.Linear` and GPT-2's Conv1D. With `rank` it calls make(w, rank)
    and warns, once, of layers that keep less. Layers that share a weight share the new one; one
    whose weight something else holds too, such as an embedding, is left as it is, with a warning.
    Raises ValueError for a pattern that chooses nothing; an error of `make` names the layer.

    >>> from tensorlab import LowRank
    >>> model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    >>> replace_linear(model, "0", LowRank.from_dense, rank=2)[0]
    FactorizedLinear(LowRank, in=8, out=6, ranks=(2,), stores 28 of 48, rate 0.583, bias=True)
    """
    chosen = choose(model, names)
    tied = _holders(model, {id(layer) for layer in chosen.values()})
    capped, left, made, shared = {}, {}, {}, {}
    for name, layer in chosen.items():
        if id(layer) in made:
            continue
        if layer.weight in tied:
            left[name] = tied[layer.weight]
            continue
        try:
            new = FactorizedLinear(factorize(layer, make, rank), layer.bias, strategy=strategy)
        except (ValueError, TypeError) as error:
            raise type(error)(f"replace_linear: layer {name}: {error}") from error
        if layer.weight in shared:
            new.tensors = shared[layer.weight]
        shared.setdefault(layer.weight, new.tensors)
        if rank is not None and less_than(new.weight, rank):
            capped[name] = new.weight.ranks
        made[id(layer)] = new.train(layer.training)
        new.bias = layer.bias
        for p in new.tensors:
            p.requires_grad_(layer.weight.requires_grad)
    if left and not made:
        raise ValueError(
            f"replace_linear: needs a layer with a weight of its own, got those shared: "
            f"{_pairs(left)}"
        )
    if left:
        warnings.warn(
            f"replace_linear: left as they are, because their weight is shared: {_pairs(left)}",
            stacklevel=2,
        )
    if capped:
        warnings.warn(
            f"replace_linear: rank {rank} is capped where a layer has less: {_pairs(capped)}",
            stacklevel=2,
        )
    for name, layer in linear_layers(model).items():  # wherever a chosen layer stands
        if id(layer) in made:
            _put(model, name, made[id(layer)])
    return model


def choose(model: nn.Module, names) -> dict[str, nn.Module]:
    """The dense linear layers of a model that `names` chooses, by name; an unknown name lists those
    there are.

    >>> list(choose(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), lambda name, layer: layer.out_features == 2))
    ['1']
    """
    layers = linear_layers(model)
    if callable(names):
        chosen = {name: layer for name, layer in layers.items() if names(name, layer)}
        if not chosen:
            raise ValueError(
                f"replace_linear: needs a predicate that chooses one of {', '.join(layers)}, got "
                f"none"
            )
        return chosen
    patterns = [names] if isinstance(names, str) else list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in layers):
            there = ", ".join(layers) or "none"
            raise ValueError(
                f"replace_linear: needs a name of a dense linear layer ({there}), got {pattern!r}"
            )
    return {
        name: layer for name, layer in layers.items() if any(fnmatchcase(name, p) for p in patterns)
    }


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """All dense linear layers below a model by name, one that stands in two places under both
    names.

    Not those inside `nn.MultiheadAttention`, which reads their weights instead of calling them.
    """
    inside = {
        id(m) for a in model.modules() if isinstance(a, nn.MultiheadAttention) for m in a.modules()
    }
    every = model.named_modules(remove_duplicate=False)
    return {name: m for name, m in every if name and is_dense(m) and id(m) not in inside}


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
        factors."""
        return self.parameters / self.dense


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
            shape, ranks = "x".join(map(str, row.shape)), " ".join(map(str, row.ranks))
            counts = [str(row.parameters), f"{row.rate:.3f}", str(row.flops), str(row.bytes)]
            lines.append([row.name, row.kind, shape, ranks, *counts, error])
        rate = self.total("parameters") / max(1, self.total("dense"))
        counts = [
            str(self.total("parameters")),
            f"{rate:.3f}",
            str(self.total("flops")),
            str(self.total("bytes")),
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

    Any module whose `weight` is a matrix format is listed, and every dense linear layer; one that
    stands in two places once.

    >>> from tensorlab import LowRank
    >>> print(layer_report(replace_linear(nn.Sequential(nn.Linear(8, 6, bias=False)), "0", LowRank.from_dense, rank=2)))
    layer  kind     shape  ranks  parameters   rate  flops  bytes  error
    0      LowRank  6x8    2              28  0.583     56    112
    total                                 28  0.583     56    112
    """
    there = dict(reference.named_modules(remove_duplicate=False)) if reference is not None else {}
    dense, rows, seen = linear_layers(model), [], set()
    for name, layer in model.named_modules():
        weight = getattr(layer, "weight", None)
        factorised = isinstance(weight, MatrixFormat)
        if not factorised and name not in dense:
            continue
        held = weight.tensors() if factorised else (weight,)
        new = [t for t in held if id(t) not in seen]
        seen |= {id(t) for t in held}
        shape = weight.shape if factorised else tuple(dense_weight(layer).shape)
        error = _error(weight if factorised else dense_weight(layer), there.get(name))
        rows.append(
            LayerRow(
                name,
                type(weight).__name__ if factorised else "dense",
                shape,
                weight.ranks if factorised else (),
                sum(t.numel() for t in new),
                shape[0] * shape[1] if new else 0,
                weight.flops(1) if factorised else 2 * shape[0] * shape[1],
                sum(t.numel() * t.element_size() for t in new),
                error,
            )
        )
    return LayerReport(tuple(rows))


def _error(weight, layer) -> float | None:
    if layer is None:
        return None
    have, want = (
        _matrix(w) for w in (weight, dense_weight(layer) if is_dense(layer) else layer.weight)
    )
    return float((have.to(want.device) - want).norm() / want.norm())


def _matrix(weight) -> Tensor:
    """A weight as a matrix in float64; a kernel (out, in, ...) has one row for each output."""
    return (weight.to_dense() if isinstance(weight, MatrixFormat) else weight.flatten(1)).to(
        wide(weight.dtype)
    )


def _holders(model, chosen):
    """Parameters that modules besides the chosen layers hold as well, each with the name of one
    that does."""
    others = ((name, m) for name, m in model.named_modules() if id(m) not in chosen)
    return {p: name for name, m in others for p in m.parameters(recurse=False)}


def _pairs(found: dict) -> str:
    return ", ".join(f"{name} ({what})" for name, what in found.items())


def _put(model, name, layer):
    parent, _, child = name.rpartition(".")
    parent = model.get_submodule(parent)
    if isinstance(parent, nn.TransformerEncoderLayer):
        parent.activation_relu_or_gelu = 0  # its fused path, taken in eval, wants dense weights
    setattr(parent, child, layer)
