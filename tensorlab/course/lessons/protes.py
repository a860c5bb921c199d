"""Lesson 19: a train that learns where to look."""

import math
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ... import plots
from ...formats.tt import TT
from ...formats.tt_sampling import tt_sum
from ...methods.protes import Automaton, Protes
from ...papers import protes_problems
from ...papers.protes_problems import RUNS, ackley, michalewicz, rastrigin, schwefel
from ..checks import Check
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


def landscape(name: str, n: int) -> Tensor:
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

    def __init__(self):
        super().__init__(
            function=choice("Rastrigin", tuple(FUNCTIONS)),
            points=integer(32, 4, 64),
            rank=integer(5, 1, 10),
            batch=integer(20, 2, 100),
            elite=integer(4, 1, 50),
            rate=decimal(0.1, 0.01, 1, log=True, label="learning rate"),
            seed=integer(0, 0, 99),
        )

    def steps(self, function, points, rank, batch, elite, rate, seed):
        values = landscape(function, points)
        search = Protes(
            (points, points),
            budget=values.numel(),
            rank=rank,
            batch=batch,
            elite=elite,
            lr=rate,
            mutants=0,
            generator=torch.Generator().manual_seed(seed),
        )
        grid = torch.cartesian_prod(torch.arange(points), torch.arange(points))
        density = lambda: search.log_prob(grid).exp().reshape(points, points)
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

    def draw(
        self, figure: Figure, state: Batch, function, points, rank, batch, elite, rate, seed
    ) -> str:
        left, right = figure.subplots(1, 2)
        said = plots.landscape(left, landscape(function, points), state.points, state.elite)
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

    def __init__(self):
        super().__init__(
            problem=choice("maximum cut", tuple(BITS)),
            rank=integer(5, 1, 10),
            batch=integer(100, 10, 200),
            elite=integer(10, 1, 50),
            rate=decimal(0.05, 0.01, 1, log=True, label="learning rate"),
            mutants=integer(20, 0, 100),
            seed=integer(0, 0, 99),
        )

    def steps(self, problem, rank, batch, elite, rate, mutants, seed):
        p = protes_problems.problem(BITS[problem])
        search = Protes(
            p.shape,
            budget=10_000,
            rank=rank,
            batch=batch,
            elite=elite,
            lr=rate,
            mutants=mutants,
            constraint=p.constraint,
            generator=torch.Generator().manual_seed(seed),
        )
        shares = search.draw(200).double().mean(0)[None]
        yield Draws(shares, (), 0)
        while len(index := search.ask()):
            search.tell(p.f(index))
            shares = torch.cat([shares, search.draw(200).double().mean(0)[None]])
            yield Draws(shares, search.history, len(search.values))

    def draw(
        self, figure: Figure, state: Draws, problem, rank, batch, elite, rate, mutants, seed
    ) -> str:
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


# ---------------------------------------------------------------------------------------- exercises

TABLE = torch.tensor([[3.0, -1.0], [1.0, 2.0]], dtype=torch.float64)


def _probability(i, j):
    start = TT((torch.eye(2, dtype=torch.float64)[None], TABLE[:, :, None]))
    return Protes((2, 2), budget=1, init=start).log_prob(torch.tensor([[i, j]])).exp()[0]


def _cases():
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=g, dtype=torch.float64)
    return [
        (draw(3), draw(3, 4, 2), draw(2)),
        (draw(1), draw(1, 2, 1), draw(1)),
        (draw(2), draw(2, 5, 6), draw(6)),
    ]


def _weights(q, core, z):
    return torch.einsum("r,rjs,s->j", q, core, z)


def _words(least: int, d: int = 30) -> float:
    """How many words of d bits have only runs of ones of at least this length."""
    states = least + 1
    step = [[0 if s in (0, least) else -1, min(s + 1, least)] for s in range(states)]
    return float(tt_sum(Automaton(step, [0, least]).tt((2,) * d)).log.exp())


signed_table = Check(
    question="The cores of a model have made the table P = [[3, -1], [1, 2]].  How probable is the "
    "draw (0, 1)?",
    right=lambda: _probability(0, 1),
    mistakes=(
        (
            lambda: TABLE[0, 1] / TABLE.sum(),
            "a probability cannot be negative; the absolute value is taken of each conditional.",
        ),
        (
            lambda: TABLE[0, 1].abs() / TABLE.abs().sum(),
            "the absolute value is not taken of the entries; their sums would be no chains.",
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
    rtol=1e-3,
)

conditional = Check(
    question="Write `conditional(q, core, z)`: the distribution of the next index, (n,), from the "
    "row q (r,), the core (r, n, s) "
    "and the column z (s,) of what stands to the right.",
    function=True,
    cases=_cases,
    right=lambda q, core, z: _weights(q, core, z).abs() / _weights(q, core, z).abs().sum(),
    mistakes=(
        (
            lambda q, core, z: _weights(q, core, z) / _weights(q, core, z).sum(),
            "weights may be negative: take absolute values.",
        ),
        (lambda q, core, z: _weights(q, core, z).abs(), "that does not sum to 1 yet."),
        (
            lambda q, core, z: _weights(q, core, z).square() / _weights(q, core, z).square().sum(),
            "absolute values, not squares.",
        ),
        (
            lambda q, core, z: (
                _weights(q, core, torch.ones_like(z)).abs()
                / _weights(q, core, torch.ones_like(z)).abs().sum()
            ),
            "what stands to the right weighs in too: multiply by z.",
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

feasible_words = Check(
    question="P-19 and P-20 admit words in which every run of ones is at least 3 long.  With the "
    "explorer's `RUNS.tt` or by any "
    "other way: how many such words of 30 bits are there?",
    right=lambda: float(tt_sum(RUNS.tt((2,) * 30)).log.exp().round()),
    mistakes=(
        (lambda: 2.0**30, "those are all words."),
        (lambda: _words(2), "those are the words with runs of at least 2."),
        (lambda: _words(4), "those are the words with runs of at least 4."),
        (
            lambda: float(tt_sum(Automaton(RUNS.step, [0, 1, 2, 3]).tt((2,) * 30)).log.exp()),
            "the last run must be 3 long as well: a word may not end in the states 1 and 2.",
        ),
    ),
    hint="the indicator is a train of ones and zeros, and `tt_sum` adds all its entries.",
    moral="Few of all words are feasible, so that guesses fail; a model whose zeros stay zeros "
    "draws nothing else.",
    rtol=1e-6,
)
