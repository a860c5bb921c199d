"""Completion: a train from some of its entries, by Riemannian descent [Steinlechner2016].

    minimize  1/2 sum_j |x[i_j] - y_j|^2   over the trains of ranks r,
        i_j the places that were observed

The dense gradient holds one number for each observation. It is never made a train (its ranks would
be the number of entries) nor a dense tensor: for each entry the interface vectors l (r_k) and r
(r_{k+1}) on both sides of mode k are gathered, and of the residuals x[i_j] - y_j

    D_k[:, i, :] = sum of  conj(l)_j residual_j conj(r)_jᵀ  over the j whose index in mode k is i

at a cost of O(d m r^2) for m entries. Along a tangent vector the entries are linear, so a step has
an exact first trial.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arguments import check_shape, count, fraction, number, one_of, rank_caps
from ..fit import Fit
from ..linalg import check_dense, ldexp, size_exponent, spread
from ..multilinear import check_index, check_int64
from ..rng import check_generator, rand, randn
from .tt import TT, unfolding_ranks
from .tt_manifold import Tangent, _common, _frame, _gauged, descend

# Ranks grow when these iterations have lowered the training error by less than this share; at full
# rank the descent ends so.
GROW_AFTER = (10, 0.03)
STOP_AFTER = (50, 0.01)
PATIENCE = 2  # growths without a lower held-out error, after which it ends
NEW = 0.1  # size of the random directions that a growth adds, relative to a core


@dataclass(frozen=True, eq=False, repr=False)
class CompletionFit(Fit[TT]):
    """A `Fit` of a completion; its history holds the relative error on the entries that were
    fitted, the start first.

    held_out: the same on the entries that were not, as long as the history. error: the held-out
    error of the value. ranks: those of the train after each iteration.
    """

    held_out: tuple[float, ...] = ()
    error: float = math.nan
    ranks: tuple[tuple[int, ...], ...] = ()


@torch.no_grad()
def tt_complete(
    index: Tensor,
    values: Tensor,
    shape,
    rank,
    *,
    grow: bool = True,
    init: TT | None = None,
    method: str = "cg",
    held_out: float = 0.1,
    tol: float = 1e-9,
    max_iter: int = 1000,
    generator: torch.Generator | None = None,
) -> CompletionFit:
    """Tensor train through observed entries [Steinlechner2016].

        minimize sum_j |x[index_j] - values_j|^2 over trains, by Riemannian conjugate gradients
        ("cg") or gradients ("gd")

    index: (m, d) integers, negative ones from the end.
    values: (m,), real or complex floating; places given twice count twice, and where their values
        differ it is the mean that can be met.
    shape: (n_0, ..., n_{d-1}) of the tensor.
    rank: the ranks, or with `grow` their cap; one integer or d - 1 of them.
    grow: begin at rank 1 (or at `init`), and where the error stalls add small random directions to
        every rank under its cap; zeros would be a singular point.
    init: a train to start from; None: a random one of positive entries, its cores uniform in [0,
        1), since one with random signs would not see the mean of the data.
    method: "cg" or "gd".
    held_out: the share of the places that is not fitted.
    tol: the error, on the fitted and on the held-out places, at which it has converged; at least 32
        eps of the dtype.
    max_iter: the most steps.
    generator: draws the start and the held-out places; None: torch's global one.

    The value is the train with the least error on the held-out places, and growth ends when that no
    longer falls: it says nothing about a slice in which no place was observed. Errors
    are relative to the root mean square of all values. The train has the common dtype of the values
    and `init`; half precision is descended in float32. Raises ValueError or TypeError for wrong
    lengths, indices out of range, values that are not finite, two devices, and bad arguments.

    >>> g = torch.Generator().manual_seed(0)
    >>> x = TT.randn((10, 10, 10), 2, generator=g, dtype=torch.float64)
    >>> index = torch.randint(0, 10, (600, 3), generator=g)
    >>> fit = tt_complete(index, x.at(index), x.shape, 2, generator=g)
    >>> fit.converged, bool((fit.value - x).norm() < 1e-8 * x.norm())
    (True, True)
    """
    who = "tt_complete"
    shape = check_int64(who, check_shape(who, shape))
    caps = rank_caps(who, rank, None, shape, len(shape) - 1)
    caps = tuple(min(c, most) for c, most in zip(caps, unfolding_ranks(shape)))
    check_generator(who, generator)
    index = _places(who, index, values, shape)
    tol, max_iter = number(who, "tol", tol), count(who, "max_iter", max_iter, 0)
    one_of(who, "method", method, ("gd", "cg"))
    fraction(who, "held_out", held_out)
    dtype = values.dtype if init is None else _given(who, init, shape, values)
    work = torch.promote_types(dtype, torch.float32)

    exponent = int(size_exponent(values.to(work)))  # so that squares stay in the range of floats
    scaled = ldexp(values.detach().to(work), -exponent)
    fitted, held = _split(who, index, scaled, shape, held_out, generator)
    tol = max(tol, 32 * torch.finfo(dtype).eps)
    options = dict(generator=generator, dtype=work, device=values.device)
    if init is None:
        x = _start(fitted, shape, (1,) * len(caps) if grow else caps, options)
    else:
        x = TT(tuple(spread(init.to(work).cores, 0, -exponent, work)))

    history, errors, ranks, best = [], [], [], (math.inf, math.inf, x)
    for y, error, out in _growing(fitted, held, x, caps, grow, method, tol, options):
        history.append(error)
        errors.append(out)
        ranks.append(y.ranks)
        if out < best[0]:
            best = out, error, y
        if max(out, error) <= tol or len(history) > max_iter:
            break
    least, error, x = best
    x = TT(tuple(spread(x.cores, 0, exponent, dtype)))
    if work != dtype:  # what is said is the error of what is given back
        rounded = TT(tuple(spread(x.cores, 0, -exponent, work)))
        least, error = held.error(rounded), fitted.error(rounded)
    done = max(least, error) <= tol
    return CompletionFit(x, tuple(history), done, tuple(errors), least, tuple(ranks))


class Entries:
    """Observed entries of a tensor, sorted once by their index in each mode: a mode costs one
    product per index value.

    index: (m, d), values: (m,).  unit: what errors are relative to.

    >>> x = TT.randn((3, 4), 1, generator=torch.Generator().manual_seed(0))
    >>> entries = Entries(torch.tensor([[0, 1], [2, 3]]), x.at([[0, 1], [2, 3]]), x.shape)
    >>> round(entries.error(x), 6)
    0.0
    """

    def __init__(self, index: Tensor, values: Tensor, shape, unit: float | None = None):
        self.values = values
        self.places = []
        self.here: tuple[list[Tensor], list[Tensor], Tensor] | None = None
        for i, n in zip(index.unbind(1), shape):
            self.places.append((torch.argsort(i), torch.bincount(i, minlength=n).tolist()))
        self.unit = (
            float(torch.linalg.vector_norm(values)) / math.sqrt(len(values))
            if unit is None
            else unit
        )

    def at(self, x: TT) -> Tensor:
        """The train at the observed places: (m,)."""
        v = torch.ones_like(self.values)[:, None]
        for core, place in zip(x.cores, self.places):
            v = _push(v, core, place)
        return v[:, 0]

    def cost(self, x: TT) -> float:
        """1/2 sum |x[i] - y|^2."""
        return float((self.at(x) - self.values).abs().square().sum()) / 2

    def error(self, x: TT) -> float:
        """Root mean square of the residuals in units of `unit`."""
        return math.sqrt(2 * self.cost(x) / len(self.values)) / (self.unit or 1.0)

    def cost_and_grad(self, x: TT) -> tuple[float, Tangent]:
        """The cost and its Riemannian gradient, by gathering."""
        here = _frame(x, "tt_complete")
        one = torch.ones_like(self.values)[:, None]
        left = [one]  # interface vectors (m, r_k) of U_0 ... U_{k-1}
        right = [one]  # and of V_{k+1} ... V_{d-1}
        for u, place in zip(here.left, self.places):
            left.append(_push(left[-1], u, place))
        for v, place in zip(reversed(here.right), reversed(self.places)):
            right.append(_push(right[-1], v.permute(2, 1, 0), place))
        right.reverse()
        residual = _push(left[-1], here.last, self.places[-1])[:, 0] - self.values
        deltas = [
            _gather(l.conj() * residual[:, None], r.conj(), place)
            for l, r, place in zip(left, right, self.places)
        ]
        self.here = left, right, residual  # for `step`, which is asked for at the same point
        return float(residual.abs().square().sum()) / 2, _gauged(here, deltas)

    def step(self, h: Tangent) -> float:
        """The minimum of the cost along x + t h, exact because entries are linear in t; h at the
        last point of `cost_and_grad`."""
        if self.here is None:
            raise ValueError("Entries.step: needs `cost_and_grad` to be called first, got none")
        left, right, residual = self.here
        z = torch.zeros_like(residual)
        for l, d, r, place in zip(left, h.deltas, right, self.places):
            z = z + (_push(l, d, place) * r).sum(1)
        size = float(z.abs().square().sum())
        return -float(torch.vdot(z, residual).real) / size if size else 0.0


def _push(v: Tensor, core: Tensor, place) -> Tensor:
    """Interface vectors times their matrices of a core: (m, r), (r, n, q) -> (m, q)."""
    order, counts = place
    parts = v.index_select(0, order).split(counts)
    out = torch.cat([rows @ matrix for rows, matrix in zip(parts, core.unbind(1))])
    return torch.empty_like(out).index_copy_(0, order, out)


def _gather(left: Tensor, right: Tensor, place) -> Tensor:
    """Sum of l rᵀ over the entries of each index value: (m, r), (m, q) -> (r, n, q)."""
    order, counts = place
    lefts, rights = (x.index_select(0, order).split(counts) for x in (left, right))
    return torch.stack([l.mT @ r for l, r in zip(lefts, rights)], 1)


def _growing(
    fitted: Entries, held: Entries, x: TT, caps, grow: bool, method: str, tol: float, options
) -> Iterator[tuple[TT, float, float]]:
    """Descent at growing ranks: (x, training error, held-out error), until the ranks are at their
    caps and it stalls, or the held-out error no longer falls."""
    least, waited = math.inf, 0
    while True:
        last = not grow or all(r >= c for r, c in zip(x.ranks, caps))
        before = least
        window = STOP_AFTER if last else GROW_AFTER
        for y, error in _stage(fitted, x, method, *window, tol):
            x, out = y, held.error(y)
            least = min(least, out)
            yield x, error, out
        waited = 0 if least < before else waited + 1
        if last or error <= tol or waited >= PATIENCE:
            return
        x = _grown(x, caps, options)


def _stage(
    entries: Entries, x: TT, method: str, window: int, share: float, tol: float
) -> Iterator[tuple[TT, float]]:
    """Descent at fixed ranks: (x, training error) until the error is far below tol or stalls."""
    errors = []
    for y, cost, _ in descend(entries.cost, entries.cost_and_grad, x, method, entries.step):
        errors.append(math.sqrt(2 * cost / len(entries.values)) / (entries.unit or 1.0))
        yield y, errors[-1]
        if errors[-1] <= 1e-2 * tol or (
            len(errors) > window and errors[-1] > (1 - share) * errors[-1 - window]
        ):
            return


def _start(entries: Entries, shape, ranks, options) -> TT:
    """A random train of positive entries, about 1 for any number of modes, times the number that
    fits the data best."""
    r = (1, *ranks, 1)
    x = TT(tuple(rand(r[k], n, r[k + 1], **options) * (2 / r[k]) for k, n in enumerate(shape)))
    at = entries.at(x)
    size = at.abs().square().sum()
    return x.scale(torch.vdot(at, entries.values) / size) if size > 0 else x


def _grown(x: TT, caps, options) -> TT:
    """Each rank under its cap one more: the old cores beside small random ones, so that x hardly
    moves."""
    r = (1, *(q + (q < c) for q, c in zip(x.ranks, caps)), 1)
    cores = []
    for k, core in enumerate(x.orthogonal(x.ndim - 1).cores):
        size = NEW * float(torch.linalg.vector_norm(core)) / math.sqrt(core.numel())
        new = size * randn(r[k], core.shape[1], r[k + 1], **options)
        new[: core.shape[0], :, : core.shape[2]] = core
        cores.append(new)
    return TT(tuple(cores))


def _split(who, index, values, shape, held_out, generator) -> tuple[Entries, Entries]:
    """What is fitted and what is held out: of the different places a share, each with all its
    copies."""
    places, copy = torch.unique(index, dim=0, return_inverse=True)
    count = len(places)
    if count < 2:
        raise ValueError(
            f"{who}: needs at least 2 different places, one of them to be held out, got {count}"
        )
    drawn = rand(count, generator=generator, device=index.device).argsort().to(index.device)
    chosen = drawn[: min(max(1, round(held_out * count)), count - 1)]
    out = torch.isin(copy, chosen)
    unit = float(torch.linalg.vector_norm(values)) / math.sqrt(len(values))
    fitted, held = (Entries(index[mask], values[mask], shape, unit) for mask in (~out, out))
    return fitted, held


def _places(who, index, values, shape) -> Tensor:
    """The index as int64 on the device of the values, without negative numbers; checks both."""
    check_dense(values, who)
    index = torch.as_tensor(index, device=values.device)
    if values.ndim != 1 or index.shape != (len(values), len(shape)):
        raise ValueError(
            f"{who}: needs an index of shape (m, {len(shape)}) and values of shape (m,), "
            f"got {tuple(index.shape)} and {tuple(values.shape)}"
        )
    return check_index(who, index, shape)


def _given(who, init, shape, values) -> torch.dtype:
    """The common dtype of the values and the caller's start.

    Raises ValueError for a start that does not fit.
    """
    if not isinstance(init, TT) or init.shape != shape:
        got = repr(init) if isinstance(init, TT) else type(init).__name__
        raise ValueError(f"{who}: init must be a TT of shape {shape}, got {got}")
    dtype = _common(who, values, init)
    for core in init.cores:
        check_dense(core, f"{who}: init")
    return dtype
