"""What every experiment with a classifier needs: one shuffled split of a data set, batches, a
training loop that several processes may share, and the accuracy."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ..layers.holding import in_processes

# ------------------------------------------------------------------------------------------ batches


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


# -------------------------------------------------------------------------------- several processes


_alone = ContextVar("alone", default=False)


@contextmanager
def each_alone() -> Iterator[None]:
    """In the block each process of a group trains a model that the others do not: `data_parallel`
    gives back the model itself."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def data_parallel(model: nn.Module) -> nn.Module:
    """The model as the processes of a group train it together: in DistributedDataParallel, whose
    `batch_loss` is that of one process; the model itself where there is no group, or `each_alone`.

    What a training makes of it is that of one process in exact numbers. In float64 it is to about
    1e-12; in float32 to rounding only as long as no step magnifies it: where the input of a ReLU is
    within rounding of zero, its gate may open in one run and not in the other.

    The optimizer and what looks at the result keep the model, whose parameters these are; a
    training method is made before, for it may give the model others. Raises ValueError for layers
    whose numbers would differ between processes: a batch norm, and a dropout, also within
    attention or between recurrent layers, unless it drops nothing. A forward that draws random
    numbers by itself is seen, and refused, by `batch_loss`; only one that draws them from a
    generator that the model keeps is not.

    >>> model = nn.Linear(2, 2)
    >>> data_parallel(model) is model
    True
    """
    if not in_processes() or _alone.get():
        return model
    for name, layer in model.named_modules():
        if _mixes(layer):
            raise ValueError(
                f"data_parallel: needs a model whose rows do not depend on each other or on chance "
                f"in a process, got {type(layer).__name__} in layer {name!r}"
            )
    return DistributedDataParallel(model)


def _mixes(layer: nn.Module) -> bool:
    """Whether what a layer makes of a row depends on the other rows, or on chance."""
    if isinstance(layer, nn.modules.dropout._DropoutNd):
        return layer.p > 0
    dropout = getattr(layer, "dropout", None)  # a number: of attention or a recurrent network
    chance = isinstance(dropout, (int, float)) and dropout > 0
    return chance or isinstance(layer, (nn.modules.batchnorm._BatchNorm, nn.RReLU))


def _random_states(device: torch.device) -> list[Tensor]:
    """The states of torch's generators, which are others after a forward that has drawn numbers."""
    on_gpu = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *on_gpu]


def unwrapped(model: nn.Module) -> nn.Module:
    """The model in its DistributedDataParallel, or the model itself.

    >>> model = nn.Linear(2, 2)
    >>> unwrapped(model) is model
    True
    """
    return model.module if isinstance(model, DistributedDataParallel) else model


def batch_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The mean cross-entropy of a batch; of a wrapped model this process's part of it.

        loss_p = ranks / n · Σ_(i of process p) -log softmax(model(x_i))[y_i]

    The mean over the processes, which the wrapper takes of the gradients, is the mean over the
    batch, also where the parts are not equal or one is empty. x: (n, ...), y: (n,) or (n, time)
    classes; every process is given the whole batch. Raises ValueError where a wrapped model draws
    random numbers, as by `nn.functional.dropout`: one process would draw others.

    >>> round(batch_loss(nn.Identity(), torch.zeros(3, 2), torch.tensor([0, 1, 0])).item(), 4)
    0.6931
    """
    entropy = lambda x, y, **how: nn.functional.cross_entropy(
        model(x).flatten(0, y.ndim - 1), y.flatten(), **how
    )
    if not isinstance(model, DistributedDataParallel):
        return entropy(x, y)
    rank, ranks = model.process_group.rank(), model.process_group.size()
    mine = (t.tensor_split(ranks)[rank] for t in (x, y))
    before = _random_states(model.device)
    loss = entropy(*mine, reduction="sum") * (ranks / y.numel())
    if not all(map(torch.equal, before, _random_states(model.device))):
        raise ValueError(
            f"batch_loss: needs a model that draws no random numbers where processes share a "
            f"batch, got {type(model.module).__name__}, whose forward does, as by a dropout"
        )
    return loss


def mean_over_processes(model: nn.Module, value: float) -> float:
    """The mean of what the processes that share a wrapped model have; for another the value itself.

    >>> mean_over_processes(nn.Identity(), 2.0)
    2.0
    """
    if not isinstance(model, DistributedDataParallel):
        return value
    total = torch.tensor(value, dtype=torch.float64, device=model.device)
    distributed.all_reduce(total, group=model.process_group)
    return total.item() / model.process_group.size()


# ------------------------------------------------------------------------------- training and after


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

    model: where it is `data_parallel`, the processes share each batch, and all call this with the
        same numbers.
    x: (n, ...), the examples.
    y: (n,), their classes.
    scheduler: one of torch's, which steps after each batch; None: constant rates.
    optimizer: of the model's parameters.
    epochs: passes over the data.
    batch: rows in each step.
    generator: shuffles; None: torch's global one.

    >>> model = nn.Linear(2, 2)
    >>> sgd = torch.optim.SGD(model.parameters(), 0.5)
    >>> *_, loss = train(model, sgd, torch.eye(2), torch.arange(2), epochs=50)
    >>> loss < 0.5
    True
    """
    for _ in range(epochs):
        total = 0.0
        for rows in batches(len(y), batch, epochs=1, generator=generator):
            loss = batch_loss(model, x[rows], y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            total += loss.item() * len(rows)
        yield mean_over_processes(model, total / len(y))


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
