"""Lesson 04: tensor trains."""

import itertools
import math

import torch
from matplotlib.figure import Figure

from ... import plots
from ...formats.tt import TT, tt_svd
from ..checks import Check, Unusable, call, gaussian, number
from ..widgets import Explorer, choice, integer


def functions(name: str, d: int, n: int) -> torch.Tensor:
    """A function of d variables on n points each, as a tensor.

    >>> functions("sine of the sum", 3, 4).shape
    torch.Size([4, 4, 4])
    """
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) / n] * d, indexing="ij")
    total = sum(axes)
    if name == "1 / (1 + sum)":
        return 1 / (1 + total)
    if name == "sine of the sum":
        return total.sin()
    if name == "|first - last|":
        return (axes[0] - axes[-1]).abs()
    if name == "random":
        return torch.randn(
            total.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
    raise ValueError(f"functions: needs a known name, got {name}")


class TrainExplorer(Explorer):
    """Anatomy of a train: cores to scale, ranks, the singular values of each unfolding, and what
    `rtol` does to them."""

    figsize = (9, 3.2)
    names = ("1 / (1 + sum)", "sine of the sum", "|first - last|", "random")

    def __init__(self, digits: int = 6):
        super().__init__(
            digits=integer(digits, 0, 14, label="rtol = 10^-digits"),
            modes=integer(4, 2, 6),
            size=integer(6, 2, 8),
            function=choice(self.names[0], self.names),
        )

    def draw(self, figure: Figure, digits: int, modes: int, size: int, function: str) -> str:
        if size**modes > 60_000:
            raise ValueError(
                f"modes and size: needs at most 60000 entries, got {size}^{modes} = {size**modes}"
            )
        x, rtol = functions(function, modes, size), 10.0**-digits
        tt = tt_svd(x, rtol=rtol)
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        seen = plots.train(left, tt)
        plots.singular_values(right, plots.unfolding_spectra(x), rtol / math.sqrt(modes - 1))
        error = float((tt.to_dense() - x).norm() / x.norm())
        return f"{seen} Asked for a relative error of {rtol:.0e}, it has {error:.1e}."


def _train_storage(shape, ranks, edge=1):
    r = (edge, *ranks, edge)
    return sum(r[k] * n * r[k + 1] for k, n in enumerate(shape))


def _train(shape, ranks):
    r = (1, *ranks, 1)
    return gaussian(*((r[k], n, r[k + 1]) for k, n in enumerate(shape)))


def _product(cores, index):
    out = torch.ones(1, 1, dtype=torch.float64)
    for core, i in zip(cores, index):
        out = out @ core[:, i]
    return out.reshape(())


def _mode_order_storage(order=(0, 1, 2, 3)):
    """Numbers in the train of x[a, b, c, d] = f[a, c] g[b, d] with its modes in this order."""
    f, g = gaussian((4, 4), (4, 4))
    return tt_svd(torch.einsum("ac,bd->abcd", f, g).permute(order), rtol=1e-10).numel


def _read_order(answer, *_):
    try:
        order = tuple(int(k) for k in answer)
    except (TypeError, ValueError) as error:
        raise Unusable("an order of the modes is needed, such as (3, 2, 1, 0).") from error
    if sorted(order) != [0, 1, 2, 3]:
        raise Unusable(f"each of the modes 0, 1, 2, 3 is needed once, this is {order}.")
    return number(_mode_order_storage(order))


def _scalar(given):
    if given is not None and given.numel() != 1:
        raise Unusable(f"an entry is one number, this has the shape {tuple(given.shape)}.")
    return given if given is None else given.reshape(())


tt_storage = Check(
    question="A train for the shape (4, 5, 6, 7) has the ranks (2, 3, 2).  How many numbers do its "
    "cores hold?",
    cases=lambda: [((4, 5, 6, 7), (2, 3, 2))],
    right=lambda shape, ranks: TT(_train(shape, ranks)).numel,
    mistakes=(
        (
            lambda shape, ranks: _train_storage(shape, ranks, edge=2),
            "the ranks at the two ends of a train are 1.",
        ),
        (
            lambda shape, ranks: (
                _train_storage(shape, ranks) - shape[0] * ranks[0] - shape[-1] * ranks[-1]
            ),
            "those are the inner cores; the first and the last one are stored too.",
        ),
        (lambda shape, ranks: math.prod(shape), "those are the entries of the full tensor."),
        (
            lambda shape, ranks: sum(n * r for n, r in zip(shape, (*ranks, 1))),
            "a core has three modes: the rank on its left, its size, and the rank on its right.",
        ),
        (
            lambda shape, ranks: sum(n * r for n, r in zip(shape, (1, *ranks))),
            "a core has three modes: the rank on its left, its size, and the rank on its right.",
        ),
        (
            lambda shape, ranks: sum(shape) * max(ranks) ** 2,
            "that is a bound with the largest rank everywhere.",
        ),
    ),
    hint="write the shape (r_left, n, r_right) under each core, with rank 1 at both ends, and add.",
    moral="The count is linear in the number of modes: this is what breaks the curse of "
    "dimensionality.",
)

tt_entry = Check(
    question="Write `tt_entry(cores, index)`: one entry of a tensor train, without forming the "
    "tensor.  cores: a list of "
    "tensors (r_left, n, r_right), index: a tuple of integers.",
    function=True,
    read=lambda answer, *case: _scalar(call(answer, *case)),
    cases=lambda: [
        (_train((3, 3, 3), (2, 2)), (0, 2, 1)),
        (_train((4, 5, 6, 7), (2, 3, 2)), (3, 0, 5, 6)),
        (_train((4,), ()), (2,)),
    ],
    right=lambda cores, index: TT(cores).at([index])[0],
    mistakes=(
        (
            lambda cores, index: math.prod(
                float(core[:, i].sum()) for core, i in zip(cores, index)
            ),
            "each core is summed on its own; neighbours share the rank between them, so multiply "
            "their matrices.",
        ),
        (lambda cores, index: _product(cores, [i - 1 for i in index]), "indices count from 0."),
        (
            lambda cores, index: (
                _product(cores, index[::-1])
                if len({core.shape[1] for core in cores}) == 1
                else None
            ),
            "the indices are taken in the wrong order.",
        ),
        (
            lambda cores, index: math.prod(float(core[0, i, 0]) for core, i in zip(cores, index)),
            "only the first entry of each matrix is used; multiply the matrices.",
        ),
    ),
    hint="core[:, i, :] is a matrix; multiply the d matrices from the left, what remains is 1 by "
    "1.",
    moral="d small products of a vector and a matrix: no cost that is exponential in d.",
)

mode_order = Check(
    question="The tensor x[a, b, c, d] = f[a, c] g[b, d] has generic f and g of shape (4, 4).  "
    "Permute its modes so that "
    "`tt_svd` of `x.permute(order)` stores as few numbers as possible.  Give the order, a tuple "
    "such as (3, 2, 1, 0).",
    read=_read_order,
    right=lambda: min(map(_mode_order_storage, itertools.permutations(range(4)))),
    mistakes=(),
    hint="a smaller train is possible.  Look at the ranks: which modes depend on each other, and "
    "do they stand side by side?",
    moral="Ranks measure what crosses a cut: neighbours should be the modes that belong together.",
    rtol=1e-9,
)
