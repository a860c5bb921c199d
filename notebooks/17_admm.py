# %% [markdown]
# # How do you train a network whose weights must stay in a set?
#
# The set: matrices of a rank, or TT-matrices of given ranks. Press *play*: a trained network is drawn toward it. On the left what a projection would
# lose now (primal, solid), in the middle the accuracy with the weights as they are and after a projection, on the right the singular values.

# %%
from tensorlab.course.lab import fast
from tensorlab.course.lessons import admm as lesson

lesson.ADMMPlayer()

# %% [markdown]
# ## The mathematics: three ways
#
# $$ \min_W \ell(W) \quad\text{such that}\quad W \in \mathcal S . $$
#
# **Factors.** Write $W = UV^T$, or as a train, and let autograd differentiate the factors. Simple; but a gradient step of length $h$ moves $W$ by
# $-h\,(G VV^T + UU^T G)$: it depends on the scale of the factors, which the loss does not see.
#
# **ADMM** [Boyd2011] [Yin2021]. Keep $W$ dense, give it a twin $Z \in \mathcal S$, and let a spring of strength $\rho$ draw them together:
#
# $$ W \leftarrow \text{steps on } \ell(W) + \tfrac\rho2 \|W - Z + U\|^2,\qquad Z \leftarrow \Pi_{\mathcal S}(W + U),\qquad U \leftarrow U + W - Z . $$
#
# $\Pi_{\mathcal S}$ is an SVD, or a TT-SVD. *Primal residual*: $\|W - Z\|/\|W\|$. *Dual residual*: $\rho\|Z - Z_{\rm old}\|/\|W\|$. The whole of $W$ and
# its gradient are held while it trains; what is small is the result.
#
# **Riemannian steps** [Bonnabel2013] [Novikov2022]. $\mathcal S$ is (nearly) a manifold: project the gradient onto its tangent space, take a step,
# and round back, $W \leftarrow \text{round}(W - h\,m)$, with the momentum $m$ carried along by projection. A step does not depend on the factors.

# %%
import inspect

from IPython.display import Code

import tensorlab as tl

Code(inspect.getsource(tl.ADMM.update), language="python")

# %%
Code(inspect.getsource(tl.RiemannianSGD.step), language="python")

# %% [markdown]
# ## The three ways at equal rank and equal epochs
#
# Two hidden layers of 64 by 64 in the set. "direct" is the fourth way: train as if there were no constraint, then project.

# %%
ways = ("direct", "factors", "ADMM", "Riemannian")
cases = fast([("TT", 3)], full=[("low rank", 4), ("TT", 3)])
seeds, epochs = fast(((0,), 4), full=((0, 1, 2), 24))
found = {}
for kind, rank in cases:
    for way in ways:
        found[kind, way] = [
            lesson.compare(way, kind, rank, epochs=epochs, seed=seed) for seed in seeds
        ]
        print(f"\r{kind} {way} trained          ", end="")
print()
for kind, rank in cases:
    print(
        f"\n{kind}, rank {rank}: {lesson.stored(kind, rank)} of {2 * 64 * 64} numbers.  Test accuracy and loss for each seed:"
    )
    for way in ways:
        print(
            f"  {way:11}"
            + "   ".join(f"{100 * a:5.1f} % {loss:6.3f}" for loss, a in found[kind, way])
        )

# %% [markdown]
# The residuals that lead there, of the last rounds:

# %%
count = fast(3, full=12)
*_, state = lesson.rounds("TT", 3, 1e-2, 1.5, count=count)
print("round    rho   primal             dual")
for k, r in enumerate(state["history"], 1):
    primal, dual = ("  ".join(f"{v:.1e}" for v in part.values()) for part in (r.primal, r.dual))
    print(f"{k:5} {r.rho:6.3f}   {primal}   {dual}")

# %% [markdown]
# ## Where it loses
#
# ADMM stores and differentiates the dense weights all the time: it compresses what is delivered, not what is trained. Its $\rho$ and the number of
# steps in a round have to be chosen. And the table says whether it beats training the factors from the start, which needs no dense weight at all:
# look at the lines "factors" and "Riemannian" before you choose it. What ADMM beats for certain is the projection of a network that did not know.

# %%
for kind, _ in cases:
    gains = [100 * (a[1] - d[1]) for a, d in zip(found[kind, "ADMM"], found[kind, "direct"])]
    print(
        f"{kind}: ADMM over the direct projection, points of accuracy for each seed: "
        + ", ".join(f"{g:+.1f}" for g in gains)
    )
    best = {way: sum(a for _, a in found[kind, way]) / len(seeds) for way in ways}
    print(
        "  highest mean accuracy: "
        + max(best, key=best.get)
        + f", {100 * max(best.values()):.1f} %"
    )

# %% [markdown]
# ## Exercises
#
# **Predict.**

# %%
print(lesson.primal_by_hand.question)
lesson.primal_by_hand(...)

# %% [markdown]
# **Implement.**


# %%
def admm_round(w, u, r): ...


print(lesson.admm_round.question)
lesson.admm_round(admm_round)

# %% [markdown]
# **Explore.**

# %%
print(lesson.smallest_rho.question)
lesson.smallest_rho(...)
