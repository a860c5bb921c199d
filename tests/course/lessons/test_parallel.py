"""Lesson 30: what the pictures say is what the schedules, the processes and the formulas give."""

import os
import signal
import threading

import pytest
import torch
from torch import distributed as dist
from torch.nn.functional import cross_entropy

from tensorlab.course.digits import digits
from tensorlab.course.lessons import parallel as lesson
from tensorlab.models.mlp import MLP
from tensorlab.models.training import batches
from tensorlab.parallel import cost
from tensorlab.parallel.distributed import Ranks


@pytest.mark.thorough
@pytest.mark.parametrize("name", lesson.NAMES)
def test_the_designer_says_what_the_schedule_is(name):
    e = lesson.ScheduleDesigner(name)
    assert e.sentence.startswith("4 ranks, 8 micro-batches: ")
    whole = {"F": 1.0, "R": 1.0, "B": 1.0 if name == "ZB-H1" else 2.0, "W": 1.0}
    if name == "Varuna":
        assert ": 39 from start to end" in e.sentence and "formula" not in e.sentence
        return
    chunks = 2 if name == "interleaved" else 1
    expected = cost.makespan(name, 4, 8, whole, chunks)
    assert f": {expected:.4g} from start" in e.sentence
    assert f"The formula says {expected:.4g} where no machine is late." in e.sentence
    held = [cost.activations(name, 4, 8, s, chunks) for s in range(4)]
    assert f"at most {', '.join(map(str, held))} micro-batches." in e.sentence
    assert ("1/2 of a rank" in e.sentence) is (name == "interleaved")


@pytest.mark.thorough
def test_late_machines_make_it_longer():
    e = lesson.ScheduleDesigner()
    spans = []
    for late in (0.0, 0.3, 0.9):
        e.set(late=late)
        spans.append(float(e.sentence.split(": ")[1].split()[0]))
    assert spans == sorted(spans) and spans[0] < spans[-1]


@pytest.mark.parametrize("micro", [1, 5, 6, 30])
def test_no_interleaved_stages_are_refused(micro):
    e = lesson.ScheduleDesigner("interleaved")
    e.set(micro=micro)
    assert micro % e.value("ranks") == 0
    assert e.sentence.startswith(f"{e.value('ranks')} ranks, {micro} micro-batches: ")
    e.set(schedule="GPipe")
    assert e.controls["ranks"].options == tuple(range(1, 9))


@pytest.mark.thorough
def test_no_split_is_refused():
    e = lesson.Split()
    for width in (17, 60, 126):
        e.set(width=width)
        for ranks in e.controls["ranks"].options:
            e.set(ranks=ranks)
            assert width % ranks == 0 and f"is in {ranks} parts" in e.sentence


@pytest.mark.thorough
@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
@pytest.mark.xdist_group("ranks")
def test_what_ran_stands_above_what_was_simulated(two):
    e = lesson.Ran(two, seconds=0.03)
    ran, line = (float(text.split(": ")[1].split()[0]) for text in e.sentence.split("Simulated"))
    assert e.sentence.startswith("Ran, 2 ranks, 4 micro-batches: ")
    assert 0 < line <= ran * 1.001  # what is between them is sending and waiting
    e.set(schedule="interleaved")
    assert "Simulated, 2 ranks, 4 micro-batches: " in e.sentence


def test_ranks_that_die_are_one_sentence(monkeypatch):
    monkeypatch.setenv("TENSORLAB_STRICT", "0")
    ranks = Ranks(2)

    def dead(*_, **__):
        raise RuntimeError("rank 1 died, with exit code 3")

    monkeypatch.setattr(ranks, "run", dead)
    e = lesson.Ran(ranks)
    e.show()
    assert "rank 1 died, with exit code 3" in e.status.value and "Traceback" not in e.status.value


@pytest.mark.parametrize("split, way", [("column", "backward"), ("row", "forward")])
def test_the_split_says_who_holds_what_and_what_is_sent(split, way):
    e = lesson.Split(split)
    cut, whole = ("u", "v") if split == "column" else ("v", "u")
    assert f"{cut}, 64 x 8, is in 2 parts of its rows." in e.sentence
    assert f"{whole}, 64 x 8, is whole." in e.sentence
    assert f"In the {way}" in e.sentence and "of 8 numbers for each row" in e.sentence
    assert "32 bytes, 32 over each rank's wire" in e.sentence  # 2 (p - 1) / p of them, p = 2
    e.set(weight="dense", ranks=4)
    side = "rows" if split == "column" else "columns"
    assert f"w, 64 x 64, is in 4 parts of its {side}." in e.sentence
    assert "of 64 numbers" in e.sentence and "256 bytes, 384 over" in e.sentence


def test_recorded_curves_are_those_of_the_formulas():
    idle, held = lesson.idle_shares(4)
    assert idle["naive"] == [(m, 0.75) for m in (8, 16, 32, 64)]
    for m, share in idle["interleaved, 2 chunks"]:
        assert share == pytest.approx(3 / (2 * m + 3))
    assert held["1F1B"] == [(m, 4) for m in (8, 16, 32, 64)]
    assert lesson.lateness()[0]["Varuna"] == (27, pytest.approx(34.396, abs=1e-3))


def test_widths_and_memory_are_counted():
    found = lesson.summed_widths(64)
    assert found["TT-matrix 1"]["column"] <= 64 and found["BlockTT 2"]["row"] <= 64
    assert lesson.memory(1e9, 1) == dict.fromkeys(lesson.STAGES, 16.0)


@pytest.mark.thorough
@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
@pytest.mark.xdist_group("ranks")
def test_what_ran_is_never_faster_than_its_naps(two):
    seconds = lesson.waits(two, (2, 4), work=0.06)
    assert [m for m, _ in seconds["ran"]] == [2, 4]
    for (_, ran), (_, formula) in zip(seconds["ran"], seconds["formula"]):
        assert ran >= 0.99 * formula > 0.06


@pytest.mark.thorough
@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
@pytest.mark.xdist_group("ranks")
def test_a_rank_that_is_killed_is_one_sentence_and_no_process_is_left(monkeypatch):
    """Whoever notices first: the others lose the connection to it."""
    monkeypatch.setenv("TENSORLAB_STRICT", "0")
    before = lesson.alive()
    with Ranks(2) as ranks:
        e = lesson.Ran(ranks, seconds=0.3)
        e.show()
        assert lesson.alive() == before + 2
        victim = ranks._processes[1].pid
        threading.Timer(0.5, os.kill, (victim, signal.SIGKILL)).start()
        e.set(micro=12)  # which takes seconds
        assert ">RuntimeError: rank 1 died, with exit code -9<" in e.status.value
        assert lesson.alive() == before
    assert lesson.alive() == before


@pytest.mark.thorough
@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
@pytest.mark.xdist_group("ranks")
def test_power_sgd_sends_what_the_formula_says_and_the_whole_gradient_is_one_process(two):
    found = lesson.power_sgd(two, (1, 8), 2)
    assert list(found) == ["all-reduce", "rank 1", "rank 8"]
    assert found["all-reduce"]["bytes"] == 4 * (128 * 64 + 128 * 128 + 10 * 128 + 266)
    assert all(told["bytes"] == told["formula"] for told in found.values())
    assert [told["messages"] for told in found.values()] == [1, 3, 3]
    assert found["all-reduce"]["losses"] == pytest.approx(_read_by_one(2), rel=1e-3)
    whole, one, eight = (told["losses"] for told in found.values())
    assert whole[0] == one[0] == eight[0] and whole[-1] < one[-1] < whole[0]


def _read_by_one(epochs):
    x, y, *_ = digits()
    x, g = x.flatten(1) - 0.3, torch.Generator().manual_seed(0)
    model = MLP(lesson.READER, generator=g)
    sgd, losses = torch.optim.SGD(model.parameters(), 0.1, 0.9), [lesson._loss(model, x, y)]
    for _ in range(epochs):
        for rows in batches(len(y), 100, epochs=1, generator=g):
            sgd.zero_grad()
            cross_entropy(model(x[rows]), y[rows]).backward()
            sgd.step()
        losses.append(lesson._loss(model, x, y))
    return losses
