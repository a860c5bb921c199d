"""Lesson 25: low rank in the norm that a network feels."""

import copy
import functools
import warnings

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ... import plots
from ...linalg import singular_values
from ...methods.certificate import distances
from ...methods.weighted import (
    Statistics,
    WeightedSVD,
    calibrate,
    metrics,
    spectrum_ranks,
    stored,
    times,
    uniform_ranks,
    weighted_bases,
    weighted_error,
    weighted_svd,
)
from ...papers import table
from ..checks import Check, Unusable, call, gaussian
from ..digits import digits, trained_reader
from ..lab import fast
from ..widgets import Explorer, choice, integer

METHODS = ("svd", "asvd", "fwsvd columns", "whitened", "kfac")
NORMS = {"weights": "svd", "outputs": "whitened", "loss": "kfac"}  # each one's own optimum
ALL = "all at once"
CALIBRATION = 400  # digits


# -------------------------------------------------------------------------- the network, calibrated


@functools.cache
def statistics(count: int = CALIBRATION) -> dict[str, Statistics]:
    """Of the layers in the blocks, over the first digits that the network was trained on."""
    x, y, *_ = digits()
    loss = lambda z, batch: nn.functional.cross_entropy(z, batch[1], reduction="sum")
    forward = lambda model, batch: model(batch[0])
    batches = [(x[:count], y[:count])]
    return calibrate(trained_reader(), batches, "blocks.*", forward=forward, loss=loss, fisher=True)


@functools.cache
def bases(method: str) -> dict[str, WeightedSVD]:
    """The weighted SVD of each layer."""
    return weighted_bases(trained_reader(), statistics(), method)


def blocks(model: nn.Module) -> dict[str, Tensor]:
    """The weights (out, in) of the eight layers in the blocks, by name."""
    return {n: m.weight for n, m in model.named_modules() if isinstance(m, nn.Linear) and "." in n}


def weights() -> dict[str, Tensor]:
    return blocks(trained_reader())


def break_even(layer: str) -> int:
    """The largest rank whose factors store no more numbers than the layer, or than the smallest
    of all."""
    sizes = [w.shape for name, w in weights().items() if layer in (name, ALL)]
    return min(n * m // (n + m) for n, m in sizes)


def seen(model: nn.Module) -> dict[str, float]:
    """The share of test digits that are read rightly, and how far the probabilities move."""
    *_, x, y = digits()
    z = model(x)
    moved = distances(z, trained_reader()(x), "classes")
    return {"right": float(z.argmax(1).eq(y).double().mean()), "moved": float(moved.mean())}


@functools.cache
def norm_of(layer: str, method: str) -> tuple[Tensor | None, Tensor | None]:
    """L and R of a method for a layer."""
    return metrics(statistics()[layer], method)


def low_rank(method: str, layer: str, rank: int | None) -> Tensor:
    """The weight of a rank by a method, None the dense one."""
    b = bases(method)[layer]
    if rank is None:
        return weights()[layer]
    return (b.u[:, :rank] @ b.v[:, :rank].mT * 2.0 ** b.exponents[0]).float()


def with_weights(changed: dict[str, Tensor]) -> nn.Module:
    """A copy of the network with other weights in these layers."""
    model = copy.deepcopy(trained_reader())
    for name, w in changed.items():
        model.get_submodule(name).weight.copy_(w)
    return model


def with_ranks(method: str, ranks: dict[str, int | None]) -> nn.Module:
    """A copy of the network whose layers have these ranks."""
    return with_weights({name: low_rank(method, name, rank) for name, rank in ranks.items()})


@functools.cache
def scored(method: str, layer: str, rank: int) -> dict[str, float]:
    """`seen` with one layer, or all of them, at a rank."""
    names = [name for name in statistics() if layer in (name, ALL)]
    return seen(with_ranks(method, dict.fromkeys(names, rank)))


@functools.cache
def errors(method: str, layer: str, rank: int) -> dict[str, float]:
    """|L (w - ŵ) R| / |L w R| in each norm, the mean of several layers."""

    def relative(name, own):
        left, right = norm_of(name, own)
        w = weights()[name]
        size = lambda a: float((a if right is None else times(left, a.double()) @ right).norm())
        return size(w - low_rank(method, name, rank)) / size(w)

    names = [name for name in statistics() if layer in (name, ALL)]
    mean = lambda own: sum(relative(name, own) for name in names) / len(names)
    return {norm: mean(own) for norm, own in NORMS.items()}


class WeightingExplorer(Explorer):
    """A layer at a rank by a method: the error in each norm, and what the network still reads."""

    figsize = (9, 3.4)

    def __init__(self):
        super().__init__(
            rank=integer(6, 1, break_even(ALL)),
            layer=choice(ALL, (ALL, *statistics())),
            method=choice("kfac", METHODS),
        )

    def limits(self, layer: str, **others) -> dict[str, tuple]:
        return {"rank": (1, break_even(layer))}

    def draw(self, figure: Figure, rank: int, layer: str, method: str) -> str:
        left, right = figure.subplots(1, 2, width_ratios=(2, 3))
        methods = list(dict.fromkeys(("svd", method)))
        found = {m: errors(m, layer, rank) for m in methods}
        for k, m in enumerate(methods):
            at = [i + 0.4 * (k - 0.5) for i in range(len(NORMS))]
            color = plots.COLORS[METHODS.index(m)]
            bars = left.bar(at, list(found[m].values()), 0.38, color=color, label=m)
            left.bar_label(bars, fmt="%.2f", fontsize=8.5)
        left.set(xticks=range(len(NORMS)), xticklabels=list(NORMS), ylim=(0, 1))
        left.set(ylabel="relative error", title=f"rank {rank}")
        left.legend()
        _reading_curves(right, layer)
        right.axvline(rank, color="0.4", ls=":")
        right.plot(rank, 100 * scored(method, layer, rank)["right"], "o", ms=11, mfc="none", c="k")
        least = min(METHODS, key=lambda m: scored(m, layer, rank)["moved"])
        said = ", ".join(f"{m} {100 * scored(m, layer, rank)['right']:.1f} %" for m in methods)
        return (
            f"{layer}, rank {rank}: error of the outputs {found[method]['outputs']:.2f} by "
            f"{method}, {found['svd']['outputs']:.2f} by svd; digits that are read: {said} (dense "
            f"{100 * seen(trained_reader())['right']:.1f} %). {least} moves the answers least."
        )


def _reading_curves(ax, layer: str) -> None:
    """Digits read against the rank, one curve for each method, the dense network as a line."""
    most = break_even(layer)
    ranks = fast((1, 4, 8, most), full=sorted({*(1, 2, 3, 4, 6, 8, 12, 16, 20), most}))
    ranks = [r for r in ranks if r <= most]
    for k, method in enumerate(METHODS):
        right = [100 * scored(method, layer, r)["right"] for r in ranks]
        ax.plot(ranks, right, label=method, **plots.style(k))
    ax.axhline(100 * seen(trained_reader())["right"], color="0.4", lw=1, ls="--", label="dense")
    ax.set(xlabel="rank", ylabel="% right", ylim=(0, 102))
    ax.legend(loc="lower right")


# ----------------------------------------------------------------------------------------- figures

LAYER, WIDE = "blocks.0.attention.qkv", "blocks.0.down"


def draw_steep(figure: Figure, layer: str = LAYER) -> str:
    """Singular values of a weight, of its inputs, of their product; errors by rank; a sentence."""
    left, right = figure.subplots(1, 2)
    w, (_, root) = weights()[layer].double(), metrics(statistics()[layer], "whitened")
    spectra = {"w": w, "inputs": root, "w R": w @ root}
    kept = plots.singular_values(left, {n: singular_values(a) for n, a in spectra.items()}, 0.1)
    left.set(ylim=(1e-3, 1.5))
    ranks = range(1, break_even(layer) + 1)
    for k, method in enumerate(("svd", "whitened")):
        error = [errors(method, layer, r)["outputs"] for r in ranks]
        right.plot(ranks, error, label=method, **plots.style(k, len(error)))
    right.axhline(1, color="0.4", lw=1, label="nothing kept")
    right.set(xlabel="rank", ylabel="relative error of the outputs", ylim=(0, 1.05))
    right.legend()
    return f"{layer}. {kept}"


@functools.cache
def pruned(keep: float) -> nn.Module:
    """The rival: of each layer the largest entries alone, as many as the others store numbers."""
    least = lambda w: w.abs().flatten().kthvalue(round((1 - keep) * w.numel())).values
    return with_weights({name: w * (w.abs() > least(w)) for name, w in weights().items()})


def rivals(keeps: tuple[float, ...], widths: tuple[int, ...]) -> dict[str, list]:
    """{name: [(numbers in the blocks, share read)]}: methods by uniform ranks, "kfac, its ranks",
    the largest entries, smaller networks that are trained from scratch, and the dense one."""
    whole = lambda model: sum(w.numel() for w in blocks(model).values())
    point = lambda model, numbers: (numbers, seen(model)["right"])
    cut = lambda m, ranks: point(
        with_ranks(m, ranks), sum(stored(w.shape, ranks[n]) for n, w in weights().items())
    )
    dense = whole(trained_reader())
    found = {"dense": [point(trained_reader(), dense)]}
    for m in METHODS:
        found[m] = [cut(m, uniform_ranks(bases(m), keep)) for keep in keeps]
    found["kfac, its ranks"] = [cut("kfac", spectrum_ranks(bases("kfac"), k)) for k in keeps]
    found["largest entries"] = [point(pruned(keep), round(keep * dense)) for keep in keeps]
    small = [trained_reader(width) for width in widths]
    found["trained smaller"] = [point(model, whole(model)) for model in small]
    return found


def draw_rivals(figure: Figure, found: dict[str, list]) -> str:
    """Digits read against numbers stored; a sentence."""
    ax = figure.subplots()
    said = plots.accuracy_against_storage(ax, found)
    ax.lines[-1].set(color="0.4", marker="*")  # trained, not cut: beside the seven colors
    ax.set(xlabel="numbers in the layers of the blocks", ylim=(0, 102))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return said


def ranks_by(keep: float) -> dict[str, tuple[str, dict[str, int | None]]]:
    """Three ways to share numbers among layers: {name: (method, ranks)}. The energy of the outputs
    is what `spectrum_ranks` refuses for "whitened"; here it is told that the bases are kfac's."""
    return {
        "uniform": ("kfac", uniform_ranks(bases("kfac"), keep)),
        "by the energy of outputs": ("whitened", spectrum_ranks(bases("whitened"), keep)),
        "by the loss (kfac)": ("kfac", spectrum_ranks(bases("kfac"), keep)),
    }


def draw_ranks(figure: Figure, keep: float) -> str:
    """The ranks of each layer by three ways, and what they do to the answers; a sentence."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 1))
    names, said, found = list(statistics()), [], ranks_by(keep)
    for k, (way, (method, ranks)) in enumerate(found.items()):
        full = [ranks[n] or min(weights()[n].shape) for n in names]
        at = [i + 0.27 * (k - 1) for i in range(len(names))]
        left.bar(at, full, 0.25, color=plots.COLORS[k], label=way)
        moved = seen(with_ranks(method, ranks))
        right.bar(k, moved["moved"], color=plots.COLORS[k])
        said.append(f"{way} {moved['moved']:.3f} ({100 * moved['right']:.1f} % read)")
    short = [n.removeprefix("blocks.").replace("attention.", "") for n in names]
    left.set(xticks=range(len(names)), xticklabels=short, ylabel="rank")
    left.margins(y=0.2)
    left.legend(ncols=3, loc="upper center")
    right.set(xticks=[], ylabel="change of the answers")
    return f"{keep:.0%} of the numbers; change of the answers: {', '.join(said)}."


def few(counts: tuple[int, ...], layer: str = WIDE, rank: int = 6) -> dict[str, list]:
    """The error of the outputs on the test digits by how many digits were seen: {name: [(digits,
    error)]}, whitened with and without shrinkage, and the plain SVD."""
    *_, x, _ = digits()
    w = weights()[layer]
    right = metrics(_inputs(x, layer), "whitened", shrink=0.0)[1]
    error = lambda form: weighted_error(w, form, right=right)
    found = {"whitened": [], "without shrinkage": [], "svd": []}
    for count in counts:
        s = _inputs(digits()[0][:count], layer)
        for name, shrink in (("whitened", None), ("without shrinkage", 0.0)):
            low = weighted_svd(w, rank, right=metrics(s, "whitened", shrink=shrink)[1])
            found[name].append((count, error(low)))
        found["svd"].append((count, error(bases("svd")[layer].cut(rank))))
    return found


def _inputs(x: Tensor, layer: str) -> Statistics:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few tokens are what is shown
        return calibrate(trained_reader(), [x], layer)[layer]


def draw_few(figure: Figure, found: dict[str, list]) -> str:
    """Errors on unseen digits against those that were seen; a sentence."""
    ax = figure.subplots()
    for k, (name, points) in enumerate(found.items()):
        ax.semilogx(*zip(*points), label=name, **plots.style(k))
    ax.set(xlabel="digits that were seen", ylabel="relative error, unseen digits", ylim=0)
    ax.legend()
    said = (f"{name} {points[0][1]:.2f} to {points[-1][1]:.2f}" for name, points in found.items())
    counts = [count for count, _ in found["svd"]]
    return f"From {counts[0]} digits to {counts[-1]}: {', '.join(said)}."


def draw_recorded(figure: Figure) -> str:
    """Recorded STS-B scores of a sentence encoder, as shares of the full model's, and the printed
    ones of the talk as marks; a sentence."""
    ax = figure.subplots()
    ours, theirs = table.measured("Hsu2022").rows, table.printed("Hsu2022").rows
    full = ours[0]["STS-B"]
    names = list(dict.fromkeys(row["method"] for row in ours[1:]))
    for k, name in enumerate(names):
        rows = [row for row in ours if row["method"] == name]
        at = sorted((row["kept of the model"], 100 * row["STS-B"] / full) for row in rows)
        ax.plot(*zip(*at), label=f"{name}, recorded", **plots.style(k) | {"ls": "none", "ms": 7})
    whole = next(row["STS-B"] for row in theirs if row["method"] == "full")
    marks = {"svd": "x", "fwsvd columns": "+", "ttm": "1", "fwttm": "2"}
    for name, mark in marks.items():
        rows = [row for row in theirs if row["method"] == name]
        at = [(row["kept of the model"], 100 * row["STS-B"] / whole) for row in rows]
        ax.plot(*zip(*at), mark, color="0.35", ms=9, mew=1.6, label=f"{name}, printed")
    ax.axhline(100, color="0.4", lw=1, ls="--", label="full")
    ax.set(xlabel="kept of the numbers of the model", ylabel="% of the full score", ylim=(0, 105))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    least = min(row["STS-B"] / full for row in ours)
    low, high = (f(r["STS-B"] / whole for r in theirs if r["method"] in marks) for f in (min, max))
    return (
        f"Recorded: {100 * least:.1f} % of the full score or more, without tuning. Printed, after "
        f"tuning of another model: {100 * low:.0f} to {100 * high:.0f} %."
    )


# ---------------------------------------------------------------------------------------- exercises


def _left_over(kept: int) -> float:
    """What is left of diag(3, 2, 1) times the roots 1, 1, 4, relative, without one entry."""
    seen = torch.tensor([3.0, 2.0, 4.0])
    rest = seen.clone()
    rest[kept] = 0
    return float(rest.norm() / seen.norm())


kept_error = Check(
    right=lambda: _left_over(2),
    mistakes=(
        (lambda: _left_over(0), "that keeps the 3, the largest singular value of w alone."),
        (lambda: _left_over(2) ** 2, "that is the square: the norm is its root."),
        (lambda: 5**0.5 / 14**0.5, "that is the error of w; the outputs weigh the third input."),
        (
            lambda: float(torch.tensor([3.0, 2.0]).norm() / torch.tensor([3.0, 2.0, 16.0]).norm()),
            "R has the roots of the mean squares: 1, 1 and 4.",
        ),
    ),
    hint="w R = diag(3, 2, 4); the best of rank 1 keeps its largest.",
    moral="The smallest singular value of w is the one to keep: its input is the largest.",
)

second_moment = Check(
    function=True,
    cases=lambda: [
        (gaussian((7, 3))[0] + 1,),
        (gaussian((2, 5, 4))[0] + 1,),
    ],
    right=lambda x: (
        torch.einsum("...i,...j->ij", x, x) / (x.shape[0] * (x.shape[1] if x.ndim > 2 else 1))
    ),
    mistakes=(
        (
            lambda x: torch.einsum("...i,...j->ij", x, x),
            "that is the sum over tokens: divide by their number.",
        ),
        (
            lambda x: torch.cov(x.flatten(0, -2).T, correction=0),
            "that has the mean taken out; a layer sees the mean as well.",
        ),
        (
            lambda x: x.flatten(0, -2) @ x.flatten(0, -2).T / x[..., 0].numel(),
            "that compares tokens, (tokens, tokens); it is inputs that are compared, (n, n).",
        ),
        (
            lambda x: torch.einsum("...i,...j->ij", x, x) / len(x),
            "divide by all tokens, those of every example.",
        ),
    ),
    hint="the mean of x xᵀ over all tokens, (n, n): flatten all modes but the last.",
    moral="It is added up batch by batch: no input has to be stored.",
)


def _root(a: Tensor, clamp: float, power=0.5, keep=None) -> Tensor:
    values, vectors = torch.linalg.eigh(a)
    least = clamp * a.diagonal().mean() if keep is None else keep
    return vectors * values.clamp_min(least) ** power


def _squared(function, a, clamp):
    """C Cᵀ of the answer, for a root is determined but for a rotation."""
    c = call(function, a, clamp)
    if c is not None and (c.ndim != 2 or len(c) != len(a)):
        raise Unusable(f"a matrix with {len(a)} rows is needed, this is {tuple(c.shape)}.")
    return None if c is None else c @ c.T


def _moments() -> list[tuple]:
    g = gaussian((9, 4))[0] * torch.tensor([3.0, 1.0, 0.3, 0.0], dtype=torch.float64)
    return [(g.T @ g / 9, 1e-2), (100 * torch.eye(3, dtype=torch.float64), 1e-4)]


def _of_root(c: Tensor) -> Tensor:
    return c @ c.T


root = Check(
    function=True,
    cases=_moments,
    read=_squared,
    right=lambda a, clamp: _of_root(_root(a, clamp)),
    mistakes=(
        (
            lambda a, clamp: _of_root(_root(a, clamp, power=1)),
            "C Cᵀ should be a itself: take the roots of the eigenvalues.",
        ),
        (lambda a, clamp: a, "an eigenvalue is below clamp times the mean of the diagonal still."),
        (
            lambda a, clamp: _of_root(_root(a, clamp, keep=clamp)),
            "the clamp is a share of the mean of the diagonal, whatever the size of the inputs.",
        ),
        (
            lambda a, clamp: a + clamp * a.diagonal().mean() * torch.eye(len(a)),
            "that adds to all eigenvalues; only those that are too small are raised.",
        ),
    ),
    hint="a = V diag(λ) Vᵀ; C = V diag(√max(λ, clamp · mean of the diagonal)).",
    moral="It never fails: inputs that are always zero, or fewer tokens than inputs, are no harm.",
)


def _cut(w, left, right, rank) -> Tensor:
    u = torch.linalg.svd(left @ w @ right, full_matrices=False)[0][:, :rank]
    return torch.linalg.solve(left, u @ (u.T @ left @ w))


def _truncated(a, rank) -> Tensor:
    u, s, vh = torch.linalg.svd(a, full_matrices=False)
    return u[:, :rank] * s[:rank] @ vh[:rank]


def _where_it_counts(function, w, left, right, rank):
    """ŵ R: what inputs see of the answer. Where R is singular, more is not determined."""
    low = call(function, w, left, right, rank)
    if low is None:
        return None
    if low.shape != w.shape:
        raise Unusable(f"the shape should be {tuple(w.shape)}, it is {tuple(low.shape)}.")
    return low @ right


def _weights() -> list[tuple]:
    w, a, b = gaussian((5, 4), (5, 5), (4, 4))
    singular = b.clone()
    singular[:, 3] = 0
    return [(w, a, b, 2), (w, torch.eye(5, dtype=torch.float64), singular, 2)]


weighted_cut = Check(
    function=True,
    cases=_weights,
    read=_where_it_counts,
    right=lambda w, left, right, rank: _cut(w, left, right, rank) @ right,
    mistakes=(
        (
            lambda w, left, right, rank: _truncated(w, rank) @ right,
            "that is the plain SVD of w.",
        ),
        (
            lambda w, left, right, rank: _truncated(left @ w @ right, rank) @ right,
            "that is near L w R: take L and R away again.",
        ),
        (
            lambda w, left, right, rank: left @ _cut(w, left, right, rank) @ right,
            "the L is still there: solve with it.",
        ),
        (
            lambda w, left, right, rank: (
                _cut(w, torch.eye(len(w), dtype=w.dtype), right, rank) @ right
            ),
            "only R weighs here: the outputs have their L.",
        ),
        (
            lambda w, left, right, rank: _cut(w, left, right, rank + 1) @ right,
            "that has one component too many.",
        ),
    ),
    hint="U of the SVD of L w R; ŵ = L⁻¹ U_r U_rᵀ L w, where no inverse of R is needed.",
    moral="SVD, FWSVD, ASVD, the whitened SVD and kfac are this one function.",
    forbids=((weighted_svd, "write it from torch.linalg.svd."),),
)


def _priced(spectra, costs, price, power=2, divide=True) -> Tensor:
    pays = lambda s, c: (s**power > price * (c if divide else 1)).sum()
    return torch.stack([pays(s, c) for s, c in zip(spectra, costs)])


def _spectra() -> list[tuple]:
    first = torch.tensor([5.0, 3.0, 1.6, 0.4], dtype=torch.float64)
    second = torch.tensor([4.0, 2.5, 2.2, 1.2, 0.3], dtype=torch.float64)
    return [([first, second], [2.0, 8.0], 1.0), ([first, second], [4.0, 4.0], 0.1)]


priced_ranks = Check(
    function=True,
    cases=_spectra,
    right=_priced,
    mistakes=(
        (
            lambda spectra, costs, price: _priced(spectra, costs, price, power=1),
            "losses add up as squares of singular values.",
        ),
        (
            lambda spectra, costs, price: _priced(spectra, costs, price, divide=False),
            "a component of another layer stores another number of numbers: price times cost.",
        ),
        (
            lambda spectra, costs, price: torch.stack(
                [torch.tensor(len(s)) - r for s, r in zip(spectra, _priced(spectra, costs, price))]
            ),
            "those are the components that fall; the rank counts those that stay.",
        ),
    ),
    hint="a component stays where its s² is more than the price of the numbers that it stores.",
    moral="Bisect the price until the numbers fit, and this is `spectrum_ranks`.",
    forbids=((spectrum_ranks, "count in each spectrum."),),
)


def _enough(method: str, below: float = 0.05) -> int:
    """The first rank of all layers at which the error of the outputs is within a bound."""
    ranks = range(1, break_even(ALL) + 1)
    return next((r for r in ranks if errors(method, ALL, r)["outputs"] <= below), ranks[-1])


BOUND = 0.2

enough_rank = Check(
    right=lambda: _enough("whitened", BOUND),
    mistakes=(
        (lambda: _enough("svd", BOUND), "that is where the plain SVD comes there."),
        (lambda: _enough("whitened", BOUND) - 1, "one rank more is needed: the error is above."),
        (lambda: _enough("whitened", BOUND) + 1, "one rank less is enough."),
    ),
    hint="layer 'all at once', method whitened: the sentence has the error of the outputs.",
    moral="The same outputs from fewer numbers, for nothing but a look at some inputs.",
)
