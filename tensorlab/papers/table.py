"""Tables of measured numbers, set beside the printed ones.

A file is csv with `# name: value` lines on top, which say what the rows were made with.
"""

import csv
import datetime
import itertools
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..files import replaced

SCREEN = 30  # rows that a notebook shows
MADE = ("preset", "date", "machine")  # notes that a caption says
SHIPPED = Path(__file__).parent / "data"  # in an installed package; see setup.py


@dataclass
class Table:
    """Rows of a table, dicts from column to a number, a text or None; `notes` say how they came
    about.

    >>> table = Table("Name2020", [{"rank": 1, "error": 0.5}, {"rank": 2, "error": 0.25}])
    >>> table["error"], table.where(rank=2)
    ([0.5, 0.25], [{'rank': 2, 'error': 0.25}])
    >>> print(table)
    rank  error
       1  0.5
       2  0.25
    """

    key: str
    rows: list[dict] = field(default_factory=list)
    notes: dict = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """The names of all columns, in the order in which rows bring them."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def __getitem__(self, column: str) -> list:
        if column not in self.columns:
            raise KeyError(f"Table: needs one of the columns {self.columns}, got {column!r}")
        return [row.get(column) for row in self.rows]

    def __len__(self):
        return len(self.rows)

    def where(self, **label) -> list[dict]:
        """The rows that hold these values."""
        return [row for row in self.rows if all(row.get(k) == v for k, v in label.items())]

    def beside(self, printed: "Table") -> "Table":
        """The printed numbers beside ours, as columns "<name> (printed)"; what both have and agree
        in is the label of a row.

        The label columns are those of `printed.notes["label"]`, names with blanks between. A
        printed row that we have not measured comes last, with its label; where nothing is printed,
        the table is not changed.

        >>> ours = Table("Name2020", [{"rank": 1, "error": 0.5}])
        >>> print(ours.beside(Table("Name2020", [{"rank": 1, "error": 0.4}], {"label": "rank"})))
        rank  error  error (printed)
           1  0.5    0.4
        """
        if not printed.rows:
            return Table(self.key, list(self.rows), dict(self.notes))
        names = printed.notes.get("label", "").split()
        label = lambda row: tuple(row.get(name) for name in names)
        found = {label(row): row for row in printed.rows}
        columns = [name for name in printed.columns if name not in names]
        if not names or len(found) < len(printed.rows):
            raise ValueError(
                f"Table.beside: needs printed rows with distinct labels, got label {names}"
            )
        mine = [
            row | {f"{c} (printed)": found.get(label(row), {}).get(c) for c in columns}
            for row in self.rows
        ]
        seen = {label(row) for row in self.rows}
        rest = [
            dict(zip(names, k)) | {f"{c} (printed)": row.get(c) for c in columns}
            for k, row in found.items()
            if k not in seen
        ]
        return Table(self.key, mine + rest, dict(self.notes))

    def __str__(self):
        lines = [self.columns] + [[show(row.get(c)) for c in self.columns] for row in self.rows]
        lines = [[" ".join(text.splitlines()) for text in line] for line in lines]
        wide = [max(map(len, column)) for column in zip(*lines)]
        right = [all(isinstance(row.get(c), int) for row in self.rows) for c in self.columns]
        pad = lambda line: "  ".join(
            t.rjust(n) if r else t.ljust(n) for t, n, r in zip(line, wide, right)
        ).rstrip()
        return "\n".join(map(pad, lines))

    def _repr_markdown_(self):
        """A screen of rows, and below them a caption."""
        if not self.columns:
            return ""
        line = lambda cells: "| " + " | ".join(cells) + " |"
        head = [line(map(_markdown, self.columns)), line("---" for _ in self.columns)]
        rows = [
            line(_markdown(show(row.get(c))) for c in self.columns) for row in self.rows[:SCREEN]
        ]
        return "\n".join([*head, *rows, "", self._caption()])

    def _caption(self) -> str:
        made = [f"{name} {self.notes[name]}" for name in MADE if name in self.notes]
        left = len(self) - SCREEN
        more = f" The first {SCREEN} of {len(self)} rows; print shows all." if left > 0 else ""
        return f"*{', '.join(map(_markdown, [self.key, *made]))}.{more}*"

    def save(self, path) -> Path:
        """Write it as csv; the file changes all at once, so that no kill leaves half a row.

        Raises ValueError for a note that a line `# name: value` cannot hold.
        """
        for name, value in self.notes.items():
            if ": " in name or len(f"{name}: {value}.".splitlines()) > 1:
                raise ValueError(f"Table.save: needs notes of one line, got {name!r}: {value!r}")
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
            file.writelines(f"# {name}: {value}\n" for name, value in self.notes.items())
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        return path


def load(path) -> Table:
    """A table from its csv file; numbers come back as int or float, an empty cell as None."""
    notes = {}
    with open(path, newline="", encoding="utf-8") as file:
        while (line := file.readline()).startswith("# "):
            name, value = line[2:].rstrip("\r\n").split(": ", 1)
            notes[name] = value
        rows = list(csv.DictReader(itertools.chain([line], file)))
    rows = [{name: _value(text) for name, text in row.items()} for row in rows]
    return Table(Path(path).stem, rows, notes)


def results(key: str, preset: str, ending: str = "csv") -> Path:
    """Where a run writes: results/<key>-<preset>.<ending> in the folder where the command is
    given."""
    return Path("results") / f"{key}-{preset}.{ending}"


def printed(key: str) -> Table:
    """The numbers printed in the paper, data/papers/<key>.csv; a table without rows where the paper
    prints none we rerun."""
    return _stored("papers", key)


def measured(key: str) -> Table:
    """Our numbers at preset full, data/measured/<key>.csv; without rows where nobody has run it."""
    return _stored("measured", key)


def record(table: Table) -> Path:
    """Write data/measured/<key>.csv: the rows, and in its notes the date, the sizes and the kind of
    machine. From an installed package the folder `data` is made where the command is given."""
    threads = f"{torch.get_num_threads()} threads"
    machine = f"{platform.machine()} {platform.system()}"
    when = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{machine}, {threads}, {device_kind()}",
        "torch": torch.__version__.split("+")[0],
    }
    own = [place for place in _places() if place != SHIPPED] or [Path.cwd() / "data"]
    path = own[0] / "measured" / f"{table.key}.csv"
    return Table(table.key, table.rows, {**when, **table.notes}).save(path)


def device_kind() -> str:
    """The accelerator that a program would use, or "cpu"."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _places() -> list[Path]:
    """The folders `data` there are: where the command is given, beside the package in a clone, and
    in an installed package."""
    places = [Path.cwd() / "data", Path(__file__).parents[2] / "data", SHIPPED]
    return [place for place in places if (place / "papers").is_dir()]


def _stored(kind: str, key: str) -> Table:
    paths = (place / kind / f"{key}.csv" for place in _places())
    path = next((path for path in paths if path.exists()), None)
    return Table(key) if path is None else load(path)


def _text(value) -> str:
    return "" if value is None else str(value)


def _value(text: str):
    for kind in (int, float):
        try:
            return kind(text) if "_" not in text and text == text.strip() else text
        except ValueError:
            pass
    return text or None


def to_value(value):
    """A label as it comes back from a file: numbers of any kind as int or float.

    >>> to_value(0.5), to_value("both"), to_value(None)
    (0.5, 'both', None)
    """
    return _value(_text(value))


def show(value) -> str:
    """A cell as a reader sees it: floats with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else _text(value)


def _markdown(text: str) -> str:
    """Text that a cell of a Markdown table shows as it is.

    >>> print(_markdown("71 | 70 of a_b*"))
    71 \\| 70 of a\\_b\\*
    """
    text = re.sub(r"([\\`*_{}\[\]<>|~$&#!])", r"\\\1", text)
    return re.sub(r"\r\n|\r|\n", "<br>", text)
