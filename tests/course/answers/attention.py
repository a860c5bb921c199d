"""Answers to the exercises of lesson 28."""

import numpy as np
import torch
from torch.nn import functional as F


def attend_by_rows(q, k, v):
    """Right by another way: token by token, without a mask."""
    rows = [(k[: i + 1] @ q[i] / len(q[i]) ** 0.5).softmax(0) @ v[: i + 1] for i in range(len(q))]
    return torch.stack(rows)


def attend_by_numpy(q, k, v):
    q, k, v = (t.numpy() for t in (q, k, v))
    p = np.tril(np.exp(q @ k.T / np.sqrt(k.shape[1])))
    return p / p.sum(1, keepdims=True) @ v


def scores(q, k, scale):
    later = torch.ones(len(q), len(k)).triu(1).bool()
    return (q @ k.T * scale).masked_fill(later, -torch.inf)


def grouped_by_repetition(q, k, v):
    share = len(q) // len(k)
    k, v = (t.repeat_interleave(share, 0) for t in (k, v))
    return torch.stack([attend_by_numpy_tensor(*head) for head in zip(q, k, v)])


def attend_by_numpy_tensor(q, k, v):
    return torch.as_tensor(attend_by_numpy(q, k, v))


def absorbed_by_einsum(q, c, up_key, up_value):
    p = (torch.einsum("d,dr->r", q, up_key) * c).sum(1).div(len(q) ** 0.5).softmax(0)
    return torch.einsum("t,tr->r", p, c) @ up_value.T


def expanded(q, c, up_key, up_value):
    return (c @ up_key.T @ q / len(q) ** 0.5).softmax(0) @ (c @ up_value.T)


def product_by_terms(a, b):
    return sum(torch.outer(x, y) for x, y in zip(a, b)) / len(a)


def slice_by_parts(q, k, v, i):
    t = torch.zeros(len(k), len(k), dtype=k.dtype)
    t[: i + 1, : i + 1] = torch.einsum("r,jr,kr->jk", q[i], k[: i + 1], v[: i + 1])
    return t


def slice_of_the_whole(q, k, v, i):
    return torch.einsum("ir,jr,kr->ijk", q, k, v)[i]


RIGHT = {
    "cache_mib": [1024, 1024.0],
    "attend": [attend_by_rows, attend_by_numpy],
    "grouped": [grouped_by_repetition],
    "absorbed": [absorbed_by_einsum],
    "product_key": [product_by_terms],
    "slice_of_cube": [slice_by_parts],
}

WRONG = {
    "cache_mib": [(4096, "share theirs"), (512, "values"), (32, "one layer"), (2048, "two bytes")],
    "attend": [
        (lambda q, k, v: (q @ k.T / len(k.T) ** 0.5).softmax(1) @ v, "after it"),
        (lambda q, k, v: scores(q, k, 1.0).softmax(1) @ v, "divide the scores"),
        (lambda q, k, v: scores(q, k, 1 / len(k.T)).softmax(1) @ v, "not by d"),
        (lambda q, k, v: (q @ k.T / len(k.T) ** 0.5).softmax(1).tril() @ v, "before the softmax"),
        (
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
            "matrix products and softmax",
        ),
    ],
    "grouped": [
        (
            lambda q, k, v: torch.stack(
                [attend_by_rows(t, k[h % len(k)], v[h % len(k)]) for h, t in enumerate(q)]
            ),
            "neighbors",
        ),
        (lambda q, k, v: torch.stack([attend_by_rows(t, k[0], v[0]) for t in q]), "group 0 now"),
    ],
    "absorbed": [
        (expanded, "the question allows 200"),
        (
            lambda q, c, up_key, up_value: up_value @ ((c @ (up_key.T @ q)).softmax(0) @ c),
            "divide the scores by √d",
        ),
        (
            lambda q, c, up_key, _: (c @ (up_key.T @ q) / len(q) ** 0.5).softmax(0) @ c,
            "V makes the value",
        ),
    ],
    "product_key": [
        (lambda a, b: len(a) * product_by_terms(a, b), "divide by the rank"),
        (lambda a, b: product_by_terms(b, a), "transposed"),
        (lambda a, b: torch.outer(a.mean(0), b.mean(0)), "product of means"),
    ],
    "slice_of_cube": [
        (slice_of_the_whole, "numbers; the question allows"),
        (lambda q, k, v, i: (k * q[i]) @ v.T, "both j and k"),
        (lambda q, k, v, i: slice_by_parts(q, k, v, i).T, "comes first"),
        (lambda q, k, v, i: slice_by_parts(q, k, v, i) * 0 + 1, "(k * q[i]) @ v.T"),
    ],
    "enough_rank": [(32, "full rank"), (1.5, "from the lowest rank")],
}
