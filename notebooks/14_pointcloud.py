# %% [markdown]
# # Why should the order not matter?
#
# Because a table of vectors is a set: whoever asks for the vector of a word is content with a list of which row it became. Here the rows of
# a small train, crosses, become a cloud of points, circles, in whichever order they like. Press *play*.

# %%
from tensorlab.course.lab import fast
from tensorlab.course.lessons import pointcloud as lesson

lesson.CloudPlayer()

# %% [markdown]
# ## The mathematics
#
# $N = n_1 \cdots n_d$ points of $\mathbb{R}^D$ as the rows of a train of shape $(n_1, \dots, n_d, D)$. Two ways to forget their order.
#
# *Losses that do not see it.* The sliced Wasserstein distance [Bonneel2015] sorts the projections on many directions $u$, the Chamfer
# distance [Fan2017] looks for nearest neighbors:
#
# $$ D\,\mathbb{E}_u\, W_2^2(Xu, Yu), \qquad \frac1n \sum_i \min_j |x_i - y_j|^2 + \frac1m \sum_j \min_i |x_i - y_j|^2 . $$
#
# *A permutation sought with the train.* The talk's $\mathrm{TT} \approx P A$: for a fixed order the best train is found by TT-SVD or least squares,
# for a fixed train the best order is an assignment [Kuhn1955]. Each step can only lower $\|\mathrm{TT} - PA\|_F$.
#
# Since prefixes of the index stand for sub-clouds, a train whose prefixes are clusters can be *searched*: keep the best few prefixes, one index
# after another.

# %%
import inspect

import torch
from IPython.display import Code

import tensorlab as tl
from tensorlab.methods import pointcloud

seeded = lambda: torch.Generator().manual_seed(0)

# %% [markdown]
# ## What each loss sees
#
# Trained with one loss or both, measured with both, in units of the points' variance. The sliced distance forgives points between the parts
# of the cloud, the neighbors forgive a crowd; from a random start the neighbors alone may leave whole parts to a few rows.

# %%
steps = fast(12, full=300)
for name in fast(lesson.CLOUDS[:1], full=lesson.CLOUDS):
    x = lesson.cloud(name, 256)
    for loss, (w, c) in lesson.LOSSES.items():
        fit = tl.tt_cloud(
            x,
            lesson.SHAPE,
            4,
            wasserstein=w,
            neighbors=c,
            hierarchy=0.0,
            steps=steps,
            init="random",
            generator=seeded(),
        )
        sliced, near = lesson.distances(x, pointcloud.rows(fit.value))
        print(f"{name:10} trained with {loss:18}: sliced {sliced:.4f}, neighbors {near:.4f}")

# %% [markdown]
# ## At equal numbers
#
# A train against k-means and a coreset that store as many numbers, each center with its count. A train from a cluster order:

# %%
n, shape = fast((256, (4, 8, 8)), full=(2048, (8, 16, 16)))
for name in fast(lesson.CLOUDS[:1], full=lesson.CLOUDS):
    x = lesson.cloud(name, n)
    fit = tl.tt_cloud(x, shape, 4, hierarchy=0.0, steps=steps, batch=512, generator=seeded())
    for rival, (numbers, y) in lesson.rivals(x, fit.value).items():
        sliced, near = lesson.distances(x, y)
        print(
            f"{name:10} {rival:8} {numbers:4} of {x.numel()} numbers: sliced {sliced:.4f}, neighbors {near:.4f}"
        )

# %% [markdown]
# ## Search in a train
#
# `tt_nearest` walks down the indices. How often it finds the true nearest row, for widths of the beam, of a train fitted with and without
# the term that keeps prefixes clusters:

# %%
x = lesson.cloud("spiral", 256)
for hierarchy in (0.0, 1.0):
    fit = tl.tt_cloud(
        x, lesson.SHAPE, 4, hierarchy=hierarchy, steps=steps, init="random", generator=seeded()
    )
    y = pointcloud.rows(fit.value)
    best = (x - y[pointcloud.nearest(x, y)]).square().sum(1)
    found = {
        beam: float((tl.tt_nearest(fit.value, x, beam)[1] <= best * (1 + 1e-9)).double().mean())
        for beam in (1, 2, 4, 8, 32)
    }
    print(
        f"hierarchy {hierarchy}: "
        + ", ".join(f"beam {beam} {share:.2f}" for beam, share in found.items())
    )

# %% [markdown]
# ## The permutation
#
# Word vectors of lesson 13. Only the cuts between digits of the row can gain: the last one, all rows against the columns, has the same
# singular values in any order.

# %%
lesson.PermutationExplorer()

# %%
Code(inspect.getsource(pointcloud.tt_permute), language="python")

# %% [markdown]
# The same at a larger size, ranks and error before and after, beside the best low-rank table of as many numbers:

# %%
from tensorlab.course.lessons import embedding

n, shape = fast((256, (4, 8, 8)), full=(1024, (8, 8, 16)))
tables = {"words of lesson 13": embedding.vocabulary().table[:n]}
if (real := embedding.encoder_vocabulary(n)) is not None and fast(False, full=True):
    tables["a trained sentence encoder"] = real.table
for name, x in tables.items():
    s = torch.linalg.svdvals(x)
    rank = 8
    fit = tl.tt_permute(
        x, shape, rank, max_iter=fast(2, full=8), order=torch.arange(n), generator=seeded()
    )
    clustered = tl.tt_permute(x, shape, rank, max_iter=fast(2, full=8), generator=seeded())
    floor = float(s[fit.value.tt.numel // sum(x.shape) :].norm() / s.norm())
    print(
        f"{name}, {x.numel() / fit.value.tt.numel:.0f} times fewer numbers: given order {fit.history[0]:.3f} -> {fit.history[-1]:.3f}, "
        f"from clusters {clustered.history[0]:.3f} -> {clustered.history[-1]:.3f}, low rank {floor:.3f}"
    )
    for rtol in (0.8, 0.5):
        ranks = [
            tl.tt_svd(x[order].reshape(*shape, -1), rtol=rtol).ranks
            for order in (torch.arange(n), clustered.value.order)
        ]
        print(
            f"   ranks for an error of {rtol}: {ranks[0]} in the given order, {ranks[1]} in the one found"
        )

# %% [markdown]
# ## Where it loses
#
# *High dimension.* The vectors above have no clusters to speak of: order lowers the error at a strong compression, where all of them are bad,
# and hardly changes the ranks that a small error needs; a permutation is also $N \log_2 N$ bits that somebody has to keep. *Losses without an
# order* say even less there: with points far from all others, a cloud can be near in every projection and near to none of them.

# %%
x = embedding.vocabulary().table[:256]
fit = tl.tt_cloud(x, lesson.WORD_SHAPE, 4, steps=fast(10, full=200), generator=seeded())
size = (x - x.mean(0)).square().sum(1).mean()
for name, (numbers, y) in lesson.rivals(x, fit.value).items():
    sliced = tl.sliced_wasserstein(x, y, 256, generator=seeded()) / size
    print(
        f"words, {name:8} {numbers:5} of {x.numel()} numbers: sliced {float(sliced):.3f}, neighbors {float(tl.chamfer(x, y) / size):.3f}, "
        f"of the points alone {float(pointcloud.distortion(x, y) / size):.3f}"
    )

# %% [markdown]
# ## Exercises
#
# **Predict.**

# %%
print(lesson.wasserstein_line.question)
lesson.wasserstein_line(...)

# %% [markdown]
# **Implement.**


# %%
def chamfer(x, y): ...


print(lesson.chamfer_distance.question)
lesson.chamfer_distance(chamfer)

# %% [markdown]
# **Explore.**

# %%
print(lesson.unchanged_cuts.question)
lesson.unchanged_cuts(...)
