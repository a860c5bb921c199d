"""Exponential machines: against dense tensors, logistic regression, planted interactions; the
interface."""

import math

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

import tensorlab as tl
from tensorlab.methods.estimator import standardize
from tensorlab.methods.expmachine import (
    as_format,
    core_sweep,
    features,
    linear_start,
    rank_one_inner,
    screened_terms,
)

XOR = torch.tensor([[-1.0, -1], [-1, 1], [1, -1], [1, 1]], dtype=torch.float64)


def planted(n=1200, d=8, seed=0):
    """Signs of x0 x3 - 0.7 x1 x4 x6 + 0.4 x2 on corners of the cube."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(2, (n, d), generator=g).double() * 2 - 1
    return x, (x[:, 0] * x[:, 3] - 0.7 * x[:, 1] * x[:, 4] * x[:, 6] + 0.4 * x[:, 2] > 0).long()


@pytest.fixture(scope="module")
def machine():
    return tl.ExponentialMachine(rank=6, method="cores", steps=6, ridge=1e-3).fit(*planted())


# -- reduces to


@pytest.mark.parametrize(
    "make",
    [
        lambda g: tl.TT.randn((3, 2, 4, 2), 3, generator=g, dtype=torch.float64),
        lambda g: tl.CP.randn((3, 2, 4, 2), 3, generator=g, dtype=torch.float64),
        lambda g: tl.HT.randn((3, 2, 4, 2), 3, generator=g, dtype=torch.float64),
        lambda g: tl.HT.randn(
            (3, 2, 4, 2), 2, tree=((3, 0), (2, 1)), generator=g, dtype=torch.float64
        ),
    ],
)
def test_inner_product_is_that_of_the_dense_tensors(make, generator):
    w = make(generator)
    phi = [torch.randn(6, n, generator=generator, dtype=torch.float64) for n in w.shape]
    assert torch.allclose(
        rank_one_inner(w, phi), torch.einsum("abcd,na,nb,nc,nd->n", w.to_dense(), *phi), atol=1e-12
    )
    index = torch.tensor([[0, 1, 3, 0], [2, 0, 1, 1]])
    hot = [torch.nn.functional.one_hot(i, n).double() for i, n in zip(index.T, w.shape)]
    assert torch.allclose(rank_one_inner(w, hot), w.at(index), atol=1e-12)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_three_formats_of_a_cp_are_the_same_tensor(d, generator):
    cp = tl.CP.randn((2, 3, 2, 4, 2)[:d], 3, generator=generator, dtype=torch.float64)
    for name in ("cp", "tt", "ht"):
        assert torch.allclose(as_format(cp, name).to_dense(), cp.to_dense(), atol=1e-12)


def test_the_start_is_near_the_logistic_regression(generator):
    x, y = planted(400)
    sign, phi = y.double() * 2 - 1, features(x, {})
    cp = linear_start(phi, sign, 2, 0.0, generator, ridge=1e-9)
    theirs = LogisticRegression(C=1e9, tol=1e-10).fit(x.numpy(), y.numpy())
    index = torch.eye(8, dtype=torch.int64)
    assert torch.allclose(cp.at(index), torch.tensor(theirs.coef_[0]), atol=1e-3)
    assert float(cp.at(index[:1] * 0)) == pytest.approx(float(theirs.intercept_[0]), abs=1e-3)


def test_the_screened_start_is_the_logistic_regression_with_the_planted_products(generator):
    x, y = planted(2000)
    y = y ^ (torch.rand(2000, generator=generator) < 0.1)  # not separable
    sign, phi = y.double() * 2 - 1, features(x, {})
    terms = screened_terms(x, phi, sign, list(range(8)), 3, 2)
    sets = [(0, 3), (1, 4, 6)]
    z = standardize(x)[0]
    products = torch.stack([z[:, s].prod(1) for s in sets], 1)
    values = torch.stack([f @ t for f, t in zip(phi, terms)]).prod(
        0
    )  # (n, 2), in the order in which they were found
    order = [0, 1] if torch.allclose(values[:, 0], products[:, 0]) else [1, 0]
    assert torch.allclose(values, products[:, order], atol=1e-12)
    cp = linear_start(phi, sign, 4, 0.0, None, ridge=1e-6, terms=terms)
    table = torch.cat([torch.ones_like(x[:, :1]), x, products[:, order]], 1)
    theirs = LogisticRegression(C=1e6 / len(x), tol=1e-10, fit_intercept=False, max_iter=1000).fit(
        table.numpy(), y.numpy()
    )
    assert np.allclose(cp.weights[2:].numpy(), theirs.coef_[0, 9:], rtol=1e-2)


def test_one_sweep_over_one_column_is_newtons_logistic_regression(generator):
    x = torch.randn(300, 1, generator=generator, dtype=torch.float64)
    y = (x[:, 0] + torch.randn(300, generator=generator, dtype=torch.float64) > 0.3).long()
    machine = tl.ExponentialMachine(rank=2, method="cores", steps=8, ridge=1e-9).fit(x, y)
    theirs = LogisticRegression(C=1e9, tol=1e-10).fit(x.numpy(), y.numpy())
    assert np.allclose(machine.predict_proba(x.numpy()), theirs.predict_proba(x.numpy()), atol=1e-4)


# -- by hand


@pytest.mark.thorough
@pytest.mark.parametrize(
    "params",
    [
        dict(method="cores", steps=6),
        dict(method="riemannian", steps=60, batch=9999),
        dict(method="adam", steps=200, lr=0.05),
        dict(init="screened", steps=100, lr=0.05),
        dict(format="cp", steps=200, lr=0.05),
        dict(format="ht", steps=200, lr=0.05),
    ],
)
def test_exclusive_or(params):
    machine = tl.ExponentialMachine(rank=4, **params).fit(XOR, [0, 1, 1, 0])
    assert machine.predict(XOR).tolist() == [0, 1, 1, 0] and machine.score(XOR, [0, 1, 1, 0]) == 1
    (found, value), *_ = machine.strongest(2, 1)
    assert found == (0, 1) and value < 0
    assert torch.allclose(machine.predict_proba(XOR).sum(1), torch.ones(4).double())


def test_planted_interactions_are_the_strongest(machine):
    assert {found for found, _ in machine.strongest(3, 3)} == {(2,), (0, 3), (1, 4, 6)}
    x, y = planted(800, seed=1)
    assert machine.score(x, y) > 0.97
    found = dict(machine.strongest(3, 3))
    assert found[0, 3] > 0 > found[1, 4, 6]


@pytest.mark.thorough
def test_the_screened_start_finds_what_descent_from_the_linear_model_does_not():
    from tensorlab.papers.expmachine import auc, synthetic

    x, y, z, t = synthetic(4000, 16, 4, 20)
    fit = lambda init, lr: (
        tl.ExponentialMachine(rank=8, init=init, lr=lr, steps=100).fit(x, y).decision_function(z)
    )
    assert auc(fit("screened", 0.001), t) > auc(fit("linear", 0.005), t) + 0.15


@pytest.mark.parametrize("format", ["tt", "cp", "ht"])
def test_the_screened_start_in_each_format(format):
    x, y = planted(2000)
    machine = tl.ExponentialMachine(
        rank=5, format=format, init="screened", order=3, steps=1, lr=0.0
    ).fit(x, y)
    assert machine.score(*planted(800, seed=1)) > 0.95
    assert {found for found, _ in machine.strongest(3, 3)} == {(2,), (0, 3), (1, 4, 6)}


def test_categorical_columns_are_left_out_of_the_screening(generator):
    x, y = planted(1000)
    codes = torch.randint(3, (1000, 2), generator=generator).double()
    x = torch.cat([codes[:, :1], x, codes[:, 1:]], 1)
    machine = tl.ExponentialMachine(
        rank=4, categorical=(0, 9), init="screened", order=3, steps=1, lr=0.0
    ).fit(x, y)
    assert {found for found, _ in machine.strongest(3, 3)} == {(3,), (1, 4), (2, 5, 7)}
    fit = lambda init: (
        tl.ExponentialMachine(categorical=range(8), steps=2, init=init).fit(x[:, 1:9], y).weights_
    )
    assert all(
        torch.equal(a, b) for a, b in zip(fit("linear").cores, fit("screened").cores)
    )  # nothing to screen


def test_categories_are_one_hot(generator):
    x = torch.randint(3, (300, 2), generator=generator)
    y = ((x[:, 0] == 2) ^ (x[:, 1] == 0)).long()
    machine = tl.ExponentialMachine(rank=4, categorical=(0, 1), method="cores", steps=5).fit(x, y)
    assert machine.score(x, y) == 1 and machine.weights_.shape == (4, 4)
    unseen = machine.decision_function(torch.tensor([[9, 9]]))
    assert float(unseen) == pytest.approx(float(machine.weights_.at([[0, 0]])))


# -- is invariant


def test_a_sweep_of_newton_steps_never_loses(generator):
    x, y = planted(300)
    sign, phi = y.double() * 2 - 1, features(x, {})
    cores = list(as_format(linear_start(phi, sign, 4, 0.3, generator), "tt").orthogonal(0).cores)
    losses = []
    for _ in range(4):
        losses.append(core_sweep(cores, phi, sign, 1e-3))
        cores, phi = [c.permute(2, 1, 0) for c in cores[::-1]], phi[::-1]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.7 * losses[0]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "method, params", [("riemannian", dict(batch=9999, steps=25)), ("adam", dict(steps=60))]
)
def test_the_loss_falls(method, params):
    machine = tl.ExponentialMachine(rank=4, method=method, **params).fit(*planted(400))
    losses = [value for _, _, value in machine.history_]
    assert losses[-1] < 0.8 * losses[0]
    if method == "riemannian":
        assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_that_of_the_data(dtype):
    x, y = planted(200)
    machine = tl.ExponentialMachine(rank=3, steps=3).fit(x.to(dtype), y)
    assert machine.predict_proba(x.to(dtype)).dtype == machine.weights_.dtype == dtype


def test_same_seed_same_numbers():
    one, two = (tl.ExponentialMachine(rank=3, steps=5).fit(*planted(200)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.weights_.cores, two.weights_.cores))


# -- scikit-learn


def test_it_is_a_classifier_to_scikit_learn():
    from sklearn.base import is_classifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import cross_val_score

    x, y = (t.numpy() for t in planted(300))
    machine = tl.ExponentialMachine(rank=4, method="cores", steps=3, ridge=1e-3)
    assert clone(machine).get_params() == machine.get_params() and is_classifier(machine)
    assert cross_val_score(machine, x, y, cv=3, error_score="raise").mean() > 0.8
    p = machine.fit(x, y).predict_proba(x)
    assert isinstance(p, np.ndarray) and roc_auc_score(y, p[:, 1]) > 0.95


# -- says no


def test_says_no_and_loses_nothing(machine):
    x, y = planted(50)
    nan = x.clone()
    nan[3, 1] = math.nan
    before = machine.weights_
    for wrong, target, said in (
        (nan, y, r"got nan at index \(3, 1\)"),
        (x[:1], y[:1], "needs two rows or more"),
        (x, y[:9], r"y \(9,\)"),
        (x, y * 0, r"needs two classes, got 1: \[0\]"),
        (x, torch.arange(50), "needs two classes, got 50"),
    ):
        with pytest.raises(ValueError, match=said):
            machine.fit(wrong, target)
    assert machine.weights_ is before
    still, twice = torch.cat([x, torch.ones(50, 1)], 1), (torch.cat([x, x]), torch.cat([y, y]))
    for pair in ((still, y), twice):  # constant columns and repeated rows are no trouble
        assert tl.ExponentialMachine(rank=3, method="cores", steps=1).fit(*pair).score(*pair) > 0.5


@pytest.mark.parametrize(
    "params, said",
    [
        (dict(format="tucker"), "'tucker'"),
        (dict(method="sgd"), "'sgd'"),
        (dict(format="cp", method="cores"), 'needs format "tt"'),
        (dict(init="random"), """init must be "linear" or "screened", got 'random'"""),
        (dict(order=1), "order must be an integer >= 2"),
        (dict(rank=1), "rank must be an integer >= 2, got 1"),
        (dict(lr=-1), "got -1"),
        (dict(categorical=(9,)), r"got \(9,\)"),
    ],
)
def test_says_no_to_parameters(params, said):
    with pytest.raises(ValueError, match=said):
        tl.ExponentialMachine(**params).fit(*planted(50))


def test_says_no_to_sets_that_are_none(machine):
    for wrong in ((0, 0), (99,)):
        with pytest.raises(ValueError, match="needs sets of numeric columns"):
            machine.coefficient([wrong])
    with pytest.raises(ValueError, match="needs features of the sizes"):
        rank_one_inner(machine.weights_, [torch.ones(1, 3)] * 8)
    with pytest.raises(TypeError, match="needs a TT, CP or HT, got LowRank"):
        rank_one_inner(tl.LowRank.from_dense(torch.ones(2, 2), 1), [torch.ones(1, 2)] * 2)
    assert len(machine.strongest(2, 99)) == 8 + 28
