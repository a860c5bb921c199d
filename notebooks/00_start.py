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
# Move a slider with the mouse or the arrow keys, or type a number in its box. The ring on the right shows where you stand.
#
# * **SVD** takes the three colors side by side as one matrix (lesson 01).
# * **CP** is a sum of products of three vectors (lesson 02), **Tucker** a small core with a matrix on each side (03), **TT** a
#   chain of small tensors (04).
#
# Which wins depends on the data, and the sentence below the picture says so when plain SVD does.

# %% [markdown]
# ## The map
#
# | lesson | question |
# |---|---|
# | [01 low rank](01_lowrank.ipynb) | How few numbers carry a matrix? |
# | [02 CP](02_cp.ipynb) | When is a tensor a short sum of products, and how is it found? |
# | [03 Tucker](03_tucker.ipynb) | What does a core do? |
# | [04 tensor train](04_tt.ipynb) | How can sixteen million numbers be a few hundred? |
#
# Each opens with its question and a picture of the answer, goes through the mathematics in a page, shows the source of the
# one function that matters, and ends with three exercises: predict, implement, explore.

# %% [markdown]
# ## Five lines
#
# `rank` is a cap, `rtol` the relative Frobenius error of the whole result, in every function.

# %%
import torch

import tensorlab as tl

x = 1 / (1 + sum(torch.meshgrid([torch.arange(16.0, dtype=torch.float64)] * 4, indexing="ij")))
tt = tl.tt_svd(x, rtol=1e-6)
error = float((tt.to_dense() - x).norm() / x.norm())
print(tt)
print(f"relative error {error:.1e}, {tt.compression:.0f} entries for each number stored")

# %% [markdown]
# ## Check yourself
#
# Put your answer in place of `...` and run the cell. A wrong answer gets a hint, not the solution.

# %%
print(lesson.rank_one_storage.question)
lesson.rank_one_storage(...)

# %% [markdown]
# ## Where the data come from
#
# Everything here works offline. The photographs, digits and tables come with scikit-learn, the elevation model and the MRI
# slice with matplotlib; other sets are read from a data folder. `tensorlab data` in a terminal lists them.
