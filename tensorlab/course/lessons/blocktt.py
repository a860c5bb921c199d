"""Lesson 11: structured matrices, what they share, and how their losses scale."""

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
from ...formats.ttmatrix import TTMatrix
from ...layers.linear import FactorizedLinear
from ...models.training import shuffled_parts
from ...multilinear import balanced_shape
from ..checks import Check, gaussian
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

    figsize = (8.5, 3.4)

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


btt_storage = Check(
    question="A 1024 by 1024 weight is a BlockTT of two cores with modes 32 by 32 and rank 3.  How "
    "many numbers does it store?",
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


def _monarch(left, right, x):
    """y[a, b] = sum_c left[b, a, c] sum_d right[c, b, d] x[c, d]."""
    z = torch.einsum("cbd,cd->bc", right, x.reshape(right.shape[0], -1))
    return torch.einsum("bac,bc->ab", left, z).reshape(-1)


monarch_apply = Check(
    question="Write `monarch_apply(left, right, x)`: y[a, b] = sum_c left[b, a, c] sum_d right[c, "
    "b, d] x[c, d], with x and y as "
    "vectors, x read as rows c of values d and y as rows a of values b.  left: (b, a, c), right: "
    "(c, b, d).",
    function=True,
    cases=lambda: [gaussian((3, 3, 3), (3, 3, 3), (9,)), gaussian((3, 4, 2), (2, 3, 5), (10,))],
    right=_monarch,
    mistakes=(
        (
            lambda left, right, x: (
                _monarch(left, right, x).reshape(left.shape[1], -1).T.reshape(-1)
            ),
            "the result is read block by block: deal it back, y has a outside and b inside.",
        ),
        (
            lambda left, right, x: (
                (left @ (right @ x.reshape(len(right), -1, 1))).reshape(-1)
                if left.shape == right.shape
                else None
            ),
            "the permutation between the two is missing: each block of left needs a value of every "
            "block of right.",
        ),
        (
            lambda left, right, x: _monarch(left, right, x.reshape(-1, len(right)).T.reshape(-1)),
            "x is read as rows c of values d.",
        ),
    ),
    hint="z = right @ x.reshape(c, d, 1) has z[c, b]; transpose it, multiply each z[b] by left[b], "
    "and transpose again.",
    moral="Two batched products and two transposes: the whole of `apply` for two cores of rank 1.",
)


def _kronecker_sum():
    return structured(
        "Kronecker", 16, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).to_dense()


kron_as_btt = Check(
    question="What is the smallest BTT rank (modes 4 by 4) that holds a sum of 3 random Kronecker "
    "products of 4 by 4 factors?",
    right=lambda: BlockTT.from_dense(_kronecker_sum(), rtol=1e-10).ranks[0],
    mistakes=(
        (
            lambda: 1,
            "one product has rank 1; slice (b, c) of a sum is a sum of outer products of columns.",
        ),
        (lambda: 16, "that is the rank of the matrix; what counts is the rank of its slices."),
        (lambda: math.isqrt(16), "any matrix has that rank; a sum of few products needs less."),
    ),
    hint="build one, call `BlockTT.from_dense` with a small rtol, and look at `.ranks`.",
    moral="Kronecker, TT and Monarch are all block trains: they share more numbers, or have rank "
    "one.",
)
