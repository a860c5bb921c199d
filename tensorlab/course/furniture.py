"""What every lesson has around its own text, built by `notebooks/_build.py` so that nobody repeats
it: minutes, prerequisites, aims, folds, take-aways, references, previous and next, the map in 00.

A lesson's first cell is its header, Markdown tagged "lesson" with TOML in it:

    name = "tensor train"
    minutes = 60
    needs = ["01_lowrank", "00b_vocabulary"]
    aims = ["build TT-SVD from three small functions", "say what a rank costs"]
    take = ["one sentence to take along", "another", "a third"]

Other tags: "hints" is Markdown, one hint a paragraph, "solution" a code cell that runs; both fold.
"map" is where the list of all lessons stands. Papers that are cited by their keys become links.

An assignment's first cell is tagged "assignment" and has the same header without `take`; what is
said about marking and handing in is built from it, and from the points of the cells.
"""

import html
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_plus

from nbformat.v4 import new_markdown_cell

KEY = re.compile(r"\[([A-Z][A-Za-z]+[12]\d{3}[a-z]?)\](?!\()")
VOCABULARY = "00b_vocabulary"
FIELDS = {"name": str, "minutes": int, "needs": list, "aims": list, "take": list}
FORMS = {"lesson": FIELDS, "assignment": {k: kind for k, kind in FIELDS.items() if k != "take"}}
RULES = """\
**How it works.** Answer where a cell says *your turn* or *YOUR ANSWER HERE*. Leave all other cells,
and their order, as they are: tests are put back before marking, and more are run than you see.
A test cell that ends without an error earns its points; one that ends in a number earns that many.
Lines that begin with `check.` cost nothing: they say what is wrong with one case. Hints unfold.

**Before you hand in:** restart the kernel, run all cells, then run `tensorlab course check FILE`.
Keep the name of the file."""


@dataclass(frozen=True)
class Lesson:
    """A lesson, or an assignment, as others see it: its stem, the question in its title, and its
    header."""

    stem: str
    question: str
    header: dict
    picture: bool = False  # whether there is a thumbnail
    form: str = "lesson"  # or "assignment"

    @property
    def name(self) -> str:
        """Its number and its name, "04 tensor train"."""
        return f"{self.stem.split('_')[0]} {self.header['name']}"

    @property
    def link(self) -> str:
        return f"[{self.name}]({self.stem}.ipynb)"


def tagged(cell, tag: str) -> bool:
    """Whether a cell has a tag."""
    return tag in cell.metadata.get("tags", ())


def read(stem: str, cells, picture: bool = False) -> Lesson:
    """A lesson from the cells of its .py.

    Raises ValueError where there is no header, or one that lacks a field or has another.
    """
    titles = (re.match(r"# (.*)", c.source) for c in cells if c.cell_type == "markdown")
    title = next((found[1] for found in titles if found), stem)
    for form, fields in FORMS.items():
        for text in (c.source for c in cells if tagged(c, form)):
            header = tomllib.loads(text)
            if {name: type(value) for name, value in header.items()} != fields:
                wanted = ", ".join(f"{name} ({kind.__name__})" for name, kind in fields.items())
                raise ValueError(f"{stem}: needs a header with {wanted}, got {', '.join(header)}")
            return Lesson(stem, title, header, picture, form)
    raise ValueError(f"{stem}: needs a header, a first cell tagged {' or '.join(FORMS)}, got none")


def papers(references: Path) -> dict[str, str]:
    """The papers in the list of docs/references.md, by key."""
    lines = references.read_text(encoding="utf-8").splitlines() if references.exists() else ()
    return {m[1]: m[2] for line in lines if (m := re.match(r"- \[(\w+)\] (.+)", line))}


def address(paper: str) -> str:
    """Where a paper is found: its page at arXiv when the list has its number, or else a search.

    >>> address("A. Author. A title. arXiv 2306.02697, 2023.")
    'https://arxiv.org/abs/2306.02697'
    """
    number = re.search(r"arXiv (\d{4}\.\d{5})", paper)
    found = "https://scholar.google.com/scholar?q=" + quote_plus(paper)
    return f"https://arxiv.org/abs/{number[1]}" if number else found


def furnish(lesson: Lesson, cells, course: list[Lesson], cited: dict[str, str]) -> list:
    """The cells of the .ipynb: folds, the map, and what its header says.

    course: all lessons in their order. cited: texts of papers by key.
    """
    keys = sorted(
        {key for c in cells if c.cell_type == "markdown" for key in KEY.findall(c.source)}
    )
    built = [c for c in folded(cells) if not any(tagged(c, form) for form in FORMS)]
    for cell in built:
        if tagged(cell, "map"):
            cell.source += "\n\n" + course_map([c for c in course if c.stem != lesson.stem])
        if cell.cell_type == "markdown":
            link = lambda m: f"[{m[0]}]({address(cited[m[1]])})" if m[1] in cited else m[0]
            cell.source = KEY.sub(link, cell.source)
    if lesson.form == "assignment":
        built[0].source = handout(lesson, built, course)
    else:
        built[0].source = opening(lesson, built[0].source, course)
        at = next((i for i, c in enumerate(built) if c.source.startswith("## Exercises")), None)
        built.insert(len(built) if at is None else at, new_markdown_cell(take_along(lesson)))
        built.append(new_markdown_cell(closing(lesson, course, {k: cited[k] for k in keys})))
    return built


def opening(lesson: Lesson, text: str, course: list[Lesson]) -> str:
    """The first cell with minutes and prerequisites below the title, and the aims at its end."""
    title, _, rest = text.partition("\n")
    known = {other.stem: other for other in course}
    if strange := set(lesson.header["needs"]) - known.keys():
        raise ValueError(f"{lesson.stem}: needs stems of lessons in needs, got {sorted(strange)}")
    needs = ", ".join(known[stem].link for stem in lesson.header["needs"]) or "nothing else"
    line = f"*{lesson.header['minutes']} minutes · needs {needs} · {neighbors(lesson, course)}*"
    aims = "; ".join(lesson.header["aims"])
    return f"{title}\n\n{line}\n\n{rest.strip()}\n\n**You will be able to** {aims}."


def handout(lesson: Lesson, cells, course: list[Lesson]) -> str:
    """The first cell of an assignment: points, minutes, lessons, aims, and how to hand in."""
    title, _, rest = cells[0].source.partition("\n")
    whole = sum(m["points"] for m in graded(cells))
    read = sum(m["points"] for m in graded(cells) if m.get("solution", False))
    names = {other.stem: other.name for other in course}
    if strange := set(lesson.header["needs"]) - names.keys():
        raise ValueError(f"{lesson.stem}: needs stems of lessons in needs, got {sorted(strange)}")
    needs = ", ".join(names[stem] for stem in lesson.header["needs"])
    line = (
        f"*{whole} points, {read} of them for pictures and words, which a person reads · about "
        f"{lesson.header['minutes']} minutes · needs the lessons {needs}*"
    )
    aims = "; ".join(lesson.header["aims"])
    return "\n\n".join([title, line, rest.strip(), f"**You will be able to** {aims}.", RULES])


def graded(cells) -> list:
    """What nbgrader is told of each cell that has points."""
    return [c.metadata.nbgrader for c in cells if "points" in c.metadata.get("nbgrader", {})]


def neighbors(lesson: Lesson, course: list[Lesson]) -> str:
    """Links to the lesson before and the one after."""
    at = [other.stem for other in course].index(lesson.stem)
    before = [f"← {course[at - 1].link}"] if at else []
    after = [f"{course[at + 1].link} →"] if at + 1 < len(course) else []
    return " · ".join(before + after)


def take_along(lesson: Lesson) -> str:
    """The sentences to remember."""
    return "## To take along\n\n" + "\n".join(f"* {line}" for line in lesson.header["take"])


def closing(lesson: Lesson, course: list[Lesson], cited: dict[str, str]) -> str:
    """References with links, and where to go next."""
    rows = [f"* \\[{key}\\] [{text}]({address(text)})" for key, text in cited.items()]
    head = ["## References", "", *rows, ""] if rows else []
    return "\n".join([*head, f"*{neighbors(lesson, course)}*"])


def folded(cells) -> list:
    """Hints and solutions as text that unfolds, what belongs to one question in one cell."""
    built, last = [], None
    for cell in cells:
        if tagged(cell, "hints"):
            hints = [h for h in re.split(r"\n\s*\n", cell.source) if h.strip()]
            text = "\n\n".join(fold(f"Hint {k}", hint) for k, hint in enumerate(hints, 1))
        elif tagged(cell, "solution"):
            text = fold("Solution", f"```python\n{cell.source.strip()}\n```")
        else:
            built.append(cell)
            last = None
            continue
        if last is None:
            last = new_markdown_cell("")
            built.append(last)
        last.source = f"{last.source}\n\n{text}".strip()
    return built


def fold(summary: str, text: str) -> str:
    """Markdown that unfolds."""
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"


def course_map(course: list[Lesson]) -> str:
    """All lessons with picture, question and minutes, as a table."""
    rows = []
    for other in course:
        seen = f'<img src="thumbs/{other.stem}.png" width="120" alt="">'
        picture = seen if other.picture else ""
        minutes = other.header["minutes"]
        question = html.escape(other.question, quote=False)
        rows.append(f"| {picture} | {other.link} | {question} | {minutes} |")
    return "\n".join(["| | lesson | question | minutes |", "|---|---|---|---|", *rows])
