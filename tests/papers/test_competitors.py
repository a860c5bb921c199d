"""The competitors of DLRT: what is counted is what it should be, the same numbers are stored, and
the program end to end."""

from dataclasses import replace

import matplotlib.figure
import pytest
import torch
from torch import nn

from tensorlab.papers import competitors as paper
from tensorlab.papers.table import Table

SMALL = {**paper.SIZES["quick"], "epochs": 2, "width": 24, "rounds": 2}


# -- reduces to


def test_a_dense_step_multiplies_three_times_but_for_the_input():
    """Forward, gradient of the weights, and gradient of what a layer is given, which the first does
    not need."""
    x, y, *_ = paper.data(0)
    trainer = paper.Trainer(x, y, 0.01, torch.Generator().manual_seed(0))
    model = paper.network(24, trainer.generator)
    trainer.fit(model, trainer.sgd(model), epochs=1)
    weights = [64 * 24, 24 * 24, 24 * 10]
    assert (
        trainer.macs == len(y) * (2 * weights[0] + 3 * sum(weights[1:]))
        and trainer.passes == len(y) // paper.BATCH
    )


@pytest.mark.parametrize(
    "call, macs",
    [
        (lambda a: torch.linalg.qr(a), 2 * 9 * 16 - 2 * 64 / 3),
        (lambda a: torch.linalg.qr(a.T), 2 * 9 * 16 - 2 * 64 / 3),
        (lambda a: torch.linalg.svd(a, full_matrices=False), 3 * 9 * 16 + 10 * 64),
        (lambda a: torch.linalg.eigh(a.T @ a), 9 * 16 + 4.5 * 64),
        (lambda a: torch.einsum("mn,kn->mk", a, a), 9 * 9 * 4),
        (lambda a: (a + 1).relu().sum(), 0),
    ],
)
def test_operations_by_hand(call, macs):
    assert paper.multiply_adds(lambda: call(torch.ones(9, 4))) == pytest.approx(macs)


@pytest.mark.parametrize("way", [w for w, (kind, _) in paper.WAYS.items() if kind == "rank"])
def test_equal_numbers_are_stored(way):
    row = paper.measure(SMALL, way, 3, 0.03, 0)
    assert row["stored"] == pytest.approx(
        3 * (64 + 24 + 24 + 24) + 240, abs=63 if way == "pruned blocks" else 1
    )
    assert (row["mask"] > 0) == (way in ("pruned entries", "pruned blocks", "lottery ticket"))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "way, times",
    [
        ("dense", 1),
        ("UV", 1),
        ("UV in turn", 2),
        ("DLRT", 2),
        ("SVD, then tuned", 1),
        ("pruned entries", 1),
        ("lottery ticket", 3),
    ],
)
def test_passes(way, times):
    assert paper.measure(SMALL, way, 3, 0.03, 0)["passes"] == times * 2 * 1000 // paper.BATCH


# -- is invariant


def test_projection_and_factors_start_where_dlrt_does():
    """With a rate of nearly 0 all three stay the same network."""
    rows = [paper.measure(SMALL, way, 3, 1e-12, 0) for way in ("DLRT", "UV", "projected")]
    assert rows[0]["test"] == rows[1]["test"] == rows[2]["test"]


def test_splits_are_apart_and_the_test_rows_stay():
    parts, other = paper.data(0), paper.data(1)
    assert [len(y) for y in parts[1::2]] == [1000, 300, 497]
    assert torch.equal(parts[4], other[4]) and not torch.equal(parts[0], other[0])
    assert torch.equal(torch.cat(parts[1::2]).bincount(), torch.cat(other[1::2]).bincount())


# -- by hand


def test_a_mask_is_a_map_or_a_list():
    assert paper.mask_words(torch.ones(8, 8) > 0) == 2
    assert paper.mask_words(torch.arange(1024) < 3) == 1  # three places of 10 bits


def test_stored_numbers_are_the_product_where_that_is_less():
    from tensorlab import FactorizedLinear, LowRank

    assert paper.stored(nn.Sequential(FactorizedLinear(LowRank.randn((6, 4), 4)))) == 24


@pytest.mark.parametrize("way", ["dense", "DLRT", "projected", "SVD, then tuned", "lottery ticket"])
def test_a_training_that_diverges_is_right_on_nothing(way):
    row = paper.measure(SMALL, way, 3, 1e3, 0)
    assert row["valid"] == row["test"] == 0 and row["passes"] < 40


def rows(way, accuracies, gmacs):
    """Two seeds at two rates: the first is better on valid, the second on test."""
    row = lambda rate, seed, valid, test: {
        "way": way,
        "setting": 2,
        "rate": rate,
        "seed": seed,
        "valid": valid,
        "test": test,
        "stored": 10,
        "mask": 0,
        "passes": 4,
        "gmacs": gmacs,
        "cpu s": 1.0,
    }
    a, b = accuracies
    return [row(0.1, 0, 90, a), row(0.1, 1, 80, b), row(0.2, 0, 95, a + 9), row(0.2, 1, 70, b + 9)]


def test_the_rate_is_chosen_on_valid_and_test_is_the_mean():
    table = Table("K", rows("dense", (80, 82), 2.0) + rows("UV", (70, 76), 0.5))
    dense, uv = paper.summary(table).rows
    assert (dense["rate"], dense["test"], dense["of dense"]) == (0.1, 81, 1.0)
    assert (
        uv["test"] == 73
        and uv["of dense"] == 0.25
        and uv["deviation"] == pytest.approx(18**0.5, abs=0.01)
    )


def test_the_picture_names_the_best_and_the_cheapest():
    table = Table(
        "K", rows("dense", (90, 90), 2.0) + rows("DLRT", (85, 87), 1.0) + rows("UV", (70, 76), 0.5)
    )
    said = paper.draw(table, matplotlib.figure.Figure().subplots())
    assert said == (
        "Most accurate when compressed: DLRT with 10 numbers, 86.0 %; "
        "cheapest to train: UV with 10 numbers, 73.0 %."
    )


@pytest.mark.thorough
def test_the_program_at_a_small_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(paper.SIZES, "quick", SMALL)
    table = paper.PROGRAM.run("quick", progress=False)
    assert table["way"] == list(paper.WAYS)
    adaptive, penalized = (table.where(way=way)[0] for way in ("DLRT adaptive", "penalty on rank"))
    assert (
        240 < adaptive["stored"] <= 64 * 24 + 24 * 24 + 240
        and penalized["stored"] <= 64 * 24 + 24 * 24 + 240
    )
    once = replace(paper.PROGRAM, measure=lambda *a, **k: pytest.fail("measured again"))
    assert once.run("quick", progress=False).rows == table.rows
