"""Projection of a trained network onto few parameters, with and without ADMM before it [Yin2021],
at the size of a LeNet.

The second convolution and the first dense layer, most of LeNet's weights, shall lie in a set:
trains, Tucker tensors with low rank, or low rank alone. "direct": plain training, then the
projection. "ADMM": half as many plain epochs, the other half by ADMM, a round each ten steps, then
the projection. Both are then fine-tuned in the set, by the factors of the dense layer and all that
is not constrained; the convolution does not move. Preset quick: digits of 8 x 8. Preset full:
MNIST, 4,000 images to train on and 3,000 to test with.
"""

import copy
import functools
from functools import partial

import torch

from .. import datasets
from ..arguments import one_of
from ..formats.lowrank import LowRank
from ..formats.modes import near_shape
from ..formats.tt import tt_svd
from ..formats.ttmatrix import tt_matrix_svd
from ..formats.tucker import hosvd
from ..layers.surgery import replace_linear
from ..methods.admm import ADMM
from ..models.lenet import LeNet
from ..models.training import (
    accuracy,
    batch_loss,
    batches,
    data_parallel,
    mean_loss,
    shuffled_parts,
    train,
)
from .program import Program
from .table import Table

SIZES = {
    "quick": {
        "data": "digits",
        "net": dict(image_size=8, channels=(8, 16), hidden=64, kernel=3, padding=1),
        "sets": ("TT", "Tucker"),
        "ranks": (2,),
        "seeds": (0, 1, 2),
        "epochs": 16,
        "tune": 4,
    },
    "full": {
        "data": "MNIST",
        "net": {},
        "sets": ("TT", "Tucker", "low rank"),
        "ranks": (2, 4),
        "seeds": (0, 1, 2),
        "epochs": 8,
        "tune": 2,
    },
}
RATE, LAYERS, EVERY = 2e-3, ("conv2", "dense1"), 10


def cases(size: dict) -> list[dict]:
    """Set, rank, way and seed."""
    return [
        {"set": s, "rank": r, "way": way, "seed": seed}
        for seed in size["seeds"]
        for r in size["ranks"]
        for s in size["sets"]
        for way in ("direct", "ADMM")
    ]


def measure(size: dict, set: str, rank: int, way: str, seed: int) -> dict:
    """Numbers of the two layers, test accuracy in % before the projection, after it and tuned, loss
    right after the projection, primal residual of ADMM."""
    x, y, test_x, test_y = images(size["data"])
    g, sets = torch.Generator().manual_seed(100 + seed), projections(set, rank)
    epochs = size["epochs"] if way == "direct" else size["epochs"] // 2
    model = plain(size, seed, epochs)
    dense = sum(model.get_submodule(name).weight.numel() for name in LAYERS)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    rounds = (size["epochs"] - epochs) * -(-len(y) // 100) // EVERY
    admm = ADMM(model, optimizer, sets, rho=rho(rounds), every=EVERY)
    wrapped = data_parallel(model)
    for rows in batches(len(y), 100, epochs=size["epochs"] - epochs, generator=g):
        admm.step(partial(batch_loss, wrapped, x[rows], y[rows]))
    before = accuracy(model, test_x, test_y)
    primal = max(admm.history[-1].primal.values()) if admm.history else None
    formats = admm.finish()
    after, loss = accuracy(model, test_x, test_y), mean_loss(model, test_x, test_y)
    tune(model, sets["dense1"], x, y, epochs=size["tune"], generator=g)
    return {
        "numbers": sum(f.numel for f in formats.values()),
        "dense": dense,
        "before": round(100 * before, 2),
        "accuracy": round(100 * after, 2),
        "tuned": round(100 * accuracy(model, test_x, test_y), 2),
        "loss": round(loss, 4),
        "primal": None if primal is None else round(primal, 4),
    }


def settings(size: dict) -> dict:
    _, y, _, test_y = images(size["data"])
    kept = {name: size[name] for name in ("epochs", "tune")}
    fixed = {"rate": RATE, "steps in a round": EVERY}
    return kept | fixed | {"data": f"{len(y)} and {len(test_y)} images"}


def plain(size: dict, seed: int, epochs: int) -> LeNet:
    """A network trained without constraints; what was trained before is trained no more."""
    model = LeNet(generator=torch.Generator().manual_seed(seed), **size["net"])
    key = (repr(size["net"]), size["data"], seed, epochs)
    if key not in _TRAINED:
        x, y, *_ = images(size["data"])
        optimizer = torch.optim.Adam(model.parameters(), RATE)
        g = torch.Generator().manual_seed(seed)
        list(train(data_parallel(model), optimizer, x, y, epochs=epochs, generator=g))
        _TRAINED[key] = copy.deepcopy(model.state_dict())
    model.load_state_dict(_TRAINED[key])
    return model


_TRAINED = {}


def tune(model: LeNet, project, x, y, *, epochs: int, generator: torch.Generator) -> None:
    """Train on within the set: the factors of the dense layer and all that is not constrained."""
    model.conv2.weight.requires_grad_(False)
    replace_linear(model, "dense1", project)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], RATE / 2)
    list(train(data_parallel(model), optimizer, x, y, epochs=epochs, generator=generator))


def projections(set: str, rank: int) -> dict:
    """{layer: project}: a kernel (T, S, h, w) is the three-way tensor T, S, hw as a train, or a
    Tucker tensor with full h and w.

    >>> sets = projections("TT", 2)
    >>> type(sets["conv2"](torch.ones(4, 3, 3, 3))), type(sets["dense1"](torch.ones(12, 16)))
    (<class 'tensorlab.formats.tt.TT'>, <class 'tensorlab.formats.ttmatrix.TTMatrix'>)
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
    one_of("projections", "set", set, kernel)
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


@functools.cache
def images(name: str) -> tuple[torch.Tensor, ...]:
    """x, y to train on and x, y to test with."""
    if name == "MNIST":
        (x, y), (test_x, test_y) = datasets.mnist("train"), datasets.mnist("test")
        return x[:4000], y[:4000], test_x[:3000], test_y[:3000]
    return shuffled_parts(*datasets.digits(), 1300)


PROGRAM = Program(
    "Yin2021", __doc__, SIZES, cases, measure, settings, draw, needs=("sklearn",), share="batches"
)
