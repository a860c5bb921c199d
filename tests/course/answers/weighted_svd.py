"""Answers to the exercises of lesson 25."""

import numpy as np
import torch
from lesson_files import Computed

import tensorlab as tl
from tensorlab.course.lessons import weighted_svd as lesson


def moment_by_tokens(x):
    rows = x.reshape(-1, x.shape[-1])
    return sum(torch.outer(row, row) for row in rows) / len(rows)


def moment_by_numpy(x):
    return np.einsum("ti,tj->ij", *[x.numpy().reshape(-1, x.shape[-1])] * 2) / x[..., 0].numel()


def symmetric_root(a, clamp):
    """Right by another root: the symmetric one."""
    values, vectors = np.linalg.eigh(a.numpy())
    least = float(clamp) * np.trace(a.numpy()) / len(a)
    return vectors * np.sqrt(np.maximum(values, least)) @ vectors.T


def root_by_svd(a, clamp):
    u, s, _ = torch.linalg.svd(a)
    return u @ s.clamp_min(clamp * s.mean()).sqrt().diag()


def cut_by_inverses(w, left, right, rank):
    """Right by another way: truncate, and take both weights away."""
    u, s, vh = np.linalg.svd((left @ w @ right).numpy())
    low = u[:, :rank] * s[:rank] @ vh[:rank]
    return np.linalg.inv(left.numpy()) @ low @ np.linalg.pinv(right.numpy())


def cut_by_eigenvectors(w, left, right, rank):
    """Right without an SVD: the leading eigenvectors of L w R Rᵀ wᵀ Lᵀ."""
    a = left @ w
    u = torch.linalg.eigh(a @ right @ right.T @ a.T)[1][:, -rank:]
    return torch.linalg.inv(left) @ u @ u.T @ a


def plain(w, rank):
    return tl.LowRank.from_dense(w, rank).to_dense()


def ranks_by_loop(spectra, costs, price):
    ranks = []
    for s, cost in zip(spectra, costs):
        objective = [float((s[r:] ** 2).sum()) + price * cost * r for r in range(len(s) + 1)]
        ranks.append(int(np.argmin(objective)))
    return ranks


RIGHT = {
    "kept_error": [0.67, 0.6695, (13 / 29) ** 0.5],
    "second_moment": [moment_by_tokens, moment_by_numpy],
    "root": [symmetric_root, root_by_svd],
    "weighted_cut": [cut_by_inverses, cut_by_eigenvectors],
    "priced_ranks": [ranks_by_loop],
}

WRONG = {
    "kept_error": [
        ((20 / 29) ** 0.5, "keeps the 3"),
        (13 / 29, "that is the square"),
        ((5 / 14) ** 0.5, "the error of w"),
        ((13 / 269) ** 0.5, "the roots of the mean squares"),
        (0.1, "keeps its largest"),
    ],
    "second_moment": [
        (lambda x: x.flatten(0, -2).T @ x.flatten(0, -2), "the sum over tokens"),
        (lambda x: torch.cov(x.flatten(0, -2).T, correction=0), "mean taken out"),
        (lambda x: x.flatten(0, -2) @ x.flatten(0, -2).T / x[..., 0].numel(), "compares tokens"),
        (lambda x: x.flatten(0, -2).T @ x.flatten(0, -2) / len(x), "those of every example"),
    ],
    "root": [
        (lambda a, clamp: symmetric_root(a, clamp) @ symmetric_root(a, clamp), "take the roots"),
        (lambda a, clamp: symmetric_root(a, 0), "below clamp times"),
        (lambda a, clamp: symmetric_root(a, clamp * len(a) / a.trace()), "whatever the size"),
        (
            lambda a, clamp: torch.linalg.cholesky(
                a + clamp * a.trace() / len(a) * torch.eye(len(a))
            ),
            "adds to all eigenvalues",
        ),
        (lambda a, clamp: a[:2], "a matrix with"),
        (lambda a, clamp: torch.linalg.cholesky(a - 1e-3 * torch.eye(len(a))), "LinAlgError"),
    ],
    "weighted_cut": [
        (lambda w, left, right, rank: plain(w, rank), "plain SVD of w"),
        (lambda w, left, right, rank: plain(left @ w @ right, rank), "take L and R away"),
        (lambda w, left, right, rank: left @ cut_by_eigenvectors(w, left, right, rank), "still"),
        (
            lambda w, left, right, rank: cut_by_eigenvectors(
                w, torch.eye(len(w)).double(), right, rank
            ),
            "only R weighs",
        ),
        (lambda w, left, right, rank: cut_by_eigenvectors(w, left, right, rank + 1), "too many"),
        (
            lambda w, left, right, rank: tl.weighted_svd(
                w, rank, left=left, right=right
            ).to_dense(),
            "write it from torch.linalg.svd",
        ),
        (lambda w, left, right, rank: cut_by_eigenvectors(w, left, right, rank)[:2], "the shape"),
    ],
    "priced_ranks": [
        (
            lambda spectra, costs, price: ranks_by_loop([s**0.5 for s in spectra], costs, price),
            "squares",
        ),
        (lambda spectra, costs, price: ranks_by_loop(spectra, [1, 1], price), "price times cost"),
        (
            lambda spectra, costs, price: [
                len(s) - r for s, r in zip(spectra, ranks_by_loop(spectra, costs, price))
            ],
            "those that stay",
        ),
        (lambda spectra, costs, price: [1, 1], "s² is more"),
    ],
    "enough_rank": [
        (Computed(lambda: lesson.enough_rank.expected() + 1), "one rank less"),
        (Computed(lambda: lesson.enough_rank.expected() - 1), "one rank more"),
        (1, "all at once"),
    ],
}
