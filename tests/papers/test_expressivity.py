"""Widths of networks: the program at the small preset, the bound up to twelve modes, conversions
that are exact."""

import matplotlib.figure
import numpy as np
import pytest
import torch

import tensorlab as tl
from tensorlab.papers import expressivity
from tensorlab.papers.table import printed


def test_the_program(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = expressivity.PROGRAM.run("quick", progress=False)
    ours = [row for row in table.rows if row.get("width") is not None]
    bound = [row for row in ours if row["what"] == expressivity.BOUND]
    beside = [row for row in bound if row["width (printed)"] is not None]
    assert beside and all(row["width (printed)"] == row["theory"] for row in beside)
    assert all(row["width"] >= row["theory"] for row in bound) and len(bound) > 8
    said = expressivity.draw(table, matplotlib.figure.Figure().subplots())
    assert said == f"The bound q^(d/2) (dotted) holds in {len(bound)} of {len(bound)} cases."
    for row in ours:
        if row["what"].endswith("from CP"):
            assert row["width"] <= row["r"]
        if row["what"] == "HT from TT":
            assert row["width"] <= row["r"] ** 2
        if row["what"] == "CP from HT" and row["n"] >= row["r"]:
            assert row["width"] >= row["r"] ** (row["d"] // 2)


@pytest.mark.parametrize("n, r, d", [(2, 2, 12), (2, 3, 12), (3, 3, 8), (4, 2, 8), (3, 2, 10)])
def test_the_bound_up_to_twelve_modes(n, r, d):
    x = expressivity.network("TT", n, r, d).to_dense()
    found = expressivity.matricization_rank(x, range(0, d, 2))
    assert found >= min(n, r) ** (d // 2)
    if n <= r:
        assert found == n ** (d // 2)


@pytest.mark.parametrize("n, r, d", [(2, 2, 12), (2, 4, 8), (3, 3, 8), (3, 3, 10), (4, 2, 6)])
def test_the_bound_holds_without_rounding(n, r, d):
    assert expressivity.exact_rank(n, r, d) >= min(n, r) ** (d // 2)
    assert expressivity.exact_rank(n, 1, d) == 1


def test_rank_modulo_a_prime_is_that_of_numpy(generator):
    a = torch.randint(9, (12, 5), generator=generator) @ torch.randint(
        9, (5, 20), generator=generator
    )
    assert expressivity.rank_modulo(a) == np.linalg.matrix_rank(a.numpy()) == 5


def test_widths_are_the_ranks_that_the_decompositions_find():
    tt, ht = (expressivity.network(name, 2, 2, 8) for name in ("TT", "HT"))
    assert expressivity.width("HT", tt) == max(tl.ht_svd(tt.to_dense(), rtol=1e-10).ranks)
    assert expressivity.width("TT", ht) == max(tl.tt_svd(ht.to_dense(), rtol=1e-10).ranks)
    assert expressivity.width("TT", tt) == 2


def test_ranks_by_hand():
    i = torch.arange(3.0).double()
    x = i[:, None, None, None] + i[:, None, None] * i[:, None] * i
    assert (
        expressivity.matricization_rank(x, (0, 2)) == 2 == expressivity.matricization_rank(x, (0,))
    )
    assert expressivity.growth("CP", 2, [3], [4, 8]) == [(4, 3), (8, 3)]


def test_printed_rows_are_the_theorem():
    assert all(
        row["width"] == min(row["n"], row["r"]) ** (row["d"] // 2)
        for row in printed(expressivity.PROGRAM.key).rows
    )
