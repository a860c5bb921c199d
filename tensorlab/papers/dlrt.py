"""Low-rank lottery tickets: LeNet5 by theta, ranks of a deep network, time by rank, U Vᵀ by decay
[Schotthoefer2022].

LeNet5: all layers but the head of low rank, trained by DLRT; the test accuracy at the epoch of best
validation loss, as printed, and that of the last epoch. `one factor` counts as the printed column
does, Σ r (out + 1) and the dense head; `stored` is what must be kept to multiply, Σ r (out + in)
and the dense head, no biases. The rate of theta 0.45 was chosen in one epoch of seed 0. 5x500:
ranks of the four wide layers after each epoch. time: fixed rank, batches of 256, seconds of CPU for
an epoch. UV: rank 20, singular values that decay as decay^-k, factors U √S and V √S trained by SGD,
jointly or in turn, against fixed-rank DLRT, each at several learning rates, on `uv rows` images.
Preset quick: scikit-learn's digits and small networks. Preset full: MNIST, 50000 images to train,
10000 to validate.
"""

import functools
import time
from functools import partial

import torch
from torch import Tensor, nn

from .. import datasets
from ..formats.lowrank import LowRank
from ..layers.conv import FactorizedConv2d
from ..layers.linear import FactorizedLinear
from ..layers.surgery import replace_conv, replace_linear
from ..methods.dlrt import DLRT, dlrt_start
from ..methods.projected import FactorSGD, balanced
from ..models.lenet import LeNet
from ..models.mlp import MLP
from ..models.training import accuracy, batch_loss, data_parallel, mean_loss, shuffled_parts
from .program import Program, beside_printed
from .table import Table

SIZES = {
    "quick": {
        "data": "digits",
        "thetas": {0.1: 0.05, 0.3: 0.05},
        "deep": (0.05, 0.1, 0.3),
        "ranks": (5, 20),
        "decays": (1, 10),
        "rates": (0.05, 0.2),
        "seeds": (0,),
        "epochs": 6,
        "uv epochs": 3,
        "uv rows": 1200,
        "width": 100,
        "start rank": 30,
        "batch": 32,
        "uv rank": 10,
        "methods": ("UV", "DLRT"),
        "lenet": dict(image_size=8, channels=(10, 20), hidden=100, kernel=3, padding=1),
    },
    "full": {
        "data": "MNIST",
        "thetas": {0.45: 0.1, 0.15: 0.05, 0.3: 0.05, 0.09: 0.05},  # with their rates
        "deep": (0.05, 0.1, 0.15, 0.3),
        "ranks": (5, 20, 50, 100, 250),
        "decays": (1, 2, 10),
        "rates": (0.02, 0.1, 0.4),
        "seeds": (0, 1, 2),
        "epochs": 10,
        "uv epochs": 5,
        "uv rows": 12800,
        "width": 500,
        "start rank": 50,
        "batch": 128,
        "uv rank": 20,
        "methods": ("UV", "UV in turn", "DLRT"),
        "lenet": dict(image_size=28),
    },
}
RATE, MOMENTUM = 0.05, 0.9


NONE = dict.fromkeys(("theta", "rank", "decay"))


def cases(size: dict) -> list[dict]:
    """Experiment, method, theta, rank, decay, rate and seed, first those of the first seed; the
    dense networks are trained once."""
    first, *more = size["seeds"]
    lenets = lambda seed: [
        _case("LeNet5", "DLRT", rate, seed, theta=theta) for theta, rate in size["thetas"].items()
    ]
    rows = [*lenets(first), _case("LeNet5", "dense", RATE, first)]
    rows += [_case("5x500", "DLRT", 2 * RATE, 0, theta=theta) for theta in size["deep"]]
    rows += [_case("time", "DLRT", RATE, 0, rank=r) for r in size["ranks"]]
    rows += [_case("time", "dense", RATE, 0)]
    rows += [row for seed in more for row in lenets(seed)]
    return rows + [
        _case("UV", method, rate, 0, rank=size["uv rank"], decay=decay)
        for decay in size["decays"]
        for method in size["methods"]
        for rate in size["rates"]
    ]


def _case(experiment, method, rate, seed, **label):
    return {"experiment": experiment, "method": method, **NONE, **label, "rate": rate, "seed": seed}


def measure(size: dict, experiment: str, seed: int, **case) -> dict:
    """Accuracies in %, ranks, counts of numbers, seconds of CPU, as the experiment has them."""
    return MEASURE[experiment](size, images(size["data"], seed), seed, **case)


def settings(size: dict) -> dict:
    kept = ("epochs", "uv epochs", "uv rows", "width", "start rank", "batch")
    return {name: size[name] for name in kept} | {"momentum": MOMENTUM}


def finish(table: Table) -> Table:
    """At preset full the means over seeds, and the printed numbers beside them."""
    return table if table.notes["preset"] == "quick" else beside_printed(means(table))


def means(table: Table) -> Table:
    """The table with a row more for each theta of LeNet5: seed "mean", the mean over the seeds."""
    rows = list(table.rows)
    for label in dict.fromkeys(
        (row["method"], row["theta"]) for row in rows if row["experiment"] == "LeNet5"
    ):
        same = [
            r for r in rows if r["experiment"] == "LeNet5" and (r["method"], r["theta"]) == label
        ]
        mean = {
            k: round(sum(row[k] for row in same) / len(same), 2)
            for k in ("accuracy", "last accuracy", "one factor", "stored")
        }
        rows.append(
            {
                "experiment": "LeNet5",
                "method": label[0],
                "theta": label[1],
                "seed": "mean",
                **mean,
                "seeds": len(same),
            }
        )
    return Table(table.key, rows, table.notes)


# ----------------------------------------------------------------------------------------- the rows


def lenet5(size, data, seed, method, theta, rate, **_) -> dict:
    """LeNet5 trained by DLRT, or dense by SGD: accuracy at the best validation loss and at the end,
    ranks, both counts."""
    g = torch.Generator().manual_seed(seed)
    model = LeNet(**size["lenet"], generator=g)
    if method == "DLRT":
        start = lambda w: dlrt_start(
            w.shape, min(size["start rank"], min(w.shape) // 2), generator=g
        )
        replace_conv(model, "*", lambda layer: FactorizedConv2d.from_conv(layer, start))
        replace_linear(model, "dense1", start)
    seen = list(
        train(
            model, stepper(model, method, rate, theta), data, size["epochs"], size["batch"], g, rate
        )
    )
    best = min(seen, key=lambda state: state["loss"])
    counts = {
        "ranks": _text(best["ranks"]),
        "last ranks": _text(seen[-1]["ranks"]),
        **best["counts"],
    }
    return {
        "accuracy": best["test"],
        "last accuracy": seen[-1]["test"],
        **counts,
        "cpu s": seen[-1]["cpu s"],
    }


def deep(size, data, seed, theta, rate, **_) -> dict:
    """The ranks of a network of four wide layers, after the first steps and each epoch."""
    g = torch.Generator().manual_seed(seed)
    model = _deep(size, data, g, 2 * size["start rank"])
    seen = list(
        train(
            model, stepper(model, "DLRT", rate, theta), data, size["epochs"], size["batch"], g, rate
        )
    )
    return {
        "accuracy": seen[-1]["test"],
        "ranks": " | ".join(_text(state["ranks"]) for state in seen),
        **seen[-1]["counts"],
        "cpu s": seen[-1]["cpu s"],
    }


def timed(size, data, seed, method, rank, rate, **_) -> dict:
    """One epoch at fixed rank."""
    g = torch.Generator().manual_seed(seed)
    model = _deep(size, data, g, rank if method == "DLRT" else None)
    (state,) = train(model, stepper(model, method, rate, None), data, 1, 2 * size["batch"], g, rate)
    return {"accuracy": state["test"], **state["counts"], "cpu s": state["cpu s"]}


def uv(size, data, seed, method, rank, decay, rate, **_) -> dict:
    """LeNet5 of rank 20 whose singular values decay at the start: plain factors, or fixed-rank
    DLRT."""
    g = torch.Generator().manual_seed(seed)
    model = LeNet(**size["lenet"], generator=g)

    def start(w):
        w = dlrt_start(w.shape, min(rank, min(w.shape) // 2), decay=decay, generator=g)
        return w if method == "DLRT" else balanced(w)

    replace_conv(model, "*", lambda layer: FactorizedConv2d.from_conv(layer, start))
    replace_linear(model, "dense1", start)
    x, y, *rest = data
    data = (x[: size["uv rows"]], y[: size["uv rows"]], *rest)
    way = stepper(model, method, rate, None, 0.0)
    try:
        seen = list(train(model, way, data, size["uv epochs"], size["batch"], g, rate))
    except FloatingPointError as error:
        return {"accuracy": 0.0, "by epoch": str(error)}  # diverged, which the row says
    return {
        "accuracy": max(s["test"] for s in seen),
        "by epoch": _text(s["test"] for s in seen),
        "cpu s": seen[-1]["cpu s"],
    }


MEASURE = {"LeNet5": lenet5, "5x500": deep, "time": timed, "UV": uv}

# ----------------------------------------------------------------------------------------- training


def stepper(
    model: nn.Module, method: str, rate: float, theta: float | None, momentum: float = MOMENTUM
):
    """An object with step(closure) that trains the model: DLRT, plain SGD on all factors jointly or
    in turn, or dense SGD."""
    sgd = torch.optim.SGD(model.parameters(), rate, momentum=momentum)
    if method == "DLRT":
        return DLRT(model, sgd, theta=theta)
    return FactorSGD(model, sgd, alternate=method == "UV in turn")


def train(
    model: nn.Module, method, data, epochs: int, batch: int, generator: torch.Generator, rate: float
):
    """Train with a learning rate that falls linearly to a tenth; a generator of what is measured
    after each epoch."""
    x, y, x_valid, y_valid, x_test, y_test = data
    total = epochs * -(-len(y) // batch)
    wrapped, taken, start = data_parallel(model), 0, time.process_time()
    for _ in range(epochs):
        for rows in torch.randperm(len(y), generator=generator).split(batch):
            for group in method.optimizer.param_groups:
                group["lr"] = rate * (1 - 0.9 * taken / total)
            method.step(partial(batch_loss, wrapped, x[rows], y[rows]))
            taken += 1
        spent = time.process_time() - start
        yield {
            "loss": mean_loss(model, x_valid, y_valid),
            "test": round(100 * accuracy(model, x_test, y_test), 2),
            "ranks": [m.weight.ranks[0] for m in factorized(model)],
            "counts": counts(model),
            "cpu s": round(spent, 1),
        }


def counts(model: nn.Module) -> dict[str, int]:
    """Numbers in the weights, biases left out: as the paper counts them, and as they must be
    stored.

    >>> w = LowRank.randn((6, 5), 2).orthogonal()
    >>> counts(nn.Sequential(FactorizedLinear(w), nn.Linear(6, 3)))
    {'one factor': 32, 'stored': 40}
    """
    low = [(m.weight.shape, m.weight.ranks[0]) for m in factorized(model)]
    head = sum(m.weight.numel() for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d)))
    one = sum(r * (n + 1) for (n, _), r in low)
    return {"one factor": one + head, "stored": sum(r * (n + m) for (n, m), r in low) + head}


def factorized(model: nn.Module) -> list[FactorizedLinear]:
    return [m for m in model.modules() if isinstance(m, FactorizedLinear)]


def _deep(size, data, generator, rank):
    """in -> width -> width -> width -> width -> 10, its wide layers dense, or of low rank."""
    model = MLP((data[0][0].numel(), *[size["width"]] * 4, 10), generator=generator)
    start = lambda w: falling(w.shape, rank, generator)
    return replace_linear(model, "layers.[0-3]", start) if rank else model


def falling(shape, rank: int, generator) -> LowRank:
    """A start whose singular values fall to zero like those of a random matrix: truncation can
    choose."""
    w = dlrt_start(shape, rank, generator=generator)
    falls = torch.linspace(1, 1 / len(w.s), len(w.s))
    return LowRank(w.u, w.v, w.s * falls * (len(falls) ** 0.5 / torch.linalg.vector_norm(falls)))


def _text(numbers) -> str:
    return " ".join(map(str, numbers))


def draw(table: Table, ax) -> str:
    """Accuracy of LeNet5 against the numbers stored; returns a sentence."""
    rows = [
        r
        for r in table.where(experiment="LeNet5", method="DLRT")
        if r["seed"] != "mean" and r.get("accuracy") is not None
    ]
    for seed, mark in zip(dict.fromkeys(row["seed"] for row in rows), "osD"):
        mine = sorted((row["stored"], row["accuracy"]) for row in rows if row["seed"] == seed)
        ax.plot(*zip(*mine), marker=mark, label=f"seed {seed}")
    ax.set(xscale="log", xlabel="numbers stored in the weights", ylabel="test accuracy in %")
    ax.legend()
    low = min(rows, key=lambda row: row["stored"])
    return (
        f"The smallest network, theta {low['theta']}, stores {low['stored']} numbers and is right "
        f"on {low['accuracy']} %."
    )


@functools.lru_cache(maxsize=1)
def images(name: str, seed: int) -> tuple[Tensor, ...]:
    """x, y to train on, to validate and to test with, split by the seed."""
    if name == "MNIST":
        return shuffled_parts(*datasets.mnist("train"), 50_000, seed=seed) + tuple(
            datasets.mnist("test")
        )
    return shuffled_parts(*datasets.digits(), 1200, 1500, seed=seed)


PROGRAM = Program(
    "Schotthoefer2022",
    __doc__,
    SIZES,
    cases,
    measure,
    settings,
    draw,
    finish,
    needs=("sklearn",),
    share="batches",
)
