"""Problem set 2: a train from its right end, bounds, sums that are shortened, 1 / (i + j + k)."""

import functools
import math

import torch
from torch import Tensor

from ...formats.tt import TT, tt_round, tt_svd
from ...linalg import choose_rank
from ..checks import Check, Unusable, gaussian, returned

FORBIDDEN = (
    (
        TT.__init__,
        "write it with torch alone; trains of tl, and given_shorten, are not allowed here.",
    ),
)


def given_shorten(cores, rtol) -> list[Tensor]:
    """The cores of a train with the smallest ranks within rtol."""
    return list(tt_round(TT(tuple(cores)), rtol=rtol).cores)


@functools.cache
def ranks_of_inverse(n: int, d: int, rtol: float) -> tuple[int, ...]:
    """Ranks of 1 / (1 + i_0 + ... + i_(d-1)) within rtol.

    By symmetry the singular values of a cut are those of a matrix over the two partial sums.
    """
    sums = _ways(n, d)
    norm = (sums / torch.arange(1, len(sums) + 1) ** 2).sum().sqrt()
    return tuple(_rank(n, k, d - k, float(rtol * norm / math.sqrt(d - 1))) for k in range(1, d))


def _ways(n, k):
    """How often each sum of k indices below n occurs."""
    return functools.reduce(_convolved, [torch.ones(n, dtype=torch.float64)] * k)


def _convolved(a, b):
    return torch.nn.functional.conv1d(a[None, None], b.flip(0)[None, None], padding=len(b) - 1)[
        0, 0
    ]


def _rank(n, left, right, delta):
    """The rank of one cut; an index sum that occurs c times weighs root c."""
    ways = [_ways(n, k) for k in (left, right)]
    i, j = (torch.arange(len(w), dtype=torch.float64) for w in ways)
    matrix = ways[0].sqrt()[:, None] * ways[1].sqrt() / (1 + i[:, None] + j)
    return choose_rank(torch.linalg.svdvals(matrix), atol=delta)


def _dense(cores):
    return TT(tuple(cores)).to_dense()


def _cores(result, shape):
    """Cores that fit to each other and to the shape."""
    if not isinstance(result, (list, tuple)) or not all(isinstance(c, Tensor) for c in result):
        raise Unusable(f"a list of cores is needed, this is a {type(result).__name__}.")
    shapes = [tuple(c.shape) for c in result]
    ranks = [1, *(s[-1] for s in shapes)]
    if shapes != list(zip(ranks, shape, ranks[1:])) or ranks[-1] != 1:
        raise Unusable(f"cores (r, n, q) that fit are needed, these have the shapes {shapes}.")
    return list(result)


def _train(function, x, rtol):
    result = returned(function, x, rtol)
    if result is None:
        return None
    cores = _cores(result, x.shape)
    off = float((_dense(cores) - x).norm() / x.norm())
    if off > rtol:
        raise Unusable(f"the relative error is {off:.3f}, more than {rtol}.")
    for k, core in enumerate(cores[1:], 1):
        rows = core.flatten(1)
        if (rows @ rows.T - torch.eye(len(rows), dtype=rows.dtype)).norm() > 1e-8:
            raise Unusable(f"core {k} is not right-orthonormal.")
    return torch.tensor([core.shape[2] for core in cores[:-1]], dtype=torch.float64)


def _sum(function, a, b):
    result = returned(function, a, b)
    return None if result is None else _dense(_cores(result, [c.shape[1] for c in a]))


def _short(function, cores, rtol):
    result = returned(function, cores, rtol)
    if result is None:
        return None
    short = _cores(result, [c.shape[1] for c in cores])
    off = float((_dense(short) - _dense(cores)).norm() / _dense(cores).norm())
    if off > rtol:
        raise Unusable(f"the relative error is {off:.3g}, more than {rtol}.")
    return torch.tensor([c.shape[2] for c in short[:-1]], dtype=torch.float64)


def _planted():
    """A tensor with the ranks 2 and 2."""
    return _dense(gaussian((1, 4, 2), (2, 3, 2), (2, 4, 1)))


train = Check(
    function=True,
    cases=lambda: [(_planted(), 1e-6)],
    read=_train,
    right=lambda x, rtol: tt_svd(x, rtol=rtol).ranks,
    hint="the error is small enough, but the ranks are not the smallest; this tensor has (2, 2).",
    moral="This case is right; try a coarse tolerance, and a tensor of zeros.",
)

bounds = Check(
    function=True,
    cases=lambda: [(torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0])).double()[:, None], (2, 2))],
    right=lambda x, ranks: (5**0.5, 10**0.5),
    mistakes=(
        (
            lambda x, ranks: (10**0.5, 5**0.5),
            "the smaller number comes first.",
        ),
        (
            lambda x, ranks: (2.0, 8**0.5),
            "the error of a cut is the norm of all singular values that are dropped, not the "
            "first.",
        ),
    ),
    hint="both unfoldings of this tensor have the singular values 4, 3, 2, 1, and rank 2 is kept.",
    moral="This case is right; here both cuts lose the same, in general they do not.",
)

add = Check(
    function=True,
    cases=lambda: [
        (
            list(gaussian((1, 2, 2), (2, 3, 2), (2, 2, 1))),
            list(gaussian((1, 2, 1), (1, 3, 3), (3, 2, 1))),
        )
    ],
    read=_sum,
    right=lambda a, b: _dense(a) + _dense(b),
    hint="the cores fit, but their train is not the sum.",
    moral="This case is right; try two cores only.",
)

shorten = Check(
    function=True,
    cases=lambda: [([*gaussian((1, 4, 6), (6, 3, 5), (5, 3, 1))], 1e-6)],
    read=_short,
    right=lambda cores, rtol: tt_round(TT(tuple(cores)), rtol=rtol).ranks,
    hint="near enough, but the ranks are not the smallest; no rank of a (4, 3, 3) tensor is above "
    "4 on the left and 3 on the right.",
    moral="This case is right; try a coarse tolerance, and whether the given cores stay.",
)
