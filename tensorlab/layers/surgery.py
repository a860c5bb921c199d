"""Surgery: layers of a model replaced, with all that hangs on them [Qiu2024].

    replace     choose layers, make a new one for each, keep modes, freezing and ties, put it
                wherever the old one stood

The functions for users are a few lines on top of it, as `quantize_model` is.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from .dense import current, like
from .linear import FactorizedLinear, factorize, less_than
from .select import (
    CONV2D,
    LINEAR,
    Kind,
    choose,
    fit,
    kind_of,
    listed,
    put,
    say,
    tie,
    tied_layers,
    unfit_layers,
)


def replace_linear(
    model: nn.Module, names, make: Callable, rank=None, *, strategy: str = "auto"
) -> nn.Module:
    """Every dense linear layer that `names` chooses becomes a `FactorizedLinear`; changes the model
    and returns it.

        y = w x + b   becomes   y = make(w) x + b        make: w (out, in) -> MatrixFormat

    model: whose `nn.Linear` and Conv1D of GPT-2 can be chosen.
    names: a pattern of `fnmatch` such as "blocks.*.mlp.*", several of them, or a predicate (name,
        layer) -> bool.
    make: called as make(w), or with a rank as make(w, rank).
    rank: None: `make` knows it. A layer that keeps less is named in one warning.
    strategy: how the layers multiply, see `propagate`.

    Modes, freezing, hooks and the bias stay; layers that share a weight share the new one. A layer
    whose weight something else holds too, such as an embedding, or that overrides `forward`, is not
    replaced, and a warning names it. Raises ValueError for a pattern that chooses nothing; an error
    of `make` names the layer, and nothing is changed.

    >>> from tensorlab import LowRank
    >>> model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    >>> replace_linear(model, "0", LowRank.from_dense, rank=2)[0]
    FactorizedLinear(LowRank, in=8, out=6, ranks=(2,), stores 28 of 48, storage ratio 0.583,
                     bias=True)
    """
    capped = {}

    def build(name, layer):
        weight = factorize(layer, make, rank)
        if rank is not None and less_than(weight, rank):
            capped[name] = weight.ranks
        return FactorizedLinear(weight, current(layer, "bias"), strategy=strategy)

    replace("replace_linear", model, names, build, LINEAR)
    if capped:
        say(f"replace_linear: rank {rank} is capped where a layer has less: {listed(capped)}")
    return model


FACTORIZED = Kind(  # not those that compute another map, as convolutions do
    "factorized linear layer",
    lambda layer: getattr(type(layer), "forward", None) is FactorizedLinear.forward,
)


def fold_linear(model: nn.Module, names="*") -> nn.Module:
    """Every `FactorizedLinear` that `names` chooses becomes an `nn.Linear` on its dense weight, for
    inference at the speed of a dense model; changes the model and returns it.

    names: as in `replace_linear`; dense layers and convolutions are not changed. The model is
    as large as a dense one from then on: store it before. Modes, freezing, hooks and the bias stay;
    layers that share their factors share the dense weight. Raises ValueError for a pattern that
    chooses nothing.

    >>> from tensorlab import LowRank
    >>> model = replace_linear(nn.Sequential(nn.Linear(8, 6)), "0", LowRank.from_dense, rank=2)
    >>> fold_linear(model)
    Sequential(
      (0): Linear(in_features=8, out_features=6, bias=True)
    )
    """
    return replace("fold_linear", model, names, lambda name, layer: _folded(layer), FACTORIZED)


def _folded(layer: FactorizedLinear) -> nn.Linear:
    """The dense layer of the same map."""
    w, bias = layer.weight.to_dense().detach().clone(), layer.bias  # some formats give a view
    new = nn.Linear(layer.in_features, layer.out_features, bias is not None, device="meta")
    new.weight = nn.Parameter(w)
    if bias is not None:
        new.bias = bias
    return new


def replace(
    who: str,
    model: nn.Module,
    names,
    make: Callable[[str, Any], nn.Module],  # from a name and a layer of the kind
    kind: Kind,
) -> nn.Module:
    """Put make(name, layer) in the place of every layer of a kind that `names` chooses, with the
    care that `replace_linear` lists; changes the model and returns it.

    who: the function that the user called, for errors and warnings.
    model: whose layers are replaced.
    names: a pattern of `fnmatch`, several of them, or a predicate (name, layer) -> bool.
    make: (name, layer) -> the new module.
    kind: the layers that may be chosen, such as `LINEAR` of `select`.

    Raises ValueError if `names` chooses nothing, or as make does, with the layer's name; TypeError
    if make returns something other than a module.
    """
    chosen = choose(who, model, names, kind)
    chosen = fit(who, chosen, unfit_layers(chosen) | tied_layers(model, chosen))
    made = {}
    for name, layer in chosen.items():
        try:
            new = make(name, layer)
            if not isinstance(new, nn.Module):
                raise TypeError(f"needs a module from make, got {kind_of(new)}")
        except (ValueError, TypeError) as error:
            kept = TypeError if isinstance(error, TypeError) else ValueError
            raise kept(f"{who}: layer {name}: {error}") from error
        made[layer] = like(layer, new)
    tie(who, {layer: name for name, layer in chosen.items()}, made)
    put(model, made)
    return model


def replace_conv(model: nn.Module, names, make: Callable[[nn.Conv2d], nn.Module]) -> nn.Module:
    """Put make(layer) in the place of every convolution that `names` chooses; changes the model and
    returns it.

    names: a pattern of `fnmatch` such as "blocks.*.conv2", several of them, or a predicate (name,
    layer) -> bool. Modes, freezing, hooks and the bias stay; convolutions that share a kernel share
    the new one, and a layer that is in two places is made once. One whose kernel something else
    holds too, or that overrides `forward`, is not replaced, and a warning names it. Raises
    ValueError for a pattern that chooses nothing; an error of `make` names the layer, and nothing
    is changed.

    >>> from tensorlab import spatial_conv
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    >>> model = replace_conv(model, "2", lambda layer: spatial_conv(layer, 4))
    >>> [type(part).__name__ for part in model]
    ['Conv2d', 'ReLU', 'ConvChain']
    """
    return replace("replace_conv", model, names, lambda name, layer: make(layer), CONV2D)
