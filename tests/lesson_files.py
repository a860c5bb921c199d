"""The lessons as files: their cells, and the code of their solutions."""

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jupytext

from tensorlab.course import furniture

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
STEMS = sorted(path.stem for path in NOTEBOOKS.glob("[0-9][0-9]*_*.py"))
CALL = re.compile(r"^lesson\.(\w+)\((\w+)\)$", re.M)


@dataclass(frozen=True)
class Computed:
    """An answer that takes long to compute: a test that tries it does, and not the collection."""

    value: Callable


def module(stem: str) -> str:
    """The name of a lesson's module in `tensorlab.course.lessons`."""
    return stem.split("_", 1)[1]


def cells(stem: str) -> list:
    """The cells of a lesson's .py."""
    return jupytext.read(NOTEBOOKS / f"{stem}.py", fmt="py:percent").cells


def asked(stem: str) -> list[tuple[str, str]]:
    """The checks that a lesson calls, each with the name of the answer that it is given."""
    code = (c.source for c in cells(stem) if c.cell_type == "code")
    return [pair for source in code for pair in CALL.findall(source)]


def solved(stem: str) -> dict:
    """What a reader has who has run the lesson's imports and typed every solution, by name."""
    code = [c for c in cells(stem) if c.cell_type == "code"]
    imports = [
        ast.unparse(node)
        for c in code
        for node in ast.parse(c.source).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    names = {}
    solutions = [c.source for c in code if furniture.tagged(c, "solution")]
    for source in ["\n".join(imports), *solutions]:
        exec(source, names)
    return names
