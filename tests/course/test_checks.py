"""The checks greet what is right, wait for blanks, and have a hint for each listed mistake; nothing
ends in a traceback."""

import contextlib
import importlib
import itertools
import pkgutil
import re
import sys

import numpy as np
import pytest
import torch

import tensorlab
from tensorlab import datasets
from tensorlab.course import checks, lessons
from tensorlab.course.checks import Check
from tensorlab.course.lessons import cp, lowrank, start, tt, tucker

LESSONS = {
    m.name: importlib.import_module(f"{lessons.__name__}.{m.name}")
    for m in pkgutil.iter_modules(lessons.__path__)
}
OF = {
    stem: {n: c for n, c in vars(module).items() if isinstance(c, Check)}
    for stem, module in LESSONS.items()
}
CHECKS = {f"{stem}.{name}": check for stem, checks in OF.items() for name, check in checks.items()}
VALUES = {
    name: check for name, check in CHECKS.items() if check.read is None and not check.function
}
FUNCTIONS = {name: check for name, check in CHECKS.items() if check.function}


@pytest.fixture(autouse=True)
def photograph():
    for package in ("sklearn", "PIL"):
        pytest.importorskip(package)


def asking(right, **options):
    """A check of a value or a function, for the rules that all checks share."""
    return Check(right=right, hint="look again.", moral="So it is.", **options)


@pytest.mark.parametrize(
    "right, accepted, refused",
    [
        (5 / 3, (1.667, 1.67, 1.6666), (1.66, 1.7, 1.68)),
        (0.1**0.5, (0.316, 0.3162, 0.31623), (0.3, 0.32, 0.317)),
        (1234, (1234, 1234.0), (1230, 1235, 1234.5)),
        (0.0, (0, 0.0), (1e-3,)),
        (-0.02345, (-0.0235, -0.0234), (0.02345, -0.024)),
    ],
)
def test_three_significant_digits_of_a_number_and_all_of_a_whole_one(right, accepted, refused):
    check = asking(lambda: right)
    assert all(check(answer) for answer in accepted)
    assert not any(check(answer) for answer in refused)


def test_what_a_question_forbids_is_told(capsys):
    check = asking(
        lambda a, b, x: torch.kron(a, b) @ x,
        function=True,
        cases=lambda: [(torch.ones(8, 8), torch.ones(8, 8), torch.ones(64))],
        largest=lambda a, b, x: 64,
        forbids=((tensorlab.kron_svd, "not that."),),
    )
    assert check(lambda a, b, x: (a @ x.reshape(8, 8) @ b.T).flatten())
    assert not check(lambda a, b, x: torch.kron(a, b) @ x)
    line = capsys.readouterr().out.splitlines()[-1]
    assert "forms a tensor of shape" in line and "the question allows 64" in line
    assert not check(lambda a, b, x: tensorlab.kron_svd(a, (2, 2), 1))
    assert capsys.readouterr().out == "Not yet: not that.\n"
    by_name = asking(
        lambda a: a, function=True, cases=lambda: [(torch.eye(2),)], forbids=((torch.svd, "no."),)
    )
    assert by_name(lambda a: a) and not by_name(lambda a: torch.svd(a)[0])


def swallowed(function):
    """An answer that does not mind the refusal."""

    def answer(a):
        with contextlib.suppress(ValueError):
            function(a)
        return a

    return answer


def unseen(a):
    sys.setprofile(None)
    return torch.svd(a)[0]


@pytest.mark.parametrize(
    "answer, said",
    [
        (swallowed(lambda a: torch.svd(a)[0]), "no."),
        (swallowed(lambda a: torch.kron(a, a)), "your function forms a tensor of shape"),
        (unseen, "your function changes Python's profiler"),
    ],
)
def test_what_is_forbidden_is_told_where_an_answer_goes_on(answer, said):
    with pytest.raises(checks.Unusable, match=said):
        with checks.watched(most=100, forbids=((torch.svd, "no."),)):
            answer(torch.eye(4))


def test_a_verdict_shows_nothing_in_a_notebook(capsys):
    verdict = asking(lambda: 1)(2)
    assert not verdict and verdict.line == "Not yet: look again."
    capsys.readouterr()
    assert verdict._ipython_display_() is None and capsys.readouterr().out == ""


@pytest.mark.thorough
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("blank", [(), (None,), (...,)], ids=["nothing", "None", "..."])
def test_blank(check, blank, capsys):
    assert not check(*blank)
    assert capsys.readouterr().out == ""


def _stub(*args):
    raise NotImplementedError


@pytest.mark.thorough
@pytest.mark.parametrize("check", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize(
    "blank", [lambda *args: None, lambda *args: ..., _stub], ids=["None", "...", "raises"]
)
def test_blank_function(check, blank, capsys):
    assert not check(blank)
    assert capsys.readouterr().out == ""


def test_right_functions(capsys):
    def entry(cores, index):
        out = torch.ones(1, dtype=torch.float64)
        for core, i in zip(cores, index):
            out = out @ core[:, i]
        return out

    assert cp.khatri_rao(
        lambda a, b: torch.stack([torch.kron(a[:, k], b[:, k]) for k in range(a.shape[1])], 1)
    )
    assert tucker.mode_product(lambda x, m, k: (m @ x.movedim(k, -2)).movedim(-2, k))
    assert tt.tt_entry(entry)
    assert tt.tt_entry(lambda cores, index: float(entry(cores, index)))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all(line.startswith("Right.") for line in lines)


def test_right_values():
    assert start.rank_one_storage(1800)
    assert lowrank.truncation_error(0.32) and lowrank.truncation_error(torch.tensor(0.1).sqrt())
    assert cp.cp_storage(np.int64(300))
    assert (
        cp.degenerate_cosine(-1) and cp.degenerate_cosine(-0.935) and not cp.degenerate_cosine(-0.5)
    )
    assert tucker.tucker_storage(320.0)
    assert tt.tt_storage(88)
    assert tt.mode_order((0, 2, 1, 3)) and tt.mode_order([3, 1, 0, 2])


@pytest.mark.parametrize("name", sorted(VALUES))
def test_the_computed_value_is_right(name, capsys):
    check = VALUES[name]
    assert check(check.expected(*check.cases()[0]))
    assert capsys.readouterr().out == f"Right.  {check.moral}\n"


def test_photo_ranks_are_those_of_the_package():
    x = datasets.photo("flower")
    (r,) = tensorlab.LowRank.from_dense(x.mean(-1), rtol=0.1).ranks
    assert lowrank.photo_rank(r)
    r = next(r for r in range(1, 428) if tucker.corner_errors()[r - 1] <= 0.1)
    errors = [
        float((x - tensorlab.hosvd(x, (q, q, 3)).to_dense()).norm() / x.norm()) for q in (r - 1, r)
    ]
    assert errors[1] <= 0.1 < errors[0]
    assert errors == pytest.approx(tucker.corner_errors()[r - 2 : r], rel=1e-9)
    assert tucker.photo_tucker_rank(r)


@pytest.mark.thorough
def test_degenerate_tensor_behaves_as_the_question_says():
    a, b = torch.linalg.qr(torch.tensor([[1.0, 2], [3, 5], [1, 7]], dtype=torch.float64))[0].T
    outer = "i,j,k->ijk"
    w = sum(torch.einsum(outer, *v) for v in ((a, a, b), (a, b, a), (b, a, a)))
    fit = tensorlab.cp_als(
        w, 2, init="random", tol=0.0, max_iter=1000, generator=torch.Generator().manual_seed(0)
    )
    assert fit.history[-1] < 0.05
    assert cp.degenerate_cosine(_cosine_of_terms(fit.value))


def _cosine_of_terms(cp):
    weights = getattr(cp, "weights", None)
    weights = torch.ones(2, dtype=torch.float64) if weights is None else weights
    terms = [
        w * torch.einsum("i,j,k->ijk", *(f[:, k] for f in cp.factors))
        for k, w in enumerate(weights)
    ]
    return (terms[0] * terms[1]).sum() / (terms[0].norm() * terms[1].norm())


@pytest.mark.parametrize("name", sorted(VALUES))
def test_hints_do_not_give_the_value_away(name):
    check = VALUES[name]
    right = f"{float(check.expected(*check.cases()[0])):.4g}"
    words = (
        " ".join([check.hint, *(hint for _, hint in check.mistakes)])
        .replace(".", " ")
        .replace(",", " ")
        .split()
    )
    assert right not in words


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize(
    "answer",
    ["five", {}, [1, 2, 3], True, float("nan"), 12345.678, object()],
    ids=lambda a: type(a).__name__,
)
def test_wrong_types_and_other_values_get_one_line(check, answer, capsys):
    assert not check(answer)
    line = capsys.readouterr().out
    assert line.startswith("Not yet: ") and line.count("\n") == 1


@pytest.mark.thorough
@pytest.mark.parametrize("check", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_function_that_fails_is_told_so(check, capsys):
    assert not check(lambda *args: 1 / 0)
    assert "ZeroDivisionError" in capsys.readouterr().out
    assert not check(lambda: 1)
    assert "TypeError" in capsys.readouterr().out
    assert not check(lambda *args: torch.ones(2, 9, 1))
    assert re.search(r"^Not yet: .*(shape|this is a Tensor|needed)", capsys.readouterr().out)
    assert not check(lambda *args: "text")
    assert capsys.readouterr().out.startswith("Not yet: ")


def test_a_function_that_writes_into_its_argument_does_not_change_the_case():
    def scaled(x, matrix, mode):
        x.zero_()
        return tensorlab.mode_product(x, matrix, mode)

    assert not tucker.mode_product(scaled)


def test_mode_order_accepts_exactly_the_orders_that_keep_partners_together():
    for order in itertools.permutations(range(4)):
        assert bool(tt.mode_order(order)) is ({*order[:2]} in ({0, 2}, {1, 3})), order


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 3, 4), (0, 0, 1, 2), 3, "abcd"])
def test_mode_order_needs_an_order(order, capsys):
    assert not tt.mode_order(order)
    assert "needed" in capsys.readouterr().out
