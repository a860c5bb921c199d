"""Lesson 02: CP, its swamps and degenerate pairs."""

import functools
import math

import torch
from matplotlib.figure import Figure

from ... import multilinear, plots
from ...formats.cp import CP, cp_als_steps
from ..checks import Check, gaussian
from ..widgets import Player, choice, integer


@functools.cache
def als_problem(name: str) -> tuple[torch.Tensor, CP]:
    """A tensor of rank 2 or 3 and where to start from."""
    g = torch.Generator().manual_seed(1)
    if (
        name == "degenerate pair"
    ):  # rank 3, but as near as one likes to tensors of rank 2 [DeSilvaLim2008]
        a, b = torch.eye(2, dtype=torch.float64)
        x = sum(torch.einsum("i,j,k->ijk", *v) for v in ((a, a, b), (a, b, a), (b, a, a)))
        return x, CP.randn((2, 2, 2), 2, generator=g, dtype=torch.float64)
    factors = CP.randn((10, 10, 10), 3, generator=g, dtype=torch.float64).factors
    if name == "swamp":  # nearly collinear columns in every mode
        factors = tuple(f[:, :1] + 0.25 * f for f in factors)
    x = CP(torch.ones(3, dtype=torch.float64), factors).to_dense()
    return x, CP.randn(x.shape, 3, generator=g, dtype=torch.float64)


class AlsExplorer(Player):
    """Alternating least squares sweep by sweep, with the swamp and the degenerate pair in sight."""

    figsize = (9, 3.0)
    names = ("easy", "swamp", "degenerate pair")

    def __init__(self, problem: str = "easy"):
        super().__init__(
            problem=choice(problem, self.names), stride=integer(5, 1, 100, label="sweeps at a time")
        )

    def steps(self, problem: str, stride: int):
        """States: errors, smallest cosines and largest weights after each sweep so far."""
        x, start = als_problem(problem)
        errors, cosines, weights = [], [], []
        for k, (cp, error) in enumerate(cp_als_steps(x, start.ranks[0], init=start)):
            cp = cp.normalized()
            products = math.prod(f.T @ f for f in cp.factors)
            errors.append(error)
            cosines.append(float(products.min()))  # the diagonal is 1
            weights.append(float(cp.weights.max() / x.norm()))
            if k % stride == 0:
                yield errors, cosines, weights
            if k >= 2000 or error < 1e-13:
                return

    def draw(self, figure: Figure, state, problem: str, stride: int) -> str:
        errors, cosines, weights = state
        left, right = figure.subplots(1, 2)
        plots.convergence(left, {problem: errors})
        seen = plots.terms(right, cosines, weights)
        pace = errors[-2] / errors[-1] if len(errors) > 1 and errors[-1] else math.inf
        slow = (
            " ALS crawls: a swamp."
            if 1 < pace < 1.01 and errors[-1] > 1e-8 and len(errors) > 20
            else ""
        )
        pair = " Two terms grow and cancel: a degenerate pair." if cosines[-1] < -0.9 else ""
        return (
            f"After {len(errors)} sweeps the relative error is {errors[-1]:.2e}. {seen}{slow}{pair}"
        )


def _columns(a, b, order):
    return torch.einsum(order, a, b).reshape(-1, a.shape[1])


def _w_cosine(n):
    """Between n (a + b/n)⊗3 and -n a⊗3, whose sum tends to W: the product of three cosines, with a
    minus sign."""
    return -((1 / math.sqrt(1 + n**-2)) ** 3)


cp_storage = Check(
    question="A tensor of shape (10, 20, 30) has CP rank 5.  How many numbers do its factors hold?",
    cases=lambda: [((10, 20, 30), 5)],
    right=lambda shape, r: sum(n * r for n in shape),
    mistakes=(
        (lambda shape, r: math.prod(shape), "those are the entries of the full tensor."),
        (
            lambda shape, r: sum(shape),
            "those are the vectors of one term; how many terms are there?",
        ),
        (
            lambda shape, r: math.prod(shape) * r,
            "the terms are stored as vectors, not as full tensors.",
        ),
        (
            lambda shape, r: sum(shape) * r + r**3,
            "CP has no core with all combinations of terms; that is Tucker.",
        ),
        (
            lambda shape, r: sum(shape) * r + r,
            "the weights can go into a factor; count the factors alone.",
        ),
    ),
    hint="there is one factor for each mode, with a row for each index and a column for each term.",
    moral="Nothing is multiplied but by the rank: the count grows with the sum of the sizes.",
)

khatri_rao = Check(
    question="Write `khatri_rao(a, b)` for a of shape (m, r) and b of shape (n, r): column k of "
    "the result, of shape "
    "(m n, r), is the Kronecker product of column k of a and column k of b.",
    function=True,
    cases=lambda: [gaussian((3, 3), (3, 3)), gaussian((4, 2), (3, 2))],
    right=multilinear.khatri_rao,
    mistakes=(
        (
            torch.kron,
            "this is the full Kronecker product; pair each column with its own partner only.",
        ),
        (
            lambda a, b: _columns(a, b, "ir,jr->jir"),
            "the index of the second factor should run fastest.",
        ),
        (
            lambda a, b: _columns(a, b, "ir,jr->rij"),
            "the entries are the right ones, the columns are not: the mode of the columns should "
            "stay last.",
        ),
        (
            lambda a, b: a * b if a.shape == b.shape else None,
            "this multiplies entry by entry; the rows should all be paired.",
        ),
        (
            lambda a, b: (a[:, :, None] * b[:, None, :]).flatten(1) if len(a) == len(b) else None,
            "this pairs the columns and keeps the rows; it should be the other way round.",
        ),
    ),
    hint="(a[:, None, :] * b[None, :, :]) has the entries; which shape is wanted?",
    moral="With it an unfolding of a CP tensor is one factor times the Khatri-Rao product of the "
    "others.",
)

degenerate_cosine = Check(
    question="The tensor W = a⊗a⊗b + a⊗b⊗a + b⊗a⊗a, with a, b orthonormal, has CP rank 3.  Fit it "
    "with rank 2 "
    '(`cp_als`, init="random", tol=0.0) and watch the two terms as the error falls.  Toward which '
    "number does the cosine "
    "between them go?",
    right=lambda: _w_cosine(1e6),
    mistakes=(
        (
            lambda: 1.0,
            "they do become parallel; but if both pointed the same way, could they cancel?",
        ),
        (
            lambda: 0.0,
            "they are not orthogonal: start at random, and divide the inner product of the terms "
            "by their norms.",
        ),
    ),
    hint="print the cosine after 10, 100 and 1000 sweeps: the product of the cosines of the three "
    "pairs of columns, with the "
    "signs of the weights.",
    moral="Two terms grow without bound and cancel: a best approximation of rank 2 does not exist "
    "(de Silva and Lim, 2008).",
    rtol=0.05,
)
