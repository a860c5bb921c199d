"""Pictures: each draws on the `Axes` it is given and returns one sentence that says what is seen.

The colors are those of Okabe and Ito, which color-blind readers can tell apart; every curve has a
separate marker and line style besides.
"""

import math
from dataclasses import dataclass

import matplotlib.style
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Circle, Rectangle
from matplotlib.ticker import (
    LogFormatterSciNotation,
    LogLocator,
    MaxNLocator,
    NullFormatter,
)
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from torch import Tensor

from .formats.htucker import HT, leaves
from .formats.tt import TT
from .parallel.schedules import Timeline

COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
STYLES = ["o-", "s--", "^:", "d-.", "v-", "x--", "+:"]


def look():
    """The style sheet of all pictures, `plots.mplstyle` beside this file, as a context.

    >>> with look():
    ...     matplotlib.rcParams["axes.spines.top"]
    False
    """
    return matplotlib.style.context("tensorlab.plots")


class ShortLogLocator(LogLocator):
    """Marks of a logarithmic axis that never collide: at decades, at 1, 2 and 5 where there are two
    of them at most, and at even steps within half of one.

    >>> [float(x) for x in ShortLogLocator().tick_values(130.0, 3000.0) if 130 < x < 3000]
    [200.0, 500.0, 1000.0, 2000.0]
    """

    def tick_values(self, low, high):
        if 0 < low < high < 4 * low:
            return MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        self.set_params(subs=(1, 2, 5) if 0 < low < high < 150 * low else (1,))
        return super().tick_values(low, high)


class ShortLogFormatter(LogFormatterSciNotation):
    """Names for these marks: 1,000 and 0.02 where they are few, powers of ten over many decades."""

    def __call__(self, x, pos=None):
        low, high = sorted(self.axis.get_view_interval())
        if 0 < low < high < 150 * low and 0.9e-4 < x < 2e6:
            return f"{x:,.6g}"
        return super().__call__(x, pos)


def readable_ticks(figure: Figure) -> None:
    """Give the logarithmic axes of a figure marks that can be read; those set by hand stay."""
    for axis in (a for ax in figure.axes for a in (ax.xaxis, ax.yaxis) if a.get_scale() == "log"):
        axis.set_minor_formatter(NullFormatter())
        if type(axis.get_major_locator()) is LogLocator:
            axis.set_major_locator(ShortLogLocator())
            axis.set_major_formatter(ShortLogFormatter())


def darken(figure: Figure) -> None:
    """Turn a figure that has been drawn to a dark background: grays are mirrored, colors stay, and
    so does what is written on a color."""
    for artist in figure.findobj():
        whole = isinstance(artist, (Figure, Axes))  # whose ground is a patch, found by itself
        if whole or artist.get_gid() == "on color" or isinstance(artist, AxesImage):
            continue
        for part in ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor"):
            get, put = (getattr(artist, f"{verb}_{part}", None) for verb in ("get", "set"))
            if get is None or put is None or (part == "color" and hasattr(artist, "get_facecolor")):
                continue
            if (mirrored := _mirrored(get())) is not None:
                put(mirrored)


def _mirrored(color):
    """A gray, or each gray of several, on the other side of the middle; None without one."""
    try:
        rgba = to_rgba_array(color)
    except (ValueError, TypeError):  # "auto", and what else stands for no color
        return None
    gray = (rgba[:, :3].max(1) - rgba[:, :3].min(1) < 0.02) & (rgba[:, 3] > 0)
    if not gray.any():
        return None
    rgba[gray, :3] = 0.93 - 0.86 * rgba[gray, :3]
    return rgba[0] if len(rgba) == 1 else rgba


def style(k: int, n: int = 0) -> dict:
    """Color, marker and line of curve k; with n points, only about a dozen markers."""
    marker, line = STYLES[k % len(STYLES)][0], STYLES[k % len(STYLES)][1:]
    every = max(1, n // 12)
    return dict(
        color=COLORS[k % len(COLORS)], marker=marker, ls=line, ms=4, lw=1.4, markevery=every
    )


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
    ax.legend()
    return f"Singular values above {level or 1e-15:.1e} of the largest: {', '.join(kept)}."


def image(ax: Axes, x: Tensor, title: str = "") -> str:
    """A picture (rows, columns) or (rows, columns, 3), clipped to [0, 1] when it is in color."""
    ax.grid(False)  # lines of the style sheet would be drawn over a picture
    ax.imshow(
        x.clamp(0, 1) if x.ndim == 3 else x, cmap="cividis", interpolation="nearest", aspect="equal"
    )
    ax.set_axis_off()
    ax.set_title(title)
    return f"A picture of {x.shape[0]} by {x.shape[1]} points: {title}."


def error_against_storage(
    ax: Axes, curves: dict[str, list[tuple[float, float]]], here: tuple | None = None
) -> str:
    """Relative error against stored numbers, one curve for each format, and a ring at the
    reader's setting."""
    for k, (name, points) in enumerate(curves.items()):
        ax.loglog(*zip(*sorted(points)), label=name, **style(k))
    if here:
        ax.plot(*here, "o", ms=12, mfc="none", mec="black", mew=1.5)
    ax.set(xlabel="stored numbers", ylabel="relative error")
    ax.legend()
    best = {name: min(error for _, error in points) for name, points in curves.items()}
    return (
        "Smallest relative error shown: "
        + ", ".join(f"{name} {error:.2g}" for name, error in best.items())
        + "."
    )


def accuracy_against_storage(ax: Axes, curves: dict[str, list[tuple[float, float]]]) -> str:
    """Share of right answers against stored numbers, one curve for each format; a single point,
    such as the dense layer, is a line across."""
    k = 0  # lines across do not count: a format keeps the color that it has beside, in errors
    for name, points in curves.items():
        if len(points) == 1:
            ax.axhline(100 * points[0][1], color="0.4", lw=1, ls="--", label=name)
            continue
        numbers, right = zip(*sorted(points))
        ax.semilogx(numbers, [100 * share for share in right], label=name, **style(k))
        k += 1
    ax.set(xlabel="stored numbers", ylabel="% right")
    ax.legend()
    best = {name: max((right, -n) for n, right in points) for name, points in curves.items()}
    said = (f"{name} {100 * right:.1f} % with {-n} numbers" for name, (right, n) in best.items())
    return f"Best accuracy shown: {', '.join(said)}."


def train(ax: Axes, tt: TT) -> str:
    """The cores of a train as boxes to scale: as high as the mode, as wide as the mean of the two
    ranks."""
    x, gap = 0.0, 0.6 + 0.15 * max(tt.ranks, default=1)
    top = max(tt.shape)
    for k, core in enumerate(tt.cores):
        r, n, q = core.shape
        width = max(0.3, (r + q) / 2)
        ax.add_patch(Rectangle((x, -n / 2), width, n, fc=COLORS[5], ec="black", lw=1))
        ax.text(x + width / 2, -n / 2 - 0.06 * top, str(n), ha="center", va="top", fontsize=8.5)
        if k < tt.ndim - 1:
            ax.plot([x + width, x + width + gap], [0, 0], color="black", lw=1 + math.log2(q))
            ax.text(
                x + width + gap / 2,
                0.04 * top,
                str(q),
                ha="center",
                va="bottom",
                fontsize=9,
                color=COLORS[1],
            )
        x += width + gap
    ax.set_xlim(-gap / 2, x - gap / 2)
    ax.set_ylim(-0.68 * top, 0.6 * top)
    ax.set_axis_off()
    ranks = ", ".join(map(str, tt.ranks)) or "none"
    return (
        f"A train of {tt.ndim} cores with ranks {ranks} stores {tt.numel} of "
        f"{math.prod(tt.shape)} numbers."
    )


def tree(ax: Axes, ht: HT, spectra: dict[tuple, Tensor] | None = None, most: int = 16) -> str:
    """A tree of modes with a box on each node: its singular values from 1 down to 1e-16 of the
    largest, those kept in color.

    spectra: by node, those of `ht` by default. Of each the first `most` are drawn; the modes are
    below the box, the rank is in it.
    """
    spectra = spectra or ht.singular_values()
    order, depth, todo = leaves(ht.tree), {}, [(ht.tree, 0)]
    while todo:
        t, level = todo.pop()
        depth[leaves(t)] = level
        todo += [(child, level + 1) for child in t] if isinstance(t, tuple) else []
    place = {
        node: (sum(order.index(k) for k in node) / len(node), -1.6 * level)
        for node, level in depth.items()
    }
    for parent, child in (
        (a, b) for a in depth for b in depth if depth[b] == depth[a] + 1 and {*b} < {*a}
    ):
        (x, y), (u, v) = place[parent], place[child]
        ax.plot([x, u], [y - 0.36, v + 0.8], color="0.5", lw=1, zorder=0)
    ax.text(*place[order], " ".join(map(str, order)), ha="center", va="top", fontsize=8.5)
    for node, r in zip(ht.nodes, ht.ranks):
        (x, y), s = place[node], spectra[node].double()
        s = (1 + (s / s[0].clamp_min(1e-300)).clamp_min(1e-16).log10() / 16).tolist()[:most]
        ax.add_patch(Rectangle((x - 0.4, y), 0.8, 0.8, fc="white", ec="black", lw=0.8))
        for k, height in enumerate(s):
            kept = dict(color=COLORS[0]) if k < r else dict(fc="white", ec="0.5", lw=0.6)
            ax.add_patch(Rectangle((x - 0.4 + 0.8 * k / most, y), 0.8 / most, 0.8 * height, **kept))
        ax.text(x + 0.37, y + 0.76, str(r), ha="right", va="top", fontsize=10, color=COLORS[1])
        ax.text(x, y - 0.04, " ".join(map(str, node)), ha="center", va="top", fontsize=8.5)
    ax.set_xlim(-0.6, ht.ndim - 0.4)
    ax.set_ylim(-1.6 * max(depth.values()) - 0.4, 0.3)
    ax.set_axis_off()
    ranks = (
        ", ".join(f"({' '.join(map(str, node))}) {r}" for node, r in zip(ht.nodes, ht.ranks))
        or "none"
    )
    return (
        f"A tree on {ht.ndim} modes with ranks {ranks} stores {ht.numel} of "
        f"{math.prod(ht.shape)} numbers."
    )


def convergence(ax: Axes, histories: dict[str, list[float]]) -> str:
    """Relative error after each sweep."""
    for k, (name, errors) in enumerate(histories.items()):
        ax.semilogy(
            range(1, len(errors) + 1),
            [max(e, 1e-17) for e in errors],
            label=name,
            **style(k, len(errors)),
        )
    ax.set(xlabel="sweep", ylabel="relative error")
    ax.legend()
    ends = ", ".join(
        f"{name} {errors[-1]:.2g} after {len(errors)} sweeps" for name, errors in histories.items()
    )
    return f"Relative errors: {ends}."


def terms(ax: Axes, cosines: list[float], weights: list[float]) -> str:
    """How two terms of a CP turn against each other: the cosine between them, and the largest
    weight."""
    sweeps = range(1, len(cosines) + 1)
    ax.plot(sweeps, cosines, label="smallest cosine, left", **style(0, len(cosines)))
    ax.set(xlabel="sweep", ylabel="cosine", ylim=(-1.05, 1.05))
    other = ax.twinx()
    other.semilogy(sweeps, weights, label="largest weight / |x|, right", **style(1, len(cosines)))
    other.tick_params(axis="y", colors=COLORS[1])  # a label there would look like the next one's
    other.grid(False)
    handles = [*ax.get_lines(), *other.get_lines()]
    names = [h.get_label() for h in handles]
    ax.legend(handles, names, fontsize=8.5, loc="lower center", bbox_to_anchor=(0.5, 1))
    return (
        f"The smallest cosine between two terms is {cosines[-1]:.3f}, the largest weight "
        f"{weights[-1]:.2f} times |x|."
    )


def core(ax: Axes, g: Tensor) -> str:
    """The energy of a Tucker core: how much of |x|^2 its leading blocks hold."""
    sizes = range(1, max(g.shape) + 1)
    total = float(g.abs().square().sum())
    share = [1 - float(g[(slice(k),) * g.ndim].abs().square().sum()) / total for k in sizes]
    ax.semilogy(sizes, [max(s, 1e-17) for s in share], **style(0, len(share)))
    ax.set(xlabel="size of the leading block", ylabel="share of energy outside")
    half = (
        next(k for k, s in zip(sizes, share) if s <= 0.01 + 1e-12)
        if min(share) <= 0.01
        else max(sizes)
    )
    return (
        f"The leading block of size {half} holds {100 * (1 - share[half - 1]):.1f} % of the "
        f"energy of the core."
    )


def blocks(ax: Axes, w: Tensor, grid: tuple[int, int] | None = None, title: str = "") -> str:
    """A matrix as a picture, with lines between its (rows, columns) of blocks."""
    ax.grid(False)
    ax.imshow(w, cmap="viridis", interpolation="nearest", aspect="auto")
    ax.set(xticks=[], yticks=[])
    ax.set_title(f"{title}: {w.shape[0]} by {w.shape[1]}")
    for k, (count, line) in enumerate(zip(grid or (1, 1), (ax.axhline, ax.axvline))):
        for j in range(1, count):
            line(j * w.shape[k] / count - 0.5, color="white", lw=0.8)
    cut = f" in {grid[0]} by {grid[1]} blocks" if grid else ""
    return f"A matrix of {w.shape[0]} by {w.shape[1]}{cut}."


def shared(ax: Axes, masks: list[Tensor], title: str = "", block: int = 1) -> str:
    """Which entries of a matrix a stored number enters, one number of each tensor in its own color
    and hatching. Lines every `block` entries."""
    for k, line in enumerate((ax.axhline, ax.axvline)):
        for at in range(block, masks[0].shape[k], block):
            line(at, color="0.85", lw=0.8, zorder=0)
    for k, mask in enumerate(masks):
        for i, j in mask.nonzero().tolist():
            ax.add_patch(Rectangle((j, i), 1, 1, fc=COLORS[k], alpha=0.5, lw=0))
            ax.plot(
                [j + 0.2, j + 0.8],
                [[i + 0.2, i + 0.8], [i + 0.8, i + 0.2]][k % 2],
                color=COLORS[k],
                lw=1,
            )
    ax.set(
        xlim=(0, masks[0].shape[1]),
        ylim=(masks[0].shape[0], 0),
        xticks=[],
        yticks=[],
        aspect="equal",
    )
    ax.set_title(title)
    counts = [f"one of tensor {k} enters {int(mask.sum())}" for k, mask in enumerate(masks)]
    return f"Of {masks[0].numel()} entries, {', '.join(counts)}."


def scaling(
    ax: Axes,
    points: dict[str, list[tuple]],
    laws: dict[str, tuple],
    here: tuple | None = None,
    x: str = "FLOPs",
) -> str:
    """Loss against cost, measured, with the laws a + b C^-alpha as lines.

    ax: where it is drawn.
    points: for each curve the measured pairs (cost, loss).
    laws: for each curve with a line (a, b, alpha).
    here: the place (cost, loss) of a ring, the setting that the reader has chosen; None: no ring.
    x: the label of the costs.
    """
    for k, (name, measured) in enumerate(points.items()):
        costs, losses = zip(*sorted(measured))
        look = style(k)
        ax.loglog(costs, losses, label=name, **look | dict(ls=""))
        if name in laws:
            a, b, alpha = laws[name]
            ax.loglog(costs, [a + b * c**-alpha for c in costs], **look | dict(marker=""))
    if here:
        ax.plot(*here, "o", ms=13, mfc="none", mec="black", mew=1.5)
    ax.set(xlabel=x, ylabel="loss")
    ax.legend()
    return "Exponents: " + ", ".join(f"{name} {law[2]:.2f}" for name, law in laws.items()) + "."


def unfolding_spectra(x: Tensor) -> dict[str, Tensor]:
    """Singular values of the unfoldings that a train cuts, by name.

    >>> list(unfolding_spectra(torch.ones(2, 3, 4)))
    ['cut 1', 'cut 2']
    """
    sides = [math.prod(x.shape[:k]) for k in range(1, x.ndim)]
    return {
        f"cut {k}": torch.linalg.svdvals(x.double().reshape(n, -1)) for k, n in enumerate(sides, 1)
    }


def crosses(ax: Axes, x: Tensor, rows, columns, title: str = "") -> str:
    """A function of two indices as a picture, and on it the rows and columns in which a cross
    approximation has read it.

    ax: where it is drawn.
    x: the values, (n, m).
    rows, columns: of the pivots, as many each.
    title: above the picture.
    """
    ax.grid(False)
    ax.imshow(x, cmap="cividis", aspect="auto", interpolation="nearest")
    for i in sorted(set(rows)):
        ax.axhline(i, color=COLORS[1], lw=0.8)
    for j in sorted(set(columns)):
        ax.axvline(j, color=COLORS[5], lw=0.8, ls="--")
    ax.plot(columns, rows, "o", mfc="none", mec="white", ms=6)
    ax.set_title(title)
    ax.set(xlabel="second index", ylabel="first index")
    return f"{len(rows)} pivots: rows {_listed(rows)} and columns {_listed(columns)} are read."


def _listed(numbers, most=8):
    numbers = sorted(set(numbers))
    return ", ".join(map(str, numbers[:most])) + (", ..." if len(numbers) > most else "")


def error_against_work(
    ax: Axes, curves: dict[str, list[tuple[float, float]]], level: float | None = None
) -> str:
    """Relative error against function evaluations, and a line at the tolerance."""
    for k, (name, points) in enumerate(curves.items()):
        ax.semilogy(
            *zip(*[(n, max(e, 1e-17)) for n, e in points]), label=name, **style(k, len(points))
        )
    if level:
        ax.axhline(level, color="0.4", lw=1)
    ax.set(xlabel="function evaluations", ylabel="relative error")
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.legend()
    ends = (
        f"{name}: error {points[-1][1]:.1e} after {points[-1][0]} evaluations"
        for name, points in curves.items()
    )
    return "; ".join(ends) + "."


def tangent_step(ax: Axes, x: Tensor, free: Tensor, tangent: Tensor, back: Tensor) -> str:
    """One Riemannian step among symmetric 2 x 2 matrices, where those of rank 1 are a cone.

    The coordinates (m00 + m11, m00 - m11, 2 m01) / sqrt 2 keep all lengths and angles; det m = 0 is
    p^2 = q^2 + r^2.

    ax: where it is drawn, three-dimensional.
    x: the point, of rank 1.
    free: where the gradient step goes.
    tangent: its projection onto the tangent plane.
    back: the retraction.
    """
    place = lambda m: (
        torch.stack([m[0, 0] - m[1, 1], 2 * m[0, 1], m[0, 0] + m[1, 1]]).double() / math.sqrt(2)
    )
    names = {
        "x": place(x),
        "gradient step": place(free),
        "projection": place(tangent),
        "retraction": place(back),
    }
    top = (
        1.15
        * max(1e-3, *(float(torch.linalg.vector_norm(p)) for p in names.values()))
        / math.sqrt(2)
    )
    height, angle = torch.linspace(0, top, 2)[:, None], torch.linspace(0, 2 * math.pi, 61)
    cone = (height * angle.cos(), height * angle.sin(), height.expand(-1, 61))
    ax.plot_wireframe(*(c.numpy() for c in cone), color="0.75", lw=0.5)
    ray = names["x"] / torch.linalg.vector_norm(names["x"])
    around = torch.stack([-ray[1], ray[0], 0 * ray[2]])
    around = around / torch.linalg.vector_norm(around)
    a, b = torch.meshgrid(
        torch.tensor([-0.5, 0.7]) * top, torch.tensor([-0.7, 0.7]) * top, indexing="ij"
    )
    plane = names["x"][:, None, None] + ray[:, None, None] * a + around[:, None, None] * b
    ax.plot_surface(*plane.numpy(), color=COLORS[5], alpha=0.35, lw=0)
    for k, (start, end) in enumerate(zip(names, list(names)[1:])):
        ax.plot(*torch.stack([names[start], names[end]]).T.numpy(), **{**style(k), "marker": ""})
        ax.plot(*names[end][:, None].numpy(), STYLES[k][0], color=COLORS[k], label=end, ms=7)
    ax.plot(*names["x"][:, None].numpy(), "*", color="black", ms=10, label="x")
    ax.legend(loc="upper left")
    ax.set(
        xlabel="$(m_{00} - m_{11})/\\sqrt{2}$",
        ylabel="$\\sqrt{2}\\, m_{01}$",
        zlabel="$(m_{00} + m_{11})/\\sqrt{2}$",
    )
    ax.locator_params(nbins=4)
    ax.set_box_aspect((1, 1, 1), zoom=0.9)
    off, bend = (
        float(torch.linalg.matrix_norm(m.double() - tangent.double())) for m in (free, back)
    )
    return (
        f"The projection moves the step by {off:.3f} onto the tangent plane, the retraction by "
        f"{bend:.3f} back onto the cone."
    )


def success(ax: Axes, shares: dict[str, list[tuple[float, float]]]) -> str:
    """Share of runs that recover a tensor against entries seen per degree of freedom, one curve for
    each method."""
    for k, (name, points) in enumerate(shares.items()):
        ax.plot(*zip(*sorted(points)), label=name, **style(k))
    ax.set(
        xlabel="entries / degrees of freedom",
        ylabel="share recovered",
        ylim=(-0.05, 1.05),
        xscale="log",
    )
    ticks = sorted({x for points in shares.values() for x, _ in points})
    ax.set_xticks(ticks, [f"{x:g}" for x in ticks], minor=False)
    ax.minorticks_off()
    ax.legend()
    full = {
        name: min((x for x, y in points if y == 1), default=None) for name, points in shares.items()
    }
    said = (
        f"{name} {'at no number shown' if x is None else f'from {x:g}'}" for name, x in full.items()
    )
    return "Entries per degree of freedom with which every run recovers: " + ", ".join(said) + "."


def marginals(ax: Axes, exact: Tensor, sampled: Tensor) -> str:
    """Probabilities of a 1 in each mode: bars for the exact ones, beside them hatched bars for the
    frequencies in samples."""
    modes = range(len(exact))
    ax.bar([k - 0.2 for k in modes], exact.tolist(), 0.4, color=COLORS[0], label="exact")
    ax.bar(
        [k + 0.2 for k in modes],
        sampled.tolist(),
        0.4,
        color=COLORS[4],
        hatch="///",
        label="samples",
    )
    ax.set(xlabel="mode", ylabel="probability of a 1", ylim=(0, 1.05), xticks=modes)
    ax.legend(loc="upper right")
    low, high, off = float(exact.min()), float(exact.max()), float((exact - sampled).abs().max())
    return (
        f"A 1 has probabilities from {low:.3f} to {high:.3f}; the frequencies in the samples "
        f"are off by up to {off:.3f}."
    )


def covariances(ax: Axes, exact: Tensor, sampled: Tensor) -> str:
    """Covariances of all pairs of modes, (d, d): exact ones above the diagonal, those of samples
    below, the diagonal empty."""
    d = len(exact)
    both = exact.triu(1) + sampled.tril(-1)
    largest = max(float(both.abs().max()), 1e-3)
    shown = both.clone().fill_diagonal_(math.nan)
    ax.grid(False)
    image = ax.imshow(
        shown.numpy(), cmap="cividis", vmin=-largest, vmax=largest, interpolation="nearest"
    )
    ax.figure.colorbar(image, ax=ax, fraction=0.046)
    ax.set(xticks=range(d), yticks=range(d))
    ax.set_title("covariances: exact above, samples below")
    a, b = divmod(int(exact.triu(1).abs().argmax()), d)
    said = (
        f"{float(exact[a, b]):.3f}, of modes {a} and {b}, {float(sampled[a, b]):.3f} in the samples"
    )
    return f"The largest covariance of two modes is {said}."


def chain(ax: Axes, module) -> str:
    """A chain of convolutions: bars as high as there are channels, between them the kernel, and the
    numbers it stores.

    module: an `nn.Conv2d`, an `nn.Sequential` of them, or a `FactorizedConv2d`. A dashed line: each
    channel on its own.
    """
    links = _convolutions(module)
    channels = [links[0][1], *(link[0] for link in links)]
    top = max(channels)
    for k, n in enumerate(channels):
        ax.add_patch(Rectangle((k - 0.06, -n / 2), 0.12, n, fc=COLORS[5], ec="black", lw=1))
        ax.text(k, -n / 2 - 0.03 * top, str(n), ha="center", va="top", fontsize=9)
    for k, (outputs, inputs, kernel, groups) in enumerate(links):
        stored = outputs * inputs // groups * math.prod(kernel)
        alone = groups > 1
        ax.plot(
            [k + 0.06, k + 0.94],
            [0, 0],
            color=COLORS[1] if alone else "black",
            ls="--" if alone else "-",
            lw=1.5,
        )
        ax.text(
            k + 0.5, 0.03 * top, " × ".join(map(str, kernel)), ha="center", va="bottom", fontsize=10
        )
        ax.text(
            k + 0.5,
            -0.03 * top,
            f"{stored} weights" + "\nchannels apart" * alone,
            ha="center",
            va="top",
            fontsize=8.5,
        )
    ax.set_xlim(-0.2, len(links) + 0.2)
    ax.set_ylim(-0.62 * top, 0.55 * top)
    ax.set_axis_off()
    total = sum(o * i // g * math.prod(kernel) for o, i, kernel, g in links)
    count = f"{len(links)} convolution" + "s" * (len(links) > 1)
    return f"{count} with {', '.join(map(str, channels))} channels and {total} weights."


def _convolutions(module):
    """(outputs, inputs, kernel, groups) of each convolution of a chain."""
    if hasattr(module, "tensors"):  # a FactorizedConv2d: r filters, then 1 x 1
        (out, columns), (r,), kernel = (
            module.weight.shape,
            module.weight.ranks,
            tuple(module.kernel_size),
        )
        return [(r, columns // math.prod(kernel), kernel, 1), (out, r, (1, 1), 1)]
    parts = list(module) or [module] if hasattr(module, "__iter__") else [module]
    return [(c.out_channels, c.in_channels, tuple(c.kernel_size), c.groups) for c in parts]


def filters(ax: Axes, kernel: Tensor, title: str = "", level: float | None = None) -> str:
    """A kernel (T, S, kh, kw) as a sheet: row s, column t holds the filter from channel s to
    channel t; gray is zero."""
    t, s, kh, kw = kernel.shape
    sheet = torch.nn.functional.pad(kernel.detach().double(), (0, 1, 0, 1), value=math.nan)
    sheet = sheet.permute(1, 2, 0, 3).reshape(s * (kh + 1), t * (kw + 1))[:-1, :-1]
    level = level or float(kernel.detach().abs().max())
    ax.grid(False)
    ax.imshow(sheet.numpy(), cmap="cividis", vmin=-level, vmax=level, interpolation="nearest")
    ax.set(xticks=[], yticks=[], xlabel="channels out", ylabel="channels in")
    ax.set_title(title)
    return (
        f"{t} by {s} filters of {kh} by {kw}, the largest entry "
        f"{float(kernel.detach().abs().max()):.2g}."
    )


def term_energy(ax: Axes, energies: dict[str, list[float]]) -> str:
    """Energy of the terms of a CP over that of their sum after each sweep, one curve for each way
    to fit."""
    for k, (name, values) in enumerate(energies.items()):
        ax.loglog(range(1, len(values) + 1), values, label=name, **{**style(k), "markevery": 0.1})
    ax.set(xlabel="sweep", ylabel="energy of the terms / of their sum")
    ax.legend()
    ends = ", ".join(f"{name} {values[-1]:.3g}" for name, values in energies.items())
    return (
        f"After {max(map(len, energies.values()))} sweeps the terms have this many times the "
        f"energy of their sum: {ends}."
    )


def gathered(ax: Axes, table, token: int, word: str = "") -> str:
    """The cores of a TT-matrix as columns of slices, one for each value of its row digit; those
    that a token gathers are filled."""
    below, digits = table.padded_shape[0], []
    for k, core in enumerate(table.cores):
        r, n, m, q = core.shape
        below //= n
        digits.append(token // below % n)
        for i in range(n):
            color = COLORS[1] if i == digits[-1] else COLORS[5]
            ax.add_patch(
                Rectangle((k + 0.15, -(i + 1) / n), 0.7, 0.86 / n, fc=color, ec="black", lw=0.5)
            )
        ax.text(k + 0.5, -1.04, f"{n} slices\n{r} x {m} x {q}", ha="center", va="top", fontsize=8.5)
        ax.text(
            k + 0.5,
            0.03,
            f"slice {digits[-1]}",
            ha="center",
            va="bottom",
            fontsize=9,
            color=COLORS[1],
        )
    ax.set_xlim(0, len(table.cores))
    ax.set_ylim(-1.28, 0.12)
    ax.set_axis_off()
    return (
        f"{word or 'Token'}, number {token}, gathers the slices {', '.join(map(str, digits))} "
        f"of {len(digits)} cores."
    )


def neighbors(
    ax: Axes, words: list[str], before: list[float], after: list[float], word: str = ""
) -> str:
    """Cosines of a word with its nearest ones before, as filled bars, and after, hatched.

    ax: where it is drawn.
    words: the nearest ones.
    before, after: their cosines.
    word: the one they are near to, for the title.
    """
    for k, (a, b) in enumerate(zip(before, after)):
        ax.barh(-k + 0.2, a, 0.38, color=COLORS[0], label="before" if k == 0 else None)
        ax.barh(-k - 0.2, b, 0.38, color=COLORS[4], hatch="///", label="after" if k == 0 else None)
    ax.set_yticks([-k for k in range(len(words))], words, fontsize=8.5)
    ax.set(xlabel="cosine", title=f"nearest to {word!r}")
    ax.legend(loc="lower right")
    low = min(after)
    return (
        f"Its nearest words had cosines from {min(before):.2f} to {max(before):.2f}; now from "
        f"{low:.2f} to {max(after):.2f}."
    )


def clouds(ax: Axes, points: Tensor, train_points: Tensor, title: str = "") -> str:
    """Two clouds in the plane (n, 2): circles for the points, crosses for those of a train."""
    ax.scatter(
        *points.T.tolist(), s=9, color=COLORS[0], marker="o", lw=0, alpha=0.6, label="points"
    )
    ax.scatter(*train_points.T.tolist(), s=12, color=COLORS[1], marker="x", lw=0.8, label="train")
    ax.set_aspect("equal")
    ax.set_title(title)
    ax.legend(loc="upper right")
    return f"{len(points)} points and {len(train_points)} of a train."


def operations(ax: Axes, plans, dense: int) -> str:
    """Operations of each forward path over those of the dense product, as bars; the path expected
    to be fastest in color.

    plans: of `layers.propagation.plans`, the fastest first. dense: operations of the product. Of
    many paths ten are drawn.
    """
    first = {plan.forward: plan for plan in reversed(plans)}
    best = plans[0].forward
    names = sorted(first, key=lambda name: first[name].flops, reverse=True)
    shown = names if len(names) < 10 else sorted({*names[-8:], "rebuild", best}, key=names.index)
    for k, name in enumerate(shown):
        share = first[name].flops / dense
        ax.barh(
            k,
            share,
            color=COLORS[0] if name == best else "white",
            ec="black",
            hatch="" if name == best else "//",
        )
        beside = 1 if 0.8 < share < 1 else share  # not on the line of the dense product
        ax.text(beside, k, f" {share:.2g}", va="center", fontsize=8.5)
    ax.axvline(1, color="black", lw=1)
    ax.set_yticks(range(len(shown)), shown, fontsize=8.5)
    ax.set(
        xlabel="operations / dense",
        xlim=(0, 1.2 * max(1, *(first[name].flops / dense for name in shown))),
    )
    few = names[-1]
    return (
        f"Of {len(names)} paths {best} should be fastest, with {first[best].flops / dense:.3g} "
        f"times the operations of the "
        f"dense product; the fewest has {few}, {first[few].flops / dense:.3g} times."
    )


def zonotope(ax: Axes, q: Tensor) -> str:
    """The cube [-1, 1]^n, its image under Q and the sum of both, for Q of 2 by 2, or of 3 by 3 on
    axes in three dimensions."""
    n = len(q)
    edges = torch.cat([torch.eye(n, dtype=q.dtype), q], 1).T
    inside = (_zonogon if n == 2 else _zonohedron)(ax, q, edges)
    square, sums = ("square", "squares") if n == 2 else ("cube", "cubes")
    return (
        f"The sum of the two {sums} holds a ball of radius {inside:.3f}, one {square} alone a "
        f"ball of radius 1."
    )


def _zonogon(ax, q, edges) -> float:
    """All sums of edges with weights in [-1, 1], in the plane; the radius of the ball inside."""
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, -1], [-1, 1]], dtype=q.dtype)
    below = (edges[:, :1] < 0) | ((edges[:, :1] == 0) & (edges[:, 1:] < 0))
    upper = edges * torch.where(below, -1, 1)
    upper = upper[torch.atan2(upper[:, 1], upper[:, 0]).argsort()]
    path = torch.cat([2 * upper, -2 * upper]).cumsum(0) - upper.sum(0)
    shown = {"flat u": corners, "flat v, turned": corners @ q.T, "u + Qv": path}
    for k, (name, points) in enumerate(shown.items()):
        line = dict(ls=("-", "--", "-")[k], lw=2 if k == 2 else 1.2)
        ax.fill(*points.T.numpy(), fc="none", ec=COLORS[k], label=name, **line)
    heights = ((edges.flip(1) * torch.tensor([1, -1])) @ edges.T).abs().sum(1)
    inside = float((heights / edges.norm(dim=1)).min())
    ax.add_patch(Circle((0, 0), inside, fc=COLORS[5], alpha=0.35, lw=0, label="ball inside"))
    ax.set_aspect("equal")
    ax.legend(
        fontsize=8.5,
        ncols=4,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.07),
        handlelength=1.2,
        columnspacing=0.8,
    )
    return inside


def _zonohedron(ax, q, edges) -> float:
    """The same in space, by its faces, each spanned by two edges, with the two cubes."""
    pairs = torch.combinations(torch.arange(6))
    normals = torch.linalg.cross(edges[pairs[:, 0]], edges[pairs[:, 1]])
    spans = normals.norm(dim=1) > 1e-9  # parallel edges span no face
    pairs, normals = pairs[spans], normals[spans] / normals[spans].norm(dim=1, keepdim=True)
    along = normals @ edges.T
    centers = torch.where(along.abs() < 1e-9, 0, along.sign()) @ edges
    square = torch.tensor([[1.0, 1], [1, -1], [-1, -1], [-1, 1]], dtype=q.dtype)
    faces = torch.stack([c + square @ edges[pair] for c, pair in zip(centers, pairs)])
    both = torch.cat([faces, -faces]).numpy()
    ax.add_collection3d(Poly3DCollection(both, fc=COLORS[5], ec=COLORS[2], alpha=0.25, lw=0.8))
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=q.dtype)] * 3)
    for k, turn in enumerate((torch.eye(3, dtype=q.dtype), q)):
        for a, b in torch.combinations(torch.arange(8)).tolist():
            if int((signs[a] != signs[b]).sum()) == 1:
                edge = torch.stack([signs[a], signs[b]]) @ turn.T
                ax.plot(*edge.T.numpy(), color=COLORS[k], ls="-" if k == 0 else "--", lw=1.2)
    reach = float(edges.abs().sum(0).max())
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), zlim=(-reach, reach))
    ax.set_box_aspect((1, 1, 1))
    return float(along.abs().sum(1).min())


def flat_levels(ax: Axes, u: Tensor, v: Tensor, size: float) -> str:
    """Histograms of the entries of u and v, in units of size / sqrt(N), size = |x|: the flatter,
    the nearer to 0 all are."""
    unit = size / math.sqrt(u.numel())
    top = max(1.0, float(u.abs().max()) / unit, float(v.abs().max()) / unit)
    bins = torch.linspace(-1.05 * top, 1.05 * top, 61).tolist()
    for z, name, k, kind in ((u, "u", 0, "stepfilled"), (v, "v", 1, "step")):
        look = dict(alpha=0.55) if k == 0 else dict(lw=1.6)
        ax.hist(
            (z.flatten() / unit).tolist(), bins, histtype=kind, color=COLORS[k], label=name, **look
        )
    ax.set(xlabel="entry times sqrt(N) / |x|", ylabel="how many entries", yscale="symlog")
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderpad=0)
    return (
        f"The largest entry of u and v is "
        f"{max(float(u.abs().max()), float(v.abs().max())) / unit:.2f} |x| / sqrt(N)."
    )


def decay(ax: Axes, histories: dict[str, tuple[float, ...]]) -> str:
    """Relative residual after each step, one curve for each method, on two logarithmic scales."""
    for k, (name, left) in enumerate(histories.items()):
        ax.loglog(
            range(1, len(left) + 1),
            [max(e, 1e-17) for e in left],
            label=name,
            **style(k, len(left)),
        )
    ax.set(xlabel="step", ylabel="relative residual")
    ax.legend()
    return (
        "Relative residual: "
        + ", ".join(f"{n} {h[-1]:.1e} after {len(h)} steps" for n, h in histories.items())
        + "."
    )


def error_against_bits(ax: Axes, curves: dict[str, list[tuple[float, float]]]) -> str:
    """Relative error against bits per weight, all storage counted, one curve for each method."""
    for k, (name, points) in enumerate(curves.items()):
        ax.semilogy(*zip(*sorted(points)), label=name, **style(k))
    ax.set(xlabel="bits per weight", ylabel="relative error")
    ax.legend()
    last = {name: max(points) for name, points in curves.items()}
    return (
        "Relative error: "
        + ", ".join(f"{name} {e:.3f} at {b:.2f} bits" for name, (b, e) in last.items())
        + "."
    )


def rank_evolution(ax: Axes, ranks: dict[str, list[int]], every: int = 1) -> str:
    """The rank of each layer as training goes on, one number after each `every` steps, the first
    before them."""
    for k, (name, values) in enumerate(ranks.items()):
        ax.step(
            [i * every for i in range(len(values))],
            values,
            where="post",
            label=name,
            **style(k, len(values)),
        )
    ax.set(xlabel="step", ylabel="rank", ylim=(0, 1.1 * max(map(max, ranks.values()))))
    ax.legend()
    steps = every * (len(next(iter(ranks.values()))) - 1)
    return (
        f"After {steps} steps the ranks are "
        + ", ".join(f"{name} {values[-1]}" for name, values in ranks.items())
        + "."
    )


def cuts(ax: Axes, shares: dict[str, Tensor], theta: float, ylabel: str) -> str:
    """What decides a rank: of each layer the shares that are compared with theta, and the line at
    theta; the values above it are kept."""
    for k, (name, values) in enumerate(shares.items()):
        values = values.clamp_min(1e-17).tolist()
        ax.semilogy(range(1, len(values) + 1), values, label=name, **style(k, len(values)))
    ax.axhline(theta, color="0.4", lw=1)
    ax.annotate("theta", (1, theta), (0, -10), textcoords="offset points")
    ax.set(xlabel="singular value", ylabel=ylabel, ylim=(theta / 3, 1.3))
    ax.legend()
    above = (f"{name} {int((values > theta).sum())}" for name, values in shares.items())
    return f"Values above {theta:.2g}: {', '.join(above)}."


def spread(
    ax: Axes,
    curves: dict[str, list[tuple[float, list[float]]]],
    xlabel: str,
    ylabel: str,
    marks: dict[str, list[tuple[float, float]]] | None = None,
) -> str:
    """Means over seeds against a parameter, with whiskers from the least to the largest; a curve of
    one point is a line across.

    ax: where it is drawn.
    curves: for each name the pairs (parameter, values over seeds).
    xlabel, ylabel: of the axes.
    marks: printed numbers, as hollow diamonds, for each name the pairs (parameter, value).
    """
    means = {name: [(x, sum(ys) / len(ys)) for x, ys in sorted(p)] for name, p in curves.items()}
    for k, (name, points) in enumerate(curves.items()):
        (x, mean), seeds = zip(*means[name]), [ys for _, ys in sorted(points)]
        if len(points) == 1:
            ax.axhline(mean[0], color="0.4", lw=1, ls="--", label=name)
            continue
        whiskers = [[m - min(ys) for m, ys in zip(mean, seeds)]]
        whiskers += [[max(ys) - m for m, ys in zip(mean, seeds)]]
        ax.errorbar(x, mean, whiskers, label=name, capsize=2, **style(k))
    for k, (name, points) in enumerate((marks or {}).items(), len(curves)):
        ax.plot(*zip(*points), "D", ms=5, mfc="none", mec=COLORS[k % len(COLORS)], label=name)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()
    every = means | (marks or {})
    best = {name: max((y, -x) for x, y in points) for name, points in every.items()}
    said = (
        f"{name} {y:.4g}" + f" at {-x:g}" * (len(every[name]) > 1) for name, (y, x) in best.items()
    )
    return f"Highest {ylabel}: {', '.join(said)}."


def gradient_ranks(ax: Axes, ranks: list[tuple[int, int]], full: int) -> str:
    """The rank of each gradient of a matrix, and of the sum of all up to it, step by step."""
    for k, (name, values) in enumerate(zip(("of one gradient", "of their sum"), zip(*ranks))):
        ax.plot(range(1, len(ranks) + 1), values, label=name, **style(k, len(ranks)))
    ax.axhline(full, color="0.4", linestyle=":", label="full")
    ax.set(xlabel="step", ylabel="rank", ylim=(0, 1.1 * full))
    ax.legend()
    one, total = ranks[-1]
    return (
        f"At step {len(ranks)} the gradient has rank {one}, and the sum of all gradients rank "
        f"{total} of {full}."
    )


def ode_errors(ax: Axes, curves: dict[str, list[tuple[float, float]]], xlabel: str) -> str:
    """Error at the end of an integration against a parameter, both logarithmic; what is not finite
    is drawn at the upper edge."""
    known = [y for points in curves.values() for _, y in points if math.isfinite(y) and y < 1e6]
    top = 10 * max(known)
    for k, (name, points) in enumerate(curves.items()):
        shown = [(x, y if math.isfinite(y) and y < top else top) for x, y in points]
        ax.loglog(*zip(*shown), label=name, **style(k))
    ax.set(xlabel=xlabel, ylabel="error")
    ax.legend()
    ends = [(name, min(points), max(points)) for name, points in curves.items()]
    return (
        "Errors: "
        + "; ".join(f"{n} {a[1]:.1e} at {a[0]:.0e}, {b[1]:.1e} at {b[0]:.0e}" for n, a, b in ends)
        + "."
    )


def cone_from_above(
    ax: Axes, target: Tensor, start: Tensor, path: list[Tensor], ends: dict[str, Tensor]
) -> str:
    """The symmetric 2 x 2 matrices of rank 1 seen from above: radius = singular value, angle =
    twice that of the vector.

    The coordinates are (m00 - m11, 2 m01); contours show |target - W| on the cone.

    ax: where it is drawn.
    target: the matrix to come near to.
    start: where the path and the steps begin.
    path: the points of a curve from the start.
    ends: where steps end, by name, each with a line from the start.
    """
    place = lambda m: torch.stack([m[0, 0] - m[1, 1], 2 * m[0, 1]]).double()
    size = 1.25 * max(float(place(m).norm()) for m in [target, start, *path])
    p, q = torch.meshgrid(*2 * [torch.linspace(-size, size, 101).double()], indexing="xy")
    t = (p.square() + q.square()).sqrt()
    w = torch.stack([t + p, q, q, t - p]) / 2
    distance = (w - target.double().reshape(4, 1, 1)).square().sum(0).sqrt()
    ax.contour(p.numpy(), q.numpy(), distance.numpy(), 10, cmap="cividis", linewidths=0.7)
    ax.plot(
        *torch.stack([place(m) for m in path]).T.numpy(),
        color="black",
        lw=2,
        label="the flow on the manifold",
    )
    ax.plot(*place(start).tolist(), "*", color="black", ms=11, label="start")
    ax.plot(0, 0, "+", color="0.3", ms=8)
    off = {}
    for k, (name, m) in enumerate(ends.items()):
        end = place(m)
        off[name] = float((m.double() - path[-1].double()).norm())
        ax.plot(*zip(place(start).tolist(), end.tolist()), label=name, **{**style(k), "ms": 7})
    ax.set(
        xlim=(-size, size),
        ylim=(-size, size),
        aspect="equal",
        xlabel="$m_{00} - m_{11}$",
        ylabel="$2\\, m_{01}$",
    )
    ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1))
    return (
        "Off the flow's end: "
        + ", ".join(f"{name} by {gap:.2g}" for name, gap in off.items())
        + "."
    )


def landscape(ax: Axes, values: Tensor, points: Tensor, elite: Tensor) -> str:
    """A function on a grid (m, n) as a heat map, the points (k, 2) of a batch as dots, the elite of
    them as rings."""
    ax.grid(False)
    picture = ax.imshow(values.T.numpy(), origin="lower", cmap="cividis", aspect="auto")
    ax.figure.colorbar(picture, ax=ax, fraction=0.046)
    ax.plot(*points.T.tolist(), ".", color="white", ms=7, mec="black", mew=0.5, label="batch")
    ax.plot(*elite.T.tolist(), "o", mfc="none", mec=COLORS[1], mew=1.6, ms=9, label="elite")
    ax.set(xlabel="first index", ylabel="second index", title="the function")
    ax.grid(False)
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderpad=0)
    i, j = divmod(int(values.argmin()), values.shape[1])
    return f"The smallest of {values.numel()} values is {float(values.min()):.4g}, at ({i}, {j})."


def density(ax: Axes, p: Tensor, best: tuple[int, int] | None = None) -> str:
    """A distribution on a grid (m, n) as a heat map, and a cross where the best point so far is."""
    ax.grid(False)
    picture = ax.imshow(p.T.numpy(), origin="lower", cmap="viridis", aspect="auto", vmin=0)
    ax.figure.colorbar(picture, ax=ax, fraction=0.046)
    if best is not None:
        ax.plot(*best, "x", color=COLORS[1], ms=10, mew=2)
    ax.set(xlabel="first index", ylabel="second index", title="where the model looks")
    ax.grid(False)
    i, j = divmod(int(p.argmax()), p.shape[1])
    return f"The model looks most often at ({i}, {j}), with probability {float(p.max()):.3g}."


def marginal_history(ax: Axes, shares: Tensor) -> str:
    """Shares of ones in each mode, batch by batch, (batches, modes), as a heat map that grows to
    the right."""
    ax.grid(False)
    picture = ax.imshow(
        shares.T.numpy(),
        origin="lower",
        cmap="viridis",
        aspect="auto",
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    ax.figure.colorbar(picture, ax=ax, fraction=0.046)
    ax.set(xlabel="batch", ylabel="mode", title="share of ones in the draws")
    ax.grid(False)
    settled = int(((shares[-1] < 0.05) | (shares[-1] > 0.95)).sum())
    return (
        f"In the last batch {settled} of {shares.shape[1]} modes are settled, with a share of "
        f"ones below 0.05 or above 0.95."
    )


def density_map(ax: Axes, x: Tensor, y: Tensor, p: Tensor, points: Tensor | None = None) -> str:
    """A density of two variables on a grid and points drawn from it; says where it is highest.

    ax: where it is drawn.
    x, y: the grid.
    p: the density, (len(y), len(x)); NaN where a model is not positive, in orange and counted.
    points: (n, 2); None: none.
    """
    cmap, none = colormaps["cividis"].with_extremes(bad=COLORS[1]), p.isnan()
    ax.grid(False)
    mesh = ax.pcolormesh(
        x.numpy(), y.numpy(), p.numpy(), cmap=cmap, shading="auto", rasterized=True
    )
    ax.figure.colorbar(mesh, ax=ax, fraction=0.046, label="density")
    p = p.masked_fill(none, 0)
    if points is not None:
        ax.plot(*points.T.numpy(), ".", color="white", ms=4, mec="black", mew=0.4)
    i, j = divmod(int(p.argmax()), len(x))
    count = 0 if points is None else len(points)
    said = (
        f"The density is highest, {float(p.max()):.3g}, at ({float(x[j]):.2g}, "
        f"{float(y[i]):.2g}); {count} samples are shown."
    )
    return said + (
        f"  At {int(none.sum())} of {none.numel()} places, in orange, it is not positive."
        if none.any()
        else ""
    )


def density_lines(ax: Axes, x: Tensor, lines: dict[str, Tensor]) -> str:
    """Densities of one variable on a grid; says their means."""
    means = {}
    for k, (name, p) in enumerate(lines.items()):
        ax.plot(x.numpy(), p.numpy(), label=name, **style(k, len(x)))
        means[name] = float(torch.trapezoid(p * x, x) / torch.trapezoid(p, x))
    ax.set(ylabel="density", ylim=(0, None))
    ax.legend()
    return "Means: " + ", ".join(f"{name} {mean:.2f}" for name, mean in means.items()) + "."


def residuals(ax: Axes, primal: dict[str, list[float]], dual: dict[str, list[float]]) -> str:
    """Primal (solid) and dual (dotted) residuals of each layer after each round of ADMM."""
    for k, name in enumerate(primal):
        n = range(1, len(primal[name]) + 1)
        look = style(k, len(n))
        ax.semilogy(
            n, [max(v, 1e-17) for v in primal[name]], label=f"{name} primal", **look | {"ls": "-"}
        )
        ax.semilogy(
            n,
            [max(v, 1e-17) for v in dual[name]],
            label=f"{name} dual",
            **look | {"ls": ":", "mfc": "none"},
        )
    ax.set(xlabel="round", ylabel="residual")
    ax.legend()
    ends = ", ".join(f"{name} {p[-1]:.2g} and {dual[name][-1]:.2g}" for name, p in primal.items())
    return f"Primal and dual residual after {len(next(iter(primal.values())))} rounds: {ends}."


def kept_weights(ax: Axes, w: Tensor, mask: Tensor, title: str = "") -> str:
    """The size of the weights (rows, columns) that stay, dark where it is large; white where they
    have fallen."""
    size = w.detach().abs().masked_fill(~mask, math.nan)
    ax.grid(False)
    ax.imshow(size.cpu().numpy(), cmap="viridis_r", interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.set_title(title)
    stay = int(mask.sum())
    return f"{stay} of {mask.numel()} weights stay, {100 * stay / mask.numel():.1f} %."


def shares(
    ax: Axes,
    curves: dict[str, list[tuple[float, float]]],
    xlabel: str,
    ylabel: str,
    here: tuple | None = None,
) -> str:
    """Shares in 0..1 as percent against a parameter.

    ax: where it is drawn.
    curves: for each name the pairs (parameter, share).
    xlabel, ylabel: of the axes.
    here: the place (parameter, share) of a ring, the setting that the reader has chosen; None: no
        ring.
    """
    for k, (name, points) in enumerate(curves.items()):
        ax.plot(
            [x for x, _ in points],
            [100 * y for _, y in points],
            label=name,
            **style(k, len(points)),
        )
    if here:
        ax.plot(here[0], 100 * here[1], "o", ms=12, mfc="none", mec="black", mew=1.5)
    ax.set(xlabel=xlabel, ylabel=f"{ylabel} in %")
    ax.legend()
    ends = ", ".join(
        f"{name} {100 * points[-1][1]:.1f} % at {points[-1][0]:.3g}"
        for name, points in curves.items()
    )
    return f"{ylabel.capitalize()}: {ends}."


def interactions(
    ax: Axes, found: list[tuple[tuple[int, ...], float]], planted, label: str = "coefficient"
) -> str:
    """Coefficients of sets of features, or what `label` says, as bars, largest first; those that
    were planted in another color."""
    planted = set(planted)
    for k, (subset, value) in enumerate(found):
        ax.barh(
            -k,
            value,
            color=COLORS[1] if subset in planted else COLORS[0],
            hatch="//" if subset in planted else None,
        )
    ax.axvline(0, color="black", lw=0.8)
    ax.set(yticks=[-k for k in range(len(found))], xlabel=label)
    ax.set_yticklabels([" ".join(f"x{i}" for i in subset) for subset, _ in found], fontsize=8.5)
    hits = sum(subset in planted for subset, _ in found[: len(planted)])
    return f"{hits} of the {len(planted)} planted sets (hatched) are the {len(planted)} strongest."


def network_ranks(
    ax: Axes,
    points: dict[str, list[tuple[int, float]]],
    bound: list[tuple[int, float]],
    xlabel: str,
) -> str:
    """Ranks of a matricization of networks against their depth or width, and a lower bound that
    holds for almost all trains."""
    for k, (name, curve) in enumerate(points.items()):
        ax.plot(*zip(*curve), label=name, **style(k))
    ax.plot(*zip(*bound), color="black", ls=":", lw=2, label="bound for trains")
    ax.set_yscale("log", base=2)
    ax.set(xlabel=xlabel, ylabel="rank, odd by even modes")
    ax.legend()
    at = bound[-1][0]
    said = ", ".join(f"{name} {curve[-1][1]:g}" for name, curve in points.items())
    return f"At {xlabel} {at} the ranks are {said}; the bound for trains is {bound[-1][1]:g}."


def slices(ax: Axes, x: Tensor, seen=(), last=(), hide: bool = False) -> str:
    """A tensor of three modes as its slices x[:, :, k] behind each other, with its entries written
    in them.

    ax: where it is drawn.
    x: of integers, which name the entries.
    seen: the entries that are colored.
    last: those that are framed.
    hide: whether entries that are not in `seen` are left blank.
    """
    rows, columns, depth = x.shape
    for k in reversed(range(depth)):
        cells = {(i, j): int(x[i, j, k]) for i in range(rows) for j in range(columns)}
        cells = {at: None if hide and v not in seen else v for at, v in cells.items()}
        _cells(ax, cells, (k * (columns + 0.6), -0.5 * k), seen, last)
    _grid_axes(ax)
    return f"A tensor of {rows} by {columns} by {depth} as {depth} slices."


def entries(ax: Axes, matrix: Tensor, rows: int, columns: int) -> str:
    """A matrix of `rows` by `columns` whose first columns are filled with the entries known."""
    cells = {(i, j): None for i in range(rows) for j in range(columns)}
    cells |= {(i, j): int(v) for i, row in enumerate(matrix.tolist()) for j, v in enumerate(row)}
    known = matrix.flatten().tolist()
    _cells(ax, cells, (0.0, 0.0), known, matrix[:, -1:].flatten().tolist())
    _grid_axes(ax)
    return f"{matrix.shape[1]} of {columns} columns of a matrix of {rows} rows are filled."


def _cells(ax, cells, corner, seen, last):
    for (i, j), value in cells.items():
        at = (corner[0] + j, corner[1] - i)
        color = COLORS[4] if value in last else COLORS[5] if value in seen else "white"
        ax.add_patch(Rectangle(at, 1, 1, fc=color, ec="black", lw=1.8 if value in last else 0.6))
        if value is not None:
            text = ax.text(at[0] + 0.5, at[1] + 0.5, str(value), ha="center", va="center")
            text.set_gid("on color" if color != "white" else None)


def _grid_axes(ax):
    ax.set_aspect("equal")
    ax.autoscale_view()
    ax.set_axis_off()


# ------------------------------------------------------------------------------- tensor networks


@dataclass(frozen=True)
class Edge:
    """An index of a tensor network: its size, the tensors that have it, and which way it leaves the
    first of them where it is an index of the whole; None where it is summed."""

    size: int
    nodes: tuple[str, ...]
    way: tuple[float, float] | None = None


DOWN, UP, LEFT, RIGHT = (0.0, -0.75), (0.0, 0.75), (-0.75, 0.0), (0.75, 0.0)


def network(ax: Axes, places: dict[str, tuple[float, float]], edges: list[Edge]) -> str:
    """A tensor network: a circle for each tensor, a line for each index, with its size. Lines that
    end in nothing are indices of the whole; a dot joins what has one index in common."""
    for edge in edges:
        _draw_edge(ax, [places[name] for name in edge.nodes], edge)
    for name, place in places.items():
        ax.add_patch(Circle(place, 0.24, fc=COLORS[5], ec="black", lw=1, zorder=3))
        label = ax.text(*place, name, ha="center", va="center", fontsize=9, zorder=4)
        label.set_gid("on color")
    ax.set_aspect("equal")
    ax.margins(0.04)
    ax.autoscale_view()
    ax.set_axis_off()
    said = [
        ", ".join(str(e.size) for e in edges if (e.way is None) is summed) or "none"
        for summed in (True, False)
    ]
    count = f"{len(places)} tensor" + "s" * (len(places) > 1)
    return f"A network of {count}, summed over indices of size {said[0]}; open: {said[1]}."


def _draw_edge(ax, ends, edge):
    """A line between two tensors, from one into the open, or from a dot to all that share it."""
    (x, y), color = ends[0], "black" if edge.way else COLORS[1]
    line = lambda a, b: ax.plot(*zip(a, b), "-", color=color, lw=1.6, zorder=1)
    if edge.way is None and len(ends) == 2:
        line(*ends)
        middle = [(a + b) / 2 for a, b in zip(*ends)]
    elif edge.way is None:
        middle = [sum(p[0] for p in ends) / len(ends), max(p[1] for p in ends) + 0.75]
    else:
        middle = [x + edge.way[0], y + edge.way[1]]
    if len(ends) > 2 or (edge.way and len(ends) > 1):
        ax.plot(*middle, "o", color=color, ms=5, zorder=2)
        for end in ends:
            line(middle, end)
        if edge.way:
            line(middle, tip := [a + 0.5 * b for a, b in zip(middle, edge.way)])
            middle = tip
    elif edge.way:
        line(ends[0], middle)
    _edge_label(ax, ends, middle, edge, color)


def _edge_label(ax, ends, middle, edge, color):
    """The size of an index, at its open end or beside its middle."""
    dx, dy = edge.way or (0.0, 0.0)
    if edge.way:
        sign = lambda d: (d > 0) - (d < 0)
        at = (middle[0] + 0.13 * sign(dx), middle[1] + 0.16 * sign(dy))
        ax.text(*at, str(edge.size), ha="center", va="center", fontsize=9)
        return
    steep = len(ends) == 2 and abs(ends[0][1] - ends[1][1]) > 0.1
    at = (middle[0] + 0.14, middle[1]) if steep else (middle[0], middle[1] + 0.15)
    ax.text(*at, str(edge.size), ha="center", va="center", fontsize=9, color=color)


def diagram(ax: Axes, fmt) -> str:
    """The tensor network of a format: CP, Tucker, TT, HT, LowRank, TTMatrix, Kronecker, LoKr,
    BlockTT or Monarch.

    Raises TypeError for anything else.
    """
    kind = type(fmt).__name__
    if kind not in _NETWORKS:
        raise TypeError(f"diagram: needs one of {', '.join(_NETWORKS)}, got {kind}")
    seen = network(ax, *_NETWORKS[kind](fmt))
    return f"{kind}: {seen} It stores {fmt.numel} of {math.prod(fmt.shape)} numbers."


def _row(letter, count, y=0.0):
    """`count` tensors side by side."""
    return {f"{letter}{_sub(k)}": (float(k), y) for k in range(count)}


def _sub(k):
    """A number as a subscript."""
    return "".join(chr(0x2080 + int(digit)) for digit in str(k))


def _chain(names, ranks):
    return [Edge(r, pair) for r, pair in zip(ranks, zip(names, names[1:]))]


def _open(names, sizes, way):
    return [Edge(n, (name,), way) for name, n in zip(names, sizes)]


def _tt_network(tt):
    places = _row("G", tt.ndim)
    return places, _chain(list(places), tt.ranks) + _open(places, tt.shape, DOWN)


def _cp_network(cp):
    places = _row("A", cp.ndim)
    return places, [Edge(cp.ranks[0], tuple(places)), *_open(places, cp.shape, DOWN)]


def _tucker_network(tucker):
    places = _row("U", tucker.ndim)
    joined = [Edge(r, ("C", name)) for r, name in zip(tucker.ranks, places)]
    core = {"C": ((tucker.ndim - 1) / 2, 1.1)}
    return core | places, joined + _open(places, tucker.shape, DOWN)


def _ht_network(ht):
    """Leaves in the order of the tree, every other tensor above the middle of its modes."""
    order, places, edges = leaves(ht.tree), {}, []
    rank = dict(zip(ht.nodes, ht.ranks))

    def place(tree):
        modes = leaves(tree)
        name = ("U" if len(modes) == 1 else "B") + "".join(map(_sub, sorted(modes)))
        inner = isinstance(tree, tuple)
        below = [place(child) for child in tree] if inner else []
        height = 0.9 + max(places[child][1] for child in below) if inner else 0.0
        places[name] = (sum(order.index(k) for k in modes) / len(modes), height)
        for child, part in zip(below, tree if inner else ()):
            edges.append(Edge(rank[leaves(part)], (name, child)))
        if not inner:
            edges.append(Edge(ht.shape[tree], (name,), DOWN))
        return name

    place(ht.tree)
    return places, edges


def _lowrank_network(w):
    names = ["u", "v"] if w.s is None else ["u", "s", "v"]
    places = {name: (float(k), 0.0) for k, name in enumerate(names)}
    ends = [Edge(w.shape[0], ("u",), LEFT), Edge(w.shape[1], ("v",), RIGHT)]
    return places, _chain(names, w.ranks * 2) + ends


def _ttmatrix_network(w):
    places = _row("G", len(w.cores))
    sides = _open(places, w.out, UP) + _open(places, w.in_, DOWN)
    return places, _chain(list(places), w.ranks) + sides


def _kronecker_network(w):
    places = _row("F", len(w.factors))
    left, right = (-0.3, -0.7), (0.3, -0.7)
    sides = _open(places, w.out, left) + _open(places, w.in_, right)
    return places, [Edge(w.ranks[0], tuple(places)), *sides]


def _lokr_network(w):
    places = {"w": (0.0, 0.0), "a": (1.2, 0.0)} | ({} if w.b is None else {"b": (2.2, 0.0)})
    bond = [] if w.b is None else [Edge(w.a.shape[1], ("a", "b"))]
    last = ("a", w.a.shape[1]) if w.b is None else ("b", w.b.shape[1])
    sides = _open("wa", (w.w1.shape[0], w.a.shape[0]), UP)
    return places, bond + sides + _open(("w", last[0]), (w.w1.shape[1], last[1]), DOWN)


def _blocktt_network(w):
    """Core k shares the inputs before it and the outputs after it with the cores that have them."""
    places = {name: (1.6 * x, y) for name, (x, y) in _row("G", len(w.cores)).items()}
    names = list(places)
    sides = [Edge(n, (names[k], *names[:k]), UP) for k, n in enumerate(w.out)]
    sides += [Edge(n, (names[k], *names[k + 1 :]), DOWN) for k, n in enumerate(w.in_)]
    return places, _chain(names, w.ranks) + sides


_NETWORKS = {
    "CP": _cp_network,
    "Tucker": _tucker_network,
    "TT": _tt_network,
    "HT": _ht_network,
    "LowRank": _lowrank_network,
    "TTMatrix": _ttmatrix_network,
    "Kronecker": _kronecker_network,
    "LoKr": _lokr_network,
    "BlockTT": _blocktt_network,
    "Monarch": _blocktt_network,
}


HATCHES = {"F": "", "B": "///", "W": "...", "R": "xx"}
WORK = {"F": "forward", "B": "backward", "W": "weights' share", "R": "computed again"}


def _pale(color: str) -> tuple:
    """A color mixed with white, on which black letters are read in both themes."""
    return tuple(0.5 + part / 2 for part in to_rgba_array(color)[0, :3])


def gantt(ax: Axes, line: Timeline, title: str = "", end: float | None = None) -> str:
    """What each rank works on as time passes; a number is that of the micro-batch, where there is
    room for it. end: of the axis of time, so that several pictures can share one."""
    start, seen = min(run.start for run in line.runs), {}
    end = end or line.makespan
    for rank, op, a, b in line.runs:
        look = dict(color=_pale(COLORS["FBWR".index(op.kind)]), hatch=HATCHES[op.kind])
        bar = ax.barh(rank, b - a, left=a - start, height=0.8, edgecolor="white", **look)
        seen.setdefault(op.kind, bar)
        if b - a >= 0.014 * len(str(op.micro)) * end:
            where = dict(ha="center", va="center", fontsize=8.5, color="black", gid="on color")
            ax.text((a + b) / 2 - start, rank, op.micro, **where)
    ax.grid(False)
    ax.set(yticks=range(line.ranks), xlim=(0, end), xlabel="time", ylabel="rank")
    ax.invert_yaxis()
    names = [WORK[kind] for kind in seen]
    above = dict(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2, ncols=4)
    ax.legend(seen.values(), names, columnspacing=1, handlelength=1.5, **above)
    ax.set_title(title)
    micro = 1 + max(run.op.micro for run in line.runs)
    about = f"{line.ranks} ranks, {micro} micro-batches"
    return f"{about}: {line.makespan:.4g} from start to end, {100 * line.bubble:.0f} % idle."


def held_activations(ax: Axes, held: list[int], formula: list[int] | None = None) -> str:
    """The most micro-batches whose activations each rank holds, and what a formula says."""
    ax.barh(range(len(held)), held, color=COLORS[5], height=0.8, label="in the schedule")
    if formula is not None:
        ax.plot(formula, range(len(held)), ls="", marker="D", color="black", label="formula")
    ax.set(yticks=range(len(held)), xlabel="activations held", ylabel="rank")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.invert_yaxis()
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2, ncols=2, handlelength=1)
    return f"The ranks hold the activations of at most {', '.join(map(str, held))} micro-batches."


def shards(ax: Axes, shape: tuple[int, int], mode: int | None, ranks: int, title: str = "") -> str:
    """A matrix, to scale, in parts along a mode, one color for each rank, its number beside it.

    ax: where it is drawn.
    shape: of the matrix.
    mode: the one that is cut, 0 or 1; None: every rank holds the whole matrix.
    ranks: how many.
    title: the matrix's name.
    """
    rows, columns = shape
    count, size = (1, rows) if mode is None else (ranks, shape[mode])
    ax.set(xlim=(0, columns), ylim=(rows, 0), aspect="equal", xticks=[], yticks=[])
    ax.grid(False)
    for k in range(count):
        a, step = k * size / count, size / count
        corner, wide, high = ((a, 0), step, rows) if mode == 1 else ((0, a), columns, step)
        color = "0.8" if mode is None else COLORS[k % len(COLORS)]
        ax.add_patch(Rectangle(corner, wide, high, fc=color, ec="white", hatch="/" * (k % 3)))
    middles = [(k + 0.5) * size / count for k in range(count)]
    names = ["all ranks"] if mode is None else range(ranks)
    if mode == 1:
        ax.set_xticks(middles, names)
        ax.set_xlabel("rank")
    else:
        ax.yaxis.tick_right()
        ax.yaxis.set_label_position("right")
        ax.set_yticks(middles, names)
        ax.set_ylabel("" if mode is None else "rank")
    ax.set_title(f"{title}, {rows} x {columns}")
    where = f"in {ranks} parts of its {('rows', 'columns')[mode]}" if mode is not None else "whole"
    return f"{title}, {rows} x {columns}, is {where}."
