# %% [markdown] tags=["lesson"]
# name = "sampling a train"
# minutes = 70
# needs = ["00b_vocabulary", "04_tt"]
# aims = [
#     "draw exact samples of a train with four small functions",
#     "give the probability of a state among more than can be counted",
#     "say when a train is no distribution, and what its square costs",
# ]
# take = [
#     "A sum, a marginal or a conditional of a train is a product of small matrices, and a sample is d of them.",
#     "Samples of a train are exact and independent; a Markov chain has to forget where it began.",
#     "Signs spoil a truncated train; the square of a train has none, at any rank.",
# ]

# %% [markdown]
# # How do you draw from a distribution over $10^{300}$ states?
#
# One index at a time. A train without negative entries is a distribution once it is divided by its sum, and that sum, every
# marginal and every conditional are products of small matrices. Below, exact probabilities are beside the frequencies in
# samples; make one bit known, and see how far the others feel it.

# %%
from tensorlab.course.lessons import tt_sampling as lesson

lesson.DistributionExplorer()

# %% [markdown]
# ## The mathematics
#
# Let $x[i_0, \dots, i_{d-1}] = G_0[i_0] \cdots G_{d-1}[i_{d-1}] \ge 0$ be a [train](04_tt.ipynb) and $p = x / \sum x$. The sum over all
# entries goes through the product: sum each core over its index, multiply the matrices. From the right,
#
# $$ z_d = 1, \qquad z_k = \Big(\sum_i G_k[i]\Big)\, z_{k+1}, \qquad \sum x = z_0 . $$
#
# What is left of core $k$ once the first indices are drawn is a row $v = G_0[i_0] \cdots G_{k-1}[i_{k-1}]$, and the next index has
#
# $$ p(i_k \mid i_0, \dots, i_{k-1}) = \frac{v\, G_k[i_k]\, z_{k+1}}{\sum_j v\, G_k[j]\, z_{k+1}} . $$
#
# Draw it, multiply $v$ by $G_k[i_k]$, go on: an exact and independent sample after $d$ steps [Dolgov2020]. Only ratios matter, so $v$ and
# $z$ are brought near 1 at every step.
#
# A train *with* signs is a distribution too, by its squares: $p = |x|^2 / \langle x, x \rangle$, a **Born machine** [Han2018]. Make the
# cores right-orthonormal, and all that is right of core $k$ has squares that sum to 1: nothing need be multiplied there
# [FerrisVidal2012].
#
# ## A thousand spins
#
# The Ising chain $p(s) \propto \exp(\beta \sum_k s_k s_{k+1})$ is a train of [rank](00b_vocabulary.ipynb#Rank) 2. On paper its sum is $2\,(2 \cosh \beta)^{d-1}$, and spins at
# distance $k$ have the correlation $\tanh^k \beta$. The formulas in their letters, beside the library:

# %%
import math

import torch
from tqdm.auto import tqdm

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.claims import say
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture


def plain_sample(G, n, generator):
    """n samples (n, d) of a train of cores G_k (r, n_k, q) without negative entries."""
    z = [torch.ones(1).double()]
    for core in reversed(G):
        ahead = core.sum(1) @ z[0]
        z.insert(0, ahead / ahead.max())
    v, index = torch.ones(n, 1).double(), []
    for k, core in enumerate(G):
        p = v @ (core @ z[k + 1])
        i = torch.multinomial(p, 1, generator=generator)[:, 0]
        v = torch.einsum("nr,rnq->nq", v, core[:, i])
        v = v / v.max(1, keepdim=True).values
        index.append(i)
    return torch.stack(index, 1)


d, beta, n = 1000, 0.8, fast(300, full=5000)
x, _ = lesson.example_distribution("Ising chain", d, beta)
ways = {
    "the lines above": plain_sample,
    "tt_sample": lambda _, n, g: tl.tt_sample(x, n, generator=g),
}
spins = {
    name: 2.0 * draw(x.cores, n, torch.Generator().manual_seed(0)) - 1
    for name, draw in ways.items()
}
distances = [1, 2, 3, 5, 8, 12]
correlations = {
    name: [float((s[:, k:] * s[:, :-k]).mean()) for k in distances] for name, s in spins.items()
}
wanted = [math.tanh(beta) ** k for k in distances]


def fading(figure):
    ax = figure.subplots()
    ax.plot(distances, wanted, color="0.4", lw=1, label="on paper")
    for k, (name, seen) in enumerate(correlations.items()):
        ax.plot(distances, seen, label=name, **plots.style(k) | dict(ls=""))
    ax.axhline(0, color="0.4", lw=1, ls="--", label="independent spins")
    ax.set(xlabel="distance", ylabel="correlation")
    ax.legend()
    return "The correlation of two spins against their distance, in samples and on paper."


picture(fading, figsize=(7, 2.8))

# %%
log, paper = float(tl.tt_sum(x).log), math.log(2) + (d - 1) * math.log(2 * math.cosh(beta))
worst = max(abs(a - b) for seen in correlations.values() for a, b in zip(seen, wanted))
say(
    f"{x.numel:,} numbers hold $10^{{{d * math.log10(2):.0f}}}$ states. The logarithm of their sum is {log:.6f}, on paper {paper:.6f}. In {n:,} samples the "
    f"correlations are off by at most {worst:.4f}.",
    x.numel < 10_000,
    d * math.log10(2) > 300,
    abs(log - paper) < 1e-6,
    worst < fast(0.02, full=0.005),
)

# %% [markdown]
# ## Why a size is carried along
#
# The same sum in float32 as it stands: the product leaves the range of numbers long before a thousand [modes](00b_vocabulary.ipynb#Mode). `tt_sum` carries a power of
# two, so that it has the logarithm all the same.

# %%
row, modes = torch.ones(1), 0
for core in x.to(torch.float32).cores:
    row, modes = row @ core.sum(1), modes + 1
    if not torch.isfinite(row).all():
        break
log32 = float(tl.tt_sum(x.to(torch.float32)).log)
say(
    f"The plain sum is {float(row.max())} after {modes} modes; `tt_sum` has the logarithm {log32:.3f} in float32 too.",
    modes < 200,
    abs(log32 / log - 1) < 1e-5,
)

# %% [markdown]
# ## Beside a Markov chain
#
# The rival is the heat bath: all even spins are drawn given the odd ones, then all odd ones given the even. It needs no train, but it
# starts somewhere (here: all up) and forgets that slowly when $\beta$ is large. Two averages tell how far it is: the share of neighbors that
# differ, and the *magnetization*, the mean of all spins.

# %%
beta, length, chains = 2.0, 200, fast(100, full=1000)
g, report = (
    torch.Generator().manual_seed(0),
    fast([1, 3, 10, 30, 100], full=[1, 3, 10, 30, 100, 300, 1000]),
)
walls = lambda s: float((s[:, 1:] != s[:, :-1]).double().mean())
path = []
for sweep, s in tqdm(
    lesson.heat_bath(beta, length, chains, report[-1], report, g), total=len(report)
):
    path.append((sweep, walls(s), float(s.mean())))
chain, _ = lesson.example_distribution("Ising chain", length, beta)
exact = 2.0 * tl.tt_sample(chain, chains, generator=g) - 1
true = 1 / (1 + math.exp(2 * beta))


def forgetting(figure):
    left, right = figure.subplots(1, 2)
    sweeps, differ, up = zip(*path)
    for ax, curve, of_train, level, name in (
        (left, differ, walls(exact), true, "neighbors that differ"),
        (right, up, float(exact.mean()), 0, "magnetization"),
    ):
        ax.semilogx(sweeps, curve, label="heat bath", **plots.style(1))
        ax.plot(1, of_train, "*", color=plots.COLORS[0], ms=11, label="train, exact")
        ax.axhline(level, color="0.4", lw=1, ls="--", label="on paper")
        ax.set(xlabel="sweep", ylabel=name)
    left.legend()
    return f"Two averages over {chains} chains of the heat bath after each sweep, and over as many exact samples."


picture(forgetting, figsize=(9, 3))

# %%
say(
    f"After {path[-1][0]} sweeps over all spins the heat bath still has a magnetization of {path[-1][2]:.2f}; {chains} exact samples have {float(exact.mean()):.3f}. Of "
    f"neighbors {path[2][1]:.2%} differ after {path[2][0]} sweeps, {walls(exact):.2%} in exact samples, {true:.2%} on paper.",
    path[-1][2] > 0.1,
    abs(float(exact.mean())) < fast(0.2, full=0.05),
    path[2][1] < true / 2,
    abs(walls(exact) / true - 1) < fast(0.2, full=0.05),
)

# %% [markdown]
# ## A Born machine that learns
#
# The log-probability is differentiable, so that a train can be fitted to data. The data are all 4 by 4 pictures of bars or of
# stripes, 30 of 65,536, as in [Han2018]. The mean of $-\log p$ cannot fall below $\log 30$. The rivals: all pictures alike, and the Markov
# chain of pixels that fits best.

# %%
data, g = lesson.bars_and_stripes(), torch.Generator().manual_seed(0)
start = tl.TT.randn((2,) * 16, 16, generator=g, dtype=torch.float64)
cores = [core.requires_grad_() for core in start.cores]
optimizer, losses = torch.optim.Adam(cores, lr=0.1), []
for _ in tqdm(range(fast(60, full=400))):
    optimizer.zero_grad()
    loss = -tl.tt_log_prob(tl.TT(cores), data, squared=True).mean()
    loss.backward()
    optimizer.step()
    losses.append(float(loss.detach()))
floor, alike, markov = math.log(len(data)), 16 * math.log(2), lesson.markov_loss(data)


def learning(figure):
    ax = figure.subplots()
    ax.plot(losses, label="Born machine", **plots.style(0, len(losses)))
    for level, name, line in (
        (alike, "all pictures alike", ":"),
        (markov, "Markov chain of pixels", "-."),
        (floor, "floor", "--"),
    ):
        ax.axhline(level, color="0.4", lw=1, ls=line, label=name)
    ax.set(xlabel="step", ylabel="mean of -log p")
    ax.legend()
    return "The mean of -log p of the data after each step."


picture(learning, figsize=(7, 3))

# %%
drawn = tl.tt_sample(tl.TT(cores), 1000, squared=True, generator=torch.Generator().manual_seed(0))
known, met = {tuple(row) for row in data.tolist()}, [tuple(row) for row in drawn.tolist()]
share = sum(row in known for row in met) / len(met)
say(
    f"The mean of $-\\log p$ ends at {losses[-1]:.2f}, below the {markov:.2f} of the Markov chain and the {alike:.2f} of all alike; the floor is {floor:.2f}. Of 1,000 "
    f"samples {share:.0%} are bars or stripes, and {len(known & {*met})} of the {len(known)} are met.",
    floor < losses[-1] < markov < alike,
    share > fast(0.1, full=0.7),
    fast(True, full=known <= {*met}),
)


# %%
def gallery(figure):
    for ax, row in zip(figure.subplots(2, 10).flat, drawn):
        plots.image(ax, row.reshape(4, 4).double())
    return "Twenty samples of the Born machine, pictures of 4 by 4 points."


picture(gallery, figsize=(7, 1.6))

# %% [markdown]
# ## Where it loses
#
# *Signs.* A truncated train of a positive tensor may have negative entries, and `tt_sample` then says so rather than draw from
# something else. The train of the *root*, squared, has none at any rank: of the two it is the one to draw from. The baseline takes the
# variables as independent.

# %%
p, ranks = lesson.two_hills(fast(8, full=12)), (1, 2, 3, 4, 6, 8)
plain = [tl.tt_svd(p, rank).to_dense() for rank in ranks]
roots = [tl.tt_svd(p.sqrt(), rank).to_dense().square() for rank in ranks]
apart = lambda q: float((q / q.sum() - p).abs().sum()) / 2
single = [p.sum([j for j in range(4) if j != k]) for k in range(4)]
independent = apart(torch.einsum("a,b,c,d->abcd", *single))


def signs(figure):
    ax = figure.subplots()
    for k, (name, every) in enumerate(
        {"train": plain, "train of the root, squared": roots}.items()
    ):
        ax.semilogy(ranks, [apart(q) for q in every], label=name, **plots.style(k))
    ax.axhline(independent, color="0.4", lw=1, ls="--", label="independent variables")
    ax.set(xlabel="rank", ylabel="sum of |q - p|, halved")
    ax.legend()
    return "Half the sum of |q - p| against the rank."


picture(signs, figsize=(7, 2.8))

# %%
negative = {rank: int((q < 0).sum()) for rank, q in zip(ranks, plain)}
ratio = [apart(b) / apart(a) for a, b in zip(plain, roots)]
say(
    f"At rank 4 the plain train is off by {apart(plain[3]):.1e}, with {negative[4]:,} of {p.numel():,} entries negative; the squared one by {apart(roots[3]):.1e}, with "
    f"none. Over these ranks the second is off {min(ratio):.1f} to {max(ratio):.1f} times as much as the first.",
    negative[4] > 100,
    all(float(q.min()) >= 0 for q in roots),
    0.1 < min(ratio),
    max(ratio) < 10,
)

# %% [markdown]
# *Order.* A train sees dependence only through its cuts. Five pairs of equal bits are five independent pairs, wherever their partners
# stand.

# %%
pair = torch.eye(2, dtype=torch.float64)
near = torch.einsum("ab,cd,ef,gh,ij->abcdefghij", *[pair] * 5)
far = near.permute(0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
orders = [tl.tt_svd(y, rtol=1e-12) for y in (near, far)]
say(
    f"With partners side by side the largest rank is {max(orders[0].ranks)} and {orders[0].numel} numbers are stored; with all partners on the other side it is "
    f"{max(orders[1].ranks)}, and the train stores {orders[1].numel:,}, more than the {near.numel():,} entries.",
    max(orders[0].ranks) == 2,
    max(orders[1].ranks) == 2**5,
    orders[1].numel > near.numel(),
)

# %% [markdown]
# ## Exercises
#
# The second to the fifth build a sampler, and the probability of what it draws; each uses those before. A blank says nothing; a wrong
# answer gets its own hint.
#
# ### 1. Predict (★, 5 minutes)
#
# A train has the entries x[a, b] = [[1, 2], [3, 4]]. With `squared=True`, how probable is b = 1?

# %%
born_marginal = ...
lesson.born_marginal(born_marginal)

# %% [markdown] tags=["hints"]
# The squares of all four entries are the weights.
#
# Add those with b = 1, and divide by the sum of all four.

# %% tags=["solution"]
born_marginal = (2**2 + 4**2) / (1**2 + 2**2 + 3**2 + 4**2)

# %% [markdown]
# ### 2. What comes after (★★, 10 minutes)
#
# Write `right_vectors(cores)`: the list $z_0, \dots, z_d$ for a train of cores (r_left, n, r_right) without negative entries. Divide each
# $z_k$ by the sum of its entries, so that nothing over- or underflows; $z_d$ is `torch.ones(1)`, in float64.


# %%
def right_vectors(cores): ...


lesson.right_vectors(right_vectors)

# %% [markdown] tags=["hints"]
# `core.sum(1)` is the matrix of a core summed over its index.
#
# Go through `reversed(cores)` and put each new vector in front: `z.insert(0, ...)`.


# %% tags=["solution"]
def right_vectors(cores):
    z = [torch.ones(1, dtype=torch.float64)]
    for core in reversed(cores):
        ahead = core.sum(1) @ z[0]
        z.insert(0, ahead / ahead.sum())
    return z


# %% [markdown]
# ### 3. A conditional (★, 5 minutes)
#
# Write `conditional(v, core, z)`: the probabilities (n,) of the next index, for the row v (r,) of what was drawn, the core (r, n, q), and
# the vector z (q,) of what comes after.


# %%
def conditional(v, core, z): ...


lesson.conditional(conditional)

# %% [markdown] tags=["hints"]
# `core @ z` has the shape (r, n).
#
# v times that is p up to a factor: divide by the sum.


# %% tags=["solution"]
def conditional(v, core, z):
    p = v @ (core @ z)
    return p / p.sum()


# %% [markdown]
# ### 4. A sample (★★, 15 minutes)
#
# Write `draw(cores, u)`: a list of d indices, one sample. u (d,) holds numbers drawn from [0, 1): index $i_k$ is the first one for which the
# probabilities up to it add to more than u[k]. It should work for a thousand modes.


# %%
def draw(cores, u): ...


lesson.draw(draw)

# %% [markdown] tags=["hints"]
# Before mode k: `p = conditional(v, cores[k], z[k + 1])`, and `int((p.cumsum(0) <= u[k]).sum())` is the index.
#
# Then `v = v @ core[:, i]`, divided by its sum, for a product of a thousand would underflow.


# %% tags=["solution"]
def draw(cores, u):
    z, v, index = right_vectors(cores), torch.ones(1, dtype=torch.float64), []
    for k, core in enumerate(cores):
        p = conditional(v, core, z[k + 1])
        i = int((p.cumsum(0) <= u[k]).sum())
        v = v @ core[:, i]
        v = v / v.sum()
        index.append(i)
    return index


# %% [markdown]
# ### 5. How probable was that? (★★, 10 minutes)
#
# Write `log_probability(cores, index)`: the logarithm of the probability of one state, a list of d indices, also for a thousand modes.


# %%
def log_probability(cores, index): ...


lesson.log_probability(log_probability)

# %% [markdown] tags=["hints"]
# A probability is the product of its conditionals; so its logarithm is a sum.
#
# Walk as in `draw`, with the index that is given in place of one that is drawn.


# %% tags=["solution"]
def log_probability(cores, index):
    z, v, log = right_vectors(cores), torch.ones(1, dtype=torch.float64), 0.0
    for k, (core, i) in enumerate(zip(cores, index)):
        log = log + conditional(v, core, z[k + 1])[i].log()
        v = v @ core[:, i]
        v = v / v.sum()
    return log


# %% [markdown]
# ### 6. Explore (★★, 5 minutes)
#
# Set the explorer at the top to the Ising chain with 8 modes and a 1 known in mode 0. At which positive coupling is the last bit a 1 with
# probability 0.75? To one per cent.

# %%
far_order = ...
lesson.far_order(far_order)

# %% [markdown] tags=["hints"]
# Move the coupling and read the last bar; type finer numbers into the box.
#
# The probability is $(1 + \tanh^7 \text{coupling}) / 2$.

# %% tags=["solution"]
far_order = math.atanh(0.5 ** (1 / 7))
