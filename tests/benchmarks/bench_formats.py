"""Formats against the packages people use: the same work, the same machine, one run.

    python tests/benchmarks/bench_formats.py
        every case, every package that is installed
    python tests/benchmarks/bench_formats.py --cases cp,round --threads 1

Every (case, package) pair runs in a process of its own, so neither a crash nor a peak of memory of
one says anything about the next. The table goes to formats.csv beside this file: medians of wall
time, relative error, largest rank, peak memory beyond the input, and `ratio`, how many times faster
tensorlab was in this run.
"""

import argparse
import csv
import datetime
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

TABLE = Path(__file__).with_name("formats.csv")
COLUMNS = [
    "date",
    "machine",
    "threads",
    "case",
    "package",
    "version",
    "seconds",
    "repeats",
    "error",
    "rank",
    "mib",
    "ratio",
]


# ------------------------------------------------------------------------------------------ inputs


def smooth(shape, dtype):
    """1 / (1 + sum of coordinates), each in [0, 1); binary digits address a point of the unit
    square."""
    import torch

    if set(shape) == {2}:
        half = len(shape) // 2
        shape, axes = tuple(shape), [2**half, 2 ** (len(shape) - half)]
    else:
        axes = list(shape)
    total = torch.zeros([], dtype=torch.float64)
    for k, n in enumerate(axes):
        total = total + (torch.arange(n, dtype=torch.float64) / n).reshape(
            [n] + [1] * (len(axes) - 1 - k)
        )
    return (1 / (1 + total)).to(dtype).reshape(shape)


def train(seed, shape=(32,) * 10, rank=40):
    import torch

    import tensorlab as tl

    return tl.TT.randn(
        shape, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def noisy(x, level, seed=4):
    import torch

    e = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x + e * (level * x.norm() / e.norm())


def dense(name, dtype):
    import torch

    import tensorlab as tl

    g = torch.Generator().manual_seed(5)
    if name == "lowrank 64^4":
        return noisy(train(3, (64,) * 4, 20).to_dense(), 1e-7).to(dtype)
    if name.startswith("cp"):
        shape = (100,) * 3 if name.endswith("100^3") else (30,) * 4
        return noisy(tl.CP.randn(shape, 10, generator=g, dtype=torch.float64).to_dense(), 1e-3)
    if name.startswith("tucker"):
        return noisy(
            tl.Tucker.randn((200,) * 3, 20, generator=g, dtype=torch.float64).to_dense(), 1e-3
        )
    return smooth({"smooth 2^24": (2,) * 24, "smooth 8^8": (8,) * 8}[name], dtype)


# ----------------------------------------------------------------------------------------- packages


class Tensorlab:
    module = "tensorlab"

    def __init__(self):
        import tensorlab

        self.tl = tensorlab

    def tt(self, x, rtol, rank):
        return self.tl.tt_svd(x, rank, rtol=rtol)

    def given(self, tt):
        return tt

    def sum_rounded(self, a, b, rtol, rank):
        return self.tl.tt_round(a + b, rank, rtol=rtol)

    def cores(self, tt):
        return tt.cores

    def cp(self, x, start, sweeps):
        return self.tl.cp_als(x, start.ranks[0], init=start, tol=0.0, max_iter=sweeps).value

    def tucker(self, x, rank):
        return self.tl.st_hosvd(x, rank)

    def at(self, tt, index):
        return tt.at(index)


class Tensorly:
    module, svd = "tensorly", "truncated_svd"

    def __init__(self):
        import tensorly

        tensorly.set_backend("pytorch")

    def tt(self, x, rtol, rank):
        from tensorly.decomposition import tensor_train

        if rank is None:
            raise ValueError("has no tolerance")
        return tensor_train(x, [1] + [rank] * (x.ndim - 1) + [1], svd=self.svd)

    def cores(self, tt):
        return list(tt.factors)

    def cp(self, x, start, sweeps):
        from tensorly.decomposition import parafac

        import tensorlab as tl

        cp = parafac(x, start.ranks[0], n_iter_max=sweeps, init=tl.to_tensorly(start), tol=0)
        return tl.from_tensorly(cp)

    def tucker(self, x, rank):
        from tensorly.decomposition import tucker

        import tensorlab as tl

        return tl.from_tensorly(tucker(x, rank=[rank] * x.ndim, n_iter_max=10, svd=self.svd))


class TensorlyRandomized(Tensorly):
    svd = "randomized_svd"
    cp = None


class Tntorch:
    module = "tntorch"

    def __init__(self):
        import tntorch

        self.tn = tntorch

    def tt(self, x, rtol, rank):
        t = self.tn.Tensor(x)
        t.round_tt(eps=rtol or 0, rmax=rank)
        return t

    def given(self, tt):
        return self.tn.Tensor([c.clone() for c in tt.cores])

    def sum_rounded(self, a, b, rtol, rank):
        s = a + b
        s.round_tt(eps=rtol or 0, rmax=rank)
        return s

    def cores(self, tt):
        return tt.cores

    def cp(self, x, start, sweeps):  # takes no start, draws its own
        import tensorlab as tl

        return tl.from_tntorch(
            self.tn.Tensor(x, ranks_cp=start.ranks[0], max_iter=sweeps, tol=-1.0)
        )

    def tucker(self, x, rank):
        import tensorlab as tl

        return tl.from_tntorch(self.tn.Tensor(x, ranks_tucker=rank))

    def at(self, tt, index):
        return tt[[index[:, k] for k in range(index.shape[1])]].torch()


class TorchTT:
    module = "torchtt"

    def __init__(self):
        import torchtt

        self.tt_class = torchtt.TT

    def tt(self, x, rtol, rank):
        return self.tt_class(x, eps=rtol or 0.0, rmax=rank or sys.maxsize)

    def given(self, tt):
        return self.tt_class([c.clone() for c in tt.cores])

    def sum_rounded(self, a, b, rtol, rank):
        return (a + b).round(rtol or 0.0, rank or sys.maxsize)

    def cores(self, tt):
        return tt.cores

    def at(self, tt, index):
        return tt.apply_mask(index)


class Teneva:
    module = "teneva"

    def __init__(self):
        import teneva

        self.tv = teneva

    def tt(self, x, rtol, rank):
        x = x.numpy()  # shares the memory; the tolerance of teneva is absolute and that of one step
        if rtol is None:
            return self.tv.svd(x, 0.0, rank)
        return self.tv.svd(
            x, rtol * float((x.astype(float) ** 2).sum() ** 0.5) / math.sqrt(x.ndim - 1)
        )

    def given(self, tt):
        return [c.numpy().copy() for c in tt.cores]

    def sum_rounded(self, a, b, rtol, rank):
        return self.tv.truncate(self.tv.add(a, b), rtol or 0.0, rank or 1e12)

    def cores(self, tt):
        return tt

    def at(self, tt, index):
        return self.tv.get_many(tt, index.numpy())


class Quimb:
    module = "quimb"

    def __init__(self):
        import quimb.tensor as qtn

        self.mps = qtn.MatrixProductState

    def _cut(self, rtol, rank, d):
        return dict(cutoff=rtol**2 / (d - 1) if rtol else 0.0, cutoff_mode="rsum2", max_bond=rank)

    def tt(self, x, rtol, rank):
        return self.mps.from_dense(
            x.numpy().reshape(-1), dims=x.shape, **self._cut(rtol, rank, x.ndim)
        )

    def given(self, tt):
        cores = [c.numpy().copy() for c in tt.cores]
        return self.mps([cores[0][0], *cores[1:-1], cores[-1][..., 0]], shape="lpr")

    def sum_rounded(self, a, b, rtol, rank):
        s = a + b
        s.compress(form="right", **self._cut(rtol, rank, s.L))
        return s

    def cores(self, mps):
        mps = mps.copy()
        mps.permute_arrays("lpr")
        first, *middle, last = mps.arrays
        return [first[None], *middle, last[..., None]]


PACKAGES = {
    "tensorlab": Tensorlab,
    "tensorly": Tensorly,
    "tensorly randomized": TensorlyRandomized,
    "tntorch": Tntorch,
    "torchTT": TorchTT,
    "teneva": Teneva,
    "quimb": Quimb,
}


# ------------------------------------------------------------------------------------------ cases


def tt_case(name, dtype, rtol=None, rank=None):
    def run(package, repeats):
        import torch

        import tensorlab as tl

        x = dense(name, getattr(torch, dtype))
        result, row = measured(lambda: package.tt(x, rtol, rank), repeats)
        tt = tl.TT([torch.as_tensor(c).double() for c in package.cores(result)])
        return row | dict(error=distance(tt.to_dense(), x), rank=max(tt.ranks))

    return "tt", run


def round_case(other, rtol=None, rank=None):
    def run(package, repeats):
        import torch

        import tensorlab as tl

        a, b = train(1), 2 * train(1) if other == "2a" else train(2)
        pa, pb = package.given(a), package.given(b)
        result, row = measured(lambda: package.sum_rounded(pa, pb, rtol, rank), repeats)
        tt = tl.TT([torch.as_tensor(c).double() for c in package.cores(result)])
        whole = a + b
        return row | dict(error=float((tt - whole).norm() / whole.norm()), rank=max(tt.ranks))

    return "sum_rounded", run


def cp_case(name):
    def run(package, repeats):
        import torch

        import tensorlab as tl

        x, g = dense(name, None), torch.Generator().manual_seed(0)
        start = tl.CP(
            torch.ones(10).double(),
            [tl.rng.rand(n, 10, generator=g, dtype=torch.float64) for n in x.shape],
        )
        result, row = measured(lambda: package.cp(x, start, 50), repeats)
        return row | dict(error=distance(result.to_dense(), x), rank=10)

    return "cp", run


def tucker_case():
    def run(package, repeats):
        x = dense("tucker", None)
        result, row = measured(lambda: package.tucker(x, 20), repeats)
        return row | dict(error=distance(result.to_dense(), x), rank=20)

    return "tucker", run


def at_case():
    def run(package, repeats):
        import torch

        tt = train(1)
        index = torch.randint(0, 32, (100_000, 10), generator=torch.Generator().manual_seed(9))
        given = package.given(tt)
        result, row = measured(lambda: package.at(given, index), repeats)
        some = [reference(tt, i) for i in index[:50].tolist()]
        got = torch.as_tensor(result).reshape(-1)[:50].double()
        return row | dict(error=distance(got, torch.tensor(some, dtype=torch.float64)), rank=40)

    return "at", run


def reference(tt, index):
    v = tt.cores[0][:, index[0]]
    for core, i in zip(tt.cores[1:], index[1:]):
        v = v @ core[:, i]
    return float(v)


CASES = {
    "tt f64 smooth 2^24 rtol 1e-6": tt_case("smooth 2^24", "float64", rtol=1e-6),
    "tt f64 smooth 2^24 rank 20": tt_case("smooth 2^24", "float64", rank=20),
    "tt f64 lowrank 64^4 rtol 1e-6": tt_case("lowrank 64^4", "float64", rtol=1e-6),
    "tt f64 lowrank 64^4 rank 20": tt_case("lowrank 64^4", "float64", rank=20),
    "tt f32 smooth 8^8 rtol 1e-6": tt_case("smooth 8^8", "float32", rtol=1e-6),
    "tt f32 smooth 8^8 rank 20": tt_case("smooth 8^8", "float32", rank=20),
    "round a+2a 32^10 r 80 rtol 1e-10": round_case("2a", rtol=1e-10),
    "round a+b 32^10 r 80 rank 40": round_case("b", rank=40),
    "cp 100^3 rank 10, 50 sweeps": cp_case("cp 100^3"),
    "cp 30^4 rank 10, 50 sweeps": cp_case("cp 30^4"),
    "tucker 200^3 rank 20": tucker_case(),
    "at 100000 of 32^10 r 40": at_case(),
}


def distance(y, x):
    return float((y.double() - x.double()).norm() / x.double().norm())


# ---------------------------------------------------------------------------------------- measuring


def measured(work, repeats):
    """The result of `work` and its median wall time and peak memory; repeats stop after half a
    minute."""
    before, can_reset = status("VmRSS"), True
    try:
        Path("/proc/self/clear_refs").write_text("5")  # restart the peak
    except OSError:
        can_reset = False
    result = work()  # also the warm-up
    mib = status("VmHWM") - before if can_reset else float("nan")
    times, start = [], time.perf_counter()
    while len(times) < repeats and (not times or time.perf_counter() - start < 30):
        t = time.perf_counter()
        work()
        times.append(time.perf_counter() - t)
    return result, dict(seconds=statistics.median(times), repeats=len(times), mib=mib)


def status(field):
    try:
        return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
    except OSError:
        return float("nan")


def one(case, name, threads, repeats):
    """Run one pair here and print its row."""
    import importlib.metadata

    import torch

    torch.set_num_threads(threads)
    package = PACKAGES[name]()
    row = CASES[case][1](package, repeats)
    print(json.dumps(row | dict(version=importlib.metadata.version(package.module))))


def pair(case, name, args):
    """Run one pair in a process of its own; its row, or why there is none."""
    threads = dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(args.threads)
    )
    command = [
        sys.executable,
        __file__,
        "--one",
        case,
        name,
        "--threads",
        str(args.threads),
        "--repeats",
        str(args.repeats),
    ]
    try:
        done = subprocess.run(
            command, env=os.environ | threads, capture_output=True, text=True, timeout=args.limit
        )
    except subprocess.TimeoutExpired:
        return dict(seconds=None, note=f"over {args.limit} s")
    if done.returncode:
        return dict(seconds=None, note=(done.stderr.strip().splitlines() or ["died"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def machine():
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        cpu = found[1].strip() if found else cpu
    return f"{cpu}, {os.cpu_count()} cores"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cases", default="", help="only cases that contain one of these, comma-separated"
    )
    parser.add_argument("--packages", default=",".join(PACKAGES))
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count()))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=int, default=180, help="seconds for one pair, all included")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "PACKAGE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return one(*args.one, args.threads, args.repeats)
    wanted = [
        c for c in CASES if not args.cases or any(part in c for part in args.cases.split(","))
    ]
    kept = []
    if TABLE.exists():
        with TABLE.open(newline="") as file:
            kept = [r for r in csv.DictReader(file) if r["case"] not in wanted]
    for case in wanted:
        names = [n for n in args.packages.split(",") if getattr(PACKAGES[n], CASES[case][0], None)]
        rows = {name: pair(case, name, args) for name in names}
        ours = rows.get("tensorlab", {}).get("seconds")
        for name, row in rows.items():
            seconds = row.get("seconds")
            ratio = f"{seconds / ours:.3g}" if seconds and ours else ""
            fresh = dict(
                date=datetime.date.today().isoformat(),
                machine=machine(),
                threads=args.threads,
                case=case,
                package=name,
                version=row.get("version", ""),
                seconds=f"{seconds:.4g}" if seconds else row["note"][:60],
                repeats=row.get("repeats", ""),
                error=f"{row['error']:.1e}" if seconds else "",
                rank=row.get("rank", ""),
                mib=f"{row['mib']:.0f}" if seconds else "",
                ratio=ratio,
            )
            kept.append(fresh)
            shown = [f"{case:36} {name:20} {fresh['seconds']:>10} s  x{ratio:6}"]
            print(
                *shown,
                f"error {fresh['error']} rank {fresh['rank']} {fresh['mib']} MiB",
                flush=True,
            )
        part = TABLE.with_suffix(".part")
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)
        part.replace(TABLE)


if __name__ == "__main__":
    main()
