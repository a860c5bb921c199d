"""Explorers on a page without a kernel: structure, size, and what is left where scripts are taken
away. A browser moves them in tests/browser/test_static.py."""

import importlib
import inspect
import json
import pkgutil
import re
from html.parser import HTMLParser

import pytest

from tensorlab.course import lessons, static, widgets
from tensorlab.course.widgets import Explorer, Player, choice, decimal, integer, toggle

NEED = {"ScalingExplorer", "Ran"}  # those that are made from what a lesson has measured


def explorers():
    """All explorers of the lessons that need nothing to be made."""
    for module in pkgutil.iter_modules(lessons.__path__):
        module = importlib.import_module(f"{lessons.__name__}.{module.name}")
        for name, kind in inspect.getmembers(module, inspect.isclass):
            own = issubclass(kind, Explorer) and kind.__module__ == module.__name__
            if own and name not in NEED:
                yield pytest.param(kind, id=f"{module.__name__.rsplit('.')[-1]}.{name}")


class Page(HTMLParser):
    """The elements of a page as (tag, attributes), and the text of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self._script = [], [], False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._script = tag == "script"

    def handle_endtag(self, tag):
        self._script = False

    def handle_data(self, data):
        if self._script:
            self.scripts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def one(self, tag):
        (found,) = self.all(tag)
        return found


class Bars(Explorer):
    """Bars, as many as the rank."""

    figsize = (3, 2)

    def limits(self, rank, **others):
        return {"width": (1, rank)}

    def draw(self, figure, rank, norm, width, grid):
        if rank == 1:
            raise ValueError("bars: needs another rank, got 1 </script>")
        figure.subplots().bar(range(rank), range(rank))
        return f"{rank} bars < & {norm} of width {width}{' with a grid' if grid else ''}."

    def __init__(self):
        super().__init__(
            rank=integer(4, 1, 7),
            norm=choice("fro", ("max", "fro", "nuc")),
            width=integer(4, 1, 7),
            grid=toggle(True),
        )


class Countdown(Player):
    figsize = (3, 2)
    begin = 1

    def steps(self, start):
        yield from range(start, -1, -1)

    def draw(self, figure, state, start):
        figure.subplots().bar(0, state)
        return f"{state} of {start}."


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures without the time that they take; that they are drawn is tested lesson by lesson."""
    blank = f"data:image/png;base64,iVBOR{'A' * 3000}"

    def draw(figure, sentence, small):
        for ax in figure.axes:
            lines = [*ax.get_xgridlines(), *ax.get_ygridlines()]
            assert not (ax.images and any(line.get_visible() for line in lines)), (
                "a grid on a picture"
            )
        return f'<img alt="{sentence}" src="{blank}">'

    monkeypatch.setattr(widgets, "_themes", draw)


@pytest.fixture
def whole(monkeypatch):
    monkeypatch.setenv("TENSORLAB_FAST", "0")


@pytest.mark.thorough
@pytest.mark.parametrize("kind", list(explorers()))
def test_every_explorer_of_the_lessons_has_states_that_differ(kind, undrawn):
    sheet = kind().sheet()
    states = [state for row in sheet.rows for state in row.states]
    assert len(states) > 1 and all(len(row.states) > row.first >= 0 for row in sheet.rows)
    assert all(where and len(sentence.split()) > 2 for where, _, sentence in states)
    assert any(picture for _, picture, _ in states)
    assert len({sentence for *_, sentence in states}) > 1, "nothing moves"
    assert sheet.rows[sheet.first].states[sheet.rows[sheet.first].first][1], "the first is drawn"


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [k for k in explorers() if not issubclass(k.values[0], Player)])
def test_the_first_slider_moves_the_picture(kind):
    e = kind()
    before, knob = e.view.value, next((k for k in e.controls.values() if hasattr(k, "step")), None)
    if knob is None:  # lists alone
        assert all(hasattr(k, "options") for k in e.controls.values())
        return

    def moves(step):
        start = knob.value
        knob.value = min(max(start + step, knob.min), knob.max)
        seen, knob.value = e.view.value, start
        return seen != before

    assert moves(-knob.step) or moves(knob.step)


@pytest.mark.thorough
def test_the_page_says_what_the_explorer_says(whole, undrawn):
    e = Bars()
    page = Page(static.page(e.sheet()))
    data, script = page.scripts
    rows = json.loads(data)["rows"]
    assert [[where for where, *_ in states] for states in rows] == [list("1234567")] * 3
    assert rows[1][6][2] == "7 bars < & fro of width 4 with a grid."
    assert rows[1][0][1:] == ["", "bars: needs another rank, got 1 </script>"]
    assert rows[0][2][2] == "3 bars < & max of width 3 with a grid.", "the range that rank leaves"

    slider, light = page.one("input"), page.all("img")[0]
    assert slider["type"] == "range" and slider["value"] == "3" and slider["max"] == "6"
    assert light["alt"] == e.sentence and light["src"].startswith("data:image/png;base64,iVBOR")
    assert {label["for"] for label in page.all("label")} == {
        slider["id"],
        page.one("select")["id"],
    }
    chosen = ["selected" in option for option in page.all("option")]
    assert chosen == [False, True, False]
    assert page.all("div")[0]["aria-label"] == "Bars, as many as the rank."
    assert "Fixed here: width 4, grid yes." in static.page(e.sheet())


@pytest.mark.thorough
def test_a_page_asks_nobody_for_anything():
    text = static.page(Countdown(start=integer(2, 1, 9)).sheet())
    first = re.findall(r'src="(data:image/png;base64,iVBOR[^"]*")', text)
    held = json.loads(Page(text).scripts[0])
    by_number = re.findall(r'src="#(\d+)"', str(held["rows"]))
    assert len(first) == 2 and len(by_number) == 2 * len(held["rows"][0])  # two themes of a state
    assert str(held["rows"]).count("src=") == len(by_number)
    assert {int(k) for k in by_number} == {*range(len(held["pictures"]))}
    assert all(p.startswith("data:image/png;base64,iVBOR") for p in held["pictures"])
    for picture in [*first, *held["pictures"]]:
        text = text.replace(picture, "")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)


def test_a_page_keeps_its_limit_and_its_first_state():
    full = static.page(shown("A", 1))
    thin = static.page(shown("A", 1), limit=len(full.encode()) * 4 // 5)
    assert len(thin.encode()) <= len(full.encode()) * 4 // 5
    states = json.loads(Page(thin).scripts[0])["rows"][1]
    assert [where for where, *_ in states] == ["0", "2", "4", "6", "8"]
    assert Page(thin).one("input")["value"] == "2"
    with pytest.raises(ValueError, match="fit into 1000 bytes"):
        static.page(shown("A", 1), limit=1000)


def shown(picture: str, first: int, options: int = 4, count: int = 9) -> static.Sheet:
    """A sheet whose states have a picture of their own beside one that all have."""
    image = lambda code: f'<img alt="" src="data:image/png;base64,{code}">'
    state = lambda k, i: (f"{i}", image(picture) + image(f"{k}{i}" * 500), f"{k} {i}")
    rows = [
        static.Strip(f"option {k}", [state(k, i) for i in range(count)], 4) for k in range(options)
    ]
    return static.Sheet("pictures", "i", "k", rows, first)


def test_a_picture_that_all_states_show_is_held_once():
    text = static.page(shown("A" * 20_000, 0))
    assert text.count("A" * 20_000) == 2  # once for all, and once where scripts are taken away
    assert len(json.loads(Page(text).scripts[0])["rows"][3]) == 9


@pytest.mark.parametrize("first", range(4))
def test_where_two_states_are_too_large_options_go_but_not_the_first(first):
    sheet = shown("A", first)
    text = static.page(sheet, limit=9_000)
    rows = json.loads(Page(text).scripts[0])["rows"]
    assert len(text) <= 9_000 and 1 <= len(rows) < 4 and {len(row) for row in rows} == {2}
    options = [("selected" in o) for o in Page(text).all("option")]
    assert len(options) == len(rows) and sheet.rows[options.index(True)].option == f"option {first}"
    assert rows[sheet.first][sheet.rows[sheet.first].first][2] == f"{first} 4"


@pytest.mark.parametrize("count", range(1, 9))
def test_thinning_ends_at_two_states_and_keeps_the_first(count):
    for first in range(count):
        row = static.Strip("all", [(str(k), "", "") for k in range(count)], first)
        while len(row.states) > 2:
            thin = static.thinned(row)
            assert len(thin.states) < len(row.states)
            row = thin
        assert row.states[row.first][0] == str(first)


@pytest.mark.thorough
def test_a_player_shows_its_steps_from_begin_to_end(whole, undrawn):
    sheet = Countdown(start=integer(300, 1, 400)).sheet()
    (row,) = sheet.rows
    at = [int(where) for where, *_ in row.states]
    assert (sheet.range, sheet.list, at[0], at[-1]) == ("step", "", 0, 300)
    assert 25 <= len(at) <= 51 and len(set(b - a for a, b in zip(at, at[1:-1]))) == 1
    assert row.states[-1][2] == "0 of 300." and row.states[row.first][2] == "300 of 300."
    short = Countdown(start=integer(5, 1, 9)).sheet().rows[0]
    assert [s for *_, s in short.states] == [f"{k} of 5." for k in (5, 4, 3, 2, 1, 0)]
    assert short.first == 1


def test_grids_hold_what_the_control_says_now():
    assert integer(4, 1, 427).grid(3) == [4, 214, 427]
    assert decimal(0.2, 1e-3, 1, log=True).grid(4) == [0.001, 0.01, 0.2, 1.0]
    assert decimal(0.5, 0, 1).grid(3) == [0.0, 0.5, 1.0]
    assert integer(2, 1, 3).grid(9) == [1, 2, 3]
    assert choice("d", "abcd").grid(2) == ["a", "d"] and choice("a", "abcd").grid(9) == [*"abcd"]
    assert integer(3, 1, 9).grid(1) == [3]


@pytest.mark.thorough
def test_explorers_appear_as_pages_where_it_is_wanted(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    e = Countdown(start=integer(2, 1, 9))
    e._ipython_display_()
    monkeypatch.setenv("TENSORLAB_STATIC", "1")
    e._ipython_display_()
    widgets.picture(lambda figure: e.draw(figure, 1, 2))
    assert shown[0] is e.ui and "tensorlab-static" in shown[1].data
    assert 'alt="1 of 2."' in shown[2].data
