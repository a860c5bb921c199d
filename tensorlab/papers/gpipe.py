"""Pipelines with micro-batches: bubble and activations by ranks and micro-batches [Huang2019].

One row for each schedule and size, in units of a forward, F = 1 and B = 2: makespan and idle share
of the simulated order, the formula (p - 1) / (m + p - 1), and the most micro-batches whose
activations a rank holds. `recomputed`: GPipe as the paper runs it, whose ranks keep inputs and make
activations again, R = 1. The paper prints the formula, and no table of it.
"""

from ..parallel import cost, schedules
from .program import Program

SIZES = {
    "quick": {"ranks": (2, 4), "micro": (1, 4, 16)},
    "full": {"ranks": (2, 4, 8, 16), "micro": (1, 4, 8, 16, 32, 64)},
}
TIMES = {"F": 1, "R": 1, "B": 2}


def cases(size: dict) -> list[dict]:
    names = ("naive", "GPipe", "recomputed")
    return [
        {"schedule": name, "ranks": p, "micro": m}
        for p in size["ranks"]
        for m in size["micro"]
        for name in names
    ]


def measure(size: dict, schedule: str, ranks: int, micro: int) -> dict:
    if schedule == "recomputed":
        orders = schedules.gpipe(ranks, micro, recompute=True)
        formula = None
    else:
        orders = cost.orders(schedule, ranks, micro)
        formula = cost.bubble(schedule, ranks, micro, TIMES)
    line = schedules.times(orders, TIMES)
    held = max(line.held(s) for s in range(ranks))
    return {"makespan": line.makespan, "idle": line.bubble, "formula": formula, "held": held}


PROGRAM = Program("Huang2019", __doc__, SIZES, cases, measure)
