"""Completion of trains: recovery from few entries, the gathered gradient against the general one,
teneva, and what is honest."""

import math

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


def test_the_first_step_is_the_minimum_of_the_linearised_cost():
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
    ours = tl.tt_complete(
        index, x.at(index), x.shape, 2, start=start, grow=False, generator=g
    ).value
    general = tl.tt_minimize(
        lambda t: (t.at(index) - x.at(index)).square().sum(), start, tol=1e-9
    ).value
    assert (
        relative_error(ours.to_dense(), x.to_dense()) < 1e-8
        and relative_error(general.to_dense(), x.to_dense()) < 1e-7
    )


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


def test_same_seed_same_numbers_and_any_scale():
    g = lambda: torch.Generator().manual_seed(6)
    x = gaussian((8, 8, 8), 2, g())
    index = places(x.shape, 400, g())
    runs = [
        tl.tt_complete(index, s * x.at(index), x.shape, 2, generator=g())
        for s in (1.0, 1.0, 1024.0, 2.0**600)
    ]
    assert runs[0].history == runs[1].history == pytest.approx(runs[2].history, rel=1e-6)
    for run, s in zip(runs, (1.0, 1.0, 1024.0, 2.0**600)):
        assert run.converged and relative_error((run.value / s).to_dense(), x.to_dense()) < 1e-8


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-4), (torch.complex128, 1e-8)], ids=str
)
def test_dtypes(dtype, bound):
    g = torch.Generator().manual_seed(7)
    x = tl.TT.randn((8, 8, 8), 2, generator=g, dtype=dtype)
    index = places(x.shape, 400, g)
    fit = tl.tt_complete(index, x.at(index), x.shape, 2, generator=g)
    assert (
        fit.value.dtype == dtype
        and fit.converged
        and relative_error(fit.value.to_dense(), x.to_dense()) < bound
    )


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


# -- says no


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
    ],
    ids=str,
)
def test_says_no_to_data(arguments, error, said):
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
        (dict(start=torch.ones(3, 4)), "got Tensor"),
        (dict(start=tl.TT.randn((4, 3), 1)), r"shape \(3, 4\), got TT\(shape=\(4, 3\)"),
    ],
    ids=str,
)
def test_says_no_to_options(options, said):
    with pytest.raises(ValueError, match=said) as caught:
        tl.tt_complete(INDEX, ONES, (3, 4), 1, **options)
    assert str(caught.value).startswith("tt_complete: ") and "\n" not in str(caught.value)
