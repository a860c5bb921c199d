"""LeNet-5 in the form that the compression papers use: two convolutions with pooling, two dense
layers [LeCun1998]."""

import torch
from torch import Tensor, nn

from ..layers.linear import redraw


class LeNet(nn.Module):
    """conv, pool, conv, pool, dense, dense: (batch, 1, height, width) -> (batch, classes).

    Images are squares of image_size pixels on a side; (batch, height, width) will do.

    The defaults are the LeNet-5 of 431,080 parameters for 28 x 28 pixels. For 8 x 8: image_size=8,
    kernel=3, padding=1.

    image_size: height and width in pixels.
    channels: of the two convolutions.
    hidden: the width of the first dense layer.
    classes: the number of outputs.
    kernel, padding: of both convolutions, in pixels.
    generator: draws the weights; None: torch's global one.

    >>> model = LeNet(generator=torch.Generator().manual_seed(0))
    >>> model(torch.zeros(2, 28, 28)).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([2, 10]), 431080)
    """

    def __init__(
        self,
        image_size=28,
        *,
        channels=(20, 50),
        hidden=500,
        classes=10,
        kernel=5,
        padding=0,
        generator=None,
    ):
        super().__init__()
        a, b = channels
        self.conv1 = nn.Conv2d(1, a, kernel, padding=padding)
        self.conv2 = nn.Conv2d(a, b, kernel, padding=padding)
        for _ in channels:
            image_size = (image_size + 2 * padding - kernel + 1) // 2
        self.dense1 = nn.Linear(b * image_size * image_size, hidden)
        self.dense2 = nn.Linear(hidden, classes)
        redraw(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None] if x.ndim == 3 else x
        for conv in (self.conv1, self.conv2):
            x = torch.relu(nn.functional.max_pool2d(conv(x), 2))
        return self.dense2(torch.relu(self.dense1(x.flatten(1))))
