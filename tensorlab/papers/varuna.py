"""Varuna's schedule beside GPipe with recomputation: the figure of the paper and of the talk, and
what late machines do to both [Athlur2022].

Slots of one forward: F = R = 1, B = 2. `slots`: from start to end; `kept`: the most inputs that the
first stage keeps. `late`: the mean over 20 draws of the makespan where every operation is late by
0.3 |z|, z Gaussian, of the rule that decides as it runs, and for GPipe and 1F1B of the fixed order;
`fixed`: of Varuna's own order when nothing is decided any more. 1F1B holds all activations and so
computes nothing again. Printed are the two tables of the figure, 4 stages and 5 micro-batches; in
its third row the talk's copy has lost an empty slot.
"""

import random

from ..parallel import schedules
from .program import Program, beside_printed
from .table import Table

SIZES = {
    "quick": {"sizes": ((4, 5), (4, 8)), "spread": 0.3, "draws": 20},
    "full": {"sizes": ((4, 5), (4, 8), (4, 16), (8, 16), (8, 32)), "spread": 0.3, "draws": 20},
}
TIMES = {"F": 1, "R": 1, "B": 2}
NAMES = ("Varuna", "GPipe", "1F1B")


def cases(size: dict) -> list[dict]:
    return [{"schedule": n, "ranks": p, "micro": m} for p, m in size["sizes"] for n in NAMES]


def line_of(schedule: str, ranks: int, micro: int, durations=TIMES) -> schedules.Timeline:
    """The timeline of one of the three schedules.

    >>> line_of("Varuna", 4, 5).makespan, line_of("GPipe", 4, 5).makespan
    (27, 28)
    """
    if schedule == "Varuna":
        return schedules.varuna(ranks, micro, durations)
    if schedule == "GPipe":
        return schedules.times(schedules.gpipe(ranks, micro, recompute=True), durations)
    return schedules.times(schedules.one_f_one_b(ranks, micro), durations)


def measure(size: dict, schedule: str, ranks: int, micro: int) -> dict:
    line, late, fixed = line_of(schedule, ranks, micro), [], []
    every = schedules.varuna(ranks, micro, TIMES).orders  # what any of them may need
    every = [*every, *schedules.gpipe(ranks, micro, recompute=True)]
    for seed in range(size["draws"]):
        spread, generator = size["spread"], random.Random(seed)
        slow = schedules.jittered(every, TIMES, spread, generator)
        late.append(line_of(schedule, ranks, micro, slow).makespan)
        fixed.append(schedules.times(line.orders, slow).makespan)
    mean = lambda values: sum(values) / len(values)
    return {
        "slots": line.makespan,
        "idle": line.bubble,
        "kept": line.held(0),
        "late": mean(late),
        "fixed": mean(fixed),
    }


def settings(size: dict) -> dict:
    return {"spread": size["spread"], "draws": size["draws"]}


def draw(table: Table, ax) -> str:
    """The schedule of the figure."""
    from .. import plots  # brings matplotlib

    return plots.gantt(ax, line_of("Varuna", 4, 5), "Varuna, 4 stages and 5 micro-batches")


PROGRAM = Program(
    "Athlur2022",
    __doc__,
    SIZES,
    cases,
    measure,
    settings=settings,
    draw=draw,
    finish=beside_printed,
)
