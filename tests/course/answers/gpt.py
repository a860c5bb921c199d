"""Answers to the exercises of lesson 27."""

import math

import numpy as np
import torch
from torch.nn import functional as F

from tensorlab.multilinear import balanced_shape


def bits_by_numpy(logits, target):
    x = logits.numpy() - logits.numpy().max(1, keepdims=True)
    log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
    return -log_p[np.arange(len(x)), target.numpy()].mean() / np.log(2)


def bits_by_softmax(logits, target):
    return -torch.stack(
        [row.log_softmax(0)[t] for row, t in zip(logits, target)]
    ).mean() / math.log(2)


def probabilities(logits, target):
    return logits.softmax(1)[torch.arange(len(target)), target]


def pair(n):
    b = next(k for k in range(math.isqrt(n), 0, -1) if n % k == 0)
    return n // b, b


def svd_rank_by_trying(out, in_, budget):
    return max([1, *(r for r in range(1, budget) if r * out + r * in_ <= budget)])


def ttm_rank_by_trying(out, in_, budget):
    (a, b), (c, d) = pair(out), pair(in_)
    return max([1, *(r for r in range(1, budget) if a * r * c + b * r * d <= budget)])


def crossed(out, in_):
    (a, b), (c, d) = pair(out), pair(in_)
    return a * d + b * c


def rates(in_, rank, cores=2):
    a, b = pair(in_)
    return [in_ / (a * cores), in_ / (rank * b * cores)]


RIGHT = {
    "perplexity": [105, 105.42, 2**6.72],
    "bits": [bits_by_numpy, bits_by_softmax],
    "svd_rank": [svd_rank_by_trying],
    "ttm_rank": [ttm_rank_by_trying],
    "core_rates": [lambda out, in_, rank: rates(in_, rank)],
    "block_flops": [lambda w, t: 4 * w * (6 * w + t)],
}

WRONG = {
    "perplexity": [(2.3, "of a character"), (6.72, "bits of a word"), (math.exp(6.72), "base 2")],
    "bits": [
        (lambda x, t: bits_by_numpy(x, t) * math.log(2), "nats"),
        (lambda x, t: -bits_by_numpy(x, t), "sign"),
        (lambda x, t: -probabilities(x, t).mean().log2(), "mean of the logarithms"),
        (lambda x, t: -probabilities(x, t).log2().sum(), "not the sum"),
        (lambda x, t: F.cross_entropy(x, t) / math.log(2), "logsumexp"),
        (lambda x, t: -probabilities(x, t).log2().mean(), "logsumexp"),  # of huge logits: inf
    ],
    "svd_rank": [
        (lambda out, in_, budget: math.ceil(budget / (out + in_)), "round down"),
        (lambda out, in_, budget: budget // out, "second factor"),
        (lambda out, in_, budget: int(budget / (out + in_)), "at least rank 1"),
    ],
    "ttm_rank": [
        (svd_rank_by_trying, "of an SVD"),
        (lambda out, in_, budget: max(1, budget // (out * in_ + 1)), "no good split"),
        (lambda out, in_, budget: budget // crossed(out, in_), "pair the larger factors"),
        (lambda out, in_, budget: budget // (pair(out)[0] * pair(in_)[0]), "one core of two"),
        (
            lambda out, in_, budget: (
                budget // sum(a * b for a, b in zip(balanced_shape(out, 2), balanced_shape(in_, 2)))
            ),
            "trying them",
        ),
    ],
    "core_rates": [
        (lambda out, in_, rank: rates(in_, rank, 1), "number of cores"),
        (lambda out, in_, rank: rates(in_, 1), "r · in_2"),
        (lambda out, in_, rank: rates(out, rank), "split in, not out"),
        (lambda out, in_, rank: rates(in_, rank)[::-1], "first core comes first"),
    ],
    "block_flops": [
        (lambda w, t: 24 * w * w, "scores and sums"),
        (lambda w, t: 2 * w * (6 * w + t), "two FLOPs"),
    ],
    "ttm_share": [(100, "not at the numbers"), (20.5, "the sentence has")],
}
