"""Many independent jobs, over ranks, seeds and learning rates, on the cores of a machine or on a
cluster, by joblib.

    points = grid(rank=(2, 4), seed=range(3))
    with joblib.parallel_config("loky", n_jobs=4): rows = sweep(one, points, path)
    with Client("scheduler:8786"), joblib.parallel_config("dask"): ...the same line

A sweep that is killed goes on where it was: each row is saved as soon as it is there.
"""

import csv
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from ..arguments import is_integer
from ..files import replaced


def grid(**values: Iterable) -> list[dict]:
    """All combinations, the last name the fastest.

    >>> grid(rank=(2, 4), seed=range(2))
    [{'rank': 2, 'seed': 0}, {'rank': 2, 'seed': 1}, {'rank': 4, 'seed': 0}, {'rank': 4, 'seed': 1}]
    """
    return [dict(zip(values, point)) for point in itertools.product(*values.values())]


def sweep(
    function: Callable[..., dict],
    points: list[dict],
    path: str | os.PathLike | None = None,
    *,
    progress: bool = True,
    threads: int = 1,
) -> list[dict]:
    """The rows point | function(**point), in the order of the points, by the backend that
    `joblib.parallel_config` names around it.

    function: of a module that workers can import; it returns a dict of numbers and texts, draws
        from a generator that it seeds itself, and loads data by name rather than being given them.
    points: keyword arguments of the function, no two alike.
    path: a file of lines of JSON; points that it holds are not run again. None: nothing is kept.
    progress: whether a line goes to stderr for each row.
    threads: of torch, in each worker, so that the numbers are the same on every backend.

    Raises ValueError for two equal points, and for a file whose points have other names.
    """
    keys = [_key(point) for point in points]
    if len(set(keys)) < len(keys):
        raise ValueError("sweep: needs different points, got one of them twice")
    if not is_integer(threads) or threads < 1:
        raise ValueError(f"sweep: needs a number of threads >= 1, got {threads!r}")
    import joblib

    rows = {} if path is None else _saved(Path(path), points)
    left = [point for key, point in zip(keys, points) if key not in rows]
    run = joblib.Parallel(return_as="generator_unordered")
    done = run(joblib.delayed(_one)(function, point, threads) for point in left)
    for point, row in done:
        rows[_key(point)] = row
        if path is not None:
            _append(Path(path), {"point": point, "row": row})
        if progress:
            said = ", ".join(f"{name} {value}" for name, value in (point | row).items())
            print(f"sweep {len(rows)}/{len(points)}: {said}", file=sys.stderr, flush=True)
    return [point | rows[key] for key, point in zip(keys, points)]


def save_csv(rows: list[dict], path: str | os.PathLike) -> None:
    """Write the rows of a sweep as csv, all at once."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with replaced(Path(path)) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _one(function, point: dict, threads: int) -> tuple[dict, dict]:
    """A row, made in a worker; how many threads torch has there is as before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return point, function(**point)
    finally:
        torch.set_num_threads(before)


def _key(point: dict) -> str:
    return json.dumps(point, sort_keys=True)


def _saved(path: Path, points: list[dict]) -> dict[str, dict]:
    """The rows of a file by their points; a last line that a kill has cut short is dropped."""
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        with replaced(path) as part:
            part.write_text(whole, encoding="utf-8")
    kept = [json.loads(line) for line in whole.splitlines()]
    names = {tuple(sorted(point)) for point in points}
    for line in kept:
        if tuple(sorted(line["point"])) not in names:
            got = ", ".join(sorted(line["point"]))
            raise ValueError(f"sweep: needs a file of the same points, got one of {got} in {path}")
    return {_key(line["point"]): line["row"] for line in kept}


def _append(path: Path, line: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())
