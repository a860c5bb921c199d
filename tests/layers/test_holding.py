"""A module that holds a format: other weights, other ranks, stored ranks, each for every such
module."""

import io

import pytest
import torch

import tensorlab as tl
from tensorlab.layers.holding import Holding, meanwhile

F64 = torch.float64


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def low_rank(shape, rank, seed):
    return tl.LowRank.randn(shape, rank, generator=seeded(seed), dtype=F64)


def train(rank, seed, out=(4, 5)):
    return tl.TTMatrix.randn(out=out, in_=(2, 3), rank=rank, generator=seeded(seed), dtype=F64)


# name: rank, seed -> the module; and what it is called with
HOLDING = {
    "FactorizedLinear": (
        lambda rank, seed: tl.FactorizedLinear(low_rank((6, 5), rank, seed)),
        torch.ones(3, 5, dtype=F64),
    ),
    "FactorizedLinear of a train": (
        lambda rank, seed: tl.FactorizedLinear(train(rank, seed)),
        torch.ones(3, 6, dtype=F64),
    ),
    "FactorizedConv2d": (
        lambda rank, seed: tl.FactorizedConv2d(low_rank((6, 8), rank, seed), kernel_size=2),
        torch.ones(1, 2, 4, 4, dtype=F64),
    ),
    "TTEmbedding": (lambda rank, seed: tl.TTEmbedding(train(rank, seed)), torch.arange(20)),
}

every = pytest.mark.parametrize("make, x", HOLDING.values(), ids=HOLDING)


@every
def test_another_weight_of_other_ranks_in_the_same_parameters(make, x):
    layer, other = make(2, 0), make(3, 1)
    held, want = list(layer.parameters()), other(x)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    layer.set_weight(other.weight)
    assert isinstance(layer, Holding) and torch.equal(layer(x), want)
    assert all(a is b for a, b in zip(held, layer.parameters(), strict=True))
    assert all(a is not b for a, b in zip(held, other.parameters(), strict=True))
    layer(x).sum().backward()
    optimizer.step()
    assert not torch.equal(layer(x), want) and torch.equal(other(x), want)


@every
def test_ranks_that_are_stored_are_adopted(make, x):
    layer, other = make(2, 0), make(3, 1)
    held = list(layer.parameters())
    torch.save(other.state_dict(), file := io.BytesIO())
    file.seek(0)
    layer.load_state_dict(torch.load(file))
    assert layer.weight.ranks == other.weight.ranks != make(2, 0).weight.ranks
    assert torch.equal(layer(x), other(x))
    assert all(a is b for a, b in zip(held, layer.parameters(), strict=True))


@every
@pytest.mark.parametrize("fails", [False, True])
def test_it_holds_another_weight_meanwhile(make, x, fails):
    layer, other = make(2, 0), make(3, 1)
    held, before = list(layer.parameters()), layer(x)
    seen = []
    try:
        with meanwhile({"a": layer, "b": make(1, 2)}, {"a": other.weight}):
            seen.append(torch.equal(layer(x), other(x)))
            if fails:
                raise FloatingPointError
    except FloatingPointError:
        seen.append("failed")
    assert seen == [True, "failed"][: 1 + fails]
    assert torch.equal(layer(x), before) and layer.weight.ranks == make(2, 0).weight.ranks
    assert all(a is b for a, b in zip(held, layer.parameters(), strict=True))


@every
def test_meanwhile_puts_all_back_where_one_does_not_fit(make, x):
    layers = {"a": make(2, 0), "b": make(2, 1)}
    want = layers["a"](x)
    wrong = {"a": make(3, 2).weight, "b": low_rank((3, 3), 2, 0)}
    with pytest.raises(ValueError, match="set_weight: needs"):
        with meanwhile(layers, wrong):
            raise AssertionError("it is not entered")
    assert torch.equal(layers["a"](x), want)


@every
def test_another_kind_or_shape_is_refused_by_the_name_of_the_module(make, x):
    layer = make(2, 0)
    who = type(layer).__name__
    for weight in (low_rank((3, 3), 2, 0), torch.ones(6, 5), layer.weight.to_dense()):
        with pytest.raises(ValueError, match=rf"^{who}.set_weight: needs a .* tensors, got \w+"):
            layer.set_weight(weight)
    assert torch.equal(layer(x), make(2, 0)(x))


def test_a_table_keeps_the_digits_of_its_tokens():
    layer = tl.TTEmbedding(train(2, 0))
    with pytest.raises(ValueError, match=r"out=\(4, 5\) .* got TTMatrix .* out=\(5, 4\)"):
        layer.set_weight(train(2, 0, out=(5, 4)))
