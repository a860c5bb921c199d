"""What every experiment with a classifier needs: one shuffled split of a data set, batches, a
training loop, and the accuracy."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn


def shuffled_parts(x: Tensor, y: Tensor, *cuts: int, seed: int = 0) -> tuple[Tensor, ...]:
    """x and y in one random order, cut at the given numbers of rows: (x_0, y_0, x_1, y_1, ...).

    The entries of x become float32, those of y stay.

    >>> x, y, x_test, y_test = shuffled_parts(torch.eye(5), torch.arange(5), 3)
    >>> x.argmax(1).equal(y), len(x_test), sorted(torch.cat([y, y_test]).tolist())
    (True, 2, [0, 1, 2, 3, 4])
    """
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    parts = [(x[rows].float(), y[rows]) for rows in order.tensor_split(cuts)]
    return tuple(t for part in parts for t in part)


def batches(
    count: int, batch: int, *, epochs: int, generator: torch.Generator | None = None
) -> Iterator[Tensor]:
    """The rows of one batch after another, each epoch in a new random order.

    >>> [len(rows) for rows in batches(5, 2, epochs=2)]
    [2, 2, 1, 2, 2, 1]
    """
    for _ in range(epochs):
        yield from torch.randperm(count, generator=generator).split(int(batch))


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    *,
    epochs: int,
    batch: int = 100,
    scheduler=None,
    generator: torch.Generator | None = None,
) -> Iterator[float]:
    """Cross-entropy training in shuffled batches; a generator that gives the mean loss of each
    epoch.

    x: (n, ...), y: (n,) classes. scheduler: one of torch's, which steps after each batch.

    >>> model = nn.Linear(2, 2)
    >>> sgd = torch.optim.SGD(model.parameters(), 0.5)
    >>> *_, loss = train(model, sgd, torch.eye(2), torch.arange(2), epochs=50)
    >>> loss < 0.5
    True
    """
    for _ in range(epochs):
        total = 0.0
        for rows in batches(len(y), batch, epochs=1, generator=generator):
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            total += loss.item() * len(rows)
        yield total / len(y)


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor, batch: int = 1000) -> float:
    """The share of right classes, in batches. x: (n, ...), y: (n,).

    >>> accuracy(nn.Identity(), torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    0.5
    """
    pairs = zip(x.split(batch), y.split(batch))
    return sum(int((model(a).argmax(1) == b).sum()) for a, b in pairs) / len(y)


@torch.no_grad()
def mean_loss(model: nn.Module, x: Tensor, y: Tensor, batch: int = 1000) -> float:
    """The mean cross-entropy, in batches. x: (n, ...), y: (n,).

    >>> round(mean_loss(nn.Identity(), torch.zeros(3, 2), torch.tensor([0, 1, 0])), 4)
    0.6931
    """
    entropy = lambda a, b: nn.functional.cross_entropy(model(a), b, reduction="sum").item()
    return sum(entropy(a, b) for a, b in zip(x.split(batch), y.split(batch))) / len(y)
