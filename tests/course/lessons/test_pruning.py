"""Pruning: the explorer's numbers counted otherwise, the cost of a lottery by hand, and the right
function."""

import pytest
import torch

from tensorlab.course.lessons import pruning as lesson
from tensorlab.models.training import accuracy


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


def test_right_answer_of_the_function():
    def block_mask(w, share, b):
        tiles = w.reshape(w.shape[0] // b, b, w.shape[1] // b, b).square().sum((1, 3))
        fall = tiles.flatten().topk(round(share * tiles.numel()), largest=False).indices
        mask = torch.ones(tiles.numel())
        mask[fall] = 0
        return mask.view_as(tiles).repeat_interleave(b, 0).repeat_interleave(b, 1)

    assert lesson.block_mask(block_mask)
    assert lesson.cost_of_a_ticket((1 - 0.8**6) / 0.2)


def test_the_trained_network_learned():
    *_, x, y = lesson.digits()
    assert accuracy(lesson.trained(), x, y) > 0.9
