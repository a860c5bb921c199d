"""Lesson 10: layers held as TT-matrices."""

import math
from functools import lru_cache

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ... import datasets, plots
from ...formats.lowrank import LowRank
from ...formats.ttmatrix import TTMatrix, tt_matrix_svd
from ...layers.plans import plans
from ...rng import randn
from ..checks import Check, gaussian
from ..widgets import Explorer, choice, integer, toggle

WEIGHTS = (
    "blur of 8 x 8 pictures",
    "1 / (1 + |row - column|)",
    "layer trained on digits",
    "random",
)
MODES = {
    "8 · 8": (8, 8),
    "4 · 4 · 4": (4, 4, 4),
    "2 · 4 · 8": (2, 4, 8),
    "8 · 4 · 2": (8, 4, 2),
    "2 · 2 · 2 · 2 · 2 · 2": (2,) * 6,
}
RANKS = (1, 2, 4, 8, 16, 32)


@lru_cache
def example_weight(name: str, shuffled: bool = False) -> Tensor:
    """A matrix of 64 rows and 64 columns, its rows in their order or shuffled.

    >>> example_weight("1 / (1 + |row - column|)")[0, :3]
    tensor([1.0000, 0.5000, 0.3333], dtype=torch.float64)
    """
    i = torch.arange(64, dtype=torch.float64)
    if name == WEIGHTS[0]:
        bell = torch.exp(-0.5 * (i[:8, None] - i[:8]).square())
        w = torch.kron(bell, bell)
    elif name == WEIGHTS[1]:
        w = 1 / (1 + (i[:, None] - i).abs())
    elif name == WEIGHTS[2]:
        w = trained()
    elif name == WEIGHTS[3]:
        w = randn(64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    else:
        raise ValueError(f"weight: needs one of {', '.join(WEIGHTS)}, got {name}")
    return w[torch.randperm(64, generator=torch.Generator().manual_seed(0))] if shuffled else w


@lru_cache
def trained(steps: int = 120) -> Tensor:
    """The first weight of a network 64 -> 64 -> 10 after some steps of Adam on scikit-learn's
    digits."""
    data, g = datasets.digits(), torch.Generator().manual_seed(0)
    x = data.X.flatten(1).float() - 0.3
    a, b = (
        randn(*s, generator=g, dtype=torch.float32).div_(s[1] ** 0.5).requires_grad_()
        for s in ((64, 64), (10, 64))
    )
    adam = torch.optim.Adam([a, b], 5e-3)
    for _ in range(steps):
        adam.zero_grad()
        torch.nn.functional.cross_entropy((x @ a.mT).relu() @ b.mT, data.y).backward()
        adam.step()
    return a.detach().double()


@lru_cache
def designs(name: str, shuffled: bool) -> dict[str, list[tuple[int, float, int]]]:
    """For each splitting of 64, and for the SVD, (numbers stored, relative error, rank) over the
    ranks."""
    w = example_weight(name, shuffled)
    error = lambda f: float((f.to_dense() - w).norm() / w.norm())
    found = {}
    for label, modes in MODES.items():
        full = tt_matrix_svd(w, modes, modes, rtol=0.0)
        ranks = [r for r in RANKS if r < max(full.ranks)] + [max(full.ranks)]
        found[label] = [(t.numel, error(t), r) for r in ranks for t in [full.round(r)]]
    found["SVD"] = [(t.numel, error(t), r) for r in RANKS for t in [LowRank.from_dense(w, r)]]
    return found


def proposal(name: str, shuffled: bool, most: int) -> tuple[str, int]:
    """The splitting and rank of the smallest error that stores at most so many numbers; of equal
    errors the fewest numbers.

    >>> proposal("blur of 8 x 8 pictures", False, 128)
    ('2 · 2 · 2 · 2 · 2 · 2', 3)
    """
    every = ((label, design) for label in MODES for design in designs(name, shuffled)[label])
    found = [
        (round(error, 9), numel, label, r) for label, (numel, error, r) in every if numel <= most
    ]
    if not found:
        raise ValueError(f"proposal: needs room for the smallest design of 24 numbers, got {most}")
    return min(found)[2:]


class Designer(Explorer):
    """A TT layer by hand or by proposal: what it stores, its error on a real weight, the operations
    of its paths."""

    figsize = (9.5, 3.6)

    def __init__(self):
        super().__init__(
            weight=choice(WEIGHTS[0], WEIGHTS),
            modes=choice("4 · 4 · 4", MODES),
            rank=integer(4, 1, 64),
            tokens=integer(6, 0, 14, label="tokens = 2^"),
            shuffled=toggle(False, label="shuffle the rows"),
            proposed=toggle(False, label="propose: the smallest error for as many numbers"),
        )

    def draw(
        self,
        figure: Figure,
        weight: str,
        modes: str,
        rank: int,
        tokens: int,
        shuffled: bool,
        proposed: bool,
    ) -> str:
        w = example_weight(weight, shuffled)
        t = tt_matrix_svd(w, MODES[modes], MODES[modes], rank)
        if proposed:
            modes, rank = proposal(weight, shuffled, t.numel)
            t = tt_matrix_svd(w, MODES[modes], MODES[modes], rank)
        error = float((t.to_dense() - w).norm() / w.norm())
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        curves = {
            label: [(numel, max(e, 1e-6)) for numel, e, _ in points]
            for label, points in designs(weight, shuffled).items()
        }
        plots.error_against_storage(left, curves, (t.numel, max(error, 1e-6)))
        left.axvline(w.numel(), color="0.4", lw=1)
        found = plans(t, 2**tokens)
        seen = plots.operations(right, found, 2 * 2**tokens * w.numel())
        return (
            f"{'Proposed: m' if proposed else 'M'}odes {modes} with ranks "
            f"{', '.join(map(str, t.ranks))} store {t.numel} of "
            f"{w.numel()} numbers with a relative error of {error:.2g}. {seen} "
            f"Forward and backward it should hold {found[0].peak / 2**10:.0f} KiB at the peak."
        )


# ---------------------------------------------------------------------------------------- exercises


def _layer(rank):
    """768 -> 3072 as (8, 8, 12) -> (12, 16, 16); no numbers are needed to count."""
    return TTMatrix.randn(
        out=(12, 16, 16), in_=(8, 8, 12), rank=rank, device="meta", dtype=torch.float32
    )


def _numbers(out, in_, ranks, edge=1):
    r = (edge, *ranks, edge)
    return sum(r[k] * m * n * r[k + 1] for k, (m, n) in enumerate(zip(out, in_)))


def _dearer(dense_tokens=2048):
    """The first rank at which walking from the left costs more operations than rebuilding w."""
    count = lambda rank, name, n: next(
        plan.flops for plan in plans(_layer(rank), n) if plan.forward == name
    )
    return next(
        r for r in range(1, 97) if count(r, "left", 2048) > count(r, "rebuild", dense_tokens)
    )


def _case(out, in_, ranks, batch):
    r = (1, *ranks, 1)
    *cores, x = gaussian(
        *((r[k], m, n, r[k + 1]) for k, (m, n) in enumerate(zip(out, in_))), (batch, math.prod(in_))
    )
    return tuple(cores), x


def _interleaved(cores, x):
    """The product with a matrix whose indices were left in the order of the cores."""
    w = TTMatrix(cores)
    return x @ w.to_tt().to_dense().reshape(w.shape).mT


def _turned(cores, x):
    w = TTMatrix(cores)
    return x @ w.to_dense() if w.shape[0] == w.shape[1] else None


def _backwards(cores, x):
    back = tuple(c.permute(3, 1, 2, 0) for c in cores[::-1])
    return TTMatrix(back).apply(x)


ttmatrix_storage = Check(
    question="A layer 768 -> 3072 is a TT-matrix with in = (8, 8, 12), out = (12, 16, 16) and "
    "ranks (4, 4).  How many numbers "
    "do its cores hold?",
    cases=lambda: [((12, 16, 16), (8, 8, 12), (4, 4))],
    right=lambda out, in_, ranks: _layer(ranks).numel,
    mistakes=(
        (
            lambda out, in_, ranks: math.prod(out) * math.prod(in_),
            "those are the entries of the dense weight.",
        ),
        (
            lambda out, in_, ranks: _numbers(out, in_, ranks, edge=4),
            "the ranks at the two ends of a train are 1.",
        ),
        (
            lambda out, in_, ranks: _numbers(out, [1] * 3, ranks),
            "a core has an index of the columns too.",
        ),
        (
            lambda out, in_, ranks: _numbers(out, [1] * 3, ranks) + _numbers([1] * 3, in_, ranks),
            "out and in of a core multiply, they do not add.",
        ),
        (lambda out, in_, ranks: _numbers(out, in_, (1, 1)), "that is without the ranks."),
    ),
    hint="write the shape (r_left, out, in, r_right) under each core, with rank 1 at both ends, "
    "and add.",
    moral="Two million numbers become a few thousand; the product does not become as much cheaper.",
)

ttmatrix_apply = Check(
    question="Write `ttmatrix_apply(cores, x)`: y = x wᵀ for the TT-matrix w of these cores.  "
    "cores: a tuple of tensors (r_left, "
    "out, in, r_right), x: (batch, in); the answer is (batch, out).  Forming w is allowed.",
    function=True,
    cases=lambda: [
        _case((3, 3), (3, 3), (2,), 4),
        _case((2, 3, 4), (3, 2, 2), (3, 2), 5),
        _case((4,), (3,), (), 2),
    ],
    right=lambda cores, x: TTMatrix(cores).apply(x),
    mistakes=(
        (
            _interleaved,
            "the product of the cores has its indices as o_0 i_0 o_1 i_1: bring those of the rows "
            "to the front first.",
        ),
        (_turned, "that is x w, the rows of w are its outputs: multiply by the transpose."),
        (_backwards, "the cores are taken in the wrong order."),
    ),
    hint="contract x, as (batch, in_0, in_1, ...), with the first core over in_0, then with the "
    "next over the bond and in_1.",
    moral="The order of the contractions is free: that is the choice that `propagate` makes.",
)

ttmatrix_dearer = Check(
    question="768 -> 3072 as above, 2048 tokens, all ranks equal to r.  What is the smallest r at "
    "which the path `left` takes "
    "more operations than `rebuild`?  (`plans` counts.)",
    right=_dearer,
    mistakes=(
        (lambda: _dearer() - 1, "at this rank the path from the left is still cheaper."),
        (lambda: _dearer() + 1, "it is dearer at one rank less already."),
        (lambda: _dearer(dense_tokens=1), "count the operations of all the tokens, on both sides."),
    ),
    hint="print the operations of both paths for r = 1, 2, 3, ... and look where they cross.",
    moral="Few parameters are not few operations: beyond a small rank a TT layer is a dense layer "
    "that is rebuilt.",
)
