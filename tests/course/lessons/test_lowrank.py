"""The growing sum and the turning disk: what is shown is what the SVD says."""

import pytest
import torch

import tensorlab as tl
from tensorlab.course.lessons import lowrank as lesson


def test_the_sum_grows_by_a_term_and_says_the_error():
    e = lesson.TermPlayer(29)
    w = lesson.matrix("gray flower")
    for r in (29, 30):
        y = tl.LowRank.from_dense(w, r)
        error = float((y.to_dense() - w).norm() / w.norm())
        assert e.sentence.startswith(f"{r} of 427 terms: two factors with {y.numel} numbers")
        assert f"a relative error of {error:.4f}." in e.sentence
        assert e.step()


@pytest.mark.parametrize("name", lesson.NAMES)
def test_no_matrix_is_refused_whatever_the_terms(name):
    e = lesson.TermPlayer()
    e.set(terms=427)
    e.set(matrix=name)
    assert f"{e.value('terms')} of {min(lesson.matrix(name).shape)} terms" in e.sentence
    with pytest.raises(ValueError, match="got tangent"):
        lesson.matrix("tangent")


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
