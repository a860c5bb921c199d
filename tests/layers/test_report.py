"""The report of layers: what is stored, what it costs and how far it is from another model."""

import pytest
import torch
from torch import nn

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
    assert (dense.kind, dense.parameters, dense.flops, dense.bytes, dense.rate) == (
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
    assert tt.flops == TTMatrix.flops(model[1].weight, 1) and tt.rate == pytest.approx(20 / 24)
    assert report.total("parameters") == 52 and "total" in str(report).splitlines()[-1]
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
