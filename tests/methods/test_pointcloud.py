"""TT point clouds: against scipy's distances, trees and assignment, scikit-learn's k-means; what
may not rise does not."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.spatial
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import relative_error

import tensorlab as tl
from tensorlab import clusters
from tensorlab.clusters import kmeans
from tensorlab.methods import pointcloud as pc


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ring(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    angle = 2 * math.pi * torch.rand(n, generator=g, dtype=torch.float64)
    radius = 1 + 0.1 * torch.randn(n, 1, generator=g, dtype=torch.float64)
    return radius * torch.stack([angle.cos(), angle.sin()], 1)


# -- the losses


@settings(max_examples=40, deadline=None, derandomize=True)
@given(n=st.integers(1, 12), m=st.integers(1, 12), seed=st.integers(0, 99))
def test_wasserstein_is_scipys(n, m, seed):
    x, y = gaussian(n, 2, seed=seed), gaussian(m, 2, seed=seed + 100)
    for k in range(2):
        wanted = scipy.stats.wasserstein_distance(x[:, k].numpy(), y[:, k].numpy())
        assert float(pc.wasserstein(x, y, 1)[k]) == pytest.approx(wanted, rel=1e-10)


def test_wasserstein_of_copies_is_that_of_the_points():
    """Rows repeated: n != m, but the same two distributions as with n = m."""
    x, y = gaussian(6, 3), gaussian(6, 3, seed=1)
    assert torch.allclose(
        pc.wasserstein(x.repeat(2, 1), y.repeat(3, 1)), pc.wasserstein(x, y), rtol=1e-12
    )


def test_squared_wasserstein_is_the_best_assignment_on_a_line():
    x, y = gaussian(9, 1), gaussian(9, 1, seed=1)
    cost = (x - y.T).square()
    i, j = scipy.optimize.linear_sum_assignment(cost.numpy())
    assert float(pc.wasserstein(x, y)[0]) == pytest.approx(float(cost[i, j].mean()), rel=1e-12)


def test_chamfer_is_scipys_trees():
    x, y = gaussian(300, 5), gaussian(200, 5, seed=1)
    a, i = scipy.spatial.cKDTree(y.numpy()).query(x.numpy())
    b, _ = scipy.spatial.cKDTree(x.numpy()).query(y.numpy())
    assert pc.nearest(x, y).tolist() == i.tolist()
    assert float(pc.chamfer(x, y)) == pytest.approx((a**2).mean() + (b**2).mean(), rel=1e-12)


def test_nearest_in_blocks(monkeypatch):
    x, y = gaussian(50, 3), gaussian(20, 3, seed=1)
    whole = pc.nearest(x, y)
    monkeypatch.setattr(clusters, "BLOCK", 60)
    assert torch.equal(pc.nearest(x, y), whole)


def test_losses_do_not_see_the_order_and_scale_as_squares(generator):
    x, y = gaussian(40, 3), gaussian(40, 3, seed=1)
    shuffled = x[torch.randperm(40, generator=generator)]
    u = torch.linalg.qr(gaussian(3, 3, seed=2))[0]
    for loss in (pc.chamfer, lambda x, y: pc.sliced_wasserstein(x, y, u)):
        assert float(loss(shuffled, y)) == pytest.approx(float(loss(x, y)), rel=1e-12)
        assert float(loss(1000 * x, 1000 * y)) == pytest.approx(1e6 * float(loss(x, y)), rel=1e-10)
        assert float(loss(x, shuffled)) <= 1e-28


def test_a_shift_counts_its_square(generator):
    x, t = gaussian(50, 4), torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    many = pc.sliced_wasserstein(x, x + t, 20000, generator=generator)
    assert float(many) == pytest.approx(float(t.square().sum()), rel=0.05)
    assert float(
        pc.sliced_wasserstein(x, x + t, torch.eye(4, dtype=torch.float64))
    ) == pytest.approx(float(t.square().sum()))


def test_gradients_of_the_losses():
    x, y = gaussian(6, 2).requires_grad_(), gaussian(5, 2, seed=1)
    assert torch.autograd.gradcheck(lambda x: pc.chamfer(x, y), x)
    assert torch.autograd.gradcheck(
        lambda x: pc.sliced_wasserstein(x, y, torch.eye(2, dtype=torch.float64)), x
    )


# -- assignment


@settings(max_examples=60, deadline=None, derandomize=True)
@given(n=st.integers(1, 30), seed=st.integers(0, 99), whole=st.booleans())
def test_assignment_costs_what_scipys_does(n, seed, whole):
    cost = gaussian(n, n, seed=seed)
    cost = (3 * cost).round() if whole else cost  # many ties
    found = pc.assignment(cost)
    i, j = scipy.optimize.linear_sum_assignment(cost.numpy())
    assert sorted(found.tolist()) == list(range(n))
    assert float(cost[torch.arange(n), found].sum()) == pytest.approx(
        float(cost[i, j].sum()), abs=1e-10
    )


# -- the train of a cloud


@pytest.mark.parametrize("beam", [20, 4])
def test_beam_search(beam):
    tt = tl.TT.randn(
        (5, 4, 3, 2), 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    queries, cloud = gaussian(30, 2, seed=1), pc.rows(tt)
    index, far = pc.tt_nearest(tt, queries, beam)
    flat = (index[:, 0] * 4 + index[:, 1]) * 3 + index[:, 2]
    assert torch.allclose(
        (cloud[flat] - queries).square().sum(1), far, rtol=1e-10
    )  # what is found is there
    best = torch.as_tensor(scipy.spatial.cKDTree(cloud.numpy()).query(queries.numpy())[0]) ** 2
    assert bool((far >= best * (1 - 1e-10)).all())
    if beam == 20:  # all prefixes: exact
        assert torch.allclose(far, best, rtol=1e-10)


def test_beam_search_finds_neighbors_in_clusters():
    x = ring(512)
    tt = tl.tt_svd(x[pc.cluster_order(x, (8, 8, 8))].reshape(8, 8, 8, 2), rtol=1e-12)
    found = [float((pc.tt_nearest(tt, x, beam)[1] < 1e-12).double().mean()) for beam in (1, 8)]
    assert found[0] < found[1] and found[1] > 0.95
    shuffled = tl.tt_svd(x.reshape(8, 8, 8, 2), rtol=1e-12)
    assert float((pc.tt_nearest(shuffled, x, 8)[1] < 1e-12).double().mean()) < 0.5


def test_centers_are_means():
    tt = tl.TT.randn(
        (4, 3, 2, 5), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    x = tt.to_dense()
    for got, wanted in zip(
        pc.centers(tt), (x.mean((1, 2)), x.mean(2).reshape(-1, 5), x.reshape(-1, 5)), strict=True
    ):
        assert torch.allclose(got, wanted, rtol=1e-12, atol=1e-14)


def test_cluster_order_is_a_permutation_that_clusters():
    x = gaussian(96, 3)
    order = pc.cluster_order(x, (4, 6, 4))
    assert sorted(order.tolist()) == list(range(96))
    inside = lambda y: float(
        (y.reshape(4, 24, 3) - y.reshape(4, 24, 3).mean(1, keepdim=True)).square().mean()
    )
    assert inside(x[order]) < 0.7 * inside(x)


@pytest.mark.thorough
@pytest.mark.parametrize("init", ["clusters", "random"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_tt_cloud_lowers_both_distances(init, dtype):
    x = ring(256).to(dtype)
    first, *_ = pc.tt_cloud_steps(
        x, (4, 8, 8), 3, steps=0, init=init, generator=torch.Generator().manual_seed(0)
    )
    fit = pc.tt_cloud(
        x, (4, 8, 8), 3, steps=150, init=init, generator=torch.Generator().manual_seed(0)
    )
    assert fit.value.shape == (4, 8, 8, 2) and fit.value.dtype == dtype and len(fit.history) == 151
    u = torch.eye(2, dtype=dtype)
    for loss in (pc.chamfer, lambda x, y: pc.sliced_wasserstein(x, y, u)):
        assert float(loss(x, pc.rows(fit.value))) < 0.7 * float(loss(x, pc.rows(first[0])))


@pytest.mark.thorough
def test_each_loss_alone_is_best_at_itself():
    x, found = ring(256), {}
    for name, weights in {
        "wasserstein": dict(neighbors=0.0),
        "neighbors": dict(wasserstein=0.0),
    }.items():
        options = dict(
            steps=200, init="random", hierarchy=0.0, generator=torch.Generator().manual_seed(0)
        )
        fit = pc.tt_cloud(x, (4, 8, 8), 3, **options, **weights)
        y = pc.rows(fit.value)
        u = torch.tensor([[1.0, 0.0, 0.6, 0.8], [0.0, 1.0, 0.8, -0.6]], dtype=torch.float64)
        found[name] = float(pc.sliced_wasserstein(x, y, u)), float(pc.chamfer(x, y))
    assert (
        found["wasserstein"][0] < found["neighbors"][0]
        and found["neighbors"][1] < found["wasserstein"][1]
    )


def test_tt_cloud_does_not_see_scale_or_order_and_is_repeatable():
    x = ring(64)
    run = lambda x: pc.tt_cloud(x, (4, 16), 2, steps=20, generator=torch.Generator().manual_seed(0))
    a, b = run(x), run(1024 * x)
    assert (
        b.history == pytest.approx(a.history, rel=1e-9)
        and relative_error(b.value.to_dense(), 1024 * a.value.to_dense()) < 1e-9
    )
    assert run(x).history == a.history
    c = run(x[torch.randperm(64, generator=torch.Generator().manual_seed(1))])
    assert c.history == pytest.approx(a.history, rel=1e-6)


def test_other_numbers_of_points_than_rows():
    fit = pc.tt_cloud(
        ring(100), (4, 8), 2, steps=10, batch=50, generator=torch.Generator().manual_seed(0)
    )
    assert fit.value.shape == (4, 8, 2) and all(math.isfinite(loss) for loss in fit.history)


# -- the permutation


@pytest.mark.parametrize("block", [512, 16])
def test_the_error_of_train_and_permutation_never_rises(block):
    x = gaussian(64, 6)
    start = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    fit = pc.tt_permute(
        x,
        (4, 4, 4),
        4,
        order=start,
        block=block,
        tol=-1.0,
        max_iter=8,
        generator=torch.Generator().manual_seed(0),
    )
    assert len(fit.history) == 8 and all(
        b <= a * (1 + 1e-12) for a, b in zip(fit.history, fit.history[1:])
    )
    assert fit.history[-1] < 0.95 * fit.history[0]
    assert sorted(fit.value.order.tolist()) == list(range(64))
    short = pc.tt_permute(
        x,
        (4, 4, 4),
        4,
        order=start,
        block=block,
        max_iter=2,
        generator=torch.Generator().manual_seed(0),
    )
    assert not short.converged and relative_error(short.value.restored(), x) == pytest.approx(
        short.history[-1], rel=1e-9
    )
    assert relative_error(fit.value.restored(), x) == pytest.approx(fit.history[-1], rel=1e-9)
    assert relative_error(pc.rows(fit.value.tt), x[fit.value.order]) == pytest.approx(
        fit.history[-1], rel=1e-9
    )


def test_at_a_stop_no_permutation_of_scipys_is_better():
    x = gaussian(27, 4)
    fit = pc.tt_permute(x, (3, 3, 3), 3, tol=0.0, max_iter=100)
    y, tt = x[fit.value.order], pc.rows(fit.value.tt)
    cost = torch.cdist(tt, y).square()
    i, j = scipy.optimize.linear_sum_assignment(cost.numpy())
    assert fit.converged and float(cost[i, j].sum()) == pytest.approx(
        float((tt - y).square().sum()), rel=1e-9
    )


def test_a_shuffled_train_is_found_again():
    """A grid: rank (1 + 2 + 2 ..) in its order, full when it is shuffled."""
    grid = torch.cartesian_prod(*[torch.arange(4.0, dtype=torch.float64)] * 2) * torch.tensor(
        [10.0, 1.0], dtype=torch.float64
    )
    shuffled = grid[torch.randperm(16, generator=torch.Generator().manual_seed(0))]
    assert (
        relative_error(tl.tt_svd(shuffled.reshape(4, 4, 2), 2).to_dense().reshape(16, 2), shuffled)
        > 0.1
    )
    fit = pc.tt_permute(shuffled, (4, 4), 2)
    assert fit.history[-1] < 1e-12 and relative_error(fit.value.restored(), shuffled) < 1e-12


def test_the_last_unfolding_does_not_see_the_permutation():
    x = gaussian(64, 6)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    for rtol in (0.3, 0.6):
        a, b = (tl.tt_svd(y.reshape(64, 6), rtol=rtol).ranks for y in (x, x[order]))
        assert a == b


def test_one_sweep_is_least_squares_in_each_core():
    """At its end no core alone can be bettered: the residual is orthogonal to every tangent
    direction of the last one."""
    x = gaussian(4, 4, 4, 3)
    tt = tl.TT.randn(
        (4, 4, 4, 3), 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    errors = [float((x - tt.to_dense()).norm())]
    for _ in range(5):
        tt = pc._sweep(x, tt)
        errors.append(float((x - tt.to_dense()).norm()))
    assert all(b <= a * (1 + 1e-12) for a, b in zip(errors, errors[1:]))
    core = tt.cores[0].clone().requires_grad_()
    (x - tl.TT((core, *tt.cores[1:])).to_dense()).square().sum().backward()
    assert float(core.grad.norm()) < 1e-10


# -- baselines


def test_kmeans_is_as_good_as_scikit_learns():
    cluster = pytest.importorskip("sklearn.cluster")
    x = torch.cat(
        [
            gaussian(100, 2, seed=k) * 0.1 + torch.tensor(c)
            for k, c in enumerate([(0.0, 0.0), (3.0, 0.0), (0.0, 3.0)])
        ]
    )
    fit = kmeans(x, 3, generator=torch.Generator().manual_seed(0))
    theirs = cluster.KMeans(3, n_init=10, random_state=0).fit(x.numpy()).inertia_ / 300
    assert fit.converged and fit.history[-1] == pytest.approx(theirs, rel=1e-6)
    assert float(pc.distortion(x, fit.value)) == pytest.approx(theirs, rel=1e-6)
    assert all(b <= a for a, b in zip(fit.history, fit.history[1:]))


def test_coreset_covers_within_twice_the_best():
    x = ring(200)
    chosen = pc.coreset(x, 8)
    assert len(set(chosen.tolist())) == 8
    radius = lambda centers: float(torch.cdist(x, centers).amin(1).max())
    assert radius(x[chosen]) <= 2 * min(
        radius(kmeans(x, 8, generator=torch.Generator().manual_seed(s)).value) for s in range(5)
    )
    assert torch.equal(pc.coreset(x, 200).sort().values, torch.arange(200))


def test_kmeans_of_equal_points():
    assert kmeans(torch.ones(5, 2), 3).history[-1] == 0


# -- of any size, place and dtype

SHIFTED = {  # an answer that is an index or a train without units, for a cloud and queries
    "nearest": lambda x, q: pc.nearest(q, x),
    "cluster_order": lambda x, q: pc.cluster_order(x, (4, 4, 4)),
    "coreset": lambda x, q: pc.coreset(x, 9),
    "kmeans": lambda x, q: pc.nearest(x, kmeans(x, 5, generator=seeded()).value),
    "tt_permute": lambda x, q: pc.tt_permute(x, (8, 8), (3, 2), max_iter=3).value.order,
    "assignment": lambda x, q: pc.assignment(x[:, :1] - q[:1, :1].T + q[:, 1]),
}
SCALED = SHIFTED | {
    "tt_nearest": lambda x, q: pc.tt_nearest(tl.tt_svd(x.reshape(8, 8, 2), rtol=0.0), q, 4)[0],
    "tt_permute history": lambda x, q: torch.tensor(
        pc.tt_permute(x, (8, 8), (3, 2), max_iter=3).history
    ),
    "tt_cloud": lambda x, q: torch.tensor(
        pc.tt_cloud(x, (4, 16), 2, steps=5, generator=seeded()).history
    ),
}


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.mark.thorough
@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("dtype, power", [(torch.float64, 600), (torch.float32, 100)], ids=str)
def test_scale_does_not_matter(name, dtype, power):
    x, q = ring(64).to(dtype), ring(64, seed=1).to(dtype)
    for unit in (2.0**power, 2.0**-power):
        got, want = SCALED[name](x * unit, q * unit), SCALED[name](x, q)
        assert torch.allclose(got.double(), want.double(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", ["nearest", "coreset", "kmeans", "tt_permute"])
@pytest.mark.parametrize(
    "dtype, shift", [(torch.float64, 2.0**20), (torch.float32, 2.0**10)], ids=str
)
def test_place_does_not_matter(name, dtype, shift):
    """Coordinates in 1/4096 or 1/2048: the shift rounds nothing."""
    x, q = ((ring(64, seed=s) * 2048).round().to(dtype) / 2048 for s in (0, 1))
    call = SHIFTED[name]
    if name == "tt_permute":  # of all ranks, so that the train is exact wherever it is
        call = lambda x, q: pc.tt_permute(x, (8, 8), (8, 2), order=torch.arange(64)).value.order
    assert torch.equal(call(x + shift, q + shift), call(x, q))


def far_off(dtype, shift, step):
    """Points a few `step` apart at a distance of `shift` from 0, without rounding."""
    x, y = ((gaussian(n, 2, seed=n) * 64).round() * (step / 64) for n in (500, 300))
    return (shift + x).to(dtype), (shift + y).to(dtype)


def twins(dtype, shift, step):
    """Each point twice, a small step apart, in a cloud of size 1, and queries that are nearer to
    one of the two."""
    x = gaussian(300, 2).to(dtype)
    y = torch.cat([x, x + step])
    return torch.cat([x + 0.3 * step, x + 0.7 * step]), y


@pytest.mark.parametrize(
    "make, dtype, shift, step",
    [
        (far_off, torch.float32, 2.0**10, 2.0**-7),
        (far_off, torch.float64, 2.0**20, 2.0**-20),
        (twins, torch.float32, 0.0, 1e-5),
        (twins, torch.float64, 0.0, 1e-6),
    ],
)
def test_neighbors_are_those_of_a_tree(make, dtype, shift, step):
    x, y = make(dtype, shift, step)
    x64, y64 = x.double(), y.double()
    far, _ = scipy.spatial.cKDTree(y64.numpy() - shift).query(x64.numpy() - shift)
    ours = (x64 - y64[pc.nearest(x, y)]).norm(dim=1)
    assert torch.allclose(ours, torch.as_tensor(far), rtol=1e-9, atol=0.0)


PAIRS = {
    "wasserstein": pc.wasserstein,
    "sliced_wasserstein": lambda x, y: pc.sliced_wasserstein(x, y, torch.eye(2)),
    "chamfer": pc.chamfer,
    "distortion": pc.distortion,
    "nearest": pc.nearest,
}
ALONE = {
    "cluster_order": lambda x: pc.cluster_order(x, (8, 8)),
    "tt_cloud": lambda x: pc.tt_cloud(x, (8, 8), 2, steps=1),
    "tt_permute": lambda x: pc.tt_permute(x, (8, 8), 2, max_iter=1),
    "kmeans": lambda x: kmeans(x, 3),
    "coreset": lambda x: pc.coreset(x, 3),
    "tt_nearest": lambda x: pc.tt_nearest(tl.TT.randn((8, 8, 2), 2), x),
}
BOTH = PAIRS | ALONE


def call(name, x, y=None):
    return BOTH[name](x, ring(64) if y is None else y) if name in PAIRS else BOTH[name](x)


@pytest.mark.parametrize("name", PAIRS)
def test_clouds_of_two_dtypes_are_taken_in_the_wider(name):
    x, y = ring(64).float(), ring(40, seed=1)
    assert torch.equal(BOTH[name](x, y), BOTH[name](x.double(), y))
    assert torch.equal(BOTH[name](y, x), BOTH[name](y, x.double()))


def test_a_train_and_queries_of_two_dtypes():
    tt, q = tl.TT.randn((4, 5, 2), 3, generator=seeded(), dtype=torch.float64), ring(9).float()
    index, far = pc.tt_nearest(tt, q, 20)
    assert far.dtype == torch.float64 and torch.equal(index, pc.tt_nearest(tt, q.double(), 20)[0])
    assert torch.equal(index, pc.tt_nearest(tt.to(torch.float32), q.double(), 20)[0])


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(
    "wrong", ["int8", "int64", "bool", "complex64", "list", "empty", "no columns", "NaN", "stack"]
)
def test_what_is_no_cloud_is_refused(name, wrong):
    x = ring(64)
    table = {
        "list": x.tolist(),
        "empty": x[:0],
        "no columns": x[:, :0],
        "NaN": x.where(x != x[3, 1], math.nan),
        "stack": x[None],
    }
    bad = table[wrong] if wrong in table else x.to(getattr(torch, wrong))
    if wrong == "NaN" and name in PAIRS and name != "nearest":
        assert BOTH[name](bad, x).isnan().any()  # a loss: it is seen, and no device is waited for
        return
    if wrong == "empty" and name in ("nearest", "tt_nearest"):
        found = call(name, bad)
        assert len(found if name == "nearest" else found[0]) == 0  # nothing is asked
        return
    kinds = ("int8", "int64", "bool", "complex64", "list")
    with pytest.raises(TypeError if wrong in kinds else ValueError, match=f"^{name}: needs "):
        call(name, bad)
    if name in PAIRS:
        with pytest.raises((TypeError, ValueError), match=f"^{name}: needs "):
            BOTH[name](x, bad)


def test_equal_points_are_a_cloud():
    x = torch.full((64, 2), 0.1)
    fit = pc.tt_cloud(x, (8, 8), 2, steps=3, generator=seeded())
    assert fit.history[0] < 1e-12 and max(fit.history) < 0.1  # Adam steps on noise, too
    assert torch.allclose(pc.rows(fit.value), x, rtol=0.1)
    zero = pc.tt_cloud(0 * x, (8, 8), 2, steps=3, generator=seeded())
    assert not pc.rows(zero.value).any() and set(zero.history) == {0.0}
    assert pc.tt_permute(x, (8, 8), 1).history[-1] < 1e-6
    assert pc.tt_permute(0 * x, (8, 8), 1).history[-1] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_clouds(dtype):
    """Squares beyond 65504, sums of many: in float32 or wider."""
    x = (300 * ring(512)).to(dtype)
    fit = kmeans(x, 4, generator=seeded())
    wide = kmeans(x.float(), 4, generator=seeded())
    assert fit.value.dtype == dtype and fit.history == wide.history
    assert torch.equal(fit.value, wide.value.to(dtype))
    assert torch.equal(pc.coreset(x, 5), pc.coreset(x.double(), 5))
    cloud = pc.tt_cloud(x, (8, 64), 2, steps=3, generator=seeded())
    assert cloud.value.dtype == dtype and all(map(math.isfinite, cloud.history))


@pytest.mark.parametrize("steps", [1, 2, 50])
def test_the_last_distortion_is_that_of_the_centers(steps):
    x = gaussian(300, 2)
    fit = kmeans(x, 7, max_iter=steps, generator=seeded())
    assert fit.history[-1] == pytest.approx(float(pc.distortion(x, fit.value)), rel=1e-12)


# -- says no


@pytest.mark.parametrize(
    "run, error, said",
    [
        (
            lambda: pc.chamfer(torch.ones(3, 2), torch.ones(3, 4)),
            ValueError,
            r"shapes \(3, 2\) and \(3, 4\)",
        ),
        (
            lambda: pc.sliced_wasserstein(torch.ones(3), torch.ones(3)),
            ValueError,
            r"\(3,\) and \(3,\)",
        ),
        (
            lambda: pc.assignment(torch.ones(3, 4)),
            ValueError,
            r"square matrix of costs, got shape \(3, 4\)",
        ),
        (lambda: pc.assignment(torch.full((2, 2), math.inf)), ValueError, "finite"),
        (
            lambda: pc.cluster_order(torch.ones(6, 2), (2, 2)),
            ValueError,
            r"product of \(2, 2\), got shape \(6, 2\)",
        ),
        (lambda: pc.tt_permute(torch.ones(6, 2), (2, 3)), TypeError, "rank"),
        (lambda: pc.tt_permute(torch.ones(6, 2), (2, 3), 0), ValueError, "at least 1, got 0"),
        (
            lambda: pc.tt_permute(torch.ones(4, 2), (2, 2), 1, order=torch.tensor([0, 0, 1, 2])),
            ValueError,
            "order of the 4 points",
        ),
        (
            lambda: pc.tt_cloud(torch.ones(4, 2), (2, 2), 1, init="nowhere"),
            ValueError,
            "got .nowhere.",
        ),
        (lambda: pc.tt_cloud(torch.full((4, 2), math.nan), (2, 2), 1), ValueError, "finite"),
        (
            lambda: pc.tt_nearest(tl.TT.randn((4, 2), 1), torch.ones(3, 3)),
            ValueError,
            r"\(q, 2\), got \(3, 3\)",
        ),
        (
            lambda: pc.tt_nearest(tl.TT.randn((4, 2), 1), torch.ones(3, 2), 0),
            ValueError,
            "beam must be an integer >= 1, got 0",
        ),
        (lambda: pc.tt_nearest(torch.ones(3), torch.ones(3, 2)), TypeError, "tensor"),
        (lambda: kmeans(torch.ones(3, 2), 4), ValueError, "k must be an integer in 1..3, got 4"),
        (
            lambda: kmeans(torch.ones(3, 2), 1.0),
            ValueError,
            "k must be an integer in 1..3, got 1.0",
        ),
        (
            lambda: kmeans(torch.ones(3, 2), 1, max_iter=0),
            ValueError,
            "max_iter must be an integer >= 1, got 0",
        ),
        (lambda: pc.tt_permute(torch.ones(4, 2), (4,), 1, max_iter=0), ValueError, "max_iter"),
        (lambda: pc.tt_permute(torch.ones(4, 2), (4,), 1, block=0), ValueError, "block must be"),
        (lambda: pc.tt_cloud(torch.ones(4, 2), (4,), 1, steps=-1), ValueError, "got -1"),
        (lambda: pc.tt_cloud(torch.ones(4, 2), (4,), 1, lr=math.nan), ValueError, "got nan"),
        (lambda: pc.tt_cloud(torch.ones(4, 2), (4,), 1, batch=0), ValueError, "batch must be"),
        (
            lambda: pc.tt_cloud(torch.ones(4, 2), (4,), 1, wasserstein=0, neighbors=0),
            ValueError,
            "needs a loss with a weight",
        ),
        (lambda: pc.tt_cloud_steps(torch.ones(4, 2), (4,), 1, init=""), ValueError, "init must"),
        (
            lambda: pc.wasserstein(torch.ones(3, 1), torch.ones(3, 1), 0.5),
            ValueError,
            "p must be a number >= 1",
        ),
        (
            lambda: pc.sliced_wasserstein(torch.ones(3, 2), torch.ones(3, 2), torch.eye(3)),
            ValueError,
            r"D = 2, got shape \(3, 3\)",
        ),
        (
            lambda: pc.sliced_wasserstein(torch.ones(3, 2), torch.ones(3, 2), 0),
            ValueError,
            "directions must be an integer >= 1, got 0",
        ),
        (lambda: pc.rows(torch.ones(3, 2)), TypeError, "needs a TT of at least two modes"),
        (lambda: pc.centers(tl.CP.randn((3, 2), 1)), TypeError, "modes, .*, got CP"),
        (lambda: pc.assignment(torch.ones(2, 2) * 1j), TypeError, "real costs"),
        (
            lambda: pc.coreset(torch.ones(3, 2), 0),
            ValueError,
            "k must be an integer in 1..3, got 0",
        ),
    ],
)
def test_says_no(run, error, said):
    with pytest.raises(error, match=said):
        run()


def test_numbers_of_the_cost_are_not_written_to():
    cost = gaussian(8, 8)
    before = cost.clone()
    pc.assignment(cost)
    assert torch.equal(cost, before) and np.isfinite(cost.numpy()).all()
