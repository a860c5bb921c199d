"""Lesson 00b: the words of the field, drawn."""

import math

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ... import plots
from ...formats.cp import CP
from ...formats.htucker import HT
from ...formats.kronecker import Kronecker
from ...formats.lowrank import LowRank
from ...formats.tt import TT
from ...formats.ttmatrix import TTMatrix
from ...formats.tucker import Tucker
from ...multilinear import khatri_rao, mode_product, unfold
from ..checks import Check, gaussian
from ..widgets import Explorer, Player, choice, integer

SHAPE = (3, 4, 2)
NETWORKS = ("matrix of low rank", "CP", "Tucker", "TT", "HT", "TT-matrix", "Kronecker")


class UnfoldPlayer(Player):
    """A tensor of 3 x 4 x 2 unfolded along a mode, one fiber after another."""

    figsize = (9, 3)
    interval = 0.6
    begin = 3

    def __init__(self):
        super().__init__(mode=integer(0, 0, 2))

    def steps(self, mode: int):
        yield from range(math.prod(SHAPE) // SHAPE[mode] + 1)

    def draw(self, figure: Figure, state: int, mode: int) -> str:
        x = torch.arange(math.prod(SHAPE)).reshape(SHAPE)
        seen = unfold(x, mode)[:, :state]
        left, right = figure.subplots(1, 2, width_ratios=(2, 3))
        plots.slices(left, x, seen.flatten().tolist(), seen[:, -1:].flatten().tolist())
        plots.entries(right, seen, SHAPE[mode], math.prod(SHAPE) // SHAPE[mode])
        left.set_title("the slices x[:, :, 0] and x[:, :, 1]")
        right.set_title(f"the unfolding of mode {mode}")
        return (
            f"{state} of {math.prod(SHAPE) // SHAPE[mode]} fibers of mode {mode} are columns "
            f"of the unfolding of {SHAPE[mode]} by {math.prod(SHAPE) // SHAPE[mode]}."
        )


class KroneckerProductExplorer(Explorer):
    """Two small matrices and their Kronecker product."""

    figsize = (9, 2.8)

    def __init__(self):
        super().__init__(
            rows=integer(2, 1, 3, label="rows of A"), columns=integer(3, 1, 3, label="columns of A")
        )

    def draw(self, figure: Figure, rows: int, columns: int) -> str:
        a = 1 + torch.arange(rows * columns).reshape(rows, columns)
        b = torch.tensor([[1, 2], [3, 0]])
        axes = figure.subplots(1, 3, width_ratios=(3, 2, 6))
        for ax, matrix, title in zip(axes, (a, b, torch.kron(a, b)), ("A", "B", "A ⊗ B")):
            _numbers(ax, matrix, b.shape if ax is axes[2] else matrix.shape, title)
        return (
            f"{rows} by {columns} blocks, each a multiple of B: a matrix of {2 * rows} by "
            f"{2 * columns}, made of {rows * columns} + 4 numbers."
        )


def _numbers(ax, matrix: Tensor, block: tuple[int, int], title: str) -> None:
    """A matrix with its entries written in it, and lines around its blocks."""
    m, n = matrix.shape
    ax.imshow(matrix, cmap="Blues", vmin=0, vmax=30)
    for (i, j), value in np.ndenumerate(matrix.numpy()):
        ax.text(j, i, str(value), ha="center", va="center").set_gid("on color")
    for place in range(0, m + 1, block[0]):
        ax.axhline(place - 0.5, color="0.3", lw=1)
    for place in range(0, n + 1, block[1]):
        ax.axvline(place - 0.5, color="0.3", lw=1)
    ax.grid(False)
    ax.set(title=f"{title}: {m} by {n}", xticks=(), yticks=())


class NetworkExplorer(Explorer):
    """The tensor network of a format."""

    figsize = (7, 3)

    def __init__(self):
        super().__init__(
            format=choice("TT", NETWORKS),
            modes=integer(4, 2, 6),
            size=integer(5, 2, 9),
            rank=integer(3, 1, 9),
        )

    def limits(self, format: str, modes: int, size: int, rank: int) -> dict:
        return {"rank": (1, size)}

    def draw(self, figure: Figure, format: str, modes: int, size: int, rank: int) -> str:
        return plots.diagram(figure.subplots(), example(format, modes, size, rank))


def example(name: str, modes: int, size: int, rank: int):
    """A random format of so many modes of a size; matrices have them on both sides."""
    shape, g = (size,) * modes, torch.Generator().manual_seed(0)
    options = dict(generator=g, dtype=torch.float64)
    if name == "CP":
        return CP.randn(shape, rank, **options)
    if name == "Tucker":
        return Tucker.randn(shape, rank, **options)
    if name == "TT":
        return TT.randn(shape, rank, **options)
    if name == "HT":
        return HT.randn(shape, rank, **options)
    if name == "TT-matrix":
        return TTMatrix.randn(out=shape, in_=shape, rank=rank, **options)
    if name == "Kronecker":
        return Kronecker.randn((size**modes,) * 2, rank, factors=modes, **options)
    return LowRank.randn((size**modes,) * 2, rank, **options)


# ---------------------------------------------------------------------------------------- exercises


def _outer(a, b, c):
    return a[:, None, None] * b[:, None] * c


def _turned(x, mode):
    """The columns in another order, as if the first of the remaining indices were the fastest."""
    others = [k for k in reversed(range(x.ndim)) if k != mode]
    return x.permute(mode, *others).reshape(x.shape[mode], -1)


def _square(x, mode) -> Tensor | None:
    return unfold(x, mode).T


fibers = Check(
    cases=lambda: [((3, 4, 5), 1)],
    right=lambda shape, mode: math.prod(shape) // shape[mode],
    mistakes=(
        (lambda shape, mode: math.prod(shape), "those are the entries, not the fibers."),
        (lambda shape, mode: shape[mode], "that is how long each of them is."),
        (
            lambda shape, mode: shape[0] + shape[2],
            "the other indices are chosen together: multiply.",
        ),
        (lambda shape, mode: math.prod(shape) // shape[0], "modes are counted from 0."),
    ),
    hint="a fiber has all values of one index, and one value of each other index.",
    moral="They are the columns of the unfolding: 4 by 15.",
)

unfolding = Check(
    function=True,
    cases=lambda: [(x, k) for x in gaussian((2, 3, 4), (3, 2, 2, 3)) for k in range(x.ndim)],
    right=unfold,
    mistakes=(
        (
            lambda x, mode: x.reshape(x.shape[mode], -1),
            "reshape alone reads the entries in memory's order: bring the mode to the front first.",
        ),
        (_square, "the mode is among the columns: it belongs to the rows."),
        (_turned, "the other indices keep their order, the last one moving fastest."),
    ),
    hint="x.movedim(mode, 0), and then a reshape that leaves the first size.",
    moral="Every decomposition of a tensor begins with a matrix like this.",
)

mode_multiply = Check(
    function=True,
    cases=lambda: [
        (*gaussian((2, 3, 4), (5, 2)), 0),
        (*gaussian((2, 3, 4), (5, 3)), 1),
        (*gaussian((3, 3, 3), (3, 3)), 2),
    ],
    right=mode_product,
    mistakes=(
        (
            lambda x, m, mode: m @ unfold(x, mode),
            "that is the unfolding of the result: fold it back.",
        ),
        (
            lambda x, m, mode: torch.tensordot(m, x, ([1], [mode])),
            "the new index is in front: move it to the place of the mode.",
        ),
    ),
    hint="torch.tensordot puts the new index first; movedim brings it back to its place.",
    moral="Multiplying every fiber by a matrix: Tucker is one of these along each mode.",
)

khatri_rao_product = Check(
    function=True,
    cases=lambda: [gaussian((2, 3), (4, 3)), gaussian((3, 2), (3, 2))],
    right=khatri_rao,
    mistakes=(
        (lambda a, b: khatri_rao(b, a), "the index of the second factor moves fastest."),
        (lambda a, b: torch.kron(a, b), "that is the Kronecker product: columns go with columns."),
    ),
    hint="column k of the result is torch.kron(a[:, k], b[:, k]).",
    moral="A sum of outer products is a product with this matrix: CP in one line.",
)

network_numbers = Check(
    cases=lambda: [(4, 5, 3)],
    right=lambda modes, size, rank: example("TT", modes, size, rank).numel,
    mistakes=(
        (lambda modes, size, rank: size**modes, "those are the entries of the whole."),
        (lambda modes, size, rank: modes * size * rank, "that is a CP without its weights."),
        (lambda modes, size, rank: modes * size * rank**2, "the two ends have one bond only."),
        (lambda modes, size, rank: 2 * size * rank, "those are the two ends only."),
    ),
    hint="each circle holds the product of the sizes of its lines.",
    moral="A diagram is an inventory: multiply the lines of a circle, and add the circles.",
)
