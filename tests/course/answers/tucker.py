"""Answers to the exercises of lesson 03."""

import numpy as np
import torch

import tensorlab as tl


def mode_product(x, m, k):
    return (m @ x.movedim(k, -2)).movedim(-2, k)


def basis(x, mode, r):
    """By the eigenvectors of the Gram matrix."""
    a = x.movedim(mode, 0).flatten(1)
    return torch.linalg.eigh(a @ a.T)[1].flip(1)[:, :r]


def basis_by_numpy(x, mode, r):
    return np.linalg.svd(np.moveaxis(x.numpy(), mode, 0).reshape(x.shape[mode], -1))[0][:, :r]


def by_reshape(x, mode, r):
    return torch.linalg.svd(x.reshape(x.shape[mode], -1), full_matrices=False)[0][:, :r]


def higher_svd(x, ranks, basis=basis, sequential=False):
    core, factors = x, []
    for k, r in enumerate(ranks):
        factors.append(basis(core if sequential else x, k, r))
        core = mode_product(core, factors[-1].T, k)
    return core, tuple(factors)


def smallest(x, mode, r):
    return torch.linalg.svd(x.movedim(mode, 0).flatten(1), full_matrices=False)[0][:, -r:]


RIGHT = {
    "tucker_storage": [320, 320.0],
    "mode_product": [mode_product],
    "basis": [basis, basis_by_numpy, lambda *case: -basis(*case)],
    "higher_svd": [higher_svd, lambda x, r: [higher_svd(x, r)[0], list(higher_svd(x, r)[1])]],
}

WRONG = {
    "tucker_storage": [
        (260, "the core is stored too"),
        (6000, "full tensor"),
        (60, "the factors are"),
    ],
    "mode_product": [(lambda x, m, k: torch.tensordot(m, x, dims=([1], [k])), "comes first")],
    "basis": [
        (smallest, "smallest singular values"),
        (by_reshape, "bring the mode to the front"),
        (lambda x, mode, r: 2 * basis(x, mode, r), "orthonormal"),
        (lambda x, mode, r: basis(x, mode, r).T, "a basis of the shape"),
        (lambda x, mode, r: tl.hosvd(x, r).factors[mode], "from torch.linalg.svd"),
    ],
    "higher_svd": [
        (lambda x, r: higher_svd(x, r, sequential=True), "that is the ST-HOSVD"),
        (lambda x, r: higher_svd(x, r, smallest), "smallest singular values"),
        (lambda x, r: higher_svd(x, r)[0], "a core and a list of factors"),
        (lambda x, r: tl.hosvd(x, r).tensors(), "what you are to build"),
        (lambda x, r: tl.st_hosvd(x, r).tensors(), "from your `basis`"),
        (lambda x, r: (x, higher_svd(x, r)[1]), "the ranks as its shape"),
        (lambda x, r: (None, higher_svd(x, r)[1]), "tensors are needed"),
    ],
    "photo_tucker_rank": [(300, "type a size")],
}
