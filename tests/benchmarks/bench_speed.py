"""The speed of tensor trains, Tucker, CP and TT layers against the packages people use, at every
size of one table.

    python tests/benchmarks/bench_speed.py
        every case, every package that is installed
    python tests/benchmarks/bench_speed.py --cases "round,tt f32" --repeats 5

The packages take turns in one process and one thread, so that whatever else the machine does meets
all of them. The table goes to speed.csv beside this file: medians of CPU seconds, the error, the
largest rank, and `ratio`, the median over the turns of how many times faster tensorlab was. A
package that needs over ten times the time of the fastest one of the others, and more than half a
second, has one turn.
"""

import argparse
import csv
import datetime
import gc
import math
import os
import statistics
import time
from functools import partial
from importlib import metadata
from pathlib import Path

import torch
from bench_formats import PACKAGES, distance, machine, noisy, smooth

import tensorlab as tl
from tensorlab.parallel.sweeps import save_csv

TABLE = Path(__file__).with_name("speed.csv")
SHAPES = {
    "80^3": (80,) * 3,
    "2^19": (2,) * 19,
    "14^5": (14,) * 5,
    "100^3": (100,) * 3,
    "10^6": (10,) * 6,
    "8^7": (8,) * 7,
    "12^6": (12,) * 6,
    "2^22": (2,) * 22,
    "200^3": (200,) * 3,
    "40x50x60x70": (40, 50, 60, 70),
    "64^4": (64,) * 4,
    "2^24": (2,) * 24,
}
CUTS = {
    "float64": dict(zip(("1e-2", "1e-6", "1e-10", "rank 12"), (1e-2, 1e-6, 1e-10, 12))),
    "float32": dict(zip(("1e-2", "1e-5", "rank 12"), (1e-2, 1e-5, 12))),
}
RANDOM = ("14^5", "100^3", "8^7", "2^19")
ROUNDED = {  # shape, rank of each of the two parts, whether they are the same
    "20^8 r 60 to 30": ((20,) * 8, 30, "same"),
    "16^12 r 40 to 20": ((16,) * 12, 20, "same"),
    "32^10 r 80 to 40": ((32,) * 10, 40, "same"),
    "64^6 r 100 to 50": ((64,) * 6, 50, "same"),
    "4^20 r 32 to 16": ((4,) * 20, 16, "same"),
    "2^40 r 24 to 12": ((2,) * 40, 12, "same"),
    "a+b 20^8 r 60 to 30": ((20,) * 8, 30, "other"),
    "a+b 16^12 r 40 to 20": ((16,) * 12, 20, "other"),
    "a+b 4^20 r 32 to 16": ((4,) * 20, 16, "other"),
    "a+b 2^40 r 24 to 12": ((2,) * 40, 12, "other"),
    "a+1e-8 b 16^12 r 80 to 20": ((16,) * 12, 20, "small"),
    "a+1e-8 b 4^20 r 64 to 16": ((4,) * 20, 16, "small"),
    "16^12 r 120 to 20": ((16,) * 12, 20, "six"),
    "20^8 r 120 to 15": ((20,) * 8, 15, "eight"),
    "4^20 r 64 to 16": ((4,) * 20, 16, "four"),
}
LAYERS = {  # out, in, tokens
    "1024 to 1024": ((8, 8, 16), (16, 8, 8), 1024),
    "512 to 2048": ((8, 16, 16), (8, 8, 8), 512),
    "768 to 3072": ((12, 16, 16), (8, 8, 12), 1024),
}


# ------------------------------------------------------------------------------------------ work


def tensor(shape, kind, dtype):
    """A dense tensor: smooth, of rank 12 with noise of 1e-6, or random."""
    g = torch.Generator().manual_seed(0)
    if kind == "random":
        return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)
    if kind == "smooth":
        return smooth(shape, dtype)
    return noisy(tl.TT.randn(shape, 12, generator=g, dtype=torch.float64).to_dense(), 1e-6).to(
        dtype
    )


def svd_case(shape, kind, dtype, cut, packages):
    """TT-SVD of a dense tensor to a tolerance or a rank."""
    x = tensor(shape, kind, getattr(torch, dtype))
    rtol, rank = (None, cut) if isinstance(cut, int) else (cut, None)
    work = {n: partial(p.tt, x, rtol, rank) for n, p in packages.items()}
    return work, lambda name, made: train_row(packages[name].cores(made), x)


def train_row(cores, x):
    """Error and largest rank of a train of a dense tensor or of another train."""
    tt = tl.TT([torch.as_tensor(c).double() for c in cores])
    if isinstance(x, tl.TT):
        return dict(error=float((tt - x).norm() / x.norm()), rank=max(tt.ranks))
    return dict(error=distance(tt.to_dense(), x), rank=max(tt.ranks))


def round_case(shape, rank, parts, cut, packages):
    """A train rounded back to this rank: a + 2a + 3a + ..., a + b, or a + 1e-8 b with b of three
    times the rank."""
    draw = lambda seed, r: tl.TT.randn(
        shape, r, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    whole = a = draw(1, rank)
    for k in range(2, dict(same=2, four=4, six=6, eight=8).get(parts, 0) + 1):
        whole = whole + k * a
    if parts in ("other", "small"):
        whole = a + (draw(2, rank) if parts == "other" else 1e-8 * draw(2, 3 * rank))
    given = {n: p.given(whole) for n, p in packages.items()}
    rtol, cap = (None, rank) if cut == "cap" else (cut, None)
    work = {n: partial(rounding(n, p), given[n], rtol, cap) for n, p in packages.items()}
    return work, lambda name, made: train_row(packages[name].cores(made), whole)


def rounding(name, package):
    """tt, rtol, cap -> rounded, as each package calls it."""
    if name == "tensorlab":
        return lambda tt, rtol, cap: tl.tt_round(tt, cap, rtol=rtol)
    if name == "torchTT":
        return lambda tt, rtol, cap: tt.round(rtol or 0.0, cap or 1 << 30)

    def by_tntorch(tt, rtol, cap):
        tt = tt.clone()
        tt.round_tt(eps=rtol or 0, rmax=cap)
        return tt

    return by_tntorch


def train_work(what, packages):
    """Two trains multiplied, one measured, or many entries of one."""
    draw = lambda s: tl.TT.randn(
        (20,) * 10, 30, generator=torch.Generator().manual_seed(s), dtype=torch.float64
    )
    a, b = draw(1), draw(2)
    index = torch.randint(0, 20, (20_000, 10), generator=torch.Generator().manual_seed(9))
    given = {n: (p.given(a), p.given(b)) for n, p in packages.items()}
    calls = {
        "dot": lambda n, x, y: dots(n, x, y),
        "norm": lambda n, x, y: x.norm(),
        "20000 entries": lambda n, x, y: packages[n].at(x, index),
    }
    work = {n: partial(calls[what], n, *given[n]) for n in packages}
    reference = {"dot": a.dot(b), "norm": a.norm(), "20000 entries": a.at(index)}[what]
    return work, lambda n, made: dict(
        error=distance(torch.as_tensor(made).reshape(reference.shape), reference)
    )


def dots(name, x, y):
    if name == "tensorlab":
        return x.dot(y)
    module = __import__({"torchTT": "torchtt", "tntorch": "tntorch"}[name])
    return module.dot(x, y)


def tucker_case(shape, rank, packages):
    """Tucker of given ranks, of a tensor that has them but for noise of 1e-3."""
    g = torch.Generator().manual_seed(5)
    x = noisy(tl.Tucker.randn(shape, rank, generator=g, dtype=torch.float64).to_dense(), 1e-3)
    work = {n: partial(p.tucker, x, rank) for n, p in packages.items()}
    return work, lambda n, made: dict(error=distance(made.to_dense(), x), rank=rank)


def cp_case(shape, rank, packages):
    """Fifty sweeps of CP-ALS from the same start."""
    g = torch.Generator().manual_seed(5)
    x = noisy(tl.CP.randn(shape, rank, generator=g, dtype=torch.float64).to_dense(), 1e-3)
    start = tl.CP(
        torch.ones(rank).double(),
        [torch.rand(n, rank, generator=g, dtype=torch.float64) for n in shape],
    )
    work = {n: partial(p.cp, x, start, 50) for n, p in packages.items()}
    return work, lambda n, made: dict(error=distance(made.to_dense(), x), rank=rank)


def layer_case(out, in_, tokens, rank, training):
    """A TT layer in float32: forward and backward, or forward in eval without gradients, where
    ours is folded."""
    layers = linear_layers(out, in_, rank)
    x = torch.randn(tokens, math.prod(in_), requires_grad=training)
    dy = torch.randn(tokens, math.prod(out))

    def step(layer):
        leaves = [x, *layer.parameters()]
        return torch.autograd.grad(layer(x), leaves, dy)

    @torch.no_grad()
    def forward(layer):
        return layer(x)

    run = step if training else forward
    for layer in layers.values():
        layer.train(training)
    if not training:
        layers["tensorlab"].fold()
    work = {name: partial(run, layer) for name, layer in layers.items()}
    numbers = {name: sum(p.numel() for p in layer.parameters()) for name, layer in layers.items()}
    return work, lambda name, made: dict(rank=rank, numbers=numbers[name])


def linear_layers(out, in_, rank):
    """The layers that are compared: ours, dense, two Linears of as many numbers, the peers'."""
    torch.manual_seed(0)
    weight = tl.TTMatrix.randn(out=out, in_=in_, rank=rank, dtype=torch.float32).initial()
    m, n = math.prod(out), math.prod(in_)
    q = max(1, weight.numel // (m + n))
    linear = partial(torch.nn.Linear, bias=False)
    layers = {
        "tensorlab": tl.FactorizedLinear(weight),
        "dense": linear(n, m),
        "two linears": torch.nn.Sequential(linear(n, q), linear(q, m)),
    }
    try:
        import tltorch
    except ImportError:
        return layers
    for way in ("factorized", "reconstructed"):
        layers[f"tltorch {way}"] = tltorch.FactorizedLinear(
            in_,
            out,
            bias=False,
            factorization="blocktt",
            rank=[1, *weight.ranks, 1],
            implementation=way,
        )
    return layers


def cases(packages):
    """Name of a case -> its work, made when it is asked for."""
    able = lambda what, but=(): {
        n: p for n, p in packages.items() if getattr(p, what, None) and n not in but
    }
    found = {}
    for dtype, cuts in CUTS.items():
        for label, cut in cuts.items():
            without = ("teneva",) if isinstance(cut, int) else ("tensorly", "tensorly randomized")
            for kind in ("smooth", "rank 12", "random"):
                for shape in SHAPES if kind != "random" else RANDOM:
                    name = f"tt f{dtype[-2:]} {kind} {shape} {label}"
                    args = (SHAPES[shape], kind, dtype, cut, able("tt", without))
                    found[name] = partial(svd_case, *args)
    three = {n: p for n, p in packages.items() if n in ("tensorlab", "torchTT", "tntorch")}
    for name, about in ROUNDED.items():
        cuts = dict(same=(1e-10,), other=("cap",), small=(1e-6, "cap")).get(
            about[2], (1e-10, 1e-6, "cap")
        )
        for cut in cuts:
            found[f"round {name} {cut}"] = partial(round_case, *about, cut, three)
    for what in ("dot", "norm", "20000 entries"):
        found[f"train 20^10 r 30 {what}"] = partial(train_work, what, three)
    for label, shape, rank in (
        ("150^3 r 15", (150,) * 3, 15),
        ("60^4 r 10", (60,) * 4, 10),
        ("200^3 r 20", (200,) * 3, 20),
    ):
        found[f"tucker {label}"] = partial(tucker_case, shape, rank, able("tucker"))
    for label, shape, rank in (
        ("80x90x100 r 15", (80, 90, 100), 15),
        ("100^3 r 10", (100,) * 3, 10),
        ("200^3 r 20", (200,) * 3, 20),
        ("30^4 r 10", (30,) * 4, 10),
        ("12^6 r 8", (12,) * 6, 8),
    ):
        found[f"cp {label}"] = partial(cp_case, shape, rank, able("cp"))
    for label, about in LAYERS.items():
        for rank in (2, 4, 8, 16, 32, 64):
            for training in (True, False):
                name = f"layer {label} r {rank} {'training' if training else 'inference'}"
                found[name] = partial(layer_case, *about, rank, training)
    return found


# ---------------------------------------------------------------------------------------- measuring


def turns(work, repeats, slow=10.0):
    """What each package makes, and its CPU seconds in each turn."""
    made, seconds, failed = {}, {}, {}
    for name, run in work.items():
        try:
            start = time.process_time()
            made[name] = run()  # the warm-up
            seconds[name] = [time.process_time() - start]
        except Exception as error:  # whatever a peer raises is its row
            failed[name] = f"{type(error).__name__}: {error}"[:80]
    peers = [s[0] for n, s in seconds.items() if n != "tensorlab"]
    out = {n for n, s in seconds.items() if s[0] > 0.5 and s[0] > slow * min(peers)}
    kept = [n for n in seconds if n not in out - {"tensorlab"}]
    few = max(1, math.ceil(0.02 / max(seconds["tensorlab"][0], 1e-6))) if peers else 1
    for n in kept:
        seconds[n] = []
    for _ in range(repeats):
        for n in kept:
            gc.collect()
            start = time.process_time()
            for _ in range(few):
                work[n]()
            seconds[n].append((time.process_time() - start) / few)
    return made, seconds, failed


def rows(name, make, repeats):
    """The rows of a case."""
    work, about = make()
    made, seconds, failed = turns(work, repeats)
    ours = seconds["tensorlab"]
    for package, error in failed.items():
        yield dict(case=name, package=package, seconds=error)
    for package, times in seconds.items():
        ratio = [t / s for t, s in zip(times * (len(ours) // len(times)), ours)]
        known = about(package, made[package])
        error = known.pop("error", None)
        yield dict(
            case=name,
            package=package,
            version=version(package),
            seconds=f"{statistics.median(times):.3g}",
            turns=len(times),
            error="" if error is None else f"{error:.1e}",
            ratio=f"{statistics.median(ratio):.2f}",
            **known,
        )


def version(package):
    wheels = dict(dense="torch", two="torch", torchTT="torchtt", tltorch="tensorly-torch")
    word = package.split()[0]
    if word == "tensorlab":
        return tl.__version__
    return metadata.version(wheels.get(word, word))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default="", help="cases that contain one of these, by commas")
    parser.add_argument("--packages", default=",".join(PACKAGES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--table", type=Path, default=TABLE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    packages = {}
    for name in args.packages.split(","):
        try:
            packages[name] = PACKAGES[name]()
        except ImportError as error:
            print(name, "is left out:", error)
    about = dict(date=datetime.date.today().isoformat(), machine=machine(), threads=1)
    columns = dict.fromkeys(
        "case package version seconds turns error rank numbers ratio".split(), ""
    )
    wanted = {
        name: make
        for name, make in cases(packages).items()
        if not args.cases or any(part in name for part in args.cases.split(","))
    }
    table = []
    if args.table.exists():
        with args.table.open(newline="") as file:
            table = [row for row in csv.DictReader(file) if row["case"] not in wanted]
    for name, make in wanted.items():
        for row in rows(name, make, args.repeats):
            table.append(about | columns | row)
            print(*row.values(), sep="  ", flush=True)
        save_csv(table, args.table)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
