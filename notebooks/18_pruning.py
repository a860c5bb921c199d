# %% [markdown] tags=["lesson"]
# name = "pruning and tickets"
# minutes = 60
# needs = ["01_lowrank", "15_dlrt"]
# aims = [
#     "build magnitude pruning and the lottery from four small functions",
#     "count what a sparse network stores, and what it costs to find",
#     "say which way of compressing to try first, and where DLRT loses",
# ]
# take = [
#     "Pruning the smallest entries, with training in between, loses little down to a tenth of the weights; whole blocks lose more, but only they are skipped by dense hardware.",
#     "A lottery ticket is cheap and the lottery is not: one training more than it has rounds, and the mask must be stored.",
#     "At equal numbers, each at its best learning rate, plain factors, tuning after an SVD and pruned entries are all ahead of DLRT of fixed rank.",
# ]

# %% [markdown]
# # Which weights may be set to zero, and what does it cost to find out?
#
# A trained network, and the weights of its middle layer: dark ones are large, white ones have been set to zero, or *have fallen* for short. Let the smallest fall, one by one, in blocks, or in whole rows;
# the rival is a truncated SVD that stores as many numbers. The ring shows how much the network still reads, without any further training.

# %%
from tensorlab.course.lessons import pruning as lesson

lesson.PruneExplorer()

# %% [markdown]
# ## The mathematics
#
# Magnitude pruning [Han2015] sets the share $s$ of smallest weights to zero,
#
# $$ w \leftarrow m \odot w, \qquad m = [\,|w| > t\,], $$
#
# and holds them there while training goes on: after each step of the optimizer $w \leftarrow m \odot w$ again, because momentum would bring them
# back. Why the smallest? Of all masks with so many ones it is the one that changes $w$ least in the Frobenius [norm](00b_vocabulary.ipynb#Norm), as the truncated SVD is
# among the matrices of a [rank](00b_vocabulary.ipynb#Rank). Neither looks at the loss.
#
# The *lottery ticket hypothesis* [FrankleCarbin2019]: a trained network's mask, put on the weights $w_0$ that it **started** from, gives a sparse
# network, the *ticket*, that can be trained by itself to the accuracy of the dense one. It is found in rounds:
#
# $$ w \leftarrow m \odot w_0, \quad \text{train}, \quad m \leftarrow m \text{ without the share } p \text{ of smallest that are left}. $$
#
# After $k$ rounds $(1-p)^k$ of the weights are left, and $k+1$ trainings are paid. One training of $n$ examples costs $3 F n$ FLOPs, where $F$
# counts those of the forward pass of one example: the backward pass multiplies twice, for the inputs and for the weights. In the letters of the formula:

# %%
import torch

import tensorlab as tl
from tensorlab.course.claims import say
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture


def plain_lottery(w0, train, p, rounds):
    """The masks m of all rounds."""
    m = torch.ones_like(w0)
    for _ in range(rounds):
        w = train(m * w0, m)
        left = w[m > 0].abs().sort(descending=True).values
        t = left[round((1 - p) * len(left)) - 1]
        m = m * (w.abs() >= t)
        yield m


g = torch.Generator().manual_seed(0)
X, Y, w0 = (torch.randn(8, n, generator=g, dtype=torch.float64) for n in (32, 32, 8))


def descend(w, m):
    """Twenty steps for |w X - Y|²/2 on the weights that stay."""
    for _ in range(20):
        w = w - 0.01 * m * ((w @ X - Y) @ X.T)
    return w


def train(model, masks):
    model[0].weight.data = descend(model[0].weight.data, masks["0"])
    return 32


model = torch.nn.Sequential(torch.nn.Linear(8, 8, bias=False, dtype=torch.float64))
model[0].weight.data = w0.clone()
tickets = list(tl.lottery(model, train, "*", X.T[:1], rounds=3, prune_rate=0.5))
plain = list(plain_lottery(w0, descend, 0.5, 3))
say(
    f"Of {w0.numel()} weights {', '.join(str(int(m.sum())) for m in plain)} are left after three rounds of the ten lines, the same ones as in `tl.lottery`.",
    [int(m.sum()) for m in plain] == [32, 16, 8],
    all(torch.equal(m > 0, t.masks["0"]) for m, t in zip(plain, tickets[1:])),
)

# %% [markdown]
# ## Drawing a ticket
#
# Accuracy after each round, of tickets, of their procedure with new random weights in each round, and of tickets of whole blocks. The rivals are the dense network, and two factors of a low rank that are
# trained **once**. On the left against the words of 32 bits that are stored, for weights and for which of them stay; on the right against what has been paid for so far, if zeros cost nothing.
# Whiskers are the range of the seeds.

# %%
rounds, prune_rate, epochs, seeds = fast((3, 0.5, 2, 1), full=(8, 0.4, 10, 3))
runs = lesson.compare(rounds=rounds, prune_rate=prune_rate, epochs=epochs, seeds=seeds)
picture(lambda figure: lesson.draw_compared(figure, runs), figsize=(9.5, 3.4))

# %%
last = {way: lesson.mean(of, -1) for way, of in runs.items()}
held = {way: lesson.mean(of, -1, "numbers") for way, of in runs.items()}
one = lesson.mean(runs["ticket"], 0, "flops")
paid, dense_paid = (lesson.mean(runs["ticket"], -1, c) / one for c in ("flops", "dense_flops"))
dense = lesson.mean(runs["ticket"], 0)
most = lesson.mean(runs["low rank, once"], -1, "flops") / one
say(
    f"The ticket of the last round, {100 * (1 - runs['ticket'][0][-1]['sparsity']):.1f} % of the weights and {held['ticket']:,.0f} words, reads {last['ticket']:.1f} %, new weights under the same procedure {last['new weights']:.1f} %, "
    f"and blocks {last['8 x 8 blocks']:.1f} %; dense it is {dense:.1f} %. It was paid with {paid:.1f} dense trainings, {dense_paid:.0f} on hardware that multiplies with zeros too. "
    f"Factors of rank {lesson.RANKS[-1]}, trained once for {most:.2f} dense trainings, read {last['low rank, once']:.1f} % with {held['low rank, once']:,.0f} numbers.",
    fast(
        True,
        full=last["ticket"] > last["new weights"] + 10
        and last["ticket"] > last["8 x 8 blocks"] + 10,
    ),
    fast(True, full=last["ticket"] < dense - 3),
    paid > fast(1.5, full=2.5),
    abs(dense_paid - rounds - 1) < 1e-9,
    most < 1,
)

# %% [markdown]
# What is stored beside the kept weights is which they are: a bit for each, or a list of places where that is shorter. A block needs one for 64 weights.

# %%
masks = lesson.cut(0.9, "entries")[1]
blocks = lesson.cut(0.9, "8 x 8")[1]
kept = sum(int(m.sum()) for m in masks.values())
more, few = (
    lesson.words(masks) - kept,
    lesson.words(blocks, (8, 8)) - sum(int(m.sum()) for m in blocks.values()),
)
say(
    f"With a tenth of the {2 * 64 * 64:,} weights left, {kept} numbers, the mask takes another {more} words of 32 bits, {100 * more / kept:.0f} % more; that of blocks {few}.",
    0.2 < more / kept < 0.5,
    few < 20,
)

# %% [markdown]
# ## All ways on one footing
#
# Pruning, tickets, and the ways of lesson 15, from plain factors to DLRT [Schotthoefer2022]: one network of 64 - 128 - 128 - 10, as many numbers stored as rank 6 needs, each way at the best of the same five learning rates,
# chosen on rows kept apart, three seeds. Recorded by `tensorlab run Schotthoefer2022competitors --preset full`.
#
# *UV*: plain factors; *UV in turn*: a step on U, then one on V. *SVD, then tuned*: the second half of the epochs is spent on the factors of an SVD. *projected*: an SVD of rank 6 after each dense step;
# *penalty on rank*: an SVD whose rank costs a penalty. *pruned*: once, at half time. *DLRT*: KLS of fixed rank; *DLRT adaptive*: with a tolerance `theta`. The penalty and the tolerance, given behind the name, decide how many numbers are kept.
#
# Whiskers are the range of the seeds, the lines the dense network, and both kinds of DLRT are orange. Multiply-adds are those of a whole training as dense hardware pays them, with QR and SVD.

# %%
ways = lesson.recorded()
picture(lambda figure: lesson.draw_recorded(figure, ways), figsize=(9.5, 3.8))

# %%
fixed, (wide, narrow) = ways["DLRT", 6], [ways["DLRT adaptive", theta] for theta in (0.15, 0.3)]
ahead = [w for (w, s), of in ways.items() if s == 6 and w != "DLRT" and of["mean"] > fixed["mean"]]
behind = [w for (w, s), of in ways.items() if s == 6 and of["mean"] < fixed["mean"]]
uv, tuned, entries = (ways[way, 6] for way in ("UV", "SVD, then tuned", "pruned entries"))
say(
    f"**DLRT of fixed rank loses here.** It reads {fixed['mean']:.1f} % with {fixed['words']:,} numbers. Ahead of it at the same rank are {'; '.join(ahead)}. Behind it is {', '.join(behind)} alone. "
    f"Plain factors read {uv['mean']:.1f} % with the same numbers, {fixed['cost'] / uv['cost']:.1f} times fewer multiply-adds and {fixed['passes'] / uv['passes']:.0f} times fewer passes; its seconds are {fixed['seconds']:.1f} times those of the dense network, theirs {uv['seconds']:.1f} times. "
    f"An SVD at half time and then tuning reads {tuned['mean']:.1f} %, pruned entries {entries['mean']:.1f} %, with {entries['words'] - fixed['words']} words more for the mask.",
    behind == ["UV in turn"],
    {"UV", "SVD, then tuned", "pruned entries", "lottery ticket", "projected"} <= set(ahead),
    fixed["cost"] > uv["cost"],
    fixed["passes"] == 2 * uv["passes"],
    fixed["seconds"] > 2 > uv["seconds"],
)

# %%
overlap = max(ways["DLRT", 6]["test"]) > min(ways["pruned blocks", 6]["test"])
dense = ways["dense", 0]
say(
    f"The ranges of DLRT and pruned blocks overlap: {fixed['mean']:.1f} and {ways['pruned blocks', 6]['mean']:.1f} % are no ranking. With a tolerance of 0.15 DLRT reads {wide['mean']:.1f} %, as much as the dense network ({dense['mean']:.1f} %), but keeps {wide['words']:,} numbers, "
    f"{wide['words'] / fixed['words']:.1f} times as many as the others, and costs {wide['cost']:.2f} times a dense training; with 0.3 it keeps {narrow['words']:,} and reads {narrow['mean']:.1f} %. "
    f"In multiply-adds DLRT of fixed rank costs {fixed['cost']:.2f} of a dense training. There it is ahead of pruning, which pays a whole one, and of a projection in each step, which pays {ways['projected', 6]['cost']:.0f}.",
    overlap,
    abs(wide["mean"] - dense["mean"]) < 0.5,
    wide["words"] > 1.9 * fixed["words"],
    wide["cost"] > 1,
    narrow["mean"] < fixed["mean"] and narrow["words"] > fixed["words"],
    fixed["cost"] < 0.5,
    ways["projected", 6]["cost"] > 2,
    entries["cost"] == ways["pruned blocks", 6]["cost"] == 1,
)

# %% [markdown]
# ## Where it loses
#
# *Entries on dense hardware*: a zero is multiplied all the same, and only the right panel of tickets, where zeros cost nothing, shows a saving. *Blocks*, which are skipped, are less accurate. *The lottery* pays all of its trainings:

# %%
lottery = ways["lottery ticket", 6]
gain = lottery["mean"] - entries["mean"]
spread = max(entries["test"]) - min(entries["test"])
say(
    f"In the recorded run the ticket costs {lottery['cost']:.0f} dense trainings and is {gain:.1f} points ahead of pruning once at half time, which is less than the {spread:.1f} points between the seeds of the latter.",
    lottery["cost"] >= 6,
    0 < gain < spread,
)

# %% [markdown]
# Digits of 8 by 8 teach how to count, not which way wins on a large network.
#
# ## Exercises
#
# Exercises 2 to 5 build the lottery, each from the ones before. A blank says nothing; a wrong answer gets its own hint.
#
# ### 1. Predict: what is left (★, 3 minutes)
#
# In each of 5 rounds a fifth of the remaining weights falls. What share of all weights is left after the fifth?

# %%
lottery_left = ...
lesson.lottery_left(lottery_left)

# %% [markdown] tags=["hints"]
# After one round four fifths are left.
#
# Each round multiplies what is left by the same number.

# %% tags=["solution"]
lottery_left = (1 - 0.2) ** 5

# %% [markdown]
# ### 2. The smallest fall (★, 5 minutes)
#
# Write `kept(scores, share)`: a tensor of the shape of `scores`, 0 where one of the `round(share * scores.numel())` smallest scores is, and 1 elsewhere. The scores may be negative.


# %%
def kept(scores, share): ...


lesson.kept(kept)

# %% [markdown] tags=["hints"]
# `scores.flatten().argsort()` gives the places, the smallest first.
#
# Set the first of them to zero in a flat tensor of ones, and reshape.


# %% tags=["solution"]
def kept(scores, share):
    falls = round(share * scores.numel())
    m = torch.ones(scores.numel(), dtype=scores.dtype)
    m[scores.flatten().argsort()[:falls]] = 0
    return m.reshape(scores.shape)


# %% [markdown]
# ### 3. Blocks (★★, 10 minutes)
#
# Write `block_mask(w, share, b)`: 1 where a weight stays and 0 where it falls, when of the b x b blocks of w those with the smallest sum of squares fall,
# `round(share * number of blocks)` of them. b divides both sides.


# %%
def block_mask(w, share, b): ...


lesson.block_mask(block_mask)

# %% [markdown] tags=["hints"]
# Reshape w to (rows of blocks, b, columns of blocks, b) and sum the squares over the two b; `kept` takes it from there.
#
# `repeat_interleave(b, 0)` and `repeat_interleave(b, 1)` make each block as large as it is.


# %% tags=["solution"]
def block_mask(w, share, b):
    m, n = w.shape
    scores = w.reshape(m // b, b, n // b, b).square().sum((1, 3))
    return kept(scores, share).repeat_interleave(b, 0).repeat_interleave(b, 1)


# %% [markdown]
# ### 4. The next round (★★, 10 minutes)
#
# Write `next_mask(w, m, p)`: m is the mask so far, of zeros and ones. Of the weights that are left the share p with the smallest magnitude falls, `round(p * left)` of them; what fell before stays fallen.


# %%
def next_mask(w, m, p): ...


lesson.next_mask(next_mask)

# %% [markdown] tags=["hints"]
# Give what has fallen a score below all others, such as -1: `torch.where(m > 0, w.abs(), -1.0)`.
#
# The share for `kept` is then (fallen + round(p * left)) / all.


# %% tags=["solution"]
def next_mask(w, m, p):
    left = int(m.sum())
    falls = m.numel() - left + round(p * left)
    return kept(torch.where(m > 0, w.abs(), -1.0), falls / m.numel())


# %% [markdown]
# ### 5. Draw a ticket (★★, 10 minutes)
#
# Write `ticket(w0, train, p, rounds)`: the mask after so many rounds. `train(w, m)` trains the weights w under the mask m and returns them.


# %%
def ticket(w0, train, p, rounds): ...


lesson.ticket(ticket)

# %% [markdown] tags=["hints"]
# Begin with a mask of ones.
#
# Each round begins with `m * w0`: rewind.


# %% tags=["solution"]
def ticket(w0, train, p, rounds):
    m = torch.ones_like(w0)
    for _ in range(rounds):
        m = next_mask(train(m * w0, m), m, p)
    return m


# %% [markdown]
# ### 6. Predict: the cost of a ticket (★★, 5 minutes)
#
# A dense training, and then five rounds in which a fifth of what is left falls and the network is trained again, as long as the first time. How many dense trainings does all of this cost, if a
# weight that has fallen costs nothing?

# %%
cost_of_a_ticket = ...
lesson.cost_of_a_ticket(cost_of_a_ticket)

# %% [markdown] tags=["hints"]
# There are six trainings in all.
#
# The second costs 0.8 of the first.

# %% tags=["solution"]
cost_of_a_ticket = sum(0.8**k for k in range(6))

# %% [markdown]
# ### 7. Explore (★, 5 minutes)
#
# In the explorer at the top, with *entries*: what is the largest share, of the multiples of 0.05, that may fall while more than 90 % of the test images are right?

# %%
bearable = ...
lesson.bearable(bearable)

# %% [markdown] tags=["hints"]
# The last number of the sentence below the picture is the share of right images.
#
# Begin where the curve of *entries* begins to fall, at about 0.8, and go back in steps of 0.05.

# %% tags=["solution"]
bearable = max(share for share, right in lesson.curves()["entries"] if right > 0.9)
