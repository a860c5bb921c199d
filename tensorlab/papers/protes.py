"""PROTES on twenty problems: the median of ten seeds beside reference optima, random search and
TT-cross [Batsheva2023].

The authors count requests, of which a collapsed model repeats most; here a known point is not asked
for again, and both the distinct points that f was given and the points that were drawn are in the
table. `tests/benchmarks/bench_protes.py` runs the packages that a user would try beside it.
"""

import math
import statistics
import time

import torch

from ..formats.tt_cross import tt_cross
from ..methods.protes import Protes, protes
from .program import Program
from .protes_problems import KEYS, Objective, problem
from .table import Table

SIZES = {
    "quick": {
        "problems": ("P-01", "P-07", "P-11", "P-14", "P-15", "P-18"),
        "budget": 1000,
        "seeds": 2,
    },
    "full": {"problems": KEYS, "budget": 10_000, "seeds": 10},
}


def cases(size: dict) -> list[dict]:
    """The problems."""
    return [{"problem": key} for key in size["problems"]]


def measure(size: dict, problem: str) -> dict:
    """Name, reference; of PROTES median, best and worst of the seeds, how many of them met the
    reference, the gap of the median in %, points evaluated and drawn (means), seconds a run; random
    search and TT-cross by their medians, of TT-cross three seeds from P-17 on, where its many small
    batches take a minute.
    """
    return row(problem, **settings(size))


def settings(size: dict) -> dict:
    return {"budget": size["budget"], "seeds": size["seeds"]}


def row(key: str, budget: int, seeds: int) -> dict:
    """One problem: every method with the seeds 0, 1, ..., seeds - 1."""
    p = problem(key)
    start = time.perf_counter()
    fits = [
        protes(p.f, p.shape, budget=budget, constraint=p.constraint, generator=_seed(seed))
        for seed in range(seeds)
    ]
    seconds = (time.perf_counter() - start) / seeds
    found = [fit.value.value for fit in fits]
    median, mean = (
        statistics.median(found),
        lambda name: round(sum(getattr(fit, name) for fit in fits) / seeds),
    )
    return {
        "name": p.name,
        "reference": p.best,
        "median": median,
        "best": min(found),
        "worst": max(found),
        "met": sum(met(p, value) for value in found),
        "gap %": 100 * (median - p.best) / abs(p.best),
        "evaluated": mean("evaluations"),
        "drawn": mean("samples"),
        "seconds": round(seconds, 2),
        "random": statistics.median(random_search(p, budget, seed) for seed in range(seeds)),
        "TT-cross": statistics.median(
            cross_search(p, budget, seed)
            for seed in range(min(seeds, 3) if key >= "P-17" else seeds)
        ),
    }


def met(p: Objective, value: float) -> bool:
    """Whether a value is the reference optimum to the digits in which that is known."""
    return value <= p.best + 5e-5 * abs(p.best)


def random_search(p: Objective, budget: int, seed: int) -> float:
    """The best of `budget` points, uniform, or uniform mode by mode among what the constraint
    admits."""
    search = Protes(p.shape, budget=budget, rank=1, constraint=p.constraint, generator=_seed(seed))
    search.cores = search.mask
    return float(p.f(search.draw(budget)).min())


def cross_search(p: Objective, budget: int, seed: int) -> float:
    """The best of the points that TT-cross met while it approximated -f; inf if none was
    feasible."""
    lowest = math.inf

    def f(index):
        nonlocal lowest
        y = torch.where(admitted(p, index), p.f(index), 1e42)
        lowest = min(lowest, float(y.min()))
        return -y

    tt_cross(f, p.shape, rtol=1e-10, budget=budget, generator=_seed(seed))
    return lowest if lowest < 1e42 else math.inf


def admitted(p: Objective, index):
    """Which points the constraint of a problem admits."""
    if p.constraint is None:
        return torch.ones(len(index), dtype=torch.bool)
    return p.constraint.tt(p.shape).at(index) > 0


def draw(table: Table, ax) -> str:
    """The gap of the median to the reference optimum, for every problem."""
    gaps = table["gap %"]
    ax.bar(table["problem"], [max(gap, 1e-3) for gap in gaps], color="#0072B2")
    ax.set(ylabel="median above the reference, %", yscale="log")
    ax.tick_params(axis="x", rotation=90)
    closed = sum(gap < 5e-3 for gap in gaps)
    return (
        f"The median meets the reference optimum on {closed} of {len(gaps)} problems; the "
        f"largest gap is {max(gaps):.2g} %."
    )


def _seed(seed):
    return torch.Generator().manual_seed(seed)


PROGRAM = Program("Batsheva2023", __doc__, SIZES, cases, measure, settings, draw)
