"""Which products of columns correlate with a residual, out of all products of about six at most
[FanLv2008].

Sure independence screening: the correlation of each candidate alone, and the largest ones are kept.
All products of q columns are met in the middle,

    product(S) = product(first half of S) product(second half of S),

S sorted, so that each set is met once; the sets whose first half ends at column c are the entries
of one matrix product. A set costs an inner product over the rows, as a column does, and no table is
longer than C(d, q / 2).
"""

import itertools
import math
from bisect import bisect_right

import torch
from torch import Tensor

from .. import arguments
from ..linalg import dense_norm
from .estimator import read_numbers, read_table, standardize

SETS = 1 << 24  # sets that are screened at most: half a gigabyte of sums
CHUNK = 1 << 21  # numbers of a table of products, by which rows are taken at a time


def screen_interactions(
    x: Tensor, residual: Tensor, order: int, count: int
) -> list[tuple[tuple[int, ...], float]]:
    """The `count` sets of 2 to `order` columns whose products correlate most with a residual, and
    their correlations [FanLv2008].

        correlation(S) = <residual, p_S> / (|residual| |p_S|)
        p_S = prod_{k in S} z_k,     z = (x - mean) / deviation

    x: (n, d), residual: (n,) of mean zero -> at most `count` pairs, the strongest first. Columns
    that are constant are in no product. 4 n operations for each set. Raises ValueError for more
    than 2^24 sets, NaN, or a residual of another length.

    >>> x = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4)
    >>> screen_interactions(x, x[:, 0] * x[:, 1] * x[:, 3], 3, 1)
    [((0, 1, 3), 1.0)]
    """
    who = "screen_interactions"
    x = read_table(who, x)
    (n, d), order = x.shape, arguments.count(who, "order", order, 2)
    count = arguments.count(who, "count", count)
    total = sum(math.comb(d, size) for size in range(2, min(order, d) + 1))
    if total > SETS:
        raise ValueError(
            f"{who}: needs at most {SETS} sets to screen, got {total} for order {order} and {d} "
            f"columns"
        )
    residual = read_numbers(who, residual).to(x.device)
    if residual.shape != (n,):
        raise ValueError(
            f"{who}: needs a residual for each of the {n} rows, got shape {tuple(residual.shape)}"
        )
    norm = dense_norm(residual, who)
    residual = (residual.double() / (norm or 1.0)).to(x)  # of any size

    sets = _Sets(d, order)
    found = _correlations(sets, standardize(x)[0], residual)
    best = found.abs().topk(min(count, total)).indices.tolist()
    return [(sets.name(i), float(found[i])) for i in best if found[i] != 0]


class _Sets:
    """All sets of 2 to `order` of d columns, numbered block by block.

    A block (a, b, c) has the sets of a + b columns, a - 1 of them before c, c itself, and b after
    it; its sizes are in how many ways the columns before c are chosen, and those after it.
    """

    def __init__(self, d: int, order: int):
        self.d, self.order, self.blocks = d, order, list(_blocks(d, order))
        self.sizes = [(math.comb(c, a - 1), math.comb(d - 1 - c, b)) for a, b, c in self.blocks]
        self.starts = [0, *itertools.accumulate(m * q for m, q in self.sizes)]

    def name(self, i: int) -> tuple[int, ...]:
        """The columns of set i."""
        k = bisect_right(self.starts, i) - 1
        (a, b, c), (_, q) = self.blocks[k], self.sizes[k]
        row, column = divmod(i - self.starts[k], q)
        before = _nth(itertools.combinations(range(c - 1, -1, -1), a - 1), row)
        after = _nth(itertools.combinations(range(c + 1, self.d), b), column)
        return *before[::-1], c, *after

    def add_sums(self, sums: Tensor, columns: Tensor, weight: Tensor) -> None:
        """sums[S] += sum over rows of weight * product(S); columns: (d, rows), weight: (rows,)."""
        after = _products(columns.contiguous(), self.order // 2)
        before = _products(columns.flip(0), (self.order - 1) // 2)  # from the last to the first
        for (a, b, c), (m, q), start in zip(self.blocks, self.sizes, self.starts):
            left = before[a - 1][-m:] * (columns[c] * weight)  # (m, rows): c is the last of each
            sums[start : start + m * q] += (left @ after[b][-q:].mT).flatten()


def _correlations(sets: _Sets, z: Tensor, residual: Tensor) -> Tensor:
    """<residual, p_S> / |p_S| for each set; 0 where p_S is zero. z: (n, d)."""
    dots, squares = torch.zeros(2, sets.starts[-1], dtype=torch.float64, device=z.device)
    rows = max(1, CHUNK // max(math.comb(sets.d, b) for b in range(sets.order // 2 + 1)))
    for part, r in zip(z.T.split(rows, 1), residual.split(rows)):
        sets.add_sums(dots, part, r)
        sets.add_sums(squares, part.square(), torch.ones_like(r))
    scale = squares.sqrt()
    return torch.where(scale > 0, dots / scale, 0.0)


def _blocks(d, order):
    """(a, b, c): sets of a + b columns, a - 1 before c, c itself, and b after it; each set of 2 to
    `order` columns is in one."""
    for size in range(2, min(order, d) + 1):
        a = (size + 1) // 2
        yield from ((a, size - a, c) for c in range(a - 1, d - size + a))


def _nth(items, n: int):
    return next(itertools.islice(items, n, None))


def _products(columns: Tensor, most: int) -> list[Tensor]:
    """Products of k of the d rows, in the order of `itertools.combinations`, for k = 0..most:
    tables (C(d, k), n).

    The sets without the first j rows are the last ones of each table.
    """
    d, tables = len(columns), [torch.ones_like(columns[:1])]
    for k in range(1, most + 1):
        last = tables[-1]
        tables.append(
            torch.cat(
                [columns[j] * last[len(last) - math.comb(d - 1 - j, k - 1) :] for j in range(d)]
            )
        )
    return tables
