"""Alternating least squares, sweep by sweep: easy, a swamp, a degenerate pair."""

import itertools

import pytest
import torch

import tensorlab as tl
from tensorlab.course.lessons import cp as lesson


def states(problem, count, stride=20):
    e = lesson.AlsExplorer.__new__(lesson.AlsExplorer)
    steps = lesson.AlsExplorer.steps(e, problem, stride)
    return list(itertools.islice(steps, count))[-1]


def test_the_easy_problem_is_solved_and_the_swamp_is_not():
    assert states("easy", 20)[0][-1] < 1e-8
    errors = states("swamp", 11)[0]
    assert (
        errors[200] > 1e-4 and errors[150] / errors[200] < 1.5
    )  # fifty sweeps gain less than a third


@pytest.mark.thorough
def test_the_degenerate_pair_grows_and_cancels():
    errors, cosines, weights, _ = states("degenerate pair", 60)
    assert cosines[-1] < -0.9 and weights[-1] > 2 * weights[10] and errors[-1] < errors[100] / 2


@pytest.mark.thorough
def test_player_steps_and_says_the_truth():
    e = lesson.AlsExplorer("easy")
    assert "After 61 sweeps" in e.sentence and e.step() and "After 66 sweeps" in e.sentence
    e.set(stride=1)
    assert "After 1 sweeps" in e.sentence and e.step() and "After 2 sweeps" in e.sentence
    x, start = lesson.als_problem("easy")
    error = tl.cp_als(x, 3, init=start, tol=0.0, max_iter=2).history[-1]
    assert f"the relative error is {error:.2e}" in e.sentence
    e.set(problem="swamp")
    assert "After 1 sweeps" in e.sentence


def test_a_slice_has_the_strength_that_is_said():
    e = lesson.SlicePlayer(2)
    c = lesson.bumps(16)[2]
    assert f"Slice 6 of 16: term 2 is there with strength {float(c[6, 1]):.2f}." in e.sentence
    assert e.step() and e.sentence.startswith("Slice 7 of 16")
    e.set(terms=1)
    assert e.value("term") == 1 and "1 term holds 48 numbers, the tensor 4096." in e.sentence


def test_the_problems_are_what_was_planted():
    for name, truth in lesson.TRUTHS.items():
        assert torch.equal(lesson.als_problem(name)[0], truth.to_dense())
