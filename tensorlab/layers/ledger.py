"""What a training step holds: a ledger of the bytes of all tensors that are alive [Chekalina2023].

    load        parameters, buffers, inputs, what the optimizer has kept
    forward     + what autograd keeps for the gradient
    backward    - that, + the gradients
    step        + what the optimizer keeps from now on
    peak        the most at any moment

It is counted, not read off the process: each storage from the operation that makes it until nothing
holds it. What one operation of torch takes and gives back inside is not seen, nor what the
allocator keeps in reserve.
"""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MIB = 2**20


class Ledger(TorchDispatchMode):
    """Live bytes of the storages of some tensors and of all that are made while it is active, as a
    context.

    known: tensors that exist before. load: their bytes. live: bytes now. peak: the most so far.

    >>> x = torch.ones(1000)
    >>> with Ledger([x]) as ledger:
    ...     y = x + 1
    >>> ledger.load, ledger.live, ledger.peak
    (4000, 8000, 8000)
    """

    def __init__(self, known: Iterable[Tensor] = ()):
        super().__init__()
        self.live = self.peak = 0
        self._watched: dict[int, weakref.finalize] = {}
        for t in known:
            self._note(t)
        self.load = self.live

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for t in filter(torch.is_tensor, tree_leaves(result)):
            self._note(t)
        return result

    def __exit__(self, *error):
        for watched in self._watched.values():
            watched.detach()
        return super().__exit__(*error)

    def _note(self, t: Tensor) -> None:
        if t.is_meta:  # shapes without numbers
            return
        for part in (t._indices(), t._values()) if t.is_sparse else (t,):
            storage = part.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self._watched:
                self._watched[key] = weakref.finalize(storage, self._drop, key, size)
                self.live += size
        self.peak = max(self.peak, self.live)

    def _drop(self, key: int, size: int) -> None:
        self.live -= size
        del self._watched[key]


def peak_bytes(f: Callable, known: Iterable[Tensor] = ()) -> int:
    """Bytes of the tensors that f() makes and that are alive at once; `known` were there before.

    >>> peak_bytes(lambda: (torch.ones(1000) + 1).sum())
    8000
    """
    with Ledger(known) as ledger:
        result = f()
    del result
    return ledger.peak - ledger.load


@dataclass(frozen=True)
class StepMemory:
    """Bytes that are alive at the ends of the parts of a training step, and the most at any moment;
    step is None where no optimizer has stepped."""

    load: int
    forward: int
    backward: int
    step: int | None
    peak: int

    def __str__(self):
        parts = {name: n for name, n in vars(self).items() if n is not None}
        return ", ".join(f"{name} {n / MIB:.1f}" for name, n in parts.items()) + " MiB"


def training_memory(
    model: nn.Module,
    closure: Callable[[], Tensor],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    method: Any = None,
    inputs: Iterable[Tensor] = (),
) -> StepMemory:
    """What one training step holds, part by part.

    model: whose parameters and gradients are counted.
    closure: computes and returns the loss, without a backward.
    optimizer: steps after the backward; None: there is no step.
    method: a training method with `step(closure)` and `optimizer`, such as DLRT, instead of an
        optimizer; backward is then the moment before its optimizer steps.
    inputs: tensors that count as loaded.

    Old gradients are dropped first. The first step of an optimizer makes its state, and later ones
    begin with it: call it after one step to see the steady state. Raises ValueError for an
    optimizer and a method at once.

    >>> model, x = nn.Linear(256, 256, bias=False), torch.ones(1024, 256)
    >>> print(training_memory(model, lambda: model(x).square().sum(), inputs=[x]))
    load 1.2, forward 2.3, backward 1.5, peak 5.3 MiB
    """
    if optimizer is not None and method is not None:
        raise ValueError("training_memory: needs an optimizer or a method, got both")
    for p in model.parameters():
        p.grad = None
    stepper = optimizer if method is None else method.optimizer
    kept = (
        [] if stepper is None else tree_leaves([list(s.values()) for s in stepper.state.values()])
    )
    known = [*model.parameters(), *model.buffers(), *inputs, *filter(torch.is_tensor, kept)]
    seen: dict[str, int] = {}
    with Ledger(known) as ledger:

        def mark(name):
            seen.setdefault(name, ledger.live)

        def marked():
            loss = closure()
            mark("forward")
            return loss

        if method is not None:
            hook = method.optimizer.register_step_pre_hook(lambda *_: mark("backward"))
            try:
                method.step(marked)
            finally:
                hook.remove()
        else:
            marked().backward()
            mark("backward")
            if optimizer is not None:
                optimizer.step()
        after = None if stepper is None else ledger.live
    return StepMemory(ledger.load, seen["forward"], seen["backward"], after, ledger.peak)
