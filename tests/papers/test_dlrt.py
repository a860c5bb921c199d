"""The program of [Schotthoefer2022]: counts by hand, means over seeds, one row of each experiment,
and going on after a kill."""

import pytest
import torch

from tensorlab.papers import dlrt as paper
from tensorlab.papers.table import Table, printed

SMALL = {
    **paper.SIZES["quick"],
    "epochs": 1,
    "uv epochs": 1,
    "width": 20,
    "start rank": 8,
    "uv rank": 4,
    "lenet": dict(image_size=8, channels=(4, 6), hidden=20, kernel=3, padding=1),
}


@pytest.fixture
def data():
    return [part[:64] for part in paper.images("digits", 0)]


def test_printed_counts_are_one_factor_and_the_head():
    """The printed column is Σ r (out + 1) and the head, in every row; what must be stored is Σ r
    (out + in)."""
    outs, ins = (20, 50, 500), (25, 500, 800)
    for row in printed("Schotthoefer2022").where(method="DLRT"):
        ranks = [int(r) for r in row["ranks"].split()]
        assert sum(r * (n + 1) for r, n in zip(ranks, outs)) + 5000 == row["one factor"]
        both = sum(r * (n + m) for r, n, m in zip(ranks, outs, ins)) + 5000
        assert both > 1.5 * row["one factor"]


def test_each_experiment_gives_a_row(data):
    lenet = paper.lenet5(SMALL, data, 0, method="DLRT", theta=0.3, rate=0.05)
    ranks = [int(r) for r in lenet["ranks"].split()]
    assert len(ranks) == 3 and 0 <= lenet["accuracy"] <= 100
    shapes = [(4, 9), (6, 36), (20, 24)]
    assert lenet["stored"] == sum(r * sum(s) for r, s in zip(ranks, shapes)) + 200
    assert lenet["one factor"] == sum(r * (s[0] + 1) for r, s in zip(ranks, shapes)) + 200
    assert (
        paper.lenet5(SMALL, data, 0, method="dense", theta=None, rate=0.05)["stored"]
        == 4 * 9 + 6 * 36 + 20 * 24 + 200
    )
    deep = paper.deep(SMALL, data, 0, theta=0.3, rate=0.05)
    assert len(deep["ranks"].split()) == 4
    assert (
        paper.timed(SMALL, data, 0, method="DLRT", rank=3, rate=0.05)["stored"]
        == 3 * (84 + 3 * 40) + 200
    )
    for method in ("UV", "UV in turn", "DLRT"):
        row = paper.uv(SMALL, data, 0, method=method, rank=4, decay=10, rate=0.05)
        assert row["accuracy"] == float(row["by epoch"])


def test_the_same_start_for_factors_and_for_dlrt(data):
    """Before the first step both are the same network: with a rate of nearly 0 they stay so."""
    rows = [paper.uv(SMALL, data, 0, method=m, rank=4, decay=2, rate=1e-12) for m in ("UV", "DLRT")]
    assert rows[0]["accuracy"] == rows[1]["accuracy"]


def test_a_training_that_diverges_has_a_row_that_says_so(data):
    row = paper.uv(SMALL, data, 0, method="DLRT", rank=4, decay=2, rate=1e30)
    assert row["accuracy"] == 0 and "needs finite numbers" in row["by epoch"]


def test_means_over_seeds():
    rows = [
        {
            "experiment": "LeNet5",
            "method": "DLRT",
            "theta": 0.1,
            "seed": k,
            "accuracy": a,
            "last accuracy": a - 1,
            "one factor": 10,
            "stored": 20 + k,
        }
        for k, a in enumerate((90.0, 92.0))
    ] + [{"experiment": "UV", "method": "UV", "theta": None, "seed": 0, "accuracy": 1.0}]
    mean = paper.means(Table("Key", rows)).rows[-1]
    assert (
        mean["accuracy"],
        mean["last accuracy"],
        mean["stored"],
        mean["seed"],
        mean["seeds"],
    ) == (91.0, 90.0, 20.5, "mean", 2)


def test_says_no_to_another_preset():
    with pytest.raises(ValueError, match="got 'huge'"):
        paper.PROGRAM.run("huge")


def test_rows_are_labeled_once(monkeypatch, tmp_path):
    """Every case is asked for once, and a second run asks for none."""
    monkeypatch.chdir(tmp_path)
    asked = []
    fake = {
        name: lambda size, data, seed, _name=name, **case: (
            asked.append((_name, seed, *case.values())) or {"accuracy": 1.0}
        )
        for name in paper.MEASURE
    }
    monkeypatch.setattr(paper, "MEASURE", fake)
    monkeypatch.setattr(paper, "images", lambda name, seed: torch.zeros(1))
    first = paper.PROGRAM.run("quick", progress=False)
    assert len(asked) == len(set(asked)) == len(first)
    assert paper.PROGRAM.run("quick", progress=False).rows == first.rows and len(asked) == len(
        first
    )
