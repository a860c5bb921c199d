"""The programs of Kronecker sums: matrices and models, end to end at a small size."""

import matplotlib.figure
import pytest
import torch

from tensorlab.papers import kron_models, kron_spectral

MATRICES = {
    "random": ("Gaussian", "signs"),
    "seeds": 2,
    "ranks": (3,),
    "steps": 0,
    "max_iter": 60,
    "encoder": 0,
}
MODELS = {"steps": 4, "distill": 2, "text": 2000, "pairs": 0, "terms": (8,), "max_iter": 6}


def test_matrices(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(kron_spectral.SIZES, "quick", MATRICES)
    table = kron_spectral.PROGRAM.run("quick", progress=False)
    assert len(table) == 2 and table["number"] == [2, 2]
    assert all(r["ratio"] > 1.2 > 1.1 > r["Frobenius"] and r["gap"] < 0.05 for r in table.rows)
    figure = matplotlib.figure.Figure()
    assert "times ours" in kron_spectral.draw(table, figure.subplots())


@pytest.mark.parametrize("kind", kron_spectral.RANDOM)
def test_the_distributions_are_of_independent_entries_of_mean_zero(kind):
    w = kron_spectral.RANDOM[kind](torch.Generator().manual_seed(0))
    assert w.shape == (36, 36) and w.isfinite().all()
    assert abs(float(w.mean() / w.std())) < 4 / 36


@pytest.mark.thorough
def test_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(kron_models.SIZES, "quick", MODELS)
    table = kron_models.PROGRAM.run("quick", progress=False)
    rows = {row["method"]: row for row in table.rows}
    assert tuple(rows) == ("dense", *kron_models.METHODS)
    most = rows["SVD"]["numbers"]
    assert all(r["numbers"] <= most for m, r in rows.items() if m != "dense")
    assert most < rows["dense"]["numbers"] == 2 * 4 * 128 * 128
    others = [m for m in kron_models.METHODS if m.startswith("Kronecker")]
    least = lambda what: min(others, key=lambda m: rows[m][what])
    assert least("error") == "Kronecker, Frobenius"
    assert least("spectral") == "Kronecker, spectral"
    assert least("outputs").startswith("Kronecker, outputs")
    figure = matplotlib.figure.Figure()
    assert "nearest to the dense model" in kron_models.draw(table, figure.subplots())


def test_left_factors_store_no_more_than_a_term_of_the_svd():
    for shape in ((384, 384), (384, 128), (128, 128), (36, 36)):
        m, n = kron_models.left_of(shape)
        assert m * n + shape[0] * shape[1] // (m * n) <= sum(shape)
