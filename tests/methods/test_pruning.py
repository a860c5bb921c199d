"""Pruning: masks as torch's, blocks by hand, what has fallen stays fallen, and every training is
counted."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import tensorlab as tl
from tensorlab.methods.pruning import (
    block_masks,
    forward_flops,
    hold,
    lottery,
    magnitude_masks,
    prune,
    sparsity,
)
from tensorlab.models.lenet import LeNet
from tensorlab.models.mlp import MLP


def network(sizes=(6, 8, 5), seed=0):
    return MLP(sizes, generator=torch.Generator().manual_seed(seed))


def data(n=12, width=6, classes=5):
    x = tl.rng.randn(n, width, generator=torch.Generator().manual_seed(3))
    return x, torch.arange(n) % classes


def trainer(epochs=3, lr=0.1, momentum=0.9):
    x, y = data()

    def train(model, masks):
        optimizer = torch.optim.SGD(model.parameters(), lr, momentum=momentum)
        hold(optimizer, model, masks)
        for _ in range(epochs):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        return epochs * len(y)

    return train


# -- reduces to


@pytest.mark.parametrize("share", [0.0, 0.3, 0.75])
def test_one_threshold_for_all_is_torchs_global_pruning(share):
    masks = magnitude_masks(network(), "layers.*", share)
    theirs = network()
    pairs = [(layer, "weight") for layer in theirs.layers]
    torch_prune.global_unstructured(pairs, pruning_method=torch_prune.L1Unstructured, amount=share)
    for k, layer in enumerate(theirs.layers):
        assert torch.equal(masks[f"layers.{k}"], layer.weight_mask.bool())


@pytest.mark.parametrize(
    "model, names",
    [(network(), "layers.*"), (LeNet(8, channels=(3, 4), hidden=8, kernel=3, padding=1), "*")],
)
def test_a_threshold_for_each_layer_is_torchs_l1_pruning(model, names):
    masks = magnitude_masks(model, names, 0.4, across="layer")
    for name, mask in masks.items():
        layer = model.get_submodule(name)
        module = torch_prune.l1_unstructured(
            nn.ParameterDict({"weight": layer.weight.detach().clone()}), "weight", 0.4
        )
        assert torch.equal(mask, module.weight_mask.bool())


def test_rows_as_blocks_are_torchs_structured_pruning():
    model = network()
    layer = torch_prune.ln_structured(network().layers[0], "weight", amount=3, n=2, dim=0)
    assert torch.equal(
        block_masks(model, "layers.0", 3 / 8, (1, 6))["layers.0"], layer.weight_mask.bool()
    )


def test_a_block_of_one_is_an_entry():
    model = network()
    for across in ("model", "layer"):
        a, b = (
            magnitude_masks(model, "*", 0.5, across=across),
            block_masks(model, "*", 0.5, (1, 1), across=across),
        )
        assert all(torch.equal(a[name], b[name]) for name in a)


# -- is invariant


def test_scale_and_dtype_do_not_change_the_mask():
    model, scaled = network(), network().double()
    for p in scaled.parameters():
        p.data *= 1000
    a, b = (block_masks(m, "*", 0.6, (2, 3)) for m in (model, scaled))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_counts_are_exact_when_all_weights_are_equal():
    model = network()
    for p in model.parameters():
        p.data.fill_(1.0)
    masks = magnitude_masks(model, "*", 0.37)
    assert sum(int((~m).sum()) for m in masks.values()) == round(0.37 * (48 + 40))


def test_what_has_fallen_stays_fallen_even_when_it_would_be_large():
    model = network()
    first = magnitude_masks(model, "*", 0.5)
    model.layers[0].weight.data[~first["layers.0"]] = 100.0
    second = magnitude_masks(model, "*", 0.75, masks=first)
    assert not any((second[name] & ~first[name]).any() for name in first)
    assert sparsity(second) == pytest.approx(0.75)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, 0.1),
    ],
)
def test_no_momentum_brings_a_weight_back(make):
    model = network()
    optimizer, (x, y) = make(model.parameters()), data()

    def step():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    step()  # there is momentum now
    masks = magnitude_masks(model, "*", 0.5)
    handle = hold(optimizer, model, masks)
    step()
    for name, mask in masks.items():
        w = model.get_submodule(name).weight
        assert not w[~mask].any() and w[mask].all()
    handle.remove()
    step()
    assert all(model.get_submodule(name).weight[~mask].any() for name, mask in masks.items())


# -- by hand


def test_blocks_at_the_edge():
    model = nn.Sequential(nn.Linear(3, 3, bias=False))
    model[0].weight.data = torch.tensor([[1.0, 1, 9], [1, 1, 9], [4, 4, 0.1]])
    kept = [block_masks(model, "0", share, (2, 2))["0"].int().tolist() for share in (0.25, 0.5)]
    assert kept[0] == [[1, 1, 1], [1, 1, 1], [1, 1, 0]]  # mean squares 1, 81, 16 and 0.01
    assert kept[1] == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]


def test_flops_by_hand():
    model = LeNet(
        8,
        channels=(3, 4),
        hidden=8,
        kernel=3,
        padding=1,
        generator=torch.Generator().manual_seed(0),
    )
    x = torch.zeros(5, 8, 8)
    parts = [2 * 64 * 3 * 9, 2 * 16 * 4 * 27, 2 * 8 * 16, 2 * 10 * 8]
    assert forward_flops(model, x) == sum(parts)
    masks = magnitude_masks(model, "conv2", 0.5)
    assert forward_flops(model, x, masks) == sum(parts) - parts[1] // 2
    assert not any(layer._forward_hooks for layer in model.modules())


def test_the_lottery_rewinds_and_counts():
    model, (x, _) = network(), data()
    start = [layer.weight.detach().clone() for layer in model.layers]
    tickets, first = [], []

    def train(model, masks):
        for layer, w0, mask in zip(model.layers, start, masks.values()):
            assert torch.equal(layer.weight, w0 * mask)  # each round begins where the first did
        return trainer()(model, masks)

    for ticket in lottery(model, train, "layers.*", x, rounds=3, prune_rate=0.5):
        tickets.append(ticket)
        first.append(model.layers[0].weight.detach().clone())
    assert [t.sparsity for t in tickets] == pytest.approx([0, 0.5, 0.75, 0.875])
    assert [t.dense_flops for t in tickets] == [3 * 36 * 2 * 88] * 4
    assert [t.flops for t in tickets] == [3 * 36 * 2 * n for n in (88, 44, 22, 11)]
    for before, after in zip(tickets, tickets[1:]):
        assert not any((after.masks[n] & ~before.masks[n]).any() for n in after.masks)
    again = network()
    trainer()(again, tickets[3].masks)  # a ticket trains in isolation to the same network
    assert torch.equal(again.layers[0].weight, first[3])


def test_another_start_is_the_control():
    model, (x, _) = network(), data()
    seen = []

    def train(model, masks):
        seen.append(model.layers[0].weight.detach().clone())
        return trainer()(model, masks)

    other = torch.Generator().manual_seed(7)
    list(
        lottery(model, train, "*", x, rounds=1, restart=lambda m: tl.layers.linear.redraw(m, other))
    )
    mask = seen[1] != 0
    assert not torch.equal(seen[0][mask], seen[1][mask])


# -- says no


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda m: magnitude_masks(m, "*", 1.0), "got 1.0"),
        (lambda m: magnitude_masks(m, "layers.7", 0.5), r"\(layers.0, layers.1\), got 'layers.7'"),
        (lambda m: magnitude_masks(m, "*", 0.5, across="net"), "got 'net'"),
        (
            lambda m: magnitude_masks(m, "*", 0.5, masks={"layers.0": torch.ones(2, 2)}),
            "got one of 'layers.0'",
        ),
        (
            lambda m: block_masks(m, "*", 0.5, (2, 0)),
            r"block: needs a shape of integers >= 1, got \(2, 0\)",
        ),
        (
            lambda m: prune(m, {"layers.0": torch.ones(2, 2, dtype=torch.bool)}),
            r"shape \(8, 6\) for layer 'layers.0', got \(2, 2\)",
        ),
        (
            lambda m: list(lottery(m, trainer(), "*", data()[0], rounds=0)),
            "rounds must be an integer >= 1, got 0",
        ),
        (
            lambda m: list(
                lottery(
                    m,
                    lambda model, masks: [p.data.add_(1) for p in model.parameters()] and 1,
                    "*",
                    data()[0],
                    rounds=1,
                )
            ),
            "got weights that came back",
        ),
    ],
)
def test_says_no(call, said):
    with pytest.raises(ValueError, match=said):
        call(network())
