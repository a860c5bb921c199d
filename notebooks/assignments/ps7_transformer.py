# %% [markdown] tags=["assignment"]
# name = "compressing a transformer"
# minutes = 170
# needs = ["01_lowrank", "25_weighted_svd", "26_compress"]
# aims = [
#     "cut a weight so that its outputs stay, not its entries",
#     "buy ranks for all layers from one budget, and say when that is not the best",
#     "predict from derivatives what a cut does to the loss, and say how far to trust that",
#     "read from a picture which of these pays",
# ]

# %% [markdown]
# # Problem set 7: what does a layer's error do to the task?
#
# A small transformer reads digits, row by row. Only its last layer has been trained; the six before it were drawn, with singular values that fall. They are cut to low rank: first one of them, in the norm that its inputs feel; then all
# of them within one budget; and then you predict what each cut costs. Write `weighted`, `buy` and `effects` with torch alone: their tests
# refuse the functions of `tl` that do the same.

# %% nbgrader={"grade_id": "setup", "locked": true}
import itertools

import torch

from tensorlab.course.assignments import ps7_transformer as check
from tensorlab.course.checks import watched
from tensorlab.course.digits import digits
from tensorlab.course.widgets import picture


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def alone(function, *case, most=None):
    """What a function of yours gives, without the functions of tl that do the same."""
    with watched(most, check.FORBIDDEN):
        return function(*case)


# %% [markdown]
# ## 1. The norm that the inputs feel (26 points, 45 minutes)
#
# A layer maps inputs $x_i$, the rows of `x` (N, n), to $x_i w^{\mathsf T}$ with `w` (m, n). Write `weighted(w, x, r)`: factors `a` (m, r) and `b` (r, n) with
# the smallest $\|(w - ab)\, x^{\mathsf T}\|_F$ of all factors of this size. There may be many more inputs than the matrix has columns, or fewer, and they may lie in a subspace: nothing
# may be inverted that could be singular. No tensor may have more than $2\,(N + m)\,n$ entries, and none $N m$, for $m$ may be large.


# %% nbgrader={"grade_id": "weighted", "solution": true}
def weighted(w, x, r):
    """Factors a (m, r) and b (r, n) that keep the outputs as well as rank r can."""
    ### BEGIN SOLUTION
    root = torch.linalg.qr(x, mode="r").R
    u = torch.linalg.svd(w @ root.T, full_matrices=False).U
    a = torch.zeros(len(w), r, dtype=w.dtype)
    a[:, : u.shape[1]] = u[:, :r]
    return a, a.T @ w
    ### END SOLUTION


check.weighted(weighted)

# %% [markdown] tags=["hints"]
# For any matrix $Z$ the norm of $Z x^{\mathsf T}$ is that of $Z R^{\mathsf T}$, where $x = QR$ with orthonormal columns of $Q$.
#
# The best approximation of rank r of a matrix $M$ is the projection of its columns on the r leading left singular vectors. What is projected when $M = w R^{\mathsf T}$?

# %% nbgrader={"grade_id": "weighted-right", "points": 12}
w, x = gaussian(6, 8), gaussian(50, 8, seed=1) * torch.arange(1, 9)
a, b = alone(weighted, w, x, 3)
assert a.shape == (6, 3) and b.shape == (3, 8), "factors (m, r) and (r, n) are needed"
left = ((w - a @ b) @ x.T).norm()
assert abs(left - torch.linalg.svdvals(w @ x.T)[3:].norm()) < 1e-9 * left, "it can be nearer"
### BEGIN HIDDEN TESTS
for m, n, count, r in ((7, 7, 7, 2), (5, 9, 30, 4), (9, 5, 3, 2), (4, 6, 100, 1)):
    w, x = gaussian(m, n, seed=10), gaussian(count, n, seed=11) @ gaussian(n, n, seed=12)
    before = w.clone(), x.clone()
    a, b = alone(weighted, w, x, r)
    assert torch.equal(w, before[0]) and torch.equal(x, before[1])
    assert a.shape == (m, r) and b.shape == (r, n)
    tail = torch.linalg.svdvals(w @ x.T)[r:].norm()
    assert ((w - a @ b) @ x.T).norm() <= tail + 1e-9 * (w @ x.T).norm()
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "weighted-thin", "points": 6}
plane = gaussian(40, 2, seed=2) @ gaussian(2, 8, seed=3)
a, b = alone(weighted, gaussian(6, 8), plane, 2)
assert ((gaussian(6, 8) - a @ b) @ plane.T).norm() < 1e-9 * plane.norm(), (
    "inputs in a plane need rank 2"
)
### BEGIN HIDDEN TESTS
a, b = alone(weighted, gaussian(600, 4), gaussian(3000, 4, seed=4), 2, most=2 * 3600 * 4)
assert a.shape == (600, 2)
w, x = gaussian(5, 6), gaussian(2, 6, seed=5)
a, b = alone(weighted, w, x, 3)
assert a.shape == (5, 3) and b.shape == (3, 6) and ((w - a @ b) @ x.T).norm() < 1e-9 * x.norm()
a, b = alone(weighted, w.float(), x.float(), 2)
assert a.dtype == b.dtype == torch.float32
### END HIDDEN TESTS

# %% [markdown]
# **In words.** What does the plain truncated SVD of $w$ assume about the inputs, and for which inputs do both give the same? Two layers have the same singular values, but the
# inputs of one lie near a plane: what does `weighted` make of that? Name one thing that the weighted error does not know about the network, and how it could
# be brought in. Four to six sentences.

# %% [markdown] nbgrader={"grade_id": "weighted-words", "points": 8, "solution": true}
# The plain SVD weighs all directions of the input alike: it is best when the mean of $x x^{\mathsf T}$ is a multiple of the identity, and then both give the same. With inputs near a plane only two directions of the
# input ever matter, so rank 2 reproduces nearly all outputs however slowly the singular values of $w$ fall, while the plain SVD spends its ranks on directions that no input has. The weighted error
# counts all outputs alike, but what follows the layer does not: some outputs are multiplied by large weights or decide between classes, others are cut off by a ReLU. That could be brought in by a
# weight on the left, such as the mean of $g g^{\mathsf T}$ for the gradients $g$ of the loss for the outputs.

# %% [markdown]
# ## 2. One budget for all layers (28 points, 45 minutes)
#
# Layer $l$ has the error `errors[l][r]` with the rank $r = 0, 1, \dots$, and each rank costs `costs[l]` numbers. Write `buy(errors, costs, budget)`, which begins with all ranks 0 and buys one rank after another: always the one
# which takes most from its layer's error **per number**, among those that the rest of the budget can still pay; of equal ones that of the first layer. It returns the list of ranks when nothing can be paid any more.


# %% nbgrader={"grade_id": "buy", "solution": true}
def buy(errors, costs, budget):
    """Ranks of all layers, bought one after another."""
    ### BEGIN SOLUTION
    ranks = [0] * len(costs)
    while True:
        best, where = -1.0, None
        for k, (row, cost) in enumerate(zip(errors, costs)):
            if ranks[k] + 1 < len(row) and cost <= budget:
                gain = float(row[ranks[k]] - row[ranks[k] + 1]) / cost
                if gain > best:
                    best, where = gain, k
        if where is None:
            return ranks
        ranks[where] += 1
        budget -= costs[where]
    ### END SOLUTION


check.buy(buy)

# %% nbgrader={"grade_id": "buy-right", "points": 9}
errors = [torch.tensor([9.0, 4.0, 1.0, 0.0]), torch.tensor([8.0, 2.0, 0.0])]
assert alone(buy, errors, [2, 2], 4) == [1, 1], "6 for two numbers, then 5 for two numbers"
assert alone(buy, errors, [2, 5], 4) == [2, 0], "the second layer is too dear"
assert alone(buy, errors, [1, 1], 100) == [3, 2], "the budget pays for all ranks"
### BEGIN HIDDEN TESTS
for seed, layers, budget in ((20, 3, 9), (21, 5, 31), (22, 4, 0), (23, 1, 7), (24, 6, 200)):
    steps = [gaussian(3 + k, seed=seed + k).abs().sort().values for k in range(layers)]
    errors = [torch.cat([s.cumsum(0).flip(0), s.new_zeros(1)]) for s in steps]
    costs = (1 + 3 * gaussian(layers, seed=seed + 50).abs()).long().tolist()
    given, kept = [e.clone() for e in errors], list(costs)
    assert list(alone(buy, errors, costs, budget)) == check.given_buy(errors, costs, budget)
    assert costs == kept and all(torch.equal(e, g) for e, g in zip(errors, given))
even = [torch.tensor([2.0, 1.0, 0.0])] * 3
assert list(alone(buy, even, [1, 1, 1], 4)) == [2, 2, 0]  # of equal ones the first layer's
flat = [torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.5])]
assert list(alone(buy, flat, [1, 1], 2)) == [1, 1]
### END HIDDEN TESTS

# %% [markdown]
# Buying is not always the best. Give `fooled`, a triple of errors, costs and a budget (at most 4 layers with at most 4 ranks each, errors that do not grow with the rank), for which the sum of the errors after `buy` is **at least twice**
# the smallest one that the budget allows, and that smallest one is above 0.

# %% nbgrader={"grade_id": "fooled", "solution": true}
### BEGIN SOLUTION
fooled = [torch.tensor([2.0, 0.0]), torch.tensor([19.0, 0.0])], [1, 10], 10
### END SOLUTION

# %% nbgrader={"grade_id": "fooled-right", "points": 8}
errors, costs, budget = fooled
assert len(errors) == len(costs) <= 4 and all(len(e) <= 5 for e in errors), "a small case"
assert all((torch.as_tensor(e).diff() <= 0).all() for e in errors), "errors must not grow"
total = lambda ranks: sum(float(e[r]) for e, r in zip(errors, ranks))
allowed = [
    ranks
    for ranks in itertools.product(*(range(len(e)) for e in errors))
    if sum(r * c for r, c in zip(ranks, costs)) <= budget
]
least, bought = min(map(total, allowed)), total(check.given_buy(errors, costs, budget))
assert bought >= 2 * least > 0, f"bought {bought}, the least is {least}"

# %% [markdown]
# Now the transformer: `check.LAYERS` names its six weights, `check.scores(weights, x, seen)` gives the scores of pictures and fills the dict `seen` with the inputs of each layer. Write `compress(weights, x, budget)`: it takes the inputs from the pictures `x`, buys ranks for
# the six layers with the **squares** of the weighted errors $\|(w - ab)\,x^{\mathsf T}\|_F^2$ and the cost $m + n$ of a rank, cuts each layer by `weighted`, and returns a dict of the six cut matrices $ab$ and a dict of their ranks. (A layer of rank 0 is zero.
# If a function of yours does not work, ask `check.given_weighted` and `check.given_buy`; nothing is taken off for that here.)

# %% nbgrader={"grade_id": "reader", "locked": true}
x, y, x_test, y_test = digits()
x, x_test = x.double() - 0.3, x_test.double() - 0.3
weights = check.reader()


def reads(weights):
    """The share of the test digits that is read rightly."""
    return float((check.scores(weights, x_test).argmax(1) == y_test).double().mean())


# %% nbgrader={"grade_id": "compress", "solution": true}
def compress(weights, x, budget):
    """The six cut matrices, and their ranks."""
    ### BEGIN SOLUTION
    seen = {}
    check.scores(weights, x, seen)
    errors, costs = [], []
    for name in check.LAYERS:
        root = torch.linalg.qr(seen[name], mode="r").R
        s = torch.linalg.svdvals(weights[name] @ root.T)
        errors.append(torch.cat([s.square().flip(0).cumsum(0).flip(0), s.new_zeros(1)]))
        costs.append(sum(weights[name].shape))
    ranks = dict(zip(check.LAYERS, check.given_buy(errors, costs, budget)))
    cuts = {}
    for name, r in ranks.items():
        cuts[name] = torch.zeros_like(weights[name])
        if r:
            a, b = check.given_weighted(weights[name], seen[name], r)
            cuts[name] = a @ b
    return cuts, ranks
    ### END SOLUTION


# %% nbgrader={"grade_id": "compress-right", "points": 11}
cuts, ranks = compress(weights, x[:200], 3000)
assert set(cuts) == set(ranks) == set(check.LAYERS), "all six layers are needed"
assert sum(r * sum(weights[k].shape) for k, r in ranks.items()) <= 3000, "the budget is exceeded"
assert reads(weights | cuts) > 0.8, f"only {reads(weights | cuts):.0%} of the digits are read"
### BEGIN HIDDEN TESTS
for rows, budget in ((100, 500), (300, 1800)):
    kept = {k: t.clone() for k, t in weights.items()}
    cuts, ranks = compress(weights, x[:rows], budget)
    assert all(torch.equal(t, kept[k]) for k, t in weights.items())
    seen = {}
    check.scores(weights, x[:rows], seen)
    spectra = {k: torch.linalg.svdvals(weights[k] @ seen[k].T) for k in check.LAYERS}
    errors = [torch.stack([s[r:].square().sum() for r in range(33)]) for s in spectra.values()]
    costs = [sum(weights[k].shape) for k in check.LAYERS]
    assert [ranks[k] for k in check.LAYERS] == check.given_buy(errors, costs, budget)
    for k in check.LAYERS:
        left = ((weights[k] - cuts[k]) @ seen[k].T).norm()
        assert abs(left - spectra[k][ranks[k] :].norm()) < 1e-8 * spectra[k].norm()
_, ranks = compress(weights, x[:100], 20000)  # more than all ranks cost
assert set(ranks.values()) == {32}
### END HIDDEN TESTS

# %% [markdown]
# ## 3. What the task feels (28 points, 50 minutes)
#
# An error of 10 % in one layer may do nothing, in another one much. Write `effects(weights, cuts, x, y)` for a dict `cuts` of cut matrices: for each of its layers, cut **alone**, the change of the loss `check.loss(weights, x, y)` to first and to second order,
#
# $$ \langle G, \Delta \rangle \quad\text{and}\quad \langle G, \Delta \rangle + \tfrac12 \langle \Delta, H \Delta \rangle, \qquad \Delta = \text{cut} - w, $$
#
# with the gradient $G$ and the second derivative $H$ for that layer's weight at the uncut weights; a dict from names to pairs of numbers. $H$ is never formed: it has a million entries.


# %% nbgrader={"grade_id": "effects", "solution": true}
def effects(weights, cuts, x, y):
    """The change of the loss to first and to second order, for each layer cut alone."""
    ### BEGIN SOLUTION
    found = {}
    for name, cut in cuts.items():
        w = weights[name].clone().requires_grad_()
        value = check.loss(weights | {name: w}, x, y)
        (g,) = torch.autograd.grad(value, w, create_graph=True)
        first = (g * (cut - weights[name])).sum()
        (bent,) = torch.autograd.grad(first, w)
        second = first + (bent * (cut - weights[name])).sum() / 2
        found[name] = first.item(), second.item()
    return found
    ### END SOLUTION


check.effects(effects)

# %% [markdown] tags=["hints"]
# The gradient of the number $\langle G(w), \Delta \rangle$, with a fixed $\Delta$, is $H \Delta$.
#
# `torch.autograd.grad(value, w, create_graph=True)` gives a gradient that can be differentiated again.

# %% nbgrader={"grade_id": "effects-right", "points": 14}
step = {k: weights[k] + 1e-3 * gaussian(*weights[k].shape, seed=30) for k in ("key", "down")}
found = alone(effects, weights, step, x[:50], y[:50])
assert set(found) == {"key", "down"}, "one pair for each layer that is cut"
for k, (first, second) in found.items():
    change = float(
        check.loss(weights | {k: step[k]}, x[:50], y[:50]) - check.loss(weights, x[:50], y[:50])
    )
    assert abs(second - change) < abs(first - change), f"the second order should be nearer in {k}"
### BEGIN HIDDEN TESTS
cuts = {k: 0.7 * weights[k] for k in check.LAYERS}
kept = {k: t.clone() for k, t in weights.items()}
found = alone(effects, weights, cuts, x[60:130], y[60:130])
wanted = check.given_effects(weights, cuts, x[60:130], y[60:130])
assert all(torch.equal(t, kept[k]) for k, t in weights.items())
for k in check.LAYERS:
    assert torch.allclose(
        torch.tensor(found[k]).double(), torch.tensor(wanted[k]).double(), rtol=1e-5
    )
### END HIDDEN TESTS

# %% [markdown]
# Let `worst` be the name of the layer whose loss (of the first 500 pictures) grows most, when each layer alone is cut to rank 4 by `weighted` with the inputs of these 500 pictures, and `grows` by how much; a hundredth up or down is counted as right.

# %% nbgrader={"grade_id": "worst", "solution": true}
### BEGIN SOLUTION
seen = {}
check.scores(weights, x[:500], seen)
growth = {}
for name in check.LAYERS:
    a, b = check.given_weighted(weights[name], seen[name], 4)
    cut = check.loss(weights | {name: a @ b}, x[:500], y[:500])
    growth[name] = float(cut - check.loss(weights, x[:500], y[:500]))
worst = max(growth, key=growth.get)
grows = growth[worst]
### END SOLUTION

# %% nbgrader={"grade_id": "worst-right", "points": 6}
assert worst in check.LAYERS and isinstance(grows, float), "a name and a number are needed"
### BEGIN HIDDEN TESTS
seen = {}
check.scores(weights, x[:500], seen)
growth = {}
for k in check.LAYERS:
    root = torch.linalg.qr(seen[k], mode="r").R
    u = torch.linalg.svd(weights[k] @ root.T).U[:, :4]
    cut = check.loss(weights | {k: u @ (u.T @ weights[k])}, x[:500], y[:500])
    growth[k] = float(cut - check.loss(weights, x[:500], y[:500]))
assert worst == max(growth, key=growth.get) and abs(grows / growth[worst] - 1) < 0.01
### END HIDDEN TESTS

# %% [markdown]
# **In words.** Take the six layers, each cut alone to rank 4 as above. Which have the largest squared errors $\|(w - ab)\,x^{\mathsf T}\|_F^2$, and which cost most? How much does the loss
# grow for one unit of squared error, in `query` and in `out`, and where in the block does that come from? How good are the first and the second order for the cheapest and for the dearest layer, and what is missing there? Five to seven sentences with numbers.

# %% [markdown] nbgrader={"grade_id": "effects-words", "points": 8, "solution": true}
# `up`, `key` and `query` have the largest squared errors, 12,300, 11,300 and 9,300. But the loss grows by 0.056 for `up`, by 0.004 for `key` and by 0.001 for `query`, while `down` costs
# 0.026 with an error of 2,400 only. A unit of squared error costs $1.2 \cdot 10^{-7}$ in `query` and $6 \cdot 10^{-5}$ in `out`, five hundred times as much: what `query` gets wrong only shifts the weights of
# a softmax, which average over tokens, while the error of `out` is added to the token itself and goes on to all that follows. For `query` the first order has even the wrong sign, and the second
# order says 0.0009 for 0.0011. For `up` the first order is $-0.007$ and the second 0.034 in the place of 0.056: the step is so long that further terms count, and that some of the ReLUs change sides, which no derivative at the uncut weights can see.

# %% [markdown]
# ## 4. See it (18 points, 30 minutes)
#
# `prices` below has the growth of the loss for one unit of squared error in each layer, from the second order at rank 4. For $r = 2, 3, 4, 6, 8, 12$ compress all six layers to $r \sum (m + n)$ numbers, in four ways: the plain truncated SVD with
# rank $r$ everywhere, `weighted` with rank $r$ everywhere, `weighted` with ranks bought by the squared errors (`squares`), and with ranks bought by the squared errors times `prices`. **Draw one picture** with two panels: the loss of all training pictures, and the share of the
# test digits that is read wrongly, against the numbers stored, on axes on which factors can be read, with the uncut network as a line. Marks are given for what can be read from the picture, not for beauty; the rubric is in the staff's guide.


# %% nbgrader={"grade_id": "prices", "locked": true}
inputs, squares, fours = {}, {}, {}
check.scores(weights, x[:500], inputs)
for name in check.LAYERS:
    s = torch.linalg.svdvals(weights[name] @ torch.linalg.qr(inputs[name], mode="r").R.T)
    squares[name] = torch.stack([s[r:].square().sum() for r in range(33)])
    fours[name] = torch.matmul(*check.given_weighted(weights[name], inputs[name], 4))
growths = check.given_effects(weights, fours, x[:500], y[:500])
prices = {name: growths[name][1] / float(squares[name][4]) for name in check.LAYERS}


def cut_all(ranks, plain=False):
    """All weights, six of them cut to these ranks, by the plain SVD or by `weighted`."""
    cuts = {}
    for name, r in zip(check.LAYERS, ranks):
        w = weights[name]
        z = torch.eye(w.shape[1], dtype=w.dtype) if plain else inputs[name]
        cuts[name] = torch.matmul(*check.given_weighted(w, z, r)) if r else 0 * w
    return weights | cuts


# %% nbgrader={"grade_id": "picture", "points": 10, "solution": true}
### BEGIN SOLUTION
def ways(r):
    costs = [sum(weights[name].shape) for name in check.LAYERS]
    errors = list(squares.values())
    priced = [prices[name] * squares[name] for name in check.LAYERS]
    yield "plain, equal ranks", cut_all([r] * 6, plain=True)
    yield "weighted, equal ranks", cut_all([r] * 6)
    yield "weighted, bought", cut_all(check.given_buy(errors, costs, r * sum(costs)))
    yield "bought with prices", cut_all(check.given_buy(priced, costs, r * sum(costs)))


def draw(figure):
    sizes, found = [448 * r for r in (2, 3, 4, 6, 8, 12)], {}
    for size in sizes:
        for name, cut in ways(size // 448):
            pair = float(check.loss(cut, x, y)), 1 - reads(cut)
            found.setdefault(name, []).append(pair)
    whole = float(check.loss(weights, x, y)), 1 - reads(weights)
    for k, (ax, label) in enumerate(zip(figure.subplots(1, 2), ("loss", "share read wrongly"))):
        for (name, pairs), marker in zip(found.items(), "os^x"):
            ax.semilogy(sizes, [pair[k] for pair in pairs], marker=marker, label=name)
        ax.axhline(whole[k], color="0.5", ls="--", label="uncut, 8192 numbers")
        ax.set(xlabel="numbers stored", ylabel=label)
    lines, names = ax.get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=5, fontsize="small")
    return "Loss and share read wrongly against the numbers stored, for four ways to cut."


picture(draw, figsize=(9, 3.6))
### END SOLUTION

# %% [markdown]
# **In words.** How many numbers does each way need for a loss of at most twice that of the uncut network? What brings more, the inputs' norm or the choice of ranks, and what do the prices add? At what rank does a layer of $32 \times 32$ store as much as before, so that
# cutting it saves nothing? Name one thing that no curve can tell about another network. Five to seven sentences.

# %% [markdown] nbgrader={"grade_id": "picture-words", "points": 8, "solution": true}
# The uncut network has a loss of 0.082. For at most twice that the plain SVD needs rank 12 everywhere, 5376 numbers, `weighted` with equal ranks 1792, and with the prices 1344 are enough;
# bought by the squared errors alone it takes between 1792 and 2688. So the norm of the inputs brings the most, a factor of 3. To choose the ranks by squared errors harms: nearly half of the budget goes to `query` and
# `key`, whose errors are large but cheap, and `out` gets rank 0 or 1. With the prices `query` gets nothing at first and `out` is kept, and for few numbers that is worth another third: at 896 numbers the loss is 0.28 in the place of
# 0.40, and 11 % are read wrongly in the place of 15 %. From 2688 numbers on all the weighted ways are alike. A layer of 32 by 32 has 1024 numbers, as many as rank 16 stores, so a cut beyond 16 saves nothing. What no
# curve tells is how fast the singular values of another network fall: here they were planted, and a trained network may be better or worse off.
