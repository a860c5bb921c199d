"""Docstrings as reStructuredText: they are plain text, with equations in the letters of the code.

Words stay words, `names` and doctests become code, and an equation becomes mathematics where every
part of it is understood; where one is not it stays as it is written.
"""

import re

WORDS = (
    "sum prod min max exp log det tr diag rank dim sin cos alpha beta gamma delta eps theta kappa "
    "lambda mu rho sigma tau phi psi omega"
).split()
LATEX = {"eps": r"\varepsilon", "tr": r"\operatorname{tr}", "diag": r"\operatorname{diag}"}
LATEX |= {"rank": r"\operatorname{rank}"}
SIGNS = {
    "...": r"\dots",
    "<=": r"\le",
    ">=": r"\ge",
    "!=": r"\ne",
    "<-": r"\leftarrow",
    "->": r"\to",
    "||": r"\Vert",
    "ᵀ": r"^{\mathsf T}",
    "ᴴ": r"^{\mathsf H}",
    "⁻¹": "^{-1}",
    "⊗": r"\otimes",
    "√": r"\surd",
    "²": "^2",
    "³": "^3",
    "≈": r"\approx",
    "≤": r"\le",
    "≥": r"\ge",
    "·": r"\cdot",
    "∘": r"\circ",
    "*": r"\cdot",
}
RELATIONS = {"=", "<=", ">=", "<-", "≈", "≤", "≥", "<", ">"}
_INDEX = r"(?:[_^](?:\{[^{}]*\}|-?[A-Za-z0-9]{1,2}(?![A-Za-z0-9])))*"
_NAME = rf"(?:{'|'.join(WORDS)}|[A-Za-zα-ωΣ])(?![A-Za-z]){_INDEX}"
_SIGN = "|".join(re.escape(sign) for sign in SIGNS)
_ATOM = rf"{_NAME}|\d+(?:\.\d+)?{_INDEX}|{_SIGN}|[-+=<>/|,()\[\]^:]"
PIECE = re.compile(_ATOM)
WORD = re.compile(rf"(?:{_ATOM})+[.;]?")
PARAMETER = re.compile(r"\w+(, \w+)*: |    ")  # a line of a list of parameters, or its rest


def process(app, what, name, obj, options, lines):
    """Sphinx's hook: the lines of a docstring are replaced in place."""
    lines[:] = rst("\n".join(lines)).splitlines()


def skip(app, what, name, obj, skipped, options):
    """Sphinx's hook: fields of a NamedTuple are explained in the docstring of their class."""
    return True if str(obj.__doc__).startswith("Alias for field number") else None


def rst(text: str) -> str:
    """A whole docstring, block by block.

    >>> rst("Cut x = u v.\\n\\n>>> 1 + 1\\n2")
    'Cut :math:`x = u v`.\\n\\n>>> 1 + 1\\n2\\n'
    >>> rst("w: (out, in).\\nrank: a cap on\\n    the terms.")
    '- ``w``: (out, in).\\n- ``rank``: a cap on the terms.\\n'
    """
    return "\n\n".join(_block(block) for block in re.split(r"\n\s*\n", text.strip("\n"))) + "\n"


def _block(block: str) -> str:
    if block.lstrip().startswith(">>>"):
        return block
    lines = block.split("\n")
    if all(line.startswith("    ") for line in lines):
        return _displayed(lines) or "::\n\n" + block
    if all(map(PARAMETER.match, lines)):
        items = re.split(r"\n(?! )", block)
        return "\n".join("- " + paragraph(_named(" ".join(item.split()))) for item in items)
    if re.match(r"[-*] ", block):
        return re.sub(r"(?s)(?<=- ).*?(?=\n- |\Z)", lambda item: paragraph(item[0]), block)
    return paragraph(" ".join(line.strip() for line in lines))


def _named(item: str) -> str:
    """The parameters that begin a line as code.

    >>> _named("out, in_: their sizes")
    '`out`, `in_`: their sizes'
    """
    names, _, said = item.partition(": ")
    return f"{', '.join(f'`{name}`' for name in names.split(', '))}: {said}"


def _displayed(lines: list[str]) -> str:
    """Indented lines as equations; empty if one of them is not understood whole.

    >>> _displayed(["    x = u v^T"]), _displayed(["    x = u @ v"])
    ('.. math:: x = u v^T', '')
    """
    formulas = [re.sub(r"[.,;]$", "", line.strip()) for line in lines]
    known = all(WORD.fullmatch(word) for f in formulas for word in f.split())
    if not known or not all(balanced(f) and RELATIONS & set(PIECE.findall(f)) for f in formulas):
        return ""
    return "\n\n".join(f".. math:: {latex(f)}" for f in formulas)


def paragraph(text: str) -> str:
    """Words, `code` and equations of one paragraph.

    >>> paragraph("|x| of a `name` and the train x_k = sum_j A_j ... B.")
    '\\\\|x\\\\| of a ``name`` and the train :math:`x_k = \\\\sum_j A_j \\\\dots B`.'
    """
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(f"`{p}`" if p.startswith("`") and len(p) > 1 else _prose(p) for p in parts)


def _prose(text: str) -> str:
    """Runs of words that are all mathematics and have a relation in them become equations."""
    done, run = [], []
    for word in [*re.split(r"(?<=\s)", text), None]:
        if word is not None and WORD.fullmatch(word.strip() or "?"):
            run.append(word)
            if not word.strip().endswith((".", ";")) or word.strip().endswith("..."):
                continue
            word = ""
        done.append(_run(run))
        run = []
        done.append(escaped(word or ""))
    return "".join(done)


def _run(words: list[str]) -> str:
    """One run: articles and stops at its ends are words again."""
    first, last = 0, len(words)
    while first < last and words[first].strip() in ("a", "A", "I", ","):
        first += 1
    while last > first and words[last - 1].strip() in ("a", "A", "I", ",", ":"):
        last -= 1
    formula = "".join(words[first:last])
    body = formula.rstrip()
    stop = re.search(r"(?:(?<!\.)\.)?[,;:]*$", body)[0]  # of a sentence, not of "..."
    body = body[: len(body) - len(stop)] if stop else body
    signs = {word.strip() for word in words[first:last]}
    if not signs & RELATIONS or len(signs) < 3 or not balanced(body):
        return escaped("".join(words))
    end = formula[len(body) :]
    before, after = "".join(words[:first]), "".join(words[last:])
    glue = "\\ " if end and end[0] not in " \n.,;:" else ""
    return f"{escaped(before)}:math:`{latex(body)}`{glue}{escaped(end)}{escaped(after)}"


def balanced(text: str) -> bool:
    """Whether every bracket is closed by its own kind, and bars come in pairs."""
    pairs, open_ = {")": "(", "]": "[", "}": "{"}, []
    for sign in text:
        if sign in pairs.values():
            open_.append(sign)
        elif sign in pairs and (not open_ or open_.pop() != pairs[sign]):
            return False
    return not open_ and text.count("|") % 2 == 0


def latex(text: str) -> str:
    """An equation in the code's letters as LaTeX.

    >>> latex("w_ij <= sum_k u_{k-1} v^T")
    'w_{ij} \\\\le \\\\sum_k u_{k-1} v^T'
    """
    return re.sub(" +", " ", PIECE.sub(lambda piece: _piece(piece[0]), text)).strip()


def _piece(piece: str) -> str:
    if piece in SIGNS:
        return SIGNS[piece] + (" " if SIGNS[piece][0] == "\\" else "")
    name, marks = re.match(r"([A-Za-z]*)(.*)", piece, re.S).groups()
    if name in WORDS:
        name = LATEX.get(name, f"\\{name}")
    return name + re.sub(r"([_^])(-\w+|\w{2,})", r"\1{\2}", marks)


def escaped(text: str) -> str:
    """Words in which no sign means anything to reStructuredText."""
    return re.sub(r"([\\*|_`])", r"\\\1", text)
