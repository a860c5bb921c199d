"""The baselines of the talk that are not a format: blocks of a model dropped, and what is left
trained to do as the whole one did [Sanh2019].

    student = blocks 0, 2, 4 of the teacher,     loss = mean |z - z_teacher|²

Of the others block pruning is `block_masks` with `prune`, bf16 is `model.to(torch.bfloat16)`, int8
is `quantize_model(model, names, 8, method="uniform", group="channel")`.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from ..arguments import check_batches, is_integer
from ..layers.dense import in_eval
from .training import evaluate
from .weighted import plain_forward


def drop_blocks(model: nn.Module, name: str, kept) -> nn.Module:
    """Keep some blocks of the `nn.ModuleList` or `nn.Sequential` of a name; changes the model and
    returns it.

    kept: numbers of blocks, ascending. Raises ValueError for a name of something else, and for
    numbers that are not ascending or out of range.

    >>> blocks = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 3))
    >>> model = nn.ModuleDict({"blocks": blocks})
    >>> drop_blocks(model, "blocks", (0, 2))["blocks"][1].out_features
    3
    """
    who, blocks = "drop_blocks", dict(model.named_modules()).get(name)
    if not name or not isinstance(blocks, (nn.ModuleList, nn.Sequential)):
        kinds = (nn.ModuleList, nn.Sequential)
        there = [n for n, m in model.named_modules() if n and isinstance(m, kinds)]
        raise ValueError(
            f"{who}: needs a list of blocks ({', '.join(there) or 'none'}), got {name!r}"
        )
    kept = tuple(kept)
    whole = all(is_integer(k) and 0 <= k < len(blocks) for k in kept)
    if not kept or not whole or any(a >= b for a, b in zip(kept, kept[1:])):
        raise ValueError(f"{who}: needs ascending numbers below {len(blocks)}, got {kept}")
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, type(blocks)(*_listed(blocks, kept)))
    return model


def _listed(blocks, kept):
    chosen = [blocks[int(k)] for k in kept]
    return [chosen] if isinstance(blocks, nn.ModuleList) else chosen


def distill(
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable,
    optimizer: torch.optim.Optimizer,
    *,
    forward: Callable | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    clip: float = 1.0,
) -> Iterator[float]:
    """One step for each batch toward the outputs of a teacher; yields the losses.

    student: the model that is trained, in the mode that the caller has set.
    teacher: it runs in eval and without a gradient.
    batches: an iterable of batches, read once.
    optimizer: of the student; a scheduler may change its rates between the steps.
    forward: (model, batch) -> outputs; None: as `calibrate` does it.
    loss: (z, z_teacher) -> a number; None: the mean over vectors of |z - z_teacher|².
    clip: the largest norm of a gradient; a larger one is scaled to it.

    Raises ValueError for outputs of two shapes and a loss without a gradient.

    >>> student, teacher, x = nn.Linear(4, 2), nn.Linear(4, 2), torch.randn(32, 4)
    >>> adam = torch.optim.Adam(student.parameters(), 0.1)
    >>> losses = list(distill(student, teacher, [x] * 50, adam))
    >>> losses[-1] < 0.1 * losses[0]
    True
    """
    who, run, loss = "distill", forward or plain_forward, loss or mean_square
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    for batch in check_batches(who, batches):
        with torch.no_grad(), in_eval(teacher):
            wanted = run(teacher, batch)

        def closure(batch=batch, wanted=wanted):
            z = run(student, batch)
            if z.shape != wanted.shape:
                got = f"{tuple(z.shape)} and {tuple(wanted.shape)}"
                raise ValueError(f"{who}: needs outputs of one shape, got {got}")
            return loss(z, wanted)

        optimizer.zero_grad()
        value = evaluate(who, closure)
        value.backward()
        nn.utils.clip_grad_norm_(trained, clip)
        optimizer.step()
        yield float(value.detach())


def mean_square(z: Tensor, wanted: Tensor) -> Tensor:
    """The mean over vectors of |z - wanted|².

    >>> mean_square(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2))
    tensor(25.)
    """
    return (z - wanted).square().sum(-1).mean()
