"""Answers to the exercises of lesson 26."""

import math

import numpy as np
import torch
from lesson_files import Computed

from tensorlab.course.lessons import compress as lesson


def forecast_by_loop(alone):
    cosine = 1.0
    for d in alone.tolist():
        cosine *= max(0.0, 1 - d / 2)
    return 2 - 2 * cosine


def row_by_conditional_means(z, h, levels):
    """Right by another way: what is left takes its best value given what has been rounded."""
    z, h, levels = z.numpy().copy(), h.numpy(), levels.numpy()
    q = np.zeros_like(z)
    for k in range(len(z)):
        q[k] = levels[np.abs(levels - z[k]).argmin()]
        rest = slice(k + 1, None)
        if k + 1 < len(z):
            # The least eᵀ H e with e_k = z_k - q_k fixed: e_rest = -H_rr⁻¹ H_rk e_k.
            z[rest] += np.linalg.solve(h[rest, rest], h[rest, k]) * (z[k] - q[k])
    return q


def row(z, h, levels, sign=1.0, factor=None, scaled=True):
    z, q = z.clone(), torch.zeros_like(z)
    u = torch.linalg.cholesky(h.inverse()).T if factor is None else factor(h)
    for k in range(len(z)):
        q[k] = levels[(levels - z[k]).abs().argmin()]
        e = (z[k] - q[k]) / (u[k, k] if scaled else 1)
        z[k + 1 :] -= sign * e * u[k, k + 1 :]
    return q


def plain_row(z, h, levels):
    return torch.stack([levels[(levels - v).abs().argmin()] for v in z])


def ranks_one_by_one(spectra, costs, budget, gain=lambda s, c: s * s / c, skip=False):
    ranks, spent, closed = [0] * len(costs), 0, set()
    while True:
        left = [k for k in range(len(costs)) if ranks[k] < len(spectra[k]) and k not in closed]
        if not left:
            return ranks
        k = max(left, key=lambda k: float(gain(spectra[k][ranks[k]], costs[k])))
        if spent + costs[k] > budget:
            if not skip:
                return ranks
            closed.add(k)
            continue
        ranks[k], spent = ranks[k] + 1, spent + costs[k]


def choose_by_numpy(tables, budget, worth=lambda loss, saved: loss / saved):
    tables = [t.numpy() for t in tables]
    at = np.zeros(len(tables), int)
    while sum(t[i, 0] for t, i in zip(tables, at)) > budget:
        best = (math.inf, 0, 0)
        for k, t in enumerate(tables):
            saved, loss = t[at[k], 0] - t[:, 0], t[:, 1] - t[at[k], 1]
            for i in np.flatnonzero(saved > 0):
                best = min(best, (worth(loss[i], saved[i]), k, i))
        at[best[1]] = best[2]
    return at


def equal_shares(tables, budget):
    share = budget / sum(float(t[0, 0]) for t in tables)
    pick = lambda t: min((float(loss), i) for i, (b, loss) in enumerate(t) if b <= share * t[0, 0])
    return [pick(t)[1] for t in tables]


RIGHT = {
    "ten_layers": [0.803, 0.8025, 2 - 2 * 0.95**10],
    "forecast": [forecast_by_loop],
    "round_row": [row, row_by_conditional_means],
    "greedy_ranks": [ranks_one_by_one],
    "choose": [choose_by_numpy],
}

WRONG = {
    "ten_layers": [
        (1, "that is the sum"),
        (2 * (1 - 0.9**10), "half of each"),
        (1 - 0.95**10, "twice that"),
        (0.1, "one layer"),
    ],
    "forecast": [
        (lambda alone: float(alone.sum()), "no saturation"),
        (lambda alone: 1 - (1 - alone).prod(), "divide each change"),
        (lambda alone: 2 * (1 - (1 - alone / 2).prod()), "no factor is below 0"),
        (lambda alone: (1 - alone / 2).prod(), "cosine"),
    ],
    "round_row": [
        (plain_row, "by itself"),
        (lambda z, h, levels: row(z, h, levels, sign=-1), "added up"),
        (
            lambda z, h, levels: row(z, h, levels, factor=lambda h: torch.linalg.cholesky(h).T),
            "of H",
        ),
        (lambda z, h, levels: row(z, h, levels, scaled=False), "divide the error"),
        (
            lambda z, h, levels: row(
                z, h, levels, factor=lambda h: torch.linalg.cholesky(h.inverse())
            ),
            "by itself",
        ),
    ],
    "greedy_ranks": [
        (lambda *case: ranks_one_by_one(*case, gain=lambda s, c: s * s), "divide by what"),
        (lambda *case: ranks_one_by_one(*case, gain=lambda s, c: s / c), "are squares"),
        (lambda *case: ranks_one_by_one(*case, skip=True), "stop at the first"),
        (lambda spectra, costs, budget: [budget // sum(costs)] * 2, "those ranks are uniform"),
    ],
    "choose": [
        (lambda t, b: choose_by_numpy(t, b, lambda loss, saved: loss), "divide what is lost"),
        (lambda t, b: choose_by_numpy(t, b, lambda loss, saved: -saved), "at a time"),
        (equal_shares, "the same share"),
    ],
    "least_kept": [
        (Computed(lambda: lesson._least_kept("kfac")), "choose svd"),
        (Computed(lambda: lesson._least_kept("svd") + 10), "ten less"),
        (Computed(lambda: lesson._least_kept("svd") / 100), "in percent"),
    ],
}
