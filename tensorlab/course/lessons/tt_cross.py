"""Lesson 06: a train of a function, from few of its values."""

import functools
import math

import torch
from matplotlib.figure import Figure

from ... import plots
from ...formats.tt import TT
from ...formats.tt_cross import tt_cross_steps
from ..checks import Check, Unusable, gaussian, number
from ..widgets import Player, choice, integer

NAMES = ("1 / norm", "ripples", "narrow peak", "jump")


def example_function(name: str, d: int, n: int):
    """A function of d coordinates in (0, 1] on n points each, as a function of index tensors
    (batch, d).

    >>> example_function("jump", 2, 4)(torch.tensor([[0, 0], [3, 3]]))
    tensor([0., 1.], dtype=torch.float64)
    """
    grid = torch.arange(1, n + 1, dtype=torch.float64) / n
    of = {
        "1 / norm": lambda x: x.square().sum(1).rsqrt(),
        "ripples": lambda x: (6 * x.square().sum(1).sqrt()).cos(),
        "narrow peak": lambda x: 1 / (1e-3 + (x - 0.3).square().sum(1)),
        "jump": lambda x: (x.square().sum(1) > 0.4 * x.shape[1]).double(),
    }[name]
    return lambda index: of(grid[index])


class CrossExplorer(Player):
    """Cross approximation sweep by sweep: which fibers it reads, what is still wrong, and what it
    has cost."""

    figsize = (9, 3.1)
    grids = {2: 60, 6: 32}
    budget = 60_000

    def __init__(self, name: str = "1 / norm", modes: int = 2):
        super().__init__(
            function=choice(name, NAMES),
            modes=choice(modes, tuple(self.grids)),
            digits=integer(6, 1, 10, label="rtol = 10^-digits"),
            bond=integer(1, 1, 5),
            seed=integer(0, 0, 99),
        )

    def steps(self, function: str, modes: int, digits: int, bond: int, seed: int):
        """States: the fit, and (evaluations, held-out error) after each sweep so far."""
        f, n = example_function(function, modes, self.grids[modes]), self.grids[modes]
        g, path = torch.Generator().manual_seed(seed), []
        budget = min(self.budget, n**modes)
        for fit in tt_cross_steps(f, (n,) * modes, rtol=10.0**-digits, budget=budget, generator=g):
            path.append((fit.evaluations, fit.error))
            yield fit, list(path)

    def draw(
        self, figure: Figure, state, function: str, modes: int, digits: int, bond: int, seed: int
    ) -> str:
        fit, path = state
        if bond >= modes:
            raise ValueError(f"bond: needs a bond in 1..{modes - 1} for {modes} modes, got {bond}")
        n, k = self.grids[modes], bond - 1
        f = example_function(function, modes, n)
        left, right = fit.pivots[k]
        at = torch.cat([left[0], right[0]]).repeat(
            n * n, 1
        )  # the plane of modes k, k + 1 through the first pivot
        at[:, k : k + 2] = torch.cartesian_prod(torch.arange(n), torch.arange(n))
        x = f(at).reshape(n, n)
        missed = (fit.value.at(at).reshape(n, n) - x).abs().clamp_min(1e-16).log10()
        axes = figure.subplots(1, 3, width_ratios=(4, 4, 3))
        seen = plots.crosses(
            axes[0],
            x,
            left[:, -1].tolist(),
            right[:, 0].tolist(),
            f"{function}, modes {k} and {k + 1}",
        )
        plots.crosses(
            axes[1],
            missed,
            [],
            [],
            f"log10 |error|, from {float(missed.min()):.0f} to {float(missed.max()):.0f}",
        )
        plots.error_against_work(axes[2], {"held-out": path}, 10.0**-digits)
        ranks = ", ".join(map(str, fit.value.ranks))
        state = "converged" if fit.converged else "not converged"
        return (
            f"Sweep {len(path) - 1}: {fit.evaluations} of {n**modes} entries read, ranks {ranks}, "
            f"held-out error "
            f"{fit.error:.1e}, {state}. {seen}"
        )


def _cross(x, i, j):
    """The rank-one cross of a matrix through the entry (i, j)."""
    return torch.outer(x[:, j], x[i]) / x[i, j]


def _fiber_count(shape, ranks, ends=1):
    r = (ends, *ranks, ends)
    return sum(r[k] * n * r[k + 1] for k, n in enumerate(shape))


cross_evaluations = Check(
    question="A tensor of shape (32, 32, 32, 32) has a train of ranks (5, 5, 5).  How many of its "
    "entries are in the fibers "
    "T_0, ..., T_3 that an interpolating train is built from?",
    cases=lambda: [((32, 32, 32, 32), (5, 5, 5))],
    right=lambda shape, ranks: TT(gaussian(*zip((1, *ranks), shape, (*ranks, 1)))).numel,
    mistakes=(
        (
            lambda shape, ranks: math.prod(shape),
            "that is the whole tensor: a cross reads fibers only.",
        ),
        (
            lambda shape, ranks: _fiber_count(shape, ranks, ends=5),
            "nothing stands left of the first mode or right of the last.",
        ),
        (
            lambda shape, ranks: sum(n * r for n, r in zip(shape, (*ranks, 1))),
            "T_k has a choice on its left and one on its right.",
        ),
        (lambda shape, ranks: sum(shape), "that is one fiber in each mode: rank 1."),
    ),
    hint="T_k = f(I_k, :, J_{k+1}) has r_k choices on the left and r_{k+1} on the right of all "
    "values of index k.",
    moral="d n r^2 evaluations, where the tensor has n^d entries.",
)

cross_rank_one = Check(
    question="Write `cross(x, i, j)`: the matrix of rank 1 that agrees with the matrix x in row i "
    "and in column j.",
    function=True,
    cases=lambda: [(gaussian((4, 4))[0], 1, 2), (gaussian((5, 3))[0], 4, 0)],
    right=_cross,
    mistakes=(
        (
            lambda x, i, j: torch.outer(x[:, j], x[i]),
            "right up to a factor: at the crossing it must give x[i, j], not its square.",
        ),
        (
            lambda x, i, j: (
                torch.outer(x[i], x[:, j]) / x[i, j] if x.shape[0] == x.shape[1] else None
            ),
            "this is transposed: the column runs along the rows of the result.",
        ),
        (
            lambda x, i, j: x - _cross(x, i, j),
            "that is what is left over; the cross itself is asked for.",
        ),
    ),
    hint="column times row, divided by the entry in which they meet.",
    moral="Subtract it, look for the largest entry that is left, and go on: that is cross "
    "approximation.",
)


@functools.cache
def _evaluations(name, digits):
    """Evaluations to the tolerance for six modes, averaged over seeds."""
    explorer = CrossExplorer.__new__(CrossExplorer)
    runs = [list(explorer.steps(name, 6, digits, 1, seed))[-1][0] for seed in range(2)]
    return sum(fit.evaluations if fit.converged else math.inf for fit in runs) / len(runs)


def _read_name(answer, *_):
    if answer not in NAMES:
        raise Unusable(f"the name of one of the functions is needed: {', '.join(NAMES)}.")
    return number(NAMES.index(answer))


hard_function = Check(
    question="With six modes and a tolerance of 1e-3: which function does not converge within the "
    "explorer's budget?  Give its "
    "name.",
    read=_read_name,
    right=lambda: next(k for k, name in enumerate(NAMES) if _evaluations(name, 3) == math.inf),
    mistakes=(),
    hint="let the explorer play each of them to its end and read the last words of the first "
    "sentence.",
    moral="Few entries suffice where the ranks are small; an edge that no axis follows has none "
    "such.",
)
