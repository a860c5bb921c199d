"""Problem set 1: cutting a product, alternating least squares, the degenerate pair."""

import numpy as np
import torch
from torch import Tensor

from ... import multilinear
from ...formats.lowrank import LowRank
from ...linalg import choose_rank, truncated_svd
from ..checks import Check, Unusable, gaussian, returned

FORBIDDEN = tuple(
    (function, "solve the normal equations; lstsq, pinv, inv and functions of tl are not allowed.")
    for function in (
        torch.linalg.lstsq,
        torch.linalg.pinv,
        torch.linalg.inv,
        torch.inverse,
        torch.pinverse,
        np.linalg.lstsq,
        np.linalg.pinv,
        np.linalg.inv,
        multilinear.khatri_rao,
    )
)
CUTTING = tuple(
    (function, "write it with torch alone; functions of tl that cut are not allowed here.")
    for function in (LowRank.__init__, truncated_svd, choose_rank)
)


def given_update(x: Tensor, factors, mode: int) -> Tensor:
    """The factor of a mode that minimizes the error while the others stay, by a dense problem."""
    others = multilinear.khatri_rao(*(f for k, f in enumerate(factors) if k != mode))
    return torch.linalg.lstsq(others, multilinear.unfold(x, mode).T).solution.T


def _cut(function, a, b, rtol):
    """What a cut promises, as numbers that can be compared: its rank, and its error when too
    large."""
    result = returned(function, a, b, rtol)
    if result is None:
        return None
    if not isinstance(result, tuple) or len(result) != 2:
        raise Unusable(f"two tensors u, v are needed, this is a {type(result).__name__}.")
    u, v = result
    if u.shape[:1] + v.shape[1:] != (a.shape[0], b.shape[1]) or u.shape[1] != v.shape[0]:
        raise Unusable(
            f"u (m, r) and v (r, n) are needed, these are {tuple(u.shape)} and {tuple(v.shape)}."
        )
    if (u.T @ u - torch.eye(u.shape[1], dtype=u.dtype)).norm() > 1e-8:
        raise Unusable("the columns of u are not orthonormal.")
    off = float((u @ v - a @ b).norm() / (a @ b).norm())
    if off > rtol:
        raise Unusable(f"the relative error is {off:.3f}, more than {rtol}.")
    return torch.tensor(u.shape[1], dtype=torch.float64)


truncate = Check(
    function=True,
    cases=lambda: [(*gaussian((12, 6), (6, 9)), 0.4)],
    read=_cut,
    right=lambda a, b, rtol: LowRank.from_dense(a @ b, rtol=rtol).ranks[0],
    hint="u v is near enough, but its rank is not the smallest: it is the rank of w = a b that "
    "counts, not of a or b alone.",
    moral="This case is right; try a matrix of zeros, and a long one, yourself.",
)

update = Check(
    function=True,
    cases=lambda: [(x, list(fs), 1) for x, *fs in [gaussian((3, 4, 5), (3, 2), (4, 2), (5, 2))]],
    right=given_update,
    mistakes=(
        (
            lambda x, factors, mode: given_update(x, factors, mode).T,
            "this is the transpose of the factor.",
        ),
        (
            lambda x, factors, mode: (
                multilinear.unfold(x, mode)
                @ multilinear.khatri_rao(*(f for k, f in enumerate(factors) if k != mode))
            ),
            "this is M; the equations with Gamma are still to be solved.",
        ),
    ),
    forbids=FORBIDDEN,
    hint="the error can still fall when only this factor changes.",
    moral="This case is right, a middle mode of three; try a first and a last one, and two modes.",
)

distance = Check(
    function=True,
    cases=lambda: [(5,)],
    right=lambda n: 76**0.5 / 25,
    mistakes=((lambda n: 3**0.5 / n, "one more term remains, and it is smaller."),),
    rtol=1e-12,
    hint="for n = 5 the square of the distance is 76 / 625.",
    moral="This case is right; try n = 1e9.",
)
