"""Defects seen in the packages we compare with, each as a test that ours passes."""

import math

import pytest
import torch
from tensors import noisy_train, relative_error, smooth
from torch.utils._python_dispatch import TorchDispatchMode

import tensorlab as tl


class Recorder(TorchDispatchMode):
    """Remembers the sizes that LAPACK is given and the largest tensor that is made."""

    def __init__(self):
        super().__init__()
        self.factorized, self.largest = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = str(function)
        if any(part in name for part in ("svd", "qr", "eigh", "cholesky", "solve")):
            self.factorized.append((name.split(".")[1], tuple(args[0].shape)))
        outputs = out if isinstance(out, tuple | list) else [out]
        self.largest = max(
            [self.largest, *(t.numel() for t in outputs if isinstance(t, torch.Tensor))]
        )
        return out


def test_float32_svd_of_a_very_long_matrix(generator):
    a = torch.randn(
        8, 1 << 18, generator=generator
    )  # torch.linalg.svd reconstructs such a matrix to 5e-4 only
    u, s, vh = tl.truncated_svd(a, rtol=0.0)
    assert relative_error((u * s) @ vh, a) < 3e-7
    assert (vh.double() @ vh.double().T - torch.eye(8)).abs().max() < 3e-7


def test_float32_train_has_no_error_floor():
    x = smooth((8,) * 7, torch.float32)
    assert relative_error(tl.tt_svd(x, 20).to(torch.float64).to_dense(), x) <= 1e-6
    tt = tl.tt_svd(x, rtol=1e-6)
    assert max(tt.ranks) <= 5 and relative_error(tt.to(torch.float64).to_dense(), x) <= 1.1e-6


def test_scale_is_on_one_side():
    x = smooth(
        (8,) * 7
    )  # a root of the singular values on each side distorts the later cuts: 2.4e-5 here, 4e-2 below
    assert relative_error(tl.tt_svd(x, 5).to_dense(), x) < 1e-6
    y = (1 / (1 + torch.arange(512.0).double()[:, None] / 512 + torch.arange(512.0) / 512)).reshape(
        (2,) * 18
    )
    assert relative_error(tl.tt_svd(y, 20).to_dense(), y) < 2e-14


def test_tolerance_is_relative_and_of_the_whole(generator):
    x = torch.randn(6, 6, 6, generator=generator, dtype=torch.float64)
    x *= 1.5e-11 / x.norm()
    assert tl.tt_svd(x, rtol=1e-10).ranks == (6, 6)
    y = torch.randn(6, 6, 6, 6, generator=generator, dtype=torch.float64)
    assert tl.tt_svd(y, rtol=0.1).ranks == tl.tt_svd(1000 * y, rtol=0.1).ranks
    assert relative_error(tl.tt_svd(y, rtol=0.1).to_dense(), y) <= 0.1


def test_no_noise_ranks():
    assert max(tl.tt_svd(smooth((8,) * 7), rtol=1e-6).ranks) <= 5
    assert tl.tt_svd(noisy_train((24,) * 4, 12, 1e-7), rtol=1e-6).ranks == (12, 12, 12)


def test_rounding_keeps_an_exact_rank(generator):
    x = tl.TT.randn((32,) * 6, 20, generator=generator, dtype=torch.float64)
    y = tl.tt_round(x + 2 * x, rtol=1e-10)
    assert y.ranks == x.ranks and float((y - 3 * x).norm() / y.norm()) < 1e-13


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_small_tensors_are_not_zero(dtype):
    x = noisy_train((5, 6, 7), 2, 0.0).to(dtype)
    tt = tl.tt_svd(x * 1e-15, rtol=1e-5)
    assert (
        tt.dtype == dtype and tt.ranks == (2, 2) and relative_error(tt.to_dense(), x * 1e-15) < 1e-5
    )


def test_complex_tensors(generator):
    x = torch.randn(4, 5, 6, generator=generator, dtype=torch.complex128)
    for fmt in (tl.tt_svd(x, rtol=0.0), tl.st_hosvd(x, rtol=0.0), tl.hosvd(x, rtol=0.0)):
        assert relative_error(fmt.to_dense(), x) < 1e-14


@pytest.mark.thorough
@pytest.mark.parametrize(
    "algorithm",
    [
        lambda x: tl.tt_svd(x, rtol=0.0),
        lambda x: tl.tt_svd(x, 5),
        lambda x: tl.st_hosvd(x, rtol=1e-9),
        lambda x: tl.hosvd(x, 3),
        lambda x: tl.hooi(x, 3),
        lambda x: tl.cp_als(x, 3, max_iter=3),
        lambda x: tl.cp_nls(x, 3, max_iter=3),
    ],
    ids=["tt_svd exact", "tt_svd rank", "st_hosvd", "hosvd", "hooi", "cp_als", "cp_nls"],
)
@pytest.mark.parametrize("shape", [(2,) * 16, (16, 16, 16, 16), (64, 32, 32)])
def test_nothing_of_the_tensors_size_is_factorized(algorithm, shape):
    x = smooth(shape)
    with Recorder() as seen:
        algorithm(x)
    assert seen.factorized, "the recorder sees LAPACK's calls"
    assert max(math.prod(s) for _, s in seen.factorized) <= x.numel() / 2
    assert seen.largest <= 2 * x.numel()  # and no full-rank identity cores


def test_the_smaller_gram_matrix_is_formed(generator):
    with Recorder() as seen:
        for shape in ((1200, 10), (10, 1200), (12000, 10)):
            tl.linalg.right_basis(torch.randn(shape, generator=generator), 3)
    assert max(max(s) for name, s in seen.factorized if "eigh" in name) == 10


def test_dot_and_norm_form_no_kronecker_product(generator):
    a, b = (tl.TT.randn((32,) * 5, 40, generator=generator, dtype=torch.float64) for _ in range(2))
    with Recorder() as seen:
        a.dot(b), a.norm()
    assert seen.largest <= 4 * 40 * 32 * 40


def test_entries_gather_no_matrix_for_each(generator):
    a = tl.TT.randn((32,) * 5, 40, generator=generator, dtype=torch.float64)
    index = torch.randint(0, 32, (2000, 5), generator=generator)
    with Recorder() as seen:
        a.at(index)
    assert seen.largest <= 2000 * 40


def test_gradients_through_tt_svd(generator):
    x = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64).requires_grad_()
    tl.tt_svd(x, rtol=0.0).to_dense().square().sum().backward()
    assert torch.allclose(x.grad, 2 * x)


def test_ranks_are_python_integers():
    for fmt in (
        tl.tt_svd(torch.ones(1, 5, 1, 3), rtol=0.1),
        tl.st_hosvd(torch.ones(1, 5, 1, 3), rtol=0.1),
    ):
        assert all(type(n) is int for n in (*fmt.ranks, *fmt.shape))
