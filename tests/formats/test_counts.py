"""Counts of any size: a tensor of more entries than a float, or than Python prints digits, is shown
and measured."""

import math

import pytest
import torch
from torch import nn

import tensorlab as tl
from tensorlab.formats.base import MatrixFormat

one = torch.ones
LONG = {
    "TT": lambda d: tl.TT([one(1, 2, 1)] * d),
    "CP": lambda d: tl.CP(one(1), [one(2, 1)] * d),
    "HT": lambda d: tl.HT([one(2, 1)] * d, [one(1, 1, 1)] * (d - 1), tl.balanced_tree(d)),
    "TTMatrix": lambda d: tl.TTMatrix([one(1, 2, 2, 1)] * d),
    "Kronecker": lambda d: tl.Kronecker([one(1, 2, 2)] * d),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("d", [10, 400, 1050, 15000])
def test_counts_of_any_size(name, d):
    x = LONG[name](d)
    entries = 4**d if isinstance(x, MatrixFormat) else 2**d
    try:
        wanted = entries / x.numel
    except OverflowError:
        wanted = math.inf
    assert x.compression == wanted and (d < 1050) == math.isfinite(wanted)
    text = repr(x)
    assert "\n" not in text and text.startswith(f"{name}(shape=(")
    shown = text.rsplit(" of ", 1)[1].rstrip(")")
    if d == 10:
        assert int(shown) == entries
    else:
        mantissa, exponent = shown.split("e")
        off = math.log10(float(mantissa)) + int(exponent) - math.log10(entries)
        assert abs(off) < 0.01


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["TTMatrix", "Kronecker"])
def test_layers_of_any_size(name):
    w = LONG[name](1050)
    assert w.lr_multipliers()[0] == math.inf and w.flops(1) > 2**1050
    start = w.initial()  # entries of variance 1 / (3 in), which is no float
    assert all(0.5 < float(t.max()) < 1 for t in start.tensors())
    layer = tl.FactorizedLinear(w)
    assert layer.storage_ratio == 0 and "e316" in repr(layer)
    assert "e316" in str(tl.layer_report(nn.Sequential(layer)))
