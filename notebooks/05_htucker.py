# %% [markdown]
# # Which indices should meet first?
#
# Hierarchical Tucker joins the indices of a tensor in pairs, up a tree. On each node stand the singular values of its indices against
# all others, in blue those that are kept, and their number, the rank. Another tree or another order of the leaves changes all of them:
# try `leaves`.

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
# For $d$ modes of size $n$ and ranks $r$ these are $d\,n\,r + (d - 2)\,r^3 + r^2$ numbers, where a train has about $d\,n\,r^2$. The rank
# of a node is at least that of the matricization with its indices as rows, and **H-SVD** [Grasedyck2010] reaches it: it cuts
# the nodes from the leaves up, each from what the cuts before have left of $x$. The cuts are commuting orthogonal projections, so their
# errors add up in squares. There are $2d - 3$ of them, for the two children of the root have the same singular values:
#
# $$ \|x - y\| \le \sqrt{2d - 3}\; \|x - y_{\text{best}}\| . $$
#
# In numbers: the error at rank 3 over the largest tail of a single node, which nothing with these ranks can beat.

# %%
import inspect
import math

import torch
from IPython.display import Code

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture

d = fast(4, full=8)
for name in lesson.TreeExplorer.names:
    x = lesson.functions(name, d)
    error = float((tl.ht_svd(x, 3).to_dense() - x).norm())
    floor = max(float(s[3:].norm()) for s in tl.ht_svd(x, rtol=0.0).singular_values().values())
    if floor > 1e-12 * float(x.norm()):
        print(
            f"{name:24} error / lower bound {error / floor:.3f}   (allowed: {math.sqrt(2 * d - 3):.3f})"
        )

# %% [markdown]
# ## A train is a tree
#
# On the linear tree $(0, (1, (2, \dots)))$ one index joins at a time: each $B_t$ with the factor beside it is a core of a train. So
# `ht_svd` finds the ranks of `tt_svd` there.

# %%
x = lesson.functions("1 / (1 + sum)", 6)
ht = tl.ht_svd(x, rtol=1e-8, tree=tl.linear_tree(6))
print(
    f"tree {ht.tree}: ranks {ht.to_tt().ranks}\ntrain: {' ' * 22}ranks {tl.tt_svd(x, rtol=1e-8).ranks}"
)

# %% [markdown]
# ## Balanced or linear?
#
# A balanced tree asks for the ranks of short blocks such as $\{2, 3\}$, a linear one for those of ends such as $\{5, 6, 7\}$. A block in a
# train of rank $r$ is cut at both of its sides: up to $r^2$. An end in a tree is put together from $\log_2 d$ blocks: up to $r$ to
# that power. So each is good at what it is made of.

# %%
print(f"{'rtol = 1e-4':26}{'balanced':>18}{'linear':>18}{'train':>18}")
for name in lesson.TreeExplorer.names:
    x = lesson.functions(name, d)
    found = [tl.ht_svd(x, rtol=1e-4, tree=tree(d)) for tree in lesson.TREES.values()] + [
        tl.tt_svd(x, rtol=1e-4)
    ]
    print(f"{name:26}" + "".join(f"rank {max(y.ranks):3}, {y.numel:5}".rjust(18) for y in found))

# %% [markdown]
# ## The order of the leaves
#
# Neither tree helps when indices that depend on each other meet late. Here are all ways to pair four variables of
# $\exp(-4\,(x_0 - x_1)^2 - 4\,(x_2 - x_3)^2)\,(1 + x_0 x_2)$: one of the three keeps what it can below the root.

# %%
a = torch.arange(8, dtype=torch.float64) / 8
x0, x1, x2, x3 = torch.meshgrid(a, a, a, a, indexing="ij")
x = (-4 * (x0 - x1) ** 2 - 4 * (x2 - x3) ** 2).exp() * (1 + x0 * x2)
for tree in (((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))):
    ht = tl.ht_svd(x, rtol=1e-6, tree=tree)
    print(f"{tree}: rank at the root {ht.ranks[0]:2}, {ht.numel:5} numbers")

# %% [markdown]
# How many orders of the leaves are as good as the right one for *nested pairs*, on a balanced tree? A sample of them:

# %%
x = lesson.functions("nested pairs", d)
orders = [
    torch.randperm(d, generator=torch.Generator().manual_seed(k)).tolist()
    for k in range(fast(10, full=100))
]
stored = {
    order: tl.ht_svd(x, rtol=1e-4, tree=tl.balanced_tree(order)).numel
    for order in map(tuple, [range(d), *orders])
}
chance = sorted(list(stored.values())[1:])
print(
    f"in order {stored[tuple(range(d))]} numbers; {len(chance)} orders by chance: {chance[0]} to {chance[-1]}, the middle one "
    f"{chance[len(chance) // 2]}"
)

# %% [markdown]
# ## One function
#
# Every cut is the leading basis of a long matrix, found from its small Gram matrix; the tensor shrinks on the way up.

# %%
Code(inspect.getsource(tl.ht_svd), language="python")

# %% [markdown]
# Sums have larger ranks than they need. `ht_round` finds the smallest for a tolerance, and `singular_values` those of every
# node, without forming the tensor: here it would have $4^{32}$ entries.

# %%
y = tl.HT.randn((4,) * 32, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
total = y + 2 * y
rounded = tl.ht_round(total, rtol=1e-10)
print(
    f"y {max(y.ranks)}, y + 2 y {max(total.ranks)}, rounded {max(rounded.ranks)}; "
    f"|rounded - 3 y| / |y| = {float((rounded - 3 * y).norm() / y.norm()):.1e}"
)
print("at the root:", [f"{s:.3g}" for s in (y / y.norm()).singular_values()[y.nodes[0]].tolist()])

# %% [markdown]
# ## Where it loses
#
# The core of a node is a cube of ranks, and where $n < r$ a train's $n\,r^2$ is less. Same ranks, growing mode size: the curves cross
# a little above $n = r$.

# %%
r = 8
sizes = [2**k for k in range(1, 8)]
kinds = {"HT": tl.HT, "TT": tl.TT}
counts = {
    name: [kind.randn((n,) * 8, r, generator=torch.Generator()).numel for n in sizes]
    for name, kind in kinds.items()
}


def draw(figure):
    axes = figure.subplots()
    for k, (name, numbers) in enumerate(counts.items()):
        axes.loglog(sizes, numbers, label=name, **plots.style(k))
    axes.set(xlabel="mode size n", ylabel="stored numbers")
    axes.legend()
    first = next(n for n, h, t in zip(sizes, *counts.values()) if h < t)
    return f"Eight modes, ranks up to {r}: of these sizes, HT stores less than the train from n = {first} on."


picture(draw)

# %% [markdown]
# The extreme is a function with its coordinates in binary, all modes of size 2 (lesson 04).

# %%
bits = fast(14, full=18)
grid = torch.arange(2 ** (bits // 2), dtype=torch.float64) / 2 ** (bits // 2)
x = (1 / (1 + grid[:, None] + grid)).reshape((2,) * bits)
for name, y in {"train": tl.tt_svd(x, rtol=1e-6), "balanced tree": tl.ht_svd(x, rtol=1e-6)}.items():
    print(
        f"{name:14} ranks up to {max(y.ranks)}, {y.numel} numbers, error {float((y.to_dense() - x).norm() / x.norm()):.1e}"
    )

# %% [markdown]
# ## Exercises
#
# **Predict.**

# %%
print(lesson.ht_storage.question)
lesson.ht_storage(...)

# %% [markdown]
# **Implement.**


# %%
def node_basis(left, right, core): ...


print(lesson.node_basis.question)
lesson.node_basis(node_basis)

# %% [markdown]
# **Explore.**

# %%
print(lesson.best_tree.question)
lesson.best_tree(...)
