"""Answers to the exercises of lesson 18."""

import numpy as np
import torch

import tensorlab as tl


def kept_by_topk(scores, share, largest=False):
    """Right by another way; `largest` lets the wrong end fall."""
    falls = round(share * scores.numel())
    mask = torch.ones(scores.numel())
    mask[scores.flatten().topk(falls, largest=largest).indices] = 0
    return mask.view_as(scores)


def kept_by_numpy(scores, share):
    s = scores.numpy()
    falls = round(share * s.size)
    return s > np.sort(s, axis=None)[falls - 1] if falls else np.ones_like(s)


def blocks(w, share, b, how=torch.square):
    """By a loop over the blocks."""
    cut = {
        (i, j): float(how(w[i : i + b, j : j + b]).sum())
        for i in range(0, len(w), b)
        for j in range(0, w.shape[1], b)
    }
    mask = torch.ones_like(w)
    for i, j in sorted(cut, key=cut.get)[: round(share * len(cut))]:
        mask[i : i + b, j : j + b] = 0
    return mask


def by_the_package(w, share, b):
    layer = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
    layer.weight = torch.nn.Parameter(w)
    return tl.block_masks(torch.nn.Sequential(layer), "0", share, (b, b))["0"]


def threshold(w, m, p, of=lambda m: int(m.sum())):
    """By a threshold among those that are left."""
    left = w[m > 0].abs().sort().values
    falls = round(p * of(m))
    return m * (w.abs() >= left[falls])


def ticket(w0, train, p, rounds, rewind=True):
    m, w = torch.ones_like(w0), w0
    for _ in range(rounds):
        w = train(m * (w0 if rewind else w), m)
        m = threshold(w, m, p)
    return m


RIGHT = {
    "lottery_left": [0.328, 0.32768],
    "kept": [kept_by_topk, kept_by_numpy],
    "block_mask": [blocks],
    "next_mask": [threshold],
    "ticket": [ticket, lambda *case: ticket(*case).bool()],
    "cost_of_a_ticket": [(1 - 0.8**6) / 0.2],
}

WRONG = {
    "lottery_left": [(0.672, "has fallen"), (0.262, "count the rounds"), (0, "not of the whole")],
    "kept": [
        (lambda s, share: kept_by_topk(s, share, largest=True), "the largest have fallen"),
        (lambda s, share: kept_by_topk(s, 1 - share), "the share that stays"),
        (lambda s, share: s > share * s.max(), "a threshold on the size"),
    ],
    "block_mask": [
        (lambda w, share, b: blocks(w, share, b, how=lambda t: t), "two signs"),
        (lambda w, share, b: blocks(w, share, 1), "these are entries"),
        (by_the_package, "build it from your `kept`"),
    ],
    "next_mask": [
        (lambda w, m, p: kept_by_topk(w.abs(), p), "has come back"),
        (lambda w, m, p: threshold(w, m, p, of=lambda m: m.numel()), "not of all"),
        (lambda w, m, p: m * kept_by_topk(w.abs(), p), "count no more"),
    ],
    "ticket": [
        (lambda *case: ticket(*case, rewind=False), "begins with w0 again"),
        (lambda w0, train, p, rounds: ticket(w0, train, p, rounds + 1), "one round too many"),
        (lambda w0, train, p, rounds: ticket(w0, lambda w, m: w, p, rounds), "is trained before"),
    ],
    "cost_of_a_ticket": [(6, "multiplies with the zeros"), (0.328, "the last training alone")],
    "bearable": [(0.7, "one step further"), (0.25, "entries bear more")],
}
