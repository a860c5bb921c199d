"""Every exercise of every lesson: its folded solution gets full marks, other right forms
too, and each wrong answer the hint of its own mistake.

The answers are tables, `answers/<lesson>.py`: RIGHT and WRONG, by the name of the check; a wrong
answer stands beside words of the hint that it should get.
"""

import importlib
import re
import runpy
from pathlib import Path

import pytest
from lesson_files import STEMS, Computed, asked, cells, module, solved

from tensorlab.course import furniture
from tensorlab.course.checks import Check

ANSWERS = Path(__file__).parent / "answers"
QUESTION = re.compile(r"^### \d+\. .+ \(★{1,3}, \d+ minutes?\)$", re.M)


def checks(stem):
    found = vars(importlib.import_module(f"tensorlab.course.lessons.{module(stem)}"))
    return {name: check for name, check in found.items() if isinstance(check, Check)}


def table(stem, which):
    path = ANSWERS / f"{module(stem)}.py"
    return runpy.run_path(str(path))[which] if path.exists() else {}


def rows(which):
    return [
        pytest.param(stem, name, answer, id=f"{stem}-{name}-{k}")
        for stem in STEMS
        for name, answers in table(stem, which).items()
        for k, answer in enumerate(answers)
    ]


@pytest.mark.parametrize("stem", STEMS)
def test_the_solutions_get_full_marks(stem, capsys):
    names, of = solved(stem), checks(stem)
    assert asked(stem) and {check for check, _ in asked(stem)} == of.keys()
    for check, answer in asked(stem):
        assert check == answer  # an answer has the name of its check
        assert of[check](names[answer]), (check, capsys.readouterr().out)


@pytest.mark.parametrize("stem", STEMS)
def test_each_question_has_difficulty_minutes_two_hints_and_a_solution(stem):
    every = cells(stem)
    places = [k for k, c in enumerate(every) if re.search(r"^lesson\.\w+\(\w+\)$", c.source, re.M)]
    assert places
    for k in places:
        question, _, hints, solution = every[k - 1 : k + 3]
        assert question.cell_type == "markdown" and QUESTION.search(question.source)
        assert furniture.tagged(hints, "hints") and furniture.tagged(solution, "solution")
        assert len(re.split(r"\n\s*\n", hints.source)) == 2, hints.source


@pytest.mark.parametrize("stem", [stem for stem in STEMS if stem[:2] != "00"])
def test_a_chain_of_functions_then_a_prediction_and_an_exploration(stem):
    of = checks(stem)
    functions = sum(check.function for check in of.values())
    assert functions >= 3 and len(of) - functions >= 2


@pytest.mark.parametrize("stem", [stem for stem in STEMS if stem != "00_start"])
def test_enough_answers_are_tried(stem):
    right, wrong = (sum(map(len, table(stem, w).values())) for w in ("RIGHT", "WRONG"))
    named = {*table(stem, "RIGHT"), *table(stem, "WRONG")}
    assert right >= 3 and wrong >= 4 and named <= checks(stem).keys()


def computed(answer):
    return answer.value() if isinstance(answer, Computed) else answer


@pytest.mark.parametrize("stem, name, answer", rows("RIGHT"))
def test_other_right_forms_are_accepted(stem, name, answer, capsys):
    assert checks(stem)[name](computed(answer)), capsys.readouterr().out


@pytest.mark.parametrize("stem, name, answer", rows("WRONG"))
def test_a_wrong_answer_gets_its_own_hint(stem, name, answer, capsys):
    given, hint = answer
    assert not checks(stem)[name](computed(given))
    line = capsys.readouterr().out
    assert line.startswith("Not yet: ") and hint in line


@pytest.mark.thorough
@pytest.mark.parametrize("stem", STEMS)
def test_every_hint_of_a_mistake_is_given_to_some_wrong_answer(stem, capsys):
    """By the wrong way itself, where that has the form of an answer, or by one of the table."""
    for name, check in checks(stem).items():
        answers = [
            wrong if check.function else wrong(*check.cases()[0]) for wrong, _ in check.mistakes
        ]
        for answer in [*answers, *(given for given, _ in table(stem, "WRONG").get(name, ()))]:
            assert not check(computed(answer))
        said = capsys.readouterr().out
        assert not [hint for _, hint in check.mistakes if hint not in said], name
