# %% [markdown] tags=["lesson"]
# name = "tensor train"
# minutes = 75
# needs = ["00b_vocabulary", "01_lowrank", "03_tucker"]
# aims = [
#     "build TT-SVD from three small functions",
#     "predict what a train stores, and what it may lose",
#     "say when a train is the wrong format",
# ]
# take = [
#     "A train stores about d n r² numbers where the tensor has n^d: it is linear in the number of modes, as long as the ranks stay small.",
#     "TT-SVD cuts the d - 1 unfoldings one after another; the cuts are orthogonal, so their errors add in squares.",
#     "Ranks belong to an order of the modes: put side by side what belongs together.",
# ]

# %% [markdown]
# # How can sixteen million numbers be a few hundred?
#
# When they are the entries of a tensor train with small [ranks](00b_vocabulary.ipynb#Rank). The boxes are its cores, to scale, with the ranks between them; on the
# right are the singular values that decide the ranks, and the line below which `rtol` cuts.

# %%
from tensorlab.course.lessons import tt as lesson

lesson.TrainExplorer()

# %% [markdown]
# ## The mathematics
#
# A tensor train [Oseledets2011] writes every entry as a product of matrices, one for each index:
#
# $$ x[i_0, \dots, i_{d-1}] = G_0[i_0]\, G_1[i_1] \cdots G_{d-1}[i_{d-1}], \qquad G_k[i] \in \mathbb{C}^{r_k \times r_{k+1}},\; r_0 = r_d = 1 . $$
#
# It stores $\sum_k r_k n_k r_{k+1}$ numbers: linear in $d$, where the tensor has $n^d$. The smallest possible $r_k$ is the rank of the
# [unfolding](00b_vocabulary.ipynb#Unfolding) that has the first $k$ indices as rows and all others as columns.
#
# **TT-SVD** cuts these unfoldings one after another. Press *step*: a truncated SVD separates the first [mode](00b_vocabulary.ipynb#Mode), whose side stays as a core;
# the rest, which has a new index of size $r_1$, is unfolded and cut again.

# %%
lesson.CutPlayer()

# %% [markdown]
# Each cut is orthogonal to the others, so their errors add in squares. With $\delta = \text{rtol}\,\|x\|/\sqrt{d-1}$ for each of the $d - 1$
# cuts the whole keeps `rtol`. And since no train of these ranks can beat the largest error of a single cut,
#
# $$ \|x - y\| \le \sqrt{d-1}\; \|x - y_{\text{best}}\| : $$
#
# TT-SVD is *quasi-optimal*. In the letters of the formula it takes ten lines:

# %%
import math

import torch

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.claims import say
from tensorlab.course.digits import draw_fits
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture


def plain_tt_svd(x, ranks):
    """The cores G_k by truncated SVDs, for given ranks."""
    G, rest, r = [], x, 1
    for n, q in zip(x.shape, ranks):
        u, s, vh = torch.linalg.svd(rest.reshape(r * n, -1), full_matrices=False)
        G.append(u[:, :q].reshape(r, n, q))
        rest, r = s[:q, None] * vh[:q], q
    return [*G, rest.reshape(r, -1, 1)]


x = lesson.functions("1 / (1 + sum)", 5, 6)
plain = tl.TT(tuple(plain_tt_svd(x, (3, 3, 3, 3)))).to_dense()
error, theirs = (float((y - x).norm()) for y in (plain, tl.tt_svd(x, 3).to_dense()))
floor = max(float(s[3:].norm()) for s in plots.unfolding_spectra(x).values())
say(
    f"With ranks 3 for a tensor of {x.ndim} modes the ten lines have the error {error:.2e} and `tl.tt_svd`, which takes modes off both "
    f"ends, {theirs:.2e}: {error / floor:.2f} and {theirs / floor:.2f} times the largest tail of a single cut, which no train of these ranks can "
    f"beat. The theorem allows 2.",
    math.sqrt(x.ndim - 1) == 2,
    1 <= error / floor < 2,
    1 <= theirs / floor < 2,
)

# %% [markdown]
# ## Ranks that are known on paper
#
# $\sin(a + b) = \sin a \cos b + \cos a \sin b$: two terms at every cut, whatever the number of variables. A sum of coordinates has rank
# 2 as well, its exponential rank 1.

# %%
i = torch.arange(5, dtype=torch.float64)
total = i[:, None, None, None] + i[:, None, None] + i[:, None] + i
ranks = {
    name: tl.tt_svd(x, rtol=0.0).ranks
    for name, x in {"sum": total, "sin": total.sin(), "exp": total.exp()}.items()
}
say(
    f"Found: {ranks['sum']} for the sum, {ranks['sin']} for its sine, {ranks['exp']} for its exponential.",
    ranks == {"sum": (2, 2, 2), "sin": (2, 2, 2), "exp": (1, 1, 1)},
)

# %% [markdown]
# ## Sixteen million numbers
#
# Take $1 / (1 + a + b)$ on a fine grid, and write the two coordinates in binary: a tensor whose modes all have size 2 (a *quantized*
# train). The rivals get the same numbers as a matrix: the dense one, and its SVD, whose rank is small too but which must store
# its long columns.

# %%
d = fast(18, full=24)
side = 2 ** (d // 2)
grid = torch.arange(side, dtype=torch.float64) / side
x = (1 / (1 + grid[:, None] + grid)).reshape((2,) * d)
tt = tl.tt_svd(x, rtol=1e-6)
svd = tl.LowRank.from_dense(x.reshape(side, side), rtol=1e-6)
error = float((tt.to_dense() - x).norm() / x.norm())
say(
    f"$2^{{{d}}}$ = {x.numel():,} entries become {tt.numel} numbers with ranks up to {max(tt.ranks)} and a relative error of {error:.1e}. "
    f"The SVD to the same tolerance stores {svd.numel:,}: its rank is only {svd.ranks[0]}, but its vectors are long.",
    200 < tt.numel < 600,
    max(tt.ranks) <= 4,
    error <= 1e-6,
    svd.numel > 5 * tt.numel,
    svd.ranks[0] <= 4,
)

# %%
curves = {"train": [], "SVD": []}
for rtol in (1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8):
    for name, y in (
        ("train", tl.tt_round(tl.tt_svd(x, rtol=1e-9), rtol=rtol)),
        ("SVD", tl.LowRank.from_dense(x.reshape(side, side), rtol=rtol)),
    ):
        off = float((y.to_dense().reshape(x.shape) - x).norm() / x.norm())
        curves[name].append((y.numel, off))


def against_size(figure):
    ax = figure.subplots()
    seen = plots.error_against_storage(ax, curves)
    ax.axvline(x.numel(), color="0.4", lw=1)
    ax.annotate("dense", (x.numel(), 1e-4), (-4, 0), textcoords="offset points", ha="right")
    return seen


picture(against_size, figsize=(7, 3))

# %% [markdown]
# The tensor of $2^{24}$ entries fits in memory, and its SVDs would take minutes. `tl.tt_svd` never factorizes anything of that size: it
# takes small modes off both ends, several at once, and finds the leading basis of each slab from its small Gram matrix
# [RohrigZollner2022].
#
# ## Rounding
#
# Sums and products of trains have larger ranks than they need. `tl.tt_round` finds the smallest ones for a tolerance, without ever
# forming the tensor: it makes all cores but one orthogonal, and cuts on the way back.

# %%
total = tt + 2 * tt
rounded = tl.tt_round(total, rtol=1e-9)
off = float((rounded - 3 * tt).norm() / tt.norm())
say(
    f"The train has ranks up to {max(tt.ranks)}, `tt + 2 * tt` up to {max(total.ranks)}, and rounding brings those of the train "
    f"back: {max(rounded.ranks)}. It is off $3x$ by {off:.0e} of $\\|x\\|$.",
    max(total.ranks) == 2 * max(tt.ranks),
    rounded.ranks == tt.ranks,
    off < 1e-8,
)

# %% [markdown]
# ## A layer of a network
#
# The running example of these lessons: the 64 by 64 weight of a network that reads digits, here as a tensor of 8 x 8 x 8 x 8. On the left
# its error, on the right what matters, the share of test digits that the network still reads.

# %%
picture(lambda figure: draw_fits(figure, lesson.layer_curves()), figsize=(9, 3))

# %%
accuracy = {name: dict(points) for name, points in lesson.layer_curves()["accuracy"].items()}
say(
    f"The dense layer reads {accuracy['dense'][4096]:.1%}, its SVD with 1,024 numbers {accuracy['SVD'][1024]:.1%}, and the train with "
    f"1,152 numbers {accuracy['train'][1152]:.1%}: there a train is no better than the SVD. With very few numbers it reads more, "
    f"{accuracy['train'][96]:.0%} with 96 where the SVD reads {accuracy['SVD'][128]:.0%} with 128, but neither is of use.",
    accuracy["train"][1152] <= accuracy["SVD"][1024],
    accuracy["SVD"][1024] > accuracy["dense"][4096] - 0.04,
    accuracy["SVD"][128] < accuracy["train"][96] < 0.5,
)

# %% [markdown]
# ## When a train does not help
#
# The hidden units of a layer have no order, so its rows and columns have no digits worth splitting. Random numbers have full ranks, and
# their train stores more than they do:

# %%
noise = lesson.functions("random", 4, 6)
full = tl.tt_svd(noise, rtol=1e-2)
say(
    f"A random tensor of {noise.numel():,} entries takes {full.numel:,} numbers as a train with an error of 1 %.",
    full.numel > noise.numel(),
)

# %% [markdown]
# ## Exercises
#
# The first six build what this lesson is about, each from the one before. A blank says nothing; a wrong answer gets its own hint.
#
# ### 1. Count (★, 3 minutes)
#
# A train for the shape (4, 5, 6, 7) has the ranks (2, 3, 2). How many numbers do its cores hold?

# %%
tt_storage = ...
lesson.tt_storage(tt_storage)

# %% [markdown] tags=["hints"]
# Write the shape (r_left, n, r_right) under each core.
#
# The ranks at the two ends are 1.

# %% tags=["solution"]
tt_storage = 1 * 4 * 2 + 2 * 5 * 3 + 3 * 6 * 2 + 2 * 7 * 1

# %% [markdown]
# ### 2. Cut a matrix (★★, 10 minutes)
#
# Write `cut(a, delta)`: of all $u\,\text{rest}$ with orthonormal columns of $u$ (m, r) and $\|a - u\,\text{rest}\| \le \delta$ the one with
# the fewest columns, at least one. It returns `u` and `rest` (r, n).


# %%
def cut(a, delta): ...


lesson.cut(cut)

# %% [markdown] tags=["hints"]
# `torch.linalg.svd(a, full_matrices=False)` gives u, s and vh; the error of keeping r columns is the norm of `s[r:]`.
#
# All these norms at once: `s.square().flip(0).cumsum(0).flip(0).sqrt()`.


# %% tags=["solution"]
def cut(a, delta):
    u, s, vh = torch.linalg.svd(a, full_matrices=False)
    tails = s.square().flip(0).cumsum(0).flip(0).sqrt()
    r = max(1, int((tails > delta).sum()))
    return u[:, :r], s[:r, None] * vh[:r]


# %% [markdown]
# ### 3. Take a core off (★★, 10 minutes)
#
# Write `next_core(rest, n, delta)`: `rest` is a matrix whose rows are the rank on the left and whose columns are all modes still to come,
# the first of size n. Cut that mode off, with an error of at most delta, and return the core (r_left, n, r_right) and the new rest.


# %%
def next_core(rest, n, delta): ...


lesson.next_core(next_core)

# %% [markdown] tags=["hints"]
# Move the mode among the rows first: `rest.reshape(r * n, -1)`.
#
# What `cut` returns as u has the shape (r n, q): give it three modes.


# %% tags=["solution"]
def next_core(rest, n, delta):
    r = rest.shape[0]
    u, rest = cut(rest.reshape(r * n, -1), delta)
    return u.reshape(r, n, -1), rest


# %% [markdown]
# ### 4. TT-SVD (★★★, 15 minutes)
#
# Write `train(x, rtol)`: the list of the d cores of a train whose relative error is at most rtol. Share the error evenly among the cuts.


# %%
def train(x, rtol): ...


lesson.train(train)

# %% [markdown] tags=["hints"]
# Begin with `x.reshape(1, -1)`, a rest with rank 1 on its left. The last mode needs no cut: what remains is its core.
#
# There are d - 1 cuts, and their errors add in squares.


# %% tags=["solution"]
def train(x, rtol):
    delta = rtol * x.norm() / (x.ndim - 1) ** 0.5
    cores, rest = [], x.reshape(1, -1)
    for n in x.shape[:-1]:
        core, rest = next_core(rest, n, delta)
        cores.append(core)
    return [*cores, rest[:, :, None]]


# %% [markdown]
# ### 5. Read one entry (★★, 5 minutes)
#
# Write `tt_entry(cores, index)`: one entry of a train, without forming the tensor. `cores` is a tuple of tensors (r_left, n, r_right),
# `index` a tuple of integers. The check also calls it with modes of ten million.


# %%
def tt_entry(cores, index): ...


lesson.tt_entry(tt_entry)

# %% [markdown] tags=["hints"]
# `core[:, i, :]` is a matrix.
#
# Multiply these matrices from the left; what remains is 1 by 1.


# %% tags=["solution"]
def tt_entry(cores, index):
    row = cores[0][:, index[0]]
    for core, i in zip(cores[1:], index[1:]):
        row = row @ core[:, i]
    return row[0, 0]


# %% [markdown]
# ### 6. Predict: the order of the modes (★★, 5 minutes)
#
# The tensor $x[a, b, c, d] = f[a, c]\, g[b, d]$ has generic $f$ and $g$ of shape (4, 4). In which order of its modes does the train of
# `x.permute(order)` store the fewest numbers? Answer with a tuple such as `(3, 2, 1, 0)`.

# %%
mode_order = ...
lesson.mode_order(mode_order)

# %% [markdown] tags=["hints"]
# A rank measures what crosses a cut. Which modes depend on each other?
#
# With a and c side by side, nothing crosses the cut after them.

# %% tags=["solution"]
mode_order = (0, 2, 1, 3)

# %% [markdown]
# ### 7. Explore (★, 5 minutes)
#
# In the explorer at the top, with `1 / (1 + sum)` and 4 modes of size 6: what is the largest number of digits at which the train
# stores less than a quarter of the tensor's numbers?

# %%
most_digits = ...
lesson.most_digits(most_digits)

# %% [markdown] tags=["hints"]
# The tensor has 1296 numbers.
#
# The sentence below the picture says what the train stores.

# %% tags=["solution"]
most_digits = max(
    digits
    for digits in range(15)
    if tl.tt_svd(lesson.functions("1 / (1 + sum)", 4, 6), rtol=10.0**-digits).numel < 1296 / 4
)
