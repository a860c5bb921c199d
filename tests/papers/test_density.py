"""Densities of tables: the program end to end at a small size, the toys, and the sliced total
variation by hand."""

import matplotlib.figure
import pytest
import torch

from tensorlab.papers import density
from tensorlab.papers.table import printed


def test_the_program_at_a_small_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    size = {"sets": ("moons",), "rows": 400, "steps": (1, 4), "parts": (1, 4), "power rows": 0}
    monkeypatch.setitem(density.SIZES, "quick", size)
    monkeypatch.setitem(density.SETTINGS, "toy", dict(rank=8, basis=16))
    table = density.PROGRAM.run("quick", progress=False)
    found = {(row["method"], row["steps"]): row for row in table.rows}
    assert len(table) == 6 and all(0 <= row["sliced TV"] <= 1 for row in table.rows)
    assert (
        found["TTDE, squared", 4]["log-likelihood"]
        > found["one Gaussian", 0]["log-likelihood"] + 0.3
    )
    for row in table.rows[:5]:  # the linear model has no likelihood to choose by
        assert row["validation"] == pytest.approx(row["log-likelihood"], abs=0.35)
    assert (
        found["tuned mixture of Gaussians", 0]["chosen"] == "4 components"
        and table.rows[-1]["negative"] >= 0
    )
    figure = matplotlib.figure.Figure()
    assert "After the longest fit: moons" in density.draw(table, figure.subplots())


def test_toys_are_where_they_should_be(generator):
    n = 2000
    moons = density.toy("moons", n, generator=generator)
    centers = torch.tensor([[0.0, 0.0], [1.0, 0.5]]).double()
    assert float((torch.cdist(moons, centers) - 1).abs().amin(1).mean()) < 0.06
    board = density.toy("checkerboard", n, generator=generator)
    squares = ((board + 4) / 2).floor()
    assert (squares.sum(1) % 2 == 0).all() and float(board.abs().max()) <= 4
    ring = density.toy("eight Gaussians", n, generator=generator)
    assert float(ring.norm(dim=1).mean()) == pytest.approx(2, abs=0.05)
    assert density.toy("pinwheel", n, generator=generator).shape == (n, 2)
    with pytest.raises(ValueError, match="got 'rings'"):
        density.toy("rings", 3)


def test_sliced_total_variation(generator):
    a, b = (torch.randn(4000, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    near, far = (density.sliced_tv(a, b + shift, 20, generator=generator) for shift in (0, 3))
    assert near < 0.08 < 0.5 < far and density.sliced_tv(a, a, 20, generator=generator) == 0


def test_power_is_standardized(data_folder):
    train, test = density.power()
    assert train.shape[1] == 6 and len(test) == 8873
    assert torch.allclose(train.mean(0), torch.zeros(6).double(), atol=1e-9)
    assert torch.allclose(train.std(0), torch.ones(6).double())


def test_printed_rows():
    table = printed(density.PROGRAM.key)
    assert (
        table.where(method="TTDE, squared")[0]["log-likelihood"] == 0.46
        and density.POWER not in table["data"]
    )
