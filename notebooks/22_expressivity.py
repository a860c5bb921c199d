# %% [markdown]
# # How wide must a shallow network be to do what a deep one does?
#
# Exponentially wide, almost always. Three networks with products instead of nonlinearities, random weights: a recurrent one (a
# train), a deep one (a tree) and a shallow one (a CP). The rank on the left is a lower bound for the width of any shallow
# network that computes the same.

# %%
import inspect

import torch
from IPython.display import Code

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.lab import fast
from tensorlab.course.lessons import expressivity as lesson
from tensorlab.course.widgets import picture
from tensorlab.papers import expressivity as paper

lesson.WidthExplorer()

# %% [markdown]
# ## The mathematics
#
# All three have the score $\langle W,\; f(x_0) \circ \dots \circ f(x_{d-1}) \rangle$ with features $f(x_k) \in \mathbb{R}^n$ of the
# parts of an object, and differ in the format of $W$ [Cohen2016]:
#
# | network | format | one step |
# |---|---|---|
# | recurrent, width $r$ | TT | $h_{k+1} = \sum_i f_i(x_k)\, h_k G_k[i]$ |
# | deep, windows of two | HT | $u_t[c] = \sum_{ab} u_l[a]\, u_r[b]\, B_t[a, b, c]$ |
# | shallow, width $R$ | CP | $\sum_{j \le R} w_j \prod_k (f(x_k) F_k)_j$ |
#
# A matricization of a CP of rank $R$ is a sum of $R$ matrices of rank one. So $R$ is at least the rank of every matricization of $W$. With
# the modes $0, 2, 4, \dots$ as rows and the others as columns, almost every train of ranks $r$ has the rank [Khrulkov2018]
#
# $$ \operatorname{rank} \ge q^{d/2}, \qquad q = \min(n, r) , $$
#
# while its contiguous cuts have rank $r$.

# %%
print(" n  r  d   contiguous cut   odd by even   q^(d/2)")
for n, r, d in [(2, 2, 4), (2, 2, 8), (3, 3, 6), (3, 2, 8)] + (
    fast([], full=[(2, 2, 12), (2, 3, 12), (3, 3, 8), (4, 2, 8)])
):
    x = paper.network("TT", n, r, d).to_dense()
    cut, odd = (paper.matricization_rank(x, rows) for rows in (range(d // 2), range(0, d, 2)))
    print(f"{n:2} {r:2} {d:2} {cut:16} {odd:13} {min(n, r) ** (d // 2):9}")

# %%
Code(inspect.getsource(paper.matricization_rank), language="python")

# %% [markdown]
# ## The same object
#
# The exponential machine of lesson 21 is this network with $f(x) = (1, x)$: one function computes the score in all three formats, and a CP is
# a train and a tree with diagonal cores.

# %%
g = torch.Generator().manual_seed(0)
features = [torch.randn(4, 3, generator=g, dtype=torch.float64) for _ in range(8)]
train = paper.network("TT", 3, 2, 8)
state = torch.ones(4, 1, dtype=torch.float64)
for core, f in zip(train.cores, features):
    state = torch.einsum("na,aib,ni->nb", state, core, f)  # the recurrent network, written out
print(
    "recurrent network - inner product:",
    float((state[:, 0] - tl.rank_one_inner(train, features)).abs().max()),
)

# %% [markdown]
# ## From one network to another
#
# The widths that a network needs to be a random one of another kind with width $r$, computed from ranks of matricizations. For TT and HT
# they are exact; for CP they are the largest lower bound of several. In the last column, what the theory says.

# %%
print("to  from    n  r  d   width   theory")
for to in ("TT", "HT", "CP"):
    for source in ("TT", "HT", "CP"):
        for n, r, d in [(3, 3, 4)] + fast([], full=[(2, 2, 8), (3, 3, 8), (2, 2, 16)]):
            if to != source:
                width = paper.width(to, paper.network(source, n, r, d))
                print(
                    f"{to:3} {source:5} {n:3} {r:2} {d:2} {width:7}   {paper.theory(to, source, r, d)}"
                )

# %% [markdown]
# ## When the theorem says less than it seems
#
# It is about being *equal*. The singular values fall fast, so a much narrower network comes close; how close, a fit by alternating least squares
# shows.

# %%
x = paper.network("TT", 2, 2, 8).to_dense()
s = lesson.spectrum("TT", 2, 2, 8)
errors = []
for rank in fast((2, 8), full=(2, 4, 8, 12, 16, 24)):
    fit = tl.cp_als(
        x, rank, max_iter=fast(20, full=300), generator=torch.Generator().manual_seed(0)
    )
    errors.append((rank, float((fit.value.to_dense() - x).norm() / x.norm())))
    print(
        f"CP of rank {rank:2}: relative error {errors[-1][1]:.4f}; no CP of this rank is below {float(s[rank:].norm() / s.norm()):.4f}"
    )


# %%
def draw(figure):
    axes = figure.subplots()
    floor = [(rank, float(s[rank:].norm() / s.norm())) for rank, _ in errors if rank < len(s)]
    return plots.error_against_storage(axes, {"CP, fitted": errors, "lower bound": floor})


picture(draw)

# %% [markdown]
# ## Exercises
#
# **Predict.**

# %%
print(lesson.shallow_width.question)
lesson.shallow_width(...)

# %% [markdown]
# **Implement.**


# %%
def recurrent(cores, inputs): ...


print(lesson.recurrent.question)
lesson.recurrent(recurrent)

# %% [markdown]
# **Explore.**

# %%
print(lesson.numerical_width.question)
lesson.numerical_width(...)
