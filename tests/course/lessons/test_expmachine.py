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


def test_right_answers(capsys):
    def score(cores, x):
        v = torch.ones(1, dtype=torch.float64)
        for core, t in zip(cores, x):
            v = v @ (core[:, 0] + t * core[:, 1])
        return v

    assert lesson.machine_score(score) and lesson.feature_order((3, 4, 0, 7, 6, 1, 5, 2))
    assert not lesson.feature_order(range(8)) and "a smaller rank" in capsys.readouterr().out
    assert lesson.machine_storage(2 * (2 + 8 + 32) * 2 + 24 * 128)
