"""Low rank in the norm that a network feels: the truncated SVD of L w R [Hsu2022] [Wang2025].

    ŵ = argmin |L (w - ŵ) R| over ŵ of rank r,     L w R = U S Vᴴ,     ŵ = (L⁻¹ U_r) (U_rᴴ L w)

    method          LᴴL               R Rᴴ                what it needs
    svd             1                 1                   nothing
    asvd            1                 diag(mean |x_j|)    inputs [Yuan2023]
    whitened        1                 mean of x xᵀ        inputs [Wang2025]
    fwsvd columns   1                 diag(sum_i F_ij)    a loss [Hsu2022]
    fwsvd rows      diag(sum_j F_ij)  1                   a loss
    fwsvd           both              both                a loss
    kfac            sum of g gᵀ       mean of x xᵀ        a loss, labeled or not [MartensGrosse2015]

x: inputs of the layer, one for each token. g: gradients of the loss for its outputs. F: squares of
the gradients for w, of one example each. A projection takes the place of R⁻¹, so a singular R does
no harm. The functions, in the order in which they are called:

    calibrate        one pass over data: sums for each layer
    weighted_bases   the weighted SVD of each layer, which can be cut at any rank
    ..._ranks        what each layer keeps: uniform, spectrum, zero_sum
    cut_layers       the model with layers of those ranks
    compress_layers  the last three in one
"""

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..arguments import check_batches, is_number
from ..formats.base import MatrixFormat
from ..formats.lowrank import LowRank
from ..formats.pivoted import PivotedLowRank
from ..layers.dense import current, dense_weight, in_eval
from ..layers.linear import FactorizedLinear
from ..layers.select import LINEAR, choose, say, unfit_layers
from ..layers.surgery import replace
from ..linalg import (
    check_dense,
    eigh,
    ldexp,
    near_one,
    norm,
    rank_caps,
    size_exponent,
    solve,
    wide_svd,
    widen,
)
from ..rng import rand, randn

METHODS = ("svd", "asvd", "whitened", "fwsvd columns", "fwsvd rows", "fwsvd", "kfac")
ZERO = -4000  # the exponent of a sum without a number other than zero
CHUNK = 1 << 24  # numbers of gradients of single examples that are held at once

# --------------------------------------------------------------------------------- the weighted SVD


@dataclass(frozen=True, eq=False)
class WeightedSVD:
    """All components of w in the order of what they weigh, to be cut at any rank.

    u: (out, k) = L⁻¹ U. v: (in, k) = (Uᴴ L w)ᴴ. s: (k,), singular values of L w R, descending.
    exponents: e and f, where w is 2^e and s is 2^f times larger than stored, so that no product
    leaves the range of floats. dtype: of w.
    """

    u: Tensor
    v: Tensor
    s: Tensor
    exponents: tuple[int, int]
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, int]:
        return self.u.shape[0], self.v.shape[0]

    def cut(self, rank: int) -> LowRank:
        """The best ŵ of a rank, as two balanced factors."""
        low = LowRank(self.u[:, :rank], self.v[:, :rank]).round(rank)
        half = self.exponents[0] // 2
        u, v = ldexp(low.u, half), ldexp(low.v, self.exponents[0] - half)
        return LowRank(u.to(self.dtype), v.to(self.dtype))


def weighted_svd(
    w: Tensor, rank: int, *, left: Tensor | None = None, right: Tensor | None = None
) -> LowRank:
    """The ŵ of a rank with the least |L (w - ŵ) R|, from the truncated SVD of L w R.

    w: (out, in).
    rank: a cap.
    left: L, (out, out), invertible, or its diagonal (out,); None: 1.
    right: R, (in, k), or its diagonal (in,); None: 1.

    Sums are in float64; the answer has the dtype of w. Raises ValueError or TypeError for a bad
    rank, matrix or weight.

    >>> w = torch.diag(torch.tensor([3.0, 2.0]))
    >>> kept = lambda low: low.to_dense().diagonal().round()
    >>> kept(weighted_svd(w, 1)), kept(weighted_svd(w, 1, right=torch.tensor([1.0, 2.0])))
    (tensor([3., 0.]), tensor([0., 2.]))
    """
    rank_caps("weighted_svd", rank, None, w.shape, 1)
    return weighted_basis(w, left=left, right=right).cut(int(rank))


@torch.no_grad()
def weighted_basis(
    w: Tensor, *, left: Tensor | None = None, right: Tensor | None = None
) -> WeightedSVD:
    """The whole SVD behind `weighted_svd`; the same arguments."""
    who = "weighted_svd"
    check_dense(w, who)
    if w.ndim != 2:
        raise ValueError(f"{who}: needs a matrix, got shape {tuple(w.shape)}")
    a, size = near_one(widen(w))
    left, size_left = checked_weight(who, "left", left, w, 0)
    right, size_right = checked_weight(who, "right", right, w, 1)
    lw = times(left, a)
    u, s, _ = wide_svd(who, times(right, lw.mT).mT, min(w.shape))
    sizes = int(size), int(size) + size_left + size_right
    return WeightedSVD(_divided(left, u), lw.mH @ u, s, sizes, w.dtype)


def weighted_error(
    w: Tensor, form: MatrixFormat, *, left: Tensor | None = None, right: Tensor | None = None
) -> float:
    """|L (w - ŵ) R| / |L w R|; 0 where that is 0.

    >>> form = LowRank(torch.eye(2, 1), torch.eye(2, 1))
    >>> weighted_error(torch.eye(2), form, right=torch.tensor([3.0, 4.0]))
    0.8
    """
    left, _ = checked_weight("weighted_error", "left", left, w, 0)
    right, _ = checked_weight("weighted_error", "right", right, w, 1)
    size = size_exponent(w)
    seen = lambda t: norm(times(right, times(left, ldexp(widen(t), -size)).mT))
    whole, rest = float(seen(w)), float(seen(widen(w) - widen(form.to_dense())))
    return rest / whole if whole else 0.0


def checked_weight(who, side, weight, w, axis) -> tuple[Tensor | None, int]:
    """A weight near 1, and its size as a power of two; (None, 0) for None.

    who: the function that the user called, for the error.
    side: "left" or "right", for the error.
    weight: L (n, n) or R (n, k), or the diagonal (n,); None: no weight.
    w: the matrix that is weighed.
    axis: of w, 0 for its rows, where L is returned, and 1 for its columns, where Rᵀ is returned.

    Raises ValueError for a weight that does not fit.
    """
    if weight is None:
        return None, 0
    check_dense(weight, f"{who}: {side}")
    n, shape = w.shape[axis], tuple(weight.shape)
    square = axis == 1 or shape[-1] == n
    if weight.ndim not in (1, 2) or shape[0 if axis else -1] != n or not square:
        raise ValueError(f"{who}: needs {side} of shape ({n},) or ({n}, {n}), got {shape}")
    near, size = near_one(widen(weight.to(w.device)).to(widen(w[:0]).dtype))
    return (near if axis == 0 or near.ndim == 1 else near.mT), int(size)


def times(weight, a):
    """L a, where L is a matrix, a diagonal or None for 1."""
    if weight is None:
        return a
    return weight[:, None] * a if weight.ndim == 1 else weight @ a


def _divided(weight, a):
    """L⁻¹ a; what has no weight becomes zero."""
    if weight is None:
        return a
    if weight.ndim == 2:
        return solve(weight, a)
    return torch.where(weight != 0, 1 / torch.where(weight != 0, weight, 1), 0)[:, None] * a


# ---------------------------------------------------------------------------- calibration, one pass


@dataclass
class Squares:
    """A sum of products of two numbers each, total · 4^exponent: neither over- nor underflows."""

    total: Tensor | None = None
    exponent: int = ZERO

    def add(self, x: Tensor, product: Callable[[Tensor], Tensor]) -> None:
        """Add product(x), which is quadratic in x."""
        size = int(size_exponent(x)) if x.any() else ZERO
        top = max(self.exponent, size)
        term = widen(product(ldexp(x, -max(top, -1000))))
        if self.total is not None:
            term = term + ldexp(self.total, 2 * max(self.exponent - top, -1000))
        self.total, self.exponent = term, top


@dataclass
class Statistics:
    """Sums over calibration data for a layer y = w x + b: what every weighting is made of.

    rows: tokens seen. inputs: of x xᵀ. size: of |x|. outputs: of g gᵀ, gradient: of g xᵀ, fisher:
    of (g xᵀ)², summed over the tokens of an example first; None without a loss, and fisher where it
    was not asked for.
    """

    rows: int = 0
    inputs: Squares = field(default_factory=Squares)
    size: Tensor | float = 0.0
    outputs: Squares | None = None
    gradient: Tensor | None = None
    fisher: Squares | None = None

    def add(self, x: Tensor, g: Tensor | None, seen: Tensor | None, fisher: bool) -> None:
        """One call of the layer: x (..., in), g (..., out), seen (...) which tokens count."""
        fits = seen is not None and seen.shape == x.shape[:-1]
        rows = x[seen] if fits else x.flatten(0, -2)
        self.rows += len(rows)
        if not len(rows):
            return
        self.inputs.add(widen(rows), lambda a: a.mT @ a)
        self.size = self.size + widen(rows).abs().sum(0)
        if g is None:
            return
        slopes = g[seen] if fits else g.flatten(0, -2)
        self.outputs = self.outputs or Squares()
        self.outputs.add(widen(slopes), lambda a: a.mT @ a)
        change = widen(slopes).mT @ widen(rows)
        self.gradient = change if self.gradient is None else self.gradient + change
        if fisher:
            g = torch.where(seen[..., None], g, 0) if fits else g
            self._add_fisher(*(t.reshape(len(t), -1, t.shape[-1]) for t in (g, x)))

    def _add_fisher(self, g, x):
        """Of examples (batch, tokens, out) and (batch, tokens, in), a few at a time."""
        self.fisher = self.fisher or Squares()
        few = max(1, CHUNK // (g.shape[-1] * x.shape[-1]))
        for a, b in zip(g.split(few), x.split(few)):
            self.fisher.add(a.mT @ b, lambda change: change.square().sum(0))


def calibrate(
    model: nn.Module,
    batches: Iterable,
    names="*",
    *,
    forward: Callable | None = None,
    loss: Callable | None = None,
    mask: Callable | None = None,
    fisher: bool = False,
) -> dict[str, Statistics]:
    """Statistics of the linear layers that `names` chooses, summed in one pass over batches.

    model: it runs in eval, and is not changed.
    batches: an iterable of batches, read once.
    names: a pattern of `fnmatch`, several of them, or a predicate (name, layer) -> bool.
    forward: (model, batch) -> outputs; None: model(batch), model(*batch) of a tuple, model(**batch)
        of a dict.
    loss: (outputs, batch) -> a sum over examples, such as `embedding_probe` or `class_probe` where
        there are no labels; None: no gradients, which "kfac" and "fwsvd" need.
    mask: batch -> which tokens count, (examples, tokens); None: all.
    fisher: also squares for each example, whose axis is the first.

    Raises ValueError for names that choose nothing, no batch, a layer that is not called, one
    without numbers or whose numbers are not finite. Warns of layers that have seen fewer than two
    tokens for each input.

    >>> model = nn.Sequential(nn.Linear(3, 2))
    >>> found = calibrate(model, [torch.ones(7, 3), torch.ones(1, 3)])
    >>> found["0"].rows, found["0"].inputs.total.shape
    (8, torch.Size([3, 3]))
    """
    who, forward = "calibrate", forward or plain_forward
    chosen = choose(who, model, names, LINEAR)
    _check_numbers(who, chosen)
    found = {name: Statistics() for name in chosen}
    with in_eval(model):
        for batch in check_batches(who, batches):
            seen = None if mask is None else mask(batch)
            for name, x, g in _calls(chosen, lambda b=batch: forward(model, b), loss, batch):
                if not bool(torch.isfinite(x.sum() + (0 if g is None else g.sum()))):
                    raise ValueError(f"{who}: needs finite numbers, got others at layer {name!r}")
                found[name].add(x, g, seen, fisher)
    _check_seen(who, found)
    return found


def embedding_probe(generator: torch.Generator | None = None) -> Callable:
    """A loss without labels for outputs that are vectors: <z, ξ> with ξ standard normal, so that
    g gᵀ has the mean of JᵀJ."""

    def loss(z: Tensor, batch=None) -> Tensor:
        return (z * randn(*z.shape, generator=generator, dtype=z.dtype).to(z.device)).sum()

    return loss


def class_probe(generator: torch.Generator | None = None) -> Callable:
    """A loss without labels for logits (..., classes): the cross-entropy at classes drawn from the
    model itself, so that g gᵀ has the mean of its Fisher information."""

    def loss(logits: Tensor, batch=None) -> Tensor:
        flat = logits.flatten(0, -2)
        at = rand(len(flat), 1, generator=generator, dtype=torch.float64).to(flat.device)
        drawn = (flat.detach().double().softmax(1).cumsum(1) < at).sum(1)
        drawn = drawn.clamp(max=flat.shape[1] - 1)
        return nn.functional.cross_entropy(flat, drawn, reduction="sum")

    return loss


def _calls(chosen, run, loss, batch):
    """Each call of a layer as (name, x, g), g None without a loss."""
    calls, hooks = [], []

    def note(name):
        def hook(layer, args, kwargs, y):
            x = args[0] if args else kwargs["input"]
            if loss is None:
                calls.append((name, x.detach(), None))
                return None
            calls.append((name, x.detach(), y if y.requires_grad else y.requires_grad_()))
            return y.clone()  # what is written to it in place leaves y alone

        return hook

    try:
        for name, layer in chosen.items():
            hooks.append(layer.register_forward_hook(note(name), with_kwargs=True))
        with torch.set_grad_enabled(loss is not None):
            out = run()
            if loss is None:
                return calls
            value = loss(out, batch)
        slopes = torch.autograd.grad(value, [y for *_, y in calls], allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    slope = lambda y, g: torch.zeros_like(y) if g is None else g
    return [(name, x, slope(y, g)) for (name, x, y), g in zip(calls, slopes)]


def plain_forward(model: nn.Module, batch):
    """The outputs for a batch: model(batch), model(*batch) of a tuple, model(**batch) of a dict.

    Raises TypeError for a tuple that the model does not take, such as one with labels.
    """
    if isinstance(batch, dict):
        return model(**batch)
    if not isinstance(batch, (tuple, list)):
        return model(batch)
    try:
        inspect.signature(model.forward).bind(*batch)
    except TypeError as error:
        raise TypeError(
            f"{type(model).__name__}: needs batches that its forward takes, or forward=lambda "
            f"model, batch: model(batch[0]) where labels lie beside the inputs, got a batch of "
            f"{len(batch)} parts"
        ) from error
    return model(*batch)


def _check_numbers(who, chosen):
    if left := unfit_layers(chosen):
        name, why = next(iter(left.items()))
        raise ValueError(f"{who}: needs layers that can be compressed, got {name!r}, which {why}")
    if meta := [name for name, layer in chosen.items() if dense_weight(layer).is_meta]:
        raise ValueError(f"{who}: needs weights with numbers, got layer {meta[0]!r} on meta")


def _check_seen(who, found):
    lost = [name for name, s in found.items() if not s.rows]
    if len(lost) == len(found):
        raise ValueError(f"{who}: needs batches with at least one token, got none")
    if lost:
        raise ValueError(f"{who}: needs layers that the model calls, got {lost[0]!r}")
    few = [name for name, s in found.items() if s.rows < 2 * len(s.inputs.total)]
    if few:
        n, rows = len(found[few[0]].inputs.total), found[few[0]].rows
        say(
            f"{who}: {len(few)} of {len(found)} layers have seen fewer than two tokens for each "
            f"input, such as {few[0]!r} with {rows} for {n}; what they keep is less certain"
        )


# ------------------------------------------------------------------------------- weights, by method


def moment_root(
    moment: Squares, count: int = 1, *, shrink: float = 0.0, clamp: float = 1e-4
) -> Tensor:
    """C with C Cᵀ = moment / count, by eigh in float64: (n, n).

    shrink: the share of mean(diagonal) · 1 in it. clamp: eigenvalues below this share of their mean
    count as that much.

    >>> moment = torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64))
    >>> moment_root(Squares(moment, 0)).abs().sum(1)
    tensor([2., 1.], dtype=torch.float64)
    """
    m = moment.total / count
    mean = float(m.diagonal().mean())
    m = (1 - shrink) * m + shrink * mean * torch.eye(len(m), dtype=m.dtype, device=m.device)
    values, vectors = eigh(m)
    least = clamp * mean if mean > 0 else 1.0  # where nothing was seen all weighs the same
    return ldexp(vectors * values.clamp_min(least).sqrt(), max(moment.exponent, -1000))


def shrinkage(rows: int, n: int) -> float:
    """How far a second moment of n inputs is drawn to a multiple of 1: .1 below two tokens for each
    input, less in proportion above.

    >>> shrinkage(10, 100), shrinkage(2000, 100)
    (0.1, 0.01)
    """
    return min(0.1, 0.2 * int(n) / int(rows))


def damping_of(rows: int, inputs: int) -> float:
    """The share of the mean of a moment that rounding with feedback adds: 0.01, and 0.1 for a layer
    that has seen fewer than two tokens for each input.

    >>> damping_of(64, 32), damping_of(63, 32)
    (0.01, 0.1)
    """
    return 0.01 if rows >= 2 * inputs else 0.1


def metrics(
    statistics: Statistics, method: str, *, shrink: float | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """L and R of a method for a layer, as `weighted_svd` takes them.

    shrink: of the inputs' second moment; None: `shrinkage`. Diagonals are clamped to 1e-2 of their
    mean, eigenvalues to 1e-4 (inputs) and 1e-3 (gradients). Raises ValueError for an unknown
    method, and for statistics without what it needs.
    """
    if method not in METHODS:
        raise ValueError(f"metrics: needs a method of {', '.join(METHODS)}, got {method!r}")
    s = statistics
    if (s.outputs if method == "kfac" else s.fisher) is None and method[0] in "fk":
        need = "a loss" if method == "kfac" else "a loss and fisher=True"
        raise ValueError(f"metrics: {method!r} needs statistics of calibrate with {need}, got none")
    if method == "svd":
        return None, None
    if method == "asvd":
        return None, _root_of_diagonal(s.size / s.rows)
    if method.startswith("fwsvd"):
        rows = _root_of_diagonal(s.fisher.total.sum(1), s.fisher.exponent)
        columns = _root_of_diagonal(s.fisher.total.sum(0), s.fisher.exponent)
        return (None if "columns" in method else rows), (None if "rows" in method else columns)
    shrink = shrinkage(s.rows, len(s.inputs.total)) if shrink is None else shrink
    right = moment_root(s.inputs, s.rows, shrink=shrink)
    return (moment_root(s.outputs, clamp=1e-3).mT if method == "kfac" else None), right


def _root_of_diagonal(d, exponent=0):
    """√d, of what is small or was not seen a little at least."""
    mean = float(d.mean())
    d = d.clamp_min(1e-2 * mean) if mean > 0 else torch.ones_like(d)
    return ldexp(d.sqrt(), max(exponent, -1000))


def weighted_bases(
    model: nn.Module, statistics: dict[str, Statistics], method: str, *, shrink: float | None = None
) -> dict[str, WeightedSVD]:
    """The weighted SVD of each layer of `calibrate`, by name."""
    bases = {}
    for name, s in statistics.items():
        left, right = metrics(s, method, shrink=shrink)
        w = dense_weight(model.get_submodule(name)).detach()
        bases[name] = weighted_basis(w, left=left, right=right)
    return bases


# ----------------------------------------------------------------------------------------- ranks


def stored(shape: tuple[int, int], rank: int | None, pivoted: bool = False) -> int:
    """Numbers of a layer at a rank: r (n + m), pivoted r (n + m - r), dense (None) n m.

    >>> stored((6, 4), 2), stored((6, 4), 2, True), stored((6, 4), None)
    (20, 16, 24)
    """
    n, m = map(int, shape)
    if rank is None:
        return n * m
    return int(rank) * (n + m - (int(rank) if pivoted else 0))


def uniform_ranks(
    bases: dict[str, WeightedSVD], keep: float, *, step: int = 1, pivoted: bool = False
) -> dict[str, int | None]:
    """The same share of numbers in each layer: the largest rank, a multiple of `step`, that stores
    at most keep n m.

    keep: of the numbers of these layers. step: 2 for factors that are quantized in pairs. pivoted:
    counts r (n + m - r) numbers. Raises ValueError for a keep outside (0, 1] or too small.
    """
    _budget("uniform_ranks", bases, keep, step, pivoted, each=True)
    ranks = {}
    for name, b in bases.items():
        choices = range(step, min(b.shape) + 1, step)
        fits = [r for r in choices if stored(b.shape, r, pivoted) <= keep * math.prod(b.shape)]
        ranks[name] = None if keep == 1 else fits[-1]
    return ranks


def spectrum_ranks(
    bases: dict[str, WeightedSVD],
    keep: float,
    *,
    method: str = "kfac",
    step: int = 1,
    pivoted: bool = False,
) -> dict[str, int | None]:
    """Ranks with the least predicted loss for a number of numbers, over all layers.

        min over ranks of   sum of s_i² of what is cut  +  λ · numbers,      λ by bisection

    bases: of `weighted_bases`, by the names of the layers.
    keep: the share of the numbers of these layers that may be stored.
    method: what the bases were made with. Only "kfac" measures changes of the loss; the energies of
        outputs cannot be compared between layers, so other methods are refused.
    step: ranks are multiples of it.
    pivoted: whether a rank stores r (n + m - r) numbers, not r (n + m).

    A layer that would store more than it does dense stays dense: None. Raises ValueError for a
    method other than "kfac" and for a `keep` outside (0, 1] or too small.
    """
    if method != "kfac":
        raise ValueError(
            f"spectrum_ranks: needs method 'kfac', whose s² are changes of the loss, got "
            f"{method!r}: energies of outputs cannot be compared between layers, and ranks by them "
            f"are worse than uniform ones"
        )
    budget = _budget("spectrum_ranks", bases, keep, step, pivoted)
    top = max(b.exponents[1] for b in bases.values())
    choices = {n: _choices(b, top, step, pivoted) for n, b in bases.items()}
    at = lambda penalty: {
        n: int((loss + penalty * cost).argmin()) for n, (_, loss, cost) in choices.items()
    }
    spent = lambda chosen: sum(float(choices[n][2][k]) for n, k in chosen.items())
    low, high = -2000.0, 1000.0  # powers of two
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (low, middle) if spent(at(2.0**middle)) <= budget else (middle, high)
    chosen = _filled(choices, at(2.0**high), budget)
    return {n: choices[n][0][k] for n, k in chosen.items()}


def zero_sum_ranks(
    bases: dict[str, WeightedSVD],
    statistics: dict[str, Statistics],
    keep: float,
    *,
    step: int = 1,
    pivoted: bool = False,
) -> dict[str, int | None]:
    """Ranks by counting: components fall so that the first-order change of a labeled loss stays
    near zero, and each layer keeps as many leading ones as are left
    (ZS-SVD, arXiv 2602.02848).

        d_i = -<G, u_i v_iᵀ>;   of the sign that brings the sum back to zero the smallest falls next

    bases, keep, step, pivoted: as in `spectrum_ranks`.
    statistics: of `calibrate` with the loss of labels, by the names of the layers.

    Raises ValueError for statistics without gradients and for a `keep` outside (0, 1] or too small.
    """
    budget = _budget("zero_sum_ranks", bases, keep, step, pivoted)
    left, falls = {n: len(b.s) for n, b in bases.items()}, []
    for name, b in bases.items():
        g = statistics[name].gradient
        if g is None:
            raise ValueError("zero_sum_ranks: needs statistics of calibrate with a loss, got none")
        change = -(b.u * (widen(g) @ b.v)).sum(0) * 2.0 ** b.exponents[0]
        falls += [(float(d), name) for d in change]
    falls.sort(key=lambda fall: abs(fall[0]), reverse=True)
    up, down = ([fall for fall in falls if (fall[0] > 0) is sign] for sign in (True, False))
    cost = lambda n: min(stored(bases[n].shape, r, pivoted) for r in (_even(left[n], step), None))
    total, change = sum(map(cost, bases)), 0.0
    while total > budget and (up or down):
        d, name = (down if (change > 0 and down) or not up else up).pop()
        if left[name] > step:
            total -= cost(name)
            left[name], change = left[name] - 1, change + d
            total += cost(name)
    dense = lambda n: cost(n) == math.prod(bases[n].shape)
    return {n: None if dense(n) else _even(left[n], step) for n in bases}


def _even(rank, step):
    return max(step, rank - rank % step)


def _budget(who, bases, keep, step, pivoted, each=False) -> float:
    """Numbers that may be kept. Raises ValueError for a keep that cannot be."""
    if not is_number(keep) or not 0 < keep <= 1:
        raise ValueError(f"{who}: needs 0 < keep <= 1, got {keep!r}")
    least = {n: stored(b.shape, step, pivoted) for n, b in bases.items()}
    dense = {n: math.prod(b.shape) for n, b in bases.items()}
    share = (
        max(least[n] / dense[n] for n in bases)
        if each
        else sum(least.values()) / sum(dense.values())
    )
    if keep < min(1.0, share):
        raise ValueError(f"{who}: needs keep >= {share:.3g} for rank {step} everywhere, got {keep}")
    return keep * sum(dense.values())


def _choices(b: WeightedSVD, top: int, step: int, pivoted: bool):
    """Ranks of a layer (None dense), the loss that each leaves, its numbers."""
    s = ldexp(b.s, max(b.exponents[1] - top, -1000))
    tail = nn.functional.pad(s.square().flip(0).cumsum(0).flip(0), (0, 1))
    dense = math.prod(b.shape)
    ranks = [
        r
        for r in range(step, min(b.shape) + 1, step)
        if stored(b.shape, r, pivoted) < dense or r == step
    ]
    loss = [float(tail[min(r, len(s))]) for r in ranks]
    costs = [stored(b.shape, r, pivoted) for r in ranks]
    cost = torch.tensor([*costs, max(dense, costs[0])], dtype=torch.float64)
    return [*ranks, None], torch.tensor([*loss, 0.0], dtype=torch.float64), cost


def _filled(choices, chosen, budget):
    """What is left of the budget goes where one step more gains most for each number."""
    left = budget - sum(float(choices[n][2][k]) for n, k in chosen.items())
    while True:
        steps = {}
        for n, (ranks, loss, cost) in choices.items():
            k = chosen[n]
            if k + 1 < len(ranks) and (more := float(cost[k + 1] - cost[k])) <= left:
                steps[n] = (float(loss[k] - loss[k + 1]) / max(more, 1.0), more)
        if not steps:
            return chosen
        n = max(steps, key=lambda name: steps[name][0])
        chosen[n], left = chosen[n] + 1, left - steps[n][1]


# ---------------------------------------------------------------------------------------- the model


def cut_layers(
    model: nn.Module,
    bases: dict[str, WeightedSVD],
    ranks: dict[str, int | None],
    make: Callable[[LowRank], MatrixFormat] | None = None,
) -> nn.Module:
    """Put FactorizedLinear layers of these ranks in the place of those of `bases`; changes the
    model and returns it.

    ranks: None leaves a layer dense. make: another format of the same matrix, such as
    `PivotedLowRank.from_lowrank`. Raises ValueError for a name without a rank.
    """
    if lost := bases.keys() - ranks.keys():
        raise ValueError(f"cut_layers: needs a rank for each layer, got none for {min(lost)!r}")

    def build(name, layer):
        low = bases[name].cut(ranks[name])
        return FactorizedLinear(low if make is None else make(low), current(layer, "bias"))

    names = [name for name in bases if ranks[name] is not None]
    return replace("cut_layers", model, lambda n, _: n in names, build, LINEAR) if names else model


def compress_layers(
    model: nn.Module,
    statistics: dict[str, Statistics],
    keep: float,
    *,
    method: str = "kfac",
    ranks: str | None = None,
    step: int = 1,
    pivoted: bool = False,
) -> nn.Module:
    """Cut the layers of `statistics` to a share of their numbers; changes the model and returns it.

    model: whose layers are cut.
    statistics: of `calibrate`, by the names of the layers.
    keep: the share of the numbers of these layers' weights that may be stored.
    method: one of METHODS.
    ranks: "uniform", "spectrum" or "zero sum"; None: "spectrum" for "kfac", "uniform" for others.
    step: ranks are multiples of it; 2 for factors that are then quantized in pairs.
    pivoted: in the pivoted format, which stores less at a rank.

    Raises ValueError as the functions that it calls.

    >>> model, x = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)), torch.randn(20, 8)
    >>> found = calibrate(model, [x], loss=embedding_probe())
    >>> compress_layers(model, found, 0.5)[2].weight.numel <= 64
    True
    """
    bases = weighted_bases(model, statistics, method)
    ranks = ranks or ("spectrum" if method == "kfac" else "uniform")
    rules = {
        "uniform": lambda: uniform_ranks(bases, keep, step=step, pivoted=pivoted),
        "spectrum": lambda: spectrum_ranks(bases, keep, method=method, step=step, pivoted=pivoted),
        "zero sum": lambda: zero_sum_ranks(bases, statistics, keep, step=step, pivoted=pivoted),
    }
    if ranks not in rules:
        raise ValueError(f"compress_layers: needs ranks of {', '.join(rules)}, got {ranks!r}")
    make = PivotedLowRank.from_lowrank if pivoted else None
    return cut_layers(model, bases, rules[ranks](), make)
