"""What nbgrader is told: stubs, the kernel of a student, tests with the helpers that were handed
out, feedback without hidden tests, written answers as PDF. The commands are in `staff`.

Needs nbgrader, of the extra `course`.
"""

import ast
import html
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from jupyter_client.manager import AsyncKernelManager
from jupyter_core.paths import jupyter_runtime_dir
from nbconvert import WebPDFExporter
from nbconvert.preprocessors import Preprocessor
from nbformat.v4 import new_notebook, new_output
from nbgrader.converters import Autograde
from nbgrader.preprocessors import ClearHiddenTests, Execute
from traitlets import Bool, Float, Unicode
from traitlets.config import Config

STUB = 'raise NotImplementedError("your turn: put your code in place of this line")'
# A student's code runs with no network but the loopback, which kernels use, with process numbers
# that end with it, with a course's folder that is empty, and without the right to undo any of it.
CUT = ("unshare", "-rn", "--mount", "--pid", "--fork", "--kill-child")
COVER = """
set -e
ip link set lo up
if [ -n "$1" ]; then
    here=$(pwd -P)
    mount -t tmpfs tmpfs "$1"
    mkdir -p "$here"
    cd "$here"
fi
shift
exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"
"""


def cut(folder: str = "") -> list[str]:
    """What stands before a command to run it so. folder: a course's, or none."""
    return [*CUT, "sh", "-c", COVER, "sh", folder]


def can_cut() -> bool:
    """Whether this machine lets an ordinary user take network and files from a command."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            return subprocess.run([*cut(folder), "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


class Kernel(AsyncKernelManager):
    """A kernel for a student's code, little memory, no network, no look at the course's folder, and
    it ends with the marker."""

    isolated = Bool(True).tag(config=True)
    folder = Unicode("", help="the course's, which is empty for the kernel").tag(config=True)
    memory = Float(4.0, help="GiB for the kernel alone").tag(config=True)

    def _ip_default(self) -> str:
        """Where its sockets are: an absolute path, for the kernel runs in another folder."""
        return os.path.join(jupyter_runtime_dir(), secrets.token_hex(4))

    def format_kernel_cmd(self, extra_arguments=None):
        size = f"--data={int(self.memory * 2**30)}"
        guard = (
            ["setpriv", "--pdeathsig", "KILL", "prlimit", size] if sys.platform == "linux" else []
        )
        alone = cut(self.folder) if self.isolated else []
        return [*guard, *alone, *super().format_kernel_cmd(extra_arguments)]


def given(cells) -> str:
    """The imports, functions and classes of what is handed out locked, but for its tests.

    A test cell begins with them when it is marked: a student's cell may have given `watched` or
    `gaussian` another meaning, by mistake or not.
    """
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    return "\n".join(
        ast.unparse(statement)
        for cell in cells
        if (marks := cell.metadata.get("nbgrader", {})).get("locked") and not marks.get("grade")
        if cell.cell_type == "code"
        for statement in ast.parse(cell.source).body
        if isinstance(statement, kinds)
    )


def is_test(cell) -> bool:
    """Whether a machine marks this cell."""
    marks = cell.metadata.get("nbgrader", {})
    return cell.cell_type == "code" and marks.get("grade", False) and not marks.get("solution")


class ExecuteSubmission(Execute):
    """Runs a submission in such a kernel, and each test with what was handed out for it. What goes
    to stderr, as warnings and progress bars do, costs no points; nbgrader would count it as an
    error."""

    def __init__(self, **kwargs):
        super().__init__(kernel_manager_class=Kernel, timeout_func=self._limit, **kwargs)

    def _limit(self, cell) -> int:
        """Seconds for a cell. What is handed out, such as imports, takes as long as the machine
        makes it: that is no student's fault."""
        marks = cell.metadata.get("nbgrader", {})
        handed_out = marks.get("locked", False) and not marks.get("grade", False)
        return 10 * self.timeout if handed_out else self.timeout

    def preprocess_cell(self, cell, resources, index):
        source = cell.source
        if is_test(cell):
            cell.source = f"{given(self.nb.cells[:index])}\n{source}"
        try:
            cell, resources = super().preprocess_cell(cell, resources, index)
        finally:
            cell.source = source
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


def settings(
    *,
    folder: Path | str = "",
    isolated: bool = True,
    memory: float = 4.0,
    seconds: int = 30,
) -> Config:
    """What nbgrader is told, wherever it runs.

    isolated: students' code has no network, and does not see the files in folder, the course's.
    memory: GiB for it. seconds: for each of its cells.

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
    config.Execute.iopub_timeout = 60  # seconds: 4 by default, which a busy machine may need
    config.KernelManager.transport = "ipc"  # a socket that is a file: it is reached without network
    config.Kernel.isolated, config.Kernel.memory = isolated, memory
    config.Kernel.folder = str(Path(folder).resolve()) if folder else ""
    config.HTMLExporter.preprocessors = [Veil]
    return config
