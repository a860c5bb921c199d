"""Surgery: the chosen layers and no others, tied weights stay tied, and the report counts what is
stored."""

import warnings

import pytest
import torch
from torch import nn

from tensorlab import LowRank
from tensorlab.formats.ttmatrix import TTMatrix
from tensorlab.layers.conv import FactorizedConv2d
from tensorlab.layers.linear import FactorizedLinear, redraw
from tensorlab.layers.report import layer_report
from tensorlab.layers.select import linear_layers
from tensorlab.layers.surgery import fold_linear, replace_linear
from tensorlab.models.gpt import GPT
from tensorlab.rng import randn

full = lambda w: LowRank.from_dense(w, min(w.shape))


class Conv1D(nn.Module):
    """The transposed linear layer of GPT-2, as transformers writes it."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.weight, self.bias = (
            nf,
            nn.Parameter(torch.empty(nx, nf)),
            nn.Parameter(torch.zeros(nf)),
        )

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(
            *x.shape[:-1], self.nf
        )


class GPT2Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.c_fc, self.c_proj = Conv1D(12, 4), Conv1D(4, 12)

    def forward(self, x):
        return x + self.c_proj(torch.tanh(self.c_fc(x)))


def mlp(*sizes, dtype=torch.float64):
    layers = [nn.Linear(n, m, dtype=dtype) for n, m in zip(sizes, sizes[1:])]
    return redraw(nn.Sequential(*layers), torch.Generator().manual_seed(0))


# -- reduces to


def test_at_full_rank_the_model_is_the_same(generator):
    model, x = mlp(6, 8, 8, 3), randn(5, 6, generator=generator, dtype=torch.float64)
    want, biases = model(x), [layer.bias for layer in model]
    assert replace_linear(model, "*", full) is model
    assert all(isinstance(layer, FactorizedLinear) for layer in model)
    assert torch.allclose(model(x), want, atol=1e-12)
    assert all(layer.bias is bias for layer, bias in zip(model, biases, strict=True))


def test_conv1d_of_gpt2_is_replaced(generator):
    model = nn.ModuleDict({"h": nn.ModuleList([GPT2Block(), GPT2Block()])}).double()
    for p in model.parameters():
        p.data.copy_(randn(*p.shape, generator=generator, dtype=torch.float64))
    x = randn(2, 3, 4, generator=generator, dtype=torch.float64)
    want = model["h"][1](model["h"][0](x))
    replace_linear(model, "h.*.c_fc", full)
    assert isinstance(model["h"][0].c_fc, FactorizedLinear) and not isinstance(
        model["h"][0].c_proj, FactorizedLinear
    )
    assert torch.allclose(model["h"][1](model["h"][0](x)), want, atol=1e-12)


@pytest.mark.parametrize("norm_first", [True, False])
def test_the_encoder_of_torch_runs_in_eval(generator, norm_first):
    encoder = nn.TransformerEncoderLayer(
        8, 2, 16, batch_first=True, norm_first=norm_first, dtype=torch.float64
    )
    model = nn.TransformerEncoder(encoder, 2, enable_nested_tensor=False).eval()
    x = randn(2, 5, 8, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        want = model(x)
        replace_linear(model, "*", full)
        assert torch.allclose(model(x), want, atol=1e-12)
    assert [name for name, m in model.named_modules() if isinstance(m, FactorizedLinear)] == [
        f"layers.{k}.linear{n}" for k in (0, 1) for n in (1, 2)
    ]


# -- is invariant


@pytest.mark.parametrize(
    "names, chosen",
    [
        ("1", [1]),
        (["0", "2"], [0, 2]),
        ("[01]", [0, 1]),
        (lambda name, layer: layer.out_features == 3, [2]),
    ],
)
def test_names_choose(names, chosen):
    model = replace_linear(mlp(6, 8, 8, 3), names, full)
    assert [k for k, layer in enumerate(model) if isinstance(layer, FactorizedLinear)] == chosen


def test_a_module_in_two_places_stays_one(generator):
    layer = redraw(nn.Linear(4, 4, dtype=torch.float64), generator)
    for names in ("0", "*"):
        model = replace_linear(nn.Sequential(layer, nn.ReLU(), layer), names, full)
        assert (
            isinstance(model[0], FactorizedLinear)
            and model[0] is model[2]
            and len(list(model.parameters())) == 3
        )


def test_layers_that_share_a_weight_share_the_new_one(generator):
    model = nn.Sequential(
        *(redraw(nn.Linear(4, 4, dtype=torch.float64), generator) for _ in range(2))
    )
    model[1].weight = model[0].weight
    x = randn(3, 4, generator=generator, dtype=torch.float64)
    want = model(x)
    replace_linear(model, "*", full)
    assert (
        all(a is b for a, b in zip(model[0].tensors, model[1].tensors, strict=True))
        and model[0].bias is not model[1].bias
    )
    assert torch.allclose(model(x), want, atol=1e-12)
    report = layer_report(model)
    assert report.total("parameters") == 32 and report["1"].parameters == 0


def test_a_head_tied_to_an_embedding_stays_tied():
    model = GPT(
        11, width=8, depth=1, heads=2, context=4, generator=torch.Generator().manual_seed(0)
    )
    with pytest.warns(
        UserWarning, match=r"left as they are: head \(shares its weight with token\)"
    ):
        replace_linear(model, "*", full)
    assert model.head.weight is model.token.weight and isinstance(
        model.blocks[0].up, FactorizedLinear
    )
    untied = GPT(
        11,
        width=8,
        depth=1,
        heads=2,
        context=4,
        tied=False,
        generator=torch.Generator().manual_seed(0),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(replace_linear(untied, "*", full).head, FactorizedLinear)


def test_modes_of_a_layer_are_kept():
    model = mlp(4, 4, 4).eval()
    model[0].weight.requires_grad_(False)
    replace_linear(model, "*", full)
    assert not model[0].training and not any(p.requires_grad for p in model[0].tensors)
    assert model[0].bias.requires_grad and all(p.requires_grad for p in model[1].tensors)


def test_a_folded_layer_is_the_same_map_and_dense(generator):
    model = mlp(12, 8, 6).eval()
    replace_linear(model, "*", lambda w: TTMatrix.from_dense(w, 2))
    x, biases = randn(5, 12, generator=generator, dtype=torch.float64), [m.bias for m in model]
    model[0].requires_grad_(False)
    want = model(x)
    fold_linear(model, "1")
    assert isinstance(model[0], FactorizedLinear) and type(model[1]) is nn.Linear
    fold_linear(model)
    assert type(model[0]) is nn.Linear and not model[0].training
    assert not model[0].weight.requires_grad and model[1].weight.requires_grad
    assert all(m.bias is bias for m, bias in zip(model, biases))
    assert torch.allclose(model(x), want, rtol=0, atol=1e-12)


def test_layers_that_share_factors_share_the_folded_weight():
    model = mlp(4, 4, 4, 4)
    model[1].weight = model[0].weight
    fold_linear(replace_linear(model, "*", full))
    assert model[0].weight is model[1].weight is not model[2].weight
    assert model[0].bias is not model[1].bias


def test_a_factorized_convolution_is_not_folded():
    """It is a factorized linear layer by inheritance, and another map."""
    conv = FactorizedConv2d.from_conv(nn.Conv2d(2, 3, 1), full)
    model = nn.Sequential(conv, *replace_linear(mlp(4, 4, dtype=torch.float32), "0", full))
    fold_linear(model)
    assert model[0] is conv and type(model[1]) is nn.Linear
    with pytest.raises(ValueError, match=r"name of a factorized linear layer \(none\), got '\*'"):
        fold_linear(nn.Sequential(conv))


# -- by hand


def test_linear_layers_leaves_attention_alone():
    assert list(linear_layers(nn.TransformerEncoderLayer(8, 2, 16))) == ["linear1", "linear2"]


# -- says no


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(ValueError, match=r"needs a name of a dense linear layer \(0, 1\), got '7'"):
        replace_linear(mlp(3, 3, 3), ["0", "7"], full)
    with pytest.raises(ValueError, match=r"chooses one of 0, 1, got none"):
        replace_linear(mlp(3, 3, 3), lambda name, layer: False, full)


def test_an_error_names_the_layer_and_leaves_the_model():
    model = mlp(6, 4, 5)
    with pytest.raises(ValueError, match="replace_linear: layer 1: "):
        replace_linear(model, "*", lambda w: TTMatrix.from_dense(w, 2, out=(2, 2), in_=(2, 3)))
    assert all(isinstance(layer, nn.Linear) for layer in model)
    with pytest.raises(ValueError, match=r"layer 0: .* needs a rank, an rtol or both, got neither"):
        replace_linear(model, "0", LowRank.from_dense)


def test_a_rank_above_its_bound_is_capped_with_one_warning():
    with pytest.warns(
        UserWarning, match=r"rank 5 is capped where a layer has less: 1 \(\(4,\)\), 2 \(\(3,\)\)$"
    ) as said:
        replace_linear(mlp(5, 6, 4, 3), "*", LowRank.from_dense, 5)
    assert len(said) == 1


def test_a_tied_head_alone_is_refused():
    model = GPT(11, width=8, depth=1, heads=2, context=4)
    with pytest.raises(
        ValueError,
        match=r"needs a layer that it can change, got head \(shares its weight with token\)",
    ):
        replace_linear(model, "head", full)
