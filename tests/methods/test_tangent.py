"""Tangent windows: what a window and a cut are made of, what they become at full rank, that ranks
grow and fall, and that any loop of torch reaches them."""

import copy

import pytest
import torch
from torch import nn

import tensorlab as tl
from tensorlab import datasets
from tensorlab.layers.conv import FactorizedConv2d
from tensorlab.methods.tangent import (
    STEPS,
    affordable,
    factors,
    moved,
    output_svd,
    recombined,
    window,
)

F64, C128 = torch.float64, torch.complex128
EPS = torch.finfo(F64).eps
TOL = 1000 * EPS  # of sums of under a hundred products of numbers of size one, a few dozen steps on


def gaussian(*shape, seed=0, dtype=F64):
    return tl.rng.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def usv(m=9, n=7, sigma=(3.0, 1.0, 0.5), seed=0, dtype=F64):
    u, v = (
        torch.linalg.qr(gaussian(k, len(sigma), seed=seed + i, dtype=dtype))[0]
        for i, k in enumerate((m, n))
    )
    return u, torch.tensor(sigma, dtype=F64), v


X, Y = gaussian(40, 8), gaussian(40, 5, seed=1)


def network(rank=3, bias=True):
    """Two low-rank layers and a dense one."""
    model = nn.Sequential(
        nn.Linear(8, 9, bias=bias),
        nn.Tanh(),
        nn.Linear(9, 7, bias=bias),
        nn.Tanh(),
        nn.Linear(7, 5),
    ).double()
    with torch.no_grad():
        for k, p in enumerate(model.parameters()):
            p.copy_(0.4 * gaussian(*p.shape, seed=k))
    return tl.replace_linear(model, ["0", "2"], tl.LowRank.from_dense, rank)


def sgd(model, lr=0.05, **options):
    return torch.optim.SGD(model.parameters(), lr, **options)


def loss(model, rows=slice(None)):
    return (model(X[rows]) - Y[rows]).square().mean()


def weights(model):
    return [m.weight.to_dense().detach() for m in model.modules() if hasattr(m, "set_weight")]


def close(a, b, tol=TOL):
    a, b = a.detach(), b.detach()
    return float((a - b).norm()) <= tol * (1 + float(b.norm()))


# ------------------------------------------------------------------------------------- the parts


@pytest.mark.parametrize("dtype", [F64, C128])
@pytest.mark.parametrize("form", [window, factors])
@pytest.mark.parametrize("shape", [(9, 7), (4, 12), (3, 3)])
def test_forms_and_recombination_are_exact(shape, form, dtype):
    u, s, v = usv(*shape, dtype=dtype)
    w = form(u, s, v)
    assert close(w.to_dense(), (u * s) @ v.mH)
    trained = tl.LowRank(*(t + gaussian(*t.shape, seed=9, dtype=dtype) for t in w.tensors()))
    q1, c, q2 = recombined(trained)
    assert close(q1 @ c @ q2.mH, trained.to_dense())
    for q in (q1, q2):
        assert close(q.mH @ q, torch.eye(q.shape[1], dtype=dtype))


def test_a_zero_value_can_grow_in_plain_factors():
    u, s, v = usv(sigma=(2.0, 0.0))
    w = factors(u, s, v, 0.1)
    assert close(w.to_dense(), (u * s) @ v.mH) and float(w.v[:, 1].norm()) > 0.4
    assert not factors(u, s, v).u.isnan().any()


def best_of_rank(y, x, rank):
    """The least |y - W x - b|² over W of a rank, by NumPy: a regression's fit, cut by its SVD."""
    import numpy as np

    xc, yc = (t.numpy() - t.numpy().mean(0) for t in (x, y))
    fit = xc @ np.linalg.lstsq(xc, yc, rcond=None)[0]
    u, s, vh = np.linalg.svd(fit, full_matrices=False)
    return float(((yc - (u[:, :rank] * s[:rank]) @ vh[:rank]) ** 2).sum())


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_cut_is_the_best_for_the_outputs(rank):
    """Reduced-rank regression, worked out without our formula, reaches no smaller error; the cut by
    weights is worse."""
    x = gaussian(300, 7) * torch.logspace(0, -2, 7, dtype=F64) + 1.0
    w = tl.LowRank(gaussian(9, 5, seed=1), gaussian(7, 5, seed=2))
    q1, c, q2 = recombined(w)
    z = x @ q2
    p, sigma = output_svd(c, torch.cov(z.mT, correction=0), ridge=0.0)
    by_weights, _ = output_svd(c)
    y, centered = x @ w.to_dense().mT, x - x.mean(0)

    def error(p):
        p = p[:, :rank]
        return float((centered @ (w.to_dense() - q1 @ p @ p.mH @ c @ q2.mH).mT).square().sum())

    best = best_of_rank(y, x, rank)
    assert error(p) == pytest.approx(best, rel=1e-9) and error(by_weights) > 1.02 * best
    assert float(sigma[rank:].square().sum()) * len(x) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_the_last_cut_of_a_layer_is_the_best_for_the_outputs(kind):
    """With its bias, and the ridge, which costs at most its share of 1 %."""
    if kind == "linear":
        x, layer = (
            gaussian(200, 7) * torch.logspace(0, -1, 7, dtype=F64) + 1,
            nn.Linear(7, 9).double(),
        )
        make = tl.FactorizedLinear.from_linear
        rows = lambda t: t
    else:
        x, layer = gaussian(8, 3, 6, 5).cumsum(2) + 1, nn.Conv2d(3, 9, 3, stride=2).double()
        make = FactorizedConv2d.from_conv
        rows = lambda t: t.movedim(1, -1).flatten(0, -2)
    patches = x if kind == "linear" else nn.functional.unfold(x, 3, stride=2).mT.flatten(0, 1)
    with torch.no_grad():
        for k, p in enumerate(layer.parameters()):
            p.copy_(gaussian(*p.shape, seed=k + 5))
    layer = make(layer, lambda w: tl.LowRank.from_dense(w, 7))
    model = nn.Sequential(layer)
    with torch.no_grad():
        before = rows(model(x))
        price, errors = sum(layer.weight.shape), {}
        for inputs in (True, False):
            other = copy.deepcopy(model)
            run = (lambda other=other: other(x)) if inputs else None
            method = tl.TangentDLRT(other, sgd(other), budget=3 * price, total=1, inputs=run)
            method.finish()
            assert method.ranks == {"0": 3}
            gap = rows(other(x)) - before
            errors[inputs] = float(gap.square().sum())
            if inputs:
                assert float(gap.mean(0).norm()) < TOL * float(before.norm())
    best = best_of_rank(before, patches, 3)
    assert best * (1 - 1e-9) <= errors[True] < 1.01 * best < errors[False]


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_gradients_in_a_window_are_the_projected_gradient(kind):
    if kind == "linear":
        layer, x, make = nn.Linear(7, 9).double(), gaussian(6, 7), tl.FactorizedLinear.from_linear
    else:
        layer, x = nn.Conv2d(2, 6, 2).double(), gaussian(3, 2, 5, 5)
        make = FactorizedConv2d.from_conv
    model = nn.Sequential(make(layer, lambda w: tl.LowRank.from_dense(w, 3)))
    method = tl.TangentDLRT(model, sgd(model), theta=0.1, total=9)
    w = model[0].weight.to_dense().detach().view_as(layer.weight).requires_grad_()
    twin = copy.deepcopy(layer)
    out = torch.func.functional_call(twin, {"weight": w, "bias": model[0].bias.detach()}, (x,))
    out.pow(3).sum().backward()
    g = w.grad.flatten(1)
    model(x).pow(3).sum().backward()
    u, v = (t.detach() for t in model[0].tensors)
    gu, gv = (t.grad for t in model[0].tensors)
    u, v = u[:, :3], v[:, 3:]
    assert close(gv[:, :3], g.mT @ u) and close(gu[:, 3:], g @ v - u @ (u.mT @ g @ v))
    assert not gu[:, :3].any() and not gv[:, 3:].any()
    projected = u @ u.mT @ g + g @ v @ v.mT - u @ u.mT @ g @ v @ v.mT
    assert close(u @ gv[:, :3].mT + gu[:, 3:] @ v.mT, projected)
    assert method.ranks == {"0": 3}


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 6)])
@pytest.mark.parametrize("make", [sgd, lambda m: torch.optim.SGD(m.parameters(), 0.05, 0.9)])
def test_at_full_rank_training_is_dense_training(shape, make):
    """Windows of four steps, momentum moved from one to the next."""
    m, n = shape
    dense = nn.Sequential(nn.Linear(n, m).double())
    low = copy.deepcopy(dense)
    tl.replace_linear(low, "0", tl.LowRank.from_dense, rank=min(m, n))
    opt = make(dense)
    method = tl.TangentDLRT(low, make(low), theta=0.0, total=99, window=4)
    x, y = gaussian(20, n), gaussian(20, m, seed=1)
    for _ in range(12):
        method.step(lambda: (low(x) - y).square().mean())
        opt.zero_grad()
        (dense(x) - y).square().mean().backward()
        opt.step()
    assert close(low[0].weight.to_dense(), dense[0].weight) and close(low[0].bias, dense[0].bias)


def test_budgets_are_spent_and_not_exceeded():
    sigma = {"a": torch.tensor([3.0, 1.0, 0.3]), "b": torch.tensor([1.0, 0.9, 0.8, 0.7])}
    price = {"a": 7, "b": 11}
    for numbers in range(18, 80):
        ranks = affordable(sigma, price, numbers, 1)
        spent = sum(r * price[name] for name, r in ranks.items())
        assert spent <= numbers
        more = [price[name] for name, r in ranks.items() if r < len(sigma[name])]
        assert all(spent + p > numbers for p in more)
    assert affordable(sigma, price, 0, 2) == {"a": 2, "b": 2}  # the least, whatever it costs


@pytest.mark.parametrize("names", ["zab", "azb", "abz"])
def test_a_layer_of_zeros_takes_its_least_and_leaves_the_others_theirs(names):
    sigma = {"z": [0.0] * 4, "a": [1.0, 0.3, 0.1, 0.03], "b": [1.0, 0.5, 0.2, 0.01]}
    sigma = {n: torch.tensor(sigma[n], dtype=F64) for n in names}
    ranks = affordable(sigma, dict.fromkeys(names, 1), 7, 1)
    assert ranks == {"z": 1, "a": 3, "b": 3}


# ----------------------------------------------------------------------------- ranks grow and fall


def planted(seed, rank=8, start=2, steps=400, **options):
    """W' = A - W of a planted A: the rank and the relative error in the end."""
    g = torch.Generator().manual_seed(seed)
    a = tl.LowRank.randn((30, 25), rank, generator=g, dtype=F64).to_dense()
    w = tl.dlrt_start((30, 25), start, generator=g, dtype=F64).merged()
    model, eye = nn.Sequential(tl.FactorizedLinear(w)), torch.eye(25, dtype=F64)
    method = tl.TangentDLRT(model, sgd(model, 0.01), total=steps, window=5, **options)
    for _ in range(steps):
        method.step(lambda: (model(eye) - a.mT).square().sum() / 2)
    return method.ranks["0"], float((model[0].weight.to_dense() - a).norm() / a.norm())


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(5))
def test_a_rank_grows_to_a_planted_one(seed):
    rank, error = planted(seed, theta=0.1, spares=2)
    assert 7 <= rank <= 9 and error < 0.06


@pytest.mark.thorough
def test_without_spares_a_rank_hardly_grows():
    """What spares are for: a new value is of second order, and theta cuts it."""
    assert max(planted(seed, theta=0.1, spares=0)[0] for seed in range(5)) <= 4


@pytest.mark.thorough
def test_a_rank_falls_to_a_planted_one():
    rank, error = planted(0, rank=3, start=15, theta=0.1, spares=2)
    assert rank == 3 and error < 0.1


@pytest.mark.parametrize("steps", STEPS)
def test_numbers_fall_to_the_budget_in_the_first_half(steps):
    model = network(rank=7)
    method = tl.TangentDLRT(
        model, sgd(model), budget=120, total=40, window=4, steps=steps, inputs=lambda: model(X)
    )
    first, seen = method.numbers, []
    for _ in range(40):
        method.step(lambda: loss(model))
        seen.append(method.numbers)
    assert first == 7 * (17 + 16) and seen == sorted(seen, reverse=True)
    assert 120 < seen[7] < first and seen[19] <= 120 and seen[-1] > 120 - 17
    stored = sum(m.weight.numel for m in method.layers.values())
    assert stored == seen[-1]  # two factors of the rank that stays


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("make", [sgd, lambda m, lr: torch.optim.AdamW(m.parameters(), lr)])
def test_at_rate_zero_nothing_moves(make, steps):
    """Cut after cut, and in the last."""
    model = network()
    before, out = weights(model), model(X).detach()
    method = tl.TangentDLRT(
        model,
        make(model, 0.0),
        theta=0.0,
        total=9,
        window=2,
        steps=steps,
        inputs=lambda: model(X),
    )
    for _ in range(9):
        method.step(lambda: loss(model))
    assert all(close(a, b) for a, b in zip(weights(model), before))
    assert close(model(X).detach(), out)


def test_training_goes_on_as_plain_factors_after_the_end():
    model = network()
    method = tl.TangentDLRT(model, sgd(model), theta=0.1, total=4, window=3)
    for _ in range(4):
        method.step(lambda: loss(model))
    ranks, before = method.ranks, loss(model).item()
    assert [m.weight.ranks[0] for m in method.layers.values()] == list(ranks.values())
    for _ in range(6):
        method.step(lambda: loss(model))
    assert method.ranks == ranks and loss(model).item() < before
    method.finish()
    assert method.ranks == ranks


# ----------------------------------------------------------------------------- as in any torch loop


def pair(make=sgd, **options):
    """Two equal models with their methods."""
    for _ in range(2):
        model = network()
        yield (
            model,
            tl.TangentDLRT(model, make(model), theta=0.05, total=30, window=3, spares=1, **options),
        )


def equal(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


def test_gradients_summed_over_parts_are_those_of_the_whole():
    (a, whole), (b, parts) = pair()
    for _ in range(7):
        whole.step(lambda: loss(a))
        parts.zero_grad()
        for rows in torch.arange(40).split(10):
            (loss(b, rows) / 4).backward()
        parts.step()
    assert all(close(p, q) for p, q in zip(weights(b), weights(a)))


def test_clipping_sees_the_projected_gradient_alone():
    model = network()
    method = tl.TangentDLRT(model, sgd(model), theta=0.1, total=9)
    loss(model).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    total = sum(p.grad.square().sum() for p in model.parameters()).sqrt()
    assert float(norm) > 1e-2 and float(total) == pytest.approx(1e-3, rel=1e-4)
    before = weights(model)
    method.step()
    for w, b in zip(weights(model), before):
        assert float((w - b).norm()) <= 1.01 * 0.05 * 1e-3


def test_a_schedule_reaches_everything():
    model = network()
    method = tl.TangentDLRT(model, sgd(model, momentum=0.9), theta=0.0, total=99, window=2)
    schedule = torch.optim.lr_scheduler.LambdaLR(method.optimizer, lambda k: float(k < 3))
    for k in range(9):
        method.step(lambda: loss(model))
        schedule.step()
        if k == 2:
            before = weights(model) + [p.detach().clone() for p in model[4].parameters()]
    after = weights(model) + list(model[4].parameters())
    assert all(close(a, b) for a, b in zip(after, before))


def test_a_grad_scaler_changes_nothing_and_skips_what_overflows():
    """Powers of two leave every digit; a step with infinite gradients is left out."""
    (a, plain), (b, scaled) = pair(lambda m: torch.optim.Adam(m.parameters(), 0.01))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=4)
    for k in range(12):
        scaled.zero_grad()
        scaler.scale(loss(b) * (float("inf") if k == 5 else 1)).backward()
        scaler.unscale_(scaled)
        torch.nn.utils.clip_grad_norm_(b.parameters(), 1e9)
        scaler.step(scaled)
        scaler.update()
        if k != 5:
            plain.step(lambda: loss(a))
    assert scaled.steps == plain.steps == 11 and equal(a, b)


def test_autocast_trains():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))
    tl.replace_linear(model, "0", tl.LowRank.from_dense, rank=6)
    x, y = gaussian(40, 16, dtype=torch.float32), torch.arange(40) % 4

    def run():
        with torch.autocast("cpu", torch.bfloat16):
            return nn.functional.cross_entropy(model(x).float(), y)

    method = tl.TangentDLRT(model, sgd(model, 0.3), budget=84, total=60, window=10, inputs=run)
    losses = [float(method.step(run)) for _ in range(60)]
    assert losses[-1] < 0.8 * losses[0] and method.ranks == {"0": 3}


@pytest.mark.thorough
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(
    "make",
    [
        lambda m: torch.optim.Adam(m.parameters(), 0.01, amsgrad=True),
        lambda m: torch.optim.AdamW(m.parameters(), 0.01, weight_decay=0.1),
        lambda m: torch.optim.NAdam(m.parameters(), 0.01),
        lambda m: torch.optim.RMSprop(m.parameters(), 0.003, momentum=0.5, centered=True),
        lambda m: torch.optim.Adagrad(m.parameters(), 0.03),
        lambda m: torch.optim.Adadelta(m.parameters(), 0.5),
        lambda m: torch.optim.Adamax(m.parameters(), 0.01),
        lambda m: sgd(m, momentum=0.9, nesterov=True, weight_decay=1e-3),
    ],
)
def test_any_optimizer_of_torch(make, steps):
    model = network(rank=6)
    method = tl.TangentDLRT(
        model, make(model), theta=0.05, total=60, window=4, steps=steps, inputs=lambda: model(X)
    )
    start = loss(model).item()
    for k in range(60):
        if steps == "tangent" and k % 4 == 3:  # in the last step of a window, before the cut
            u, v = (t.detach() for t in model[0].tensors)
            r = u.shape[1] // 2
            for q in (u[:, :r], v[:, r:]):
                assert close(q.mT @ q, torch.eye(r, dtype=F64))
            assert float((u[:, :r].mT @ u[:, r:]).norm()) < TOL
        method.step(lambda: loss(model))
    assert loss(model).item() < 0.95 * start


# --------------------------------------------------------------------------- what optimizers keep


@pytest.mark.parametrize("dtype", [F64, C128])
def test_momentum_moves_by_projection(dtype):
    """M of the old tangent space, projected on the new one."""
    old, new = window(*usv(dtype=dtype)), window(*usv(sigma=(2.0, 1.0), seed=5, dtype=dtype))
    u, v, u1, v1 = old.u[:, :3], old.v[:, 3:], new.u[:, :2], new.v[:, 2:]
    a, b = gaussian(9, 3, seed=7, dtype=dtype), gaussian(7, 3, seed=8, dtype=dtype)
    a = a - u @ (u.mH @ a)
    left = {"exp_avg": torch.cat([0 * a, a], 1), "step": torch.tensor(3.0)}
    right = {"exp_avg": torch.cat([b, 0 * b], 1), "step": torch.tensor(3.0)}
    left, right = moved(left, right, old, new, "tangent")
    m = u @ b.mH + a @ v.mH
    p, q = u1 @ u1.mH, v1 @ v1.mH
    wanted = p @ m + m @ q - p @ m @ q
    got = u1 @ right["exp_avg"][:, :2].mH + left["exp_avg"][:, 2:] @ v1.mH
    assert close(got, wanted) and left["step"] == 3
    assert not left["exp_avg"][:, :2].any() and not right["exp_avg"][:, 2:].any()


def test_momentum_of_plain_factors_is_that_of_the_same_gradient():
    old = tl.LowRank(gaussian(9, 3), gaussian(7, 3, seed=1))
    new = tl.LowRank(old.u @ gaussian(3, 2, seed=2), old.v @ gaussian(3, 2, seed=3))
    m = gaussian(9, 7, seed=4)
    left, right = moved(
        {"momentum_buffer": m @ old.v}, {"momentum_buffer": m.mT @ old.u}, old, new, "factors"
    )
    assert close(left["momentum_buffer"], m @ new.v)
    assert close(right["momentum_buffer"], m.mT @ new.u)


def test_squares_keep_their_mean_and_their_sign():
    old, new = window(*usv()), window(*usv(sigma=(2.0, 1.0), seed=5))
    ones = {"exp_avg_sq": torch.ones(9, 6, dtype=F64)}, {"exp_avg_sq": torch.ones(7, 6, dtype=F64)}
    left, right = moved(*ones, old, new, "tangent")
    assert close(left["exp_avg_sq"][:, 2:], torch.ones(9, 2, dtype=F64))
    assert close(right["exp_avg_sq"][:, :2], torch.ones(7, 2, dtype=F64))
    old, three = factors(*usv()), tuple({key: t[:, :3] for key, t in s.items()} for s in ones)
    same = moved(*three, old, old, "factors")
    assert all(close(a["exp_avg_sq"], b["exp_avg_sq"]) for a, b in zip(same, three))


def test_a_mean_square_stays_at_least_the_square_of_the_mean():
    """Where an input is always zero, the square is zero and the projected mean is not: a step of
    Adam would be the mean over its ε."""
    old, new = window(*usv()), window(*usv(sigma=(2.0, 1.0), seed=5))
    m = torch.cat([torch.zeros(9, 3), torch.ones(9, 3)], 1).double(), torch.zeros(7, 6).double()
    states = ({"exp_avg": t, "exp_avg_sq": t.square()} for t in m)
    for state in moved(*states, old, new, "tangent"):
        assert bool((state["exp_avg_sq"] >= state["exp_avg"].square()).all())
        assert state["exp_avg"].any()


def test_adam_trains_where_inputs_are_always_zero():
    model = network(rank=6)
    x = X * (torch.arange(8) > 2)
    y = gaussian(8, 5, seed=3) / 3
    y = x @ y
    method = tl.TangentDLRT(
        model,
        torch.optim.Adam(model.parameters(), 0.005),
        budget=120,
        total=60,
        window=5,
        inputs=lambda: model(x),
    )
    seen = [float(method.step(lambda: (model(x) - y).square().mean())) for _ in range(60)]
    assert max(seen[20:]) < seen[0] and seen[-1] < 0.3 * seen[0]


def test_what_is_not_known_starts_anew():
    w = window(*usv())
    for key in ("exp_inf", "unknown"):
        state = {key: torch.ones(9, 6, dtype=F64)}
        assert moved(state, dict(state), w, w, "tangent") == ({}, {})
    assert moved({}, {"exp_avg": torch.ones(7, 6)}, w, w, "tangent") == ({}, {})


# ------------------------------------------------------------------------------------------ layers


def test_convolutions_train_and_fall_to_a_budget():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.Flatten(),
        nn.Linear(72, 10),
    )
    make = lambda layer: FactorizedConv2d.from_conv(layer, lambda w: tl.LowRank.from_dense(w, 8))
    tl.replace_conv(model, "*", make)
    x, y = datasets.digits()
    x, y = x[:200].float().view(-1, 1, 8, 8), y[:200]
    entropy = lambda: nn.functional.cross_entropy(model(x), y)
    method = tl.TangentDLRT(
        model, sgd(model, 0.1), budget=330, total=40, window=8, inputs=lambda: model(x)
    )
    seen = [float(method.step(entropy)) for _ in range(40)]
    assert method.numbers <= 330 < method.first and seen[-1] < 0.5 * seen[0]
    assert int(model[1].num_batches_tracked) == 40  # `inputs` leaves no trace in buffers
    assert model[3].tensors[0].shape[1] == method.ranks["3"]


def test_frozen_layers_stay():
    model = network()
    model[2].requires_grad_(False)
    method = tl.TangentDLRT(model, sgd(model), theta=0.1, total=4, window=2)
    before = model[2].weight.to_dense().clone()
    for _ in range(4):
        method.step(lambda: loss(model))
    assert torch.equal(model[2].weight.to_dense(), before) and list(method.ranks) == ["0"]


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "options, said",
    [
        ({}, "one of budget and theta, got budget=None, theta=None"),
        (dict(theta=0.1, budget=9), "one of budget and theta"),
        (dict(theta=1.5), "theta"),
        (dict(budget=0), "budget"),
        (dict(theta=0.1, total=0), "total"),
        (dict(theta=0.1, window=0), "window"),
        (dict(theta=0.1, spares=-1), "spares"),
        (dict(theta=0.1, steps="S"), "steps"),
    ],
)
def test_refuses_settings(options, said):
    model = network()
    with pytest.raises(ValueError, match=said):
        tl.TangentDLRT(model, sgd(model), **{"total": 9} | options)


def test_refuses_models_optimizers_and_inputs():
    dense, whole, model = nn.Sequential(nn.Linear(3, 2)), network(), network()
    whole[0] = tl.FactorizedLinear(whole[0].weight.orthogonal(), whole[0].bias)
    refused = {
        "without one": (dense, sgd(dense)),
        "got a middle factor": (whole, sgd(whole)),
        "needs the factor 0": (model, torch.optim.SGD(model[4].parameters(), 0.1)),
        "needs a closure": (model, torch.optim.LBFGS(model.parameters())),
    }
    for said, (m, optimizer) in refused.items():
        before = copy.deepcopy(m.state_dict())
        with pytest.raises(ValueError, match=said):
            tl.TangentDLRT(m, optimizer, theta=0.1, total=9)
        assert all(torch.equal(t, before[key]) for key, t in m.state_dict().items())
    method = tl.TangentDLRT(
        model, sgd(model), theta=0.1, total=9, window=1, inputs=lambda: model[0](X)
    )
    with pytest.raises(ValueError, match="inputs needs to run layer '2'"):
        method.step(lambda: loss(model))


def test_stops_when_numbers_are_no_longer_finite():
    model = network()
    method = tl.TangentDLRT(model, sgd(model, 1e300), theta=0.1, total=99, window=2)
    with pytest.raises(FloatingPointError, match="TangentDLRT.*layer '.' at step"):
        for _ in range(9):
            method.step(lambda: loss(model))
