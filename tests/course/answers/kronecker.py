"""Answers to the exercises of lesson 09."""

import numpy as np
import torch

import tensorlab as tl


def rearrange_by_blocks(w, rows, columns):
    p, q = w.shape[0] // rows, w.shape[1] // columns
    blocks = (
        w[i * p : (i + 1) * p, j * q : (j + 1) * q] for i in range(rows) for j in range(columns)
    )
    return torch.stack([block.flatten() for block in blocks])


def rearrange_by_numpy(w, rows, columns):
    m, n = w.shape
    return (
        w.numpy()
        .reshape(rows, m // rows, columns, n // columns)
        .swapaxes(1, 2)
        .reshape(rows * columns, -1)
    )


def nearest(w, rows, columns, terms, rearrange=rearrange_by_blocks, power=0.5, last=False):
    """Both factors get the root of the singular value."""
    u, s, vh = np.linalg.svd(np.asarray(rearrange(w, rows, columns)), full_matrices=False)
    sizes = (rows, columns), (w.shape[0] // rows, w.shape[1] // columns)
    return [
        (s[k] ** power * u[:, k].reshape(sizes[0]), s[k] ** power * vh[k].reshape(sizes[1]))
        for k in (range(len(s) - terms, len(s)) if last else range(terms))
    ]


def unmoved(w, rows, columns):
    return w.reshape(rows * columns, -1)


def kron_apply(a, b, x):
    return torch.einsum("mn,pq,nq->mp", a, b, x.reshape(a.shape[1], b.shape[1])).flatten()


def layer(w, x, rows, columns, terms, turn=lambda part: part):
    pairs = nearest(w, rows, columns, terms)
    return sum(kron_apply(*(turn(torch.as_tensor(part)) for part in pair), x) for pair in pairs)


RIGHT = {
    "kron_storage": [4 * (16 * 24 + 48 * 128), 26112.0],
    "rearrange": [rearrange_by_blocks, rearrange_by_numpy],
    "nearest": [nearest, lambda *case: tuple(nearest(*case, rearrange=rearrange_by_numpy))],
    "kron_apply": [kron_apply, lambda a, b, x: tl.Kronecker((a[None], b[None])).apply(x)],
    "layer": [layer],
    "best_left": [8, 8.0],
}

WRONG = {
    "kron_storage": [
        (6528, "one term"),
        (1536, "the left factors"),
        (15360, "low rank"),
        (768 * 3072, "full matrix"),
    ],
    "rearrange": [
        (unmoved, "only reshapes"),
        (lambda w, rows, columns: rearrange_by_blocks(w, rows, columns).T, "the shape should be"),
        (lambda w, rows, columns: tl.kron_rearrange(w, (rows, columns)), "what you are to build"),
    ],
    "nearest": [
        (lambda *case: nearest(*case, power=0.0), "values are missing"),
        (lambda *case: nearest(*case, power=1.0), "enter twice"),
        (lambda *case: nearest(*case, rearrange=unmoved), "were not rearranged"),
        (lambda *case: nearest(*case, last=True), "smallest singular values"),
        (lambda *case: nearest(*case)[:-1], "a list of"),
        (lambda *case: [pair[::-1] for pair in nearest(*case)], "need the shapes"),
        (lambda *case: [0] * case[3], "a pair of two matrices"),
        (lambda w, r, c, k: tl.kron_svd(w, (r, c), k), "what you are to build"),
        (
            lambda w, r, c, k: tl.Kronecker.from_dense(
                w, k, out=(r, len(w) // r), in_=(c, w.shape[1] // c)
            ),
            "what you are to build",
        ),
    ],
    "kron_apply": [
        (lambda a, b, x: torch.kron(a, b) @ x, "forms a tensor of shape"),
        (lambda a, b, x: kron_apply(b, a, x), "wrong order"),
    ],
    "layer": [
        (lambda w, x, *sizes: w @ x, "dense product"),
        (lambda w, x, r, c, k: layer(w, x, r, c, 1), "first term only"),
        (lambda *case: layer(*case, turn=lambda part: part.T), "with the transpose"),
        (
            lambda w, x, *sizes: (
                sum(torch.kron(*map(torch.as_tensor, p)) for p in nearest(w, *sizes)) @ x
            ),
            "do not form the products",
        ),
    ],
    "best_left": [(1, "number of terms"), (64, "size of the matrix"), (16, "only one size")],
}
