"""Ranks and errors of long tensors, 2^22 and 2^24 entries, against LAPACK's singular values of
every unfolding.

Every decomposition here finds its bases from Gram matrices or from a few rows, whose rounding must
never become rank: a rank is at most one above the reference's at the same tolerance, and the error
is within the bound.
"""

import functools
import math

import numpy as np
import pytest
import torch

import tensorlab as tl

pytestmark = pytest.mark.slow

RTOLS = [10.0**-k for k in range(3, 11)]
ORDERS = [22, 24]


def grid(order):
    return torch.arange(2**order, dtype=torch.float64) / 2**order


FUNCTIONS = {
    "sine": lambda t: torch.sin(9 * t),
    "root": lambda t: torch.sqrt(t + 1e-3),
    "peak": lambda t: 1 / (1 + 400 * (t - 0.3) ** 2),
    "chirp": lambda t: torch.cos(60 * t**2) * torch.exp(-t),
    "offset": lambda t: 1e3 + torch.exp(t),
}


@functools.lru_cache(maxsize=1)
def data(name, order):
    return FUNCTIONS[name](grid(order))


def spectrum(matrix):
    """Singular values by LAPACK's QR and SVD, which form no Gram matrix."""
    a = matrix.numpy()
    a = a if a.shape[0] >= a.shape[1] else a.T
    if a.shape[0] > 2 * a.shape[1]:
        a = np.linalg.qr(a, mode="r")
    return np.linalg.svd(a, compute_uv=False)


def epsilon_rank(s, atol):
    """Smallest r with |s_r, s_{r+1}, ...| <= atol."""
    tails = np.sqrt(np.cumsum(s[::-1] ** 2))[::-1]
    return max(1, int((tails > atol).sum()))


@functools.lru_cache(maxsize=1)
def unfoldings(name, shape):
    """Singular values of the first unfoldings of one to d - 1 modes."""
    x = data(name, round(math.log2(math.prod(shape))))
    lengths = [math.prod(shape[:k]) for k in range(1, len(shape))]
    return [spectrum(x.reshape(n, -1)) for n in lengths]


@functools.lru_cache(maxsize=1)
def modes(name, shape):
    """Singular values of the unfolding of each mode."""
    x = data(name, round(math.log2(math.prod(shape)))).reshape(shape)
    return [spectrum(tl.unfold(x, k)) for k in range(len(shape))]


def check(made, ranks, references, x, rtol, cuts):
    atol = (rtol / math.sqrt(cuts)) * float(x.norm())
    allowed = [epsilon_rank(s, atol) + 1 for s in references]
    assert all(r <= most for r, most in zip(ranks, allowed, strict=True)), (ranks, allowed)
    error = float((made.to_dense().reshape(-1) - x.reshape(-1)).norm() / x.norm())
    assert error <= rtol + 64 * 2.0**-52


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("order", ORDERS)
def test_trains(name, order):
    x, shape = data(name, order), (2,) * order
    references = unfoldings(name, shape)
    for rtol in RTOLS:
        tt = tl.tt_svd(x.reshape(shape), rtol=rtol)
        check(tt, tt.ranks, references, x, rtol, order - 1)
    fine = tl.tt_svd(x.reshape(shape), rtol=1e-13)
    for rtol in RTOLS:
        rounded = tl.tt_round(0.25 * fine + 0.75 * fine, rtol=rtol)
        check(rounded, rounded.ranks, references, x, rtol + 1e-13, order - 1)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", [(32, 64, 64, 32), (64,) * 4, (2**20, 4, 4)], ids=str)
def test_tucker(name, shape):
    x = data(name, round(math.log2(math.prod(shape)))).reshape(shape)
    references = modes(name, shape)
    for decompose in (tl.hosvd, tl.st_hosvd):
        for rtol in RTOLS:
            tucker = decompose(x, rtol=rtol)
            check(tucker, tucker.ranks, references, x, rtol, len(shape))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", [(32, 64, 64, 32), (16,) * 6], ids=str)
def test_trees(name, shape):
    d, x = len(shape), data(name, round(math.log2(math.prod(shape)))).reshape(shape)
    for tree in (tl.balanced_tree, tl.linear_tree):
        nodes = tl.ht_svd(x, 1, tree=tree(d)).nodes
        inner = [node for node in nodes if len(node) < d]
        spectra = {node: spectrum(matrix(x, node)) for node in inner}
        for rtol in RTOLS:
            ht = tl.ht_svd(x, rtol=rtol, tree=tree(d))
            ranks = [ht.ranks[nodes.index(node)] for node in inner]
            check(ht, ranks, [spectra[node] for node in inner], x, rtol, 2 * d - 3)


def matrix(x, node):
    """The unfolding whose rows are the modes of a node."""
    others = [k for k in range(x.ndim) if k not in node]
    return x.permute(*node, *others).reshape(math.prod(x.shape[k] for k in node), -1)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("columns", [4, 64, 512])
def test_matrices(name, columns):
    x = data(name, 22).reshape(-1, columns)
    s = spectrum(x)
    for rtol in RTOLS:
        found = tl.truncated_svd(x, rtol=rtol)
        made = tl.LowRank(found.u * found.s, found.vh.mH)
        check(made, [len(found.s)], [s], x, rtol, 1)
