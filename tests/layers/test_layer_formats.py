"""Every matrix format inside a layer: one table, and what each of them does there.

A new matrix format is one row: a class with from_dense(w, rank) and randn(shape, rank). The options
beside it are those of a row of its own, such as modes that have to be padded.
"""

import io

import pytest
import torch
from torch import nn

import tensorlab as tl
from tensorlab.formats.base import MatrixFormat

F64 = torch.float64
OUT, IN = 8, 12
FULL = 96  # a rank that no format of this size can use up, and that blocks divide

# name: the class; keywords of from_dense and randn; a rank at which from_dense is exact
FORMATS = {
    "LowRank": (tl.LowRank, {}, FULL),
    "PivotedLowRank": (tl.PivotedLowRank, {}, FULL),
    "TTMatrix": (tl.TTMatrix, {}, FULL),
    "TTMatrix of three cores": (tl.TTMatrix, {"cores": 3}, FULL),
    "TTMatrix with padding": (tl.TTMatrix, {"out": (3, 3), "in_": (4, 4)}, FULL),
    "Kronecker": (tl.Kronecker, {}, FULL),
    "Kronecker of three factors": (tl.Kronecker, {"factors": 3}, FULL),
    "KronSum": (tl.KronSum, {}, FULL),
    "Monarch": (tl.Monarch, {}, None),
    "BlockTT": (tl.BlockTT, {}, FULL),
    "BlockTT of three cores": (tl.BlockTT, {"cores": 3}, FULL),
    "LoKr": (tl.LoKr, {}, None),
}
# where from_dense is not the best of its rank: zeros are padded; terms are split off one by one
FOUND_AGAIN = FORMATS.keys() - {"TTMatrix with padding", "Kronecker of three factors"}

every = pytest.mark.parametrize("name", FORMATS)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=F64)


def drawn(name, rank=2, seed=0):
    cls, options, _ = FORMATS[name]
    return cls.randn((OUT, IN), rank, generator=seeded(seed), dtype=F64, **options)


def cut(name):
    cls, options, _ = FORMATS[name]
    return lambda w, rank=2: cls.from_dense(w, rank, **options)


def close(a, b):
    """To rounding: sums of up to 96 products, each to eps of the largest, and ten times that."""
    return torch.allclose(
        a, b, rtol=0, atol=1024 * torch.finfo(F64).eps * (1 + float(b.detach().abs().max()))
    )


def test_the_table_has_every_matrix_format():
    package = {cls for cls in map(tl.__dict__.get, tl.__all__) if isinstance(cls, type)}
    assert {c for c in package if issubclass(c, MatrixFormat)} == {
        row[0] for row in FORMATS.values()
    }


@every
def test_from_dense_takes_a_rank_in_second_place(name):
    w = draw(OUT, IN)
    form = cut(name)(w, 2)
    assert form.shape == (OUT, IN) and form.dtype == F64 and max(form.ranks) >= 1
    assert float((form.to_dense() - w).norm()) < float(w.norm())  # nearer than zero is


@pytest.mark.parametrize("name", [n for n, (*_, full) in FORMATS.items() if full])
def test_at_full_rank_a_layer_is_the_dense_one(name):
    dense = nn.Linear(IN, OUT, dtype=F64)
    layer = tl.FactorizedLinear.from_linear(dense, lambda w: cut(name)(w, FORMATS[name][2]))
    assert close(layer(draw(5, IN)), dense(draw(5, IN)))


@pytest.mark.parametrize("name", sorted(FOUND_AGAIN))
def test_from_dense_of_what_it_holds_is_exact(name):
    """What a format holds it finds again: at the rank that it was drawn with."""
    w = drawn(name, 2)
    found = cut(name)(w.to_dense(), max(2, *w.ranks))
    assert close(found.to_dense(), w.to_dense())


@every
def test_randn_has_entries_of_variance_one(name):
    squares = [drawn(name, seed=k).to_dense().square().mean() for k in range(400)]
    mean, error = torch.stack(squares).mean(), torch.stack(squares).std() / 20  # of 400 draws
    assert abs(float(mean) - 1) < 5 * float(error)


@every
def test_a_layer_multiplies_by_the_dense_meaning(name):
    weight, bias, x = drawn(name), draw(OUT, seed=1), draw(2, 3, IN, seed=2)
    layer = tl.FactorizedLinear(weight, bias)
    want = x @ weight.to_dense().mT + bias
    assert close(layer(x), want) and close(weight.apply(x) + bias, want)
    (gradient,) = torch.autograd.grad(layer(x).sum(), layer.tensors[0])
    leaf = weight.tensors()[0].clone().requires_grad_()
    dense = weight.with_tensors([leaf, *weight.tensors()[1:]]).to_dense()
    (same,) = torch.autograd.grad((x @ dense.mT).sum(), leaf)
    assert close(gradient, same)


@every
def test_replace_linear_takes_it_by_rank(name):
    cls, options, _ = FORMATS[name]
    model = nn.Sequential(nn.Linear(IN, OUT, dtype=F64), nn.ReLU(), nn.Linear(OUT, 3, dtype=F64))
    bias = model[0].bias
    make = cls.from_dense if not options else cut(name)
    assert tl.replace_linear(model, "0", make, rank=2) is model
    assert isinstance(model[0].weight, cls) and model[0].bias is bias
    assert model(draw(4, IN)).shape == (4, 3)
    row = tl.layer_report(model)["0"]
    weight = model[0].weight
    assert (row.kind, row.shape) == (cls.__name__, (OUT, IN)) and row.ranks == weight.ranks
    assert (row.parameters, row.flops) == (weight.numel, weight.flops(1))


@every
def test_operations_are_counted_for_a_batch(name):
    weight = drawn(name)
    assert weight.flops(7) == 7 * weight.flops(1) > 0
    assert tl.layer_flops(nn.Sequential(tl.FactorizedLinear(weight)), draw(7, IN)) == {
        "0": weight.flops(7)
    }


@every
def test_each_tensor_has_its_learning_rate(name):
    weight = drawn(name)
    multipliers = weight.lr_multipliers()
    assert len(multipliers) == len(weight.tensors()) and all(m > 0 for m in multipliers)
    layer = tl.FactorizedLinear(weight)
    groups = tl.param_groups(layer, 0.01)
    rates = {p: g["lr"] for g in groups for p in g["params"]}
    assert [rates[t] for t in layer.tensors] == pytest.approx([0.01 * m for m in multipliers])


@every
def test_a_state_dict_of_other_ranks_is_loaded(name):
    layer, other = tl.FactorizedLinear(drawn(name, 1)), tl.FactorizedLinear(drawn(name, 2, seed=1))
    torch.save(other.state_dict(), file := io.BytesIO())
    file.seek(0)
    layer.load_state_dict(torch.load(file))
    assert torch.equal(layer(draw(3, IN)), other(draw(3, IN)))


@every
def test_a_file_gives_back_the_format(name, tmp_path):
    weight = drawn(name)
    tl.save(tmp_path / "w.safetensors", weight)
    found = tl.load(tmp_path / "w.safetensors")
    assert type(found) is type(weight) and torch.equal(found.to_dense(), weight.to_dense())


@every
def test_sums_in_a_layer(name):
    """Of a LoKr the sum is a Kronecker of two terms, which a new layer holds."""
    a, b, x = drawn(name), drawn(name, seed=1), draw(3, IN)
    layer = tl.FactorizedLinear(a)
    want = layer(x) + b.apply(x)
    if name == "LoKr":
        layer = tl.FactorizedLinear(a + b)
    else:
        layer.set_weight(a + b)
    assert close(layer(x), want)
    assert close((a - b).to_dense(), a.to_dense() - b.to_dense())
    assert close(a.dot(b), (a.to_dense() * b.to_dense()).sum())


def test_lokr_as_a_kronecker():
    a, b = drawn("LoKr"), drawn("LoKr", seed=1)
    index = torch.cartesian_prod(torch.arange(OUT), torch.arange(IN))
    assert close(a.at(index), a.to_dense().flatten())
    assert close((a * b).to_dense(), a.to_dense() * b.to_dense())
    assert close(a.to_kronecker().to_dense(), a.to_dense())
    other = tl.LoKr(draw(4, 2), draw(2, 2), draw(2, 6))
    with pytest.raises(ValueError, match=r"Kronecker \+: needs"):
        a + other
