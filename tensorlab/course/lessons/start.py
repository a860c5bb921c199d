"""Lesson 00: a photograph in four formats."""

import functools

import torch
from matplotlib.figure import Figure

from ... import plots
from ...datasets import photo
from ...formats.cp import cp_als
from ...formats.lowrank import LowRank
from ...formats.tt import tt_svd
from ...formats.tucker import st_hosvd
from ..checks import Check, gaussian
from ..widgets import Explorer, choice, integer

FORMATS = ("SVD", "CP", "Tucker", "TT")


@functools.cache
def small_photo(name: str) -> torch.Tensor:
    """Every fourth point of a photograph, (107, 160, 3): small enough to be compressed while one
    looks."""
    return photo(name)[::4, ::4].contiguous()


@functools.cache
def compressed(name: str, kind: str, rank: int):
    """A photograph in a format, and its relative error.

    SVD: of the colors side by side, (rows, columns x colors). CP: 6 sweeps. Tucker: ranks (r, r,
    3). TT: of the axes rows, colors, columns, ranks (r, r).
    """
    x = small_photo(name)
    h, w, c = x.shape
    if kind == "SVD":
        fmt = LowRank.from_dense(x.movedim(2, 1).reshape(h, c * w), rank)
        y = fmt.to_dense().reshape(h, c, w).movedim(1, 2)
    elif kind == "CP":
        fmt = cp_als(
            x, rank, max_iter=6, tol=1e-5, generator=torch.Generator().manual_seed(0)
        ).value
        y = fmt.to_dense()
    elif kind == "Tucker":
        fmt = st_hosvd(x, (rank, rank, 3))
        y = fmt.to_dense()
    else:
        fmt = tt_svd(x.movedim(2, 1).contiguous(), rank)
        y = fmt.to_dense().movedim(1, 2)
    return fmt, y, float((y - x).norm() / x.norm())


class PhotoExplorer(Explorer):
    """Compress a color photograph by SVD, CP, Tucker or a train, and see stored numbers beside the
    error."""

    figsize = (9, 2.9)
    ladder = (2, 5, 12, 28)  # ranks of the curves

    def __init__(self, rank: int = 12):
        super().__init__(
            rank=integer(rank, 1, 48),
            format=choice("SVD", FORMATS),
            photograph=choice("flower", ("flower", "china")),
        )

    def draw(self, figure: Figure, rank: int, format: str, photograph: str) -> str:
        x = small_photo(photograph)
        fmt, y, error = compressed(photograph, format, rank)
        axes = figure.subplots(1, 3, width_ratios=(1, 1, 1))
        plots.image(axes[0], x, f"original, {x.numel()} numbers")
        plots.image(axes[1], y, f"{format}, rank {rank}, {fmt.numel} numbers")
        curves = {}
        for kind in FORMATS:
            points = [compressed(photograph, kind, r) for r in self.ladder]
            curves[kind] = [(f.numel, e) for f, _, e in points]
        plots.error_against_storage(axes[2], curves, (fmt.numel, error))
        axes[2].lines[FORMATS.index("Tucker")].set(ms=9, mfc="none")  # a train lies on it
        svd = min(self._svd_points(photograph), key=lambda p: abs(p[0] - fmt.numel))
        said = (
            f"{format} of rank {rank} stores {fmt.numel} of {x.numel()} numbers at a relative "
            f"error of {error:.3f}"
        )
        if format == "SVD":
            return said + "."
        verdict = "worse than" if error > svd[1] else "no worse than"
        return f"{said}, {verdict} the SVD with {svd[0]} numbers, {svd[1]:.3f}."

    def _svd_points(self, photograph):
        return [
            (f.numel, e) for f, _, e in (compressed(photograph, "SVD", r) for r in range(1, 49, 2))
        ]


def _ranks(kind: str, level: float, name: str = "flower") -> int:
    """The smallest rank at which a format is off by no more than the level."""
    return next(r for r in range(1, 49) if compressed(name, kind, r)[2] <= level)


least_rank = Check(
    right=lambda: _ranks("SVD", 0.1),
    mistakes=(
        (lambda: _ranks("SVD", 0.1) - 1, "very near: there the error is still just above 0.1."),
        (lambda: _ranks("SVD", 0.1) + 1, "it is small enough there, but one rank less will do."),
        (lambda: _ranks("Tucker", 0.1), "that is Tucker: choose SVD in `format`."),
        (
            lambda: compressed("flower", "SVD", _ranks("SVD", 0.1))[0].numel,
            "that is how many numbers are stored; the rank is asked for.",
        ),
    ),
    hint="move `rank` until the relative error in the sentence crosses 0.1.",
    moral="Each rank more costs one more column and one more row.",
)

rank_one_storage = Check(
    cases=lambda: [(1000, 800)],
    right=lambda m, n: LowRank(*gaussian((m, 1), (n, 1))).numel,
    mistakes=(
        (
            lambda m, n: m * n,
            "that is every entry of the matrix; the column and the row tell them all.",
        ),
        (lambda m, n: m, "that is the column alone; the row is needed too."),
        (lambda m, n: n, "that is the row alone; the column is needed too."),
        (lambda m, n: 2, "two vectors, yes, but how many numbers are in them?"),
    ),
    hint="count the numbers in the column and those in the row.",
    moral="Storage adds the sides where the matrix multiplies them: this is the whole idea of the "
    "course.",
)
