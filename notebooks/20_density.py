# %% [markdown] tags=["lesson"]
# name = "density"
# minutes = 80
# needs = ["04_tt", "08_tt_sampling"]
# aims = [
#     "build the normalization and the conditionals of a density from small matrices",
#     "say what squaring costs, and what a density that may be negative hides",
#     "say when a mixture of Gaussians does as well or better",
# ]
# take = [
#     "B-splines and a train make a function of many variables; its square, divided by a chain of Gram matrices, is a density.",
#     "Marginals, conditionals and samples are exact: each variable is a small matrix, known, or summed over.",
#     "Rows without a logarithm must be counted: a mean over the others flatters the model.",
# ]

# %% [markdown]
# # Can a density be asked about the part you know?
#
# A tensor train of B-splines can: fix one variable and the density of the others follows exactly, with samples, without a
# Markov chain. Choose two variables for the axes and a third that is known, and drag its value.

# %%
from tensorlab.course.lessons import density as lesson

lesson.ConditionExplorer()

# %% [markdown]
# ## The mathematics
#
# Each variable gets $m$ B-splines $b_i$. A [train](04_tt.ipynb) of coefficients $A$ makes a function of $d$ variables [Novikov2021],
#
# $$ q(x) = \sum_{i_0 \dots i_{d-1}} A[i_0, \dots, i_{d-1}]\; b_{i_0}(x_0) \cdots b_{i_{d-1}}(x_{d-1})
#    = \prod_k \Big( \sum_i b_i(x_k)\, G_k[i] \Big) , $$
#
# of which only three of the $m$ [slices](00b_vocabulary.ipynb#Fiber-and-slice) of each core take part at a point where the degree is 2: one more than the degree. There are
# two ways to a density.
#
# **Squared**: $p = q^2 / Z$. It is never negative, and $Z = \int q^2$ is a chain of small sums with the Gram matrices
# $D_{ij} = \int b_i b_j$:
#
# $$ S_0 = 1, \qquad S_{k+1} = \sum_{ij} D_{ij}\, G_k[i]^\top S_k\, G_k[j], \qquad Z = S_d . $$
#
# It is trained by maximum likelihood, from a mixture of products of one-dimensional densities (EM). The
# Fisher information of $q^2$ is four times the metric of $L_2$, so in cores that are orthonormal with respect to $D$ the
# natural gradient of each core (the one that measures steps by how far the *density* moves) costs no more than the plain one.
#
# **Linear**: $p = q / Z$. The squared distance to the unknown density has a closed form, up to a constant,
#
# $$ \int (p_* - q)^2 = \langle A, (D \otimes \dots \otimes D) A \rangle - 2\, \mathbb{E}\, q(x) + \text{const} , $$
#
# and is minimized over the trains of fixed [ranks](00b_vocabulary.ipynb#Rank) by Riemannian descent ([lesson 07](07_tt_manifold.ipynb)). But $q$ may be negative.
#
# Either way each variable can go first through its own distribution function, $u_k = F_k(x_k)$, piecewise linear on cells (`cells=`):
# $p(x) = p(u) \prod_k F_k'(x_k)$. Peaks and jumps of single variables, such as a meter's whole numbers, are then no business of the
# splines.
#
# Marginals integrate core by core, conditionals are ratios of two marginals, and samples come variable by variable: on each
# interval the conditional density is a polynomial, whose distribution function is inverted ([lesson 08](08_tt_sampling.ipynb)).
# The squared density in the letters of the formulas:

# %%
import warnings

import numpy as np
import torch

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.claims import say
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture
from tensorlab.papers import density as paper


def plain_log(G, D, splines, x):
    """log p(x) of rows x (n, d), from cores G and Gram matrices D."""
    v, S = torch.ones(len(x), 1, dtype=x.dtype), torch.ones(1, 1, dtype=x.dtype)
    for k, g in enumerate(G):
        j, values, _ = splines.at(x[:, [k]], [k])
        b = x.new_zeros(len(x), g.shape[1])
        b.scatter_(1, j + torch.arange(values.shape[-1]), values[:, 0])
        v = torch.einsum("nr,nm,rms->ns", v, b, g)
        S = torch.einsum("aib,ij,ac,cjd->bd", g, D[k], S, g)
    return 2 * v[:, 0].abs().log() - S[0, 0].log()


g = torch.Generator().manual_seed(0)
n = fast(600, full=4000)
x, z = paper.toy("pinwheel", n, generator=g), paper.toy("pinwheel", n, generator=g)
steps = fast(1, full=8)
squared = tl.TTDensity(rank=12, basis=32, steps=steps, noise=0.02, background=0).fit(x)
(train,), splines = squared.trains_, squared.splines_
low, high = squared.support_.T
inner = x[((x > low) & (x < high)).all(1)]
gap = (plain_log(train.cores, splines.gram, splines, inner) - squared.score_samples(inner)).abs()

# by Gauss and Legendre's rule on every interval, which is exact for these polynomials
edges, (at, weight) = splines.edges, np.polynomial.legendre.leggauss(6)
points = [(e[:-1, None] + e.diff()[:, None] * torch.tensor(at + 1) / 2).flatten() for e in edges]
weights = [(e.diff()[:, None] * torch.tensor(weight) / 2).flatten() for e in edges]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    total = (
        squared.score_samples(torch.cartesian_prod(*points)).exp() @ torch.outer(*weights).flatten()
    )
say(
    f"The plain version and `tl.TTDensity` agree to {float(gap.max()):.0e}, and the integral over the plane differs from 1 by "
    f"{abs(float(total) - 1):.0e}: it is a density.",
    gap.max() < 1e-9,
    abs(float(total) - 1) < 1e-10,
)


# %%
def drawn(figure):
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    axes[0].plot(*x[:2000].T, ".", ms=2)
    axes[0].set(title="data", aspect="equal")
    axes[1].set(title="density, and samples from it", aspect="equal")
    a, b, p = lesson.density_grid(squared, 0, 1, {}, 100)
    return plots.density_map(axes[1], a, b, p, squared.sample(200, 0))


picture(drawn, figsize=(9, 3.6))

# %% [markdown]
# ## A condition, beside counting
#
# Without a model, what is known of $x_1$ given $x_2$ is in the rows whose $x_2$ is near. The model of the picture at the top uses
# all rows, and can be asked at any value:

# %%
model, data = lesson.model(fast(1, full=6)), lesson.table()
near = data[(data[:, 2] - 0.8).abs() < 0.1, 1]
picture(lambda figure: lesson.draw_counted(figure.subplots(), model, near, 0.8), figsize=(7, 3))

# %%
mean = lesson.conditional_mean(model, 1, {2: 0.8})
alone = lesson.conditional_mean(model, 1, {})
say(
    f"Of {len(data):,} rows {len(near)} are near. Their mean of x1 is {float(near.mean()):.2f}, the model says {mean:.2f}; without the condition "
    f"it is {round(alone, 2) + 0.0:.2f}.",
    len(near) < len(data) / 10,
    abs(mean - float(near.mean())) < 0.2,
    abs(mean - alone) > 0.5,
)

# %% [markdown]
# ## Beside what you would use otherwise
#
# A kernel density with a tuned bandwidth and a mixture of full Gaussians with a tuned number of components, on rows that none has
# seen; recorded (`tensorlab run Novikov2021 --preset full`). Rows outside of the support, and rows where a linear model is negative,
# have no logarithm; they are counted and not clipped. Trains are green, their rivals blue. The trains are alone here (`background=0`); by default `TTDensity` keeps a share
# of 1 / (n + 1) for a wide density that is nowhere zero, so that every row counts and cross-validation can compare models.

# %%
found = lesson.toys()
picture(lambda figure: lesson.draw_toys(figure.subplots(1, 4, sharey=True), found), figsize=(9, 3))

# %%
behind = {}
for name, values in found.items():
    behind[name] = max(values["mixture"][0], values["kernels"][0]) - values["squared"][0]
ahead = [name for name, gap in behind.items() if gap < 0]
worse = [max(v["mixture"][0], v["kernels"][0]) - v["one Gaussian"][0] for v in found.values()]
lacking = {name: values["linear"][1] for name, values in found.items()}
say(
    f"In the plane the squared train is ahead of both on {' and '.join(ahead) or 'none'} only; elsewhere it is up to {max(behind.values()):.2f} behind "
    f"the better one. One Gaussian is {min(worse):.1f} to {max(worse):.1f} below that. The linear one looks best on moons, but up to {max(lacking.values()):.1%} of the rows have no logarithm "
    f"(on {max(lacking, key=lacking.get)}), and its mean is over the others.",
    ahead == ["checkerboard"],
    max(behind.values()) < 0.1 < min(worse),
    max(found["moons"], key=lambda method: found["moons"][method][0]) == "linear",
    max(lacking.values()) > 0.01,
)

# %% [markdown]
# Where a linear model is not positive, in the plane and at the rows of the test:

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    settings = dict(rank=8, basis=32, model="linear", steps=fast(4, full=20), background=0)
    linear = tl.TTDensity(**settings).fit(x)
    a, b, p = lesson.density_grid(linear, 0, 1, {}, 100)
picture(lambda figure: plots.density_map(figure.subplots(), a, b, p), figsize=(5, 3.6))

# %%
report, other = linear.report(z), squared.report(z)
say(
    f"{round(report.negative * n)} of {n} rows have no logarithm, {round(report.outside * n)} lie outside of the support; the mean over the "
    f"others is {report.mean:.3f}. The squared model has {other.mean:.3f}, and {round(other.negative * n)} without one inside.",
    report.negative > 0,
    other.negative == 0,
)

# %% [markdown]
# ## Six variables
#
# POWER, a household's meters, recorded: ten weeks of it. Beside them, on a separate axis, the means that the paper prints for four years; that is
# another density, so only the order of the methods can be compared (MADE, Real NVP, Glow and FFJORD are neural networks). The number of Gaussians to compare with is the one that is likeliest
# on the validation rows.

# %%
ours, theirs = lesson.power()
picture(lambda figure: lesson.draw_power(figure, ours, theirs), figsize=(9, 3.2))

# %%
gaussians = {name: row for name, row in ours.items() if name.endswith("Gaussians")}
best = max(gaussians, key=lambda name: gaussians[name]["validation"])
train, signed = ours["TTDE, squared"], ours["TTDE, linear"]
numbers = 2 * 24 * 32 + 4 * 24 * 32 * 24
say(
    f"The squared train has {train['log-likelihood']:.2f}, {best} {gaussians[best]['log-likelihood']:.2f}, in {train['CPU seconds']:.0f} s and "
    f"{gaussians[best]['CPU seconds']:.0f} s of CPU. It stores {numbers:,} numbers in its cores, where a table of its coefficients would have "
    f"{32**6:,}, but the Gaussians only {128 * (6 + 21 + 1):,}. The linear one has no logarithm on {signed['negative']:.0%} of the rows: its "
    "mean says nothing. In the paper as well the squared train is among the best.",
    train["log-likelihood"] > gaussians[best]["log-likelihood"],
    train["CPU seconds"] < gaussians[best]["CPU seconds"],
    best == "128 Gaussians",
    signed["negative"] > 0.4,
    theirs["TTDE, squared"] == max(theirs.values()),
)

# %% [markdown]
# ## Where it loses
#
# A train is a chain: what far variables share has to pass through all ranks between them, and a strong correlation needs many. A
# single Gaussian in six variables with full covariance is a hard case for the train and the easiest for the Gaussian.

# %%
g = torch.Generator().manual_seed(7)
a = torch.randn(6, 6, generator=g, dtype=torch.float64)
cov = a @ a.T / 6 + 0.1 * torch.eye(6).double()
normal = lambda mean, cov: torch.distributions.MultivariateNormal(mean, cov)
truth = normal(torch.zeros(6).double(), cov)
root = torch.linalg.cholesky(cov)
rows = [
    torch.randn(fast(500, full=5000), 6, generator=g, dtype=torch.float64) @ root.T for _ in "xz"
]
fitted = normal(rows[0].mean(0), torch.cov(rows[0].T))
level = {"the true density": truth, "one Gaussian": fitted}
level = {name: float(p.log_prob(rows[1]).mean()) for name, p in level.items()}
by_rank = {}
for rank in fast((1, 4), full=(1, 2, 4, 8)):
    settings = dict(rank=rank, basis=16, steps=fast(1, full=6), noise=0.05)
    by_rank[rank] = tl.TTDensity(**settings).fit(rows[0]).report(rows[1]).mean
picture(lambda figure: lesson.draw_ranks(figure.subplots(), by_rank, level), figsize=(7, 3))

# %%
best = max(by_rank, key=by_rank.get)
most = max(by_rank)
say(
    f"The best train, of rank {best}, has {by_rank[best]:.2f}, the Gaussian {level['one Gaussian']:.2f} with {6 + 21} numbers, and the truth "
    f"{level['the true density']:.2f}. Rank 1, independent variables, has {by_rank[1]:.2f}; rank {most}, the largest, {by_rank[most]:.2f}.",
    by_rank[best] < level["one Gaussian"] - 0.1,
    level["one Gaussian"] <= level["the true density"] + 0.05,
    fast(True, full=by_rank[1] < by_rank[best]),
)

# %% [markdown]
# ## Exercises
#
# 2 to 5 build the normalization and the conditionals, each from those before. `core` is (r, m, s) with $G[i]$ = `core[:, i]`, `gram` is
# $D$ (m, m), and `b` (m,) holds the values of a variable's splines at a number.
#
# ### 1. Predict: how many products (★, 5 minutes)
#
# Six variables, 32 B-splines of degree 2 for each. Of the $32^6$ products $b_{i_0}(x_0) \cdots b_{i_5}(x_5)$, how many are not zero at a
# point x inside?

# %%
products = ...
lesson.products(products)

# %% [markdown] tags=["hints"]
# How many splines of degree 2 are not zero at one number? Each reaches over three intervals.
#
# Choose one of them for each variable: how many ways are there?

# %% tags=["solution"]
products = 3**6

# %% [markdown]
# ### 2. A variable that is known (★, 5 minutes)
#
# Write `known(core, b)`: the matrix (r, s) that a core becomes when its variable is known.


# %%
def known(core, b): ...


lesson.known(known)

# %% [markdown] tags=["hints"]
# It is $\sum_i b_i\, G[i]$.
#
# `torch.einsum("rms,m->rs", ...)`.


# %% tags=["solution"]
def known(core, b):
    return torch.einsum("rms,m->rs", core, b)


# %% [markdown]
# ### 3. A variable that is integrated (★★, 10 minutes)
#
# Write `behind(core, gram, state)`: one step of the integral of $q^2$ from the right, $\sum_{ij} D_{ij}\, G[i]\, S\, G[j]^\top$. `state` is $S$
# (s, s), and the result is (r, r).


# %%
def behind(core, gram, state): ...


lesson.behind(behind)

# %% [markdown] tags=["hints"]
# `torch.einsum` with four factors: core, gram, state, core. Which letters are summed, and which stay?
#
# Letters: the first core `aib`, gram `ij`, state `bd`, the second core `cjd`; `ac` stays.


# %% tags=["solution"]
def behind(core, gram, state):
    return torch.einsum("aib,ij,bd,cjd->ac", core, gram, state, core)


# %% [markdown]
# ### 4. All of it (★, 5 minutes)
#
# Write `mass(cores, grams)`: $Z = \int q^2$, a number. The check has thirty variables.


# %%
def mass(cores, grams): ...


lesson.mass(mass)

# %% [markdown] tags=["hints"]
# Begin at the last core with a state of one 1, `torch.ones(1, 1, dtype=torch.float64)`.
#
# One `behind` for each core, from the last to the first; the state is (1, 1) at the end.


# %% tags=["solution"]
def mass(cores, grams):
    state = torch.ones(1, 1, dtype=torch.float64)
    for core, gram in zip(reversed(cores), reversed(grams)):
        state = behind(core, gram, state)
    return state[0, 0]


# %% [markdown]
# ### 5. A conditional (★★★, 15 minutes)
#
# Write `conditional(cores, grams, seen, b)`: the density of variable $k$ at a number when the variables 0 to $k - 1$ are known,
# $p(x_k \mid x_0, \dots, x_{k-1})$. `seen` has the spline values of these, a list of k vectors (m,), and `b` those of $x_k$. The later variables
# are integrated.


# %%
def conditional(cores, grams, seen, b): ...


lesson.conditional(conditional)

# %% [markdown] tags=["hints"]
# It is $p(x_0, \dots, x_k) / p(x_0, \dots, x_{k-1})$; the normalization cancels. A row $v$ = the product of `known` for the seen ones.
#
# With the state $S$ of all that is behind variable k, the numerator is $v\,A\,S\,A^\top v^\top$ with `A = known(cores[k], b)`. One more `behind`
# gives the denominator, $v\,S'\,v^\top$.


# %% tags=["solution"]
def conditional(cores, grams, seen, b):
    k = len(seen)
    state, v = torch.ones(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    for core, gram in zip(reversed(cores[k + 1 :]), reversed(grams[k + 1 :])):
        state = behind(core, gram, state)
    for core, values in zip(cores, seen):
        v = v @ known(core, values)
    w = v @ known(cores[k], b)
    return (w @ state @ w.T / (v @ behind(cores[k], grams[k], state) @ v.T))[0, 0]


# %% [markdown]
# ### 6. Predict: the rank of a Gaussian (★★, 10 minutes)
#
# p is a Gaussian in the plane with correlation 0.9, $q = \sqrt p$. How large must the rank between the two variables be for a relative
# error of q of 1 % (Frobenius norm, on a grid of 200 by 200 points over $[-7, 7]^2$)? Guess, and then compute it with an SVD.

# %%
root_rank = ...
lesson.root_rank(root_rank)

# %% [markdown] tags=["hints"]
# $q(x, y) = \exp(-(x^2 + y^2 - 1.8\,xy) / (4\,(1 - 0.81)))$ up to a factor: fill a matrix with it.
#
# `torch.linalg.svdvals`; the error of rank r is the norm of the values after the r-th, over the norm of all.

# %% tags=["solution"]
grid = torch.linspace(-7, 7, 200, dtype=torch.float64)
u, v = grid[:, None], grid
sigma = torch.linalg.svdvals((-(u**2 + v**2 - 1.8 * u * v) / (4 * (1 - 0.81))).exp())
root_rank = next(r for r in range(1, 200) if sigma[r:].norm() <= 0.01 * sigma.norm())

# %% [markdown]
# ### 7. Explore: what x2 tells (★, 5 minutes)
#
# In the picture at the top: let x2 be known, and move it from -1 to 1. Which variable's mean moves most, 0, 1 or 3?

# %%
most_moved = ...
lesson.most_moved(most_moved)

# %% [markdown] tags=["hints"]
# The means of the variable *across* are in the sentence below the picture: put each variable there in turn.
#
# For each, take the mean given x2 = 1 minus that given x2 = -1; a sign does not matter.

# %% tags=["solution"]
most_moved = 1
