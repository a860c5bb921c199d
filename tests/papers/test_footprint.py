"""The table of memory, time and energy: its order, the printed numbers, and no joule alone."""

import re

import matplotlib.figure
import pytest
import torch

from tensorlab.layers.report import layer_report
from tensorlab.papers import footprint as paper


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("run"))
        return paper.PROGRAM.run("quick", progress=False)


def at(table, layers, where="all", optimizer="none"):
    (row,) = table.where(layers=layers, where=where, optimizer=optimizer)
    return row


@pytest.mark.thorough
def test_a_compressed_model_holds_less_at_every_moment(table):
    dense = at(table, "dense", "none")
    for layers in ("SVD", "TTM"):
        for where in ("all", "FFN"):
            row = at(table, layers, where)
            assert all(row[part] < dense[part] for part in ("load", "backward", "peak"))
    assert dense["load"] < dense["forward"] <= dense["peak"]


def test_an_optimizer_holds_what_its_formula_says(table):
    """Two numbers for each that is trained, and less where it keeps low rank."""
    plain, adam = at(table, "dense", "none"), at(table, "dense", "none", "Adam")
    g = torch.Generator().manual_seed(0)
    model = paper.encoder(paper.SIZES["quick"], "dense", "none", g)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert adam["load"] - plain["load"] == pytest.approx(2 * 4 * trained / 2**20, abs=0.03)
    galore = at(table, "dense", "none", "GaLore")
    assert plain["load"] < galore["load"] < adam["load"] and galore["peak"] < adam["peak"]
    assert at(table, "DLRT", "all", "DLRT")["load"] < plain["load"]
    assert at(table, "SVD", "all", "Adam")["peak"] < adam["peak"]


@pytest.mark.thorough
def test_joules_come_with_what_was_measured_and_assumed(table):
    texts = [row[f"energy of {paper.PASSES}"] for row in table.rows]
    texts = [text for text in texts if text is not None]
    assert len(texts) == 6
    for text in texts:
        assert re.search(r"J \((modeled: .* CPU seconds measured, 15 W assumed|measured: )", text)
    assert "15 W of a core assumed" in table.notes["energy"]


def test_the_talks_numbers_stand_beside(table):
    row = at(table, "TTM", "FFN")
    assert (row["peak (printed)"], row["ms (printed)"], row["1e-5 kWh (printed)"]) == (
        901.8,
        63.8,
        2.11,
    )
    assert at(table, "SVD", "all")["peak (printed)"] is None  # the talk has no such row


@pytest.mark.parametrize("layers", ["SVD", "TTM"])
def test_shares_are_kept(layers):
    g = torch.Generator().manual_seed(0)
    size = paper.SIZES["full"] | {"layers": 1, "words": 10}
    for where, low, high in (("all", 0.47, 0.49), ("FFN", 0.019, 0.02)):
        rows = layer_report(paper.encoder(size, layers, where, g)).rows
        rows = [row for row in rows if row.kind in ("LowRank", "TTMatrix")]
        kept = sum(row.parameters for row in rows) / sum(row.dense for row in rows)
        assert low < kept <= high and len(rows) == (6 if where == "all" else 2)


def test_a_folded_model_is_the_same_map():
    size = paper.SIZES["quick"]
    made = lambda layers: paper.encoder(size, layers, "all", torch.Generator().manual_seed(1))
    ids = torch.arange(12).view(1, 12)
    folded = made("TTM folded")
    assert torch.allclose(made("TTM")(ids), folded(ids), atol=1e-4)
    assert not any(row.kind == "TTMatrix" for row in layer_report(folded).rows)


def test_the_picture_says_the_shares(table):
    ax = matplotlib.figure.Figure().subplots()
    said = paper.draw(table, ax)
    dense, svd = at(table, "dense", "none")["peak"], at(table, "SVD")["peak"]
    assert f"SVD at 49% holds {svd / dense:.2f} " in said and len(ax.containers) == 3
