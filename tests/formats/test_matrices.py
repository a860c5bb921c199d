"""What every matrix format promises when it multiplies: the width, the batch, the dtype of x."""

import numpy as np
import pytest
import torch

import tensorlab as tl
from cases import FORMATS, make
from tensorlab.formats.base import MatrixFormat
from tensorlab.formats.lokr import LoKr


def lokr(b=True, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: tl.rng.randn(*shape, generator=g, dtype=dtype)
    return LoKr(draw(2, 3), draw(4, 2), draw(2, 5)) if b else LoKr(draw(2, 3), draw(4, 5))


MATRICES = [name for name in FORMATS if isinstance(make(name), MatrixFormat)]
MATRICES += ["LoKr", "LoKr without b"]


def matrix(name, dtype=torch.float64):
    return lokr(name == "LoKr", dtype=dtype) if "LoKr" in name else make(name, dtype=dtype)


every = pytest.mark.parametrize("name", MATRICES)


@every
@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (0,), (2, 0), (0, 3), (2, 0, 3)], ids=str)
def test_any_batch(name, batch):
    w = matrix(name)
    x = tl.rng.randn(*batch, w.shape[1], dtype=torch.float64)
    y = w.apply(x)
    assert y.shape == (*batch, w.shape[0])
    assert torch.allclose(y, x @ w.to_dense().mT, atol=1e-12)


@every
def test_a_batch_in_another_order_of_memory(name):
    w = matrix(name)
    x = tl.rng.randn(w.shape[1], 3, 4, dtype=torch.float64).permute(2, 1, 0)
    assert torch.allclose(w.apply(x), x @ w.to_dense().mT, atol=1e-12)


@every
def test_another_width_is_refused(name):
    w = matrix(name)
    n = w.shape[1]
    for width in {1, n - 1, n + 1, 2 * n, 3 * n, n * n, w.shape[0], n // 2} - {n}:
        for shape in ((width,), (4, width), (n, width), (0, width)):
            said = rf"apply: needs x of shape \(\.\.\., {n}\), got \({shape[0]},"
            with pytest.raises(ValueError, match=said):
                w.apply(torch.ones(shape, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"got \(\)"):
        w.apply(torch.tensor(1.0))
    with pytest.raises(ValueError, match="needs x on cpu, got one on meta"):
        w.apply(torch.ones(n, device="meta"))


@every
@pytest.mark.parametrize(
    "a, b",
    [
        (torch.float32, torch.float64),
        (torch.float64, torch.float32),
        (torch.complex64, torch.float64),
        (torch.float64, torch.complex64),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.int64),
    ],
    ids=str,
)
def test_two_dtypes_are_brought_to_the_one_of_torch(name, a, b):
    w = matrix(name, a)
    x = torch.from_numpy(np.arange(3 * w.shape[1]) % 5 - 2).reshape(3, -1).to(b)
    y, dtype = w.apply(x), torch.promote_types(a, b)
    wanted = x.to(torch.complex128) @ w.to(torch.complex128).to_dense().mT
    assert y.dtype == dtype
    missed = float((y.to(torch.complex128) - wanted).norm())
    assert missed <= 32 * torch.finfo(dtype).eps * float(wanted.norm())


@pytest.mark.parametrize("b", [True, False])
def test_a_lokr_is_its_kronecker_product(b):
    w = lokr(b)
    last = w.a @ w.b if b else w.a
    assert torch.equal(w.to_dense(), torch.kron(w.w1, last))
    for scale in (1.0, 2.0**-600, 2.0**600):
        size = float((scale * w).norm()) / scale
        assert size == pytest.approx(float(w.to_dense().norm()), rel=1e-14)
    assert (2j * w).dtype == torch.complex128
