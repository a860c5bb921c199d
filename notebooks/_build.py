"""Builds every lesson's .ipynb from its .py (py:percent), byte for byte the same on every run.

What all lessons have around their text (folds, aims, references, the map) is of `course/furniture.py`.

python notebooks/_build.py            writes what is stale
python notebooks/_build.py --check    writes nothing; exit status 1 names what is stale, orphaned or not canonical
"""

import argparse
import hashlib
import sys
import tomllib
from pathlib import Path

import jupytext
import nbformat

from tensorlab.course import furniture

HERE = Path(__file__).parent
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
NBGRADER = {"schema_version": 3, "grade": False, "solution": False, "locked": False, "task": False}


def sources(folder):
    """The lessons' .py files: no private ones, and none of the copies that JupyterLab keeps."""
    found = folder.rglob("*.py")
    return sorted(
        p for p in found if not p.name.startswith("_") and ".ipynb_checkpoints" not in p.parts
    )


def canonical(notebook):
    """The .py that JupyterLab would write. A lesson in another form makes it refuse to open the pair."""
    settings = tomllib.loads((HERE / "jupytext.toml").read_text(encoding="utf-8"))
    filters = {
        name: settings[name] for name in ("notebook_metadata_filter", "cell_metadata_filter")
    }
    bare = nbformat.v4.new_notebook(cells=notebook.cells, metadata={"jupytext": filters})
    return jupytext.writes(bare, fmt="py:percent")


def lessons(folder):
    """The lessons of the course in their order, each as the others see it."""
    found = sorted(folder.glob("[0-9][0-9]*_*.py"))
    thumbs = {p.stem for p in folder.glob("thumbs/*.png")}
    cells = {p.stem: jupytext.read(p, fmt="py:percent").cells for p in found}
    return [furniture.read(stem, own, stem in thumbs) for stem, own in cells.items()]


def build(source, course, papers):
    """The text of the .ipynb: furniture, fixed cell ids and metadata, nbgrader's short form spelled out, no outputs."""
    notebook = jupytext.read(source, fmt="py:percent")
    if canonical(notebook) != source.read_text(encoding="utf-8"):
        raise ValueError(
            f"{source}: needs jupytext's own form, `jupytext --to py:percent {source}` writes it"
        )
    lesson = furniture.read(source.stem, notebook.cells)
    notebook.cells = furniture.furnish(lesson, notebook.cells, course, papers)
    notebook.metadata, notebook.nbformat_minor = nbformat.from_dict(METADATA), 5
    if lesson.form == "assignment":  # for `course check`, which sees only what was made of it
        names = [
            c.metadata.nbgrader["grade_id"] for c in notebook.cells if "nbgrader" in c.metadata
        ]
        notebook.metadata.tensorlab = {"file": f"{source.stem}.ipynb", "cells": names}
    for i, cell in enumerate(notebook.cells):
        cell.id = hashlib.sha256(f"{source.stem}/{i}".encode()).hexdigest()[:8]
        if (marks := cell.metadata.get("nbgrader")) is not None:
            graded = (
                {"grade": True, "locked": not marks.get("solution", False)}
                if "points" in marks
                else {}
            )
            cell.metadata.nbgrader = nbformat.from_dict(NBGRADER | graded | marks)
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def main(folder, check):
    """Build, or name what is not as built; returns the number of faults."""
    faults = [
        f"{p}: has no .py"
        for p in sorted(folder.rglob("*.ipynb"))
        if not p.with_suffix(".py").exists() and ".ipynb_checkpoints" not in p.parts
    ]
    course, papers = lessons(folder), furniture.papers(folder.parent / "docs" / "references.md")
    for source in sources(folder):
        target = source.with_suffix(".ipynb")
        try:
            text = build(source, course, papers)
        except ValueError as error:
            faults.append(str(error))
            continue
        if target.exists() and target.read_text(encoding="utf-8") == text:
            continue
        if check:
            faults.append(f"{target}: is not what {source.name} builds, run `make notebooks`")
        else:
            target.write_text(text, encoding="utf-8", newline="\n")
            print(f"built {target}")
    print(*faults, sep="\n", end="\n" if faults else "", file=sys.stderr)
    return len(faults)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing, fail when something is stale"
    )
    sys.exit(bool(main(HERE, parser.parse_args().check)))
