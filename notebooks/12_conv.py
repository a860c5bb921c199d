# %% [markdown] tags=["lesson"]
# name = "factorized convolutions"
# minutes = 75
# needs = ["02_cp", "03_tucker", "04_tt"]
# aims = [
#     "build the chains of two structures from the SVDs of a kernel",
#     "count what a chain stores and what it costs",
#     "say which rival a compressed convolution has to beat",
# ]
# take = [
#     "A kernel that is a sum of products is a chain of small convolutions; each structure bets on another place for the redundancy.",
#     "The error of a kernel says little about the network: a little training afterwards repairs most of what a cut destroys.",
#     "Count the rivals too: a narrower network trained from scratch costs as little, and operations that are saved are not seconds.",
# ]

# %% [markdown]
# # Where does the kernel of a convolution hold its redundancy?
#
# A trained kernel has four [modes](00b_vocabulary.ipynb#Mode): channels out, channels in, height, width. Each structure bets on another place. Choose one and a
# [rank](00b_vocabulary.ipynb#Rank): above is the chain of small convolutions that replaces the layer, below are the filters as trained, as the chain has
# them, and the difference.

# %%
from tensorlab.course.lessons import conv as lesson

lesson.ConvExplorer()

# %% [markdown]
# ## The mathematics
#
# A convolution with kernel $k$ of shape $(T, S, d, d)$ costs $d^2 S T$ multiply-adds for each pixel. If $k$ is a sum of products, the
# sums can be done one after another, and each factor is a convolution:
#
# | structure | $k[t, s, i, j] =$ | chain | weights |
# |---|---|---|---|
# | SVD of the flattened kernel | $\sum_r u[t,r]\, v[s,i,j,r]$ | $d \times d$ to $r$ channels, $1 \times 1$ | $r (d^2 S + T)$ |
# | spatial [Jaderberg2014] | $\sum_r b[s,i,r]\, a[t,j,r]$ | $d \times 1$ to $r$ channels, $1 \times d$ | $r d (S + T)$ |
# | Tucker-2 [Kim2016] | $\sum_{pq} a[t,p]\, g[p,q,i,j]\, b[s,q]$ | $1 \times 1$, $d \times d$ from $q$ to $p$, $1 \times 1$ | $Sq + d^2 pq + Tp$ |
# | train [Garipov2016] | a product of four matrices | $1 \times 1$, $d \times 1$, $1 \times d$, $1 \times 1$ | $S r_0 + d r_0 r_1 + d r_1 r_2 + r_2 T$ |
# | CP [Lebedev2015] | $\sum_r a[t,r]\, b[s,r]\, c[i,r]\, d[j,r]$ | $1 \times 1$, two that keep channels apart, $1 \times 1$ | $r (S + 2d + T)$ |
#
# Stride, padding and dilation go where their axis is; the bias is added by the last convolution. Tucker-2 in the letters of the table:

# %%
import torch
from torch.nn import functional as F

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.claims import say
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture


def plain_tucker2(k, p, q):
    """a[t, p], g[p, q, i, j], b[s, q] from SVDs of the two channel unfoldings."""
    a = torch.linalg.svd(k.flatten(1), full_matrices=False)[0][:, :p]
    b = torch.linalg.svd(k.transpose(0, 1).flatten(1), full_matrices=False)[0][:, :q]
    return a, torch.einsum("tsij,tp,sq->pqij", k, a, b), b


def plain_chain(x, a, g, b):
    """1 x 1, d x d, 1 x 1."""
    x = F.conv2d(x, b.T[:, :, None, None])
    x = F.conv2d(x, g, padding=1)
    return F.conv2d(x, a[:, :, None, None])


layer = lesson.network().second
k = layer.weight.detach().double()
T, S, d, _ = k.shape
x = torch.randn(4, S, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
y = F.conv2d(x, k, padding=1)
off = float((plain_chain(x, *plain_tucker2(k, T, S)) - y).norm() / y.norm())
a, g, b = plain_tucker2(k, 8, 6)
plain = float((torch.einsum("pqij,tp,sq->tsij", g, a, b) - k).norm() / k.norm())
chain = tl.tucker_conv(layer, (8, 6))
theirs = float((tl.conv_kernel(chain).detach() - k).norm() / k.norm())
say(
    f"At full rank the chain is the layer, up to {off:.0e}. With ranks 8 and 6 it has {a.numel() + g.numel() + b.numel()} weights instead of "
    f"{k.numel():,}, and the kernel is off by {plain:.3f}; `tl.tucker_conv`, which improves the two factors in turn, is off by {theirs:.3f}.",
    off < 1e-12,
    a.numel() + g.numel() + b.numel() < k.numel() / 1.8,
    theirs <= plain * (1 + 1e-6),
)

# %% [markdown]
# ## Where the redundancy is
#
# Singular values of four [unfoldings](00b_vocabulary.ipynb#Unfolding), of the trained kernel on the left, and of random numbers of the same shape on the right. What
# falls fast can be cut.


# %%
def spectra(figure):
    found = lesson.spectra()
    for ax, (title, s) in zip(figure.subplots(1, 2, sharey=True), found.items()):
        plots.singular_values(ax, s, 0.1)
        ax.set(yscale="linear", title=title, ylim=(0, 1.05))
    return f"Singular values of {' and '.join(found)}, by unfolding; the line is a tenth of the largest."


picture(spectra, figsize=(9, 3))

# %%
middle = {
    title: {name: float(v[len(v) // 2] / v[0]) for name, v in s.items()}
    for title, s in lesson.spectra().items()
}
trained, random = middle["trained"], middle["random"]
say(
    "The singular value in the middle, over the largest: "
    + ", ".join(
        f"{trained[name]:.2f} for {name} ({random[name]:.2f} if random)" for name in trained
    )
    + ". A trained kernel of this size falls faster than random numbers along the channels, but no unfolding has a cliff.",
    all(trained[name] < random[name] for name in ("channels out", "channels in", "in and height")),
    min(trained.values()) > 0.1,
)

# %% [markdown]
# The error of the kernel against weights stored, for the five structures; the dense kernel is the gray line. On the right the kernel that was
# never trained.

# %%
picture(lesson.draw_errors, figsize=(9, 3.2))

# %%
trained, random = (lesson.errors(trained) for trained in (True, False))
half = lambda curves: {
    name: lesson.at_most(points, k.numel() / 2) for name, points in curves.items()
}
of, noise = half(trained), half(random)
say(
    "With at most half of the weights the errors are "
    + ", ".join(f"{name} {error:.2f}" for name, error in of.items())
    + ", and of a random kernel "
    + ", ".join(f"{error:.2f}" for error in noise.values())
    + ". No structure has an error under a tenth, and each loses less where there was training.",
    all(of[name] < noise[name] for name in of),
    min(of.values()) > 0.1,
)

# %% [markdown]
# ## A CP may have no best
#
# $a \circ a \circ b + a \circ b \circ a + b \circ a \circ a$ has rank three, yet tensors of rank two come as near as you like [DeSilvaLim2008]:
# two terms that grow and cancel. Kernels do the same in a milder way, and a network whose layers hold large numbers that must
# cancel does not train [Phan2020]. So the fit here charges for the energy of the terms:
#
# $$ \min \; \| k - \textstyle\sum_r z_r \|^2 + \mu \sum_r \| z_r \|^2 , \qquad\text{hence}\qquad \sum_r \| z_r \|^2 \le \| k \|^2 / \mu . $$
#
# With the other factors at unit columns each update solves $a\,(\Gamma + \mu I) = m$: a ridge on the normal equations.

# %%
lesson.TermsExplorer()

# %%
sweeps, fits = fast(20, full=200), {}
for name, fit in (("ALS", tl.cp_als), ("ridge", tl.cp_stable)):
    seeded = torch.Generator().manual_seed(0)
    found = fit(k, 16, tol=0.0, max_iter=sweeps, generator=seeded)
    fits[name] = found.history[-1], tl.cp_degeneracy(found.value)
say(
    f"On the trained kernel, at rank 16 and after {sweeps} sweeps: plain ALS has the error {fits['ALS'][0]:.3f} with terms of "
    f"{fits['ALS'][1]:.2f} times the energy of their sum, the ridge {fits['ridge'][0]:.3f} with {fits['ridge'][1]:.2f} times. Most of what plain ALS "
    f"adds cancels again, and to do without it costs next to nothing.",
    fits["ALS"][1] > fast(1, full=5) * fits["ridge"][1],
    fits["ridge"][0] < fits["ALS"][0] + fast(0.05, full=0.01),
)

# %% [markdown]
# ## Accuracy against operations
#
# The two convolutions that do the work are replaced at a share of their operations; then the network is trained a little more. The
# rivals: the dense network, trained on for as long, and a *narrow* one, whose two layers have fewer channels between them and so cost as little, trained from
# scratch. On the left right after the cut, on the right after training on; bars are standard deviations over seeds. Crosses on the right
# are what was printed for the Tucker-2 of AlexNet, VGG and GoogLeNet on ImageNet [Kim2016], in points below the dense network there.

# %%
found = lesson.race(
    fast((0.2,), full=(0.3, 0.2, 0.1)), tuning=fast(1, full=4), seeds=fast(2, full=3)
)
picture(lambda figure: lesson.draw_race(figure, found), figsize=(9.5, 3.6))

# %%
mean = lambda name, when: [sum(row[when]) / len(row[when]) for row in found[name]]
cut, after = (
    {name: mean(name, when)[-1] for name in lesson.STRUCTURES} for when in ("before", "after")
)
dense, narrow = mean("dense", "after")[0], mean("narrow", "after")[-1]
best, worst = max(after, key=after.get), min(after, key=after.get)
mild = {name: mean(name, "after")[0] for name in (*after, "narrow")}
beaten = [name for name, value in after.items() if value < narrow]
say(
    f"At a share of {found[best][-1]['share']:.1f} the cut networks read {min(cut.values()):.0f} to {max(cut.values()):.0f} % of the digits, and after training on "
    f"{after[worst]:.1f} % ({worst}) to {after[best]:.1f} % ({best}). The dense network reads {dense:.1f} %, and the narrow one {narrow:.1f} %: "
    f"it beats {len(beaten)} of the {len(after)} structures. At a share of {found[best][0]['share']:.1f} CP reads {mild['CP']:.1f} % and the narrow "
    f"network {mild['narrow']:.1f} %.",
    all(after[name] > cut[name] for name in after),
    max(after.values()) < dense + fast(9, full=1),
    fast(True, full=len(beaten) >= 4 and mild["CP"] > mild["narrow"]),
)

# %% [markdown]
# The same as a program, at preset full on MNIST: `tensorlab run Lebedev2015`.
#
# ## Where it loses
#
# Operations are not seconds. A small layer spends its time on calls and on memory, and a chain calls four times where the layer calls once;
# convolutions that keep channels apart do little work for each number they read. Each bar is a chain of a quarter of the operations; the
# solid line is the layer itself, the dashed one four times its speed.

# %%
speeds = lesson.speeds(fast(((16, 8),), full=((16, 8), (64, 16), (128, 32))))
picture(lambda figure: lesson.draw_speeds(figure, speeds), figsize=(7, 3))

# %%
every = [speed for of in speeds.values() for speed in of.values()]
say(
    f"On this machine a quarter of the operations gives {min(every):.1f} to {max(every):.1f} times the speed, in the mean "
    f"{sum(every) / len(every):.1f} times and not four.",
    sum(every) < 4 * len(every),
    min(every) < 3,
)

# %% [markdown]
# ## Exercises
#
# Exercises 2 to 5 build two of the chains. A blank says nothing; a wrong answer gets its own hint.
#
# ### 1. Count (★, 3 minutes)
#
# A convolution 5 × 5 from 32 to 64 channels, without a bias, becomes a CP chain of rank 40. How many weights has the chain?

# %%
cp_weights = ...
lesson.cp_weights(cp_weights)

# %% [markdown] tags=["hints"]
# Each of the four modes of the kernel has a factor with one column for each term.
#
# The two convolutions in the middle move each channel by itself.

# %% tags=["solution"]
cp_weights = 40 * (32 + 5 + 5 + 64)

# %% [markdown]
# ### 2. Unfold (★★, 5 minutes)
#
# Write `spatial_matrix(kernel)`: the kernel (T, S, kh, kw) as the matrix whose rows are the pairs (s, i) and whose columns are the pairs (t, j).


# %%
def spatial_matrix(kernel): ...


lesson.spatial_matrix(spatial_matrix)

# %% [markdown] tags=["hints"]
# Bring the modes into the order s, i, t, j first: `kernel.permute(...)`.
#
# Then join them two by two: `reshape(s * kh, t * kw)`.


# %% tags=["solution"]
def spatial_matrix(kernel):
    t, s, kh, kw = kernel.shape
    return kernel.permute(1, 2, 0, 3).reshape(s * kh, t * kw)


# %% [markdown]
# ### 3. Two kernels (★★, 15 minutes)
#
# Write `spatial_factors(kernel, rank)`: the kernels (rank, S, kh, 1) and (T, rank, 1, kw) of two convolutions that together are as near to
# `kernel` (T, S, kh, kw) as two such convolutions can be.


# %%
def spatial_factors(kernel, rank): ...


lesson.spatial_factors(spatial_factors)

# %% [markdown] tags=["hints"]
# The truncated SVD of `spatial_matrix(kernel)` is the best; its rank is the number of channels in the middle.
#
# Rows of u are pairs (s, i): `u[:, :rank].reshape(s, kh, rank)`. Permute it, and add a mode of size 1 for the width.


# %% tags=["solution"]
def spatial_factors(kernel, rank):
    t, s, kh, kw = kernel.shape
    u, values, vh = torch.linalg.svd(spatial_matrix(kernel), full_matrices=False)
    first = (u[:, :rank] * values[:rank]).reshape(s, kh, rank).permute(2, 0, 1)
    second = vh[:rank].reshape(rank, t, kw).permute(1, 0, 2)
    return first[..., None], second[:, :, None]


# %% [markdown]
# ### 4. The chain on images (★★, 5 minutes)
#
# Write `spatial_apply(x, first, second)`: what a convolution with stride 1 and without padding makes of the images x (n, S, H, W), by the two kernels of
# exercise 3. Do not form the kernel (T, S, kh, kw): the check has one that is larger than anything on the way.


# %%
def spatial_apply(x, first, second): ...


lesson.spatial_apply(spatial_apply)

# %% [markdown] tags=["hints"]
# `torch.nn.functional.conv2d(images, kernel)` has stride 1 and no padding.
#
# The result of the first convolution is the input of the second.


# %% tags=["solution"]
def spatial_apply(x, first, second):
    return F.conv2d(F.conv2d(x, first), second)


# %% [markdown]
# ### 5. Three kernels (★★★, 15 minutes)
#
# Write `tucker_factors(kernel, p, q)`: the kernels (q, S, 1, 1), (p, q, kh, kw) and (T, p, 1, 1) of a Tucker-2 chain near `kernel`. The bases
# of the channels are the leading left singular vectors of the two channel unfoldings.


# %%
def tucker_factors(kernel, p, q): ...


lesson.tucker_factors(tucker_factors)

# %% [markdown] tags=["hints"]
# The unfolding of the channels out is `kernel.flatten(1)`; for the channels in, exchange the first two modes before.
#
# The core is the kernel in these bases: `torch.einsum("tsij,tp,sq->pqij", kernel, a, b)`.


# %% tags=["solution"]
def tucker_factors(kernel, p, q):
    basis = lambda x, r: torch.linalg.svd(x.flatten(1), full_matrices=False)[0][:, :r]
    a, b = basis(kernel, p), basis(kernel.transpose(0, 1), q)
    core = torch.einsum("tsij,tp,sq->pqij", kernel, a, b)
    return b.T[:, :, None, None], core, a[:, :, None, None]


# %% [markdown]
# ### 6. Predict: the saving (★★, 5 minutes)
#
# A 3 × 3 convolution from 64 to 64 channels becomes a Tucker-2 chain with both ranks 16. How many times fewer multiply-adds does a pixel take?

# %%
tucker_saving = ...
lesson.tucker_saving(tucker_saving)

# %% [markdown] tags=["hints"]
# With stride 1 each weight is used once for each pixel.
#
# Count the weights of the three convolutions, and divide those of the layer by them.

# %% tags=["solution"]
tucker_saving = (9 * 64 * 64) / (64 * 16 + 9 * 16 * 16 + 16 * 64)

# %% [markdown]
# ### 7. Explore (★, 5 minutes)
#
# In the explorer at the top, with Tucker: which is the smallest rank at which the relative error of the kernel is at most one half?

# %%
tucker_rank = ...
lesson.tucker_rank(tucker_rank)

# %% [markdown] tags=["hints"]
# The error is at the end of the sentence below the picture.
#
# It falls as the rank grows; begin in the middle of the slider.

# %% tags=["solution"]
tucker_rank = next(r for r in range(1, 17) if lesson.kernel_error("Tucker", r) <= 0.5)
