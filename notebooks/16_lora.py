# %% [markdown] tags=["lesson"]
# name = "low-rank adapters"
# minutes = 60
# needs = ["01_lowrank", "09_kronecker", "15_dlrt"]
# aims = [
#     "write LoRA from its forward to its merge, and DoRA on top of it",
#     "count what is trained and saved",
#     "say what an adapter has to be compared with",
# ]
# take = [
#     "An adapter trains a small change of a frozen weight; it starts at zero, and merged it costs nothing more.",
#     "The rank is chosen, not found, and the rate matters as much as the kind: compare at the best rate of each.",
#     "Frozen weights do not keep what the network could do: their sum with the adapter is used. What is kept is the way back.",
# ]

# %% [markdown]
# # How few numbers change what a trained network does?
#
# A network that reads upright digits shall learn to read them lying on their side, from 300 examples. All of its weights are frozen; a small trained
# one is added to two of them. Press *play*, then choose another kind or another [rank](00b_vocabulary.ipynb#Rank).

# %%
from tensorlab.course.lessons import lora as lesson

lesson.AdaptPlayer()

# %% [markdown]
# ## The mathematics
#
# Training all weights changes $w$ by some $\Delta$ of its size. LoRA (low-rank adaptation) [Hu2021] bets that a $\Delta$ of low rank $r$ will do:
#
# $$ y = w x + \tfrac{\alpha}{r}\, B A x, \qquad A\ (r, \text{in}) \text{ Gaussian},\quad B\ (\text{out}, r) = 0 . $$
#
# The number $\alpha$ is chosen; it scales the change. At the start $BA = 0$: nothing changes. If $G$ is the gradient of the loss by the dense weight, those of the factors are
# $\partial B = \tfrac{\alpha}{r}\, G A^T$ and $\partial A = \tfrac{\alpha}{r}\, B^T G$, so at first only $B$ moves. No SVD is taken anywhere: the rank is chosen, not found. Afterwards
# $w + \tfrac{\alpha}{r} B A$ is one dense matrix again, and inference costs nothing more.
#
# The five kinds of the explorer, where $s = \alpha / r$ and $\|\cdot\|$ is the length of each row:
#
# | kind | what is added; for DoRA the whole weight | at the start |
# |---|---|---|
# | LoRA [Hu2021] | $\frac{\alpha}{r} BA$ | $B = 0$ |
# | rsLoRA [Kalajdzievski2023] | $\frac{\alpha}{\sqrt r} BA$: the size of the change does not fall as $r$ grows | $B = 0$ |
# | DoRA [Liu2024] | $m \odot (w + sBA) / \|w + sBA\|$ by rows: length $m$ and direction are trained apart | $m = \|w\|$ |
# | LoKr [Yeh2024] | $s\, w_1 \otimes (ab)$: a [Kronecker product](00b_vocabulary.ipynb#Kronecker-product), of high rank from few numbers; with $x$ as a matrix $X$ it is multiplied as $w_1 X (ab)^T$ | $w_1 = 0$ |
# | dlrt [Schotthoefer2022] | $s\, U S V^T$, trained by the integrator of lesson 15: the rank adapts | $S = 0$ |

# %%
import torch

from tensorlab.course.claims import say
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture
from tensorlab.papers.table import measured, printed


class PlainLoRA(torch.nn.Module):
    """y = w x + (alpha / r) B A x; w is frozen, A and B are trained."""

    def __init__(self, layer, r, alpha):
        super().__init__()
        self.layer, self.s = layer.requires_grad_(False), alpha / r
        self.A = torch.nn.Parameter(torch.randn(r, layer.in_features) / layer.in_features**0.5)
        self.B = torch.nn.Parameter(torch.zeros(layer.out_features, r))

    def forward(self, x):
        return self.layer(x) + self.s * (x @ self.A.T) @ self.B.T

    def merged(self):
        return self.layer.weight + self.s * self.B @ self.A


plain = PlainLoRA(torch.nn.Linear(64, 32), r=4, alpha=8.0)
x = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
start = float((plain(x) - plain.layer(x)).detach().abs().max())
plain(x).square().sum().backward()
moves = {name: float(getattr(plain, name).grad.norm()) for name in ("A", "B")}
with torch.no_grad():
    plain.B.normal_()
    dense = x @ plain.merged().T + plain.layer.bias
    off = float((plain(x) - dense).norm() / dense.norm())
say(
    f"Before the first step the outputs differ by {start:.0f}; the gradient of $A$ is {moves['A']:.0f}, that of $B$ has the norm {moves['B']:.0f}. With a random $B$ the "
    f"merged weight gives the same outputs to six digits.",
    start == 0 and moves["A"] == 0 and moves["B"] > 1,
    off < 1e-6,
)

# %% [markdown]
# ## All kinds beside each other
#
# Test accuracy against the numbers trained, on the new task on the left and on the old one, which nothing trains any more, on the right; bars are standard deviations over seeds.
# Each way has one rate, `lesson.RATES`, chosen beforehand; the recorded run below tries three. The rivals: the network as it was, all weights trained on, only the last layer trained on, and a network trained from scratch on the 300 examples.

# %%
runs = lesson.compare(fast(20, full=200), seeds=fast(2, full=3))
picture(lambda figure: lesson.draw_compared(figure, runs), figsize=(9.5, 3.4))

# %%
new, old = ({name: lesson.mean(of, task) for name, of in runs.items()} for task in ("new", "old"))
adapters = [name for name in runs if name not in lesson.RIVALS]
best = max(adapters, key=new.get)
numbers = {name: of[0]["numbers"] for name, of in runs.items()}
say(
    f"The network as it was reads {new['as it was']:.0f} % of the turned digits. At these rates the best adapter, {best}, reads {new[best]:.1f} % with {numbers[best]:,} numbers trained; all weights, "
    f"{numbers['all weights']:,} numbers, {new['all weights']:.1f} %, the last layer alone {new['last layer']:.1f} %, and a network from scratch {new['from scratch']:.1f} %. "
    f"Of the upright digits the adapters still read {min(old[n] for n in adapters):.0f} to {max(old[n] for n in adapters):.0f} % ({old['as it was']:.0f} % before).",
    new[best] > new["as it was"] + fast(5, full=30),
    fast(True, full=new[best] > new["last layer"]),
    max(old[n] for n in adapters) < old["as it was"],
)

# %% [markdown]
# ## What the change looks like
#
# The singular values of what training *all* weights added to the second layer, and of the weight itself, each divided by its largest. LoRA bets that those of the change fall fast.

# %%
picture(lesson.draw_change, figsize=(7, 3))

# %%
held = lesson.held((1, 4, 16))
weight = lesson.held((1, 4, 16), of="weight")
say(
    f"Of the squares of the change rank 1 holds {held[1]:.0%}, rank 4 {held[4]:.0%} and rank 16 {held[16]:.0%}, though nothing asked for a low rank; "
    f"of the weight itself rank 16 holds {weight[16]:.0%}.",
    held[4] > 0.4,
    held[16] > weight[16],
)

# %% [markdown]
# ## Recorded results
#
# `tensorlab run Hu2021` adapts a small character model of English text to code; each way at the best of three rates, the line is the model as it was. On the right
# is what the paper prints for a language model, RoBERTa-base, on the tasks of GLUE. Only the order of the ways can be compared.

# %%
ours, theirs = measured("Hu2021"), printed("Hu2021")
picture(lambda figure: lesson.draw_recorded(figure, ours, theirs), figsize=(9.5, 3.2))

# %%
least = lesson.least_bits(ours)
average = {row["way"]: row["average"] for row in theirs.rows}
say(
    f"Here all weights are the best, {least['all weights', 0][1]:.2f} bits per character of code; LoRA of rank 16 comes to {least['lora', 16][1]:.2f} with "
    f"{least['all weights', 0][0] / least['lora', 16][0]:.0f} times fewer numbers, and biases alone to {least['biases', 0][1]:.2f}. In print LoRA is ahead of all weights, {average['LoRA on GLUE']} "
    f"to {average['fine-tuning']}, for another model and other tasks.",
    least["all weights", 0][1] == min(bits for _, bits in least.values()),
    least["lora", 16][1] < least["lora", 4][1] < least["lora", 1][1] < least["biases", 0][1],
    average["LoRA on GLUE"] > average["fine-tuning"],
)

# %% [markdown]
# ## Where it loses
#
# *Against a small network trained from scratch.* A turned digit has little to do with the digits that the network knows, so the change that is wanted is large.
# *At a wrong rate*: the recorded run has each way at three learning rates.

# %%
rates = {row["rate"]: row["code test"] for row in ours.where(way="lora", rank=16, seed=0)}
trained = [bits for (way, _), (_, bits) in least.items() if way != "none"]
between = max(trained) - min(trained)
say(
    "LoRA of rank 16 has "
    + ", ".join(f"{bits:.2f} bits at the rate {rate:g}" for rate, bits in rates.items())
    + f"; the model as it was has {least['none', 0][1]:.2f}. At their best rates the ways, from all weights to biases, are within {between:.2f} "
    f"bits of each other, which is less than the three rates differ. And of the turned digits above the network from scratch reads {new['from scratch']:.1f} %, the best "
    f"adapter {new[best]:.1f} %.",
    fast(True, full=new["from scratch"] > new[best]),
    max(rates.values()) > least["none", 0][1],
    max(rates.values()) - min(rates.values()) > between,
)

# %% [markdown]
# ## Exercises
#
# Exercises 2 to 5 build LoRA, its gradients and its merge, and then DoRA. A blank says nothing; a wrong answer gets its own hint.
#
# ### 1. Predict: how many? (★, 3 minutes)
#
# LoRA of rank 8 on a layer with 768 inputs and 3072 outputs: how many numbers are trained?

# %%
lora_numbers = ...
lesson.lora_numbers(lora_numbers)

# %% [markdown] tags=["hints"]
# A is 8 by 768.
#
# B is 3072 by 8.

# %% tags=["solution"]
lora_numbers = 8 * 768 + 3072 * 8

# %% [markdown]
# ### 2. Forward (★★, 5 minutes)
#
# Write `lora_forward(x, w, a, b, alpha)`: x (n, in), w (out, in), A (r, in), B (out, r), and the scale alpha / r.


# %%
def lora_forward(x, w, a, b, alpha): ...


lesson.lora_forward(lora_forward)

# %% [markdown] tags=["hints"]
# The rank is `len(a)`.
#
# Two thin products after each other, `(x @ a.T) @ b.T`, and never B A.


# %% tags=["solution"]
def lora_forward(x, w, a, b, alpha):
    return x @ w.T + alpha / len(a) * (x @ a.T) @ b.T


# %% [markdown]
# ### 3. Backward (★★★, 15 minutes)
#
# Write `lora_gradients(x, a, b, alpha, dy)`: the gradients of A and of B, in this order, for the gradient `dy` (n, out) of the outputs. No autograd.


# %%
def lora_gradients(x, a, b, alpha, dy): ...


lesson.lora_gradients(lora_gradients)

# %% [markdown] tags=["hints"]
# The gradient of the dense weight would be $G = dy^T x$, (out, in).
#
# $\partial A = s B^T G$ and $\partial B = s G A^T$; cheaper, without G: `(dy @ b).T @ x` and `dy.T @ (x @ a.T)`.


# %% tags=["solution"]
def lora_gradients(x, a, b, alpha, dy):
    s = alpha / len(a)
    return s * (dy @ b).T @ x, s * dy.T @ (x @ a.T)


# %% [markdown]
# ### 4. Merge (★, 5 minutes)
#
# Write `lora_merge(w, a, b, alpha)`: the one dense weight that does what the layer and its adapter do.


# %%
def lora_merge(w, a, b, alpha): ...


lesson.lora_merge(lora_merge)

# %% [markdown] tags=["hints"]
# Read off the forward what multiplies x.
#
# B A has the shape of w.


# %% tags=["solution"]
def lora_merge(w, a, b, alpha):
    return w + alpha / len(a) * b @ a


# %% [markdown]
# ### 5. DoRA (★★, 10 minutes)
#
# Write `dora_weight(w, a, b, alpha, m)`: the merged weight of DoRA, whose rows have the directions of those of LoRA's and the lengths m (out,).


# %%
def dora_weight(w, a, b, alpha, m): ...


lesson.dora_weight(dora_weight)

# %% [markdown] tags=["hints"]
# Begin with your `lora_merge`.
#
# `v.norm(dim=1, keepdim=True)` has the length of each row.


# %% tags=["solution"]
def dora_weight(w, a, b, alpha, m):
    v = lora_merge(w, a, b, alpha)
    return m[:, None] * v / v.norm(dim=1, keepdim=True)


# %% [markdown]
# ### 6. Predict: the rank of a change (★★, 10 minutes)
#
# Take what training all weights adds to `layers.1`, `lesson.change(lesson.fine_tuned())`. What is the smallest rank whose best approximation holds 90 % of its squared
# Frobenius norm?

# %%
rank_of_change = ...
lesson.rank_of_change(rank_of_change)

# %% [markdown] tags=["hints"]
# Square the singular values, `torch.linalg.svdvals`.
#
# Sum them up from the first, `cumsum(0)`, and divide by the whole sum.

# %% tags=["solution"]
squares = torch.linalg.svdvals(lesson.change(lesson.fine_tuned())).square()
rank_of_change = int((squares.cumsum(0) / squares.sum() < 0.9).sum()) + 1

# %% [markdown]
# ### 7. Explore (★, 5 minutes)
#
# In the explorer at the top, with LoRA, play to the end for the ranks 1, 2, 3, ...: at which does the network read more than 80 % of the turned digits for the first time?

# %%
enough_rank = ...
lesson.enough_rank(enough_rank)

# %% [markdown] tags=["hints"]
# The sentence below the picture gives the share.
#
# More than 80 of a hundred: begin with rank 1 and go up one at a time.

# %% tags=["solution"]
enough_rank = next(rank for rank in range(1, 33) if lesson.played("lora", rank)["new"] > 0.8)
