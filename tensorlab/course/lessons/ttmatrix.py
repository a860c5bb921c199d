"""Lesson 10: layers held as TT-matrices."""

import itertools
import math
from functools import lru_cache

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ... import plots
from ...formats.lowrank import LowRank
from ...formats.tt import tt_svd
from ...formats.ttmatrix import TTMatrix, tt_matrix_svd
from ...layers.plans import plans
from ...rng import randn
from ..checks import Check, Unusable, gaussian, returned
from ..digits import fit_curves, network
from ..widgets import Explorer, choice, integer, toggle

WEIGHTS = (
    "blur of 8 x 8 pictures",
    "1 / (1 + |row - column|)",
    "layer trained on digits",
    "random",
)
MODES = {
    "8 · 8": (8, 8),
    "4 · 4 · 4": (4, 4, 4),
    "2 · 4 · 8": (2, 4, 8),
    "8 · 4 · 2": (8, 4, 2),
    "2 · 2 · 2 · 2 · 2 · 2": (2,) * 6,
}
RANKS = (1, 2, 4, 8, 16, 32)


@lru_cache
def example_weight(name: str, shuffled: bool = False) -> Tensor:
    """A matrix of 64 rows and 64 columns, its rows in their order or shuffled.

    >>> example_weight("1 / (1 + |row - column|)")[0, :3]
    tensor([1.0000, 0.5000, 0.3333], dtype=torch.float64)
    """
    i = torch.arange(64, dtype=torch.float64)
    if name == WEIGHTS[0]:
        bell = torch.exp(-0.5 * (i[:8, None] - i[:8]).square())
        w = torch.kron(bell, bell)
    elif name == WEIGHTS[1]:
        w = 1 / (1 + (i[:, None] - i).abs())
    elif name == WEIGHTS[2]:
        w = network()[0]
    elif name == WEIGHTS[3]:
        w = randn(64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    else:
        raise ValueError(f"weight: needs one of {', '.join(WEIGHTS)}, got {name}")
    return w[torch.randperm(64, generator=torch.Generator().manual_seed(0))] if shuffled else w


@lru_cache
def designs(name: str, shuffled: bool) -> dict[str, list[tuple[int, float, int]]]:
    """For each splitting of 64, and for the SVD, (numbers stored, relative error, rank) over the
    ranks."""
    w = example_weight(name, shuffled)
    error = lambda f: float((f.to_dense() - w).norm() / w.norm())
    found = {}
    for label, modes in MODES.items():
        full = tt_matrix_svd(w, modes, modes, rtol=0.0)
        ranks = [r for r in RANKS if r < max(full.ranks)] + [max(full.ranks)]
        found[label] = [(t.numel, error(t), r) for r in ranks for t in [full.round(r)]]
    found["SVD"] = [(t.numel, error(t), r) for r in RANKS for t in [LowRank.from_dense(w, r)]]
    return found


def proposal(name: str, shuffled: bool, most: int) -> tuple[str, int]:
    """The splitting and rank of the smallest error that stores at most so many numbers; of equal
    errors the fewest numbers.

    >>> proposal("blur of 8 x 8 pictures", False, 128)
    ('2 · 2 · 2 · 2 · 2 · 2', 3)
    """
    every = ((label, design) for label in MODES for design in designs(name, shuffled)[label])
    found = [
        (round(error, 9), numel, label, r) for label, (numel, error, r) in every if numel <= most
    ]
    if not found:
        raise ValueError(f"proposal: needs room for the smallest design of 24 numbers, got {most}")
    return min(found)[2:]


class Designer(Explorer):
    """A TT layer by hand, or the proposal of the smallest error for as many numbers: what it
    stores, its error on a real weight, the operations of its paths."""

    figsize = (9.5, 3.6)

    def __init__(self):
        super().__init__(
            weight=choice(WEIGHTS[0], WEIGHTS),
            modes=choice("4 · 4 · 4", MODES),
            rank=integer(2, 1, 64),
            tokens=integer(6, 0, 14, label="tokens = 2^"),
            shuffled=toggle(False, label="shuffle the rows"),
            proposed=toggle(False, label="propose"),
        )

    def limits(self, weight: str, modes: str, shuffled: bool, **others) -> dict:
        """No rank is larger than those of the unfoldings."""
        return {"rank": (1, largest_rank(weight, shuffled, modes))}

    def draw(
        self,
        figure: Figure,
        weight: str,
        modes: str,
        rank: int,
        tokens: int,
        shuffled: bool,
        proposed: bool,
    ) -> str:
        w = example_weight(weight, shuffled)
        t = tt_matrix_svd(w, MODES[modes], MODES[modes], rank)
        if proposed:
            modes, rank = proposal(weight, shuffled, t.numel)
            t = tt_matrix_svd(w, MODES[modes], MODES[modes], rank)
        error = float((t.to_dense() - w).norm() / w.norm())
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        curves = {
            label: [(numel, max(e, 1e-6)) for numel, e, _ in points]
            for label, points in designs(weight, shuffled).items()
        }
        plots.error_against_storage(left, curves, (t.numel, max(error, 1e-6)))
        left.axvline(w.numel(), color="0.4", lw=1)
        found = plans(t, 2**tokens)
        seen = plots.operations(right, found, 2 * 2**tokens * w.numel())
        return (
            f"{'Proposed: m' if proposed else 'M'}odes {modes} with ranks "
            f"{', '.join(map(str, t.ranks))} store {t.numel} of "
            f"{w.numel()} numbers with a relative error of {error:.2g}. {seen} "
            f"Forward and backward it should hold {found[0].peak / 2**10:.0f} KiB at the peak."
        )


@lru_cache
def largest_rank(weight: str, shuffled: bool, modes: str) -> int:
    """From which rank on nothing is lost of an example."""
    w = example_weight(weight, shuffled)
    return max(tt_matrix_svd(w, MODES[modes], MODES[modes], rtol=1e-10).ranks)


@lru_cache
def layer_curves() -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Error and accuracy against stored numbers for the layer of `digits.network`: TT-matrices of
    two and of three cores that store less than it, SVDs, and the dense layer."""
    weight, _ = network()
    ranks = (1, 2, 4, 6, 8, 12, 16)
    fits = {
        name: [tt_matrix_svd(weight, MODES[name], MODES[name], r) for r in ranks]
        for name in ("8 · 8", "4 · 4 · 4")
    }
    fits["SVD"] = [LowRank.from_dense(weight, r) for r in ranks]
    return fit_curves(
        {name: [f for f in of if f.numel < weight.numel()] for name, of in fits.items()}
    )


def paths_by_rank(ranks, tokens: int = 2048) -> dict[str, list[tuple[int, float]]]:
    """Operations of some paths of the layer 768 -> 3072 over those of the dense product, rank by
    rank; and those of an SVD with as many numbers, whose operations are its numbers.

    >>> [round(share, 3) for _, share in paths_by_rank((4, 8))["left"]]
    [0.203, 0.656]
    """
    curves = {name: [] for name in ("left", "right", "left 2+1", "rebuild", "SVD of equal size")}
    for r in ranks:
        w = _layer(r)
        found = {plan.forward: plan.flops for plan in plans(w, tokens)}
        found["SVD of equal size"] = 2 * tokens * w.numel
        for name, points in curves.items():
            points.append((r, found[name] / (2 * tokens * math.prod(w.shape))))
    return curves


def recorded(ax, table) -> str:
    """Peak memory of the forward paths and gradients of a table as bars, the printed numbers as
    crosses, the dense layer as a line."""
    *rows, dense = table.rows
    for k, row in enumerate(reversed(rows)):
        ax.barh(k, row["MiB"], color=plots.COLORS[0], label="measured" if k == 0 else None)
        if row.get("MiB (printed)"):
            first = not ax.get_legend_handles_labels()[1].count("printed")
            label = "printed" if first else None
            ax.plot(row["MiB (printed)"], k, "x", color=plots.COLORS[1], ms=7, mew=2, label=label)
    ax.axvline(dense["MiB"], color="0.4", lw=1, ls="--", label="dense")
    names = [f"{row['forward']}, {row['gradient']}" for row in reversed(rows)]
    ax.set_yticks(range(len(rows)), names)
    ax.set(xscale="log", xlabel="MiB at the peak")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    said = ", ".join(f"{name} {row['MiB']:.0f}" for name, row in zip(names, reversed(rows)))
    return f"MiB at the peak: {said}; dense {dense['MiB']:.0f}."


# ---------------------------------------------------------------------------------------- exercises


def _layer(rank):
    """768 -> 3072 as (8, 8, 12) -> (12, 16, 16); no numbers are needed to count."""
    return TTMatrix.randn(
        out=(12, 16, 16), in_=(8, 8, 12), rank=rank, device="meta", dtype=torch.float32
    )


def _numbers(out, in_, ranks, edge=1):
    r = (edge, *ranks, edge)
    return sum(r[k] * m * n * r[k + 1] for k, (m, n) in enumerate(zip(out, in_)))


def _paired(w, out, in_):
    """The modes (o_k, i_k) of a matrix, each pair as one index."""
    d = len(out)
    order = [k + d * half for k in range(d) for half in (0, 1)]
    sizes = [m * n for m, n in zip(out, in_)]
    return w.reshape(*out, *in_).permute(order).reshape(sizes)


def _unpaired(w, out, in_):
    return w.reshape([m * n for m, n in zip(out, in_)])


def _columns_first(w, out, in_):
    d = len(out)
    order = [k + d * half for k in range(d) for half in (1, 0)]
    return w.reshape(*out, *in_).permute(order).reshape([m * n for m, n in zip(out, in_)])


def _read_cores(function, w, out, in_, rank):
    """The matrix of the cores that a function returns, and the largest rank below it."""
    cores = returned(function, w, out, in_, rank)
    if cores is None:
        return None
    if not isinstance(cores, (list, tuple)) or len(cores) != len(out):
        raise Unusable(f"a list of {len(out)} cores is needed, one for each pair of modes.")
    cores = [torch.as_tensor(core, dtype=torch.float64) for core in cores]
    for k, core in enumerate(cores):
        if core.ndim != 4 or core.shape[1:3] != (out[k], in_[k]):
            raise Unusable(
                f"core {k} should have the shape (r_left, {out[k]}, {in_[k]}, r_right), it has "
                f"{tuple(core.shape)}."
            )
    try:
        t = TTMatrix(tuple(cores))
    except (ValueError, TypeError) as error:
        raise Unusable(f"the cores do not make a TT-matrix.  {error}") from error
    return _with_rank(t)


def _with_rank(t):
    w = t.to_dense()
    return torch.cat([w, w.new_full((1, w.shape[1]), float(max((1, *t.ranks))))])


def _matrix_case(out, in_, rank):
    """A matrix of which there is one best TT-matrix: it has two cores at most, or these ranks."""
    w = gaussian((math.prod(out), math.prod(in_)))[0]
    if len(out) > 2:
        w = TTMatrix(_case(out, in_, (rank,) * (len(out) - 1), 1)[0]).to_dense()
    return w, out, in_, rank


def _by_pairs(pair):
    """TT-SVD of the modes paired in another way."""

    def wrong(w, out, in_, rank):
        cores = tt_svd(pair(w, out, in_), rank).cores
        t = TTMatrix(tuple(c.reshape(c.shape[0], m, n, -1) for c, m, n in zip(cores, out, in_)))
        return _with_rank(t)

    return wrong


def _case(out, in_, ranks, batch):
    r = (1, *ranks, 1)
    *cores, x = gaussian(
        *((r[k], m, n, r[k + 1]) for k, (m, n) in enumerate(zip(out, in_))), (batch, math.prod(in_))
    )
    return tuple(cores), x


def _step_case(left, core, right):
    return gaussian((left, core[0], core[2], right), core)


def _step(state, core):
    return torch.einsum("arnz,rmnq->amqz", state, core)


def _largest_state(cores, x):
    """Four times the most numbers between two steps from either end, or in a core."""
    sizes = [c.numel() for c in cores]
    for k in range(len(cores) + 1):
        for walked, left in ((cores[:k], cores[k:]), (cores[k:], cores[:k])):
            rank = cores[k].shape[0] if k < len(cores) else 1
            out, in_ = (math.prod(c.shape[i] for c in part) for part, i in ((walked, 1), (left, 2)))
            sizes.append(len(x) * out * rank * in_)
    return 4 * max(sizes)


def _interleaved(cores, x):
    """The product with a matrix whose indices were left in the order of the cores."""
    w = TTMatrix(cores)
    return x @ w.to_tt().to_dense().reshape(w.shape).mT


def _turned(cores, x):
    w = TTMatrix(cores)
    return x @ w.to_dense() if w.shape[0] == w.shape[1] else None


def _backwards(cores, x):
    back = tuple(c.permute(3, 1, 2, 0) for c in cores[::-1])
    return TTMatrix(back).apply(x)


def _left(out, in_, ranks, batch, factor=2, done=None, todo=None):
    """Operations of the path from the left; done, todo: what has been walked at core k, and what
    has not."""
    done, todo = done or (lambda k: out[:k]), todo or (lambda k: in_[k + 1 :])
    r = (1, *ranks, 1)
    return sum(
        factor * batch * math.prod(done(k)) * r[k] * m * n * r[k + 1] * math.prod(todo(k))
        for k, (m, n) in enumerate(zip(out, in_))
    )


def _dearer(tokens=2048, dense_tokens=2048):
    """The first rank at which walking from the left costs more operations than rebuilding w."""
    count = lambda rank, name, n: next(
        plan.flops for plan in plans(_layer(rank), n) if plan.forward == name
    )
    return next(
        r for r in range(1, 97) if count(r, "left", tokens) > count(r, "rebuild", dense_tokens)
    )


def _least_rank(shuffled=True, name=WEIGHTS[1], modes="4 · 4 · 4", bound=0.3):
    """The smallest rank whose error is at most the bound."""
    w = example_weight(name, shuffled)
    error = lambda r: float(
        (tt_matrix_svd(w, MODES[modes], MODES[modes], r).to_dense() - w).norm() / w.norm()
    )
    return next(r for r in itertools.count(1) if error(r) <= bound)


ttmatrix_storage = Check(
    cases=lambda: [((12, 16, 16), (8, 8, 12), (4, 4))],
    right=lambda out, in_, ranks: _layer(ranks).numel,
    mistakes=(
        (
            lambda out, in_, ranks: math.prod(out) * math.prod(in_),
            "those are the entries of the dense weight.",
        ),
        (
            lambda out, in_, ranks: _numbers(out, in_, ranks, edge=4),
            "the ranks at the two ends of a train are 1.",
        ),
        (
            lambda out, in_, ranks: _numbers(out, [1] * 3, ranks),
            "a core has an index of the columns too.",
        ),
        (
            lambda out, in_, ranks: _numbers(out, [1] * 3, ranks) + _numbers([1] * 3, in_, ranks),
            "out and in of a core multiply, they do not add.",
        ),
        (lambda out, in_, ranks: _numbers(out, in_, (1, 1)), "that is without the ranks."),
    ),
    hint="write the shape (r_left, out, in, r_right) under each core, with rank 1 at both ends, "
    "and add.",
    moral="Two million numbers become a few thousand; the product does not become as much cheaper.",
)

pair_modes = Check(
    function=True,
    cases=lambda: [
        (*gaussian((6, 6)), (2, 3), (2, 3)),
        (*gaussian((24, 12)), (2, 3, 4), (3, 2, 2)),
        (*gaussian((4, 3)), (4,), (3,)),
    ],
    right=_paired,
    mistakes=(
        (
            _unpaired,
            "the numbers are still in the order of the matrix, all row digits first: permute "
            "before the pairs are joined.",
        ),
        (_columns_first, "in each pair the row digit comes first: (o_k, i_k)."),
        (
            lambda w, out, in_: w.reshape(*out, *in_),
            "the digits are split, not yet paired: 2 d modes should become d.",
        ),
    ),
    hint="w.reshape(*out, *in_) has the modes o_0 ... o_{d-1}, i_0 ... i_{d-1}; bring i_k behind "
    "o_k, then reshape to (m_0 n_0, m_1 n_1, ...).",
    moral="A matrix is now a tensor whose mode k holds the k-th digits of row and column.",
)

tt_matrix = Check(
    function=True,
    read=_read_cores,
    cases=lambda: [
        _matrix_case((2, 3), (2, 3), 2),
        _matrix_case((2, 3, 4), (3, 2, 2), 3),
        _matrix_case((4,), (3,), 2),
    ],
    right=lambda *case: _with_rank(tt_matrix_svd(*case)),
    mistakes=(
        (
            _by_pairs(_unpaired),
            "the modes are not paired: give `tl.tt_svd` what `pair_modes` returns.",
        ),
        (_by_pairs(_columns_first), "in each core the row digit comes before that of the column."),
        (
            lambda w, out, in_, rank: _with_rank(tt_matrix_svd(w, out, in_, rank + 1)),
            "the ranks are larger than asked for.",
        ),
    ),
    hint="tl.tt_svd(pair_modes(w, out, in_), rank) has cores (r, m n, q): split their middle mode.",
    moral="A TT-matrix is a train of paired digits; everything that holds for trains holds for it.",
    forbids=((tt_matrix_svd, "`tt_matrix_svd` is what you are to build: use your `pair_modes`."),),
)

walk = Check(
    function=True,
    cases=lambda: [
        _step_case(2, (2, 2, 2, 2), 2),
        _step_case(5, (1, 4, 3, 2), 6),
        _step_case(4, (3, 2, 5, 1), 1),
    ],
    right=_step,
    mistakes=(
        (
            lambda state, core: torch.einsum("arnz,rmnq->aqmz", state, core),
            "the new digit joins those that are done, left of the bond: (left, m, q, right).",
        ),
        (
            lambda state, core: (
                torch.einsum("armz,rmnq->anqz", state, core)
                if core.shape[1] == core.shape[2]
                else None
            ),
            "sum over the column digit i_k of the core; its row digit stays.",
        ),
        (
            lambda state, core: (
                torch.einsum("aqnz,rmnq->amrz", state, core)
                if core.shape[0] == core.shape[3]
                else None
            ),
            "the state meets the left bond of the core, the right one stays open.",
        ),
    ),
    hint="sum over the bond r and the column digit n: torch.einsum on 'arnz' and 'rmnq'.",
    moral="One step: a column digit leaves, a row digit comes, and the bond moves on.",
)

ttmatrix_apply = Check(
    function=True,
    cases=lambda: [
        _case((3, 3), (3, 3), (2,), 4),
        _case((2, 3, 4), (3, 2, 2), (3, 2), 5),
        _case((4,), (3,), (), 2),
        _case((8, 8, 8), (8, 8, 8), (2, 3), 2),
    ],
    largest=_largest_state,
    right=lambda cores, x: TTMatrix(cores).apply(x),
    mistakes=(
        (
            _interleaved,
            "the product of the cores has its indices as o_0 i_0 o_1 i_1: bring those of the rows "
            "to the front first.",
        ),
        (_turned, "that is x w, the rows of w are its outputs: multiply by the transpose."),
        (_backwards, "the cores are taken in the wrong order."),
    ),
    hint="begin with x as (batch, 1, in_0, all other in); after each `walk` give the state the "
    "shape (what is done, bond, next digit, rest).",
    moral="The order of the contractions is free: that is the choice that `propagate` makes.",
    forbids=((TTMatrix.apply, "`TTMatrix.apply` is what you are to build: use your `walk`."),),
)

left_operations = Check(
    function=True,
    cases=lambda: [
        ((2, 3, 5), (3, 4, 2), (2, 3), 7),
        ((12, 16, 16), (8, 8, 12), (4, 4), 2048),
        ((4,), (3,), (), 1),
    ],
    right=lambda out, in_, ranks, batch: torch.tensor(float(_left(out, in_, ranks, batch))),
    mistakes=(
        (
            lambda out, in_, ranks, batch: _left(out, in_, ranks, batch, factor=1),
            "a multiplication and an addition are two operations.",
        ),
        (
            lambda out, in_, ranks, batch: 2 * batch * _numbers(out, in_, ranks),
            "a core is used for every digit that is not its own: what is done, and what is to "
            "come.",
        ),
        (
            lambda out, in_, ranks, batch: _left(
                out, in_, ranks, batch, done=lambda k: in_[:k], todo=lambda k: out[k + 1 :]
            ),
            "left of the core there are row digits already, right of it still column digits.",
        ),
        (
            lambda out, in_, ranks, batch: 2 * batch * math.prod(out) * math.prod(in_),
            "those are the operations of the dense product.",
        ),
    ),
    hint="at core k the state has batch m_0 ... m_{k-1} rows on its left and n_{k+1} ... n_{d-1} "
    "on its right; each meets r_k m_k n_k r_{k+1} numbers.",
    moral="The ranks enter squared, and the numbers that a core stores are multiplied by all the "
    "digits that are not its own.",
)

ttmatrix_dearer = Check(
    right=_dearer,
    mistakes=(
        (lambda: _dearer() - 1, "at this rank the path from the left is still cheaper."),
        (lambda: _dearer() + 1, "it is dearer at one rank less already."),
        (
            lambda: _dearer(dense_tokens=1),
            "count the operations of all the tokens, on both sides.",
        ),
    ),
    hint="compare the operations of both paths for r = 1, 2, 3, ... and look where they cross.",
    moral="Few parameters are not few operations: beyond a small rank a TT layer is a dense layer "
    "that is rebuilt.",
)

shuffled_rank = Check(
    right=_least_rank,
    mistakes=(
        (lambda: _least_rank(False), "that is with the rows in their order: shuffle them."),
        (lambda: _least_rank() - 1, "there the error is still above 0.3."),
        (lambda: _least_rank() + 1, "one rank less would do."),
        (lambda: _least_rank(bound=0.1), "that is an error of a tenth, not of three tenths."),
    ),
    hint="move the rank with `shuffle the rows` on, and read the relative error below the picture.",
    moral="The same numbers in another order: a rank belongs to an order of the rows and columns.",
)
