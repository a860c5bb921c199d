# %% [markdown]
# # Can a spiky vector be the sum of two flat ones?
#
# Yes, if the second is seen from another basis: $x = u + Qv$ with all entries of $u$ and $v$ of the size $|x| / \sqrt N$. Step through
# the decomposition: after two steps on each side $u$ and $v$ have four peaks each, and few bits say on which peak an entry sits.

# %%
from tensorlab.course.lessons import kashin as lesson

lesson.StepsPlayer()

# %% [markdown]
# ## The mathematics
#
# Kashin's theorem [Kashin1977]: there is a constant $c$ such that for almost every orthogonal $Q$ every $x \in \mathbb R^N$ is
#
# $$ x = u + Qv, \qquad |u|_\infty, |v|_\infty \le c\, |x|_2 / \sqrt N . $$
#
# Flat vectors fill a cube. One cube of half side $c/\sqrt N$ misses most of the unit ball, since a spike has an entry of 1; the sum of
# the cube and a rotated cube holds all of it. In two dimensions it is a square plus a rotated square, in three a cube plus a rotated cube.

# %%
import inspect
import math

import torch
from IPython.display import Code

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture
from tensorlab.methods.kashin import KINDS, Rotation


def sums(figure):
    c, s = math.cos(math.pi / 4), math.sin(math.pi / 4)
    flat = plots.zonotope(figure.add_subplot(1, 2, 1), torch.tensor([[c, -s], [s, c]]))
    q = Rotation("orthogonal", (3,), seed=1).to_dense()
    return f"{flat} {plots.zonotope(figure.add_subplot(1, 2, 2, projection='3d'), q)}"


picture(sums, figsize=(9, 4))

# %% [markdown]
# The greedy algorithm [Merkulov2024] projects what is left on a sign vector. With $s = |r|_1 / N$,
#
# $$ |r - s\, \mathrm{sign}(r)|^2 = |r|^2 - N s^2, $$
#
# and the same in the other basis with $Q^T r$. It takes the side where the 1-norm is larger: by the theorem one of them always is
# large, so what is left falls geometrically. Every step adds one $\pm s$ to each entry; hence the peaks. The cosine transform with random
# signs serves as $Q$: $N \log N$ work, and nothing is stored but a seed.

# %%
from tensorlab.methods.kashin import _steps

Code(inspect.getsource(_steps), language="python")

# %%
x = lesson.vector("heavy tails", 1024)
for method in ("greedy", "two_two", "frame"):
    fit = tl.kashin(x, method=method, generator=torch.Generator().manual_seed(0))
    print(
        f"{method:8} {len(fit.history):4} steps, sqrt(N) |x|_max / |x| = {float(32 * x.abs().max() / x.norm()):.1f} has become "
        f"{float(fit.value.bound):.2f}, x - u - Qv is {float((fit.value.to_dense() - x).norm() / x.norm()):.0e}"
    )

# %% [markdown]
# ## Which $Q$?
#
# Any that mixes all entries. One reflection and one layer of plane rotations are too near to the identity: a spike stays a spike in both
# bases, and the iteration says that it has not converged.

# %%
spike, histories = lesson.vector("one-hot", 256), {}
for kind in KINDS:
    fit = tl.kashin(
        spike, kind, max_iter=fast(100, full=1000), generator=torch.Generator().manual_seed(0)
    )
    histories[kind] = fit.history
    print(f"{kind:12} converged: {fit.converged!s:5}  bound {float(fit.value.bound):.2f}")
picture(lambda figure: plots.decay(figure.subplots(), histories), figsize=(7, 3.4))

# %% [markdown]
# ## Bits
#
# Weights of a network in a few bits. *uniform*: a grid between the extremes. *kmeans*: levels where the entries are. *kashin*: one
# index names a pair of levels, for $u$ and for $v$. *rotate*: the control which the paper lacks, the same rotation and then k-means.
# *pairs*: the rotation, and then points of the plane for two neighbours at a time. All storage is counted.

# %%
lesson.BitsExplorer()

# %%
print("tails  " + "  ".join(f"{m:>8}" for m in lesson.QUANTIZERS))
for tails in fast((1.0, 2.0), full=(1.0, 1.5, 2.0, 3.0)):
    print(
        f"{tails:5}  "
        + "  ".join(f"{lesson.error(tails, 4, m)[1]:8.4f}" for m in lesson.QUANTIZERS)
    )
worst = max(lesson.error(t, 4, "rotate")[1] / lesson.error(t, 4, "kashin")[1] for t in (1.0, 2.0))
better = min(lesson.error(t, 4, "rotate")[1] / lesson.error(t, 4, "pairs")[1] for t in (1.0, 2.0))
print(
    f"rotate has at most {worst:.2f} times the error of kashin; pairs is {better:.2f} times better than rotate, or more"
)

# %% [markdown]
# ## Where it loses
#
# Plainly: at equal bits the rotation followed by scalar k-means beats the Kashin pairs, on Gaussian weights and on heavy tails. The
# reason is that $u$ and $v$ are $2N$ numbers for $N$ weights: with 4 bits each has two. Kashin's sum is right where the *largest entry*
# counts, when numbers must fit a fixed range; for the mean square error it is better to spend all bits on one rotated copy. Then the
# entries are nearly Gaussian whatever the weights were, and the best points of the *plane* for Gaussian pairs are known without looking
# at the data: a sunflower's spiral, of density $p^{1/2}$ [Gersho1979]. That is `quantize`'s default.
#
# ## A network
#
# One call quantizes a model by name pattern. Here it is a small one that reads digits; `make llm` installs a sentence encoder of
# six layers, and `tensorlab run Merkulov2024` sets its scores beside those printed in the paper.

# %%
from tensorlab import datasets
from tensorlab.models.mlp import MLP
from tensorlab.models.training import accuracy, shuffled_parts, train

X, y, X_test, y_test = shuffled_parts(*datasets.digits(), 1300)
generator = torch.Generator().manual_seed(0)
model = MLP((64, 128, 128, 10), generator=generator)
for _ in train(
    model,
    torch.optim.Adam(model.parameters(), 3e-3),
    X,
    y,
    epochs=fast(3, full=15),
    generator=generator,
):
    pass
state = {name: t.clone() for name, t in model.state_dict().items()}
print(f"float32: {100 * accuracy(model, X_test, y_test):.1f} % right")
for bits in fast((2, 4), full=(2, 3, 4)):
    for method in lesson.QUANTIZERS:
        model = MLP((64, 128, 128, 10))
        model.load_state_dict(state)
        tl.quantize_model(
            model, bits=bits, method=method, generator=torch.Generator().manual_seed(0)
        )
        report = tl.layer_report(model)
        stored = 8 * report.total("bytes") / report.total("dense")
        print(
            f"{bits} bits {method:8} {stored:.2f} bits per weight, {100 * accuracy(model, X_test, y_test):.1f} % right"
        )

# %% [markdown]
# The sentence encoder, without any tuning: Spearman's correlation on STS-B, and bits per character of a small character model; and what
# is printed for other models, tuned on the tasks. Uniform levels fail on both sides. In print Kashin's pairs beat k-means on nearly
# every task; here they do at 2 bits, and lose at 4. A rotation before k-means, which the paper does not try, is better than either at
# 2 and 3 bits, and points of the plane after a rotation are better still at 2. At 4 bits the methods differ by less than the task
# can tell.

# %%
from tensorlab.papers.table import measured, printed

measured("Merkulov2024")

# %%
printed("Merkulov2024")

# %% [markdown]
# ## Exercises
#
# **Predict.**

# %%
print(lesson.energy_left.question)
lesson.energy_left(...)

# %% [markdown]
# **Implement.**


# %%
def flat_step(r): ...


print(lesson.flat_step.question)
lesson.flat_step(flat_step)

# %% [markdown]
# **Explore.**

# %%
print(lesson.tails_ratio.question)
lesson.tails_ratio(...)
