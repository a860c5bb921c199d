"""Adapters on the character model: what moves, how many numbers, and the program end to end at a
small size."""

import matplotlib.figure
import pytest
import torch

from tensorlab import datasets
from tensorlab.models.gpt import GPT
from tensorlab.papers import lora


def small():
    return GPT(
        20, width=16, depth=1, heads=2, context=8, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize(
    "way, rank, numbers",
    [
        ("none", 0, 0),
        ("all weights", 0, sum(p.numel() for p in small().parameters())),
        ("biases", 0, 3 * 16 + 16 + 64 + 16 + 3 * 16),
        ("lora", 2, 2 * (16 + 48 + 16 + 16 + 16 + 64 + 64 + 16)),
        ("dlrt", 2, 2 * (16 + 48 + 16 + 16 + 16 + 64 + 64 + 16)),
    ],
)
def test_numbers_that_move(way, rank, numbers):
    model = lora.prepare(small(), way, rank, torch.Generator().manual_seed(0))
    assert lora.trained_numbers(model) == numbers


@pytest.mark.parametrize("way", ["lora", "dlrt"])
def test_only_what_may_move_moves(way):
    model = lora.prepare(small(), way, 2, torch.Generator().manual_seed(0))
    frozen = {
        name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad
    }
    lora.adapt(
        model, 0.01, torch.arange(100) % 20, steps=3, generator=torch.Generator().manual_seed(0)
    )
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], t) for name, t in frozen.items())
    assert model.blocks[0].up.delta.weight.to_dense().abs().max() > 0


@pytest.mark.thorough
def test_the_program_at_a_small_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = datasets.corpus()
    monkeypatch.setattr(datasets, "corpus", lambda: text[:30000])
    lora.texts.cache_clear()
    lora.pretrained.cache_clear()
    size = {
        "rates": {"other": (1e-2, 3e-2)},
        "seeds": (0, 1),
        "pretrain": 30,
        "steps": 8,
        "width": 32,
    }
    monkeypatch.setitem(
        lora.SIZES, "quick", size | {"ways": [("none", 0), ("lora", 2), ("dlrt", 4)]}
    )
    table = lora.PROGRAM.run("quick", progress=False)
    labels = [(row["way"], row["seed"]) for row in table.rows]
    assert labels == [
        ("none", 0),
        ("lora", 0),
        ("lora", 0),
        ("lora", 1),
        ("dlrt", 0),
        ("dlrt", 0),
        ("dlrt", 1),
    ]
    before, *rest = table["code test"]
    assert all(bits < before for bits in rest)  # something was learned
    assert "by" in lora.draw(table, matplotlib.figure.Figure().subplots())
