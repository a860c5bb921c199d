"""Lesson 30: what the pictures say is what the schedules, the processes and the formulas give."""

import pytest
import torch
from torch import distributed as dist

from tensorlab.course.lessons import parallel as lesson
from tensorlab.parallel import cost, schedules
from tensorlab.parallel.distributed import Ranks


@pytest.mark.parametrize("name", lesson.NAMES)
def test_the_designer_says_what_the_schedule_is(name):
    e = lesson.Designer(name)
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


def test_late_machines_make_it_longer():
    e = lesson.Designer()
    spans = []
    for late in (0.0, 0.3, 0.9):
        e.set(late=late)
        spans.append(float(e.sentence.split(": ")[1].split()[0]))
    assert spans == sorted(spans) and spans[0] < spans[-1]


def test_sizes_that_do_not_fit_are_a_sentence(monkeypatch):
    monkeypatch.setenv("TENSORLAB_STRICT", "0")
    e = lesson.Designer("interleaved")
    picture = e.view.value
    e.set(micro=6)
    assert "ranks that divides 6 micro-batches (1, 2, 3, 6), got 4" in e.status.value
    assert e.view.value == picture
    s = lesson.Split()
    s.set(ranks=3)
    assert "ranks that divides 64 columns" in s.status.value


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


def test_right_answers(capsys):
    def column(u, v, x, p, ranks):
        n = len(u) // ranks
        return (x @ v) @ u[p * n : (p + 1) * n].T

    assert lesson.least_micro(63) and not lesson.least_micro(70) and not lesson.least_micro(64)
    assert lesson.low_rank_column(column)
    assert lesson.own_order(("F0 F1 B0 F2 B1 B2", "F0 B0 F1 B1 F2 B2"))
    assert not lesson.own_order(schedules.show(schedules.gpipe(2, 3)))
    assert not lesson.own_order(("F0 B0 F1 B1", "F0 F1 B0 B1"))
    assert "deadlock" in capsys.readouterr().out
    assert torch.equal(lesson._1f1b(), torch.tensor([12.0, 2.0, 1.0], dtype=torch.float64))
