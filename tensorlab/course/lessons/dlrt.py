"""Lesson 15: training on the manifold of low-rank matrices."""

import functools

import torch
from matplotlib.figure import Figure
from torch import nn

from ... import plots
from ...formats.lowrank import LowRank
from ...layers.linear import FactorizedLinear
from ...layers.surgery import replace_linear
from ...methods.dlrt import DLRT, dlrt_start, kls_step, truncate, usv_step
from ...methods.projected import balanced
from ...models.mlp import MLP
from ...models.training import accuracy
from ..checks import Check, call, gaussian
from ..digits import digits
from ..widgets import Explorer, Player, choice, decimal, integer


def network(
    rank: int, width: int = 100, decay: float = 1.0, seed: int = 0
) -> tuple[MLP, torch.Generator]:
    """64 -> width -> width -> width -> 10, its first three layers of a rank; and the generator that
    drew it.

    >>> [layer.weight.ranks for layer in network(5)[0].layers[:3]]
    [(5,), (5,), (5,)]
    """
    g = torch.Generator().manual_seed(seed)
    model = MLP((64, width, width, width, 10), generator=g)
    replace_linear(
        model, "layers.[0-2]", lambda w: dlrt_start(w.shape, rank, decay=decay, generator=g)
    )
    return model, g


@torch.no_grad()
def balance(model: MLP) -> None:
    """Put the same weights as two factors, U √S and V √S for a diagonal S, into the layers of
    `network`."""
    for k, layer in enumerate(model.layers[:-1]):
        model.layers[k] = FactorizedLinear(balanced(layer.weight), layer.bias)


def training(model, method, g, epochs: int, batch: int = 64, every: int | None = None):
    """Train on the digits; yields the loss after each epoch, or after each `every` steps."""
    x, y, *_ = digits()
    taken = 0
    for _ in range(epochs):
        for rows in torch.randperm(len(y), generator=g).split(batch):
            loss = method.step(functools.partial(_loss, model, x[rows], y[rows]))
            taken += 1
            if every and taken % every == 0:
                yield float(loss)
        if not every:
            yield float(loss)


def _loss(model, x, y):
    return nn.functional.cross_entropy(model(x), y)


class RankExplorer(Player):
    """Training as it happens: the rank of each layer, and the singular values that theta cuts."""

    figsize = (9, 3.4)
    every, epochs = 5, 12

    def __init__(self, theta: float = 0.15):
        super().__init__(
            theta=decimal(theta, 0.01, 0.6, log=True),
            start=integer(32, 2, 64, label="start rank"),
            rule=choice("tail", ("tail", "sum")),
        )

    def steps(self, theta: float, start: int, rule: str):
        model, g = network(start, decay=1.1)
        method = DLRT(
            model,
            torch.optim.SGD(model.parameters(), 0.05, momentum=0.9),
            theta=theta,
            rule=rule,
        )
        ranks = {name: [r] for name, r in method.ranks.items()}
        yield {"ranks": ranks, "loss": None, **_seen(model, method)}
        for loss in training(model, method, g, self.epochs, every=self.every):
            ranks = {name: [*ranks[name], r] for name, r in method.ranks.items()}
            yield {"ranks": ranks, "loss": loss, **_seen(model, method)}

    def draw(self, figure: Figure, state: dict, theta: float, start: int, rule: str) -> str:
        left, right = figure.subplots(1, 2)
        said = plots.rank_evolution(left, state["ranks"], self.every)
        plots.singular_values(right, state["spectra"], theta if rule == "tail" else None)
        right_now = f"{100 * state['accuracy']:.1f} % of the test images are right"
        loss = "" if state["loss"] is None else f" and the loss is {state['loss']:.3f}"
        return f"{said} The three weights hold {state['numbers']} numbers; {right_now}{loss}."


def _seen(model, method):
    """What a picture shows besides the ranks: singular values, test accuracy, and the numbers in
    two factors of each layer."""
    *_, x, y = digits()
    numbers = sum(
        sum(layer.weight.shape) * layer.weight.ranks[0] for layer in method.layers.values()
    )
    return {"spectra": method.spectra(), "accuracy": accuracy(model, x, y), "numbers": numbers}


TARGET = torch.tensor([[1.0, 0.0], [0.0, 0.3]], dtype=torch.float64)


def one_step(
    sigma: float, h: float, degrees: float
) -> tuple[LowRank, list[torch.Tensor], dict[str, torch.Tensor]]:
    """From σ q qᵀ for W' = A - W: the start, the flow on the manifold until h, and where one step
    of length h ends."""
    flow = lambda w: TARGET - w
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    q = torch.stack([angle.cos(), angle.sin()])[:, None]
    start = LowRank(q, q, torch.full((1, 1), sigma, dtype=torch.float64))
    path, small = [start], 200
    for _ in range(small):
        path.append(kls_step(path[-1], flow, h / small, theta=0.0, max_rank=1))
    ends = {
        "Euler, rank 2": start.to_dense() + h * flow(start.to_dense()),
        "KLS, then truncated": kls_step(start, flow, h, theta=0.0, max_rank=1).to_dense(),
        "KLS, fixed rank": kls_step(start, flow, h).to_dense(),
        "U, S, V": usv_step(start, flow, h).to_dense(),
    }
    return start, [w.to_dense() for w in path], ends


class OneStep(Explorer):
    """One KLS step on the cone of symmetric 2 x 2 matrices of rank 1, seen from above; the tip is
    where S⁻¹ explodes."""

    figsize = (8, 4.4)

    def __init__(self, sigma: float = 0.05):
        super().__init__(
            sigma=decimal(sigma, 1e-6, 1.0, log=True, label="singular value"),
            h=decimal(0.3, 0.01, 1.0, log=True),
            degrees=integer(60, 5, 85, label="angle of the start"),
        )

    def draw(self, figure: Figure, sigma: float, h: float, degrees: int) -> str:
        start, path, ends = one_step(sigma, h, degrees)
        return plots.cone_from_above(figure.subplots(), TARGET, start.to_dense(), path, ends)


# -- the theory as numbers


def flow_errors(
    smallest: float, h: float, *, theta: float = 0.0, epsilon: float = 0.0, seed: int = 0
) -> dict[str, float]:
    """Errors at time 1 of KLS (adaptive, at most rank 6; fixed rank 6) and of U, S, V for W' = A -
    W, which has an exact solution.

        W(t) = A + e^-t (W(0) - A)        A (20, 16) of rank 3, plus noise of norm ε

    W(0) has rank 6 and another range: three values of order 1, and 4, 2 and 1 times `smallest`,
    which have to turn into A's.

    >>> errors = flow_errors(1e-8, 0.05)
    >>> errors["KLS"] < 0.05 < errors["U, S, V"]
    True
    """
    g = torch.Generator().manual_seed(seed)
    u, v, noise = (
        torch.randn(*shape, generator=g, dtype=torch.float64)
        for shape in ((20, 9), (16, 9), (20, 16))
    )
    u, v = torch.linalg.qr(u)[0], torch.linalg.qr(v)[0]
    a = (u[:, :3] * torch.tensor([1.0, 0.5, 0.25])) @ v[:, :3].T + epsilon * noise / noise.norm()
    sigma = torch.tensor([1.0, 0.7, 0.4, 4 * smallest, 2 * smallest, smallest], dtype=torch.float64)
    start = LowRank(u[:, 3:], v[:, 3:], torch.diag(sigma))
    steps = round(1 / h)
    exact = a + torch.exp(torch.tensor(-1.0)) * (start.to_dense() - a)
    flow = lambda w: a - w
    out = {}
    for name, step in {
        "KLS": lambda w: kls_step(w, flow, h, theta=theta, max_rank=6),
        "KLS, fixed rank": lambda w: kls_step(w, flow, h),
        "U, S, V": lambda w: usv_step(w, flow, h),
    }.items():
        w = start
        for _ in range(steps):
            w = step(w)
            if not torch.isfinite(w.s).all() or w.s.norm() > 1e6:
                break
        gap = float((w.to_dense() - exact).norm())
        out[name] = gap if gap < 1e6 else float("inf")
    return out


# -- exercises


def _step_storage(n, m, r):
    return 2 * r * (n + m) + (2 * r) ** 2


def _factors():
    (a, b, s, t) = gaussian((9, 4), (7, 4), (4, 4), (4, 4))
    u, v = torch.linalg.qr(a)[0], torch.linalg.qr(b)[0]
    scale = torch.tensor([1.0, 0.5, 0.25, 0.125], dtype=torch.float64)
    flat = torch.diag(
        torch.tensor([1.0, 0.22, 0.2, 0.18], dtype=torch.float64)
    )  # each of the last three is small, all are not
    left, right = torch.linalg.qr(s)[0], torch.linalg.qr(t)[0]
    return [(u, s @ torch.diag(scale) @ t, v, theta) for theta in (0.05, 0.3)] + [
        (u, left @ flat @ right, v, 0.3)
    ]


def _cut(u, s, v, theta, rank=None, wrong=False):
    p, sigma, qh = torch.linalg.svd(s)
    tails = [float(sigma[k:].norm()) for k in range(len(sigma) + 1)]
    r = rank or next(k for k, tail in enumerate(tails) if k and tail <= theta * tails[0])
    right = qh[:, :r] if wrong else qh[:r].T
    return u @ p[:, :r] @ torch.diag(sigma[:r]) @ (v @ right).T


def _values(s, theta):
    sigma = torch.linalg.svdvals(s)
    return max(1, int((sigma > theta * sigma[0]).sum()))


A = torch.diag(torch.tensor([1.0, 0.5, 0.25, 0.125], dtype=torch.float64))
THETAS = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005)


@functools.cache
def final_rank(theta: float, h: float = 0.1) -> int:
    """The rank after 200 KLS steps for W' = A - W with A = diag(1, 1/2, 1/4, 1/8), from a quarter
    of ones."""
    q = torch.full((4, 1), 0.5, dtype=torch.float64)
    w = LowRank(q, q, torch.ones(1, 1, dtype=torch.float64))
    for _ in range(200):
        w = kls_step(w, lambda x: A - x, h, theta=theta)
    return w.ranks[0]


def _rank_of_a(theta):
    one = torch.eye(4, dtype=torch.float64)
    return truncate(LowRank(one, one, A), theta)[0].ranks[0]


stored_numbers = Check(
    question="A layer of 500 outputs and 784 inputs is trained by DLRT at rank 20.  How many "
    "numbers do the weight's factors hold "
    "at the moment when they are most, before the truncation?",
    cases=lambda: [(500, 784, 20)],
    right=_step_storage,
    mistakes=(
        (
            lambda n, m, r: r * (n + m),
            "those are two factors after training; within a step the bases are wider, and there is "
            "S.",
        ),
        (
            lambda n, m, r: r * (n + m) + r * r,
            "those are the three factors between two steps; within a step the bases grow.",
        ),
        (lambda n, m, r: 2 * r * (n + m), "the middle factor is stored too."),
        (
            lambda n, m, r: 2 * r * (n + m) + r * r,
            "the middle factor grows with the bases, on both of its sides.",
        ),
        (lambda n, m, r: n * m, "that is the dense weight, which is never formed."),
    ),
    hint="Û holds [U | K1] and V̂ holds [V | L1]: how many columns have they, and what is the "
    "shape of S̃?",
    moral="Far fewer than the 392000 of the dense weight, and the gradient is as small: that holds "
    "from the first step on.",
)

truncated = Check(
    question="Write `cut(u, s, v, theta)`: the matrix u s vᵀ, where u and v have orthonormal "
    "columns, cut to the smallest rank at "
    "which what is left out has at most theta times the norm of s.  Give the dense matrix back.",
    function=True,
    read=lambda answer, *case: call(answer, *case),
    cases=_factors,
    right=lambda u, s, v, theta: truncate(LowRank(u, v, s), theta)[0].to_dense(),
    mistakes=(
        (
            lambda u, s, v, theta: _cut(u, s, v, theta, wrong=True),
            "the rows of Vh are the right singular vectors: v is multiplied by Vh[:r].T, not by "
            "Vh[:, :r].",
        ),
        (
            lambda u, s, v, theta: _cut(u, s, v, theta, rank=_values(s, theta)),
            "each value is compared with the largest; compare the norm of the whole tail with the "
            "norm of s.",
        ),
        (lambda u, s, v, theta: u @ s @ v.T, "nothing is cut."),
    ),
    hint="take the SVD of the small s; the smallest r with sigma[r:].norm() <= theta * "
    "sigma.norm().",
    moral="The first code of the method took the wrong vectors here; where singular values "
    "coincide it does not learn at all.",
)

largest_theta = Check(
    question="W' = A - W flows to A = diag(1, 1/2, 1/4, 1/8).  Start at w = LowRank(q, q, one), q "
    "= torch.full((4, 1), 0.5), "
    "one = torch.ones(1, 1), all in float64, and take 200 steps w = tl.kls_step(w, lambda x: A - "
    "x, 0.1, theta=theta).  Which is "
    "the largest theta of 0.2, 0.1, 0.05, 0.02, 0.01, 0.005 with which w ends with rank 4?",
    right=lambda: max(theta for theta in THETAS if final_rank(theta) == 4),
    mistakes=(
        (
            lambda: max(t for t in THETAS if _rank_of_a(t) == 4),
            "that theta keeps rank 4 of A itself; but a new direction must survive the truncation "
            "after one step, when it is small.",
        ),
        (lambda: min(THETAS), "that one works, and a larger one does too."),
    ),
    hint="a direction that is not there yet grows by h times its size in A in one step, and theta "
    "must let that through.",
    moral="This is the term θ / h of the theorem: what a step adds is of order h, and truncation "
    "forgets what is below θ.",
)
