"""Problem set 6: sums of two flat vectors, bits in bytes, levels, and bits shared among layers."""

import math

import torch
from torch import Tensor

from ...clusters import kmeans, kmeans_line
from ...methods import codes
from ...methods.codes import quantize
from ...methods.kashin import Rotation, kashin, kashin_steps
from ..checks import Check, Unusable, call, gaussian, returned, tensors


def given_lloyd(x: Tensor, k: int, sweeps: int) -> Tensor:
    """Levels after so many sweeps from the quantiles (i + 1/2) / k; an empty level stays.

    >>> given_lloyd(torch.tensor([0.0, 1.0, 10.0, 12.0]).double(), 2, 3)
    tensor([ 0.5000, 11.0000], dtype=torch.float64)
    """
    levels = x.sort().values[((torch.arange(k) + 0.5) * len(x) / k).long()]
    for _ in range(sweeps):
        own = (x[:, None] > (levels[1:] + levels[:-1]) / 2).sum(1)
        mine = [x[own == i] for i in range(k)]
        levels = torch.stack([m.mean() if len(m) else l for m, l in zip(mine, levels)])
    return levels


def given_allocate(errors: Tensor, sizes: list[int], budget: int) -> list[int]:
    """Bits of each layer, the sum of sizes times bits at most the budget, with the smallest sum of
    errors.

    >>> given_allocate(torch.tensor([[4.0, 1.0], [3.0, 0.0]]), [2, 2], 3)
    [0, 1]
    """
    best = {0: (0.0, [])}  # what is spent: the least error, and the bits
    for row, n in zip(errors.tolist(), sizes):
        after = {}
        for spent, (error, bits) in best.items():
            for b, e in enumerate(row):
                now, sum_ = spent + n * b, error + e
                if now <= budget and sum_ < after.get(now, (math.inf,))[0]:
                    after[now] = sum_, [*bits, b]
        best = after
    return min(best.values())[1]


FORBIDDEN = tuple(
    (function, "write it with torch alone; functions that do the same are not allowed here.")
    for function in (
        kashin,
        kashin_steps,
        kmeans,
        kmeans_line,
        quantize,
        codes.pack,
        codes.unpack,
        given_lloyd,
        given_allocate,
    )
)


def _start():
    q = Rotation("dct", (16,), seed=0)
    (x,) = gaussian((16,))
    return x.pow(3), q.apply, q.adjoint


def _frame(function, *case):
    """u, v and what is left, one after another."""
    result = returned(function, *case)
    if result is None:
        return None
    if not isinstance(result, (tuple, list)) or len(result) != 3:
        raise Unusable("u, v and the list of what is left are needed.")
    return torch.cat([part.reshape(-1) for part in tensors(result)])


def _right_frame(x, forward, adjoint, steps, c):
    states = list(
        state
        for state, _ in zip(
            kashin_steps(
                x, Rotation("dct", x.shape, seed=0), method="frame", delta=1 / (4 * c * c)
            ),
            range(steps + 1),
        )
    )
    left = torch.tensor([float(state.left) for state in states[1:]], dtype=torch.float64)
    return torch.cat([states[-1].u, states[-1].v, left])


def _spent(function, errors, sizes, budget):
    """The sum of the errors of an answer that can be afforded."""
    result = returned(function, errors, sizes, budget)
    if result is None:
        return None
    bits = [int(b) for b in result]
    if len(bits) != len(sizes):
        raise Unusable(f"bits of {len(sizes)} layers are needed, these are {len(bits)}.")
    if (spent := sum(b * n for b, n in zip(bits, sizes))) > budget:
        raise Unusable(f"these bits cost {spent}, the budget is {budget}.")
    return sum(errors[k, b] for k, b in enumerate(bits))


def _right_sum(errors, sizes, budget):
    bits = given_allocate(errors, sizes, budget)
    return sum(errors[k, b] for k, b in enumerate(bits))


frame = Check(
    function=True,
    cases=lambda: [(*_start(), steps, 0.6) for steps in (1, 4)],
    read=_frame,
    right=_right_frame,
    hint="both halves come from the same r, and both are clipped at the same height.",
    moral="One step and four steps are right; try a vector of zeros.",
)

pack = Check(
    function=True,
    cases=lambda: [(torch.tensor([3, 0, 2, 1, 3]), 2)],
    read=lambda function, *case: (
        None
        if (packed := returned(function, *case)) is None
        else torch.tensor([len(packed), packed.element_size()], dtype=torch.float64)
    ),
    right=lambda codes, width: torch.tensor([2, 1]),
    hint="five codes of two bits are ten bits, and need two entries of one byte.",
    moral="The number of bytes is right; whether they can be read again is for `unpack`.",
)

lloyd = Check(
    function=True,
    cases=lambda: [(gaussian((40,))[0], 3, sweeps) for sweeps in (0, 1, 5)],
    read=call,
    right=given_lloyd,
    hint="without a sweep the levels are sorted entries; then each is the mean of the entries "
    "that are nearest to it.",
    moral="These cases are right; try entries of which many are equal, so that a level is empty.",
)

allocate = Check(
    function=True,
    cases=lambda: [
        (torch.tensor([[9.0, 3.0, 1.0], [8.0, 7.5, 0.0]]).double(), [1, 1], budget)
        for budget in (0, 2, 3)
    ],
    read=_spent,
    right=_right_sum,
    hint="for a budget of 2 one layer gets both bits: with (0, 2) the sum is 9.",
    moral="These cases are right, also the one in which the best first bit is not in the best "
    "answer.",
)
