"""A training step of the 784-500-500-500-500-10 network: DLRT by rank against dense SGD, time and
numbers held.

    python tests/benchmarks/bench_dlrt.py               ranks 5 to 250, batches of 256 and 1024
    python tests/benchmarks/bench_dlrt.py --ranks 5,20 --batches 256

Seconds are the least CPU time of a step over the repeats, one thread, each method in turn so that
all see the same machine. `numbers` counts what a step holds for the four wide weights: the factors
at their widest, the gradients, and the momentum that SGD keeps; activations are the same for all.
`ratio` is dense / ours, in time and in numbers. The table goes to dlrt.csv.
"""

import argparse
import datetime
import platform
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn

import tensorlab as tl
from tensorlab.models.mlp import MLP
from tensorlab.parallel.sweeps import save_csv

TABLE = Path(__file__).with_name("dlrt.csv")
SIZES = (784, 500, 500, 500, 500, 10)
WIDE = list(zip(SIZES[1:5], SIZES[:4]))


def loss(model, x, y):
    return nn.functional.cross_entropy(model(x), y)


def network(rank=None):
    g = torch.Generator().manual_seed(0)
    model = MLP(SIZES, generator=g)
    if rank:
        tl.replace_linear(
            model, "layers.[0-3]", lambda w: tl.dlrt_start(w.shape, rank, decay=1.02, generator=g)
        )
    return model


def methods(rank):
    """Objects with step(closure), by name, with their models."""
    sgd = lambda model: torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    adaptive, fixed, dense, thin = network(rank), network(rank), network(), network(rank)
    for k in range(4):
        thin.layers[k] = tl.FactorizedLinear(thin.layers[k].weight.merged(), thin.layers[k].bias)
    windows = dict(theta=0.0, total=10**6, window=10**6)  # the steps alone
    return {
        "adaptive": (
            adaptive,
            tl.DLRT(adaptive, sgd(adaptive), theta=0.0, min_rank=rank, max_rank=rank),
        ),
        "fixed rank": (fixed, tl.DLRT(fixed, sgd(fixed), theta=None)),
        "tangent": (thin, tl.TangentDLRT(thin, sgd(thin), **windows)),
        "dense": (dense, tl.FactorSGD(dense, sgd(dense))),
    }


def numbers(method, rank):
    """Weights, gradients and momentum of the wide weights at the fullest moment of a step."""
    if method == "dense":
        return sum(3 * m * n for m, n in WIDE)
    if method == "tangent":  # [U | A] and [B | V], gradients and momentum; U and V for the step
        return sum((6 + 1) * rank * (m + n) for m, n in WIDE)
    q = 2 * rank if method == "adaptive" else rank  # columns of the bases in the second pass
    first = sum(
        2 * (m + n) * rank + 2 * rank**2 for m, n in WIDE
    )  # bases, G V and Gᴴ U, S and its momentum
    turning = max(
        (m + n) * q + 2 * q * q for m, n in WIDE
    )  # the new bases of one layer, beside all that
    second = sum(
        (m + n) * q + 3 * q * q for m, n in WIDE
    )  # the bases; S, its gradient and its momentum
    if method == "fixed rank":  # the weight before, for a step that fails; else the bases hold it
        second += sum((m + n) * rank + rank**2 for m, n in WIDE)
    return max(first + turning, second)


def measure(batch, rank, repeats):
    """Rows of the table, printed as they come."""
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(batch, 784, generator=g), torch.randint(10, (batch,), generator=g)
    made, spent, rows = methods(rank), {}, []
    for _ in range(repeats + 1):  # the first is warm-up
        for name, (model, method) in made.items():
            start = time.process_time()
            method.step(partial(loss, model, x, y))
            spent.setdefault(name, []).append(time.process_time() - start)
    least = {name: min(times[1:]) for name, times in spent.items()}
    for name in made:
        held = numbers(name, rank)
        rows.append(
            {
                "date": datetime.date.today().isoformat(),
                "machine": f"{platform.machine()} {platform.system()}",
                "batch": batch,
                "rank": rank,
                "method": name,
                "cpu seconds": f"{least[name]:.4f}",
                "time ratio": f"{least['dense'] / least[name]:.2f}",
                "numbers": held,
                "numbers ratio": f"{numbers('dense', rank) / held:.2f}",
            }
        )
        print(*rows[-1].values(), sep="  ", flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", default="5,10,20,50,100,250")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--batches", default="256,1024")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for batch in map(int, options.batches.split(",")):
        for rank in map(int, options.ranks.split(",")):
            rows += measure(batch, rank, options.repeats)
    save_csv(rows, TABLE)


if __name__ == "__main__":
    main()
