# %% [markdown] tags=["lesson"]
# name = "Tucker"
# minutes = 60
# needs = ["00b_vocabulary", "01_lowrank"]
# aims = [
#     "build the higher-order SVD from a mode product and a basis",
#     "read off a core what its corner is worth",
#     "say when the core costs more than it saves",
# ]
# take = [
#     "A Tucker tensor is a small core and one basis for each mode; the core says how the directions combine.",
#     "After a higher-order SVD the energy sits in one corner of the core; cutting it is at most the root of d worse than the best.",
#     "The core has as many entries as the product of all ranks: Tucker is for few modes.",
# ]

# %% [markdown]
# # What does a core do?
#
# It says how the directions of the [modes](00b_vocabulary.ipynb#Mode) combine. After a higher-order SVD nearly all of it sits in one corner. Press *play*: the corner
# lights up, and the photograph appears.

# %%
from tensorlab.course.lessons import tucker as lesson

lesson.CornerPlayer()

# %% [markdown]
# ## The mathematics
#
# $$ x = g \times_0 U_0 \times_1 U_1 \cdots \times_{d-1} U_{d-1}, \qquad x[i, j, k] = \sum_{a, b, c} g[a, b, c]\, U_0[i, a]\, U_1[j, b]\, U_2[k, c]. $$
#
# The [*mode product*](00b_vocabulary.ipynb#Mode-product) $\times_k$ multiplies every vector along mode $k$ by a matrix. The [*unfolding*](00b_vocabulary.ipynb#Unfolding) $x_{(k)}$ has mode $k$ as its rows and all
# others as its columns. The **HOSVD** takes for $U_k$ the leading left singular vectors of $x_{(k)}$, and $g = x \times_0 U_0^{\mathsf H} \times_1
# U_1^{\mathsf H} \cdots$ [DeLathauwer2000]. What is thrown away in mode $k$ costs at most the tail $\tau_k$ of its singular values, so
#
# $$ \|x - y\|^2 \le \sum_k \tau_k^2 \le d\, \|x - y_{\text{best}}\|^2 . $$
#
# Give each mode $\text{rtol}\,\|x\|/\sqrt d$ and the whole keeps `rtol`. In the letters of the formula:

# %%
import torch

import tensorlab as tl
from tensorlab import datasets, plots
from tensorlab.course.claims import say
from tensorlab.course.digits import draw_fits
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture
from tensorlab.multilinear import unfold


def plain_hosvd(x, ranks):
    """The core and the factors U_k."""
    U = []
    for k, r in enumerate(ranks):
        u, s, vh = torch.linalg.svd(unfold(x, k), full_matrices=False)
        U.append(u[:, :r])
    g = torch.einsum("ijk,ia,jb,kc->abc", x, *(u.conj() for u in U))
    return g, U


x = datasets.photo("flower")[::4, ::4]
g, U = plain_hosvd(x, (16, 16, 3))
plain = tl.Tucker(g, tuple(U))
theirs = tl.hosvd(x, (16, 16, 3))
errors = [float((y.to_dense() - x).norm() / x.norm()) for y in (plain, theirs)]
say(
    f"With ranks (16, 16, 3) the ten lines have an error of {errors[0]:.6f} on the small photograph, `tl.hosvd` of {errors[1]:.6f}.",
    abs(errors[0] - errors[1]) < 1e-9,
)

# %% [markdown]
# ## Three algorithms on one tensor
#
# The **ST-HOSVD** cuts one mode after another, each from what the last cut left: the same bound, less work [Vannieuwenhoven2012].
# **HOOI** improves the factors in turn until nothing moves [DeLathauwer2000b].

# %%
found = lesson.noisy_errors(fast(30, full=120))
over = {name: error / found["HOOI"] for name, error in found.items()}
say(
    f"A tensor of rank 12 with noise, cut to rank 6: HOOI has an error of {found['HOOI']:.4f}, the HOSVD {over['HOSVD']:.4f} times that, the "
    f"ST-HOSVD {over['ST-HOSVD']:.4f} times. The bound allows {3**0.5:.3f}: the polish gains little.",
    all(1 - 1e-9 <= ratio < 1.1 for ratio in over.values()),
)

# %% [markdown]
# ## A photograph
#
# With [ranks](00b_vocabulary.ipynb#Rank) $(r, r, 3)$, against the SVD of the colors side by side:


# %%
def photograph(figure):
    ax = figure.subplots()
    seen = plots.error_against_storage(ax, lesson.photo_curves())
    dense = datasets.photo("flower")[::2, ::2].numel()
    ax.axvline(dense, color="0.4", lw=1)
    ax.annotate(
        "dense", (dense, ax.get_ylim()[1]), (-4, -10), textcoords="offset points", ha="right"
    )
    return seen


picture(photograph, figsize=(7, 3))

# %%
curves = lesson.photo_curves()
ours, svd = curves["Tucker"][2], curves["SVD of the colors side by side"][2]
say(
    f"Tucker with ranks (20, 20, 3) has an error of {ours[1]:.3f} with {ours[0]:,} numbers, the SVD of rank 10 has {svd[1]:.3f} with {svd[0]:,}. "
    "The three colors are nearly the same picture, and Tucker stores one basis of columns for all of them.",
    ours[0] < 1.02 * svd[0],
    ours[1] < 0.9 * svd[1],
)

# %% [markdown]
# ## A layer of a network
#
# The running example of these lessons: the 64 by 64 weight of a network that reads digits, here as a tensor of 8 x 8 x 8 x 8. On the
# left its error, on the right what matters, the share of test digits that the network still reads.

# %%
picture(lambda figure: draw_fits(figure, lesson.layer_curves()), figsize=(9, 3))

# %%
right = {name: dict(points) for name, points in lesson.layer_curves()["accuracy"].items()}
say(
    f"Tucker reads {right['Tucker'][785]:.1%} of the digits with 785 numbers, the SVD {right['SVD'][768]:.1%} with 768; with 1,488 and 1,536 "
    f"it is {right['Tucker'][1488]:.1%} against {right['SVD'][1536]:.1%}, and the dense layer reads {right['dense'][4096]:.1%}. Tucker wins where "
    "very few numbers are left, the SVD where nothing may be lost.",
    right["Tucker"][785] > right["SVD"][768],
    right["Tucker"][1488] < right["SVD"][1536],
    right["SVD"][1536] > right["dense"][4096] - 0.01,
)

# %% [markdown]
# ## Where it loses
#
# The core has an entry for each combination of directions. With more modes it is all that counts; a train (lesson 04) has none.

# %%
modes = range(3, 11)
stored = {
    "Tucker": [(d, tl.Tucker.randn((4,) * d, 3).numel) for d in modes],
    "train": [(d, tl.TT.randn((4,) * d, 3).numel) for d in modes],
    "dense": [(d, 4**d) for d in modes],
}


def by_modes(figure):
    ax = figure.subplots()
    for k, (name, points) in enumerate(stored.items()):
        ax.semilogy(*zip(*points), label=name, **plots.style(k))
    ax.set(xlabel="number of modes", ylabel="stored numbers")
    ax.legend()
    return "Stored numbers at rank 3 and modes of size 4, for 3 to 10 modes."


picture(by_modes, figsize=(7, 3))

# %%
last = {name: points[-1][1] for name, points in stored.items()}
say(
    f"Ten modes of size 4 at rank 3: Tucker stores {last['Tucker']:,} numbers, nearly all in the core, a train {last['train']:,}, the tensor "
    f"{last['dense']:,}.",
    3**10 > 0.99 * last["Tucker"],
    last["train"] < 0.01 * last["Tucker"],
)

# %% [markdown]
# ## Exercises
#
# The second to the fourth build the higher-order SVD. A blank says nothing; a wrong answer gets its own hint.
#
# ### 1. Predict (★, 3 minutes)
#
# A tensor of shape (10, 20, 30) has Tucker ranks (3, 4, 5). How many numbers do its core and factors hold?

# %%
tucker_storage = ...
lesson.tucker_storage(tucker_storage)

# %% [markdown] tags=["hints"]
# The core has the ranks as its shape.
#
# The factor of a mode has its size times its rank.

# %% tags=["solution"]
tucker_storage = 3 * 4 * 5 + 10 * 3 + 20 * 4 + 30 * 5

# %% [markdown]
# ### 2. Mode product (★★, 5 minutes)
#
# Write `mode_product(x, matrix, mode)`: multiply mode `mode` of a 3-way tensor by a matrix of shape (m, n_mode), so that the mode has size m
# afterwards and stays where it was.


# %%
def mode_product(x, matrix, mode): ...


lesson.mode_product(mode_product)

# %% [markdown] tags=["hints"]
# `torch.tensordot(matrix, x, dims=([1], [mode]))` sums over the two indices that meet.
#
# The new mode then comes first: `movedim` puts it in its place.


# %% tags=["solution"]
def mode_product(x, matrix, mode):
    return torch.tensordot(matrix, x, dims=([1], [mode])).movedim(0, mode)


# %% [markdown]
# ### 3. A basis (★★, 5 minutes)
#
# Write `basis(x, mode, r)`: r orthonormal columns (n_mode, r), the leading left singular vectors of the unfolding of that mode.


# %%
def basis(x, mode, r): ...


lesson.basis(basis)

# %% [markdown] tags=["hints"]
# The unfolding has the mode as rows: move it to the front, then flatten the rest.
#
# `x.movedim(mode, 0).flatten(1)`, then `torch.linalg.svd`.


# %% tags=["solution"]
def basis(x, mode, r):
    u, s, vh = torch.linalg.svd(x.movedim(mode, 0).flatten(1), full_matrices=False)
    return u[:, :r]


# %% [markdown]
# ### 4. The higher-order SVD (★★★, 15 minutes)
#
# Write `higher_svd(x, ranks)`: the core, with the shape `ranks`, and the list of factors. Each factor is the basis of an unfolding of x itself
# (not of what an earlier cut has left).


# %%
def higher_svd(x, ranks): ...


lesson.higher_svd(higher_svd)

# %% [markdown] tags=["hints"]
# One `basis` for each mode.
#
# The core is x multiplied along each mode by the transpose of its basis.


# %% tags=["solution"]
def higher_svd(x, ranks):
    factors = [basis(x, mode, r) for mode, r in enumerate(ranks)]
    core = x
    for mode, u in enumerate(factors):
        core = mode_product(core, u.T, mode)
    return core, factors


# %% [markdown]
# ### 5. Explore (★, 5 minutes)
#
# In the explorer at the top: what is the smallest size of the corner whose relative error is at most 10 %?

# %%
photo_tucker_rank = ...
lesson.photo_tucker_rank(photo_tucker_rank)

# %% [markdown] tags=["hints"]
# Type a number into the box; the sentence below the picture says the error.
#
# Halve the interval: the error falls with the size.

# %% tags=["solution"]
photo_tucker_rank = next(r for r, error in enumerate(lesson.corner_errors(), 1) if error <= 0.1)
