"""Pictures: each draws on the `Axes` it is given and returns one sentence that says what is seen.

The colours are those of Okabe and Ito, which colour-blind readers can tell apart; every curve has a marker and a line
style of its own besides.
"""

import math

import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from .formats.tt import TT

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
STYLES = ["o-", "s--", "^:", "d-.", "v-", "x--", "+:"]


def style(k: int, n: int = 0) -> dict:
    """Colour, marker and line of curve k; with n points, only about a dozen markers."""
    marker, line = STYLES[k % len(STYLES)][0], STYLES[k % len(STYLES)][1:]
    every = max(1, n // 12)
    return dict(color=COLOURS[k % len(COLOURS)], marker=marker, ls=line, ms=4, lw=1.4, markevery=every)


def singular_values(ax: Axes, spectra: dict[str, Tensor], level: float | None = None) -> str:
    """Singular values relative to the largest, and a line at `level`."""
    kept = []
    for k, (name, s) in enumerate(spectra.items()):
        s = (s / s[0].clamp_min(1e-300)).clamp_min(1e-17).tolist()
        ax.semilogy(range(1, len(s) + 1), s, label=name, **style(k, len(s)))
        kept.append(f"{name} {sum(v > (level or 1e-15) for v in s)} of {len(s)}")
    if level:
        ax.axhline(level, color="0.4", lw=1)
    ax.set(xlabel="number", ylabel="relative singular value")
    ax.legend(fontsize=8)
    return f"Singular values above {level or 1e-15:.1e} of the largest: {', '.join(kept)}."


def image(ax: Axes, x: Tensor, title: str = "") -> str:
    """A picture (rows, columns) or (rows, columns, 3), clipped to [0, 1] when it is in colour."""
    ax.imshow(x.clamp(0, 1) if x.ndim == 3 else x, cmap="cividis", interpolation="nearest", aspect="equal")
    ax.set_axis_off()
    ax.set_title(title, fontsize=9)
    return f"A picture of {x.shape[0]} by {x.shape[1]} points: {title}."


def error_against_storage(ax: Axes, curves: dict[str, list[tuple[float, float]]], here: tuple | None = None) -> str:
    """Relative error against stored numbers, one curve for each format, and a ring where the reader stands."""
    for k, (name, points) in enumerate(curves.items()):
        ax.loglog(*zip(*sorted(points)), label=name, **style(k))
    if here:
        ax.plot(*here, "o", ms=12, mfc="none", mec="black", mew=1.5)
    ax.set(xlabel="stored numbers", ylabel="relative error")
    ax.legend(fontsize=8)
    best = {name: min(error for _, error in points) for name, points in curves.items()}
    return "Smallest relative error shown: " + ", ".join(f"{name} {error:.2g}" for name, error in best.items()) + "."


def train(ax: Axes, tt: TT) -> str:
    """The cores of a train as boxes to scale: as high as the mode, as wide as the mean of the two ranks."""
    x, gap = 0.0, 0.6 + 0.15 * max(tt.ranks, default=1)
    top = max(tt.shape)
    for k, core in enumerate(tt.cores):
        r, n, q = core.shape
        width = max(0.3, (r + q) / 2)
        ax.add_patch(Rectangle((x, -n / 2), width, n, fc=COLOURS[5], ec="black", lw=1))
        ax.text(x + width / 2, -n / 2 - 0.06 * top, str(n), ha="center", va="top", fontsize=8)
        if k < tt.ndim - 1:
            ax.plot([x + width, x + width + gap], [0, 0], color="black", lw=1 + math.log2(q))
            ax.text(x + width + gap / 2, 0.04 * top, str(q), ha="center", va="bottom", fontsize=9, color=COLOURS[1])
        x += width + gap
    ax.set_xlim(-gap / 2, x - gap / 2)
    ax.set_ylim(-0.68 * top, 0.6 * top)
    ax.set_axis_off()
    ranks = ", ".join(map(str, tt.ranks)) or "none"
    return f"A train of {tt.ndim} cores with ranks {ranks} stores {tt.numel} of {math.prod(tt.shape)} numbers."


def convergence(ax: Axes, histories: dict[str, list[float]]) -> str:
    """Relative error after each sweep."""
    for k, (name, errors) in enumerate(histories.items()):
        ax.semilogy(range(1, len(errors) + 1), [max(e, 1e-17) for e in errors], label=name, **style(k, len(errors)))
    ax.set(xlabel="sweep", ylabel="relative error")
    ax.legend(fontsize=8)
    ends = ", ".join(f"{name} {errors[-1]:.2g} after {len(errors)} sweeps" for name, errors in histories.items())
    return f"Relative errors: {ends}."


def terms(ax: Axes, cosines: list[float], weights: list[float]) -> str:
    """How two terms of a CP turn against each other: the cosine between them, and the largest weight."""
    sweeps = range(1, len(cosines) + 1)
    ax.plot(sweeps, cosines, label="smallest cosine", **style(0, len(cosines)))
    ax.set(xlabel="sweep", ylabel="cosine", ylim=(-1.05, 1.05))
    other = ax.twinx()
    other.semilogy(sweeps, weights, label="largest weight", **style(1, len(cosines)))
    other.set_ylabel("weight / |x|")
    handles = [*ax.get_lines(), *other.get_lines()]
    ax.legend(handles, [h.get_label() for h in handles], fontsize=8, loc="center right")
    return f"The smallest cosine between two terms is {cosines[-1]:.3f}, the largest weight {weights[-1]:.2f} times |x|."


def core(ax: Axes, g: Tensor) -> str:
    """The energy of a Tucker core: how much of |x|^2 its leading blocks hold."""
    sizes = range(1, max(g.shape) + 1)
    total = float(g.abs().square().sum())
    share = [1 - float(g[(slice(k),) * g.ndim].abs().square().sum()) / total for k in sizes]
    ax.semilogy(sizes, [max(s, 1e-17) for s in share], **style(0, len(share)))
    ax.set(xlabel="size of the leading block", ylabel="share of energy outside")
    half = next(k for k, s in zip(sizes, share) if s <= 0.01 + 1e-12) if min(share) <= 0.01 else max(sizes)
    return f"The leading block of size {half} holds {100 * (1 - share[half - 1]):.1f} % of the energy of the core."


def unfolding_spectra(x: Tensor) -> dict[str, Tensor]:
    """Singular values of the unfoldings that a train cuts, by name.

    >>> list(unfolding_spectra(torch.ones(2, 3, 4)))
    ['cut 1', 'cut 2']
    """
    sides = [math.prod(x.shape[:k]) for k in range(1, x.ndim)]
    return {f"cut {k}": torch.linalg.svdvals(x.double().reshape(n, -1)) for k, n in enumerate(sides, 1)}
