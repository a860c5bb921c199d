"""The plain network: it is its formula, and one seed gives one network."""

import torch

from tensorlab.models.mlp import MLP
from tensorlab.rng import randn


def test_it_is_its_formula(generator):
    model = MLP((6, 5, 4, 3), act=torch.tanh, generator=generator).double()
    x = randn(7, 2, 3, generator=generator, dtype=torch.float64)
    a, b, c = model.layers
    assert torch.allclose(model(x), c(torch.tanh(b(torch.tanh(a(x.flatten(1)))))), atol=1e-14)


def test_one_seed_one_network():
    a, b = (MLP((4, 5, 3), generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
