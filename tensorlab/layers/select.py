"""Layers of a model: chosen by name, put in the place of others, with all that is tied to them.

    choose      by patterns or a predicate; what is passed over is named
    fit         without those that nothing can stand in for
    put         the new layer takes the hooks of the old one, and torch's fused encoders step aside
    tie         layers that shared a weight share the new one

A message names `who`, the function that the user called.
"""

import sys
import warnings
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .dense import (
    CONVS,
    check_writable,
    computes,
    dense_weight,
    is_computed,
    is_dense,
    is_lazy,
    parameters_of,
    unfit,
)

READ = (nn.MultiheadAttention, nn.Bilinear, nn.RNNBase, nn.RNNCellBase)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


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


LINEAR = Kind("dense linear layer", is_dense, READ)
CONV2D = Kind(
    "convolution",
    lambda layer: isinstance(layer, nn.Conv2d),
    (nn.Conv1d, nn.Conv3d, *TRANSPOSED),
)
WEIGHTS = Kind(
    "linear or convolution layer",
    lambda layer: is_dense(layer) or isinstance(layer, CONVS),
    (*READ, *TRANSPOSED),
    inside=(),
    root=True,
)


def is_factorized(layer: nn.Module) -> bool:
    """Whether a linear layer or convolution holds its weight as something other than a tensor: a
    format, or indices into a codebook."""
    if not hasattr(layer, "in_features") or parametrize.is_parametrized(layer):
        return False
    weight = getattr(layer, "weight", None)
    return not isinstance(weight, Tensor) and hasattr(weight, "to_dense")


# ------------------------------------------------------------------------------ layers are chosen


def candidates(model: nn.Module, kind: Kind) -> dict[str, nn.Module]:
    """All layers of a kind by name, one that is in two places under both names."""
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
    """All dense linear layers below a model by name, one that is in two places under both
    names.

    Not those inside `nn.MultiheadAttention`, which reads their weights instead of calling them.

    >>> list(linear_layers(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))))
    ['0', '2']
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
        passed = {n: kind_of(m) for n, m in model.named_modules() if isinstance(m, kind.near)}
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
        raise ValueError(f"{who}: needs a layer that it can change, got {listed(left) or 'none'}")
    say_left(who, left)
    return rest


def say_left(who: str, left: dict[str, str]) -> None:
    """Warns of layers that are left as they are. left: {name: why}."""
    if left:
        say(f"{who}: left as they are: {listed(left)}")


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


# ------------------------------------------------------------------------------- layers are put


def put(model: nn.Module, made: dict[nn.Module, nn.Module]) -> None:
    """Put new layers wherever the old ones are in a model: {old: new}. They take over the hooks
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


def tie(who: str, names: dict, made: dict) -> None:
    """The new layers hold the old biases, and share the parameters of a weight that the old ones
    shared."""
    first = {}
    for layer, new in made.items():
        mine = dict(new.named_parameters())
        biases = [key for key in mine if key.endswith("bias")]
        if len(biases) == 1 and _same(mine[biases[0]], bias := layer._parameters.get("bias")):
            _set(new, biases[0], bias)
        computed = is_computed(layer) and not is_factorized(layer)
        weight = () if computed else tuple(parameters_of(layer))
        if not weight or first.setdefault(weight, layer) is layer:
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


def kind_of(thing) -> str:
    return type(thing).__name__


def listed(found: Mapping[str, object]) -> str:
    """{name: what} in words: name (what), name (what)."""
    return ", ".join(f"{name or 'the model'} ({what})" for name, what in found.items())
