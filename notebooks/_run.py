"""Runs lessons whole, at full size, and names those in which a cell fails or a sentence parts from
its number.

python notebooks/_run.py [--workers 2] [NAME ...]    names of lessons such as 04; all by default
"""

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

HERE = Path(__file__).parent


def run(path: Path, folder: Path, timeout: int = 600) -> tuple[float, str]:
    """Seconds that a lesson takes, and what went wrong in it, "" if nothing did.

    folder: where it runs and may write. timeout: seconds that a cell may take.
    """
    start, fault = time.perf_counter(), ""
    try:
        NotebookClient(
            nbformat.read(path, as_version=4),
            timeout=timeout,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
        ).execute()
    except CellExecutionError as error:
        fault = f"{error.ename}: {error.evalue}"
    except Exception as error:  # a kernel that died, a cell that took too long
        fault = f"{type(error).__name__}: {error}"
    return time.perf_counter() - start, fault


def main(paths: list[Path], workers: int) -> int:
    """Run them, say after each how it went, and return how many failed."""
    failed, begun = {}, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        todo = {pool.submit(run, path, Path(folder)): path for path in paths}
        for k, done in enumerate(as_completed(todo), 1):
            (seconds, fault), name = done.result(), todo[done].stem
            print(f"{k:3}/{len(todo)}  {name:20} {seconds:6.1f} s  {fault or 'holds'}", flush=True)
            if fault:
                failed[name] = fault
    whole = time.perf_counter() - begun
    print(f"{len(paths) - len(failed)} of {len(paths)} lessons hold, {whole:.0f} s", flush=True)
    return len(failed)


def chosen(names: list[str]) -> list[Path]:
    """The lessons whose file names begin so; all where no name is given."""
    every = sorted(HERE.glob("[0-9][0-9]*_*.ipynb"))
    found = [p for p in every if not names or p.name.startswith(tuple(names))]
    if not found:
        raise SystemExit(f"lessons: needs names of lessons such as 04, got {' '.join(names)}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    os.environ.pop("TENSORLAB_FAST", None)  # the kernels inherit all this
    os.environ["TENSORLAB_STRICT"] = "1"
    os.environ.setdefault(
        "OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // arguments.workers))
    )
    sys.exit(bool(main(chosen(arguments.names), arguments.workers)))
