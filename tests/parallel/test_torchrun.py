"""`tensorlab run KEY` under torchrun: trainings by shared batches are those of one process, rows
are shared out, and one process writes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import rank_jobs
import torch
from torch import distributed as dist
from torch import nn

from tensorlab import papers
from tensorlab.models.training import data_parallel
from tensorlab.papers.table import load

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo"),
    pytest.mark.xdist_group("ranks"),
]
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def launched(folder, ranks, *command):
    """What so many processes of a command print, run in a folder."""
    paths = [str(Path(rank_jobs.__file__).parent), str(Path(papers.__file__).parents[2])]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    options = dict(cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    return subprocess.run([*LAUNCH, str(ranks), *command], **options)


def by_one_and_two(key, tmp_path, monkeypatch, two):
    """The table of a program by one process and that by two, read from what they have written."""
    folder = tmp_path / "two"
    folder.mkdir()
    two.run(rank_jobs.run_in, str(folder), key)
    monkeypatch.chdir(tmp_path)
    one = rank_jobs.programs()[key].run("quick", progress=False)
    return one, load(folder / f"results/{key}-quick.csv")


def test_trainings_that_share_batches_are_those_of_one_process(tmp_path, monkeypatch, two):
    one, two = by_one_and_two("Batches", tmp_path, monkeypatch, two)
    assert two["how"] == list(rank_jobs.TRAININGS)
    for a, b in zip(one.rows, two.rows):
        for name in ("loss", "seen"):
            assert b[name] == pytest.approx(a[name], rel=1e-12, abs=1e-12), a["how"]
    assert len(set(two["pid"])) == 1 and not set(two["pid"]) & set(one["pid"])


def test_trainings_shared_out_by_rows_are_those_of_one_process_to_the_bit(tmp_path, two):
    tables = two.run(rank_jobs.run_in, str(tmp_path), "Batches", share="rows")
    assert tables[0].rows == tables[1].rows
    assert tables[0]["rank"] == [k % 2 for k in range(len(rank_jobs.TRAININGS))]
    for row in tables[0].rows:
        for alone in two.run(rank_jobs.by_itself, row["how"]):
            assert (alone["loss"], alone["seen"]) == (row["loss"], row["seen"])
    with pytest.raises(ValueError, match="Rows: needs share='rows', for it has no batches"):
        rank_jobs.programs()["Rows"].run("quick", share="batches")
    with pytest.raises(ValueError, match="share"):
        rank_jobs.programs()["Rows"].run("quick", share="columns")


def test_rows_are_shared_out_and_keep_their_order(tmp_path, monkeypatch, two):
    one, two = by_one_and_two("Rows", tmp_path, monkeypatch, two)
    assert two["n"] == one["n"] and two["square"] == one["square"]
    assert two["rank"] == [0, 1, 0, 1, 0] and len(set(two["pid"])) == 2


def test_rows_that_follow_from_others_are_measured_by_one_process(tmp_path, monkeypatch, two):
    one, two = by_one_and_two("Sequence", tmp_path, monkeypatch, two)
    assert two["square"] == one["square"] == [1, 4, 25] and set(two["rank"]) == {0}


def test_rows_of_a_group_are_shared_out_and_the_next_group_waits_for_all(
    tmp_path, monkeypatch, two
):
    one, two = by_one_and_two("Groups", tmp_path, monkeypatch, two)
    assert two["square"] == one["square"] == [1, 4, 9, 16, 81]
    assert two["rank"] == [0, 1, 0, 0, 1]


def test_one_process_prints_and_says_what_all_do(tmp_path):
    done = launched(tmp_path, 2, rank_jobs.__file__, "Batches", "Rows", "Sequence")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("csv: ") == 3 and len(re.findall("^how", done.stdout, re.M)) == 1
    for said in (
        "Batches quick: 2 processes share each batch of a training; its numbers are those of one",
        "Rows quick: 2 processes share out the rows; each row is measured by one of them.",
        "Sequence quick: 2 processes share out those rows that do not depend on each other.",
    ):
        assert done.stderr.count(said) == 1
    assert done.stderr.count("Rows quick 5/5: ") == 1


def test_a_run_goes_on_where_it_was_with_any_number_of_processes(tmp_path, monkeypatch, two):
    monkeypatch.chdir(tmp_path)
    program = rank_jobs.programs()["Rows"]
    rows = program.run("quick", progress=False).rows
    path = tmp_path / "results/Rows-quick.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(("1,", "3,"))))
    for table in two.run(rank_jobs.run_in, str(tmp_path), "Rows"):
        assert table["square"] == [0, 1, 4, 9, 16] and table["rank"] == [0, 0, 0, 1, 0]
        assert [table.rows[k] for k in (0, 2, 4)] == [rows[k] for k in (0, 2, 4)]
    assert load(path)["pid"] == table["pid"]


@pytest.mark.parametrize(
    "kind, named",
    [
        (nn.BatchNorm1d(4), "BatchNorm1d in layer '1'"),
        (nn.Dropout(0.5), "Dropout in layer '1'"),
        (nn.TransformerEncoderLayer(4, 2, 8), "MultiheadAttention in layer '1.self_attn'"),
        (nn.MultiheadAttention(4, 2, dropout=0.1), "MultiheadAttention in layer '1'"),
        (nn.LSTM(4, 4, 2, dropout=0.1), "LSTM in layer '1'"),
        (nn.RReLU(), "RReLU in layer '1'"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_what_one_process_would_do_otherwise_is_refused(two, kind, named):
    assert data_parallel(kind) is kind  # one process may
    with pytest.raises(RuntimeError, match=f"on chance in a process, got {named}"):
        two.run(data_parallel, nn.Sequential(nn.Linear(4, 4), kind))


def test_a_dropout_that_no_module_shows_is_refused_where_it_drops(two):
    with pytest.raises(RuntimeError, match="draws no random numbers .* got Dropping, whose"):
        two.run(rank_jobs.shared_loss, rank_jobs.Dropping(0.5))
    for model in (rank_jobs.Dropping(0.0), rank_jobs.Dropping(0.5).eval()):
        one, both = rank_jobs.shared_loss(model), two.run(rank_jobs.shared_loss, model)
        assert all(torch.allclose(g, one, rtol=0, atol=1e-14) for g in both)


def test_an_encoder_that_drops_nothing_is_shared(two):
    model = nn.Sequential(
        nn.Unflatten(1, (4, 4)),
        nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True),
        nn.Flatten(),
    ).double()
    both = two.run(rank_jobs.shared_loss, model)
    one = rank_jobs.shared_loss(model)
    assert all(torch.allclose(g, one, rtol=0, atol=1e-14) for g in both)


def test_all_under_torchrun_is_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(ValueError, match="needs the key of one paper under torchrun, got all"):
        papers.run_all()


def test_programs_that_train_networks_by_batches_share_them():
    """Those whose module wraps a model, and no others."""
    for program in papers.programs().values():
        text = Path(sys.modules[program.measure.__module__].__file__).read_text()
        assert (program.share == "batches") == ("data_parallel(" in text), program.key
