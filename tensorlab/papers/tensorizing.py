"""Tensorizing neural networks: a 1024 x 1024 layer of TT-matrices on digits, test error against
parameters [Novikov2015].

The network is 1024 -> 1024 -> 10 with a ReLU between, on digits of 32 x 32 pixels. The first layer,
or both, is a TT-matrix of modes (4, 8, 8, 4), trained from a random start; beside it a low-rank
layer of as many numbers, and the dense one. Preset quick: scikit-learn's digits, drawn larger.
Preset full: MNIST with a border of zeros.
"""

import functools

import torch

from .. import datasets
from ..formats.lowrank import LowRank
from ..formats.ttmatrix import TTMatrix
from ..layers.linear import param_groups
from ..layers.surgery import replace_linear
from ..models.mlp import MLP
from ..models.training import accuracy, data_parallel, shuffled_parts, train
from .program import Program, beside_printed
from .table import Table

MODES = (4, 8, 8, 4)
LAYERS = [("TT", 1), ("TT", 4), ("TT", 8), ("low rank", 4), ("dense", None)]
SIZES = {
    "quick": {"data": "digits", "epochs": 15, "layers": LAYERS},
    "full": {"data": "MNIST", "epochs": 5, "layers": [("both TT", 8), ("both TT", 6), *LAYERS]},
}
RATE, BATCH = 1e-3, 100


def cases(size: dict) -> list[dict]:
    """Structure and rank of the layers."""
    return [{"structure": structure, "rank": rank} for structure, rank in size["layers"]]


def measure(size: dict, structure: str, rank: int | None) -> dict:
    """Parameters of the whole network, those of its first layer, test error in %."""
    x, y, x_test, y_test = images(size["data"])
    g = torch.Generator().manual_seed(0)
    model = network(structure, rank, g)
    adam = torch.optim.Adam(param_groups(model, RATE))
    decay = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.05, total_iters=size["epochs"])
    losses, wrapped = [], data_parallel(model)
    for loss in train(wrapped, adam, x, y, epochs=size["epochs"], batch=BATCH, generator=g):
        losses.append(loss)
        decay.step()
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "first layer": sum(p.numel() for p in model.layers[0].parameters()),
        "error %": round(100 * (1 - accuracy(model, x_test, y_test)), 2),
        "training loss": round(losses[-1], 4),
    }


def settings(size: dict) -> dict:
    about = {"epochs": size["epochs"], "learning rate": RATE, "batch": BATCH}
    return about | {"training images": len(images(size["data"])[1])}


def network(structure: str, rank: int | None, generator: torch.Generator) -> MLP:
    """1024 -> 1024 -> 10 with its first layer, or both, of a structure."""
    model = MLP((1024, 1024, 10), generator=generator)
    if structure == "low rank":
        replace_linear(
            model, "layers.0", lambda w: LowRank.randn(w.shape, rank, generator=generator).initial()
        )
    elif structure != "dense":
        tt = lambda out: (
            lambda w: TTMatrix.randn(out=out, in_=MODES, rank=rank, generator=generator).initial()
        )
        replace_linear(model, "layers.0", tt(MODES))
        if structure == "both TT":
            replace_linear(model, "layers.1", tt((1, 2, 5, 1)))
    return model


def draw(table: Table, ax) -> str:
    """Test error against parameters, a line for each structure; returns a sentence."""
    from ..plots import style  # brings matplotlib

    for k, structure in enumerate(dict.fromkeys(table["structure"])):
        rows = [row for row in table.where(structure=structure) if row.get("error %") is not None]
        rows.sort(key=lambda row: row["parameters"])
        ax.plot(
            [row["parameters"] for row in rows],
            [row["error %"] for row in rows],
            label=structure,
            **style(k),
        )
    ax.set(xscale="log", yscale="log", xlabel="parameters of the network", ylabel="test error in %")
    ax.legend()
    rows = [
        row for row in table.rows if row["structure"] != "dense" and row.get("error %") is not None
    ]
    best = min(rows, key=lambda row: row["error %"])
    return (
        f"The best of the small networks, {best['structure']} of rank {best['rank']}, errs on "
        f"{best['error %']} %."
    )


@functools.cache
def images(name: str) -> tuple[torch.Tensor, ...]:
    """x, y to train on and x, y to test with, images of 32 x 32 pixels."""
    if name == "MNIST":
        pad = lambda x: torch.nn.functional.pad(x, (2, 2, 2, 2))
        pairs = [datasets.mnist(part) for part in ("train", "test")]
        return tuple(t for x, y in pairs for t in (pad(x), y))
    x, y = datasets.digits()
    x = torch.nn.functional.interpolate(x[:, None].float(), (32, 32), mode="bilinear")[:, 0]
    return shuffled_parts(x, y, 1300)


PROGRAM = Program(
    "Novikov2015",
    __doc__,
    SIZES,
    cases,
    measure,
    settings,
    draw,
    beside_printed,
    needs=("sklearn",),
    share="batches",
)
