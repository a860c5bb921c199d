"""Answers to the exercises of lesson 00b."""

import torch

import tensorlab as tl

RIGHT = {
    "unfolding": [
        tl.unfold,
        lambda x, k: x.permute(k, *(j for j in range(x.ndim) if j != k)).flatten(1),
    ],
    "mode_multiply": [
        tl.mode_product,
        lambda x, m, k: torch.tensordot(x, m, ([k], [1])).movedim(-1, k),
    ],
    "khatri_rao_product": [
        lambda a, b: torch.stack([torch.kron(*c) for c in zip(a.T, b.T)], 1),
        lambda a, b: torch.einsum("ik,jk->ijk", a, b).flatten(0, 1),
    ],
    "network_numbers": [120, 120.0],
}

WRONG = {
    "fibers": [(60, "the entries"), (4, "how long"), (8, "multiply"), (20, "counted from 0")],
    "unfolding": [
        (lambda x, k: x.reshape(x.shape[k], -1), "memory's order"),
        (lambda x, k: tl.unfold(x, k).T, "belongs to the rows"),
    ],
    "mode_multiply": [
        (lambda x, m, k: m @ tl.unfold(x, k), "fold it back"),
        (lambda x, m, k: torch.tensordot(m, x, ([1], [k])), "to the place of the mode"),
    ],
    "khatri_rao_product": [
        (lambda a, b: tl.khatri_rao(b, a), "the second factor moves fastest"),
        (torch.kron, "columns go with columns"),
    ],
    "network_numbers": [(625, "entries of the whole"), (180, "one bond only")],
}
