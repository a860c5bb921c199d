"""Dense tensors: unfoldings, mode products, Khatri-Rao products, and shapes that factor an integer
[KoldaBader2009]."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from .arguments import is_integer
from .capture import readable


def unfold(x: Tensor, mode: int) -> Tensor:
    """Matrix whose rows are indexed by `mode` and whose columns by the other modes in order, the
    last one fastest.

    x: (n_0, ..., n_{d-1}) -> (n_mode, product of the others). `fold(unfold(x, k), k, x.shape)` is
    x. The columns are in row-major order, not in the column-major order of [KoldaBader2009].

    >>> unfold(torch.arange(24).reshape(2, 3, 4), 1).shape
    torch.Size([3, 8])
    """
    _check_mode("unfold", mode, x.ndim, x.shape)
    return x.movedim(mode, 0).reshape(x.shape[mode], -1)


def fold(matrix: Tensor, mode: int, shape) -> Tensor:
    """The tensor of `shape` whose unfolding along `mode` is `matrix`: the inverse of `unfold`.

    >>> x = torch.arange(24).reshape(2, 3, 4)
    >>> bool((fold(unfold(x, 2), 2, x.shape) == x).all())
    True
    """
    shape = tuple(shape)
    _check_mode("fold", mode, len(shape), shape)
    others = shape[:mode] + shape[mode + 1 :]
    if tuple(matrix.shape) != (shape[mode], math.prod(others)):
        raise ValueError(
            f"fold: needs a matrix of shape {(shape[mode], math.prod(others))} for mode {mode} of "
            f"{shape}, got {tuple(matrix.shape)}"
        )
    return matrix.reshape(shape[mode], *others).movedim(0, mode)


def mode_product(x: Tensor, matrix: Tensor, mode: int) -> Tensor:
    """Multiply mode `mode` of a tensor by a matrix: y[.., j, ..] = sum_i matrix[j, i] x[.., i, ..].

    x: (.., n_mode, ..), matrix: (m, n_mode)  ->  (.., m, ..).

    >>> mode_product(torch.ones(2, 3, 4), torch.ones(5, 3), 1).shape
    torch.Size([2, 5, 4])
    """
    _check_mode("mode_product", mode, x.ndim, x.shape)
    if matrix.ndim != 2 or matrix.shape[1] != x.shape[mode]:
        raise ValueError(
            f"mode_product: needs a matrix with {x.shape[mode]} columns for mode {mode} of a "
            f"tensor of shape {tuple(x.shape)}, got shape {tuple(matrix.shape)}"
        )
    return torch.tensordot(x.movedim(mode, -1), matrix.mT, 1).movedim(-1, mode)


def khatri_rao(*factors: Tensor) -> Tensor:
    """Column-wise Kronecker product: column r is the Kronecker product of the columns r, the last
    factor fastest.

    factors: (n_k, r) each  ->  (product of n_k, r).

    >>> khatri_rao(torch.tensor([[1., 2.]]), torch.tensor([[3., 4.], [5., 6.]]))
    tensor([[ 3.,  8.],
            [ 5., 12.]])
    """
    if not factors or any(f.ndim != 2 or f.shape[1] != factors[0].shape[1] for f in factors):
        raise ValueError(
            f"khatri_rao: needs matrices with equal numbers of columns, got shapes "
            f"{[tuple(f.shape) for f in factors]}"
        )
    out = factors[0]
    for f in factors[1:]:
        out = (out[:, None, :] * f).reshape(-1, f.shape[1])
    return out


def balanced_shape(n: int, d: int) -> tuple[int, ...]:
    """Factor n into d integers that are as equal as its prime factors allow, largest first.

    Raises ValueError unless n and d are integers from 1 up.

    >>> balanced_shape(4096, 4), balanced_shape(640, 3)
    ((8, 8, 8, 8), (10, 8, 8))
    """
    if not is_integer(n) or not is_integer(d) or n < 1 or d < 1:
        raise ValueError(f"balanced_shape: needs integers n >= 1 and d >= 1, got n={n}, d={d}")
    n, d = int(n), int(d)
    shape = [1] * d
    for p in sorted(prime_factors(n), reverse=True):
        shape[shape.index(min(shape))] *= p
    return tuple(sorted(shape, reverse=True))


def prime_factors(n: int) -> tuple[int, ...]:
    """The prime factors of n >= 1, smallest first; of 1, none.

    >>> prime_factors(360)
    (2, 2, 2, 3, 3, 5)
    """
    return _prime_factors(int(n))


@lru_cache
def _prime_factors(n: int) -> tuple[int, ...]:
    primes, p = [], 2
    while n > 1:
        while n % p == 0:
            primes.append(p)
            n //= p
        p = p + 1 if p * p <= n else max(n, 2)
    return tuple(primes)


def digit_shape(shape) -> tuple[int, ...]:
    """The modes of a *quantized* tensor: each mode of `shape` in its prime factors, one digit each
    [Khoromskij2011].

    Raises ValueError unless the sizes are integers from 1 up; they may be beyond 2^63, where only
    digits can be indices.

    >>> digit_shape((8, 6, 1))
    (2, 2, 2, 2, 3, 1)
    """
    shape = tuple(shape)
    if not all(is_integer(n) and n >= 1 for n in shape):
        raise ValueError(f"digit_shape: needs a shape of integers >= 1, got {shape}")
    return tuple(p for n in shape for p in prime_factors(n) or (1,))


def to_digits(index: Tensor, shape) -> Tensor:
    """Multi-indices of `shape` as those of `digit_shape(shape)`, the leading digit of each mode
    first.

    index: (batch, d), integers, negative ones from the end  ->  (batch, number of digits), int64.
    Raises TypeError or ValueError for an index that does not fit the shape, and ValueError for a
    mode beyond 2^63.

    >>> to_digits(torch.tensor([[5, 3]]), (8, 6))
    tensor([[1, 0, 1, 1, 0]])
    """
    shape = check_int64("to_digits", shape)
    columns = []
    for i, n in zip(check_index("to_digits", index, shape).unbind(1), shape):
        for p in prime_factors(n) or (1,):
            n //= p
            columns.append(i // n % p)
    return torch.stack(columns, 1)


def from_digits(digits: Tensor, shape) -> Tensor:
    """The inverse of `to_digits`, with its errors.  digits: (batch, number of digits)  ->  (batch,
    d), int64.

    >>> from_digits(torch.tensor([[1, 0, 1, 1, 0]]), (8, 6))
    tensor([[5, 3]])
    """
    shape = check_int64("from_digits", shape)
    digits = check_index("from_digits", digits, digit_shape(shape))
    columns, out = iter(digits.unbind(1)), []
    for n in shape:
        i = torch.zeros_like(digits[:, 0])
        for p in prime_factors(n) or (1,):
            i = i * p + next(columns)
        out.append(i)
    return torch.stack(out, 1)


def check_int64(who: str, shape) -> tuple[int, ...]:
    """The shape as Python integers; raises ValueError for a mode whose indices are not int64.

    >>> check_int64("from_digits", (3, 2**63))
    (3, 9223372036854775808)
    """
    for n in shape:
        if not is_integer(n) or not 1 <= n <= 2**63:
            raise ValueError(f"{who}: needs modes of 1 to 2^63, whose indices are int64, got {n}")
    return tuple(map(int, shape))


def check_index(who: str, index, shape, device=None) -> Tensor:
    """Multi-indices (batch, d) as int64 in 0..n-1, on `device` or where they are; negative ones
    count from the end.

    Raises TypeError for an index that is not of integers, ValueError for one of another shape or,
    where its numbers can be read, out of range, with its place.

    >>> check_index("at", [[0, -1]], (3, 4))
    tensor([[0, 3]])
    """
    if not isinstance(index, Tensor) or device is not None:
        index = torch.as_tensor(index, device=device)
    if index.is_meta:
        raise ValueError(f"{who}: needs tensors with numbers, got some on the meta device")
    if index.shape in ((0,), (0, len(shape))):  # an empty list has no dtype to go by
        return index.new_empty(0, len(shape), dtype=torch.long)
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise TypeError(f"{who}: needs integer indices, got {index.dtype}")
    if index.ndim != 2 or index.shape[1] != len(shape):
        raise ValueError(
            f"{who}: needs indices of shape (batch, {len(shape)}), got {tuple(index.shape)}"
        )
    bound = lambda ends: torch.tensor(ends, dtype=torch.long, device=index.device)
    last, place = bound([min(n, 2**63) - 1 for n in shape]), index.long()
    # An unsigned one beyond 2^63 turns negative, and the end of a mode beyond it is no int64.
    least = bound([-n if index.dtype.is_signed and n <= 2**63 else 0 for n in shape])
    wrong = (place < least) | (place > last)
    if readable(index) and wrong.any():
        row, mode = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"{who}: mode {mode} has indices in 0..{shape[mode] - 1}, got "
            f"{index[row].tolist()[mode]} in row {row}"
        )
    return torch.where(place < 0, place + last + 1, place)


def index_keys(index: Tensor, shape) -> list[bytes]:
    """A name for each multi-index of `shape`, the same where they are equal: for sets and
    dictionaries.

    index: (batch, d), on any device  ->  batch of bytes, in the smallest integers that hold them.

    >>> a, b, c = index_keys(torch.tensor([[1, 300], [2, 0], [1, 300]]), (4, 1000))
    >>> a == c, a == b, len(a)
    (True, False, 4)
    """
    kinds = (torch.uint8, torch.int16, torch.int32, torch.int64)
    kind = next(k for k in kinds if max(shape) - 1 <= torch.iinfo(k).max)
    rows = index.to("cpu", kind).contiguous().numpy()
    return rows.view(f"V{rows.itemsize * rows.shape[1]}").ravel().tolist()


def _check_mode(who, mode, d, shape):
    if not is_integer(mode) or not 0 <= mode < d:
        raise ValueError(
            f"{who}: mode must be in 0..{d - 1} for a {d}-way tensor of shape {tuple(shape)}, got "
            f"{mode}"
        )
