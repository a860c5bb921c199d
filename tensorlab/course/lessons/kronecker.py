"""Lesson 09: sums of Kronecker products."""

import functools
import math

import torch
from matplotlib.figure import Figure

from ... import datasets, plots
from ...formats.kronecker import Kronecker, kron_rearrange, kron_svd
from ...formats.lowrank import LowRank
from ..checks import Check, Unusable, gaussian, returned, tensors
from ..digits import fit_curves, network
from ..widgets import Explorer, Player, choice, integer

NAMES = (
    "gray flower",
    "elevation",
    "MRI slice",
    "layer trained on digits",
    "tiled pattern",
    "random",
    "random low rank",
)


def example_matrix(name: str, n: int = 64) -> torch.Tensor:
    """A matrix of n rows and columns: real ones are cut from the middle, or drawn from a seed.

    >>> example_matrix("tiled pattern", 8).shape
    torch.Size([8, 8])
    """
    generator = torch.Generator().manual_seed(0)
    if name == "random":
        return torch.randn(n, n, generator=generator, dtype=torch.float64)
    if name == "random low rank":
        return LowRank.randn((n, n), 4, generator=generator, dtype=torch.float64).to_dense()
    if name == "tiled pattern":  # one small picture, repeated at different brightness
        tile, light = (
            torch.rand(shape, generator=generator, dtype=torch.float64)
            for shape in ((8, 8), (n // 8, n // 8))
        )
        return torch.kron(light, tile)
    if name == "layer trained on digits":
        return network()[0][:n, :n]
    if name not in NAMES:
        raise ValueError(f"matrix: needs one of {', '.join(NAMES)}, got {name}")
    sources = {
        "gray flower": lambda: datasets.photo("flower").mean(2),
        "elevation": datasets.elevation,
        "MRI slice": datasets.mri,
    }
    whole = sources[name]()
    top, left = (whole.shape[0] - 4 * n) // 2, (whole.shape[1] - 4 * n) // 2
    return whole[top : top + 4 * n, left : left + 4 * n].reshape(n, 4, n, 4).mean((1, 3))


def errors(w: torch.Tensor, left: tuple[int, int], most: int) -> tuple[list, list]:
    """Relative errors of 1..most terms, of Kronecker products and of the SVD, each with the numbers
    it stores; 0 where nothing is left but rounding."""
    one = Kronecker.from_dense(w, 1, **_modes(w.shape, left)).numel
    return _tails(kron_rearrange(w, left), one, most), _tails(w, sum(w.shape), most)


def _tails(w, each, most):
    s = torch.linalg.svdvals(w)
    s = torch.where(s > 1e-12 * s[0], s, 0.0)
    tail = [float(s[k:].norm() / s.norm()) for k in range(1, min(most, len(s)) + 1)]
    return [(each * k, error) for k, error in enumerate(tail, 1)]


@functools.lru_cache
def layer_curves() -> dict:
    """Error and accuracy of the trained layer as sums of Kronecker products and as SVDs."""
    w, _ = network()
    counts = (1, 2, 3, 4, 6, 8, 12, 16)
    return fit_curves(
        {
            "Kronecker": [kron_svd(w, (8, 8), k) for k in counts],
            "SVD": [LowRank.from_dense(w, k) for k in counts],
        }
    )


def _modes(shape, left):
    return dict(out=(left[0], shape[0] // left[0]), in_=(left[1], shape[1] // left[1]))


class RearrangePlayer(Player):
    """A matrix whose blocks become the rows of another, entry by entry."""

    figsize = (9, 3)
    interval = 0.3
    begin = 7
    shape = (4, 6)

    def __init__(self):
        super().__init__(
            rows=choice(2, (1, 2, 4), label="rows of A"),
            columns=choice(3, (1, 2, 3, 6), label="columns of A"),
        )

    def steps(self, rows: int, columns: int):
        yield from range(math.prod(self.shape) + 1)

    def draw(self, figure: Figure, state: int, rows: int, columns: int) -> str:
        (m, n), whole = self.shape, math.prod(self.shape)
        w = torch.arange(whole, dtype=torch.float64).reshape(m, n)
        r = kron_rearrange(w, (rows, columns))
        seen = r.flatten()[:state].int().tolist()
        left, right = figure.subplots(1, 2)
        plots.slices(left, w[:, :, None], seen, seen[-1:])
        for k in range(1, rows):
            left.plot([0, n], [1 - k * m // rows] * 2, color="black", lw=3)
        for k in range(1, columns):
            left.plot([k * n // columns] * 2, [1 - m, 1], color="black", lw=3)
        plots.slices(right, r[:, :, None], seen, seen[-1:], hide=True)
        left.set_title(f"w in {rows} by {columns} blocks")
        right.set_title("R(w), a block in each row")
        at = max(0, state - 1) // r.shape[1]
        return (
            f"{state} of {whole} entries have moved; row {at} of R(w), {r.shape[0]} by "
            f"{r.shape[1]}, is block ({at // columns}, {at % columns}) of w."
        )


class KroneckerExplorer(Explorer):
    """A matrix, the same numbers rearranged so that each block is a row, and the singular values of
    both."""

    figsize = (10, 3.1)

    def __init__(self):
        super().__init__(
            matrix=choice(NAMES[0], NAMES),
            terms=integer(4, 1, 16),
            rows=choice(4, (2, 4, 8, 16, 32), label="rows of A"),
            columns=choice(4, (2, 4, 8, 16, 32), label="columns of A"),
        )

    def limits(self, rows: int, columns: int, **others) -> dict:
        """No more terms than the rearranged matrix has singular values."""
        return {"terms": (1, min(16, rows * columns, 64 * 64 // (rows * columns)))}

    def draw(self, figure: Figure, matrix: str, terms: int, rows: int, columns: int) -> str:
        w = example_matrix(matrix)
        first, second, third = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
        r = kron_rearrange(w, (rows, columns))
        plots.blocks(first, w, (rows, columns), "w in its blocks")
        plots.blocks(second, r, None, "rearranged, a block in each row")
        plots.singular_values(
            third, {"w": torch.linalg.svdvals(w), "rearranged": torch.linalg.svdvals(r)}
        )
        kron = kron_svd(w, (rows, columns), terms)
        third.axvline(terms + 0.5, color="0.4", ls=":", lw=1)  # what may be kept is on its left
        low = LowRank.from_dense(w, max(1, kron.numel // sum(w.shape)))
        error = [float((x.to_dense() - w).norm() / w.norm()) for x in (kron, low)]
        return (
            f"{matrix}: {kron.ranks[0]} Kronecker terms ({kron.numel} numbers) leave a relative "
            f"error of {error[0]:.2g}, "
            f"the SVD of rank {low.ranks[0]} ({low.numel} numbers) leaves {error[1]:.2g}."
        )


kron_storage = Check(
    cases=lambda: [((768, 3072), (16, 24), 4)],
    right=lambda shape, left, k: Kronecker.randn(shape, k, **_modes(shape, left)).numel,
    mistakes=(
        (
            lambda shape, left, k: k * left[0] * left[1],
            "those are the left factors; each term has a right one too.",
        ),
        (
            lambda shape, left, k: left[0] * left[1] + shape[0] * shape[1] // (left[0] * left[1]),
            "that is one term.",
        ),
        (
            lambda shape, left, k: k * sum(shape),
            "that is low rank: thin factors.  The factors here are matrices of both sizes.",
        ),
        (lambda shape, left, k: shape[0] * shape[1], "those are the entries of the full matrix."),
    ),
    hint="the right factors have 768 / 16 rows and 3072 / 24 columns; add both factors, and count "
    "the terms.",
    moral="Two small matrices for each term, where the SVD has two thin ones.",
)


def _kron_sum(pairs):
    return sum(torch.kron(a, b) for a, b in pairs)


def _terms(w, rows, columns, count, weigh=lambda s: s, arrange=kron_rearrange, first=0):
    """Pairs (A, B) from singular terms of the rearranged matrix, from number `first` on."""
    u, s, vh = torch.linalg.svd(arrange(w, (rows, columns)), full_matrices=False)
    sizes = (rows, columns), (w.shape[0] // rows, w.shape[1] // columns)
    return [
        ((u[:, k] * weigh(s[k])).reshape(sizes[0]), vh[k].reshape(sizes[1]))
        for k in range(first, min(first + count, len(s)))
    ]


def _plain(w, left):
    """The entries of w in their order, in rows of as many as a block has."""
    return w.reshape(left[0] * left[1], -1)


def _blocks(w, rows, columns, order):
    """A matrix with the modes (block row, row, block column, column) in another order, with a row
    for each pair of the first two."""
    x = w.reshape(rows, len(w) // rows, columns, -1).permute(order)
    return x.reshape(rows * columns, -1)


def _read_terms(function, w, rows, columns, count):
    found = returned(function, w, rows, columns, count)
    if found is None:
        return None
    if not isinstance(found, (list, tuple)) or len(found) != count:
        raise Unusable(f"a list of {count} pairs (A, B) is needed.")
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in found):
        raise Unusable("each of the terms is a pair of two matrices, A and B.")
    pairs = [tensors(pair) for pair in found]
    wanted = (rows, columns), (w.shape[0] // rows, w.shape[1] // columns)
    for pair in pairs:
        shapes = tuple(tuple(part.shape) for part in pair)
        if shapes != wanted:
            raise Unusable(f"A and B need the shapes {wanted}, these have {shapes}.")
    return _kron_sum(pairs)


rearrange = Check(
    function=True,
    cases=lambda: [
        (gaussian((6, 6))[0], 3, 3),
        (gaussian((4, 6))[0], 2, 3),
        (gaussian((6, 4))[0], 1, 2),
    ],
    right=lambda w, rows, columns: kron_rearrange(w, (rows, columns)),
    mistakes=(
        (
            lambda w, rows, columns: _plain(w, (rows, columns)),
            "this only reshapes: the entries of a block are not together in w; permute the "
            "modes first.",
        ),
        (
            lambda w, rows, columns: _blocks(w, rows, columns, (2, 0, 1, 3)),
            "the blocks are read down the columns; block (0, 1) comes second.",
        ),
        (
            lambda w, rows, columns: _blocks(w, rows, columns, (0, 2, 3, 1)),
            "within a block the entries are read down the columns; read it row by row.",
        ),
        (
            lambda w, rows, columns: _blocks(
                w, len(w) // rows, w.shape[1] // columns, (0, 2, 1, 3)
            ),
            "rows and columns are those of A: how many blocks there are, not how large they are.",
        ),
    ),
    hint="reshape to (rows, m / rows, columns, n / columns), permute, and reshape.",
    moral="Nothing but moving entries: the Frobenius norm stays, and so does every distance.",
    forbids=((kron_rearrange, "`kron_rearrange` is what you are to build."),),
)

nearest = Check(
    function=True,
    read=_read_terms,
    cases=lambda: [
        (gaussian((6, 6))[0], 2, 2, 2),
        (gaussian((6, 8))[0], 3, 2, 1),
        (gaussian((4, 9))[0], 2, 3, 3),
    ],
    right=lambda *case: _kron_sum(_terms(*case)),
    mistakes=(
        (
            lambda *case: _kron_sum(_terms(*case, weigh=lambda s: 1.0)),
            "the singular values are missing.",
        ),
        (
            lambda *case: _kron_sum(_terms(*case, weigh=lambda s: s * s)),
            "the singular values enter twice.",
        ),
        (
            lambda *case: _kron_sum(_terms(*case, arrange=_plain)),
            "the entries were not rearranged: use your `rearrange`.",
        ),
        (
            lambda w, rows, columns, count: _kron_sum(
                _terms(w, rows, columns, count, first=min(rows * columns, w.numel()) - count)
            ),
            "those are the smallest singular values; the largest are kept.",
        ),
    ),
    hint="the SVD of R(w): columns of u become the A, rows of vh the B, one of them times s.",
    moral="The best sum of so many products: the error is the tail of the singular values of R(w).",
    forbids=(
        (kron_svd, "`kron_svd` is what you are to build: use your `rearrange`."),
        (Kronecker.from_dense, "`from_dense` is what you are to build: use your `rearrange`."),
    ),
)

kron_apply = Check(
    function=True,
    cases=lambda: [
        gaussian((3, 3), (3, 3), (9,)),
        gaussian((2, 3), (4, 5), (15,)),
        gaussian((1, 4), (3, 1), (4,)),
        gaussian((30, 20), (20, 30), (600,)),
    ],
    right=lambda a, b, x: torch.kron(a, b) @ x,
    mistakes=(
        (
            lambda a, b, x: torch.kron(b, a) @ x,
            "the factors are in the wrong order: a is the outer one, x is read as n rows of q.",
        ),
        (
            lambda a, b, x: (
                (a @ x.reshape(a.shape[1], -1) @ b).reshape(-1) if len(b) == b.shape[1] else None
            ),
            "b acts transposed.",
        ),
        (
            lambda a, b, x: (a @ x.reshape(-1, a.shape[1]).T @ b.T).reshape(-1),
            "reshape reads x row by row: n rows of q numbers.",
        ),
        (
            lambda a, b, x: (a @ x.reshape(a.shape[1], -1) @ b.T).T.reshape(-1),
            "the result is read in the wrong order: row by row, without a transpose.",
        ),
    ),
    hint="read x as a matrix X of n rows and q columns; the result is a X b transposed, read row "
    "by row.",
    moral="Two small products in place of one large: this line is the whole of `Kronecker.apply` "
    "for one term.",
    largest=lambda *case: 10_000,
)

layer = Check(
    function=True,
    cases=lambda: [
        (*gaussian((6, 6), (6,)), 2, 2, 2),
        (*gaussian((6, 8), (8,)), 3, 2, 1),
    ],
    right=lambda w, x, rows, columns, count: _kron_sum(_terms(w, rows, columns, count)) @ x,
    mistakes=(
        (lambda w, x, *sizes: w @ x, "that is the dense product: w is to be replaced by its sum."),
        (
            lambda w, x, rows, columns, count: _kron_sum(_terms(w, rows, columns, 1)) @ x,
            "that is the first term only; add the products of all terms.",
        ),
        (
            lambda w, x, rows, columns, count: (
                x @ _kron_sum(_terms(w, rows, columns, count)) if len(w) == len(x) else None
            ),
            "that is the product with the transpose.",
        ),
    ),
    hint="the sum of kron_apply(a, b, x) over the pairs of nearest(w, rows, columns, terms).",
    moral="A layer of few numbers and few operations, made from a trained one without training.",
    forbids=(
        (torch.kron, "do not form the products: use your `kron_apply`."),
        (kron_svd, "`kron_svd` makes the format of the library: use your `nearest`."),
    ),
)

best_left = Check(
    right=lambda: next(
        k
        for k in (2, 4, 8, 16, 32)
        if kron_svd(example_matrix("tiled pattern"), (k, k), rtol=1e-10).ranks == (1,)
    ),
    mistakes=(
        (lambda: 1, "that is the number of terms; how large is the left factor?"),
        (lambda: 64, "that is the size of the matrix."),
    ),
    hint="only one size makes the rearranged matrix one of rank one: look at its singular values.",
    moral="The blocks must be those of the pattern: what is one term at one size is many at any "
    "other.",
)
