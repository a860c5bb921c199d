"""Assignments as nbgrader sees them, marked without a kernel: the tests are put back into what a
student hands in, its cells run in a process, and the points follow nbgrader's rule.

`tests/course/test_marking.py` compares these marks with those of nbgrader itself.
"""

import copy
import functools
import multiprocessing
import runpy
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import marking_child
import nbformat

FOLDER = Path(__file__).parents[1] / "notebooks" / "assignments"
TABLES = Path(__file__).parent / "course" / "submissions"
STEMS = sorted(path.stem for path in FOLDER.glob("ps[0-9]*_*.py"))


def source(stem: str) -> nbformat.NotebookNode:
    """An assignment with its solutions and hidden tests."""
    return nbformat.read(FOLDER / f"{stem}.ipynb", as_version=4)


def table(stem: str) -> dict:
    """WRONG and EQUIVALENT of an assignment: see `tests/course/test_marking.py`."""
    return runpy.run_path(str(TABLES / f"{stem}.py"))


def grade_id(cell) -> str | None:
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def of(notebook, name: str):
    """The cell with this grade_id."""
    return next(cell for cell in notebook.cells if grade_id(cell) == name)


def by_machine(notebook) -> dict[str, float]:
    """The points of each cell that is marked without a person."""
    marks = {grade_id(c): c.metadata.nbgrader for c in notebook.cells if grade_id(c)}
    return {k: m["points"] for k, m in marks.items() if m["grade"] and not m["solution"]}


def released(stem: str):
    """What students get."""
    from nbgrader.preprocessors import ClearHiddenTests, ClearSolutions

    from tensorlab.course.grading import settings

    notebook = source(stem)
    for step in (ClearSolutions, ClearHiddenTests):
        notebook, _ = step(config=settings()).preprocess(notebook, {})
    return notebook


# ------------------------------------------------------------------------------------- submissions


@dataclass(frozen=True)
class Wrong:
    """A submission that is the solution but for some edits, and the points that it must lose.

    edits: by grade_id, (old, new) for a piece of the cell that occurs once, text for a whole new
    cell, None for a cell that was deleted. lost: points by grade_id.
    """

    edits: dict
    lost: dict[str, float] = field(default_factory=dict)


def handed_in(stem: str, wrong: Wrong):
    """The notebook that a student hands in: answers in the release, then the edits."""
    notebook, solved = released(stem), source(stem)
    for cell in notebook.cells:
        if grade_id(cell) and cell.metadata.nbgrader["solution"]:
            cell.source = of(solved, grade_id(cell)).source
    for name, edit in wrong.edits.items():
        cell = of(notebook, name)
        if edit is None:
            notebook.cells.remove(cell)
        elif isinstance(edit, str):
            cell.source = edit
        else:
            assert cell.source.count(edit[0]) == 1, (name, edit[0])
            cell.source = cell.source.replace(*edit)
    return notebook


def put_back(stem: str, notebook):
    """The notebook with every locked cell as it was, as nbgrader does before it marks."""
    notebook, original = copy.deepcopy(notebook), source(stem)
    locked = {grade_id(c) for c in original.cells if grade_id(c) and c.metadata.nbgrader["locked"]}
    for cell in notebook.cells:
        if grade_id(cell) in locked:
            cell.source = of(original, grade_id(cell)).source
    return notebook


# ----------------------------------------------------------------------------------------- marking


def marks(
    stem: str,
    notebook,
    *,
    pictures: bool = True,
    whole: bool = True,
    since: str | None = None,
    seed: int = 0,
    threads: int = 1,
) -> dict:
    """Points by grade_id for a notebook as it was handed in; 0 for a cell that is missing.

    pictures: whether the code cells that a person marks are run too. whole: whether what follows
    the first test that fails is run. since: a cell before which no test is run, nor marked.
    """
    from nbgrader.utils import determine_grade

    from tensorlab.course.grading import given, is_test

    full = by_machine(source(stem))
    cells = [c for c in put_back(stem, notebook).cells if c.cell_type == "code"]
    if since is not None:
        at = [grade_id(c) for c in cells].index(since)
        skipped = {grade_id(c) for c in cells[:at] if is_test(c)}
        cells = [c for c in cells if grade_id(c) not in skipped]
        full = {name: points for name, points in full.items() if name not in skipped}
    helpers = {k: given(cells[:k]) for k, c in enumerate(cells) if is_test(c)}
    for k, text in helpers.items():
        cells[k].source = f"{text}\n{cells[k].source}"
    if not pictures:
        cells = [
            c
            for c in cells
            if not ("points" in c.metadata.get("nbgrader", {}) and c.metadata.nbgrader["solution"])
        ]
    got = dict.fromkeys(full, 0.0)
    last = () if whole else tuple(helpers)
    for cell, outputs in zip(cells, run([c.source for c in cells], seed, threads, last)):
        if grade_id(cell) in full:
            got[grade_id(cell)] = determine_grade(nbformat.from_dict(cell | {"outputs": outputs}))[
                0
            ]
    return got


def run(sources: list[str], seed: int, threads: int, last=()) -> list[list]:
    """The outputs that count, cell by cell, as far as the process came.

    last: numbers of cells, the first of which that fails is the last one to be run.
    """
    server = _server()
    server.send((sources, seed, threads, last))
    return list(iter(server.recv, None))


@functools.cache
def _server():
    """A process that has imported everything and forks for each submission; it ends with ours."""
    ours, theirs = multiprocessing.Pipe()
    program = [sys.executable, marking_child.__file__, str(theirs.fileno())]
    subprocess.Popen(program, pass_fds=[theirs.fileno()])
    theirs.close()
    return ours
