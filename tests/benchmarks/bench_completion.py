"""How many entries a tensor train needs: recovery by completion, seed by seed, the failures
included.

    python tests/benchmarks/bench_completion.py                        every problem, five seeds
    python tests/benchmarks/bench_completion.py --problems hard --ratios 10,20 --seeds 2

Three problems: `gaussian`, 30^3 of rank 5; `uniform`, 20^5 of rank 3 with cores uniform in [0, 1);
`hard`, 20^5 of rank 3 with Gaussian cores. Each is tried at every ratio of entries to degrees of
freedom, from a start at full rank, with growing ranks, and with Adam on the cores. Every row is
printed and written to completion.csv beside this file as soon as it is known.
"""

import argparse
import csv
import datetime
import time
from pathlib import Path

TABLE = Path(__file__).with_name("completion.csv")
COLUMNS = [
    "date",
    "problem",
    "ratio",
    "method",
    "seed",
    "entries",
    "steps",
    "fitted",
    "held_out",
    "whole",
    "recovered",
    "seconds",
]
PROBLEMS = {
    "gaussian": (dict(shape=(30,) * 3, rank=5), (2, 3, 5, 10)),
    "uniform": (dict(shape=(20,) * 5, rank=3, positive=True), (2, 3, 5, 10)),
    "hard": (dict(shape=(20,) * 5, rank=3), (5, 10, 20, 40, 80)),
}
METHODS = ("full", "grow", "adam")


def run(problem: str, ratio: float, method: str, seed: int) -> dict:
    """One row: complete one tensor, and measure the whole of it."""
    import torch

    import tensorlab as tl
    from tensorlab.course.lessons import tt_manifold as lesson

    options, _ = PROBLEMS[problem]
    x, index = lesson.problem(ratio=ratio, seed=seed, **options)
    values, generator = x.at(index), torch.Generator().manual_seed(1000 + seed)
    start = time.perf_counter()
    if method == "adam":
        y, history = lesson.adam(
            index, values, x.shape, options["rank"], steps=2000, lr=0.03, generator=generator
        )
        held_out = ""
    else:
        fit = tl.tt_complete(
            index, values, x.shape, options["rank"], grow=method == "grow", generator=generator
        )
        y, history, held_out = fit.value, fit.history, f"{fit.error:.1e}"
    seconds = time.perf_counter() - start
    whole = float((y - x).norm() / x.norm())
    return dict(
        date=datetime.date.today().isoformat(),
        problem=problem,
        ratio=ratio,
        method=method,
        seed=seed,
        entries=len(index),
        steps=len(history),
        fitted=f"{min(history):.1e}",
        held_out=held_out,
        whole=f"{whole:.1e}",
        recovered=int(whole <= 1e-8),
        seconds=f"{seconds:.1f}",
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", default=",".join(PROBLEMS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--ratios", default="", help="default: those of each problem")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--table", type=Path, default=TABLE)
    given = parser.parse_args()
    with given.table.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        for problem in given.problems.split(","):
            for ratio in [float(r) for r in given.ratios.split(",") if r] or PROBLEMS[problem][1]:
                for method in given.methods.split(","):
                    for seed in range(given.seeds):
                        row = run(problem, ratio, method, seed)
                        table.writerow(row)
                        file.flush()
                        print(*row.values(), flush=True)


if __name__ == "__main__":
    main()
