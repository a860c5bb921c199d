"""Cross approximation and the largest entry of a train against the packages people use:
evaluations, seconds, errors, in one run.

    python tests/benchmarks/bench_cross.py
    python tests/benchmarks/bench_cross.py --cases 1/norm --packages tensorlab,teneva

Functions of ten coordinates on 32 points each, relative error 1e-6 asked. Every (case, package)
pair runs in a process of its own. The table goes to cross.csv beside this file: distinct
evaluations and calls with repetition, seconds, the error at 1e5 fresh points (for `argmax`: the
share of the largest entry that was missed, over 20 trains), and for each of evaluations and seconds
how many times tensorlab had fewer.
"""

import argparse
import csv
import datetime
import json
import math
import os
import platform
import subprocess
import sys
import time
import warnings
from pathlib import Path

TABLE = Path(__file__).with_name("cross.csv")
COLUMNS = [
    "date",
    "machine",
    "threads",
    "case",
    "package",
    "version",
    "distinct",
    "asked",
    "seconds",
    "error",
    "rank",
    "ratio_evaluations",
    "ratio_seconds",
]
D, N, RTOL = 10, 32, 1e-6
WHEELS = {
    "tensorlab": "tensorlab",
    "tntorch": "tntorch",
    "teneva": "teneva",
    "torchTT": "torchtt",
    "torchTT amen": "torchtt",
}


def functions():
    import torch

    line = lambda a, b: torch.linspace(a, b, N, dtype=torch.float64)
    return {
        "1/norm": (
            torch.arange(1, N + 1, dtype=torch.float64) / N,
            lambda x: x.square().sum(1).rsqrt(),
        ),
        "rosenbrock": (
            line(-2, 2),
            lambda x: (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1),
        ),
        "ackley": (
            line(-3, 4),
            lambda x: (
                20
                + math.e
                - 20 * (-0.2 * x.square().mean(1).sqrt()).exp()
                - (2 * math.pi * x).cos().mean(1).exp()
            ),
        ),
        "rank one": (line(0, 1), lambda x: (-x.sum(1)).exp()),
    }


class Counted:
    """The function on multi-indices; it remembers which were asked for."""

    def __init__(self, f, grid):
        self.f, self.grid, self.seen, self.asked = f, grid, set(), 0

    def __call__(self, index):
        self.asked += len(index)
        self.seen.update(row.tobytes() for row in index.to(self.grid.device).short().numpy())
        return self.f(self.grid[index])


def cores_of(package, f):
    """What each package finds, as a list of cores."""
    import torch

    torch.manual_seed(0)
    if package == "tensorlab":
        import tensorlab as tl

        return tl.tt_cross(
            f, (N,) * D, rtol=RTOL, budget=1_000_000, generator=torch.Generator().manual_seed(0)
        ).value.cores
    if package == "tntorch":
        import tntorch

        domain = [torch.arange(N, dtype=torch.float64)] * D
        torch.set_default_dtype(torch.float64)
        return tntorch.cross(
            function=lambda i: f(i.round().long()),
            domain=domain,
            function_arg="matrix",
            eps=RTOL,
            rmax=100,
            max_iter=40,
            verbose=False,
            suppress_warnings=True,
        ).cores
    if package == "torchTT":
        import torchtt

        return torchtt.interpolate.dmrg_cross(f, [N] * D, eps=RTOL, nswp=20).cores
    if package == "torchTT amen":
        import torchtt

        x = torchtt.meshgrid([torch.arange(N, dtype=torch.float64)] * D)
        return torchtt.interpolate.function_interpolate(
            lambda i: f(i.round().long()), x, eps=RTOL, nswp=20, method="amen"
        ).cores
    import teneva

    start = teneva.rand([N] * D, 2, seed=0)
    found = teneva.cross(
        lambda i: f(torch.from_numpy(i)).numpy(),
        start,
        e=RTOL,
        nswp=40,
        m=20_000_000,
        dr_min=1,
        dr_max=3,
    )
    return [torch.from_numpy(c) for c in teneva.truncate(found, RTOL / 10)]


def cross(case, package):
    import torch

    import tensorlab as tl

    grid, function = functions()[case]
    f = Counted(function, grid)
    start = time.perf_counter()
    cores = cores_of(package, f)
    seconds = time.perf_counter() - start
    tt = tl.TT(tuple(c.detach().double() for c in cores))
    index = torch.randint(N, (100_000, D), generator=torch.Generator().manual_seed(1))
    exact = function(grid[index])
    error = float((tt.at(index) - exact).norm() / exact.norm())
    return dict(
        distinct=len(f.seen), asked=f.asked, seconds=seconds, error=error, rank=max(tt.ranks)
    )


def argmax(package):
    """20 random trains of 10^12 entries; what is missed of the largest entry that either package
    knows."""
    import teneva
    import torch

    import tensorlab as tl

    missed, seconds = 0.0, 0.0
    for seed in range(20):
        x = tl.TT.randn(
            (10,) * 12, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        cores = [c.numpy() for c in x.cores]
        found = {}
        start = time.perf_counter()
        found["tensorlab"] = tl.tt_argmax(x)[0]
        middle = time.perf_counter()
        low, _, high, _ = teneva.optima_tt(cores, k=100)
        spent = {"tensorlab": middle - start, "teneva": time.perf_counter() - middle}
        found["teneva"] = high
        values = {name: float(x.at(torch.as_tensor(index)[None])) for name, index in found.items()}
        missed += (1 - values[package] / max(values.values())) / 20
        seconds += spent[package]
    return dict(distinct="", asked="", seconds=seconds / 20, error=missed, rank=5)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="1/norm,rosenbrock,ackley,rank one,argmax")
    parser.add_argument("--packages", default=",".join(WHEELS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=120, help="seconds for one pair")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        warnings.filterwarnings("ignore")
        case, package = given.one
        print(json.dumps(argmax(package) if case == "argmax" else cross(case, package)))
        return
    from importlib import metadata

    rows = []
    for case in given.cases.split(","):
        of_case = []
        for package in given.packages.split(","):
            if case == "argmax" and package not in ("tensorlab", "teneva"):
                continue
            environment = os.environ | {"OMP_NUM_THREADS": str(given.threads)}
            command = [sys.executable, __file__, "--one", case, package]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=given.limit, env=environment
                )
            except subprocess.TimeoutExpired:
                print(case, package, f"over {given.limit:.0f} s")
                continue
            if done.returncode:
                print(case, package, (done.stderr.strip().splitlines() or ["failed"])[-1])
                continue
            row = json.loads(done.stdout.splitlines()[-1])
            base = dict(
                date=datetime.date.today().isoformat(),
                machine=f"{platform.machine()}, {os.cpu_count()} cores",
                threads=given.threads,
                case=case,
                package=package,
                version=metadata.version(WHEELS[package]),
            )
            of_case.append(base | row)
        ours = next((r for r in of_case if r["package"] == "tensorlab"), None)
        for row in of_case:
            if ours:
                row["ratio_evaluations"] = (
                    round(row["distinct"] / ours["distinct"], 2) if row["distinct"] else ""
                )
                row["ratio_seconds"] = round(row["seconds"] / ours["seconds"], 2)
        for row in of_case:
            row |= dict(seconds=f"{row['seconds']:.3g}", error=f"{row['error']:.1e}")
            print(*(row.get(c, "") for c in COLUMNS[3:]), flush=True)
        rows += of_case
    with given.table.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main()
