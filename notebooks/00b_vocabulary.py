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
#     "In a tensor network a circle is a tensor, a line an index; a line between two circles is summed over.",
# ]

# %% [markdown]
# # What do the words mean?
#
# Press *step*: the fibers of a mode, one after another, become the columns of a matrix. That matrix is the unfolding.

# %%
from tensorlab.course.lessons import vocabulary as lesson

lesson.UnfoldPlayer()

# %% [markdown]
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
# The matrix $x_{(k)}$ whose columns are the fibers of mode $k$. The other indices keep their order, the last one moving fastest. A train
# cuts another kind, with the first $k$ indices as rows and all others as columns.

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
# ### Kronecker, Khatri-Rao and Hadamard product
#
# $A \otimes B$ puts a multiple of $B$ wherever $A$ has an entry. The Khatri-Rao product $A \odot B$ does so column by column,
# $(A \odot B)_{:,k} = a_k \otimes b_k$. The Hadamard product $A * B$ multiplies entry by entry.
#
# ### Norm
#
# $\|x\|$ is the Frobenius norm, the root of the sum of the squares of all entries; no unfolding changes it. The spectral norm of a
# matrix, its largest singular value, is another one.
#
# ### Tensor network
#
# A circle is a tensor, a line an index. A line between two circles is summed over, its size is a *rank*; a line with an open end is an
# index of the whole. A dot joins tensors that share one index.

# %%
lesson.NetworkExplorer()

# %% [markdown]
# ### Rank
#
# Every format has its own. The *CP rank* is the smallest number of rank-one terms; the *Tucker ranks* are the ranks of the unfoldings
# $x_{(k)}$; the *TT ranks* those of the unfoldings that a train cuts. The *Kruskal rank* of a matrix is the largest $k$ such that any $k$ of its
# columns are independent. *Generic* means: for all choices but a set of measure zero.

# %% [markdown]
# ## Exercises
#
# ### 1. Predict (★, 2 minutes)
#
# How many fibers of mode 1 has a tensor of 3 by 4 by 5?

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
