# %% [markdown]
# # When is a tensor a short sum of products, and how is it found?
#
# Alternating least squares finds the easy one in a few sweeps; in the swamp it crawls; for the third tensor the best answer does
# not exist. Same algorithm, three tensors.

# %%
import inspect
import math

import torch
from IPython.display import Code

import tensorlab as tl
from tensorlab import datasets, plots
from tensorlab.course.lab import fast
from tensorlab.course.lessons import cp as lesson
from tensorlab.course.widgets import picture

sweeps = fast(40, full=600)


def histories():
    out = {}
    for name in lesson.AlsExplorer.names:
        x, start = lesson.als_problem(name)
        out[name] = tl.cp_als(x, start.ranks[0], init=start, tol=0.0, max_iter=sweeps).history
    return out


picture(lambda figure: plots.convergence(figure.subplots(), histories()))

# %% [markdown]
# ## The mathematics
#
# The canonical polyadic format is a sum of $r$ products [KoldaBader2009]:
#
# $$ x[i, j, k] = \sum_{t=1}^{r} w_t\, A[i, t]\, B[j, t]\, C[k, t]. $$
#
# It stores $r(n_0 + n_1 + n_2 + 1)$ numbers. For a matrix the factors can be turned at will, $AB^{\mathsf T} =
# (AM)(BM^{-\mathsf T})^{\mathsf T}$; from three modes on they are unique up to order and scale if the columns are independent
# enough: $k_A + k_B + k_C \ge 2r + 2$ with the Kruskal ranks $k$ [Kruskal1977].
#
# With all factors but one fixed the problem is linear. With $K$ the Khatri-Rao product of the others,
#
# $$ A = x_{(0)}\, \bar K\, \Gamma^{-1}, \qquad \Gamma = (B^{\mathsf T}\bar B) * (C^{\mathsf T}\bar C). $$
#
# The costly part is $x_{(0)}\bar K$, and two of them serve all modes: the tensor times the right half of the factors is shared by
# the left half of the modes, and the other way round [Phan2013]. The error comes for free:
# $\|x - y\|^2 = \|x\|^2 - 2\,\mathrm{Re}\langle M, A\rangle + \langle A\Gamma, A\rangle$ with $M = x_{(0)}\bar K$.

# %%
Code(inspect.getsource(tl.cp_als_steps), language="python")

# %% [markdown]
# ## A planted tensor is found again

# %%
g = torch.Generator().manual_seed(0)
truth = tl.CP.randn((20, 21, 22), 5, generator=g, dtype=torch.float64).normalized()
fit = tl.cp_als(truth.to_dense(), 5, tol=0.0, max_iter=200)
found = fit.value.normalized()
cosines = math.prod((a.T @ b).abs() for a, b in zip(truth.factors, found.factors))
print(
    f"relative error {fit.history[-1]:.1e}; each true term and the nearest found one: cosine at least "
    f"{float(cosines.max(1).values.min()):.10f}"
)

# %% [markdown]
# ## Sweep by sweep
#
# In a **swamp** the columns are nearly parallel, and the error crawls for hundreds of sweeps. The **degenerate pair** is
# $W = a \circ a \circ b + a \circ b \circ a + b \circ a \circ a$: its rank is 3, but
# $n\,(a + b/n)^{\circ 3} - n\,a^{\circ 3} \to W$, so rank-2 tensors come as near as one likes and none is nearest
# [DeSilvaLim2008]. Two terms grow and cancel. Press play, or take steps.

# %%
lesson.AlsExplorer("degenerate pair")

# %% [markdown]
# ## Real data: 1797 handwritten digits
#
# The digits are a tensor, image by row by column. A sum of $r$ products against the SVD of the matrix image by pixel, for about
# the same number of stored numbers:

# %%
x = datasets.digits().X[: fast(200, full=None)]
print(f"{'CP rank':>8} {'numbers':>8} {'error':>7}   {'SVD rank':>8} {'numbers':>8} {'error':>7}")
for r in fast((5, 10), full=(5, 10, 20, 30)):
    cp = tl.cp_als(x, r, max_iter=fast(20, full=60), generator=g)
    rank = max(1, round(cp.value.numel / (len(x) + 64)))
    low = tl.LowRank.from_dense(x.reshape(len(x), 64), rank)
    error = float((low.to_dense().reshape(x.shape) - x).norm() / x.norm())
    better = "CP is better" if cp.history[-1] < error else "SVD is better"
    print(
        f"{r:8} {cp.value.numel:8} {cp.history[-1]:7.3f}   {rank:8} {low.numel:8} {error:7.3f}   {better}"
    )

# %% [markdown]
# The SVD holds free 64-point images as its pixel factor; CP's are products of a row and a column profile. The images take most
# of the storage in both, so freedom is cheap for the SVD, and here plain SVD tends to win. CP pays when every mode is long.
#
# ## Exercises
#
# **Predict.**

# %%
print(lesson.cp_storage.question)
lesson.cp_storage(...)

# %% [markdown]
# **Implement.**


# %%
def khatri_rao(a, b): ...


print(lesson.khatri_rao.question)
lesson.khatri_rao(khatri_rao)

# %% [markdown]
# **Explore.**

# %%
print(lesson.degenerate_cosine.question)
lesson.degenerate_cosine(...)
