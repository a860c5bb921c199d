"""Kronecker sums of Gaussian matrices in the spectral norm: seconds, steps, and the SVD's error
over ours, beside the alternating way.

    python tests/benchmarks/bench_kron.py --sizes 36 384 768

The table goes to kron.csv beside this file; seconds are the processor's, on one thread. Up to 64
rows the search goes to its end, by both ways; beyond, what `--steps` steps cost and reach.
"""

import argparse
import datetime
import math
import os
import platform
import time
from pathlib import Path

import torch

from tensorlab.methods.kron_spectral import kron_alternating, kron_spectral
from tensorlab.parallel.sweeps import save_csv

TABLE = Path(__file__).with_name("kron.csv")


def left_of(n: int) -> tuple[int, int]:
    """The divisors next to √n, below and above: 6 x 6 of 36, 16 x 24 of 384, 24 x 32 of 768."""
    m = max(d for d in range(1, math.isqrt(n) + 1) if n % d == 0)
    return m, n // m


def measure(n: int, terms: int, steps: int) -> list[dict]:
    w = torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    svd = float(torch.linalg.svdvals(w)[terms])
    small = n <= 64
    ways = {
        "continuation": lambda: kron_spectral(
            w, left_of(n), terms, max_iter=300 if small else steps
        )
    }
    if small:
        ways["three starts, to 0.1 %"] = lambda: kron_spectral(
            w,
            left_of(n),
            terms,
            tol=1e-3,
            p_max=2048,
            max_iter=2000,
            starts=3,
            generator=torch.Generator().manual_seed(0),
        )
        ways["alternating"] = lambda: kron_alternating(w, left_of(n), terms)
    rows = []
    for way, run in ways.items():
        start = time.process_time()
        fit = run()
        took = time.process_time() - start
        rows.append(
            {
                "size": n,
                "terms": terms,
                "way": way,
                "steps": len(fit.history) - 1,
                "seconds": round(took, 3),
                "ratio": round(svd / fit.error, 4),
                "gap": round(fit.gap, 4),
            }
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[36, 384, 768])
    parser.add_argument("--terms", type=int, nargs="+", default=[3, 12])
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    about = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    rows = [
        about | row
        for n in arguments.sizes
        for k in arguments.terms
        for row in measure(n, k, arguments.steps)
    ]
    save_csv(rows, TABLE)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
