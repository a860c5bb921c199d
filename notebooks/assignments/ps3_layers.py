# %% [markdown] tags=["assignment"]
# name = "layers"
# minutes = 155
# needs = ["09_kronecker", "10_ttmatrix", "11_blocktt"]
# aims = [
#     "multiply two layers as trains, and say what happens to their ranks",
#     "count the operations and the bytes of a product before it runs",
#     "find the batch from which it pays to rebuild the weight",
#     "project a weight onto a structure, and multiply and differentiate within it",
# ]

# %% [markdown]
# # Problem set 3: what does a layer cost?
#
# A structured layer stores few numbers. Whether it is also fast depends on the order in which it is multiplied, on the batch and
# on what the machine can read in the meantime. All of this can be counted before anything runs.

# %% nbgrader={"grade_id": "setup", "locked": true}
import math

import torch

import tensorlab as tl
from tensorlab.course.assignments import ps3_layers as check
from tensorlab.course.checks import watched
from tensorlab.course.widgets import picture


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_cores(out, in_, ranks, seed=0):
    """Cores (r, m, n, q) of a TT-matrix."""
    r = (1, *ranks, 1)
    return [gaussian(r[k], m, n, r[k + 1], seed=seed + k) for k, (m, n) in enumerate(zip(out, in_))]


def dense(cores):
    return tl.TTMatrix(tuple(cores)).to_dense()


def alone(function, *case, most=None):
    """What a function of yours gives, without the answers of the self-checks."""
    with watched(most, check.FORBIDDEN + check.BY_HAND):
        return function(*case)


# %% [markdown]
# ## 1. Two layers as one (26 points, 40 minutes)
#
# Two layers without an activation between them are one layer with the weight $AB$. Let both be TT-matrices, with the cores
# $A_k$ of shape $(r_k, m_k, p_k, r_{k+1})$ and $B_k$ of shape $(s_k, p_k, n_k, s_{k+1})$: the columns of $A$ are split as the
# rows of $B$. Write `multiply(a, b)`: the list of cores of $AB$, of the shapes $(r_k s_k, m_k, n_k, r_{k+1} s_{k+1})$. Nothing larger
# than twice the largest of these cores may be formed on the way, so neither $A$ nor $B$ nor $AB$. Do not shorten the ranks.


# %% nbgrader={"grade_id": "multiply", "solution": true}
def multiply(a, b):
    """The cores of the product of two TT-matrices."""
    ### BEGIN SOLUTION
    both = [torch.einsum("rmpq,spnt->rsmnqt", *pair) for pair in zip(a, b)]
    return [c.flatten(4, 5).flatten(0, 1) for c in both]
    ### END SOLUTION


check.multiply(multiply)  # costs nothing: it prints what is wrong, or that this case is right

# %% [markdown] tags=["hints"]
# Entry $(m, n)$ of a product of matrices is a sum over $p$. With split indices there is one such sum for each core, and they do not
# see each other.
#
# For fixed $m$ and $n$ a core of the product is a sum of Kronecker products of two small matrices, $A_k[:, m, p, :] \otimes B_k[:, p, n, :]$.

# %% nbgrader={"grade_id": "multiply-right", "points": 10}
a, b = random_cores((2, 3), (4, 2), (3,)), random_cores((4, 2), (3, 5), (2,), seed=9)
c = multiply(a, b)
assert [tuple(k.shape) for k in c] == [(1, 2, 3, 6), (6, 3, 5, 1)], "the shapes are wrong"
assert (dense(c) - dense(a) @ dense(b)).norm() < 1e-10, "this is not the product"
### BEGIN HIDDEN TESTS
for out, mid, in_, r, s in [
    ((3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3), (3, 3)),
    ((2, 4, 3), (3, 2, 5), (4, 3, 2), (2, 3), (3, 2)),
    ((5,), (3,), (4,), (), ()),
    ((2, 3, 2, 2), (3, 2, 2, 4), (2, 2, 3, 2), (2, 5, 3), (1, 2, 2)),
]:
    a, b = random_cores(out, mid, r, seed=20), random_cores(mid, in_, s, seed=30)
    c = multiply(a, b)
    assert [k.shape[0] for k in c[1:]] == [p * q for p, q in zip(r, s)]
    wanted = dense(a) @ dense(b)
    assert (dense(c) - wanted).norm() < 1e-10 * wanted.norm()
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "multiply-small", "points": 8}
a = random_cores((4,) * 9, (4,) * 9, (3,) * 8)
c = alone(multiply, a, a, most=2 * 9 * 4 * 4 * 9)
### BEGIN HIDDEN TESTS
a, b = (random_cores((2, 3, 2), (3, 2, 2), (2, 2), seed=k) for k in (40, 50))
b = [k.transpose(1, 2) for k in b]
before = [k.clone() for k in (*a, *b)]
c = alone(multiply, a, b, most=2 * 4 * 2 * 2 * 4 * 2)
assert all(torch.equal(p, q) for p, q in zip(before, (*a, *b)))
assert all(
    k.dtype == torch.float32 for k in multiply([k.float() for k in a], [k.float() for k in b])
)
### END HIDDEN TESTS

# %% [markdown]
# **In words.** A layer of 4096 inputs and outputs is a TT-matrix with $m = n = (16, 16, 16)$ and all ranks $r$. Two of these in a row are
# replaced by their product. Compare what is stored before and after, as a function of $r$: from which $r$ on does the product store more
# than the two layers? Which matrices $A$ and $B$ have a product whose ranks can be shortened a lot, and would you merge two layers of
# $r = 8$? Four to six sentences, with numbers.

# %% [markdown] nbgrader={"grade_id": "multiply-words", "points": 8, "solution": true}
# With ranks $r$ one layer stores $256\,(2r + r^2)$ numbers, so two store $512\,(2r + r^2)$. The product has the ranks $r^2$ and stores
# $256\,(2r^2 + r^4)$. The two are compared by $2r^2 + r^4$ against $4r + 2r^2$, that is by $r^3$ against 4: for $r = 1$ the product stores half as
# much, from $r = 2$ on it stores more. For $r = 8$ it stores about 1.08 million numbers against 41 thousand, so I would not merge them unless the
# ranks can be shortened. They can if the true ranks of the product are small, for instance if one factor is close to a rank 1 train
# (a Kronecker product), if $B$ is nearly $A^{-1}$, or if both are polynomials of one matrix such as a shift or a blur. This shows only after rounding.

# %% [markdown]
# ## 2. Count before you run (27 points, 45 minutes)
#
# The product $y = x\,w^{\mathsf T}$ with a TT-matrix is a **walk** over the cores, each step one product of two matrices. From the
# left, the state before core $k$ of shape $(r, m, n, q)$ has the indices (token, $m_0, \dots, m_{k-1}$, bond $r$, $n_k, \dots, n_{d-1}$). The core
# takes the bond and $n_k$ away and brings $m_k$ and the next bond: a product of (rows, inner) with (inner, columns), where
# inner $= r n$ and columns $= m q$. From the right the walk is the mirror image: it starts with the last core.
#
# Write `count(shapes, batch, side)` for the list of the shapes of the cores, a number of tokens, and `"left"` or `"right"`. It returns two whole numbers:
# the operations, $2 \cdot \text{rows} \cdot \text{inner} \cdot \text{columns}$ for each step, and the bytes, where each step reads its two matrices once and writes
# its result once, in `float32`.


# %% nbgrader={"grade_id": "count", "solution": true}
def count(shapes, batch, side):
    """Operations and bytes of a walk."""
    ### BEGIN SOLUTION
    if side == "right":
        shapes = [(q, m, n, r) for r, m, n, q in shapes[::-1]]
    flops, moved, size = 0, 0, batch * math.prod(n for _, _, n, _ in shapes)
    for r, m, n, q in shapes:
        rows, inner, columns = size // (r * n), r * n, m * q
        flops += 2 * rows * inner * columns
        moved += 4 * (rows * inner + inner * columns + rows * columns)
        size = rows * columns
    return flops, moved
    ### END SOLUTION


check.count(count)

# %% [markdown] tags=["hints"]
# How many entries has the state? Divided by `inner`, that is the number of rows.
#
# The result of a step has rows times columns entries, and is the state of the next step.
#
# The mirror image of a train: its cores in reverse, and in each of them the two bonds swapped.

# %% nbgrader={"grade_id": "count-operations", "points": 9}
shapes = [(1, 3, 2, 4), (4, 5, 3, 1)]
left, right = (alone(count, shapes, 7, side)[0] for side in ("left", "right"))
assert left == 2 * 7 * (3 * 2 * 12 + 3 * 12 * 5), "from the left"
assert right == 2 * 7 * (2 * 3 * 20 + 5 * 8 * 3), "from the right"
### BEGIN HIDDEN TESTS
TRAINS = [
    [(1, 6, 5, 1)],
    [(1, 4, 4, 3), (3, 4, 4, 1)],
    [(1, 2, 7, 3), (3, 5, 2, 4), (4, 3, 6, 1)],
    [(1, 2, 3, 2), (2, 5, 2, 5), (5, 3, 4, 3), (3, 2, 5, 1)],
]
for shapes in TRAINS:
    given = [tuple(s) for s in shapes]
    for batch in (1, 6):
        for side in ("left", "right"):
            found = alone(count, shapes, batch, side)[0]
            assert found == check.given_count(shapes, batch, side)[0]
    assert shapes == given
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "count-bytes", "points": 9}
shapes = [(1, 3, 2, 4), (4, 5, 3, 1)]
moved = 4 * (7 * 6 + 2 * 12 + 7 * 3 * 12 + 7 * 3 * 12 + 12 * 5 + 7 * 3 * 5)
found = alone(count, shapes, 7, "left")[1]
assert found == moved, "each step reads two matrices and writes one"
### BEGIN HIDDEN TESTS
for shapes in (
    [(1, 6, 5, 1)],
    [(1, 4, 4, 3), (3, 4, 4, 1)],
    [(1, 2, 7, 3), (3, 5, 2, 4), (4, 3, 6, 1)],
    [(1, 2, 3, 2), (2, 5, 2, 5), (5, 3, 4, 3), (3, 2, 5, 1)],
):
    for batch in (1, 6):
        for side in ("left", "right"):
            found = alone(count, shapes, batch, side)[1]
            assert found == check.given_count(shapes, batch, side)[1]
### END HIDDEN TESTS

# %% [markdown]
# A walk costs the same for each token. One can also **rebuild** the weight once, at the cost of
# $2\,(m_0 n_0 \cdots m_{k-1} n_{k-1})\,r_k\,m_k n_k\,r_{k+1}$ operations for each core $k \ge 1$, and then multiply by the dense weight, which costs
# $2\,(m_0 \cdots m_{d-1})(n_0 \cdots n_{d-1})$ for each token. Write `crossing(shapes, side)`: the smallest whole batch for which rebuilding takes **fewer**
# operations than the walk from that side, or `None` if there is none. Do not search for it: it must be right for a batch of $10^{12}$ too. (If your `count`
# does not work, ask `check.given_count(shapes, batch, side)`; nothing is taken off for that here.)


# %% nbgrader={"grade_id": "crossing", "solution": true}
def crossing(shapes, side):
    """The smallest batch for which rebuilding takes fewer operations than a walk, or None."""
    ### BEGIN SOLUTION
    (_, m, n, _), *rest = shapes
    once, entries = 0, m * n
    for r, m, n, q in rest:
        once += 2 * entries * r * m * n * q
        entries *= m * n
    saved = check.given_count(shapes, 1, side)[0] - 2 * entries
    return once // saved + 1 if saved > 0 else None
    ### END SOLUTION


check.crossing(crossing)

# %% [markdown] tags=["hints"]
# Both sides are straight lines in the batch, and one of them starts at zero.
#
# What do you return if the slopes are the same? If the lines meet exactly in a whole number?

# %% nbgrader={"grade_id": "crossing-right", "points": 9}
shapes = [(1, 4, 4, 8), (8, 4, 4, 1)]
n = crossing(shapes, "left")
assert n == 3, "a walk costs 2048 operations a token; rebuilding 4096 once, then 512 a token"
assert crossing([(1, 4, 4, 1), (1, 4, 4, 1)], "left") is None, "rank 1 is always cheaper"
### BEGIN HIDDEN TESTS
for shapes in (
    [(1, 3, 5, 15), (15, 7, 2, 1)],
    [(1, 2, 7, 14), (14, 5, 2, 18), (18, 3, 6, 1)],
    [(1, 2, 3, 6), (6, 5, 2, 20), (20, 3, 4, 10), (10, 2, 5, 1)],
    [(1, 8, 8, 64), (64, 8, 8, 1)],
    [(1, 8, 2, 8), (8, 2, 8, 1)],
):
    w = [torch.empty(s, device="meta") for s in shapes]
    for side in ("left", "right"):
        once, built = 0, w[0]
        for core in w[1:]:
            built = torch.tensordot(built, core, 1)
            once += 2 * built.numel() * core.shape[0]
        walk = check.given_count(shapes, 1, side)[0]
        n = crossing(shapes, side)
        if n is None:
            assert 2 * built.numel() >= walk
        else:
            assert isinstance(n, int) and once + 2 * n * built.numel() < n * walk
            assert once + 2 * (n - 1) * built.numel() >= (n - 1) * walk
assert crossing([(1, 6, 5, 1)], "left") is None  # the walk is the dense product
assert crossing([(1, 4, 4, 3), (3, 4, 4, 1)], "right") == 7  # for 6 both take as many
### END HIDDEN TESTS

# %% [markdown]
# ## 3. A layer of circles (29 points, 45 minutes)
#
# A **circulant** matrix has $w[i, j] = c[(i - j) \bmod n]$: it holds $n$ numbers. Three functions make a layer of it:
#
# - `nearest(w)`: the vector `c` (n,) of the circulant matrix that is nearest to `w` (n, n) in the Frobenius norm;
# - `apply(c, x)`: the outputs $x w^{\mathsf T}$, shape (batch, n), in $O(n \log n)$ operations per token, with no tensor of more than $2\,(\text{batch} + 1)\,n$
#   entries;
# - `gradient(x, dy)`: the gradient of a loss with respect to `c`, where `dy` (batch, n) is the gradient with respect to the outputs, by a formula
#   (no autograd), under the same limits.
#
# The dtype of the input is kept, $n$ may be odd, and no input is changed.


# %% nbgrader={"grade_id": "nearest", "solution": true}
def nearest(w):
    """The vector of the nearest circulant matrix."""
    ### BEGIN SOLUTION
    i = torch.arange(len(w))
    return w[(i[:, None] + i) % len(w), i].mean(dim=1)
    ### END SOLUTION


check.nearest(nearest)


# %% nbgrader={"grade_id": "apply", "solution": true}
def apply(c, x):
    """x wᵀ for the circulant matrix of c."""
    ### BEGIN SOLUTION
    return torch.fft.ifft(torch.fft.fft(x) * torch.fft.fft(c)).real
    ### END SOLUTION


check.apply(apply)


# %% nbgrader={"grade_id": "gradient", "solution": true}
def gradient(x, dy):
    """The gradient with respect to c, summed over the batch."""
    ### BEGIN SOLUTION
    return torch.fft.ifft((torch.fft.fft(x).conj() * torch.fft.fft(dy)).sum(dim=0)).real
    ### END SOLUTION


# %% [markdown] tags=["hints"]
# Which entries of $w$ should be equal? The number nearest to several numbers, in the sum of squares, is their mean.
#
# $y_i = \sum_j c[(i - j) \bmod n]\, x_j$ is a cyclic convolution. What does a Fourier transform make of it?
#
# The gradient of $c[k]$ is the sum of all products $dy_i\, x_j$ with $(i - j) \bmod n = k$. That is a correlation.

# %% nbgrader={"grade_id": "nearest-right", "points": 9}
i = torch.arange(6)
c, w = gaussian(6), gaussian(6, 6, seed=1)
kept, found = alone(nearest, c[(i[:, None] - i) % 6]), alone(nearest, w)
assert (kept - c).norm() < 1e-12, "a circulant matrix must be kept"
left = w - found[(i[:, None] - i) % 6]
assert abs(sum(left[k, (k - 2) % 6] for k in range(6))) < 1e-12, "diagonal 2 could be nearer"
### BEGIN HIDDEN TESTS
for n in (1, 2, 7, 12):
    w = gaussian(n, n, seed=60 + n)
    before, found = w.clone(), alone(nearest, w)
    i = torch.arange(n)
    basis = torch.stack([((i[:, None] - i - k) % n == 0).double().flatten() for k in range(n)], 1)
    wanted = torch.linalg.lstsq(basis, w.reshape(-1, 1)).solution[:, 0]
    assert found.shape == (n,) and (found - wanted).norm() < 1e-10 and torch.equal(w, before)
assert alone(nearest, gaussian(5, 5, dtype=torch.float32)).dtype == torch.float32
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "apply-right", "points": 9}
i = torch.arange(6)
c, x = gaussian(6), gaussian(4, 6, seed=1)
wanted = x @ c[(i[:, None] - i) % 6].T
y = alone(apply, c, x)
assert y.shape == (4, 6), "the shape should be (batch, n)"
assert (y - wanted).norm() < 1e-10, "this is not x wᵀ"
### BEGIN HIDDEN TESTS
for n, batch in ((1, 3), (5, 5), (9, 2), (16, 1)):
    c, x, i = gaussian(n, seed=70), gaussian(batch, n, seed=71), torch.arange(n)
    before = c.clone(), x.clone()
    found, wanted = alone(apply, c, x), x @ c[(i[:, None] - i) % n].T
    assert found.shape == wanted.shape and (found - wanted).norm() < 1e-10 * n
    assert torch.equal(c, before[0]) and torch.equal(x, before[1])
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "apply-small", "points": 5}
c, x = gaussian(1000), gaussian(3, 1000)
y = alone(apply, c, x, most=2 * 4 * 1000)
assert y.dtype == torch.float64, "the dtype of the input is kept"
### BEGIN HIDDEN TESTS
c, x = gaussian(777, dtype=torch.float32), gaussian(2, 777, seed=1, dtype=torch.float32)
y = alone(apply, c, x, most=2 * 3 * 777)
assert y.dtype == torch.float32 and y.shape == x.shape
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "gradient-right", "points": 6}
x, dy = gaussian(4, 6), gaussian(4, 6, seed=1)
first = sum((dy[:, (k + 1) % 6] * x[:, k]).sum() for k in range(6))
found = alone(gradient, x, dy)
assert found.shape == (6,), "one gradient for each number of c is needed"
assert abs(found[1] - first) < 1e-10, "the gradient of c[1] is wrong"
### BEGIN HIDDEN TESTS
for n, batch in ((1, 2), (5, 5), (8, 3)):
    x, dy, i = gaussian(batch, n, seed=80), gaussian(batch, n, seed=81), torch.arange(n)
    c = gaussian(n, seed=82).requires_grad_()
    (wanted,) = torch.autograd.grad(x @ c[(i[:, None] - i) % n].T, c, dy)
    found = alone(gradient, x, dy)
    assert found.shape == (n,) and (found - wanted).norm() < 1e-10 * n * batch
found = alone(gradient, *gaussian(2, 3, 500, dtype=torch.float32).unbind(), most=2 * 4 * 500)
assert found.dtype == torch.float32
### END HIDDEN TESTS

# %% [markdown]
# ## 4. See it (18 points, 25 minutes)
#
# **Draw one picture** with two panels for a layer of 1024 inputs and 4096 outputs, a TT-matrix with $m = (16, 16, 16)$, $n = (8, 8, 16)$ and all
# ranks equal to 6, against the batch from 1 to 10000. On the left: operations *per token* of the walks from both sides, of rebuilding (with the
# dense product that follows) and of a dense layer. On the right: operations *per byte* of the walks and of the dense layer, and as a line the 13 operations
# that a machine does in the time in which it moves one byte. Choose axes on which all of it can be read, and label them. Marks are given for what
# can be read from the picture, not for beauty; the rubric is in the staff's guide.

# %% nbgrader={"grade_id": "layer", "locked": true}
layer = [(1, 16, 8, 6), (6, 16, 8, 6), (6, 16, 16, 1)]
machine = 13


# %% nbgrader={"grade_id": "picture", "points": 10, "solution": true}
### BEGIN SOLUTION
def draw(figure):
    left, right = figure.subplots(1, 2)
    batches = [round(10 ** (k / 5)) for k in range(21)]
    entries, built = 1024 * 4096, 2 * (128 * 6 * 128 * 6 + 128 * 128 * 6 * 256)
    for side in ("left", "right"):
        costs = [count(layer, n, side) for n in batches]
        label = f"walk from the {side}"
        left.loglog(batches, [f / n for (f, _), n in zip(costs, batches)], label=label)
        right.loglog(batches, [f / b for f, b in costs], label=label)
    left.loglog(batches, [built / n + 2 * entries for n in batches], label="rebuild")
    left.axhline(2 * entries, ls="--", color="0.5", label="dense")
    plain = [2 * n * entries / (4 * (entries + n * 5120)) for n in batches]
    right.loglog(batches, plain, ls="--", color="0.5", label="dense")
    right.axhline(machine, ls=":", color="0.5", label="machine")
    left.set(xlabel="tokens", ylabel="operations per token")
    right.set(xlabel="tokens", ylabel="operations per byte")
    left.legend()
    right.legend()
    return "Operations per token and per byte of four ways to multiply, against the batch."


picture(draw, figsize=(9, 3.4))
### END SOLUTION

# %% [markdown]
# **In words.** Which way takes the fewest operations for 1 token, which for 10000, and does rebuilding ever pay here? Which walk would you take, and why is it
# the cheaper one? For which batches is the *dense* layer limited by the memory, and what about the walks? Explain from this why a layer with
# a fifth of the operations need not be five times as fast. Five to seven sentences.

# %% [markdown] nbgrader={"grade_id": "picture-words", "points": 8, "solution": true}
# The walk from the right takes the fewest operations for every batch: 1.8 million per token, against 3.3 million from the left and 8.4 million of the dense
# layer. Rebuilding never pays here, since after it the dense product remains, which alone costs more than a walk. The right walk is cheaper because it
# begins by contracting the long mode of 16 inputs, so that the state is smaller in the step after it. A dense layer reads its whole weight for each
# batch, so up to some 26 tokens it does fewer than 13 operations per byte and waits for the memory; beyond that it is limited by the operations.
# The walks write and read a state for every token, so their operations per byte stay on a plateau near 10 however large the batch is: they always wait for the memory.
# For a large batch the right walk has a fifth of the operations, but its time is that of its bytes, 10.5 operations to each of them, while the dense layer runs at the full
# speed of the machine. The gain is thus $4.7 \cdot 10.5 / 13 \approx 3.8$ at best, and small steps seldom reach even that.
