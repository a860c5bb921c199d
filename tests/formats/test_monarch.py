"""Monarch: block-diagonal matrices and an explicit permutation, the nearest one, and what it
contains."""

import pytest
import torch
from tensors import relative_error

import tensorlab as tl

F64 = dict(dtype=torch.float64)


def shuffle(rows, columns):
    """The permutation matrix with P vec(Z) = vec(Zᵀ), Z of (rows, columns) read row by row."""
    order = torch.arange(rows * columns).reshape(rows, columns).T.reshape(-1)
    return torch.eye(rows * columns, **F64)[order]


@pytest.mark.parametrize("n, b", [(16, 4), (36, 6), (49, 7)])
def test_root_n_blocks_are_the_product_of_the_paper(n, b, generator):
    w = tl.Monarch.randn((n, n), b, generator=generator, **F64)
    L, R = (torch.block_diag(*blocks) for blocks in w.blocks())
    P = shuffle(b, n // b)
    assert torch.allclose(w.to_dense(), P @ L @ P.T @ R, atol=1e-14) and w.ranks == (1,)
    assert all(blocks.shape == (b, n // b, n // b) for blocks in w.blocks())


def test_fewer_blocks_deal_several_values_each(generator):
    w = tl.Monarch.randn((12, 20), 2, generator=generator, **F64)
    (s,) = w.ranks
    L, R = (torch.block_diag(*blocks) for blocks in w.blocks())
    middle = (
        torch.arange(2 * s * 2).reshape(2, s, 2).permute(2, 0, 1).reshape(-1)
    )  # (c, s, b) -> (b, c, s)
    P = shuffle(2, 6)
    assert L.shape == (12, 4 * s) and R.shape == (4 * s, 20)
    assert torch.allclose(w.to_dense(), P @ L @ torch.eye(4 * s, **F64)[middle] @ R, atol=1e-14)


@pytest.mark.parametrize(
    "shape, blocks, cores",
    [
        ((16, 16), 4, 2),
        ((13, 17), 3, 2),
        ((12, 30), 2, 2),
        ((27, 27), None, 3),
        ((20, 11), None, 3),
        ((16, 16), None, 4),
    ],
)
def test_exact_for_a_monarch_matrix(shape, blocks, cores, generator):
    w = tl.Monarch.randn(shape, blocks, cores=cores, generator=generator, **F64)
    again = tl.Monarch.from_dense(w.to_dense(), blocks, cores=cores)
    assert (
        type(again) is tl.Monarch
        and again.ranks == w.ranks
        and again.padded_shape == w.padded_shape
    )
    if w.shape == w.padded_shape:
        assert relative_error(again.to_dense(), w.to_dense()) < 1e-13
    x = torch.randn(5, shape[1], generator=generator, **F64)
    assert torch.allclose(w.apply(x), x @ w.to_dense().T, atol=1e-12)


def test_it_is_the_nearest(generator):
    w = torch.randn(16, 16, generator=generator, **F64)
    best = tl.Monarch.from_dense(w, 4)
    tails = torch.linalg.svdvals(w.reshape(4, 4, 4, 4).permute(1, 2, 0, 3))[..., 1:]
    assert float((best.to_dense() - w).norm()) == pytest.approx(float(tails.norm()), rel=1e-12)
    leaves = [t.clone().requires_grad_() for t in best.tensors()]
    gradients = torch.autograd.grad(
        (best.with_tensors(leaves).to_dense() - w).square().sum(), leaves
    )
    assert max(float(g.norm()) for g in gradients) < 1e-12
    for _ in range(50):
        near = best.with_tensors(
            t + 0.1 * torch.randn(t.shape, generator=generator, **F64) for t in best.tensors()
        )
        assert relative_error(near.to_dense(), w) >= relative_error(best.to_dense(), w)


@pytest.mark.parametrize("n, cores", [(16, 2), (64, 3), (64, 2)])
def test_the_fourier_matrix_with_its_columns_in_reversed_digits_is_one(n, cores):
    modes = tl.balanced_shape(n, cores)
    dft = torch.fft.fft(torch.eye(n, dtype=torch.complex128))
    order = torch.arange(n).reshape(modes).permute(*range(cores)[::-1]).reshape(-1)
    assert (
        relative_error(tl.Monarch.from_dense(dft[:, order], cores=cores).to_dense(), dft[:, order])
        < 1e-13
    )
    assert relative_error(tl.Monarch.from_dense(dft, cores=cores).to_dense(), dft) > 0.1


def test_a_kronecker_product_is_a_monarch(generator):
    a, b = (torch.randn(4, 4, generator=generator, **F64) for _ in range(2))
    assert (
        relative_error(tl.Monarch.from_dense(torch.kron(a, b), 4).to_dense(), torch.kron(a, b))
        < 1e-14
    )


def test_sums_have_wider_middles_and_round_back(generator):
    a, b = (tl.Monarch.randn((16, 16), 4, generator=generator, **F64) for _ in range(2))
    assert (a + b).ranks == (2,) and (a + b).blocks()[0].shape == (4, 4, 8)
    assert (a + 2 * a).round(rtol=1e-12).ranks == (1,) and type((a + b).round(1)) is tl.Monarch


def test_storage_by_hand():
    for d, b in ((64, 8), (256, 4), (1024, 32), (768, 4)):
        assert tl.Monarch.randn((d, d), b).numel == 2 * d * d // b
    w = tl.Monarch.randn((30, 62), 4)  # padded to 32 by 64, slices of 8 by 16, of rank 2
    assert w.padded_shape == (32, 64) and w.ranks == (2,) and w.numel == 4 * 8 * 8 + 4 * 8 * 16


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: tl.Monarch.randn((8, 8), 9), ValueError, "blocks=9"),
        (lambda: tl.Monarch.randn((8, 8), 0), ValueError, "blocks=0"),
        (lambda: tl.Monarch.randn((8, 8), 2, cores=3), ValueError, "got cores=3 and blocks=2"),
        (lambda: tl.Monarch.randn((8, 8), 2.0), ValueError, "blocks=2.0"),
        (lambda: tl.Monarch.from_dense([[1.0]], 1), TypeError, "got list"),
        (lambda: tl.Monarch.from_dense(torch.zeros(4), 1), ValueError, r"shape \(4,\)"),
        (lambda: tl.Monarch.from_dense(torch.zeros(4, 4), cores=0), ValueError, "got 0"),
        (
            lambda: tl.Monarch.randn((4, 4), 2).apply(torch.zeros(5)),
            ValueError,
            r"Monarch.apply: .*got \(5,\)",
        ),
        (
            lambda: tl.Monarch.randn((16, 16), 4) + tl.Monarch.randn((16, 16), 2),
            ValueError,
            "Monarch \\+: needs modes",
        ),
    ],
)
def test_refuses_bad_input(make, error, said):
    with pytest.raises(error, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)
