"""Tables: rows beside the printed ones, csv both ways, and a run that is killed goes on where it
was."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from tensorlab import papers
from tensorlab.__main__ import main
from tensorlab.papers import table as tables
from tensorlab.papers.program import Program, run_rows
from tensorlab.papers.table import Table, load, measured, printed, record, results

ROWS = [
    {"kind": "a", "rank": 1, "error": 0.5, "note": None},
    {"kind": "b", "rank": None, "error": 1e-20, "note": "x, y"},
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to write results in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- reduces to


def test_csv_gives_the_rows_and_notes_back(tmp_path):
    table = Table("Name2020", ROWS, {"date": "today", "label": "kind rank"})
    again = load(table.save(tmp_path / "deep" / "Name2020.csv"))
    assert (again.key, again.rows, again.notes) == ("Name2020", ROWS, table.notes)


# -- by hand


def test_rows_stand_beside_the_printed_ones():
    ours = Table(
        "Name2020",
        [{"kind": "a", "rank": 1, "error": 0.5}, {"kind": "a", "rank": 2, "error": 0.3}],
        {"date": "today"},
    )
    rows = [{"kind": "a", "rank": 2, "error": 0.2}, {"kind": "b", "rank": 2, "error": 0.1}]
    theirs = Table("Name2020", rows, {"label": "kind rank"})
    both = ours.beside(theirs)
    assert both["error (printed)"] == [None, 0.2, 0.1] and both["error"] == [0.5, 0.3, None]
    assert both.rows[-1]["kind"] == "b" and both.notes == {"date": "today"}
    assert ours.beside(Table("Name2020")).rows == ours.rows


def test_text_and_markdown_of_a_table():
    table = Table(
        "Name2020", [{"kind": "a", "rank": 10, "error": 1 / 3}, {"kind": "bcd", "rank": 2}]
    )
    assert str(table).splitlines() == ["kind  rank  error", "a       10  0.3333", "bcd      2"]
    assert table._repr_markdown_().splitlines()[-3:] == ["| bcd | 2 |  |", "", "*Name2020.*"]
    assert len(table) == 2 and table.where(rank=2, kind="bcd") == [{"kind": "bcd", "rank": 2}]


NASTY = [
    "71 71 | 70 70",
    "a\\",
    "a\\|b\\\\|",
    "||",
    "*a* **b** _c_ __d__ ~~e~~ a_b_c",
    "`code` ``x`",
    "<b>bold</b> <script> &lt; & &#124;",
    "[link](http://x.y) ![picture](z)",
    "$x_1$ and $$y$$ \\(z\\)",
    "# head",
    "- item + 1. one > quote",
    "---",
    ":--",
    "{a} {{b}}",
    'a "quoted", text',
]


def cells(html):
    """The texts of the cells of the one table in a page, line by line."""
    import xml.etree.ElementTree as tree

    table = tree.fromstring(f"<page>{html.replace('<br>', '<br/>')}</page>").find("table")
    return [["".join(c.itertext()).strip() for c in row] for row in table.iter("tr")]


@pytest.mark.parametrize("renderer", ["markdown_it", "mistune"])
def test_markdown_shows_every_text_as_it_is(renderer):
    """By the two renderers that Jupyter's tools come with."""
    if renderer == "mistune":
        render = pytest.importorskip("mistune").create_markdown(
            escape=False, plugins=["table", "strikethrough", "url"]
        )
    else:
        render = pytest.importorskip("markdown_it").MarkdownIt("commonmark")
        render = render.enable(["table", "strikethrough"]).render
    rows = [{f"c{text}": text, "two | three": 0.5, "ranks": f"{text}|{text}"} for text in NASTY]
    for row in rows:
        got = cells(render(Table("Name2020", [row])._repr_markdown_()))
        assert got == [list(row), [str(value) for value in row.values()]]
    whole = Table("Name2020", [{"a": text, "b|": 1, "c": None} for text in NASTY])
    got = cells(render(whole._repr_markdown_()))
    assert got == [["a", "b|", "c"], *([text, "1", ""] for text in NASTY)]


def test_a_notebook_shows_a_screen_and_says_what_it_is_of():
    notes = {"preset": "full", "rule": "the least", "date": "2026-01-02"}
    table = Table("Name2020", [{"rank": k} for k in range(31)], notes)
    *rows, blank, caption = table._repr_markdown_().splitlines()
    assert len(rows) == 2 + 30 and rows[-1] == "| 29 |" and not blank
    assert caption == (
        "*Name2020, preset full, date 2026-01-02. The first 30 of 31 rows; print shows all.*"
    )
    assert str(table).splitlines()[-1].strip() == "30"


def test_lines_within_a_cell_stay_in_it():
    table = Table("Name2020", [{"a": "one\ntwo\r\nthree", "b": 1}])
    assert table._repr_markdown_().splitlines()[2] == "| one<br>two<br>three | 1 |"
    assert str(table).splitlines() == ["a              b", "one two three  1"]
    assert Table("Name2020")._repr_markdown_() == str(Table("Name2020")) == ""


@pytest.mark.parametrize(
    "text", [*NASTY, "# 5: x", "one\ntwo", "a\u2028b\x85c", "1_000", " 7", "x, y"]
)
def test_csv_gives_every_text_back(tmp_path, text):
    table = Table("Name2020", [{text: text, "x": 1}, {text: None, "x": 0.5}], {"note": "a: b"})
    if text.startswith("# "):
        table = Table("Name2020", [{"x": text, "y": text}], {"note": "a: b"})
    again = load(table.save(tmp_path / "Name2020.csv"))
    assert (again.rows, again.notes) == (table.rows, table.notes)


@pytest.mark.parametrize("notes", [{"a": "one\ntwo"}, {"a: b": "c"}, {"a\n": "c"}, {"a": "\u2028"}])
def test_a_note_that_no_line_holds_is_refused(tmp_path, notes):
    with pytest.raises(ValueError, match=r"^Table\.save: needs notes of one line, got '"):
        Table("Name2020", ROWS, notes).save(tmp_path / "Name2020.csv")
    assert not list(tmp_path.iterdir())


# -- is invariant


def test_a_run_goes_on_where_it_was(here, capsys):
    asked = []

    def measure(rank, kind):
        asked.append(rank)
        if rank == 3 and len(asked) == 3:
            raise KeyboardInterrupt
        return {"error": rank / 10}

    cases = [{"rank": r, "kind": "a"} for r in (1, 2, 3)]
    with pytest.raises(KeyboardInterrupt):
        run_rows("Name2020", "quick", cases, measure, settings={"steps": 5})
    assert load(results("Name2020", "quick"))["rank"] == [1, 2]
    table = run_rows("Name2020", "quick", cases, measure, settings={"steps": 5})
    assert asked == [1, 2, 3, 3] and table["error"] == [0.1, 0.2, 0.3]
    assert "1/3: rank 1, kind a, error 0.1 (was there)" in capsys.readouterr().err
    assert load(results("Name2020", "quick")).rows == table.rows


def test_other_settings_and_no_resume_measure_again(here, capsys):
    asked, cases = [], [{"rank": 1}]
    measure = lambda rank: asked.append(rank) or {"error": 0.5}
    for steps, resume, times in [(5, True, 1), (5, True, 1), (6, True, 2), (6, False, 3)]:
        run_rows(
            "Name2020",
            "quick",
            cases,
            measure,
            settings={"steps": steps},
            resume=resume,
            progress=False,
        )
        assert len(asked) == times
    assert capsys.readouterr().err == ""


def test_a_new_case_keeps_the_old_rows(here):
    asked, measure = [], lambda rank: asked.append(rank) or {"error": 0.5}
    run_rows("Name2020", "quick", [{"rank": 1}, {"rank": 2}], measure, progress=False)
    table = run_rows("Name2020", "quick", [{"rank": 0}, {"rank": 2}], measure, progress=False)
    assert asked == [1, 2, 0] and table["rank"] == [0, 2]
    assert load(results("Name2020", "quick"))["rank"] == [
        0,
        1,
        2,
    ]  # those of other cases stay, and may be asked for again


def test_cases_may_look_at_the_rows_before(here):
    def cases(table):
        yield {"rank": 1}
        while table.rows[-1]["error"] > 0.1:
            yield {"rank": table.rows[-1]["rank"] + 1}

    assert run_rows("Name2020", "quick", cases, lambda rank: {"error": 1 / rank**2})["rank"] == [
        1,
        2,
        3,
        4,
    ]


def test_labels_of_none_and_floats_are_found_again(here):
    asked, cases = [], [{"rank": None, "rate": 1e-3}, {"rank": 2, "rate": 0.1}]
    for _ in range(2):
        run_rows(
            "Name2020",
            "quick",
            cases,
            lambda rank, rate: asked.append(rank) or {"x": 1},
            progress=False,
        )
    assert asked == [None, 2]


PROGRAM = """
import sys, time
from tensorlab.papers.program import run_rows

def measure(rank):
    open("asked.txt", "a").write(f"{rank}\\n")
    if rank == 3 and "slow" in sys.argv:
        time.sleep(120)
    return {"error": rank / 10}

run_rows("Name2020", "full", [{"rank": r} for r in (1, 2, 3, 4)], measure, settings={"steps": 5})
"""


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_program_resumes(here):
    (here / "program.py").write_text(textwrap.dedent(PROGRAM))
    child = subprocess.Popen([sys.executable, "program.py", "slow"], stderr=subprocess.DEVNULL)
    end = (
        time.monotonic() + 300
    )  # of a child that hangs; importing torch on a busy machine takes a minute
    while not (here / "asked.txt").exists() or "3" not in (here / "asked.txt").read_text():
        assert child.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert load(results("Name2020", "full"))["rank"] == [1, 2]
    done = subprocess.run(
        [sys.executable, "program.py"], capture_output=True, text=True, check=True
    )
    assert (here / "asked.txt").read_text().split() == ["1", "2", "3", "3", "4"]
    assert (
        load(results("Name2020", "full"))["error"] == [0.1, 0.2, 0.3, 0.4]
        and done.stderr.count("was there") == 2
    )


def test_what_is_recorded_says_when_and_on_what(here):
    (here / "data" / "papers").mkdir(parents=True)
    record(Table("Name2020", [{"rank": 1}], {"preset": "full", "steps": "5"}))
    assert measured("Name2020").rows == [{"rank": 1}] and printed("Name2020").rows == []
    assert list(measured("Name2020").notes) == ["date", "machine", "torch", "preset", "steps"]


def test_numbers_of_an_installed_package_are_found_and_none_is_written_into_it(here, monkeypatch):
    shipped = here / "site" / "tensorlab" / "papers" / "data"
    monkeypatch.setattr(tables, "__file__", str(shipped.parent / "table.py"))
    monkeypatch.setattr(tables, "SHIPPED", shipped)
    assert printed("Name2020").rows == []
    Table("Name2020", [{"rank": 1}]).save(shipped / "papers" / "Name2020.csv")
    assert printed("Name2020").rows == [{"rank": 1}]
    (here / "data" / "papers").mkdir(parents=True)  # a folder of the user's that happens to be so
    assert printed("Name2020").rows == [{"rank": 1}]
    record(Table("Name2020", [{"rank": 2}]))
    assert measured("Name2020").rows == [{"rank": 2}] and not (shipped / "measured").exists()


# -- the programs there are


OWN = {"KroneckerSpectral", "KroneckerModels"}  # after a talk that no paper prints


@pytest.mark.parametrize("key", papers.programs())
def test_a_program_says_what_it_makes(key):
    program = papers.find(key)
    cited = re.findall(r"\[(\w+)\]", program.title)
    assert any(key.startswith(name) for name in cited) or (cited and key in OWN)
    with pytest.raises(ValueError, match=f"{key}: preset must be .quick. or .full., got 'tiny'"):
        program.run("tiny")


@pytest.mark.parametrize("key", [key for key in papers.programs() if printed(key).rows])
def test_printed_rows_have_labels_of_their_own(key):
    table = printed(key)
    Table(key).beside(table)
    assert table.notes["source"]


# -- the command


def test_the_command_lists_them(capsys):
    main(["papers"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(papers.programs())
    assert all(re.search(r"\[\w+\].*\.$", line) for line in lines)  # whole sentences


@pytest.mark.parametrize(
    "argv, said",
    [
        (["run", "Nobody1900"], r"run: key must be .*Novikov2015.*, got 'Nobody1900'"),
        (
            ["run", "Novikov2015", "--preset", "tiny"],
            "preset must be .quick. or .full., got 'tiny'",
        ),
        (["run", "Novikov2015", "--record"], "needs preset full to be recorded, got 'quick'"),
        (["run", "Novikov2015", "--preset", "full"], "get it by: tensorlab data get mnist"),
    ],
)
def test_the_command_says_no_in_one_sentence(argv, said, here, monkeypatch):
    monkeypatch.setenv("TENSORLAB_DATA", str(here))
    with pytest.raises(SystemExit, match=said) as stop:
        main(argv)
    assert "\n" not in str(stop.value)


@pytest.mark.parametrize(
    "act, error, said",
    [
        (lambda: Program("Name2020", "", {}, None, None).run(3), ValueError, "got 3"),
        (
            lambda: Table("Name2020", [{"a": 1}])["b"],
            KeyError,
            r"one of the columns \['a'\], got 'b'",
        ),
        (
            lambda: Table("N").beside(Table("N", [{"a": 1}])),
            ValueError,
            r"distinct labels, got label \[\]",
        ),
        (
            lambda: Table("N").beside(Table("N", [{"a": 1}, {"a": 1}], {"label": "a"})),
            ValueError,
            "got label",
        ),
    ],
)
def test_says_what_came(act, error, said):
    with pytest.raises(error, match=said):
        act()
