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
