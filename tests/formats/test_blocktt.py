"""BlockTT: the equation of the paper, its limits (TT, Monarch, low rank, dense), best and
quasi-optimal truncation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import RTOLS, gradcheck, relative_error

import tensorlab as tl
from tensorlab.formats.modes import near_shape, split_shape

F64 = dict(dtype=torch.float64)


def slices(w, out, in_):
    """The matrices [(a), (d)] of w[(a, b), (c, d)], one for each b and c."""
    return w.reshape(*out, *in_).permute(1, 2, 0, 3)


# -- reduces to


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_two_cores_are_the_equation_of_the_paper(dtype, generator):
    w = tl.BlockTT.randn((12, 20), 3, out=(4, 3), in_=(5, 4), generator=generator, dtype=dtype)
    left, right = (
        w.cores[0][0, :, 0, :, :, :],
        w.cores[1][:, 0, :, :, :, 0],
    )  # (b, a, c, s), (c, s, b, d)
    x = tl.rng.randn(7, 20, generator=generator, dtype=dtype)
    y = torch.einsum("bacs,csbd,xcd->xab", left, right, x.reshape(7, 5, 4)).reshape(7, 12)
    assert torch.allclose(w.apply(x), y)
    assert torch.allclose(
        w.to_dense(), torch.einsum("bacs,csbd->abcd", left, right).reshape(12, 20)
    )


def test_three_cores_are_the_network_of_the_docstring(generator):
    w = tl.BlockTT.randn((24, 30), 2, out=(2, 3, 4), in_=(5, 3, 2), generator=generator, **F64)
    a, b, c = (
        core.reshape(shape)
        for core, shape in zip(
            w.cores, [(3, 4, 2, 5, 2), (5, 4, 2, 3, 3, 2), (5, 3, 2, 4, 2)], strict=True
        )
    )
    # outputs o p q, inputs i j k, bonds r s: a[p q o i r]  b[i q r p j s]  c[i j s q k]
    dense = torch.einsum("pqoir,iqrpjs,ijsqk->opqijk", a, b, c).reshape(24, 30)
    assert torch.allclose(w.to_dense(), dense, atol=1e-14)


CASES = [
    ((6, 8), 2, 2),
    ((7, 11), 3, 2),
    ((11, 19), (2, 2), 3),
    ((30, 17), (2, 3, 2), 4),
    ((5, 7), (), 1),
    ((1, 5), 1, 2),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128, torch.float32])
@pytest.mark.parametrize("shape, rank, cores", CASES)
def test_apply_is_a_product_with_the_dense_matrix(shape, rank, cores, dtype, generator):
    w = tl.BlockTT.randn(shape, rank, cores=cores, generator=generator, dtype=dtype)
    for batch in ((), (3,), (2, 3), (0,)):
        x = tl.rng.randn(*batch, shape[1], generator=generator, dtype=dtype)
        y = w.apply(x)
        assert y.shape == (*batch, shape[0]) and y.dtype == dtype
        assert torch.allclose(
            y, x @ w.to_dense().mT, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=1e-5
        )


@pytest.mark.parametrize(
    "shape, cores",
    [((16, 16), 2), ((12, 30), 2), ((7, 11), 2), ((27, 27), 3), ((10, 22), 3), ((20, 17), 4)],
)
def test_full_rank_is_any_matrix(shape, cores, generator):
    w = torch.randn(shape, generator=generator, **F64)
    for made in (
        tl.BlockTT.from_dense(w, 10**6, cores=cores),
        tl.BlockTT.from_dense(w, rtol=0.0, cores=cores),
    ):
        assert relative_error(made.to_dense(), w) < 1e-13


def test_a_square_needs_rank_root_n(generator):
    w = torch.randn(25, 25, generator=generator, **F64)
    assert tl.BlockTT.from_dense(w, rtol=0.0).ranks == (5,)


def test_the_best_of_each_slice_is_numpys_svd(generator):
    w = torch.randn(12, 20, generator=generator, **F64)
    found = tl.BlockTT.from_dense(w, 2, out=(4, 3), in_=(5, 4)).to_dense()
    u, s, vh = np.linalg.svd(slices(w, (4, 3), (5, 4)).numpy(), full_matrices=False)
    best = torch.tensor((u[..., :2] * s[..., None, :2]) @ vh[..., :2, :])
    assert torch.allclose(slices(found, (4, 3), (5, 4)), best, atol=1e-13)


def test_low_rank_and_tt_matrices_and_kronecker_products_are_block_trains_of_their_rank(
    generator,
):
    for w, rank in [
        (tl.LowRank.randn((12, 20), 2, generator=generator, **F64), 2),
        (tl.TTMatrix.randn(out=(4, 3), in_=(5, 4), rank=3, generator=generator, **F64), 3),
        (tl.Kronecker.randn((12, 20), 1, out=(4, 3), in_=(5, 4), generator=generator, **F64), 1),
    ]:
        assert tl.BlockTT.from_dense(w.to_dense(), rtol=0.0, out=(4, 3), in_=(5, 4)).ranks == (
            rank,
        )


# -- best, and quasi-optimal


def test_no_change_of_the_tensors_lowers_the_error_of_two_cores(generator):
    w = torch.randn(12, 20, generator=generator, **F64)
    best = tl.BlockTT.from_dense(w, 1)
    leaves = [t.clone().requires_grad_() for t in best.tensors()]
    loss = (best.with_tensors(leaves).to_dense() - w).square().sum()
    for g in torch.autograd.grad(loss, leaves):  # stationary
        assert float(g.norm()) < 1e-12 * float(w.norm())
    for size in (1e-3, 1e-2, 0.1, 1.0):  # and the least
        for _ in range(20):
            near = best.with_tensors(
                t + size * torch.randn(t.shape, generator=generator, **F64) for t in best.tensors()
            )
            assert relative_error(near.to_dense(), w) >= relative_error(best.to_dense(), w)


@pytest.mark.parametrize("cores, modes", [(3, (3, 3, 3)), (4, (2, 3, 2, 3))])
def test_more_cores_are_within_their_factor_of_what_no_block_train_beats(cores, modes, generator):
    n = math.prod(modes)
    noise = torch.randn(n, n, generator=generator, **F64)
    w = (
        tl.BlockTT.randn((n, n), 2, out=modes, in_=modes, generator=generator, **F64).to_dense()
        + noise
    )
    floor = 0.0  # the tail of each cut alone: a block train of these ranks leaves at least this
    for k in range(1, cores):
        m, M = math.prod(modes[:k]), math.prod(modes[k:])
        cut = w.reshape(modes[0] if k == 1 else m, M, m, M).permute(1, 2, 0, 3)
        floor = max(floor, float(torch.linalg.svdvals(cut)[..., 2 * (m // modes[k - 1]) :].norm()))
    found = tl.BlockTT.from_dense(w, 2, out=modes, in_=modes)
    error = float((found.to_dense() - w).norm())
    assert found.ranks == (2,) * (cores - 1)
    assert (
        floor <= error <= math.sqrt(cores - 1) * float(noise.norm())
    )  # the planted one errs by the noise, the best by less


@pytest.mark.thorough
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    m=st.integers(1, 24),
    n=st.integers(1, 24),
    cores=st.integers(1, 4),
    rtol=st.sampled_from(RTOLS),
    seed=st.integers(0, 5),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.complex128]),
)
def test_from_dense_keeps_its_bound(m, n, cores, rtol, seed, dtype):
    w = tl.rng.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    x = tl.BlockTT.from_dense(w, rtol=rtol, cores=cores)
    assert x.shape == (m, n) and x.dtype == dtype
    assert (
        relative_error(x.to(tl.linalg.wide(dtype)).to_dense(), w)
        <= rtol + 64 * torch.finfo(dtype).eps
    )
    for scale in (2.0**-60, 2.0**60):
        assert tl.BlockTT.from_dense(w * scale, rtol=rtol, cores=cores).ranks == x.ranks


def test_the_rank_is_the_smallest_that_keeps_the_bound(generator):
    w = tl.LowRank.randn((36, 36), 4, generator=generator, **F64).to_dense()
    w = w + 1e-3 * torch.randn(36, 36, generator=generator, **F64)
    for rtol in (1e-1, 1e-2, 1e-3, 1e-5):
        (r,) = tl.BlockTT.from_dense(w, rtol=rtol).ranks
        errors = [
            relative_error(tl.BlockTT.from_dense(w, k).to_dense(), w) for k in (r, r - 1) if k
        ]
        assert errors[0] <= rtol and all(e > rtol for e in errors[1:])


# -- layers: cost, start, learning rates


def test_counts_by_hand():
    w = tl.BlockTT.randn((64, 64), 3)
    assert (
        w.numel == 2 * 3 * 64 * 8 and w.flops(10) == 2 * 10 * w.numel
    )  # 2 r d^1.5 numbers, each used once
    padded = tl.BlockTT.randn((60, 97), 2, out=(8, 8), in_=(10, 10))
    assert (
        padded.shape == (60, 97)
        and padded.padded_shape == (64, 100)
        and padded.numel == 2 * (8 * 8 * 10 + 8 * 10 * 10)
    )
    assert padded.to_dense().shape == (60, 97) and padded.compression == 60 * 97 / padded.numel


def test_padding_is_cut_and_never_seen(generator):
    w = tl.BlockTT.randn((7, 11), 2, generator=generator, **F64)
    whole = tl.BlockTT(w.cores).to_dense()
    assert w.padded_shape == whole.shape != w.shape and torch.equal(w.to_dense(), whole[:7, :11])
    assert float(w.norm()) == pytest.approx(float(whole[:7, :11].norm()))


MAKES = {
    "LowRank": lambda r, **o: tl.LowRank.randn((256, 144), r, **o),
    "Kronecker": lambda r, **o: tl.Kronecker.randn((256, 144), r, **o),
    "Kronecker, three factors": lambda r, **o: tl.Kronecker.randn((512, 216), r, factors=3, **o),
    "Kronecker, padded": lambda r, **o: tl.Kronecker.randn((251, 139), r, **o),
    "Monarch": lambda r, **o: tl.Monarch.randn((256, 144), {2: 8, 16: 4, 64: 2}[r], **o),
    "Monarch, padded": lambda r, **o: tl.Monarch.randn((251, 139), **o),
    "BlockTT": lambda r, **o: tl.BlockTT.randn((256, 144), r, **o),
    "BlockTT, three cores": lambda r, **o: tl.BlockTT.randn((216, 125), min(r, 4), cores=3, **o),
    "BlockTT, padded": lambda r, **o: tl.BlockTT.randn((251, 139), r, **o),
}


@pytest.mark.thorough
@pytest.mark.parametrize("rank", [2, 16, 64])
@pytest.mark.parametrize("name", MAKES)
def test_a_layer_starts_with_the_output_of_a_dense_one(name, rank, generator):
    mean = 0.0
    for _ in range(64):
        w = MAKES[name](rank, generator=generator).initial()
        mean += (
            float(w.apply(torch.randn(16, w.shape[1], generator=generator)).square().mean()) / 64
        )
    assert math.sqrt(mean) == pytest.approx(1 / math.sqrt(3), rel=0.05)


def test_learning_rates_by_hand():
    # in over fan-in over the number of cores: sqrt(1024) / 2 for two cores of rank 1
    assert tl.BlockTT.randn((1024, 1024), 1).lr_multipliers() == (16, 16)
    assert tl.BlockTT.randn((1024, 1024), 4).lr_multipliers() == (
        4,
        16,
    )  # L adds 4 bonds of 32 inputs, R 32 inputs
    three = tl.BlockTT.randn((512, 512), (2, 4), cores=3)
    assert three.lr_multipliers() == pytest.approx([512 / 16 / 3, 512 / 32 / 3, 512 / 8 / 3])
    assert tl.Monarch.randn((1024, 1024), 4).lr_multipliers() == (2, 2)  # blocks of 256 inputs
    assert tl.Kronecker.randn((1024, 1024), 1).lr_multipliers() == (16, 16)
    low = tl.LowRank.randn((8, 32), 4)
    assert low.lr_multipliers() == (4, 0.5) and low.orthogonal().lr_multipliers() == pytest.approx(
        [8 / 3, 1 / 3, 8 / 3]
    )


# -- gradients


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients_are_right(dtype, generator):
    x = tl.rng.randn(3, 7, generator=generator, dtype=dtype).requires_grad_()
    for cores, rank in ((2, 2), (3, 2)):
        w = tl.BlockTT.randn((5, 7), rank, cores=cores, generator=generator, dtype=dtype)
        leaves = [t.clone().requires_grad_() for t in w.tensors()]
        assert gradcheck(lambda x, *ts, w=w: w.with_tensors(ts).apply(x), (x, *leaves))
    w = tl.rng.randn(6, 6, generator=generator, dtype=dtype).requires_grad_()
    f = lambda w: tl.BlockTT.from_dense(w, 1).to_dense().abs().square().sin().sum()
    assert gradcheck(f, (w,))


# -- sizes


@settings(max_examples=100, deadline=None, derandomize=True)
@given(n=st.integers(1, 5000), d=st.integers(1, 4))
def test_near_shapes_hold_n_and_little_more(n, d):
    sizes = near_shape(n, d)
    assert len(sizes) == d and math.prod(sizes) >= n and sizes == tuple(sorted(sizes, reverse=True))
    assert max(sizes) <= 2 * max(1, min(sizes)) or min(sizes) < 3
    assert math.prod(sizes) < n + 2 * d * math.ceil(n ** ((d - 1) / d)) + 1


# -- errors


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: tl.BlockTT(()), ValueError, r"got shapes \[\]"),
        (
            lambda: tl.BlockTT([torch.zeros(1, 2, 1, 2, 2, 3)] * 2),
            ValueError,
            r"\(1, 2, 1, 2, 2, 3\)",
        ),
        (lambda: tl.BlockTT([torch.zeros(2, 1, 1, 2, 2, 1)]), ValueError, r"\(2, 1, 1, 2, 2, 1\)"),
        (
            lambda: tl.BlockTT([torch.zeros(1, 1, 1, 2, 2, 1)], (3, 2)),
            ValueError,
            r"shape \(3, 2\), got \(2, 2\)",
        ),
        (lambda: tl.BlockTT.from_dense(torch.zeros(4, 4)), ValueError, "got neither"),
        (
            lambda: tl.BlockTT.from_dense(torch.zeros(4), 1),
            ValueError,
            r"needs a matrix, got shape \(4,\)",
        ),
        (lambda: tl.BlockTT.from_dense(torch.zeros(4, 4), 1.0), TypeError, "got 1.0"),
        (
            lambda: tl.BlockTT.from_dense(torch.zeros(4, 4), 1, out=(2, 2)),
            ValueError,
            r"got out=\(2, 2\) and in_=None",
        ),
        (
            lambda: tl.BlockTT.from_dense(torch.zeros(4, 4), 1, out=(2, 1), in_=(2, 2)),
            ValueError,
            r"\(4, 4\), got \(2, 4\)",
        ),
        (
            lambda: tl.BlockTT.from_dense(torch.zeros(4, 4), 1, out=(2, 2, 1), in_=(2, 2)),
            ValueError,
            r"got \(2, 2, 1\) and \(2, 2\)",
        ),
        (lambda: tl.BlockTT.from_dense(torch.zeros(4, 4), 1, cores=0), ValueError, "got 0"),
        (
            lambda: tl.BlockTT.from_dense(torch.full((2, 2), math.nan), 1),
            ValueError,
            "nan at index",
        ),
        (
            lambda: tl.BlockTT.from_dense(torch.zeros(4, 4, dtype=torch.int64), 1),
            TypeError,
            "int64",
        ),
        (lambda: tl.BlockTT.randn((4, 4), (1, 1)), ValueError, r"got \(1, 1\)"),
        (lambda: tl.BlockTT.randn((4, 4, 4), 1), ValueError, r"got \(4, 4, 4\)"),
        (
            lambda: tl.BlockTT.randn((7, 11), 2).apply(torch.zeros(3, 12)),
            ValueError,
            r"\(\.\.\., 11\), got \(3, 12\)",
        ),
        (
            lambda: (
                tl.BlockTT.randn((4, 6), 1) + tl.BlockTT.randn((4, 6), 1, out=(4, 1), in_=(3, 2))
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


def test_sizes_that_factor_are_not_padded():
    assert split_shape("test", (768, 3072), 2) == ((32, 24), (64, 48), None)
