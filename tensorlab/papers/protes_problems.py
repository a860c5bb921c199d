"""The twenty problems P-01 to P-20 of [Batsheva2023], rebuilt from their definitions, with
reference optima.

P-01..10: functions of 7 variables on 16 Chebyshev points each, the domain stretched about its
center by drawn numbers, so that the optimum of the grid is not that of the function. P-11..14: 50
bits. P-15..20: control of x' = x^3 - i(t) by d bits; in the last three every run of ones is at
least 3 long. The equation is solved by implicit Euler, which is what the solver of the authors does
to 4e-8.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..methods.protes import Automaton

RUNS = Automaton(
    step=[[0, 1], [-1, 2], [-1, 3], [0, 3]], accept=[0, 3]
)  # states: a 0, then 1, 2, 3 or more ones in a row
LOST = 1e50  # the cost of a control with which a step of implicit Euler has no solution

WEIGHTS = [
    80,
    82,
    85,
    70,
    72,
    70,
    66,
    50,
    55,
    25,
    50,
    55,
    40,
    48,
    59,
    32,
    22,
    60,
    30,
    32,
    40,
    38,
    35,
    32,
    25,
    28,
    30,
    22,
    50,
    30,
    45,
    30,
    60,
    50,
    20,
    65,
    20,
    25,
    30,
    10,
    20,
    25,
    15,
    10,
    10,
    10,
    4,
    4,
    2,
    1,
]
PROFITS = [
    220,
    208,
    198,
    192,
    180,
    180,
    165,
    162,
    160,
    158,
    155,
    130,
    125,
    122,
    120,
    118,
    115,
    110,
    105,
    101,
    100,
    100,
    98,
    96,
    95,
    90,
    88,
    82,
    80,
    77,
    75,
    73,
    72,
    70,
    69,
    66,
    65,
    63,
    60,
    58,
    56,
    50,
    30,
    20,
    15,
    10,
    8,
    5,
    3,
    1,
]
CAPACITY = 1000


@dataclass(frozen=True, eq=False)
class Objective:
    """f: (m, d) int64 -> (m,) float64, to be made small over multi-indices of `shape`, those of
    `constraint` where there is one.

    best: the smallest value known.  proof: how it is known.

    >>> p = problem("P-14")
    >>> p.name, p.f(torch.ones(1, 50, dtype=torch.int64)), p.best
    ('knapsack', tensor([0.], dtype=torch.float64), -3103.0)
    """

    key: str
    name: str
    shape: tuple[int, ...]
    f: Callable[[Tensor], Tensor]
    best: float
    proof: str
    constraint: Automaton | None = None


KEYS = tuple(f"P-{k:02}" for k in range(1, 21))


def problem(key: str) -> Objective:
    """One of the twenty by its name, P-01 to P-20.  ValueError for another one."""
    if key not in KEYS:
        raise ValueError(f"problem: needs one of P-01 to P-20, got {key!r}")
    best, proof = REFERENCE[key]
    if key in FUNCTIONS:
        name, f, low, high = FUNCTIONS[key]
        points = grid(low, high)
        return Objective(
            key, name, (16,) * 7, lambda index: f(points.gather(1, index.T).T), best, proof
        )
    if key in BITS:
        name, make = BITS[key]
        return Objective(key, name, (2,) * 50, make(), best, proof)
    d = {"P-15": 25, "P-16": 50, "P-17": 100, "P-18": 25, "P-19": 50, "P-20": 100}[key]
    name = f"control, {d} bits" + ", runs of 3" * (key >= "P-18")
    return Objective(key, name, (2,) * d, control, best, proof, RUNS if key >= "P-18" else None)


# ---------------------------------------------------------------------------------------- functions


def grid(low, high, d: int = 7, n: int = 16) -> Tensor:
    """Chebyshev points of the stretched domain, (d, n): x_j[i] = cos(pi i / (n-1)) (b_j - a_j) / 2
    + (a_j + b_j) / 2.

    a_j <- a_j - (b_j - a_j) s_j, b_j <- b_j + (b_j - a_j) s_j, s of numpy's RandomState(0).randn(d)
    / 10
    """
    low, high = (torch.as_tensor(x, dtype=torch.float64).expand(d) for x in (low, high))
    s = torch.from_numpy(np.random.RandomState(0).randn(d) / 10)  # noqa: NPY002  the authors' numbers
    a, b = low - (high - low) * s, high + (high - low) * s
    nodes = (math.pi * torch.arange(n, dtype=torch.float64) / (n - 1)).cos()
    return nodes * (b - a)[:, None] / 2 + (a + b)[:, None] / 2


def ackley(x):
    return (
        -20 * (-0.2 * x.square().mean(1).sqrt()).exp()
        - (2 * math.pi * x).cos().mean(1).exp()
        + 20
        + math.e
    )


def alpine(x):
    return (x * x.sin() + 0.1 * x).abs().sum(1)


def exponential(x):
    return -(-0.5 * x.square().sum(1)).exp()


def griewank(x):
    return 1 + x.square().sum(1) / 4000 - (x / _numbers(x).sqrt()).cos().prod(1)


def michalewicz(x):
    return -(x.sin() * (_numbers(x) * x.square() / math.pi).sin() ** 20).sum(1)


def piston(x):
    m, s, v0, k, p0, ta, t0 = x.unbind(1)
    a, q = p0 * s + 19.62 * m - k * v0 / s, p0 * v0 / t0
    v = s / (2 * k) * ((a.square() + 4 * k * q * ta).sqrt() - a)
    return 2 * math.pi * (m / (k + s.square() * q * ta / v.square())).sqrt()


def qing(x):
    return (x.square() - _numbers(x)).square().sum(1)


def rastrigin(x):
    return 10 * x.shape[1] + (x.square() - 10 * (2 * math.pi * x).cos()).sum(1)


def schaffer(x):
    z = x[:, :-1].square() + x[:, 1:].square()
    return (0.5 + (z.sqrt().sin().square() - 0.5) / (1 + 0.001 * z).square()).sum(1)


def schwefel(x):
    return 418.9829 * x.shape[1] - (x * x.abs().sqrt().sin()).sum(1)


def _numbers(x):
    return torch.arange(1.0, x.shape[1] + 1, dtype=x.dtype)


FUNCTIONS = {
    "P-01": ("Ackley", ackley, -32.768, 32.768),
    "P-02": ("Alpine", alpine, -10, 10),
    "P-03": ("exponential", exponential, -1, 1),
    "P-04": ("Griewank", griewank, -100, 100),
    "P-05": ("Michalewicz", michalewicz, 0, math.pi),
    "P-06": (
        "piston",
        piston,
        [30, 0.005, 0.002, 1000, 90000, 290, 340],
        [60, 0.020, 0.010, 5000, 110000, 296, 360],
    ),
    "P-07": ("Qing", qing, 0, 500),
    "P-08": ("Rastrigin", rastrigin, -5.12, 5.12),
    "P-09": ("Schaffer F6", schaffer, -100, 100),
    "P-10": ("Schwefel", schwefel, -500, 500),
}


# ------------------------------------------------------------------------------------------ bits


def edges(n: int = 50, p: float = 0.5, seed: int = 42) -> Tensor:
    """A random graph of n nodes by geometric skips, (edges, 2): the one that
    networkx.fast_gnp_random_graph gives.

    >>> edges().shape
    torch.Size([597, 2])
    """
    source, out, v, w = random.Random(seed), [], 1, -1
    while v < n:
        w += 1 + int(math.log(1 - source.random()) / math.log(1 - p))
        while w >= v and v < n:
            w, v = w - v, v + 1
        if v < n:
            out.append((v, w))
    return torch.tensor(out)


def cut():
    a, b = edges().T
    return lambda index: -(index[:, a] != index[:, b]).sum(1).double()


def cover():
    a, b = edges().T
    return lambda index: (index.sum(1) - 10 * ((index[:, a] + index[:, b]) > 0).sum(1)).double()


def quadratic():
    source = np.random.RandomState(0)  # noqa: NPY002  the authors' numbers
    value, size = (torch.from_numpy(source.random_sample(50)) for _ in range(2))
    value, goal = value / 3, size.mean()

    def f(index):
        load = index.double() @ size
        return 10 * (load.square() - 2 * goal * load) - index.double() @ value

    return f


def knapsack():
    weights, profits = torch.tensor(WEIGHTS), torch.tensor(PROFITS)
    return lambda index: torch.where(
        (index * weights).sum(1) <= CAPACITY, -(index * profits).sum(1), 0
    ).double()


BITS = {
    "P-11": ("maximum cut", cut),
    "P-12": ("vertex cover", cover),
    "P-13": ("quadratic knapsack", quadratic),
    "P-14": ("knapsack", knapsack),
}


# ------------------------------------------------------------------------------------------ control


def control(index: Tensor, start: float = 0.8, goal: float = 0.7) -> Tensor:
    """The cost sum_k (x_k - goal)^2 / 2 of x' = x^3 - i(t) on [0, 1] with d nodes, h = 1 / (d - 1),
    by implicit Euler:

        x_k - h x_k^3 = x_{k-1} - h i_k,   k = 1..d-1,   x_0 = start;     the first bit is not used

    The left side is largest at 1 / sqrt(3 h), and the branch below it is the solution; with more on
    the right the control is LOST.
    """
    h = 1 / (index.shape[1] - 1)
    x = torch.full(index.shape[:1], start, dtype=torch.float64, device=index.device)
    cost, lost = torch.zeros_like(x), torch.zeros_like(x, dtype=torch.bool)
    for i in index.to(x.dtype).unbind(1)[1:]:
        x = x - h * i
        lost |= x > 2 / 3 / math.sqrt(3 * h)
        x = implicit_step(x, h)
        cost = cost + (x - goal).square() / 2
    return torch.where(lost, LOST, cost)


def implicit_step(x: Tensor, h: float) -> Tensor:
    """The y below 1 / sqrt(3 h) with y - h y^3 = x: for y = a sin(t), a = 2 / sqrt(3 h), the left
    side is a sin(3 t) / 3.

    >>> y = implicit_step(torch.tensor([0.8], dtype=torch.float64), 0.1)
    >>> y - 0.1 * y**3
    tensor([0.8000], dtype=torch.float64)
    """
    a = 2 / math.sqrt(3 * h)
    return a * ((3 * x / a).clamp(-1, 1).asin() / 3).sin()


REFERENCE = {
    "P-01": (12.835217, "all 8^7 points of the even half"),
    "P-02": (6.5298970, "mode by mode"),
    "P-03": (-0.94438804, "mode by mode"),
    "P-04": (1.2860899, "all 8^7 points of the even half"),
    "P-05": (-3.6837432, "mode by mode"),
    "P-06": (0.11600918, "all 16^7 points"),
    "P-07": (6159309.3, "mode by mode"),
    "P-08": (59.688056, "mode by mode"),
    "P-09": (2.7244777, "dynamic programming over the chain"),
    "P-10": (-870.07988, "mode by mode"),
    "P-11": (-364.0, "annealing of 2000 chains, not proved"),
    "P-12": (-5928.0, "a largest independent set by clique search"),
    "P-13": (-3.1201441, "branch and bound"),
    "P-14": (-3103.0, "dynamic programming"),
    "P-15": (0.0065450, "beam search over (x, state), the same with ten times the beam"),
    "P-16": (0.013390, "beam search over (x, state), the same with ten times the beam"),
    "P-17": (0.028659, "beam search over (x, state)"),
    "P-18": (0.0112868, "beam search over (x, state)"),
    "P-19": (0.015896, "beam search over (x, state), the same with ten times the beam"),
    "P-20": (0.029839, "beam search over (x, state), the same with ten times the beam"),
}
