"""Cross approximation: few entries, an honest error, a budget that holds; and the largest entry of
a train."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import relative_error

import tensorlab as tl
from tensorlab.formats import tt_cross as tt_cross_module

N, D = 32, 10


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


class Counted:
    """A function of a grid that remembers every point it was asked for."""

    def __init__(self, function, grid=None):
        self.function, self.grid, self.points = function, grid, []

    def __call__(self, index):
        assert index.dtype == torch.int64 and index.ndim == 2
        self.points.append(index)
        return self.function(index if self.grid is None else self.grid[index])

    @property
    def asked(self):
        return torch.cat(self.points)


FUNCTIONS = {
    "1/norm": (torch.arange(1, N + 1).double() / N, lambda x: x.square().sum(1).rsqrt()),
    "Rosenbrock": (
        torch.linspace(-2, 2, N).double(),
        lambda x: (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1),
    ),
    "Ackley": (
        torch.linspace(-3, 4, N).double(),
        lambda x: (
            20
            + math.e
            - 20 * (-0.2 * x.square().mean(1).sqrt()).exp()
            - (2 * math.pi * x).cos().mean(1).exp()
        ),
    ),
    "rank one": (torch.linspace(0, 1, N).double(), lambda x: (-x.sum(1)).exp()),
    "constant": (torch.linspace(0, 1, N).double(), lambda x: x.new_full((len(x),), 3.0)),
}


def true_error(fit, function, grid, n=100_000):
    index = torch.randint(len(grid), (n, fit.value.ndim), generator=gen(99))
    return relative_error(fit.value.at(index), function(grid[index]))


# -- reduces to


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("seed", [0, 1])
def test_accuracy_evaluations_and_an_honest_error(name, seed):
    grid, function = FUNCTIONS[name]
    f = Counted(function, grid)
    fit = tl.tt_cross(f, (N,) * D, rtol=1e-6, budget=100_000, generator=gen(seed))
    assert fit.converged and fit.error <= 1e-6 and fit.error == fit.history[-1]
    assert fit.evaluations == len(f.asked) <= 100_000
    assert len(torch.unique(f.asked, dim=0)) == len(f.asked)  # no point twice
    assert true_error(fit, function, grid) <= max(3 * fit.error, 1e-13)
    ranks = {"Rosenbrock": 3, "rank one": 1, "constant": 1}
    if name in ranks:
        assert set(fit.value.ranks) == {ranks[name]} and fit.evaluations < 8000


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.integers(1, 3),
    st.integers(0, 99),
    st.booleans(),
)
def test_a_train_is_found_again(shape, rank, seed, complex_):
    x = tl.TT.randn(
        shape, rank, generator=gen(seed), dtype=torch.complex128 if complex_ else torch.float64
    )
    dense = x.to_dense()
    fit = tl.tt_cross(
        lambda i: dense[tuple(i.T)], shape, rtol=1e-9, budget=40_000, generator=gen(seed)
    )
    assert fit.converged and fit.value.shape == tuple(shape) and fit.value.dtype == dense.dtype
    assert relative_error(fit.value.to_dense(), dense) <= 1e-8
    assert all(a <= b for a, b in zip(fit.value.ranks, x.ranks))


@pytest.mark.thorough
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_global_search_costs_no_more_than_it_saves(name):
    """The mean over seeds, as one sweep more or less moves a single run by a third."""
    grid, function = FUNCTIONS[name]
    asked = {}
    for pivots in ("local", "prrlu"):
        options = dict(rtol=1e-6, budget=200_000, pivots=pivots)
        f = lambda index: function(grid[index])
        fits = [tl.tt_cross(f, (N,) * D, generator=gen(seed), **options) for seed in range(4)]
        assert all(fit.converged and fit.error <= 1e-6 for fit in fits)
        asked[pivots] = sum(fit.evaluations for fit in fits)
    assert asked["prrlu"] <= asked["local"]


def two_peaks(d=6, n=32, wide=4.0, narrow=1.0):
    """A wide peak and, far from it, one of a point or two in each direction, at 23 in each mode."""

    def f(index):
        x = index.double()
        return sum(
            torch.exp(-((x - at) / width).square().sum(1) / 2)
            for at, width in ((n / 4, wide), (23, narrow))
        )

    return f, (n,) * d, torch.full((1, d), 23)


@pytest.mark.parametrize("seed", range(10))
def test_a_global_search_finds_a_far_narrow_peak(seed):
    f, shape, far = two_peaks()
    fits = {
        pivots: tl.tt_cross(f, shape, rtol=1e-6, budget=200_000, pivots=pivots, generator=gen(seed))
        for pivots in ("local", "prrlu")
    }
    assert float(fits["prrlu"].value.at(far)) == pytest.approx(1, abs=1e-5)
    assert fits["prrlu"].converged and fits["prrlu"].evaluations < 10_000
    assert abs(float(fits["local"].value.at(far))) < 1e-3  # not seen, and a claim all the same


def test_a_peak_that_is_found_and_cannot_be_held_is_no_claim():
    f, shape, _ = two_peaks()
    for budget in range(2500, 4000, 100):
        fit = tl.tt_cross(f, shape, rtol=1e-6, budget=budget, pivots="prrlu", generator=gen(0))
        assert fit.evaluations <= budget
        index = torch.full((1, 6), 23)
        missed = abs(float(fit.value.at(index)) - 1) > 1e-3
        shown = any(bool((i == 23).all()) for pair in fit.pivots for i in pair)
        assert not (fit.converged and missed and shown)


def test_interpolates_at_its_fibers():
    x = tl.TT.randn((7, 6, 5, 8), 6, generator=gen(3), dtype=torch.float64)
    *_, fit = itertools.islice(
        tl.tt_cross_steps(x.at, x.shape, rtol=0.0, budget=1600, generator=gen()), 2
    )
    assert max(fit.value.ranks) < 6 and fit.error > 1e-3  # half way: only an approximation
    for k, (left, right) in enumerate(fit.pivots):
        assert left.shape == (fit.value.ranks[k], k + 1) and right.shape == (
            fit.value.ranks[k],
            3 - k,
        )
    left, right = (
        fit.pivots[0][0],
        fit.pivots[0][1],
    )  # the last fibers of a matrix of two modes: both cores
    y = tl.TT.randn((30, 20), 8, generator=gen(4), dtype=torch.float64)
    *_, fit = itertools.islice(
        tl.tt_cross_steps(y.at, y.shape, rtol=0.0, budget=500, generator=gen()), 2
    )
    ((left, right),) = fit.pivots
    dense, found = y.to_dense(), fit.value.to_dense()
    assert relative_error(found[left[:, 0]], dense[left[:, 0]]) < 1e-10
    assert relative_error(found[:, right[:, 0]], dense[:, right[:, 0]]) < 1e-10
    assert relative_error(found, dense) > 1e-3


def test_quantized_grid():
    shape = (1 << 20, 30)
    f = lambda index: (index[:, 0].double() / (1 << 20)).sin() + index[:, 1].double().cos()
    fit = tl.tt_cross(f, shape, rtol=1e-8, budget=20_000, quantized=True, generator=gen())
    assert fit.converged and fit.value.shape == (2,) * 20 + (2, 3, 5)
    index = torch.stack([torch.randint(n, (1000,), generator=gen(1)) for n in shape], 1)
    assert relative_error(fit.value.at(tl.to_digits(index, shape)), f(index)) < 1e-7
    assert torch.equal(tl.from_digits(tl.to_digits(index, shape), shape), index)


@pytest.mark.thorough
def test_a_million_points_in_each_direction_to_high_accuracy():
    """Pivots that are small when they are taken would make later ones useless: an error that stalls
    above 1e-6."""
    shape = (1 << 20, 1 << 20)

    def f(index):
        x = index.double() / (1 << 20)
        return torch.sin(50 * x[:, 0] * (1 + 0.1 * x[:, 1])) / (1 + x[:, 0] + x[:, 1])

    fit = tl.tt_cross(f, shape, rtol=1e-8, budget=60_000, quantized=True, generator=gen())
    index = torch.randint(1 << 20, (1000, 2), generator=gen(1))
    assert (
        fit.converged and relative_error(fit.value.at(tl.to_digits(index, shape)), f(index)) < 3e-8
    )


def test_as_accurate_as_teneva_with_fewer_evaluations():
    teneva = pytest.importorskip("teneva")
    grid, function = FUNCTIONS["1/norm"]
    shape, rtol = (16,) * 6, 1e-6
    fit = tl.tt_cross(lambda i: function(grid[i]), shape, rtol=rtol, budget=50_000, generator=gen())
    info = {}
    start = teneva.rand(shape, 1, seed=0)
    theirs = teneva.cross(
        lambda i: function(grid[torch.as_tensor(i)]).numpy(),
        start,
        e=rtol,
        dr_max=2,
        nswp=20,
        info=info,
        m=200_000,
    )
    index = torch.randint(16, (5000, 6), generator=gen(5))
    exact = function(grid[index])
    error = relative_error(torch.as_tensor(teneva.get_many(theirs, index.numpy())), exact)
    assert relative_error(fit.value.at(index), exact) <= max(error, rtol)
    assert fit.evaluations < info["m"]


def test_same_values_as_the_cross_of_torchtt_with_fewer_evaluations():
    torchtt = pytest.importorskip("torchtt", reason="needs the bench extra")
    grid, function = FUNCTIONS["Rosenbrock"]
    ours = tl.tt_cross(
        lambda i: function(grid[i]), (N,) * 4, rtol=1e-9, budget=20_000, generator=gen()
    )
    f = Counted(lambda i: function(grid[i]))
    torch.manual_seed(0)
    theirs = torchtt.interpolate.dmrg_cross(f, [N] * 4, eps=1e-9)
    assert relative_error(ours.value.to_dense(), theirs.full()) < 1e-8
    assert ours.value.ranks == (3, 3, 3) and ours.evaluations < len(f.asked)


# -- is invariant


def test_seed_and_dtype():
    grid, function = FUNCTIONS["1/norm"]
    run = lambda f, seed=0: tl.tt_cross(f, (12,) * 4, rtol=1e-5, budget=20_000, generator=gen(seed))
    one, again = run(lambda i: function(grid[i])), run(lambda i: function(grid[i]))
    assert (
        all(torch.equal(a, b) for a, b in zip(one.value.cores, again.value.cores))
        and one.history == again.history
    )
    single = run(lambda i: function(grid[i]).float())
    assert single.converged and single.value.dtype == torch.float32
    assert relative_error(single.value.to_dense(), one.value.to_dense()) < 5e-5


def test_a_tolerance_below_rounding_ends_and_says_so():
    grid, function = FUNCTIONS["1/norm"]
    f = Counted(lambda x: function(x).float(), grid)
    fit = tl.tt_cross(f, (12,) * 4, rtol=1e-12, budget=30_000, generator=gen())
    assert not fit.converged and fit.error < 1e-5 and fit.evaluations == len(f.asked)


def test_one_mode_one_entry_and_zero():
    f = lambda i: i[:, 0].double().sqrt()
    fit = tl.tt_cross(f, (50,), rtol=0.0, budget=55)
    assert fit.converged and torch.equal(fit.value.to_dense(), torch.arange(50).double().sqrt())
    fit = tl.tt_cross(lambda i: 1.0 + i.double().sum(1), (1, 1), rtol=0.0, budget=2)
    assert fit.converged and fit.value.to_dense().item() == 1.0 and fit.evaluations == 1
    fit = tl.tt_cross(lambda i: torch.zeros(len(i)), (9, 9, 9), rtol=1e-3, budget=500)
    assert fit.converged and float(fit.value.norm()) == 0.0 and fit.held_out > 450
    fit = tl.tt_cross(lambda i: torch.zeros(len(i)), (9, 9, 9), rtol=1e-3, budget=70)
    assert not fit.converged and fit.held_out < 50  # too few to take it for zero
    fit = tl.tt_cross(lambda i: torch.zeros(len(i)), (9,) * 9, rtol=1e-3, budget=10**9)
    assert fit.converged and fit.evaluations < 500_000  # and enough


@pytest.mark.thorough
@pytest.mark.parametrize("d", [40, 300])
def test_many_modes(d):
    f = lambda i: (i.double() / d).sum(1).cos()
    fit = tl.tt_cross(f, (4,) * d, rtol=1e-8, budget=60_000, generator=gen())
    assert fit.converged and set(fit.value.ranks[1:-1]) == {2}


@pytest.mark.parametrize("scale", [2.0**600, 2.0**-600])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_multiple_is_the_same_run(name, scale):
    grid, function = FUNCTIONS[name]
    run = lambda s: tl.tt_cross(
        lambda i: s * function(grid[i]), (N,) * 5, rtol=1e-8, budget=40_000, generator=gen()
    )
    one, other = run(1.0), run(scale)
    assert other.history == one.history and other.converged == one.converged
    assert other.evaluations == one.evaluations and other.value.ranks == one.value.ranks
    assert all(torch.equal(a, b) for p, q in zip(one.pivots, other.pivots) for a, b in zip(p, q))
    at = torch.randint(N, (500, 5), generator=gen(1))
    assert torch.equal(other.value.at(at) / scale, one.value.at(at))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128], ids=str)
def test_a_multiple_is_the_same_run_in_other_dtypes(dtype):
    grid, function = FUNCTIONS["1/norm"]
    scale = 2.0**-100 if dtype.to_real() == torch.float32 else 2.0**-600
    run = lambda s: tl.tt_cross(
        lambda i: (function(grid[i]) * (1 + (1j if dtype.is_complex else 0))).to(dtype) * s,
        (12,) * 4,
        rtol=1e-4,
        budget=9000,
        generator=gen(),
    )
    one, other = run(1.0), run(scale)
    assert one.converged and other.history == one.history and other.value.ranks == one.value.ranks


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_error_is_that_of_the_train_as_it_is_stored(dtype):
    """In half precision, most of the error is that of cores rounded to the dtype of the values."""
    grid, function = FUNCTIONS["1/norm"]
    fit = tl.tt_cross(
        lambda i: function(grid[i]).to(dtype), (10,) * 4, rtol=0.02, budget=10_000, generator=gen()
    )
    index = torch.cartesian_prod(*[torch.arange(10)] * 4)
    stored = fit.value.to(torch.float64).at(index)
    true = relative_error(stored, function(grid[index]).to(dtype).double())
    assert fit.value.dtype == dtype and fit.error == pytest.approx(true, rel=0.3)


def test_values_far_below_one_and_far_above():
    f = lambda i: torch.exp(-400 - ((i.double() - 7) ** 2).sum(1) / 8)  # of rank 1
    fit = tl.tt_cross(f, (16,) * 4, rtol=1e-6, budget=20_000, generator=gen())
    peak = float(fit.value.at([[7] * 4]))
    assert fit.converged and fit.error < 1e-12 and peak == pytest.approx(math.exp(-400), rel=1e-12)
    f = lambda i: 1e200 / (1 + i.double().sum(1))
    fit = tl.tt_cross(f, (9,) * 3, rtol=1e-6, budget=729, generator=gen())
    index = torch.cartesian_prod(*[torch.arange(9)] * 3)
    assert fit.converged and relative_error(fit.value.at(index) / 1e200, f(index) / 1e200) <= 1e-6


# -- what `converged` says

KINDS = {
    "uniform": lambda shape, g: torch.rand(shape, generator=g, dtype=torch.float64),
    "signs": lambda shape, g: 2.0 * torch.randint(2, shape, generator=g).double() - 1,
    "sparse": lambda shape, g: (torch.rand(shape, generator=g) < 0.1).double(),
    "one entry": lambda shape, g: (torch.arange(math.prod(shape)) == 7).double().reshape(shape),
    "low rank and noise": lambda shape, g: (
        tl.TT.randn(shape, 2, generator=g, dtype=torch.float64).to_dense()
        + 1e-3 * torch.rand(shape, generator=g, dtype=torch.float64)
    ),
}
SMALL = [(n, n) for n in range(3, 25)] + [(n,) * d for d in (3, 4) for n in (3, 4, 5)]


def cross_of(x, share=1.0, rtol=1e-4, seed=0):
    """The fit of a dense tensor with a share of its entries as the budget, and its true error."""
    budget = int(share * x.numel())
    fit = tl.tt_cross(
        lambda i: x[tuple(i.T)], x.shape, rtol=rtol, budget=budget, generator=gen(seed)
    )
    return fit, relative_error(fit.value.to_dense(), x)


def test_a_small_matrix_with_the_budget_of_all_its_entries():
    x = torch.rand(4, 4, generator=gen(), dtype=torch.float64)
    fit, error = cross_of(x)
    assert fit.converged and fit.value.ranks == (4,) and fit.evaluations == fit.held_out == 16
    assert error < 1e-14 and fit.error == pytest.approx(error, abs=1e-15)


@pytest.mark.parametrize("shape", SMALL[::3], ids=str)
def test_a_random_tensor_is_found_whole_or_not_claimed(shape):
    fit, error = cross_of(KINDS["uniform"](shape, gen(1)), seed=1)
    assert error < 1e-10 if fit.converged else fit.error > 1e-4


@pytest.mark.slow
def test_no_false_claim_on_three_hundred_random_tensors():
    false = []
    for shape, seed in itertools.product(SMALL, range(11)):
        fit, error = cross_of(KINDS["uniform"](shape, gen(seed)), seed=seed)
        if fit.converged and error > 1e-4:
            false.append((shape, seed, error))
    assert not false


@pytest.mark.parametrize("kind", KINDS)
def test_with_the_budget_of_all_entries_a_claim_is_true(kind):
    for shape, seed in itertools.product([(3, 3), (8, 8), (20, 20), (4, 4, 4), (3,) * 4], range(3)):
        fit, error = cross_of(KINDS[kind](shape, gen(seed)), seed=seed)
        assert not fit.converged or error <= 1e-4, (shape, seed, error)


@pytest.mark.parametrize("kind", ["uniform", "signs", "sparse", "low rank and noise"])
def test_with_less_than_all_entries_a_claim_is_true(kind):
    for share, n in itertools.product((0.5, 0.7, 0.9), (6, 12, 18)):
        fit, error = cross_of(KINDS[kind]((n, n), gen(n)), share)
        assert not fit.converged or error <= 1e-4, (share, n, error)
        assert fit.converged or fit.held_out < 50 or fit.error > 1e-4


def test_zeros_alone_are_no_claim():
    """Of the identity all held-out points may be 0 but one, which is the first pivot: rank 1 then
    meets the others exactly."""
    for seed in range(10):
        fit, error = cross_of(torch.eye(40, dtype=torch.float64), share=0.5, seed=seed)
        assert not fit.converged or error <= 1e-4, (seed, error)


def test_points_that_the_search_has_seen_measure_nothing(monkeypatch):
    """Of what the error is measured at, no fiber and no sample of the search has been, nor the
    first pivot."""
    shown, judged = set(), []
    values = tt_cross_module._Values
    call, judge = values.__call__, values.judge

    def seen(self, points):
        shown.update(map(tuple, points.reshape(-1, 4).tolist()))
        return call(self, points)

    def measured(self, tt, rtol):
        out = judge(self, tt, rtol)
        points, _ = self._apart()
        assert out[2] == len(points) and shown.isdisjoint(map(tuple, points.tolist()))
        judged.append(len(points))
        return out

    monkeypatch.setattr(values, "__call__", seen)
    monkeypatch.setattr(values, "judge", measured)
    grid, function = FUNCTIONS["1/norm"]
    fit = tl.tt_cross(
        lambda i: function(grid[i]), (12,) * 4, rtol=1e-8, budget=12_000, generator=gen()
    )
    assert fit.converged and judged[0] < 1200 and judged[-1] == fit.held_out < judged[0]


def test_too_few_points_are_no_claim():
    f = lambda i: (1.0 + i[:, 0].double()) * (2.0 + i[:, 1])
    fit = tl.tt_cross(f, (20, 20), rtol=1e-9, budget=60, generator=gen())
    assert fit.error < 1e-12 and not fit.converged and fit.held_out < 50
    fit = tl.tt_cross(f, (20, 20), rtol=1e-9, budget=100, generator=gen())
    assert fit.converged and fit.held_out >= 50 and fit.evaluations <= 100


# -- budget, failures, gradients


def test_a_jump_that_no_train_can_hold_keeps_to_the_budget():
    grid = torch.arange(1, N + 1).double() / N
    f = Counted(lambda x: (x.sum(1) > 5).double(), grid)
    fit = tl.tt_cross(f, (N,) * D, rtol=1e-6, budget=30_000, generator=gen())
    assert not fit.converged and fit.evaluations == len(f.asked) <= 30_000
    assert 1e-3 < fit.error < 3 * true_error(fit, f.function, grid)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 400))
def test_no_budget_is_exceeded(budget):
    f = Counted(lambda i: (i.double() @ torch.tensor([1.0, 2.0, 3.0]).double()).sqrt())
    least = max(1, budget // 10) + 24
    if budget < least:
        with pytest.raises(ValueError, match=f"budget must be at least {least}.* got {budget}"):
            tl.tt_cross(f, (9, 9, 9), rtol=1e-9, budget=budget, generator=gen())
        assert not f.points
    else:
        fit = tl.tt_cross(f, (9, 9, 9), rtol=1e-9, budget=budget, generator=gen())
        assert fit.evaluations == len(f.asked) <= budget and fit.value.shape == (9, 9, 9)


def test_what_the_function_raises_is_the_cause_of_an_error_with_the_train_so_far():
    grid, function = FUNCTIONS["1/norm"]
    calls, own = [], OSError("the solver died")

    def f(index):
        calls.append(len(index))
        if sum(calls) > 12_000:
            raise own
        return function(grid[index])

    with pytest.raises(RuntimeError, match="tt_cross: .*the solver died") as caught:
        tl.tt_cross(f, (N,) * 6, rtol=1e-8, budget=90_000, generator=gen())
    assert caught.value.__cause__ is own and not hasattr(own, "partial")
    partial = caught.value.partial
    assert isinstance(partial, tl.CrossFit) and not partial.converged and len(partial.history) > 1
    assert true_error(partial, function, grid) < 0.1

    def broken(index):
        raise OSError

    with pytest.raises(RuntimeError, match="OSError") as caught:
        tl.tt_cross(broken, (4, 4), rtol=1e-2, budget=100)
    assert caught.value.partial is None


def test_gradients_flow_through_the_chosen_fibers():
    index = torch.cartesian_prod(*[torch.arange(6)] * 3)

    def train(a, b):
        f = lambda i: 1 / (a + b * i.double().sum(1))
        return tl.tt_cross(f, (6, 6, 6), rtol=1e-9, budget=2000, generator=gen()).value

    a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1.3, 0.4))
    assert torch.autograd.gradcheck(
        lambda a, b: train(a, b).to_dense().square().sum(), (a, b), rtol=1e-4
    )
    loss = train(a, b).at(index).sum()
    exact = (1 / (a + b * index.double().sum(1))).sum()
    for got, wanted in zip(torch.autograd.grad(loss, (a, b)), torch.autograd.grad(exact, (a, b))):
        assert float(got) == pytest.approx(float(wanted), rel=1e-6)


def test_on_device(device):
    grid, function = FUNCTIONS["1/norm"]
    grid = grid.to(device)
    fit = tl.tt_cross(
        lambda i: function(grid[i]),
        (12,) * 4,
        rtol=1e-5,
        budget=20_000,
        device=device,
        generator=gen(),
    )
    assert fit.converged and fit.value.device.type == device.type


# -- errors


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        (dict(f=lambda i: None), TypeError, "f must return a tensor of numbers, got NoneType"),
        (dict(f=lambda i: "no"), TypeError, "f must return a tensor of numbers, got str"),
        (dict(f=3), TypeError, "f must be a function, got int"),
        (dict(generator=0), TypeError, "needs a torch.Generator or None as generator, got 0"),
        (dict(shape=(2**64, 3)), ValueError, "modes of 1 to 2\\^63, .* got 18446744073709551616"),
        (dict(rtol=-1.0), ValueError, "rtol must be a number >= 0, got -1.0"),
        (dict(rtol="a"), ValueError, "rtol must be a number >= 0, got 'a'"),
        (dict(budget=1e4), ValueError, "budget must be an integer >= 0, got 10000.0"),
        (dict(budget=0), ValueError, "at least 16, one fiber in each mode and the sample, got 0"),
        (dict(shape=(4, 0)), ValueError, r"integers >= 1, got \(4, 0\)"),
        (
            dict(f=lambda i: i[:, 0]),
            TypeError,
            "floating-point or complex values from f, got torch.int64",
        ),
        (
            dict(f=lambda i: torch.ones(3)),
            ValueError,
            r"f to return \d+ values for indices of shape \(\d+, 4\), got shape \(3,\)",
        ),
    ],
)
def test_refuses_bad_input(options, error, said):
    arguments = (
        dict(f=lambda i: i.double().sum(1), shape=(5, 4, 5, 5), rtol=1e-3, budget=500) | options
    )
    with pytest.raises(error, match=said):
        tl.tt_cross(arguments.pop("f"), arguments.pop("shape"), **arguments)


def test_an_unknown_kind_of_pivots_is_refused():
    with pytest.raises(ValueError, match='tt_cross: pivots must be "local" or "prrlu", got .lu'):
        tl.tt_cross(lambda i: i[:, 0].double(), (9, 9), rtol=1e-3, budget=81, pivots="lu")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_named(value):
    def f(index):
        out = index.double().sum(1)
        out[(index == torch.tensor([3, 1, 2])).all(1)] = value
        return out

    with pytest.raises(
        ValueError, match=rf"tt_cross: needs finite values from f, got {value} at index \[3, 1, 2\]"
    ):
        tl.tt_cross(f, (5, 4, 5), rtol=1e-9, budget=2000, generator=gen())


def test_indices_beyond_int64_are_refused_and_those_within_are_right():
    seen = []
    f = lambda i: seen.append(int(i.min())) or i.double()[:, 0] / 2.0**64 + 1
    run = lambda n: tl.tt_cross(f, (n,), rtol=1e-8, budget=5000, quantized=True, generator=gen())
    with pytest.raises(ValueError, match="modes of 1 to 2\\^63, whose indices are int64"):
        run(2**64)
    assert not seen
    fit = run(2**63)
    assert fit.converged and min(seen) >= 0 and max(fit.value.ranks) == 2
    digits = tl.to_digits(torch.tensor([[2**63 - 1]]), (2**63,))
    assert float(fit.value.at(digits)) == pytest.approx(1.5, rel=1e-9)


def test_numbers_of_numpy_are_numbers():
    f = lambda i: 1.0 / (1 + i.double().sum(1))
    shape = np.array([2] * 70)  # whose product no int64 holds
    one, other = (
        tl.tt_cross(f, shape, rtol=rtol, budget=budget, generator=gen())
        for rtol, budget in ((1e-3, 20_000), (np.float32(1e-3), np.uint16(20_000)))
    )
    assert one.value.shape == (2,) * 70 and other.value.ranks == one.value.ranks


def test_a_default_device_that_is_not_the_datas():
    f = lambda i: 1.0 / (1 + i.double().sum(1))
    run = lambda **o: tl.tt_cross(f, (8, 9), rtol=1e-6, budget=72, generator=gen(), **o)
    with torch.device("meta"):
        fit = run(device="cpu")
        digits = run(device="cpu", quantized=True)
        by_numpy = tl.tt_cross(
            lambda i: np.exp(-i.numpy().sum(1)), (9, 9), rtol=1e-6, budget=81, device="cpu"
        )
    assert fit.history == run().history and digits.history == run(quantized=True).history
    assert by_numpy.converged and by_numpy.value.device.type == "cpu"


def test_values_on_two_devices_are_refused():
    calls = []
    f = lambda i: torch.ones(
        len(i), device="cpu" if not calls.append(i) and calls[1:] == [] else "meta"
    )
    with pytest.raises(ValueError, match="values on one device from f, got cpu and then meta"):
        tl.tt_cross(f, (9, 9), rtol=1e-6, budget=81)


@pytest.mark.parametrize("turn", [lambda a: a[::-1][::-1], lambda a: a.astype(">f8"), list])
def test_numpy_functions_of_any_layout_will_do(turn):
    f = lambda i: turn(np.cos(i.numpy().sum(1))[::-1].copy()[::-1])
    fit = tl.tt_cross(f, (9, 9, 9), rtol=1e-6, budget=1000, generator=gen())
    assert fit.converged and fit.value.ranks == (2, 2)


def test_numpy_functions_will_do():
    fit = tl.tt_cross(
        lambda i: np.cos(i.numpy().sum(1)), (9, 9, 9), rtol=1e-9, budget=1000, generator=gen()
    )
    assert fit.converged and fit.value.ranks == (2, 2) and fit.value.dtype == torch.float64


# -- the largest entry


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(1, 4), st.integers(0, 999))
def test_argmax_is_that_of_the_dense_tensor(shape, rank, seed):
    tt = tl.TT.randn(shape, rank, generator=gen(seed), dtype=torch.float64)
    dense = tt.to_dense()
    index, value = tl.tt_argmax(tt, beam=2000)  # holds everything: exact
    assert value == pytest.approx(float(dense.max()), rel=1e-9) and float(
        dense[index]
    ) == pytest.approx(value, rel=1e-9)
    shifted = tl.tt_argmax(
        tt - 100.0 * tl.TT(tuple(torch.ones(1, n, 1).double() for n in shape)), beam=2000
    )
    assert float(dense[shifted[0]]) == pytest.approx(
        float(dense.max()), rel=1e-9
    )  # every entry negative


@pytest.mark.parametrize("scale", [2.0**600, 2.0**-600])
@pytest.mark.parametrize("beam", [1, np.int64(9)])
def test_argmax_of_a_multiple_is_at_the_same_place(beam, scale):
    for sign in (1.0, -1.0):
        x = tl.TT.randn((10,) * 8, 5, generator=gen(), dtype=torch.float64) * sign
        x = x - 3.0 * tl.TT(tuple(torch.ones_like(c[:1, :, :1]) for c in x.cores))
        index, value = tl.tt_argmax(x, beam=beam)
        assert tl.tt_argmax(x * scale, beam=beam) == (index, value * scale)


@pytest.mark.thorough
@pytest.mark.parametrize("up", [2.0**40, 2.0**-40])
def test_argmax_of_cores_whose_products_leave_the_floats_on_the_way(up):
    """Forty cores 2^40 times as large, and forty as much smaller: the entries are the same."""
    x = tl.TT.randn((3,) * 80, 2, generator=gen(7), dtype=torch.float64)
    y = tl.TT(tuple(c * (up if k < 40 else 1 / up) for k, c in enumerate(x.cores)))
    for sign in (1.0, -1.0):
        index, value = tl.tt_argmax(x * sign, beam=1)
        other, same = tl.tt_argmax(y * sign, beam=1)
        assert other == index and same == pytest.approx(value, rel=1e-10)


def test_argmax_finds_the_one_entry_that_is_less_negative():
    """All entries are -1 but one, -1/2: the largest by value is the smallest by modulus."""
    d, n = 12, 6
    hot = tl.TT(tuple(torch.eye(n).double()[k % n][None, :, None] for k in range(d)))
    flat = tl.TT(tuple(torch.ones(1, n, 1).double() for _ in range(d)))
    index, value = tl.tt_argmax(0.5 * hot - flat, beam=3)
    assert index == tuple(k % n for k in range(d)) and value == pytest.approx(-0.5, rel=1e-12)


def test_argmax_beside_teneva():
    teneva = pytest.importorskip("teneva")
    for seed in range(6):
        tt = tl.TT.randn((20,) * 8, 5, generator=gen(seed), dtype=torch.float64)
        index, value = tl.tt_argmax(tt)
        assert float(tt.at([index])[0]) == pytest.approx(value, rel=1e-9)
        _, _, _, theirs = teneva.optima_tt([c.numpy() for c in tt.cores])
        assert value >= float(theirs) * (1 - 1e-9)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [1, 3])
def test_values_that_differ_beyond_their_digits(seed):
    """10^(18 k) for k leading ones: beside the pivot there is a value 10^18 times it, so its row of
    an orthonormal basis is 0."""
    f = lambda i: 10.0 ** (18.0 * i.cumprod(1).sum(1).clamp(8, 16).double() - 200)
    fit = tl.tt_cross(f, (2,) * 30, rtol=1e-10, budget=9000, generator=gen(seed))
    index = torch.randint(2, (2000, 30), generator=gen(9))
    assert fit.evaluations <= 9000
    assert not fit.converged or relative_error(fit.value.at(index), f(index)) < 1e-9


def test_argmax_of_a_long_train_and_of_a_planted_entry():
    d = 1000
    cores = [torch.rand(1, 3, 1, generator=gen(k)).double() + 0.1 for k in range(d)]
    index, value = tl.tt_argmax(tl.TT(tuple(cores)), beam=5)
    assert index == tuple(int(c[0, :, 0].argmax()) for c in cores)
    grid, function = FUNCTIONS["Ackley"]
    fit = tl.tt_cross(
        lambda i: -function(grid[i]), (N,) * 6, rtol=1e-4, budget=60_000, generator=gen()
    )
    index, value = tl.tt_argmax(fit.value)
    assert index == (int(grid.abs().argmin()),) * 6


def test_argmax_ends_where_entries_are_equal_up_to_rounding():
    g = gen(5)
    turns = [
        torch.linalg.qr(torch.randn(3, 3, generator=g, dtype=torch.float64))[0] for _ in range(11)
    ]
    ones = tl.TT.randn((4,) * 12, 1, generator=g, dtype=torch.float64)
    flat = tl.TT(tuple(torch.ones_like(c) for c in ones.cores))
    x = flat + 0.25 * flat + 0.5 * flat  # rank 3, all entries 1.75, and hidden by rotations
    cores = [c if k == 0 else torch.tensordot(turns[k - 1].mT, c, 1) for k, c in enumerate(x.cores)]
    x = tl.TT(tuple(c if k == 11 else torch.tensordot(c, turns[k], 1) for k, c in enumerate(cores)))
    assert tl.tt_argmax(x, beam=5)[1] == pytest.approx(1.75, rel=1e-12)


def test_argmax_refuses_bad_input():
    tt = tl.TT.randn((3, 3), 2)
    with pytest.raises(TypeError, match="needs a TT, got Tensor"):
        tl.tt_argmax(tt.to_dense())
    with pytest.raises(ValueError, match="beam must be an integer >= 1, got 0"):
        tl.tt_argmax(tt, beam=0)
    with pytest.raises(TypeError, match="real train, got torch.complex64"):
        tl.tt_argmax(tt.to(torch.complex64))
    with pytest.raises(ValueError, match="finite"):
        tl.tt_argmax(tt * math.nan)
