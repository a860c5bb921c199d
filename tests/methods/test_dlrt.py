"""DLRT: what a step is made of, what it becomes at full rank, and that it survives small singular
values and kills.

The tests of truncation, full rank and descent were tried once with the wrong singular vectors, V̂
Qᴴ[:, :r] in place of V̂ Q[:, :r]: all three fail then.
"""

import copy

import pytest
import torch
from torch import nn

import tensorlab as tl
from tensorlab import datasets
from tensorlab.methods.dlrt import DLRT, augment, dlrt_start, kls_step, truncate, turn, usv_step
from tensorlab.models.lenet import LeNet
from tensorlab.models.mlp import MLP

F64 = torch.float64


def gaussian(*shape, seed=0, dtype=F64):
    return tl.rng.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def low(m=9, n=7, sigma=(3.0, 1.0, 0.1), seed=0, dtype=F64):
    """U diag(σ) Vᴴ with random orthonormal U and V."""
    u, v = (
        torch.linalg.qr(gaussian(k, len(sigma), seed=seed + i, dtype=dtype))[0]
        for i, k in enumerate((m, n))
    )
    return tl.LowRank(u, v, torch.diag(torch.tensor(sigma)).to(dtype))


def network(rank=3, sizes=(6, 8, 7, 4), seed=0, dtype=F64, decay=1.0):
    """An MLP with a bounded nonlinearity, for complex numbers too, its inner layers of low rank,
    with a batch and its loss."""
    g = torch.Generator().manual_seed(seed)
    model = MLP(sizes, act=lambda z: z / (1 + z.abs().square()), generator=g).to(dtype)
    names = [f"layers.{k}" for k in range(len(sizes) - 2)]
    tl.replace_linear(
        model, names, lambda w: dlrt_start(w.shape, rank, decay=decay, generator=g, dtype=dtype)
    )
    x, y = (
        gaussian(12, sizes[0], seed=seed + 1, dtype=dtype),
        gaussian(12, sizes[-1], seed=seed + 2, dtype=dtype),
    )
    return model, lambda: (model(x) - y).abs().square().mean()


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr)


# -- the parts


@pytest.mark.parametrize("dtype", [F64, torch.complex128])
@pytest.mark.parametrize("shape", [(9, 7), (5, 12), (4, 4)])
def test_the_lift_is_exact(shape, dtype):
    w = low(*shape, dtype=dtype)
    g = gaussian(*shape, seed=5, dtype=dtype)
    wide, left, right = augment(w, g @ w.v, g.mH @ w.u)
    assert float((wide.to_dense() - w.to_dense()).norm()) < 1e-14 * 10
    for thin, basis in (
        (g @ w.v, wide.u),
        (g.mH @ w.u, wide.v),
    ):  # the new bases hold the directions of K and L
        assert float((thin - basis @ (basis.mH @ thin)).norm()) < 1e-13
    assert torch.allclose(wide.s, left @ w.s @ right.mH)


@pytest.mark.parametrize("dtype", [F64, torch.complex128])
@pytest.mark.parametrize("theta", [0.0, 0.01, 0.2, 0.9])
def test_truncation_leaves_exactly_the_tail(theta, dtype):
    s = gaussian(6, 6, seed=3, dtype=dtype) * torch.logspace(0, -3, 6, dtype=F64)
    w = tl.LowRank(*low(9, 7, (1.0,) * 6, dtype=dtype).tensors()[:2], s)
    cut, left, right = truncate(w, theta)
    sigma = torch.linalg.svdvals(s)
    r = next(r for r in range(1, 7) if float(sigma[r:].norm()) <= theta * float(sigma.norm()))
    assert cut.ranks == (r,)
    assert float((cut.to_dense() - w.to_dense()).norm()) == pytest.approx(
        float(sigma[r:].norm()), abs=1e-12
    )
    assert torch.allclose(cut.s, left @ s @ right.mH, atol=1e-12)


def test_the_fixed_rank_step_projects():
    w, g = low(), gaussian(9, 7, seed=4)
    new, left, right = turn(w, w.u @ w.s + 0.1 * g @ w.v, w.v @ w.s.T + 0.1 * g.T @ w.u)
    assert new.ranks == w.ranks
    assert torch.allclose(
        new.to_dense(), new.u @ new.u.T @ w.to_dense() @ new.v @ new.v.T, atol=1e-13
    )


def test_both_rules_by_hand():
    w = tl.LowRank(torch.eye(5, 4), torch.eye(6, 4), torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0])))
    norm = 30**0.5
    kept = {
        theta: truncate(w, theta)[0].ranks[0]
        for theta in (0.99 / norm, 1.01 / norm, 2.2 / norm, 2.3 / norm)
    }
    assert list(kept.values()) == [4, 3, 3, 2]  # the tails are 1, √5, √14
    assert [truncate(w, theta, rule="sum")[0].ranks[0] for theta in (0.05, 0.15, 0.25, 0.5)] == [
        4,
        3,
        2,
        1,
    ]
    assert truncate(w, 0.9, min_rank=3)[0].ranks == (3,) and truncate(w, 0.0, max_rank=2)[
        0
    ].ranks == (2,)


# -- a step reduces to


@pytest.mark.parametrize("dtype", [F64, torch.complex128])
@pytest.mark.parametrize("sizes", [(6, 8, 7, 4), (8, 5, 9, 4)])
def test_at_full_rank_a_step_is_the_dense_step(sizes, dtype):
    model, loss = network(rank=99, sizes=sizes, dtype=dtype)
    w = [layer.weight.to_dense().detach() for layer in model.layers[:-1]]
    dlrt = DLRT(model, sgd(model), theta=0.0)
    dense, dense_loss = network(rank=99, sizes=sizes, dtype=dtype)
    for k, layer in enumerate(w):
        bias, dense.layers[k] = dense.layers[k].bias, nn.Linear(*layer.shape[::-1], dtype=dtype)
        dense.layers[k].weight.data, dense.layers[k].bias = layer.clone(), bias
    optimizer = sgd(dense)
    for _ in range(3):
        optimizer.zero_grad()
        expected = dense_loss()
        expected.backward()
        optimizer.step()
        assert dlrt.step(loss).item() == pytest.approx(expected.item(), abs=1e-12)
    for a, b in zip(model.layers, dense.layers):
        weight = a.weight if isinstance(a.weight, torch.Tensor) else a.weight.to_dense()
        assert torch.allclose(weight, b.weight, rtol=0, atol=1e-12) and torch.allclose(
            a.bias, b.bias, rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("diagonal", [True, False])
def test_the_thin_gradients_are_those_of_the_dense_weight(diagonal):
    model, loss = network(decay=10.0)
    dlrt = DLRT(model, sgd(model), theta=0.1)
    for layer in dlrt.layers.values():  # as truncation leaves it, or as any other step does
        w = tl.LowRank(*(t.detach() for t in layer.tensors))
        layer.set_weight(
            truncate(w, 0.0)[0] if diagonal else tl.LowRank(w.u, w.v, w.s @ gaussian(3, 3, seed=6))
        )
    _, found = dlrt._gradients(
        loss, {n: tl.LowRank(*(t.detach() for t in m.tensors)) for n, m in dlrt.layers.items()}
    )
    for name, layer in dlrt.layers.items():
        u, v, s = (t.detach() for t in layer.tensors)
        w = (u @ s @ v.T).requires_grad_()
        dense, inner = copy.deepcopy(model), nn.Linear(*layer.weight.shape[::-1], dtype=F64)
        inner.weight.data, inner.bias = w.detach().clone(), layer.bias
        dense.set_submodule(name, inner)
        value = (dense(gaussian(12, 6, seed=1)) - gaussian(12, 4, seed=2)).square().mean()
        (g,) = torch.autograd.grad(value, [inner.weight])
        assert torch.allclose(found[name][0], g @ v, atol=1e-13) and torch.allclose(
            found[name][1], g.T @ u, atol=1e-13
        )


def test_two_evaluations_a_step():
    model, loss = network()
    calls = []
    DLRT(model, sgd(model), theta=0.1).step(lambda: calls.append(1) or loss())
    assert len(calls) == 2


@pytest.mark.parametrize("smallest", [1e-2, 1e-6, 1e-10])
def test_descends_whatever_the_smallest_singular_value(smallest):
    model, loss = network(rank=4, decay=smallest ** (-1 / 3))
    dlrt = DLRT(model, sgd(model, 0.05), theta=0.0, max_rank=4)
    losses = [dlrt.step(loss).item() for _ in range(30)]
    assert all(b < a for a, b in zip(losses, losses[1:])) and losses[-1] < 0.9 * losses[0]


def test_a_convolution_is_its_flattened_kernel():
    """A convolution whose window is the whole image is a linear layer: the same steps."""
    x, y = gaussian(10, 2, 3, 3), gaussian(10, 5, seed=1)
    w, bias = low(5, 18, (2.0, 1.0)), gaussian(5, seed=2)
    conv = tl.FactorizedConv2d(w, bias, kernel_size=3)
    linear = tl.FactorizedLinear(w, bias)
    for model, into in ((conv, x), (linear, x.flatten(1))):
        dlrt = DLRT(model, sgd(model), theta=0.05)
        for _ in range(5):
            dlrt.step(lambda model=model, into=into: (model(into).flatten(1) - y).square().mean())
    assert conv.weight.ranks == linear.weight.ranks
    assert torch.allclose(conv.weight.to_dense(), linear.weight.to_dense(), atol=1e-12)


def test_lenet_trains_in_low_rank():
    g = torch.Generator().manual_seed(0)
    model = LeNet(8, channels=(6, 8), hidden=20, kernel=3, padding=1, generator=g)
    start = lambda w: dlrt_start(w.shape, 8, generator=g)
    tl.replace_conv(model, "*", lambda layer: tl.FactorizedConv2d.from_conv(layer, start))
    tl.replace_linear(model, "dense1", start)
    table = datasets.digits()
    x, y = table.X[:200].float(), table.y[:200]
    dlrt = DLRT(model, sgd(model), theta=0.1)
    losses = [dlrt.step(lambda: nn.functional.cross_entropy(model(x), y)).item() for _ in range(50)]
    assert losses[-1] < losses[0] - 0.3 and set(dlrt.ranks) == {"conv1", "conv2", "dense1"}
    assert max(dlrt.ranks.values()) <= 20


# -- the optimiser's state


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.02, momentum=0.9, nesterov=True),
        lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
        lambda p: torch.optim.AdamW(p, 0.01),
        lambda p: torch.optim.RMSprop(p, 0.003, momentum=0.5, centered=True),
        lambda p: torch.optim.Adagrad(p, 0.05),
        lambda p: torch.optim.Rprop(p, 0.01),
        lambda p: torch.optim.Adamax(p, 0.01),
        lambda p: torch.optim.Adadelta(p),
        lambda p: torch.optim.NAdam(p, 0.01),
        lambda p: torch.optim.ASGD(p, 0.05),
    ],
)
@pytest.mark.parametrize("theta", [0.05, None])
def test_any_optimiser_of_torch(make, theta):
    model, loss = network(rank=3)
    dlrt = DLRT(model, make(model.parameters()), theta=theta)
    losses = [dlrt.step(loss).item() for _ in range(40)]
    assert losses[-1] < 0.95 * losses[0]
    for layer in dlrt.layers.values():
        shapes = {
            t.shape
            for t in dlrt.optimizer.state[layer.tensors[2]].values()
            if torch.is_tensor(t) and t.ndim
        }
        assert shapes <= {layer.tensors[2].shape}


def test_momentum_turns_with_the_bases_and_squares_stay_averages():
    """Momentum is a gradient in the coordinates of s: turned, it is the same matrix. Equal squares
    stay equal."""
    model = nn.Sequential(tl.FactorizedLinear(low()))
    optimizer = torch.optim.Adam(model.parameters())
    dlrt = DLRT(model, optimizer, theta=0.1)
    w, s = model[0].weight, model[0].tensors[2]
    w = tl.LowRank(*(t.detach() for t in w.tensors()))
    m, v = gaussian(3, 3, seed=8), torch.full((3, 3), 0.7, dtype=F64)
    optimizer.state[s] = {"step": torch.tensor(5.0), "exp_avg": m, "exp_avg_sq": v}
    g = gaussian(9, 7, seed=9)
    wide, left, right = augment(w, g @ w.v, g.T @ w.u)
    dlrt._put("0", wide, left, right)
    state = optimizer.state[s]
    assert torch.allclose(wide.u @ state["exp_avg"] @ wide.v.T, w.u @ m @ w.v.T, atol=1e-13)
    assert (
        torch.allclose(state["exp_avg_sq"], torch.full((6, 6), 0.7, dtype=F64))
        and state["step"] == 5
    )
    spun = tl.LowRank(wide.u, wide.v, gaussian(6, 6, seed=10))
    dlrt._put("0", *truncate(spun, 0.0))
    new, state = model[0].weight, optimizer.state[s]
    assert torch.allclose(new.u @ state["exp_avg"] @ new.v.T, w.u @ m @ w.v.T, atol=1e-12)
    assert torch.allclose(state["exp_avg_sq"], torch.full((6, 6), 0.7, dtype=F64))


# -- ranks, checkpoints


def test_rank_limits_and_truncation_now_and_then():
    model, loss = network(rank=3)
    dlrt = DLRT(model, sgd(model), theta=0.0, every=3, max_rank=5)
    seen = [max(dlrt.ranks.values()) for _ in range(7) if dlrt.step(loss) is not None]
    assert seen == [3, 3, 5, 5, 5, 5, 5]
    dlrt = DLRT(model, sgd(model), theta=0.9, min_rank=2)
    dlrt.step(loss)
    assert set(dlrt.ranks.values()) == {2}


def test_goes_on_from_a_checkpoint_with_the_same_numbers(tmp_path):
    def made():
        model, loss = network(rank=2)
        return (
            model,
            loss,
            DLRT(model, torch.optim.Adam(model.parameters(), 0.01), theta=0.0, every=2),
        )

    model, loss, dlrt = made()
    for _ in range(3):
        dlrt.step(loss)
    torch.save({"model": model.state_dict(), "dlrt": dlrt.state_dict()}, tmp_path / "run.pt")
    going_on = [dlrt.step(loss).item() for _ in range(5)]
    assert set(dlrt.ranks.values()) != {2}  # the ranks have changed
    model, loss, dlrt = made()
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    model.load_state_dict(saved["model"])
    dlrt.load_state_dict(saved["dlrt"])
    assert [dlrt.step(loss).item() for _ in range(5)] == going_on


def test_a_closure_that_fails_leaves_the_weights():
    model, loss = network()
    dlrt = DLRT(model, sgd(model), theta=0.1)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyboardInterrupt):
        dlrt.step(lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert all(torch.equal(before[k], t) for k, t in model.state_dict().items())


# -- the differential equation


def test_kls_follows_the_flow_where_usv_fails():
    """W' = A - W: Euler's error in KLS is of order h for any smallest singular value; U, S, V
    divide by it."""
    a = low(12, 10, (1.0, 0.5, 0.2), seed=3).to_dense()
    flow = lambda w: a - w
    errors = {}
    for smallest in (1e-1, 1e-5, 1e-10):
        start = low(12, 10, (2.0, 1.0, 0.5, smallest, smallest / 2, smallest / 4))
        exact = a + torch.exp(torch.tensor(-1.0, dtype=F64)) * (start.to_dense() - a)
        for step, name in ((kls_step, "kls"), (usv_step, "usv")):
            for n in (20, 40):
                w = start
                for _ in range(n):
                    w = step(w, flow, 1 / n)
                errors[name, smallest, n] = float((w.to_dense() - exact).norm())
    for s in (1e-5, 1e-10):
        assert errors["kls", s, 40] == pytest.approx(errors["kls", s, 20] / 2, rel=0.2)
        assert not errors["usv", s, 40] < 10 * errors["kls", s, 40]


# -- says no


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (
            lambda: DLRT(nn.Linear(3, 3), None, theta=0.1),
            "DLRT: needs a model with .*got Linear",
        ),
        (lambda: _dlrt(rule="mean"), "needs a rule of tail, sum, got 'mean'"),
        (lambda: _dlrt(theta=1.5), "theta in .*got 1.5"),
        (lambda: _dlrt(lr=0.0), "got lr=0.0"),
        (lambda: _dlrt(every=0), "every=0"),
        (lambda: _dlrt(max_rank=1), "max_rank=1"),
        (
            lambda: _dlrt(model=nn.Sequential(tl.FactorizedLinear(tl.LowRank.randn((4, 3), 2)))),
            "'0' needs a LowRank with a middle",
        ),
        (
            lambda: _dlrt(optimizer=torch.optim.SGD([torch.zeros(1)], 0.1)),
            "needs the middle factor of layer 'layers.0'",
        ),
        (lambda: _dlrt().step(lambda: None), "closure needs to return the loss, .*got NoneType"),
        (lambda: _dlrt().step(lambda: torch.zeros(3)), r"got shape \(3,\)"),
    ],
)
def test_says_no(act, said):
    with pytest.raises(ValueError, match=said):
        act()


def _dlrt(model=None, optimizer=None, lr=0.1, theta=0.1, **options):
    model = model or network()[0]
    return DLRT(model, optimizer or sgd(model), theta=theta, **options)


def test_stops_when_numbers_are_no_longer_finite():
    model, loss = network()
    dlrt = DLRT(model, sgd(model, 1e200), theta=0.1)
    with pytest.raises(
        ValueError,
        match="DLRT: needs finite numbers, got some that are not in layer 'layers.0' at step",
    ):
        for _ in range(5):
            dlrt.step(loss)
