"""Answers to the exercises of lesson 17."""

import numpy as np
import torch

import tensorlab as tl


def nearest_by_eigenvectors(w, r):
    """Right by another way: project the rows on the leading eigenvectors of wᵀ w."""
    v = torch.linalg.eigh(w.T @ w)[1][:, -r:]
    return w @ v @ v.T


def nearest_by_numpy(w, r):
    u, s, vh = np.linalg.svd(w.numpy())
    return u[:, :r] @ np.diag(s[:r]) @ vh[:r]


def step(w, gradient, z, u, rho, h, sign=1, half=1.0):
    """By autograd of the spring."""
    x = w.clone().requires_grad_()
    (half * rho / 2 * (x - z + sign * u).square().sum()).backward()
    return w - h * (gradient(w) + x.grad)


def ended(w, u, r, what=lambda w, u: w + u, old=1):
    z = nearest_by_eigenvectors(what(w, u), r)
    return [z, old * u + w - z]


def admm(scaled=True, twin=True, count=None, dense=False):
    """In terms of the multiplier y = ρ U, which stays where ρ changes."""

    def run(w, gradient, r, rhos, steps, h):
        z, y = nearest_by_eigenvectors(w, r), torch.zeros_like(w)
        for k, rho in enumerate(rhos):
            if not scaled and k:
                y = y * rho / rhos[k - 1]
            for _ in range(count or steps):
                w = w - h * (gradient(w) + rho * (w - z) + y)
            z = nearest_by_eigenvectors(w + y / rho, r)
            y = y + rho * (w - z) if twin else y
        return w if dense else z

    return run


RIGHT = {
    "primal_by_hand": [0.316, torch.tensor(0.1).sqrt()],
    "nearest": [nearest_by_eigenvectors, nearest_by_numpy],
    "w_step": [step],
    "admm_round": [ended],
    "admm": [admm()],
    "smallest_rho": [0.8],
    "enough_rank": [3, 3.0],
}

WRONG = {
    "primal_by_hand": [(1, "divide by the norm"), (0.1, "not their squares"), (0.9, "keeps")],
    "nearest": [
        (lambda w, r: w, "nothing has been cut"),
        (lambda w, r: tl.LowRank.from_dense(w, r).to_dense(), "torch.linalg.svd"),
        (lambda w, r: w[:, :r], "the shape should be"),
    ],
    "w_step": [
        (lambda *case: step(*case, sign=-1), "W goes to Z - U"),
        (lambda *case: step(*case, half=2), "cancels the half"),
        (lambda w, gradient, z, u, rho, h: w - h * gradient(w), "the loss alone"),
    ],
    "admm_round": [
        (lambda w, u, r: ended(w, u, r, what=lambda w, u: w), "of no use"),
        (lambda w, u, r: ended(w, u, r, old=0), "a sum over the rounds"),
        (lambda w, u, r: ended(w, u, r)[::-1], "Z comes first"),
        (lambda w, u, r: ended(w, u, r)[0], "two matrices"),
    ],
    "admm": [
        (admm(scaled=False), "divided by the new one"),
        (admm(twin=False), "renewed in each round"),
        (admm(count=1), "not one"),
        (admm(dense=True), "lies in the set"),
    ],
    "smallest_rho": [(0.7, "goes on changing"), (0.75, "of the grid")],
    "enough_rank": [(4, "a smaller rank is too"), (2, "the projected one")],
}
