"""Clusters: against scikit-learn from the same start, by hand, of any scale and place, the same for
the same generator."""

import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors

from tensorlab import clusters
from tensorlab.clusters import far_apart, kmeans, kmeans_line, nearest

F64 = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=F64)


def blobs(k=5, n=40, d=3, seed=0):
    """k groups of n points about k places, in 1/1024: a shift by a whole number rounds nothing."""
    middles = 6 * gaussian(k, 1, d, seed=seed)
    points = (middles + gaussian(k, n, d, seed=seed + 1)).reshape(-1, d)
    return (points * 1024).round() / 1024


# -- reduces to


@pytest.mark.parametrize("d", [1, 2, 7])
@pytest.mark.parametrize("seed", range(4))
def test_from_the_same_start_it_is_scikit_learns(d, seed):
    x = blobs(d=d, seed=10 * seed)
    start = x[torch.randperm(len(x), generator=seeded(seed))[:5]]
    theirs = KMeans(5, init=start.numpy(), n_init=1, tol=0, algorithm="lloyd").fit(x.numpy())
    fit = kmeans(x, start, tol=0)
    assert fit.converged and torch.allclose(
        fit.value, torch.as_tensor(theirs.cluster_centers_), rtol=0, atol=1e-10
    )
    assert fit.history[-1] == pytest.approx(theirs.inertia_ / len(x), rel=1e-10)
    assert nearest(x, fit.value).tolist() == theirs.labels_.tolist()


@pytest.mark.parametrize("d", [1, 2, 7])
def test_nearest_is_scikit_learns(d):
    x, y = gaussian(300, d), gaussian(50, d, seed=1)
    search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(y.numpy())
    assert nearest(x, y).tolist() == search.kneighbors(x.numpy())[1][:, 0].tolist()


def test_on_a_line_it_is_kmeans_of_a_line():
    x = gaussian(500)
    levels = kmeans_line(x, 6)
    fit = kmeans(x[:, None], levels[:, None].double(), tol=0)  # which cannot make them any better
    assert torch.allclose(fit.value[:, 0], levels.double(), rtol=1e-6)


# -- by hand


def test_by_hand():
    x = torch.tensor([[0.0, 0.0], [0.0, 2.0], [9.0, 9.0]])
    fit = kmeans(x, torch.tensor([[0.0, 0.0], [5.0, 5.0]]))
    assert fit.value.tolist() == [[0.0, 1.0], [9.0, 9.0]]
    assert fit.history == pytest.approx([(4 + 32) / 3, 2 / 3, 2 / 3]) and fit.converged


def test_a_center_without_points_stays():
    fit = kmeans(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [50.0]]))
    assert fit.value.tolist() == [[1.0], [50.0]]


def test_a_point_is_never_drawn_twice_where_others_are_left():
    x = torch.cat([torch.zeros(500, 2), torch.tensor([[1.0, 0.0], [0.0, 1e-3]])])
    for seed in range(20):
        assert len(far_apart(x, 3, generator=seeded(seed)).unique(dim=0)) == 3
    assert len(far_apart(x, 5, generator=seeded())) == 5  # all are taken: any will do


@pytest.mark.thorough
def test_far_apart_draws_with_squared_distances():
    """From 0 or from 3: among 0, 1, 3 the second is 3 with probability 9 / 10, or 0 with 9 / 13."""
    x = torch.tensor([[0.0], [1.0], [3.0]])
    g, seen = seeded(), torch.zeros(3, 3)
    for _ in range(3000):
        a, b = far_apart(x, 2, generator=g).flatten().tolist()
        seen[(0, 1, 3).index(a), (0, 1, 3).index(b)] += 1
    share = seen / seen.sum(1, keepdim=True)
    want = torch.tensor([[0, 1 / 10, 9 / 10], [1 / 5, 0, 4 / 5], [9 / 13, 4 / 13, 0]])
    deviation = (want * (1 - want) / seen.sum(1, keepdim=True)).sqrt()
    assert ((share - want).abs() <= 5 * deviation).all()


# -- is invariant


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("power", [600, -600])
def test_scale_does_not_matter(d, power):
    x, unit = blobs(d=d), 2.0**power
    want, fit = (kmeans(y, 5, generator=seeded()) for y in (x, x * unit))
    assert torch.equal(fit.value, want.value * unit)
    assert torch.equal(nearest(x * unit, want.value * unit), nearest(x, want.value))
    assert torch.equal(
        far_apart(x * unit, 7, generator=seeded()) / unit, far_apart(x, 7, generator=seeded())
    )
    squares = [h * unit * unit for h in want.history]  # inf or 0 where a float64 ends
    assert list(fit.history) == squares


@pytest.mark.parametrize("d", [1, 3])
def test_place_does_not_matter(d):
    """At a distance of 2^20 the squares leave 12 bits of a difference, the differences all 53."""
    x, shift = blobs(d=d), 2.0**20
    want, fit = (kmeans(y, 5, generator=seeded()) for y in (x, x + shift))
    assert torch.allclose(fit.value - shift, want.value, rtol=0, atol=8 * 2.0**-53 * shift)
    assert torch.equal(nearest(x + shift, fit.value), nearest(x, want.value))


def test_points_far_beyond_the_centers_find_the_right_side():
    y = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], dtype=F64) * 2.0**-600
    x = torch.tensor([[3.0, 1.0], [-3.0, 1.0], [1.0, 3.0]], dtype=F64) * 2.0**600
    assert nearest(x, y).tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_dtypes_are_computed_in_float64(dtype):
    x = (blobs() * 60).to(dtype)
    fit, wide = (kmeans(y, 5, generator=seeded()) for y in (x, x.double()))
    assert fit.value.dtype == dtype and fit.history == wide.history
    assert torch.equal(fit.value, wide.value.to(dtype))


def test_the_generator_decides():
    x = gaussian(200, 2)
    run = lambda seed: kmeans(x, 9, max_iter=2, generator=seeded(seed)).value
    assert torch.equal(run(0), run(0)) and not torch.equal(run(0), run(1))
    state = torch.get_rng_state()
    kmeans(x, 9, generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("d", [1, 3])
def test_blocks_do_not_matter(monkeypatch, d):
    x, y = gaussian(50, d), gaussian(20, d, seed=1)
    whole = nearest(x, y)
    monkeypatch.setattr(clusters, "BLOCK", 60)
    assert torch.equal(nearest(x, y), whole)


@pytest.mark.parametrize("d", [1, 3])
def test_without_points_nothing_is_near(d):
    assert nearest(gaussian(0, d), gaussian(4, d)).shape == (0,)


# -- refuses


@pytest.mark.parametrize(
    "run, error, said",
    [
        (lambda x: kmeans(x, 4), ValueError, "kmeans: k must be an integer in 1..3, got 4"),
        (lambda x: kmeans(x, 0), ValueError, "kmeans: k must be an integer in 1..3, got 0"),
        (lambda x: kmeans(x, True), ValueError, "k must be an integer in 1..3, got True"),
        (lambda x: kmeans(x, torch.ones(2, 3)), ValueError, r"D = 2, got shape \(2, 3\)"),
        (lambda x: kmeans(x, x * math.nan), ValueError, "kmeans: init: needs finite entries"),
        (lambda x: kmeans(x * math.inf, 2), ValueError, "kmeans: needs finite entries"),
        (lambda x: kmeans(x[None], 2), ValueError, r"needs points \(n, D\), got shape \(1, 3, 2\)"),
        (lambda x: kmeans(x.long(), 2), TypeError, "kmeans: needs floating-point"),
        (lambda x: kmeans(x * 1j, 2), TypeError, "kmeans: needs real points"),
        (lambda x: kmeans(x, 2, max_iter=0), ValueError, "max_iter must be an integer >= 1, got 0"),
        (lambda x: kmeans(x, 2, generator=0), TypeError, "kmeans: needs a torch.Generator"),
    ],
)
def test_refuses(run, error, said):
    with pytest.raises(error, match=said):
        run(torch.ones(3, 2))


def test_numpys_integers_are_integers():
    assert len(kmeans(gaussian(9, 2), np.int64(3), max_iter=np.int32(2)).value) == 3
