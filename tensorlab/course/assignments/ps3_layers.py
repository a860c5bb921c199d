"""Problem set 3: products of trains, the cost of a walk, circulant layers."""

import torch
from torch import Tensor

from ...formats.ttmatrix import TTMatrix
from ..checks import Check, Unusable, gaussian, returned


def given_count(shapes, batch: int, side: str) -> tuple[int, int]:
    """Operations and bytes of a walk over cores (r, m, n, q), read off tensors without numbers.

    >>> given_count([(1, 3, 2, 1)], 5, "left")
    (60, 124)
    """
    cores = [torch.empty(s, device="meta") for s in shapes]
    if side == "right":
        cores = [core.permute(3, 1, 2, 0) for core in cores[::-1]]
    state = torch.empty(batch, *(core.shape[2] for core in cores), 1, device="meta")
    flops = entries = 0
    for core in cores:
        after = torch.tensordot(state, core, ([1, state.ndim - 1], [2, 0]))
        flops += 2 * after.numel() * core.shape[0] * core.shape[2]
        entries += state.numel() + core.numel() + after.numel()
        state = after
    return flops, 4 * entries


def _dense(cores):
    return TTMatrix(tuple(cores)).to_dense()


def _product(function, a, b):
    """The product that the cores stand for."""
    result = returned(function, a, b)
    if result is None:
        return None
    if not isinstance(result, (list, tuple)) or not all(isinstance(c, Tensor) for c in result):
        raise Unusable(f"a list of cores is needed, this is a {type(result).__name__}.")
    wanted = [
        (p.shape[0] * q.shape[0], p.shape[1], q.shape[2], p.shape[3] * q.shape[3])
        for p, q in zip(a, b)
    ]
    if (shapes := [tuple(c.shape) for c in result]) != wanted:
        raise Unusable(f"cores of the shapes {wanted} are needed, these are {shapes}.")
    return _dense(result)


def _pair(function, *case):
    """Two whole numbers."""
    result = returned(function, *case)
    if result is None:
        return None
    if not isinstance(result, tuple) or len(result) != 2:
        raise Unusable("two numbers are needed, the operations and the bytes.")
    return torch.tensor(result, dtype=torch.float64)


def _trains():
    a = list(gaussian((1, 2, 3, 2), (2, 3, 2, 1)))
    return a, list(gaussian((1, 3, 2, 3), (3, 2, 4, 1)))


def _circulant(c):
    return torch.stack([c.roll(k) for k in range(len(c))], dim=1)


def _nearest(w):
    """The means of the diagonals, each rolled into a row."""
    return torch.stack([w[:, k].roll(-k) for k in range(len(w))]).mean(dim=0)


FORBIDDEN = tuple(
    (function, "write it yourself; answers of the self-checks are not allowed here.")
    for function in (given_count, _circulant, _nearest)
)

BY_HAND = tuple(
    (function, "write the formula of the gradient; autograd is not allowed here.")
    for function in (torch.autograd.grad, torch.autograd.backward)
)

multiply = Check(
    function=True,
    cases=lambda: [_trains()],
    read=_product,
    right=lambda a, b: _dense(a) @ _dense(b),
    hint="the shapes are right, but these cores are not those of the product: which of the two "
    "bonds comes first must be the same on both sides of a core.",
    moral="This case is right; try square cores, where a transpose fits too, and one core only.",
)

count = Check(
    function=True,
    cases=lambda: [
        ([(1, 2, 3, 2), (2, 4, 2, 3), (3, 3, 2, 1)], 3, side) for side in ("left", "right")
    ],
    read=_pair,
    right=given_count,
    mistakes=(
        (
            lambda shapes, batch, side: (
                given_count(shapes, batch, side)[0] / 2,
                given_count(shapes, batch, side)[1],
            ),
            "a product and a sum are two operations.",
        ),
        (
            lambda shapes, batch, side: given_count(
                shapes, batch, "left" if side == "right" else "right"
            ),
            "that is the walk from the other side.",
        ),
        (
            lambda shapes, batch, side: (
                given_count(shapes, batch, side)[0],
                given_count(shapes, batch, side)[1] / 4,
            ),
            "an entry has four bytes.",
        ),
    ),
    rtol=1e-12,
    hint="write rows, inner and columns of each step next to each other; for three tokens from "
    "the left the rows are 12, 12 and 24.",
    moral="This case is right; try a single core.",
)

crossing = Check(
    function=True,
    cases=lambda: [([(1, 2, 2, 2), (2, 2, 2, 1)], "left")],
    right=lambda shapes, side: 3,
    mistakes=(
        (
            lambda shapes, side: 2,
            "for two tokens both take the same number of operations: fewer are asked for.",
        ),
    ),
    hint="here a walk costs 64 operations a token; rebuilding costs 64 once, and then 32 a token.",
    moral="This case is right; try a train for which there is no such batch.",
)

nearest = Check(
    function=True,
    cases=lambda: [gaussian((4, 4))],
    right=_nearest,
    mistakes=(
        (lambda w: w[:, 0], "that is the first column of w; all columns count alike."),
        (lambda w: _nearest(w.T), "that is nearest to the transpose: w[i, j] = c[(i - j) mod n]."),
    ),
    hint="each entry of c is in n places of the matrix.",
    moral="This case is right; try an odd n.",
)

apply = Check(
    function=True,
    cases=lambda: [gaussian((4,), (3, 4))],
    right=lambda c, x: x @ _circulant(c).T,
    mistakes=((lambda c, x: x @ _circulant(c), "that is x w, the rows of w are its outputs."),),
    hint="every output is a sum of c[(i - j) mod n] x[j] over j.",
    moral="This case is right; try an odd n, and float32.",
)
