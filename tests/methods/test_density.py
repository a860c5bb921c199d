"""Densities as trains: against SciPy's B-splines and quadrature, scikit-learn's interface,
chi-square and KS tests of samples."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.interpolate import BSpline
from sklearn.base import clone

import tensorlab as tl
from tensorlab.methods import density
from tensorlab.methods.density_learners import Task, product_mixture, start_trains
from tensorlab.methods.splines import Margins, Splines, spline_edges

pytestmark = pytest.mark.filterwarnings("error::UserWarning")


def crescent(n=1500, d=2, seed=0):
    """Two clusters, of which the second is bent; each further variable follows the first."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    x[: n // 2, 0] += 4
    x[:, 1] += 0.3 * x[:, 0].square()
    for k in range(2, d):
        x[:, k] = x[:, k] / 2 + x[:, 0]
    return x


@pytest.fixture(scope="module")
def squared():
    return tl.TTDensity(rank=4, basis=12, steps=4, background=0).fit(crescent())


@pytest.fixture(scope="module")
def three():
    return tl.TTDensity(rank=3, basis=9, steps=2, components=2, background=0).fit(crescent(d=3))


def meter(n=3000, seed=0):
    """Two meters in whole numbers, most often zero, each with its rounding added: boxes of very
    different height."""
    g = torch.Generator().manual_seed(seed)
    on = torch.rand(n, generator=g) < 0.3
    x = torch.stack(
        [
            on * torch.randint(5, 15, (n,), generator=g),
            on * torch.randint(30, 36, (n,), generator=g),
        ],
        1,
    )
    return x + torch.rand(n, 2, generator=g, dtype=torch.float64)


@pytest.fixture(scope="module")
def celled():
    settings = dict(rank=3, basis=8, steps=2, components=2, cells=25, background=0)
    return tl.TTDensity(**settings).fit(meter())


KINDS = {
    "squared": {},
    "cells": dict(cells=20),
    "linear": dict(model="linear"),
    "components": dict(components=2),
    "adam": dict(method="adam", steps=20),
}


def quadrature(edges, points=6):
    """Gauss-Legendre on each interval: exact for the polynomials there."""
    at, weight = (torch.tensor(a) for a in np.polynomial.legendre.leggauss(points))
    h = edges.diff()[:, None]
    return (edges[:-1, None] + h * (at + 1) / 2).flatten(), (h * weight / 2).flatten()


def grid(model, dims):
    points, weights = zip(*(quadrature(model.splines_.edges[k]) for k in dims))
    if len(dims) == 1:
        return points[0][:, None], weights[0]
    return torch.cartesian_prod(*points), torch.cartesian_prod(*weights).prod(1)


# -- reduces to


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_splines_are_those_of_scipy(degree, generator):
    edges = torch.rand(8, generator=generator, dtype=torch.float64).add(0.2).cumsum(0)[None]
    s, h = Splines.on(edges, degree), edges.diff()[0]
    before = edges[0, 0] - h[0] * torch.arange(degree, 0, -1)
    knots = torch.cat([before, edges[0], edges[0, -1] + h[-1] * torch.arange(1, degree + 1)])
    x, w = quadrature(edges[0])
    theirs = torch.tensor(BSpline.design_matrix(x.numpy(), knots.numpy(), degree).toarray())
    at, ours = s.at(x[:, None]), torch.zeros_like(theirs)
    ours.scatter_(1, at.interval + torch.arange(degree + 1), at.values[:, 0])
    assert torch.allclose(ours, theirs, atol=1e-13)
    assert torch.allclose(s.gram[0], theirs.T @ (w[:, None] * theirs), atol=1e-13)
    assert torch.allclose(s.integral[0], w @ theirs, atol=1e-13)


def test_one_variable_is_a_spline_density():
    x = crescent(d=2)[:, :1]
    model = tl.TTDensity(rank=3, basis=12, steps=4, background=0).fit(x)
    points, w = grid(model, [0])
    assert float(model.score_samples(points).exp() @ w) == pytest.approx(1, abs=1e-10)
    assert model.score(x) > stats.norm.logpdf(x.numpy(), x.mean(), x.std()).sum()


def test_rank_one_squared_is_a_product_of_its_marginals():
    model = tl.TTDensity(rank=1, basis=8, steps=0, background=0).fit(crescent(d=3))
    x = crescent(50, 3, seed=1)
    parts = sum(model.score_samples(x[:, [k]], dims=[k]) for k in range(3))
    assert torch.allclose(model.score_samples(x), parts, atol=1e-10)


def test_em_of_one_component_converges_to_the_likeliest_spline_density():
    x = crescent(d=2)[:, :1]
    s = Splines.on(spline_edges(x, 6, 1, "uniform"), 1)
    where, mean = s.at(x), {}
    for steps in (5, 80):
        _, w = product_mixture(where, s, 1, steps, x, torch.Generator().manual_seed(0))
        index = where.interval[:, 0, None] + torch.arange(2)
        p = (w[0, 0][index] * where.values[:, 0]).sum(1)
        mean[steps] = float(p.log().mean())
        assert float(w[0, 0] @ s.integral[0]) == pytest.approx(1, abs=1e-12)
    slopes = torch.zeros(6, dtype=torch.float64).index_add_(
        0, index.flatten(), (where.values[:, 0] / p[:, None]).flatten()
    )
    assert mean[80] >= mean[5] and float(
        (slopes / (len(x) * s.integral[0])).max()
    ) == pytest.approx(1, abs=0.02)  # as KKT demands


def test_margins_are_interpolation_and_its_inverse(generator):
    x = torch.randn(500, 2, generator=generator, dtype=torch.float64)
    f, at = (
        Margins.of(x, 30, 0.1),
        torch.linspace(-2, 2, 77, dtype=torch.float64)[:, None].repeat(1, 2),
    )
    u, log = f.at(at)
    for k in range(2):
        assert np.allclose(u[:, k], np.interp(at[:, k], f.edges[k], f.levels[k]), atol=1e-14)
        assert torch.equal(f.at(at[:, [k]], [k])[0][:, 0], u[:, k])
    assert torch.allclose(f.back(u), at, atol=1e-12)
    assert torch.allclose(log.exp(), (f.at(at + 1e-7)[0] - f.at(at - 1e-7)[0]) / 2e-7, rtol=1e-4)
    shares = torch.histogram(x[:, 0], f.edges[0]).hist / 500
    assert torch.allclose(
        f.levels[0].diff(),
        0.99 * shares + 0.01 * f.edges[0].diff() / f.edges[0].diff().sum(),
        atol=1e-12,
    )


# -- is a density


def test_squared_integrates_to_one(squared, three):
    for model in (squared, three):
        points, w = grid(model, range(len(model.splines_.edges)))
        assert float(model.score_samples(points[: 1 << 20]).exp() @ w[: 1 << 20]) == pytest.approx(
            1, abs=1e-8
        )


def test_with_cells_it_is_a_density_with_marginals_conditionals_and_samples(celled):
    knots = celled.margins_.back(celled.splines_.edges.T).T
    cuts = [torch.cat(pair).unique() for pair in zip(celled.margins_.edges, knots)]
    (x0, w0), (x1, w1) = (quadrature(cut) for cut in cuts)  # a polynomial between two cuts
    p = celled.score_samples(torch.cartesian_prod(x0, x1)).exp().reshape(len(x0), len(x1))
    assert float(w0 @ p @ w1) == pytest.approx(1, abs=1e-9)
    assert torch.allclose(celled.score_samples(x1[:, None], dims=[1]).exp(), w0 @ p, rtol=1e-9)
    given = float(x0[70])
    row = celled.score_samples(x1[:, None], given={0: given}).exp()
    assert float(row @ w1) == pytest.approx(1, abs=1e-9) and torch.allclose(
        row, p[70] / (p[70] @ w1), rtol=1e-9
    )
    drawn = celled.sample(3000, 0, given={0: given})
    cdf = lambda t: np.interp(t, x1, (row * w1).cumsum(0) - row * w1 / 2)
    assert (drawn[:, 0] == given).all() and stats.kstest(drawn[:, 1].numpy(), cdf).pvalue > 1e-3
    assert torch.equal(celled.support_, celled.margins_.edges[:, [0, -1]])


def test_cells_hold_what_splines_smooth_away(celled):
    z = meter(seed=1)
    smooth = tl.TTDensity(**celled.get_params() | {"cells": 0}).fit(meter())
    assert celled.report(z).mean > smooth.report(z).mean + 0.4
    moved = float(meter().std(0).log().sum())  # the history is of standardized rows
    assert max(value for _, _, value in celled.history_) - moved == pytest.approx(
        celled.report(z).mean, abs=0.1
    )


def test_marginals_are_integrals_and_conditionals_are_ratios(three):
    points, w = quadrature(three.splines_.edges[1])
    x = torch.tensor([[3.8, 4.1], [0.2, -0.3]], dtype=torch.float64)
    for row, log in zip(x, three.score_samples(x, dims=(2, 0))):
        whole = torch.stack([row[1].expand(len(points)), points, row[0].expand(len(points))], 1)
        assert float(three.score_samples(whole).exp() @ w) == pytest.approx(
            float(log.exp()), rel=1e-10
        )
        one = three.score_samples(row[:1, None], given={0: float(row[1])}, dims=[2])
        assert float(log - three.score_samples(row[1:, None], dims=[0])) == pytest.approx(
            float(one), abs=1e-10
        )


def test_samples_pass_ks_and_chi_square_tests(three):
    n = 4000
    x = three.sample(n, 0)
    for k in range(3):
        edges = torch.linspace(*three.splines_.edges[k, [0, -1]].tolist(), 600, dtype=torch.float64)
        p = three.score_samples(edges[:, None], dims=[k]).exp()
        cdf = torch.cumulative_trapezoid(p, edges)
        assert (
            stats.kstest(
                x[:, k].numpy(), lambda t, e=edges, c=cdf: np.interp(t, e[1:], c / c[-1])
            ).pvalue
            > 1e-3
        )
    for a, b in ((0, 1), (1, 2), (2, 0)):
        cuts = [x[:, k].quantile(torch.tensor([0.2, 0.4, 0.6, 0.8]).double()) for k in (a, b)]
        ends = [
            torch.cat([three.splines_.edges[k, :1], c, three.splines_.edges[k, -1:]])
            for k, c in zip((a, b), cuts)
        ]
        middle = (torch.arange(40, dtype=torch.float64) + 0.5) / 40
        axes = [(e[:-1, None] + e.diff()[:, None] * middle).flatten() for e in ends]
        p = (
            three.score_samples(torch.cartesian_prod(*axes), dims=(a, b))
            .exp()
            .reshape(5, 40, 5, 40)
        )
        p = p * torch.outer(ends[0].diff(), ends[1].diff())[:, None, :, None] / 1600
        expected = p.sum((1, 3)).flatten()
        cell = torch.bucketize(x[:, a].contiguous(), cuts[0]) * 5 + torch.bucketize(
            x[:, b].contiguous(), cuts[1]
        )
        found = torch.bincount(cell, minlength=25)
        assert float(expected.sum()) == pytest.approx(1, abs=1e-3)
        assert stats.chisquare(found, n * expected / expected.sum()).pvalue > 1e-3


def test_conditional_samples_follow_the_conditional(three):
    x = three.sample(2000, 1, given={0: 4.0})
    assert (x[:, 0] == 4).all()
    edges = torch.linspace(*three.splines_.edges[2, [0, -1]].tolist(), 600, dtype=torch.float64)
    cdf = torch.cumulative_trapezoid(
        three.score_samples(edges[:, None], dims=[2], given={0: 4.0}).exp(), edges
    )
    assert (
        stats.kstest(x[:, 2].numpy(), lambda t: np.interp(t, edges[1:], cdf / cdf[-1])).pvalue
        > 1e-3
    )


# -- the background


def logistic(x, model, k):
    """The distribution function of the background in variable k."""
    at = (x - model.background_.center[k]) / model.background_.size[k]
    return stats.logistic.cdf(at.numpy())


@pytest.mark.parametrize("kind", ["squared", "cells", "components"])
def test_with_a_background_it_is_a_density_on_the_whole_space(kind):
    """The integral over the support by quadrature, and beyond it by what SciPy says of logistic
    variables."""
    settings = dict(rank=3, basis=8, steps=1, background=0.2) | KINDS[kind]
    model, bare = (
        tl.TTDensity(**settings | more).fit(meter(600)) for more in ({}, dict(background=0))
    )
    knots = model.splines_.edges.T
    knots = (model.margins_.back(knots) if model.margins_ else knots).T
    cuts = [torch.cat([a, b]).unique() for a, b in zip(knots, model.support_)]
    if model.margins_:
        cuts = [torch.cat([a, b]).unique() for a, b in zip(cuts, model.margins_.edges)]
    (x0, w0), (x1, w1) = (quadrature(cut, 8) for cut in cuts)
    points = torch.cartesian_prod(x0, x1)
    p = model.score_samples(points).exp().reshape(len(x0), len(x1))
    within = math.prod(float(np.diff(logistic(model.support_[k], model, k))[0]) for k in (0, 1))
    assert float(w0 @ p @ w1) == pytest.approx(0.8 + 0.2 * within, abs=1e-4)  # g is no polynomial
    own = stats.logistic.logpdf(
        points.numpy(), model.background_.center.numpy(), model.background_.size.numpy()
    ).sum(1)
    mixed = 0.8 * bare.score_samples(points).exp() + 0.2 * torch.as_tensor(own).exp()
    assert torch.allclose(p.flatten(), mixed, rtol=1e-10)
    first = 0.8 * bare.score_samples(x0[:, None], dims=[0]).exp() + 0.2 * torch.as_tensor(
        stats.logistic.pdf(x0.numpy(), model.background_.center[0], model.background_.size[0])
    )
    assert torch.allclose(model.score_samples(x0[:, None], dims=[0]).exp(), first, rtol=1e-10)
    row = model.score_samples(x1[:, None], given={0: float(x0[9])})
    assert torch.allclose(row, p[9].log() - first[9].log(), rtol=1e-9, atol=1e-9)
    far = torch.tensor([[1e3, -1e200]], dtype=torch.float64)
    assert model.score_samples(far).isfinite().all() and bare.background_.share == 0


def test_samples_are_of_trains_and_background():
    model = tl.TTDensity(rank=3, basis=10, steps=2, background=0.3).fit(crescent())
    edges = torch.linspace(-40, 40, 4001, dtype=torch.float64)
    for given in (None, {0: 4.0}):
        x = model.sample(4000, 0, given=given)
        p = model.score_samples(edges[:, None], dims=[1], given=given).exp()
        cdf = torch.cumulative_trapezoid(p, edges)
        assert float(cdf[-1]) == pytest.approx(1, abs=1e-3)
        at = lambda t, cdf=cdf: np.interp(t, edges[1:], cdf)
        assert stats.kstest(x[:, 1].numpy(), at).pvalue > 1e-3
        assert (x[:, 1] < model.support_[1, 0]).any() or (x[:, 1] > model.support_[1, 1]).any()
        assert given is None or (x[:, 0] == 4).all()


def test_the_background_is_one_row_of_those_there_are():
    model = tl.TTDensity(rank=2, basis=8, steps=1).fit(crescent(399))
    assert model.background_.share == 1 / 400
    x = torch.tensor([[0.0, 0.0], [99.0, 0.0]], dtype=torch.float64)
    log = model.score_samples(x)  # and no warning
    assert log.isfinite().all() and model.report(x).outside == 0.5
    assert model.report(x).mean == pytest.approx(float(log.mean()))


@pytest.mark.thorough
def test_cross_validation_selects():
    """Rows outside of a fold's support, and one far outside, are part of each score; the ring needs
    a rank that two independent variables have not."""
    from sklearn.model_selection import GridSearchCV, KFold

    g = torch.Generator().manual_seed(0)
    angle = 2 * math.pi * torch.rand(600, generator=g, dtype=torch.float64)
    x = torch.stack([angle.cos(), angle.sin()], 1)
    x = x + 0.1 * torch.randn(600, 2, generator=g, dtype=torch.float64)
    x[0] = 20.0
    folds = KFold(5, shuffle=True, random_state=0)
    grid = {"rank": [1, 6], "cells": [0, 10]}
    model = tl.TTDensity(basis=16, steps=3)
    search = GridSearchCV(model, grid, cv=folds, error_score="raise").fit(x.numpy())
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all() and search.best_params_["rank"] == 6
    bounded = GridSearchCV(model.set_params(background=0), grid, cv=folds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bounded.fit(x.numpy())
    assert (bounded.cv_results_["mean_test_score"] == -math.inf).all()  # the data ask the question


# -- noise


def batch(model, x):
    """The rows of one step of a model that has seen none."""
    task = Task(
        None,
        [],
        x,
        x,
        torch.Generator().manual_seed(0),
        0.0,
        1,
        len(x),
        0.0,
        model.noise,
        bool(model.cells),
    )
    return task.rows()


@pytest.mark.parametrize("noise", [0.1, 0.8, 3.0])
def test_noise_on_the_unit_interval_is_reflected_at_its_ends(noise):
    """Even rows stay even under reflected noise of any length, and none piles up at an end."""
    model = tl.TTDensity(cells=4, noise=noise, batch=4000)
    x = torch.rand(4000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moved = batch(model, x)
    assert (moved >= 0).all() and (moved <= 1).all() and len(moved[:, 0].unique()) == 4000
    for k in (0, 1):
        assert stats.kstest(moved[:, k].numpy(), "uniform").pvalue > 1e-3
    g = torch.Generator().manual_seed(0)  # the same draws
    rows = torch.randperm(4000, generator=g)
    free = x[rows] + noise * torch.randn(4000, 2, generator=g, dtype=torch.float64)
    wave = np.arccos(np.cos(np.pi * free.numpy())) / np.pi  # a triangle from 0 to 1 and back
    assert np.allclose(moved.numpy(), wave, atol=1e-7)  # arccos squares eps at its ends
    assert ((free < 0) | (free > 1)).any() and torch.equal(
        batch(tl.TTDensity(noise=noise), x), free
    )


def test_noise_does_not_pile_up_at_the_ends_of_a_density_with_cells():
    x = torch.rand(2000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    settings = dict(rank=1, basis=12, cells=10, margin=0.0, noise=0.4, steps=6, held_out=0.0)
    model = tl.TTDensity(**settings).fit(x)
    ends = model.score_samples(torch.tensor([[0.002], [0.998]], dtype=torch.float64)).exp()
    assert (ends - 1).abs().max() < 0.25


# -- is invariant


def differences(x, unit, shift, kind):
    """By how much log-densities, marginals and samples differ in other units."""
    settings = dict(rank=3, basis=10, steps=2) | KINDS[kind]
    one, other = (tl.TTDensity(**settings).fit(z) for z in (x, x * unit + shift))
    z, w, move = x[:50], x[:50] * unit + shift, unit.log()
    with warnings.catch_warnings():  # of rows where a linear model is negative
        warnings.simplefilter("ignore")
        log = one.score_samples(z) - other.score_samples(w) - move.sum()
        first = one.score_samples(z[:, :1], dims=[0])
        first = first - other.score_samples(w[:, :1], dims=[0]) - move[0]
        samples = one.sample(20, 0) - (other.sample(20, 0) - shift) / unit
    assert int(log.isnan().sum()) < 25
    return max(float(t[~t.isnan()].abs().max()) for t in (log, first, samples))


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "dtype, powers",
    [
        (torch.float64, (300,) * 3),
        (torch.float64, (-300,) * 3),
        (torch.float64, (600, -600, 0)),
        (torch.float64, (1000, -1000, 5)),
        (torch.float32, (60,) * 3),
        (torch.float32, (-60,) * 3),
        (torch.float32, (100, -100, 0)),
    ],
)
def test_units_do_not_matter(kind, dtype, powers):
    """But for the rounding of a chain of sums of logarithms, each no larger than those of the
    units."""
    unit = torch.tensor([math.ldexp(1.0, p) for p in powers], dtype=dtype)
    tolerance = 16 * torch.finfo(dtype).eps * float(unit.log().abs().sum())
    assert differences(crescent(300, 3).to(dtype), unit, 0.0, kind) < tolerance


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_a_shift_moves_the_density(kind):
    """But for what it rounds the data by, times the slopes of the logarithm, here under 100."""
    unit, shift = torch.full((3,), 1000.0, dtype=torch.float64), 1e6
    tolerance = 400 * torch.finfo(torch.float64).eps * shift / 1000.0
    assert differences(crescent(300, 3), unit, shift, kind) < tolerance


def test_same_seed_same_numbers_and_learning_helps():
    x = crescent()
    one, two = (tl.TTDensity(rank=4, basis=12, steps=3).fit(x) for _ in range(2))
    assert torch.equal(one.trains_[0].cores[1], two.trains_[0].cores[1]) and torch.equal(
        one.sample(5, 3), two.sample(5, 3)
    )
    assert one.history_[-1][2] > one.history_[0][2] > -math.inf


@pytest.mark.thorough
def test_adam_and_the_natural_gradient_seek_the_same():
    x = crescent()
    natural = tl.TTDensity(rank=3, basis=10, steps=8).fit(x)
    adam = tl.TTDensity(rank=3, basis=10, steps=250, method="adam", batch=512).fit(x)
    start, *_, end = (value for _, _, value in natural.history_)
    assert adam.history_[0][2] == pytest.approx(start, abs=1e-9)
    assert end > start + 0.02 and max(value for _, _, value in adam.history_) > start + 0.02
    assert natural.score(x) > adam.score(x) - 0.02 * len(x)


@pytest.mark.parametrize("cells", [0, 15])
def test_a_sweep_never_lowers_the_held_out_likelihood(cells):
    model = tl.TTDensity(rank=8, basis=20, steps=4, cells=cells).fit(
        crescent(300)
    )  # more coefficients than rows
    values = [value for _, _, value in model.history_]
    assert (
        all(new >= old - 1e-9 for old, new in zip(values, values[1:]))
        and values[-1] > values[0] + 0.01
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_that_of_the_data(dtype):
    model = tl.TTDensity(rank=2, basis=8, steps=2).fit(crescent(300).to(dtype))
    assert model.sample(3, 0).dtype == model.score_samples(crescent(5).to(dtype)).dtype == dtype


# -- the linear model


@pytest.fixture(scope="module")
def linear():
    settings = dict(rank=4, basis=10, steps=8, model="linear", background=0)
    return tl.TTDensity(**settings).fit(crescent(800))


def test_linear_integrates_to_one_and_its_loss_is_the_closed_form(linear):
    points, w = grid(linear, (0, 1))
    with pytest.warns(UserWarning, match="linear model is not positive; they have NaN"):
        log = linear.score_samples(points)
    values = (linear.splines_.at(points), linear.trains_[0].to_dense())
    index = values[0].interval[..., None] + torch.arange(3)
    q = torch.einsum(
        "nab,na,nb->n",
        values[1][index[:, 0, :, None], index[:, 1, None, :]],
        *values[0].values.unbind(1),
    )
    assert float(q @ w) == pytest.approx(1, abs=1e-9)
    assert torch.equal(log.isnan(), q <= 0) and torch.allclose(
        log[q > 0].exp(), q[q > 0], rtol=1e-8
    )
    steps = [value for _, _, value in linear.history_]
    assert min(steps) < steps[0] < 0


def test_what_is_negative_is_counted(linear):
    x = torch.tensor([[-2.0, 8.0], [0.0, 0.0], [99.0, 0.0]], dtype=torch.float64)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        log = linear.score_samples(x)
    report = linear.report(x)
    assert log[2] == -math.inf and report.outside == pytest.approx(1 / 3)
    assert report.negative == pytest.approx(float(log.isnan().double().mean()))
    assert report.mean == pytest.approx(float(log[log.isfinite()].mean()))
    assert any("1 of 3 rows lie outside of the support" in str(w.message) for w in said)


# -- scikit-learn


def test_it_stands_where_kernel_density_stood():
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = crescent(400).numpy()
    model = tl.TTDensity(rank=2, basis=8, steps=2)
    copy = clone(model).set_params(rank=3)
    assert (
        copy.rank == 3
        and model.rank == 2
        and copy.basis == 8
        and repr(copy) == "TTDensity(rank=3, basis=8, steps=2)"
    )
    pipe = make_pipeline(StandardScaler(), model).fit(x)
    assert isinstance(model.sample(2, 0), np.ndarray) and isinstance(
        pipe.score_samples(x), np.ndarray
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search = GridSearchCV(model, {"rank": [1, 2]}, cv=2, error_score="raise").fit(x)
    assert search.best_params_["rank"] in (1, 2)


@pytest.mark.thorough
def test_the_package_does_not_import_scikit_learn():
    import subprocess
    import sys

    code = "import sys, tensorlab; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- says no


def test_says_no_and_loses_nothing():
    x = crescent(300)
    model = tl.TTDensity(rank=2, basis=8, steps=2).fit(x)
    before = model.score_samples(x)
    nan, still = x.clone(), x.clone()
    nan[3, 1], still[:, 1] = math.nan, 2.5
    for wrong, said in (
        (nan, r"needs finite entries, got nan at index \(3, 1\)"),
        (still, "got column 1 with 2.5 in every row"),
        (x[:1], "needs two rows or more, got 1"),
        (x[:, 0], r"needs a table of shape \(n, d\), got shape \(300,\)"),
    ):
        with pytest.raises(ValueError, match=said):
            model.fit(wrong)
    assert torch.equal(model.score_samples(x), before)
    with pytest.warns(UserWarning, match="300 of 600 rows repeat another"):
        model.fit(torch.cat([x, x]))


@pytest.mark.parametrize(
    "params, said",
    [
        (dict(model="cubed"), "'cubed'"),
        (dict(knots="even"), "'even'"),
        (dict(rank=0), "rank must be an integer >= 1, got 0"),
        (dict(basis=2), "basis must be an integer >= 3, got 2"),
        (dict(lr=-1), "got -1"),
        (dict(background=0.7), "background must be a number in 0..0.5, got 0.7"),
        (dict(noise=math.nan), "got nan"),
        (dict(model="linear", components=2), "components=2"),
    ],
)
def test_says_no_to_parameters(params, said):
    with pytest.raises(ValueError, match=said):
        tl.TTDensity(**params).fit(crescent(50))


def test_says_no_to_questions_it_cannot_answer(squared):
    x = crescent(4)
    for call, said in (
        (lambda: tl.TTDensity().score_samples(x), "needs a call of fit first"),
        (lambda: squared.score_samples(x, dims=(0, 0)), r"got dims \[0, 0\]"),
        (lambda: squared.score_samples(x[:, :1], given={0: 99.0}), "variable 0 has its support in"),
        (lambda: squared.sample(2, given={0: 0.0, 1: 0.0}), "got all 2 given"),
        (lambda: squared.sample(0), "n_samples must be an integer >= 1, got 0"),
        (lambda: squared.set_params(ranks=3), "got 'ranks'"),
    ):
        with pytest.raises(ValueError, match=said):
            call()


@pytest.mark.parametrize("settings", [{}, dict(method="adam"), dict(model="linear")], ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_fit_that_is_nowhere_finite_is_a_floating_point_error(monkeypatch, settings, value):
    model, x = tl.TTDensity(rank=2, basis=6, steps=2, **settings).fit(crescent(200)), crescent(300)
    before = model.score_samples(x)
    start = lambda *arguments: [
        tl.TT(tuple(core * value for core in train.cores)) for train in start_trains(*arguments)
    ]
    monkeypatch.setattr(density, "start_trains", start)
    with pytest.raises(FloatingPointError, match="TTDensity.fit: needs steps that stay finite"):
        model.fit(x)
    assert torch.equal(model.score_samples(x), before)  # what was learned before is still there
