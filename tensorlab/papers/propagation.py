"""Signal propagation through a TT layer: memory and time of two forward paths with three gradients
each [Chekalina2023].

The forward paths are the one of fewest operations and the fixed order, core by core from the left;
the gradients are autograd's, one einsum for each core, and dw = dyᵀ x first. Two rows follow that
the table does not have: what `propagate` chooses, and a dense layer. Preset quick: 192 -> 768, rank
6, 256 tokens. Preset full: 768 -> 3072, rank 8, 2048 tokens; at larger ranks the path of fewest
operations rebuilds w, and then autograd has little to keep.

Memory is counted, not read off the process: the bytes of all tensors made in one forward and
backward pass that are alive at once. Time is the median of some passes.
"""

import functools
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear

from ..formats.ttmatrix import TTMatrix
from ..layers.ledger import MIB, peak_bytes
from ..layers.plans import plans
from ..layers.propagation import propagate
from .program import Program, beside_printed
from .table import Table

SIZES = {
    "quick": {"out": (8, 8, 12), "in": (4, 6, 8), "rank": 6, "tokens": 256},
    "full": {"out": (12, 16, 16), "in": (8, 8, 12), "rank": 8, "tokens": 2048},
}
PASSES = 5
FORWARDS, GRADIENTS = ("einsum", "fixed order"), ("autograd", "full einsum", "full matrix")


def cases(size: dict) -> list[dict]:
    """The forward path and the gradient."""
    every = [(forward, gradient) for forward in FORWARDS for gradient in GRADIENTS]
    every += [("auto", "recompute"), ("dense", "autograd")]
    return [{"forward": forward, "gradient": gradient} for forward, gradient in every]


def measure(size: dict, forward: str, gradient: str) -> dict:
    """Peak MiB of tensors, ms of a forward and backward pass."""
    w, x, dy = layer(size["out"], size["in"], size["rank"], size["tokens"])
    if forward == "dense":
        dense = w.to_dense().detach().requires_grad_()
        f, leaves = (lambda: linear(x, dense)), [x, dense]
    else:
        path = {"einsum": fewest(size), "fixed order": "left"}.get(forward)
        strategy = f"{path}, {gradient}" if path else "auto"
        f, leaves = (lambda: propagate(w, x, strategy)), [x, *w.cores]
    step = lambda: torch.autograd.grad(f(), leaves, dy)
    mib = peak_bytes(step, [dy, *leaves]) / MIB
    return {"MiB": round(mib, 1), "ms": round(1e3 * median_seconds(step, PASSES), 1)}


def settings(size: dict) -> dict:
    """The sizes, and which path takes the fewest operations."""
    return {
        "modes": f"{size['in']} -> {size['out']}",
        "rank": size["rank"],
        "tokens": size["tokens"],
        "path of fewest operations": fewest(size),
    }


@functools.cache
def layer(out: tuple, in_: tuple, rank: int, tokens: int) -> tuple[TTMatrix, Tensor, Tensor]:
    """A TT-matrix with gradients, an input x and a gradient dy of the output."""
    g = torch.Generator().manual_seed(0)
    w = TTMatrix.randn(out=out, in_=in_, rank=rank, generator=g).initial()
    w = w.with_tensors([c.requires_grad_() for c in w.cores])
    x = torch.randn(tokens, w.shape[1], generator=g, requires_grad=True)
    return w, x, torch.randn(tokens, w.shape[0], generator=g)


def fewest(size: dict) -> str:
    """The forward path of fewest operations."""
    w, *_ = layer(size["out"], size["in"], size["rank"], size["tokens"])
    return min(plans(w, size["tokens"]), key=lambda plan: plan.flops).forward


def draw(table: Table, ax) -> str:
    """Peak memory against time, a mark for each row; returns a sentence."""
    rows = [row for row in table.rows if row.get("MiB") is not None]
    for row, mark in zip(rows, "o^sv<>*D"):
        ax.loglog(row["ms"], row["MiB"], mark, label=f"{row['forward']}, {row['gradient']}")
    ax.set(xlabel="ms, forward and backward", ylabel="MiB at the peak")
    ax.legend(fontsize=8)
    least = min(rows, key=lambda row: row["MiB"])
    return (
        f"Of {len(rows)} ways the least memory at the peak is {least['MiB']} MiB: "
        f"{least['forward']}, {least['gradient']}."
    )


def median_seconds(f: Callable, passes: int) -> float:
    """Median wall time of f(), the first call not counted.

    >>> median_seconds(lambda: None, 3) < 1
    True
    """
    f()
    times = []
    for _ in range(passes):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


PROGRAM = Program(
    "Chekalina2023", __doc__, SIZES, cases, measure, settings, draw, finish=beside_printed
)
