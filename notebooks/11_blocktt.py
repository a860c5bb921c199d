# %% [markdown] tags=["lesson"]
# name = "block tensor trains"
# minutes = 75
# needs = ["09_kronecker", "10_ttmatrix"]
# aims = [
#     "say which numbers a structure shares, and what it costs",
#     "fit a block train and multiply with it",
#     "choose learning rates for its cores",
# ]
# take = [
#     "Structures differ in what they share: a number of a Kronecker factor enters many entries and is used many times, one of a block train is used once.",
#     "The best block train is an SVD of each slice; rank one is a Monarch matrix, and Kronecker sums and TT-matrices are block trains too.",
#     "Which structure is good depends on the matrix: where it is of low rank, the SVD holds it with far fewer numbers.",
# ]

# %% [markdown]
# # Which numbers should a weight share?
#
# A structured matrix holds few numbers and enters each of them in many places, or holds more and shares nothing. Choose a structure: in
# color are the entries that *one* stored number enters, blue for a number of the first tensor and orange for one of the second; on the
# right the singular values.

# %%
from tensorlab.course.lessons import blocktt as lesson

lesson.StructureExplorer()

# %% [markdown]
# ## The mathematics
#
# Split the rows into $(a, b)$ and the columns into $(c, d)$, each of size $\sqrt n$. Then
#
# | structure | $w_{(ab)(cd)}$ | numbers | multiply-adds of a product |
# |---|---|---|---|
# | dense | all | $n^2$ | $n^2$ |
# | low [rank](00b_vocabulary.ipynb#Rank) | $\sum_s u_{(ab)s} v_{(cd)s}$ | $2rn$ | $2rn$ |
# | Kronecker, TT-matrix | $\sum_s L_{acs} R_{sbd}$ | $2rn$ | $2rn^{3/2}$ |
# | Monarch [Dao2022] | $L_{bac} R_{cbd}$ | $2n^{3/2}$ | $2n^{3/2}$ |
# | block tensor train [Qiu2024] | $\sum_s L_{bacs} R_{csbd}$ | $2rn^{3/2}$ | $2rn^{3/2}$ |
#
# A block train is a TT-matrix whose cores are not shared along $b$ and $c$. Its [slice](00b_vocabulary.ipynb#Fiber-and-slice) with $b$ and $c$ fixed is any matrix of rank $r$: so
# $r = 1$ is a Monarch matrix, $r = \sqrt n$ is any matrix, and the best block train is an SVD of each slice. As with a dense weight, each
# number is used once in a product. In the letters of the table:

# %%
import torch

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.claims import say
from tensorlab.course.digits import draw_fits
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture


def plain_block_train(w, m, r):
    """L[b, a, c, s] and R[c, s, b, d] by an SVD of each slice; a, b, c, d < m."""
    S = w.reshape(m, m, m, m).permute(1, 2, 0, 3)  # [b, c, a, d]
    u, σ, vh = torch.linalg.svd(S)
    L = torch.einsum("bcas->bacs", u[..., :r])
    R = torch.einsum("bcs,bcsd->csbd", σ[..., :r], vh[..., :r, :])
    return L, R


def product(L, R, x):
    """y[a, b] = sum_cs L[b, a, c, s] sum_d R[c, s, b, d] x[c, d]."""
    z = torch.einsum("csbd,cd->bcs", R, x.reshape(len(R), -1))
    return torch.einsum("bacs,bcs->ab", L, z).flatten()


n, m, r = 64, 8, 2
w, x = (
    torch.randn(*s, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for s in ((n, n), (n,))
)
L, R = plain_block_train(w, m, r)
btt = tl.BlockTT.from_dense(w, r)
off = float((product(L, R, x) - btt.apply(x)).norm() / btt.apply(x).norm())
kron = lesson.structured("Kronecker", n, r)
say(
    f"The few lines and `tl.BlockTT` give the same product up to {off:.0e}. At width {n} and rank {r} the block train stores {btt.numel:,} numbers "
    f"and takes {btt.flops(1):,} FLOPs, one multiplication and one addition each; a Kronecker sum of rank {r} stores {kron.numel} and takes "
    f"{kron.flops(1):,}, as the dense matrix of {n * n:,} numbers takes {2 * n * n:,}.",
    off < 1e-12,
    btt.flops(1) == 2 * btt.numel,
    kron.flops(1) == 2 * m * kron.numel,
)

# %%
picture(lambda figure: plots.diagram(figure.subplots(), btt), figsize=(7, 2.6))

# %% [markdown]
# ## Which structure holds a matrix?
#
# Random matrices of each structure, with rank 2, approximated by block trains and by the SVD of as many numbers.

# %%
picture(lesson.draw_held, figsize=(9, 3.2))

# %%
held = lesson.held()
two, low = (
    {name: of[rival][1] for name, of in held.items()}
    for rival in ("BTT, rank 2", "SVD, as many as rank 2")
)
say(
    f"Every structured matrix is a block train of rank 2. The SVD of as many numbers loses {low['BTT']:.0%} of one, and nothing of a matrix of low "
    f"rank, for which {held['low rank']['SVD, as many as rank 2'][0]} numbers do. Of a random dense matrix they lose alike: "
    f"{two['dense']:.0%} and {low['dense']:.0%}.",
    all(error < 1e-10 for name, error in two.items() if name != "dense"),
    low["low rank"] < 1e-10,
    abs(two["dense"] - low["dense"]) < 0.05,
)

# %% [markdown]
# ## A layer of a network
#
# The running example of these lessons: the 64 by 64 weight of a network that reads digits, cut after it was trained.

# %%
picture(lambda figure: draw_fits(figure, lesson.layer_curves()), figsize=(9, 3))

# %%
reads = {name: dict(points) for name, points in lesson.layer_curves()["accuracy"].items()}
say(
    f"With 1,024 numbers the layer reads {reads['SVD'][1024]:.1%} of the digits as an SVD and {reads['BTT'][1024]:.1%} as a block train of rank 1, "
    f"the dense one {reads['dense'][4096]:.1%}. A block train loses here: a layer that was trained dense has its few large singular values, and "
    "each slice has to hold them again. It is made for weights that are trained in it from the start, as below.",
    reads["BTT"][1024] < reads["SVD"][1024] - 0.05,
    reads["SVD"][1024] > reads["dense"][4096] - 0.05,
)

# %% [markdown]
# ## Learning rates
#
# A core with few inputs bears a larger step of Adam. The multiplier of a core against a dense weight is its share
# $\text{in} / (\text{fan-in of the core}) / (\text{number of cores})$ [Qiu2024], where the fan-in is the number of inputs that one output of the
# core sums over. Below a network on the digits, its middle layer of each structure and of rank 2, trained from nothing with these rates and
# with the dense one.

# %%
names = ("dense", "low rank", "Kronecker", "Monarch", "BTT")
seeds = range(fast(2, full=4))
losses = {
    (name, right): [
        lesson.train(name, 64, right=right, steps=fast(20, full=100), seed=seed)[2]
        for seed in seeds
    ]
    for name in names
    for right in (True, False)
}
picture(lambda figure: lesson.draw_seeds(figure, losses), figsize=(7, 3))

# %%
mean = {key: sum(of) / len(of) for key, of in losses.items()}
helped = [name for name in names[1:] if mean[name, True] < mean[name, False]]
say(
    f"The rates of the cores lower the mean loss of {len(helped)} of the {len(names) - 1} structures: {', '.join(helped)}. "
    f"Low rank ends at {mean['low rank', True] / mean['dense', True]:.1f} times the loss of the dense layer: two directions are too few for ten digits.",
    len(helped) >= 2,
    fast(True, full=mean["low rank", True] > 2 * mean["dense", True]),
)

# %% [markdown]
# How does the loss fall with the cost? One run for each width, and the law $a + b\,C^{-\alpha}$ that fits best. These are small networks on small
# pictures: this is how such a law is fitted, not what it is for large networks.

# %%
widths = fast((16, 36, 64), full=(16, 36, 64, 100))
lesson.ScalingExplorer(lesson.sweep(names, widths, steps=fast(20, full=100)))

# %% [markdown]
# ## Recorded results, and where it loses
#
# `tensorlab run Qiu2024` trains wider networks and a small character model, each structure with several rates; here the least loss of each.

# %%
picture(lesson.draw_recorded, figsize=(9, 3.4))

# %%
digits, characters = lesson.recorded("digits", 1024), lesson.recorded("characters", 128)
least = lambda found, name: min(loss for (n, _), (_, loss) in found.items() if n == name)
say(
    f"On the digits the block train here, with {digits['BTT', 'core'][0]:,} numbers, has twice the loss of the dense layer ({least(digits, 'BTT'):.4f} and "
    f"{least(digits, 'dense'):.4f}), and a Kronecker sum of {digits['Kronecker', 'core'][0]:,} numbers comes down to {least(digits, 'Kronecker'):.4f}, about the same. In the "
    f"character model the block train has the least loss, {least(characters, 'BTT'):.2f} with {characters['dense', 'core'][0] / characters['BTT', 'core'][0]:.1f} times "
    f"fewer numbers than the dense layers, which have {least(characters, 'dense'):.2f}: ahead by less than a tenth. The rates of its cores did not help it there: {characters['BTT', 'core'][1]:.2f}, and "
    f"{characters['BTT', 'dense'][1]:.2f} with the dense one.",
    2 * least(digits, "dense") < least(digits, "BTT") < 3 * least(digits, "dense"),
    least(digits, "dense") - 0.002 < least(digits, "Kronecker") < least(digits, "dense"),
    least(characters, "BTT") == min(loss for _, loss in characters.values()),
    least(characters, "dense") - least(characters, "BTT") < 0.1,
    characters["BTT", "dense"][1] < characters["BTT", "core"][1],
)

# %% [markdown]
# One seed each, and in the character model two rates: differences of a few hundredths of its loss say little, nor do those of a few
# thousandths on the digits.
#
# ## Exercises
#
# Exercises 2 to 4 build a block train and its product. A blank says nothing; a wrong answer gets its own hint.
#
# ### 1. Count (★, 3 minutes)
#
# A 1024 by 1024 weight is a `BlockTT` of two cores with modes 32 by 32 and rank 3. How many numbers does it store?

# %%
btt_storage = ...
lesson.btt_storage(btt_storage)

# %% [markdown] tags=["hints"]
# L has the four indices b, a, c, s; R has c, s, b, d.
#
# Three of the four have size 32, the bond s has size 3.

# %% tags=["solution"]
btt_storage = 2 * 3 * 32**3

# %% [markdown]
# ### 2. Slices (★★, 5 minutes)
#
# Write `btt_slices(w, m)`: w is $m^2$ by $m^2$, its rows are $(a, b)$ and its columns $(c, d)$. Return the tensor with the modes b, c, a, d, whose matrices
# are the slices with b and c fixed.


# %%
def btt_slices(w, m): ...


lesson.btt_slices(btt_slices)

# %% [markdown] tags=["hints"]
# `w.reshape(m, m, m, m)` has the modes a, b, c, d.
#
# `permute` names the old places in the new order.


# %% tags=["solution"]
def btt_slices(w, m):
    return w.reshape(m, m, m, m).permute(1, 2, 0, 3)


# %% [markdown]
# ### 3. Fit (★★, 15 minutes)
#
# Write `btt_fit(w, m, rank)`: the cores `left` (b, a, c, s) and `right` (c, s, b, d) of the best block train of w. Use your `btt_slices`.


# %%
def btt_fit(w, m, rank): ...


lesson.btt_fit(btt_fit)

# %% [markdown] tags=["hints"]
# `torch.linalg.svd` of a tensor with four modes takes the SVD of each of its matrices.
#
# `u[..., :rank]` has the modes b, c, a, s, and `s[..., :rank, None] * vh[..., :rank, :]` has b, c, s, d.


# %% tags=["solution"]
def btt_fit(w, m, rank):
    u, s, vh = torch.linalg.svd(btt_slices(w, m))
    left = u[..., :rank]
    right = s[..., :rank, None] * vh[..., :rank, :]
    return left.permute(0, 2, 1, 3), right.permute(1, 2, 0, 3)


# %% [markdown]
# ### 4. Multiply (★★★, 15 minutes)
#
# Write `btt_apply(left, right, x)`: the product with a vector x, read as rows c of values d, as a vector of rows a of values b. Do not form the
# matrix, nor any tensor that has more entries than both cores together.


# %%
def btt_apply(left, right, x): ...


lesson.btt_apply(btt_apply)

# %% [markdown] tags=["hints"]
# First everything that right does: z[b, c, s] is the sum over d.
#
# Then left: the sum over c and s. `torch.einsum` writes either in one line.


# %% tags=["solution"]
def btt_apply(left, right, x):
    z = torch.einsum("csbd,cd->bcs", right, x.reshape(len(right), -1))
    return torch.einsum("bacs,bcs->ab", left, z).flatten()


# %% [markdown]
# ### 5. Predict: a Kronecker sum as a block train (★★, 5 minutes)
#
# What is the smallest rank of a block train (modes 4 by 4) that holds a sum of 3 random Kronecker products of 4 by 4 factors?

# %%
kron_as_btt = ...
lesson.kron_as_btt(kron_as_btt)

# %% [markdown] tags=["hints"]
# Fix b and c in $\sum_s A^s_{ac} B^s_{bd}$. What is left is a matrix in a and d.
#
# Each term of it is a column times a row.

# %% tags=["solution"]
w = lesson.structured("Kronecker", 16, 3, dtype=torch.float64).to_dense()
kron_as_btt = tl.BlockTT.from_dense(w, rtol=1e-10).ranks[0]

# %% [markdown]
# ### 6. Explore (★, 5 minutes)
#
# In the explorer at the top, rank 2: how many FLOPs does a product take for each number that is stored, in the structure where that is most?

# %%
most_uses = ...
lesson.most_uses(most_uses)

# %% [markdown] tags=["hints"]
# The sentence below the picture has both numbers: go through the structures.
#
# Divide the FLOPs by the numbers stored.

# %% tags=["solution"]
most_uses = max(
    w.flops(1) // w.numel for w in (lesson.structured(name, 16, 2) for name in lesson.EQUATIONS)
)
