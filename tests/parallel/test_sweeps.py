"""Sweeps: one table on every backend, and a killed one goes on where it was."""

import multiprocessing
from functools import partial

import joblib
import pytest
import rank_jobs
import torch

from tensorlab.parallel import sweeps

POINTS = sweeps.grid(rank=(1, 2, 3), seed=range(4), lr=(0.01, 0.1))


@pytest.fixture(scope="module")
def table():
    """What one process gives."""
    before = torch.get_num_threads()
    rows = sweeps.sweep(rank_jobs.fit, POINTS, progress=False)
    assert torch.get_num_threads() == before
    return rows


def test_rows_are_points_and_what_the_function_gives(table):
    assert len(table) == 24 and [{k: row[k] for k in POINTS[0]} for row in table] == POINTS
    one = rank_jobs.fit(**POINTS[7])
    assert table[7]["loss"] == pytest.approx(one["loss"], rel=1e-12)
    assert {row["threads"] for row in table} == {1}
    assert len({row["loss"] for row in table}) == 24


@pytest.mark.thorough
def test_the_same_table_on_loky(table, capsys):
    with joblib.parallel_config("loky", n_jobs=2):
        assert sweeps.sweep(rank_jobs.fit, POINTS) == table
    assert capsys.readouterr().err.count("sweep ") == 24


def test_the_same_table_on_dask(table):
    distributed = pytest.importorskip("distributed", reason="needs the bench extra, for dask")
    options = dict(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1")
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster):
        with joblib.parallel_config("dask"):
            assert sweeps.sweep(rank_jobs.fit, POINTS, progress=False) == table


@pytest.mark.thorough
def test_a_killed_sweep_goes_on_and_repeats_no_finished_point(table, tmp_path):
    path, log = tmp_path / "sweep.jsonl", str(tmp_path / "calls")
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=rank_jobs.killed_sweep, args=(str(path), log, POINTS, 10))
    process.start()
    process.join()
    assert process.exitcode == 9 and len(path.read_text().splitlines()) == 9
    path.write_text(path.read_text() + '{"point": {"ra')  # cut short, as by a power failure
    assert sweeps.sweep(partial(rank_jobs.fit, log=log), POINTS, path, progress=False) == table
    calls = open(log).read().splitlines()
    assert len(calls) == 25 and len(set(calls)) == 24  # only the one that was killed, twice
    assert sweeps.sweep(partial(rank_jobs.fit, log=log), POINTS, path, progress=False) == table
    assert len(open(log).read().splitlines()) == 25


def test_what_is_refused(tmp_path):
    run = partial(sweeps.sweep, rank_jobs.fit, progress=False)
    with pytest.raises(ValueError, match="got one of them twice"):
        run([POINTS[0], dict(POINTS[0])])
    with pytest.raises(ValueError, match="threads >= 1, got 0"):
        run(POINTS, threads=0)
    (tmp_path / "other").write_text('{"point": {"theta": 1}, "row": {}}\n')
    with pytest.raises(ValueError, match="a file of the same points, got one of theta"):
        run(POINTS, tmp_path / "other")


def test_csv(tmp_path):
    sweeps.save_csv([{"rank": 1, "loss": 0.5}, {"rank": 2, "loss": 0.25}], tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "rank,loss\n1,0.5\n2,0.25\n"
