"""Answers to the exercises of lesson 08."""

import functools
import math

import numpy as np
import torch

import tensorlab as tl


def right_vectors(cores, scale=True, kept=slice(None)):
    """In NumPy, from the right."""
    found = [np.ones(1)]
    for core in cores[::-1]:
        z = np.einsum("rnq,q->r", core.numpy()[:, kept], found[-1])
        found.append(z / z.sum() if scale else z)
    return found[::-1]


def conditional(v, core, z):
    p = torch.stack([v @ core[:, i] @ z for i in range(core.shape[1])])
    return p / p.sum()


def without_a_row(v, core, z):
    return conditional(torch.ones_like(v), core, z)


def draw(cores, u, ahead=1, keep=True, end=False):
    z, v, found = right_vectors(cores), torch.ones(1).double(), []
    for k, core in enumerate(cores):
        p = conditional(
            v, core, torch.as_tensor(z[k + 1]) if ahead else torch.ones(core.shape[2]).double()
        )
        chance = 1 - float(u[k]) if end else float(u[k])
        i = min(int(np.searchsorted(np.cumsum(p.numpy()), chance, "right")), len(p) - 1)
        found.append(i)
        v = v @ (core[:, i] if keep else core.sum(1))
        v = v / v.norm()
    return found


def log_probability(cores, index):
    """The logarithm of the entry less that of the sum, both with the sizes added up."""
    logs = []
    for of in (lambda core, i: core[:, i], lambda core, i: core.sum(1)):
        v, log = torch.ones(1).double(), 0.0
        for core, i in zip(cores, index):
            v = v @ of(core, i)
            log, v = log + math.log(float(v.sum())), v / v.sum()
        logs.append(log)
    return logs[0] - logs[1]


def entry(cores, index):
    return functools.reduce(torch.matmul, [c[:, i] for c, i in zip(cores, index)])


RIGHT = {
    "born_marginal": [20 / 30, 0.667, 2 / 3],
    "right_vectors": [
        right_vectors,
        lambda cores: tuple(torch.as_tensor(z) for z in right_vectors(cores)),
    ],
    "conditional": [conditional],
    "draw": [draw, lambda cores, u: torch.tensor(draw(cores, u))],
    "log_probability": [log_probability],
    "far_order": [math.atanh(0.5 ** (1 / 7)), 1.5],
}

WRONG = {
    "born_marginal": [
        (0.6, "their squares are the weights"),
        (36 / 52, "before they are squared"),
        (16 / 30, "one entry"),
        (20, "not yet divided"),
    ],
    "right_vectors": [
        (lambda cores: right_vectors(cores, scale=False), "divided by its sum"),
        (lambda cores: right_vectors(cores, kept=slice(1)), "index 0 only"),
        (lambda cores: right_vectors(cores)[1:], "a list of"),
        (lambda cores: [z[:1] for z in right_vectors(cores)], "vectors of the sizes"),
        (lambda cores: tl.tt_environments(tl.TT(cores)).right, "what you are to build"),
    ],
    "conditional": [
        (without_a_row, "drawn before is left out"),
        (lambda v, core, z: conditional(v, core, torch.ones_like(z)), "comes after this mode"),
        (lambda v, core, z: v @ (core @ z), "not yet divided"),
    ],
    "draw": [
        (lambda cores, u: draw(cores, u, ahead=0), "do not look ahead"),
        (lambda cores, u: draw(cores, u, keep=False), "is forgotten"),
        (lambda cores, u: draw(cores, u, end=True), "from the other end"),
        (lambda cores, u: tl.tt_sample(tl.TT(cores), 1)[0], "what you are to build"),
    ],
    "log_probability": [
        (lambda cores, index: entry(cores, index).log()[0, 0], "not yet divided by the sum"),
        (lambda cores, index: math.exp(log_probability(cores, index)), "without the logarithm"),
        (lambda cores, index: tl.tt_log_prob(tl.TT(cores), [index])[0], "what you are to build"),
    ],
    "far_order": [(0.549, "for a neighbor"), (-1.503, "a positive coupling"), (3, "last bar")],
}
