"""Two processes that take jobs: the runner itself, bytes counted, and data, pipeline and sharded
training that equal one process."""

import multiprocessing
import time
from pathlib import Path

import pytest
import rank_jobs
import torch
from torch import distributed as dist

from tensorlab.parallel.distributed import GRACE, Collectives, Ranks

pytestmark = [
    pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo"),
    pytest.mark.xdist_group("ranks"),
]


def same(a, b):
    return a.keys() == b.keys() and all(
        torch.allclose(t, b[name], rtol=0, atol=1e-12) for name, t in a.items()
    )


# --------------------------------------------------------------------------------------- the runner


def test_processes_stay_alive_for_job_after_job(two):
    first, second = two.run(rank_jobs.summed, 1), two.run(rank_jobs.summed, number=5)
    assert [float(t) for t, *_ in first] == [3.0] * 2 and float(second[0][0]) == 11.0
    assert [rank for _, rank, *_ in first] == [0, 1]
    assert [a[2] for a in first] == [a[2] for a in second] and first[0][2] != first[1][2]
    assert [a[3] for a in first] == [1, 1] and "pids" in repr(two)


def test_an_error_of_all_ranks_leaves_them_alive(two):
    before = [a[2] for a in two.run(rank_jobs.summed, 0)]
    with pytest.raises(RuntimeError, match="rank [01] raised ValueError: a number [01]") as said:
        two.run(rank_jobs.fails, on=(0, 1))
    assert "rank_jobs.py" in said.value.__notes__[0]
    assert [a[2] for a in two.run(rank_jobs.summed, 0)] == before


@pytest.mark.thorough
def test_one_that_fails_stops_all_and_the_next_job_starts_anew(two):
    before = {a[2] for a in two.run(rank_jobs.summed, 0)}
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="^rank 1 raised ValueError: a number 1\n"):
        two.run(rank_jobs.fails, on=(1,))  # rank 0 waits for it
    assert time.monotonic() - start < 4 * GRACE  # not for the whole minute
    assert repr(two) == "Ranks(2, gloo, not started)"
    assert before.isdisjoint(a[2] for a in two.run(rank_jobs.summed, 0))


@pytest.mark.thorough
def test_a_death_and_a_hang_are_errors_and_nothing_is_left_behind():
    with Ranks(1) as ranks:
        assert float(ranks.run(rank_jobs.summed, 2)[0][0]) == 2.0
        pids, folder = _pids(ranks), Path(ranks._folder.name)
        with pytest.raises(RuntimeError, match="^rank 0 died, with exit code 3"):
            ranks.run(rank_jobs.fails, on=(0,), how="die")
        _gone(pids, folder)
        ranks.run(rank_jobs.summed, 2)  # and it can be used again
        pids, folder, ranks.timeout = _pids(ranks), Path(ranks._folder.name), 1
        with pytest.raises(RuntimeError, match="^rank 0 gave no answer in 1 s"):
            ranks.run(rank_jobs.fails, on=(0,), how="hang")
        _gone(pids, folder)
    ranks.close()
    ranks.close()


def _gone(pids, folder):
    assert pids and not {p.pid for p in multiprocessing.active_children()} & set(pids)
    assert not folder.exists()


def _pids(ranks):
    return [p.pid for p in ranks._processes]


def test_what_no_process_could_read_is_refused_before_one_starts(monkeypatch):
    ranks = Ranks(2)
    with pytest.raises(ValueError, match="that pickle can send, got .*lambda"):
        ranks.run(lambda: 1)
    monkeypatch.delattr("__main__.__file__", raising=False)
    cell = type(rank_jobs.summed)(rank_jobs.summed.__code__, {"__name__": "__main__"})
    with pytest.raises(ValueError, match="got summed of this notebook; write it into a .py file"):
        ranks.run(cell, 1)
    assert "not started" in repr(ranks)
    for world in (0, 1.5, True):
        with pytest.raises(ValueError, match="Ranks: needs a number of processes >= 1"):
            Ranks(world)
    with pytest.raises(ValueError, match="timeout > 0, got 2 and 0"):
        Ranks(2, timeout=0)


# -------------------------------------------------------------------------------------------- bytes


@pytest.mark.thorough
def test_collectives_by_hand_are_counted(two):
    for seen, wire in two.run(rank_jobs.by_hand):
        assert seen == [
            ("all_reduce", 48),
            ("broadcast", 48),
            ("all_gather", 96),
            ("reduce_scatter", 48),
        ]
        assert wire == 48 + 24 + 48 + 24


def test_calls_are_counted_and_the_function_is_put_back(monkeypatch):
    plain = lambda tensor, op=None: (tensor, op)
    monkeypatch.setattr(dist, "all_reduce", plain)
    t = torch.ones(6, dtype=torch.float64)
    with pytest.raises(KeyError), Collectives().calls() as sent:
        assert dist.all_reduce(t, op="sum") == (t, "sum")
        raise KeyError
    assert sent.bytes == {"all_reduce": 48} and dist.all_reduce is plain


# ----------------------------------------------------------------------------- equal to one process


def test_data_parallel_is_one_process(two):
    expected = rank_jobs.whole()
    numbers = sum(t.numel() for t in expected.values())
    for state, sent in two.run(rank_jobs.ddp):
        assert same(state, expected)
        assert sent == {"all_reduce": 8 * 8 * numbers}  # eight steps in float64


def test_sharded_training_is_one_process(two):
    expected = rank_jobs.whole()
    numbers = sum(t.numel() for t in expected.values())
    total = 0
    for state, twice, counts in two.run(rank_jobs.fsdp):
        assert same(state, expected)
        total += twice / 2
        # three layers, gathered for the forward and again for the backward, and scattered once
        assert counts["reduce_scatter"] == 3 and counts["all_gather"] in (3, 5, 6)
    assert total == numbers
