"""Answers to the exercises of lesson 10."""

import math

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import tensorlab as tl


def pair_by_moves(w, out, in_):
    """Right by another way: one digit at a time."""
    d = len(out)
    x = w.reshape(*out, *in_)
    for k in range(d):
        x = x.movedim(d + k, 2 * k + 1)
    return x.reshape([m * n for m, n in zip(out, in_)])


def pair_by_numpy(w, out, in_):
    d = len(out)
    order = np.arange(2 * d).reshape(2, d).T.ravel()
    return w.numpy().reshape(*out, *in_).transpose(order).reshape(np.multiply(out, in_))


def unpaired(w, out, in_):
    return w.reshape([m * n for m, n in zip(out, in_)])


def columns_first(w, out, in_):
    d = len(out)
    order = np.arange(2 * d).reshape(2, d)[::-1].T.ravel().tolist()
    return w.reshape(*out, *in_).permute(order).reshape([m * n for m, n in zip(out, in_)])


def cores_with(pair, more=0):
    def tt_matrix(w, out, in_, rank):
        cores = tl.tt_svd(pair(w, out, in_), rank + more).cores
        return [c.reshape(c.shape[0], m, n, c.shape[-1]) for c, m, n in zip(cores, out, in_)]

    return tt_matrix


def cores_by_hand(w, out, in_, rank):
    rest, r, cores = torch.as_tensor(pair_by_numpy(w, out, in_)), 1, []
    for m, n in list(zip(out, in_))[:-1]:
        u, s, vh = torch.linalg.svd(rest.reshape(r * m * n, -1), full_matrices=False)
        q = min(rank, len(s))
        cores.append(u[:, :q].reshape(r, m, n, q))
        rest, r = s[:q, None] * vh[:q], q
    return [*cores, rest.reshape(r, out[-1], in_[-1], 1)]


def walk_by_products(state, core):
    left, r, n, right = state.shape
    m, q = core.shape[1], core.shape[3]
    matrix = core.permute(1, 3, 0, 2).reshape(m * q, r * n)
    return (matrix @ state.reshape(left, r * n, right)).reshape(left, m, q, right)


def apply_from_the_right(cores, x):
    batch, done, state = len(x), 1, x
    for core in cores[::-1]:
        r, m, n, q = core.shape
        state = state.reshape(-1, n, q, done)
        state = torch.einsum("anqz,rmnq->armz", state, core)
        done *= m
    return state.reshape(batch, done)


def turned(cores):
    return [c.permute(3, 1, 2, 0) for c in cores[::-1]]


def operations_counted(out, in_, ranks, batch):
    """Right by another way: torch counts those of the transposed product from the right, whose
    steps have the same sizes; no number is computed."""
    r = (1, *ranks, 1)
    cores = [torch.empty(*of, device="meta") for of in zip(r, in_, out, r[1:])]
    with FlopCounterMode(display=False) as counter:
        apply_from_the_right(cores, torch.empty(batch, math.prod(out), device="meta"))
    return float(counter.get_total_flops())


RIGHT = {
    "ttmatrix_storage": [3200.0, torch.tensor(3200)],
    "pair_modes": [pair_by_moves, pair_by_numpy],
    "tt_matrix": [cores_by_hand, lambda *case: tuple(cores_by_hand(*case))],
    "walk": [walk_by_products],
    "ttmatrix_apply": [apply_from_the_right, lambda *case: apply_from_the_right(*case).numpy()],
    "left_operations": [operations_counted],
    "shuffled_rank": [12.0],
}

WRONG = {
    "ttmatrix_storage": [(768 * 3072, "dense weight"), (12 * 8 + 16 * 8 + 16 * 12, "ranks")],
    "pair_modes": [
        (unpaired, "permute"),
        (columns_first, "row digit comes first"),
        (lambda w, out, in_: w, "shape should be"),
    ],
    "tt_matrix": [
        (cores_with(unpaired), "not paired"),
        (cores_with(columns_first), "before that of the column"),
        (cores_with(pair_by_moves, more=1), "larger than asked"),
        (lambda *case: tl.tt_matrix_svd(*case).cores, "what you are to build"),
        (lambda w, out, in_, r: tl.tt_svd(pair_by_moves(w, out, in_), r).cores, "core 0 should"),
        (lambda *case: cores_by_hand(*case)[1:], "a list of"),
    ],
    "walk": [(lambda state, core: state, "sum over the bond")],
    "ttmatrix_apply": [
        (lambda cores, x: x @ tl.TTMatrix(cores).to_dense().T, "forms a tensor"),
        (lambda cores, x: tl.TTMatrix(cores).apply(x), "what you are to build"),
        (lambda cores, x: apply_from_the_right(turned(cores), x), "wrong order"),
        (lambda cores, x: x, "begin with x"),
    ],
    "left_operations": [(lambda *case: 0, "at core k")],
    "ttmatrix_dearer": [(12, "one rank less"), (64, "where they cross")],
    "shuffled_rank": [(2, "shuffle them"), (11, "still above")],
}
