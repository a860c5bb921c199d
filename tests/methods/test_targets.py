"""Layer by layer with targets of the full model: the stream is found, full rank changes nothing,
and the outputs are nearer than those of layers cut alone."""

import copy
import warnings

import pytest
import torch
from torch import nn

from tensorlab.methods.targets import _order, _watch, sequential_layers
from tensorlab.methods.weighted import (
    calibrate,
    cut_layers,
    embedding_probe,
    uniform_ranks,
    weighted_bases,
)

F64 = torch.float64


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class Block(nn.Module):
    """Two branches into a stream, the second behind a dropout, which eval leaves out."""

    def __init__(self, seed, add):
        super().__init__()
        torch.manual_seed(seed)
        self.q, self.k, self.mix = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 12)
        self.up, self.down, self.drop = nn.Linear(12, 24), nn.Linear(24, 12), nn.Dropout(0.5)
        self.norm, self.add = nn.LayerNorm(12), add

    def forward(self, x):
        x = x * 1  # which may be written to
        x = self.norm(self.add(x, self.mix(torch.tanh(self.q(x)) * self.k(x))))
        return self.add(x, self.drop(self.down(torch.tanh(self.up(x)))))


SUMS = {
    "x + y": lambda x, y: x + y,
    "y + x": lambda x, y: y + x,
    "torch.add": torch.add,
    "y += x": lambda x, y: y.add_(x),
    "x += y": lambda x, y: x.add_(y),
}


def network(add=SUMS["x + y"]):
    return nn.Sequential(Block(0, add), Block(1, add)).to(F64)


def data():
    """Batches of tokens with correlated entries."""
    mix = torch.linalg.qr(draw(12, 12, seed=9)).Q * torch.logspace(0.5, -1, 12, dtype=F64)
    return list((draw(60, 5, 12) @ mix.mT).split(20))


def prepared(model, keep=0.5):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = calibrate(model, data(), loss=embedding_probe(torch.Generator().manual_seed(0)))
    bases = weighted_bases(model, found, "kfac")
    return found, bases, uniform_ranks(bases, keep)


@pytest.mark.parametrize("add", SUMS.values(), ids=SUMS)
def test_the_stream_is_what_the_model_adds(add):
    model, (x, *_) = network(add).eval(), data()
    before = x.clone()
    found = _watch(model, ["0.mix", "0.down", "0.up"], lambda m: m(x))
    x = before
    assert torch.equal(found["0.mix"].stream, before)
    y = model[0].mix(torch.tanh(model[0].q(x)) * model[0].k(x))
    assert torch.allclose(found["0.down"].stream, model[0].norm(x + y), atol=1e-12)
    assert found["0.up"].stream is None


def test_layers_of_one_input_go_together_in_the_order_of_calls():
    model = network()
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    groups = _order(model, names[::-1], data, lambda m, b: m(b))
    block = lambda k: [[f"{k}.q", f"{k}.k"], [f"{k}.mix"], [f"{k}.up"], [f"{k}.down"]]
    assert groups == block(0) + block(1)


@pytest.mark.thorough
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("add", SUMS.values(), ids=SUMS)
def test_at_full_rank_or_dense_nothing_changes(full, add):
    model, (x, *_) = network(add).eval(), data()
    want = model(x.clone())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = calibrate(model, data())
    ranks = {n: 12 if full else None for n in found}
    sequential_layers(model, copy.deepcopy(model), found, ranks, data, method="whitened")
    assert torch.allclose(model(x.clone()), want, atol=1e-9)


@pytest.mark.parametrize("method", ["whitened", "kfac"])
def test_outputs_are_nearer_than_of_layers_cut_alone(method):
    model = network().eval()
    found, _, ranks = prepared(model)
    bases = weighted_bases(model, found, method)
    alone = cut_layers(copy.deepcopy(model), bases, ranks)
    done = []
    together = sequential_layers(
        copy.deepcopy(model), model, found, ranks, data, method=method, progress=done.append
    )
    assert sorted(done) == sorted(ranks)
    change = lambda m: sum(float((m(x) - model(x)).detach().square().sum()) for x in data())
    assert change(together) < 0.9 * change(alone)
    assert [m.weight.ranks for m in together.modules() if hasattr(m, "strategy")] == [
        m.weight.ranks for m in alone.modules() if hasattr(m, "strategy")
    ]


def test_padding_counts_for_nothing():
    model = network().eval()
    found, _, ranks = prepared(model)
    mask = torch.arange(5) < 3
    batches = lambda fill: [
        (torch.where(mask[:, None], x, fill), mask.expand(len(x), 5)) for x in data()
    ]
    options = dict(forward=lambda m, b: m(b[0]), mask=lambda b: b[1])
    a, b = (
        sequential_layers(
            copy.deepcopy(model), model, found, ranks, lambda f=f: batches(f), **options
        )
        for f in (0.0, 50.0)
    )
    x = data()[0]
    assert torch.allclose(a(x), b(x), atol=1e-8)


def test_biases_stay_the_parameters_that_they_were():
    model = network()
    found, _, ranks = prepared(model)
    before, hooks = model[0].up.bias, [m for m in model.modules() if m._forward_hooks]
    model.train()
    sequential_layers(model, copy.deepcopy(model), found, ranks, data)
    assert model[0].up.bias is before and not hooks and model.training
    assert not any(m._forward_hooks for m in model.modules())


def test_ranks_without_statistics_are_refused():
    model = network()
    with pytest.raises(
        ValueError, match="sequential_layers: needs statistics of each layer, got none of '0.q'"
    ):
        sequential_layers(model, model, {}, {"0.q": 1}, data)
