# %% [markdown] tags=["lesson"]
# name = "start"
# minutes = 15
# needs = []
# aims = [
#     "run a lesson and move its pictures",
#     "say what a format trades",
#     "find the lesson you need",
# ]
# take = [
#     "Most tables of numbers can be written with far fewer numbers than they have entries.",
#     "Each format finds another kind of simplicity: no one of them wins on all data.",
#     "In every function rank is a cap, and rtol bounds the relative error of the whole result.",
# ]

# %% [markdown]
# # What can you do with far fewer numbers?
#
# A photograph, a layer of a neural network, a function of many variables: all are tables of numbers, and most of these
# tables can be written with far fewer numbers than they have entries. This suite shows how, method by method. Every method
# is a short function of the package `tensorlab`; every lesson asks one question.
#
# Run a cell with Shift+Enter. The first picture:

# %%
from tensorlab.course.lessons import start as lesson

explorer = lesson.PhotoExplorer()
explorer

# %% [markdown]
# Move a slider with the mouse or the arrow keys, or type a number in its box. The ring on the right shows where you are.
#
# * **SVD**, the singular value decomposition, takes the three colors side by side as one matrix (lesson 01).
# * **CP** is a sum of products of three vectors (lesson 02), **Tucker** a small core with a matrix on each side (03), **TT** a
#   chain of small tensors (04).
#
# The words are drawn and explained in [00b](00b_vocabulary.ipynb). Which format wins depends on the data, and the sentence below the
# picture says so when plain SVD does.

# %% [markdown] tags=["map"]
# ## The map
#
# Each lesson opens with its question and a picture of the answer, goes through the mathematics in a page, builds the method in a few
# lines beside the call that does the same, says where it loses, and ends with exercises in which you build it.

# %% [markdown]
# ## Five lines
#
# `rank` is a cap, `rtol` the [relative error](00b_vocabulary.ipynb#Relative-error) of the whole result, in every function. The entries of
# this tensor are $1 / (1 + i + j + k + l)$; a train finds that they are simple, and so does the SVD of the same numbers as a matrix.

# %%
import torch

import tensorlab as tl
from tensorlab.course.claims import say

x = 1 / (1 + sum(torch.meshgrid([torch.arange(16.0, dtype=torch.float64)] * 4, indexing="ij")))
tt = tl.tt_svd(x, rtol=1e-6)
error = float((tt.to_dense() - x).norm() / x.norm())
svd = tl.LowRank.from_dense(x.reshape(256, 256), rtol=1e-6)
say(
    f"`{tt}`: the relative error is {error:.1e}. The SVD to the same tolerance stores {svd.numel:,} numbers, "
    f"{svd.numel / tt.numel:.1f} times as many.",
    error <= 1e-6,
    tt.numel < svd.numel < x.numel(),
)

# %% [markdown]
# ## Where the data come from
#
# Everything here works offline. The photographs, digits and tables come with scikit-learn, the elevation model and the MRI
# slice with matplotlib; other sets are read from a data folder. `tensorlab data` in a terminal lists them.

# %% [markdown]
# ## Exercises
#
# Put your answer in place of `...` and run the cell. A blank says nothing; a wrong answer gets a hint. Below each question two more
# hints and a solution unfold.
#
# ### 1. Predict (★, 2 minutes)
#
# A matrix of 1000 rows and 800 columns is the product of one column and one row. How many numbers need to be stored?

# %%
rank_one_storage = ...
lesson.rank_one_storage(rank_one_storage)

# %% [markdown] tags=["hints"]
# All entries follow from the column and the row.
#
# Count the numbers in each of the two.

# %% tags=["solution"]
rank_one_storage = 1000 + 800

# %% [markdown]
# ### 2. Explore (★, 3 minutes)
#
# In the explorer at the top, with the SVD of the flower: what is the smallest rank whose relative error is at most 0.1?

# %%
least_rank = ...
lesson.least_rank(least_rank)

# %% [markdown] tags=["hints"]
# The sentence below the picture says the error of the rank that you have typed.
#
# The error falls with every rank: halve the interval.

# %% tags=["solution"]
least_rank = next(r for r in range(1, 49) if lesson.compressed("flower", "SVD", r)[2] <= 0.1)
