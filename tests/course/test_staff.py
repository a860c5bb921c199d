"""The commands for assignments, with nbgrader itself: what is handed out, marked, shown and
checked.
One student does all kinds of mischief, another hands in the same but for the endless loop, the only
one of the ordinary run, and the kernel of a third dies.
"""

import contextlib
import csv
import functools
import html
import http.server
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest
from marking import STEMS, Wrong, by_machine, handed_in, marks, of, released, source, table

from tensorlab.__main__ import main
from tensorlab.course import grading, staff

STEM = "ps1_lowrank"
LIMITS = staff.Limits(isolated=grading.can_cut(), seconds=15, minutes=4)
LOOP = "while True:\n    pass"
SPY = """import os
import pathlib

course = pathlib.Path({course!r})
found = [p for folder in (pathlib.Path(), course) for p in folder.rglob("*") if p.is_file()]
(course / "note.txt").write_text("I was here")
undone = [os.system(f"{{cut}}umount {{course}}") == 0 for cut in ("", "unshare -rm ")]
print("files", len(found), undone)


"""
PEEP = "import warnings\n\nwarnings.warn('to stderr')\nprint(globals().get('In'))\n"
pytestmark = [
    pytest.mark.xdist_group("staff"),  # one course for all tests
    pytest.mark.thorough,
]


@pytest.fixture(scope="module")
def server():
    """A server on this machine; it gives the addresses that were asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *arguments): ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}/", asked
        serving.shutdown()


def mischief(address, spy="", pair="raise TimeoutError"):
    """Tests tampered with or deleted, an endless loop, the network, and a look at tests and files.

    spy: what looks at files. pair: what stands in the place of the loop.
    """
    read = f"import urllib.request\n    return float(urllib.request.urlopen('{address}').read())"
    edits = {
        "truncate": ("> rtol * s.norm()", "> 1e-12 * s.norm()"),
        "truncate-smallest": "pass",
        "lost-row": ("def lost_row", f"{spy}def alone(*case, most=None): ...\n\n\ndef lost_row"),
        "als-finds": None,
        "pair": pair,
        "distance": ("return (3 / n**2 + 1 / n**4) ** 0.5", read),
        "best-n": PEEP + "best_n = 1000",
    }
    return Wrong(edits)


def hand_in(course, student, notebook):
    folder = course / "submitted" / student / "ps1"
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / f"{STEM}.ipynb")


@pytest.fixture(scope="module")
def course(tmp_path_factory, server):
    folder = tmp_path_factory.mktemp("course")
    staff.release(folder)
    hand_in(folder, "aaron", handed_in(STEM, mischief(server[0])))
    spy = SPY.format(course=str(folder))
    hand_in(folder, "mallory", handed_in(STEM, mischief(server[0], spy, LOOP)))
    for name in (f"submitted/misnamed/ps1/my {STEM}.ipynb", f"submitted/lost/ps01/{STEM}.ipynb"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(nbformat.writes(handed_in(STEM, Wrong({}))))
    hand_in(folder, "crash", handed_in(STEM, Wrong({"pair": "import os\n\nos._exit(1)"})))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a job in the background
    staff.mark(folder, LIMITS)
    signal.signal(signal.SIGINT, before)
    return folder


def rows(course, name="marks.csv"):
    with (course / name).open(newline="") as file:
        return list(csv.DictReader(file))


def row(course, student):
    return next(r for r in rows(course) if r["student"] == student)


def test_what_is_released(course):
    made = {path.stem for path in course.glob("release/*/*.ipynb")}
    assert made == set(STEMS)
    for stem in STEMS:
        given = nbformat.read(course / "release" / stem.split("_")[0] / f"{stem}.ipynb", 4)
        assert [c.source for c in given.cells] == [c.source for c in released(stem).cells]


def test_the_release_runs_to_its_first_stub_and_says_what_to_do(course):
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    given = nbformat.read(course / "release" / "ps1" / f"{STEM}.ipynb", 4)
    with pytest.raises(CellExecutionError, match="your turn: put your code in place of this line"):
        NotebookClient(given, timeout=60, kernel_name="python3").execute()
    reached = next(c for c in given.cells if c.cell_type == "code" and "error" in str(c.outputs))
    assert reached.metadata.nbgrader.grade_id == "truncate-error"


@pytest.mark.parametrize("student", ["aaron", "mallory"])  # the first and the last one
def test_marks_of_nbgrader_are_those_of_the_harness(course, server, student):
    wanted = marks(STEM, handed_in(STEM, mischief(server[0])), pictures=False)
    with staff._api(course).gradebook as book:
        found = {
            grade.name: grade.auto_score
            for grade in book.find_submission("ps1", student).notebooks[0].grades
            if grade.name in wanted
        }
    assert {name: score or 0.0 for name, score in found.items()} == wanted
    assert float(row(course, student)["machine"]) == sum(wanted.values())
    lost = sum(by_machine(source(STEM)).values()) - sum(wanted.values())
    assert lost == 8 + 7 + 7 + 9  # truncate-smallest, als-finds, pair-near, distance-exact


def test_the_network_is_cut(course, server):
    assert (server[1] == []) == LIMITS.isolated


def test_a_students_code_does_not_see_the_course(course):
    page = (course / "feedback" / "mallory" / "ps1" / f"{STEM}.html").read_text()
    assert ("files 0 [False, False]" in page) == LIMITS.isolated
    assert (course / "note.txt").exists() != LIMITS.isolated


def test_a_crash_stops_nobody_and_is_told(course):
    assert row(course, "crash")["status"].startswith("crashed")
    assert row(course, "crash")["total"] == "0"
    assert row(course, "mallory")["status"] == "to be read"


def test_what_has_a_wrong_name_stops_nobody_and_is_told(course):
    assert row(course, "misnamed")["status"] == f"needs the file {STEM}.ipynb"
    assert row(course, "lost")["status"] == "no such assignment"


def test_feedback_shows_no_hidden_test(course):
    page = (course / "feedback" / "mallory" / "ps1" / f"{STEM}.html").read_text()
    text = html.unescape(re.sub(r"<[^>]+>", "", page))
    shown = "\n".join(c.source for c in released(STEM).cells)
    shown += "\n".join(c.source for c in handed_in(STEM, Wrong({})).cells)
    hidden = [
        line.strip()
        for cell in source(STEM).cells
        for block in re.findall(r"### BEGIN HIDDEN.*?### END HIDDEN TESTS", cell.source, re.S)
        for line in block.splitlines()
        if line.strip() not in shown
    ]
    assert len(hidden) > 20 and "HIDDEN TESTS" not in page
    assert not [line for line in hidden if line[:40] in text or line in page]
    assert "a test of this cell failed" in text


def test_written_answers_come_as_pdf(course, chromium):
    made = course / "written" / "ps1" / "mallory.pdf"
    assert made.read_bytes().startswith(b"%PDF") and made.stat().st_size > 10_000


def test_a_second_run_marks_nothing_and_takes_points_for_words(course):
    before, start = rows(course), time.monotonic()
    staff.mark(course, LIMITS)
    assert rows(course) == before and time.monotonic() - start < 20
    table = rows(course, "written.csv")
    mine = [r for r in table if r["student"] == "mallory"]
    assert sum(float(r["of"]) for r in mine) == 25 and not any(r["points"] for r in mine)
    for line in mine:
        line["points"], line["comment"] = "5", "half of it"
    staff._write(course / "written.csv", staff.WRITTEN, table)
    staff.mark(course, LIMITS)
    after = row(course, "mallory")
    assert after["status"] == "marked" and after["written"] == str(5 * len(mine))
    assert float(after["total"]) == float(after["machine"]) + float(after["written"])
    assert "half of it" in (course / "feedback" / "mallory" / "ps1" / f"{STEM}.html").read_text()
    mine[0]["points"] = "50"
    staff._write(course / "written.csv", staff.WRITTEN, table)
    with pytest.raises(ValueError, match="written.csv needs points from 0 to"):
        staff.mark(course, LIMITS)


def test_without_isolation_only_when_told(course, monkeypatch):
    monkeypatch.setattr(grading, "can_cut", lambda: False)
    with pytest.raises(ValueError, match="--no-isolation"):
        staff.mark(course)


def test_a_course_around_the_environment_is_refused():
    with pytest.raises(ValueError, match="needs a folder for the course alone"):
        staff._check_isolation(Path(sys.prefix).parent)


@pytest.mark.parametrize("call", [lambda d: staff.mark(d), lambda d: staff.release(d, ["ps99"])])
def test_refusals(tmp_path, call):
    with pytest.raises(ValueError, match="needs"):
        call(tmp_path)


def test_the_command(tmp_path):
    with pytest.raises(SystemExit, match="tensorlab course release: needs some of ps1, .*got ps99"):
        main(["course", "release", str(tmp_path), "ps99"])
    with pytest.raises(SystemExit, match="tensorlab course check: needs a notebook, got"):
        main(["course", "check", str(tmp_path / "none.ipynb")])


# -------------------------------------------------------------------------------------------- check


def test_a_notebook_that_is_ready(tmp_path):
    notebook = handed_in(
        STEM, Wrong({"picture-words": "Three curves.", "lost-row-words": "A bound."})
    )
    nbformat.write(notebook, tmp_path / f"{STEM}.ipynb")
    assert staff.check(tmp_path / f"{STEM}.ipynb") == []


def test_what_a_student_is_told(tmp_path, monkeypatch):
    notebook = released(STEM)
    notebook.cells.remove(of(notebook, "als-finds"))
    nbformat.write(notebook, tmp_path / "mine.ipynb")
    asked = functools.partial(dict, failed=[{"source": "x = 1", "raw_error": "no\nValueError: x"}])
    monkeypatch.setattr("nbgrader.validator.Validator.validate", lambda *_: asked())
    said = staff.check(tmp_path / "mine.ipynb")
    assert "the cell als-finds is missing" in said
    assert f"the file should be named {STEM}.ipynb" in said
    assert "a test fails: x = 1\n    ValueError: x" in said


# ------------------------------------------------------------------------------------------- killed


def marker(folder):
    """The command that marks, in a process."""
    command = [sys.executable, "-m", "tensorlab", "course", "mark", str(folder)]
    command += [] if LIMITS.isolated else ["--no-isolation"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def until(holds, seconds):
    """Wait for it."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.2)


def running(*words):
    """Processes with one of these in their command."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ").decode()
            found += [line] * any(word in line for word in words)
    return found


def test_nothing_outlives_a_marker_that_is_killed(tmp_path):
    """Another marker may begin at once: the first one's submissions do not go on beside it."""
    staff.release(tmp_path, ["ps1"])
    naps = f"600.{os.getpid()}"  # seconds
    sleeper = f"import subprocess\n\nsubprocess.run(['sleep', '{naps}'])"
    hand_in(tmp_path, "sleeper", handed_in(STEM, Wrong({"truncate": sleeper})))
    with marker(tmp_path) as process:
        until(lambda: running(naps), 120)
        process.kill()
    words = [str(tmp_path), naps] if LIMITS.isolated else [str(tmp_path)]
    until(lambda: not running(*words), 20)
    assert not (tmp_path / "marks.csv").exists()


@pytest.mark.bench
def test_thirty_submissions_and_a_marker_that_is_killed(tmp_path):
    """In under ten minutes on two cores; what was marked before the kill is not marked again."""
    staff.release(tmp_path, ["ps1"])
    kinds, wanted = table(STEM)["WRONG"] | {"right": Wrong({})}, {}
    for k in range(30):
        wrong = kinds[["right", "tampered tests", "ignores rtol"][k % 3]]
        hand_in(tmp_path, f"student{k:02}", handed_in(STEM, wrong))
        wanted[f"student{k:02}"] = f"{75 - sum(wrong.lost.values())}"
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with marker(tmp_path) as process:
        until(lambda: (tmp_path / "marks.csv").exists() and len(rows(tmp_path)) >= 5, 600)
        process.kill()
    first = rows(tmp_path)
    with marker(tmp_path) as process:
        said = process.communicate()[0]
    took, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{took:.0f} s, {spent:.0f} s of CPU, load {os.getloadavg()}")
    assert f"{30 - len(first)}/{30 - len(first)}" in said
    assert {r["student"]: r["machine"] for r in rows(tmp_path)} == wanted
    assert [r for r in rows(tmp_path) if r in first] == first
    assert took < 600, f"{took:.0f} s; {spent:.0f} s of CPU, load {os.getloadavg()}"
