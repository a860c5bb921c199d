"""Surgery: layers of a model chosen by name and replaced, with all that hangs on them, and a report
of what each layer costs [Qiu2024].

    choose      by patterns or a predicate; what is passed over is named
    replace     make a new layer for each, keep modes, freezing and ties, put it wherever the old one stood
    put         the new layer takes the hooks of the old one, and torch's fused encoders step aside
"""

import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..formats.base import ReadAsMatrix, digits
from ..linalg import wide
from .dense import (
    CONVS,
    check_writable,
    computes,
    current,
    dense_weight,
    is_dense,
    is_lazy,
    parameters_of,
    unfit,
)
from .linear import FactorizedLinear, factorize, less_than, like

_READ = (nn.MultiheadAttention, nn.Bilinear, nn.RNNBase, nn.RNNCellBase)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Kind(NamedTuple):
    """The layers that a function works on.

    noun: their name in a message. takes: whether it works on a layer. near: types that a user may
    count among them and that it does not work on; they are named when a pattern chooses them.
    inside: types whose own layers are left out, because their weights are read and not called.
    root: whether the model itself may be the layer.
    """

    noun: str
    takes: Callable[[nn.Module], bool]
    near: tuple[type, ...] = ()
    inside: tuple[type, ...] = (nn.MultiheadAttention,)
    root: bool = False


LINEAR = Kind("dense linear layer", is_dense, _READ)
CONV2D = Kind(
    "convolution",
    lambda layer: isinstance(layer, nn.Conv2d),
    (nn.Conv1d, nn.Conv3d, *_TRANSPOSED),
)
WEIGHTS = Kind(
    "linear or convolution layer",
    lambda layer: is_dense(layer) or isinstance(layer, CONVS),
    (*_READ, *_TRANSPOSED),
    inside=(),
    root=True,
)


# ------------------------------------------------------------------------------ layers are chosen


def candidates(model: nn.Module, kind: Kind) -> dict[str, nn.Module]:
    """All layers of a kind by name, one that stands in two places under both names."""
    hidden = {
        m
        for parent in model.modules()
        if isinstance(parent, kind.inside)
        for m in parent.modules()
        if m is not parent
    }
    return {
        name: m
        for name, m in model.named_modules(remove_duplicate=False)
        if (name or kind.root) and kind.takes(m) and m not in hidden
    }


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """All dense linear layers below a model by name, one that stands in two places under both
    names.

    Not those inside `nn.MultiheadAttention`, which reads their weights instead of calling them.
    """
    return candidates(model, LINEAR)


def choose(who: str, model: nn.Module, names, kind: Kind) -> dict[str, nn.Module]:
    """The layers of a kind that `names` chooses, each once, under the first name that it was chosen
    by.

    names: a pattern of `fnmatch`, several of them, or a predicate (name, layer) -> bool. Raises
    ValueError for a pattern, or a predicate, that chooses nothing: it lists the layers there are.
    Warns of what a pattern chooses beside them and `kind` calls near.

    >>> model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    >>> list(choose("example", model, lambda name, layer: layer.out_features == 2, LINEAR))
    ['1']
    """
    layers = candidates(model, kind)
    there = ", ".join(layers) or "none"
    if callable(names):
        chosen = {name: layer for name, layer in layers.items() if names(name, layer)}
        if not chosen:
            raise ValueError(f"{who}: needs a predicate that chooses one of {there}, got none")
    else:
        patterns = [names] if isinstance(names, str) else list(names)
        matches = lambda name: any(fnmatchcase(name, pattern) for pattern in patterns)
        lost = [p for p in patterns if not any(fnmatchcase(name, p) for name in layers)]
        if lost or not patterns:
            got = repr(lost[0]) if lost else "no name at all"
            raise ValueError(f"{who}: needs a name of a {kind.noun} ({there}), got {got}")
        chosen = {name: layer for name, layer in layers.items() if matches(name)}
        passed = {n: _type(m) for n, m in model.named_modules() if isinstance(m, kind.near)}
        say_left(who, {n: what for n, what in passed.items() if matches(n)})
    once = {}
    for name, layer in chosen.items():
        once.setdefault(layer, name)
    return {name: layer for layer, name in once.items()}


def fit(who: str, chosen: dict[str, nn.Module], left: dict[str, str]) -> dict[str, nn.Module]:
    """The chosen layers without those that are left, with a warning that says why. left: {name:
    why}. Raises ValueError when none remains."""
    rest = {name: layer for name, layer in chosen.items() if name not in left}
    if not rest:
        raise ValueError(f"{who}: needs a layer that it can change, got {_pairs(left) or 'none'}")
    say_left(who, left)
    return rest


def say_left(who: str, left: dict[str, str]) -> None:
    """Warns of layers that are left as they are. left: {name: why}."""
    if left:
        say(f"{who}: left as they are: {_pairs(left)}")


def say(text: str) -> None:
    """A warning at the line outside the package, and outside torch, that led to it."""
    level, frame, ours = 1, sys._getframe(), ("tensorlab.", "torch.")
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(ours):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)


def unfit_layers(chosen: dict[str, nn.Module]) -> dict[str, str]:
    """The chosen layers that nothing can stand in for, with the reason: {name: why}."""
    return {name: why for name, layer in chosen.items() if (why := unfit(layer))}


def tied_layers(model: nn.Module, chosen: dict[str, nn.Module]) -> dict[str, str]:
    """The chosen layers whose weight a module that was not chosen holds as well: {name: who holds
    it}."""
    inside = {m for layer in chosen.values() for m in layer.modules()}
    others = ((name, m) for name, m in model.named_modules() if m not in inside)
    holder = {p: name for name, m in others for p in m.parameters(recurse=False)}
    return {
        name: f"shares its weight with {holder[p]}"
        for name, layer in chosen.items()
        for p in parameters_of(layer)
        if p in holder
    }


def settable(who: str, chosen: dict[str, nn.Module], optimizer=None) -> dict[str, nn.Module]:
    """The chosen layers whose weights a method can write to, one of those that share a weight.

    optimizer: leaves out, with a warning, what it does not train. Raises ValueError, before
    anything is changed, for weights without numbers and, with an optimizer, for computed ones that
    cannot take every value.
    """
    left = {name: unfit(layer) for name, layer in chosen.items() if is_lazy(layer)}
    if optimizer is not None:
        held = {p for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
        for name, layer in chosen.items():
            if held.isdisjoint(parameters_of(layer)):
                left.setdefault(name, "the optimizer does not train it")
    once, seen = {}, set()
    for name, layer in fit(who, chosen, left).items():
        parameters = parameters_of(layer)
        if not parameters or seen.isdisjoint(parameters):
            once[name] = layer
        seen.update(parameters)
    if meta := [name for name, layer in once.items() if dense_weight(layer).is_meta]:
        raise ValueError(f"{who}: needs weights with numbers, got layer {meta[0]!r} on meta")
    if optimizer is not None:
        check_writable(who, once)
    return once


# ----------------------------------------------------------------------------- layers are replaced


def replace_linear(
    model: nn.Module, names, make: Callable, rank=None, *, strategy: str = "auto"
) -> nn.Module:
    """Every dense linear layer that `names` chooses becomes a `FactorizedLinear`; changes the model
    and returns it.

        y = w x + b   becomes   y = make(w) x + b        make: w (out, in) -> MatrixFormat

    names: a pattern of `fnmatch` such as "blocks.*.mlp.*", several of them, or a predicate (name,
    layer) -> bool. Chosen are `nn.Linear` and GPT-2's Conv1D. With `rank` it calls make(w, rank)
    and warns, once, of layers that keep less. Modes, freezing, hooks and the bias stay; layers that
    share a weight share the new one. A layer whose weight something else holds too, such as an
    embedding, or that overrides `forward`, is left as it is, with a warning. Raises ValueError
    for a pattern that chooses nothing; an error of `make` names the layer, and nothing is changed.

    >>> from tensorlab import LowRank
    >>> model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    >>> replace_linear(model, "0", LowRank.from_dense, rank=2)[0]
    FactorizedLinear(LowRank, in=8, out=6, ranks=(2,), stores 28 of 48, rate 0.583, bias=True)
    """
    capped = {}

    def build(name, layer):
        weight = factorize(layer, make, rank)
        if rank is not None and less_than(weight, rank):
            capped[name] = weight.ranks
        return FactorizedLinear(weight, current(layer, "bias"), strategy=strategy)

    replace("replace_linear", model, names, build, LINEAR)
    if capped:
        say(f"replace_linear: rank {rank} is capped where a layer has less: {_pairs(capped)}")
    return model


def replace(
    who: str,
    model: nn.Module,
    names,
    make: Callable[[str, nn.Module], nn.Module],
    kind: Kind,
) -> nn.Module:
    """Put make(name, layer) in the place of every layer of a kind that `names` chooses, as
    `replace_linear` says; changes the model and returns it."""
    chosen = choose(who, model, names, kind)
    chosen = fit(who, chosen, unfit_layers(chosen) | tied_layers(model, chosen))
    made = {}
    for name, layer in chosen.items():
        try:
            new = make(name, layer)
            if not isinstance(new, nn.Module):
                raise TypeError(f"needs a module from make, got {_type(new)}")
        except (ValueError, TypeError) as error:
            kept = TypeError if isinstance(error, TypeError) else ValueError
            raise kept(f"{who}: layer {name}: {error}") from error
        made[layer] = like(layer, new)
    _tie(who, {layer: name for name, layer in chosen.items()}, made)
    put(model, made)
    return model


def put(model: nn.Module, made: dict[nn.Module, nn.Module]) -> None:
    """Put new layers wherever the old ones stand in a model: {old: new}. They take over the hooks
    that a user has registered.

    An `nn.TransformerEncoder` in eval reads the weights of its layers, or hands them nested
    tensors; one with a new layer inside takes the path that calls them.
    """
    for old, new in made.items():
        _move_hooks(old, new)
    for name, layer in list(model.named_modules(remove_duplicate=False)):
        if layer in made:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, made[layer])
    new = set(made.values())
    for module in model.modules():
        if isinstance(module, (nn.TransformerEncoderLayer, nn.TransformerEncoder)):
            if not new.isdisjoint(module.modules()):
                _call_layers(module)


def _call_layers(encoder) -> None:
    """Its layers are called, in eval too: what torch reads before it takes its fused path."""
    if isinstance(encoder, nn.TransformerEncoder):
        encoder.use_nested_tensor = False
    else:
        encoder.activation_relu_or_gelu = 0


def _tie(who, names, made) -> None:
    """The new layers hold the old biases, and share the parameters of a weight that the old ones
    shared."""
    first = {}
    for layer, new in made.items():
        mine = dict(new.named_parameters())
        biases = [key for key in mine if key.endswith("bias")]
        if len(biases) == 1 and _same(mine[biases[0]], bias := layer._parameters.get("bias")):
            _set(new, biases[0], bias)
        weight = layer._parameters.get("weight")
        if weight is None or first.setdefault(weight, layer) is layer:
            continue
        theirs = dict(made[first[weight]].named_parameters())
        shapes = lambda every: {k: p.shape for k, p in every.items() if not k.endswith("bias")}
        if shapes(mine) != shapes(theirs):
            pair = f"{names[first[weight]]} and {names[layer]}"
            raise ValueError(f"{who}: needs tensors of one shape for {pair}, which share a weight")
        for key in shapes(mine):
            _set(new, key, theirs[key])


def _same(a, b) -> bool:
    """Whether two parameters hold the same numbers."""
    if b is None or (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
        return False
    return a.is_meta or torch.equal(a, b)


def _set(module, key, parameter) -> None:
    parent, _, child = key.rpartition(".")
    setattr(module.get_submodule(parent), child, parameter)


_HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_pre_hooks",
    "_backward_hooks",
)


def _move_hooks(old, new) -> None:
    """Hooks go over in the dictionaries that their handles know, so that `remove()` still works;
    those that compute a weight of the old layer stay with it."""
    for name in _HOOKS:
        mine, theirs = getattr(old, name), getattr(new, name)
        setattr(old, name, type(mine)())
        mine.update(theirs)
        setattr(new, name, mine)
    if old._is_full_backward_hook is not None:
        new._is_full_backward_hook, old._is_full_backward_hook = old._is_full_backward_hook, None
    for key in [key for key, hook in new._forward_pre_hooks.items() if computes(hook)]:
        old._forward_pre_hooks[key] = new._forward_pre_hooks.pop(key)


def _type(thing) -> str:
    return type(thing).__name__


def _pairs(found: dict) -> str:
    return ", ".join(f"{name or 'the model'} ({what})" for name, what in found.items())


# ---------------------------------------------------------------------------- what layers cost


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

    >>> from tensorlab import LowRank
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


_COUNTED = (nn.MultiheadAttention, *_TRANSPOSED)


def is_factorized(layer: nn.Module) -> bool:
    """Whether a linear layer or convolution holds its weight as something other than a tensor: a
    format, or indices into a codebook."""
    if not hasattr(layer, "in_features") or parametrize.is_parametrized(layer):
        return False
    weight = getattr(layer, "weight", None)
    return not isinstance(weight, Tensor) and hasattr(weight, "to_dense")


def _flops(layer, inputs, output, kept) -> int:
    if isinstance(layer, nn.MultiheadAttention):
        return _attention_flops(layer, inputs, kept)
    if isinstance(layer, _TRANSPOSED):  # each input goes to all entries of its part of the kernel
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
