"""Starts JupyterLab on the lessons: a `.py` opens as a notebook, nothing asks the network, no
setting changes.

python -m tensorlab lab [DIR] [--port 8888] [--no-browser] [further options of JupyterLab]
"""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

from .. import extras
from ..files import replaced

START = "00_start.ipynb"
COPIED = ".lessons.json"  # what each lesson of a working copy was when it was copied
SHIPPED = Path(__file__).parent / "notebooks"  # in an installed package; see setup.py


def fast(short, *, full):
    """`short` where the environment has TENSORLAB_FAST=1, as in the tests, otherwise `full`."""
    return short if os.environ.get("TENSORLAB_FAST") == "1" else full


def notebooks() -> Path:
    """The folder of the lessons: `notebooks` where the command is given, or beside the package in a
    clone, or the one that an installed package holds. A working copy is none.

    Raises FileNotFoundError if there is no such folder.
    """
    here, clone = Path.cwd(), Path(__file__).parents[2]
    for place in [here / "notebooks", here, clone / "notebooks", SHIPPED]:
        if (place / START).exists() and not (place / COPIED).exists():
            return place
    raise FileNotFoundError(f"lab: needs the folder notebooks with {START}, got none in {here}")


def place_to_work(lessons: Path, folder: str | None = None) -> Path:
    """Where the working copy is: the folder that was asked for; the one where the command is given,
    if it is a working copy; beside the lessons of a clone; or else a new one, `tensorlab-lessons`.

    Raises ValueError for a folder that holds the lessons themselves, and for a file.
    """
    here = Path.cwd()
    default = here / "tensorlab-lessons" if lessons == SHIPPED else lessons.parent / "work"
    place = Path(folder).expanduser() if folder else here if (here / COPIED).exists() else default
    if place.resolve() == lessons.resolve():
        raise ValueError(f"lab: needs a folder other than that of the lessons, got {place}")
    if place.exists() and not place.is_dir():
        raise ValueError(f"lab: needs a folder, got the file {place}")
    return place.resolve()


def working_copy(lessons: Path, folder: Path) -> list[str]:
    """Copy the lessons into a folder to work in; what a reader has changed there stays.

    A lesson that is newer than an unchanged copy replaces it; beside a changed copy it is put as
    NN_stem.newer.ipynb. Returns the names of those. Results of lessons stay in the folder too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / COPIED
    copied = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    offered = []
    for lesson in sorted(lessons.glob("*.ipynb")):
        mine, known = folder / lesson.name, copied.get(lesson.name)
        if not mine.exists() or _digest(mine) in (known, _digest(lesson)):
            shutil.copyfile(lesson, mine)
            copied[lesson.name] = _digest(lesson)
        elif known != _digest(lesson):
            shutil.copyfile(lesson, folder / f"{lesson.stem}.newer.ipynb")
            offered.append(f"{lesson.stem}.newer.ipynb")
    if (lessons / "thumbs").is_dir():
        shutil.copytree(lessons / "thumbs", folder / "thumbs", dirs_exist_ok=True)
    with replaced(record) as part:
        part.write_text(json.dumps(copied, indent=1) + "\n", encoding="utf-8")
    return offered


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def copy(folder: str | None = None) -> Path:
    """Make the working copy of the lessons, or bring it up to date, and say where it is; see
    `place_to_work` and `working_copy`."""
    lessons = notebooks()
    work = place_to_work(lessons, folder)
    for name in working_copy(lessons, work):
        print(f"{name} is newer than the lesson you have changed; both are in {work}")
    print(f"the lessons, yours to change, are in {work}", file=sys.stderr)
    return work


def start(
    port: int = 8888,
    browser: bool = True,
    options: list[str] | None = None,
    folder: str | None = None,
) -> None:
    """Serve a working copy of the lessons until Ctrl-C; a port in use is passed over for the next.
    Prints the address served.

    folder: where the working copy is, see `place_to_work`. Raises ModuleNotFoundError, before
    anything is copied, if something that the lessons need is not installed.
    """
    extras.require("lab", *extras.LAB)
    from jupyterlab.labapp import LabApp

    work = copy(folder)
    here = str(
        Path(__file__).parent
    )  # holds labconfig/, which JupyterLab looks for in each folder of this path
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(
        filter(None, [here, os.environ.get("JUPYTER_CONFIG_PATH")])
    )
    app = LabApp.initialize_server(
        [
            f"--ServerApp.root_dir={work}",
            f"--ServerApp.port={port}",
            f"--LabApp.default_url=/lab/tree/{START}",
            "--LabApp.extension_manager=readonly",  # the other one asks an index of packages
            "--ServerApp.log_level=WARN",  # otherwise the address is lost among its notes
            *(
                ["--ServerApp.allow_root=True"]
                if hasattr(os, "geteuid") and os.geteuid() == 0
                else []
            ),
            *([] if browser else ["--ServerApp.open_browser=False"]),
            *(options or []),
        ]
    )
    token = app.identity_provider.token
    query = f"?token={token}" if token else ""  # none where the user has set a password
    line = f"tensorlab is served at {app.local_url.split('?')[0]}{query} (Ctrl-C stops it)"
    app.io_loop.add_callback(
        print, line, flush=True
    )  # comes to its turn when the port has been bound
    app.start()
