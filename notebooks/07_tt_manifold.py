# %% [markdown] tags=["lesson"]
# name = "trains as a manifold"
# minutes = 75
# needs = ["00b_vocabulary", "04_tt"]
# aims = [
#     "project a gradient onto a tangent space, step, and come back",
#     "build the completion of a matrix from four small functions",
#     "say how many entries a completion needs, and when it deceives itself",
# ]
# take = [
#     "A step among trains of fixed ranks: project the gradient, walk along it, round to the ranks.",
#     "Of a tangent step the rounding takes away a share that shrinks with the step: first order is kept.",
#     "Completion needs a few entries for each degree of freedom; with fewer the training error is zero and the tensor is wrong.",
# ]

# %% [markdown]
# # How does one take a step without leaving the trains of given ranks?
#
# Symmetric 2 by 2 matrices are points in space, and those of [rank](00b_vocabulary.ipynb#Rank) 1 are a cone. A gradient step (circle) leaves it; its projection
# onto the tangent plane (square) is the best direction that the cone allows; the retraction (triangle) goes back onto it.

# %%
from tensorlab.course.lessons import tt_manifold as lesson

lesson.ProjectedStep()

# %% [markdown]
# ## The mathematics
#
# [Trains](04_tt.ipynb) of fixed ranks are a smooth manifold, a curved surface that looks flat from
# near by [Holtz2012]. With left-orthonormal cores $U_k$ and right-orthonormal cores
# $V_k$ of the point $x$, its tangent vectors are
#
# $$ v = \sum_k U_0 \cdots U_{k-1}\, D_k\, V_{k+1} \cdots V_{d-1}, \qquad U_k^T D_k = 0 \;\text{ for } k < d - 1 . $$
#
# The condition is the *gauge*: it makes the $D_k$ unique and the terms orthogonal, so that $\langle v, w \rangle = \sum_k \langle D_k,
# E_k \rangle$. As a train $v$ has ranks $2r$. Three operations make an optimizer [Steinlechner2016]:
#
# * **project** the dense gradient $z$ onto the tangent space [Lubich2015]:
#   $D_k = (1 - U_k U_k^T)\,(U_0 \cdots U_{k-1})^T z\, (V_{k+1} \cdots V_{d-1})^T$, for $k = d - 1$ without the first factor;
# * **retract**: round $x + t v$, of ranks $2r$, to the ranks of $x$;
# * **transport** the last direction to the new point, by projection, so that conjugate gradients can add it to the new gradient.
#
# The first in the letters of the formula, beside the library:

# %%
import torch
from tqdm.auto import tqdm

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.claims import say
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture


def plain_project(x, z):
    """The projection of a dense z onto the tangent space at the train x, dense."""
    d, total = x.ndim, torch.zeros_like(z)
    U, V = x.orthogonal(d - 1).cores, x.orthogonal(0).cores
    for k, n in enumerate(x.shape):
        L, R = torch.ones(1, 1).double(), torch.ones(1, 1).double()
        for core in U[:k]:
            L = torch.tensordot(L, core, 1).flatten(0, 1)
        for core in reversed(V[k + 1 :]):
            R = torch.tensordot(core, R, 1).flatten(1)
        D = torch.einsum("lr,lnm,qm->rnq", L, z.reshape(len(L), n, -1), R)
        if k < d - 1:
            u, D = U[k].flatten(0, 1), D.flatten(0, 1)
            D = (D - u @ (u.T @ D)).reshape(U[k].shape[0], n, -1)
        total += torch.einsum("lr,rnq,qm->lnm", L, D, R).reshape(z.shape)
    return total


a, x = (
    tl.TT.randn((6, 7, 8), 3, generator=torch.Generator().manual_seed(s), dtype=torch.float64)
    for s in (0, 1)
)
z = x.to_dense() - a.to_dense()
gradient = tl.riemannian_grad(lambda x: (x - a).dot(x - a) / 2, x)
ours, theirs = plain_project(x, z), tl.tt_project(x, z).to_tt()
gap = lambda y: float((y - theirs.to_dense()).norm() / theirs.norm())
say(
    f"The lines above are off `tt_project` by {gap(ours):.0e}, and so is `riemannian_grad` by {gap(gradient.to_tt().to_dense()):.0e}, which never forms "
    f"the dense gradient: it differentiates $f$ of the train of ranks {gradient.to_tt().ranks} by the $D_k$ and applies the gauge [Novikov2022].",
    gap(ours) < 1e-12,
    gap(gradient.to_tt().to_dense()) < 1e-12,
    gradient.to_tt().ranks == tuple(2 * r for r in x.ranks),
)

# %% [markdown]
# ## What the retraction costs
#
# The retraction ends near the tangent step, and the nearer the shorter the step is. A full gradient step has a part that no train of
# these ranks can follow, however short it is: the rival.

# %%
steps = [10.0**-k for k in range(6)]
off = lesson.off_the_step(x, z, steps)


def bends(figure):
    ax = figure.subplots()
    for k, (name, shares) in enumerate(off.items()):
        ax.loglog(steps, shares, label=name, **plots.style(k))
    ax.set(xlabel="step", ylabel="distance / length of the step")
    ax.legend()
    return "How far from the end of the step the retraction is, relative to the step's length."


picture(bends, figsize=(7, 2.8))

# %%
tangent, free = off.values()
say(
    f"At step 0.001 the retraction is off the tangent step by {tangent[3]:.0e} of its length, and a tenth of the step has a tenth of that share "
    f"({tangent[4]:.0e}). Off the whole gradient step it is by {free[3]:.2f} of its length at every short step.",
    tangent[3] < 1e-3,
    8 < tangent[3] / tangent[4] < 12,
    all(abs(share / free[3] - 1) < 0.05 for share in free[3:]),
    free[3] > 0.5,
)

# %% [markdown]
# `f` must be a function of the tensor. One that looks at the cores has no gradient on the manifold, and is found out:

# %%
try:
    tl.riemannian_grad(lambda x: sum(core.square().sum() for core in x.cores), x)
except ValueError as error:
    print(error)

# %% [markdown]
# ## One call
#
# `tt_minimize` descends from any train. Here it looks for the train nearest to a tensor, from where rounding leaves it, which is only
# quasi-optimal: the rival is that start.

# %%
a = tl.TT.randn((6, 7, 8), 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
rounded = tl.tt_round(a, 3)
fits = {
    method: tl.tt_minimize(lambda x: (x - a).dot(x - a), rounded, method=method)
    for method in ("gd", "cg")
}
distance = {name: [f**0.5 / float(a.norm()) for f in fit.history] for name, fit in fits.items()}


def descents(figure):
    ax = figure.subplots()
    names = {"gd": "gradients", "cg": "conjugate gradients"}
    for k, (name, errors) in enumerate(distance.items()):
        ax.plot(errors, label=names[name], **plots.style(k, len(errors)))
    ax.axhline(distance["cg"][0], color="0.4", lw=1, ls="--", label="rounding")
    ax.set(xlabel="step", ylabel="relative error")
    ax.legend()
    return "Relative error of the train after each step, from that of rounding downwards."


picture(descents, figsize=(7, 2.8))

# %%
start, end = distance["cg"][0], distance["cg"][-1]
count = {name: len(errors) - 1 for name, errors in distance.items()}
say(
    f"Rounding is off by {start:.4f}, and the nearest train that is found by {end:.4f}: {(start - end) / start:.1%} less, after {count['cg']} steps of "
    f"conjugate gradients or {count['gd']} of plain ones. For so little one would seldom descend.",
    fits["gd"].converged and fits["cg"].converged,
    0 < (start - end) / start < 0.01,
    count["cg"] < count["gd"],
)

# %% [markdown]
# ## Completion
#
# Of a tensor only some entries are known, and its train is sought. The dense gradient of $\tfrac12 \sum_j |x[i_j] - y_j|^2$ has one
# number for each entry; made a train, its ranks would be the number of entries. So the entries are gathered, at a cost of
# $O(d\, m\, r^2)$ for $m$ of them. The straight way is Adam on the cores, by autograd; the trivial one says the mean for all. All get the
# same entries.

# %%
shape, rank = fast(((9,) * 3, 2), full=((20,) * 5, 3))
x, index = lesson.problem(shape, rank, 10, 0, positive=True)
values = x.at(index)
g = lambda: torch.Generator().manual_seed(1)
found, histories = {}, {}
for name, grow in (("Riemannian", False), ("Riemannian, ranks grow", True)):
    fit = tl.tt_complete(index, values, shape, rank, grow=grow, generator=g())
    found[name], histories[name] = fit.value, fit.history[1:]
for lr in (0.01, 0.1):
    y, errors = lesson.adam(
        index, values, shape, rank, steps=fast(150, full=400), lr=lr, generator=g()
    )
    found[f"Adam, lr {lr}"], histories[f"Adam, lr {lr}"] = y, errors
mean = float((values - values.mean()).norm() / values.norm())


def completions(figure):
    ax = figure.subplots()
    for k, (name, errors) in enumerate(histories.items()):
        ax.loglog(range(1, len(errors) + 1), errors, label=name, **plots.style(k))
    ax.axhline(mean, color="0.4", lw=1, ls="--", label="mean of the known entries")
    ax.set(xlabel="step", ylabel="relative error, known entries")
    ax.legend(loc="lower left")
    return "Relative error on the known entries after each step."


picture(completions, figsize=(7, 3.2))

# %%
whole = {name: float((y - x).norm() / x.norm()) for name, y in found.items()}
say(
    f"{len(values):,} of {float(torch.tensor(shape).double().prod()):.1e} entries are known. The errors of the whole tensor are "
    + ", ".join(
        f"{error:.0e} ({name}, {len(histories[name])} steps)" for name, error in whole.items()
    )
    + f". The mean is off by {mean:.2f}.",
    max(whole["Riemannian"], whole["Riemannian, ranks grow"]) < 1e-7,
    min(whole["Adam, lr 0.01"], whole["Adam, lr 0.1"]) > 1e-6,
    all(len(histories[name]) < 150 for name in ("Riemannian", "Riemannian, ranks grow")),
    max(whole.values()) < mean,
)

# %% [markdown]
# A step of Adam needs no QR and no rounding; its order of cost is the same.
#
# ## How many entries are enough?
#
# The manifold has $\sum_k r_k n_k r_{k+1} - \sum_k r_k^2$ dimensions, and no method can do with fewer entries. The share of random
# Gaussian trains that are recovered, against entries for each degree of freedom. The rival sees the same entries as those of a
# matrix, the first [mode](00b_vocabulary.ipynb#Mode) by all others.

# %%
shape, rank, ratios, seeds = fast(((6,) * 3, 1, (3, 6), 1), full=((8,) * 3, 2, (2, 3, 5, 8), 4))
shares = {name: [] for name in lesson.WAYS}
runs = lesson.phase(shape, rank, ratios, seeds, max_iter=fast(60, full=100))
for name, ratio, share in tqdm(runs, total=len(lesson.WAYS) * len(ratios)):
    shares[name].append((ratio, share))
picture(lambda figure: plots.success(figure.subplots(), shares), figsize=(7, 3))

# %%
share = {name: dict(points) for name, points in shares.items()}
few, enough = ratios[0], ratios[-2]
said = lambda ratio: ", ".join(f"{100 * of[ratio]:.0f} % {name}" for name, of in share.items())
say(
    f"Of {seeds} tensors each, with {enough} entries for each degree of freedom there are recovered: {said(enough)}; with {few}: {said(few)}. Growing "
    "ranks need the fewest entries. As a matrix the same entries have more degrees of freedom to determine.",
    fast(True, full=share["ranks grow"][enough] == 1),
    fast(True, full=share["ranks grow"][enough] > share["as a matrix"][enough]),
    fast(True, full=all(of[few] == 0 for of in share.values())),
    all(share["ranks grow"][r] >= max(of[r] for of in share.values()) for r in ratios),
)

# %% [markdown]
# ## A photograph from a tenth of its pixels
#
# Rows and columns are each cut into a coarse and a fine index, and the modes are ordered fine row, coarse row, coarse column, fine
# column. The same entries are completed as a matrix, which is a train of two modes, and filled with the nearest pixel that is known. The
# PSNR, the peak signal-to-noise ratio $-10 \log_{10}$ of the mean squared error of gray values in $[0, 1]$, is in decibels: more is better.

# %%
side = fast(16, full=256)
photo = lesson.photograph(side)
flat = torch.randperm(side * side, generator=torch.Generator().manual_seed(0))[: side * side // 10]
places = torch.stack([flat // side, flat % side], 1)
known = photo[places[:, 0], places[:, 1]]
options = dict(tol=1e-3, max_iter=fast(40, full=100))
train = tl.tt_complete(
    lesson.folded(places, side), known, (int(side**0.5),) * 4, 12, generator=g(), **options
)
matrix = tl.tt_complete(places, known, (side, side), 12, generator=g(), **options)
grid = torch.cartesian_prod(torch.arange(side), torch.arange(side))
nearest = torch.cat(
    [torch.cdist(rows.double(), places.double()).argmin(1) for rows in grid.split(4096)]
)
pictures = {
    "train": lesson.unfolded(train.value.to_dense()),
    "matrix": matrix.value.to_dense(),
    "nearest pixel": known[nearest].reshape(side, side),
}
observed = torch.zeros_like(photo)
observed[places[:, 0], places[:, 1]] = known
sharp = {name: lesson.psnr(y, photo) for name, y in pictures.items()}
sharp["mean"] = lesson.psnr(known.mean().expand(side, side), photo)


def draw(figure):
    shown = {"original": photo, "observed": observed, **pictures}
    for ax, (name, y) in zip(figure.subplots(1, 5), shown.items()):
        plots.image(ax, y.clamp(0, 1), name)
    return (
        "A photograph, a tenth of its pixels, and what a train, a matrix and the nearest known pixels make of them: "
        + ", ".join(f"{name} {sharp[name]:.1f} dB" for name in pictures)
        + "."
    )


picture(draw, figsize=(9, 2.2))

# %%
say(
    f"The train ({train.value.numel:,} numbers, ranks {train.value.ranks}) has a PSNR of {sharp['train']:.1f} dB, the matrix ({matrix.value.numel:,} numbers, rank "
    f"{matrix.value.ranks[0]}) {sharp['matrix']:.1f}, a picture gray all over {sharp['mean']:.1f}, and the nearest known pixel {sharp['nearest pixel']:.1f}: the "
    "plainest interpolation is the best of them. Pictures are smooth, and low ranks know nothing of it.",
    fast(True, full=sharp["nearest pixel"] > max(sharp["train"], sharp["matrix"])),
    fast(True, full=min(sharp["train"], sharp["matrix"]) > sharp["mean"]),
)

# %% [markdown]
# ## Where it fails
#
# Where the ranks are right but the entries too few, the training error falls and the tensor is wrong: only entries that were held out tell.

# %%
x, index = lesson.problem((12,) * 3, 4, 0.5, 0)
fit = tl.tt_complete(index, x.at(index), x.shape, 4, max_iter=fast(40, full=300), generator=g())
wrong = float((fit.value - x).norm() / x.norm())
say(
    f"With half as many entries as degrees of freedom the least training error is {min(fit.history):.0e}. Held out it is {fit.error:.2f}, and in the whole "
    f"tensor {wrong:.2f}, no better than zero, which is off by 1; `converged` is {fit.converged}.",
    fast(True, full=min(fit.history) < 0.1),
    fit.error > 0.7,
    wrong > 0.9,
    not fit.converged,
)

# %% [markdown]
# ## Exercises
#
# The second to the sixth build completion of a matrix, which is a train of two modes; each uses those before. A blank says nothing; a
# wrong answer gets its own hint.
#
# ### 1. Predict (★, 5 minutes)
#
# Trains of the shape (6, 7, 8, 5) with the ranks (3, 4, 2) are a manifold. What is its dimension?

# %%
degrees_of_freedom = ...
lesson.degrees_of_freedom(degrees_of_freedom)

# %% [markdown] tags=["hints"]
# Count the numbers in the four cores: $\sum_k r_k n_k r_{k+1}$.
#
# Between two cores an invertible matrix and its inverse can be put, and the tensor stays: take away $r^2$ at each bond.

# %% tags=["solution"]
degrees_of_freedom = 6 * 3 + 3 * 7 * 4 + 4 * 8 * 2 + 2 * 5 - 3**2 - 4**2 - 2**2

# %% [markdown]
# ### 2. The gauge (★, 5 minutes)
#
# Write `gauge(u, d)`: what is left of d (m, k) when the part in the columns of u (m, r) is taken away; u has orthonormal columns.


# %%
def gauge(u, d): ...


lesson.gauge(gauge)

# %% [markdown] tags=["hints"]
# `u.T @ d` are the coordinates of d in the columns of u.
#
# `u @ (u.T @ d)` is the part that they make.


# %% tags=["solution"]
def gauge(u, d):
    return d - u @ (u.T @ d)


# %% [markdown]
# ### 3. The tangent space (★★, 10 minutes)
#
# Write `tangent_projection(u, v, z)`: the projection of a matrix z (m, n) onto the tangent space at a matrix of rank r whose columns are
# spanned by u (m, r) and whose rows by v (n, r), both with orthonormal columns.


# %%
def tangent_projection(u, v, z): ...


lesson.tangent_projection(tangent_projection)

# %% [markdown] tags=["hints"]
# A tangent vector may have its columns outside of u, or its rows outside of v, but not both at once.
#
# `gauge(u, z)` has its columns outside of u; the gauge of v, of the transpose, takes what is inside of v out of it.


# %% tags=["solution"]
def tangent_projection(u, v, z):
    return z - gauge(v, gauge(u, z).T).T


# %% [markdown]
# ### 4. Back (★, 5 minutes)
#
# Write `back(y, r)`: the matrix of rank r nearest to y. It is the retraction.


# %%
def back(y, r): ...


lesson.back(back)

# %% [markdown] tags=["hints"]
# `u, s, vh = torch.linalg.svd(y, full_matrices=False)`.
#
# Keep the first r columns of u, numbers of s, and rows of vh.


# %% tags=["solution"]
def back(y, r):
    u, s, vh = torch.linalg.svd(y, full_matrices=False)
    return (u[:, :r] * s[:r]) @ vh[:r]


# %% [markdown]
# ### 5. One step (★★, 10 minutes)
#
# Write `riemannian_step(x, z, t, r)`: the matrix of rank r after a step of length t from x, of rank r, against the dense gradient z.


# %%
def riemannian_step(x, z, t, r): ...


lesson.riemannian_step(riemannian_step)

# %% [markdown] tags=["hints"]
# The singular vectors of x give u and v: `u[:, :r]` and `vh[:r].T`.
#
# Project z, walk -t along it from x, and bring the end `back`.


# %% tags=["solution"]
def riemannian_step(x, z, t, r):
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    return back(x - t * tangent_projection(u[:, :r], vh[:r].T, z), r)


# %% [markdown]
# ### 6. Completion (★★★, 20 minutes)
#
# Write `complete(y, mask, r, steps)`: a matrix of rank r that is near y where mask is 1 (elsewhere it is 0, and y is anything). Begin with
# the matrix of rank r nearest to mask * y. Each step has the length that is best along the tangent: with
# $v$ the projection of the gradient $z$, it is $t = |v|^2 / |\text{mask} * v|^2$.


# %%
def complete(y, mask, r, steps): ...


lesson.complete(complete)

# %% [markdown] tags=["hints"]
# The gradient of half the squares is `z = mask * (x - y)`.
#
# `tangent_projection` gives v for the length t; then `riemannian_step(x, z, t, r)`.


# %% tags=["solution"]
def complete(y, mask, r, steps):
    x = back(mask * y, r)
    for _ in range(steps):
        z = mask * (x - y)
        u, _, vh = torch.linalg.svd(x, full_matrices=False)
        v = tangent_projection(u[:, :r], vh[:r].T, z)
        t = v.square().sum() / (mask * v).square().sum()
        x = riemannian_step(x, z, t, r)
    return x


# %% [markdown]
# ### 7. Explore (★, 5 minutes)
#
# In the explorer at the top: at which angle of x does the step not move although f is not the least? Answer in degrees.

# %%
saddle = ...
lesson.saddle(saddle)

# %% [markdown] tags=["hints"]
# The last sentence below the picture says what f was and what it is after the step.
#
# There are two angles at which it stays; at one of them it is already the least.

# %% tags=["solution"]
saddle = 115
