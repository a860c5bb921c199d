"""Checks of arguments: a wrong one is refused in one sentence, `who: what is needed, what came`."""

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import overload

import numpy as np
import torch
from torch import Tensor


def is_integer(value) -> bool:
    """Whether this is an integer, Python's or NumPy's, and no bool.

    >>> is_integer(3), is_integer(3.0), is_integer(True)
    (True, False, False)
    """
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value) -> bool:
    """Whether this is a real number, Python's or NumPy's, and no bool.

    >>> is_number(3), is_number(np.float32(0.5)), is_number(True), is_number("3")
    (True, True, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool)


def count(who: str, name: str, value, least: int = 1, most: int | None = None) -> int:
    """The value as a Python integer; raises ValueError unless it is an integer from `least` up, to
    `most` where there is one.

    who: the function that the user called, for the error.
    name: the argument, for the error.
    value: what was given for it.
    least, most: the range, both ends included; None: no upper end.

    >>> count("cp_als", "max_iter", 20)
    20
    >>> count("quantize", "bits", 9, 2, 8)
    Traceback (most recent call last):
    ValueError: quantize: bits must be an integer in 2..8, got 9
    """
    if not is_integer(value) or value < least or (most is not None and value > most):
        need = f">= {least}" if most is None else f"in {least}..{most}"
        raise ValueError(f"{who}: {name} must be an integer {need}, got {value!r}")
    return int(value)


def number(who: str, name: str, value, least: float = 0.0, most: float = math.inf) -> float:
    """The value as a Python float; raises ValueError unless it is a finite number in least..most.

    who, name, value: as in `count`.
    least, most: the range, both ends included; infinite numbers are refused.

    >>> number("cp_stable", "ridge", 1)
    1.0
    >>> number("fit", "share", 2, 0, 1)
    Traceback (most recent call last):
    ValueError: fit: share must be a number in 0..1, got 2
    """
    if not is_number(value) or not least <= value <= most or math.isinf(value):
        need = f">= {least:g}" if most == math.inf else f"in {least:g}..{most:g}"
        raise ValueError(f"{who}: {name} must be a number {need}, got {value!r}")
    return float(value)


def positive(who: str, name: str, value) -> float:
    """The value as a Python float; raises ValueError unless it is a finite number above 0.

    >>> positive("protes", "lr", 0)
    Traceback (most recent call last):
    ValueError: protes: lr must be a number > 0, got 0
    """
    if not is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{who}: {name} must be a number > 0, got {value!r}")
    return float(value)


def fraction(who: str, name: str, value, *, zero: bool = False) -> float:
    """The value as a Python float; raises ValueError unless it is a number in 0 < value < 1, or
    with `zero` in 0 <= value < 1.

    >>> fraction("lottery", "prune_rate", 1.0)
    Traceback (most recent call last):
    ValueError: lottery: prune_rate must be a number in 0 < prune_rate < 1, got 1.0
    """
    if not is_number(value) or not 0 <= value < 1 or (value == 0 and not zero):
        need = f"0 {'<=' if zero else '<'} {name} < 1"
        raise ValueError(f"{who}: {name} must be a number in {need}, got {value!r}")
    return float(value)


def one_of(who: str, name: str, value, choices) -> str:
    """The value; raises ValueError unless it is one of the choices, which are strings.

    >>> one_of("fit", "init", "warm", ("linear", "screened"))
    Traceback (most recent call last):
    ValueError: fit: init must be "linear" or "screened", got 'warm'
    """
    choices = tuple(choices)
    if not isinstance(value, str) or value not in choices:
        *most, last = (f'"{choice}"' for choice in choices)
        need = f"{', '.join(most)} or {last}" if most else last
        raise ValueError(f"{who}: {name} must be {need}, got {value!r}")
    return value


def check_shape(who: str, shape) -> tuple[int, ...]:
    """The shape as a tuple of Python integers; raises ValueError unless all are integers >= 1.

    >>> check_shape("randn", (4, np.int64(5)))
    (4, 5)
    """
    sizes = tuple(shape) if isinstance(shape, Iterable) else ()
    if not sizes or not all(is_integer(n) and n >= 1 for n in sizes):
        raise ValueError(f"{who}: needs a shape of integers >= 1, got {shape}")
    return tuple(map(int, sizes))


def check_matrix_shape(who: str, shape) -> tuple[int, int]:
    """The shape (rows, columns) as Python integers; raises ValueError unless there are two >= 1.

    >>> check_matrix_shape("randn", [np.int64(4), 5])
    (4, 5)
    """
    sizes = check_shape(who, shape)
    if len(sizes) != 2:
        raise ValueError(f"{who}: needs a shape of two sizes (rows, columns), got {sizes}")
    return sizes


def check_same(who: str, tensors) -> None:
    """Raises ValueError for tensors of several dtypes or devices, TypeError for integers.

    >>> check_same("TT", (torch.ones(2), torch.ones(2).double()))
    Traceback (most recent call last):
    ValueError: TT: needs tensors of one dtype and device, got ...
    """
    kinds = {(t.dtype, t.device) for t in tensors}
    if len(kinds) > 1:
        raise ValueError(
            f"{who}: needs tensors of one dtype and device, got {sorted(map(str, kinds))}"
        )
    ((dtype, _),) = kinds
    if not (dtype.is_floating_point or dtype.is_complex):
        raise TypeError(f"{who}: needs floating-point or complex tensors, got {dtype}")


def check_batches(who: str, batches) -> Iterable:
    """The batches; raises TypeError unless they are a list, a DataLoader or another iterable of
    batches; the rows of one tensor and the keys of a dict are not batches.

    >>> check_batches("compress", torch.ones(4, 3))
    Traceback (most recent call last):
        ...
    TypeError: compress: needs batches, such as [x], got one Tensor of shape (4, 3)
    """
    if isinstance(batches, (Tensor, np.ndarray, Mapping)) or not isinstance(batches, Iterable):
        shape = getattr(batches, "shape", None)
        kind = type(batches).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")
        raise TypeError(f"{who}: needs batches, such as [x], got one {kind}")
    return batches


@overload
def rank_caps(who: str, rank: int | Sequence[int], rtol, shape, many: int) -> tuple[int, ...]: ...
@overload
def rank_caps(who: str, rank: None, rtol, shape, many: int) -> tuple[None, ...]: ...
def rank_caps(who: str, rank, rtol, shape, many: int) -> tuple[int | None, ...]:
    """The caps of `many` free ranks from the argument `rank`: None where there is no cap.

    Raises ValueError if `rank` and `rtol` are both None or one is out of range, TypeError if `rank`
    is not of integers.

    who: the function that the user called, for the error.
    rank: one cap for all ranks, a cap for each, or None.
    rtol: the relative error that the user gave, or None; only checked.
    shape: of the tensor, for the error.
    many: the number of free ranks.

    >>> rank_caps("tt_svd", 3, None, (4, 5, 6), 2)
    (3, 3)
    """
    if rank is None and rtol is None:
        raise ValueError(f"{who}: needs a rank, an rtol or both, got neither")
    if rtol is not None:
        number(who, "rtol", rtol)
    if rank is None:
        return (None,) * many
    several = isinstance(rank, (tuple, list))
    for r in rank if several else (rank,):
        if not is_integer(r):
            kind = "integers" if several else "an integer or a tuple of integers"
            raise TypeError(f"{who}: rank must be {kind}, got {rank!r}")
        if r < 1:
            raise ValueError(f"{who}: rank must be at least 1, got {rank!r}")
    if several and len(rank) != many:
        entries = "1 entry" if many == 1 else f"{many} entries"
        raise ValueError(
            f"{who}: rank needs {entries} for a {len(shape)}-way tensor of shape {tuple(shape)}, "
            f"got {tuple(rank)}"
        )
    return tuple(int(r) for r in rank) if several else (int(rank),) * many


def scalar(value) -> float | complex | Tensor:
    """A number as Python has it, a tensor unchanged: torch reads NumPy's complex numbers as real.

    >>> scalar(np.complex64(2j)), scalar(np.float32(2))
    (2j, 2.0)
    """
    if isinstance(value, Tensor):
        return value
    return float(value) if isinstance(value, Real) else complex(value)


def is_real(number: float | complex | Tensor) -> bool:
    """Whether a `scalar` is real, by its type.

    >>> is_real(2.0), is_real(2j), is_real(torch.tensor(2j))
    (True, False, False)
    """
    return not number.is_complex() if isinstance(number, Tensor) else isinstance(number, float)


def values_of(who: str, f, index: Tensor):
    """What a user's function gives at an index. Raises RuntimeError from what it raises, which
    is not changed."""
    try:
        return f(index)
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        raise RuntimeError(f"{who}: needs the values of f, got {got}") from error


def returned(who: str, value, device=None) -> Tensor:
    """What a user's function returned as a tensor, on `device` unless it is one already; raises
    TypeError for anything that is not an array of numbers.

    >>> returned("protes", [1.0, 2.5])
    tensor([1.0000, 2.5000])
    """
    if isinstance(value, Tensor):
        return value
    try:
        if isinstance(value, np.ndarray):  # any byte order, any strides
            value = np.ascontiguousarray(value, value.dtype.newbyteorder("="))
        return torch.as_tensor(value, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = type(value).__name__
        raise TypeError(f"{who}: f must return a tensor of numbers, got {kind}") from error
