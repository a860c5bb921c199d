"""The book as a reader has it: built, and opened in a real browser from files on disk.

TENSORLAB_BOOK names the folder of a book that `make book` has built, to be read instead of one with
a single lesson that the tests build.
"""

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.book
ROOT = Path(__file__).parents[2]
NARROW, WIDE = {"width": 400, "height": 800}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def book() -> Path:
    """The book with one lesson run in its short mode; any warning fails the build."""
    if built := os.environ.get("TENSORLAB_BOOK"):
        return Path(built).resolve()
    html = ROOT / "docs" / "_build" / "test"
    chosen = {"TENSORLAB_FAST": "1", "TENSORLAB_LESSONS": "04", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    command += [ROOT / "docs", html]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | chosen)
    assert done.returncode == 0, done.stderr
    return html


def pages(folder: Path) -> list[Path]:
    """All pages that a book shows; the theme keeps templates in _static."""
    return [path for path in sorted(folder.rglob("*.html")) if "_static" not in path.parts]


@pytest.fixture
def reader(browser):
    """Makes pages. At the end of the test none may have had an error or asked any host."""
    faults, contexts = [], []

    def make(theme="light", viewport=WIDE):
        contexts.append(browser.new_context(viewport=viewport, color_scheme=theme))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: faults.append(f"page error: {error}"))
        page.on("request", lambda asked: _outside(asked.url) and faults.append(asked.url))
        return page

    yield make
    for context in contexts:
        context.close()
    assert not faults


@pytest.mark.parametrize("module", ["_book", "_docstrings", "_mathml"])
def test_the_examples_of_what_builds_it(module):
    command = [sys.executable, "-m", "doctest", ROOT / "docs" / f"{module}.py"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr


def _outside(url: str) -> bool:
    return urlsplit(url).scheme not in ("file", "data", "blob", "about")


def test_all_pages_are_readable_and_told(book, reader):
    """On a narrow screen, in both themes, and by a screen reader: each page is opened once."""
    page, wrong = reader(viewport=NARROW), []
    for path in pages(book):
        page.goto(path.as_uri())
        found = page.evaluate(CUT) + told(tree(page)) + page.evaluate(NAMELESS)
        if page.evaluate("document.documentElement.scrollWidth") > NARROW["width"]:
            found.append("the page is wider than the screen")
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            page.wait_for_function(f"document.documentElement.dataset.theme === '{theme}'")
            found += [f"{theme}: {text}" for text in page.evaluate(FAINT)]
        wrong += [f"{path.relative_to(book)}: {text}" for text in found]
    assert not wrong, "\n".join(wrong)


# An image without words stands in a group with a name, in a link or a row with words, or beside
# its other half, which has them. Explorers are groups; a <details> has its summary.
NAMELESS = """() => [...document.querySelectorAll("article :is(img, [role=group])")]
  .filter(e => e.checkVisibility() && !e.alt && !e.closest("[aria-label]") &&
    !e.closest("a, figure, tr")?.textContent.trim() &&
    ![...e.parentElement.children].some(other => other.alt))
  .map(e => `${e.tagName} has no name: ${e.outerHTML.slice(0, 80)}`)"""


# Texts of the article that reach out of the page, and no part of the article scrolls to them.
CUT = """() => {
  const scrolls = e => ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
  const reached = e => e.tagName !== "ARTICLE" && (scrolls(e) || reached(e.parentElement));
  return [...document.querySelectorAll("article :is(p, li, h1, h2, td, pre, math, img)")]
    .filter(e => e.checkVisibility() && e.getBoundingClientRect().right > innerWidth && !reached(e))
    .map(e => `${(e.textContent || e.alt || e.tagName).trim().slice(0, 40)} is cut`);
}"""


# Texts of the article that are too faint beside the nearest ground below them, by WCAG's ratio.
FAINT = """() => {
  const rgba = color => (color.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = color => rgba(color).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
  const known = new Map();  // by element: computed styles are slow
  const ground = e => {
    if (!e) return "rgb(255, 255, 255)";
    if (!known.has(e)) {
      const color = getComputedStyle(e).backgroundColor, parts = rgba(color);
      known.set(e, parts.length < 4 || parts[3] > 0.5 ? color : ground(e.parentElement));
    }
    return known.get(e);
  };
  const ratio = e => {
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const kinds = "p, li, h1, h2, h3, a, code, code span, td, th, dt, label, output, math";
  return [...document.querySelectorAll(`article :is(${kinds})`)]
    .filter(e => e.checkVisibility() && e.textContent.trim() && ratio(e) < 4.5)
    .map(e => `${e.textContent.trim().slice(0, 40)} has contrast ${ratio(e).toFixed(1)}`);
}"""


def test_search_finds_the_tangent(book, reader):
    page = reader()
    page.goto((book / "search.html").as_uri() + "?q=tangent")
    lesson = page.locator("#search-results a[href*='lessons/07_tt_manifold.html']")
    lesson.first.wait_for()  # results come one after another
    expect(page.locator(".search-summary")).to_contain_text("found")


def test_every_explorer_moves_by_arrow_keys(book, reader):
    """In all lessons that were run: the sentence changes, and the picture's alternative text with
    it."""
    page, found = reader(), 0
    for path in pages(book / "lessons"):
        page.goto(path.as_uri())
        for explorer in page.locator(".tensorlab-static").all():
            slider, status = explorer.get_by_role("slider"), explorer.locator("p[role=status]")
            picture, said = explorer.locator("img:visible").first, status.inner_text()
            assert said == picture.get_attribute("alt"), path.name
            slider.focus()
            slider.press("ArrowRight" if slider.input_value() == "0" else "ArrowLeft")
            assert said != status.inner_text(), f"{path.name}: {said}"
            assert status.inner_text() == picture.get_attribute("alt"), path.name
            found += 1
        assert page.url == path.as_uri()  # the keys turn no page
    assert found


def test_pages_with_explorers_are_small(book):
    large = [p.name for p in pages(book / "lessons") if p.stat().st_size > 2_000_000]
    assert not large


def test_equations_are_mathematics(book, reader):
    page = reader()
    page.goto((book / "lessons" / "04_tt.html").as_uri())
    assert page.locator("article math").count() > 10
    page.set_viewport_size(NARROW)
    cut = "es => es.filter(e => e.getBoundingClientRect().left < 0).map(e => e.textContent)"
    assert page.locator("article math").evaluate_all(cut) == []
    for name in ("lessons/04_tt", "api/linalg"):
        page.goto((book / f"{name}.html").as_uri())
        shown = page.locator("article math").all_text_contents()
        assert shown and not [text for text in shown if "\\" in text]


CONTROLS = {"button", "link", "textbox", "searchbox", "slider", "combobox", "checkbox", "radio"}
CONTROLS |= {"spinbutton", "switch", "tab", "option"}
FIGURES = {"image", "figure"}


def told(nodes: list[dict]) -> list[str]:
    """What a screen reader would not learn from an accessibility tree: figures and controls without
    a name, headings that leave a level out, tables without headers."""
    shown = [node for node in nodes if not node["ignored"]]
    role = lambda node: node["role"]["value"]
    name = lambda node: node.get("name", {}).get("value", "").strip()
    wrong = [
        f"{role(n)} without a name" for n in shown if role(n) in CONTROLS | FIGURES and not name(n)
    ]
    last = 0
    for node in shown:
        if role(node) == "heading":
            level = next(p["value"]["value"] for p in node["properties"] if p["name"] == "level")
            if level > last + 1 or level == 1 and last:
                wrong.append(f"heading {name(node)!r} of level {level} after {last}")
            last = level
    if not last:
        wrong.append("no heading")
    below = {node["nodeId"]: node.get("childIds", []) for node in nodes}
    roles = {node["nodeId"]: role(node) for node in shown}

    def inside(k):
        return {roles.get(k)}.union(*map(inside, below.get(k, [])))

    for node in shown:
        table = role(node) in ("table", "LayoutTable")  # without headers it counts as layout
        if table and not inside(node["nodeId"]) & {"columnheader", "rowheader"}:
            wrong.append("table without headers")
    return wrong


def tree(page) -> list[dict]:
    """The accessibility tree of a page, in the order of the page."""
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    below, first = {node["nodeId"]: node for node in nodes}, nodes[0]
    found, front = [], [first]
    while front:
        found.append(front.pop())
        children = reversed(found[-1].get("childIds", []))
        front += [below[k] for k in children if k in below]
    return found


def test_the_walk_through_the_tree_finds_what_is_wrong(reader, tmp_path):
    file, page = tmp_path / "page.html", reader()
    good = """<main><h1>One</h1><h2>Two</h2><img alt="a line" src="data:,"><label>size
        <input type=range></label><table><tr><th>a<th>b<tr><td>1<td>2</table></main>"""
    bad = {
        "image without a name": ('alt="a line"', ""),
        "slider without a name": ("<label>size", "<p>size"),
        "heading 'Two' of level 3 after 1": ("<h2>Two</h2>", "<h3>Two</h3>"),
        "heading 'Two' of level 1 after 1": ("<h2>Two</h2>", "<h1>Two</h1>"),
        "table without headers": ("<th>a<th>b", "<td>a<td>b"),
    }
    for fault, change in {None: ("", ""), **bad}.items():
        file.write_text('<!doctype html><html lang="en"><title>x</title>' + good.replace(*change))
        page.goto(file.as_uri())
        assert told(tree(page)) == [fault] * bool(fault)


class _Page(HTMLParser):
    """The addresses that a page points to, and the places in it that others may point to."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.places = set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.places |= {given[key] for key in ("id", "name") if given.get(key)}
        self.links |= {given[key] for key in ("href", "src") if given.get(key)}


def broken(folder: Path) -> list[str]:
    """Links between the pages of a folder that lead nowhere: no such file, or no such place."""
    found = {path.resolve(): _Page(path) for path in pages(folder)}
    wrong = []
    for path, page in found.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            place = unquote(parts.fragment)
            missing = not target.is_file() or (
                target in found and place and place not in found[target].places
            )
            if missing:
                wrong.append(f"{path.relative_to(folder.resolve())}: {link}")
    return wrong


def test_every_internal_link_leads_somewhere(book):
    assert len(list(book.rglob("*.html"))) > 100
    assert broken(book) == []


def test_the_link_checker_finds_what_is_broken(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#here">x</a><a href="b.html#gone">y</a>')
    (tmp_path / "b.html").write_text('<p id="here"><a href="c.html">z</a><a href="#">top</a>')
    assert broken(tmp_path) == ["a.html: b.html#gone", "b.html: c.html"]
