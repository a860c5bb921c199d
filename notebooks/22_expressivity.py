# %% [markdown] tags=["lesson"]
# name = "width against depth"
# minutes = 60
# needs = ["02_cp", "04_tt", "05_htucker"]
# aims = [
#     "read a train, a tree and a CP as three kinds of network",
#     "bound the width of a shallow network from below by the rank of one matrix",
#     "say what the theorem does not say",
# ]
# take = [
#     "A recurrent network with products is a tensor train, a deep one a tree, a shallow one a CP; width is rank.",
#     "No matricization of a CP has a rank above its width; that of the odd modes against the even ones has an exponential rank for almost every train.",
#     "The theorem is about being equal: a narrower CP may come close, but in numbers stored it still loses to the train.",
# ]

# %% [markdown]
# # How wide must a shallow network be to do what a deep one does?
#
# Exponentially wide, almost always. Three networks with products instead of nonlinearities and random weights: a recurrent one (a
# tensor train, TT), a deep one (a hierarchical Tucker tree, HT) and a shallow one (CP). The [rank](00b_vocabulary.ipynb#Rank) on the left is a lower bound for the width of any shallow
# network that computes the same; on the right are the singular values that are counted.

# %%
from tensorlab.course.lessons import expressivity as lesson

lesson.WidthExplorer()

# %% [markdown]
# ## The mathematics
#
# All three give an object the score $\langle W,\; f(x_0) \circ \dots \circ f(x_{d-1}) \rangle$ with features $f(x_k) \in \mathbb{R}^n$ of its
# $d$ parts, such as the words of a sentence, and differ in the [format](00b_vocabulary.ipynb#Format) of $W$ [Cohen2016]:
#
# | network | format | one step |
# |---|---|---|
# | recurrent, width $r$ | TT | $h_{k+1} = \sum_i f_i(x_k)\, h_k G_k[i]$ |
# | deep, windows of two | HT | $u_t[c] = \sum_{ab} u_l[a]\, u_r[b]\, B_t[a, b, c]$ |
# | shallow, width $R$ | CP | $\sum_{j \le R} w_j \prod_k (f(x_k) F_k)_j$ |
#
# A [matricization](00b_vocabulary.ipynb#Unfolding) of a CP of rank $R$ is a sum of $R$ matrices of rank one. So $R$ is at least the rank of every matricization of $W$. With
# the [modes](00b_vocabulary.ipynb#Mode) $0, 2, 4, \dots$ as rows and the others as columns, almost every train of ranks $r$ has the rank [Khrulkov2018]
#
# $$ \operatorname{rank} \ge q^{d/2}, \qquad q = \min(n, r) , $$
#
# while its contiguous cuts, the first modes against the rest, have at most rank $r$. In the letters of the table the recurrent and the shallow network take a few lines each:

# %%
import torch

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.claims import say
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture
from tensorlab.papers import expressivity as paper


def recurrent_network(G, f):
    """The score of a train with cores G for the features f."""
    h = torch.ones(1, dtype=torch.float64)
    for G_k, f_k in zip(G, f):
        h = torch.einsum("i,a,aib->b", f_k, h, G_k)
    return h[0]


def shallow_network(w, F, f):
    """The score of a CP with weights w and factors F."""
    units = w
    for F_k, f_k in zip(F, f):
        units = units * (f_k @ F_k)
    return units.sum()


g = torch.Generator().manual_seed(0)
f = [torch.randn(3, generator=g, dtype=torch.float64) for _ in range(8)]
train, cp = paper.network("TT", 3, 2, 8), paper.network("CP", 3, 2, 8)
pairs = [
    (recurrent_network(train.cores, f), tl.rank_one_inner(train, [v[None] for v in f])[0]),
    (shallow_network(cp.weights, cp.factors, f), tl.rank_one_inner(cp, [v[None] for v in f])[0]),
]
gap = max(float((mine - theirs).abs() / theirs.abs()) for mine, theirs in pairs)
say(
    f"Both agree with `tl.rank_one_inner`, the inner product with the tensor that is never formed, to {gap:.0e}. With $f(x) = (1, x)$ this is the exponential machine of lesson 21.",
    gap < 1e-12,
)

# %% [markdown]
# ## The theorem as numbers
#
# Random trains of integers, and the rank of the odd modes against the even ones, computed modulo a prime: there is no rounding, and the true rank cannot be smaller (recorded by `tensorlab run Khrulkov2018 --preset full`). Diamonds are the printed bound for $n = r = 2$ and $3$; the baseline
# is what a contiguous cut of a train of ranks 3 has.

# %%
picture(lesson.draw_recorded, figsize=(8, 3.4))

# %%
found = lesson.recorded()
bound = lambda n, r, d: min(n, r) ** (d // 2)
above = {key: points[-1][1] / bound(*key, points[-1][0]) for key, points in found.items()}
pure = [key for key, ratio in above.items() if ratio == 1]
x = paper.network("TT", 3, 3, 8).to_dense()
cut, odd = (paper.matricization_rank(x, rows) for rows in (range(4), range(0, 8, 2)))
say(
    f"The bound holds in all {sum(map(len, found.values()))} cases, with equality for n, r = {' and '.join(f'{n}, {r}' for n, r in pure)}. Where $n > r$ the rank is larger: for n, r = 3, 2 it is {found[3, 2][-1][1]} at depth 12, "
    f"{above[3, 2]:.1f} times the bound. A train of eight modes and ranks 3 has rank {cut} at its contiguous cut in the middle, and {odd} by odd and even modes.",
    all(rank >= bound(*key, d) for key, points in found.items() for d, rank in points),
    set(pure) == {(2, 2), (2, 3), (3, 3)},
    above[3, 2] > 1,
    cut == 3 and odd == 81,
)

# %% [markdown]
# ## From one network to another
#
# The width that the network of a row needs to represent a random one of a column, which has width $r$. For TT and HT it is exact, for CP a lower bound, the largest of several ranks. The color is darker where more is needed.
# By theory $r^2$ is enough for a tree to represent a train, $r^{\lceil \log_2 d / 2 \rceil}$ for a train to represent
# a tree, and $r$ for either to represent a CP; a CP needs at least $\min(n, r)^{d/2}$ to represent a train.

# %%
shapes = [(3, 3, 4), (2, 2, 8), (3, 3, 8)]
picture(lambda figure: lesson.draw_widths(figure, shapes), figsize=(9, 3.4))

# %%
import math

allowed = lambda to, source, r, d: (
    r if source == "CP" else r**2 if to == "HT" else r ** math.ceil(math.log2(d) / 2)
)
of = {shape: lesson.widths(*shape) for shape in shapes}
small = {(shape, pair): w for shape in shapes for pair, w in of[shape].items() if pair[0] != "CP"}
say(
    f"At $n = r = 3$, $d = 8$ a train and a tree need width {of[3, 3, 8]['TT', 'HT']} to represent each other, a CP at least {of[3, 3, 8]['CP', 'TT']} to represent either, and both need only {of[3, 3, 8]['TT', 'CP']} to represent a CP. All of the {len(small)} widths of trains and trees are within what the theory allows.",
    of[3, 3, 8]["TT", "HT"] == of[3, 3, 8]["HT", "TT"] == 9,
    of[3, 3, 8]["CP", "TT"] == of[3, 3, 8]["CP", "HT"] == 81,
    of[3, 3, 8]["TT", "CP"] == of[3, 3, 8]["HT", "CP"] == 3,
    all(w <= allowed(*pair, shape[1], shape[2]) for (shape, pair), w in small.items()),
)

# %% [markdown]
# ## When the theorem says less than it seems
#
# It is about being *equal*. The singular values fall fast, so a much narrower network comes close. A random train of eight modes of size 3 with ranks 2, and CPs fitted to it by alternating least squares, against the numbers that each stores; the dashed floor is an error that no CP of that rank can go below. The rival
# is the matrix of odd by even modes, cut to the same rank; the vertical lines are the numbers of the train itself, which is exact, and of the dense tensor.

# %%
ranks = fast((2, 8), full=(2, 4, 8, 16, 32))
curves = lesson.fitted(ranks, fast(20, full=150))
numbers, entries = lesson.train_numbers(), 3**8


def sizes(figure):
    ax = figure.subplots()
    seen = plots.error_against_storage(ax, curves)
    for name, at, side in (("train", numbers, "left"), ("dense", entries, "right")):
        ax.axvline(at, color="0.4", lw=1, ls="--")
        ax.annotate(
            name,
            (at, 0.92),
            (3 if side == "left" else -3, 0),
            xycoords=ax.get_xaxis_transform(),
            textcoords="offset points",
            ha=side,
        )
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return seen


picture(sizes, figsize=(7, 3.2))

# %%
stored, error = curves["CP, fitted"][-1]
floor = curves["no CP is below"][-1][1]
full = lesson.rank("TT", 3, 2, 8)
say(
    f"A CP that equals the train needs at least {full} terms. One of {ranks[-1]} terms is off by {error:.1%}, and none of this width is off by less than {floor:.1%}. So for an error of a few percent it need not be as wide. But it stores {stored:,} numbers, where the train is exact with {numbers}: in numbers the recurrent network still wins, by a factor {stored / numbers:.0f}.",
    full == 54 and ranks[-1] < full,
    floor <= error,
    fast(True, full=error < 0.06),
    stored > 2 * numbers,
    stored < entries,
)

# %% [markdown]
# ## Where it does not help
#
# *The networks have products* where those in use have nonlinearities, and the weights are random: nothing is said about what training finds. *"Almost all" is not all*: a CP is a train with diagonal cores, and it has a small rank in every matricization. And *the theorem has one direction only*: a train of ranks at most $r$ represents any CP of width $r$.

# %%
diagonal = paper.network("CP", 3, 2, 8)
as_train = tl.tt_svd(diagonal.to_dense(), rtol=1e-12)
say(
    f"The train of a CP of width 2 has ranks {max(as_train.ranks)}, and its odd-even rank is {paper.matricization_rank(as_train.to_dense(), range(0, 8, 2))}: one of the exceptions.",
    max(as_train.ranks) == 2,
    paper.matricization_rank(as_train.to_dense(), range(0, 8, 2)) == 2,
)

# %% [markdown]
# ## Exercises
#
# Exercises 2 to 5 build the bound and what it is worth. A blank says nothing; a wrong answer gets its own hint.
#
# ### 1. Predict: the theorem (★, 5 minutes)
#
# A random train of ranks 3 has ten modes of size 5. How wide must a shallow network (a CP) be at least, by the theorem, to represent the same tensor?

# %%
shallow_width = ...
lesson.shallow_width(shallow_width)

# %% [markdown] tags=["hints"]
# $q = \min(n, r)$.
#
# Half of the modes are rows.

# %% tags=["solution"]
shallow_width = min(5, 3) ** 5

# %% [markdown]
# ### 2. A train as a recurrent network (★★, 10 minutes)
#
# Write `recurrent(cores, inputs)`: $h \leftarrow \sum_i f_i\, h\, G[i]$, from $h = (1)$. `cores` is a list of tensors (r, n, q), `inputs` a list of vectors f (n,); the result is the last state, one number. Never form the tensor.


# %%
def recurrent(cores, inputs): ...


lesson.recurrent(recurrent)

# %% [markdown] tags=["hints"]
# Each core meets its own input: first contract the mode, then multiply the state.
#
# `torch.einsum("a,aib,i->b", h, core, f)` is one step.


# %% tags=["solution"]
def recurrent(cores, inputs):
    h = torch.ones(1, dtype=torch.float64)
    for core, f in zip(cores, inputs):
        h = torch.einsum("a,aib,i->b", h, core, f)
    return h[0]


# %% [markdown]
# ### 3. Odd by even (★★, 5 minutes)
#
# Write `odd_even(x)`: the matrix of a tensor x of any number of modes with the modes 0, 2, 4, ... as rows and 1, 3, 5, ... as columns, both in their order.


# %%
def odd_even(x): ...


lesson.odd_even(odd_even)

# %% [markdown] tags=["hints"]
# `range(0, x.ndim, 2)` and `range(1, x.ndim, 2)`, given to `x.permute`.
#
# Then `reshape(rows, -1)`, with the product of the sizes of the row modes.


# %% tags=["solution"]
def odd_even(x):
    rows, columns = range(0, x.ndim, 2), range(1, x.ndim, 2)
    size = torch.tensor(x.shape)[::2].prod()
    return x.permute(*rows, *columns).reshape(int(size), -1)


# %% [markdown]
# ### 4. How wide at least? (★, 5 minutes)
#
# Write `width_bound(x)`: a number of terms that every CP equal to x has at least, by odd and even modes.


# %%
def width_bound(x): ...


lesson.width_bound(width_bound)

# %% [markdown] tags=["hints"]
# In `odd_even(x)` each term of a CP is a matrix of rank one. How many of them does a matrix need at least?
#
# `torch.linalg.matrix_rank`.


# %% tags=["solution"]
def width_bound(x):
    return torch.linalg.matrix_rank(odd_even(x))


# %% [markdown]
# ### 5. How wide for an approximation? (★★, 10 minutes)
#
# Write `width_for(x, rtol)`: the smallest number of terms at which a CP may have a relative error of at most rtol, as far as the matrix of odd by even modes can tell.


# %%
def width_for(x, rtol): ...


lesson.width_for(width_for)

# %% [markdown] tags=["hints"]
# The best matrix of rank k is off by the norm of the singular values from the k-th on.
#
# `s.square().flip(0).cumsum(0).flip(0).sqrt()` has all of these norms.


# %% tags=["solution"]
def width_for(x, rtol):
    s = torch.linalg.svdvals(odd_even(x))
    tails = s.square().flip(0).cumsum(0).flip(0).sqrt()
    return (tails > rtol * tails[0]).sum()


# %% [markdown]
# ### 6. Predict: one percent (★★, 5 minutes)
#
# `lesson.network("TT", 3, 3, 8).to_dense()` needs a CP of 81 terms to be matched exactly. How many does a shallow network need at least for a relative error of 1 %? Guess first, then ask your `width_for`.

# %%
numerical_width = ...
lesson.numerical_width(numerical_width)

# %% [markdown] tags=["hints"]
# Look at how fast the singular values fall in the explorer, with width and mode size 3.
#
# `width_for(x, 0.01)`.

# %% tags=["solution"]
numerical_width = int(width_for(lesson.network("TT", 3, 3, 8).to_dense(), 0.01))

# %% [markdown]
# ### 7. Explore (★, 5 minutes)
#
# In the explorer at the top set the size of a mode to 3 and leave the width at 2: which is the smallest depth at which a shallow network needs a width of more than 20 to represent the train?

# %%
deep_enough = ...
lesson.deep_enough(deep_enough)

# %% [markdown] tags=["hints"]
# The sentence below the picture gives the rank of TT at the depth of the slider.
#
# The rank itself is asked for, not the bound: where modes are larger than the ranks, the rank is above it.

# %% tags=["solution"]
deep_enough = next(d for d in range(2, 10) if lesson.rank("TT", 3, 2, d) > 20)
