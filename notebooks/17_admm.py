# %% [markdown] tags=["lesson"]
# name = "ADMM and Riemannian steps"
# minutes = 70
# needs = ["01_lowrank", "07_tt_manifold", "10_ttmatrix"]
# aims = [
#     "build ADMM for a constraint from four small functions",
#     "read primal and dual residuals, and choose ρ",
#     "say when factors, tuning or Riemannian steps are the better choice",
# ]
# take = [
#     "ADMM keeps the weight dense and draws it toward a twin in the set with a spring; the set is seen by one projection a round only.",
#     "The sets are not convex: too small a ρ never comes to rest, a large one is slow, so ρ grows from round to round.",
#     "ADMM compresses what is delivered, not what is trained: compare it with tuning after a plain projection, and with factors from the start.",
# ]

# %% [markdown]
# # How do you train a network whose weights must stay in a set?
#
# The set: matrices of a given [rank](00b_vocabulary.ipynb#Rank), or TT-matrices of given ranks. Press *play*: a trained network is drawn toward it. On the left is the share that a
# projection would take from each weight (primal, solid) and how far the projection still moves (dual, dotted); in the middle the accuracy with the weights as they are (dense) and after a projection;
# on the right the singular values of one weight, at first (plain) and now.

# %%
from tensorlab.course.lessons import admm as lesson

lesson.ADMMPlayer()

# %% [markdown]
# ## The mathematics
#
# $$ \min_W \ell(W) \quad\text{such that}\quad W \in \mathcal S . $$
#
# **Factors.** Write $W = UV^T$, or as a train, and let autograd differentiate the factors. A gradient step of length $h$ moves $W$ by
# $-h\,(G VV^T + UU^T G)$: it depends on the scale of the factors, which the loss does not see.
#
# **ADMM**, the alternating direction method of multipliers [Boyd2011] [Yin2021]. Keep $W$ dense, give it a twin $Z \in \mathcal S$, and let a spring of strength $\rho$ draw them together:
#
# $$ W \leftarrow \text{steps on } \ell(W) + \tfrac\rho2 \|W - Z + U\|^2,\qquad Z \leftarrow \Pi_{\mathcal S}(W + U),\qquad U \leftarrow U + W - Z . $$
#
# $\Pi_{\mathcal S}$ projects on the set: an SVD, or a TT-SVD. $U$ adds up what is left between $W$ and $Z$, so that the spring pulls harder where it has not come to rest. *Primal residual*: $\|W - Z\|/\|W\|$. *Dual residual*: $\rho\|Z - Z_{\rm old}\|/\|W\|$. The whole of $W$ and
# its gradient are held while it trains; what is small is the result.
#
# **Riemannian steps** [Bonnabel2013] [Novikov2022]. $\mathcal S$ is (nearly) a manifold: project the gradient onto its tangent space, take a step,
# and round back, $W \leftarrow \text{round}(W - h\,m)$, with the momentum $m$ carried along by projection. A step does not depend on the factors.
#
# ## A loss whose best matrix is known
#
# $\ell(W) = \tfrac12 \|(W - A)\,C^{1/2}\|^2$ with $C$ like the covariance of a layer's inputs, some directions a hundred times stronger than others. The truncated SVD
# of $A$, the direct projection, does not know $C$. In the letters of the formula ADMM takes ten lines. (The curve of ρ = 0.1 leaves the frame at first.)

# %%
import torch

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.claims import say
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture
from tensorlab.papers.table import measured, printed


def plain_admm(W, gradient, project, rho, rounds, steps, h):
    """Z after each round."""
    Z, U = project(W), torch.zeros_like(W)
    for _ in range(rounds):
        for _ in range(steps):
            W = W - h * (gradient(W) + rho * (W - Z + U))
        Z = project(W + U)
        U = U + W - Z
        yield Z


A, C, best = lesson.weighted()
gradient, low = lambda W: (W - A) @ C, lambda W: tl.LowRank.from_dense(W, 2)
project = lambda W: low(W).to_dense()
rounds = fast(20, full=100)
paths = {rho: list(plain_admm(A, gradient, project, rho, rounds, 5, 0.08)) for rho in (0.1, 1, 10)}

layer = torch.nn.Linear(10, 12, bias=False, dtype=torch.float64)
layer.weight.data = A.clone()
sgd = torch.optim.SGD(layer.parameters(), 0.08)
admm = tl.ADMM(torch.nn.Sequential(layer), sgd, {"0": low}, rho=1.0, every=5)
for _ in range(5 * rounds):
    admm.step(lambda: ((layer.weight - A) @ C * (layer.weight - A)).sum() / 2)
gap = float((admm.z["0"] - paths[1][-1]).norm() / admm.z["0"].norm())


def losses(figure):
    ax = figure.subplots()
    for k, (rho, path) in enumerate(paths.items()):
        shown = [lesson.weighted_loss(Z) for Z in path]
        ax.plot(range(1, rounds + 1), shown, label=f"ρ = {rho:g}", **plots.style(k, rounds))
    for name, Z, ls in (("direct projection", project(A), "--"), ("best of rank 2", best, ":")):
        ax.axhline(lesson.weighted_loss(Z), color="0.4", lw=1, ls=ls, label=name)
    ax.set(xlabel="round", ylabel="loss of Z", ylim=(0, 18))
    ax.legend(ncols=2)
    return f"Loss of Z after {rounds} rounds: " + ", ".join(
        f"{lesson.weighted_loss(path[-1]):.2f} with rho {rho:g}" for rho, path in paths.items()
    )


picture(losses, figsize=(7, 3))

# %%
ends = {rho: lesson.weighted_loss(path[-1]) for rho, path in paths.items()}
direct, least = lesson.weighted_loss(project(A)), lesson.weighted_loss(best)
moved = lambda rho: float((paths[rho][-1] - paths[rho][-2]).norm())
say(
    f"The direct projection has {direct / least:.2f} times the least loss that a matrix of rank 2 can have. With ρ = 1 ADMM comes to {ends[1] / least:.2f} times after {rounds} rounds, "
    f"with ρ = 10 to {ends[10] / least:.2f} times, for it is slow, and with ρ = 0.1 it is at {ends[0.1] / least:.2f} times, worse than the direct projection: in the last round $Z$ still moves {moved(0.1) / moved(1):.0f} times as far as with ρ = 1. "
    f"The ten lines and `tl.ADMM` agree to {gap:.0e}.",
    direct > 1.3 * least,
    ends[1] < fast(1.2, full=1.02) * least,
    ends[1] < ends[10] < direct < ends[0.1],
    moved(0.1) > 10 * moved(1),
    gap < 1e-12,
)

# %% [markdown]
# ## Five ways at equal rank and equal epochs
#
# Two hidden layers of 64 by 64 in the set; the output layer is dense. The trivial rivals of ADMM are *direct*, train as if there were no constraint and project at the end, and
# *direct, tuned*: project at half time and train the factors from there. *factors* (Adam on the factors from the start) and *Riemannian* never hold a dense weight. ADMM takes over at half time too, with one epoch in each round. Whiskers are the range of the seeds.

# %%
from tqdm.auto import tqdm

settings = fast(
    [("TT", 2), ("TT", 4)], full=[("low rank", 4), ("low rank", 8), ("TT", 2), ("TT", 4)]
)
seeds, epochs = fast((0,), full=(0, 1)), fast(4, full=14)
found = {}
for kind, rank, way in tqdm([(*setting, way) for setting in settings for way in lesson.WAYS]):
    runs = [lesson.compare(way, kind, rank, epochs=epochs, seed=seed) for seed in seeds]
    found[kind, rank, way] = [100 * right for _, right in runs]
dense = [100 * lesson.held_out(lesson.plain(seed, epochs))[1] for seed in seeds]
picture(lambda figure: lesson.draw_compared(figure, found, dense), figsize=(9.5, 3.4))

# %%
mean = {key: sum(right) / len(seeds) for key, right in found.items()}
over = lambda a, b: sum(mean[*s, a] > mean[*s, b] for s in settings)
best_way = {s: max(lesson.WAYS, key=lambda way: mean[*s, way]) for s in settings}
say(
    f"ADMM is ahead of the direct projection in {over('ADMM', 'direct')} of {len(settings)} settings, by up to {max(mean[*s, 'ADMM'] - mean[*s, 'direct'] for s in settings):.0f} points. "
    f"But a projection at half time with tuning is ahead of ADMM in {over('direct, tuned', 'ADMM')}, and the most accurate are "
    + ", ".join(f"*{way}* for {kind} of rank {rank}" for (kind, rank), way in best_way.items())
    + f". As trains of rank 2, {lesson.stored('TT', 2)} numbers, factors from the start read {mean['TT', 2, 'factors']:.0f} %, ADMM {mean['TT', 2, 'ADMM']:.0f} %; dense it is {sum(dense) / len(dense):.1f} % with 8,192 numbers.",
    fast(True, full=over("ADMM", "direct") >= len(settings) - 1),
    fast(True, full=over("direct, tuned", "ADMM") >= len(settings) - 1),
    fast(True, full=mean["TT", 2, "factors"] > mean["TT", 2, "ADMM"] + 10),
)

# %% [markdown]
# ## Residuals
#
# Not every round brings the weights nearer: at first ρ is small, and the loss decides where $W$ goes. The set holds trains of rank 3, and ρ is multiplied by 1.5 in each round.

# %%
count = fast(4, full=15)
*_, state = lesson.rounds("TT", 3, 1e-2, 1.5, count=count)
traces = [
    {name: [getattr(r, what)[name] for r in state["history"]] for name in lesson.LAYERS}
    for what in ("primal", "dual")
]
picture(lambda figure: plots.residuals(figure.subplots(), *traces), figsize=(7, 3))

# %%
worst = [max(r.primal.values()) for r in state["history"]]
at, right = f"{100 * state['dense'][-1]:.1f} %", f"{100 * state['projected'][-1]:.1f} %"
say(
    f"The larger primal residual is {worst[0]:.2f} after the first round, {max(worst):.2f} at its most and {worst[-1]:.2f} after {count}: a projection would still take that share of a weight. "
    f"The network reads {at}, and {right} after the projection.",
    max(worst) > worst[0],
    fast(True, full=worst[-1] < 0.3 * worst[0]),
    state["projected"][-1] <= state["dense"][-1] + 0.02,
)

# %% [markdown]
# ## Recorded results
#
# `tensorlab run Yin2021 --preset full`: LeNet on MNIST, its second convolution and its first dense layer in a set; three seeds. Points above the dense network, right after the projection (hollow) and after
# two more epochs in the set (full); below each set, by how many times fewer numbers it has. The diamond is what the paper prints, for another network, on CIFAR-10, and at a much milder compression.

# %%
ours, theirs = measured("Yin2021"), printed("Yin2021")
picture(lambda figure: lesson.draw_recorded(figure, ours, theirs), figsize=(9.5, 3.4))

# %%
falls = lesson.falls(ours)
sets = list(dict.fromkeys((s, r) for s, r, _ in falls))
gain = lambda stage: [
    a - d for s in sets for a, d in zip(falls[*s, "ADMM"][stage], falls[*s, "direct"][stage])
]
first, after = gain("projected"), gain("tuned")
printed_row = theirs.rows[0]
say(
    f"Right after the projection ADMM is ahead by {min(first):.0f} to {max(first):.0f} points, in all {len(first)} pairs; two epochs of tuning leave {min(after):.0f} to {max(after):.0f}. All stay below the dense network, by "
    f"{-max(max(of['tuned']) for of in falls.values()):.1f} points and more, where {printed_row['points']} above it are printed, at {printed_row['compression']} times fewer numbers. The primal residual was still {min(r['primal'] for r in ours.where(way='ADMM')):.2f} "
    "or more, so ADMM had not landed in its set, and tuning was needed.",
    min(first) > 0,
    min(after) > 0,
    max(after) < max(first),
    max(max(of["tuned"]) for of in falls.values()) < 0,
    printed_row["points"] > 0,
)

# %% [markdown]
# ## Where it loses
#
# ADMM stores and differentiates dense weights all the time, and its ρ has to be chosen. *Against factors from the start*, where few numbers are wanted: they need no dense weight and are more accurate
# (the figure of five ways). *Against tuning*, in the same figure: the epochs of ADMM are better spent on the factors of a plain projection, unless the set is so large that a projection costs little.
# *Riemannian steps* pay for a tangent projection and a rounding in each step, which does not always buy accuracy:

# %%
gaps = {s: mean[*s, "Riemannian"] - mean[*s, "factors"] for s in settings}
trains, matrices = ([g for (k, _), g in gaps.items() if k == kind] for kind in ("TT", "low rank"))
say(
    f"Riemannian steps against Adam on the factors: {', '.join(f'{g:+.1f}' for g in trains)} points for trains"
    + f" and {', '.join(f'{g:+.1f}' for g in matrices)} for low rank" * bool(matrices)
    + ".",
    fast(True, full=sum(matrices) > sum(trains)),
)

# %% [markdown]
# ## Exercises
#
# Exercises 2 to 5 build ADMM, each from the ones before. A blank says nothing; a wrong answer gets its own hint.
#
# ### 1. Predict: a residual by hand (★, 5 minutes)
#
# $\mathcal S$: the matrices of rank 1. $W = \mathrm{diag}(3, 1)$, $U = 0$, and $Z$ is the projection of $W + U$. What is $\|W - Z\| / \|W\|$?

# %%
primal_by_hand = ...
lesson.primal_by_hand(primal_by_hand)

# %% [markdown] tags=["hints"]
# $Z = \mathrm{diag}(3, 0)$.
#
# The norm is Frobenius's: the root of the sum of all squares.

# %% tags=["solution"]
primal_by_hand = 1 / 10**0.5

# %% [markdown]
# ### 2. Project (★, 5 minutes)
#
# Write `nearest(w, r)`: the matrix of rank r nearest to w (m, n), from `torch.linalg.svd`.


# %%
def nearest(w, r): ...


lesson.nearest(nearest)

# %% [markdown] tags=["hints"]
# `u, s, vh = torch.linalg.svd(w, full_matrices=False)`.
#
# Keep the first r columns of u, entries of s and rows of vh, and multiply.


# %% tags=["solution"]
def nearest(w, r):
    u, s, vh = torch.linalg.svd(w, full_matrices=False)
    return (u[:, :r] * s[:r]) @ vh[:r]


# %% [markdown]
# ### 3. A step on W (★★, 5 minutes)
#
# Write `w_step(w, gradient, z, u, rho, h)`: one gradient step of length h on $\ell(W) + \tfrac\rho2 \|W - Z + U\|^2$. `gradient(w)` is that of $\ell$.


# %%
def w_step(w, gradient, z, u, rho, h): ...


lesson.w_step(w_step)

# %% [markdown] tags=["hints"]
# What is the gradient of $\tfrac\rho2 \|X\|^2$?
#
# Here $X = W - Z + U$.


# %% tags=["solution"]
def w_step(w, gradient, z, u, rho, h):
    return w - h * (gradient(w) + rho * (w - z + u))


# %% [markdown]
# ### 4. The end of a round (★★, 5 minutes)
#
# Write `admm_round(w, u, r)`: what follows the steps on W. Return the pair Z, U: the matrix of rank r nearest to w + u, and the renewed U.


# %%
def admm_round(w, u, r): ...


lesson.admm_round(admm_round)

# %% [markdown] tags=["hints"]
# Use your `nearest`.
#
# $U \leftarrow U + W - Z$ with the new Z.


# %% tags=["solution"]
def admm_round(w, u, r):
    z = nearest(w + u, r)
    return z, u + w - z


# %% [markdown]
# ### 5. ADMM (★★★, 15 minutes)
#
# Write `admm(w, gradient, r, rhos, steps, h)`: Z after one round for each ρ of the list `rhos`, with `steps` steps of length h in each. It begins with $Z$ nearest to w and $U = 0$.
# $\rho U$ is a multiplier that must not jump: between two rounds multiply U by the old ρ over the new one.


# %%
def admm(w, gradient, r, rhos, steps, h): ...


lesson.admm(admm)

# %% [markdown] tags=["hints"]
# Two loops: over `rhos`, and in it `steps` times `w = w_step(...)`, then `admm_round`.
#
# `u = u * before / rho` at the beginning of a round, where `before` is the ρ of the round before (in the first, its own).


# %% tags=["solution"]
def admm(w, gradient, r, rhos, steps, h):
    z, u, before = nearest(w, r), torch.zeros_like(w), rhos[0]
    for rho in rhos:
        u, before = u * before / rho, rho
        for _ in range(steps):
            w = w_step(w, gradient, z, u, rho, h)
        z, u = admm_round(w, u, r)
    return z


# %% [markdown]
# ### 6. Predict: the smallest ρ (★★, 10 minutes)
#
# The loss is $\tfrac12\|W - A\|^2$ with $A = \mathrm{diag}(2, 1.5, 1)$, the rank 1, and ρ the same in all rounds. What is the smallest ρ of 0.1, 0.2, 0.3, ... with which ADMM comes to rest? Find it on paper: at rest
# the gradient is balanced by the spring, $A - W = \rho U$. Then check with `lesson.settles(rho)`.

# %%
smallest_rho = ...
lesson.smallest_rho(smallest_rho)

# %% [markdown] tags=["hints"]
# At rest $W = Z = \mathrm{diag}(2, 0, 0)$, so $U = \mathrm{diag}(0, 1.5, 1) / \rho$.
#
# $Z$ is the projection of $W + U$: its largest entry must be the 2.

# %% tags=["solution"]
smallest_rho = next(k / 10 for k in range(1, 20) if lesson.settles(k / 10))

# %% [markdown]
# ### 7. Explore (★, 5 minutes)
#
# In the player at the top, with *low rank* and ρ and growth as they are at first, let it play to the end. What is the smallest rank whose projection then reads more than 70 % of the test?

# %%
enough_rank = ...
lesson.enough_rank(enough_rank)

# %% [markdown] tags=["hints"]
# The first sentence below the picture gives the accuracy after a projection: "projected now".
#
# Go down from rank 4, one at a time.

# %% tags=["solution"]
enough_rank = next(r for r in range(1, 9) if lesson.played("low rank", r) > 0.7)
