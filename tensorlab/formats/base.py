"""What every format has: tensors, shape, ranks, a dense meaning, storage counts, arithmetic by
operators; pytrees."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from numbers import Number
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, get_args, get_origin

import torch
from torch import Tensor
from torch.utils import _pytree

from ..arguments import count, is_real, scalar
from ..capture import known, readable
from ..linalg import ldexp, real, size_exponent, spread, wide, widen
from ..multilinear import check_index

F = TypeVar("F", bound="Format")


def is_data(field) -> bool:
    """Whether a field holds tensors, by its type; any other is metadata, which is hashable and
    never traced."""
    return Tensor in (field.type, *get_args(field.type))


_LAYOUTS: dict[type, tuple] = {}  # a plain dictionary, which the compiler sees through


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


def _flatten_with_keys(x) -> tuple[list[tuple[Any, Any]], Any]:
    leaves, spec = _flatten(x)
    return [(_pytree.SequenceKey(k), leaf) for k, leaf in enumerate(leaves)], spec


def _rebuild(cls: type[F], leaves, spec) -> F:
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
    """A tensor held by smaller ones: the contract that every format keeps.

    A subclass is a frozen dataclass of tensors and tuples of tensors; a field of another type is
    metadata, such as a tree of modes, and is made of numbers, strings and tuples.

    It defines `shape` and `ranks`, the check `_check` of its tensors, the formulas `_dense`,
    `_norm`, `_at`, `_dot`, and the arithmetic `_add`, `_times`. This class adds what they share:
    checks, dtypes, and that no product leaves the range of floats on the way to a number within it.
    `round` and `to_tt` raise TypeError in a format that does not define them. A format is a pytree,
    so `torch.func` and `torch.compile` see through it. It may share tensors with another: `2 * x`
    copies only the one that it changes.

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

    # -- what a format defines

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes (n_0, ..., n_{d-1}) of the modes of the dense tensor."""
        self._lacks("shape")

    @property
    def ranks(self) -> tuple[int, ...]:
        """The free ranks, in the order in which `rank=` takes them."""
        self._lacks("ranks")

    @classmethod
    def randn(cls, shape, rank=None, *, generator=None, **options: Any) -> Self:
        """A random tensor of this shape, whose entries have variance 1.

        rank: one integer, or one for each of `ranks`. options: those of the format, dtype and
        device. Raises ValueError or TypeError for a bad shape or rank.
        """
        who = cls.__name__
        raise TypeError(f"{who}.randn: needs a format that defines it, got {who}")

    def _check(self) -> None:
        """Raises ValueError for tensors that do not fit together, TypeError for integers."""
        self._lacks("_check")

    def _dense(self) -> Tensor:
        self._lacks("to_dense")

    def _norm(self) -> Tensor:
        self._lacks("norm")

    def _at(self, index: Tensor) -> Tensor:
        self._lacks("at")

    def _dot(self, other: Self) -> Tensor:
        self._lacks("dot")

    def _add(self, other: Self) -> Self:
        self._lacks("+")

    def _times(self, other: Self) -> Self:
        self._lacks("*")

    def _lacks(self, name: str) -> NoReturn:
        who = type(self).__name__
        raise TypeError(f"{who}.{name}: needs a format that defines it, got {who}")

    # -- tensors

    def tensors(self) -> tuple[Tensor, ...]:
        """The stored tensors, in the order of the fields; all of one dtype, on one device."""
        return tuple(_flatten(self)[0])

    def with_tensors(self, tensors: Iterable[Tensor]) -> Self:
        """The same format with other tensors, in the order of `tensors()`; their shapes may
        differ.

        Raises ValueError for another number of tensors or for shapes that do not fit, TypeError for
        what is not a tensor.
        """
        tensors = list(tensors)
        leaves, spec = _flatten(self)
        if len(tensors) != len(leaves):
            raise ValueError(
                f"{type(self).__name__}: needs {len(leaves)} tensors, got {len(tensors)}"
            )
        new = _rebuild(type(self), tensors, spec)
        new.__post_init__()
        return new

    def to(self, *args, **kwargs) -> Self:
        """Every tensor moved or cast, with the arguments of `torch.Tensor.to`."""
        return self.with_tensors(t.to(*args, **kwargs) for t in self.tensors())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the tensors, in which all results are given."""
        return self.tensors()[0].dtype

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.tensors()[0].device

    # -- counts

    @property
    def ndim(self) -> int:
        """The number d of modes."""
        return len(self.shape)

    @property
    def numel(self) -> int:
        """How many numbers are stored, padding included."""
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
        """The dense tensor, (n_0, ..., n_{d-1}), in the dtype and on the device of the format."""
        return (self._even() if len(self.tensors()) > 2 else self)._dense()

    def at(self, index) -> Tensor:
        """Entries at many multi-indices, x[i_0, ..., i_{d-1}]: (batch, d) -> (batch,).

        index: integers, negative ones from the end. Raises TypeError for other numbers, ValueError
        for another shape or for an index out of range.
        """
        form = self._even() if len(self.tensors()) > 2 else self
        return form._at(self._index(index))

    def norm(self) -> Tensor:
        """Frobenius norm (sum |x_i|^2)^(1/2), a real number in a tensor.

        Right to full accuracy for differences that nearly cancel too.
        """
        return self.to(wide(self.dtype))._even()._norm().to(real(self.dtype))

    def dot(self, other: Self) -> Tensor:
        """Inner product <self, other> = sum of conj(self) * other, from the small tensors.

        Raises ValueError for an operand of another kind or shape, or on another device.
        """
        a, b = self._pair(other, "dot")
        return a._even()._dot(b._even())

    # -- other forms

    def round(self, rank=None, *, rtol: float | None = None) -> Self:
        """The same tensor at lower ranks, as far as a tolerance and a cap allow.

            |x - result| <= (rtol + 64 eps) |x|      when `rank` does not cut earlier

        rank: a cap, one integer or one for each of `ranks`. Raises ValueError where both are
        missing, TypeError in a format without a truncation.
        """
        who = type(self).__name__
        raise TypeError(f"{who}.round: needs a format that SVDs can truncate, got {who}")

    def to_tt(self) -> "Format":
        """The tensor train of the same entries, with the ranks that the format gives it; nothing is
        cut.

        Raises TypeError in a format whose tensors do not form a chain.
        """
        who = type(self).__name__
        raise TypeError(f"{who}.to_tt: needs a format whose tensors form a chain, got {who}")

    # -- arithmetic

    def scale(self, number) -> Self:
        """The multiple number * x, in the same format and at the same ranks; also as `*` and `/`.

        number: real or complex, of Python, NumPy or a 0-way tensor; complex times real is complex.
        One tensor carries it, or all share it where that one would leave the range of floats.
        """
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

    def __add__(self, other: Self | complex) -> Self:
        """The sum x + y, whose ranks add up; nothing is cut, `round` does that.

        Raises ValueError for an operand of another kind or shape, or on another device.
        """
        if isinstance(other, Number) and other == 0:  # `sum` starts from 0
            return self
        a, b = self._pair(other, "+")
        return a._add(b)

    __radd__ = __add__

    def __sub__(self, other: Self) -> Self:
        """The difference x - y, with the ranks and the errors of `+`."""
        a, b = self._pair(other, "-")
        return a._add(b.scale(-1))

    def __neg__(self) -> Self:
        """The multiple by -1."""
        return self.scale(-1)

    def __mul__(self, other) -> Self:
        """The elementwise product with a format of the same kind, whose ranks multiply, or the
        multiple by a number.

        Raises ValueError for a format of another kind or shape, or on another device.
        """
        if isinstance(other, Format):
            a, b = self._pair(other, "*")
            return a._even()._times(b._even())
        if isinstance(other, Number) or (isinstance(other, Tensor) and other.ndim == 0):
            return self.scale(other)
        return NotImplemented

    __rmul__ = __mul__
    __array_ufunc__ = None  # so that a NumPy number on the left leaves the product to us

    def __truediv__(self, number) -> Self:
        """The multiple by 1 / number."""
        return self.scale(1 / number)

    # -- what the formulas are given

    def _cast(self, dtype) -> Self:
        return self if dtype == self.dtype else self.to(dtype)

    def _pair(self, other, sign: str) -> tuple[Self, Self]:
        """Both operands in one dtype; ValueError for another kind, shape or device."""
        self._same(other, sign)
        if other.device != self.device:
            raise ValueError(
                f"{type(self).__name__} {sign}: needs both on one device, got {self.device} and "
                f"{other.device}"
            )
        dtype = torch.promote_types(self.dtype, other.dtype)
        return self._cast(dtype), other._cast(dtype)

    def _same(self, other, sign: str) -> None:
        """Raises ValueError unless the other has the same kind and shape."""
        if type(other) is not type(self) or other.shape != self.shape:
            what = f"{type(other).__name__} of shape {tuple(getattr(other, 'shape', ()))}"
            raise ValueError(
                f"{type(self).__name__} {sign}: needs a {type(self).__name__} of shape "
                f"{self.shape}, got {what}"
            )

    def _even(self) -> Self:
        """The same tensor, and where the sizes of its tensors are far apart they become equal.

        It is linear in each of them, and in each term alone where it is a sum of terms, so a
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
        """Whether a number may be read to save work: now, without waiting for an accelerator."""
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
    """What torch's products may be given instead of a matrix: they get `to_dense()`.

    A layer multiplies without it. But modules of other packages read a layer's weight, such as an
    attention that gives it to `torch.nn.functional`, and to them it is a matrix as before. Raises
    TypeError for everything else that torch does with matrices, and where something writes to it.
    """

    if TYPE_CHECKING:

        def to_dense(self) -> Tensor: ...

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(function, "__name__", str(function))
        if name not in _READERS or isinstance(kwargs.get("out"), ReadAsMatrix):
            raise TypeError(_only_read(cls, name))
        dense = lambda x: x.to_dense() if isinstance(x, ReadAsMatrix) else x
        inside = lambda x: type(x)(map(dense, x)) if type(x) in (list, tuple) else dense(x)
        return function(*map(inside, args), **{key: inside(x) for key, x in kwargs.items()})

    if not TYPE_CHECKING:  # to a type checker it would be a promise of every attribute

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

    It defines besides: `from_dense`, `randn`, `lr_multipliers`, `_flops(batch)` behind `flops`, and
    `_apply(x)`, the product with the rows of a matrix, (batch, in) -> (batch, out), the plain
    autograd reference.
    """

    @classmethod
    def from_dense(cls, w: Tensor, rank=None, **options: Any) -> Self:
        """The matrix of this format near a dense w (out, in), at ranks of at most `rank`.

        options: those of the format, such as `rtol`. Raises ValueError or TypeError for a bad rank
        or matrix.
        """
        who = cls.__name__
        raise TypeError(f"{who}.from_dense: needs a format that defines it, got {who}")

    def flops(self, batch: int) -> int:
        """Multiplications and additions of `apply` to `batch` rows, two for each multiply-add.

        Raises ValueError unless batch is an integer from 0.
        """
        return self._flops(count(f"{type(self).__name__}.flops", "batch", batch, 0))

    def _flops(self, batch: int) -> int:
        self._lacks("flops")

    def lr_multipliers(self) -> tuple[float, ...]:
        """One number for each of `tensors()`: how much larger than a dense weight's the learning
        rate of Adam may be [Qiu2024]."""
        self._lacks("lr_multipliers")

    def _apply(self, x: Tensor) -> Tensor:
        self._lacks("apply")

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
        if x.ndim == 2:
            return w._apply(x)
        return w._apply(x.reshape(-1, n)).reshape(*x.shape[:-1], out)

    def initial(self) -> Self:
        """What `randn` drew, scaled to be the start of a layer: entries of variance 1 / (3 in), as
        in `nn.Linear`.

        The scale is shared evenly by the tensors, in each of which w is linear.
        """
        share = 2.0 ** (-math.log2(3 * self.shape[1]) / (2 * len(self.tensors())))
        return self.with_tensors(t * share for t in self.tensors())


class SplitMatrix(MatrixFormat):
    """A matrix whose row and column index are split into modes: `out` and `in_`, tuples of sizes.

    unpadded_shape: (out, in) where these are less than the products of the modes, None where not;
    the rest is padding.
    """

    unpadded_shape: tuple[int, int] | None

    @property
    def out(self) -> tuple[int, ...]:
        """The sizes that the row index is split into."""
        self._lacks("out")

    @property
    def in_(self) -> tuple[int, ...]:
        """The sizes that the column index is split into."""
        self._lacks("in_")

    @property
    def padded_shape(self) -> tuple[int, int]:
        """(out, in) with the padding: the products of the modes."""
        return math.prod(self.out), math.prod(self.in_)

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) without the padding."""
        return self.unpadded_shape or self.padded_shape


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
    >>> x = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    >>> distance(x, LowRank(3 * torch.eye(2, 1), torch.eye(2, 1)))
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
        return int(a) / int(b)
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
