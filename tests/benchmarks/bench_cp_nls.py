"""CP by nonlinear least squares against the packages people use, on nearly collinear factors.

    python tests/benchmarks/bench_cp_nls.py
    python tests/benchmarks/bench_cp_nls.py --cases "30^3 r 5" --packages tensorlab,pytensorlab

Columns at cosine 0.9 in every mode, with noise of 0, 1e-4 and 1e-2 of the norm; a swamp at cosine
0.99. The packages take turns, `--repeats` times, in one process and one thread. The table goes to
cp_nls.csv beside this file: medians of CPU seconds, the error against the tensor without noise, and
`ratio`, the median over the turns of how many times faster tensorlab was. pytensorlab is taken
where it can be imported (PYTHONPATH); an empty `vedo` will do for the plots that it asks for.
"""

import argparse
import contextlib
import csv
import datetime
import io
import math
import os
import platform
import statistics
import time
from pathlib import Path

TABLE = Path(__file__).with_name("cp_nls.csv")
COLUMNS = [
    "date",
    "machine",
    "threads",
    "case",
    "noise",
    "package",
    "version",
    "seconds",
    "error",
    "ratio",
]
CASES = {
    "30^3 r 5": ((30,) * 3, 5, 0.9),
    "30^3 r 10": ((30,) * 3, 10, 0.9),
    "100^3 r 10": ((100,) * 3, 10, 0.9),
    "30^4 r 8": ((30,) * 4, 8, 0.9),
    "swamp 20^3 r 6": ((20,) * 3, 6, 0.99),
}
PACKAGES = ("tensorlab", "tensorlab cp_als", "pytensorlab", "tensorly")
WHEELS = {name: name.split()[0] for name in PACKAGES}


def collinear(shape, rank, cosine, noise, seed=0):
    """A tensor of norm 1 whose columns meet at this cosine in every mode, and it with noise."""
    import torch

    import tensorlab as tl

    g, factors = torch.Generator().manual_seed(seed), []
    draw = lambda *n: torch.randn(*n, generator=g, dtype=torch.float64)
    for n in shape:
        base = torch.nn.functional.normalize(draw(n, 1), dim=0)
        own = draw(n, rank)
        own = torch.nn.functional.normalize(own - base @ (base.mT @ own), dim=0)
        factors.append(math.sqrt(cosine) * base + math.sqrt(1 - cosine) * own)
    clean = tl.CP(torch.ones(rank, dtype=torch.float64), tuple(factors)).to_dense()
    clean = clean / clean.norm()
    e = draw(*shape)
    return clean, clean + e * (noise / e.norm())


def solver(package):
    """A function of a tensor and a rank that gives back the dense fit."""
    import numpy as np
    import torch

    import tensorlab as tl

    if package == "tensorlab":
        return lambda x, r: tl.cp_nls(x, r).value.to_dense()
    if package == "tensorlab cp_als":
        return lambda x, r: tl.cp_als(x, r, tol=1e-10, max_iter=1000).value.to_dense()
    if package == "pytensorlab":
        import pytensorlab

        def fit(x, r):
            with contextlib.redirect_stdout(io.StringIO()):
                found = pytensorlab.cpd(x.numpy(), r)
            found = found[0] if isinstance(found, tuple) else found
            return torch.from_numpy(np.asarray(found))

        return fit
    import tensorly
    from tensorly.decomposition import parafac

    tensorly.set_backend("pytorch")
    options = dict(n_iter_max=1000, tol=1e-10, init="svd", svd="truncated_svd")
    return lambda x, r: tensorly.cp_to_tensor(parafac(x, r, **options))


def turns(case, noise, packages, repeats):
    """Seconds of each turn and the last error, by package."""
    shape, rank, cosine = CASES[case]
    clean, x = collinear(shape, rank, cosine, noise)
    seconds, errors = {p: [] for p in packages}, {}
    for _ in range(repeats):
        for package, fit in packages.items():
            start = time.process_time()
            y = fit(x, rank)
            seconds[package].append(time.process_time() - start)
            errors[package] = float((y - clean).norm())
    return seconds, errors


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--noise", default="0,1e-4,1e-2")
    parser.add_argument("--packages", default=",".join(PACKAGES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--table", type=Path, default=TABLE)
    given = parser.parse_args()
    from importlib import metadata

    import torch

    torch.set_num_threads(1)
    packages = {}
    for package in given.packages.split(","):
        try:
            packages[package] = solver(package)
        except ImportError as error:
            print(package, "is left out:", error)
    with given.table.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        for case in given.cases.split(","):
            for noise in given.noise.split(","):
                seconds, errors = turns(case, float(noise), packages, given.repeats)
                for package in packages:
                    pairs = zip(seconds[package], seconds.get("tensorlab", seconds[package]))
                    row = dict(
                        date=datetime.date.today().isoformat(),
                        machine=f"{platform.machine()}, {os.cpu_count()} cores",
                        threads=1,
                        case=case,
                        noise=noise,
                        package=package,
                        version=metadata.version(WHEELS[package]),
                        seconds=f"{statistics.median(seconds[package]):.3g}",
                        error=f"{errors[package]:.1e}",
                        ratio=f"{statistics.median(a / b for a, b in pairs):.2f}",
                    )
                    table.writerow(row)
                    file.flush()
                    print(*list(row.values())[3:], flush=True)


if __name__ == "__main__":
    main()
