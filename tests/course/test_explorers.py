"""The explorers: a control moves, and picture and sentence say the new numbers."""

import itertools
import math
import re

import pytest
import torch

import tensorlab as tl
from tensorlab.course import explorers
from tensorlab.course.explorers import AlsExplorer, PhotoExplorer, TrainExplorer


def test_photo_says_what_the_package_computes():
    e = PhotoExplorer(rank=4)
    x = explorers.small_photo("flower")
    side = x.movedim(2, 1).reshape(len(x), -1)
    low = tl.LowRank.from_dense(side, 4)
    error = float((low.to_dense() - side).norm() / side.norm())
    assert f"SVD of rank 4 stores {low.numel} of {x.numel()} numbers at a relative error of {error:.3f}" in e.sentence
    before = e.view.value
    for kind in ("CP", "Tucker", "TT"):
        e.set(format=kind)
        assert e.sentence.startswith(f"{kind} of rank 4 stores") and ("worse than the SVD" in e.sentence)
        assert e.view.value != before and html_alt(e.view.value) == e.sentence
        fmt, y, error = explorers.compressed("flower", kind, 4)
        assert error == pytest.approx(float((y - x).norm() / x.norm())) and y.shape == x.shape


def html_alt(view):
    return re.search('alt="([^"]*)"', view).group(1)


def test_photo_errors_fall_with_the_rank():
    for kind in explorers.FORMATS:
        errors = [explorers.compressed("flower", kind, r)[2] for r in PhotoExplorer.ladder]
        assert errors == sorted(errors, reverse=True)


def test_train_shows_ranks_and_error():
    e = TrainExplorer()
    x = explorers.functions("sine of the sum", 4, 6)
    e.set(function="sine of the sum")
    assert "ranks 2, 2, 2 stores" in e.sentence
    e.controls["digits"].value = 3
    error = float((tl.tt_svd(x, rtol=1e-3).to_dense() - x).norm() / x.norm())
    assert f"asked for a relative error of 1e-03, it has {error:.1e}" in e.sentence
    assert e.boxes["digits"].value == "3"


def test_a_wrong_value_is_a_sentence_and_the_picture_stays():
    e = TrainExplorer()
    picture = e.view.value
    for wrong in ("99", "abc", "-1", "2.5"):
        e.boxes["modes"].value = wrong
        assert "modes: needs a whole number in 2..6, got " + wrong in e.status.value and "Traceback" not in e.status.value
        assert e.view.value == picture and e.value("modes") == 4


def test_too_large_a_tensor_is_a_sentence(monkeypatch):
    monkeypatch.setenv("TENSORLAB_STRICT", "0")
    e = TrainExplorer()
    picture = e.view.value
    e.set(modes=6, size=8)
    assert "at most 60000 entries, got 8^6 = 262144" in e.status.value and e.view.value == picture


def states(problem, count, stride=20):
    e = AlsExplorer.__new__(AlsExplorer)
    steps = AlsExplorer.steps(e, problem, stride)
    return list(itertools.islice(steps, count))[-1]


def test_the_easy_problem_is_solved_and_the_swamp_is_not():
    assert states("easy", 20)[0][-1] < 1e-8
    errors = states("swamp", 11)[0]
    assert errors[200] > 1e-4 and errors[150] / errors[200] < 1.5  # fifty sweeps gain less than a third


def test_the_degenerate_pair_grows_and_cancels():
    errors, cosines, weights = states("degenerate pair", 60)
    assert cosines[-1] < -0.9 and weights[-1] > 2 * weights[10] and errors[-1] < errors[100] / 2


def test_player_steps_and_says_the_truth():
    e = AlsExplorer("easy")
    assert "After 1 sweeps" in e.sentence and e.step() and "After 6 sweeps" in e.sentence
    x, start = explorers.als_problem("easy")
    error = tl.cp_als(x, 3, init=start, tol=0.0, max_iter=6).history[-1]
    assert f"the relative error is {error:.2e}" in e.sentence
    e.set(problem="swamp")
    assert "After 1 sweeps" in e.sentence


def test_functions_by_hand():
    x = explorers.functions("|first - last|", 3, 2)
    assert torch.equal(x[:, 0, :], torch.tensor([[0.0, 0.5], [0.5, 0.0]], dtype=torch.float64))
    assert float(explorers.functions("sine of the sum", 2, 4)[1, 2]) == pytest.approx(math.sin(0.75))
    with pytest.raises(ValueError, match="got tangent"):
        explorers.functions("tangent", 2, 2)
