# %% [markdown] tags=["lesson"]
# name = "Kashin"
# minutes = 75
# needs = ["01_lowrank"]
# aims = [
#     "split a vector into two flat ones, step by step",
#     "choose a rotation that mixes, and tell one that does not",
#     "quantize weights in few bits, and say what a rotation brings",
# ]
# take = [
#     "With most rotations Q every vector is u + Q v with u and v flat; a greedy algorithm finds them, one sign vector at a time.",
#     "A rotation makes the entries of any weights nearly Gaussian, so that a code does not suffer from outliers.",
#     "For the mean square error one rotated copy of the weights is better than two flat ones with half the bits each.",
# ]

# %% [markdown]
# # Can a spiky vector be the sum of two flat ones?
#
# Yes, if the second is seen from another basis: $x = u + Qv$ with an orthogonal $Q$, or *rotation*, and no entry of $u$ and $v$ much larger than $|x| / \sqrt N$. After two steps
# on each side $u$ and $v$ have four peaks each, and two bits say on which peak an entry is. On the right is how much of $x$ is left.

# %%
from tensorlab.course.lessons import kashin as lesson

lesson.StepsPlayer()

# %% [markdown]
# ## The mathematics
#
# Kashin's theorem [Kashin1977]: there is a constant $c$, the same for all $N$, such that for most orthogonal $Q$ (all but a share that
# falls exponentially with $N$) every $x \in \mathbb R^N$ is
#
# $$ x = u + Qv, \qquad |u|_\infty, |v|_\infty \le c\, |x|_2 / \sqrt N . $$
#
# Flat vectors fill a cube. One cube of half side $c/\sqrt N$ does not hold the unit ball, since a spike has an entry of 1; the sum of
# the cube and a rotated cube holds all of it, for a $c$ that does not grow with $N$. In two dimensions it is a square plus a rotated square, in three a cube plus a rotated cube.

# %%
import math

import torch

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.claims import say
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture
from tensorlab.methods.kashin import KINDS, METHODS, Rotation


def sums(figure):
    c, s = math.cos(math.pi / 4), math.sin(math.pi / 4)
    flat = plots.zonotope(figure.add_subplot(1, 2, 1), torch.tensor([[c, -s], [s, c]]))
    q = Rotation("orthogonal", (3,), seed=1).to_dense()
    return f"{flat} {plots.zonotope(figure.add_subplot(1, 2, 2, projection='3d'), q)}"


picture(sums, figsize=(9, 4))

# %% [markdown]
# The greedy algorithm [Merkulov2024] projects what is left, $r = x - u - Qv$, on the vector of its signs. With $s = |r|_1 / N$,
#
# $$ |r - s\, \mathrm{sign}(r)|^2 = |r|^2 - N s^2, $$
#
# and the same in the other basis with $y = Q^T r$. It takes the side where the 1-norm is larger: by the theorem one of the two is always
# large, so what is left falls geometrically. Every step adds $\pm s$ to each entry of u, or of v; hence the peaks. In the letters of the formulas:


# %%
def plain_kashin(x, Q, steps):
    """u and v, flat, with x ~ u + Q v."""
    u, v, r = torch.zeros_like(x), torch.zeros_like(x), x
    for _ in range(steps):
        y = Q.T @ r
        if r.abs().sum() >= y.abs().sum():
            du = r.abs().mean() * r.sign()
            u, r = u + du, r - du
        else:
            dv = y.abs().mean() * y.sign()
            v, r = v + dv, r - Q @ dv
    return u, v


x = lesson.vector("heavy tails", 1024)
flatness = lambda z: float(math.sqrt(len(x)) * z.abs().max() / x.norm())
Q = Rotation("dct", (1024,), seed=0)
u, v = plain_kashin(x, Q.to_dense(), 29)
fits = {m: tl.kashin(x, method=m, generator=torch.Generator().manual_seed(0)) for m in METHODS}
off = float((x - u - Q.to_dense() @ v).norm() / x.norm())
say(
    f"The largest entry of x is {flatness(x):.1f} times $|x| / \\sqrt N$; a flat vector has 1. The plain version leaves {off:.0e} of x after "
    f"29 steps, and u and v have {max(flatness(u), flatness(v)):.2f}. The three methods of `tl.kashin` end at "
    + ", ".join(
        f"{float(fit.value.bound):.2f} (*{m}*, {len(fit.history)} steps)" for m, fit in fits.items()
    )
    + ".",
    off < 1e-4,
    flatness(x) > 5,
    max(flatness(u), flatness(v)) < 2,
    all(fit.converged and float(fit.value.bound) < 2 for fit in fits.values()),
)

# %% [markdown]
# *greedy* is the algorithm above; *two_two* takes two steps on u, then two on v, whichever side is larger; *frame* clips $r$ and $Q^T r$ at a level instead of taking signs [LyubarskiiVershynin2010].
# For $Q$ `tl.kashin` uses the cosine transform with random signs: $N \log N$ work, and nothing is stored but a seed.
#
# ## Which $Q$?
#
# Any that mixes all entries: a random *orthogonal* matrix, or, in $N \log N$ operations, the cosine transform (*dct*) and the *hadamard* transform with random signs, and a *butterfly* of $\log_2 N$ layers of plane rotations.
# One reflection (*householder*) and one layer of plane rotations (*givens*) are too near to the identity: a spike stays a spike in both
# bases. What is left of x after each step, on the left by method for the heavy tails above, on the right by $Q$ for a vector of 256
# entries with a single spike:

# %%
spike = lesson.vector("one-hot", 256)
by_kind = {
    kind: tl.kashin(spike, kind, max_iter=100, generator=torch.Generator().manual_seed(0))
    for kind in KINDS
}


def decays(figure):
    left, right = figure.subplots(1, 2)
    first = plots.decay(left, {m: fit.history for m, fit in fits.items()})
    return f"{first} {plots.decay(right, {kind: fit.history for kind, fit in by_kind.items()})}"


picture(decays, figsize=(9, 3.4))

# %%
bad = ("householder", "givens")
good = [kind for kind, fit in by_kind.items() if fit.converged]
slow = float(by_kind["butterfly"].history[-1])
worst = min(float(by_kind[kind].value.bound) for kind in bad)
say(
    f"Within 100 steps {', '.join(good)} have split the spike, with u and v at most "
    f"{max(float(by_kind[kind].value.bound) for kind in good):.1f} times $|x| / \\sqrt N$. The butterfly is slower and leaves {slow:.1%}. With {' and '.join(bad)} more than "
    f"{min(by_kind[kind].history[-1] for kind in bad):.0%} of it is left, and the entries are {worst:.0f} times as large and more.",
    {"dct", "orthogonal", "hadamard"} <= set(good),
    max(float(by_kind[kind].value.bound) for kind in good) < 2,
    not any(by_kind[kind].converged for kind in bad),
    min(by_kind[kind].history[-1] for kind in bad) > 0.1,
    worst > 4,
    1e-6 < slow < 0.01,
)

# %% [markdown]
# ## Bits
#
# Weights of a network in a few bits. *uniform*: levels on a grid between the extremes. *kmeans*: levels where the entries are. *kashin*: one
# index names a pair of levels, one for $u$ and one for $v$. *rotate*: the rival which the paper lacks, the same rotation and then k-means.
# *pairs*: the rotation, and then points of the plane for two neighbors at a time. All storage is counted. With *tails* 1 the weights
# are Gaussian; the larger *tails*, the rarer and larger the outliers.

# %%
lesson.BitsExplorer()

# %%
tails = fast((1.0, 2.0), full=(1.0, 1.5, 2.0, 3.0))
picture(lambda figure: lesson.draw_tails(figure.subplots(), tails), figsize=(7, 3.4))

# %%
e = {m: [lesson.error(t, 4, m)[1] for t in tails] for m in lesson.QUANTIZERS}
say(
    f"At 4 bits the error of kmeans grows from {e['kmeans'][0]:.3f} for Gaussian weights to {e['kmeans'][-1]:.3f} at tails {tails[-1]:g}; that "
    f"of rotate goes from {e['rotate'][0]:.3f} to {e['rotate'][-1]:.3f} only, for the rotation hides the tails. For Gaussian weights there is "
    f"nothing to mend, and kmeans is ahead of rotate. Points of the plane are best everywhere: the error of rotate is at least {min(a / b for a, b in zip(e['rotate'], e['pairs'])):.2f} times theirs; no code of 4 bits has "
    f"less than {2**-4:.4f} for Gaussian weights.",
    e["kmeans"][-1] > 1.2 * e["kmeans"][0],
    max(e["rotate"]) < 1.1 * min(e["rotate"]),
    e["kmeans"][0] < e["rotate"][0],
    all(e["pairs"][k] == min(column) for k, column in enumerate(zip(*e.values()))),
    min(map(min, e.values())) > 2**-4,
)

# %% [markdown]
# ## Where it loses
#
# Kashin's own pairs of levels lose to the plain rotation:

# %%
ratio = [a / b for a, b in zip(e["kashin"], e["rotate"])]
say(
    f"At 4 bits kashin has {min(ratio):.2f} to {max(ratio):.2f} times the error of rotate, on all weights of the figure.",
    min(ratio) > 1.1,
)

# %% [markdown]
# The reason is that $u$ and $v$ are $2N$ numbers for $N$ weights: with 4 bits each has two. Kashin's sum is right where the *largest
# entry* counts, when numbers must fit a fixed range; for the mean square error it is better to spend all bits on one rotated copy.
# Then the entries are nearly Gaussian whatever the weights were, and the best points of the *plane* for Gaussian pairs are known without
# looking at the data: a sunflower's spiral, of density $p^{1/2}$ [Gersho1979]. That is `quantize`'s default.
#
# ## A network
#
# One call, `tl.quantize_model`, quantizes the layers of a model whose names match a pattern. Here it is a small one that reads digits; whiskers are the range of the
# seeds of the quantization, and guessing reads 10 %.

# %%
curves = lesson.network_curves(fast((2, 4), full=(2, 3, 4)), fast(1, full=3), fast(3, full=15))
picture(lambda figure: lesson.draw_network(figure.subplots(), curves), figsize=(7, 3.4))

# %%
mean = {m: [sum(r) / len(r) for _, r in points] for m, points in curves.items()}
at4 = [mean[m][-1] for m in mean if m not in ("dense", "uniform")]
best = max(lesson.QUANTIZERS, key=lambda m: mean[m][0])
say(
    f"The network reads {mean['dense'][0]:.1%}. At 4 bits all but uniform have {min(at4):.1%} to {max(at4):.1%}: so small a test cannot "
    f"tell them apart. At 2 bits the best is {best} with {mean[best][0]:.1%}; uniform has {mean['uniform'][0]:.1%}, kmeans "
    f"{mean['kmeans'][0]:.1%}, rotate {mean['rotate'][0]:.1%}.",
    max(at4) - min(at4) < 0.03,
    mean["dense"][0] - min(at4) < 0.03,
    fast(True, full=mean[best][0] > mean["uniform"][0] + 0.01),
)

# %% [markdown]
# ## A sentence encoder
#
# A language model has outliers. Recorded: a sentence encoder of six layers, without any tuning. STS-B scores how well it tells the similarity of two sentences, by Spearman's correlation with human judges
# (`make llm` installs it, `tensorlab run Merkulov2024` makes the numbers anew). Hollow marks, beside 4 bits, are printed in the paper, for BERT (left) and
# RoBERTa (right) tuned on the task; color and shape are those of the method.

# %%
scores = lesson.encoder_scores()
picture(lambda figure: lesson.draw_encoder(figure.subplots(), scores), figsize=(7, 3.6))

# %%
ours, (won, of) = scores["recorded"], lesson.printed_wins()
at4 = [points[4] for m, points in ours.items() if m != "uniform"]
say(
    f"In print Kashin's pairs beat k-means in {won} of {of} scores. Here they do at 2 bits ({ours['kashin'][2]:.1f} % against "
    f"{ours['kmeans'][2]:.1f} % of the correlation before), and lose at 3 and 4. A rotation before k-means is better than both at 2 and 3 "
    f"bits, and points of the plane after a rotation are better still at 2 ({ours['pairs'][2]:.1f} %). At 4 bits all but uniform are within "
    f"{max(at4) - min(at4):.1f} %.",
    won > 0.7 * of,
    ours["kashin"][2] > ours["kmeans"][2],
    all(ours["kashin"][b] < ours["kmeans"][b] for b in (3, 4)),
    all(ours["rotate"][b] > max(ours["kashin"][b], ours["kmeans"][b]) for b in (2, 3)),
    ours["pairs"][2] == max(points[2] for points in ours.values()),
    max(at4) - min(at4) < 0.3,
)

# %% [markdown]
# ## Exercises
#
# Exercises 2 to 4 build the greedy algorithm, 5 its rival.
#
# ### 1. Predict: what is left (★, 5 minutes)
#
# x = (3, -1, 1, 1). One step takes $s\,\mathrm{sign}(x)$ from it, $s = |x|_1 / N$. What share of $|x|^2$ is left?

# %%
energy_left = ...
lesson.energy_left(energy_left)

# %% [markdown] tags=["hints"]
# s is the mean of the $|x_i|$.
#
# $|r|^2 = |x|^2 - N s^2$, and $|x|^2 = 12$.

# %% tags=["solution"]
energy_left = (12 - 4 * 1.5**2) / 12

# %% [markdown]
# ### 2. A flat step (★★, 5 minutes)
#
# Write `flat_step(r)`: the multiple of the sign vector of r that is nearest to r. The sign of 0 counts as 1.


# %%
def flat_step(r): ...


lesson.flat_step(flat_step)

# %% [markdown] tags=["hints"]
# Project r on e = sign(r): (r, e) / (e, e) e.
#
# `torch.where(r < 0, -1.0, 1.0)` has no zeros.


# %% tags=["solution"]
def flat_step(r):
    return r.abs().mean() * torch.where(r < 0, -1.0, 1.0).double()


# %% [markdown]
# ### 3. Which side? (★★, 10 minutes)
#
# Write `greedy_step(r, Q)`: the pair du, dv of one step. Where r has the larger 1-norm, or both are equal, du is the flat step of r and dv
# is 0; otherwise dv is the flat step of $y = Q^T r$, and du is 0.


# %%
def greedy_step(r, Q): ...


lesson.greedy_step(greedy_step)

# %% [markdown] tags=["hints"]
# Compare `r.abs().sum()` with that of `Q.T @ r`.
#
# dv stays in the basis Q: return it as it is, without Q.


# %% tags=["solution"]
def greedy_step(r, Q):
    y, zero = Q.T @ r, torch.zeros_like(r)
    return (flat_step(r), zero) if r.abs().sum() >= y.abs().sum() else (zero, flat_step(y))


# %% [markdown]
# ### 4. Two flat vectors (★★, 10 minutes)
#
# Write `flat_sum(x, Q, steps)`: the pair u, v after so many greedy steps.


# %%
def flat_sum(x, Q, steps): ...


lesson.flat_sum(flat_sum)

# %% [markdown] tags=["hints"]
# Begin with u = v = 0 and r = x.
#
# In each step r loses du + Q dv.


# %% tags=["solution"]
def flat_sum(x, Q, steps):
    u, v = torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(steps):
        du, dv = greedy_step(x - u - Q @ v, Q)
        u, v = u + du, v + dv
    return u, v


# %% [markdown]
# ### 5. Rotate, round, rotate back (★★, 10 minutes)
#
# Write `rotated(w, Q, levels)`: w with few levels. Go to $y = Q^T w$; with $s = |w| / \sqrt N$ replace each $y_i / s$ by the nearest of
# the levels (k,); multiply by s, and go back.


# %%
def rotated(w, Q, levels): ...


lesson.rotated(rotated)

# %% [markdown] tags=["hints"]
# `(y[:, None] / s - levels).abs()` has the distance of each entry to each level.
#
# `.argmin(1)` names the nearest.


# %% tags=["solution"]
def rotated(w, Q, levels):
    y, s = Q.T @ w, w.norm() / len(w) ** 0.5
    nearest = (y[:, None] / s - levels).abs().argmin(1)
    return Q @ (s * levels[nearest])


# %% [markdown]
# ### 6. Explore: tails (★, 5 minutes)
#
# Set the explorer of bits to tails 3. At 4 bits, how many times larger is the error of kmeans than that of rotate? An answer within five percent is accepted.

# %%
tails_ratio = ...
lesson.tails_ratio(tails_ratio)

# %% [markdown] tags=["hints"]
# The sentence below the picture gives both errors.
#
# Divide the larger one by the smaller one.

# %% tags=["solution"]
tails_ratio = lesson.error(3.0, 4, "kmeans")[1] / lesson.error(3.0, 4, "rotate")[1]
