# %% [markdown]
# # Can a network be trained without ever having its full weights?
#
# Press *play*: a network learns to read digits while each weight is only $U S V^\top$. On the left the ranks, which `theta` decides as
# training goes on; on the right the singular values, and the line below which a tail may be cut. Pause, and it goes on where it was.

# %%
from tensorlab.course.lessons import dlrt as lesson

lesson.RankExplorer()

# %% [markdown]
# ## The mathematics
#
# Gradient descent is Euler's method for $\dot W = -\nabla \ell(W) = -G$. To stay among the matrices of rank $r$, project $G$ onto the
# tangent plane at $W = U S V^\top$, with $U$ and $V$ orthonormal. Written for the factors [KochLubich2007] that is
#
# $$ \dot S = -U^\top G V, \qquad \dot U = -(I - U U^\top)\, G V S^{-1}, \qquad \dot V = -(I - V V^\top)\, G^\top U S^{-\top}, $$
#
# and $S^{-1}$ is a disaster: low rank means small singular values. With $K = U S$ and $L = V S^\top$ nothing is inverted,
#
# $$ \dot K = -G V, \qquad \dot L = -G^\top U, $$
#
# and one step of **dynamical low-rank training** [Schotthoefer2022] is
#
# 1. $K_1$ and $L_1$, both from the same $W$, so one pass through the network gives both, and only the thin $G V$ and $G^\top U$;
# 2. wider bases $\hat U = \mathrm{orth}[U \mid K_1]$, $\hat V = \mathrm{orth}[V \mid L_1]$, and $\tilde S = (\hat U^\top U) S (\hat V^\top V)^\top$: the same $W$, exactly;
# 3. a gradient step on $\tilde S$ (a second pass), with it on biases and the dense head;
# 4. the SVD $P \Sigma Q^\top$ of the small $S_1$, cut at the smallest $r'$ with $\|\sigma_{r'+1:}\| \le \vartheta\, \|\sigma\|$.
#
# $K_1$ only tells the directions. $[U \mid K_1]$ spans what $[U \mid G V]$ does, whatever the step: that is how it is computed here.
#
# $$ \|W_n - W(nh)\| \le c_1 \varepsilon + c_2 h + c_3\, \vartheta / h, \qquad c_i \text{ independent of the singular values}, $$
#
# where $\varepsilon$ says how far the flow of the full matrix is from rank $r$.
#
# ## One step, seen from above
#
# Symmetric 2 by 2 matrices of rank 1 form a cone. From above, the radius is the singular value and the angle that of the vector, doubled.
# Move the start toward the tip: the step of $U, S, V$ divides by the radius, KLS does not.

# %%
lesson.OneStep()

# %%
import inspect
import time

import torch
from IPython.display import Code
from torch import nn

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture
from tensorlab.papers import dlrt as paper
from tensorlab.papers.table import Table, measured, printed

Code(inspect.getsource(tl.DLRT.step), language="python")

# %% [markdown]
# ## The theorem as numbers
#
# $\dot W = A - W$ has the solution $W(t) = A + e^{-t} (W(0) - A)$. We start with three singular values of order 1 and three tiny ones, whose
# vectors have to turn into those of $A$. However tiny they are, KLS has the same error; $U, S, V$ has another story.

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

# %% [markdown]
# The three terms, one at a time: halving $h$ halves the error; noise $\varepsilon$ in $A$, which no matrix of rank 6 can follow, is a floor;
# and a truncation at $\vartheta$ does no harm while it is below what one step adds, which is of order $h$, and ruins everything above.

# %%
steps = fast([0.2, 0.1], full=[0.2, 0.1, 0.05, 0.025, 0.0125])
cuts = fast([1e-4, 1e-2], full=[1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1])
by_h = {
    f"ε = {e:g}": [(h, lesson.flow_errors(1e-8, h, epsilon=e)["KLS"]) for h in steps]
    for e in (0.0, 0.1)
}
by_theta = {
    f"h = {h:g}": [(t, lesson.flow_errors(1e-8, h, theta=t)["KLS"]) for t in cuts]
    for h in (steps[0], steps[-1])
}


def terms(figure):
    left, right = figure.subplots(1, 2)
    return f"{plots.ode_errors(left, by_h, 'h')} {plots.ode_errors(right, by_theta, 'theta')}"


picture(terms, figsize=(9, 3.2))

# %% [markdown]
# ## Three lines of a training loop
#
# Any model, any optimizer of torch: put a `LowRank` with its middle factor into the layers, wrap the optimizer, call `step`.

# %%
x, y, x_test, y_test = lesson.digits()
g = torch.Generator().manual_seed(0)
model = lesson.MLP((64, 100, 100, 10), generator=g)
tl.replace_linear(
    model, "layers.[01]", lambda w: tl.dlrt_start(w.shape, 30, decay=1.1, generator=g)
)
dlrt = tl.DLRT(model, torch.optim.Adam(model.parameters(), 3e-3), theta=0.15)
for epoch in range(fast(2, full=10)):
    for rows in torch.randperm(len(y), generator=g).split(64):
        a, b = x[rows], y[rows]
        loss = dlrt.step(lambda: nn.functional.cross_entropy(model(a), b))  # noqa: B023
    right = lesson.accuracy(model, x_test, y_test)
    print(
        f"epoch {epoch}: loss {loss:.3f}, {100 * right:.1f} % right, ranks {list(dlrt.ranks.values())}"
    )

# %% [markdown]
# ## What theta does
#
# The ranks fall within the first steps, then drift; a larger `theta` gives smaller ranks. The last column is stored by two factors.

# %%
rows = []
for theta in fast((0.1, 0.3), full=(0.05, 0.1, 0.2, 0.3, 0.45)):
    model, g = lesson.network(32, decay=1.1)
    dlrt = tl.DLRT(model, torch.optim.SGD(model.parameters(), 0.05, momentum=0.9), theta=theta)
    ranks = [max(dlrt.ranks.values())]
    for _ in lesson.training(model, dlrt, g, fast(1, full=8)):
        ranks.append(max(dlrt.ranks.values()))
    right = 100 * lesson.accuracy(model, x_test, y_test)
    rows.append(
        {
            "theta": theta,
            "largest rank by epoch": " ".join(map(str, ranks)),
            "% right": round(right, 1),
            **paper.counts(model),
        }
    )
Table("digits", rows)

# %% [markdown]
# ## Beside the printed numbers
#
# The paper's table of LeNet5 on MNIST counts **one** factor of each layer, $\sum_i r_i (n_i + 1)$ and the dense head. To multiply one
# needs both, $\sum_i r_i (n_i + m_i)$. Both counts, from the printed ranks (those of the best run; the accuracies are means over five runs,
# each at its epoch of best validation loss):

# %%
sizes = [(20, 25), (50, 500), (500, 800)]
table = printed(paper.PROGRAM.key)
rows = []
for row in table.where(method="DLRT"):
    ranks = [int(r) for r in row["ranks"].split()]
    both = sum(r * sum(shape) for r, shape in zip(ranks, sizes)) + 5000
    saved = {
        "one": f"{100 * (1 - row['one factor'] / 430500):.1f} %",
        "both": f"{100 * (1 - both / 430500):.1f} %",
    }
    rows.append(
        {
            "theta": row["theta"],
            "accuracy": row["accuracy"],
            "printed": row["one factor"],
            "both factors": both,
            **saved,
        }
    )
Table(paper.PROGRAM.key, rows)

# %% [markdown]
# Ours, by `tensorlab run Schotthoefer2022 --preset full` (those rows that have been run; fewer epochs than the paper's):

# %%
ours = measured(paper.PROGRAM.key)
ours if len(ours) else print("Not run yet: tensorlab run Schotthoefer2022 --preset full --record")

# %% [markdown]
# ## Where it does not help
#
# The paper compares with plain factors, $W = U V^\top$ trained by gradient descent. Where the start has singular values that decay as
# $2^{-k}$ or $10^{-k}$, those stick: their gradient is multiplied by factors that are tiny. But from a *well-scaled* start (decay 1) plain
# factors do as well, when the learning rate of each is tuned. So DLRT buys robustness, and a rank that need not be known; not accuracy
# as such. And it takes two passes a step.

# %%
rates = fast((0.1,), full=(0.02, 0.05, 0.1, 0.2))
rows = []
for decay in fast((1, 10), full=(1, 2, 10)):
    best = {}
    for name in ("U V", "DLRT"):
        for rate in rates:
            model, g = lesson.network(10, decay=decay)
            if name == "U V":
                lesson.balance(model)
            sgd = torch.optim.SGD(model.parameters(), rate)
            method = tl.FactorSGD(model, sgd) if name == "U V" else tl.DLRT(model, sgd, theta=None)
            for _ in lesson.training(model, method, g, fast(1, full=5)):
                pass
            best[name] = max(
                best.get(name, (0.0, rate)), (100 * lesson.accuracy(model, x_test, y_test), rate)
            )
    row = {name: f"{right:.1f} % at {rate:g}" for name, (right, rate) in best.items()}
    rows.append(
        {"decay": decay, **row, "DLRT ahead by": round(best["DLRT"][0] - best["U V"][0], 1)}
    )
Table("UV", rows)

# %% [markdown]
# Lesson 18 has one table of all that competes with it, at equal numbers stored and with the cost of each training.
#
# What it costs: numbers held in a step of one 500 by 500 layer (weights, gradients, and momentum of what the optimizer steps), and
# CPU time. Memory falls at every rank below about 150; time at small ranks only, below 10 to 20 here and 50 in large batches: two
# passes, a basis more for each factor and an SVD eat up what the thin products save. `tests/benchmarks/bench_dlrt.py` finds where
# they cross.

# %%
rows = []
for rank in fast((5, 20), full=(5, 20, 50, 100, 250)):
    layer = tl.FactorizedLinear(tl.dlrt_start((500, 500), rank), torch.zeros(500))
    dlrt = tl.DLRT(layer, torch.optim.SGD(layer.parameters(), 1e-3), theta=0.0, max_rank=rank)
    batch, start = torch.randn(256, 500), time.process_time()
    for _ in range(fast(2, full=5)):
        dlrt.step(lambda: layer(batch).square().mean())  # noqa: B023
    spent = (time.process_time() - start) / (fast(2, full=5))
    held = 2 * (2 * rank * 1000) + 3 * (2 * rank) ** 2
    rows.append(
        {
            "rank": rank,
            "numbers in a step": held,
            "dense": 3 * 500 * 500,
            "ms of CPU": round(1000 * spent, 1),
        }
    )
Table("cost", rows)

# %% [markdown]
# ## Exercises
#
# **Predict.**

# %%
print(lesson.stored_numbers.question)
lesson.stored_numbers(...)

# %% [markdown]
# **Implement.**


# %%
def cut(u, s, v, theta): ...


print(lesson.truncated.question)
lesson.truncated(cut)

# %% [markdown]
# **Explore.**

# %%
print(lesson.largest_theta.question)
lesson.largest_theta(...)
