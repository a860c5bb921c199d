"""What the processes of tests/parallel do: functions that a spawned process can import."""

import os
import time

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import tensorlab as tl
from tensorlab import papers
from tensorlab.models import gpt
from tensorlab.models.training import batch_loss, batches, data_parallel, each_alone, train
from tensorlab.papers.program import Program
from tensorlab.parallel import sharding
from tensorlab.parallel.distributed import Collectives

F64 = torch.float64


def gaussian(*shape, seed=0):
    return tl.rng.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


# --------------------------------------------------------------------------------------- the runner


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


# -------------------------------------------------------------------------------------------- bytes


def by_hand():
    t = torch.ones(6, dtype=F64)
    with Collectives() as seen:
        dist.all_reduce(t)
        dist.broadcast(t, 0)
        dist.all_gather_into_tensor(torch.empty(12, dtype=F64), t)
        dist.reduce_scatter_tensor(torch.empty(3, dtype=F64), t)
    return seen.seen, seen.wire(2)


# --------------------------------------------------------------------------------- data in parallel


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


# ---------------------------------------------------------------------------------------- pipelines


def stage_of(k, stages=None):
    g = torch.Generator().manual_seed(k)
    return tl.layers.linear.redraw(nn.Sequential(nn.Linear(8, 8), nn.Tanh()).double(), g)


def pipe_data():
    return gaussian(8, 8, seed=3), gaussian(8, 8, seed=4)


def error(out, y):
    return (out - y).square().mean()


def pipe_whole(stages, steps=3):
    """The same stages trained in one process."""
    model, losses = nn.Sequential(*map(stage_of, range(stages))), []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x, y = pipe_data()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = error(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return {k: stage.state_dict() for k, stage in enumerate(model)}, losses


# ------------------------------------------------------------------------------ tensors in parallel

WEIGHTS = {  # w (out, in) of 8 x 8 modes; made by name, for a format that travels is a copy
    "LowRank": lambda g: tl.LowRank.randn((64, 64), 4, generator=g, dtype=F64),
    "LowRank, three": lambda g: tl.LowRank.randn((64, 64), 4, generator=g, dtype=F64).orthogonal(),
    "TTMatrix": lambda g: tl.TTMatrix.randn((64, 64), 3, generator=g, dtype=F64),
    "TTMatrix, three": lambda g: tl.TTMatrix.randn((64, 64), 2, cores=3, generator=g, dtype=F64),
    "BlockTT": lambda g: tl.BlockTT.randn((64, 64), 2, generator=g, dtype=F64),
    "BlockTT, three": lambda g: tl.BlockTT.randn((64, 64), 2, cores=3, generator=g, dtype=F64),
    "Monarch": lambda g: tl.Monarch.randn((64, 64), blocks=4, generator=g, dtype=F64),
}


def pair(name):
    g = torch.Generator().manual_seed(5)
    up, down = (
        tl.FactorizedLinear(WEIGHTS[name](g).initial(), gaussian(64, seed=k)) for k in (1, 2)
    )
    return nn.Sequential(up, nn.GELU(), down)


def passed(model, x, first=lambda t: t):
    """Output, and gradients of the input and of the parameters, with what each pass sent."""
    x = x.clone().requires_grad_()
    with Collectives() as forward:
        y = model(first(x))
    with Collectives() as backward:
        y.square().sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    return y.detach(), x.grad, grads, forward, backward


def split_in_two(name, up_at, down_at):
    """A pair of layers, cut by columns and by rows, beside the whole of it."""
    x, whole = gaussian(6, 64, seed=9), pair(name)
    y, dx, grads, *_ = passed(whole, x)
    cut = pair(name)
    cut[0] = sharding.ShardedLinear(cut[0], "column", at=up_at)
    cut[2] = sharding.ShardedLinear(cut[2], "row", at=down_at)
    got_y, got_dx, got, forward, backward = passed(cut, x)
    rank = dist.get_rank()
    off = [(got_y - y).norm() / y.norm(), (got_dx - dx).norm() / dx.norm()]
    for k in (0, 2):
        for n, g in enumerate(whole[k].tensors):
            expected, mode = g.grad, cut[k].cut.get(n)
            if mode is not None:
                expected = expected.chunk(2, mode)[rank]
            off.append((got[f"{k}.tensors.{n}"] - expected).norm() / expected.norm())
    expected = grads["0.bias"].chunk(2)[rank]
    off.append((got["0.bias"] - expected).norm() / expected.norm())
    off.append((got["2.bias"] - grads["2.bias"]).norm() / grads["2.bias"].norm())
    again = torch.equal(cut[0].gathered().to_dense(), whole[0].weight.to_dense().detach())
    return float(max(off)), forward.seen, backward.seen, again


def dense_in_two():
    """The same with dense layers, by DTensor."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    g, x = torch.Generator().manual_seed(0), gaussian(6, 64, seed=9)
    model = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64)).double()
    y, dx, *_ = passed(tl.layers.linear.redraw(model, g), x)
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    parallelize_module(model, init_device_mesh("cpu", (2,)), plan)
    model.zero_grad()
    got_y, got_dx, _, forward, backward = passed(model, x)
    return float(max((got_y - y).norm(), (got_dx - dx).norm())), forward.seen, backward.seen


def dealt(name):
    """A layer cut along the numbers of its blocks."""
    x, (whole, *_) = gaussian(6, 64, seed=9), pair(name)
    y, dx, *_ = passed(whole, x)
    rank, cut = dist.get_rank(), sharding.DealtLinear(whole)
    got_y, got_dx, got, forward, backward = passed(cut, x.chunk(2, 1)[rank])
    a, b = whole.weight.out
    rows = y.reshape(6, a, b).chunk(2, 2)[rank].flatten(1)
    left, right = (p.grad for p in whole.tensors)
    expected = {"left": left.chunk(2, 1)[rank], "right": right.chunk(2, 0)[rank]}
    off = [(got_y - rows).norm() / y.norm(), (got_dx - dx.chunk(2, 1)[rank]).norm() / dx.norm()]
    off += [(got[k] - t).norm() / t.norm() for k, t in expected.items()]
    mine = sum(p.numel() for p in cut.parameters())
    return float(max(off)), mine, forward.seen, backward.seen


def planned():
    """A model sharded by a plan and trained, beside the whole of it."""
    x, model = gaussian(6, 64, seed=9), pair("LowRank")
    whole = trained(pair("LowRank"), x, torch.zeros(6, 64, dtype=F64))
    sharding.shard(model, {"0": "column", "2": "row"})
    trained(model, x, torch.zeros(6, 64, dtype=F64))
    weights = [model[k].gathered().to_dense() for k in (0, 2)]
    before = [whole[f"{k}.tensors.0"] @ whole[f"{k}.tensors.1"].mT for k in (0, 2)]
    return float(max((a - b).norm() / b.norm() for a, b in zip(weights, before)))


# ------------------------------------------------------------------ matrix methods in data parallel


def dlrt(rank=3, theta=0.003, steps=4):
    """DLRT under DistributedDataParallel: ranks after each step and what the last one sent, besides
    the numbers of its layers."""
    g, part = torch.Generator().manual_seed(0), slice(dist.get_rank(), None, 2)
    start = lambda w: tl.dlrt_start(w.shape, rank, decay=2.0, generator=g, dtype=F64)
    model = tl.replace_linear(mlp(), ["0", "2"], start)
    wrapped, (x, y) = DistributedDataParallel(model), (t[part] for t in data())
    method = tl.DLRT(wrapped, torch.optim.SGD(model.parameters(), 0.05), theta=theta)
    ranks = []
    for _ in range(steps):
        before = method.ranks
        with Collectives() as seen:
            method.step(lambda: error(wrapped(x), y))
        ranks.append(method.ranks)
    shapes = [layer.weight.shape for layer in method.layers.values()]
    rest = sum(p.numel() for n, p in model.named_parameters() if "tensors" not in n)
    return ranks, list(before.values()), shapes, rest, seen.seen


def power_sgd(rank, steps=4):
    """Bytes that rank-k compression sends for a layer's gradient in a step, and all its losses."""
    from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as power

    part = slice(dist.get_rank(), None, 2)
    model, (x, y) = DistributedDataParallel(mlp().float()), (t[part].float() for t in data())
    if rank:
        options = dict(matrix_approximation_rank=rank, start_powerSGD_iter=2)
        state = power.PowerSGDState(None, min_compression_rate=1, **options)
        model.register_comm_hook(state, power.powerSGD_hook)
    optimizer, losses = torch.optim.SGD(model.parameters(), 0.05), []
    with Collectives().calls() as sent:
        for _ in range(steps):
            sent.seen.clear()
            optimizer.zero_grad()
            loss = error(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return sent.bytes.get("all_reduce", 0), losses


# ------------------------------------------------------------------------------------------- sweeps


def fit(rank, seed, lr, log=None, dies_at=None):
    """A low-rank fit by Adam. log: a file that gets a line for each call; dies_at: at which of them
    the process is killed, as it starts."""
    if log is not None:
        with open(log, "a") as file:
            file.write(f"{rank} {seed} {lr}\n")
        if dies_at is not None and len(open(log).readlines()) == dies_at:
            os._exit(9)
    a = gaussian(12, 10, seed=seed)
    u, v = (gaussian(n, rank, seed=seed + k).requires_grad_() for n, k in ((12, 1), (10, 2)))
    optimizer = torch.optim.Adam([u, v], lr)
    for _ in range(20):
        optimizer.zero_grad()
        loss = (u @ v.mT - a).square().mean()
        loss.backward()
        optimizer.step()
    return {"loss": float(loss.detach()), "threads": torch.get_num_threads()}


def killed_sweep(path, log, points, dies_at):
    from functools import partial

    from tensorlab.parallel.sweeps import sweep

    sweep(partial(fit, log=log, dies_at=dies_at), points, path, progress=False)


# ---------------------------------------------------------------------------- programs by torchrun


def _classes():
    """101 rows in batches of 20: the last one has a row for the first of two processes only."""
    g = torch.Generator().manual_seed(7)
    return gaussian(101, 16, seed=6), torch.randint(4, (101,), generator=g)


def _classifier(low=False):
    g = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh())
    net = tl.layers.linear.redraw(net.append(nn.Linear(24, 4)).double(), g)
    start = lambda w: tl.dlrt_start(w.shape, 6, decay=2.0, generator=g, dtype=F64)
    factors = {"s": start, "two": lambda w: start(w).merged()}
    return tl.replace_linear(net, ["0", "2"], factors[low]) if low else net


def _by_method(model, make):
    (x, y), g = _classes(), torch.Generator().manual_seed(1)
    method = make(torch.optim.SGD(model.parameters(), 0.05, momentum=0.9))
    wrapped = data_parallel(model)
    for rows in batches(len(y), 20, epochs=3, generator=g):
        loss = method.step(lambda rows=rows: batch_loss(wrapped, x[rows], y[rows]))
    return loss if isinstance(method, tl.FactorSGD) else torch.zeros(())


def _by_windows(model, **settings):
    """18 steps, and cuts by the outputs for all rows after 4, 8, 12, 16 and the last."""
    settings |= dict(total=18, window=4, inputs=lambda: model(_classes()[0]))
    return _by_method(model, lambda sgd: tl.TangentDLRT(model, sgd, **settings))


class Dropping(nn.Module):
    """A dropout that no module shows."""

    def __init__(self, p):
        super().__init__()
        self.layer, self.p = nn.Linear(16, 4).double(), p

    def forward(self, x):
        return nn.functional.dropout(self.layer(x), self.p, self.training)


def shared_loss(model):
    """The gradient of the batch's loss for all parameters together, by however many there are."""
    wrapped = data_parallel(model)
    batch_loss(wrapped, *_classes()).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def _plain(model):
    g, sgd = torch.Generator().manual_seed(1), torch.optim.SGD(model.parameters(), 0.05, 0.9)
    *_, loss = train(data_parallel(model), sgd, *_classes(), epochs=3, batch=20, generator=g)
    return loss


def _characters(model):
    g, sgd = torch.Generator().manual_seed(1), torch.optim.SGD(model.parameters(), 0.1)
    tokens = torch.randint(5, (200,), generator=g)
    return [*gpt.train(data_parallel(model), sgd, tokens, steps=9, batch=3, generator=g)][-1]


def _gpt():
    g = torch.Generator().manual_seed(0)
    return gpt.GPT(5, width=8, depth=1, heads=2, context=6, generator=g).double()


TRAININGS = {  # how a model is made, and trained
    "SGD": (_classifier, _plain),
    "text": (_gpt, _characters),
    "DLRT": (
        lambda: _classifier("s"),
        lambda m: _by_method(m, lambda sgd: tl.DLRT(m, sgd, theta=0.1)),
    ),
    "in turn": (
        lambda: _classifier("two"),
        lambda m: _by_method(m, lambda sgd: tl.FactorSGD(m, sgd, alternate=True)),
    ),
    "joint": (
        lambda: _classifier("two"),
        lambda m: _by_method(m, lambda sgd: tl.FactorSGD(m, sgd)),
    ),
    "windows": (lambda: _classifier("two"), lambda m: _by_windows(m, budget=264)),
    "windows of factors": (
        lambda: _classifier("two"),
        lambda m: _by_windows(m, budget=264, steps="factors"),
    ),
    "windows that grow": (lambda: _classifier("two"), lambda m: _by_windows(m, theta=0.1)),
    "ADMM": (
        _classifier,
        lambda m: _by_method(
            m,
            lambda sgd: tl.ADMM(
                m, sgd, {"0": lambda w: tl.LowRank.from_dense(w, 3)}, rho=0.5, every=4
            ),
        ),
    ),
}


def _trained_row(size, how):
    """The loss, and the inner product of what comes out of the network, which no other choice of
    bases changes, with numbers that are always the same."""
    make, run = TRAININGS[how]
    model = make()
    loss = run(model)
    x = torch.arange(30).view(5, 6) % 5 if how == "text" else _classes()[0]
    flat = model(x).detach().flatten()
    return {"loss": float(loss), "seen": float(gaussian(len(flat), seed=8) @ flat)} | _who()


def _who():
    """Which process it is, by its number and that of the system."""
    return {"rank": dist.get_rank() if dist.is_initialized() else 0, "pid": os.getpid()}


def _in_sequence(size):
    def cases(table):
        yield {"n": 1}
        while len(table) < 3:  # each looks at the row before
            yield {"n": table.rows[-1]["square"] + 1}

    return cases


def _in_groups(size):
    def cases(table):
        yield [{"n": n} for n in (1, 2, 3)]
        yield [{"n": n} for n in table["square"][1:]]  # which look at the group before

    return cases


def programs():
    sizes, square = {"quick": {}, "full": {}}, lambda size, n: {"square": n * n, **_who()}
    many = lambda size: [{"n": n} for n in range(5)]
    made = [
        Program(
            "Batches",
            "Trainings.",
            sizes,
            lambda size: [{"how": how} for how in TRAININGS],
            _trained_row,
            share="batches",
        ),
        Program("Rows", "Squares.", sizes, many, square),
        Program("Sequence", "Squares of squares.", sizes, _in_sequence, square),
        Program("Groups", "Squares of squares.", sizes, _in_groups, square),
    ]
    return {program.key: program for program in made}


def by_itself(how):
    """A training that no other process takes part in."""
    with each_alone():
        return _trained_row({}, how)


def run_in(folder, key, **options):
    """The table of a program, run in this folder."""
    here = os.getcwd()
    os.chdir(folder)
    try:
        return programs()[key].run("quick", **options)
    finally:
        os.chdir(here)


def main(*keys):
    """What `tensorlab run KEY` does, with these programs."""
    papers.programs = programs
    with papers.processes.group():
        for key in keys:
            papers.run(key, "quick")


if __name__ == "__main__":
    import sys

    main(*sys.argv[1:])
