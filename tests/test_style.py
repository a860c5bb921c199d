"""How the code reads, as far as it can be counted: short functions, thin lines, one name for one
class, layout left to ruff, American spelling."""

import ast
import io
import re
import tokenize
from collections import Counter
from pathlib import Path

import pytest
from sources import tree

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "tensorlab").rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
BODY = 45  # lines of a function
DENSITY = 48.0  # characters of a line of code, its indentation counted
SCOPES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
BRITISH = (
    r"\b\w*(?:normalis|factoris|quantis|optimis|initialis|regularis|parametris|minimis|maximis"
    r"|generalis|organis|recognis|summaris|visualis|linearis|orthogonalis|discretis|tokenis"
    r"|centralis|randomis|diagonalis|penalis|colour|behaviour|neighbour|favour|centre[sd]?\b"
    r"|modell(?:ed|ing)|labell(?:ed|ing)|judgement|towards)\w*"
)


def documented(node) -> ast.Expr | None:
    """The docstring of a scope."""
    first = node.body[0] if isinstance(node, SCOPES) and node.body else None
    text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return first if text and isinstance(first.value.value, str) else None


def code(path: Path) -> list[str]:
    """Lines of code: those that are not empty, of a docstring or a comment alone."""
    text = path.read_text(encoding="utf-8")
    lines, other = text.splitlines(), set()
    for node in ast.walk(tree(path)):
        if (doc := documented(node)) is not None:
            other |= set(range(doc.lineno, doc.end_lineno + 1))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and lines[token.start[0] - 1].lstrip().startswith("#"):
            other.add(token.start[0])
    return [line for k, line in enumerate(lines, 1) if line.strip() and k not in other]


def classes() -> Counter:
    nodes = (node for path in FILES for node in ast.walk(tree(path)))
    return Counter(node.name for node in nodes if isinstance(node, ast.ClassDef))


def length(function) -> int:
    """Lines from the first statement to the last, without the docstring."""
    body = function.body[documented(function) is not None :]
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_functions_are_short(path):
    functions = (n for n in ast.walk(tree(path)) if isinstance(n, ast.FunctionDef))
    assert not [f"{f.name}: {length(f)}" for f in functions if length(f) > BODY]


def test_lines_of_code_are_thin():
    lines = [line for path in FILES for line in code(path)]
    assert len(lines) > 10_000 and sum(map(len, lines)) / len(lines) < DENSITY


def test_no_two_classes_have_one_name():
    assert not {name: n for name, n in classes().items() if n > 1}


def texts():
    folders = ("tensorlab", "tests", "docs", "notebooks", "examples")
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            parts = path.relative_to(ROOT).parts
            if path.suffix in (".py", ".md") and "_build" not in parts and path != Path(__file__):
                yield path
    yield from (ROOT / "README.md", ROOT / "CONTRIBUTING.md")


def test_the_layout_is_left_to_the_formatter():
    marked = re.compile(r"#\s*fmt:\s*(skip|off)")
    assert not [path for path in texts() if marked.search(path.read_text(encoding="utf-8"))]


def test_words_are_spelled_as_torch_spells_them():
    """A title in the list of papers is spelled as it was printed."""
    found = {}
    for path in texts():
        if path.name != "references.md":
            for word in re.findall(BRITISH, path.read_text(encoding="utf-8"), re.I):
                found.setdefault(word.lower(), path)
    assert not found


@pytest.mark.parametrize(
    "word", ["normalised", "neighbours", "colour", "centres", "modelled", "optimiser"]
)
def test_words_that_are_not(word):
    assert re.search(BRITISH, word)


@pytest.mark.parametrize("word", ["center", "recenter", "checkerboard", "mathsf", "modeled"])
def test_words_that_are(word):
    assert not re.search(BRITISH, word)


WRITES = re.compile(
    r"(\w+)\.(?:write_text|write_bytes|open\(\"[wa])|\b(?:savefig|save_file|open)\((.*)"
)


def written(line: str) -> str | None:
    """What a line of code writes to, None where it writes to no file."""
    if not re.search(r"write_text|write_bytes|savefig|save_file\(|\"[wa]b?\"", line):
        return None
    return line.strip() if WRITES.search(line) else None


def test_every_file_is_written_whole_or_not_at_all():
    """Through `files.replaced`, which gives a `part`. A log and the rows of a sweep are files that
    grow, and data are packed in a folder that is temporary."""
    found = {(path.name, line) for path in FILES for line in map(written, code(path)) if line}
    assert len(found) > 6
    beside = {line for name, line in found if "part" not in line and name != "files.py"}
    beside = {line for line in beside if '"a"' not in line}
    assert {line.split(" as ")[0] for line in beside} == {
        'with log.open("w", buffering=1)',
        'with open(raw, "rb")',
    }
