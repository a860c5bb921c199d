"""DLRT: what a step is made of, what it becomes at full rank, and that it survives small singular
values and kills.

The tests of truncation, full rank and descent were tried once with the wrong singular vectors, V̂
Qᴴ[:, :r] in place of V̂ Q[:, :r]: all three fail then.
"""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import tensorlab as tl
from tensorlab import datasets
from tensorlab.methods.dlrt import (
    DLRT,
    augment,
    dlrt_start,
    kls_step,
    transport,
    truncate,
    turn,
    usv_step,
)
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


@pytest.mark.thorough
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


@pytest.mark.thorough
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


# -- the optimizer's state


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.02, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.003, momentum=0.5, centered=True),
    "RMSprop, short": lambda p: torch.optim.RMSprop(p, 0.01, alpha=0.9, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.05),
    "Rprop": lambda p: torch.optim.Rprop(p, 0.01),
    "Adamax": lambda p: torch.optim.Adamax(p, 0.01),
    "Adadelta": lambda p: torch.optim.Adadelta(p),
    "NAdam": lambda p: torch.optim.NAdam(p, 0.01),
    "RAdam": lambda p: torch.optim.RAdam(p, 0.02),
    "ASGD": lambda p: torch.optim.ASGD(p, 0.05, t0=20),
    "Adafactor": lambda p: torch.optim.Adafactor(p, 0.05),
    "Muon": lambda p: torch.optim.Muon([q for q in p if q.ndim == 2], 0.02),
}
needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9")
every_optimizer = pytest.mark.parametrize(
    "make",
    [pytest.param(f, id=n, marks=[needs_muon] * (n == "Muon")) for n, f in OPTIMIZERS.items()],
)


@pytest.mark.thorough
@every_optimizer
@pytest.mark.parametrize("theta", [0.05, None])
def test_any_optimizer_of_torch(make, theta):
    model, loss = network(rank=3)
    dlrt = DLRT(model, make(list(model.parameters())), theta=theta)
    losses = [dlrt.step(loss).item() for _ in range(40)]
    assert losses[-1] < 0.95 * losses[0]
    for layer in dlrt.layers.values():
        state = dlrt.optimizer.state[layer.tensors[2]]
        shapes = {t.shape for t in state.values() if torch.is_tensor(t) and t.ndim}
        r = layer.weight.ranks[0]
        assert shapes <= {(r, r), (r, 1), (1, r)}  # the last two are Adafactor's


@pytest.mark.thorough
@every_optimizer
def test_two_hundred_steps_stay_finite(make):
    """Near the optimum, where a mean square and the square of the mean are nearly the same."""
    dtype = torch.float32
    g = torch.Generator().manual_seed(1)
    layer = tl.FactorizedLinear(dlrt_start((8, 12), 4, generator=g, dtype=dtype))
    x, y = gaussian(64, 12, seed=2, dtype=dtype), gaussian(64, 8, seed=3, dtype=dtype)
    dlrt = DLRT(layer, make(list(layer.parameters())), theta=0.01)
    losses = [dlrt.step(lambda: (layer(x) - y).square().mean()) for _ in range(200)]
    assert losses[-1] < losses[0] and torch.stack(losses).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.complex128])
@pytest.mark.parametrize("part", ["rotated", "cut", "grown"])
def test_what_is_kept_for_s_stays_a_mean_square(part, dtype):
    """No square falls below that of its mean, under a rotation, a cut or new directions."""
    a, b = (torch.linalg.qr(gaussian(6, 6, seed=s, dtype=dtype))[0] for s in (1, 2))
    if part == "cut":
        a, b = a[:3], b[:3]
    if part == "grown":
        a, b = (nn.functional.pad(torch.eye(6, dtype=dtype), (0, 0, 0, 6)),) * 2
    seen = gaussian(5, 6, 6, seed=3, dtype=dtype) * torch.logspace(0, -7, 6).to(dtype)
    seen[1:, :, 3:] = seen[0, :, 3:]  # gradients that are always the same: no variance at all
    parts = torch.view_as_real(seen) if seen.is_complex() else seen
    squares = parts.square().mean(0)
    squares = torch.view_as_complex(squares) if seen.is_complex() else squares
    state = {"step": torch.tensor(5.0), "grad_avg": seen.mean(0), "square_avg": squares}
    for _ in range(3):
        state = transport(state, a, b)
        a, b = torch.eye(len(a), dtype=dtype), torch.eye(len(b), dtype=dtype)
    m, v = state["grad_avg"], state["square_avg"]
    m, v = (torch.view_as_real(t) if t.is_complex() else t for t in (m, v))
    assert bool((v >= m.square()).all()) and state["step"] == 5


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


def test_what_is_not_known_starts_anew():
    eye = torch.eye(3, 2, dtype=F64)
    known = {"step": 3, "exp_avg": torch.ones(2, 2, dtype=F64)}
    assert transport(known, eye, eye)["exp_avg"].shape == (3, 3)
    for other in (torch.ones(2, 2), torch.ones(4, dtype=F64)):  # narrower, and flat
        assert transport(known | {"exp_avg_sq": other}, eye, eye) == {}
    assert transport(known | {"hessian": torch.ones(2, 2, dtype=F64)}, eye, eye) == {}


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


class Failing:
    """A closure that fails at its k-th call, with an error or with a loss of nan."""

    def __init__(self, loss, at, how):
        self.loss, self.left, self.how = loss, at, how

    def __call__(self):
        self.left -= 1
        if self.left:
            return self.loss()
        if self.how is float:
            return self.loss() * torch.tensor(float("nan"), dtype=F64)
        raise self.how("stop")


@pytest.mark.thorough
@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("how", [KeyboardInterrupt, RuntimeError, float])
@pytest.mark.parametrize("theta", [0.05, None])
def test_a_step_that_fails_is_as_if_it_had_not_been(theta, how, at):
    ends = []
    for fails in (False, True):
        model, loss = network()
        dlrt = DLRT(model, torch.optim.Adam(model.parameters(), 0.01), theta=theta)
        for _ in range(3):
            dlrt.step(loss)
        if fails:
            kept = copy.deepcopy((model.state_dict(), dlrt.state_dict()))
            of_s = lambda: [str(dlrt.optimizer.state[m.tensors[2]]) for m in dlrt.layers.values()]  # noqa: B023
            kept_of_s = of_s()
            with pytest.raises(FloatingPointError if how is float else how):
                dlrt.step(Failing(loss, at, how))
            layers = {k: t for k, t in model.state_dict().items() if ".tensors." in k}
            assert all(torch.equal(kept[0][k], t) for k, t in layers.items())
            assert kept_of_s == of_s()
            if how is float and at == 2:  # the optimizer has stepped what is dense by then
                continue
            assert all(torch.equal(kept[0][k], t) for k, t in model.state_dict().items())
            assert str(kept[1]) == str(dlrt.state_dict())
        ends.append([dlrt.step(loss).item() for _ in range(5)])
    assert ends[0] == ends[-1]


@pytest.mark.parametrize("theta", [0.05, None])
def test_bases_are_straightened_now_and_then(theta):
    """A basis that is not quite orthonormal stays so for 49 steps and is far better at the 50th."""
    model, loss = network()
    dlrt = DLRT(model, sgd(model), theta=theta)
    off = lambda: max(
        float((q.mT @ q - torch.eye(q.shape[1])).norm())
        for layer in dlrt.layers.values()
        for q in list(layer.tensors)[:2]
    )
    layer, crooked = dlrt.layers["layers.0"], torch.eye(3, dtype=F64) + 1e-5 * gaussian(3, 3)
    for steps, bad in ((47, True), (48, True), (49, False)):
        dlrt.steps = steps
        w = layer.weight
        layer.set_weight(
            tl.LowRank(*(q.detach()[:, :3] @ crooked for q in (w.u, w.v)), torch.eye(3, dtype=F64))
        )
        adaptive = theta is not None  # a step of fixed rank makes both bases anew each time
        dlrt.step(loss)
        assert (off() > 1e-6) is (bad and adaptive)


def test_dlrt_anew_changes_nothing():
    """A second DLRT on trained layers leaves weights and what the optimizer keeps as they are."""
    model, loss = network()
    first = DLRT(model, torch.optim.Adam(model.parameters(), 0.01), theta=0.05)
    twin_model, twin_loss = network()
    twin = DLRT(twin_model, torch.optim.Adam(twin_model.parameters(), 0.01), theta=0.05)
    for _ in range(5):
        first.step(loss), twin.step(twin_loss)
    second = DLRT(model, first.optimizer, theta=0.05)
    assert [second.step(loss) for _ in range(5)] == [twin.step(twin_loss) for _ in range(5)]


# -- with a scaler of gradients


@pytest.mark.thorough
@pytest.mark.parametrize("settings", [dict(theta=0.05), dict(theta=None)])
@pytest.mark.parametrize("bad", [(5, 0), (5, 1)])  # the step and the evaluation that overflow
def test_a_grad_scaler_changes_nothing_and_skips_what_overflows(settings, bad):
    """Powers of two leave every digit; a step with infinite gradients leaves all as it was."""
    (a, plain_loss), (b, scaled_loss) = network(), network()
    plain, scaled = (DLRT(m, torch.optim.Adam(m.parameters(), 0.02), **settings) for m in (a, b))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=4)
    calls = []

    def closure():
        calls.append(len(calls) - 2 * k)
        return scaled_loss() * (float("inf") if (k, calls[-1]) == bad else 1)

    for k in range(10):
        calls = [0] * (2 * k)
        before = copy.deepcopy(b.state_dict())
        scaled.step(closure, scaler=scaler)
        scale = scaler.get_scale()
        scaler.update()
        if k == bad[0]:
            assert all(torch.equal(t, before[name]) for name, t in b.state_dict().items())
            assert scaler.get_scale() == scale / 2
        else:
            plain.step(plain_loss)
    assert scaled.steps == plain.steps == 9
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


# -- learning rates are the optimizer's


@pytest.mark.parametrize("settings", [dict(theta=None), dict(theta=0.0, every=1000)])
def test_at_rate_zero_nothing_moves(settings):
    model, loss = network(decay=3.0)
    dlrt = DLRT(model, sgd(model, 0.0), **settings)
    before, start = loss().item(), [m.weight.to_dense().detach() for m in dlrt.layers.values()]
    for _ in range(20):
        dlrt.step(loss)
    assert loss().item() == pytest.approx(before, abs=1e-12)
    for w, layer in zip(start, dlrt.layers.values()):
        assert torch.allclose(layer.weight.to_dense(), w, rtol=0, atol=1e-12)


def test_k_and_l_follow_a_schedule_group_by_group():
    """The bases after a step are those of K - h G V with h the rate of the group that holds s."""
    model, loss = network()
    middle = [m.tensors[2] for m in model.layers[:-1]]
    rest = [p for p in model.parameters() if not any(p is s for s in middle)]
    groups = [{"params": [s], "lr": lr} for s, lr in zip(middle, (0.1, 0.4))]
    optimizer = torch.optim.SGD([*groups, {"params": rest, "lr": 0.0}], 0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    dlrt = DLRT(model, optimizer, theta=None, multiplier=3.0)
    for factor in (1.0, 0.5, 0.25):
        before = {n: tl.LowRank(*(t.detach() for t in m.tensors)) for n, m in dlrt.layers.items()}
        _, thin = dlrt._gradients(loss, before)
        dlrt.step(loss)
        for lr, (name, w) in zip((0.1, 0.4), before.items()):
            h, (gk, gl), (u, v, _) = 3 * lr * factor, thin[name], dlrt.layers[name].tensors
            for basis, k1 in ((u, w.u @ w.s - h * gk), (v, w.v @ w.s.T - h * gl)):
                assert float((k1 - basis @ (basis.T @ k1)).norm()) < 1e-13 * 100
        schedule.step()


def test_an_optimizer_that_maximizes_turns_k_and_l_too():
    ends = []
    for sign in (1, -1):
        model, loss = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, maximize=sign < 0)
        dlrt = DLRT(model, optimizer, theta=None)
        ends.append([sign * dlrt.step(lambda: sign * loss()).item() for _ in range(5)])  # noqa: B023
    assert ends[0] == pytest.approx(ends[1], rel=1e-12) and ends[0][-1] < ends[0][0]


def test_the_rate_is_the_optimizers_alone():
    model, _ = network()
    with pytest.raises(TypeError, match="unexpected keyword argument 'lr'"):
        DLRT(model, sgd(model), lr=0.1, theta=0.1)


# -- graphs, checkpointing, statistics


@pytest.mark.parametrize("theta", [0.05, None])
def test_a_living_graph_is_no_hindrance(theta):
    ends = []
    for alive in (False, True):
        model, loss = network()
        dlrt, graphs = DLRT(model, sgd(model), theta=theta), []
        for _ in range(3):
            graphs += [loss()] * alive
            dlrt.step(loss)
        ends.append(loss().item())
        for graph in graphs:  # stale, as after any step of an optimizer
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                graph.backward()
    assert ends[0] == ends[1]


@pytest.mark.thorough
@pytest.mark.parametrize("where", ["before", "inside", "around"])
def test_reentrant_checkpointing_trains_as_the_other(where):
    ends = []
    for reentrant in (False, True):
        model, _ = network()
        x, y = gaussian(12, 6, seed=1).requires_grad_(), gaussian(12, 4, seed=2)
        first, *others = model.layers
        tail = lambda h: [h := f(h.tanh()) for f in others][-1]  # noqa: B023
        again = lambda f, h: checkpoint(f, h, use_reentrant=reentrant)  # noqa: B023
        out = {
            "before": lambda: again(tail, first(x)),  # noqa: B023
            "inside": lambda: tail(again(first, x)),  # noqa: B023
            "around": lambda: again(lambda h: tail(first(h)), x),  # noqa: B023
        }[where]
        dlrt = DLRT(model, torch.optim.Adam(model.parameters(), 0.01), theta=0.05)
        ends.append([dlrt.step(lambda: (out() - y).square().mean()).item() for _ in range(10)])  # noqa: B023
        assert all(t.grad is None for m in dlrt.layers.values() for t in list(m.tensors)[:2])
    assert ends[0] == pytest.approx(ends[1], rel=1e-12) and ends[0][-1] < ends[0][0]


class Counter(nn.Module):
    """Counts its calls in a buffer that each call replaces."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls = self.calls + 1
        return x


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("theta", [0.05, None])
def test_buffers_change_once_a_step(theta, momentum):
    norm = nn.BatchNorm1d(6, momentum=momentum, dtype=F64)
    model, _ = network()
    model, twin = nn.Sequential(norm, Counter(), model), copy.deepcopy(norm)
    dlrt, y = DLRT(model, sgd(model, 0.0), theta=theta), gaussian(12, 4, seed=2)
    for k in range(5):
        x = gaussian(12, 6, seed=k)
        alive = model(x) if k == 4 else None  # a graph that holds the buffers
        twin(x) if k == 4 else None
        dlrt.step(lambda: (model(x) - y).square().mean())  # noqa: B023
        twin(x)
    assert norm.num_batches_tracked == twin.num_batches_tracked == model[1].calls == 6
    assert torch.allclose(norm.running_mean, twin.running_mean, rtol=1e-14)
    assert torch.allclose(norm.running_var, twin.running_var, rtol=1e-14)
    assert alive.isfinite().all()


@pytest.mark.thorough
def test_a_compiled_model_follows_its_ranks():
    torch._dynamo.reset()
    plain, compiled = network(rank=2), network(rank=2)
    fast = torch.compile(compiled[0], backend="aot_eager", dynamic=False)
    x, y = gaussian(12, 6, seed=1), gaussian(12, 4, seed=2)
    losses = []
    for f, (model, _) in ((plain[0], plain), (fast, compiled)):
        dlrt = DLRT(model, sgd(model, 0.3), theta=1e-3)
        losses.append([dlrt.step(lambda: (f(x) - y).square().mean()).item() for _ in range(3)])  # noqa: B023
    assert dlrt.ranks != {"layers.0": 2, "layers.1": 2}
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_a_copy_takes_part_in_averages():
    """A copy with an average of the weights follows the ranks by a state dict, and stays apart."""
    model, loss = network(rank=2)
    dlrt, copied = DLRT(model, sgd(model, 0.3), theta=0.0), copy.deepcopy(model)
    dlrt.step(loss)
    assert copied.layers[0].weight.ranks == (2,) != model.layers[0].weight.ranks
    x, alive = gaussian(3, 6), copied(gaussian(3, 6)).sum()
    copied.load_state_dict(model.state_dict())
    assert torch.equal(copied(x), model(x)) and alive.isfinite()
    layers = nn.Sequential(*model.layers)
    assert torch.equal(pickle.loads(pickle.dumps(layers))(x), layers(x))


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
        (lambda: _dlrt(rule="mean"), 'rule must be "tail" or "sum", got \'mean\''),
        (lambda: _dlrt(theta=1.5), "theta < 1, got 1.5"),
        (lambda: _dlrt(multiplier=0.0), "multiplier must be a number > 0, got 0.0"),
        (lambda: _dlrt(every=0), "every must be an integer >= 1, got 0"),
        (lambda: _dlrt(max_rank=1), "max_rank must be an integer >= 2, got 1"),
        (
            lambda: _dlrt(model=nn.Sequential(tl.FactorizedLinear(tl.LowRank.randn((4, 3), 2)))),
            "'0' needs a LowRank with a middle",
        ),
        (
            lambda: _dlrt(optimizer=torch.optim.SGD([torch.zeros(1)], 0.1)),
            "needs the middle factor of layer 'layers.0'",
        ),
        (
            lambda: _dlrt(optimizer=torch.optim.LBFGS(network()[0].parameters())),
            "steps on gradients alone, got LBFGS",
        ),
        (
            lambda: _dlrt(optimizer=torch.optim.SparseAdam(network()[0].parameters())),
            "dense gradients, got SparseAdam",
        ),
        (lambda: DLRT(network()[0], None, theta=0.1), "an optimizer of torch .*got NoneType"),
        (lambda: _dlrt(network()[0].to(torch.bfloat16)), "32 bits or more, got torch.bfloat16"),
        (lambda: _dlrt().step(lambda: None), "closure needs to return the loss, .*got NoneType"),
        (lambda: _dlrt().step(lambda: torch.zeros(3)), r"got shape \(3,\)"),
    ],
)
def test_says_no(act, said):
    with pytest.raises(ValueError, match=said):
        act()


def _dlrt(model=None, optimizer=None, theta=0.1, **options):
    model = model or network()[0]
    return DLRT(model, optimizer or sgd(model), theta=theta, **options)


def test_stops_when_numbers_are_no_longer_finite():
    model, loss = network()
    dlrt = DLRT(model, sgd(model, 1e200), theta=0.1)
    with pytest.raises(
        FloatingPointError,
        match="DLRT: needs finite numbers, got some that are not in layer 'layers.0' at step",
    ):
        for _ in range(5):
            dlrt.step(loss)
