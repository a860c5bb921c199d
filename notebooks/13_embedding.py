# %% [markdown] tags=["lesson"]
# name = "embeddings"
# minutes = 75
# needs = ["10_ttmatrix"]
# aims = [
#     "gather the rows of a table that is never formed",
#     "say what shared slices save, and what the order of the words has to do with it",
#     "compare a trained table with its rivals, low rank and plain counts",
# ]
# take = [
#     "A table of words as a TT-matrix: each digit of a word's number picks a slice of a core, and the row is the product of the slices.",
#     "The table is never formed, so memory and numbers stored fall by a factor of tens or hundreds; no word has numbers that are its alone.",
#     "Train it from the start: a table that was trained dense has a flat spectrum, and neither a train nor an SVD keeps it in few numbers.",
# ]

# %% [markdown]
# # How can a vocabulary be a train?
#
# When the number of a word is written in digits, and each digit picks a [slice](00b_vocabulary.ipynb#Fiber-and-slice) of a core. The filled slices are those that the chosen word
# gathers; on the right are its nearest words, before the table was compressed and after.

# %%
from tensorlab.course.lessons import embedding as lesson

lesson.VocabularyExplorer()

# %% [markdown]
# ## The mathematics
#
# An embedding table $E$ has a row for each of $V$ tokens. Factor $V \le n_1 \cdots n_d$ and the width $D \le m_1 \cdots m_d$, write the token as
# digits $v = (v_1 \dots v_d)$, and let $E$ be a [TT-matrix](10_ttmatrix.ipynb) [Hrinchuk2020]:
#
# $$ E[v] = G_1[v_1]\, G_2[v_2] \cdots G_d[v_d], \qquad G_k[v_k] \in \mathbb{R}^{r_{k-1} \times m_k \times r_k} . $$
#
# It stores $\sum_k r_{k-1} n_k m_k r_k$ numbers. Two consequences: *a token costs a product of $d$ small
# matrices*, the table is never formed; and *words whose first digits agree share slices*, so the order of the words matters.

# %%
import math

import torch

from tensorlab.course.claims import say
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture
from tensorlab.layers.embedding import TokenTrains, TTEmbedding


def plain_row(G, v):
    """E[v] = G_1[v_1] ... G_d[v_d]; the last digit changes fastest."""
    state, below = torch.ones(1, 1), math.prod(core.shape[1] for core in G)
    for core in G:
        n = core.shape[1]
        below //= n
        piece = core[:, v // below % n]  # (r, m, q)
        state = torch.tensordot(state, piece, 1).flatten(0, 1)
    return state[:, 0]


seeded = torch.Generator().manual_seed(0)
layer = TTEmbedding.randn(25000, 256, (25, 30, 40), (4, 8, 8), 16, generator=seeded)
ids = torch.randint(25000, (16, 32), generator=seeded)
with torch.no_grad():
    rows = torch.stack([plain_row(layer.weight.cores, int(v)) for v in ids[0]])
    off = float((rows - layer(ids[0])).norm() / rows.norm())
printed = {
    93: ((25, 30, 40), (4, 8, 8)),
    232: ((10, 10, 15, 20), (4, 4, 4, 4)),
    441: ((5, 5, 5, 5, 6, 8), (2, 2, 2, 2, 4, 4)),
}
ours = {
    n: TTEmbedding.randn(25000, 256, *modes, 16).weight.compression for n, modes in printed.items()
}
six = zip((1, *5 * (16,)), *printed[441], (*5 * (16,), 1))  # with all ranks 16
say(
    f"For the {ids.shape[1]} words of a sentence these lines and the layer agree to six digits. At the sizes of the paper, {layer.weight.shape[0]:,} words of width "
    f"{layer.weight.shape[1]} and rank 16, "
    + ", ".join(
        f"{value:.0f} times fewer numbers with {len(printed[n][0])} cores ({n} in print)"
        for n, value in ours.items()
    )
    + ". The first two agree with print up to rounding; with six cores the first rank cannot be more than 5 · 2 = 10, which the printed count leaves at 16.",
    off < 1e-6,
    all(abs(ours[n] / n - 1) < 0.02 for n in (93, 232)),
    ours[441] > 441 * 1.02,
    abs(25000 * 256 / sum(left * n * m * right for left, n, m, right in six) / 441 - 1) < 0.01,
)

# %% [markdown]
# ## A gather
#
# The layer sorts the words of a batch and computes each prefix of their digits once. Bytes that are alive at once, forward and backward, for 16
# sentences of 32 words: the train, a train that forms its table each time, and the dense table with dense and with sparse gradients. The line is the
# dense table itself.

# %%
peaks = lesson.peaks(layer, ids)
picture(lambda figure: lesson.draw_peaks(figure, peaks, layer.weight.shape), figsize=(8, 2.4))

# %%
table = 4 * math.prod(layer.weight.shape)
say(
    f"The gathered train needs {peaks['train, gathered'] / 2**20:.1f} MiB beside its {4 * layer.weight.numel / 2**20:.1f} MiB of cores, "
    f"the train that forms its table {peaks['train, by the table'] / 2**20:.0f}. A dense table with sparse gradients needs only "
    f"{peaks['dense, sparse gradients'] / 2**20:.1f}, but it has to be there: {table / 2**20:.1f} MiB.",
    5 * peaks["train, gathered"] < peaks["train, by the table"],
    peaks["dense, sparse gradients"] < peaks["train, gathered"],
    4 * layer.weight.numel < table / 80,
)

# %% [markdown]
# ## The other end: a tied head
#
# Logits are $h E^\top$, for all words, so here the path matters: through the cores from the left or from the right, or by the table. `layer.head`
# counts the operations and takes the path with the fewest, for each batch anew.

# %%
picture(lambda figure: lesson.draw_head(figure, layer.weight), figsize=(7, 3))

# %%
shares = lesson.head_shares(layer.weight)
say(
    f"From the right the head takes {shares['right'][0][1]:.1f} times the operations of the dense one, for any number of words; the table costs "
    f"{shares['table'][0][1]:.0f} times as much for one word, and as much for {shares['table'][-1][0]:,}. A table of {layer.weight.compression:.0f} times fewer numbers "
    "is no faster head than the dense one.",
    1 < shares["right"][0][1] < shares["left"][0][1] < shares["table"][0][1],
    abs(shares["table"][-1][1] - 1) < 0.05,
    all(share >= 1 for path in shares.values() for _, share in path),
)

# %% [markdown]
# ## Trained from nothing
#
# The next word from the four before it, with the same table at both ends, and the logarithm of each word's frequency added to the logits. The tables
# are all the same layer: with one core it is dense, with the [modes](00b_vocabulary.ipynb#Mode) $(1024, 1) \times (1, 64)$ a product of two thin matrices. Bits for each held-out
# word, the best seen on the way; bars are standard deviations over seeds. The rivals that learn nothing: frequencies of words, and counts of pairs of
# words, mixed with the frequencies.

# %%
shapes = {
    "dense": {"": ((1024,), (64,), 1)},
    "train": {r: ((8, 8, 16), (4, 4, 4), r) for r in (8, 16)},
    "low rank": {r: ((1024, 1), (1, 64), r) for r in (3, 9)},
}
results = lesson.races(shapes, fast(3, full=300), seeds=fast(2, full=2))
counts = lesson.counted()
picture(lambda figure: lesson.draw_races(figure, results, counts), figsize=(7.5, 3.2))

# %%
mean = lambda row: sum(row[1]) / len(row[1])
(dense,), trains, low = results["dense"], results["train"], results["low rank"]
say(
    f"Frequencies alone have {counts['frequencies']:.2f} bits, the dense table of {dense[0]:,} numbers comes to {mean(dense):.2f}. A train of {trains[0][0]:,} has "
    f"{mean(trains[0]):.2f}, two thin matrices of {low[0][0]:,} have {mean(low[0]):.2f}; with more numbers, {trains[1][0]:,} and {low[1][0]:,}, they have "
    f"{mean(trains[1]):.2f} and {mean(low[1]):.2f}. Counts of pairs, up to a million numbers, have {counts['pairs']:.2f}: on a text of 50,000 words they beat every one "
    "of these networks.",
    fast(
        True,
        full=all(mean(row) < counts["frequencies"] for rows in results.values() for row in rows),
    ),
    fast(True, full=mean(trains[0]) < mean(low[0]) and mean(dense) < min(map(mean, trains + low))),
    fast(True, full=counts["pairs"] < mean(dense)),
    fast(True, full=abs(mean(trains[1]) - mean(low[1])) < 0.1),
)

# %% [markdown]
# ## Compressed afterwards
#
# Vectors that were computed without a train, on the left those of the explorer: a train of the whole table in three orders of the words, an SVD, and a train for
# *each token* [Xu2023], which needs no training and lets words be added one by one. On the right, where its package is installed, words of a trained sentence
# encoder.

# %%
curves = lesson.compressions(fast((4, 16), full=(2, 4, 8, 16, 32)))
picture(lambda figure: lesson.draw_compressions(figure, curves), figsize=(9, 3.2))

# %%
words = {name: dict(points) for name, points in curves["Python's reference"].items()}
at = {
    name: min(error for n, error in points.items() if n <= 13_000) for name, points in words.items()
}
smooth = torch.linspace(0, 3, 64, dtype=torch.float64).mul(torch.arange(1.0, 6)[:, None]).sin()
waves = TokenTrains.from_dense(smooth, (2,) * 6, rtol=1e-6)
say(
    f"With at most 13,000 of {lesson.vocabulary().table.numel():,} numbers the errors are "
    + ", ".join(f"{name} {error:.2f}" for name, error in at.items())
    + ". Order matters: with like words together the train has the least error, in the other orders it is about as good as the SVD. A vector has no order "
    f"of its entries that means anything, so a train of each token is no better, while one of five sine waves has rank {int(waves.kept.max())} and is exact to six digits.",
    at["by meaning"] < min(error for name, error in at.items() if name != "by meaning"),
    all(
        abs(at[name] - at["low rank"]) < 0.06
        for name in ("by frequency", "by alphabet", "each token")
    ),
    int(waves.kept.max()) == 2,
)

# %% [markdown]
# ## Where it loses
#
# *After the fact.* The singular values of a table that was trained without a train fall slowly, and every method above loses much of it.
# *On a small vocabulary.* Two thin matrices are a simpler layer, and with the more numbers of the race above as good as the train.

# %%
best = {
    title: min(
        (error for points in of.values() for n, error in points if n <= lesson.SIZES[title] / 6),
        default=1.0,
    )
    for title, of in curves.items()
}
say(
    "Least error with at most a sixth of the numbers: "
    + ", ".join(f"{error:.2f} for the words of {title}" for title, error in best.items())
    + ". Zeros have the error 1.",
    all(error > 0.4 for error in best.values()),
)

# %% [markdown]
# ## Exercises
#
# Exercises 2 to 4 build the layer. A blank says nothing; a wrong answer gets its own hint.
#
# ### 1. Count (★, 3 minutes)
#
# A table of 1000 words and width 64 is a TT-matrix with the modes (10, 10, 10) × (4, 4, 4) and both ranks 8. How many numbers does it store?

# %%
embedding_storage = ...
lesson.embedding_storage(embedding_storage)

# %% [markdown] tags=["hints"]
# Write the shape (r_left, words, width, r_right) under each core.
#
# The ranks at the two ends are 1.

# %% tags=["solution"]
embedding_storage = 1 * 10 * 4 * 8 + 8 * 10 * 4 * 8 + 8 * 10 * 4 * 1

# %% [markdown]
# ### 2. Digits (★, 5 minutes)
#
# Write `token_digits(token, sizes)`: the digits of an integer for the sizes $(n_1, \dots, n_d)$, as a list of d integers; the last digit changes fastest.


# %%
def token_digits(token, sizes): ...


lesson.token_digits(token_digits)

# %% [markdown] tags=["hints"]
# The last digit is `token % n` for the last size n; what is left is `token // n`.
#
# Go through the sizes from the end, and turn the list around.


# %% tags=["solution"]
def token_digits(token, sizes):
    digits = []
    for n in reversed(sizes):
        digits.append(token % n)
        token //= n
    return digits[::-1]


# %% [markdown]
# ### 3. A row (★★, 10 minutes)
#
# Write `embedding_row(cores, token)`: one row of the table, without forming the table. `cores` is a list of tensors (r_left, words, width, r_right), `token` an
# integer whose first digit belongs to the first core. The row is as long as the product of the widths. The check also asks a table of a hundred million words.


# %%
def embedding_row(cores, token): ...


lesson.embedding_row(embedding_row)

# %% [markdown] tags=["hints"]
# Take the slice `core[:, digit]` of each core: (r_left, width, r_right).
#
# Keep a state of shape (widths so far, r): multiply it with the slice over the rank, and flatten the two widths.


# %% tags=["solution"]
def embedding_row(cores, token):
    state = cores[0].new_ones(1, 1)
    for core, digit in zip(cores, token_digits(token, [core.shape[1] for core in cores])):
        state = torch.tensordot(state, core[:, digit], 1).flatten(0, 1)
    return state[:, 0]


# %% [markdown]
# ### 4. A batch (★★★, 15 minutes)
#
# Write `embedding_rows(cores, tokens)`: the rows of a tensor of n tokens, (n, width), all at once: no loop over the tokens.


# %%
def embedding_rows(cores, tokens): ...


lesson.embedding_rows(embedding_rows)

# %% [markdown] tags=["hints"]
# `token_digits` also works for a tensor of tokens: its digits are tensors then.
#
# `core[:, digits]` is (r_left, n, width, r_right), and the state is (n, widths so far, r): `torch.einsum("nar,rnmq->namq", ...)`.


# %% tags=["solution"]
def embedding_rows(cores, tokens):
    state = cores[0].new_ones(len(tokens), 1, 1)
    for core, digits in zip(cores, token_digits(tokens, [core.shape[1] for core in cores])):
        state = torch.einsum("nar,rnmq->namq", state, core[:, digits]).flatten(1, 2)
    return state[:, :, 0]


# %% [markdown]
# ### 5. Predict: shared prefixes (★★, 5 minutes)
#
# A batch asks for all 1000 words of a table with the sizes (10, 10, 10). The first slice of a word is its first state, and costs nothing; each later state is one
# product of a state and a slice. How many products are there if each prefix is computed once?

# %%
prefix_products = ...
lesson.prefix_products(prefix_products)

# %% [markdown] tags=["hints"]
# Word by word there are two products each.
#
# How many different pairs of first digits are there?

# %% tags=["solution"]
prefix_products = 10 * 10 + 10 * 10 * 10

# %% [markdown]
# ### 6. Explore (★, 5 minutes)
#
# In the explorer at the top, with the modes (8, 8, 16) x (4, 4, 4) and the order by meaning: which is the smallest rank with an error of at most 0.75?

# %%
embedding_rank = ...
lesson.embedding_rank(embedding_rank)

# %% [markdown] tags=["hints"]
# The sentence below the picture has the error.
#
# It falls as the rank grows; begin in the middle of the slider.

# %% tags=["solution"]
embedding_rank = next(
    r for r in range(1, 65) if lesson.compressed("(8, 8, 16) x (4, 4, 4)", r, "meaning")[1] <= 0.75
)
