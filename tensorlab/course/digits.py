"""The digits that lessons train on, in one order."""

import functools

import torch

from .. import datasets


@functools.cache
def digits():
    """Digits to train on and to test with: x (1300, 8, 8) float32, y, and the remaining 497.

    >>> [tuple(t.shape) for t in digits()]
    [(1300, 8, 8), (1300,), (497, 8, 8), (497,)]
    """
    x, y = datasets.digits()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order].float(), y[order]
    return x[:1300], y[:1300], x[1300:], y[1300:]
