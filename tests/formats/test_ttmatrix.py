"""TT-matrices: against the dense product, the SVD, Kronecker products and torchTT; padding; the
start of a layer."""

import math

import pytest
import torch
from tensors import relative_error, within

import tensorlab as tl

SHAPES = [
    ((4, 5), (3, 2), None),
    ((2, 3, 4), (3, 1, 2), None),
    ((2, 2, 2, 2), (2, 3, 2, 2), None),
    ((6,), (5,), None),
    ((4, 5), (3, 2), (17, 5)),
    ((2, 3, 4), (3, 1, 2), (24, 5)),
    ((2, 2, 2, 2), (2, 3, 2, 2), (9, 24)),
]


def make(out, in_, size=None, rank=3, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    return tl.TTMatrix.randn(out=out, in_=in_, rank=rank, shape=size, generator=g, dtype=dtype)


def matrix(m, n, dtype=torch.float64, seed=0):
    return tl.rng.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# -- reduces to


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("out", "in_", "size"), SHAPES)
def test_apply_is_the_dense_product(out, in_, size, dtype):
    w = make(out, in_, size, dtype=dtype)
    x = matrix(6, w.shape[1], dtype).reshape(2, 3, -1)
    assert w.apply(x).shape == (2, 3, w.shape[0])
    assert relative_error(w.apply(x), x @ w.to_dense().mT) < 1e-14
    assert relative_error(w.apply(x[0, 0]), w.to_dense() @ x[0, 0]) < 1e-14


@pytest.mark.parametrize(("out", "in_", "size"), SHAPES)
def test_full_rank_holds_any_matrix(out, in_, size):
    w = matrix(*(size or (math.prod(out), math.prod(in_))))
    t = tl.tt_matrix_svd(w, out, in_, rtol=0.0)
    assert relative_error(t.to_dense(), w) < 1e-14 and t.shape == w.shape
    assert t.numel == sum(c.numel() for c in t.cores) and t.padded_shape == (
        math.prod(out),
        math.prod(in_),
    )
    assert relative_error(tl.TTMatrix.from_dense(w, 10**6, out=out, in_=in_).to_dense(), w) < 1e-14


@pytest.mark.parametrize("rtol", [0.01, 0.3, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_tt_matrix_svd_keeps_its_bound(rtol, dtype):
    for size in ((24, 20), (23, 17)):
        w = matrix(*size, dtype)
        t = tl.tt_matrix_svd(w, (2, 3, 4), (5, 2, 2), rtol=rtol)
        assert within(t, w, rtol) and t.dtype == dtype
        rounded = tl.tt_matrix_svd(w, (2, 3, 4), (5, 2, 2), rtol=0.0).round(rtol=rtol)
        assert within(rounded, w, rtol + 1e-6) and rounded.shape == size


def test_rank_one_is_a_kronecker_product():
    a, b = matrix(3, 4, seed=1), matrix(5, 2, seed=2)
    t = tl.tt_matrix_svd(torch.kron(a, b), (3, 5), (4, 2), rtol=1e-12)
    assert t.ranks == (1,) and t.numel == 12 + 10
    assert (
        relative_error(
            tl.TTMatrix((a[None, ..., None], b[None, ..., None])).to_dense(), torch.kron(a, b)
        )
        < 1e-15
    )


def test_two_cores_are_the_svd_of_the_rearranged_matrix():
    w = matrix(12, 10)
    s = torch.linalg.svdvals(w.reshape(3, 4, 5, 2).permute(0, 2, 1, 3).reshape(15, 8))
    for r in (1, 4, 7):
        error = relative_error(tl.tt_matrix_svd(w, (3, 4), (5, 2), r).to_dense(), w)
        assert error == pytest.approx(float(s[r:].norm() / s.norm()), rel=1e-9)


def test_agrees_with_torchtt():
    torchtt = pytest.importorskip("torchtt", reason="needs the bench extra")
    w = make((4, 3, 2), (2, 3, 4))
    theirs = torchtt.TT([c.clone() for c in w.cores])
    assert theirs.is_ttm
    dense = theirs.full().reshape(w.shape)
    assert relative_error(w.to_dense(), dense) < 1e-14
    x = matrix(1, w.shape[1])
    assert relative_error(w.apply(x[0]), (theirs @ x[0].reshape(2, 3, 4)).reshape(-1)) < 1e-13


# -- padding


@pytest.mark.parametrize(("size", "most"), [((17, 5), 20 * 6), ((20, 5), 20 * 6), ((1, 1), 20 * 6)])
def test_padding_is_counted_and_never_seen(size, most):
    w = make((4, 5), (3, 2), size)
    whole = tl.TTMatrix(w.cores)
    m, n = size
    assert whole.to_dense().numel() == most and w.shape == size and w.padded_shape == (20, 6)
    assert torch.equal(w.to_dense(), whole.to_dense()[:m, :n]) and w.numel == whole.numel
    assert float(w.norm()) == pytest.approx(float(w.to_dense().norm()), rel=1e-13)
    other = make((4, 5), (3, 2), size, seed=1)
    assert float(w.dot(other)) == pytest.approx(
        float((w.to_dense() * other.to_dense()).sum()), rel=1e-12
    )
    zero = tl.TTMatrix(w.round(rtol=0.0).cores).to_dense()
    assert (
        float(zero[m:].abs().sum() + zero[:, n:].abs().sum()) < 1e-12
        and relative_error(zero[:m, :n], w.to_dense()) < 1e-13
    )


def test_size_without_padding_is_not_kept():
    assert tl.tt_matrix_svd(matrix(20, 6), (4, 5), (3, 2), 2).size is None
    assert make((4, 5), (3, 2), (20, 6)).size is None and make((4, 5), (3, 2), (20, 5)).size == (
        20,
        5,
    )


# -- the start of a layer


@pytest.mark.parametrize("rank", [2, 8, 64])
def test_output_has_the_size_that_a_dense_layer_gives(rank):
    """Root mean square over 64 seeds, entries of x of variance 1: that of nn.Linear is 1 /
    sqrt(3)."""
    g = torch.Generator().manual_seed(0)
    squares = []
    for _ in range(64):
        w = tl.TTMatrix.randn(out=(12, 16, 16), in_=(8, 8, 12), rank=rank, generator=g).initial()
        x = torch.randn(16, 768, generator=g)
        squares.append(float((tl.propagate(w, x)).square().mean()))
    assert math.sqrt(sum(squares) / 64) == pytest.approx(1 / math.sqrt(3), rel=0.05)


def test_entries_have_variance_one_with_padding_too():
    squares = [
        float(make((4, 5), (3, 2), (17, 5), seed=s).to_dense().square().mean()) for s in range(600)
    ]
    assert sum(squares) / 600 == pytest.approx(1, rel=0.1)


def test_learning_rates_by_hand():
    w = tl.TTMatrix.randn(out=(12, 16, 16), in_=(8, 8, 12), rank=4)
    assert w.lr_multipliers() == (768 / 8 / 3, 768 / 32 / 3, 768 / 48 / 3)
    assert tl.TTMatrix.randn(out=(5,), in_=(7,), rank=1).lr_multipliers() == (1.0,)


# -- by hand


def test_flops_by_hand():
    w = tl.TTMatrix.randn(out=(12, 16, 16), in_=(8, 8, 12), rank=2)
    # (24, 8) x 96 columns, then 12 x (32, 16) x 12 columns, then 192 x (16, 24)
    assert w.flops(5) == 2 * 5 * (24 * 8 * 96 + 12 * 32 * 16 * 12 + 192 * 16 * 24)


def test_the_order_of_the_indices_by_hand():
    # w[(o0 o1), (i0 i1)] = a[o0, i0] b[o1, i1]: row 3 = (1, 1), column 4 = (2, 0) of modes (2, 2) x
    # (3, 2)
    a, b = matrix(2, 3), matrix(2, 2, seed=3)
    w = tl.TTMatrix((a[None, ..., None], b[None, ..., None]))
    assert float(w.at([[3, 4]])) == float(w.to_dense()[3, 4]) == float(a[1, 2] * b[1, 0])


def test_shuffled_rows_raise_the_ranks():
    w = make((4, 4, 4), (2, 2, 2), rank=2).to_dense()
    shuffled = w[torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    assert tl.tt_matrix_svd(w, (4, 4, 4), (2, 2, 2), rtol=1e-10).ranks == (2, 2)
    assert tl.tt_matrix_svd(shuffled, (4, 4, 4), (2, 2, 2), rtol=1e-10).ranks == (8, 8)


# -- errors


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: tl.TTMatrix(()), ValueError, r"got shapes \[\]"),
        (
            lambda: tl.TTMatrix([torch.zeros(1, 2, 3, 2), torch.zeros(3, 2, 3, 1)]),
            ValueError,
            r"\(1, 2, 3, 2\), \(3, 2, 3, 1\)",
        ),
        (lambda: tl.TTMatrix([torch.zeros(1, 2, 3)]), ValueError, r"\(1, 2, 3\)"),
        (
            lambda: tl.TTMatrix([torch.zeros(1, 2, 3, 1)], (3, 3)),
            ValueError,
            r"shape \(3, 3\), got \(2, 3\)",
        ),
        (lambda: tl.TTMatrix([torch.zeros(1, 2, 3, 1)], (2,)), ValueError, r"shape \(2,\)"),
        (lambda: tl.TTMatrix([torch.zeros(1, 2, 3, 1)], (2, 0)), ValueError, r"got \(2, 0\)"),
        (
            lambda: tl.TTMatrix.randn(out=(2, 2), in_=(3,), rank=2),
            ValueError,
            r"got \(2, 2\) and \(3,\)",
        ),
        (lambda: tl.TTMatrix.randn(out=(2, 0), in_=(3, 3), rank=2), ValueError, r"got \(2, 0\)"),
        (lambda: tl.tt_matrix_svd(torch.ones(4, 6), (2, 2), (3, 2)), ValueError, "got neither"),
        (
            lambda: tl.tt_matrix_svd(torch.ones(5, 6), (2, 2), (3, 2), 1),
            ValueError,
            r"shape \(5, 6\), got \(4, 6\)",
        ),
        (
            lambda: tl.tt_matrix_svd(torch.ones(24), (2, 2), (3, 2), 1),
            ValueError,
            r"needs a matrix, got shape \(24,\)",
        ),
        (lambda: tl.tt_matrix_svd(torch.ones(4, 6).int(), (2, 2), (3, 2), 1), TypeError, "int32"),
        (
            lambda: (
                tl.TTMatrix.randn(out=(2, 3), in_=(3, 2), rank=1)
                + tl.TTMatrix.randn(out=(3, 2), in_=(2, 3), rank=1)
            ),
            ValueError,
            r"modes \(2, 3\) x \(3, 2\), got \(3, 2\) x \(2, 3\)",
        ),
        (
            lambda: tl.TTMatrix.randn(out=(2, 3), in_=(3, 2), rank=1).round(),
            ValueError,
            "got neither",
        ),
    ],
)
def test_refuses_bad_input(call, error, said):
    with pytest.raises(error, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)
