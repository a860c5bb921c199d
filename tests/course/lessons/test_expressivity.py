"""Ranks against width and depth: what the explorer says against NumPy; a wrong value is a
sentence."""

import numpy as np
import pytest
import torch

from tensorlab.course.lessons import expressivity as lesson
from tensorlab.papers.expressivity import network


@pytest.fixture(scope="module")
def explorer():
    return lesson.WidthExplorer()


@pytest.mark.thorough
@pytest.mark.parametrize(
    "against, depth, width, modes", [("depth", 8, 2, 2), ("width", 6, 4, 3), ("depth", 6, 3, 4)]
)
def test_ranks_are_those_of_numpy(explorer, against, depth, width, modes):
    explorer.set(against=against, depth=depth, width=width, modes=modes, seed=3)
    found = {}
    for name in ("TT", "HT", "CP"):
        x = network(name, modes, width, depth, 3).to_dense().numpy()
        matrix = x.transpose(*range(0, depth, 2), *range(1, depth, 2)).reshape(
            modes ** (depth // 2), -1
        )
        found[name] = np.linalg.matrix_rank(matrix, tol=1e-13 * np.linalg.norm(matrix, 2))
    last = depth if against == "depth" else width
    assert (
        f"At {against} {last} the ranks are TT {found['TT']}, HT {found['HT']}, CP {found['CP']}"
        in explorer.sentence
    )
    assert f"the bound for trains is {min(modes, width) ** (depth // 2)}." in explorer.sentence
    assert found["TT"] >= min(modes, width) ** (depth // 2) and found["CP"] <= width


def test_no_combination_is_refused_and_a_wrong_value_is_a_sentence(explorer, monkeypatch):
    explorer.reset()
    explorer.set(depth=12)
    assert "At depth 12 the ranks are TT 64" in explorer.sentence
    explorer.set(modes=4)
    assert 4 ** explorer.value("depth") <= lesson.LARGEST < 4 ** (explorer.value("depth") + 1)
    monkeypatch.setenv("TENSORLAB_STRICT", "0")
    picture = explorer.view.value
    explorer.boxes["width"].value = "0"
    assert (
        "width: needs a whole number in 1..6, got 0" in explorer.status.value
        and explorer.view.value == picture
    )
    explorer.reset()


def test_recorded_widths_are_found_by_name():
    found = lesson.widths(3, 3, 8)
    assert found["CP", "TT"] == 81 and found["TT", "CP"] == 3 and len(found) == 6
    assert dict(lesson.recorded()[3, 2])[12] == 486


def test_a_fit_is_above_its_floor_and_counts_its_numbers():
    curves = lesson.fitted((2, 4), 5)
    pairs = zip(curves["CP, fitted"], curves["no CP is below"])
    assert all(fit >= floor and n == m for (n, fit), (m, floor) in pairs)
    assert [n for n, _ in curves["CP, fitted"]] == [2 * 25, 4 * 25]
    assert [n for n, _ in curves["SVD, odd by even"]] == [2 * 2 * 81, 4 * 2 * 81]


def test_right_answers():
    def recurrent(cores, inputs):
        h = torch.ones(1, dtype=torch.float64)
        for core, f in zip(cores, inputs):
            h = torch.einsum("a,aib,i->b", h, core, f)
        return h

    assert lesson.recurrent(recurrent) and lesson.shallow_width(243)
    s = np.linalg.svd(
        network("TT", 3, 3, 8).to_dense().permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(81, 81).numpy(),
        compute_uv=False,
    )
    assert lesson.numerical_width(
        min(k for k in range(82) if np.linalg.norm(s[k:]) <= 0.01 * np.linalg.norm(s))
    )
