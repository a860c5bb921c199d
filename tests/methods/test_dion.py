"""Dion: its formula, momentum at full rank, orthonormal factors, the polar factor in the end."""

import copy

import pytest
import torch
from torch import nn

from tensorlab.methods.dion import Dion
from tensorlab.rng import randn

F64, EPS = torch.float64, torch.finfo(torch.float64).eps
SHAPES = [(5, 8), (8, 5), (6, 6)]


def gaussian(*shape, seed=0):
    return randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def optimizer_of(p, **options):
    return Dion([p], generator=torch.Generator().manual_seed(5), **options)


def stepped(optimizer, p, grads):
    """The moves of p, one for each gradient."""
    moves = []
    for g in grads:
        before, p.grad = p.detach().clone(), g.clone()
        optimizer.step()
        moves.append(p.detach() - before)
    return moves


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_formula_of_the_paper(shape):
    m, n = shape
    p, rank, mu, lr = nn.Parameter(gaussian(*shape)), 3, 0.9, 0.1
    optimizer = optimizer_of(p, rank=rank, momentum=mu, lr=lr, weight_decay=0.2)
    grads = [gaussian(*shape, seed=k) for k in range(1, 6)]
    w, momentum = p.detach().clone(), torch.zeros(shape, dtype=F64)
    q = torch.linalg.qr(gaussian(n, rank, seed=5)).Q
    for g in grads:
        b = momentum + g
        u = torch.linalg.qr(b @ q).Q
        r = b.mT @ u
        momentum = b - (1 - mu) * u @ r.mT
        q = r / r.norm(dim=0)
        w = (1 - lr * 0.2) * w - lr * (m / n) ** 0.5 * u @ q.mT
    stepped(optimizer, p, grads)
    assert torch.allclose(p, w, rtol=0, atol=1e4 * EPS)
    assert torch.allclose(optimizer.state[p]["momentum"], momentum, rtol=0, atol=1e4 * EPS)


@pytest.mark.parametrize("shape", [(5, 8), (6, 6)])
def test_of_full_rank_its_momentum_is_the_usual_one(shape):
    """P Pᵀ = 1, so M = μ (M + G): what torch's SGD keeps, times μ."""
    p, q = (nn.Parameter(gaussian(*shape)) for _ in range(2))
    ours, sgd = optimizer_of(p, rank=5 + shape[0], momentum=0.9), torch.optim.SGD([q], 0.1, 0.9)
    grads = [gaussian(*shape, seed=k) for k in range(1, 7)]
    stepped(ours, p, grads)
    stepped(sgd, q, grads)
    want = 0.9 * sgd.state[q]["momentum_buffer"]
    assert torch.allclose(ours.state[p]["momentum"], want, rtol=0, atol=1e4 * EPS)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_is_orthonormal_from_the_left_and_of_unit_columns_from_the_right(shape):
    (m, n), p = shape, nn.Parameter(gaussian(*shape))
    optimizer = optimizer_of(p, rank=3, lr=1.0)
    for k in range(4):
        (move,) = stepped(optimizer, p, [gaussian(*shape, seed=k)])
        q = optimizer.state[p]["q"]
        u = -move / (m / n) ** 0.5 @ torch.linalg.pinv(q.mT)
        assert torch.allclose(u.mT @ u, torch.eye(3, dtype=F64), rtol=0, atol=1e5 * EPS)
        assert torch.allclose(q.norm(dim=0), torch.ones(3, dtype=F64), rtol=0, atol=100 * EPS)
        assert torch.linalg.matrix_rank(move, rtol=1e-10) == 3


@pytest.mark.parametrize("rank", [2, 5])
def test_steps_with_one_gradient_turn_into_its_polar_factor(rank):
    """With μ near 1 the momentum keeps the direction of the gradient: the power method runs on one
    matrix, and all its leading singular values move the weight alike."""
    u, v = (torch.linalg.qr(gaussian(n, 5, seed=n)).Q for n in (6, 8))
    g = (u * torch.tensor([16.0, 8, 4, 2, 1], dtype=F64)) @ v.mT
    p = nn.Parameter(torch.zeros(6, 8, dtype=F64))
    moves = stepped(optimizer_of(p, rank=rank, momentum=0.999, lr=1.0), p, [g] * 40)
    want = -((6 / 8) ** 0.5) * u[:, :rank] @ v[:, :rank].mT
    assert (moves[0] - want).norm() > 0.5
    # (σ_{k+1} / σ_k)² = 1/4 a step until μ has moved the values by about 40 (1 - μ)
    assert torch.allclose(moves[-1], want, rtol=0, atol=1e-3)


def test_what_a_step_has_not_caught_stays_in_the_momentum():
    g = torch.diag(torch.tensor([4.0, 1.0], dtype=F64))
    p = nn.Parameter(torch.zeros(2, 2, dtype=F64))
    optimizer = optimizer_of(p, rank=1, momentum=0.5)
    optimizer.state[p].update(
        momentum=torch.zeros(2, 2, dtype=F64), q=torch.tensor([[1.0], [0.0]], dtype=F64)
    )
    stepped(optimizer, p, [g])
    # P = Q = e_0, R = 4 e_0: half of the 4 goes, the 1 stays
    want = torch.diag(torch.tensor([2.0, 1.0], dtype=F64))
    assert torch.allclose(optimizer.state[p]["momentum"], want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_numbers_and_a_zero_gradient(dtype):
    p = nn.Parameter(gaussian(6, 4).to(dtype))
    optimizer = optimizer_of(p, rank=2)
    stepped(optimizer, p, [torch.zeros(6, 4, dtype=dtype), gaussian(6, 4, seed=1).to(dtype)])
    assert p.dtype == dtype and p.isfinite().all()


def test_a_checkpoint_goes_on_bit_for_bit():
    grads = [gaussian(6, 8, seed=k) for k in range(8)]
    p = nn.Parameter(gaussian(6, 8))
    optimizer = optimizer_of(p, rank=2)
    stepped(optimizer, p, grads[:4])
    q, state = nn.Parameter(p.detach().clone()), copy.deepcopy(optimizer.state_dict())
    other = Dion([q], rank=2)
    other.load_state_dict(state)
    stepped(optimizer, p, grads[4:])
    stepped(other, q, grads[4:])
    assert torch.equal(p, q)
