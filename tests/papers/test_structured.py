"""Structured layers: what each stores and costs, the two rules, and the program end to end at a
small size."""

import matplotlib.figure
import pytest
import torch

from tensorlab import datasets
from tensorlab.layers.linear import param_groups
from tensorlab.layers.report import layer_report
from tensorlab.models.gpt import Characters
from tensorlab.models.mlp import MLP
from tensorlab.papers import structured
from tensorlab.papers.table import Table

GRID = {
    "structures": ("dense", "BTT"),
    "widths": (64,),
    "rates": (1e-3, 1e-2),
    "epochs": 2,
    "text": None,
}


def built(structure, width=256):
    g = torch.Generator().manual_seed(0)
    return structured.build(MLP((64, width, width, 10), generator=g), "layers.1", structure, g)


@pytest.mark.parametrize(
    "structure, numbers, flops",
    [
        ("dense", 256**2, 2 * 256**2),
        ("low rank", 2 * 16 * 256, 2 * 2 * 16 * 256),
        ("Kronecker", 2 * 256, 2 * 2 * 256 * 16),
        ("TT", 2 * 16 * 256, 2 * 2 * 16 * 256 * 16),
        ("Monarch", 2 * 256**2 // 4, 2 * 2 * 256**2 // 4),
        ("BTT", 2 * 256 * 16, 2 * 2 * 256 * 16),
    ],
)
def test_numbers_and_flops_are_those_of_the_paper(structure, numbers, flops):
    row = layer_report(built(structure))["layers.1"]
    assert (row.parameters, row.flops) == (numbers, flops)


def test_the_rule_gives_a_btt_core_root_width_over_two():
    model, base = built("BTT", 256), built("BTT", 64)
    for per_core, want in ((True, [16 / 2 / 4, 16 / 2 / 4]), (False, [1 / 4, 1 / 4])):
        share = {
            p: g["multiplier"]
            for g in param_groups(model, 0.1, base=base, per_core=per_core)
            for p in g["params"]
        }
        assert [share[p] for p in model.layers[1].tensors] == pytest.approx(want)
        assert share[model.layers[0].weight] == 1.0 and share[model.layers[2].weight] == 64 / 256


def test_the_program_at_a_small_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(structured.SIZES, "quick", GRID)
    table = structured.PROGRAM.run("quick", progress=False)
    assert list(zip(table["structure"], table["rule"], table["rate"])) == [
        ("dense", "core", 1e-3),
        ("dense", "core", 1e-2),
        ("BTT", "core", 1e-3),
        ("BTT", "core", 1e-2),
        ("BTT", "dense", 1e-3),
        ("BTT", "dense", 1e-2),
    ]
    slow, fast = (row["loss"] for row in table.where(structure="BTT", rule="core"))
    assert fast < slow < 2.6 and table.where(structure="BTT")[0]["numbers"] == 2 * 64 * 8
    found = structured.best(table)
    assert [row["loss"] for row in found.rows] == [
        min(row["loss"] for row in table.where(structure=s, rule=r))
        for s, r in (("dense", "core"), ("BTT", "core"), ("BTT", "dense"))
    ]


def test_characters_run_at_a_small_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = datasets.corpus()
    monkeypatch.setattr(structured, "corpus", lambda: Characters(text[:40000]))
    small = {"structures": ("TT",), "width": 64, "rates": (1e-2,), "steps": 8}
    size = GRID | {"structures": (), "widths": (), "text": small}
    monkeypatch.setitem(structured.SIZES, "full", size)
    table = structured.PROGRAM.run("full", progress=False)
    assert table["data"] == ["characters"] * 2 and table["rule"] == ["core", "dense"]
    assert all(4 < bits < 8 for bits in table["error"]) and table["error"][0] != table["error"][1]


def test_the_picture_says_where_the_best_rates_are():
    row = lambda s, rule, rate, loss: {
        "data": "digits",
        "structure": s,
        "width": 64,
        "rule": rule,
        "rate": rate,
        "loss": loss,
    }
    rows = [row("dense", "core", 1e-3, 0.1), row("dense", "core", 1e-2, 0.2)]
    rows += [row(s, "core", rate, rate) for s in ("TT", "BTT") for rate in (1e-3, 1e-2)]
    rows += [row("TT", "dense", rate, rate) for rate in (1e-3, 1e-2)]
    rows += [row("BTT", "dense", rate, 1 - rate) for rate in (1e-3, 1e-2)]
    said = structured.draw(Table("Qiu2024", rows), matplotlib.figure.Figure().subplots())
    assert "are 0.001 to 0.001 with the rule core and 0.001 to 0.01 with the rule dense" in said
