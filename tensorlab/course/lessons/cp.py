"""Lesson 02: CP, its swamps and degenerate pairs."""

import functools
import math

import torch
from matplotlib.figure import Figure

from ... import datasets, multilinear, plots
from ...formats.cp import CP, cp_als, cp_als_steps
from ...formats.lowrank import LowRank
from ..checks import Check, Unusable, gaussian, returned, tensors
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
    CP.randn((10, 10, 10), 3, generator=g, dtype=torch.float64)  # those of `_planted`
    x = _planted(name).to_dense()
    return x, CP.randn(x.shape, 3, generator=g, dtype=torch.float64)


class SlicePlayer(Player):
    """A sum of rank-one terms, slice by slice: the third vector only says how strongly the pattern
    of the other two is there."""

    figsize = (10, 2.8)
    interval = 0.25
    begin = 6
    size = 16

    def __init__(self, term: int = 1):
        super().__init__(
            term=integer(term, 1, 3, label="term to look at"),
            terms=integer(3, 1, 3, label="terms in the sum"),
        )

    def limits(self, term: int, terms: int) -> dict:
        """One of the terms that are there."""
        return {"term": (1, terms)}

    def steps(self, term: int, terms: int):
        yield from range(self.size)

    def draw(self, figure: Figure, state: int, term: int, terms: int) -> str:
        a, b, c = factors = bumps(self.size)
        left, middle, right = figure.subplots(1, 3)
        for k, (name, f) in enumerate(zip("abc", factors)):
            left.plot(range(self.size), f[:, term - 1].tolist(), label=name, **plots.style(k))
        left.axvline(state, color=plots.COLORS[2], lw=1)
        left.set(xlabel="index", title=f"vectors of term {term}", ylim=(-0.05, 1.3))
        left.set_xticks(range(0, self.size, 5))
        left.legend(ncols=3, loc="upper center")
        strength = float(c[state, term - 1])
        pattern = torch.outer(a[:, term - 1], b[:, term - 1])
        whole = torch.einsum("it,jt,t->ij", a[:, :terms], b[:, :terms], c[state, :terms])
        _slice(middle, strength * pattern, f"a bᵀ times c[{state}] = {strength:.2f}")
        _slice(right, whole, f"sum of {terms}, slice {state}")
        stored, entries = 3 * self.size * terms, self.size**3
        held = "1 term holds" if terms == 1 else f"{terms} terms hold"
        return (
            f"Slice {state} of {self.size}: term {term} is there with strength {strength:.2f}. "
            f"{held} {stored} numbers, the tensor {entries}."
        )


def bumps(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three factors (n, 3) with smooth columns in [0, 1].

    >>> [tuple(f.shape) for f in bumps(8)]
    [(8, 3), (8, 3), (8, 3)]
    """
    i = torch.arange(n, dtype=torch.float64)[:, None] / (n - 1)
    centers = torch.tensor([[0.2, 0.7, 0.5], [0.3, 0.2, 0.8], [0.45, 0.65, 0.95]], dtype=i.dtype)
    return tuple((-((i - row) / 0.16).square()).exp() for row in centers)


def _slice(ax, x, title):
    ax.grid(False)
    ax.imshow(x, cmap="cividis", vmin=0, vmax=1, aspect="equal")
    ax.set(title=title, xlabel="index of b", ylabel="index of a", xticks=(), yticks=())


class AlsExplorer(Player):
    """Alternating least squares sweep by sweep, with the swamp and the degenerate pair in sight."""

    figsize = (10, 2.9)
    begin = 12
    names = ("easy", "swamp", "degenerate pair")

    def __init__(self, problem: str = "easy"):
        super().__init__(
            problem=choice(problem, self.names), stride=integer(5, 1, 100, label="sweeps at a time")
        )

    def steps(self, problem: str, stride: int):
        """States: errors, smallest cosines and largest weights after each sweep so far, and the CP
        now."""
        x, start = als_problem(problem)
        errors, cosines, weights = [], [], []
        for k, (cp, error) in enumerate(cp_als_steps(x, start.ranks[0], init=start)):
            cp = cp.normalized()
            products = math.prod(f.T @ f for f in cp.factors)
            errors.append(error)
            cosines.append(float(products.min()))  # the diagonal is 1
            weights.append(float(cp.weights.max() / x.norm()))
            done = k >= 2000 or error < 1e-13
            if k % stride == 0 or done:
                yield errors, cosines, weights, cp
            if done:
                return

    def draw(self, figure: Figure, state, problem: str, stride: int) -> str:
        errors, cosines, weights, cp = state
        left, middle, right = figure.subplots(1, 3)
        plots.convergence(left, {problem: errors})
        seen = plots.terms(middle, cosines, weights)
        columns(right, cp, problem)
        pace = errors[-2] / errors[-1] if len(errors) > 1 and errors[-1] else math.inf
        slow = (
            " ALS crawls: a swamp."
            if 1 < pace < 1.01 and errors[-1] > 1e-8 and len(errors) > 20
            else ""
        )
        cancel = cosines[-1] < -0.9 and weights[-1] > 1.5
        pair = " Two terms grow and cancel: a degenerate pair." if cancel else ""
        return (
            f"After {len(errors)} sweeps the relative error is {errors[-1]:.2e}. {seen}{slow}{pair}"
        )


def columns(ax, cp: CP, problem: str) -> None:
    """The columns of the first factor, as long as the cube root of their weight, in the plane where
    the tensor has most of its energy; in gray those that made it."""
    x, _ = als_problem(problem)
    plane = torch.linalg.svd(multilinear.unfold(x, 0), full_matrices=False)[0][:, :2].T
    for truth, found in ((True, TRUTHS.get(problem)), (False, cp)):
        if found is None:
            continue
        lengths = (found.weights / x.norm()).abs() ** (1 / 3)
        for k, (p, q) in enumerate((plane @ found.factors[0] * lengths).T.tolist()):
            color = "0.7" if truth else plots.COLORS[k]
            sign = -1 if p < 0 else 1  # of a column only the line matters
            arrow = dict(arrowstyle="-|>", color=color, lw=5 if truth else 1.8)
            ax.annotate("", (sign * p, sign * q), (0, 0), arrowprops=arrow)
            ax.plot(sign * p, sign * q, ".", color=color, ms=1)
    ax.axhline(0, color="0.8", lw=0.8)
    ax.plot(0, 0, ".", color="0.8", ms=1)  # where the arrows begin belongs to the picture
    ax.margins(0.15)
    ax.set(title="columns of A (gray: true)" if problem in TRUTHS else "columns of A")


def _planted(name: str) -> CP:
    """The CP of rank 3 of a problem; in the swamp its columns are nearly parallel in every mode."""
    g = torch.Generator().manual_seed(1)
    factors = CP.randn((10, 10, 10), 3, generator=g, dtype=torch.float64).factors
    if name == "swamp":
        factors = tuple(f[:, :1] + 0.25 * f for f in factors)
    return CP(torch.ones(3, dtype=torch.float64), factors).normalized()


TRUTHS = {name: _planted(name) for name in ("easy", "swamp")}


@functools.cache
def digit_curves(images: int, sweeps: int) -> dict[str, list[tuple[int, float]]]:
    """Relative error against stored numbers for so many digits, image by row by column: CP, and the
    SVD of image by pixel."""
    x, g = datasets.digits().X[:images], torch.Generator().manual_seed(0)
    curves = {"CP": [], "SVD": []}
    for r in (2, 4, 8, 16):
        fit = cp_als(x, 2 * r, max_iter=sweeps, generator=g)
        curves["CP"].append((fit.value.numel, fit.history[-1]))
    for r in (2, 4, 8, 16, 32):
        low = LowRank.from_dense(x.reshape(len(x), 64), r)
        off = low.to_dense().reshape(x.shape) - x
        curves["SVD"].append((low.numel, float(off.norm() / x.norm())))
    return curves


# ---------------------------------------------------------------------------------------- exercises


def _columns(a, b, order):
    return torch.einsum(order, a, b).reshape(-1, a.shape[1])


def _w_cosine(n):
    """Between n (a + b/n)⊗3 and -n a⊗3, whose sum tends to W: the product of three cosines, with a
    minus sign."""
    return -((1 / math.sqrt(1 + n**-2)) ** 3)


cp_storage = Check(
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


def _update(x0, b, c, gram=lambda b, c: (b.T @ b) * (c.T @ c), product=multilinear.khatri_rao):
    """The first factor by the normal equations."""
    return torch.linalg.solve(gram(b, c), (x0 @ product(b, c)).T).T


def _swept(x, a, b, c, order="abc", fresh=True):
    """The tensor after least squares for the factors in this order, each from the newest others."""
    now, old = {"a": a, "b": b, "c": c}, {"a": a, "b": b, "c": c}
    for name in order:
        k, (p, q) = "abc".index(name), [m for m in "abc" if m != name]
        others = now if fresh else old
        now[name] = _update(multilinear.unfold(x, k), others[p], others[q])
    return _dense(*now.values())


def _dense(a, b, c):
    return torch.einsum("ir,jr,kr->ijk", a, b, c)


def _read_sweep(function, x, a, b, c):
    found = returned(function, x, a, b, c)
    if found is None:
        return None
    if not isinstance(found, (tuple, list)) or len(found) != 3:
        shape = f" of shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else ""
        raise Unusable(f"three factors are needed, this is one {type(found).__name__}{shape}.")
    factors = tensors(found)
    shapes, wanted = [tuple(f.shape) for f in factors], [tuple(f.shape) for f in (a, b, c)]
    if shapes != wanted:
        raise Unusable(f"factors of the shapes {wanted} are needed, these have {shapes}.")
    return _dense(*factors)


def _norm(a, b, c):
    return ((a.T @ a) * (b.T @ b) * (c.T @ c)).sum().sqrt()


update = Check(
    function=True,
    cases=lambda: [gaussian((4, 9), (3, 2), (3, 2)), gaussian((5, 12), (3, 3), (4, 3))],
    right=_update,
    mistakes=(
        (
            lambda x0, b, c: x0 @ multilinear.khatri_rao(b, c),
            "that is the right-hand side of the normal equations: solve with the matrix on the "
            "left.",
        ),
        (
            lambda x0, b, c: _update(x0, c, b),
            "the last mode runs fastest in the columns of x0: pair b with c in this order.",
        ),
        (
            lambda x0, b, c: _update(x0, b, c, gram=lambda b, c: b.T @ b + c.T @ c),
            "the two Gram matrices are multiplied entry by entry, not added.",
        ),
        (
            lambda x0, b, c: _update(x0, b, c, gram=lambda b, c: (b.T @ b) @ (c.T @ c)),
            "the two Gram matrices are multiplied entry by entry, not as matrices.",
        ),
    ),
    hint="with k = khatri_rao(b, c) the least squares problem is a kᵀ = x0, and kᵀk is the "
    "product, entry by entry, of bᵀb and cᵀc.",
    moral="A third of an ALS sweep: with all factors but one fixed the problem is linear.",
    forbids=((cp_als, "build the step itself from products and a solve."),),
)

sweep = Check(
    function=True,
    read=_read_sweep,
    cases=lambda: [
        gaussian((3, 4, 5), (3, 2), (4, 2), (5, 2)),
        gaussian((6, 5, 4), (6, 3), (5, 3), (4, 3)),
    ],
    right=_swept,
    mistakes=(
        (
            lambda *case: _swept(*case, fresh=False),
            "each factor came from the old ones: use the new a for b, and both for c.",
        ),
        (lambda *case: _swept(*case, order="a"), "only the first factor has been updated."),
        (lambda *case: _swept(*case, order="ab"), "the last factor has not been updated."),
        (lambda *case: _swept(*case, order="cba"), "begin with a, then b, then c."),
        (lambda *case: _swept(*case, order="abcabc"), "those are two sweeps."),
    ),
    hint="the unfolding of mode 1 is x.movedim(1, 0).reshape(n_1, -1); its columns pair a and c.",
    moral="Repeat it: this is alternating least squares, and the error never rises.",
    forbids=(
        (cp_als, "`cp_als` is what you are to build: use your `update`."),
        (cp_als_steps, "`cp_als_steps` is what you are to build: use your `update`."),
    ),
)

cp_norm = Check(
    function=True,
    cases=lambda: [
        gaussian((4, 3), (5, 3), (6, 3)),
        gaussian((40, 3), (30, 3), (50, 3)),
    ],
    largest=lambda a, b, c: 150,
    right=_norm,
    mistakes=(
        (lambda *f: _norm(*f) ** 2, "that is the square of the norm."),
        (
            lambda *f: math.prod(g.square().sum(0) for g in f).sum().sqrt(),
            "the terms are not orthogonal: their inner products belong to it too.",
        ),
        (
            lambda *f: math.prod(g.norm(dim=0) for g in f).sum(),
            "norms of terms do not add: think of the inner product of two terms.",
        ),
        (
            lambda *f: math.prod(g.norm() for g in f),
            "that multiplies the norms of whole factors; go term by term.",
        ),
    ),
    hint="two terms have the inner product (a_s · a_t)(b_s · b_t)(c_s · c_t); add it over all s, "
    "t.",
    moral="r² numbers in place of n³: so ALS knows its error without forming a tensor.",
)

degenerate_cosine = Check(
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
    hint="watch the smallest cosine after 10, 100 and 1000 sweeps: in the middle, and in the "
    "sentence below the picture.",
    moral="Two terms grow without bound and cancel: a best approximation of rank 2 does not exist "
    "(de Silva and Lim, 2008).",
    rtol=0.05,
)
