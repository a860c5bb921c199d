"""Lesson 18: which weights may fall, and what it costs to find out."""

import copy
import functools
from collections.abc import Iterator

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ... import plots
from ...formats.lowrank import LowRank
from ...layers.linear import redraw
from ...layers.surgery import replace_linear
from ...methods.pruning import (
    block_masks,
    forward_flops,
    hold,
    lottery,
    magnitude_masks,
    prune,
    sparsity,
)
from ...models.mlp import MLP
from ...models.training import accuracy, train
from ...papers import competitors
from ...papers.table import measured
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
    """Test accuracy after the cut, against the share that falls, for each kind of block; and for
    the rival, truncated SVDs that store as many numbers as stay."""
    *_, x, y = digits()
    found = {
        block: [(share, accuracy(cut(share, block)[0], x, y)) for share in SHARES]
        for block in BLOCKS
    }
    found["low rank"] = []
    for rank in range(32, 0, -1):  # 128 numbers for each rank, of 4096
        model = replace_linear(copy.deepcopy(trained()), LAYERS, LowRank.from_dense, rank)
        found["low rank"].append((1 - rank / 32, accuracy(model, x, y)))
    return found


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
    """Iterative pruning of a network on the digits: sparsity, words of 32 bits for the weights that
    stay and for which they are, test accuracy, and the FLOPs of all trainings so far.

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
            "numbers": words(ticket.masks, BLOCKS[block]),
            "accuracy": right,
            "flops": spent,
            "dense_flops": dense,
        }


def words(masks: dict[str, Tensor], block: tuple[int, int] = (1, 1)) -> int:
    """Words of 32 bits for the kept weights and for which they are; the dense weights need no
    mask.

    >>> words({"0": torch.ones(4, 8) > 0}), words({"0": torch.eye(32) > 0})
    (32, 42)
    """
    total = sum(int(m.sum()) for m in masks.values())
    if all(bool(m.all()) for m in masks.values()):
        return total
    places = [m[:: block[0], :: block[1]] for m in masks.values()]
    return total + sum(map(competitors.mask_words, places))


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


RANKS = (1, 2, 4, 8, 16)


def compare(
    *, rounds: int, prune_rate: float, epochs: int, seeds: int
) -> dict[str, list[list[dict]]]:
    """Rows along rounds (or ranks) of each seed: tickets, their mask on new weights, tickets of
    blocks, and a low rank trained once."""
    setting = dict(rounds=rounds, prune_rate=prune_rate, epochs=epochs)
    ways = {"ticket": {}, "new weights": {"fresh": True}, "8 x 8 blocks": {"block": "8 x 8"}}
    found = {
        way: [list(ticket_rows(seed=seed, **setting, **kind)) for seed in range(seeds)]
        for way, kind in ways.items()
    }
    found["low rank, once"] = [
        [low_rank_row(rank, epochs=epochs, seed=seed) for rank in RANKS] for seed in range(seeds)
    ]
    return found


def mean(runs: list[list[dict]], place: int, column: str = "accuracy") -> float:
    """The mean over seeds at one place, such as the last round; of an accuracy in percent."""
    values = [rows[place][column] for rows in runs]
    return sum(values) / len(values) * (100 if column == "accuracy" else 1)


def draw_compared(figure: Figure, found: dict[str, list[list[dict]]]) -> str:
    """Accuracy against words stored, and against what all trainings so far have cost, with the
    range of the seeds; the dense network as a line; a sentence."""
    dense = [100 * rows[0]["accuracy"] for rows in found["ticket"]]
    one = found["ticket"][0][0]["flops"]
    axes, said = figure.subplots(1, 2, sharey=True), []
    for ax, of, label in (
        (axes[0], lambda row: row["numbers"], "words stored"),
        (axes[1], lambda row: row["flops"] / one, "paid, in dense trainings"),
    ):
        points = {
            way: [(of(rows[0]), [100 * row["accuracy"] for row in rows]) for rows in zip(*runs)]
            for way, runs in found.items()
        }
        said.append(plots.spread(ax, points | {"dense": [(1, dense)]}, label, "% right"))
        ax.get_legend().remove()
    axes[0].set_xscale("log")
    axes[1].set_ylabel("")
    axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return " ".join(said)


# -- the recorded run


def recorded() -> dict[tuple[str, float], dict]:
    """By way and setting, at the best rate of each: accuracy in % of each seed, words stored with
    those of a mask, multiply-adds over those of the dense network, CPU s over its own."""
    table = measured(competitors.PROGRAM.key)
    rows = competitors.summary(table).rows
    (dense,) = (row for row in rows if row["way"] == "dense")
    found = {}
    for row in rows:
        runs = table.where(way=row["way"], setting=row["setting"], rate=row["rate"])
        found[row["way"], row["setting"]] = {
            "test": [run["test"] for run in runs],
            "mean": row["test"],
            "words": row["stored"] + row["mask"],
            "cost": row["of dense"],
            "seconds": row["cpu s"] / dense["cpu s"],
            "passes": row["passes"] / dense["passes"],
        }
    return found


def draw_recorded(figure: Figure, found: dict[tuple, dict]) -> str:
    """`recorded`: a row for each way, the most accurate on top; its accuracy with whiskers from the
    least seed to the largest, the words stored, and the multiply-adds of the training; dense as a
    line; a sentence."""
    rows = sorted(found.items(), key=lambda item: item[1]["mean"])
    ways = [way for way, _ in found]
    axes = figure.subplots(1, 3, sharey=True, width_ratios=(5, 3, 3))
    for y, ((way, _), of) in enumerate(rows):
        color = "0.3" if way == "dense" else plots.COLORS[int(way.startswith("DLRT"))]
        look = dict(fmt="o", color=color, ms=5, capsize=2)
        bars = [[max(0.0, of["mean"] - min(of["test"]))], [max(0.0, max(of["test"]) - of["mean"])]]
        axes[0].errorbar(of["mean"], y, xerr=bars, **look)
        for ax, column in zip(axes[1:], ("words", "cost")):
            ax.errorbar(of[column], y, **look)
    for ax, column in zip(axes, ("mean", "words", "cost")):
        ax.axvline(found["dense", 0][column], color="0.4", lw=1, ls="--")
    axes[0].set(xlabel="% right")
    names = (way if ways.count(way) == 1 else f"{way}, {at:g}" for (way, at), _ in rows)
    axes[0].set_yticks(range(len(rows)), list(names))
    for ax, ticks, label in (
        (axes[1], (4000, 8000, 16000), "words stored"),
        (axes[2], (0.2, 0.5, 1, 2, 5, 10), "multiply-adds, dense = 1"),
    ):
        ax.set(xscale="log", xlabel=label)
        ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
        ax.minorticks_off()
    said = (f"{way} {of['mean']:.1f} % with {of['words']:,}" for (way, _), of in found.items())
    return f"Accuracy and words stored: {', '.join(said)}."


# -- the exercises


def _keep(scores, share, largest=True):
    """1 where a score stays when round(share n) of the smallest fall; and what may go wrong."""
    falls = round(share * scores.numel())
    order = scores.flatten().argsort(descending=not largest)
    stays = torch.ones(scores.numel(), dtype=torch.float64)
    stays[order[:falls]] = 0
    return stays.view_as(scores)


def _blocks(w, share, b, how=lambda t: t.square().sum((1, 3)), **more):
    scores = how(w.unflatten(1, (-1, b)).unflatten(0, (-1, b)))
    return torch.kron(_keep(scores, share, **more), torch.ones(b, b, dtype=torch.float64))


def _next(w, m, p, of_all=False):
    left = torch.where(m > 0, w.abs(), -1.0)  # what has fallen is the smallest
    gone = int((m == 0).sum())
    falls = round(p * (m.numel() if of_all else int(m.sum())))
    return _keep(left, (gone + falls) / m.numel())


def _thinned(m, n):
    """Weights and a mask under which two of the smallest have fallen and four of the largest."""
    (w,) = gaussian((m, n))
    mask = torch.ones(m * n, dtype=torch.float64)
    mask[w.abs().flatten().argsort()[[0, 1, -4, -3, -2, -1]]] = 0
    return w, mask.view(m, n)


def _draw(w0, train, p, rounds, rewind=True):
    m, w = torch.ones_like(w0), w0
    for _ in range(rounds):
        w = train(m * (w0 if rewind else w), m)
        m = _next(w, m, p)
    return m


def _toy(m, n, p, rounds):
    """A start and a training that does not forget it: six steps for |W X - Y|², X in unlike
    directions."""
    w0, x, y = gaussian((m, n), (n, 2 * n), (m, 2 * n))
    x = x * torch.logspace(0, -1.5, n, dtype=torch.float64)[:, None]

    def train(w, mask):
        for _ in range(6):
            w = w - 0.02 * mask * ((w @ x - y) @ x.T)
        return w

    return w0, train, p, rounds


lottery_left = Check(
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

kept = Check(
    function=True,
    cases=lambda: [(gaussian((4, 5))[0].abs(), 0.3), (gaussian((3, 3))[0].abs(), 0.7)],
    right=_keep,
    mistakes=(
        (lambda scores, share: 1 - _keep(scores, share), "those are the ones that fall."),
        (
            lambda scores, share: _keep(scores, share, largest=False),
            "the largest have fallen.",
        ),
        (
            lambda scores, share: _keep(scores, 1 - share),
            "that is the share that stays: share is what falls.",
        ),
        (
            lambda scores, share: (scores > share * scores.max()).double(),
            "that is a threshold on the size; count: round(share * scores.numel()) fall.",
        ),
    ),
    hint="scores.flatten().argsort() begins with the places of the smallest.",
    moral="Of all masks with so many ones it changes the tensor least.",
    forbids=((magnitude_masks, "build it: sort the scores."),),
)

block_mask = Check(
    function=True,
    cases=lambda: [(*gaussian((6, 8)), 0.25, 2), (*gaussian((9, 6)), 0.34, 3)],
    right=_blocks,
    mistakes=(
        (lambda w, share, b: 1 - _blocks(w, share, b), "those are the blocks that fall."),
        (
            lambda w, share, b: _keep(w.abs(), share),
            "whole blocks fall, these are entries.",
        ),
        (
            lambda w, share, b: _blocks(w, share, b, how=lambda t: t.sum((1, 3))),
            "weights of two signs cancel: square them first.",
        ),
        (
            lambda w, share, b: _blocks(w, share, b, largest=False),
            "the blocks with the largest sums have fallen.",
        ),
    ),
    hint="reshape w to (rows of blocks, b, columns of blocks, b), sum the squares over the two b, "
    "and use `kept`.",
    moral="Entries leave holes that dense arithmetic multiplies all the same; blocks are skipped.",
    forbids=((block_masks, "build it from your `kept`."),),
)

next_mask = Check(
    function=True,
    cases=lambda: [
        (*_thinned(4, 5), 0.5),
        (gaussian((6, 6))[0], torch.ones(6, 6, dtype=torch.float64), 0.25),
    ],
    right=_next,
    mistakes=(
        (
            lambda w, m, p: _keep(w.abs(), p),
            "what fell before has come back: m is what was left.",
        ),
        (
            lambda w, m, p: _next(w, m, p, of_all=True),
            "p is a share of what is left, not of all.",
        ),
        (lambda w, m, p: m * _keep(w.abs(), p), "the weights that fell before count no more."),
        (lambda w, m, p: m, "nothing has fallen in this round."),
    ),
    hint="give what has fallen the score -1, so that it falls again; then "
    "(fallen + round(p * left)) / all is the share for `kept`.",
    moral="Geometric: (1 - p)^k is left after k rounds.",
)

ticket = Check(
    function=True,
    cases=lambda: [_toy(4, 6, 0.5, 3), _toy(5, 4, 0.5, 2)],
    right=_draw,
    mistakes=(
        (
            lambda *case: _draw(*case, rewind=False),
            "each round begins with w0 again, not with what was trained.",
        ),
        (
            lambda w0, train, p, rounds: _draw(w0, train, p, rounds + 1),
            "that is one round too many.",
        ),
        (lambda w0, train, p, rounds: _draw(w0, train, p, 1), "that is the mask of one round."),
        (
            lambda w0, train, p, rounds: _draw(w0, lambda w, m: w, p, rounds),
            "the network is trained before each pruning.",
        ),
        (
            lambda w0, train, p, rounds: train(m := _draw(w0, train, p, rounds), m),
            "the mask is asked for, not the weights.",
        ),
    ),
    hint="m = ones; in each round w = train(m * w0, m), then m = next_mask(w, m, p).",
    moral="The lottery: as many trainings as rounds, for one mask.",
    forbids=((lottery, "`lottery` is what you are to build."),),
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
    hint="1 + 0.8 + 0.8² + ...: six terms.",
    moral="The ticket is cheap, the lottery is not: several dense trainings, with hardware that "
    "gains from zeros.",
    rtol=1e-3,
)

bearable = Check(
    right=lambda: max(share for share, right in curves()["entries"] if right > 0.9),
    mistakes=(
        (
            lambda: max(share for share, right in curves()["8 x 8"] if right > 0.9),
            "that is for blocks of 8 x 8; entries bear more.",
        ),
        (
            lambda: max(share for share, right in curves()["entries"] if right > 0.9) - 0.05,
            "one step further it still reads 90 %.",
        ),
    ),
    hint="move the first slider, and read the last number of the sentence.",
    moral="Without any further training; with it the network bears more.",
    rtol=1e-3,
)
