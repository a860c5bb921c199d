"""DLRT beside what one would do instead, at equal numbers stored, with what each training costs
[Schotthoefer2022].

A network 64 -> 128 -> 128 -> 10 on scikit-learn's digits, its two hidden layers compressed to what
rank r stores, r (out + in):

    dense                           all weights, the yardstick
    UV, UV in turn                  W = U Vᵀ, gradient steps on both factors at once, or in turn
    projected, penalty on rank      dense steps, an SVD of each weight after each: of rank r, or of
                                    a rank that costs a penalty
    SVD, then tuned                 half of the epochs dense, an SVD, the other half on the factors
    pruned entries, pruned blocks   half of the epochs dense, the smallest fall, the other half with
                                    those that stay
    lottery ticket                  trained, pruned, rewound, six times; each time all the epochs
    DLRT, DLRT adaptive             KLS steps of fixed rank, or truncated at theta each fifth step

All by SGD with momentum and from the same learning rates, of which each takes the best by accuracy
on 300 validation rows, the mean over seeds. What it costs is one training at that rate: passes (a
batch forward and backward), multiply-adds, seconds of CPU. Multiply-adds are counted op by op as
dense hardware pays them, in each seventh step; QR, SVD, eigenvectors by the usual formulas.
`setting` is a rank, theta or the penalty of a rank; `mask` counts words of 32 bits that say which
weights are kept.
"""

import functools
import math
import statistics
import time
from functools import partial

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from .. import datasets
from ..formats.lowrank import LowRank
from ..layers.linear import FactorizedLinear
from ..layers.surgery import replace_linear
from ..methods.dlrt import DLRT, dlrt_start
from ..methods.projected import FactorSGD, Projected, balanced
from ..methods.pruning import block_masks, hold, lottery
from ..models.mlp import MLP
from ..models.training import accuracy, batches, shuffled_parts
from .program import Program
from .table import Table

SIZES = {
    "quick": {
        "ranks": (4,),
        "thetas": (0.4,),
        "penalties": (0.03,),
        "rates": (0.05,),
        "seeds": (0,),
        "epochs": 4,
        "width": 64,
        "rounds": 2,
    },
    "full": {
        "ranks": (6,),
        "thetas": (0.15, 0.3),
        "penalties": (10.0, 30.0),
        "rates": (0.01, 0.03, 0.1, 0.3, 1.0),
        "seeds": (0, 1, 2),
        "epochs": 20,
        "width": 128,
        "rounds": 6,
    },
}
BATCH, MOMENTUM, LAYERS = 50, 0.9, "layers.[01]"
START, EVERY, BLOCK = 32, 5, (8, 8)  # of adaptive DLRT: rank and steps; of pruned blocks
COUNTED, DIVERGED = 7, 1e4


def cases(size: dict) -> list[dict]:
    """Way, setting, rate and seed."""
    several = {"theta": "thetas", "penalty": "penalties", "rank": "ranks"}
    chosen = {kind: size[name] for kind, name in several.items()} | {"none": (0,)}
    return [
        {"way": way, "setting": setting, "rate": rate, "seed": seed}
        for seed in size["seeds"]
        for way, (kind, _) in WAYS.items()
        for setting in chosen[kind]
        for rate in size["rates"]
    ]


def settings(size: dict) -> dict:
    kept = {name: size[name] for name in ("epochs", "width", "rounds")}
    return kept | {"batch": BATCH, "momentum": MOMENTUM, "data": "digits"}


def measure(size: dict, way: str, setting, rate: float, seed: int) -> dict:
    """One training: accuracies in %, 0 where it diverged, numbers stored and words of a mask, and
    its cost: passes, 10^9 multiply-adds, CPU s."""
    g = torch.Generator().manual_seed(seed)
    x, y, x_valid, y_valid, x_test, y_test = data(seed)
    model, trainer = network(size["width"], g), Trainer(x, y, rate, g)
    right = lambda x, y: round(100 * accuracy(model, x, y), 2)
    try:
        kept = WAYS[way][1](model, trainer, size, setting)
    except FloatingPointError:  # which the row says
        kept, right = None, lambda x, y: 0.0
    grid = BLOCK if way == "pruned blocks" else (1, 1)
    masks = [mask[:: grid[0], :: grid[1]] for mask in kept.values()] if kept else []
    return {
        "valid": right(x_valid, y_valid),
        "test": right(x_test, y_test),
        "stored": stored(model, kept),
        "mask": sum(map(mask_words, masks)),
        "passes": trainer.passes,
        "gmacs": round(trainer.macs / 1e9, 3),
        "cpu s": round(trainer.seconds, 2),
    }


def summary(table: Table) -> Table:
    """One row for each way and setting, at its best rate by `valid`: means over seeds, the
    deviation of `test`, means of the costs.

    `of dense` is the cost in multiply-adds over that of the dense row.
    """
    rows = []
    for way, setting in dict.fromkeys(zip(table["way"], table["setting"])):
        mine = table.where(way=way, setting=setting)
        best = max(
            dict.fromkeys(row["rate"] for row in mine),
            key=lambda rate: _mean(_at(mine, rate), "valid"),
        )
        runs = _at(mine, best)
        test = [row["test"] for row in runs]
        rows.append(
            {
                "way": way,
                "setting": setting,
                "rate": best,
                "test": round(statistics.mean(test), 2),
                "deviation": round(statistics.stdev(test), 2) if len(test) > 1 else None,
                "stored": round(_mean(runs, "stored")),
                "mask": round(_mean(runs, "mask")),
                "passes": round(_mean(runs, "passes")),
                "gmacs": _mean(runs, "gmacs"),
                "cpu s": round(_mean(runs, "cpu s"), 2),
            }
        )
    one = next((row["gmacs"] for row in rows if row["way"] == "dense"), None)
    return Table(
        table.key,
        [row | {"of dense": round(row["gmacs"] / one, 2) if one else None} for row in rows],
        table.notes,
    )


def draw(table: Table, ax) -> str:
    """Test accuracy against the multiply-adds of the training, a mark for each way, a line through
    its settings; a sentence."""
    from ..plots import style  # brings matplotlib

    rows = summary(table).rows
    for k, way in enumerate(dict.fromkeys(row["way"] for row in rows)):
        mine = sorted((row["gmacs"], row["test"]) for row in rows if row["way"] == way)
        ax.plot(
            *zip(*mine),
            label=way,
            **style(k) | ({"ls": ":", "mfc": "none"} if k >= 7 else {"ls": "-"}),
        )
    ax.set(
        xscale="log", xlabel="multiply-adds of one training, in 10^9", ylabel="test accuracy in %"
    )
    ax.legend(fontsize=7)
    small = [row for row in rows if row["way"] != "dense"]
    best, cheap = max(small, key=lambda row: row["test"]), min(small, key=lambda row: row["gmacs"])
    named = lambda row: f"{row['way']} with {row['stored']} numbers, {row['test']:.1f} %"
    return f"Most accurate when compressed: {named(best)}; cheapest to train: {named(cheap)}."


def _at(rows, rate):
    return [row for row in rows if row["rate"] == rate]


def _mean(rows, column):
    return statistics.mean(row[column] for row in rows)


class Trainer:
    """Trains on batches of 50, the rate falling linearly to a tenth, and adds up what that costs.

    macs are those of each seventh step, times seven; such a step is slow and its time is taken from
    the others.

    >>> g = torch.Generator().manual_seed(0)
    >>> x, y = torch.ones(50, 4), torch.zeros(50, dtype=torch.long)
    >>> model = nn.Linear(4, 3, bias=False)
    >>> trainer = Trainer(x, y, 0.1, g)
    >>> trainer.fit(model, trainer.sgd(model), epochs=1)
    >>> trainer.passes, trainer.macs == 2 * 50 * 4 * 3
    (1, True)
    """

    def __init__(self, x, y, rate: float, generator: torch.Generator):
        self.x, self.y, self.rate, self.generator = x, y, rate, generator
        self.passes, self.macs, self.seconds = 0, 0.0, 0.0

    def sgd(self, model: nn.Module):
        """SGD with momentum on all parameters, as something with a `step(closure)`."""
        return FactorSGD(model, torch.optim.SGD(model.parameters(), self.rate, momentum=MOMENTUM))

    def fit(self, model: nn.Module, method, epochs: int) -> None:
        parts = list(batches(len(self.y), BATCH, epochs=epochs, generator=self.generator))
        macs, seconds = [], []
        for k, rows in enumerate(parts):
            rate = self.rate * (1 - 0.9 * k / len(parts))
            for group in method.optimizer.param_groups:
                group["lr"] = rate
            step = partial(method.step, partial(self._loss, model, self.x[rows], self.y[rows]))
            if k % COUNTED == 0:
                macs.append(multiply_adds(step))
            else:
                start = time.process_time()
                step()
                seconds.append(time.process_time() - start)
        self.macs += sum(macs) / len(macs) * len(parts)
        self.seconds += sum(seconds) / max(1, len(seconds)) * len(parts)

    def _loss(self, model, x, y):
        self.passes += 1
        loss = nn.functional.cross_entropy(model(x), y)
        if not loss < DIVERGED:
            raise FloatingPointError(
                f"Trainer: needs a loss below {DIVERGED:g}, got {loss.item():g} in pass "
                f"{self.passes}"
            )
        return loss


@functools.cache
def data(seed: int) -> tuple:
    """x, y of 1000 images to train on and 300 to choose rates with, split by the seed, and of 497
    to test with, always the same."""
    x, y, x_test, y_test = shuffled_parts(*datasets.digits(), 1300)
    return (*shuffled_parts(x, y, 1000, seed=seed), x_test, y_test)


# ----------------------------------------------------------------------------------------- the ways


def network(width: int, generator: torch.Generator) -> MLP:
    """64 -> width -> width -> 10; the hidden layers start with variance 2 / in, so that |W|² = 2
    out as in `dlrt_start`."""
    model = MLP((64, width, width, 10), generator=generator)
    with torch.no_grad():
        for layer in model.layers[:2]:
            layer.weight *= 6**0.5
    return model


def dense(model, trainer, size, _):
    trainer.fit(model, trainer.sgd(model), size["epochs"])


def factors(model, trainer, size, rank, *, turns=False):
    """W = U Vᵀ from the start of DLRT, the singular values shared by both factors."""
    replace_linear(
        model, LAYERS, lambda w: balanced(dlrt_start(w.shape, rank, generator=trainer.generator))
    )
    method = trainer.sgd(model)
    trainer.fit(model, FactorSGD(model, method.optimizer, alternate=turns), size["epochs"])


def projected(model, trainer, size, rank):
    """From the start of DLRT, as a dense matrix."""
    for layer in model.layers[:2]:
        layer.weight.data = dlrt_start(
            layer.weight.shape, rank, generator=trainer.generator
        ).to_dense()
    method = Projected(model, trainer.sgd(model).optimizer, LAYERS, rank=rank)
    trainer.fit(model, method, size["epochs"])
    _as_factors(model, method.ranks)


def penalized(model, trainer, size, penalty):
    method = Projected(model, trainer.sgd(model).optimizer, LAYERS, penalty=penalty)
    trainer.fit(model, method, size["epochs"])
    _as_factors(model, method.ranks)


def cut(model, trainer, size, rank):
    trainer.fit(model, trainer.sgd(model), size["epochs"] // 2)
    replace_linear(model, LAYERS, LowRank.from_dense, rank)
    trainer.fit(model, trainer.sgd(model), size["epochs"] - size["epochs"] // 2)


def pruned(model, trainer, size, rank, *, block=None):
    """Blocks by layer: over both layers at once all that stay may lie in one, and the network is
    cut in two."""
    trainer.fit(model, trainer.sgd(model), size["epochs"] // 2)
    share = 1 - share_of_rank(model, rank)
    masks = block_masks(model, LAYERS, share, block or (1, 1), across="layer" if block else "model")
    _held(model, trainer, masks, size["epochs"] - size["epochs"] // 2)
    return masks


def ticket(model, trainer, size, rank):
    def train(model, masks):
        _held(model, trainer, masks, size["epochs"])
        return size["epochs"] * len(trainer.y)

    prune_rate = 1 - share_of_rank(model, rank) ** (1 / size["rounds"])
    *_, last = lottery(
        model, train, LAYERS, trainer.x[:1], rounds=size["rounds"], prune_rate=prune_rate
    )
    return last.masks


def dlrt(model, trainer, size, rank):
    replace_linear(model, LAYERS, lambda w: dlrt_start(w.shape, rank, generator=trainer.generator))
    trainer.fit(
        model,
        DLRT(model, trainer.sgd(model).optimizer, theta=None),
        size["epochs"],
    )


def adaptive(model, trainer, size, theta):
    """Truncated each fifth step: what is new must grow to theta before it is asked to stay."""
    replace_linear(
        model, LAYERS, lambda w: dlrt_start(w.shape, START, decay=1.05, generator=trainer.generator)
    )
    trainer.fit(
        model,
        DLRT(model, trainer.sgd(model).optimizer, theta=theta, every=EVERY),
        size["epochs"],
    )


WAYS = {  # way: what its setting is, and its training
    "dense": ("none", dense),
    "UV": ("rank", factors),
    "UV in turn": ("rank", partial(factors, turns=True)),
    "projected": ("rank", projected),
    "penalty on rank": ("penalty", penalized),
    "SVD, then tuned": ("rank", cut),
    "pruned entries": ("rank", pruned),
    "pruned blocks": ("rank", partial(pruned, block=BLOCK)),
    "lottery ticket": ("rank", ticket),
    "DLRT": ("rank", dlrt),
    "DLRT adaptive": ("theta", adaptive),
}


def _as_factors(model, ranks):
    """Put dense weights of the ranks that `Projected` left as factors into the model."""
    for name, rank in ranks.items():
        replace_linear(model, name, LowRank.from_dense, rank)


def _held(model, trainer, masks, epochs):
    method = trainer.sgd(model)
    handle = hold(method.optimizer, model, masks)
    trainer.fit(model, method, epochs)
    handle.remove()


# ---------------------------------------------------------------------------------- what is counted


def multiply_adds(step) -> float:
    """Multiply-adds of the matrix products and factorizations of one call, forward and backward;
    elementwise work is left out.

    >>> multiply_adds(lambda: torch.ones(5, 4) @ torch.ones(4, 3))
    60.0
    """
    with Counter() as counter:
        step()
    return counter.flops / 2


class Counter(TorchDispatchMode):
    """Adds up FLOPs by torch's own formulas for products, and by FACTORIZATIONS.

    Not torch's `FlopCounterMode`: it holds on to parameters, whose shapes DLRT changes within a
    step.
    """

    flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        elif packet in FACTORIZATIONS:
            self.flops += FACTORIZATIONS[packet](*args[0].shape)
        return out


def _tall(formula):
    """The formula for the longer and the shorter side; vectors as well as values, a QR with its
    thin Q."""
    return lambda *shape: formula(max(shape), min(shape))


ATEN = torch.ops.aten
FACTORIZATIONS = {
    ATEN.linalg_qr: _tall(lambda m, n: 4 * m * n**2 - 4 * n**3 / 3),
    ATEN._linalg_svd: _tall(lambda m, n: 6 * m * n**2 + 20 * n**3),
    ATEN._linalg_eigh: _tall(lambda m, n: 9 * n**3),
    ATEN.linalg_cholesky_ex: _tall(lambda m, n: n**3 / 3),
    ATEN.linalg_solve_triangular: _tall(lambda m, n: n**3),
}


def share_of_rank(model: nn.Module, rank: int) -> float:
    """Numbers of rank r in the compressed layers, r (out + in) each, for each of their weights."""
    shapes = [layer.weight.shape for layer in model.layers[:2]]
    return sum(rank * (m + n) for m, n in shapes) / sum(m * n for m, n in shapes)


def stored(model: nn.Module, masks: dict | None = None) -> int:
    """Numbers in the weights that must be kept, biases left out: of a layer both factors or the
    product.

    >>> from ..layers.linear import FactorizedLinear
    >>> low = FactorizedLinear(LowRank.randn((6, 5), 2).orthogonal())
    >>> stored(nn.Sequential(low, nn.Linear(6, 3)))
    40
    """
    total = 0
    for name, layer in model.named_modules():
        if masks and name in masks:
            total += int(masks[name].sum())
        elif isinstance(layer, FactorizedLinear):
            m, n = layer.weight.shape
            total += min(layer.weight.ranks[0] * (m + n), m * n)
        elif isinstance(layer, nn.Linear):
            total += layer.weight.numel()
    return total


def mask_words(mask: torch.Tensor) -> int:
    """Words of 32 bits for which entries (or blocks) are kept: a bit for each, or a list of places
    where that is shorter.

    >>> mask_words(torch.ones(64, 64) > 0), mask_words(torch.arange(4096) < 8)
    (128, 3)
    """
    return math.ceil(min(mask.numel(), int(mask.sum()) * math.ceil(math.log2(mask.numel()))) / 32)


PROGRAM = Program(
    "Schotthoefer2022competitors",
    __doc__,
    SIZES,
    cases,
    measure,
    settings,
    draw,
    needs=("sklearn",),
)
