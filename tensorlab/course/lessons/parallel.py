"""Lesson 30: training on several processes: pipelines, and layers in parts."""

import random
from collections.abc import Iterator

import torch
from matplotlib.figure import Figure
from torch import nn

from ... import plots
from ...formats.lowrank import LowRank
from ...parallel import cost, pipelines, schedules, sharding
from ...parallel.distributed import Ranks, mean_durations
from ...parallel.schedules import Op, Timeline, times
from ..checks import Check, Unusable
from ..widgets import Explorer, choice, decimal, integer

NAMES = (*cost.SCHEDULES, "Varuna")


def simulated(
    schedule: str, ranks: int, micro: int, chunks: int, times_: dict, late: float = 0.0
) -> Timeline:
    """The timeline of a schedule by its name; late: the spread of what operations take longer.

    >>> simulated("1F1B", 4, 8, 1, {"F": 1.0, "B": 2.0}).makespan
    33.0
    """
    if schedule == "Varuna":
        every = [[Op(k, i, s) for k in "FRB" for i in range(micro)] for s in range(ranks)]
    else:
        every = cost.orders(schedule, ranks, micro, chunks)
        times_ = {kind: t / chunks for kind, t in times_.items()}
    if late:
        times_ = schedules.jittered(every, times_, late, random.Random(0))
    return schedules.varuna(ranks, micro, times_) if schedule == "Varuna" else times(every, times_)


class Designer(Explorer):
    """A schedule, its chart, and what it holds, beside the closed forms."""

    figsize = (9, 3.6)

    def __init__(self, schedule: str = "1F1B"):
        super().__init__(
            schedule=choice(schedule, NAMES),
            ranks=integer(4, 1, 8),
            micro=integer(8, 1, 32, label="micro-batches"),
            chunks=integer(2, 1, 4, label="chunks (interleaved)"),
            forward=decimal(1.0, 0.5, 4.0, step=0.5, label="time of F"),
            backward=decimal(2.0, 0.5, 4.0, step=0.5, label="time of B and W"),
            late=decimal(0.0, 0.0, 1.0, step=0.05, label="machines are late by"),
        )

    def draw(self, figure: Figure, schedule, ranks, micro, chunks, forward, backward, late) -> str:
        chunks = chunks if schedule == "interleaved" else 1
        whole = {"F": forward, "R": forward, "B": backward}
        if schedule == "ZB-H1":
            whole |= {"B": backward / 2, "W": backward / 2}
        line = simulated(schedule, ranks, micro, chunks, whole, late)
        left, right = figure.subplots(1, 2, width_ratios=(3, 1))
        said = plots.gantt(left, line, schedule)
        held, formula = [line.held(s) for s in range(ranks)], None
        if schedule != "Varuna":
            ours = schedule, ranks, micro
            formula = [cost.activations(*ours, s, chunks) for s in range(ranks)]
            expected = cost.makespan(*ours, whole, chunks)
            bound = " at least" * (schedule == "ZB-H1" and backward / 2 > forward)
            said += f" The formula says{bound} {expected:.4g} where no machine is late."
        said += " " + plots.held_activations(right, held, formula)
        return said + f" Each of them is of 1/{chunks} of a rank's layers." * (chunks > 1)


class Ran(Explorer):
    """The schedule that really ran, above the simulated one; stages nap, so that few cores do.

    ranks: processes that take jobs. The first picture starts them.
    """

    figsize = (9, 5)

    def __init__(self, ranks: Ranks, schedule: str = "1F1B", seconds: float = 0.12):
        self.ranks, self.seconds = ranks, seconds
        super().__init__(
            schedule=choice(schedule, tuple(s for s in pipelines.SCHEDULES if s != "zero bubble")),
            micro=integer(4, 2, 12, label="micro-batches"),
        )

    def draw(self, figure: Figure, schedule: str, micro: int) -> str:
        chunks = 2 if schedule in pipelines.SEVERAL else 1
        naps = dict(forward=self.seconds / 3, backward=2 * self.seconds / 3)
        ran = pipelines.nap_pipe(self.ranks, schedule, micro=micro, chunks=chunks, **naps)
        line = times(ran.orders, mean_durations(ran))
        upper, lower = figure.subplots(2, 1, sharex=True)
        end = 1.02 * max(ran.makespan, line.makespan)
        first = plots.gantt(upper, ran, f"{schedule}, ran (seconds)", end)
        second = plots.gantt(lower, line, "simulated with the durations measured", end)
        return f"Ran, {first} Simulated, {second}"


class Split(Explorer):
    """A layer cut for several ranks: which part each holds, and what a row of the batch sends."""

    figsize = (7, 3.2)

    def __init__(self, split: str = "column"):
        super().__init__(
            weight=choice("low rank", ("dense", "low rank")),
            split=choice(split, sharding.SPLITS),
            ranks=integer(2, 1, 6),
            width=integer(64, 16, 128),
            rank=integer(8, 1, 16),
        )

    def draw(self, figure: Figure, weight: str, split: str, ranks: int, width: int, rank: int):
        schedules.check_divides("split", "ranks", ranks, f"{split}s", width)
        if weight == "dense":
            parts, sends = {"w": ((width, width), split == "row")}, width
        else:
            w = LowRank(torch.ones(width, rank), torch.ones(width, rank))
            cut = sharding.cuts(w, split)
            parts = {"u": ((width, rank), cut.get(0)), "v": ((width, rank), cut.get(1))}
            sends = min(sharding.widths(w, split).values())
        axes = figure.subplots(1, len(parts), squeeze=False)[0]
        said = []
        for ax, (name, (shape, mode)) in zip(axes, parts.items()):
            mode = None if mode is None else int(mode)
            said.append(plots.shards(ax, shape, mode, ranks, name))
        when = "backward, a gradient" if split == "column" else "forward, a state"
        wire = cost.ring_bytes("all_reduce", 4 * sends, ranks)
        return (
            f"{' '.join(said)} In the {when} of {sends} numbers for each row of the batch is summed: "
            f"in float32 {4 * sends} bytes, {wire:.4g} over each rank's wire."
        )


# -- rows of the lesson's tables


def memory(parameters: float, ranks: int) -> Iterator[dict]:
    """Bytes on each rank by the stage of ZeRO, in GB, and what a step sends in parameters."""
    for stage, name in enumerate(("data parallel", "ZeRO-1", "ZeRO-2", "ZeRO-3, FSDP")):
        held = cost.zero_bytes(parameters, ranks, stage) / 1e9
        yield {"training": name, "GB on a rank": held, "sent": cost.zero_traffic(stage)}


def stages() -> nn.Sequential:
    """A chain of four layers for a pipe.

    >>> len(pipelines.split_layers(list(stages()), 2))
    2
    """
    return nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())


# -- exercises

TIMES = {"F": 1, "B": 2}


def _lines(answer, *_):
    """What an order of two ranks takes, handed in as two lines of text."""
    try:
        line = times(schedules.read(list(answer)), TIMES)
    except (ValueError, TypeError, AttributeError) as error:
        raise Unusable(str(error)) from None
    if line.ranks != 2 or len(line.runs) != 12:
        raise Unusable("two ranks and three micro-batches are needed, with F and B of each.")
    return torch.tensor([line.makespan, line.held(0), line.held(1)], dtype=torch.float64)


def _1f1b():
    line = times(schedules.one_f_one_b(2, 3), TIMES)
    return torch.tensor([line.makespan, line.held(0), line.held(1)], dtype=torch.float64)


least_micro = Check(
    question="A GPipe of 8 ranks is to be idle for at most a tenth of the time. How many micro-batches "
    "does it need at least?",
    right=lambda: next(m for m in range(1, 999) if cost.bubble("GPipe", 8, m, TIMES) <= 0.1),
    mistakes=(
        (lambda: 70, "that has p - 1 = 7 slots idle in 70, but the 7 are part of the whole."),
        (lambda: 72, "the pipe has p - 1 idle slots, not p."),
        (lambda: 32, "that is the rule of thumb m = 4 p; what does the formula give?"),
    ),
    hint="(p - 1) / (m + p - 1) <= 1/10.",
    moral="The rule of thumb m = 4 p leaves 18 % idle.",
)

low_rank_column = Check(
    question="Write `column(u, v, x, p, ranks)`: the part of y = x (u vᵀ)ᵀ that rank p of ranks makes when "
    "the rows of u are cut: x (batch, in), u (out, r), v (in, r); the result is (batch, out / ranks).",
    function=True,
    cases=lambda: _column_cases(),
    right=lambda u, v, x, p, ranks: x @ v @ u.chunk(ranks)[p].T,
    mistakes=(
        (lambda u, v, x, p, ranks: x @ v @ u.T, "that is the whole of y, not this rank's part."),
        (
            lambda u, v, x, p, ranks: x @ v.chunk(ranks, 1)[p] @ u.chunk(ranks, 1)[p].T,
            "that cuts the rank r: the result is a term of a sum as wide as y, and all of it is sent.",
        ),
    ),
    hint="v is whole on every rank, and only the rows of u that are this rank's are used.",
    moral="x vᵀ has r numbers a row: its gradient is all that the ranks sum.",
)


def _column_cases():
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=g, dtype=torch.float64)
    return [(draw(6, 2), draw(4, 2), draw(3, 4), p, 2) for p in (0, 1)]


own_order = Check(
    question="Hand in two lines of operations, for 2 ranks and 3 micro-batches, such as "
    '("F0 F1 F2 B0 B1 B2", "F0 F1 F2 B0 B1 B2"), that takes no longer than GPipe with F = 1 and B = 2, but '
    "whose ranks hold the activations of at most 2 and 1 micro-batches.",
    right=_1f1b,
    mistakes=(),
    hint="GPipe holds all three on both ranks, and one micro-batch at a time is slow; let the last rank "
    "do a backward right after each forward.",
    moral="One forward, one backward: the same bubble with p - s activations in the place of m.",
    read=_lines,
)
