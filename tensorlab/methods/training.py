"""What all methods with step(closure) ask of a closure, an optimizer and a model, so that a
training that would do nothing says so; and gradients that several processes have in common."""

import inspect
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from ..formats.base import Format
from ..formats.lowrank import LowRank
from ..layers.dense import parameters_of
from ..layers.holding import in_processes, is_sharded
from ..layers.linear import FactorizedLinear

IDLE = 20  # steps in a row without a gradient after which a layer is named
# what optimizers keep for a parameter: averages of the gradient, averages or sums of its squares
MEANS = {"momentum_buffer", "exp_avg", "grad_avg", "ax", "prev"}
SQUARES = {"exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "acc_delta"}
OTHER = {  # what a layer needs that has another number of factors
    2: "of two factors, as LowRank.from_dense(w, r) or w.merged() gives, got a middle factor",
    3: "with a middle factor, as LowRank.from_dense(w, r).orthogonal() or dlrt_start(w.shape, r) "
    "gives, got two factors",
}

# ------------------------------------------------------------------------------------- the protocol


class TrainingMethod(ABC):
    """What every training method can do: one step, the ranks that it has reached, one checkpoint.

    optimizer: the one of torch's that the method steps; learning rates are its groups'. steps: how
    many there have been. A closure computes and returns the loss of the batch, without a backward.
    """

    optimizer: torch.optim.Optimizer
    steps: int

    @abstractmethod
    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """One step of the training; returns the loss before it, detached."""

    @property
    @abstractmethod
    def ranks(self) -> dict[str, int | tuple[int, ...]]:
        """The rank of each layer that is kept low, by name; a tuple if its format has several."""

    def state_dict(self) -> dict:
        """What a checkpoint needs besides `model.state_dict()`, for `save_state`."""
        return {"steps": self.steps, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken, bit for bit; the model's own state, its ranks with
        it, is loaded first."""
        self.steps = state["steps"]
        self.optimizer.load_state_dict(state["optimizer"])


def rank_of(w: Format) -> int | tuple[int, ...]:
    """The rank of a format, or its ranks where it has several.

    >>> from tensorlab import TT, LowRank
    >>> rank_of(LowRank.randn((5, 4), 2)), rank_of(TT.randn((3, 4, 5), 2))
    (2, (2, 2))
    """
    return w.ranks[0] if len(w.ranks) == 1 else w.ranks


# ---------------------------------------------------------------------------- before the first step


def low_rank_layers(who: str, model: nn.Module, factors: int) -> dict[str, FactorizedLinear]:
    """The trainable layers on a `LowRank` of so many factors, 2 or 3, by name. Raises ValueError
    where there is none, for another number of factors, numbers of 16 bits, and shared weights."""
    layers = {
        name: m
        for name, m in model.named_modules()
        if isinstance(m, FactorizedLinear)
        and isinstance(m.weight, LowRank)
        and any(t.requires_grad for t in m.tensors)
    }
    if not layers:
        raise ValueError(
            f"{who}: needs a model with a trainable layer on a LowRank, got {type(model).__name__} "
            f"without one"
        )
    for name, layer in layers.items():
        if len(layer.tensors) != factors:
            raise ValueError(f"{who}: layer {name!r} needs a LowRank {OTHER[factors]}")
        if layer.weight.dtype.to_real().itemsize < 4:
            raise ValueError(
                f"{who}: layer {name!r} needs numbers of 32 bits or more, got "
                f"{layer.weight.dtype}; autocast computes in fewer"
            )
    if len({id(t) for layer in layers.values() for t in layer.tensors}) < factors * len(layers):
        raise ValueError(
            f"{who}: needs layers that share no weight, got some shared among {', '.join(layers)}"
        )
    return layers


def check_optimizer(who: str, optimizer, *, rates: bool = False) -> None:
    """Raises ValueError for anything but an optimizer of groups, for dense gradients, whose step
    needs no closure; rates: and whose groups have learning rates."""
    got = type(optimizer).__name__
    if not hasattr(optimizer, "param_groups") or isinstance(optimizer, torch.optim.SparseAdam):
        raise ValueError(f"{who}: needs an optimizer of torch for dense gradients, got {got}")
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ValueError(
            f"{who}: needs an optimizer that steps on gradients alone, got {got}, whose step needs "
            f"a closure"
        )
    if rates and not all("lr" in group for group in optimizer.param_groups):
        raise ValueError(
            f"{who}: needs learning rates in the optimizer's groups, got {got} without"
        )


def check_trained(who: str, optimizer, parameters: dict[str, Tensor]) -> None:
    """Raises ValueError where the optimizer does not hold one of these parameters, by name, or it
    is frozen."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, p in parameters.items():
        if not p.requires_grad:
            raise ValueError(
                f"{who}: needs parameters that require a gradient, got a frozen {name}"
            )
        if id(p) not in held:
            raise ValueError(f"{who}: the optimizer needs the {name}, got one without it")


def weights_of(layers: dict[str, nn.Module]) -> dict[str, Tensor]:
    """For each dense layer, by what it is called in a message, the parameter that its weight is
    computed from, the first of several."""
    held = {f"weight of layer {name!r}": parameters_of(layer) for name, layer in layers.items()}
    return {name: parameters[0] for name, parameters in held.items() if parameters}


def gets_gradient(layer: nn.Module) -> bool:
    """Whether the weight of a dense layer has a gradient now."""
    return any(p.grad is not None for p in parameters_of(layer))


def unfrozen(who: str, tensors: dict[str, list[Tensor]]) -> list[str]:
    """The names of the layers whose tensors are trained. Raises ValueError where one is frozen in
    part, or all are frozen."""
    moves = {name: [t.requires_grad for t in ts] for name, ts in tensors.items()}
    for name, move in moves.items():
        if any(move) and not all(move):
            raise ValueError(f"{who}: needs layer {name!r} trained or frozen, got it in part")
    if not any(map(all, moves.values())):
        raise ValueError(f"{who}: needs a layer to train, got {', '.join(tensors)} frozen")
    return [name for name, move in moves.items() if all(move)]


def group_of(optimizer, p: Tensor) -> dict:
    """The optimizer's group that holds a parameter, with the learning rate that it has now."""
    return next(g for g in optimizer.param_groups if any(p is q for q in g["params"]))


def check_whole(who: str, model: nn.Module, optimizer) -> None:
    """Raises ValueError where parameters are sharded: bases and singular values need them whole."""
    if not in_processes():
        return
    stepped = (p for group in optimizer.param_groups for p in group["params"])
    if is_sharded([*model.parameters(), *stepped]) or any(map(_shards, model.modules())):
        raise ValueError(
            f"{who}: needs whole parameters in each process, got some that are sharded; wrap the "
            f"model in DistributedDataParallel instead, its low-rank layers are small"
        )


def _shards(module) -> bool:
    names = {kind.__name__ for kind in type(module).__mro__}
    return bool(names & {"FSDPModule", "FullyShardedDataParallel"})


# ---------------------------------------------------------------------------------- loss, gradients


def evaluate(who: str, closure: Callable[[], Tensor]) -> Tensor:
    """The loss that a closure returns, with its graph, even where gradients are off for the step.

    Raises ValueError for anything but one real number that depends on a parameter.
    """
    with torch.enable_grad():
        loss = closure()
    if not isinstance(loss, Tensor):
        got = type(loss).__name__
    elif loss.numel() != 1 or not loss.is_floating_point():
        got = f"shape {tuple(loss.shape)} of {loss.dtype}"
    elif not loss.requires_grad:
        got = "one without: made under no_grad, detached, or of frozen parameters only"
    else:
        return loss
    raise ValueError(
        f"{who}: closure needs to return the loss, a real number with a gradient, got {got}"
    )


def backward(loss: Tensor, leaves) -> list[Tensor | None]:
    """The gradients of a loss for these leaves, left in their `grad` too; None where it does not
    depend on one.

    Nothing else gets a gradient, unless the loss passes through reentrant checkpointing, which
    allows only the backward of everything.
    """
    leaves = list(leaves)
    for p in leaves:
        p.grad = None
    loss.backward(inputs=None if _reenters(loss) else leaves)
    return [p.grad for p in leaves]


def _reenters(loss: Tensor) -> bool:
    """Whether a graph holds a node of reentrant checkpointing, of torch or of others that follow
    it."""
    front, seen = [loss.grad_fn], set()
    while front:
        node = front.pop()
        if node is None or node in seen:
            continue
        if type(node).__name__ == "CheckpointFunctionBackward":
            return True
        seen.add(node)
        front += [before for before, _ in node.next_functions]
    return False


def check_finite(who: str, name: str, step: int, *tensors: Tensor) -> None:
    """Raises FloatingPointError where the numbers of a layer are no longer finite at this step: the
    training has diverged."""
    if not all(bool(torch.isfinite(t.sum())) for t in tensors):
        raise FloatingPointError(
            f"{who}: needs finite numbers, got some that are not in layer {name!r} at step {step}"
        )


def check_reached(who: str, asked, reached) -> None:
    """Raises ValueError where none of the layers to train, by name, has a gradient."""
    if not reached:
        raise ValueError(
            f"{who}: closure needs to return a loss that depends on a layer to train, got no "
            f"gradient for any of {', '.join(asked)}"
        )


class Idle:
    """Counts the steps in a row in which a layer has had no gradient, and warns once of a layer
    that has had none for `IDLE` steps."""

    def __init__(self, who: str):
        self.who, self.steps = who, Counter()

    def note(self, asked, reached) -> None:
        """asked: names of the layers to train. reached: those of them that have a gradient."""
        for name in asked:
            self.steps[name] = 0 if name in reached else self.steps[name] + 1
            if self.steps[name] == IDLE:
                warnings.warn(
                    f"{self.who}: layer {name!r} has had no gradient of the loss for {IDLE} steps",
                    stacklevel=3,
                )


# ------------------------------------------------------------------------------------------ buffers


@contextmanager
def spared_buffers(model: nn.Module) -> Iterator[None]:
    """Forwards in the block write to copies of the model's buffers, such as running statistics,
    which are dropped at its end."""
    own = [
        (module, name, b)
        for module in model.modules()
        for name, b in module._buffers.items()
        if b is not None and not is_lazy(b)
    ]
    copies = {id(b): b.clone() for *_, b in own}  # one of each, where modules share it
    for module, name, b in own:
        module._buffers[name] = copies[id(b)]
    try:
        yield
    finally:
        for module, name, b in own:
            module._buffers[name] = b


# -------------------------------------------------------------------------------- several processes


class Processes:
    """The processes whose batches make one step: those of the DistributedDataParallel that a
    closure runs, or this one alone.

    Inside `unreduced` the wrapper leaves gradients as each process has them, and `mean` averages
    those that a method asked for.
    """

    def __init__(self):
        self.wrappers = []

    @contextmanager
    def unreduced(self, layers) -> Iterator[None]:
        """DistributedDataParallel does not reduce what runs in the block. layers: some that its
        forward is known to call."""
        layers = layers if in_processes() else ()
        handles = [
            layer.register_forward_pre_hook(self._take_over, prepend=True) for layer in layers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for wrapper in self.wrappers:
                wrapper.require_backward_grad_sync = wrapper.require_forward_param_sync = True
            self.wrappers = []

    def _take_over(self, layer, inputs):
        wrapper = DistributedDataParallel._get_active_ddp_module()
        if wrapper is None or not wrapper.require_backward_grad_sync:
            return
        if wrapper.static_graph:
            raise ValueError(
                "DistributedDataParallel: needs static_graph=False for a method that changes the "
                "graph, got True"
            )
        wrapper.require_backward_grad_sync = False
        self.wrappers.append(wrapper)

    def mean(self, gradients: list[Tensor | None], leaves) -> list[Tensor | None]:
        """The mean over the processes of the gradients of these leaves, None where no process has
        one."""
        if not self.wrappers:
            return gradients
        group = self.wrappers[0].process_group
        flags = torch.tensor([g is not None for g in gradients], device=leaves[0].device).float()
        distributed.all_reduce(flags, group=group)
        whole = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, leaves)]
        for like in dict.fromkeys((g.dtype, g.device) for g in whole):  # one message for each kind
            kind = [g for g in whole if (g.dtype, g.device) == like]
            flat = torch.cat([g.flatten() for g in kind]) / group.size()
            distributed.all_reduce(flat, group=group)
            for g, part in zip(kind, flat.split([g.numel() for g in kind])):
                g.copy_(part.view_as(g))
        for wrapper in self.wrappers:  # the next forward takes the first process's buffers again
            wrapper.require_forward_param_sync = True
        return [g if n else None for g, n in zip(whole, flags.tolist())]
