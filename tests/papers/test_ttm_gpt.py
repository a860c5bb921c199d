"""TT-matrices beside low rank in a character model: equal numbers, a rate tuned apart for each, and
the program end to end."""

import matplotlib.figure
import pytest
import torch

from tensorlab.papers import ttm_gpt
from tensorlab.papers.table import Table

SHAPES = [(384, 128), (128, 128), (512, 128), (128, 512)]  # of a block of width 128


@pytest.mark.parametrize("share", [20, 40, 60])
@pytest.mark.parametrize("start", [ttm_gpt.low_rank, ttm_gpt.tt_matrix])
def test_a_start_keeps_its_share(start, share, generator):
    dense = kept = 0
    for out, in_ in SHAPES:
        w = start((out, in_), share / 100, generator)
        step = w.numel // w.ranks[0]
        assert w.shape == (out, in_) and w.numel <= share / 100 * out * in_ < w.numel + step
        dense, kept = dense + out * in_, kept + w.numel
    assert 0.97 * share / 100 < kept / dense <= share / 100


@pytest.mark.parametrize("start", [ttm_gpt.low_rank, ttm_gpt.tt_matrix])
def test_a_start_has_the_spread_of_a_dense_layer(start, generator):
    w = torch.stack([start((128, 128), 0.4, generator).to_dense() for _ in range(20)])
    assert w.var().item() == pytest.approx(1 / (3 * 128), rel=0.1)


def rows(layers, share, bits, rates=(1e-3, 1e-2)):
    """Seed 0 at both rates, seed 1 at the better one on valid, and it is the other that is better
    on test."""
    row = lambda rate, seed, valid, test: {
        "layers": layers,
        "share": share,
        "rate": rate,
        "seed": seed,
        "numbers": 10 * share,
        "valid bits": valid,
        "test bits": test,
    }
    return [
        row(rates[0], 0, 3.0, bits),
        row(rates[1], 0, 3.1, bits - 1),
        row(rates[0], 1, 3.2, bits + 0.2),
    ]


def test_the_rate_is_chosen_on_valid_and_test_is_the_mean_of_its_seeds():
    (row,) = ttm_gpt.summary(Table("K", rows("TTM", 20, 3.0))).rows
    assert row["rate"] == 1e-3 and row["seeds"] == 2 and row["numbers"] == 200
    assert row["test bits"] == pytest.approx(3.1) and row["spread"] == pytest.approx(0.2 / 2**0.5)


def test_the_picture_says_where_ttm_wins():
    found = [
        ("dense", 100, 2.5),
        ("SVD", 20, 3.4),
        ("TTM", 20, 3.0),
        ("SVD", 60, 2.6),
        ("TTM", 60, 2.8),
    ]
    table = Table("K", [row for case in found for row in rows(*case)])
    said = ttm_gpt.draw(table, matplotlib.figure.Figure().subplots())
    assert said == "At equal numbers TTM reads better than SVD at 20 % of the shares shown."


@pytest.mark.thorough
def test_the_program_at_a_small_size(small_program, monkeypatch):
    size = {"shares": (40,), "rates": (1e-3, 1e-2), "seeds": (0, 1), "steps": 6, "width": 16}
    table = small_program(ttm_gpt, size, characters=40000)
    assert table["seed"] == [0, 0, 1] * 3 + [None] * 2  # and two rows that are only printed
    assert table["layers"] == ["SVD"] * 3 + ["TTM"] * 3 + ["dense"] * 3 + ["TTM", "SVD"]
    assert table["perplexity (printed)"] == [None] * 6 + [20.56] * 3 + [30.85, 55.46]
    assert [row["share"] for row in ttm_gpt.summary(table).rows] == [40, 40, 100]
    said = ttm_gpt.draw(table, matplotlib.figure.Figure().subplots())
    assert said.startswith("At equal numbers TTM reads better than SVD at ")
    for row in table.where(seed=1):  # at the rate that was best on valid at seed 0
        mine = table.where(layers=row["layers"], seed=0)
        assert row["rate"] == min(mine, key=lambda r: r["valid bits"])["rate"]
    assert {row["numbers"] for row in table.where(layers="dense")} == {2 * 12 * 16**2}
    asked = []
    monkeypatch.setattr(ttm_gpt, "train", lambda *a, **k: asked.append(a) or [])
    assert ttm_gpt.PROGRAM.run("quick", progress=False).rows == table.rows and not asked
