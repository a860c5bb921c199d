"""Answers to the exercises of lesson 22."""

import numpy as np
import torch

from tensorlab.papers.expressivity import matricization, matricization_rank


def recurrent_by_matrices(cores, inputs):
    """Right by another way: a product of matrices, one for each input."""
    product = torch.eye(1, dtype=torch.float64)
    for core, f in zip(cores, inputs):
        product = product @ (core * f[:, None]).sum(1)
    return product


def added(cores, inputs):
    h = torch.ones(1, dtype=torch.float64)
    for core, f in zip(cores, inputs):
        h = h @ core.sum(1) + f @ core.sum(0)
    return h[0]


def odd_even_by_numpy(x):
    """Takes the column modes one after another to the end."""
    a, d = x.numpy(), x.ndim
    for k in range(d // 2):
        a = np.moveaxis(a, k + 1, -1)
    return a.reshape(int(np.prod(x.shape[::2])), -1)


def bound_by_numpy(x):
    return np.linalg.matrix_rank(odd_even_by_numpy(x))


def needed(x, rtol, rest=lambda s, k: (s[k:] ** 2).sum() ** 0.5, least=0):
    s = np.linalg.svd(odd_even_by_numpy(x), compute_uv=False)
    return next(k for k in range(len(s) + 1) if rest(s, k) <= rtol * rest(s, least))


RIGHT = {
    "shallow_width": [243, 243.0],
    "recurrent": [recurrent_by_matrices],
    "odd_even": [odd_even_by_numpy],
    "width_bound": [bound_by_numpy],
    "width_for": [needed],
}

WRONG = {
    "shallow_width": [(3125, "the size of the matrix"), (3, "contiguous"), (59049, "half of")],
    "recurrent": [
        (added, "multiplied"),
        (lambda cores, inputs: recurrent_by_matrices(cores, inputs[::-1]), "wrong order"),
        (lambda cores, inputs: cores[0], "a score is one number"),
    ],
    "odd_even": [
        (lambda x: x.flatten(0, x.ndim // 2 - 1).flatten(1), "a contiguous cut"),
        (lambda x: odd_even_by_numpy(x).T, "are the rows"),
        (lambda x: x.reshape(odd_even_by_numpy(x).shape), "permute them first"),
        (lambda x: matricization(x, range(0, x.ndim, 2)), "build it from permute"),
    ],
    "width_bound": [
        (lambda x: min(odd_even_by_numpy(x).shape), "not its rank"),
        (lambda x: matricization_rank(x, range(0, x.ndim, 2)), "your `odd_even`"),
        (lambda x: matricization_rank(x, range(x.ndim // 2)), "your `odd_even`"),
    ],
    "width_for": [
        (lambda x, rtol: needed(x, rtol, rest=lambda s, k: [*s, 0][k]), "with the largest"),
        (lambda x, rtol: bound_by_numpy(x), "rtol is not used"),
        (lambda x, rtol: needed(x, rtol) - 1, "too large"),
    ],
    "numerical_width": [(81, "hardly count"), (26, "enough for 10%")],
    "deep_enough": [(10, "by the bound"), (6, "still below"), (8, "a smaller depth is too")],
}
