"""The explorers of the lessons: numbers from `tensorlab`, pictures from `plots`, controls from `widgets`."""

import functools
import math

import torch
from matplotlib.figure import Figure

from .. import plots
from ..datasets import photo
from ..formats.cp import CP, cp_als, cp_als_steps
from ..formats.lowrank import LowRank
from ..formats.tt import tt_svd
from ..formats.tucker import st_hosvd
from .widgets import Explorer, Player, choice, integer

FORMATS = ("SVD", "CP", "Tucker", "TT")


@functools.cache
def small_photo(name: str) -> torch.Tensor:
    """Every fourth point of a photograph, (107, 160, 3): small enough to be compressed while one looks."""
    return photo(name)[::4, ::4].contiguous()


@functools.cache
def compressed(name: str, kind: str, rank: int):
    """A photograph in a format, and its relative error.

    SVD: of the colours side by side, (rows, columns x colours).  CP: 6 sweeps.  Tucker: ranks (r, r, 3).  TT: of the
    axes rows, colours, columns, ranks (r, r).
    """
    x = small_photo(name)
    h, w, c = x.shape
    if kind == "SVD":
        fmt = LowRank.from_dense(x.movedim(2, 1).reshape(h, c * w), rank)
        y = fmt.to_dense().reshape(h, c, w).movedim(1, 2)
    elif kind == "CP":
        fmt = cp_als(x, rank, max_iter=6, tol=1e-5, generator=torch.Generator().manual_seed(0)).value
        y = fmt.to_dense()
    elif kind == "Tucker":
        fmt = st_hosvd(x, (rank, rank, 3))
        y = fmt.to_dense()
    else:
        fmt = tt_svd(x.movedim(2, 1).contiguous(), rank)
        y = fmt.to_dense().movedim(1, 2)
    return fmt, y, float((y - x).norm() / x.norm())


class PhotoExplorer(Explorer):
    """Compress a colour photograph by SVD, CP, Tucker or a train, and see stored numbers beside the error."""

    figsize = (9, 2.9)
    ladder = (2, 5, 12, 28)  # ranks of the curves

    def __init__(self, rank: int = 12):
        super().__init__(
            rank=integer(rank, 1, 48), format=choice("SVD", FORMATS), photograph=choice("flower", ("flower", "china"))
        )

    def draw(self, figure: Figure, rank: int, format: str, photograph: str) -> str:
        x = small_photo(photograph)
        fmt, y, error = compressed(photograph, format, rank)
        axes = figure.subplots(1, 3, width_ratios=(1, 1, 1))
        plots.image(axes[0], x, f"original, {x.numel()} numbers")
        plots.image(axes[1], y, f"{format}, rank {rank}, {fmt.numel} numbers")
        curves = {}
        for kind in FORMATS:
            points = [compressed(photograph, kind, r) for r in self.ladder]
            curves[kind] = [(f.numel, e) for f, _, e in points]
        plots.error_against_storage(axes[2], curves, (fmt.numel, error))
        svd = min(self._svd_points(photograph), key=lambda p: abs(p[0] - fmt.numel))
        said = f"{format} of rank {rank} stores {fmt.numel} of {x.numel()} numbers at a relative error of {error:.3f}"
        if format == "SVD":
            return said + "."
        verdict = "worse than" if error > svd[1] else "no worse than"
        return f"{said}, {verdict} the SVD with {svd[0]} numbers, {svd[1]:.3f}."

    def _svd_points(self, photograph):
        return [(f.numel, e) for f, _, e in (compressed(photograph, "SVD", r) for r in range(1, 49, 2))]


def functions(name: str, d: int, n: int) -> torch.Tensor:
    """A function of d variables on n points each, as a tensor.

    >>> functions("sine of the sum", 3, 4).shape
    torch.Size([4, 4, 4])
    """
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) / n] * d, indexing="ij")
    total = sum(axes)
    if name == "1 / (1 + sum)":
        return 1 / (1 + total)
    if name == "sine of the sum":
        return total.sin()
    if name == "|first - last|":
        return (axes[0] - axes[-1]).abs()
    if name == "random":
        return torch.randn(total.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    raise ValueError(f"functions: needs a known name, got {name}")


class TrainExplorer(Explorer):
    """Anatomy of a train: cores to scale, ranks, the singular values of each unfolding, and what `rtol` does to them."""

    figsize = (9, 3.2)
    names = ("1 / (1 + sum)", "sine of the sum", "|first - last|", "random")

    def __init__(self, digits: int = 6):
        super().__init__(
            digits=integer(digits, 0, 14, label="rtol = 10^-digits"), modes=integer(4, 2, 6), size=integer(6, 2, 8),
            function=choice(self.names[0], self.names),
        )  # fmt: skip

    def draw(self, figure: Figure, digits: int, modes: int, size: int, function: str) -> str:
        if size**modes > 60_000:
            raise ValueError(f"modes and size: needs at most 60000 entries, got {size}^{modes} = {size**modes}")
        x, rtol = functions(function, modes, size), 10.0**-digits
        tt = tt_svd(x, rtol=rtol)
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        seen = plots.train(left, tt)
        plots.singular_values(right, plots.unfolding_spectra(x), rtol / math.sqrt(modes - 1))
        error = float((tt.to_dense() - x).norm() / x.norm())
        return f"{seen[:-1]}; asked for a relative error of {rtol:.0e}, it has {error:.1e}."


@functools.cache
def als_problem(name: str) -> tuple[torch.Tensor, CP]:
    """A tensor of rank 2 or 3 and where to start from."""
    g = torch.Generator().manual_seed(1)
    if name == "degenerate pair":  # rank 3, but as near as one likes to tensors of rank 2 [DeSilvaLim2008]
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
        super().__init__(problem=choice(problem, self.names), stride=integer(5, 1, 100, label="sweeps at a time"))

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
        slow = " ALS crawls: a swamp." if 1 < pace < 1.01 and errors[-1] > 1e-8 and len(errors) > 20 else ""
        pair = " Two terms grow and cancel: a degenerate pair." if cosines[-1] < -0.9 else ""
        return f"After {len(errors)} sweeps the relative error is {errors[-1]:.2e}. {seen}{slow}{pair}"
