"""What parallel training costs, in closed form: the bubble of a pipe and the activations that it
holds, the bytes of collectives, the bytes of sharded training [Narayanan2021] [Qi2024]
[Shoeybi2019] [Rajbhandari2020].

p ranks, m micro-batches, v chunks on each rank; F, B and W are the times of one micro-batch in all
chunks of a rank together.

    schedule      makespan                    activations on rank s
    naive         m p (F + B)                 1
    GPipe         (m + p - 1) (F + B)         m
    1F1B          (m + p - 1) (F + B)         min(p - s, m)
    interleaved   (m + (p - 1) / v) (F + B)   min(2 (p - 1 - s) + (v - 1) p + 1, m v) of 1 / v each
    ZB-H1         (m + p - 1) (F + B)         min(p, m)
                  + max(m - p + 1, 1) W
"""

import math

from ..arguments import check_matrix_shape, count, number, one_of
from .schedules import (
    Durations,
    Orders,
    check_divides,
    gpipe,
    interleaved,
    naive,
    one_f_one_b,
    zb_h1,
)

SCHEDULES = {
    "naive": naive,
    "GPipe": gpipe,
    "1F1B": one_f_one_b,
    "interleaved": interleaved,
    "ZB-H1": zb_h1,
}


def orders(schedule: str, ranks: int, micro: int, chunks: int = 1) -> Orders:
    """The orders of a schedule by its name; chunks: of the interleaved one only.

    >>> orders("1F1B", 2, 2) == one_f_one_b(2, 2)
    True
    """
    ranks, micro, chunks = _sizes("orders", schedule, ranks, micro, chunks)
    return SCHEDULES[schedule](ranks, micro, *[chunks] * (schedule == "interleaved"))


def makespan(schedule: str, ranks: int, micro: int, times: Durations, chunks: int = 1):
    """The time of one step, in the unit of `times`.

    Times are of F, B and, where backwards are in two, W, of the chunks of a rank together. ZB-H1's
    is exact for W no longer than F and B, a lower bound where it is.

    schedule: one of SCHEDULES.
    ranks: how many processes hold stages.
    micro: the number of micro-batches.
    times: {"F": ..., "B": ..., "W": ...}, as above.
    chunks: stages on each rank, 1 unless the schedule is "interleaved".

    >>> times = {"F": 1, "B": 2}
    >>> makespan("GPipe", 4, 8, times), makespan("interleaved", 4, 8, times, 3)
    (33, 27.0)
    """
    p, m, chunks = _sizes("makespan", schedule, ranks, micro, chunks)
    one = times["F"] + times["B"]
    if schedule == "naive":
        return m * p * one
    if schedule == "ZB-H1":
        return (m + p - 1) * one + max(m - p + 1, 1) * times["W"]
    if schedule == "interleaved":
        check_divides("makespan", "ranks", p, "micro-batches", m)
        return (m + (p - 1) / chunks) * one
    return (m + p - 1) * one


def bubble(schedule: str, ranks: int, micro: int, times: Durations, chunks: int = 1) -> float:
    """The share of the time in which a rank is idle: 1 - m (F + B + W) / makespan; for GPipe and
    1F1B (p - 1) / (m + p - 1).

    schedule, ranks, micro, times, chunks: as in `makespan`.

    >>> bubble("1F1B", 4, 9, {"F": 1, "B": 2})
    0.25
    """
    ranks, micro, chunks = _sizes("bubble", schedule, ranks, micro, chunks)
    work = micro * (times["F"] + times["B"] + (times["W"] if schedule == "ZB-H1" else 0))
    return 1 - work / makespan(schedule, ranks, micro, times, chunks)


def activations(schedule: str, ranks: int, micro: int, rank: int, chunks: int = 1) -> int:
    """The most micro-batches whose activations a rank holds at once; of interleaved stages, each is
    1 / chunks as large.

    schedule, ranks, micro, chunks: as in `makespan`.
    rank: the rank that is asked about, 0..ranks - 1.

    >>> [activations("1F1B", 4, 8, s) for s in range(4)]
    [4, 3, 2, 1]
    """
    p, m, v = _sizes("activations", schedule, ranks, micro, chunks)
    s = count("activations", "rank", rank, 0, p - 1)
    return {
        "naive": 1,
        "GPipe": m,
        "1F1B": min(p - s, m),
        "interleaved": min(2 * (p - 1 - s) + (v - 1) * p + 1, m * v),
        "ZB-H1": min(p, m),
    }[schedule]


def _sizes(who: str, schedule: str, ranks, micro, chunks) -> tuple[int, int, int]:
    if schedule not in SCHEDULES:
        raise ValueError(f"{who}: needs a schedule of {', '.join(SCHEDULES)}, got {schedule!r}")
    if chunks < 1 or (chunks > 1 and schedule != "interleaved"):
        raise ValueError(
            f"{who}: needs chunks = 1, or interleaved stages, got {chunks} of {schedule}"
        )
    named = {"ranks": ranks, "micro": micro, "chunks": chunks}
    p, m, v = (count(who, name, value) for name, value in named.items())
    return p, m, v


# ----------------------------------------------------------------------------- bytes of collectives

RING = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1, "broadcast": 1, "all_to_all": 1}


def ring_bytes(collective: str, size: float, ranks: int) -> float:
    """What each rank sends over the wire in a ring: (p - 1) / p of the whole tensor's bytes, twice
    for an all-reduce, which is a reduce-scatter and an all-gather; in an all-to-all (p - 1) / p of
    its own part.

    size: bytes of the whole tensor.

    >>> [ring_bytes(name, 1600, 4) for name in ("all_reduce", "all_gather", "all_to_all")]
    [2400.0, 1200.0, 300.0]
    """
    one_of("ring_bytes", "collective", collective, RING)
    ranks = count("ring_bytes", "ranks", ranks)
    own = ranks if collective == "all_to_all" else 1
    return RING[collective] * (ranks - 1) / ranks * number("ring_bytes", "size", size) / own


def split_bytes(rows: int, width: int, itemsize: int = 4) -> int:
    """The bytes of the all-reduce after a pair of a column split and a row split: rows · width
    numbers, as many again in the backward. A transformer block has two such pairs [Shoeybi2019].

    rows: batch times tokens. width: of the layer's output; of a low-rank layer that is reduced
    where it is r wide, the rank r.

    >>> split_bytes(8 * 16, 32, 8), split_bytes(8 * 16, 4, 8)
    (32768, 4096)
    """
    named = {"rows": rows, "width": width, "itemsize": itemsize}
    return math.prod(count("split_bytes", name, value, 0) for name, value in named.items())


def gradient_numbers(shape: tuple[int, int], rank: int | None = None) -> int:
    """What data parallel training has to reduce for a layer: its gradient, out · in numbers; of a
    low-rank layer r (out + in) and, for the middle factor, r².

    >>> gradient_numbers((1000, 500)), gradient_numbers((1000, 500), 10)
    (500000, 15100)
    """
    out, in_ = check_matrix_shape("gradient_numbers", shape)
    if rank is None:
        return out * in_
    r = count("gradient_numbers", "rank", rank)
    return r * (out + in_ + r)


# --------------------------------------------------------------------------------- sharded training


def zero_bytes(
    parameters: float, ranks: int, stage: int, *, weight=2, gradient=2, state=12
) -> float:
    """Bytes on each rank for weights, gradients and what the optimizer keeps, by the stage of ZeRO
    [Rajbhandari2020].

        stage 0: w + g + s     1: w + g + s / n     2: w + (g + s) / n     3: (w + g + s) / n

    All are times the number of parameters. Stage 0 is plain data parallel training, 3 is FSDP. By
    default Adam in mixed precision: weights and gradients of 2 bytes, a float32 copy of the weights
    and two moments; 4, 4 and 8 in float32.

    parameters: how many the model has.
    ranks: over how many processes they are sharded.
    stage: of ZeRO, 0..3.
    weight, gradient, state: w, g and s in bytes for each parameter.

    >>> [round(zero_bytes(7.5e9, 64, stage) / 1e9, 2) for stage in range(4)]
    [120.0, 31.41, 16.64, 1.88]
    """
    stage, ranks = count("zero_bytes", "stage", stage, 0, 3), count("zero_bytes", "ranks", ranks)
    parts = (weight, gradient, state)
    return number("zero_bytes", "parameters", parameters) * sum(
        part / (ranks if stage >= first else 1) for part, first in zip(parts, (3, 2, 1))
    )


def zero_traffic(stage: int) -> int:
    """How many times its parameters a rank sends in one step, nearly: an all-reduce of the
    gradients is 2; stage 3 gathers the weights twice and scatters the gradients once.

    >>> [zero_traffic(stage) for stage in range(4)]
    [2, 2, 2, 3]
    """
    return 3 if count("zero_traffic", "stage", stage, 0, 3) == 3 else 2
