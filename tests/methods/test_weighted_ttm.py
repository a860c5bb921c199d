"""FWTTM with equal weights is TT-SVD; a fit to data never rises and is near the best there is."""

import pytest
import torch

import tensorlab as tl
from tensorlab.methods.weighted import weighted_error, weighted_svd
from tensorlab.methods.weighted_ttm import weighted_fit, weighted_ttm

F64 = torch.float64
MODES = {
    "two": ((3, 4), (2, 5), 3),
    "three": ((2, 3, 2), (5, 1, 2), (4, 3)),
    "padded": ((4, 4), (3, 4), 3),
    "one": ((12,), (10,), 1),
}
modes = pytest.mark.parametrize("out, in_, rank", MODES.values(), ids=MODES)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def root(n, seed=2):
    return torch.linalg.qr(draw(n, n, seed=seed)).Q * torch.logspace(1, -1, n, dtype=F64)


@modes
@pytest.mark.parametrize("constant", [1.0, 7.0, 0.0, 2.0**-600, 2.0**600])
def test_with_equal_weights_it_is_tt_svd(out, in_, rank, constant):
    w = draw(12, 10)
    got = weighted_ttm(w, torch.full_like(w, constant), out, in_, rank if len(out) > 1 else ())
    want = tl.tt_matrix_svd(w, out, in_, rank if len(out) > 1 else ())
    if MODES["padded"][:2] == (out, in_) and constant:
        return  # what is padded has no weight
    assert got.ranks == want.ranks and got.unpadded_shape == want.unpadded_shape
    assert torch.allclose(got.to_dense(), want.to_dense(), atol=1e-12)


@modes
@pytest.mark.parametrize("power", [-600, 0, 600])
def test_at_full_rank_it_is_the_matrix(out, in_, rank, power):
    w = draw(12, 10) * 2.0**power
    got = weighted_ttm(w, draw(12, 10, seed=1).square(), out, in_, 1000 if len(out) > 1 else ())
    assert torch.allclose(got.to_dense() / 2.0**power, w / 2.0**power, atol=1e-11)


def test_rows_that_weigh_more_are_kept_better():
    """At the first bond of two cores the weights are those of row groups: heavy ones lose less."""
    w, fisher = draw(12, 10), torch.ones(12, 10, dtype=F64)
    fisher[:4] = 100  # the first index of out = (3, 4)
    error = lambda form: float((form.to_dense() - w)[:4].norm())
    assert error(weighted_ttm(w, fisher, (3, 4), (2, 5), 3)) < 0.8 * error(
        tl.tt_matrix_svd(w, (3, 4), (2, 5), 3)
    )


FORMATS = {
    "TTMatrix": lambda w: tl.TTMatrix.from_dense(w, 3),
    "TTMatrix of three": lambda w: tl.TTMatrix.from_dense(w, 3, cores=3),
    "Kronecker": lambda w: tl.Kronecker.from_dense(w, 2),
    "BlockTT": lambda w: tl.BlockTT.from_dense(w, 1),
    "Monarch": lambda w: tl.Monarch.from_dense(w, 2),
    "LowRank": lambda w: tl.LowRank.from_dense(w, 3),
    "PivotedLowRank": lambda w: tl.PivotedLowRank.from_dense(w, 3),
    "LoKr": lambda w: tl.LoKr.from_dense(w, 2),
}
every = pytest.mark.parametrize("name", FORMATS)


@pytest.mark.thorough
@every
def test_a_fit_is_nearer_and_never_rises(name):
    w, left, right = draw(12, 8), root(12, 3), root(8)
    start = FORMATS[name](w)
    fit = weighted_fit(w, start, left=left, right=right)
    assert type(fit.value) is type(start) and fit.value.ranks == start.ranks
    assert all(a >= b for a, b in zip(fit.history, fit.history[1:]))
    error = lambda form: weighted_error(w, form, left=left, right=right)
    assert fit.history[0] == pytest.approx(error(start), rel=1e-9)
    assert fit.history[-1] == pytest.approx(error(fit.value), rel=1e-9)
    assert fit.history[-1] < 0.9 * fit.history[0]


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["LowRank", "PivotedLowRank"])
def test_the_fit_of_low_rank_is_the_weighted_svd(name):
    w, right = draw(12, 8), root(8)
    fit = weighted_fit(w, FORMATS[name](w), right=right, max_iter=400, tol=1e-12)
    best = weighted_error(w, weighted_svd(w, 3, right=right), right=right)
    assert best * (1 - 1e-9) <= fit.history[-1] <= best * (1 + 1e-4)


@every
def test_without_weights_what_a_format_holds_is_kept(name):
    w = FORMATS[name](draw(12, 8)).to_dense()
    fit = weighted_fit(w, FORMATS[name](w))
    assert fit.history[-1] <= fit.history[0] * (1 + 1e-12)


@pytest.mark.thorough
@pytest.mark.parametrize("power", [-600, 600])
def test_sizes_do_not_matter(power):
    w, right = draw(12, 8), root(8)
    a, b = (weighted_fit(x, tl.TTMatrix.from_dense(x, 3), right=right) for x in (w, w * 2.0**power))
    assert torch.allclose(b.value.to_dense() / 2.0**power, a.value.to_dense(), rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_said_in_one_sentence():
    w = draw(12, 10)
    says = lambda text: pytest.raises(ValueError, match=text)
    with says(r"weighted_ttm: needs a fisher >= 0 of shape \(12, 10\), got shape \(3, 3\)"):
        weighted_ttm(w, torch.ones(3, 3), (3, 4), (2, 5), 3)
    with says("weighted_ttm: needs a fisher >= 0 .*, least -1"):
        weighted_ttm(w, -torch.ones_like(w), (3, 4), (2, 5), 3)
    with says("weighted_ttm: rank must be at least 1, got 0"):
        weighted_ttm(w, w.abs(), (3, 4), (2, 5), 0)
    with says(r"weighted_fit: needs a format of shape \(12, 10\), got LowRank"):
        weighted_fit(w, tl.LowRank.from_dense(w.mT, 2))
