# %% [markdown]
# # Why is a layer of 3200 numbers not a thousand times faster?
#
# Because what a layer costs is not what it stores. On the left the error of a 64 by 64 weight against the numbers that a TT-matrix of
# it stores, one curve for each way to split 64; on the right the operations of its product, over those of the dense one, one bar for
# each path through the cores. Shuffle the rows and watch the ranks.

# %%
from tensorlab.course.lessons import ttmatrix as lesson

lesson.Designer()

# %% [markdown]
# ## The mathematics
#
# Split the row index into $(o_0, \dots, o_{d-1})$ and the column index into $(i_0, \dots, i_{d-1})$, and pair them. A **TT-matrix**
# [Oseledets2010] [Novikov2015] is the tensor train of the tensor with the modes $(o_k, i_k)$:
#
# $$ w[(o_0 \dots o_{d-1}), (i_0 \dots i_{d-1})] = G_0[o_0, i_0]\, G_1[o_1, i_1] \cdots G_{d-1}[o_{d-1}, i_{d-1}] . $$
#
# It stores $\sum_k r_k\, m_k n_k\, r_{k+1}$ numbers. Rank 1 is a Kronecker product. The product $y = w x$ contracts $x$, as a tensor, with
# the cores. From the left, core $k$ costs
#
# $$ 2 \cdot \text{batch} \cdot (m_0 \cdots m_{k-1}) \cdot r_k\, m_k n_k\, r_{k+1} \cdot (n_{k+1} \cdots n_{d-1}) $$
#
# operations. This grows as $r^2$, while the dense product does not know of $r$: beyond a small rank it is cheaper to **rebuild** $w$
# once and to multiply by it. Between the two lie the paths that merge some neighbours first, and all of them can be walked from either end.

# %%
import inspect
import math

import torch
from IPython.display import Code

import tensorlab as tl
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture
from tensorlab.layers.plans import plans
from tensorlab.papers import propagation as paper

Code(inspect.getsource(tl.TTMatrix.apply), language="python")

# %% [markdown]
# ## All plans of a layer
#
# `plans` counts, for each path and each way to differentiate, the operations, the bytes that are saved for the gradient, and the
# bytes alive at the peak. The seconds come from the operations at the speed that sizes as these allow, from the bytes that are moved,
# and from the number of calls; the constants stand in `layers/plans.py`. `tl.propagate` takes the fastest.

# %%
tokens = fast(256, full=2048)
for rank in (2, 8, 64):
    w = tl.TTMatrix.randn(
        out=(12, 16, 16), in_=(8, 8, 12), rank=rank, generator=torch.Generator().manual_seed(0)
    )
    print(
        f"{w}, {tokens} tokens; dense: {2 * tokens * math.prod(w.shape) / 1e9:.2f} billion operations"
    )
    for plan in [plan for plan in plans(w, tokens) if plan.backward == "recompute"]:
        print(
            f"   {plan.forward:10} {plan.flops / 1e9:8.2f} billion forward, {plan.backward_flops / 1e9:8.2f} backward, "
            f"{plan.peak / 2**20:6.0f} MiB, {1e3 * plan.seconds:7.1f} ms"
        )

# %% [markdown]
# ## What the gradient keeps
#
# Autograd saves the state after every core: a state has $r$ times as many numbers as there are tokens and mixed indices, so a layer of a
# few thousand numbers keeps more than a dense one. The talk's remedy [Chekalina2023] is a gradient of one's own that saves $x$ and the cores only:
#
# - **full einsum**: the gradient of each core is one contraction of $x$, $dy$ and the other cores;
# - **full matrix**: first $dw = dy^T x$, so the batch is gone; then one contraction of $dw$ and the other cores for each core;
# - **environment**: the same $dw$, then one sweep of prefix products and one back, so that nothing is computed twice;
# - **recompute**: walk a chunk of tokens forth again, then back. On the path `rebuild` this is the method of environments.
#
# Here is the talk's table, made again by `tensorlab run Chekalina2023`. The printed numbers are of a GPU and of a layer whose sizes
# are not given: what can agree is the order.

# %%
table = paper.PROGRAM.run("quick", resume=False, progress=fast(False, full=True))
table

# %%
picture(lambda figure: paper.draw(table, figure.subplots()), figsize=(8, 4))

# %%
row = {(r["forward"], r["gradient"]): r for r in table.rows}
fixed = [row["fixed order", g]["MiB"] for g in ("autograd", "full einsum", "full matrix")]
print(
    "memory of the fixed order, over that of full matrix:", *(f"{m / fixed[2]:.1f}" for m in fixed)
)
custom = {k: r["ms"] for k, r in row.items() if k[1].startswith("full")}
print("fastest of the gradients of one's own:", *min(custom, key=custom.get))

# %% [markdown]
# In memory autograd stands far above both gradients of one's own, and the fixed order above the path of fewest operations: as printed.
# Three things differ. The two gradients of one's own take the same memory in print; here *full einsum* takes more, for `torch.einsum`
# keeps products of x and dy that *full matrix* never forms. *Full matrix* is the fastest with either forward path, not only with the
# better one, since its gradient does not depend on the path. And on a CPU an einsum of many factors spends its time in copies, more
# than on a GPU. At the full size, as it was measured:

# %%
from tensorlab.papers.table import measured

measured(paper.PROGRAM.key)

# %% [markdown]
# ## The start of a layer
#
# The entries of a product of cores have variance $\prod_k r_k \prod_k \sigma_k^2$. `randn` makes it 1, `initial` makes it $1/(3\,\text{in})$, that of
# `nn.Linear`: the outputs then have the size $1/\sqrt 3$ at any rank. Root mean squares over some seeds:

# %%
seeds = fast(8, full=64)
for rank in (2, 8, 64):
    g, squares = torch.Generator().manual_seed(0), []
    for _ in range(seeds):
        w = tl.TTMatrix.randn(out=(12, 16, 16), in_=(8, 8, 12), rank=rank, generator=g).initial()
        squares.append(float(tl.propagate(w, torch.randn(16, 768, generator=g)).square().mean()))
    print(
        f"rank {rank:2}: {math.sqrt(sum(squares) / seeds):.3f}   (1 / sqrt 3 = {1 / math.sqrt(3):.3f})"
    )

# %% [markdown]
# ## The order of the indices matters
#
# Ranks belong to a weight *with its rows and columns in this order*. Shuffled rows are the same layer up to names, but no longer the same train.

# %%
for name in lesson.WEIGHTS:
    ranks = [
        tl.tt_matrix_svd(lesson.example_weight(name, s), (4, 4, 4), (4, 4, 4), rtol=0.1).ranks
        for s in (False, True)
    ]
    print(f"{name:26} ranks for an error of 10 %: {ranks[0]}, with shuffled rows {ranks[1]}")

# %% [markdown]
# ## Where the method loses
#
# A trained layer has no order of its hidden units, so there is little for a train to find. Beside the SVD with as many numbers:

# %%
w = lesson.example_weight("layer trained on digits")
for rank in (2, 4, 8):
    t = tl.tt_matrix_svd(w, (8, 8), (8, 8), rank)
    s = tl.LowRank.from_dense(w, max(1, t.numel // 128))
    errors = [float((f.to_dense() - w).norm() / w.norm()) for f in (t, s)]
    print(
        f"TT-matrix {t.numel:4} numbers, error {errors[0]:.3f};   SVD {s.numel:4} numbers, error {errors[1]:.3f}"
    )

# %% [markdown]
# And at 768 by 3072 two plain linear layers with as many numbers take a fraction of the time of any TT layer, at every rank
# (`tests/benchmarks/bench_layers.py`): their operations are their numbers.

# %% [markdown]
# ## Exercises
#
# **Predict.**

# %%
print(lesson.ttmatrix_storage.question)
lesson.ttmatrix_storage(...)

# %% [markdown]
# **Implement.**


# %%
def ttmatrix_apply(cores, x): ...


print(lesson.ttmatrix_apply.question)
lesson.ttmatrix_apply(ttmatrix_apply)

# %% [markdown]
# **Explore.**

# %%
print(lesson.ttmatrix_dearer.question)
lesson.ttmatrix_dearer(...)
