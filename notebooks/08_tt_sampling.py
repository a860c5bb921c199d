# %% [markdown]
# # How do you draw from a distribution over $10^{300}$ states?
#
# One index at a time. A train without negative entries is a distribution once it is divided by its sum, and that sum, every
# marginal and every conditional are products of small matrices. Below, exact probabilities stand beside the frequencies in
# samples; make one bit known, and see how far the others feel it.

# %%
from tensorlab.course.lessons import tt_sampling as lesson

lesson.DistributionExplorer()

# %% [markdown]
# ## The mathematics
#
# Let $x[i_0, \dots, i_{d-1}] = G_0[i_0] \cdots G_{d-1}[i_{d-1}] \ge 0$ and $p = x / \sum x$. The sum over all entries goes through the
# product: sum each core over its index, multiply the matrices. From the right,
#
# $$ z_d = 1, \qquad z_k = \Big(\sum_i G_k[i]\Big)\, z_{k+1}, \qquad \sum x = z_0 . $$
#
# What stands left of core $k$ once the first indices are drawn is a row $v = G_0[i_0] \cdots G_{k-1}[i_{k-1}]$, and the next index has
#
# $$ p(i_k \mid i_0, \dots, i_{k-1}) = \frac{v\, G_k[i_k]\, z_{k+1}}{\sum_j v\, G_k[j]\, z_{k+1}} . $$
#
# Draw it, multiply $v$ by $G_k[i_k]$, go on: an exact and independent sample after $d$ steps [Dolgov2020], without burn-in.
# Only ratios matter, so $v$ and $z$ are brought near 1 at every step, and where a logarithm is asked for, the powers of two are added up.
#
# A train *with* signs is a distribution too, by its squares: $p = |x|^2 / \langle x, x \rangle$, a **Born machine** [Han2018]. Make the
# cores right-orthonormal, and all that stands right of core $k$ has squares that sum to 1: nothing need be multiplied there
# [FerrisVidal2012].
#
# ## A thousand spins
#
# The Ising chain $p(s) \propto \exp(\beta \sum_k s_k s_{k+1})$ is a train of rank 2. On paper its sum is $2\,(2 \cosh \beta)^{d-1}$ and
# neighbours have the correlation $\tanh \beta$.

# %%
import inspect
import math

import torch
from IPython.display import Code

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture

d, beta, n = 1000, 0.8, fast(300, full=5000)
x, _ = lesson.example_distribution("Ising chain", d, beta)
print(f"states: 10^{d * math.log10(2):.0f}, numbers stored: {x.numel}")
print(
    f"log of the sum: {float(tl.tt_sum(x).log):.9f}, on paper {math.log(2) + (d - 1) * math.log(2 * math.cosh(beta)):.9f}"
)
spins = 2.0 * tl.tt_sample(x, n, generator=torch.Generator().manual_seed(0)) - 1
for distance in (1, 2, 5):
    seen = float((spins[:, distance:] * spins[:, :-distance]).mean())
    print(
        f"correlation at distance {distance}: {seen:.4f} in {n} samples, on paper {math.tanh(beta) ** distance:.4f}"
    )

# %%
Code(inspect.getsource(tl.tt_sample), language="python")

# %% [markdown]
# ## Why the powers of two are carried
#
# The same sum without them, in float32: the product leaves the range of numbers long before a thousand modes.

# %%
row, modes = torch.ones(1), 0
for core in x.to(torch.float32).cores:
    row, modes = row @ core.sum(1), modes + 1
    if not torch.isfinite(row).all():
        break
print(f"plain sum in float32: {float(row.max())} after {modes} modes")
log = float(tl.tt_sum(x.to(torch.float32)).log)
index = ((1 + spins[:3]) / 2).long()
print(
    f"with them: log of the sum {log:.3f}, log-probabilities of three samples {tl.tt_log_prob(x, index).tolist()}"
)

# %% [markdown]
# ## Beside a Markov chain Monte Carlo
#
# Heat bath: all even spins are drawn given the odd ones, then all odd ones given the even. It needs no train, but it starts
# somewhere (here: all up) and forgets that slowly when $\beta$ is large. Counted is the share of neighbours that differ.

# %%
beta, length, chains = 2.0, 200, fast(100, full=1000)
wanted = 1 / (1 + math.exp(2 * beta))
x, _ = lesson.example_distribution("Ising chain", length, beta)
generator = torch.Generator().manual_seed(0)
state = torch.ones(chains, length)
walls = lambda s: float((s[:, 1:] != s[:, :-1]).double().mean())
report = fast({1, 10, 100}, full={1, 10, 100, 1000})
for sweep in range(1, max(report) + 1):
    for start in (0, 1):
        field = torch.nn.functional.pad(state[:, 1:], (0, 1)) + torch.nn.functional.pad(
            state[:, :-1], (1, 0)
        )
        up = torch.rand(chains, length, generator=generator) < torch.sigmoid(2 * beta * field)
        state[:, start::2] = torch.where(up, 1.0, -1.0)[:, start::2]
    if sweep in report:
        print(
            f"after {sweep:4} sweeps: {walls(state):.5f} of neighbours differ, magnetization {float(state.mean()):.3f}"
        )
exact = 2.0 * tl.tt_sample(x, chains, generator=generator) - 1
print(
    f"exact samples:     {walls(exact):.5f}, magnetization {float(exact.mean()):.3f};   on paper {wanted:.5f} and 0"
)

# %% [markdown]
# ## A Born machine that learns
#
# The log-probability is differentiable, so that a train can be fitted to data. The data are all 4 by 4 pictures of bars or of
# stripes, 30 of 65536, as in [Han2018]; the mean of $-\log p$ cannot fall below $\log 30$.

# %%
rows = torch.cartesian_prod(*[torch.arange(2)] * 4)
stripes = rows[:, :, None].expand(-1, 4, 4)
data = torch.cat([stripes, stripes.mT]).reshape(-1, 16).unique(dim=0)
cores = [
    c.requires_grad_()
    for c in tl.TT.randn(
        (2,) * 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).cores
]
optimizer = torch.optim.Adam(cores, lr=0.1)
steps = fast(8, full=400)
for step in range(1, steps + 1):
    optimizer.zero_grad()
    loss = -tl.tt_log_prob(tl.TT(cores), data, squared=True).mean()
    loss.backward()
    optimizer.step()
    if step in (1, steps // 4, steps):
        print(
            f"step {step:3}: mean of -log p {float(loss.detach()):.4f}, the floor is {math.log(len(data)):.4f}"
        )
drawn = tl.tt_sample(tl.TT(cores), 1000, squared=True, generator=torch.Generator().manual_seed(0))
known = {tuple(row) for row in data.tolist()}
print(
    f"of 1000 samples {sum(tuple(row) in known for row in drawn.tolist())} are bars or stripes, "
    f"{len(known & {tuple(row) for row in drawn.tolist()})} of the {len(known)} are met"
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
# something else. The train of the *root*, squared, has none at any rank, and its distance is of the same order: between the two, only
# the second can be drawn from.

# %%
grid = torch.stack(
    torch.meshgrid([torch.linspace(-3, 3, 12, dtype=torch.float64)] * 4, indexing="ij")
)
p = (-(grid.square().sum(0) + 1.8 * (grid[:-1] * grid[1:]).sum(0)) / 0.8).exp() + 1e-3 * (
    -grid.abs().sum(0)
).exp()
p = p / p.sum()
for rank in (2, 4, 8):
    plain, root = tl.tt_svd(p, rank), tl.tt_svd(p.sqrt(), rank)
    q = root.to_dense().square()
    print(
        f"rank {rank}: plain train, {int((plain.to_dense() < 0).sum()):4} of {p.numel()} entries negative, distance "
        f"{float((plain.to_dense() - p).abs().sum()) / 2:.1e};   squared train, none, {float((q / q.sum() - p).abs().sum()) / 2:.1e}"
    )

# %% [markdown]
# *Order.* A train sees dependence only through its cuts. Five pairs of equal bits cost rank 2 when partners are neighbours, and
# $2^5$ when all partners stand on the other side, though either way they are five independent pairs.

# %%
pair = torch.eye(2, dtype=torch.float64)
near = torch.einsum("ab,cd,ef,gh,ij->abcdefghij", *[pair] * 5)
far = near.permute(0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
for name, x in {"partners are neighbours": near, "partners are far apart": far}.items():
    print(f"{name}: ranks {tl.tt_svd(x, rtol=1e-12).ranks}")

# %% [markdown]
# ## Exercises
#
# **Predict.**

# %%
print(lesson.born_marginal.question)
lesson.born_marginal(...)

# %% [markdown]
# **Implement.**


# %%
def log_sum(cores): ...


print(lesson.log_sum.question)
lesson.log_sum(log_sum)

# %% [markdown]
# **Explore.**

# %%
print(lesson.far_order.question)
lesson.far_order(...)
