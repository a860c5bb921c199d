# %% [markdown] tags=["assignment"]
# name = "tensor trains"
# minutes = 170
# needs = ["04_tt"]
# aims = [
#     "cut a tensor into a train from its right end, and say what each core is good for",
#     "bound the error of a train from below and from above before making it",
#     "add trains and shorten them without ever seeing the tensor",
#     "write down a train for a function of many variables, and predict its size",
# ]

# %% [markdown]
# # Problem set 2: how long is the train of 1/(i + j + k)?
#
# First a tensor is cut into a train, then the error is bounded, then trains are added and shortened. In the end you have a train
# of 64 million numbers that nobody has written down one by one, and you know how wrong it is. Write `train`, `add` and `shorten` with
# torch alone: their tests refuse `tl.TT`, and all that makes one.

# %% nbgrader={"grade_id": "setup", "locked": true}
import math

import torch

import tensorlab as tl
from tensorlab import plots
from tensorlab.course.assignments import ps2_tt as check
from tensorlab.course.checks import watched
from tensorlab.course.widgets import picture


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def fewest(s, delta):
    """The smallest rank, at least 1, that leaves at most delta of the singular values s."""
    tails = s.square().flip(0).cumsum(0).flip(0).sqrt()
    return max(1, int((tails > delta).sum()))


def alone(function, *case, most=None):
    """What a function of yours gives, without the trains of tl."""
    with watched(most, check.FORBIDDEN):
        return function(*case)


def dense(cores):
    """The tensor of a train."""
    x = cores[0]
    for core in cores[1:]:
        x = torch.tensordot(x, core, 1)
    return x[0, ..., 0]


def entries(cores, index):
    """The entries (b,) of a train at the indices (b, d)."""
    x = torch.ones(len(index), 1, dtype=cores[0].dtype)
    for k, core in enumerate(cores):
        x = torch.einsum("br,rbq->bq", x, core[:, index[:, k]])
    return x[:, 0]


# %% [markdown]
# ## 1. From the right end (20 points, 35 minutes)
#
# Lesson 04 takes cores off the left end. Take them off the right end: write `train(x, rtol)` for a tensor with $d \ge 2$ modes, a list of $d$
# cores $(r_k, n_k, r_{k+1})$ with $\|x - y\| \le \text{rtol}\,\|x\|$. All cores but the first are *right-orthonormal*: the rows of `core.reshape(r, n * q)` are
# orthonormal. Share the tolerance evenly in squares among the $d - 1$ cuts, and take at each the smallest rank, at least 1, that keeps its share:
# `fewest` above counts it. The tolerance is from 1e-8 to 1; `x` stays as it is.


# %% nbgrader={"grade_id": "train", "solution": true}
def train(x, rtol):
    """The cores of a train within rtol, all but the first right-orthonormal."""
    ### BEGIN SOLUTION
    delta = rtol * x.norm() / (x.ndim - 1) ** 0.5
    cores, rest, q = [], x, 1
    for n in x.shape[:0:-1]:
        u, s, vt = torch.linalg.svd(rest.reshape(-1, n * q), full_matrices=False)
        r = fewest(s, delta)
        cores.insert(0, vt[:r].reshape(r, n, q))
        rest, q = u[:, :r] * s[:r], r
    return [rest[None], *cores]
    ### END SOLUTION


check.train(train)

# %% [markdown] tags=["hints"]
# The first matrix to cut has the last index as its columns, all others as its rows.
#
# What is cut off on the right is `vt[:r]`, with rows that are orthonormal already; the singular values stay with the rest.
#
# The next matrix has the last mode of the rest and the rank as its columns: `rest.reshape(-1, n * q)`.

# %% nbgrader={"grade_id": "train-error", "points": 7}
x = gaussian(3, 4, 5)
cores = alone(train, x, 0.4)
assert [c.shape[1] for c in cores] == [3, 4, 5], "one core for each mode is needed"
assert cores[0].shape[0] == cores[-1].shape[2] == 1, "the ranks at the ends are 1"
assert (dense(cores) - x).norm() <= 0.4 * x.norm(), "the error is too large"
### BEGIN HIDDEN TESTS
for shape, rtol in [((4, 4, 4, 4), 0.5), ((2, 7), 0.3), ((3, 3, 3, 3, 3), 0.6), ((5, 2, 6), 1e-8)]:
    for scale in (1.0, 1e4):
        x = scale * gaussian(*shape, seed=1)
        before = x.clone()
        cores = alone(train, x, rtol)
        assert torch.equal(x, before) and [c.shape[1] for c in cores] == list(shape)
        assert (dense(cores) - x).norm() <= (rtol + 1e-12) * x.norm()
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "train-orthonormal", "points": 6}
for core in alone(train, gaussian(3, 4, 5), 0.4)[1:]:
    rows = core.reshape(len(core), -1)
    assert (rows @ rows.T - torch.eye(len(core))).norm() < 1e-10, "the rows are not orthonormal"
### BEGIN HIDDEN TESTS
for shape in [(4, 4, 4, 4), (2, 7), (3, 2, 2, 3, 2)]:
    x = gaussian(*shape, seed=2)
    cores = alone(train, x, 0.1)
    for core in cores[1:]:
        rows = core.reshape(len(core), -1)
        assert (rows @ rows.T - torch.eye(len(core))).norm() < 1e-10
    assert abs(cores[0].norm() - dense(cores).norm()) < 1e-10  # all of the size is in the first
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "train-ranks", "points": 7}
i = torch.arange(6, dtype=torch.float64)
wave = torch.sin(i[:, None, None, None] + i[:, None, None] + i[:, None] + i)
assert [c.shape[2] for c in alone(train, wave, 1e-8)] == [2, 2, 2, 1], (
    "the sine of a sum has the ranks 2"
)
### BEGIN HIDDEN TESTS
planted = dense([gaussian(*s, seed=3) for s in ((1, 5, 2), (2, 4, 3), (3, 5, 1))])
assert [c.shape[2] for c in alone(train, planted, 1e-8)] == [2, 3, 1]
zero = torch.zeros(2, 3, 4, dtype=torch.float64)
assert [c.shape[2] for c in alone(train, zero, 0.1)] == [1, 1, 1]
for shape, rtol in [((4, 4, 4, 4), 0.5), ((6, 5, 4), 0.3), ((4, 9), 0.7)]:
    x = 3 * gaussian(*shape, seed=4)
    rest, q, ranks = x, 1, [1]
    for n in shape[:0:-1]:
        u, s, _ = torch.linalg.svd(rest.reshape(-1, n * q), full_matrices=False)
        q = fewest(s, rtol * x.norm() / math.sqrt(len(shape) - 1))
        rest = u[:, :q] * s[:q]
        ranks.insert(0, q)
    assert [c.shape[2] for c in alone(train, x, rtol)] == ranks
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Bounds before the train (21 points, 30 minutes)
#
# For a tensor and given ranks $(r_1, \dots, r_{d-1})$ write `bounds(x, ranks)`: two numbers, `low` and `high`. No train of these ranks has an
# error below `low`, and TT-SVD with these ranks none above `high`; both are absolute errors in the Frobenius norm, and both are the best
# that the singular values of the $d - 1$ unfoldings of $x$ can give.


# %% nbgrader={"grade_id": "bounds", "solution": true}
def bounds(x, ranks):
    """Between which two numbers the error of TT-SVD with these ranks is."""
    ### BEGIN SOLUTION
    tails, rows = [], 1
    for n, r in zip(x.shape, ranks):
        rows *= n
        tails.append(torch.linalg.svdvals(x.reshape(rows, -1))[r:].norm())
    return float(max(tails)), float(torch.stack(tails).norm())
    ### END SOLUTION


check.bounds(bounds)

# %% [markdown] tags=["hints"]
# A train with the rank $r_k$ has an unfolding of rank $r_k$: what does Eckart-Young say about the error of that unfolding?
#
# TT-SVD cuts one unfolding after another, and what it drops at one cut is orthogonal to what it drops at the others.

# %% nbgrader={"grade_id": "bounds-right", "points": 8}
x = gaussian(3, 4, 5)
low, high = bounds(x, (2, 3))
off = float((tl.tt_svd(x, (2, 3)).to_dense() - x).norm())
assert 0 < low <= off <= high, f"the error of TT-SVD, {off:.4f}, is not between {low} and {high}"
### BEGIN HIDDEN TESTS
for shape, ranks in [
    ((4, 4, 4, 4), (2, 5, 3)),
    ((6, 3), (2,)),
    ((3, 4, 5), (3, 5)),
    ((2, 3, 2), (1, 1)),
]:
    x = 2 * gaussian(*shape, seed=5)
    tails = []
    for k, r in enumerate(ranks, 1):
        tails.append(float(torch.linalg.svdvals(x.reshape(math.prod(shape[:k]), -1))[r:].norm()))
    low, high = bounds(x, ranks)
    assert abs(low - max(tails)) < 1e-10 and abs(high - math.hypot(*tails)) < 1e-10
### END HIDDEN TESTS

# %% [markdown]
# How far apart can they be? For a tensor with three modes `high` is at most $\sqrt 2$ times `low`. Give a tensor `loose` of shape
# (2, 2, 2), with `low > 0` for the ranks (1, 1), for which the two differ by this factor, and for which TT-SVD with these ranks nevertheless reaches `low`.

# %% nbgrader={"grade_id": "loose", "solution": true}
### BEGIN SOLUTION
loose = torch.zeros(2, 2, 2, dtype=torch.float64)
loose[0, 0, 0], loose[1, 1, 1] = 2, 1
### END SOLUTION

# %% nbgrader={"grade_id": "loose-right", "points": 6}
assert loose.shape == (2, 2, 2), "a tensor of shape (2, 2, 2) is needed"
### BEGIN HIDDEN TESTS
first, second = (float(torch.linalg.svdvals(loose.reshape(r, -1))[1:].norm()) for r in (2, 4))
size = float(loose.norm())
assert first > 1e-6 * size and math.hypot(first, second) > 1.414 * max(first, second)
off = float((tl.tt_svd(loose, (1, 1)).to_dense() - loose).norm())
assert off < max(first, second) + 1e-9 * size
### END HIDDEN TESTS

# %% [markdown]
# **In words.** Why does your `loose` reach `low`, although each of the two cuts may lose that much? And why may one still not
# tell a user that TT-SVD finds the best train? Four to six sentences.

# %% [markdown] nbgrader={"grade_id": "loose-words", "points": 7, "solution": true}
# Both unfoldings of `loose` have the singular values 2 and 1, and both cuts would drop the same piece of the tensor, the entry 1. The first cut
# removes it; what remains has rank 1 in the other unfolding too, so the second cut has nothing left to drop, and the whole error is that of one cut. The bound
# `high` must allow for tensors in which the cuts drop different, orthogonal pieces, and then the squares add up. For such tensors TT-SVD fixes the first
# basis without looking at what the second cut will need. Another choice may have a smaller error, and TT-SVD never comes back: all that is
# promised is an error at most $\sqrt{d-1}$ times the best one.

# %% [markdown]
# ## 3. Add and shorten (26 points, 45 minutes)
#
# Write `add(a, b)`: the cores of the sum of two trains of the same shape ($d \ge 2$), made from their cores without any computation but
# putting them side by side. The ranks add.


# %% nbgrader={"grade_id": "add", "solution": true}
def add(a, b):
    """Cores of the sum of two trains."""
    ### BEGIN SOLUTION
    cores = [torch.cat((a[0], b[0]), dim=2)]
    for g, h in zip(a[1:-1], b[1:-1]):
        core = g.new_zeros(len(g) + len(h), g.shape[1], g.shape[2] + h.shape[2])
        core[: len(g), :, : g.shape[2]], core[len(g) :, :, g.shape[2] :] = g, h
        cores.append(core)
    return [*cores, torch.cat((a[-1], b[-1]), dim=0)]
    ### END SOLUTION


check.add(add)

# %% [markdown] tags=["hints"]
# For every index the middle cores are block diagonal: $G_k[i]$ and $H_k[i]$ on the diagonal, zeros elsewhere.
#
# The first core is a row of two blocks, the last one a column.

# %% nbgrader={"grade_id": "add-right", "points": 6}
shapes = ((1, 3, 2), (2, 4, 3), (3, 5, 1))
a, b = [gaussian(*s) for s in shapes], [gaussian(*s, seed=1) for s in shapes]
c = alone(add, a, b)
assert [tuple(g.shape) for g in c] == [(1, 3, 4), (4, 4, 6), (6, 5, 1)], "the ranks should add"
assert (dense(c) - dense(a) - dense(b)).norm() < 1e-12 * dense(c).norm(), "this is not the sum"
### BEGIN HIDDEN TESTS
a = [gaussian(*s, seed=6) for s in ((1, 3, 2), (2, 3, 2), (2, 3, 4), (4, 3, 1))]
b = [gaussian(*s, seed=7) for s in ((1, 3, 1), (1, 3, 3), (3, 3, 2), (2, 3, 1))]
before = [g.clone() for g in a]
c = alone(add, a, b)
assert [tuple(g.shape) for g in c] == [(1, 3, 3), (3, 3, 5), (5, 3, 6), (6, 3, 1)]
assert (dense(c) - dense(a) - dense(b)).norm() < 1e-12 * dense(c).norm()
assert all(torch.equal(g, h) for g, h in zip(a, before))
a, b = (
    [gaussian(*s, seed=8) for s in ((1, 4, 2), (2, 4, 1))],
    [gaussian(1, 4, 1), gaussian(1, 4, 1)],
)
assert (dense(alone(add, a, b)) - dense(a) - dense(b)).norm() < 1e-12 * dense(a).norm()
### END HIDDEN TESTS

# %% [markdown]
# A sum is longer than it needs to be. Write `shorten(cores, rtol)`: cores of a train within `rtol` of the given one, relative in the Frobenius norm, with ranks
# as small as in part 1. **Never form the tensor**, nor an unfolding of it: no tensor on the way may have more entries than twice the
# largest core. The list that is given and its cores stay as they are. Trains have $d \ge 2$ cores, and `rtol` is from 1e-7 to 1.


# %% nbgrader={"grade_id": "shorten", "solution": true}
def shorten(cores, rtol):
    """Cores with the smallest ranks within rtol of the train."""
    ### BEGIN SOLUTION
    cores = list(cores)
    for k, core in enumerate(cores[:-1]):
        q, rest = torch.linalg.qr(cores[k].reshape(-1, core.shape[2]))
        cores[k] = q.reshape(-1, core.shape[1], q.shape[1])
        cores[k + 1] = torch.tensordot(rest, cores[k + 1], 1)
    delta = rtol * cores[-1].norm() / (len(cores) - 1) ** 0.5
    for k in range(len(cores) - 1, 0, -1):
        u, s, vt = torch.linalg.svd(cores[k].flatten(1), full_matrices=False)
        r = fewest(s, delta)
        cores[k] = vt[:r].reshape(r, *cores[k].shape[1:])
        cores[k - 1] = torch.tensordot(cores[k - 1], u[:, :r] * s[:r], 1)
    return cores
    ### END SOLUTION


check.shorten(shorten)

# %% [markdown] tags=["hints"]
# If all cores but the last have orthonormal columns (as matrices with r n rows), then the norm of the last core is the norm of the tensor.
#
# Sweep to the right with QR factorizations, each of which gives its triangle to the next core; then sweep back and cut each core as in part 1.
#
# On the way back a core (r, n, q) is cut as a matrix with r rows, and `u * s` goes to the core on its left.

# %% nbgrader={"grade_id": "shorten-error", "points": 7}
a = [gaussian(*s) for s in ((1, 3, 4), (4, 4, 5), (5, 5, 1))]
short = alone(shorten, a, 0.5)
assert [c.shape[1] for c in short] == [3, 4, 5], "the modes have to stay"
assert (dense(short) - dense(a)).norm() <= 0.5 * dense(a).norm(), "the error is too large"
### BEGIN HIDDEN TESTS
for shapes, rtol in [
    (((1, 4, 3), (3, 4, 7), (7, 4, 2), (2, 4, 1)), 0.5),
    (((1, 5, 9), (9, 2, 1)), 0.6),
    (((1, 3, 5), (5, 3, 5), (5, 3, 5), (5, 3, 5), (5, 3, 1)), 1e-7),
]:
    for scale in (1.0, 1e3):
        a = [scale * gaussian(*s, seed=9) for s in shapes]
        before = [g.clone() for g in a]
        short = alone(shorten, a, rtol)
        assert len(a) == len(before) and all(torch.equal(g, h) for g, h in zip(a, before))
        assert (dense(short) - dense(a)).norm() <= (rtol + 1e-12) * dense(a).norm()
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "shorten-ranks", "points": 8}
a = [gaussian(*s) for s in ((1, 3, 2), (2, 4, 3), (3, 5, 1))]
middle = torch.stack([torch.block_diag(g, g) for g in a[1].movedim(1, 0)], dim=1)
c = [torch.cat((a[0], a[0]), 2), middle, torch.cat((a[2], a[2]), 0)]
assert [g.shape[2] for g in alone(shorten, c, 1e-7)] == [2, 3, 1], "a + a has the ranks of a"
### BEGIN HIDDEN TESTS
for shape, rtol in [((4, 4, 4, 4), 0.5), ((6, 5, 4), 0.3), ((3, 3, 3), 0.05), ((7, 5), 0.6)]:
    x = gaussian(*shape, seed=10)
    exact, q = [], 1
    rest = x
    for n in shape[:-1]:
        u, s, vt = torch.linalg.svd(rest.reshape(q * n, -1), full_matrices=False)
        exact.append(u.reshape(q, n, -1))
        rest, q = s[:, None] * vt, len(s)
    exact.append(5 * rest.reshape(q, -1, 1))
    rest, q, ranks = x, 1, [1]
    for n in shape[:0:-1]:
        u, s, _ = torch.linalg.svd(rest.reshape(-1, n * q), full_matrices=False)
        q = fewest(s, rtol * x.norm() / math.sqrt(len(shape) - 1))
        rest = u[:, :q] * s[:q]
        ranks.insert(0, q)
    assert [g.shape[2] for g in alone(shorten, exact, rtol)] == ranks
zero = [torch.zeros(1, 2, 3, dtype=torch.float64), gaussian(3, 2, 2), gaussian(2, 2, 1)]
assert [g.shape[2] for g in alone(shorten, zero, 0.1)] == [1, 1, 1]
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "shorten-size", "points": 5}
a = [gaussian(*s) for s in ((1, 10, 6), *[(6, 10, 6)] * 10, (6, 10, 1))]
short = alone(shorten, a, 0.1, most=2 * 360)
assert len(short) == 12, "twelve cores are needed"
### BEGIN HIDDEN TESTS
a = [0.1 * gaussian(*s, seed=11) for s in ((1, 8, 5), *[(5, 8, 5)] * 40, (5, 8, 1))]
short = alone(shorten, a, 1e-6, most=2 * 200)
index = torch.randint(8, (20, 42), generator=torch.Generator().manual_seed(0))
mine, given = entries(short, index), entries(a, index)
assert (mine - given).norm() < 1e-3 * given.norm()
### END HIDDEN TESTS

# %% [markdown]
# ## 4. A function of many variables (15 points, 30 minutes)
#
# With $s = 1 + i_0 + \dots + i_{d-1}$ take the tensor $1/s$. Nothing separates in it, but
#
# $$ \frac1s = \int_{-\infty}^{\infty} e^{t}\, e^{-s e^{t}}\, dt, $$
#
# and for a fixed $t$ the integrand is a product of functions of one index each. Write `inverse(n, d)`: the cores of a train with $d \ge 2$ modes of size $n$
# whose entries are $1/s$ with a **relative error of at most 1e-8 each**, as long as $s \le 200$. Use the trapezoidal rule, and choose its step and its ends
# yourself (at most 120 nodes).


# %% nbgrader={"grade_id": "inverse", "solution": true}
def inverse(n, d):
    """Cores of a train of 1 / (1 + i_0 + ... + i_(d-1))."""
    ### BEGIN SOLUTION
    step = 0.4
    rates = (step * torch.arange(-66, 10, dtype=torch.float64)).exp()  # e^t at the nodes, (r,)
    decay = torch.exp(-torch.arange(n)[:, None] * rates)  # (n, r)
    middle = torch.diag_embed(decay).movedim(0, 1)  # (r, n, r)
    first = step * rates * torch.exp(-rates) * decay
    return [first[None], *[middle] * (d - 2), decay.T[..., None]]
    ### END SOLUTION


# %% [markdown] tags=["hints"]
# One node $t$ with the weight $h$ is the rank-one term $h\, e^t e^{-e^t} \cdot e^{-i_0 e^t} \cdots e^{-i_{d-1} e^t}$; sum over the nodes with diagonal cores.
#
# On the left the integrand is about $e^t$: the part below $t_0$ is $e^{t_0}$, and it is compared with $1/s \ge 1/200$. On the right $e^{-e^t}$ ends it soon.
#
# The error of the trapezoidal rule falls like $e^{-\pi^2 / h}$ with its step $h$.

# %% nbgrader={"grade_id": "inverse-entries", "points": 9}
i = torch.arange(6, dtype=torch.float64)
wanted = 1 / (1 + i[:, None, None] + i[:, None] + i)
off = float((dense(inverse(6, 3)) / wanted - 1).abs().max())
assert off <= 1e-8, f"an entry is off by {off:.1e}"
### BEGIN HIDDEN TESTS
g = torch.Generator().manual_seed(0)
for n, d in [(100, 2), (25, 8), (9, 3)]:
    index = torch.randint(n, (200, d), generator=g)
    index[0], index[1] = 0, n - 1
    wanted = 1 / (1 + index.sum(1).double())
    cores = inverse(n, d)
    assert [c.shape[1] for c in cores] == [n] * d and max(c.shape[2] for c in cores) <= 120
    assert ((entries(cores, index) / wanted - 1).abs() <= 1e-8).all()
### END HIDDEN TESTS

# %% [markdown]
# The ranks of `inverse` are those of the rule, not of the function. Let `stored` be how many numbers the train for $n = 20$, $d = 6$ holds
# when it is shortened with `rtol = 1e-6`; the tensor has 64 million entries. A tenth up or down is counted as right. (If your `shorten` does not work, `check.given_shorten(cores, rtol)` does; nothing is
# taken off for that here.)

# %% nbgrader={"grade_id": "stored", "solution": true}
### BEGIN SOLUTION
stored = sum(core.numel() for core in shorten(inverse(20, 6), 1e-6))
### END SOLUTION

# %% nbgrader={"grade_id": "stored-right", "points": 6}
assert isinstance(stored, int), "a whole number is needed"
### BEGIN HIDDEN TESTS
ranks = check.ranks_of_inverse(20, 6, 1e-6)
wanted = sum(r * 20 * q for r, q in zip((1, *ranks), (*ranks, 1)))
assert abs(stored - wanted) <= 0.1 * wanted
### END HIDDEN TESTS

# %% [markdown]
# ## 5. See it (18 points, 30 minutes)
#
# **Draw one picture** that shows which of the three tensors below a train is good for, and how its size depends on the accuracy that is asked for:
# tolerances from $10^{-1}$ to $10^{-8}$, and the size of the tensor itself as a line to compare with. Label axes and lines.

# %% nbgrader={"grade_id": "tensors", "locked": true}
i = torch.arange(10, dtype=torch.float64)
total = i[:, None, None, None] + i[:, None, None] + i[:, None] + i
tensors = {
    "1 / (1 + sum)": 1 / (1 + total),
    "|sum - 18|": (total - 18).abs(),
    "random": gaussian(10, 10, 10, 10, seed=12),
}


# %% nbgrader={"grade_id": "picture", "points": 10, "solution": true}
### BEGIN SOLUTION
def draw(figure):
    curves = {
        name: [
            (sum(c.numel() for c in train(x, rtol)), rtol)
            for rtol in (10.0**-k for k in range(1, 9))
        ]
        for name, x in tensors.items()
    }
    ax = figure.subplots()
    seen = plots.error_against_storage(ax, curves)
    ax.axvline(10**4, color="0.4", lw=1)
    ax.annotate("the tensor", (10**4, 1e-4), (4, 0), textcoords="offset points")
    return seen


picture(draw)
### END SOLUTION

# %% [markdown]
# **In words.** For each of the three tensors: how does the size grow when two more digits are asked for, and which property of the function explains it?
# For which of them would you use a train at 1 %, and for which at $10^{-8}$? Five to eight sentences.

# %% [markdown] nbgrader={"grade_id": "picture-words", "points": 8, "solution": true}
# For $1/(1 + \text{sum})$ each factor of a hundred in accuracy costs about one more rank at every cut: the function is smooth, a short sum of
# exponentials is near it, and the error of such a sum falls exponentially with the number of terms. For $|\text{sum} - 18|$ the ranks grow much faster, because
# of the kink: a sum of few smooth products cannot follow it, and the singular values fall only like a power. At 1 % it is still a short train. The random
# tensor has no structure at all: every singular value counts, the ranks are full at all tolerances below its size, and the train stores more numbers than
# the tensor. I would use a train for the first at any accuracy, for the second where one or two digits are enough, and never for the third.
