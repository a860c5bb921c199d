"""Inputs of layers: their second moments, and the errors of a report that are made of them."""

import pytest
import torch
from torch import nn

import tensorlab as tl
from tensorlab.layers.inputs import layer_inputs


def model(seed=0):
    g = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 6)).double()
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=g, dtype=p.dtype)
    return net


X = torch.randn(3, 7, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_the_moments_of_several_calls():
    net = model()
    found = layer_inputs(net, ["0", "2"], lambda: [net(x) for x in X])
    for name, x in (("0", X), ("2", net[:2](X).detach())):
        x = x.flatten(0, 1)
        assert torch.allclose(found[name].mT @ found[name] / x.shape[1], x.mT @ x / len(x))
    assert not any(layer._forward_pre_hooks for layer in net)


def test_hooks_go_when_the_run_fails():
    net = model()
    with pytest.raises(RuntimeError):
        layer_inputs(net, "0", lambda: net(torch.ones(1, 5).double()))
    assert not net[0]._forward_pre_hooks


def test_a_layer_that_is_not_called():
    net = model()
    with pytest.raises(
        ValueError, match="layer_inputs: needs a run that calls layer '2', got none"
    ):
        layer_inputs(net, ["0", "2"], lambda: net[0](X))


def test_the_errors_of_a_report():
    net, dense = model(), model()
    tl.replace_linear(net, "0", lambda w: tl.kron_svd(w, (2, 3), 2))
    x = layer_inputs(dense, "0", lambda: dense(X))
    row = tl.layer_report(net, dense, inputs=x)["0"]
    e, w, outputs = net[0].weight.to_dense() - dense[0].weight, dense[0].weight, X.flatten(0, 1)
    norm = lambda a, p: float(torch.linalg.matrix_norm(a, p))
    assert row.error == pytest.approx(norm(e, "fro") / norm(w, "fro"))
    assert row.spectral == pytest.approx(norm(e, 2) / norm(w, 2))
    ratio = norm(e @ outputs.mT, "fro") / norm(w @ outputs.mT, "fro")
    assert row.weighted == pytest.approx(ratio)
    text = str(tl.layer_report(net, dense, inputs=x)).splitlines()
    assert text[0].split()[-3:] == ["error", "spectral", "weighted"]
    assert "weighted" not in str(tl.layer_report(net, dense))
    assert "spectral" not in str(tl.layer_report(net))


def test_the_spectral_sum_has_the_smaller_spectral_error_and_the_weighted_one_of_outputs():
    dense = model()
    x = layer_inputs(dense, "0", lambda: dense(X * torch.logspace(0, -1, 12)))
    makes = {
        "error": lambda w: tl.kron_svd(w, (2, 3), 2),
        "spectral": lambda w: tl.kron_spectral(w, (2, 3), 2).value,
        "weighted": lambda w: tl.kron_spectral(w, (2, 3), 2, inputs=x["0"], p_max=2).value,
    }
    rows = {}
    for name, make in makes.items():
        net = tl.replace_linear(model(), "0", make)
        rows[name] = tl.layer_report(net, dense, inputs=x)["0"]
    for norm in makes:
        assert min(makes, key=lambda made: getattr(rows[made], norm)) == norm


def test_a_report_refuses_inputs_of_another_layer():
    with pytest.raises(ValueError, match=r"inputs \(samples, 12\) of layer '0', got \(5, 8\)"):
        tl.layer_report(model(), model(), inputs={"0": torch.ones(5, 8)})
