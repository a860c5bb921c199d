# %% [markdown]
# # Where does the kernel of a convolution hold its redundancy?
#
# A trained kernel has four modes: channels out, channels in, height, width. Each structure bets on another place. Choose one and a
# rank: above stands the chain of small convolutions that replaces the layer, below the filters as trained, as the chain has
# them, and the difference.

# %%
from tensorlab.course.lessons import conv as lesson

lesson.ConvExplorer()

# %% [markdown]
# ## The mathematics
#
# A convolution with kernel $k$ of shape $(T, S, d, d)$ costs $d^2 S T$ multiply-adds for each pixel. If $k$ is a sum of products, the
# sums can be done one after another, and each factor is a convolution of its own:
#
# | structure | $k[t, s, i, j] =$ | chain | weights |
# |---|---|---|---|
# | SVD of the flattened kernel | $\sum_r u[t,r]\, v[s,i,j,r]$ | $d \times d$ to $r$ channels, $1 \times 1$ | $r (d^2 S + T)$ |
# | spatial [Jaderberg2014] | $\sum_r b[s,i,r]\, a[t,j,r]$ | $d \times 1$ to $r$ channels, $1 \times d$ | $r d (S + T)$ |
# | Tucker-2 [Kim2016] | $\sum_{pq} a[t,p]\, g[p,q,i,j]\, b[s,q]$ | $1 \times 1$, $d \times d$ from $q$ to $p$, $1 \times 1$ | $Sq + d^2 pq + Tp$ |
# | train [Garipov2016] | a product of four matrices | $1 \times 1$, $d \times 1$, $1 \times d$, $1 \times 1$ | $S r_0 + d r_0 r_1 + d r_1 r_2 + r_2 T$ |
# | CP [Lebedev2015] | $\sum_r a[t,r]\, b[s,r]\, c[i,r]\, d[j,r]$ | $1 \times 1$, two that keep channels apart, $1 \times 1$ | $r (S + 2d + T)$ |
#
# Stride, padding and dilation go where their axis is; the bias stands in the last. At full rank every chain **is** the layer:

# %%
import copy
import inspect

import torch
from IPython.display import Code, display
from torch import nn

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture
from tensorlab.papers import convolutions, table

layer = nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2), dtype=torch.float64)
x = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
for name, make in lesson.STRUCTURES.items():
    with torch.no_grad():
        print(
            f"{name:8} differs from the layer by {float((make(layer, 1000)(x) - layer(x)).abs().max()):.1e}"
        )

# %% [markdown]
# ## Where the redundancy is
#
# The singular values of a trained kernel, unfolded in three ways: by channels out, by channels in, and as the matrix of the spatial
# structure. What falls fast can be cut.

# %%
kernel = lesson.network().second.weight.detach()
t, s, kh, kw = kernel.shape
unfoldings = {
    "channels out": kernel.reshape(t, -1),
    "channels in": kernel.transpose(0, 1).reshape(s, -1),
    "in and height": kernel.permute(1, 2, 0, 3).reshape(s * kh, t * kw),
    "height": kernel.permute(2, 0, 1, 3).reshape(kh, -1),
}
spectra = {name: torch.linalg.svdvals(matrix) for name, matrix in unfoldings.items()}
picture(lambda figure: plots.singular_values(figure.subplots(), spectra, 0.1))

# %%
Code(inspect.getsource(tl.tucker_conv), language="python")

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

# %% [markdown]
# On the trained kernel: plain ALS beside the ridge, error and energy of the terms.

# %%
sweeps = fast(20, full=200)
for r in (6, 16):
    seed = lambda: torch.Generator().manual_seed(0)
    plain = tl.cp_als(kernel.double(), r, tol=0.0, max_iter=sweeps, generator=seed())
    stable = tl.cp_stable(kernel.double(), r, tol=0.0, max_iter=sweeps, generator=seed())
    for name, fit in (("ALS", plain), ("ridge 1e-3", stable)):
        print(
            f"rank {r:2}  {name:10}  error {fit.history[-1]:.4f}   energy of the terms / of their sum {tl.cp_degeneracy(fit.value):.2f}"
        )

# %% [markdown]
# ## Accuracy against FLOPs
#
# The two convolutions that do the work are replaced at a share of their FLOPs; then the network is trained a little more. The
# dense network is trained on as long and is what the others are compared with.

# %%
x, y, test_x, test_y = convolutions.images()
x, y, tuning = fast((x[:300], y[:300], 1), full=(x, y, 4))
network = lesson.network()
work = lambda model: sum(tl.layer_flops(model, x[:1]).values())
tune = lambda model: convolutions.train(model, x, y, epochs=tuning, lr=1e-3, batch=64, seed=1)
score = lambda model: 100 * convolutions.accuracy(model, test_x, test_y)
print(
    f"dense    {score(network):.1f} %, trained on as long as the others {score(tune(copy.deepcopy(network))):.1f} %"
)
for share in fast((0.2,), full=(0.3, 0.2, 0.1)):
    for name in list(convolutions.STRUCTURES)[: fast(2, full=None)]:
        model = convolutions.factorized(network, name, share, x[:1])
        before = score(model)
        after = score(tune(model))
        print(
            f"{name:8} {work(network) / work(model):5.2f} times fewer FLOPs: {before:5.1f} % before fine-tuning, {after:5.1f} % after"
        )

# %% [markdown]
# The same as a program, `tensorlab run Lebedev2015`, at preset full on MNIST. Our numbers, and what the papers print for networks
# thousands of times larger.

# %%
tables = table.measured("Lebedev2015"), table.printed("Lebedev2015"), table.printed("Kim2016")
display(*(numbers for numbers in tables if len(numbers)))

# %% [markdown]
# ## Where it loses
#
# FLOPs are not seconds. A small layer spends its time on calls and on memory, and a chain calls four times where the layer calls once;
# convolutions that keep channels apart do little work for each number they read.

# %%
for channels, side in fast(((16, 8),), full=((16, 8), (64, 16), (128, 32))):
    big = nn.Conv2d(channels, channels, 3, padding=1)
    image = torch.randn(8, channels, side, side)
    for name in ("CP", "Tucker", "spatial"):
        options = dict(max_iter=3) if name == "CP" else {}
        chain = lesson.STRUCTURES[name](big, flops=0.25, image_size=(side, side), **options)
        with torch.no_grad():
            speed = convolutions.speedup(big, chain, image)
        print(
            f"{channels:3} channels, {side:2} x {side:2}, a quarter of the FLOPs: {name:8} {speed:.2f} times the speed"
        )

# %% [markdown]
# And a kernel that was never trained has no redundancy at all: of random numbers every structure loses the larger part.

# %%
random = nn.Conv2d(16, 16, 3)
for name, make in lesson.STRUCTURES.items():
    options = dict(max_iter=20) if name == "CP" else {}
    with torch.no_grad():
        chain = make(random, flops=0.25, image_size=(10, 10), **options)
        error = float((tl.conv_kernel(chain) - random.weight).norm() / random.weight.norm())
    print(f"{name:8} relative error of the kernel {error:.2f}")

# %% [markdown]
# ## Exercises
#
# **Predict.**

# %%
print(lesson.cp_weights.question)
lesson.cp_weights(...)

# %% [markdown]
# **Implement.**


# %%
def spatial_kernel(kernel, rank): ...


print(lesson.spatial_kernel.question)
lesson.spatial_kernel(spatial_kernel)

# %% [markdown]
# **Explore.**

# %%
print(lesson.tucker_rank.question)
lesson.tucker_rank(...)
