"""Answers to the exercises of lesson 13."""

import math

import numpy as np
import torch

import tensorlab as tl


def digits_by_numpy(token, sizes):
    return np.array(np.unravel_index(token, sizes)).tolist()


def digits_from_the_front(token, sizes):
    """Right by another way: the largest places first."""
    found = []
    for k in range(len(sizes)):
        below = math.prod(sizes[k + 1 :])
        found.append(token // below % sizes[k])
    return tuple(found)


def sizes_of(cores):
    return [core.shape[1] for core in cores]


def row(cores, token, digits=digits_from_the_front, order="ar,rmq->amq"):
    state = torch.ones(1, 1, dtype=torch.float64)
    for core, i in zip(cores, digits(token, sizes_of(cores))):
        state = torch.einsum(order, state, core[:, i]).flatten(0, 1)
    return state[:, 0]


def row_from_the_right(cores, token):
    """Right by another way: the last core first."""
    state = torch.ones(1, 1, dtype=torch.float64)
    for core, i in zip(cores[::-1], digits_by_numpy(token, sizes_of(cores))[::-1]):
        state = torch.tensordot(core[:, i], state, 1).flatten(1)
    return state[0].numpy()


def backwards(token, sizes):
    return digits_from_the_front(token, sizes[::-1])[::-1]


def rows(cores, tokens, one=row, **options):
    return torch.stack([one(cores, int(token), **options) for token in tokens])


def rows_by_products(cores, tokens):
    """Right by another way: a product of matrices for each token, all at once."""
    state = torch.ones(len(tokens), 1, 1, dtype=torch.float64)
    for core, i in zip(cores, digits_from_the_front(tokens, sizes_of(cores))):
        r, _, m, q = core.shape
        pieces = core.transpose(0, 1)[i].reshape(-1, r, m * q)
        state = (state @ pieces).reshape(len(tokens), -1, q)
    return state[..., 0]


def by_the_table(cores, tokens):
    return tl.TTMatrix(tuple(cores)).to_dense()[tokens]


def by_products_of_cores(cores, tokens):
    table = torch.ones(1, 1, 1, dtype=torch.float64)
    for core in cores:
        table = torch.einsum("var,rnmq->vnamq", table, core).flatten(0, 1).flatten(1, 2)
    return table[tokens, :, 0]


RIGHT = {
    "embedding_storage": [3200, 3200.0],
    "token_digits": [digits_by_numpy, digits_from_the_front],
    "embedding_row": [row, row_from_the_right],
    "embedding_rows": [rows, rows_by_products],
    "prefix_products": [1100, np.int64(1100)],
}

WRONG = {
    "embedding_storage": [(64000, "numbers of the table"), (800, "mode for its part")],
    "token_digits": [
        (lambda token, sizes: digits_by_numpy(token, sizes)[::-1], "turn the list around"),
        (lambda token, sizes: digits_by_numpy(token, sizes[::-1]), "take the sizes from the end"),
        (lambda token, sizes: [token % n for n in sizes], "divide by the size"),
        (lambda token, sizes: token, "one for each size"),
    ],
    "embedding_row": [
        (lambda cores, token: row(cores, token, backwards), "the wrong order"),
        (lambda cores, token: row(cores, token, order="ar,rmq->maq"), "in another order"),
        (lambda cores, token: row(cores, token - 1), "count from 0"),
        (by_the_table, "forms the whole table"),
        (by_products_of_cores, "forms a tensor"),
    ],
    "embedding_rows": [
        (lambda cores, tokens: rows(cores, tokens, digits=backwards), "the wrong order"),
        (lambda cores, tokens: rows(cores, tokens, order="ar,rmq->maq"), "in another order"),
        (lambda cores, tokens: rows(cores, tokens.sort()[0]), "the rows are in another"),
        (lambda cores, tokens: rows(cores, tokens).T, "(n, width)"),
        (by_the_table, "forms the whole table"),
        (by_products_of_cores, "forms a tensor"),
    ],
    "prefix_products": [(2000, "word by word"), (1110, "costs no product")],
    "embedding_rank": [(1, "move the rank")],
}
