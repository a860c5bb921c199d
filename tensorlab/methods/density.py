"""Densities as tensor trains on B-splines [Novikov2021].

A function of d variables with a train A of coefficients, one B-spline basis b_1, ..., b_m for each
variable:

    q(x) = <A, b(x_0) o ... o b(x_{d-1})>,      v_{k+1} = v_k sum_i b_i(x_k) G_k[i]

where degree + 1 of the m terms are not zero. With D_ij the integral of b_i b_j and c_i that of b_i,

    "squared"   p(x) = sum_c q_c(x)^2 / sum_c Z_c,      Z = <A, (D o ... o D) A>
    "linear"    p(x) = q(x) / Z,                        Z = <A, c o ... o c>

The first is found by maximum likelihood; the second on the manifold of trains, by a loss in closed
form,

    |p - q|^2 = <A, (D o ... o D) A> - 2 E q(x) + const

The squared model is a density by construction; the linear one may be negative, where it has no
logarithm. Both integrate over variables core by core, so marginals, conditionals and samples are
exact [Dolgov2020].

Where single variables have peaks and jumps, each goes first through its own distribution function
u_k = F_k(x_k), piecewise linear on cells (`Margins`), and the train describes how they depend
on each other: p(x) = p(u) prod_k F_k'(x_k).

Splines end where the data end. A small share of the mass lies in a wide density that is nowhere
zero (`Background`), so that every row has a likelihood; it is a product over the variables, so all
of the above stays exact.
"""

import math
import time
import warnings
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments import count, is_integer, number, one_of
from ..formats.tt_sampling import tt_environments
from ..rng import rand
from .density_learners import Task, adam, least_squares, natural, of_mass_one, start_trains
from .estimator import Estimator, like, read_table, seeded, standardize
from .spline_trains import CHUNK, active_slices, gram_step
from .splines import Background, Margins, Splines, invert, spline_edges


class Report(NamedTuple):
    """The mean log-density of the rows that have one, and the shares of those that have none."""

    mean: float
    outside: float
    negative: float


class TTDensity(Estimator):
    """A density of d variables: a train on B-splines, squared or linear, with the interface of
    scikit-learn's `KernelDensity`.

        p(x) = (1 - share) t(x) + share g(x),     t(x) = sum_c q_c(x)^2 / sum_c Z_c  or  q(x) / Z

    rank: of the train.
    basis: how many functions m each variable has.
    model: "squared" or "linear".
    degree: of the B-splines.
    knots: "quantile" or "uniform", over the range of the data and a share `margin` of it on both
        sides; outside of this support t is zero.
    margin: that share.
    background: the share of g, a product of logistic densities about the data's means with their
        deviations as scales, which is nowhere zero, so that every row has a likelihood and
        cross-validation can compare models. None for 1 / (n + 1) after n rows, by Laplace's rule
        the chance that the next row is like none before; 0 for a density of bounded support.
    components: trains in the mixture, the first with the variables in their order, each other in
        another one (squared only).
    cells: 0, or how many cells the distribution function (`Margins`) has that each variable goes
        through first; knots are even then.
    em_steps: of the start, a mixture of `rank` products of one-dimensional densities.
    method: "natural", sweeps there and back over the cores, a step of the natural gradient with a
        line search in each (`natural_sweep`); "adam", Adam on all cores, its rate falling from lr
        to 0, as the authors' code has it. A linear model takes Riemannian descent.
    steps: of the method.
    batch: how many rows a step takes.
    lr: the rate of Adam.
    noise: standard deviations of the Gaussian noise that is added to a batch (with cells: of that
        length in [0, 1]).
    held_out: the share of the rows that is not fitted; what is likeliest on it is kept.
    random_state: an integer gives the same numbers at each fit; a generator of torch or NumPy goes
        on from its state.

    fit learns trains_ (TT each), orders_, splines_, margins_ (None without cells), background_,
    support_, history_ (step, seconds, held-out mean log-density of t or loss of standardized rows),
    n_features_in_, and feature_names_in_ from a data frame. Units do not matter: columns times any
    number, or shifted, have the same density in their units.

    X: (n, d), a tensor, an array, a data frame or a list of rows. The model has a tensor's dtype,
    float32 or float64, and device; integers are taken as float64, half precision as float32.
    Raises ValueError for NaN, for fewer than two rows and for constant columns, and TypeError for
    what is not a table of numbers, before anything learned is replaced; warns of rows that repeat.

    >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> model = TTDensity(rank=2, basis=10, steps=2).fit(x)
    >>> model.score_samples(x).shape, model.sample(3).shape
    (torch.Size([500]), torch.Size([3, 2]))
    """

    def __init__(
        self,
        rank=8,
        basis=32,
        *,
        model="squared",
        degree=2,
        knots="quantile",
        margin=0.05,
        background=None,
        components=1,
        cells=0,
        em_steps=20,
        method="natural",
        steps=10,
        batch=1 << 14,
        lr=0.01,
        noise=0.0,
        held_out=0.1,
        random_state=0,
    ):
        self.rank = rank
        self.basis = basis
        self.model = model
        self.degree = degree
        self.knots = knots
        self.margin = margin
        self.background = background
        self.components = components
        self.cells = cells
        self.em_steps = em_steps
        self.method = method
        self.steps = steps
        self.batch = batch
        self.lr = lr
        self.noise = noise
        self.held_out = held_out
        self.random_state = random_state

    def fit(self, X, y=None) -> "TTDensity":
        """Learn from the rows of X (n, d); y is for pipelines, and ignored."""
        x, mean, spread, generator = self._data(X)
        began, (n, d) = time.perf_counter(), x.shape
        x, slope, splines, margins = self._coordinates(x)
        task, held = self._task(x, splines, generator, began)
        trains = start_trains(task, self.rank, self.em_steps, self.model == "squared")
        learn = {"natural": natural, "adam": adam}[self.method]
        trains, history = (least_squares if self.model == "linear" else learn)(task, trains)
        if self.model == "squared":
            level = float(slope[held].sum(1).mean())
            history = tuple((step, seconds, value + level) for step, seconds, value in history)
        else:
            trains = [of_mass_one(trains[0], splines, spread)]
        share = 1 / (n + 1) if self.background is None else self.background
        self.background_ = Background(float(share), mean, spread)
        self.margins_ = margins and margins.moved(mean, spread)
        self.splines_ = splines if margins else splines.moved(mean, spread)
        self.trains_, self.orders_, self.history_ = trains, task.orders, history
        self._remember(X, d)
        return self

    def score_samples(self, X, *, dims=None, given: Mapping[int, float] | None = None):
        """Exact log-densities (n,): of all variables, of some (a marginal), or of some when others
        are known (a conditional).

            log p(x_dims | x_given) = log integral of p over the rest
                                      - log integral of p over all but the given

        X: (n, d), or (n, len(dims)). dims: different variables; by default all but the given. Rows
        where a linear model is not positive have NaN, and without a background rows outside of the
        support have -inf; both are counted in a warning, and in `report`.
        """
        who = "TTDensity.score_samples"
        fixed, dims = self._variables(who, dims, given)
        x = self._rows("score_samples", X, dims).to(self.splines_.edges)
        base = self._log_density(fixed)
        if not bool(base > -math.inf):
            raise ValueError(f"{who}: needs a condition of positive density, got none at {given}")
        parts = x.split(self._rows_at_once(len(dims)))
        log = torch.cat([self._log_density(fixed, dims, part) for part in parts]) - base
        self._say(who, log)
        return like(X, log)

    def score(self, X, y=None) -> float:
        """The sum of the log-densities, as `KernelDensity.score` gives it: NaN with a row where a
        linear model is negative, and without a background -inf with a row outside."""
        return float(torch.as_tensor(self.score_samples(X)).sum())

    def report(self, X) -> Report:
        """The mean log-density over the rows that have one, with the shares of rows outside of the
        support and of negative ones."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            log = torch.as_tensor(self.score_samples(X))
            x = self._rows("report", X).to(self.support_)
        known, (low, high) = log.isfinite(), self.support_.T
        return Report(
            float(log[known].mean()),
            float(((x < low) | (x > high)).any(1).double().mean()),
            float(log.isnan().double().mean()),
        )

    @torch.no_grad()
    def sample(
        self, n_samples: int = 1, random_state=None, *, given: Mapping[int, float] | None = None
    ):
        """Independent exact samples (n, d), by inverting the distribution function of each variable
        after those before it.

        On an interval the conditional density is a polynomial of degree 2q (linear: q): its mass is
        known, and 60 bisections find the place. given: variables that are known; they stand in
        their columns. A linear model's negative parts cannot be drawn: they count as zero, and a
        warning tells their share of the mass. random_state: a seed, a generator or None.
        """
        who = "TTDensity.sample"
        fixed, _ = self._variables(who, (), given)
        n = count(who, "n_samples", n_samples, 1)
        generator = seeded(who, random_state, self.splines_.edges.device)
        shares = self._shares(fixed)
        if not shares.isfinite().all():
            raise ValueError(f"{who}: needs a condition of positive density, got none at {given}")
        chosen = torch.multinomial(shares, n, True, generator=generator)
        *counts, rest = torch.bincount(chosen, minlength=len(shares)).tolist()
        inner, parts, negative = self._inner_values(fixed)[0], [], 0.0
        for c, many in enumerate(counts):
            for rows in range(0, many, step := self._rows_at_once(1)):
                part, clipped = self._draw(c, min(step, many - rows), inner, generator)
                parts.append(self.margins_.back(part) if self.margins_ else part)
                negative = max(negative, clipped)
        if rest:
            parts.append(self.background_.draw(rest, generator))
        if negative > 1e-9:
            warnings.warn(
                f"{who}: a negative share of {negative:.2g} of a conditional's mass counts as "
                f"zero; the samples are that far from the model",
                stacklevel=2,
            )
        x = torch.cat(parts)[torch.randperm(n, generator=generator, device=shares.device)]
        for k, value in fixed.items():
            x[:, k] = value
        return x.cpu().numpy() if self._array else x

    @property
    def support_(self) -> Tensor:
        """Where the trains are not zero, (d, 2): from and to; beyond it lies only the
        background."""
        outer = self._fitted("margins_") or self.splines_
        return outer.edges[:, [0, -1]]

    # -- integrals

    def _log_density(self, fixed: dict, dims=(), x: Tensor | None = None) -> Tensor:
        """log of the joint density of what is fixed and of the variables dims at the rows of x, the
        others integrated: (n,), or (1,) without x; NaN where it is negative."""
        log, sign = self._log_train(fixed, dims, x)
        own = self.background_.log(log.new_tensor([list(fixed.values())]), list(fixed))
        if x is not None:
            own = own + self.background_.log(x, list(dims))
        return self.background_.mixed(log, sign, own)

    def _log_train(self, fixed: dict, dims=(), x: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """log |t| and the sign of t, the share of the trains in `_log_density`."""
        fixed, slope = self._inner_values(fixed)
        inside = None
        if x is not None:
            x, slopes = self._inner(x, dims)
            slope, inside = slope + slopes, self.splines_.at(x, dims).inside
        chains = [self._log_chain(c, fixed, dims, x) for c in range(len(self.trains_))]
        whole = [self._log_chain(c, {}, [])[0] for c in range(len(self.trains_))]
        log = torch.stack([log for log, _ in chains]).logsumexp(0)
        log = log - torch.stack(whole).logsumexp(0) + slope
        sign = chains[0][1] if self.model == "linear" else torch.ones_like(log)
        if inside is None:
            return log, sign
        return torch.where(inside, log, -math.inf), torch.where(inside, sign, 0.0)

    def _shares(self, fixed: dict) -> Tensor:
        """Of the density of what is fixed, the share of each train and, last, of the background."""
        values, slope = self._inner_values(fixed)
        chains = [self._log_chain(c, values, []) for c in range(len(self.trains_))]
        whole = torch.stack([self._log_chain(c, {}, [])[0] for c in range(len(self.trains_))])
        logs = [torch.where(sign > 0, log, -math.inf) for log, sign in chains]
        logs = torch.cat(logs) + slope - whole.logsumexp(0)
        share, own = (
            self.background_.share,
            self.background_.log(logs.new_tensor([list(fixed.values())]), list(fixed)),
        )
        own = own + math.log(share) if share else torch.full_like(own, -math.inf)
        return torch.cat([logs + math.log1p(-share), own]).softmax(0)

    @torch.no_grad()
    def _log_chain(
        self, c: int, fixed: dict, dims, x: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(log |value|, sign) of component c: a row at each bond; squared, once a variable is
        integrated, its Gram matrix."""
        train, order, s = self.trains_[c], self.orders_[c], self.splines_
        points = {k: s.at(s.edges.new_full((1, 1), value), [k]) for k, value in fixed.items()}
        points |= {k: s.at(x[:, [j]], [k]) for j, k in enumerate(dims)}
        squared, state = (
            self.model == "squared",
            train.cores[0].new_ones(1, 1),
        )  # (n, r), or (n, r, r) once it is a Gram matrix
        log = state.new_zeros(1)
        for k, core in zip(order, train.cores):
            if k in points:
                a = active_slices(
                    core, points[k].interval[:, 0], points[k].values[:, 0]
                )  # (n, r, q)
                state = (state[:, None] @ a)[:, 0] if state.ndim == 2 else a.mT @ state @ a
            elif not squared:
                state = state @ torch.einsum("rmq,m->rq", core, s.integral[k])
            else:
                state = state[:, :, None] * state[:, None] if state.ndim == 2 else state
                state = gram_step(state, core, s.gram[k])
            size = state.abs().flatten(1).amax(1)
            safe = torch.where(size > 0, size, torch.ones_like(size))
            state = state / safe.reshape(-1, *[1] * (state.ndim - 1))
            log = log + (2 if squared and state.ndim == 2 else 1) * safe.log()
        value = state.flatten(1)[:, 0]
        own = torch.where(value == 0, -math.inf, value.abs().log())
        return log + (2 if squared and state.ndim == 2 else 1) * own, value.sign()

    def _draw(self, c: int, n: int, fixed: dict, generator) -> tuple[Tensor, float]:
        train, order, s, squared = (
            self.trains_[c],
            self.orders_[c],
            self.splines_,
            self.model == "squared",
        )
        x = s.edges.new_empty(n, len(order))
        known = {k: s.at(s.edges.new_full((1, 1), value), [k]) for k, value in fixed.items()}
        weights = [s.gram[k] if squared else s.integral[k] for k in order]
        for place, k in enumerate(order):
            if k in known:
                b = s.edges.new_zeros(s.integral.shape[1])
                b[known[k].interval[0, 0] : known[k].interval[0, 0] + s.degree + 1] = known[
                    k
                ].values[0, 0]
                weights[place] = torch.outer(b, b) if squared else b
        right, _ = tt_environments(train, weights, squared=squared)
        row, clipped = x.new_ones(n, 1), 0.0
        for place, (k, core) in enumerate(zip(order, train.cores)):
            if k in known:
                x[:, k], where = fixed[k], known[k]
            else:
                ahead = right[place + 1] if squared else right[place + 1][:, None]
                y = torch.einsum(
                    "nmq,qs->nms", (row @ core.flatten(1)).reshape(n, *core.shape[1:]), ahead
                )
                u = rand(n, generator=generator, dtype=x.dtype, device=x.device)
                x[:, k], share = invert(y, s.pieces[k], s.edges[k], squared, u)
                clipped = max(clipped, share)
                where = s.at(x[:, [k]], [k])
            row = (row[:, None] @ active_slices(core, where.interval[:, 0], where.values[:, 0]))[
                :, 0
            ]
            row = row / row.abs().amax(1, keepdim=True).clamp_min(torch.finfo(row.dtype).tiny)
        return x, clipped

    # -- what comes in, what is said

    def _check(self, who: str) -> None:
        one_of(who, "model", self.model, ("squared", "linear"))
        one_of(who, "knots", self.knots, ("quantile", "uniform"))
        one_of(who, "method", self.method, ("natural", "adam"))
        for name, least in dict(rank=1, degree=1, components=1, cells=0, em_steps=0).items():
            count(who, name, getattr(self, name), least)
        for name, least in dict(basis=self.degree + 1, steps=0, batch=1).items():
            count(who, name, getattr(self, name), least)
        if self.model == "linear" and self.components > 1:
            raise ValueError(
                f"{who}: a linear model has one component, got components={self.components}"
            )
        for name, high in dict(margin=10, noise=10, held_out=0.9, lr=10).items():
            number(who, name, getattr(self, name), 0, high)
        if self.background is not None:
            number(who, "background", self.background, 0, 0.5)

    def _data(self, X) -> tuple[Tensor, Tensor, Tensor, torch.Generator]:
        """Rows without units, their means and deviations, and the generator, all checked."""
        who = "TTDensity.fit"
        self._check(who)
        x = read_table(who, X)
        if len(x) < 2:
            raise ValueError(f"{who}: needs two rows or more, got {len(x)} sample")
        z, mean, spread = standardize(x)
        still = (z == 0).all(0).nonzero()[:, 0].tolist()
        if still:
            raise ValueError(
                f"{who}: needs columns that vary, got column {still[0]} with "
                f"{float(x[0, still[0]]):.6g} in every row"
            )
        twice = len(x) - len(torch.unique(x, dim=0))
        if twice:
            warnings.warn(
                f"{who}: {twice} of {len(x)} rows repeat another; what occurs twice has no "
                f"density, noise would help",
                stacklevel=3,
            )
        return z, mean.to(x), spread.to(x), seeded(who, self.random_state, x.device)

    def _coordinates(self, x: Tensor) -> tuple[Tensor, Tensor, Splines, Margins | None]:
        """Rows as the splines take them, the logarithms of the slopes there, the splines, and the
        distribution functions that the rows went through, if any."""
        edges = spline_edges(x, self.basis, self.degree, self.knots, self.margin)
        if not self.cells:
            return x, torch.zeros_like(x), Splines.on(edges, self.degree), None
        margins = Margins.of(x, self.cells, self.margin)
        u, slope = margins.at(x)
        even = torch.linspace(0, 1, edges.shape[1]).to(edges).repeat(len(edges), 1)
        return u, slope, Splines.on(even, self.degree), margins

    def _task(self, x, splines, generator, began) -> tuple[Task, Tensor]:
        """What is to be learned, and which rows were held out, or all where none was."""
        n, d = x.shape
        order = torch.randperm(n, generator=generator, device=x.device)
        cut = int(self.held_out * n)
        check, train = (x[order[:cut]], x[order[cut:]]) if cut else (x, x[order])
        orders = [list(range(d))]
        for _ in range(self.components - 1):
            orders.append(torch.randperm(d, generator=generator, device=x.device).tolist())
        settings = dict(steps=self.steps, batch=self.batch, lr=self.lr, noise=self.noise)
        task = Task(
            splines, orders, train, check, generator, began, **settings, folded=bool(self.cells)
        )
        return task, order[:cut] if cut else order

    def _variables(self, who, dims, given):
        d = len(self._fitted("splines_").edges)
        if given is not None and not isinstance(given, Mapping):
            raise TypeError(
                f"{who}: given must be a dict from variable to value, got {type(given).__name__}"
            )
        fixed = {k: float(value) for k, value in (given or {}).items()}
        dims = [k for k in range(d) if k not in fixed] if dims is None else list(dims)
        both = [*dims, *fixed]
        if len(set(both)) < len(both) or any(not is_integer(k) or not 0 <= k < d for k in both):
            raise ValueError(
                f"{who}: needs different variables in 0..{d - 1}, got dims {dims} and given "
                f"{list(fixed)}"
            )
        if len(fixed) == d:
            raise ValueError(f"{who}: needs a variable that is free, got all {d} given")
        for k, value in fixed.items():
            low, high = self.support_[k].tolist()
            if not low <= value <= high:
                raise ValueError(
                    f"{who}: variable {k} has its support in {low:.4g}..{high:.4g}, got {value:.4g}"
                )
        return fixed, dims

    def _inner(self, x, dims):
        """Rows as the splines have them, and the logarithm of how much denser they lie there."""
        u, log = self.margins_.at(x, dims) if self.margins_ else (x, x.new_zeros(1, 1))
        return u, log.sum(1)

    def _inner_values(self, fixed: dict) -> tuple[dict, Tensor]:
        """The same for values that are fixed: by variable, and in all."""
        u, slope = self._inner(self.splines_.edges.new_tensor([list(fixed.values())]), list(fixed))
        return dict(zip(fixed, u[0].tolist())), slope

    def _rows_at_once(self, kept):
        r = max(core.shape[0] * core.shape[2] for train in self.trains_ for core in train.cores)
        return max(
            1, CHUNK // (r if kept == len(self.splines_.edges) else r * self.splines_.gram.shape[1])
        )

    def _say(self, who, log):
        outside, negative = int((log == -math.inf).sum()), int(log.isnan().sum())
        if outside:
            warnings.warn(
                f"{who}: {outside} of {len(log)} rows lie outside of the support; they have -inf",
                stacklevel=3,
            )
        if negative:
            warnings.warn(
                f"{who}: {negative} of {len(log)} rows lie where the linear model is not positive; "
                f"they have NaN",
                stacklevel=3,
            )
