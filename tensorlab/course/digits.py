"""The digits that lessons train on, in one order, and the networks whose layers they compress."""

import functools

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from .. import datasets, plots
from ..layers.attention import MultiHeadAttention
from ..layers.linear import redraw
from ..models.gpt import Block
from ..models.training import shuffled_parts, train
from ..rng import randn
from .lab import fast


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


class RowReader(nn.Module):
    """A transformer that reads a digit row by row: (n, 8, 8) -> logits (n, 10).

    >>> RowReader(width=8, depth=1, heads=2)(torch.zeros(3, 8, 8)).shape
    torch.Size([3, 10])
    """

    def __init__(self, width=32, depth=2, heads=4, generator: torch.Generator | None = None):
        super().__init__()
        self.rows, self.place = nn.Linear(8, width), nn.Parameter(torch.zeros(8, width))
        self.blocks = nn.ModuleList(Block(width, heads, MultiHeadAttention) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)
        redraw(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        h = self.rows(x) + self.place
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h[:, -1]))


@functools.cache
def trained_reader(width: int = 32) -> RowReader:
    """A `RowReader` trained on the 1300 digits, briefly in fast mode."""
    x, y, *_ = digits()
    g, epochs = torch.Generator().manual_seed(0), fast(4, full=15)
    model, steps = RowReader(width, generator=g), epochs * 13
    adam = torch.optim.Adam(model.parameters(), 1e-2)
    down = torch.optim.lr_scheduler.LambdaLR(adam, lambda k: max(0.02, 1 - k / steps))
    list(train(model, adam, x, y, epochs=epochs, batch=100, generator=g, scheduler=down))
    return model.requires_grad_(False).eval()


def relative_error(weight: Tensor, fit) -> float:
    """|weight - fit| / |weight| in the Frobenius norm, of a format of any shape with as many
    entries."""
    return float((fit.to_dense().reshape(weight.shape) - weight).norm() / weight.norm())


def fit_curves(fits: dict[str, list], error=relative_error) -> dict[str, dict[str, list]]:
    """Error and accuracy against stored numbers of formats in place of the layer of `network`:
    {"error": {name: [(numbers, error)]}, "accuracy": the same, and the dense layer as a point}.

    fits: formats by name, whose `to_dense()` has the 4,096 entries of the layer in any shape.
    error(weight, fit) is what the left curves show.

    >>> from tensorlab import LowRank
    >>> found = fit_curves({"SVD": [LowRank.from_dense(network()[0], 64)]})
    >>> [(n, round(e, 6)) for n, e in found["error"]["SVD"]]
    [(8192, 0.0)]
    >>> found["accuracy"]["SVD"][0][1] == found["accuracy"]["dense"][0][1]
    True
    """
    weight, head = network()
    found = {"error": {}, "accuracy": {"dense": [(weight.numel(), accuracy(weight, head))]}}
    for name, formats in fits.items():
        right = [accuracy(f.to_dense().reshape(weight.shape), head) for f in formats]
        found["error"][name] = [(f.numel, error(weight, f)) for f in formats]
        found["accuracy"][name] = [(f.numel, share) for f, share in zip(formats, right)]
    return found


def draw_fits(figure: Figure, curves: dict[str, dict], error: str = "relative error") -> str:
    """Draw `fit_curves`, the error (named so) on the left and the accuracy on the right; a
    sentence."""
    left, right = figure.subplots(1, 2)
    plots.error_against_storage(left, curves["error"])
    left.set_ylabel(error)
    return plots.accuracy_against_storage(right, curves["accuracy"])
