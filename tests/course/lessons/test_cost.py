"""The lesson on costs: its counts against torch, its sentences against the ledger, its pictures."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

import tensorlab as tl
from tensorlab.course import widgets
from tensorlab.course.lessons import cost as lesson
from tensorlab.layers.ledger import MIB
from tensorlab.layers.report import layer_report
from tensorlab.papers import footprint


def test_the_sentence_says_what_the_ledger_counts():
    e = lesson.LedgerExplorer()
    e.set(layers="SVD", batch=3, share=0.3, optimizer="none")
    dense, svd = (
        lesson.ledger(layers, "none", share, 3) for layers, share in (("dense", 1.0), ("SVD", 0.3))
    )
    assert f"{svd.peak / MIB:.2f} MiB at the peak, " in e.sentence
    assert f"{svd.peak / dense.peak:.3f} times those of dense with none" in e.sentence
    assert f"keeps {(svd.forward - svd.load) / MIB:.2f} MiB" in e.sentence


@pytest.mark.thorough
@pytest.mark.parametrize("layers", lesson.OPTIMIZERS)
def test_limits_follow_the_layers_and_the_optimizer(layers, monkeypatch):
    monkeypatch.setenv("TENSORLAB_STRICT", "1")
    monkeypatch.setattr(widgets, "_image", lambda figure, sentence, small=False: sentence)
    e = lesson.LedgerExplorer()
    e.set(layers=layers)
    for optimizer in lesson.OPTIMIZERS[layers]:
        e.set(optimizer=optimizer)
        whole = layers == "dense" and optimizer not in ("GaLore", "Dion")
        assert (e.value("share") == 1) is whole and e.value("optimizer") == optimizer
        assert e.sentence.startswith(f"{layers}, {optimizer} with ")
        assert ("of the width" in e.sentence) is (optimizer in ("GaLore", "Dion"))
        assert f"dense with {lesson.PLAIN.get(optimizer, optimizer)}" in e.sentence


@pytest.mark.parametrize("layers, optimizer", [("SVD", "Adam"), ("TTM", "none"), ("DLRT", "DLRT")])
def test_no_share_is_refused(layers, optimizer):
    few, many = (lesson.ledger(layers, optimizer, share, 1) for share in (0.02, 0.95))
    assert few.load < many.load and few.peak < many.peak


def test_a_wrong_value_is_a_sentence_and_the_picture_stays():
    e = lesson.LedgerExplorer()
    picture = e.view.value
    e.boxes["batch"].value = "17"
    assert "batch: needs a whole number in 1..16, got 17" in e.status.value
    assert e.view.value == picture


@pytest.mark.parametrize("layers, share", [("SVD", 0.3), ("TTM", 0.3), ("SVD", 0.95)])
def test_the_share_is_that_of_the_layers(layers, share):
    model = footprint.encoder(lesson.SIZE, layers, "all", torch.Generator().manual_seed(0), share)
    rows = [row for row in layer_report(model).rows if row.kind in ("LowRank", "TTMatrix")]
    kept = sum(row.parameters for row in rows) / sum(row.dense for row in rows)
    assert share - 0.05 < kept <= share


@pytest.mark.parametrize("name, of", [("GaLore", 2), ("Dion", 1)])
def test_the_share_is_that_of_the_rank(name, of):
    model = footprint.encoder(lesson.SIZE, "dense", "none", torch.Generator(), 1.0)
    optimizer = footprint.stepper(model, name, 0.5)["optimizer"]
    assert optimizer.param_groups[0]["rank"] == 48 and type(optimizer) is getattr(tl, name)


@pytest.mark.parametrize("sides", [(6, 4), (6, 2, 4), (5, 5, 5)])
def test_what_autograd_keeps_is_what_torch_packs(sides):
    maps = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in zip(sides, sides[1:])))
    known, kept = {p.data_ptr() for p in maps.parameters()}, {}

    def pack(t):
        if t.data_ptr() not in known:
            kept[t.data_ptr()] = t
        return t

    x = torch.ones(9, sides[0])
    with saved_tensors_hooks(pack, lambda t: t):
        maps(x)
    nbytes = sum(t.numel() * t.element_size() for t in kept.values())
    assert lesson.kept_bytes.expected(9, sides, 4) == nbytes


def test_break_even_by_the_ledger():
    """The first number of tokens whose factors are above the dense layer, after the forward."""
    dense = nn.Linear(384, 384, bias=False)
    thin = nn.Sequential(nn.Linear(384, 94, bias=False), nn.Linear(94, 384, bias=False))
    for tokens, above in ((800, False), (801, True)):
        x = torch.ones(tokens, 384)
        forward = [
            tl.training_memory(model, lambda: model(x).sum(), inputs=[x]).forward  # noqa: B023
            for model in (dense, thin)
        ]
        assert (forward[1] > forward[0]) is above
    assert lesson.break_even(801)


def test_adams_bytes_are_those_that_a_step_holds():
    layer, x = nn.Linear(40, 30, bias=False), torch.zeros(1, 40)
    adam = torch.optim.Adam(layer.parameters(), foreach=False)
    for _ in range(2):
        memory = tl.training_memory(layer, lambda: layer(x).sum(), optimizer=adam)
    want = lesson.adam_bytes.expected([(30, 40)], 4)
    assert 0 <= memory.backward - want <= 16  # and the number of the step, and the loss


def test_the_step_is_galores():
    w, g, *_ = lesson.gaussian((5, 7), (5, 7))
    p = nn.Parameter(w.clone())
    p.grad = g
    optimizer = tl.GaLore([p], lr=0.1, rank=2)
    optimizer.step()
    basis, zero = torch.linalg.svd(g)[0][:, :2], torch.zeros(2, 7, dtype=g.dtype)
    found = lesson.galore_step.expected(w, g, basis, zero, zero, 1, 0.1)
    assert torch.allclose(p.detach(), found[: w.numel()].view_as(w))


def test_the_ranks_of_the_exercise_are_those_of_the_library():
    gradients, rtol = lesson.sum_ranks.cases()[0]
    found = [total for _, total in tl.gradient_ranks(gradients, rtol=rtol)]
    assert found == lesson.sum_ranks.expected(gradients, rtol).tolist()


def test_gradients_are_those_before_the_changes():
    gradients, changes = lesson.trained_gradients(1, 4)
    assert len(gradients) == len(changes) == 4 and gradients[0].shape == (32, 128)
    found, s = lesson.ranks(1, 4), np.linalg.svd(sum(gradients).numpy(), compute_uv=False)
    tails = np.sqrt(np.cumsum(s[::-1] ** 2)[::-1])
    assert found["their sum"][-1] == int((tails > 0.1 * tails[0]).sum())
    assert found["one gradient"][0] == found["their sum"][0]
    held = lesson.held(1, 4, 32, 2)
    assert all(share == pytest.approx(1, abs=1e-5) for v in held.values() for share in v)
    own, anew, once = lesson.held(1, 4, 2, 2).values()
    assert own[0] == anew[0] == once[0] and own[2] == anew[2] > once[2]


def test_every_way_learns_and_holds_what_it_should():
    ways = {way: lesson.learned(way, 8, 1, 0)[0] for way in lesson.RATES}
    assert ways["Adam"] == pytest.approx(12 * (64 * 64 * 2 + 64 * 10 + 138), abs=100)
    assert ways["DLRT"] < ways["SVD"] < ways["GaLore"] < ways["Dion"] < ways["Adam"]
    found = lesson.compare((2,), 1, 1)
    assert "The most digits that each reads" in lesson.draw_compared(Figure(), found)


def test_recorded_and_printed():
    said = lesson.draw_recorded(Figure())
    assert "batch 1: SVD 0.69, TTM 0.72" in said and "batch 16: SVD 1.03, TTM 0.96" in said
    said = lesson.draw_inference(Figure())
    assert "TTM all 4.11, TTM folded all 0.99" in said
    assert lesson.joules(lesson.recorded(1)["dense"]) == 12


def test_the_crossing_is_one():
    at = lesson.first_above(lesson.SHARE)
    shares = [lesson.peak_shares(lesson.WITHOUT, b)["SVD"] for b in (at - 1, at)]
    assert shares[0] <= 1 < shares[1]
