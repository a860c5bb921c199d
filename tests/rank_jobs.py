"""What the processes of tests/parallel do: functions that a spawned process can import."""

import os
import time

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import tensorlab as tl
from tensorlab.parallel.distributed import Collectives, Recorder

F64 = torch.float64


def gaussian(*shape, seed=0):
    return tl.rng.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


# ------------------------------------------------------------------------------------------ the runner


def summed(number):
    t = torch.tensor([float(number + dist.get_rank())])
    dist.all_reduce(t)
    return t, dist.get_rank(), os.getpid(), torch.get_num_threads()


def fails(on=(), how="raise"):
    """Fails on these ranks, in a way that others may have to wait for."""
    if dist.get_rank() in on:
        if how == "raise":
            raise ValueError(f"a number {dist.get_rank()}")
        os._exit(3) if how == "die" else time.sleep(600)
    if len(on) < dist.get_world_size():
        dist.barrier()


# --------------------------------------------------------------------------------------------- bytes


def by_hand():
    t = torch.ones(6, dtype=F64)
    with Collectives() as seen:
        dist.all_reduce(t)
        dist.broadcast(t, 0)
        dist.all_gather_into_tensor(torch.empty(12, dtype=F64), t)
        dist.reduce_scatter_tensor(torch.empty(3, dtype=F64), t)
    return seen.seen, seen.wire(2)


# ------------------------------------------------------------------------------------ data in parallel


def mlp():
    g = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1)
    )
    return tl.layers.linear.redraw(net.double(), g)


def data():
    return gaussian(16, 16, seed=1), gaussian(16, 1, seed=2)


def whole(steps=8):
    """The same in one process, on the whole batch."""
    return trained(mlp(), *data(), steps)


def trained(model, x, y, steps=8):
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    return {name.removeprefix("module."): t.detach() for name, t in model.named_parameters()}


def ddp():
    part = slice(dist.get_rank(), None, dist.get_world_size())
    x, y = (t[part] for t in data())
    model = DistributedDataParallel(mlp())
    seen = Collectives()
    seen.watch(model)
    return trained(model, x, y), seen.bytes


def fsdp():
    """FSDP2, by SGD: Adam would hide a constant factor of the gradient."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    world, part = dist.get_world_size(), slice(dist.get_rank(), None, dist.get_world_size())
    model, mesh = mlp(), init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    x, y = (t[part] for t in data())
    mine = sum(p.to_local().numel() for p in model.parameters())
    state = trained(model, x, y)
    with Collectives() as seen:
        (model(x) - y).square().mean().backward()
    return {name: t.full_tensor() for name, t in state.items()}, mine * world, seen.counts


# ------------------------------------------------------------------------------------------- pipelines


def stage_of(k):
    g = torch.Generator().manual_seed(k)
    return tl.layers.linear.redraw(nn.Sequential(nn.Linear(8, 8), nn.Tanh()).double(), g)


def pipe_data():
    return gaussian(8, 8, seed=3), gaussian(8, 8, seed=4)


def error(out, y):
    return (out - y).square().mean()


def pipe_whole(stages, steps=3):
    model = nn.Sequential(*map(stage_of, range(stages)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x, y = pipe_data()
    for _ in range(steps):
        optimizer.zero_grad()
        error(model(x), y).backward()
        optimizer.step()
    return {k: stage.state_dict() for k, stage in enumerate(model)}


def piped(name, micro, chunks, steps=3):
    """A pipe trained by torch's schedule of this name; what ran in its last step."""
    from torch.distributed import pipelining

    rank, world = dist.get_rank(), dist.get_world_size()
    held = range(rank, chunks * world, world)
    modules = [stage_of(k) for k in held]
    stages = [
        pipelining.PipelineStage(m, k, chunks * world, torch.device("cpu"))
        for m, k in zip(modules, held)
    ]
    recorder = Recorder(*stages)
    schedule = getattr(pipelining, f"Schedule{name}")(
        stages if name.startswith("Inter") else stages[0], micro, loss_fn=error
    )
    optimizer = torch.optim.SGD([p for m in modules for p in m.parameters()], 0.1)
    x, y = pipe_data()
    for _ in range(steps):
        recorder.clear()
        optimizer.zero_grad()
        schedule.step(*[x] * (rank == 0), **{"target": y} if rank == world - 1 else {})
        optimizer.step()
    return {k: m.state_dict() for k, m in zip(held, modules)}, recorder.gather()
