# %% [markdown]
# # Can a tensor be known from a few of its entries?
#
# A function of ten variables on 32 points each has more values than anyone can compute: $32^{10} \approx 10^{15}$. If its train has
# small ranks, it can be found from some ten thousand of them. Press *step*: circles are the pivots, lines the rows and columns that
# have been read; in the middle what is still wrong; on the right the error at points that the search never sees.

# %%
from tensorlab.course.lessons import tt_cross as lesson

lesson.CrossExplorer()

# %% [markdown]
# ## The mathematics
#
# A matrix of rank $r$ is known from $r$ of its rows $I$ and $r$ of its columns $J$:
#
# $$ x = x[:, J]\; x[I, J]^{-1}\; x[I, :] . $$
#
# For a matrix that only nearly has rank $r$, the right side agrees with it on the rows and columns read, and elsewhere the error
# depends on the pivots: with the block $x[I, J]$ of largest volume it is at most $(r+1)\,\sigma_{r+1}$ in each entry. Finding that
# block is hard; adding the largest entry that is left over, again and again, is easy and nearly as good. For a tensor the same is
# done at each bond [OseledetsTyrtyshnikov2010, Savostyanov2014]:
#
# $$ x \approx T_0 P_1^{-1} T_1 P_2^{-1} \cdots T_{d-1}, \qquad T_k = x[I_k, :, J_{k+1}], \quad P_k = x[I_k, J_k], $$
#
# with $I_k$ a list of $r_k$ left parts of indices and $J_k$ one of right parts. All entries of the $T_k$ together: $\sum_k r_k n_k r_{k+1}$,
# as many as the train has numbers. The search for pivots reads little more, because the row and column of a new pivot are just
# what the neighboring $T_k$ lack.

# %%
import inspect
import math
import time

import torch
from IPython.display import Code

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture
from tensorlab.formats import tt_cross as module

Code(inspect.getsource(module._Cross._grow), language="python")

# %% [markdown]
# ## Ten variables
#
# $1/\|x\|$ on $32^{10}$ points to six digits. The held-out points are part of the count. Beside the error that the call reports stands
# the one at a hundred thousand fresh points.

# %%
d, n = fast((6, 16), full=(10, 32))
grid = torch.arange(1, n + 1, dtype=torch.float64) / n


def norm(index):
    return grid[index].square().sum(1).rsqrt()


def rosenbrock(index):
    x = 4 * grid[index] - 2
    return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)


def ackley(index):
    x = 7 * grid[index] - 3
    return (
        20
        + math.e
        - 20 * (-0.2 * x.square().mean(1).sqrt()).exp()
        - (2 * math.pi * x).cos().mean(1).exp()
    )


fresh = torch.randint(n, (100_000, d), generator=torch.Generator().manual_seed(1))
fits = {}
for f in (norm, rosenbrock, ackley):
    start = time.perf_counter()
    fit = fits[f.__name__] = tl.tt_cross(
        f, (n,) * d, rtol=1e-6, budget=100_000, generator=torch.Generator().manual_seed(0)
    )
    seconds = time.perf_counter() - start
    true = float((fit.value.at(fresh) - f(fresh)).norm() / f(fresh).norm())
    print(
        f"{f.__name__:10} {fit.evaluations:6} of {n**d:.0e} entries, largest rank {max(fit.value.ranks):2}, "
        f"reported error {fit.error:.1e}, true {true:.1e}, {seconds:.2f} s"
    )

# %% [markdown]
# How near to the least possible is this? The train of `norm` to the same error, by rounding, stores so many numbers:

# %%
least = tl.tt_round(fits["norm"].value, rtol=1e-6)
print(
    f"{least.numel} numbers with ranks {least.ranks}; read were {fits['norm'].evaluations} entries, "
    f"{fits['norm'].evaluations / least.numel:.1f} times as many"
)

# %% [markdown]
# ## The grid can be finer than any memory
#
# Write each index in binary: a grid of $2^{30}$ points in each of two variables becomes a train of 60 modes of size 2, the *quantized*
# train [Khoromskij2011].

# %%
bits = fast(16, full=30)
shape = (2**bits, 2**bits)


def oscillating(index):
    x = index.double() / 2**bits
    return torch.sin(50 * x[:, 0] * (1 + 0.1 * x[:, 1])) / (1 + x[:, 0] + x[:, 1])


fit = tl.tt_cross(
    oscillating,
    shape,
    rtol=fast(1e-4, full=1e-7),
    budget=200_000,
    quantized=True,
    generator=torch.Generator().manual_seed(0),
)
points = torch.randint(2**bits, (1000, 2), generator=torch.Generator().manual_seed(2))
found = fit.value.at(tl.to_digits(points, shape))
print(
    f"{fit.value.ndim} modes, largest rank {max(fit.value.ranks)}, {fit.evaluations} of {4.0**bits:.0e} entries, "
    f"largest error at fresh points {float((found - oscillating(points)).abs().max()):.1e}"
)

# %% [markdown]
# ## Where it fails, and says so
#
# A jump along a sphere has no small ranks. The search ends with its budget and `converged=False`; the error it reports is still
# the true one. And a peak that no random point has met cannot be known at all: here the reported error is right about everything but
# the one entry that matters.

# %%
jump = lesson.example_function("jump", d, n)
fit = tl.tt_cross(
    jump, (n,) * d, rtol=1e-6, budget=20_000, generator=torch.Generator().manual_seed(0)
)
true = float((fit.value.at(fresh) - jump(fresh)).norm() / jump(fresh).norm())
print(
    f"jump: converged={fit.converged}, {fit.evaluations} evaluations, reported {fit.error:.2f}, true {true:.2f}"
)


def needle(index):
    return norm(index) + 1e3 * (index == 3).all(1)


fit = tl.tt_cross(
    needle, (n,) * d, rtol=1e-4, budget=100_000, generator=torch.Generator().manual_seed(0)
)
at = torch.full((1, d), 3)
print(
    f"needle: converged={fit.converged}, reported error {fit.error:.1e}, "
    f"but x[3, ..., 3] = {float(needle(at)):.1f} became {float(fit.value.at(at)):.1f}"
)

# %% [markdown]
# ## The largest entry
#
# A train knows the norm of each of its slices. `tt_argmax` keeps the hundred largest while it fixes one index after the other
# [Chertkov2022]. With cross approximation before it, this minimizes a function of many variables: Ackley's has its minimum at 0.

# %%
index, value = tl.tt_argmax(-1 * fits["ackley"].value)
best = float(ackley(torch.tensor([index])))
nearest = int((7 * grid - 3).abs().argmin())
print(f"smallest value {best:.4f} at {index}; the grid point nearest to 0 is number {nearest}")
picture(lambda figure: plots.train(figure.subplots(), fits["ackley"].value), figsize=(8, 2.4))

# %% [markdown]
# ## Gradients
#
# The cores are built from the values of f, so where these carry a graph, the train does too: derivatives with respect to
# parameters of the function, with the chosen fibers held fixed.

# %%
width = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
fit = tl.tt_cross(
    lambda i: (-grid[i].square().sum(1) / width).exp(), (n,) * d, rtol=1e-8, budget=50_000
)
mean = torch.linalg.multi_dot([c.mean(1) for c in fit.value.cores]).reshape(())
(slope,) = torch.autograd.grad(mean, width)
line = (-grid.square() / width.detach()).exp()
exact = d * line.mean() ** (d - 1) * (line * grid.square()).mean() / width.detach() ** 2
print(f"d mean / d width = {float(slope):.10f}, on paper {float(exact):.10f}")

# %% [markdown]
# ## Exercises
#
# **Predict.**

# %%
print(lesson.cross_evaluations.question)
lesson.cross_evaluations(...)

# %% [markdown]
# **Implement.**


# %%
def cross(x, i, j): ...


print(lesson.cross_rank_one.question)
lesson.cross_rank_one(cross)

# %% [markdown]
# **Explore.**

# %%
print(lesson.hard_function.question)
lesson.hard_function(...)
