"""Answers to the exercises of lesson 23."""

import numpy as np
import torch

import tensorlab as tl


def step_by_projection(r):
    """Right by another way: the projection on the sign vector."""
    e = 2 * (r >= 0).to(r) - 1
    return (r @ e) / (e @ e) * e


def step_by_numpy(r):
    return np.where(r.numpy() < 0, -1, 1) * np.abs(r.numpy()).mean()


def greedy(r, Q, larger=True, turn=lambda r, Q: r @ Q, back=False):
    y, zero = turn(r, Q), torch.zeros_like(r)
    if (r.norm(p=1) >= y.norm(p=1)) == larger:
        return step_by_projection(r), zero
    dv = step_by_projection(y)
    return zero, Q @ dv if back else dv


def both(r, Q):
    return step_by_projection(r), step_by_projection(Q.T @ r)


def flat_sum(x, Q, steps, part=lambda du, dv, Q: du + Q @ dv):
    u, v, r = torch.zeros_like(x), torch.zeros_like(x), x.clone()
    for _ in range(steps):
        du, dv = greedy(r, Q)
        u, v, r = u + du, v + dv, r - part(du, dv, Q)
    return [u, v]


def by_the_package(x, Q, steps):
    found = list(tl.kashin_steps(x, method="greedy"))
    return found[steps].u, found[steps].v


def rotated(w, Q, levels):
    """By the middles between levels."""
    y, s = w @ Q, w.square().mean().sqrt()
    return s * Q @ levels[torch.bucketize(y / s, (levels[1:] + levels[:-1]) / 2)]


RIGHT = {
    "energy_left": [0.25, 3 / 12, torch.tensor(0.25)],
    "flat_step": [step_by_projection, step_by_numpy],
    "greedy_step": [greedy, lambda r, Q: list(greedy(r, Q))],
    "flat_sum": [flat_sum],
    "rotated": [rotated],
}

WRONG = {
    "energy_left": [(0.75, "which is gone"), (0.5, "share of the norm"), (3, "divide it by")],
    "flat_step": [
        (lambda r: r.sign() * r.abs().mean(), "counts as 1"),
        (lambda r: r.sign(), "needs its factor"),
    ],
    "greedy_step": [
        (lambda r, Q: greedy(r, Q, larger=False), "smaller 1-norm"),
        (lambda r, Q: greedy(r, Q, turn=lambda r, Q: Q @ r), "not Q r"),
        (lambda r, Q: greedy(r, Q, back=True), "in its own basis"),
        (both, "one side at a time"),
        (lambda r, Q: greedy(r, Q)[0], "two vectors of shape"),
    ],
    "flat_sum": [
        (lambda x, Q, n: flat_sum(x, Q, n, lambda du, dv, Q: du + dv), "Q dv"),
        (lambda x, Q, n: flat_sum(x, Q, n, lambda du, dv, Q: 0 * du), "stays the same"),
        (lambda x, Q, n: flat_sum(x, Q, n + 1), "one step too many"),
        (lambda x, Q, n: flat_sum(x, Q, n)[::-1], "u comes first"),
        (by_the_package, "what you are to build"),
    ],
    "rotated": [
        (lambda w, Q, levels: tl.quantize(w[None], 2).to_dense()[0], "where this goes"),
        (lambda w, Q, levels: w, "the nearest level"),
    ],
    "tails_ratio": [(0.7, "other way round")],
}
