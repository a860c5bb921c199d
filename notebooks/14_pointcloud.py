# %% [markdown] tags=["lesson"]
# name = "point clouds"
# minutes = 75
# needs = ["04_tt", "13_embedding"]
# aims = [
#     "write two losses that do not see the order of points",
#     "find an order together with a train",
#     "compare a train of points with k-means at equal numbers",
# ]
# take = [
#     "A table of vectors is a set: its rows may be in any order, if somebody keeps the list.",
#     "Losses without an order see different faults: sliced projections forgive points between the parts, nearest neighbors forgive a crowd.",
#     "A good order comes cheap from a clustering; k-means with as many numbers is a strong rival, and in high dimension order gains little.",
# ]

# %% [markdown]
# # Why should the order not matter?
#
# Because a table of vectors is a set: whoever asks for the vector of a word is content with a list of which row it became. Here the rows of
# a small train, crosses, become a cloud of points, circles, in whichever order they like. Press *play*.

# %%
from tensorlab.course.lessons import pointcloud as lesson

lesson.CloudPlayer()

# %% [markdown]
# ## The mathematics
#
# $N = n_1 \cdots n_d$ points of $\mathbb{R}^D$ as the rows of a [train](04_tt.ipynb) of shape $(n_1, \dots, n_d, D)$. Two ways to forget their order.
#
# *Losses that do not see it.* The sliced Wasserstein distance [Bonneel2015] sorts the projections on many directions $u$, the Chamfer
# distance [Fan2017], *nearest neighbors* in the pictures, looks for those of each point:
#
# $$ D\,\mathbb{E}_u\, W_2^2(Xu, Yu), \qquad \frac1n \sum_i \min_j |x_i - y_j|^2 + \frac1m \sum_j \min_i |x_i - y_j|^2 . $$
#
# *A permutation sought with the train*, $\mathrm{TT} \approx P A$: for a fixed order a good train is found by TT-SVD,
# for a fixed train the best order is an assignment [Kuhn1955]. In ten lines:

# %%
import torch

import tensorlab as tl
from tensorlab.course.claims import say
from tensorlab.course.lab import fast
from tensorlab.course.lessons import embedding
from tensorlab.course.widgets import picture
from tensorlab.methods import pointcloud


def plain_permute(A, shape, r, rounds):
    """The order of rows and the errors |TT - PA| / |A| of alternating TT-SVDs and assignments."""
    order, errors = torch.arange(len(A)), []
    for _ in range(rounds):
        tt = tl.tt_svd(A[order].reshape(*shape, -1), r)
        points = pointcloud.rows(tt)
        errors.append(float((points - A[order]).norm() / A.norm()))
        order = pointcloud.assignment(torch.cdist(points, A).square())
    return order, errors


seeded = lambda: torch.Generator().manual_seed(0)
words = embedding.vocabulary().table[:256]
order, errors = plain_permute(words, lesson.WORD_SHAPE, 8, 5)
theirs = lesson.reordered("given order", 8, 4).history[-1]
floor = lesson.low_rank_error(words, tl.tt_svd(words.reshape(*lesson.WORD_SHAPE, -1), 8).numel)
say(
    f"The {len(words)} most frequent words of lesson 13, as a train of rank 8: in {len(errors) - 1} rounds the ten lines bring the error from {errors[0]:.3f} "
    f"to {errors[-1]:.3f}, and `tl.tt_permute`, which improves the train as well, to {theirs:.3f}. The SVD of as many numbers has {floor:.3f}.",
    errors[-1] < errors[0] - 0.02,
    theirs < errors[0] - 0.02,
    abs(theirs - errors[-1]) < 0.01,
)

# %% [markdown]
# ## What each loss sees
#
# Trained from a random start with one loss or both, measured with both, in units of the points' variance. The line is a train that nobody trained: TT-SVD of
# the points in an order of clusters.

# %%
steps, clouds = fast(12, full=150), fast(lesson.CLOUDS[1:2], full=lesson.CLOUDS[1::2])
seen = lesson.by_loss(clouds, steps)
picture(lambda figure: lesson.draw_by_loss(figure, seen), figsize=(9, 3))

# %%
at = {name: of for name, of in seen[lesson.CLOUDS[1]].items()}
start, wasserstein, near = (
    at[name] for name in ("clusters, untrained", "sliced Wasserstein", "nearest neighbors")
)
say(
    f"On the spiral the train of the sliced distance has {wasserstein[0]:.4f} and {wasserstein[1]:.4f} to the neighbors, that of the neighbors "
    f"{near[0]:.4f} and {near[1]:.4f}: each is better in what it was trained for. The order of clusters has {start[0]:.4f} and {start[1]:.4f} without "
    f"any training, and on the sliced distance none of them comes near it.",
    wasserstein[0] < near[0],
    fast(True, full=near[1] < wasserstein[1]),
    start[0] < min(of[0] for name, of in at.items() if name != "clusters, untrained"),
)

# %% [markdown]
# ## At equal numbers
#
# A train, begun in an order of clusters and trained on both losses, against k-means and a coreset (some of the points themselves,
# chosen to stand for the others) that store as many numbers, each center with its count.

# %%
n, shape = fast((256, (4, 8, 8)), full=(2048, (8, 16, 16)))
rivals = lesson.at_equal_numbers(fast(lesson.CLOUDS[:1], full=lesson.CLOUDS), n, shape, steps)
picture(lambda figure: lesson.draw_rivals(figure, rivals), figsize=(9, 3))

# %%
wins = lambda k: [
    name
    for name, of in rivals.items()
    if of["train"][k] < min(of[r][k] for r in ("k-means", "coreset"))
]
say(
    f"By the nearest neighbors the train is best on {len(wins(1))} of {len(rivals)} clouds, by the sliced distance on {len(wins(0))}: there k-means, which knows "
    "how many points belong to each center, is the best.",
    fast(True, full=len(wins(1)) >= 3 and len(wins(0)) <= 1),
    fast(True, full=sum(of["k-means"][0] < of["train"][0] for of in rivals.values()) >= 3),
)

# %% [markdown]
# ## Search in a train
#
# Since prefixes of the index are sub-clouds, a train whose prefixes are clusters can be *searched*: `tt_nearest` keeps the best few prefixes, one index
# after another. How often it finds the true nearest row, for widths of the beam, of a train fitted with and without the term that keeps prefixes clusters.
# The gray line is the share of rows that the last step looks at: what a guess would find.

# %%
found = lesson.searches("spiral", steps)
picture(lambda figure: lesson.draw_searches(figure, found), figsize=(7, 3))

# %%
without, kept = (dict(points) for points in found.values())
say(
    f"With a beam of 2 the search finds {without[2]:.0%} of the nearest rows in the train without the term, and {kept[2]:.0%} with it; with a beam of 8 "
    f"{without[8]:.0%} and {kept[8]:.0%}. A beam of 32 holds every prefix, and the search is exact.",
    kept[2] > without[2],
    without[32] == kept[32] == 1,
)

# %% [markdown]
# ## The permutation
#
# Word vectors of lesson 13. Only the cuts between digits of the row can gain: the last one, all rows against the columns, has the same
# singular values in any order.

# %%
lesson.PermutationExplorer()

# %% [markdown]
# More words, and those of a trained sentence encoder where its package is installed: errors at [rank](00b_vocabulary.ipynb#Rank) 8, before and after, beside the low-rank table of as many numbers.

# %%
n, shape = fast((256, (4, 8, 8)), full=(1024, (8, 8, 16)))
tables = lesson.permuted(n, shape, rounds=fast(2, full=8), encoder=fast(False, full=True))
picture(lambda figure: lesson.draw_permuted(figure, tables), figsize=(7.5, 3))

# %%
of = tables["words"]
say(
    f"A search from the given order brings the error of the words from {of['given order']:.3f} to {of['given, then sought']:.3f}, one from clusters from "
    f"{of['clusters']:.3f} to {of['clusters, then sought']:.3f}; low rank has {of['low rank']:.3f}. The clusters alone, which take a moment, are worth "
    f"{(of['given order'] - of['clusters']) / (of['given order'] - of['clusters, then sought']):.0%} of the whole gain.",
    of["given, then sought"] < of["given order"],
    of["clusters, then sought"] < of["clusters"] < of["given order"] < of["low rank"],
)

# %% [markdown]
# ## Where it loses
#
# *High dimension.* The vectors above have no clusters to speak of: order lowers the error at a strong compression, where all of them are bad; and a permutation is
# $N \log_2 N$ bits that somebody has to keep. *Losses without an order* say even less there: with points far from all others, a cloud can be near in every
# projection and near to none of them.

# %%
x = words
fit = tl.tt_cloud(x, lesson.WORD_SHAPE, 4, steps=fast(10, full=150), generator=seeded())
size = (x - x.mean(0)).square().sum(1).mean()
lost = {
    name: (
        float(tl.sliced_wasserstein(x, y, 256, generator=seeded()) / size),
        float(pointcloud.distortion(x, y) / size),
    )
    for name, (_, y) in lesson.rivals(x, fit.value).items()
}
say(
    "Sliced distance to the words, and mean squared distance of a word to the nearest row, over the variance: "
    + ", ".join(f"{name} {a:.2f} and {b:.2f}" for name, (a, b) in lost.items())
    + ". A single point in the middle has 1 in both. So the train and k-means are near in projections, and yet hardly a word has a row that is nearer than the middle.",
    all(lost[name][0] < fast(0.9, full=0.6) for name in ("train", "k-means")),
    all(b > 0.8 for _, b in lost.values()),
)

# %% [markdown]
# ## Exercises
#
# Exercises 2 to 5 build both losses and the step of the permutation. A blank says nothing; a wrong answer gets its own hint.
#
# ### 1. Predict: on a line (★, 3 minutes)
#
# On a line the cloud x has the points 0, 2, 5 and y the points 7, 1, 2. What is $W_2^2$, the mean of the squared distances of the best matching?

# %%
wasserstein_line = ...
lesson.wasserstein_line(wasserstein_line)

# %% [markdown] tags=["hints"]
# On a line the best matching is the one in which no two pairs cross.
#
# Sort both clouds, and match the first with the first.

# %% tags=["solution"]
wasserstein_line = ((0 - 1) ** 2 + (2 - 2) ** 2 + (5 - 7) ** 2) / 3

# %% [markdown]
# ### 2. Many lines (★★, 5 minutes)
#
# Write `wasserstein_columns(x, y)`: $W_2^2$ of the points in each column of x and of y, both (n, l), as a tensor (l,).


# %%
def wasserstein_columns(x, y): ...


lesson.wasserstein_columns(wasserstein_columns)

# %% [markdown] tags=["hints"]
# `x.sort(0)` sorts each column; its `.values` are the numbers.
#
# Then the mean of the squares of the differences, over the rows.


# %% tags=["solution"]
def wasserstein_columns(x, y):
    return (x.sort(0).values - y.sort(0).values).square().mean(0)


# %% [markdown]
# ### 3. Slices (★★, 10 minutes)
#
# Write `sliced_distance(x, y, directions)`: the sliced Wasserstein distance of clouds (n, D), for the unit directions in the columns of `directions` (D, l): D times the mean over the
# directions.


# %%
def sliced_distance(x, y, directions): ...


lesson.sliced_distance(sliced_distance)

# %% [markdown] tags=["hints"]
# `x @ directions` has the projections on one direction in each column.
#
# With your `wasserstein_columns` it is one line.


# %% tags=["solution"]
def sliced_distance(x, y, directions):
    return x.shape[1] * wasserstein_columns(x @ directions, y @ directions).mean()


# %% [markdown]
# ### 4. Neighbors (★★, 10 minutes)
#
# Write `chamfer_distance(x, y)` for clouds x (n, D) and y (m, D): the mean over x of the squared distance to the nearest point of y, plus the same the other way around.


# %%
def chamfer_distance(x, y): ...


lesson.chamfer_distance(chamfer_distance)

# %% [markdown] tags=["hints"]
# `torch.cdist(x, y).square()` is the (n, m) table of squared distances.
#
# Its least entry in each row, `amin(1)`, and in each column.


# %% tags=["solution"]
def chamfer_distance(x, y):
    square = torch.cdist(x, y).square()
    return square.amin(1).mean() + square.amin(0).mean()


# %% [markdown]
# ### 5. One round (★★★, 15 minutes)
#
# Write `next_order(table, order, shape, rank)`: the order after one round. Find the train of the table (N, D) with its rows in `order`, of shape (\*shape, D) and this rank, by `tl.tt_svd`;
# then the order in which the rows of the table are nearest to those of the train, all together. `pointcloud.assignment(cost)` gives the columns of the cheapest
# assignment of an (N, N) table of costs.


# %%
def next_order(table, order, shape, rank): ...


lesson.next_order(next_order)

# %% [markdown] tags=["hints"]
# The train: `tl.tt_svd(table[order].reshape(*shape, -1), rank)`; its rows: `.to_dense().reshape(table.shape)`.
#
# Row i of the costs belongs to row i of the train, column j to row j of the table.


# %% tags=["solution"]
def next_order(table, order, shape, rank):
    tt = tl.tt_svd(table[order].reshape(*shape, -1), rank)
    points = tt.to_dense().reshape(table.shape)
    return pointcloud.assignment(torch.cdist(points, table).square())


# %% [markdown]
# ### 6. Predict: what stays (★★, 5 minutes)
#
# A table with 256 rows and 64 columns is a tensor of shape (4, 8, 8, 64), which has three cuts. Its rows are shuffled: how many of the three unfoldings keep their
# singular values?

# %%
unchanged_cuts = ...
lesson.unchanged_cuts(unchanged_cuts)

# %% [markdown] tags=["hints"]
# A permutation from the left is orthogonal: it changes no singular value.
#
# In which of the unfoldings are the rows of the table the rows of the matrix?

# %% tags=["solution"]
unchanged_cuts = 1

# %% [markdown]
# ### 7. Explore (★, 5 minutes)
#
# In the explorer of the permutation, with rank 8 and the given order: after how many rounds is the error for the first time below the one that the clusters have after 1 round?

# %%
rounds_needed = ...
lesson.rounds_needed(rounds_needed)

# %% [markdown] tags=["hints"]
# Set *start* to clusters and *rounds* to 1, and read the error.
#
# Then go back to the given order, and move *rounds* up from 0.

# %% tags=["solution"]
clusters = lesson.reordered("clusters", 8, 1).history[-1]
rounds_needed = next(
    rounds
    for rounds in range(11)
    if lesson.reordered("given order", 8, rounds).history[-1] < clusters
)
