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


def test_the_means_are_those_of_the_conditional(explorer):
    explorer.set(across="x3", up="x0", known="x2", value=-1.0, samples=50, seed=2)
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


def test_wrong_values_are_sentences_and_the_picture_stays(explorer, monkeypatch):
    monkeypatch.setenv("TENSORLAB_STRICT", "0")
    explorer.set(across="x0", up="x1", known="x2", value=0.0)
    picture = explorer.view.value
    explorer.boxes["value"].value = "7"
    assert (
        "value of the known: needs a number in -2..2, got 7" in explorer.status.value
        and explorer.view.value == picture
    )
    explorer.boxes["value"].value = "0"
    explorer.set(up="x0")
    assert (
        "needs three different variables, got x0, x0, x2" in explorer.status.value
        and explorer.view.value == picture
    )


def test_right_answers():
    assert lesson.gram_step(
        lambda core, gram, state: sum(
            gram[i, j] * core[:, i].T @ state @ core[:, j]
            for i in range(len(gram))
            for j in range(len(gram))
        )
    )
    assert lesson.products(729) and not lesson.products(64)
