"""Automatic mutants of a solution: signs, comparisons, indices, transposes, off by one, dropped
normalizations, swapped arguments."""

import ast
import copy
from collections.abc import Iterator

SWAPPED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}
DROPPED = {"sqrt", "square", "flip", "cumsum", "abs", "conj", "exp", "log", "clone", "diff", "norm"}
DROPPED |= {"clamp_min", "clamp", "movedim", "cumprod", "sort", "argsort", "clamp_max", "round"}
TRANSPOSED = {"T", "mT", "mH"}
RENAMED = {"min": "max", "max": "min", "any": "all", "all": "any", "argmin": "argmax"}
RENAMED |= {"argmax": "argmin", "ceil": "floor", "floor": "ceil", "ones": "zeros", "zeros": "ones"}


def mutants(source: str) -> list[tuple[str, str]]:
    """Pairs of what was changed and the cell with it, for what stands between the marks of a
    solution."""
    first, last = (
        next(k for k, line in enumerate(source.splitlines(), 1) if mark in line)
        for mark in ("### BEGIN SOLUTION", "### END SOLUTION")
    )
    tree, found = ast.parse(source), {}
    inside = lambda node: first < getattr(node, "lineno", 0) < last
    places = [k for k, node in enumerate(ast.walk(tree)) if inside(node)]
    for k in places:
        for change in range(len(list(_changes(_node(tree, k))))):
            changed = copy.deepcopy(tree)
            node = _node(changed, k)
            before = ast.unparse(node)
            after = list(_changes(node))[change]()
            _replace(changed, node, after)
            text = ast.unparse(ast.fix_missing_locations(changed))
            found.setdefault(text, f"line {node.lineno - first}: {before} -> {_text(after)}")
    found.pop(ast.unparse(tree), None)
    return [(said, text) for text, said in found.items()]


def _text(node):
    return "nothing" if node is None else ast.unparse(node)


def _node(tree, k):
    return list(ast.walk(tree))[k]


def _replace(tree, old, new):
    """Put a node in the place of another; None takes a statement out."""
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, name, new)
            elif isinstance(value, list) and any(v is old for v in value):
                at = next(i for i, v in enumerate(value) if v is old)
                value[at : at + 1] = [new] if new is not None else [ast.Pass()]


def _changes(node) -> Iterator:
    """Functions, each of which gives what may stand in the place of a node."""
    match node:
        case ast.BinOp(op=ast.MatMult()):
            yield lambda: ast.BinOp(node.right, ast.MatMult(), node.left)
        case ast.BinOp() if type(node.op) in SWAPPED:
            yield lambda: ast.BinOp(node.left, SWAPPED[type(node.op)](), node.right)
            yield lambda: node.left
        case ast.Compare() if type(node.ops[0]) in SWAPPED:
            yield lambda: ast.Compare(node.left, [SWAPPED[type(node.ops[0])]()], node.comparators)
        case ast.UnaryOp(op=ast.USub()):
            yield lambda: node.operand
        case ast.Constant(value=bool()):
            yield lambda: ast.Constant(not node.value)
        case ast.Constant(value=int()):
            yield lambda: ast.Constant(node.value + 1)
        case ast.Constant(value=float()):
            yield lambda: ast.Constant(node.value * 1.5)
        case ast.Constant(value=str()) if "->" in node.value:
            yield lambda: ast.Constant(_transposed(node.value))
        case ast.Attribute(attr=name) if name in TRANSPOSED:
            yield lambda: node.value
        case ast.Slice(upper=ast.expr()):
            yield lambda: ast.Slice(node.lower, _one_off(node.upper), node.step)
        case ast.Slice(lower=ast.expr()):
            yield lambda: ast.Slice(_one_off(node.lower), node.upper, node.step)
        case ast.Subscript(slice=ast.Tuple(elts=[first, second, *rest])):
            swapped = ast.Tuple([second, first, *rest], ast.Load())
            yield lambda: ast.Subscript(node.value, swapped, node.ctx)
        case ast.Call():
            yield from _calls(node)
        case ast.AugAssign():
            yield lambda: None
        case ast.Name(id=name) if name in RENAMED:
            yield lambda: ast.Name(RENAMED[name], node.ctx)


def _calls(node: ast.Call) -> Iterator:
    if isinstance(node.func, ast.Attribute) and node.func.attr in DROPPED:
        yield lambda: node.func.value
    if isinstance(node.func, ast.Attribute) and node.func.attr in RENAMED:
        renamed = ast.Attribute(node.func.value, RENAMED[node.func.attr], ast.Load())
        yield lambda: ast.Call(renamed, node.args, node.keywords)
    symmetric = isinstance(node.func, ast.Name) and node.func.id in ("min", "max")
    if (
        len(node.args) >= 2
        and not symmetric
        and not any(isinstance(a, ast.Starred) for a in node.args[:2])
    ):
        first, second, *rest = node.args
        yield lambda: ast.Call(node.func, [second, first, *rest], node.keywords)
    if isinstance(node.func, ast.Name) and node.func.id == "range":
        yield lambda: ast.Call(node.func, [*node.args[:-1], _one_less(node.args[-1])], [])


def _one_off(node):
    return ast.BinOp(node, ast.Add(), ast.Constant(1))


def _one_less(node):
    return ast.BinOp(node, ast.Sub(), ast.Constant(1))


def _transposed(einsum: str) -> str:
    given, made = einsum.split("->")
    return (
        f"{given}->{made[::-1]}"
        if len(made) > 1
        else f"{given.split(',')[0][::-1]}{einsum[len(given.split(',')[0]) :]}"
    )
