"""Densities as tensor trains on B-splines [Novikov2021].

A function of d variables with a train A of coefficients, one B-spline basis b_1, ..., b_m for each
variable:

    q(x) = <A, b(x_0) o ... o b(x_{d-1})>,      v_{k+1} = v_k sum_i b_i(x_k) G_k[i],     q + 1 of the m terms are not zero

    "squared"   p(x) = sum_c q_c(x)^2 / sum_c Z_c,   Z = <A, (D o ... o D) A>,   D_ij = the integral of b_i b_j
                by maximum likelihood
    "linear"    p(x) = q(x) / Z,                     Z = <A, c o ... o c>,       c_i = the integral of b_i
                by the loss  |p - q|^2 = <A, (D o ... o D) A> - 2 E q(x) + const  in closed form, on the manifold of trains

The squared model is a density by construction; the linear one may be negative, where it has no
logarithm. Both integrate over variables core by core, so marginals, conditionals and samples are
exact [Dolgov2020].

Where single variables have peaks and jumps, each goes first through its own distribution function
u_k = F_k(x_k), piecewise linear on cells (`Margins`), and the train is left with how they hang
together: p(x) = p(u) prod_k F_k'(x_k).

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
from torch.nn.functional import embedding_bag

from ..arguments import count, is_integer, number, one_of
from ..clusters import kmeans, nearest
from ..formats.tt import TT
from ..formats.tt_manifold import descend, riemannian_grad
from ..formats.tt_sampling import tt_environments, tt_sum
from ..linalg import orthogonalize
from ..rng import rand, randn
from .estimator import Estimator, like, read_table, seeded, standardize
from .splines import Background, Margins, Splines, Where, invert, spline_edges

EM_ROWS = 20_000  # that the start looks at
CHUNK = 1 << 21  # numbers of an intermediate result, by which rows are taken at a time
STEPS = (
    0.0,
    0.02,
    0.05,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.8,
    1.0,
    1.3,
)  # lengths tried on a line


class Report(NamedTuple):
    """The mean log-density of the rows that have one, and the shares of those that have none."""

    mean: float
    outside: float
    negative: float


class TTDensity(Estimator):
    """A density of d variables: a train on B-splines, squared or linear, with the interface of
    scikit-learn's `KernelDensity`.

        p(x) = (1 - share) t(x) + share g(x),     t(x) = sum_c q_c(x)^2 / sum_c Z_c  or  q(x) / Z     (see the module's head)

    rank: of the train. basis, degree: functions m for each variable, and their degree. knots:
    "quantile" or "uniform", over the range of the data and a share `margin` of it on both sides;
    outside of this support t is zero. background: the share of g, a product of logistic densities
    about the data's means with their deviations as scales, which is nowhere zero, so that every row
    has a likelihood and cross-validation can compare models; None for 1 / (n + 1) after n rows, by
    Laplace's rule the chance that the next row is like none before; 0 for a density of bounded
    support. components: trains in the mixture, the first with the variables in their order, each
    other with a permutation of its own (squared only). cells: 0, or of how many the distribution
    function (`Margins`) has that each variable goes through first; knots are even then. em_steps:
    of the start, a mixture of `rank` products of one-dimensional densities. Then `steps` of a
    method, on batches to which Gaussian noise of `noise` standard deviations is added (with cells:
    of that length in [0, 1]); what is likeliest on a share `held_out` of the rows is kept.
    "natural": sweeps there and back over the cores, a step of the natural gradient with a line
    search in each (`natural_sweep`); "adam": Adam on all cores, its rate falling from lr to 0, as
    the authors' code has it. A linear model takes `steps` of Riemannian descent. random_state: an
    integer gives the same numbers at each fit; a generator of torch or NumPy goes on from where it
    is.

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
        start, (n, d) = time.perf_counter(), x.shape
        x, slope, splines, margins = self._coordinates(x)
        order = torch.randperm(n, generator=generator, device=x.device)
        held = int(self.held_out * n)
        check, train = x[order[:held]] if held else x, x[order[held:]]
        orders = [list(range(d))]
        for _ in range(self.components - 1):
            orders.append(torch.randperm(d, generator=generator, device=x.device).tolist())
        first, trains = train[:EM_ROWS], []
        where = splines.at(first)
        for variables in orders:
            cp = product_mixture(where, splines, self.rank, self.em_steps, first, generator)
            trains.append(_diagonal(cp, variables, self.model == "squared", generator))
        learn = {"linear": self._least_squares, "adam": self._adam, "natural": self._natural}[
            self.model if self.model == "linear" else self.method
        ]
        trains, history = learn(trains, orders, splines, train, check, generator, start)
        if self.model == "squared":
            level = float((slope[order[:held]] if held else slope).sum(1).mean())
            history = tuple((step, seconds, value + level) for step, seconds, value in history)
        else:
            trains = [_of_mass_one(trains[0], splines, spread)]
        share = 1 / (n + 1) if self.background is None else self.background
        self.background_ = Background(float(share), mean, spread)
        self.margins_ = margins and margins.moved(mean, spread)
        self.splines_ = splines if margins else splines.moved(mean, spread)
        self.trains_, self.orders_, self.history_ = trains, orders, history
        self._remember(X, d)
        return self

    def score_samples(self, X, *, dims=None, given: Mapping[int, float] | None = None):
        """Exact log-densities (n,): of all variables, of some (a marginal), or of some when others
        are known (a conditional).

            log p(x_dims | x_given) = log integral of p over the rest - log integral of p over all but the given

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

    # -- the start and the two ways to learn

    def _natural(self, trains, orders, splines, x, check, generator, start):
        """Sweeps of the natural gradient over each component, its rows weighted by their
        responsibilities, as in EM.

        Directions come from a batch, their lengths from the held-out rows.
        """
        roots, held = torch.linalg.cholesky(splines.gram), splines.at(check)
        inner = [
            TT(tuple(torch.einsum("mk,amb->akb", roots[k], g) for k, g in zip(o, t.cores)))
            for o, t in zip(orders, trains)
        ]
        inner = [list(tt.orthogonal(0).cores) for tt in inner]
        shares = torch.stack([cores[0].norm().square() for cores in inner])
        kept, best, history = None, -math.inf, []
        for step in range(self.steps + 1):
            shares = shares / shares.sum()
            for cores, share in zip(inner, shares):
                cores[0] = cores[0] * (share.sqrt() / cores[0].norm())
            now = [
                [_bare(g, roots[k]) for k, g in zip(o, cores)] for o, cores in zip(orders, inner)
            ]
            with torch.no_grad():
                value = float(_mean_log(now, orders, splines, held))
            history.append((step, time.perf_counter() - start, value))
            if value > best:
                kept, best = now, value
            if step == self.steps:
                break
            batch = self._batch(x, generator)
            where = splines.at(torch.cat([batch, check]))
            learns = torch.arange(len(batch) + len(check), device=x.device) < len(batch)
            with torch.no_grad():
                weights = torch.stack(
                    [_log_square(cores, o, where) for cores, o in zip(now, orders)]
                ).softmax(0)
            shares = weights[:, learns].mean(1)
            for cores, order, weight in zip(inner, orders, weights):
                for variables in (order, order[::-1]):
                    natural_sweep(
                        cores,
                        [roots[k] for k in variables],
                        variables,
                        where,
                        weight * learns,
                        weight * ~learns,
                    )
                    cores[:] = [core.permute(2, 1, 0) for core in cores[::-1]]
        if kept is None:
            raise FloatingPointError("TTDensity.fit: needs steps that stay finite, got none")
        return [TT(tuple(core.contiguous() for core in train)) for train in kept], tuple(history)

    def _batch(self, x, generator):
        rows = torch.randperm(len(x), generator=generator, device=x.device)[: self.batch]
        noise = (
            randn(len(rows), x.shape[1], generator=generator, dtype=x.dtype, device=x.device)
            if self.noise
            else 0.0
        )
        x = x[rows] + self.noise * noise
        return 1 - (1 - x.remainder(2)).abs() if self.cells else x  # what leaves [0, 1] comes back

    def _adam(self, trains, orders, splines, x, check, generator, start):
        """Adam on -log sum_c q_c(x)^2 + log sum_c Z_c."""
        cores = [[core.clone().requires_grad_() for core in train.cores] for train in trains]
        flat = [core for train in cores for core in train]
        adam = torch.optim.Adam(flat, self.lr, betas=(0.9, 0.99))
        kept, best, history = None, -math.inf, []
        for step in range(self.steps + 1):
            if step % max(1, self.steps // 10) == 0 or step == self.steps:
                with torch.no_grad():
                    value = float(_mean_log(cores, orders, splines, splines.at(check)))
                history.append((step, time.perf_counter() - start, value))
                if value > best:
                    kept, best = (
                        [[core.detach().clone() for core in train] for train in cores],
                        value,
                    )
            if step == self.steps:
                break
            adam.param_groups[0]["lr"] = self.lr * (1 - step / self.steps)
            adam.zero_grad()
            loss = -_mean_log(cores, orders, splines, splines.at(self._batch(x, generator)))
            loss.backward()
            adam.step()
        if kept is None:
            raise FloatingPointError(
                f"TTDensity.fit: needs steps that stay finite, got none with lr={self.lr}"
            )
        return [TT(tuple(train)) for train in kept], tuple(history)

    def _least_squares(self, trains, orders, splines, x, check, generator, start):
        """Riemannian descent on |A|^2 - 2 E q(x), with D = C Cᵀ taken into the cores: A' = Cᵀ A, b'
        = C^-1 b."""
        root = torch.linalg.cholesky(splines.gram)
        bare = lambda tt: [_bare(g, c) for c, g in zip(root, tt.cores)]
        loss = lambda tt, where: tt.dot(tt) - 2 * _mean_value(bare(tt), where)
        fitted, held = splines.at(x), splines.at(check)
        f = lambda tt: loss(tt, fitted)
        grad = lambda tt: (f(tt).detach(), riemannian_grad(f, tt))
        (train,) = trains
        inner = TT(
            tuple(torch.einsum("mk,amb->akb", c, g) for c, g in zip(root, train.cores))
        ).orthogonal(0)
        kept, best, history = inner, math.inf, []
        for step, (tt, _, _) in enumerate(descend(lambda tt: float(f(tt)), grad, inner, "cg")):
            value = float(loss(tt, held))
            history.append((step, time.perf_counter() - start, value))
            if value < best:
                kept, best = tt, value
            if step == self.steps:
                break
        return [TT(tuple(core.contiguous() for core in bare(kept)))], tuple(history)

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
                a = _slices(core, points[k].interval[:, 0], points[k].values[:, 0])  # (n, r, q)
                state = (state[:, None] @ a)[:, 0] if state.ndim == 2 else a.mT @ state @ a
            elif not squared:
                state = state @ torch.einsum("rmq,m->rq", core, s.integral[k])
            else:
                state = state[:, :, None] * state[:, None] if state.ndim == 2 else state
                state = _gram_step(state, core, s.gram[k])
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
            row = (row[:, None] @ _slices(core, where.interval[:, 0], where.values[:, 0]))[:, 0]
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


# ---------------------------------------------------------------------------------------- the start


def product_mixture(
    where: Where, splines: Splines, rank: int, steps: int, x: Tensor, generator
) -> tuple[Tensor, Tensor]:
    """A mixture of products of one-dimensional spline densities, by EM: shares (R,), coefficients
    (R, d, m) with sum_i w_i c_i = 1.

        gamma[n, r] ~ share_r prod_k p_rk(x_nk);   share <- mean gamma
        w_i <- w_i / (c_i sum_n gamma_n) sum_n gamma_n b_i(x_n) / p(x_n)

    The coefficients keep one per mille of the uniform density. Started from the cells of k-means.
    """
    n, d, width = where.values.shape
    w = (1 / splines.integral.sum(1))[None, :, None].repeat(
        rank, 1, splines.integral.shape[1]
    )  # each the uniform density
    flat = where.interval[..., None] + torch.arange(width, device=x.device)  # (n, d, q + 1)
    gamma = _cells(x, rank, generator)
    for _ in range(max(1, steps)):
        share = gamma.mean(0).clamp_min(torch.finfo(x.dtype).tiny)
        log, total = share.log(), len(x) * share
        for k in range(d):
            terms = w[:, k][:, flat[:, k]] * where.values[:, k]  # (R, n, q + 1)
            terms = terms * (gamma.T / terms.sum(2).clamp_min(torch.finfo(x.dtype).tiny))[..., None]
            new = w.new_zeros(rank, w.shape[2]).index_add_(
                1, flat[:, k].flatten(), terms.flatten(1)
            )
            w[:, k] = (
                0.999 * new / (splines.integral[k] * total[:, None])
                + 0.001 / splines.integral[k].sum()
            )
            log = (
                log
                + (w[:, k][:, flat[:, k]] * where.values[:, k])
                .sum(2)
                .T.clamp_min(torch.finfo(x.dtype).tiny)
                .log()
            )
        gamma = log.softmax(1)
    return share, w


def _cells(x: Tensor, rank: int, generator) -> Tensor:
    """Shares (n, rank) of the cells of three steps of k-means, a tenth spread over all."""
    centers = kmeans(x, min(rank, len(x)), max_iter=3, generator=generator).value
    cell = torch.nn.functional.one_hot(nearest(x, centers), rank).to(x)
    return 0.9 * cell + 0.1 / rank


def _diagonal(mixture, order, root: bool, generator) -> TT:
    """The mixture as a train with diagonal cores, its coefficients rooted for a squared model, and
    one per cent of noise."""
    share, w = mixture
    w = w[:, order].clone()
    if len(order) == 1:
        core = torch.einsum("r,rm->m", share, w[:, 0])[None, :, None]
        return TT((core.sqrt() if root else core,))
    w[:, 0] = w[:, 0] * share[:, None]
    w = w.sqrt() if root else w
    middle = (torch.diag_embed(w[:, k].T).permute(1, 0, 2) for k in range(1, len(order) - 1))
    cores = [w[:, 0].T[None], *middle, w[:, -1][..., None]]
    noise = lambda core: (
        0.01
        * core.abs().mean()
        * randn(*core.shape, generator=generator, dtype=core.dtype, device=core.device)
    )
    return TT(tuple((core + noise(core)).contiguous() for core in cores))


def _of_mass_one(train: TT, splines: Splines, spread: Tensor) -> TT:
    """A linear train over its integral, for variables in units of `spread`, which may be of any
    size."""
    sign, log = tt_sum(train, list(splines.integral))
    if sign <= 0:
        raise ValueError(
            "TTDensity.fit: needs a linear model of positive integral, got another; take more data"
        )
    cores = [core / unit for core, unit in zip(train.cores, spread)]
    return TT(tuple(cores)).scale(float(torch.exp(-log)))


# ------------------------------------------------------------------------------------------ chains


def _slices(core: Tensor, interval: Tensor, values: Tensor) -> Tensor:
    """sum_a values[n, a] core[:, interval[n] + a, :], the q + 1 slices that are not zero: (n, r,
    q)."""
    index = interval[:, None] + torch.arange(values.shape[1], device=interval.device)
    table = core.permute(1, 0, 2).flatten(1).contiguous()  # (m, r q)
    return embedding_bag(index, table, mode="sum", per_sample_weights=values).reshape(
        -1, core.shape[0], core.shape[2]
    )


def _gram_step(state: Tensor, core: Tensor, gram: Tensor) -> Tensor:
    """sum_ij D_ij G[i]ᵀ S G[j]: (n, r, r) -> (n, q, q)."""
    y = torch.einsum("nab,bmc->namc", state, torch.einsum("mk,bkc->bmc", gram, core))
    return torch.einsum("amd,namc->ndc", core, y)


def natural_sweep(cores: list, roots, order, where: Where, weight: Tensor, judge: Tensor) -> None:
    """One step of the natural gradient in each core of a squared train, from the first to the last;
    changes `cores`.

        p = q^2 of norm 1 has the Fisher information 4 times the metric of L2, so the direction from G is  H - G,
        H = sum_n w_n phi_n / q(x_n) / sum_n w_n,     q(x_n) = <G, phi_n>,     t = argmax of  sum_n w_n log q_t(x_n)^2 / |G_t|^2

    over G_t = (1 - t) G + t H: on the line q_t(x_n) is linear in t, so it is searched without
    further passes over the data; t is the best for the rows of `judge` in place of w. Rows that did
    not make H keep a step from following their noise. cores: whitened, G' = Cᵀ G with D = C Cᵀ
    (`roots`), right-orthonormal but the first; they end left-orthonormal but the last. weight,
    judge: (n,) >= 0. phi_n / q(x_n) does not change with the size of phi_n, so rows are kept at
    norm 1; a q that is small beside theirs counts as no smaller than 1% of its root mean square.
    """
    n, d = len(weight), len(cores)
    local = lambda core, k: _slices(
        _bare(core, roots[k]), where.interval[:, order[k]], where.values[:, order[k]]
    )
    rights = [cores[0].new_ones(n, 1)]
    for k in range(d - 1, 0, -1):
        rights.insert(0, _unit((local(cores[k], k) @ rights[0][..., None])[..., 0]))
    row = cores[0].new_ones(n, 1)
    for k in range(d):
        value = lambda core, k=k, row=row: ((row[:, None] @ local(core, k))[:, 0] * rights[k]).sum(
            1
        )
        core = (cores[k] / cores[k].norm()).requires_grad_()
        q = value(core)
        inverse = q.detach() / (q.detach().square() + 1e-4 * q.detach().square().mean())
        (h,) = torch.autograd.grad((weight * inverse * q).sum() / weight.sum(), core)
        core, q = core.detach(), q.detach()
        with torch.no_grad():
            s = value(h)
            gains = [
                float(
                    (judge * ((1 - t) * q + t * s).square().clamp_min(1e-30).log()).sum()
                    / judge.sum()
                    - ((1 - t) * core + t * h).square().sum().log()
                )
                for t in STEPS
            ]
            t = STEPS[max(range(len(STEPS)), key=gains.__getitem__)]
            cores[k] = (1 - t) * core + t * h
            if k < d - 1:
                r, m, _ = core.shape
                basis, rest = orthogonalize(cores[k].reshape(r * m, -1))
                cores[k], cores[k + 1] = (
                    basis.reshape(r, m, -1),
                    torch.tensordot(rest, cores[k + 1], 1),
                )
                row = _unit((row[:, None] @ local(cores[k], k))[:, 0])


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)


def _bare(core: Tensor, root: Tensor) -> Tensor:
    """C^-T G' along the mode of the splines: the coefficients of a whitened core."""
    r, m, q = core.shape
    slices = core.permute(1, 0, 2).reshape(m, -1)
    return (
        torch.linalg.solve_triangular(root.mT, slices, upper=True).reshape(m, r, q).permute(1, 0, 2)
    )


def _log_square(train, order, where: Where) -> Tensor:
    """log q(x_n)^2, differentiable; where q is zero its gradient is none."""
    row, log = train[0].new_ones(len(where.interval), 1), 0.0
    for k, core in zip(order, train):
        row = (row[:, None] @ _slices(core, where.interval[:, k], where.values[:, k]))[:, 0]
        size = row.detach().abs().amax(1).clamp_min(torch.finfo(row.dtype).tiny)
        row, log = row / size[:, None], log + size.log()
    return 2 * (row[:, 0].abs().clamp_min(1e-30).log() + log)


def _mean_log(cores, orders, splines: Splines, where: Where) -> Tensor:
    """mean_n log sum_c q_c(x_n)^2 - log sum_c Z_c, differentiable."""
    masses = []
    for train, order in zip(cores, orders):
        state, mass = train[0].new_ones(1, 1, 1), 0.0
        for k, core in zip(order, train):
            state = _gram_step(state, core, splines.gram[k])
            size = state.detach().abs().amax()
            state, mass = state / size, mass + size.log()
        masses.append(state[0, 0, 0].log() + mass)
    logs = [_log_square(train, order, where) for train, order in zip(cores, orders)]
    return torch.stack(logs).logsumexp(0).mean() - torch.stack(masses).logsumexp(0)


def _mean_value(cores, where: Where) -> Tensor:
    """mean_n q(x_n), a block of rows at a time, each computed again for its gradient."""
    from torch.utils.checkpoint import checkpoint  # loads sympy in older versions of torch

    def part(interval, values, *cores):
        row = values.new_ones(len(interval), 1)
        for k, core in enumerate(cores):
            row = (row[:, None] @ _slices(core, interval[:, k], values[:, k]))[:, 0]
        return row.sum()

    step = max(1, CHUNK // max(core.shape[0] * core.shape[2] for core in cores))
    blocks = zip(where.interval.split(step), where.values.split(step))
    return sum(checkpoint(part, i, v, *cores, use_reentrant=False) for i, v in blocks) / len(
        where.interval
    )
