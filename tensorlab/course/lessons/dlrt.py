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
from ...papers import dlrt as paper
from ...papers.table import measured, printed
from ..checks import Check, Unusable, call, gaussian, returned
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
                yield float(loss.detach())
        if not every:
            yield float(loss.detach())


class Dense:
    """The baseline: a plain step of an optimizer on whatever the model holds."""

    def __init__(self, model, optimizer):
        self.optimizer = optimizer

    def step(self, closure):
        self.optimizer.zero_grad()
        loss = closure()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def ways() -> dict:
    """Ways to train `network`: what makes the model from a rank or theta, and its method."""

    def dense(_, seed):
        g = torch.Generator().manual_seed(seed)
        model = MLP((64, 100, 100, 100, 10), generator=g)
        return model, g, Dense(model, _sgd(model, 0.05))

    def factors(rank, seed):
        model, g = network(rank, seed=seed)
        balance(model)
        return model, g, Dense(model, _sgd(model, 0.02))

    def dlrt(theta, seed, every=1):
        model, g = network(32, decay=1.1, seed=seed)
        return model, g, DLRT(model, _sgd(model, 0.05), theta=theta, every=every)

    return {
        "dense": dense,
        "plain factors": factors,
        "DLRT": dlrt,
        "DLRT, cut every 5th step": functools.partial(dlrt, every=5),
    }


def _sgd(model, rate):
    return torch.optim.SGD(model.parameters(), rate, momentum=0.9)


def trained(way: str, setting: float, *, seed: int, epochs: int) -> tuple[int, float]:
    """Numbers that the three wide weights hold after training, and the share of right test digits.

    setting: a rank for "plain factors", theta for DLRT.
    """
    model, g, method = ways()[way](setting, seed)
    for _ in training(model, method, g, epochs):
        pass
    *_, x, y = digits()
    numbers = sum(_two_factors(layer.weight) for layer in model.layers[:3])
    return numbers, accuracy(model, x, y)


def _two_factors(weight):
    """Numbers of a weight; of one with a middle factor those of two factors."""
    return weight.ranks[0] * sum(weight.shape) if isinstance(weight, LowRank) else weight.numel()


def _loss(model, x, y):
    return nn.functional.cross_entropy(model(x), y)


# What a rule compares with theta: the norm of all values from the k-th on, or the k-th alone.
RULES = {
    "tail": lambda sigma: sigma.square().flip(0).cumsum(0).flip(0).sqrt() / sigma.norm(),
    "sum": lambda sigma: sigma / sigma.sum(),
}
LABELS = {"tail": r"$\|\sigma_{k:}\|\,/\,\|\sigma\|$", "sum": r"$\sigma_k\,/\,\sum\sigma$"}


class RankExplorer(Player):
    """Training as it happens: the rank of each layer, and what theta compares to decide it."""

    figsize = (9, 3.4)
    every, epochs = 5, 12
    begin = 6

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
        shares = {name: RULES[rule](sigma) for name, sigma in state["spectra"].items()}
        plots.cuts(right, shares, theta, LABELS[rule])
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
    """Errors at time 1 of KLS (adaptive, at most rank 6; fixed rank 6), of U, S, V and of Euler's
    method for the dense matrix, for W' = A - W, which has an exact solution.

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
    dense = a + (1 - h) ** steps * (start.to_dense() - a)
    return out | {"Euler, dense": float((dense - exact).norm())}


# -- recorded on MNIST

LENET = [(20, 25), (50, 500), (500, 800)]  # the low-rank layers of LeNet5; the head has 5000


def lenet() -> tuple[dict, dict]:
    """Test accuracy in % of LeNet5 against the numbers of two factors: our recorded seeds, and the
    means printed in the paper, counted from its ranks."""
    ours, theirs = measured(paper.PROGRAM.key), printed(paper.PROGRAM.key)
    rows = [r for r in ours.where(experiment="LeNet5", method="DLRT") if r["seed"] in range(3)]
    ours_of = {
        theta: [r for r in rows if r["theta"] == theta] for theta in {r["theta"] for r in rows}
    }
    mean = lambda values: sum(values) / len(values)
    dense = ours.where(experiment="LeNet5", method="dense")[0]
    curves = {
        "dense, ours": [(430500, [dense["accuracy"]])],
        "DLRT, ours": [
            (mean([r["stored"] for r in seeds]), [r["accuracy"] for r in seeds])
            for seeds in ours_of.values()
        ],
    }
    marks = {
        "DLRT, printed": [
            (both_factors(row["ranks"]), row["accuracy"]) for row in theirs.where(method="DLRT")
        ],
        "dense, printed": [(430500, theirs.where(method="dense")[0]["accuracy"])],
    }
    return curves, marks


def both_factors(ranks: str) -> int:
    """Numbers that LeNet5 stores with two factors in each low-rank layer, and a dense head.

    >>> both_factors("2 2 3")
    10090
    """
    return 5000 + sum(r * sum(shape) for r, shape in zip(map(int, ranks.split()), LENET))


def by_decay() -> dict[str, list[tuple[float, list[float]]]]:
    """Recorded accuracy in % of plain factors and DLRT of rank 20 against the decay of the start,
    each at the best of its rates."""
    found = {}
    for row in measured(paper.PROGRAM.key).where(experiment="UV"):
        best = found.setdefault(row["method"], {})
        best[row["decay"]] = max(best.get(row["decay"], 0.0), row["accuracy"])
    names = {"UV": "plain factors", "UV in turn": "factors in turn", "DLRT": "DLRT"}
    return {names[m]: [(d, [a]) for d, a in best.items()] for m, best in found.items()}


# -- exercises


def _step_storage(n, m, r):
    return 2 * r * (n + m) + (2 * r) ** 2


def _orthonormal(m, r, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(m, r, generator=g, dtype=torch.float64))[0]


def _projector(q):
    return q @ q.T


def _widened(u, gk):
    return torch.linalg.qr(torch.cat([u, gk], 1))[0]


def _read_basis(function, u, gk):
    """The projector onto the span of what is returned, which must be orthonormal."""
    q = call(function, u, gk)
    if q is None:
        return None
    if q.ndim != 2 or len(q) != len(u):
        raise Unusable(f"a matrix of {len(u)} rows is needed, this has shape {tuple(q.shape)}.")
    if not torch.allclose(q.T @ q, torch.eye(q.shape[1], dtype=q.dtype), atol=1e-8):
        raise Unusable("the columns should be orthonormal: orthonormalize them together.")
    return _projector(q)


def _lifting(m=9, n=7, r=2, k=4):
    """u, s, v, and wider bases that hold u and v, turned."""
    (s,) = gaussian((r, r))
    u, v = _orthonormal(m, r, 1), _orthonormal(n, r, 2)
    wide = [
        _widened(q, _orthonormal(len(q), k - r, 3)) @ _orthonormal(k, k, seed)
        for q, seed in ((u, 4), (v, 5))
    ]
    return (u, s, v, *wide)


def _lifted(u, s, v, u1, v1):
    return (u1.T @ u) @ s @ (v1.T @ v).T


def _read_factors(function, *case):
    """The matrix u s vᵀ of what is returned, with its rank below it."""
    made = returned(function, *case)
    if made is None:
        return None
    if not (isinstance(made, (tuple, list)) and len(made) == 3):
        raise Unusable(f"three tensors are needed, u, s and v; this is a {type(made).__name__}.")
    u, s, v = (torch.as_tensor(t, dtype=torch.float64) for t in made)
    if not (u.ndim == s.ndim == v.ndim == 2 and s.shape == (u.shape[1], v.shape[1])):
        shapes = ", ".join(str(tuple(t.shape)) for t in (u, s, v))
        raise Unusable(f"u (m, r), s (r, r) and v (n, r) are needed, these are {shapes}.")
    for q in (u, v):
        if not torch.allclose(q.T @ q, torch.eye(q.shape[1], dtype=q.dtype), atol=1e-8):
            raise Unusable("the columns of u and v should be orthonormal.")
    return _ranked(u, s, v)


def _ranked(u, s, v):
    return torch.cat([u @ s @ v.T, s.new_full((1, len(v)), float(len(s)))])


def _factors():
    (s, t) = gaussian((4, 4), (4, 4))
    u, v = _orthonormal(9, 4, 1), _orthonormal(7, 4, 2)
    left, right = torch.linalg.qr(s)[0], torch.linalg.qr(t)[0]
    flat = torch.tensor([1.0, 0.22, 0.2, 0.18], dtype=torch.float64)
    scale = torch.tensor([1.0, 0.5, 0.25, 0.125], dtype=torch.float64)
    # of `flat` each of the last three is small, all together are not
    return [(u, left @ torch.diag(x) @ right, v, 0.3) for x in (flat, scale)]


def _cut(u, s, v, theta, rank=None, wrong=False):
    p, sigma, qh = torch.linalg.svd(s)
    tails = [float(sigma[k:].norm()) for k in range(len(sigma) + 1)]
    r = rank or next(k for k, tail in enumerate(tails) if k and tail <= theta * tails[0])
    return u @ p[:, :r], torch.diag(sigma[:r]), v @ (qh[:, :r] if wrong else qh[:r].T)


def _values(s, theta):
    sigma = torch.linalg.svdvals(s)
    return max(1, int((sigma > theta * sigma[0]).sum()))


def _toward():
    """The flow W' = B - W toward a matrix of rank 3 (8, 6), and where to start: rank 2."""
    b = _orthonormal(8, 3, 5) @ torch.diag(gaussian((3,))[0].abs() + 0.5) @ _orthonormal(6, 3, 6).T
    s = torch.diag(torch.tensor([1.0, 0.5], dtype=torch.float64))
    return _orthonormal(8, 2, 7), s, _orthonormal(6, 2, 8), lambda w: b - w


def _kls(u, s, v, flow, h, theta, wide=True, thin=True, length=None):
    f = flow(u @ s @ v.T)
    u1, v1 = (_widened(u, f @ v), _widened(v, f.T @ u)) if wide else (u, v)
    s1 = _lifted(u, s, v, u1, v1)
    s1 = s1 + (h if length is None else length) * u1.T @ flow(u1 @ s1 @ v1.T) @ v1
    return _cut(u1, s1, v1, theta) if thin else (u1, s1, v1)


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


def _breaks(sigmas=(0.3, 0.1, 0.03, 0.01), off=1.0, name="U, S, V"):
    """The largest singular value of a start whose step ends farther from the flow than `off`."""
    for sigma in sigmas:
        _, path, ends = one_step(sigma, 0.3, 60)
        if float((ends[name] - path[-1]).norm()) > off:
            return sigma
    raise ValueError("_breaks: needs a step that ends far away")


stored_numbers = Check(
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
    hint="Û spans [U | F V] and V̂ spans [V | Fᵀ U]: how many columns have they, and what is the "
    "shape of S̃?",
    moral="Far fewer than the 392000 of the dense weight, and the gradient is as small: that holds "
    "from the first step on.",
)

widened = Check(
    function=True,
    read=_read_basis,
    cases=lambda: [
        (_orthonormal(9, 2, 5), *gaussian((9, 2))),
        (_orthonormal(12, 3, 5), *gaussian((12, 3))),
    ],
    right=lambda u, gk: _projector(_widened(u, gk)),
    mistakes=(
        (lambda u, gk: _projector(u), "those are the old directions: the step can then add none."),
        (
            lambda u, gk: _projector(torch.linalg.qr(gk)[0]),
            "the old directions are lost: put u and gk side by side.",
        ),
        (
            lambda u, gk: _projector(torch.linalg.qr(u + gk)[0]),
            "a sum has as few columns as u: put u and gk side by side.",
        ),
    ),
    hint="torch.cat([u, gk], 1) has 2r columns; torch.linalg.qr makes them orthonormal.",
    moral="2r columns that hold the old directions and the new ones.",
)

lifted = Check(
    function=True,
    cases=lambda: [_lifting(), _lifting(2000, 2000)],
    largest=lambda u, *_: 64 * len(u),
    right=_lifted,
    mistakes=(
        (
            lambda u, s, v, u1, v1: nn.functional.pad(s, (0, 2, 0, 2)),
            "zeros around s are right where u1 begins with u; here the bases are turned as well.",
        ),
        (
            lambda u, s, v, u1, v1: _lifted(u, s, v, u1, v1).T,
            "rows and columns have changed places.",
        ),
        (
            lambda u, s, v, u1, v1: (u1.T @ u) @ s.T @ (v1.T @ v).T,
            "s is turned over: it comes between u and vᵀ as it is.",
        ),
    ),
    hint="u1ᵀ (u s vᵀ) v1, with the brackets set so that nothing large is formed.",
    moral="Exactly the same matrix, for u1 and v1 hold all directions of u and v.",
)

cut = Check(
    function=True,
    read=_read_factors,
    cases=_factors,
    right=lambda u, s, v, theta: _ranked(*_cut(u, s, v, theta)),
    mistakes=(
        (
            lambda u, s, v, theta: _ranked(*_cut(u, s, v, theta, wrong=True)),
            "the rows of Vh are the right singular vectors: v is multiplied by Vh[:r].T, not by "
            "Vh[:, :r].",
        ),
        (
            lambda u, s, v, theta: _ranked(*_cut(u, s, v, theta, rank=_values(s, theta))),
            "each value is compared with the largest; compare the norm of the whole tail with the "
            "norm of s.",
        ),
        (lambda u, s, v, theta: _ranked(u, s, v), "nothing is cut."),
    ),
    hint="take the SVD of the small s; the smallest r with sigma[r:].norm() <= theta * "
    "sigma.norm().",
    moral="The SVD is one of a small matrix, whatever the size of the layer.",
    forbids=((truncate, "build it from torch.linalg.svd of the small s."),),
)

kls = Check(
    function=True,
    read=_read_factors,
    cases=lambda: [(*_toward(), 0.2, 0.2), (*_toward(), 0.05, 1e-9)],
    right=lambda *case: _ranked(*_kls(*case)),
    mistakes=(
        (
            lambda *case: _ranked(*_kls(*case, wide=False)),
            "no new direction can enter: widen both bases before the step on s.",
        ),
        (
            lambda *case: _ranked(*_kls(*case, thin=False)),
            "the rank has doubled: `cut` comes last.",
        ),
        (
            lambda u, s, v, flow, h, theta: _ranked(*_kls(u, s, v, flow, h, theta, length=-h)),
            "the sign: flow is W' itself, so it is added.",
        ),
        (
            lambda u, s, v, flow, h, theta: _ranked(*_kls(u, s, v, flow, h, theta, length=1.0)),
            "the step has the length 1: multiply the flow by h.",
        ),
        (
            lambda u, s, v, flow, h, theta: _ranked(*_kls(u, s, v, flow, h, theta, length=0.0)),
            "nothing has moved: the bases are wider, and s still needs its step.",
        ),
    ),
    hint="f = flow(W); widen u by f v and v by fᵀ u; lift s; add h u1ᵀ flow(W) v1; cut.",
    moral="One step of dynamical low-rank training; nothing was divided by a singular value.",
    forbids=((kls_step, "`kls_step` is what you are to build."),),
)

largest_theta = Check(
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

breakdown = Check(
    right=_breaks,
    mistakes=(
        (lambda: 0.01, "that is far off, and a larger singular value is already."),
        (lambda: 0.1, "there it is off by little: read the sentence below the picture."),
        (lambda: 0.3, "there it is off by little: read the sentence below the picture."),
    ),
    hint="type the four values into the box of the singular value, one after another.",
    moral="About where the singular value is a tenth of h: S⁻¹ makes the step of U longer than a "
    "turn.",
)
