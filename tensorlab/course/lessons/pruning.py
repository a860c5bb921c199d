"""Lesson 18: which weights may fall, and what it costs to find out."""

import copy
import functools
from collections.abc import Iterator

import torch
from matplotlib.figure import Figure
from torch import nn

from ... import plots
from ...formats.lowrank import LowRank
from ...layers.linear import redraw
from ...layers.surgery import replace_linear
from ...methods.pruning import block_masks, forward_flops, hold, lottery, prune, sparsity
from ...models.mlp import MLP
from ...models.training import accuracy, train
from ..checks import Check, gaussian
from ..digits import digits
from ..widgets import Explorer, choice, decimal

BLOCKS = {"entries": (1, 1), "2 x 2": (2, 2), "8 x 8": (8, 8), "rows": (1, 64)}
LAYERS = ["layers.0", "layers.1"]
SHARES = tuple(k / 20 for k in range(20))


@functools.cache
def trained(seed: int = 0, epochs: int = 10) -> MLP:
    """64 -> 64 -> 64 -> 10 on the digits."""
    x, y, *_ = digits()
    g = torch.Generator().manual_seed(seed)
    model = MLP((64, 64, 64, 10), generator=g)
    list(train(model, torch.optim.Adam(model.parameters(), 3e-3), x, y, epochs=epochs, generator=g))
    return model


def cut(share: float, block: str) -> tuple[MLP, dict]:
    """The trained network without the share of its smallest weights, not trained on; and the
    masks."""
    model = copy.deepcopy(trained())
    masks = block_masks(model, LAYERS, share, BLOCKS[block])
    return prune(model, masks), masks


@functools.cache
def curves() -> dict[str, list[tuple[float, float]]]:
    """Test accuracy after the cut, against the share that falls, for each kind of block."""
    *_, x, y = digits()
    return {
        block: [(share, accuracy(cut(share, block)[0], x, y)) for share in SHARES]
        for block in BLOCKS
    }


class PruneExplorer(Explorer):
    """The weights that stay, and what the network still knows."""

    figsize = (9, 3.6)

    def __init__(self):
        super().__init__(
            share=decimal(0.6, 0, 0.95, step=0.05, label="share that falls"),
            block=choice("entries", tuple(BLOCKS)),
        )

    def draw(self, figure: Figure, share: float, block: str) -> str:
        *_, x, y = digits()
        left, right = figure.subplots(1, 2)
        model, masks = cut(share, block)
        here = accuracy(model, x, y)
        seen = plots.kept_weights(
            left, trained().layers[1].weight, masks["layers.1"], "layers.1, 64 x 64"
        )
        plots.shares(right, curves(), "share that falls", "accuracy", (share, here))
        fell = f"{100 * sparsity(masks):.1f} % of the two hidden weight matrices are cut"
        right_now = f"{100 * here:.1f} % of the test images are right"
        return f"In layers.1 {seen} In all, {fell}; without any further training {right_now}."


# -- the experiment


def ticket_rows(
    *,
    rounds: int,
    prune_rate: float,
    epochs: int,
    block: str = "entries",
    fresh: bool = False,
    seed: int = 0,
) -> Iterator[dict]:
    """Iterative pruning of a network on the digits: sparsity, test accuracy, and the FLOPs of all
    trainings so far.

    fresh: the control, new random weights in each round under the masks that were found.
    """
    x, y, test_x, test_y = digits()
    g = torch.Generator().manual_seed(seed)
    model, spent, dense = MLP((64, 64, 64, 10), generator=g), 0, 0

    def fit(model, masks):
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        hold(optimizer, model, masks)
        list(train(model, optimizer, x, y, epochs=epochs, generator=g))
        return epochs * len(y)

    restart = (lambda m: redraw(m, g)) if fresh else None
    for ticket in lottery(
        model,
        fit,
        LAYERS,
        x[:1],
        rounds=rounds,
        prune_rate=prune_rate,
        block=BLOCKS[block],
        restart=restart,
    ):
        spent, dense = spent + ticket.flops, dense + ticket.dense_flops
        right = accuracy(model, test_x, test_y)
        yield {
            "round": ticket.round,
            "sparsity": ticket.sparsity,
            "accuracy": right,
            "flops": spent,
            "dense_flops": dense,
        }


def low_rank_row(rank: int, *, epochs: int, seed: int = 0) -> dict:
    """The same network with two factors in place of the pruned layers, trained once from an SVD of
    its start."""
    x, y, test_x, test_y = digits()
    g = torch.Generator().manual_seed(seed)
    model = MLP((64, 64, 64, 10), generator=g)
    per_example = forward_flops(model, x[:1])
    replace_linear(model, LAYERS, LowRank.from_dense, rank)
    list(train(model, torch.optim.Adam(model.parameters(), 3e-3), x, y, epochs=epochs, generator=g))
    numbers = sum(layer.weight.numel for layer in model.layers[:2])
    per_example += 2 * (numbers - 2 * 64 * 64)
    return {
        "numbers": numbers,
        "accuracy": accuracy(model, test_x, test_y),
        "flops": 3 * per_example * epochs * len(y),
    }


# -- the exercises


lottery_left = Check(
    question="In each of 5 rounds a fifth of the weights that are left falls.  What share of all "
    "weights is left after the fifth?",
    right=lambda: (1 - 0.2) ** 5,
    mistakes=(
        (lambda: 1 - (1 - 0.2) ** 5, "that share has fallen."),
        (lambda: 1 - 5 * 0.2, "it is a fifth of what is left, not of the whole."),
        (
            lambda: (1 - 0.2) ** 6,
            "the network before the first round is dense: count the rounds again.",
        ),
    ),
    hint="each round multiplies what is left by the same number.",
    moral="Late rounds take few weights: a sparse ticket needs many trainings.",
)


def _keep(w, share, b, how=lambda t: t.square().sum((1, 3)), largest=True):
    scores = how(w.unflatten(1, (-1, b)).unflatten(0, (-1, b)))
    order = scores.flatten().argsort(descending=not largest)
    stays = torch.ones(scores.numel(), dtype=w.dtype)
    stays[order[: round(share * len(stays))]] = 0
    return torch.kron(stays.view_as(scores), torch.ones(b, b, dtype=w.dtype))


def _by_the_package(w, share, b):
    layer = nn.Linear(w.shape[1], w.shape[0], bias=False)
    layer.weight = nn.Parameter(w)
    return block_masks(nn.ModuleList([layer]), "0", share, (b, b))["0"]


block_mask = Check(
    question="Write `block_mask(w, share, b)`: 1 where a weight stays and 0 where it falls, when "
    "of the b x b blocks of w those "
    "with the smallest sum of squares fall, round(share · number of blocks) of them.  b divides "
    "both sides.",
    function=True,
    cases=lambda: [(*gaussian((6, 8)), 0.25, 2), (*gaussian((9, 6)), 0.34, 3)],
    right=_by_the_package,
    mistakes=(
        (
            lambda w, share, b: 1 - _by_the_package(w, share, b).double(),
            "those are the blocks that fall.",
        ),
        (lambda w, share, b: _keep(w, share, 1), "whole blocks fall, these are entries."),
        (
            lambda w, share, b: _keep(w, share, b, how=lambda t: t.sum((1, 3))),
            "weights of two signs cancel: square them first.",
        ),
        (
            lambda w, share, b: _keep(w, share, b, largest=False),
            "the blocks with the largest sums have fallen.",
        ),
    ),
    hint="reshape w to (rows of blocks, b, columns of blocks, b), sum the squares over the two b, "
    "and compare with a threshold.",
    moral="Entries leave holes that dense arithmetic multiplies all the same; blocks are skipped.",
)


def _cost(rounds, dense=False, first=0):
    layer = nn.Sequential(nn.Linear(100, 100))
    tickets = list(
        lottery(
            layer, lambda model, masks: 1, "*", torch.ones(1, 100), rounds=rounds, prune_rate=0.2
        )
    )
    return (
        sum(t.dense_flops if dense else t.flops for t in tickets[first:]) / tickets[0].dense_flops
    )


cost_of_a_ticket = Check(
    question="A dense training, and then five rounds in which a fifth of what is left falls and "
    "the network is trained again, as "
    "long as the first time.  How many dense trainings does all of this cost, if a weight that has "
    "fallen costs nothing?  "
    "(`lottery` gives the FLOPs.)",
    right=lambda: _cost(5),
    mistakes=(
        (
            lambda: _cost(5, dense=True),
            "so much it costs on hardware that multiplies with the zeros, too.",
        ),
        (lambda: _cost(5, first=5), "that is the last training alone; all before it were needed."),
        (lambda: _cost(5, first=1), "the dense training comes first, and counts."),
        (lambda: _cost(4), "there are six trainings in all."),
    ),
    hint="add the `flops` of all tickets and divide by the `dense_flops` of the first.",
    moral="The ticket is cheap, the lottery is not: several dense trainings, with hardware that "
    "gains from zeros.",
    rtol=1e-3,
)
