"""README is one screen, its examples are short, and what it and its neighbors link to is there.

That the examples run is pytest's doctest of README.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "data" / "README.md"])


def blocks(language):
    """The fenced blocks of README in a language, as lists of lines."""
    found = re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.M | re.S)
    return [[line for line in block.splitlines() if line.strip()] for block in found]


def test_readme_is_one_screen():
    assert len(TEXT.splitlines()) <= 80 and len(TEXT.split()) <= 600


def test_examples_have_three_lines():
    _, *examples = blocks("python")
    assert len(examples) == 3 and all(len(lines) <= 3 for lines in examples)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    inner = [link for link in links if not link.startswith(("http://", "https://"))]
    assert not [link for link in inner if not (page.parent / link).exists()]


def test_paths_in_backticks_exist():
    named = re.findall(r"`((?:examples|notebooks|docs|data|tests)/[\w./]+)`", TEXT)
    assert not [name for name in named if not (ROOT / name).exists()]


def test_the_number_of_lessons_is_counted():
    counted = len(list((ROOT / "notebooks").glob("[0-9][0-9]*_*.py")))
    assert f"{counted} lessons" in TEXT
