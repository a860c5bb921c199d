"""What both estimators are given and asked by others: tables of every kind, names of columns,
scikit-learn's own checks, copies, seeds."""

import copy
import pickle
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.utils import estimator_checks

import tensorlab as tl
from tensorlab.methods.estimator import read_table, seeded, standardize


def rows(n=60, d=3, seed=0):
    """Numbers with a quarter's step in -8..8: exact in every type of float."""
    x = np.random.RandomState(seed).normal(size=(n, d))
    x[:, 1] += x[:, 0]
    return np.clip(np.round(4 * x), -32, 32) / 4


def classes(x):
    return (x[:, 0] * x[:, 1] > 0.2).astype(int)


ESTIMATORS = {
    "density": lambda **more: tl.TTDensity(**dict(rank=2, basis=6, steps=1) | more),
    "machine": lambda **more: tl.ExponentialMachine(**dict(rank=3, steps=20) | more),
}
ASKS = {
    "density": lambda model, x: (model.score_samples(x), model.score(x), model.report(x)),
    "machine": lambda model, x: (model.decision_function(x), model.predict_proba(x)),
}


def fitted(name, x, y=None, **more):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*repeat another")
        return ESTIMATORS[name](**more).fit(x, classes(rows()) if y is None else y)


# -- tables


def read_only(x):
    x = x.copy()
    x.setflags(write=False)
    return x


def unaligned(x):
    whole = np.zeros(x.nbytes + 1, np.uint8)
    whole[1:] = np.frombuffer(x.tobytes(), np.uint8)
    return np.frombuffer(whole[1:].tobytes(), np.uint8).view(x.dtype).reshape(x.shape)


class Readable:
    """What has nothing but the way to be read as an array."""

    def __init__(self, x):
        self.x = x

    def __array__(self, dtype=None, copy=None):
        return self.x


TABLES = {
    "list": lambda x: x.tolist(),
    "tuple": lambda x: tuple(map(tuple, x)),
    "list of arrays": list,
    "reversed rows": lambda x: x[::-1],
    "reversed columns": lambda x: x[:, ::-1],
    "every second row": lambda x: np.repeat(x, 2, 0)[::2],
    "columns first": np.asfortranarray,
    "big-endian": lambda x: x.astype(">f8"),
    "big-endian float32": lambda x: x.astype(">f4"),
    "reversed big-endian": lambda x: x.astype(">f8")[::-1],
    "read-only": read_only,
    "unaligned": unaligned,
    "objects": lambda x: x.astype(object),
    "masked": np.ma.masked_array,
    "readable": Readable,
    "data frame": pd.DataFrame,
    "data frame of objects": lambda x: pd.DataFrame(x.astype(object)),
    "data frame of mixed columns": lambda x: pd.DataFrame(x).astype({0: "float32", 1: "Float64"}),
    "data frame of sparse columns": lambda x: pd.DataFrame(x).astype(pd.SparseDtype("float", 0.0)),
    "tensor": torch.as_tensor,
    "transposed tensor": lambda x: torch.as_tensor(x.T.copy()).T,
    "tensor with a gradient": lambda x: torch.tensor(x, requires_grad=True),
} | {name: lambda x, t=name: x.astype(t) for name in ("float16", "float32", "longdouble")}
TABLES |= {
    f"tensor {t}": lambda x, t=t: torch.tensor(x).to(t)
    for t in (torch.float16, torch.bfloat16, torch.float32)
}
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool", ">i4")
WHOLE = {name: lambda x, t=name: x.astype(t) for name in INTEGERS} | {
    f"tensor {t}": lambda x, t=t: torch.as_tensor(x).to(t)
    for t in (torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool)
}
WHOLE |= {
    "data frame of integers": lambda x: pd.DataFrame(x.astype(int)),
    "data frame of Int64": lambda x: pd.DataFrame(x.astype(int)).astype("Int64"),
    "data frame of integers and floats": lambda x: pd.DataFrame(x).astype({0: "int32"}),
    "list of integers": lambda x: x.astype(int).tolist(),
}


def plain(table):
    """The same numbers as an array of the estimators' own two types, in order."""
    values = table.detach() if isinstance(table, torch.Tensor) else np.asarray(table)
    values = values.double().numpy() if isinstance(values, torch.Tensor) else values
    return values.astype(np.float64).copy()


def answers(name, table, x):
    model = fitted(name, table)
    return [np.asarray(answer, np.float64) for answer in ASKS[name](model, table)]


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_is_read(kind):
    table = TABLES[kind](rows())
    x = read_table("fit", table)
    narrow = kind.split()[-1].rpartition(".")[2] in ("float16", "bfloat16", "float32")
    assert x.dtype == (torch.float32 if narrow else torch.float64) and not x.requires_grad
    assert np.array_equal(x.double().numpy(), plain(table))


@pytest.mark.parametrize("kind", WHOLE)
def test_a_table_of_integers_is_read(kind):
    table = WHOLE[kind](np.abs(np.round(rows())))
    x = read_table("fit", table)
    assert x.dtype == torch.float64 and np.array_equal(x.numpy(), plain(table))


@pytest.mark.thorough
@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("kind", TABLES)
def test_an_estimator_takes_it_as_the_plain_table(name, kind):
    table = TABLES[kind](rows())
    ours = ASKS[name](fitted(name, table), table)
    copied = plain(table).astype(
        "float32" if read_table("", table).dtype == torch.float32 else "float64"
    )
    wanted = ASKS[name](fitted(name, copied), copied)
    for got, want in zip(ours, wanted):
        assert np.array_equal(np.asarray(got, np.float64), np.asarray(want, np.float64))
    assert isinstance(ours[0], torch.Tensor) == isinstance(table, torch.Tensor)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("kind", [k for k in WHOLE if "bool" not in k])
def test_an_estimator_takes_integers(name, kind):
    table = WHOLE[kind](np.abs(np.round(rows())))
    ours, wanted = (ASKS[name](fitted(name, t), t) for t in (table, plain(table)))
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(ours, wanted))


class Frame(Readable):
    """Named columns and the way to be read as an array, as other packages' data frames have."""

    columns = ["a", "b", "c"]


def test_other_packages_frames_are_tables():
    model = fitted("density", Frame(rows()))
    assert list(model.feature_names_in_) == ["a", "b", "c"]
    wanted = fitted("density", rows()).score_samples(rows())
    assert np.array_equal(model.score_samples(Frame(rows())), wanted)


def masked():
    x = np.ma.masked_array(rows())
    x[3, 1] = np.ma.masked
    return x


def with_entry(value):
    x = rows()
    x[3, 1] = value
    return x


REFUSED = {
    "scipy's sparse matrix": (lambda: scipy.sparse.csr_matrix(rows()), TypeError, "sparse input"),
    "scipy's sparse array": (lambda: scipy.sparse.coo_array(rows()), TypeError, "sparse input"),
    "torch's sparse tensor": (lambda: torch.tensor(rows()).to_sparse(), TypeError, "sparse input"),
    "complex": (lambda: rows() * 1j, ValueError, "Complex data not supported, got complex128"),
    "complex tensor": (lambda: torch.tensor(rows() * 1j), ValueError, "Complex data not supported"),
    "strings": (lambda: rows().astype(str), TypeError, "table of numbers, got entries of type <U"),
    "dates": (lambda: rows().astype("M8[s]"), TypeError, "got entries of type datetime64"),
    "a string among numbers": (
        lambda: pd.DataFrame({0: [1.0, 2.0], 1: ["x", "y"]}),
        ValueError,
        "table of numbers: could not convert string to float: 'x'",
    ),
    "dicts": (lambda: [[{}, 1.0]], TypeError, "not 'dict'"),
    "a gap": (
        lambda: pd.DataFrame({0: [1.0, 2.0], 1: pd.array([1, None])}),
        (TypeError, ValueError),  # pandas gives an object of its own, or NaN
        r"(not 'NAType'|got nan at index \(1, 1\))",
    ),
    "a masked entry": (masked, ValueError, r"got nan at index \(3, 1\)"),
    "NaN": (lambda: with_entry(np.nan), ValueError, r"finite entries, got nan at index \(3, 1\)"),
    "infinity": (lambda: with_entry(-np.inf), ValueError, r"got -inf at index \(3, 1\)"),
    "rows of different lengths": (lambda: [[1.0], [1.0, 2.0]], ValueError, "table of numbers: "),
    "a row": (lambda: rows()[0], ValueError, r"got shape \(3,\); Reshape your data to \(3, 1\)"),
    "a number": (lambda: 3.0, ValueError, r"of shape \(n, d\), got shape \(\)"),
    "a stack": (lambda: rows()[None], ValueError, r"got shape \(1, 60, 3\)"),
    "no rows": (lambda: rows()[:0], ValueError, r"got 0 sample\(s\) \(shape=\(0, 3\)\)"),
    "no columns": (lambda: rows()[:, :0], ValueError, r"got 0 feature\(s\) \(shape=\(60, 0\)\)"),
    "None": (lambda: None, ValueError, r"got shape \(\)"),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_table_is_refused_in_one_sentence(name, kind):
    make, error, said = REFUSED[kind]
    model = fitted(name, rows())
    before = [np.asarray(a) for a in ASKS[name](model, rows())]
    ask = model.score_samples if name == "density" else model.predict
    for who, act in (("fit", lambda t: model.fit(t, classes(rows()))), ("", ask)):
        with pytest.raises(error, match=rf"^{type(model).__name__}\.{who}.*{said}") as caught:
            act(make())
        assert "\n" not in str(caught.value)
    after = [np.asarray(a) for a in ASKS[name](model, rows())]
    assert all(np.array_equal(a, b) for a, b in zip(before, after))


# -- columns


@pytest.mark.parametrize("name", ESTIMATORS)
def test_columns_have_names(name):
    frame = pd.DataFrame(rows(), columns=["a", "b", "c"])
    model = fitted(name, frame)
    ask = model.score_samples if name == "density" else model.decision_function
    assert model.feature_names_in_.dtype == object
    assert model.feature_names_in_.tolist() == ["a", "b", "c"] and model.n_features_in_ == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        want = ask(frame)
    with pytest.raises(ValueError, match=r"\['a', 'b', 'c'\], got \['c', 'b', 'a'\]"):
        ask(frame[["c", "b", "a"]])
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        assert np.array_equal(ask(rows()), want)
    nameless = fitted(name, pd.DataFrame(rows()))
    assert not hasattr(nameless, "feature_names_in_")
    with pytest.warns(UserWarning, match="was fitted without feature names"):
        (nameless.score_samples if name == "density" else nameless.predict)(frame)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*repeat another")
        model.fit(rows(), classes(rows()))
    assert not hasattr(model, "feature_names_in_")
    with pytest.raises(ValueError, match="X has 2 features, but .* is expecting 3 features"):
        ask(rows()[:, :2])


def test_some_columns_of_a_data_frame():
    frame = pd.DataFrame(rows(), columns=["a", "b", "c"])
    model, bare = fitted("density", frame), fitted("density", rows())
    want = bare.score_samples(rows()[:, [2, 0]], dims=(2, 0))
    assert np.array_equal(model.score_samples(frame[["c", "a"]], dims=(2, 0)), want)
    with pytest.raises(ValueError, match=r"\['c', 'a'\], got \['a', 'c'\]"):
        model.score_samples(frame[["a", "c"]], dims=(2, 0))
    given = bare.score_samples(rows()[:, [1, 2]], given={0: 0.5})
    assert np.array_equal(model.score_samples(frame[["b", "c"]], given={0: 0.5}), given)


# -- classes


@pytest.mark.thorough
@pytest.mark.parametrize(
    "make",
    [
        lambda y: np.where(y, "yes", "no"),
        lambda y: np.where(y, "yes", "no").astype(object),
        lambda y: np.where(y, "yes", "no").tolist(),
        lambda y: pd.Series(np.where(y, "yes", "no")),
        lambda y: pd.Series(np.where(y, "yes", "no")).astype("category"),
        lambda y: y.astype(bool),
        lambda y: torch.as_tensor(y * 2 - 1),
        lambda y: torch.as_tensor(y).to(torch.bfloat16),
        lambda y: y.astype(">i2")[::1],
        lambda y: pd.Series(y).astype("Int64"),
        lambda y: (y / 2).tolist(),
    ],
)
def test_classes_of_any_kind(make):
    x, y = rows(), make(classes(rows()))
    machine = fitted("machine", x, y)
    bare = fitted("machine", x)
    assert np.array_equal(machine.decision_function(x), bare.decision_function(x))
    values = np.asarray(y.float() if getattr(y, "dtype", 0) == torch.bfloat16 else y)
    assert list(machine.classes_) == sorted(set(values.tolist()))
    assert np.array_equal(machine.predict(x), machine.classes_[bare.predict(x)])
    assert machine.score(x, y) == bare.score(x, classes(x)) > 0.6
    kind = machine.predict(torch.as_tensor(x))
    assert isinstance(kind, torch.Tensor) == (machine.classes_.dtype.kind in "biuf")


def test_a_column_of_classes_is_taken_with_a_warning():
    x, y = rows(), classes(rows())
    with pytest.warns(DataConversionWarning, match="A column-vector y was passed"):
        machine = ESTIMATORS["machine"]().fit(x, y[:, None])
    assert np.array_equal(machine.predict(x), fitted("machine", x).predict(x))


@pytest.mark.parametrize(
    "y, error, said",
    [
        (["a"] * 60, ValueError, r"needs two classes, got 1: \['a'\]"),
        (list("abc") * 20, ValueError, "needs two classes, got 3: .*Only binary classification"),
        (np.linspace(0, 1, 60), ValueError, "got 60 values; Unknown label type: continuous"),
        (None, ValueError, "requires y to be passed"),
        ([0, 1] * 20, ValueError, r"a class for each of the 60 rows, got y \(40,\)"),
        ([[0, 1]] * 60, ValueError, r"got y \(60, 2\)"),
        ([0.0, np.nan] * 30, ValueError, "needs finite classes, got nan"),
        (["a", None] * 30, ValueError, "needs finite classes, got None"),
        (np.array(["a", 1] * 30, object), TypeError, "classes that can be compared"),
    ],
)
def test_classes_that_are_refused(y, error, said):
    with pytest.raises(error, match=rf"^ExponentialMachine\.fit: .*{said}"):
        ESTIMATORS["machine"]().fit(rows(), y)
    with pytest.raises(ValueError, match=r"each of the 60 rows, got y \(2,\)"):
        fitted("machine", rows()).score(rows(), [0, 1])


# -- units of columns


@pytest.mark.thorough
@pytest.mark.parametrize(
    "dtype, powers", [(torch.float64, (600, -600, 0)), (torch.float32, (100, -100, 9))]
)
@pytest.mark.parametrize(
    "more",
    [
        {},
        dict(method="cores", steps=2),
        dict(method="riemannian", steps=4, batch=999),
        dict(format="ht"),
        dict(format="cp"),
        dict(init="screened", steps=2),
    ],
    ids=str,
)
def test_units_do_not_matter_to_a_machine(more, dtype, powers):
    """Powers of two change no digit; a shift, what it rounds."""
    x = torch.as_tensor(rows(200)).to(dtype)
    unit = torch.tensor([2.0**p for p in powers], dtype=dtype)
    fit = lambda x: fitted("machine", x, classes(rows(200)), **more)
    one, two = fit(x), fit(x * unit)
    assert torch.equal(one.decision_function(x), two.decision_function(x * unit))
    assert one.strongest(3, 5) == two.strongest(3, 5)


def test_a_shift_does_not_matter_to_a_machine():
    x = torch.as_tensor(rows(200))
    one, two = (fitted("machine", z, classes(rows(200))) for z in (x, x + 1e6))
    change = one.decision_function(x) - two.decision_function(x + 1e6)
    assert change.abs().max() < 1e-6  # a quarter's step at 1e6 loses nothing; its mean 1e-10


@pytest.mark.parametrize("dtype, power", [(torch.float64, 1000), (torch.float32, 120)])
def test_columns_of_any_size_are_standardized(dtype, power):
    x = torch.as_tensor(rows()).to(dtype)
    z, mean, deviation = standardize(x)
    assert z.mean(0).abs().max() < 8 * torch.finfo(dtype).eps
    assert (z.std(0, correction=0) - 1).abs().max() < 8 * torch.finfo(dtype).eps
    for sign in (1, -1):
        unit = torch.tensor(2.0, dtype=dtype) ** (sign * power)
        far, m, s = standardize(x * unit)
        assert torch.equal(far, z) and torch.equal(m, mean * unit.double())
        assert torch.equal(s, deviation * unit.double())


def test_a_column_of_few_steps_is_no_constant():
    x = 1e6 + torch.arange(8.0)[:, None] / 16  # float32 counts in sixteenths there
    assert standardize(x)[0].abs().min() > 0
    assert not standardize(torch.full((9, 1), 0.1))[0].any()


# -- before fit, and twice


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("there", [True, False])
def test_a_question_before_fit(name, there, monkeypatch):
    model = ESTIMATORS[name]()
    asks = {
        "density": [
            lambda: model.score_samples(rows()),
            lambda: model.score(rows()),
            lambda: model.sample(2),
            lambda: model.report(rows()),
            lambda: model.support_,
        ],
        "machine": [
            lambda: model.decision_function(rows()),
            lambda: model.predict(rows()),
            lambda: model.predict_proba(rows()),
            lambda: model.score(rows(), classes(rows())),
            lambda: model.coefficient([(0,)]),
            lambda: model.strongest(2, 1),
        ],
    }[name]
    if not there:
        monkeypatch.setitem(sys.modules, "sklearn.exceptions", None)
    for ask in asks:
        with pytest.raises(ValueError, match="needs a call of fit first, got none") as caught:
            ask()
        assert isinstance(caught.value, AttributeError)
        assert isinstance(caught.value, NotFittedError) == there
    assert not hasattr(model, "support_")


@pytest.mark.parametrize("name", ESTIMATORS)
def test_fit_again_is_as_fit_for_the_first_time(name):
    other, y = rows(80, 2, seed=1), classes(rows(80, 2, seed=1))
    model = fitted(name, other, y)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*repeat another")
        again = [model.fit(rows(), classes(rows())) for _ in range(2)][-1]
    fresh = fitted(name, rows())
    for got, want in zip(ASKS[name](again, rows()), ASKS[name](fresh, rows())):
        assert np.array_equal(np.asarray(got), np.asarray(want))
    assert again.n_features_in_ == 3


@pytest.mark.thorough
@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("way", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize(
    "more", [{}, dict(random_state=torch.Generator().manual_seed(5))], ids=["plain", "seeded"]
)
def test_copies_answer_alike(name, way, more):
    model = fitted(name, torch.as_tensor(rows()), **more)
    for got, want in zip(ASKS[name](way(model), rows()), ASKS[name](model, rows())):
        assert np.array_equal(np.asarray(got), np.asarray(want))
    assert repr(way(model)).split("(")[0] == type(model).__name__


SEEDS = {
    "integer": lambda: 7,
    "NumPy's integer": lambda: np.int64(7),
    "torch.Generator": lambda: torch.Generator().manual_seed(7),
    "numpy.random.Generator": lambda: np.random.default_rng(7),
    "numpy.random.RandomState": lambda: np.random.RandomState(7),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("kind", SEEDS)
def test_random_state(name, kind):
    """Equal states, equal numbers, in clones too; fit leaves the parameter what it was."""
    state = SEEDS[kind]()
    model = ESTIMATORS[name](random_state=state)
    twin = clone(model)
    assert model.get_params()["random_state"] is state
    models = [twin, ESTIMATORS[name](random_state=SEEDS[kind]()), model]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*repeat another")
        first, *others = (
            np.asarray(ASKS[name](m.fit(rows(), classes(rows())), rows())[0]) for m in models
        )
    assert all(np.array_equal(first, other) for other in others) and model.random_state is state


@pytest.mark.parametrize("wrong", [1.5, "seed", True, np.random])
def test_what_is_no_seed_is_refused(wrong):
    with pytest.raises(TypeError, match="^f: random_state must be an integer, a generator"):
        seeded("f", wrong, "cpu")
    a, b = (torch.rand(3, generator=seeded("f", None, "cpu")) for _ in range(2))
    assert not torch.equal(a, b)


# -- scikit-learn's own checks

EXPECTED = {  # check: why it fails
}
CHECKED = {
    "density": ESTIMATORS["density"](),
    "density, cells": ESTIMATORS["density"](cells=5),
    "density, linear": ESTIMATORS["density"](model="linear"),
    "machine": ESTIMATORS["machine"](),
    "machine, tree, screened": ESTIMATORS["machine"](format="ht", init="screened"),
}


def failures(model):
    """Names of the checks that the model fails, and what they said."""
    if hasattr(estimator_checks, "estimator_checks_generator"):  # from 1.6 on
        results = estimator_checks.check_estimator(model, on_fail=None, on_skip=None)
        return {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    found = {}
    for one, check in estimator_checks.check_estimator(model, generate_only=True):
        try:
            check(one)
        except Exception as error:  # noqa: BLE001  any of them is a failure
            if type(error).__name__ != "SkipTest":
                found[check.func.__name__] = error
    return found


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHECKED)
def test_scikit_learns_checks(name):
    found = failures(CHECKED[name])
    assert found.keys() == EXPECTED.keys(), found


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ESTIMATORS)
def test_in_pipelines_and_searches_of_data_frames(name):
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    frame, y = pd.DataFrame(rows(), columns=["a", "b", "c"]), np.where(classes(rows()), "u", "v")
    pipe = make_pipeline(StandardScaler().set_output(transform="pandas"), ESTIMATORS[name]())
    scores = cross_val_score(pipe, frame, y, cv=3, error_score="raise")
    assert np.isfinite(scores).all() and "<div" in pipe.fit(frame, y)._repr_html_()
    grid = {"rank": np.array([2, 3])}  # NumPy's numbers are numbers
    search = GridSearchCV(ESTIMATORS[name](), grid, cv=3, error_score="raise").fit(frame, y)
    assert search.best_params_["rank"] in (2, 3)
    assert list(search.best_estimator_.feature_names_in_) == ["a", "b", "c"]
