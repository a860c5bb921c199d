# %% [markdown] tags=["lesson"]
# name = "a language model from scratch"
# minutes = 75
# needs = ["01_lowrank", "10_ttmatrix", "11_blocktt"]
# aims = [
#     "say what bits per character and perplexity are",
#     "choose ranks of several structures for one budget of numbers",
#     "give each core its learning rate",
#     "count what a block costs, and say where a TT-matrix loses",
# ]
# take = [
#     "At equal numbers a TT-matrix learns more than two thin factors: it has full rank, and so few numbers are no bottleneck.",
#     "Equal numbers are not equal work: core by core a TT-matrix multiplies more than a dense layer; BTT multiplies once for each number.",
#     "Compare at the best rate of each, with a narrower dense model and a table of pairs beside it, and say how long the training was.",
# ]

# %% [markdown]
# # Which structure should the layers of a language model have?
#
# A small GPT learned to predict characters of Python's documentation, its linear layers in a structure from the first step on. Choose
# structure, share and learning rate (pale: the other rates). *Bits per character* say how badly it predicts: lower is better. The dashed
# line is a table of how often each character follows each other one.

# %%
from tensorlab.course.lessons import gpt as lesson

lesson.WorthExplorer()

# %% [markdown]
# ## The mathematics
#
# A block of a GPT [Radford2019] has four linear layers $W$, of $12\, n^2$ numbers in all for width $n$, and attention between them ([lesson 28](28_attention.ipynb)). In place of
# each $W$ stands from the beginning
#
# | structure | $W$ | numbers of a square one | multiply-adds |
# |---|---|---|---|
# | SVD (lesson 01) | $U V^{\mathsf T}$ | $2 r n$ | $2 r n$ |
# | TTM: a [TT-matrix](10_ttmatrix.ipynb), here of two cores [Chekalina2023] | $\sum_{q \le r} A_q \otimes B_q$, a sum of [Kronecker products](00b_vocabulary.ipynb#Kronecker-product) | $2 r n$ | $2 r n^{3/2}$ |
# | BTT: a [block tensor train](11_blocktt.ipynb) [Qiu2024] | two cores of blocks, which share nothing | $2 r n^{3/2}$ | $2 r n^{3/2}$ |
#
# A TTM of [rank](00b_vocabulary.ipynb#Rank) $r$ stores as much as an SVD of rank $r$, but its matrix has full rank. What a model has learned is measured in bits per character,
#
# $$ b = -\frac1T \sum_t \log_2 p(x_t \mid x_0 \dots x_{t-1}), \qquad \text{perplexity of a word} = 2^{\,b \cdot \text{characters of a word}} . $$
#
# Adam moves each entry by about its learning rate $\eta$, so an output moves by the rate times the *fan-in*, the number of inputs that are added up
# in it: a core of a smaller fan-in may take larger steps [Qiu2024],
#
# $$ \eta_k = \eta \cdot \frac{\text{in}}{\text{fan-in of core } k} \cdot \frac1{\text{cores}} . $$

# %%
import math

import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

import tensorlab as tl
from tensorlab.course.claims import say
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture
from tensorlab.papers import structured
from tensorlab.papers.table import measured, printed


def plain_ttm(x, A, B):
    """y = W x for W = Σ_q A_q ⊗ B_q, with A (m, i, r) and B (r, n, j)."""
    X = x.reshape(*x.shape[:-1], A.shape[1], B.shape[2])
    AX = torch.einsum("miq,...ij->...mqj", A, X)
    return torch.einsum("qnj,...mqj->...mn", B, AX).flatten(-2)


def plain_training(model, tokens, rate, steps, batch=8):
    """Adam with a rate for each core, on random windows; the last loss in bits."""
    cores = [
        w
        for m in model.modules()
        if isinstance(m, tl.FactorizedLinear)
        for w in zip(m.tensors, m.weight.lr_multipliers())
    ]
    known = {id(w) for w, _ in cores}
    rest = [p for p in model.parameters() if id(p) not in known]
    groups = [{"params": [w], "lr": rate * m} for w, m in cores]
    adam = torch.optim.Adam([*groups, {"params": rest, "lr": rate}], betas=(0.9, 0.95))
    for _ in range(steps):
        start = torch.randint(len(tokens) - model.context, (batch, 1))
        window = tokens[start + torch.arange(model.context + 1)]
        loss = F.cross_entropy(model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())
        adam.zero_grad()
        loss.backward()
        adam.step()
    return loss.item() / math.log(2)


torch.manual_seed(0)
w, x = tl.TTMatrix.randn((96, 35), 3), torch.randn(5, 35)
A, B = w.cores[0][0], w.cores[1][..., 0]
off = float((plain_ttm(x, A, B) - w.apply(x)).norm() / w.apply(x).norm())
text, tokens = lesson.corpus()
model = lesson.model("TTM", 20, torch.Generator().manual_seed(0))
last = plain_training(model, tokens["train"], 1e-2, steps=fast(5, full=60))
say(
    f"Two products in turn are what `TTMatrix` computes, to {off:.0e}. After {fast(5, full=60)} steps of this loop the loss is {last:.1f} bits, where any of "
    f"the {text.size} characters alike would have {math.log2(text.size):.1f}.",
    off < 1e-5,
    last < math.log2(text.size),
)

# %% [markdown]
# ## What a budget buys
#
# One layer, and a share of its numbers: each structure gets the largest rank that fits. On the left its multiply-adds for a token, on the right the rates of its cores.

# %%
lesson.BudgetExplorer()

# %%
of = {kind: lesson.drawn(kind, (128, 128), 20) for kind in lesson.KINDS}
ranks = {kind: int(torch.linalg.matrix_rank(w.to_dense())) for kind, w in of.items()}
say(
    f"With 20 % of 128 · 128 numbers the SVD has rank {ranks['SVD']}; the matrices of the TTM and of the BTT have rank {ranks['TTM']} and {ranks['BTT']}. The TTM takes {of['TTM'].flops(1) / of['SVD'].flops(1):.0f} "
    f"times the multiply-adds of the SVD, and {of['TTM'].flops(1) / (2 * 128**2):.1f} times those of a dense layer.",
    ranks["SVD"] < 20,
    min(ranks["TTM"], ranks["BTT"]) == 128,
    of["TTM"].flops(1) > 2 * 128**2,
)

# %% [markdown]
# ## All structures from scratch
#
# One block of width 64. Choose a structure and press *play*: the dense model learns beside it, and below the picture it writes.

# %%
lesson.LearnPlayer()

# %% [markdown]
# All of them with a fifth of the numbers, one learning rate for all, scaled for each core. The baselines: the dense block, a *narrower* dense one
# with as few numbers, and the table of pairs. There is a mark for each seed.

# %%
runs = {}
for name, seed in tqdm([(n, s) for n in lesson.RIVALS for s in range(fast(1, full=2))]):
    runs.setdefault(name, []).append(lesson.outcome(name, 20, fast(4, full=400), seed))
picture(lambda figure: lesson.draw_outcomes(figure, runs), figsize=(9.5, 3.4))

# %%
bits_of = lesson.mean_bits(runs)
numbers = {name: rows[0]["numbers"] for name, rows in runs.items()}
flops = {name: rows[0]["flops"] for name, rows in runs.items()}
say(
    f"The TTM has {bits_of['TTM']:.2f} bits per character, two thin factors {bits_of['SVD']:.2f}, with {numbers['TTM']:,} and {numbers['SVD']:,} numbers; the dense block of {numbers['dense']:,} has {bits_of['dense']:.2f}, "
    f"the narrow one {bits_of['narrow dense']:.2f}, BTT {bits_of['BTT']:.2f}. Core by core the TTM takes {flops['TTM'] / flops['dense']:.1f} times the FLOPs of the dense block, BTT {flops['BTT'] / flops['dense']:.2f} times.",
    fast(True, full=bits_of["TTM"] < bits_of["SVD"]),
    numbers["TTM"] < numbers["SVD"] < 0.2 * numbers["dense"],
    flops["TTM"] > flops["dense"] > 4 * flops["BTT"],
)

# %% [markdown]
# ## Recorded results
#
# The picture at the top is of one seed. `tensorlab run Chekalina2023gpt` trains two blocks of width 128, each way at the best of three rates, three
# seeds at that; whiskers are one standard deviation. Crosses are what the paper's authors print for GPT-2 medium: another text, words in place of
# characters. What can be compared is the order.

# %%
picture(lesson.draw_recorded, figsize=(9, 3.4))

# %%
ours = {(row["layers"], row["share"]): row["test bits"] for row in lesson.recorded().rows}
theirs = {row["layers"]: row["perplexity"] for row in printed("Chekalina2023gpt").rows}
gaps = [ours["SVD", share] - ours["TTM", share] for share in (20, 40, 60)]
say(
    f"TTM reads better than SVD at every share, by {min(gaps):.2f} to {max(gaps):.2f} bits; at 20 % it has {ours['TTM', 20]:.2f}, and dense {ours['dense', 100]:.2f}. In print the order is the same, {theirs['TTM']} to {theirs['SVD']}, "
    f"but there dense is far ahead with {theirs['dense']}.",
    min(gaps) > 0.04,
    abs(ours["TTM", 20] - ours["dense", 100]) < 0.1,
    theirs["dense"] < theirs["TTM"] < theirs["SVD"],
)

# %% [markdown]
# `tensorlab run Qiu2024` has the structures at *about the same numbers*, and counts their work:

# %%
picture(lesson.draw_structures, figsize=(9, 3.2))

# %%
rows = lesson.structures()
error = {name: row["error"] for name, row in rows.items()}
times = lambda name: rows[name]["flops"] / rows["dense"]["flops"]
say(
    f"TT reads as well as dense, {error['TT']:.2f} bits to {error['dense']:.2f}, with {rows['dense']['numbers'] / rows['TT']['numbers']:.0f} times fewer numbers and {times('TT'):.1f} times the FLOPs. BTT does so too, {error['BTT']:.2f}, with {times('BTT'):.2f} "
    f"times the FLOPs. Low rank has {error['low rank']:.2f}.",
    abs(error["TT"] - error["dense"]) < 0.02 and abs(error["BTT"] - error["dense"]) < 0.02,
    times("TT") > 1 > 5 * times("BTT"),
    error["low rank"] > error["dense"] + 0.1,
)

# %% [markdown]
# And the learning rates, found at width 64 and scaled to width 1024, on digits: solid lines give each core its own, dotted ones treat all layers as
# dense. The lowest point of a curve is its best rate.

# %%
picture(lambda figure: structured.draw(measured("Qiu2024"), figure.subplots()), figsize=(7, 3.6))

# %%
core, same = (lesson.best_rates(rule) for rule in ("core", "dense"))
say(
    f"With a rate for each core the best rates of all structures are {core[0]:g} to {core[-1]:g}, a factor of {core[-1] / core[0]:.0f}; as if they were dense, {same[0]:g} to {same[-1]:g}, a factor of {same[-1] / same[0]:.0f}. "
    "One tuned rate then serves more than one structure.",
    core[-1] / core[0] < same[-1] / same[0],
)

# %% [markdown]
# ## Where it loses

# %%
pairs = lesson.pair_bits()
below = [name for name, b in bits_of.items() if b < pairs]
say(
    f"*In work*: at 20 % the TTM of the block above takes {flops['TTM'] / flops['dense']:.1f} times the FLOPs of dense core by core, or else forms $W$ at each step, so that at equal time its lead shrinks. "
    f"*Against dense, trained long*: in print its perplexity is {theirs['TTM'] / theirs['dense']:.1f} times that of dense. Our recorded runs are {measured('Chekalina2023gpt').notes['steps']} steps, far from flat; "
    f"that TTM at 20 % is level with dense there ({ours['TTM', 20]:.2f} and {ours['dense', 100]:.2f}) says that few numbers learn faster, not that they hold as much.",
    flops["TTM"] > 2 * flops["dense"],
    theirs["TTM"] > 1.4 * theirs["dense"],
    abs(ours["TTM", 20] - ours["dense", 100]) < 0.1,
)
say(
    f"*Against a table of pairs*, {text.size**2:,} counts and no training at all: it has {pairs:.2f} bits, fewer than any recorded SVD and about as many as the recorded dense model. "
    f"Of the models trained above, below it are: {', '.join(below) or 'none'}.",
    all(bits > pairs for (layers, _), bits in ours.items() if layers == "SVD"),
    abs(ours["dense", 100] - pairs) < 0.2,
)

# %% [markdown]
# ## Exercises
#
# Exercises 2 to 6 build what such a comparison needs. A blank says nothing; a wrong answer gets its own hint.
#
# ### 1. Predict: from bits to perplexity (★, 3 minutes)
#
# A model needs 1.2 bits for a character. A word with its blank has 5.6 characters in the mean. What is the perplexity of a word?

# %%
perplexity = ...
lesson.perplexity(perplexity)

# %% [markdown] tags=["hints"]
# How many bits does a word need?
#
# The perplexity is the number of words, all alike, that would need as many bits: two to that power.

# %% tags=["solution"]
perplexity = 2 ** (1.2 * 5.6)

# %% [markdown]
# ### 2. Bits per character (★★, 10 minutes)
#
# Write `bits(logits, target)`: the mean of $-\log_2 p$ of the characters target (n,), with p the softmax of logits (n, vocabulary). It should work for logits in the
# thousands; torch's own cross entropy is forbidden.


# %%
def bits(logits, target): ...


lesson.bits(bits)

# %% [markdown] tags=["hints"]
# `logits - logits.logsumexp(1, keepdim=True)` is log p.
#
# `log_p[torch.arange(len(target)), target]` picks the entries; divide by `math.log(2)`.


# %% tags=["solution"]
def bits(logits, target):
    log_p = logits - logits.logsumexp(1, keepdim=True)
    return -log_p[torch.arange(len(target)), target].mean() / math.log(2)


# %% [markdown]
# ### 3. The rank of an SVD for a budget (★, 5 minutes)
#
# Write `svd_rank(out, in_, budget)`: the largest rank at which two factors of an (out, in) matrix store at most `budget` numbers, and at least 1.


# %%
def svd_rank(out, in_, budget): ...


lesson.svd_rank(svd_rank)

# %% [markdown] tags=["hints"]
# Rank r stores r · out and r · in.
#
# `//` rounds down; `max(1, ...)`.


# %% tags=["solution"]
def svd_rank(out, in_, budget):
    return max(1, budget // (out + in_))


# %% [markdown]
# ### 4. The shapes and the rank of a TTM for a budget (★★, 10 minutes)
#
# Write `ttm_rank(out, in_, budget)`: the same for a TT-matrix of two cores (out_1, in_1, r) and (r, out_2, in_2). Split each side into the two factors that are nearest
# to each other, the larger first, without `balanced_shape`.


# %%
def ttm_rank(out, in_, budget): ...


lesson.ttm_rank(ttm_rank)

# %% [markdown] tags=["hints"]
# The smaller factor of n is the largest divisor that is at most `math.isqrt(n)`.
#
# The cores store r · out_1 · in_1 and r · out_2 · in_2.


# %% tags=["solution"]
def ttm_rank(out, in_, budget):
    small = lambda n: next(k for k in range(math.isqrt(n), 0, -1) if n % k == 0)
    o, i = small(out), small(in_)
    return max(1, budget // ((out // o) * (in_ // i) + o * i))


# %% [markdown]
# ### 5. A rate for each core (★★, 10 minutes)
#
# Write `core_rates(out, in_, rank)`: by what the rate of a dense weight is multiplied for the two cores of exercise 4, as two numbers. The fan-in of the first core is in_1,
# that of the second r · in_2.


# %%
def core_rates(out, in_, rank): ...


lesson.core_rates(core_rates)

# %% [markdown] tags=["hints"]
# The formula of $\eta_k$ is above; there are two cores.
#
# The first number is in / in_1 / 2.


# %% tags=["solution"]
def core_rates(out, in_, rank):
    small = next(k for k in range(math.isqrt(in_), 0, -1) if in_ % k == 0)
    return in_ / (in_ // small) / 2, in_ / (rank * small) / 2


# %% [markdown]
# ### 6. FLOPs of a block (★★, 10 minutes)
#
# Write `block_flops(width, context)`: FLOPs for each token of a dense block, two for each multiply-add. Its linear layers are queries, keys and values (3 width · width), the output of
# attention (width · width), up (4 width · width) and down; each token's query meets all `context` keys, and its sum all values. No biases, norms or softmax.


# %%
def block_flops(width, context): ...


lesson.block_flops(block_flops)

# %% [markdown] tags=["hints"]
# All heads together have queries of size width: a score of each head with one key is width multiply-adds for all.
#
# 12 width² of the linear layers, and twice context · width; then times two.


# %% tags=["solution"]
def block_flops(width, context):
    return 2 * (12 * width**2 + 2 * context * width)


# %% [markdown]
# ### 7. Explore (★, 5 minutes)
#
# In the explorer of *What a budget buys*, for the layer *out* at width 128: what is the largest share, in whole percent, at which the TTM takes no more multiply-adds than the dense layer?

# %%
ttm_share = ...
lesson.ttm_share(ttm_share)

# %% [markdown] tags=["hints"]
# The dense layer takes 128 · 128 = 16,384; the sentence has the number of the TTM.
#
# Move the share down until it is below, then up a percent at a time.

# %% tags=["solution"]
ttm_share = max(s for s in range(2, 101) if lesson.products("TTM", (128, 128), s) <= 128 * 128)
