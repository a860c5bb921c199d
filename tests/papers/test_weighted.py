"""Weighted compression of an encoder: the program end to end on one that is drawn, the order of the
methods, the printed table; the real weights where they are installed."""

import matplotlib.figure
import pytest

from tensorlab.papers import weighted
from tensorlab.papers.table import Table, printed


@pytest.fixture(scope="module")
def table():
    size = weighted.SIZES["quick"]
    rows = [case | weighted.measure(size, **case) for case in weighted.cases(size)]
    return Table("Hsu2022", rows)


def moved(table, method):
    (row,) = table.where(method=method, layers="all")
    return row["mse"]


@pytest.mark.thorough
def test_what_each_weighting_is_worth(table):
    """The order that the real encoder shows, with no weights needed: plain, one diagonal, whitened,
    ranks by the spectrum, targets; and a train that is fitted."""
    order = ("svd", "fwsvd columns", "whitened", "kfac spectrum", "kfac spectrum targets")
    changes = [moved(table, method) for method in order]
    assert all(a > b for a, b in zip(changes, changes[1:]))
    assert moved(table, "whitened") < 0.1 * moved(table, "svd")
    assert moved(table, "ttm fitted") < 0.1 * moved(table, "ttm")
    assert table.where(method="full")[0]["mse"] == 0


@pytest.mark.thorough
def test_no_method_keeps_more_than_was_asked_for(table):
    full = weighted.subject(False)[0]
    every = sum(p.numel() for p in full.parameters())
    linear = sum(
        p.numel()
        for n, p in full.named_parameters()
        if n.endswith("dense.weight") or ".self." in n and n.endswith("weight")
    )
    for row in table.rows[1:]:
        most = 1 - (1 - row["kept"]) * linear / every
        assert row["kept of the model"] <= most + 1e-4


def test_a_picture(table):
    figure = matplotlib.figure.Figure()
    assert "kfac spectrum targets moves the vectors least" in weighted.draw(
        table, figure.subplots()
    )


def test_the_table_of_the_talk_is_whole():
    """All columns, what is kept in both ways, and the average that the columns have."""
    rows = printed("Hsu2022").rows
    assert len(rows) == 16
    tasks = ("STS-B", "CoLA", "MNLI", "MRPC", "QNLI", "QQP", "RTE", "SST-2", "WNLI")
    for row in rows:
        assert row["kept"] <= row["kept of the model"]
        mean = sum(row[task] for task in tasks) / 9
        assert row["average"] == pytest.approx(mean, abs=0.016), row  # printed with two digits
    assert {row["kept of the model"] for row in rows if row["layers"] == "ffn"} == {
        0.49,
        0.63,
        0.95,
    }
