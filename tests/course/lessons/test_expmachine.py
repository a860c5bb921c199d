"""Interactions: what the explorer says against a machine asked otherwise; a wrong value is a
sentence."""

import pytest
import torch

from tensorlab.course.lessons import expmachine as lesson


@pytest.fixture(scope="module")
def explorer():
    return lesson.InteractionExplorer()


def test_planted_sets_are_found_and_counted(explorer):
    explorer.set(rows=800, rank=6, order=3, flipped=0.0, seed=1)
    assert "3 of the 3 planted sets (hatched) are the 3 strongest." in explorer.sentence
    machine, ours, linear = lesson.machines(800, 6, 3, 0.0, 1)
    corner = torch.cartesian_prod(*[torch.arange(2)] * 8)
    entries = zip(corner.tolist(), machine.weights_.to_dense().flatten().abs().tolist())
    sizes = {
        tuple(k for k, i in enumerate(index) if i): value
        for index, value in entries
        if 1 <= sum(index) <= 3
    }
    assert set(sorted(sizes, key=sizes.get)[-3:]) == set(lesson.planted(3, 1))
    assert (
        ours > 0.97 > linear + 0.05
        and f"machine {ours:.3f}, linear {linear:.3f}" in explorer.sentence
    )


def test_a_wrong_value_is_a_sentence_and_the_picture_stays(explorer):
    picture = explorer.view.value
    explorer.boxes["rank"].value = "1"
    assert (
        "rank: needs a whole number in 2..10, got 1" in explorer.status.value
        and explorer.view.value == picture
    )
    with pytest.raises(ValueError, match="rows: needs one of"):
        explorer.set(rows=7)


def test_recorded_and_printed_values_are_told_apart():
    ours, theirs = lesson.recorded()
    assert ours["ExM rank 8"] == 0.6036 and theirs["ExM rank 8"] == 0.75
    assert "SVM rbf" not in ours and "ExM rank 8, screened" not in theirs


@pytest.mark.thorough
def test_tumors_are_split_and_measured():
    found = lesson.tumors((40, 80), 2)
    assert set(found) == {"logistic regression", "rank 2", "rank 8"}
    for curve in found.values():
        assert [n for n, _ in curve] == [40, 80]
        assert all(len(right) == 2 and 85 < min(right) <= 100 for _, right in curve)


def test_least_squares_over_all_cores_learns_the_planted_sets():
    sets = lesson.planted(3, 1)
    x, y = lesson.corners(400, sets, 0.0, 1)
    cores, target = lesson._train(8, 5), 2 * y.double() - 1
    for _ in range(4):
        for k in (*range(8), *range(6, 0, -1)):
            cores[k] = lesson._update(cores, x, target, k, 0.1)
    every = torch.tensor([abs(float(lesson._entry(cores, s))) for s in sets])
    assert every.min() > 0.2 and abs(float(lesson._entry(cores, (0, 1, 2, 3, 4)))) < 0.2
