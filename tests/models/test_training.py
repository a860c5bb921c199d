"""The training loop: it learns, its losses are those of torch, its splits lose no row."""

import pytest
import torch
from torch import nn

from tensorlab.models.mlp import MLP
from tensorlab.models.training import accuracy, batches, mean_loss, shuffled_parts, train
from tensorlab.rng import randn


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


def test_mean_loss_is_torchs(generator):
    model, x, y = nn.Linear(3, 4), randn(7, 3, generator=generator), torch.arange(7) % 4
    whole = nn.functional.cross_entropy(model(x), y).item()
    assert mean_loss(model, x, y, batch=2) == pytest.approx(whole, rel=1e-6)


def test_a_split_loses_no_row_and_keeps_pairs(generator):
    x = randn(11, 2, generator=generator)
    a, ya, b, yb, c, yc = shuffled_parts(x, x[:, 0], 4, 9, seed=3)
    assert [len(t) for t in (a, b, c)] == [4, 5, 2]
    assert all(torch.equal(t[:, 0], y) for t, y in ((a, ya), (b, yb), (c, yc)))
    assert torch.equal(torch.cat([ya, yb, yc]).sort().values, x[:, 0].sort().values)
    assert not torch.equal(a, shuffled_parts(x, x[:, 0], 4, seed=4)[0])


def test_each_epoch_holds_every_row_once(generator):
    rows = list(batches(7, 3, epochs=2, generator=generator))
    assert [len(r) for r in rows] == [3, 3, 1, 3, 3, 1]
    for part in (rows[:3], rows[3:]):
        assert sorted(torch.cat(part).tolist()) == list(range(7))
    assert not torch.equal(torch.cat(rows[:3]), torch.cat(rows[3:]))


def test_a_scheduler_steps_after_each_batch(generator):
    model = nn.Linear(2, 2)
    sgd = torch.optim.SGD(model.parameters(), 1.0)
    halving = torch.optim.lr_scheduler.ExponentialLR(sgd, 0.5)
    x, y = randn(6, 2, generator=generator), torch.arange(6) % 2
    list(train(model, sgd, x, y, epochs=2, batch=2, scheduler=halving, generator=generator))
    assert sgd.param_groups[0]["lr"] == 0.5**6
