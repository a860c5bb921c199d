"""The pivoted format is the matrix of its two factors in fewer numbers, with small entries of t,
for easy and for hard factors; a state dict carries the pivots."""

import io

import pytest
import torch

import tensorlab as tl
from tensorlab.formats.pivoted import pivot_rows

F64 = torch.float64


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def growing(n, r):
    """Gaussian elimination with row pivoting alone grows to 2^(r - 1) on it."""
    return torch.eye(n, r, dtype=F64) - torch.ones(n, r, dtype=F64).tril(-1)


FACTORS = {
    "random": (draw(60, 20), draw(50, 20, seed=1)),
    "graded": (draw(60, 20) * torch.logspace(0, -9, 20, dtype=F64), draw(50, 20, seed=1)),
    "growing": (growing(60, 30), draw(50, 30, seed=1)),
    "rank deficient": (draw(60, 5) @ draw(5, 20, seed=2), draw(50, 20, seed=1)),
    "zero": (torch.zeros(60, 3, dtype=F64), draw(50, 3)),
    "one column": (draw(60, 1), draw(50, 1)),
    "few rows that matter": (draw(60, 6) * (torch.arange(60) < 7)[:, None], draw(50, 6)),
    "all columns": (draw(60, 20), draw(20, 20, seed=1)),
    "all rows": (draw(20, 20), draw(50, 20, seed=1)),
    "more than rows": (draw(8, 20), draw(50, 20, seed=1)),
    "complex": (torch.complex(draw(60, 9), draw(60, 9, seed=3)), draw(50, 9).to(torch.complex128)),
    "real weights": (draw(384, 160), draw(384, 160, seed=1)),
}


@pytest.mark.parametrize("u, v", FACTORS.values(), ids=FACTORS)
def test_it_is_the_matrix_of_its_factors(u, v):
    low = tl.LowRank(u, v)
    w = tl.PivotedLowRank.from_lowrank(low)
    (n, m), r = w.shape, w.ranks[0]
    want = low.to_dense()
    assert float((w.to_dense() - want).abs().max()) <= 1e-10 * max(1.0, float(want.abs().max()))
    assert w.numel == r * (n + m - r) <= min(low.numel, n * m)
    assert not w.t.numel() or float(w.t.abs().max()) <= 2 * (1 + 1e-6)
    assert torch.equal(w.to_dense()[list(w.rows)], w.top)
    x = draw(4, m, seed=5).to(w.dtype)
    assert torch.allclose(w.apply(x), x @ want.mT, atol=1e-10 * max(1.0, float(want.abs().max())))


def test_elimination_alone_is_not_enough():
    """Without an exchange of rows t grows: what the pivots are for."""
    u = growing(60, 30)
    t = torch.linalg.solve(u[:30].mT, u.mT)
    assert float(t.abs().max()) > 1e6
    rows = list(pivot_rows(torch.linalg.qr(u).Q))
    assert float(torch.linalg.solve(u[rows].mT, u.mT).abs().max()) <= 2 * (1 + 1e-6)


def test_every_rank_below_the_full_one_saves():
    w = draw(12, 10)
    for rank in range(1, 11):
        form, low = (cls.from_dense(w, rank) for cls in (tl.PivotedLowRank, tl.LowRank))
        assert (form.numel < 120) == (rank < 10) and form.numel <= low.numel
        assert torch.allclose(form.to_dense(), low.to_dense(), atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_narrow_numbers(dtype):
    low = tl.LowRank.from_dense(draw(60, 50).to(dtype), 20)
    w = tl.PivotedLowRank.from_lowrank(low)
    assert w.dtype == dtype
    error = (w.to(F64).to_dense() - low.to(F64).to_dense()).norm() / low.to(F64).to_dense().norm()
    assert float(error) <= 8 * torch.finfo(dtype).eps


def test_gradients_are_those_of_the_matrix():
    u, v, x = draw(9, 3).requires_grad_(), draw(8, 3, seed=1), draw(4, 8, seed=2)
    value = lambda w: w.apply(x).sin().sum()
    (got,) = torch.autograd.grad(value(tl.PivotedLowRank.from_lowrank(tl.LowRank(u, v))), u)
    (want,) = torch.autograd.grad(value(tl.LowRank(u, v)), u)
    assert torch.allclose(got, want, atol=1e-10)


def test_a_state_dict_carries_the_pivots():
    """Into a layer of other pivots, of other ranks too; what does not fit is refused."""
    make = lambda rank, seed: tl.PivotedLowRank.from_dense(draw(9, 8, seed=seed), rank)
    layer = tl.FactorizedLinear(make(3, 0), draw(9))
    torch.save(layer.state_dict(), file := io.BytesIO())
    for rank in (3, 5):
        file.seek(0)
        other = tl.FactorizedLinear(make(rank, 1), draw(9, seed=2))
        assert other.weight.rows != layer.weight.rows
        parameters = list(other.parameters())
        other.load_state_dict(torch.load(file))
        assert other.weight.rows == layer.weight.rows
        assert all(p is q for p, q in zip(parameters, other.parameters()))
        assert torch.equal(other(draw(2, 8)), layer(draw(2, 8)))
    state = layer.state_dict()
    state["rows"] = torch.tensor([0, 1, 9])
    with pytest.raises(RuntimeError, match="needs 3 ascending rows below 9"):
        layer.load_state_dict(state)


@pytest.mark.parametrize("rows", [(0,), (1, 0), (0, 0), (-1, 1), (0, 5)], ids=str)
def test_wrong_pivots_are_refused(rows):
    with pytest.raises(ValueError, match="PivotedLowRank: needs 2 ascending rows below 5, got"):
        tl.PivotedLowRank(torch.ones(2, 4), torch.ones(3, 2), rows)


def test_the_start_of_a_layer_has_the_size_of_torchs():
    w = tl.PivotedLowRank.randn(
        (400, 300), 40, generator=torch.Generator().manual_seed(0)
    ).initial()
    assert float(w.to_dense().square().mean()) == pytest.approx(1 / 900, rel=0.1)
