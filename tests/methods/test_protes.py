"""PROTES: against dense distributions, autograd and enumeration; constraints never leak; what goes
wrong is one sentence."""

import copy
import math
import pickle
from itertools import groupby

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from tensors import shapes

import tensorlab as tl
from tensorlab.methods import protes as module
from tensorlab.methods.protes import Automaton, Optimum

RUNS = Automaton(step=[[0, 1], [-1, 2], [-1, 3], [0, 3]], accept=[0, 3])
small = shapes.filter(lambda s: math.prod(s) <= 500)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def everywhere(shape):
    return torch.cartesian_prod(*[torch.arange(n) for n in shape]).reshape(-1, len(shape))


def signed(shape, seed=0, **options):
    """A search whose cores have both signs, as after some steps."""
    search = tl.Protes(shape, budget=10, generator=generator(seed), **{"rank": 3, **options})
    search.cores = (
        torch.randn(search.cores.shape, generator=generator(seed), dtype=search.cores.dtype)
        * search.mask
    )
    return search


def bowl(index):
    return (index - 2).square().sum(1).double()


def runs_fit(word):
    return all(len(list(group)) >= 3 for bit, group in groupby(word) if bit)


# -- reduces to


@settings(max_examples=40, deadline=None, derandomize=True)
@given(shape=small, seed=st.integers(0, 99))
def test_without_a_minus_it_is_the_train_divided_by_its_sum(shape, seed):
    search = tl.Protes(shape, budget=1, rank=3, generator=generator(seed))
    got = search.log_prob(everywhere(shape))
    search.tell(search.ask().double().sum(1))  # the budget is spent, so that nothing is learned
    assert torch.allclose(
        got, tl.tt_log_prob(search.fit().model, everywhere(shape)), rtol=1e-9, atol=1e-9
    )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(shape=small, seed=st.integers(0, 99))
def test_with_any_signs_it_is_a_distribution(shape, seed):
    log = signed(shape, seed).log_prob(everywhere(shape))
    assert float(log.exp().sum()) == pytest.approx(1, rel=1e-12)


def test_conditionals_by_the_formula():
    """The definition with plain loops and no scaling, on the blackboard's notation."""
    search = signed((3, 2, 4))
    cores = search.cores
    for index, log in zip(everywhere((3, 2, 4)), search.log_prob(everywhere((3, 2, 4)))):
        q, want = torch.tensor([1.0, 0, 0], dtype=torch.float64), 0.0
        for k, i in enumerate(index):
            z = torch.tensor([1.0, 0, 0], dtype=torch.float64)
            for core in cores.flip(0)[: 2 - k]:
                z = core.sum(1) @ z
            g = torch.stack([q @ cores[k][:, j] @ z for j in range((3, 2, 4)[k])]).abs()
            want, q = want + float((g[i] / g.sum()).log()), q @ cores[k][:, i]
        assert float(log) == pytest.approx(want, rel=1e-10)


@pytest.mark.parametrize("constraint", [None, RUNS])
def test_draws_have_the_distribution_that_is_scored(constraint):
    search = signed((2,) * 7, constraint=constraint)
    grid = everywhere((2,) * 7)
    p = search.log_prob(grid).exp()
    drawn = search.draw(20_000) @ (2 ** torch.arange(6, -1, -1))
    seen, want = torch.bincount(drawn, minlength=128), 20_000 * p
    assert not seen[p == 0].any()
    often = want > 5
    seen = torch.cat([seen[often], seen[~often].sum()[None]]).double()
    want = torch.cat([want[often], want[~often].sum().clamp_min(1e-9)[None]])
    assert chisquare(seen.numpy(), (want * seen.sum() / want.sum()).numpy()).pvalue > 1e-4


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 5, 1, 3), (2,) * 9])
@pytest.mark.parametrize(
    "constraint", [None, Automaton([[0, 1, 0, 1, 0], [0, -1, 1, -1, 1]], [0, 1])]
)
def test_the_two_sweeps_give_the_gradient_of_autograd_and_of_differences(shape, constraint):
    search = signed(shape, constraint=constraint)
    index = search.draw(6)
    admitted = search._walk(index)
    cores = search.cores.clone().requires_grad_()
    mean = lambda cores: module._chain(cores, index, admitted)[0].log().sum(0).mean()
    mean(cores).backward()
    got = module._gradient(search.cores, index, admitted)
    assert torch.allclose(got * search.mask, cores.grad * search.mask, rtol=1e-9, atol=1e-10)
    step = torch.randn(cores.shape, generator=generator(1), dtype=torch.float64) * search.mask
    h = 1e-6
    difference = (mean(search.cores + h * step) - mean(search.cores - h * step)) / (2 * h)
    assert float((got * step).sum()) == pytest.approx(float(difference), rel=1e-5, abs=1e-6)


def test_a_train_is_the_automaton_it_is_made_from():
    by_train = signed((2,) * 8, constraint=RUNS.tt((2,) * 8))
    by_automaton = signed((2,) * 8, constraint=RUNS)
    assert torch.equal(
        by_train.log_prob(everywhere((2,) * 8)), by_automaton.log_prob(everywhere((2,) * 8))
    )


def test_automaton_by_enumeration():
    grid = everywhere((2,) * 9)
    want = torch.tensor([runs_fit(word) for word in grid.tolist()])
    assert torch.equal(RUNS.tt((2,) * 9).to_dense().flatten() > 0, want)
    assert RUNS.tt((2,)).to_dense().tolist() == [1, 0]


def test_a_small_grid_is_searched_whole():
    values = torch.randn(6, 7, generator=generator(3), dtype=torch.float64)
    fit = tl.protes(lambda i: values[i[:, 0], i[:, 1]], (6, 7), budget=1000, generator=generator())
    assert fit.value.value == float(values.min()) and values[fit.value.index] == values.min()
    assert fit.reason == "every point is known" and fit.converged and fit.evaluations == 42


def test_numpy_values_and_lists_of_one_mode():
    fit = tl.protes(
        lambda i: np.abs(i.numpy()[:, 0] - 77.0),
        (100,),
        budget=100,
        batch=10,
        elite=3,
        generator=generator(),
    )
    assert fit.value == Optimum((77,), 0.0)


def test_quantized_is_the_same_problem_in_digits():
    f = lambda i: (i.double() - torch.tensor([700.0, 31.0, 0.0])).abs().sum(1)
    asked = []
    g = lambda i: asked.append(i) or f(i)
    fit = tl.protes(g, (1024, 48, 1), budget=3000, quantized=True, generator=generator())
    asked = torch.cat(asked)
    assert fit.value == Optimum((700, 31, 0), 0.0)
    assert bool((asked.amax(0) < torch.tensor([1024, 48, 1])).all()) and len(
        asked.unique(dim=0)
    ) == len(asked)
    assert fit.model.shape == tl.digit_shape((1024, 48, 1))


# -- is invariant


def test_the_scale_of_a_core_does_not_matter():
    search = signed((2, 3, 4))
    before = search.log_prob(everywhere((2, 3, 4)))
    search.cores = (
        search.cores * torch.tensor([1e-80, 1e90, 3.0], dtype=torch.float64)[:, None, None, None]
    )
    assert torch.allclose(search.log_prob(everywhere((2, 3, 4))), before, rtol=1e-9, atol=1e-12)


def test_the_same_seed_gives_the_same_numbers_and_order_alone_matters():
    runs = [
        tl.protes(f, (4,) * 6, budget=600, generator=generator(5))
        for f in (bowl, bowl, lambda i: 1000 * bowl(i) - 7)
    ]
    assert runs[0].history == runs[1].history and runs[0].samples == runs[1].samples
    assert runs[2].value.index == runs[0].value.index
    assert [1000 * h - 7 for h in runs[0].history] == list(runs[2].history)


def test_saved_and_resumed_it_is_the_same_run(tmp_path):
    f, options = bowl, dict(budget=500, batch=40, elite=5)
    whole = tl.protes(f, (5,) * 8, generator=generator(2), **options)
    search = tl.Protes((5,) * 8, generator=generator(2), **options)
    for _ in range(4):
        search.tell(f(search.ask()))
    asked = search.ask()
    torch.save(search.state_dict(), tmp_path / "search.pt")
    again = tl.Protes((5,) * 8, generator=generator(9), **options)
    again.load_state_dict(torch.load(tmp_path / "search.pt", weights_only=True))
    assert torch.equal(again.ask(), asked)
    while len(index := again.ask()):
        again.tell(f(index))
    assert again.fit().history == whole.history and again.fit().value == whole.value
    for _ in range(2):  # the one that was saved is not disturbed by the one that was loaded
        search.tell(f(search.ask()))
    assert search.history == whole.history[:6]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "again",
    [lambda s: pickle.loads(pickle.dumps(s)), copy.deepcopy, copy.copy],
    ids=["pickle", "deepcopy", "copy"],
)
@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize(
    "options",
    [{}, dict(quantized=True), dict(constraint=RUNS)],
    ids=["plain", "quantized", "constraint"],
)
def test_pickled_or_copied_it_is_the_same_run(options, asked, again):
    shape = (2,) * 9 if "constraint" in options else (12, 6, 5)
    run = lambda: tl.Protes(shape, budget=250, batch=30, elite=5, generator=generator(2), **options)
    step = lambda s: s.tell(bowl(s.ask()))
    one, search = run(), run()
    for _ in range(3):
        step(one), step(search)
    if asked:
        one.ask(), search.ask()
    other, told = again(search), len(search.values)
    while len(one.ask()):
        assert torch.equal(other.ask(), one.ask())
        step(one), step(other)
        assert torch.equal(other.cores, one.cores)
    assert not len(other.ask())
    assert other.fit().history == one.fit().history and other.fit().reason == one.fit().reason
    assert len(search.values) == told  # the one that was copied is not disturbed


@pytest.mark.parametrize("f", [lambda b: b * 1e200, lambda b: b * 1e-200, lambda b: b - 1e200])
def test_values_of_any_size_are_the_same_search(f):
    """Values of 1e±200 and, where 1e200 is taken away, ties alone."""
    runs = [
        tl.protes(lambda i, f=f: f(bowl(i)), (5,) * 6, budget=400, batch=40, generator=generator(4))
        for f in (lambda b: b, f, lambda b: 0 * b)
    ]
    model = (torch.cat([c.flatten() for c in run.model.cores]) for run in runs)
    one, other, ties = model
    best = float(f(bowl(torch.tensor([runs[1].value.index]))))
    assert runs[1].value.value == best and math.isfinite(best)
    assert torch.equal(other, ties if best == -1e200 else one)


def test_numbers_of_numpy_are_numbers():
    run = lambda integer, real: tl.protes(
        bowl,
        np.array([4] * 40),  # whose product no int64 holds
        budget=integer(300),
        rank=integer(3),
        batch=integer(50),
        elite=integer(6),
        mutants=integer(7),
        lr=real(0.0625),
        generator=generator(),
    )
    one, other = run(int, float), run(np.uint16, np.float32)
    assert one.history == other.history and type(other.evaluations) is int


@pytest.mark.thorough
def test_a_default_device_that_is_not_the_datas():
    start = tl.TT.randn((2,) * 8, 4, generator=generator(), dtype=torch.float64)
    plain = dict(budget=100, batch=20, elite=4, device="cpu")
    options = [{}, dict(constraint=RUNS), dict(init=start), dict(quantized=True)]
    for option in options:
        run = lambda o=option: tl.protes(bowl, (2,) * 8, generator=generator(), **plain, **o)
        wanted = run()
        with torch.device("meta"):
            assert run().history == wanted.history
    with torch.device("meta"):
        fit = tl.protes(lambda i: (i.numpy() - 2.0).sum(1), (5,) * 4, **plain)
    assert fit.evaluations == 100 and fit.model.device.type == "cpu"


@pytest.mark.parametrize("shape", [(1,), (1, 1, 1), (5,), (3, 1, 4)])
def test_one_mode_and_modes_of_one(shape):
    fit = tl.protes(bowl, shape, budget=100, generator=generator())
    assert fit.evaluations == math.prod(shape) and fit.converged
    assert fit.value.value == float(bowl(everywhere(shape)).min())


def test_a_mode_of_more_than_int32_holds():
    asked = []
    f = lambda i: asked.append(i) or -i.double().sum(1)
    with pytest.raises(ValueError, match="modes of 1 to 2\\^63, whose indices are int64"):
        tl.protes(f, (2**64, 3), budget=10, quantized=True)
    assert not asked
    fit = tl.protes(f, (2**63, 3), budget=1000, quantized=True, generator=generator())
    points = torch.cat(asked)
    assert int(points.min()) >= 0 and int(points.max()) > 2**62
    assert len(points.unique(dim=0)) == 1000
    assert fit.value.value == float(-torch.tensor(fit.value.index).double().sum()) < -(2.0**62)


def test_points_are_asked_once_and_counted():
    asked = []
    fit = tl.protes(
        lambda i: asked.append(i) or bowl(i), (3,) * 7, budget=700, generator=generator()
    )
    asked = torch.cat(asked)
    assert len(asked) == fit.evaluations == 700 == len(asked.unique(dim=0)) and fit.samples > 0
    assert fit.history[-1] == fit.value.value == float(bowl(asked).min())
    assert fit.reason == "the budget is spent" and not fit.converged


def test_a_warm_start_goes_on_from_the_model():
    options = dict(budget=400, batch=40, elite=5, mutants=0)
    cold = tl.protes(bowl, (8,) * 12, generator=generator(1), **options)
    warm = tl.protes(bowl, (8,) * 12, init=cold.model, generator=generator(1), **options)
    assert warm.history[0] < cold.history[0] and warm.value.value <= cold.value.value
    one = tl.TT(tuple(torch.eye(8, dtype=torch.float64)[k][None, :, None] for k in [2] * 12))
    fit = tl.protes(bowl, (8,) * 12, init=one, budget=1, generator=generator())
    assert fit.value.index == (2,) * 12 and fit.value.value == 0


@pytest.mark.thorough
@pytest.mark.parametrize("shape", [(7,), (2, 9), (2, 5, 1, 3, 8), (2,) * 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ragged_and_long_shapes_in_both_precisions(shape, dtype):
    f = lambda i: i.to(dtype).sum(1)
    search = tl.Protes(shape, budget=300, batch=30, elite=5, dtype=dtype, generator=generator())
    while len(index := search.ask()):
        assert bool(((index >= 0) & (index < torch.tensor(shape))).all())
        search.tell(f(index))
    assert search.cores.dtype == dtype and search.cores.isfinite().all()
    assert search.history[-1] == 0 or search.history[-1] < search.history[0]


def test_a_thousand_modes():
    search = tl.Protes(
        (2,) * 1000, budget=60, batch=20, elite=5, dtype=torch.float32, generator=generator()
    )
    while len(index := search.ask()):
        search.tell(index.double().sum(1))
    assert search.cores.isfinite().all() and search.log_prob(search.points).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ten_thousand_steps_stay_finite(dtype):
    search = tl.Protes(
        (3,) * 6, budget=10**9, batch=10, elite=2, dtype=dtype, generator=generator()
    )
    for _ in range(10_000):
        search._learn(search.draw(2))
    assert search.cores.isfinite().all()
    assert float(search.log_prob(everywhere((3,) * 6)).exp().sum()) == pytest.approx(1, abs=1e-4)


# -- constraints


def test_no_draw_and_no_mutant_leaves_the_feasible_set():
    asked = []
    f = lambda i: asked.append(i) or (i.double() @ torch.arange(-12.0, 12.0, dtype=torch.float64))
    fit = tl.protes(f, (2,) * 24, budget=1500, constraint=RUNS, generator=generator())
    asked = torch.cat(asked).tolist()
    assert len(asked) == fit.evaluations == 1500 and all(map(runs_fit, asked))
    assert fit.value.value == sum(range(-12, 0))  # twelve ones in front, a run


def test_what_learning_does_to_the_cores_cannot_leak():
    search = signed((2,) * 10, constraint=RUNS)
    for _ in range(50):
        search._learn(search.draw(3))
    search.cores = torch.where(
        search.mask > 0, search.cores * 1e-300, search.cores
    )  # all conditionals lost in rounding
    assert all(map(runs_fit, search.draw(300).tolist()))


def test_a_constraint_by_a_train_of_any_modes():
    """At most one index that is not zero, on ragged modes, by its definition as a train of rank
    2."""
    shape, cores = (3, 2, 4, 5), []
    for n in shape:
        core = torch.zeros(2, n, 2)
        core[0, 0, 0] = core[1, 0, 1] = 1
        core[0, 1:, 1] = 1
        cores.append(core)
    cores[0], cores[-1] = cores[0][:1], cores[-1].sum(2, keepdim=True)
    seen = []
    f = lambda i: seen.append(i) or -i.double().sum(1)
    fit = tl.protes(f, shape, budget=50, constraint=tl.TT(cores), generator=generator())
    seen = torch.cat(seen)
    assert bool(((seen > 0).sum(1) <= 1).all()) and len(seen) == 1 + sum(
        n - 1 for n in shape
    )  # every one of them is met
    assert (
        fit.value == Optimum((0, 0, 0, 4), -4.0)
        and fit.reason == "20 batches brought no new point"
        and fit.converged
    )


# -- says no


@pytest.mark.parametrize(
    "wrong, said",
    [
        (dict(budget=0), "budget must be an integer >= 1, got 0"),
        (dict(budget=1.5), "budget must be an integer >= 1, got 1.5"),
        (dict(rank=0), "rank must be an integer >= 1, got 0"),
        (dict(batch=True), "batch must be an integer >= 1, got True"),
        (dict(elite=200), "elite and mutants must be at most batch, 100, got 200 and 20"),
        (dict(lr=-1.0), "lr must be a number > 0, got -1.0"),
        (
            dict(dtype=torch.float16),
            "dtype must be torch.float32 or torch.float64, got torch.float16",
        ),
        (dict(constraint="runs"), "constraint must be an Automaton or a TT, got str"),
        (
            dict(constraint=tl.TT([torch.zeros(1, 2, 1)] * 3)),
            "needs a constraint that admits something, got one that",
        ),
        (dict(constraint=Automaton([[1, 1], [-1, -1]], [0])), "got one that admits nothing"),
        (
            dict(constraint=tl.TT([torch.ones(1, 2, 1)] * 2)),
            "constraint must have the modes (2, 2, 2), got (2, 2)",
        ),
        (
            dict(constraint=tl.TT([-torch.ones(1, 2, 1)] * 3)),
            "constraint must be a train of cores >= 0",
        ),
        (
            dict(constraint=Automaton([[0, 5]], [0])),
            "needs states in 0..0, -1 for a forbidden step, got 5",
        ),
        (
            dict(constraint=Automaton([[0]], [0])),
            "needs 2 steps from each state for modes (2, 2, 2), got 1",
        ),
        (dict(constraint=Automaton([], [])), "Automaton: needs at least one state, got none"),
        (
            dict(constraint=Automaton([[0.5, 0]], [0])),
            "needs states in 0..0, -1 for a forbidden step, got 0.5",
        ),
        (dict(dtype="float64"), "torch.float32 or torch.float64, got 'float64'"),
        (dict(generator=0), "protes: needs a torch.Generator or None as generator, got 0"),
        (dict(init=tl.TT([torch.zeros(1, 2, 1)] * 3)), "init must be a train that is not zero"),
        (dict(init=tl.TT([torch.full((1, 2, 1), math.nan)] * 3)), "init: needs finite entries"),
        (dict(init=torch.ones(2)), "init must be a TT, got Tensor"),
        (
            dict(init=tl.TT([torch.ones(1, 2, 1)] * 2)),
            "init must be real with the modes (2, 2, 2)",
        ),
        (
            dict(init=tl.TT([torch.ones(1, 2, 1)] * 3), constraint=RUNS),
            "init must have the ranks 8 that the constraint asks for",
        ),
    ],
)
def test_arguments_that_do_not_fit(wrong, said):
    with pytest.raises((ValueError, TypeError), match="^(protes|Automaton): ") as told:
        tl.protes(bowl, (2, 2, 2), **{"budget": 10, **wrong})
    assert said in str(told.value)


@pytest.mark.parametrize(
    "values, said",
    [
        (lambda i: bowl(i)[:-1], "f must give values of shape (20,)"),
        (lambda i: bowl(i)[:, None], "got (20, 1)"),
        (lambda i: None, "f must return a tensor of numbers, got NoneType"),
        (lambda i: "no", "f must return a tensor of numbers, got str"),
        (lambda i: bowl(i).long(), "f must give floating values, got torch.int64"),
        (
            lambda i: torch.where(bowl(i) >= 0, math.nan, 0.0),
            "f must give numbers or inf, got nan at [",
        ),
        (lambda i: bowl(i) - math.inf, "f must give numbers or inf, got -inf at ["),
    ],
)
@pytest.mark.parametrize("good", [0, 3])
def test_values_that_do_not_fit_lose_nothing(values, said, good):
    calls = []
    f = lambda i: calls.append(i) or (bowl(i) if len(calls) <= good else values(i))
    with pytest.raises((ValueError, TypeError)) as told:
        tl.protes(f, (5,) * 6, budget=200, batch=20, elite=4, generator=generator())
    assert said in str(told.value)
    if good:
        assert told.value.partial.evaluations == 60 and told.value.partial.reason == "not ended"
        assert told.value.partial.value.value == float(bowl(torch.cat(calls[:3])).min())
    else:
        assert told.value.partial is None


def test_what_f_raises_is_the_cause_of_an_error_that_carries_the_fit():
    calls, own = [], KeyError("the machine is down")

    def f(index):
        calls.append(index)
        if len(calls) == 4:
            raise own
        return bowl(index)

    with pytest.raises(RuntimeError, match="protes: .*the machine is down") as told:
        tl.protes(f, (5,) * 6, budget=400, generator=generator())
    assert told.value.__cause__ is own and not hasattr(own, "partial")
    assert told.value.partial.evaluations == 300 and len(told.value.partial.history) == 3


def test_infinite_values_are_points_that_are_not_wanted():
    f = lambda i: torch.where(i.sum(1) % 2 == 0, bowl(i), math.inf)
    fit = tl.protes(f, (5,) * 6, budget=2000, generator=generator())
    assert fit.value.value == 0


def test_told_before_asked_and_a_state_of_another_search():
    search = tl.Protes((4, 4), budget=5)
    with pytest.raises(ValueError, match="needs points to be asked before values are told"):
        search.tell(torch.zeros(1))
    with pytest.raises(
        ValueError, match=r"needs a state with cores \(2, 4, 4, 4\), got \(3, 4, 4, 4\)"
    ):
        search.load_state_dict(tl.Protes((4, 4, 4), rank=4, budget=5).state_dict())
    assert search.fit() is None and len(search.ask()) == 5
