"""What explorers say is tested with one small picture, for pixels cost most; that pictures come in
both themes is tested in test_widgets.py, and the lessons themselves draw them."""

import hashlib
import html
import sys

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from tensorlab.course import widgets

# Marking forks, and cuts the network by tools of Linux; its guide says so.
collect_ignore = [] if sys.platform == "linux" else ["test_marking.py", "test_staff.py"]


@pytest.fixture(autouse=True)
def few_pixels(monkeypatch):
    def image(figure, sentence, small=False):
        figure.set_dpi(50)
        figure.set_layout_engine("none")  # to lay it out takes as long as to draw it
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        digest = hashlib.sha256(canvas.buffer_rgba()).hexdigest()
        return f'<img id="{digest}" alt="{html.escape(sentence, quote=True)}">'

    monkeypatch.setattr(widgets, "_image", image)
