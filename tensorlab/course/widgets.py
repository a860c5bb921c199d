"""Pictures with controls: `Explorer` draws anew when a control moves, `Player` also while time
passes.

A picture says what it shows in one sentence, which is its alternative text and stands below it as a
status. Every slider has a box to type in, for a slider has no name that a screen reader could say.
`interact` is not used: it swallows exceptions, and a broken slider would pass the tests.
"""

import asyncio
import base64
import contextlib
import html
import io
import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path

import ipywidgets as w
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from .. import plots
from ..files import replaced
from . import static
from .lab import fast

# ----------------------------------------------------------------------------------------- controls


class Number:
    """A slider and a box to type in, for numbers from low to high."""

    def __init__(self, slider: w.Widget, kind: type, low, high):
        self.widget, self.kind, self.low, self.high = slider, kind, low, high
        self.box = w.Text(self.show(slider.value), continuous_update=False)

    @property
    def range(self) -> tuple:
        """What `limit` takes."""
        return self.low, self.high

    def show(self, value) -> str:
        return str(value) if self.kind is int else f"{value:.6g}"

    def limit(self, low, high) -> None:
        """Let it go from low to high; a value outside is moved in."""
        self.low, self.high = low, high
        scale = math.log10 if isinstance(self.widget, w.FloatLogSlider) else lambda v: v
        with self.widget.hold_trait_notifications():
            self.widget.value = min(max(self.widget.value, low), high)
            self.widget.min, self.widget.max = scale(low), scale(high)

    def within(self, value, low, high):
        """A value moved into low..high."""
        return min(max(value, low), high)

    def accept(self, value):
        """The number that a value or a typed text means."""
        noun = "a whole number" if self.kind is int else "a number"
        wrong = f"needs {noun} in {self.show(self.low)}..{self.show(self.high)}, got {value}"
        try:
            number = self.kind(value)
        except (ValueError, TypeError, OverflowError):
            raise ValueError(wrong) from None
        if not self.low <= number <= self.high or (not isinstance(value, str) and number != value):
            raise ValueError(wrong)
        return number

    def grid(self, count: int) -> list:
        """At most `count` numbers from low to high on the slider's scale, that of now among
        them."""
        space = np.geomspace if isinstance(self.widget, w.FloatLogSlider) else np.linspace
        tidy = round if self.kind is int else lambda value: float(f"{value:.3g}")
        values = [tidy(value) for value in space(self.low, self.high, count)]
        near = min(range(count), key=lambda i: abs(values[i] - self.widget.value))
        values[near] = self.widget.value
        return sorted(set(values))


class Choice:
    """A list or a check mark: what has a fixed set of values."""

    box = None

    def __init__(self, widget: w.Widget, options: tuple):
        self.widget, self.options = widget, options

    @property
    def range(self) -> tuple:
        """What `limit` takes."""
        return self.options

    def limit(self, *options) -> None:
        """Leave these options only; a value that is none of them becomes the nearest."""
        value, self.options = self.within(self.widget.value, *options), options
        if tuple(self.widget.options) != options:
            self.widget.options = options
        self.widget.value = value

    def within(self, value, *options):
        """The option that a value is, or else the nearest number of them, or the first."""
        if value in options or isinstance(value, str):
            return value if value in options else options[0]
        return min(options, key=lambda option: abs(option - value))

    def accept(self, value):
        """The value, when it is one of the options."""
        if value not in self.options:
            raise ValueError(f"needs one of {', '.join(map(str, self.options))}, got {value}")
        return value

    def show(self, value) -> str:
        if isinstance(self.widget, w.Checkbox):
            return "yes" if value else "no"
        return str(value)

    def grid(self, count: int) -> list:
        """At most `count` options in their order, that of now among them."""
        now = self.widget.value
        others = [option for option in self.options if option != now][: count - 1]
        return [option for option in self.options if option == now or option in others]


def integer(value: int, low: int, high: int, *, label: str = "") -> Number:
    """A whole number in low..high. Like every control it has the name of its keyword unless a label
    is given."""
    slider = w.IntSlider(
        value, low, high, description=label, continuous_update=False, readout=False
    )
    return Number(slider, int, low, high)


def decimal(
    value: float,
    low: float,
    high: float,
    *,
    step: float | None = None,
    log: bool = False,
    label: str = "",
) -> Number:
    """A number in low..high, on a logarithmic scale if asked; typed numbers need not be a multiple
    of the step."""
    if log:
        slider = w.FloatLogSlider(
            value,
            base=10,
            min=math.log10(low),
            max=math.log10(high),
            step=step or 0.05,
            description=label,
            continuous_update=False,
            readout=False,
        )
    else:
        slider = w.FloatSlider(
            value,
            min=low,
            max=high,
            step=step or (high - low) / 100,
            description=label,
            continuous_update=False,
            readout=False,
        )
    return Number(slider, float, low, high)


def choice(value, options, *, label: str = "") -> Choice:
    """One of a few options."""
    return Choice(w.Dropdown(options=list(options), value=value, description=label), tuple(options))


def toggle(value: bool, *, label: str = "") -> Choice:
    """Yes or no."""
    return Choice(w.Checkbox(value, description=label, indent=False), (False, True))


# ----------------------------------------------------------------------------------------- explorer


class Explorer:
    """A picture with controls. A subclass says what is drawn:

    >>> class Waves(Explorer):
    ...     def draw(self, figure, waves):
    ...         figure.subplots().plot(range(waves + 1))
    ...         return f"A line with {waves} waves."
    >>> explorer = Waves(waves=integer(3, 1, 9))
    >>> explorer.set(waves=5)
    >>> explorer.sentence
    'A line with 5 waves.'

    `controls[name]` is the slider (or list), `boxes[name]` its typed twin, `view` the picture,
    `status` the sentence below it, `ui` all of them. Nothing is drawn before a control moves or
    one of them is asked for. `buttons` are reset, png and svg (which save the picture), and `busy`
    says when the kernel works. A method `limits(**values)` may give the range of a control by those
    of others, {name: (low, high)}, or the options of a list, {name: options}.
    """

    figsize = (7, 3.2)

    def __init__(self, **controls: Number | Choice):
        self._kinds = controls
        self._held = False  # several controls are on the move
        self._wrong = False  # a box holds what was refused
        self._shown = False
        self._sentence = ""
        self.controls = {name: kind.widget for name, kind in controls.items()}
        self.labels = {name: kind.widget.description or name for name, kind in controls.items()}
        self.boxes = {name: kind.box for name, kind in controls.items() if kind.box}
        # Otherwise the picture's upper edge is cut.
        text = lambda width: w.HTML(layout=w.Layout(overflow="visible", height="auto", width=width))
        self._view, self.status, self.busy = text("100%"), text("100%"), text("6em")
        self._start = {name: kind.range for name, kind in controls.items()}
        self._initial = self.values
        self.buttons = {}
        for name in ("reset", "png", "svg"):
            act = self.reset if name == "reset" else lambda name=name: self.save(name)
            self._button(name, act)
        self.bar = w.HBox([*self.buttons.values(), self.busy], layout=_wrapped())
        self._ui = w.VBox(
            [*map(self._row, controls), self.bar, self._view, self.status],
            layout=w.Layout(align_items="flex-start"),
        )

    def _button(self, name, act):
        # None is ever disabled: that would drop the keyboard's focus.
        saves = name in ("png", "svg")
        button = w.Button(description=f"save {name}" if saves else name)
        button.layout.width = "7em" if saves else "5.5em"
        button.on_click(lambda _: act())
        self.buttons[name] = button

    def draw(self, figure: Figure, **values) -> str:
        """Draw on the figure what the values mean, and return one sentence that says what is
        seen."""
        raise TypeError(
            f"{type(self).__name__}: needs a method draw(figure, {', '.join(self.controls)})"
        )

    def show(self) -> None:
        """Draw the first picture; nothing happens where there is one already."""
        if not self._shown:
            self._shown = True
            self.changed()

    @property
    def ui(self) -> w.VBox:
        """The controls, the picture and the sentence below it."""
        self.show()
        return self._ui

    @property
    def view(self) -> w.HTML:
        """The picture."""
        self.show()
        return self._view

    @property
    def sentence(self) -> str:
        """What the picture shows, in words."""
        self.show()
        return self._sentence

    @property
    def values(self) -> dict:
        """What the controls say now, by name."""
        return {name: control.value for name, control in self.controls.items()}

    def value(self, name: str):
        """What one control says now."""
        return self.controls[name].value

    def set(self, **values) -> None:
        """Move controls, and draw once. A value out of range: `ValueError`, and nothing moves."""
        accepted = {name: self._accept(name, value) for name, value in values.items()}
        self._held = True
        try:
            for name, value in accepted.items():
                self.controls[name].value = value
        finally:
            self._held = False
        self._settle()

    def limits(self, **values) -> dict[str, tuple]:
        """What a control may be where that depends on others: {name: (low, high)} or, of a list,
        {name: options}."""
        return {}

    def reset(self) -> None:
        """Put all controls back to where they were at first."""
        self._held = True
        try:
            for name, range_ in self._start.items():
                self._kinds[name].limit(*range_)
        finally:
            self._held = False
        self.set(**self._initial)

    def save(self, ending: str = "png", folder: str | Path = "results") -> Path:
        """Write the picture as png or svg into a folder; the status says where it is."""
        figure = self._drawn()[0]
        Path(folder).mkdir(parents=True, exist_ok=True)
        name, k = type(self).__name__, 1
        while (path := Path(folder) / f"{name}-{k}.{ending}").exists():
            k += 1
        with replaced(path) as part:
            figure.savefig(part, format=ending, dpi=192)
        self.status.value = f'<p role="status">Saved as {html.escape(str(path))}.</p>'
        return path

    def sheet(self) -> static.Sheet:
        """What a page without a kernel shows: the first slider moves, the first list chooses, and
        the other controls stay where they are."""
        lists = [name for name, kind in self._kinds.items() if kind.box is None]
        moves, chooses = self._moving(), next(iter(lists), None)
        if moves is None:  # lists only: the range input runs through the first of them
            moves, chooses = chooses, None
        options = self._kinds[chooses].grid(fast(2, full=4)) if chooses else [None]
        count = fast(3, full=24) // len(options) + 1
        rows = [self._still_row(moves, chooses, option, count) for option in options]
        start = options.index(self.value(chooses)) if chooses else 0
        fixed = {n: kind.show(self.value(n)) for n, kind in self._kinds.items()}
        return static.Sheet(
            title=" ".join((type(self).__doc__ or type(self).__name__).split("\n\n")[0].split()),
            range=self.labels.get(moves, moves),
            list=self.labels.get(chooses, ""),
            rows=rows,
            first=start,
            fixed=[f"{self.labels[n]} {v}" for n, v in fixed.items() if n not in (moves, chooses)],
        )

    def _moving(self) -> str | None:
        """What the range input of a page without a kernel moves."""
        return next(iter(self.boxes), None)

    def _still_row(self, moves: str, chooses: str | None, option, count: int) -> static.Strip:
        """States along one control, for one option of another."""
        kind, values = self._kinds[moves], self._chosen(chooses, option)
        row = static.Strip(self._kinds[chooses].show(option) if chooses else "")
        for value in kind.grid(count):
            inside = self._within(values | {moves: value})
            if inside[moves] == value:  # the option may leave a shorter range
                row.first = len(row.states) if value <= values[moves] else row.first
                row.states.append((kind.show(value), *self._still(**inside)))
        return row

    def _chosen(self, chooses, option) -> dict:
        return self.values | ({chooses: option} if chooses else {})

    def _within(self, values: dict) -> dict:
        """Values moved into the ranges that they leave each other."""
        ranges = self.limits(**values)
        return values | {n: self._kinds[n].within(values[n], *r) for n, r in ranges.items()}

    def _still(self, *state, **values) -> tuple[str, str]:
        """Picture and sentence for values; what cannot be drawn has a sentence only."""
        with plots.look():
            figure = Figure(figsize=self.figsize, layout="constrained")
            try:
                sentence = self.draw(figure, *state, **values)
            except ValueError as error:
                return "", str(error)
            plots.readable_ticks(figure)
            return _themes(figure, sentence, small=True), sentence

    def changed(self) -> None:
        """Called when a control has moved."""
        self.redraw()

    def redraw(self) -> None:
        """Draw what the values mean. After an error the last good picture stays, and the status
        says what is wrong."""
        self._shown = True
        with self._working():
            try:
                self._show(*self._drawn())
            except Exception as error:
                self._fail(error)

    def _drawn(self):
        """A new figure and its sentence."""
        with plots.look():
            figure = Figure(figsize=self.figsize, layout="constrained")
            sentence = self._picture(figure)
            plots.readable_ticks(figure)
            return figure, sentence

    @contextlib.contextmanager
    def _working(self):
        """While it lasts, the page says that the kernel works."""
        self.busy.value = '<span style="opacity:.7">working …</span>'
        try:
            yield
        finally:
            self.busy.value = ""

    def _settle(self):
        """After a move: ranges first, and then the picture."""
        held, self._held = self._held, True
        try:
            for name, range_ in self.limits(**self.values).items():
                self._kinds[name].limit(*range_)
        finally:
            self._held = held
        self.changed()

    def _picture(self, figure):
        return self.draw(figure, **self.values)

    def _show(self, figure, sentence):
        if not isinstance(sentence, str):
            raise TypeError(f"{type(self).__name__}: needs a sentence from draw, got {sentence!r}")
        self._view.value = _image(figure, sentence)
        self.say(sentence)

    def say(self, sentence: str) -> None:
        """Write the sentence below the picture."""
        self._sentence = sentence
        self.status.value = f'<p role="status">{html.escape(sentence)}</p>'

    def warn(self, sentence: str) -> None:
        """Write below the picture what is wrong; `sentence` goes on to be what the picture
        shows."""
        self.status.value = f'<p role="alert" style="font-weight:bold">{html.escape(sentence)}</p>'

    def _fail(self, error):
        """Errors of callbacks would reach nobody but the server's log: here they reach the reader,
        and tests."""
        told = isinstance(error, (ValueError, TypeError))  # these are sentences already
        self.warn(str(error) if told else f"{type(error).__name__}: {error}")
        if os.environ.get("TENSORLAB_STRICT") == "1":
            raise error

    def _accept(self, name, value):
        if name not in self._kinds:
            raise ValueError(
                f"{type(self).__name__}: needs a control out of {', '.join(self._kinds)}, got "
                f"{name}"
            )
        try:
            return self._kinds[name].accept(value)
        except ValueError as error:
            raise ValueError(f"{self.labels[name]}: {error}") from None

    def _row(self, name):
        kind, control = self._kinds[name], self.controls[name]
        control.observe(lambda change: self._moved(name), names="value")
        # In em, for the longest label: boxes lie below each other; a check mark has its label last.
        before = [self.labels[n] for n, c in self.controls.items() if not isinstance(c, w.Checkbox)]
        wide = 1 + 0.55 * max(map(len, before or [""]))
        named = kind.box or control
        named.description, named.style.description_width = self.labels[name], f"{wide}em"
        if isinstance(control, w.Checkbox):
            control.layout.width = "auto"
            return control
        if kind.box is None:
            longest = max(len(str(option)) for option in kind.options)
            control.layout.width = f"{wide + 4 + 0.55 * longest}em"
            control.layout.max_width = "100%"
            return control
        kind.box.layout.width = f"{wide + 7}em"
        control.description = ""  # the name once, where it can be said
        kind.box.observe(lambda change: self._typed(name, change.new), names="value")
        return w.HBox([kind.box, control], layout=_wrapped())

    def _moved(self, name):
        kind = self._kinds[name]
        if kind.box:
            kind.box.value = kind.show(kind.widget.value)
        if not self._held:
            self._settle()

    def _typed(self, name, text):
        kind = self._kinds[name]
        if text == kind.show(kind.widget.value):
            # The slider wrote it, or the reader took a wrong number back.
            if self._wrong:
                self._wrong = False
                self.redraw()
            return
        try:
            value = self._accept(name, text)
        except ValueError as error:
            self._wrong = True
            self.warn(str(error))
            return
        self._wrong = False
        if value == kind.widget.value:  # 3.0 for 3: nothing moves, so nobody else tidies the box
            kind.box.value = kind.show(value)
        kind.widget.value = value

    def _ipython_display_(self):
        from IPython.display import HTML, display

        display(HTML(static.page(self.sheet())) if static.wanted() else self.ui)


def _wrapped():
    """A row whose parts go below each other where the page is narrow."""
    return w.Layout(flex_flow="row wrap", width="100%", overflow="visible")


def picture(draw, *, figsize=(7, 3.2)) -> None:
    """Show in a notebook what `draw(figure)` draws; the sentence that it returns is the alternative
    text and stands below."""
    from IPython.display import HTML, display

    with plots.look():
        figure = Figure(figsize=figsize, layout="constrained")
        sentence = draw(figure)
        plots.readable_ticks(figure)
        image = _image(figure, sentence, small=static.wanted())
        display(HTML(f"{image}<p>{html.escape(sentence)}</p>"))


# ------------------------------------------------------------------------------------ the picture


def _image(figure: Figure, sentence: str, small: bool = False) -> str:
    """A figure as HTML images with its sentence as alternative text, and the style by which the
    page's theme chooses one."""
    return static.THEMES + _themes(figure, sentence, small)


def _themes(figure, sentence, small=False):
    """A figure for the light theme and the dark one; its columns stand below each other where the
    page is narrow. small: fewer pixels and colors, for pages that hold many."""
    scale = 1.5 if small else 2  # two pixels for one of the page: crisp
    figure.set_dpi(96 * scale)
    light = _pixels(figure)
    edges = [0, *_gaps(figure), light.width]
    figure.set_layout_engine("none")  # both are laid out alike, and that takes long
    plots.darken(figure)
    bright = _strips(light, edges, scale, sentence, "light", "flex", small)
    return bright + _strips(_pixels(figure), edges, scale, sentence, "dark", "none", small)


def _pixels(figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _strips(pixels, edges, scale, sentence, theme, display, small):
    """A row of images, cut between the columns of axes; none becomes too small to be read."""
    images = []
    for k, (left, right) in enumerate(zip(edges, edges[1:])):
        data = _png(pixels.crop((left, 0, right, pixels.height)), small)
        alt = html.escape(sentence, quote=True) if k == 0 else ""
        wide = round((right - left) / scale)
        least = math.ceil(LEAST * wide)
        style = f"display:block; margin:0; width:{wide}px; min-width:{least}px; max-width:100%"
        images.append(f'<img style="{style}" alt="{alt}" src="data:image/png;base64,{data}">')
    row = f"display:{display}; flex-wrap:wrap; align-items:flex-start; overflow-x:auto"
    return f'<div class="tensorlab-{theme}" style="{row}">{"".join(images)}</div>'


def _png(pixels: Image.Image, small: bool) -> str:
    """The picture as base64: quickly, or in few bytes."""
    buffer = io.BytesIO()
    if small:
        pixels.quantize(64, Image.Quantize.FASTOCTREE).save(buffer, "png", optimize=True)
    else:
        pixels.save(buffer, "png", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()


LEAST = 0.85  # letters of 8.5 points, 11.3 pixels, then have 9.6


def _gaps(figure) -> list[int]:
    """Where a figure may be cut from top to bottom: in the middle between two columns of axes."""
    spans = []
    for ax in sorted(figure.axes, key=lambda ax: ax.get_position().x0):
        box = ax.get_tightbbox()
        if box is None:
            continue
        joined = spans and (box.x0 < spans[-1][1] or ax.get_label() == "<colorbar>")
        if joined:
            spans[-1][1] = max(spans[-1][1], box.x1)
        else:
            spans.append([box.x0, box.x1])
    return [round((a[1] + b[0]) / 2) for a, b in zip(spans, spans[1:])]


class Player(Explorer):
    """An explorer with time: `steps` yields one state after another, `draw` draws the state that it
    is given.

    >>> class Halving(Player):
    ...     def steps(self, start):
    ...         while start >= 1:
    ...             yield start
    ...             start //= 2
    ...     def draw(self, figure, state, start):
    ...         figure.subplots().bar(0, state)
    ...         return f"{state} of {start} are left."
    >>> player = Halving(start=integer(4, 1, 100))
    >>> player.step(), player.sentence
    (True, '2 of 4 are left.')

    `play` runs the steps in an asyncio task, so that pause and stop arrive between two of them;
    `step` takes one by hand, without a loop. A control that moves starts anew. `steps` begins with
    the state before the first step; the first picture is `begin` steps later, so that it shows
    something.
    """

    interval = 0.05  # seconds between two steps, in which the page is listened to
    begin = 0

    def __init__(self, **controls: Number | Choice):
        self.state = self._states = self._task = None
        super().__init__(**controls)
        for name in ("play", "pause", "step", "stop"):
            self._button(name, getattr(self, name))
        moves = [self.buttons[name] for name in ("play", "pause", "step", "stop")]
        self.bar.children = (*moves, *self.bar.children)

    def show(self) -> None:
        """Draw the first picture, `begin` steps in; nothing happens where there is one already."""
        if not self._shown:
            self._shown = True
            self._advance(1 + self.begin)

    def steps(self, **values) -> Iterator:
        """Yield the states, beginning with the one before the first step."""
        raise TypeError(f"{type(self).__name__}: needs a method steps({', '.join(self.controls)})")

    def draw(self, figure: Figure, state, **values) -> str:
        """Draw a state on the figure, and return one sentence that says what is seen."""
        raise TypeError(
            f"{type(self).__name__}: needs a method draw(figure, state, {', '.join(self.controls)})"
        )

    def play(self) -> None:
        """Run until the end, or until pause or stop; after the end, from the beginning."""
        self.show()
        self.pause()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def pause(self) -> None:
        """Hold at the state that is shown."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def stop(self) -> None:
        """Go back to the first state."""
        self.pause()
        self._states = None
        self._advance()

    def step(self) -> bool:
        """Take one step and draw; False at the end."""
        self.show()
        return self._advance()

    def _advance(self, count: int = 1) -> bool:
        """Take steps and draw the last; False where there is none left."""
        taken = 0
        try:
            with self._working():
                if self._states is None:
                    self._states = self.steps(**self.values)
                for state in itertools.islice(self._states, count):
                    self.state, taken = state, taken + 1
        except Exception as error:
            self._states = None
            self._fail(error)
            return False
        if taken == 0:
            self._states = None
            return False
        self.redraw()
        return True

    def changed(self) -> None:
        """A control that has moved starts anew."""
        self.stop()

    def _picture(self, figure):
        return self.draw(figure, self.state, **self.values)

    def _moving(self) -> str:
        return "step"

    def _still_row(self, moves, chooses, option, count):
        """States along time: where there are twice as many as wanted, each second one goes."""
        values = self._within(self._chosen(chooses, option))
        row, stride = static.Strip(self._kinds[chooses].show(option) if chooses else ""), 1
        for k, state in enumerate(itertools.islice(self.steps(**values), fast(count, full=400))):
            if k % stride == 0:
                row.states.append((str(k), *self._still(state, **values)))
            if len(row.states) == 2 * count:
                row.states, stride = row.states[::2], 2 * stride
        if k % stride:
            row.states.append((str(k), *self._still(state, **values)))
        row.first = max(i for i, (k, *_) in enumerate(row.states) if int(k) <= self.begin)
        return row

    async def _run(self):
        while self._advance():
            await asyncio.sleep(self.interval)
