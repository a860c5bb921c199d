# %% [markdown]
# # Can a density be asked about the part you know?
#
# A tensor train of B-splines can: fix one variable and the density of the others follows exactly, with samples, without a
# Markov chain. Choose two variables for the axes and a third that is known, and drag its value.

# %%
import inspect
import math
import time
import warnings

import numpy as np
import torch
from IPython.display import Code

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.lab import fast
from tensorlab.course.lessons import density as lesson
from tensorlab.course.widgets import picture
from tensorlab.papers import density as paper
from tensorlab.papers.table import Table, measured, printed

lesson.ConditionExplorer(steps=fast(1, full=6))

# %% [markdown]
# ## The mathematics
#
# Each variable gets $m$ B-splines $b_i$. A train of coefficients $A$ makes a function of $d$ variables [Novikov2021],
#
# $$ q(x) = \sum_{i_0 \dots i_{d-1}} A[i_0, \dots, i_{d-1}]\; b_{i_0}(x_0) \cdots b_{i_{d-1}}(x_{d-1})
#    = \prod_k \Big( \sum_i b_i(x_k)\, G_k[i] \Big) , $$
#
# of which only $q + 1$ of the $m$ slices of each core take part at a point. There are two ways to a density.
#
# **Squared**: $p = q^2 / Z$. It is never negative, and $Z = \int q^2$ is a chain of small sums with the Gram matrices
# $D_{ij} = \int b_i b_j$. It is trained by maximum likelihood, from a mixture of products of one-dimensional densities (EM). The
# Fisher information of $q^2$ is four times the metric of $L_2$, so in cores that are orthonormal with respect to $D$ the
# natural gradient of each core costs no more than the plain one: a few sweeps over the cores do what takes Adam hundreds of steps.
#
# **Linear**: $p = q / Z$. The squared distance to the unknown density has a closed form, up to a constant,
#
# $$ \int (p_* - q)^2 = \langle A, (D \otimes \dots \otimes D) A \rangle - 2\, \mathbb{E}\, q(x) + \text{const} , $$
#
# and is minimized over the trains of fixed ranks by Riemannian descent (lesson 07). But $q$ may be negative.
#
# Either way each variable can go first through its own distribution function, $u_k = F_k(x_k)$, piecewise linear on cells (`cells=`):
# $p(x) = p(u) \prod_k F_k'(x_k)$. Peaks and jumps of single variables, such as a meter's whole numbers, are then no business of the
# splines.
#
# Marginals integrate core by core, conditionals are ratios of two marginals, and samples come variable by variable: on each
# interval the conditional density is a polynomial, whose distribution function is inverted (lesson 08).

# %%
Code(inspect.getsource(tl.TTDensity._log_chain), language="python")

# %% [markdown]
# ## It is a density
#
# The integral over the plane by Gauss-Legendre quadrature on every interval, which is exact for these polynomials:

# %%
g = torch.Generator().manual_seed(0)
n = fast(600, full=4000)
x, z = paper.toy("pinwheel", n, generator=g), paper.toy("pinwheel", n, generator=g)
steps = fast(1, full=8)
squared = tl.TTDensity(rank=12, basis=32, steps=steps, noise=0.02, background=0).fit(x)

edges, (at, weight) = squared.splines_.edges, np.polynomial.legendre.leggauss(6)
points = [(e[:-1, None] + e.diff()[:, None] * torch.tensor(at + 1) / 2).flatten() for e in edges]
weights = [(e.diff()[:, None] * torch.tensor(weight) / 2).flatten() for e in edges]
total = squared.score_samples(torch.cartesian_prod(*points)).exp() @ torch.outer(*weights).flatten()
print(f"integral - 1 = {float(total) - 1:.1e}")


# %%
def draw(figure):
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    axes[0].plot(*x.T, ".", ms=2)
    axes[0].set(title="data", aspect="equal")
    a, b, p = lesson.density_grid(squared, 0, 1, {}, 100)
    return plots.density_map(axes[1], a, b, p, squared.sample(200, 0))


picture(draw, figsize=(8, 3.6))

# %% [markdown]
# ## Beside what you would use otherwise
#
# A kernel density with a tuned bandwidth and a mixture of full Gaussians with a tuned number of components, on rows that none has
# seen. Rows outside of the support, and rows where a linear model is negative, have no logarithm; they are counted and not clipped.
# The mean is over the others, which flatters a model that has many of them. Here the trains stand alone (`background=0`); by default
# `TTDensity` keeps a share of 1 / (n + 1) for a wide density that is nowhere zero, so that every row counts and cross-validation
# can compare models.


# %%
def compare(name, rows, steps):
    g = torch.Generator().manual_seed(0)
    x, z = paper.toy(name, rows, generator=g), paper.toy(name, rows, generator=g)
    for method in (
        "one Gaussian",
        "tuned mixture of Gaussians",
        "tuned KDE",
        "TTDE, squared",
        "TTDE, linear",
    ):
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = paper.fit(
                method, x, name, steps if "squared" in method else fast(4, full=20), (1, 4, 8, 16)
            )
            log, seconds = model.log(z), time.perf_counter() - start
        known = log.isfinite()
        print(
            f"{name:16} {method:27} {float(log[known].mean()):7.3f}   of {rows} rows {int((log == -math.inf).sum())} outside"
            f" and {int(log.isnan().sum())} negative   {seconds:.1f} s"
        )


for name in fast(paper.TOYS[2:3], full=paper.TOYS):
    compare(name, fast(300, full=2000), fast(1, full=6))

# %% [markdown]
# Where a linear model is not positive, in the plane and at the rows of the test:

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    settings = dict(rank=8, basis=32, model="linear", steps=fast(4, full=20), background=0)
    linear = tl.TTDensity(**settings).fit(x)
    a, b, p = lesson.density_grid(linear, 0, 1, {}, 100)
picture(lambda figure: plots.density_map(figure.subplots(), a, b, p), figsize=(4.5, 3.6))

# %%
report = linear.report(z)
print(
    f"{round(report.negative * n)} of {n} rows have no logarithm, {round(report.outside * n)} lie outside of the support;"
    f" the mean over the others is {report.mean:.3f}, of the squared model {squared.report(z).mean:.3f}"
)

# %% [markdown]
# POWER, six variables of a household's meters, at full size (`tensorlab run Novikov2021 --preset full` in a shell makes this table
# anew). The number of Gaussians to compare with is the one that is likeliest on the validation rows.

# %%
power = [row for row in measured(paper.PROGRAM.key).rows if row["data"] == paper.POWER]
Table(paper.PROGRAM.key, power).beside(printed(paper.PROGRAM.key))

# %% [markdown]
# ## When it loses
#
# A train is a chain: what far variables share has to pass through all ranks between them, and a strong correlation needs many. A
# single Gaussian in six variables with full covariance is a hard case for the train and the easiest for the Gaussian.

# %%
a = torch.randn(6, 6, generator=g, dtype=torch.float64)
normal = torch.distributions.MultivariateNormal(
    torch.zeros(6).double(), a @ a.T / 6 + 0.1 * torch.eye(6).double()
)
root = torch.linalg.cholesky(normal.covariance_matrix)
x, z = (
    torch.randn(fast(500, full=5000), 6, generator=g, dtype=torch.float64) @ root.T
    for _ in range(2)
)
fitted = torch.distributions.MultivariateNormal(x.mean(0), torch.cov(x.T))
print(
    f"truth {float(normal.log_prob(z).mean()):.3f}   Gaussian {float(fitted.log_prob(z).mean()):.3f}"
)
for rank in fast((1, 4), full=(1, 4, 8)):
    settings = dict(rank=rank, basis=16, steps=fast(1, full=6), noise=0.05, background=0)
    report = tl.TTDensity(**settings).fit(x).report(z)
    print(
        f"train of rank {rank}: {report.mean:.3f}, {report.outside:.1%} of the rows outside of the support"
    )

# %% [markdown]
# ## Exercises
#
# **Predict.**

# %%
print(lesson.products.question)
lesson.products(...)

# %% [markdown]
# **Implement.**


# %%
def gram_step(core, gram, state): ...


print(lesson.gram_step.question)
lesson.gram_step(gram_step)

# %% [markdown]
# **Explore.**

# %%
print(lesson.root_rank.question)
lesson.root_rank(...)
