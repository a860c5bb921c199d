"""Lesson 24: Kronecker sums in the spectral norm."""

import functools

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ... import datasets, plots
from ...formats.kron_sum import KronSum
from ...formats.kronecker import Kronecker, kron_rearrange, kron_svd
from ...formats.lowrank import LowRank
from ...methods.kron_spectral import SpectralFit, kron_spectral, schatten
from ...papers import table
from ..checks import Check, gaussian
from ..digits import fit_curves, network
from ..widgets import Explorer, choice, integer

NAMES = ("Gaussian", "signs", "gray flower")
LEFT, MOST = (6, 6), 8  # left factors, and the largest exponent as a power of two


def example_matrix(name: str) -> Tensor:
    """A matrix of 36 rows and columns: drawn from a seed, or of a photograph, its mean taken out.

    >>> example_matrix("signs").unique().tolist()
    [-1.0, 1.0]
    """
    draw = torch.randn(36, 36, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if name == "Gaussian":
        return draw
    if name == "signs":
        return draw.sign()
    if name not in NAMES:
        raise ValueError(f"example_matrix: needs one of {', '.join(NAMES)}, got {name}")
    whole = datasets.photo("flower").mean(2)[100:244, 200:344].double()
    small = whole.reshape(36, 4, 36, 4).mean((1, 3))
    return small - small.mean()


@functools.cache
def fitted(name: str, terms: int, power: int) -> SpectralFit:
    """The sum that continuation up to p = 2^power finds; p = 2 is the Frobenius norm."""
    return kron_spectral(example_matrix(name), LEFT, terms, p_max=2.0**power)


def error(name: str, terms: int, power: int) -> Tensor:
    """w less the sum."""
    return example_matrix(name) - fitted(name, terms, power).value.to_dense()


def norms(name: str, terms: int) -> tuple[list[float], list[float]]:
    """Spectral and Frobenius errors of p = 2, 4, 8, ..., relative."""
    w, found = example_matrix(name), [error(name, terms, k) for k in range(1, MOST + 1)]
    relative = lambda p: [
        float(torch.linalg.matrix_norm(e, p) / torch.linalg.matrix_norm(w, p)) for e in found
    ]
    return relative(2), relative("fro")


class ContinuationExplorer(Explorer):
    """The singular values of the error flatten as p grows, and the error in both norms."""

    figsize = (9, 3.4)

    def __init__(self):
        super().__init__(
            matrix=choice("Gaussian", NAMES),
            terms=integer(6, 1, 12),
            power=integer(MOST, 1, MOST, label="p = 2^"),
        )

    def draw(self, figure: Figure, matrix: str, terms: int, power: int) -> str:
        left, right = figure.subplots(1, 2)
        values = [torch.linalg.svdvals(error(matrix, terms, k)) for k in (1, power)]
        names = ("p = 2", f"p = {2**power}, here")
        for k, (name, s) in enumerate(zip(names, values)):
            left.plot(range(1, len(s) + 1), s.numpy(), label=name, **plots.style(k))
        left.set(xlabel="number", ylabel="singular value of the error", ylim=0)
        left.legend()
        spectral, frobenius = norms(matrix, terms)
        powers = [2**k for k in range(1, MOST + 1)]
        for k, (name, y) in enumerate((("spectral", spectral), ("Frobenius", frobenius))):
            right.plot(powers, y, label=name, **plots.style(k))
        right.axvline(2**power, color="0.4", ls=":")
        right.set(xscale="log", xlabel="p", ylabel="relative error", ylim=0)
        right.legend()
        fall = 100 * (1 - spectral[power - 1] / spectral[0])
        rise = 100 * (frobenius[power - 1] / frobenius[0] - 1)
        return (
            f"{matrix}, {terms} terms, p = {2**power}: the spectral error is {fall:.1f} % below "
            f"that of p = 2, the Frobenius error {rise:.1f} % above."
        )


def worst_input(e: Tensor) -> Tensor:
    """The input of length one whose output differs most: the first right singular vector.

    >>> worst_input(torch.diag(torch.tensor([1.0, 3.0]))).abs()
    tensor([0., 1.])
    """
    return torch.linalg.svd(e)[2][0].conj()


def draw_worst(figure: Figure, name: str = "Gaussian", terms: int = 6) -> str:
    """How far outputs go from those of w at the worst input of each sum; a sentence."""
    said = []
    for k, (ax, power) in enumerate(zip(figure.subplots(1, 2, sharey=True), (1, MOST))):
        e = error(name, terms, power)
        difference = e @ worst_input(e)
        ax.bar(
            range(len(difference)), difference.sort().values.numpy(), color=plots.style(k)["color"]
        )
        ax.set(xlabel="output, sorted", title=f"p = {2**power}")
        said.append(float(difference.norm()))
    figure.axes[0].set(ylabel="difference of the output")
    return (
        f"Inputs of length one change outputs by at most {said[0]:.2f} where the Frobenius norm "
        f"was made small, and by at most {said[1]:.2f} where the spectral norm was."
    )


def draw_shapes(figure: Figure, value: KronSum) -> str:
    """The parts of a hybrid sum, each in its own blocks; a sentence."""
    axes = figure.subplots(1, len(value.parts) + 1, squeeze=False)[0]
    plots.image(axes[0], value.to_dense(), "the sum")
    for ax, part in zip(axes[1:], value.parts):
        title = f"{part.ranks[0]} x ({_shape(part, 0)} ⊗ {_shape(part, 1)})"
        plots.blocks(ax, part.to_dense(), (part.out[0], part.in_[0]), title)
    listed = ", ".join(
        f"{part.ranks[0]} of {_shape(part, 0)} by {_shape(part, 1)}" for part in value.parts
    )
    return f"The greedy choice: {listed}; {value.numel} numbers."


def _shape(part: Kronecker, k: int) -> str:
    return f"{part.out[k]}x{part.in_[k]}"


# -------------------------------------------------------------------------------- rivals, as curves


def spectral_error(w: Tensor, m) -> float:
    """|w - m|_2 / |w|_2 of a format m.

    >>> spectral_error(torch.eye(2), LowRank.from_dense(torch.zeros(2, 2), 1))
    1.0
    """
    norm = lambda x: float(torch.linalg.matrix_norm(x, 2))
    return norm(w - m.to_dense()) / norm(w)


@functools.cache
def curves(name: str, terms: tuple[int, ...]) -> dict[str, list[tuple[int, float]]]:
    """(numbers stored, relative spectral error) of the SVD and of both sums, and the two bounds.

    name: of an `example_matrix`, whose left factors are 6 by 6; a term of each stores 72 numbers.
    """
    w, found = example_matrix(name), {}
    top = float(torch.linalg.matrix_norm(w, 2))
    for k in terms:
        svd, sum_, fit = LowRank.from_dense(w, k), kron_svd(w, LEFT, k), fitted(name, k, MOST)
        for rival, m in zip(("SVD", "Kronecker, Frobenius"), (svd, sum_)):
            found.setdefault(rival, []).append((m.numel, spectral_error(w, m)))
        ends = (fit.error, fit.certificate, fit.bound)
        for rival, error in zip(("Kronecker, spectral", "certificate", "bound for all"), ends):
            found.setdefault(rival, []).append((fit.value.numel, error / top))
    return found


def draw_curves(ax, name: str, terms: tuple[int, ...]) -> str:
    """Spectral errors against numbers stored, the zero matrix as a line; a sentence."""
    found = curves(name, terms)
    for k, (rival, points) in enumerate(found.items()):
        ax.plot(*zip(*points), label=rival, **plots.style(k))
    ax.axhline(1, color="0.4", lw=1)
    where = dict(xycoords=("axes fraction", "data"), textcoords="offset points")
    ax.annotate("the zero matrix", (1, 1), (-4, -12), ha="right", **where)
    ax.set(xlabel="stored numbers", ylabel="relative spectral error", ylim=(0, 1.05))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    said = (f"{rival} {points[-1][1]:.2f}" for rival, points in found.items())
    return f"With {max(terms)} terms: {', '.join(said)}; the zero matrix has 1."


@functools.cache
def layer_curves() -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Spectral error and accuracy against stored numbers for the layer of `digits.network`, as an
    SVD and as Kronecker sums that are near in either norm; the dense layer's accuracy."""
    weight, _ = network()
    makes = {
        "SVD": lambda k: LowRank.from_dense(weight, k),
        "Kronecker, Frobenius": lambda k: kron_svd(weight, (8, 8), k),
        "Kronecker, spectral": lambda k: kron_spectral(weight, (8, 8), k).value,
    }
    fits = {name: [make(k) for k in (2, 4, 8, 12, 16)] for name, make in makes.items()}
    return fit_curves(fits, spectral_error)


def draw_inputs(figure: Figure, errors: dict[str, float]) -> str:
    """Largest errors of outputs over data, one bar for each way; a sentence."""
    ax = figure.subplots()
    bars = ax.barh(list(errors), list(errors.values()), color=plots.style(0)["color"])
    ax.bar_label(bars, fmt="%.2f", padding=3)
    ax.set(xlabel="largest error of outputs over the data", xmargin=0.1)
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    return f"Largest errors: {', '.join(f'{name} {e:.2f}' for name, e in errors.items())}."


def encoder_rows() -> list[dict]:
    """What `tensorlab run KroneckerModels` measured for the encoder, the dense one first."""
    rows = table.measured("KroneckerModels").rows
    return [row for row in rows if row["model"] == rows[0]["model"]]


def draw_measured(figure: Figure) -> str:
    """What `tensorlab run KroneckerSpectral` and `KroneckerModels` measured; a sentence."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    rows = [row for row in table.measured("KroneckerSpectral").rows if row["number"] == 10]
    for k, name in enumerate(dict.fromkeys(row["matrices"] for row in rows)):
        of = [row for row in rows if row["matrices"] == name]
        x = [row["terms"] + 0.25 * (k - 2) for row in of]
        bars = [row["deviation"] for row in of]
        left.errorbar(
            x, [row["ratio"] for row in of], bars, label=name, capsize=2, **plots.style(k)
        )
    means = [
        sum(row["Frobenius"] for row in rows if row["terms"] == terms) / 5
        for terms in (3, 6, 9, 12)
    ]
    left.plot((3, 6, 9, 12), means, "k--", lw=1.2, label="Frobenius sums, mean")
    left.axhline(1, color="0.4", lw=1)
    left.set(xlabel="terms", ylabel="SVD's spectral error / the sum's", xticks=(3, 6, 9, 12))
    left.legend(fontsize=8.5, loc="upper left")
    left.set(ylim=(None, 2.1))
    dense, *models = encoder_rows()
    right.axvline(dense["score"], color="0.4", ls=":", lw=1)
    right.annotate("dense", (dense["score"], 0.5), (3, 0), textcoords="offset points")
    models = [row for row in models if row["method"] != "hybrid"]  # what it found is the SVD
    right.plot([row["score"] for row in models], [row["method"] for row in models], "o", ms=8)
    right.invert_yaxis()
    right.set(xlabel="score of the encoder", xlim=(79, 89))
    scores = ", ".join(f"{row['method']} {row['score']:.1f}" for row in models)
    least, most = min(row["ratio"] for row in rows), max(row["ratio"] for row in rows)
    return (
        f"Random matrices: the SVD's error is {least:.2f} to {most:.2f} times that of the spectral "
        f"sum. Scores of a sentence encoder, {dense['score']:.1f} before, with "
        f"{models[0]['numbers']:,} numbers in its value matrices: {scores}."
    )


# ---------------------------------------------------------------------------------------- exercises


schatten_factor = Check(
    cases=lambda: [(36, 32)],
    right=lambda n, p: n ** (1 / p),
    mistakes=(
        (lambda n, p: n**0.5, "that is the Frobenius norm, p = 2."),
        (lambda n, p: n / p, "the p-th root of a sum of 36 equal p-th powers is taken."),
        (lambda n, p: n, "that is the sum of the p-th powers; its p-th root is missing."),
        (lambda n, p: 1, "that is the limit of large p."),
    ),
    hint="(n σ^p)^(1/p) is n^(1/p) σ.",
    moral="The Schatten norm is at most n^(1/p) times the spectral one: p = 128 is within 3 %.",
)


def _weighted(e: Tensor, weights) -> Tensor:
    u, s, vh = torch.linalg.svd(e, full_matrices=False)
    return u * weights(s) @ vh


schatten_gradient = Check(
    function=True,
    cases=lambda: [
        (gaussian((4, 4))[0], 4),
        (gaussian((5, 3))[0], 8),
        (gaussian((4, 6))[0] * 1e10, 64),
    ],
    right=lambda e, p: schatten(e, p)[1],
    mistakes=(
        (
            lambda e, p: e / torch.linalg.vector_norm(e),
            "that is the gradient of the Frobenius norm: p = 2.",
        ),
        (
            lambda e, p: _weighted(e, lambda s: (s / s[0]) ** (p - 1)),
            "the weights are right up to a number: divide by the sum of (σ/σ1)^p to the (p-1)/p.",
        ),
        (
            lambda e, p: _weighted(e, lambda s: torch.ones_like(s)),
            "all singular vectors have the weight 1 now: that is the gradient of the sum of "
            "singular values, p = 1.",
        ),
        (
            lambda e, p: _weighted(
                e, lambda s: (s / s[0]) ** p / ((s / s[0]) ** p).sum() ** ((p - 1) / p)
            ),
            "the weights are powers of p - 1: one σ is lost to the derivative.",
        ),
    ),
    hint="with ρ = σ/σ1 the weights are ρ^(p-1) / (sum ρ^p)^((p-1)/p): dividing by σ1 first keeps "
    "them finite.",
    moral="The largest singular values get nearly all the weight: the step pushes down what stands "
    "highest.",
    forbids=((schatten, "write it from torch.linalg.svd: `schatten` is where this goes."),),
)


def _rearranged(w, m, n):
    rows, columns = w.shape[0] // m, w.shape[1] // n
    return w.reshape(m, rows, n, columns).transpose(1, 2).reshape(m * n, rows * columns)


rearrange = Check(
    function=True,
    cases=lambda: [
        (gaussian((6, 12))[0], 2, 3),
        (gaussian((4, 4))[0], 2, 2),
        (gaussian((5, 3))[0], 1, 3),
    ],
    right=_rearranged,
    mistakes=(
        (
            lambda w, m, n: w.reshape(m * n, -1),
            "that only reads w row by row: a block has a few entries of each of several rows.",
        ),
        (
            lambda w, m, n: (
                w.reshape(m, w.shape[0] // m, n, w.shape[1] // n)
                .permute(2, 0, 1, 3)
                .reshape(m * n, -1)
            ),
            "the blocks are taken column after column: take them row after row, as the entries of "
            "the left factor.",
        ),
        (
            lambda w, m, n: _rearranged(w, w.shape[0] // m, w.shape[1] // n),
            "m and n are the sizes of the left factor, which says how many blocks there are, not "
            "how large they are.",
        ),
        (
            lambda w, m, n: (
                w.reshape(m, w.shape[0] // m, n, w.shape[1] // n)
                .permute(0, 2, 3, 1)
                .reshape(m * n, -1)
            ),
            "each block is transposed: read it row by row.",
        ),
    ),
    hint="split both modes, w.reshape(m, rows, n, columns); a row of R(w) has m and n fixed.",
    moral="R of a product A ⊗ B is the outer product of their entries: rank one.",
    forbids=((kron_rearrange, "write it with reshape and transpose."),),
)


def _projected(z, u, v):
    a = z @ v @ v.T
    return u @ (u.T @ z) + a - u @ (u.T @ a)


def _bases(rows, columns, rank):
    return (torch.linalg.qr(g)[0] for g in gaussian((rows, rank), (columns, rank)))


tangent_part = Check(
    function=True,
    cases=lambda: [
        (gaussian((5, 4))[0], *_bases(5, 4, 2)),
        (gaussian((6, 7))[0], *_bases(6, 7, 1)),
    ],
    right=_projected,
    mistakes=(
        (
            lambda z, u, v: u @ u.T @ z @ v @ v.T,
            "that keeps only what lies in both spaces: a tangent may leave one of them.",
        ),
        (
            lambda z, u, v: u @ u.T @ z + z @ v @ v.T,
            "what lies in both spaces is counted twice: take u uᵀ z v vᵀ off once.",
        ),
        (
            lambda z, u, v: z - _projected(z, u, v),
            "that is the part orthogonal to the tangents: the certificate needs it, a step does "
            "not.",
        ),
        (lambda z, u, v: u @ u.T @ z, "only the columns are projected: the rows may move as well."),
    ),
    hint="u uᵀ z + z v vᵀ - u uᵀ z v vᵀ.",
    moral="All matrices u aᵀ + b vᵀ: moves of the left factors, and of the right ones.",
)


def _step(w, x, p, t, rank, project=_projected, cut=True, sign=1.0, power=None):
    s = round(w.shape[0] ** 0.5)
    gradient = _rearranged(schatten(w - _rearranged(x, s, s), power or p)[1], s, s)
    u, _, vh = torch.linalg.svd(x)
    moved = x + sign * t * project(gradient, u[:, :rank], vh[:rank].T)
    u, sigma, vh = torch.linalg.svd(moved)
    return u[:, :rank] * sigma[:rank] @ vh[:rank] if cut else moved


def _start(size, rank):
    w, a, b = gaussian((size**2, size**2), (size**2, rank), (rank, size**2))
    return w, a @ b


spectral_step = Check(
    function=True,
    cases=lambda: [(*_start(3, 2), 8, 0.7, 2), (*_start(2, 1), 4, 0.1, 1)],
    right=_step,
    mistakes=(
        (
            lambda *case: _step(*case, sign=-1.0),
            "the error is w less the sum: it falls where the sum goes along the gradient.",
        ),
        (
            lambda *case: _step(*case, cut=False),
            "the rank has doubled: cut back to `rank` terms.",
        ),
        (
            lambda *case: _step(*case, project=lambda z, u, v: z),
            "take the tangent part of the gradient before you move.",
        ),
        (lambda *case: _step(*case, power=2), "that is the step for p = 2."),
    ),
    hint="e = w - R(x), its gradient g, then the best rank of x + t tangent(R(g)); with square "
    "factors R is its own inverse.",
    moral="Repeat it with a growing p, and you have continuation; `kron_spectral` adds L-BFGS and "
    "a certificate.",
    forbids=((kron_spectral, "build it from your three functions."),),
)


def _least_power(within: float) -> int:
    """The least p, a power of two, whose spectral error is so near to that of the largest."""
    spectral = norms("Gaussian", 6)[0]
    return next(2 ** (k + 1) for k, e in enumerate(spectral) if e <= (1 + within) * spectral[-1])


enough = Check(
    right=lambda: _least_power(0.03),
    mistakes=(
        (lambda: 2, "p = 2 is the Frobenius norm, where continuation starts."),
        (lambda: 256, "a smaller one comes that near."),
        (lambda: _least_power(0.2), "that is within 20 %."),
    ),
    hint="the right picture shows the spectral error for each p; look where it is flat.",
    moral="Most of the gain is there long before p is large: what remains is for the end game.",
)
