"""What the book makes from the project before Sphinx reads it: lessons with thumbnails, a page
for each module, the tables of papers as pictures, the floor plan from the imports.

All of it is written below docs/ and is not committed; what has not changed is not written again, so
that a second build is quick.
"""

import ast
import hashlib
import html
import os
import shutil
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from tensorlab import papers, plots
from tensorlab.course import widgets
from tensorlab.papers import table as tables

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tensorlab"
NOTEBOOKS = ROOT / "notebooks"
GROUND = "#d6eaf8"  # a color: it is kept where the page is dark


def write(docs: Path) -> None:
    """Write all that is made."""
    copy_lessons(docs / "lessons")
    write_api(docs / "api")
    write_papers(docs / "papers")
    write_floor_plan(docs / "architecture")
    copy_font(docs / "_fonts")


def put(path: Path, text: str) -> None:
    """Write a file unless it says that already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8", newline="\n")


def copy_font(folder: Path) -> None:
    """A font with small low indices, for readers whose system has none for mathematics."""
    folder.mkdir(exist_ok=True)
    shutil.copy(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "STIXGeneral.ttf", folder)


def tidy(folder: Path, kept: set[str]) -> None:
    """Remove pages of an earlier build whose source is gone."""
    for path in folder.glob("*"):
        if path.is_file() and path.name not in kept:
            path.unlink()


# ---------------------------------------------------------------------------------------- lessons


def cache(folder: Path) -> Path:
    """Where executed lessons are kept: outputs of another state of the package are none of ours."""
    code = hashlib.sha256()
    for path in sorted([*PACKAGE.rglob("*.py"), *ROOT.glob("data/**/*.csv")]):
        code.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    mode = "short" if os.environ.get("TENSORLAB_FAST") == "1" else "full"
    mine = folder / f"{mode}-{code.hexdigest()[:16]}"
    for old in folder.glob(f"{mode}-*"):
        if old != mine:
            shutil.rmtree(old)
    return mine


def excluded(chosen: list[str]) -> list[str]:
    """Patterns of the lessons that are shown without being run."""
    if not chosen:
        return []
    found = sorted(NOTEBOOKS.glob("[0-9][0-9]*_*.ipynb"))
    return [f"**/{p.name}" for p in found if not p.name.startswith(tuple(chosen))]


def to_lessons(app, name: str, source: list[str]) -> None:
    """Links to notebooks, as a forge shows them, lead to the pages of the lessons."""
    source[0] = source[0].replace("](../notebooks/", "](lessons/")


def anchor(heading: str) -> str:
    """The name of a heading in links, as JupyterLab has it.

    >>> anchor("Words of the field")
    'Words-of-the-field'
    """
    return heading.replace(" ", "-")


def copy_lessons(folder: Path) -> None:
    """The lessons as built, their thumbnails, and the page that lists them."""
    found = sorted(NOTEBOOKS.glob("[0-9][0-9]*_*.ipynb"))
    for path in found:
        put(folder / path.name, path.read_text(encoding="utf-8"))
    shutil.copytree(NOTEBOOKS / "thumbs", folder / "thumbs", dirs_exist_ok=True)
    put(folder / "index.md", _lessons_page([path.stem for path in found]))
    tidy(folder, {path.name for path in found} | {"index.md"})


def _lessons_page(stems: list[str]) -> str:
    tiles = []
    for stem in stems:
        if (NOTEBOOKS / "thumbs" / f"{stem}.png").exists():
            tiles.append(f"[![{stem.replace('_', ' ')}](thumbs/{stem}.png)]({stem}.ipynb)")
    return "\n".join(
        [
            "# Lessons",
            "",
            "Each answers one question: a picture that moves, a page of mathematics, the code, an",
            "experiment beside the paper's numbers, and exercises. On these pages all has been run",
            "already, and one control of each explorer moves; `tensorlab lab` opens them in",
            "JupyterLab, where all controls move and the exercises are checked.",
            "",
            "::::{container} book-tiles",
            *tiles,
            "::::",
            "",
            "```{toctree}",
            ":maxdepth: 1",
            "",
            *stems,
            "```",
            "",
        ]
    )


# ---------------------------------------------------------------------------------------- API


def public(path: Path) -> list[str]:
    """The public functions and classes that a module defines."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [n.name for n in body if isinstance(n, kinds) and not n.name.startswith("_")]


def modules() -> dict[str, Path]:
    """All modules that define something public, by their dotted names."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.stem not in ("__init__", "__main__") and public(path):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = path
    return found


def exported() -> dict[str, str]:
    """The names of `import tensorlab` with the modules that define them."""
    import tensorlab

    values = {name: getattr(tensorlab, name) for name in tensorlab.__all__}
    return {name: getattr(value, "__module__", "") for name, value in values.items()}


def write_api(folder: Path) -> None:
    """A page for each module, by floors."""
    names, found = exported(), modules()
    for module in found:
        short = module.removeprefix("tensorlab.")
        own = [f"``tl.{name}``" for name, home in names.items() if home == module]
        line = f"With ``import tensorlab as tl``: {', '.join(own)}.\n\n" if own else ""
        body = f".. automodule:: {module}\n   :members:\n   :show-inheritance:\n"
        put(folder / f"{short}.rst", f"{short}\n{'=' * len(short)}\n\n{line}{body}")
    put(folder / "index.md", _api_page([m.removeprefix("tensorlab.") for m in found]))
    tidy(folder, {f"{m.removeprefix('tensorlab.')}.rst" for m in found} | {"index.md"})


def _api_page(names: list[str]) -> str:
    floors: dict[str, list[str]] = {}
    for name in names:
        floors.setdefault(name.rsplit(".", 1)[0] if "." in name else "ground", []).append(name)
    text = ["# API reference", "", "Every public name, from its docstring.", ""]
    for floor, own in floors.items():
        head = [f"## {floor}", "", "```{toctree}", ":maxdepth: 1", ""]
        text += [*head, *own, "```", ""]
    return "\n".join(text)


# ---------------------------------------------------------------------------------------- papers


def write_papers(folder: Path) -> None:
    """Each program with its recorded table, and the picture that it draws from it."""
    text = [
        "# Papers, printed beside measured",
        "",
        "Each table is a program: `tensorlab run KEY` measures it again. What is shown here",
        "was recorded at preset full; columns that end in (printed) are the paper's.",
        "",
    ]
    kept = {"index.md"}
    for key, program in papers.programs().items():
        text += [f"## {key}", "", program.title, ""]
        if not (ROOT / "data" / "measured" / f"{key}.csv").exists():
            text += ["No run at preset full has been recorded.", ""]
            continue
        table = tables.measured(key)
        if program.draw:
            sentence = _draw(program, table, folder / f"{key}.png")
            kept.add(f"{key}.png")
            text += [f"![{sentence}]({key}.png)", "", sentence, ""]
        text += [table._repr_markdown_(), ""]
    put(folder / "index.md", "\n".join(text))
    tidy(folder, kept)


def _draw(program, table, path: Path) -> str:
    """The picture of a table; returns the sentence that says what is seen."""
    with plots.look():
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        sentence = program.draw(table, figure.subplots())
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=144, metadata={"Software": None})
    return " ".join(sentence.split()).replace("[", "(").replace("]", ")")


# -------------------------------------------------------------------------------------- plan


def floors() -> dict[str, set[str]]:
    """The folders and single modules of the package, each with those that it imports."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] not in ("__init__", "__main__"):
            found.setdefault(parts[0], set()).update(_imported(path, parts))
    return {name: (uses & found.keys()) - {name} for name, uses in found.items()}


def _imported(path: Path, parts: tuple[str, ...]) -> set[str]:
    """Heads of what a module imports at its top level, relative to the package."""
    heads = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.level == len(parts):
            heads |= {node.module.split(".")[0]} if node.module else {a.name for a in node.names}
    return heads


def levels(graph: dict[str, set[str]]) -> list[list[str]]:
    """The floors from the ground up: each stands on the highest of what it imports."""
    done: dict[str, int] = {}

    def level(name):
        if name not in done:
            done[name] = 1 + max((level(used) for used in graph[name]), default=-1)
        return done[name]

    for name in graph:
        level(name)
    return [sorted(n for n in done if done[n] == k) for k in range(max(done.values()) + 1)]


def draw_floor_plan(figure: Figure) -> str:
    """Draw the levels and the imports between them."""
    graph = floors()
    rows = levels(graph)
    ax = figure.subplots()
    place = {}
    for y, row in enumerate(rows):
        for k, name in enumerate(row):
            place[name] = ((k + 0.5) / len(row), y)
    for name, uses in graph.items():
        for used in uses:
            (x0, y0), (x1, y1) = place[name], place[used]
            ax.plot((x0, x1), (y0 - 0.18, y1 + 0.18), color="0.75", lw=0.7, zorder=0)
    for name, (x, y) in place.items():
        text = ax.text(x, y, name, ha="center", va="center", fontsize=8, gid="on color")
        text.set_bbox(dict(boxstyle="round,pad=0.35", fc=GROUND, ec="0.5"))
    ax.set(xlim=(0, 1), ylim=(-0.5, len(rows) - 0.5))
    ax.axis("off")
    told = "; ".join(f"floor {k}: {', '.join(row)}" for k, row in enumerate(rows))
    return f"The package by its imports, which all point down. From the ground up, {told}."


def write_floor_plan(folder: Path) -> None:
    """The page of the architecture: the plan, and what each module is for."""
    with plots.look():
        figure = Figure(figsize=(7.5, 6), layout="constrained")
        sentence = draw_floor_plan(figure)
        image = widgets._image(figure, sentence, small=True)
    text = ["# Architecture", "", "A module imports from the floors below its own only.", ""]
    text += ["```{raw} html", image, "```", "", html.escape(sentence), ""]
    for folder_name in [*sorted(p.parent.name for p in PACKAGE.glob("*/__init__.py"))]:
        first = ast.get_docstring(ast.parse((PACKAGE / folder_name / "__init__.py").read_text()))
        text += [f"`{folder_name}`", f": {' '.join((first or folder_name).split())}", ""]
    put(folder / "index.md", "\n".join(text))
