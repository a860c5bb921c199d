"""Formats and checkpoints on disk, as safetensors: no code is ever run from a file."""

import json
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..files import replaced
from .base import Format, is_data
from .blocktt import BlockTT
from .cp import CP
from .htucker import HT
from .kron_sum import KronSum
from .kronecker import Kronecker
from .lokr import LoKr
from .lowrank import LowRank
from .monarch import Monarch
from .pivoted import PivotedLowRank
from .tt import TT
from .ttmatrix import TTMatrix
from .tucker import Tucker

# what a file may hold
FORMATS = {
    cls.__name__: cls
    for cls in (
        LowRank,
        PivotedLowRank,
        CP,
        Tucker,
        TT,
        HT,
        TTMatrix,
        Kronecker,
        KronSum,
        LoKr,
        Monarch,
        BlockTT,
    )
}

RENAMED = {"size": "unpadded_shape"}  # metadata that older files hold under another name


def save(path, x: Format) -> None:
    """Write a format to a safetensors file, whole or not at all.

    The tensors are named field or field.k after the dataclass; the class name is in the
    metadata, and so are fields that are not tensors, as JSON. Complex tensors are stored as
    pairs of real numbers.

    >>> from tempfile import mkdtemp
    >>> path = mkdtemp() + "/train.safetensors"
    >>> save(path, TT.randn((4, 5, 6), rank=2))
    >>> load(path)
    TT(shape=(4, 5, 6), ranks=(2, 2), stores 40 of 120)
    """
    tensors, about = taken_apart("save", x)
    write("save", path, {name: _real(t) for name, t in tensors.items()}, about)


def load(path, *, device="cpu") -> Format:
    """Read a format from a safetensors file.

    The class name in the file is looked up in the fixed list of formats. Raises ValueError for any
    other, and for a file that is damaged, FileNotFoundError if there is none.

    >>> from tempfile import mkdtemp
    >>> path = mkdtemp() + "/matrix.safetensors"
    >>> save(path, LowRank(torch.ones(3, 1), torch.ones(2, 1)))
    >>> load(path)
    LowRank(shape=(3, 2), ranks=(1,), stores 5 of 6)
    """
    tensors, about = read("load", path, device)
    return put_together("load", tensors, about, path)


def taken_apart(who: str, x: Format) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a format by field, and all else as texts; TypeError for what no file holds."""
    if FORMATS.get(type(x).__name__) is not type(x):
        raise TypeError(f"{who}: needs one of {', '.join(FORMATS)}, got {type(x).__name__}")
    tensors, about = {}, {"format": type(x).__name__, "complex": str(x.dtype.is_complex)}
    for field in fields(x):
        name, value = field.name, getattr(x, field.name)
        if not is_data(field):
            about[name] = json.dumps(x.packed(value))
        elif value is not None:
            many = isinstance(value, tuple)
            tensors |= {f"{name}.{k}": t for k, t in enumerate(value)} if many else {name: value}
    return tensors, about


def put_together(who: str, tensors: dict, about: dict[str, str], path) -> Format:
    """The inverse of `taken_apart`; the class is looked up in the fixed list of formats. Raises
    ValueError for any other, and for tensors that are not those of it."""
    kind = about.get("format")
    if kind not in FORMATS:
        raise ValueError(
            f"{who}: needs a file with one of {', '.join(FORMATS)}, got {kind!r} in {path}"
        )
    try:
        if about.get("complex") == "True":
            tensors = {n: torch.view_as_complex(t) for n, t in tensors.items()}
        cls = FORMATS[kind]
        about |= {new: about[old] for old, new in RENAMED.items() if old in about}
        made = _grouped(tensors)
        for name in (f.name for f in fields(cls) if not is_data(f) and f.name in about):
            made[name] = cls.unpacked(_tuples(json.loads(about[name])))
        return cls(**made)
    except (TypeError, ValueError, RuntimeError) as error:  # RecursionError is a RuntimeError
        raise ValueError(
            f"{who}: needs the tensors of a {kind}, got {sorted(tensors)} in {path} ({error})"
        ) from None


def save_state(path, state) -> None:
    """Write a checkpoint to a safetensors file, whole or not at all: what `state_dict` of a model,
    an optimizer or a `DLRT` gives.

    state: dicts, lists and tuples, one in another, of tensors, numbers, texts and None. The tensors
    are numbered; the rest is JSON beside them. Raises TypeError for
    anything else.

    >>> from tempfile import mkdtemp
    >>> path, model = mkdtemp() + "/run.safetensors", torch.nn.Linear(3, 2)
    >>> save_state(path, {"epoch": 4, "model": model.state_dict()})
    >>> state = load_state(path)
    >>> state["epoch"], torch.equal(state["model"]["weight"], model.weight)
    (4, True)
    """
    tensors = {}
    about = json.dumps(_packed(state, tensors))
    write("save_state", path, tensors, {"state": about})


def load_state(path, *, device="cpu"):
    """Read what `save_state` wrote. Raises ValueError for a file that is not a checkpoint,
    FileNotFoundError if there is none.

    >>> from tempfile import mkdtemp
    >>> path = mkdtemp() + "/run.safetensors"
    >>> save_state(path, {"epoch": 4, "losses": [0.5, 0.25]})
    >>> load_state(path)
    {'epoch': 4, 'losses': [0.5, 0.25]}
    """
    tensors, about = read("load_state", path, device)
    try:
        return _unpacked(json.loads(about["state"]), tensors)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"load_state: needs a file of save_state, got {path} ({error!r})"
        ) from None


def _packed(x, tensors: dict):
    """The same as lists, texts and numbers, with {kind: ...} for what JSON lacks; the tensors go to
    `tensors`."""
    if isinstance(x, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = _real(x)
        return {"complex" if x.is_complex() else "tensor": name}
    if isinstance(x, dict):
        return {
            "dict": [[_packed(key, tensors), _packed(value, tensors)] for key, value in x.items()]
        }
    if isinstance(x, (list, tuple)):
        inner = [_packed(value, tensors) for value in x]
        return inner if isinstance(x, list) else {"tuple": inner}
    if x is None or isinstance(x, (bool, int, float, str)):
        return x
    if isinstance(x, (Integral, Real)):  # NumPy's numbers
        return int(x) if isinstance(x, Integral) else float(x)
    raise TypeError(
        f"save_state: needs tensors, numbers, texts, None, dicts, lists and tuples, got "
        f"{type(x).__name__}"
    )


def _unpacked(x, tensors: dict):
    if isinstance(x, list):
        return [_unpacked(value, tensors) for value in x]
    if not isinstance(x, dict):
        return x
    ((kind, value),) = x.items()
    if kind == "dict":
        return {_unpacked(key, tensors): _unpacked(inner, tensors) for key, inner in value}
    if kind == "tuple":
        return tuple(_unpacked(value, tensors))
    return tensors[value] if kind == "tensor" else torch.view_as_complex(tensors[value])


def write(who: str, path, tensors, about: dict[str, str]) -> None:
    """Write named tensors and metadata to a safetensors file, whole or not at all.

    The tensors are copied, so views and shared memory do no harm. Raises TypeError for tensors
    whose numbers cannot be stored.
    """
    for name, t in tensors.items():
        if (odd := _odd(t)) is not None:
            raise TypeError(f"{who}: needs dense tensors with numbers, got {odd} as {name!r}")
    tensors = {n: t.detach().resolve_conj().resolve_neg().cpu() for n, t in tensors.items()}
    with replaced(path) as part:
        save_file({n: t.clone().contiguous() for n, t in tensors.items()}, part, metadata=about)


def _real(t: torch.Tensor) -> torch.Tensor:
    """A complex tensor as pairs of real numbers, the last mode of size 2."""
    return torch.view_as_real(t.resolve_conj()) if t.is_complex() and _odd(t) is None else t


def _odd(t: torch.Tensor) -> str | None:
    """What keeps the numbers of a tensor from being stored as they are."""
    if t.is_nested or t.layout != torch.strided:
        return "a nested tensor" if t.is_nested else f"a tensor of layout {t.layout}"
    if t.is_quantized:
        return f"a tensor of {t.dtype}"
    return "a tensor on the meta device" if t.is_meta else None


def read(who: str, path, device="cpu") -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file. Raises FileNotFoundError if there is no
    file, ValueError for one that is cut off or of another kind."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{who}: needs a file, got none at {path}")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{who}: needs a whole safetensors file, got {path}: {error}") from None


def _grouped(tensors) -> dict[str, Any]:
    """{"core": a, "factors.0": b, "factors.1": c} -> {"core": a, "factors": (b, c)}"""
    out = {n: t for n, t in tensors.items() if "." not in n}
    for field in {n.split(".")[0] for n in tensors if "." in n}:
        count = sum(n.startswith(field + ".") for n in tensors)
        if any(f"{field}.{k}" not in tensors for k in range(count)):
            raise ValueError(f"{field} is not numbered from 0 to {count - 1}")
        out[field] = tuple(tensors[f"{field}.{k}"] for k in range(count))
    return out


def _tuples(value):
    """[[0, 1], 2] -> ((0, 1), 2): JSON has no tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
