"""The growing sum and the turning disk: what is shown is what the SVD says."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import tensorlab as tl
from tensorlab.course.digits import accuracy, draw_fits, network
from tensorlab.course.lessons import lowrank as lesson


@pytest.mark.thorough
def test_the_sum_grows_by_a_term_and_says_the_error():
    e = lesson.TermPlayer(29)
    w = lesson.matrix("gray flower")
    for r in (29, 30):
        y = tl.LowRank.from_dense(w, r)
        error = float((y.to_dense() - w).norm() / w.norm())
        assert e.sentence.startswith(f"{r} of 427 terms: two factors with {y.numel} numbers")
        assert f"a relative error of {error:.4f}." in e.sentence
        assert e.step()


@pytest.mark.thorough
@pytest.mark.parametrize("name", lesson.NAMES)
def test_no_matrix_is_refused_whatever_the_terms(name):
    e = lesson.TermPlayer()
    e.set(terms=427)
    e.set(matrix=name)
    assert f"{e.value('terms')} of {min(lesson.matrix(name).shape)} terms" in e.sentence
    with pytest.raises(ValueError, match="got tangent"):
        lesson.matrix("tangent")


@pytest.mark.thorough
def test_three_moves_end_in_the_matrix():
    e = lesson.TurnPlayer()
    assert e.sentence.startswith("stretched by s: v₁ has length 1.00 now, v₂ 0.5")
    *_, (a, move) = e.steps(0.4, 55, 25)
    u, s, vh = torch.linalg.svd(a)
    assert move == 3 and torch.allclose(s, s.new_tensor([1.0, 0.4]))
    assert torch.allclose(a @ lesson.turn(55), lesson.turn(25) * s)
    e.set(second=0.0)
    while e.step():
        pass
    assert e.sentence.endswith("v₂ 0.00. The disk is flat: rank 1.")


def test_largest_entries_store_what_they_say():
    a = lesson.matrix("layer of a network")
    kept = lesson.largest_entries(a, 1024)
    assert int((kept != 0).sum()) == 512
    assert float(kept.abs()[kept != 0].min()) >= float(a[kept == 0].abs().max())


def test_the_curves_of_the_layer_by_numpy_in_two_panels():
    found, figure = lesson.layer_curves(), Figure()
    weight = network()[0].numpy()
    s = np.linalg.svd(weight, compute_uv=False)
    for n, error in found["error"]["SVD"]:
        assert error == pytest.approx(np.linalg.norm(s[n // 128 :]) / np.linalg.norm(s))
    assert found["accuracy"]["dense"] == [(4096, accuracy(*network()))]
    assert [n for n, _ in found["accuracy"]["SVD"]] == [n for n, _ in found["error"]["SVD"]]
    assert draw_fits(figure, found, "off").startswith("Best accuracy shown: dense")
    assert [ax.get_ylabel() for ax in figure.axes] == ["off", "% right"]
