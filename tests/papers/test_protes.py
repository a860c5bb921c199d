"""The twenty problems: reference optima proved anew where that is quick, other definitions, the
program end to end."""

import math

import matplotlib.figure
import numpy as np
import pytest
import torch

from tensorlab.papers import protes as program
from tensorlab.papers import protes_problems as problems
from tensorlab.papers.protes_problems import KEYS, problem
from tensorlab.papers.table import printed

SEPARABLE = ("P-02", "P-05", "P-07", "P-08", "P-10")


@pytest.mark.parametrize("key", [*SEPARABLE, "P-03"])
def test_mode_by_mode_optimum(key):
    """A sum, or a monotone function of one, is smallest where each term is: every mode is moved
    alone, from any point."""
    p = problem(key)
    best = torch.zeros(1, 7, dtype=torch.int64)
    for k in range(7):
        line = best.repeat(16, 1)
        line[:, k] = torch.arange(16)
        best[0, k] = p.f(line).argmin()
    assert float(p.f(best)[0]) == pytest.approx(p.best, rel=1e-6)


def test_schaffer_by_dynamic_programming():
    x = problems.grid(-100, 100)
    cost = torch.zeros(16, dtype=torch.float64)
    for a, b in zip(x, x[1:]):
        pair = torch.cartesian_prod(a, b)
        cost = (cost[:, None] + problems.schaffer(pair).reshape(16, 16)).amin(0)
    assert float(cost.min()) == pytest.approx(problem("P-09").best, rel=1e-6)


@pytest.mark.parametrize("key", ["P-01", "P-04"])
def test_even_functions_by_half_the_points(key):
    p = problem(key)
    rest = torch.cartesian_prod(*[torch.arange(8)] * 5)
    best = min(
        float(p.f(torch.cat([torch.tensor([[i, j]]).expand(len(rest), -1), rest], 1)).min())
        for i in range(8)
        for j in range(8)
    )
    assert best == pytest.approx(p.best, rel=1e-6)


def test_knapsack_by_dynamic_programming():
    best = np.zeros(problems.CAPACITY + 1)
    for w, c in zip(problems.WEIGHTS, problems.PROFITS):
        best[w:] = np.maximum(best[w:], best[:-w] + c)
    assert -best.max() == problem("P-14").best


def test_the_graph_is_that_of_networkx_and_the_cover_by_its_cliques():
    nx = pytest.importorskip("networkx")
    graph = nx.fast_gnp_random_graph(50, 0.5, seed=42)
    assert {frozenset(e) for e in graph.edges} == {frozenset(e) for e in problems.edges().tolist()}
    independent = max(nx.find_cliques(nx.complement(graph)), key=len)
    chosen = torch.ones(1, 50, dtype=torch.int64)
    chosen[0, independent] = 0
    assert (
        float(problem("P-12").f(chosen)[0])
        == problem("P-12").best
        == 50 - len(independent) - 10 * graph.number_of_edges()
    )
    index = torch.randint(2, (5, 50), generator=torch.Generator().manual_seed(0))
    want = [-nx.cut_size(graph, np.flatnonzero(row).tolist()) for row in index.numpy()]
    assert problem("P-11").f(index).tolist() == want


def test_control_steps_solve_the_implicit_equation():
    """Newton's iteration beside the closed form, and the last solvable step."""
    h, x = 1 / 24, torch.linspace(-0.3, 1.8, 50, dtype=torch.float64)
    y = problems.implicit_step(x, h)
    assert torch.allclose(y - h * y**3, x, atol=1e-12) and bool((y < 1 / math.sqrt(3 * h)).all())
    on = torch.ones(1, 25, dtype=torch.int64)
    want, state = 0.0, 0.8
    for _ in range(24):
        new = right = state - h
        for _ in range(60):
            new = new - (new - h * new**3 - right) / (1 - 3 * h * new**2)
        state = new
        want += (state - 0.7) ** 2 / 2
    assert float(problem("P-15").f(on)[0]) == pytest.approx(want, rel=1e-10)
    assert float(problem("P-18").f(on)[0]) == float(problem("P-15").f(on)[0])


def test_a_control_without_a_solution_is_lost():
    """Never switched on, x' = x^3 from 0.8 is infinite at t = 1 / (2 * 0.8^2) = 0.78."""
    assert float(problem("P-17").f(torch.zeros(1, 100, dtype=torch.int64))[0]) == problems.LOST


@pytest.mark.slow
@pytest.mark.parametrize("key", ["P-15", "P-18"])
def test_control_by_beam_search(key):
    """States (x, runs) step by step, the cheapest kept: an upper bound that ten times the beam does
    not lower."""
    p, h = problem(key), 1 / 24
    step = torch.tensor(problems.RUNS.step if p.constraint else [[0, 0]] * 4)
    x, cost, state = torch.full((2,), 0.8).double(), torch.zeros(2).double(), step[0]
    for _ in range(24):
        x, cost, state = (
            [problems.implicit_step(x - h * i, h) for i in (0, 1)],
            cost,
            [step[state, i] for i in (0, 1)],
        )
        x, state = torch.cat(x), torch.cat(state)
        cost = cost.repeat(2) + (x - 0.7).square() / 2
        cost = torch.where(state < 0, math.inf, cost)
        keep = cost.argsort()[:200_000]
        keep = keep[cost[keep] < math.inf]
        x, cost, state = x[keep], cost[keep], state[keep]
    accepted = (state == 0) | (state == 3)
    assert float(cost[accepted].min()) == pytest.approx(p.best, rel=1e-4)


def test_every_problem_has_its_shape_and_says_no_to_another_name():
    for key in KEYS:
        p = problem(key)
        values = p.f(torch.zeros(3, len(p.shape), dtype=torch.int64))
        assert (
            values.shape == (3,) and values.dtype == torch.float64 and p.best <= float(values.min())
        )
    with pytest.raises(ValueError, match="needs one of P-01 to P-20, got 'P-21'"):
        problem("P-21")


def test_nothing_printed_is_below_a_reference_optimum():
    rows = {row["problem"]: row for row in printed("Batsheva2023").rows}
    assert set(rows) == set(KEYS)
    for key, row in rows.items():
        best = problem(key).best
        assert min(v for v in list(row.values())[1:] if v is not None) >= best - 1e-5 * abs(best)


def test_the_program_end_to_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(
        program.SIZES, "quick", {"problems": ("P-03", "P-18"), "budget": 500, "seeds": 2}
    )
    table = program.PROGRAM.run("quick", progress=False)
    assert (
        table["problem"] == ["P-03", "P-18"]
        and (tmp_path / "results" / "Batsheva2023-quick.csv").exists()
    )
    for row in table.rows:
        assert row["best"] <= row["median"] <= row["worst"] and row["evaluated"] == 500
        assert row["reference"] - 1e-6 <= row["best"] < row["random"] and row["gap %"] >= -1e-3
    assert program.PROGRAM.run("quick", progress=False).rows == table.rows
    assert len(table.beside(printed("Batsheva2023"))) == 20
    said = program.draw(table, matplotlib.figure.Figure().subplots())
    assert "of 2 problems" in said
    with pytest.raises(ValueError, match="preset must be .quick. or .full."):
        program.PROGRAM.run("fast")


def test_rivals_never_leave_the_feasible_set():
    p = problem("P-18")
    assert p.best <= program.random_search(p, 200, 0) < 1e42
    index = torch.zeros(2, 25, dtype=torch.int64)
    index[1, 3] = 1
    assert program.admitted(p, index).tolist() == [True, False]
