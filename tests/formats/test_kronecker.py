"""Kronecker: torch.kron, tensorly, NumPy's SVD of the rearranged matrix; best for two factors,
orthogonal terms for more."""

import functools
import math

import numpy as np
import pytest
import tensorly
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import RTOLS, gradcheck, relative_error

import tensorlab as tl

F64 = dict(dtype=torch.float64)


def kron(w):
    """The matrix as a sum of products by `torch.kron`."""
    return sum(functools.reduce(torch.kron, [f[k] for f in w.factors]) for k in range(w.ranks[0]))


def rearranged(w, left, right):
    """[VanLoanPitsianis1993] block by block, in NumPy."""
    rows = []
    for i in range(left[0]):
        for j in range(left[1]):
            rows.append(
                w[i * right[0] : (i + 1) * right[0], j * right[1] : (j + 1) * right[1]].reshape(-1)
            )
    return np.stack(rows)


# -- reduces to


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(
    "shape, rank, factors", [((6, 8), 2, 2), ((12, 20), 1, 2), ((8, 27), 3, 3), ((16, 81), 2, 4)]
)
def test_it_is_the_kronecker_product_of_torch_and_tensorly(shape, rank, factors, dtype, generator):
    w = tl.Kronecker.randn(shape, rank, factors=factors, generator=generator, dtype=dtype)
    assert torch.allclose(w.to_dense(), kron(w))
    theirs = sum(tensorly.tenalg.kronecker([f[k].numpy() for f in w.factors]) for k in range(rank))
    assert np.allclose(w.to_dense().numpy(), theirs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128, torch.float32])
@pytest.mark.parametrize(
    "shape, rank, d",
    [((6, 8), 2, 2), ((7, 11), 3, 2), ((11, 19), 2, 3), ((30, 17), 3, 4), ((1, 5), 1, 2)],
)
def test_apply_is_a_product_with_the_dense_matrix(shape, rank, d, dtype, generator):
    w = tl.Kronecker.randn(shape, rank, factors=d, generator=generator, dtype=dtype)
    for batch in ((), (3,), (2, 3), (0,)):
        x = tl.rng.randn(*batch, shape[1], generator=generator, dtype=dtype)
        y = w.apply(x)
        assert y.shape == (*batch, shape[0]) and y.dtype == dtype
        assert torch.allclose(
            y, x @ w.to_dense().mT, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=1e-5
        )


@pytest.mark.parametrize("left", [(2, 3), (6, 1), (1, 10), (12, 30), (1, 1), (4, 5)])
@pytest.mark.parametrize("rank", [1, 3])
def test_kron_svd_is_numpys_svd_of_the_rearranged_matrix(left, rank, generator):
    w = torch.randn(12, 30, generator=generator, **F64)
    right = (12 // left[0], 30 // left[1])
    r = rearranged(w.numpy(), left, right)
    assert np.array_equal(tl.kron_rearrange(w, left).numpy(), r)
    s = np.linalg.svd(r, compute_uv=False)
    found = tl.kron_svd(w, left, rank)
    assert found.out == (left[0], right[0]) and found.in_ == (left[1], right[1])
    assert float((found.to_dense() - w).norm()) == pytest.approx(
        np.linalg.norm(s[rank:]), rel=1e-10, abs=1e-12
    )


def test_a_left_factor_of_one_column_height_is_the_ordinary_svd(generator):
    w = torch.randn(12, 30, generator=generator, **F64)
    low = tl.LowRank.from_dense(w, 3)
    found = tl.kron_svd(w, (12, 1), 3)  # column times row
    assert torch.allclose(found.to_dense(), low.to_dense(), atol=1e-13) and found.numel == low.numel


@pytest.mark.parametrize(
    "shape, factors", [((16, 16), 2), ((7, 11), 2), ((8, 27), 3), ((11, 10), 3), ((16, 16), 4)]
)
def test_all_terms_are_any_matrix(shape, factors, generator):
    w = torch.randn(shape, generator=generator, **F64)
    for made in (
        tl.Kronecker.from_dense(w, 10**6, factors=factors),
        tl.Kronecker.from_dense(w, rtol=0.0, factors=factors),
    ):
        assert relative_error(made.to_dense(), w) < 1e-13


# -- best, and exactly known


def test_no_change_of_the_factors_lowers_the_error(generator):
    w = torch.randn(12, 20, generator=generator, **F64)
    best = tl.kron_svd(w, (4, 5), 2)
    leaves = [t.clone().requires_grad_() for t in best.tensors()]
    for g in torch.autograd.grad((best.with_tensors(leaves).to_dense() - w).square().sum(), leaves):
        assert float(g.norm()) < 1e-12 * float(w.norm())
    for size in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(20):
            near = best.with_tensors(
                t + size * torch.randn(t.shape, generator=generator, **F64) for t in best.tensors()
            )
            assert relative_error(near.to_dense(), w) >= relative_error(best.to_dense(), w)


def test_the_terms_of_three_factors_are_orthogonal_and_the_largest_are_kept(generator):
    w = torch.randn(8, 27, generator=generator, **F64)
    whole = tl.Kronecker.from_dense(w, rtol=0.0, factors=3)
    terms = torch.stack(
        [
            kron(whole.with_tensors(f[k : k + 1] for f in whole.factors)).reshape(-1)
            for k in range(whole.ranks[0])
        ]
    )
    gram = terms @ terms.T
    norms = gram.diagonal().sqrt()
    assert torch.allclose(gram, torch.diag(gram.diagonal()), atol=1e-12) and torch.equal(
        norms, norms.sort(descending=True)[0]
    )
    for rank in (1, 5, 12):
        cut = tl.Kronecker.from_dense(w, rank, factors=3)
        assert float((cut.to_dense() - w).norm()) == pytest.approx(
            float(norms[rank:].norm()), rel=1e-12
        )


def test_one_product_of_three_factors_is_found(generator):
    w = tl.Kronecker.randn((8, 27), 1, factors=3, generator=generator, **F64)
    found = tl.Kronecker.from_dense(w.to_dense(), rtol=1e-12, factors=3)
    assert found.ranks == (1,) and relative_error(found.to_dense(), w.to_dense()) < 1e-14


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    m=st.integers(1, 16),
    n=st.integers(1, 16),
    factors=st.integers(2, 3),
    rtol=st.sampled_from(RTOLS),
    seed=st.integers(0, 5),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.complex128]),
)
def test_from_dense_keeps_its_bound(m, n, factors, rtol, seed, dtype):
    w = tl.rng.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    x = tl.Kronecker.from_dense(w, rtol=rtol, factors=factors)
    assert x.shape == (m, n) and x.dtype == dtype
    assert (
        relative_error(x.to(tl.linalg.wide(dtype)).to_dense(), w)
        <= rtol + 64 * torch.finfo(dtype).eps
    )
    for scale in (2.0**-60, 2.0**60):
        assert tl.Kronecker.from_dense(w * scale, rtol=rtol, factors=factors).ranks == x.ranks


def test_rounding_does_not_form_w_and_is_the_best(generator):
    a = tl.Kronecker.randn((4096, 4096), 3, generator=generator, **F64)  # 128 MiB if it were formed
    total = a + 2 * a
    assert total.ranks == (6,) and total.round(rtol=1e-12).ranks == (3,)
    small = tl.Kronecker.randn((12, 20), 6, generator=generator, **F64)
    best = tl.kron_svd(small.to_dense(), (small.out[0], small.in_[0]), 2)
    assert torch.allclose(small.round(2).to_dense(), best.to_dense(), atol=1e-12)


def test_rounding_three_factors_never_has_more_terms(generator):
    w = tl.Kronecker.randn((8, 27), 3, factors=3, generator=generator, **F64)
    assert w.round(rtol=1e-10) is w and w.round(2).ranks == (2,)
    assert (3 * tl.Kronecker.randn((8, 27), 1, factors=3, generator=generator, **F64)).round(
        rtol=0.5
    ).ranks == (1,)


def test_norm_and_dot_do_not_form_w(generator):
    a, b = (
        tl.Kronecker.randn((10**6, 10**6), 3, factors=3, generator=generator, **F64)
        for _ in range(2)
    )  # 8 TB each
    assert float(a.dot(a)) == pytest.approx(float(a.norm()) ** 2, rel=1e-12)
    assert float((a + b).norm()) ** 2 == pytest.approx(
        float(a.norm()) ** 2 + float(b.norm()) ** 2 + 2 * float(a.dot(b)), rel=1e-12
    )


# -- by hand


def test_by_hand():
    a, b = torch.tensor([[1.0, 2.0]], **F64), torch.tensor([[3.0], [4.0]], **F64)
    w = tl.Kronecker((a[None], b[None]))
    assert w.to_dense().tolist() == [[3, 6], [4, 8]] and w.numel == 4
    assert w.apply(torch.tensor([1.0, 10.0], **F64)).tolist() == [63, 84]
    assert w.at([[1, 0], [-1, -1]]).tolist() == [4, 8]


def test_counts_by_hand():
    w = tl.Kronecker.randn((64, 64), 1)
    assert w.numel == 128 and w.flops(10) == 10 * 2 * 2 * 8**3  # 2 d numbers, 2 d^1.5 multiply-adds
    padded = tl.Kronecker.randn((60, 97), 2, out=(8, 8), in_=(10, 10))
    assert (
        padded.padded_shape == (64, 100) and padded.shape == (60, 97) and padded.numel == 2 * 2 * 80
    )
    assert math.isclose(padded.compression, 60 * 97 / 320)


def test_flops_are_those_of_apply():
    from torch.utils.flop_counter import FlopCounterMode

    for w in (
        tl.Kronecker.randn((12, 20), 3),
        tl.Kronecker.randn((8, 27), 2, factors=3),
        tl.BlockTT.randn((12, 20), 2),
        tl.BlockTT.randn((11, 19), 2, cores=3),
        tl.Monarch.randn((16, 16), 2),
    ):
        with FlopCounterMode(display=False) as counter:
            w.apply(torch.randn(7, w.shape[1]))
        assert counter.get_total_flops() == w.flops(7)


# -- gradients


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients_are_right(dtype, generator):
    for factors in (2, 3):
        w = tl.Kronecker.randn((5, 7), 2, factors=factors, generator=generator, dtype=dtype)
        x = tl.rng.randn(3, 7, generator=generator, dtype=dtype).requires_grad_()
        leaves = [t.clone().requires_grad_() for t in w.tensors()]
        assert gradcheck(lambda x, *ts, w=w: w.with_tensors(ts).apply(x), (x, *leaves))
    w = tl.rng.randn(6, 6, generator=generator, dtype=dtype).requires_grad_()
    assert gradcheck(
        lambda w: tl.kron_svd(w, (2, 3), 2).to_dense().abs().square().sin().sum(), (w,)
    )


# -- errors


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: tl.Kronecker((torch.zeros(1, 2, 2),)), ValueError, r"got shapes \[\(1, 2, 2\)\]"),
        (
            lambda: tl.Kronecker((torch.zeros(1, 2, 2), torch.zeros(2, 2, 2))),
            ValueError,
            r"\(1, 2, 2\), \(2, 2, 2\)",
        ),
        (
            lambda: tl.Kronecker((torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)), (5, 2)),
            ValueError,
            r"\(5, 2\), got \(4, 4\)",
        ),
        (lambda: tl.kron_svd(torch.zeros(4, 4), (2, 2)), ValueError, "got neither"),
        (lambda: tl.kron_svd(torch.zeros(4, 4), (2, 2), 1.5), TypeError, "got 1.5"),
        (lambda: tl.kron_svd(torch.zeros(4, 4), (2, 2, 2), 1), ValueError, r"got \(2, 2, 2\)"),
        (lambda: tl.kron_svd(torch.zeros(4, 4), (0, 2), 1), ValueError, r"got \(0, 2\)"),
        (lambda: tl.kron_svd(torch.zeros(4), (2, 2), 1), ValueError, r"got shape \(4,\)"),
        (lambda: tl.kron_svd(torch.zeros(4, 4, dtype=torch.int32), (2, 2), 1), TypeError, "int32"),
        (lambda: tl.kron_svd(torch.full((2, 2), math.inf), (2, 1), 1), ValueError, "inf at index"),
        (
            lambda: tl.Kronecker.from_dense(torch.zeros(4, 4), 1, factors=1),
            ValueError,
            "the number of factors must be an integer >= 2, got 1",
        ),
        (
            lambda: tl.Kronecker.randn((4, 6), 1).apply(torch.zeros(3, 4)),
            ValueError,
            r"\(\.\.\., 6\), got \(3, 4\)",
        ),
        (
            lambda: (
                tl.Kronecker.randn((4, 6), 1)
                + tl.Kronecker.randn((4, 6), 1, out=(4, 1), in_=(3, 2))
            ),
            ValueError,
            r"got \(4, 1\) x",
        ),
    ],
)
def test_refuses_bad_input(make, error, said):
    with pytest.raises(error, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)
