"""Wall time of a factorized convolution over the dense one, in turns on the same images: what FLOPs
promise and what comes.

    python tests/benchmarks/bench_conv.py [--threads 1] [--repeats 15]

The table goes to conv.csv beside this file. `ratio`: FLOPs dense over factorized; `speedup`: median
wall time of the forward pass dense over factorized; `training`: the same of forward and backward.
"""

import argparse
import datetime
import os
import platform
import re
import statistics
import time
from pathlib import Path

import torch
from torch import nn

import tensorlab as tl
from tensorlab.parallel.sweeps import save_csv

TABLE = Path(__file__).with_name("conv.csv")
LAYERS = {
    "16 ch 8x8": (16, 8, 64),
    "64 ch 16x16": (64, 16, 16),
    "128 ch 28x28": (128, 28, 4),
    "256 ch 14x14": (256, 14, 4),
}
MAKE = {
    "cp": tl.cp_conv,
    "tucker": tl.tucker_conv,
    "tt": tl.tt_conv,
    "spatial": tl.spatial_conv,
    "svd": tl.svd_conv,
}


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio(dense, small, x, repeats, training):
    """Median over the turns of dense over small."""

    def step(model):
        if training:
            model(x).square().mean().backward()
        else:
            with torch.no_grad():
                model(x)

    for model in (dense, small):
        step(model)
    return statistics.median(
        seconds(lambda: step(dense)) / seconds(lambda: step(small)) for _ in range(repeats)
    )


def machine():
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return f"{found[1].strip() if found else platform.machine()}, {os.cpu_count()} cores"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for case, (channels, side, batch) in LAYERS.items():
        torch.manual_seed(0)
        dense, x = (
            nn.Conv2d(channels, channels, 3, padding=1),
            torch.randn(batch, channels, side, side),
        )
        for name, make in MAKE.items():
            options = (
                dict(max_iter=1) if name == "cp" else {}
            )  # the time does not depend on the numbers
            small = make(dense, flops=0.25, image_size=(side, side), **options)
            work = sum(tl.layer_flops(dense, x).values()) / sum(tl.layer_flops(small, x).values())
            fast = {
                what: ratio(dense, small, x, args.repeats, what == "training")
                for what in ("speedup", "training")
            }
            rows.append(
                dict(
                    date=datetime.date.today().isoformat(),
                    machine=machine(),
                    threads=args.threads,
                    torch=torch.__version__,
                    layer=case,
                    structure=name,
                    ratio=f"{work:.3g}",
                    **{what: f"{value:.3g}" for what, value in fast.items()},
                )
            )
            seen = ", ".join(f"{what} x {value:.2f}" for what, value in fast.items())
            print(f"{case:14} {name:8} FLOPs / {work:.2f}, {seen}", flush=True)
        save_csv(rows, TABLE)


if __name__ == "__main__":
    main()
