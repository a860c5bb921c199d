"""Other numbers, of other shapes too, in parameters that others hold: optimizers, living graphs,
copies of the model in other processes."""

import torch
from torch import Tensor, distributed, nn
from torch.autograd.graph import increment_version
from torch.nn.parallel import DistributedDataParallel


def put(module: nn.Module, parameters: list[Tensor], tensors: list[Tensor]) -> None:
    """Give each parameter of a module the numbers of a tensor of its dtype and device, of any
    shape; the `Parameter` objects stay, their gradients go.

    A graph made before is stale: its backward raises RuntimeError, as it does after an optimizer's
    step. DistributedDataParallel takes the new shapes in at its next forward. Raises ValueError for
    parameters that are sharded.
    """
    if is_sharded(parameters):
        raise ValueError(
            f"{type(module).__name__}: needs whole parameters to change its weight, got shards; "
            f"change it before fully_shard, or train it under DistributedDataParallel"
        )
    reshaped = any(p.shape != t.shape for p, t in zip(parameters, tensors))
    for p, t in zip(parameters, tensors):
        if p.shape != t.shape:
            _forget_shape(p)
        p.data, p.grad = t, None
        increment_version(p)
    if reshaped and in_processes() and getattr(module, "_rejoining", None) is None:
        module._rejoining = module.register_forward_pre_hook(_rejoin)


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
