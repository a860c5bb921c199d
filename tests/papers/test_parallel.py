"""Pipelines and tensor parallel layers: closed forms, the talk's figure, collectives."""

import matplotlib.figure
import pytest
from torch import distributed as dist

from tensorlab.papers import find, gpipe, megatron, pipedream, varuna
from tensorlab.papers.table import Table
from tensorlab.parallel import cost


@pytest.mark.parametrize("module", [gpipe, pipedream])
def test_simulated_is_the_closed_form(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = module.PROGRAM.run("quick", progress=False)
    mine = "idle" if module is gpipe else "makespan"
    rows = [row for row in table.rows if row["formula"] is not None]
    assert len(rows) > 8
    for row in rows:
        assert row[mine] == pytest.approx(row["formula"], rel=1e-12, abs=1e-12)


def test_the_figure_of_varuna(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = find("Athlur2022").run("quick", progress=False)
    (row,) = table.where(schedule="Varuna", micro=5)
    assert row["slots"] == row["slots (printed)"] == 27
    (beside,) = table.where(schedule="GPipe", micro=5)
    assert beside["slots"] == 28 and beside["slots (printed)"] is None
    assert all(row["late"] >= row["slots"] for row in table.rows)
    said = varuna.draw(table, matplotlib.figure.Figure().subplots())
    assert said == "4 ranks, 5 micro-batches: 27 from start to end, 31 % idle."


def test_heads_that_do_not_divide_are_refused_before_a_process_starts():
    with pytest.raises(ValueError, match="ranks that divides 4 heads \\(1, 2, 4\\), got 3"):
        megatron.cases(megatron.SIZES["quick"] | {"ranks": 3})


@pytest.mark.thorough
@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
@pytest.mark.xdist_group("ranks")
def test_collectives_of_a_block(two, monkeypatch):
    size = megatron.SIZES["quick"]
    rows = [case | megatron.measure(size, **case, ranks=two) for case in megatron.cases(size)]
    table = megatron.PROGRAM.finish(Table("Shoeybi2019", rows))
    printed = [row for row in table.rows if row["forward (printed)"] is not None]
    assert len(printed) == 3
    for row in printed:
        assert row["forward"] == row["forward (printed)"]
        assert row["backward"] == row["backward (printed)"] and row["others"] == 0
    (each,) = table.where(what="attention", plan=megatron.EACH)
    assert (each["forward"], each["backward"]) == (1, 3)
    assert all(row["difference"] < 1e-12 for row in rows)
    wide = cost.split_bytes(size["batch"] * size["tokens"], size["width"], 8)
    (mlp,) = table.where(what="MLP", plan="column and row")
    (low,) = table.where(what="low-rank MLP")
    assert mlp["there bytes"] == mlp["back bytes"] == wide
    assert low["there bytes"] == low["back bytes"] == wide * size["rank"] // size["width"]
    (rows_twice,) = table.where(what="MLP", plan=megatron.TWICE)
    assert rows_twice["there bytes"] + rows_twice["back bytes"] > 2 * wide
