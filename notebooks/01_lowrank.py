# %% [markdown]
# # How few numbers carry a matrix?
#
# As many as its singular values ask for. Here are those of three real matrices, and of noise.

# %%
import torch
from IPython.display import Code

import tensorlab as tl
from tensorlab import datasets, plots
from tensorlab.course.lessons import lowrank as lesson
from tensorlab.course.lessons.start import PhotoExplorer
from tensorlab.course.widgets import picture

matrices = {
    "elevation": datasets.elevation(),
    "MRI slice": datasets.mri(),
    "gray flower": datasets.photo("flower").mean(2),
    "noise": torch.randn(300, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
}
spectra = {name: torch.linalg.svdvals(a) for name, a in matrices.items()}
picture(lambda figure: plots.singular_values(figure.subplots(), spectra, 1e-2))

# %% [markdown]
# ## The mathematics
#
# Every matrix $w$ of shape $(m, n)$ is $w = \sum_k s_k\, u_k v_k^{\mathsf H}$ with orthonormal $u_k$, orthonormal $v_k$ and
# $s_1 \ge s_2 \ge \dots \ge 0$. Keep the first $r$ terms. Then [EckartYoung1936]
#
# $$ \min_{\operatorname{rank} y \le r} \|w - y\|_F = \Big\|w - \sum_{k \le r} s_k u_k v_k^{\mathsf H}\Big\|_F = \Big(\sum_{k > r} s_k^2\Big)^{1/2}. $$
#
# Nothing of rank $r$ is nearer. Stored as two factors, $u\sqrt{s}$ and $v\sqrt{s}$, this takes $r(m+n)$ numbers, so it saves
# only while $r < mn/(m+n)$. `LowRank` holds the factors; `LowRank.from_dense` finds them.

# %%
print(
    f"{'matrix':12} {'shape':>11} {'saves below':>12} {'rank at 5 %':>12} {'stored':>8} {'of':>8}"
)
for name, a in matrices.items():
    m, n = a.shape
    w = tl.LowRank.from_dense(a, rtol=0.05)
    print(
        f"{name:12} {m:5} x {n:3} {m * n / (m + n):12.0f} {w.ranks[0]:12} {w.numel:8} {a.numel():8}"
    )

# %% [markdown]
# The table says it for the last row: at 5 % noise needs more numbers as two factors than as it stands. Low rank is a property
# of data, not a gift of linear algebra.
#
# ## The theorem, checked

# %%
a, s = matrices["gray flower"], spectra["gray flower"]
for r in (1, 10, 50):
    measured = float((tl.LowRank.from_dense(a, r).to_dense() - a).norm())
    print(
        f"rank {r:3}: error {measured:.12f}, tail of the singular values {float(s[r:].norm()):.12f}"
    )

# %% [markdown]
# ## The function that matters
#
# Every truncation of the suite, of matrices and of tensors, ends in this one.

# %%
import inspect

Code(inspect.getsource(tl.linalg.choose_rank), language="python")

# %% [markdown]
# ## Long matrices, and a trap
#
# Tensors unfold into very long matrices. Their singular vectors are the eigenvectors of the small Gram matrix $a^{\mathsf H}a$,
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

# %% [markdown]
# A second trap, in float32: LAPACK's SVD of a very long matrix can lose digits that the data have; how many depends on the build
# and the threads, and up to three have been seen. The sums of `tensorlab` are in float64 whatever the data.

# %%
a = torch.randn(8, 1 << 18, generator=g)
u, s, vh = torch.linalg.svd(a, full_matrices=False)
ours = tl.truncated_svd(a, rtol=0.0)
print(f"torch.linalg.svd: reconstruction error {float(((u * s) @ vh - a).norm() / a.norm()):.1e}")
print(
    f"truncated_svd:    reconstruction error {float(((ours.u * ours.s) @ ours.vh - a).norm() / a.norm()):.1e}"
)

# %% [markdown]
# ## Explore

# %%
PhotoExplorer()

# %% [markdown]
# ## Exercises
#
# **Predict.**

# %%
print(lesson.truncation_error.question)
lesson.truncation_error(...)

# %% [markdown]
# **Implement.**


# %%
def truncate(a, r): ...


print(lesson.truncate.question)
lesson.truncate(truncate)

# %% [markdown]
# **Explore.**

# %%
print(lesson.photo_rank.question)
lesson.photo_rank(...)
