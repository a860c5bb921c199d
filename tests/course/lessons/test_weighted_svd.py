"""The lesson on the weighted SVD: errors against NumPy, what explorers say, the pictures."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from tensorlab.course.lessons import weighted_svd as lesson
from tensorlab.methods.weighted import METHODS, metrics


def dense(name, method="whitened"):
    return metrics(lesson.statistics()[name], method)[1].numpy()


def test_the_sentence_says_the_errors_by_numpy():
    e = lesson.WeightingExplorer()
    e.set(layer=lesson.LAYER, method="whitened", rank=5)
    w, r = lesson.weights()[lesson.LAYER].double().numpy(), dense(lesson.LAYER)
    seen = np.linalg.svd(w @ r)[1]
    best = np.linalg.norm(seen[5:]) / np.linalg.norm(seen)
    u, s, vh = np.linalg.svd(w)
    plain = np.linalg.norm((w - u[:, :5] * s[:5] @ vh[:5]) @ r) / np.linalg.norm(seen)
    assert f"outputs {best:.2f} by whitened, {plain:.2f} by svd" in e.sentence
    assert lesson.errors("svd", lesson.LAYER, 5)["weights"] == pytest.approx(
        np.linalg.norm(s[5:]) / np.linalg.norm(s), rel=1e-4
    )


@pytest.mark.parametrize("norm, own", lesson.NORMS.items())
def test_each_method_is_the_best_in_its_own_norm(norm, own):
    found = {m: lesson.errors(m, lesson.ALL, 6)[norm] for m in lesson.METHODS}
    assert found[own] == min(found.values()) and max(found.values()) > 1.1 * found[own]
    assert set(lesson.METHODS) <= set(METHODS)


def test_ranks_end_where_factors_store_more_than_the_layer():
    e = lesson.WeightingExplorer()
    e.set(layer="blocks.0.up")
    e.set(rank=25)
    assert e.value("rank") == 25 == 128 * 32 // 160
    e.set(layer=lesson.ALL)
    assert e.value("rank") == 16 and e.boxes["rank"].value == "16"


def test_a_rank_beyond_all_is_the_dense_layer():
    w = lesson.weights()[lesson.LAYER]
    for method in lesson.METHODS:
        assert torch.allclose(lesson.low_rank(method, lesson.LAYER, 32), w, atol=1e-4)
    assert lesson.seen(lesson.with_ranks("kfac", dict.fromkeys(lesson.weights())))["moved"] == 0


def test_rivals_store_what_is_said():
    found = lesson.rivals((0.5,), (16,))
    dense, small = found.pop("dense")[0][0], found.pop("trained smaller")[0][0]
    assert dense == 4 * small == 24576  # twice as wide: four times the numbers
    assert all(numbers <= dense / 2 for ((numbers, _),) in found.values())
    zeros = [float((w == 0).double().mean()) for w in lesson.blocks(lesson.pruned(0.5)).values()]
    assert zeros == pytest.approx([0.5] * 8, abs=1e-3)
    assert "dense" in lesson.draw_rivals(Figure(), {"dense": [(dense, 0.9)], **found})


def test_pictures_say_what_was_found():
    said = lesson.draw_ranks(Figure(), 0.3)
    moved = lesson.seen(lesson.with_ranks(*lesson.ranks_by(0.3)["by the loss (kfac)"]))["moved"]
    assert f"by the loss (kfac) {moved:.3f}" in said
    assert "w 32 of 32" in lesson.draw_steep(Figure())
    found = lesson.few((1, 50))
    assert f"svd {found['svd'][0][1]:.2f} to" in lesson.draw_few(Figure(), found)
    assert "% of the full score or more" in lesson.draw_recorded(Figure())


def test_a_prediction_is_settled_by_the_function():
    w, right = torch.diag(torch.tensor([3.0, 2.0, 1.0])), torch.tensor([1.0, 1.0, 4.0])
    low = lesson.weighted_svd(w, 1, right=right)
    assert lesson.kept_error(lesson.weighted_error(w, low, right=right))
