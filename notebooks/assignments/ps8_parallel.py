# %% [markdown] tags=["assignment"]
# name = "parallel training"
# minutes = 170
# needs = ["30_parallel"]
# aims = [
#     "say when each piece of work of a pipeline runs, and how late it may be",
#     "cut a network into stages, and order the work of a pipe that has little memory",
#     "add up tensors around a ring, and count the bytes that each rank holds at the peak",
#     "read from a picture what slow messages cost, and what hides them",
# ]

# %% [markdown]
# # Problem set 8: where do the machines wait, and for what?
#
# The pipelines of lesson 30 had equal stages, and messages that took no time. Here stages differ, messages are slow, memory is short, and nothing has to be divisible by
# anything. No process is started: all of it can be counted. Write `when`, `slack`, `cut`, `ring` and `peak` in Python and torch alone: their tests refuse the
# functions of `tl` and of the self-checks that do the same.

# %% nbgrader={"grade_id": "setup", "locked": true}
import itertools
import math
from collections import deque

import torch

from tensorlab.course.assignments import ps8_parallel as check
from tensorlab.course.checks import Unusable, watched
from tensorlab.course.widgets import picture
from tensorlab.parallel import schedules


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pairs(*lines):
    """Orders, a list of pairs such as ("F", 0) for each rank, from lines such as "F0 F1 B0 B1"."""
    return [[(word[0], int(word[1:])) for word in line.split()] for line in lines]


def needs(op, ranks):
    """The operations (kind, micro-batch, rank) that an operation waits for, besides its rank."""
    kind, i, s = op
    if kind == "F":
        return [("F", i, s - 1)] if s > 0 else []
    return [("F", i, s)] + ([("B", i, s + 1)] if s < ranks - 1 else [])


def longest(times, parts):
    """The time of the slowest stage, for the numbers of layers in each."""
    ends = itertools.accumulate(parts)
    return max(sum(times[end - n : end]) for n, end in zip(parts, ends))


uneven = {"F": [1.0, 2.0, 0.5, 1.5], "B": [2.0, 3.0, 1.0, 2.5]}


def alone(function, *case):
    """What a function of yours gives, without the functions of tl that do the same."""
    with watched(forbids=check.FORBIDDEN):
        return function(*case)


# %% [markdown]
# ## 1. When it runs, and how late it may be (29 points, 55 minutes)
#
# Rank $s$ needs `seconds["F"][s]` for a forward and `seconds["B"][s]` for a backward. What is sent to another rank arrives `delay` seconds after the
# operation that made it has ended; on the same rank it is there at once. Write `when(orders, seconds, delay)`: a dict that says
# for each operation `(kind, i, s)` the pair of its start and its end, all as early as the orders allow; the first start is 0. If an operation
# waits for ever, for others that wait for it or for one that nobody does, raise `ValueError` (and do not run for ever yourself). `pairs` and `needs` above may be used.


# %% nbgrader={"grade_id": "when", "solution": true}
def when(orders, seconds, delay):
    """The start and the end of each operation."""
    ### BEGIN SOLUTION
    spans, free, todo = {}, [0] * len(orders), [list(order) for order in orders]
    while any(todo):
        before = len(spans)
        for s, row in enumerate(todo):
            waits = needs((*row[0], s), len(orders)) if row else [None]
            if all(op in spans for op in waits):
                kind, i = row.pop(0)
                there = [spans[op][1] + delay * (op[2] != s) for op in waits]
                start = max(free[s], *there, 0)
                free[s] = start + seconds[kind][s]
                spans[kind, i, s] = start, free[s]
        if len(spans) == before:
            raise ValueError("some operations wait for ever")
    return spans
    ### END SOLUTION


check.when(when)

# %% [markdown] tags=["hints"]
# Go round the ranks; each does its next operation if all that this one needs has been done.
#
# A round in which nobody could do anything will be followed by others of the same kind.

# %% nbgrader={"grade_id": "when-right", "points": 9}
orders = pairs("F0 F1 B0 B1", "F0 B0 F1 B1")
spans = alone(when, orders, {"F": [1, 2], "B": [1, 3]}, 0.5)
assert len(spans) == 8, "all operations of all ranks are needed"
assert spans["F", 0, 1] == (1.5, 3.5), "F0 is sent at 1 and is there at 1.5"
assert spans["B", 0, 1] == (3.5, 6.5), "nothing has to be sent within a rank"
assert max(end for _, end in spans.values()) == 13, "the last B ends at 13"
### BEGIN HIDDEN TESTS
for p, m, make, delay in (
    (4, 6, schedules.one_f_one_b, 0),
    (4, 5, schedules.gpipe, 0.75),
    (3, 4, schedules.one_f_one_b, 2.0),
    (1, 3, schedules.naive, 5.0),
    (2, 4, schedules.naive, 0.25),
):
    orders = [[(op.kind, op.micro) for op in row] for row in make(p, m)]
    kept = [list(row) for row in orders]
    spans = alone(when, orders, uneven, delay)
    assert orders == kept
    wanted = check.given_when(orders, uneven, delay)
    assert spans.keys() == wanted.keys()
    assert all(math.dist(spans[op], wanted[op]) < 1e-12 for op in wanted)
    if delay == 0:
        each = {op: uneven[op.kind][op.stage] for row in make(p, m) for op in row}
        line = schedules.times(make(p, m), each)
        assert all(math.dist(spans[tuple(r.op)], (r.start, r.end)) < 1e-12 for r in line.runs)
### END HIDDEN TESTS


# %% nbgrader={"grade_id": "refused", "locked": true}
def refused(orders):
    """Whether `when` raises ValueError for these orders."""
    try:
        alone(when, orders, {"F": [1] * 4, "B": [2] * 4}, 0)
    except Unusable:
        raise
    except ValueError:
        return True
    return False


# %% nbgrader={"grade_id": "when-stuck", "points": 4}
assert refused(pairs("F0 B0 F1 B1", "F0 F1 B0 B1")), "rank 0 waits for B0, and B0 for F1"
assert not refused(pairs("F0 F1 B0 B1", "F0 F1 B0 B1")), "nothing waits for ever here"
### BEGIN HIDDEN TESTS
assert refused(pairs("F0 B0", "B0 F0"))
assert refused(pairs("F0 F1 B0 B1", "F0 F1 B1 B0", "F1 B1 F0 B0", "F0 B0 F1 B1"))
assert refused(pairs("F0 B0 B1", "F0 B0 F1 B1"))  # nobody does F1 on rank 0
assert not refused(pairs("F0 F1 B1 B0", "F0 F1 B1 B0", "F0 F1 B1 B0"))
### END HIDDEN TESTS

# %% [markdown]
# Most operations may be late without any harm. Write `slack(spans, orders, delay)`, where `spans` is what `when` gives: a dict that says for each
# operation how much **longer** it alone could take while the whole step still ends at the same time. (The orders stay as they are.)


# %% nbgrader={"grade_id": "slack", "solution": true}
def slack(spans, orders, delay):
    """How much longer each operation could take."""
    ### BEGIN SOLUTION
    latest = dict.fromkeys(spans, max(end for _, end in spans.values()))
    ahead = {}
    for s, row in enumerate(orders):
        ahead |= {(*after, s): (*op, s) for op, after in zip(row, row[1:])}
    for op in sorted(spans, key=lambda op: -spans[op][1]):
        start, end = spans[op]
        for other in [*needs(op, len(orders)), ahead.get(op, op)]:
            late = latest[op] - (end - start) - delay * (other[2] != op[2])
            latest[other] = min(latest[other], late) if other != op else latest[op]
    return {op: latest[op] - end for op, (_, end) in spans.items()}
    ### END SOLUTION


check.slack(slack)

# %% [markdown] tags=["hints"]
# Begin at the end: an operation that nobody waits for may end with the step. By when must the others have ended?
#
# Two kinds of operations wait for this one: those that need what it makes, with the delay if they are on another rank, and the next one on its rank.
#
# Everything that waits for an operation ends after it does. In which order can the operations be gone through?

# %% nbgrader={"grade_id": "slack-right", "points": 9}
orders, seconds = pairs("F0 F1 B0 B1", "F0 B0 F1 B1"), {"F": [1, 2], "B": [1, 3]}
found = alone(slack, check.given_when(orders, seconds, 0.5), orders, 0.5)
assert found["F", 0, 0] == 0, "everything waits for the first forward"
assert found["F", 1, 0] == 4, "F1 is needed on rank 1 at 6.5, and would be there at 2.5"
assert found["B", 0, 0] == 4, "after B0 rank 0 waits for B1"
### BEGIN HIDDEN TESTS
for p, m, make, delay in (
    (4, 6, schedules.one_f_one_b, 0),
    (4, 3, schedules.gpipe, 0.75),
    (3, 5, schedules.one_f_one_b, 0.5),
    (1, 3, schedules.naive, 5.0),
    (4, 4, schedules.naive, 0.25),
):
    orders = [[(op.kind, op.micro) for op in row] for row in make(p, m)]
    spans = check.given_when(orders, uneven, delay)
    kept = dict(spans)
    found, wanted = alone(slack, spans, orders, delay), check.given_slack(spans, orders, delay)
    assert spans == kept and found.keys() == wanted.keys()
    assert all(abs(found[op] - wanted[op]) < 1e-12 for op in wanted)
### END HIDDEN TESTS

# %% [markdown]
# **In words.** Take 1F1B with 4 ranks, 8 micro-batches, $F = 1$, $B = 2$ on all ranks and no delay. On which ranks do some operations have slack, and which
# rank has none at all? One machine has to be the slow one, with all of its operations 5 % longer: does it matter where it is put? F2 and F3 of rank 0 have
# 4 and 6 seconds of slack: may they be late by 4 and by 6 in the same step? Answer with numbers from your functions. Four to six sentences.

# %% [markdown] nbgrader={"grade_id": "slack-words", "points": 7, "solution": true}
# Rank 3 has none at all: it works without a pause from 3 to 27, and all the others hang on it. Elsewhere only operations before the first backward and
# after the last forward have slack: on rank 0 F1, F2 and F3 with 2, 4 and 6 seconds and B4, B5 and B6 with 3, 2 and 1, on ranks 1 and 2 fewer of the same kind. In between forwards and
# backwards take turns, and each waits for the one before it. The slow machine does the least harm as rank 0, where the step takes 33.75 in place of 33, and the
# most as rank 3 with 34.2: there all of its 24 seconds are on the longest path, on rank 0 only 15. F2 and F3 may not both be so late: when F2 ends 4 seconds
# later, F3 begins 4 seconds later and has only 2 left. Slack is said of one operation while all others are on time.

# %% [markdown]
# ## 2. Stages of a network (13 points, 25 minutes)
#
# In the long run a pipe is as fast as its slowest stage. Write `cut(times, p)`: the layers with these `times`, a list, are cut into $p$ stages of neighboring
# layers, at least one in each, so that the **longest time of a stage is the smallest** that is possible; the result is the list of the numbers of layers in
# each stage. If several cuts are the best, any of them will do. Sixty layers and eight stages can be cut in 386 million ways: do not try them all.


# %% nbgrader={"grade_id": "cut", "solution": true}
def cut(times, p):
    """How many layers each stage has."""
    ### BEGIN SOLUTION
    ends = [0, *itertools.accumulate(times)]
    best = [(0, [])] + [(math.inf, [])] * len(times)
    for _ in range(p):
        best = [
            min(
                [(max(best[j][0], ends[k] - ends[j]), [*best[j][1], k - j]) for j in range(k)],
                default=(math.inf, []),
            )
            for k in range(len(ends))
        ]
    return best[-1][1]
    ### END SOLUTION


check.cut(cut)

# %% [markdown] tags=["hints"]
# Suppose that the best cuts of the first $k$ layers into $q$ stages are known for every $k$. How do those into $q + 1$ stages follow? The last stage begins somewhere.
#
# Another way: for a given time, how many stages are needed if each is filled as far as it goes? And which times can be the answer at all?

# %% nbgrader={"grade_id": "cut-right", "points": 9}
parts = alone(cut, [4, 1, 1, 1, 3, 2], 3)
assert len(parts) == 3 and sum(parts) == 6 and min(parts) >= 1, "three stages, no layer left over"
assert parts == [1, 3, 2] or parts == [2, 3, 1], "no stage needs more than 5"
### BEGIN HIDDEN TESTS
for seed, layers, p in ((1, 7, 3), (2, 8, 4), (3, 6, 6), (4, 5, 1), (5, 9, 2)):
    times = (0.1 * gaussian(layers, seed=seed).abs() + 0.01).tolist()
    kept = list(times)
    parts = list(alone(cut, times, p))
    assert times == kept and len(parts) == p and sum(parts) == layers and min(parts) >= 1
    every = (
        [b - a for a, b in itertools.pairwise((0, *inner, layers))]
        for inner in itertools.combinations(range(1, layers), p - 1)
    )
    assert abs(longest(times, parts) - min(longest(times, way) for way in every)) < 1e-12
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "cut-many", "points": 4}
parts = alone(cut, [1] * 60, 8)
assert len(parts) == 8 and sum(parts) == 60 and max(parts) == 8, "eight layers at most in a stage"
### BEGIN HIDDEN TESTS
for p in (5, 12):
    times = gaussian(60, seed=10 + p).square().tolist()
    parts = list(alone(cut, times, p))
    assert len(parts) == p and sum(parts) == 60 and min(parts) >= 1
    assert longest(times, parts) <= longest(times, check.given_cut(times, p)) + 1e-9
### END HIDDEN TESTS

# %% [markdown]
# ## 3. A schedule of your own (12 points, 30 minutes)
#
# A backward can be cut in two: B, for which the rank before waits, and W, the share of the weights, for which nobody waits. With $F = B = W = 1$, 4 ranks and 8
# micro-batches ZB-H1 of the lesson is done after 27, and each rank holds the activations of up to **4** micro-batches, from the start of F to the end of W. Here a
# rank has memory for **3**. Give `mine`, a list of four lines such as `"F0 F1 B0 W0 ..."` for `schedules.read`, with all three operations of all
# micro-batches on each rank, so that no rank ever holds more than 3. Find the lines as you like, on paper or by a program: 4 points for orders that are done
# after at most 41, 8 for at most 33, 12 for at most 31.

# %% nbgrader={"grade_id": "mine", "solution": true}
### BEGIN SOLUTION
mine = [
    "F0 F1 F2 B0 W0 B1 F3 W1 F4 B2 W2 F5 B3 W3 F6 B4 W4 F7 B5 W5 B6 W6 B7 W7",
    "F0 F1 F2 B0 W0 B1 W1 F3 B2 F4 W2 B3 F5 B4 W3 F6 W4 B5 F7 W5 B6 W6 B7 W7",
    "F0 F1 F2 B0 W0 B1 W1 B2 F3 W2 F4 B3 W3 B4 F5 W4 B5 F6 W5 F7 B6 W6 B7 W7",
    "F0 B0 F1 B1 W0 W1 F2 B2 W2 F3 B3 F4 B4 W3 W4 F5 B5 W5 F6 B6 F7 B7 W6 W7",
]
### END SOLUTION

# %% [markdown] tags=["hints"]
# How long does rank 0 hold a micro-batch at least? With room for 3, how soon can a fourth one begin there?
#
# A program can go through the time second by second: each rank that is free takes what is ready, first B, then F if there is room, then W. That gives 33. Now
# let it choose otherwise now and then, by chance, and keep the best of many tries.

# %% nbgrader={"grade_id": "mine-right", "points": 12}
line = schedules.times(schedules.read(mine), {"F": 1, "B": 1, "W": 1})
assert line.ranks == 4 and all(run.rank == run.op.stage for run in line.runs), (
    "a stage on each rank"
)
assert len(line.runs) == 4 * 3 * 8, "F, B and W of eight micro-batches on four ranks"
held = [line.held(s) for s in range(4)]
assert max(held) <= 3, f"at most 3 micro-batches may be held, these orders hold {held}"
print(f"done after {line.makespan}, held {held}")
4 * sum(line.makespan <= most for most in (41, 33, 31))

# %% [markdown]
# ## 4. Bytes of a shard (28 points, 35 minutes)
#
# Each of $p$ ranks has a tensor (n,), and all need the sum. On a ring a rank can send only to the next one, rank $p - 1$ to rank 0, by
# `wire.send(rank, piece)`; the next one takes what has come, in the order in which it was sent, by `wire.receive(rank)`. Write `ring(parts, wire)`: the list of the sums, one for each
# rank, all with **the same bits**. A rank may use only its own tensor and what it has received; no message may have more than $\lceil n / p \rceil$ entries, and no rank may send more than $2(p - 1) \lceil n / p \rceil$
# in all. $p$ need not divide $n$.


# %% nbgrader={"grade_id": "wire", "locked": true}
class Wire:
    """The wires of a ring. gain: what is sent arrives times this, which shows who uses it."""

    def __init__(self, ranks, gain=1):
        self.gain, self.ways = gain, [deque() for _ in range(ranks)]
        self.sent, self.largest = [0] * ranks, 0

    def send(self, rank, piece):
        self.sent[rank] += piece.numel()
        self.largest = max(self.largest, piece.numel())
        self.ways[(rank + 1) % len(self.ways)].append(self.gain * piece)

    def receive(self, rank):
        return self.ways[rank].popleft()


# %% nbgrader={"grade_id": "ring", "solution": true}
def ring(parts, wire):
    """The sum on each rank, by messages on a ring."""
    ### BEGIN SOLUTION
    p = len(parts)
    pieces = [list(part.tensor_split(p)) for part in parts]
    for step in range(2 * p - 2):
        for s in range(p):
            wire.send(s, pieces[s][(s - step) % p])
        for s in range(p):
            k = (s - 1 - step) % p
            own = pieces[s][k] if step < p - 1 else 0
            pieces[s][k] = own + wire.receive(s)
    return [torch.cat(row) for row in pieces]
    ### END SOLUTION


check.ring(lambda parts: ring(parts, Wire(len(parts))))

# %% [markdown] tags=["hints"]
# Cut each tensor into p pieces. In the first p − 1 rounds each piece goes round the ring once and picks up what each rank has of it; who has the whole sum of piece k then?
#
# In the other p − 1 rounds the finished pieces go round, and each rank keeps a copy.

# %% nbgrader={"grade_id": "ring-right", "points": 8}
parts = [torch.arange(6.0) + 10 * s for s in range(3)]
sums = alone(ring, parts, Wire(3))
assert len(sums) == 3 and all(torch.equal(t, sum(parts)) for t in sums), "every rank needs the sum"
### BEGIN HIDDEN TESTS
for p, n in ((2, 5), (4, 8), (5, 13), (6, 4), (1, 3)):
    parts = [gaussian(n, seed=20 + s) for s in range(p)]
    kept = [part.clone() for part in parts]
    sums = alone(ring, parts, Wire(p))
    assert all(map(torch.equal, parts, kept)) and len(sums) == p
    assert all(torch.equal(t, sums[0]) for t in sums)
    assert torch.allclose(sums[0], torch.stack(kept).sum(0), rtol=1e-12, atol=1e-12)
sums = alone(ring, [torch.ones(4), torch.ones(4)], Wire(2))
assert sums[0].dtype == torch.float32
### END HIDDEN TESTS

# %% nbgrader={"grade_id": "ring-bytes", "points": 6}
wire = Wire(4)
ring([gaussian(8, seed=s) for s in range(4)], wire)
assert wire.largest <= 2, "no message may have more than 2 of the 8 entries"
assert max(wire.sent) <= 12, f"the ranks sent {wire.sent} entries, 12 each are allowed"
### BEGIN HIDDEN TESTS
for p, n in ((3, 10), (5, 1000), (2, 7)):
    parts, wire = [gaussian(n, seed=30 + s) for s in range(p)], Wire(p)
    first = alone(ring, parts, wire)
    most = -(-n // p)
    assert wire.largest <= most and max(wire.sent) <= 2 * (p - 1) * most and min(wire.sent) > 0
    dead = alone(ring, parts, Wire(p, gain=0))  # without messages nobody can know the sum
    assert not any(torch.equal(a, b) for a, b in zip(first, dead))
### END HIDDEN TESTS

# %% [markdown]
# Now what is held. `layers` has the number of parameters of each layer, in the order of the forward. A parameter has a weight of 2 bytes, a gradient of 2, and 12
# that the optimizer keeps. From stage 1 on what the optimizer keeps is dealt out among $n \ge 2$ ranks, from stage 2 also the gradients, from stage 3 also the weights. Each layer is dealt out by
# itself, in pieces of $\lceil N_l / n \rceil$ parameters, the last ones padded.
#
# That is held all the time; more comes in the backward of layer $l$. In stages 2 and 3 its whole gradient, of $n \lceil N_l / n \rceil$ numbers, is there beside
# the pieces until it has been dealt out. In stage 3 the whole weights of layer $l$ are there too, padded as well, and those of layer $l - 1$, which are fetched ahead.
# Write `peak(layers, n, stage)`: the most bytes that a rank holds at any time.


# %% nbgrader={"grade_id": "peak", "solution": true}
def peak(layers, n, stage):
    """The most bytes on a rank."""
    ### BEGIN SOLUTION
    pieces = [math.ceil(count / n) for count in layers]
    held = sum(
        size * sum(pieces if stage >= first else layers)
        for size, first in ((12, 1), (2, 2), (2, 3))
    )
    whole = [2 * n * piece for piece in pieces]
    more = [
        here * (stage >= 2) + (here + before) * (stage >= 3)
        for here, before in zip(whole, [0] + whole)
    ]
    return held + max(more)
    ### END SOLUTION


check.peak(peak)

# %% nbgrader={"grade_id": "peak-right", "points": 8}
assert alone(peak, [10, 7], 2, 0) == 17 * 16, "nothing is dealt out in stage 0"
assert alone(peak, [10, 7], 2, 1) == 17 * 4 + 9 * 12, "pieces of 5 and 4 in stage 1"
assert alone(peak, [10, 7], 2, 3) == 9 * 16 + 2 * (8 + 8 + 10), "the backward of the second layer"
### BEGIN HIDDEN TESTS
for layers, n in (
    ([10, 3, 8, 1], 4),
    ([5, 5, 20, 2, 2], 3),
    ([7], 8),
    ([64, 64, 64], 8),
    ([9, 1], 2),
):
    kept = list(layers)
    for stage in range(4):
        assert alone(peak, layers, n, stage) == check.given_peak(layers, n, stage)
    assert layers == kept
### END HIDDEN TESTS

# %% [markdown]
# **In words.** `model` below has about 7 billion parameters. How many bytes does a rank of 8, of 64 and of 512 hold at the peak in stage 3, and what is the share of that which is there only for a moment? From about which
# number of ranks on do more of them hardly help, and what would then? Which layer sets the peak? Four to six sentences.

# %% nbgrader={"grade_id": "model", "locked": true}
model = [131_000_000] + [202_000_000] * 32 + [131_000_000]

# %% [markdown] nbgrader={"grade_id": "peak-words", "points": 6, "solution": true}
# `peak(model, n, 3)` gives 14.66 GB for 8 ranks, 2.89 GB for 64 and 1.42 GB for 512; 8 %, 42 % and 85 % of that are there for a moment only. The pieces are
# 16 bytes times 6.7 billion, 107.6 GB, divided by $n$, but the moment needs a whole gradient and the whole weights of two layers, $3 \cdot 2 \cdot 202$ million
# bytes or 1.21 GB, whatever $n$ is. Both are equal at $n = 89$, so from about a hundred ranks on more of them hardly help. What helps then is to gather less at
# a time: half a layer as one unit, or nothing fetched ahead, which saves 0.4 GB and costs waiting, or a layer cut by tensor parallelism, or of low rank. The peak is set by any of the 31 large
# layers whose neighbor before is a large one too; the first and the last layer are smaller.

# %% [markdown]
# ## 5. See it (18 points, 25 minutes)
#
# `eager(p, m, c)` below is 1F1B with $c$ times as many forwards before the first backward: $c = 1$ is 1F1B itself, and for a large $c$ it is GPipe. Take 4 ranks, 32
# micro-batches, $F = 1$ and $B = 2$ on all ranks. **Draw one picture** with two panels: on the left the idle share, $1 - m (F + B) / \text{end}$, against the delay from 0 to 3 in steps
# of 0.25, for $c = 1$, 2, 3 and for GPipe ($c = 32$); on the right how many micro-batches rank 0 holds at once with each of the four. Label axes and lines. (If your `when` does
# not work, `check.given_when` does.) Marks are given for what can be read from the picture, not for beauty; the rubric is in the staff's guide.


# %% nbgrader={"grade_id": "eager", "locked": true}
def eager(p, m, c):
    """1F1B with c times as many forwards in the beginning."""
    orders = []
    for s in range(p):
        warm = min(c * (p - 1 - s), m)
        turns = [op for n in range(m - warm) for op in (("F", warm + n), ("B", n))]
        first, last = [("F", i) for i in range(warm)], [("B", i) for i in range(m - warm, m)]
        orders.append(first + turns + last)
    return orders


# %% nbgrader={"grade_id": "picture", "points": 10, "solution": true}
### BEGIN SOLUTION
def draw(figure):
    names = {1: "1F1B", 2: "c = 2", 3: "c = 3", 32: "GPipe"}
    delays, seconds = [k / 4 for k in range(13)], {"F": [1] * 4, "B": [2] * 4}
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    for (c, name), marker in zip(names.items(), "os^x"):
        orders = eager(4, 32, c)
        ends = [max(end for _, end in when(orders, seconds, d).values()) for d in delays]
        idle, line = [1 - 32 * 3 / end for end in ends], "--" if c == 32 else "-"
        left.plot(delays, idle, line, marker=marker, label=name)
        counts = itertools.accumulate(1 if kind == "F" else -1 for kind, _ in orders[0])
        right.bar(name, max(counts), color="0.6")
    left.set(xlabel="delay of a message (F = 1, B = 2)", ylabel="idle share", ylim=(0, None))
    left.legend()
    right.set(ylabel="micro-batches held on rank 0")
    return "Idle shares against the delay of messages for four warm-ups, and what they hold."


picture(draw, figsize=(9, 3.4))
### END SOLUTION

# %% [markdown]
# **In words.** Up to which delay does each $c$ lose no more than GPipe, and which formula in $c$, $F$ and $B$ says so? Why does 1F1B begin to lose at once: which
# operations wait for each other in a circle, how long does one turn take, and how many micro-batches does it bring? What does
# the hiding cost, and which $c$ would you take for a delay of 1? Why does GPipe lose, too? Six to eight sentences.

# %% [markdown] nbgrader={"grade_id": "picture-words", "points": 8, "solution": true}
# With $c$ nothing more is lost than by GPipe up to a delay of $(c - 1)(F + B) / 2$: 0 for 1F1B, 1.5 for $c = 2$, and 3 for $c = 3$, whose curve is that of GPipe to the
# end. In 1F1B rank 0 may begin with F4 only when B0 has come back: F0 goes down through four ranks, B0 comes up through them, and so on for each later one. A
# turn of this circle takes $4(F + B) + 6d$ and brings 4 micro-batches, so each takes $3 + 1.5 d$ in the place of 3: at a delay of 1 the ranks are idle for 39 %.
# With $c$ there are $3c + 1$ micro-batches on the way in a turn, and $12 + 6d \le 3 (3c + 1)$ is the formula. The price is memory: rank 0 holds 4, 7, 10 and 32
# micro-batches. For a delay of 1 I take $c = 2$, which is idle for 13 % as GPipe is, but holds 7 in the place of 32. GPipe loses as well, since the first forward
# has to go down and the last backward to come up, six messages that no order can hide: 9 % become 22 % at a delay of 3. More micro-batches make
# that share smaller.
