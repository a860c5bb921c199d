# %% [markdown] tags=["assignment"]
# name = "sampling"
# minutes = 165
# needs = ["08_tt_sampling", "19_protes", "20_density"]
# aims = [
#     "say how likely each index of a long train is, when some are known",
#     "draw from the square of a train, and score what is drawn",
#     "make a problem that PROTES learns, and one that misleads it",
#     "read a marginal off the train of a density",
# ]

# %% [markdown]
# # Problem set 5: what does a train know about the parts that you did not see?
#
# A train is a table that nobody can write down. It is asked for chances when a part is known, then for draws; then you make problems for
# PROTES, one that it solves and one that misleads it; and in the end the indices become numbers between 0 and 1. Write
# `chances`, `born`, `exactly`, `gram` and `marginal` with torch alone: their tests refuse `tl.TT`, and all that makes one.

# %% nbgrader={"grade_id": "setup", "locked": true}
import math

import torch

import tensorlab as tl
from tensorlab.course.assignments import ps5_sampling as check
from tensorlab.course.checks import watched
from tensorlab.course.widgets import picture


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def train(ranks, modes, seed=0):
    """Gaussian cores; with abs() they have no minus."""
    sizes = zip((1, *ranks), modes, (*ranks, 1))
    return [gaussian(*s, seed=seed + k) for k, s in enumerate(sizes)]


def chain(beta, d):
    """Cores of exp(beta * sum of s_k s_(k+1)) for spins s = 2 i - 1."""
    same = torch.eye(2, dtype=torch.float64)
    step = (beta * (2 * same - 1)).exp()
    return [same[None], *[step[..., None] * same] * (d - 2), step[..., None]]


def dense(cores):
    """The tensor of a train."""
    x = cores[0]
    for core in cores[1:]:
        x = torch.tensordot(x, core, 1)
    return x[0, ..., 0]


def alone(function, *case, most=None):
    """What a function of yours gives, without the trains of tl."""
    with watched(most, check.FORBIDDEN):
        return function(*case)


# %% [markdown]
# ## 1. What is likely, and draws from a square (36 points, 60 minutes)
#
# Let the cores of a train (r, n, q) have no negative entry, so that $p = x / \sum x$ is a distribution. Some indices are known, at any places:
# `known` is a dict from modes to indices. Write `chances(cores, known)`: a list of $d$ vectors, the $k$-th with the probability of each index of mode
# $k$ **given all that is known**, on its left and on its right; for a known mode it is 1 at the known index. The work is to grow like $d$, and trains
# of thousands of modes must not overflow.


# %% nbgrader={"grade_id": "chances", "solution": true}
def chances(cores, known):
    """For each mode the probabilities of its indices, given what is known."""
    ### BEGIN SOLUTION
    seen = list(cores)
    for k, i in known.items():
        seen[k] = torch.zeros_like(cores[k])
        seen[k][:, i] = cores[k][:, i]
    after = [torch.ones(1, dtype=torch.float64)]
    for core in reversed(seen):
        z = core.sum(dim=1) @ after[0]
        after.insert(0, z / z.sum())
    row, found = torch.ones(1, dtype=torch.float64), []
    for core, z in zip(seen, after[1:]):
        p = torch.einsum("r,rnq,q->n", row, core, z)
        found.append(p / p.sum())
        row = row @ core.sum(dim=1)
        row = row / row.sum()
    return found
    ### END SOLUTION


check.chances(chances)

# %% [markdown] tags=["hints"]
# What is known sets slices of a core to zero; afterwards nothing is special about a known mode.
#
# One sweep from the right collects all that is to the right of each mode, one from the left does the rest.
#
# Only ratios count: bring what you carry along to the sum 1 at each mode.

# %% nbgrader={"grade_id": "chances-right", "points": 9}
cores = [core.abs() for core in train((3, 2, 2), (2, 3, 2, 2))]
p = alone(chances, cores, {2: 1})
table = dense(cores)[:, :, 1]
assert [len(q) for q in p] == [2, 3, 2, 2], "one vector for each mode is needed"
assert (p[2] - torch.tensor([0.0, 1.0])).norm() < 1e-12, "mode 2 is known"
assert (p[3] - table.sum((0, 1)) / table.sum()).norm() < 1e-12, "mode 3, given mode 2"
assert (p[1] - table.sum((0, 2)) / table.sum()).norm() < 1e-12, "mode 1, given mode 2"
### BEGIN HIDDEN TESTS
for ranks, modes, known in (
    ((2, 2, 2), (2, 2, 2, 2), {}),
    ((2, 4, 3, 2), (3, 2, 4, 2, 3), {0: 2, 3: 1}),
    ((2, 3), (3, 3, 3), {2: 0, 0: 1}),
    ((3,), (4, 2), {0: 3, 1: 0}),
):
    cores = [core.abs() for core in train(ranks, modes, seed=10)]
    before = [core.clone() for core in cores]
    p = alone(chances, cores, dict(known))
    assert all(torch.equal(g, h) for g, h in zip(cores, before))
    table = dense(cores)
    for k, i in known.items():
        table = table * torch.eye(modes[k])[i].reshape(
            [-1 if j == k else 1 for j in range(len(modes))]
        )
    for k, q in enumerate(p):
        wanted = table.movedim(k, 0).flatten(1).sum(1) / table.sum()
        assert q.shape == wanted.shape and (q - wanted).norm() < 1e-12
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "chances-long", "points": 6}
p = alone(chances, chain(1.0, 300), {200: 1})
assert all(abs(q.sum() - 1) < 1e-12 for q in p), "probabilities add up to 1"
assert abs(p[204][1] - (1 + math.tanh(1.0) ** 4) / 2) < 1e-12, "the chain of lesson 08"
### BEGIN HIDDEN TESTS
for scale in (1e-3, 1e3):
    cores = [scale * core for core in chain(0.7, 150)]
    p = alone(chances, cores, {50: 1, 90: 0, 93: 1})
    t = math.tanh(0.7)
    for k, wanted in ((47, t**3), (92, (t - t**2) / (1 - t**3)), (149, t**56), (96, t**3)):
        assert abs(p[k][1] - (1 + wanted) / 2) < 1e-12
### END HIDDEN TESTS

# %% [markdown]
# A train with signs is a distribution by its squares, $p = x^2 / \sum x^2$. Write `born(cores, u)` for `u` (m, d) with entries in [0, 1): $m$ draws
# at once, as indices (m, d), and the logarithms of their probabilities (m,). Mode after mode from the left, the index is the first one at which the
# running sum of the conditional probabilities exceeds the entry of `u`. No tensor may have more entries than four times the largest core, four times
# $m\,n\,r$ or four times $m\,d$: the squares, whose ranks are $r^2$, are never formed.


# %% nbgrader={"grade_id": "born", "solution": true}
def born(cores, u):
    """Draws (m, d) from the square of a train, and the logarithms of their probabilities."""
    ### BEGIN SOLUTION
    after = [torch.ones(1, 1, dtype=torch.float64)]
    for core in reversed(cores):
        half = torch.einsum("rna,ab->rnb", core, after[0])
        z = torch.einsum("rnb,snb->rs", half, core)
        after.insert(0, z / z.norm())
    row, log_p, index = torch.ones(len(u), 1, dtype=torch.float64), 0, []
    for core, z, threshold in zip(cores, after[1:], u.T):
        rows = torch.einsum("mr,rnq->mnq", row, core)
        p = (rows @ z * rows).sum(dim=2)
        p = p / p.sum(dim=1, keepdim=True)
        i = (p.cumsum(dim=1) <= threshold[:, None]).sum(dim=1)
        log_p = log_p + p.gather(1, i[:, None])[:, 0].log()
        row = rows[torch.arange(len(u)), i]
        row = row / row.norm(dim=1, keepdim=True)
        index.append(i)
    return torch.stack(index, dim=1), log_p
    ### END SOLUTION


check.born(born)

# %% [markdown] tags=["hints"]
# The sum of the squares of all that is to the right is $v\, Z\, v^{\mathsf T}$ for a row $v$ that comes from the left, with a matrix $Z$ (r, r).
#
# $Z_k = \sum_i G_k[i]\, Z_{k+1}\, G_k[i]^{\mathsf T}$, and $p_k(i) \propto (v G_k[i])\, Z_{k+1}\, (v G_k[i])^{\mathsf T}$.
#
# The scale of $v$ and of $Z$ does not matter, so that both may be brought to norm 1 at each mode.


# %% nbgrader={"grade_id": "squares", "locked": true}
def drawn(table, u):
    """Draws and logarithms from a table of probabilities, one at a time."""
    index, logs = [], []
    for numbers in u:
        rest, point, log = table, [], 0.0
        for number in numbers:
            p = rest.flatten(1).sum(1) if rest.ndim > 1 else rest
            p = p / p.sum()
            i = int((p.cumsum(0) <= number).sum())
            rest, log = rest[i], log + float(p[i].log())
            point.append(i)
        index.append(point)
        logs.append(log)
    return torch.tensor(index), torch.tensor(logs, dtype=torch.float64)


# %% nbgrader={"grade_id": "born-draws", "points": 9}
cores, u = train((3, 2, 2), (2, 3, 2, 2)), uniform(20, 4)
index, _ = alone(born, cores, u)
assert index.shape == (20, 4), "one row for each draw is needed"
assert torch.equal(index, drawn(dense(cores).square(), u)[0]), "these are not the right draws"
### BEGIN HIDDEN TESTS
for ranks, modes in (((2, 2), (2, 2, 2)), ((3, 4, 2), (3, 2, 4, 2)), ((2,), (5, 3))):
    cores, u = train(ranks, modes, seed=20), uniform(60, len(modes), seed=21)
    before = [core.clone() for core in cores]
    index, _ = alone(born, cores, u)
    assert torch.equal(index, drawn(dense(cores).square(), u)[0])
    assert all(torch.equal(g, h) for g, h in zip(cores, before))
half = torch.full((1, 2), 0.5, dtype=torch.float64)
coins = [torch.ones(1, 2, 1, dtype=torch.float64)] * 2
assert alone(born, coins, half)[0].tolist() == [[1, 1]]  # a half does not exceed a half
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "born-scores", "points": 5}
cores, u = train((3, 2, 2), (2, 3, 2, 2)), uniform(20, 4)
_, log_p = alone(born, cores, u)
assert (log_p - drawn(dense(cores).square(), u)[1]).norm() < 1e-10, "the logarithms are wrong"
### BEGIN HIDDEN TESTS
for scale in (1e-5, 1e5):
    cores = [scale * core for core in train((8,) * 39, (3,) * 40, seed=30)]
    index, log_p = alone(born, cores, uniform(5, 40, seed=31), most=4 * 200)
    wanted = tl.tt_log_prob(tl.TT(tuple(cores)), index, squared=True)
    assert (log_p - wanted).norm() < 1e-9 * wanted.norm()
### END HIDDEN TESTS

# %% [markdown]
# **In words.** The probabilities $x^2$ are themselves a train, of ranks up to $r^2$ and with signs in its cores. How many operations does one draw
# take you, as a power of $r$, and how many would `chances` take on that train? Why may one not sum the cores of $x$ over the index of an unknown
# mode, as `chances` does, and what takes the place of that sum? A colleague has a train of a distribution whose truncation has a few negative
# entries: what can you offer? Four to six sentences.

# %% [markdown] nbgrader={"grade_id": "born-words", "points": 7, "solution": true}
# A draw takes $n r^2$ operations a mode once the matrices $Z$ are known, and those take $n r^3$ a mode, once for all draws. The train of the squares
# has cores of $r^2 \cdot n \cdot r^2$ numbers, so that a product of a row with them takes $n r^4$, and so does storing them. To sum the cores of $x$
# is to sum amplitudes: terms of opposite signs cancel, although their squares do not, so $\sum_i x_i$ says nothing about $\sum_i x_i^2$. In its place
# each core is taken twice, $\sum_i G[i]\, Z\, G[i]^{\mathsf T}$, with the same index in both. To my colleague I offer to approximate the root of the
# distribution in place of the distribution: its train may have any signs, its square is never negative at any rank, and its error in the Hellinger
# distance is that of the root.

# %% [markdown]
# ## 2. Problems for PROTES (27 points, 45 minutes)
#
# First a constraint. Write `exactly(d, k)`: cores, with entries 0 and 1 and ranks of at most $k + 1$, of the train over $d \ge 2$ bits whose entry is
# 1 for words with exactly $k$ ones ($1 \le k \le d$), and 0 for all others.


# %% nbgrader={"grade_id": "exactly", "solution": true}
def exactly(d, k):
    """Cores of the indicator of words with k ones."""
    ### BEGIN SOLUTION
    eye = torch.eye(k + 2, dtype=torch.float64)
    core = torch.stack([eye[:-1, :-1], eye[1:, :-1]], dim=1)
    return [core[:1], *[core] * (d - 2), core[..., k:]]
    ### END SOLUTION


check.exactly(exactly)

# %% [markdown] tags=["hints"]
# Think of a machine that reads the word and counts: what must it remember, and which counts may it give up?
#
# The entry (s, i, t) of a core is 1 if reading $i$ takes the count from s to t.

# %% nbgrader={"grade_id": "exactly-right", "points": 9}
x = dense(alone(exactly, 5, 2))
assert x.shape == (2,) * 5 and set(x.flatten().tolist()) <= {0.0, 1.0}, "entries 0 and 1 are needed"
assert x[0, 1, 0, 0, 1] == 1 and x[0, 1, 0, 1, 1] == 0, "two ones, not three"
assert x.sum() == 10, "there are ten words of five bits with two ones"
### BEGIN HIDDEN TESTS
for d, k in ((3, 1), (3, 3), (6, 4), (7, 1), (8, 8)):
    cores = alone(exactly, d, k)
    bits = torch.cartesian_prod(*[torch.arange(2)] * d)
    assert all(set(core.flatten().tolist()) <= {0.0, 1.0} for core in cores)
    assert max(core.shape[2] for core in cores) <= k + 1
    assert torch.equal(dense(cores).flatten(), (bits.sum(1) == k).double())
cores, row = exactly(200, 30), torch.ones(1, dtype=torch.float64)
for core in cores:
    row = row @ core.sum(1)
assert abs(float(row) / math.comb(200, 30) - 1) < 1e-12
### END HIDDEN TESTS

# %% [markdown]
# Now two problems of your own over words of 16 bits. Each is a function of indices (m, 16) that gives values (m,) in `float64`, with a single
# smallest value; tell where it is, as a list of 16 bits.
#
# - `learned`, with `learned_best`: `tl.protes(learned, (2,) * 16, budget=1500)` finds the smallest value with each of the seeds 0, 1 and 2. But
#   **no bit tells anything by itself**: for each bit, the mean of the function over all words in which it is 0 equals that over all words in which it
#   is 1, up to 1 % of the standard deviation of all values.
# - `misled`, with `misled_best`: for each of the seeds the best word that PROTES finds in 1500 evaluations differs from `misled_best` in **at least 12 bits**.


# %% nbgrader={"grade_id": "own", "solution": true}
### BEGIN SOLUTION
def learned(index):
    spins = 2.0 * index.double() - 1
    walls = (spins[:, 1:] * spins[:, :-1]).sum(dim=1)
    return -walls - 1e-3 * spins.sum(dim=1)


def misled(index):
    ones = index.double().sum(dim=1)
    return torch.where(ones == 16, -1.0, ones)


learned_best = misled_best = [1] * 16
### END SOLUTION

# %% [markdown] tags=["hints"]
# What can two neighboring bits tell together that neither of them tells alone? A problem whose values stay the same when all bits are flipped tells
# nothing about a single bit; but it has two smallest values.
#
# PROTES follows what is good on average. Where must the best word be, so that nothing which is good on average leads there?


# %% nbgrader={"grade_id": "runs", "locked": true}
def runs(f):
    """The best words of three runs of PROTES, on one thread: its steps are small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    fits = [
        tl.protes(f, (2,) * 16, budget=1500, generator=torch.Generator().manual_seed(s))
        for s in range(3)
    ]
    torch.set_num_threads(threads)
    return [torch.tensor(fit.value.index) for fit in fits]


def smallest(f, best):
    """Whether f is smallest at this word alone."""
    values = f(torch.cartesian_prod(*[torch.arange(2)] * 16)).reshape((2,) * 16)
    return values[tuple(best)] == values.min() and int((values == values.min()).sum()) == 1


def told(f):
    """How much each bit tells by itself, in standard deviations of all values."""
    values = f(torch.cartesian_prod(*[torch.arange(2)] * 16)).reshape((2,) * 16)
    means = [values.movedim(k, 0).flatten(1).mean(1) for k in range(16)]
    return torch.stack([(a - b).abs() for a, b in means]) / values.std()


# %% nbgrader={"grade_id": "own-right", "points": 10}
assert len(learned_best) == len(misled_best) == 16, "words of 16 bits are needed"
passed = [
    smallest(learned, learned_best)
    and bool((told(learned) <= 0.01).all())
    and all(word.tolist() == list(learned_best) for word in runs(learned)),
    smallest(misled, misled_best)
    and all(int((word != torch.tensor(misled_best)).sum()) >= 12 for word in runs(misled)),
]
5 * sum(map(bool, passed))

# %% [markdown]
# **In words.** Which distribution must PROTES learn for `learned`: what does its train look like, which rank does it need, and why could a model of
# independent bits, a train of rank 1, not do it? Why does `misled` mislead it, and would a larger budget, a larger elite or more mutants help? What
# would you have to know about a problem before you trust a search of this kind? Five to seven sentences.

# %% [markdown] nbgrader={"grade_id": "own-words", "points": 8, "solution": true}
# Good words of `learned` have long runs of equal bits, as in the chain of lesson 08, and a train of rank 2 holds such a distribution: its bond tells
# what the last bit was. With independent bits both kinds of runs are equally good, so each bit keeps the probability one half, and nothing is learned
# before the last small term decides. In `misled` fewer ones are better everywhere but at a single word, the opposite of what is good on average, so
# every elite moves the model away from it. A larger budget does not help before it is near all $2^{16}$ words, and a larger elite has the same
# average; mutants change one or two bits of a good word, and the best word is 16 bits away. One has to know that good points resemble each other:
# that what makes a point good can be said of a few neighboring indices. If the best point is a needle or a trap, no search by values can beat
# guessing.

# %% [markdown]
# ## 3. A density (19 points, 35 minutes)
#
# Let $b_0, \dots, b_{m-1}$ be the hat functions on $[0, 1]$ with the nodes $i / (m - 1)$, as `hats(x, m)` gives them, and let cores (r, m, q), with
# entries of any sign and each with its own $m \ge 2$, make $f(x) = \prod_k \big(\sum_i b_i(x_k)\, G_k[i]\big)$ and the density $p = f^2 / Z$ on $[0, 1]^d$.
# Write `gram(m)`, the integrals $\int b_i b_j$ as a matrix (m, m) in `float64`, and `marginal(cores, k, x)`: the density of the variable $k$ alone at
# the points `x` (n,), integrated exactly over all others. (Where your `gram` does not work, `marginal` may ask `check.given_gram(m)`; nothing is
# taken off for that.)


# %% nbgrader={"grade_id": "hats", "locked": true}
def hats(x, m):
    """The values (n, m) of the hat functions at points (n,)."""
    return (1 - (x[:, None] * (m - 1) - torch.arange(m)).abs()).clamp_min(0)


# %% nbgrader={"grade_id": "gram", "solution": true}
def gram(m):
    """Integrals of products of two hat functions."""
    ### BEGIN SOLUTION
    inside = torch.ones(m, dtype=torch.float64)
    inside[0] = inside[-1] = 0.5
    near = torch.ones(m - 1, dtype=torch.float64)
    both = torch.diag(near, 1) + torch.diag(near, -1)
    return (4 * torch.diag(inside) + both) / (6 * (m - 1))
    ### END SOLUTION


check.gram(gram)


# %% nbgrader={"grade_id": "marginal", "solution": true}
def marginal(cores, k, x):
    """The density (n,) of one variable at points (n,)."""
    ### BEGIN SOLUTION
    left = right = torch.ones(1, 1, dtype=torch.float64)
    for core in cores[:k]:
        turned = torch.einsum("ij,sjy->siy", check.given_gram(core.shape[1]), core)
        left = torch.einsum("rs,rix,siy->xy", left, core, turned)
        left = left / left.norm()
    for core in reversed(cores[k + 1 :]):
        turned = torch.einsum("ij,sjy->siy", check.given_gram(core.shape[1]), core)
        right = torch.einsum("rix,siy,xy->rs", core, turned, right)
        right = right / right.norm()
    table = torch.einsum("rix,rs,sjy,xy->ij", cores[k], left, cores[k], right)
    b = hats(x, len(table))
    return (b @ table * b).sum(dim=1) / (check.given_gram(len(table)) * table).sum()
    ### END SOLUTION


check.marginal(marginal)

# %% [markdown] tags=["hints"]
# On one interval of length $h$ a hat has $\int b^2 = h / 3$, and two neighbors have $\int b_i b_{i+1} = h / 6$.
#
# What is left of core $k$ is one matrix, that of the sum of its squares with the Gram matrices between; so is what is right of it.
#
# With both, the variable $k$ has a table $T$ (m, m), and its density is $b(x)^{\mathsf T}\, T\, b(x)$ over the sum of $T$ times the Gram matrix.

# %% nbgrader={"grade_id": "gram-right", "points": 5}
d = alone(gram, 4)
assert d.shape == (4, 4) and abs(d.sum() - 1) < 1e-12, (
    "all hats together are 1, and so is its integral"
)
assert abs(d[1, 1] - 2 / 9) < 1e-12 and abs(d[1, 2] - 1 / 18) < 1e-12, "inside the interval"
### BEGIN HIDDEN TESTS
for m in (2, 5, 30):
    assert (alone(gram, m) - check.given_gram(m)).abs().max() < 1e-12
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "marginal-right", "points": 9}
cores = train((2, 3), (4, 3, 5))
with watched(forbids=check.FORBIDDEN[:1]):
    ends, middle = (marginal(cores, 1, torch.linspace(a, 1, 2).double()) for a in (0, 0.5))
inner = marginal(cores, 1, torch.tensor([0.25, 0.75]).double())
whole = (ends.sum() + 4 * inner.sum() + 2 * middle[0]) / 12
assert abs(whole - 1) < 1e-12, "the integral of a density is 1"
### BEGIN HIDDEN TESTS
for ranks, modes in (((2, 2), (3, 3, 3)), ((3, 2), (5, 2, 4)), ((4,), (3, 6))):
    cores = train(ranks, modes, seed=40)
    before = [core.clone() for core in cores]
    x = uniform(7, seed=41)
    for k in range(len(modes)):
        with watched(forbids=check.FORBIDDEN[:1]):
            found = marginal(cores, k, x)
        wanted = check.marginal.right(cores, k, x)
        assert found.shape == wanted.shape and (found - wanted).norm() < 1e-10 * wanted.norm()
    assert all(torch.equal(g, h) for g, h in zip(cores, before))
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "marginal-long", "points": 5}
cores = train((6,) * 11, (5,) * 12)
with watched(most=900):
    p = marginal(cores, 7, torch.linspace(0, 1, 9).double())
assert (p >= 0).all() and p.isfinite().all(), "a density is not negative"
### BEGIN HIDDEN TESTS
for scale in (1e-6, 1e6):
    cores = [scale * core for core in train((4,) * 29, (3,) * 30, seed=50)]
    for k in (0, 17, 29):
        with watched(most=600):
            a, b, c, d, e = marginal(cores, k, torch.linspace(0, 1, 5).double())
        assert abs((a + 4 * b + 2 * c + 4 * d + e) / 12 - 1) < 1e-12
### END HIDDEN TESTS

# %% [markdown]
# ## 4. See it (18 points, 25 minutes)
#
# **Draw one picture** with two panels for `chain(beta, 60)` at $\beta$ = 0.5, 1 and 2. On the left: the chance that spin $k$ is up, against $k$, when
# the spins 20 and 40 are known to be up. On the right, when spin 20 alone is known: how far this is felt, $2p - 1$ of spin $20 + t$ against the
# distance $t$ from 1 to 39, on axes on which the law of the decay can be read. Label axes and lines. Marks are given for what can be read from the
# picture, not for beauty; the rubric is in the staff's guide.


# %% nbgrader={"grade_id": "picture", "points": 10, "solution": true}
### BEGIN SOLUTION
def draw(figure):
    left, right = figure.subplots(1, 2)
    for beta in (0.5, 1.0, 2.0):
        up = [float(p[1]) for p in chances(chain(beta, 60), {20: 1, 40: 1})]
        left.plot(range(60), up, label=f"beta = {beta:g}")
        one = [2 * float(p[1]) - 1 for p in chances(chain(beta, 60), {20: 1})]
        right.semilogy(range(1, 40), one[21:], label=f"beta = {beta:g}")
    left.set(xlabel="spin", ylabel="chance that it is up")
    right.set(xlabel="distance from spin 20", ylabel="2 p - 1")
    right.legend(title="both panels")
    return "Chances of spins next to known ones, and how they decay with the distance."


picture(draw, figsize=(9, 3.2))
### END SOLUTION

# %% [markdown]
# **In words.** By which factor does the knowledge fall from spin to spin for each $\beta$, and after how many spins is a tenth of it left? Why is the
# law the same on both sides, and what does it say about the second eigenvalue of the matrix that one core stands for? What do two known spins add
# between them that one does not, and for which $\beta$ can it be seen? Five to seven sentences.

# %% [markdown] nbgrader={"grade_id": "picture-words", "points": 8, "solution": true}
# On the right the lines are straight on a logarithmic axis: each spin multiplies the knowledge by $\tanh \beta$, which is 0.46, 0.76 and 0.96. A
# tenth is left after about 3, 8.5 and 63 spins, so that for $\beta = 2$ it is felt to the end of the chain. The law is the same on both sides because
# the chain is the same read backward, and beyond the known spin nothing else is known. The matrix of a core, with the entries $e^{\pm\beta}$, has the
# eigenvalues $2\cosh\beta$ and $2\sinh\beta$; the first one is the normalization, and their ratio $\tanh\beta$ is the factor: knowledge lives in the
# second. Between two known spins the chance is higher than either alone gives: $2 p - 1$ is $(t^a + t^b) / (1 + t^{a+b})$ with $t = \tanh\beta$ and
# the distances $a$ and $b$. For $\beta = 2$ it stays near 1 all the way between them, for $\beta = 1$ the middle is a little above one half, and for
# 0.5 the two do not feel each other.
