"""What every format has: tensors, shape, ranks, a dense meaning, storage counts, arithmetic by
operators; pytrees."""

import math
from dataclasses import dataclass, fields
from numbers import Integral, Number
from typing import get_args, get_origin

import torch
from torch import Tensor
from torch.utils import _pytree


def is_data(field) -> bool:
    """Whether a field holds tensors, by its type; any other is metadata, which is hashable and
    never traced."""
    return Tensor in (field.type, *get_args(field.type))


_LAYOUTS = {}  # a plain dictionary, which the compiler sees through


def _layout(cls) -> tuple[tuple[str, bool, bool, bool], ...]:
    """Of each field: name, whether it holds tensors, a tuple of them, and whether it may be None;
    read once."""
    if cls not in _LAYOUTS:
        about = (
            (f.name, is_data(f), get_origin(f.type) is tuple, f.default is None)
            for f in fields(cls)
        )
        _LAYOUTS[cls] = tuple(about)
    return _LAYOUTS[cls]


def _flatten(x):
    leaves, spec = [], []
    for name, data, *_ in _layout(type(x)):
        value = getattr(x, name)
        if not data:
            spec.append((value,))
        elif isinstance(value, tuple):
            spec.append(len(value))
            leaves += value
        elif value is None:
            spec.append(None)
        else:
            spec.append(-1)
            leaves.append(value)
    return leaves, tuple(spec)


def _rebuild(cls, leaves, spec):
    """Put leaves back without checking them: while torch traces, they may be anything."""
    x, leaves = object.__new__(cls), iter(leaves)
    for (name, *_), n in zip(_layout(cls), spec, strict=True):
        if isinstance(n, tuple):
            (value,) = n
        else:
            value = (
                None
                if n is None
                else next(leaves)
                if n == -1
                else tuple(next(leaves) for _ in range(n))
            )
        object.__setattr__(x, name, value)
    return x


@dataclass(frozen=True, eq=False, repr=False)
class Format:
    """A tensor held by smaller ones. A subclass is a frozen dataclass of tensors and tuples of
    tensors; a field of another type is metadata, such as a tree of modes, and is made of numbers,
    strings and tuples.

    It states `shape`, `ranks`, `to_dense`, `norm`, `at`, `scale`, and what arithmetic it has:
    `_add`, `_times`, `dot`. Its `_check` says no to tensors that do not fit. It is a pytree, so
    `torch.func` and `torch.compile` see through it.
    """

    def __init_subclass__(cls):
        _pytree.register_pytree_node(
            cls, _flatten, lambda leaves, spec: _rebuild(cls, leaves, spec)
        )

    def __post_init__(self):
        for name, data, many, optional in _layout(type(self)):
            value = getattr(self, name)
            if data and isinstance(value, list):
                object.__setattr__(self, name, value := tuple(value))
            if data and (isinstance(value, tuple) != many or (value is None and not optional)):
                what = "a tuple of tensors" if many else "a tensor"
                raise TypeError(
                    f"{type(self).__name__}: needs {what} as {name}, got {type(value).__name__}"
                )
        for t in self.tensors():
            if not isinstance(t, Tensor):
                raise TypeError(
                    f"{type(self).__name__}: needs torch tensors, got {type(t).__name__}"
                )
        self._check()

    # -- tensors

    def tensors(self) -> tuple[Tensor, ...]:
        """The stored tensors, in the order of the fields."""
        return tuple(_flatten(self)[0])

    def with_tensors(self, tensors) -> "Format":
        """The same format with other tensors, in the order of `tensors()`; their shapes may
        differ."""
        tensors = list(tensors)
        leaves, spec = _flatten(self)
        if len(tensors) != len(leaves):
            raise ValueError(
                f"{type(self).__name__}: needs {len(leaves)} tensors, got {len(tensors)}"
            )
        new = _rebuild(type(self), tensors, spec)
        new.__post_init__()
        return new

    def to(self, *args, **kwargs) -> "Format":
        """Every tensor moved or cast, as `torch.Tensor.to` does it."""
        return self.with_tensors(t.to(*args, **kwargs) for t in self.tensors())

    @property
    def dtype(self) -> torch.dtype:
        return self.tensors()[0].dtype

    @property
    def device(self) -> torch.device:
        return self.tensors()[0].device

    # -- counts

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def numel(self) -> int:
        """Numbers stored."""
        return sum(t.numel() for t in self.tensors())

    @property
    def compression(self) -> float:
        """Numbers of the dense tensor for each number stored."""
        return math.prod(self.shape) / self.numel

    def __repr__(self):
        dense = math.prod(self.shape)
        return f"{type(self).__name__}(shape={self.shape}, ranks={self.ranks}, stores {self.numel} of {dense})"

    # -- arithmetic

    def __add__(self, other):
        return self._add(self._same(other, "+"))

    def __sub__(self, other):
        return self._add(self._same(other, "-").scale(-1))

    def __neg__(self):
        return self.scale(-1)

    def __mul__(self, other):
        """Elementwise product with a format of the same kind, or a multiple by a number."""
        if isinstance(other, Format):
            return self._times(self._same(other, "*"))
        if isinstance(other, Number) or (isinstance(other, Tensor) and other.ndim == 0):
            return self.scale(other)
        return NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, number):
        return self.scale(1 / number)

    def _same(self, other, sign):
        if type(other) is not type(self) or other.shape != self.shape:
            what = f"{type(other).__name__} of shape {tuple(getattr(other, 'shape', ()))}"
            raise ValueError(
                f"{type(self).__name__} {sign}: needs a {type(self).__name__} of shape "
                f"{self.shape}, got {what}"
            )
        return other

    def _index(self, index) -> Tensor:
        """Multi-indices (batch, d) of integers, checked against the shape; negative ones count from
        the end."""
        who = f"{type(self).__name__}.at"
        index = torch.as_tensor(index, device=self.device)
        if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
            raise TypeError(f"{who}: needs integer indices, got {index.dtype}")
        if index.ndim != 2 or index.shape[1] != self.ndim:
            raise ValueError(
                f"{who}: needs indices of shape (batch, {self.ndim}), got {tuple(index.shape)}"
            )
        size = torch.tensor(self.shape, device=index.device)
        out = (index < -size) | (index >= size)
        if out.any():
            row, mode = out.nonzero()[0].tolist()
            raise ValueError(
                f"{who}: mode {mode} has indices in 0..{self.shape[mode] - 1}, got "
                f"{int(index[row, mode])} in row {row}"
            )
        return torch.where(index < 0, index + size, index).long()


class ReadAsMatrix:
    """What torch's products may be given in the place of a matrix: they get `to_dense()`.

    A layer multiplies without it. But modules of others read a layer's weight, such as an attention
    that gives it to `torch.nn.functional`, and to them it is a matrix as before. Raises TypeError
    for all else that torch does with matrices, and where something writes to it.
    """

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(function, "__name__", str(function))
        if name not in _READERS or isinstance(kwargs.get("out"), ReadAsMatrix):
            raise TypeError(_only_read(cls, name))
        dense = lambda x: x.to_dense() if isinstance(x, ReadAsMatrix) else x
        inside = lambda x: type(x)(map(dense, x)) if type(x) in (list, tuple) else dense(x)
        return function(*map(inside, args), **{key: inside(x) for key, x in kwargs.items()})

    def __getattr__(self, name):
        if name.endswith("_") and not name.startswith("_") and hasattr(Tensor, name):
            raise TypeError(_only_read(type(self), name))
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


_PRODUCTS = "linear bilinear matmul __matmul__ __rmatmul__ mm mv addmm addmv einsum tensordot"
_READERS = {*_PRODUCTS.split(), "cat", "stack", "embedding", "multi_head_attention_forward"}


def _only_read(cls, name) -> str:
    who = cls.__name__
    return f"{who}: needs a layer whose weight is only multiplied with, got {name} of a {who}"


class MatrixFormat(ReadAsMatrix, Format):
    """A format that is a matrix w (out, in) and multiplies.

    It states besides: `from_dense(w, ...)`; `apply(x)`, y = w x on the last mode, (..., in) ->
    (..., out), the plain autograd reference; `flops(batch)`, the multiplications and additions of
    `apply`, two for each multiply-add; `lr_multipliers()`, one number for each of `tensors()`: how
    much larger than a dense weight's the learning rate of Adam may be [Qiu2024]. `randn` draws
    entries of variance 1.
    """

    def initial(self) -> "MatrixFormat":
        """What `randn` drew, scaled to be the start of a layer: entries of variance 1 / (3 in), as
        in `nn.Linear`.

        The scale is shared evenly by the tensors, in each of which w is linear.
        """
        share = (3 * self.shape[1]) ** (-0.5 / len(self.tensors()))
        return self.with_tensors(t * share for t in self.tensors())


class SplitMatrix(MatrixFormat):
    """A matrix whose row and column index are split into modes: `out` and `in_`, tuples of sizes.

    size: (out, in) where these are less than the products of the modes, None where not; what stands
    beyond is padding.
    """

    @property
    def padded(self) -> tuple[int, int]:
        """(out, in) with the padding."""
        return math.prod(self.out), math.prod(self.in_)

    @property
    def shape(self):
        return self.size or self.padded


def check_shape(who: str, shape) -> tuple[int, ...]:
    """The shape as a tuple; says no to one without modes or with a size that is not an integer >=
    1."""
    shape = tuple(shape)
    if not shape or any(isinstance(n, bool) or not isinstance(n, Integral) or n < 1 for n in shape):
        raise ValueError(f"{who}: needs a shape of integers >= 1, got {shape}")
    return shape


def check_same(who: str, tensors) -> None:
    """Says no to tensors of several dtypes or devices, or of a dtype that is not floating."""
    kinds = {(t.dtype, t.device) for t in tensors}
    if len(kinds) > 1:
        raise ValueError(
            f"{who}: needs tensors of one dtype and device, got {sorted(map(str, kinds))}"
        )
    ((dtype, _),) = kinds
    if not (dtype.is_floating_point or dtype.is_complex):
        raise TypeError(f"{who}: needs floating-point or complex tensors, got {dtype}")
