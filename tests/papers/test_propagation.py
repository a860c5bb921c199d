"""The signal-propagation table: the memory it counts, its order, and what stands printed beside
it."""

import pytest
import torch

from tensorlab.papers import propagation as paper


def test_peak_bytes_by_hand():
    x = torch.ones(1000)
    assert paper.peak_bytes(lambda: x + 1, [x]) == 4000
    assert (
        paper.peak_bytes(lambda: ((x + 1) * 2) + 3, [x]) == 8000
    )  # two are alive while the next is made
    assert paper.peak_bytes(lambda: [x + 1 for _ in range(5)], [x]) == 20000


@pytest.mark.thorough
def test_quick_has_the_order_of_the_printed_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = paper.PROGRAM.run("quick", progress=False)
    assert len(table) == 8 and len(table.where(forward="fixed order")) == 3
    mib = {(row["forward"], row["gradient"]): row["MiB"] for row in table.rows}
    for forward in ("einsum", "fixed order"):
        assert (
            mib[forward, "autograd"]
            > 1.5 * mib[forward, "full einsum"]
            > 1.5 * mib[forward, "full matrix"]
        )
    assert mib["fixed order", "autograd"] > mib["einsum", "autograd"]
    assert (
        mib["auto", "recompute"]
        <= min(mib[forward, "autograd"] for forward in ("einsum", "fixed order")) / 2
    )
    printed = {(row["forward"], row["gradient"]): row["MiB (printed)"] for row in table.rows}
    assert printed["fixed order", "autograd"] == 2544 and printed["auto", "recompute"] is None


def test_says_no():
    with pytest.raises(ValueError, match="got 'medium'"):
        paper.PROGRAM.run("medium")
