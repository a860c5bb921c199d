"""Tangent windows against plain factors: what is counted, how a rate is chosen, the program."""

from dataclasses import replace
from functools import partial

import matplotlib.figure
import pytest
import torch
from torch import nn

import tensorlab as tl
from tensorlab.models.training import batches
from tensorlab.papers import tangent as paper
from tensorlab.papers.table import Table

GRIDS = {"SGD": {"dense": (0.1,), "tangent": (0.05, 0.1), "plain": (0.05, 1e9)}}
SMALL = {"digits": {**paper.DIGITS, "epochs": 1, "choose": (0,), "seeds": (0, 1), "grids": GRIDS}}


@pytest.mark.parametrize("way, rank", [("plain", 6), ("tangent", 6), ("factors", 6)])
def test_equal_numbers_are_kept(way, rank):
    """Of a budget less than the cheapest rank may be left, here 164."""
    row = paper.measure(SMALL, "digits", way, "SGD", rank, "valid", 0.05, 0)
    plain = 6 * (164 + 200 + 200) + 1000
    assert plain - 164 < row["numbers"] <= plain and "test" not in row
    assert row["held"] == {"plain": plain}.get(way, 1000 + (2 if way == "tangent" else 1) * 16920)


def test_multiply_adds_are_three_for_each_weight_and_row():
    row = paper.measure(SMALL, "digits", "dense", "SGD", None, "valid", 0.05, 0)
    assert row["multiply-adds"] == pytest.approx(3 * 27400 * 1200 / 1e9, abs=5e-4)


@pytest.mark.parametrize("kind", ["falling", "svd"])
def test_starts_are_balanced(kind):
    w = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    low = paper.start(w, 8, kind, torch.Generator().manual_seed(1))
    assert torch.allclose(low.u.mT @ low.u, low.v.mT @ low.v, atol=1e-4) and low.ranks == (8,)
    if kind == "svd":
        assert torch.allclose(low.to_dense(), tl.LowRank.from_dense(w, 8).to_dense())
    else:
        assert float(low.norm()) == pytest.approx(60**0.5, rel=1e-5)


@pytest.mark.thorough
def test_the_program_at_a_small_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(paper.SIZES, "quick", SMALL)
    table = paper.PROGRAM.run("quick", progress=False)
    means = {row["way"]: row for row in table.where(seed="mean")}
    assert list(means) == ["dense", "tangent", "plain"]
    assert means["plain"]["rate"] == 0.05  # the other diverges, which counts as 0
    assert table.where(way="plain", rate=1e9)[0]["valid"] == 0
    for way, row in means.items():
        mine = [r["test"] for r in table.where(way=way, look="test") if r["seed"] != "mean"]
        assert row["test"] == pytest.approx(sum(mine) / 2, abs=0.006) and len(mine) == 2
        assert all(r.get("test") is None for r in table.where(way=way, look="valid"))
    once = replace(paper.PROGRAM, measure=lambda *a, **k: pytest.fail("measured again"))
    filled = lambda rows: [{k: v for k, v in row.items() if v is not None} for row in rows]
    assert filled(once.run("quick", progress=False).rows) == filled(table.rows)
    said = paper.draw(table, matplotlib.figure.Figure().subplots())
    assert "digits" in said and "%" in said


def by_parts(parts: int, dtype) -> list[tuple]:
    """Tangent windows on batches whose loss is summed over so many parts, as by as many processes:
    after each step what comes out for some rows, and which gates were open in it."""
    setting, g, now = SMALL["digits"], torch.Generator().manual_seed(0), []
    x, y, *_ = paper.images("digits", 0)
    x, model = x.to(dtype), paper.made(setting, "tangent", 6, g).to(dtype)

    def relu(h):
        if torch.is_grad_enabled():  # in a step, not in a cut
            now.append(h > 0)
        return nn.functional.relu(h)

    model.act, seen = relu, []
    entropy = partial(nn.functional.cross_entropy, reduction="sum")
    method = paper.stepper(setting, model, "tangent", "SGD", 6, 0.1, 80, x[: paper.INPUTS])
    for rows in batches(len(y), 32, epochs=2, generator=g):
        some = rows.tensor_split(parts)
        method.step(lambda some=some: sum(entropy(model(x[k]), y[k]) for k in some) / 32)
        layers = len(now) // parts
        gates = [torch.cat(now[k::layers]) for k in range(layers)]
        with torch.no_grad():
            seen.append((model(x[:50]), torch.stack(gates)))
        now.clear()
    return seen


@pytest.mark.thorough
@pytest.mark.parametrize("dtype, least", [(torch.float64, 76), (torch.float32, 1)])
def test_two_parts_of_a_batch_are_all_of_it_until_a_gate_differs(dtype, least):
    """Why this program shares rows and not batches: in float32 a ReLU's input is within rounding of
    zero now and then, and which gates are open is another network; in float64 none is."""
    steps, bound = 0, {torch.float64: 1e-12, torch.float32: 1e-5}[dtype]
    for (a, gates), (b, others) in zip(by_parts(1, dtype), by_parts(2, dtype)):
        if not gates.equal(others):
            break
        assert float((a - b).norm() / a.norm()) < bound
        steps += 1
    assert steps >= least


def test_an_edge_is_told():
    label = {"network": "n", "way": "plain", "optimizer": "SGD", "rank": 1}
    rows = [label | {"look": "valid", "rate": r, "seed": 0, "valid": 9.0} for r in (1, 2, 3)]
    for best, edge in ((1, "yes"), (2, "no")):
        test = label | {"look": "test", "rate": best, "seed": 0, "valid": 9.0, "test": 8.0}
        assert paper.finish(Table("n", [*rows, test])).rows[-1]["edge"] == edge
