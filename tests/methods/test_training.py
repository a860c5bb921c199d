"""A training that would do nothing says so, whatever the method; gradients are plain ones."""

import contextlib
import math
import warnings

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import tensorlab as tl
from tensorlab.methods.admm import ADMM
from tensorlab.methods.dlrt import DLRT, dlrt_start
from tensorlab.methods.projected import FactorSGD, Projected
from tensorlab.methods.pruning import block_masks, hold, lottery, magnitude_masks, prune, sparsity
from tensorlab.methods.riemannian import RiemannianSGD
from tensorlab.methods.training import IDLE

F64 = torch.float64


def gaussian(*shape, seed=0):
    return tl.rng.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


X, Y = gaussian(7, 5), gaussian(7, 3, seed=1)
low = lambda w: tl.LowRank.from_dense(w, 2)
METHODS = {  # name: how layers "0" and "2" are made, and the method
    "DLRT": (lambda w: dlrt_start(w.shape, 2, dtype=F64), lambda m, o: DLRT(m, o, theta=0.1)),
    "DLRT, fixed": (
        lambda w: dlrt_start(w.shape, 2, dtype=F64),
        lambda m, o: DLRT(m, o, theta=None),
    ),
    "RiemannianSGD": (low, lambda m, o: RiemannianSGD(m, o, lr=0.1)),
    "ADMM": (None, lambda m, o: ADMM(m, o, {"[02]": low}, rho=0.1, every=2)),
    "Projected": (None, lambda m, o: Projected(m, o, ["0", "2"], rank=2)),
    "FactorSGD": (low, lambda m, o: FactorSGD(m, o)),
    "FactorSGD in turn": (low, lambda m, o: FactorSGD(m, o, alternate=True)),
}
every_method = pytest.mark.parametrize("name", METHODS)


def network(make=None):
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    with torch.no_grad():
        for k, p in enumerate(model.double().parameters()):
            p.copy_(gaussian(*p.shape, seed=k))
    return model if make is None else tl.replace_linear(model, ["0", "2"], make)


def made(name, lr=0.05):
    make, method = METHODS[name]
    model = network(make)
    return model, method(model, torch.optim.SGD(model.parameters(), lr))


def loss(model):
    return (model(X) - Y).square().mean()


CLOSURES = {  # what it does wrong, and what is said
    "no graph": (lambda m: loss(m).detach(), "got one without"),
    "no grad": (lambda m: torch.no_grad()(loss)(m), "got one without"),
    "nothing": (lambda m: None, "got NoneType"),
    "a number": (lambda m: float(loss(m)), "got float"),
    "a vector": (lambda m: (m(X) - Y).square().mean(0), r"got shape \(3,\)"),
    "complex": (lambda m: loss(m) * (1 + 1j), "of torch.complex128"),
    "of something else": (lambda m: (m[4](X[:, :4]) ** 2).sum(), "no gradient for any of 0, 2"),
}


@every_method
@pytest.mark.parametrize("case", CLOSURES)
def test_a_closure_that_trains_nothing(name, case):
    closure, said = CLOSURES[case]
    model, method = made(name)
    if case == "of something else":  # for those that train everything it is a training
        if name == "FactorSGD":
            return
        if name == "FactorSGD in turn":
            said = "depends on the parameters of each turn"
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=said):
        method.step(lambda: closure(model))
    if name != "FactorSGD in turn":  # whose first turn is over by then
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before))


@pytest.mark.thorough
@every_method
def test_a_step_trains_where_gradients_are_off_around_it(name):
    ends = []
    for around in (contextlib.nullcontext(), torch.no_grad()):
        torch.manual_seed(0)
        model, method = made(name)
        start = loss(model).item()
        with around:
            for _ in range(20):
                method.step(lambda: loss(model))  # noqa: B023
        ends.append(loss(model).item())
    assert ends[0] == ends[1] < start


@every_method
def test_living_graphs_are_no_hindrance(name):
    ends = []
    for alive in (False, True):
        torch.manual_seed(0)
        (model, method), graphs = made(name), []
        for _ in range(4):
            graphs += [loss(model)] * alive
            method.step(lambda: loss(model))  # noqa: B023
        ends.append(loss(model).item())
    assert ends[0] == ends[1]


@every_method
def test_reentrant_checkpointing_trains_as_the_other(name):
    ends, x = [], X.clone().requires_grad_()
    for reentrant in (False, True):
        torch.manual_seed(0)
        model, method = made(name)
        out = lambda: model[2:](checkpoint(model[:2], x, use_reentrant=reentrant))  # noqa: B023
        for _ in range(4):
            method.step(lambda: (out() - Y).square().mean())  # noqa: B023
        ends.append(loss(model).item())
    assert ends[0] == pytest.approx(ends[1], rel=1e-12)


@every_method
@pytest.mark.parametrize("when", ["before", "after"])
def test_frozen_layers(name, when):
    make, method = METHODS[name]
    model = network(make)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    if when == "before":
        model.requires_grad_(False)
    with pytest.raises(
        ValueError,
        match="frozen|trainable|LowRank or TTMatrix|parameters to train|does not train it",
    ):
        trained = method(model, optimizer)
        model.requires_grad_(False)
        trained.step(lambda: loss(model))


@every_method
def test_an_optimizer_without_the_parameters(name):
    if name == "RiemannianSGD":  # which steps the factors itself
        return
    make, method = METHODS[name]
    model, others = network(make), network()
    optimizer = torch.optim.SGD(others.parameters(), 0.05)
    with pytest.raises(
        ValueError, match="optimizer needs|parameters of each turn|optimizer with|does not train it"
    ):
        method(model, optimizer).step(lambda: loss(model))


@pytest.mark.parametrize("name", ["DLRT", "RiemannianSGD"])
def test_a_layer_is_trained_whole_or_not_at_all(name):
    model, method = made(name)
    model[0].tensors[1].requires_grad_(False)
    with pytest.raises(ValueError, match="layer '0' trained or frozen, got it in part"):
        method.step(lambda: loss(model))
    model[0].requires_grad_(False)
    before = [t.detach().clone() for t in model[0].tensors]
    method.step(lambda: loss(model))
    assert all(torch.equal(a, b) for a, b in zip(before, model[0].tensors))


@pytest.mark.thorough
@pytest.mark.parametrize("name", [n for n in METHODS if "FactorSGD" not in n])
def test_a_layer_without_a_gradient_for_long_is_named_once(name):
    model, method = made(name)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for k in range(2 * IDLE + 2):
            method.step(lambda k=k: (model[:1](X) ** 2).sum() if k else loss(model))
    said = [str(w.message) for w in said if "no gradient" in str(w.message)]
    assert said == [
        f"{name.split(',')[0]}: layer '2' has had no gradient of the loss for {IDLE} steps"
    ]


@every_method
def test_divergence_is_a_floating_point_error_that_names_the_layer(name):
    model, method = made(name, lr=1e30)
    if name == "RiemannianSGD":
        method.lr = 1e300
    who = name.split(",")[0].removesuffix(" in turn")
    with pytest.raises(FloatingPointError, match=f"^{who}: needs finite .* layer '[02]' at step"):
        for _ in range(20):
            method.step(lambda: loss(model))


@pytest.mark.parametrize("alternate", [False, True])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_factor_sgd_refuses_a_loss_that_is_not_finite_before_it_moves(alternate, value):
    model, _ = made("FactorSGD")
    method = FactorSGD(model, torch.optim.SGD(model.parameters(), 0.1), alternate=alternate)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(FloatingPointError, match=f"needs a finite loss, got {value} at step 0"):
        method.step(lambda: loss(model) + value)  # its gradients are finite
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


@pytest.mark.parametrize(
    "act, said",
    [
        (
            lambda m, o: ADMM(m, o, {}, rho=0.1),
            "ADMM: needs a set for at least one layer, got none",
        ),
        (
            lambda m, o: Projected(m, o, [], rank=1),
            r"linear or convolution layer .*got no name at all",
        ),
        (lambda m, o: Projected(m, o, ["0", "9"], rank=1), "got '9'"),
        (lambda m, o: prune(m, {}), "prune: needs a mask for at least one layer, got none"),
        (lambda m, o: hold(o, m, {}), "prune: needs a mask for at least one layer, got none"),
        (lambda m, o: sparsity({}), "sparsity: needs a mask for at least one layer, got none"),
        (lambda m, o: magnitude_masks(m, [], 0.5), r"magnitude_masks: .*got no name at all"),
        (lambda m, o: block_masks(m, [], 0.5, (1, 2)), r"block_masks: .*got no name at all"),
        (lambda m, o: next(lottery(m, None, [], X, rounds=1)), r"lottery: .*got no name at all"),
        (
            lambda m, o: hold(torch.optim.SGD([m[0].bias], 0.1), m, magnitude_masks(m, "0", 0.5)),
            "hold: the optimizer needs the weight of layer '0', got one without it",
        ),
    ],
)
def test_nothing_chosen_is_said(act, said):
    model = network()
    with pytest.raises(ValueError, match=said):
        act(model, torch.optim.SGD(model.parameters(), 0.1))


def test_the_penalty_of_a_rank_follows_the_rate_of_its_weight():
    """The proximal step is as long as the optimizer's own, in the group that holds the weight."""
    model = nn.Sequential(nn.Linear(4, 4, dtype=F64))
    sigma = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=F64)
    model[0].weight.data = torch.diag(sigma)
    groups = [{"params": [model[0].bias], "lr": 1e-6}, {"params": [model[0].weight], "lr": 0.5}]
    method = Projected(model, torch.optim.SGD(groups, 0.1), "0", penalty=5.0)
    method.step(lambda: 0 * model(torch.eye(4, dtype=F64)).sum())
    assert method.ranks == {"0": 2}  # σ² > 2 · 0.5 · 5
