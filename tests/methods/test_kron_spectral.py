"""Kronecker sums in the spectral norm: gradients, the case p = 2, recovery, invariance, bounds, the
ratios to the SVD, inputs of data, and what is refused."""

import math

import pytest
import torch

import tensorlab as tl
from tensorlab.methods import kron_spectral as module
from tensorlab.methods.kron_spectral import (
    Charts,
    Point,
    Search,
    Sizes,
    Sum,
    kron_alternating,
    kron_spectral,
    scaled_problem,
    schatten,
)

EPS = torch.finfo(torch.float64).eps


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def spectral(e):
    return float(torch.linalg.matrix_norm(e, 2))


# ------------------------------------------------------------------------------- the Schatten norm


@pytest.mark.parametrize("p", [2, 3, 4, 8, 32, 100, 128])
@pytest.mark.parametrize("scale", [1.0, 1e150, 1e-150])
@pytest.mark.parametrize("shape", [(7, 5), (5, 7)])
def test_gradient_against_finite_differences(p, scale, shape):
    """Central differences with step h err by h² p² and by eps / h: 1e-8 p² + 1e-10 at h = 1e-5."""
    e, d, h = gaussian(*shape), gaussian(*shape, seed=1), 1e-5
    value, gradient = schatten(e * scale, p)
    assert value / scale == pytest.approx(float((torch.linalg.svdvals(e) ** p).sum()) ** (1 / p))
    values = [float(schatten((e + s * h * d) * scale, p)[0]) / scale for s in (1, -1)]
    slope = (values[0] - values[1]) / (2 * h)
    assert float((gradient * d).sum()) == pytest.approx(slope, abs=4 * (h**2 * p**2 + EPS / h * 10))


def test_gradient_of_nothing_is_zero():
    value, gradient = schatten(torch.zeros(3, 4), 64)
    assert value == 0 and gradient.abs().max() == 0


def test_gradient_of_complex_matrices():
    e, d, h = gaussian(5, 4, dtype=torch.complex128), gaussian(5, 4, seed=1) * (1 + 1j), 1e-5
    slope = float(schatten(e + h * d, 8)[0] - schatten(e - h * d, 8)[0]) / (2 * h)
    assert float((schatten(e, 8)[1].conj() * d).sum().real) == pytest.approx(slope, abs=1e-7)


# -------------------------------------------------------------------------------- the coordinates


def sums(dtype=torch.float64):
    """A point of two parts, (3 x 4) ⊗ (4 x 5) and (12 x 1) ⊗ (1 x 20), whose factors are any."""
    sizes = Sizes(3, 4, 4, 5), Sizes(12, 1, 1, 20)
    draw = lambda k, s, seed: gaussian(k, s, seed=seed, dtype=dtype)
    return Point(
        tuple(
            Sum(s, draw(s.m * s.n, k, k), draw(s.rows * s.columns, k, k + 9))
            for k, s in zip((3, 2), sizes)
        )
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("side", [None, "left", "right"])
def test_the_gradient_by_coordinates_against_differences(side, dtype):
    """Far from the base too. A sum is of degree two in its coordinates, so central differences of
    a linear function of it have no error but rounding."""
    charts = Charts.of(sums(dtype), side)
    z = gaussian(12, 20, seed=3, dtype=dtype)
    drawn = lambda seed: charts.gradient(gaussian(12, 20, seed=seed, dtype=dtype), charts.base)
    x, d = drawn(5), drawn(6)  # of the linear space of the coordinates
    value = lambda x: float((z.conj() * charts.at(x).dense()).sum().real)
    slope = (value(x + d) - value(x - d)) / 2
    have = float((charts.gradient(z, charts.at(x)).conj() * d).sum().real)
    assert have == pytest.approx(slope, rel=1e3 * EPS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_coordinates_are_as_long_as_their_tangent_vectors(dtype):
    point = sums(dtype)
    charts, z = Charts.of(point), gaussian(12, 20, seed=3, dtype=dtype)
    assert torch.allclose(charts.base.dense(), point.dense(), rtol=0, atol=1e-12)
    for chart in charts.parts:
        x = chart.project(z)
        tangent = chart.matrix(x)
        assert float(x.norm()) == pytest.approx(float(tangent.norm()), rel=1e3 * EPS)
        assert torch.allclose(chart.project(tangent), x, rtol=0, atol=1e-12)
        move = (chart.at(1e-5 * x).dense() - chart.at(-1e-5 * x).dense()) / 2e-5
        assert torch.allclose(move, tangent, rtol=0, atol=1e-9)


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_half_finds_the_best_factors_on_its_side(side):
    """For p = 2 that is a projection, however far the start is in size."""
    w, sizes = gaussian(12, 20), Sizes(3, 4, 4, 5)
    problem = scaled_problem("kron_spectral", w)
    start = sums().parts[0]
    search = Search(problem, Point((start,)))
    search.fix(search.best, side)
    search.run(1e-9, 2, 200)
    x, q = sizes.rearrange(problem.w), torch.linalg.qr(start.y if side == "left" else start.u).Q
    want = sizes.back(x @ q @ q.mT if side == "left" else q @ q.mT @ x)
    assert (search.best.dense() - want).norm() < 1e-8 * w.norm()


# ----------------------------------------------------------------------------------- reduces to


@pytest.mark.parametrize("shape, left", [((12, 20), (3, 4)), ((20, 12), (5, 2)), ((6, 8), (6, 1))])
def test_exponent_2_is_kron_svd(shape, left):
    w = gaussian(*shape)
    have, want = kron_spectral(w, left, 2, p_max=2).value, tl.kron_svd(w, left, 2)
    assert (have.to_dense() - want.to_dense()).norm() < 1e3 * EPS * w.norm()


@pytest.mark.parametrize("size", [9, 12])
def test_trivial_left_factors_are_low_rank_whose_best_is_known_in_every_norm(size):
    """(m x 1) ⊗ (1 x n): the truncated SVD is best in the spectral norm too [EckartYoung1936]."""
    w = gaussian(size, 10)
    fit = kron_spectral(w, (size, 1), 3)
    assert fit.error == pytest.approx(float(torch.linalg.svdvals(w)[3]), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("rank, terms", [(3, 3), (4, 2)])
def test_a_sum_is_recovered(dtype, rank, terms):
    hidden = tl.Kronecker.randn(
        (12, 15),
        terms,
        out=(3, 4),
        in_=(5, 3),
        generator=torch.Generator().manual_seed(0),
        dtype=dtype,
    )
    w = hidden.to_dense()
    fit = kron_spectral(w, (3, 5), rank)
    assert fit.converged and fit.value.ranks == (terms,) and math.isfinite(fit.gap)
    assert (fit.value.to_dense() - w).norm() < 1e-10 * w.norm()


def test_as_many_terms_as_hold_every_matrix_leave_nothing_to_search():
    w = gaussian(12, 12)
    fit = kron_spectral(w, (3, 4), 12)
    assert fit.converged and fit.error < 64 * EPS * spectral(w) and len(fit.history) == 1


def test_zeros():
    fit = kron_spectral(torch.zeros(4, 6), (2, 3), 1)
    assert fit.error == 0 == fit.bound == fit.gap and fit.value.to_dense().abs().max() == 0


@pytest.mark.thorough
def test_inputs_that_are_alike_in_all_directions_change_nothing():
    w, q = gaussian(12, 12), torch.linalg.qr(gaussian(12, 12, seed=1)).Q
    plain, weighted = (
        kron_spectral(w, (3, 4), 2, inputs=x, tol=1e-3, p_max=2048, max_iter=2000)
        for x in (None, q * 12**0.5)
    )
    assert weighted.error == pytest.approx(plain.error, rel=3e-3)


# ---------------------------------------------------------------------------------- is invariant


@pytest.mark.thorough
@pytest.mark.parametrize("power", [-600, -3, 5, 600])
def test_powers_of_two_change_nothing(power):
    w, scale = gaussian(12, 12), 2.0**power
    fit, scaled = (kron_spectral(x, (3, 4), 2) for x in (w, w * scale))
    assert scaled.error == fit.error * scale and scaled.history == fit.history
    assert scaled.bound == fit.bound * scale


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(3))
def test_orthogonal_kronecker_factors_change_nothing(seed):
    w = gaussian(16, 16, seed=seed)
    q = [torch.linalg.qr(gaussian(4, 4, seed=10 * seed + k)).Q for k in range(4)]
    turned = torch.kron(q[0], q[1]) @ w @ torch.kron(q[2], q[3])
    kwargs = dict(tol=2e-4, p_max=4096, max_iter=3000)
    a, b = (kron_spectral(x, (4, 4), 3, **kwargs).error for x in (w, turned))
    assert a == pytest.approx(b, rel=1e-3)


@pytest.mark.thorough
def test_the_conjugate_transpose_has_the_same_error():
    w = gaussian(12, 20)
    a = kron_spectral(w, (3, 4), 2, tol=1e-3, p_max=2048, max_iter=2000).error
    b = kron_spectral(w.mT, (4, 3), 2, tol=1e-3, p_max=2048, max_iter=2000).error
    assert a == pytest.approx(b, rel=3e-3)


@pytest.mark.thorough
def test_same_seed_same_numbers():
    w = gaussian(12, 12)
    runs = [
        kron_spectral(w, (3, 4), 2, starts=3, generator=torch.Generator().manual_seed(5))
        for _ in range(2)
    ]
    assert runs[0].history == runs[1].history
    assert runs[0].error <= kron_spectral(w, (3, 4), 2).error


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.complex64])
def test_narrow_numbers(dtype):
    w = gaussian(12, 12).to(dtype)
    fit = kron_spectral(w, (3, 4), 2)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    assert fit.value.dtype == dtype
    assert spectral(w.to(wide) - fit.value.to(wide).to_dense()) == pytest.approx(
        fit.error, rel=30 * torch.finfo(dtype).eps
    )


# ----------------------------------------------------------------------------------- how good it is


@pytest.mark.thorough
@pytest.mark.parametrize("rank, least", [(3, 1.27), (6, 1.41), (9, 1.53), (12, 1.65)])
def test_ratio_to_the_svd_at_equal_parameters(rank, least):
    """Of ten Gaussian matrices the means are 1.29, 1.43, 1.55 and 1.69."""
    ratios = []
    for seed in range(10):
        w = gaussian(36, 36, seed=seed)
        fit, start = kron_spectral(w, (6, 6), rank), tl.kron_svd(w, (6, 6), rank)
        error = spectral(w - fit.value.to_dense())
        assert error == pytest.approx(fit.error, rel=1e-9)
        assert error < spectral(w - start.to_dense())
        assert 0 < fit.bound < fit.certificate <= fit.error and fit.gap < 0.03
        ratios.append(float(torch.linalg.svdvals(w)[rank]) / error)
    assert sum(ratios) / 10 >= least


@pytest.mark.parametrize("max_iter", [0, 1, 5])
def test_never_worse_than_the_frobenius_start(max_iter):
    w = gaussian(12, 16)
    fit = kron_spectral(w, (3, 4), 2, max_iter=max_iter)
    assert fit.error <= spectral(w - tl.kron_svd(w, (3, 4), 2).to_dense()) * (1 + 1e-12)
    assert len(fit.history) == len(fit.exponents) <= max_iter + 1


@pytest.mark.thorough
def test_the_alternating_way_finds_no_more_than_the_certificate_allows():
    w = gaussian(12, 12)
    ours = kron_spectral(w, (3, 4), 2)
    theirs = kron_alternating(w, (3, 4), 2)
    assert theirs.error < spectral(w - tl.kron_svd(w, (3, 4), 2).to_dense())
    assert theirs.error > ours.bound and ours.error < 1.02 * theirs.error


def test_the_certificate_bounds_what_new_right_factors_reach():
    """For fixed left factors the problem is convex: a long search from our value stays above."""
    w = gaussian(12, 12)
    fit = kron_spectral(w, (3, 4), 2)
    a = fit.value.factors[0].double()
    b = fit.value.factors[1].clone().requires_grad_()
    optimizer = torch.optim.Adam([b], 3e-3)
    best = math.inf
    for _ in range(400):
        error = torch.linalg.matrix_norm(w - tl.Kronecker((a, b)).to_dense(), 2)
        best = min(best, float(error.detach()))
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert fit.certificate <= best <= fit.error


# ----------------------------------------------------------------------------------- inputs of data


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(3))
def test_inputs_make_the_error_of_outputs_smaller(seed):
    w, x = gaussian(12, 12, seed=seed), gaussian(40, 12, seed=seed + 9) * torch.logspace(0, -2, 12)
    fit = kron_spectral(w, (3, 4), 2, inputs=x)
    output = lambda v: spectral((w - v.to_dense()) @ x.mT / 40**0.5)
    assert output(fit.value) == pytest.approx(fit.error, rel=1e-3)  # the ridge is 1e-6 of the mean
    assert output(fit.value) < 0.8 * output(kron_spectral(w, (3, 4), 2).value)
    assert 0 < fit.bound <= fit.certificate <= fit.error


def test_exponent_2_with_inputs_makes_the_mean_error_of_outputs_least():
    """Its gradient by the factors is zero: a least-squares step from there gains nothing."""
    w, x = gaussian(12, 12), gaussian(40, 12, seed=9) * torch.logspace(0, -2, 12)
    output = lambda v: float(((w - v.to_dense()) @ x.mT).norm())
    have = kron_spectral(w, (3, 4), 2, inputs=x, p_max=2, max_iter=500).value
    assert output(have) < 0.9 * output(tl.kron_svd(w, (3, 4), 2))
    assert output(have) < output(kron_spectral(w, (3, 4), 2, inputs=x).value)


def test_scaled_inputs_scale_the_error():
    w, x = gaussian(12, 12), gaussian(40, 12, seed=9)
    a, b = (kron_spectral(w, (3, 4), 2, inputs=y).error for y in (x, x * 2.0**40))
    assert b == pytest.approx(a * 2.0**40, rel=1e-3)


def test_fewer_inputs_than_directions():
    w, x = gaussian(12, 12), gaussian(3, 12, seed=9)
    fit = kron_spectral(w, (3, 4), 4, inputs=x)
    assert math.isfinite(fit.error) and fit.error < spectral(w @ x.mT)


# ------------------------------------------------------------------------------------------- layers


def test_a_layer_takes_it():
    layer = torch.nn.Linear(12, 12)
    model = tl.replace_linear(
        torch.nn.Sequential(layer), "0", lambda w: kron_spectral(w, (3, 4), 2).value
    )
    x = gaussian(5, 12).float()
    want = x @ model[0].weight.to_dense().mT + layer.bias
    assert torch.allclose(model(x), want, atol=1e-5)


# ------------------------------------------------------------------------------------------ refuses


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(left=(5, 4)), ["rows of 1, 2, 3, 4, 6, 12", "columns of 1, 2, 3", "(5, 4)"]),
        (dict(left=(3,)), ["left = (rows, columns)", "(3,)"]),
        (dict(left=3), ["shape of integers", "3"]),
        (dict(rank=13), ["rank from 1 to 12", "3 x 4 and 4 x 3", "13"]),
        (dict(rank=0), ["rank from 1 to 12", "0"]),
        (dict(rank=2.0), ["rank from 1 to 12", "2.0"]),
        (dict(rank=True), ["rank from 1 to 12", "True"]),
        (dict(w=torch.full((12, 12), math.nan)), ["nan"]),
        (dict(w=torch.ones(12)), ["needs a matrix", "(12,)"]),
        (dict(inputs=torch.ones(5, 11)), ["(samples, 12)", "(5, 11)"]),
        (dict(tol=-1), ["tol", "-1"]),
        (dict(p_max=1), ["p_max", "1"]),
        (dict(max_iter=-1), ["max_iter", "-1"]),
        (dict(starts=0), ["starts", "0"]),
    ],
)
def test_refuses(change, words):
    arguments = dict(w=torch.ones(12, 12), left=(3, 4), rank=2) | change
    with pytest.raises(ValueError) as caught:
        kron_spectral(**arguments)
    message = str(caught.value)
    assert message.startswith("kron_spectral: ") and all(word in message for word in words), message


def test_refuses_integers():
    with pytest.raises(TypeError, match="kron_spectral: "):
        kron_spectral(torch.ones(4, 4, dtype=torch.int64), (2, 2), 1)


def test_the_memory_is_used(monkeypatch):
    """Without its memory L-BFGS is steepest descent, which does not come as far in its steps."""
    w = gaussian(36, 36)
    error = kron_spectral(w, (6, 6), 6, max_iter=60).error
    monkeypatch.setattr(module, "CURVED", 2.0)
    assert kron_spectral(w, (6, 6), 6, max_iter=60).error > 1.005 * error
