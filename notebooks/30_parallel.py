# %% [markdown] tags=["lesson"]
# name = "parallel training"
# minutes = 90
# needs = ["01_lowrank", "10_ttmatrix"]
# aims = [
#     "build the order of 1F1B, and the longest path that says when it is done",
#     "say how large a bubble is, and what a schedule has to hold in memory",
#     "cut a layer for several ranks so that little is sent",
# ]
# take = [
#     "A schedule is an order of operations for each rank: its time is a longest path, and its memory is read off the order.",
#     "Cut a layer where its tensors are wide, and sum where a state is narrow: a matrix of rank r sends r numbers for each row.",
#     "Simulate first: an order that waits for itself hangs for ever in processes, and is one sentence here.",
# ]

# %% [markdown]
# # How do several machines train one network, and where do they wait?
#
# A model too large for one machine is cut into *stages* of consecutive layers, a batch into *micro-batches*, and they pass through like
# cars through a factory. A process that works on its share is a **rank**, numbered from 0; it has nothing to do with the rank of a
# matrix, for which this lesson writes $r$. Each row of the chart is a rank and each bar one operation on the micro-batch whose number it
# bears: F a forward, B a backward. White is time in which a rank is idle, the *bubble*. On the right is the memory that this takes.
# Choose a schedule, more micro-batches, and machines that are late.

# %%
from tensorlab.course.lessons import parallel as lesson

lesson.ScheduleDesigner()

# %% [markdown]
# ## The mathematics
#
# Three words first. *Activations* are what a forward keeps for its backward. A *collective* is a message in which all ranks take part; the
# most frequent one is the *all-reduce*: each rank has a tensor, and each gets the sum of all of them.
#
# There are three ways to share the work.
#
# * **Data parallel.** Each of $n$ ranks has the whole model and a part of the batch; after the backward an all-reduce averages the
#   gradients. That is the gradient of the whole batch if the loss is a mean and the parts are equal. Torch's wrapper for a model that
#   does so is called `DistributedDataParallel`.
# * **Tensor parallel.** Each rank has a part of every matrix. With $W$ cut by rows, $y_p = W_p x$ is a part of the output and
#   `gelu` may act on it; the next layer, cut by columns, makes terms of a sum: $z = \sum_p W'_p\, \mathrm{gelu}(y_p)$ [Shoeybi2019].
# * **Pipeline.** Each rank has some of the layers.
#
# A pipeline's schedule is an *order of operations for each rank*: $F_i$ and $B_i$, the forward and the backward of micro-batch $i$.
# $F_i$ needs $F_i$ of the rank before; $B_i$ needs $B_i$ of the next rank and $F_i$ of its own. When they run is the longest path:
#
# $$ \mathrm{end}(o) = \mathrm{seconds}(o) + \max\bigl(\mathrm{end}(\text{the operation before } o \text{ on its rank}),\ \mathrm{end}(\text{all that } o \text{ needs})\bigr). $$
#
# Five orders have names. *naive* lets one micro-batch through before the next one starts. *GPipe* does all forwards, then all backwards.
# *1F1B* answers each forward with a backward as soon as a rank has its first gradient. *interleaved* is 1F1B with $v$ chunks of
# layers on each rank, dealt out like cards: rank 0 has the first chunk and the one that follows the first chunk of the last rank. *ZB-H1*
# (zero bubble) splits a backward in two: B, the gradient of the input, for which the rank before waits, and W, that of the weights, for
# which nobody waits, so that W can fill the bubble. With $p$ ranks and $m$ micro-batches,
#
# | schedule | idle share | activations on rank $s$ |
# |---|---|---|
# | naive | $1 - 1/p$ | 1 |
# | GPipe [Huang2019] | $(p-1)/(m+p-1)$ | $m$ |
# | 1F1B [Narayanan2019] | the same | $\min(p-s, m)$ |
# | interleaved [Narayanan2021] | $(p-1)/(vm+p-1)$ | $\min(2(p-1-s)+(v-1)p+1,\ mv)$, each $1/v$ as large |
# | ZB-H1 [Qi2024], $F = B = W$ | $(p-1)/(3m+p-1)$ | $p$ |
#
# Here are GPipe's order and the longest path in the letters of the formula:

# %%
from functools import cache

from tensorlab import plots
from tensorlab.course.claims import say
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture
from tensorlab.papers import megatron, varuna
from tensorlab.papers.table import measured, printed
from tensorlab.parallel import cost, pipelines, schedules
from tensorlab.parallel.distributed import Ranks


def gpipe(m):
    return [("F", i) for i in range(m)] + [("B", i) for i in range(m)]


def ends(orders, seconds):
    p, before = len(orders), {}
    for s, order in enumerate(orders):
        ops = [(kind, i, s) for kind, i in order]
        before |= dict(zip(ops, [None, *ops]))

    @cache
    def end(o):
        kind, i, s = o
        needs = [before[o]] if before[o] else []
        if kind == "F" and s > 0:
            needs += [("F", i, s - 1)]
        if kind == "B":
            needs += [("F", i, s)] + ([("B", i, s + 1)] if s < p - 1 else [])
        return seconds[kind] + max(map(end, needs), default=0)

    return {o: end(o) for o in before}


p, m, seconds = 4, 8, {"F": 1, "B": 2}
plain = ends([gpipe(m)] * p, seconds)
line = schedules.times(schedules.gpipe(p, m), seconds)
bubble = 1 - m * (seconds["F"] + seconds["B"]) / max(plain.values())
say(
    f"GPipe on {p} ranks with {m} micro-batches is done after {max(plain.values())}, and each rank is idle for {bubble:.1%} of that. The "
    "formula says the same, and `schedules.times` gives all the same ends.",
    plain == {tuple(run.op): run.end for run in line.runs},
    abs(bubble - cost.bubble("GPipe", p, m, seconds)) < 1e-12,
    abs(bubble - (p - 1) / (m + p - 1)) < 1e-12,
)

# %% [markdown]
# ## Which schedule?
#
# All of them on four ranks, with $F = 1$ and $B = 2$, as they were recorded (`tensorlab run Huang2019 --preset full`, and
# `Narayanan2019`). *naive* is the baseline.

# %%
idle, held = lesson.idle_shares(4)
picture(lambda figure: lesson.draw_bubbles(figure, idle, held), figsize=(9, 3.2))

# %%
rows = measured("Narayanan2019").rows
few = {name: curve[0][1] for name, curve in idle.items()}
kept = {name: curve[-1][1] for name, curve in held.items()}
say(
    f"All {len(rows)} recorded times are those of the formulas. With 8 micro-batches GPipe and 1F1B are idle for {few['1F1B']:.0%}, naive is for "
    f"{few['naive']:.0%}, four chunks for {few['interleaved, 4 chunks']:.0%} and ZB-H1 for {few['ZB-H1']:.0%}. But with 64 GPipe holds "
    f"{kept['GPipe']:g} activations on the first rank, 1F1B {kept['1F1B']:g}: it saves memory, not time.",
    all(abs(row["makespan"] - row["formula"]) < 1e-9 for row in rows),
    few["GPipe"] == few["1F1B"],
    few["interleaved, 4 chunks"] < few["ZB-H1"] < few["1F1B"] < few["naive"],
    kept["GPipe"] == 64 and kept["1F1B"] == 4,
)

# %% [markdown]
# An order can wait for itself. That is how real pipelines hang; the simulator names who waits for whom:

# %%
try:
    schedules.times(schedules.read(["F0 B0 F1 B1", "F0 F1 B0 B1"]), {"F": 1, "B": 2})
except ValueError as error:
    print(error)

# %% [markdown]
# ## Machines that are late
#
# Varuna [Athlur2022] does not hold activations: all ranks but the last compute them again (R) before a backward. It is not an order but a
# rule: whenever a rank is free, it takes the oldest operation that is ready, B before R before F, and R is timed to end as the gradient arrives.

# %%
picture(
    lambda figure: plots.gantt(figure.subplots(), varuna.line_of("Varuna", 4, 5), "Varuna"),
    figsize=(9, 3),
)

# %% [markdown]
# Recorded: five sizes, on time, and with operations that take longer by 30 % of the absolute value of a Gaussian number, the mean over 20
# draws. The diamond is the time in the paper's figure.

# %%
rows = lesson.lateness()
picture(lambda figure: lesson.draw_lateness(figure.subplots(), rows), figsize=(9, 3.4))

# %%
table = measured(varuna.PROGRAM.key)
slots = {name: table.where(schedule=name, ranks=4, micro=5)[0]["slots"] for name in varuna.NAMES}
gains = [1 - row["Varuna"][1] / row["GPipe"][1] for row in rows]
ours = [(row["late"], row["fixed"]) for row in table.where(schedule="Varuna")]
say(
    f"On time Varuna needs {slots['Varuna']} slots on 4 ranks, as in the paper's figure, and GPipe with recomputation {slots['GPipe']}: hardly "
    f"a gain. With late machines it is {min(gains):.0%} to {max(gains):.0%} ahead, for it goes on where a fixed order waits: the order that it "
    f"has on time, kept on late machines, is slower in all {len(ours)} sizes. But 1F1B, with room for its activations, needs {slots['1F1B']}, and is ahead of both, "
    "late or not.",
    (len(rows), table.notes["spread"], table.notes["draws"]) == (5, "0.3", "20"),
    slots["Varuna"] == printed(varuna.PROGRAM.key)["slots"][0] == 27,
    slots["GPipe"] == 28,
    min(gains) > 0,
    all(late < fixed for late, fixed in ours),
    all(row["1F1B"][late] < row["Varuna"][late] for row in rows for late in (0, 1)),
    all(row["1F1B"][late] < row["GPipe"][late] for row in rows for late in (0, 1)),
)

# %% [markdown]
# ## What really runs
#
# Two processes start here and take jobs. Their stages nap instead of working, so that a machine with few cores shows what a large one
# does. The upper chart is what `torch.distributed.pipelining` ran, the lower one what the simulator makes of the same order and the mean
# durations. The difference between them is sending and waiting.

# %%
ranks = Ranks(2)
lesson.Ran(ranks, "1F1B")

# %% [markdown]
# The bubble shrinks with more micro-batches, and the same naps in more and more pieces should be done sooner:

# %%
waits = lesson.waits(ranks, fast((2, 4), full=(2, 4, 8, 16, 32)))
picture(lambda figure: lesson.draw_waits(figure.subplots(), waits), figsize=(7, 3))

# %%
formula, ran = dict(waits["formula"]), dict(waits["ran"])
coarse, fine = min(ran), max(ran)
best = min(ran, key=ran.get)
say(
    f"From {coarse} to {fine} micro-batches the formula goes from {formula[coarse]:.3f} s to {formula[fine]:.3f} s. What ran was never faster than the "
    f"formula: {ran[coarse]:.3f} s and {ran[fine]:.3f} s, the least with {best} micro-batches. Each message costs time.",
    formula[fine] < formula[coarse],
    all(ran[m] >= 0.99 * formula[m] for m in ran),
)

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
# *Column* cuts the rows of $w$ (the columns of Megatron's $w^\top$), *row* its columns. A [low-rank](01_lowrank.ipynb) layer $w = u v^\top$
# can be summed where it is $r$ wide: cut it where it is wide, sum it where it is narrow. Move the rank, and compare with the dense layer.

# %%
lesson.Split()

# %% [markdown]
# Now counted in two processes, for the parts of a transformer: the bytes of all collectives of a forward and of a backward. Most plans are
# column, then row. *rows twice* is row for both layers of the MLP; *q, k, v each* is the plan for attention that comes to mind first.

# %%
size = megatron.SIZES[fast("quick", full="full")]
rows = [case | megatron.measure(size, **case, ranks=ranks) for case in megatron.cases(size)]
by = {(row["what"], row["plan"]): row for row in rows}
dense, low = by["MLP", "column and row"], by["low-rank MLP", "column and row"]
picture(
    lambda figure: lesson.draw_bytes(figure.subplots(), rows, dense["there bytes"]),
    figsize=(9, 4.6),
)

# %%
each, once = by["attention", megatron.EACH], by["attention", megatron.ONCE]
others = [by[f"{name} MLP", "column and row"] for name in ("TT", "BlockTT", "Monarch")]
passes = ("there bytes", "back bytes")
say(
    f"A dense MLP sums once in each pass, as printed, and so does attention where its input is declared shared; otherwise its backward sums "
    f"{each['backward']} times, for q, k and v. Rank {size['rank']} at width {size['width']} sends {low['there bytes'] / dense['there bytes']:.3g} of the "
    f"dense bytes in both passes, and the output and the gradient agree with one process to {max(row['difference'] for row in rows):.0e}. "
    "The other three formats send no less than the dense MLP.",
    all(
        by[row["what"], row["plan"]][way] == row[way]
        for row in printed(megatron.PROGRAM.key).rows
        for way in ("forward", "backward")
    ),
    each["backward"] == 3 and once["backward"] == 1,
    all(low[way] * size["width"] == dense[way] * size["rank"] for way in passes),
    all(row["difference"] < 1e-12 for row in rows),
    fast(True, full=all(row[way] >= dense[way] for row in others for way in passes)),
)

# %% [markdown]
# ## Gradients as thin factors
#
# Data parallel training can send less, too, and its model stays whole. PowerSGD [Vogels2019] replaces the gradient of each layer by a
# matrix of rank $r$. It does not compute an SVD; it improves the basis $Q$ (in, r) of the step before by one product with the gradient
# and one with its transpose. $G_p$ is the gradient on process $p$ of $n$, and orth makes columns orthonormal:
#
# $$ P = \mathrm{orth}\Bigl(\sum_p G_p\, Q\Bigr), \qquad Q = \frac1n \sum_p G_p^\top P, \qquad G \approx P Q^\top. $$
#
# The two sums are all that is sent: $r\,(\mathrm{out} + \mathrm{in})$ numbers instead of $\mathrm{out} \cdot \mathrm{in}$, and the
# biases. Process $p$ adds what is lost, $G_p - P Q^\top$, to its next gradient. Torch has it as a hook of `DistributedDataParallel`: here for
# a network of three layers that reads digits. The baseline is an all-reduce of the whole gradient.

# %%
sgd = lesson.power_sgd(ranks, fast((1, 4), full=(1, 2, 4)), fast(3, full=8))
picture(lambda figure: lesson.draw_power_sgd(figure, sgd), figsize=(9, 3))

# %%
all_of_it, one, four = (sgd[name] for name in ("all-reduce", "rank 1", "rank 4"))
last = lambda told: told["losses"][-1]
say(
    f"Rank 4 sends 1/{all_of_it['bytes'] / four['bytes']:.0f} of the bytes and rank 1 sends 1/{all_of_it['bytes'] / one['bytes']:.0f}, as the formula says. The "
    f"loss is {last(all_of_it):.3f} with the whole gradient, {last(four):.3f} at rank 4 and {last(one):.3f} at rank 1: what is saved is paid in steps. "
    f"It loses where messages are slow to start, for a step has {four['messages']} of them instead of {all_of_it['messages']}; and each process holds "
    "what was lost, as many numbers as the gradient has.",
    len(lesson.READER) - 1 == 3,
    all(told["bytes"] == told["formula"] for told in sgd.values()),
    round(all_of_it["bytes"] / four["bytes"]) == 10
    and round(all_of_it["bytes"] / one["bytes"]) == 31,
    last(four) < 1.5 * last(all_of_it) and 1.2 * last(all_of_it) < last(one),
    last(four) < last(one) < all_of_it["losses"][0] / 2,
    four["messages"] == one["messages"] == 3 and all_of_it["messages"] == 1,
)

# %% [markdown]
# The processes are not needed any more. `close` stops them; without it they would end with this notebook's kernel.

# %%
ranks.close()
say(f"{lesson.alive()} processes of this notebook are alive.", lesson.alive() == 0)

# %% [markdown]
# ## Memory
#
# Data parallel training holds everything on every rank; ZeRO [Rajbhandari2020] and its descendant FSDP deal out among the ranks first what
# the optimizer keeps (ZeRO-1), then also the gradients (ZeRO-2), then also the weights (ZeRO-3). Adam in mixed precision needs 16 bytes for
# each parameter. Low rank attacks the count of parameters itself: here 7.5 billion of them, and, pale, what is left of them where all are
# in layers of 4096 by 4096 that become $u v^\top$ with $r = 64$.

# %%
share = 64 * (4096 + 4096) / 4096**2
picture(lambda figure: lesson.draw_memory(figure.subplots(), 7.5e9, share), figsize=(8, 3.6))

# %%
whole, small = lesson.memory(7.5e9, 64), lesson.memory(7.5e9 * share, 1)
say(
    f"Rank 64 leaves 1/{1 / share:g} of the parameters. Data parallel needs {whole['data parallel']:.0f} GB on each rank, more than a card of 80 GB "
    f"has; FSDP on 64 ranks {whole['ZeRO-3, FSDP']:.2f} GB, but it sends {cost.zero_traffic(3)} times its parameters in a step instead of "
    f"{cost.zero_traffic(0)}. At low rank {small['data parallel']:.2f} GB are enough on every rank, with a message of 1/{1 / share:g}; whether that "
    "rank can learn the task is another question.",
    1 / share == 32,
    cost.zero_bytes(1, 1, 0) == 16,
    whole["data parallel"] > 80,
    round(whole["ZeRO-3, FSDP"], 2) == 1.88,
    small["data parallel"] < 4,
)

# %% [markdown]
# ## Where it loses
#
# Not every [format](00b_vocabulary.ipynb#Format) gains. Where a state may be summed, and how wide it is there, is counted from the shapes: for a
# [TT-matrix](10_ttmatrix.ipynb) it is $r\, \mathrm{in}_0\, \mathrm{out}_1$ before its first core. That is less than
# $\mathrm{in}_0\, \mathrm{in}_1$ only where $r\, \mathrm{out}_1 < \mathrm{in}_1$: with equal [modes](00b_vocabulary.ipynb#Mode) at no rank.

# %%
found = lesson.summed_widths(64)
picture(lambda figure: lesson.draw_widths(figure.subplots(), found, 64), figsize=(7, 3))

# %%
lost = [name for name, widths in found.items() if min(widths.values()) >= 64]
say(
    f"Of a layer of 64 by 64, low rank 8 sums {found['low rank 8']['column']} numbers for each row. {', '.join(lost)}: none of these can do better "
    f"than a dense layer, with 64.",
    found["low rank 8"] == {"column": 8, "row": 8},
    {"TT-matrix 1", "TT-matrix 4"} <= set(lost) and "low rank 8" not in lost,
    all(min(widths.values()) <= 64 for widths in found.values()),
)

# %% [markdown]
# Nor is a smaller bubble always faster: where messages are slow, many fine micro-batches cost more than the bubble that they save. Look at
# the seconds above once more.
#
# ## Exercises
#
# First a pipeline: in 2 to 5 you build a schedule, and what tells its time and its memory. Then a pair of layers in parts. A blank says
# nothing; a wrong answer gets a hint about what went wrong.
#
# ### 1. Predict: how many micro-batches (★, 5 minutes)
#
# A GPipe of 8 ranks is to be idle for at most a tenth of the time. How many micro-batches does it need at least?

# %%
least_micro = ...
lesson.least_micro(least_micro)

# %% [markdown] tags=["hints"]
# The share is $(p - 1) / (m + p - 1)$.
#
# It is at most 1/10 when $m + p - 1$ is at least $10\,(p - 1)$.

# %% tags=["solution"]
least_micro = 10 * (8 - 1) - (8 - 1)

# %% [markdown]
# ### 2. One forward, one backward (★★, 10 minutes)
#
# Write `one_f_one_b(rank, ranks, micro)`: the order of a rank, a list of pairs such as `("F", 0)`. With $w = \min(p - 1 - s, m)$ it begins
# with $w$ forwards; then come a forward and a backward in turn, and the last $w$ backwards.


# %%
def one_f_one_b(rank, ranks, micro): ...


lesson.one_f_one_b(one_f_one_b)

# %% [markdown] tags=["hints"]
# The $n$-th pair in the middle is `("F", w + n), ("B", n)`. How many pairs are there?
#
# The last rank has $w = 0$: F0 B0 F1 B1 and so on. Rank 0 of 4 with 6 micro-batches: F0 F1 F2, F3 B0, F4 B1, F5 B2, B3 B4 B5.


# %% tags=["solution"]
def one_f_one_b(rank, ranks, micro):
    w = min(ranks - 1 - rank, micro)
    pairs = [op for n in range(micro - w) for op in (("F", w + n), ("B", n))]
    return [("F", i) for i in range(w)] + pairs + [("B", i) for i in range(micro - w, micro)]


# %% [markdown]
# ### 3. What is held (★, 5 minutes)
#
# Write `held(order)`: of how many micro-batches a rank has to hold the activations at most, if F makes them and B lets go of them.


# %%
def held(order): ...


lesson.held(held)

# %% [markdown] tags=["hints"]
# Count as you go through the order.
#
# One up at F, one down at B; the largest count on the way is the answer.


# %% tags=["solution"]
def held(order):
    now = most = 0
    for kind, _ in order:
        now += 1 if kind == "F" else -1
        most = max(most, now)
    return most


# %% [markdown]
# ### 4. When it is done (★★★, 20 minutes)
#
# Write `finish(orders, seconds)`: the end of the last operation. `orders` has a list of pairs for each rank, `seconds` is such as
# `{"F": 1, "B": 2}`. If the orders wait for each other in a circle, return `float("inf")`: `ends` above would ask itself in a circle until
# Python stops it.


# %%
def finish(orders, seconds): ...


lesson.finish(finish)

# %% [markdown] tags=["hints"]
# Keep `end = {}`, by (kind, i, s), and for each rank how far it is. An operation can go when all that it needs is in `end`.
#
# Go round the ranks, each as far as it can. When a round has moved nothing, either all is done or it is a deadlock.


# %% tags=["solution"]
def finish(orders, seconds):
    end, at, free, p = {}, [0] * len(orders), [0] * len(orders), len(orders)
    moved = True
    while moved:
        moved = False
        for s, order in enumerate(orders):
            while at[s] < len(order):
                kind, i = order[at[s]]
                needs = [("F", i, s)] if kind == "B" else []
                other = s - 1 if kind == "F" else s + 1
                needs += [(kind, i, other)] if 0 <= other < p else []
                if not all(n in end for n in needs):
                    break
                end[kind, i, s] = seconds[kind] + max([free[s], *(end[n] for n in needs)])
                free[s], at[s], moved = end[kind, i, s], at[s] + 1, True
    return max(free) if at == list(map(len, orders)) else float("inf")


# %% [markdown]
# ### 5. An order of your own (★★, 10 minutes)
#
# `("F0 F1 F2 B0 B1 B2", "F0 F1 F2 B0 B1 B2")` is GPipe for 2 ranks and 3 micro-batches, one line for each rank. Hand in two lines that
# take no longer, with F = 1 and B = 2, but whose ranks hold the activations of at most 2 and 1 micro-batches.

# %%
own_order = ...
lesson.own_order(own_order)

# %% [markdown] tags=["hints"]
# The last rank can do a backward right after each forward.
#
# Write what your `one_f_one_b` gives for both ranks as text, and look what `held` and `finish` say.

# %% tags=["solution"]
line = lambda s: " ".join(f"{kind}{i}" for kind, i in one_f_one_b(s, 2, 3))
own_order = (line(0), line(1))

# %% [markdown]
# ### 6. The first layer of a pair (★, 5 minutes)
#
# Write `column(u, v, x, p, ranks)`: the part of $y = x\, (u v^\top)^\top$ that process p makes when the rows of u are cut into equal blocks. x is
# (batch, in), u (out, r), v (in, r); the part is (batch, out / ranks).


# %%
def column(u, v, x, p, ranks): ...


lesson.column(column)

# %% [markdown] tags=["hints"]
# v is whole on every rank: `x @ v` first.
#
# `u.chunk(ranks)[p]` is the block of rows.


# %% tags=["solution"]
def column(u, v, x, p, ranks):
    return x @ v @ u.chunk(ranks)[p].T


# %% [markdown]
# ### 7. The second layer, before the sum (★★, 8 minutes)
#
# The pair computes $z = u_2\, v_2^\top\, \mathrm{gelu}(u_1 v_1^\top x)$ for each row x. Write `term(first, second, x, p, ranks)`, with
# `first = (u1, v1)` and `second = (u2, v2)`: what rank p contributes to the sum over the ranks at the narrowest place, (batch, r) with r the
# rank of the second layer. No rank may see all of $y$.


# %%
def term(first, second, x, p, ranks): ...


lesson.term(term)

# %% [markdown] tags=["hints"]
# `torch.nn.functional.gelu(column(*first, x, p, ranks))` is rank p's part of the state between the layers.
#
# It meets rank p's block of rows of v2. The sum of these terms times u2ᵀ is z; u2 comes after the sum.


# %% tags=["solution"]
def term(first, second, x, p, ranks):
    from torch.nn.functional import gelu

    return gelu(column(*first, x, p, ranks)) @ second[1].chunk(ranks)[p]


# %% [markdown]
# ### 8. Explore: interleaved stages (★, 5 minutes)
#
# In the picture at the top: 4 ranks, F = 1, B = 2, interleaved with two chunks, and nobody is late. With which smallest number of
# micro-batches are the ranks idle for at most a tenth of the time?

# %%
enough = ...
lesson.enough(enough)

# %% [markdown] tags=["hints"]
# Choose *interleaved*; the sentence below the picture tells the idle share.
#
# Only multiples of 4 will do: otherwise the list of ranks has no 4.

# %% tags=["solution"]
enough = 16
