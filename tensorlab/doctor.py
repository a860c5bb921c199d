"""What this machine has for tensorlab, and the command that gets what is missing."""

import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

from . import __version__, datasets, extras

CORE = ("torch", "numpy", "safetensors", "tqdm")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "firefox", "safari", "msedge")


def report() -> str:
    """All that is known, in lines `what: value`, and below them what is missing.

    >>> "torch" in report()
    True
    """
    lines = [f"{name + ':':14} {value}" for name, value in facts().items()]
    lacking = [f"  {what}: {how}" for what, how in lacks().items()]
    head = "missing, with what gets it (nothing of this is needed to `import tensorlab`):"
    return "\n".join([*lines, "", *([head, *lacking] if lacking else ["nothing is missing"])])


def facts() -> dict[str, str]:
    """Versions, threads, the accelerator, the data folder and the browser."""
    absent = extras.missing(extras.MODULES)
    packages = [name for module, (name, _) in extras.MODULES.items() if module not in absent]
    return {
        "tensorlab": f"{__version__} in {os.path.dirname(__file__)}",
        "python": f"{platform.python_version()} at {sys.executable}, {platform.platform()}",
        "needed": ", ".join(f"{name} {_version(name)}" for name in CORE),
        "extras": ", ".join(f"{name} {_version(name)}".strip() for name in packages) or "none",
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} cores"
        + "".join(f", {n}={os.environ[n]}" for n in ("OMP_NUM_THREADS",) if n in os.environ),
        "accelerator": accelerator(),
        "data folder": f"{datasets.folder()}{'' if datasets.folder().is_dir() else ' (not there)'}",
        "browser": browser() or "none found",
    }


def lacks() -> dict[str, str]:
    """What is missing: extras by their modules, data sets, a browser; and how to get each."""
    found = {}
    for module in extras.missing(extras.MODULES):
        name, extra = extras.MODULES[module]
        found.setdefault(extras.command(extra), []).append(name)
    lacking = {", ".join(names): how for how, names in found.items()}
    absent = [row.name for row in datasets.available() if row.where == "missing"]
    if sets := [name for name in absent if name in datasets.SOURCES]:
        lacking[f"data sets {', '.join(sets)}"] = "tensorlab data get NAME"
    if browser() is None:
        lacking["browser"] = (
            "any; `tensorlab lab --no-browser` prints the address to open elsewhere"
        )
    return lacking


def accelerator() -> str:
    """The name and the memory of the GPU that torch sees, or "none, all runs on the CPU".

    >>> bool(accelerator())
    True
    """
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return f"{torch.cuda.get_device_name()}, {memory:.0f} GiB, CUDA {torch.version.cuda}"
    if torch.backends.mps.is_available():
        return "Apple GPU (mps)"
    return "none, all runs on the CPU"


def browser() -> str | None:
    """The browser that would open, by the name of its program."""
    named = os.environ.get("BROWSER", "").split(os.pathsep)
    found = (shutil.which(name) for name in (*filter(None, named), *BROWSERS))
    return next(filter(None, found), None)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # part of Python, or put there without metadata
        return ""
