"""Answers to the exercises of lesson 20."""

import numpy as np
import torch


def known(core, b):
    return sum(b[i] * core[:, i] for i in range(len(b)))


def behind(core, gram, state, weigh=lambda gram, i, j: gram[i, j]):
    m = range(core.shape[1])
    return sum(weigh(gram, i, j) * core[:, i] @ state @ core[:, j].T for i in m for j in m)


def behind_by_root(core, gram, state):
    """Right by another way: D = C Cᵀ first."""
    g = torch.einsum("aib,ik->akb", core, torch.linalg.cholesky(gram))
    return torch.einsum("akb,bd,ckd->ac", g, state, g)


def ahead(core, gram, state):
    """The step from the left."""
    return torch.einsum("aib,ij,ac,cjd->bd", core, gram, state, core)


def mass_from_the_left(cores, grams):
    state = torch.ones(1, 1, dtype=torch.float64)
    for core, gram in zip(cores, grams):
        state = ahead(core, gram, state)
    return float(state)


def joint(cores, grams, values):
    """Density of the first variables, times Z: every core a small matrix on its own."""
    state = torch.ones(1, 1, dtype=torch.float64)
    for k in reversed(range(len(cores))):
        if k < len(values):
            a = known(cores[k], values[k])
            state = a @ state @ a.T
        else:
            state = behind_by_root(cores[k], grams[k], state)
    return state[0, 0]


def conditional(cores, grams, seen, b):
    return joint(cores, grams, [*seen, b]) / joint(cores, grams, seen)


def dense(cores, grams):
    """Right, but with all coefficients at once: those of q, and those with D on every mode."""
    full, weighted = cores[0], torch.einsum("aib,ij->ajb", cores[0], grams[0])
    for core, gram in zip(cores[1:], grams[1:]):
        full = torch.tensordot(full, core, 1)
        weighted = torch.tensordot(weighted, torch.einsum("aib,ij->ajb", core, gram), 1)
    return (full * weighted).sum()


RIGHT = {
    "products": [729, 729.0],
    "known": [known, lambda core, b: np.einsum("rmq,m->rq", core.numpy(), b.numpy())],
    "behind": [behind, behind_by_root],
    "mass": [mass_from_the_left],
    "conditional": [conditional],
    "most_moved": [1, 1.0],
}

WRONG = {
    "products": [
        (64, "one interval more"),
        (18, "meets each of the others"),
        (32**6, "all products"),
    ],
    "known": [
        (lambda core, b: core.sum(1), "left out"),
        (lambda core, b: known(core, b).T, "changed places"),
    ],
    "behind": [
        (lambda core, gram, state: behind(core, torch.diag(gram.diagonal()), state), "a band"),
        (lambda core, gram, state: ahead(core, gram, torch.eye(len(core)).double()), "the shape"),
        (lambda core, gram, state: behind(core, torch.eye(len(gram)), state), "not orthonormal"),
    ],
    "mass": [
        (dense, "forms a tensor"),
        (lambda cores, grams: mass_from_the_left(cores, grams) ** 0.5, "the norm of q"),
        (
            lambda cores, grams: mass_from_the_left(
                cores, [torch.eye(len(d), dtype=torch.float64) for d in grams]
            ),
            "are missing",
        ),
    ],
    "conditional": [
        (lambda c, g, seen, b: joint(c, g, [*seen, b]) / joint(c, g, []), "density of what is"),
        (lambda c, g, seen, b: conditional(c, g, [], b), "left out"),
        (lambda *case: conditional(*case) ** 0.5, "its square"),
    ],
    "root_rank": [(2, "its exponential has not")],
    "most_moved": [(0, "another one by more"), (3, "hardly moves")],
}
