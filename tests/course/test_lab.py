"""The command `tensorlab lab`: it serves where it says, settings as ours, and says in one sentence
what it lacks."""

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from served import lab

from tensorlab import __main__ as command
from tensorlab.course import lab as launcher


@pytest.fixture
def lessons(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / launcher.START).write_text(
        '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}\n'
    )
    return tmp_path


def ask(url):
    with urlopen(url, timeout=30) as answer:
        return answer.read().decode()


@pytest.mark.thorough
@pytest.mark.parametrize(
    "options", [["--no-browser"], []], ids=["no browser wanted", "no browser found"]
)
def test_serves_where_it_says(lessons, options, monkeypatch):
    monkeypatch.setenv("BROWSER", "/nowhere/browser")
    monkeypatch.delenv("DISPLAY", raising=False)
    with lab(lessons, *options, cwd=lessons) as (address, token, line):
        assert line.endswith("(Ctrl-C stops it)\n") and f"/lab/tree/{launcher.START}?token=" in line
        assert "started" in json.loads(ask(f"{address}/api/status?token={token}"))
        names = [
            entry["name"]
            for entry in json.loads(ask(f"{address}/api/contents?token={token}"))["content"]
        ]
        assert launcher.START in names
        page = ask(f"{address}/lab?token={token}")
        assert "@jupyter/nbgrader:create-assignment" in page  # among the disabled extensions
        viewer = "@jupyterlab/docmanager-extension:plugin"
        default = json.loads(ask(f"{address}/lab/api/settings/{viewer}?token={token}"))["schema"][
            "properties"
        ]
        assert default["defaultViewers"]["default"] == {"python": "Jupytext Notebook"}


def test_says_which_folder_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        launcher, "__file__", str(tmp_path / "lib" / "tensorlab" / "course" / "lab.py")
    )
    sentence = f"lab: needs the folder notebooks with 00_start.ipynb, got none in {tmp_path}"
    with pytest.raises(FileNotFoundError, match=re.escape(sentence)):
        launcher.notebooks()


def test_command_without_a_server(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORLAB_DATA", str(tmp_path))
    command.main(["data"])
    assert "digits" in capsys.readouterr().out
    command.main(["data", "get", "digits"])
    assert capsys.readouterr().out == f"{tmp_path}\n"
    for wrong in (["data", "--nowhere"], ["data", "get"], ["nothing"]):
        with pytest.raises(SystemExit) as stop:
            command.main(wrong)
        assert stop.value.code == 2
    with pytest.raises(SystemExit, match="nothing"):
        command.main(["data", "get", "nothing"])


@pytest.mark.thorough
def test_help_needs_neither_jupyter_nor_matplotlib():
    code = (
        "import sys, tensorlab, tensorlab.__main__ as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: print(sorted({'jupyterlab', 'ipywidgets', 'matplotlib', 'sklearn'} & "
        "set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]" and "lab" in done.stdout


def test_fast_chooses_by_the_environment(monkeypatch):
    monkeypatch.setenv("TENSORLAB_FAST", "1")
    assert launcher.fast(10, full=1000) == 10
    monkeypatch.delenv("TENSORLAB_FAST")
    assert launcher.fast(10, full=1000) == 1000


@pytest.fixture
def work(tmp_path):
    """A function that copies two lessons of these texts into a working copy, and gives it."""
    (tmp_path / "notebooks" / "thumbs").mkdir(parents=True)
    (tmp_path / "notebooks" / "thumbs" / "01.png").write_bytes(b"png")

    def copy(**texts):
        for name, text in texts.items():
            (tmp_path / "notebooks" / f"{name}.ipynb").write_text(text)
        return launcher.working_copy(tmp_path / "notebooks", tmp_path / "work"), tmp_path / "work"

    return copy


def test_a_working_copy_is_new_where_nothing_was_changed(work):
    offered, folder = work(a="one", b="one")
    assert offered == [] and (folder / "thumbs" / "01.png").exists()
    offered, folder = work(a="two", b="one")
    assert offered == [] and (folder / "a.ipynb").read_text() == "two"


def test_what_a_reader_changed_stays_and_a_newer_lesson_is_offered_beside(work):
    _, folder = work(a="one", b="one")
    (folder / "a.ipynb").write_text("mine")
    assert work(a="one")[0] == [] and (folder / "a.ipynb").read_text() == "mine"
    for _ in range(2):
        assert work(a="two")[0] == ["a.newer.ipynb"]
    assert (folder / "a.ipynb").read_text() == "mine"
    assert (folder / "a.newer.ipynb").read_text() == "two"
    (folder / "a.ipynb").unlink()
    assert work(a="two")[0] == [] and (folder / "a.ipynb").read_text() == "two"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """As in an installed package: the lessons are in it, and the command is given elsewhere."""
    package, here = tmp_path / "site" / "tensorlab" / "course", tmp_path / "here"
    (package / "notebooks").mkdir(parents=True)
    (package / "notebooks" / launcher.START).write_text("one")
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(launcher, "__file__", str(package / "lab.py"))
    monkeypatch.setattr(launcher, "SHIPPED", package / "notebooks")
    return here


def test_lessons_of_an_installed_package_are_copied_where_one_likes(installed):
    lessons = launcher.notebooks()
    assert lessons == launcher.SHIPPED
    assert launcher.place_to_work(lessons) == installed / "tensorlab-lessons"
    assert launcher.place_to_work(lessons, "mine/deep") == installed / "mine" / "deep"
    assert launcher.place_to_work(lessons, str(installed / "a")) == installed / "a"


def test_a_working_copy_is_not_taken_for_the_lessons(installed, monkeypatch):
    for name in ("mine", "notebooks"):
        launcher.working_copy(launcher.notebooks(), installed / name)
        monkeypatch.chdir(installed / name)
        assert launcher.notebooks() == launcher.SHIPPED
        assert launcher.place_to_work(launcher.SHIPPED) == installed / name
    monkeypatch.chdir(installed)
    assert launcher.notebooks() == launcher.SHIPPED


def test_what_is_no_place_to_work(installed):
    (installed / "file").touch()
    with pytest.raises(ValueError, match="lab: needs a folder, got the file file"):
        launcher.place_to_work(launcher.SHIPPED, "file")
    with pytest.raises(ValueError, match="lab: needs a folder other than that of the lessons, got"):
        launcher.place_to_work(launcher.SHIPPED, str(launcher.SHIPPED))


def test_what_is_written_in_a_working_copy_is_not_tracked():
    here = Path(__file__).parents[2]
    ignored = subprocess.run(
        ["git", "-C", here, "check-ignore", "work/01_lowrank.ipynb", "work/results/a.png"],
        capture_output=True,
        text=True,
    )
    if ignored.returncode == 128:
        pytest.skip("needs a git checkout")
    assert ignored.stdout.count("work/") == 2
