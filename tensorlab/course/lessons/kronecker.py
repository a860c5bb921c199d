"""Lesson 09: sums of Kronecker products."""

import torch
from matplotlib.figure import Figure

from ... import datasets, plots
from ...formats.kronecker import Kronecker, kron_rearrange, kron_svd
from ...formats.lowrank import LowRank
from ..checks import Check, gaussian
from ..widgets import Explorer, choice, integer

NAMES = ("gray flower", "elevation", "MRI slice", "tiled pattern", "random", "random low rank")


def example_matrix(name: str, n: int = 64) -> torch.Tensor:
    """A matrix of n rows and columns: real ones are cut from the middle, or drawn from a seed.

    >>> example_matrix("tiled pattern", 8).shape
    torch.Size([8, 8])
    """
    generator = torch.Generator().manual_seed(0)
    if name == "random":
        return torch.randn(n, n, generator=generator, dtype=torch.float64)
    if name == "random low rank":
        return LowRank.randn((n, n), 4, generator=generator, dtype=torch.float64).to_dense()
    if name == "tiled pattern":  # one small picture, repeated at different brightness
        tile, light = (
            torch.rand(shape, generator=generator, dtype=torch.float64)
            for shape in ((8, 8), (n // 8, n // 8))
        )
        return torch.kron(light, tile)
    if name not in NAMES:
        raise ValueError(f"matrix: needs one of {', '.join(NAMES)}, got {name}")
    sources = {
        "gray flower": lambda: datasets.photo("flower").mean(2),
        "elevation": datasets.elevation,
        "MRI slice": datasets.mri,
    }
    whole = sources[name]()
    top, left = (whole.shape[0] - 4 * n) // 2, (whole.shape[1] - 4 * n) // 2
    return whole[top : top + 4 * n, left : left + 4 * n].reshape(n, 4, n, 4).mean((1, 3))


def errors(w: torch.Tensor, left: tuple[int, int], most: int) -> tuple[list, list]:
    """Relative errors of 1..most terms, of Kronecker products and of the SVD, each with the numbers
    it stores."""
    pairs = []
    for s, each in (
        (
            torch.linalg.svdvals(kron_rearrange(w, left)),
            Kronecker.from_dense(w, 1, **_modes(w.shape, left)).numel,
        ),
        (torch.linalg.svdvals(w), sum(w.shape)),
    ):
        tail = s.square().flip(0).cumsum(0).flip(0).sqrt() / s.norm()
        pairs.append(
            [
                (each * k, float(tail[k]))
                for k in range(1, min(most, len(s) - 1) + 1)
                if tail[k] > 1e-12
            ]
        )
    return tuple(pairs)


def _modes(shape, left):
    return dict(out=(left[0], shape[0] // left[0]), in_=(left[1], shape[1] // left[1]))


class KroneckerExplorer(Explorer):
    """A matrix, the same numbers rearranged so that each block is a row, and the singular values of
    both."""

    figsize = (10, 3.1)

    def __init__(self):
        super().__init__(
            matrix=choice("tiled pattern", NAMES),
            terms=integer(1, 1, 16),
            rows=choice(8, (2, 4, 8, 16, 32), label="rows of A"),
            columns=choice(8, (2, 4, 8, 16, 32), label="columns of A"),
        )

    def draw(self, figure: Figure, matrix: str, terms: int, rows: int, columns: int) -> str:
        w = example_matrix(matrix)
        first, second, third = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
        r = kron_rearrange(w, (rows, columns))
        plots.blocks(first, w, (rows, columns), "w in its blocks")
        plots.blocks(second, r, None, "rearranged, a block in each row")
        plots.singular_values(
            third, {"w": torch.linalg.svdvals(w), "rearranged": torch.linalg.svdvals(r)}
        )
        kron = kron_svd(w, (rows, columns), terms)
        third.axvline(terms + 0.5, color="0.4", ls=":", lw=1)  # what may be kept is on its left
        low = LowRank.from_dense(w, max(1, kron.numel // sum(w.shape)))
        error = [float((x.to_dense() - w).norm() / w.norm()) for x in (kron, low)]
        return (
            f"{matrix}: {kron.ranks[0]} Kronecker terms ({kron.numel} numbers) leave a relative "
            f"error of {error[0]:.2g}, "
            f"the SVD of rank {low.ranks[0]} ({low.numel} numbers) leaves {error[1]:.2g}."
        )


kron_storage = Check(
    question="A matrix of 768 rows and 3072 columns is held as 4 Kronecker terms, the left factors "
    "of 16 rows and 24 columns.  "
    "How many numbers are stored?",
    cases=lambda: [((768, 3072), (16, 24), 4)],
    right=lambda shape, left, k: Kronecker.randn(shape, k, **_modes(shape, left)).numel,
    mistakes=(
        (
            lambda shape, left, k: k * left[0] * left[1],
            "those are the left factors; each term has a right one too.",
        ),
        (
            lambda shape, left, k: left[0] * left[1] + shape[0] * shape[1] // (left[0] * left[1]),
            "that is one term.",
        ),
        (
            lambda shape, left, k: k * sum(shape),
            "that is low rank: thin factors.  The factors here are matrices of both sizes.",
        ),
        (lambda shape, left, k: shape[0] * shape[1], "those are the entries of the full matrix."),
    ),
    hint="the right factors have 768 / 16 rows and 3072 / 24 columns; add both factors, and count "
    "the terms.",
    moral="Two small matrices for each term, where the SVD has two thin ones.",
)

kron_apply = Check(
    question="Write `kron_apply(a, b, x)`: the product of the Kronecker product of a and b with a "
    "vector x, without forming it.  "
    "a: (m, n), b: (p, q), x: (n q,).",
    function=True,
    cases=lambda: [
        gaussian((3, 3), (3, 3), (9,)),
        gaussian((2, 3), (4, 5), (15,)),
        gaussian((1, 4), (3, 1), (4,)),
    ],
    right=lambda a, b, x: torch.kron(a, b) @ x,
    mistakes=(
        (
            lambda a, b, x: torch.kron(b, a) @ x,
            "the factors are in the wrong order: a is the outer one, x is read as n rows of q.",
        ),
        (
            lambda a, b, x: (
                (a @ x.reshape(a.shape[1], -1) @ b).reshape(-1) if len(b) == b.shape[1] else None
            ),
            "b acts transposed.",
        ),
        (
            lambda a, b, x: (a @ x.reshape(-1, a.shape[1]).T @ b.T).reshape(-1),
            "reshape reads x row by row: n rows of q numbers.",
        ),
        (
            lambda a, b, x: (a @ x.reshape(a.shape[1], -1) @ b.T).T.reshape(-1),
            "the result is read in the wrong order: row by row, without a transpose.",
        ),
    ),
    hint="read x as a matrix X of n rows and q columns; the result is a X b transposed, read row "
    "by row.",
    moral="Two small products in place of one large: this line is the whole of `Kronecker.apply` "
    "for one term.",
)

best_left = Check(
    question="The 64 by 64 matrix `lesson.matrix('tiled pattern')` is one Kronecker product for "
    "the right size of "
    "its factors.  Rows and columns are equal: how many has the left factor?  (Move the explorer's "
    "lists.)",
    right=lambda: next(
        k
        for k in (2, 4, 8, 16, 32)
        if kron_svd(example_matrix("tiled pattern"), (k, k), rtol=1e-10).ranks == (1,)
    ),
    mistakes=(
        (lambda: 1, "that is the number of terms; how large is the left factor?"),
        (lambda: 64, "that is the size of the matrix."),
    ),
    hint="only one size makes the rearranged matrix one of rank one: look at its singular values.",
    moral="The blocks must be those of the pattern: what is one term at one size is many at any "
    "other.",
)
