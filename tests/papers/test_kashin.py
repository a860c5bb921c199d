"""Scores in few bits: the program end to end at a small size, its printed rows, and the two
figures."""

import matplotlib.figure
import pytest
import torch

from tensorlab.papers import kashin
from tensorlab.papers.table import printed

SMALL = {
    "bits": (2, 4),
    "methods": ("uniform", "rotate", "pairs"),
    "steps": 12,
    "text": 2000,
    "pairs": 0,
}


@pytest.mark.thorough
def test_the_program_at_a_small_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(kashin.SIZES, "quick", SMALL)
    table = kashin.PROGRAM.run("quick", progress=False)
    assert len(table) == 7 and table.rows[0]["method"] == "fp32" and table.rows[0]["error"] == 0
    for bits in (2, 4):
        rows = {row["method"]: row for row in table.where(bits=bits)}
        assert bits < min(r["bits per weight"] for r in rows.values()) <= bits + 0.02
        assert (
            rows["rotate"]["error"] > rows["pairs"]["error"]
        )  # barely trained weights are uniform, so "uniform" is good here
    whole, best = (
        table.rows[0]["bits per character"],
        table.where(bits=4, method="pairs")[0]["bits per character"],
    )
    assert best == pytest.approx(whole, rel=0.05)
    figure = matplotlib.figure.Figure()
    assert f"float32 has {whole:.3f}." in kashin.draw(table, figure.subplots())


def test_printed_rows_are_of_other_models():
    table = printed(kashin.PROGRAM.key)
    assert len(table) == 8 and not {kashin.ENCODER, kashin.CHARACTERS} & set(table["model"])
    assert table.where(model="BERT-base", method="kashin")[0]["CoLA"] == 59.65


def test_figures():
    w = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    histories = kashin.by_choice_of_q(w)
    assert (
        histories["dct"][-1] <= 1e-6 and histories["orthogonal"][-1] <= 1e-6 and len(histories) == 6
    )
    u, v = kashin.four_peaks(w)
    for z in (u, v):  # four peaks at ±a±b, and a gap between them that nothing is in
        assert float(z.abs().max()) < 2 and float((z.abs() < 0.05).double().mean()) < 0.2
