"""The plain network: it is its formula, and it learns."""

import torch
from torch import nn

from tensorlab.models.mlp import MLP, accuracy, train
from tensorlab.rng import randn


def test_it_is_its_formula(generator):
    model = MLP((6, 5, 4, 3), act=torch.tanh, generator=generator).double()
    x = randn(7, 2, 3, generator=generator, dtype=torch.float64)
    a, b, c = model.layers
    assert torch.allclose(model(x), c(torch.tanh(b(torch.tanh(a(x.flatten(1)))))), atol=1e-14)


def test_one_seed_one_network():
    a, b = (MLP((4, 5, 3), generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_training_finds_what_a_line_parts(generator):
    x = randn(400, 2, generator=generator)
    y = (x[:, 0] > x[:, 1]).long()
    model = MLP((2, 2), generator=generator)
    losses = list(
        train(
            model,
            torch.optim.Adam(model.parameters(), 0.05),
            x,
            y,
            epochs=10,
            batch=40,
            generator=generator,
        )
    )
    assert len(losses) == 10 and losses[-1] < losses[0] / 2 and accuracy(model, x, y) > 0.97


def test_the_loss_of_an_epoch_is_the_mean_over_uneven_batches(generator):
    x, y = randn(5, 2, generator=generator), torch.tensor([0, 1, 1, 0, 1])
    model = MLP((2, 2), generator=generator)
    (loss,) = train(
        model,
        torch.optim.SGD(model.parameters(), 0.0),
        x,
        y,
        epochs=1,
        batch=2,
        generator=generator,
    )
    assert abs(loss - nn.functional.cross_entropy(model(x), y).item()) < 1e-6


def test_accuracy_by_hand():
    model, x = nn.Identity(), torch.tensor([[2.0, 1.0], [0.0, 1.0], [5.0, 1.0]])
    assert accuracy(model, x, torch.tensor([0, 1, 1]), batch=2) == 2 / 3
