"""Lesson 22: how wide a shallow network must be to be a recurrent one."""

import functools

import torch
from matplotlib.figure import Figure

from ... import plots
from ...formats.tt import TT
from ...linalg import singular_values
from ...methods.expmachine import rank_one_inner
from ...papers.expressivity import matricization, matricization_rank, network
from ..checks import Check, Unusable, call, gaussian
from ..widgets import Explorer, choice, integer

NAMES = ("TT", "HT", "CP")


@functools.lru_cache(maxsize=512)
def rank(name: str, n: int, r: int, d: int, seed: int = 0) -> int:
    """The rank of the odd-even matricization of a random network.

    >>> rank("CP", 2, 3, 6)
    3
    """
    return matricization_rank(network(name, n, r, d, seed).to_dense(), range(0, d, 2))


class WidthExplorer(Explorer):
    """The odd-even rank of random networks against depth or width, beside the bound, and the
    singular values of one."""

    figsize = (9, 3.4)

    def __init__(self):
        super().__init__(
            against=choice("depth", ("depth", "width")),
            depth=choice(8, (2, 4, 6, 8, 10)),
            width=integer(2, 1, 6),
            modes=integer(2, 2, 4, label="size of a mode"),
            network=choice("TT", NAMES),
            seed=integer(0, 0, 20),
        )

    def draw(
        self,
        figure: Figure,
        against: str,
        depth: int,
        width: int,
        modes: int,
        network: str,
        seed: int,
    ) -> str:
        if modes**depth > 70_000:
            raise ValueError(
                f"depth and size of a mode: needs at most 70000 entries, got {modes}^{depth} = "
                f"{modes**depth}"
            )
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        along = range(2, depth + 1, 2) if against == "depth" else range(1, width + 1)
        at = lambda k: (modes, width, k) if against == "depth" else (modes, k, depth)
        curves = {name: [(k, rank(name, *at(k), seed)) for k in along] for name in NAMES}
        bound = [(k, min(modes, at(k)[1]) ** (at(k)[2] // 2)) for k in along]
        seen = plots.network_ranks(left, curves, bound, against)
        left.set_xticks(list(along))
        s = spectrum(network, modes, width, depth, seed)
        plots.singular_values(right, {network: s.clamp_min(1e-17 * s[0])})
        return (
            f"{seen}  Of {network} {int((s > 0.01 * s[0]).sum())} singular values exceed 1% of "
            f"the largest."
        )


def spectrum(name: str, n: int, r: int, d: int, seed: int = 0) -> torch.Tensor:
    """Singular values of the odd-even matricization of a random network."""
    return singular_values(matricization(network(name, n, r, d, seed).to_dense(), range(0, d, 2)))


def _cases():
    g = gaussian(
        (1, 3, 2), (2, 3, 2), (2, 3, 1), (3,), (3,), (3,), (1, 2, 4), (4, 2, 1), (2,), (2,)
    )
    return [(list(g[:3]), list(g[3:6])), (list(g[6:8]), list(g[8:10]))]


def _run(cores, inputs):
    return rank_one_inner(TT(cores), [f[None] for f in inputs])[0]


def _added(cores, inputs):
    h = torch.ones(1, dtype=torch.float64)
    for core, f in zip(cores, inputs):
        h = h @ core.sum(1) + torch.einsum("aib,i->b", core, f)
    return h[0]


def _one(given):
    if given is not None and given.numel() != 1:
        raise Unusable(f"a score is one number, this has the shape {tuple(given.shape)}.")
    return given if given is None else given.reshape(())


shallow_width = Check(
    question="A random train of ranks 3 has ten modes of size 5.  How wide must a shallow network "
    "(a CP) be at least, "
    "by the theorem, to be the same tensor?",
    cases=lambda: [(5, 3, 10)],
    right=lambda n, r, d: min(n, r) ** (d // 2),
    mistakes=(
        (
            lambda n, r, d: n ** (d // 2),
            "that is the size of the matrix; its rank is held down by the ranks of the train.",
        ),
        (lambda n, r, d: r**d, "half of the modes are rows; only they count."),
        (
            lambda n, r, d: r,
            "the contiguous cuts have this rank; take the odd modes against the even ones.",
        ),
        (
            lambda n, r, d: r * d // 2,
            "each of the row modes multiplies the rank, it does not add to it.",
        ),
        (lambda n, r, d: r * r, "that is the width of a tree for a train."),
    ),
    hint="q = min(n, r), and the matricization with the odd modes as rows has q to the power of "
    "what?",
    moral="Width has to grow exponentially with depth to make up for it.",
)

recurrent = Check(
    question="Write `recurrent(cores, inputs)`: a train as a recurrent network, h <- sum_i f_i h "
    "G[i], from h = (1).  cores: "
    "a list of tensors (r, n, q), inputs: a list of vectors f (n,); the result is the last state, "
    "one number.",
    function=True,
    read=lambda answer, *case: _one(call(answer, *case)),
    cases=_cases,
    right=_run,
    mistakes=(
        (
            _added,
            "that is an ordinary recurrent network, state plus input; here state and input are "
            "multiplied.",
        ),
        (lambda cores, inputs: _run(cores, inputs[::-1]), "the inputs come in the wrong order."),
        (
            lambda cores, inputs: _run(cores, [torch.ones_like(f) for f in inputs]),
            "the inputs are not used.",
        ),
    ),
    hint="`torch.einsum('a,aib,i->b', h, core, f)` is one step.",
    moral="A recurrent network whose cell is bilinear is exactly a tensor train with a rank-one "
    "input.",
)

numerical_width = Check(
    question="`lesson.spectrum('TT', 3, 3, 8)` has 81 singular values.  How many does a shallow "
    "network have to match for a "
    "relative error of the matrix of 1%?",
    right=lambda: _kept(0.01),
    mistakes=(
        (lambda: len(spectrum("TT", 3, 3, 8)), "those are all; the smallest hardly count."),
        (lambda: _kept(0.1), "that is enough for 10%."),
        (lambda: _kept(0.0001), "that is as much as 0.01% takes."),
        (
            lambda: int((spectrum("TT", 3, 3, 8) > 0.01 * spectrum("TT", 3, 3, 8)[0]).sum()),
            "the error is the norm of all that is left out, beside the norm of all: sum the "
            "squares of the tail.",
        ),
    ),
    hint="the error of a truncation is the root of the sum of the squares that are cut off, "
    "relative to that of all.",
    moral="The exact rank is exponential, what is needed for a few digits is less: the theorem is "
    "about being equal.",
)


def _kept(rtol):
    s = spectrum("TT", 3, 3, 8)
    tail = torch.cat([s.square().flip(0).cumsum(0).flip(0).sqrt(), s.new_zeros(1)]) / s.norm()
    return next(k for k, left in enumerate(tail.tolist()) if left <= rtol)
