"""A density that can be asked: what the explorer says against integrals taken otherwise; a wrong
value is a sentence."""

import re

import pytest
import torch

from tensorlab.course.lessons import density as lesson

STEPS = 1


@pytest.fixture(scope="module")
def explorer():
    return lesson.ConditionExplorer(STEPS)


@pytest.mark.thorough
def test_the_means_are_those_of_the_conditional(explorer):
    explorer.set(across="x3", known="x2", value=-1.0, samples=50, seed=2)
    explorer.set(up="x0")
    said = re.search(r"Means: given x2 (\S+), of all (\S+)\.", explorer.sentence)
    model = lesson.model(STEPS)
    drawn = model.sample(4000, 0, given={2: -1.0})[:, 3]
    assert float(said[1]) == pytest.approx(float(drawn.mean()), abs=0.08)
    assert float(said[2]) == pytest.approx(float(model.sample(4000, 1)[:, 3].mean()), abs=0.08)
    assert "50 samples are shown" in explorer.sentence


def test_the_grid_holds_the_conditional_density():
    model = lesson.model(STEPS)
    x, y, p = lesson.density_grid(model, 3, 0, {2: 0.5}, 80)
    assert float(torch.trapezoid(torch.trapezoid(p, x), y)) == pytest.approx(1, abs=0.01)
    point = torch.stack([x[30], y[41]])[None]
    assert float(p[41, 30]) == pytest.approx(
        float(model.score_samples(point, dims=(3, 0), given={2: 0.5}).exp())
    )


@pytest.mark.thorough
def test_wrong_values_are_sentences_and_the_picture_stays(explorer, monkeypatch):
    monkeypatch.setenv("TENSORLAB_STRICT", "0")
    explorer.reset()
    picture = explorer.view.value
    explorer.boxes["value"].value = "7"
    assert (
        "value of the known: needs a number in -2..2, got 7" in explorer.status.value
        and explorer.view.value == picture
    )
    explorer.boxes["value"].value = "0"
    with pytest.raises(ValueError, match="up: needs one of x1, x3, got x0"):
        explorer.set(up="x0")


@pytest.mark.thorough
def test_three_variables_always_differ(explorer):
    explorer.reset()
    explorer.set(samples=0)
    for known in lesson.NAMES:
        explorer.controls["known"].value = known
        for across in explorer.controls["across"].options:
            explorer.controls["across"].value = across
            assert {known, across} == {explorer.value("known"), explorer.value("across")}
            assert {*explorer.controls["up"].options} == {*lesson.NAMES} - {known, across}
            assert explorer.value("up") in explorer.controls["up"].options
            assert f"Means: given {known} " in explorer.sentence
    explorer.reset()


def test_recorded_rows_are_found():
    found = lesson.toys()
    assert list(found) == list(lesson.paper.TOYS)
    assert found["moons"]["squared"] == (-0.3297, 0.0)  # after its last step
    assert found["pinwheel"]["linear"] == (-2.3288, 0.0108)
    ours, theirs = lesson.power()
    assert ours["TTDE, squared"]["steps"] == 2 and theirs["Real NVP"] == 0.17


def test_the_conditional_mean_is_that_of_samples():
    model = lesson.model(STEPS)
    drawn = model.sample(4000, 0, given={2: 0.5})[:, 1]
    mean = lesson.conditional_mean(model, 1, {2: 0.5})
    assert mean == pytest.approx(float(drawn.mean()), abs=0.08)
