"""Answers to the exercises of lesson 07."""

import numpy as np
import torch

import tensorlab as tl


def gauge(u, d):
    """By the projector, which is m by m."""
    return (torch.eye(len(u)).double() - u @ u.T) @ d


def tangent_by_parts(u, v, z):
    """The sum of three orthogonal parts."""
    both = u @ (u.T @ z @ v) @ v.T
    return both + gauge(u, z @ v) @ v.T + u @ gauge(v, z.T @ u).T


def tangent_by_lost(u, v, z):
    return z - gauge(u, gauge(v, z.T).T)


def twice_counted(u, v, z):
    return u @ (u.T @ z) + (z @ v) @ v.T


def back(y, r):
    """By the eigenvectors of y yᵀ."""
    q = np.linalg.eigh(y.numpy() @ y.numpy().T)[1][:, ::-1][:, :r]
    return q @ (q.T @ y.numpy())


def riemannian_step(x, z, t, r, project=tangent_by_parts, cut=tl.LowRank.from_dense):
    u, _, vh = torch.linalg.svd(x)
    y = cut(x - t * project(u[:, :r], vh[:r].T, z), r)
    return y if isinstance(y, torch.Tensor) else y.to_dense()


def complete(y, mask, r, steps, length=None, seen=True):
    x = torch.as_tensor(back(mask * y, r))
    for _ in range(steps):
        z = (x - y) * mask if seen else x - y
        u, _, vh = torch.linalg.svd(x)
        v = tangent_by_lost(u[:, :r], vh[:r].T, z)
        t = length or (z * v).sum() / (mask * v).norm() ** 2
        x = riemannian_step(x, z, t, r)
    return x


RIGHT = {
    "degrees_of_freedom": [6 * 3 + 3 * 7 * 4 + 4 * 8 * 2 + 2 * 5 - 9 - 16 - 4, 147.0],
    "gauge": [gauge],
    "tangent_projection": [tangent_by_parts, tangent_by_lost],
    "back": [back, lambda y, r: tl.LowRank.from_dense(y, r).to_dense()],
    "riemannian_step": [riemannian_step],
    "complete": [complete],
    "saddle": [115, 115.0, torch.tensor(115)],
}

WRONG = {
    "degrees_of_freedom": [(176, "stored numbers"), (167, "not a diagonal"), (1680, "entries of")],
    "gauge": [
        (lambda u, d: u @ (u.T @ d), "part to take away"),
        (lambda u, d: u.T @ d, "the shape should be"),
    ],
    "tangent_projection": [
        (twice_counted, "counted twice"),
        (lambda u, v, z: gauge(v, gauge(u, z).T).T, "normal to the tangent space"),
        (
            lambda u, v, z: tl.tt_project(tl.TT((u[None], v.T[..., None])), z).to_tt().to_dense(),
            "use your `gauge`",
        ),
    ],
    "back": [
        (lambda y, r: y, "all of its rank"),
        (lambda y, r: y[:, :r], "the shape should be"),
    ],
    "riemannian_step": [
        (lambda x, z, t, r: riemannian_step(x, z, -t, r), "uphill"),
        (lambda x, z, t, r: riemannian_step(x, z, t, r, lambda u, v, z: z), "not projected"),
        (
            lambda x, z, t, r: riemannian_step(x, z, t, r, cut=lambda y, r: y),
            "still on the tangent plane",
        ),
        (
            lambda x, z, t, r: tl.formats.tt_manifold.retract(
                tl.tt_project(tl.tt_svd(x, r), z), -t
            ).to_dense(),
            "is for trains",
        ),
    ],
    "complete": [
        (lambda y, mask, r, steps: complete(y, mask, r, steps, seen=False), "outside of the mask"),
        (lambda y, mask, r, steps: complete(y, mask, r, steps, length=1.0), "is always 1"),
        (lambda y, mask, r, steps: complete(y, mask, r, max(0, steps - 1)), "one step too few"),
        (
            lambda y, mask, r, steps: tl.tt_complete(
                mask.nonzero(), y[mask == 1], y.shape, r
            ).value.to_dense(),
            "is what you are to build",
        ),
    ],
    "saddle": [(25, "there f is the least"), (90, "falls on x itself")],
}
