# %% [markdown]
# # Which numbers should a weight share?
#
# A structured matrix holds few numbers and enters each of them in many places, or holds more and shares nothing. Choose a structure: in
# color are the entries that *one* stored number enters, one number of each tensor; on the right the singular values.

# %%
from tensorlab.course.lab import fast
from tensorlab.course.lessons import blocktt as lesson

lesson.StructureExplorer()

# %% [markdown]
# ## The mathematics
#
# Split the rows into $(a, b)$ and the columns into $(c, d)$, each of size $\sqrt n$. Then
#
# | structure | $w_{(ab)(cd)}$ | numbers | multiply-adds of a product |
# |---|---|---|---|
# | dense | all | $n^2$ | $n^2$ |
# | low rank | $\sum_s u_{(ab)s} v_{(cd)s}$ | $2rn$ | $2rn$ |
# | Kronecker, TT-matrix | $\sum_s L_{acs} R_{sbd}$ | $2rn$ | $2rn^{3/2}$ |
# | Monarch [Dao2022] | $L_{bac} R_{cbd}$ | $2n^{3/2}$ | $2n^{3/2}$ |
# | block tensor train [Qiu2024] | $\sum_s L_{bacs} R_{csbd}$ | $2rn^{3/2}$ | $2rn^{3/2}$ |
#
# A block train is a TT-matrix whose cores are not shared along $b$ and $c$. Its slice with $b$ and $c$ fixed is any matrix of rank $r$: so
# $r = 1$ is a Monarch matrix, $r = \sqrt n$ is any matrix, and the best block train is an SVD of each slice. As with a dense weight, each
# number is used once in a product.

# %%
import inspect

import torch
from IPython.display import Code

import tensorlab as tl

n = 256
print(f"{'structure':10} {'numbers':>8} {'FLOPs':>8}")
for name in lesson.EQUATIONS:
    w = lesson.structured(name, n, 2)
    print(f"{name:10} {w.numel:8} {w.flops(1):8}")

# %%
Code(inspect.getsource(tl.BlockTT.apply), language="python")

# %% [markdown]
# ## Which structure holds a matrix?
#
# Random matrices of each kind (rows), approximated by a block train of rank 1 and of rank 4 and by the SVD at no fewer numbers than the
# block train of rank 1.

# %%
n = 64
for name in lesson.EQUATIONS:
    w = lesson.structured(
        name, n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).to_dense()
    one, four = (tl.BlockTT.from_dense(w, r) for r in (1, 4))
    low = tl.LowRank.from_dense(w, -(-one.numel // (2 * n)))
    errors = [float((x.to_dense() - w).norm() / w.norm()) for x in (one, four, low)]
    print(
        f"{name:10} BTT rank 1 {errors[0]:.3f}   BTT rank 4 {errors[1]:.3f}   SVD rank {low.ranks[0]} {errors[2]:.3f}"
    )

# %% [markdown]
# A block train of a low rank $r$ matrix needs rank $r$ and stores $\sqrt n$ times more: where the matrix *is* of low rank, the SVD wins.
#
# ## Learning rates
#
# A core with few inputs bears a larger step of Adam. The multiplier of a core against a dense weight is its share
# $\text{in} / (\text{fan-in of the core}) / (\text{number of cores})$ [Qiu2024]. Below a network on the digits, its middle layer of each structure
# and each width, trained with these rates and with the dense one.

# %%
names = ("dense", "low rank", "Kronecker", "Monarch", "BTT")
widths = fast((16, 36, 64), full=(16, 36, 64, 144, 256))
results, count = [], len(names) * len(widths) * 2
for row in lesson.sweep(names, widths, steps=fast(20, full=150)):
    results.append(row)
    print(f"\r{len(results)} of {count} trained", end="")

# %%
lesson.ScalingExplorer(results)

# %%
print(
    f"{'structure':10} "
    + " ".join(f"{f'width {n}':>16}" for n in widths)
    + "     (loss with multipliers / with the dense rate)"
)
for name in names:
    losses = {row[1:3]: row[5] for row in results if row[0] == name}
    print(
        f"{name:10} " + " ".join(f"{losses[n, True]:8.3f}/{losses[n, False]:7.3f}" for n in widths)
    )
for name in names:
    a, b, alpha = lesson.law([(row[3], row[5]) for row in results if row[0] == name and row[2]])
    print(f"{name:10} loss = {a:.3f} + {b:.3g} C^-{alpha:.2f}")
dense, btt = (
    min(row[5] for row in results if row[0] == name and row[2]) for name in ("dense", "BTT")
)
print(f"smallest loss of the dense layer {dense:.3f}, of BTT {btt:.3f}")

# %% [markdown]
# One run for each point, on 1400 small pictures: the exponents carry that noise, and say how such a law is fitted rather than what it is for
# large networks. The digits are easy, so the dense layer loses little by its cost; what the printed table shows is whether the multipliers
# help each structure at each width, and the last line whether the structure beats the dense layer at all.
#
# ## Exercises
#
# **Predict.**

# %%
print(lesson.btt_storage.question)
lesson.btt_storage(...)

# %% [markdown]
# **Implement.**


# %%
def monarch_apply(left, right, x): ...


print(lesson.monarch_apply.question)
lesson.monarch_apply(monarch_apply)

# %% [markdown]
# **Explore.**

# %%
print(lesson.kron_as_btt.question)
lesson.kron_as_btt(...)
