"""Problem set 7: a weighted SVD, ranks by a budget, and what a layer's error does to the task."""

import functools

import torch
from torch import Tensor

from ...formats.lowrank import LowRank
from ...methods.weighted import weighted_basis, weighted_svd
from ...rng import randn
from ..checks import Check, Unusable, gaussian, returned
from ..digits import digits

LAYERS = ("query", "key", "value", "out", "up", "down")


def scores(weights: dict[str, Tensor], x: Tensor, seen: dict | None = None) -> Tensor:
    """The scores (N, 10) of a transformer of one block for pictures (N, 8, 8): a token is a row.

    seen: where given, it gets the inputs (N · 8, n) of each of the six layers.
    """
    return states(weights, x, seen) @ weights["head"].mT


def states(weights: dict[str, Tensor], x: Tensor, seen: dict | None = None) -> Tensor:
    """What the last layer sees of each picture, (N, 256)."""

    def layer(name, z):
        if seen is not None:
            seen[name] = z.detach().reshape(-1, z.shape[-1])
        return z @ weights[name].mT

    z = x @ weights["pixels"].mT + weights["place"]
    mixed = (layer("query", z) @ layer("key", z).mT / z.shape[-1] ** 0.5).softmax(-1)
    z = z + layer("out", mixed @ layer("value", z))
    return (z + layer("down", layer("up", z).relu())).flatten(1)


@functools.cache
def reader(steps: int = 60) -> dict[str, Tensor]:
    """The weights, float64, of a transformer that reads digits: drawn with singular values
    0.9^k times a size, but for the last layer, which has been trained."""
    x, y, *_ = digits()
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: randn(*shape, generator=g, dtype=torch.float64)

    def planted(m, n, size):
        u, v = (torch.linalg.qr(draw(k, min(m, n)))[0] for k in (m, n))
        return size * u * 0.9 ** torch.arange(min(m, n)).double() @ v.mT

    shapes = {"up": (64, 32), "down": (32, 64)}
    weights = {"pixels": planted(32, 8, 2), "place": draw(8, 32) / 2}
    for name, size in zip(LAYERS, (3, 3, 2, 2, 3, 3)):
        weights[name] = planted(*shapes.get(name, (32, 32)), size)
    z = states(weights, x.double() - 0.3)
    head = torch.zeros(10, z.shape[1], dtype=z.dtype, requires_grad=True)
    adam = torch.optim.Adam([head], 0.05)
    for _ in range(steps):
        adam.zero_grad()
        torch.nn.functional.cross_entropy(z @ head.mT, y).backward()
        adam.step()
    return weights | {"head": head.detach()}


def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """The mean cross entropy of pictures x (N, 8, 8) with the classes y."""
    return torch.nn.functional.cross_entropy(scores(weights, x), y)


def given_weighted(w: Tensor, x: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """Factors a (m, r) and b (r, n) with the least |(w - a b) xᵀ|."""
    low = weighted_svd(w, r, right=torch.linalg.qr(x, mode="r").R.mT)
    return low.u, low.v.mT


def given_buy(errors: list[Tensor], costs: list[int], budget: int) -> list[int]:
    """Ranks bought one after another, each time the one that takes most from the errors per number
    among those that can still be paid; the first of equal ones.

    >>> given_buy([torch.tensor([9.0, 4.0, 1.0]), torch.tensor([8.0, 2.0, 0.0])], [2, 3], 5)
    [1, 1]
    """
    ranks = [0] * len(costs)
    while True:
        gains = {
            k: float(e[r] - e[r + 1]) / c
            for k, (e, r, c) in enumerate(zip(errors, ranks, costs))
            if r + 1 < len(e) and c <= budget
        }
        if not gains:
            return ranks
        k = max(gains, key=gains.get)
        ranks[k] += 1
        budget -= costs[k]


def given_effects(weights, cuts, x, y) -> dict[str, tuple[float, float]]:
    """For each layer the change of the loss to first and to second order, when it alone is cut."""
    found = {}
    for name, cut in cuts.items():
        t = torch.zeros((), dtype=x.dtype, requires_grad=True)
        line = weights[name] + t * (cut - weights[name])
        along = loss(weights | {name: line}, x, y)
        (first,) = torch.autograd.grad(along, t, create_graph=True)
        (second,) = torch.autograd.grad(first, t)
        found[name] = first.item(), (first + second / 2).item()
    return found


def _matrix(function, *case):
    """The matrix of two factors."""
    result = returned(function, *case)
    if result is None:
        return None
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise Unusable("two factors a and b are needed.")
    a, b = result
    w, _, r = case
    if a.shape != (len(w), r) or b.shape != (r, w.shape[1]):
        raise Unusable(
            f"factors {(len(w), r)} and {(r, w.shape[1])} are needed, these are {tuple(a.shape)} "
            f"and {tuple(b.shape)}."
        )
    return a @ b


def _whole(function, *case):
    """Whole numbers, as a vector."""
    result = returned(function, *case)
    return None if result is None else torch.tensor([int(r) for r in result]).double()


def _forbidden(*functions):
    said = "write it with torch alone; functions that do the same are not allowed here."
    return tuple((function, said) for function in functions)


FORBIDDEN = _forbidden(
    weighted_svd, weighted_basis, LowRank.__init__, given_weighted, given_buy, given_effects
)

weighted = Check(
    function=True,
    cases=lambda: [(*gaussian((4, 6), (9, 6)), 2)],
    read=_matrix,
    right=lambda *case: torch.matmul(*given_weighted(*case)),
    mistakes=(
        (
            lambda w, x, r: torch.matmul(*given_weighted(w, torch.eye(w.shape[1]).double(), r)),
            "that is the truncated SVD of w; the inputs have no part in it.",
        ),
    ),
    hint="the outputs w xᵀ have to be near, not the weights.",
    moral="This case is right; try inputs that never leave a plane.",
)

buy = Check(
    function=True,
    cases=lambda: [
        ([torch.tensor([9.0, 4.0, 1.0]), torch.tensor([8.0, 2.0, 0.0])], [2, 3], budget)
        for budget in (1, 5, 8)
    ],
    read=_whole,
    right=lambda *case: torch.tensor(given_buy(*case)).double(),
    hint="for a budget of 5: the first rank of layer 0 takes 2.5 from the error for each number, "
    "that of layer 1 takes 2.",
    moral="These budgets are right; try one that cannot pay the best rank, but another.",
)


def _parabola():
    """A layer of the reader, cut to rank 4."""
    weights, (x, y, *_) = reader(), digits()
    cuts = {"value": torch.matmul(*given_weighted(weights["value"], torch.eye(32).double(), 4))}
    return weights, cuts, x[:50].double() - 0.3, y[:50]


effects = Check(
    function=True,
    cases=lambda: [_parabola()],
    read=lambda function, *case: (
        None
        if (found := returned(function, *case)) is None
        else torch.tensor([found[name] for name in case[1]], dtype=torch.float64)
    ),
    right=lambda *case: torch.tensor(list(given_effects(*case).values()), dtype=torch.float64),
    hint="the second number holds the first one and half of the second derivative.",
    moral="This layer is right; try two layers, of which each is cut alone.",
)
