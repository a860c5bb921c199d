"""Lesson 19: a train that learns where to look."""

import functools
import math
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ... import plots
from ...formats.tt import TT
from ...formats.tt_cross import tt_cross
from ...formats.tt_sampling import tt_sum
from ...methods.protes import Automaton, Protes, protes
from ...papers import protes_problems
from ...papers.protes_problems import RUNS, ackley, michalewicz, rastrigin, schwefel
from ...papers.table import measured, printed
from ..checks import Check, Unusable, gaussian, returned
from ..widgets import Player, choice, decimal, integer

FUNCTIONS = {
    "Ackley": (ackley, -5, 3),
    "Rastrigin": (rastrigin, -3, 2),
    "Schwefel": (schwefel, -500, 500),
    "Michalewicz": (michalewicz, 0, math.pi),
}
BITS = {
    "maximum cut": "P-11",
    "knapsack": "P-14",
    "control, 50 bits": "P-16",
    "control, runs of 3": "P-19",
}
POINTS = 32  # on each axis of a landscape


def landscape(name: str, n: int = POINTS) -> Tensor:
    """A function of two variables on n by n equidistant points."""
    f, low, high = FUNCTIONS[name]
    points = torch.linspace(low, high, n, dtype=torch.float64)
    return f(torch.cartesian_prod(points, points)).reshape(n, n)


class Batch(NamedTuple):
    """What one batch did: the points, the elite of them, the distribution afterwards, and what is
    known by now."""

    number: int
    points: Tensor
    elite: Tensor
    p: Tensor
    best: tuple[int, int] | None
    value: float
    known: int


class LandscapePlayer(Player):
    """PROTES on a function of two variables, batch by batch: the points and the elite, beside the
    distribution they leave."""

    figsize = (9, 3.6)
    interval = 0.3
    begin = 5

    def __init__(self):
        super().__init__(
            function=choice("Rastrigin", tuple(FUNCTIONS)),
            batch=integer(20, 2, 100),
            elite=integer(4, 1, 20),
            rate=decimal(0.1, 0.01, 1, log=True, label="learning rate"),
        )

    def limits(self, function, batch, elite, rate) -> dict:
        """The elite is a part of the batch."""
        return {"elite": (1, batch)}

    def steps(self, function, batch, elite, rate):
        values = landscape(function)
        search = Protes(
            values.shape,
            budget=values.numel(),
            batch=batch,
            elite=elite,
            lr=rate,
            mutants=0,
            generator=_seed(0),
        )
        grid = torch.cartesian_prod(*[torch.arange(POINTS)] * 2)
        density = lambda: search.log_prob(grid).exp().reshape(values.shape)
        empty = torch.zeros(0, 2, dtype=torch.int64)
        yield Batch(0, empty, empty, density(), None, math.inf, 0)
        while len(index := search.ask()):
            y = values[index[:, 0], index[:, 1]]
            search.tell(y)
            fit = search.fit()
            best = y.argsort(stable=True)[:elite]
            yield Batch(
                len(fit.history),
                index,
                index[best],
                density(),
                fit.value.index,
                fit.value.value,
                fit.evaluations,
            )

    def draw(self, figure: Figure, state: Batch, function, batch, elite, rate) -> str:
        left, right = figure.subplots(1, 2)
        said = plots.landscape(left, landscape(function), state.points, state.elite)
        said = f"{said} {plots.density(right, state.p, state.best)}"
        if state.best is None:
            return f"{said} Nothing has been asked yet."
        found = f"the best of them {state.value:.4g} at {state.best}"
        return f"{said} After batch {state.number}, {state.known} points are known, {found}."


class Draws(NamedTuple):
    """The shares of ones in the draws before each batch, the best values, and how many points are
    known."""

    shares: Tensor
    history: tuple[float, ...]
    known: int


class MarginalsPlayer(Player):
    """The same on 50 bits, where only marginals can be seen: the share of ones in each mode, batch
    by batch, and the best value."""

    figsize = (9, 3.6)
    begin = 20

    def __init__(self):
        super().__init__(
            problem=choice("maximum cut", tuple(BITS)),
            batch=integer(100, 10, 200),
            elite=integer(10, 1, 50),
            mutants=integer(20, 0, 100),
        )

    def limits(self, problem, batch, elite, mutants) -> dict:
        """Elite and mutants are parts of the batch."""
        return {"elite": (1, min(50, batch)), "mutants": (0, min(100, batch))}

    def steps(self, problem, batch, elite, mutants):
        p = protes_problems.problem(BITS[problem])
        search = Protes(
            p.shape,
            budget=10_000,
            batch=batch,
            elite=elite,
            mutants=mutants,
            constraint=p.constraint,
            generator=_seed(0),
        )
        shares = search.draw(200).double().mean(0)[None]
        yield Draws(shares, (), 0)
        while len(index := search.ask()):
            search.tell(p.f(index))
            shares = torch.cat([shares, search.draw(200).double().mean(0)[None]])
            yield Draws(shares, search.history, len(search.values))

    def draw(self, figure: Figure, state: Draws, problem, batch, elite, mutants) -> str:
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        said = plots.marginal_history(left, state.shares)
        reference = protes_problems.problem(BITS[problem]).best
        right.axhline(reference, color="0.4", lw=1)
        right.plot(
            range(1, len(state.history) + 1),
            state.history,
            label="best so far",
            **plots.style(0, len(state.history)),
        )
        right.set(xlabel="batch", ylabel="value", title="best so far; line: best known")
        if not state.history:
            return f"{said} Nothing has been asked yet."
        return (
            f"{said} The best of {state.known} points is {state.history[-1]:.6g}; the best "
            f"known value is {reference:.6g}."
        )


def _seed(seed):
    return torch.Generator().manual_seed(seed)


# -------------------------------------------------------------------------------------- experiments


@functools.cache
def race(key: str, budget: int, seeds: int) -> dict[str, Tensor]:
    """The smallest value after each point that was asked for, (seeds, budget), of PROTES, TT-cross
    and random search on a problem without a constraint."""
    p, found = protes_problems.problem(key), {"PROTES": [], "TT-cross": [], "random": []}
    for seed in range(seeds):
        for name, rows in found.items():
            values = []
            f = lambda index, values=values: values.append(p.f(index)) or values[-1]
            if name == "PROTES":
                protes(f, p.shape, budget=budget, generator=_seed(seed))
            elif name == "TT-cross":
                tt_cross(f, p.shape, rtol=1e-10, budget=budget, generator=_seed(seed))
            else:
                u = torch.rand(budget, len(p.shape), generator=_seed(seed), dtype=torch.float64)
                f((u * torch.tensor(p.shape)).long())
            best = torch.cat(values)[:budget].double().cummin(0).values
            rows.append(torch.cat([best, best[-1:].expand(budget - len(best))]))
    return {name: torch.stack(rows) for name, rows in found.items()}


def draw_race(ax: Axes, key: str, runs: dict[str, Tensor]) -> str:
    """What `race` gives: medians as curves, the range of the seeds as bands, the best known value
    as a line."""
    p = protes_problems.problem(key)
    asked = torch.arange(1, len(next(iter(runs.values()))[0]) + 1)
    at = asked.double().log().div(0.02).long().diff(prepend=torch.tensor([-1])) > 0  # few enough
    at[-1] = True
    for k, (name, best) in enumerate(runs.items()):
        middle, look = best.median(0).values, plots.style(k)
        ax.plot(asked[at], middle[at], label=name, **look | dict(marker=""))
        low, high = best.amin(0), best.amax(0)
        ax.fill_between(asked[at], low[at], high[at], color=look["color"], alpha=0.2, lw=0)
    ax.axhline(p.best, color="0.4", lw=1, ls="--", label="best known")
    ax.set(xlabel="points asked", title=p.name, xscale="log")
    top = max(float(best[best < protes_problems.LOST].max()) for best in runs.values())
    if 0 < 100 * p.best < top:
        ax.set(yscale="log", ylim=(p.best / 2, 2 * top))
    ends = ", ".join(f"{name} {float(best[:, -1].median()):.6g}" for name, best in runs.items())
    return f"{p.name}: {ends}; best known {p.best:.6g}."


def gaps() -> dict[str, dict[str, float]]:
    """How far above the reference the medians of ten seeds are, in percent, as recorded, by method
    and problem; and of the paper's own single run what is printed. Runs that found nothing are left
    out."""
    ours, theirs = measured("Batsheva2023"), printed("Batsheva2023")
    best = dict(zip(ours["problem"], ours["reference"]))
    gap = lambda key, value: 100 * (value - best[key]) / abs(best[key])
    sides = {"PROTES": (ours, "median"), "random": (ours, "random"), "TT-cross": (ours, "TT-cross")}
    sides["PROTES, printed"] = (theirs, "PROTES")
    return {
        name: {
            key: max(0.0, gap(key, value))
            for key, value in zip(table["problem"], table[column])
            if value is not None and math.isfinite(value)
        }
        for name, (table, column) in sides.items()
    }


def draw_gaps(ax: Axes, found: dict[str, dict[str, float]], least: float = 5e-3) -> str:
    """`gaps` for every problem, on a logarithmic axis; what is below `least` percent meets the
    reference, and is drawn there."""
    names = list(found["PROTES"])
    for k, (name, values) in enumerate(found.items()):
        look = plots.style(k) | dict(ls="")
        if "printed" in name:
            look |= dict(mfc="none", ms=9)
        x = [names.index(key) for key in values]
        ax.plot(x, [max(value, least) for value in values.values()], label=name, **look)
    ax.set(yscale="log", ylabel="above the reference, %", xlabel="problem")
    ax.set_xticks(range(len(names)), [key[2:] for key in names])
    ax.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    met = {name: sum(v < least for v in values.values()) for name, values in found.items()}
    said = ", ".join(f"{name} {met[name]} of {len(values)}" for name, values in found.items())
    return f"Problems on which the reference is met: {said}."


def feasible_shares(batches: int) -> dict[str, list[tuple[int, float]]]:
    """The share of feasible draws in each batch on P-18, with the mask and without it, both from
    the train of the constraint."""
    p = protes_problems.problem("P-18")
    admits = lambda index: RUNS.tt(p.shape).at(index) > 0
    masked = Protes(p.shape, budget=10**6, constraint=RUNS, mutants=0, generator=_seed(0))
    r = [1, *[masked.cores.shape[1]] * (len(p.shape) - 1), 1]
    start = TT(tuple(core[:a, :, :b] for core, a, b in zip(masked.cores, r, r[1:])))
    loose = Protes(p.shape, budget=10**6, init=start, mutants=0, generator=_seed(0))
    found = {"with the mask": [], "without": []}
    for batch in range(1, batches + 1):
        for name, search in zip(found, (masked, loose)):
            index = search.ask()
            ok = admits(index)
            found[name].append((batch, float(ok.double().mean())))
            search.tell(torch.where(ok, p.f(index), 1e42))
    found["drawn uniformly"] = [(k, _words(3, 25) / 2.0**25) for k in (1, batches)]
    return found


# ---------------------------------------------------------------------------------------- exercises

TABLE = torch.tensor([[3.0, -1.0], [1.0, 2.0]], dtype=torch.float64)


def _probability(i, j):
    start = TT((torch.eye(2, dtype=torch.float64)[None], TABLE[:, :, None]))
    return float(Protes((2, 2), budget=1, init=start).log_prob(torch.tensor([[i, j]])).exp()[0])


def _model(*sizes, signed=True):
    """The cores of a model, ranks and modes in turn: _model(1, 4, 2, 5, 1) has two."""
    cores = gaussian(*zip(sizes[:-2:2], sizes[1:-1:2], sizes[2::2]))
    return [core if signed else core.abs() for core in cores]


def _flat(what):
    """Reads a list of tensors as all their numbers, after each other."""

    def read(function, *case):
        result = returned(function, *case)
        if result is None:
            return None
        try:
            parts = [torch.as_tensor(part, dtype=torch.float64).detach() for part in result]
        except (TypeError, ValueError, RuntimeError) as error:
            raise Unusable(f"{what} is needed; this is a {type(result).__name__}.") from error
        return torch.cat([part.flatten() for part in parts])

    return read


def _tails(cores, collect=lambda core: core.sum(1)):
    z = [torch.ones(1, dtype=torch.float64)]
    for core in reversed(cores):
        z.insert(0, collect(core) @ z[0])
    return z


def _cases():
    return [
        (*gaussian((3,), (3, 4, 2), (2,)),),
        (*gaussian((1,), (1, 2, 1), (1,)),),
        (*gaussian((2,), (2, 5, 6), (6,)),),
    ]


def _weights(q, core, z):
    return torch.einsum("r,rjs,s->j", q, core, z)


def _normal(w):
    return w / w.sum()


def _conditional(q, core, z):
    return _normal(_weights(q, core, z).abs())


def _drawn(cores, u, z=None, carry=True, pick=None):
    """The index at u; z: what is to the right; carry: whether q is kept; pick: the choice."""
    pick = pick or (lambda p, t: int((p.cumsum(0) <= t).sum()))
    z, q, index = z or _tails(cores), torch.ones(1, dtype=torch.float64), []
    for k, core in enumerate(cores):
        index.append(pick(_conditional(q, core, z[k + 1]), u[k]))
        q = q @ core[:, index[-1]] if carry else torch.ones(core.shape[2], dtype=torch.float64)
    return torch.tensor(index, dtype=torch.float64)


def _ones(cores):
    return [torch.ones(core.shape[0], dtype=torch.float64) for core in cores] + [
        torch.ones(1, dtype=torch.float64)
    ]


def _log_p(cores, index, z=None):
    z, q, total = z or _tails(cores), torch.ones(1, dtype=torch.float64), 0.0
    for k, (core, i) in enumerate(zip(cores, index)):
        total = total + _conditional(q, core, z[k + 1])[i].log()
        q = q @ core[:, i]
    return total


def _entry(cores, index):
    q = torch.ones(1, dtype=torch.float64)
    for core, i in zip(cores, index):
        q = q @ core[:, i]
    return q[0]


def _climbed(cores, points, values, e, lr, choose=lambda y, e: y.argsort()[:e], total=False):
    """The cores after a step up the mean of log p over the chosen points."""
    G = [core.detach().clone().requires_grad_() for core in cores]
    chosen = points[choose(values, e)]
    goal = sum(_log_p(G, i) for i in chosen.tolist()) / (1 if total else len(chosen))
    steps = torch.autograd.grad(goal, G)
    return torch.cat([(g + lr * d).detach().flatten() for g, d in zip(G, steps)])


def _batch():
    points = torch.cartesian_prod(*[torch.arange(n) for n in (3, 4, 2)])[::2]
    return points, (points.double() - 1).square().sum(1) + 0.1 * points[:, 1] + 0.01 * points[:, 0]


def _words(least: int, d: int = 30) -> int:
    """How many words of d bits have only runs of ones of at least this length."""
    states = least + 1
    step = [[0 if s in (0, least) else -1, min(s + 1, least)] for s in range(states)]
    return round(float(tt_sum(Automaton(step, [0, least]).tt((2,) * d)).log.exp()))


@functools.cache
def _first_met(function: str, elite: int, batch: int = 20) -> int:
    """The batch of the explorer after which the smallest value is known."""
    player = LandscapePlayer()
    least = float(landscape(function).min())
    states = player.steps(function, batch, elite, 0.1)
    return next(state.number for state in states if state.value <= least)


signed_table = Check(
    right=lambda: _probability(0, 1),
    mistakes=(
        (
            lambda: TABLE[0, 1] / TABLE.sum(),
            "a probability cannot be negative; the absolute value is taken of each conditional.",
        ),
        (
            lambda: TABLE[0, 1].abs() / TABLE.abs().sum(),
            "the absolute values are those of the weights of each draw, not of the entries of P.",
        ),
        (lambda: TABLE[0, 1].square() / TABLE.square().sum(), "those are squares, a Born machine."),
        (
            lambda: TABLE[0, 1].abs() / TABLE[0].abs().sum(),
            "that is the second step alone; first the row is drawn.",
        ),
        (lambda: _probability(1, 0), "that is the draw (1, 0)."),
    ),
    hint="draw the row first: its weights are the absolute values of the row sums.  Then the "
    "column within the row.",
    moral="With minus signs it is neither P nor |P|, but a distribution all the same, and what is "
    "drawn is what is scored.",
)

tails = Check(
    function=True,
    read=_flat("a list of d + 1 vectors"),
    cases=lambda: [(_model(1, 3, 2, 4, 3, 2, 1),), (_model(1, 5, 1),), (_model(*[1, 2] * 30, 1),)],
    right=lambda cores: torch.cat(_tails(cores)),
    mistakes=(
        (
            lambda cores: torch.cat(_tails(cores)[::-1]),
            "the vectors are in the wrong order: z_0 comes first, and z_d = 1 last.",
        ),
        (
            lambda cores: torch.cat(_tails(cores)[:-1]),
            "z_d = 1, right of the last core, belongs to the list.",
        ),
        (
            lambda cores: torch.cat(_tails(cores, lambda core: core.mean(1))),
            "the index is summed, not averaged.",
        ),
        (
            lambda cores: torch.cat(_tails(cores, lambda core: core.abs().sum(1))),
            "no absolute values here: they are taken of each conditional, later.",
        ),
    ),
    hint="begin with z_d = (1) and go to the left: z_k = core_k.sum(1) @ z_{k+1}.",
    moral="One sweep of d small products replaces a sum over all indices to the right.",
)

conditional = Check(
    function=True,
    cases=_cases,
    right=_conditional,
    mistakes=(
        (
            lambda q, core, z: _normal(_weights(q, core, z)),
            "weights may be negative: take absolute values.",
        ),
        (lambda q, core, z: _weights(q, core, z).abs(), "that does not sum to 1 yet."),
        (
            lambda q, core, z: _normal(_weights(q, core, z).square()),
            "absolute values, not squares.",
        ),
        (
            lambda q, core, z: _conditional(q, core, torch.ones_like(z)),
            "what is to the right weighs in too: multiply by z.",
        ),
        (
            lambda q, core, z: _weights(q, core, z).softmax(0),
            "no exponential is needed: divide absolute values by their sum.",
        ),
    ),
    hint="one number q @ core[:, j] @ z for each j; absolute values, divided by their sum.",
    moral="Neither the size of q nor that of z matters, which is why both can be brought to 1 at "
    "every mode.",
)

draw = Check(
    function=True,
    cases=lambda: [
        (_model(1, 5, 2, 5, 3, 5, 2, 5, 1), (0.55, 0.35, 0.8, 0.6)),
        (_model(1, 4, 3, 6, 1), (0.0, 0.999)),
        (_model(*[1, 2, *[3, 2] * 29, 1]), tuple((k * 0.61803) % 1 for k in range(30))),
    ],
    largest=lambda cores, u: 4096,
    right=_drawn,
    mistakes=(
        (
            lambda cores, u: _drawn(cores, u, z=_ones(cores)),
            "what is to the right of a mode is not 1: give `conditional` the z of `tails`.",
        ),
        (
            lambda cores, u: _drawn(cores, u, carry=False),
            "the modes are not independent: q goes on as q @ core[:, i].",
        ),
        (
            lambda cores, u: _drawn(cores, u, pick=lambda p, t: int(p.argmax())),
            "that is the most probable index at each mode; the number u[k] says which one is "
            "drawn.",
        ),
        (
            lambda cores, u: _drawn(
                cores, u, pick=lambda p, t: max(0, int((p.cumsum(0) <= t).sum()) - 1)
            ),
            "that is one index too low: draw the first j whose running sum is above u[k].",
        ),
    ),
    hint="for each mode: p = conditional(q, core, z[k + 1]); the first j with "
    "p[0] + ... + p[j] > u[k]; then q = q @ core[:, j].",
    moral="An exact draw from more than 10^14 probabilities, of which fewer than a hundred have "
    "been written down.",
    forbids=((Protes.draw, "use your `tails` and `conditional`: `Protes` is where this goes."),),
)

log_p = Check(
    function=True,
    cases=lambda: [
        (_model(1, 3, 2, 4, 2, 3, 1), (2, 0, 1)),
        (_model(1, 3, 2, 4, 1, signed=False), (1, 3)),
        (_model(*[1, 4, *[3, 4] * 29, 1]), (1, 2, 3) * 10),
    ],
    largest=lambda cores, index: 4096,
    right=_log_p,
    mistakes=(
        (lambda cores, index: _log_p(cores, index).exp(), "that is p; its logarithm is asked for."),
        (
            lambda cores, index: (_entry(cores, index) / _tails(cores)[0][0]).abs().log(),
            "P / sum P is right for positive cores only; with minus signs multiply the "
            "conditionals.",
        ),
        (
            lambda cores, index: _log_p(cores, index, z=_ones(cores)),
            "what is to the right of a mode is not 1: give `conditional` the z of `tails`.",
        ),
        (
            lambda cores, index: -_log_p(cores, index),
            "a logarithm of a probability is negative; this is its opposite.",
        ),
    ),
    hint="go through the train as `draw` does, with the index given, and add the logarithms of the "
    "conditionals.",
    moral="The same walk draws and scores, so the model can be told which of its draws were good.",
    forbids=((Protes.log_prob, "use your `conditional`: `Protes` is where this goes."),),
)

climb = Check(
    function=True,
    read=_flat("a list of d cores"),
    cases=lambda: [
        (_model(1, 3, 2, 4, 2, 2, 1), *_batch(), 3, 0.1),
        (_model(1, 3, 2, 4, 2, 2, 1, signed=False), *_batch(), 1, 0.01),
    ],
    right=_climbed,
    mistakes=(
        (
            lambda *case: _climbed(*case, choose=lambda y, e: y.argsort(descending=True)[:e]),
            "those are the largest values; the smallest one is sought.",
        ),
        (
            lambda *case: _climbed(*case, choose=lambda y, e: torch.arange(len(y))),
            "all points pull alike; only the e best may.",
        ),
        (
            lambda *case: _climbed(*case, choose=lambda y, e: torch.arange(e)),
            "those are the first e points, not the best ones: sort by values.",
        ),
        (
            lambda cores, points, values, e, lr: _climbed(cores, points, values, e, -lr),
            "that goes down; the elite should become more probable.",
        ),
        (
            lambda *case: _climbed(*case, total=True) if case[3] > 1 else None,
            "the mean of the logarithms is meant, not their sum: divide by e.",
        ),
    ),
    hint="elite = points[values.argsort()[:e]]; torch.autograd.grad of the mean of log_p over it; "
    "add lr times the gradient to each core.",
    moral="Draw, evaluate, climb: repeated, this is PROTES; Adam only chooses the length of the "
    "steps.",
)

feasible_words = Check(
    right=lambda: _words(3),
    mistakes=(
        (lambda: 2**30, "those are all words."),
        (lambda: _words(2), "those are the words with runs of at least 2."),
        (lambda: _words(4), "those are the words with runs of at least 4."),
        (
            lambda: round(
                float(tt_sum(Automaton(RUNS.step, [0, 1, 2, 3]).tt((2,) * 30)).log.exp())
            ),
            "the last run must be 3 long as well: a word may not end in the states 1 and 2.",
        ),
    ),
    hint="the indicator is a train of ones and zeros, and `tl.tt_sum` adds all its entries.",
    moral="Few of all words are feasible, so that guesses fail; a model whose zeros stay zeros "
    "draws nothing else.",
)

batches_needed = Check(
    right=lambda: _first_met("Schwefel", 20),
    mistakes=(
        (
            lambda: _first_met("Schwefel", 4),
            "that is with an elite of 4; the question sets it to 20, the whole batch.",
        ),
        (lambda: _first_met("Rastrigin", 20), "that is the function of Rastrigin."),
        (
            lambda: 20 * _first_met("Schwefel", 20),
            "those are the points that are known by then; the batches are asked for.",
        ),
    ),
    hint="set function and elite, then press step until the best value in the sentence is the "
    "smallest of all.",
    moral="Where nothing is chosen nothing is learned: guessing needs half of all points on "
    "average, and this run was hardly luckier.  With an elite of 4 it is a matter of fewer "
    "batches.",
)
