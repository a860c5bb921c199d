"""NumPy's integers are integers everywhere: each example of a docstring is run once more with
np.int64 in place of the numbers it writes as arguments, and prints the same."""

import ast
import doctest
import importlib
import pkgutil
import re

import numpy as np
import pytest

import tensorlab

OTHERS = re.compile(r"^(torch|nn|random)\.|\.(manual_seed|norm)$")  # which need Python's
GIVEN_BACK = {
    "tensorlab.parallel.sweeps.grid",
    "tensorlab.formats.htucker.HT.unpacked",
}  # the caller's own values
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for found in pkgutil.walk_packages(tensorlab.__path__, "tensorlab."):
        if found.name.startswith(("tensorlab.course", "tensorlab.papers", "tensorlab.__main__")):
            continue
        for test in finder.find(importlib.import_module(found.name)):
            if test.name not in GIVEN_BACK and any(
                "(" in example.source for example in test.examples
            ):
                yield pytest.param(test, id=test.name)


class Numbers(ast.NodeTransformer):
    """3 becomes of_numpy(3) among the arguments of a call, and in tuples and lists there."""

    def visit_Call(self, node):
        self.generic_visit(node)
        if OTHERS.search(ast.unparse(node.func)):
            return node
        node.args = [self.wrapped(a) for a in node.args]
        for keyword in node.keywords:
            keyword.value = self.wrapped(keyword.value)
        return node

    def wrapped(self, node):
        if isinstance(node, ast.Tuple | ast.List):
            node.elts = [self.wrapped(e) for e in node.elts]
        if not isinstance(node, ast.Constant) or type(node.value) is not int:
            return node
        return ast.Call(ast.Name("of_numpy", ast.Load()), [node], [])


@pytest.mark.thorough
@pytest.mark.parametrize("test", examples())
def test_integers_of_numpy_change_no_example(test):
    changed = []
    for e in test.examples:
        tree = ast.fix_missing_locations(Numbers().visit(ast.parse(e.source)))
        simple = all(isinstance(node, ast.Expr | ast.Assign) for node in tree.body)
        written = ("; " if simple else "\n").join(map(ast.unparse, tree.body))  # as one input
        source = e.source if e.exc_msg else written + "\n"
        changed.append(doctest.Example(source, e.want, e.exc_msg, e.lineno, e.indent, e.options))
    again = doctest.DocTest(
        changed, test.globs | {"of_numpy": np.int64}, test.name, test.filename, test.lineno, None
    )
    said = []
    result = doctest.DocTestRunner(optionflags=FLAGS).run(again, out=said.append)
    assert not result.failed, "".join(said)
