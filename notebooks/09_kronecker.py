# %% [markdown] tags=["lesson"]
# name = "Kronecker products"
# minutes = 60
# needs = ["00b_vocabulary", "01_lowrank"]
# aims = [
#     "rearrange a matrix so that a Kronecker product has rank one",
#     "build the nearest sum of Kronecker products, and multiply by it without forming it",
#     "say which matrices it suits better than the SVD, and which not",
# ]
# take = [
#     "Rearranged block by block into rows, a Kronecker product is a matrix of rank one; the SVD does the rest.",
#     "At equal numbers stored it is a comparison of two lists of singular values, and either may win.",
#     "A sum of Kronecker products has full rank in general, and one that is exact at one size of blocks is not at another.",
# ]

# %% [markdown]
# # When is a matrix a sum of Kronecker products?
#
# When its blocks are alike. Make each block a row: what was a [Kronecker product](00b_vocabulary.ipynb#Kronecker-product) is now a matrix of [rank](00b_vocabulary.ipynb#Rank) one, and the singular values of
# the rearranged matrix say how many products are needed. Press *step*: the numbers are those of the entries, the frame is around the
# last that has moved.

# %%
from tensorlab.course.lessons import kronecker as lesson

lesson.RearrangePlayer()

# %% [markdown]
# ## The mathematics
#
# The Kronecker product puts a multiple of $B$ wherever $A$ has an entry, so block $(i, j)$ of $w = A \otimes B$ is $a_{ij} B$. Write
# the blocks as the rows of a matrix $R(w)$. Then [VanLoanPitsianis1993]
#
# $$ R(A \otimes B) = \operatorname{vec}(A)\, \operatorname{vec}(B)^{\mathsf T}, \qquad
#    \Big\| w - \sum_{k \le K} A_k \otimes B_k \Big\|_F = \Big\| R(w) - \sum_{k \le K} \operatorname{vec}(A_k) \operatorname{vec}(B_k)^{\mathsf T} \Big\|_F , $$
#
# since $R$ only moves entries. On the right is the problem of [low rank](01_lowrank.ipynb), which the SVD solves: the best sum of $K$
# products is the truncated SVD of $R(w)$. This holds for the [Frobenius norm](00b_vocabulary.ipynb#Norm) and for no other: $R$ does not keep the spectral norm
# ([lesson 24](24_kron_spectral.ipynb)).
#
# The product with a vector never forms $A \otimes B$: with $x$ read as a matrix $X$, $(A \otimes B)\,x$ is $A X B^{\mathsf T}$. In these letters:

# %%

import torch

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.claims import say
from tensorlab.course.digits import draw_fits
from tensorlab.course.widgets import picture


def plain_kron_svd(w, m, n, K):
    """The best K pairs of A (m, n) and B for a matrix w."""
    p, q = w.shape[0] // m, w.shape[1] // n
    R = w.reshape(m, p, n, q).permute(0, 2, 1, 3).reshape(m * n, p * q)
    u, s, vh = torch.linalg.svd(R, full_matrices=False)
    return [(u[:, k].reshape(m, n) * s[k], vh[k].reshape(p, q)) for k in range(K)]


def plain_apply(pairs, x):
    """The sum of the A ⊗ B times x."""
    return sum((A @ x.reshape(A.shape[1], -1) @ B.T).flatten() for A, B in pairs)


w = lesson.example_matrix("gray flower")
s = torch.linalg.svdvals(tl.kron_rearrange(w, (8, 8)))
x = torch.randn(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
fit = tl.kron_svd(w, (8, 8), 4)
gap = float(
    (plain_apply(plain_kron_svd(w, 8, 8, 4), x) - fit.apply(x)).norm() / fit.apply(x).norm()
)
off, tail = float((fit.to_dense() - w).norm()), float(s[4:].norm())
big = 1024
say(
    f"Four terms leave an error of {off:.6f}, the tail of the singular values of $R(w)$ is {tail:.6f}; the lines above differ from `tl.kron_svd` by "
    f"{gap:.0e} in the product with a vector. Of a {big} by {big} matrix such a product takes $2 n^{{3/2}}$ = {2 * round(big**1.5):,} multiplications instead "
    f"of $n^2$ = {big**2:,}.",
    abs(off - tail) < 1e-10,
    gap < 1e-10,
    2 * big**1.5 < big**2 / 10,
)

# %% [markdown]
# In the explorer the matrix is in its blocks on the left, rearranged in the middle, and on the right are the singular values of both;
# what is left of the dotted line is kept.

# %%
lesson.KroneckerExplorer()

# %% [markdown]
# ## Equal numbers stored: Kronecker against the SVD
#
# For $n$ by $n$ with factors of $\sqrt n$ by $\sqrt n$, a Kronecker term and a rank-one term store the same $2n$ numbers. So at equal
# storage the number of terms is equal, and the comparison is one of singular values: those of $R(w)$ against those of $w$.

# %%
curves = {name: lesson.errors(lesson.example_matrix(name), (8, 8), 30) for name in lesson.NAMES}
at = lambda points, terms: points[terms - 1][1]


def eighth(figure):
    ax = figure.subplots()
    for k, label in enumerate(("Kronecker", "SVD")):
        height = [at(pair[k], 4) for pair in curves.values()]
        spots = [i + 0.4 * k for i in range(len(height))]
        ax.barh(spots, height, 0.38, color=plots.COLORS[k], hatch="//" * k, label=label)
    ax.axvline(1, color="0.4", lw=1, ls="--", label="nothing kept")
    ax.set(xlabel="relative error with 512 of 4,096 numbers")
    ax.set_yticks([i + 0.2 for i in range(len(curves))], list(curves))
    ax.invert_yaxis()
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return (
        "Errors of four terms: "
        + ", ".join(
            f"{name} {at(kron, 4):.2f} and {at(svd, 4):.2f}" for name, (kron, svd) in curves.items()
        )
        + "."
    )


picture(eighth, figsize=(8, 3.2))

# %%
four = {name: (at(kron, 4), at(svd, 4)) for name, (kron, svd) in curves.items()}
better = [name for name, (kron, svd) in four.items() if kron < 0.95 * svd]
worse = [name for name, (kron, svd) in four.items() if svd < 0.95 * kron]
say(
    f"With an eighth of the numbers Kronecker products have clearly the smaller error for: {', '.join(better)}; the SVD for: {', '.join(worse)}. The pattern "
    "of one repeated tile is a single product. A random matrix of rank 4 is exact for the SVD only, and noise is noise for both.",
    four["tiled pattern"][0] == 0,
    four["random low rank"][1] == 0,
    four["random low rank"][0] > 0.5,
    {"tiled pattern", "elevation"} <= {*better},
    abs(four["random"][0] - four["random"][1]) < 0.01,
)


# %%
def against_storage(figure):
    axes = figure.subplots(1, 2, sharey=True)
    for ax, name in zip(axes, ("gray flower", "random low rank")):
        for k, (label, points) in enumerate(zip(("Kronecker", "SVD"), curves[name])):
            numbers, error = zip(*points)
            ax.semilogy(numbers, [max(e, 1e-3) for e in error], label=label, **plots.style(k, 30))
        ax.axvline(4096, color="0.4", lw=1, ls="--", label="dense")
        ax.set(xlabel="stored numbers")
        ax.set_title(name)
    axes[0].set_ylabel("relative error (0.001: exact)")
    axes[0].legend()
    return "Relative error against stored numbers, for a photograph and for a matrix of rank 4."


picture(against_storage, figsize=(9, 3))

# %% [markdown]
# Low rank and Kronecker are two *different* ways of being simple. A sum of Kronecker products has full rank in general, which no SVD of
# fewer than $n$ terms has:

# %%
one = tl.kron_svd(w, (8, 8), 1).to_dense()
rank = int(torch.linalg.matrix_rank(one))
say(
    f"A single Kronecker product near the photograph, {2 * 64} numbers, has rank {rank}; an SVD of as many numbers has rank 1.",
    rank > 32,
)

# %% [markdown]
# ## A trained layer
#
# The running example of these lessons: the 64 by 64 weight of a network that reads digits, as a sum of Kronecker products, as an SVD of
# as many numbers, and dense.


# %%
def fits(figure):
    seen, sizes = draw_fits(figure, lesson.layer_curves()), [128, 256, 512, 1024, 2048]
    for ax in figure.axes:
        ax.set_xticks(sizes, map(str, sizes))
        ax.minorticks_off()
    figure.axes[0].set_yticks([0.4, 0.6, 0.8, 1.0], ["0.4", "0.6", "0.8", "1.0"])
    return seen


picture(fits, figsize=(9, 3))

# %%
error, accuracy = (
    {name: dict(points) for name, points in lesson.layer_curves()[which].items()}
    for which in ("error", "accuracy")
)
counts = sorted(error["SVD"])
some, most = counts[3], counts[-1]
say(
    f"At every size shown the SVD has the smaller error, {error['SVD'][some]:.2f} and {error['Kronecker'][some]:.2f} with {some} numbers: hidden units have no order in "
    f"which blocks could be alike. The error does not tell everything: with {some} numbers the Kronecker products read {accuracy['Kronecker'][some]:.1%} of the digits "
    f"and the SVD {accuracy['SVD'][some]:.1%}; with {most:,} it is {accuracy['Kronecker'][most]:.1%} and {accuracy['SVD'][most]:.1%}, and the dense layer reads "
    f"{accuracy['dense'][4096]:.1%}.",
    all(error["SVD"][n] < error["Kronecker"][n] for n in counts),
    accuracy["Kronecker"][some] > accuracy["SVD"][some] + 0.1,
    accuracy["Kronecker"][most] <= accuracy["SVD"][most] <= accuracy["dense"][4096],
)

# %% [markdown]
# ## Where it fails: more than two factors
#
# With three factors or more the rearranged matrix is a tensor and the best sum is the [CP decomposition](02_cp.ipynb), with its troubles.
# `Kronecker.from_dense` splits off one factor after another by SVDs [BatselierWong2017]: the terms are orthogonal, so the error of
# leaving some out is known exactly, but a sum with fewer terms may exist.

# %%
found = {}
for terms in (1, 2, 3):
    g = torch.Generator().manual_seed(0)
    hidden = tl.Kronecker.randn((8, 27), terms, factors=3, generator=g, dtype=torch.float64)
    form = tl.Kronecker.from_dense(hidden.to_dense(), rtol=1e-10, factors=3)
    (found[terms],) = form.ranks
say(
    f"Built from 1, 2 and 3 terms of three factors, matrices come back as {found[1]}, {found[2]} and {found[3]} terms.",
    found[1] == 1,
    found[2] > 2,
    found[3] > 3,
)

# %% [markdown]
# ## Exercises
#
# The second to the fifth build a layer of Kronecker products from a trained one; each uses those before. A blank says nothing; a wrong
# answer gets its own hint.
#
# ### 1. Predict (★, 5 minutes)
#
# A matrix of 768 rows and 3072 columns is held as 4 Kronecker terms, the left factors of 16 rows and 24 columns. How many numbers are
# stored?

# %%
kron_storage = ...
lesson.kron_storage(kron_storage)

# %% [markdown] tags=["hints"]
# The right factors have 768 / 16 rows and 3072 / 24 columns.
#
# Each term has a left and a right factor.

# %% tags=["solution"]
kron_storage = 4 * (16 * 24 + 48 * 128)

# %% [markdown]
# ### 2. Rearrange (★★, 10 minutes)
#
# Write `rearrange(w, rows, columns)`: R(w) for a matrix w (m, n) and left factors of so many rows and columns. Its row i · columns + j is block
# (i, j) of w, read row by row.


# %%
def rearrange(w, rows, columns): ...


lesson.rearrange(rearrange)

# %% [markdown] tags=["hints"]
# `w.reshape(rows, m // rows, columns, n // columns)` has an index for the block and one for the place in it, for rows and for columns.
#
# `permute(0, 2, 1, 3)` brings both indices of the block to the front.


# %% tags=["solution"]
def rearrange(w, rows, columns):
    m, n = w.shape
    blocks = w.reshape(rows, m // rows, columns, n // columns).permute(0, 2, 1, 3)
    return blocks.reshape(rows * columns, -1)


# %% [markdown]
# ### 3. The nearest sum (★★, 10 minutes)
#
# Write `nearest(w, rows, columns, terms)`: the list of so many pairs (A, B) whose Kronecker products add up to the matrix nearest to w. The A
# have so many rows and columns.


# %%
def nearest(w, rows, columns, terms): ...


lesson.nearest(nearest)

# %% [markdown] tags=["hints"]
# The SVD of `rearrange(w, rows, columns)` gives columns of u and rows of vh.
#
# Reshape them to (rows, columns) and (m / rows, n / columns); one of the two carries the singular value.


# %% tags=["solution"]
def nearest(w, rows, columns, terms):
    u, s, vh = torch.linalg.svd(rearrange(w, rows, columns), full_matrices=False)
    p, q = w.shape[0] // rows, w.shape[1] // columns
    return [(s[k] * u[:, k].reshape(rows, columns), vh[k].reshape(p, q)) for k in range(terms)]


# %% [markdown]
# ### 4. The product (★★, 10 minutes)
#
# Write `kron_apply(a, b, x)`: the product of $a \otimes b$ with a vector x, without forming it. a: (m, n), b: (p, q), x: (n q,). No tensor on
# the way may have more than 10,000 entries.


# %%
def kron_apply(a, b, x): ...


lesson.kron_apply(kron_apply)

# %% [markdown] tags=["hints"]
# `x.reshape(n, q)` reads x as a matrix X.
#
# The result is $a X b^T$, read row by row.


# %% tags=["solution"]
def kron_apply(a, b, x):
    return (a @ x.reshape(a.shape[1], b.shape[1]) @ b.T).flatten()


# %% [markdown]
# ### 5. A layer (★★, 10 minutes)
#
# Write `layer(w, x, rows, columns, terms)`: the product with x of the nearest sum of so many Kronecker products to w; again without forming
# one.


# %%
def layer(w, x, rows, columns, terms): ...


lesson.layer(layer)

# %% [markdown] tags=["hints"]
# `nearest` gives the pairs.
#
# `kron_apply` multiplies by one of them; add the results.


# %% tags=["solution"]
def layer(w, x, rows, columns, terms):
    return sum(kron_apply(a, b, x) for a, b in nearest(w, rows, columns, terms))


# %% [markdown]
# ### 6. Explore (★, 5 minutes)
#
# In the second explorer: the tiled pattern is one Kronecker product for the right size of its factors. Rows and columns of A are equal: how
# many are there?

# %%
best_left = ...
lesson.best_left(best_left)

# %% [markdown] tags=["hints"]
# Set rows and columns of A to the same number, and look at the singular values of the rearranged matrix.
#
# At the right size only one of them is not zero.

# %% tags=["solution"]
best_left = 8
