"""Answers to the exercises of lesson 11."""

import numpy as np
import torch

import tensorlab as tl


def slices_by_loop(w, m):
    return torch.stack(
        [torch.stack([w[b::m, c * m : (c + 1) * m] for c in range(m)]) for b in range(m)]
    )


def fit_by_loop(w, m, rank):
    """Right by another way: slice by slice in numpy, singular values with the left core."""
    left, right = np.zeros((m, m, m, rank)), np.zeros((m, rank, m, m))
    for b in range(m):
        for c in range(m):
            u, s, vh = np.linalg.svd(slices_by_loop(w, m)[b, c].numpy())
            left[b, :, c], right[c, :, b] = u[:, :rank] * s[:rank], vh[:rank]
    return left, right


def fit_of(slices, values=True):
    def fit(w, m, rank):
        u, s, vh = torch.linalg.svd(slices(w, m))
        s = s if values else torch.ones_like(s)
        left, right = u[..., :rank], s[..., :rank, None] * vh[..., :rank, :]
        return left.permute(0, 2, 1, 3), right.permute(1, 2, 0, 3)

    return fit


def low_rank(w, m, rank):
    """One SVD of all of w in the form of a block train, where each slice has it again."""
    u, s, vh = torch.linalg.svd(w)
    left = (u[:, :rank] * s[:rank]).reshape(m, m, 1, rank).expand(m, m, m, rank)
    right = vh[:rank].reshape(rank, m, 1, m).expand(rank, m, m, m)
    return left.transpose(0, 1), right.transpose(0, 1)


def apply_by_loops(left, right, x):
    """Right by another way: sums over s by hand, products of matrices."""
    x = x.reshape(right.shape[0], right.shape[3])
    y = torch.zeros(left.shape[1], left.shape[0], dtype=x.dtype)
    for b in range(left.shape[0]):
        z = torch.stack([right[c, :, b] @ x[c] for c in range(len(right))])  # c, s
        y[:, b] = left[b].flatten(1) @ z.flatten()
    return y.flatten()


def by_the_matrix(left, right, x):
    w = torch.einsum("bacs,csbd->abcd", left, right)
    return w.reshape(-1, len(x)) @ x


def blockwise(left, right, x):
    return apply_by_loops(left, right, x).reshape(left.shape[1], -1).T.flatten()


def columns_first(left, right, x):
    return apply_by_loops(left, right, x.reshape(-1, len(right)).T.flatten())


RIGHT = {
    "btt_storage": [196608, 196608.0],
    "btt_slices": [slices_by_loop],
    "btt_fit": [fit_by_loop],
    "btt_apply": [apply_by_loops, lambda *case: apply_by_loops(*case).numpy()],
    "kron_as_btt": [3, 3.0],
    "most_uses": [8, np.int64(8)],
}

WRONG = {
    "btt_storage": [(1024**2, "dense weight"), (98304, "one core"), (65536, "Monarch")],
    "btt_slices": [
        (lambda w, m: w.reshape(m, m, m, m).transpose(1, 2), "contiguous blocks"),
        (lambda w, m: w.reshape(m, m, m, m), "permute them"),
        (lambda w, m: w.reshape(m, m, m, m).permute(1, 3, 0, 2), "b and d are fixed"),
        (lambda w, m: slices_by_loop(w, m).transpose(0, 1), "changed places"),
    ],
    "btt_fit": [
        (fit_of(lambda w, m: w.reshape(m, m, m, m).transpose(1, 2)), "contiguous blocks"),
        (fit_of(slices_by_loop, values=False), "singular values are missing"),
        (low_rank, "one SVD of the whole"),
        (lambda w, m, rank: fit_by_loop(w, m, m), "(b, a, c, s)"),
        (lambda w, m, rank: fit_by_loop(w, m, rank)[0], "two tensors"),
        (lambda w, m, rank: tl.BlockTT.from_dense(w, rank).cores, "torch.linalg.svd"),
    ],
    "btt_apply": [
        (by_the_matrix, "forms a tensor"),
        (blockwise, "block by block"),
        (columns_first, "rows c of values d"),
        (lambda L, R, x: apply_by_loops(L[..., :1], R[:, :1], x), "sum over s"),
        (lambda L, R, x: apply_by_loops(L.sum(-1, True), R.sum(1, True), x), "on its own"),
    ],
    "kron_as_btt": [(1, "one product"), (16, "rank of the matrix"), (4, "any matrix")],
    "most_uses": [(2, "used once"), (4, "count both"), (512, "divide")],
}
