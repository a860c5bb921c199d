"""Dense layers as torch holds them: computed weights are read fresh and written through their
parameters, and an overridden forward is seen."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import prune as torch_prune

from tensorlab.layers.dense import (
    check_plain,
    check_writable,
    current,
    dense_weight,
    is_computed,
    is_trained,
    overrides_forward,
    parameters_of,
    write_weights,
)
from tensorlab.layers.linear import redraw

warnings.filterwarnings("ignore", category=FutureWarning)


def old(wrap):
    def wrapped(layer):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return wrap(layer)

    return wrapped


class Symmetric(nn.Module):
    def forward(self, w):
        return w.triu() + w.triu(1).mT


def symmetric(layer):
    return parametrize.register_parametrization(layer, "weight", Symmetric())


def mask(layer):
    return torch_prune.l1_unstructured(layer, "weight", 0.25)


# name -> (how a weight is computed, whether it can take any value, whether it can be pruned)
COMPUTED = {
    "weight_norm": (parametrizations.weight_norm, True, True),
    "weight_norm of columns": (lambda m: parametrizations.weight_norm(m, dim=1), True, True),
    "weight_norm of all": (lambda m: parametrizations.weight_norm(m, dim=None), True, True),
    "old weight_norm": (old(nn.utils.weight_norm), True, True),
    "mask": (mask, False, True),
    "spectral_norm": (parametrizations.spectral_norm, False, False),
    "old spectral_norm": (old(nn.utils.spectral_norm), False, False),
    "orthogonal": (parametrizations.orthogonal, False, False),
    "symmetric": (symmetric, False, False),
}
computed = pytest.mark.parametrize("how", COMPUTED)


def layer(how, seed=0):
    torch.manual_seed(seed)
    return COMPUTED[how][0](nn.Linear(6, 6, dtype=torch.float64))


def state(module):
    return {key: t.clone() for key, t in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(t, b[key]) for key, t in a.items())


class Conv1D(nn.Module):
    """GPT-2's linear layer."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


# -- weights are read


@computed
def test_a_computed_weight_is_that_of_the_next_forward_in_eval(how):
    m, x = layer(how), torch.eye(6, dtype=torch.float64)
    with torch.no_grad():
        for p in m.parameters():
            p.add_(0.1)  # as an optimizer does, after which an older hook's value is out of date
    read, before = current(m), state(m)
    assert same(before, state(m)) and m.training
    assert torch.allclose(m.eval()(x), x @ read.mT + m.bias, atol=1e-12)


@computed
def test_a_computed_weight_knows_its_parameters(how):
    m = layer(how)
    assert is_computed(m) and not is_computed(m, "bias") and is_trained(m)
    current(m).square().sum().backward()
    mine = parameters_of(m)
    assert mine and all(p.grad is not None for p in mine) and m.bias.grad is None
    for p in mine:
        p.requires_grad_(False)
    assert not is_trained(m) and is_trained(m, "bias")


def test_the_weight_of_conv1d_is_turned_and_a_bias_may_be_absent():
    m = Conv1D(5, 3)
    assert torch.equal(dense_weight(m), m.weight.mT) and parameters_of(m) == [m.weight]
    assert parameters_of(nn.Linear(2, 2, bias=False), "bias") == []
    with pytest.raises(TypeError, match="example: needs nn.Linear, .* got ReLU"):
        dense_weight(nn.ReLU(), "example")


# -- weights are written


@computed
def test_a_value_is_taken_or_refused_with_nothing_changed(how):
    _, any_value, zeros = COMPUTED[how]
    m, before = layer(how), state(layer(how))
    values = {
        "any": torch.randn(6, 6, dtype=torch.float64),
        "pruned": current(m).detach().masked_fill(current(m).abs() < 0.2, 0),
    }
    for name, expected in (("any", any_value), ("pruned", zeros)):
        if expected:
            parameters = list(m.parameters())
            write_weights("example", {"0": m}, {"0": values[name]})
            assert torch.allclose(m.weight, values[name], rtol=1e-14, atol=1e-15)
            assert torch.allclose(m(torch.eye(6).double()) - m.bias, values[name].mT, atol=1e-14)
            assert [p for p in m.parameters()] == parameters
        else:
            with pytest.raises(ValueError, match="example: needs a weight that can be set, .*'0'"):
                write_weights("example", {"0": m}, {"0": values[name]})
            assert same(state(m), before)


@computed
def test_whether_it_takes_any_value_is_asked_without_a_trace(how):
    m, before = layer(how), state(layer(how))
    if COMPUTED[how][1]:
        check_writable("example", {"0": m})
    else:
        with pytest.raises(ValueError, match="layer '0', whose weight .* computes; remove"):
            check_writable("example", {"0": m})
    assert same(state(m), before) and torch.equal(current(m), current(layer(how)))


def test_one_refusal_leaves_all_layers():
    layers = {"a": layer("weight_norm"), "b": nn.Linear(6, 6).double(), "c": layer("orthogonal")}
    before = {name: state(m) for name, m in layers.items()}
    values = dict.fromkeys(layers, torch.ones(6, 6, dtype=torch.float64))
    with pytest.raises(ValueError, match="'c', whose weight Orthogonal computes"):
        write_weights("example", layers, values)
    assert all(same(state(m), before[name]) for name, m in layers.items())


def test_plain_weights_are_written_in_place():
    a, b = Conv1D(2, 3), nn.Conv2d(2, 3, 1)
    kept = a.weight, b.weight
    write_weights("example", {"a": a, "b": b}, {"a": torch.ones(2, 3), "b": torch.ones(3, 2, 1, 1)})
    assert a.weight is kept[0] and b.weight is kept[1] and bool((a.weight == 1).all())


@computed
def test_a_start_is_drawn_anew_or_refused(how):
    model = nn.Sequential(nn.Linear(6, 6).double(), layer(how))
    before = state(model)
    if COMPUTED[how][1]:
        plain = nn.Sequential(*(nn.Linear(6, 6).double() for _ in range(2)))
        for m in (model, plain):
            redraw(m, torch.Generator().manual_seed(3))
        assert torch.allclose(model[1].weight, plain[1].weight, atol=1e-14)
    else:
        with pytest.raises(ValueError, match="redraw: needs a weight that can be set"):
            redraw(model, torch.Generator().manual_seed(3))
        assert same(state(model), before)


def test_a_start_is_that_of_torch_for_every_layer():
    model = nn.Sequential(nn.Embedding(9, 200, padding_idx=2), Conv1D(90, 50), nn.Conv3d(3, 9, 4))
    redraw(model, torch.Generator().manual_seed(0))
    assert not model[0].weight[2].any() and model[0].weight[[0, 5]].std() > 0.8
    for m, fan_in in ((model[1], 50), (model[2], 3 * 64)):
        assert float(m.weight.detach().abs().max()) <= fan_in**-0.5
        assert float(m.weight.detach().std()) == pytest.approx((3 * fan_in) ** -0.5, rel=0.05)
        assert float(m.bias.detach().abs().max()) <= fan_in**-0.5


# -- whose forward


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Named(nn.Linear):
    """A subclass that inherits its forward."""


class Turned(Conv1D):
    def forward(self, x):
        return -super().forward(x)


class Padded(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return 2 * super()._conv_forward(x, weight, bias)


class Shifted(nn.Embedding):
    def forward(self, ids):
        return super().forward(ids) + 1


def exchanged():
    m = nn.Linear(4, 4)
    m.forward = lambda x: 2 * x
    return m


@pytest.mark.parametrize(
    "make",
    [lambda: Scaled(4, 4), lambda: Turned(4, 4), lambda: Padded(2, 2, 1), exchanged]
    + [lambda: Shifted(4, 4)],
)
def test_a_layer_that_overrides_forward(make):
    m = make()
    assert overrides_forward(m)
    with pytest.raises(TypeError, match=rf"overrides forward \({type(m).__name__}\)"):
        check_plain("example", m)


def test_an_inherited_forward():
    attention = nn.MultiheadAttention(4, 2).out_proj
    lazy = nn.LazyLinear(3)
    with pytest.raises(TypeError, match=r"no weights before its first input \(LazyLinear\)"):
        check_plain("example", lazy)
    lazy(torch.ones(1, 2))
    plain = [Named(4, 4), Conv1D(4, 4), attention, lazy, nn.Conv2d(2, 2, 1), nn.Embedding(3, 3)]
    for m in [*plain, *(layer(how) for how in COMPUTED)]:
        assert not overrides_forward(m)
        check_plain("example", m)
