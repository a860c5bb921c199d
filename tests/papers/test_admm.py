"""ADMM on LeNet: the sets' shapes, the schedule, and the program end to end at a small size."""

import matplotlib.figure
import pytest
import torch

from tensorlab.papers import admm
from tensorlab.papers.table import Table, load


@pytest.mark.parametrize(
    "set, kinds, ranks",
    [
        ("TT", ["TT", "TTMatrix"], [(2, 2), (4, 4)]),
        ("Tucker", ["Tucker", "LowRank"], [(2, 2, 3, 3), (2,)]),
        ("low rank", ["LowRank", "LowRank"], [(2,), (2,)]),
    ],
)
def test_sets(set, kinds, ranks):
    weights = (torch.randn(16, 8, 3, 3), torch.randn(64, 64))
    formats = [project(w) for project, w in zip(admm.projections(set, 2).values(), weights)]
    assert [type(f).__name__ for f in formats] == kinds and [f.ranks for f in formats] == ranks
    with pytest.raises(ValueError, match="got 'CP'"):
        admm.projections("CP", 2)


def test_the_schedule_ends_at_one():
    rho = admm.rho(8)
    assert [rho(k) for k in (0, 4, 8, 20)] == pytest.approx([0.01, 0.1, 1.0, 1.0])


def test_the_program_at_a_small_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {"sets": ("TT",), "ranks": (2,), "seeds": (0,), "epochs": 4, "tune": 1}
    monkeypatch.setitem(admm.SIZES, "quick", admm.SIZES["quick"] | small)
    table = admm.PROGRAM.run("quick", progress=False)
    assert table["way"] == ["direct", "ADMM"] and table["dense"] == [16 * 8 * 9 + 64 * 64] * 2
    assert all(row["numbers"] < row["dense"] / 4 for row in table.rows)
    direct, ours = table.rows
    assert direct["before"] > 60 and direct["primal"] is None and ours["primal"] < 0.9
    (gain,) = admm.gains(table)
    assert gain["points"] == pytest.approx(ours["accuracy"] - direct["accuracy"])
    said = admm.draw(table, matplotlib.figure.Figure().subplots())
    assert (
        said == f"ADMM gains {gain['points']:.1f} to {gain['points']:.1f} points over the direct "
        f"projection."
    )


def test_printed_numbers_stand_beside():
    printed = load("data/papers/Yin2021.csv")
    beside = Table("Yin2021", [{"set": "TT", "way": "ADMM", "accuracy": 90.0}]).beside(printed)
    assert len(beside) == 2 and beside.rows[1]["points (printed)"] == 0.4
