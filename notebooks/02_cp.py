# %% [markdown] tags=["lesson"]
# name = "canonical polyadic"
# minutes = 70
# needs = ["00b_vocabulary", "01_lowrank"]
# aims = [
#     "build a sweep of alternating least squares from a Khatri-Rao product and a solve",
#     "recognize a swamp and a degenerate pair",
#     "say when a short sum of products pays, and when the SVD is the better choice",
# ]
# take = [
#     "A CP tensor is a sum of r products of vectors: it stores r times the sum of the mode sizes, and its terms are often unique.",
#     "Alternating least squares solves one linear problem for each factor; it crawls where columns are nearly parallel.",
#     "A best approximation of given rank need not exist: look at the weights and the cosines, not only at the error.",
# ]

# %% [markdown]
# # When is a tensor a short sum of products, and how is it found?
#
# When few patterns come and go together; alternating least squares finds them, sweep by sweep. Press *play*: this one is a swamp, in which
# the columns are nearly parallel (on the right, gray are the true ones) and the error crawls. Then try the other two problems.

# %%
from tensorlab.course.lessons import cp as lesson

lesson.AlsExplorer("swamp")

# %% [markdown]
# ## The mathematics
#
# A *term* is the [outer product](00b_vocabulary.ipynb#Outer-product) of one vector for each [mode](00b_vocabulary.ipynb#Mode): its entries are all products $a_i b_j c_k$. As one walks through the [slices](00b_vocabulary.ipynb#Fiber-and-slice),
# the pattern $a\, b^{\mathsf T}$ stays, and only its strength $c_k$ changes. Press *play*.

# %%
lesson.SlicePlayer()

# %% [markdown]
# The canonical polyadic [format](00b_vocabulary.ipynb#Format) is a sum of $r$ terms [KoldaBader2009]:
#
# $$ x[i, j, k] = \sum_{t=1}^{r} A[i, t]\, B[j, t]\, C[k, t]. $$
#
# It stores $r(n_0 + n_1 + n_2)$ numbers. For a matrix the factors can be turned at will, $AB^{\mathsf T} =
# (AM)(BM^{-\mathsf T})^{\mathsf T}$; from three modes on they are unique up to order and scale if the columns are independent
# enough: $k_A + k_B + k_C \ge 2r + 2$, where the [*Kruskal rank*](00b_vocabulary.ipynb#Rank) $k_A$ is the largest number such that any $k_A$ columns of $A$ are
# independent [Kruskal1977].
#
# With all factors but one fixed the problem is linear. The [*unfolding*](00b_vocabulary.ipynb#Unfolding) $x_{(0)}$ has the first index as rows and the others, the last one
# fastest, as columns; the [*Khatri-Rao product*](00b_vocabulary.ipynb#Khatri-Rao-product) $K$ of $B$ and $C$ has as its columns the [Kronecker products](00b_vocabulary.ipynb#Kronecker-product) of theirs. Then $x_{(0)} = A
# K^{\mathsf T}$, and the least squares solution is
#
# $$ A = x_{(0)}\, K\, \Gamma^{-1}, \qquad \Gamma = K^{\mathsf T} K = (B^{\mathsf T} B) * (C^{\mathsf T} C), $$
#
# with $*$ entry by entry. One such update for each mode is a *sweep*. In the letters of the formula:

# %%
import math

import torch

import tensorlab as tl
from tensorlab import multilinear, plots
from tensorlab.course.claims import say
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture
from tensorlab.multilinear import unfold


def plain_als(x, factors, sweeps):
    """Alternating least squares for three modes."""
    factors = list(factors)
    for _ in range(sweeps):
        for k in range(3):
            B, C = (factors[m] for m in range(3) if m != k)
            K = multilinear.khatri_rao(B, C)
            gamma = (B.T @ B) * (C.T @ C)
            factors[k] = torch.linalg.solve(gamma, (unfold(x, k) @ K).T).T
    return factors


x, start = lesson.als_problem("easy")
plain = torch.einsum("ir,jr,kr->ijk", *plain_als(x, start.factors, 30))
theirs = tl.cp_als(x, 3, init=start, tol=0.0, max_iter=30)
errors = [float((y - x).norm() / x.norm()) for y in (plain, theirs.value.to_dense())]
say(
    f"After 30 sweeps from the same start the ten lines have an error of {errors[0]:.2e}, `tl.cp_als` of {errors[1]:.2e}.",
    abs(errors[0] - errors[1]) < 1e-6 * errors[0] + 1e-12,
)

# %% [markdown]
# `tl.cp_als` shares the costly product $x_{(0)} K$ between the modes [Phan2013], and its error comes for free:
# $\|x - y\|^2 = \|x\|^2 - 2\langle M, A\rangle + \langle A\Gamma, A\rangle$ with $M = x_{(0)}K$.
#
# ## A planted tensor is found again

# %%
g = torch.Generator().manual_seed(0)
truth = tl.CP.randn((20, 21, 22), 5, generator=g, dtype=torch.float64).normalized()
x = truth.to_dense()
fit = tl.cp_als(x, 5, tol=0.0, max_iter=200)
found = fit.value.normalized()
cosines = math.prod((a.T @ b).abs() for a, b in zip(truth.factors, found.factors))
nearest = float(cosines.max(1).values.min())
rivals = {
    "Tucker": tl.hosvd(x, rtol=1e-10),
    "train": tl.tt_svd(x, rtol=1e-10),
    "SVD of an unfolding": tl.LowRank.from_dense(unfold(x, 0), rtol=1e-10),
}
say(
    f"The error is {fit.history[-1]:.0e}, and each true term has a found one with a cosine of at least {nearest:.8f}. It stores "
    f"{found.numel} of {x.numel():,} numbers; rivals that are exact too store more: "
    + ", ".join(f"{name} {y.numel:,}" for name, y in rivals.items())
    + ".",
    fit.history[-1] < 1e-6,
    nearest > 0.999999,
    all(y.numel > found.numel for y in rivals.values()),
)

# %% [markdown]
# ## Easy, a swamp, and a tensor with no best answer
#
# The **degenerate pair** is $W = a \circ a \circ b + a \circ b \circ a + b \circ a \circ a$ (with $\circ$ for the outer product): its rank is
# 3, but $n\,(a + b/n)^{\circ 3} - n\,a^{\circ 3} \to W$, so tensors of rank 2 come as near as one likes and none is nearest
# [DeSilvaLim2008]. Two terms grow and cancel.

# %%
sweeps = fast(200, full=600)
fits = {}
for name in lesson.AlsExplorer.names:
    x, start = lesson.als_problem(name)
    fits[name] = tl.cp_als(x, start.ranks[0], init=start, tol=0.0, max_iter=sweeps)
histories = {name: fit.history for name, fit in fits.items()}
picture(lambda figure: plots.convergence(figure.subplots(), histories))

# %%
half = {name: errors[sweeps // 2] / errors[-1] for name, errors in histories.items()}
pair = fits["degenerate pair"].value.normalized()
weight = float(pair.weights.max() / lesson.als_problem("degenerate pair")[0].norm())
say(
    f"After {sweeps} sweeps: easy {histories['easy'][-1]:.0e}, swamp {histories['swamp'][-1]:.0e}, degenerate pair "
    f"{histories['degenerate pair'][-1]:.2f}. In the second half of them the pair wins only a factor of {half['degenerate pair']:.2f}, and its "
    f"largest weight has grown to {weight:.1f} times the norm of the tensor.",
    histories["easy"][-1] < 1e-8,
    histories["swamp"][-1] > 1e3 * histories["easy"][-1],
    half["degenerate pair"] < 2,
    weight > 1.5,
)

# %% [markdown]
# ## The way out
#
# The sweeps crawl since each looks at one factor only. `tl.cp_nls` moves all of them at once by Gauss-Newton steps [Tomasi2006], from
# where common eigenvectors of the slices put them [Leurgans1993]. It also tells where no best answer exists.

# %%
outs = {}
for name in ("swamp", "degenerate pair"):
    x, start = lesson.als_problem(name)
    fit = outs[name] = tl.cp_nls(x, start.ranks[0])
    print(f"{name}: error {fit.history[-1]:.1e}, largest term {fit.largest:.2g} |x|; {fit.reason}")

# %%
swamp, pair = outs["swamp"], outs["degenerate pair"]
say(
    f"The swamp is left: an error of {swamp.history[-1]:.0e} in place of {histories['swamp'][-1]:.0e} after {sweeps} sweeps. The pair comes to "
    f"{pair.history[-1]:.0e}, with terms {pair.largest:.0f} times as large as the tensor that cancel: the fit is called degenerate.",
    swamp.history[-1] < 1e-12 < histories["swamp"][-1],
    swamp.converged and swamp.largest < 1.5,
    pair.largest > 10 and not pair.converged,
    "degenerate" in pair.reason,
)

# %% [markdown]
# ## Where it loses: handwritten digits
#
# The digits are a tensor, image by row by column. A sum of products against the SVD of the matrix image by pixel:

# %%
images = fast(200, full=1797)
curves = lesson.digit_curves(images, fast(20, full=60))


def digits(figure):
    ax = figure.subplots()
    seen = plots.error_against_storage(ax, curves)
    ax.axvline(64 * images, color="0.4", lw=1)
    low, high = ax.get_ylim()
    ax.annotate("dense", (64 * images, high), (-4, -10), textcoords="offset points", ha="right")
    return seen


picture(digits, figsize=(7, 3))

# %%
(n_cp, e_cp), (n_svd, e_svd) = curves["CP"][-1], curves["SVD"][3]
more = min(curves["CP"], key=lambda point: abs(point[0] - n_svd))
say(
    f"With {n_svd:,} numbers the SVD of rank 16 has an error of {e_svd:.3f}; CP needs {n_cp:,} for {e_cp:.3f}, and with {more[0]:,} it has "
    f"{more[1]:.3f}. The images take most of the storage in both, so the SVD can afford free patterns of 64 points, where those of CP are "
    "products of a row and a column. CP pays when every mode is long.",
    e_svd < more[1],
    n_cp > 1.5 * n_svd,
    more[0] <= 1.1 * n_svd,
)

# %% [markdown]
# ## Exercises
#
# The second to the fifth build alternating least squares, and its error. A blank says nothing; a wrong answer gets its own hint.
#
# ### 1. Predict (★, 3 minutes)
#
# A tensor of shape (10, 20, 30) has CP rank 5. How many numbers do its factors hold?

# %%
cp_storage = ...
lesson.cp_storage(cp_storage)

# %% [markdown] tags=["hints"]
# There is one factor for each mode.
#
# A factor has a row for each index and a column for each term.

# %% tags=["solution"]
cp_storage = 5 * (10 + 20 + 30)

# %% [markdown]
# ### 2. Khatri-Rao (★★, 5 minutes)
#
# Write `khatri_rao(a, b)` for a of shape (m, r) and b of shape (n, r): column k of the result, of shape (m n, r), is the Kronecker product
# of column k of a and column k of b.


# %%
def khatri_rao(a, b): ...


lesson.khatri_rao(khatri_rao)

# %% [markdown] tags=["hints"]
# `a[:, None, :] * b[None, :, :]` has all the entries, in the shape (m, n, r).
#
# Make the first two modes one: `.reshape(-1, r)`.


# %% tags=["solution"]
def khatri_rao(a, b):
    return (a[:, None, :] * b[None, :, :]).reshape(-1, a.shape[1])


# %% [markdown]
# ### 3. One factor (★★, 10 minutes)
#
# Write `update(x0, b, c)`: the factor a (n_0, r) for which $\|x_{(0)} - a\,K^{\mathsf T}\|$ is smallest. `x0` (n_0, n_1 n_2) is the unfolding,
# `b` (n_1, r) and `c` (n_2, r) are the other factors.


# %%
def update(x0, b, c): ...


lesson.update(update)

# %% [markdown] tags=["hints"]
# The normal equations are $a\,\Gamma = x_{(0)} K$.
#
# `torch.linalg.solve(gamma, right.T).T` solves `a @ gamma = right`, for gamma is symmetric.


# %% tags=["solution"]
def update(x0, b, c):
    gamma = (b.T @ b) * (c.T @ c)
    return torch.linalg.solve(gamma, (x0 @ khatri_rao(b, c)).T).T


# %% [markdown]
# ### 4. A sweep (★★★, 15 minutes)
#
# Write `sweep(x, a, b, c)`: the three factors after one sweep of alternating least squares, a first, then b, then c, each from the newest
# others. `x` has the shape (n_0, n_1, n_2).


# %%
def sweep(x, a, b, c): ...


lesson.sweep(sweep)

# %% [markdown] tags=["hints"]
# Each mode is an `update` with its own unfolding.
#
# `x.movedim(1, 0).reshape(x.shape[1], -1)` has mode 1 as rows; its columns run through mode 0, and mode 2 fastest.


# %% tags=["solution"]
def sweep(x, a, b, c):
    unfolding = lambda k: x.movedim(k, 0).reshape(x.shape[k], -1)
    a = update(unfolding(0), b, c)
    b = update(unfolding(1), a, c)
    return a, b, update(unfolding(2), a, b)


# %% [markdown]
# ### 5. A norm without the tensor (★★, 10 minutes)
#
# Write `cp_norm(a, b, c)`: the norm of the tensor with these factors. With modes of 40, 30 and 50 no tensor on the way may have more than
# 150 entries.


# %%
def cp_norm(a, b, c): ...


lesson.cp_norm(cp_norm)

# %% [markdown] tags=["hints"]
# The square of the norm is the sum of the inner products of all pairs of terms.
#
# The inner product of two outer products is the product of those of their vectors: `a.T @ a` has them for all pairs.


# %% tags=["solution"]
def cp_norm(a, b, c):
    return ((a.T @ a) * (b.T @ b) * (c.T @ c)).sum().sqrt()


# %% [markdown]
# ### 6. Explore (★★, 5 minutes)
#
# In the explorer at the top choose *degenerate pair*, with 100 sweeps at a time, and play. Toward which number does the smallest cosine
# between two terms go?

# %%
degenerate_cosine = ...
lesson.degenerate_cosine(degenerate_cosine)

# %% [markdown] tags=["hints"]
# It is the blue curve in the middle, and its last value is in the sentence below.
#
# The terms become parallel and cancel: so they point in opposite directions.

# %% tags=["solution"]
degenerate_cosine = -1
