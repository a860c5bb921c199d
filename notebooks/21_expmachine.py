# %% [markdown]
# # Which features act together?
#
# A linear model weighs features one by one. A model that weighs all $2^d$ products of them cannot be written down, but as a
# tensor train it can be trained. Three sets of features were planted in the data below; the hatched bars are theirs.

# %%
import inspect

import torch
from IPython.display import Code

import tensorlab as tl
from tensorlab import datasets, plots
from tensorlab.course.lab import fast
from tensorlab.course.lessons import expmachine as lesson
from tensorlab.course.widgets import picture
from tensorlab.papers import expmachine as paper

lesson.InteractionExplorer()

# %% [markdown]
# ## The mathematics
#
# An exponential machine [Novikov2016] has a coefficient for each set of features,
#
# $$ y(x) = \sum_{i \in \{0,1\}^d} W[i_0, \dots, i_{d-1}] \prod_k x_k^{i_k}
#    = \big\langle W,\; (1, x_0) \circ (1, x_1) \circ \dots \circ (1, x_{d-1}) \big\rangle , $$
#
# and $W$ is a train. The tensor on the right has rank one, so the inner product is a chain of small products,
# $v_{k+1} = v_k (G_k[0] + x_k G_k[1])$: $O(d r^2)$ for each object. A category with $K$ values has $K + 1$ slices. Columns are
# standardized first, so that their units do not matter.
#
# There are three ways to learn here. **Adam** on all cores. **Riemannian** descent on the manifold of trains, which sees the
# tensor and not its cores (lesson 07). And **core by core**: $y$ is linear in each core when the others are held, so each core is a
# logistic regression, solved by a Newton step. All start from the linear model; below, a start that knows more.

# %%
Code(inspect.getsource(tl.rank_one_inner), language="python")

# %% [markdown]
# ## Two ways to the same place
#
# The loss on the data against seconds, from the same start.

# %%
sets = lesson.planted(3, 0)
x, y = lesson.corners(fast(400, full=2000), sets, 0.05, 0)
z, t = lesson.corners(2000, sets, 0.0, 500)
curves = {}
for method, steps in (
    ("riemannian", fast(4, full=60)),
    ("cores", fast(1, full=5)),
    ("adam", fast(20, full=600)),
):
    batch = 512 if method == "adam" else len(x)
    machine = tl.ExponentialMachine(
        rank=5, method=method, steps=steps, batch=batch, ridge=1e-3
    ).fit(x, y)
    curves[method] = [value for _, _, value in machine.history_]
    print(
        f"{method:10} {steps:4} steps, {machine.history_[-1][1]:5.2f} s: loss {curves[method][-1]:.4f}, "
        f"AUC on new rows {paper.auc(machine.decision_function(z), t):.4f}"
    )
picture(lambda figure: plots.convergence(figure.subplots(), curves))

# %% [markdown]
# ## Train, shallow or deep
#
# The same inner product with another format is another network: a CP is a shallow one, a tree (HT) a deep one (lesson 22).

# %%
for form in ("tt", "cp", "ht"):
    machine = tl.ExponentialMachine(rank=5, format=form, steps=fast(20, full=800), lr=0.01).fit(
        x, y
    )
    print(
        f"{form}: {machine.weights_.numel:4} numbers, AUC on new rows {paper.auc(machine.decision_function(z), t):.4f}, "
        f"strongest {machine.strongest(3, 3)[0][0]}"
    )

# %% [markdown]
# ## The paper's task
#
# Thirty features, twenty products of six: nothing is seen by a linear model, by pairs, or by the first gradients of a train that
# starts from a linear model. The paper needs $10^5$ objects and many minutes, `tensorlab run Novikov2016 --preset full` is that run.
# Here it is smaller: twenty-four features, eight products of six.
#
# A better start needs no gradient. The product $p_S$ of the columns in $S$ is one more column, and what it has to do with the
# residual $r$ of the linear model is one inner product [FanLv2008],
#
# $$ \rho_S = \frac{\langle r, p_S \rangle}{|r|\,|p_S|}, \qquad p_S = p_A\, p_B, \quad
#    A = \text{first half of } S,\; B = \text{second half}, $$
#
# so all $\binom{24}{6}$ of them are a few products of matrices, the halves in rows and columns. No start from pairs would do: the
# pairs of a planted set do not correlate with anything.

# %%
data, (sets, weights) = paper.synthetic(fast(1000, full=8000), 24, 6, 8), paper.planted(24, 6, 8)
x, y = data[:2]
found = tl.screen_interactions(x, y - y.float().mean(), 6, 16)
picture(
    lambda figure: plots.interactions(
        figure.subplots(), found, sets, "correlation with the residual"
    )
)

# %% [markdown]
# A product of columns is a train of rank one. `init="screened"` puts as many of them into the start as the rank holds beside the
# linear model, and fits their weights together with it. Descent gets few steps there, and small ones: more of it
# lowers the loss on the rows learned from and the AUC on new ones (try `lr=0.002`).

# %%
steps = fast(20, full=600)
starts = {
    "linear": dict(lr=0.005, steps=steps),
    "screened": dict(lr=0.0001, steps=min(steps, 100), order=6),
}
for method, settings in (
    (paper.LOGISTIC, None),
    (paper.FOREST, None),
    *(
        (f"rank {rank}, init {init}", dict(rank=rank, init=init, **starts[init]))
        for rank, init in ((10, "linear"), (6, "screened"), (10, "screened"))
    ),
):
    seen = paper.fit(method, *data, settings, (sets, weights))
    recovery = f"   recovery {seen['recovery']:.2f}" if "recovery" in seen else ""
    print(f"{method:23} AUC {seen['AUC']:.3f}   {seen['seconds']:4.1f} s{recovery}")

# %% [markdown]
# Recovery is the cosine of the learned coefficients and the planted ones. At rank 6 the start holds four of the eight products.
#
# Screening has its price: the number of sets, $\binom{d}{6}$, is within reach for tens of columns, not for hundreds. And it
# judges each product alone, so one that shows only beside another is not seen.

# %% [markdown]
# ## When it loses
#
# Real tables are often nearly linear. On thirty measurements of tumours the machine has little to add to logistic regression, and more to
# overfit with.

# %%
x, y = tuple(datasets.breast_cancer())[:2]
x = (x - x.mean(0)) / x.std(0)
order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
train, test = order[:400], order[400:]
for method, settings in (
    (paper.LOGISTIC, None),
    ("train of rank 4", dict(rank=4, steps=fast(20, full=300), spread=0.1, ridge=1e-2)),
):
    found = paper.fit(method, x[train], y[train], x[test], y[test], settings)
    print(
        f"{method:20} AUC {found['AUC']:.4f}   accuracy {found['accuracy']:.3f}   loss on the data {found['loss']:.3f}"
    )

# %% [markdown]
# ## Exercises
#
# **Predict.**

# %%
print(lesson.machine_storage.question)
lesson.machine_storage(...)

# %% [markdown]
# **Implement.**


# %%
def score(cores, x): ...


print(lesson.machine_score.question)
lesson.machine_score(score)

# %% [markdown]
# **Explore.**

# %%
print(lesson.feature_order.question)
lesson.feature_order(...)
