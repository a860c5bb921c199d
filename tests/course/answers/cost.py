"""Answers to the exercises of lesson 29."""

import math

import numpy as np
import torch
from lesson_files import Computed

import tensorlab as tl
from tensorlab.course.lessons.cost import SHARE, first_above
from tensorlab.methods.galore import leading_basis


def adam_one_by_one(shapes, itemsize):
    held = [torch.empty(shape, device="meta") for shape in shapes for _ in range(4)]
    return sum(t.numel() * itemsize for t in held)


def kept_by_numpy(tokens, sides, itemsize):
    return sum(np.empty((tokens, side), dtype=f"f{itemsize}").nbytes for side in sides[:-1])


def basis_by_gram(g, rank):
    """Right by another way, and its columns have other signs."""
    return -torch.linalg.eigh(g @ g.T)[1][:, -rank:]


def basis_by_numpy(g, rank):
    return np.linalg.svd(g.numpy())[0][:, :rank]


def galore_by_adam(w, g, p, first, second, t, lr):
    """torch's Adam on the projected parameter."""
    low = torch.nn.Parameter(torch.zeros_like(first))
    adam = torch.optim.Adam([low], lr)
    low.grad = p.T @ g
    step = torch.tensor(t - 1.0)
    adam.state[low] = {"step": step, "exp_avg": first.clone(), "exp_avg_sq": second.clone()}
    adam.step()
    state = adam.state[low]
    return w + p @ low.detach(), state["exp_avg"], state["exp_avg_sq"]


def galore(w, g, p, first, second, t, lr, corrected=True, power=2, root=True, sign=1):
    r = p.T @ g
    first, second = 0.9 * first + 0.1 * r, 0.999 * second + 0.001 * abs(r) ** power
    m, v = (first / (1 - 0.9**t), second / (1 - 0.999**t)) if corrected else (first, second)
    return w - sign * lr * p @ (m / ((v**0.5 if root else v) + 1e-8)), first, second


def ranks_by_library(gradients, rtol):
    return [
        tl.LowRank.from_dense(torch.stack(gradients[: k + 1]).sum(0), rtol=rtol).ranks[0]
        for k in range(len(gradients))
    ]


def ranks(gradients, rtol, total=True, rule=None):
    rule = rule or (lambda s, r: s[r:].norm() <= rtol * s.norm())
    found = []
    for k, g in enumerate(gradients):
        s = torch.linalg.svdvals(sum(gradients[: k + 1]) if total else g)
        found.append(next((r for r in range(len(s)) if rule(s, r)), len(s)))
    return found


def energy(factor, said="joules, {watts:g} W assumed"):
    def answer(weights, tokens, rate, watts):
        return factor(weights * tokens, rate, watts), said.format(watts=watts)

    return answer


RIGHT = {
    "break_even": [801.0, torch.tensor(801)],
    "adam_bytes": [adam_one_by_one, lambda shapes, b: float(4 * b * sum(map(math.prod, shapes)))],
    "kept_bytes": [kept_by_numpy],
    "gradient_basis": [basis_by_gram, basis_by_numpy],
    "galore_step": [galore, galore_by_adam],
    "sum_ranks": [ranks, ranks_by_library],
    "training_joules": [energy(lambda n, rate, watts: 6 * n * watts / rate)],
    "crossing": [Computed(lambda: float(first_above(SHARE)))],
}

WRONG = {
    "break_even": [
        (192, "store as much"),
        (768, "for each of the 94"),
        (1569, "not free"),
        (800, "one less"),
        (3203, "Adam's averages are not there"),
        (94, "m n - r (m + n)"),
    ],
    "adam_bytes": [
        (lambda shapes, b: 4 * sum(map(math.prod, shapes)), "times their bytes"),
        (lambda shapes, b: 2 * b * sum(map(math.prod, shapes)), "two of the four"),
        (lambda shapes, b: 3 * b * sum(map(math.prod, shapes)), "three of the four"),
        (lambda shapes, b: 4 * b * sum(map(sum, shapes)), "not their sum"),
    ],
    "kept_bytes": [
        (lambda t, sides, b: t * sum(sides) * b, "the last output"),
        (lambda t, sides, b: t * sides[0] * b, "in the middle"),
        (lambda t, sides, b: t * sum(sides[1:]) * b, "outputs"),
        (lambda t, sides, b: sum(sides[:-1]) * b, "one token"),
        (lambda t, sides, b: t * sum(sides[:-1]), "not bytes"),
    ],
    "gradient_basis": [
        (lambda g, rank: torch.linalg.svd(g)[2][:rank].T, "right singular vectors"),
        (lambda g, rank: torch.linalg.svd(g)[0][:, -rank:], "the last ones"),
        (lambda g, rank: torch.linalg.svd(g)[0], "all of them"),
        (
            lambda g, rank: torch.linalg.svd(g)[0][:, :rank] * torch.linalg.svdvals(g)[:rank],
            "the length one",
        ),
        (lambda g, rank: torch.linalg.svd(g)[0][:, 0], "has 1 modes"),
        (leading_basis, "write it from torch.linalg.svd"),
    ],
    "galore_step": [
        (lambda *case: galore(*case, corrected=False), "begin at zero"),
        (lambda *case: galore(*case, power=1), "of squares"),
        (lambda *case: galore(*case, root=False), "the root"),
        (lambda *case: galore(*case, sign=-1), "against the gradient"),
        (lambda *case: galore(*case)[0], "three tensors"),
        (lambda w, g, p, m, v, t, lr: (w, p @ m, p @ v), "only the averages are low"),
    ],
    "sum_ranks": [
        (lambda gradients, rtol: ranks(gradients, rtol, total=False), "one by one"),
        (
            lambda gradients, rtol: ranks(gradients, rtol, rule=lambda s, r: s[r] <= rtol * s[0]),
            "the *tail* with the norm",
        ),
        (
            lambda gradients, rtol: ranks(
                gradients, rtol, rule=lambda s, r: s[r:].norm() ** 2 <= rtol * s.norm() ** 2
            ),
            "not their squares",
        ),
        (lambda gradients, rtol: ranks(gradients, rtol)[-1:], "one rank for each step"),
        (
            lambda gradients, rtol: [b for _, b in tl.gradient_ranks(gradients, rtol=rtol)],
            "write it from torch.linalg.svdvals",
        ),
    ],
    "training_joules": [
        (energy(lambda n, rate, watts: 2 * n * watts / rate), "forward pass alone"),
        (energy(lambda n, rate, watts: 3 * n * watts / rate), "are two operations"),
        (energy(lambda n, rate, watts: 6 * n / rate), "those are seconds"),
        (energy(lambda n, rate, watts: 6 * n * watts), "no seconds"),
        (energy(lambda n, rate, watts: 6 * n * watts / rate, "joules"), "W were assumed"),
        (lambda weights, tokens, rate, watts: 6 * weights * tokens / rate * watts, "a sentence"),
    ],
    "crossing": [
        (Computed(lambda: first_above(SHARE) - 1), "still below"),
        (16, "before that"),
        (1, "at batch 1"),
    ],
}
