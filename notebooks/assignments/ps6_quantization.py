# %% [markdown] tags=["assignment"]
# name = "quantization"
# minutes = 170
# needs = ["23_kashin"]
# aims = [
#     "split a vector into two flat ones by clipping, and bound what comes out",
#     "store codes of any width without a gap",
#     "find levels for given numbers, and say when a rotation helps them and when it harms",
#     "share a budget of bits among layers in the best way",
# ]

# %% [markdown]
# # Problem set 6: how many bits does a number need?
#
# A vector is split into two flat ones by another rule than that of the lesson, codes are put into bytes, levels are fitted to numbers, and a budget of
# bits is shared among layers. In the end a picture tells what one more bit brings. Write `frame`, `pack`, `unpack`, `lloyd` and
# `allocate` with torch alone: their tests refuse the functions of `tl` that do the same.

# %% nbgrader={"grade_id": "setup", "locked": true}
import itertools
import math

import torch

from tensorlab.course.assignments import ps6_quantization as check
from tensorlab.course.checks import watched
from tensorlab.course.widgets import picture
from tensorlab.methods.kashin import Rotation, kashin_steps


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def snap(x, levels):
    """The nearest of the levels for each entry."""
    return levels[(x[:, None] - levels).abs().argmin(1)]


def off(x, y):
    """The relative error of y."""
    return float((x - y).norm() / x.norm())


def alone(function, *case, most=None):
    """What a function of yours gives, without the functions of tl that do the same."""
    with watched(most, check.FORBIDDEN):
        return function(*case)


# %% [markdown]
# ## 1. Two flat vectors by clipping (22 points, 40 minutes)
#
# The lesson subtracts sign vectors, from one side at a time. An older rule takes a step on **both** sides at once: of what is left, $r$, half is
# offered to each of $u$ and $v$, and what exceeds a height is cut off,
#
# $$ \delta u = \mathrm{clip}(r / 2), \quad \delta v = \mathrm{clip}(Q^{\mathsf T} r / 2), \quad \text{both at } \pm\, c\, |r|_2 / \sqrt N, \qquad r \leftarrow r - \delta u - Q\, \delta v . $$
#
# Write `frame(x, forward, adjoint, steps, c)` with `forward(v)` $= Qv$ and `adjoint(x)` $= Q^{\mathsf T} x$ for vectors: it returns $u$, $v$ and the
# list of the norms $|r|_2$ after each step. The matrix is never formed.


# %% nbgrader={"grade_id": "frame", "solution": true}
def frame(x, forward, adjoint, steps, c):
    """u and v, and the norm of what is left after each step."""
    ### BEGIN SOLUTION
    u, v, r, left = torch.zeros_like(x), torch.zeros_like(x), x, []
    for _ in range(steps):
        top = float(c * r.norm() / len(r) ** 0.5)
        du, dv = (r / 2).clamp(-top, top), (adjoint(r) / 2).clamp(-top, top)
        u, v, r = u + du, v + dv, r - du - forward(dv)
        left.append(float(r.norm()))
    return u, v, left
    ### END SOLUTION


check.frame(frame)

# %% [markdown] tags=["hints"]
# `x.clamp(low, high)` clips.
#
# The height belongs to the vector that is left at the beginning of the step; it is the same for both halves.

# %% nbgrader={"grade_id": "frame-right", "points": 9}
q, x = Rotation("dct", (64,), seed=1), gaussian(64).pow(3)
u, v, left = alone(frame, x, q.apply, q.adjoint, 20, 0.6)
assert len(left) == 20, "one norm for each step is needed"
assert abs(left[-1] - (x - u - q.apply(v)).norm()) < 1e-10, "the last norm is not what is left"
assert left[-1] < 0.01 * x.norm(), "twenty steps should leave less than 1 %"
### BEGIN HIDDEN TESTS
for kind, n, c, scale in (
    ("orthogonal", 40, 0.5, 1.0),
    ("dct", 100, 0.8, 1e5),
    ("hadamard", 32, 0.6, 1e-5),
):
    q, x = Rotation(kind, (n,), seed=2), scale * gaussian(n, seed=3).pow(3)
    before = x.clone()
    u, v, left = alone(frame, x, q.apply, q.adjoint, 7, c)
    assert torch.equal(x, before) and len(left) == 7
    states = kashin_steps(x, q, method="frame", delta=1 / (4 * c * c))
    states = [state for state, _ in zip(states, range(8))]
    wanted = torch.stack([state.left for state in states[1:]]).flatten()
    assert torch.allclose(torch.tensor(left, dtype=torch.float64), wanted, rtol=1e-9)
    assert (u - states[-1].u).norm() < 1e-9 * x.norm() and (
        v - states[-1].v
    ).norm() < 1e-9 * x.norm()
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "frame-size", "points": 6}
q, x = Rotation("dct", (4096,), seed=1), torch.eye(1, 4096, dtype=torch.float64)[0]
u, v, left = alone(frame, x, q.apply, q.adjoint, 30, 0.6, most=4 * 4096)
flat = 64 * max(float(u.abs().max()), float(v.abs().max()))
assert flat < 3, f"a spike should be split into flat vectors, the largest entry is {flat:.1f}"
### BEGIN HIDDEN TESTS
zero = torch.zeros(8, dtype=torch.float64)
q = Rotation("dct", (8,), seed=1)
u, v, left = alone(frame, zero, q.apply, q.adjoint, 2, 0.6)
assert left == [0.0, 0.0] and torch.equal(u, zero) and torch.equal(v, zero)
q, x = Rotation("dct", (2048,), seed=4), gaussian(2048, seed=5, dtype=torch.float32)
u, v, left = alone(frame, x, q.apply, q.adjoint, 3, 0.6, most=4 * 2048)
assert u.dtype == v.dtype == torch.float32
u, v, left = alone(frame, x, q.apply, q.adjoint, 0, 0.6)
assert left == [] and not u.any() and not v.any()
### END HIDDEN TESTS

# %% [markdown]
# **In words.** Suppose that each step leaves at most the share $\rho < 1$ of $|r|_2$. Derive from this a bound of all entries of $u$ and of $v$ after
# any number of steps. What happens to $\rho$ and to your bound when $c$ becomes very small or very large? For which vectors does the rule fail when
# $Q$ is the identity, and which property of $Q$ makes $\rho < 1$? Four to six sentences.

# %% [markdown] nbgrader={"grade_id": "frame-words", "points": 7, "solution": true}
# Step $k$ adds at most $c\,|r_k|_2 / \sqrt N$ to an entry, and $|r_k|_2 \le \rho^k |x|_2$, so the entries are at most
# $c / (1 - \rho) \cdot |x|_2 / \sqrt N$ by the geometric series. For a very small $c$ nearly everything is cut off, each step takes little, and
# $\rho$ comes near 1, so that the bound need not become better. For a very large one nothing is cut, $\delta u + Q \delta v = r$, and all is over
# after one step with $\rho = 0$, but then $u = x / 2$ is as spiky as $x$, and the bound is large as $c$ is. With $Q = I$ a spike is a spike on both
# sides: both halves are cut at the same place, each step takes $2c\,|r| / \sqrt N$ from it, which is next to nothing. What is needed is that no
# vector is spiky in both bases, so that what is cut off on both sides is small together: then a fixed share is taken in each step.

# %% [markdown]
# ## 2. Bits in bytes (13 points, 25 minutes)
#
# Five bits do not fill a byte. Write `pack(codes, width)`: whole numbers (n,), `int64` and below $2^{\text{width}}$ with a width from 1 to 12, as a
# vector of bytes (`uint8`) without gaps, $\lceil n \cdot \text{width} / 8 \rceil$ of them; and `unpack(packed, width, n)`, which gives the numbers
# back as `int64`. The order of the bits is yours. No loop over the codes.


# %% nbgrader={"grade_id": "pack", "solution": true}
def pack(codes, width):
    """Codes (n,) in bytes without gaps."""
    ### BEGIN SOLUTION
    bits = codes[:, None] // 2 ** torch.arange(width) % 2
    row = torch.zeros(math.ceil(bits.numel() / 8) * 8, dtype=torch.int64)
    row[: bits.numel()] = bits.flatten()
    return (row.reshape(-1, 8) * 2 ** torch.arange(8)).sum(dim=1).to(torch.uint8)
    ### END SOLUTION


check.pack(pack)


# %% nbgrader={"grade_id": "unpack", "solution": true}
def unpack(packed, width, n):
    """The n codes of packed bytes."""
    ### BEGIN SOLUTION
    bits = packed.long()[:, None] // 2 ** torch.arange(8) % 2
    row = bits.flatten()[: n * width].reshape(n, width)
    return (row * 2 ** torch.arange(width)).sum(dim=1)
    ### END SOLUTION


# %% [markdown] tags=["hints"]
# Write all codes as rows of zeros and ones, forget where one code ends, and cut the row anew.
#
# The last byte may need zeros to be full; `unpack` knows from n how many bits count.

# %% nbgrader={"grade_id": "pack-right", "points": 8}
codes = torch.tensor([17, 0, 31, 5, 9, 22, 1])
packed = alone(pack, codes, 5)
assert packed.dtype == torch.uint8 and packed.shape == (5,), "35 bits need five bytes"
again = alone(unpack, packed, 5, 7)
assert again.dtype == torch.int64 and torch.equal(again, codes), "the codes do not come back"
### BEGIN HIDDEN TESTS
g = torch.Generator().manual_seed(0)
for width in range(1, 13):
    for n in (1, 8, 13, 200):
        codes = torch.randint(2**width, (n,), generator=g)
        codes[0] = 2**width - 1
        before = codes.clone()
        again = alone(unpack, alone(pack, codes, width), width, n)
        assert torch.equal(codes, before) and again.dtype == torch.int64
        assert torch.equal(again, codes)
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "pack-bytes", "points": 5}
for width, n, size in ((3, 8, 3), (1, 9, 2), (12, 2, 3)):
    packed = alone(pack, torch.zeros(n, dtype=torch.int64), width)
    assert packed.shape == (size,), f"{n} codes of {width} bits need {size} bytes"
### BEGIN HIDDEN TESTS
g = torch.Generator().manual_seed(1)
for width in (2, 5, 8, 11):
    for n in (1, 16, 77):
        packed = alone(pack, torch.randint(2**width, (n,), generator=g), width)
        assert packed.dtype == torch.uint8 and packed.shape == (math.ceil(n * width / 8),)
words = torch.stack([pack(torch.tensor(w), 3) for w in itertools.product(range(8), repeat=2)])
assert len(words.unique(dim=0)) == 64  # no two words have the same bytes
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Levels, and what a rotation does to them (30 points, 50 minutes)
#
# Write `lloyd(x, k, sweeps)`: the $k$ levels (k,) for the entries of a vector, in ascending order. The start are the sorted entries with the numbers
# $\lfloor (i + \tfrac12)\, n / k \rfloor$, $i = 0, \dots, k - 1$. A sweep gives each entry to the nearest level: to level $j$, where $j$ of the
# borders, each in the middle between two neighboring levels, are below the entry. Then it puts each level at the mean of its entries; a level without
# entries stays. No tensor may have more than $2n$ entries, so distances to all levels are not at hand.


# %% nbgrader={"grade_id": "lloyd", "solution": true}
def lloyd(x, k, sweeps):
    """The levels after so many sweeps."""
    ### BEGIN SOLUTION
    x = x.sort().values
    levels = x[((torch.arange(k) + 0.5) * len(x) / k).long()]
    for _ in range(sweeps):
        own = torch.searchsorted((levels[1:] + levels[:-1]) / 2, x)
        count = torch.bincount(own, minlength=k)
        sums = torch.zeros(k, dtype=x.dtype).index_add(0, own, x)
        levels = torch.where(count > 0, sums / count, levels)
    return levels
    ### END SOLUTION


check.lloyd(lloyd)

# %% [markdown] tags=["hints"]
# `torch.searchsorted(borders, x)` counts the borders below each entry. `index_add` sums by level, `torch.bincount` counts.

# %% nbgrader={"grade_id": "lloyd-right", "points": 10}
x = torch.tensor([0.0, 1.0, 2.0, 10.0, 11.0, 15.0], dtype=torch.float64)
assert alone(lloyd, x, 2, 0).tolist() == [1.0, 11.0], "the start are two entries"
assert alone(lloyd, x, 2, 5).tolist() == [1.0, 12.0], "the means of three entries each"
### BEGIN HIDDEN TESTS
for n, k, sweeps in ((50, 3, 1), (50, 7, 4), (200, 16, 9), (33, 1, 2), (64, 2, 1)):
    x = gaussian(n, seed=10).pow(3) + 0.5
    before = x.clone()
    levels = alone(lloyd, x, k, sweeps)
    assert torch.equal(x, before) and levels.shape == (k,)
    assert (levels - check.given_lloyd(x, k, sweeps)).norm() < 1e-10
x = torch.tensor([0.0] * 50 + [1.0] * 3 + [5.0], dtype=torch.float64)
assert torch.equal(alone(lloyd, x, 4, 3), check.given_lloyd(x, 4, 3))  # levels without entries
assert alone(lloyd, x.float(), 4, 3).dtype == torch.float32
assert alone(lloyd, gaussian(5000, seed=11), 256, 2, most=10000).shape == (256,)
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "lloyd-finds", "points": 6}
normal = torch.special.ndtri((torch.arange(20000).double() + 0.5) / 20000)
levels = lloyd(normal, 2, 50)
assert abs(levels[1] - (2 / math.pi) ** 0.5) < 1e-3, "one bit of Gaussian numbers: 0.798"
### BEGIN HIDDEN TESTS
for k, error, first in ((4, 0.1175, 0.4528), (8, 0.03454, 0.2451)):  # Max, 1960
    levels = alone(lloyd, normal, k, 400)
    assert abs(off(normal, snap(normal, levels)) ** 2 / error - 1) < 0.01
    assert abs(levels[k // 2] - first) < 2e-3 and (levels + levels.flip(0)).norm() < 2e-3
### END HIDDEN TESTS

# %% [markdown]
# Lesson 23 rotates weights before it fits levels. Give two vectors (256,) in `float64`: `helped`, for which four levels (`lloyd(., 4, 100)`) have
# **at least 1.4 times** the relative error without the rotation as with it; and `harmed`, for which they have at most 0.01 without the rotation, and
# more than 0.3 with it. Both must hold for each of the rotations `Rotation("dct", (256,), seed=s)`, s = 0, 1, 2. (If your `lloyd` does not work,
# `check.given_lloyd` does; nothing is taken off for that here.)


# %% nbgrader={"grade_id": "vectors", "solution": true}
### BEGIN SOLUTION
helped = gaussian(256) * (1.3 * gaussian(256, seed=5)).exp()
harmed = torch.where(gaussian(256) > 0, 1.0, -1.0).double()
### END SOLUTION


# %% nbgrader={"grade_id": "both", "locked": true}
def both(w, seed):
    """The relative errors of four levels without a rotation and with it."""
    q = Rotation("dct", (256,), seed=seed)
    plain = snap(w, check.given_lloyd(w, 4, 100))
    y = q.adjoint(w)
    return off(w, plain), off(w, q.apply(snap(y, check.given_lloyd(y, 4, 100))))


# %% nbgrader={"grade_id": "vectors-right", "points": 7}
assert helped.shape == harmed.shape == (256,), "two vectors of 256 entries are needed"
passed = []
for seed in range(3):
    (a, b), (c, d) = both(helped, seed), both(harmed, seed)
    passed.append((a >= 1.4 * b, c <= 0.01 and d > 0.3))
better, worse = map(all, zip(*passed))
3.5 * better + 3.5 * worse

# %% [markdown]
# **In words.** What is the same after the rotation for every $w$, and why then is the error with it nearly the same for `helped` and for `harmed`?
# About how large is this error, and how does `lloyd` give that number without any rotation? Which weights of a network would you not rotate, and how could a program
# decide that without knowing what the weights mean? Four to six sentences.

# %% [markdown] nbgrader={"grade_id": "vectors-words", "points": 7, "solution": true}
# The rotation keeps the norm and makes every entry a sum of many with random signs, so that the entries are nearly Gaussian whatever $w$ was. Hence
# four levels have the error of four levels for Gaussian numbers for both vectors. `lloyd(normal, 4, 50)`, with the numbers of the test above, gives
# it: 0.34, whose square is the 0.1175 of Max. Without the rotation `helped` has few large entries that need levels of their own, which leaves none for the rest, and `harmed` has two values that
# two levels hold exactly: that structure is lost by the rotation. I would not rotate weights that are sparse, that have been rounded or pruned
# before, or that have few values, such as masks and signs. A program can fit the levels both ways, and keep the rotation only where the measured
# error is smaller; this costs one more fit a layer.

# %% [markdown]
# ## 4. A budget of bits (17 points, 30 minutes)
#
# Layer $l$ has `sizes[l]` weights (in thousands, whole), and with $b$ bits a weight, $b = 0, \dots, B$, it has the measured error `errors[l, b]`.
# More bits need not be better, and their worth need not fall from bit to bit. Write `allocate(errors, sizes, budget)`: the list of the bits of all
# layers for which the sum of `sizes[l]` times bits is at most `budget`, a whole number, and the sum of the errors is **the smallest of all**. The
# work is to grow like the number of layers times $B$ times the budget.


# %% nbgrader={"grade_id": "allocate", "solution": true}
def allocate(errors, sizes, budget):
    """The bits of each layer with the smallest sum of errors that the budget allows."""
    ### BEGIN SOLUTION
    best, choices = torch.zeros(budget + 1, dtype=errors.dtype), []
    for row, n in zip(errors, sizes):
        options = torch.full((len(row), budget + 1), math.inf, dtype=errors.dtype)
        for b, error in enumerate(row):
            if b * n <= budget:
                options[b, b * n :] = best[: budget + 1 - b * n] + error
        best, choice = options.min(dim=0)
        choices.append(choice)
    bits, left = [], budget
    for choice, n in zip(reversed(choices), reversed(sizes)):
        bits.insert(0, int(choice[left]))
        left -= bits[0] * n
    return bits
    ### END SOLUTION


check.allocate(allocate)

# %% [markdown] tags=["hints"]
# For the first $l$ layers alone: what is the smallest error for each budget from 0 up? With one more layer, try each number of bits, and look up what
# the rest of the budget is worth.
#
# Remember for each layer and each budget which number of bits was the best; in the end walk back from the last layer.

# %% nbgrader={"grade_id": "allocate-right", "points": 11}
errors = torch.tensor([[10.0, 4.0, 1.0], [9.5, 8.0, 0.0], [3.0, 1.0, 0.9]], dtype=torch.float64)
bits = alone(allocate, errors, [2, 2, 1], 5)
assert len(bits) == 3 and 2 * bits[0] + 2 * bits[1] + bits[2] <= 5, "the budget is exceeded"
assert abs(sum(errors[k, b] for k, b in enumerate(bits)) - 11) < 1e-12, "11 can be reached"
### BEGIN HIDDEN TESTS
for seed, layers, most, budget in (
    (20, 4, 3, 17),
    (21, 3, 5, 0),
    (22, 5, 2, 9),
    (23, 4, 3, 500),
    (24, 1, 4, 5),
):
    errors = gaussian(layers, most + 1, seed=seed).abs()
    sizes = (1 + 3 * gaussian(layers, seed=seed + 10).abs()).long().tolist()
    given, kept = errors.clone(), list(sizes)
    bits = alone(allocate, errors, sizes, budget)
    assert torch.equal(errors, given) and sizes == kept and len(bits) == layers
    assert sum(b * n for b, n in zip(bits, sizes)) <= budget
    wanted = min(
        sum(float(errors[k, b]) for k, b in enumerate(word))
        for word in itertools.product(range(most + 1), repeat=layers)
        if sum(b * n for b, n in zip(word, sizes)) <= budget
    )
    assert abs(sum(float(errors[k, b]) for k, b in enumerate(bits)) - wanted) < 1e-12
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "allocate-many", "points": 6}
errors = 4.0 ** -torch.arange(9).double().repeat(20, 1)
bits = alone(allocate, errors, [1] * 20, 80)
assert sorted(bits) == [4] * 20, "equal layers get the same number of bits"
### BEGIN HIDDEN TESTS
errors = gaussian(60, 1, seed=40).exp() * 4.0 ** -torch.arange(7).double()
sizes = (1 + 4 * gaussian(60, seed=41).abs()).long().tolist()
bits = alone(allocate, errors, sizes, 500)
assert sum(b * n for b, n in zip(bits, sizes)) <= 500
least = sum(float(errors[k, b]) for k, b in enumerate(check.given_allocate(errors, sizes, 500)))
assert abs(sum(float(errors[k, b]) for k, b in enumerate(bits)) - least) < 1e-9
### END HIDDEN TESTS

# %% [markdown]
# ## 5. See it (18 points, 25 minutes)
#
# **Draw one picture** with two panels, for the Gaussian `weights` and for those with heavy tails: the relative error against the bits, 1 to 6, of
# `grid` below, of `lloyd` with 30 sweeps, and of `lloyd` after the rotation `q`; and as a line $2^{-b}$, below which no code of $b$ bits can be for
# Gaussian numbers. Choose an axis on which factors can be read, the same for both panels, and label axes and lines. Marks are given for what can be
# read from the picture, not for beauty; the rubric is in the staff's guide.

# %% nbgrader={"grade_id": "weights", "locked": true}
q = Rotation("dct", (4096,), seed=5)
weights = {
    "Gaussian": gaussian(4096, seed=50),
    "heavy tails": gaussian(4096, seed=50) * gaussian(4096, seed=51).exp(),
}


def grid(x, bits):
    """The nearest of 2^bits levels at equal distances between the extremes."""
    low, high = x.min(), x.max()
    step = (high - low) / (2**bits - 1)
    return low + step * ((x - low) / step).round()


# %% nbgrader={"grade_id": "picture", "points": 10, "solution": true}
### BEGIN SOLUTION
def draw(figure):
    bits = range(1, 7)
    for ax, (name, w) in zip(figure.subplots(1, 2, sharey=True), weights.items()):
        y = q.adjoint(w)
        ax.semilogy(bits, [off(w, grid(w, b)) for b in bits], "o-", label="grid")
        levels = [lloyd(w, 2**b, 30) for b in bits]
        ax.semilogy(bits, [off(w, snap(w, c)) for c in levels], "s-", label="lloyd")
        levels = [lloyd(y, 2**b, 30) for b in bits]
        ax.semilogy(bits, [off(y, snap(y, c)) for c in levels], "^-", label="rotated, lloyd")
        ax.semilogy(bits, [2.0**-b for b in bits], "--", color="0.5", label="bound, Gaussian")
        ax.set(title=name, xlabel="bits", ylabel="relative error")
        ax.legend()
    return "Relative errors against bits of three codes, for Gaussian weights and for heavy tails."


picture(draw, figsize=(9, 3.4))
### END SOLUTION

# %% [markdown]
# **In words.** What does one more bit bring at best, and which of your curves bring that? How far above the line is `lloyd` for Gaussian weights at 4
# bits, as a factor and in bits, and what could bring it nearer? How many bits does `grid` lose by the tails, and what does the rotation bring in each
# panel? At 6 bits `lloyd` is not better than `grid` for Gaussian weights, although it fits its levels: why? Six to eight sentences.

# %% [markdown] nbgrader={"grade_id": "picture-words", "points": 8, "solution": true}
# At best one more bit halves the error: that is the slope of the line, and `grid` comes to it, since one more bit halves the distance of
# its levels. At 4 bits `lloyd` has 0.102 for Gaussian weights where the line has 0.0625, a factor 1.6 or 0.7 bits. Codes that take several weights at
# once come nearer, such as points of the plane, and so do codes of variable length, which spend fewer bits on what is frequent. By the tails the
# error of `grid` at 4 bits grows from 0.13 to 0.46, which is 1.8 bits: the extremes are farther out, and the levels farther apart. The rotation
# brings nothing for Gaussian weights, which stay Gaussian; for heavy tails it takes the error of `lloyd` at 4 bits from 0.19 to 0.10, nearly one bit,
# the value of the left panel. At 6 bits 30 sweeps are too few: the start follows the density of the weights, with too few levels in the tails, and
# each sweep moves a level only by what its neighbors leave. A start with levels farther out, or some hundred sweeps, would mend that.
