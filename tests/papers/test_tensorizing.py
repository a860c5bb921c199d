"""TT layers on digits: the sizes of the paper, and the program end to end on few images."""

import matplotlib.figure
import pytest
import torch

from tensorlab import datasets
from tensorlab.papers import tensorizing
from tensorlab.papers.table import Table, printed


@pytest.mark.parametrize(
    "structure, rank, first, second",
    [
        ("dense", None, 1024 * 1024, 10240),
        ("low rank", 4, 4 * 2048, 10240),
        ("TT", 8, 16 * 8 + 2 * 8 * 64 * 8 + 8 * 16, 10240),
        ("TT", 1, 16 + 64 + 64 + 16, 10240),
        # (1, 2, 5, 1) rows and (4, 8, 8, 4) columns: the last bond has 4 columns and 1 row behind
        # it, the first 4 before it
        ("both TT", 8, 16 * 8 + 2 * 8 * 64 * 8 + 8 * 16, 4 * 4 + 4 * 16 * 8 + 8 * 40 * 4 + 4 * 4),
    ],
)
def test_sizes_by_hand(structure, rank, first, second, generator):
    model = tensorizing.network(structure, rank, generator)
    weights = [
        sum(p.numel() for n, p in layer.named_parameters() if n != "bias") for layer in model.layers
    ]
    assert weights == [first, second]
    assert sum(p.numel() for p in model.parameters()) == first + second + 1024 + 10


@pytest.mark.parametrize("structure, rank", [("TT", 8), ("both TT", 6), ("low rank", 4)])
def test_a_start_has_the_spread_of_the_dense_one(structure, rank, generator):
    x = torch.randn(200, 1024, generator=generator)
    spread = lambda layer: (layer(x) - layer.bias).std().item()
    dense, model = (tensorizing.network(s, rank, generator) for s in ("dense", structure))
    assert 0.5 < spread(model.layers[0]) / spread(dense.layers[0]) < 2.0  # one draw of few numbers


def test_digits_are_32_pixels_wide_and_parted():
    x, y, x_test, y_test = tensorizing.images("digits")
    assert (
        x.shape == (1300, 32, 32)
        and x_test.shape == (497, 32, 32)
        and 0 <= x.min()
        and x.max() <= 1
    )
    small = datasets.digits().X.float()
    assert torch.allclose(torch.cat([x, x_test]).mean(), small.mean(), rtol=1e-3)


@pytest.mark.thorough
def test_the_program_on_few_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y, *_ = tensorizing.images("digits")
    few = (x[:400], y[:400], x[400:700], y[400:700])
    monkeypatch.setattr(tensorizing, "images", lambda name: few)
    size = {"data": "digits", "epochs": 6, "layers": [("TT", 4), ("dense", None)]}
    monkeypatch.setitem(tensorizing.SIZES, "quick", size)
    table = tensorizing.PROGRAM.run("quick", progress=False)
    assert table.where(structure="both TT")[0]["error % (printed)"] == 1.9
    table.rows = [row for row in table.rows if row.get("error %") is not None]
    assert table["structure"] == ["TT", "dense"] and table["first layer"] == [
        16 * 4 * 2 + 2 * 4 * 64 * 4 + 1024,
        1024 * 1025,
    ]
    assert (
        max(table["error %"]) < 45 and (tmp_path / "results" / "Novikov2015-quick.csv").exists()
    )  # 90 is chance
    again = tensorizing.PROGRAM.run("quick", resume=False, progress=False)
    assert again.rows[:2] == table.rows  # one seed, one table


def test_the_picture_names_the_best():
    rows = [
        {"structure": "TT", "rank": 4, "parameters": 13450, "error %": 2.5},
        {"structure": "TT", "rank": 8, "parameters": 19722, "error %": 1.9},
        {"structure": "dense", "rank": None, "parameters": 1059850, "error %": 1.7},
        {"structure": "both TT", "rank": 8, "parameters": None, "error %": None},
    ]
    said = tensorizing.draw(Table("Novikov2015", rows), matplotlib.figure.Figure().subplots())
    assert said == "The best of the small networks, TT of rank 8, errs on 1.9 %."


def test_printed_rows_are_those_of_the_text():
    assert printed("Novikov2015").where(rank=8)[0]["parameters"] == 12602
