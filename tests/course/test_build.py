"""The builder of lessons: the same bytes on every run, and a check that fails when something is
stale."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

HERE = Path(__file__).parents[2] / "notebooks"
LESSON = """# %% [markdown] tags=["lesson"]
# name = "lesson"
# minutes = 5
# needs = []
# aims = ["see", "say"]
# take = ["This.", "That.", "And more."]

# %% [markdown]
# # A lesson

# %%
1 + 1

# %% nbgrader={"grade_id": "sum", "points": 2}
assert True
"""
ASSIGNMENT = LESSON.replace('tags=["lesson"]', 'tags=["assignment"]').replace(
    '# take = ["This.", "That.", "And more."]\n', ""
)


@pytest.fixture
def folder(tmp_path):
    for name in ("_build.py", "jupytext.toml"):
        shutil.copy(HERE / name, tmp_path)
    (tmp_path / "01_lesson.py").write_text(LESSON)
    (tmp_path / "assignments").mkdir()
    (tmp_path / "assignments" / "one.py").write_text(ASSIGNMENT)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "01_lesson.py").write_text("not canonical")
    return tmp_path


def test_build_then_check(folder, capsys):
    main = runpy.run_path(folder / "_build.py")["main"]
    assert main(folder, check=True) == 2 and capsys.readouterr().err.count("is not what") == 2

    assert main(folder, check=False) == 0
    built = sorted(folder.rglob("*.ipynb"))
    assert [path.name for path in built] == ["01_lesson.ipynb", "one.ipynb"]
    first = [path.read_bytes() for path in built]
    for path in built:
        path.unlink()
    assert main(folder, check=False) == 0 and [path.read_bytes() for path in built] == first
    capsys.readouterr()
    assert main(folder, check=True) == main(folder, check=False) == 0
    assert capsys.readouterr() == ("", "")

    notebook = nbformat.read(built[0], as_version=4)
    assert notebook.metadata.kernelspec.name == "python3"
    assert [cell.cell_type for cell in notebook.cells[:3]] == ["markdown", "code", "code"]
    marks = {
        "schema_version": 3,
        "grade": True,
        "solution": False,
        "locked": True,
        "task": False,
        "grade_id": "sum",
        "points": 2,
    }
    assert notebook.cells[2].metadata.nbgrader == marks

    (folder / "01_lesson.py").write_text(LESSON.replace("1 + 1", "1 + 2"))
    (folder / "02_gone.ipynb").write_bytes(first[0])
    (folder / "assignments" / "one.py").write_text(ASSIGNMENT.replace("# %%", "#%%"))
    assert main(folder, check=True) == 3
    faults = capsys.readouterr().err
    assert "01_lesson.ipynb: is not what 01_lesson.py builds" in faults
    assert "02_gone.ipynb: has no .py" in faults
    assert "one.py: needs jupytext's own form" in faults


def test_lessons_are_built():
    done = subprocess.run(
        [sys.executable, HERE / "_build.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
