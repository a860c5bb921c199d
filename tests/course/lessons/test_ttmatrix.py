"""The designer of TT layers: what it says is what the package computes; a wrong value is a
sentence."""

import pytest
import torch

import tensorlab as tl
from tensorlab.course.lessons import ttmatrix as lesson


def said(name, modes, rank, shuffled=False):
    w = lesson.example_weight(name, shuffled)
    t = tl.tt_matrix_svd(w, modes, modes, rank)
    error = float((t.to_dense() - w).norm() / w.norm())
    return (
        f"with ranks {', '.join(map(str, t.ranks))} store {t.numel} of 4096 numbers with a "
        f"relative error of {error:.2g}. "
    )


@pytest.mark.thorough
def test_the_designer_shows_storage_error_and_the_fastest_path():
    e = lesson.Designer()
    name = "1 / (1 + |row - column|)"
    e.set(weight=name, rank=3, tokens=11)
    assert said(name, (4, 4, 4), 3) in e.sentence
    plan = tl.layers.plans.plans(
        tl.tt_matrix_svd(lesson.example_weight(name), (4, 4, 4), (4, 4, 4), 3), 2048
    )[0]
    assert f"Of 7 paths {plan.forward} should be fastest" in e.sentence
    assert e.sentence.endswith(f"hold {plan.peak / 2**10:.0f} KiB at the peak.")
    e.controls["shuffled"].value = True
    assert said(name, (4, 4, 4), 3, shuffled=True) in e.sentence and e.sentence.startswith(
        "Modes 4 · 4 · 4"
    )


def test_shuffled_rows_cost_more():
    for name in lesson.WEIGHTS[:2]:
        w, shuffled = (
            tl.tt_matrix_svd(lesson.example_weight(name, s), (8, 8), (8, 8), 2).to_dense()
            for s in (False, True)
        )
        errors = [
            float((a - lesson.example_weight(name, s)).norm())
            for a, s in ((w, False), (shuffled, True))
        ]
        assert errors[1] > 2 * errors[0]


@pytest.mark.thorough
def test_a_proposal_is_never_worse():
    e = lesson.Designer()
    e.set(weight="1 / (1 + |row - column|)", rank=4)
    w = lesson.example_weight("1 / (1 + |row - column|)")
    by_hand = tl.tt_matrix_svd(w, (4, 4, 4), (4, 4, 4), 4)
    modes, rank = lesson.proposal("1 / (1 + |row - column|)", False, by_hand.numel)
    proposed = tl.tt_matrix_svd(w, lesson.MODES[modes], lesson.MODES[modes], rank)
    assert proposed.numel <= by_hand.numel
    assert float((proposed.to_dense() - w).norm()) <= float((by_hand.to_dense() - w).norm())
    e.controls["proposed"].value = True
    assert e.sentence.startswith(f"Proposed: modes {modes} with ranks")
    with pytest.raises(ValueError, match="24 numbers, got 3"):
        lesson.proposal("random", False, 3)


@pytest.mark.thorough
def test_a_wrong_value_is_a_sentence_and_the_picture_stays():
    e = lesson.Designer()
    picture = e.view.value
    for wrong in ("65", "abc", "0", "2.5"):
        e.boxes["rank"].value = wrong
        assert (
            "rank: needs a whole number in 1..64, got " + wrong in e.status.value
            and e.view.value == picture
        )


def test_weights():
    assert torch.equal(
        lesson.example_weight("random", True).sort(0).values,
        lesson.example_weight("random").sort(0).values,
    )
    assert tl.tt_matrix_svd(
        lesson.example_weight(lesson.WEIGHTS[0]), (8, 8), (8, 8), rtol=1e-10
    ).ranks == (1,)
    with pytest.raises(ValueError, match="got identity"):
        lesson.example_weight("identity")


@pytest.mark.thorough
@pytest.mark.parametrize("weight", ["random", "blur of 8 x 8 pictures"])
def test_a_rank_goes_no_further_than_it_changes_anything(weight):
    e = lesson.Designer()
    for modes in lesson.MODES:
        e.set(weight=weight, modes=modes)
        w, sizes = lesson.example_weight(weight), lesson.MODES[modes]
        most = e.controls["rank"].max
        below, there = (
            tl.tt_matrix_svd(w, sizes, sizes, r).to_dense() for r in (most - 1 or 1, most)
        )
        assert float((there - w).norm()) <= 1e-9 * float(w.norm())
        assert most == 1 or float((below - w).norm()) > 1e-6 * float(w.norm())
