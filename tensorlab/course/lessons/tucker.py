"""Lesson 03: Tucker."""

import functools
import math

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ... import datasets, multilinear, plots
from ...formats.lowrank import LowRank
from ...formats.tucker import Tucker, hooi, hosvd, st_hosvd
from ..checks import Check, Unusable, call, first_rank, gaussian, returned, tensors
from ..digits import fit_curves, network
from ..widgets import Player, integer


@functools.cache
def corner_errors() -> list[float]:
    """The relative error that each size of the corner leaves on the photograph: the norm of what is
    cut off the full core.

    >>> len(corner_errors())
    427
    """
    energy = photo_core()[2].square().sum(-1)
    kept = energy.cumsum(0).cumsum(1).diagonal() / energy.sum()
    return (1 - kept).clamp_min(0).sqrt().tolist()


@functools.cache
def photo_core():
    """The whole HOSVD of the photograph: bases of rows and columns, and the core (427, 640, 3)."""
    x = datasets.photo("flower")
    u, v = (
        torch.linalg.eigh(a @ a.T)[1].flip(1)
        for a in (multilinear.unfold(x, 0), multilinear.unfold(x, 1))
    )
    return u, v, torch.einsum("ijc,ip,jq->pqc", x, u, v)


class CornerPlayer(Player):
    """The corner of the core lights up, entry by entry, and the photograph appears."""

    figsize = (10, 2.9)
    interval = 0.2
    shown = 60  # rows and columns of the core in the picture

    def __init__(self, rank: int = 6):
        super().__init__(rank=integer(rank, 1, 427, label="size of the corner"))

    def steps(self, rank: int):
        yield from range(rank, 428)

    def draw(self, figure: Figure, state: int, rank: int) -> str:
        u, v, g = photo_core()
        r, errors = state, corner_errors()
        left, middle, right = figure.subplots(1, 3)
        n = max(self.shown, min(427, r + 20))
        light = g[:n, :n].square().sum(-1).sqrt().clamp_min(1e-3).log10()
        left.grid(False)
        left.imshow(light, cmap="cividis", vmin=-2, vmax=1.5, alpha=0.35)
        inside = torch.full_like(light, math.nan)
        inside[:r, :r] = light[:r, :r]
        left.imshow(inside, cmap="cividis", vmin=-2, vmax=1.5)
        left.add_patch(Rectangle((-0.5, -0.5), r, r, fc="none", ec=plots.COLORS[1], lw=2))
        left.set(title="entries of the core (log)", xlabel="column basis", ylabel="row basis")
        y = torch.einsum("pqc,ip,jq->ijc", g[:r, :r], u[:, :r], v[:, :r])
        plots.image(middle, y, f"from the corner {r} x {r} x 3")
        right.semilogy(
            range(1, len(errors) + 1), [max(e, 1e-4) for e in errors], **plots.style(0, 427)
        )
        right.plot(r, max(errors[r - 1], 1e-4), "o", ms=10, mfc="none", mec="black")
        right.set(xlabel="size of the corner", ylabel="relative error")
        stored = _tucker_storage((427, 640, 3), (r, r, 3))
        return (
            f"The corner {r} x {r} x 3 holds {1 - errors[r - 1] ** 2:.2%} of the energy: with "
            f"{stored} of {427 * 640 * 3} numbers the relative error is {errors[r - 1]:.4f}."
        )


def _tucker_storage(shape, r):
    return math.prod(r) + sum(map(math.prod, zip(shape, r)))


@functools.cache
def photo_curves() -> dict[str, list[tuple[int, float]]]:
    """Error against stored numbers for every second point of the photograph: Tucker with ranks (r,
    r, 3), and the SVD of its colors side by side."""
    x = datasets.photo("flower")[::2, ::2]
    side = x.movedim(2, 1).reshape(len(x), -1)
    off = lambda y, x: float((y.to_dense() - x).norm() / x.norm())
    fits = [st_hosvd(x, (r, r, 3)) for r in (5, 10, 20, 40, 80, 160)]
    lows = [LowRank.from_dense(side, r) for r in (2, 5, 10, 20, 40, 80)]
    return {
        "Tucker": [(y.numel, off(y, x)) for y in fits],
        "SVD of the colors side by side": [(y.numel, off(y, side)) for y in lows],
    }


@functools.cache
def noisy_errors(n: int) -> dict[str, float]:
    """Relative errors at rank 6 of three algorithms, of a noisy tensor (n, n, n) of rank 12."""
    g = torch.Generator().manual_seed(0)
    x = Tucker.randn((n, n, n), 12, generator=g, dtype=torch.float64).to_dense()
    noise = torch.randn(x.shape, generator=g, dtype=torch.float64)
    x = x + 0.3 * x.norm() / noise.norm() * noise
    fits = {"HOSVD": hosvd(x, 6), "ST-HOSVD": st_hosvd(x, 6), "HOOI": hooi(x, 6).value}
    return {name: float((y.to_dense() - x).norm() / x.norm()) for name, y in fits.items()}


@functools.cache
def layer_curves() -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Error and accuracy against stored numbers for the layer of `digits.network`: Tucker of
    8 x 8 x 8 x 8, the SVD, and the dense layer."""
    weight, _ = network()
    fits = {
        "Tucker": [st_hosvd(weight.reshape(8, 8, 8, 8), r) for r in (2, 3, 4, 5, 6, 7)],
        "SVD": [LowRank.from_dense(weight, r) for r in (1, 2, 4, 6, 8, 12, 16)],
    }
    return fit_curves(fits)


# ---------------------------------------------------------------------------------------- exercises


def _last(u, r):
    return u[:, -r:]


def _leading(x, mode, keep=lambda u, r: u[:, :r], unfold=multilinear.unfold, r=2):
    u = torch.linalg.svd(unfold(x, mode), full_matrices=True)[0]
    u = keep(u, r)
    return u @ u.T


def _read_basis(function, x, mode, r):
    u = call(function, x, mode, r)
    if u is None:
        return None
    if tuple(u.shape) != (x.shape[mode], r):
        wanted = (x.shape[mode], r)
        raise Unusable(
            f"a basis of the shape {wanted} is needed, this has the shape {tuple(u.shape)}."
        )
    if not torch.allclose(u.T @ u, torch.eye(r, dtype=u.dtype), atol=1e-8):
        raise Unusable("the columns should be orthonormal: the singular values do not belong here.")
    return u @ u.T


def _projected(x, ranks, keep=lambda u, r: u[:, :r], sequential=False):
    """The projection of x on bases of its unfoldings, or of what the last cut has left."""
    y = x
    for k, r in enumerate(ranks):
        a = multilinear.unfold(y if sequential else x, k)
        u = keep(torch.linalg.svd(a, full_matrices=False)[0], r)
        y = multilinear.mode_product(y, u @ u.T, k)
    return y


def _read_tucker(function, x, ranks):
    found = returned(function, x, ranks)
    if found is None:
        return None
    if not (isinstance(found, (tuple, list)) and len(found) == 2):
        shape = f" of shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else ""
        raise Unusable(f"a core and a list of factors are needed, this is one thing{shape}.")
    core, factors = found
    (core,) = tensors([core])
    if tuple(core.shape) != tuple(ranks):
        raise Unusable(f"the core should have the ranks as its shape, it has {tuple(core.shape)}.")
    try:
        return Tucker(core, tensors(factors)).to_dense()
    except (ValueError, TypeError) as error:
        raise Unusable(f"core and factors do not fit: {error}") from error


basis = Check(
    function=True,
    read=_read_basis,
    cases=lambda: [
        (gaussian((4, 5, 6))[0], 0, 2),
        (gaussian((4, 4, 4))[0], 1, 2),
        (gaussian((3, 4, 5))[0], 2, 3),
    ],
    right=lambda x, mode, r: _leading(x, mode, r=r),
    mistakes=(
        (
            lambda x, mode, r: _leading(x, mode, _last, r=r),
            "these belong to the smallest singular values; the largest come first.",
        ),
        (
            lambda x, mode, r: (
                _leading(x, mode, unfold=lambda x, k: x.reshape(x.shape[k], -1), r=r)
                if mode
                else None
            ),
            "reshape alone does not bring the mode to the front: move it there first.",
        ),
    ),
    hint="the rows of the unfolding are the mode; torch.linalg.svd gives its left singular vectors "
    "first.",
    moral="The directions of one mode in which the tensor has most of its energy.",
    forbids=(
        (hosvd, "build it from torch.linalg.svd."),
        (st_hosvd, "build it from torch.linalg.svd."),
    ),
)

higher_svd = Check(
    function=True,
    read=_read_tucker,
    cases=lambda: [
        (gaussian((5, 5, 5))[0], (2, 3, 2)),
        (gaussian((4, 5, 6))[0], (2, 2, 3)),
        (gaussian((3, 4, 5))[0], (3, 4, 5)),
    ],
    right=_projected,
    mistakes=(
        (
            lambda x, ranks: _projected(x, ranks, sequential=True),
            "each basis came from what the last cut had left: that is the ST-HOSVD; here all "
            "unfold x.",
        ),
        (
            lambda x, ranks: _projected(x, ranks, _last),
            "the bases belong to the smallest singular values.",
        ),
    ),
    hint="take a `basis` of x for each mode, and multiply x by its transpose along that mode: "
    "what is left is the core.",
    moral="This is `tl.hosvd`: its error is at most the root of d times the best one.",
    forbids=(
        (hosvd, "`hosvd` is what you are to build: use your `basis` and `mode_product`."),
        (st_hosvd, "build it from your `basis` and `mode_product`."),
    ),
)

tucker_storage = Check(
    cases=lambda: [((10, 20, 30), (3, 4, 5))],
    right=_tucker_storage,
    mistakes=(
        (
            lambda shape, r: sum(map(math.prod, zip(shape, r))),
            "those are the factors; the core is stored too.",
        ),
        (lambda shape, r: math.prod(r), "that is the core; the factors are stored too."),
        (lambda shape, r: math.prod(shape), "those are the entries of the full tensor."),
        (
            lambda shape, r: sum(r) + sum(map(math.prod, zip(shape, r))),
            "the core has an entry for each combination.",
        ),
        (
            lambda shape, r: math.prod(r) * sum(map(math.prod, zip(shape, r))),
            "core and factors are side by side.",
        ),
    ),
    hint="the core has the ranks as its shape; the factor of a mode has its size times its rank.",
    moral="In more modes the core is what costs: it is the product of all ranks.",
)

mode_product = Check(
    function=True,
    cases=lambda: [
        (x, m, mode)
        for (x, m), mode in [
            (gaussian((3, 3, 3), (3, 3)), 1),
            (gaussian((2, 3, 4), (5, 3)), 1),
            (gaussian((2, 3, 4), (5, 2)), 0),
            (gaussian((2, 3, 4), (5, 4)), 2),
        ]
    ],
    right=multilinear.mode_product,
    mistakes=(
        (
            lambda x, m, mode: (
                multilinear.mode_product(x, m.T, mode) if len(m) == len(m.T) else None
            ),
            "the matrix is transposed: its second index should meet the tensor.",
        ),
        (
            lambda x, m, mode: torch.tensordot(m, x, dims=([1], [mode])),
            "the products are right, but the new mode comes first; put it back where it was.",
        ),
        (
            lambda x, m, mode: torch.tensordot(x, m, dims=([mode], [1])),
            "the products are right, but the new mode comes last; put it back where it was.",
        ),
        (
            lambda x, m, mode: x @ m.T if x.shape[-1] == m.shape[1] else None,
            "this multiplies the last mode, whichever mode was asked for.",
        ),
        (
            lambda x, m, mode: m @ multilinear.unfold(x, mode),
            "the products are right; the unfolding needs to be folded back.",
        ),
    ),
    hint="torch.tensordot sums over the two indices that meet; torch.movedim puts the new mode in "
    "its place.",
    moral="A Tucker tensor is its core after one such product for each mode.",
)

photo_tucker_rank = Check(
    right=lambda: first_rank(corner_errors(), 0.1),
    mistakes=(
        (
            lambda: first_rank(corner_errors(), math.sqrt(0.1)),
            "this keeps 90 % of the energy; an error of 10 % leaves out 1 %.",
        ),
        (
            lambda: first_rank(corner_errors(), 0.1) - 1,
            "very near: here the error is still just above 10 %.",
        ),
        (lambda: first_rank(corner_errors(), 0.1) + 1, "very near: a smaller rank will do."),
    ),
    hint="the error falls as r grows: type a size into the box and halve the interval "
    "until it crosses 0.1.",
    moral="Three colors share the bases of the rows and the columns.",
)
