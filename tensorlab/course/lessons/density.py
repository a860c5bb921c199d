"""Lesson 20: densities as trains on B-splines."""

import functools
import math

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ... import plots
from ...methods.density import TTDensity
from ...papers.density import toy
from ..checks import Check, call, first_rank, gaussian
from ..widgets import Explorer, choice, decimal, integer

NAMES = ("x0", "x1", "x2", "x3")


def table(n: int = 3000) -> Tensor:
    """Four variables: the two of the moons, x2 that tells them apart with noise, and x3 = x0 x1
    with noise; standardized.

    >>> table(100).shape
    torch.Size([100, 4])
    """
    g = torch.Generator().manual_seed(0)
    x = toy("moons", n, generator=g)
    noise = torch.randn(n, 2, generator=g, dtype=torch.float64)
    upper = (x.square().sum(1).sqrt() - 1).abs() < (x - x.new_tensor([1.0, 0.5])).square().sum(
        1
    ).sqrt().sub(1).abs()
    x = torch.cat(
        [
            x,
            (upper.double() + 0.25 * noise[:, 0])[:, None],
            (x.prod(1) + 0.15 * noise[:, 1])[:, None],
        ],
        1,
    )
    return (x - x.mean(0)) / x.std(0)


@functools.cache
def model(steps: int) -> TTDensity:
    """A density of `table()`."""
    return TTDensity(rank=8, basis=20, steps=steps, noise=0.03).fit(table())


class ConditionExplorer(Explorer):
    """A density that can be asked: two variables on the axes, a third one known, the density of the
    two and fresh samples."""

    figsize = (9, 3.4)

    def __init__(self, steps: int = 6):
        self.model = model(steps)
        super().__init__(
            across=choice("x0", NAMES),
            up=choice("x1", NAMES),
            known=choice("x2", NAMES),
            value=decimal(0.8, -2.0, 2.0, step=0.05, label="value of the known"),
            samples=integer(150, 0, 1000),
            seed=integer(0, 0, 99),
        )

    def draw(
        self,
        figure: Figure,
        across: str,
        up: str,
        known: str,
        value: float,
        samples: int,
        seed: int,
    ) -> str:
        if len({across, up, known}) < 3:
            raise ValueError(
                f"across, up, known: needs three different variables, got {across}, {up}, {known}"
            )
        a, b, c = (NAMES.index(name) for name in (across, up, known))
        left, right = figure.subplots(1, 2, width_ratios=(4, 3))
        x, y, p = density_grid(self.model, a, b, {c: value})
        drawn = self.model.sample(samples, seed, given={c: value})[:, [a, b]] if samples else None
        seen = plots.density_map(left, x, y, p, drawn)
        left.set(xlabel=across, ylabel=up, title=f"given {known} = {value:g}")
        lines = {
            f"given {known}": self.model.score_samples(
                x[:, None], dims=[a], given={c: value}
            ).exp(),
            "of all": self.model.score_samples(x[:, None], dims=[a]).exp(),
        }
        means = plots.density_lines(right, x, lines)
        right.set(xlabel=across)
        return f"{seen}  {means}"


def density_grid(
    model: TTDensity, a: int, b: int, given: dict, n: int = 60
) -> tuple[Tensor, Tensor, Tensor]:
    """Grids of two variables over their support, and their density there (n, n), the first along
    the columns."""
    inner = torch.linspace(1e-6, 1 - 1e-6, n, dtype=torch.float64)
    x, y = (low + (high - low) * inner for low, high in model.support_[[a, b]])
    points = torch.cartesian_prod(y, x).flip(1)
    return x, y, model.score_samples(points, dims=(a, b), given=given).exp().reshape(n, n)


def _cases():
    g = gaussian((3, 4, 2), (4, 4), (3, 3), (2, 5, 3), (5, 5), (2, 2))
    return [(g[0], g[1] @ g[1].T, g[2] @ g[2].T), (g[3], g[4] @ g[4].T, g[5] @ g[5].T)]


def _step(core, gram, state):
    return torch.einsum("aib,ij,ac,cjd->bd", core, gram, state, core)


def _root_rank(bound, n=200, correlation=0.9):
    """The smallest rank of a truncated SVD of q = sqrt(p) within a relative error, for p a Gaussian
    in the plane."""
    x = torch.linspace(-7, 7, n, dtype=torch.float64)
    p = (
        -(x[:, None].square() + x.square() - 2 * correlation * x[:, None] * x)
        / (2 * (1 - correlation**2))
    ).exp()
    s = torch.linalg.svdvals(p.sqrt())
    tail = s.square().flip(0).cumsum(0).flip(0).sqrt() / s.norm()
    return first_rank(tail[1:].tolist(), bound)


products = Check(
    question="Six variables, 32 B-splines of degree 2 for each.  Of the 32^6 products b_i(x_0) ... "
    "b_n(x_5), how many are not zero "
    "at a point x inside?",
    cases=lambda: [(6, 2, 32)],
    right=lambda d, degree, m: (degree + 1) ** d,
    mistakes=(
        (
            lambda d, degree, m: degree**d,
            "a spline of degree q reaches over one interval more than its degree.",
        ),
        (
            lambda d, degree, m: (degree + 1) * d,
            "those are the functions; each of one variable meets each of the others.",
        ),
        (
            lambda d, degree, m: m**d,
            "those are all products; most splines are zero at a given number.",
        ),
        (lambda d, degree, m: m * d, "those are the functions stored for all variables."),
    ),
    hint="count the splines of one variable that are not zero at one number, then the ways to "
    "choose one for each variable.",
    moral="The train sums them in 6 products of small matrices, each from 3 of its 32 slices.",
)

gram_step = Check(
    question="Write `gram_step(core, gram, state)`, one step of the integral of q^2: sum over i, j "
    "of D_ij G[i]ᵀ S G[j].  "
    "core: (r, m, q), G[i] = core[:, i]; gram: D (m, m); state: S (r, r); the result is (q, q).",
    function=True,
    read=lambda answer, *case: call(answer, *case),
    cases=_cases,
    right=_step,
    mistakes=(
        (
            lambda core, gram, state: _step(core, torch.diag(gram.diagonal()), state),
            "only i = j is summed; neighboring splines overlap, so D is a band.",
        ),
        (
            lambda core, gram, state: torch.einsum(
                "aib,i,ac,cjd,j->bd", core, gram.sum(1), state, core, gram.sum(1)
            ),
            "that is the square of an integral, not the integral of a square.",
        ),
        (
            lambda core, gram, state: torch.einsum("aib,ij,ajd->bd", core, gram, core),
            "the state S of the variables before is left out.",
        ),
        (
            lambda core, gram, state: _step(core, torch.eye(len(gram)).to(gram), state),
            "the splines are not orthonormal; their integrals D_ij belong in the sum.",
        ),
    ),
    hint="`torch.einsum` with four factors does it: core, gram, state, core; which letters are "
    "summed, and which stay?",
    moral="d such steps give the normalization of m^d functions exactly: no sampling and no bound.",
)

root_rank = Check(
    question="p is a Gaussian in the plane with correlation 0.9, q its square root.  How large "
    "must the rank between the two "
    "variables be for a relative error of q of 1% (Frobenius norm, on a fine grid)?  Compute it "
    "with an SVD.",
    right=lambda: _root_rank(0.01),
    mistakes=(
        (lambda: _root_rank(0.1), "that is enough for 10%."),
        (lambda: _root_rank(0.001), "that is as much as 0.1% takes."),
        (lambda: 2, "the exponent x0 x1 has a small rank; its exponential has not."),
        (lambda: math.inf, "the singular values fall geometrically, so finitely many are enough."),
    ),
    hint="fill a 200 by 200 grid on [-7, 7]^2 with q, take its singular values, and look how many "
    "leave a tail of 1% of the norm.",
    moral="The singular values fall like powers of (1 - sqrt(1 - c^2)) / c: correlation costs "
    "rank.",
)
