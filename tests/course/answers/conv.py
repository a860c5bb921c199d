"""Answers to the exercises of lesson 12."""

import numpy as np
import torch
from torch import nn

import tensorlab as tl


def matrix_by_loops(kernel):
    t, s, kh, kw = kernel.shape
    w = torch.zeros(s * kh, t * kw, dtype=kernel.dtype)
    for i in range(kh):
        for j in range(kw):
            w[i::kh, j::kw] = kernel[:, :, i, j].T
    return w


def factors_by_eigenvectors(kernel, rank):
    """Right by another way: eigenvectors of wᵀ w, the values with the first kernel."""
    (t, s, kh, kw), w = kernel.shape, matrix_by_loops(kernel)
    v = torch.linalg.eigh(w.T @ w)[1].flip(1)[:, :rank]
    first = (w @ v).reshape(s, kh, rank).permute(2, 0, 1)[..., None]
    return first, v.T.reshape(rank, t, 1, kw).transpose(0, 1)


def factors_of(matrix=matrix_by_loops, power=1.0):
    def spatial_factors(kernel, rank):
        t, s, kh, kw = kernel.shape
        u, values, vh = np.linalg.svd(matrix(kernel).numpy(), full_matrices=False)
        first = (u * values**power)[:, :rank].reshape(s, kh, rank).transpose(2, 0, 1)
        return [first[..., None], vh[:rank].reshape(rank, t, 1, kw).swapaxes(0, 1)]

    return spatial_factors


def the_librarys(kernel, rank):
    t, s, kh, kw = kernel.shape
    layer = nn.utils.skip_init(nn.Conv2d, s, t, (kh, kw), bias=False, dtype=kernel.dtype)
    layer.weight.data.copy_(kernel)
    return [link.weight for link in tl.spatial_conv(layer, rank)]


def apply_by_shifts(x, first, second):
    """Right by another way: one shift of the image after another."""
    kh, kw = first.shape[2], second.shape[3]
    high, wide = x.shape[2] - kh + 1, x.shape[3] - kw + 1
    z = sum(
        torch.einsum("nshw,rs->nrhw", x[:, :, i : i + high], first[:, :, i, 0]) for i in range(kh)
    )
    return sum(
        torch.einsum("nrhw,tr->nthw", z[..., j : j + wide], second[:, :, 0, j]) for j in range(kw)
    )


def by_the_kernel(x, first, second):
    kernel = torch.einsum("rsi,trj->tsij", first[..., 0], second[:, :, 0])
    return nn.functional.conv2d(x, kernel)


def in_turn(kernel, p, q, sweeps=4):
    """Right by another way: the channels in after the channels out, several times."""
    b = torch.eye(kernel.shape[1], dtype=kernel.dtype)
    for _ in range(sweeps):
        half = torch.einsum("tsij,sq->tqij", kernel, b)
        a = torch.linalg.svd(half.flatten(1), full_matrices=False)[0][:, :p]
        half = torch.einsum("tsij,tp->spij", kernel, a)
        b = torch.linalg.svd(half.flatten(1), full_matrices=False)[0][:, :q]
    core = torch.einsum("tsij,tp,sq->pqij", kernel, a, b)
    return b.T[:, :, None, None], core, a[:, :, None, None]


def wrong_unfolding(kernel, p, q):
    basis = lambda x, r: torch.linalg.svd(x, full_matrices=False)[0][:, :r]
    a, b = basis(kernel.flatten(1), p), basis(kernel.reshape(kernel.shape[1], -1), q)
    core = torch.einsum("tsij,tp,sq->pqij", kernel, a, b)
    return b.T[:, :, None, None], core, a[:, :, None, None]


def first_corner(kernel, p, q):
    basis = lambda x, r: torch.linalg.svd(x.flatten(1), full_matrices=False)[0][:, :r]
    a, b = basis(kernel, p), basis(kernel.transpose(0, 1), q)
    return b.T[:, :, None, None], kernel[:p, :q], a[:, :, None, None]


RIGHT = {
    "cp_weights": [4240, 4240.0],
    "spatial_matrix": [matrix_by_loops, lambda kernel: matrix_by_loops(kernel).numpy()],
    "spatial_factors": [factors_by_eigenvectors, factors_of()],
    "spatial_apply": [apply_by_shifts],
    "tucker_factors": [in_turn],
    "tucker_saving": [8.47, 36864 / 4352],
}

WRONG = {
    "cp_weights": [(40 * (32 + 25 + 64), "parted too"), (51200, "whole convolution")],
    "spatial_matrix": [
        (lambda k: matrix_by_loops(k.mT), "changed places"),
        (lambda k: matrix_by_loops(k.transpose(0, 1)), "channels out"),
        (lambda k: matrix_by_loops(k).T, "rows and columns"),
        (lambda k: k.reshape(k.shape[1] * k.shape[2], -1), "permute before"),
        (lambda k: k.flatten(1), "the shape should be"),
    ],
    "spatial_factors": [
        (factors_of(power=0.0), "missing"),
        (factors_of(power=2.0), "in both kernels"),
        (factors_of(lambda k: matrix_by_loops(k.mT)), "the width among its rows"),
        (lambda kernel, rank: factors_of()(kernel, rank + 1), "should have the shape"),
        (lambda kernel, rank: kernel, "2 kernels are needed"),
        (the_librarys, "what you are to build"),
    ],
    "spatial_apply": [
        (by_the_kernel, "forms a tensor"),
        (
            lambda x, a, b: nn.functional.conv2d(apply_by_shifts(x, a, b).relu(), b),
            "the shape should be",
        ),
    ],
    "tucker_factors": [
        (wrong_unfolding, "exchange the first two modes"),
        (first_corner, "first corner"),
        (lambda kernel, p, q: in_turn(kernel, p, q)[::-1], "should have the shape"),
    ],
    "tucker_saving": [(16, "middle alone"), (0.118, "turn it over")],
    "tucker_rank": [(1, "read the error")],
}
