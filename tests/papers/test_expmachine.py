"""Classifiers with all interactions: the program end to end at a small size; the area under the
curve against scikit-learn."""

import matplotlib.figure
import pytest
import torch
from sklearn.metrics import roc_auc_score

from tensorlab.papers import expmachine
from tensorlab.papers.table import printed

SMALL = {"rows": 500, "machines": {"ExM rank 8": 5}, "riemannian": (2,), "cores": (1,), "folds": 2}


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(expmachine.SIZES, "quick", SMALL)


def test_the_program_at_a_small_size(small, monkeypatch, tmp_path):
    monkeypatch.setenv("TENSORLAB_DATA", str(tmp_path))
    table = expmachine.PROGRAM.run("quick", progress=False)
    assert len(table) == 3 and all(0.3 < row["AUC"] < 0.7 for row in table.rows)
    assert (
        expmachine.draw(table, matplotlib.figure.Figure().subplots())
        == "Neither Car nor HIV-1 is in the data folder."
    )


@pytest.mark.thorough
def test_folds_of_car_and_hiv(small, data_folder):
    table = expmachine.PROGRAM.run("quick", progress=False)
    (cores,), (linear,) = (
        table.where(data="Car", method=m) for m in ("cores", "logistic regression")
    )
    assert cores["loss"] < linear["loss"] and cores["AUC"] > 0.95
    assert "HIV-1, cores" in expmachine.draw(table, matplotlib.figure.Figure().subplots())


def test_area_under_the_curve(generator):
    y = torch.randint(2, (200,), generator=generator)
    score = (y + 2 * torch.rand(200, generator=generator)).mul(4).round()
    assert expmachine.auc(score, y) == pytest.approx(roc_auc_score(y, score))


def test_the_synthetic_task_has_no_weaker_traces():
    x, y, *_ = expmachine.synthetic(20_000)
    s = 2.0 * y - 1
    assert float((s @ x / len(s)).abs().max()) < 0.04 and set(x.unique().tolist()) == {-1, 1}


def test_the_screened_machine_recovers_what_was_planted():
    data, truth = expmachine.synthetic(2000, 12, 4, 3), expmachine.planted(12, 4, 3)
    assert torch.equal(data[1] == 1, sum(w * data[0][:, z].prod(1) for z, w in zip(*truth)) > 0)
    settings = dict(rank=5, order=4, init="screened", lr=1e-4, steps=5)
    found = expmachine.fit("screened", *data, settings, truth)
    assert found["recovery"] > 0.7 and found["AUC"] > 0.99
    assert "recovery" not in expmachine.fit(expmachine.LOGISTIC, *data, None, truth)


def test_printed_rows():
    table = printed(expmachine.PROGRAM.key)
    assert table.where(method="ExM rank 30")[0]["AUC"] == 0.91 and set(table["data"]) == {
        expmachine.SYNTHETIC
    }
