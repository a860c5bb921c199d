# %% [markdown] tags=["lesson"]
# name = "low-rank training"
# minutes = 80
# needs = ["01_lowrank", "07_tt_manifold"]
# aims = [
#     "build one step of dynamical low-rank training from four small functions",
#     "say why nothing is divided by a singular value",
#     "predict which ranks a threshold lets through",
#     "say when plain factors are the better choice",
# ]
# take = [
#     "K = US and L = VSᵀ turn the bases without dividing by a singular value; only the small S takes the step.",
#     "Each step doubles the rank and an SVD of a small matrix cuts it back: theta is the relative error of that cut.",
#     "A new direction must survive the first cut: theta has to be small beside what one step adds.",
# ]

# %% [markdown]
# # Can a network be trained without ever having its full weights?
#
# Press *play*: it learns to read digits while each weight is only $U S V^\top$. On the left the [ranks](00b_vocabulary.ipynb#Rank); on the right, for each k, the share of the norm
# that is lost if the singular values from the k-th on are cut. Values above the line `theta` are kept.

# %%
from tensorlab.course.lessons import dlrt as lesson

lesson.RankExplorer()

# %% [markdown]
# ## The mathematics
#
# Gradient descent is Euler's method for $\dot W = F(W) = -\nabla \ell(W)$. To stay among the matrices of rank $r$, project $F$ onto the
# tangent plane at $W = U S V^\top$, with $U$ and $V$ orthonormal. For the factors [KochLubich2007] that is
#
# $$ \dot S = U^\top F V, \qquad \dot U = (I - U U^\top)\, F V S^{-1}, \qquad \dot V = (I - V V^\top)\, F^\top U S^{-\top}, $$
#
# and $S^{-1}$ is a disaster: low rank means small singular values. With $K = U S$ and $L = V S^\top$ nothing is inverted:
# $\dot K = F V$ and $\dot L = F^\top U$. One step of **dynamical low-rank training** [Schotthoefer2022] is
#
# 1. $F V$ and $F^\top U$, both from the same $W$: one pass through the network gives these thin products;
# 2. wider bases $\hat U = \mathrm{orth}[U \mid F V]$, $\hat V = \mathrm{orth}[V \mid F^\top U]$, and $\tilde S = (\hat U^\top U) S (\hat V^\top V)^\top$: the same $W$, exactly;
# 3. a gradient step on $\tilde S$ (a second pass), with it on biases and the dense head;
# 4. the SVD of the small $S$ after its step, cut at the smallest $r'$ with $\|\sigma_{r'+1:}\| \le \vartheta\, \|\sigma\|$; $\vartheta$ is `theta` in code.
#
# The step is named **KLS** after its three factors. After n of them, of length h, the distance to the flow $W(t)$ of the full matrix is bounded by
#
# $$ \|W_n - W(nh)\| \le c_1 \varepsilon + c_2 h + c_3\, \vartheta / h, \qquad c_i \text{ independent of the singular values}, $$
#
# where $\varepsilon$ bounds the part of $F(W)$ that leaves the tangent plane: it is 0 where the flow itself stays at rank $r$.
#
# ## One step, seen from above
#
# Symmetric 2 by 2 matrices $\sigma q q^\top$ of rank 1 form a cone. Seen from above, a matrix lies at the radius $\sigma$, and at twice the angle of $q$.
# Thin lines join matrices that are equally far from the target. Four steps begin at the star: Euler's method for the dense matrix, which leaves the cone; KLS as above, cut back to rank 1;
# KLS of fixed rank, whose new bases replace the old ones instead of widening them; and Euler's method for the first three equations, *U, S, V*.
# Move the start toward the tip: *U, S, V* divides by the radius, KLS does not.

# %%
lesson.OneStep()

# %% [markdown]
# In the letters of the formula a step takes ten lines:

# %%
import torch

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.claims import say
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture
from tensorlab.papers import dlrt as paper
from tensorlab.papers.table import measured


def plain_kls(U, S, V, F, h, theta):
    """One step of length h for W' = F(W); F gives a matrix."""
    G = F(U @ S @ V.T)
    U_hat = torch.linalg.qr(torch.cat([U, G @ V], 1))[0]
    V_hat = torch.linalg.qr(torch.cat([V, G.T @ U], 1))[0]
    S = (U_hat.T @ U) @ S @ (V_hat.T @ V).T
    S = S + h * U_hat.T @ F(U_hat @ S @ V_hat.T) @ V_hat
    P, sigma, Qh = torch.linalg.svd(S)
    r = next(r for r in range(1, len(sigma) + 1) if sigma[r:].norm() <= theta * sigma.norm())
    return U_hat @ P[:, :r], sigma[:r].diag(), V_hat @ Qh[:r].T


g = torch.Generator().manual_seed(0)
a = torch.randn(20, 16, generator=g, dtype=torch.float64)
w = tl.LowRank.randn((20, 16), 3, generator=g, dtype=torch.float64).orthogonal()
flow = lambda w: a - w
plain = tl.LowRank(*(plain_kls(w.u, w.s, w.v, flow, 0.1, 0.05)[k] for k in (0, 2, 1)))
theirs = tl.kls_step(w, flow, 0.1, theta=0.05)
gap = float((plain.to_dense() - theirs.to_dense()).norm() / theirs.to_dense().norm())
say(
    f"The ten lines and `tl.kls_step` go from rank {w.ranks[0]} to rank {theirs.ranks[0]}, and their matrices agree to {gap:.0e}.",
    plain.ranks == theirs.ranks,
    gap < 1e-12,
)

# %% [markdown]
# ## The theorem as numbers
#
# $\dot W = A - W$ has the solution $W(t) = A + e^{-t} (W(0) - A)$. We start with three singular values of order 1 and three tiny ones, whose
# vectors have to turn into those of $A$, a matrix of rank 3. The rival is Euler's method for the dense matrix.

# %%
h = fast(0.1, full=0.025)
small = fast([1e-2, 1e-6, 1e-10], full=[10.0**-k for k in range(1, 13)])
curves = {}
for s in small:
    for name, error in lesson.flow_errors(s, h).items():
        curves.setdefault(name, []).append((s, error))
picture(
    lambda figure: plots.ode_errors(figure.subplots(), curves, f"smallest singular value, h = {h}")
)

# %%
tiny = {name: [e for s, e in points if s < 1e-3] for name, points in curves.items()}
change = max(tiny["KLS"]) / min(tiny["KLS"])
ahead = max(tiny["KLS"]) / min(tiny["Euler, dense"])
large = dict(curves["KLS"])[1e-2]
worst = max(tiny["U, S, V"])
say(
    f"Below 0.001 the error of KLS changes by a factor {change:.2f} only, however tiny the values are; it is at most {ahead:.2f} times that of "
    f"Euler's method for the dense matrix. U, S, V is off by {'more than a million' if worst > 1e6 else f'{worst:.1e}'} at its worst. At 0.01 "
    f"KLS is off by {large:.2f}: a new direction has grown for one step only, the smallest to {h / 4:.3f}, when the cut to rank 6 "
    "compares it with the old ones of up to 0.04.",
    change < 1.1,
    ahead < 1.1,
    worst > 100 * max(tiny["KLS"]),
    large > 1.5 * max(tiny["KLS"]),
    h / 4 < 0.04,
)

# %% [markdown]
# The other terms, one at a time: on the left the step $h$, with and without noise $\varepsilon$ in $A$, which no matrix of rank 6 can follow; on
# the right the truncation.

# %%
steps = fast([0.2, 0.1], full=[0.2, 0.1, 0.05, 0.025, 0.0125])
cut_at = fast([1e-4, 1e-2, 1e-1], full=[1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1])
by_h = {
    f"ε = {e:g}": [(h, lesson.flow_errors(1e-8, h, epsilon=e)["KLS"]) for h in steps]
    for e in (0.0, 0.1)
}
by_theta = {
    f"h = {h:g}": [(t, lesson.flow_errors(1e-8, h, theta=t)["KLS"]) for t in cut_at]
    for h in (steps[0], steps[-1])
}


def terms(figure):
    left, right = figure.subplots(1, 2)
    return f"{plots.ode_errors(left, by_h, 'h')} {plots.ode_errors(right, by_theta, 'theta')}"


picture(terms, figsize=(9, 3.2))

# %%
exact, noisy = (dict(points) for points in by_h.values())
fine = dict(by_theta[f"h = {steps[-1]:g}"])
say(
    f"Halving h divides the error by {exact[steps[0]] / exact[steps[1]]:.2f}. Noise of norm 0.1 leaves {noisy[steps[-1]]:.2f} where there "
    f"was {exact[steps[-1]]:.3f}. With h = {steps[-1]:g}, theta does no harm at {cut_at[0]:g}, while at {cut_at[-1]:g} the error is "
    f"{fine[cut_at[-1]] / fine[cut_at[0]]:.0f} times as large: a cut must be small beside what one step adds.",
    1.8 < exact[steps[0]] / exact[steps[1]] < 2.4,
    noisy[steps[-1]] > 1.05 * exact[steps[-1]],
    abs(fine[cut_at[0]] - exact[steps[-1]]) < 0.05 * exact[steps[-1]],
    fine[cut_at[-1]] > 3 * fine[cut_at[0]],
)

# %% [markdown]
# ## A network that reads digits
#
# Any model, any optimizer of torch: put a `LowRank` with its middle factor into the layers, wrap the optimizer, call `step`.
#
#     model = tl.replace_linear(model, "layers.[0-2]", lambda w: tl.dlrt_start(w.shape, 32))
#     dlrt = tl.DLRT(model, torch.optim.SGD(model.parameters(), 0.05, momentum=0.9), theta=0.1)
#     loss = dlrt.step(lambda: cross_entropy(model(x), y))
#
# Four ways to train the same 64 - 100 - 100 - 100 - 10: dense; plain factors $U V^\top$ of a rank; DLRT with a `theta`; DLRT that cuts at
# every fifth step only, so that new directions have time to grow. Numbers are those of the three wide weights, two factors for each; whiskers are the range of the seeds.

# %%
from tqdm.auto import tqdm

runs = {
    "dense": (0,),
    "plain factors": fast((8,), full=(5, 10, 20)),
    "DLRT": fast((0.1, 0.3), full=(0.02, 0.1, 0.3)),
    "DLRT, cut every 5th step": fast((0.1,), full=(0.02, 0.1, 0.3)),
}
epochs, seeds = fast(2, full=8), fast((0,), full=(0, 1))
found = {}
for way, setting in tqdm([(way, s) for way, settings in runs.items() for s in settings]):
    ends = [lesson.trained(way, setting, seed=seed, epochs=epochs) for seed in seeds]
    numbers = sum(n for n, _ in ends) / len(ends)
    found.setdefault(way, {})[setting] = (numbers, [100 * right for _, right in ends])


def against_size(figure):
    ax = figure.subplots()
    seen = plots.spread(
        ax, {way: list(p.values()) for way, p in found.items()}, "numbers stored", "% right"
    )
    ax.set(xscale="log")
    return seen


picture(against_size, figsize=(7, 3.4))

# %%
mean = lambda way, setting: sum(found[way][setting][1]) / len(seeds)
size = lambda way, setting: found[way][setting][0]
few, many = runs["DLRT"][-1], runs["DLRT"][0]
rank = runs["plain factors"][0]
say(
    f"Dense: {mean('dense', 0):.1f} %. DLRT has {mean('DLRT', many):.1f} % at theta = {many} and {mean('DLRT', few):.1f} % at {few}. "
    f"Plain factors of rank {rank}, {size('plain factors', rank):,.0f} numbers, have {mean('plain factors', rank):.1f} %: from a well-scaled "
    "start they beat the large theta with no more numbers.",
    size("DLRT", few) < size("DLRT", many),
    fast(True, full=mean("DLRT", few) < mean("DLRT", many) <= mean("dense", 0) + 1),
    fast(True, full=mean("plain factors", rank) > mean("DLRT", few)),
    fast(True, full=size("plain factors", rank) <= size("DLRT", few)),
)

# %% [markdown]
# ## Beside the printed numbers
#
# LeNet5 on MNIST. The paper counts **one** factor of each layer; to multiply one needs both, so the printed accuracies are shown here at the
# numbers of both, from the printed ranks. Ours are recorded by `tensorlab run Schotthoefer2022 --preset full`: three seeds, and fewer epochs than
# the paper's. Whiskers are the range of the seeds.

# %%
ours, marks = lesson.lenet()


def lenet(figure):
    ax = figure.subplots()
    seen = plots.spread(ax, ours, "numbers stored", "% right", marks)
    ax.set(xscale="log")
    return seen


picture(lenet, figsize=(7, 3.4))

# %%
dense = ours["dense, ours"][0][1][0]
best = max(sum(right) / len(right) for _, right in ours["DLRT, ours"])
theirs = max(y for _, y in marks["DLRT, printed"])
say(
    f"Ours reach {best:.1f} %, the printed ones {theirs:.1f} %. But our dense network has {dense:.1f} %, and the printed one "
    f"{marks['dense, printed'][0][1]:.1f} %: DLRT is {dense - best:.1f} points below the dense network that was trained beside it.",
    all(len(right) == 3 for _, right in ours["DLRT, ours"]),
    best >= theirs,
    dense - best > 0.5,
    dense > marks["dense, printed"][0][1],
)

# %% [markdown]
# ## Where it does not help
#
# Two passes a step is what this integrator costs. `tl.TangentDLRT` takes one: it trains in the tangent space for a window of steps, and
# cuts at its end by what the layer's outputs lose; `tensorlab run Schotthoefer2022windows` compares the two.
#
# Plain factors depend on their start. Recorded on MNIST, rank 20, the k-th singular value of the start is $\text{decay}^{-k}$. *Factors in turn* trains U in one
# step and V in the next. Each way has the best of its learning rates:

# %%
decays = lesson.by_decay()


def decay(figure):
    ax = figure.subplots()
    seen = plots.spread(ax, decays, "decay of the start", "% right")
    ax.set(xscale="log", xticks=[1, 2, 10], xticklabels=["1", "2", "10"])
    ax.minorticks_off()
    return seen


picture(decay, figsize=(7, 3))

# %%
right = {name: {d: ys[0] for d, ys in points} for name, points in decays.items()}
timed = {row["rank"]: row["cpu s"] for row in measured(paper.PROGRAM.key).where(experiment="time")}
held = lambda r: 2 * (2 * r * 1000) + 3 * (2 * r) ** 2
most = max(r for r in range(1, 500) if held(r) < 3 * 500 * 500)
say(
    f"At decay 10 DLRT has {right['DLRT'][10]:.1f} % and plain factors {right['plain factors'][10]:.1f} %; at decay 1 it is "
    f"{right['DLRT'][1]:.1f} % and {right['plain factors'][1]:.1f} %. DLRT buys robustness, and a rank that need not be known; not accuracy "
    f"as such. For a layer of 500 by 500 a step holds fewer numbers than a dense one up to rank {most}; recorded, an epoch of rank 20 took "
    f"{timed[20]} s of CPU, of rank 100 {timed[100]} s, and a dense one {timed[None]} s: two passes, QR and SVD eat up what thin products save.",
    right["DLRT"][10] > right["plain factors"][10] + 10,
    right["plain factors"][1] >= right["DLRT"][1],
    timed[100] > timed[None],
)

# %% [markdown]
# Lesson 18 sets it beside all that competes with it, at equal numbers stored.
#
# ## Exercises
#
# Exercises 2 to 5 build one step, each from the ones before. A blank says nothing; a wrong answer gets its own hint.
#
# ### 1. Predict: what a step holds (★, 5 minutes)
#
# A layer of 500 outputs and 784 inputs is trained by DLRT at rank 20. How many numbers do the weight's factors hold at
# most within a step, which is just before the cut?

# %%
stored_numbers = ...
lesson.stored_numbers(stored_numbers)

# %% [markdown] tags=["hints"]
# How many columns do the wider bases have?
#
# The middle factor is square, and as wide as they are.

# %% tags=["solution"]
stored_numbers = 40 * (500 + 784) + 40 * 40

# %% [markdown]
# ### 2. Widen a basis (★, 5 minutes)
#
# Write `widened(u, gk)`: u (m, r) has orthonormal columns, gk (m, r) is any matrix. Return (m, 2r) with orthonormal columns that
# span both.


# %%
def widened(u, gk): ...


lesson.widened(widened)

# %% [markdown] tags=["hints"]
# Put them side by side with `torch.cat`.
#
# `torch.linalg.qr(a)[0]` has orthonormal columns that span those of a.


# %% tags=["solution"]
def widened(u, gk):
    return torch.linalg.qr(torch.cat([u, gk], 1))[0]


# %% [markdown]
# ### 3. The same matrix in wider bases (★★, 5 minutes)
#
# Write `lifted(u, s, v, u1, v1)`: the middle factor $\tilde S$ with $U_1 \tilde S V_1^\top = U S V^\top$, where u1 and v1 have orthonormal columns
# that hold those of u and v in their span. Never form a matrix as large as the weight.


# %%
def lifted(u, s, v, u1, v1): ...


lesson.lifted(lifted)

# %% [markdown] tags=["hints"]
# Multiply the equation by $U_1^\top$ from the left and by $V_1$ from the right.
#
# Set the brackets: $(U_1^\top U)\, S\, (V^\top V_1)$.


# %% tags=["solution"]
def lifted(u, s, v, u1, v1):
    return (u1.T @ u) @ s @ (v.T @ v1)


# %% [markdown]
# ### 4. Cut (★★, 10 minutes)
#
# Write `cut(u, s, v, theta)`: the factors of $U S V^\top$ cut to the smallest rank, at least 1, at which what is left out has at most theta
# times the norm of s. Return u, s and v.


# %%
def cut(u, s, v, theta): ...


lesson.cut(cut)

# %% [markdown] tags=["hints"]
# `p, sigma, qh = torch.linalg.svd(s)`: the small matrix is enough, since u and v are orthonormal.
#
# The new u is `u @ p[:, :r]`, the new v is `v @ qh[:r].T`.


# %% tags=["solution"]
def cut(u, s, v, theta):
    p, sigma, qh = torch.linalg.svd(s)
    r = 1
    while sigma[r:].norm() > theta * sigma.norm():
        r += 1
    return u @ p[:, :r], sigma[:r].diag(), v @ qh[:r].T


# %% [markdown]
# ### 5. One step (★★★, 15 minutes)
#
# Write `kls(u, s, v, flow, h, theta)`: one step of length h for $\dot W = F(W)$, where `flow` takes a dense W and gives F(W). Return
# u, s and v.


# %%
def kls(u, s, v, flow, h, theta): ...


lesson.kls(kls)

# %% [markdown] tags=["hints"]
# `f = flow(u @ s @ v.T)`: widen u by `f @ v` and v by `f.T @ u`, then lift s.
#
# Only the lifted s moves: add h times u1ᵀ F v1, and cut.


# %% tags=["solution"]
def kls(u, s, v, flow, h, theta):
    f = flow(u @ s @ v.T)
    u1, v1 = widened(u, f @ v), widened(v, f.T @ u)
    s1 = lifted(u, s, v, u1, v1)
    s1 = s1 + h * u1.T @ flow(u1 @ s1 @ v1.T) @ v1
    return cut(u1, s1, v1, theta)


# %% [markdown]
# ### 6. Predict: what theta lets through (★★, 10 minutes)
#
# $\dot W = A - W$ flows to $A = \mathrm{diag}(1, 1/2, 1/4, 1/8)$. Start with $U = V$ a column of four times 0.5 and $S = 1$, and take 200 steps of length
# 0.1. Which is the largest theta of 0.2, 0.1, 0.05, 0.02, 0.01, 0.005 with which the rank ends at 4? Guess first, then let your `kls` run
# (in float64).

# %%
largest_theta = ...
lesson.largest_theta(largest_theta)

# %% [markdown] tags=["hints"]
# A direction that is not there yet grows by about h times its size in A in one step.
#
# `for _ in range(200): u, s, v = kls(u, s, v, lambda w: a - w, 0.1, theta)`, and look at the shape of s.


# %% tags=["solution"]
def end(theta):
    a = torch.tensor([1, 1 / 2, 1 / 4, 1 / 8], dtype=torch.float64).diag()
    u = v = torch.full((4, 1), 0.5, dtype=torch.float64)
    s = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(200):
        u, s, v = kls(u, s, v, lambda w: a - w, 0.1, theta)
    return len(s)


largest_theta = max(theta for theta in (0.2, 0.1, 0.05, 0.02, 0.01, 0.005) if end(theta) == 4)

# %% [markdown]
# ### 7. Explore (★, 5 minutes)
#
# In the picture of one step, with h = 0.3 and an angle of 60 degrees: which is the largest singular value of 0.3, 0.1, 0.03, 0.01
# from which the step of U, S, V ends more than 1 away from the flow?

# %%
breakdown = ...
lesson.breakdown(breakdown)

# %% [markdown] tags=["hints"]
# Type the values into the box beside the slider.
#
# The sentence below the picture says how far each step ends from the flow.

# %% tags=["solution"]
breakdown = 0.03
