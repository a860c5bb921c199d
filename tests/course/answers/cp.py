"""Answers to the exercises of lesson 02."""

import numpy as np
import torch

import tensorlab as tl


def khatri_rao(a, b):
    return np.stack([np.kron(a[:, k], b[:, k]) for k in range(a.shape[1])], 1)


def update(x0, b, c):
    """By least squares in place of the normal equations."""
    k = torch.as_tensor(khatri_rao(b, c))
    return torch.linalg.lstsq(k, x0.T).solution.T


def sweep(x, a, b, c, order="abc"):
    factors = {"a": a, "b": b, "c": c}
    for name in order:
        k = "abc".index(name)
        others = [f for m, f in factors.items() if m != name]
        factors[name] = update(x.movedim(k, 0).flatten(1), *others)
    return tuple(factors.values())


def all_from_the_old(x, a, b, c):
    return [sweep(x, a, b, c, name)["abc".index(name)] for name in "abc"]


def norm_by_qr(a, b, c):
    """The norm of the small tensor with the triangles as factors."""
    r = [torch.linalg.qr(f)[1] for f in (a, b, c)]
    return float(torch.einsum("ir,jr,kr->ijk", *r).norm())


def norm_by_terms(a, b, c):
    pairs = ((s, t) for s in range(a.shape[1]) for t in range(a.shape[1]))
    return (
        sum((a[:, s] @ a[:, t]) * (b[:, s] @ b[:, t]) * (c[:, s] @ c[:, t]) for s, t in pairs)
        ** 0.5
    )


RIGHT = {
    "cp_storage": [300, 300.0, np.int64(300)],
    "khatri_rao": [khatri_rao],
    "update": [update],
    "sweep": [sweep, lambda *case: list(sweep(*case))],
    "cp_norm": [norm_by_qr, norm_by_terms],
    "degenerate_cosine": [-0.97, -1.0],
}

WRONG = {
    "cp_storage": [(6000, "full tensor"), (60, "one term"), (305, "count the factors alone")],
    "khatri_rao": [
        (torch.kron, "full Kronecker product"),
        (lambda a, b: khatri_rao(b, a), "fastest"),
    ],
    "update": [
        (lambda x0, b, c: update(x0, c, b), "in this order"),
        (lambda x0, b, c: x0 @ torch.as_tensor(khatri_rao(b, c)), "right-hand side"),
    ],
    "sweep": [
        (all_from_the_old, "came from the old ones"),
        (lambda *case: sweep(*case, "a"), "only the first factor"),
        (lambda *case: sweep(*case, "ab"), "the last factor"),
        (lambda *case: sweep(*case, "cba"), "begin with a"),
        (lambda *case: sweep(*case, "abcabc"), "two sweeps"),
        (lambda x, *f: tl.cp_als(x, f[0].shape[1], max_iter=1).value.factors, "your `update`"),
        (lambda x, a, b, c: (b, a, c), "factors of the shapes"),
        (lambda x, a, b, c: (a, None, ...), "tensors are needed"),
    ],
    "cp_norm": [
        (lambda a, b, c: torch.einsum("ir,jr,kr->ijk", a, b, c).norm(), "forms a tensor"),
        (lambda a, b, c: (torch.as_tensor(khatri_rao(a, b)) @ c.T).norm(), "forms a tensor"),
        (lambda a, b, c: norm_by_qr(a, b, c) ** 2, "square of the norm"),
    ],
    "degenerate_cosine": [
        (1, "could they cancel"),
        (0, "not orthogonal"),
        (-0.5, "10, 100 and 1000"),
    ],
}
