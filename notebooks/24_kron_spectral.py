# %% [markdown] tags=["lesson"]
# name = "the spectral norm"
# minutes = 75
# needs = ["07_tt_manifold", "09_kronecker"]
# aims = [
#     "say which norm of the difference bounds what",
#     "follow a nonsmooth problem by smooth ones",
#     "build a step of continuation from three small functions",
#     "read a certificate",
# ]
# take = [
#     "The spectral norm of the difference is the largest error of an output over inputs of length one; the Frobenius norm is a mean over all of them.",
#     "A nonsmooth problem can be reached along smooth ones, if each starts where the last one ended; a certificate says how far it could still go.",
#     "A smaller spectral error is not a better network: the worst input of all may be one that the layer never sees.",
# ]

# %% [markdown]
# # Which norm should a compressed layer be near in?
#
# Its outputs go wrong by at most the *spectral* norm of the difference, and the best sum of [Kronecker products](00b_vocabulary.ipynb#Kronecker-product) in the [Frobenius norm](00b_vocabulary.ipynb#Norm) leaves
# a few directions with errors far above the others. Move p from 2, the Frobenius norm, to large, nearly the spectral norm: the
# singular values of the error flatten.

# %%
from tensorlab.course.lessons import kron_spectral as lesson

lesson.ContinuationExplorer()

# %% [markdown]
# ## Why the norm matters
#
# Below is the difference of outputs at the worst input of each sum, $x$ of length one with $|w x - m x|$ largest: the first right
# singular vector of the error.

# %%
import torch

import tensorlab as tl
from tensorlab.course.claims import say
from tensorlab.course.digits import draw_fits
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture

picture(lesson.draw_worst, figsize=(9, 3))

# %% [markdown]
# ## The mathematics
#
# Rearranged, $R(w)$ has the blocks of $w$ as rows, and sums of $K$ products are the matrices of [rank](00b_vocabulary.ipynb#Rank) $K$ [VanLoanPitsianis1993]. $R$ keeps
# the Frobenius norm and no other, so in the spectral norm
#
# $$ \min_{\operatorname{rank} X \le K} \big\| w - R^{-1}(X) \big\|_2 $$
#
# is not solved by an SVD. It is not convex, and the norm has a kink wherever the two largest singular values meet, which is just where
# a minimum is. Continuation [SeguinKressner2022] takes a chain of smooth problems, each started at the solution of the last,
#
# $$ |e|_{S_p} = \Big( \sum_i \sigma_i(e)^p \Big)^{1/p}, \quad p = 2, 4, 8, \dots, \qquad \|e\|_2 \le |e|_{S_p} \le n^{1/p} \|e\|_2 , $$
#
# from the one that an SVD solves toward the one we want, and finds a local minimum. This is the *Schatten norm*: with $p = 2$ it is the Frobenius norm, and as p grows it
# becomes the spectral norm $\|e\|_2$. With $\rho = \sigma / \sigma_1$ the gradient of $|e|_{S_p}$ is
#
# $$ g = \sum_i \frac{\rho_i^{p-1}}{\big(\sum_j \rho_j^p\big)^{(p-1)/p}}\; u_i v_i^{\mathsf T} , $$
#
# and a step goes along its part tangent to the matrices of rank $K$ (as in [lesson 07](07_tt_manifold.ipynb)), $U$ and $V$ being orthonormal bases of $X$:
#
# $$ X \;\leftarrow\; \text{best rank } K \text{ of } X + t\, P_X R(g), \qquad P_X Z = U U^{\mathsf T} Z + Z V V^{\mathsf T} - U U^{\mathsf T} Z V V^{\mathsf T} . $$


# %%
def norm_and_gradient(e, p):
    """The Schatten norm of e and its gradient g."""
    u, σ, vh = torch.linalg.svd(e)
    ρ = σ / σ[0]
    total = (ρ**p).sum()
    return σ[0] * total ** (1 / p), u * (ρ ** (p - 1) / total ** ((p - 1) / p)) @ vh


def plain_continuation(w, s, K, exponents=(2, 4, 8, 16, 32, 64, 128), steps=40):
    """K products of s by s factors, by steps along the tangents with a step size that adapts."""
    R = lambda w: w.reshape(s, s, s, s).transpose(1, 2).reshape(s * s, s * s)  # its own inverse
    U, σ, Vh = torch.linalg.svd(R(w))
    U, σ, Vh, t = U[:, :K], σ[:K], Vh[:K], 1.0
    for p in exponents:
        for _ in range(steps):
            norm, g = norm_and_gradient(w - R(U * σ @ Vh), p)
            a = U.T @ R(g)
            P = U @ a + R(g) @ Vh.T @ Vh - U @ (a @ Vh.T) @ Vh
            u, q, vh = torch.linalg.svd(U * σ @ Vh + t * P)
            u, q, vh = u[:, :K], q[:K], vh[:K]
            better = norm_and_gradient(w - R(u * q @ vh), p)[0] < norm
            U, σ, Vh, t = (u, q, vh, 2 * t) if better else (U, σ, Vh, t / 2)
    return R(U * σ @ Vh)


w = lesson.example_matrix("Gaussian")
frobenius, fit = tl.kron_svd(w, (6, 6), 6), tl.kron_spectral(w, (6, 6), 6)
norm = lambda m: float(torch.linalg.matrix_norm(w - m, 2))
plain = norm(plain_continuation(w, 6, 6))
say(
    f"The spectral error of the Frobenius sum is {norm(frobenius.to_dense()):.2f}. The few lines above bring it down to {plain:.2f}; "
    f"`tl.kron_spectral`, which steps by L-BFGS [LiuNocedal1989], to {fit.error:.2f}.",
    fit.error < 0.8 * norm(frobenius.to_dense()),
    plain < 0.85 * norm(frobenius.to_dense()),
)

# %% [markdown]
# ## A certificate
#
# How far could it still go? Take $z$, the gradient without its tangent part. It is orthogonal to every sum with the same left factors,
# and to every one with the same right factors, so for each such sum $m$
#
# $$ \|w - m\|_2\, \|z\|_* \ge \langle z, w - m \rangle = \langle z, w \rangle . $$
#
# Here $\|z\|_*$ is the sum of the singular values of z. The right side over it is a bound: neither new left factors alone nor new right ones can come below it. The
# exponent grows until the error is within 1 % of this bound. A bound for *all* sums of $K$ products is weaker: $\|e\|_2 \ge \|e\|_F /
# \sqrt n$, and $\|e\|_F$ is at least the tail of the singular values of $R(w)$.
#
# Both in the picture, with the rivals at the same numbers: a term of either, and a rank of the SVD, stores 72.

# %%
terms = fast((3, 6), full=(3, 6, 9, 12))
picture(lambda figure: lesson.draw_curves(figure.subplots(), "Gaussian", terms), figsize=(9, 3.2))

# %%
found = {name: [e for _, e in points] for name, points in lesson.curves("Gaussian", terms).items()}
ratio = lambda name: [s / e for s, e in zip(found["SVD"], found[name])]
ours, theirs = ratio("Kronecker, spectral"), ratio("Kronecker, Frobenius")
say(
    f"At equal numbers the SVD's error is {min(theirs):.2f} to {max(theirs):.2f} times that of the Frobenius sum, and {min(ours):.2f} to "
    f"{max(ours):.2f} times that of the spectral sum: the more terms, the more it gains. New factors on one side alone would "
    f"gain no more than {max(1 - c / e for c, e in zip(found['certificate'], found['Kronecker, spectral'])):.1%}.",
    all(0.8 < r < 1.25 for r in theirs),
    ours == sorted(ours) and ours[0] > 1.2,
    all(
        b <= c <= e < f
        for b, c, e, f in zip(
            found["bound for all"],
            found["certificate"],
            found["Kronecker, spectral"],
            found["Kronecker, Frobenius"],
        )
    ),
)

# %% [markdown]
# ## Inputs of data
#
# No layer sees all inputs alike. With inputs $x_t$ the error that counts is $\|(w - m)\, C^{1/2}\|_2$, $C$ the mean of $x_t x_t^{\mathsf T}$.
# Here the last of the 36 inputs are about thirty times smaller than the first.

# %%
x = torch.randn(500, 36, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
x = x * torch.logspace(0, -1.5, 36, dtype=torch.float64)
outputs = lambda m: float(torch.linalg.matrix_norm((w - m.to_dense()) @ x.mT, 2) / 500**0.5)
errors = {
    "SVD": outputs(tl.LowRank.from_dense(w, 6)),
    "Kronecker, Frobenius": outputs(frobenius),
    "Kronecker, spectral": outputs(fit.value),
    "spectral, with the inputs": outputs(tl.kron_spectral(w, (6, 6), 6, inputs=x).value),
}
picture(lambda figure: lesson.draw_inputs(figure, errors), figsize=(7, 2.4))

# %%
known = errors.pop("spectral, with the inputs")
say(
    f"All four store 432 numbers. The sum that was fitted with the inputs has {known / min(errors.values()):.0%} of the error of the best "
    "that was not.",
    known < min(errors.values()),
    fit.value.numel == 432,
)

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
hybrid = tl.kron_hybrid(mixed, 144, shapes=[(36, 1), (6, 6)]).value
picture(lambda figure: lesson.draw_shapes(figure, hybrid), figsize=(9, 3))

# %%
relative = lambda m: float((mixed - m.to_dense()).norm() / mixed.norm())
svd, square = tl.LowRank.from_dense(mixed, 2), tl.kron_svd(mixed, (6, 6), 2)
say(
    f"With 144 numbers each, the SVD has an error of {relative(svd):.2f}, two products of one shape have {relative(square):.2f}, and one "
    f"of each shape has {relative(hybrid):.3f}.",
    svd.numel == square.numel == hybrid.numel == 144,
    3 * relative(hybrid) < min(relative(svd), relative(square)),
)

# %%
flower = lesson.example_matrix("gray flower")
of_flower = tl.kron_hybrid(flower, 360)
greedy, one = of_flower.history[-2:]
say(
    f"On a photograph, with all shapes to choose from, the greedy choice is worse ({greedy:.3f}) than one good shape ({one:.3f}). "
    "`kron_hybrid` tries that as well and returns the better of the two.",
    len(of_flower.value.parts) == 1,
    one < greedy,
)

# %% [markdown]
# ## A layer of a network
#
# The running example of these lessons: the 64 by 64 weight of a network that reads digits, with 8 by 8 factors.

# %%
picture(
    lambda figure: draw_fits(figure, lesson.layer_curves(), "relative spectral error"),
    figsize=(9, 3),
)

# %%
right = {name: dict(points) for name, points in lesson.layer_curves()["accuracy"].items()}
few, many = 512, 1024
in_words = lambda n: ", ".join(f"{k} {right[k][n]:.1%}" for k in right if k != "dense")
say(
    f"The dense layer reads {right['dense'][4096]:.1%} of the digits. With {few} numbers it reads, as {in_words(few)}. With {many:,} "
    f"numbers, as {in_words(many)}. The spectral norm helps where little is kept; from {many:,} numbers on the plain SVD reads most.",
    right["Kronecker, spectral"][few] > right["Kronecker, Frobenius"][few] > right["SVD"][few],
    all(
        right["SVD"][n] >= max(right["Kronecker, spectral"][n], right["Kronecker, Frobenius"][n])
        for n in right["SVD"]
        if n >= many
    ),
)

# %% [markdown]
# ## Recorded results, and where it loses
#
# `tensorlab run KroneckerSpectral` measures ten matrices for each distribution (bars are standard deviations), and `tensorlab run KroneckerModels` puts such sums
# into models: on the right the value matrices of a sentence encoder, as many numbers as 24 terms of the SVD. "Outputs" is the norm of the errors of the outputs over
# inputs of data, which an SVD can have too; *permuted* puts rows and columns into a better order first. No paper prints digits for these.

# %%
picture(lesson.draw_measured, figsize=(9, 3.6))

# %%
rows = {row["method"]: row for row in lesson.encoder_rows()}
svd, near, far = (rows[k] for k in ("SVD", "Kronecker, spectral", "Kronecker, Frobenius"))
both = [rows[k] for k in ("SVD, outputs", "Kronecker, outputs", "Kronecker, outputs, spectral")]
say(
    f"In the encoder the spectral sum has the smallest spectral error ({near['spectral']:.2f}) and the *lowest* score, {near['score']:.1f}; the "
    f"Frobenius sum has {far['score']:.1f}, and the plain SVD of as many numbers {svd['score']:.1f}. What helps is to weigh errors by the inputs: "
    f"{both[0]['score']:.1f} for the SVD, {both[1]['score']:.1f} for the sum, and {both[2]['score']:.1f} for the sum in the spectral norm of the outputs, "
    f"of {rows['dense']['score']:.1f}. These three are within {max(r['score'] for r in both) - min(r['score'] for r in both):.1f} of each other: of one run on 500 pairs that is no ranking.",
    near["spectral"] == min(row["spectral"] for row in rows.values() if row["spectral"]),
    near["score"] < far["score"] < svd["score"] < min(row["score"] for row in both),
    max(row["numbers"] for row in rows.values() if row is not rows["dense"]) == svd["numbers"],
)

# %% [markdown]
# The worst input of all may be none that the layer sees. It also loses on large matrices: each step needs all singular values.
#
# ## Exercises
#
# Exercises 2 to 5 build a step of continuation, each from the ones before. A blank says nothing; a wrong answer gets its own hint.
#
# ### 1. Predict: two norms of one error (★, 3 minutes)
#
# All 36 singular values of an error are equal. How many times its spectral norm is its Schatten norm with $p = 32$?

# %%
schatten_factor = ...
lesson.schatten_factor(schatten_factor)

# %% [markdown] tags=["hints"]
# Call the common singular value σ, and add 36 powers of it.
#
# $(n \sigma^p)^{1/p}$.

# %% tags=["solution"]
schatten_factor = 36 ** (1 / 32)

# %% [markdown]
# ### 2. The gradient (★★, 10 minutes)
#
# Write `schatten_gradient(e, p)`: the gradient of $|e|_{S_p}$ for a matrix e, which has e's singular vectors and other weights in place of its
# singular values. It should work for entries of $10^{10}$ and $p = 64$ too.


# %%
def schatten_gradient(e, p): ...


lesson.schatten_gradient(schatten_gradient)

# %% [markdown] tags=["hints"]
# `torch.linalg.svd(e, full_matrices=False)`; the weights are in the formula above.
#
# Divide the singular values by the largest before you take powers: then none is too large.


# %% tags=["solution"]
def schatten_gradient(e, p):
    u, s, vh = torch.linalg.svd(e, full_matrices=False)
    rho = s / s[0]
    return u * (rho ** (p - 1) / (rho**p).sum() ** ((p - 1) / p)) @ vh


# %% [markdown]
# ### 3. Rearrange (★★, 10 minutes)
#
# Write `rearrange(w, m, n)`: $R(w)$ for left factors of m rows and n columns. Cut w into m by n blocks; each block, read row by row, is a row of the
# result, the blocks taken row after row.


# %%
def rearrange(w, m, n): ...


lesson.rearrange(rearrange)

# %% [markdown] tags=["hints"]
# A block has `w.shape[0] // m` rows and `w.shape[1] // n` columns. Give w four modes.
#
# `w.reshape(m, rows, n, columns)` has the block in its modes 0 and 2: put these first.


# %% tags=["solution"]
def rearrange(w, m, n):
    rows, columns = w.shape[0] // m, w.shape[1] // n
    return w.reshape(m, rows, n, columns).transpose(1, 2).reshape(m * n, rows * columns)


# %% [markdown]
# ### 4. The tangent part (★★, 10 minutes)
#
# Write `tangent_part(z, u, v)`: the part of a matrix z that is tangent to the matrices of rank K at one whose columns have the orthonormal basis u
# (rows, K), and whose rows have the orthonormal basis v (columns, K).


# %%
def tangent_part(z, u, v): ...


lesson.tangent_part(tangent_part)

# %% [markdown] tags=["hints"]
# Project the columns, project the rows, and add.
#
# What lies in both is counted twice then.


# %% tags=["solution"]
def tangent_part(z, u, v):
    a = u @ (u.T @ z)
    return a + (z - a) @ v @ v.T


# %% [markdown]
# ### 5. A step of continuation (★★★, 15 minutes)
#
# Write `spectral_step(w, x, p, t, rank)`: one step of length t that lowers $|w - R(x)|_{S_p}$. Here w is $s^2$ by $s^2$, all factors are s by s, so that $R$ is
# its own inverse, and x, of the given rank, is the sum in its rearranged form; return the new x.


# %%
def spectral_step(w, x, p, t, rank): ...


lesson.spectral_step(spectral_step)

# %% [markdown] tags=["hints"]
# Take the gradient at w - R(x), rearrange it, and take its tangent part at x; x + t times that has the rank 2 K at most.
#
# The bases u and v are singular vectors of x; the best matrix of rank K is a truncated SVD again.


# %% tags=["solution"]
def spectral_step(w, x, p, t, rank):
    s = round(len(w) ** 0.5)
    gradient = schatten_gradient(w - rearrange(x, s, s), p)
    u, _, vh = torch.linalg.svd(x)
    x = x + t * tangent_part(rearrange(gradient, s, s), u[:, :rank], vh[:rank].T)
    u, sigma, vh = torch.linalg.svd(x)
    return u[:, :rank] * sigma[:rank] @ vh[:rank]


# %% [markdown]
# ### 6. Explore (★, 5 minutes)
#
# In the explorer at the top, with the Gaussian matrix and 6 terms: which p, a power of two, is the first whose spectral error is within 3 % of that of
# p = 256?

# %%
enough = ...
lesson.enough(enough)

# %% [markdown] tags=["hints"]
# The status line says how far the error is below that of p = 2: read it for power = 8 first.
#
# Look in the right picture for where the curve is flat, and compare the percentages there.

# %% tags=["solution"]
spectral = lesson.norms("Gaussian", 6)[0]
enough = next(2**k for k, e in enumerate(spectral, 1) if e <= 1.03 * spectral[-1])
