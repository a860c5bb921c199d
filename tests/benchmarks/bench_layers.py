"""TT layers against the packages people use: 768 -> 3072 as (8, 8, 12) -> (12, 16, 16), forward and
backward, in one run.

    python tests/benchmarks/bench_layers.py
        every rank, every package that is installed
    python tests/benchmarks/bench_layers.py --ranks 2,4 --packages dense,tensorlab

Every (rank, package) pair runs in a process of its own. The rows go to layers.csv beside this file:
medians of wall and of processor time, bytes alive at the peak, bytes saved for the gradient, the
output's standard deviation at the start (a dense layer has 0.577), and `ratio`, how many times the
processor time of tensorlab in this run.
"""

import argparse
import csv
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

TABLE = Path(__file__).with_name("layers.csv")
COLUMNS = [
    "date",
    "machine",
    "threads",
    "tokens",
    "rank",
    "package",
    "version",
    "numbers",
    "seconds",
    "cpu",
    "repeats",
    "mib",
    "saved",
    "out_std",
    "ratio",
]
OUT, IN = (12, 16, 16), (8, 8, 12)


def capped(rank):
    """The ranks that unfoldings allow."""
    return [1, min(rank, 96), min(rank, 192), 1]


def tensorlab(rank):
    import torch

    import tensorlab as tl
    from tensorlab.layers.linear import FactorizedLinear

    return FactorizedLinear(
        tl.TTMatrix.randn(out=OUT, in_=IN, rank=rank, dtype=torch.float32).initial()
    )


def dense(rank):
    import torch

    return torch.nn.Linear(768, 3072, bias=False)


def two_linears(rank):
    import torch

    r = capped(rank)
    q = max(
        1, sum(r[k] * m * n * r[k + 1] for k, (m, n) in enumerate(zip(OUT, IN))) // (768 + 3072)
    )
    return torch.nn.Sequential(
        torch.nn.Linear(768, q, bias=False), torch.nn.Linear(q, 3072, bias=False)
    )


def tltorch_factorized(rank, implementation="factorized", checkpointing=False):
    import tltorch

    return tltorch.FactorizedLinear(
        IN,
        OUT,
        bias=False,
        factorization="blocktt",
        rank=capped(rank),
        implementation=implementation,
        checkpointing=checkpointing,
    )


def tltorch_reconstructed(rank):
    return tltorch_factorized(rank, "reconstructed")


def tltorch_checkpointed(rank):
    return tltorch_factorized(rank, checkpointing=True)


def torchtt(rank):
    import torch
    import torchtt.nn

    inner = torchtt.nn.LinearLayerTT(list(IN), list(OUT), capped(rank))

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x.reshape(*x.shape[:-1], *IN)).reshape(*x.shape[:-1], 3072)

    return Wrapped()


PACKAGES = {
    "tensorlab": (tensorlab, "tensorlab"),
    "dense": (dense, "torch"),
    "two linears": (two_linears, "torch"),
    "tltorch factorized": (tltorch_factorized, "tensorly-torch"),
    "tltorch reconstructed": (tltorch_reconstructed, "tensorly-torch"),
    "tltorch checkpointed": (tltorch_checkpointed, "tensorly-torch"),
    "torchTT": (torchtt, "torchtt"),
}


def one(name, rank, args):
    """Measure one pair here and print its row."""
    import importlib.metadata

    import torch

    from tensorlab.layers.ledger import peak_bytes

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    make, package = PACKAGES[name]
    layer = make(rank)
    x, dy = torch.randn(args.tokens, 768, requires_grad=True), torch.randn(args.tokens, 3072)
    leaves, saved = [x, *(p for n, p in layer.named_parameters() if "bias" not in n)], {}
    known = {t.untyped_storage()._cdata for t in leaves}

    def pack(t):
        if t.untyped_storage()._cdata not in known:
            saved[t.untyped_storage()._cdata] = t.untyped_storage().nbytes()
        return t

    step = lambda: torch.autograd.grad(layer(x), leaves, dy)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = layer(x)
    std = float(y.detach().std())
    del y
    wall, cpu, end = [], [], time.perf_counter() + args.seconds
    step()
    while len(wall) < args.repeats and (not wall or time.perf_counter() < end):
        a, b = time.perf_counter(), time.process_time()
        step()
        wall.append(time.perf_counter() - a)
        cpu.append(time.process_time() - b)
    row = dict(
        version=importlib.metadata.version(package),
        numbers=sum(p.numel() for p in leaves[1:]),
        repeats=len(wall),
        seconds=f"{statistics.median(wall):.4g}",
        cpu=f"{statistics.median(cpu):.4g}",
        mib=f"{peak_bytes(step, [dy, *leaves]) / 2**20:.1f}",
        saved=f"{sum(saved.values()) / 2**20:.1f}",
        out_std=f"{std:.3g}",
    )
    print("ROW " + json.dumps(row))


def pair(name, rank, args):
    """Run one pair in a process of its own; its row, or why there is none."""
    threads = dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(args.threads)
    )
    command = [
        sys.executable,
        __file__,
        "--one",
        name,
        str(rank),
        "--threads",
        str(args.threads),
        "--repeats",
        str(args.repeats),
        "--tokens",
        str(args.tokens),
        "--seconds",
        str(args.seconds),
    ]
    try:
        done = subprocess.run(
            command, env=os.environ | threads, capture_output=True, text=True, timeout=args.limit
        )
    except subprocess.TimeoutExpired:
        return dict(seconds=f"over {args.limit} s")
    rows = [line[4:] for line in done.stdout.splitlines() if line.startswith("ROW ")]
    return (
        json.loads(rows[0])
        if rows
        else dict(seconds=(done.stderr.strip().splitlines() or ["died"])[-1][:60])
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", default="2,4,8,16,32,64")
    parser.add_argument("--packages", default=",".join(PACKAGES))
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10, help="for the repeats of one pair")
    parser.add_argument("--limit", type=int, default=180, help="seconds for one pair, all included")
    parser.add_argument("--one", nargs=2, metavar=("PACKAGE", "RANK"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return one(args.one[0], int(args.one[1]), args)
    for rank in map(int, args.ranks.split(",")):
        rows = {name: pair(name, rank, args) for name in args.packages.split(",")}
        ours = rows.get("tensorlab", {}).get("cpu")
        fresh = []
        for name, row in rows.items():
            today = datetime.date.today().isoformat()
            machine = f"{platform.machine()}, {os.cpu_count()} cores"
            label = dict(
                date=today, machine=machine, threads=args.threads, tokens=args.tokens, rank=rank
            )
            ratio = f"{float(row['cpu']) / float(ours):.3g}" if ours and "cpu" in row else ""
            fresh.append(label | dict(package=name, ratio=ratio) | row)
            print(
                *(f"{key} {fresh[-1].get(key, '')}" for key in ("rank", "package", *COLUMNS[7:])),
                flush=True,
            )
        new = not TABLE.exists()
        with TABLE.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows(fresh)


if __name__ == "__main__":
    main()
