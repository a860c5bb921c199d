"""Lesson 24: Kronecker sums in the spectral norm."""

import functools

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ... import datasets, plots
from ...formats.kron_sum import KronSum
from ...formats.kronecker import Kronecker
from ...methods.kron_spectral import SpectralFit, kron_spectral, schatten
from ..checks import Check, gaussian
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


schatten_factor = Check(
    question="All 36 singular values of an error are equal.  How many times its spectral norm is "
    "its Schatten norm with p = 32?",
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
    rtol=1e-3,
)


def _weighted(e: Tensor, weights) -> Tensor:
    u, s, vh = torch.linalg.svd(e, full_matrices=False)
    return u * weights(s) @ vh


schatten_gradient = Check(
    question="Write `schatten_gradient(e, p)`: the gradient of the Schatten norm of a matrix e, "
    "which has e's singular vectors and weights in place of its singular values.  It should work "
    "for entries of 1e10 and p = 64 too.",
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
    rtol=1e-6,
)


def _least_power(within: float) -> int:
    """The least p, a power of two, whose spectral error is so near to that of the largest."""
    spectral = norms("Gaussian", 6)[0]
    return next(2 ** (k + 1) for k, e in enumerate(spectral) if e <= (1 + within) * spectral[-1])


enough = Check(
    question="The Gaussian matrix, 6 terms: which p, a power of two, is the first whose spectral "
    "error is within 3 % of that of p = 256?  (Move the explorer's slider.)",
    right=lambda: _least_power(0.03),
    mistakes=(
        (lambda: 2, "p = 2 is the Frobenius norm, where continuation starts."),
        (lambda: 256, "a smaller one comes that near."),
        (lambda: _least_power(0.2), "that is within 20 %."),
    ),
    hint="the right picture shows the spectral error for each p; look where it is flat.",
    moral="Most of the gain is there long before p is large: what remains is for the end game.",
)
