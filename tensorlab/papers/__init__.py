"""Papers as programs: one file for a table or figure, at preset "quick" and "full".

A file holds its `PROGRAM`, a `Program` that says what is measured and how it is drawn; the first
line of its docstring says what it makes.
"""

import importlib
import os
import pkgutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed

from tqdm import tqdm

from .. import extras
from ..arguments import count, one_of
from ..files import replaced
from . import processes
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
    share: str | None = None,
) -> tables.Table:
    """Run a program, print its table beside the printed numbers, write results/<key>-<preset>.csv
    and, if it draws, a .png; of several processes under torchrun the first one does.

    record: keep the table of preset full as data/measured/<key>.csv. share: what processes share,
    see `Program.run`. Raises ValueError for a wrong key, preset or way to share.
    """
    program = find(key)
    if record and preset == PRESETS[0]:
        raise ValueError(f"{key}: needs preset full to be recorded, got {preset!r}")
    with processes.group():
        table = program.run(preset, resume=resume, progress=progress, share=share)
        first = processes.rank() == 0
    if first:
        _show(program, preset, table, record)
    return table


def _show(program: Program, preset: str, table: tables.Table, record: bool) -> None:
    """Print a table, draw it, keep it."""
    key = program.key
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


def run_all(preset: str = "quick", jobs: int = 1, *, resume: bool = True) -> list[str]:
    """Run every program, `jobs` at a time in separate processes, which share the cores; what
    one prints comes when it has ended. Returns the keys of those that failed.

    Raises ValueError for a wrong preset or number of jobs and under torchrun, and
    ModuleNotFoundError, before it begins, if a module is missing that any of them needs.
    """
    one_of("run", "preset", preset, PRESETS)
    if processes.started():
        raise ValueError("run: needs the key of one paper under torchrun, got all")
    count("run", "jobs", jobs, 1)
    found = programs()
    needed = {module for program in found.values() for module in program.needs}
    extras.require("run", *sorted(needed), "matplotlib")
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    env = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    options = ["--preset", preset, *([] if resume else ["--no-resume"])]

    def one(key: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "tensorlab", "run", key, *options]
        return subprocess.run(command, env=env, capture_output=True, text=True)

    failed, pool = [], ThreadPoolExecutor(jobs)
    try:
        running = {pool.submit(one, key): key for key in found}
        for done in tqdm(as_completed(running), "run all", len(running), disable=None):
            key, result = running[done], done.result()
            failed += [key] if result.returncode else []
            tqdm.write(f"== {key}\n{result.stdout}{result.stderr if result.returncode else ''}")
    finally:  # after Ctrl-C nothing new is started
        pool.shutdown(cancel_futures=True)
    return sorted(failed)
