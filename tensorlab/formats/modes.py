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
    n, d = int(n), int(d)
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


def split_shape(
    who: str, shape, d, out=None, in_=None, least: int = 1
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, int] | None]:
    """The sizes of the d modes of rows and of columns, and the shape to remember where they give a
    larger matrix, else None.

    who: the function that the user called, for the error.
    shape: (rows, columns).
    d: the number of modes, used where sizes are not given.
    out, in_: the sizes of the modes of rows and of columns, as many each; None: near equal ones,
        whose products may exceed the shape.
    least: the smallest number of modes that is allowed.

    Raises ValueError for sizes that do not fit.

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
    return out, in_, check_unpadded(who, shape, (math.prod(out), math.prod(in_)))


def check_unpadded(who: str, shape, padded_shape: tuple[int, int]) -> tuple[int, int] | None:
    """The shape (out, in) as it is stored: None where nothing is padded.

    Raises ValueError for one that the padded shape does not hold.
    """
    shape = check_shape(who, shape)
    if len(shape) != 2 or shape[0] > padded_shape[0] or shape[1] > padded_shape[1]:
        raise ValueError(
            f"{who}: needs sizes whose products hold a matrix of shape {shape}, got {padded_shape}"
        )
    return None if shape == padded_shape else (shape[0], shape[1])


def check_matrix(who: str, w: Tensor, rank) -> None:
    """Refuse what is not a dense matrix that can be cut to a rank, with the errors of
    `matrix_norm`."""
    matrix_norm(who, w, rank)


def matrix_norm(who: str, w: Tensor, rank) -> float:
    """The norm of a dense matrix that is cut to a rank, as `cut_norm`.

    Raises ValueError for a tensor that is not a matrix, and as `cut_norm` does.
    """
    norm = cut_norm(w, who, rank)
    if w.ndim != 2:
        raise ValueError(f"{who}: needs a matrix, got shape {tuple(w.shape)}")
    return norm


def pad(w: Tensor, padded_shape) -> Tensor:
    """Zeros after the rows and columns of a matrix.

    >>> pad(torch.ones(1, 2), (2, 3)).tolist()
    [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    rows, columns = padded_shape
    return torch.nn.functional.pad(w, (0, columns - w.shape[1], 0, rows - w.shape[0]))


def pad_input(x: Tensor, width: int) -> Tensor:
    """Zeros after the last mode: (..., n) -> (..., width)."""
    n = x.shape[-1]
    return x if n == width else torch.nn.functional.pad(x, (0, width - n))
