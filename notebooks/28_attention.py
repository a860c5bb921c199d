# %% [markdown] tags=["lesson"]
# name = "attention"
# minutes = 75
# needs = ["01_lowrank", "02_cp"]
# aims = [
#     "write causal attention, with heads that share their keys",
#     "count what is kept of a token, for each kind of attention",
#     "move one product, so that latents are never expanded",
#     "show whether a layer reads what it must predict",
# ]
# take = [
#     "A model that writes keeps keys and values of all tokens before; each kind of attention is a tensor format for them.",
#     "A latent saves memory and costs multiply-adds: absorbed, it is read as it is kept.",
#     "Change a later token and look at the outputs before it: this test of a mask takes three lines, and the layer of 2019 fails it.",
# ]

# %% [markdown]
# # How few numbers must attention keep of a token?
#
# When a network writes, each new token reads a key and a value of every token before it, for every head. Below is a small trained layer: on the
# left who reads whom (each row adds to 1; the brighter, the more), in the middle the same after its keys and values were cut down, on the right
# what that does to the layer's outputs. Choose a way and move the rank.

# %%
from tensorlab.course.lessons import attention as lesson

lesson.KeepExplorer()

# %% [markdown]
# ## The mathematics
#
# Token $i$ has in head $h$ a query $q_{ih}$, and each token $j$ a key and a value, of size $d$:
#
# $$ y_i = W_o \Big[ \sum_{j \le i} p_{ijh}\, v_{jh} \Big]_h, \qquad p_{ijh} = \operatorname{softmax}_j \big( q_{ih}^{\mathsf T} k_{jh} / \sqrt d \big) . $$
#
# The sum ends at $i$: a token must not read what comes after it. That makes it possible to write, for keys and values of old tokens never change
# and are kept, in the *cache*. All keys of a token are a matrix $(\text{heads}, d)$, all keys of a text a tensor of three [modes](00b_vocabulary.ipynb#Mode);
# the kinds of attention are [formats](00b_vocabulary.ipynb#Format) for it, with a [rank](00b_vocabulary.ipynb#Rank) each (symbols as above; counts are numbers in one layer):
#
# | kind | keys; values alike | kept of a token |
# |---|---|---|
# | multi-head [Vaswani2017] | $k_{jh} = W_h x_j$ | $2\, \text{heads}\, d$ |
# | groups [Ainslie2023] | $k_{jh} = k_{jg}$, one for the heads of a group | $2\, \text{groups}\, d$ |
# | latent [DeepSeek2024] | $k_{jh} = K_h c_j$ with $c_j = W_c x_j$ | rank, and a few for positions |
# | tensor product [Zhang2025] | $k_j = \frac1R \sum_r a_{jr} b_{jr}^{\mathsf T}$, factors made of $x_j$ | $2 R\, (\text{heads} + d)$ |
# | multi-linear [Ma2019] | $T_{ijk} = \sum_r g_r\, q_{ir} k_{jr} v_{kr}$, no softmax, read by a dense layer | $2 R$ |
#
# The first two in a few lines:

# %%
import torch
from tqdm.auto import tqdm

from tensorlab.course.claims import say
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture
from tensorlab.layers.attention import LatentAttention, MultiHeadAttention, MultiLinearAttention


def plain_attention(x, W_q, W_k, W_v, W_o, d):
    """x (time, width) -> the same. W_q has rows for all heads, W_k and W_v for all groups."""
    q, k, v = ((x @ W.T).reshape(len(x), -1, d) for W in (W_q, W_k, W_v))
    share = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(share, 1) for t in (k, v))
    scores = torch.einsum("ihd,jhd->hij", q, k) / d**0.5
    later = torch.ones(len(x), len(x)).triu(1).bool()
    p = scores.masked_fill(later, -torch.inf).softmax(-1)
    return torch.einsum("hij,jhd->ihd", p, v).flatten(1) @ W_o.T


torch.manual_seed(0)
layer, x = MultiHeadAttention(32, 4, groups=2).requires_grad_(False), torch.randn(10, 32)
layer.qkv.bias.zero_(), layer.out.bias.zero_()
y = layer(x[None])[0]
off = float(
    (plain_attention(x, *layer.qkv.weight.split([32, 16, 16]), layer.out.weight, 8) - y).norm()
    / y.norm()
)
say(
    f"These lines and `MultiHeadAttention` with 4 heads in 2 groups differ by {off:.0e}; it keeps {layer.cached} numbers of a token, half of what 4 groups would.",
    off < 1e-5,
    2 * layer.cached == MultiHeadAttention(32, 4).cached,
)

# %% [markdown]
# ## What is kept, at the size of a real model
#
# Width 4096, 32 heads, 32 layers, 16 bits a number: the caches of *one* text. A server holds one for each of its readers.

# %%
picture(lesson.draw_cached, figsize=(8, 3))

# %%
kept = lesson.large()
least = min(kept, key=kept.get)
say(
    f"Full heads keep {lesson.gib(kept['multi-head']):.0f} GiB for {lesson.LARGE['tokens']:,} tokens, more than the {7e9 * 2 / 2**30:.0f} GiB of seven billion weights. "
    f"The latent keeps {kept['multi-head'] / kept['latent, 512 + 64']:.0f} times fewer numbers, the tensor product {kept['multi-head'] / kept['tensor product, 2 + 2']:.0f} times; "
    f"least of all one key for all heads, {kept[least]}.",
    lesson.gib(kept["multi-head"]) > 7e9 * 2 / 2**30,
    least == "1 group",
)

# %% [markdown]
# ## One product moved
#
# A latent seems to cost time: to read old tokens, all their keys would be expanded from $c_j$ for each new token. But
#
# $$ q_h^{\mathsf T} (K_h c_j) = (K_h^{\mathsf T} q_h)^{\mathsf T} c_j, \qquad \sum_j p_j\, V_h c_j = V_h \sum_j p_j c_j , $$
#
# so $K_h$ goes to the one query and $V_h$ to the one sum: the latent is *absorbed*, not expanded. (A rotation by the position between $K_h^{\mathsf T}$ and $q_h$ would be in the way: positions have
# entries apart [Su2024].)

# %%
expanded, absorbed = (
    LatentAttention(32, 4, rank=8, rotary=4, absorb=a).double() for a in (False, True)
)
absorbed.load_state_dict(expanded.state_dict())
x = torch.randn(1, 20, 32, dtype=torch.float64)
off = float((expanded(x) - absorbed(x)).detach().norm() / expanded(x).detach().norm())
full = MultiHeadAttention(32, 4).double()
whole = LatentAttention.from_multihead(full, 32)
same = float((whole(x) - full(x)).detach().norm() / full(x).detach().norm())
say(
    f"Both ways differ by {off:.0e}; and a latent of full rank, made from multi-head attention by an SVD, differs from it by {same:.0e}.",
    off < 1e-12,
    same < 1e-12,
)
picture(lesson.draw_products, figsize=(7, 3.2))

# %%
cost = lesson.products(32768)
say(
    f"Absorbed, a new token after 32,768 costs {cost['latent, expanded'] / cost['latent, absorbed']:.0f} times fewer multiply-adds than expanded, "
    f"and still {cost['latent, absorbed'] / cost['multi-head']:.0f} times those of full heads, because a latent is longer than a key. It wins where memory is what one waits for.",
    cost["latent, expanded"] > 50 * cost["latent, absorbed"],
    cost["latent, absorbed"] > 3 * cost["multi-head"],
)

# %% [markdown]
# ## The mask that was not there
#
# In 2019 attention was written as a cube: $T_{ijk}$ over queries, keys and values, without softmax [Ma2019]. The published layer has a parameter for a mask, and nothing
# reads it. Whether a layer looks ahead is seen without its code: change one token, and look at the outputs before it.

# %%
picture(lesson.draw_moved, figsize=(9, 3.2))

# %%
before = {name: max(lesson.moved(name, 9)[:9]) for name in (*lesson.MASKED, lesson.PUBLISHED)}
honest = max(before[name] for name in lesson.MASKED)
say(
    f"With their masks all kinds leave the outputs before token 9 as they are, to {honest:.0e}. The layer of 2019 moves them by up to {before[lesson.PUBLISHED]:.0%}: it reads what it must predict.",
    honest < 1e-12,
    before[lesson.PUBLISHED] > 0.05,
)

# %% [markdown]
# With $j, k \le i$ it is causal, and the cube need not be made: a [slice](00b_vocabulary.ipynb#Fiber-and-slice) of it, all $(j, k)$ of one token, is a matrix of rank $R$,
# read at once by the dense layer and forgotten.

# %%
layer = MultiLinearAttention(32, context=24, rank=6).double()
x = torch.randn(1, 24, 32, dtype=torch.float64)
cube = layer.cube(x)[0]
by_cube = cube[:, *layer.pairs] @ layer.out.weight.T + layer.out.bias
off = float((layer(x)[0] - by_cube).detach().norm() / by_cube.detach().norm())
say(
    f"Slice by slice and through the cube of {cube.numel():,} numbers the outputs are the same to {off:.0e}; a slice has {cube[0].numel()}.",
    off < 1e-12,
)

# %% [markdown]
# ## Each kind in a character model
#
# Now a tiny GPT is trained with each kind: one block of width 32, 4 heads, one learning rate for all; there is a mark for each seed. The dashed line is a
# model without attention, in which a character sees itself alone, the dotted one the layer of 2019. (`tensorlab run Ma2019` is the larger run, with a
# learning rate for each.)

# %%
runs = {}
for name, seed in tqdm([(n, s) for n in lesson.TRAINED for s in range(fast(1, full=2))]):
    runs.setdefault(name, []).append(lesson.bits(name, fast(6, full=300), seed))
picture(lambda figure: lesson.draw_bits(figure, runs), figsize=(9, 3.4))

# %%
mean = {name: sum(b for _, b in of) / len(of) for name, of in runs.items()}
softmax = [
    name for name in runs if name not in ("nothing", "multi-linear, masked", lesson.PUBLISHED)
]
few, many = (choose(softmax, key=lambda name: runs[name][0][0]) for choose in (min, max))
say(
    f"A model that reads nothing has {mean['nothing']:.2f} bits per character, full heads {mean['multi-head']:.2f}. With softmax, from {runs[few][0][0]} numbers kept "
    f"to {runs[many][0][0]}, all are within {max(mean[n] for n in softmax) - min(mean[n] for n in softmax):.2f} bits; "
    f"multi-linear, masked, has {mean['multi-linear, masked']:.2f}; the layer of 2019 has {mean[lesson.PUBLISHED]:.2f}, but it has seen what it predicts, and could not write a word.",
    fast(True, full=max(mean[n] for n in softmax) < mean["nothing"] - 0.05),
    fast(True, full=max(mean[n] for n in softmax) - min(mean[n] for n in softmax) < 0.15),
    before[lesson.PUBLISHED] > 0.05,
)

# %% [markdown]
# ## Where it loses
#
# *On short texts*: a cache that is small beside the weights is no trouble. *Cut down after training*: the heads did not learn to share. *Multi-linear*: its dense
# layer has a column for each pair of tokens.

# %%
pairs = lambda context: sum(p.numel() for p in MultiLinearAttention(32, context, 16).parameters())
points = dict(lesson.curves(4)["shared heads"])
say(
    f"The layer of the explorer has an error of {points[32]:.0%} when its four heads share two keys without training for it. The multi-linear layer stores {pairs(32):,} numbers for a "
    f"context of 32 and {pairs(64):,} for one of 64, {pairs(64) / pairs(32):.1f} times as many; full heads store the same for any context.",
    points[32] > 0.1,
    pairs(64) > 3.5 * pairs(32),
)

# %% [markdown]
# ## Exercises
#
# Exercises 2 to 6 build the kinds of attention. A blank says nothing; a wrong answer gets its own hint.
#
# ### 1. Predict: one reader's cache (★, 5 minutes)
#
# A model has 32 layers with 32 heads of size 128 in 8 groups, and keeps its keys and values in 16 bits. How many MiB ($2^{20}$ bytes) does a text of 8,192 tokens take?

# %%
cache_mib = ...
lesson.cache_mib(cache_mib)

# %% [markdown] tags=["hints"]
# Of a token and a layer, 2 · 8 · 128 numbers are kept.
#
# Two bytes each, 32 layers, 8,192 tokens; divide by $2^{20}$.

# %% tags=["solution"]
cache_mib = 2 * 8 * 128 * 2 * 32 * 8192 // 2**20

# %% [markdown]
# ### 2. One causal head (★★, 10 minutes)
#
# Write `attend(q, k, v)`: softmax attention of one head, q and k (time, d), v (time, e) -> (time, e), where each token reads itself and those before it.
# `scaled_dot_product_attention` is forbidden.


# %%
def attend(q, k, v): ...


lesson.attend(attend)

# %% [markdown] tags=["hints"]
# The scores are `q @ k.T / d**0.5`, and those above the diagonal become `-torch.inf`.
#
# `torch.ones(t, t).triu(1).bool()` is true above the diagonal; `masked_fill`, then `softmax(1)`.


# %% tags=["solution"]
def attend(q, k, v):
    later = torch.ones(len(q), len(k)).triu(1).bool()
    scores = q @ k.T / k.shape[1] ** 0.5
    return scores.masked_fill(later, -torch.inf).softmax(1) @ v


# %% [markdown]
# ### 3. Grouped keys (★★, 10 minutes)
#
# Write `grouped(q, k, v)`: q (heads, time, d), k and v (groups, time, d) -> (heads, time, d). Neighboring heads share a group: head h reads group ⌊h groups / heads⌋.


# %%
def grouped(q, k, v): ...


lesson.grouped(grouped)

# %% [markdown] tags=["hints"]
# Call `attend` once for each head.
#
# The group of head h is `h * len(k) // len(q)`; `torch.stack` puts the heads together.


# %% tags=["solution"]
def grouped(q, k, v):
    group = [h * len(k) // len(q) for h in range(len(q))]
    return torch.stack([attend(q[h], k[g], v[g]) for h, g in enumerate(group)])


# %% [markdown]
# ### 4. Absorbed decoding (★★★, 15 minutes)
#
# Write `absorbed(q, c, up_key, up_value)`: the output (d,) of one head for one new token, whose query is q (d,). The latents c (time, rank) of all tokens are kept, the new one
# among them; their keys would be `c @ up_key.T` and their values `c @ up_value.T`, with up_key and up_value (d, rank). No tensor may have more than 200 entries, and the keys have
# more.


# %%
def absorbed(q, c, up_key, up_value): ...


lesson.absorbed(absorbed)

# %% [markdown] tags=["hints"]
# $q^{\mathsf T} (K c_j) = (K^{\mathsf T} q)^{\mathsf T} c_j$: multiply K with the query first. The new token reads all, so no mask is needed.
#
# Sum the latents with the softmax, then multiply the sum, one vector of size rank, by `up_value`.


# %% tags=["solution"]
def absorbed(q, c, up_key, up_value):
    scores = c @ (up_key.T @ q) / len(q) ** 0.5
    return up_value @ (scores.softmax(0) @ c)


# %% [markdown]
# ### 5. A tensor product key (★, 5 minutes)
#
# Write `product_key(a, b)`: the keys (heads, d) of a token, $\frac1R \sum_r a_r b_r^{\mathsf T}$, from its kept factors a (R, heads) and b (R, d).


# %%
def product_key(a, b): ...


lesson.product_key(product_key)

# %% [markdown] tags=["hints"]
# A sum of outer products over r is a matrix product.
#
# `a.T @ b`, and R is `len(a)`.


# %% tags=["solution"]
def product_key(a, b):
    return a.T @ b / len(a)


# %% [markdown]
# ### 6. One slice of the cube (★★, 10 minutes)
#
# Write `slice_of_cube(q, k, v, i)`: the matrix (time, time) of $T_{ijk} = \sum_r q_{ir} k_{jr} v_{kr}$ for one i, zero unless $j \le i$ and $k \le i$; q, k and v are (time, R). No tensor
# may have more than 2 · time² entries, so the cube cannot be made.


# %%
def slice_of_cube(q, k, v, i): ...


lesson.slice_of_cube(slice_of_cube)

# %% [markdown] tags=["hints"]
# Multiply each key by `q[i]`, entry by entry: what is left is a product of two thin matrices.
#
# `(k * q[i]) @ v.T`, then set the rows and columns from i + 1 on to zero.


# %% tags=["solution"]
def slice_of_cube(q, k, v, i):
    t = (k * q[i]) @ v.T
    t[i + 1 :] = 0
    t[:, i + 1 :] = 0
    return t


# %% [markdown]
# ### 7. Explore (★, 5 minutes)
#
# In the explorer at the top, with 4 heads and the way *latent*: what is the smallest rank whose outputs have an error below 10 %?

# %%
enough_rank = ...
lesson.enough_rank(enough_rank)

# %% [markdown] tags=["hints"]
# The error is in the sentence below the picture.
#
# Begin with rank 1, and go up one at a time.

# %% tags=["solution"]
enough_rank = next(r for r in range(1, 33) if lesson.error(4, "latent", r) <= 0.1)
