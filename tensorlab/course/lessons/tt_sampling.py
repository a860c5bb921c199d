"""Lesson 08: a train as a distribution."""

import itertools
import math

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ... import plots
from ...formats.tt import TT
from ...formats.tt_sampling import tt_condition, tt_marginal, tt_sample, tt_sum
from ..checks import Check
from ..widgets import Explorer, choice, decimal, integer

NAMES = ("Ising chain", "two patterns", "one particle (squared)")


def example_distribution(name: str, d: int, coupling: float) -> tuple[TT, bool]:
    """A train over d bits, and whether its entries are to be squared.

    Ising chain: exp(coupling) for each pair of equal neighbours, exp(-coupling) for others. Two
    patterns: 0101... or 0011..., each bit of which is right with odds exp(2 coupling). One
    particle: sum over k of cos(2 coupling k) |bit k is the only 1>.

    >>> example_distribution("Ising chain", 3, 0.0)[0].to_dense().unique()
    tensor([1.], dtype=torch.float64)
    """
    if name == "Ising chain":
        pair = (coupling * torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)).exp()
        eye = torch.eye(2, dtype=torch.float64)
        return TT(
            tuple([eye[None], *[torch.einsum("ai,ib->aib", pair, eye)] * (d - 2), pair[:, :, None]])
        ), False
    if name == "two patterns":
        right = 1 / (1 + math.exp(-2 * coupling))
        pattern = lambda period: TT(
            tuple(
                torch.tensor(
                    [1 - right, right] if (k // period) % 2 else [right, 1 - right],
                    dtype=torch.float64,
                )[None, :, None]
                for k in range(d)
            )
        )
        return pattern(1) + pattern(2), False
    if name == "one particle (squared)":
        core = torch.zeros(
            d, 2, 2, 2, dtype=torch.float64
        )  # the bond says whether the particle has been met
        core[:, 0, 0, 0] = core[:, 1, 0, 1] = 1
        core[:, 0, 1, 1] = (2 * coupling * torch.arange(d, dtype=torch.float64)).cos()
        return TT((core[0][:1], *core[1:-1], core[-1][:, :, 1:])), True
    raise ValueError(f"distribution: needs one of {', '.join(NAMES)}, got {name}")


def covariance(x: TT, squared: bool) -> Tensor:
    """Exact covariances of d bits, (d, d), from the marginals of pairs."""
    mean = torch.stack([tt_marginal(x, k, squared=squared)[1] for k in range(x.ndim)])
    second = torch.diag(mean)
    for a, b in itertools.combinations(range(x.ndim), 2):
        second[a, b] = second[b, a] = tt_marginal(x, (a, b), squared=squared)[1, 1]
    return second - torch.outer(mean, mean)


class DistributionExplorer(Explorer):
    """A train as a distribution of bits: exact marginals and covariances beside those of samples,
    with one bit known or none."""

    figsize = (9, 3.3)

    def __init__(self, samples: int = 1000):
        super().__init__(
            distribution=choice(NAMES[0], NAMES),
            coupling=decimal(0.8, -2, 2),
            modes=integer(8, 2, 10),
            samples=integer(samples, 10, 20_000),
            known=choice("nothing", ("nothing", "a 0", "a 1"), label="known"),
            mode=integer(0, 0, 9, label="known in mode"),
            seed=integer(0, 0, 99),
        )

    def draw(
        self,
        figure: Figure,
        distribution: str,
        coupling: float,
        modes: int,
        samples: int,
        known: str,
        mode: int,
        seed: int,
    ) -> str:
        x, squared = example_distribution(distribution, modes, coupling)
        if known != "nothing" and mode >= modes:
            raise ValueError(f"known in mode: needs a mode in 0..{modes - 1}, got {mode}")
        given = {} if known == "nothing" else {mode: int(known[-1])}
        free = [k for k in range(modes) if k not in given]
        y = tt_condition(x, given, squared=squared) if given else x
        drawn = torch.zeros(samples, modes, dtype=torch.float64)
        mean, second = (
            torch.zeros(modes, dtype=torch.float64),
            torch.zeros(modes, modes, dtype=torch.float64),
        )
        drawn[:, free] = tt_sample(
            y, samples, squared=squared, generator=torch.Generator().manual_seed(seed)
        ).double()
        mean[free] = torch.stack([tt_marginal(y, k, squared=squared)[1] for k in range(len(free))])
        second[torch.meshgrid(*[torch.tensor(free)] * 2, indexing="ij")] = covariance(y, squared)
        for k, i in given.items():
            drawn[:, k], mean[k] = i, i
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        seen = plots.marginals(left, mean, drawn.mean(0))
        if len(free) == 1:
            right.set_axis_off()
            return seen
        return f"{seen} {plots.covariances(right, second, torch.cov(drawn.T, correction=0))}"


TABLE = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)


def _table():
    """TABLE as a train of rank 2."""
    return TT((torch.eye(2, dtype=torch.float64)[None], TABLE[:, :, None]))


def _positive(shape, rank):
    x = TT.randn(shape, rank, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return [core.abs() for core in x.cores]


def _plain_sum(cores):
    row = torch.ones(1, dtype=torch.float64)
    for core in cores:
        row = row @ core.sum(1)
    return row[0]


def _coupling(d=8, wanted=0.75):
    """The coupling at which the last bit of an Ising chain is like the first with this probability,
    by bisection."""
    low, high = 0.0, 4.0
    for _ in range(30):
        middle = (low + high) / 2
        x, _ = example_distribution("Ising chain", d, middle)
        alike = float(tt_marginal(tt_condition(x, {0: 1}), d - 2)[1])
        low, high = (middle, high) if alike < wanted else (low, middle)
    return low


born_marginal = Check(
    question="A train has the entries x[a, b] = [[1, 2], [3, 4]].  With squared=True, how probable "
    "is b = 1?",
    right=lambda: tt_marginal(_table(), 1, squared=True)[1],
    mistakes=(
        (
            lambda: tt_marginal(_table(), 1)[1],
            "those are the entries themselves; with squared=True their squares are the weights.",
        ),
        (
            lambda: TABLE.sum(0).square()[1] / TABLE.sum(0).square().sum(),
            "the entries are added before they are squared; probabilities add, entries do not.",
        ),
        (
            lambda: TABLE[1, 1].square() / TABLE.square().sum(),
            "that is the probability of one entry; sum over the other index.",
        ),
        (
            lambda: TABLE[:, 1].square().sum(),
            "that is not yet divided by the sum over all entries.",
        ),
        (
            lambda: tt_marginal(_table(), 0, squared=True)[1],
            "that is the other index; b is the second one.",
        ),
    ),
    hint="square all four entries, add those with b = 1, and divide by the sum of all four.",
    moral="This is Born's rule: the train holds amplitudes, so it may have signs, and its square "
    "is never negative.",
    rtol=1e-3,
)

log_sum = Check(
    question="Write `log_sum(cores)`: the logarithm of the sum of all entries of a train without "
    "negative entries, also when "
    "the sum is too large or too small for a float.  cores: a list of tensors (r_left, n, "
    "r_right).",
    function=True,
    cases=lambda: [
        (_positive((3, 4, 5), 2),),
        (_positive((4,), 1),),
        (_positive((6,) * 900, 3),),
        ([1e-3 * core for core in _positive((2,) * 900, 3)],),
    ],
    right=lambda cores: tt_sum(TT(cores)).log,
    mistakes=(
        (
            lambda cores: _plain_sum(cores).log(),
            "a long train makes the product over- or underflow; divide by its size at every core "
            "and add up the logarithms.",
        ),
        (lambda cores: _plain_sum(cores), "that is the sum itself, without the logarithm."),
        (
            lambda cores: sum(core.sum().log() for core in cores),
            "each core is summed on its own; neighbours share the rank between them, so multiply "
            "their matrices.",
        ),
        (
            lambda cores: _plain_sum([core / core.norm() for core in cores]).log(),
            "what is divided away must be added up as logarithms.",
        ),
    ),
    hint="core.sum(1) is a matrix; multiply a row by the d of them, and after each bring the row "
    "near 1.",
    moral="Nothing is ever formed but a row of r numbers and one logarithm: d can be a thousand or "
    "a million.",
)

far_order = Check(
    question="Set the explorer to the Ising chain with 8 modes and a 1 known in mode 0.  At which "
    "positive coupling is the last "
    "bit a 1 with probability 0.75?  To one per cent.",
    right=_coupling,
    mistakes=(
        (lambda: _coupling(2), "that is for a neighbour; the last bit is seven steps away."),
        (lambda: _coupling(9), "there are seven steps between eight bits."),
        (lambda: -_coupling(), "a positive coupling makes neighbours alike."),
        (
            lambda: _coupling(8, 0.875),
            "that is a covariance or a correlation; the bar shows the probability of a 1.",
        ),
    ),
    hint="move the coupling and read the last bar; the probability is (1 + tanh(coupling)^steps) / "
    "2.",
    moral="What is known fades by the factor tanh(coupling) with each step: such correlations "
    "decay exponentially.",
    rtol=1e-2,
)
