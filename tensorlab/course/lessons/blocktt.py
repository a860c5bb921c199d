"""Lesson 11: structured matrices, what they share, and how their losses scale."""

import functools
import math
from collections.abc import Iterator

import torch
from matplotlib.figure import Figure
from torch import nn

from ... import datasets, plots
from ...formats.base import MatrixFormat
from ...formats.blocktt import BlockTT
from ...formats.kronecker import Kronecker
from ...formats.lowrank import LowRank
from ...formats.monarch import Monarch
from ...formats.ttmatrix import TTMatrix, tt_matrix_svd
from ...layers.linear import FactorizedLinear
from ...models.training import shuffled_parts
from ...multilinear import balanced_shape
from ...papers import table
from ..checks import Check, Unusable, gaussian, returned
from ..digits import fit_curves
from ..digits import network as digits_network
from ..widgets import Explorer, choice, decimal, integer

EQUATIONS = {
    "dense": r"$w_{oi}$",
    "low rank": r"$w_{oi} = \sum_s u_{os} v_{is}$",
    "Kronecker": r"$w_{(ab)(cd)} = \sum_s A^s_{ac} B^s_{bd}$",
    "TT": r"$w_{(ab)(cd)} = \sum_s L_{acs} R_{sbd}$",
    "Monarch": r"$w_{(ab)(cd)} = L_{bac} R_{cbd}$",
    "BTT": r"$w_{(ab)(cd)} = \sum_s L_{bacs} R_{csbd}$",
}


def structured(name: str, n: int, rank: int = 1, **options) -> MatrixFormat:
    """A square weight with entries of variance 1. dense: a block train of one core. Monarch: about
    √n blocks, whatever the rank.

    >>> structured("BTT", 16, 2)
    BlockTT(shape=(16, 16), ranks=(2,), stores 256 of 256)
    """
    modes = balanced_shape(n, 2)
    makes = {
        "dense": lambda: BlockTT.randn((n, n), (), cores=1, **options),
        "low rank": lambda: LowRank.randn((n, n), rank, **options),
        "Kronecker": lambda: Kronecker.randn((n, n), rank, out=modes, in_=modes, **options),
        "TT": lambda: TTMatrix.randn(out=modes, in_=modes, rank=rank, **options),
        "Monarch": lambda: Monarch.randn((n, n), **options),
        "BTT": lambda: BlockTT.randn((n, n), rank, out=modes, in_=modes, **options),
    }
    if name not in makes:
        raise ValueError(f"structure: needs one of {', '.join(makes)}, got {name}")
    return makes[name]()


def reach(w: MatrixFormat, tensor: int, place: float) -> torch.Tensor:
    """The entries of w that one stored number enters: those that change when it does. place: 0 is
    the first number, 1 the last."""
    tensors = list(w.tensors())
    t = tensors[tensor] = torch.zeros_like(tensors[tensor])
    t.view(-1)[round(place * (t.numel() - 1))] = 1.0
    return w.with_tensors(tensors).to_dense() != 0  # w is linear in each of its tensors


class StructureExplorer(Explorer):
    """A structured matrix as a picture: which entries one number of each tensor enters, and its
    singular values."""

    figsize = (8.5, 3.8)

    def __init__(self):
        super().__init__(
            structure=choice("BTT", tuple(EQUATIONS)),
            rank=integer(1, 1, 4),
            place=decimal(0.4, 0, 1, label="which number"),
        )

    def draw(self, figure: Figure, structure: str, rank: int, place: float) -> str:
        options = dict(generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        w = structured(structure, 16, rank, **options)
        left, right = figure.subplots(1, 2)
        seen = plots.shared(
            left, [reach(w, k, place) for k in range(len(w.tensors()))], EQUATIONS[structure], 4
        )
        s = torch.linalg.svdvals(w.to_dense())
        plots.singular_values(right, {structure: s})
        kept = int((s > 1e-10 * s[0]).sum())
        cost = f"stores {w.numel} numbers and takes {w.flops(1)} FLOPs for a product"
        return f"{seen} {structure} {cost}; the rank of this matrix is {kept}."


# -- the experiment: a network with one structured layer, at several widths


def network(name: str, width: int, seed: int, rank: int = 2) -> nn.Module:
    """64 pixels -> width -> structured -> 10 classes."""
    torch.manual_seed(seed)
    weight = structured(name, width, rank, generator=torch.Generator().manual_seed(seed)).initial()
    middle = FactorizedLinear(weight, torch.zeros(width))
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), middle, nn.ReLU(), nn.Linear(width, 10))


def groups(model: nn.Module, lr: float, right: bool, base: int = 64) -> list[dict]:
    """Adam's learning rates: lr · base / width for a dense weight, times the multipliers of the
    structure when they are `right`."""
    first, middle, last = model[0], model[2], model[4]
    scale = base / middle.in_features
    multipliers = middle.weight.lr_multipliers() if right else [1.0] * len(middle.tensors)
    rates = [dict(params=[t], lr=lr * scale * m) for t, m in zip(middle.tensors, multipliers)]
    plain = [first.weight, first.bias, middle.bias, last.bias]
    return [*rates, dict(params=plain, lr=lr), dict(params=[last.weight], lr=lr * scale)]


def train(
    name: str, width: int, *, right: bool = True, lr: float = 3e-3, steps: int = 150, seed: int = 0
) -> tuple:
    """FLOPs for one example and numbers stored of the structured layer, and the loss on held-out
    digits after training."""
    x, y = datasets.digits()
    x, y, x_test, y_test = shuffled_parts(x.flatten(1), y, 1400)
    model = network(name, width, seed)
    optimizer, g = torch.optim.Adam(groups(model, lr, right)), torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = torch.randint(0, 1400, (128,), generator=g)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        loss = float(nn.functional.cross_entropy(model(x_test), y_test))
    return model[2].weight.flops(1), model[2].weight.numel, loss


def sweep(names, widths, *, steps: int) -> Iterator[tuple]:
    """(name, width, right, flops, numbers, loss), one after another: the page shows how far it
    is."""
    for name in names:
        for width in widths:
            for right in (True, False):
                yield name, width, right, *train(name, width, right=right, steps=steps)


def law(points) -> tuple[float, float, float]:
    """a, b, alpha of loss = a + b C^-alpha: for each a on a grid a line through the logarithms, and
    the a that fits best.

    points: pairs (C, loss). a is less than the least loss; alpha is not bounded, so a law that
    rises is seen as one.

    >>> a, b, alpha = law([(c, 0.5 + 2 * c**-0.25) for c in (1e2, 1e3, 1e4, 1e5)])
    >>> round(a, 2), round(b, 1), round(alpha, 2)
    (0.5, 2.0, 0.25)
    """
    c, loss = torch.tensor(points, dtype=torch.float64).T
    best = None
    for gap in torch.logspace(-6, 0, 600, dtype=torch.float64):
        a = (1 - gap) * loss.min()
        design = torch.stack([torch.ones_like(c), -c.log()], 1)
        line = torch.linalg.lstsq(design, (loss - a).log()[:, None]).solution
        b, alpha = float(line[0, 0].exp()), float(line[1, 0])
        residual = float((a + b * c**-alpha - loss).square().sum())
        if best is None or residual < best[0]:
            best = residual, float(a), b, alpha
    return best[1:]


class ScalingExplorer(Explorer):
    """Losses that were measured against cost, with their laws; a ring goes where the width and the
    structure say."""

    figsize = (8.5, 3.6)

    def __init__(self, results):
        self.results = list(results)
        names, widths = (list(dict.fromkeys(row[k] for row in self.results)) for k in (0, 1))
        self.widths = widths
        super().__init__(
            structure=choice(names[-1], names),
            width=integer(len(widths), 1, len(widths), label="width number"),
            rates=choice("multipliers", ("multipliers", "dense rate")),
            cost=choice("FLOPs", ("FLOPs", "numbers stored")),
        )

    def draw(self, figure: Figure, structure: str, width: int, rates: str, cost: str) -> str:
        chosen = [row for row in self.results if row[2] == (rates == "multipliers")]
        of = 3 if cost == "FLOPs" else 4
        points = {}
        for row in chosen:
            points.setdefault(row[0], []).append((row[of], row[5]))
        laws = {name: law(p) for name, p in points.items() if len(p) > 2}
        n = self.widths[width - 1]
        (here,) = [row for row in chosen if row[:2] == (structure, n)]
        (other,) = [row for row in self.results if row[:2] == (structure, n) and row[2] != here[2]]
        seen = plots.scaling(figure.subplots(), points, laws, (here[of], here[5]), cost)
        return (
            f"{structure} of width {n}: loss {here[5]:.3f}, with the other learning rates "
            f"{other[5]:.3f}.  {seen}"
        )


# ------------------------------------------------------------------------------- figures of rivals


@functools.cache
def held(n: int = 64, rank: int = 2) -> dict[str, dict[str, tuple[int, float]]]:
    """Random matrices of each structure, approximated: {structure: {rival: (numbers, error)}}.

    Rivals are block trains of rank 1 and of `rank`, and the SVD with as many numbers as either.
    """
    found = {}
    for name in EQUATIONS:
        options = dict(generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        w = structured(name, n, rank, **options).to_dense()
        fits = {}
        for r in (1, rank):
            fits[f"BTT, rank {r}"] = btt = BlockTT.from_dense(w, r)
            low = LowRank.from_dense(w, btt.numel // (2 * n))
            fits[f"SVD, as many as rank {r}"] = low
        off = {rival: float((m.to_dense() - w).norm() / w.norm()) for rival, m in fits.items()}
        found[name] = {rival: (m.numel, off[rival]) for rival, m in fits.items()}
    return found


def draw_held(figure: Figure) -> str:
    """Errors of block trains and SVDs of random matrices, as bars for each structure."""
    ax, found = figure.subplots(), held()
    rivals = list(next(iter(found.values())))
    for k, rival in enumerate(rivals):
        at = [i + 0.2 * (k - 1.5) for i in range(len(found))]
        errors = [of[rival][1] for of in found.values()]
        ax.bar(at, errors, 0.18, label=rival, color=plots.COLORS[k])
    ax.axhline(1, color="0.4", lw=1)
    ax.set_xticks(range(len(found)), list(found))
    ax.set(ylabel="relative error", xlabel="structure of the random matrix", ylim=(0, 1.05))
    ax.grid(False, axis="x")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    exact = [name for name, of in found.items() if of["BTT, rank 2"][1] < 1e-10]
    return (
        f"The block train of rank 2 holds {', '.join(exact)} exactly; the line is the zero matrix."
    )


@functools.cache
def layer_curves() -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Error and accuracy against stored numbers for the layer of `digits.network`, as block trains,
    TT-matrices and SVDs, and for the dense layer; a block train of rank 1 is a Monarch matrix."""
    weight, _ = digits_network()
    fits = {
        "BTT": [BlockTT.from_dense(weight, r) for r in (1, 2, 3, 4)],
        "TT": [tt_matrix_svd(weight, (8, 8), (8, 8), r) for r in (4, 8, 12, 16, 24)],
        "SVD": [LowRank.from_dense(weight, r) for r in (2, 4, 8, 16, 24)],
    }
    return fit_curves(fits)


def draw_seeds(figure: Figure, losses: dict[tuple[str, bool], list[float]]) -> str:
    """Losses for several seeds, with the rates of the cores and with the dense one: means and
    standard deviations; a sentence."""
    ax, names = figure.subplots(), list(dict.fromkeys(name for name, _ in losses))
    for k, right in enumerate((True, False)):
        of = [torch.tensor(losses[name, right]) for name in names]
        at = [i + 0.16 * (k - 0.5) for i in range(len(names))]
        means, bars = [float(x.mean()) for x in of], [float(x.std()) for x in of]
        label = "rates of the cores" if right else "the dense rate"
        ax.errorbar(at, means, bars, label=label, capsize=3, **plots.style(k) | dict(ls=""))
    dense = float(torch.tensor(losses["dense", True]).mean())
    ax.axhline(dense, color="0.4", lw=1, ls="--")
    ax.set_xticks(range(len(names)), names)
    ax.set(ylabel="loss on held-out digits", ylim=0)
    ax.legend()
    return (
        f"Means and deviations of {len(losses['dense', True])} seeds; the line is the dense layer."
    )


def recorded(data: str, width: int) -> dict[tuple[str, str], tuple[int, float]]:
    """(numbers, least loss of all rates) by (structure, rule), of `data/measured/Qiu2024.csv`."""
    found = {}
    for row in table.measured("Qiu2024").where(data=data, width=width):
        key = row["structure"], row["rule"]
        found[key] = min(found.get(key, (0, math.inf)), (row["numbers"], row["loss"]), key=_loss)
    return found


def _loss(pair):
    return pair[1]


def draw_recorded(figure: Figure) -> str:
    """Least losses of the recorded runs against numbers stored; a sentence."""
    said = []
    for ax, (data, width) in zip(figure.subplots(1, 2), (("digits", 1024), ("characters", 128))):
        found = recorded(data, width)
        for (name, rule), at in found.items():
            color = plots.COLORS[list(EQUATIONS).index(name)]
            ax.plot(*at, "o", ms=8, color=color, mfc=color if rule == "core" else "none")
            if rule == "core":
                ax.annotate(name, at, (8, 0), textcoords="offset points", va="center")
        ax.axhline(found["dense", "core"][1], color="0.4", lw=1, ls="--")
        ax.set(xscale="log", xlabel="stored numbers", ylabel="loss", title=f"{data}, width {width}")
        ax.xaxis.set_minor_formatter("")
        ax.margins(0.2)
        ax.set_xlim(1e3 if data == "digits" else 1e4, 1e7 if data == "digits" else 1e6)
        best = min(found, key=lambda key: found[key][1])
        said.append(
            f"{data}: least loss {found[best][1]:.4g} of {best[0]} with the {best[1]} rates"
        )
    return f"{'; '.join(said)}. Rings are the dense rate, disks the rates of the cores."


# ---------------------------------------------------------------------------------------- exercises


btt_storage = Check(
    cases=lambda: [(1024, 3)],
    right=lambda n, r: structured("BTT", n, r).numel,
    mistakes=(
        (
            lambda n, r: structured("TT", n, r).numel,
            "so much TT or low rank holds; here each slice has its own cores.",
        ),
        (lambda n, r: structured("BTT", n, r).numel // 2, "that is one core; there are two."),
        (lambda n, r: structured("Monarch", n).numel, "that is rank 1, a Monarch matrix."),
        (lambda n, r: n * n, "those are the entries of the dense weight."),
    ),
    hint="L has an index for each of b, a, c and the bond, R one for c, the bond, b and d: "
    "multiply their sizes and add.",
    moral="2 r n^1.5 numbers, each used once in a product: FLOPs and numbers stored grow together.",
)


def _slices(w, m):
    """w[(a, b), (c, d)] as [b, c, a, d]."""
    return w.reshape(m, m, m, m).permute(1, 2, 0, 3)


btt_slices = Check(
    function=True,
    cases=lambda: [(gaussian((9, 9))[0], 3), (gaussian((16, 16))[0], 4)],
    right=_slices,
    mistakes=(
        (
            lambda w, m: w.reshape(m, m, m, m).transpose(1, 2),
            "those are the contiguous blocks, a and c fixed: here b and c come first.",
        ),
        (lambda w, m: w.reshape(m, m, m, m), "the modes are (a, b, c, d) still: permute them."),
        (
            lambda w, m: w.reshape(m, m, m, m).permute(1, 3, 0, 2),
            "b and d are fixed there: the slice has the rows a and the columns d.",
        ),
        (
            lambda w, m: w.reshape(m, m, m, m).permute(2, 1, 0, 3),
            "b and c have changed places.",
        ),
    ),
    hint="split the rows into (a, b) and the columns into (c, d), then put b and c first.",
    moral="Each slice is a matrix that the cores hold by themselves: nothing is shared.",
)


def _fit(w, m, rank, which=_slices):
    u, s, vh = torch.linalg.svd(which(w, m), full_matrices=False)
    left, right = u[..., :rank], s[..., :rank, None] * vh[..., :rank, :]
    return left.permute(0, 2, 1, 3), right.permute(1, 2, 0, 3)


def _dense(left, right):
    w = torch.einsum("bacs,csbd->abcd", left, right)
    return w.reshape(w.shape[0] * w.shape[1], -1)


def _read_fit(function, w, m, rank):
    result = returned(function, w, m, rank)
    if result is None:
        return None
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise Unusable("two tensors are needed, left and right.")
    left, right = (torch.as_tensor(core, dtype=torch.float64) for core in result)
    wanted = (m, m, m, rank), (m, rank, m, m)
    if (left.shape, right.shape) != wanted:
        raise Unusable(
            f"left (b, a, c, s) and right (c, s, b, d) are {wanted[0]} and {wanted[1]} here, these "
            f"are {tuple(left.shape)} and {tuple(right.shape)}."
        )
    return _dense(left, right)


btt_fit = Check(
    function=True,
    read=_read_fit,
    cases=lambda: [(gaussian((9, 9))[0], 3, 2), (gaussian((16, 16))[0], 4, 1)],
    right=lambda *case: _dense(*_fit(*case)),
    mistakes=(
        (
            lambda w, m, rank: _dense(
                *_fit(w, m, rank, lambda w, m: w.reshape(m, m, m, m).transpose(1, 2))
            ),
            "the contiguous blocks were cut, not the slices with b and c fixed: use your "
            "`btt_slices`.",
        ),
        (
            lambda w, m, rank: LowRank.from_dense(w, rank).to_dense(),
            "that is one SVD of the whole matrix; each slice has a separate SVD.",
        ),
        (
            lambda w, m, rank: _dense(
                *(x / s for x, s in zip(_fit(w, m, rank), _norms(w, m, rank)))
            ),
            "the singular values are missing: give them to one of the two cores.",
        ),
    ),
    hint="torch.linalg.svd takes all slices at once; u has [b, c, a, s], s vh has [b, c, s, d], "
    "and both are permuted.",
    moral="m² small SVDs, and the best block train there is: the slices do not share anything.",
    forbids=((BlockTT.from_dense.__func__, "build it from torch.linalg.svd."),),
)


def _norms(w, m, rank):
    """What the cores of `_fit` have to be divided by to be without singular values."""
    s = torch.linalg.svdvals(_slices(w, m))[..., :rank]  # b, c, s
    return torch.ones((), dtype=s.dtype), s.permute(1, 2, 0)[..., None]


def _apply(left, right, x):
    """y[a, b] = sum_cs left[b, a, c, s] sum_d right[c, s, b, d] x[c, d], for one vector."""
    z = torch.einsum("csbd,cd->bcs", right, x.reshape(right.shape[0], -1))
    return torch.einsum("bacs,bcs->ab", left, z).reshape(-1)


btt_apply = Check(
    function=True,
    cases=lambda: [
        (*gaussian((3, 3, 3, 2), (3, 2, 3, 3)), gaussian((9,))[0]),
        (*gaussian((3, 4, 2, 1), (2, 1, 3, 5)), gaussian((10,))[0]),
        (*gaussian((16, 16, 16, 2), (16, 2, 16, 16)), gaussian((256,))[0]),
    ],
    largest=lambda left, right, x: left.numel() + right.numel(),
    right=_apply,
    mistakes=(
        (
            lambda left, right, x: _apply(left, right, x).reshape(left.shape[1], -1).T.reshape(-1),
            "the result is read block by block: y has a outside and b inside.",
        ),
        (
            lambda left, right, x: _apply(left, right, x.reshape(-1, len(right)).T.reshape(-1)),
            "x is read as rows c of values d.",
        ),
        (
            lambda left, right, x: _apply(left[..., :1], right[:, :1], x),
            "only the first term of the bond is there: sum over s.",
        ),
        (
            lambda left, right, x: _apply(left.sum(-1, True), right.sum(1, True), x),
            "each core is summed over s on its own; the bond joins the two.",
        ),
    ),
    hint="z[b, c, s] = sum_d right[c, s, b, d] x[c, d] comes first, then y[a, b] = sum_cs left z; "
    "two einsums.",
    moral="Each stored number is used once: as many multiply-adds as numbers.",
    forbids=((BlockTT.apply, "write the two sums yourself."),),
)


def _kronecker_sum():
    return structured(
        "Kronecker", 16, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).to_dense()


kron_as_btt = Check(
    right=lambda: BlockTT.from_dense(_kronecker_sum(), rtol=1e-10).ranks[0],
    mistakes=(
        (
            lambda: 1,
            "one product has rank 1; slice (b, c) of a sum is a sum of outer products of columns.",
        ),
        (lambda: 16, "that is the rank of the matrix; what counts is the rank of its slices."),
        (lambda: math.isqrt(16), "any matrix has that rank; a sum of few products needs less."),
    ),
    hint="fix b and c in sum_s A^s[a, c] B^s[b, d]: the slice is a sum of outer products.",
    moral="Kronecker, TT and Monarch are all block trains: they share more numbers, or have rank "
    "one.",
)


def _uses(name, rank=2, n=16):
    w = structured(name, n, rank)
    return w.flops(1) // w.numel


most_uses = Check(
    right=lambda: max(map(_uses, EQUATIONS)),
    mistakes=(
        (
            lambda: _uses("BTT"),
            "in a block train each number is used once, one multiplication and one addition; "
            "others use theirs more often.",
        ),
        (lambda: _uses("TT") // 2, "a FLOP is a multiplication or an addition: count both."),
        (lambda: structured("TT", 16, 2).flops(1), "divide the FLOPs by the numbers stored."),
    ),
    hint="read FLOPs and numbers in the sentence below the picture, for each structure.",
    moral="What is shared is used often: a number of a Kronecker factor takes part in √n products.",
)
