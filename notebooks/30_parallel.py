# %% [markdown]
# # How do several machines train one network, and where do they wait?
#
# A model too large for one machine is cut into *stages*, a batch into *micro-batches*, and they pass through like cars through a factory.
# Each row is a rank, each bar a micro-batch; white is time in which a rank is idle, the *bubble*. Choose a schedule, more micro-batches,
# and machines that are late.
#
# You will be able to say how large the bubble is and what a schedule must hold in memory; cut a layer for several ranks so that little is
# sent; and run all of it on this machine, in processes. You need lesson 01 (low rank); about 30 minutes.

# %%
from tensorlab.course.lessons import parallel as lesson

lesson.Designer()

# %% [markdown]
# ## Three ways to share the work
#
# * **Data parallel.** Each of $n$ ranks has the whole model and a part of the batch; after the backward the gradients are averaged. That
#   is the gradient of the whole batch if the loss is a mean and the parts are equal.
# * **Tensor parallel.** Each rank has a part of every matrix. With $W$ cut by rows, $y_p = W_p x$ is a part of the output and
#   `gelu` may act on it; the next layer, cut by columns, makes terms of a sum: $z = \sum_p W'_p\, \mathrm{gelu}(y_p)$ [Shoeybi2019].
# * **Pipeline.** Each rank has some of the layers.
#
# A pipeline's schedule is an *order of operations for each rank*: $F_i$ and $B_i$ for micro-batch $i$. When they run is the longest path:
#
# $$ \mathrm{start}(o) = \max\bigl(\text{end of the operation before } o \text{ on its rank},\ \text{ends of all that } o \text{ needs}\bigr). $$
#
# With $p$ ranks, $m$ micro-batches and $v$ chunks of layers on a rank,
#
# | schedule | idle share | activations on rank $s$ |
# |---|---|---|
# | naive | $1 - 1/p$ | 1 |
# | GPipe [Huang2019] | $(p-1)/(m+p-1)$ | $m$ |
# | 1F1B [Narayanan2019] | the same | $\min(p-s, m)$ |
# | interleaved [Narayanan2021] | $(p-1)/(vm+p-1)$ | $\min(2(p-1-s)+(v-1)p+1,\ mv)$, each $1/v$ as large |
# | ZB-H1 [Qi2024], $F = B = W$ | $(p-1)/(3m+p-1)$ | $p$ |
#
# The order is the whole of the theory. Here is 1F1B, and the longest path:

# %%
import torch

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture
from tensorlab.papers import megatron, varuna
from tensorlab.papers.table import Table
from tensorlab.parallel import cost, pipelines, schedules, sharding
from tensorlab.parallel.distributed import Ranks


def order(s, p, m):
    w = min(p - 1 - s, m)
    pairs = [(kind, i) for n in range(m - w) for kind, i in (("F", w + n), ("B", n))]
    return [("F", i) for i in range(w)] + pairs + [("B", i) for i in range(m - w, m)]


def needs(kind, i, s, p):
    before = ("F", i, s - 1) if kind == "F" else ("B", i, s + 1)
    return ([before] if 0 <= before[2] < p else []) + ([("F", i, s)] if kind == "B" else [])


def ends(p, m, seconds):
    end, left = {}, {s: order(s, p, m) for s in range(p)}
    free = dict.fromkeys(left, 0)
    while any(left.values()):
        s = next(s for s, q in left.items() if q and all(n in end for n in needs(*q[0], s, p)))
        kind, i = left[s].pop(0)
        start = max([free[s]] + [end[n] for n in needs(kind, i, s, p)])
        end[kind, i, s] = free[s] = start + seconds[kind]
    return end


ours = schedules.times(schedules.one_f_one_b(4, 8), {"F": 1, "B": 2})
assert ends(4, 8, {"F": 1, "B": 2}) == {tuple(run.op): run.end for run in ours.runs}
ours

# %% [markdown]
# Each formula against the simulated order:

# %%
rows = []
for name in cost.SCHEDULES:
    chunks = 2 if name == "interleaved" else 1
    whole = {"F": 1, "B": 1, "W": 1} if name == "ZB-H1" else {"F": 1, "B": 2}
    line = lesson.simulated(name, 4, 8, chunks, whole)
    rows.append(
        {
            "schedule": name,
            "simulated": line.makespan,
            "formula": cost.makespan(name, 4, 8, whole, chunks),
            "idle": line.bubble,
            "held": " ".join(str(line.held(s)) for s in range(4)),
        }
    )
assert all(abs(row["simulated"] - row["formula"]) < 1e-9 for row in rows)
Table("schedules", rows)

# %% [markdown]
# An order of your own may wait for itself. That is how real pipelines hang; the simulator names who waits for whom.

# %%
try:
    schedules.times(schedules.read(["F0 B0 F1 B1", "F0 F1 B0 B1"]), {"F": 1, "B": 2})
except ValueError as error:
    print(error)

# %% [markdown]
# ## The talk's figure
#
# Varuna [Athlur2022] computes activations again (R) in the place of holding them. It is no order but a rule: whenever a stage is free, it
# takes the oldest operation that is ready, B before R before F, and R is timed to end as the gradient arrives. With F = R = 1 and B = 2 it
# needs 27 slots where GPipe with recomputation needs 28: the gain is not the bubble, it is that the rule goes on when a machine is late.

# %%
picture(
    lambda figure: plots.gantt(figure.subplots(), varuna.line_of("Varuna", 4, 5), "Varuna"),
    figsize=(9, 3),
)
rows = [
    {"schedule": name, **varuna.measure({"spread": 0.3, "draws": 20}, name, 4, 5)}
    for name in varuna.NAMES
]
assert [row["slots"] for row in rows] == [27, 28, 24]
Table("Athlur2022", rows)

# %% [markdown]
# ## What really runs
#
# Two processes start here and stay for the rest of the lesson; they take jobs. Their stages nap in the place of work, so that a machine
# with few cores shows what a large one does. The upper chart is what `torch.distributed.pipelining` ran, the lower what the simulator
# makes of the same order and the mean durations. What is missing between them is sending and waiting.

# %%
ranks = Ranks(2)
lesson.Ran(ranks)

# %% [markdown]
# What cannot be is refused before a process sees it, with the numbers that would do:

# %%
try:
    pipelines.nap_pipe(ranks, "interleaved", micro=5, chunks=2)
except ValueError as error:
    print(error)

# %% [markdown]
# ## A layer in parts
#
# *Column* cuts the rows of $w$ (the columns of Megatron's $w^\top$), *row* its columns. A low-rank layer $w = u v^\top$ can be summed where
# it is $r$ wide: cut it where it is wide, sum it where it is narrow.

# %%
lesson.Split()

# %% [markdown]
# The numbers counted in two processes. A dense MLP sums as many numbers as a row is wide, once in each pass; attention's backward three
# times, once for each of q, k and v, unless the input is declared shared; a low-rank pair sends $r / h$ of it, in both passes, with the same
# gradients.

# %%
size = megatron.SIZES[fast("quick", full="full")]
rows = [case | megatron.measure(size, **case, ranks=ranks) for case in megatron.cases(size)]
by = {(row["what"], row["plan"]): row for row in rows}
dense, low = by["MLP", "column and row"], by["low-rank MLP", "column and row"]
for way in ("there bytes", "back bytes"):
    assert low[way] * size["width"] == dense[way] * size["rank"]
assert by["attention", megatron.EACH]["backward"] == 3
assert by["attention", megatron.ONCE]["backward"] == 1
assert all(row["difference"] < 1e-12 for row in rows)
Table("Shoeybi2019", rows)

# %% [markdown]
# Not every format gains. Where a state may be summed, and how wide it is there, is counted from the shapes: for a TT-matrix it is
# $r\, \mathrm{in}_0\, \mathrm{out}_1$ before its first core, and that is less than `in` for small ranks only.

# %%
g = torch.Generator().manual_seed(0)
weights = {
    "low rank 8": tl.LowRank.randn((64, 64), 8, generator=g),
    "TT-matrix 1": tl.TTMatrix.randn((64, 64), 1, generator=g),
    "TT-matrix 4": tl.TTMatrix.randn((64, 64), 4, generator=g),
    "BlockTT 2": tl.BlockTT.randn((64, 64), 2, generator=g),
}
rows = [
    {"weight": name}
    | {split: str(sharding.widths(w, split)) for split in sharding.SPLITS}
    | {"dense": w.shape[1]}
    for name, w in weights.items()
]
Table("widths", rows)

# %% [markdown]
# ## Memory
#
# Data parallel training holds everything on every rank; ZeRO [Rajbhandari2020] and FSDP deal out what the optimizer keeps, then the
# gradients, then the weights. Adam in mixed precision needs 16 bytes for each parameter. Low rank attacks the count of parameters
# itself: at rank 64 a layer of 4096 by 4096 has 1/32 of them, on every rank and in every message.

# %%
dense = list(lesson.memory(7.5e9, 64))
low = list(lesson.memory(7.5e9 / 32, 64))
assert round(dense[0]["GB on a rank"]) == 120 and round(dense[3]["GB on a rank"], 2) == 1.88
Table("memory", [a | {"at 1/32": b["GB on a rank"]} for a, b in zip(dense, low)])

# %% [markdown]
# ## Take along
#
# * A schedule is an order for each rank; its time is a longest path; its memory is read off the order.
# * Cut where the tensor is wide, sum where it is narrow.
# * Simulate first: an order that waits for itself hangs for ever in processes, and in one line here.
#
# Where it fails: with two ranks and fast networks a bubble may cost less than the waiting that fine micro-batches bring; low rank saves
# traffic only where its rank is far below the width.
#
# ## Exercises
#
# **Predict.**

# %%
print(lesson.least_micro.question)
lesson.least_micro(...)

# %% [markdown]
# **Implement.**


# %%
def column(u, v, x, p, ranks): ...


print(lesson.low_rank_column.question)
lesson.low_rank_column(column)

# %% [markdown]
# **Explore.**

# %%
print(lesson.own_order.question)
lesson.own_order(...)

# %% [markdown]
# The processes go when they are told, and in any case with this notebook.

# %%
ranks.close()
ranks
