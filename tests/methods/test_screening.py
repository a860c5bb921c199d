"""Screening of interactions: all correlations against brute force, planted sets, what is invariant,
what it says no to."""

import itertools
import math

import pytest
import torch
from scipy.linalg import hadamard

from tensorlab.methods import screening
from tensorlab.methods.estimator import standardize
from tensorlab.methods.screening import screen_interactions


def brute(x, residual, order):
    """Set and correlation, of all sets of 2 to `order` columns, one by one."""
    z = x.double()
    z = (z - z.mean(0)) / z.std(0, correction=0)
    for size in range(2, order + 1):
        for s in itertools.combinations(range(x.shape[1]), size):
            p = z[:, s].prod(1)
            yield s, float(residual.double() @ p / (residual.double().norm() * p.norm()))


# -- reduces to


@pytest.mark.parametrize("dtype, atol", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("d, order", [(2, 2), (5, 2), (6, 3), (7, 4), (7, 5), (7, 7)])
def test_every_correlation_is_that_of_brute_force(d, order, dtype, atol, generator, monkeypatch):
    monkeypatch.setattr(screening, "CHUNK", 100)  # many chunks of rows
    x = torch.randn(60, d, generator=generator, dtype=dtype) * 3 + 1
    residual = torch.randn(60, generator=generator, dtype=dtype)
    found = screen_interactions(x, residual, order, 10_000)
    expected = dict(brute(x, residual, order))
    assert len(found) == len(expected) and all(
        abs(value - expected[s]) < atol for s, value in found
    )
    sizes = [abs(value) for _, value in found]
    assert sizes == sorted(sizes, reverse=True)


def test_on_the_whole_cube_they_are_walsh_coefficients(generator):
    x = torch.cartesian_prod(*[torch.tensor([1.0, -1.0], dtype=torch.float64)] * 5)
    residual = torch.randn(32, generator=generator, dtype=torch.float64)
    walsh = torch.as_tensor(hadamard(32)).double() @ residual / (32**0.5 * residual.norm())
    for s, value in screen_interactions(x, residual, 5, 99):
        assert value == pytest.approx(float(walsh[sum(16 >> k for k in s)]), abs=1e-12)


# -- by hand


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("kind", ["corners", "numbers"])
def test_planted_sets_are_the_strongest(order, kind, generator):
    x = torch.randn(3000, 9, generator=generator)
    x = x.sign() if kind == "corners" else 5 + 2 * x
    sets = [(0, 8), (2, 5), tuple(range(1, 1 + order))]
    z = standardize(x)[0]
    residual = sum(w * z[:, s].prod(1) for w, s in zip((1.0, -1.0, 0.7), sets)) + torch.randn(
        3000, generator=generator
    )
    found = dict(screen_interactions(x, residual - residual.mean(), order, 3))
    assert set(found) == set(sets) and found[0, 8] > 0 > found[2, 5]


def test_ties_are_all_found(generator):
    x = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    x = torch.cat([x, x[:, :1]], 1)  # columns 0 and 3 are equal
    found = screen_interactions(x, x[:, 0] * x[:, 1], 2, 2)
    assert {s for s, _ in found} == {(0, 1), (1, 3)}
    assert abs(found[0][1]) == pytest.approx(abs(found[1][1]), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_columns_are_in_no_product(dtype, generator):
    x = torch.randn(100, 4, generator=generator, dtype=dtype)
    x[:, 1] = 0.1  # not a number of either dtype, so its mean is rounded
    found = screen_interactions(x, x[:, 0] * x[:, 2], 3, 99)
    assert {s for s, _ in found} == {(0, 2), (0, 3), (2, 3), (0, 2, 3)}
    assert screen_interactions(x, torch.zeros(100), 3, 5) == []


# -- is invariant


def test_shift_and_scale_of_columns_and_residual_change_nothing(generator):
    x = torch.randn(300, 6, generator=generator, dtype=torch.float64)
    residual = torch.randn(300, generator=generator, dtype=torch.float64)
    one = screen_interactions(x, residual, 4, 9)
    two = screen_interactions(x * 1000 + torch.arange(6), residual * 1e-3, 4, 9)
    assert [s for s, _ in one] == [s for s, _ in two]
    assert torch.allclose(
        torch.tensor([v for _, v in one]), torch.tensor([v for _, v in two]), atol=1e-9
    )


@pytest.mark.parametrize("dtype, power", [(torch.float64, 600), (torch.float32, 100)])
def test_powers_of_two_change_no_digit(dtype, power, generator):
    x = torch.randn(300, 5, generator=generator, dtype=dtype)
    residual = torch.randn(300, generator=generator, dtype=torch.float64)
    one = screen_interactions(x, residual, 3, 9)
    for unit in (2.0**power, 2.0**-power):
        assert screen_interactions(x * unit, residual / unit, 3, 9) == one


def test_arrays_of_any_layout_are_tables(generator):
    x = torch.randint(-9, 9, (60, 4), generator=generator)
    residual = (x[:, 0] * x[:, 1]).double()
    want = screen_interactions(x.double(), residual - residual.mean(), 2, 3)
    y, r = x.numpy()[::-1], (residual - residual.mean()).numpy().astype(">f8")[::-1]
    assert screen_interactions(x, (residual - residual.mean()).tolist(), 2, 3) == want
    again = screen_interactions(y, r, 2, 3)
    assert [s for s, _ in again] == [s for s, _ in want]


def test_permuted_columns_permute_the_sets(generator):
    x = torch.randn(200, 7, generator=generator, dtype=torch.float64)
    residual = torch.randn(200, generator=generator, dtype=torch.float64)
    order = torch.randperm(7, generator=generator)
    one = screen_interactions(x, residual, 4, 9)
    two = screen_interactions(x[:, order], residual, 4, 9)
    assert [s for s, _ in one] == [tuple(sorted(order[list(s)].tolist())) for s, _ in two]


# -- says no


def test_says_no(generator):
    x, residual = torch.randn(20, 4, generator=generator), torch.randn(20, generator=generator)
    nan = residual.clone()
    nan[3] = math.nan
    for args, said in (
        ((x, residual, 1, 1), "order must be an integer >= 2, got 1"),
        ((x, residual, 2, 0), "count must be an integer >= 1, got 0"),
        ((x, residual[:9], 2, 1), r"each of the 20 rows, got shape \(9,\)"),
        ((x, nan, 2, 1), r"got nan at index \(3,\)"),
        (
            (torch.ones(2, 200), torch.ones(2), 6, 1),
            "16777216 sets to screen, got 85010294590 for order 6 and 200 columns",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            screen_interactions(*args)
    with pytest.raises(ValueError, match="order must be an integer >= 2, got 2.0"):
        screen_interactions(x, residual, 2.0, 1)
    assert screen_interactions(x[:, :1], residual, 3, 5) == []  # one column has no products
