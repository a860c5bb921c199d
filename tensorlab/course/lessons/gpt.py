"""Lesson 27: which structure the layers of a language model should have."""

import functools
import itertools
import math
from collections.abc import Iterator

import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from ... import plots
from ...formats.blocktt import BlockTT
from ...formats.lowrank import LowRank
from ...formats.ttmatrix import TTMatrix
from ...layers.linear import param_groups
from ...layers.report import layer_flops, layer_report
from ...layers.surgery import replace_linear
from ...models.gpt import GPT, bits_per_character, train
from ...multilinear import balanced_shape
from ...papers import structured, ttm_gpt
from ...papers.table import Table, measured, printed
from ...papers.ttm_gpt import corpus
from ..checks import Check, gaussian
from ..widgets import Explorer, Player, choice, integer

WIDTH, CONTEXT, HEADS, BATCH, RATE = 64, 32, 4, 8, 1e-2
KINDS = {
    "SVD": LowRank.randn,
    "TTM": functools.partial(TTMatrix.randn, cores=2),
    "TTM, 3 cores": functools.partial(TTMatrix.randn, cores=3),
    "BTT": BlockTT.randn,
}
RIVALS = ("dense", "narrow dense", *KINDS)


# ------------------------------------------------------------------------ models of equal size


@functools.cache
def blank(kind: str, shape: tuple[int, int], rank: int):
    """A matrix of a kind, without its numbers."""
    return KINDS[kind](shape, rank, device="meta")


@functools.cache
def largest_rank(kind: str, shape: tuple[int, int], budget: int) -> int:
    """The largest rank with at most so many numbers, and at least 1.

    >>> [largest_rank(kind, (128, 128), 3276) for kind in KINDS]
    [12, 10, 12, 1]
    """
    numel = lambda rank: blank(kind, shape, rank).numel
    rank = 1
    while numel(rank) < numel(rank + 1) <= budget:
        rank += 1
    return rank


def rank_at(kind: str, shape: tuple[int, int], share: int) -> int:
    """The largest rank with at most `share` percent of the dense numbers."""
    return largest_rank(kind, shape, share * math.prod(shape) // 100)


def drawn(kind: str, shape: tuple[int, int], share: int, g: torch.Generator | None = None):
    """A Gaussian matrix of a kind, with at most `share` percent of the dense numbers."""
    return KINDS[kind](shape, rank_at(kind, shape, share), generator=g)


def model(name: str, share: int, g: torch.Generator) -> GPT:
    """A character model of one block, whose linear layers have a structure; "narrow dense" is a
    dense one of fewer units."""
    narrow = HEADS * int(WIDTH * (share / 100) ** 0.5 / HEADS)
    width = narrow if name == "narrow dense" else WIDTH
    made = GPT(corpus()[0].size, width=width, depth=1, heads=HEADS, context=CONTEXT, generator=g)
    if name in KINDS:
        start = lambda w: drawn(name, tuple(w.shape), share, g).initial()
        replace_linear(made, "blocks.*", start)
    return made


def numbers(made: GPT) -> int:
    """How many the weights of the block store."""
    rows = layer_report(made).rows
    return sum(row.parameters for row in rows if row.name.startswith("blocks."))


def learning(name: str, share: int, steps: int, seed: int = 0) -> Iterator[tuple[GPT, float]]:
    """The model and the loss in bits, after each step of training."""
    g = torch.Generator().manual_seed(seed)
    made = model(name, share, g)
    adam = torch.optim.Adam(param_groups(made, RATE), betas=(0.9, 0.95))
    losses = train(made, adam, corpus()[1]["train"], steps=steps, batch=BATCH, generator=g)
    return ((made, loss) for loss in losses)


def outcome(name: str, share: int, steps: int, seed: int) -> dict:
    """Numbers and FLOPs of a character in the block, and test bits per character."""
    *_, (made, _) = learning(name, share, steps, seed)
    test = corpus()[1]["test"]
    flops = layer_flops(made, test[None, :CONTEXT])
    each = sum(n for layer, n in flops.items() if layer.startswith("blocks.")) // CONTEXT
    return {"numbers": numbers(made), "flops": each, "bits": bits_per_character(made, test)}


@functools.cache
def pair_bits() -> float:
    """Test bits of a table of pairs: how often each character follows each in the train part.

    >>> 3 < pair_bits() < math.log2(corpus()[0].size)
    True
    """
    text, tokens = corpus()
    seen = tokens["train"]
    counts = torch.zeros(text.size, text.size, dtype=torch.float64)
    counts.index_put_((seen[:-1], seen[1:]), torch.ones((), dtype=torch.float64), accumulate=True)
    p = (counts + 0.1) / (counts + 0.1).sum(1, keepdim=True)
    a, b = tokens["test"][:-1], tokens["test"][1:]
    return float(-p[a, b].log2().mean())


class WorthExplorer(Explorer):
    """What a share of the numbers is worth: recorded bits against memory, for each learning rate,
    and what a character costs then."""

    figsize = (9.5, 3.6)

    def __init__(self):
        rows = measured("Chekalina2023gpt").rows
        shares, rates = (tuple(sorted({r[of] for r in rows})) for of in ("share", "rate"))
        super().__init__(
            structure=choice("TTM", ("TTM", "SVD")),
            share=choice(20, shares[:-1], label="share of dense, %"),
            rate=choice(0.003, rates, label="learning rate"),
        )

    def draw(self, figure: Figure, structure: str, share: int, rate: float) -> str:
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        table = measured("Chekalina2023gpt")
        for k, name in enumerate(WORTH):
            for other in sorted({row["rate"] for row in table.rows}):
                rows = table.where(layers=name, rate=other, seed=0)
                here = {"label": name} if other == rate else {"alpha": 0.25}
                points = [(4 * row["numbers"] / 1024, row["test bits"]) for row in rows]
                left.plot(*zip(*points), **plots.style(k) | here)
        (now,) = table.where(layers=structure, share=share, rate=rate, seed=0)
        color = plots.COLORS[WORTH.index(structure)]
        at = 4 * now["numbers"] / 1024, now["test bits"]
        left.plot(*at, "o", ms=14, mfc="none", mec=color, mew=1.5)
        left.axhline(pair_bits(), color="0.4", lw=1, ls="--", label="a table of pairs")
        left.set(xlabel="memory of the blocks, KiB", ylabel="test bits per character")
        left.set_xlim(0, 1650)
        left.legend(ncols=2, loc="upper right")
        cost = cost_of(structure, share)
        right.barh([0, -1], [100 * cost[of] for of in cost], color=color, height=0.5)
        right.axvline(100, color="0.4", lw=1, ls="--")
        right.annotate("dense", (100, 0.55), (4, 0), textcoords="offset points", va="center")
        right.set(yticks=[0, -1], yticklabels=list(cost), xlabel="% of the dense blocks'")
        right.set(xlim=(0, 420), ylim=(-1.6, 0.8))
        (dense,) = table.where(layers="dense", rate=rate, seed=0)
        return (
            f"{structure} with {share} % of the numbers, {at[0]:.0f} KiB, at the rate {rate:g}: "
            f"{at[1]:.2f} bits per character after {table.notes['steps']} steps, dense "
            f"{dense['test bits']:.2f}. Core by core it takes {cost['multiply-adds']:.1f} times "
            f"the multiply-adds of dense."
        )


WORTH = ("dense", "SVD", "TTM")


@functools.cache
def cost_of(kind: str, share: int, width: int = 128) -> dict[str, float]:
    """Memory and multiply-adds of the linear layers of a block, as parts of the dense ones.

    >>> {name: round(part, 2) for name, part in cost_of("SVD", 20).items()}
    {'memory': 0.2, 'multiply-adds': 0.2}
    """
    shapes = [(a * width, b * width) for a, b in ((3, 1), (1, 1), (4, 1), (1, 4))]
    layers = [blank(kind, shape, rank_at(kind, shape, share)) for shape in shapes]
    dense = sum(map(math.prod, shapes))
    return {
        "memory": sum(w.numel for w in layers) / dense,
        "multiply-adds": sum(w.flops(1) // 2 for w in layers) / dense,
    }


class LearnPlayer(Player):
    """A character model of structured layers while it learns, beside a dense one."""

    figsize = (8, 3.4)
    length, every, begin = 200, 5, 8

    def __init__(self):
        names = [name for name in RIVALS if name != "dense"]
        super().__init__(
            structure=choice("TTM", names), share=integer(20, 10, 100, label="share, %")
        )

    def steps(self, structure: str, share: int) -> Iterator[dict]:
        runs = [learning(name, share, self.length) for name in ("dense", structure)]
        made, means = model(structure, share, torch.Generator().manual_seed(0)), ([], [])
        yield {"model": made, "means": means}
        for _ in range(self.length // self.every):
            for run, mean in zip(runs, means):
                found = list(itertools.islice(run, self.every))
                made = found[-1][0]
                mean.append(sum(loss for _, loss in found) / len(found))
            yield {"model": made, "means": means}

    def draw(self, figure: Figure, state: dict, structure: str, share: int) -> str:
        ax, means = figure.subplots(), state["means"]
        at = [self.every * (k + 1) for k in range(len(means[0]))]
        for k, (name, mean) in enumerate(zip(("dense", structure), means)):
            ax.plot(at, mean, label=name, **plots.style(k))
        size = corpus()[0].size
        ax.axhline(math.log2(size), color="0.4", lw=1, ls=":", label="any character alike")
        ax.axhline(pair_bits(), color="0.4", lw=1, ls="--", label="a table of pairs")
        ax.set(xlabel="step", ylabel="loss, bits per character", xlim=(0, self.length))
        ax.set_ylim(2.5, 7)
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        dense, now = numbers_of("dense", share), numbers_of(structure, share)
        said = f"{structure} with {now:,} numbers in its block, {now / dense:.0%} of dense"
        if not at:
            return f"{said}, before the first step."
        first, second = (mean[-1] for mean in means)
        return (
            f"{said}, after {at[-1]} steps: {second:.2f} bits per character, dense {first:.2f}. "
            f"It writes: {sample(state['model'])!r}."
        )


@functools.cache
def numbers_of(name: str, share: int) -> int:
    """`numbers` of a model."""
    return numbers(model(name, share, torch.Generator().manual_seed(0)))


def sample(made: GPT, length: int = 24) -> str:
    """What a model writes after a blank."""
    text, g = corpus()[0], torch.Generator().manual_seed(0)
    return text.decode(made.generate(text.encode(" ")[None], length, generator=g)[0])


# ------------------------------------------------------------------------ a layer of equal size

LAYERS = {"out": (1, 1), "up": (4, 1), "down": (1, 4)}  # in widths


def shape_of(layer: str, width: int) -> tuple[int, int]:
    """(out, in) of a linear layer of a block.

    >>> shape_of("up", 128)
    (512, 128)
    """
    out, in_ = LAYERS[layer]
    return out * width, in_ * width


class BudgetExplorer(Explorer):
    """What a share of a layer's numbers buys: ranks, multiply-adds, and rates of the cores."""

    figsize = (9, 3.4)

    def __init__(self):
        super().__init__(
            share=integer(20, 6, 100, label="share, %"),
            layer=choice("out", tuple(LAYERS)),
            width=choice(128, (64, 128, 256)),
        )

    def limits(self, layer: str, width: int, **others) -> dict[str, tuple]:
        shape = shape_of(layer, width)
        one = max(blank(k, shape, 1).numel for k in ("SVD", "TTM", "TTM, 3 cores"))
        return {"share": (math.ceil(100 * one / math.prod(shape)), 100)}

    def draw(self, figure: Figure, share: int, layer: str, width: int) -> str:
        left, right = figure.subplots(1, 2)
        shape, said = shape_of(layer, width), []
        for k, kind in enumerate(KINDS):
            points = [(s, products(kind, shape, s)) for s in range(share % 5 or 5, 101, 5)]
            here = blank(kind, shape, rank_at(kind, shape, share))
            left.semilogy(*zip(*points), label=kind, **plots.style(k, len(points)))
            left.plot(share, here.flops(1) // 2, "o", ms=11, mfc="none", mec=plots.COLORS[k])
            rates = here.lr_multipliers()
            right.plot(range(1, len(rates) + 1), rates, label=kind, **plots.style(k))
            said.append(
                f"{kind} has rank {max(here.ranks)}, stores {here.numel:,} and takes "
                f"{here.flops(1) // 2:,} multiply-adds"
            )
        for ax, level in ((left, math.prod(shape)), (right, 1)):
            ax.axhline(level, color="0.4", ls="--", lw=1, label="dense")
        left.set(xlabel="share of the dense numbers, %", ylabel="multiply-adds for a token")
        right.set(xlabel="core", ylabel="its rate / that of dense", xticks=(1, 2, 3))
        right.set_yscale("log", base=2)
        right.legend()
        return f"Of {math.prod(shape):,} numbers {share} %: {'; '.join(said)}."


def products(kind: str, shape: tuple[int, int], share: int) -> int:
    """Multiply-adds of one token, core by core."""
    return blank(kind, shape, rank_at(kind, shape, share)).flops(1) // 2


# ------------------------------------------------------------------------ recorded results


def draw_outcomes(figure: Figure, runs: dict[str, list[dict]]) -> str:
    """Test bits against numbers and FLOPs, the table of pairs as a line; a sentence."""
    axes = figure.subplots(1, 2, sharey=True)
    for ax, of, label in zip(
        axes, ("numbers", "flops"), ("numbers in the block", "FLOPs of a character")
    ):
        for k, (name, rows) in enumerate(runs.items()):
            at = [row[of] for row in rows], [row["bits"] for row in rows]
            ax.plot(*at, label=name, **plots.style(k) | {"ls": "none", "ms": 7})
        ax.axhline(pair_bits(), color="0.4", ls="--", lw=1, label="a table of pairs")
        ax.set_xscale("log", base=2)
        ax.set(xlabel=label)
    axes[0].set_ylabel("test bits per character")
    axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    said = (f"{name} {bits:.2f}" for name, bits in mean_bits(runs).items())
    return f"Test bits per character: {', '.join(said)}; a table of pairs {pair_bits():.2f}."


def mean_bits(runs: dict[str, list[dict]]) -> dict[str, float]:
    """Means over the seeds.

    >>> mean_bits({"dense": [{"bits": 3.0}, {"bits": 4.0}]})
    {'dense': 3.5}
    """
    return {name: sum(row["bits"] for row in rows) / len(rows) for name, rows in runs.items()}


def recorded() -> Table:
    """What `tensorlab run Chekalina2023gpt` measured: the best rate of each, means over seeds."""
    return ttm_gpt.summary(measured("Chekalina2023gpt"))


def draw_recorded(figure: Figure) -> str:
    """Recorded bits against shares on the left, printed perplexities on the right; a sentence."""
    left, right = figure.subplots(1, 2)
    said = ttm_gpt.draw(measured("Chekalina2023gpt"), left)
    left.set_title("recorded, characters")
    rows = printed("Chekalina2023gpt").rows
    for row in rows:
        at = row["share"], row["perplexity"]
        right.plot(*at, "kx", ms=8)
        side = dict(ha="right", xytext=(-8, -4)) if at[0] > 90 else dict(xytext=(8, -4))
        right.annotate(f"{row['layers']} {at[1]}", at, textcoords="offset points", **side)
    right.set(xlabel="numbers kept, % of the whole model", ylabel="perplexity for a word")
    right.set(title="printed, GPT-2 medium", xlim=(50, 105), ylim=(0, 65))
    values = ", ".join(f"{row['layers']} {row['perplexity']}" for row in rows)
    return f"{said} Printed for a word: {values}."


@functools.cache
def structures() -> dict[str, dict]:
    """The row of each structure at its best rate and rule in the character model of `tensorlab run
    Qiu2024`."""
    rows = structured.best(measured("Qiu2024"), "error").where(data="characters")
    least = {}
    for row in sorted(rows, key=lambda row: row["error"]):
        least.setdefault(row["structure"], row)
    return least


def draw_structures(figure: Figure) -> str:
    """Recorded bits of structures against numbers and FLOPs; a sentence."""
    axes, rows = figure.subplots(1, 2, sharey=True), structures()
    for k, name in enumerate(("dense", "low rank", "TT", "BTT")):
        for ax, of in zip(axes, ("numbers", "flops")):
            look = plots.style(k) | {"ls": "none", "ms": 8}
            ax.plot(rows[name][of], rows[name]["error"], label=name, **look)
    for ax, of in zip(axes, ("numbers in the blocks", "FLOPs of a character")):
        ax.axhline(rows["dense"]["error"], color="0.4", ls="--", lw=1)
        ax.set_xscale("log", base=2)
        ax.set(xlabel=of)
        ax.margins(0.15)
    axes[0].set_ylabel("test bits per character")
    axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    said = (f"{name} {row['error']:.2f} with {row['flops']:,}" for name, row in rows.items())
    return f"Test bits per character and FLOPs: {', '.join(said)}."


def best_rates(rule: str) -> list[float]:
    """The best learning rates of the structured layers on digits at the largest width."""
    rows = structured.best(measured("Qiu2024")).where(data="digits", rule=rule, width=1024)
    return sorted(row["rate"] for row in rows if row["structure"] != "dense")


# ---------------------------------------------------------------------------------------- exercises

perplexity = Check(
    right=lambda: 2 ** (1.2 * 5.6),
    mistakes=(
        (lambda: 2**1.2, "that is the perplexity of a character: a word has 5.6 of them."),
        (lambda: math.e ** (1.2 * 5.6), "bits are logarithms to the base 2."),
        (lambda: 1.2 * 5.6, "those are the bits of a word: two to that power is asked for."),
    ),
    hint="bits of a word are 1.2 · 5.6; the perplexity is two to that power.",
    moral="0.1 bit of a character more is half again as much perplexity of a word: mind the unit.",
)


def _bits(logits, target):
    return F.cross_entropy(logits, target) / math.log(2)


def _logits(n, size):
    return 2 * gaussian((n, size))[0], torch.arange(n) * 3 % size


bits = Check(
    function=True,
    cases=lambda: [_logits(6, 5), _logits(9, 4), (1e3 * gaussian((3, 4))[0], torch.arange(3))],
    right=_bits,
    mistakes=(
        (lambda x, t: F.cross_entropy(x, t), "those are nats: divide by log 2."),
        (lambda x, t: _bits(x, t) * len(t), "take the mean over the characters, not the sum."),
        (lambda x, t: -_bits(x, t), "the sign: bits are -log2 of a probability."),
        (
            lambda x, t: -x.softmax(1)[torch.arange(len(t)), t].mean().log2(),
            "take the mean of the logarithms, not the logarithm of the mean.",
        ),
    ),
    hint="log p = logits - logsumexp(logits), at the target; the mean of -log p over log 2.",
    moral="Any character alike is log2 of the alphabet's size; each bit less halves the choice.",
    forbids=((F.cross_entropy, "write it from logsumexp."), (F.nll_loss, "pick the entries.")),
)


def _svd_rank(out, in_, budget):
    return max(1, budget // (out + in_))


svd_rank = Check(
    function=True,
    cases=lambda: [(512, 128, 13200), (64, 64, 819), (100, 100, 150)],
    right=_svd_rank,
    mistakes=(
        (lambda out, in_, budget: -(-budget // (out + in_)), "round down: it must fit."),
        (lambda out, in_, budget: budget // out, "the second factor is missing: r · in numbers."),
        (lambda out, in_, budget: budget // in_, "the first factor is missing: r · out numbers."),
        (
            lambda out, in_, budget: budget // (out + in_),
            "at least rank 1, even where that is more than the budget.",
        ),
    ),
    hint="r (out + in) numbers: the largest r that fits.",
    moral="And that is the rank of the matrix: all its outputs lie in r directions.",
)


def _pairs(out, in_):
    return balanced_shape(out, 2), balanced_shape(in_, 2)


def _ttm_rank(out, in_, budget):
    (o1, o2), (i1, i2) = _pairs(out, in_)
    return max(1, budget // (o1 * i1 + o2 * i2))


def _crossed(out, in_, budget):
    (o1, o2), (i1, i2) = _pairs(out, in_)
    return max(1, budget // (o1 * i2 + o2 * i1))


def _one_core(out, in_, budget):
    (o1, _), (i1, _) = _pairs(out, in_)
    return budget // (o1 * i1)


ttm_rank = Check(
    function=True,
    cases=lambda: [(96, 35, 1750), (128, 512, 13200), (64, 64, 90)],
    right=_ttm_rank,
    mistakes=(
        (_svd_rank, "that is the rank of an SVD: split both sides first."),
        (_crossed, "pair the larger factors: the first core is r · out_1 · in_1."),
        (_one_core, "that is one core of two."),
        (
            lambda out, in_, budget: budget // (out * in_ + 1) or 1,
            "n = n · 1 is no good split: take the two factors that are nearest to each other.",
        ),
    ),
    hint="out = o1 o2 and in = i1 i2, as equal as can be; r (o1 i1 + o2 i2) numbers.",
    moral="About as many numbers for each rank as an SVD, but the matrix has full rank.",
    forbids=((balanced_shape, "find the two factors by trying them."),),
)


def _rates(in_, rank, cores=2, with_rank=True, back=False):
    i1, i2 = balanced_shape(in_, 2)
    found = in_ / i1 / cores, in_ / (i2 * (rank if with_rank else 1)) / cores
    return found[::-1] if back else found


core_rates = Check(
    function=True,
    cases=lambda: [(96, 80, 3), (64, 64, 8)],
    right=lambda out, in_, rank: TTMatrix.randn((out, in_), rank, device="meta").lr_multipliers(),
    mistakes=(
        (lambda out, in_, rank: _rates(in_, rank, cores=1), "divide by the number of cores."),
        (
            lambda out, in_, rank: _rates(in_, rank, with_rank=False),
            "the fan-in of the second core is r · in_2: it sums over the bond too.",
        ),
        (
            lambda out, in_, rank: _rates(out, rank) if out != in_ else None,
            "the fan-in is of the inputs: split in, not out.",
        ),
        (lambda out, in_, rank: _rates(in_, rank, back=True), "the first core comes first."),
    ),
    hint="in / (i1 · 2) and in / (r i2 · 2).",
    moral="Each entry of a thin core sums over few inputs, so it may take larger steps.",
)


def block_flops_of(width: int, context: int) -> int:
    """FLOPs of a dense block for each token, when attention makes all scores."""
    return 2 * 12 * width**2 + 2 * 2 * context * width


block_flops = Check(
    function=True,
    cases=lambda: [(64, 32), (128, 64)],
    right=block_flops_of,
    mistakes=(
        (lambda w, t: block_flops_of(w, t) // 2, "a multiply-add is two FLOPs."),
        (lambda w, t: 24 * w**2, "scores and sums of attention are missing: 4 · context · width."),
        (lambda w, t: 8 * w**2 + 4 * t * w, "the two layers after attention are missing."),
        (lambda w, t: block_flops_of(w, t) * t, "that is the whole text: one token is asked for."),
    ),
    hint="2 (4 + 8) width² of the linear layers, and 2 · 2 · context · width.",
    moral="Until the context is six times the width, the linear layers are most: replace those.",
)


def _share(more: int = 0) -> int:
    shape = shape_of("out", 128)
    dense = math.prod(shape) + more
    return max(s for s in range(2, 101) if products("TTM", shape, s) <= dense)


ttm_share = Check(
    right=_share,
    mistakes=(
        (lambda: _share() + 1, "there the TTM already takes more than dense."),
        (lambda: _share() - 1, "one percent more is still no more than dense."),
        (lambda: 100, "look at the multiply-adds, not at the numbers."),
    ),
    hint="the sentence has the multiply-adds of TTM; the dense layer takes 128 · 128.",
    moral="Core by core a TTM shares each number among many products: few numbers, much work.",
)
