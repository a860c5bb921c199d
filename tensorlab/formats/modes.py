"""Sizes that a matrix's two indices are split into, and the padding where they do not factor."""

import math

import torch
from torch import Tensor

from ..arguments import check_matrix_shape, check_shape, count
from ..linalg import cut_norm
from ..multilinear import balanced_shape


def near_shape(n: int, d: int) -> tuple[int, ...]:
    """d sizes that are nearly equal, largest first: factors of n where it has such, otherwise their
    product is a little more.

    >>> near_shape(768, 2), near_shape(97, 2), near_shape(10, 2)
    ((32, 24), (10, 10), (4, 3))
    """
    exact = balanced_shape(n, d)
    if exact[0] <= 2 * exact[-1]:
        return exact
    sizes = []
    for k in range(d, 0, -1):
        m = round(n ** (1 / k))
        m += m**k < n
        sizes.append(m)
        n = -(-n // m)
    return tuple(sizes)


def split_shape(who: str, shape, d, out=None, in_=None, least: int = 1):
    """The sizes of the d modes of rows and of columns, and the shape to remember where they give a
    larger matrix.

    >>> split_shape("randn", (6, 97), 2)
    ((3, 2), (10, 10), (6, 97))
    """
    shape = check_matrix_shape(who, shape)
    d = count(who, "the number of factors", d, least)
    if (out is None) != (in_ is None):
        raise ValueError(f"{who}: needs both out and in_ or neither, got out={out} and in_={in_}")
    if out is None:
        out, in_ = (near_shape(n, d) for n in shape)
    out, in_ = check_shape(who, out), check_shape(who, in_)
    if len(out) != len(in_) or len(out) < least:
        raise ValueError(
            f"{who}: needs as many sizes in out as in in_, and {least} or more, got {out} and {in_}"
        )
    return out, in_, check_size(who, shape, (math.prod(out), math.prod(in_)))


def check_size(who: str, size, padded) -> tuple[int, int] | None:
    """The size as it is stored: None where nothing is padded. Raises ValueError for one that does
    not fit."""
    size = check_shape(who, size)
    if len(size) != 2 or size[0] > padded[0] or size[1] > padded[1]:
        raise ValueError(
            f"{who}: needs sizes whose products hold a matrix of shape {size}, got {padded}"
        )
    return None if size == padded else size


def check_matrix(who: str, w: Tensor, rank) -> None:
    """Refuse what is not a dense matrix that can be cut to a rank, as `check_cut`."""
    matrix_norm(who, w, rank)


def matrix_norm(who: str, w: Tensor, rank) -> float:
    """The norm of a dense matrix that is cut to a rank, as `cut_norm`."""
    norm = cut_norm(w, who, rank)
    if w.ndim != 2:
        raise ValueError(f"{who}: needs a matrix, got shape {tuple(w.shape)}")
    return norm


def pad(w: Tensor, padded) -> Tensor:
    """Zeros after the rows and columns of a matrix.

    >>> pad(torch.ones(1, 2), (2, 3)).tolist()
    [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    return torch.nn.functional.pad(w, (0, padded[1] - w.shape[1], 0, padded[0] - w.shape[0]))


def pad_input(x: Tensor, padded: int) -> Tensor:
    """Zeros after the last mode: (..., n) -> (..., padded)."""
    n = x.shape[-1]
    return x if n == padded else torch.nn.functional.pad(x, (0, padded - n))
