"""Answers to the exercises of lesson 30."""

import math

import torch
from torch.nn.functional import gelu

from tensorlab.parallel import schedules


def by_the_package(rank, ranks, micro):
    return [op[:2] for op in schedules.one_f_one_b(ranks, micro)[rank]]


def one_f_one_b(rank, ranks, micro, most=lambda rank, ranks: ranks - rank):
    """Right by another way: a backward as soon as enough is held."""
    order, f, b = [], 0, 0
    while b < micro:
        if f < micro and f - b < most(rank, ranks):
            order.append(("F", f))
            f += 1
        else:
            order.append(("B", b))
            b += 1
    return order


def held(order):
    signs = torch.tensor([1 if kind == "F" else -1 for kind, _ in order])
    return int(signs.cumsum(0).max())


def finish(orders, seconds, again=200, back=True, alone=True):
    """Right by another way: ends grow until nothing changes, or go on for ever."""
    end = {(kind, i, s): 0 for s, order in enumerate(orders) for kind, i in order}
    for _ in range(again):
        old = dict(end)
        for s, order in enumerate(orders):
            before = 0
            for kind, i in order:
                other = (kind, i, s - 1 if kind == "F" else s + 1)
                needs = [before * alone] + [end.get(other, 0)] * (back or kind == "F")
                needs += [end["F", i, s]] if kind == "B" else []
                before = end[kind, i, s] = max(needs) + seconds[kind]
        if end == old:
            return max(end.values())
    return math.inf


def package_times(orders, seconds):
    ops = [[schedules.Op(kind, i, s) for kind, i in order] for s, order in enumerate(orders)]
    return schedules.times(ops, seconds).makespan


def column(u, v, x, p, ranks):
    n = len(u) // ranks
    return torch.einsum("bi,ir,or->bo", x, v, u[p * n : (p + 1) * n])


def term(first, second, x, p, ranks):
    n = len(second[1]) // ranks
    rows = slice(p * n, (p + 1) * n)
    return gelu(x @ first[1] @ first[0][rows].T) @ second[1][rows]


GPIPE = ("F0 F1 F2 B0 B1 B2", "F0 F1 F2 B0 B1 B2")

RIGHT = {
    "least_micro": [63, 63.0],
    "one_f_one_b": [
        one_f_one_b,
        by_the_package,
        lambda *case: " ".join(f"{kind}{i}" for kind, i in one_f_one_b(*case)),
    ],
    "held": [held],
    "finish": [finish],
    "own_order": [("F0 F1 B0 F2 B1 B2", "F0 B0 F1 B1 F2 B2")],
    "column": [column],
    "term": [term, lambda *case: term(*case).numpy()],
    "enough": [16, 16.0],
}

WRONG = {
    "least_micro": [(64, "<= 1/10"), (32, "rule of thumb")],
    "one_f_one_b": [
        (
            lambda rank, ranks, micro: [(k, i) for k in "FB" for i in range(micro)],
            "that is GPipe",
        ),
        (lambda *case: one_f_one_b(*case, most=lambda *_: 1), "only the last rank"),
        (lambda *case: one_f_one_b(*case, most=lambda rank, ranks: rank + 1), "the longest way"),
        (
            lambda *case: one_f_one_b(*case, most=lambda rank, ranks: ranks - rank + 1),
            "one micro-batch more than needed",
        ),
        (
            lambda rank, ranks, micro: (
                [
                    op
                    for n in range(micro - min(ranks - 1 - rank, micro))
                    for op in [
                        *(("F", i) for i in range(min(ranks - 1 - rank, micro)) if n == 0),
                        ("B", n),
                        ("F", min(ranks - 1 - rank, micro) + n),
                    ]
                ]
                + [("B", i) for i in range(micro - min(ranks - 1 - rank, micro), micro)]
            ),
            "in each pair the forward comes first",
        ),
        (lambda rank, ranks, micro: 7, "a list of pairs"),
    ],
    "held": [
        (lambda order: len(order) // 2, "lets go of one"),
        (lambda order: [kind for kind, _ in order].index("B"), "before the first backward"),
    ],
    "finish": [
        (lambda *case: finish(*case, back=False), "backward of the next rank"),
        (lambda *case: finish(*case, alone=False), "one thing at a time"),
        (package_times, "what you are to build"),
    ],
    "own_order": [
        (GPIPE, "both ranks hold three"),
        (("F0 B0 F1 B1 F2 B2",) * 2, "while it waits"),
        (("F0 B0 F1 B1", "F0 F1 B0 B1"), "deadlock"),
        (("F0 B0", "F0 B0"), "three micro-batches"),
    ],
    "column": [
        (lambda u, v, x, p, ranks: x @ v @ u.T, "whole of y"),
        (lambda u, v, x, p, ranks: x @ v @ u[p::ranks].T, "neighbors"),
    ],
    "term": [
        (lambda f, s, x, p, ranks: term(f, s, x, p, ranks) @ s[0].T, "as wide as z"),
        (lambda f, s, x, p, ranks: gelu(x @ f[1] @ f[0].T) @ s[1], "the whole sum"),
    ],
    "enough": [(14, "do not divide"), (28, "two chunks halve"), (12, "read the idle")],
}
