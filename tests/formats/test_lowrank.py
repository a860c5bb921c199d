"""LowRank: the best matrix of its rank, balanced, applied without being formed."""

import pytest
import torch
from tensors import relative_error

import tensorlab as tl


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128, torch.float32])
@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (300, 60), (400, 500)])
def test_from_dense_is_the_best_of_its_rank(shape, dtype, generator):
    w = tl.rng.randn(*shape, generator=generator, dtype=dtype)
    s = torch.linalg.svdvals(w.to(tl.linalg.wide(dtype)))
    low = tl.LowRank.from_dense(w, 7)
    assert relative_error(low.to_dense(), w) == pytest.approx(
        float(s[7:].norm() / s.norm()), rel=1e-6
    )
    assert torch.allclose(
        torch.linalg.vector_norm(low.u, dim=0), torch.linalg.vector_norm(low.v, dim=0), rtol=1e-4
    )
    assert low.numel == 7 * sum(shape) and low.dtype == dtype


@pytest.mark.parametrize("with_s", [False, True])
def test_apply_is_a_product_with_the_dense_matrix(with_s, generator):
    w = tl.LowRank.randn((7, 5), 3, generator=generator, dtype=torch.complex128)
    w = w.orthogonal() if with_s else w
    x = tl.rng.randn(2, 4, 5, generator=generator, dtype=torch.complex128)
    assert torch.allclose(w.apply(x), x @ w.to_dense().mT)
    assert w.flops(10) == 2 * 10 * 3 * (7 + 5) + (2 * 3 * 3 * 7 if with_s else 0)


def test_orthogonal_and_merged(generator):
    w = tl.LowRank.randn((7, 5), 3, generator=generator, dtype=torch.float64)
    o = w.orthogonal()
    assert o.s.shape == (3, 3) and o.merged().s is None
    for f in (o.u, o.v):
        assert torch.allclose(f.T @ f, torch.eye(3).double(), atol=1e-14)
    assert relative_error(o.merged().to_dense(), w.to_dense()) < 1e-14


@pytest.mark.parametrize("shape", [(7, 5), (5, 7)])
def test_a_rank_above_the_sides(shape, generator):
    w = tl.LowRank.randn(shape, 9, generator=generator, dtype=torch.float64)
    o = w.orthogonal()
    assert o.ranks == (5,) and relative_error(o.to_dense(), w.to_dense()) < 1e-14
    assert w.round(rtol=0.0).ranks == (5,)


def test_storage_by_hand():
    assert tl.LowRank.from_dense(torch.ones(1000, 800), rtol=0.0).numel == 1800


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: tl.LowRank(torch.zeros(3, 2), torch.zeros(4, 3)), r"\(3, 2\), \(4, 3\)"),
        (lambda: tl.LowRank(torch.zeros(3, 0), torch.zeros(4, 0)), r"\(3, 0\), \(4, 0\)"),
        (lambda: tl.LowRank.randn((4, 3), 0), "LowRank.randn: .*got 0"),
        (lambda: tl.LowRank.randn((4, 3), -1), "got -1"),
        (lambda: tl.LowRank.randn((4, 3), (2, 2)), r"got \(2, 2\)"),
        (lambda: tl.LowRank.randn((4, 3, 2), 2), r"got \(4, 3, 2\)"),
        (lambda: tl.LowRank(torch.zeros(3, 2), torch.zeros(4, 2), torch.zeros(2, 3)), r"\(2, 3\)"),
        (lambda: tl.LowRank.from_dense(torch.zeros(2, 2, 2), 1), r"got shape \(2, 2, 2\)"),
        (lambda: tl.LowRank.from_dense(torch.zeros(2, 2)), "got neither"),
    ],
)
def test_refuses_bad_input(make, said):
    with pytest.raises(ValueError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: tl.LowRank.randn((4, 3), 2.0), "got 2.0"),
        (lambda: tl.LowRank.randn((4, 3), True), "got True"),
        (lambda: tl.LowRank.from_dense(torch.ones(4, 3), 2.0), "got 2.0"),
        (lambda: tl.LowRank(torch.ones(4, 2), None), "v, got NoneType"),
    ],
)
def test_refuses_types(make, said):
    with pytest.raises(TypeError, match=said):
        make()
