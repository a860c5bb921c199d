"""Codes with feedback: better for the inputs, the same codebook, and a layer like any other."""

import pytest
import torch
from torch import nn

import tensorlab as tl
from tensorlab.methods.feedback import feedback_layers, quantize_with_feedback
from tensorlab.methods.weighted import calibrate, moment_root, weighted_error

F64 = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=F64)


def inputs(n, rows=2000, seed=1):
    mix = torch.linalg.qr(draw(n, n, seed=7)).Q * torch.logspace(0.5, -1.5, n, dtype=F64)
    return draw(rows, n, seed=seed) @ mix.mT


def pair(w, moment, bits, **options):
    plain = tl.quantize(w, bits, generator=seeded(), **options)
    return plain, quantize_with_feedback(w, moment, bits, generator=seeded(), **options)


@pytest.mark.parametrize("method, bits", [("pairs", 2), ("pairs", 3), ("rotate", 2), ("rotate", 5)])
def test_the_error_that_inputs_see_falls_on_others_too(method, bits):
    """By more than a third, on inputs that were not used; the distance of the weights rises."""
    w, x, other = draw(96, 64), inputs(64), inputs(64, seed=2)
    plain, fed = pair(w, x.mT @ x, bits, method=method)
    change = lambda q: float((other @ (w - q.to_dense().double()).mT).norm())
    assert change(fed) < 0.66 * change(plain)
    assert fed.error > plain.error
    assert fed.error == pytest.approx(
        float((w - fed.to_dense().double()).norm() / w.norm()), rel=1e-5
    )
    assert fed.stored_bits == plain.stored_bits
    assert torch.equal(fed.codebook, plain.codebook) and torch.equal(fed.scale, plain.scale)


@pytest.mark.parametrize("method", ["pairs", "rotate"])
def test_with_white_inputs_there_is_nothing_to_hand_on(method):
    w = draw(40, 32)
    plain, fed = pair(w, torch.eye(32, dtype=F64), 3, method=method)
    assert float((plain.to_dense() - fed.to_dense()).norm()) <= 1e-2 * float(w.norm())


def test_two_columns_by_hand():
    """One row, two inputs that are always alike: the second makes good what the first loses."""
    from tensorlab.methods.feedback import _rounded

    levels = torch.tensor([[-1.0], [0.0], [1.0]])
    h = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=F64) + 1e-9 * torch.eye(2, dtype=F64)
    z = torch.tensor([[0.4, 0.4]], dtype=F64)
    codes = _rounded(z, h, levels, 1)
    assert levels[codes[0], 0].tolist() == [0.0, 1.0]  # 0.4 + 0.4 is nearer to 1 than to 0


def test_blocks_of_columns_are_the_same_as_one_by_one(monkeypatch):
    from tensorlab.methods import feedback

    w, x = draw(24, 96), inputs(96)
    whole = pair(w, x.mT @ x, 2)[1]
    for block in (2, 10, 1000):
        monkeypatch.setattr(feedback, "BLOCK", block)
        assert torch.equal(pair(w, x.mT @ x, 2)[1].codes, whole.codes)


@pytest.mark.parametrize("power", [-600, 600])
def test_sizes_do_not_matter(power):
    w, x = draw(24, 32), inputs(32)
    fed = pair(w, x.mT @ x, 2)[1]
    assert torch.equal(pair(w, (x.mT @ x) * 2.0**power, 2)[1].codes, fed.codes)
    assert torch.equal(pair(w * 2.0 ** (power // 2), x.mT @ x, 2)[1].codes, fed.codes)


@pytest.mark.parametrize("rows", [0, 1, 20])
def test_few_rows_and_dead_inputs(rows):
    w, x = draw(24, 32), inputs(32, 2000)
    x[:, :7] = 0
    seen = x[:rows].mT @ x[:rows] if rows else torch.zeros(32, 32, dtype=F64)
    fed = quantize_with_feedback(w, seen, 3, damping=0.1, generator=seeded())
    assert torch.isfinite(fed.to_dense()).all() and fed.error < 1
    assert not tl.quantize(w * 0, 3, generator=seeded()).to_dense().any()
    assert not quantize_with_feedback(w * 0, seen, 3, generator=seeded()).to_dense().any()


def test_layers_of_a_model():
    model, x = nn.Sequential(nn.Linear(32, 48), nn.Tanh(), nn.Linear(48, 10)).double(), inputs(32)
    found = calibrate(model, [x])
    want, bias = model(x), model[2].bias.detach().clone()
    w = model[0].weight.detach().clone()
    root = moment_root(found["0"].inputs, found["0"].rows)
    feedback_layers(model, found, 3, generator=seeded())
    assert [type(m).__name__ for m in model][::2] == ["QuantizedLinear"] * 2
    assert torch.equal(model[2].bias, bias)
    plain = tl.quantize(w, 3, generator=seeded())
    assert weighted_error(w, model[0].weight, right=root) < 0.66 * weighted_error(
        w, plain, right=root
    )
    assert float((model(x) - want).detach().norm() / want.detach().norm()) < 0.2


def test_what_does_not_fit_is_said_in_one_sentence():
    w, eye = draw(8, 6), torch.eye(6, dtype=F64)
    says = lambda text: pytest.raises(ValueError, match=f"quantize_with_feedback: {text}")
    for method in ("uniform", "kmeans", "kashin"):
        with says(f"needs method pairs or rotate, got {method}"):
            quantize_with_feedback(w, eye, 3, method=method)
    with says("needs an even number of inputs for pairs, got 5"):
        quantize_with_feedback(w[:, :5], eye[:5, :5], 3)
    with says(r"needs a moment of shape \(6, 6\), got \(5, 5\)"):
        quantize_with_feedback(w, eye[:5, :5], 3)
