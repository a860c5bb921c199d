"""Structured layers: error against parameters and FLOPs, and the learning rate that each core asks
for [Qiu2024].

A network in -> width -> width -> classes on digits, and in preset full a character model, with one
structure in place of its dense inner layers. Every structure runs at each learning rate of a grid
under two rules: "core" gives each core the share that its fan-in asks for, "dense" what a dense
weight in its place would get; widths are scaled from 64 by both. The best rate of a rule should
stay where it is as the width grows; the error at it, against FLOPs, is what the structures are
compared by.
"""

import functools
import math

import torch
from torch import nn

from .. import datasets
from ..formats.blocktt import BlockTT
from ..formats.kronecker import Kronecker
from ..formats.lowrank import LowRank
from ..formats.monarch import Monarch
from ..formats.ttmatrix import TTMatrix
from ..layers.linear import param_groups
from ..layers.report import layer_report
from ..layers.surgery import replace_linear
from ..models.gpt import GPT, Characters, bits_per_character
from ..models.gpt import train as train_gpt
from ..models.mlp import MLP
from ..models.training import accuracy, data_parallel, shuffled_parts, train
from ..multilinear import balanced_shape
from .program import Program
from .table import Table

BASE = 64  # the width whose learning rates the others are scaled from
# Each has about width^1.5 numbers, but for the TT-matrix and the Kronecker product: they share
# theirs.
STRUCTURES = {
    "dense": None,
    "low rank": lambda shape, g: LowRank.randn(shape, _root(shape), generator=g),
    "Kronecker": lambda shape, g: Kronecker.randn(shape, 1, generator=g),
    "TT": lambda shape, g: TTMatrix.randn(
        out=balanced_shape(shape[0], 2),
        in_=balanced_shape(shape[1], 2),
        rank=_root(shape),
        generator=g,
    ),
    "Monarch": lambda shape, g: Monarch.randn(shape, 4, generator=g),
    "BTT": lambda shape, g: BlockTT.randn(shape, 1, generator=g),
}
TEXT = {
    "structures": ("dense", "low rank", "TT", "BTT"),
    "width": 128,
    "rates": (3e-3, 1e-2),
    "steps": 200,
}
SIZES = {
    "quick": {
        "structures": ("dense", "low rank", "TT", "BTT"),
        "widths": (64, 256),
        "rates": (3e-3, 1e-2, 3e-2),
        "epochs": 5,
        "text": None,
    },
    "full": {
        "structures": tuple(STRUCTURES),
        "widths": (64, 256, 1024),
        "rates": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
        "epochs": 10,
        "text": TEXT,
    },
}


def cases(size: dict) -> list[dict]:
    """Data, structure, width, rule and rate."""
    rows = _cases("digits", size["structures"], size["widths"], size["rates"])
    if text := size["text"]:
        rows += _cases("characters", text["structures"], [text["width"]], text["rates"])
    return rows


def measure(size: dict, data: str, **case) -> dict:
    """Numbers and FLOPs of the structured layers, training loss, error.

    Error: wrong digits of the test part in %, or bits per character of the test part of the text.
    """
    return digits(size["epochs"], **case) if data == "digits" else characters(size["text"], **case)


def settings(size: dict) -> dict:
    steps = {"steps": size["text"]["steps"]} if size["text"] else {}
    return {"epochs": size["epochs"], "base width": BASE, "seed": 0} | steps


def digits(epochs: int, structure: str, width: int, rule: str, rate: float) -> dict:
    """One row of the network on digits."""
    x, y, x_test, y_test = shuffled_parts(*datasets.digits(), 1300)
    g = torch.Generator().manual_seed(0)
    start = lambda w: build(MLP((64, w, w, 10), generator=g), "layers.1", structure, g)
    model, base = start(width), start(BASE)
    adam = torch.optim.Adam(param_groups(model, rate, base=base, per_core=rule == "core"))
    losses = list(train(data_parallel(model), adam, x, y, epochs=epochs, generator=g))
    error = 100 * (1 - accuracy(model, x_test, y_test))
    return _counts(model, "layers.1") | {"loss": round(losses[-1], 4), "error": round(error, 2)}


def characters(size: dict, structure: str, width: int, rule: str, rate: float) -> dict:
    """One row of the character model."""
    text = corpus()
    g = torch.Generator().manual_seed(0)
    start = lambda w: build(GPT(text.size, width=w, generator=g), "blocks.*", structure, g)
    model, base = start(width), start(BASE)
    groups = param_groups(model, rate, base=base, per_core=rule == "core")
    adam = torch.optim.Adam(groups, betas=(0.9, 0.95))
    tokens = text.encode(text.part("train"))
    losses = list(train_gpt(data_parallel(model), adam, tokens, steps=size["steps"], generator=g))
    bits = bits_per_character(model, text.encode(text.part("test")))
    loss = sum(losses[-20:]) / 20
    return _counts(model, "blocks.") | {"loss": round(loss, 4), "error": round(bits, 4)}


@functools.cache
def corpus() -> Characters:
    return Characters(datasets.corpus())


def build(model: nn.Module, names: str, structure: str, generator: torch.Generator) -> nn.Module:
    """The model with the chosen layers of a structure, started anew; dense layers stay as they
    are."""
    make = STRUCTURES[structure]
    return (
        model
        if make is None
        else replace_linear(model, names, lambda w: make(tuple(w.shape), generator).initial())
    )


def best(table: Table, measure: str = "loss") -> Table:
    """For each data, structure, width and rule the row whose rate gives the least of `measure`."""
    names = ("data", "structure", "width", "rule")
    label = lambda row: tuple(row[name] for name in names)
    rows = {}
    for row in sorted(table.rows, key=lambda row: row[measure]):
        rows.setdefault(label(row), row)
    return Table(
        table.key, [rows[key] for key in dict.fromkeys(map(label, table.rows))], table.notes
    )


def draw(table: Table, ax) -> str:
    """Training loss on digits against the learning rate at the largest width, both rules of each
    structure; a sentence."""
    from ..plots import style  # brings matplotlib

    drawn = Table(
        table.key,
        [row for row in table.where(data="digits") if row["width"] == max(table["width"])],
    )
    for k, structure in enumerate(dict.fromkeys(drawn["structure"])):
        for rule, line in (("core", "-"), ("dense", ":")):
            points = drawn.where(structure=structure, rule=rule)
            label = structure if rule == "core" else None
            ax.plot(
                [r["rate"] for r in points],
                [r["loss"] for r in points],
                label=label,
                **style(k) | {"ls": line},
            )
    ax.set(xscale="log", yscale="log", xlabel="learning rate at width 64", ylabel="training loss")
    ax.legend(title="solid: rate per core\ndotted: as dense")
    found = best(drawn)
    rates = {
        rule: [r["rate"] for r in found.where(rule=rule) if r["structure"] != "dense"]
        for rule in ("core", "dense")
    }
    said = " and ".join(
        f"{min(r):g} to {max(r):g} with the rule {rule}" for rule, r in rates.items()
    )
    return (
        f"At width {max(table['width'])} the best learning rates of the structured layers are "
        f"{said}."
    )


def _cases(data, structures, widths, rates):
    return [
        {"data": data, "structure": s, "width": w, "rule": rule, "rate": rate}
        for w in widths
        for s in structures
        for rule in ("core", "dense")
        if (s, rule) != ("dense", "dense")
        for rate in rates
    ]


def _counts(model, prefix):
    rows = [row for row in layer_report(model).rows if row.name.startswith(prefix)]
    return {"numbers": sum(row.parameters for row in rows), "flops": sum(row.flops for row in rows)}


def _root(shape) -> int:
    """About √width, the rank at which two thin factors store width^1.5 numbers."""
    return max(1, math.isqrt(min(shape)))


PROGRAM = Program(
    "Qiu2024", __doc__, SIZES, cases, measure, settings, draw, needs=("sklearn",), share="batches"
)
