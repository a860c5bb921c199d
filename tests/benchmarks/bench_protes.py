"""PROTES beside the packages that a user would try, on the problems P-01 to P-20: best values,
points and seconds.

    python tests/benchmarks/bench_protes.py
        one seed of each problem and package
    python tests/benchmarks/bench_protes.py --problems P-11 --packages tensorlab,protes --seeds 10

Every package may ask for 10^4 values. `tensorlab` counts distinct points and says how many it drew;
the others are charged for every request. For each problem all packages run in one process, so that
the ratio of seconds is that of one machine at one time; `protes` (jax, needs `jax<0.5`) is timed
twice, the first call of a shape, with its compilation, and the second. A package that is not
installed is left out. Rows are printed and appended to protes.csv beside this file as soon as they
are known; rows that are there are not measured again.
"""

import argparse
import csv
import datetime
import importlib.util
import sys
import time
from pathlib import Path

import numpy as np
import torch

from tensorlab.methods.protes import protes
from tensorlab.papers.protes import admitted, cross_search, random_search
from tensorlab.papers.protes_problems import KEYS, problem

TABLE = Path(__file__).with_name("protes.csv")
COLUMNS = [
    "date",
    "problem",
    "package",
    "seed",
    "best",
    "reference",
    "evaluated",
    "asked",
    "seconds",
]
BUDGET = 10_000
NEVERGRAD = ("OnePlusOne", "PSO", "SPSA", "Portfolio", "NoisyBandit")


class Counted:
    """A problem as a function of an array of numpy that counts requests and keeps the best value;
    1e42 where it is infeasible."""

    def __init__(self, p):
        self.p, self.asked, self.best = p, 0, float("inf")

    def __call__(self, index):
        index = torch.from_numpy(np.asarray(index).astype(np.int64))
        values = torch.where(admitted(self.p, index), self.p.f(index), 1e42)
        self.asked, self.best = self.asked + len(index), min(self.best, float(values.min()))
        return values.numpy()


def by_tensorlab(p, seed):
    fit = protes(
        p.f,
        p.shape,
        budget=BUDGET,
        constraint=p.constraint,
        generator=torch.Generator().manual_seed(seed),
    )
    return fit.value.value, fit.evaluations, fit.samples


def by_protes(p, seed):
    import jax
    import jax.numpy as jnp
    from protes import protes as peer

    jax.config.update("jax_enable_x64", True)
    f, start = Counted(p), None
    if p.constraint is not None:  # as the authors do: the indicator, padded to rank 5
        cores = [
            np.pad(
                c.numpy(),
                (
                    (0, 5 - len(c) if k else 0),
                    (0, 0),
                    (0, 5 - c.shape[2] if k < len(p.shape) - 1 else 0),
                ),
            )
            for k, c in enumerate(p.constraint.train(p.shape).cores)
        ]
        start = [jnp.array(cores[0]), jnp.array(np.stack(cores[1:-1])), jnp.array(cores[-1])]
    peer(
        f,
        len(p.shape),
        p.shape[0],
        BUDGET,
        k=100,
        k_top=10,
        k_gd=1,
        lr=0.05,
        r=5,
        seed=seed,
        P=start,
    )
    return f.best, "", f.asked


def by_ttopt(p, seed):
    from ttopt import TTOpt

    np.random.seed(seed)  # noqa: NPY002  it draws from the global generator
    f, n = Counted(p), p.shape[0]
    TTOpt(
        f,
        d=len(p.shape),
        evals=BUDGET,
        is_func=False,
        is_vect=True,
        **(dict(n=2) if n == 2 else dict(p=2, q=4)),
    ).optimize()
    return f.best, "", f.asked


def by_nevergrad(name):
    def run(p, seed):
        import nevergrad

        f = Counted(p)
        space = nevergrad.p.TransitionChoice(range(p.shape[0]), repetitions=len(p.shape))
        space.random_state.seed(seed)
        search = getattr(nevergrad.optimizers, name)(
            parametrization=space, budget=BUDGET, num_workers=1
        )
        for _ in range(BUDGET):
            asked = search.ask()
            search.tell(asked, float(f(np.array([asked.value]))[0]))
        return f.best, "", f.asked

    return run


PACKAGES = {
    "tensorlab": (None, by_tensorlab),
    "protes": ("protes", by_protes),
    "ttopt": ("ttopt", by_ttopt),
    "random": (None, lambda p, seed: (random_search(p, BUDGET, seed), "", BUDGET)),
    "TT-cross": (None, lambda p, seed: (cross_search(p, BUDGET, seed), "", BUDGET)),
    **{name: ("nevergrad", by_nevergrad(name)) for name in NEVERGRAD},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", default=",".join(KEYS))
    parser.add_argument("--packages", default=",".join(PACKAGES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--table", type=Path, default=TABLE)
    given = parser.parse_args()
    torch.set_num_threads(1)
    there = list(csv.DictReader(given.table.open())) if given.table.exists() else []
    known = {(row["problem"], row["package"], row["seed"]) for row in there}
    with given.table.open("a", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not there:
            table.writeheader()
        for key in given.problems.split(","):
            for name in given.packages.split(","):
                needs, run = PACKAGES[name]
                if needs and importlib.util.find_spec(needs) is None:
                    print(f"{name}: is not installed, left out", file=sys.stderr)
                    continue
                p = problem(key)
                for seed in range(given.seeds):
                    labels = (
                        [name, f"{name}, first call"] if name == "protes" and seed == 0 else [name]
                    )
                    for label in reversed(labels):
                        if (key, label, str(seed)) in known:
                            continue
                        start = time.perf_counter()
                        best, evaluated, asked = run(p, seed)
                        seconds = f"{time.perf_counter() - start:.3f}"
                        values = [
                            key,
                            label,
                            seed,
                            f"{best:.8g}",
                            p.best,
                            evaluated,
                            asked,
                            seconds,
                        ]
                        row = dict(
                            zip(COLUMNS, [datetime.date.today().isoformat(), *values], strict=True)
                        )
                        table.writerow(row)
                        file.flush()
                        print(*row.values(), sep="  ", flush=True)


if __name__ == "__main__":
    main()
