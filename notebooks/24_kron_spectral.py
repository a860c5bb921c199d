# %% [markdown]
# # Which norm should a compressed layer be near in?
#
# A layer is a map: what counts is how far its outputs go wrong, and the largest such error over inputs of length one is the *spectral*
# norm of the difference. The best sum of Kronecker products in the Frobenius norm is one SVD (lesson 09), but it leaves a few
# directions with errors far above the others. Move p from 2, the Frobenius norm, to large, nearly the spectral norm: the singular
# values of the error flatten.
#
# *You will be able to* say which norm bounds what, follow a nonsmooth problem by smooth ones, and read a certificate. *You need*
# [lesson 09](09_kronecker.py) and [lesson 07](07_tt_manifold.py). 30 minutes.

# %%
from tensorlab.course.lessons import kron_spectral as lesson

lesson.ContinuationExplorer()

# %% [markdown]
# ## Why the norm matters
#
# Below is the difference of outputs at the worst input of each sum, $x$ of length one with $|w x - m x|$ largest: the first right
# singular vector of the error.

# %%
import inspect

import torch
from IPython.display import Code

import tensorlab as tl
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture

picture(lesson.draw_worst, figsize=(8, 3))

# %% [markdown]
# ## The mathematics
#
# Rearranged, $R(w)$ has the blocks of $w$ as rows, and sums of $K$ products are the matrices of rank $K$ [VanLoanPitsianis1993]. $R$ keeps
# the Frobenius norm and no other, so in the spectral norm
#
# $$ \min_{\operatorname{rank} M \le K} \big\| w - R^{-1}(M) \big\|_2 $$
#
# is not solved by an SVD. In general it is NP-hard, says the talk that this lesson follows; and the norm has a kink wherever the two
# largest singular values meet, which is just where a minimum is. Continuation [SeguinKressner2022] promises less and keeps it: a
# chain of smooth problems, each started at the solution of the last,
#
# $$ |e|_p = \Big( \sum_i \sigma_i(e)^p \Big)^{1/p}, \quad p = 2, 4, 8, \dots, \qquad |e|_2 \le |e|_p \le n^{1/p} |e|_2 , $$
#
# from the problem that one SVD solves towards the one we want. With $\rho = \sigma / \sigma_1$ the gradient of $|e|_p$ is
#
# $$ \sum_i \frac{\rho_i^{p-1}}{\big(\sum_j \rho_j^p\big)^{(p-1)/p}}\; u_i v_i^{\mathsf T} , $$
#
# and its part tangent to the manifold of rank $K$ is the direction of steepest ascent there. `kron_spectral` steps by L-BFGS on that
# manifold [Huang2015].

# %%
from tensorlab.methods.kron_spectral import Sum

Code(inspect.getsource(Sum.project) + "\n" + inspect.getsource(Sum.ahead), language="python")

# %% [markdown]
# ## A certificate
#
# How far could it still go? Take $z$, the gradient without its tangent part. It is orthogonal to every sum with the same left factors,
# and to every one with the same right factors, so for each such sum $m$
#
# $$ |w - m|_2\, |z|_* \ge \langle z, w - m \rangle = \langle z, w \rangle . $$
#
# The right side over $|z|_*$ is a bound: neither new left factors alone nor new right ones can come below it. The
# exponent grows until the error is within 1 % of this bound. A bound for *all* sums of $K$ products is weaker: $|e|_2 \ge |e|_F /
# \sqrt n$, and $|e|_F$ is at least the tail of the singular values of $R(w)$.

# %%
terms = fast((3, 6), full=(3, 6, 9, 12))
w = lesson.example_matrix("Gaussian")
print("terms   SVD   Frobenius  spectral  certificate  bound for all   SVD / ours")
ratios, frobenius = [], []
for k in terms:
    fit = tl.kron_spectral(w, (6, 6), k)
    svd = float(torch.linalg.svdvals(w)[k])
    near = float(torch.linalg.matrix_norm(w - tl.kron_svd(w, (6, 6), k).to_dense(), 2))
    ratios.append(svd / fit.error)
    frobenius.append(svd / near)
    assert fit.bound <= fit.certificate <= fit.error < near
    print(
        f"{k:5} {svd:6.3f} {near:10.3f} {fit.error:9.3f} {fit.certificate:12.3f} {fit.bound:14.3f} {ratios[-1]:12.3f}"
    )

# %% [markdown]
# At equal numbers (a term of either stores 72) the Frobenius sum and the SVD are within a fifth of each other in this norm; the spectral
# sum is better by more than a quarter with three terms, and the more so the more terms there are.

# %%
assert ratios == sorted(ratios) and ratios[0] > 1.25
assert all(0.8 < r < 1.2 for r in frobenius)

# %% [markdown]
# ## Inputs of data
#
# No layer sees all inputs alike. With inputs $x_t$ the error that counts is $|(w - m)\, C^{1/2}|_2$, $C$ the mean of $x_t x_t^{\mathsf T}$.

# %%
x = torch.randn(500, 36, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
x = x * torch.logspace(0, -1.5, 36, dtype=torch.float64)
outputs = lambda m: float(torch.linalg.matrix_norm((w - m.to_dense()) @ x.mT, 2) / 500**0.5)
plain, weighted = tl.kron_spectral(w, (6, 6), 6), tl.kron_spectral(w, (6, 6), 6, inputs=x)
print(
    f"largest error of outputs: {outputs(plain.value):.3f} without the inputs, {outputs(weighted.value):.3f} with them"
)
assert outputs(weighted.value) < outputs(plain.value)

# %% [markdown]
# ## Factors of several shapes
#
# A sum may mix shapes [Cai2023]: a column times a row is low rank, square factors are blocks that are alike. `kron_hybrid` takes, one by
# one, the product that gains most for each number it stores, and fits all anew in turn. Here is a matrix with both kinds of structure
# and a little noise.

# %%
g = torch.Generator().manual_seed(2)
draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)
mixed = 2 * draw(36, 1) @ draw(1, 36) + torch.kron(draw(6, 6), draw(6, 6)) + 0.1 * draw(36, 36)
hybrid = tl.kron_hybrid(mixed, 144, shapes=[(36, 1), (6, 6)])
picture(lambda figure: lesson.draw_shapes(figure, hybrid.value), figsize=(9, 3))

# %%
relative = lambda w, m: float((w - m.to_dense()).norm() / w.norm())
rows = {
    "SVD": tl.LowRank.from_dense(mixed, 2),
    "Kronecker 6 x 6": tl.kron_svd(mixed, (6, 6), 2),
    "hybrid": hybrid.value,
}
for name, m in rows.items():
    print(f"{name:16} {m.numel:4} numbers, relative error {relative(mixed, m):.4f}")
assert 3 * relative(mixed, hybrid.value) < min(
    relative(mixed, rows[name]) for name in ("SVD", "Kronecker 6 x 6")
)

# %% [markdown]
# On a photograph, with all shapes to choose from, the greedy choice is worse than one good shape, which `kron_hybrid` tries as well; it returns
# the better of the two.

# %%
flower = lesson.example_matrix("gray flower")
fit = tl.kron_hybrid(flower, 360)
print(f"greedy {fit.history[-2]:.4f}, one shape {fit.history[-1]:.4f}")
assert len(fit.value.parts) == 1 and fit.history[-1] < fit.history[-2]

# %% [markdown]
# ## In models
#
# `tensorlab run KroneckerSpectral` measures 50 random matrices and the value matrices of a character model and of a sentence encoder;
# `tensorlab run KroneckerModels` puts such sums into the models. What came out stands in `data/measured`. A smaller spectral error is not
# a better model by itself: with the encoder's value matrices as 24 terms each, the spectral sum has the smallest spectral error and
# the *lowest* score, the Frobenius sum is between, and the plain SVD of as many numbers is the best of the three. The worst input of all
# is none that the layer sees.

# %% [markdown]
# ## Exercises
#
# **Predict.**

# %%
print(lesson.schatten_factor.question)
lesson.schatten_factor(...)

# %% [markdown]
# **Implement.**


# %%
def schatten_gradient(e, p): ...


print(lesson.schatten_gradient.question)
lesson.schatten_gradient(schatten_gradient)

# %% [markdown]
# **Explore.**

# %%
print(lesson.enough.question)
lesson.enough(...)

# %% [markdown]
# ## To take along
#
# - The spectral norm of the difference is the largest error of an output; the Frobenius norm is their mean.
# - A nonsmooth problem can be reached along smooth ones, if each starts where the last one ended.
# - A certificate tells a local end from a long way to go.
#
# **Where it fails:** matrices whose structure thin factors hold better, such as a trained layer's, where a Kronecker sum made in the
# Frobenius norm loses to the SVD; large matrices, each step of which needs all singular values.
#
# Previous: [23](23_kashin.py). References: [VanLoanPitsianis1993], [SeguinKressner2022], [Huang2015], [Cai2023], [Abronin2024].
