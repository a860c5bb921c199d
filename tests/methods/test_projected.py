"""What DLRT is compared with: factors by plain gradients, projection by an SVD, a penalty on the
rank."""

import pytest
import torch
from torch import nn

import tensorlab as tl
from tensorlab.methods.projected import FactorSGD, Projected, balanced, prox_rank

F64 = torch.float64


def gaussian(*shape, seed=0):
    return tl.rng.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr)


# -- reduces to


def test_a_step_is_the_dense_step_cut_by_an_svd():
    x, y = gaussian(9, 6), gaussian(9, 5, seed=1)
    model, free = (nn.Linear(6, 5, bias=False, dtype=F64) for _ in range(2))
    free.weight.data = model.weight.data.clone()
    Projected(model, sgd(model), "*", rank=2).step(lambda: (model(x) - y).square().sum())
    (free(x) - y).square().sum().backward()
    w = free.weight.detach() - 0.1 * free.weight.grad
    assert torch.allclose(model.weight, tl.LowRank.from_dense(w, 2).to_dense(), atol=1e-13)


def test_a_convolution_is_cut_as_its_flattened_kernel():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, dtype=F64))
    method = Projected(model, sgd(model, 0.01), "*", rtol=0.4)
    method.step(lambda: model(gaussian(2, 3, 5, 5)).square().mean())
    r = method.ranks["0"]
    assert 1 <= r < 8 and int(torch.linalg.matrix_rank(model[0].weight.flatten(1))) == r


@pytest.mark.parametrize("penalty", [0.01, 0.5, 3.0])
def test_no_rank_has_a_lower_price(penalty):
    w = gaussian(6, 5)
    x, r = prox_rank(w, penalty)
    s = torch.linalg.svdvals(w)
    costs = [float(s[k:].square().sum()) / 2 + penalty * k for k in range(1, 6)]
    assert float((x - w).square().sum()) / 2 + penalty * r == pytest.approx(min(costs))


def test_turns_are_two_steps_of_half_the_factors():
    """Joint: both gradients at the same point.  In turn: that of v at the new u."""
    w = tl.LowRank.randn((5, 4), 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    x, y = gaussian(7, 4), gaussian(7, 5, seed=1)
    u, v = (t.clone().requires_grad_() for t in w.tensors())
    loss = lambda u, v: (x @ v @ u.T - y).square().sum()
    gu, gv = torch.autograd.grad(loss(u, v), (u, v))
    u1 = u - 0.01 * gu
    later = torch.autograd.grad(loss(u1, v), (v,))[0]
    for turns, right in ((False, gv), (True, later)):
        layer = tl.FactorizedLinear(w)
        first = FactorSGD(layer, sgd(layer, 0.01), alternate=turns).step(
            lambda layer=layer: (layer(x) - y).square().sum()
        )
        assert first.item() == pytest.approx(loss(u, v).item())
        assert torch.allclose(layer.tensors[0], u1) and torch.allclose(
            layer.tensors[1], v - 0.01 * right
        )


# -- by hand, says no


def test_projects_only_now_and_then():
    model = nn.Linear(5, 5, bias=False, dtype=F64)
    method = Projected(model, sgd(model, 0.01), "*", rank=1, every=3)
    seen = []
    for _ in range(6):
        method.step(lambda: (model(torch.eye(5, dtype=F64)) - gaussian(5, 5)).square().sum())
        seen.append(int(torch.linalg.matrix_rank(model.weight)))
    assert seen[2::3] == [1, 1] and min(seen[0], seen[1], seen[3], seen[4]) > 1


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (
            lambda: Projected(nn.Sequential(nn.Linear(2, 2)), None, "*"),
            "needs one of rank, rtol and penalty, got rank=None",
        ),
        (
            lambda: Projected(nn.Sequential(nn.Linear(2, 2)), None, "*", rank=1, penalty=1.0),
            "got rank=1, rtol=None, penalty=1.0",
        ),
        (
            lambda: Projected(nn.Sequential(nn.Linear(2, 2)), None, "head", rank=1),
            r"layer \(0\), got 'head'",
        ),
        (
            lambda: Projected(nn.Sequential(nn.Linear(2, 2)), None, "*", rank=1, every=0),
            "every must be an integer >= 1, got 0",
        ),
        (
            lambda: FactorSGD(nn.Linear(2, 2), None, alternate=True),
            "two factors to alternate, got no factors",
        ),
        (
            lambda: FactorSGD(
                tl.FactorizedLinear(tl.LowRank.randn((4, 3), 2).orthogonal()), None, alternate=True
            ),
            "to alternate, got 3",
        ),
    ],
)
def test_says_no(act, said):
    with pytest.raises(ValueError, match=said):
        act()


def test_balanced_factors_are_the_same_matrix_with_equal_norms():
    w = tl.dlrt_start(
        (7, 5), 3, decay=10.0, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    two = balanced(w)
    assert (
        torch.allclose(two.to_dense(), w.to_dense(), atol=1e-14)
        and two.s is None
        and two.ranks == (3,)
    )
    assert torch.allclose(two.u.norm(dim=0), two.v.norm(dim=0), atol=1e-14)
