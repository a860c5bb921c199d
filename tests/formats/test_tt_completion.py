"""Completion of trains: recovery from few entries, the gathered gradient against the general one,
teneva, and what is honest."""

import math

import numpy as np
import pytest
import torch
from tensors import noisy_train, relative_error

import tensorlab as tl
from tensorlab.formats.tt_completion import Entries


def freedom(x):
    """Dimension of the manifold of trains of these ranks."""
    return x.numel - sum(r * r for r in x.ranks)


def places(shape, count, generator):
    """Different random multi-indices, (count, d)."""
    total = math.prod(shape)
    flat = (
        torch.unique(torch.randint(0, total, (2 * count,), generator=generator))
        if count < total / 4
        else torch.arange(total)
    )
    chosen = flat[torch.randperm(len(flat), generator=generator)[:count]]
    return torch.stack(torch.unravel_index(chosen, shape), 1)


def gaussian(shape, rank, g):
    return tl.TT.randn(shape, rank, generator=g, dtype=torch.float64)


def uniform(shape, rank, g):
    r = (1, *(rank,) * (len(shape) - 1), 1)
    return tl.TT(
        tuple(
            tl.rng.rand(r[k], n, r[k + 1], generator=g, dtype=torch.float64)
            for k, n in enumerate(shape)
        )
    )


# -- recovery


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("make", "shape", "rank"), [(gaussian, (30,) * 3, 5), (uniform, (20,) * 5, 3)]
)
def test_recovers_a_train_from_ten_times_its_degrees_of_freedom(make, shape, rank, seed):
    g = torch.Generator().manual_seed(seed)
    x = make(shape, rank, g)
    index = places(shape, 10 * freedom(x), g)
    fit = tl.tt_complete(index, x.at(index), shape, rank, grow=seed == 0, generator=g)
    error = float((fit.value - x).norm() / x.norm())
    assert fit.converged and error < 1e-8 and fit.value.ranks == x.ranks
    assert (
        fit.error == min(fit.held_out) == pytest.approx(error, rel=0.5)
    )  # what was held out tells of the whole


@pytest.mark.thorough
def test_growth_stops_at_the_rank_of_the_data_and_goes_through_all_before():
    g = torch.Generator().manual_seed(1)
    x = gaussian((12, 12, 12), (2, 4), g)
    index = places(x.shape, 10 * freedom(x), g)
    fit = tl.tt_complete(index, x.at(index), x.shape, (2, 7), generator=g)
    assert fit.converged and fit.value.ranks == (2, 4)
    assert list(dict.fromkeys(fit.ranks)) == [(1, 1), (2, 2), (2, 3), (2, 4)]
    assert len(fit.ranks) == len(fit.history) == len(fit.held_out)


# -- reduces to


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(9,), (6, 7), (4, 5, 6), (3, 2, 4, 3)], ids=str)
def test_the_gathered_gradient_is_the_general_one(shape, dtype):
    g = torch.Generator().manual_seed(2)
    x = tl.TT.randn(shape, 3, generator=g, dtype=dtype)
    index = torch.stack(
        [torch.randint(0, n, (40,), generator=g) for n in shape], 1
    )  # some places more than once
    values = tl.rng.randn(40, generator=g, dtype=dtype)
    entries = Entries(index, values, shape)
    cost, gradient = entries.cost_and_grad(x)
    f = lambda x: (x.at(index) - values).abs().square().sum() / 2
    assert cost == pytest.approx(float(f(x)), rel=1e-12) and entries.cost(x) == pytest.approx(
        cost, rel=1e-12
    )
    assert torch.allclose(entries.at(x), x.at(index), rtol=1e-12)
    wanted = tl.riemannian_grad(f, x)
    assert float((gradient - wanted).norm()) < 1e-11 * float(wanted.norm())
    sparse = torch.zeros(shape, dtype=dtype).index_put(
        tuple(index.T), x.at(index) - values, accumulate=True
    )
    assert (
        relative_error(gradient.to_tt().to_dense(), tl.tt_project(x, sparse).to_tt().to_dense())
        < 1e-11
    )


def test_the_first_step_is_the_minimum_of_the_linearized_cost():
    g = torch.Generator().manual_seed(3)
    x, values = gaussian((4, 5, 6), 2, g), torch.randn(50, generator=g, dtype=torch.float64)
    index = places((4, 5, 6), 50, g)
    entries = Entries(index, values, x.shape)
    _, gradient = entries.cost_and_grad(x)
    t = entries.step(-gradient)
    straight = lambda t: float(
        (x.at(index) - t * gradient.to_tt().at(index) - values).square().sum()
    )
    assert straight(t) < min(straight(0.99 * t), straight(1.01 * t), straight(0.0))


def test_completion_is_tt_minimize_of_the_same_cost():
    g = torch.Generator().manual_seed(4)
    x = gaussian((6, 6, 6), 2, g)
    index = places(x.shape, 200, g)
    start = tl.tt_round(x + 0.2 * gaussian(x.shape, 2, g), 2)
    ours = tl.tt_complete(index, x.at(index), x.shape, 2, init=start, grow=False, generator=g).value
    general = tl.tt_minimize(
        lambda t: (t.at(index) - x.at(index)).square().sum(), start, tol=1e-9
    ).value
    assert (
        relative_error(ours.to_dense(), x.to_dense()) < 1e-8
        and relative_error(general.to_dense(), x.to_dense()) < 1e-7
    )


@pytest.mark.thorough
def test_teneva_finds_the_same_train():
    teneva = pytest.importorskip("teneva")
    g = torch.Generator().manual_seed(5)
    x = gaussian((10, 10, 10), 2, g)
    index = places(x.shape, 10 * freedom(x), g)
    start = teneva.rand(list(x.shape), 2, seed=0)
    theirs = teneva.als(index.numpy(), x.at(index).numpy(), start, nswp=200, lamb=None)
    ours = tl.tt_complete(index, x.at(index), x.shape, 2, generator=g).value
    other = tl.TT(tuple(torch.from_numpy(c.copy()) for c in theirs))
    assert (
        relative_error(other.to_dense(), x.to_dense()) < 1e-6
        and relative_error(ours.to_dense(), x.to_dense()) < 1e-8
    )


@pytest.mark.thorough
def test_all_entries_give_what_rounding_nearly_gives():
    x = noisy_train((6, 7, 5), 2, 0.05)
    index = torch.cartesian_prod(*map(torch.arange, x.shape))
    fit = tl.tt_complete(
        index, x.flatten(), x.shape, 2, held_out=0.02, generator=torch.Generator().manual_seed(0)
    )
    assert relative_error(fit.value.to_dense(), x) < 1.1 * relative_error(
        tl.tt_svd(x, 2).to_dense(), x
    )
    assert not fit.converged  # of rank 2 this is not


# -- invariants


@pytest.mark.thorough
def test_same_seed_same_numbers_and_any_scale():
    g = lambda: torch.Generator().manual_seed(6)
    x = gaussian((8, 8, 8), 2, g())
    index = places(x.shape, 400, g())
    runs = [
        tl.tt_complete(index, s * x.at(index), x.shape, 2, generator=g())
        for s in (1.0, 1.0, 1024.0, 2.0**600, 2.0**-600)
    ]
    for run, s in zip(runs, (1.0, 1.0, 1024.0, 2.0**600, 2.0**-600)):
        assert run.history == runs[0].history and run.held_out == runs[0].held_out
        assert run.ranks == runs[0].ranks and run.converged
        assert relative_error((run.value * (1 / s)).to_dense(), x.to_dense()) < 1e-8
    single = lambda s: tl.tt_complete(
        index, s * x.at(index).float(), x.shape, 2, generator=g(), max_iter=40
    )
    assert single(2.0**-100).history == single(2.0**90).history == single(1.0).history


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("dtype", "bound"),
    [
        (torch.float16, 0.1),
        (torch.bfloat16, 0.8),
        (torch.float32, 1e-4),
        (torch.complex64, 1e-4),
        (torch.complex128, 1e-8),
    ],
    ids=str,
)
def test_dtypes(dtype, bound):
    """The bound: what is fitted is met to 32 eps at most, and twice as much elsewhere."""
    g = torch.Generator().manual_seed(7)
    x = tl.TT.randn((8, 8, 8), 2, generator=g, dtype=torch.promote_types(dtype, torch.float32))
    index = places(x.shape, 400, g)
    fit = tl.tt_complete(index, x.at(index).to(dtype), x.shape, 2, generator=g)
    assert fit.value.dtype == dtype and fit.converged
    assert relative_error(fit.value.to(x.dtype).to_dense(), x.to_dense()) < bound


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_the_error_is_that_of_what_is_given_back(dtype):
    """Of the train after it was rounded to the dtype of the values, which in half precision is what
    most of the error is made of."""
    g = torch.Generator().manual_seed(8)
    x = gaussian((6, 6, 6), 2, g)
    index = torch.cartesian_prod(*map(torch.arange, x.shape))
    values = (x.at(index) * 100).to(dtype)
    fit = tl.tt_complete(index, values, x.shape, 2, held_out=0.5, tol=1e-9, generator=g)
    wide = fit.value.to(torch.float64).at(index) - values.double()
    whole = float(wide.norm() / values.double().norm())
    fitted = fit.history[fit.held_out.index(min(fit.held_out))]
    # half of the places are held out: the square of the whole error is the mean of both
    assert whole == pytest.approx(math.sqrt((fit.error**2 + fitted**2) / 2), rel=0.5)
    assert fit.error > 0.1 * torch.finfo(dtype).eps


def test_values_and_start_are_promoted():
    g = torch.Generator().manual_seed(9)
    x = gaussian((5, 5, 5), 2, g)
    index = torch.cartesian_prod(*map(torch.arange, x.shape))
    values = x.at(index)
    run = lambda v, start: tl.tt_complete(
        index, v, x.shape, 2, init=start, tol=1e-6, max_iter=50, generator=g
    )
    assert run(values.float(), x).value.dtype == torch.float64
    assert run(values, x.to(torch.float32)).value.dtype == torch.float64
    fit = run(values, x.to(torch.complex64))
    assert fit.value.dtype == torch.complex128 and fit.converged
    with pytest.raises(ValueError, match="tt_complete: needs all on one device, got cpu and meta"):
        run(values, tl.TT.randn(x.shape, 2, device="meta"))


@pytest.mark.thorough
def test_a_default_device_that_is_not_the_datas():
    g = lambda: torch.Generator().manual_seed(10)
    x = gaussian((5, 5, 5), 2, g())
    index = torch.cartesian_prod(*map(torch.arange, x.shape))
    run = lambda i: tl.tt_complete(i, x.at(index), x.shape, 2, generator=g())
    with torch.device("meta"):
        fits = run(index), run(index.tolist())
    assert all(fit.history == run(index).history for fit in fits)


def test_the_cost_falls_at_each_step_of_a_rank():
    g = torch.Generator().manual_seed(8)
    x = gaussian((8, 8, 8), 3, g)
    index = places(x.shape, 400, g)
    for method in ("cg", "gd"):
        fit = tl.tt_complete(
            index, x.at(index), x.shape, 3, method=method, max_iter=60, generator=g
        )
        steps = zip(fit.history, fit.history[1:], fit.ranks, fit.ranks[1:])
        assert all(b < a for a, b, before, after in steps if before == after)


def test_negative_indices_count_from_the_end_and_copies_change_nothing():
    g = lambda: torch.Generator().manual_seed(9)
    x = gaussian((8, 8, 8), 2, g())
    index = places(x.shape, 400, g())
    once = tl.tt_complete(index, x.at(index), x.shape, 2, generator=g())
    negative = tl.tt_complete(index - 8, x.at(index), x.shape, 2, generator=g())
    assert once.history == negative.history
    twice = tl.tt_complete(index.repeat(2, 1), x.at(index).repeat(2), x.shape, 2, generator=g())
    assert twice.history[:10] == pytest.approx(
        once.history[:10], rel=1e-4
    )  # a place is held out with all its copies


# -- by hand


def test_by_hand():
    # a b = 6 with three of four entries of the rank-1 matrix [[1, 2], [3, 6]] seen: the fourth
    # follows, where it is held out
    index = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    fit = tl.tt_complete(
        index,
        torch.tensor([1.0, 2.0, 3.0, 6.0]).double(),
        (2, 2),
        1,
        held_out=0.25,
        generator=torch.Generator(),
    )
    assert fit.converged and torch.allclose(
        fit.value.to_dense(), torch.tensor([[1.0, 2.0], [3.0, 6.0]]).double()
    )


# -- is honest


@pytest.mark.thorough
def test_fewer_entries_than_degrees_of_freedom_fit_but_do_not_converge():
    g = torch.Generator().manual_seed(10)
    x = gaussian((12, 12, 12), 4, g)
    index = places(x.shape, freedom(x) // 3, g)
    fit = tl.tt_complete(index, x.at(index), x.shape, 4, generator=g)
    whole = float((fit.value - x).norm() / x.norm())
    assert min(fit.history) < 0.1 and not fit.converged and fit.error > 0.3 and whole > 0.3


def test_noise_ends_growth_and_the_best_train_is_given_back():
    g = torch.Generator().manual_seed(11)
    x = gaussian((15, 15, 15), 2, g)
    index = places(x.shape, 1000, g)
    values = x.at(index) + 0.1 * torch.randn(1000, generator=g, dtype=torch.float64)
    fit = tl.tt_complete(index, values, x.shape, 8, generator=g)
    assert not fit.converged and max(fit.value.ranks) <= 3 and max(fit.ranks[-1]) < 8
    assert fit.error == min(fit.held_out) and float((fit.value - x).norm() / x.norm()) < 0.1


@pytest.mark.parametrize("method", ["cg", "gd"])
@pytest.mark.parametrize("copies", [2, 3])
def test_places_given_twice_with_different_values_have_their_mean(method, copies):
    index = torch.tensor([[0, 0], [1, 1]]).repeat_interleave(copies, 0)
    values = torch.randn(
        2 * copies, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    fit = tl.tt_complete(
        index, values, (2, 2), 1, method=method, generator=torch.Generator().manual_seed(0)
    )
    found = fit.value.at(torch.tensor([[0, 0], [1, 1]]))
    gaps = (found - values.reshape(2, copies).mean(1)).abs()
    assert not fit.converged and float(gaps.min()) < 1e-9  # at the place that is not held out
    rest = values.reshape(2, copies)[gaps.argmin()]
    unit = values.square().mean().sqrt()
    assert min(fit.history) == pytest.approx(
        float((rest - rest.mean()).square().mean().sqrt() / unit), rel=1e-6
    )


@pytest.mark.parametrize(
    "values",
    [
        torch.full((60,), 3.7, dtype=torch.float64),
        torch.arange(60).lt(30).double(),
        torch.arange(60).eq(7).double(),
        -torch.ones(60, dtype=torch.float64),
    ],
    ids=["constant", "half of them zero", "one is not zero", "negative"],
)
def test_plain_data(values):
    index = torch.cartesian_prod(*map(torch.arange, (3, 4, 5)))
    fit = tl.tt_complete(index, values, (3, 4, 5), 3, generator=torch.Generator().manual_seed(0))
    error = relative_error(fit.value.at(index), values)
    assert error < 1e-7 if fit.converged else len(values.unique()) > 1 and error < 1.0 + 1e-9


def test_a_slice_that_no_place_is_in_is_left_out_of_the_claim():
    g = torch.Generator().manual_seed(13)
    x = gaussian((5, 6, 6), 2, g)
    index = torch.cartesian_prod(torch.arange(1, 5), torch.arange(6), torch.arange(6))
    fit = tl.tt_complete(index, x.at(index), x.shape, 2, generator=g)
    dense, found = x.to_dense(), fit.value.to_dense()
    assert fit.converged and relative_error(found[1:], dense[1:]) < 1e-8
    assert torch.isfinite(found).all() and relative_error(found[:1], dense[:1]) > 0.1


@pytest.mark.thorough
def test_numbers_of_numpy_and_any_integer_dtype():
    g = lambda: torch.Generator().manual_seed(14)
    x = gaussian((5, 5, 5), 2, g())
    index = torch.cartesian_prod(*map(torch.arange, x.shape))
    run = lambda i, shape=x.shape, rank=2, **o: tl.tt_complete(
        i, x.at(index), shape, rank, generator=g(), **o
    )
    one = run(index, max_iter=5, tol=0.25, held_out=0.25)
    numbers = dict(max_iter=np.int64(5), tol=np.float32(0.25), held_out=np.float32(0.25))
    other = run(index.numpy(), np.array(x.shape), np.int32(2), **numbers)
    assert other.history == one.history
    for dtype in (torch.uint8, torch.uint16, torch.int32):
        assert run(index.to(dtype)).history == run(index).history


@pytest.mark.thorough
def test_many_modes_end_with_finite_numbers():
    g = torch.Generator().manual_seed(15)
    index = torch.randint(0, 2, (20, 1500), generator=g)
    values = 1.0 + index[:, 0].double()
    fit = tl.tt_complete(index, values, (2,) * 1500, 1, generator=g, max_iter=0)
    at = fit.value.at(index)  # a product of so many numbers in [0, 1) is no float
    assert torch.isfinite(at).all() and at.any() and math.isfinite(fit.error)


def test_zeros():
    index = torch.cartesian_prod(*map(torch.arange, (3, 4, 5)))
    fit = tl.tt_complete(index, torch.zeros(60), (3, 4, 5), 2)
    assert fit.converged and float(fit.value.norm()) == 0 and fit.history[-1] == 0


def test_one_mode_and_ranks_beyond_the_unfoldings():
    index = torch.arange(6)[:, None]
    fit = tl.tt_complete(index, torch.arange(6.0), (6,), 3)
    assert (
        not fit.converged and fit.history[-1] < 1e-5
    )  # nothing tells of the entry that was held out
    g = torch.Generator().manual_seed(12)
    x = gaussian((2, 3, 2), 2, g)
    full = torch.cartesian_prod(*map(torch.arange, x.shape))
    for grow in (True, False):
        assert (
            max(tl.tt_complete(full, x.at(full), x.shape, 99, grow=grow, generator=g).value.ranks)
            <= 2
        )


# -- errors


ONES, INDEX = torch.ones(5), torch.tensor([[0, 0], [1, 1], [2, 2], [0, 1], [2, 3]])


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ((INDEX[:4], ONES, (3, 4), 1), ValueError, r"got \(4, 2\) and \(5,\)"),
        ((INDEX, ONES[:, None], (3, 4), 1), ValueError, r"got \(5, 2\) and \(5, 1\)"),
        ((INDEX, ONES, (3, 4, 5), 1), ValueError, r"index of shape \(m, 3\) .*got \(5, 2\)"),
        ((INDEX, ONES, (3, 3), 1), ValueError, "mode 1 has indices in 0..2, got 3 in row 4"),
        ((INDEX - 4, ONES, (3, 4), 1), ValueError, "mode 0 has indices in 0..2, got -4 in row 0"),
        ((INDEX.double(), ONES, (3, 4), 1), TypeError, "integer indices, got torch.float64"),
        ((INDEX, ONES.long(), (3, 4), 1), TypeError, "got torch.int64"),
        (
            (INDEX, ONES * math.nan, (3, 4), 1),
            ValueError,
            r"finite entries, got nan at index \(0,\)",
        ),
        (
            (INDEX, torch.tensor([1, 1, math.inf, 1, 1]), (3, 4), 1),
            ValueError,
            r"got inf at index \(2,\)",
        ),
        ((INDEX[:0], ONES[:0], (3, 4), 1), ValueError, r"\(0,\)"),
        ((INDEX[[0, 0, 0]], ONES[:3], (3, 4), 1), ValueError, "2 different places, .*got 1"),
        ((INDEX, ONES, (3, 4), 0), ValueError, "at least 1, got 0"),
        ((INDEX, ONES, (3, 4), (1, 2)), ValueError, r"1 entry .*got \(1, 2\)"),
        ((INDEX, ONES, (3, 4.0), 1), ValueError, r"got \(3, 4.0\)"),
        ((INDEX, ONES, (2**64, 4), 1), ValueError, r"1 to 2\^63, .*got 18446744073709551616"),
        ((INDEX, [1.0] * 5, (3, 4), 1), TypeError, "needs a torch tensor, got list"),
    ],
    ids=str,
)
def test_refuses_data(arguments, error, said):
    with pytest.raises(error, match=said) as caught:
        tl.tt_complete(*arguments)
    assert str(caught.value).startswith("tt_complete: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(method="adam"), "got 'adam'"),
        (dict(held_out=0), "got 0"),
        (dict(held_out=1.0), "got 1.0"),
        (dict(tol=-1), "got -1"),
        (dict(max_iter=2.5), "got 2.5"),
        (dict(init=torch.ones(3, 4)), "got Tensor"),
        (dict(init=tl.TT.randn((4, 3), 1)), r"shape \(3, 4\), got TT\(shape=\(4, 3\)"),
        (dict(init=tl.TT.randn((3, 4), 1) * math.nan), "init: needs finite entries, got nan"),
    ],
    ids=str,
)
def test_refuses_options(options, said):
    with pytest.raises(ValueError, match=said) as caught:
        tl.tt_complete(INDEX, ONES, (3, 4), 1, **options)
    assert str(caught.value).startswith("tt_complete: ") and "\n" not in str(caught.value)


def test_refuses_a_wrong_generator():
    with pytest.raises(TypeError, match="tt_complete: needs a torch.Generator or None .*got 0"):
        tl.tt_complete(INDEX, ONES, (3, 4), 1, generator=0)
