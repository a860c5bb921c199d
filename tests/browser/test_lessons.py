"""What a reader does, in a real browser: opens a lesson, runs it, moves a slider by keyboard, types
a wrong number."""

import re

from playwright.sync_api import expect


def test_start_runs_whole(lesson):
    opened = lesson("00_start.ipynb")
    assert opened.errors() == []


def test_slider_and_box_of_the_tensor_train_lesson(lesson):
    opened = lesson("04_tt.ipynb")
    assert opened.errors() == []

    output = (
        opened.panel.locator(".widget-vbox").filter(has=opened.page.get_by_role("slider")).first
    )
    output.evaluate(
        "element => element.scrollIntoView()"
    )  # JupyterLab hides cells that are far from the last one run
    picture, status = output.locator("img").first, output.get_by_role("status")
    expect(picture).to_be_visible()
    expect(picture).to_have_attribute("alt", re.compile(r"\w{2,}.* "))
    expect(status).to_have_text(picture.get_attribute("alt"))
    before, sentence = picture.get_attribute("src"), status.inner_text()
    room, width = (part.bounding_box()["width"] for part in (output, status))
    assert width > 0.8 * room, "the sentence has the width of the page"

    row = output.locator(".widget-hbox").filter(has=opened.page.get_by_role("slider")).first
    knob, box = row.get_by_role("slider"), row.get_by_role("textbox")
    name = row.locator("label[for]").inner_text()
    assert name and output.get_by_role("textbox", name=name, exact=True).count() == 1
    start = box.input_value()
    low = knob.get_attribute("aria-valuenow") == knob.get_attribute("aria-valuemin")
    knob.focus()
    knob.press("ArrowRight" if low else "ArrowLeft")
    expect(picture).not_to_have_attribute("src", before)
    expect(status).not_to_have_text(sentence)
    expect(box).not_to_have_value(start)
    moved, at = picture.get_attribute("src"), knob.get_attribute("aria-valuenow")

    box.fill(start)
    box.press("Enter")
    expect(knob).not_to_have_attribute("aria-valuenow", at)
    expect(picture).not_to_have_attribute("src", moved)
    expect(status).to_have_text(sentence)

    right = picture.get_attribute("src")
    box.fill("99999999")
    box.press("Enter")
    expect(output.get_by_role("alert")).to_have_text(
        re.compile(rf"^{re.escape(name)}: needs .*, got 99999999$")
    )
    expect(picture).to_have_attribute("src", right)
    assert opened.errors() == [] and "Traceback" not in opened.panel.inner_text()

    box.fill(start)
    box.press("Enter")
    expect(status).to_have_text(sentence)


def test_a_py_file_opens_as_a_notebook(lesson):
    opened = lesson("sources/04_tt.py")
    assert opened.errors() == []
    expect(opened.panel.get_by_role("slider").first).to_be_visible()


def test_hints_and_the_solution_of_an_exercise_unfold(lesson):
    panel = lesson("04_tt.ipynb").panel
    fold = panel.locator("details").filter(has_text="tails > delta").first
    expect(fold.locator("pre")).to_be_hidden()
    fold.locator("summary").click()
    expect(fold.locator("pre")).to_be_visible()
    assert "Not answered" not in panel.inner_text()
