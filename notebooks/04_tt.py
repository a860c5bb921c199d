# %% [markdown]
# # How can sixteen million numbers be a few hundred?
#
# When they are entries of a tensor train with small ranks. The boxes are the cores, to scale; between them stand the ranks; on the
# right the singular values that decide them, and the line below which `rtol` cuts.

# %%
from tensorlab.course.lessons import tt as lesson

lesson.TrainExplorer()

# %% [markdown]
# ## The mathematics
#
# A tensor train [Oseledets2011] is a product of matrices, one for each index:
#
# $$ x[i_0, \dots, i_{d-1}] = G_0[i_0]\, G_1[i_1] \cdots G_{d-1}[i_{d-1}], \qquad G_k[i] \in \mathbb{C}^{r_k \times r_{k+1}},\; r_0 = r_d = 1 . $$
#
# It stores $\sum_k r_k n_k r_{k+1}$ numbers: linear in $d$, where the tensor has $n^d$. The smallest possible $r_k$ is the rank of the
# unfolding with the first $k$ indices as rows. **TT-SVD** cuts the $d - 1$ unfoldings one after another by truncated SVDs. Each cut
# is orthogonal to the others, so with a budget of $\text{rtol}\,\|x\|/\sqrt{d-1}$ for each the whole keeps `rtol`, and
#
# $$ \|x - y\| \le \sqrt{d-1}\; \|x - y_{\text{best}}\| . $$
#
# The talk calls this *quasi-optimal*. Here are the numbers: the error of TT-SVD over the largest tail of a single cut, which no
# train of these ranks can beat.

# %%
import inspect
import math
import time

import torch
from IPython.display import Code

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture

for name in lesson.TrainExplorer.names:
    x = lesson.functions(name, 5, 6)
    spectra = plots.unfolding_spectra(x).values()
    for r in (1, 3):
        error = float((tl.tt_svd(x, r).to_dense() - x).norm())
        floor = max(float(s[r:].norm()) for s in spectra)
        if floor > 1e-12 * float(x.norm()):
            print(
                f"{name:16} rank {r}: error / lower bound {error / floor:.3f}   (allowed: {math.sqrt(4):.3f})"
            )

# %% [markdown]
# ## Ranks that are known on paper
#
# $\sin(a + b) = \sin a \cos b + \cos a \sin b$: two terms at every cut, whatever the number of variables. A sum of coordinates has rank
# 2 as well, an exponential of it rank 1.

# %%
i = torch.arange(5, dtype=torch.float64)
total = i[:, None, None, None] + i[:, None, None] + i[:, None] + i
for name, x in {"sum": total, "sin(sum)": total.sin(), "exp(sum)": total.exp()}.items():
    print(f"{name:9} {tl.tt_svd(x, rtol=0.0)}")

# %% [markdown]
# ## Sixteen million numbers
#
# A function on a fine grid, its coordinates written in binary: $2^{24}$ entries with 24 modes of size 2 (the *quantized* train).
# `tt_svd` here never factorizes anything of the size of the tensor: it takes small modes off both ends, several at once, and
# finds the leading basis of each slab from its small Gram matrix [RohrigZollner2022].

# %%
d = fast(18, full=24)
side = 2 ** (d // 2)
grid = torch.arange(side, dtype=torch.float64) / side
x = (1 / (1 + grid[:, None] + grid)).reshape((2,) * d)
start = time.perf_counter()
tt = tl.tt_svd(x, rtol=1e-6)
seconds = time.perf_counter() - start
error = float((tt.to_dense() - x).norm() / x.norm())
print(
    f"2^{d} = {x.numel()} entries in {tt.numel} numbers, ranks up to {max(tt.ranks)}, error {error:.1e}, {seconds:.2f} s"
)

# %%
Code(inspect.getsource(tl.tt_svd), language="python")

# %% [markdown]
# ## Rounding
#
# Sums and products of trains have larger ranks than they need. `tt_round` finds the smallest for a tolerance without forming
# the tensor: $x + 2x$ gets the ranks of $x$ back.

# %%
total = tt + 2 * tt
rounded = tl.tt_round(total, rtol=1e-9)
print(
    f"tt {max(tt.ranks)}, tt + 2 tt {max(total.ranks)}, rounded {max(rounded.ranks)}; "
    f"|rounded - 3 tt| / |tt| = {float((rounded - 3 * tt).norm() / tt.norm()):.1e}"
)
for rtol in (1e-2, 1e-4, 1e-6):
    coarse = tl.tt_round(tt, rtol=rtol)
    print(
        f"rtol {rtol:.0e}: {coarse.numel:5} numbers, error {float((coarse - tt).norm() / tt.norm()):.1e}"
    )

# %% [markdown]
# ## When a train does not help
#
# Random numbers have full rank: the train then stores more than the tensor. And a photograph as rows, colors, columns is a matrix in
# all but name, so a train does little more than the SVD (try it in lesson 00).

# %%
x = lesson.functions("random", 4, 6)
tt = tl.tt_svd(x, rtol=1e-2)
print(tt)
picture(lambda figure: plots.train(figure.subplots(), tt), figsize=(7, 2.6))

# %% [markdown]
# ## Exercises
#
# **Predict.**

# %%
print(lesson.tt_storage.question)
lesson.tt_storage(...)

# %% [markdown]
# **Implement.**


# %%
def tt_entry(cores, index): ...


print(lesson.tt_entry.question)
lesson.tt_entry(tt_entry)

# %% [markdown]
# **Explore.**

# %%
print(lesson.mode_order.question)
lesson.mode_order(...)
