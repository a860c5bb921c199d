"""The commands for assignments, with nbgrader itself: what is handed out, marked, shown and
checked.
One student does all kinds of mischief, another's kernel dies; the only endless loop of the ordinary
run is here.
"""

import csv
import functools
import html
import http.server
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest
from marking import STEMS, Wrong, by_machine, handed_in, marks, of, released, source

from tensorlab.__main__ import main
from tensorlab.course import grading, staff

STEM = "ps1_lowrank"
LIMITS = staff.Limits(isolated=grading.can_cut(), seconds=15, minutes=4)
LOOP = "while True:\n    pass"
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


def mischief(address):
    """Tests tampered with or deleted, an endless loop, the network, and a look at tests."""
    read = f"import urllib.request\n    return float(urllib.request.urlopen('{address}').read())"
    edits = {
        "truncate": ("> rtol * s.norm()", "> 1e-12 * s.norm()"),
        "truncate-smallest": "pass",
        "als-finds": None,
        "pair": LOOP,
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
    hand_in(folder, "mallory", handed_in(STEM, mischief(server[0])))
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


def test_marks_of_nbgrader_are_those_of_the_harness(course, server):
    notebook = handed_in(STEM, mischief(server[0]))
    of(notebook, "pair").source = "raise TimeoutError"  # the loop ends so
    wanted = marks(STEM, notebook, pictures=False)
    with staff._api(course).gradebook as book:
        found = {
            grade.name: grade.auto_score
            for grade in book.find_submission("ps1", "mallory").notebooks[0].grades
            if grade.name in wanted
        }
    assert {name: score or 0.0 for name, score in found.items()} == wanted
    assert float(row(course, "mallory")["machine"]) == sum(wanted.values())
    lost = sum(by_machine(source(STEM)).values()) - sum(wanted.values())
    assert lost == 8 + 7 + 7 + 9  # truncate-smallest, als-finds, pair-near, distance-exact


def test_the_network_is_cut(course, server):
    assert (server[1] == []) == LIMITS.isolated


def test_a_crash_stops_nobody_and_is_told(course):
    assert row(course, "crash")["status"].startswith("crashed")
    assert row(course, "crash")["total"] == "0"
    assert row(course, "mallory")["status"] == "to be read"


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


# ------------------------------------------------------------------------------------------- thirty


@pytest.mark.bench
def test_thirty_submissions_and_a_marker_that_is_killed(tmp_path):
    """In under ten minutes on two cores; what was marked before the kill is not marked again."""
    staff.release(tmp_path, ["ps1"])
    for k in range(30):
        hand_in(tmp_path, f"student{k:02}", handed_in(STEM, Wrong({})))
    command = [sys.executable, "-m", "tensorlab", "course", "mark", str(tmp_path)]
    command += [] if LIMITS.isolated else ["--no-isolation"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    start, marker = time.monotonic(), subprocess.Popen(command, env=environment)
    while not (tmp_path / "marks.csv").exists() or len(rows(tmp_path)) < 5:
        time.sleep(0.5)
    marker.send_signal(signal.SIGKILL)
    marker.wait()
    first = rows(tmp_path)
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert time.monotonic() - start < 600
    assert f"{30 - len(first)}/{30 - len(first)}" in again.stdout
    assert len(rows(tmp_path)) == 30 and {r["machine"] for r in rows(tmp_path)} == {"75"}
