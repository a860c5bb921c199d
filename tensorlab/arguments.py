"""Checks of arguments: a wrong one is refused in one sentence, `who: what is needed, what came`."""

import math
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor


def is_integer(value) -> bool:
    """Whether this is an integer, Python's or NumPy's; a bool is none.

    >>> is_integer(3), is_integer(3.0), is_integer(True)
    (True, False, False)
    """
    return isinstance(value, Integral) and not isinstance(value, bool)


def count(who: str, name: str, value, least: int = 1) -> int:
    """The value as a Python integer; raises ValueError unless it is an integer from `least` up.

    >>> count("cp_als", "max_iter", 20)
    20
    """
    if not is_integer(value) or value < least:
        raise ValueError(f"{who}: {name} must be an integer >= {least}, got {value!r}")
    return int(value)


def number(who: str, name: str, value, least: float = 0.0) -> float:
    """The value as a Python float; raises ValueError unless it is a finite number from `least` up.

    >>> number("cp_stable", "ridge", 1)
    1.0
    """
    real = isinstance(value, Real) and not isinstance(value, bool)
    if not real or not least <= value < math.inf:
        raise ValueError(f"{who}: {name} must be a number >= {least:g}, got {value!r}")
    return float(value)


def scalar(value) -> float | complex | Tensor:
    """A number as Python has it, a tensor as it is: torch takes NumPy's complex numbers for real.

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
    """What a user's function gives at an index. Raises RuntimeError from what it raises, which stays
    as it is."""
    try:
        return f(index)
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        raise RuntimeError(f"{who}: needs the values of f, got {got}") from error


def returned(who: str, value, device=None) -> Tensor:
    """What a user's function returned as a tensor, on `device` unless it is one already; raises
    TypeError for what is no array of numbers.

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
