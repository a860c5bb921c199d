"""Train a network in low rank from the first step, in an ordinary loop [Schotthoefer2022].

python examples/train_low_rank.py [--epochs 30] [--theta 0.1]

Beside it the same network is trained whole. What changes in a loop that you have is the line of the
step: `method.step(closure)` in the place of zero_grad, backward and step. Needs scikit-learn, which
brings the digits.
"""

import argparse
from functools import partial

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import tensorlab as tl
from tensorlab.datasets import digits
from tensorlab.models.training import accuracy, shuffled_parts

RANK, BATCH = 16, 50


def network() -> nn.Sequential:
    """Any model of yours."""
    hidden = [nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, 10))


def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return cross_entropy(model(x), y)


def train_whole(loader: DataLoader, epochs: int, rate: float) -> nn.Module:
    """The loop that everybody writes."""
    model = network()
    sgd = torch.optim.SGD(model.parameters(), rate)
    for _ in range(epochs):
        for x, y in loader:
            sgd.zero_grad()
            loss(model, x, y).backward()
            sgd.step()
    return model


def train_low_rank(loader: DataLoader, epochs: int, rate: float, theta: float) -> nn.Module:
    """The same loop, the first two layers in low rank; their ranks adapt to the error theta."""
    model = tl.replace_linear(network(), ["1", "3"], lambda w: tl.dlrt_start(w.shape, RANK))
    method = tl.DLRT(model, torch.optim.SGD(model.parameters(), rate), theta=theta)
    for epoch in range(1, epochs + 1):
        for x, y in loader:
            last = method.step(partial(loss, model, x, y))
        if epoch % 5 == 0 or epoch == epochs:
            print(f"epoch {epoch}: loss {float(last):.3f}, ranks {method.ranks}")
    return model


def main(epochs: int = 30, theta: float = 0.1, rate: float = 0.1):
    """Train both; returns their accuracies on digits that were not seen, and both models."""
    torch.manual_seed(0)
    x, y, *test = shuffled_parts(*digits(), 1300)
    loader = DataLoader(TensorDataset(x.float(), y), BATCH, shuffle=True)
    test = test[0].float(), test[1]
    models = {
        "low rank": train_low_rank(loader, epochs, rate, theta),
        "whole": train_whole(loader, epochs, rate),
    }
    right = {name: accuracy(model, *test) for name, model in models.items()}
    for name, model in models.items():
        stored = tl.layer_report(model).total("parameters")
        print(f"{name}: {right[name]:.1%} right with {stored} numbers")
    return right, models


if __name__ == "__main__":
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--epochs", type=int, default=30)
    options.add_argument("--theta", type=float, default=0.1)
    main(**vars(options.parse_args()))
