"""Answers to the exercises of lesson 14."""

import numpy as np
import scipy.optimize
import torch

import tensorlab as tl
from tensorlab.methods import pointcloud


def columns_by_numpy(x, y):
    return np.mean((np.sort(x.numpy(), 0) - np.sort(y.numpy(), 0)) ** 2, 0)


def columns_by_assignment(x, y):
    """Right by another way: the best matching, without knowing that a sort finds it."""
    found = []
    for a, b in zip(x.T, y.T):
        cost = (a[:, None] - b).square()
        i, j = scipy.optimize.linear_sum_assignment(cost.numpy())
        found.append(cost[i, j].mean())
    return torch.stack(found)


def sliced_by_loop(x, y, directions):
    return x.shape[1] * np.mean(
        [columns_by_numpy(x @ u[:, None], y @ u[:, None])[0] for u in directions.T]
    )


def chamfer_by_loops(x, y):
    one = lambda a, b: sum(min(float((p - q).square().sum()) for q in b) for p in a) / len(a)
    return one(x, y) + one(y, x)


def points_of(table, order, shape, rank):
    return tl.tt_svd(table[order].reshape(*shape, -1), rank).to_dense().reshape(table.shape)


def order_by_scipy(table, order, shape, rank):
    """Right by another way: scipy's assignment of inner products, the larger the better."""
    gain = points_of(table, order, shape, rank) @ table.T
    return scipy.optimize.linear_sum_assignment(gain.numpy(), maximize=True)[1].tolist()


def order_within(table, order, shape, rank):
    """Right by another way: an assignment within the old order."""
    cost = torch.cdist(points_of(table, order, shape, rank), table[order]).square()
    return order[pointcloud.assignment(cost)]


def costs(table, order, shape, rank):
    return torch.cdist(points_of(table, order, shape, rank), table).square()


RIGHT = {
    "wasserstein_line": [1.67, 5 / 3],
    "wasserstein_columns": [columns_by_numpy, columns_by_assignment],
    "sliced_distance": [sliced_by_loop],
    "chamfer_distance": [chamfer_by_loops],
    "next_order": [order_by_scipy, order_within],
    "unchanged_cuts": [1.0],
}

WRONG = {
    "wasserstein_line": [(5, "the sum"), (1.29, "W_2 itself"), (1, "they are to be squared")],
    "wasserstein_columns": [
        (lambda x, y: (x - y).square().mean(0), "sort both first"),
        (lambda x, y: columns_by_numpy(x, y) * len(x), "that is the sum"),
        (lambda x, y: columns_by_numpy(x, y) ** 0.5, "W_2 itself"),
        (lambda x, y: pointcloud.wasserstein(x, y), "what you are to build"),
    ],
    "sliced_distance": [
        (lambda x, y, u: columns_by_numpy(x @ u, y @ u).mean(), "times D is missing"),
        (lambda x, y, u: x.shape[1] * columns_by_numpy(x @ u, y @ u).sum(), "not the sum"),
        (lambda x, y, u: tl.sliced_wasserstein(x, y, u), "what you are to build"),
    ],
    "chamfer_distance": [
        (lambda x, y: torch.cdist(x, y).square().amin(1).mean(), "only from x to y"),
        (lambda x, y: torch.cdist(x, y).square().amin(0).mean(), "only from y to x"),
        (lambda x, y: tl.chamfer(x, y), "what you are to build"),
    ],
    "next_order": [
        (lambda table, order, *_: order, "has not changed"),
        (lambda *case: pointcloud.assignment(costs(*case)).argsort(), "that is the inverse:"),
        (
            lambda *case: pointcloud.assignment(costs(*case)[:, case[1]]),
            "counts within the old order",
        ),
        (lambda *case: costs(*case).argmin(1), "each of them once"),
        (
            lambda table, order, s, r: tl.tt_permute(table, s, r, order=order).value.order,
            "one round",
        ),
    ],
    "unchanged_cuts": [(0, "what does a permutation"), (3, "why the order matters")],
    "rounds_needed": [(9, "read the last error")],
}
