# %% [markdown]
# # When is a matrix a sum of Kronecker products?
#
# When its blocks are alike. Make each block a row: what was a Kronecker product is now a matrix of rank one, and the singular values of
# the rearranged matrix say how many products are needed. On the left the matrix in its blocks, in the middle the same numbers with a
# block in each row, on the right the singular values of both.

# %%
from tensorlab.course.lessons import kronecker as lesson

lesson.KroneckerExplorer()

# %% [markdown]
# ## The mathematics
#
# The Kronecker product puts a multiple of $B$ wherever $A$ has an entry, so block $(i, j)$ of $w = A \otimes B$ is $a_{ij} B$. Write
# the blocks as the rows of a matrix $R(w)$. Then [VanLoanPitsianis1993]
#
# $$ R(A \otimes B) = \operatorname{vec}(A)\, \operatorname{vec}(B)^{\mathsf T}, \qquad
#    \Big\| w - \sum_{k \le K} A_k \otimes B_k \Big\|_F = \Big\| R(w) - \sum_{k \le K} \operatorname{vec}(A_k) \operatorname{vec}(B_k)^{\mathsf T} \Big\|_F , $$
#
# since $R$ only moves entries. On the right stands the problem of low rank, which the SVD solves: the best sum of $K$ products is the
# truncated SVD of $R(w)$. This holds for the Frobenius norm and for no other: $R$ does not keep the spectral norm.
#
# The product with a vector never forms $A \otimes B$: with $x$ read as a matrix $X$, $(A \otimes B)\,x$ is $A X B^{\mathsf T}$, for $n$ by $n$
# with square factors $2 n^{3/2}$ multiplications instead of $n^2$.

# %%
import inspect

import torch
from IPython.display import Code

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.widgets import picture

w = lesson.example_matrix("gray flower")
s = torch.linalg.svdvals(tl.kron_rearrange(w, (8, 8)))
for k in (1, 4, 16):
    error = float((tl.kron_svd(w, (8, 8), k).to_dense() - w).norm())
    print(
        f"{k:2} terms: error {error:.10f}, tail of the rearranged singular values {float(s[k:].norm()):.10f}"
    )

# %%
Code(inspect.getsource(tl.Kronecker.apply), language="python")

# %% [markdown]
# ## Equal numbers stored: Kronecker against the SVD
#
# For $n$ by $n$ with factors of $\sqrt n$ by $\sqrt n$, a Kronecker term and a rank-one term store the same $2n$ numbers. So at equal
# storage the number of terms is equal, and the comparison is one of singular values: those of $R(w)$ against those of $w$.

# %%
print(f"{'matrix':18}" + "".join(f"{k:3} terms: Kron  SVD" for k in (1, 4, 12)))
for name in lesson.NAMES:
    kron, svd = lesson.errors(lesson.example_matrix(name), (8, 8), 12)
    rows = [
        (kron[k - 1][1] if k <= len(kron) else 0.0, svd[k - 1][1] if k <= len(svd) else 0.0)
        for k in (1, 4, 12)
    ]
    print(f"{name:18}" + "".join(f"     {a:8.3f} {b:6.3f} " for a, b in rows))

# %% [markdown]
# The pattern of one repeated tile is a single product, and the SVD, which needs a rank of several for it, loses. Noise is noise for
# both. On the random matrix of rank 4 it is the other way round: the SVD is exact and Kronecker products are not. Low rank and
# Kronecker are two *different* ways of being simple, and for real matrices the table above says which holds. A sum of Kronecker
# products has full rank in general, which no number of terms of an SVD below $n$ has.

# %%
names = ("gray flower", "random low rank")
curves = {}
for name in names:
    kron, svd = lesson.errors(lesson.example_matrix(name), (8, 8), 30)
    curves |= {
        f"{name}, Kronecker": [(n, e) for n, e in kron],
        f"{name}, SVD": [(n, e) for n, e in svd],
    }
picture(lambda figure: plots.error_against_storage(figure.subplots(), curves))

# %% [markdown]
# ## More than two factors
#
# With three factors or more the rearranged matrix is a tensor and the best sum is the CP decomposition of lesson 02, with its troubles.
# `Kronecker.from_dense` splits off one factor after another by SVDs [BatselierWong2017]: the terms are orthogonal, so the error of
# leaving some out is known exactly, but a sum with fewer terms may exist. Here is one: three terms, and how many are found.

# %%
hidden = tl.Kronecker.randn(
    (8, 27), 3, factors=3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
)
found = tl.Kronecker.from_dense(hidden.to_dense(), rtol=1e-10, factors=3)
print(f"built from {hidden.ranks[0]} terms, found {found.ranks[0]}")
once = tl.Kronecker.randn(
    (8, 27), 1, factors=3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
)
print(
    f"built from 1 term, found {tl.Kronecker.from_dense(once.to_dense(), rtol=1e-10, factors=3).ranks[0]}"
)

# %% [markdown]
# ## Exercises
#
# **Predict.**

# %%
print(lesson.kron_storage.question)
lesson.kron_storage(...)

# %% [markdown]
# **Implement.**


# %%
def kron_apply(a, b, x): ...


print(lesson.kron_apply.question)
lesson.kron_apply(kron_apply)

# %% [markdown]
# **Explore.**

# %%
print(lesson.best_left.question)
lesson.best_left(...)
