"""The contract of training methods: each row of METHODS goes through the same questions."""

import pytest
import torch
from torch import nn

import tensorlab as tl
from tensorlab.methods.training import TrainingMethod

F64 = torch.float64
low = lambda w: tl.LowRank.from_dense(w, 2)
kls = lambda w: low(w).orthogonal()
train = lambda w: tl.tt_matrix_svd(w, (2, 2, 2), (2, 2, 2), 2)
METHODS = {  # name: how layers "0" and "2" are made, the method, and the ranks of a layer
    "DLRT": (kls, lambda m, o: tl.DLRT(m, o, theta=0.0, every=2, max_rank=3), None),
    "DLRT, fixed": (kls, lambda m, o: tl.DLRT(m, o, theta=None), 2),
    "TangentDLRT": (
        low,
        lambda m, o: tl.TangentDLRT(
            m, o, budget=96, total=9, window=2, inputs=lambda: m(X[:20]), min_rank=1
        ),
        None,
    ),
    "TangentDLRT, theta": (
        low,
        lambda m, o: tl.TangentDLRT(m, o, theta=0.1, total=50, window=2, spares=1),
        None,
    ),
    "TangentDLRT, factors": (
        low,
        lambda m, o: tl.TangentDLRT(
            m, o, theta=0.1, total=50, window=2, steps="factors", inputs=lambda: m(X)
        ),
        None,
    ),
    "RiemannianSGD": (low, lambda m, o: tl.RiemannianSGD(m, o, lr=0.05), 2),
    "RiemannianSGD, trains": (train, lambda m, o: tl.RiemannianSGD(m, o, lr=0.05), (2, 2)),
    "ADMM": (
        None,
        lambda m, o: tl.ADMM(m, o, {"[02]": low}, rho=lambda k: min(0.1 * 1.5**k, 1.0), every=2),
        2,
    ),
    "Projected": (None, lambda m, o: tl.Projected(m, o, ["0", "2"], rank=2, every=2), 2),
    "Projected, rtol": (None, lambda m, o: tl.Projected(m, o, ["0", "2"], rtol=0.3, every=2), None),
    "FactorSGD": (low, lambda m, o: tl.FactorSGD(m, o), 2),
    "FactorSGD, alternate": (low, lambda m, o: tl.FactorSGD(m, o, alternate=True), 2),
}
every_method = pytest.mark.parametrize("name", METHODS)


def gaussian(*shape, seed=0):
    return tl.rng.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


X, Y = gaussian(24, 8), gaussian(24, 3, seed=1)


def made(name, seed=0):
    """A model of three layers, the first two as the method wants them, and the method."""
    make, method, _ = METHODS[name]
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        for k, p in enumerate(model.double().parameters()):
            p.copy_(0.4 * gaussian(*p.shape, seed=10 * seed + k))
    if make is not None:
        tl.replace_linear(model, ["0", "2"], make)
    return model, method(model, torch.optim.SGD(model.parameters(), 0.05, momentum=0.5))


def loss(model, rows=slice(None)):
    return (model(X[rows]) - Y[rows]).square().mean()


def steps(model, method, generator, count):
    """Steps on random batches; the losses."""
    draws = (torch.randperm(len(X), generator=generator)[:12] for _ in range(count))
    return [float(method.step(lambda rows=rows: loss(model, rows))) for rows in draws]


def weight(layer):
    w = layer.weight
    return (w if isinstance(w, torch.Tensor) else w.to_dense()).detach()


@pytest.mark.thorough
@every_method
def test_steps_lower_the_loss_and_return_the_one_before(name):
    model, method = made(name)
    assert isinstance(method, TrainingMethod) and method.steps == 0
    start = loss(model).item()
    first = method.step(lambda: loss(model))
    # the same sum of at most 24 · 8 products, in the order of another form of the weight
    assert first.item() == pytest.approx(start, rel=200 * torch.finfo(F64).eps)
    assert first.shape == () and not first.requires_grad
    for _ in range(39):
        method.step(lambda: loss(model))
    assert loss(model).item() < 0.9 * start and method.steps == 40


@every_method
def test_ranks_are_those_of_the_weights(name):
    model, method = made(name)
    for _ in range(4):
        method.step(lambda: loss(model))
    ranks, wanted = method.ranks, METHODS[name][2]
    assert set(ranks) == {"0", "2"}
    for key, r in ranks.items():
        w = weight(model.get_submodule(key))
        if wanted is not None:
            assert r == wanted
        if isinstance(r, int) and name != "ADMM":  # whose weights are of full rank until the end
            assert int(torch.linalg.matrix_rank(w)) == r and type(r) is int
    ranks["0"] = None
    assert method.ranks["0"] is not None  # what was given is a copy


@pytest.mark.thorough
@every_method
@pytest.mark.parametrize(
    "stop", [2, 3]
)  # between two truncations, projections or rounds, or at one
def test_a_checkpoint_goes_on_bit_for_bit(name, stop, tmp_path):
    generator = torch.Generator().manual_seed(7)
    model, method = made(name)
    steps(model, method, generator, stop)
    state = {"model": model.state_dict(), "method": method.state_dict(), "g": generator.get_state()}
    tl.save_state(tmp_path / "run", state)
    ranks = method.ranks
    wanted = steps(model, method, generator, 5)

    other, again = made(name, seed=1)
    state, generator = tl.load_state(tmp_path / "run"), torch.Generator()
    other.load_state_dict(state["model"])
    again.load_state_dict(state["method"])
    generator.set_state(state["g"])
    assert again.steps == stop and again.ranks == ranks
    assert steps(other, again, generator, 5) == wanted
    assert again.ranks == method.ranks
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters()))


@every_method
def test_the_rate_of_a_schedule_is_kept_by_a_checkpoint(name):
    _, method = made(name)
    method.optimizer.param_groups[0]["lr"] = 0.01
    if "Riemannian" in name:
        method.lr = 0.02
    _, again = made(name)
    again.load_state_dict(method.state_dict())
    assert again.optimizer.param_groups[0]["lr"] == 0.01
    assert getattr(again, "lr", 0.02) == 0.02


@every_method
def test_gradients_after_a_step_are_those_of_one_graph(name):
    model, method = made(name)
    for _ in range(3):
        method.step(lambda: loss(model))
    for p in model.parameters():
        assert p.is_leaf and p.requires_grad
        assert p.grad is None or (p.grad.shape == p.shape and not p.grad.requires_grad)
    model.zero_grad()
    loss(model).backward()
    wanted = torch.autograd.grad(loss(model), list(model.parameters()))
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), wanted))


@every_method
def test_the_closure_makes_no_backward_and_draws_nothing_from_the_global_seed(name):
    model, method = made(name)
    before, calls = torch.get_rng_state(), []
    method.step(lambda: calls.append(1) or loss(model))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(calls) == 1 + (name.startswith("DLRT") or name.endswith("alternate"))
