"""Weighted SVD: it is the plain one, it is the best in its own norm, sums stream, ranks meet
budgets, and what cannot be is said in one sentence."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import tensorlab as tl
from tensorlab.methods.weighted import (
    METHODS,
    Squares,
    calibrate,
    class_probe,
    cut_layers,
    embedding_probe,
    metrics,
    moment_root,
    spectrum_ranks,
    stored,
    uniform_ranks,
    weighted_bases,
    weighted_basis,
    weighted_error,
    weighted_svd,
    zero_sum_ranks,
)

F64 = torch.float64
OUT, IN, RANK = 12, 9, 4
EPS = torch.finfo(F64).eps


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=F64)


def spd(n, seed, spread=3.0):
    """A root of a matrix of condition 10^spread."""
    q = torch.linalg.qr(draw(n, n, seed=seed)).Q
    return q * torch.logspace(-spread / 4, spread / 4, n, dtype=F64)


WEIGHTS = {
    "none": (None, None),
    "left": (spd(OUT, 1).mT, None),
    "right": (None, spd(IN, 2)),
    "diagonals": (draw(OUT, seed=3).abs() + 0.1, draw(IN, seed=4).abs() + 0.1),
    "both": (spd(OUT, 1).mT, spd(IN, 2)),
    "right, more columns": (None, draw(IN, 20, seed=5)),
}
weights = pytest.mark.parametrize("left, right", WEIGHTS.values(), ids=WEIGHTS)


def seen(w, left, right):
    w = w if left is None else (left[:, None] * w if left.ndim == 1 else left @ w)
    return w if right is None else (w * right if right.ndim == 1 else w @ right)


# ------------------------------------------------------------------------------- the weighted SVD


@pytest.mark.parametrize("one", [lambda n: None, torch.ones, torch.eye], ids=["None", "1", "eye"])
def test_without_weights_it_is_the_plain_svd(one):
    w = draw(OUT, IN)
    left, right = (None if (t := one(n)) is None else t.to(F64) for n in (OUT, IN))
    low, plain = weighted_svd(w, RANK, left=left, right=right), tl.LowRank.from_dense(w, RANK)
    assert low.ranks == plain.ranks and low.numel == plain.numel
    assert torch.allclose(low.to_dense(), plain.to_dense(), atol=1e-13)
    balance = lambda x: x.u.mH @ x.u
    assert torch.allclose(balance(low).diagonal(), balance(plain).diagonal(), atol=1e-12)


@weights
def test_the_error_is_that_of_the_singular_values(left, right):
    """Eckart and Young: no rank-4 matrix is nearer in this norm than the tail of L w R."""
    w = draw(OUT, IN)
    low = weighted_svd(w, RANK, left=left, right=right)
    s = torch.linalg.svdvals(seen(w, left, right))
    got = seen(w - low.to_dense(), left, right).norm()
    assert float(got) == pytest.approx(float(s[RANK:].norm()), rel=1e-11)
    error = weighted_error(w, low, left=left, right=right)
    assert error == pytest.approx(float(s[RANK:].norm() / s.norm()), rel=1e-11)


@weights
def test_no_perturbation_is_better(left, right):
    w = draw(OUT, IN)
    low = weighted_svd(w, RANK, left=left, right=right)
    least = float(seen(w - low.to_dense(), left, right).norm())
    for seed in range(20):
        for size in (1e-3, 1e-1):
            u = low.u + size * draw(OUT, RANK, seed=seed)
            v = low.v + size * draw(IN, RANK, seed=100 + seed)
            assert float(seen(w - u @ v.mT, left, right).norm()) >= least * (1 - 1e-12)


@weights
def test_at_full_rank_it_is_the_matrix(left, right):
    w = draw(OUT, IN)
    got = weighted_svd(w, IN, left=left, right=right).to_dense()
    assert float((got - w).norm()) <= 1e-10 * float(w.norm())


@pytest.mark.parametrize("how", ["scaled", "permuted"])
def test_the_whitened_product_does_not_see_how_inputs_are_written(how):
    """x -> D x and w -> w D⁻¹: the same outputs, whitened. Plain SVD moves."""
    w, x = draw(OUT, IN), draw(50, IN, seed=1) @ spd(IN, 2)
    d = torch.diag(torch.logspace(-2, 2, IN, dtype=F64))
    d = (
        torch.eye(IN, dtype=F64)[torch.randperm(IN, generator=seeded(3))]
        if how == "permuted"
        else d
    )
    root = lambda x: moment_root(moment(x), len(x), clamp=0.0)
    before = x @ weighted_svd(w, RANK, right=root(x)).to_dense().mT
    turned, x2 = w @ torch.linalg.inv(d), x @ d.mT
    after = x2 @ weighted_svd(turned, RANK, right=root(x2)).to_dense().mT
    assert float((before - after).norm()) <= 1e-9 * float(before.norm())
    plain = x2 @ weighted_svd(turned, RANK).to_dense().mT
    if how == "scaled":
        assert float((plain - x @ weighted_svd(w, RANK).to_dense().mT).norm()) > 1e-2


def moment(x):
    s = Squares()
    s.add(x, lambda a: a.mT @ a)
    return s


@pytest.mark.parametrize("power", [-600, 600])
@pytest.mark.parametrize("part", ["w", "left", "right", "inputs"])
def test_numbers_whose_squares_leave_the_floats(power, part):
    w, x, left = draw(OUT, IN), draw(50, IN, seed=1), spd(OUT, 1).mT
    scaled = lambda t, name: t * 2.0**power if name == part else t
    right = moment_root(moment(scaled(x, "inputs")), 50)
    got = weighted_svd(
        scaled(w, "w"), RANK, left=scaled(left, "left"), right=scaled(right, "right")
    )
    want = weighted_svd(w, RANK, left=left, right=moment_root(moment(x), 50))
    got = got.to_dense() * (2.0**-power if part == "w" else 1.0)
    assert torch.isfinite(got).all()
    assert float((got - want.to_dense()).norm()) <= 1e-12 * float(w.norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_answer_has_the_dtype_of_the_matrix(dtype):
    w = draw(OUT, IN).to(dtype)
    low = weighted_svd(w, RANK, right=spd(IN, 2))
    want = weighted_svd(w.double(), RANK, right=spd(IN, 2)).to_dense()
    assert low.dtype == dtype
    error = (low.to_dense().double() - want).norm() / want.norm()
    assert float(error) <= 16 * torch.finfo(dtype).eps


def test_dead_inputs_and_outputs():
    """Inputs that are always zero, outputs without a weight: nothing is divided by them."""
    w = draw(OUT, IN)
    x = draw(50, IN, seed=1)
    x[:, [0, 3, 8]] = 0
    for clamp, slack in ((0.0, 1e-9), (1e-4, 1e-2)):  # what is clamped moves the optimum a little
        low = weighted_svd(w, RANK, right=moment_root(moment(x), 50, clamp=clamp)).to_dense()
        alive = [k for k in range(IN) if k not in (0, 3, 8)]
        s = torch.linalg.svdvals(x[:, alive] @ w[:, alive].mT)
        error = float((x @ (w - low).mT).norm())
        assert error == pytest.approx(float(s[RANK:].norm()), rel=slack)
    left = torch.ones(OUT, dtype=F64)
    left[2] = 0
    low = weighted_svd(w, RANK, left=left).to_dense()
    assert torch.isfinite(low).all() and float(low[2].abs().max()) <= 64 * EPS * float(w.norm())


def test_zero_matrices_and_weights():
    zero = torch.zeros(OUT, IN, dtype=F64)
    assert not weighted_svd(zero, RANK, right=spd(IN, 2)).to_dense().any()
    assert weighted_error(zero, tl.LowRank.from_dense(zero, 1)) == 0
    low = weighted_svd(draw(OUT, IN), RANK, right=torch.zeros(IN, IN, dtype=F64))
    assert torch.isfinite(low.to_dense()).all()


SAID = {
    "rank": (lambda w: weighted_svd(w, 0), "weighted_svd: rank must be at least 1, got 0"),
    "shape": (lambda w: weighted_svd(w[0], 1), r"weighted_svd: needs a matrix, got shape \(9,\)"),
    "left": (
        lambda w: weighted_svd(w, 1, left=torch.ones(3)),
        r"weighted_svd: needs left of shape \(12,\) or \(12, 12\), got \(3,\)",
    ),
    "right": (
        lambda w: weighted_svd(w, 1, right=torch.ones(3, 9)),
        r"weighted_svd: needs right of shape \(9,\) or \(9, 9\), got \(3, 9\)",
    ),
    "nan": (
        lambda w: weighted_svd(w, 1, right=torch.full((9,), math.nan)),
        "weighted_svd: right: needs finite entries, got nan",
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_what_does_not_fit_is_said_in_one_sentence(name):
    act, said = SAID[name]
    with pytest.raises(ValueError, match=said):
        act(draw(OUT, IN))


# ------------------------------------------------------------------------------------- calibration


class Block(nn.Module):
    """Two linear layers over tokens, one into a stream, and a mean over those that count."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down, self.drop = nn.Linear(6, 10), nn.Linear(10, 6), nn.Dropout(0.5)
        self.double()

    def forward(self, x, mask=None):
        x = x + self.down(self.drop(torch.relu(self.up(x))))
        m = torch.ones(x.shape[:2], dtype=x.dtype) if mask is None else mask.to(x.dtype)
        return (x * m[..., None]).sum(1) / m.sum(1, keepdim=True)


def data(batch=8, tokens=5):
    mask = torch.arange(tokens) < torch.randint(1, tokens + 1, (batch, 1), generator=seeded(1))
    return draw(batch, tokens, 6), mask


def labeled(z, batch=None):
    return z.square().sum() + z.pow(3).sum()


def statistics(model, batches, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return calibrate(model, batches, **options)


def sums(s):
    moments = {"inputs": s.inputs, "outputs": s.outputs, "fisher": s.fisher}
    values = {n: m.total * 4.0**m.exponent for n, m in moments.items() if m is not None}
    return values | {"size": s.size, "gradient": s.gradient}


def test_streamed_is_whole():
    model, (x, mask) = Block(), data()
    options = dict(loss=labeled, mask=lambda b: b[1], fisher=True)
    whole = statistics(model, [(x, mask)], **options)
    parts = statistics(model, zip(x.split(3), mask.split(3)), **options)
    for name in ("up", "down"):
        assert whole[name].rows == parts[name].rows == int(mask.sum())
        for key, want in sums(whole[name]).items():
            assert torch.allclose(sums(parts[name])[key], want, rtol=1e-12, atol=1e-12)


def test_sums_are_those_of_autograd_example_by_example():
    model, (x, mask) = Block().eval(), data()
    found = statistics(model, [(x, mask)], loss=labeled, mask=lambda b: b[1], fisher=True)["up"]
    rows = x[mask]
    want = {"inputs": rows.mT @ rows, "size": rows.abs().sum(0)}
    gradients = []
    for a, m in zip(x, mask):
        loss = labeled(model(a[None], m[None]))
        gradients += torch.autograd.grad(loss, model.up.weight)
    gradients = torch.stack(gradients)
    want |= {"fisher": gradients.square().sum(0), "gradient": gradients.sum(0)}
    for key, t in want.items():
        assert torch.allclose(sums(found)[key], t, rtol=1e-10, atol=1e-12), key
    y = model.up(x).detach().requires_grad_()
    labeled(_after_up(model, x, y, mask)).backward()
    assert torch.allclose(sums(found)["outputs"], y.grad[mask].mT @ y.grad[mask], atol=1e-12)


def _after_up(model, x, y, mask):
    x = x + model.down(torch.relu(y))
    return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def test_padding_counts_for_nothing():
    model, (x, mask) = Block(), data()
    options = dict(loss=labeled, mask=lambda b: b[1], fisher=True)
    other = torch.where(mask[..., None], x, 1e3)
    a, b = (statistics(model, [(t, mask)], **options) for t in (x, other))
    for key, want in sums(a["up"]).items():
        assert torch.allclose(sums(b["up"])[key], want, rtol=1e-12)


def test_a_calibration_leaves_the_model_as_it_was():
    model, (x, mask) = Block().train(), data()
    model.up.weight.requires_grad_(False)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    statistics(model, [(x, mask)], loss=labeled)
    assert model.training and model.drop.training and model.down.weight.grad is None
    assert not any(m._forward_hooks for m in model.modules())
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    with pytest.raises(ZeroDivisionError):
        statistics(model, [(x, mask)], loss=lambda z, batch: 1 / 0)
    assert model.training and not any(m._forward_hooks for m in model.modules())


def test_frozen_layers_and_activations_in_place_have_gradients_too():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)).double()
    x = draw(40, 4)
    want = statistics(model, [x], loss=labeled)
    model.requires_grad_(False)
    got = statistics(model, [x], loss=labeled)
    for name in ("0", "2"):
        for key in ("outputs", "gradient"):
            assert torch.allclose(sums(got[name])[key], sums(want[name])[key], rtol=1e-12)
    y = model[0](x).detach().requires_grad_()
    labeled(model[2](torch.relu(y))).backward()
    assert torch.allclose(sums(got["0"])["outputs"], y.grad.mT @ y.grad, rtol=1e-12)


def test_the_probe_of_vectors_estimates_the_gram_matrix_of_the_jacobian():
    """In the mean over draws g gᵀ is JᵀJ: of a linear model the product of the later weights."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).double()
    found = statistics(model, [draw(20000, 4)], names="0", loss=embedding_probe(seeded()))["0"]
    want = (model[1].weight.mT @ model[1].weight).detach()
    got = found.outputs.total * 4.0**found.outputs.exponent / found.rows
    # 20000 draws of a quadratic form of standard deviation at most 2 |w|²: five of them
    assert float((got - want).norm()) < 10 * float(want.trace()) / 20000**0.5


def test_the_probe_of_classes_estimates_the_fisher_information():
    model, n = nn.Sequential(nn.Linear(4, 3)).double(), 20000
    x = draw(1, 4).expand(n, 4)
    found = statistics(model, [x], loss=class_probe(seeded()))["0"]
    p = model(x[:1])[0].softmax(0).detach()
    got = found.outputs.total * 4.0**found.outputs.exponent / n
    assert float((got - (torch.diag(p) - torch.outer(p, p))).norm()) < 10 / n**0.5


def test_what_calibration_cannot_do_is_said_in_one_sentence():
    model, (x, _) = Block(), data()
    says = lambda text: pytest.raises(ValueError, match=text)
    with says("calibrate: needs batches with at least one token, got none"):
        calibrate(model, [])
    with says("calibrate: needs batches with at least one token, got none"):
        calibrate(model, [x[:0]])
    with says("calibrate: needs a name of a dense linear layer .*, got 'nothing'"):
        calibrate(model, [x], "nothing")
    with says("calibrate: needs finite numbers, got others at layer 'up'"):
        calibrate(model, [x / 0])
    model.idle = nn.Linear(3, 3)
    with says("calibrate: needs layers that the model calls, got 'idle'"):
        calibrate(model, [x])
    with says("calibrate: needs weights with numbers, got layer '0' on meta"):
        calibrate(nn.Sequential(nn.Linear(3, 3, device="meta")), [x])


def test_few_rows_are_named_once_and_do_no_harm():
    """One row, and seven dead inputs: never worse than plain SVD on the row that was seen."""
    model, x = nn.Sequential(nn.Linear(20, 12), nn.Linear(12, 5)).double(), draw(300, 20)
    x[:, :7] = 0
    for rows in (1, 5, 300):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = calibrate(model, [x[:rows]], loss=labeled, fisher=True)
        assert len(said) == (rows < 40) and all("fewer than two" in str(w.message) for w in said)
        w = model[0].weight.detach()
        change = lambda m, x=x[:rows], w=w: float((x @ (w - m.cut(4).to_dense()).mT).norm())
        plain = change(weighted_bases(model, found, "svd")["0"])
        for method in METHODS:
            low = weighted_bases(model, found, method)["0"]
            assert torch.isfinite(low.cut(4).to_dense()).all()
            if method == "whitened":
                assert change(low) <= plain


def test_each_method_is_the_best_in_its_own_norm():
    model, (x, mask) = Block(), data(64)
    found = statistics(model, [(x, mask)], loss=labeled, mask=lambda b: b[1], fisher=True)
    for name in ("up", "down"):
        w = getattr(model, name).weight.detach()
        norms = {m: metrics(found[name], m) for m in METHODS}
        cuts = {m: weighted_bases(model, found, m)[name].cut(3) for m in METHODS}
        for m, (left, right) in norms.items():
            errors = {n: weighted_error(w, cut, left=left, right=right) for n, cut in cuts.items()}
            assert min(errors.values()) >= errors[m] * (1 - 1e-12)
            assert m == "svd" or errors["svd"] > errors[m] * (1 + 1e-9)


def test_methods_need_their_statistics():
    found = statistics(Block(), [data()[0]])["up"]
    with pytest.raises(ValueError, match="metrics: 'kfac' needs .* with a loss, got none"):
        metrics(found, "kfac")
    with pytest.raises(ValueError, match="metrics: 'fwsvd rows' needs .* fisher=True, got none"):
        metrics(found, "fwsvd rows")
    with pytest.raises(ValueError, match="metrics: needs a method of svd, asvd, .*, got 'best'"):
        metrics(found, "best")


# ------------------------------------------------------------------------------------------ ranks


def network():
    """Layers of which the last matters least, and the statistics of a label-free probe."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(24, 30), nn.Tanh(), nn.Linear(30, 16), nn.Linear(16, 8)
    ).double()
    return model, statistics(model, [draw(200, 24)], loss=embedding_probe(seeded()))


RANKS = {
    "uniform": lambda b, s, keep, **o: uniform_ranks(b, keep, **o),
    "spectrum": lambda b, s, keep, **o: spectrum_ranks(b, keep, **o),
    "zero sum": zero_sum_ranks,
}
every_rule = pytest.mark.parametrize("rule", RANKS.values(), ids=RANKS)


@every_rule
@pytest.mark.parametrize("pivoted", [False, True])
@pytest.mark.parametrize("keep", [0.4, 0.5, 0.9, 1.0])
def test_ranks_fill_the_budget_and_no_more(rule, keep, pivoted):
    model, found = network()
    bases = weighted_bases(model, found, "kfac")
    for step in (1, 2):
        ranks = rule(bases, found, keep, step=step, pivoted=pivoted)
        dense = sum(math.prod(b.shape) for b in bases.values())
        spent = sum(stored(b.shape, ranks[n], pivoted) for n, b in bases.items())
        room = sum(step * sum(b.shape) for b in bases.values())
        assert keep * dense - room <= spent <= keep * dense
        assert all(r is None or (r % step == 0 and r >= 1) for r in ranks.values())
        if keep == 1:
            assert set(ranks.values()) == {None}


def test_ranks_by_the_spectrum_are_the_best_of_all():
    """Against every choice of ranks: none of at most as many numbers predicts less loss, but for
    what one step of a rank is worth (the budget is a knapsack)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)).double()
    found = statistics(model, [draw(200, 6)], loss=embedding_probe(seeded()))
    bases = weighted_bases(model, found, "kfac")
    loss = lambda n, r: (
        0.0 if r is None else float((bases[n].s[r:] * 2.0 ** bases[n].exponents[1]).square().sum())
    )
    for keep in (0.5, 0.7, 0.9):
        ranks = spectrum_ranks(bases, keep)
        got = sum(loss(n, r) for n, r in ranks.items())
        budget = keep * sum(math.prod(b.shape) for b in bases.values())
        best = min(
            loss("0", a) + loss("1", b)
            for a in (1, 2, 3, 4, 5, None)
            for b in (1, 2, 3, 4, None)
            if stored((5, 6), a) + stored((4, 5), b) <= budget
        )
        steps = [loss(n, r) - loss(n, r + 1) for n, r in ranks.items() if r is not None]
        assert best - 1e-12 <= got <= best + max(steps, default=0.0) + 1e-12


def test_uniform_ranks_predict_more_loss():
    model, found = network()
    bases = weighted_bases(model, found, "kfac")
    loss = lambda ranks: sum(
        float((b.s[ranks[n] :] * 2.0 ** b.exponents[1]).square().sum())
        for n, b in bases.items()
        if ranks[n] is not None
    )
    assert loss(spectrum_ranks(bases, 0.5)) < 0.8 * loss(uniform_ranks(bases, 0.5))


def test_the_running_sum_of_zero_sum_ranks_stays_near_zero():
    """What falls changes the loss, to first order, by less than the largest single component."""
    model, x = nn.Sequential(nn.Linear(24, 30), nn.Tanh(), nn.Linear(30, 8)).double(), draw(200, 24)
    found = statistics(model, [x], loss=lambda z, b: (z - 1).square().sum())
    bases = weighted_bases(model, found, "kfac")
    ranks = zero_sum_ranks(bases, found, 0.5)
    first = lambda n, b: -(b.u * (found[n].gradient @ b.v)).sum(0) * 2.0 ** b.exponents[0]
    every = torch.cat([first(n, b) for n, b in bases.items()])
    assert len({r for r in ranks.values()}) == 2 and float(every.abs().max()) > 0
    assert all(r is None or 1 <= r < min(bases[n].shape) for n, r in ranks.items())


@every_rule
@pytest.mark.parametrize("keep, same", [(1, 1.0), (np.float32(0.5), 0.5), (np.int64(1), 1.0)])
def test_a_share_is_any_real_number(rule, keep, same):
    model, found = network()
    bases = weighted_bases(model, found, "kfac")
    assert rule(bases, found, keep) == rule(bases, found, same)


@every_rule
@pytest.mark.parametrize("keep", [0, -0.5, 1.5, 0.01, math.nan, "half"])
def test_a_share_that_cannot_be_is_refused(rule, keep):
    model, found = network()
    bases = weighted_bases(model, found, "kfac")
    with pytest.raises(ValueError, match=r"_ranks: needs (0 < keep <= 1|keep >= 0\.\d+ for rank)"):
        rule(bases, found, keep)


def test_absolute_gain_is_refused_without_the_unit_of_the_loss():
    model, found = network()
    bases = weighted_bases(model, found, "whitened")
    with pytest.raises(
        ValueError, match="spectrum_ranks: needs method 'kfac', .* got 'whitened': "
    ):
        spectrum_ranks(bases, 0.5, method="whitened")


# ------------------------------------------------------------------------------------------ models


def test_layers_are_cut_where_they_stand():
    model, found = network()
    bases = weighted_bases(model, found, "kfac")
    ranks = {"0": 3, "2": None, "3": 2}
    biases = [model[k].bias for k in (0, 3)]
    assert cut_layers(model, bases, ranks) is model
    assert [type(m).__name__ for m in model][::2] == ["FactorizedLinear", "Linear"]
    assert model[0].weight.ranks == (3,) and model[3].weight.ranks == (2,)
    assert model[0].bias is biases[0] and model[3].bias is biases[1]
    assert torch.equal(model[0].weight.to_dense(), bases["0"].cut(3).to_dense())
    with pytest.raises(
        ValueError, match="cut_layers: needs a rank for each layer, got none for '0'"
    ):
        cut_layers(model, bases, {"2": 1, "3": 1})


def test_weighted_is_better_than_plain_where_it_counts():
    """Outputs of a two-layer network with correlated inputs: kfac and whitened beat plain SVD."""
    x = draw(400, 24) @ spd(24, 7, spread=6)
    errors = {}
    for method in ("svd", "whitened", "kfac"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(24, 30), nn.Tanh(), nn.Linear(30, 8)).double()
        want = model(x)
        found = statistics(model, [x[:200]], loss=embedding_probe(seeded()))
        bases = weighted_bases(model, found, method)
        cut_layers(model, bases, uniform_ranks(bases, 0.5))
        errors[method] = float((model(x) - want).detach()[200:].norm() / want[200:].detach().norm())
    assert errors["whitened"] < 0.6 * errors["svd"] and errors["kfac"] < 0.6 * errors["svd"]


def test_conv1d_is_cut_as_it_stands_transposed():
    class Conv1D(nn.Module):
        def __init__(self):
            super().__init__()
            self.nf, self.weight = 5, nn.Parameter(draw(7, 5))
            self.bias = nn.Parameter(draw(5))

        def forward(self, x):
            return x @ self.weight + self.bias

    model, x = nn.Sequential(Conv1D()), draw(60, 7)
    want = model(x)
    found = statistics(model, [x], loss=embedding_probe(seeded()))
    bases = weighted_bases(model, found, "kfac")
    cut_layers(model, bases, {"0": 5})
    assert torch.allclose(model(x), want, atol=1e-10)


@pytest.mark.parametrize("ranks", [None, "uniform", "spectrum", "zero sum"])
@pytest.mark.parametrize("pivoted", [False, True])
def test_one_call_keeps_a_share(ranks, pivoted):
    model, found = network()
    dense = sum(math.prod(model[int(k)].weight.shape) for k in found)
    tl.methods.weighted.compress_layers(model, found, 0.5, ranks=ranks, pivoted=pivoted)
    report = tl.layer_report(model)
    assert 0.35 * dense < report.total("parameters") <= 0.5 * dense
    kinds = {"PivotedLowRank" if pivoted else "LowRank", "dense"}
    assert {row.kind for row in report.rows} <= kinds and len(report.rows) == 3
    assert model(draw(3, 24)).shape == (3, 8)
    with pytest.raises(ValueError, match="compress_layers: needs ranks of uniform, .*, got 'best'"):
        tl.methods.weighted.compress_layers(network()[0], found, 0.5, ranks="best")


def test_pivots_buy_rank():
    """At one size the pivoted format has more rank, and less predicted loss."""
    model, found = network()
    bases = weighted_bases(model, found, "kfac")
    plain, pivoted = (uniform_ranks(bases, 0.5, pivoted=p) for p in (False, True))
    assert all(pivoted[n] > plain[n] for n in bases)


def test_ranks_reach_a_dense_layer_that_single_steps_would_not():
    """By hand: 120 numbers for a, ten equal s, and b, four larger ones. A step of b gains the most,
    but all steps of a together gain more: a dense at 100 and b of rank 1, not a of rank 2."""
    spectra = {"a": [1.0] * 10, "b": [1.5] * 4 + [0.0] * 6}
    bases = {n: weighted_basis(torch.diag(torch.tensor(s).sqrt())) for n, s in spectra.items()}
    assert spectrum_ranks(bases, 0.6) == {"a": None, "b": 1}
