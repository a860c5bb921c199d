"""Equations as MathML, written when the book is built: a page needs no script and asks nobody.

latex2mathml reads the LaTeX and leaves in its result what it does not know, so every result is
looked at. An equation that was not understood is shown as it was written, with a warning, which
ends a build under -W.
"""

import html
import re
from xml.etree import ElementTree

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

NAME = "mathml"
SIGNS = {r"\|": "‖", r"\Vert": "‖", r"\lVert": "‖", r"\rVert": "‖"}
SIGNS |= {r"\langle": "⟨", r"\rangle": "⟩"}
SIZED = re.compile(r"(\\[bB]igg?[lr]?)\s*(\\\||\\[lr]?Vert|\\[lr]angle)")  # it wants signs here
BELOW = {"min", "max", "sup", "inf", "argmin", "argmax"}  # what varies stands below these

FUNCTIONS = {
    "sin",
    "cos",
    "tan",
    "exp",
    "log",
    "ln",
    "det",
    "dim",
    "arg",
    "sinh",
    "cosh",
    "tanh",
} | BELOW
ROWS = {"math", "mrow", "mstyle", "mtd"}
SPACE = {"width": "0.167em"}

logger = logging.getLogger(__name__)


def setup(app):
    """Sphinx's hook: the renderer that `html_math_renderer` names."""
    app.add_html_math_renderer(NAME, (_inline, None), (_block, None))


def mathml(latex: str, display: str = "inline") -> str:
    r"""An equation as an element `math`; display: "inline" or "block".

    Raises ValueError if part of it is not understood.

    >>> mathml("x^2")
    '<math display="inline"><mrow><msup><mi>x</mi><mn>2</mn></msup></mrow></math>'
    >>> mathml(r"\sin a \cos b").count('<mspace width="0.167em" />')
    3
    >>> mathml(r"\unheard x")
    Traceback (most recent call last):
    ValueError: mathml: needs LaTeX that latex2mathml knows, got ['\\unheard'] in '\\unheard x'
    """
    text = SIZED.sub(lambda found: found[1] + SIGNS[found[2]], latex)
    text = convert(text, xmlns="", display=display)  # HTML knows what `math` is
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:  # such as the & of an environment that it does not know
        raise ValueError(f"mathml: needs LaTeX that latex2mathml knows, got {latex!r}") from error
    if left := [part for part in root.itertext() if "\\" in part]:
        raise ValueError(f"mathml: needs LaTeX that latex2mathml knows, got {left} in {latex!r}")
    for row in [element for element in root.iter() if element.tag in ROWS]:
        _space(row)
    if display == "block":
        for element in root.iter("msub"):
            if element[0].text in BELOW:
                element.tag = "munder"
    return ElementTree.tostring(root, encoding="unicode")


def _space(row: ElementTree.Element) -> None:
    """A thin space on both sides of sin and its like, where letters would touch them."""
    for part in [part for part in row if _function(part)]:
        at = list(row).index(part)
        if at + 1 < len(row) and row[at + 1].tag != "mo":
            row.insert(at + 1, ElementTree.Element("mspace", SPACE))
        if at and row[at - 1].tag not in ("mo", "mspace"):
            row.insert(at, ElementTree.Element("mspace", SPACE))


def _function(part: ElementTree.Element) -> bool:
    """Whether an element is the name of a function, with indices or without."""
    name = part[0] if part.tag in ("msub", "msup", "msubsup", "munder") else part
    return name.tag in ("mi", "mo") and (name.text or "").strip() in FUNCTIONS


def _shown(node: nodes.Element, display: str) -> str:
    try:
        return mathml(node.astext(), display)
    except Exception as error:  # latex2mathml's errors have no class in common
        logger.warning("equation %r: %r", node.astext(), error, location=node)
        return f"<code>{html.escape(node.astext())}</code>"


def _inline(translator, node):
    translator.body.append(_shown(node, "inline"))
    raise nodes.SkipNode


def _block(translator, node):
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    translator.body.append(_shown(node, "block") + "</div>\n")
    raise nodes.SkipNode
