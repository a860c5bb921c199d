"""A character model trained from scratch with TT-matrices and with low rank at equal numbers of
parameters [Chekalina2023].

All linear layers in the blocks of a small GPT are TT-matrices of two cores, or products of two thin
matrices, with at most a given share of the dense layers' numbers. For each the learning rate is the
best of a grid on the text's valid part, at seed 0; then every seed runs at it, and what is compared
is bits per character of the test part. Preset quick: one share, one seed, few steps. Preset full:
shares of 20, 40 and 60 %, three seeds.

The printed perplexities are the talk's for GPT-2 medium on WikiText-103, per word and at shares of
the whole model: another text, other units and 355 million numbers. Only their order compares with
ours.
"""

import functools
import statistics
from collections.abc import Iterator

import torch
from torch import Tensor

from .. import datasets
from ..formats.lowrank import LowRank
from ..formats.ttmatrix import TTMatrix
from ..layers.linear import param_groups
from ..layers.report import layer_report
from ..layers.surgery import replace_linear
from ..models.gpt import GPT, Characters, bits_per_character, train
from ..models.training import data_parallel
from ..multilinear import balanced_shape
from .program import Program, beside_printed
from .table import Table

SIZES = {
    "quick": {"shares": (20,), "rates": (3e-3,), "seeds": (0,), "steps": 120, "width": 64},
    "full": {
        "shares": (20, 40, 60),
        "rates": (1e-3, 3e-3, 1e-2),
        "seeds": (0, 1, 2),
        "steps": 300,
        "width": 128,
    },
}
BATCH, CONTEXT, DEPTH = 8, 64, 2


def cases(size: dict):
    """Layers, share in %, learning rate, seed: each rate at seed 0, the other seeds at the best."""

    def rows(table):
        kinds = [(layers, share) for share in size["shares"] for layers in START]
        for layers, share in [*kinds, ("dense", 100)]:
            yield from tuned(table, size, layers=layers, share=share)

    return rows


def tuned(table: Table, size: dict, **label) -> Iterator[list[dict]]:
    """Each learning rate at seed 0, then the other seeds at the one that is best on valid."""
    yield [label | {"rate": rate, "seed": 0} for rate in size["rates"]]
    rate = at_best_rate(table, **label)[0]["rate"]
    yield [label | {"rate": rate, "seed": seed} for seed in size["seeds"][1:]]


def at_best_rate(table: Table, **label) -> list[dict]:
    """The rows at the learning rate that is best on valid at seed 0, that seed first."""
    best = min(table.where(**label, seed=0), key=lambda row: row["valid bits"])
    return table.where(**label, rate=best["rate"])


def over_seeds(rows: list[dict]) -> dict:
    """How many seeds there are, mean and spread of their test bits."""
    bits = [row["test bits"] for row in rows]
    spread = statistics.stdev(bits) if len(bits) > 1 else None
    return {"seeds": len(bits), "test bits": statistics.mean(bits), "spread": spread}


def measure(size: dict, layers: str, share: int, rate: float, seed: int) -> dict:
    """Numbers in the blocks' weights, bits per character of valid and test."""
    text, tokens = corpus()
    g = torch.Generator().manual_seed(seed)
    model = GPT(text.size, width=size["width"], depth=DEPTH, context=CONTEXT, generator=g)
    if layers != "dense":
        replace_linear(model, "blocks.*", lambda w: START[layers](w.shape, share / 100, g))
    adam = torch.optim.Adam(param_groups(model, rate), betas=(0.9, 0.95))
    wrapped = data_parallel(model)
    for _ in train(wrapped, adam, tokens["train"], steps=size["steps"], batch=BATCH, generator=g):
        pass
    rows = layer_report(model).rows
    numbers = sum(row.parameters for row in rows if row.name.startswith("blocks."))
    bits = lambda part: round(bits_per_character(model, tokens[part]), 4)
    return {"numbers": numbers, "valid bits": bits("valid"), "test bits": bits("test")}


def settings(size: dict) -> dict:
    kept = {name: size[name] for name in ("steps", "width")}
    fixed = {"batch": BATCH, "context": CONTEXT, "depth": DEPTH}
    return kept | fixed | {"corpus": f"pydoc, {len(corpus()[0].text)} characters"}


@functools.cache
def corpus() -> tuple[Characters, dict[str, Tensor]]:
    """The text, and the tokens of its parts."""
    text = Characters(datasets.corpus())
    return text, {part: text.encode(text.part(part)) for part in ("train", "valid", "test")}


def summary(table: Table) -> Table:
    """One row for each kind of layers and share: the rate that was best on valid, mean and spread
    of test bits over seeds."""
    rows = []
    ours = [row for row in table.rows if row.get("test bits") is not None]  # not what is printed
    for layers, share in dict.fromkeys((row["layers"], row["share"]) for row in ours):
        mine = at_best_rate(table, layers=layers, share=share)
        kept = {name: mine[0][name] for name in ("layers", "share", "numbers", "rate")}
        rows.append(kept | over_seeds(mine))
    return Table(table.key, rows, table.notes)


def low_rank(shape, share: float, generator) -> LowRank:
    """A start of the largest rank that stores at most this share of the dense matrix, and at least
    of rank 1."""
    out, in_ = shape
    return LowRank.randn(
        shape, max(1, int(share * out * in_ / (out + in_))), generator=generator
    ).initial()


def tt_matrix(shape, share: float, generator) -> TTMatrix:
    """The same of a TT-matrix of two cores: a core stores rank · out_k · in_k."""
    out, in_ = (balanced_shape(n, 2) for n in shape)
    rank = max(1, int(share * shape[0] * shape[1] / sum(m * n for m, n in zip(out, in_))))
    return TTMatrix.randn(out=out, in_=in_, rank=rank, generator=generator).initial()


START = {"SVD": low_rank, "TTM": tt_matrix}


def draw(table: Table, ax) -> str:
    """Test bits per character against the share of numbers kept, with the spread over seeds;
    returns a sentence."""
    from ..plots import style  # brings matplotlib

    best = summary(table)
    for k, layers in enumerate(START):
        rows = best.where(layers=layers)
        error = [row["spread"] or 0.0 for row in rows]
        bits = [row["test bits"] for row in rows]
        ax.errorbar(
            [row["share"] for row in rows], bits, error, capsize=3, label=layers, **style(k)
        )
    ax.axhline(
        best.where(layers="dense")[0]["test bits"], color="0.4", linestyle=":", label="dense"
    )
    ax.set(xlabel="numbers kept, % of the dense layers'", ylabel="test bits per character")
    ax.legend()
    wins = [
        f"{row['share']} %"
        for row in best.where(layers="TTM")
        if row["test bits"] < best.where(layers="SVD", share=row["share"])[0]["test bits"]
    ]
    return (
        f"At equal numbers TTM reads better than SVD at {', '.join(wins) or 'none'} of the "
        f"shares shown."
    )


PROGRAM = Program(
    "Chekalina2023gpt",
    __doc__,
    SIZES,
    cases,
    measure,
    settings,
    draw,
    finish=beside_printed,
    share="batches",
)
