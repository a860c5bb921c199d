"""Lesson 26: one call compresses a model, and says what that does."""

import copy
import functools

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ... import plots
from ...compression import compress
from ...layers.report import layer_report
from ...methods.candidates import plans
from ...methods.certificate import Certificate
from ...methods.feedback import feedback_layers, quantize_with_feedback
from ...methods.weighted import calibrate, spectrum_ranks
from ...models.training import accuracy
from ..checks import Check, gaussian
from ..digits import digits, trained_reader
from ..widgets import Explorer, choice, integer

METHODS = ("auto", "kfac", "whitened", "svd")
BITS = {"32 bits": None, "8 bits": 8, "4 bits": 4}
BLOCKS, CALIBRATION = "blocks.*", 400


# ------------------------------------------------------------------------------ one call, its model


def call(**options) -> nn.Module:
    """The transformer of lesson 25, compressed: calibrated on 400 of the digits that it was trained
    on, without labels, and certified on the 497 that it never saw."""
    x, _, unseen, _ = digits()
    model = copy.deepcopy(trained_reader())
    common = dict(names=BLOCKS, outputs="classes", unseen=[unseen])
    generator = torch.Generator().manual_seed(0)
    return compress(model, [x[:CALIBRATION]], generator=generator, **common, **options)


@functools.cache
def compressed(percent: int, method: str, bits: str = "32 bits") -> nn.Module:
    """The model that keeps so many percent of the numbers of its blocks, in so many bits."""
    return call(keep=percent / 100, method=method, bits=BITS[bits])


@functools.cache
def planned(what: str, share: float, families: tuple[str, ...]) -> nn.Module:
    """The model whose blocks have a budget of "bytes" or "flops"."""
    return call(budget={what: share}, families=families)


def certificate(percent: int, method: str, bits: str = "32 bits") -> Certificate:
    return compressed(percent, method, bits).compression.certificate


def read(model: nn.Module) -> float:
    """The share of test digits that a model reads rightly."""
    *_, x, y = digits()
    return accuracy(model, x, y)


def answers(model: nn.Module) -> Tensor:
    """The probabilities of the ten digits, (497, 10)."""
    return model(digits()[2]).softmax(1)


def lost(model: nn.Module) -> Tensor:
    """The test digits that the full model reads and this one does not: their numbers."""
    truth = digits()[3]
    right = lambda m: answers(m).argmax(1) == truth
    return (right(trained_reader()) & ~right(model)).nonzero().flatten()


class CompressExplorer(Explorer):
    """One call of compress: its certificate, layer by layer, and digits that are lost."""

    figsize = (9, 3.6)

    def __init__(self):
        super().__init__(
            kept=integer(30, 15, 90, label="kept, %"),
            method=choice("kfac", METHODS),
            bits=choice("32 bits", BITS),
        )

    def draw(self, figure: Figure, kept: int, method: str, bits: str) -> str:
        model = compressed(kept, method, bits)
        grid = figure.add_gridspec(2, 6, width_ratios=(6, 1, 1, 1, 1, 1))
        found = model.compression.certificate
        _draw_certificate(figure.add_subplot(grid[:, 0]), found)
        wrong, y, of = lost(model).tolist(), digits()[3], answers(model).argmax(1)
        for k in range(10):
            ax = figure.add_subplot(grid[k // 5, 1 + k % 5])
            ax.set_axis_off()
            if k < len(wrong):
                i = wrong[k]
                plots.image(ax, digits()[2][i], f"{int(y[i])} read {int(of[i])}")
        share = model.compression.kept["bytes of the layers"]
        return (
            f"{method}, {kept} % in {bits}: {share:.1%} of the bytes of the blocks. The answers "
            f"move by {found.measured:.2g}, forecast {found.forecast:.2g}; "
            f"{found.changed:.1%} are others. It reads {read(model):.1%} of the digits, the full "
            f"model {read(trained_reader()):.1%}, and loses {len(wrong)} that the full one reads."
        )


def _short(name: str) -> str:
    return name.removeprefix("blocks.").replace("attention.", "")


def _draw_certificate(ax, found: Certificate) -> None:
    """The change by each layer alone, their forecast, and what is measured with its interval."""
    least = 1e-7  # what moves nothing would have no bar on a scale of powers
    names = [_short(n) for n in found.alone]
    bars = [max(d, least) for d in found.alone.values()]
    ax.barh(names, bars, color=plots.COLORS[0], label="each alone")
    ax.axvline(max(found.forecast, least), color="k", ls="--", lw=1.4, label="forecast")
    low, high = (max(d, least) for d in found.measured_interval)
    ax.axvspan(low, high, color=plots.COLORS[1], alpha=0.35, label="measured, 95 %")
    ax.set(xscale="log", xlim=(least, 20), xlabel="change of the answers")
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=8.5)


# ----------------------------------------------------------------------------------------- figures


def draw_wrong(figure: Figure, model: nn.Module) -> str:
    """How sure the full model was of each digit, and what the compressed one makes of it; which
    answers are taken for which; a sentence."""
    left, right = figure.subplots(1, 2)
    p, q, y = answers(trained_reader()), answers(model), digits()[3]
    others = p.argmax(1) != q.argmax(1)
    lead = lambda t: (t[range(len(y)), y]).clamp_min(1e-6)
    for k, (name, at) in enumerate((("same answer", ~others), ("another answer", others))):
        mark = dict(ls="none", marker=".ox"[k], ms=(4, 7)[k], mfc="none", color=plots.COLORS[k])
        left.plot(lead(p)[at].tolist(), lead(q)[at].tolist(), label=name, **mark)
    left.plot([1e-6, 1], [1e-6, 1], color="0.4", lw=1)
    left.set(xscale="log", yscale="log", xlabel="probability of the truth, full model")
    left.set(ylabel="compressed")
    left.legend()
    table = torch.zeros(10, 10)
    table.index_put_((p.argmax(1), q.argmax(1)), torch.ones(len(y)), accumulate=True)
    table.fill_diagonal_(0)
    plots.image(right, table, "other answers")
    figure.colorbar(right.images[0], ax=right, label="digits")
    right.set_axis_on()
    right.set(xlabel="compressed reads", ylabel="full model reads")
    right.set(xticks=range(10), yticks=range(10))
    most = int(table.argmax())
    return (
        f"{int(others.sum())} of {len(y)} answers are others; most often a {most // 10} is taken "
        f"for a {most % 10} ({int(table.max())} times)."
    )


def sureness(model: nn.Module) -> tuple[float, float]:
    """The median probability that the full model gives its answer: where the compressed one gives
    the same, and where it gives another."""
    p, q = answers(trained_reader()), answers(model)
    others = p.argmax(1) != q.argmax(1)
    top = p.max(1).values
    return float(top[~others].median()), float(top[others].median())


def draw_forecasts(figure: Figure, percents: tuple[int, ...], methods=("kfac", "svd")) -> str:
    """What the certificate forecasts against what is measured; a sentence."""
    ax, said = figure.subplots(), []
    for k, method in enumerate(methods):
        found = [certificate(p, method) for p in percents]
        x, y = [c.measured for c in found], [c.forecast for c in found]
        bars = [
            [max(0.0, s * (c.measured_interval[i] - c.measured)) for c in found]
            for i, s in ((0, -1), (1, 1))
        ]
        ax.errorbar(x, y, xerr=bars, label=method, capsize=2, **plots.style(k))
        side = dict(color=plots.COLORS[k], textcoords="offset points", fontsize=8.5)
        side |= {"xytext": (-4, 5), "ha": "right"} if k else {"xytext": (5, -10)}
        for p, c in zip(percents, found):
            ax.annotate(f"{p} %", (c.measured, c.forecast), **side)
        off = [c.forecast / c.measured for c in found]
        said.append(f"{method} {min(off):.2f} to {max(off):.2f}")
    ends = ax.get_xlim()
    ax.plot(ends, ends, color="0.4", lw=1, label="as measured")
    ax.set(xscale="log", yscale="log", xlabel="measured change of the answers", ylabel="forecast")
    ax.legend()
    return f"The forecast over what is measured: {', '.join(said)}."


def sizes(
    percents: tuple[int, ...], widths: tuple[int, ...], bits: tuple[int, ...]
) -> dict[str, list]:
    """{name: [(bytes of the blocks, share read)]}: low rank, low rank in bits, bits alone, smaller
    networks that are trained from scratch, and the dense one. bits: of weights alone."""
    numbers = lambda m: sum(w.numel() for w in blocks(m))
    dense = 4 * numbers(trained_reader())
    point = lambda m: (dense * m.compression.kept["bytes of the layers"], read(m))
    found = {"dense": [(dense, read(trained_reader()))]}
    for name, method, width in (
        ("svd", "svd", "32 bits"),
        ("kfac", "kfac", "32 bits"),
        ("kfac in 4 bits", "kfac", "4 bits"),
    ):
        found[name] = [point(compressed(p, method, width)) for p in percents]
    found["bits"] = [in_bits(b) for b in bits]
    small = [trained_reader(w) for w in widths]
    found["trained smaller"] = [(4 * numbers(m), read(m)) for m in small]
    return found


def in_bits(bits: int) -> tuple[int, float]:
    """Bytes of the blocks and the share read when all of their weights are rounded with
    feedback."""
    model = copy.deepcopy(trained_reader())
    found = calibrate(model, [digits()[0][:CALIBRATION]], BLOCKS)
    feedback_layers(model, found, bits, generator=torch.Generator().manual_seed(0))
    rows = [row for row in layer_report(model).rows if row.name in found]
    return sum(row.bytes for row in rows), read(model)


def blocks(model: nn.Module) -> list[Tensor]:
    return [m.weight for n, m in model.named_modules() if isinstance(m, nn.Linear) and "." in n]


def draw_sizes(figure: Figure, found: dict[str, list]) -> str:
    """Digits read against bytes; a sentence."""
    ax = figure.subplots()
    plots.accuracy_against_storage(ax, found)
    ax.set(xlabel="bytes of the blocks", ylim=(0, 102))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    least = found["dense"][0][1] - 0.02
    enough = {n: [b for b, right in points if right >= least] for n, points in found.items()}
    said = ", ".join(f"{n} {min(b):,.0f}" for n, b in enough.items() if b)
    return f"Bytes at which at most 2 % fewer of the digits are read: {said}."


def draw_plans(figure: Figure, models: dict[str, nn.Module]) -> str:
    """What each family of formats does to the answers within a budget; a sentence."""
    axes, said = figure.subplots(1, len(models), squeeze=False)[0], []
    for ax, (title, model) in zip(axes, models.items()):
        measured = model.compression.measured
        names = sorted(measured, key=measured.get)
        colors = [plots.COLORS[n == model.compression.family] for n in names]
        ax.barh(names, [measured[n] for n in names], color=colors)
        least = measured[names[0]] / 4
        ax.set(xscale="log", xlim=(least, None), xlabel="change of the answers", title=title)
        ax.invert_yaxis()
        ax.grid(False, axis="y")
        said.append(f"{title}: {model.compression.family} {measured[names[0]]:.2g}")
    return f"The least change, {'; '.join(said)}."


# ---------------------------------------------------------------------------------------- exercises


def _forecast(alone, clamp=True) -> Tensor:
    left = 1 - torch.as_tensor(alone, dtype=torch.float64) / 2
    return 2 * (1 - (left.clamp_min(0) if clamp else left).prod())


ten_layers = Check(
    right=lambda: float(_forecast([0.1] * 10)),
    mistakes=(
        (lambda: 1.0, "that is the sum: vectors of one length cannot go on moving apart for ever."),
        (lambda: 2 * (1 - 0.9**10), "it is half of each change that is taken off 1."),
        (lambda: 1 - 0.95**10, "twice that: uncorrelated vectors of length one differ by 2."),
        (lambda: 0.1, "that is one layer."),
    ),
    hint="2 (1 - (1 - d/2)^10) with d = 0.1.",
    moral="A fifth less than the sum: changes saturate.",
)

forecast = Check(
    function=True,
    cases=lambda: [
        (torch.tensor([0.1, 0.3, 0.02], dtype=torch.float64),),
        (torch.tensor([3.0, 0.5, 2.5], dtype=torch.float64),),
    ],
    right=_forecast,
    mistakes=(
        (lambda alone: alone.sum(), "that is the sum, which knows no saturation."),
        (lambda alone: 1 - (1 - alone).prod(), "divide each change by 2 before, and double after."),
        (
            lambda alone: _forecast(alone, clamp=False),
            "a layer that moves vectors by more than 2 leaves nothing: no factor is below 0.",
        ),
        (lambda alone: (1 - alone / 2).prod(), "that is the cosine which is left: 2 (1 - that)."),
    ),
    hint="2 (1 - prod max(0, 1 - d/2)).",
    moral="One forward pass for each layer, and a guess at all of them together.",
)


def _nearest(value, levels) -> Tensor:
    return levels[(levels - value).abs().argmin()]


def _rounded(z, h, levels, factor=None, sign=1.0, scaled=True) -> Tensor:
    z, q = z.clone(), torch.zeros_like(z)
    u = torch.linalg.cholesky(torch.linalg.inv(h)).mT if factor is None else factor(h)
    for k in range(len(z)):
        q[k] = _nearest(z[k], levels)
        e = (z[k] - q[k]) / (u[k, k] if scaled else 1.0)
        z[k + 1 :] -= sign * e * u[k, k + 1 :]
    return q


def _rows() -> list[tuple]:
    (z,), a = gaussian((1, 10)), gaussian((10, 4))[0]
    levels = torch.arange(-2, 2.1, 0.25, dtype=torch.float64)
    h = a @ a.T + 0.1 * torch.eye(10, dtype=torch.float64)
    return [(z[0], h, levels), (2 * z[0, 2:8], h[:6, :6], levels)]


round_row = Check(
    function=True,
    cases=_rows,
    right=_rounded,
    mistakes=(
        (
            lambda z, h, levels: _rounded(z, torch.eye(len(z), dtype=z.dtype), levels),
            "each entry is rounded by itself: hand its error on to those after it (a lower "
            "triangular U hands on nothing).",
        ),
        (
            lambda z, h, levels: _rounded(z, h, levels, sign=-1.0),
            "the errors are added up: those after it are to make up for them.",
        ),
        (
            lambda z, h, levels: _rounded(z, h, levels, lambda h: torch.linalg.cholesky(h).mT),
            "that is the factor of H; it is that of its inverse.",
        ),
        (
            lambda z, h, levels: _rounded(z, h, levels, scaled=False),
            "divide the error by U_kk before it is handed on.",
        ),
    ),
    hint="e = (z_k - q_k) / U_kk, and z_rest -= e U_k,rest, with H⁻¹ = UᵀU.",
    moral="Worth about one bit, and only where inputs are correlated: with H = 1 it is plain "
    "rounding.",
    forbids=((quantize_with_feedback, "write the loop."),),
)


def _greedy(spectra, costs, budget, gain=lambda s, c: s**2 / c, fill=False) -> Tensor:
    ranks, left = [0] * len(spectra), budget
    open_ = set(range(len(spectra)))
    while open_ := {k for k in open_ if ranks[k] < len(spectra[k])}:
        k = max(open_, key=lambda k: float(gain(spectra[k][ranks[k]], costs[k])))
        if costs[k] > left:
            if not fill:
                break
            open_ = open_ - {k}
            continue
        ranks[k], left = ranks[k] + 1, left - costs[k]
    return torch.tensor(ranks)


def _spectra() -> list[tuple]:
    a = torch.tensor([4.8, 3.4, 2.7, 1.7], dtype=torch.float64)
    b = torch.tensor([6.0, 5.7, 5.6, 3.5, 1.9], dtype=torch.float64)
    return [([a, b], [3, 9], 21), ([b, a], [2, 9], 100)]


greedy_ranks = Check(
    function=True,
    cases=_spectra,
    right=_greedy,
    mistakes=(
        (
            lambda *case: _greedy(*case, gain=lambda s, c: s**2),
            "divide by what a component stores: it is the loss for each number that counts.",
        ),
        (
            lambda *case: _greedy(*case, gain=lambda s, c: s / c),
            "losses are squares of singular values.",
        ),
        (
            lambda *case: _greedy(*case, fill=True),
            "stop at the first component that does not fit.",
        ),
        (
            lambda spectra, costs, budget: torch.tensor([int(budget / sum(costs))] * len(costs)),
            "those ranks are uniform: one layer may need more than another.",
        ),
    ),
    hint="begin at 0; add the component with the largest s² / cost; stop where it does not fit.",
    moral="`spectrum_ranks` does this by a multiplier that is bisected, and fills what is left.",
    forbids=((spectrum_ranks, "write the loop."),),
)


def _chosen(tables, budget, worth=None) -> Tensor:
    """From dense down, by the least of worth(loss added, bytes saved)."""
    worth = worth or (lambda loss, saved: loss / saved)
    at = [0] * len(tables)
    while sum(float(t[i][0]) for t, i in zip(tables, at)) > budget:
        steps = [
            (worth(float(c[1] - t[at[k]][1]), float(t[at[k]][0] - c[0])), k, i)
            for k, t in enumerate(tables)
            for i, c in enumerate(t)
            if c[0] < t[at[k]][0]
        ]
        _, k, at[k] = min(steps)
    return torch.tensor(at)


def _each_alone(tables, budget) -> Tensor:
    """The least loss of each layer within its share of the bytes."""
    share = budget / sum(float(t[0][0]) for t in tables)
    fits = lambda t: [i for i, c in enumerate(t) if c[0] <= share * t[0][0]]
    return torch.tensor([min(fits(t) or [0], key=lambda i: float(t[i][1])) for t in tables])


def _tables() -> list[tuple]:
    make = lambda *rows: torch.tensor(rows, dtype=torch.float64)
    a = make((100, 0.0), (60, 0.5), (40, 1.2), (10, 9.0))
    b = make((80, 0.0), (70, 0.1), (30, 0.9), (12, 2.0))
    c = make((50, 0.0), (25, 6.0), (8, 7.0))
    return [([a, b, c], 140), ([b, a, c], 100)]


choose = Check(
    function=True,
    cases=_tables,
    right=_chosen,
    mistakes=(
        (
            lambda tables, budget: _chosen(tables, budget, lambda loss, saved: loss),
            "divide what is lost by the bytes that are saved.",
        ),
        (
            lambda tables, budget: _chosen(tables, budget, lambda loss, saved: -saved),
            "that saves the most bytes at a time, whatever is lost.",
        ),
        (
            _each_alone,
            "each layer has the same share there: where little is lost, more can be saved.",
        ),
    ),
    hint="while the bytes are above the budget: of all layers and all smaller choices take the one "
    "with the least loss added for each byte saved.",
    moral="`compress(budget=...)` does this with all formats, goes up again where there is room, "
    "and chooses between plans by what it measures.",
    forbids=((plans, "write the loop."),),
)


def _least_kept(method: str, most: float = 0.1) -> int:
    """The least multiple of ten percent at which at most so many answers are others."""
    found = (p for p in range(20, 90, 10) if certificate(p, method).changed <= most)
    return next(found, 90)


least_kept = Check(
    right=lambda: _least_kept("svd"),
    mistakes=(
        (lambda: _least_kept("kfac"), "that is where kfac comes there; choose svd."),
        (lambda: _least_kept("svd") + 10, "ten less is enough."),
        (lambda: _least_kept("svd") / 100, "in percent, as the slider has it."),
    ),
    hint="method svd, 32 bits; the sentence says how many of the answers are others.",
    moral="kfac comes there with far fewer numbers, from the same 400 digits without labels.",
)
