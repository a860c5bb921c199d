"""Formats and decompositions under the transforms of `torch.func` and `torch.compile`.

`docs/capture.md` holds the table of what is possible; `python tests/formats/test_capture.py` prints
it.
"""

from pathlib import Path

import pytest
import torch
from torch.func import grad, jvp, vjp
from torch.utils import _pytree

import tensorlab as tl
from cases import DECOMPOSITIONS, FORMATS, decompose, make
from tensorlab.formats.base import Format, MatrixFormat

BOOK = Path(__file__).parents[2] / "docs" / "capture.md"
F64 = torch.float64


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def dense(x):
    return x.to_dense() if isinstance(x, Format) else x


def places(x, n=7):
    """Multi-indices, some of them counted from the end."""
    g = torch.Generator().manual_seed(1)
    return torch.stack([torch.randint(-m, m, (n,), generator=g) for m in x.shape], 1)


def has(name, operation):
    x = make(name)
    lacks = {
        "apply": not isinstance(x, MatrixFormat),
        "orthogonal": not hasattr(x, "orthogonal"),
        "round": isinstance(x, (tl.CP, tl.PivotedLowRank)),
    }
    return not lacks.get(operation, False)


OPERATIONS = {
    "to_dense": lambda x, y: x.to_dense(),
    "norm": lambda x, y: x.norm(),
    "at": lambda x, y: x.at(PLACES[x.shape]),
    "dot": lambda x, y: x.dot(y),
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
    "multiple": lambda x, y: x * 3 / 7,
    "apply": lambda x, y: x.apply(INPUT[:, : x.shape[1]]),
    "orthogonal": lambda x, y: x.orthogonal(),
    "round": lambda x, y: x.round(1),
}
PLACES = {make(name).shape: places(make(name)) for name in FORMATS}
INPUT = random(3, 64)
THREE = "Kronecker of three factors"  # how many terms `round` keeps of it is seen on the way
PAIRS = [(n, o) for o in OPERATIONS for n in FORMATS if has(n, o)]
OPEN = [pair for pair in PAIRS if pair != (THREE, "round")]


def close(got, wanted, factor=1.0):
    """Within 2^14 eps, for some ten steps of 64 numbers and condition numbers of some 10."""
    error = (got - wanted).detach().abs().max()
    assert error <= factor * 2**14 * torch.finfo(F64).eps * (1 + wanted.detach().abs().max())


def stacked(formats):
    return _pytree.tree_map(lambda *tensors: torch.stack(tensors), *formats)


# -- one at a time


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "operation"), PAIRS)
def test_forward_and_backward_agree(name, operation):
    """<c, J d> = <Jᵀ c, d>, and the same for second derivatives taken in three ways."""
    x, y, d = (list(make(name, seed).tensors()) for seed in range(3))
    x, y = make(name, 0), make(name, 1)
    f = lambda tensors: dense(OPERATIONS[operation](x.with_tensors(tensors), y))
    inner = lambda a, b: sum((s * t).sum() for s, t in zip(a, b))
    value, forward = jvp(f, (list(x.tensors()),), (d,))
    c = random(*value.shape, seed=3)
    backward = vjp(f, list(x.tensors()))[1](c)[0]
    close((c * forward).sum(), inner(backward, d))
    g = lambda tensors: f(tensors).square().sum()
    along = lambda function: jvp(function, (list(x.tensors()),), (d,))[1]
    second = inner(along(grad(g)), d)
    close(jvp(lambda t: jvp(g, (t,), (d,))[1], (list(x.tensors()),), (d,))[1], second, 64)
    close(inner(grad(lambda t: jvp(g, (t,), (d,))[1])(list(x.tensors())), d), second, 64)


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "operation"), OPEN)
def test_many_at_once(name, operation):
    """vmap is a loop, for values and for gradients."""
    xs, ys = [make(name, seed) for seed in (0, 1, 2)], [make(name, seed) for seed in (3, 4, 5)]
    f = lambda x, y: dense(OPERATIONS[operation](x, y))
    close(torch.vmap(f)(stacked(xs), stacked(ys)), torch.stack([f(*xy) for xy in zip(xs, ys)]))
    g = grad(lambda x, y: f(x, y).square().sum())
    wanted = stacked([g(*xy) for xy in zip(xs, ys)])
    for a, b in zip(*map(_pytree.tree_leaves, (torch.vmap(g)(stacked(xs), stacked(ys)), wanted))):
        close(a, b, 64)


@pytest.mark.parametrize("name", FORMATS)
def test_places_may_be_mapped_too(name):
    x = make(name)
    index = torch.stack([PLACES[x.shape], PLACES[x.shape].flip(0)])
    close(torch.vmap(x.at)(index), torch.stack([x.at(i) for i in index]))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("beyond", ["above", "below"])
def test_a_place_out_of_range_is_found_unseen_too(name, beyond):
    x = make(name)
    wrong = torch.zeros(2, 1, x.ndim, dtype=torch.long)
    wrong[1, 0, -1] = x.shape[-1] if beyond == "above" else -x.shape[-1] - 1
    with pytest.raises((RuntimeError, IndexError), match="out of"):
        torch.vmap(x.at)(wrong)


# -- compiled


def compiled(function, *args):
    torch._dynamo.reset()
    return torch.compile(function, backend="aot_eager", fullgraph=True)(*args)


QUICK = ("LowRank with s", "CP")  # the others take up to a minute


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FORMATS]
)
def test_all_operations_are_compiled_whole(name):
    """In one graph without a break, with the gradient."""
    x, y = make(name, 0), make(name, 1)
    parameters = [t.requires_grad_() for t in x.tensors()]
    every = lambda x, y: [dense(f(x, y)) for o, f in OPERATIONS.items() if (name, o) in OPEN]
    got, wanted = compiled(every, x, y), every(x, y)
    for a, b in zip(got, wanted, strict=True):
        close(a, b)
    total = lambda values: sum(v.square().sum() for v in values)
    for a, b in zip(*(torch.autograd.grad(total(v), parameters) for v in (got, wanted))):
        close(a, b, 64)


# -- decompositions

# a mask, and the generator of a start above the dimensions, would be made while torch records
ITERATIONS = [n for n in DECOMPOSITIONS if n.startswith(("hooi", "cp_"))]
ITERATIONS = [n for n in ITERATIONS if "mask" not in n and "above" not in n]
TO_RANK = [n for n in DECOMPOSITIONS if not n.startswith(("hooi", "cp_", "Kronecker of"))]
TO_RTOL = [n for n in TO_RANK if not n.startswith("Monarch")]


@pytest.mark.thorough
@pytest.mark.parametrize("name", TO_RANK)
def test_decompositions_to_a_rank(name):
    xs = torch.stack([random(*DECOMPOSITIONS[name][0], seed=seed) for seed in range(3)])
    f = lambda x: dense(decompose(name, x, 2))
    g = grad(lambda x: f(x).square().sum())
    close(torch.vmap(f)(xs), torch.stack([f(x) for x in xs]))
    close(torch.vmap(g)(xs), torch.stack([g(x) for x in xs]), 64)
    d, c = random(*xs[0].shape, seed=4), random(*xs[0].shape, seed=5)
    close((c * jvp(f, (xs[0],), (d,))[1]).sum(), (vjp(f, xs[0])[1](c)[0] * d).sum(), 64)
    close(compiled(f, xs[0]), f(xs[0]))


@pytest.mark.parametrize("name", TO_RANK)
def test_where_nothing_can_be_read_the_caps_are_the_ranks(name):
    """Of a tensor of lower rank, and of zero."""
    low = decompose(name, random(*DECOMPOSITIONS[name][0]), 1).to_dense()
    found = torch.vmap(lambda x: decompose(name, x, 2).to_dense())(torch.stack([low, 0 * low]))
    close(found, torch.stack([low, 0 * low]))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "way", [lambda f, x: torch.vmap(f)(x[None]), compiled], ids=["vmap", "compile"]
)
@pytest.mark.parametrize("name", [*TO_RTOL, *ITERATIONS, "Kronecker of three", "rounding"])
def test_what_must_be_read_is_said_in_one_sentence(name, way):
    """A tolerance, the terms of three factors, the end of an iteration."""
    x = random(*DECOMPOSITIONS.get(name, DECOMPOSITIONS["tt_svd"])[0])
    f = lambda x: dense(decompose(name, x, None, 0.1))
    if name == "Kronecker of three":
        f = lambda x: dense(decompose(name, x, 2))
    if name == "rounding":
        f = lambda x: tl.TT((x[0][None], x[0].mT[:, :, None])).round(rtol=0.1).to_dense()
    with pytest.raises(Exception, match="can be read|numbers that it can read") as caught:
        way(f, x)
    if way is not compiled:
        assert isinstance(caught.value, ValueError) and "\n" not in str(caught.value)


# -- the table

ROWS = {
    **{f"`{o}` of a format": "yes yes yes yes" for o in OPERATIONS},
    "`round` to an rtol": "yes yes no no",
    "decomposition to a rank": "yes yes yes yes",
    "decomposition to an rtol": "yes yes no no",
    "Kronecker products of three factors and more": "yes yes no no",
    "iteration (`cp_als`, `cp_stable`, `hooi`)": "yes yes no no",
}


def table() -> str:
    rows = [["what", "grad", "jvp", "vmap", "compile"], ["-"] * 5]
    rows += [[what, *cells.split()] for what, cells in ROWS.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def test_the_book_has_this_table():
    assert table() in BOOK.read_text(encoding="utf-8")


if __name__ == "__main__":
    print(table())
