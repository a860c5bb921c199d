# %% [markdown] tags=["lesson"]
# name = "cross approximation"
# minutes = 70
# needs = ["00b_vocabulary", "04_tt"]
# aims = [
#     "build a train from a few rows and columns with three small functions",
#     "say how many entries a cross approximation reads, and how it knows its error",
#     "name two kinds of functions that it cannot find",
# ]
# take = [
#     "A matrix of rank r is known from r of its rows and r of its columns; a train from the fibers through its pivots.",
#     "Adding the largest entry that is left, again and again, is easy and nearly as good as the SVD.",
#     "The error is measured at points that the search has not seen: it is honest about everything but a needle in a haystack.",
# ]

# %% [markdown]
# # Can a tensor be known from a few of its entries?
#
# If its train has small [ranks](00b_vocabulary.ipynb#Rank), it can: of the $32^{10} \approx 10^{15}$ values of a function of ten variables fewer than a hundred thousand are
# enough. Press *step*: lines are the rows and columns that have been read, circles the *pivots*, entries in which they cross; in the middle
# what is still wrong (bright: more); on the right the error at points that the search never sees, and the tolerance as a line.

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
# block is hard; adding the largest entry that is left over, again and again, is easy. In the letters of the formula:

# %%
import math

import torch

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.claims import say
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture


def plain_cross(x, r):
    """r rows I and columns J, each pivot the largest entry that is left, and the product of the formula."""
    I, J, rest = [], [], x
    for _ in range(r):
        i, j = divmod(int(rest.abs().argmax()), rest.shape[1])
        rest = rest - torch.outer(rest[:, j], rest[i]) / rest[i, j]
        I.append(i)
        J.append(j)
    return x[:, J] @ torch.linalg.solve(x[I][:, J], x[I])


grid = torch.cartesian_prod(torch.arange(60), torch.arange(60))
x = lesson.example_function("ripples", 2, 60)(grid).reshape(60, 60)
ranks = range(1, 11)
relative = lambda y: float((y - x).norm() / x.norm())
by_rank = {
    "largest entry left": [relative(plain_cross(x, r)) for r in ranks],
    "random rows and columns": [lesson.random_cross(x, r) for r in ranks],
    "SVD, which needs all entries": [
        relative(tl.LowRank.from_dense(x, r).to_dense()) for r in ranks
    ],
}


def crosses(figure):
    ax = figure.subplots()
    for k, (name, errors) in enumerate(by_rank.items()):
        ax.semilogy(list(ranks), errors, label=name, **plots.style(k))
    ax.set(xlabel="rank", ylabel="relative error")
    ax.legend()
    return (
        "Relative error against the rank: the largest entry that is left, random rows and columns (the median of 20, each with the best "
        "cutoff of its pseudoinverse), and the SVD."
    )


picture(crosses, figsize=(7, 3))

# %%
ours, chance, best = (errors[5] for errors in by_rank.values())
early = by_rank["random rows and columns"][2] / by_rank["largest entry left"][2]
say(
    f"At rank 6, built of {6 * 120 - 36} of {x.numel():,} entries (its pivots were searched among all), the cross has an error of {ours:.1e}, "
    f"{ours / best:.1f} times that of the SVD, which needs all entries; random rows and columns have {chance:.1e}, even if each pseudoinverse gets the cutoff that suits it best. At low ranks "
    f"chance costs little: at rank 3 it is off {early:.1f} times as much.",
    1 <= ours / best < 10,
    chance > 1000 * ours,
    1 < early < 3,
)

# %% [markdown]
# For a tensor the same is done at each bond of the train [OseledetsTyrtyshnikov2010, Savostyanov2014]:
#
# $$ x \approx T_0 P_1^{-1} T_1 P_2^{-1} \cdots T_{d-1}, \qquad T_k = x[I_k, :, J_{k+1}], \quad P_k = x[I_k, J_k], $$
#
# with $I_k$ a list of $r_k$ left parts of indices and $J_k$ one of right parts. All entries of the $T_k$ together: $\sum_k r_k n_k r_{k+1}$,
# as many as the train has numbers. The search for pivots reads more; its rows and columns are what the neighboring $T_k$ lack.
#
# ## Ten variables
#
# Three functions on a grid, to six digits: $1/\|x\|$, Rosenbrock's and Ackley's. The held-out points are part of the count. The rival is the best
# quadratic polynomial through as many random points (least squares).

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
    flat, waves = -0.2 * x.square().mean(1).sqrt(), (2 * math.pi * x).cos().mean(1)
    return 20 + math.e - 20 * flat.exp() - waves.exp()


fresh = torch.randint(n, (100_000, d), generator=torch.Generator().manual_seed(1))
fits, paths, rivals, true = {}, {}, {}, {}
for f in (norm, rosenbrock, ackley):
    name = f.__name__
    fits[name], paths[name] = lesson.searched(f, (n,) * d, rtol=1e-6, budget=100_000)
    rivals[name] = lesson.quadratic(f, n, d, fits[name].evaluations, fresh)
    true[name] = float((fits[name].value.at(fresh) - f(fresh)).norm() / f(fresh).norm())


def work(figure):
    ax = figure.subplots()
    seen = plots.error_against_work(ax, paths, 1e-6)
    for k, name in enumerate(paths):
        ax.plot(fits[name].evaluations, rivals[name], "*", color=plots.COLORS[k], ms=11)
    return seen + " Stars: quadratic polynomials of as many points."


picture(work, figsize=(7, 3.2))

# %%
least = tl.tt_round(fits["norm"].value, rtol=1e-6)
most = max(fit.evaluations for fit in fits.values())
say(
    f"At most {most:,} of {n**d:.0e} entries are read. At a hundred thousand fresh points the errors are "
    + ", ".join(
        f"{error:.0e} ({name}; reported {fits[name].error:.0e})" for name, error in true.items()
    )
    + f"; those of the polynomials are {min(rivals.values()):.0e} and more.",
    most < 100_000,
    all(fit.converged for fit in fits.values()),
    all(error < 3e-6 for error in true.values()),
    min(rivals.values()) > 1e-3,
)
say(
    f"The train of `norm` to the same error stores {least.numel:,} numbers; the search has read {fits['norm'].evaluations / least.numel:.1f} times as "
    "many entries.",
    2 < fits["norm"].evaluations / least.numel < 20,
)

# %% [markdown]
# ## The grid can be finer than any memory
#
# Write each index in binary: a grid of $2^{30}$ points in each of two variables becomes a train of 60 [modes](00b_vocabulary.ipynb#Mode) of size 2, the *quantized*
# train [Khoromskij2011].

# %%
bits, rtol = fast((16, 1e-4), full=(30, 1e-7))
shape = (2**bits, 2**bits)


def oscillating(index):
    x = index.double() / 2**bits
    return torch.sin(50 * x[:, 0] * (1 + 0.1 * x[:, 1])) / (1 + x[:, 0] + x[:, 1])


fit = tl.tt_cross(
    oscillating,
    shape,
    rtol=rtol,
    budget=200_000,
    quantized=True,
    generator=torch.Generator().manual_seed(0),
)
points = torch.randint(2**bits, (1000, 2), generator=torch.Generator().manual_seed(2))
found = fit.value.at(tl.to_digits(points, shape))
off = float((found - oscillating(points)).norm() / oscillating(points).norm())
say(
    f"{fit.value.ndim} modes, ranks up to {max(fit.value.ranks)}: {fit.evaluations:,} of {4.0**bits:.0e} entries have been read, and the error at a "
    f"thousand fresh points is {off:.0e}.",
    fit.converged,
    off < 5 * rtol,
    fit.evaluations < 200_000,
)

# %% [markdown]
# ## Where it fails
#
# A jump along a sphere has no small ranks. And a *needle*, a single large entry with nothing around it, cannot be known from any few of the others.

# %%
options = dict(rtol=1e-4, budget=60_000)
jump = lesson.example_function("jump", d, n)
fit = tl.tt_cross(jump, (n,) * d, **options, generator=torch.Generator().manual_seed(0))
off = float((fit.value.at(fresh) - jump(fresh)).norm() / jump(fresh).norm())
say(
    f"The jump has used up its budget, {fit.evaluations:,} entries, and reports an error of {fit.error:.2f}, which is near the true one, {off:.2f}; "
    f"`converged` is {fit.converged}.",
    not fit.converged,
    0.7 < fit.error / off < 1.4,
    off > 0.1,
)


def needle(index):
    return norm(index) + 1e3 * (index == 3).all(1)


at = torch.full((1, d), 3)
fit = tl.tt_cross(needle, (n,) * d, **options, generator=torch.Generator().manual_seed(0))
say(
    f"The needle is missed: `converged` is {fit.converged} with a reported error of {fit.error:.0e}, and $x[3, \\dots, 3]$ = {float(needle(at)):.0f} has "
    f"become {float(fit.value.at(at)):.1f}.",
    fit.converged,
    float(needle(at)) > 1000,
    float(fit.value.at(at)) < 5,
)

# %% [markdown]
# ## The largest entry
#
# A train knows the norm of each of its [slices](00b_vocabulary.ipynb#Fiber-and-slice). `tt_argmax` keeps the hundred largest while it fixes one index after the other
# [Chertkov2022]. With cross approximation before it, this minimizes a function of many variables. The baseline is the best of as many random points.

# %%
index, _ = tl.tt_argmax(-1 * fits["ackley"].value)
nearest = int((7 * grid - 3).abs().argmin())
found = float(ackley(torch.tensor([index])))
random = float(ackley(fresh[: fits["ackley"].evaluations]).min())
say(
    f"Ackley's function has its minimum at 0, and the grid point nearest to it is number {nearest} in each mode. The train finds {tuple(index)} with "
    f"the value {found:.3f}; the best of as many random points has {random:.3f}.",
    set(index) == {nearest},
    found < random,
)

# %% [markdown]
# ## Exercises
#
# The second to the fifth build a cross approximation, of a matrix and of a train. A blank says nothing; a wrong answer gets its own hint.
#
# ### 1. Predict (★, 5 minutes)
#
# A tensor of shape (32, 32, 32, 32) has a train of ranks (5, 5, 5). How many of its entries are in the fibers $T_0, \dots, T_3$ from which an
# interpolating train is built?

# %%
cross_evaluations = ...
lesson.cross_evaluations(cross_evaluations)

# %% [markdown] tags=["hints"]
# $T_k = x[I_k, :, J_{k+1}]$ has $r_k$ choices on the left and $r_{k+1}$ on the right of all values of index k.
#
# Nothing is left of the first mode, or right of the last.

# %% tags=["solution"]
cross_evaluations = 32 * 5 + 5 * 32 * 5 + 5 * 32 * 5 + 5 * 32

# %% [markdown]
# ### 2. One cross (★, 5 minutes)
#
# Write `cross_rank_one(x, i, j)`: the matrix of rank 1 that agrees with the matrix x in row i and in column j.


# %%
def cross_rank_one(x, i, j): ...


lesson.cross_rank_one(cross_rank_one)

# %% [markdown] tags=["hints"]
# Column times row: `torch.outer(x[:, j], x[i])`.
#
# At the crossing it must give `x[i, j]`, not its square.


# %% tags=["solution"]
def cross_rank_one(x, i, j):
    return torch.outer(x[:, j], x[i]) / x[i, j]


# %% [markdown]
# ### 3. Pivots (★★, 10 minutes)
#
# Write `pivots(x, r)`: two lists, r row numbers and r column numbers. Each pivot is the entry of largest absolute value in what the crosses
# before have left of the matrix x.


# %%
def pivots(x, r): ...


lesson.pivots(pivots)

# %% [markdown] tags=["hints"]
# Begin with `rest = x`, and take the cross of each pivot away from it.
#
# `divmod(int(rest.abs().argmax()), rest.shape[1])` is the row and the column of the largest entry.


# %% tags=["solution"]
def pivots(x, r):
    rows, columns, rest = [], [], x
    for _ in range(r):
        i, j = divmod(int(rest.abs().argmax()), rest.shape[1])
        rest = rest - cross_rank_one(rest, i, j)
        rows.append(i)
        columns.append(j)
    return rows, columns


# %% [markdown]
# ### 4. The two sides (★★, 10 minutes)
#
# Write `sides(x, r)`: the matrices $x[:, J]\, x[I, J]^{-1}$ (m, r) and $x[I, :]$ (r, n) for the pivots of x.


# %%
def sides(x, r): ...


lesson.sides(sides)

# %% [markdown] tags=["hints"]
# `x[rows][:, columns]` is the block in which they cross.
#
# `torch.linalg.solve(block, x[:, columns], left=False)` is $x[:, J]$ times the inverse of the block.


# %% tags=["solution"]
def sides(x, r):
    rows, columns = pivots(x, r)
    block = x[rows][:, columns]
    return torch.linalg.solve(block, x[:, columns], left=False), x[rows]


# %% [markdown]
# ### 5. A train (★★★, 15 minutes)
#
# Write `cross_train(x, r)`: the list of the d cores (r_left, n, r_right) of a train of x, with all ranks r, by a cross at each bond in place of an SVD.
# Here x may be formed, and `sides` may look at all of what is left.


# %%
def cross_train(x, r): ...


lesson.cross_train(cross_train)

# %% [markdown] tags=["hints"]
# Begin with `rest = x.reshape(1, -1)`, and cut one mode after another, as TT-SVD does.
#
# `left, rest = sides(rest.reshape(rank * n, -1), r)`; `left` becomes the core (rank, n, r).


# %% tags=["solution"]
def cross_train(x, r):
    cores, rest = [], x.reshape(1, -1)
    for n in x.shape[:-1]:
        rank = len(rest)
        left, rest = sides(rest.reshape(rank * n, -1), r)
        cores.append(left.reshape(rank, n, r))
    return [*cores, rest[:, :, None]]


# %% [markdown]
# ### 6. Explore (★, 5 minutes)
#
# In the explorer at the top, with six modes and a tolerance of $10^{-3}$: which function does not converge? Answer with its name in quotes.

# %%
hard_function = ...
lesson.hard_function(hard_function)

# %% [markdown] tags=["hints"]
# Let the explorer play each of them to its end.
#
# The last words of the first sentence below the picture are "converged" or "not converged".

# %% tags=["solution"]
hard_function = "jump"
