# %% [markdown] tags=["lesson"]
# name = "TT-matrix"
# minutes = 75
# needs = ["04_tt", "09_kronecker"]
# aims = [
#     "build a TT-matrix of a weight, and multiply by it core by core",
#     "count what a path through the cores costs",
#     "say when a layer of few numbers is a slow one",
# ]
# take = [
#     "A TT-matrix is the tensor train of a matrix whose row and column digits are paired.",
#     "It stores few numbers, but uses each of them many times: beyond a small rank it is cheapest to rebuild the dense weight.",
#     "A rank belongs to an order of the rows and columns. A trained layer has none, and an SVD of equal size does as well or better.",
# ]

# %% [markdown]
# # Why is a layer of 3,200 numbers not a thousand times faster?
#
# Because what a layer costs is not what it stores. On the left the error of a 64 by 64 weight against the numbers that a TT-matrix of
# it stores, one curve for each way to split 64; on the right the operations of its product over those of the dense one, one bar for
# each path through the cores, and in blue the one that should be fastest. Shuffle the rows and watch the error; *propose* finds the best way to split for as many numbers.

# %%
from tensorlab.course.lessons import ttmatrix as lesson

lesson.Designer()

# %% [markdown]
# ## The mathematics
#
# Split the row index into digits $(o_0, \dots, o_{d-1})$ and the column index into $(i_0, \dots, i_{d-1})$, and pair them. A **TT-matrix**
# [Oseledets2010] [Novikov2015] is the [tensor train](04_tt.ipynb) of the tensor with the [modes](00b_vocabulary.ipynb#Mode) $(o_k, i_k)$:
#
# $$ w[(o_0 \dots o_{d-1}), (i_0 \dots i_{d-1})] = G_0[o_0, i_0]\, G_1[o_1, i_1] \cdots G_{d-1}[o_{d-1}, i_{d-1}] . $$
#
# It stores $\sum_k r_k\, m_k n_k\, r_{k+1}$ numbers. Rank 1 is a [Kronecker product](09_kronecker.ipynb). Its network has two open
# lines for each core, a row digit and a column digit:

# %%
import math

import torch

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.claims import say
from tensorlab.course.digits import draw_fits
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture
from tensorlab.layers.plans import plans
from tensorlab.papers import propagation as paper
from tensorlab.papers.table import measured

w = tl.TTMatrix.randn(
    out=(12, 16, 16), in_=(8, 8, 12), rank=4, generator=torch.Generator().manual_seed(0)
)
picture(lambda figure: plots.diagram(figure.subplots(), w), figsize=(7, 2.4))

# %% [markdown]
# The product $y = w x$ walks through the cores: at each of them a column digit of $x$ leaves, and a row digit of $y$ comes. From the left,
# core $k$ costs
#
# $$ 2 \cdot \text{batch} \cdot (m_0 \cdots m_{k-1}) \cdot r_k\, m_k n_k\, r_{k+1} \cdot (n_{k+1} \cdots n_{d-1}) $$
#
# operations: its own numbers times all the digits that are not its own.


# %%
def plain_apply(G, x):
    """y = x wᵀ for the cores G_k (r, m, n, q), from the left."""
    batch, done, r = len(x), 1, 1
    for core in G:
        r, m, n, q = core.shape
        state = x.reshape(batch * done, r, n, -1)
        state = torch.einsum("arnz,rmnq->amqz", state, core)
        done, x = done * m, state
    return x.reshape(batch, done)


x = torch.randn(64, 768, generator=torch.Generator().manual_seed(1))
y = w.to_dense() @ x.T
off = float((plain_apply(w.cores, x) - y.T).norm() / y.norm())
theirs = float((w.apply(x) - y.T).norm() / y.norm())
say(
    f"The layer from {w.shape[1]} to {w.shape[0]} numbers stores {w.numel:,} instead of {math.prod(w.shape):,}. The product of "
    f"the ten lines is off that of the dense matrix by {off:.0e}, and that of `w.apply` by {theirs:.0e}.",
    w.numel == 3200,
    off < 1e-5,
    theirs < 1e-5,
)

# %% [markdown]
# ## What a rank costs
#
# The cost of a walk grows as $r^2$, while the dense product does not know of $r$: beyond a small [rank](00b_vocabulary.ipynb#Rank) it is cheaper to **rebuild** $w$
# once and to multiply by it. Between the two lie the paths that merge some neighbors first (`left 2+1` merges the first two cores).
# `plans` counts them all, and `tl.propagate` takes the one that should be fastest. The rivals are the dense layer, and two plain
# layers, an SVD, with as many numbers as the TT-matrix.

# %%
costs = lesson.paths_by_rank((1, 2, 4, 8, 16, 32, 64))


def against_rank(figure):
    ax = figure.subplots()
    for k, (name, points) in enumerate(costs.items()):
        ax.loglog(*zip(*points), label=name, **plots.style(k))
    ax.axhline(1, color="0.4", lw=1, ls="--", label="dense")
    ax.set(xlabel="rank", ylabel="operations / dense")
    ax.set_xticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
    ax.minorticks_off()
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return "At rank 64: " + ", ".join(f"{name} {p[-1][1]:.2g}" for name, p in costs.items()) + "."


picture(against_rank, figsize=(7, 3))

# %%
at = {name: dict(points) for name, points in costs.items()}
cheapest = min(at[name][4] for name in ("left", "right", "left 2+1", "rebuild"))
say(
    f"At rank 4 the layer stores one number in {math.prod(w.shape) / w.numel:.0f}, and the cheapest of these paths still takes one operation "
    f"in {1 / cheapest:.1f}. At rank 16 even that is dearer than the dense product, and the SVD of as many numbers takes "
    f"{at['SVD of equal size'][16]:.1%} of it: each of its numbers is used once.",
    math.prod(w.shape) > 700 * w.numel,
    1 / cheapest < 10,
    min(at[name][16] for name in ("left", "right", "left 2+1", "rebuild")) > 1,
    at["SVD of equal size"][16] < 0.02,
)

# %% [markdown]
# ## What the gradient keeps
#
# Autograd saves the state after every core, and a state has $r$ times as many numbers as there are tokens and mixed digits. So a layer of a
# few thousand numbers keeps more than a dense one. The remedy [Chekalina2023] is a gradient that saves $x$ and the cores only:
#
# - **full einsum**: the gradient of each core is one contraction of $x$, $dy$ and the other cores;
# - **full matrix**: first $dw = dy^T x$, so the batch is gone; then one contraction of $dw$ and the other cores for each core;
# - **recompute**: walk a chunk of tokens forth again, then back (what `tl.propagate` may choose).
#
# The bars were measured on a CPU by `tensorlab run Chekalina2023 --preset full`, with the dense layer as a line; the crosses are the
# paper's numbers, of a GPU and of a layer whose sizes are not given. What can agree is the order.

# %%
table = measured(paper.PROGRAM.key)
picture(lambda figure: lesson.recorded(figure.subplots(), table), figsize=(8, 3))

# %%
row = {(r["forward"], r["gradient"]): r for r in table.rows}
ours, theirs = (
    row["fixed order", "autograd"][c] / row["fixed order", "full matrix"][c]
    for c in ("MiB", "MiB (printed)")
)
dense = row["dense", "autograd"]
least = min((r for r in table.rows if r["forward"] != "dense"), key=lambda r: r["MiB"])
say(
    f"In the fixed order autograd keeps {ours:.0f} times as much as *full matrix*, in print {theirs:.0f} times. Two things differ from "
    f"print: here *full einsum* keeps more than *full matrix*, and *full matrix* is the fastest of the paper's ways on either path. The dense layer "
    f"({dense['MiB']:.0f} MiB, {dense['ms']:.0f} ms) has less memory than any of them, for the least is {least['MiB']:.0f} MiB, and takes "
    f"less time than every one of them.",
    ours > 5,
    theirs > 5,
    all(row[f, "full einsum"]["MiB"] > row[f, "full matrix"]["MiB"] for f in paper.FORWARDS),
    all(
        row[f, "full matrix"]["ms"] == min(row[f, g]["ms"] for g in paper.GRADIENTS)
        for f in paper.FORWARDS
    ),
    dense["MiB"] < least["MiB"],
    all(dense["ms"] < r["ms"] for r in table.rows if r is not dense),
)

# %% [markdown]
# Memory can be counted here and now, on a smaller layer:

# %%
size = paper.SIZES["quick"]
mib = {
    (forward, gradient): paper.measure(size, forward, gradient)["MiB"]
    for forward, gradient in (
        ("fixed order", "autograd"),
        ("auto", "recompute"),
        ("dense", "autograd"),
    )
}
say(
    f"For {math.prod(size['in'])} to {math.prod(size['out'])} numbers at rank {size['rank']} and {size['tokens']} tokens autograd holds "
    f"{mib['fixed order', 'autograd']:.1f} MiB at the peak, `tl.propagate` {mib['auto', 'recompute']:.1f} and the dense layer "
    f"{mib['dense', 'autograd']:.1f}.",
    mib["fixed order", "autograd"] > 5 * mib["auto", "recompute"],
    mib["dense", "autograd"] <= mib["auto", "recompute"],
)

# %% [markdown]
# ## The start of a layer
#
# The entries of a product of cores have the variance $\prod_k r_k \prod_k \sigma_k^2$. `randn` makes it 1; `initial` makes it
# $1/(3\,\text{in})$, that of `nn.Linear`, so that outputs have the size $1/\sqrt 3$ at any rank.

# %%
seeds, sizes = fast(8, full=64), {}
for rank in (2, 8, 64):
    g, squares = torch.Generator().manual_seed(0), []
    for _ in range(seeds):
        start = tl.TTMatrix.randn(out=(12, 16, 16), in_=(8, 8, 12), rank=rank, generator=g)
        batch = torch.randn(16, 768, generator=g)
        squares.append(float(tl.propagate(start.initial(), batch).square().mean()))
    sizes[rank] = math.sqrt(sum(squares) / seeds)
say(
    f"Root mean squares of the outputs over {seeds} seeds: "
    + ", ".join(f"{value:.3f} at rank {rank}" for rank, value in sizes.items())
    + f"; on paper {1 / math.sqrt(3):.3f}.",
    all(abs(value * math.sqrt(3) - 1) < fast(0.25, full=0.1) for value in sizes.values()),
)

# %% [markdown]
# ## The order of the rows matters
#
# Ranks belong to a weight *with its rows and columns in this order*. Shuffled rows are the same layer up to names, but not the same train.

# %%
ranks = {
    name: [
        max(tl.tt_matrix_svd(lesson.example_weight(name, s), (4, 4, 4), (4, 4, 4), rtol=0.1).ranks)
        for s in (False, True)
    ]
    for name in lesson.WEIGHTS
}
blur, ramp, digits, noise = ranks.values()
say(
    f"For an error of 10 % a blur takes rank {blur[0]}, and {blur[1]} with shuffled rows; $1 / (1 + |\\text{{row}} - \\text{{column}}|)$ "
    f"{ramp[0]} and {ramp[1]}. A trained layer takes {digits[0]} in either order, as many as noise: its hidden units have no order to lose.",
    blur[1] > 3 * blur[0],
    ramp[1] > 3 * ramp[0],
    digits[0] == digits[1] == noise[0] == noise[1],
)

# %% [markdown]
# ## Where the method loses
#
# The running example of these lessons: the 64 by 64 weight of a network that reads digits, as TT-matrices of two and of three cores,
# beside its SVD and the dense layer.

# %%
picture(lambda figure: draw_fits(figure, lesson.layer_curves()), figsize=(9, 3))

# %%
accuracy = {name: dict(points) for name, points in lesson.layer_curves()["accuracy"].items()}
error = {name: dict(points) for name, points in lesson.layer_curves()["error"].items()}
say(
    f"At every size shown the SVD has the smaller error. With 1,024 numbers it reads {accuracy['SVD'][1024]:.1%} of the digits, the TT-matrix "
    f"{accuracy['8 · 8'][1024]:.1%} and the dense layer with 4,096 {accuracy['dense'][4096]:.1%}. The error does not tell everything: with 512 "
    f"numbers the TT-matrix reads {accuracy['8 · 8'][512]:.1%}, the SVD {accuracy['SVD'][512]:.1%}.",
    all(error["SVD"][n] < error["8 · 8"][n] for n in error["SVD"]),
    accuracy["8 · 8"][1024] < accuracy["SVD"][1024] < accuracy["dense"][4096],
    accuracy["8 · 8"][512] > accuracy["SVD"][512],
)

# %% [markdown]
# ## Exercises
#
# The functions build what this lesson is about, each from the one before. A blank says nothing; a wrong answer gets its own hint.
#
# ### 1. Count (★, 3 minutes)
#
# A layer from 768 to 3072 numbers is a TT-matrix with in = (8, 8, 12), out = (12, 16, 16) and ranks (4, 4). How many numbers do its
# cores hold?

# %%
ttmatrix_storage = ...
lesson.ttmatrix_storage(ttmatrix_storage)

# %% [markdown] tags=["hints"]
# Write the shape (r_left, out, in, r_right) under each core.
#
# The ranks at the two ends are 1.

# %% tags=["solution"]
ttmatrix_storage = 1 * 12 * 8 * 4 + 4 * 16 * 8 * 4 + 4 * 16 * 12 * 1

# %% [markdown]
# ### 2. Pair the digits (★★, 10 minutes)
#
# Write `pair_modes(w, out, in_)`: the tensor of d modes of sizes $m_k n_k$ whose mode k is the pair $(o_k, i_k)$, the row digit first.
# `w` is a matrix, `out` and `in_` are tuples of d sizes.


# %%
def pair_modes(w, out, in_): ...


lesson.pair_modes(pair_modes)

# %% [markdown] tags=["hints"]
# `w.reshape(*out, *in_)` has all digits as modes, those of the rows first.
#
# `permute` with the order 0, d, 1, d + 1, ... brings each column digit behind its row digit.


# %% tags=["solution"]
def pair_modes(w, out, in_):
    d = len(out)
    order = [k + d * half for k in range(d) for half in (0, 1)]
    return w.reshape(*out, *in_).permute(order).reshape([m * n for m, n in zip(out, in_)])


# %% [markdown]
# ### 3. From a matrix to cores (★★, 10 minutes)
#
# Write `tt_matrix(w, out, in_, rank)`: the list of the cores (r_left, $m_k$, $n_k$, r_right) of a TT-matrix near w whose ranks are at most
# `rank`. You may use `tl.tt_svd`.


# %%
def tt_matrix(w, out, in_, rank): ...


lesson.tt_matrix(tt_matrix)

# %% [markdown] tags=["hints"]
# The train of `pair_modes(w, out, in_)` has cores (r_left, m n, r_right).
#
# Split the middle mode of each core in two: `core.reshape(r, m, n, q)`.


# %% tags=["solution"]
def tt_matrix(w, out, in_, rank):
    cores = tl.tt_svd(pair_modes(w, out, in_), rank).cores
    return [c.reshape(c.shape[0], m, n, c.shape[-1]) for c, m, n in zip(cores, out, in_)]


# %% [markdown]
# ### 4. One step of the walk (★★, 5 minutes)
#
# Write `walk(state, core)`: a state (left, r, n, right) meets a core (r, m, n, q), and becomes (left, m, q, right): the bond r and the column
# digit n are summed, the row digit m joins what is done, and q is the next bond.


# %%
def walk(state, core): ...


lesson.walk(walk)

# %% [markdown] tags=["hints"]
# This is one `torch.einsum`: give each index a letter.
#
# The letters r and n are on both sides of the comma, and not behind the arrow.


# %% tags=["solution"]
def walk(state, core):
    return torch.einsum("arnz,rmnq->amqz", state, core)


# %% [markdown]
# ### 5. The product (★★★, 15 minutes)
#
# Write `ttmatrix_apply(cores, x)`: $y = x w^T$ of shape (batch, out) for the TT-matrix w of these cores (r_left, out, in, r_right), without
# forming w; x is (batch, in). The check also calls it where w has 262,144 numbers and no state more than a few thousand.


# %%
def ttmatrix_apply(cores, x): ...


lesson.ttmatrix_apply(ttmatrix_apply)

# %% [markdown] tags=["hints"]
# Before each `walk` the state has the shape (batch times the row digits that are done, bond, next column digit, all later ones).
#
# The sizes of the bond and of the next digit are those of the core, and `reshape(rows, r, n, -1)` finds the rest.


# %% tags=["solution"]
def ttmatrix_apply(cores, x):
    rows, state = len(x), x
    for core in cores:
        r, m, n, q = core.shape
        state = walk(state.reshape(rows, r, n, -1), core)
        rows *= m
    return state.reshape(len(x), -1)


# %% [markdown]
# ### 6. Count the operations (★★, 10 minutes)
#
# Write `left_operations(out, in_, ranks, batch)`: the operations of your product, two for each multiplication with its addition. `ranks` are
# those between the cores.


# %%
def left_operations(out, in_, ranks, batch): ...


lesson.left_operations(left_operations)

# %% [markdown] tags=["hints"]
# The formula is above; `math.prod` of an empty tuple is 1.
#
# Add the ranks 1 at both ends: `r = (1, *ranks, 1)`.


# %% tags=["solution"]
def left_operations(out, in_, ranks, batch):
    r, total = (1, *ranks, 1), 0
    for k, (m, n) in enumerate(zip(out, in_)):
        rows, rest = batch * math.prod(out[:k]), math.prod(in_[k + 1 :])
        total += 2 * rows * r[k] * m * n * r[k + 1] * rest
    return total


# %% [markdown]
# ### 7. Predict: when is rebuilding cheaper? (★★, 5 minutes)
#
# The layer of exercise 1 with 2,048 tokens and both ranks equal to r: what is the smallest r at which the path `left` takes more
# operations than `rebuild`? `plans(w, 2048)` counts both; the picture above tells about where they cross.

# %%
ttmatrix_dearer = ...
lesson.ttmatrix_dearer(ttmatrix_dearer)

# %% [markdown] tags=["hints"]
# Rebuilding costs about as much as the dense product, 2 · 2048 · 768 · 3072 operations, and a little for the cores.
#
# Compare `left_operations((12, 16, 16), (8, 8, 12), (r, r), 2048)` with it for r = 1, 2, 3, ...

# %% tags=["solution"]
ttmatrix_dearer = next(
    r
    for r in range(1, 97)
    if left_operations((12, 16, 16), (8, 8, 12), (r, r), 2048)
    > next(
        plan.flops
        for plan in plans(tl.TTMatrix.randn(out=(12, 16, 16), in_=(8, 8, 12), rank=r), 2048)
        if plan.forward == "rebuild"
    )
)

# %% [markdown]
# ### 8. Explore (★, 5 minutes)
#
# In the explorer at the top, with the weight `1 / (1 + |row - column|)`, modes 4 · 4 · 4 and *shuffled rows*: what is the smallest
# rank with a relative error of at most 0.3?

# %%
shuffled_rank = ...
lesson.shuffled_rank(shuffled_rank)

# %% [markdown] tags=["hints"]
# The relative error is in the sentence below the picture.
#
# It falls as the rank grows; try the middle of the slider first.

# %% tags=["solution"]
w = lesson.example_weight("1 / (1 + |row - column|)", True)
shuffled_rank = next(
    r
    for r in range(1, 17)
    if (tl.tt_matrix_svd(w, (4, 4, 4), (4, 4, 4), r).to_dense() - w).norm() <= 0.3 * w.norm()
)
