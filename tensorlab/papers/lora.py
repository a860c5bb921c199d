"""Adapters on a small trained transformer [Hu2021]: a character model of English taught Python by
all weights, biases or adapters.

A GPT is trained on Python's documentation; then, on the source code of `argparse` of the standard
library, it trains all weights, the biases alone, or adapters of several kinds and ranks on every
linear layer of its blocks. Bits per character of held-out code say what was learned, those of
held-out documentation what was lost, and the numbers what is trained and saved. Preset quick: one
learning rate for each way. Preset full: wider, longer, the best rate of a grid, two seeds.
"""

import argparse
import copy
import functools
import inspect
from functools import partial

import torch
from torch import nn

from .. import datasets
from ..methods.dlrt import DLRT
from ..methods.lora import LoRALinear, add_lora
from ..models.gpt import GPT, Characters, bits_per_character, train
from ..models.training import batch_loss, data_parallel
from .program import Program
from .table import Table

WAYS = [
    ("none", 0),
    ("all weights", 0),
    ("biases", 0),
    ("lora", 1),
    ("lora", 4),
    ("lora", 16),
    ("rslora", 16),
    ("dora", 4),
    ("lokr", 4),
    ("dlrt", 16),
]
SIZES = {
    "quick": {
        "ways": WAYS,
        "rates": {"all weights": (1e-3,), "other": (1e-2,)},
        "seeds": (0,),
        "pretrain": 250,
        "steps": 60,
        "width": 64,
    },
    "full": {
        "ways": WAYS,
        "rates": {"all weights": (1e-3, 3e-3, 1e-2), "other": (3e-3, 1e-2, 3e-2)},
        "seeds": (0, 1),
        "pretrain": 1000,
        "steps": 200,
        "width": 128,
    },
}
BATCH, CONTEXT, DEPTH, LAYERS = 8, 64, 2, "blocks.*"


def cases(size: dict):
    """Way, rank, rate and seed: each rate at seed 0, the other seeds at the best on valid."""

    def rows(table):
        for way, rank in size["ways"]:
            label = {"way": way, "rank": rank}
            rates = (0.0,) if way == "none" else size["rates"].get(way, size["rates"]["other"])
            yield [{**label, "rate": rate, "seed": 0} for rate in rates]
            best = min(table.where(**label, seed=0), key=lambda row: row["code valid"])
            seeds = size["seeds"][1:] if way != "none" else ()
            yield [{**label, "rate": best["rate"], "seed": seed} for seed in seeds]

    return rows


def measure(size: dict, way: str, rank: int, rate: float, seed: int) -> dict:
    """Numbers trained, mean rank at the end, bits per character of code (valid, test) and
    English."""
    _, english, python = texts()
    g = torch.Generator().manual_seed(seed)
    model = prepare(copy.deepcopy(pretrained(size["pretrain"], size["width"])), way, rank, g)
    if way != "none":
        adapt(model, rate, python["train"], steps=size["steps"], generator=g)
    ranks = [m.delta.weight.ranks[0] for m in model.modules() if isinstance(m, LoRALinear)]
    bits = lambda tokens: round(bits_per_character(model, tokens), 4)
    return {
        "numbers": trained_numbers(model),
        "mean rank": sum(ranks) / len(ranks) if ranks else None,
        "code valid": bits(python["valid"]),
        "code test": bits(python["test"]),
        "English test": bits(english["test"]),
    }


def settings(size: dict) -> dict:
    kept = {name: size[name] for name in ("pretrain", "steps", "width")}
    fixed = {"batch": BATCH, "context": CONTEXT, "depth": DEPTH}
    return kept | fixed | {"text": f"pydoc and argparse, {len(texts()[0].text)} characters"}


@functools.cache
def texts() -> tuple[Characters, dict, dict]:
    """The characters of both texts together, and the tokens of the parts of English and of code."""
    corpus, code = datasets.corpus(), inspect.getsource(argparse)
    both = Characters(corpus + code)
    parts = ("train", "valid", "test")
    encoded = lambda text: {part: both.encode(Characters(text).part(part)) for part in parts}
    return both, encoded(corpus), encoded(code)


@functools.cache
def pretrained(steps: int, width: int) -> GPT:
    """The model of English that is adapted."""
    text, english, _ = texts()
    g = torch.Generator().manual_seed(0)
    model = GPT(text.size, width=width, depth=DEPTH, context=CONTEXT, generator=g)
    adam = torch.optim.Adam(model.parameters(), 3e-3)
    wrapped = data_parallel(model)
    for _ in train(wrapped, adam, english["train"], steps=steps, batch=BATCH, generator=g):
        pass
    return model


def prepare(model: nn.Module, way: str, rank: int, generator: torch.Generator) -> nn.Module:
    """What may move: nothing, all weights, the biases (and those of the norms), or adapters on the
    blocks; changes the model."""
    if way in ("none", "all weights", "biases"):
        for name, p in model.named_parameters():
            p.requires_grad_(way == "all weights" or (way == "biases" and name.endswith("bias")))
        return model
    return add_lora(model, LAYERS, rank, alpha=2.0 * rank, kind=way, generator=generator)


def adapt(
    model: nn.Module, rate: float, tokens: torch.Tensor, *, steps: int, generator: torch.Generator
) -> nn.Module:
    """Train what may move, by Adam; adapters with a middle factor by `DLRT` with Adam on the middle
    factors."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], rate)
    if not any(isinstance(m, LoRALinear) and m.kind == "dlrt" for m in model.modules()):
        wrapped = data_parallel(model)
        for _ in train(wrapped, optimizer, tokens, steps=steps, batch=BATCH, generator=generator):
            pass
        return model
    dlrt, span = (
        DLRT(model, optimizer, theta=0.1, every=10),
        torch.arange(model.context + 1),
    )
    wrapped = data_parallel(model)
    for _ in range(steps):
        start = torch.randint(len(tokens) - model.context, (BATCH, 1), generator=generator)
        window = tokens[start + span]
        dlrt.step(partial(batch_loss, wrapped, window[:, :-1], window[:, 1:]))
    return model


def trained_numbers(model: nn.Module) -> int:
    """Numbers that are trained and saved; of an adapter u S vᴴ those of the two factors that are
    saved."""
    middle = sum(
        m.delta.tensors[2].numel()
        for m in model.modules()
        if isinstance(m, LoRALinear) and m.kind == "dlrt"
    )
    return sum(p.numel() for p in model.parameters() if p.requires_grad) - middle


def draw(table: Table, ax) -> str:
    """Bits per character of held-out code against the numbers trained; a sentence."""
    from ..plots import style  # brings matplotlib

    rows = [row for row in table.rows if row["way"] != "none"]
    for k, way in enumerate(dict.fromkeys(row["way"] for row in rows)):
        points = [(row["numbers"], row["code test"]) for row in rows if row["way"] == way]
        ax.semilogx(*zip(*sorted(points)), label=way, **style(k))
    (before,) = {row["code test"] for row in table.where(way="none")}
    ax.axhline(before, color="0.4", lw=1)
    ax.set(xlabel="numbers trained", ylabel="bits per character of held-out code")
    ax.legend(fontsize=8)
    best = min(rows, key=lambda row: row["code test"])
    least = f"{best['code test']:.2f}, by {best['way']} with {best['numbers']} numbers"
    return f"Before: {before:.2f} bits per character; least, {least}."


PROGRAM = Program("Hu2021", __doc__, SIZES, cases, measure, settings, draw, share="batches")
