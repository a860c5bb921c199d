"""A paper's table or figure as data: the sizes of its presets, the cases of its rows, how a row is
measured and how the table is drawn. What runs it is here, once.

A run saves each row as soon as it is there, so one that was killed goes on where it was; rows that
were made with other settings are measured again.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from tqdm import tqdm

from .. import extras
from ..arguments import one_of
from . import processes
from .processes import SHARES
from .table import Table, load, printed, results, show, to_value

PRESETS = ("quick", "full")


def beside_printed(table: Table) -> Table:
    """The table with the printed numbers beside ours."""
    return table.beside(printed(table.key))


def as_it_is(table: Table) -> Table:
    """The table itself: nothing is printed, or rows of another kind."""
    return table


@dataclass(frozen=True)
class Program:
    """A table that one command makes again.

    key: under which its files are kept, a paper's key and perhaps a word. about: the docstring of
    its module. sizes: what each preset takes. cases(size): the labels of the rows; or a function of
    the table, which gives them one by one and may look at the rows before, or gives a list at a
    time, of rows that do not depend on each other. measure(size, **case): one row without its
    labels. settings(size): what else the numbers depend on, such as steps and seed. draw(table,
    ax): draws the table and returns a sentence. finish: what is done to the rows when all are
    there, such as `beside_printed`. needs: modules of extras that it cannot do without, beside the
    one that draws. share: what processes that torchrun has started share, "rows", or "batches"
    where `measure` trains what is `data_parallel`.

    >>> squares = Program("Name2020", "Squares of numbers.", {"quick": {"most": 2}},
    ...                   cases=lambda size: [{"n": n} for n in range(size["most"])],
    ...                   measure=lambda size, n: {"square": n * n})
    >>> squares.cases(squares.sizes["quick"])
    [{'n': 0}, {'n': 1}]
    """

    key: str
    about: str
    sizes: dict[str, dict]
    cases: Callable[[dict], Iterable[dict] | Callable[[Table], Iterable[dict | list[dict]]]]
    measure: Callable[..., dict]
    settings: Callable[[dict], dict] = lambda size: {}
    draw: Callable[..., str] | None = None
    finish: Callable[[Table], Table] = as_it_is
    needs: tuple[str, ...] = ()
    share: str = "rows"

    @property
    def title(self) -> str:
        """What it makes, in one line."""
        return " ".join(self.about.split("\n\n")[0].split())

    def run(
        self,
        preset: str,
        *,
        resume: bool = True,
        progress: bool = True,
        share: str | None = None,
    ) -> Table:
        """The table of a preset; see `run_rows`. share: "rows" for processes that share out the
        rows of a program whose batches they would share; None: what the program says.

        Raises ValueError if there is no such preset or way to share, and ModuleNotFoundError,
        before it begins, if a module that it needs is missing."""
        one_of(self.key, "preset", preset, PRESETS)
        share = self.share if share is None else one_of(self.key, "share", share, SHARES)
        if share == "batches" and self.share != "batches":
            raise ValueError(f"{self.key}: needs share='rows', for it has no batches to share")
        extras.require(self.key, *self.needs, *(["matplotlib"] if self.draw else []))
        size = self.sizes[preset]
        table = run_rows(
            self.key,
            preset,
            self.cases(size),
            partial(self.measure, size),
            settings=self.settings(size),
            resume=resume,
            progress=progress,
            share=share,
        )
        return self.finish(table)


def run_rows(
    key: str,
    preset: str,
    cases: Iterable[dict] | Callable[["Table"], Iterable[dict | list[dict]]],
    measure: Callable[..., dict],
    *,
    settings: dict | None = None,
    resume: bool = True,
    progress: bool = True,
    share: str = "rows",
) -> Table:
    """The table with one row for each case, `case | measure(**case)`; the same in all processes of
    a group, of which the first one writes.

    key, preset: the file is results/<key>-<preset>.csv where the command is given. resume: keep the
    rows that are there; those of other cases stay in the file. progress: one line on stderr for
    each row, and below them a bar where that is a terminal. The other arguments are those of
    `Program`, with the size given.
    """
    one_of("run_rows", "share", share, SHARES)
    path, first = results(key, preset), processes.rank() == 0
    progress = progress and first
    notes = {"preset": preset, **{name: str(value) for name, value in (settings or {}).items()}}
    old = processes.from_first(_kept(path, notes) if resume and first else [])
    table = Table(key, [], notes)
    groups = cases(table) if callable(cases) else [list(cases)]
    total = None if callable(cases) else len(groups[0])
    of = "" if total is None else f"/{total}"
    start = time.perf_counter()
    with tqdm(None, f"{key} {preset}", total, disable=None if progress else True) as bar:
        if progress and (sentence := processes.told(share, total is not None)):
            bar.write(f"{key} {preset}: {sentence}", file=sys.stderr)
        for number, (row, made) in enumerate(_rows(share, measure, groups, old), 1):
            table.rows.append(row)
            if made and first:
                more = [row for row in old if row not in table.rows]
                Table(key, table.rows + more, notes).save(path)
            bar.update()
            if progress:
                took = f"{time.perf_counter() - start:.1f} s" if made else "was there"
                what = ", ".join(f"{name} {show(value)}" for name, value in row.items())
                bar.write(f"{key} {preset} {number}{of}: {what} ({took})", file=sys.stderr)
            start = time.perf_counter()
    return table


def _kept(path, notes: dict) -> list[dict]:
    """The rows of a run before with the same notes."""
    if not path.exists():
        return []
    table = load(path)
    return table.rows if table.notes == notes else []


def _labels(case: dict) -> dict:
    return {name: to_value(value) for name, value in case.items()}


def _find(rows: list[dict], case: dict) -> dict | None:
    return next((row for row in rows if _labels(case).items() <= row.items()), None)


def _rows(share: str, measure, groups, old: list[dict]) -> Iterator[tuple[dict, bool]]:
    """Each row and whether it was measured now. The cases of one group do not depend on each other:
    processes measure some of them ahead."""
    for group in groups:
        group = group if isinstance(group, list) else [group]
        rows = processes.shared(share, measure, [c for c in group if _find(old, c) is None])
        for case in group:
            kept = _find(old, case)
            yield kept or _labels(case) | next(rows), kept is None
