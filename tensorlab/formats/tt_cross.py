"""Cross approximation [OseledetsTyrtyshnikov2010, Savostyanov2014]: a train from a few entries of a
function on a grid.

    x ≈ T_0 P_1^-1 T_1 P_2^-1 ... T_{d-1},   T_k = f(I_k, :, J_{k+1}),   P_k = f(I_k, J_k)

I_k holds r_k choices of the indices before mode k and J_k of those from mode k on; the left ones
are nested, I_{k+1} within I_k x {0..n_k-1}. At every bond the residual of the two modes beside it
is searched for large entries: rows from the columns of sampled points, columns from the rows so
found. These fibers are exactly those that the longer T_k need next.

With `pivots="prrlu"` the rank grows by no more than the error asks for, and no claim is made before
a global search [NunezFernandez2025]: from the held-out points that are missed most, the residual is
climbed along one mode after the other.

`tt_argmax` goes the other way, from a train to its largest entry [Chertkov2022].
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arguments import check_shape, count, number, one_of, returned, values_of
from ..fit import Fit
from ..linalg import EPS, check_dense, near_one, norm, orthogonalize, solve, widen
from ..multilinear import check_int64, digit_shape, from_digits, index_keys
from ..rng import check_generator, rand, randint
from .tt import TT, unfolding_ranks

SAMPLE = 2000  # held-out points at the start, but no more than a tenth of the budget
LEAST = 50  # held-out points that a claim rests on, or all that there are
MOST = 200_000  # held-out points at the end, where all so far are zero
PIVOTS = ("local", "prrlu")
SHARE = 16  # one evaluation in so many is spent on each global search, or a quarter of the held-out
EXPLORERS = 50  # fresh points at which each sweep looks for what the fibers have missed
CPU = torch.device("cpu")  # where indices are kept, whatever torch's default device is


@dataclass(frozen=True, eq=False, repr=False)
class CrossFit(Fit[TT]):
    """A `Fit` of a cross approximation; its history holds the held-out error after each sweep.

    evaluations: distinct points that f was asked for, the held-out ones included. error: the last
    of the history. held_out: how many points it is measured at. pivots: for each of the d-1 bonds
    (I, J), index tensors (r, k) and (r, d-k): the fibers that were chosen.

    >>> fit = tt_cross(lambda i: 1.0 * i.sum(1), (8, 8, 8), rtol=1e-6, budget=400)
    >>> type(fit).__name__, fit.value.ranks, fit.error < 1e-6, len(fit.pivots)
    ('CrossFit', (2, 2), True, 2)
    """

    evaluations: int = 0
    error: float = math.nan
    held_out: int = 0
    pivots: tuple[tuple[Tensor, Tensor], ...] = ()


def tt_cross(
    f: Callable[[Tensor], Tensor],
    shape,
    *,
    rtol: float,
    budget: int,
    quantized: bool = False,
    pivots: str = "local",
    device=None,
    generator: torch.Generator | None = None,
) -> CrossFit:
    """Tensor train of the tensor whose entries a function gives, from few of them
    [Savostyanov2014].

        |x - tt| <= rtol |x|
            estimated at random points that the search has not seen; when `converged`

    f: (batch, d) int64 on `device` -> (batch,) real or complex floating; called in batches and
        never twice for a point.
    shape: (n_0, ..., n_{d-1}) of the tensor.
    rtol: the relative error at which the ranks stop growing.
    budget: the most points that f is called for.
    quantized: the train has the modes of `digit_shape(shape)`, with each index in its prime digits;
        f still gets plain indices.
    pivots: "local" looks beside the fibers and at 50 fresh points in each sweep; "prrlu" also
        searches globally before it has converged, see below.
    device: where f is called; None: torch's default.
    generator: draws points; None: torch's global one.

    Where the budget is spent, or no pivot is found, before the error meets `rtol`, the train so far
    comes back with `converged=False`.

    A tenth of the budget, at most 2000 points, is held out. Points that the search comes to, the
    first pivot among them, no longer count. `converged` needs 50 points that are left, not all of
    them zero, or all entries: missing points are drawn anew, and without them `converged` is False
    (and the error nan where no point is left). Where all entries are known the error is that of
    all. A function that is zero at 200 000 points, or at all that the budget allows, is taken to be
    zero, and that counts as converged.

    "prrlu" adds as many pivots as the error asks for, holds out a fifth less, and spends what is
    saved on a global search: lines through the points that are missed most. It thus finds a narrow
    peak far from the rest, where a sampled error sees nothing amiss, if one of the points or lines
    meets its skirts: where what it adds is above what is missed anyway.

    Where the values carry a graph, so does the result: its cores are built from them, with the
    fibers held fixed. Raises ValueError for a bad argument and for values that are not finite,
    TypeError for values that are not floating, RuntimeError from what f raises. Each of these
    carries the `CrossFit` so far as `.partial` (None before the first train).

    >>> f = lambda index: 1 / (1 + index.double().sum(1))
    >>> g = torch.Generator().manual_seed(0)
    >>> fit = tt_cross(f, (20,) * 6, rtol=1e-4, budget=20_000, generator=g)
    >>> fit.converged, fit.error < 1e-4, fit.evaluations < 15_000
    (True, True, True)
    """
    *_, fit = tt_cross_steps(
        f,
        shape,
        rtol=rtol,
        budget=budget,
        quantized=quantized,
        pivots=pivots,
        device=device,
        generator=generator,
    )
    return fit


def tt_cross_steps(
    f, shape, *, rtol, budget, quantized=False, pivots="local", device=None, generator=None
) -> Iterator[CrossFit]:
    """The same sweep by sweep, beginning with a train of rank 1: what `tt_cross` gives back is the
    last one.

    f, shape, rtol, budget, quantized, pivots, device, generator: as in `tt_cross`.

    >>> steps = tt_cross_steps(lambda i: (i[:, 0] + i[:, 1]).double(), (9, 9), rtol=1e-9, budget=81)
    >>> [fit.value.ranks for fit in steps]
    [(1,), (2,)]
    """
    who = "tt_cross"
    shape = check_int64(who, check_shape(who, shape))
    if not callable(f):
        raise TypeError(f"{who}: f must be a function, got {type(f).__name__}")
    check_generator(who, generator)
    rtol = number(who, "rtol", rtol)
    one_of(who, "pivots", pivots, PIVOTS)
    modes, budget = digit_shape(shape) if quantized else shape, count(who, "budget", budget, 0)
    seek = pivots == "prrlu"
    sample = min(SAMPLE, budget // 10) * (4 if seek else 5) // 5  # a fifth is for the search
    sample = max(1, sample)
    least = sample + sum(modes) - len(modes)
    if budget < least:
        raise ValueError(
            f"{who}: budget must be at least {least}, one fiber in each mode and the sample, "
            f"got {budget}"
        )
    digits = (lambda i: f(from_digits(i, shape))) if quantized else f
    values, fit = _Values(digits, modes, budget, device, generator), None
    try:
        for fit in _sweeps(values, sample, rtol, seek):
            yield fit
    except (ValueError, TypeError, RuntimeError) as error:  # what f raises is the cause of the last
        vars(error)["partial"] = fit
        raise


def _sweeps(values: "_Values", sample: int, rtol: float, seek: bool) -> Iterator[CrossFit]:
    """The algorithm. Levels, under which a pivot is noise, are in units of the first value."""
    first = values.first(sample)
    if first is None:
        zero = TT(tuple(values.values.new_zeros(1, n, 1) for n in values.modes))
        sure = values.complete or values.count >= LEAST
        yield CrossFit(zero, (0.0,), sure, values.count, 0.0, values.count)
        return
    state, history, idle = _Cross(values, first), (), 0
    unit = float(values.numbers(values(first)).abs())
    noise = 16 * torch.finfo(values.values.dtype).eps + 48 * EPS  # rounding of values and of sums
    level = noise
    while True:
        tt = state.to_tt()
        error, size, held, enough = values.judge(tt, rtol)
        history = (*history, error)
        done = enough and error <= rtol
        found = values.search(tt, size, rtol) if done and seek else values.held[:0]
        done = done and not len(found)
        fit = CrossFit(tt, history, done, values.count, error, held, state.pivots)
        yield fit
        if done or (idle > 1 and level <= noise):  # in vain in both directions
            return
        # Small pivots taken early would make P_k ill-conditioned for what comes later, so the level
        # falls with the error.
        wanted = 0.1 * level if idle else max(1e-3 * error, 0.03 * rtol) * size / unit
        level = max(noise, min(1.0, wanted))
        try:
            if not (len(found) or (seek and not idle)):
                found = values.missed(tt, stuck=idle > 0)
            most = _wanted(error, rtol) if seek else None
            added = state.sweep(found, level * unit, most)
            idle = 0 if added else idle + 1
        except _Spent:  # what was found before that is shown yet
            idle, level = 2, 0.0


def tt_argmax(tt: TT, *, beam: int = 100) -> tuple[tuple[int, ...], float]:
    """Multi-index and value of the largest entry of a real train, by beam search [Chertkov2022].

    From each end, the `beam` partial indices are kept whose slices of the tensor, x[i_0, ..., i_k,
    :, ..., :], have the largest norms, which an orthogonal train knows without looking further.
    This finds entries of large modulus; where the largest of them, c, is negative, the same is done
    for x - c >= 0. The best is moved along its fibers as long as that helps. Exact where the beam
    holds all; otherwise a good guess, at 8 d n r^2 beam operations. Raises TypeError for anything
    but a real train, ValueError for entries that are not finite and for a beam under 1.

    >>> from tensorlab import tt_svd
    >>> tt_argmax(tt_svd(torch.tensor([[1.0, -5.0], [3.0, 2.0]]), rtol=0.0))[0]
    (1, 0)
    """
    if not isinstance(tt, TT):
        raise TypeError(f"tt_argmax: needs a TT, got {type(tt).__name__}")
    if tt.dtype.is_complex:
        raise TypeError(f"tt_argmax: needs a real train, got {tt.dtype}")
    beam = count("tt_argmax", "beam", beam)
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
            v, _ = near_one(torch.tensordot(v, core, 1).flatten(0, 1))
            top = torch.linalg.vector_norm(v, dim=1).topk(min(beam, len(v))).indices
            index = torch.cat([index[top // core.shape[1]], (top % core.shape[1])[:, None]], 1)
            v = v[top]
        found.append(index if turn == 1 else index.flip(1))
    return torch.cat(found)


def _climb(x: TT, index: Tensor) -> Tensor:
    """Move to the largest entry of each fiber in turn, until all are; entries equal to rounding
    could swap for ever."""
    index, seen = index.clone(), set()
    while (here := tuple(index.tolist())) not in seen:
        seen.add(here)
        right = [x.cores[-1].new_ones(1)]
        for core, i in zip(x.cores[:0:-1], index.flip(0)):
            right.append(near_one(core[:, i] @ right[-1])[0])
        left = x.cores[0].new_ones(1)
        for k, core in enumerate(x.cores):
            fiber = torch.tensordot(left, core, 1) @ right.pop()
            if fiber.max() > fiber[index[k]]:
                index[k] = fiber.argmax()
            left = left @ core[:, index[k]]
    return index


def _mirrored(x: TT) -> TT:
    return TT(tuple(c.permute(2, 1, 0) for c in x.cores[::-1]))


class _Spent(Exception):
    """The budget does not hold another batch."""


class _Values:
    """What f has given so far, each point once. Called with points (..., d), gives their positions
    (...) in `values`.

    Some points are held out: `hold` asks for them, and they measure the error for as long as the
    search does not call for them.
    """

    def __init__(self, f, modes, budget, device, generator):
        self.f, self.modes, self.budget, self.generator = f, modes, budget, generator
        self.device = torch.get_default_device() if device is None else torch.device(device)
        self.total = math.prod(modes)
        self.seen: dict[bytes, int] = {}
        self.values = torch.zeros(0, device=CPU)  # until the first are known
        self.shown = torch.zeros(0, dtype=torch.bool, device=CPU)  # to the search, by position
        self.held = torch.zeros(0, len(modes), dtype=torch.long, device=CPU)  # points held out
        self.held_at = torch.zeros(0, dtype=torch.long, device=CPU)  # and their positions
        self.peaks = self.held  # points that a global search has found

    def __call__(self, points: Tensor) -> Tensor:
        positions = self._find(points)
        self.shown[positions] = True
        return positions

    @property
    def count(self) -> int:
        return len(self.seen)

    @property
    def left(self) -> int:
        """How many more points f can be asked for."""
        return min(self.budget, self.total) - self.count

    @property
    def complete(self) -> bool:
        return self.count == self.total

    def numbers(self, positions: Tensor) -> Tensor:
        """Values without their graph, in the dtype that sums are done in."""
        return widen(self.values.detach()[positions])

    # -- held-out points

    def hold(self, count: int) -> None:
        """Hold out `count` points that f has not been asked for, or all that are left."""
        new = self._unseen(min(count, self.left))
        self.held = torch.cat([self.held, new])
        self.held_at = torch.cat([self.held_at, self._find(new)])

    def first(self, sample: int) -> Tensor | None:
        """The largest of `sample` held-out points; of up to MOST where these are zero, and None
        where all are that the budget holds beside one fiber in each mode."""
        fibers = 0 if self.budget >= self.total else sum(self.modes) - len(self.modes)
        self.hold(sample)
        while not self.values.any() and self.left > fibers and self.count < MOST:
            self.hold(min(self.count, self.left - fibers))
        sizes = self.numbers(self.held_at).abs()
        return self.held[sizes.argmax().cpu()] if sizes.any() else None

    def judge(self, tt: TT, rtol: float) -> tuple[float, float, int, bool]:
        """Relative error of a train at the held-out points, root mean square of their values, their
        number, and whether that is enough for a claim: LEAST, not all zero, or all that there are.
        """
        while True:
            points, positions = self._apart()
            exact = self.numbers(positions)
            error, size = _error(_at(tt, points), exact)
            enough = self.complete or (len(points) >= LEAST and size > 0)
            if enough or error > rtol or not self.left or len(self.held) >= MOST:
                return error, size, len(points), enough
            self.hold(max(LEAST, len(points)))

    def missed(self, tt: TT, stuck: bool) -> Tensor:
        """The one of some points where the train is worst, (1, d). They are random ones, or those
        held out where the search is stuck: the one chosen is then shown to it."""
        points, positions = self._apart()
        if not (self.complete or (stuck and len(points))):
            points = self._random(max(1, min(EXPLORERS, self.left // 10)))
            positions = self(points)
        residual = _at(tt, points) - self.numbers(positions)
        worst = points[residual.abs().argmax().cpu()][None]
        self(worst)
        return worst

    def search(self, tt: TT, size: float, rtol: float) -> Tensor:
        """Points (k, d) that a train misses though its error is small, by sqrt(rtol) of the entry
        and of the root mean square `size`. The residual is climbed from the held-out points where
        it is largest, weighed by its share of the entry: the skirts of a far peak may be tiny, but
        they are all that is there. Points found before are tried again."""
        if self.complete:
            return self.held[:0]
        points, positions = self._apart()
        held, exact = _at(tt, points), self.numbers(positions)
        missed = (held - exact).abs()
        strange = missed * (missed / (held.abs() + exact.abs() + torch.finfo(missed.dtype).tiny))
        points = points[strange.argsort(descending=True).cpu()]
        end = self.count + min(self.left, max(len(self.held) // 4, self.count // SHARE))
        for start in points:
            if self.count + sum(self.modes) - len(self.modes) > end:
                break
            self.peaks = torch.cat([self.peaks, self._climb(tt, start, end)[None]])
        missed, exact = self._residual(tt, self.peaks)
        outlier = math.sqrt(rtol) * exact.abs().clamp_min(size)
        self.peaks = self.peaks[(missed > outlier).cpu()].unique(dim=0)
        return self.peaks

    def _climb(self, tt: TT, point: Tensor, end: int) -> Tensor:
        """Move to the largest residual of each fiber in turn, for as long as a round gains a digit
        and keeps to `end` evaluations."""
        best, last = self._residual(tt, point[None])[0], 0.0
        while float(best) > 10 * last:
            last = float(best)
            for k, n in enumerate(self.modes):
                if self.count + n - 1 > end:
                    return point
                line = point.repeat(n, 1)
                line[:, k] = torch.arange(n, device=CPU)
                missed, _ = self._residual(tt, line)
                point, best = line[int(missed.argmax())], missed.max()
        return point

    def _residual(self, tt: TT, points: Tensor) -> tuple[Tensor, Tensor]:
        """|tt - f| and f at points, which the search has then seen."""
        exact = self.numbers(self(points))
        return (_at(tt, points) - exact).abs(), exact

    def _apart(self) -> tuple[Tensor, Tensor]:
        """Points that measure the error, and their positions: what is held out and not shown, or,
        where every entry is known, all."""
        if self.complete:
            return (points := _all(self.modes)), self._find(points)
        free = ~self.shown[self.held_at]
        return self.held[free], self.held_at[free]

    def _unseen(self, count: int) -> Tensor:
        """Different random points (count, d) that are not known."""
        if self.total <= 2 * (self.count + count):
            points = _all(self.modes)
            points = points[[key not in self.seen for key in index_keys(points, self.modes)]]
            return points[rand(len(points), generator=self.generator, device=CPU).argsort()[:count]]
        found = self.held[:0]
        while len(found) < count:
            more = torch.cat([found, self._random(count - len(found))])
            found = more[list(self._new(index_keys(more, self.modes)).values())]
        return found

    def _random(self, count: int) -> Tensor:
        return torch.stack([randint(n, count, generator=self.generator) for n in self.modes], 1)

    # -- asking

    def _new(self, keys) -> dict[bytes, int]:
        """Of the keys that are not known the first row of each."""
        new = {}
        for row, key in enumerate(keys):
            if key not in self.seen and key not in new:
                new[key] = row
        return new

    def _find(self, points: Tensor) -> Tensor:
        table, points = points.shape[:-1], points.reshape(-1, points.shape[-1])
        keys = index_keys(points, self.modes)
        new = self._new(keys)
        if len(new) > self.left:
            raise _Spent
        if new:
            given = self._ask(points[list(new.values())])
            self.values = torch.cat([self.values, given]) if self.seen else given
            self.seen.update(zip(new, range(self.count, self.count + len(new))))
            self.shown = torch.cat([self.shown, self.shown.new_zeros(len(new))])
        found = torch.tensor([self.seen[key] for key in keys], dtype=torch.long, device=CPU)
        return found.reshape(table)

    def _ask(self, points):
        given = values_of("tt_cross", self.f, points.to(self.device))
        given = returned("tt_cross", given, self.device)
        if given.shape != (len(points),):
            need = f"f to return {len(points)} values for indices of shape {tuple(points.shape)}"
            raise ValueError(f"tt_cross: needs {need}, got shape {tuple(given.shape)}")
        if not (given.is_floating_point() or given.is_complex()):
            raise TypeError(
                f"tt_cross: needs floating-point or complex values from f, got {given.dtype}"
            )
        if self.seen and given.device != self.values.device:
            raise ValueError(
                f"tt_cross: needs values on one device from f, got {self.values.device} and then "
                f"{given.device}"
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
    """Pivots and fibers. left[k]: I_k (r_k, k), right[k]: J_k (r_k, d-k), fibers[k]: positions of
    T_k (r_k, n_k, r_{k+1}) among the values, rows[k]: where I_{k+1} is in I_k x {0..n_k-1}."""

    def __init__(self, values: _Values, point: Tensor):
        self.values, self.shape = values, values.modes
        d = len(self.shape)
        self.bonds, self.most = list(range(d - 2, -1, -1)), unfolding_ranks(self.shape)
        self.left = [point[None, :k] for k in range(d)]
        self.right = [point[None, k:] for k in range(d + 1)]
        self.rows = [point[k : k + 1] for k in range(d - 1)]
        fibers = values(
            torch.cat([_pairs(self._rows(k), self.right[k + 1])[:, 0] for k in range(d)])
        )
        self.fibers = [positions.reshape(1, -1, 1) for positions in fibers.split(self.shape)]

    @property
    def pivots(self):
        return tuple(zip(self.left[1:], self.right[1:]))

    def to_tt(self) -> TT:
        """The interpolating train, with the graph and the dtype of the values."""
        values = self.values.values
        cores = [
            self._interpolate(k, widen(values[at])).to(values.dtype)
            for k, at in enumerate(self.fibers[:-1])
        ]
        return TT((*cores, values[self.fibers[-1]]))

    def sweep(self, explorers: Tensor, level: float, most: int | None = None) -> int:
        """Look for pivots above `level` at every bond, and add up to `most`; how many there were.
        Every other sweep runs backwards: what is found at one bond widens the search at the next,
        to the right by its rows, to the left by its columns."""
        self.bonds.reverse()
        return sum(self._grow(k, explorers[:, k + 1 :], level, most) for k in self.bonds)

    def _grow(self, k, explorers, level, cap) -> int:
        rows = self._rows(k)  # I_k x {0..n_k-1}
        columns = _pairs(_column(self.shape[k + 1]), self.right[k + 2]).flatten(0, 1)
        weight = self._interpolate(k, self.values.numbers(self.fibers[k]))
        weight = weight.flatten(0, 1)  # (rows, r), 1 at those of I_{k+1}
        known = self.values.numbers(self.fibers[k + 1]).flatten(1)  # (r, columns)
        usual = 3 + len(known) // 8
        most = min(usual, cap or usual, self.most[k] - len(known))
        if not most:
            return 0

        i, j = (randint(len(m), 4 * most, generator=self.values.generator) for m in (rows, columns))
        sampled = self._ask(torch.cat([rows[i], columns[j]], 1))
        sampled = sampled - (weight[i] * known[:, j].mT).sum(1)
        worst = sampled.abs().argsort(descending=True)[:most].cpu()
        seeds = torch.cat([columns[j[worst]], explorers])
        residual = self._ask(_pairs(rows, seeds))
        residual = residual - weight @ self._ask(_pairs(self.left[k + 1], seeds))
        # interpolated; more than rounding only where values differ beyond their digits
        residual[self.rows[k]] = 0.0
        i, _ = _large_entries(residual, most, level)
        across = self._ask(_pairs(rows[i], columns)) - weight[i] @ known
        chosen, j = _large_entries(torch.cat([across, residual[i]], 1), most, level)
        if not len(chosen):
            return 0
        i, right = i[chosen], torch.cat([columns, seeds])[j]
        below = self.values(_pairs(rows[i], columns)).reshape(-1, *self.fibers[k + 1].shape[1:])
        beside = self.values(_pairs(rows, right)).reshape(*self.fibers[k].shape[:2], -1)
        self.fibers[k] = torch.cat([self.fibers[k], beside], 2)
        self.fibers[k + 1] = torch.cat([self.fibers[k + 1], below])
        self.left[k + 1] = torch.cat([self.left[k + 1], rows[i]])
        self.right[k + 1] = torch.cat([self.right[k + 1], right])
        self.rows[k] = torch.cat([self.rows[k], i])
        return len(i)

    def _rows(self, k):
        return _pairs(self.left[k], _column(self.shape[k])).flatten(0, 1)

    def _ask(self, points):
        return self.values.numbers(self.values(points))

    def _interpolate(self, k, fibers):
        """T_k P_{k+1}^-1, by way of an orthonormal basis of the columns of T_k."""
        q, _ = orthogonalize(near_one(fibers.flatten(0, 1))[0])
        core = solve(q[self.rows[k]].mT, q.mT).mT
        return core.reshape(fibers.shape[0], fibers.shape[1], -1)


def _wanted(error: float, rtol: float) -> int:
    """How many pivots a bond should get, at two for each digit that is missing."""
    digits = math.log10(error / rtol) if 0 < rtol < error < math.inf else math.inf
    return 1 if error <= rtol else math.ceil(min(2 * digits, 99.0))


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
    i, j = (torch.tensor(at, dtype=torch.long, device=CPU) for at in (rows, columns))
    return i, j


def _error(found: Tensor, exact: Tensor) -> tuple[float, float]:
    """|found - exact| / |exact|, and the root mean square of what is exact; nan where there is
    nothing."""
    if not len(exact):
        return math.nan, 0.0
    missed, size = float(norm(found - exact)), float(norm(exact))
    error = missed / size if size else math.inf if missed else 0.0
    return error, size / math.sqrt(len(exact))


def _pairs(a: Tensor, b: Tensor) -> Tensor:
    """All multi-indices made of a row of `a` and a row of `b`. a: (m, j), b: (n, k) -> (m, n, j +
    k)."""
    return torch.cat([a[:, None].expand(-1, len(b), -1), b.expand(len(a), -1, -1)], 2)


def _column(n: int) -> Tensor:
    return torch.arange(n, device=CPU)[:, None]


def _all(shape) -> Tensor:
    """All multi-indices, (product of the shape, d)."""
    places = torch.arange(math.prod(shape), device=CPU)
    return torch.stack(torch.unravel_index(places, shape), 1)


def _at(tt: TT, points: Tensor) -> Tensor:
    """Entries of the train as it is stored, in the dtype that sums are done in."""
    return TT(tuple(widen(core.detach()) for core in tt.cores)).at(points)
