"""Answers to the exercises of lesson 05."""

import numpy as np
import torch

import tensorlab as tl


def node_basis(left, right, core):
    """Column by column, from products with the Kronecker product."""
    return torch.kron(left, right) @ core.flatten(0, 1)


def matrix(x, modes):
    rest = [k for k in range(4) if k not in modes]
    return np.transpose(x.numpy(), (*modes, *rest)).reshape(
        int(np.prod([x.shape[k] for k in modes])), -1
    )


def frame(x, modes, r, of=matrix):
    return np.linalg.svd(of(x, modes))[0][:, :r]


def frame_by_gram(x, modes, r):
    """By the eigenvectors of the Gram matrix, with other signs."""
    a = torch.as_tensor(matrix(x, modes))
    return -torch.linalg.eigh(a @ a.T)[1].flip(1)[:, :r]


def transfer(basis, left, right):
    return (torch.kron(left, right).T @ basis).reshape(left.shape[1], right.shape[1], -1)


def h_svd(x, r, frame=frame_by_gram):
    u = [frame(x, (k,), r) for k in range(4)]
    left, right = frame(x, (0, 1), r), frame(x, (2, 3), r)
    root = left.T @ x.flatten(2).flatten(0, 1) @ right
    return u, transfer(left, *u[:2]), transfer(right, *u[2:]), root


def smallest(x, modes, r):
    return torch.linalg.svd(torch.as_tensor(matrix(x, modes)), full_matrices=False)[0][:, -r:]


def by_reshape(x, modes, r):
    return frame(x, modes, r, lambda x, modes: x.reshape(matrix(x, modes).shape).numpy())


RIGHT = {
    "ht_storage": [304, 304.0],
    "node_basis": [node_basis],
    "frame": [frame, frame_by_gram],
    "transfer": [transfer],
    "h_svd": [h_svd, lambda x, r: list(h_svd(x, r))],
    "best_tree": [((2, 1), (3, 0)), ((0, 3), (2, 1))],
}

WRONG = {
    "ht_storage": [(10_000, "full tensor"), (160, "each inner node"), (144, "leaves have factors")],
    "node_basis": [
        (lambda left, right, core: torch.kron(left, right), "still has to combine"),
        (lambda left, right, core: node_basis(left, right, core).T, "the shape should be"),
    ],
    "frame": [
        (smallest, "smallest singular values"),
        (by_reshape, "bring the modes to the front"),
        (lambda x, modes, r: frame(x, modes[::-1], r), "the wrong order"),
        (lambda x, modes, r: 2 * frame(x, modes, r), "orthonormal"),
        (lambda x, modes, r: frame(x, modes, r).T, "columns of the shape"),
        (lambda x, modes, r: tl.ht_svd(x, r).factors[0], "from torch.linalg.svd"),
    ],
    "transfer": [
        (lambda basis, left, right: transfer(basis, right, left), "exchanged"),
        (lambda basis, left, right: torch.kron(left, right).T @ basis, "the right numbers"),
    ],
    "h_svd": [
        (lambda x, r: h_svd(x, r, smallest), "smallest singular values"),
        (lambda x, r: h_svd(x, r)[0], "the bases of the leaves come first"),
        (lambda x, r: h_svd(x, r)[:2], "a list of four bases"),
        (lambda x, r: (h_svd(x, r)[0], *h_svd(x, r)[3:0:-1]), "the shapes should be"),
        (lambda x, r: tl.ht_svd(x, r), "what you are to build"),
    ],
    "best_tree": [
        (((0, 1), (2, 3)), "another tree stores less"),
        ((0, 1, 2), "a tree of the modes"),
    ],
    "most_digits": [(14, "move `digits`")],
}
