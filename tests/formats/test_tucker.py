"""Tucker: bounds, quasi-optimality, tensorly's HOOI, and the SVD of a matrix."""

import math

import pytest
import tensorly
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorly.decomposition import tucker as tensorly_tucker
from tensors import (
    KINDS,
    RTOLS,
    gradcheck,
    noisy_train,
    relative_error,
    shapes,
    smooth,
    tensor,
    within,
)

import tensorlab as tl
from tensorlab.multilinear import unfold

DTYPES = [
    torch.float64,
    torch.float32,
    torch.complex128,
    torch.complex64,
    torch.float16,
    torch.bfloat16,
]


@pytest.mark.thorough
@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    shape=shapes,
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(DTYPES),
    rtol=st.sampled_from(RTOLS),
)
def test_bounds(shape, kind, dtype, rtol):
    x = tensor(kind, shape, dtype)
    for algorithm in (tl.hosvd, tl.st_hosvd):
        t = algorithm(x, rtol=rtol)
        assert t.shape == x.shape and t.dtype == x.dtype and within(t, x, rtol)
        assert all(
            type(r) is int and 1 <= r <= min(n, x.numel() // n)
            for r, n in zip(t.ranks, x.shape, strict=True)
        )


def test_two_modes_give_the_svd(generator):
    x = torch.randn(12, 9, generator=generator, dtype=torch.float64)
    s = torch.linalg.svdvals(x)
    for algorithm in (tl.hosvd, tl.st_hosvd, lambda x, r: tl.hooi(x, r).value):
        assert relative_error(algorithm(x, 4).to_dense(), x) == pytest.approx(
            float(s[4:].norm() / s.norm()), rel=1e-10
        )


def test_hosvd_core_is_all_orthogonal_with_the_singular_values_as_norms(generator):
    x = torch.randn(5, 6, 7, generator=generator, dtype=torch.float64)
    core = tl.hosvd(x, rtol=0.0).core
    for k in range(3):  # the two properties of [DeLathauwer2000]
        slices = unfold(core, k)
        gram = slices @ slices.T
        assert torch.allclose(gram, torch.diag(torch.linalg.svdvals(unfold(x, k)) ** 2), atol=1e-12)


def test_order_of_errors():
    x = noisy_train((12, 13, 14), 9, 0.2, seed=2)
    fit = tl.hooi(x, 4)
    h, s, best = (
        relative_error(t.to_dense(), x) for t in (tl.hosvd(x, 4), tl.st_hosvd(x, 4), fit.value)
    )
    assert best <= s + 1e-12 and best <= h + 1e-12 and h <= 3**0.5 * best and s <= 3**0.5 * best
    assert fit.converged and all(b <= a + 1e-12 for a, b in zip(fit.history, fit.history[1:]))
    assert fit.history[-1] == pytest.approx(best, rel=1e-10)


def test_hooi_of_complex_numbers_is_stationary(generator):
    x = torch.randn(7, 8, 9, generator=generator, dtype=torch.complex128)
    fit = tl.hooi(x, (2, 3, 2), tol=1e-14, max_iter=500)
    assert fit.history[-1] == pytest.approx(relative_error(fit.value.to_dense(), x), rel=1e-12)
    assert fit.history[-1] <= relative_error(tl.st_hosvd(x, (2, 3, 2)).to_dense(), x)
    assert all(b <= a + 1e-14 for a, b in zip(fit.history, fit.history[1:]))
    for k, f in enumerate(fit.value.factors):  # each spans the leading vectors, the others held
        y = x
        for j, g in enumerate(fit.value.factors):
            y = y if j == k else tl.mode_product(y, g.mH, j)
        best = torch.linalg.svd(unfold(y, k)).U[:, : f.shape[1]]
        cosines = torch.linalg.svdvals(f.mH @ best)
        assert torch.allclose(cosines, torch.ones_like(cosines), atol=1e-6)


def test_hooi_reaches_tensorly():
    x = noisy_train((12, 13, 14), 9, 0.2, seed=2)
    tensorly.set_backend("numpy")
    init = tl.to_tensorly(
        tl.st_hosvd(x, (4, 5, 6))
    )  # the same start: there are several local minima
    theirs = tl.from_tensorly(
        tensorly_tucker(x.numpy(), rank=[4, 5, 6], init=init, n_iter_max=100, tol=1e-10)
    )
    ours = tl.hooi(x, (4, 5, 6), tol=1e-10, max_iter=100).value
    assert relative_error(ours.to_dense(), x) <= relative_error(theirs.to_dense(), x) + 1e-6


def test_history_is_true_also_when_tiny(generator):
    x = tl.Tucker.randn((6, 7, 8), 2, generator=generator, dtype=torch.float64).to_dense()
    fit = tl.hooi(x, 2)
    assert fit.history[-1] < 1e-14 and fit.converged


def test_permuting_modes_permutes_factors():
    x = noisy_train((6, 7, 8), 3, 1e-3)
    a, b = tl.hosvd(x, 3), tl.hosvd(x.permute(2, 0, 1), 3)
    for k, j in enumerate((2, 0, 1)):
        assert torch.allclose(
            (a.factors[j].T @ b.factors[k]).abs(), torch.eye(3).double(), atol=1e-8
        )


def test_round_and_orthogonal(generator):
    x = tl.Tucker.randn((6, 7, 8), 3, generator=generator, dtype=torch.complex128)
    y = x.orthogonal()
    assert relative_error(y.to_dense(), x.to_dense()) < 1e-14
    assert all(torch.allclose(f.mH @ f, torch.eye(3, dtype=f.dtype), atol=1e-13) for f in y.factors)
    assert (x + 2 * x).round(rtol=1e-10).ranks == (3, 3, 3)
    assert relative_error((x + x).round(2).to_dense(), 2 * x.to_dense()) == pytest.approx(
        relative_error(tl.st_hosvd(x.to_dense(), 2).to_dense(), x.to_dense()), rel=1e-6
    )


def test_gradient_flows_through_hooi(generator):
    x = torch.randn(3, 4, 3, generator=generator, dtype=torch.float64).requires_grad_()
    assert gradcheck(
        lambda x: tl.hooi(x, 2, tol=0.0, max_iter=2).value.to_dense().sin().sum(), (x,)
    )


def test_smooth_tensors_need_few():
    assert max(tl.st_hosvd(smooth((20, 20, 20)), rtol=1e-6).ranks) <= 6


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: tl.Tucker(torch.zeros(2, 2), [torch.zeros(3, 2)]), r"\(2, 2\) and \[\(3, 2\)\]"),
        (lambda: tl.Tucker(torch.zeros(2, 2), [torch.zeros(3, 2), torch.zeros(3, 1)]), r"\(3, 1\)"),
        (lambda: tl.hooi(torch.zeros(3, 3), 2, max_iter=0), "got 0"),
        (lambda: tl.hosvd(torch.zeros(3, 3, 3), (1, 2)), r"needs 3 entries .* got \(1, 2\)"),
        (
            lambda: tl.Tucker.randn((3, 3), 2).round((1, 2, 3)),
            r"needs 2 entries .* got \(1, 2, 3\)",
        ),
        (
            lambda: tl.Tucker(
                torch.ones(2, 2), [torch.full((3, 2), math.nan), torch.ones(3, 2)]
            ).round(1),
            r"got nan at index \(0, 0\)",
        ),
        (lambda: tl.Tucker.randn((3, -1), 2), r"got \(3, -1\)"),
    ],
    ids=["modes", "ranks", "max_iter", "count", "round", "nan", "shape"],
)
def test_refuses_bad_input(make, said):
    with pytest.raises(ValueError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)
