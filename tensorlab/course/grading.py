"""What nbgrader is told: stubs, the kernel of a student, feedback without hidden tests, written
answers as PDF. The commands are in `staff`.

Needs nbgrader, of the extra `course`.
"""

import html
import json
import os
import secrets
import shutil
import subprocess
import sys

from jupyter_client.manager import AsyncKernelManager
from jupyter_core.paths import jupyter_runtime_dir
from nbconvert import WebPDFExporter
from nbconvert.preprocessors import Preprocessor
from nbformat.v4 import new_notebook, new_output
from nbgrader.converters import Autograde
from nbgrader.preprocessors import ClearHiddenTests, Execute
from traitlets import Bool, Float
from traitlets.config import Config

STUB = 'raise NotImplementedError("your turn: put your code in place of this line")'
# The loopback stays, since kernels use it.
CUT = ("unshare", "-rn", "--pid", "--fork", "--kill-child")
LOOPBACK = ("sh", "-c", 'ip link set lo up && exec "$@"', "sh")


def can_cut() -> bool:
    """Whether this machine lets an ordinary user take the network from a command."""
    try:
        return subprocess.run([*CUT, *LOOPBACK, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


class Kernel(AsyncKernelManager):
    """A kernel for a student's code, little memory, no network, and it ends with the marker."""

    isolated = Bool(True).tag(config=True)
    memory = Float(4.0, help="GiB for the kernel alone").tag(config=True)

    def _ip_default(self) -> str:
        """Where its sockets are: an absolute path, for the kernel runs in another folder."""
        return os.path.join(jupyter_runtime_dir(), secrets.token_hex(4))

    def format_kernel_cmd(self, extra_arguments=None):
        size = f"--data={int(self.memory * 2**30)}"
        guard = (
            ["setpriv", "--pdeathsig", "KILL", "prlimit", size] if sys.platform == "linux" else []
        )
        cut = [*CUT, *LOOPBACK] if self.isolated else []
        return [*guard, *cut, *super().format_kernel_cmd(extra_arguments)]


class ExecuteSubmission(Execute):
    """Runs a submission in such a kernel. What goes to stderr, as warnings and progress bars do,
    costs no points; nbgrader would count it as an error."""

    def __init__(self, **kwargs):
        super().__init__(kernel_manager_class=Kernel, **kwargs)

    def preprocess_cell(self, cell, resources, index):
        cell, resources = super().preprocess_cell(cell, resources, index)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
        return cell, resources


class Veil(Preprocessor):
    """Takes hidden tests out of what students see: their text, the outputs of their cells, and
    every other output that quotes a line of them."""

    def preprocess(self, notebook, resources):
        clear, hidden = ClearHiddenTests(), set()
        for cell in notebook.cells:
            before = cell.source
            clear.preprocess_cell(cell, resources, 0)
            if cell.source != before:
                hidden |= set(before.splitlines()) - set(cell.source.splitlines())
                cell.outputs = _verdict(cell.outputs)
        shown = "\n".join(cell.source for cell in notebook.cells)
        secret = [line.strip() for line in hidden if len(line.strip()) > 8]
        secret = [line for line in secret if line not in shown]
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = [o for o in cell.outputs if not _quotes(o, secret)]
        return notebook, resources


def _verdict(outputs):
    """What is told of a cell with hidden tests: whether it failed, or its points."""
    errors = [o for o in outputs if o.output_type == "error"]
    if errors:
        said = f"{errors[0].ename}: a test of this cell failed, one that you see or another"
        return [new_output("stream", name="stdout", text=said)]
    return [o for o in outputs if o.output_type == "execute_result"]


def _quotes(output, secret: list[str]) -> bool:
    """Whether an output holds a secret line, as it is or as a string that is shown quoted."""
    texts = html.unescape(json.dumps(output, ensure_ascii=False))
    forms = {form for line in secret for form in (line, repr(line)[1:-1])}
    return any(
        form in texts or json.dumps(form, ensure_ascii=False)[1:-1] in texts for form in forms
    )


class Pdf(WebPDFExporter):
    """Web page to PDF, by the browser of the system in place of one that playwright has fetched."""

    def run_playwright(self, html):
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=browser_path(), args=["--no-sandbox"]
            )
            page = browser.new_page()
            page.route("**/*", lambda route: route.abort())  # students' answers ask no host
            page.set_content(html)
            return page.pdf(print_background=True)


def browser_path() -> str | None:
    found = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    return next(filter(None, found), None)


def written(notebook):
    """A notebook of those cells only that a person marks, each after its question."""
    cells = []
    for question, cell in zip(notebook.cells, notebook.cells[1:]):
        marks = cell.metadata.get("nbgrader", {})
        if marks.get("grade") and marks.get("solution"):
            cells += [question, cell] if question.cell_type == "markdown" else [cell]
    return new_notebook(cells=cells, metadata=notebook.metadata)


def settings(*, isolated: bool = True, memory: float = 4.0, seconds: int = 30) -> Config:
    """What nbgrader is told, wherever it runs.

    isolated: students' code has no network. memory: GiB for it. seconds: for each of its cells.

    >>> settings().ClearSolutions.text_stub
    'YOUR ANSWER HERE'
    """
    config = Config()
    config.CourseDirectory.course_id = "tensorlab"
    config.ClearSolutions.code_stub = {"python": STUB}
    config.ClearSolutions.text_stub = "YOUR ANSWER HERE"
    steps = Autograde.autograde_preprocessors.default()
    config.Autograde.autograde_preprocessors = [
        ExecuteSubmission if s is Execute else s for s in steps
    ]
    config.Execute.timeout = seconds
    config.KernelManager.transport = "ipc"  # a socket that is a file: it is reached without network
    config.Kernel.isolated, config.Kernel.memory = isolated, memory
    config.HTMLExporter.preprocessors = [Veil]
    return config
