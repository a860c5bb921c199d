"""Lesson 17: ways to train under a constraint."""

import copy
import functools
import itertools
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
from ...papers.table import Table
from ..checks import Check, Unusable, call, gaussian, returned, tensors
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
    begin = 5

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
        middle.axhline(100 * state["dense"][0], color="0.4", lw=1, ls="--", label="at first")
        plots.shares(middle, curves, "round", "accuracy")
        middle.set_ylim(0, 103)
        now, before = (m.layers[1].weight.detach() for m in (state["model"], plain(0, 10)))
        plots.singular_values(
            right, {"plain": singular_values(before), "now": singular_values(now)}
        )
        right.set_title("layers.1")
        a, b = 100 * state["dense"][-1], 100 * state["projected"][-1]
        said = f"Round {len(history)}: {a:.1f} % of the test are right, projected now {b:.1f} %."
        return f"{said}  {seen}".strip()


@functools.cache
def played(kind: str, rank: int) -> float:
    """Accuracy of the projection at the end of the player, with rho and growth as they stand at
    first."""
    *_, last = rounds(kind, rank, 0.01, 1.5, count=ADMMPlayer.count)
    return last["projected"][-1]


# -- a loss whose best matrix of a rank is known


@functools.cache
def weighted(rank: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """A (12, 10) and C (10, 10) of the loss |(W - A) √C|² / 2, the eigenvalues of C from 1 to 0.01;
    and the best W of a rank: with √C behind it, it is the truncated SVD of A √C."""
    a, q = gaussian((12, 10), (10, 10))
    q = torch.linalg.qr(q)[0]
    values = torch.logspace(0, -1, 10, dtype=torch.float64)  # of √C
    best = _nearest((a @ q) * values, rank) / values @ q.T
    return a, (q * values.square()) @ q.T, best


def weighted_loss(w: Tensor) -> float:
    """|(W - A) √C|² / 2 of `weighted`."""
    a, c, _ = weighted()
    return float(((w - a) @ c * (w - a)).sum() / 2)


# -- the experiment

WAYS = ("direct", "direct, tuned", "ADMM", "factors", "Riemannian")


def compare(way: str, kind: str, rank: int, *, epochs: int, seed: int = 0) -> tuple[float, float]:
    """Test loss and accuracy of a network in its set, after `epochs` epochs in all, the same number
    for each way.

    "direct": trained plainly, then projected. "direct, tuned": half of the epochs plainly,
    projected, half of them on the factors. "ADMM": half plainly, half by ADMM with rho from 0.01 to
    1, then projected. "factors": Adam on the factors or cores of a projected start. "Riemannian":
    `RiemannianSGD` from the projected start, the rest by Adam.
    """
    half, project = epochs // 2, lambda w: SETS[kind](w, rank)
    if way == "direct":
        return held_out(projected(plain(seed, epochs), kind, rank))
    if way == "ADMM":
        count = epochs - half
        growth = 100 ** (1 / count)
        *_, last = rounds(kind, rank, 1e-2, growth, count=count, seed=seed, start=half)
        return held_out(projected(last["model"], kind, rank))
    g = torch.Generator().manual_seed(seed)
    if way == "direct, tuned":
        model = replace_linear(copy.deepcopy(plain(seed, half)), LAYERS, project)
        return _fitted(model, epochs - half, g)
    model = replace_linear(MLP((64, 64, 64, 10), generator=g), LAYERS, project)
    if way == "factors":
        return _fitted(model, epochs, g)
    if way != "Riemannian":
        raise ValueError(f"compare: needs one of {', '.join(WAYS)}, got {way!r}")
    x, y, *_ = digits()
    rest = [layer.bias for layer in model.layers] + [model.layers[2].weight]
    method = RiemannianSGD(model, torch.optim.Adam(rest, 3e-3), lr=0.1, momentum=0.9)
    for rows in batches(len(y), 100, epochs=epochs, generator=g):
        method.step(lambda rows=rows: nn.functional.cross_entropy(model(x[rows]), y[rows]))
    return held_out(model)


def _fitted(model, epochs, g):
    """By Adam on whatever the model holds."""
    x, y, *_ = digits()
    list(train(model, torch.optim.Adam(model.parameters(), 3e-3), x, y, epochs=epochs, generator=g))
    return held_out(model)


def stored(kind: str, rank: int) -> int:
    """Numbers that both constrained weights store."""
    (w,) = gaussian((64, 64))
    return 2 * SETS[kind](w, rank).numel


def draw_compared(figure: Figure, found: dict[tuple, list[float]], dense: list[float]) -> str:
    """Accuracy in % of the seeds by (set, rank, way) against numbers stored, a panel for each set,
    the dense network as a line; a sentence."""
    kinds, said = list(dict.fromkeys(kind for kind, *_ in found)), []
    axes = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for ax, kind in zip(axes, kinds):
        curves = {
            way: [(stored(kind, r), ys) for (k, r, w), ys in found.items() if (k, w) == (kind, way)]
            for way in WAYS
        }
        seen = plots.spread(ax, curves | {"dense": [(8192, dense)]}, "numbers stored", "% right")
        ax.set(title=kind, xscale="log", ylim=(0, 103))
        ticks = [n for n, _ in curves["direct"]]
        ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
        ax.minorticks_off()
        ax.get_legend().remove()
        ax.label_outer()
        said.append(f"{kind}: {seen}")
    axes[0].legend(loc="lower right") if len(kinds) == 1 else axes[-1].legend(
        loc="center left", bbox_to_anchor=(1, 0.5)
    )
    return " ".join(said)


# -- the recorded run


def falls(table: Table) -> dict[tuple[str, int, str], dict[str, list[float]]]:
    """Points above the dense network that was trained as long, right after the projection and after
    tuning, of each seed, by (set, rank, way)."""
    found = {}
    for row in table.rows:
        (dense,) = table.where(set=row["set"], rank=row["rank"], seed=row["seed"], way="direct")
        of = found.setdefault((row["set"], row["rank"], row["way"]), {"projected": [], "tuned": []})
        of["projected"].append(row["accuracy"] - dense["before"])
        of["tuned"].append(row["tuned"] - dense["before"])
    return found


def draw_recorded(figure: Figure, ours: Table, theirs: Table) -> str:
    """`falls` for each set and rank, hollow right after the projection, full after tuning, whiskers
    from the least seed to the largest; the printed result as a diamond; a sentence."""
    ax, found = figure.subplots(), falls(ours)
    settings = list(dict.fromkeys((s, r) for s, r, _ in found))
    for (k, way), (stage, fill) in itertools.product(
        enumerate(("direct", "ADMM")), (("projected", "none"), ("tuned", None))
    ):
        ys = [found[s, r, way][stage] for s, r in settings]
        mean = [sum(y) / len(y) for y in ys]
        bars = [[m - min(y) for m, y in zip(mean, ys)], [max(y) - m for m, y in zip(mean, ys)]]
        at = [i + 0.16 * k - 0.08 for i in range(len(settings))]
        look = plots.style(k) | {"ls": "", "mfc": fill or plots.style(k)["color"]}
        ax.errorbar(at, mean, bars, label=f"{way}, {stage}", capsize=2, **look)
    (row,) = theirs.rows
    ax.plot(len(settings), row["points"], "D", ms=6, mfc="none", mec="0.4", label="ADMM, printed")
    ax.axhline(0, color="0.4", lw=1, ls="--", label="dense")
    smaller = {(r["set"], r["rank"]): r["dense"] / r["numbers"] for r in ours.rows}
    names = [f"{s} {r}\n{smaller[s, r]:.0f} times" for s, r in settings]
    ax.set_xticks(range(len(names) + 1), [*names, f"{row['network']}\n{row['compression']} times"])
    ax.set(ylabel="points above dense")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    best = max((sum(of["tuned"]) / len(of["tuned"]), key) for key, of in found.items())
    return (
        f"Nearest to the dense network: {' '.join(map(str, best[1]))}, tuned, {best[0]:.1f} points."
    )


# -- the exercises

DIAGONAL = torch.diag(torch.tensor([2.0, 1.5, 1.0], dtype=torch.float64))


def _nearest(w: Tensor, r: int) -> Tensor:
    u, s, vh = torch.linalg.svd(w, full_matrices=False)
    return (u[:, :r] * s[:r]) @ vh[:r]


def _smallest(w, r):
    u, s, vh = torch.linalg.svd(w, full_matrices=False)
    return (u[:, -r:] * s[-r:]) @ vh[-r:]


def _step(w, gradient, z, u, rho, h, sign=1.0, spring=1.0):
    return w - h * (gradient(w) + spring * rho * (w - z + sign * u))


def _read_pair(function, *case):
    """Z and U, one above the other."""
    made = returned(function, *case)
    if made is None:
        return None
    if not isinstance(made, (tuple, list, Tensor)) or len(made) != 2:
        raise Unusable("two matrices are needed, Z and U.")
    z, u = tensors(made)
    if not z.shape == u.shape == case[0].shape:
        raise Unusable(f"Z and U have the shape of w, {tuple(case[0].shape)}.")
    return torch.stack([z, u])


def _renewed(w, u, r, project=lambda w, u, r: _nearest(w + u, r), dual=lambda w, u, z: u + w - z):
    z = project(w, u, r)
    return torch.stack([z, dual(w, u, z)])


def _admm(w, gradient, r, rhos, steps, h, scaled=True, renewed=True, dense=False):
    """Z after a round for each rho; what may go wrong in it."""
    z, u = _nearest(w, r), torch.zeros_like(w)
    for k, rho in enumerate(rhos):
        for _ in range(steps):
            w = _step(w, gradient, z, u, rho, h)
        z = _nearest(w + u, r)
        u = u + w - z if renewed else u
        if scaled and k + 1 < len(rhos):
            u = u * rho / rhos[k + 1]
    return w if dense else z


def _problem(rank, *rhos):
    a, c, _ = weighted()
    return a, lambda w: (w - a) @ c, rank, rhos, 3, 0.4


def settles(rho: float, steps: int = 300) -> bool:
    """Whether ADMM for |W - A|² / 2 with A = diag(2, 1.5, 1) and rank 1, each W-step exact, ends
    with |W - Z| < 1e-3 |W|."""
    a = w = DIAGONAL
    z, u = _nearest(w, 1), torch.zeros_like(a)
    for _ in range(steps):
        w = (a + rho * (z - u)) / (1 + rho)
        z = _nearest(w + u, 1)
        u = u + w - z
    return float((w - z).norm()) < 1e-3 * float(w.norm())


primal_by_hand = Check(
    right=lambda: 1 / 10**0.5,
    mistakes=(
        (lambda: 1.0, "that is |W - Z|: divide by the norm of W."),
        (lambda: 1 / 10, "norms, not their squares."),
        (lambda: 1 / 3, "|W| is the Frobenius norm, of all entries."),
        (lambda: 3 / 10**0.5, "that is |Z| / |W|, what is kept: the residual is what is lost."),
    ),
    hint="the nearest matrix of rank 1 keeps the largest singular value.",
    moral="It is the share of the weight that a projection would take now; what that costs in "
    "accuracy is for the loss to say.",
)

nearest = Check(
    function=True,
    cases=lambda: [(*gaussian((5, 4)), 1), (*gaussian((3, 6)), 2)],
    right=_nearest,
    mistakes=(
        (lambda w, r: w - _nearest(w, r), "that is what the projection takes away."),
        (_smallest, "those are the smallest singular values: keep the largest."),
        (lambda w, r: w, "nothing has been cut."),
    ),
    hint="u, s, vh = torch.linalg.svd(w, full_matrices=False), then the first r of each.",
    moral="The SVD projects on the matrices of rank r; on trains a TT-SVD stands in for it.",
    forbids=(
        (truncated_svd, "build it from torch.linalg.svd."),
        (LowRank.from_dense, "build it from torch.linalg.svd."),
    ),
)

w_step = Check(
    function=True,
    cases=lambda: [
        (w, lambda w: 2 * w - 1, z, u, rho, 0.1)
        for w, z, u, rho in (
            (*gaussian((4, 3), (4, 3), (4, 3)), 0.5),
            (*gaussian((2, 5), (2, 5), (2, 5)), 3.0),
        )
    ],
    right=_step,
    mistakes=(
        (
            lambda *case: _step(*case, sign=-1.0),
            "the sign of U: the spring is |W - Z + U|², so W goes to Z - U.",
        ),
        (lambda *case: _step(*case, sign=0.0), "U is missing from the spring."),
        (lambda *case: _step(*case, spring=0.0), "that is a step on the loss alone."),
        (
            lambda *case: _step(*case, spring=2.0),
            "the gradient of ρ/2 |X|² is ρ X: the 2 cancels the half.",
        ),
        (
            lambda w, gradient, z, u, rho, h: 2 * w - _step(w, gradient, z, u, rho, h),
            "that goes uphill: subtract h times the gradient.",
        ),
    ),
    hint="w - h (gradient(w) + ρ (w - z + u)).",
    moral="The loss and a spring toward Z - U: any optimizer of dense weights will do.",
)

admm_round = Check(
    function=True,
    read=_read_pair,
    cases=lambda: [(*gaussian((5, 4), (5, 4)), 2), (*gaussian((3, 6), (3, 6)), 1)],
    right=_renewed,
    mistakes=(
        (
            lambda w, u, r: _renewed(w, u, r, project=lambda w, u, r: _nearest(w, r)),
            "project w + u: otherwise U is of no use.",
        ),
        (
            lambda w, u, r: _renewed(w, u, r, dual=lambda w, u, z: w - z),
            "U is a sum over the rounds: add to the old one.",
        ),
        (
            lambda w, u, r: _renewed(w, u, r, dual=lambda w, u, z: u - w + z),
            "the sign of the residual: w - z is added.",
        ),
        (
            lambda w, u, r: _renewed(w, u, r, project=lambda w, u, r: w + u),
            "Z is w + u without the projection.",
        ),
        (lambda w, u, r: _renewed(w, u, r).flip(0), "Z comes first, then U."),
    ),
    hint="z = nearest(w + u, r), and u + w - z.",
    moral="U gathers what the constraint costs: ρU is its Lagrange multiplier.",
)

admm = Check(
    function=True,
    read=call,
    cases=lambda: [_problem(2, 0.2, 0.4, 0.8, 1.2), _problem(3, 0.5, 0.5)],
    right=_admm,
    mistakes=(
        (
            lambda *case: _admm(*case, scaled=False),
            "when ρ changes, U is multiplied by the old ρ and divided by the new one, so that the "
            "multiplier ρU stays.",
        ),
        (lambda *case: _admm(*case, dense=True), "that is W: Z is what lies in the set."),
        (lambda *case: _admm(*case, renewed=False), "U has to be renewed in each round."),
        (
            lambda w, gradient, r, rhos, steps, h: _admm(w, gradient, r, rhos, 1, h),
            "a round takes `steps` steps on W, not one.",
        ),
        (lambda w, gradient, r, *_: _nearest(w, r), "that is the projection of the start."),
    ),
    hint="z = nearest(w, r), u = 0; for each rho: the steps on w, then admm_round, then u times "
    "this rho over the next.",
    moral="ADMM: the loss sees dense weights, the set sees one SVD in each round.",
)

smallest_rho = Check(
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

enough_rank = Check(
    right=lambda: next(rank for rank in range(1, 9) if played("low rank", rank) > 0.7),
    mistakes=(
        (lambda: 4, "that is enough, and a smaller rank is too."),
        (lambda: 1, "play to the end: the projection of rank 1 reads less than half."),
        (lambda: 2, "the network as it is may read that many; the projected one does not."),
    ),
    hint="play to the end for one rank after another, from 4 down, and read the last number of the "
    "first sentence.",
    moral="Two hidden layers of 64 by 64 in so few directions, and the network still reads.",
)
