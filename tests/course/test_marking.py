"""Every assignment: its solution earns all that a machine can give, an untouched release nothing, a
wrong submission exactly what is listed, and a mutant of the solution loses points.

Wrong submissions are tables, `submissions/<stem>.py`: WRONG, by name, and EQUIVALENT, the mutants
that change nothing, each with the reason.
"""

import json
import re

import nbformat
import pytest
from marking import STEMS, Wrong, by_machine, grade_id, handed_in, marks, released, source, table
from mutants import mutants

ALWAYS = {"tampered tests", "deleted test cell"}
USUAL = {
    "off by a transpose",
    "right shape, wrong matrix",
    "ignores rtol",
    "mutates its input",
    "hard-coded answer to the visible test",
    "reads the network",
}
REGION = re.compile(
    r"### BEGIN (?:SOLUTION|HIDDEN TESTS)\n.*?### END (?:SOLUTION|HIDDEN TESTS)", re.S
)
PART = re.compile(r"^## .*\((\d+) points, (\d+) minutes\)$", re.M)


def solved(stem):
    return handed_in(stem, Wrong({}))


def rows():
    return [
        pytest.param(stem, wrong, id=f"{stem}-{name}")
        for stem in STEMS
        for name, wrong in table(stem)["WRONG"].items()
    ]


def changed(stem):
    """Mutants of all functions that a machine marks: what is said of each, its cell, the text. A
    number or a tensor that is asked for is marked as such, however it was found."""
    return [
        (f"{grade_id(cell)}, {said}", grade_id(cell), text)
        for cell in source(stem).cells
        if cell.cell_type == "code" and "### BEGIN SOLUTION" in cell.source
        if "points" not in cell.metadata.nbgrader and re.search(r"^def ", cell.source, re.M)
        for said, text in mutants(cell.source)
    ]


def survivors(stem, some):
    """The mutants that lose no points."""
    return [said for said, name, text in some if survives(stem, name, Wrong({name: text}))]


def survives(stem, name, wrong):
    """Whether a submission loses nothing from the cell of this name on."""
    full = by_machine(source(stem))
    got = marks(stem, handed_in(stem, wrong), pictures=False, whole=False, since=name)
    return all(got[test] == full[test] for test in got)


# ----------------------------------------------------------------------------------------- the form


@pytest.mark.parametrize("stem", STEMS)
def test_points_minutes_pictures_and_words(stem):
    cells = source(stem).cells
    graded = [c for c in cells if c.metadata.get("nbgrader", {}).get("grade")]
    assert sum(c.metadata.nbgrader["points"] for c in graded) == 100 and 10 <= len(graded) <= 15
    by_hand = [c.cell_type for c in graded if c.metadata.nbgrader["solution"]]
    assert by_hand.count("code") >= 1 and by_hand.count("markdown") >= 2
    names = [grade_id(c) for c in cells if grade_id(c)]
    assert len(set(names)) == len(names)
    text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    assert "You will be able to" in text and "<details>" in text
    assert sum("### BEGIN HIDDEN TESTS" in c.source for c in graded) >= 5
    assert sum(bool(re.search(r"^check\.\w+\(\w+\)", c.source, re.M)) for c in cells) >= 3
    minutes = int(re.search(r"about (\d+) minutes", text)[1])
    assert 90 <= minutes <= 180


@pytest.mark.parametrize("stem", STEMS)
def test_headings_say_the_points_of_their_parts(stem):
    parts, points = [], []
    for cell in source(stem).cells:
        if found := PART.search(cell.source):
            parts.append(tuple(map(int, found.groups())))
            points.append(0)
        points[-1:] = (
            [points[-1] + cell.metadata.get("nbgrader", {}).get("points", 0)] if points else []
        )
    assert [p for p, _ in parts] == points
    text = source(stem).cells[0].source
    assert sum(m for _, m in parts) == int(re.search(r"about (\d+) minutes", text)[1])


@pytest.mark.parametrize("stem", STEMS)
def test_the_release_holds_no_solution_and_no_hidden_test(stem):
    text, regions = nbformat.writes(released(stem)), []
    assert "SOLUTION" not in text and "HIDDEN" not in text
    shown = "\n".join(cell.source for cell in source(stem).cells)
    for region in REGION.findall(shown):
        shown = shown.replace(region, "")
        regions.append(region)
    lines = {line.strip() for region in regions for line in region.splitlines()}
    secret = {line for line in lines if line not in shown}
    assert len(secret) > 40 and not [line for line in secret if json.dumps(line)[1:-1] in text]
    written = [c for c in source(stem).cells if c.cell_type == "markdown" and grade_id(c)]
    assert written and not [c for c in written if json.dumps(c.source[:40])[1:-1] in text]


# ---------------------------------------------------------------------------------------- the marks


@pytest.mark.parametrize("stem", STEMS)
def test_the_solution_gets_all_marks_of_the_machine(stem):
    assert marks(stem, solved(stem)) == by_machine(source(stem))


@pytest.mark.thorough
@pytest.mark.parametrize("stem", STEMS)
def test_marks_depend_on_no_seed_and_no_number_of_threads(stem):
    got = marks(stem, solved(stem), seed=7, threads=2, pictures=False)
    assert got == by_machine(source(stem))


@pytest.mark.slow
@pytest.mark.parametrize("stem, wrong", rows())
def test_what_is_lost_depends_on_no_seed_and_no_number_of_threads(stem, wrong):
    full = by_machine(source(stem))
    got = marks(stem, handed_in(stem, wrong), seed=7, threads=2, pictures=False)
    assert {k: full[k] - got[k] for k in full if got[k] != full[k]} == wrong.lost


@pytest.mark.parametrize("stem", STEMS)
def test_an_untouched_release_gets_nothing(stem):
    assert not any(marks(stem, released(stem)).values())


@pytest.mark.parametrize("stem", STEMS)
def test_enough_wrong_submissions_are_listed(stem):
    names = table(stem)["WRONG"].keys()
    assert names >= ALWAYS and len(names & USUAL) >= 4


@pytest.mark.parametrize("stem, wrong", rows())
def test_a_wrong_submission_loses_exactly_its_points(stem, wrong):
    full = by_machine(source(stem))
    assert wrong.lost
    got = marks(stem, handed_in(stem, wrong), pictures=False)
    assert {k: full[k] - got[k] for k in full if got[k] != full[k]} == wrong.lost


@pytest.mark.thorough
@pytest.mark.parametrize("stem", STEMS)
def test_no_test_needs_the_tests_before_it(stem):
    names = dict.fromkeys(name for _, name, _ in changed(stem))
    assert names and all(survives(stem, name, Wrong({})) for name in names)


@pytest.mark.thorough
@pytest.mark.parametrize("stem", STEMS)
def test_some_mutants_lose_points(stem):
    some = [m for m in changed(stem) if m[0] not in table(stem)["EQUIVALENT"]]
    assert not survivors(stem, some[:: len(some) // 3])


@pytest.mark.slow
@pytest.mark.parametrize("stem", STEMS)
def test_all_mutants_lose_points(stem):
    every = changed(stem)
    assert len(every) >= 30
    left = set(survivors(stem, every))
    assert not sorted(left ^ table(stem)["EQUIVALENT"].keys())
