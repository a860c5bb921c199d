# %% [markdown] tags=["lesson"]
# name = "low rank"
# minutes = 60
# needs = ["00_start"]
# aims = [
#     "see a matrix as a turn, a stretch and another turn",
#     "build a truncated SVD from products alone",
#     "predict the error and the size of a rank, and say when it does not pay",
# ]
# take = [
#     "A matrix is a sum of outer products, ordered by importance; the first r of them are the best approximation of rank r.",
#     "The tail of the singular values is the error, and r (m + n) is the price: look at both before you compress.",
#     "Low rank is a property of data: noise has none, and a layer of a network only some.",
# ]

# %% [markdown]
# # How few numbers carry a matrix?
#
# As many as its singular values ask for. Press *play*: each step adds one [outer product](00b_vocabulary.ipynb#Outer-product), a column times a row. On the left is the term
# that is added (bright: positive, dark: negative), in the middle the sum so far, on the right the sizes of all terms, with those that
# have been added in blue.

# %%
from tensorlab.course.lessons import lowrank as lesson

lesson.TermPlayer()

# %% [markdown]
# ## The mathematics
#
# A matrix turns the disk, stretches it along the axes, and turns it again. Press *play*, then set the second singular value
# to 0: what is flat has [rank](00b_vocabulary.ipynb#Rank) 1.

# %%
lesson.TurnPlayer()

# %% [markdown]
# In letters: every matrix $w$ of shape $(m, n)$ is
#
# $$ w = u\, s\, v^{\mathsf H} = \sum_k s_k\, u_k v_k^{\mathsf H} $$
#
# with orthonormal $u_k$, orthonormal $v_k$ and *singular values* $s_1 \ge s_2 \ge \dots \ge 0$. Each $u_k v_k^{\mathsf H}$ is an *outer product*:
# all products of an entry of $u_k$ and one of $v_k$. Keep the first $r$ terms. Then [EckartYoung1936]
#
# $$ \min_{\operatorname{rank} y \le r} \|w - y\|_F = \Big\|w - \sum_{k \le r} s_k u_k v_k^{\mathsf H}\Big\|_F = \Big(\sum_{k > r} s_k^2\Big)^{1/2}. $$
#
# Nothing of rank $r$ is nearer. Stored as two factors, $u\sqrt{s}$ and $v\sqrt{s}$, this takes $r(m+n)$ numbers, so it saves
# only while $r < mn/(m+n)$. In a few lines, and by the library:

# %%
import torch

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.claims import say
from tensorlab.course.digits import draw_fits
from tensorlab.course.widgets import picture


def plain_low_rank(w, rtol):
    """The two factors of the smallest rank whose error is at most rtol |w|."""
    u, s, vh = torch.linalg.svd(w, full_matrices=False)
    tails = s.square().flip(0).cumsum(0).flip(0).sqrt()  # tails[r]: the error of rank r
    r = int((tails > rtol * s.norm()).sum())
    return u[:, :r] * s[:r].sqrt(), vh[:r].mH * s[:r].sqrt()


w = lesson.matrix("gray flower")
u, v = plain_low_rank(w, 0.1)
theirs = tl.LowRank.from_dense(w, rtol=0.1)
error = float((u @ v.mH - w).norm() / w.norm())
tail = lesson.errors("gray flower")[u.shape[1] - 1]
say(
    f"The gray flower to 10 %: rank {u.shape[1]} by these lines and rank {theirs.ranks[0]} by `tl.LowRank`, {theirs.numel:,} numbers "
    f"of {w.numel():,}. The error is {error:.6f}, and the tail of the singular values {tail:.6f}.",
    u.shape[1] == theirs.ranks[0],
    abs(error - tail) < 1e-9,
    error <= 0.1,
)

# %% [markdown]
# ## Four matrices and noise
#
# The error that is left against the share of the numbers that is stored. At the gray line the two factors hold as many numbers as the
# matrix: to the right of it, nothing is gained.


# %%
def sizes(figure):
    ax = figure.subplots()
    seen = plots.error_against_storage(ax, lesson.size_curves())
    ax.axvline(1, color="0.4", lw=1)
    ax.annotate("dense", (1, ax.get_ylim()[1]), (4, -10), textcoords="offset points")
    ax.set(xlabel="numbers stored / numbers of the matrix")
    return seen


picture(sizes, figsize=(7.5, 3.4))

# %%
shares = {
    name: tl.LowRank.from_dense(a, rtol=0.1).numel / a.numel()
    for name in lesson.NAMES
    for a in [lesson.matrix(name)]
}
say(
    "To 10 %: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()) + ". Noise "
    "needs more numbers as two factors than it has entries, and so does the layer. Low rank is a property of data, not a gift of "
    "linear algebra.",
    all(shares[name] < 0.5 for name in ("gray flower", "elevation", "MRI slice")),
    shares["noise"] > 1,
    shares["layer of a network"] > 1,
)

# %% [markdown]
# ## A layer of a network
#
# The running example of these lessons: the 64 by 64 weight of a network that reads digits. The rival with as many numbers knows no
# algebra: the largest entries of the weight, each with its place. On the left the error, on the right what matters, the share of test
# digits that the network still reads.

# %%
picture(lambda figure: draw_fits(figure, lesson.layer_curves()), figsize=(9, 3))

# %%
found = {name: dict(points) for name, points in lesson.layer_curves()["accuracy"].items()}
off = {name: dict(points) for name, points in lesson.layer_curves()["error"].items()}
say(
    f"With 1,024 numbers, a quarter, the SVD is off by {off['SVD'][1024]:.0%} and the largest entries by "
    f"{off['largest entries'][1024]:.0%}; the network reads {found['SVD'][1024]:.1%} and {found['largest entries'][1024]:.1%} of the digits, "
    f"the dense one {found['dense'][4096]:.1%}. With 256 it is the other way round: {found['SVD'][256]:.1%} and "
    f"{found['largest entries'][256]:.1%}, though the SVD has the smaller error there too. The error of a weight is not what the network loses.",
    found["largest entries"][1024] < found["SVD"][1024],
    found["SVD"][1024] > found["dense"][4096] - 0.04,
    found["largest entries"][256] > found["SVD"][256],
    off["SVD"][256] < off["largest entries"][256],
)

# %% [markdown]
# ## Long matrices, and a trap
#
# Tensors [unfold](00b_vocabulary.ipynb#Unfolding) into very long matrices. Their singular vectors are the eigenvectors of the small Gram matrix $a^{\mathsf H}a$,
# but its eigenvalues are the *squares* $s_k^2$: below $\sqrt{\varepsilon} \approx 10^{-8}$ of the largest they drown in rounding.
# `right_basis` therefore turns the columns by the eigenvectors and forms the Gram matrix once more [DemmelVeselic1992].

# %%
g = torch.Generator().manual_seed(0)
u = torch.linalg.qr(torch.randn(20000, 24, generator=g, dtype=torch.float64)).Q
v = torch.linalg.qr(torch.randn(24, 24, generator=g, dtype=torch.float64)).Q
true = 0.2 ** torch.arange(24, dtype=torch.float64)
long = u * true @ v.T
found = {
    "true": true,
    "Gram matrix": torch.linalg.eigvalsh(long.T @ long).flip(0).clamp_min(0).sqrt(),
    "repaired": tl.linalg.right_basis(long, atol=1e-15)[1],
}
picture(lambda figure: plots.singular_values(figure.subplots(), found, 1e-15))

# %%
wrong = {
    name: int(((s[:20] / true[:20] - 1).abs() > 0.1).sum())
    for name, s in found.items()
    if name != "true"
}
say(
    f"Of the first 20 singular values, down to {float(true[19]):.0e}, the Gram matrix has {wrong['Gram matrix']} wrong by more than 10 %, "
    f"the repaired one {wrong['repaired']}.",
    wrong["Gram matrix"] > 3,
    wrong["repaired"] == 0,
)

# %% [markdown]
# ## Exercises
#
# The second to the fifth build a truncated SVD from nothing but products, each from the one before. A blank says nothing; a wrong answer
# gets its own hint.
#
# ### 1. Predict the error (★, 3 minutes)
#
# A matrix has the singular values 6, 3, 2, 1. What is the relative error, in the Frobenius norm, of its best approximation of rank 2?

# %%
truncation_error = ...
lesson.truncation_error(truncation_error)

# %% [markdown] tags=["hints"]
# The norm of a matrix is the root of the sum of its squared singular values.
#
# Rank 2 leaves out 2 and 1.

# %% tags=["solution"]
truncation_error = ((2**2 + 1**2) / (6**2 + 3**2 + 2**2 + 1**2)) ** 0.5

# %% [markdown]
# ### 2. The leading term (★★, 10 minutes)
#
# Write `leading(a)`: the largest singular value of a matrix and its two vectors, `u` (m,), `s` and `v` (n,), both of norm 1. Use products
# with `a` and its transpose only: no SVD, no eigenvalues.


# %%
def leading(a): ...


lesson.leading(leading)

# %% [markdown] tags=["hints"]
# What does $(a^{\mathsf T} a)^{100}$ do to a vector $\sum_k c_k v_k$?
#
# Repeat `v = a.T @ (a @ v)` and divide by the norm each time, a few hundred times; then $a v = s u$.


# %% tags=["solution"]
def leading(a):
    v = torch.ones(a.shape[1], dtype=a.dtype)
    v = v + torch.arange(a.shape[1], dtype=a.dtype) / 7  # not orthogonal to v_1 by bad luck
    for _ in range(300):
        v = a.T @ (a @ v)
        v = v / v.norm()
    s = (a @ v).norm()
    return a @ v / s, s, v


# %% [markdown]
# ### 3. Term by term (★★, 10 minutes)
#
# Write `peel(a, r)`: the first r terms, as `u` (m, r), `s` (r,) and `v` (n, r). Take the leading term off, then the leading term of what
# is left, and so on.


# %%
def peel(a, r): ...


lesson.peel(peel)

# %% [markdown] tags=["hints"]
# The term to subtract is `s * torch.outer(u, v)`.
#
# Collect the triples in a list; `torch.stack([u for u, s, v in terms], dim=1)` puts the vectors side by side.


# %% tags=["solution"]
def peel(a, r):
    terms = []
    for _ in range(r):
        u, s, v = leading(a)
        terms.append((u, s, v))
        a = a - s * torch.outer(u, v)
    u, s, v = zip(*terms)
    return torch.stack(u, dim=1), torch.stack(s), torch.stack(v, dim=1)


# %% [markdown]
# ### 4. As few as a tolerance allows (★★★, 15 minutes)
#
# Write `shrink(a, rtol)`: two factors `u` (m, r) and `v` (n, r) with $\|a - u v^{\mathsf T}\| \le \text{rtol}\,\|a\|$ and the smallest r, at least
# 1.


# %%
def shrink(a, rtol): ...


lesson.shrink(shrink)

# %% [markdown] tags=["hints"]
# Try r = 1, 2, ... with `peel` until what is left of `a` is small enough.
#
# Give each factor the root of the singular values: `u * s.sqrt()`.


# %% tags=["solution"]
def shrink(a, rtol):
    for r in range(1, min(a.shape) + 1):
        u, s, v = peel(a, r)
        if (a - u * s @ v.T).norm() <= rtol * a.norm():
            break
    return u * s.sqrt(), v * s.sqrt()


# %% [markdown]
# ### 5. Use it (★, 3 minutes)
#
# Write `multiply(u, v, x)`: the product of $u v^{\mathsf T}$ and a vector, without forming the matrix: with factors (250, 3) no tensor on the
# way may have more than 1,000 entries.


# %%
def multiply(u, v, x): ...


lesson.multiply(multiply)

# %% [markdown] tags=["hints"]
# A product of three can be bracketed in two ways.
#
# Multiply by `v.T` first: that leaves r numbers.


# %% tags=["solution"]
def multiply(u, v, x):
    return u @ (v.T @ x)


# %% [markdown]
# ### 6. Predict: when does it pay? (★, 3 minutes)
#
# A matrix has the shape (300, 200). What is the largest rank at which two factors store less than the matrix?

# %%
break_even = ...
lesson.break_even(break_even)

# %% [markdown] tags=["hints"]
# Two factors of rank r store 500 r numbers.
#
# At r = 120 they store exactly 60,000.

# %% tags=["solution"]
break_even = 300 * 200 // (300 + 200) - 1

# %% [markdown]
# ### 7. Explore (★, 5 minutes)
#
# In the explorer at the top, with the gray flower: what is the smallest number of terms whose relative error is at most 10 %?

# %%
photo_rank = ...
lesson.photo_rank(photo_rank)

# %% [markdown] tags=["hints"]
# Type a number into the box of `terms`; the sentence below the picture says the error.
#
# Halve the interval: the error falls with every term.

# %% tags=["solution"]
photo_rank = next(r for r, error in enumerate(lesson.errors("gray flower"), 1) if error <= 0.1)
