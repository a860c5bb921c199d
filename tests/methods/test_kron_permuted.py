"""Permuted Kronecker sums: planted permutations, monotone error, the layer with its buffers, and
what is refused."""

import copy

import pytest
import torch

import tensorlab as tl
from tensorlab.methods.kron_permuted import PermutedLinear, kron_permuted, replace_permuted


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def planted(a, b, seed=0, noise=0.0):
    """A Kronecker product of Gaussian factors of shapes a and b, its rows and columns shuffled."""
    g = seeded(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)
    w = torch.kron(draw(*a), draw(*b))
    w = w + noise * draw(*w.shape)
    m, n = w.shape
    return w[torch.randperm(m, generator=g)][:, torch.randperm(n, generator=g)]


def error(w, value):
    return float((w - value.to_dense()).norm() / w.norm())


@pytest.mark.thorough
def test_planted_permutations_are_found_in_8_of_10_seeds():
    """Found are all 10 of 10."""
    found = 0
    for seed in range(10):
        w = planted((8, 8), (8, 8), seed)
        fit = kron_permuted(w, (8, 8), 1, generator=seeded(seed))
        found += error(w, fit.value) < 1e-10
        assert error(w, tl.kron_svd(w, (8, 8), 1)) > 0.5
    assert found >= 8


@pytest.mark.parametrize("a, b", [((4, 6), (5, 3)), ((2, 8), (9, 2)), ((6, 2), (2, 7))])
def test_other_shapes(a, b):
    w = planted(a, b)
    assert error(w, kron_permuted(w, a, 1).value) < 1e-10


def test_a_little_noise():
    w = planted((6, 6), (6, 6), noise=1e-4)
    assert error(w, kron_permuted(w, (6, 6), 1).value) < 2e-4


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_the_error_never_rises_and_is_never_worse_than_without(seed, rank):
    w = torch.randn(24, 20, generator=seeded(seed), dtype=torch.float64)
    fit = kron_permuted(w, (4, 5), rank, generator=seeded())
    history = fit.history
    assert all(b <= a * (1 + 1e-12) for a, b in zip(history, history[1:]))
    assert history[-1] == pytest.approx(error(w, fit.value), rel=1e-9)
    assert history[-1] < error(w, tl.kron_svd(w, (4, 5), rank))


def test_same_seed_same_numbers_and_more_starts_are_no_worse():
    w = torch.randn(12, 12, generator=seeded(), dtype=torch.float64)
    run = lambda starts: kron_permuted(w, (3, 4), 2, starts=starts, generator=seeded(3)).history[-1]
    assert run(6) == run(6) <= run(3) <= run(1)


def test_scaling_changes_nothing():
    w = torch.randn(12, 12, generator=seeded(), dtype=torch.float64)
    a, b = (kron_permuted(x, (3, 4), 2, generator=seeded()) for x in (w, w * 2.0**-400))
    assert a.history == b.history and torch.equal(a.value.rows, b.value.rows)


def test_zeros():
    assert kron_permuted(torch.zeros(4, 6), (2, 3), 1).value.to_dense().abs().max() == 0


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))


def test_the_layer():
    dense, x = model(), torch.randn(5, 12, generator=seeded())
    make = lambda w: kron_permuted(w, (2, 4), 2, generator=seeded()).value
    net = replace_permuted(copy.deepcopy(dense), "0", make)
    layer = net[0]
    assert isinstance(layer, PermutedLinear)
    want = x @ make(dense[0].weight).to_dense().mT + dense[0].bias
    assert torch.allclose(layer(x), want, atol=1e-5)
    assert torch.allclose(layer.weight, make(dense[0].weight).to_dense(), atol=1e-6)
    assert {"columns", "places"} <= {name for name, _ in layer.named_buffers()}
    net(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    row = tl.layer_report(net, dense)["0"]
    assert row.kind == "PermutedLinear" and row.parameters == layer.inner.weight.numel
    assert row.error == pytest.approx(error(dense[0].weight, make(dense[0].weight)), rel=1e-4)


def test_the_permutations_are_saved():
    make = lambda seed: (
        lambda w: kron_permuted(w, (2, 4), 2, generator=seeded(seed), starts=1).value
    )
    a = replace_permuted(model(), "0", make(0))
    b = replace_permuted(model(), "0", lambda w: make(1)(torch.randn(8, 12, generator=seeded(7))))
    x = torch.randn(5, 12, generator=seeded())
    assert not torch.allclose(a(x), b(x))
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(x), b(x))


@pytest.mark.parametrize(
    "change, kind, words",
    [
        (dict(left=(5, 4)), ValueError, ["rows of 1, 2, 3, 4, 6, 12", "(5, 4)"]),
        (dict(rank=13), ValueError, ["rank from 1 to 12", "13"]),
        (dict(starts=0), ValueError, ["starts", "0"]),
        (dict(max_iter=0), ValueError, ["max_iter", "0"]),
        (dict(w=torch.full((12, 12), float("nan"))), ValueError, ["nan"]),
        (dict(w=torch.ones(12, 12, dtype=torch.complex64)), TypeError, ["real", "complex64"]),
        (dict(generator=3), TypeError, ["torch.Generator", "3"]),
    ],
)
def test_refuses(change, kind, words):
    with pytest.raises(kind) as caught:
        kron_permuted(**dict(w=torch.ones(12, 12), left=(3, 4), rank=2) | change)
    message = str(caught.value)
    assert all(word in message for word in words), message
