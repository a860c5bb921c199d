"""Lesson 01: the SVD."""

import functools
import math
from types import SimpleNamespace

import numpy as np
import torch
from matplotlib.figure import Figure

from ... import datasets, plots
from ...formats.lowrank import LowRank
from ..checks import Check, Unusable, decaying, first_rank, gaussian, returned, tensors
from ..digits import fit_curves, network
from ..widgets import Player, choice, decimal, integer

NAMES = ("gray flower", "elevation", "MRI slice", "layer of a network", "noise")


@functools.cache
def matrix(name: str) -> torch.Tensor:
    """A real matrix, or noise, by its name.

    >>> matrix("gray flower").shape
    torch.Size([427, 640])
    """
    if name == "gray flower":
        return datasets.photo("flower").mean(2)
    if name == "elevation":
        return datasets.elevation()
    if name == "MRI slice":
        return datasets.mri()
    if name == "layer of a network":
        return network()[0]
    if name == "noise":
        return gaussian((300, 400))[0]
    raise ValueError(f"matrix: needs a known name, got {name}")


@functools.cache
def svd(name: str):
    """u, s, vh of a matrix."""
    return torch.linalg.svd(matrix(name), full_matrices=False)


def errors(name: str) -> list[float]:
    """Relative errors of the best approximations of rank 1, 2, ...: the tails of s.

    >>> errors("noise")[0] > 0.99
    True
    """
    s = svd(name)[1]
    tails = s.square().flip(0).cumsum(0).flip(0).sqrt() / s.norm()
    return [*tails[1:].tolist(), 0.0]


class TermPlayer(Player):
    """A matrix as a growing sum of outer products: the term that is added, the sum, and the
    singular values that are used."""

    figsize = (10, 3)
    interval = 0.3

    def __init__(self, terms: int = 8):
        super().__init__(terms=integer(terms, 1, 427), matrix=choice(NAMES[0], NAMES))

    def limits(self, terms: int, matrix: str) -> dict:
        """As many terms as there are singular values."""
        return {"terms": (1, len(svd(matrix)[1]))}

    def steps(self, terms: int, matrix: str):
        yield from range(terms, len(svd(matrix)[1]) + 1)

    def draw(self, figure: Figure, state: int, terms: int, matrix: str) -> str:
        u, s, vh = svd(matrix)
        m, n, r = len(u), vh.shape[1], state
        left, middle, right = figure.subplots(1, 3)
        plots.image(left, u[:, r - 1 : r] * s[r - 1] @ vh[r - 1 : r], f"term {r}")
        plots.image(middle, u[:, :r] * s[:r] @ vh[:r], f"sum of {r} terms")
        plots.singular_values(right, {matrix: s})
        right.axvspan(0.5, r + 0.5, color=plots.COLORS[5], alpha=0.3, lw=0)
        share = r * (m + n) / (m * n)
        return (
            f"{r} of {len(s)} terms: two factors with {r * (m + n)} numbers, {share:.0%} of the "
            f"{m * n} of the matrix, have a relative error of {errors(matrix)[r - 1]:.4f}."
        )


class TurnPlayer(Player):
    """What a matrix does to the plane: it turns, stretches along the axes, and turns again."""

    figsize = (8, 3.2)
    interval = 0.12
    begin = 14
    frames = 8  # of each of the three moves

    def __init__(self, second: float = 0.4):
        super().__init__(
            second=decimal(second, 0.0, 1.0, step=0.05, label="second singular value"),
            before=integer(55, -90, 90, label="angle of v₁ in degrees"),
            after=integer(25, -90, 90, label="angle of u₁ in degrees"),
        )

    def steps(self, second: float, before: int, after: int):
        """States: the matrix so far, and which of the three moves it is in."""
        yield turn(0), 0
        for move in (1, 2, 3):
            for k in range(1, self.frames + 1):
                part = [1.0] * (move - 1) + [k / self.frames] + [0.0] * (3 - move)
                stretch = torch.tensor([1.0, 1 - part[1] * (1 - second)], dtype=torch.float64)
                first, last = turn(-before * part[0]), turn(after * part[2])
                yield last @ stretch.diag() @ first, move

    def draw(self, figure: Figure, state, second: float, before: int, after: int) -> str:
        a, move = state
        v = turn(before)
        left, right = figure.subplots(1, 2)
        _disk(left, turn(0), v, "before")
        name = ("nothing done yet", "turned by vᴴ", "stretched by s", "turned by u")[move]
        _disk(right, a, a @ v, name)
        lengths = (a @ v).norm(dim=0).tolist()
        flat = " The disk is flat: rank 1." if second == 0 and lengths[1] < 1e-9 else ""
        return f"{name}: v₁ has length {lengths[0]:.2f} now, v₂ {lengths[1]:.2f}.{flat}"


def turn(degrees: float) -> torch.Tensor:
    """The matrix that turns the plane.

    >>> turn(90).round(decimals=6).tolist()
    [[0.0, -1.0], [1.0, 0.0]]
    """
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)


def _disk(ax, a, arrows, title):
    """The image of the unit circle and its spokes, with two arrows."""
    angles = torch.linspace(0, 2 * math.pi, 97, dtype=torch.float64)
    circle = a @ torch.stack([angles.cos(), angles.sin()])
    ax.fill(*circle.tolist(), fc="0.9", ec="0.5", lw=1)
    for k in range(0, 96, 8):
        ax.plot([0, float(circle[0, k])], [0, float(circle[1, k])], color="0.75", lw=0.8)
    for k, (x, y) in enumerate(arrows.T.tolist()):
        ax.annotate(
            "", (x, y), (0, 0), arrowprops=dict(arrowstyle="-|>", color=plots.COLORS[k], lw=2)
        )
        ax.text(1.15 * x, 1.15 * y, f"v{chr(0x2081 + k)}", ha="center", va="center")
    ax.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal", title=title)
    ax.set(xticks=(-1, 0, 1), yticks=(-1, 0, 1))


def largest_entries(a: torch.Tensor, numbers: int) -> torch.Tensor:
    """The rival that knows no algebra: the largest entries of a, each stored with its place, two
    numbers.

    >>> largest_entries(torch.tensor([[3.0, 1.0], [2.0, 0.0]]), 4).tolist()
    [[3.0, 0.0], [2.0, 0.0]]
    """
    kept = a.abs().flatten().topk(numbers // 2).indices
    return torch.zeros_like(a).flatten().index_copy(0, kept, a.flatten()[kept]).reshape(a.shape)


@functools.cache
def size_curves() -> dict[str, list[tuple[float, float]]]:
    """For each matrix: the share of its numbers that two factors store, and the relative error."""
    curves = {}
    for name in NAMES:
        (m, n), tails = matrix(name).shape, errors(name)
        ranks = sorted({max(1, round(len(tails) * 1.5**-k)) for k in range(12)})[:-1]
        curves[name] = [(r * (m + n) / (m * n), tails[r - 1]) for r in ranks]
    return curves


@functools.cache
def layer_curves() -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Error and accuracy against stored numbers for the layer of `digits.network`: the SVD, its
    largest entries, and the dense layer."""
    weight, _ = network()
    svds = [LowRank.from_dense(weight, r) for r in (1, 2, 4, 6, 8, 12, 16, 24)]
    kept = lambda n: SimpleNamespace(numel=n, to_dense=lambda: largest_entries(weight, n))
    return fit_curves({"SVD": svds, "largest entries": [kept(f.numel) for f in svds]})


# ---------------------------------------------------------------------------------------- exercises


def _tail(s, r):
    return math.sqrt(sum(x * x for x in s[r:]) / sum(x * x for x in s))


def _svd_terms(a, r):
    u, s, vh = torch.linalg.svd(a, full_matrices=False)
    return u[:, :r] * s[:r] @ vh[:r]


def _tensors(what, result, *modes):
    """The tensors of an answer, with so many modes each; None for a blank."""
    if result is None:
        return None
    if not (isinstance(result, (tuple, list)) and len(result) == len(modes)):
        shape = f" of shape {tuple(result.shape)}" if isinstance(result, torch.Tensor) else ""
        raise Unusable(f"{what} are needed; this is one {type(result).__name__}{shape}.")
    found = tensors(result)
    shapes = ", ".join(str(tuple(part.shape)) for part in found)
    if tuple(part.ndim for part in found) != modes:
        raise Unusable(f"{what} are needed, these have the shapes {shapes}.")
    return found


def _read_leading(function, a):
    found = _tensors("u (m,), s and v (n,)", returned(function, a), 1, 0, 1)
    if found is None:
        return None
    u, s, v = found
    if max(abs(float(u.norm()) - 1), abs(float(v.norm()) - 1)) > 1e-8:
        raise Unusable("u and v should have norm 1: the length goes into s.")
    return s * torch.outer(u, v)


def _leading(a, flip=1.0, power=1, which=0):
    u, s, vh = torch.linalg.svd(a, full_matrices=False)
    return flip * s[which] ** power * torch.outer(u[:, which], vh[which])


def _one_step(a):
    v = a.T @ a.new_ones(len(a))
    v = v / v.norm()
    return torch.outer(a @ v, v)


def _read_peel(function, a, r):
    found = _tensors("u (m, r), s (r,) and v (n, r)", returned(function, a, r), 2, 1, 2)
    if found is None:
        return None
    u, s, v = found
    if not u.shape[1] == len(s) == v.shape[1]:
        raise Unusable(
            f"u, s and v have {u.shape[1]}, {len(s)} and {v.shape[1]} terms; they should agree."
        )
    return u * s @ v.T


def _read_factors(function, a, rtol):
    found = _tensors("two factors (m, r) and (n, r)", returned(function, a, rtol), 2, 2)
    if found is None:
        return None
    u, v = found
    if u.shape[1] != v.shape[1]:
        raise Unusable(
            f"the factors have {u.shape[1]} and {v.shape[1]} columns; they should agree."
        )
    return _with_rank(u @ v.T, u.shape[1])


def _with_rank(w, r):
    return torch.cat([w, w.new_full((1, w.shape[1]), float(r))])


def _shrunk(a, rtol, power=1.0, enough=lambda s, r, rtol: _tail(s, r) <= rtol, more=0):
    """The product of the factors, and their rank; power: of the singular values in it."""
    u, s, vh = torch.linalg.svd(a, full_matrices=False)
    values = s.tolist()
    r = next(r for r in range(1, len(values) + 1) if r == len(values) or enough(values, r, rtol))
    r = min(r + more, len(values))
    return _with_rank(u[:, :r] * s[:r] ** power @ vh[:r], r)


def _other_rank(**rule):
    """The factors by another rule for the rank, or None where that finds the same one."""

    def wrong(a, rtol):
        found, right = _shrunk(a, rtol, **rule), _shrunk(a, rtol)
        return None if torch.equal(found[-1], right[-1]) else found

    return wrong


NO_SVD = tuple(
    (function, "find it from products with a: an SVD is what you are to build.")
    for function in (torch.linalg.svd, torch.svd, torch.linalg.eigh, np.linalg.svd, np.linalg.eigh)
)

truncation_error = Check(
    cases=lambda: [((6.0, 3.0, 2.0, 1.0), 2)],
    right=_tail,
    mistakes=(
        (
            lambda s, r: _tail(s, r) ** 2,
            "that is the share of the energy that is lost; the error is its square root.",
        ),
        (
            lambda s, r: math.sqrt(sum(x * x for x in s[r:])),
            "that is the error itself; divide by the norm of the matrix.",
        ),
        (lambda s, r: sum(s[r:]) / sum(s), "singular values add as squares in the Frobenius norm."),
        (
            lambda s, r: s[r] / s[0],
            "that is the error in the spectral norm, where only the largest value counts.",
        ),
        (
            lambda s, r: math.sqrt(1 - _tail(s, r) ** 2),
            "that is the part that is kept; what is left out?",
        ),
        (
            lambda s, r: _tail(s, r + 1),
            "that is for one rank more: count the values that rank 2 keeps.",
        ),
    ),
    hint="which singular values are left out, and what is the norm of a matrix in terms of its "
    "singular values?",
    moral="The error is known before anything is multiplied: the tail of the singular values says "
    "it.",
    rtol=6e-3,  # two digits are enough
)

leading = Check(
    function=True,
    read=_read_leading,
    cases=lambda: [(decaying(5, 5),), (2 * decaying(4, 7),), (decaying(6, 1),)],
    right=_leading,
    mistakes=(
        (
            lambda a: _leading(a, which=-1) if min(a.shape) > 1 else None,
            "that is the smallest singular value: multiply by a and its transpose, not by "
            "inverses.",
        ),
        (
            lambda a: _leading(a, flip=-1.0),
            "the sign is wrong: u and v belong together, u = a v / s.",
        ),
        (
            lambda a: _leading(a, power=2) if not math.isclose(float(a.norm()), 1) else None,
            "s is squared: it is the norm of a v, that of aᵀ a v is its square.",
        ),
        (
            lambda a: _one_step(a) if min(a.shape) > 1 else None,
            "that is v after one step: repeat until it stays where it is.",
        ),
    ),
    hint="begin with any v; repeat v = aᵀ(a v) and divide by its norm; then s = |a v| and u = a v "
    "/ s.",
    moral="This is power iteration: the part along v₁ grows fastest.",
    forbids=NO_SVD,
)

peel = Check(
    function=True,
    read=_read_peel,
    cases=lambda: [(decaying(6, 5), 3), (2 * decaying(4, 7), 2), (decaying(5, 3), 1)],
    right=_svd_terms,
    mistakes=(
        (
            lambda a, r: r * _leading(a) if r > 1 else None,
            "each term is the first one again: subtract from a what has been found.",
        ),
        (lambda a, r: _svd_terms(a, r + 1), "there is one term too many."),
        (
            lambda a, r: _svd_terms(a, r - 1) if r > 1 else None,
            "the last term is missing.",
        ),
        (lambda a, r: a - _svd_terms(a, r), "that is what is left of a, not what was taken."),
    ),
    hint="call `leading`, keep what it gives, subtract s u vᵀ from a, and repeat; torch.stack(..., "
    "dim=1) puts vectors side by side.",
    moral="The best approximation of rank r, term by term [EckartYoung1936].",
    forbids=NO_SVD,
)

shrink = Check(
    function=True,
    read=_read_factors,
    cases=lambda: [
        (2 * decaying(10, 9, 0.7), 0.2),
        (decaying(5, 8), 0.2),
        (decaying(4, 4), 2.0),
    ],
    right=_shrunk,
    mistakes=(
        (
            _other_rank(enough=lambda s, r, rtol: s[r] <= rtol * math.hypot(*s)),
            "the next singular value alone is below rtol; all that is left out has to be.",
        ),
        (
            _other_rank(enough=lambda s, r, rtol: _tail(s, r) * math.hypot(*s) <= rtol),
            "rtol is relative: compare with rtol times the norm of a.",
        ),
        (
            _other_rank(enough=lambda s, r, rtol: _tail(s, r) ** 2 <= rtol),
            "that is the share of the energy; the error is its square root.",
        ),
        (_other_rank(more=1), "the error is small enough, but one rank less would do as well."),
        (
            lambda a, rtol: _shrunk(a, rtol, power=0.0),
            "the singular values are missing from the factors.",
        ),
        (
            lambda a, rtol: _shrunk(a, rtol, power=2.0),
            "the singular values are in both factors: give each the root of them.",
        ),
    ),
    hint="the error of r terms is the norm of what they leave of a; take the first r, at least 1, "
    "that leaves at most rtol |a|.",
    moral="This is `LowRank.from_dense(a, rtol=rtol)`, out of nothing but products.",
    forbids=(*NO_SVD, (LowRank.from_dense, "that is what you are to build: use your `peel`.")),
)

multiply = Check(
    function=True,
    cases=lambda: [
        gaussian((250, 3), (250, 3), (250,)),
        gaussian((200, 2), (300, 2), (300,)),
    ],
    largest=lambda u, v, x: 1000,
    right=lambda u, v, x: u @ (v.T @ x),
    mistakes=(
        (
            lambda u, v, x: v @ (u.T @ x) if len(u) == len(x) else None,
            "that is the transpose: x meets v, and the result comes out of u.",
        ),
        (
            lambda u, v, x: (u * (v.T @ x)).flatten(),
            "the columns of u are weighted; they still have to be added.",
        ),
        (lambda u, v, x: v.T @ x, "that is half of it: r numbers, which u turns into m."),
    ),
    hint="put the brackets so that only r numbers come in between.",
    moral="r (m + n) products in place of m n: the layer is not only smaller, it is faster.",
)

break_even = Check(
    cases=lambda: [(300, 200)],
    right=lambda m, n: max(r for r in range(n + 1) if r * (m + n) < m * n),
    mistakes=(
        (
            lambda m, n: m * n // (m + n),
            "there the factors store just as many numbers as the matrix.",
        ),
        (min, "that is the rank of a full matrix; count the numbers in the two factors."),
        (lambda m, n: min(m, n) - 1, "count the numbers: each of the two factors has r columns."),
        (lambda m, n: min(m, n) // 2 - 1, "that is half the side: it would be right for a square."),
    ),
    hint="two factors of rank r hold r (m + n) numbers, the matrix m n.",
    moral="Low is meant seriously: for a square, less than half of its side.",
)

photo_rank = Check(
    right=lambda: first_rank(errors("gray flower"), 0.1),
    mistakes=(
        (
            lambda: first_rank(errors("gray flower"), math.sqrt(0.1)),
            "this keeps 90 % of the energy; an error of 10 % leaves only 1 % of it out.",
        ),
        (
            lambda: first_rank(
                [x / float(svd("gray flower")[1][0]) for x in svd("gray flower")[1][1:]], 0.1
            ),
            "look at the whole tail of the singular values, not at the next one alone.",
        ),
        (
            lambda: first_rank(errors("gray flower"), 0.1) - 1,
            "very near: here the error is still just above 10 %, or the count began at 0.",
        ),
        (
            lambda: first_rank(errors("gray flower"), 0.1) + 1,
            "very near: a smaller rank will do, or one too many was counted.",
        ),
    ),
    hint="move `terms` until the error crosses 0.1: above the crossing it is too large a rank, "
    "below too small.",
    moral="Its 427 rows are nearly combinations of this many.",
)
