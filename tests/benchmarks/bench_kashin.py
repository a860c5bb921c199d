"""Kashin's decomposition of a square float32 matrix against the plain loop with dense Q1 and Q2, to
the same residual, in one run.

    python tests/benchmarks/bench_kashin.py --size 4096 --tol 1e-2

The plain loop transforms what is left in every step, and back where the step was one of v: two or
four products of n by n matrices. The table goes to kashin.csv beside this file; `speedup` is the
plain loop's seconds over ours, both of the processor, on one thread by default, so that what else
the machine does counts little.
"""

import argparse
import datetime
import os
import platform
import time
from pathlib import Path

import torch

import tensorlab as tl
from tensorlab.methods.kashin import Rotation
from tensorlab.parallel.sweeps import save_csv

TABLE = Path(__file__).with_name("kashin.csv")


def plain(x, q1, q2, tol, max_iter=1000):
    """The greedy loop with dense factors, normalized to |x| = 1."""
    r = x / x.norm()
    u, v, n = torch.zeros_like(r), torch.zeros_like(r), r.numel()
    steps = 0
    while steps < max_iter and r.norm() >= tol:
        steps += 1
        y = q1.T @ r @ q2
        a, b = r.abs().sum(), y.abs().sum()
        if a > b:
            d = a / n * r.sign()
            u, r = u + d, r - d
        else:
            d = b / n * y.sign()
            v, r = v + d, r - q1 @ d @ q2.T
    return u, v, steps, float(r.norm())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--tol", type=float, default=1e-2)
    parser.add_argument("--methods", default="greedy,two_two,frame")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    n, generator = args.size, torch.Generator().manual_seed(0)
    x = torch.randn(n, n, generator=generator)
    # the loop's time does not depend on which orthogonal matrices: cosines with signs, for which no
    # QR of this size is needed
    q1, q2 = (Rotation("dct", (n,), seed).to_dense(torch.float32) for seed in (1, 2))
    rows = []

    def note(name, steps, residual, seconds):
        rows.append(
            dict(
                date=datetime.date.today().isoformat(),
                machine=f"{platform.machine()}, {os.cpu_count()} cores",
                threads=args.threads,
                size=n,
                tol=args.tol,
                method=name,
                steps=steps,
                residual=f"{residual:.2e}",
                seconds=f"{seconds:.3g}",
            )
        )

    for method in args.methods.split(","):
        tl.kashin(x[:64, :64], method=method)
        start = time.process_time()
        fit = tl.kashin(x, Rotation("dct", (n, n), 1), method=method, tol=args.tol)
        note(f"tensorlab {method}", len(fit.history), fit.history[-1], time.process_time() - start)
    start = time.process_time()
    *_, steps, left = plain(x, q1, q2, args.tol)
    note("plain loop", steps, left, time.process_time() - start)
    for row in rows:
        row["speedup"] = f"{float(rows[-1]['seconds']) / float(row['seconds']):.3g}"
        print(*row.values(), sep="  ")
    save_csv(rows, TABLE)


if __name__ == "__main__":
    main()
