"""Lesson 22: how wide a shallow network must be to be a recurrent one."""

import functools

import torch
from matplotlib.figure import Figure

from ... import plots
from ...formats.cp import cp_als
from ...formats.tt import TT
from ...linalg import singular_values
from ...methods.expmachine import rank_one_inner
from ...papers.expressivity import BOUND, matricization, matricization_rank, network
from ...papers.table import measured, printed
from ..checks import Check, Unusable, call, gaussian
from ..widgets import Explorer, choice, integer

NAMES = ("TT", "HT", "CP")
LARGEST = 20_000  # entries of a tensor that the explorer forms


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
            depth=integer(8, 2, 12),
            width=integer(2, 1, 6),
            modes=integer(2, 2, 4, label="size of a mode"),
            against=choice("depth", ("depth", "width")),
            network=choice("TT", NAMES),
            seed=integer(0, 0, 20),
        )

    def limits(self, modes: int, **others):
        return {"depth": (2, max(d for d in range(2, 13) if modes**d <= LARGEST))}

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
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        along = range(2, depth + 1) if against == "depth" else range(1, width + 1)
        at = lambda k: (modes, width, k) if against == "depth" else (modes, k, depth)
        curves = {name: [(k, rank(name, *at(k), seed)) for k in along] for name in NAMES}
        bound = [(k, min(modes, at(k)[1]) ** (at(k)[2] // 2)) for k in along]
        seen = plots.network_ranks(left, curves, bound, against)
        left.lines[0].set(ms=10, mfc="none")  # where TT and HT agree both are seen
        left.legend()
        left.set_xticks(list(along))
        s = spectrum(network, modes, width, depth, seed)
        plots.singular_values(right, {network: s.clamp_min(1e-17 * s[0])})
        right.set_ylim(1e-17, 3)
        right.xaxis.get_major_locator().set_params(integer=True)
        return (
            f"{seen}  Of {network} {int((s > 0.01 * s[0]).sum())} of {len(s)} singular values "
            f"exceed 1% of the largest."
        )


def spectrum(name: str, n: int, r: int, d: int, seed: int = 0) -> torch.Tensor:
    """Singular values of the odd-even matricization of a random network."""
    return singular_values(matricization(network(name, n, r, d, seed).to_dense(), range(0, d, 2)))


# -- the figures


def draw_recorded(figure: Figure) -> str:
    """Ranks of the odd-even matricization in exact arithmetic, as recorded, against the depth; the
    printed bound as marks, and what the contiguous cut has as a line; a sentence."""
    ax = figure.subplots()
    found = recorded()
    for k, points in enumerate({tuple(points): 0 for points in found.values()}):
        same = " and ".join(f"{n}, {r}" for (n, r), of in found.items() if tuple(of) == points)
        ax.plot(*zip(*points), label=f"n, r = {same}", **plots.style(k))
    marks = [(row["d"], row["width"]) for row in printed("Khrulkov2018").rows]
    ax.plot(*zip(*marks), "D", ms=9, mfc="none", mec="0.4", label="printed bound")
    ax.axhline(3, color="0.4", lw=1, ls="--", label="contiguous cut, at most")
    ax.set(xlabel="depth d", ylabel="rank, odd by even modes", xticks=(4, 6, 8, 10, 12))
    ax.set_yscale("log", base=2)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    ends = (f"n = {n}, r = {r}: {p[-1][1]} at depth {p[-1][0]}" for (n, r), p in found.items())
    return f"Exact ranks: {'; '.join(ends)}."


def recorded() -> dict[tuple[int, int], list[tuple[int, int]]]:
    """(depth, exact rank) by mode size and ranks of the train, as recorded."""
    found = {}
    for row in measured("Khrulkov2018").where(what=BOUND):
        found.setdefault((row["n"], row["r"]), []).append((row["d"], row["width"]))
    return found


def widths(n: int, r: int, d: int) -> dict[tuple[str, str], int]:
    """The recorded widths by (to, from)."""
    pairs = [(to, source) for to in NAMES for source in NAMES if to != source]
    table = measured("Khrulkov2018")
    return {
        (to, source): table.where(what=f"{to} from {source}", n=n, r=r, d=d)[0]["width"]
        for to, source in pairs
    }


def draw_widths(figure: Figure, shapes) -> str:
    """A grid of numbers for each shape (n, r, d): the width that the network of a row needs to
    represent that of a column; a sentence."""
    for ax, (n, r, d) in zip(figure.subplots(1, len(shapes)), shapes):
        found = widths(n, r, d)
        ax.grid(False)
        cells = [[found.get((to, source), r) for source in NAMES] for to in NAMES]
        ax.imshow(torch.tensor(cells).double().log().numpy(), cmap="Blues", vmax=8)
        for i, j in ((i, j) for i in range(3) for j in range(3)):
            least = "≥ " * (NAMES[i] == "CP" != NAMES[j])
            text = ax.text(j, i, f"{least}{cells[i][j]}", ha="center", va="center", color="black")
            text.set_gid("on color")
        ax.set(xticks=range(3), yticks=range(3), title=f"n = {n}, r = {r}, d = {d}")
        ax.set(
            xticklabels=NAMES,
            yticklabels=NAMES,
            xlabel="to represent this",
            ylabel="needs the width",
        )
    worst = max((w, pair) for shape in shapes for pair, w in widths(*shape).items())
    return f"The largest width: {worst[0]}, for {worst[1][0]} to represent {worst[1][1]}."


def fitted(ranks, iterations: int, seeds: int = 1) -> dict[str, list[tuple[int, float]]]:
    """(numbers stored, relative error) for a random train of 8 modes of size 3 with ranks 2: CPs by
    alternating least squares, the least error of some starts; what no CP of these ranks can beat;
    and the matrix of odd by even modes cut to these ranks."""
    n, r, d = 3, 2, 8
    x = network("TT", n, r, d).to_dense()
    s = spectrum("TT", n, r, d)
    found = {"CP, fitted": [], "no CP is below": [], "SVD, odd by even": []}
    for rank in ranks:
        starts = (torch.Generator().manual_seed(seed) for seed in range(seeds))
        fits = [cp_als(x, rank, max_iter=iterations, generator=g).value for g in starts]
        error = min(float((fit.to_dense() - x).norm() / x.norm()) for fit in fits)
        floor = float(s[rank:].norm() / s.norm())
        found["CP, fitted"].append((fits[0].numel, error))
        found["no CP is below"].append((fits[0].numel, floor))
        found["SVD, odd by even"].append((2 * rank * n ** (d // 2), floor))
    return found


def train_numbers(n: int = 3, r: int = 2, d: int = 8) -> int:
    """Numbers of the train itself.

    >>> train_numbers()
    84
    """
    return network("TT", n, r, d).numel


# -- the exercises


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


def _dense(cores):
    return TT(tuple(cores)).to_dense()


def _matrix(x, even=True, split=False, turned=False):
    rows = range(0 if even else 1, x.ndim, 2)
    found = matricization(x, range(x.ndim // 2) if split else rows)
    return found.T if turned else found


def _width(x, matrix=_matrix):
    return float(torch.linalg.matrix_rank(matrix(x)))


def _random(n, r, d, seed=0):
    return network("TT", n, r, d, seed).to_dense()


def _matched(x, rtol, norm=2, relative=True):
    """The fewest singular values whose rest is small enough."""
    s = singular_values(_matrix(x))
    tails = s.square().flip(0).cumsum(0).flip(0).sqrt() if norm == 2 else s
    size = (tails[0] if norm == 2 else s[0]) if relative else 1.0
    return float((tails > rtol * size).sum())


def _one(given):
    if given is not None and given.numel() != 1:
        raise Unusable(f"a score is one number, this has the shape {tuple(given.shape)}.")
    return given if given is None else given.reshape(())


shallow_width = Check(
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

odd_even = Check(
    function=True,
    cases=lambda: [(gaussian((2, 3, 4, 5))[0],), (gaussian((2, 3, 2, 3, 2))[0],)],
    right=_matrix,
    mistakes=(
        (
            lambda x: _matrix(x, split=True),
            "those are the first modes against the last: a contiguous cut.",
        ),
        (lambda x: _matrix(x, turned=True), "the modes 0, 2, 4, ... are the rows."),
        (
            lambda x: x.reshape(_matrix(x).shape),
            "a reshape alone does not move modes: permute them first.",
        ),
    ),
    hint="x.permute(0, 2, ..., 1, 3, ...), then reshape to (product of the first sizes, -1).",
    moral="Every neighbor of a row mode is a column mode, so every rank of the train is cut.",
    forbids=((matricization, "build it from permute and reshape."),),
)

width_bound = Check(
    function=True,
    cases=lambda: [(_random(2, 2, 8),), (_random(3, 2, 6),), (network("CP", 3, 2, 6).to_dense(),)],
    right=_width,
    mistakes=(
        (
            lambda x: _width(x, lambda x: _matrix(x, split=True)),
            "that is the rank of a contiguous cut; use your `odd_even`.",
        ),
        (
            lambda x: float(min(_matrix(x).shape)),
            "that is the size of the matrix, not its rank.",
        ),
    ),
    hint="torch.linalg.matrix_rank of `odd_even(x)`.",
    moral="A CP of rank R is a sum of R matrices of rank one here, whatever its factors.",
    forbids=((matricization_rank, "build it from your `odd_even`."),),
)

width_for = Check(
    function=True,
    cases=lambda: [(_random(3, 2, 6), 0.1), (_random(3, 3, 6), 1e-3), (_random(2, 2, 8), 0.5)],
    right=_matched,
    mistakes=(
        (
            lambda x, rtol: _matched(x, rtol, norm=0),
            "each value is compared with the largest; compare the norm of all that is left out "
            "with the norm of all.",
        ),
        (lambda x, rtol: _width(x), "that is the width for being equal: rtol is not used."),
        (
            lambda x, rtol: _matched(x, rtol, relative=False),
            "the error is relative: divide by the norm of all values.",
        ),
        (lambda x, rtol: _matched(x, rtol) - 1, "with one value fewer the error is too large."),
    ),
    hint="s = torch.linalg.svdvals(odd_even(x)); the smallest k with s[k:].norm() <= rtol * "
    "s.norm().",
    moral="No narrower CP is so near; whether one of this width is, only a fit can say.",
)

numerical_width = Check(
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
    hint="call your `width_for` with the tensor and 0.01.",
    moral="The exact rank is exponential, what is needed for a few digits is less: the theorem is "
    "about being equal.",
)

deep_enough = Check(
    right=lambda: next(d for d in range(2, 10) if rank("TT", 3, 2, d) > 20),
    mistakes=(
        (
            lambda: next(d for d in range(2, 11) if 2 ** (d // 2) > 20),
            "by the bound it would be so deep; the ranks of these trains lie above it.",
        ),
        (lambda: 6, "at depth 6 it is still below 20."),
        (lambda: 8, "that is deep enough, and a smaller depth is too."),
    ),
    hint="set the size of a mode to 3, and move the depth.",
    moral="With modes larger than the ranks a train is above the bound: it says at least.",
)


def _kept(rtol):
    s = spectrum("TT", 3, 3, 8)
    tail = torch.cat([s.square().flip(0).cumsum(0).flip(0).sqrt(), s.new_zeros(1)]) / s.norm()
    return next(k for k, left in enumerate(tail.tolist()) if left <= rtol)
