"""What a layer could become, what that stores and costs, and what it is predicted to lose: the best
for a budget in bytes, FLOPs or both.

    min over choices of  sum over layers of |L (w - ŵ) R|²
        with the sums of bytes and of FLOPs within the budget

L, R: the Kronecker-factored weights of `metrics`, in which losses of layers can be added. Formats
other than low rank are fitted in that norm, and weights in bits know the inputs by feedback.
"""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..arguments import is_integer, is_number
from ..formats.blocktt import BlockTT
from ..formats.kronecker import Kronecker
from ..formats.monarch import Monarch
from ..formats.pivoted import PivotedLowRank
from ..formats.ttmatrix import TTMatrix
from ..layers.dense import current, dense_weight
from ..layers.linear import FactorizedLinear
from ..layers.report import layer_report
from ..linalg import norm, widen
from .coded import QuantizedFactors, coded, factors_with_feedback
from .quantize import QuantizedLinear
from .weighted import Statistics, WeightedSVD, damping_of, metrics, stored, weighted_basis
from .weighted_ttm import weighted_fit

FITTED = {"kronecker": Kronecker, "monarch": Monarch, "block tt": BlockTT, "tt": TTMatrix}
FAMILIES = ("bits", "low rank", "low rank in bits", "pivoted", *FITTED)
SHARES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of the dense numbers
FIT_SHARES = (0.1, 0.25, 0.5)
BITS, FACTOR_BITS = (2, 3, 4, 8), (4, 8)
STEPS = 30  # of L-BFGS


@dataclass(frozen=True, eq=False)
class Layer:
    """A dense layer with its weight (out, in), L, R, and their SVD."""

    w: Tensor
    bias: Tensor | None
    statistics: Statistics
    left: Tensor | None
    right: Tensor | None
    basis: WeightedSVD

    @classmethod
    def of(cls, layer: nn.Module, statistics: Statistics, method: str = "kfac") -> "Layer":
        w = dense_weight(layer).detach()
        left, right = metrics(statistics, method)
        basis = weighted_basis(w, left=left, right=right)
        return cls(w, current(layer, "bias"), statistics, left, right, basis)

    def loss(self, weight: Tensor) -> float:
        """|L (w - weight) R|²."""
        return float(norm(self.left @ (widen(self.w) - widen(weight)) @ self.right)) ** 2

    @property
    def damping(self) -> float:
        """Of the feedback: more where few tokens were seen."""
        return damping_of(self.statistics.rows, self.w.shape[1])


@torch.no_grad()
def built(layer: Layer, family: str, size, generator: torch.Generator | None = None) -> nn.Module:
    """The layer in a family and a size: bits, a rank, (rank, bits), terms, blocks.

    >>> from tensorlab.methods.weighted import calibrate, embedding_probe
    >>> model = nn.Sequential(nn.Linear(8, 8))
    >>> found = calibrate(model, [torch.randn(32, 8)], loss=embedding_probe())
    >>> type(built(Layer.of(model[0], found["0"]), "bits", 4)).__name__
    'QuantizedLinear'
    """
    w, moment = layer.w, layer.statistics.inputs.total
    if family == "bits":
        return QuantizedLinear(
            coded(w.contiguous(), moment, size, layer.damping, generator), layer.bias
        )
    if family == "low rank in bits":
        low, options = layer.basis.cut(size[0]), dict(damping=layer.damping, generator=generator)
        return QuantizedFactors(
            *factors_with_feedback(w, low, moment, size[1], **options), layer.bias
        )
    if family in ("low rank", "pivoted"):
        low = layer.basis.cut(size)
        form = low if family == "low rank" else PivotedLowRank.from_lowrank(low)
        return FactorizedLinear(form, layer.bias)
    start = FITTED[family].from_dense(w.contiguous(), size, **_options(family))
    fit = weighted_fit(w, start, left=layer.left, right=layer.right, max_iter=STEPS)
    return FactorizedLinear(fit.value, layer.bias)


def choices_of(layer: Layer, families, generator: torch.Generator | None = None) -> list[dict]:
    """What a layer could become: family, size, loss, bytes, flops of each, the dense one first.

    Losses of low rank are those of the spectrum; those of factors in bits add an error per factor
    that is measured at one rank; the others are measured. Their order is one, whatever that of
    `families`, so that ties fall alike in each process. Raises ValueError for an unknown
    family.
    """
    if odd := [f for f in families if f not in FAMILIES]:
        raise ValueError(f"compress: needs families of {', '.join(FAMILIES)}, got {odd[0]!r}")
    count = layer.w.numel()
    itemsize = layer.w.element_size()
    found = [_choice("dense", 0, 0.0, itemsize * count, 2 * count)]
    if "bits" in families:
        found += [_measured(layer, "bits", b, generator) for b in BITS]
    ranks = _ranks(layer.w.shape)
    tails = _tails(layer)
    for family in (f for f in ("low rank", "pivoted") if f in families):
        for r in ranks:
            n = stored(layer.w.shape, r, family == "pivoted")
            if n < count:
                found.append(_choice(family, r, tails[r], itemsize * n, 2 * n))
    if "low rank in bits" in families:
        found += _coded_factors(layer, ranks, tails, generator)
    for family in (f for f in FITTED if f in families):
        sizes = _sizes(family, tuple(layer.w.shape))
        found += [_measured(layer, family, size, generator) for size in sizes]
    return found


def _choice(family, size, loss, stored, flops) -> dict:
    return {"family": family, "size": size, "loss": loss, "bytes": stored, "flops": flops}


def _measured(layer: Layer, family, size, generator) -> dict:
    """A choice of which the layer is made, to see what it loses and costs."""
    made = built(layer, family, size, generator)
    weight = made.weight if isinstance(made.weight, Tensor) else made.weight.to_dense()
    report = layer_report(made)
    stored, flops = report.total("bytes"), report.total("flops")
    return _choice(family, size, layer.loss(weight.detach()), stored, flops)


def _tails(layer: Layer) -> list[float]:
    """The loss at each rank from 0 on."""
    s = layer.basis.s * 2.0 ** layer.basis.exponents[1]
    tail = s.square().flip(0).cumsum(0).flip(0)
    return [*tail.tolist(), 0.0]


def _ranks(shape) -> list[int]:
    """Even ranks at shares of the dense numbers."""
    n, m = shape
    ranks = {int(share * n * m / (n + m)) // 2 * 2 for share in SHARES}
    ranks |= {int(share * min(n, m)) // 2 * 2 for share in (0.7, 0.8)}  # that pivots reach
    return sorted({max(2, r) for r in ranks if r <= min(n, m)} or {min(2, n, m)})


def _coded_factors(layer: Layer, ranks, tails, generator) -> list[dict]:
    middle, found = ranks[len(ranks) // 2], []
    for bits in FACTOR_BITS:
        one = _measured(layer, "low rank in bits", (middle, bits), generator)
        share = max(0.0, one["loss"] - tails[middle]) / max(tails[0] - tails[middle], 1e-300)
        for r in ranks:
            loss = tails[r] + share * (tails[0] - tails[r])
            n, fixed = r * sum(layer.w.shape), one["bytes"] - middle * sum(layer.w.shape) * bits / 8
            stored = math.ceil(n * bits / 8 + max(0.0, fixed))
            found.append(_choice("low rank in bits", (r, bits), loss, stored, 2 * n))
    return found


def _options(family) -> dict:
    return {"cores": 3} if family == "tt" else {}


@functools.lru_cache(maxsize=256)
def _sizes(family: str, shape: tuple[int, int]) -> tuple[int, ...]:
    """For each share the size that stores most within it."""
    stored = {}
    for size in range(1, min(shape) + 1):
        form = FITTED[family].randn(shape, size, device="meta", **_options(family))
        stored[size] = form.numel
    fits = lambda share: [k for k, n in stored.items() if n <= share * math.prod(shape)]
    best = {max(found, key=stored.__getitem__) for s in FIT_SHARES if (found := fits(s))}
    return tuple(sorted(best))


# ------------------------------------------------------------------------------------- the budget


def plans(who: str, tables: dict[str, list[dict]], budget: dict) -> dict[str, dict[str, dict]]:
    """For all families together ("mixed"), and for each one that can meet the budget, the choice of
    each layer: {family: {name: choice}}.

    budget: {"bytes": b, "flops": f}, a float is a share of the dense layers, an integer a count.
    Raises ValueError for a budget below what is possible, or of anything else.

    >>> dense = dict(family="dense", size=0, loss=0.0, bytes=8, flops=4)
    >>> half = dict(family="low rank", size=1, loss=1.0, bytes=4, flops=2)
    >>> layers = {"a": [dense, half], "b": [dense, half | {"loss": 3.0}]}
    >>> found = plans("example", layers, {"bytes": 12})
    >>> {name: choice["family"] for name, choice in found["mixed"].items()}
    {'a': 'low rank', 'b': 'dense'}
    """
    most = _limits(who, tables, budget)
    least = {what: sum(min(c[what] for c in t) for t in tables.values()) for what in most}
    if lost := [what for what in most if most[what] < least[what]]:
        need = f"a budget of at least {least[lost[0]]} {lost[0]}"
        raise ValueError(f"{who}: needs {need}, got {most[lost[0]]:.0f}")
    families = {c["family"] for t in tables.values() for c in t} - {"dense"}
    found = {"mixed": _least(tables, most)}
    for family in sorted(families):
        inside = lambda t, family=family: [c for c in t if c["family"] in ("dense", family)]
        found[family] = _least({n: inside(t) for n, t in tables.items()}, most)
    found = {family: plan for family, plan in found.items() if plan is not None}
    if not found:
        raise ValueError(f"{who}: needs bytes and flops that one choice meets, got {budget}")
    return found


def _limits(who, tables, budget) -> dict[str, float]:
    known = ("bytes", "flops")
    if not isinstance(budget, dict) or not budget or budget.keys() - set(known):
        raise ValueError(f"{who}: needs a budget of bytes, flops or both, got {budget!r}")
    most = {}
    for what, value in budget.items():
        dense = sum(t[0][what] for t in tables.values())
        if not is_integer(value) and not (is_number(value) and 0 < value <= 1):
            need = "a share in (0, 1] or an integer"
            raise ValueError(f"{who}: needs a budget of {what} that is {need}, got {value!r}")
        most[what] = int(value) if is_integer(value) else value * dense
    return most


def _least(tables, most) -> dict[str, dict] | None:
    """From what loses least down along the steps that lose least for what they save, until all
    limits hold; then up again where there is room. None where no step is left."""
    at = {n: min(t, key=lambda c: (c["loss"], c["bytes"])) for n, t in tables.items()}
    total = lambda what: sum(c[what] for c in at.values())
    beyond = lambda sums: sum(max(0.0, sums[w] / most[w] - 1) for w in most)
    while (over := beyond(sums := {w: total(w) for w in most})) > 0:
        after = lambda n, c: beyond({w: sums[w] - at[n][w] + c[w] for w in most})
        steps = [
            ((c["loss"] - at[n]["loss"]) / saved, n, c)
            for n, t in tables.items()
            for c in t
            if (saved := over - after(n, c)) > 0
        ]
        if not steps:
            return None
        _, n, at[n] = min(steps, key=lambda step: step[0])
    while True:
        fits = lambda n, c: all(total(w) - at[n][w] + c[w] <= most[w] for w in most)
        steps = [
            (at[n]["loss"] - c["loss"], n, c)
            for n, t in tables.items()
            for c in t
            if c["loss"] < at[n]["loss"] and fits(n, c)
        ]
        if not steps:
            return at
        _, n, at[n] = max(steps, key=lambda step: step[0])
