"""The digits that lessons train on, in one order."""

import functools

from .. import datasets
from ..models.training import shuffled_parts


@functools.cache
def digits():
    """Digits to train on and to test with: x (1300, 8, 8) float32, y, and the remaining 497.

    >>> [tuple(t.shape) for t in digits()]
    [(1300, 8, 8), (1300,), (497, 8, 8), (497,)]
    """
    return shuffled_parts(*datasets.digits(), 1300)
