"""Dense layers as torch and GPT-2 make them: whose forward they have, what their weight is computed
from, how it is read and how it is written.

    weight = a parameter | f(other parameters)
    f: weight_norm, spectral_norm, a mask, any parametrization

A computed weight is a new tensor at each forward. What is written to it in place is lost, so it is
written through its parameters, and what came out is compared with what was asked for.
"""

from contextlib import contextmanager, nullcontext
from typing import Literal, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_KINDS = (nn.Linear, *CONVS, nn.Embedding)
_ROUNDING = 16  # of eps: g v / |v|, with g = |v| by another loop, rounds by about 4
M = TypeVar("M", bound=nn.Module)
_REMOVE = {"WeightNorm": "remove_weight_norm", "SpectralNorm": "remove_spectral_norm"}


# ------------------------------------------------------------------------------- what kind of layer


def is_conv1d(layer: nn.Module) -> bool:
    """Whether this is GPT-2's Conv1D, a linear layer with weight (in, out); known by its name and
    `nf`."""
    return (
        any(_is_gpt2s(cls) for cls in type(layer).__mro__)
        and hasattr(layer, "nf")
        and not isinstance(layer, CONVS)
    )


def is_dense(layer: nn.Module) -> bool:
    """Whether a layer is linear with a dense weight: `nn.Linear` or Conv1D."""
    return isinstance(layer, nn.Linear) or is_conv1d(layer)


def is_lazy(layer: nn.Module) -> bool:
    """Whether a layer waits for its first input to know its sizes, as `nn.LazyLinear` does."""
    return any(isinstance(p, nn.parameter.UninitializedParameter) for p in layer.parameters())


def overrides_forward(layer: nn.Module) -> bool:
    """Whether a layer computes something other than the linear map, convolution or look-up of its
    kind.

    A subclass that inherits `forward` does not; one that overrides it does, and so does a layer
    whose `forward` was exchanged.

    >>> layer = nn.Linear(2, 2)
    >>> layer.forward = lambda x: 2 * x
    >>> overrides_forward(layer), overrides_forward(nn.Linear(2, 2))
    (True, False)
    """
    mine = type(layer)
    kind = next((cls for cls in mine.__mro__ if _is_known(cls)), mine)
    names = ("__call__", "forward", "_conv_forward")
    own = any(getattr(mine, name, None) is not getattr(kind, name, None) for name in names)
    return own or "forward" in vars(layer)


def _is_known(cls) -> bool:
    """Whether the forward of a class is torch's, GPT-2's or ours."""
    return cls in _KINDS or _is_gpt2s(cls) or cls.__module__.startswith("tensorlab.")


def _is_gpt2s(cls) -> bool:
    return cls.__name__ == "Conv1D"


def check_plain(who: str, layer: nn.Module) -> None:
    """Raises TypeError for a layer that no other layer can stand in for: one that overrides
    `forward` or is without its weights."""
    if why := unfit(layer):
        raise TypeError(f"{who}: needs a layer that does what its kind does, got one that {why}")


def unfit(layer: nn.Module) -> str:
    """Why no other layer can stand in for this one, an empty string where one can."""
    if is_lazy(layer):
        return f"has no weights before its first input ({type(layer).__name__})"
    return f"overrides forward ({type(layer).__name__})" if overrides_forward(layer) else ""


# ------------------------------------------------------------------------------ weights are read


def dense_weight(layer: nn.Module, who: str = "dense_weight") -> Tensor:
    """The weight (out, in) of a linear layer, (out, in, ...) of a convolution, as the next forward
    in eval will compute it; gradients flow into its parameters.

    >>> dense_weight(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))).shape
    torch.Size([2, 3])
    """
    if not is_dense(layer) and not isinstance(layer, CONVS):
        need = "nn.Linear, a transposed Conv1D or a convolution"
        raise TypeError(f"{who}: needs {need}, got {_kind(layer)}")
    weight = current(layer)
    return weight.mT if is_conv1d(layer) else weight


@overload
def current(layer: nn.Module, name: Literal["weight"] = "weight") -> Tensor: ...
@overload
def current(layer: nn.Module, name: str) -> Tensor | None: ...
def current(layer, name="weight"):
    """A layer's tensor of this name, computed anew where it is computed; no state is changed.

    The older hooks leave a value behind that is as old as the last forward, and `spectral_norm`
    moves its vectors whenever it is read in training.
    """
    hook = _hook(layer, name)
    if isinstance(hook, SpectralNorm):
        return hook.compute_weight(layer, do_power_iteration=False)
    if hook is not None:
        return (
            hook.compute_weight(layer) if isinstance(hook, WeightNorm) else hook.apply_mask(layer)
        )
    if parametrize.is_parametrized(layer, name):
        with in_eval(layer.get_submodule(f"parametrizations.{name}")):
            return getattr(layer, name)
    return getattr(layer, name)


def is_computed(layer: nn.Module, name: str = "weight") -> bool:
    """Whether a layer's tensor is neither a parameter nor a buffer of this name.

    >>> is_computed(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    True
    """
    return name not in layer._parameters and name not in layer._buffers


def parameters_of(layer: nn.Module, name: str = "weight") -> list[nn.Parameter]:
    """The parameters that a layer's weight or bias is computed from: itself where it is one."""
    if not is_computed(layer, name):
        held = layer._parameters.get(name)
        return [] if held is None else [held]
    other = "bias" if name == "weight" else "weight"
    mine = lambda key: not any(part.startswith(other) for part in key.split("."))
    return [p for key, p in layer.named_parameters() if mine(key)]


def is_trained(layer: nn.Module, name: str = "weight") -> bool:
    """Whether a layer's weight or bias moves in training."""
    return any(p.requires_grad for p in parameters_of(layer, name))


def like(layer: nn.Module, new: M) -> M:
    """A module that stands in for a layer, made to train as it does: its mode, and frozen where the
    layer is."""
    for name, p in new.named_parameters():
        if not is_trained(layer, "bias" if name.endswith("bias") else "weight"):
            p.requires_grad_(False)
    return new.train(layer.training)


# ---------------------------------------------------------------------------- weights are written


@torch.no_grad()
def write_weights(who: str, layers: dict[str, nn.Module], values: dict[str, Tensor]) -> None:
    """weight <- value for each layer, by its name; values as `dense_weight` has them.

    Computed weights first: when one of them cannot take its value, all are as they were and a
    ValueError names it. A masked weight takes what is zero where its mask is.

    >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 1))
    >>> write_weights("example", {"0": layer}, {"0": torch.tensor([[3.0, 0.0]])})
    >>> layer.weight.tolist()
    [[3.0, 0.0]]
    """
    values = {n: values[n].mT if is_conv1d(layer) else values[n] for n, layer in layers.items()}
    computed = {name: layer for name, layer in layers.items() if is_computed(layer)}
    kept = {name: _state(layer) for name, layer in computed.items()}
    for name, layer in computed.items():
        if not _take(layer, values[name]):
            _put_back(layers, kept)
            raise ValueError(f"{who}: {_cannot(name, layer)}")
    for name in layers.keys() - computed.keys():
        current(layers[name]).copy_(values[name])


@torch.no_grad()
def check_writable(who: str, layers: dict[str, nn.Module]) -> None:
    """Raises ValueError for a layer whose computed weight cannot take any value there is; changes
    nothing."""
    for name, layer in layers.items():
        if not is_computed(layer):
            continue
        kept = {name: _state(layer)}
        like = current(layer)
        any_value = torch.linspace(1, 2, like.numel(), dtype=like.dtype, device=like.device)
        taken = _take(layer, any_value.view_as(like))
        _put_back(layers, kept)
        if not taken:
            raise ValueError(f"{who}: {_cannot(name, layer)}")


def _take(layer, value) -> bool:
    """Set the parameters that a weight is computed from; whether the weight is the value now, to
    rounding, with its zeros."""
    hook = _hook(layer, "weight")
    if normed := _weight_norm(layer, hook):
        g, v, dim = normed
        g.copy_(torch.norm_except_dim(value, 2, dim))
        v.copy_(torch.where(g > 0, value, v))  # a row of zeros keeps a direction
    elif parametrize.is_parametrized(layer, "weight"):
        try:
            layer.weight = value.clone()
        except (NotImplementedError, RuntimeError, ValueError):  # it has no right inverse
            return False
    elif isinstance(hook, BasePruningMethod):
        layer.weight_orig.copy_(value)
    else:
        return False
    got, eps = _recomputed(layer), torch.finfo(value.dtype).eps
    error, norm = (torch.linalg.vector_norm(t) for t in (got - value, value))
    return bool(error <= _ROUNDING * eps * norm) and not bool(got[value == 0].any())


def _weight_norm(layer, hook) -> tuple[Tensor, Tensor, int] | None:
    """g, v and the dim of w = g v / |v|, of torch's new or old weight_norm, None without it."""
    if isinstance(hook, WeightNorm):
        return layer.weight_g, layer.weight_v, hook.dim
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    made = layer.parametrizations.weight
    if len(made) != 1 or _kind(made[0]) != "_WeightNorm":
        return None
    return made.original0, made.original1, made[0].dim


def _recomputed(layer) -> Tensor:
    """The weight, put where an older hook keeps it too."""
    weight = current(layer)
    if _hook(layer, "weight") is not None:
        layer.weight = weight
    return weight


def _state(layer) -> dict[str, Tensor]:
    return {key: t.clone() for key, t in layer.state_dict().items()}


def _put_back(layers, kept) -> None:
    for name, state in kept.items():
        layers[name].load_state_dict(state)
        _recomputed(layers[name])


def _cannot(name, layer) -> str:
    hook = _hook(layer, "weight")
    if parametrize.is_parametrized(layer, "weight"):
        makers, remove = layer.parametrizations.weight, "parametrize.remove_parametrizations"
    else:
        makers, remove = [hook or layer], _REMOVE.get(_kind(hook), "prune.remove")
    by = ", ".join(_kind(maker).lstrip("_") for maker in makers)
    advice = f"; remove that first, by torch.nn.utils.{remove}" if makers != [layer] else ""
    return f"needs a weight that can be set, got layer {name!r}, whose weight {by} computes{advice}"


def computes(hook) -> bool:
    """Whether a forward pre-hook is one of torch.nn.utils' older ones, that compute a tensor of the
    layer."""
    return isinstance(hook, (WeightNorm, SpectralNorm, BasePruningMethod))


def _hook(layer, name):
    """The older hook that computes a tensor of the layer, None without one."""
    for hook in filter(computes, layer._forward_pre_hooks.values()):
        if name == (getattr(hook, "name", None) or getattr(hook, "_tensor_name", None)):
            return hook
    return None


@contextmanager
def in_eval(module):
    """A module in eval inside the block, each part of it in its own mode after it."""
    modes = {m: m.training for m in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for m, training in modes.items():
            m.training = training


def without_autocast(t: Tensor):
    """A context in which products have the dtype of their factors, on the device of a tensor."""
    kind = t.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def _kind(layer) -> str:
    return type(layer).__name__
