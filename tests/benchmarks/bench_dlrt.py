"""A training step of the 784-500-500-500-500-10 network: DLRT by rank against dense SGD, time and numbers held.

    python tests/benchmarks/bench_dlrt.py               ranks 5 to 250, batch 256
    python tests/benchmarks/bench_dlrt.py --ranks 5,20 --repeats 5

Seconds are the least CPU time of a step over the repeats, one thread, each method in turn so that all see the same machine.
`numbers` counts what a step holds for the four wide weights: the factors at their widest, the gradients, and the momentum that
SGD keeps; activations are the same for all.  `ratio` is dense / ours, in time and in numbers.  The table goes to dlrt.csv.
"""

import argparse
import csv
import datetime
import platform
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn

import tensorlab as tl
from tensorlab.models.mlp import MLP

TABLE = Path(__file__).with_name("dlrt.csv")
SIZES = (784, 500, 500, 500, 500, 10)
WIDE = list(zip(SIZES[1:5], SIZES[:4]))


def loss(model, x, y):
    return nn.functional.cross_entropy(model(x), y)


def network(rank=None):
    g = torch.Generator().manual_seed(0)
    model = MLP(SIZES, generator=g)
    if rank:
        tl.replace_linear(model, "layers.[0-3]", lambda w: tl.dlrt_start(w.shape, rank, decay=1.02, generator=g))
    return model


def methods(rank):
    """Objects with step(closure), by name, with their models."""
    sgd = lambda model: torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    adaptive, fixed, dense = network(rank), network(rank), network()
    return {
        "adaptive": (adaptive, tl.DLRT(adaptive, sgd(adaptive), lr=1e-3, theta=0.0, min_rank=rank, max_rank=rank)),
        "fixed rank": (fixed, tl.DLRT(fixed, sgd(fixed), lr=1e-3, theta=None)),
        "dense": (dense, tl.Alternating(dense, sgd(dense))),
    }


def numbers(method, rank):
    """Weights, gradients and momentum of the wide weights at the fullest moment of a step."""
    if method == "dense":
        return sum(3 * m * n for m, n in WIDE)
    q = 2 * rank if method == "adaptive" else rank  # columns of the bases in the second pass
    wide = 2 * rank if method == "fixed rank" else rank  # and in the first: see DLRT._gradients
    first = sum(2 * (m + n) * wide + wide**2 + (m + n) * rank * (wide > rank) + rank**2 for m, n in WIDE)  # gradients too
    turning = sum((m + n) * (2 * rank + q) + 2 * q * q for m, n in WIDE)  # the thin gradients beside the old and the new bases
    second = sum((m + n) * q + 3 * q * q for m, n in WIDE)  # the bases; S, its gradient and its momentum
    return max(first, turning, second)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", default="5,10,20,50,100,250")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(options.batch, 784, generator=g), torch.randint(10, (options.batch,), generator=g)
    rows = []
    for rank in map(int, options.ranks.split(",")):
        least = {}
        made = methods(rank)
        for _ in range(options.repeats + 1):  # the first is warm-up
            for name, (model, method) in made.items():
                start = time.process_time()
                method.step(partial(loss, model, x, y))
                least.setdefault(name, []).append(time.process_time() - start)
        dense = min(least["dense"][1:])
        for name in made:
            spent, held = min(least[name][1:]), numbers(name, rank)
            rows.append({
                "date": datetime.date.today().isoformat(), "machine": f"{platform.machine()} {platform.system()}",
                "batch": options.batch, "rank": rank, "method": name, "cpu seconds": f"{spent:.4f}",
                "time ratio": f"{dense / spent:.2f}", "numbers": held, "numbers ratio": f"{numbers('dense', rank) / held:.2f}",
            })  # fmt: skip
            print(*rows[-1].values(), sep="  ", flush=True)
    with open(TABLE, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
