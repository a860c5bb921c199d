"""The report of layers: what is stored, what it costs and how far it is from another model."""

import copy

import pytest
import torch
from torch import nn

import tensorlab as tl
from tensorlab import LowRank
from tensorlab.formats.ttmatrix import TTMatrix
from tensorlab.layers.conv import FactorizedConv2d
from tensorlab.layers.linear import redraw
from tensorlab.layers.report import layer_report
from tensorlab.layers.surgery import replace_linear


def mlp(*sizes, dtype=torch.float64):
    layers = [nn.Linear(n, m, dtype=dtype) for n, m in zip(sizes, sizes[1:])]
    return redraw(nn.Sequential(*layers), torch.Generator().manual_seed(0))


def test_the_error_is_that_of_the_truncated_svd():
    model, dense = mlp(9, 7), mlp(9, 7)
    row = layer_report(replace_linear(model, "0", LowRank.from_dense, 2), dense)["0"]
    s = torch.linalg.svdvals(dense[0].weight)
    assert row.error == pytest.approx((s[2:].norm() / s.norm()).item(), rel=1e-10)
    assert layer_report(dense, dense)["0"].error == 0 and layer_report(dense)["0"].error is None


def test_a_report_by_hand():
    model = mlp(8, 4, 6, dtype=torch.float32)
    replace_linear(model, "1", lambda w: TTMatrix.from_dense(w, 2, out=(2, 3), in_=(2, 2)))
    report = layer_report(model, mlp(8, 4, 6, dtype=torch.float32))
    dense, tt = report.rows
    assert (dense.kind, dense.parameters, dense.flops, dense.bytes, dense.storage_ratio) == (
        "dense",
        32,
        64,
        128,
        1.0,
    )
    assert (tt.kind, tt.shape, tt.ranks, tt.parameters, tt.bytes) == (
        "TTMatrix",
        (6, 4),
        (2,),
        8 + 12,
        80,
    )
    assert tt.flops == TTMatrix.flops(model[1].weight, 1) and tt.storage_ratio == pytest.approx(
        20 / 24
    )
    *_, total, remark = str(report).splitlines()
    assert report.total("parameters") == 52 and total.startswith("total")
    assert tt.beaten and not dense.beaten  # two factors of 20 numbers use each of them once
    said = "1: two linear layers of as many numbers take 40 flops, this TTMatrix "
    assert remark == f"{said}{TTMatrix.flops(model[1].weight, 1)}"
    with pytest.raises(KeyError, match="needs one of 0, 1, got '2'"):
        report["2"]


def test_a_report_of_a_convolution_against_the_dense_one(generator):
    dense = nn.Sequential(nn.Conv2d(3, 5, 2, dtype=torch.float64))
    row = layer_report(
        nn.Sequential(FactorizedConv2d.from_conv(dense[0], lambda w: LowRank.from_dense(w, 2))),
        dense,
    )["0"]
    s = torch.linalg.svdvals(dense[0].weight.flatten(1))
    assert row.shape == (5, 12) and row.error == pytest.approx(
        (s[2:].norm() / s.norm()).item(), rel=1e-10
    )


# -- every kind of layer, after every function that makes it


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Embedding(20, 6)
        self.conv = nn.Conv2d(4, 6, 3)
        self.up = nn.ConvTranspose2d(4, 6, 3)
        self.fc = nn.Linear(8, 6)


def embedded(make):
    def act(model):
        model.token = make(model.token)
        return model

    return act


def half_pruned(name):
    return lambda m: tl.prune(m, tl.magnitude_masks(m, name, 0.5))


def quantized(m):
    tl.quantize_model(m, "fc", 4)
    return m


def rank2(w):
    return tl.LowRank.from_dense(w, 2)


# what was done: the row that it changes, its kind, numbers stored and not zero, FLOPs
KINDS = {
    "dense linear": ("fc", lambda m: m, "dense", 48, 48, 96),
    "dense convolution": ("conv", lambda m: m, "dense", 216, 216, 432),
    "transposed": ("up", lambda m: m, "dense", 216, 216, 432),
    "embedding": ("token", lambda m: m, "dense", 120, 120, 0),
    "replace_linear": ("fc", lambda m: tl.replace_linear(m, "fc", rank2), "LowRank", 28, 28, 56),
    "add_lora": ("fc", lambda m: tl.add_lora(m, "fc", 2), "LoRALinear", 76, 64, 152),
    "dora": ("fc", lambda m: tl.add_lora(m, "fc", 2, kind="dora"), "LoRALinear", 82, 70, 152),
    "merge_lora": ("fc", lambda m: tl.merge_lora(tl.add_lora(m, "fc", 2)), "dense", 48, 48, 96),
    "prune": ("fc", half_pruned("fc"), "dense", 48, 24, 96),
    "prune a convolution": ("conv", half_pruned("conv"), "dense", 216, 108, 432),
    "svd_conv": (
        "conv",
        lambda m: tl.replace_conv(m, "conv", lambda c: tl.svd_conv(c, 2)),
        "LowRank",
        84,
        84,
        168,
    ),
    "spatial_conv": (
        "conv",
        lambda m: tl.replace_conv(m, "conv", lambda c: tl.spatial_conv(c, 2)),
        "ConvChain",
        60,
        60,
        120,
    ),
    "TTEmbedding": (
        "token",
        embedded(lambda e: tl.TTEmbedding.from_embedding(e, (4, 5), (2, 3), 2)),
        "TTMatrix",
        46,
        46,
        32,
    ),
    "TokenTrains": (
        "token",
        embedded(lambda e: tl.TokenTrains.from_dense(e.weight.detach(), (2, 3), 1)),
        "TokenTrains",
        100,
        100,
        12,
    ),
}


@pytest.mark.parametrize("what", KINDS)
def test_one_report_for_every_kind_of_layer(what):
    torch.manual_seed(0)
    name, act, kind, stored, nonzero, flops = KINDS[what]
    model, dense = act(Net()), Net()
    rows = {row.name: row for row in layer_report(model, dense).rows}
    assert rows.keys() == {"token", "conv", "up", "fc"}
    row = rows[name]
    assert (row.kind, row.parameters, row.nonzero, row.flops) == (kind, stored, nonzero, flops)
    assert row.bytes == 4 * stored and row.dense == dense.get_submodule(name).weight.numel()
    assert (row.error is None) == (what == "TokenTrains")
    assert kind in str(layer_report(model))


def test_a_quantized_layer_counts_its_bytes():
    torch.manual_seed(0)
    dense = Net()
    model = quantized(copy.deepcopy(dense))
    row, weight = layer_report(model, dense)["fc"], model.fc.weight
    tensors = weight.tensors()
    assert (row.kind, row.shape) == ("Quantized", (6, 8))
    assert row.bytes == sum(t.numel() * t.element_size() for t in tensors) < 4 * 48
    # both compare in float64 what float32 rounds: 8 times its eps, relative to an error of a tenth
    assert row.error == pytest.approx(weight.error, rel=80 * torch.finfo(torch.float32).eps)


def test_what_two_layers_share_is_counted_once():
    model = Net()
    model.head = nn.Linear(6, 20)
    model.head.weight = model.token.weight
    report = layer_report(model)
    assert report["token"].parameters == 120 and report["head"].parameters == 0
    assert report["head"].flops == 240 and report.total("parameters") == 120 + 216 + 216 + 48
    model.again = model.fc
    assert [row.name for row in layer_report(model).rows] == ["token", "conv", "up", "fc", "head"]


def test_layers_without_numbers_or_sizes():
    with torch.device("meta"):
        report = layer_report(Net())
    assert report.total("nonzero") == report.total("parameters") == 120 + 216 + 216 + 48
    assert layer_report(nn.Sequential(nn.LazyLinear(3), nn.BatchNorm1d(3), nn.ReLU())).rows == ()


def test_attention_is_not_listed():
    rows = layer_report(nn.TransformerEncoderLayer(8, 2, 16)).rows
    assert [row.name for row in rows] == ["linear1", "linear2"]
