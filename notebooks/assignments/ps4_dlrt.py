# %% [markdown] tags=["assignment"]
# name = "low-rank training"
# minutes = 160
# needs = ["15_dlrt"]
# aims = [
#     "write one step of dynamical low-rank training from thin matrices alone",
#     "say with numbers when the equations for U, S and V blow up, and why K and L do not",
#     "train a layer on digits with a rank that finds itself",
#     "read a picture of ranks that change",
# ]

# %% [markdown]
# # Problem set 4: how does one train what has no full matrix?
#
# A weight of low rank is trained without ever being formed. One step is written by hand, an older method is made to fail on purpose, and
# then a layer learns to read digits while its rank finds its own size. Write the functions with torch alone: their tests refuse the
# functions of `tl` that do the same.

# %% nbgrader={"grade_id": "setup", "locked": true}
import torch

import tensorlab as tl
from tensorlab.course.assignments import ps4_dlrt as check
from tensorlab.course.checks import watched
from tensorlab.course.digits import digits
from tensorlab.course.widgets import picture


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def factors(m, n, sigma, seed=0, dtype=torch.float64):
    """u (m, r) and v (n, r) with orthonormal columns, and a diagonal s of these values."""
    r = len(sigma)
    u, v = (
        torch.linalg.qr(gaussian(k, r, seed=seed + i))[0].to(dtype) for i, k in enumerate((m, n))
    )
    return u, torch.diag(torch.tensor(sigma, dtype=dtype)), v


def alone(function, *case, most=None):
    """What a function of yours gives, without the functions of tl that do the same."""
    with watched(most, check.FORBIDDEN + (check.WIDENING if function is widen else ())):
        return function(*case)


def orthonormal(q):
    return (q.T @ q - torch.eye(q.shape[1], dtype=q.dtype)).norm() < 1e-10


# %% [markdown]
# ## 1. One step (37 points, 60 minutes)
#
# Let $W = U S V^{\mathsf T}$ with orthonormal $U$ (m, r) and $V$ (n, r). A layer gives no gradient $G$ (m, n) as a matrix, only two products: `right(v)` $= G v$ and
# `left(u)` $= G^{\mathsf T} u$ for thin `v` and `u`. First the bases: write `widen(u, s, v, right, left)`, which returns the same matrix $W$ as three factors
# $(\hat U, \hat S, \hat V)$ with $2r$ columns, where $\hat U$ is an orthonormal basis that holds the columns of $U$ **and** of $GV$ in its range, and
# $\hat V$ one for $V$ and $G^{\mathsf T} U$. (Take $2r \le \min(m, n)$.) No tensor may have more than $2 \max(m, n) \cdot 2r$ entries.


# %% nbgrader={"grade_id": "widen", "solution": true}
def widen(u, s, v, right, left):
    """The same matrix in bases of twice the rank."""
    ### BEGIN SOLUTION
    wide_u = torch.linalg.qr(torch.cat([u, right(v)], dim=1)).Q
    wide_v = torch.linalg.qr(torch.cat([v, left(u)], dim=1)).Q
    return wide_u, (wide_u.T @ u) @ s @ (v.T @ wide_v), wide_v
    ### END SOLUTION


check.widen(widen)  # costs nothing: it prints what is wrong, or that this case is right

# %% [markdown] tags=["hints"]
# Both bases are built from the same $W$, before anything moves.
#
# In an orthonormal basis that holds $U$ in its range, the coordinates of $U$ are $\hat U^{\mathsf T} U$.

# %% nbgrader={"grade_id": "widen-same", "points": 8}
(u, s, v), g = factors(20, 15, [3.0, 1.0, 0.5]), gaussian(20, 15, seed=5)
wide = alone(widen, u, s, v, lambda x: g @ x, lambda x: g.T @ x)
assert [tuple(t.shape) for t in wide] == [(20, 6), (6, 6), (15, 6)], "2r columns are needed"
assert orthonormal(wide[0]) and orthonormal(wide[2]), "the bases must be orthonormal"
assert (wide[0] @ wide[1] @ wide[2].T - u @ s @ v.T).norm() < 1e-10, "W has changed"
### BEGIN HIDDEN TESTS
for m, n, r, seed in ((12, 12, 3, 10), (9, 30, 4, 20), (30, 2, 1, 30)):
    (u, _, v), g = factors(m, n, [1.0] * r, seed=seed), gaussian(m, n, seed=seed + 2)
    s = gaussian(r, r, seed=seed + 3)
    wide = alone(widen, u, s, v, lambda x, g=g: g @ x, lambda x, g=g: g.T @ x)
    assert [t.shape[1] for t in wide] == [2 * r] * 3
    assert orthonormal(wide[0]) and orthonormal(wide[2])
    assert (wide[0] @ wide[1] @ wide[2].T - u @ s @ v.T).norm() < 1e-10
    for basis, held in ((wide[0], (u, g @ v)), (wide[2], (v, g.T @ u))):
        assert all((basis @ (basis.T @ t) - t).norm() < 1e-9 * t.norm() for t in held)
### END HIDDEN TESTS

# %% [markdown]
# Now the whole step: `kls(u, s, v, right, left, h, theta)`. It widens, moves the middle factor against the gradient,
# $\hat S - h\,\hat U^{\mathsf T} G \hat V$, where $G$ is the same as before, and cuts to the smallest rank $r' \ge 1$ for which what is left out has
# at most the norm $\vartheta\,\|S_1\|$ of the moved $S_1$. It returns $(U', S', V')$ with a diagonal $S'$ (r', r'), its values nonnegative and
# descending. (If your `widen` does not work, ask `check.given_widen`, with the same arguments; nothing is taken off for that here.)


# %% nbgrader={"grade_id": "kls", "solution": true}
def kls(u, s, v, right, left, h, theta):
    """One step of the adaptive rank."""
    ### BEGIN SOLUTION
    u, s, v = widen(u, s, v, right, left)
    p, sigma, qt = torch.linalg.svd(s - h * (u.T @ right(v)))
    tails = sigma.square().flip(0).cumsum(0).flip(0).sqrt()  # tails[r]: what rank r leaves out
    r = max(1, int((tails > theta * tails[0]).sum()))
    return u @ p[:, :r], torch.diag(sigma[:r]), v @ qt[:r].T
    ### END SOLUTION


check.kls(kls)

# %% [markdown] tags=["hints"]
# $U'$ is a basis times left singular vectors of a small matrix; which rows or columns are the right ones?
#
# The norm of what is left out is the root of the sum of the squares of all values from $r'$ on.

# %% nbgrader={"grade_id": "kls-moves", "points": 10}
(u, s, v), g = factors(20, 15, [3.0, 1.0, 0.5]), gaussian(20, 15, seed=5)
u1, s1, v1 = alone(kls, u, s, v, lambda x: g @ x, lambda x: g.T @ x, 0.1, 0.0)
assert orthonormal(u1) and orthonormal(v1), "the new factors must be orthonormal"
w, moved = u @ s @ v.T, u1 @ s1 @ v1.T
assert (u.T @ (moved - w + 0.1 * g) @ v).norm() < 1e-10, "along U and V the step is -h G"
### BEGIN HIDDEN TESTS
for m, n, r, h in ((12, 12, 3, 0.3), (9, 30, 4, 0.02), (30, 3, 1, 2.0)):
    (u, _, v), g = factors(m, n, [1.0] * r, seed=40), gaussian(m, n, seed=42)
    s = gaussian(r, r, seed=43)
    kept = [t.clone() for t in (u, s, v)]
    u1, s1, v1 = alone(kls, u, s, v, lambda x, g=g: g @ x, lambda x, g=g: g.T @ x, h, 0.0)
    assert all(torch.equal(p, q) for p, q in zip(kept, (u, s, v)))
    left = torch.linalg.qr(torch.cat([u, g @ v], 1)).Q
    right = torch.linalg.qr(torch.cat([v, g.T @ u], 1)).Q
    wanted = left @ (left.T @ (u @ s @ v.T - h * g) @ right) @ right.T
    assert (u1 @ s1 @ v1.T - wanted).norm() < 1e-10 * wanted.norm()
    values = torch.linalg.svdvals(wanted)[: 2 * r]
    assert (s1 - torch.diag(values)).norm() < 1e-10 * wanted.norm()
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "kls-cuts", "points": 8}
u, s, v = factors(20, 15, [4.0, 2.0, 1.0])
still = (lambda x: x.new_zeros(20, x.shape[1])), (lambda x: x.new_zeros(15, x.shape[1]))
assert len(alone(kls, u, s, v, *still, 0.1, 0.5)[1]) == 1, (
    "the tail of rank 1 is 0.488 of the whole"
)
assert len(alone(kls, u, s, v, *still, 0.1, 0.3)[1]) == 2, (
    "the tail of rank 2 is 0.218 of the whole"
)
### BEGIN HIDDEN TESTS
assert kls(u, 0 * s, v, *still, 0.1, 0.5)[1].shape == (1, 1)
flat = [1.0, 0.22, 0.2, 0.18]
for m, n, sigma, theta in ((14, 14, flat, 0.3), (14, 22, flat, 0.2), (22, 14, flat, 0.999)):
    (u, s, v), g = factors(m, n, sigma, seed=50), gaussian(m, n, seed=52)
    gives = (lambda x, g=g: g @ x, lambda x, g=g: g.T @ x)
    all_of = torch.diagonal(kls(u, s, v, *gives, 0.01, 0.0)[1])
    u1, s1, v1 = kls(u, s, v, *gives, 0.01, theta)
    r = len(s1)
    assert u1.shape == (m, r) and v1.shape == (n, r) and s1.shape == (r, r)
    assert all_of[r:].norm() <= theta * all_of.norm()
    assert r == 1 or all_of[r - 1 :].norm() > theta * all_of.norm()
    assert (torch.diagonal(s1) - all_of[:r]).norm() < 1e-10
assert kls(u, s, v, *gives, 0.01, 1.0)[1].shape == (1, 1)
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "kls-thin", "points": 4}
(u, s, v), (a, b) = factors(3000, 2000, [1.0, 0.5]), (gaussian(3000, 1), gaussian(2000, 1, seed=1))
given = (lambda x: a @ (b.T @ x)), (lambda x: b @ (a.T @ x))
new = alone(kls, u, s, v, *given, 0.1, 0.01, most=2 * 3000 * 4)
### BEGIN HIDDEN TESTS
u, s, v = factors(40, 4000, [1.0, 0.5, 0.1], dtype=torch.float32)
a, b = gaussian(40, 5, dtype=torch.float32), gaussian(4000, 5, dtype=torch.float32)
new = alone(kls, u, s, v, *given, 0.1, 0.01, most=2 * 4000 * 6)
assert all(t.dtype == torch.float32 for t in new)
### END HIDDEN TESTS

# %% [markdown]
# **In words.** A colleague uses $K_1 = U S - h\,G V$ in place of $G V$ for the new basis, as in the paper, and finds the same step. Why is it the same in exact
# arithmetic, and in which of the two cases $h \to 0$ or $h$ large could rounding make a difference? Why are $2r$ columns enough to hold the
# projection of $-hG$ onto the tangent space at $W$? Four to six sentences.

# %% [markdown] nbgrader={"grade_id": "widen-words", "points": 7, "solution": true}
# The basis is that of the range of $[U \mid K_1]$, and since $US$ lies in the range of $U$, this is the range of $[U \mid GV]$ for every
# $h \ne 0$: the step depends on the span alone. For small $h$ the columns of $K_1$ are nearly those of $US$, and the new direction
# is a difference of nearly equal vectors of size $h$, so that relative errors of size $\varepsilon \|S\| / h$ remain in it; with $GV$ there is no such cancellation,
# and for large $h$ both are alike. The projection onto the tangent space is $UU^{\mathsf T}G + GVV^{\mathsf T} - UU^{\mathsf T}GVV^{\mathsf T}$.
# Its columns lie in the range of $[U \mid GV]$ and its rows in that of $[V \mid G^{\mathsf T}U]$, so the sum of $W$ and of the projected step has a rank of at
# most $2r$ and is held by these bases without a loss.

# %% [markdown]
# ## 2. Why U, S and V blow up (24 points, 35 minutes)
#
# The equations for the factors themselves turn $U$ with the speed $\|(I - UU^{\mathsf T})\,G V S^{-1}\|_F$. Write `speed(u, s, v, right)` for this number, with
# `right` as above. Never form an (m, m) matrix; $s$ need not be diagonal.


# %% nbgrader={"grade_id": "speed", "solution": true}
def speed(u, s, v, right):
    """How fast U turns, by the equations for U, S, V."""
    ### BEGIN SOLUTION
    gv = right(v)
    across = gv - u @ (u.T @ gv)
    return float(torch.linalg.solve(s.T, across.T).norm())
    ### END SOLUTION


check.speed(speed)

# %% nbgrader={"grade_id": "speed-right", "points": 8}
(u, s, v), g = factors(20, 15, [1.0, 0.1]), gaussian(20, 15, seed=5)
half, whole = (alone(speed, u, k * s, v, lambda x: g @ x) for k in (2, 1))
assert abs(half / whole - 0.5) < 1e-10, "twice the singular values, half the speed"
assert speed(u, s, v, lambda x: u @ (u.T @ g @ x)) < 1e-9, "within the range of U nothing turns"
### BEGIN HIDDEN TESTS
for m, n, r in ((8, 8, 3), (5, 12, 2), (30, 6, 4)):
    (u, _, v), g = factors(m, n, [1.0] * r, seed=60), gaussian(m, n, seed=62)
    s = gaussian(r, r, seed=63)
    wanted = ((torch.eye(m).double() - u @ u.T) @ g @ v @ torch.linalg.inv(s)).norm()
    assert abs(alone(speed, u, s, v, lambda x, g=g: g @ x) - wanted) < 1e-8 * wanted
u, s, v = factors(3000, 20, [1.0, 0.5])
assert alone(speed, u, s, v, lambda x: gaussian(3000, 2, seed=64), most=3000 * 20) > 0
### END HIDDEN TESTS

# %% [markdown]
# Make it fail on purpose. `trap(r, h)` returns $(u, s, v, a)$ in `float64`: a start of rank $r$ (2 to 5, sizes of your choice, orthonormal factors, **no zero
# singular value**) and a target $a$ for the flow $\dot W = A - W$, with $\|A\| \le 10$ and $\|W\| \le 10$, such that *one* step of length $h$ (0.001 to 0.5)
# of `tl.usv_step` ends at least ten times as far from the exact $A + e^{-h}(W - A)$ as one of `tl.kls_step` with `theta=0.0`, and off by more than $0.5 h \|A\|$.


# %% nbgrader={"grade_id": "trap", "solution": true}
def trap(r, h):
    """A start and a target for which U, S, V fail."""
    ### BEGIN SOLUTION
    eye = torch.eye(4 * r, dtype=torch.float64)
    sigma = torch.ones(r, dtype=torch.float64)
    sigma[-1] = 1e-6 * h
    a = eye[:, r : 2 * r] @ eye[:r] + eye[:, :r] @ eye[r : 2 * r]
    return eye[:, :r], torch.diag(sigma), eye[:, :r], 3 * a
    ### END SOLUTION


# %% [markdown] tags=["hints"]
# What must $G V$ have for $U$ to turn at all, and how small must a singular value be, compared with $h$?
#
# After the step of U, S and V the bases are made orthonormal: what becomes of the small value if a column of $U$ has become long?


# %% nbgrader={"grade_id": "trap-works", "points": 8}
def ends(u, s, v, a, h):
    """How far one step of U, S, V and one of KLS end from the exact flow."""
    w = tl.LowRank(u, v, s)
    exact = a + (w.to_dense() - a) * torch.exp(torch.tensor(-h).double())
    steps = tl.usv_step(w, lambda x: a - x, h), tl.kls_step(w, lambda x: a - x, h, theta=0.0)
    return [float((x.to_dense() - exact).norm()) for x in steps]


u, s, v, a = trap(2, 0.1)
assert orthonormal(u) and orthonormal(v) and s.shape == (2, 2), "factors of rank 2 are needed"
assert torch.linalg.svdvals(s).min() > 0 and s.norm() <= 10 and a.norm() <= 10
usv, thin = ends(u, s, v, a, 0.1)
assert usv > 10 * thin and usv > 0.05 * a.norm(), f"U, S, V is off by {usv:.2g}, KLS by {thin:.2g}"
### BEGIN HIDDEN TESTS
for r, h in ((2, 0.001), (3, 0.02), (5, 0.5), (4, 0.2)):
    u, s, v, a = trap(r, h)
    assert orthonormal(u) and orthonormal(v) and s.shape == (r, r)
    assert torch.linalg.svdvals(s).min() > 0 and s.norm() <= 10 and a.norm() <= 10
    usv, thin = ends(u, s, v, a, h)
    assert usv > 10 * thin and usv > 0.5 * h * a.norm()
### END HIDDEN TESTS

# %% [markdown]
# **In words.** Explain your trap with the number that `speed` gives for it: how far does one step move $U$, compared with what Euler's method can
# follow, and how small must $h$ be for the step of U, S, V to be of use again? Why is a *small* singular value not an exception but the rule in
# low-rank training? Why does it not disturb KLS? Four to six sentences.

# %% [markdown] nbgrader={"grade_id": "trap-words", "points": 8, "solution": true}
# The speed is about $\|A\| / \sigma_{\min}$, so in my trap one step moves $U$ by about $h \cdot 3 / (10^{-6} h) = 3 \cdot 10^6$, whereas an
# orthonormal basis can turn by an angle of order 1 only; Euler's method follows as long as the step is well below 1. That needs $h$ below the
# smallest singular value, about $10^{-7}$ here, a million times smaller than the step that the flow itself would allow. Small values are the rule,
# because one chooses the rank so that what is dropped is negligible, and then the last value that is kept is just above that, and because a layer
# that is started with a rank too large has values near zero by construction. KLS never divides by $S$: the bases come from the span of $[U \mid GV]$,
# which depends on no singular value, and $S$ itself may be as small as it likes.

# %% [markdown]
# ## 3. A rank that finds itself (39 points, 65 minutes)
#
# The digits are read by $x \mapsto W x$, a softmax regression with one weight (10, 64) of low rank and no bias. With the probabilities $P$ (10, N) of
# the network, the targets $Y$ (10, N, one-hot) and the inputs $X$ (64, N), the gradient of the mean cross entropy is $G = (P - Y) X^{\mathsf T} / N$.
# Write `products(u, s, v, x, y)` for `x` (N, 64) and the classes `y` (N,): the two functions `right` and `left` of part 1 at $W = U S V^{\mathsf T}$,
# that form neither $W$ nor $G$.


# %% nbgrader={"grade_id": "products", "solution": true}
def products(u, s, v, x, y):
    """G v and Gᵀ u as functions, for the cross entropy of x W ᵀ."""
    ### BEGIN SOLUTION
    scores = x @ v @ s.T @ u.T
    off = (scores.softmax(dim=1) - torch.nn.functional.one_hot(y, len(u))) / len(y)
    return (lambda t: off.T @ (x @ t)), (lambda t: x.T @ (off @ t))
    ### END SOLUTION


check.products(products)

# %% nbgrader={"grade_id": "products-right", "points": 9}
(u, s, v), x, y = factors(10, 64, [2.0, 1.0]), gaussian(30, 64, seed=7), torch.arange(30) % 10
right, left = alone(products, u, s, v, x, y)
w = (u @ s @ v.T).requires_grad_()
(g,) = torch.autograd.grad(torch.nn.functional.cross_entropy(x @ w.T, y), w)
assert (right(v) - g @ v).norm() < 1e-10, "right(v) is not G v"
assert (left(u) - g.T @ u).norm() < 1e-10, "left(u) is not the transpose of G times u"
### BEGIN HIDDEN TESTS
for m, n, r, count in ((4, 4, 2, 4), (3, 7, 1, 11), (6, 5, 3, 9)):
    (u, _, v), x = factors(m, n, [1.0] * r, seed=70), gaussian(count, n, seed=72)
    s, y = gaussian(r, r, seed=73), torch.arange(count) % (m - 1)
    right, left = alone(products, u, s, v, x, y)
    w = (u @ s @ v.T).requires_grad_()
    (g,) = torch.autograd.grad(torch.nn.functional.cross_entropy(x @ w.T, y), w)
    for columns in (1, 3):
        a, b = gaussian(n, columns, seed=74), gaussian(m, columns, seed=75)
        assert (right(a) - g @ a).norm() < 1e-10 and (left(b) - g.T @ b).norm() < 1e-10
u, s, v = factors(1500, 1000, [1.0, 0.5])
with watched(most=1000 * 1500 - 1):
    right, left = products(u, s, v, gaussian(4, 1000), torch.arange(4))
    right(v), left(u)
### END HIDDEN TESTS

# %% [markdown]
# Now `train(u, s, v, x, y, steps, h, theta)`: so many steps of `kls` on all the data, each with the products at the weight as it is then. The weight has 10
# rows, so that $2r$ columns need $r \le 5$: each step begins by cutting the weight to its 5 leading singular values, if it has more (this cut has nothing to do
# with `theta`). Return the final $(u, s, v)$ and the list of the ranks after each step. (If a function above does not work, ask
# `check.given_kls` or `check.given_products`, with the same arguments; nothing is taken off for that here.)


# %% nbgrader={"grade_id": "train", "solution": true}
def train(u, s, v, x, y, steps, h, theta):
    """The weight after so many steps, and its rank after each of them."""
    ### BEGIN SOLUTION
    ranks = []
    for _ in range(steps):
        p, sigma, qt = torch.linalg.svd(s)
        u, s, v = u @ p[:, :5], torch.diag(sigma[:5]), v @ qt[:5].T
        u, s, v = check.given_kls(u, s, v, *check.given_products(u, s, v, x, y), h, theta)
        ranks.append(len(s))
    return (u, s, v), ranks
    ### END SOLUTION


# %% [markdown] tags=["hints"]
# Cutting changes the bases too: the middle factor gets its singular values, and its singular vectors go into $U$ and $V$.
#
# The weight moves, so its products have to be asked for anew in each step.


# %% nbgrader={"grade_id": "digits", "locked": true}
torch.set_num_threads(1)  # the steps are small, and several threads make them slower
x, y, x_test, y_test = digits()
x, x_test = x.flatten(1).double() - 0.3, x_test.flatten(1).double() - 0.3
first = factors(10, 64, [1.0, 0.5], seed=90)


def reads(weight):
    """The share of the test digits that a weight reads rightly."""
    u, s, v = weight
    return float(((x_test @ v @ s.T @ u.T).argmax(1) == y_test).double().mean())


# %% nbgrader={"grade_id": "train-ranks", "points": 6}
weight, ranks = train(*first, x, y, 6, 1.0, 0.02)
assert len(ranks) == 6 and ranks[-1] == len(weight[1]), "one rank for each step is needed"
assert ranks[0] == 4, "the first step doubles the rank, and this theta cuts nothing"
assert max(ranks) == 9, "later steps reach rank 9, before the next one cuts to 5"
### BEGIN HIDDEN TESTS
for sigma, h, theta in (([1.0], 0.5, 0.02), ([2.0, 1.5, 1.0, 0.5, 0.4, 0.3, 0.2], 0.2, 0.05)):
    start = factors(10, 64, sigma, seed=80)
    u, s, v = [t.clone() for t in start]
    weight, ranks = train(*start, x, y, 4, h, theta)
    assert all(torch.equal(p, q) for p, q in zip(start, (u, s, v)))
    for k in range(4):
        w = tl.LowRank(u, v, s).round(5).orthogonal()
        u, v, s = w.u, w.v, w.s
        u, s, v = check.given_kls(u, s, v, *check.given_products(u, s, v, x, y), h, theta)
        assert ranks[k] == len(s)
    assert (weight[0] @ weight[1] @ weight[2].T - u @ s @ v.T).norm() < 1e-8 * s.norm()
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "train-reads", "points": 6}
weight, ranks = train(*first, x, y, 80, 1.0, 0.02)
assert reads(weight) > 0.85, f"only {reads(weight):.0%} of the test digits are read rightly"
### BEGIN HIDDEN TESTS
weight, ranks = train(*first, x, y, 40, 1.0, 0.2)
assert set(ranks) == {2} and 0.3 < reads(weight) < 0.7  # every new direction is cut away
weight, ranks = train(*first, x, y, 80, 1.0, 0.1)
assert max(ranks) == 6 and ranks[-1] == 5 and reads(weight) > 0.85
### END HIDDEN TESTS

# %% [markdown]
# **Draw one picture** with two panels. On the left: the rank against the step, for 80 steps from `first` with $h = 1$ and $\vartheta$ = 0.02, 0.05,
# 0.1 and 0.2, and, dashed, with $h = 0.5$ and $\vartheta = 0.1$. On the right: the share of the test digits that is read rightly at the end, for the
# same five runs. Make visible what happens in the first ten steps, and label axes and lines. Marks are given for what can be read from the picture,
# not for beauty; the rubric is in the staff's guide.


# %% nbgrader={"grade_id": "picture", "points": 10, "solution": true}
### BEGIN SOLUTION
def draw(figure):
    left, right = figure.subplots(1, 2)
    for k, (h, theta) in enumerate(((1.0, 0.02), (1.0, 0.05), (1.0, 0.1), (1.0, 0.2), (0.5, 0.1))):
        weight, ranks = train(*first, x, y, 80, h, theta)
        steps, line = range(1, 81), "-" if h == 1 else "--"
        left.plot(steps, ranks, line, marker=".", label=f"h = {h:g}, theta = {theta:g}")
        right.barh(k, 100 * reads(weight))
    left.set(xscale="log", xlabel="step", ylabel="rank", title="colors as on the right")
    right.set(xlabel="test digits read rightly in %")
    right.set_yticks(range(5), left.get_legend_handles_labels()[1])
    return (
        "The rank against the step for five runs, and the share of digits that each reads rightly."
    )


picture(draw, figsize=(10, 3.2))
### END SOLUTION

# %% [markdown]
# **In words.** How fast can the rank grow in one step, and which run comes near to that? Why do ranks that have been 9 or 7 end at 5? What keeps the
# run with $\vartheta = 0.2$ at rank 2, and why does the run with $\vartheta = 0.1$ stay there too when $h$ is halved: explain both with the error
# bound $c_1\varepsilon + c_2 h + c_3\,\vartheta / h$ of the lesson. Which $\vartheta$ would you take? Five to seven sentences.

# %% [markdown] nbgrader={"grade_id": "picture-words", "points": 8, "solution": true}
# Each basis gets $r$ new columns, so the rank at most doubles, and the cut can only lower it: with $\vartheta = 0.02$ it goes from 2 to 4, 6 and 9.
# It ends at 5 because each step first cuts the weight to rank 5, and as the loss falls the gradient becomes small beside $S$, which has grown: what a
# step adds is then less than $\vartheta \|S\|$, and nothing new survives. A new direction enters with the size $h$ times its part of the gradient.
# With $\vartheta = 0.2$ that is less than $0.2\,\|S\|$ from the first step on, so that it is cut away each time anew, and two directions cannot tell
# ten digits apart: half of them are read wrongly. With half the step a direction enters half as large, and the cut of $\vartheta = 0.1$, which let it
# through at $h = 1$, removes it: this is the term $\vartheta / h$ of the bound, so $\vartheta$ has to be lowered together with $h$. I would take
# $\vartheta = 0.1$: it reads as many digits, 89 %, with as many numbers as the smaller ones, and its ranks on the way, which cost time, are lower.
