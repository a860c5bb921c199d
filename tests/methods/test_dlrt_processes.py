"""Low-rank training in two processes, each on half a batch, is that of one process on all of it.

This file is also the program of a process: `python test_dlrt_processes.py FOLDER RANK`. One start
of the two runs every case; what came out lies in FOLDER, one file a process.
"""

import contextlib
import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

import tensorlab as tl
from tensorlab.layers.linear import redraw
from tensorlab.methods.riemannian import RiemannianSGD

F64, STEPS = torch.float64, 6
SGD = lambda model: torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
ADAM = lambda model: torch.optim.Adam(model.parameters(), 0.01)
CASES = {  # name: optimizer, settings of DLRT, how the model is wrapped, which is given to DLRT
    "adaptive": (SGD, dict(theta=0.003), {}, "wrapper"),
    "fixed": (SGD, dict(theta=None), {}, "wrapper"),
    "now and then": (ADAM, dict(theta=0.003, every=2), {}, "model"),
    "unused": (SGD, dict(theta=0.003), dict(find_unused_parameters=True), "wrapper"),
    "windows": (ADAM, dict(theta=0.05, total=STEPS, window=2, spares=1), {}, "wrapper"),
    "windows, views": (
        SGD,
        dict(budget=81, total=STEPS, window=1),
        dict(gradient_as_bucket_view=True),
        "model, then wrapped",
    ),
    "views": (SGD, dict(theta=0.003), dict(gradient_as_bucket_view=True), "model, then wrapped"),
}
pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")


def gaussian(*shape, seed):
    return tl.rng.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def network(spare=False):
    g = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 2))
    model = redraw(model.double(), g)
    start = lambda w: tl.dlrt_start(w.shape, 3, decay=2.0, generator=g, dtype=F64)
    if spare:
        model[1].spare = redraw(nn.Linear(2, 2, dtype=F64), g)  # which no forward calls
    return tl.replace_linear(model, ["0", "2"], start)


def batches(part=slice(None)):
    for k in range(STEPS):
        yield gaussian(8, 6, seed=10 + k)[part], gaussian(8, 2, seed=50 + k)[part]


def error(model, x, y):
    return (model(x) - y).square().mean()


def trained(case, part=slice(None), wrap=lambda model, **options: model):
    optimizer, settings, options, given = CASES[case]
    model = network(spare="find_unused_parameters" in options)
    kind, inputs = tl.DLRT, gaussian(20, 6, seed=7)
    if case.startswith("windows"):
        kind, settings = tl.TangentDLRT, settings | dict(inputs=lambda: model(inputs))
        for k in (0, 2):
            model[k] = tl.FactorizedLinear(model[k].weight.merged(), model[k].bias)
    early = kind(model, optimizer(model), **settings) if "then" in given else None
    wrapped = wrap(model, **options)
    known = wrapped if given == "wrapper" else model
    method = early or kind(known, optimizer(model), **settings)
    ranks = []
    for x, y in batches(part):
        method.step(lambda: error(wrapped, x, y))  # noqa: B023
        ranks.append(list(method.ranks.values()))
    for x, y in batches(part):  # and on without DLRT, by plain steps
        method.optimizer.zero_grad()
        error(wrapped, x, y).backward()
        method.optimizer.step()
    return {"ranks": ranks, "state": model.state_dict()}


def riemannian(part=slice(None), wrap=lambda model: model):
    model = tl.replace_linear(network(), "4", tl.LowRank.from_dense, rank=2)
    model[0] = tl.FactorizedLinear(model[0].weight.merged(), model[0].bias)
    method = RiemannianSGD(model, torch.optim.SGD(model.parameters(), 0.05), lr=0.05)
    wrapped = wrap(model)
    for x, y in batches(part):
        method.step(lambda: error(wrapped, x, y))  # noqa: B023
    held = [m for m in model if isinstance(m, tl.FactorizedLinear)]
    return {"state": {str(k): m.weight.to_dense().detach() for k, m in enumerate(held)}}


def set_by_hand(part=slice(None), wrap=lambda model: model):
    """Plain training, and ranks changed by `set_weight` and by a state dict on the way."""
    model, other = network(), network()
    for k in (0, 2):
        w = other[k].weight
        other[k].set_weight(
            tl.LowRank.from_dense(
                w.to_dense().detach() + 0.1 * gaussian(*w.shape, seed=k), 5
            ).orthogonal()
        )
    wrapped, optimizer, seen = wrap(model), torch.optim.SGD(model.parameters(), 0.05), []
    reduced, hook = [], default_hooks.allreduce_hook
    if wrapped is not model:
        wrapped.register_comm_hook(None, lambda s, bucket: reduced.append(1) or hook(s, bucket))
    for k, (x, y) in enumerate(batches(part)):
        if k == 2:
            model[0].set_weight(
                tl.dlrt_start((9, 6), 2, generator=torch.Generator().manual_seed(9), dtype=F64)
            )
        if k == 4:
            model.load_state_dict(other.state_dict())
            copy.deepcopy(model)(x)  # while the wrapper does not know yet
        optimizer.zero_grad()
        error(wrapped, x, y).backward()
        optimizer.step()
        seen.append(model[0].weight.ranks)
    return {"state": model.state_dict(), "ranks": seen, "reduced": len(reduced)}


def statistics(part=slice(None), wrap=lambda model: model):
    """Running statistics before the last step and after it."""
    model = nn.Sequential(nn.BatchNorm1d(6, dtype=F64), *network())
    wrapped = wrap(model)
    method = tl.DLRT(wrapped, SGD(model), theta=0.05)
    for x, y in batches(part):
        before = {name: b.clone() for name, b in model.named_buffers()}
        method.step(lambda: error(wrapped, x, y))  # noqa: B023
    return {"before": before, "after": dict(model.named_buffers())}


def refusals():
    """What is said before a first step, by name; nothing has changed then."""
    from torch.distributed.fsdp import fully_shard

    said, x, y = {}, *next(batches())
    static, sharded, later, by_hand = network(), network(), network(), network()
    wrapped = DistributedDataParallel(static, static_graph=True)
    method, optimizer = tl.DLRT(static, SGD(static), theta=0.05), SGD(later)
    before, early = copy.deepcopy(static.state_dict()), tl.DLRT(later, optimizer, theta=0.05)
    for model in (sharded, later, by_hand):
        fully_shard(model)
    acts = {
        "static": lambda: method.step(lambda: error(wrapped, x, y)),
        "sharded": lambda: tl.DLRT(sharded, SGD(sharded), theta=0.05),
        "sharded later": lambda: early.step(lambda: error(later, x, y)),
        "by hand": lambda: by_hand[0].set_weight(tl.dlrt_start((9, 6), 2, dtype=F64)),
        "riemannian": lambda: RiemannianSGD(sharded, SGD(sharded), lr=0.1),
    }
    for name, act in acts.items():
        with contextlib.suppress(AssertionError):
            try:
                act()
            except ValueError as error_:
                said[name] = str(error_)
    same = all(torch.equal(t, before[k]) for k, t in static.state_dict().items())
    return {"said": said, "same": same}


def run(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2
    )
    half = slice(rank, None, 2)
    out = {case: trained(case, half, DistributedDataParallel) for case in CASES}
    for f in (riemannian, set_by_hand, statistics):
        out[f.__name__] = f(half, DistributedDataParallel)
    out["refusals"] = refusals()
    torch.save(out, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    children = [
        subprocess.Popen([sys.executable, __file__, folder, str(r)], env=env) for r in (0, 1)
    ]
    assert [child.wait(600) for child in children] == [0, 0]
    return [torch.load(folder / f"{r}.pt", weights_only=False) for r in (0, 1)]


def same(a: dict, b: dict) -> bool:
    return all(torch.allclose(t, b[name], rtol=0, atol=1e-10) for name, t in a.items())


@pytest.mark.thorough
@pytest.mark.parametrize("case", CASES)
def test_two_halves_are_one_batch(both, case):
    whole = trained(case)
    for half in both:
        assert half[case]["ranks"] == whole["ranks"] and same(half[case]["state"], whole["state"])
    if CASES[case][1].get("theta") is not None and not case.startswith("windows"):
        assert max(whole["ranks"][-1]) > 3  # they do change


@pytest.mark.thorough
def test_riemannian_steps_too(both):
    assert all(same(half["riemannian"]["state"], riemannian()["state"]) for half in both)


@pytest.mark.thorough
def test_ranks_set_by_hand_or_loaded(both):
    whole = set_by_hand()
    assert whole["ranks"] == [(3,)] * 2 + [(2,)] * 2 + [(5,)] * 2
    for half in both:
        assert half["set_by_hand"]["ranks"] == whole["ranks"]
        assert half["set_by_hand"]["reduced"] >= STEPS  # hooks of communication go along
        assert same(half["set_by_hand"]["state"], whole["state"])


@pytest.mark.thorough
def test_running_statistics_start_from_the_first_process_s(both):
    """As without DLRT: each step takes them from there, and counts the rows of its own once."""
    first, second = (half["statistics"] for half in both)
    assert same(first["after"], statistics(slice(0, None, 2))["after"])
    assert int(first["after"]["0.num_batches_tracked"]) == STEPS
    *_, (x, _) = batches(slice(1, None, 2))
    mean = 0.9 * first["before"]["0.running_mean"] + 0.1 * x.mean(0)
    assert torch.allclose(second["after"]["0.running_mean"], mean, rtol=1e-12)


def test_what_cannot_be_is_refused_before_the_first_step(both):
    for half in both:
        said = half["refusals"]["said"]
        assert half["refusals"]["same"] and len(said) == 5
        assert "needs static_graph=False" in said["static"]
        for name in ("sharded", "sharded later", "riemannian"):
            assert "wrap the model in DistributedDataParallel instead" in said[name]
        assert "change it before fully_shard" in said["by hand"]


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
