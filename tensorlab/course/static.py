"""An explorer on a page that no kernel serves: its states are drawn beforehand, and a range input
shows one of them with its sentence.

With TENSORLAB_STATIC=1 explorers appear so, in the book and in notebooks that keep their outputs.
The page asks nobody for anything; where scripts are taken away, the first picture and its sentence
are left.
"""

import hashlib
import html
import json
import os
import re
from dataclasses import dataclass, field

PICTURE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]+")
LIMIT = 700_000  # bytes of an explorer: a page of 2 MB has two, and other pictures


@dataclass
class Strip:
    """The states that the range input runs through, for one option of the list.

    states: (where, picture, sentence), where: words for the range input. first: its start.
    """

    option: str
    states: list[tuple[str, str, str]] = field(default_factory=list)
    first: int = 0


@dataclass
class Sheet:
    """What a page shows of an explorer: names of the range input and of the list, one row for each
    option of the list, which of them is first, and what is fixed."""

    title: str
    range: str
    list: str
    rows: list[Strip]
    first: int = 0
    fixed: list[str] = field(default_factory=list)


def wanted() -> bool:
    """Whether explorers are to appear as pages without a kernel."""
    return os.environ.get("TENSORLAB_STATIC") == "1"


def page(sheet: Sheet, limit: int = LIMIT) -> str:
    """The sheet as HTML of at most `limit` bytes: each second state goes until it fits, and then
    the options of the list, the last first.

    Raises ValueError if two states are larger than the limit.
    """
    while len(whole := _html(sheet).encode()) > limit:
        if any(len(row.states) > 2 for row in sheet.rows):
            sheet.rows = [thinned(row) for row in sheet.rows]
        elif len(sheet.rows) > 1:
            del sheet.rows[-2 if sheet.first == len(sheet.rows) - 1 else -1]
            sheet.first = min(sheet.first, len(sheet.rows) - 1)
        else:
            raise ValueError(f"page: needs states that fit into {limit} bytes, got {len(whole)}")
    return whole.decode()


def thinned(row: Strip) -> Strip:
    """Each second state, the first that is shown and both ends among them.

    >>> thinned(Strip("all", [("0",), ("1",), ("2",), ("3",), ("4",)], first=1)).states
    [('0',), ('1',), ('3',), ('4',)]
    """
    last = len(row.states) - 1
    kept = [i for i in range(last + 1) if (i - row.first) % 2 == 0 or i in (0, last)]
    if len(kept) == len(row.states):  # three with the first in the middle: one end is left
        kept = kept[1:]
    return Strip(row.option, [row.states[i] for i in kept], kept.index(row.first))


def _shared(sheet: Sheet) -> dict:
    """The states of all rows with pictures by number, and the pictures: a photograph that many
    states show is held once."""
    known: dict[str, int] = {}
    number = lambda found: f"#{known.setdefault(found[0], len(known))}"
    rows = [
        [(where, PICTURE.sub(number, picture), sentence) for where, picture, sentence in row.states]
        for row in sheet.rows
    ]
    return {"rows": rows, "pictures": list(known)}


def _html(sheet: Sheet) -> str:
    data = json.dumps(_shared(sheet), ensure_ascii=False)
    data = data.replace("</", "<\\/")  # else a picture's markup would end the script
    name = "explorer-" + hashlib.sha256((sheet.title + data).encode()).hexdigest()[:12]
    row = sheet.rows[sheet.first]
    where, picture, sentence = row.states[row.first]
    fixed = f"<p>Fixed here: {html.escape(', '.join(sheet.fixed))}.</p>" if sheet.fixed else ""
    return (
        f'<div class="tensorlab-static" id="{name}" role="group" '
        f'aria-label="{html.escape(sheet.title, quote=True)}">{THEMES}{STYLE}'
        f'<div class="tensorlab-controls">{_range(sheet, row, name)}{_list(sheet, name)}</div>'
        f'<div class="tensorlab-picture">{picture}</div>'
        f'<p role="status">{html.escape(sentence)}</p>{fixed}'
        f'<script type="application/json">{data}</script>'
        f"<script>{SCRIPT % json.dumps(name)}</script></div>"
    )


def _range(sheet: Sheet, row: Strip, name: str) -> str:
    where = html.escape(row.states[row.first][0], quote=True)
    return (
        f'<label for="{name}-range">{html.escape(sheet.range)}</label> '
        f'<input type="range" id="{name}-range" min="0" max="{len(row.states) - 1}" step="1" '
        f'value="{row.first}" autocomplete="off" aria-valuetext="{where}"> '
        f'<output for="{name}-range">{where}</output> '
    )


def _list(sheet: Sheet, name: str) -> str:
    if not sheet.list:
        return ""
    options = "".join(
        f"<option{' selected' if k == sheet.first else ''}>{html.escape(row.option)}</option>"
        for k, row in enumerate(sheet.rows)
    )
    return (
        f'<label for="{name}-list">{html.escape(sheet.list)}</label> '
        f'<select id="{name}-list" autocomplete="off">{options}</select>'
    )


# Where styles are taken away, as in a notebook that is not trusted, the light picture is left; on
# paper it is the light one too.
THEMES = """<style>
@media not print {
body[data-jp-theme-light="false"] .tensorlab-light,
html[data-theme="dark"] .tensorlab-light { display: none !important }
body[data-jp-theme-light="false"] .tensorlab-dark,
html[data-theme="dark"] .tensorlab-dark { display: flex !important }
}
</style>"""

STYLE = """<style>
.tensorlab-static { margin: 1em 0 }
.tensorlab-controls { display: flex; flex-wrap: wrap; align-items: center; gap: .3em .8em }
.tensorlab-controls input { flex: 0 1 16em; min-width: 8em }
.tensorlab-controls output { min-width: 4em }
.tensorlab-controls select { max-width: 100%; font: inherit }
</style>"""

SCRIPT = """(() => {
  const root = document.getElementById(%s);
  const {rows, pictures} = JSON.parse(root.querySelector("script").textContent);
  const [range, list, output] = ["input", "select", "output"].map(s => root.querySelector(s));
  const show = () => {
    const states = rows[list ? list.selectedIndex : 0];
    range.max = states.length - 1;
    const [where, picture, sentence] = states[range.value];
    output.textContent = where;
    range.setAttribute("aria-valuetext", where);
    root.querySelector(".tensorlab-picture").innerHTML =
      picture.replace(/src="#(\\d+)"/g, (_, k) => `src="${pictures[k]}"`);
    root.querySelector('[role="status"]').textContent = sentence;
  };
  range.addEventListener("input", show);
  if (list) list.addEventListener("change", show);
})();"""
