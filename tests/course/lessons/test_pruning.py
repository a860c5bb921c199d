"""Pruning: the explorer's numbers counted otherwise, the cost of a lottery by hand, and the right
function."""

import pytest
import torch

from tensorlab.course.lessons import pruning as lesson
from tensorlab.models.training import accuracy
from tensorlab.papers import competitors
from tensorlab.papers.table import measured


@pytest.mark.thorough
@pytest.mark.parametrize("share, block", [(0.0, "entries"), (0.5, "8 x 8"), (0.95, "rows")])
def test_the_sentence_is_what_the_network_does(share, block):
    e = lesson.PruneExplorer()
    e.set(share=share, block=block)
    model, masks = lesson.cut(share, block)
    w = model.layers[1].weight
    *_, x, y = lesson.digits()
    stay = int((w != 0).sum())
    assert f"In layers.1 {stay} of 4096 weights stay" in e.sentence
    right = float((model(x).argmax(1) == y).double().mean())
    assert f"{100 * right:.1f} % of the test images are right." in e.sentence
    fallen = sum(int((~m).sum()) for m in masks.values())
    assert fallen == pytest.approx(share * 8192, abs=64)


def test_a_wrong_value_is_a_sentence_and_the_picture_stays():
    e = lesson.PruneExplorer()
    picture = e.view.value
    e.boxes["share"].value = "1.5"
    assert (
        "share that falls: needs a number in 0..0.95, got 1.5" in e.status.value
        and e.view.value == picture
    )


def test_entries_bear_more_than_rows():
    found = lesson.curves()
    assert found["entries"][0] == found["rows"][0]  # nothing has fallen
    assert sum(a for _, a in found["entries"]) > sum(a for _, a in found["rows"])


def test_tickets_count_what_they_cost():
    rows = list(lesson.ticket_rows(rounds=2, prune_rate=0.5, epochs=1))
    assert [r["sparsity"] for r in rows] == pytest.approx([0, 0.5, 0.75])
    one = 3 * 2 * (8192 + 640) * 1300
    assert [r["dense_flops"] for r in rows] == [one, 2 * one, 3 * one]
    assert [r["flops"] for r in rows] == [
        one,
        one + 3 * 2 * (4096 + 640) * 1300,
        one + 3 * 2 * (4096 + 2048 + 1280) * 1300,
    ]
    assert rows[0]["accuracy"] > 0.5


def test_low_rank_counts_its_factors():
    row = lesson.low_rank_row(4, epochs=1)
    assert row["numbers"] == 2 * 4 * 128 and row["flops"] == 3 * 2 * (1024 + 640) * 1300


def test_words_count_the_mask():
    masks = {"a": torch.zeros(64, 64) > 0}
    masks["a"][:8, :8] = True
    assert lesson.words(masks) == 64 + 64 * 12 // 32  # a list of places of 12 bits
    assert lesson.words(masks, (8, 8)) == 64 + 1
    assert lesson.words({"a": torch.ones(8, 8) > 0}) == 64, "nothing is missing: no mask"


def test_the_rival_of_the_explorer_stores_no_more_than_what_stays():
    found = lesson.curves()["low rank"]
    assert all(
        64 * 64 * (1 - share) == pytest.approx(round(32 * (1 - share)) * 128) for share, _ in found
    )
    assert found[0][0] == 0 and found[0][1] > 0.9


def test_recorded_ways_are_at_the_rate_that_is_best_on_valid():
    found = lesson.recorded()
    table = measured(competitors.PROGRAM.key)
    for (way, setting), of in found.items():
        rows = table.where(way=way, setting=setting)
        by_rate = {}
        for row in rows:
            by_rate.setdefault(row["rate"], []).append(row)
        best = max(by_rate.values(), key=lambda runs: sum(r["valid"] for r in runs))
        assert of["test"] == [r["test"] for r in best] and len(of["test"]) == 3
    assert found["DLRT", 6]["words"] == 3968 < found["pruned entries", 6]["words"]


def test_the_trained_network_learned():
    *_, x, y = lesson.digits()
    assert accuracy(lesson.trained(), x, y) > 0.9
