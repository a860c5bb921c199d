"""A train that learns where to look: the players' sentences against values computed otherwise; a
wrong value is a sentence."""

import itertools
import math

import pytest
import torch
from matplotlib.figure import Figure

from tensorlab.course.lessons import protes as lesson


@pytest.mark.thorough
def test_a_landscape_step_says_what_was_asked_and_what_is_best(monkeypatch):
    asked = []
    ask = lesson.Protes.ask
    monkeypatch.setattr(lesson.Protes, "ask", lambda self: asked.append(ask(self)) or asked[-1])
    e = lesson.LandscapePlayer()
    e.set(function="Ackley", batch=6, elite=2)
    e.stop()
    x = torch.linspace(-5, 3, 32, dtype=torch.float64)
    square, wave = (
        (x[:, None] ** 2 + x**2) / 2,
        ((2 * math.pi * x).cos()[:, None] + (2 * math.pi * x).cos()) / 2,
    )
    values = -20 * (-0.2 * square.sqrt()).exp() - wave.exp() + 20 + math.e
    assert (
        "Nothing has been asked yet." in e.sentence
        and f"The smallest of 1024 values is {float(values.min()):.4g}" in e.sentence
    )
    asked.clear()
    assert e.step() and e.step()
    points = torch.cat(asked)
    seen = values[points[:, 0], points[:, 1]]
    best = tuple(points[seen.argmin()].tolist())
    assert e.sentence.endswith(
        f"After batch 2, 12 points are known, the best of them {float(seen.min()):.4g} at {best}."
    )
    assert e.state.points.tolist() == asked[-1].tolist() and len(e.state.elite) == 2
    last = seen[6:].sort().values[:2]
    assert values[e.state.elite[:, 0], e.state.elite[:, 1]].tolist() == pytest.approx(last.tolist())


@pytest.mark.thorough
def test_the_density_sums_to_one_and_gathers_at_the_optimum():
    e = lesson.LandscapePlayer()
    e.set(function="Rastrigin", batch=16, elite=3, rate=0.3)
    states = list(e.steps(**e.values))
    assert all(float(s.p.sum()) == pytest.approx(1, rel=1e-9) for s in states)
    values = lesson.landscape("Rastrigin")
    low = values <= values.flatten().kthvalue(48).values
    assert float(states[6].p[low].sum()) > 2 * float(states[0].p[low].sum())
    assert states[-1].known == 1024 and states[-1].value == float(values.min())


@pytest.mark.thorough
def test_the_marginals_are_those_of_the_draws_and_the_best_value_is_told():
    e = lesson.MarginalsPlayer()
    e.set(problem="knapsack", batch=30, elite=5, mutants=6)
    for _ in range(3):
        assert e.step()
    assert e.state.shares.shape == (4, 50) and e.state.known == 90
    settled = int(((e.state.shares[-1] < 0.05) | (e.state.shares[-1] > 0.95)).sum())
    assert f"In the last batch {settled} of 50 modes are settled" in e.sentence
    assert e.sentence.endswith(
        f"The best of 90 points is {min(e.state.history):.6g}; the best known value is -3103."
    )


@pytest.mark.thorough
def test_the_constrained_problem_draws_runs_only():
    e = lesson.MarginalsPlayer()
    e.set(problem="control, runs of 3", batch=20, elite=5, mutants=5)
    assert (
        e.step() and e.state.history[0] < 1e42 and "the best known value is 0.015896" in e.sentence
    )


def test_a_wrong_value_is_a_sentence_and_the_picture_stays():
    e = lesson.LandscapePlayer()
    picture = e.view.value
    for wrong in ("99", "abc", "2.5"):
        e.boxes["elite"].value = wrong
        assert (
            f"elite: needs a whole number in 1..20, got {wrong}" in e.status.value
            and e.view.value == picture
        )


@pytest.mark.thorough
def test_an_elite_is_never_larger_than_its_batch():
    e = lesson.LandscapePlayer()
    e.set(batch=3)
    assert e.values["elite"] == 3 and "Nothing has been asked yet." in e.sentence
    m = lesson.MarginalsPlayer()
    m.set(batch=10)
    assert m.values["elite"] == 10 and m.values["mutants"] == 10


def test_feasible_words_by_counting_and_by_a_recurrence(capsys):
    short = lambda d: sum(
        all(len(list(run)) >= 3 for bit, run in itertools.groupby(word) if bit)
        for word in itertools.product((0, 1), repeat=d)
    )
    words = [1, 1, 1, 2]  # of 0, 1, 2, 3 bits; a word ends in 0, or in a run of ones after a 0
    while len(words) <= 30:
        d = len(words)
        words.append(2 * words[d - 1] - words[d - 2] + words[d - 4])
    assert [short(d) for d in (3, 6, 9)] == [words[d] for d in (3, 6, 9)]
    assert lesson.feasible_words(words[30])
    assert all(line.startswith("Right.") for line in capsys.readouterr().out.splitlines())


def test_recorded_gaps_are_relative_to_the_reference():
    found = lesson.gaps()
    assert found["PROTES"]["P-11"] == pytest.approx(100 * (364 - 361.5) / 364)
    assert found["PROTES, printed"]["P-14"] == pytest.approx(100 * (3103 - 3079) / 3103)
    assert "P-19" not in found["TT-cross"] and len(found["random"]) == 20


def test_a_race_is_a_running_minimum_within_its_budget():
    runs = lesson.race("P-11", 200, 2)
    assert all(best.shape == (2, 200) for best in runs.values())
    assert all((best.diff() <= 0).all() and (best >= -364).all() for best in runs.values())


def test_a_race_is_drawn_at_all_numbers_of_points():
    ax = Figure().subplots()
    lesson.draw_race(ax, "P-11", {"PROTES": 2 + torch.linspace(1, 0, 3000).expand(2, -1)})
    asked = torch.as_tensor(ax.lines[0].get_xdata(), dtype=torch.float64)
    assert asked[0] == 1 and asked[-1] == 3000
    apart = (asked[1:] / asked[:-1])[asked[1:] > 50]
    assert float(apart.max()) < math.exp(0.02) * (1 + 1 / 50)  # a step, and one point more
