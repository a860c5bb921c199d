"""Lesson 01: the SVD."""

import functools
import math

import torch

from ... import datasets
from ..checks import Check, first_rank, gaussian


def _tail(s, r):
    return math.sqrt(sum(x * x for x in s[r:]) / sum(x * x for x in s))


def _cut(a, r, keep):
    u, s, vh = torch.linalg.svd(a, full_matrices=False)
    return keep(u, s, vh, r)


@functools.cache
def _photo_tails():
    """For the gray photograph and each rank: the relative error in the Frobenius norm, and in the
    spectral norm."""
    x = datasets.photo("flower").mean(-1)
    s = torch.linalg.eigvalsh(x @ x.T).clamp_min(0).flip(0).sqrt().tolist()
    return [_tail(s, r) for r in range(1, len(s) + 1)], [value / s[0] for value in (*s[1:], 0.0)]


truncation_error = Check(
    question="A matrix has the singular values 6, 3, 2, 1.  What is the relative error, in the "
    "Frobenius norm, of its best "
    "approximation of rank 2?",
    cases=lambda: [((6.0, 3.0, 2.0, 1.0), 2)],
    right=_tail,
    mistakes=(
        (
            lambda s, r: _tail(s, r) ** 2,
            "that is the share of the energy that is lost; the error is its square root.",
        ),
        (
            lambda s, r: math.sqrt(sum(x * x for x in s[r:])),
            "that is the error itself; divide by the norm of the matrix.",
        ),
        (lambda s, r: sum(s[r:]) / sum(s), "singular values add as squares in the Frobenius norm."),
        (
            lambda s, r: s[r] / s[0],
            "that is the error in the spectral norm, where only the largest value counts.",
        ),
        (
            lambda s, r: math.sqrt(1 - _tail(s, r) ** 2),
            "that is the part that is kept; what is left out?",
        ),
        (
            lambda s, r: _tail(s, r + 1),
            "that is for one rank more: count the values that rank 2 keeps.",
        ),
    ),
    hint="which singular values are left out, and what is the norm of a matrix in terms of its "
    "singular values?",
    moral="The error is known before anything is multiplied: the tail of the singular values says "
    "it.",
    rtol=6e-3,  # two digits are enough
)

truncate = Check(
    question="Write `truncate(a, r)`: the best approximation of rank r of a matrix `a`, again as a "
    "matrix of the same shape.",
    function=True,
    cases=lambda: [(a, r) for a, r in zip(gaussian((5, 5), (4, 6), (7, 3)), (2, 3, 1))],
    right=lambda a, r: _cut(a, r, lambda u, s, vh, r: (u[:, :r] * s[:r]) @ vh[:r]),
    mistakes=(
        (
            lambda a, r: _cut(a, r, lambda u, s, vh, r: u[:, :r] @ vh[:r]),
            "the singular values are missing.",
        ),
        (
            lambda a, r: _cut(a, r, lambda u, s, vh, r: (u[:, -r:] * s[-r:]) @ vh[-r:]),
            "these are the smallest singular values; the largest ones stand first.",
        ),
        (
            lambda a, r: _cut(
                a,
                r,
                lambda u, s, vh, r: (
                    (u[:, :r] * s[:r]) @ vh[:, :r].T if len(u) == vh.shape[1] else None
                ),
            ),
            "torch.linalg.svd returns V transposed already: its first r rows are wanted, not its "
            "columns.",
        ),
        (
            lambda a, r: _cut(a, r, lambda u, s, vh, r: (u[:, : r + 1] * s[: r + 1]) @ vh[: r + 1]),
            "this has rank r + 1: a slice up to r holds the r terms 0 to r - 1.",
        ),
        (lambda a, r: a, "this is `a` itself, of full rank."),
    ),
    hint="a = U diag(s) Vᵀ; keep the first r columns of U, entries of s and rows of Vᵀ, and "
    "multiply.",
    moral="No matrix of rank r is closer to a [EckartYoung1936].",
)

photo_rank = Check(
    question="Make the flower photograph gray (the mean over its colors).  What is the smallest "
    "rank whose relative error is "
    "at most 10 %?",
    right=lambda: first_rank(_photo_tails()[0], 0.1),
    mistakes=(
        (
            lambda: first_rank(_photo_tails()[0], math.sqrt(0.1)),
            "this keeps 90 % of the energy; an error of 10 % leaves only 1 % of it out.",
        ),
        (
            lambda: first_rank(_photo_tails()[1], 0.1),
            "look at the whole tail of the singular values, not at the next one alone.",
        ),
        (
            lambda: first_rank(_photo_tails()[0], 0.1) - 1,
            "very near: here the error is still just above 10 %, or the count began at 0.",
        ),
        (
            lambda: first_rank(_photo_tails()[0], 0.1) + 1,
            "very near: a smaller rank will do, or one too many was counted.",
        ),
    ),
    hint="move the rank until the error crosses 10 %: above the crossing it is too large a rank, "
    "below too small.",
    moral="Its 427 rows are nearly combinations of this many.",
)
