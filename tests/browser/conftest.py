"""One JupyterLab over a copy of the lessons for all browser tests, one chromium for a module, a
page for each test."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from served import lab

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.thorough)
            # One worker: they share what is slow to start.
            item.add_marker(pytest.mark.xdist_group("browser"))


@pytest.fixture(scope="session")
def served(tmp_path_factory, chromium):
    """JupyterLab as `tensorlab lab` starts it, on its working copy of a copy of the lessons; the
    .py of one is put below it."""
    root = tmp_path_factory.mktemp("served")
    shutil.copytree(
        NOTEBOOKS, root / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints")
    )
    pair = root / "work" / "sources"  # as a developer has them
    pair.mkdir(parents=True)
    for name in ("04_tt.py", "04_tt.ipynb", "jupytext.toml"):
        shutil.copy(NOTEBOOKS / name, pair)
    options = ("--no-browser", "--LabApp.expose_app_in_browser=True")
    with lab(root, *options, cwd=root) as (address, token, _):
        yield address, token


# No longer than a module: while it lives, no other test can run an asyncio loop.
@pytest.fixture(scope="module")
def browser(chromium):
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: `pip install -e .[test]`"
    )
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def lesson(served, browser):
    """Opens a lesson by its file name, waits for its kernel, runs all of it, and gives page and
    notebook panel.

    At the end of the test no page may have had an error or asked a host outside."""
    address, token = served
    faults, context = [], browser.new_context(viewport={"width": 1280, "height": 1600})
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.on("pageerror", lambda error: faults.append(f"page error: {error}"))
    page.on(
        "request",
        lambda request: _outside(request.url) and faults.append(f"asked outside: {request.url}"),
    )

    def open_and_run(name):
        page.goto(f"{address}/lab/tree/{name}?reset&token={token}")
        _wait(
            page,
            "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === "
            "'idle'",
        )
        page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        cells = "window.jupyterapp.shell.currentWidget.content.model.cells"
        _wait(
            page,
            f"[...{cells}].every(c => c.type !== 'code' || !c.sharedModel.source.trim() || "
            f"c.executionCount)",
        )
        # JupyterLab draws cells when they come into view: this shows them all, so that each output
        # can be found
        shown = "window.jupyterapp.shell.currentWidget.content.widgets"
        page.evaluate(f"() => {shown}.forEach(cell => cell.node.scrollIntoView())")
        return SimpleNamespace(
            page=page, panel=page.locator(".jp-NotebookPanel:visible"), errors=lambda: _errors(page)
        )

    yield open_and_run
    context.close()
    assert not faults


def _outside(url):
    parts = urlsplit(url)
    return parts.scheme in ("http", "https", "ws", "wss") and parts.hostname not in (
        "127.0.0.1",
        "localhost",
    )


def _wait(page, condition):
    """Wait for a condition in the page; when it does not come, a dialog says why."""
    try:
        page.wait_for_function(f"() => {condition}")
    except Exception as error:
        dialogs = page.locator(".jp-Dialog").all_inner_texts()
        error.add_note(f"dialogs open: {dialogs}; cells failed: {_errors(page)}")
        raise


def _errors(page):
    """Names of the errors among all outputs of the notebook, those not in view included."""
    return page.evaluate(
        """() => [...(window.jupyterapp?.shell.currentWidget?.content?.model?.cells ?? [])]
            .filter(c => c.type === 'code').flatMap(c => c.toJSON().outputs)
            .filter(o => o.output_type === 'error').map(o => `${o.ename}: ${o.evalue}`)"""
    )
