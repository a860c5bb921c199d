"""Papers as programs: one file for a table or figure, at preset "quick" and "full".

A program is a module with `KEY`, under which its files stand, and `run(preset, *, resume=True,
progress=True) -> Table`; the first line of its docstring says what it makes. `draw(table, ax)`,
where there is one, draws the table and returns a sentence.
"""

import importlib
import pkgutil
from types import ModuleType

from ..files import replaced
from . import table as tables


def programs() -> dict[str, ModuleType]:
    """All programs of this folder by key.

    >>> programs()["Novikov2015"].__name__
    'tensorlab.papers.tensorizing'
    """
    modules = [
        importlib.import_module(f"{__name__}.{info.name}")
        for info in pkgutil.iter_modules(__path__)
    ]
    return {
        module.KEY: module
        for module in sorted((m for m in modules if hasattr(m, "KEY")), key=lambda m: m.KEY)
    }


def find(key: str) -> ModuleType:
    """The program of a key; a wrong key lists those there are."""
    found = programs()
    if key not in found:
        raise ValueError(f"run: needs one of the keys {', '.join(found)}, got {key!r}")
    return found[key]


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
    tables.check_preset(key, preset)
    if record and preset != "full":
        raise ValueError(f"{key}: needs preset full to be recorded, got {preset!r}")
    table = program.run(preset, resume=resume, progress=progress)
    print(table)
    print(f"csv: {tables.results(key, preset)}")
    if hasattr(program, "draw"):
        import matplotlib.figure

        figure = matplotlib.figure.Figure(figsize=(7, 4.5), layout="constrained")
        sentence = program.draw(table, figure.subplots())
        with replaced(tables.results(key, preset, "png")) as part:
            figure.savefig(part, format="png", dpi=120)
        print(f"png: {tables.results(key, preset, 'png')}: {sentence}")
    if record:
        print(f"recorded: {tables.record(table)}")
    return table
