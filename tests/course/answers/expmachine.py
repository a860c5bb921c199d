"""Answers to the exercises of lesson 21."""

import itertools

import torch

import tensorlab as tl


def score(cores, x):
    """Right by another way: from the right."""
    z = torch.ones(1, dtype=torch.float64)
    for core, value in zip(cores[::-1], x.flip(0)):
        z = (core[:, 0] + value * core[:, 1]) @ z
    return float(z)


def by_the_package(cores, x):
    phi = [torch.stack([torch.ones_like(v), v])[None] for v in x]
    return tl.rank_one_inner(tl.TT(tuple(cores)), phi)


def dense(cores, x):
    w = tl.TT(tuple(cores)).to_dense()
    for value in x:
        w = w[0] + value * w[1]
    return w


def coefficient(cores, chosen):
    return tl.TT(tuple(cores)).at(torch.tensor([[int(k in chosen) for k in range(len(cores))]]))


def swapped(cores, chosen):
    return coefficient(cores, set(range(len(cores))) - set(chosen))


def subsets(cores, chosen):
    every = (c for n in range(len(chosen) + 1) for c in itertools.combinations(chosen, n))
    return sum(float(coefficient(cores, c)) for c in every)


def linear_train(b, w, bias=True, weigh=True):
    """Right by another way: the sum of terms is carried first, the 1 second."""
    cores = []
    for k, value in enumerate(w):
        g = torch.zeros(2, 2, 2, dtype=torch.float64)
        g[0, 0, 0] = g[1, 0, 1] = 1
        g[1, 1, 0] = value if weigh else 1
        if k == 0:
            start = torch.tensor([b if bias else 0, 1], dtype=torch.float64)
            g = torch.einsum("a,aib->ib", start, g)[None]
        cores.append(g[:, :, :1] if k == len(w) - 1 else g)
    return cores


def wide(b, w):
    """The right scores from ranks that are too large."""
    cores, d = [], len(w)
    for k, core in enumerate(linear_train(b, w)):
        r, _, q = core.shape
        g = torch.zeros(1 if k == 0 else 3, 2, 1 if k == d - 1 else 3, dtype=torch.float64)
        g[:r, :, :q] = core
        cores.append(g)
    return cores


def product(b, w):
    cores = [torch.stack([torch.ones_like(v), v]).reshape(1, 2, 1) for v in w]
    return [b * cores[0], *cores[1:]]


def design(cores, x, k):
    """Right by another way: the score is linear, so units of the core give the columns."""
    columns = []
    for unit in torch.eye(cores[k].numel(), dtype=torch.float64):
        own = [*cores[:k], unit.reshape(cores[k].shape), *cores[k + 1 :]]
        columns.append(torch.tensor([score(own, row) for row in x], dtype=torch.float64))
    return torch.stack(columns, 1)


def update(cores, x, y, k, ridge, scale=1.0):
    a = design(cores, x, k)
    n = a.shape[1]
    rows = torch.cat([a, (scale * ridge) ** 0.5 * torch.eye(n, dtype=a.dtype)])
    right = torch.cat([y, torch.zeros(n, dtype=a.dtype)])
    return torch.linalg.lstsq(rows, right[:, None]).solution.reshape(cores[k].shape)


ONLY_X = torch.tensor([0.0, 1.0], dtype=torch.float64)[:, None]  # takes G[0] away

RIGHT = {
    "machine_storage": [3240, 3240.0],
    "score": [score],
    "coefficient": [coefficient],
    "linear_train": [linear_train, lambda b, w: tuple(linear_train(b, w))],
    "design": [design],
    "update": [update],
    "feature_order": [(3, 4, 0, 7, 6, 1, 5, 2), [0, 7, 1, 6, 2, 5, 3, 4]],
    "rows_needed": [200.0],
}

WRONG = {
    "machine_storage": [(2**30, "there to avoid"), (3840, "at the ends are smaller")],
    "score": [
        (dense, "forms a tensor"),
        (by_the_package, "what you are to build"),
        (lambda cores, x: score(cores, x.flip(0)), "wrong order"),
        (lambda cores, x: score([c * ONLY_X for c in cores], x), "may also stay out"),
        (lambda cores, x: score(cores, torch.ones_like(x)), "x is not used"),
        (lambda cores, x: torch.ones(3), "one number"),
    ],
    "coefficient": [(swapped, "changed places"), (subsets, "coefficients of all subsets")],
    "linear_train": [
        (lambda b, w: linear_train(b, w, bias=False), "should be b"),
        (lambda b, w: linear_train(b, w, weigh=False), "not used"),
        (product, "all interactions"),
        (wide, "rank 2"),
        (lambda b, w: linear_train(b, w)[:-1], "cores is needed"),
        (lambda b, w: [torch.ones(2, 2)] * len(w), "shapes such as"),
        (lambda b, w: linear_train(b, len(w) * w), "counted d times"),
        (lambda b, w: linear_train(len(w) * b, w), "once for each feature"),
    ],
    "design": [
        (lambda cores, x, k: design([torch.ones_like(c) for c in cores], x, k), "all products"),
        (lambda cores, x, k: design(cores, x, k).T, "the shape"),
    ],
    "update": [
        (lambda *case: update(*case, scale=0.0), "left out"),
        (lambda *case: update(*case, scale=60.0), "once for each row"),
        (lambda *case: update(*case).flatten(), "the shape of the core"),
    ],
    "rows_needed": [(100, "below 0.95"), (400, "half of it")],
    "feature_order": [
        (range(8), "smaller rank"),
        ((0, 1, 2), "needed once"),
        (7, "an order of the features"),
    ],
}
