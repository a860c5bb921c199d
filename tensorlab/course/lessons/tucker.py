"""Lesson 03: Tucker."""

import functools
import math

import torch

from ... import datasets, multilinear
from ..checks import Check, first_rank, gaussian


@functools.cache
def _photo_errors():
    """Relative errors of the HOSVD of the photograph with ranks (r, r, 3): the norm of what is cut
    off the full core."""
    x = datasets.photo("flower")
    u, v = (
        torch.linalg.eigh(a @ a.T)[1].flip(1)
        for a in (multilinear.unfold(x, 0), multilinear.unfold(x, 1))
    )
    energy = torch.einsum("ijc,ip,jq->pqc", x, u, v).square().sum(-1)
    kept = energy.cumsum(0).cumsum(1).diagonal() / energy.sum()
    return (1 - kept).clamp_min(0).sqrt().tolist()


tucker_storage = Check(
    question="A tensor of shape (10, 20, 30) has Tucker ranks (3, 4, 5).  How many numbers do its "
    "core and factors hold?",
    cases=lambda: [((10, 20, 30), (3, 4, 5))],
    right=lambda shape, r: math.prod(r) + sum(map(math.prod, zip(shape, r))),
    mistakes=(
        (
            lambda shape, r: sum(map(math.prod, zip(shape, r))),
            "those are the factors; the core is stored too.",
        ),
        (lambda shape, r: math.prod(r), "that is the core; the factors are stored too."),
        (lambda shape, r: math.prod(shape), "those are the entries of the full tensor."),
        (
            lambda shape, r: sum(r) + sum(map(math.prod, zip(shape, r))),
            "the core has an entry for each combination.",
        ),
        (
            lambda shape, r: math.prod(r) * sum(map(math.prod, zip(shape, r))),
            "core and factors stand side by side.",
        ),
    ),
    hint="the core has the ranks as its shape; the factor of a mode has its size times its rank.",
    moral="In more modes the core is what costs: it is the product of all ranks.",
)

mode_product = Check(
    question="Write `mode_product(x, matrix, mode)`: multiply mode `mode` of a 3-way tensor by a "
    "matrix of shape (m, n_mode), "
    "so that the mode has size m afterwards and stays where it was.",
    function=True,
    cases=lambda: [
        (x, m, mode)
        for (x, m), mode in [
            (gaussian((3, 3, 3), (3, 3)), 1),
            (gaussian((2, 3, 4), (5, 3)), 1),
            (gaussian((2, 3, 4), (5, 2)), 0),
            (gaussian((2, 3, 4), (5, 4)), 2),
        ]
    ],
    right=multilinear.mode_product,
    mistakes=(
        (
            lambda x, m, mode: (
                multilinear.mode_product(x, m.T, mode) if len(m) == len(m.T) else None
            ),
            "the matrix is transposed: its second index should meet the tensor.",
        ),
        (
            lambda x, m, mode: torch.tensordot(m, x, dims=([1], [mode])),
            "the products are right, but the new mode stands first; put it back where it was.",
        ),
        (
            lambda x, m, mode: torch.tensordot(x, m, dims=([mode], [1])),
            "the products are right, but the new mode stands last; put it back where it was.",
        ),
        (
            lambda x, m, mode: x @ m.T if x.shape[-1] == m.shape[1] else None,
            "this multiplies the last mode, whichever mode was asked for.",
        ),
        (
            lambda x, m, mode: m @ multilinear.unfold(x, mode),
            "the products are right; the unfolding needs to be folded back.",
        ),
    ),
    hint="torch.tensordot sums over the two indices that meet; torch.movedim puts the new mode in "
    "its place.",
    moral="A Tucker tensor is its core after one such product for each mode.",
)

photo_tucker_rank = Check(
    question="Take the flower photograph as a tensor, rows by columns by colors.  With `hosvd` "
    "and ranks (r, r, 3), what is "
    "the smallest r whose relative error is at most 10 %?",
    right=lambda: first_rank(_photo_errors(), 0.1),
    mistakes=(
        (
            lambda: first_rank(_photo_errors(), math.sqrt(0.1)),
            "this keeps 90 % of the energy; an error of 10 % leaves out 1 %.",
        ),
        (
            lambda: first_rank(_photo_errors(), 0.1) - 1,
            "very near: here the error is still just above 10 %.",
        ),
        (lambda: first_rank(_photo_errors(), 0.1) + 1, "very near: a smaller rank will do."),
    ),
    hint="the error falls as r grows: halve the interval until it crosses 10 %.",
    moral="Compare `compression` with that of the gray photograph at the same error.",
)
