"""Papers as programs: one file for a table or figure, at preset "quick" and "full".

A file holds its `PROGRAM`, a `Program` that says what is measured and how it is drawn; the first
line of its docstring says what it makes.
"""

import importlib
import pkgutil

from ..arguments import one_of
from ..files import replaced
from . import table as tables
from .program import PRESETS, Program


def programs() -> dict[str, Program]:
    """All programs of this folder by key.

    >>> programs()["Novikov2015"].title[:27]
    'Tensorizing neural networks'
    """
    names = [f"{__name__}.{info.name}" for info in pkgutil.iter_modules(__path__)]
    modules = [importlib.import_module(name) for name in names]
    found = [module.PROGRAM for module in modules if hasattr(module, "PROGRAM")]
    return {program.key: program for program in sorted(found, key=lambda program: program.key)}


def find(key: str) -> Program:
    """The program of a key. Raises ValueError, with the keys there are, if there is none."""
    found = programs()
    return found[one_of("run", "key", key, found)]


def run(
    key: str,
    preset: str = "quick",
    *,
    resume: bool = True,
    progress: bool = True,
    record: bool = False,
) -> tables.Table:
    """Run a program, print its table beside the printed numbers, write results/<key>-<preset>.csv
    and, if it draws, a .png.

    record: keep the table of preset full as data/measured/<key>.csv. Raises ValueError for a wrong
    key or preset.
    """
    program = find(key)
    if record and preset == PRESETS[0]:
        raise ValueError(f"{key}: needs preset full to be recorded, got {preset!r}")
    table = program.run(preset, resume=resume, progress=progress)
    print(table)
    print(f"csv: {tables.results(key, preset)}")
    if program.draw:
        import matplotlib.figure

        figure = matplotlib.figure.Figure(figsize=(7, 4.5), layout="constrained")
        sentence = program.draw(table, figure.subplots())
        with replaced(tables.results(key, preset, "png")) as part:
            figure.savefig(part, format="png", dpi=120)
        print(f"png: {tables.results(key, preset, 'png')}: {sentence}")
    if record:
        print(f"recorded: {tables.record(table)}")
    return table
