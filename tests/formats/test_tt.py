"""Tensor trains: against textbook TT-SVD in NumPy, tntorch, and the bounds that the docstrings
state."""

import math

import numpy as np
import pytest
import tntorch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
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
from tensorlab.formats.tt import unfolding_ranks
from tensorlab.linalg import EPS

DTYPES = [
    torch.float64,
    torch.float32,
    torch.complex128,
    torch.complex64,
    torch.float16,
    torch.bfloat16,
]


def textbook(x, rtol):
    """[Oseledets2011, Alg. 1] with full SVDs in NumPy: its ranks."""
    x = x.numpy()
    delta, ranks, rest, r = rtol * np.linalg.norm(x) / math.sqrt(x.ndim - 1), [], x, 1
    for n in x.shape[:-1]:
        u, s, vh = np.linalg.svd(rest.reshape(r * n, -1), full_matrices=False)
        tails = np.sqrt(np.cumsum(s[::-1] ** 2))[::-1]
        r = max(1, int((tails > delta).sum()))
        ranks.append(r)
        rest = s[:r, None] * vh[:r]
    return tuple(ranks)


# -- reduces to


@pytest.mark.parametrize("shape", [(9, 8), (5, 6, 7), (4, 3, 5, 4), (2, 3, 4, 3, 2)])
@pytest.mark.parametrize("rtol", [1e-10, 1e-5, 1e-2, 0.3])
def test_ranks_are_those_of_the_textbook(shape, rtol):
    for x in (smooth(shape), tensor("full", shape), noisy_train(shape, 2, 1e-4)):
        assert tl.tt_svd(x, rtol=rtol).ranks == textbook(x, rtol)
        assert within(tl.tt_svd(x, rtol=rtol), x, rtol)


def test_two_modes_give_the_svd(generator):
    x = torch.randn(30, 20, generator=generator, dtype=torch.float64)
    s = torch.linalg.svdvals(x)
    for r in (1, 5, 20):
        assert relative_error(tl.tt_svd(x, r).to_dense(), x) == pytest.approx(
            float(s[r:].norm() / s.norm()), abs=1e-14
        )


def test_long_modes_go_the_sketched_way_and_stay_certain():
    x = noisy_train((64, 24, 24, 64), 12, 1e-6)
    for rtol in (1e-3, 1e-5, 2e-6):
        tt = tl.tt_svd(x, rtol=rtol)
        assert within(tt, x, rtol) and tt.ranks == (12, 12, 12)


def test_rounding_agrees_with_tntorch(generator):
    a, b = (
        tl.TT.randn((6, 7, 8, 5), 4, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    theirs = tl.to_tntorch(a + b)
    theirs.round_tt(eps=0.4)
    ours = tl.tt_round(a + b, rtol=0.4)
    dense = (a + b).to_dense()
    assert (
        relative_error(ours.to_dense(), dense) <= 0.4
        and relative_error(theirs.torch(), dense) <= 0.4
    )
    assert sum(ours.ranks) <= int(theirs.ranks_tt.sum()) - 2 + 1


def test_arithmetic_agrees_with_tntorch(generator):
    a, b = (tl.TT.randn((6, 7, 8), 3, generator=generator, dtype=torch.float64) for _ in range(2))
    ta, tb = tl.to_tntorch(a), tl.to_tntorch(b)
    assert float(a.dot(b)) == pytest.approx(float(tntorch.dot(ta, tb)), rel=1e-12)
    assert float(a.norm()) == pytest.approx(float(tntorch.norm(ta)), rel=1e-12)
    assert torch.allclose((a * b).to_dense(), (ta * tb).torch(), rtol=1e-12)


# -- bounds


@pytest.mark.thorough
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    shape=shapes,
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(DTYPES),
    rtol=st.sampled_from(RTOLS),
)
def test_tt_svd_keeps_its_bound(shape, kind, dtype, rtol):
    x = tensor(kind, shape, dtype)
    tt = tl.tt_svd(x, rtol=rtol)
    assert tt.shape == x.shape and tt.dtype == x.dtype
    assert within(tt, x, rtol)
    assert all(
        type(r) is int and 1 <= r <= most
        for r, most in zip(tt.ranks, unfolding_ranks(x.shape), strict=True)
    )
    if kind == "rank 2":
        assert max(tt.ranks, default=1) <= 2  # at rtol=0.0 too, and in half precision


@pytest.mark.thorough
@settings(max_examples=60, deadline=None, derandomize=True)
@given(shape=shapes, kind=st.sampled_from(KINDS), rtol=st.sampled_from(RTOLS))
def test_ranks_do_not_see_the_scale(shape, kind, rtol):
    x = tensor(kind, shape)
    ranks = tl.tt_svd(x, rtol=rtol).ranks
    for exponent in (-498, -50, 50, 498):  # about 1e-150, 1e-15, 1e15, 1e150
        y = x * math.ldexp(1.0, exponent)
        tt = tl.tt_svd(y, rtol=rtol)
        assert tt.ranks == ranks and within(
            tl.TT((tt.cores[0] * math.ldexp(1.0, -exponent), *tt.cores[1:])), x, rtol
        )


@pytest.mark.parametrize("scale", [1e-150, 1e-15, 1e15, 1e150])
@pytest.mark.parametrize("rtol", [0.0, 1e-8, 1e-3, 0.5])
def test_ranks_do_not_see_a_decimal_scale(scale, rtol):
    x = noisy_train((6, 7, 5, 4), 3, 1e-5)
    for algorithm in (tl.tt_svd, tl.st_hosvd, tl.hosvd):
        assert algorithm(x * scale, rtol=rtol).ranks == algorithm(x, rtol=rtol).ranks
    tt = tl.tt_svd(x, rtol=0.0)
    assert tl.tt_round(tt * scale, rtol=rtol).ranks == tl.tt_round(tt, rtol=rtol).ranks


@pytest.mark.thorough
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    shape=shapes, rtol=st.sampled_from(RTOLS), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 9)
)
def test_rounding_keeps_its_bound(shape, rtol, dtype, seed):
    g = torch.Generator().manual_seed(seed)
    a, b = (tl.TT.randn(shape, 3, generator=g, dtype=dtype) for _ in range(2))
    total = a + 2 * a + b
    rounded = tl.tt_round(total, rtol=rtol)
    wide = tl.linalg.wide(dtype)
    dense = total.to(wide).to_dense()
    assert rounded.dtype == dtype
    assert relative_error(rounded.to(wide).to_dense(), dense) <= rtol + 64 * torch.finfo(dtype).eps
    assert all(r <= p + q for r, p, q in zip(rounded.ranks, a.ranks, b.ranks, strict=True))


def test_exact_ranks():
    i = torch.arange(5, dtype=torch.float64)
    s = i[:, None, None, None] + i[:, None, None] + i[:, None] + i
    assert tl.tt_svd(s, rtol=0.0).ranks == (2, 2, 2)  # a sum of coordinates
    assert tl.tt_svd(s.sin(), rtol=0.0).ranks == (2, 2, 2)
    assert tl.tt_svd(s.exp(), rtol=0.0).ranks == (1, 1, 1)
    assert tl.tt_svd(torch.ones(2, 3, 4), rtol=0.0).ranks == (1, 1)


@pytest.mark.parametrize("algorithm", [tl.tt_svd, tl.st_hosvd, tl.hosvd], ids=lambda f: f.__name__)
def test_views(algorithm, generator):
    z = torch.randn(4, 6, 5, generator=generator, dtype=torch.complex128)
    expanded = z[:, :1].expand(-1, 3, -1)
    for x in (
        z[::2, 1::3],
        z.real,
        z.imag,
        z.conj(),
        z.conj().imag,
        z.flip(1),
        expanded,
        z.permute(2, 0, 1),
        z[0].mH,
    ):
        before = x.clone()
        assert relative_error(algorithm(x, rtol=0.0).to_dense(), x) < 1e-14 and torch.equal(
            x, before
        )


def test_rank_and_rtol_together():
    x = smooth((8, 8, 8, 8))
    free = tl.tt_svd(x, rtol=1e-8).ranks
    assert tl.tt_svd(x, 3, rtol=1e-8).ranks == (3, 3, 3)
    assert tl.tt_svd(x, 99, rtol=1e-8).ranks == free
    assert (
        tl.tt_svd(x, (1, 2, 3), rtol=0.0).ranks
        == (1, 2, 3)
        == tl.tt_round(tl.tt_svd(x, rtol=1e-8), (1, 2, 3)).ranks
    )


@pytest.mark.thorough
def test_rounding_a_long_train(generator):
    x = tl.TT.randn((4,) * 1000, 3, generator=generator, dtype=torch.float64)
    y = tl.tt_round(1e3 * (x + x), rtol=1e-8)
    assert max(y.ranks) == 3 and all(torch.isfinite(c).all() for c in y.cores)
    index = torch.randint(0, 4, (5, 1000), generator=generator)
    assert torch.allclose(y.at(index), 2e3 * x.at(index), rtol=1e-6)


def test_a_half_precision_norm_that_does_not_fit_is_shared_out():
    x = torch.full((9, 9, 9, 9), 6e4, dtype=torch.float16)  # |x| is 4.9e6, float16 ends at 65504
    tt = tl.tt_svd(x, rtol=0.0)
    assert all(torch.isfinite(c).all() for c in tt.cores) and within(tt, x, 0.0)


# -- by hand


def test_by_hand():
    # x[i, j, k] = i + j + k, rank 2: G_0 = [i 1], G_1 = [[1 0], [j 1]], G_2 = [1; k]
    i = torch.arange(3, dtype=torch.float64)
    one, zero = torch.ones(3).double(), torch.zeros(3).double()
    first = torch.stack([i, one], -1)[None]
    middle = torch.stack([torch.stack([one, zero], -1), torch.stack([i, one], -1)])
    last = torch.stack([one, i])[..., None]
    tt = tl.TT((first, middle, last))
    assert torch.equal(tt.to_dense(), i[:, None, None] + i[:, None] + i)
    assert tt.at([[2, 1, 0], [2, 2, 2]]).tolist() == [3, 6] and tt.numel == 6 + 12 + 6


def test_orthogonal(generator):
    x = tl.TT.randn((4, 5, 6, 3), 3, generator=generator, dtype=torch.complex128)
    for center in range(4):
        y = x.orthogonal(center)
        for k, c in enumerate(y.cores):
            m = c.flatten(0, 1) if k < center else c.flatten(1).mH
            if k != center:
                assert torch.allclose(m.mH @ m, torch.eye(m.shape[1], dtype=m.dtype), atol=1e-13)
        assert float(y.cores[center].norm()) == pytest.approx(float(x.norm()), rel=1e-12)
        assert relative_error(y.to_dense(), x.to_dense()) < 1e-13


# -- gradients


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(
    "make",
    [
        lambda x: tl.tt_svd(x, 2),
        lambda x: tl.tt_svd(x, rtol=0.0),
        lambda x: tl.st_hosvd(x, 2),
        lambda x: tl.hosvd(x, 2),
        lambda x: tl.tt_round(tl.tt_svd(x, rtol=0.0) + tl.tt_svd(x, 1), 2),
    ],
    ids=["tt_svd rank 2", "tt_svd exact", "st_hosvd", "hosvd", "tt_round"],
)
def test_gradients_are_right(make, dtype, generator):
    x = torch.randn(3, 4, 2, 3, generator=generator, dtype=dtype).requires_grad_()
    assert gradcheck(lambda x: make(x).to_dense().abs().square().sin().sum(), (x,))


@pytest.mark.parametrize("algorithm", [tl.tt_svd, tl.st_hosvd, tl.hosvd], ids=lambda f: f.__name__)
def test_gradient_of_equal_singular_values(algorithm):
    x = torch.eye(6, dtype=torch.float64).reshape(2, 3, 3, 2).requires_grad_()
    algorithm(x, rtol=0.0).to_dense().sin().sum().backward()
    assert torch.allclose(
        x.grad, x.detach().cos(), atol=1e-14
    )  # at full rank the train is x itself


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradient_of_a_cut_within_a_slab_of_equal_singular_values(dtype, generator):
    u, v = (
        torch.linalg.qr(tl.rng.randn(n, 2, generator=generator, dtype=dtype)).Q for n in (12, 4)
    )
    x = (u @ v.mH).reshape(
        12, 2, 2
    )  # its two values are equal where the slab of the last two modes is taken off
    for y, rank in ((x, (2, 1)), (x.permute(2, 1, 0), (1, 2))):
        f = lambda y, rank=rank: tl.tt_svd(y, rank).to_dense().abs().square().sin().sum()
        assert gradcheck(f, (y.contiguous().requires_grad_(),))


@pytest.mark.parametrize(
    ("value", "n", "d", "norm"),
    [
        (1e100, 2, 4, math.inf),
        (1e-100, 2, 4, 0.0),
        (1.2e308, 1, 1, 1.2e308),
        (1.2e154, 1, 2, 1.44e308),
        (1e-160, 1, 2, 1e-320),
    ],
)
def test_norm_at_the_ends_of_float64(value, n, d, norm):
    x = tl.TT([torch.full((1, n, 1), value, dtype=torch.float64)] * d)
    assert float(x.norm()) == pytest.approx(norm, rel=1e-3)


def test_gradient_through_redundant_bonds(generator):
    cores = [
        torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_()
        for s in ((1, 3, 2), (2, 4, 2), (2, 3, 1))
    ]

    def f(*cores):
        tt = tl.TT(cores)
        return tl.tt_round(tt + tt * 2, 2).to_dense().sin().sum()

    assert gradcheck(f, cores)


# -- errors


@pytest.mark.parametrize("algorithm", [tl.tt_svd, tl.st_hosvd, tl.hosvd], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (dict(), ValueError, "got neither"),
        (
            dict(rank=(3,) * 9),
            ValueError,
            r"4-way tensor of shape \(4, 5, 6, 7\), got \(3, 3, 3, 3, 3, 3, 3, 3, 3\)",
        ),
        (dict(rank=0), ValueError, "at least 1, got 0"),
        (dict(rank=-2), ValueError, "got -2"),
        (dict(rank=2.0), TypeError, "got 2.0"),
        (dict(rank=True), TypeError, "got True"),
        (dict(rank=(2, 2.5, 2, 2)), TypeError, "2.5"),
        (dict(rank="2"), TypeError, "got '2'"),
        (dict(rtol=-0.1), ValueError, "got -0.1"),
        (dict(rtol=math.nan), ValueError, "got nan"),
        (dict(rtol="small"), ValueError, "got 'small'"),
        (dict(rtol=math.inf), ValueError, "got inf"),
    ],
    ids=str,
)
def test_refuses_arguments(algorithm, arguments, error, said):
    with pytest.raises(error, match=said) as caught:
        algorithm(torch.zeros(4, 5, 6, 7), **arguments)
    assert str(caught.value).startswith(f"{algorithm.__name__}: ") and "\n" not in str(caught.value)


def test_refuses_a_wrong_rank_count():
    with pytest.raises(ValueError) as caught:
        tl.tt_svd(torch.zeros(4, 5, 6, 7), (3, 3))
    assert (
        str(caught.value)
        == "tt_svd: rank needs 3 entries for a 4-way tensor of shape (4, 5, 6, 7), got (3, 3)"
    )


@pytest.mark.parametrize(
    "algorithm",
    [
        lambda x: tl.tt_svd(x, 2),
        lambda x: tl.st_hosvd(x, 2),
        lambda x: tl.hosvd(x, 2),
        lambda x: tl.hooi(x, 2),
        lambda x: tl.cp_als(x, 2),
        lambda x: tl.cp_nls(x, 2),
        lambda x: tl.LowRank.from_dense(x, 2),
    ],
    ids=["tt_svd", "st_hosvd", "hosvd", "hooi", "cp_als", "cp_nls", "from_dense"],
)
@pytest.mark.parametrize(
    ("x", "error", "said"),
    [
        (torch.zeros(4, 5, dtype=torch.int64), TypeError, "got torch.int64"),
        (torch.zeros(0, 5), ValueError, r"\(0, 5\)"),
        (torch.tensor(1.0), ValueError, r"shape \(\)"),
        ([[1.0]], TypeError, "got list"),
        (torch.ones(3, 3, dtype=torch.bool), TypeError, "got torch.bool"),
        (torch.eye(3).to_sparse(), TypeError, "sparse_coo"),
        (torch.tensor([[1.0, 2.0], [math.nan, 1.0]]), ValueError, r"got nan at index \(1, 0\)"),
        (
            torch.tensor([[1.0, math.inf], [3.0, 1.0]], dtype=torch.float64),
            ValueError,
            r"got inf at index \(0, 1\)",
        ),
        (
            torch.tensor([[1.0, -math.inf]], dtype=torch.bfloat16),
            ValueError,
            r"got -inf at index \(0, 1\)",
        ),
        (torch.tensor([[1.0, complex(0, math.nan)]]), ValueError, r"nanj?\)? at index \(0, 1\)"),
    ],
    ids=[
        "integers",
        "empty",
        "0-way",
        "list",
        "booleans",
        "sparse",
        "nan",
        "inf",
        "half inf",
        "complex nan",
    ],
)
def test_refuses_tensors(algorithm, x, error, said):
    with pytest.raises(error, match=said) as caught:
        algorithm(x)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: tl.TT(()), ValueError, r"got shapes \[\]"),
        (
            lambda: tl.TT([torch.zeros(1, 3, 2), torch.zeros(3, 3, 1)]),
            ValueError,
            r"\(1, 3, 2\), \(3, 3, 1\)",
        ),
        (lambda: tl.TT([torch.zeros(1, 3, 2)]), ValueError, r"\(1, 3, 2\)"),
        (lambda: tl.TT([torch.zeros(3, 2)]), ValueError, r"\(3, 2\)"),
        (
            lambda: tl.TT(torch.zeros(1, 1, 3, 1)),
            TypeError,
            "a tuple of tensors as cores, got Tensor",
        ),
        (lambda: tl.TT.randn((3, 0), 2), ValueError, r"got \(3, 0\)"),
        (lambda: tl.TT.randn((3, 2.0), 2), ValueError, r"\(3, 2.0\)"),
        (lambda: tl.TT.randn((), 2), ValueError, r"got \(\)"),
        (lambda: tl.TT.randn((3, 3, 3), (2,)), ValueError, r"2 entries .*got \(2,\)"),
        (lambda: tl.tt_round(tl.TT.randn((3, 3, 3), 2)), ValueError, "got neither"),
        (
            lambda: tl.tt_round(tl.TT.randn((3, 3, 3), 2), (1, 2, 3)),
            ValueError,
            r"2 entries .*got \(1, 2, 3\)",
        ),
        (lambda: tl.tt_round(tl.TT.randn((3, 3, 3), 2), rtol=-1), ValueError, "got -1"),
        (lambda: tl.TT([torch.zeros(1, 3, 1, dtype=torch.int32)]), TypeError, "int32"),
        (lambda: tl.tt_round(torch.zeros(3), 2), TypeError, "got Tensor"),
        (lambda: tl.TT([torch.full((1, 3, 1), math.nan)]).round(1), ValueError, "nan"),
        (lambda: tl.TT.randn((3, 3), 2).orthogonal(2), ValueError, "0..1, got 2"),
        (lambda: tl.TT.randn((3, 3), 2.0), TypeError, "got 2.0"),
    ],
)
def test_refuses_trains(make, error, said):
    with pytest.raises(error, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_few_entries_of_long_modes(generator):
    """Slices are gathered, not cut out value by value, which took minutes."""
    x = tl.TT.randn((10**6,) * 3, 2, generator=generator, dtype=torch.float64)
    index = torch.tensor([[0, 999_999, 5], [-1, 3, 10**6 - 1]])
    a, b, c = (core[:, i].transpose(0, 1) for core, i in zip(x.cores, index.mT))
    assert torch.allclose(x.at(index), (a @ b @ c).flatten(), rtol=1e-12)


def by_orthogonalization(x):
    *_, center = x.orthogonal(x.ndim - 1).cores
    return float(torch.linalg.vector_norm(center))


@pytest.mark.parametrize("small", [1e-3, 1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize("where", ["difference", "bond", "scale"])
def test_a_norm_that_squares_would_spoil(generator, small, where):
    x = tl.TT.randn((20,) * 5, 6, generator=generator, dtype=torch.float64)
    if where == "difference":
        y = tl.TT.randn((20,) * 5, 6, generator=generator, dtype=torch.float64)
        x, size = (x + small * y) - x, small * float(y.norm())
        tolerance = 64 * 12 * EPS / small  # what x + small y itself has lost
    elif where == "bond":  # all that is large at a bond is zero from there on
        keep = torch.tensor([1.0, small], dtype=torch.float64)
        first, second = torch.eye(20, 2).double() * keep, torch.eye(20).double()[:2] * 0
        second[1, 7] = 1.0
        x, size = tl.TT((first[None], second[:, :, None])), small
        tolerance = 8 * EPS
    else:
        x, size = small**30 * x, small**30 * by_orthogonalization(x)
        tolerance = 64 * 12 * EPS
    assert math.isclose(float(x.norm()), size, rel_tol=tolerance)


def test_a_norm_by_squares_is_left_to_orthogonalization_where_it_is_differentiated(generator):
    x = tl.TT.randn((5,) * 4, 2, generator=generator, dtype=torch.float64)
    cores = [core.clone().requires_grad_() for core in x.cores]
    size = tl.TT(cores).norm()
    size.backward()
    a = [
        float((core.detach() * core.grad).sum()) for core in cores
    ]  # <G, d|x| / dG> = |x| for each core
    assert all(math.isclose(v, float(size), rel_tol=1e-12) for v in a)
