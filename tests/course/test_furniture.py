"""What all lessons have around their text: in the .ipynb of every lesson, and
what is wrong with a header is one sentence."""

import re
from dataclasses import replace

import nbformat
import pytest
from lesson_files import NOTEBOOKS, STEMS, cells
from nbformat.v4 import new_code_cell, new_markdown_cell

from tensorlab.course import furniture

HEADER = """name = "one"
minutes = 5
needs = []
aims = ["see"]
take = ["This."]"""


def built(stem):
    return nbformat.read(NOTEBOOKS / f"{stem}.ipynb", as_version=4).cells


@pytest.mark.parametrize("stem", STEMS)
def test_a_lesson_has_its_furniture(stem):
    assert furniture.read(stem, cells(stem)).header
    first, *_, last = [c.source for c in built(stem)]
    assert re.match(r"# .+\n\n\*\d+ minutes · needs .+\*\n", first)
    assert "**You will be able to** " in first
    at = STEMS.index(stem)
    near = STEMS[at - 1 : at] + STEMS[at + 1 : at + 2]
    assert all(f"({other}.ipynb)" in first and f"({other}.ipynb)" in last for other in near)
    assert any(c.source.startswith("## To take along\n\n* ") for c in built(stem))
    whole = "\n".join(c.source for c in built(stem) if c.cell_type == "markdown")
    unlisted = [key for key in furniture.KEY.findall(whole) if f"\\[{key}\\]" not in last]
    assert not unlisted  # every paper that is cited has its line and its link
    assert not re.search(r'tags=\["(hints|solution|lesson)"\]', whole)


@pytest.mark.parametrize("stem", STEMS)
def test_links_lead_somewhere(stem):
    whole = "\n".join(c.source for c in built(stem) if c.cell_type == "markdown")
    targets = re.findall(r"\]\(([\w./]+\.ipynb)", whole) + re.findall(r'src="([^"]+)"', whole)
    assert targets and not [t for t in targets if not (NOTEBOOKS / t).exists()]


@pytest.mark.parametrize("stem", STEMS)
def test_links_to_a_word_find_its_heading(stem):
    text = "\n".join(c.source for c in cells("00b_vocabulary") if c.cell_type == "markdown")
    words = {h.replace(" ", "-") for h in re.findall(r"^### (.+)$", text, re.M)}
    whole = "\n".join(c.source for c in built(stem) if c.cell_type == "markdown")
    asked = re.findall(r"00b_vocabulary\.ipynb#([^)]+)\)", whole)
    assert not [word for word in asked if word not in words]


@pytest.mark.parametrize("stem", STEMS)
def test_a_lesson_says_its_aims_and_three_things_to_take_along(stem):
    header = furniture.read(stem, cells(stem)).header
    assert 2 <= len(header["aims"]) <= 5 and len(header["take"]) == 3
    assert set(header["needs"]) <= set(STEMS) and 5 <= header["minutes"] <= 120


def lesson(header, *others):
    text = [new_markdown_cell(header, metadata={"tags": ["lesson"]})] if header else []
    return [*text, new_markdown_cell("# Why?\n\nSo [Name2011]."), *others]


def test_folds_are_one_cell_for_each_question():
    hints = new_markdown_cell("One.\n\nTwo.", metadata={"tags": ["hints"]})
    solution = new_code_cell("1 + 1", metadata={"tags": ["solution"]})
    found = furniture.folded([new_code_cell("f(...)"), hints, solution, new_markdown_cell("Next.")])
    assert [c.cell_type for c in found] == ["code", "markdown", "markdown"]
    text = found[1].source
    assert re.findall("<summary>(.*?)</summary>", text) == ["Hint 1", "Hint 2", "Solution"]
    assert "\n\n```python\n1 + 1\n```\n\n</details>" in text


def test_furniture_of_a_lesson():
    source = lesson(HEADER, new_markdown_cell("## Exercises"))
    one, two = (
        furniture.read("01_one", source),
        furniture.read("02_two", lesson(HEADER.replace("one", "two"))),
    )
    cited = {"Name2011": "A. Name. A title. arXiv 1101.00001, 2011."}
    first, take, exercises, last = furniture.furnish(one, source, [one, two], cited)
    assert first.source.startswith(
        "# Why?\n\n*5 minutes · needs nothing else · [02 two](02_two.ipynb) →*"
    )
    assert "[[Name2011]](https://arxiv.org/abs/1101.00001)" in first.source
    assert take.source == "## To take along\n\n* This." and exercises.source == "## Exercises"
    assert last.source.startswith("## References\n\n* \\[Name2011\\] [A. Name.")
    whole = furniture.course_map([replace(one, picture=True), two])
    assert "thumbs/01_one.png" in whole and "| [01 one](01_one.ipynb) | Why? | 5 |" in whole


def test_a_need_that_is_no_lesson_is_one_sentence():
    source = lesson(HEADER.replace("needs = []", 'needs = ["99_none"]'))
    one = furniture.read("01_one", source)
    with pytest.raises(ValueError, match="01_one: needs stems of lessons in needs, got .'99_none'"):
        furniture.furnish(one, source, [one], {})


@pytest.mark.parametrize("change", ["minutes = 5\n", "take = [", 'name = "one"\n'])
def test_a_wrong_header_is_one_sentence(change):
    text = HEADER.replace(change, {"take = [": "token = ["}.get(change, ""))
    with pytest.raises(ValueError, match="01_one: needs a header with name .str., minutes"):
        furniture.read("01_one", lesson(text))


def test_a_lesson_without_a_header_is_one_sentence():
    with pytest.raises(ValueError, match="^01_one: needs a header, a first cell tagged lesson or"):
        furniture.read("01_one", lesson(""))
