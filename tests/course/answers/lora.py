"""Answers to the exercises of lesson 16."""

import numpy as np
import torch


def forward_merged(x, w, a, b, alpha):
    return x @ (w + alpha / len(a) * b @ a).T


def forward_by_numpy(x, w, a, b, alpha):
    x, w, a, b = (t.numpy() for t in (x, w, a, b))
    return x @ w.T + (alpha / a.shape[0]) * np.einsum("ni,ri,or->no", x, a, b)


def gradients_by_autograd(x, a, b, alpha, dy):
    """Right by another way; the frozen part adds nothing."""
    a, b = (t.clone().requires_grad_() for t in (a, b))
    return torch.autograd.grad(((x @ a.T) @ b.T * alpha / len(a) * dy).sum(), (a, b))


def gradients(x, a, b, alpha, dy):
    g = dy.T @ x
    return [alpha / len(a) * b.T @ g, alpha / len(a) * g @ a.T]


def scaled(of_a, of_b):
    return lambda x, a, b, alpha, dy: (
        gradients(x, a, b, alpha, dy)[0] * of_a(alpha / len(a)),
        gradients(x, a, b, alpha, dy)[1] * of_b(alpha / len(a)),
    )


def same(s):
    return 1


def undone(s):
    return 1 / s


def merge_by_terms(w, a, b, alpha):
    return w + sum(torch.outer(b[:, k], a[k]) for k in range(len(a))) * alpha / len(a)


def dora_by_rows(w, a, b, alpha, m):
    v = merge_by_terms(w, a, b, alpha)
    return torch.stack([length * row / row.square().sum().sqrt() for length, row in zip(m, v)])


RIGHT = {
    "lora_numbers": [30720, 30720.0],
    "lora_forward": [forward_merged, forward_by_numpy],
    "lora_gradients": [gradients_by_autograd, gradients],
    "lora_merge": [merge_by_terms],
    "dora_weight": [dora_by_rows],
}

WRONG = {
    "lora_numbers": [(6144, "A alone"), (2359296, "frozen")],
    "lora_forward": [
        (lambda x, w, a, b, alpha: forward_merged(x, w, a, b, len(a)), "scale is missing"),
        (lambda x, w, a, b, alpha: forward_merged(x, 0 * w, a, b, alpha), "frozen layer"),
    ],
    "lora_gradients": [
        (scaled(undone, undone), "the scale alpha / r is missing"),
        (scaled(undone, same), "gradient of A has the scale"),
        (scaled(same, undone), "gradient of B has the scale"),
        (lambda x, *rest: [g / len(x) for g in gradients(x, *rest)], "divide by the batch"),
        (lambda *case: gradients(*case)[::-1], "has the shape of A"),
        (lambda *case: gradients(*case)[0], "two tensors"),
    ],
    "lora_merge": [
        (lambda w, a, b, alpha: w + b @ a, "scale alpha / r"),
        (lambda w, a, b, alpha: merge_by_terms(0 * w, a, b, alpha), "frozen weight"),
    ],
    "dora_weight": [
        (lambda w, a, b, alpha, m: merge_by_terms(w, a, b, alpha), "LoRA's weight"),
        (lambda w, a, b, alpha, m: m[:, None] * merge_by_terms(w, a, b, alpha), "divide each row"),
    ],
    "rank_of_change": [(64, "size of the layer")],
    "enough_rank": [(1, "play to the end"), (32, "play to the end")],
}
