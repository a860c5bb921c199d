"""The commands for assignments: `tensorlab course release DIR` makes a course of nbgrader and what
students get, `mark DIR` marks what they hand in, `check FILE` is for a student before that.

DIR/source      assignments with solutions            DIR/release     what students get
DIR/submitted   STUDENT/psN/<name>.ipynb, handed in   DIR/marks.csv   a row for each submission
DIR/feedback    pages for students                    DIR/written     one PDF each, to be read
DIR/written.csv points and comments for pictures and words, filled in by hand, for the next `mark`
"""

import contextlib
import csv
import hashlib
import multiprocessing
import os
import shutil
import signal
import sys
import sysconfig
import tempfile
import threading
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

import nbformat

from .. import extras
from ..files import replaced
from . import furniture, lab

MARKS = ("assignment student status machine machine_of written written_of total submitted").split()
WRITTEN = "assignment student cell of points comment".split()
CONFIG = """\
# For nbgrader's own commands in this folder; further settings go below.
from tensorlab.course.grading import settings

c = get_config()  # noqa: F821
c.merge(settings(folder=__file__.rpartition("/")[0]))
"""


@dataclass(frozen=True)
class Limits:
    """What students' code may take. seconds: a cell. minutes: a submission. memory: GiB.
    isolated: whether the network is cut, and the course's folder hidden."""

    isolated: bool = True
    seconds: int = 30
    minutes: float = 10.0
    memory: float = 4.0


def _grading():
    extras.require("course", "nbgrader")
    from . import grading

    return grading


def _api(folder: Path, limits: Limits = Limits()):
    """nbgrader on a course's folder; it says nothing but errors."""
    grading = _grading()
    from nbgrader.apps import NbGraderAPI

    warnings.simplefilter("ignore")
    scripts = sysconfig.get_path("scripts")  # nbgrader calls alembic by its name
    if scripts not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] = scripts + os.pathsep + os.environ["PATH"]
    config = grading.settings(
        folder=folder, isolated=limits.isolated, memory=limits.memory, seconds=limits.seconds
    )
    config.CourseDirectory.root = str(folder.resolve())
    config.NbGraderAPI.log_level = "ERROR"
    api = NbGraderAPI(config=config)
    api.log.handlers, api.log.propagate = [], False  # it goes into what the calls return
    return api


def _why(done: dict) -> str:
    """The last line of what nbgrader says about a failure."""
    return _last(done.get("log") or done.get("error") or "") or "no reason given"


# ------------------------------------------------------------------------------------------ release


def sources() -> dict[str, Path]:
    """The assignments of this checkout by number, "ps1"."""
    found = sorted((lab.notebooks() / "assignments").glob("ps[0-9]*_*.ipynb"))
    return {path.name.split("_")[0]: path for path in found}


def release(folder: Path, names=()) -> list[Path]:
    """Make the course, and the notebooks that students get; those of some assignments, or of all.

    Raises ValueError for an unknown assignment, or where nbgrader refuses one.
    """
    known = sources()
    if strange := [name for name in names if name not in known]:
        raise ValueError(f"course release: needs some of {', '.join(known)}, got {strange[0]}")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "nbgrader_config.py").exists():
        with replaced(folder / "nbgrader_config.py") as part:
            part.write_text(CONFIG, encoding="utf-8")
    api, made = _api(folder), []
    for name in names or known:
        (folder / "source" / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(known[name], folder / "source" / name)
        done = api.generate_assignment(name, force=True, create=True)
        if not done["success"]:
            raise ValueError(f"course release: {name} was refused by nbgrader: {_why(done)}")
        made.append(folder / "release" / name / known[name].name)
    return made


# --------------------------------------------------------------------------------------------- mark


def mark(
    folder: Path, limits: Limits = Limits(), *, workers: int = 2, again: bool = False
) -> list[dict]:
    """Mark what has been handed in and is not marked yet, and return the rows of marks.csv.

    Each submission is marked in a separate process, and written to marks.csv when it is done: a
    marker that was killed goes on where it was. again: mark also what is marked already.
    Raises ValueError where there is nothing to mark, or where students' code cannot be isolated.
    """
    jobs = submissions(folder)
    if not jobs:
        raise ValueError(f"course mark: needs {folder}/submitted/STUDENT/psN/, got no submission")
    if limits.isolated:
        _check_isolation(folder)
    rows = {} if again else _kept(folder, jobs)
    _take_written(folder, limits, rows)
    todo = [job for job in jobs if job not in rows]
    with tempfile.TemporaryDirectory(prefix="tl-") as runtime:  # paths of sockets must be short
        os.environ["JUPYTER_RUNTIME_DIR"] = runtime
        for k, (job, row, took) in enumerate(_in_parallel(folder, todo, limits, workers), 1):
            rows[job] = row | {"submitted": jobs[job]}
            _save(folder, rows)
            _tell(k, len(todo), rows[job], took)
    return [rows[job] for job in sorted(rows)]


def _check_isolation(folder: Path) -> None:
    """Refuses what `Kernel` could not keep students' code away from."""
    if not _grading().can_cut():
        raise ValueError(
            "course mark: needs `unshare`, `mount`, `setpriv` and `ip` to take network and files "
            "from students' code, and this machine lacks or refuses them; --no-isolation marks "
            "without"
        )
    for path in (Path(sys.prefix), Path(__file__), Path(tempfile.gettempdir())):
        if path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(
                f"course mark: needs a folder for the course alone, since students' code does not "
                f"see what is in it, got {folder} with {path}"
            )


def submissions(folder: Path) -> dict[tuple[str, str], str]:
    """What was handed in: by assignment and student, a digest of the files."""
    found = {}
    for path in sorted(folder.glob("submitted/*/*")):
        if files := sorted(path.glob("*.ipynb")):
            digest = hashlib.sha256(b"".join(file.read_bytes() for file in files))
            found[path.name, path.parent.name] = digest.hexdigest()[:16]
    return found


def _table(path: Path) -> list[dict]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write(path: Path, fields, rows) -> None:
    with replaced(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fields, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def _kept(folder: Path, jobs) -> dict:
    """Rows of submissions that were marked and have not changed since."""
    rows = {(row["assignment"], row["student"]): row for row in _table(folder / "marks.csv")}
    return {job: row for job, row in rows.items() if jobs.get(job) == row["submitted"]}


def _save(folder: Path, rows) -> None:
    """marks.csv, and written.csv with a line for each answer that waits for a person."""
    _write(folder / "marks.csv", MARKS, [rows[job] for job in sorted(rows)])
    old = {(r["assignment"], r["student"], r["cell"]): r for r in _table(folder / "written.csv")}
    for row in rows.values():
        for cell in row.get("cells", ()):
            old.setdefault((row["assignment"], row["student"], cell["cell"]), row | cell)
    _write(folder / "written.csv", WRITTEN, [old[key] for key in sorted(old)])


def _tell(k: int, total: int, row: dict, took: float) -> None:
    bar = "#" * (20 * k // total)
    what = f"{row['assignment']} {row['student']:20} {row['machine']:>5} of {row['machine_of']}"
    print(f"[{bar:20}] {k:3}/{total}  {what}  {took:5.1f} s  {row['status']}", flush=True)


def _in_parallel(folder: Path, todo, limits: Limits, workers: int):
    """(job, row, seconds) as submissions are done; one that takes too long is stopped."""
    _grading()  # imported once, before the processes part
    context, waiting, running = multiprocessing.get_context("fork"), list(todo), {}
    while waiting or running:
        while waiting and len(running) < workers:
            job = waiting.pop(0)
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_child, args=(folder, *job, limits, theirs, os.getpid())
            )
            process.start()
            theirs.close()
            running[job] = process, ours, time.monotonic()
        time.sleep(0.05)
        for job, (process, pipe, start) in list(running.items()):
            took = time.monotonic() - start
            late = took > 60 * limits.minutes
            if process.is_alive() and not pipe.poll() and not late:
                continue
            status = "out of time" if late else "crashed"
            row = _received(pipe, late) or _failed(folder, job, status)
            if process.is_alive():  # it leads a group; its kernel ends with it
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
            del running[job]
            yield job, row, took


def _received(pipe, late: bool) -> dict | None:
    with contextlib.suppress(EOFError):
        return None if late and not pipe.poll() else pipe.recv()


def _follow(marker: int) -> None:
    """End this process and its group when the marker has gone: the next one marks this again."""
    while os.getppid() == marker:
        time.sleep(0.1)
    os.killpg(0, signal.SIGKILL)


def _child(
    folder: Path,
    assignment: str,
    student: str,
    limits: Limits,
    pipe,
    marker: int,
) -> None:
    """Mark one submission, and send its row; what is printed goes to a log."""
    os.setsid()
    threading.Thread(target=_follow, args=(marker,), daemon=True).start()
    # A job in the background ignores it; kernels need it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = folder / "logs" / f"{assignment}-{student}.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("w", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        api = _api(folder, limits)
        done = api.autograde(assignment, student, force=True, create=True)
        print(done.get("log", ""), done.get("error", ""), flush=True)
        if done["success"]:
            row = _row(api, assignment, student)
            try:
                _pages(api, folder, assignment, student)
            except Exception as error:  # the marks are right all the same, and the row says it
                traceback.print_exc()
                row["status"] += f", no page ({type(error).__name__})"
        else:
            row = _failed(folder, (assignment, student), "crashed")
        pipe.send(row)
    os._exit(0)


def _row(api, assignment: str, student: str) -> dict:
    """What the gradebook holds of a submission."""
    with api.gradebook as book:
        grades = [
            (grade.name, grade.auto_score, grade.manual_score, grade.max_score, grade.cell)
            for notebook in book.find_submission(assignment, student).notebooks
            for grade in notebook.grades
        ]
        solutions = {
            c.name for n in book.find_assignment(assignment).notebooks for c in n.solution_cells
        }
    machine = [g for g in grades if g[0] not in solutions]
    hand = [g for g in grades if g[0] in solutions]
    mine = sum(g[1] or 0 for g in machine)
    waits = any(g[1] is None and g[2] is None for g in hand)
    read = sum((g[1] if g[2] is None else g[2]) or 0 for g in hand)
    return {
        "assignment": assignment,
        "student": student,
        "status": "to be read" if waits else "marked",
        "machine": _number(mine),
        "machine_of": _number(sum(g[3] for g in machine)),
        "written": "" if waits else _number(read),
        "written_of": _number(sum(g[3] for g in hand)),
        "total": "" if waits else _number(mine + read),
        "cells": [
            {"cell": name, "of": _number(most), "points": "", "comment": ""}
            for name, auto, manual, most, _ in hand
            if auto is None
        ],
    }


def _failed(folder: Path, job, status: str) -> dict:
    """The row of a submission that could not be run to its end."""
    assignment, student = job
    source = next((folder / "source" / assignment).glob("*.ipynb"), None)
    if source is None:
        graded, status = [], "no such assignment"
    else:
        graded = furniture.graded(nbformat.read(source, as_version=4).cells)
        if not (folder / "submitted" / student / assignment / source.name).exists():
            status = f"needs the file {source.name}"
    points = lambda hand: _number(sum(m["points"] for m in graded if m["solution"] == hand))
    row = [assignment, student, status, "0", points(False), "0", points(True), "0"]
    return dict(zip(MARKS, row))


def _number(value: float) -> str:
    return f"{round(value, 2):g}"


def _pages(api, folder: Path, assignment: str, student: str) -> None:
    """The feedback page, and the written answers as PDF where there is a browser."""
    grading = _grading()
    done = api.generate_feedback(assignment, student, force=True)
    print(done.get("log", ""), flush=True)
    if grading.browser_path() is None:
        return
    path = next((folder / "autograded" / student / assignment).glob("*.ipynb"))
    notebook = grading.written(nbformat.read(path, as_version=4))
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell(f"# {assignment}, {student}"))
    body, _ = grading.Pdf().from_notebook_node(notebook)
    target = folder / "written" / assignment / f"{student}.pdf"
    target.parent.mkdir(parents=True, exist_ok=True)
    with replaced(target) as part:
        part.write_bytes(body)


def _take_written(folder: Path, limits: Limits, rows) -> None:
    """Put the points and comments of written.csv into the gradebook, and make the pages anew."""
    given = [row for row in _table(folder / "written.csv") if row["points"].strip()]
    api = _api(folder, limits)
    for job in sorted({(row["assignment"], row["student"]) for row in given} & rows.keys()):
        before = rows[job]
        with api.gradebook as book:
            notebook = book.find_submission(*job).notebooks[0].name
            for row in given:
                if (row["assignment"], row["student"]) == job:
                    _enter(book, notebook, row)
        row = _row(api, *job) | {"submitted": before["submitted"]}
        if {k: before[k] for k in MARKS} != {k: row[k] for k in MARKS}:
            api.generate_feedback(*job, force=True)
        rows[job] = row
    if rows:
        _save(folder, rows)


def _enter(book, notebook: str, row: dict) -> None:
    """One line of written.csv.

    Raises ValueError where the points are no number from 0 to the most that there are.
    """
    where = (row["cell"], notebook, row["assignment"], row["student"])
    try:
        points = float(row["points"])
    except ValueError:
        points = -1.0
    if not 0 <= points <= float(row["of"]):
        raise ValueError(
            f"course mark: written.csv needs points from 0 to {row['of']} for {row['student']} "
            f"{row['cell']}, got {row['points']}"
        )
    grade, comment = book.find_grade(*where), book.find_comment(*where)
    grade.manual_score, grade.needs_manual_grade = points, False
    comment.manual_comment = row["comment"]
    book.db.commit()


# -------------------------------------------------------------------------------------------- check


def check(path: Path, seconds: int = 60) -> list[str]:
    """What a student should mend before handing in; nothing when the notebook is ready.

    It runs the notebook and the tests that it shows. Hidden tests are not in it.
    """
    _grading()
    from nbgrader.validator import Validator
    from traitlets.config import Config

    if not path.is_file():
        raise FileNotFoundError(f"course check: needs a notebook, got {path}")
    notebook = nbformat.read(path, as_version=4)
    form = notebook.metadata.get("tensorlab")
    if form is None:
        raise ValueError(f"course check: needs an assignment as it was handed out, got {path}")
    here = [c.metadata.get("nbgrader", {}).get("grade_id") for c in notebook.cells]
    faults = [f"the cell {name} is missing" for name in form["cells"] if name not in here]
    faults += [f"the cell {name} is there twice" for name in form["cells"] if here.count(name) > 1]
    if path.name != form["file"]:
        faults.append(f"the file should be named {form['file']}")
    faults += [f"the answer {name} is still blank" for name in _blank(notebook)]
    warnings.simplefilter("ignore")
    config = Config()
    config.Execute.timeout = seconds
    found = Validator(config=config).validate(str(path.resolve()))
    for kind, said in (("type_changed", "changed its type"), ("changed", "was changed")):
        faults += [f"a test cell {said}: {_first(c['source'])}" for c in found.get(kind, ())]
    for cell in found.get("failed", ()):
        faults.append(f"a test fails: {_first(cell['source'])}\n    {_last(cell['raw_error'])}")
    return faults


def _blank(notebook) -> list[str]:
    """Answers for a person to read that are as they were handed out."""
    from nbgrader.utils import determine_grade, is_grade, is_solution

    hand = [c for c in notebook.cells if is_grade(c) and is_solution(c)]
    return [c.metadata.nbgrader.grade_id for c in hand if determine_grade(c)[0] == 0]


def _first(source: str) -> str:
    return next((line for line in source.splitlines() if line.strip()), "")


def _last(error: str) -> str:
    return next((line for line in reversed(error.splitlines()) if line.strip()), "")


def report_check(path: Path) -> None:
    """Print what `check` finds; exit status 1 when there is something."""
    faults = check(path)
    print(*faults, sep="\n") if faults else print(f"{path.name} is ready to be handed in")
    sys.exit(bool(faults))
