"""The digits that lessons train on, in one order, and the network whose layer they compress."""

import functools

import torch
from torch import Tensor

from .. import datasets
from ..models.training import shuffled_parts
from ..rng import randn


@functools.cache
def digits():
    """Digits to train on and to test with: x (1300, 8, 8) float32, y, and the remaining 497.

    >>> [tuple(t.shape) for t in digits()]
    [(1300, 8, 8), (1300,), (497, 8, 8), (497,)]
    """
    return shuffled_parts(*datasets.digits(), 1300)


@functools.cache
def network(steps: int = 150) -> tuple[Tensor, Tensor]:
    """The running example: weights (64, 64) and (10, 64), float64, of a network trained to read
    digits, x -> head relu(weight x).

    >>> weight, head = network()
    >>> accuracy(weight, head) > 0.9
    True
    """
    x, y, *_ = digits()
    x, g = x.flatten(1) - 0.3, torch.Generator().manual_seed(0)
    weight, head = (
        (randn(*shape, generator=g, dtype=torch.float32) / shape[1] ** 0.5).requires_grad_()
        for shape in ((64, 64), (10, 64))
    )
    adam = torch.optim.Adam([weight, head], 5e-3)
    for _ in range(steps):
        adam.zero_grad()
        torch.nn.functional.cross_entropy((x @ weight.mT).relu() @ head.mT, y).backward()
        adam.step()
    return weight.detach().double(), head.detach().double()


def accuracy(weight: Tensor, head: Tensor) -> float:
    """The share of the 497 test digits that the network with this weight reads rightly."""
    x, y = digits()[2:]
    scores = (x.flatten(1).double() - 0.3) @ weight.mT
    return float((scores.relu() @ head.mT).argmax(1).eq(y).double().mean())
