"""What an encoder holds in training and takes in inference: dense, SVD, TTM, DLRT, GaLore in one
table [Chekalina2023].

Memory of one forward and backward pass, by the ledger of `layers.ledger`: loaded, after the
forward, after the backward, with the optimizer's step where there is one, at the peak. Embeddings
are frozen; an optimizer has made one step before, so that its state is loaded. Inference: CPU ms of
one batch, their share of what the dense model takes, both in turns, and energy of `PASSES` of them
as `layers.energy` knows it.

`where` is which linear layers are replaced: those of the FFN at the talk's ranks, which keep 2 % of
them at our width, or all at 49 %. The talk's numbers are for a BERT of width 768 on a GPU, in MB,
for an input that it does not describe; ours are MiB of an encoder of width 384 on a CPU. Its
energy, in 1e-5 kWh of a run that it does not describe either, is a GPU's. Preset quick: width 48,
two layers.
"""

import functools
import statistics
import time

import torch
from torch import Tensor, nn

from ..formats.lowrank import LowRank
from ..formats.ttmatrix import TTMatrix
from ..layers.energy import energy_of
from ..layers.ledger import MIB, training_memory
from ..layers.surgery import fold_linear, replace_linear
from ..methods.dion import Dion
from ..methods.dlrt import DLRT, dlrt_start
from ..methods.galore import GaLore
from ..models.bert import Bert
from ..multilinear import balanced_shape
from .program import Program, beside_printed
from .table import Table
from .ttm_gpt import low_rank

SIZES = {
    "quick": {"width": 48, "layers": 2, "heads": 4, "words": 500, "batches": ((1, 32),)},
    "full": {
        "width": 384,
        "layers": 6,
        "heads": 12,
        "words": 30522,
        "batches": ((1, 128), (16, 128)),
    },
}
SHARE, CORES, PASSES = 0.49, 3, 10
TALK = {"SVD": 6, "TTM": 10}  # ranks
LOW = {"GaLore": GaLore, "Dion": Dion}
WATTS = 15.0  # of a core at work: assumed, where no counter can be read
SEED = 0


def cases(size: dict) -> list[dict]:
    """Layers, which of them, optimizer, and sequences in a batch."""
    rows = [("dense", "none"), ("SVD", "FFN"), ("TTM", "FFN"), ("SVD", "all"), ("TTM", "all")]
    rows = [(*row, "none") for row in rows] + [("TTM folded", "all", "none")]
    rows += [("dense", "none", "Adam"), ("SVD", "all", "Adam"), ("TTM", "all", "Adam")]
    rows += [("DLRT", "all", "DLRT"), ("dense", "none", "GaLore")]
    names = ("layers", "where", "optimizer", "batch")
    return [dict(zip(names, (*row, batch))) for batch, _ in size["batches"] for row in rows]


def measure(size: dict, layers: str, where: str, optimizer: str, batch: int) -> dict:
    """MiB at the ends of the parts of a step, CPU ms of an inference, energy of ten."""
    g = torch.Generator().manual_seed(SEED)
    tokens = dict(size["batches"])[batch]
    ids = torch.randint(size["words"], (batch, tokens), generator=g)
    model = encoder(size, layers, where, g)
    loss = lambda: model(ids).square().mean()
    found = dict.fromkeys(("load", "forward", "backward", "step", "peak"))
    if layers != "TTM folded":
        found |= memory(model, loss, stepper(model, optimizer), [ids])
    if optimizer != "none":  # inference does not depend on it
        return found | dict.fromkeys(("ms", "time of dense", f"energy of {PASSES}"))
    return found | inference(model.eval(), encoder(size, "dense", "none", g).eval(), ids)


@torch.no_grad()
def inference(model: nn.Module, dense: nn.Module, ids: Tensor) -> dict:
    """CPU ms, the share of what the dense model takes in turns with it, and energy."""
    times: dict[nn.Module, list[float]] = {dense: [], model: []}
    for _ in range(PASSES + 1):
        for m, spent in times.items():
            spent.append(cpu_ms(lambda m=m: m(ids)))
    whole, ms = (statistics.median(spent[1:]) for spent in times.values())
    energy = energy_of(lambda: [model(ids) for _ in range(PASSES)], watts=WATTS)
    share = {"time of dense": round(ms / whole, 2)}
    return {"ms": round(ms, 2)} | share | {f"energy of {PASSES}": str(energy)}


def memory(model: nn.Module, loss, by: dict, inputs) -> dict:
    """MiB, in the second step where an optimizer makes any."""
    for _ in range(2 if by else 1):
        found = training_memory(model, loss, **by, inputs=inputs)
    return {name: None if n is None else round(n / MIB, 2) for name, n in vars(found).items()}


def stepper(model: nn.Module, name: str, share: float = 0.25) -> dict:
    """What steps the model, as `training_memory` takes it; the rank of GaLore and Dion is this
    share of the shortest side."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if name == "Adam":
        return {"optimizer": torch.optim.Adam(trained, 1e-4, foreach=False)}
    if name == "SGD":
        return {"optimizer": torch.optim.SGD(trained, 1e-4, foreach=False)}
    if name in LOW:
        rank = int(share * min(min(p.shape) for p in trained if p.ndim > 1))
        return {"optimizer": LOW[name](trained, 1e-4, rank=max(1, rank))}
    if name == "DLRT":
        return {"method": DLRT(model, torch.optim.SGD(trained, 1e-4), theta=None)}
    return {}


def encoder(
    size: dict, layers: str, where: str, g: torch.Generator, share: float = SHARE
) -> nn.Module:
    """An encoder with drawn weights, its embeddings frozen, its linear layers in a format: all keep
    a share of their numbers, those of the FFN have the talk's ranks."""
    width = size["width"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = Bert(
            vocabulary=size["words"],
            width=width,
            heads=size["heads"],
            inner=4 * width,
            layers=size["layers"],
        )
    model.embeddings.requires_grad_(False)
    if layers == "dense":
        return model
    names = "encoder.*" if where == "all" else ["*intermediate.dense", "*[0-9].output.dense"]
    start = {"SVD": svd, "DLRT": dlrt}.get(layers, ttm)
    replace_linear(model, names, lambda w: start(tuple(w.shape), where, share, g))
    return fold_linear(model, names) if layers == "TTM folded" else model


def svd(shape, where: str, share: float, g):
    if where == "all":
        return low_rank(shape, share, g)
    return LowRank.randn(shape, TALK["SVD"], generator=g).initial()


def dlrt(shape, where: str, share: float, g):
    """Three factors, with the rank of the two of SVD."""
    return dlrt_start(shape, svd(shape, where, share, g).ranks[0], generator=g)


def ttm(shape, where: str, share: float, g):
    rank = largest_rank(shape, share) if where == "all" else TALK["TTM"]
    return trains(shape, rank, generator=g).initial()


def trains(shape, rank: int, **options) -> TTMatrix:
    out, n = (balanced_shape(side, CORES) for side in shape)
    return TTMatrix.randn(out=out, in_=n, rank=rank, **options)


@functools.cache
def largest_rank(shape, share: float = SHARE) -> int:
    """The largest rank of a TT-matrix that stores at most this share of the dense numbers."""
    rank, most = 1, share * shape[0] * shape[1]
    while trains(shape, rank + 1, device="meta").numel <= most:
        rank += 1
    return rank


def cpu_ms(f) -> float:
    """CPU milliseconds of f(), of all threads."""
    start = time.process_time()
    f()
    return 1e3 * (time.process_time() - start)


def settings(size: dict) -> dict:
    kept = {name: size[name] for name in ("width", "layers", "batches")}
    how = f"{WATTS:g} W of a core assumed where no counter can be read"
    return kept | {"kept of all": SHARE, "GaLore rank": "width / 4", "energy": how, "seed": SEED}


def draw(table: Table, ax) -> str:
    """Bars for load, forward and peak of each way, for the first of the batches; returns a
    sentence."""
    rows = [row for row in table.rows if row.get("peak") is not None]
    rows = [row for row in rows if row["batch"] == rows[0]["batch"]]
    names = [" ".join(dict.fromkeys((r["layers"], r["where"], r["optimizer"]))) for r in rows]
    names = [name.replace(" none", "") for name in names]
    bars(ax, names, {part: [r[part] for r in rows] for part in ("load", "forward", "peak")})
    peak = {name: row["peak"] for name, row in zip(names, rows)}
    share = {name: peak[f"{name} all"] / peak["dense"] for name in ("SVD", "TTM")}
    return (
        f"At the peak of a training step SVD at {SHARE:.0%} holds {share['SVD']:.2f} and TTM "
        f"{share['TTM']:.2f} of what the dense model does."
    )


def bars(ax, names: list[str], parts: dict[str, list[float]]) -> None:
    """Groups of horizontal bars, one group for each name."""
    from ..plots import COLORS  # brings matplotlib

    high = 0.8 / len(parts)
    for k, (part, values) in enumerate(parts.items()):
        ax.barh(
            [i + k * high for i in range(len(names))], values, high, label=part, color=COLORS[k]
        )
    ax.set_yticks([i + high * (len(parts) - 1) / 2 for i in range(len(names))], names)
    ax.invert_yaxis()
    ax.set(xlabel="MiB")
    ax.legend()


PROGRAM = Program(
    "Chekalina2023footprint", __doc__, SIZES, cases, measure, settings, draw, finish=beside_printed
)
