"""Pipes of processes train as one process does, in the order that `schedules` says."""

import pytest
import rank_jobs
import torch
from torch import distributed as dist

from tensorlab.parallel import pipelines, schedules
from tensorlab.parallel.distributed import Ranks, mean_durations

needs_gloo = pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
ORDERS = {
    "GPipe": lambda p, m, v: schedules.gpipe(p, m),
    "1F1B": lambda p, m, v: schedules.one_f_one_b(p, m),
    "interleaved": schedules.interleaved,
    "zero bubble": None,
}


@pytest.fixture(scope="module")
def four():
    with Ranks(4, timeout=120) as ranks:
        yield ranks


def check_pipe_is_one_process(ranks, name, micro):
    chunks = 2 if name in pipelines.SEVERAL else 1
    x, y = rank_jobs.pipe_data()
    job = (rank_jobs.stage_of, x, y, rank_jobs.error)
    done = pipelines.train_pipe(ranks, name, *job, micro=micro, chunks=chunks, steps=3)
    states, losses = rank_jobs.pipe_whole(ranks.world * chunks)
    assert list(done.states) == list(states)
    for k, state in states.items():
        for key, t in state.items():
            assert torch.allclose(done.states[k][key], t, rtol=0, atol=1e-12)
    assert done.losses == pytest.approx(losses, rel=0, abs=1e-12)
    if ORDERS[name]:
        assert done.line.orders == ORDERS[name](ranks.world, micro, chunks)
    kinds = mean_durations(done.line)
    assert set(kinds) == set("FBW" if name == "zero bubble" else "FB")
    assert len(done.line.runs) == len(kinds) * micro * ranks.world * chunks
    assert 0 <= done.line.bubble < 1


@needs_gloo
@pytest.mark.xdist_group("ranks")
@pytest.mark.parametrize("name", ORDERS)
def test_a_pipe_is_one_process_and_runs_in_our_order(two, name):
    check_pipe_is_one_process(two, name, 4)


@needs_gloo
@pytest.mark.xdist_group("ranks")
def test_naps_take_their_time(two):
    line = pipelines.nap_pipe(two, "1F1B", micro=2, forward=0.02, backward=0.03)
    assert line.makespan >= 3 * 0.05 * (1 - 1e-3)  # no sleep is short
    assert mean_durations(line)["B"] >= 0.03 * (1 - 1e-3)


@needs_gloo
@pytest.mark.slow
@pytest.mark.xdist_group("four ranks")
def test_naps_at_four_ranks_take_what_the_simulator_says(four):
    """Within 15 % of the longest path with the naps that were asked for, not those measured."""
    whole, micro = {"F": 0.12, "B": 0.24}, 8
    naps = dict(forward=whole["F"], backward=whole["B"])
    for name in ("GPipe", "1F1B", "interleaved"):
        chunks = 2 if name in pipelines.SEVERAL else 1
        ran = pipelines.nap_pipe(four, name, micro=micro, chunks=chunks, **naps)
        each = {kind: seconds / chunks for kind, seconds in whole.items()}
        line = schedules.times(ORDERS[name](4, micro, chunks), each)
        print(f"{name}: ran {ran.makespan:.3f} s, simulated {line.makespan:.3f} s")
        assert line.makespan * (1 - 1e-3) <= ran.makespan <= 1.15 * line.makespan, name


@needs_gloo
@pytest.mark.slow
@pytest.mark.xdist_group("four ranks")
@pytest.mark.parametrize("name", ORDERS)
def test_four_ranks(four, name):
    check_pipe_is_one_process(four, name, 8)


@pytest.mark.parametrize(
    "name, rows, micro, chunks, said",
    [
        ("1F1B", 8, 3, 1, "divides 8 rows \\(1, 2, 4, 8\\), got 3"),
        ("1F1B", 8, 2, 1, "as many micro-batches as stages or more, 3, got 2"),
        ("GPipe", 8, 2, 2, "one stage on each rank for GPipe.*got 2 chunks"),
        ("interleaved", 8, 4, 2, "divides 4 micro-batches \\(1, 2, 4\\), got 3"),
        ("2F2B", 8, 4, 1, "a schedule of GPipe, 1F1B, interleaved, zero bubble, got '2F2B'"),
        ("GPipe", 8, 4, 0, "got 0 chunks"),
    ],
)
def test_what_cannot_be_is_refused_before_a_process_starts(name, rows, micro, chunks, said):
    ranks, x = Ranks(3), torch.ones(rows, 8)
    with pytest.raises(ValueError, match=said):
        job = (rank_jobs.stage_of, x, x, rank_jobs.error)
        pipelines.train_pipe(ranks, name, *job, micro=micro, chunks=chunks)
    assert "not started" in repr(ranks)
    with pytest.raises(ValueError, match="1 to 2 stages for 2 layers, got 3"):
        pipelines.split_layers([torch.nn.ReLU()] * 2, 3)
