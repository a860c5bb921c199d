"""What every format has: tensors, shape, ranks, a dense meaning, storage counts, arithmetic by
operators; pytrees."""

import math
from dataclasses import dataclass, fields
from numbers import Number
from typing import get_args, get_origin

import torch
from torch import Tensor
from torch.utils import _pytree

from ..arguments import is_real, scalar
from ..capture import known, readable
from ..linalg import ldexp, real, size_exponent, spread, wide, widen
from ..multilinear import check_index


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
            spec.append((x.packed(value),))
        elif isinstance(value, tuple):
            spec.append(len(value))
            leaves += value
        elif value is None:
            spec.append(None)
        else:
            spec.append(-1)
            leaves.append(value)
    return leaves, tuple(spec)


def _flatten_with_keys(x):
    leaves, spec = _flatten(x)
    return [(_pytree.SequenceKey(k), leaf) for k, leaf in enumerate(leaves)], spec


def _rebuild(cls, leaves, spec):
    """Put leaves back without checking them: while torch traces, they may be anything."""
    x, leaves = object.__new__(cls), iter(leaves)
    for (name, *_), n in zip(_layout(cls), spec, strict=True):
        if isinstance(n, tuple):
            value = cls.unpacked(*n)
        elif n is None:
            value = None
        else:
            value = next(leaves) if n == -1 else tuple(next(leaves) for _ in range(n))
        object.__setattr__(x, name, value)
    return x


@dataclass(frozen=True, eq=False, repr=False)
class Format:
    """A tensor held by smaller ones. A subclass is a frozen dataclass of tensors and tuples of
    tensors; a field of another type is metadata, such as a tree of modes, and is made of numbers,
    strings and tuples.

    It states `shape`, `ranks`, the formulas `_dense`, `_norm`, `_at`, `_dot`, and what arithmetic
    it has: `_add`, `_times`. This class adds what they share: checks, dtypes, and that no product
    leaves the range of floats on the way to a number within it. `_check` refuses tensors that do
    not fit. A format is a pytree, so `torch.func` and `torch.compile` see through it. It may share
    tensors with another: `2 * x` copies only the one that it changes.

    Formats of two dtypes are brought to that of `torch.promote_types` first, and a complex multiple
    of a real format is complex.
    """

    _carrier = 0  # the tensor, in the order of `tensors()`, that a multiple is put into
    _terms = None  # the axis of each tensor along which it is a sum of terms, where it is one

    def __init_subclass__(cls):
        _pytree.register_pytree_node(
            cls,
            _flatten,
            lambda leaves, spec: _rebuild(cls, leaves, spec),
            flatten_with_keys_fn=_flatten_with_keys,  # older versions of `torch.export` ask for it
        )

    def __reduce__(self):
        return _rebuild, (type(self), *_flatten(self))

    @staticmethod
    def packed(metadata):
        """A field of metadata as it is stored, hashed and compared: flat."""
        return metadata

    @staticmethod
    def unpacked(metadata):
        """The inverse of `packed`."""
        return metadata

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
        """Numbers of the dense tensor for each number stored; inf where that is beyond a float."""
        return ratio(math.prod(self.shape), self.numel)

    def __repr__(self):
        sizes = ", ".join(map(digits, self.shape)) + ("," if self.ndim == 1 else "")
        stores = f"stores {self.numel} of {digits(math.prod(self.shape))}"
        return f"{type(self).__name__}(shape=({sizes}), ranks={self.ranks}, {stores})"

    # -- values

    def to_dense(self) -> Tensor:
        """The dense tensor."""
        return (self._even() if len(self.tensors()) > 2 else self)._dense()

    def at(self, index) -> Tensor:
        """Entries at many multi-indices: (batch, d) -> (batch,)."""
        form = self._even() if len(self.tensors()) > 2 else self
        return form._at(self._index(index))

    def norm(self) -> Tensor:
        """Frobenius norm, right to full accuracy for differences that nearly cancel too."""
        return self.to(wide(self.dtype))._even()._norm().to(real(self.dtype))

    def dot(self, other: "Format") -> Tensor:
        """<self, other> = sum of conj(self) * other, from the small tensors."""
        a, b = self._pair(other, "dot")
        return a._even()._dot(b._even())

    def scale(self, number) -> "Format":
        """The multiple by a number."""
        number = scalar(number)
        dtype = self.dtype
        if not is_real(number):
            dtype = torch.promote_types(dtype, torch.complex64)
        form, carrier = self._cast(dtype), self._carrier
        tensors = list(form.tensors())
        power = 0 if isinstance(number, Tensor) else math.frexp(abs(number))[1]
        if abs(power) > math.log2(torch.finfo(dtype).max) / 2:  # more than one tensor may hold
            tensors = spread(form._even().tensors(), carrier, power, dtype)
            number = number * 2.0 ** (power // 2 - power) * 2.0 ** -(power // 2)
        tensors[carrier] = tensors[carrier] * number
        return self.with_tensors(tensors)

    # -- arithmetic

    def __add__(self, other):
        if isinstance(other, Number) and other == 0:  # `sum` starts from 0
            return self
        a, b = self._pair(other, "+")
        return a._add(b)

    __radd__ = __add__

    def __sub__(self, other):
        a, b = self._pair(other, "-")
        return a._add(b.scale(-1))

    def __neg__(self):
        return self.scale(-1)

    def __mul__(self, other):
        """Elementwise product with a format of the same kind, or a multiple by a number."""
        if isinstance(other, Format):
            a, b = self._pair(other, "*")
            return a._even()._times(b._even())
        if isinstance(other, Number) or (isinstance(other, Tensor) and other.ndim == 0):
            return self.scale(other)
        return NotImplemented

    __rmul__ = __mul__
    __array_ufunc__ = None  # so that a NumPy number on the left leaves the product to us

    def __truediv__(self, number):
        return self.scale(1 / number)

    # -- what the formulas are given

    def _cast(self, dtype) -> "Format":
        return self if dtype == self.dtype else self.to(dtype)

    def _pair(self, other, sign) -> tuple["Format", "Format"]:
        """Both operands in one dtype; ValueError for another kind, shape or device."""
        self._same(other, sign)
        if other.device != self.device:
            raise ValueError(
                f"{type(self).__name__} {sign}: needs both on one device, got {self.device} and "
                f"{other.device}"
            )
        dtype = torch.promote_types(self.dtype, other.dtype)
        return self._cast(dtype), other._cast(dtype)

    def _same(self, other, sign):
        if type(other) is not type(self) or other.shape != self.shape:
            what = f"{type(other).__name__} of shape {tuple(getattr(other, 'shape', ()))}"
            raise ValueError(
                f"{type(self).__name__} {sign}: needs a {type(self).__name__} of shape "
                f"{self.shape}, got {what}"
            )

    def _even(self) -> "Format":
        """The same tensor, and where the sizes of its tensors are far apart they become equal.

        It is linear in each of them, and in each term on its own where it is a sum of terms, so a
        power of two may go from one to another. With equal sizes a product grows or shrinks evenly,
        and stays in the range of floats on the way to a number within it.
        """
        (tensors, spec), room = _flatten(self), math.log2(torch.finfo(self.dtype).max) / 2
        sizes = torch.frexp(torch.stack([self._size(t) for t in tensors])).exponent
        far = sizes.abs().sum(0) > room
        if self._readable() and not far.any():
            return self
        count = torch.arange(len(tensors) + 1, device=sizes.device)
        count = count.reshape(-1, *[1] * (sizes.ndim - 1))
        equal = (sizes.sum(0) * count // len(tensors)).diff(dim=0)
        shift = torch.where(far, equal - sizes, 0)
        halves = (torch.exp2(e.to(real(self.dtype))) for e in (shift // 2, shift - shift // 2))
        across = [] if self._terms in (None, -1) else [1] * (tensors[0].ndim - 1)
        a, b = (half.reshape(*half.shape, *across) for half in halves)
        return _rebuild(type(self), [t * m * n for t, m, n in zip(tensors, a, b)], spec)

    def _readable(self) -> bool:
        """Whether a number may be read to save work: now, and without waiting for an accelerator."""
        return self.device.type == "cpu" and all(map(known, self.tensors()))

    def _size(self, t: Tensor) -> Tensor:
        """The largest entry of one of the tensors, of each term where it is a sum of terms."""
        if self._terms is None:
            return torch.linalg.vector_norm(t.detach(), math.inf)
        others = [k for k in range(t.ndim) if k != self._terms % t.ndim]
        t = t.detach()
        return torch.linalg.vector_norm(t, math.inf, others) if others else t.abs()

    def _index(self, index) -> Tensor:
        """Multi-indices (batch, d) of integers, checked against the shape; negative ones count from
        the end."""
        place = check_index(f"{type(self).__name__}.at", index, self.shape, self.device)
        return place if readable(place) else _looked_up(place, self.shape)


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

    It states besides: `from_dense(w, ...)`; `_apply(x)`, the product with the rows of a matrix,
    (batch, in) -> (batch, out), the plain autograd reference; `flops(batch)`, the multiplications
    and additions of `apply`, two for each multiply-add; `lr_multipliers()`, one number for each of
    `tensors()`: how much larger than a dense weight's the learning rate of Adam may be [Qiu2024].
    `randn` draws entries of variance 1.
    """

    def apply(self, x: Tensor) -> Tensor:
        """y = w x on the last mode: (..., in) -> (..., out), in the dtype of `torch.promote_types`.

        Raises ValueError for an x of another width or on another device.
        """
        (out, n), w, first, who = self.shape, self, self.tensors()[0], type(self).__name__
        if x.ndim < 1 or x.shape[-1] != n:
            raise ValueError(f"{who}.apply: needs x of shape (..., {n}), got {tuple(x.shape)}")
        if x.device != first.device:
            raise ValueError(f"{who}.apply: needs x on {first.device}, got one on {x.device}")
        if x.dtype != first.dtype:
            dtype = torch.promote_types(x.dtype, first.dtype)
            w, x = self._cast(dtype), x.to(dtype)
        return w._apply(x.reshape(-1, n)).reshape(*x.shape[:-1], out)

    def initial(self) -> "MatrixFormat":
        """What `randn` drew, scaled to be the start of a layer: entries of variance 1 / (3 in), as
        in `nn.Linear`.

        The scale is shared evenly by the tensors, in each of which w is linear.
        """
        share = 2.0 ** (-math.log2(3 * self.shape[1]) / (2 * len(self.tensors())))
        return self.with_tensors(t * share for t in self.tensors())


class SplitMatrix(MatrixFormat):
    """A matrix whose row and column index are split into modes: `out` and `in_`, tuples of sizes.

    size: (out, in) where these are less than the products of the modes, None where not; the rest is
    padding.
    """

    @property
    def padded(self) -> tuple[int, int]:
        """(out, in) with the padding."""
        return math.prod(self.out), math.prod(self.in_)

    @property
    def shape(self):
        return self.size or self.padded


def _looked_up(index: Tensor, shape) -> Tensor:
    """The same multi-indices (batch, d), looked up in tables that fail for what is out of range."""
    zero = index.new_zeros(1)
    found = [zero.expand(n).gather(0, i) for n, i in zip(shape, index.unbind(1))]
    return index + torch.stack(found, 1)


@torch.no_grad()
def distance(x: Tensor, form: Format, mask: Tensor | None = None) -> float:
    """|x - form| / |x| of a dense tensor and the format as it is held, in float64; where x is zero,
    0. mask: True for the entries that count.

    >>> from tensorlab import LowRank
    >>> distance(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), LowRank(3 * torch.eye(2, 1), torch.eye(2, 1)))
    0.8
    """
    exponent = size_exponent(x)
    x, dense = (ldexp(widen(t), -exponent) for t in (x, form.to(wide(x.dtype)).to_dense()))
    x, dense = (t if mask is None else t * mask for t in (x, dense))
    size = float(torch.linalg.vector_norm(x))
    return float(torch.linalg.vector_norm(x - dense)) / size if size else 0.0


def ratio(a: int, b: int) -> float:
    """a / b for counts of any size, inf where that is beyond a float.

    >>> ratio(7, 2), ratio(10**5000, 3), ratio(3, 10**5000)
    (3.5, inf, 0.0)
    """
    try:
        return a / b
    except OverflowError:
        return math.inf


def digits(n: int) -> str:
    """A count as text: all its digits as long as there are 20 at most, then the leading three.

    >>> digits(65536), digits(2**1050)
    ('65536', '1.21e316')
    """
    if n < 10**20:
        return str(n)
    whole, rest = divmod(math.log10(n), 1)
    return f"{10**rest:.3g}e{int(whole)}"
