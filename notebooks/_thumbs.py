"""Draws the thumbnails of the lessons for 00: the first picture that each lesson's code shows.

python notebooks/_thumbs.py [NAME ...]    names of lessons such as 04; all by default
"""

import ast
import os
import sys
from pathlib import Path

import jupytext
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from tensorlab.course import widgets

HERE = Path(__file__).parent
WIDTH = 240  # pixels, twice those of the page


class Seen(Exception):
    """Ends a lesson at its first picture, which it carries."""


def first_picture(source: Path):
    """The first figure of a lesson."""

    def seen(figure, sentence):
        raise Seen(figure)

    code = [
        c.source for c in jupytext.read(source, fmt="py:percent").cells if c.cell_type == "code"
    ]
    names = {}
    whole, widgets._image = widgets._image, seen
    try:
        for cell in code:
            *body, last = ast.parse(cell).body
            exec(compile(ast.Module(body, []), source.name, "exec"), names)
            if isinstance(last, ast.Expr):
                shown = eval(compile(ast.Expression(last.value), source.name, "eval"), names)
                if isinstance(shown, widgets.Explorer):
                    shown.show()
            else:
                exec(compile(ast.Module([last], []), source.name, "exec"), names)
    except Seen as picture:
        return picture.args[0]
    finally:
        widgets._image = whole
    raise ValueError(f"{source}: needs a picture, got none")


def draw(source: Path) -> Path:
    """Write a lesson's thumbnail, in few colors so that all of them together stay small."""
    figure = first_picture(source)
    figure.set_dpi(96)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
    target = HERE / "thumbs" / f"{source.stem}.png"
    picture.quantize(48).save(target, optimize=True)
    return target


if __name__ == "__main__":
    os.environ.setdefault("TENSORLAB_FAST", "1")
    os.environ["TENSORLAB_STRICT"] = "1"
    for path in sorted(HERE.glob("[0-9][0-9]*_*.py")):
        if len(sys.argv) == 1 or path.name.startswith(tuple(sys.argv[1:])):
            print(f"drawn {draw(path).name}", flush=True)
