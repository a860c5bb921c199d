# %% [markdown]
# # Which weights may fall, and what does it cost to find out?
#
# A trained network, and the weights of its middle layer: dark ones are large. Let the smallest fall, one by one, in blocks, or in whole rows.
# The ring shows what the network still knows, without any further training.

# %%
from tensorlab.course.lessons import pruning as lesson

lesson.PruneExplorer()

# %% [markdown]
# ## The mathematics
#
# Magnitude pruning sets the share $s$ of smallest weights to zero,
#
# $$ w \leftarrow m \odot w, \qquad m = [\,|w| > t\,], $$
#
# and holds them there while training goes on: after each step of the optimizer $w \leftarrow m \odot w$ again, because momentum would bring them
# back. Why the smallest? Of all masks with so many ones it is the one that changes $w$ least in the Frobenius norm, as the truncated SVD is
# among the matrices of a rank. It looks at no loss.
#
# The *lottery ticket hypothesis* [FrankleCarbin2019]: a trained network's mask, put on the weights $w_0$ that it **started** from, gives a sparse
# network that trains alone as well as the dense one. The ticket is drawn in rounds:
#
# $$ w \leftarrow m \odot w_0, \quad \text{train}, \quad m \leftarrow m \text{ without the share } p \text{ of smallest that are left}. $$
#
# After $k$ rounds $(1-p)^k$ of the weights are left, and $k+1$ trainings are paid. One training of $n$ examples costs $3 F n$ FLOPs, where $F$
# is one forward pass: the backward pass multiplies twice, for the inputs and for the weights.

# %%
import inspect

from IPython.display import Code

import tensorlab as tl
from tensorlab.course.lab import fast

Code(inspect.getsource(tl.lottery), language="python")

# %% [markdown]
# ## Drawing a ticket
#
# The accuracy after each round, of the ticket on its own start and of the same procedure with new random weights in each round, with the cost of
# all trainings so far: in dense trainings, if zeros cost nothing, and as dense hardware pays it.

# %%
rounds, prune_rate, epochs = fast((3, 0.5, 2), full=(8, 0.4, 10))
runs = {}
for name, fresh in (("ticket", False), ("new weights", True)):
    runs[name] = []
    for row in lesson.ticket_rows(rounds=rounds, prune_rate=prune_rate, epochs=epochs, fresh=fresh):
        runs[name].append(row)
        print(f"\r{name}: round {row['round']} of {rounds}", end="")
one = runs["ticket"][0]["dense_flops"]
print(f"\r{'left':>8} {'ticket':>8} {'new weights':>12} {'paid':>6} {'paid, dense':>12}")
for a, b in zip(runs["ticket"], runs["new weights"]):
    left, paid, dense = 1 - a["sparsity"], a["flops"] / one, a["dense_flops"] / one
    print(
        f"{100 * left:7.1f}% {100 * a['accuracy']:7.1f}% {100 * b['accuracy']:11.1f}% {paid:6.2f} {dense:12.2f}"
    )

# %%
from tensorlab import plots
from tensorlab.course.widgets import picture

points = {
    name: [(100 * (1 - r["sparsity"]), r["accuracy"]) for r in rows] for name, rows in runs.items()
}
picture(lambda figure: plots.shares(figure.subplots(), points, "weights left in %", "accuracy"))

# %% [markdown]
# ## Where it loses
#
# Entries, blocks, and a low rank that stores as many numbers and is trained **once**. A mask is not free either: which entries stay must be stored,
# at least one bit for each.

# %%
print(f"{'structure':12} {'numbers':>8} {'accuracy':>9} {'trainings paid':>15}")
for block in ("entries", "8 x 8"):
    *_, last = lesson.ticket_rows(rounds=rounds, prune_rate=prune_rate, epochs=epochs, block=block)
    numbers = round((1 - last["sparsity"]) * 2 * 64 * 64)
    print(f"{block:12} {numbers:8} {100 * last['accuracy']:8.1f}% {last['flops'] / one:15.2f}")
rank = max(1, round(numbers / (4 * 64)))
row = lesson.low_rank_row(rank, epochs=epochs)
print(
    f"{f'rank {rank}':12} {row['numbers']:8} {100 * row['accuracy']:8.1f}% {row['flops'] / one:15.2f}"
)

# %% [markdown]
# What is printed above is the comparison to look at: how much accuracy the many trainings buy over one training of two factors, and how much
# blocks lose against entries. On a network of 8,000 weights and digits of 8 by 8 this says how to count, not who wins on a large one.
#
# ## All ways on one footing
#
# Pruning, tickets, and the ways of lesson 15, from plain factors to DLRT [Schotthoefer2022]: one network, as many numbers stored as a rank
# needs, the same learning rate for all. Columns: numbers of the weights; words of a mask; *passes*, each a batch forward and backward; multiply-adds
# in $10^9$ as dense hardware pays them, with those of QR and SVD; seconds of CPU.

# %%
from tensorlab.papers import competitors
from tensorlab.papers.table import Table, measured

size = competitors.SIZES["quick"] | {"epochs": fast(2, full=10), "width": fast(32, full=64)}
setting = {"none": 0, "rank": 4, "theta": 0.4, "price": 1.0}
rows = []
for way in fast(("dense", "DLRT", "pruned blocks"), full=competitors.WAYS):
    kind = competitors.WAYS[way][0]
    rows.append({"way": way, **competitors.measure(size, way, setting[kind], rate=0.05, seed=0)})
    print(f"\r{way} trained          ", end="")
Table(
    "one rate",
    [
        {name: row[name] for name in ("way", "test", "stored", "mask", "passes", "gmacs", "cpu s")}
        for row in rows
    ],
)

# %% [markdown]
# One rate for all is not fair either. The program `tensorlab run Schotthoefer2022competitors --preset full` gives each way the best of the same grid,
# chosen on rows kept apart, and three seeds; recorded:

# %%
recorded = measured(competitors.PROGRAM.key)
competitors.summary(recorded) if len(recorded) else print(
    "Not run yet: tensorlab run Schotthoefer2022competitors --preset full --record"
)

# %% [markdown]
# ## Exercises
#
# **Predict.**

# %%
print(lesson.lottery_left.question)
lesson.lottery_left(...)

# %% [markdown]
# **Implement.**


# %%
def block_mask(w, share, b): ...


print(lesson.block_mask.question)
lesson.block_mask(block_mask)

# %% [markdown]
# **Explore.**

# %%
print(lesson.cost_of_a_ticket.question)
lesson.cost_of_a_ticket(...)
