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

import statistics
import time
import weakref
from collections.abc import Callable

import torch
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..formats.ttmatrix import TTMatrix
from ..layers.propagation import plans, propagate
from .table import Table, check_preset, printed, run_rows

KEY = "Chekalina2023"
SIZES = {
    "quick": ((8, 8, 12), (4, 6, 8), 6, 256),
    "full": ((12, 16, 16), (8, 8, 12), 8, 2048),
}  # out, in, rank, tokens
PASSES = 5
CASES = [
    (forward, gradient)
    for forward in ("einsum", "fixed order")
    for gradient in ("autograd", "full einsum", "full matrix")
]


def run(preset: str, *, resume: bool = True, progress: bool = True) -> Table:
    """Rows: forward path, gradient, peak MiB of tensors, ms of a forward and backward pass."""
    check_preset(KEY, preset)
    out, in_, rank, tokens = SIZES[preset]
    g = torch.Generator().manual_seed(0)
    w = TTMatrix.randn(out=out, in_=in_, rank=rank, generator=g).initial()
    w = w.with_tensors([c.requires_grad_() for c in w.cores])
    dense = w.to_dense().detach().requires_grad_()
    x = torch.randn(tokens, w.shape[1], generator=g, requires_grad=True)
    dy = torch.randn(tokens, w.shape[0], generator=g)
    fewest = min(plans(w, tokens), key=lambda plan: plan.flops).forward

    def measure(forward, gradient):
        if forward == "dense":
            f, leaves = (lambda: linear(x, dense)), [x, dense]
        else:
            path = {"einsum": f"{fewest}, {gradient}", "fixed order": f"left, {gradient}"}.get(
                forward, "auto"
            )
            f, leaves = (lambda: propagate(w, x, path)), [x, *w.cores]
        step = lambda: torch.autograd.grad(f(), leaves, dy)
        mib = peak_bytes(step, [dy, *leaves]) / 2**20
        return {"MiB": round(mib, 1), "ms": round(1e3 * median_seconds(step, PASSES), 1)}

    every = [*CASES, ("auto", "recompute"), ("dense", "autograd")]
    cases = [{"forward": forward, "gradient": gradient} for forward, gradient in every]
    settings = {
        "modes": f"{in_} -> {out}",
        "rank": rank,
        "tokens": tokens,
        "path of fewest operations": fewest,
    }
    return run_rows(
        KEY, preset, cases, measure, settings=settings, resume=resume, progress=progress
    ).beside(printed(KEY))


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


class _Ledger(TorchDispatchMode):
    """Live bytes of the storages that are made while it is active."""

    def __init__(self, known):
        super().__init__()
        self.live = self.peak = 0
        self.known = {t.untyped_storage()._cdata for t in known}

    def _drop(self, key, size):
        self.live -= size
        self.known.discard(key)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for t in filter(torch.is_tensor, tree_leaves(result)):
            storage = t.untyped_storage()
            if storage._cdata not in self.known:
                self.known.add(storage._cdata)
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._drop, storage._cdata, storage.nbytes())
        return result


def peak_bytes(f: Callable, known=()) -> int:
    """Bytes of the tensors that f() makes and that are alive at once; `known` were there before.

    >>> peak_bytes(lambda: (torch.ones(1000) + 1).sum())
    8000
    """
    with _Ledger(known) as ledger:
        result = f()
    del result
    return ledger.peak


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
