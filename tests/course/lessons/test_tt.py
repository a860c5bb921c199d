"""The anatomy of a train: what is shown is what `tt_svd` finds; a wrong number is a sentence."""

import math

import pytest
import torch

import tensorlab as tl
from tensorlab.course.lessons import tt as lesson


def test_train_shows_ranks_and_error():
    e = lesson.TrainExplorer()
    x = lesson.functions("sine of the sum", 4, 6)
    e.set(function="sine of the sum")
    assert "ranks 2, 2, 2 stores" in e.sentence
    e.controls["digits"].value = 3
    error = float((tl.tt_svd(x, rtol=1e-3).to_dense() - x).norm() / x.norm())
    assert f"Asked for a relative error of 1e-03, it has {error:.1e}" in e.sentence
    assert e.boxes["digits"].value == "3"


def test_a_wrong_value_is_a_sentence_and_the_picture_stays():
    e = lesson.TrainExplorer()
    picture = e.view.value
    for wrong in ("99", "abc", "-1", "2.5"):
        e.boxes["modes"].value = wrong
        assert (
            "modes: needs a whole number in 2..6, got " + wrong in e.status.value
            and "Traceback" not in e.status.value
        )
        assert e.view.value == picture and e.value("modes") == 4


@pytest.mark.thorough
def test_no_combination_of_sliders_is_too_large():
    e = lesson.TrainExplorer()
    e.set(modes=6, size=8)
    assert e.values["size"] == 6 and "of 46656 numbers" in e.sentence
    e.set(modes=2)
    e.set(size=8)
    assert "of 64 numbers" in e.sentence


@pytest.mark.thorough
def test_cutting_step_by_step_ends_in_the_train():
    e = lesson.CutPlayer()
    assert e.sentence.startswith("After cut 1 of 3")
    while e.step():
        pass
    tt = tl.tt_svd(lesson.functions("1 / (1 + sum)", 4, 5), rtol=1e-3)
    assert f"cores and rest hold {tt.numel} of 625 numbers" in e.sentence
    e.stop()
    assert e.sentence == "The whole: 4 modes of size 5, 625 numbers, not yet cut."


def test_functions_by_hand():
    x = lesson.functions("|first - last|", 3, 2)
    assert torch.equal(x[:, 0, :], torch.tensor([[0.0, 0.5], [0.5, 0.0]], dtype=torch.float64))
    assert float(lesson.functions("sine of the sum", 2, 4)[1, 2]) == pytest.approx(math.sin(0.75))
    with pytest.raises(ValueError, match="got tangent"):
        lesson.functions("tangent", 2, 2)
