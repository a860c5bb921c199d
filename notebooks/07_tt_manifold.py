# %% [markdown]
# # How does one take a step without leaving the trains of given ranks?
#
# Symmetric 2 by 2 matrices are points in space, and those of rank 1 are a cone. A gradient step (circle) leaves it; its projection
# onto the tangent plane (square) is the best direction that the cone allows; the retraction (triangle) goes back onto it.

# %%
from tensorlab.course.lessons import tt_manifold as lesson

lesson.OneStep()

# %% [markdown]
# ## The mathematics
#
# Trains of fixed ranks are a smooth manifold [Holtz2012]. With left-orthonormal cores $U_k$ and right-orthonormal cores $V_k$ of the
# point $x$, its tangent vectors are
#
# $$ v = \sum_k U_0 \cdots U_{k-1}\, D_k\, V_{k+1} \cdots V_{d-1}, \qquad U_k^H D_k = 0 \;\text{ for } k < d - 1 . $$
#
# The condition is the *gauge*: it makes the $D_k$ unique and the terms orthogonal, so that $\langle v, w \rangle = \sum_k \langle D_k,
# E_k \rangle$. As a train $v$ has ranks $2r$. Three operations make an optimizer [Steinlechner2016]:
#
# * **project** the dense gradient onto the tangent space. It need not be formed: differentiate $f$ of the train of ranks $2r$ by the
#   $D_k$ and apply the gauge [Novikov2022];
# * **retract**: round $x + t v$, of ranks $2r$, to the ranks of $x$;
# * **transport** the last direction to the new point, by projection, so that conjugate gradients can add it to the new gradient.

# %%
import inspect

import torch
from IPython.display import Code

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture
from tensorlab.formats.tt_manifold import retract

a, x = (
    tl.TT.randn((6, 7, 8), 3, generator=torch.Generator().manual_seed(s), dtype=torch.float64)
    for s in (0, 1)
)
gradient = tl.riemannian_grad(lambda x: (x - a).dot(x - a) / 2, x)
dense = tl.tt_project(x, x.to_dense() - a.to_dense())
print(gradient, "as a train:", gradient.to_tt().ranks)
print(
    f"off the projection of the dense gradient: {float((gradient - dense).norm() / dense.norm()):.1e}"
)
for step in (0.1, 0.01, 0.001):
    y = retract(gradient, -step)
    bend = float((y - x + step * gradient.to_tt()).norm())
    print(
        f"step {step:5}: the retraction moves by {bend:.1e}, a share of {bend / (step * float(gradient.norm())):.1e} of the step"
    )

# %% [markdown]
# `f` must be a function of the tensor. One that looks at the cores has no gradient on the manifold, and is found out:

# %%
try:
    tl.riemannian_grad(lambda x: sum(core.square().sum() for core in x.cores), x)
except ValueError as error:
    print(error)

# %%
Code(inspect.getsource(tl.riemannian_grad), language="python")

# %% [markdown]
# ## One call
#
# `tt_minimize` finds the train nearest to a tensor, and does a little better than rounding, which is only quasi-optimal.

# %%
a = tl.TT.randn((6, 7, 8), 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
rounded = tl.tt_round(a, 3)
for method in ("gd", "cg"):
    fit = tl.tt_minimize(lambda x: (x - a).dot(x - a), rounded, method=method)
    print(
        f"{method}: {fit.history[0] ** 0.5 / float(a.norm()):.5f} by rounding, {fit.history[-1] ** 0.5 / float(a.norm()):.5f} after "
        f"{len(fit.history) - 1} steps, converged: {fit.converged}"
    )

# %% [markdown]
# ## Completion
#
# Of a tensor only some entries are known, and its train is sought. The dense gradient of $\tfrac12 \sum_j |x[i_j] - y_j|^2$ has one
# number for each entry; made a train, its ranks would be the number of entries. So the entries are gathered, at a cost of
# $O(d\, m\, r^2)$ for $m$ of them. Adam on the cores, by autograd, is the straight way. The talk says that such a thing *works, but not
# optimally*; here both get the same entries and start in the same manner.

# %%
shape, rank = fast(((9,) * 3, 2), full=((20,) * 5, 3))
x, index = lesson.problem(shape, rank, 10, 0, positive=True)
values = x.at(index)
g = lambda: torch.Generator().manual_seed(1)
histories = {}
for name, grow in (("Riemannian", False), ("Riemannian, ranks grow", True)):
    fit = tl.tt_complete(index, values, shape, rank, grow=grow, generator=g())
    histories[name] = fit.history
    print(
        f"{name}: {len(fit.history) - 1} steps, error of the whole tensor {float((fit.value - x).norm() / x.norm()):.1e}"
    )
for lr in (0.01, 0.1):
    y, histories[f"Adam {lr}"] = lesson.adam(
        index, values, shape, rank, steps=fast(10, full=1000), lr=lr, generator=g()
    )
    print(
        f"Adam, lr {lr}: {len(histories[f'Adam {lr}'])} steps, error of the whole tensor {float((y - x).norm() / x.norm()):.1e}"
    )
picture(lambda figure: plots.convergence(figure.subplots(), histories))

# %% [markdown]
# A step of Adam is cheaper, for it needs no QR and no rounding, but by a constant only.
#
# ## How many entries are enough?
#
# The manifold has $\sum_k r_k n_k r_{k+1} - \sum_k r_k^2$ dimensions, and no method can do with fewer entries. The share of random
# Gaussian trains that are recovered, against entries for each degree of freedom; the failures are in it.

# %%
shape, rank, ratios, seeds = fast(
    ((6,) * 3, 1, (2, 4), 1), full=((10,) * 4, 2, (2, 3, 5, 10, 20), 8)
)
shares = lesson.phase(shape, rank, ratios, seeds, max_iter=fast(40, full=300))
picture(lambda figure: plots.success(figure.subplots(), shares))
for name, points in shares.items():
    print(f"{name}: " + ", ".join(f"{ratio}x {share:.2f}" for ratio, share in points))

# %% [markdown]
# ## A photograph from a tenth of its pixels
#
# Rows and columns are each cut into a coarse and a fine index, and the modes are ordered fine row, coarse row, coarse column, fine
# column. The same entries are completed as a matrix, which is a train of two modes, and filled with the nearest pixel that is known.

# %%
side = fast(16, full=256)
photo = lesson.photograph(side)
flat = torch.randperm(side * side, generator=torch.Generator().manual_seed(0))[: side * side // 10]
places = torch.stack([flat // side, flat % side], 1)
known = photo[places[:, 0], places[:, 1]]
options = dict(tol=1e-3, max_iter=fast(40, full=300))
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
for name, fit in (("train", train), ("matrix", matrix)):
    print(
        f"{name}: ranks {fit.value.ranks}, {fit.value.numel} numbers, held-out error {fit.error:.3f}"
    )
for name, y in pictures.items():
    print(f"{name}: PSNR {lesson.psnr(y, photo):.1f} dB")


def draw(figure):
    shown = {"original": photo, "observed": observed, **pictures}
    for ax, (name, y) in zip(figure.subplots(1, 5), shown.items()):
        plots.image(ax, y.clamp(0, 1), name)
    return (
        "A photograph, a tenth of its pixels, and what a train, a matrix and the nearest known pixels make of them: "
        + ", ".join(f"{name} {lesson.psnr(y, photo):.1f} dB" for name, y in pictures.items())
        + "."
    )


picture(draw, figsize=(9, 2.2))

# %% [markdown]
# ## Where it loses
#
# Low ranks know nothing of smoothness, and the plainest interpolation knows nothing else: compare the last lines above. Held-out
# pixels end the growth of the ranks early, at what a tenth of the pixels can tell. On a large matrix the train has little to
# gain over plain matrix completion; on a small one it has more entries for each of its numbers. And where the ranks are right
# but the entries too few, the training error falls to zero and the tensor is wrong: only the held-out error tells.

# %%
x, index = lesson.problem((12,) * 3, 4, 0.5, 0)
fit = tl.tt_complete(index, x.at(index), x.shape, 4, max_iter=fast(40, full=300), generator=g())
print(
    f"least training error {min(fit.history):.1e}, held out {fit.error:.2f}, whole {float((fit.value - x).norm() / x.norm()):.2f}, "
    f"converged: {fit.converged}"
)

# %% [markdown]
# ## Exercises
#
# **Predict.**

# %%
print(lesson.degrees_of_freedom.question)
lesson.degrees_of_freedom(...)

# %% [markdown]
# **Implement.**


# %%
def tangent_projection(u, v, z): ...


print(lesson.tangent_projection.question)
lesson.tangent_projection(tangent_projection)

# %% [markdown]
# **Explore.**

# %%
print(lesson.saddle.question)
lesson.saddle(...)
