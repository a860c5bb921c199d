"""Quantized models in safetensors files, with a checksum over all of it."""

import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from ..formats.storage import read, write
from ..layers.dense import current, dense_weight, is_dense, like
from ..layers.select import put
from .codes import FIELDS, description, from_stored
from .quantize import QuantizedLinear


def save_quantized(path, model: nn.Module) -> None:
    """Write a model with its quantized layers to a safetensors file, with a checksum over all of
    it.

    >>> from tempfile import mkdtemp
    >>> from tensorlab import quantize_model
    >>> model, path = nn.Sequential(nn.Linear(16, 4)), mkdtemp() + "/q.safetensors"
    >>> x, model = torch.ones(16), quantize_model(model)
    >>> save_quantized(path, model)
    >>> torch.equal(load_quantized(path, nn.Sequential(nn.Linear(16, 4)))(x), model(x))
    True
    """
    layers = {
        n: description(m.weight) for n, m in _everywhere(model) if isinstance(m, QuantizedLinear)
    }
    tensors = {n: t.detach().cpu() for n, t in model.state_dict().items()}
    write_checked("save_quantized", path, tensors, "quantized", layers)


def load_quantized(path, model: nn.Module) -> nn.Module:
    """Read what `save_quantized` wrote into a model built as the one that was quantized; changes it
    and returns it.

    Raises ValueError for a file that is cut off, changed, or of another model, and the model stays
    as it was.

    >>> from tempfile import mkdtemp
    >>> from tensorlab import quantize_model
    >>> path = mkdtemp() + "/q.safetensors"
    >>> save_quantized(path, quantize_model(nn.Sequential(nn.Linear(16, 4))))
    >>> type(load_quantized(path, nn.Sequential(nn.Linear(16, 4)))[0]).__name__
    'QuantizedLinear'
    """
    tensors, about = read_checked("load_quantized", path, "quantized")
    names = set(about)
    layers = {n: m for n, m in _everywhere(model) if is_dense(m) or isinstance(m, QuantizedLinear)}
    odd = {name for name, _ in _beside(model.state_dict(), names) ^ _beside(tensors, names)}
    odd |= names - layers.keys()
    if odd:
        raise ValueError(
            f"load_quantized: needs the model that was quantized, got one that differs in "
            f"{min(odd)}"
        )
    made = {}
    for name in sorted(names):
        stored = {field: tensors.get(f"{name}.{field}") for field in (*FIELDS, "about")}
        try:
            made[layers[name]] = _stand_in(layers[name], stored)
        except ValueError as error:
            raise ValueError(f"load_quantized: layer {name}: {error}") from None
    put(model, made)
    model.load_state_dict(tensors)
    return model


def write_checked(who: str, path, tensors: dict[str, Tensor], what: str, layers: dict) -> None:
    """Write tensors and a description of their layers, with a checksum over both.

    who: the function that the user called, for the error.
    path: of the file, which is written whole or not at all.
    tensors: by name.
    what: the key of the description in the file's header.
    layers: the description, of what JSON can hold.
    """
    about = json.dumps(layers, sort_keys=True)
    write(who, path, tensors, {what: about, "sha256": _checksum(tensors, about)})


def read_checked(who: str, path, what: str) -> tuple[dict[str, Tensor], dict]:
    """The tensors and the layers that `write_checked` wrote as `what`. Raises ValueError for a file
    that is cut off or changed, or of something else, FileNotFoundError if there is none."""
    tensors, about = read(who, path)
    if what not in about or about.get("sha256") != _checksum(tensors, about[what]):
        raise ValueError(
            f"{who}: needs a file as save_{what} wrote it, got {Path(path).name} with another "
            f"checksum"
        )
    return tensors, json.loads(about[what])


def _stand_in(layer, stored) -> QuantizedLinear:
    """A quantized layer in the place of a dense one, or of another."""
    held = layer.weight if isinstance(layer, QuantizedLinear) else dense_weight(layer)
    weight = from_stored(stored, tuple(getattr(held, "matrix_shape", held.shape)))
    new = QuantizedLinear(weight, current(layer, "bias")).to(held.device)
    if isinstance(layer._parameters.get("bias"), nn.Parameter):
        new.bias = layer.bias
    return like(layer, new)


def _beside(state, names) -> set[tuple[str, torch.Size]]:
    """What a state holds beside the weights of the named layers: keys and shapes."""
    dots = lambda key: (k for k, letter in enumerate(key) if letter == ".")
    inside = lambda key: any(key[:k] in names and key[k:] != ".bias" for k in dots(key))
    return {(key, t.shape) for key, t in state.items() if not inside(key)}


def _everywhere(model):
    return model.named_modules(remove_duplicate=False)


def _checksum(tensors, about):
    digest = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        t = tensors[name].contiguous()
        digest.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        digest.update(t.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
