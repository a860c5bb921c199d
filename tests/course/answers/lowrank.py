"""Answers to the exercises of lesson 01."""

import numpy as np
import torch

import tensorlab as tl


def svd(a):
    """By one-sided Jacobi rotations: no SVD and no eigenvalues are called."""
    u, v = a.clone(), torch.eye(a.shape[1], dtype=a.dtype)
    for _ in range(30):
        for p in range(a.shape[1]):
            for q in range(p + 1, a.shape[1]):
                x, y = u[:, p] @ u[:, q], u[:, p].square().sum() - u[:, q].square().sum()
                t = 0.5 * torch.atan2(2 * x, y)
                turn = torch.stack([t.cos(), -t.sin(), t.sin(), t.cos()]).reshape(2, 2)
                u[:, [p, q]], v[:, [p, q]] = u[:, [p, q]] @ turn, v[:, [p, q]] @ turn
    s = u.norm(dim=0)
    order = s.argsort(descending=True)[: min(a.shape)]
    return u[:, order] / s[order], s[order], v[:, order]


def leading(a, k=0):
    u, s, v = svd(a)
    return u[:, k], s[k], v[:, k]


def leading_by_numpy(a):
    a, v = a.numpy(), np.arange(1.0, a.shape[1] + 1)
    for _ in range(200):
        v = a.T @ (a @ v)
        v /= np.linalg.norm(v)
    return a @ v / np.linalg.norm(a @ v), float(np.linalg.norm(a @ v)), v


def one_step(a):
    v = a.T @ a.new_ones(len(a))
    v = v / v.norm()
    return a @ v / (a @ v).norm(), (a @ v).norm(), v


def peel(a, r):
    u, s, v = svd(a)
    return u[:, :r], s[:r], v[:, :r]


def the_same_again(a, r):
    u, s, v = leading(a)
    return u[:, None].expand(-1, r), s.expand(r), v[:, None].expand(-1, r)


def left_over(a, r):
    u, s, v = svd(a)
    return u[:, r:], s[r:], v[:, r:]


def shrink_by(enough, power=0.5, more=0):
    """Factors by a rule for the rank."""

    def shrink(a, rtol):
        u, s, v = svd(a)
        r = next(r for r in range(1, len(s) + 1) if r == len(s) or enough(s, r, rtol)) + more
        r = min(r, len(s))
        return u[:, :r] * s[:r] ** power, v[:, :r] * s[:r] ** power

    return shrink


def whole_tail(s, r, rtol):
    return s[r:].norm() <= rtol * s.norm()


def unbalanced(a, rtol):
    u, v = shrink_by(whole_tail)(a, rtol)
    return (3 * u).numpy(), (v / 3).numpy()


RIGHT = {
    "truncation_error": [0.316, 0.32, torch.tensor(0.1).sqrt()],
    "leading": [
        leading,
        leading_by_numpy,
        lambda a: [-leading(a)[0], leading(a)[1], -leading(a)[2]],
    ],
    "peel": [peel],
    "shrink": [shrink_by(whole_tail), unbalanced],
    "multiply": [lambda u, v, x: torch.einsum("ir,r->i", u, x @ v)],
    "break_even": [119, 119.0],
}

WRONG = {
    "truncation_error": [(0.1, "square root"), (5**0.5, "divide by the norm"), (0.25, "add as")],
    "leading": [
        (lambda a: leading(a, -1), "smallest"),
        (lambda a: (-leading(a)[0], *leading(a)[1:]), "the sign is wrong"),
        (lambda a: (leading(a)[0], leading(a)[1] ** 2, leading(a)[2]), "s is squared"),
        (one_step, "after one step"),
        (lambda a: torch.linalg.svd(a)[0], "an SVD is what you are to build"),
        (lambda a: (2 * leading(a)[0], leading(a)[1] / 2, leading(a)[2]), "norm 1"),
        (lambda a: leading(a)[1], "u (m,), s and v (n,)"),
    ],
    "peel": [
        (the_same_again, "the first one again"),
        (lambda a, r: peel(a, r + 1), "one term too many"),
        (lambda a, r: peel(a, r - 1), "the last term is missing"),
        (left_over, "what is left of a"),
        (lambda a, r: torch.linalg.svd(a)[:2], "an SVD is what you are to build"),
    ],
    "shrink": [
        (shrink_by(lambda s, r, rtol: s[r] <= rtol * s.norm()), "the next singular value alone"),
        (shrink_by(lambda s, r, rtol: s[r:].norm() <= rtol), "rtol is relative"),
        (
            shrink_by(lambda s, r, rtol: s[r:].square().sum() <= rtol * s.square().sum()),
            "share of the energy",
        ),
        (shrink_by(whole_tail, more=1), "one rank less"),
        (shrink_by(whole_tail, power=0.0), "are missing"),
        (shrink_by(whole_tail, power=1.0), "in both factors"),
        (lambda a, rtol: tl.LowRank.from_dense(a, rtol=rtol).tensors(), "use your `peel`"),
    ],
    "multiply": [
        (lambda u, v, x: (u @ v.T) @ x, "forms a tensor"),
        (lambda u, v, x: v @ (u.T @ x), "that is the transpose"),
        (lambda u, v, x: (u * (v.T @ x)).flatten(), "have to be added"),
    ],
    "break_even": [(120, "just as many"), (200, "full matrix"), (60000, "r (m + n)")],
    "photo_rank": [(300, "move `terms`")],
}
