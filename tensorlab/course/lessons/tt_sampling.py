"""Lesson 08: a train as a distribution."""

import itertools
import math

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ... import plots
from ...formats.tt import TT
from ...formats.tt_sampling import (
    tt_condition,
    tt_environments,
    tt_log_prob,
    tt_marginal,
    tt_sample,
)
from ..checks import Check, Unusable, returned, tensors
from ..widgets import Explorer, choice, decimal, integer

NAMES = ("Ising chain", "two patterns", "one particle (squared)")


def example_distribution(name: str, d: int, coupling: float) -> tuple[TT, bool]:
    """A train over d bits, and whether its entries are to be squared.

    Ising chain: exp(coupling) for each pair of equal neighbors, exp(-coupling) for others. Two
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
            mode=integer(0, 0, 7, label="known in mode"),
            seed=integer(0, 0, 99),
        )

    def limits(self, modes: int, **others) -> dict:
        """A mode that is there."""
        return {"mode": (0, modes - 1)}

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


def heat_bath(beta: float, length: int, chains: int, sweeps: int, report, generator):
    """Yield (sweep, spins) of Ising chains that begin with all spins up: of each sweep the even
    spins are drawn given the odd ones, then the odd ones given the even."""
    state = torch.ones(chains, length)
    for sweep in range(1, sweeps + 1):
        for start in (0, 1):
            field = torch.nn.functional.pad(state, (1, 1))
            odds = torch.sigmoid(2 * beta * (field[:, 2:] + field[:, :-2]))
            up = torch.rand(chains, length, generator=generator) < odds
            state[:, start::2] = torch.where(up, 1.0, -1.0)[:, start::2]
        if sweep in report:
            yield sweep, state.clone()


def bars_and_stripes() -> Tensor:
    """All 30 pictures of 4 by 4 points whose rows, or whose columns, are alike: (30, 16)."""
    rows = torch.cartesian_prod(*[torch.arange(2)] * 4)
    stripes = rows[:, :, None].expand(-1, 4, 4)
    return torch.cat([stripes, stripes.mT]).reshape(-1, 16).unique(dim=0)


def markov_loss(data: Tensor) -> float:
    """The mean of -log p of bits (n, d) by the Markov chain that fits them best: each bit depends
    on the one before only.

    >>> round(markov_loss(torch.tensor([[0, 0], [1, 1]])) / math.log(2), 6)
    1.0
    """
    loss, padded = 0.0, torch.nn.functional.pad(data, (1, 0))
    for before, after in zip(padded.T, padded.T[1:]):
        counts = torch.zeros(2, 2).index_put_((before, after), torch.ones(len(data)), True)
        loss -= float((counts / counts.sum(1, keepdim=True))[before, after].log().mean())
    return loss


def two_hills(n: int = 12) -> Tensor:
    """A tilted hill and a flat one over four variables of n points each, with sum 1."""
    axis = torch.linspace(-3, 3, n, dtype=torch.float64)
    x = torch.stack(torch.meshgrid([axis] * 4, indexing="ij"))
    hill = (-(x.square().sum(0) + 1.8 * (x[:-1] * x[1:]).sum(0)) / 0.8).exp()
    p = hill + 1e-3 * (-x.abs().sum(0)).exp()
    return p / p.sum()


# ---------------------------------------------------------------------------------------- exercises

TABLE = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)


def _table():
    """TABLE as a train of rank 2."""
    return TT((torch.eye(2, dtype=torch.float64)[None], TABLE[:, :, None]))


def _positive(shape, rank):
    """Cores without negative entries whose sums are near 1."""
    x = TT.randn(shape, rank, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return [core.abs() / core.abs().sum(1).sum(1).mean() for core in x.cores]


def _vectors(cores, scale=True, fold=lambda core, z: core.sum(1) @ z):
    """z_0 ... z_d, each but the last with the sum 1."""
    found = [cores[0].new_ones(1)]
    for core in reversed(cores):
        z = fold(core, found[0])
        found.insert(0, z / z.sum() if scale else z)
    return found


def _joined(parts):
    return torch.cat([part.flatten() for part in parts])


def _read_vectors(function, cores):
    found = returned(function, cores)
    if found is None:
        return None
    wanted = [core.shape[0] for core in cores] + [1]
    if not isinstance(found, (list, tuple)) or len(found) != len(wanted):
        raise Unusable(f"a list of {len(wanted)} vectors is needed, z_0 to z_d.")
    found = tensors(found)
    if [tuple(z.shape) for z in found] != [(r,) for r in wanted]:
        raise Unusable(
            f"vectors of the sizes {wanted[:4]}... are needed, z_0 first, these have the shapes "
            f"{[tuple(z.shape) for z in found[:4]]}..."
        )
    return _joined(found)


def _share(p):
    return p / p.sum()


def _conditional(v, core, z):
    return _share(torch.einsum("r,rnq,q->n", v, core, z))


def _case(r, n, q):
    """A row, a core and a vector, all positive and no two of their sums equal."""
    g = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(shape, generator=g, dtype=torch.float64).abs()
        for shape in ((r,), (r, n, q), (q,))
    )


def _walk(cores, choose, ahead=True, after=True):
    """The indices that `choose(k, p)` takes of the conditionals p, mode after mode, and log p."""
    z, v, found, log = _vectors(cores), cores[0].new_ones(1), [], 0.0
    for k, core in enumerate(cores):
        p = _conditional(v, core, z[k + 1] if ahead else torch.ones_like(z[k + 1]))
        i = choose(k, p)
        found.append(i)
        log = log + p[i].log()
        v = _share(v @ (core[:, i] if after else core.sum(1)))
    return torch.tensor(found, dtype=torch.float64), log


def _below(p, u):
    """The first index up to which the probabilities add to more than u."""
    return min(int((p.cumsum(0) <= u).sum()), len(p) - 1)


def _draw(cores, u, pick=_below, **how):
    return _walk(cores, lambda k, p: pick(p, float(u[k])), **how)[0]


def _chances(d):
    return torch.rand(d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _log_probability(cores, index, **how):
    return _walk(cores, lambda k, p: int(index[k]), **how)[1]


def _entry(cores, index):
    v = cores[0].new_ones(1)
    for core, i in zip(cores, index):
        v = v @ core[:, i]
    return v[0]


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
)

right_vectors = Check(
    function=True,
    read=_read_vectors,
    cases=lambda: [
        (_positive((4, 3, 4), 3),),
        (_positive((5,), 1),),
        ([50 * core for core in _positive((3,) * 600, 2)],),
    ],
    right=lambda cores: _joined(_vectors(cores)),
    mistakes=(
        (
            lambda cores: _joined(_vectors(cores, scale=False)),
            "each z_k is to be divided by its sum: of a long train they over- or underflow.",
        ),
        (
            lambda cores: _joined(_vectors(cores, fold=lambda core, z: core[:, 0] @ z)),
            "that is the slice of index 0 only; all slices are summed.",
        ),
    ),
    hint="begin with [1] on the right; core.sum(1) @ z is the one before, divided by its sum.",
    moral="One pass from the right, and every marginal and conditional is at hand.",
    forbids=((tt_environments, "`tt_environments` is what you are to build."),),
)

conditional = Check(
    function=True,
    cases=lambda: [_case(3, 4, 3), _case(1, 5, 2)],
    right=_conditional,
    mistakes=(
        (
            lambda v, core, z: torch.einsum("r,rnq,q->n", v, core, z),
            "these are not yet divided by their sum.",
        ),
        (
            lambda v, core, z: _share(torch.einsum("r,rnq->n", v, core)),
            "what comes after this mode is left out: z weighs the last index of the core.",
        ),
        (
            lambda v, core, z: _share(torch.einsum("rnq,q->n", core, z)),
            "what was drawn before is left out: v weighs the first index of the core.",
        ),
        (
            lambda v, core, z: _share(torch.einsum("r,rnq,q->n", v, core, z).square()),
            "these are squared; here the entries themselves are the probabilities.",
        ),
    ),
    hint="v @ core[:, i] @ z for each i, divided by their sum.",
    moral="A row on the left, a vector on the right: the other modes are all in these two.",
)

draw = Check(
    function=True,
    cases=lambda: [
        (_positive((4,) * 12, 2), _chances(12)),
        (_positive((3, 5, 2), 3), _chances(3)),
        (_positive((3,) * 900, 2), _chances(900)),
    ],
    right=_draw,
    mistakes=(
        (
            lambda cores, u: _draw(cores, u, ahead=False),
            "the conditionals do not look ahead: the right vector of mode k is z_{k+1}.",
        ),
        (
            lambda cores, u: _draw(cores, u, after=False),
            "what was drawn is forgotten: multiply v by the slice of the index drawn.",
        ),
        (
            lambda cores, u: _draw(cores, u, lambda p, u: int(p.argmax())),
            "that is the most probable index each time, not a draw.",
        ),
        (
            lambda cores, u: _draw(cores, u, lambda p, u: _below(p, 1 - u)),
            "u is compared from the other end: index 0 belongs to the small u.",
        ),
    ),
    hint="p.cumsum(0) is compared with u[k]; then v @ core[:, i] is the next row, brought near 1.",
    moral="An exact and independent sample after d steps.",
    forbids=((tt_sample, "`tt_sample` is what you are to build: use your `conditional`."),),
)

log_probability = Check(
    function=True,
    cases=lambda: [
        (_positive((3, 4, 5), 2), [2, 0, 3]),
        (_positive((4,), 1), [1]),
        (_positive((3,) * 900, 2), [k % 3 for k in range(900)]),
    ],
    right=lambda cores, index: tt_log_prob(TT(cores), [index])[0],
    mistakes=(
        (
            lambda cores, index: (_entry(cores, index) / _vectors(cores, scale=False)[0][0]).log(),
            "of a long train the entry is too small for a float; add up the logarithms of the "
            "conditionals.",
        ),
        (
            lambda cores, index: _log_probability(cores, index).exp(),
            "that is the probability, without the logarithm.",
        ),
        (
            lambda cores, index: _entry(cores, index).log(),
            "that is the entry, not yet divided by the sum of all.",
        ),
        (
            lambda cores, index: _log_probability(cores, index, after=False),
            "these are the marginals of each mode; the indices before have to be known.",
        ),
    ),
    hint="the probability is the product of the conditionals at the indices that are given.",
    moral="Nothing is formed but a row of r numbers and one logarithm: d can be a million.",
    forbids=((tt_log_prob, "`tt_log_prob` is what you are to build: use your `conditional`."),),
)

far_order = Check(
    right=_coupling,
    mistakes=(
        (lambda: _coupling(2), "that is for a neighbor; the last bit is seven steps away."),
        (lambda: _coupling(9), "there are seven steps between eight bits."),
        (lambda: -_coupling(), "a positive coupling makes neighbors alike."),
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
