"""Answers to the exercises of lesson 24."""

import numpy as np
import torch

import tensorlab as tl
from tensorlab.methods.kron_spectral import schatten


def gradient_by_numpy(e, p):
    u, s, vh = np.linalg.svd(e.numpy(), full_matrices=False)
    rho = s / np.linalg.norm(s / s[0], p) / s[0]
    return u @ np.diag(rho ** (p - 1)) @ vh


def weighted(weights):
    def gradient(e, p):
        u, s, vh = torch.linalg.svd(e, full_matrices=False)
        return u * weights(s / s[0], p) @ vh

    return gradient


def rearrange_by_blocks(w, m, n):
    rows, columns = w.shape[0] // m, w.shape[1] // n
    cut = [
        w[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns].flatten()
        for i in range(m)
        for j in range(n)
    ]
    return torch.stack(cut)


def rearrange_by_numpy(w, m, n):
    x = w.numpy().reshape(m, w.shape[0] // m, n, w.shape[1] // n)
    return x.swapaxes(1, 2).reshape(m * n, -1)


def by_columns(w, m, n):
    return rearrange_by_blocks(w, m, n).reshape(m, n, -1).transpose(0, 1).reshape(m * n, -1)


def transposed_blocks(w, m, n):
    rows = rearrange_by_blocks(w, m, n).reshape(m * n, w.shape[0] // m, w.shape[1] // n)
    return rows.mT.reshape(m * n, -1)


def tangent_by_complements(z, u, v):
    """Right by another way: all but what is orthogonal to both spaces."""
    left, right = (torch.eye(len(b), dtype=b.dtype) - b @ b.T for b in (u, v))
    return z - left @ z @ right


def step(w, x, p, t, rank, sign=1, tangent=tangent_by_complements, cut=True):
    s = round(len(w) ** 0.5)
    g = torch.as_tensor(gradient_by_numpy(w - rearrange_by_blocks(x, s, s), p))
    g = rearrange_by_blocks(g, s, s)
    u, _, vh = torch.linalg.svd(x)
    moved = x + sign * t * tangent(g, u[:, :rank], vh[:rank].T)
    return tl.LowRank.from_dense(moved, rank).to_dense() if cut else moved


RIGHT = {
    "schatten_factor": [1.12, 1.1185, torch.tensor(36.0) ** (1 / 32)],
    "schatten_gradient": [gradient_by_numpy],
    "rearrange": [rearrange_by_blocks, rearrange_by_numpy],
    "tangent_part": [tangent_by_complements],
    "spectral_step": [step],
    "enough": [32.0],
}

WRONG = {
    "schatten_factor": [(6, "Frobenius"), (1, "limit of large p"), (36, "p-th root is missing")],
    "schatten_gradient": [
        (lambda e, p: e / e.norm(), "p = 2"),
        (weighted(lambda rho, p: rho ** (p - 1)), "up to a number"),
        (weighted(lambda rho, p: torch.ones_like(rho)), "p = 1"),
        (weighted(lambda rho, p: rho**p / (rho**p).sum() ** ((p - 1) / p)), "lost to the deriv"),
        (lambda e, p: schatten(e, p)[1], "write it from torch.linalg.svd"),
    ],
    "rearrange": [
        (lambda w, m, n: w.reshape(m * n, -1), "row by row"),
        (by_columns, "column after column"),
        (lambda w, m, n: rearrange_by_blocks(w, w.shape[0] // m, w.shape[1] // n), "how many"),
        (transposed_blocks, "each block is transposed"),
        (lambda w, m, n: tl.kron_rearrange(w, (m, n)), "reshape and transpose"),
    ],
    "tangent_part": [
        (lambda z, u, v: u @ u.T @ z @ v @ v.T, "may leave one"),
        (lambda z, u, v: u @ u.T @ z + z @ v @ v.T, "counted twice"),
        (lambda z, u, v: z - tangent_by_complements(z, u, v), "orthogonal to the tangents"),
        (lambda z, u, v: u @ u.T @ z, "the rows may move"),
    ],
    "spectral_step": [
        (lambda *case: step(*case, sign=-1), "less the sum"),
        (lambda *case: step(*case, cut=False), "has doubled"),
        (lambda *case: step(*case, tangent=lambda z, u, v: z), "tangent part"),
        (lambda w, x, p, t, rank: step(w, x, 2, t, rank), "p = 2"),
    ],
    "enough": [(2, "starts"), (256, "that near"), (4, "20 %")],
}
