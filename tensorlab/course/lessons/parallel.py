"""Lesson 30: training on several processes: pipelines, and layers in parts."""

import math
import multiprocessing
import random

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.functional import cross_entropy, gelu
from torch.nn.parallel import DistributedDataParallel

from ... import plots
from ...formats.blocktt import BlockTT
from ...formats.lowrank import LowRank
from ...formats.ttmatrix import TTMatrix
from ...models.mlp import MLP
from ...models.training import batches
from ...papers.table import measured
from ...parallel import cost, pipelines, schedules, sharding
from ...parallel.distributed import Collectives, Ranks, mean_durations
from ...parallel.schedules import Op, Timeline, times
from ..checks import Check, Unusable, call, gaussian, returned
from ..digits import digits
from ..widgets import Explorer, choice, decimal, integer

NAMES = (*cost.SCHEDULES, "Varuna")
TIMES = {"F": 1, "B": 2}


def divisors(n: int, most: int) -> tuple[int, ...]:
    """The divisors of n up to `most`.

    >>> divisors(12, 8)
    (1, 2, 3, 4, 6)
    """
    return tuple(k for k in range(1, most + 1) if n % k == 0)


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


class ScheduleDesigner(Explorer):
    """A schedule, its chart, and what it holds, beside the closed forms."""

    figsize = (9, 3.6)

    def __init__(self, schedule: str = "1F1B"):
        super().__init__(
            schedule=choice(schedule, NAMES),
            micro=integer(8, 1, 32, label="micro-batches"),
            ranks=choice(4, range(1, 9)),
            chunks=integer(2, 1, 4, label="chunks (interleaved)"),
            forward=decimal(1.0, 0.5, 4.0, step=0.5, label="time of F"),
            backward=decimal(2.0, 0.5, 4.0, step=0.5, label="time of B and W"),
            late=decimal(0.0, 0.0, 1.0, step=0.05, label="machines are late by"),
        )

    def limits(self, schedule, micro, **others) -> dict:
        """Interleaved stages need ranks that divide the micro-batches."""
        whole = schedule == "interleaved"
        return {"ranks": divisors(micro, 8) if whole else tuple(range(1, 9))}

    def draw(self, figure: Figure, schedule, micro, ranks, chunks, forward, backward, late) -> str:
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
            micro=choice(4, (2, 4, 6, 8, 12), label="micro-batches"),
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

    figsize = (9, 3)

    def __init__(self, split: str = "column"):
        super().__init__(
            weight=choice("low rank", ("dense", "low rank")),
            split=choice(split, sharding.SPLITS),
            width=integer(64, 16, 128),
            ranks=choice(2, divisors(64, 8), label="ranks (processes)"),
            rank=integer(8, 1, 16, label="rank r of u vᵀ"),
        )

    def limits(self, width, **others) -> dict:
        """The ranks that divide the rows or columns."""
        return {"ranks": divisors(width, 8)}

    def draw(self, figure: Figure, weight: str, split: str, width: int, ranks: int, rank: int):
        w = LowRank(torch.ones(width, rank), torch.ones(width, rank))
        cut = sharding.cuts(w, split)
        parts = {"u": ((width, rank), cut.get(0)), "v": ((width, rank), cut.get(1))}
        sends = {"dense": width, "low rank": min(sharding.widths(w, split).values())}
        if weight == "dense":
            parts = {"w": ((width, width), int(split == "row"))}
        *axes, right = figure.subplots(1, len(parts) + 1, width_ratios=[1] * len(parts) + [1.6])
        said = [
            plots.shards(ax, shape, mode, ranks, name)
            for ax, (name, (shape, mode)) in zip(axes, parts.items())
        ]
        when = "backward, a gradient" if split == "column" else "forward, a state"
        colors = [plots.COLORS[0] if name == weight else "0.8" for name in sends]
        right.barh(list(sends), list(sends.values()), color=colors)
        right.set(xlabel="numbers summed for each row", xlim=(0, 128), ylim=(1.6, -0.6))
        right.set_title(f"in the {when.split(',')[0]}")
        size = 4 * sends[weight]
        wire = cost.ring_bytes("all_reduce", size, ranks)
        return (
            f"{' '.join(said)} In the {when} of {sends[weight]} numbers for each row of the batch "
            f"is summed: in float32 {size} bytes, {wire:.4g} over each rank's wire; a dense layer "
            f"sums {sends['dense']} numbers."
        )


# -- recorded and measured, as pictures


def idle_shares(ranks: int) -> tuple[dict, dict]:
    """Recorded by schedule: (micro-batches, idle share) and (micro-batches, activations that the
    first rank holds, in those of all its layers).

    >>> idle_shares(4)[0]["1F1B"][0]
    (8, 0.2727272727272727)
    """
    idle, held = {}, {}
    for row in measured("Huang2019").where(schedule="naive", ranks=ranks):
        if row["micro"] >= 8:
            idle.setdefault("naive", []).append((row["micro"], row["idle"]))
            held.setdefault("naive", []).append((row["micro"], row["held"]))
    for row in measured("Narayanan2019").where(ranks=ranks):
        name = row["schedule"] + f", {row['chunks']} chunks" * (row["chunks"] > 1)
        idle.setdefault(name, []).append((row["micro"], row["idle"]))
        held.setdefault(name, []).append((row["micro"], row["held first"]))
    return idle, held


def draw_bubbles(figure: Figure, idle: dict, held: dict) -> str:
    """Idle shares against micro-batches, and what that costs in activations."""
    left, right = figure.subplots(1, 2)
    for k, name in enumerate(idle):
        left.semilogx(*zip(*idle[name]), label=name, base=2, **plots.style(k))
        right.loglog(*zip(*held[name]), base=2, **plots.style(k))
    ticks = [m for m, _ in idle["naive"]]
    for ax in (left, right):
        ax.set_xticks(ticks, map(str, ticks))
        ax.set(xlabel="micro-batches")
    left.set(ylabel="idle share", ylim=(0, 1))
    levels = [2**k for k in range(7)]
    right.set_yticks(levels, map(str, levels))
    right.set(ylabel="activations held, rank 0")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center")
    said = (f"{name} {curve[-1][1]:.1%} and {held[name][-1][1]:g}" for name, curve in idle.items())
    return f"With {ticks[-1]} micro-batches, idle share and activations held: {', '.join(said)}."


def lateness() -> list[dict]:
    """Recorded makespans, one dict for each size: its label, and by schedule the slots without and
    with late machines."""
    found = {}
    for row in measured("Athlur2022").rows:
        size = found.setdefault((row["ranks"], row["micro"]), {})
        size[row["schedule"]] = (row["slots"], row["late"])
    return [{"size": f"{p} ranks,\n{m} micro"} | row for (p, m), row in found.items()]


def draw_lateness(ax: Axes, rows: list[dict]) -> str:
    """Makespans in those of GPipe on time, on time and late; the printed one as a diamond."""
    for k, name in enumerate(("Varuna", "GPipe", "1F1B")):
        on_time, late = zip(*(row[name] for row in rows))
        at = [i + 0.26 * (k - 1) for i in range(len(rows))]
        base = [row["GPipe"][0] for row in rows]
        tall = [b / a for a, b in zip(base, late)]
        label = {"GPipe": "GPipe, recomputing", "1F1B": "1F1B, which holds all"}.get(name, name)
        ax.bar(at, tall, 0.24, color=plots.COLORS[k], alpha=0.45)
        ax.bar(at, [b / a for a, b in zip(base, on_time)], 0.24, color=plots.COLORS[k], label=label)
    ax.plot(-0.26, 27 / 28, "D", ms=6, mfc="none", mec="black", label="printed")
    ax.set_xticks(range(len(rows)), [row["size"] for row in rows])
    ax.set(ylabel="time / GPipe on time", ylim=(0, 1.75))
    ax.legend(ncols=4, loc="upper left", columnspacing=1)
    last = rows[-1]
    said = (f"{name} {last[name][1]:.0f}" for name in ("Varuna", "GPipe", "1F1B"))
    return f"Pale is what late machines add. In the last group they make it {', '.join(said)}."


def waits(ranks: Ranks, micro: tuple, work: float = 0.3) -> dict[str, list[tuple[int, float]]]:
    """Seconds of GPipe with the same work cut into more and more micro-batches: by the formula,
    and as it ran; work: seconds of naps on each rank."""
    ran = []
    for m in micro:
        naps = dict(forward=work / 3 / m, backward=2 * work / 3 / m)
        ran.append((m, pipelines.nap_pipe(ranks, "GPipe", micro=m, **naps).makespan))
    formula = [(m, work * (m + ranks.world - 1) / m) for m in micro]
    return {"formula": formula, "ran": ran, "no bubble": [(m, work) for m in micro]}


def draw_waits(ax: Axes, seconds: dict) -> str:
    """Seconds of a step against its micro-batches."""
    for k, (name, points) in enumerate(seconds.items()):
        ax.semilogx(*zip(*points), label=name, base=2, **plots.style(k))
    ticks = [m for m, _ in seconds["ran"]]
    ax.set_xticks(ticks, map(str, ticks))
    ax.set(xlabel="micro-batches", ylabel="seconds", ylim=(0, None))
    ax.legend()
    (_, least), (m, ran) = seconds["formula"][-1], seconds["ran"][-1]
    return f"With {m} micro-batches the formula says {least:.3f} s, and {ran:.3f} s have passed."


def draw_bytes(ax: Axes, rows: list[dict], dense: int) -> str:
    """What two processes have sent for each part of a transformer, in its forward and backward;
    dense: the bytes of a dense MLP in each, as a line."""
    for k, way in enumerate(("there", "back")):
        sent = [row[f"{way} bytes"] / 1024 for row in rows]
        at = [i + 0.2 * (2 * k - 1) for i in range(len(rows))]
        label = ("forward", "backward")[k]
        ax.barh(at, sent, 0.4, color=plots.COLORS[k], hatch="//" * k, label=label)
    ax.axvline(dense / 1024, color="0.4", lw=1, ls="--", label="dense MLP, column and row")
    plan = lambda row: (
        "" if row["plan"] == "column and row" else f"\n{row['plan'].split(', in')[0]}"
    )
    ax.set_yticks(range(len(rows)), [f"{row['what']}{plan(row)}" for row in rows])
    ax.set(xlabel="KiB of collectives in a pass")
    ax.invert_yaxis()
    ax.legend(loc="lower right")
    most = max(rows, key=lambda row: row["there bytes"] + row["back bytes"])
    least = min(rows, key=lambda row: row["there bytes"] + row["back bytes"])
    names = [f"{row['what']}, {row['plan']}" for row in (most, least)]
    return f"Most is sent for {names[0]}; least for {names[1]}."


READER = (64, 128, 128, 10)  # widths of the network that two processes train


def reduced_bytes(rank: int) -> int:
    """Bytes in float32 that a step of the network reduces: of each layer r (out + in) numbers where
    these are fewer than out · in, and its bias; rank 0: all of the gradient.

    >>> reduced_bytes(0), reduced_bytes(1)
    (104488, 3408)
    """
    thin = lambda out, in_: min(rank * (out + in_), out * in_) if rank else out * in_
    return 4 * sum(thin(out, in_) + out for in_, out in zip(READER, READER[1:]))


def power_sgd(ranks: Ranks, kept: tuple[int, ...], epochs: int) -> dict[str, dict]:
    """A network that reads digits, trained in data parallel with its gradients reduced whole and by
    PowerSGD, at the ranks in `kept`: losses before and after each epoch, bytes and messages of the
    last step, and the bytes of the formula."""
    x, y, *_ = digits()
    found = {}
    for rank in (0, *kept):
        losses, sent = ranks.run(_read_by_two, rank, x.flatten(1) - 0.3, y, epochs)[0]
        told = {"losses": losses, "bytes": sum(sent), "messages": len(sent)}
        found[f"rank {rank}" if rank else "all-reduce"] = told | {"formula": reduced_bytes(rank)}
    return found


def _read_by_two(rank: int, x: Tensor, y: Tensor, epochs: int) -> tuple[list[float], list[int]]:
    """What each process does: its rows of every batch. Losses are those of all rows."""
    g = torch.Generator().manual_seed(0)
    model = MLP(READER, generator=g)
    wrapped, sgd = DistributedDataParallel(model), torch.optim.SGD(model.parameters(), 0.1, 0.9)
    wrapped.register_comm_hook(*_hook(rank))
    mine, losses = slice(dist.get_rank(), None, dist.get_world_size()), [_loss(model, x, y)]
    for _ in range(epochs):
        for rows in batches(len(y), 100, epochs=1, generator=g):
            sgd.zero_grad()
            with Collectives().calls() as sent:
                cross_entropy(wrapped(x[rows[mine]]), y[rows[mine]]).backward()
            sgd.step()
        losses.append(_loss(model, x, y))
    return losses, [size for _, size in sent.seen]


def _hook(rank: int):
    """The state and the function by which DistributedDataParallel reduces gradients."""
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

    if not rank:
        return None, default_hooks.allreduce_hook
    # two whole steps come first, in which the wrapper still puts its buckets in order
    options = dict(start_powerSGD_iter=2, min_compression_rate=1)
    state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=rank, **options)
    return state, powerSGD_hook.powerSGD_hook


@torch.no_grad()
def _loss(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float(cross_entropy(model(x), y))


def draw_power_sgd(figure: Figure, found: dict[str, dict]) -> str:
    """The loss of all rows after each epoch, and the bytes of a step beside the formula."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    look = dict(ms=6, mfc="none", mec="black", label="formula")
    for k, (name, told) in enumerate(found.items()):
        left.semilogy(told["losses"], label=name, **plots.style(k))
        right.barh(name, told["bytes"] / 1024, color=plots.COLORS[k])
    right.plot([told["formula"] / 1024 for told in found.values()], list(found), "D", **look)
    left.xaxis.get_major_locator().set_params(integer=True)
    left.set(xlabel="epochs", ylabel="loss")
    left.legend()
    right.set(xlabel="KiB that a step reduces")
    right.invert_yaxis()
    right.legend()
    said = (f"{name} {told['losses'][-1]:.3f}" for name, told in found.items())
    return f"Loss after {len(told['losses']) - 1} epochs: {', '.join(said)}."


def summed_widths(width: int = 64) -> dict[str, dict[str, int]]:
    """Numbers summed for each row where a layer is narrowest, by weight and split.

    >>> summed_widths()["low rank 8"]
    {'column': 8, 'row': 8}
    """
    g, shape = torch.Generator().manual_seed(0), (width, width)
    weights = {
        "low rank 8": LowRank.randn(shape, 8, generator=g),
        "TT-matrix 1": TTMatrix.randn(shape, 1, generator=g),
        "TT-matrix 4": TTMatrix.randn(shape, 4, generator=g),
        "BlockTT 2": BlockTT.randn(shape, 2, generator=g),
    }
    least = lambda w, split: min(sharding.widths(w, split).values())
    return {n: {split: least(w, split) for split in sharding.SPLITS} for n, w in weights.items()}


def draw_widths(ax: Axes, found: dict, dense: int) -> str:
    """Numbers summed for each row, by format and split, and those of a dense layer as a line."""
    for k, split in enumerate(sharding.SPLITS):
        at = [i + 0.2 * (2 * k - 1) for i in range(len(found))]
        values = [widths[split] for widths in found.values()]
        ax.bar(at, values, 0.4, color=plots.COLORS[k], hatch="//" * k, label=split)
    ax.axhline(dense, color="0.4", lw=1, ls="--", label="dense")
    ax.set_xticks(range(len(found)), found)
    ax.set(ylabel="numbers summed for each row", ylim=(0, 1.25 * dense))
    ax.legend(ncols=3, loc="upper left")
    said = (f"{name} {w['column']} and {w['row']}" for name, w in found.items())
    return f"By columns and by rows: {', '.join(said)}; dense {dense}."


STAGES = ("data parallel", "ZeRO-1", "ZeRO-2", "ZeRO-3, FSDP")


def memory(parameters: float, ranks: int) -> dict[str, float]:
    """GB on each rank by the stage of ZeRO, for Adam in mixed precision.

    >>> round(memory(7.5e9, 64)["ZeRO-3, FSDP"], 2)
    1.88
    """
    held = (cost.zero_bytes(parameters, ranks, stage) for stage in range(4))
    return {name: n / 1e9 for name, n in zip(STAGES, held)}


def draw_memory(ax: Axes, parameters: float, share: float, card: float = 80) -> str:
    """GB on each rank against the number of ranks, of all parameters and of a share of them."""
    ranks = [2**k for k in range(9)]
    for k, name in enumerate(STAGES):
        look = plots.style(k)
        ax.loglog(ranks, [memory(parameters, n)[name] for n in ranks], label=name, **look)
        small = [memory(share * parameters, n)[name] for n in ranks]
        ax.loglog(ranks, small, **look | dict(alpha=0.45))
    ax.axhline(card, color="0.4", lw=1, ls="--", label=f"a card of {card:g} GB")
    ax.set_xticks(ranks, map(str, ranks))
    ax.minorticks_off()
    ax.set(xlabel="ranks", ylabel="GB on each rank")
    ax.legend(loc="lower left", ncols=2)
    first, last = memory(parameters, 1)[STAGES[0]], memory(share * parameters, 1)[STAGES[0]]
    return f"Pale: 1/{1 / share:g} of the parameters. On one rank {first:.0f} GB and {last:.2g} GB."


def alive() -> int:
    """How many processes of this program are alive."""
    return len(multiprocessing.active_children())


# -- exercises


def _pairs(order):
    """An order as numbers, one row for each operation: 0 for F and 1 for B, and the micro-batch."""
    try:
        words = order.split() if isinstance(order, str) else list(order)
        pairs = [(w[0], int(w[1:]) if isinstance(w, str) else int(w[1])) for w in words]
        return torch.tensor([["FB".index(kind), i] for kind, i in pairs], dtype=torch.float64)
    except (TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise Unusable('a list of pairs such as ("F", 0) is needed.') from error


def _read_order(function, *case):
    order = returned(function, *case)
    return None if order is None else _pairs(order)


def _one_f_one_b(rank, ranks, micro, warm=0, first="FB"):
    w = min(ranks - 1 - rank + warm, micro)
    order = [("F", i) for i in range(w)]
    for n in range(micro - w):
        order += [(kind, n + w * (kind == "F")) for kind in first]
    return order + [("B", i) for i in range(micro - w, micro)]


def _gpipe(micro):
    return [(kind, i) for kind in "FB" for i in range(micro)]


def _held(order):
    now = most = 0
    for kind, _ in order:
        now += 1 if kind == "F" else -1
        most = max(most, now)
    return most


def _finish(orders, seconds, wait="FB", busy=True, stuck=math.inf):
    """When all is done; without what F or B waits for on other ranks, with ranks that do many
    things at once, or with the end of what could be done where orders wait in a circle: None."""
    left, free, end = [list(order) for order in orders], [0] * len(orders), {}
    while any(left):
        moved = False
        for s, queue in enumerate(left):
            while queue and all(n in end for n in _needs(*queue[0], s, len(orders), wait)):
                kind, i = queue.pop(0)
                start = [end[n] for n in _needs(kind, i, s, len(orders), wait)]
                end[kind, i, s] = max([free[s] * busy, *start]) + seconds[kind]
                free[s], moved = end[kind, i, s], True
        if not moved:
            return max(end.values(), default=0) if stuck is None else stuck
    return max(end.values())


def _needs(kind, i, s, ranks, wait="FB"):
    other = s - 1 if kind == "F" else s + 1
    there = [(kind, i, other)] if kind in wait and 0 <= other < ranks else []
    return there + ([("F", i, s)] if kind == "B" else [])


def _pipes():
    orders = lambda make, p, m: [make(s, p, m) for s in range(p)]
    stuck = schedules.read(["F0 B0 F1 B1", "F0 F1 B0 B1"])
    return [
        (orders(_one_f_one_b, 3, 4), {"F": 1, "B": 2}),
        (orders(lambda s, p, m: _gpipe(m), 4, 3), {"F": 0.5, "B": 0.75}),
        ([[(op.kind, op.micro) for op in order] for order in stuck], {"F": 1, "B": 2}),
    ]


def _lines(answer, *_):
    """What an order of two ranks takes, handed in as two lines of text."""
    try:
        line = times(schedules.read(list(answer)), TIMES)
    except (ValueError, TypeError, AttributeError) as error:
        raise Unusable(str(error)) from None
    if line.ranks != 2 or len(line.runs) != 12:
        raise Unusable("two ranks and three micro-batches are needed, with F and B of each.")
    return torch.tensor([line.makespan, line.held(0), line.held(1)], dtype=torch.float64)


def _measures(line):
    return torch.tensor([line.makespan, line.held(0), line.held(1)], dtype=torch.float64)


def _column(u, v, x, p, ranks):
    return x @ v @ u.chunk(ranks)[p].T


def _term(first, second, x, p, ranks):
    return gelu(_column(*first, x, p, ranks)) @ second[1].chunk(ranks)[p]


def _layers():
    for p, ranks in ((0, 2), (1, 2), (2, 3)):
        u1, v1, u2, v2, x = gaussian((12, 2), (5, 2), (7, 3), (12, 3), (4, 5))
        yield (u1, v1), (u2, v2), x, p, ranks


def _enough(schedule: str, share: float = 0.1, chunks: int = 1, ranks: int = 4) -> int:
    """The least number of micro-batches, a multiple of the ranks, with which they are idle for at
    most a share."""
    fits = (m for m in range(ranks, 999, ranks))
    return next(m for m in fits if cost.bubble(schedule, ranks, m, TIMES, chunks) <= share)


least_micro = Check(
    right=lambda: next(m for m in range(1, 999) if cost.bubble("GPipe", 8, m, TIMES) <= 0.1),
    mistakes=(
        (lambda: 70, "that has p - 1 = 7 slots idle in 70, but the 7 are part of the whole."),
        (lambda: 72, "the pipe has p - 1 idle slots, not p."),
        (lambda: 32, "that is the rule of thumb m = 4 p; what does the formula give?"),
    ),
    hint="(p - 1) / (m + p - 1) <= 1/10.",
    moral="The rule of thumb m = 4 p leaves 18 % idle.",
)

one_f_one_b = Check(
    function=True,
    read=_read_order,
    cases=lambda: [(1, 5, 7), (3, 4, 6), (0, 4, 2), (0, 1, 3)],
    right=lambda *case: _pairs(_one_f_one_b(*case)),
    mistakes=(
        (
            lambda rank, ranks, micro: _pairs(_gpipe(micro)),
            "that is GPipe: all forwards wait, and all their activations are held.",
        ),
        (
            lambda rank, ranks, micro: _pairs(_one_f_one_b(ranks - 1, ranks, micro)),
            "only the last rank may do a backward right away: the others first fill the pipe.",
        ),
        (
            lambda rank, ranks, micro: _pairs(_one_f_one_b(ranks - 1 - rank, ranks, micro)),
            "the first rank has the longest way to the end and back, so it has most forwards "
            "first.",
        ),
        (
            lambda *case: _pairs(_one_f_one_b(*case, warm=1)),
            "that holds one micro-batch more than needed: p - 1 - s forwards come first, and then "
            "a forward before each backward.",
        ),
        (
            lambda *case: _pairs(_one_f_one_b(*case, first="BF")),
            "that is a backward before each forward, and one forward too few by then: in each pair "
            "the forward comes first.",
        ),
    ),
    hint="w = min(p - 1 - s, m) forwards; then F(w + n), B(n) for n = 0 ... m - w - 1; then the "
    "last w backwards.",
    moral="As soon as its first gradient can be there, a rank answers each forward with a "
    "backward.",
)

held = Check(
    function=True,
    read=lambda f, *case: call(f, *case),
    cases=lambda: [
        ([("F", 0), ("B", 0), *(("F", i) for i in (1, 2, 3)), *(("B", i) for i in (1, 2, 3))],),
        (_gpipe(5),),
        (_one_f_one_b(1, 4, 8),),
    ],
    right=_held,
    mistakes=(
        (
            lambda order: sum(kind == "F" for kind, _ in order),
            "those are all micro-batches; a backward lets go of one.",
        ),
        (
            lambda order: [kind for kind, _ in order].index("B"),
            "those are the forwards before the first backward; later there may be more.",
        ),
        (
            lambda order: sum(1 if kind == "F" else -1 for kind, _ in order),
            "that is what is left at the end; the most on the way is asked for.",
        ),
    ),
    hint="count up at each F and down at each B, and remember the largest.",
    moral="Memory is read off the order; how long anything takes plays no part.",
)

finish = Check(
    function=True,
    cases=_pipes,
    right=_finish,
    mistakes=(
        (
            lambda orders, seconds: max(sum(seconds[kind] for kind, _ in o) for o in orders),
            "that is the work of one rank: what it waits for is missing.",
        ),
        (
            lambda orders, seconds: sum(seconds[kind] for o in orders for kind, _ in o),
            "that adds up all work; the ranks work at the same time.",
        ),
        (
            lambda orders, seconds: _finish(orders, seconds, wait="F"),
            "a backward also waits for the backward of the next rank.",
        ),
        (
            lambda orders, seconds: _finish(orders, seconds, wait="B"),
            "a forward also waits for the forward of the rank before.",
        ),
        (
            lambda orders, seconds: _finish(orders, seconds, busy=False),
            "a rank does one thing at a time: a start also waits for the end of what the rank did "
            "before.",
        ),
        (
            lambda orders, seconds: _finish(orders, seconds, stuck=None),
            "that is the end of what could be done; where orders wait in a circle, the rest never "
            'is: `float("inf")`.',
        ),
    ),
    hint="go round the ranks; take the next operation of a rank while all that it needs has an "
    "end; its start is the latest of those ends and of what the rank did before.",
    moral="A schedule is an order; its time is a longest path, and a circle is a deadlock.",
    forbids=((times, "`schedules.times` is what you are to build."),),
)

column = Check(
    function=True,
    cases=lambda: [(*first, x, p, ranks) for first, _, x, p, ranks in _layers()],
    right=_column,
    mistakes=(
        (lambda u, v, x, p, ranks: x @ v @ u.T, "that is the whole of y, not this rank's part."),
        (
            lambda u, v, x, p, ranks: (
                x @ v.chunk(ranks, 1)[p] @ u.chunk(ranks, 1)[p].T
                if v.shape[1] % ranks == 0
                else None
            ),
            "that cuts the rank r: the result is a term of a sum as wide as y, and all of it is "
            "sent.",
        ),
        (
            lambda u, v, x, p, ranks: x @ v @ u[p::ranks].T,
            "the rows of a part are neighbors: rank p has the p-th block of them.",
        ),
    ),
    hint="v is whole on every rank, and only the rows of u that are this rank's are used.",
    moral="x v has r numbers a row: its gradient is all that the ranks sum.",
)

term = Check(
    function=True,
    cases=lambda: list(_layers()),
    right=_term,
    mistakes=(
        (
            lambda first, second, x, p, ranks: (
                _column(*first, x, p, ranks) @ second[1].chunk(ranks)[p]
            ),
            "gelu between the layers is missing.",
        ),
        (
            lambda first, second, x, p, ranks: _term(first, second, x, p, ranks) @ second[0].T,
            "that is as wide as z: sum before u2, where the state has r numbers.",
        ),
        (
            lambda first, second, x, p, ranks: gelu(x @ first[1] @ first[0].T) @ second[1],
            "that is the whole sum: rank p has its own columns of y only, and its own rows of v2.",
        ),
        (
            lambda first, second, x, p, ranks: gelu((x @ first[1] @ first[0].T) @ second[1]),
            "gelu acts on y, the output of the first layer, not on what comes later.",
        ),
    ),
    hint="y = column(u1, v1, x, p, ranks); gelu(y) times rank p's block of rows of v2.",
    moral="All ranks sum (batch, r) numbers once, and u2, whole on every rank, makes z of it.",
)

own_order = Check(
    right=lambda: _measures(times(schedules.one_f_one_b(2, 3), TIMES)),
    read=_lines,
    mistakes=(
        (
            lambda: _measures(times(schedules.gpipe(2, 3), TIMES)),
            "that is as fast, but both ranks hold three: let the last rank answer each forward.",
        ),
        (
            lambda: _measures(times(schedules.naive(2, 3), TIMES)),
            "that holds one, but it takes 18: rank 0 may do a second forward while it waits.",
        ),
    ),
    hint="GPipe holds all three on both ranks, and one micro-batch at a time is slow; let the "
    "last rank do a backward right after each forward.",
    moral="One forward, one backward: the same bubble with p - s activations instead of m.",
)

enough = Check(
    right=lambda: _enough("interleaved", chunks=2),
    mistakes=(
        (lambda: _enough("1F1B"), "that is what 1F1B needs; two chunks halve the bubble."),
        (
            lambda: 14,
            "the formula is content with 14, but 4 ranks do not divide it: the list then offers "
            "others.",
        ),
        (lambda: _enough("interleaved", chunks=4), "that is enough with four chunks."),
    ),
    hint="schedule interleaved, two chunks, four ranks: move the micro-batches and read the idle "
    "share in the sentence.",
    moral="Half the micro-batches of 1F1B, for more messages and more activations.",
)
