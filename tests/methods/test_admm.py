"""ADMM: its steps by hand, the known answer of a convex-like case, and the network that survives
its projection."""

import pytest
import torch
from torch import nn

import tensorlab as tl
from tensorlab import datasets
from tensorlab.layers.surgery import replace_linear
from tensorlab.methods.admm import ADMM
from tensorlab.models.lenet import LeNet
from tensorlab.models.mlp import MLP
from tensorlab.models.training import accuracy, train

F64 = torch.float64


def gaussian(*shape, seed=0):
    return tl.rng.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def linear(m=6, n=8, seed=0):
    layer = nn.Linear(n, m, bias=False, dtype=F64)
    layer.weight.data = gaussian(m, n, seed=seed)
    return nn.Sequential(layer)


def rank(r):
    return lambda w: tl.LowRank.from_dense(w, r)


def svd(w, r):
    u, s, vh = torch.linalg.svd(w, full_matrices=False)
    return (u[:, :r] * s[:r]) @ vh[:r]


def test_two_rounds_by_hand():
    model, target = linear(), gaussian(6, 8, seed=1)
    loss = lambda: (model[0].weight - target).square().sum() / 2
    admm = ADMM(model, torch.optim.SGD(model.parameters(), 0.1), {"0": rank(2)}, rho=0.5, every=3)
    w, u = model[0].weight.detach().clone(), torch.zeros(6, 8, dtype=F64)
    z = svd(w, 2)
    for _ in range(2):
        for _ in range(3):
            assert float(admm.step(loss)) == pytest.approx(float((w - target).square().sum() / 2))
            w = w - 0.1 * (w - target + 0.5 * (w - z + u))
        old, z = z, svd(w + u, 2)
        u = u + w - z
        assert (
            torch.allclose(admm.z["0"], z)
            and torch.allclose(admm.u["0"], u)
            and torch.allclose(model[0].weight, w)
        )
        last = admm.history[-1]
        assert last.primal["0"] == pytest.approx(float((w - z).norm() / w.norm()))
        assert last.dual["0"] == pytest.approx(0.5 * float((z - old).norm() / w.norm()))


def test_the_multiplier_stays_when_rho_changes():
    model = linear()
    admm = ADMM(
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        {"0": rank(2)},
        rho=lambda round: 0.1 * 2**round,
    )
    admm.step(lambda: model[0].weight.sum())
    expected = 0.1 * (model[0].weight.detach() - svd(model[0].weight.detach(), 2))
    admm.update()
    assert admm.rho == pytest.approx(0.2) and torch.allclose(admm.rho * admm.u["0"], expected)
    assert [r.rho for r in admm.history] == [0.1]


@pytest.mark.thorough
def test_for_a_quadratic_it_finds_the_nearest_matrix_of_the_rank():
    """min |W - A|² of a rank is the truncated SVD: Eckart and Young are the oracle."""
    model, a = linear(), gaussian(6, 8, seed=3)
    sets = {"0": rank(3)}
    admm = ADMM(
        model,
        torch.optim.SGD(model.parameters(), 0.2),
        sets,
        rho=lambda k: min(0.5 * 1.1**k, 3.0),
        every=20,
    )
    for _ in range(1200):
        admm.step(lambda: (model[0].weight - a).square().sum() / 2)
    assert admm.history[-1].primal["0"] < 1e-3 < 0.1 < admm.history[0].primal["0"]
    admm.finish()
    assert torch.allclose(model[0].weight, svd(a, 3), atol=1e-2)


@pytest.mark.parametrize(
    "project, kind",
    [
        (rank(2), tl.LowRank),
        (lambda w: tl.tt_matrix_svd(w, (3, 2), (4, 2), 2), tl.TTMatrix),
        (lambda w: tl.tt_svd(w.reshape(3, 2, 4, 2), 2), tl.TT),
        (lambda w: tl.hosvd(w.reshape(3, 2, 4, 2), (2, 2, 2, 2)), tl.Tucker),
        (lambda w: tl.kron_svd(w, (3, 4), 1), tl.Kronecker),
    ],
)
def test_any_format_is_a_set(project, kind):
    model = linear()
    admm = ADMM(model, torch.optim.SGD(model.parameters(), 0.05), {"*": project}, rho=1.0, every=5)
    for _ in range(10):
        admm.step(lambda: model[0].weight.square().sum())
    formats = admm.finish()
    assert isinstance(formats["0"], kind)
    assert torch.allclose(formats["0"].to_dense().reshape(6, 8), model[0].weight)
    again = project(model[0].weight.detach()).to_dense().reshape(6, 8)
    assert torch.allclose(again, model[0].weight, atol=1e-10)  # it lies in the set now


def test_kernels_go_to_tucker_tensors():
    model = LeNet(
        8,
        channels=(4, 6),
        hidden=8,
        kernel=3,
        padding=1,
        generator=torch.Generator().manual_seed(0),
    )
    admm = ADMM(
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        {"conv2": lambda w: tl.hosvd(w, (2, 2, 3, 3))},
        rho=0.1,
        every=1,
    )
    admm.step(lambda: model(torch.ones(2, 8, 8)).square().sum())
    assert admm.finish()["conv2"].ranks == (2, 2, 3, 3)


def test_a_layer_out_of_reach_of_the_loss_goes_to_its_set():
    model = nn.ModuleList([linear(), linear(seed=1)])
    sets = {"0.0": rank(1), "1.0": rank(1)}
    admm = ADMM(model, torch.optim.SGD(model.parameters(), 0.5), sets, rho=1.0)
    before = float((model[1][0].weight - admm.z["1.0"]).norm())
    admm.step(lambda: model[0](torch.ones(8, dtype=F64)).sum())
    assert float((model[1][0].weight - admm.z["1.0"]).norm()) == pytest.approx(before / 2)


# -- what it is for


def run(seed, epochs=12):
    """Accuracy on held-out digits after the projection to a TT-matrix: of a network trained
    plainly, and of one trained by ADMM."""
    x, y = datasets.digits()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order].float(), y[order]
    project = lambda w: tl.tt_matrix_svd(w, (4, 4, 4), (4, 4, 4), 3)
    results = {}
    for name in ("direct", "admm"):
        g = torch.Generator().manual_seed(seed)
        model = MLP((64, 64, 10), generator=g)
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        losses = list(train(model, optimizer, x[:1300], y[:1300], epochs=epochs, generator=g))
        admm = ADMM(model, optimizer, {"layers.0": project}, rho=lambda k: min(1e-2 * 1.5**k, 1.0))
        for _ in range(epochs if name == "admm" else 0):
            for rows in torch.randperm(1300, generator=g).split(100):
                admm.step(
                    lambda rows=rows, model=model: nn.functional.cross_entropy(
                        model(x[rows]), y[rows]
                    )
                )
            admm.update()
        if name == "direct":
            losses += list(
                train(model, optimizer, x[:1300], y[:1300], epochs=epochs, generator=g)
            )  # as many epochs
        admm.finish()
        results[name] = accuracy(model, x[1300:], y[1300:])
    return results


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_survives_the_projection_that_plain_training_does_not(seed):
    found = run(seed)
    assert found["admm"] >= found["direct"] + 0.05, found


def test_the_formats_are_the_start_of_fine_tuning():
    model = linear()
    project = rank(2)
    admm = ADMM(model, torch.optim.SGD(model.parameters(), 0.1), {"0": project}, rho=1.0)
    x = gaussian(4, 8, seed=5)
    admm.finish()
    expected = model(x)
    assert torch.allclose(replace_linear(model, "0", project)(x), expected)


@pytest.mark.parametrize(
    "make, said",
    [
        (
            lambda m, o: ADMM(m, o, {"conv": rank(2)}, rho=1.0),
            r"needs a name of a linear or convolution layer \(0\), got 'conv'",
        ),
        (
            lambda m, o: ADMM(m, o, {"0": rank(2)}, rho=0.0),
            "rho in round 0 must be a number > 0, got 0.0",
        ),
        (lambda m, o: ADMM(m, o, {"0": rank(2)}, rho=1.0, every=0), "got 0"),
        (lambda m, o: ADMM(m, o, {"0": lambda w: w}, rho=1.0), "got Tensor"),
        (
            lambda m, o: ADMM(m, o, {"0": lambda w: tl.LowRank.from_dense(w[:2], 1)}, rho=1.0),
            r"got LowRank of shape \(2, 8\)",
        ),
        (
            lambda m, o: [
                m[0].weight.data.fill_(float("nan")),
                ADMM(m, o, {"0": rank(2)}, rho=1.0),
            ],
            "finite weights, got some that are not in layer '0'",
        ),
    ],
)
def test_says_no(make, said):
    model = linear()
    with pytest.raises(ValueError, match=said):
        make(model, torch.optim.SGD(model.parameters(), 0.1))
