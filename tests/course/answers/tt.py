"""Answers to the exercises of lesson 04."""

import math

import numpy as np
import torch

import tensorlab as tl


def cut_by_qr(a, delta):
    """Right by another way: eigenvectors of a aᵀ."""
    values, u = torch.linalg.eigh(a @ a.T)
    values, u = values.clamp_min(0).flip(0), u.flip(1)
    tails = values.flip(0).cumsum(0).flip(0).sqrt()
    r = max(1, int((tails > delta).sum()))
    return u[:, :r], u[:, :r].T @ a


def cut_by_numpy(a, delta):
    u, s, vh = np.linalg.svd(a.numpy(), full_matrices=False)
    r = next((r for r in range(1, len(s)) if np.linalg.norm(s[r:]) <= delta), len(s))
    return u[:, :r], s[:r, None] * vh[:r]


def unbalanced(a, delta):
    u, rest = cut_by_qr(a, delta)
    return 2 * u, rest / 2


def next_core(rest, n, delta):
    r = rest.shape[0]
    u, rest = cut_by_numpy(rest.reshape(r * n, -1), delta)
    return u.reshape(r, n, -1), rest


def train(x, rtol, share=lambda x, rtol: rtol * float(x.norm()) / math.sqrt(x.ndim - 1)):
    cores, rest = [], x.reshape(1, -1)
    for n in x.shape[:-1]:
        core, rest = next_core(torch.as_tensor(rest), n, share(x, rtol))
        cores.append(core)
    return [*cores, rest[:, :, None]]


def entry_by_einsum(cores, index):
    out = torch.ones(1, dtype=torch.float64)
    for core, i in zip(cores, index):
        out = torch.einsum("a,ab->b", out, core[:, i])
    return out


def entry_from_the_right(cores, index):
    column = cores[-1][:, index[-1]]
    for core, i in zip(cores[-2::-1], index[-2::-1]):
        column = core[:, i] @ column
    return float(column)


def entry_by_the_tensor(cores, index):
    x = cores[0]
    for core in cores[1:]:
        x = torch.tensordot(x, core, 1)
    return x.squeeze(0).squeeze(-1)[index]


def cut_to(count):
    """A cut with another rule for the rank."""

    def cut(a, delta):
        u, s, vh = torch.linalg.svd(a, full_matrices=False)
        tails = s.square().flip(0).cumsum(0).flip(0).sqrt()
        r = max(1, int(count(s, tails, delta)))
        return u[:, :r], s[:r, None] * vh[:r]

    return cut


def swapped(rest, n, delta):
    r = rest.shape[0]
    turned = rest.reshape(r, n, -1).transpose(0, 1).reshape(n * r, -1)
    u, rest = cut_by_numpy(turned, delta)
    return u.reshape(r, n, -1), rest


def uncut(rest, n, delta):
    r = rest.shape[0]
    return torch.eye(r * n, dtype=rest.dtype).reshape(r, n, r * n), rest.reshape(r * n, -1)


def with_share(share):
    return lambda x, rtol: train(x, rtol, share)


RIGHT = {
    "tt_storage": [88, 88.0, torch.tensor(88)],
    "cut": [cut_by_qr, cut_by_numpy],
    "next_core": [next_core],
    "train": [train, lambda x, rtol: tuple(train(x, rtol))],
    "tt_entry": [entry_by_einsum, entry_from_the_right],
    "mode_order": [[0, 2, 1, 3], (3, 1, 0, 2), torch.tensor([2, 0, 3, 1])],
}

WRONG = {
    "tt_storage": [(840, "full tensor"), (66, "first and the last"), (110, "two ends")],
    "cut": [
        (unbalanced, "orthonormal"),
        (lambda a, delta: torch.linalg.svd(a, full_matrices=False)[0], "two tensors"),
        (lambda a, delta: tl.tt_svd(a, rtol=delta), "build it from torch.linalg.svd"),
        (cut_to(lambda s, tails, delta: (s > delta).sum()), "but together they are not"),
        (cut_to(lambda s, tails, delta: (tails > delta * s.norm()).sum()), "absolute error"),
        (cut_to(lambda s, tails, delta: (tails > delta).sum() + 1), "one rank less"),
        (cut_to(lambda s, tails, delta: len(s)), "nothing has been cut"),
    ],
    "next_core": [
        (lambda rest, n, delta: (rest.reshape(len(rest), n, -1), rest), "columns of the core meet"),
        (lambda rest, n, delta: cut_by_numpy(rest, delta), "a core has the shape"),
        (swapped, "the rank comes first"),
        (uncut, "give delta to"),
    ],
    "train": [
        (with_share(lambda x, t: t * float(x.norm())), "whole budget"),
        (with_share(lambda x, t: t * float(x.norm()) / (x.ndim - 1)), "not by d - 1"),
        (with_share(lambda x, t: t), "relative"),
        (with_share(lambda x, t: t * float(x.norm()) / math.sqrt(x.ndim)), "d - 1 cuts"),
        (lambda x, rtol: tl.tt_svd(x, rtol=rtol).cores, "what you are to build"),
        (lambda x, rtol: train(x, rtol)[1:], "list of"),
    ],
    "tt_entry": [
        (entry_by_the_tensor, "forms a tensor"),
        (lambda cores, i: tl.TT(tuple(cores)).to_dense()[i], "forms a tensor"),
    ],
    "mode_order": [((0, 1, 2, 3), "a smaller train"), ((0, 1), "needed once")],
    "most_digits": [(14, "move `digits`")],
}
