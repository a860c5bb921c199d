"""A network of dense layers, the plainest thing to compress."""

import torch
from torch import Tensor, nn

from ..layers.linear import redraw


class MLP(nn.Module):
    """Linear layers with a nonlinearity between: x -> w_d act(... act(w_1 x + b_1) ...) + b_d.

    sizes: (in, hidden, ..., out). The input may have any shape: everything after the batch is
    flattened.

    >>> MLP((64, 32, 10), generator=torch.Generator().manual_seed(0))(torch.zeros(5, 8, 8)).shape
    torch.Size([5, 10])
    """

    def __init__(self, sizes, *, act=nn.functional.relu, generator: torch.Generator | None = None):
        super().__init__()
        self.act = act
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in zip(sizes, sizes[1:]))
        redraw(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = self.act(layer(x))
        return self.layers[-1](x)


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor, batch: int = 1000) -> float:
    """The share of right classes, in batches.  x: (n, ...), y: (n,)."""
    right = sum(
        int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(batch), y.split(batch))
    )
    return right / len(y)


def train(
    model: nn.Module,
    optimizer,
    x: Tensor,
    y: Tensor,
    *,
    epochs: int,
    batch: int = 100,
    generator=None,
):
    """Cross-entropy training in shuffled batches; a generator that gives the mean loss of each
    epoch.

    >>> model = MLP((2, 2), generator=torch.Generator().manual_seed(0))
    >>> losses = train(model, torch.optim.SGD(model.parameters(), 0.5), torch.eye(2), torch.arange(2), epochs=9)
    >>> len([loss for loss in losses if loss < 0.7]) > 5
    True
    """
    for _ in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(y), generator=generator).split(batch):
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        yield total / len(y)
