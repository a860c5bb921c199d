"""A module that holds a format: its tensors are parameters, and its ranks may change.

    weight = form with tensors
    form: which format, without numbers        tensors: the parameters

The `Parameter` objects stay whatever numbers they are given, of other shapes too, for others hold
them as well: optimizers, living graphs, copies of the model in other processes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.autograd.graph import increment_version
from torch.nn.parallel import DistributedDataParallel

from ..formats.base import Format, SplitMatrix

W = TypeVar("W", bound=Format)


class Holding(nn.Module, Generic[W]):
    """A module whose weight is a format on its own parameters.

    weight: the format; its tensors are copied and become the parameters in the list `held`, under
    whose name a state dict stores them. Ranks that a state dict stores are adopted when it is
    loaded.
    """

    held = "tensors"

    def __init__(self, weight: W):
        super().__init__()
        self._form = weight.to("meta")  # how to put the tensors together; holds no numbers
        setattr(self, self.held, nn.ParameterList(copied(t) for t in weight.tensors()))

    @property
    def weight(self) -> W:
        """The format on the parameters themselves: gradients flow into them."""
        return self._form.with_tensors(getattr(self, self.held))

    @torch.no_grad()
    def set_weight(self, weight: W) -> None:
        """Put in another weight of the same kind, whose ranks may differ: the `Parameter` objects
        stay, their gradients are dropped.

        It may be called while graphs are alive, and under DistributedDataParallel by all processes
        alike: its next forward takes the new ranks in. The state that an optimizer keeps is the
        caller's to reset or to transport. Raises ValueError for another kind or shape of weight,
        and for parameters that `fully_shard` has sharded.
        """
        mine = list(getattr(self, self.held))
        if not self._fits(weight):
            raise ValueError(
                f"{type(self).__name__}.set_weight: needs a {described(self._form)}, got "
                f"{described(weight)}"
            )
        set_tensors(self, mine, [copied(t).to(p) for p, t in zip(mine, weight.tensors())])
        self._form = weight.to("meta")

    def _fits(self, weight: W) -> bool:
        """Whether a weight is of the kind and the shape of this one, its ranks aside."""
        form = self._form
        same = type(weight) is type(form) and weight.shape == form.shape
        return same and len(weight.tensors()) == len(form.tensors())

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        """The parameters, and the indices of rows that a format has beside its tensors."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if (rows := getattr(self._form, "rows", None)) is not None:
            destination[f"{prefix}rows"] = torch.tensor(rows)

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors
    ):
        """Adopt the ranks that are stored, before the tensors themselves are loaded."""
        mine = list(getattr(self, self.held))
        stored = [state_dict.get(f"{prefix}{self.held}.{k}") for k in range(len(mine))]
        rows = state_dict.pop(f"{prefix}rows", None) if hasattr(self._form, "rows") else None
        if reshaped(mine, stored) or rows is not None:
            index = () if rows is None else (tuple(rows.tolist()),)
            try:
                tensors = [t.to(self._form.dtype) for t in stored if t is not None]
                self.set_weight(self._form.with_tensors(tensors, *index))
            except (
                ValueError
            ) as error:  # torch gathers what does not fit, and raises it all at once
                errors.append(f"{prefix.rstrip('.')}: {error}")
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing, unexpected, errors
        )


@contextmanager
def meanwhile(layers: dict[str, Holding], weights: dict[str, Format]) -> Iterator[None]:
    """Inside the block the layers hold these weights, by name; after it those of before, whatever
    has happened in it.

    >>> from tensorlab import FactorizedLinear, LowRank
    >>> layer = FactorizedLinear(LowRank(torch.ones(3, 1), torch.ones(2, 1)))
    >>> with meanwhile({"0": layer}, {"0": LowRank(torch.zeros(3, 2), torch.zeros(2, 2))}):
    ...     layer(torch.ones(2)).tolist()
    [0.0, 0.0, 0.0]
    >>> layer.weight.ranks
    (1,)
    """
    held = {name: layers[name].weight for name in weights}
    before = {name: w.with_tensors(t.detach() for t in w.tensors()) for name, w in held.items()}
    try:
        for name, weight in weights.items():
            layers[name].set_weight(weight)
        yield
    finally:
        for name, weight in before.items():
            layers[name].set_weight(weight)


def described(weight) -> str:
    """A weight in a message: LowRank of shape (6, 4) with 2 tensors."""
    kind = type(weight).__name__
    if not isinstance(weight, Format):
        return kind
    modes = f", out={weight.out} and in={weight.in_}," if isinstance(weight, SplitMatrix) else ""
    return f"{kind} of shape {tuple(weight.shape)}{modes} with {len(weight.tensors())} tensors"


def copied(t: Tensor) -> Tensor:
    """A copy that is contiguous and that no graph knows of."""
    return t.detach().clone(memory_format=torch.contiguous_format)


def reshaped(parameters: Sequence[Tensor], stored: Sequence[Tensor | None]) -> bool:
    """Whether all are stored, and some in another shape."""
    there = [t for t in stored if t is not None]
    whole = len(there) == len(stored)
    return whole and any(p.shape != t.shape for p, t in zip(parameters, there))


# ------------------------------------------------------------------- numbers of parameters change


def set_tensors(module: nn.Module, parameters: list[Tensor], tensors: list[Tensor]) -> None:
    """Give each parameter of a module the numbers of a tensor of its dtype and device, of any
    shape; the `Parameter` objects stay, their gradients are dropped.

    A graph made before is stale: its backward raises RuntimeError, as it does after an optimizer's
    step. DistributedDataParallel takes the new shapes in at its next forward. Raises ValueError for
    parameters that are sharded.
    """
    if is_sharded(parameters):
        raise ValueError(
            f"{type(module).__name__}: needs whole parameters to change its weight, got shards; "
            f"change it before fully_shard, or train it under DistributedDataParallel"
        )
    others = reshaped(parameters, tensors)
    for p, t in zip(parameters, tensors):
        if p.shape != t.shape:
            _forget_shape(p)
        p.data, p.grad = t, None
        increment_version(p)
    if others and in_processes() and getattr(module, "_rejoining", None) is None:
        vars(module)["_rejoining"] = module.register_forward_pre_hook(_rejoin)


def is_sharded(parameters) -> bool:
    """Whether a process holds a part of one of these parameters only: a DTensor."""
    return any(hasattr(p, "placements") for p in parameters)


def in_processes() -> bool:
    """Whether this process is one of a group, of which DistributedDataParallel may have a model."""
    return distributed.is_available() and distributed.is_initialized()


def _forget_shape(p: Tensor) -> None:
    """Make a parameter let go of the node at which its gradients are summed.

    The node knows one shape and lives as long as a graph or DistributedDataParallel holds it.
    Torch makes a new one after a change of dtype, such as `half` does: so it is changed and back.
    """
    other = torch.float32 if p.dtype != torch.float32 else torch.float16
    p.data = torch.empty(0, dtype=other, device=p.device)


def _rejoin(module, inputs) -> None:
    """Before a forward: have the DistributedDataParallel that runs it make its buckets for the
    parameters as they are now."""
    wrapper = DistributedDataParallel._get_active_ddp_module()
    if wrapper is None or not (wrapper.require_backward_grad_sync and torch.is_grad_enabled()):
        return
    if wrapper.process_group != distributed.group.WORLD:
        raise ValueError(
            "DistributedDataParallel: needs the default process group to go on after a change of "
            "ranks, got another one; wrap the model again"
        )
    hooks, wrapper._comm_hooks = wrapper._comm_hooks, []
    wrapper.__setstate__(wrapper.__getstate__())  # as after unpickling
    for hook, state in hooks:
        wrapper.register_comm_hook(state, hook)
    for m in wrapper.module.modules():
        if getattr(m, "_rejoining", None) is not None:
            m._rejoining.remove()
            m._rejoining = None
