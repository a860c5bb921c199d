"""The factorization from a few rows: its loss is what it says, the best span is the SVD's, and
where the rows do not tell there is none."""

import pytest
import torch

import tensorlab as tl
from tensorlab import rng
from tensorlab.sketch import LONG, factorize, frobenius

DTYPES = [torch.float64, torch.float32, torch.complex128]


def matrix(values, m, n, generator, dtype=torch.float64):
    """(m, n) with these singular values."""
    k = len(values)
    u = torch.linalg.qr(rng.randn(m, k, generator=generator, dtype=dtype)).Q
    v = torch.linalg.qr(rng.randn(n, k, generator=generator, dtype=dtype)).Q
    return u * values.to(dtype) @ v.mH


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(700, 300), (300, 700)], ids=str)
@pytest.mark.parametrize("best", [False, True])
@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-9])
def test_the_loss_is_what_it_says_and_within_the_limit(shape, dtype, best, rtol, generator):
    a = matrix(0.5 ** torch.arange(60), *shape, generator, dtype)
    eps, size = torch.finfo(dtype).eps, frobenius(a)
    found = factorize(a, rtol * size, best=best)
    if rtol < 16 * eps:  # below the rounding of its products there is nothing to certify
        assert found is None
        return
    loss = float((a - found.left @ found.right).norm())
    assert loss <= found.loss + 8 * eps * size and found.loss <= max(0.9 * rtol, 16 * eps) * size
    light = found.right.mH if found.heavy_left else found.left
    eye = torch.eye(light.shape[1], dtype=dtype)
    assert float((light.mH @ light - eye).norm()) <= 64 * eps * light.shape[1]


@pytest.mark.parametrize("rtol", [1e-6, 1e-7, 1e-8, 2e-10])
def test_products_that_all_round_the_same_way_are_no_proof(rtol):
    """Of a root on a grid |c|^2 comes out larger than |a|^2, by 100 eps."""
    a = torch.sqrt(torch.arange(2**22, dtype=torch.float64) / 2**22 + 1e-3).reshape(2048, 2048)
    size = frobenius(a)
    found = factorize(a, rtol * size)
    assert float((a - found.left @ found.right).norm()) <= rtol * size


@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-8])
def test_the_best_span_is_that_of_the_singular_vectors(rtol, generator):
    """Within 1e-6 of the error of the truncated SVD, with its rank."""
    values = 0.6 ** torch.arange(120).double()
    a = matrix(values, 900, 400, generator)
    atol = rtol * frobenius(a)
    found = factorize(a, atol, best=True)
    s, vh = torch.linalg.svd(found.left @ found.right)[1:]
    r = tl.linalg.choose_rank(values, atol=atol)
    v = vh[:r].mH
    assert float((a - a @ v @ v.mH).norm()) <= (1 + 1e-6) * float(values[r:].norm())
    assert torch.allclose(s[:r], values[:r], rtol=1e-6)


@pytest.mark.parametrize("noise", [1e-3, 1e-6, 1e-12])
def test_a_rank_under_noise(noise, generator):
    """With the rank as a cap the error is near that of the SVD, however small the tolerance."""
    a = matrix(torch.ones(12).double(), 500, 400, generator)
    e = rng.randn(500, 400, generator=generator, dtype=torch.float64)
    a = a + e * (noise * frobenius(a) / frobenius(e))
    found = factorize(a, 0.0, rank=12)
    u, s, vh = torch.linalg.svd(found.left @ found.right, full_matrices=False)
    cut = (u[:, :12] * s[:12]) @ vh[:12]
    tail = float(torch.linalg.svdvals(a)[12:].norm())
    assert float((a - cut).norm()) <= 1.01 * tail + 64 * tl.linalg.EPS * frobenius(a)


def test_where_the_rows_do_not_tell_there_is_none(generator):
    white = rng.randn(500, 400, generator=generator, dtype=torch.float64)
    assert factorize(white, 1e-3 * frobenius(white)) is None
    assert factorize(white, 0.0, rank=10) is None
    spikes = torch.zeros(2000, 1000, dtype=torch.float64)
    spikes[torch.randperm(2000)[:400], torch.randperm(1000)[:400]] = 1.0
    assert factorize(spikes, 1e-3 * frobenius(spikes)) is None
    assert (
        factorize(torch.ones(5000, LONG - 1), 1e-3) is None
    )  # a short side: a Gram matrix is cheap


def test_the_doubtful_rank_is_left_to_the_gram_matrix(generator):
    """A slow decay, where what is missed would change the rank: then none, or the right one."""
    values = 1.0 / (1 + torch.arange(400.0)).double()
    a = matrix(values, 900, 400, generator)
    for rtol in (0.3, 0.1, 0.05):
        v, _ = tl.linalg.right_basis(a, atol=rtol * frobenius(a))
        assert v.shape[1] == tl.linalg.choose_rank(values, atol=rtol * float(values.norm()))


def test_the_norm_keeps_its_digits(generator):
    x = 1 + torch.rand(3_000_001, generator=generator, dtype=torch.float64)
    exact = float((x.numpy().astype("longdouble") ** 2).sum() ** 0.5)
    assert abs(frobenius(x) - exact) <= 16 * tl.linalg.EPS * exact
    strided = x[:-1].reshape(4, -1).mT[::2]
    assert frobenius(strided) == pytest.approx(float(strided.norm()), rel=1e-12)
