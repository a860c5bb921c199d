"""Tangent windows, plain factors of as many numbers and dense: digits and 5x500 [Schotthoefer2022].

`rank` is that of plain factors in all layers but the head; `tangent` and `factors` start wide and
fall to a budget of as many numbers, `tangent, grown` starts at a small rank and theta decides, with
4 spares or none, `plain` holds its rank, `plain, longer` does so for three times the epochs. Rates
are chosen by the accuracy on validation data, the mean over the seeds with which a network chooses;
then each seed is trained anew at the rate chosen and the test set looked at once. `edge` says that
the best rate was the first or last of its grid. `numbers` counts the weights in the end with the
dense head, `held` the most in a step, no biases; `multiply-adds` (in units of 1e9) are 3 for each
weight, row and step, without the cuts. A rate that diverges counts as 0.
"""

import functools
import math
import statistics
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..formats.lowrank import LowRank
from ..layers.surgery import replace_linear
from ..methods.projected import FactorSGD, balanced
from ..methods.tangent import TangentDLRT
from ..models.mlp import MLP
from ..models.training import accuracy, batches
from .dlrt import factorized, falling, images
from .program import Program
from .table import Table

SGD_RATES = {
    "dense": (0.02, 0.05, 0.1, 0.2, 0.4),
    "tangent": (0.02, 0.05, 0.1, 0.2),
    "tangent, grown": (0.02, 0.05, 0.1, 0.2),
    "tangent, grown without spares": (0.05, 0.1, 0.2),
    "factors": (0.01, 0.02, 0.05, 0.1, 0.2),
    "plain": (0.01, 0.02, 0.05, 0.1, 0.2),
}
ADAM_RATES = {
    "dense": (1e-3, 2e-3, 5e-3, 1e-2),
    "tangent": (2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2),
    "factors": (2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2),
    "plain": (5e-3, 1e-2, 2e-2, 4e-2, 8e-2),
}
WIDE_RATES = {
    "dense": (5e-4, 1e-3, 2e-3),
    "tangent": (1.5e-3, 3e-3, 6e-3),
    "factors": (1.5e-3, 3e-3, 6e-3),
    "plain": (2e-3, 4e-3, 8e-3, 1.6e-2),
    "plain, longer": (1.5e-3, 3e-3, 6e-3),
}
DIGITS = {
    "data": "digits",
    "sizes": (64, 100, 100, 100, 10),
    "ranks": (6,),
    "wide": 30,
    "small": 4,
    "theta": 0.1,
    "start": "falling",
    "batch": 32,
    "window": 20,
    "epochs": 12,
    "choose": (0, 1),
    "seeds": (0, 1, 2, 3, 4),
    "grids": {"SGD": SGD_RATES, "Adam": ADAM_RATES},
}
MNIST = {
    **DIGITS,
    "data": "MNIST",
    "sizes": (784, 500, 500, 500, 500, 10),
    "ranks": (32, 16),
    "wide": 200,
    "start": "svd",
    "batch": 128,
    "window": 50,
    "epochs": 4,
    "choose": (0,),
    "seeds": (0, 1, 2),
    "grids": {"Adam": WIDE_RATES},
}
QUICK = {"SGD": {"dense": (0.1,), "tangent": (0.05, 0.1), "plain": (0.05, 0.1)}}
SIZES = {
    "quick": {"digits": {**DIGITS, "epochs": 4, "choose": (0,), "seeds": (0,), "grids": QUICK}},
    "full": {"digits": DIGITS, "5x500": MNIST},
}
MOMENTUM, INPUTS = 0.9, 1024
RANKLESS = ("dense", "tangent, grown", "tangent, grown without spares")


def cases(size: dict):
    """For each network, way and rank: the rates to choose from, then the seeds at the best one;
    several processes share out either."""
    return functools.partial(_cases, size)


def _cases(size: dict, table: Table) -> Iterator[list[dict]]:
    for network, setting in size.items():
        for optimizer, grids in setting["grids"].items():
            for way, rates in grids.items():
                for rank in (None,) if way in RANKLESS else setting["ranks"]:
                    label = dict(network=network, way=way, optimizer=optimizer, rank=rank)
                    look = label | {"look": "valid"}
                    choose = setting["choose"]
                    yield [look | {"rate": rate, "seed": s} for rate in rates for s in choose]
                    best = {"look": "test", "rate": best_rate(table.where(**look))}
                    yield [label | best | {"seed": s} for s in setting["seeds"]]


def best_rate(rows: list[dict]) -> float:
    """The rate of the highest mean validation accuracy.

    >>> best_rate([{"rate": 1, "valid": 80}, {"rate": 2, "valid": 90}, {"rate": 2, "valid": 60}])
    1
    """
    mean = lambda rate: statistics.fmean(row["valid"] for row in rows if row["rate"] == rate)
    return max(dict.fromkeys(row["rate"] for row in rows), key=mean)


def measure(size: dict, network, way, optimizer, rank, look, rate, seed) -> dict:
    """One training: accuracy on validation data, and on the test set where it is to be seen."""
    setting, g = size[network], torch.Generator().manual_seed(seed)
    x, y, x_valid, y_valid, x_test, y_test = images(setting["data"], seed)
    model = made(setting, way, rank, g)
    epochs = setting["epochs"] * (3 if way == "plain, longer" else 1)
    total = epochs * math.ceil(len(y) / setting["batch"])
    method = stepper(setting, model, way, optimizer, rank, rate, total, x[:INPUTS])
    try:
        cost = train(model, method, x, y, epochs, setting["batch"], g)
    except FloatingPointError:
        return {"valid": 0.0}
    row = {"valid": round(100 * accuracy(model, x_valid, y_valid), 2)}
    if look == "test":
        row["test"] = round(100 * accuracy(model, x_test, y_test), 2)
    ranks = " ".join(str(m.weight.ranks[0]) for m in factorized(model)) or None
    return row | {"numbers": numbers(model), "ranks": ranks, **cost}


def made(setting: dict, way: str, rank: int | None, generator) -> nn.Module:
    """The network: dense, or with all layers but the head of low rank."""
    model = MLP(setting["sizes"], generator=generator)
    if way == "dense":
        return model
    r = setting["small"] if "grown" in way else rank if "plain" in way else setting["wide"]
    kind = "falling" if r != setting["wide"] else setting["start"]
    names = [f"layers.{k}" for k in range(len(setting["sizes"]) - 2)]
    return replace_linear(model, names, lambda w: start(w, r, kind, generator))


def start(w: Tensor, rank: int, kind: str, generator) -> LowRank:
    """Two balanced factors: the leading SVD of the dense start, or random ones whose singular
    values fall like those of a random matrix, with Σ σ² = 2 out."""
    if kind == "svd":
        return LowRank.from_dense(w, rank)
    return balanced(falling(w.shape, rank, generator))


def stepper(setting, model, way, optimizer, rank, rate, total, inputs):
    """An object with step(closure) that trains the model this way."""
    make = {
        "SGD": lambda ps: torch.optim.SGD(ps, rate, momentum=MOMENTUM),
        "Adam": lambda ps: torch.optim.Adam(ps, rate),
    }[optimizer]
    opt = make(model.parameters())
    if way == "dense" or way.startswith("plain"):
        return FactorSGD(model, opt)
    options = dict(total=total, window=setting["window"], inputs=lambda: model(inputs))
    if "grown" in way:
        spares = 0 if "without" in way else 4
        return TangentDLRT(model, opt, theta=setting["theta"], spares=spares, **options)
    budget = rank * sum(sum(m.weight.shape) for m in factorized(model))
    return TangentDLRT(model, opt, budget=budget, steps=way, **options)


def train(model, method, x, y, epochs: int, batch: int, generator) -> dict:
    """Cross-entropy at a rate that falls linearly to a tenth; what it cost."""
    total = epochs * math.ceil(len(y) / batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(method.optimizer, lambda k: 1 - 0.9 * k / total)
    held = work = 0
    begin = time.process_time()
    for rows in batches(len(y), batch, epochs=epochs, generator=generator):
        now = numbers(model)
        held, work = max(held, now), work + 3 * now * len(rows)
        method.step(lambda rows=rows: nn.functional.cross_entropy(model(x[rows]), y[rows]))
        schedule.step()
    seconds = time.process_time() - begin
    return {"held": held, "multiply-adds": round(work / 1e9, 3), "cpu s": round(seconds, 2)}


def numbers(model: nn.Module) -> int:
    """Numbers in the present weights, biases left out."""
    return sum(p.numel() for p in model.parameters() if p.ndim == 2)


def settings(size: dict) -> dict:
    kept = ("epochs", "batch", "window", "wide", "small", "theta", "start", "choose", "grids")
    rule = "highest mean validation accuracy over the seeds in `choose`; test looked at once"
    each = {f"{n} {name}": setting[name] for n, setting in size.items() for name in kept}
    return {"selection": rule, "momentum": MOMENTUM, "rows for a cut": INPUTS, **each}


def finish(table: Table) -> Table:
    """The table with a row more for each way: seed "mean", mean and deviation over the seeds."""
    names = ("network", "way", "optimizer", "rank")
    rows = []
    for values in dict.fromkeys(tuple(row[name] for name in names) for row in table.rows):
        label = dict(zip(names, values))
        tried = [row["rate"] for row in table.where(**label, look="valid")]
        mine = table.where(**label, look="test")
        rate = mine[0]["rate"]
        row = label | {"look": "test", "rate": rate, "seed": "mean"}
        for name in ("valid", "test", "numbers", "held", "multiply-adds", "cpu s"):
            found = [r[name] for r in mine if r.get(name) is not None]
            row[name] = round(statistics.fmean(found), 2) if found else None
        found = [r["test"] for r in mine if r.get("test") is not None]
        row["deviation"] = round(statistics.stdev(found), 2) if len(found) > 1 else None
        row["edge"] = "yes" if rate in (min(tried), max(tried)) else "no"
        rows.append(row)
    return Table(table.key, table.rows + rows, table.notes)


def draw(table: Table, ax) -> str:
    """Test accuracy of each way against the numbers it keeps; returns a sentence."""
    rows = [row for row in table.where(seed="mean") if row["test"] is not None]
    for (way, optimizer), mark in zip(
        dict.fromkeys((row["way"], row["optimizer"]) for row in rows), "os^vDPX*<>hp" * 2
    ):
        mine = [row for row in rows if (row["way"], row["optimizer"]) == (way, optimizer)]
        points = [(row["numbers"], row["test"]) for row in mine]
        ax.plot(*zip(*points), mark, label=f"{way}, {optimizer}")
    ax.set(xscale="log", xlabel="numbers stored in the weights", ylabel="test accuracy in %")
    ax.legend(fontsize="small")
    best = max((row for row in rows if row["way"] != "dense"), key=lambda row: row["test"])
    return (
        f"The best of low rank on {best['network']} is {best['way']} with {best['optimizer']}: "
        f"{best['test']} % with {best['numbers']:.0f} numbers."
    )


PROGRAM = Program(
    "Schotthoefer2022windows",
    __doc__,
    SIZES,
    cases,
    measure,
    settings,
    draw,
    finish,
    needs=("sklearn",),
)
