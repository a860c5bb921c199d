"""Compressed models in safetensors files, and back into the same architecture in one call: layers
that hold a format, codes, factors in codes or rows in codes. No code is ever run from a file.
"""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from ..formats.storage import put_together, taken_apart
from ..layers.dense import dense_weight, is_dense, like
from ..layers.linear import FactorizedLinear
from ..layers.select import put
from .coded import QuantizedEmbedding, QuantizedFactors
from .codes import FIELDS, Quantized, from_stored
from .quantize import QuantizedLinear
from .quantized_storage import read_checked, write_checked

KINDS = (FactorizedLinear, QuantizedLinear, QuantizedFactors, QuantizedEmbedding)


def layer_state(layer: nn.Module) -> tuple[dict[str, Tensor], dict]:
    """The tensors of a compressed layer by name, and how they are put together."""
    about = {"kind": type(layer).__name__, "bias": getattr(layer, "bias", None) is not None}
    if isinstance(layer, FactorizedLinear):
        tensors, form = taken_apart("save_compressed", layer.weight)
        tensors, about = {f"weight.{n}": t for n, t in tensors.items()}, about | {"form": form}
        if layer.bias is not None:
            tensors["bias"] = layer.bias
    else:
        tensors = layer.state_dict()
        about["shape"] = list(layer.weight.shape)
    return {n: t.detach().cpu() for n, t in tensors.items()}, about


def layer_of(tensors: dict[str, Tensor], about: dict, where="a file") -> nn.Module:
    """The inverse of `layer_state`. Raises ValueError for what it did not write."""
    who, kind = "load_compressed", about.get("kind")
    parts = {
        "QuantizedLinear": lambda: QuantizedLinear(codes("", shape), tensors.get("bias")),
        "QuantizedEmbedding": lambda: QuantizedEmbedding(codes("", shape)),
        "QuantizedFactors": lambda: QuantizedFactors(
            codes("u.", (shape[0], rank())), codes("v.", (rank(), shape[1])), tensors.get("u.bias")
        ),
    }
    if kind == "FactorizedLinear":
        inner = {n[7:]: t for n, t in tensors.items() if n.startswith("weight.")}
        return FactorizedLinear(put_together(who, inner, about["form"], where), tensors.get("bias"))
    if kind not in parts:
        names = ", ".join(k.__name__ for k in KINDS)
        raise ValueError(f"{who}: needs a layer of {names}, got {kind!r} in {where}")
    shape = tuple(about["shape"])
    rank = lambda: int(json.loads(bytes(tensors["v.about"].tolist()))["shape"][0])

    def codes(prefix, shape) -> Quantized:
        return from_stored({n: tensors.get(prefix + n) for n in (*FIELDS, "about")}, shape)

    return parts[kind]()


def save_compressed(path, model: nn.Module) -> None:
    """Write a compressed model to a safetensors file, whole or not at all, with a checksum.

    Raises TypeError for a format that no file may hold.

    >>> from tempfile import mkdtemp
    >>> from tensorlab import LowRank, replace_linear
    >>> make = lambda: nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2))
    >>> model, path = replace_linear(make(), "0", LowRank.from_dense, 2), mkdtemp() + "/m"
    >>> x = torch.ones(8)
    >>> save_compressed(path, model)
    >>> torch.equal(load_compressed(path, make())(x), model(x))
    True
    """
    tensors, layers = {}, {}
    found = {n: m for n, m in model.named_modules(remove_duplicate=False) if isinstance(m, KINDS)}
    outer = {n: m for n, m in found.items() if not _inside(n, found.keys() - {n})}
    for name, layer in outer.items():
        inner, layers[name] = layer_state(layer)
        tensors |= {f"{name}.{n}": t for n, t in inner.items()}
    rest = {n: t for n, t in model.state_dict().items() if not _inside(n, outer)}
    tensors |= {n: t.detach().cpu() for n, t in rest.items()}
    write_checked("save_compressed", path, tensors, "compressed", layers)


def load_compressed(path, model: nn.Module) -> nn.Module:
    """Read what `save_compressed` wrote into a model built as the one that was compressed; changes
    it and returns it.

    A model on the meta device gets the tensors of the file. Raises ValueError for a file that is
    cut off, changed or of another model, and the model is not changed.

    >>> from tempfile import mkdtemp
    >>> from tensorlab import LowRank, replace_linear
    >>> make, path = lambda: nn.Sequential(nn.Linear(8, 6)), mkdtemp() + "/m"
    >>> save_compressed(path, replace_linear(make(), "0", LowRank.from_dense, 2))
    >>> load_compressed(path, make())[0].weight.ranks
    (2,)
    """
    tensors, layers = read_checked("load_compressed", path, "compressed")
    places = dict(model.named_modules(remove_duplicate=False))
    made = {}
    for name, about in layers.items():
        inner = {n[len(name) + 1 :]: t for n, t in tensors.items() if _inside(n, [name])}
        try:
            made[name] = layer_of(inner, about, Path(path).name)
        except (KeyError, TypeError) as error:
            raise ValueError(f"load_compressed: layer {name}: needs {error}") from None
    state = {n: t for n, t in model.state_dict().items() if not _inside(n, layers)}
    rest = {n: t for n, t in tensors.items() if not _inside(n, layers)}
    sizes = lambda found: {(n, t.shape) for n, t in found.items()}
    odd = {n for n, _ in sizes(state) ^ sizes(rest)}
    odd |= {n for n, layer in made.items() if _shape(places.get(n)) != tuple(layer.weight.shape)}
    if odd:
        who = "load_compressed: needs the model that was compressed"
        raise ValueError(f"{who}, got one that differs in {min(odd)}")
    once: dict[nn.Module, nn.Module] = {}
    for name, layer in made.items():
        old = places[name]
        device = next((p.device for p in old.parameters()), torch.device("cpu"))
        once[old] = like(old, layer if device.type == "meta" else layer.to(device))
    put(model, once)
    meta = any(t.is_meta for t in state.values())
    model.load_state_dict(rest, strict=False, assign=meta)
    return model


def _shape(layer) -> tuple[int, ...] | None:
    if layer is None or not (is_dense(layer) or isinstance(layer, (nn.Embedding, *KINDS))):
        return None
    return tuple((dense_weight(layer) if is_dense(layer) else layer.weight).shape)


def _inside(name: str, layers) -> bool:
    """Whether a tensor or a module is inside one of these layers, by its name."""
    return any(name.startswith(f"{layer}.") for layer in layers)
