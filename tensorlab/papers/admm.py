"""Projection of a trained network onto few parameters, with and without ADMM before it [Yin2021],
at the size of a LeNet.

The second convolution and the first dense layer, most of LeNet's weights, shall lie in a set:
trains, Tucker tensors with low rank, or low rank alone. "direct": plain training, then the
projection. "ADMM": half as many plain epochs, the other half by ADMM, a round each ten steps, then
the projection. Both are then fine-tuned in the set, by the factors of the dense layer and all that
is not constrained; the convolution stands still. Preset quick: digits of 8 x 8. Preset full: MNIST,
4,000 images to train on and 3,000 to test with.
"""

import copy
import functools

import torch
from torch import nn

from .. import datasets
from ..formats._modes import near_shape
from ..formats.lowrank import LowRank
from ..formats.tt import tt_svd
from ..formats.ttmatrix import tt_matrix_svd
from ..formats.tucker import hosvd
from ..layers.surgery import replace_linear
from ..methods.admm import ADMM
from ..models.lenet import LeNet
from ..models.mlp import accuracy, train
from .table import Table, check_preset, run_rows

KEY = "Yin2021"
SIZES = {
    "quick": {"sets": ("TT", "Tucker"), "ranks": (2,), "seeds": (0, 1, 2), "epochs": 16, "tune": 4},
    "full": {
        "sets": ("TT", "Tucker", "low rank"),
        "ranks": (2, 4),
        "seeds": (0, 1, 2),
        "epochs": 8,
        "tune": 2,
    },
}
RATE, LAYERS, EVERY = 2e-3, ("conv2", "dense1"), 10


def run(preset: str, *, resume: bool = True, progress: bool = True) -> Table:
    """Rows: set, rank, way, seed; numbers of the two layers, test accuracy in % before the
    projection, after it and tuned, loss."""
    check_preset(KEY, preset)
    size = SIZES[preset]
    x, y, test_x, test_y = _digits() if preset == "quick" else _mnist()
    net = (
        dict(size=8, channels=(8, 16), hidden=64, kernel=3, padding=1) if preset == "quick" else {}
    )

    @functools.cache
    def plain(seed, epochs):
        g = torch.Generator().manual_seed(seed)
        model = LeNet(generator=g, **net)
        optimizer = torch.optim.Adam(model.parameters(), RATE)
        list(train(model, optimizer, x, y, epochs=epochs, generator=g))
        return model

    def measure(set, rank, way, seed):
        g, sets = torch.Generator().manual_seed(100 + seed), projections(set, rank)
        epochs = size["epochs"] if way == "direct" else size["epochs"] // 2
        model = copy.deepcopy(plain(seed, epochs))
        optimizer = torch.optim.Adam(model.parameters(), RATE)
        batches = [
            rows
            for _ in range(size["epochs"] - epochs)
            for rows in torch.randperm(len(y), generator=g).split(100)
        ]
        admm = ADMM(model, optimizer, sets, rho=rho(len(batches) // EVERY), every=EVERY)
        for rows in batches:
            admm.step(lambda rows=rows: nn.functional.cross_entropy(model(x[rows]), y[rows]))
        before = accuracy(model, test_x, test_y)
        primal = max(admm.history[-1].primal.values()) if admm.history else None
        formats = admm.finish()
        with torch.no_grad():
            logits = torch.cat([model(part) for part in test_x.split(1000)])
        after = int((logits.argmax(1) == test_y).sum()) / len(test_y)
        loss = float(nn.functional.cross_entropy(logits, test_y))
        model.conv2.weight.requires_grad_(False)
        replace_linear(model, "dense1", sets["dense1"])
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], RATE / 2)
        list(train(model, optimizer, x, y, epochs=size["tune"], generator=g))
        percent = lambda share: round(100 * share, 2)
        dense = sum(plain(seed, epochs).get_submodule(name).weight.numel() for name in LAYERS)
        return {
            "numbers": sum(f.numel for f in formats.values()),
            "dense": dense,
            "before": percent(before),
            "accuracy": percent(after),
            "tuned": percent(accuracy(model, test_x, test_y)),
            "loss": round(loss, 4),
            "primal": None if primal is None else round(primal, 4),
        }

    cases = [
        {"set": s, "rank": r, "way": way, "seed": seed}
        for seed in size["seeds"]
        for r in size["ranks"]
        for s in size["sets"]
        for way in ("direct", "ADMM")
    ]
    settings = {
        "epochs": size["epochs"],
        "tune": size["tune"],
        "rate": RATE,
        "steps in a round": EVERY,
    }
    settings["data"] = f"{len(y)} and {len(test_y)} images"
    return run_rows(
        KEY, preset, cases, measure, settings=settings, resume=resume, progress=progress
    )


def projections(set: str, rank: int) -> dict:
    """{layer: project}: a kernel (T, S, h, w) is the three-way tensor T, S, hw as a train, or a
    Tucker tensor with full h and w.

    >>> {name: type(p(torch.randn(s))).__name__ for (name, p), s in zip(projections("TT", 2).items(), ((4, 3, 3, 3), (12, 16)))}
    {'conv2': 'TT', 'dense1': 'TTMatrix'}
    """
    low = lambda w: LowRank.from_dense(w.flatten(1), rank)
    kernel = {
        "TT": lambda w: tt_svd(w.flatten(2), rank),
        "Tucker": lambda w: hosvd(w, (rank, rank, *w.shape[2:])),
        "low rank": low,
    }
    train = lambda w: tt_matrix_svd(
        w, near_shape(w.shape[0], 3), near_shape(w.shape[1], 3), 2 * rank
    )
    dense = {"TT": train, "Tucker": low, "low rank": low}
    if set not in kernel:
        raise ValueError(f"projections: needs one of {', '.join(kernel)}, got {set!r}")
    return {"conv2": kernel[set], "dense1": dense[set]}


def rho(rounds: int):
    """The schedule: from 0.01 to 1 in equal factors over the rounds."""
    return lambda k: 0.01 * 100 ** (min(k, rounds) / max(1, rounds))


def gains(table: Table) -> list[dict]:
    """For each set, rank and seed: points of accuracy and share of the loss that ADMM gains over
    the direct projection."""
    rows = []
    for direct in table.where(way="direct"):
        label = {name: direct[name] for name in ("set", "rank", "seed")}
        for row in table.where(**label, way="ADMM"):
            rows.append(
                label
                | {
                    "points": row["accuracy"] - direct["accuracy"],
                    "loss ratio": row["loss"] / direct["loss"],
                }
            )
    return rows


def draw(table: Table, ax) -> str:
    """Accuracy right after the projection, both ways, for each set and rank; a sentence."""
    from ..plots import style  # brings matplotlib

    labels = list(dict.fromkeys((row["set"], row["rank"]) for row in table.rows))
    for k, way in enumerate(("direct", "ADMM")):
        points = [
            (i, row["accuracy"])
            for i, (s, r) in enumerate(labels)
            for row in table.where(set=s, rank=r, way=way)
        ]
        ax.plot(*zip(*points), label=way, **style(k) | {"ls": ""})
    ax.set_xticks(range(len(labels)), [f"{s} {r}" for s, r in labels])
    ax.set(ylabel="accuracy after the projection in %")
    ax.legend()
    found = gains(table)
    least, most = (pick(g["points"] for g in found) for pick in (min, max))
    return f"ADMM gains {least:.1f} to {most:.1f} points over the direct projection."


def _digits():
    x, y = datasets.digits()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order].float(), y[order]
    return x[:1300], y[:1300], x[1300:], y[1300:]


def _mnist():
    (x, y), (test_x, test_y) = datasets.mnist("train"), datasets.mnist("test")
    return x[:4000], y[:4000], test_x[:3000], test_y[:3000]
