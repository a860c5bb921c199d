"""Answers to the exercises of lesson 06."""

import numpy as np
import torch

import tensorlab as tl


def cross_rank_one(x, i, j):
    return x[:, j : j + 1] @ (x[i : i + 1] / x[i, j])


def pivots(x, r, magnitude=np.abs):
    """By elimination in NumPy."""
    rest, rows, columns = x.numpy().copy(), [], []
    for _ in range(r):
        i, j = np.unravel_index(magnitude(rest).argmax(), rest.shape)
        rest = rest - rest[:, j : j + 1] * rest[i] / rest[i, j]
        rows.append(int(i))
        columns.append(int(j))
    return rows, columns


def the_largest_entries(x, r):
    flat = x.abs().flatten().argsort(descending=True)[:r]
    return flat // x.shape[1], flat % x.shape[1]


def sides(x, r):
    rows, columns = pivots(x, r)
    return x[:, columns] @ torch.linalg.inv(x[rows][:, columns]), x[rows]


def sides_with(change):
    """The two sides with something else in place of the inverse of the block."""

    def sides(x, r):
        rows, columns = pivots(x, r)
        return change(x[:, columns], x[rows][:, columns]), x[rows]

    return sides


uncrossed = sides_with(lambda columns, block: columns)


def cross_train(x, r, sides=sides):
    cores, rest = [], x.reshape(1, -1)
    for n in x.shape[:-1]:
        rank = len(rest)
        left, rest = sides(rest.reshape(rank * n, -1), r)
        cores.append(left.reshape(rank, n, r))
    return (*cores, rest[:, :, None])


def by_svd(a, r):
    u, s, vh = torch.linalg.svd(a, full_matrices=False)
    return u[:, :r], s[:r, None] * vh[:r]


RIGHT = {
    "cross_evaluations": [1920, 1920.0],
    "cross_rank_one": [cross_rank_one],
    "pivots": [pivots, lambda x, r: [torch.tensor(p) for p in pivots(x, r)]],
    "sides": [sides],
    "cross_train": [cross_train, lambda x, r: cross_train(x, r, by_svd)],
    "hard_function": ["jump"],
}

WRONG = {
    "cross_evaluations": [(32**4, "whole tensor"), (128, "one fiber"), (512, "on its left")],
    "cross_rank_one": [
        (lambda x, i, j: torch.outer(x[:, j], x[i]), "up to a factor"),
        (lambda x, i, j: x - cross_rank_one(x, i, j), "left over"),
    ],
    "pivots": [
        (the_largest_entries, "largest entries of x"),
        (lambda x, r: pivots(x, r, lambda rest: rest), "absolute value"),
        (lambda x, r: pivots(x, r)[::-1], "exchanged"),
        (lambda x, r: pivots(x, r)[0], "two lists"),
        (lambda x, r: pivots(x, 1), "should have"),
    ],
    "sides": [
        (uncrossed, "counts twice"),
        (sides_with(lambda columns, block: columns @ block.inverse().T), "is transposed"),
        (sides_with(lambda columns, block: columns / block.diagonal()), "by the pivots only"),
        (sides_with(lambda columns, block: columns @ block), "block is multiplied"),
        (lambda x, r: sides(x, r)[::-1], "matrices of the shapes"),
        (lambda x, r: sides(x, r)[0] @ sides(x, r)[1], "two matrices"),
    ],
    "cross_train": [
        (lambda x, r: cross_train(x, r, uncrossed), "not divided away"),
        (lambda x, r: tl.tt_svd(x, r).cores, "needs all entries"),
        (lambda x, r: cross_train(x, r)[1:], "a list of"),
        (lambda x, r: cross_train(x, r)[::-1], "do not make a train"),
    ],
    "hard_function": [("ripples", "play each of them"), ("sphere", "name of one of the functions")],
}
