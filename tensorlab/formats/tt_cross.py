"""Cross approximation [OseledetsTyrtyshnikov2010, Savostyanov2014]: a train from a few entries of a
function on a grid.

    x ≈ T_0 P_1^-1 T_1 P_2^-1 ... T_{d-1},   T_k = f(I_k, :, J_{k+1}),   P_k = f(I_k, J_k)

I_k holds r_k choices of the indices before mode k and J_k of those from mode k on; the left ones
are nested, I_{k+1} within I_k x {0..n_k-1}. At every bond the residual of the two modes beside it
is searched for large entries: rows from the columns of sampled points, columns from the rows so
found. These fibres are exactly those that the longer T_k need next.

`tt_argmax` goes the other way, from a train to its largest entry [Chertkov2022].
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral, Real

import torch
from torch import Tensor

from ..fit import Fit
from ..linalg import check_dense, orthogonalize, solve, widen
from ..multilinear import digit_shape, from_digits
from .base import check_shape
from .tt import TT

SAMPLE = 2000  # held-out points, but no more than a tenth of the budget
EXPLORERS = 50  # fresh points at which each sweep looks for what the fibres have missed


@dataclass(frozen=True, eq=False, repr=False)
class CrossFit(Fit[TT]):
    """A `Fit` of a cross approximation; its history holds the held-out error after each sweep.

    evaluations: distinct points that f was asked for, the held-out ones included. error: the last
    of the history. pivots: for each of the d-1 bonds (I, J), index tensors (r, k) and (r, d-k): the
    fibres that were chosen.
    """

    evaluations: int = 0
    error: float = math.nan
    pivots: tuple[tuple[Tensor, Tensor], ...] = ()


def tt_cross(
    f: Callable[[Tensor], Tensor],
    shape,
    *,
    rtol: float,
    budget: int,
    quantized: bool = False,
    device=None,
    generator: torch.Generator | None = None,
) -> CrossFit:
    """Tensor train of the tensor whose entries a function gives, from few of them
    [Savostyanov2014].

        |x - tt| <= rtol |x|      estimated on held-out random points, which the search never sees; when `converged`

    f: (batch, d) int64 on `device` -> (batch,) real or complex floating; called in batches, never
    twice for a point, never for more than `budget` points in all. quantized: the train has the
    modes of `digit_shape(shape)`, with each index in its prime digits; f still gets plain indices.
    Ranks grow until the held-out error meets `rtol`; otherwise, when the budget is spent or no
    pivot is found, the train so far comes back with `converged=False`. A function that is zero at
    all held-out points is taken for zero.

    Where the values carry a graph, so does the result: its cores are built from them, with the
    fibres held fixed. Raises ValueError for a bad argument and for values that are not finite,
    TypeError for values that are not floating; what f raises goes through. Each of these carries
    the `CrossFit` so far as `.partial` (None before the first train).

    >>> f = lambda index: 1 / (1 + index.double().sum(1))
    >>> fit = tt_cross(f, (20,) * 6, rtol=1e-4, budget=20_000, generator=torch.Generator().manual_seed(0))
    >>> fit.converged, fit.error < 1e-4, fit.evaluations < 15_000
    (True, True, True)
    """
    *_, fit = tt_cross_steps(
        f, shape, rtol=rtol, budget=budget, quantized=quantized, device=device, generator=generator
    )
    return fit


def tt_cross_steps(
    f, shape, *, rtol, budget, quantized=False, device=None, generator=None
) -> Iterator[CrossFit]:
    """The same sweep by sweep, beginning with a train of rank 1: what `tt_cross` gives back is the
    last one.

    >>> steps = tt_cross_steps(lambda i: (i[:, 0] + i[:, 1]).double(), (9, 9), rtol=1e-9, budget=81)
    >>> [fit.value.ranks for fit in steps]
    [(1,), (2,)]
    """
    shape = check_shape("tt_cross", shape)
    if isinstance(rtol, bool) or not isinstance(rtol, Real) or not 0 <= rtol < math.inf:
        raise ValueError(f"tt_cross: rtol must be a number >= 0, got {rtol!r}")
    if isinstance(budget, bool) or not isinstance(budget, Integral):
        raise TypeError(f"tt_cross: budget must be an integer, got {budget!r}")
    modes = digit_shape(shape) if quantized else shape
    sample = max(1, min(SAMPLE, budget // 10))
    least = sample + sum(modes) - len(modes)
    if budget < least:
        raise ValueError(
            f"tt_cross: budget must be at least {least}, one fibre in each mode and the sample, "
            f"got {budget}"
        )
    values = _Values((lambda i: f(from_digits(i, shape))) if quantized else f, budget, device)
    fit = None
    try:
        held = _points(modes, sample, generator)
        exact = values.numbers(values(held))
        size = float(torch.linalg.vector_norm(exact))
        if size == 0.0:
            zero = TT(tuple(values.values.new_zeros(1, n, 1) for n in modes))
            yield CrossFit(zero, (0.0,), True, values.count, 0.0)
            return
        state = _Cross(values, modes, held[exact.abs().argmax().cpu()])
        noise = 64 * torch.finfo(values.values.dtype).eps * float(exact.abs().max())
        mean, level, history, added = 1 / math.sqrt(len(held)), math.inf, (), 1
        while True:
            tt = state.train()
            error = float(torch.linalg.vector_norm(_at(tt, held) - exact))
            history = (*history, error / size)
            fit = CrossFit(
                tt, history, history[-1] <= rtol, values.count, history[-1], state.pivots
            )
            yield fit
            if fit.converged or (not added and level <= noise):
                return
            # Small pivots taken early would make P_k ill-conditioned for what comes later, so the
            # level falls with the error.
            level = (
                max(noise, 1e-3 * error * mean, 0.03 * rtol * size * mean)
                if added
                else max(noise, 0.1 * level)
            )
            try:
                fresh = _points(modes, max(1, min(EXPLORERS, values.left // 10)), generator)
                missed = (_at(tt, fresh) - values.numbers(values(fresh))).abs()
                added = state.sweep(fresh[missed.argmax().cpu()][None], level, generator)
            except _Spent:
                added, level = 0, 0.0
    except Exception as error:
        error.partial = fit
        raise


def tt_argmax(tt: TT, *, beam: int = 100) -> tuple[tuple[int, ...], float]:
    """Multi-index and value of the largest entry of a real train, by beam search [Chertkov2022].

    From each end, the `beam` partial indices are kept whose slices of the tensor, x[i_0, ..., i_k,
    :, ..., :], have the largest norms, which an orthogonal train knows without looking further.
    What is so found are entries of large modulus; where the largest of them, c, is negative, the
    same is done for x - c >= 0. The best is moved along its fibres as long as that helps. Exact
    where the beam holds all; otherwise a good guess, at 8 d n r^2 beam operations.

    >>> from tensorlab import tt_svd
    >>> tt_argmax(tt_svd(torch.tensor([[1.0, -5.0], [3.0, 2.0]]), rtol=0.0))[0]
    (1, 0)
    """
    if not isinstance(tt, TT):
        raise TypeError(f"tt_argmax: needs a TT, got {type(tt).__name__}")
    if tt.dtype.is_complex:
        raise TypeError(f"tt_argmax: needs a real train, got {tt.dtype}")
    if isinstance(beam, bool) or not isinstance(beam, Integral) or beam < 1:
        raise ValueError(f"tt_argmax: beam must be an integer >= 1, got {beam!r}")
    for core in tt.cores:
        check_dense(core, "tt_argmax")
    x = TT(tuple(widen(c.detach()) for c in tt.cores))
    found = _beams(x, beam)
    entries = x.at(found)
    lowest = float(entries.min())
    if -lowest > float(entries.max()):
        flat = TT(tuple(torch.ones_like(c[:1, :, :1]) for c in x.cores))
        found = torch.cat([found, _beams(x - lowest * flat, beam)])
        entries = x.at(found)
    index = _climb(x, found[entries.argmax()])
    return tuple(index.tolist()), float(x.at(index[None])[0])


def _beams(x: TT, beam: int) -> Tensor:
    """Multi-indices of entries of large modulus, found from the left end and from the right one."""
    found = []
    for cores, turn in ((x.orthogonal(0).cores, 1), (_mirrored(x).orthogonal(0).cores, -1)):
        index, v = torch.zeros(1, 0, dtype=torch.long, device=x.device), cores[0].new_ones(1, 1)
        for core in cores:
            v = torch.tensordot(v, core, 1).flatten(0, 1)
            size = torch.linalg.vector_norm(v, dim=1)
            top = size.topk(min(beam, len(size))).indices
            index = torch.cat([index[top // core.shape[1]], (top % core.shape[1])[:, None]], 1)
            v = v[top] / size.max().clamp_min(torch.finfo(v.dtype).tiny)
        found.append(index if turn == 1 else index.flip(1))
    return torch.cat(found)


def _climb(x: TT, index: Tensor) -> Tensor:
    """Move to the largest entry of each fibre in turn, until all are; entries equal to rounding
    could swap for ever."""
    index, seen = index.clone(), set()
    while (here := tuple(index.tolist())) not in seen:
        seen.add(here)
        right = [x.cores[-1].new_ones(1)]
        for core, i in zip(x.cores[:0:-1], index.flip(0)):
            right.append(_unit(core[:, i] @ right[-1]))
        left = x.cores[0].new_ones(1)
        for k, core in enumerate(x.cores):
            fibre = torch.tensordot(left, core, 1) @ right.pop()
            if fibre.max() > fibre[index[k]]:
                index[k] = fibre.argmax()
            left = _unit(left @ core[:, index[k]])
    return index


def _unit(v: Tensor) -> Tensor:
    return v / torch.linalg.vector_norm(v).clamp_min(torch.finfo(v.dtype).tiny)


def _mirrored(x: TT) -> TT:
    return TT(tuple(c.permute(2, 1, 0) for c in x.cores[::-1]))


class _Spent(Exception):
    """The budget does not hold another batch."""


class _Values:
    """What f has given so far, each point once. Called with points (..., d), gives their positions
    (...) in `values`."""

    def __init__(self, f, budget, device):
        self.f, self.budget, self.device = f, budget, device
        self.seen, self.values = {}, None

    @property
    def count(self) -> int:
        return len(self.seen)

    @property
    def left(self) -> int:
        return self.budget - self.count

    def numbers(self, positions: Tensor) -> Tensor:
        """Values without their graph, in the dtype that sums are done in."""
        return widen(self.values.detach()[positions])

    def __call__(self, points: Tensor) -> Tensor:
        table, points = points.shape[:-1], points.reshape(-1, points.shape[-1])
        rows = points.to(torch.int32).numpy()
        keys = (
            rows.view(f"V{rows.itemsize * rows.shape[1]}").ravel().tolist()
        )  # bytes: exact for any number of modes
        new = {}
        for row, key in enumerate(keys):
            if key not in self.seen and key not in new:
                new[key] = row
        if len(new) > self.left:
            raise _Spent
        if new:
            given = self._ask(points[list(new.values())])
            self.values = given if self.values is None else torch.cat([self.values, given])
            self.seen.update(zip(new, range(self.count, self.count + len(new))))
        return torch.tensor([self.seen[key] for key in keys], dtype=torch.long).reshape(table)

    def _ask(self, points):
        given = torch.as_tensor(self.f(points.to(self.device)))
        if given.shape != (len(points),):
            need = f"f to return {len(points)} values for indices of shape {tuple(points.shape)}"
            raise ValueError(f"tt_cross: needs {need}, got shape {tuple(given.shape)}")
        if not (given.is_floating_point() or given.is_complex()):
            raise TypeError(
                f"tt_cross: needs floating-point or complex values from f, got {given.dtype}"
            )
        bad = (~torch.isfinite(given)).nonzero()
        if len(bad):
            row = int(bad[0])
            raise ValueError(
                f"tt_cross: needs finite values from f, got {given[row].item()} at index "
                f"{points[row].tolist()}"
            )
        return given


class _Cross:
    """Pivots and fibres. left[k]: I_k (r_k, k), right[k]: J_k (r_k, d-k), fibres[k]: positions of
    T_k (r_k, n_k, r_{k+1}) among the values, rows[k]: where I_{k+1} stands in I_k x {0..n_k-1}."""

    def __init__(self, values, shape, point):
        d = len(shape)
        self.values, self.shape, self.bonds = values, shape, list(range(d - 2, -1, -1))
        self.left = [point[None, :k] for k in range(d)]
        self.right = [point[None, k:] for k in range(d + 1)]
        self.rows = [point[k : k + 1] for k in range(d - 1)]
        fibres = values(
            torch.cat([_pairs(self._rows(k), self.right[k + 1])[:, 0] for k in range(d)])
        )
        self.fibres = [positions.reshape(1, -1, 1) for positions in fibres.split(shape)]

    @property
    def pivots(self):
        return tuple(zip(self.left[1:], self.right[1:]))

    def train(self) -> TT:
        """The interpolating train, with the graph and the dtype of the values."""
        values = self.values.values
        cores = [self._interpolate(k, values[at]) for k, at in enumerate(self.fibres[:-1])]
        return TT((*cores, values[self.fibres[-1]]))

    def sweep(self, explorers: Tensor, level: float, generator) -> int:
        """Look for pivots above `level` at every bond, and add them; how many there were. Every
        other sweep runs backwards: what is found at one bond widens the search at the next, to the
        right by its rows, to the left by its columns."""
        self.bonds.reverse()
        return sum(self._grow(k, explorers[:, k + 1 :], level, generator) for k in self.bonds)

    def _grow(self, k, explorers, level, generator) -> int:
        rows = self._rows(k)  # I_k x {0..n_k-1}
        columns = _pairs(torch.arange(self.shape[k + 1])[:, None], self.right[k + 2]).flatten(
            0, 1
        )  # {0..n-1} x J_{k+2}
        weight = self._interpolate(k, self.values.numbers(self.fibres[k])).flatten(
            0, 1
        )  # (rows, r), 1 at those of I_{k+1}
        known = self.values.numbers(self.fibres[k + 1]).flatten(1)  # (r, columns)
        most = 3 + len(known) // 8

        i, j = (torch.randint(len(m), (4 * most,), generator=generator) for m in (rows, columns))
        sampled = self._ask(torch.cat([rows[i], columns[j]], 1)) - (weight[i] * known[:, j].mT).sum(
            1
        )
        seeds = torch.cat(
            [columns[j[sampled.abs().argsort(descending=True)[:most].cpu()]], explorers]
        )
        residual = self._ask(_pairs(rows, seeds)) - weight @ self._ask(
            _pairs(self.left[k + 1], seeds)
        )
        residual[self.rows[k]] = (
            0.0  # interpolated; more than rounding only where values differ beyond their digits
        )
        i, _ = _large_entries(residual, most, level)
        across = self._ask(_pairs(rows[i], columns)) - weight[i] @ known
        chosen, j = _large_entries(torch.cat([across, residual[i]], 1), most, level)
        if not len(chosen):
            return 0
        i, right = i[chosen], torch.cat([columns, seeds])[j]
        below = self.values(_pairs(rows[i], columns)).reshape(-1, *self.fibres[k + 1].shape[1:])
        beside = self.values(_pairs(rows, right)).reshape(*self.fibres[k].shape[:2], -1)
        self.fibres[k] = torch.cat([self.fibres[k], beside], 2)
        self.fibres[k + 1] = torch.cat([self.fibres[k + 1], below])
        self.left[k + 1] = torch.cat([self.left[k + 1], rows[i]])
        self.right[k + 1] = torch.cat([self.right[k + 1], right])
        self.rows[k] = torch.cat([self.rows[k], i])
        return len(i)

    def _rows(self, k):
        return _pairs(self.left[k], torch.arange(self.shape[k])[:, None]).flatten(0, 1)

    def _ask(self, points):
        return self.values.numbers(self.values(points))

    def _interpolate(self, k, fibres):
        """T_k P_{k+1}^-1, by way of an orthonormal basis of the columns of T_k."""
        q, _ = orthogonalize(widen(fibres.flatten(0, 1)))
        core = solve(q[self.rows[k]].mT, q.mT).mT
        return core.reshape(fibres.shape[0], fibres.shape[1], -1).to(fibres.dtype)


def _large_entries(matrix: Tensor, most: int, level: float) -> tuple[Tensor, Tensor]:
    """Rows and columns of up to `most` pivots above `level`, by elimination with complete
    pivoting."""
    rows, columns = [], []
    while len(rows) < min(most, *matrix.shape):
        i, j = divmod(int(matrix.abs().argmax()), matrix.shape[1])
        if not float(matrix[i, j].abs()) > level:
            break
        rows.append(i)
        columns.append(j)
        matrix = matrix - torch.outer(matrix[:, j] / matrix[i, j], matrix[i])
        matrix[i], matrix[:, j] = 0.0, 0.0
    return torch.tensor(rows, dtype=torch.long), torch.tensor(columns, dtype=torch.long)


def _pairs(a: Tensor, b: Tensor) -> Tensor:
    """All multi-indices made of a row of `a` and a row of `b`. a: (m, j), b: (n, k) -> (m, n, j +
    k)."""
    return torch.cat([a[:, None].expand(-1, len(b), -1), b.expand(len(a), -1, -1)], 2)


def _points(shape, count, generator) -> Tensor:
    """Random multi-indices (count, d), or all there are where they are no more than that."""
    if math.prod(shape) <= count:
        return torch.cartesian_prod(*map(torch.arange, shape)).reshape(-1, len(shape))
    return torch.stack([torch.randint(n, (count,), generator=generator) for n in shape], 1)


def _at(tt: TT, points: Tensor) -> Tensor:
    return widen(TT(tuple(c.detach() for c in tt.cores)).at(points))
