# %% [markdown] tags=["lesson"]
# name = "vocabulary"
# minutes = 40
# needs = ["00_start"]
# aims = [
#     "unfold a tensor along any mode",
#     "read and draw a tensor network",
#     "use the words of the other lessons",
# ]
# take = [
#     "A mode is one of the indices; a fiber has one of them free, a slice two.",
#     "An unfolding is a matrix whose columns are the fibers of a mode: it brings linear algebra to tensors.",
#     "In a tensor network a circle is a tensor, a line an index; a line between two circles is summed over, and its size is a rank.",
# ]

# %% [markdown]
# # What do the words mean?
#
# Press *step*: the fibers of a mode, one after another, become the columns of a matrix. That matrix is the unfolding. Blue is what has
# been copied so far, orange the fiber of this step; choose another mode to see another matrix.

# %%
from tensorlab.course.lessons import vocabulary as lesson

lesson.UnfoldPlayer()

# %% [markdown]
# ## The words
#
# ### Mode
#
# One of the indices of a tensor $x[i_0, \dots, i_{d-1}]$, counted from 0. A tensor of order $d$ has $d$ modes; mode $k$ has the size $n_k$.
#
# ### Fiber and slice
#
# A *fiber* of mode $k$ is the vector that remains when every index but $i_k$ is held. A *slice* is the matrix that remains when all
# indices but two are held.
#
# ### Unfolding
#
# The matrix $x_{(k)}$ whose columns are the fibers of mode $k$. The other indices keep their order, the last one moving fastest: in the
# picture above, column 1 has moved one step along the last mode. A tensor train (lesson 04) uses another kind of unfolding, with the first
# $k$ indices as rows and all others as columns.

# %%
import torch

import tensorlab as tl
from tensorlab.course.claims import say

x = torch.arange(24.0).reshape(3, 4, 2)
say(
    f"`tl.unfold(x, 1)` of a tensor of 3 by 4 by 2 has the shape {tuple(tl.unfold(x, 1).shape)}.",
    tuple(tl.unfold(x, 1).shape) == (4, 6),
)

# %% [markdown]
# ### Mode product
#
# $x \times_k A$ multiplies every fiber of mode $k$ by the matrix $A$: $(x \times_k A)_{(k)} = A\, x_{(k)}$.
#
# ### Outer product
#
# $(a \circ b \circ c)[i, j, k] = a_i b_j c_k$, a tensor of *rank one*: all its fibers of a mode are multiples of one vector.
#
# ### Kronecker product
#
# $A \otimes B$ puts a multiple of $B$ wherever $A$ has an entry: sizes multiply.

# %%
lesson.KroneckerProductExplorer()

# %% [markdown]
# ### Khatri-Rao product
#
# A Kronecker product column by column, for matrices with as many columns: $(A \odot B)_{:,k} = a_k \otimes b_k$.
#
# ### Hadamard product
#
# $A * B$ multiplies entry by entry, for matrices of the same shape.

# %%
a, b = torch.ones(3, 2), torch.ones(4, 2)
shapes = [tuple(y.shape) for y in (torch.kron(a, b), tl.khatri_rao(a, b), a * a)]
say(
    f"Of a (3, 2) and a (4, 2) matrix the Kronecker product is {shapes[0]} and the Khatri-Rao product {shapes[1]}; the Hadamard product of two "
    f"(3, 2) matrices is {shapes[2]}.",
    shapes == [(12, 4), (12, 2), (3, 2)],
)

# %% [markdown]
# ### Norm
#
# $\|x\|$ is the Frobenius norm, the root of the sum of the squares of all entries; no unfolding changes it. The spectral norm of a
# matrix, its largest singular value, is another one.
#
# ### Relative error
#
# $\|y - x\| / \|x\|$ for an approximation $y$ of $x$. In every function of the package `rtol` is a bound for it.
#
# ### Format
#
# A way to store a tensor as a few smaller ones, its *factors* or *cores*, from which every entry can be computed. What it costs is the
# number of numbers in them, compared with those of the tensor, which is then called *dense*.
#
# ### Tensor network
#
# A drawing of a format. A circle is a tensor, a line an index. A line between two circles is summed over (orange), its size is a *rank*; a
# line with an open end (black) is an index of the whole. A dot joins more than two tensors that share one index. The numbers are the sizes
# of the indices.

# %%
lesson.NetworkExplorer()

# %% [markdown]
# ### Rank
#
# Every format has its own. The *CP rank* is the smallest number of rank-one terms; the *Tucker ranks* are the ranks of the unfoldings
# $x_{(k)}$; the *TT ranks* those of the unfoldings that a train cuts. The *Kruskal rank* of a matrix is the largest $k$ such that any $k$ of its
# columns are independent.
#
# ### Generic
#
# For all choices but a set of measure zero: what random numbers have with probability one.

# %% [markdown]
# ## Exercises
#
# ### 1. Predict (★, 2 minutes)
#
# How many fibers of mode 1 does a tensor of 3 by 4 by 5 have?

# %%
fibers = ...
lesson.fibers(fibers)

# %% [markdown] tags=["hints"]
# Which indices are held in a fiber of mode 1?
#
# There is one for each pair of the others.

# %% tags=["solution"]
fibers = 3 * 5

# %% [markdown]
# ### 2. Unfold (★★, 5 minutes)
#
# Write `unfolding(x, mode)`: the matrix whose columns are the fibers of the mode.


# %%
def unfolding(x, mode): ...


lesson.unfolding(unfolding)

# %% [markdown] tags=["hints"]
# Bring the mode to the front.
#
# `x.movedim(mode, 0)`, and then a reshape.


# %% tags=["solution"]
def unfolding(x, mode):
    return x.movedim(mode, 0).reshape(x.shape[mode], -1)


# %% [markdown]
# ### 3. Multiply along a mode (★★, 5 minutes)
#
# Write `mode_multiply(x, matrix, mode)`: every fiber of the mode multiplied by the matrix. You may use your `unfolding`.


# %%
def mode_multiply(x, matrix, mode): ...


lesson.mode_multiply(mode_multiply)

# %% [markdown] tags=["hints"]
# The unfolding of the result is `matrix @ unfolding(x, mode)`.
#
# To fold it back, give it the shape with the mode in front, and move that to its place.


# %% tags=["solution"]
def mode_multiply(x, matrix, mode):
    rows = x.movedim(mode, 0)
    folded = (matrix @ unfolding(x, mode)).reshape(-1, *rows.shape[1:])
    return folded.movedim(0, mode)


# %% [markdown]
# ### 4. Khatri-Rao (★★, 5 minutes)
#
# Write `khatri_rao_product(a, b)` for a (m, r) and b (n, r): a matrix (m n, r).


# %%
def khatri_rao_product(a, b): ...


lesson.khatri_rao_product(khatri_rao_product)

# %% [markdown] tags=["hints"]
# One column: `torch.kron(a[:, k], b[:, k])`.
#
# All at once: `a[:, None, :] * b`.


# %% tags=["solution"]
def khatri_rao_product(a, b):
    return (a[:, None, :] * b).reshape(-1, a.shape[1])


# %% [markdown]
# ### 5. Explore (★, 3 minutes)
#
# How many numbers does a TT of 4 modes of size 5 with ranks 3 store? The explorer above draws it.

# %%
network_numbers = ...
lesson.network_numbers(network_numbers)

# %% [markdown] tags=["hints"]
# A circle holds the product of the sizes of its lines.
#
# Two circles have two lines, two have three.

# %% tags=["solution"]
network_numbers = 5 * 3 + 3 * 5 * 3 + 3 * 5 * 3 + 3 * 5
