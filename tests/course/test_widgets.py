"""Explorers without a kernel or a browser: what a control, a typed text and an error do to picture
and sentence."""

import asyncio
import base64
import re

import pytest

from tensorlab.course.widgets import Explorer, Player, choice, decimal, integer, toggle


@pytest.fixture
def few_pixels():
    """Not here: the pictures are as on a page."""


class Bars(Explorer):
    figsize = (3, 2)
    drawn = 0

    def draw(self, figure, rank, noise, norm, grid):
        type(self).drawn += 1
        if rank == 13:
            raise ValueError("bars: needs another rank, got 13")
        if rank == 14:
            raise RuntimeError("out of bars")
        figure.subplots().bar(range(rank), range(rank))
        return f"{rank} bars < {noise:.3g} & {norm}{' with a grid' if grid else ''}."


class Countdown(Player):
    figsize = (3, 2)

    def steps(self, start):
        for state in range(start, -1, -1):
            if start == 7 and state == 5:
                raise RuntimeError("five")
            yield state

    def draw(self, figure, state, start):
        figure.subplots().bar(0, state)
        return f"{state} of {start}."


@pytest.fixture
def bars():
    return Bars(
        rank=integer(3, 1, 64),
        noise=decimal(0.1, 1e-3, 1, log=True, label="noise level"),
        norm=choice("max", ["max", "fro"]),
        grid=toggle(False),
    )


@pytest.fixture
def lenient(monkeypatch):
    monkeypatch.setenv("TENSORLAB_STRICT", "0")


def picture(explorer):
    return re.search(r'src="data:image/png;base64,([^"]*)"', explorer.view.value)[1]


def test_picture_has_its_sentence_as_alt_text_and_status(bars):
    assert 'alt="3 bars &lt; 0.1 &amp; max."' in bars.view.value
    assert bars.status.value == '<p role="status">3 bars &lt; 0.1 &amp; max.</p>'
    assert base64.b64decode(picture(bars)).startswith(b"\x89PNG")


def test_slider_moves_the_box_and_draws(bars):
    before = picture(bars)
    bars.controls["rank"].value = 5
    assert bars.boxes["rank"].value == "5" and "5 bars" in bars.sentence and picture(bars) != before


def test_box_moves_the_slider_and_draws(bars):
    bars.boxes["rank"].value = " 7 "
    assert bars.value("rank") == 7 and bars.boxes["rank"].value == "7" and "7 bars" in bars.sentence
    bars.boxes["noise"].value = "2.5e-2"
    assert (
        bars.value("noise") == 0.025
        and bars.boxes["noise"].value == "0.025"
        and "0.025" in bars.sentence
    )


@pytest.mark.thorough
def test_each_move_draws_once(bars):
    def draws(move):
        before = Bars.drawn
        move()
        return Bars.drawn - before

    assert draws(lambda: bars.boxes["rank"].set_trait("value", "9")) == 1
    assert draws(lambda: bars.controls["rank"].set_trait("value", 10)) == 1
    assert draws(lambda: bars.set(rank=11, noise=0.5, norm="fro", grid=True)) == 1
    assert bars.values == {"rank": 11, "noise": 0.5, "norm": "fro", "grid": True}
    assert bars.sentence == "11 bars < 0.5 & fro with a grid."


@pytest.mark.thorough
@pytest.mark.parametrize("text", ["999", "0", "-3", "3.5", "three", "", "nan", "1e400", "<b>"])
def test_wrong_typed_value_is_one_sentence_and_changes_nothing(bars, text):
    before = picture(bars)
    bars.boxes[
        "rank"
    ].value = text  # TENSORLAB_STRICT is on: a reader's slip is no error of the program
    escaped = text.replace("<", "&lt;").replace(">", "&gt;")
    assert f"rank: needs a whole number in 1..64, got {escaped}</p>" in bars.status.value
    assert 'role="alert"' in bars.status.value
    assert bars.value("rank") == 3 and picture(bars) == before
    bars.boxes["rank"].value = "3"
    assert bars.status.value == '<p role="status">3 bars &lt; 0.1 &amp; max.</p>'
    bars.controls["rank"].value = 4
    assert bars.boxes["rank"].value == "4" and 'role="status"' in bars.status.value


@pytest.mark.parametrize("text", ["nan", "inf", "2", "0", "x"])
def test_wrong_decimal(bars, text):
    bars.boxes["noise"].value = text
    assert f"noise level: needs a number in 0.001..1, got {text}" in bars.status.value


def test_boxes_are_named_by_the_label_or_the_keyword(bars):
    assert [box.description for box in bars.boxes.values()] == ["rank", "noise level"]
    assert [bars.controls[name].description for name in ("norm", "grid")] == ["norm", "grid"]


@pytest.mark.parametrize(
    "values, message",
    [
        ({"rank": 65}, "rank: needs a whole number in 1..64, got 65"),
        ({"rank": 2.5}, "rank: needs a whole number in 1..64, got 2.5"),
        ({"rank": None}, "rank: needs a whole number in 1..64, got None"),
        ({"rank": 5, "norm": "nuc"}, "norm: needs one of max, fro, got nuc"),
        ({"size": 5}, "Bars: needs a control out of rank, noise, norm, grid, got size"),
    ],
)
def test_set_refuses_and_moves_nothing(bars, values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        bars.set(**values)
    assert bars.value("rank") == 3


def test_error_of_draw_reaches_the_status_line(bars, lenient):
    before, sentence = picture(bars), bars.sentence
    bars.controls["rank"].value = 13
    assert (
        bars.status.value
        == '<p role="alert" style="font-weight:bold">bars: needs another rank, got 13</p>'
    )
    bars.controls["rank"].value = 14
    assert "RuntimeError: out of bars" in bars.status.value
    assert picture(bars) == before and bars.sentence == sentence
    bars.boxes["rank"].value = "99"
    bars.boxes["rank"].value = "14"  # the slip is taken back, the error is still there
    assert "RuntimeError: out of bars" in bars.status.value
    bars.controls["rank"].value = 4
    assert 'role="status"' in bars.status.value


def test_error_of_draw_is_raised_when_strict(bars):
    with pytest.raises(RuntimeError, match="out of bars"):
        bars.controls["rank"].value = 14
    with pytest.raises(ValueError, match="got 13"):
        bars.boxes["rank"].value = "13"


def test_draw_needs_a_sentence():
    class Silent(Explorer):
        def draw(self, figure):
            figure.subplots()

    with pytest.raises(TypeError, match="Silent: needs a sentence from draw, got None"):
        Silent().show()
    with pytest.raises(TypeError, match=re.escape("Explorer: needs a method draw(figure, rank)")):
        Explorer(rank=integer(1, 1, 2)).show()


@pytest.mark.thorough
def test_player_steps_by_hand():
    player = Countdown(start=integer(2, 1, 9))
    assert player.sentence == "2 of 2."
    assert player.step() and player.step() and player.sentence == "0 of 2."
    assert not player.step() and player.sentence == "0 of 2."
    player.stop()
    assert player.sentence == "2 of 2."
    player.step()
    player.controls["start"].value = 4
    assert player.sentence == "4 of 4."


@pytest.mark.thorough
def test_player_is_driven_by_its_buttons():
    async def story():
        player = Countdown(start=integer(9, 1, 9))
        player.interval = 0
        player.buttons["play"].click()
        while player.state > 6:
            await asyncio.sleep(0)
        player.buttons["pause"].click()
        held = player.state
        for _ in range(10):
            await asyncio.sleep(0)
        assert player.state == held <= 6 and player.sentence == f"{held} of 9."
        player.buttons["step"].click()
        assert player.state == held - 1
        player.buttons["play"].click()
        await player._task
        assert player.state == 0
        player.buttons["stop"].click()
        assert player.state == 9

    asyncio.run(story())


def test_error_of_a_step_reaches_the_status_line(lenient):
    player = Countdown(start=integer(7, 1, 9))
    assert player.step() and not player.step()
    assert "RuntimeError: five" in player.status.value and player.state == 6


def test_error_of_a_step_is_raised_when_strict():
    player = Countdown(start=integer(7, 1, 9))
    player.step()
    with pytest.raises(RuntimeError, match="five"):
        player.step()


class Split(Explorer):
    """Two columns of axes, and a control whose range follows another."""

    figsize = (6, 2)

    def __init__(self):
        super().__init__(size=integer(4, 2, 8), rank=integer(3, 1, 8))

    def limits(self, size, rank):
        return {"rank": (1, size)}

    def draw(self, figure, size, rank):
        left, right = figure.subplots(1, 2)
        left.plot(range(size))
        figure.colorbar(right.imshow([[rank, 0], [0, size]]), ax=right)
        return f"Rank {rank} of {size}."


@pytest.mark.thorough
def test_limits_follow_other_controls():
    e = Split()
    assert e.sentence == "Rank 3 of 4."
    e.set(size=2)
    assert e.value("rank") == 2 and e.boxes["rank"].value == "2" and e.sentence == "Rank 2 of 2."
    e.boxes["rank"].value = "3"
    assert "rank: needs a whole number in 1..2, got 3" in e.status.value
    e.controls["size"].value = 8
    e.boxes["rank"].value = "8"
    assert e.sentence == "Rank 8 of 8."


class Parts(Explorer):
    """A list whose options follow a slider: the divisors of a number."""

    def __init__(self):
        super().__init__(whole=integer(12, 2, 24), parts=choice(4, (1, 2, 3, 4, 6, 12)))

    def limits(self, whole, parts):
        return {"parts": tuple(n for n in range(1, whole + 1) if whole % n == 0)}

    def draw(self, figure, whole, parts):
        if whole % parts:
            raise ValueError(f"{parts} does not divide {whole}")
        figure.subplots().bar(range(parts), whole // parts)
        return f"{parts} of {whole}."


@pytest.mark.thorough
def test_options_of_a_list_follow_other_controls():
    e = Parts()
    assert e.sentence == "4 of 12."
    for whole in range(2, 25):
        e.set(whole=whole)
        assert e.sentence == f"{e.value('parts')} of {whole}."
    assert e.controls["parts"].options == (1, 2, 3, 4, 6, 8, 12, 24)
    e.set(parts=24)
    e.controls["whole"].value = 7  # by the mouse: one picture, the nearest that divides
    assert e.sentence == "7 of 7."
    with pytest.raises(ValueError, match="parts: needs one of 1, 7, got 2"):
        e.set(parts=2)
    e.buttons["reset"].click()
    assert e.sentence == "4 of 12." and e.controls["parts"].options == (1, 2, 3, 4, 6, 12)


@pytest.mark.thorough
def test_reset_goes_back_to_the_first_picture():
    e = Split()
    first = picture(e)
    e.set(size=2)
    e.buttons["reset"].click()
    assert e.values == {"size": 4, "rank": 3} and picture(e) == first


@pytest.mark.thorough
@pytest.mark.parametrize("ending, head", [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_the_picture_is_saved(tmp_path, monkeypatch, ending, head):
    monkeypatch.chdir(tmp_path)
    e = Split()
    for k in (1, 2):
        e.buttons[ending].click()
        path = tmp_path / "results" / f"Split-{k}.{ending}"
        assert path.read_bytes().startswith(head)
        assert f"Saved as results/Split-{k}.{ending}." in e.status.value


def test_a_sign_says_when_the_kernel_works(bars):
    seen = []
    bars.busy.observe(lambda change: seen.append(bool(change.new)), names="value")
    bars.controls["rank"].value = 5
    assert seen == [True, False]


def test_columns_are_images_of_their_own_for_both_themes():
    page = Split().view.value
    light, dark = page.split('class="tensorlab-dark"')
    assert light.count("<img") == dark.count("<img") == 2  # a color bar stays with its axes
    assert light.count('alt=""') == 1 and 'alt="Rank 3 of 4."' in light
    assert "flex-wrap:wrap" in light and 'data-jp-theme-light="false"' in light
    least = [
        float(low) / float(wide)
        for wide, low in re.findall(r" width:(\d+)px; min-width:(\d+)px", light)
    ]
    assert all(8.5 * 96 / 72 * share >= 9 for share in least) and len(least) == 2


def test_a_long_label_of_a_check_mark_leaves_lists_their_width():
    e = Bars(
        rank=integer(3, 1, 64),
        noise=decimal(0.1, 1e-3, 1, log=True),
        norm=choice("max", ["max", "fro"]),
        grid=toggle(False, label="a label as long as a whole sentence of the lesson"),
    )
    label, whole = (
        float(v[:-2])
        for v in (e.controls["norm"].style.description_width, e.controls["norm"].layout.width)
    )
    assert label < 5 and whole - label >= 5


@pytest.mark.thorough
def test_a_player_may_begin_some_steps_in():
    class Later(Countdown):
        begin = 2

    player = Later(start=integer(4, 1, 9))
    assert player.sentence == "2 of 4." and player.step() and player.sentence == "1 of 4."
    player.buttons["stop"].click()
    assert player.sentence == "4 of 4."


def test_no_two_widgets_share_a_layout(bars):
    """What is set for one would be set for the other: the sentence was as narrow as the sign that
    the kernel works."""
    todo, layouts = [bars.ui], []
    while todo:
        widget = todo.pop()
        layouts.append(widget.layout)
        todo += getattr(widget, "children", ())
    assert len({id(layout) for layout in layouts}) == len(layouts) > 10
    assert bars.status.layout.width == bars.view.layout.width == "100%"
