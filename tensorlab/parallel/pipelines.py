"""A model trained in a pipe of processes by the schedules of `torch.distributed.pipelining`, and
what really ran [Huang2019] [Narayanan2019] [Narayanan2021] [Qi2024].

What cannot run is refused before a process starts. Stages that nap instead of working do not fight
for cores, so that a small machine shows the schedule of a large one.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch import distributed as dist

from .distributed import Ranks, Recorder
from .schedules import Timeline, check_divides, check_stages

SCHEDULES = {
    "GPipe": "ScheduleGPipe",
    "1F1B": "Schedule1F1B",
    "interleaved": "ScheduleInterleaved1F1B",
    "zero bubble": "ScheduleInterleavedZeroBubble",
}
SEVERAL = ("interleaved", "zero bubble")  # those that take several stages on each rank


@dataclass(frozen=True)
class Piped:
    """What a pipe has done. line: when the operations of the last step ran. states: a state dict
    for each stage. losses: the mean over the micro-batches, for each step."""

    line: Timeline
    states: dict[int, dict[str, Tensor]]
    losses: list[float]


def train_pipe(
    ranks: Ranks,
    schedule: str,
    make: Callable[[int, int], nn.Module],
    x: Tensor,
    target: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    micro: int,
    chunks: int = 1,
    steps: int = 2,
    lr: float = 0.1,
) -> Piped:
    """Train a pipe by plain SGD: make(k, stages) is stage k of ranks · chunks, all on one batch.

    ranks: the processes.
    schedule: one of "GPipe", "1F1B", "interleaved" and "zero bubble".
    make: (k, stages) -> stage k; a function that can be imported, since it travels by name.
    x, target: the batch and what its outputs should be, with rows on the first axis.
    loss: (outputs, targets) -> their mean loss over the rows given, so that micro-batches add up to
        the batch; it can be imported.
    micro: the number of micro-batches.
    chunks: stages on each rank.
    steps: of SGD.
    lr: its learning rate.

    Raises ValueError, before any process starts, for an unknown schedule and for numbers that do
    not fit; the message says which would.
    """
    check_pipe("train_pipe", schedule, ranks.world, len(x), micro, chunks)
    job = (schedule, make, x, target, loss, micro, chunks, steps, lr)
    parts = ranks.run(_train, *job)
    states = {k: state for part in parts for k, state in part[0].items()}
    return Piped(parts[0][1], dict(sorted(states.items())), parts[-1][2])


def check_pipe(
    who: str,
    schedule: str,
    ranks: int,
    batch: int,
    micro: int,
    chunks: int = 1,
    layers: int | None = None,
) -> None:
    """Raises ValueError, with the numbers that would do, for a pipe that torch could not run.

    who: the function that the user called, for the error.
    schedule, micro, chunks: as in `train_pipe`.
    ranks: the number of processes.
    batch: the number of rows.
    layers: of the model that is cut into stages; None: not checked.

    >>> check_pipe("pipe", "1F1B", 2, 64, 5)
    Traceback (most recent call last):
    ValueError: pipe: needs a number of micro-batches that divides 64 rows
    (1, 2, 4, 8, 16, 32, 64), got 5
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"{who}: needs a schedule of {', '.join(SCHEDULES)}, got {schedule!r}")
    if chunks < 1 or (chunks > 1) > (schedule in SEVERAL):
        raise ValueError(
            f"{who}: needs one stage on each rank for {schedule}, or {' or '.join(SEVERAL)}, got "
            f"{chunks} chunks"
        )
    if layers is not None:
        check_stages(who, ranks * chunks, layers)
    check_divides(who, "micro-batches", micro, "rows", batch)
    if schedule in SEVERAL:
        check_divides(who, "ranks", ranks, "micro-batches", micro)
    elif schedule == "1F1B" and micro < ranks:
        raise ValueError(
            f"{who}: needs as many micro-batches as stages or more, {ranks}, got {micro}"
        )


def split_layers(layers: list[nn.Module], stages: int) -> list[nn.Sequential]:
    """A chain of layers in stages of nearly equal numbers of them, the first ones longer.

    >>> [len(stage) for stage in split_layers([nn.ReLU() for _ in range(5)], 3)]
    [2, 2, 1]
    """
    check_stages("split_layers", stages, len(layers))
    short, more = divmod(len(layers), stages)
    ends = [k * short + min(k, more) for k in range(stages + 1)]
    return [nn.Sequential(*layers[a:b]) for a, b in zip(ends, ends[1:])]


def _train(schedule, make, x, target, loss, micro, chunks, steps, lr):
    """What each rank does: its stages, by torch's schedule."""
    from torch.distributed import pipelining

    rank, world, device = dist.get_rank(), dist.get_world_size(), x.device
    held, total = range(rank, chunks * world, world), chunks * world
    modules = [make(k, total) for k in held]
    stages = [pipelining.PipelineStage(m, k, total, device) for m, k in zip(modules, held)]
    recorder = Recorder(*stages)
    kind = getattr(pipelining, SCHEDULES[schedule])
    pipe = kind(stages if schedule in SEVERAL else stages[0], micro, loss_fn=loss)
    optimizer = torch.optim.SGD([p for m in modules for p in m.parameters()], lr)
    first, last, losses = [x] * (rank == 0), rank == world - 1, []
    for _ in range(steps):
        recorder.clear()
        optimizer.zero_grad()
        parts = []
        dist.barrier()  # all begin at once, so that what is recorded is one step
        pipe.step(*first, **({"target": target, "losses": parts} if last else {}))
        optimizer.step()
        losses.append(float(torch.stack(parts).detach().mean()) if last else 0.0)
    return {k: m.state_dict() for k, m in zip(held, modules)}, recorder.gather(), losses


# ---------------------------------------------------------------------------------- stages that nap


class _Naps(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, forward, backward):
        ctx.save_for_backward(x, weight)
        ctx.seconds = backward
        time.sleep(forward)
        return x * weight

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        time.sleep(ctx.seconds)
        return g * weight, (g * x).sum(), None, None


class Nap(nn.Module):
    """y = weight · x, with a nap in the forward and another in the backward, in seconds.

    >>> Nap(0.0, 0.0)(torch.ones(2))
    tensor([1., 1.], grad_fn=<_NapsBackward>)
    """

    def __init__(self, forward: float, backward: float):
        super().__init__()
        self.seconds, self.weight = (forward, backward), nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return _Naps.apply(x, self.weight, *self.seconds)


def nap_pipe(
    ranks: Ranks, schedule: str, *, micro: int, chunks: int = 1, forward=0.04, backward=0.08
) -> Timeline:
    """The timeline of a pipe whose stages sleep.

    ranks, schedule, micro, chunks: as in `train_pipe`.
    forward, backward: seconds for one micro-batch in all chunks of a rank.
    """
    make = partial(_nap, forward / chunks, backward / chunks)
    x = torch.ones(micro, 4)
    return train_pipe(ranks, schedule, make, x, x, _square, micro=micro, chunks=chunks).line


def _nap(forward, backward, k, stages):
    return Nap(forward, backward)


def _square(out, target):
    return (out - target).square().mean()
