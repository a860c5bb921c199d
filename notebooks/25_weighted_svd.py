# %% [markdown] tags=["lesson"]
# name = "weighted SVD"
# minutes = 75
# needs = ["01_lowrank"]
# aims = [
#     "say in which norm the plain SVD is best, and why no network feels that norm",
#     "build the truncated SVD of L w R from four small functions",
#     "name five methods of compression by their L and R",
#     "share ranks among layers",
# ]
# take = [
#     "The plain SVD makes the error of the weights small; what a network feels is the error of its outputs, and in the end that of its loss.",
#     "One function, the truncated SVD of L w R, is SVD, ASVD, FWSVD, the whitened SVD and the Kronecker-factored one; a projection takes the place of the inverse of R.",
#     "Errors of outputs cannot be compared between layers, changes of the loss can: the ranks of the layers come from them.",
# ]

# %% [markdown]
# # Which error should a truncated SVD make small?
#
# A small transformer reads digits row by row. All eight matrices of its blocks are cut to one [rank](00b_vocabulary.ipynb#Rank), by the plain SVD and by a method of your
# choice. Compare the errors on the left with the digits that are still read: the smallest error of the *weights* is not the best network.

# %%
from tensorlab.course.lessons import weighted_svd as lesson

lesson.WeightingExplorer()

# %% [markdown]
# ## Why the plain SVD is in the wrong norm
#
# The plain SVD treats all inputs of a layer alike. Those that come are not: below are the singular values of a weight, of the root of the mean of
# $x x^{\mathsf T}$ over its inputs, and of their product. What the layer does to the inputs that come has a far lower
# [rank](00b_vocabulary.ipynb) than the weight.

# %%
import torch

import tensorlab as tl
from tensorlab.course.claims import say
from tensorlab.course.digits import digits, trained_reader
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture

picture(lesson.draw_steep, figsize=(9, 3.2))

# %% [markdown]
# ## The mathematics
#
# With weights $L$ on the side of the outputs and $R$ on that of the inputs, the best matrix of rank $r$ is
#
# $$ \hat w = \operatorname*{arg\,min}_{\operatorname{rank} \hat w \le r} \big\| L (w - \hat w) R \big\|_F, \qquad L w R = U S V^{\mathsf T}, \qquad
# \hat w = L^{-1} U_r U_r^{\mathsf T} L w . $$
#
# $L \hat w R$ is the truncated SVD $U_r S_r V_r^{\mathsf T}$, which is the best by [EckartYoung1936]; the projection $U_r U_r^{\mathsf T}$ reaches it without
# an inverse of $R$, so inputs that never come do no harm. With $R R^{\mathsf T}$ the mean of $x x^{\mathsf T}$, the error is that of the outputs:
#
# $$ \big\| (w - \hat w) R \big\|_F^2 = \text{mean of } \big\| w x - \hat w x \big\|^2 . $$
#
# Five methods differ in their weights alone, and in what has to be seen for them: nothing, some inputs, or gradients of the loss too.
#
# | method | $L^{\mathsf T} L$ | $R R^{\mathsf T}$ | needs |
# |---|---|---|---|
# | SVD | $1$ | $1$ | nothing |
# | ASVD [Yuan2023] | $1$ | diagonal, mean of $\lvert x_j \rvert$ | inputs |
# | FWSVD [Hsu2022] | $1$ | diagonal, sums over a column of squared gradients | a loss |
# | whitened [Wang2025] | $1$ | mean of $x x^{\mathsf T}$ | inputs |
# | kfac [MartensGrosse2015] | sum of $g g^{\mathsf T}$, $g$ the gradient for the outputs | mean of $x x^{\mathsf T}$ | a loss |
#
# With all of $L$ and $R$ of the last row the error is an estimate of how far the *loss* moves.


# %%
def moment(x):
    """The mean of x xᵀ over tokens (..., n): (n, n)."""
    x = x.flatten(0, -2)
    return x.T @ x / len(x)


def root(a, clamp=1e-4):
    """C with C Cᵀ = a, no eigenvalue below clamp times their mean."""
    λ, V = torch.linalg.eigh(a)
    return V * λ.clamp_min(clamp * λ.mean()).sqrt()


def cut(w, L, R, r):
    """The best ŵ of rank r in the norm |L (w - ŵ) R|."""
    U = torch.linalg.svd(L @ w @ R)[0][:, :r]
    return torch.linalg.solve(L, U @ (U.T @ (L @ w)))


model, inputs = trained_reader(), []
layer = model.get_submodule(lesson.LAYER)
hook = layer.register_forward_pre_hook(lambda layer, x: inputs.append(x[0].double()))
model(digits()[0][:400])
hook.remove()

w, x = layer.weight.double(), inputs[0]
R, one = root(moment(x)), torch.eye(len(w), dtype=w.dtype)
plain, white = cut(w, one, torch.eye(w.shape[1], dtype=w.dtype), 6), cut(w, one, R, 6)
library = tl.weighted_svd(w, 6, right=R).to_dense()
of_outputs = lambda low: float(
    ((w - low) @ x.flatten(0, -2).T).norm() / (w @ x.flatten(0, -2).T).norm()
)
of_weights = lambda low: float((w - low).norm() / w.norm())
say(
    f"Rank 6 of {len(w)} by {w.shape[1]}: the plain SVD leaves {of_weights(plain):.2f} of the weight and {of_outputs(plain):.2f} of the outputs, the whitened one "
    f"{of_weights(white):.2f} and {of_outputs(white):.2f}. `tl.weighted_svd` gives the same matrix.",
    of_weights(plain) < of_weights(white),
    of_outputs(white) < 0.8 * of_outputs(plain),
    float((library - white).norm()) < 1e-8 * float(white.norm()),
)

# %% [markdown]
# ## Rivals at equal size
#
# The whole network, its eight matrices at an equal share of numbers each; "kfac, its ranks" shares them out by the loss, see below. The rivals
# are the dense network, the largest entries alone (their places stored for nothing), and narrower networks that were trained from scratch.

# %%
keeps, widths = (
    fast((0.3, 0.5), full=(0.2, 0.3, 0.4, 0.5, 0.75)),
    fast((16,), full=(12, 16, 20, 24)),
)
found = lesson.rivals(keeps, widths)
picture(lambda figure: lesson.draw_rivals(figure, found), figsize=(9, 3.6))

# %%
at = {
    name: dict(zip(keeps, (right for _, right in points)))
    for name, points in found.items()
    if len(points) == len(keeps)
}
dense = found["dense"][0][1]
say(
    f"Dense, {dense:.1%} of the test digits are read. At half of the numbers plain SVD reads {at['svd'][0.5]:.1%}, whitened {at['whitened'][0.5]:.1%}, kfac {at['kfac'][0.5]:.1%}; "
    f"at 30 % they read {at['svd'][0.3]:.1%}, {at['whitened'][0.3]:.1%} and {at['kfac'][0.3]:.1%}, and kfac with its own ranks {at['kfac, its ranks'][0.3]:.1%}.",
    min(at["kfac"][0.5], at["kfac, its ranks"][0.5]) > at["svd"][0.5],
    at["kfac, its ranks"][0.3] > max(at["whitened"][0.3], at["kfac"][0.3]) > at["svd"][0.3],
    dense - at["kfac, its ranks"][0.3] < 0.03,
)

# %% [markdown]
# ## Ranks of layers
#
# Which layer needs the numbers? The squares of the singular values of $L w R$ are what falls from the objective when a component is kept. With kfac that is a
# change of the loss, and can be compared between layers. With the whitened SVD it is energy of a layer's outputs, which can not:
# `spectrum_ranks` refuses it. Here is what would happen.

# %%
picture(lambda figure: lesson.draw_ranks(figure, 0.3), figsize=(9, 3.2))

# %%
ways = {way: lesson.seen(lesson.with_ranks(*pair)) for way, pair in lesson.ranks_by(0.3).items()}
uniform, energy, loss = ways.values()
say(
    f"At 30 % of the numbers, ranks by the loss move the answers by {loss['moved']:.3f} (Kullback and Leibler's divergence of the probabilities, in the mean), uniform ranks by {uniform['moved']:.3f}, ranks by energy by "
    f"{energy['moved']:.3f}.",
    2 * loss["moved"] < min(uniform["moved"], energy["moved"]),
)

# %% [markdown]
# ## How many inputs?
#
# Each digit gives a layer eight tokens, one for each of its rows. With few, the root of the mean of $x x^{\mathsf T}$ knows only some directions. `tl.calibrate`, which
# gathers these means, therefore warns below two tokens for each input, and the library draws the mean a little toward a multiple of 1 (*shrinkage*). The picture shows
# the layer with 128 inputs at rank 6, errors on unseen digits.

# %%
counts = fast((1, 8, 400), full=(1, 2, 4, 8, 16, 32, 64, 128, 400))
by_count = lesson.few(counts)
picture(lambda figure: lesson.draw_few(figure, by_count), figsize=(7, 3))

# %%
white, bare, svd = ([e for _, e in points] for points in by_count.values())
say(
    f"With one digit the whitened SVD has an error of {white[0]:.2f}, without shrinkage {bare[0]:.2f}, no better than the plain SVD's {svd[0]:.2f}. With 8 digits it "
    f"has {white[counts.index(8)]:.2f}, and with {counts[-1]}, {white[-1]:.2f}.",
    white[0] > 0.95 * svd[0],
    white[0] < bare[0],
    white[counts.index(8)] < 0.95 * svd[0],
    white[-1] < 0.8 * svd[0],
)

# %% [markdown]
# ## Recorded results
#
# `tensorlab run Hsu2022` compresses a sentence encoder of six layers without any tuning; the score is the correlation with people's judgments of similarity (STS-B). The
# printed numbers are from a talk on the compression of transformers: they are of BERT, *after* tuning on the task. What can be compared is what is left of the full score.

# %%
picture(lesson.draw_recorded, figsize=(9, 3.4))

# %%
from tensorlab.papers import table

full, *rest = table.measured("Hsu2022").rows
half = next(row for row in rest if row["method"] == "kfac spectrum" and row["kept"] == 0.49)
whole = next(row for row in rest if row["kept"] == 0.95 and row["method"] == "kfac spectrum")
printed = {row["method"]: row for row in table.printed("Hsu2022").rows if row["kept"] == 0.3}
before = next(r["STS-B"] for r in table.printed("Hsu2022").rows if r["method"] == "full")
say(
    f"With 49 % of the numbers of all its layers, {half['kept of the model']:.0%} of the model, our encoder scores {half['STS-B']:.3f}, with 95 % {whole['STS-B']:.3f}, whole {full['STS-B']:.3f}. Printed for feed-forward layers at 30 %: SVD "
    f"{printed['svd']['STS-B']}, FWSVD {printed['fwsvd columns']['STS-B']}, of {before}.",
    half["STS-B"] > 0.97 * full["STS-B"],
    whole["STS-B"] > 0.99 * full["STS-B"],
    max(printed["svd"]["STS-B"], printed["fwsvd columns"]["STS-B"]) < 0.75 * before,
)

# %% [markdown]
# ## Where it loses
#
# At the smallest sizes the best weights do not save low rank: a narrower network that is *trained* reads more from fewer numbers, where there are data and time
# to train one.

# %%
numbers, best = found["kfac, its ranks"][0]
small, read = found["trained smaller"][0]
say(
    f"A network of width {widths[0]}, trained from scratch, has {small:,} numbers in its blocks and reads {read:.1%}; the best cut with {numbers:,} numbers reads {best:.1%}. "
    f"The largest entries alone read {at['largest entries'][keeps[0]]:.1%}, if their places cost nothing.",
    fast(True, full=read > best),
    small < numbers,
    fast(True, full=at["largest entries"][keeps[0]] > at["svd"][keeps[0]]),
)

# %% [markdown]
# ## Exercises
#
# Exercises 2 to 5 build the weighted SVD and its ranks, each from the ones before. A blank says nothing; a wrong answer gets its own hint.
#
# ### 1. Predict: which entry stays? (★, 5 minutes)
#
# $w$ is diagonal with 3, 2, 1. Its inputs are uncorrelated, with the mean squares 1, 1 and 16. Which relative error of the outputs, $|(w - \hat w) R| / |w R|$, has
# the best $\hat w$ of rank 1?

# %%
kept_error = ...
lesson.kept_error(kept_error)

# %% [markdown] tags=["hints"]
# R is diagonal with 1, 1, 4. What is w R?
#
# Its largest entry stays, the others are lost.

# %% tags=["solution"]
kept_error = (3**2 + 2**2) ** 0.5 / (3**2 + 2**2 + 4**2) ** 0.5

# %% [markdown]
# ### 2. The second moment (★, 5 minutes)
#
# Write `second_moment(x)`: the mean of $x x^{\mathsf T}$ over all tokens. x has the shape (..., n), the last mode are the inputs; return (n, n).


# %%
def second_moment(x): ...


lesson.second_moment(second_moment)

# %% [markdown] tags=["hints"]
# `x.flatten(0, -2)` has a row for each token.
#
# $X^{\mathsf T} X$ adds up the products; divide by the number of rows.


# %% tags=["solution"]
def second_moment(x):
    x = x.flatten(0, -2)
    return x.T @ x / len(x)


# %% [markdown]
# ### 3. A root that never fails (★★, 10 minutes)
#
# Write `root(a, clamp)`: a matrix C with $C C^{\mathsf T} = a$, after eigenvalues of the symmetric a that are less than clamp times the mean of its diagonal were raised to
# that. Any such C will do.


# %%
def root(a, clamp): ...


lesson.root(root)

# %% [markdown] tags=["hints"]
# `torch.linalg.eigh(a)` gives eigenvalues λ and eigenvectors V, $a = V \operatorname{diag}(λ) V^{\mathsf T}$.
#
# $C = V \operatorname{diag}(\sqrt λ)$: `V * λ.sqrt()`; before that, `λ.clamp_min(...)`.


# %% tags=["solution"]
def root(a, clamp):
    values, vectors = torch.linalg.eigh(a)
    return vectors * values.clamp_min(clamp * a.diagonal().mean()).sqrt()


# %% [markdown]
# ### 4. The weighted cut (★★, 15 minutes)
#
# Write `weighted_cut(w, left, right, rank)`: the $\hat w$ of that rank with the least $|L (w - \hat w) R|$. L is invertible, R may be singular.


# %%
def weighted_cut(w, left, right, rank): ...


lesson.weighted_cut(weighted_cut)

# %% [markdown] tags=["hints"]
# The first columns of U of the SVD of `left @ w @ right` span what is kept.
#
# Project L w on them, and take L away by `torch.linalg.solve(left, ...)`.


# %% tags=["solution"]
def weighted_cut(w, left, right, rank):
    u = torch.linalg.svd(left @ w @ right, full_matrices=False)[0][:, :rank]
    return torch.linalg.solve(left, u @ (u.T @ (left @ w)))


# %% [markdown]
# ### 5. Ranks by a spectrum (★★, 10 minutes)
#
# Write `priced_ranks(spectra, costs, price)`: the rank of each layer, as a tensor or a list, that makes the loss plus price times numbers least. `spectra[k]` are the singular
# values of $L w R$ of layer k, whose squares are losses; a component of layer k stores `costs[k]` numbers.


# %%
def priced_ranks(spectra, costs, price): ...


lesson.priced_ranks(priced_ranks)

# %% [markdown] tags=["hints"]
# Keeping a component lowers the loss by s² and costs price times numbers.
#
# Count the components for which the first is more than the second.


# %% tags=["solution"]
def priced_ranks(spectra, costs, price):
    return [int((s**2 > price * c).sum()) for s, c in zip(spectra, costs)]


# %% [markdown]
# ### 6. Explore (★, 5 minutes)
#
# In the explorer at the top, with all layers at once and the method whitened: which is the first rank at which the error of the outputs is at most 0.2? And
# where does the plain SVD come there?

# %%
enough_rank = ...
lesson.enough_rank(enough_rank)

# %% [markdown] tags=["hints"]
# The sentence below the picture has the error of the outputs by both.
#
# It falls with the rank: go up from 4 one at a time.

# %% tags=["solution"]
ranks = range(1, lesson.break_even(lesson.ALL) + 1)
enough_rank = next(r for r in ranks if lesson.errors("whitened", lesson.ALL, r)["outputs"] <= 0.2)
