"""Lesson 17: three ways to train under a constraint."""

import copy
import functools
from collections.abc import Iterator

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ... import plots
from ...formats.lowrank import LowRank
from ...formats.ttmatrix import tt_matrix_svd
from ...layers.surgery import replace_linear
from ...linalg import singular_values, truncated_svd
from ...methods.admm import ADMM
from ...methods.riemannian import RiemannianSGD
from ...models.mlp import MLP
from ...models.training import accuracy, batches, train
from ..checks import Check, gaussian
from ..digits import digits
from ..widgets import Player, choice, decimal, integer

LAYERS = ["layers.0", "layers.1"]
SETS = {
    "low rank": lambda w, rank: LowRank.from_dense(w, rank),
    "TT": lambda w, rank: tt_matrix_svd(w, (4, 4, 4), (4, 4, 4), rank),
}


@functools.cache
def plain(seed: int = 0, epochs: int = 10) -> MLP:
    """64 -> 64 -> 64 -> 10 on the digits, trained without any constraint."""
    x, y, *_ = digits()
    g = torch.Generator().manual_seed(seed)
    model = MLP((64, 64, 64, 10), generator=g)
    list(train(model, torch.optim.Adam(model.parameters(), 3e-3), x, y, epochs=epochs, generator=g))
    return model


def held_out(model: nn.Module) -> tuple[float, float]:
    """Cross-entropy and share of right classes on the test digits."""
    *_, x, y = digits()
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(x), y)), accuracy(model, x, y)


def projected(model: nn.Module, kind: str, rank: int) -> nn.Module:
    """A copy with the weights of both hidden layers projected: W <- Π(W)."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for layer in model.layers[:2]:
            layer.weight.copy_(SETS[kind](layer.weight, rank).to_dense())
    return model


def rounds(
    kind: str, rank: int, rho: float, growth: float, *, count: int, seed: int = 0, start: int = 10
) -> Iterator[dict]:
    """ADMM from the plainly trained network, an epoch in each round; a state before the first round
    and after each.

    start: epochs of the plain training.  rho is multiplied by `growth` in each round, up to 1.
    """
    x, y, *_ = digits()
    g = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(plain(seed, start))
    project = lambda w: SETS[kind](w, rank)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    admm = ADMM(
        model,
        optimizer,
        dict.fromkeys(LAYERS, project),
        rho=lambda k: max(rho, min(rho * growth**k, 1.0)),
    )
    dense, cut = [], []
    while True:
        dense.append(held_out(model)[1])
        cut.append(held_out(projected(model, kind, rank))[1])
        yield {
            "model": model,
            "history": list(admm.history),
            "dense": list(dense),
            "projected": list(cut),
        }
        if len(dense) > count:
            return
        for rows in batches(len(y), 100, epochs=1, generator=g):
            admm.step(lambda rows=rows: nn.functional.cross_entropy(model(x[rows]), y[rows]))
        admm.update()


class ADMMPlayer(Player):
    """ADMM round by round: the residuals, the accuracy with and without the projection, the
    singular values of a weight."""

    figsize = (11, 3.4)
    count = 15

    def __init__(self):
        super().__init__(
            kind=choice("low rank", tuple(SETS)),
            rank=integer(4, 1, 8),
            rho=decimal(0.01, 1e-4, 1, log=True),
            growth=decimal(1.5, 1, 2),
        )

    def steps(self, kind: str, rank: int, rho: float, growth: float):
        return rounds(kind, rank, rho, growth, count=self.count)

    def draw(
        self, figure: Figure, state: dict, kind: str, rank: int, rho: float, growth: float
    ) -> str:
        left, middle, right = figure.subplots(1, 3)
        history, seen = state["history"], ""
        if history:
            traces = [
                {name: [getattr(r, what)[name] for r in history] for name in LAYERS}
                for what in ("primal", "dual")
            ]
            seen = plots.residuals(left, *traces)
        else:
            left.set_axis_off()
        curves = {name: list(enumerate(state[name])) for name in ("dense", "projected")}
        plots.shares(middle, curves, "round", "accuracy")
        now, before = (m.layers[1].weight.detach() for m in (state["model"], plain(0, 10)))
        plots.singular_values(
            right, {"plain": singular_values(before), "now": singular_values(now)}
        )
        right.set_title("layers.1", fontsize=9)
        a, b = 100 * state["dense"][-1], 100 * state["projected"][-1]
        said = f"Round {len(history)}: {a:.1f} % of the test are right, projected now {b:.1f} %."
        return f"{said}  {seen}".strip()


# -- the experiment


def compare(way: str, kind: str, rank: int, *, epochs: int, seed: int = 0) -> tuple[float, float]:
    """Test loss and accuracy of a network in its set, after `epochs` epochs in all, the same number
    for each way.

    "direct": trained plainly, then projected. "factors": Adam on the factors or cores of a
    projected start. "ADMM": half of the epochs plainly, half by ADMM, then projected. "Riemannian":
    `RiemannianSGD` from the projected start, the rest by Adam.
    """
    x, y, *_ = digits()
    if way == "direct":
        return held_out(projected(plain(seed, epochs), kind, rank))
    if way == "ADMM":
        half = epochs // 2
        *_, last = rounds(
            kind,
            rank,
            1e-2,
            1.5 if epochs > 12 else 4.0,
            count=epochs - half,
            seed=seed,
            start=half,
        )
        return held_out(projected(last["model"], kind, rank))
    g = torch.Generator().manual_seed(seed)
    model = MLP((64, 64, 64, 10), generator=g)
    replace_linear(model, LAYERS, lambda w: SETS[kind](w, rank))
    if way == "factors":
        list(
            train(
                model, torch.optim.Adam(model.parameters(), 3e-3), x, y, epochs=epochs, generator=g
            )
        )
        return held_out(model)
    if way != "Riemannian":
        raise ValueError(f"compare: needs one of direct, factors, ADMM and Riemannian, got {way!r}")
    rest = [layer.bias for layer in model.layers] + [model.layers[2].weight]
    method = RiemannianSGD(model, torch.optim.Adam(rest, 3e-3), lr=0.1, momentum=0.9)
    for rows in batches(len(y), 100, epochs=epochs, generator=g):
        method.step(lambda rows=rows: nn.functional.cross_entropy(model(x[rows]), y[rows]))
    return held_out(model)


def stored(kind: str, rank: int) -> int:
    """Numbers that both constrained weights store."""
    return (
        2 * SETS[kind](torch.randn(64, 64, generator=torch.Generator().manual_seed(0)), rank).numel
    )


# -- the exercises

DIAGONAL = torch.diag(torch.tensor([2.0, 1.5, 1.0], dtype=torch.float64))


primal_by_hand = Check(
    question="S: the matrices of rank 1.  W = diag(3, 1), U = 0, and Z is the projection of W + "
    "U.  What is |W - Z| / |W|?",
    right=lambda: 1 / 10**0.5,
    mistakes=(
        (lambda: 1.0, "that is |W - Z|: divide by the norm of W."),
        (lambda: 1 / 10, "norms, not their squares."),
        (lambda: 1 / 3, "|W| is the Frobenius norm, of all entries."),
    ),
    hint="the nearest matrix of rank 1 keeps the largest singular value.",
    moral="It is what a projection would lose now: over about a tenth, the network falls.",
)


def _project(w: Tensor, r: int) -> Tensor:
    u, s, vh = truncated_svd(w, r)
    return (u * s) @ vh


def _round(w, u, r):
    z = _project(w + u, r)
    return torch.stack([z, u + w - z])


def _stack(z, u):
    return torch.stack([z, u])


admm_round = Check(
    question="Write `admm_round(w, u, r)`: what follows the steps on W.  Z is the matrix of rank r "
    "nearest to w + u, then U is "
    "renewed; return torch.stack([Z, U]).",
    function=True,
    cases=lambda: [(*gaussian((5, 4), (5, 4)), 2), (*gaussian((3, 6), (3, 6)), 1)],
    right=_round,
    mistakes=(
        (
            lambda w, u, r: _stack(_project(w, r), u + w - _project(w, r)),
            "project w + u: otherwise U is of no use.",
        ),
        (
            lambda w, u, r: _stack(_project(w + u, r), w - _project(w + u, r)),
            "U is a sum over the rounds: add to the old one.",
        ),
        (
            lambda w, u, r: _stack(_project(w + u, r), u - w + _project(w + u, r)),
            "the sign of the residual: w - z is added.",
        ),
        (lambda w, u, r: _stack(w + u, u), "Z is w + u without the projection."),
    ),
    hint="u, s, vh = torch.linalg.svd(w + u, full_matrices=False), then the first r of each.",
    moral="U gathers what the constraint costs: ρU is its Lagrange multiplier.",
)


def settles(rho: float, steps: int = 300) -> bool:
    """Whether ADMM for |W - A|² / 2 with A = diag(2, 1.5, 1) and rank 1, each W-step exact, ends
    with |W - Z| < 1e-3 |W|."""
    a = w = DIAGONAL
    z, u = _project(w, 1), torch.zeros_like(a)
    for _ in range(steps):
        w = (a + rho * (z - u)) / (1 + rho)
        z = _project(w + u, 1)
        u = u + w - z
    return float((w - z).norm()) < 1e-3 * float(w.norm())


smallest_rho = Check(
    question="loss |W - A|² / 2 with A = diag(2, 1.5, 1), rank 1, ρ the same in all rounds: what "
    "is the smallest ρ of 0.1, 0.2, "
    "0.3, ... with which ADMM comes to rest, as `lesson.settles(rho)` says?",
    right=lambda: next(k / 10 for k in range(1, 100) if settles(k / 10)),
    mistakes=(
        (
            lambda: 0.1,
            "try it: at rest ρU is A - W, so a small ρ makes U large, and Z takes another "
            "direction.",
        ),
        (
            lambda: 1.5 / 2,
            "that is the bound, where two values are equal; which of the grid is above it?",
        ),
        (
            lambda: 0.7,
            "that is below the ratio of the two largest singular values, and Z goes on changing "
            "its direction.",
        ),
    ),
    hint="call `lesson.settles` for one after another.",
    moral="The set is not convex: too small a ρ never comes to rest, too large a one stays where "
    "it began.  So ρ grows.",
)
