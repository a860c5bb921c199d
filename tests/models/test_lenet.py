"""LeNet-5: the sizes of the compression papers, and a small one for digits."""

import torch
from torch import nn

from tensorlab.models.lenet import LeNet
from tensorlab.rng import randn


def test_its_sizes_are_those_of_the_papers():
    model = LeNet()
    assert [sum(p.numel() for p in m.parameters()) for m in model.children()] == [
        520,
        25050,
        400500,
        5010,
    ]


def test_it_is_the_usual_sequence(generator):
    model, x = LeNet(generator=generator), randn(3, 28, 28, generator=generator)
    pool, act = nn.MaxPool2d(2), nn.ReLU()
    parts = [
        model.conv1,
        act,
        pool,
        model.conv2,
        act,
        pool,
        nn.Flatten(),
        model.dense1,
        act,
        model.dense2,
    ]
    want = nn.Sequential(*parts)(x[:, None])
    assert torch.allclose(model(x), want, atol=1e-6) and torch.equal(model(x), model(x[:, None]))


def test_small_digits_pass(generator):
    model = LeNet(8, kernel=3, padding=1, channels=(4, 6), hidden=16, generator=generator)
    assert model(torch.zeros(5, 8, 8)).shape == (5, 10) and model.dense1.in_features == 6 * 2 * 2
