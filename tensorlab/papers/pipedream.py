"""One forward, one backward: the same bubble as GPipe with fewer activations held, and what came
after it [Narayanan2019] [Narayanan2021] [Qi2024].

One row for each schedule and size: makespan and idle share of the simulated order beside the closed
forms, F = W = 1 and B = 1, or B = 2 where it is in one; the activations held by the first rank and
by the last, in those of a whole rank. The schedule is PipeDream's with a flush after each batch,
which is what `torch.distributed.pipelining` calls 1F1B.
"""

from ..parallel import cost, schedules
from .program import Program

SIZES = {
    "quick": {"ranks": (2, 4), "micro": (4, 8)},
    "full": {"ranks": (2, 4, 8), "micro": (8, 16, 32, 64)},
}
CHUNKS = {"GPipe": (1,), "1F1B": (1,), "interleaved": (2, 4), "ZB-H1": (1,)}


def cases(size: dict) -> list[dict]:
    return [
        {"schedule": name, "chunks": v, "ranks": p, "micro": m}
        for p in size["ranks"]
        for m in size["micro"]
        for name, several in CHUNKS.items()
        for v in several
    ]


def measure(size: dict, schedule: str, chunks: int, ranks: int, micro: int) -> dict:
    whole = {"F": 1, "B": 1, "W": 1} if schedule == "ZB-H1" else {"F": 1, "B": 2}
    each = {kind: t / chunks for kind, t in whole.items()}
    line = schedules.times(cost.orders(schedule, ranks, micro, chunks), each)
    return {
        "makespan": line.makespan,
        "formula": cost.makespan(schedule, ranks, micro, whole, chunks),
        "idle": line.bubble,
        "held first": line.held(0) / chunks,
        "held last": line.held(ranks - 1) / chunks,
    }


PROGRAM = Program("Narayanan2019", __doc__, SIZES, cases, measure)
