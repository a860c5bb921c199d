# %% [markdown] tags=["assignment"]
# name = "low rank and CP"
# minutes = 160
# needs = ["01_lowrank", "02_cp"]
# aims = [
#     "shorten a product of factors without forming the matrix",
#     "say what a small error of the whole says about its parts, and what it does not",
#     "write alternating least squares by hand, with its error for free",
#     "explain with numbers why a best approximation of rank 2 may not exist",
# ]

# %% [markdown]
# # Problem set 1: what may be thrown away?
#
# A matrix is cut to low rank, a tensor is fitted by a sum of products, and then the fitting fails: not
# because the algorithm is bad, but because the best answer does not exist.

# %% nbgrader={"grade_id": "setup", "locked": true}
import torch

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.assignments import ps1_lowrank as check
from tensorlab.course.checks import watched
from tensorlab.course.widgets import picture


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def alone(function, *case, most=None):
    """What a function of yours gives, without the functions that are not allowed in it."""
    with watched(most, check.CUTTING if function is truncate else check.FORBIDDEN):
        return function(*case)


# %% [markdown]
# ## 1. Shorten a product (21 points, 35 minutes)
#
# Low-rank matrices get sums: $a_1 b_1 + a_2 b_2 = [a_1\; a_2]\,[b_1; b_2]$, and each sum makes the inner size $k$ longer, although
# the rank may not grow at all. Write `truncate(a, b, rtol)`. The arguments are `a` (m, k) and `b` (k, n); with $w = ab$ it
# returns `u` (m, r) with orthonormal columns and `v` (r, n) such that
#
# $$ \|w - uv\| \le \text{rtol}\,\|w\| $$
#
# in the Frobenius norm, with the smallest possible $r \ge 1$. **Never form $w$**: no tensor on the way may have more than
# $4\max(m, n)\,k$ entries. The tolerance is between 1e-6 and 1, the dtype of the input is kept, and the input stays as it is.
# For $w = 0$ the rank is 1 and $uv = 0$. Write it with torch alone: the tests refuse `tl.LowRank` and what cuts for it.


# %% nbgrader={"grade_id": "truncate", "solution": true}
def truncate(a, b, rtol):
    """u (m, r) with orthonormal columns and v (r, n), the shortest that keep rtol."""
    ### BEGIN SOLUTION
    qa, ra = torch.linalg.qr(a)  # (m, p), (p, k)
    qb, rb = torch.linalg.qr(b.T)  # (n, q), (q, k)
    u, s, vt = torch.linalg.svd(ra @ rb.T, full_matrices=False)
    tails = s.square().flip(0).cumsum(0).flip(0).sqrt()  # tails[r]: the error of rank r
    r = max(1, int((tails > rtol * s.norm()).sum()))
    return qa @ u[:, :r], s[:r, None] * (vt[:r] @ qb.T)
    ### END SOLUTION


check.truncate(truncate)  # costs nothing: it prints what is wrong, or that this case is right

# %% [markdown] tags=["hints"]
# A thin QR factorization of `a` and one of `b.T` turn $w$ into a small matrix between two with orthonormal columns.
#
# Multiplying by orthonormal columns changes no norm, so the small matrix can be cut in place of $w$.
#
# The error of rank r is the root of the sum of the squares of the singular values from `s[r]` on.

# %% nbgrader={"grade_id": "truncate-error", "points": 7}
a, b = gaussian(30, 8), gaussian(8, 20, seed=1)
u, v = alone(truncate, a, b, 0.3)
assert u.shape[0] == 30 and v.shape[1] == 20 and u.shape[1] == v.shape[0], "the shapes are wrong"
assert (u.T @ u - torch.eye(u.shape[1])).norm() < 1e-10, "u needs orthonormal columns"
assert (u @ v - a @ b).norm() <= 0.3 * (a @ b).norm(), "the error is too large"
### BEGIN HIDDEN TESTS
for m, k, n, rtol in [(12, 5, 12, 0.5), (9, 9, 9, 1e-6), (6, 10, 15, 0.2), (15, 10, 6, 0.2)]:
    a, b = gaussian(m, k, seed=2), gaussian(k, n, seed=3)
    u, v = alone(truncate, a, b, rtol)
    assert u.shape == (m, v.shape[0]) and v.shape[1] == n
    assert (u.T @ u - torch.eye(u.shape[1])).norm() < 1e-10
    assert (u @ v - a @ b).norm() <= (rtol + 1e-12) * (a @ b).norm()
u, v = alone(truncate, torch.zeros(4, 3, dtype=torch.float64), gaussian(3, 5), 0.1)
assert u.shape == (4, 1) and v.shape == (1, 5) and float(v.norm()) == 0
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "truncate-smallest", "points": 8}
a, b = gaussian(30, 8), gaussian(8, 20, seed=1)
s = torch.linalg.svdvals(a @ b)
r = alone(truncate, a, b, 0.3)[0].shape[1]
assert s[r - 1 :].norm() > 0.3 * s.norm(), "a smaller rank would do"
### BEGIN HIDDEN TESTS
w = gaussian(14, 3, seed=4) @ gaussian(3, 14, seed=5)
q = torch.linalg.qr(gaussian(14, 14, seed=6)).Q
assert alone(truncate, w @ q, q.T, 1e-6)[0].shape[1] == 3
for scale, rtol in [(1e3, 0.5), (1e-3, 0.5), (1.0, 0.1), (1.0, 0.02), (1.0, 0.999)]:
    a, b = scale * gaussian(16, 12, seed=7), gaussian(12, 16, seed=8)
    s = torch.linalg.svdvals(a @ b)
    u, v = alone(truncate, a, b, rtol)
    r = u.shape[1]
    assert s[r - 1 :].norm() > rtol * s.norm() or r == 1
    assert abs((u @ v - a @ b).norm() - s[r:].norm()) < 1e-10 * s.norm()  # nothing is nearer
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "truncate-size", "points": 6}
a, b = gaussian(3000, 6), gaussian(6, 2000, seed=1)
alone(truncate, a, b, 0.1, most=4 * 3000 * 6)
### BEGIN HIDDEN TESTS
before = a.clone(), b.clone()
truncate(a, b, 0.1)
assert torch.equal(a, before[0]) and torch.equal(b, before[1])
a, b = gaussian(40, 3, dtype=torch.float32), gaussian(3, 5000, dtype=torch.float32)
u, v = alone(truncate, a, b, 0.5, most=4 * 5000 * 3)
assert u.dtype == v.dtype == torch.float32
### END HIDDEN TESTS

# %% [markdown]
# ## 2. The row that was lost (13 points, 20 minutes)
#
# *We cut every weight with `rtol=0.1`, so every output is right to 10 %*, says a colleague. Show that this is wrong: write
# `lost_row(n)` that returns an (n, n) matrix, n from 2 to 50, **without zero rows**, of which the shortest approximation with `rtol = 0.1`
# has a row that is off by at least 99 % of that row's own norm.


# %% nbgrader={"grade_id": "lost-row", "solution": true}
def lost_row(n):
    """A matrix (n, n) of which one row vanishes when the whole is cut to 10 %."""
    ### BEGIN SOLUTION
    w = torch.eye(n, dtype=torch.float64)
    w[n - 1, n - 1] = 0.01
    return w
    ### END SOLUTION


# %% [markdown] tags=["hints"]
# What does a cut do to a diagonal matrix?
#
# How large may a row be that can be dropped altogether?

# %% nbgrader={"grade_id": "lost-row-found", "points": 6}
w = lost_row(4)
assert w.shape == (4, 4) and (w.norm(dim=1) > 0).all(), "a matrix without zero rows is needed"
off = (tl.LowRank.from_dense(w, rtol=0.1).to_dense() - w).norm(dim=1) / w.norm(dim=1)
assert off.max() >= 0.99, f"the worst row is off by only {float(off.max()):.0%}"
### BEGIN HIDDEN TESTS
for n in (2, 3, 17, 50):
    w = lost_row(n)
    assert w.shape == (n, n) and (w.norm(dim=1) > 0).all()
    off = (tl.LowRank.from_dense(w, rtol=0.1).to_dense() - w).norm(dim=1) / w.norm(dim=1)
    assert off.max() >= 0.99
### END HIDDEN TESTS

# %% [markdown]
# **In words.** Which bound does `rtol = 0.1` give for the error of a *single* row, and how small must a row be, compared with the
# whole, so that it can be lost altogether? Your colleague still wants every output right to 10 %: name one thing to change before the
# cut. Four to six sentences.

# %% [markdown] nbgrader={"grade_id": "lost-row-words", "points": 7, "solution": true}
# The squares of the rows' errors add up to the square of the whole error, so a single row may be off by all of it: the only bound for
# row $i$ is $\|e_i\| \le 0.1\,\|w\|$. A row can be lost altogether when its norm is at most a tenth of the norm of the whole (for
# a row that is orthogonal to the others; then dropping it costs exactly its norm). The relative error of that row is 100 %, although the whole is
# right to 10 %. Divide each row by its norm before the cut and multiply it back afterwards: then all rows weigh the same. The bound
# for one of $n$ rows is then $0.1\sqrt n$ of its norm, so `rtol` must be divided by $\sqrt n$ to promise 10 % for every row.

# %% [markdown]
# ## 3. Alternating least squares by hand (26 points, 45 minutes)
#
# A CP tensor of order $d$ with the factors $A_0, \dots, A_{d-1}$, all with $r$ columns, is
# $y[i_0, \dots, i_{d-1}] = \sum_t A_0[i_0, t] \cdots A_{d-1}[i_{d-1}, t]$. Write `update(x, factors, mode)`: the factor of that mode
# which minimizes $\|x - y\|$ while all others stay. It works for every order from 2 on, and changes none of its arguments. No `lstsq`,
# `pinv` or `inv`, and no function of `tl`: solve the normal equations $A\,\Gamma = M$.


# %% nbgrader={"grade_id": "update", "solution": true}
def update(x, factors, mode):
    """The factor (n, r) of a mode that minimizes |x - y| while the other factors stay."""
    ### BEGIN SOLUTION
    r = factors[0].shape[1]
    m = x.movedim(mode, 0)[..., None].expand(*x.movedim(mode, 0).shape, r)  # (n, others..., r)
    gram = torch.ones(r, r, dtype=x.dtype)
    for k, factor in enumerate(factors):
        if k != mode:
            m = torch.einsum("ni...r,ir->n...r", m, factor)
            gram = gram * (factor.T @ factor)
    return torch.linalg.solve(gram, m.T).T
    ### END SOLUTION


check.update(update)

# %% [markdown] tags=["hints"]
# $M[i, t]$ is $x$ summed against column $t$ of every other factor, and $\Gamma = *_{k \ne \text{mode}} A_k^{\mathsf T} A_k$.
#
# Take the modes off one after another: after `x.movedim(mode, 0)` the next mode is always number 1, once each term has its own copy.
#
# `torch.linalg.solve(gram, m.T).T` solves $A\,\Gamma = M$ for a symmetric $\Gamma$.

# %% nbgrader={"grade_id": "update-best", "points": 10}
x, factors = gaussian(4, 5, 6), [gaussian(n, 3, seed=n) for n in (4, 5, 6)]
best = list(factors)
best[1] = alone(update, x, factors, 1)
rest = x - torch.einsum("ir,jr,kr->ijk", *best)
slope = torch.einsum("ijk,ir,kr->jr", rest, factors[0], factors[2])
assert best[1].shape == (5, 3), "a factor of shape (5, 3) is needed"
assert slope.norm() < 1e-8 * x.norm(), "the error can still fall when this factor changes"
### BEGIN HIDDEN TESTS
for shape, r in [((4, 4, 4), 3), ((7, 3), 2), ((3, 4, 2, 5), 2), ((3, 3, 3), 3)]:
    x, factors = (
        gaussian(*shape, seed=9),
        [gaussian(n, r, seed=10 + k) for k, n in enumerate(shape)],
    )
    for mode in range(len(shape)):
        given = [x.clone(), *(f.clone() for f in factors)]
        found = alone(update, x, factors, mode)
        assert all(torch.equal(p, q) for p, q in zip(given, [x, *factors]))
        others = tl.multilinear.khatri_rao(*(f for k, f in enumerate(factors) if k != mode))
        wanted = torch.linalg.lstsq(others, tl.multilinear.unfold(x, mode).T).solution.T
        assert found.shape == wanted.shape and (found - wanted).norm() < 1e-8 * wanted.norm()
### END HIDDEN TESTS

# %% [markdown]
# Now `als(x, start, sweeps)`: each sweep updates the modes 0, 1, ..., d - 1 in this order, each with the factors as they are then. It
# returns the list of factors and the list of the relative errors $\|x - y\| / \|x\|$ after each sweep. The list `start` stays
# as it is. (If your `update` does not work, ask `check.given_update(x, factors, mode)`; nothing is taken off for that here.)


# %% nbgrader={"grade_id": "als", "solution": true}
def als(x, start, sweeps):
    """Factors after so many sweeps, and the relative error after each of them."""
    ### BEGIN SOLUTION
    factors, errors = list(start), []
    letters = "abcdefgh"[: x.ndim]
    for _ in range(sweeps):
        for mode in range(x.ndim):
            factors[mode] = update(x, factors, mode)
        y = torch.einsum(",".join(k + "r" for k in letters) + "->" + letters, *factors)
        errors.append(float((x - y).norm() / x.norm()))
    return factors, errors
    ### END SOLUTION


# %% nbgrader={"grade_id": "als-history", "points": 9}
x, start = gaussian(4, 5, 6), [gaussian(n, 2, seed=n) for n in (4, 5, 6)]
factors, errors = als(x, start, 5)
y = torch.einsum("ir,jr,kr->ijk", *factors)
assert len(errors) == 5, "one error for each sweep is needed"
assert abs(errors[-1] - (x - y).norm() / x.norm()) < 1e-8, (
    "the last error is not that of the factors"
)
### BEGIN HIDDEN TESTS
x, start = (
    3 * gaussian(3, 4, 3, 2, seed=20),
    [gaussian(n, 2, seed=30 + k) for k, n in enumerate((3, 4, 3, 2))],
)
kept, mine = [f.clone() for f in start], list(start)
factors, errors = als(x, start, 4)
assert len(start) == 4 and all(torch.equal(f, g) for f, g in zip(kept, start))
wanted = []
for _ in range(4):
    for mode in range(4):
        others = tl.multilinear.khatri_rao(*(f for k, f in enumerate(mine) if k != mode))
        mine[mode] = torch.linalg.lstsq(others, tl.multilinear.unfold(x, mode).T).solution.T
    y = torch.einsum("ar,br,cr,dr->abcd", *mine)
    wanted.append(float((x - y).norm() / x.norm()))
assert torch.allclose(torch.tensor(errors), torch.tensor(wanted), rtol=1e-6)
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "als-finds", "points": 7}
truth = [gaussian(n, 3, seed=40 + n) for n in (6, 7, 8)]
x = torch.einsum("ir,jr,kr->ijk", *truth)
start = [f + 0.3 * gaussian(*f.shape, seed=50) for f in truth]
factors, errors = als(x, start, 100)
assert errors[-1] < 1e-8, "a tensor of rank 3 should be found again"
### BEGIN HIDDEN TESTS
truth = [gaussian(n, 2, seed=60 + n) for n in (5, 4, 6, 3)]
x = torch.einsum("ar,br,cr,dr->abcd", *truth)
factors, errors = als(x, [f + 0.2 * gaussian(*f.shape, seed=70) for f in truth], 100)
assert errors[-1] < 1e-8 and len(errors) == 100
assert [f.shape for f in factors] == [f.shape for f in truth]
y = torch.einsum("ar,br,cr,dr->abcd", *factors)
assert (x - y).norm() < 1e-7 * x.norm()
### END HIDDEN TESTS

# %% [markdown]
# ## 4. A best approximation that does not exist (22 points, 30 minutes)
#
# With orthonormal $a$ and $b$ let $W = a \circ a \circ b + a \circ b \circ a + b \circ a \circ a$. Its rank is 3, but
#
# $$ W_n = n\,(a + b/n) \circ (a + b/n) \circ (a + b/n) - n\, a \circ a \circ a $$
#
# has rank 2 and comes as near as one likes. Write `pair(a, b, n)`: three factors (m, 2) with $W_n[i, j, k] = \sum_t A[i, t] B[j, t] C[k, t]$.


# %% nbgrader={"grade_id": "pair", "solution": true}
def pair(a, b, n):
    """Three factors (m, 2) of W_n."""
    ### BEGIN SOLUTION
    near = torch.stack([a + b / n, a], dim=1)
    sizes = torch.tensor([n, -n], dtype=a.dtype)
    return [near * sizes, near, near]
    ### END SOLUTION


# %% nbgrader={"grade_id": "pair-near", "points": 7}
a, b = torch.eye(3, dtype=torch.float64)[:2]
w = sum(torch.einsum("i,j,k->ijk", *t) for t in ((a, a, b), (a, b, a), (b, a, a)))
for n in (10, 1000):
    factors = pair(a, b, n)
    assert [tuple(f.shape) for f in factors] == [(3, 2)] * 3, "three factors (3, 2) are needed"
    off = (torch.einsum("ir,jr,kr->ijk", *factors) - w).norm()
    assert off < 2 / n, f"for n = {n} the distance should be below {2 / n}, it is {off}"
### BEGIN HIDDEN TESTS
a, b = torch.linalg.qr(gaussian(5, 2, seed=80)).Q.T
for n in (1, 2, 7):
    c = a + b / n
    wanted = n * torch.einsum("i,j,k->ijk", c, c, c) - n * torch.einsum("i,j,k->ijk", a, a, a)
    found = torch.einsum("ir,jr,kr->ijk", *pair(a, b, n))
    assert (found - wanted).norm() < 1e-12 * n
### END HIDDEN TESTS

# %% [markdown]
# How near? Multiply out $W_n - W$ on paper; what remains are products of $a$ and $b$ that are orthonormal to each other. Write
# `distance(n)`: $\|W_n - W\|$ as a number, right to twelve digits for every $n$ from 1 to $10^{9}$. Forming the tensors cannot give that.
# Each of three ranges of $n$ gets a third of the points.


# %% nbgrader={"grade_id": "distance", "solution": true}
def distance(n):
    """The norm of W_n - W for orthonormal a and b."""
    ### BEGIN SOLUTION
    return (3 / n**2 + 1 / n**4) ** 0.5
    ### END SOLUTION


check.distance(distance)

# %% [markdown] tags=["hints"]
# $(a + h b)^{\circ 3}$ has one term without $b$, three with one $b$, three with two and one with three.
#
# The norm of a sum of orthonormal tensors is the root of the sum of the squares of their coefficients.

# %% nbgrader={"grade_id": "distance-exact", "points": 9}
passed = [abs(distance(1) - 2) < 1e-12 and abs(distance(2) - 0.8125**0.5) < 1e-12]
### BEGIN HIDDEN TESTS
for cases in ((3.5, 40.0, 777.0, 1e4), (1e6, 1e8, 1e9)):
    right = [(3 + (1 / n) ** 2) ** 0.5 / n for n in cases]
    given = [float(distance(n)) for n in cases]
    passed.append(all(abs(x - y) < 1e-12 * y for x, y in zip(given, right)))
### END HIDDEN TESTS
9 * sum(passed) / len(passed)  # the points: the share of the cases that are right

# %% [markdown]
# On paper the distance falls for ever. In `float32` the two terms of norm about $n$ cancel, and rounding remains. Let
# `best_n` be the power of ten, $10^1$ to $10^7$, for which $W_n$, formed from `pair` in `float32`, is nearest to $W$ for
# $a = (0.6, 0.8)$ and $b = (-0.8, 0.6)$. Find it by an experiment, and make sure that you could have predicted its size.

# %% nbgrader={"grade_id": "best-n", "solution": true}
### BEGIN SOLUTION
a, b = torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64)
w = sum(torch.einsum("i,j,k->ijk", *t) for t in ((a, a, b), (a, b, a), (b, a, a)))
off = {}
for n in (10**k for k in range(1, 8)):
    factors = pair(a.float(), b.float(), n)
    off[n] = float((torch.einsum("ir,jr,kr->ijk", *factors).double() - w).norm())
best_n = min(off, key=off.get)
### END SOLUTION

# %% [markdown] tags=["hints"]
# One part of the error falls like $1/n$, the other grows like $\varepsilon n$ with $\varepsilon = 6 \cdot 10^{-8}$: where do they meet?

# %% nbgrader={"grade_id": "best-n-right", "points": 6}
assert best_n in [10**k for k in range(1, 8)], "a power of ten is needed"
### BEGIN HIDDEN TESTS
assert best_n in (10**3, 10**4)  # which of the two depends on how the products are rounded
### END HIDDEN TESTS

# %% [markdown]
# ## 5. See it (18 points, 30 minutes)
#
# **Draw one picture** that shows how `als` treats three tensors: `easy`, `swamp` and `degenerate` below, 300 sweeps each, from the starts that
# are given. Show the error against the sweep, with axes on which all three can be read, and for `degenerate` also how large
# the larger of the two terms becomes, $\|A_0[:, t]\|\,\|A_1[:, t]\|\,\|A_2[:, t]\|$. Label the axes and the lines. Marks are given for
# what can be read from the picture, not for beauty; the rubric is in the staff's guide.

# %% nbgrader={"grade_id": "tensors", "locked": true}
near = [gaussian(8, 1, seed=90 + k) + 0.25 * gaussian(8, 3, seed=95 + k) for k in range(3)]
e, f = torch.eye(2, dtype=torch.float64)
tensors = {
    "easy": torch.einsum("ir,jr,kr->ijk", *(gaussian(8, 3, seed=85 + k) for k in range(3))),
    "swamp": torch.einsum("ir,jr,kr->ijk", *near),
    "degenerate": sum(torch.einsum("i,j,k->ijk", *t) for t in ((e, e, f), (e, f, e), (f, e, e))),
}
starts = {
    name: [gaussian(n, 2 if name == "degenerate" else 3, seed=k) for k, n in enumerate(x.shape)]
    for name, x in tensors.items()
}


# %% nbgrader={"grade_id": "picture", "points": 10, "solution": true}
### BEGIN SOLUTION
def larger_term(factors):
    a, b, c = (f.norm(dim=0) for f in factors)
    return float((a * b * c).max())


def draw(figure):
    left, right = figure.subplots(1, 2)
    histories = {name: als(x, starts[name], 300)[1] for name, x in tensors.items()}
    x, factors, sizes = tensors["degenerate"], starts["degenerate"], []
    for _ in range(300):
        factors, _ = als(x, factors, 1)
        sizes.append(larger_term(factors))
    right.loglog(range(1, 301), sizes, label="degenerate")
    right.set(xlabel="sweep", ylabel="norm of the larger term")
    right.legend()
    return plots.convergence(left, histories)


picture(draw, figsize=(9, 3.2))
### END SOLUTION

# %% [markdown]
# **In words.** Describe each of the three curves in a sentence, and say how one can tell a swamp from a degenerate pair by looking at the
# terms. What would you tell a user whose `als` shows the third behavior: more sweeps, another start, or something else?
# Five to eight sentences.

# %% [markdown] nbgrader={"grade_id": "picture-words", "points": 8, "solution": true}
# The error of `easy` falls by a constant factor per sweep until rounding stops it. That of `swamp` stays nearly flat for many sweeps,
# because the columns are nearly parallel and the normal equations nearly singular, but it does end. That of `degenerate` falls ever more
# slowly, like a power of the number of sweeps, and never ends. The terms tell the two apart: in a swamp they stay bounded, in a degenerate
# pair they grow without bound, have nearly opposite signs and cancel. More sweeps only let the terms grow until rounding wins, as in part 4,
# and another start ends in the same place, since a best approximation of rank 2 does not exist. The user should change the question: take rank
# 3, bound the norm of the terms (a penalty), or ask for another format such as Tucker.
