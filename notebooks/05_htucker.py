# %% [markdown] tags=["lesson"]
# name = "hierarchical Tucker"
# minutes = 65
# needs = ["00b_vocabulary", "03_tucker", "04_tt"]
# aims = [
#     "build an H-SVD of four modes from bases and the cores between them",
#     "choose a tree and an order of its leaves",
#     "say when a tree stores less than a train, and when more",
# ]
# take = [
#     "A tree joins the modes in pairs; each node only stores how its basis is made from those of its children.",
#     "A balanced tree asks for the ranks of blocks, a train for those of ends: each is good at what it is made of.",
#     "What belongs together should meet first; the wrong order of the leaves costs far more than the wrong tree.",
# ]

# %% [markdown]
# # Which indices should meet first?
#
# Those that depend on each other. Hierarchical Tucker joins the indices of a tensor in pairs, up a tree; on each node stand the singular values
# of its indices against all others, in blue those that are kept, and their number, the [rank](00b_vocabulary.ipynb#Rank). Try `leaves`: another order changes all of them.

# %%
from tensorlab.course.lessons import htucker as lesson

lesson.TreeExplorer()

# %% [markdown]
# ## The mathematics
#
# Each node $t$ of a binary tree stands for the indices below it and has a basis $U_t$, one column for each unit of its rank. A leaf stores
# its basis, $n \times r$. A node with the children $l$ and $r$ only stores how its basis is made from theirs [HackbuschKuhn2009]:
#
# $$ U_t[(i, j), k] = \sum_{a, b} U_l[i, a]\; U_r[j, b]\; B_t[a, b, k], \qquad x = U_{\text{root}} . $$
#
# For $d$ [modes](00b_vocabulary.ipynb#Mode) of size $n$ and ranks $r$ these are $d\,n\,r + (d - 2)\,r^3 + r^2$ numbers, where a train has about $d\,n\,r^2$. The rank
# of a node is at least that of the matrix, an [unfolding](00b_vocabulary.ipynb#Unfolding), with its indices as rows. The **H-SVD**
# [Grasedyck2010] reaches it: the basis of a node is the leading left singular vectors of that matrix. The cuts lose parts that add in squares,
# and there are $2d - 3$ of them, for the two children of the root have the same singular values:
#
# $$ \|x - y\| \le \sqrt{2d - 3}\; \|x - y_{\text{best}}\| . $$
#
# In the letters of the formula, for four modes on the tree $((0, 1), (2, 3))$:

# %%
import math

import torch

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.claims import say
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture
from tensorlab.multilinear import unfold


def plain_h_svd(x, r):
    """The bases of the leaves, and the cores of the nodes (0, 1), (2, 3) and of the root."""
    n = x.shape
    leading = lambda a: torch.linalg.svd(a, full_matrices=False)[0][:, :r]
    U = [leading(unfold(x, k)) for k in range(4)]
    middle = x.reshape(n[0] * n[1], -1)
    left, right = leading(middle), leading(middle.T)
    B01 = torch.einsum("ia,jb,ijk->abk", U[0], U[1], left.reshape(n[0], n[1], r))
    B23 = torch.einsum("ia,jb,ijk->abk", U[2], U[3], right.reshape(n[2], n[3], r))
    return U, B01, B23, left.T @ middle @ right


x = lesson.functions("chain of neighbors", 4, 6)
U, B01, B23, B = plain_h_svd(x, 3)
left = torch.einsum("ia,jb,abk->ijk", U[0], U[1], B01)
right = torch.einsum("ia,jb,abk->ijk", U[2], U[3], B23)
plain = torch.einsum("ijk,kl,mnl->ijmn", left, B, right)
errors = [float((y - x).norm()) for y in (plain, tl.ht_svd(x, 3).to_dense())]
spectra = tl.ht_svd(x, rtol=0.0).singular_values().values()
floor = max(float(s[3:].norm()) for s in spectra)
say(
    f"At rank 3 the ten lines have the error {errors[0]:.4f} and `tl.ht_svd`, which cuts from the leaves up what the cuts before have left, "
    f"{errors[1]:.4f}: {errors[0] / floor:.2f} and {errors[1] / floor:.2f} times the largest tail of a single node, which nothing with these ranks "
    f"can beat. The theorem allows {math.sqrt(5):.2f}.",
    1 <= errors[0] / floor < math.sqrt(5),
    1 <= errors[1] / floor < math.sqrt(5),
)

# %% [markdown]
# ## A train is a tree
#
# On the linear tree $(0, (1, (2, \dots)))$ one index joins at a time: each $B_t$ with the factor beside it is a core of a train.

# %%
y = lesson.functions("1 / (1 + sum)", 6)
ranks = tl.ht_svd(y, rtol=1e-8, tree=tl.linear_tree(6)).to_tt().ranks
theirs = tl.tt_svd(y, rtol=1e-8).ranks
say(
    f"`ht_svd` finds the ranks {ranks} there, `tt_svd` {theirs}.",
    ranks == theirs,
)

# %% [markdown]
# ## Balanced or linear?
#
# A balanced tree asks for the ranks of short blocks such as $\{2, 3\}$, a linear one for those of ends such as $\{5, 6, 7\}$. A block in a
# train of rank $r$ is cut at both of its sides: up to $r^2$. An end in a tree is put together from $\log_2 d$ blocks: up to $r$ to
# that power. The numbers that each [format](00b_vocabulary.ipynb#Format) stores at a [relative error](00b_vocabulary.ipynb#Relative-error) of $10^{-4}$, and those of the tensor itself:

# %%
d = fast(4, full=8)
stored = lesson.stored_by_format(d, 1e-4)
picture(lambda figure: lesson.bars(figure.subplots(), stored, 4**d), figsize=(8, 3.4))

# %%
pairs, train = stored["nested pairs"], stored["random train of rank 3"]
most = max(v for of in stored.values() for name, v in of.items() if name not in ("Tucker", "SVD"))
say(
    f"On nested pairs the balanced tree stores {pairs['balanced tree']:,} and the train {pairs['train']:,}; on a random train it is "
    f"{train['balanced tree']:,} against {train['train']:,}. Of {4**d:,} entries: trees and train never need more than {most:,}, Tucker up to "
    f"{max(of['Tucker'] for of in stored.values()):,}, because of its core.",
    fast(True, full=pairs["balanced tree"] < pairs["train"]),
    train["train"] < train["balanced tree"],
    most < max(of["Tucker"] for of in stored.values()),
)

# %% [markdown]
# ## The order of the leaves
#
# Neither tree helps when indices that depend on each other meet late. Here are all ways to pair four variables of
# $\exp(-4\,(x_0 - x_1)^2 - 4\,(x_2 - x_3)^2)\,(1 + x_0 x_2)$.

# %%
a = torch.arange(8, dtype=torch.float64) / 8
x0, x1, x2, x3 = torch.meshgrid(a, a, a, a, indexing="ij")
y = (-4 * (x0 - x1) ** 2 - 4 * (x2 - x3) ** 2).exp() * (1 + x0 * x2)
found = {
    tree: tl.ht_svd(y, rtol=1e-6, tree=tree)
    for tree in (((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2)))
}
good, *bad = found.values()
say(
    "; ".join(
        f"{tree}: rank {ht.ranks[0]} at the root, {ht.numel:,} numbers"
        for tree, ht in found.items()
    )
    + f". Only one of the three keeps what it can below the root; the wrong ones store more than the tensor's {y.numel():,} entries.",
    good.ranks[0] == 2,
    all(ht.ranks[0] > 10 and ht.numel > y.numel() for ht in bad),
)

# %% [markdown]
# How good is an order that one has not thought about? *Nested pairs* on the balanced tree, with their leaves in random orders:

# %%
y = lesson.functions("nested pairs", d)
chance = []
for k in range(fast(10, full=100)):
    order = torch.randperm(d, generator=torch.Generator().manual_seed(k)).tolist()
    chance.append(tl.ht_svd(y, rtol=1e-4, tree=tl.balanced_tree(order)).numel)
ordered = tl.ht_svd(y, rtol=1e-4).numel


def orders(figure):
    ax = figure.subplots()
    ax.hist(chance, bins=[ordered * 1.25**k for k in range(-1, 23)], color=plots.COLORS[0])
    for place, name, at in ((ordered, "in order", 0.98), (y.numel(), "dense", 0.85)):
        ax.axvline(place, color="0.4", lw=1)
        high = at * ax.get_ylim()[1]
        ax.annotate(name, (place, high), (4, 0), textcoords="offset points", va="top")
    ax.set(xscale="log", xlabel="stored numbers", ylabel="orders of the leaves")
    return f"Numbers that {len(chance)} random orders of the leaves store, from {min(chance):,} to {max(chance):,}; in order {ordered:,}."


picture(orders, figsize=(7, 2.8))

# %%
say(
    f"In order the tree stores {ordered:,} numbers. Of {len(chance)} random orders the best stores {min(chance):,}, the middle one "
    f"{sorted(chance)[len(chance) // 2]:,}, of {y.numel():,} entries.",
    fast(True, full=min(chance) > 2 * ordered),
    ordered <= min(chance),
)

# %% [markdown]
# ## Rounding
#
# Sums have larger ranks than they need. `ht_round` finds the smallest for a tolerance without forming the tensor.

# %%
y = tl.HT.randn((4,) * 32, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
total = y + 2 * y
rounded = tl.ht_round(total, rtol=1e-10)
off = float((rounded - 3 * y).norm() / y.norm())
say(
    f"A tensor of $4^{{32}}$ entries: `y` has ranks up to {max(y.ranks)}, `y + 2 * y` up to {max(total.ranks)}, rounded up to "
    f"{max(rounded.ranks)} again, and off $3y$ by {off:.0e} of $\\|y\\|$.",
    max(total.ranks) == 2 * max(y.ranks),
    rounded.ranks == y.ranks,
    off < 1e-9,
)

# %% [markdown]
# ## Where it loses
#
# The core of a node is a cube of ranks, and where $n < r$ a train's $n\,r^2$ is less. Eight modes, ranks up to 8:

# %%
sizes = [2**k for k in range(1, 8)]
counts = {
    name: [kind.randn((n,) * 8, 8, generator=torch.Generator()).numel for n in sizes]
    for name, kind in {"balanced tree": tl.HT, "train": tl.TT}.items()
}


def by_size(figure):
    ax = figure.subplots()
    for k, (name, numbers) in enumerate(counts.items()):
        ax.loglog(sizes, numbers, label=name, **plots.style(k))
    ax.loglog(sizes[:3], [n**8 for n in sizes[:3]], color="0.4", lw=1, label="dense")
    ax.set(xlabel="mode size n", ylabel="stored numbers")
    ax.legend()
    return "Stored numbers of a tree and a train with the same ranks for modes of 2 to 128."


picture(by_size, figsize=(7, 3))

# %%
tree, train = counts.values()
less = [n for n, t, c in zip(sizes, tree, train) if c < t]
bits = fast(14, full=18)
grid = torch.arange(2 ** (bits // 2), dtype=torch.float64) / 2 ** (bits // 2)
z = (1 / (1 + grid[:, None] + grid)).reshape((2,) * bits)
binary = [y.numel for y in (tl.tt_svd(z, rtol=1e-6), tl.ht_svd(z, rtol=1e-6))]
say(
    f"At n = {' and '.join(map(str, less))} the train stores less, from 16 on the tree does. With the coordinates of a function in binary (all modes of size "
    f"2, as in lesson 04) the train has {binary[0]} numbers and the tree {binary[1]}.",
    less == [4, 8],
    binary[0] < binary[1],
)

# %% [markdown]
# ## Exercises
#
# The second to the fifth build the H-SVD of four modes. A blank says nothing; a wrong answer gets its own hint.
#
# ### 1. Predict (★, 5 minutes)
#
# A tree tensor of shape (10, 10, 10, 10) on the tree ((0, 1), (2, 3)) has rank 4 at every node but the root. How many numbers does it store?

# %%
ht_storage = ...
lesson.ht_storage(ht_storage)

# %% [markdown] tags=["hints"]
# Write (n, r) at each of the four leaves and (r_left, r_right, r) at each of the three inner nodes.
#
# The root has no parent: its own rank is 1.

# %% tags=["solution"]
ht_storage = 4 * 10 * 4 + 2 * 4**3 + 4 * 4

# %% [markdown]
# ### 2. The basis of a node (★★, 10 minutes)
#
# Write `node_basis(left, right, core)` from the bases of the children: `left` (m, a), `right` (n, b) and `core` (a, b, r). The result has the shape
# (m n, r), and row $i\,n + j$ belongs to row i on the left and row j on the right.


# %%
def node_basis(left, right, core): ...


lesson.node_basis(node_basis)

# %% [markdown] tags=["hints"]
# Contract the core with `left` over its first mode and with `right` over its second.
#
# `torch.einsum("ia,jb,abk->ijk", ...)`, and then the first two modes become one.


# %% tags=["solution"]
def node_basis(left, right, core):
    return torch.einsum("ia,jb,abk->ijk", left, right, core).flatten(0, 1)


# %% [markdown]
# ### 3. The best basis (★★, 10 minutes)
#
# Write `frame(x, modes, r)`: r orthonormal columns, the leading left singular vectors of the matrix that has the given modes of `x` as its rows (the
# first of them slowest) and all others as its columns. `x` has four modes, `modes` is a tuple.


# %%
def frame(x, modes, r): ...


lesson.frame(frame)

# %% [markdown] tags=["hints"]
# `x.movedim(modes, tuple(range(len(modes))))` brings the modes to the front.
#
# Then `flatten(len(modes))` makes the columns one mode, and `flatten(0, -2)` the rows.


# %% tags=["solution"]
def frame(x, modes, r):
    front = x.movedim(modes, tuple(range(len(modes))))
    matrix = front.flatten(len(modes)).flatten(0, -2)
    return torch.linalg.svd(matrix, full_matrices=False)[0][:, :r]


# %% [markdown]
# ### 4. What a node stores (★★, 10 minutes)
#
# Write `transfer(basis, left, right)`: the core (a, b, r) with which `node_basis(left, right, core)` comes nearest to `basis` (m n, r). `left` (m, a)
# and `right` (n, b) have orthonormal columns.


# %%
def transfer(basis, left, right): ...


lesson.transfer(transfer)

# %% [markdown] tags=["hints"]
# The columns of the Kronecker product of `left` and `right` are orthonormal too: the nearest is a projection.
#
# Reshape `basis` to (m, n, r), and multiply its first two modes by the transposes of `left` and `right`.


# %% tags=["solution"]
def transfer(basis, left, right):
    parted = basis.reshape(len(left), len(right), -1)
    return torch.einsum("ia,jb,ijk->abk", left, right, parted)


# %% [markdown]
# ### 5. The H-SVD (★★★, 15 minutes)
#
# Write `h_svd(x, r)` for four modes on the tree ((0, 1), (2, 3)): the list of the four bases of the leaves, the cores of the nodes (0, 1) and (2, 3),
# both (r, r, r), and that of the root, (r, r).


# %%
def h_svd(x, r): ...


lesson.h_svd(h_svd)

# %% [markdown] tags=["hints"]
# One `frame` for each of the modes and for each of the two pairs; one `transfer` for each pair.
#
# The core of the root is the matrix of x between the frames of the two pairs: `left.T @ x.reshape(m, -1) @ right`.


# %% tags=["solution"]
def h_svd(x, r):
    leaves = [frame(x, (k,), r) for k in range(4)]
    left, right = frame(x, (0, 1), r), frame(x, (2, 3), r)
    root = left.T @ x.reshape(len(left), -1) @ right
    return leaves, transfer(left, *leaves[:2]), transfer(right, *leaves[2:]), root


# %% [markdown]
# ### 6. Predict: the best tree (★★, 5 minutes)
#
# The tensor $x[a, b, c, d] = f[a, d]\, g[b, c]$ has generic $f$ and $g$ of shape (4, 4). On which tree of the modes 0, 1, 2, 3 does
# `ht_svd(x, rtol=1e-10, tree=...)` store the fewest numbers? Answer with nested pairs such as `((0, 1), (2, 3))`.

# %%
best_tree = ...
lesson.best_tree(best_tree)

# %% [markdown] tags=["hints"]
# Which modes depend on each other?
#
# Where they meet first, nothing has to pass further up: rank 1.

# %% tags=["solution"]
best_tree = ((0, 3), (1, 2))

# %% [markdown]
# ### 7. Explore (★, 5 minutes)
#
# In the explorer at the top, with `1 / (1 + sum)` on the balanced tree: what is the largest number of digits at which the tree stores fewer than 1,000
# numbers?

# %%
most_digits = ...
lesson.most_digits(most_digits)

# %% [markdown] tags=["hints"]
# The sentence below the picture says what the tree stores.
#
# Move `digits` to the right, until the number passes 1,000.

# %% tags=["solution"]
most_digits = max(
    k for k in range(15) if tl.ht_svd(lesson.functions("1 / (1 + sum)"), rtol=10.0**-k).numel < 1000
)
