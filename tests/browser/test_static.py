"""An explorer on a page without a kernel, in a real browser and from a file."""

from playwright.sync_api import expect

from tensorlab.course import static
from tensorlab.course.lessons.vocabulary import NetworkExplorer


def test_arrow_keys_move_picture_and_sentence(browser, tmp_path):
    file = tmp_path / "page.html"
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>one explorer</title>'
    file.write_text(head + static.page(NetworkExplorer().sheet()), encoding="utf-8")
    faults, page = [], browser.new_page(viewport={"width": 400, "height": 800})
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda asked: asked.url.startswith("http") and faults.append(asked.url))
    page.goto(file.as_uri())

    slider, status = page.get_by_role("slider", name="modes"), page.get_by_role("status").last
    said, shown = status.inner_text(), page.locator("img:visible").first
    expect(shown).to_have_attribute("alt", said)
    slider.focus()
    slider.press("ArrowRight")
    if slider.get_attribute("max") == slider.input_value() and status.inner_text() == said:
        slider.press("ArrowLeft")
    expect(status).not_to_have_text(said)
    expect(shown).to_have_attribute("alt", status.inner_text())
    assert slider.get_attribute("aria-valuetext") == page.locator("output").inner_text()

    moved, format = status.inner_text(), page.get_by_label("format", exact=True)
    format.focus()
    format.press("ArrowDown" if format.evaluate("e => e.selectedIndex") == 0 else "ArrowUp")
    expect(status).not_to_have_text(moved)
    expect(shown).to_have_attribute("alt", status.inner_text())
    assert page.evaluate("document.documentElement.scrollWidth") <= 400

    page.emulate_media(media="print")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert page.locator(".tensorlab-light").is_visible()  # paper is white
    page.emulate_media(media="screen")
    expect(page.locator(".tensorlab-dark")).to_be_visible()
    page.close()
    assert not faults
