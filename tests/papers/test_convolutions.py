"""The convolution table: its rows are what the package measures, a killed run goes on, the printed
numbers stand beside."""

import math

import pytest
import torch
from matplotlib.figure import Figure

import tensorlab as tl
from tensorlab.papers import convolutions, table

pytest.importorskip("sklearn")


@pytest.fixture(scope="module", autouse=True)
def short():
    """A run of a few rows on a short training."""
    patch = pytest.MonkeyPatch()
    size = dict(data="digits", shares=(0.2,), epochs=3, tuning=1, batch=64)
    patch.setitem(convolutions.SIZES, "quick", size)
    patch.setattr(convolutions, "STRUCTURES", {"cp": tl.cp_conv, "spatial": tl.spatial_conv})
    yield
    patch.undo()


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("run"))
        whole = convolutions.PROGRAM.run("quick", progress=False)
        again = convolutions.PROGRAM.run("quick", progress=False)  # every row was there
        assert again.rows == table.load(table.results("Lebedev2015", "quick")).rows
        return whole


@pytest.mark.thorough
def test_rows(result):
    assert result["structure"] == ["dense", "cp", "spatial"]
    first = result.rows[0]
    assert (
        first["flops"] == first["parameters"] == 1 and first["error"] == 0 and first["points"] == 0
    )
    for row in result.rows[1:]:
        assert 4 <= row["flops"] <= 6 and 0 < row["error"] < 1 and row["after"] > row["before"]
        assert row["points"] == pytest.approx(row["after"] - first["after"])


@pytest.mark.thorough
def test_flops_are_counted_by_hand(result):
    per_pixel = [16 * 9, 16 * 32 * 9, 32 * 32 * 9]
    dense = 64 * (per_pixel[0] + per_pixel[1]) + 16 * per_pixel[2] + 32 * 4 * 10
    x, *_ = convolutions.images()
    assert sum(tl.layer_flops(convolutions.small_cnn(), x[:1]).values()) == 2 * dense
    r = math.floor(0.2 * per_pixel[1] / (3 * 48)), math.floor(0.2 * per_pixel[2] / (3 * 64))
    small = 64 * (per_pixel[0] + r[0] * 3 * 48) + 16 * r[1] * 3 * 64 + 32 * 4 * 10
    assert result.where(structure="spatial")[0]["flops"] == pytest.approx(dense / small)


def test_large_images_are_pooled_once_more():
    assert convolutions.small_cnn(28)(torch.ones(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.thorough
def test_printed_numbers_stand_beside(result):
    both = result.beside(table.printed("Lebedev2015"))
    (row,) = both.where(network="characters CNN")
    assert row["speedup (printed)"] == 8.5 and row["after (printed)"] == 90
    assert len(both) == len(result) + 2
    kim = table.printed("Kim2016")
    for row in kim.rows:  # the columns of the paper agree with each other
        assert row["after"] - row["dense"] == pytest.approx(row["points"])


def test_picture(result):
    said = convolutions.draw(result, Figure().subplots())
    assert said.startswith(
        "Within one point of the dense network the fewest FLOPs are those of"
    ) or said.startswith("No structure")


def test_says_no():
    with pytest.raises(
        ValueError, match="Lebedev2015: preset must be .quick. or .full., got 'tiny'"
    ):
        convolutions.PROGRAM.run("tiny")


@pytest.mark.slow
def test_cp_keeps_its_accuracy_at_a_quarter_of_the_flops(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    size = dict(data="digits", shares=(0.2,), epochs=12, tuning=4, batch=64)
    monkeypatch.setitem(convolutions.SIZES, "quick", size)
    (row,) = convolutions.PROGRAM.run("quick", progress=False).where(structure="cp", share=0.2)
    assert row["flops"] >= 4 and row["points"] >= -1
