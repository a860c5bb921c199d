"""Answers to the exercises of lesson 19."""

import numpy as np
import torch

import tensorlab as tl


def tails_by_products(cores):
    """Right by another way: each column by the product of all matrices to its right."""
    z = []
    for k in range(len(cores) + 1):
        matrix = torch.eye(cores[k].shape[0] if k < len(cores) else 1, dtype=torch.float64)
        for core in cores[k:]:
            matrix = matrix @ core.sum(1)
        z.append(matrix[:, 0])
    return z


def tails_by_numpy(cores):
    z = [np.ones(1)]
    for core in cores[::-1]:
        z = [core.numpy().sum(1) @ z[0], *z]
    return z


def conditional(q, core, z):
    p = torch.stack([q @ core[:, j] @ z for j in range(core.shape[1])]).abs()
    return p / p.sum()


def walk(cores, z=None, carry=True):
    """At each mode the distribution, which is told the index that was chosen."""
    z, q = z or tails_by_products(cores), torch.ones(1, dtype=torch.float64)
    for k, core in enumerate(cores):
        i = yield conditional(q, core, z[k + 1])
        q = q @ core[:, i] if carry else torch.ones(core.shape[2], dtype=torch.float64)


def draw(cores, u, pick=lambda p, t: int(np.searchsorted(np.cumsum(p.numpy()), t, "right")), **how):
    steps, index, i = walk(cores, **how), [], None
    for k in range(len(cores)):
        i = pick(steps.send(i), u[k])
        index.append(i)
    return index


def log_p(cores, index, **how):
    steps, total, before = walk(cores, **how), 0.0, None
    for i in index:
        total = total + steps.send(before)[i].log()
        before = i
    return total


def bare(cores):
    """Columns of ones: as if nothing was to the right."""
    return [torch.ones(core.shape[0], dtype=torch.float64) for core in cores] + [
        torch.ones(1, dtype=torch.float64)
    ]


def without_chain(cores, index):
    entry = torch.ones(1, dtype=torch.float64)
    for core, i in zip(cores, index):
        entry = entry @ core[:, i]
    return (entry[0] / tails_by_products(cores)[0][0]).abs().log()


def climb(cores, points, values, e, lr, order=lambda y: y.argsort(), mean=True):
    G = [core.clone().requires_grad_() for core in cores]
    elite = points[order(values)[:e]].tolist()
    sum(log_p(G, i) for i in elite).backward()
    return [(g + lr * g.grad / (len(elite) if mean else 1)).detach() for g in G]


def by_the_package(cores, u):
    search = tl.Protes(tuple(core.shape[1] for core in cores), budget=1)
    return search.draw(1)[0]


RIGHT = {
    "signed_table": [0.1, 1 / 10, torch.tensor(0.1)],
    "tails": [tails_by_products, tails_by_numpy],
    "conditional": [conditional, lambda q, core, z: conditional(q, core, z).numpy()],
    "draw": [draw, lambda cores, u: torch.tensor(draw(cores, u))],
    "log_p": [log_p, lambda cores, index: float(log_p(cores, index))],
    "climb": [climb],
    "feasible_words": [1089155, 1089155.0],
}

WRONG = {
    "signed_table": [
        (-0.2, "cannot be negative"),
        (1 / 7, "weights of each draw"),
        (0.25, "second step"),
    ],
    "tails": [
        (lambda cores: tails_by_products(cores)[::-1], "wrong order"),
        (lambda cores: tails_by_products(cores)[:-1], "belongs to the list"),
        (lambda cores: 3.0, "a list of d + 1 vectors"),
    ],
    "draw": [
        (lambda cores, u: draw(cores, u, z=bare(cores)), "z of `tails`"),
        (lambda cores, u: draw(cores, u, carry=False), "not independent"),
        (lambda cores, u: draw(cores, u, pick=lambda p, t: int(p.argmax())), "most probable"),
        (by_the_package, "`Protes` is where this goes"),
        (lambda cores, u: (tl.TT(tuple(cores)).to_dense(), draw(cores, u))[1], "forms a tensor"),
    ],
    "log_p": [
        (lambda cores, index: log_p(cores, index).exp(), "its logarithm"),
        (without_chain, "positive cores only"),
        (lambda cores, index: -log_p(cores, index), "opposite"),
    ],
    "climb": [
        (lambda *case: climb(*case, order=lambda y: (-y).argsort()), "largest values"),
        (lambda *case: climb(*case, order=lambda y: torch.arange(len(y))), "first e points"),
        (lambda *case: climb(*case, mean=False), "divide by e"),
    ],
    "feasible_words": [(2**30, "all words"), (1089154, "adds all its entries")],
    "batches_needed": [(13, "an elite of 4"), (420, "the batches are asked for")],
}
