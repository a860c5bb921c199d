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
    _known("orders", schedule, chunks)
    return SCHEDULES[schedule](ranks, micro, *[chunks] * (schedule == "interleaved"))


def makespan(schedule: str, ranks: int, micro: int, times: Durations, chunks: int = 1):
    """The time of one step, in the unit of `times`.

    times: of F, B and, where backwards are in two, W, of a rank's chunks together. ZB-H1's is exact
    for W no longer than F and B, a lower bound where it is.

    >>> times = {"F": 1, "B": 2}
    >>> makespan("GPipe", 4, 8, times), makespan("interleaved", 4, 8, times, 3)
    (33, 27.0)
    """
    _known("makespan", schedule, chunks)
    p, m, one = ranks, micro, times["F"] + times["B"]
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

    >>> bubble("1F1B", 4, 9, {"F": 1, "B": 2})
    0.25
    """
    work = micro * (times["F"] + times["B"] + (times["W"] if schedule == "ZB-H1" else 0))
    return 1 - work / makespan(schedule, ranks, micro, times, chunks)


def activations(schedule: str, ranks: int, micro: int, rank: int, chunks: int = 1) -> int:
    """The most micro-batches whose activations a rank holds at once; of interleaved stages, each is
    1 / chunks as large.

    >>> [activations("1F1B", 4, 8, s) for s in range(4)]
    [4, 3, 2, 1]
    """
    _known("activations", schedule, chunks)
    p, m, s, v = ranks, micro, rank, chunks
    return {
        "naive": 1,
        "GPipe": m,
        "1F1B": min(p - s, m),
        "interleaved": min(2 * (p - 1 - s) + (v - 1) * p + 1, m * v),
        "ZB-H1": min(p, m),
    }[schedule]


def _known(who: str, schedule: str, chunks: int) -> None:
    if schedule not in SCHEDULES:
        raise ValueError(f"{who}: needs a schedule of {', '.join(SCHEDULES)}, got {schedule!r}")
    if chunks < 1 or (chunks > 1 and schedule != "interleaved"):
        raise ValueError(
            f"{who}: needs chunks = 1, or interleaved stages, got {chunks} of {schedule}"
        )


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
    if collective not in RING or ranks < 1:
        raise ValueError(
            f"ring_bytes: needs one of {', '.join(RING)} and 1 or more ranks, got {collective!r} "
            f"and {ranks}"
        )
    own = ranks if collective == "all_to_all" else 1
    return RING[collective] * (ranks - 1) / ranks * size / own


def split_bytes(rows: int, width: int, itemsize: int = 4) -> int:
    """The bytes of the all-reduce after a pair of a column split and a row split: rows · width
    numbers, as many again in the backward. A transformer block has two such pairs [Shoeybi2019].

    rows: batch times tokens. width: of the layer's output; of a low-rank layer that is reduced
    where it is r wide, the rank r.

    >>> split_bytes(8 * 16, 32, 8), split_bytes(8 * 16, 4, 8)
    (32768, 4096)
    """
    return rows * width * itemsize


def gradient_numbers(shape: tuple[int, int], rank: int | None = None) -> int:
    """What data parallel training has to reduce for a layer: its gradient, out · in numbers; of a
    low-rank layer r (out + in) and, for the middle factor, r².

    >>> gradient_numbers((1000, 500)), gradient_numbers((1000, 500), 10)
    (500000, 15100)
    """
    out, in_ = shape
    return out * in_ if rank is None else rank * (out + in_ + rank)


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

    >>> [round(zero_bytes(7.5e9, 64, stage) / 1e9, 2) for stage in range(4)]
    [120.0, 31.41, 16.64, 1.88]
    """
    if stage not in range(4) or ranks < 1:
        raise ValueError(
            f"zero_bytes: needs a stage of 0 to 3 and 1 or more ranks, got {stage} and {ranks}"
        )
    parts = (weight, gradient, state)
    return parameters * sum(
        part / (ranks if stage >= first else 1) for part, first in zip(parts, (3, 2, 1))
    )


def zero_traffic(stage: int) -> int:
    """How many times its parameters a rank sends in one step, nearly: an all-reduce of the
    gradients is 2; stage 3 gathers the weights twice and scatters the gradients once.

    >>> [zero_traffic(stage) for stage in range(4)]
    [2, 2, 2, 3]
    """
    if stage not in range(4):
        raise ValueError(f"zero_traffic: needs a stage of 0 to 3, got {stage}")
    return 3 if stage == 3 else 2
