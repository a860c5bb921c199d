# %% [markdown]
# # What does a core do?
#
# It says how the directions of the modes combine. After a higher-order SVD nearly all of it sits in one corner, so the corner
# is kept and the rest thrown away.

# %%
import inspect
import time

import torch
from IPython.display import Code

import tensorlab as tl
from tensorlab import datasets, plots
from tensorlab.course.lab import fast
from tensorlab.course.lessons import tucker as lesson
from tensorlab.course.lessons.start import PhotoExplorer
from tensorlab.course.widgets import picture

photo = datasets.photo("flower")[::2, ::2]
full = tl.hosvd(photo, rtol=0.0)
picture(lambda figure: plots.core(figure.subplots(), full.core))

# %% [markdown]
# ## The mathematics
#
# $$ x = g \times_0 U_0 \times_1 U_1 \cdots \times_{d-1} U_{d-1}, \qquad x[i, j, k] = \sum_{a, b, c} g[a, b, c]\, U_0[i, a]\, U_1[j, b]\, U_2[k, c]. $$
#
# The **HOSVD** takes for $U_k$ the leading left singular vectors of the unfolding $x_{(k)}$ and $g = x \times_k U_k^{\mathsf H}$
# [DeLathauwer2000]. What is thrown away in mode $k$ costs at most the tail $\tau_k$ of its singular values, so
#
# $$ \|x - y\|^2 \le \sum_k \tau_k^2 \le d\, \|x - y_{\text{best}}\|^2 . $$
#
# Give each mode $\text{rtol}\,\|x\|/\sqrt d$ and the whole keeps `rtol`. The **ST-HOSVD** cuts one mode after another, each from what the
# last cut left: the same bound, less work [Vannieuwenhoven2012]. **HOOI** improves the factors in turn until nothing moves
# [DeLathauwer2000b].
#
# The core has $r^d$ entries: Tucker is for few modes. Trains (lesson 04) have no such core.

# %%
Code(
    inspect.getsource(tl.st_hosvd) + "\n\n" + inspect.getsource(tl.formats.tucker._truncate),
    language="python",
)

# %% [markdown]
# ## Three algorithms on one tensor

# %%
n = fast(30, full=120)
g = torch.Generator().manual_seed(0)
x = tl.Tucker.randn((n, n, n), 12, generator=g, dtype=torch.float64).to_dense()
noise = torch.randn(x.shape, generator=g, dtype=torch.float64)
x = x + 0.3 * x.norm() / noise.norm() * noise
best = tl.hooi(x, 6).history[-1]
print(f"{'':10} {'error':>10} {'over HOOI':>10} {'seconds':>8}    the bound allows {3**0.5:.3f}")
for name, algorithm in {
    "HOSVD": tl.hosvd,
    "ST-HOSVD": tl.st_hosvd,
    "HOOI": lambda x, r: tl.hooi(x, r).value,
}.items():
    start = time.perf_counter()
    y = algorithm(x, 6)
    seconds = time.perf_counter() - start
    error = float((y.to_dense() - x).norm() / x.norm())
    print(f"{name:10} {error:10.6f} {error / best:10.6f} {seconds:8.3f}")

# %% [markdown]
# All three stay far below the bound, and the table says by how much they differ: HOOI is a polish that costs several times more,
# the sequential cut is the one to reach for.
#
# ## A photograph
#
# With ranks $(r, r, 3)$, beside the SVD of the colors side by side with about as many numbers:

# %%
h, w, c = photo.shape
side_by_side = photo.movedim(2, 1).reshape(h, c * w)
for r in (10, 20, 40, 80):
    t = tl.st_hosvd(photo, (r, r, 3))
    error = float((t.to_dense() - photo).norm() / photo.norm())
    rank = max(1, round(t.numel / (h + c * w)))
    low = tl.LowRank.from_dense(side_by_side, rank)
    other = float((low.to_dense() - side_by_side).norm() / photo.norm())
    better = "Tucker" if error < other else "SVD"
    print(
        f"Tucker ({r:2}, {r:2}, 3): {t.numel:6} numbers, {error:.4f}    SVD rank {rank:2}: {low.numel:6} numbers, {other:.4f}    better: {better}"
    )

# %%
PhotoExplorer(rank=16)

# %% [markdown]
# ## Exercises
#
# **Predict.**

# %%
print(lesson.tucker_storage.question)
lesson.tucker_storage(...)

# %% [markdown]
# **Implement.**


# %%
def mode_product(x, matrix, mode): ...


print(lesson.mode_product.question)
lesson.mode_product(mode_product)

# %% [markdown]
# **Explore.**

# %%
print(lesson.photo_tucker_rank.question)
lesson.photo_tucker_rank(...)
