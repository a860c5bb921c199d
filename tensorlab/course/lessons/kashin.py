"""Lesson 23: flat sums and few bits."""

import functools
import math

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ... import plots
from ...layers.report import layer_report
from ...methods.codes import METHODS as QUANTIZERS
from ...methods.codes import quantize
from ...methods.kashin import KINDS, METHODS, Rotation, kashin, kashin_steps
from ...methods.quantize import quantize_model
from ...models.mlp import MLP
from ...models.training import accuracy, train
from ...papers.table import measured, printed
from ..checks import Check, Unusable, gaussian, returned
from ..digits import digits
from ..widgets import Explorer, Player, choice, decimal, integer

INPUTS = ("heavy tails", "Gaussian", "one-hot", "constant")


def vector(name: str, n: int) -> Tensor:
    """A vector of n entries: Gaussian, Student's t of three degrees, a single 1, or all 1.

    >>> vector("one-hot", 4)
    tensor([0., 0., 1., 0.], dtype=torch.float64)
    """
    (g,) = gaussian((4, n))
    if name == "heavy tails":
        return g[0] / g[1:].square().mean(0).sqrt()
    ones = torch.ones(n, dtype=torch.float64)
    return {"Gaussian": g[0], "one-hot": ones * (torch.arange(n) == n // 2), "constant": ones}[name]


class StepsPlayer(Player):
    """One step of the decomposition after another: the entries of u and v, and how much of x is
    left."""

    figsize = (9, 3.3)
    interval = 0.3
    begin = 4

    def __init__(self, steps: int = 40):
        self.most = steps
        super().__init__(
            x=choice("heavy tails", INPUTS),
            size=choice(1024, (64, 256, 1024, 4096)),
            Q=choice("dct", tuple(KINDS)),
            method=choice("two_two", METHODS),
            seed=integer(0, 0, 99),
        )

    def steps(self, x, size, Q, method, seed):
        left = []
        for k, step in enumerate(
            kashin_steps(vector(x, size), Rotation(Q, (size,), seed), method=method)
        ):
            left.append(float(step.left) / float(vector(x, size).norm()))
            yield step, tuple(left)
            if k == self.most or left[-1] < 1e-12:
                return

    def draw(self, figure: Figure, state, x, size, Q, method, seed) -> str:
        step, left = state
        first, second = figure.subplots(1, 2, width_ratios=(3, 2))
        seen = plots.flat_levels(first, step.u, step.v, float(vector(x, size).norm()))
        second.semilogy(range(len(left)), left, **plots.style(0, len(left)))
        second.set(xlabel="step", ylabel="|what is left| / |x|")
        second.set(xlim=(-1, self.most + 1), ylim=(1e-7, 2))
        return f"After {len(left) - 1} steps {left[-1]:.3g} of |x| is left.  {seen}"


def weights(tails: float, n: int = 64) -> Tensor:
    """An n by n matrix of sign(g) |g|^tails for Gaussian g: the larger `tails`, the rarer and
    larger the outliers."""
    (g,) = gaussian((n, n))
    return g.sign() * g.abs() ** tails


@functools.lru_cache(maxsize=256)
def error(tails: float, bits: int, method: str) -> tuple[float, float]:
    """Bits per weight and relative error of `weights(tails)`, seed 0.

    >>> error(1.0, 4, "kmeans")[1] < 0.1
    True
    """
    w = quantize(weights(tails), bits, method=method, generator=torch.Generator().manual_seed(0))
    return w.bits_per_weight, w.error


class BitsExplorer(Explorer):
    """Error against bits for every method, with a slider for how heavy the tails of the weights
    are."""

    figsize = (7, 3.6)

    def __init__(self):
        super().__init__(tails=decimal(2.0, 1.0, 4.0, step=0.25))

    def draw(self, figure: Figure, tails: float) -> str:
        return plots.error_against_bits(
            figure.subplots(), {m: [error(tails, b, m) for b in (2, 3, 4)] for m in QUANTIZERS}
        )


# -------------------------------------------------------------------------------------- experiments


def draw_tails(ax: Axes, tails: tuple[float, ...], bits: int = 4) -> str:
    """The error of every method against how heavy the tails of the weights are, and what no code
    can go below for Gaussian ones, 2^-bits."""
    for k, method in enumerate(QUANTIZERS):
        points = [error(t, bits, method)[1] for t in tails]
        ax.semilogy(tails, points, label=method, **plots.style(k))
    ax.plot(1.0, 2.0**-bits, "_", color="0.4", ms=18, mew=2)
    ax.annotate("bound, Gaussian", (1.0, 2.0**-bits), (12, -3), textcoords="offset points")
    ax.set(xlabel="tails", ylabel=f"relative error at {bits} bits")
    ax.set_ylim(bottom=0.8 * 2.0**-bits)
    ax.legend(ncols=2)
    ends = ", ".join(f"{m} {error(tails[-1], bits, m)[1]:.3f}" for m in QUANTIZERS)
    return f"Relative error at tails {tails[-1]:g}: {ends}."


@functools.cache
def network_curves(bits: tuple[int, ...], seeds: int, epochs: int) -> dict[str, list[tuple]]:
    """Bits per weight, and the shares of right answers with all seeds, of a network that reads
    digits; by method, and of the network itself."""
    x, y, x_test, y_test = digits()
    generator = torch.Generator().manual_seed(0)
    model = MLP((64, 128, 128, 10), generator=generator)
    for _ in train(
        model,
        torch.optim.Adam(model.parameters(), 3e-3),
        x,
        y,
        epochs=epochs,
        generator=generator,
    ):
        pass
    state = {name: t.clone() for name, t in model.state_dict().items()}
    found = {"dense": [(32.0, (accuracy(model, x_test, y_test),))]}
    for method in QUANTIZERS:
        found[method] = []
        for b in bits:
            right = []
            for seed in range(seeds):
                model = MLP((64, 128, 128, 10))
                model.load_state_dict(state)
                generator = torch.Generator().manual_seed(seed)
                quantize_model(model, bits=b, method=method, generator=generator)
                right.append(accuracy(model, x_test, y_test))
            report = layer_report(model)
            stored = 8 * report.total("bytes") / report.total("dense")
            found[method].append((stored, tuple(right)))
    return found


def draw_network(ax: Axes, curves: dict[str, list[tuple]]) -> str:
    """`network_curves`: means of the seeds with their ranges, and the network itself as a line."""
    said = []
    for k, (name, points) in enumerate(curves.items()):
        mean = [100 * sum(right) / len(right) for _, right in points]
        said.append(f"{name} {mean[-1]:.1f} % at {points[-1][0]:.2f} bits")
        if name == "dense":
            ax.axhline(mean[0], color="0.4", lw=1, ls="--", label="dense, 32 bits")
            continue
        off = [  # a mean can be an ulp beyond its seeds
            [max(0.0, m - 100 * min(right)) for m, (_, right) in zip(mean, points)],
            [max(0.0, 100 * max(right) - m) for m, (_, right) in zip(mean, points)],
        ]
        ax.errorbar([b for b, _ in points], mean, off, label=name, capsize=2, **plots.style(k - 1))
    ax.set(xlabel="bits per weight", ylabel="% right")
    ax.legend(ncols=2)
    return f"Right answers: {', '.join(said)}."


def encoder_scores() -> dict[str, dict]:
    """Spearman's correlation on STS-B in percent of what the model has before, as recorded for a
    sentence encoder, {method: {bits: share}}, and as printed for two others at 4 bits, {(model,
    method): share}."""
    ours = [row for row in measured("Merkulov2024").rows if row["STS-B"] is not None]
    whole = next(row["STS-B"] for row in ours if row["method"] == "fp32")
    shares = {m: {} for m in QUANTIZERS}
    for row in ours:
        if row["method"] in shares:
            shares[row["method"]][row["bits"]] = 100 * row["STS-B"] / whole
    score = {
        (row["model"], row["method"]): float(str(row["STS-B"]).split("/")[-1])
        for row in printed("Merkulov2024").rows
    }
    theirs = {
        (model, method): 100 * value / score[model, "fp32"]
        for (model, method), value in score.items()
        if method != "fp32"
    }
    return {"recorded": shares, "printed": theirs}


def draw_encoder(ax: Axes, scores: dict[str, dict]) -> str:
    """`encoder_scores`: curves for what is recorded, hollow marks for what is printed."""
    for k, (method, points) in enumerate(scores["recorded"].items()):
        ax.plot(list(points), list(points.values()), label=method, **plots.style(k))
    for (model, method), share in scores["printed"].items():
        look = plots.style(list(scores["recorded"]).index(method))
        at = 4.1 if model.startswith("BERT") else 4.2
        ax.plot(at, share, **look | dict(ls="", mfc="none", ms=9, marker=look["marker"]))
    ax.axhline(100, color="0.4", lw=1, ls="--", label="not quantized")
    ax.set(xlabel="bits", ylabel="% of the correlation before", ylim=(-5, 108))
    ax.set_xticks((2, 3, 4))
    ax.legend(ncols=2)
    ends = ", ".join(f"{m} {points[4]:.1f} %" for m, points in scores["recorded"].items())
    return f"At 4 bits: {ends}; hollow marks are printed, for BERT and RoBERTa."


def printed_wins() -> tuple[int, int]:
    """How many printed scores are higher for kashin than for kmeans, and how many there are."""
    rows = {(row["model"], row["method"]): row for row in printed("Merkulov2024").rows}
    pairs = [
        (float(a), float(b))
        for model in {model for model, _ in rows}
        for task in printed("Merkulov2024").columns[3:]
        for a, b in zip(
            str(rows[model, "kashin"][task]).split("/"), str(rows[model, "kmeans"][task]).split("/")
        )
    ]
    return sum(a > b for a, b in pairs), len(pairs)


# ---------------------------------------------------------------------------------------- exercises


def _pair(function, *case):
    """Reads two vectors as one."""
    result = returned(function, *case)
    if result is None:
        return None
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise Unusable(f"two vectors of shape ({len(case[0])},) are needed, one for each basis.")
    try:
        return torch.cat([torch.as_tensor(part, dtype=torch.float64) for part in result])
    except (TypeError, ValueError, RuntimeError) as error:
        raise Unusable(f"two vectors are needed.  {error}") from error


def _turned(n):
    return torch.linalg.qr(gaussian((n, n))[0])[0]


def _spiky(n):
    return vector("one-hot", n) * 3 + 0.1 * gaussian((2, n))[0][1]


def _greedy(r, Q, larger=True, adjoint=True, both=False, back=False):
    """One step, with what may go wrong in it."""
    y = Q.T @ r if adjoint else Q @ r
    first = (r.abs().sum() >= y.abs().sum()) == larger
    du = _step(r) if first or both else torch.zeros_like(r)
    dv = _step(y) if both or not first else torch.zeros_like(r)
    return du, Q @ dv if back else dv


def _summed(x, Q, steps, rest=lambda r, du, dv, Q: r - du - Q @ dv):
    u, v, r = torch.zeros_like(x), torch.zeros_like(x), x
    for _ in range(steps):
        du, dv = _greedy(r, Q)
        u, v, r = u + du, v + dv, rest(r, du, dv, Q)
    return u, v


def _rounded(w, Q, levels, back=True, adjoint=True, scaled=True, rotated=True):
    y = (Q.T if adjoint else Q) @ w if rotated else w
    s = w.norm() / math.sqrt(len(w)) if scaled else 1.0
    q = s * levels[(y[:, None] / s - levels).abs().argmin(1)]
    return Q @ q if back and rotated else q


LEVELS = torch.tensor([-1.51, -0.453, 0.453, 1.51], dtype=torch.float64)  # four, for Gaussian y


def _step(r):
    return torch.where(r < 0, -1.0, 1.0).double() * r.abs().mean()


EXAMPLE = torch.tensor([3.0, -1.0, 1.0, 1.0], dtype=torch.float64)


def _left(x=EXAMPLE):
    return float((x - _step(x)).square().sum() / x.square().sum())


energy_left = Check(
    right=_left,
    mistakes=(
        (lambda: 1 - _left(), "that is the share which is gone; the question is what is left."),
        (
            lambda: math.sqrt(_left()),
            "that is the share of the norm; the question is about its square.",
        ),
        (lambda: _left() * 12, "that is |r|^2 itself; divide it by |x|^2."),
        (
            lambda: float((EXAMPLE - EXAMPLE.sign()).square().sum() / 12),
            "the sign vector is multiplied by s, which is not 1.",
        ),
    ),
    hint="s is the mean of |x_i|, and |r|^2 = |x|^2 - N s^2.",
    moral="Only a vector whose entries are all of one size is finished in one step; a spiky one "
    "loses little.",
)

flat_step = Check(
    function=True,
    cases=lambda: [
        (gaussian((7,))[0],),
        (torch.tensor([2.0, 0.0, -4.0, 0.0, 1.0], dtype=torch.float64),),
    ],
    right=_step,
    mistakes=(
        (
            lambda r: r.sign() * r.abs().mean(),
            "where r is 0 the sign counts as 1, or the vector is shorter than sqrt(N).",
        ),
        (lambda r: r.sign(), "the sign vector still needs its factor."),
        (
            lambda r: r.sign() * r.abs().sum(),
            "the sign vector has the squared norm N; divide by it.",
        ),
        (
            lambda r: r.sign() * r.norm() / math.sqrt(len(r)),
            "that is as long as r, which is too long: project r on its signs.",
        ),
        (lambda r: r - _step(r), "that is what is left; the step itself is asked for."),
    ),
    hint="project r on e = sign(r): (r, e) / (e, e) e.",
    moral="(r, sign(r)) is the 1-norm: where it is large against the 2-norm, a flat vector "
    "explains much of r.",
)

greedy_step = Check(
    function=True,
    read=_pair,
    cases=lambda: [(_spiky(6), _turned(6)), (vector("Gaussian", 9), _turned(9))],
    right=lambda r, Q: torch.cat(_greedy(r, Q)),
    mistakes=(
        (
            lambda r, Q: torch.cat(_greedy(r, Q, larger=False)),
            "that is the side with the smaller 1-norm, where less can be taken away.",
        ),
        (
            lambda r, Q: torch.cat(_greedy(r, Q, adjoint=False)),
            "r = Q y has the coordinates y = Q' r in the other basis, not Q r.",
        ),
        (
            lambda r, Q: torch.cat(_greedy(r, Q, both=True)),
            "one side at a time: both steps would explain the same part of r twice.",
        ),
        (
            lambda r, Q: torch.cat(_greedy(r, Q, back=True)),
            "dv stays in its own basis; it is flat there, and Q dv is not.",
        ),
    ),
    hint="y = Q.T @ r; where |r|_1 >= |y|_1 it is (flat_step(r), 0), and otherwise (0, "
    "flat_step(y)).",
    moral="By the theorem one of the two 1-norms is always large, so every step takes its share.",
    forbids=(
        (kashin, "use your `flat_step`: `kashin` is where this goes."),
        (kashin_steps, "use your `flat_step`: `kashin_steps` is where this goes."),
    ),
)

flat_sum = Check(
    function=True,
    read=_pair,
    cases=lambda: [
        (_spiky(8), _turned(8), 5),
        (vector("heavy tails", 12), _turned(12), 30),
        (vector("Gaussian", 5), _turned(5), 1),
    ],
    right=lambda x, Q, steps: torch.cat(_summed(x, Q, steps)),
    mistakes=(
        (
            lambda x, Q, steps: torch.cat(_summed(x, Q, steps, lambda r, du, dv, Q: r - du - dv)),
            "dv is in the other basis: what it takes from r is Q dv.",
        ),
        (
            lambda x, Q, steps: torch.cat(_summed(x, Q, steps, lambda r, du, dv, Q: r)),
            "r stays the same, so the same step is taken again: subtract what has been explained.",
        ),
        (
            lambda x, Q, steps: torch.cat(_summed(x, Q, steps + 1)),
            "that is one step too many.",
        ),
        (
            lambda x, Q, steps: torch.cat(_summed(x, Q, steps)[::-1]),
            "u comes first, and v, in the basis Q, second.",
        ),
    ),
    hint="begin with u = v = 0 and r = x; in each step add du to u and dv to v, and take du + Q dv "
    "from r.",
    moral="The rest falls geometrically, and u and v stay flat: this is the greedy algorithm.",
    forbids=(
        (kashin, "`kashin` is what you are to build: use your `greedy_step`."),
        (kashin_steps, "`kashin_steps` is what you are to build: use your `greedy_step`."),
    ),
)

rotated = Check(
    function=True,
    cases=lambda: [
        (vector("heavy tails", 16), _turned(16), LEVELS),
        (vector("one-hot", 8) * 5, _turned(8), LEVELS),
    ],
    right=_rounded,
    mistakes=(
        (
            lambda w, Q, levels: _rounded(w, Q, levels, back=False),
            "that is still in the other basis: turn it back with Q.",
        ),
        (
            lambda w, Q, levels: _rounded(w, Q, levels, adjoint=False),
            "w = Q y has the coordinates y = Q' w: go there with Q', and back with Q.",
        ),
        (
            lambda w, Q, levels: _rounded(w, Q, levels, scaled=False),
            "the levels are for entries of mean square 1: divide by s before, multiply after.",
        ),
        (
            lambda w, Q, levels: _rounded(w, Q, levels, rotated=False),
            "that is without the rotation; the outliers of w are cut off.",
        ),
    ),
    hint="y = Q.T @ w, s = |w| / sqrt(N); the nearest level to each y_i / s; times s, and Q @ "
    "back.",
    moral="All that a code of the entries needs is that they are nearly Gaussian, and a rotation "
    "makes them so.",
    forbids=((quantize, "build it from Q and levels: `quantize` is where this goes."),),
)

tails_ratio = Check(
    right=lambda: error(3.0, 4, "kmeans")[1] / error(3.0, 4, "rotate")[1],
    mistakes=(
        (
            lambda: error(3.0, 4, "rotate")[1] / error(3.0, 4, "kmeans")[1],
            "that is the other way round.",
        ),
        (
            lambda: error(3.0, 4, "uniform")[1] / error(3.0, 4, "rotate")[1],
            "that is uniform; kmeans is asked for.",
        ),
        (
            lambda: error(3.0, 4, "kashin")[1] / error(3.0, 4, "rotate")[1],
            "that is kashin; kmeans is asked for.",
        ),
        (lambda: error(2.0, 4, "kmeans")[1] / error(2.0, 4, "rotate")[1], "that is for tails 2."),
    ),
    hint="the sentence below the picture gives both errors at 4 bits.",
    moral="A rotation makes every entry nearly Gaussian, whatever the weights were: its error does "
    "not know about tails.",
    rtol=0.05,
)
