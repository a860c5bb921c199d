"""Pictures: each draws on the `Axes` it is given and returns one sentence that says what is seen.

The colours are those of Okabe and Ito, which colour-blind readers can tell apart; every curve has a marker and a line
style of its own besides.
"""

import math

import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from .formats.htucker import HT, leaves
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


def tree(ax: Axes, ht: HT, spectra: dict[tuple, Tensor] | None = None, most: int = 16) -> str:
    """A tree of modes with a box on each node: its singular values from 1 down to 1e-16 of the largest, those kept in colour.

    spectra: by node, those of `ht` by default.  Of each the first `most` are drawn; below the box stand the modes, in it the rank.
    """
    spectra = spectra or ht.singular_values()
    order, depth, todo = leaves(ht.tree), {}, [(ht.tree, 0)]
    while todo:
        t, level = todo.pop()
        depth[leaves(t)] = level
        todo += [(child, level + 1) for child in t] if isinstance(t, tuple) else []
    place = {node: (sum(order.index(k) for k in node) / len(node), -1.6 * level) for node, level in depth.items()}
    for parent, child in ((a, b) for a in depth for b in depth if depth[b] == depth[a] + 1 and {*b} < {*a}):
        (x, y), (u, v) = place[parent], place[child]
        ax.plot([x, u], [y - 0.36, v + 0.8], color="0.5", lw=1, zorder=0)
    ax.text(*place[order], " ".join(map(str, order)), ha="center", va="top", fontsize=8)
    for node, r in zip(ht.nodes, ht.ranks):
        (x, y), s = place[node], spectra[node].double()
        s = (1 + (s / s[0].clamp_min(1e-300)).clamp_min(1e-16).log10() / 16).tolist()[:most]
        ax.add_patch(Rectangle((x - 0.4, y), 0.8, 0.8, fc="white", ec="black", lw=0.8))
        for k, height in enumerate(s):
            kept = dict(color=COLOURS[0]) if k < r else dict(fc="white", ec="0.5", lw=0.6)
            ax.add_patch(Rectangle((x - 0.4 + 0.8 * k / most, y), 0.8 / most, 0.8 * height, **kept))
        ax.text(x + 0.37, y + 0.76, str(r), ha="right", va="top", fontsize=10, color=COLOURS[1])
        ax.text(x, y - 0.04, " ".join(map(str, node)), ha="center", va="top", fontsize=8)
    ax.set_xlim(-0.6, ht.ndim - 0.4)
    ax.set_ylim(-1.6 * max(depth.values()) - 0.4, 0.3)
    ax.set_axis_off()
    ranks = ", ".join(f"({' '.join(map(str, node))}) {r}" for node, r in zip(ht.nodes, ht.ranks)) or "none"
    return f"A tree on {ht.ndim} modes with ranks {ranks} stores {ht.numel} of {math.prod(ht.shape)} numbers."


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


def crosses(ax: Axes, x: Tensor, rows, columns, title: str = "") -> str:
    """A function of two indices as a picture, and on it the rows and columns in which a cross approximation has read it."""
    ax.imshow(x, cmap="cividis", aspect="auto", interpolation="nearest")
    for i in sorted(set(rows)):
        ax.axhline(i, color=COLOURS[1], lw=0.8)
    for j in sorted(set(columns)):
        ax.axvline(j, color=COLOURS[5], lw=0.8, ls="--")
    ax.plot(columns, rows, "o", mfc="none", mec="white", ms=6)
    ax.set_title(title, fontsize=9)
    ax.set(xlabel="second index", ylabel="first index")
    return f"{len(rows)} pivots: rows {_listed(rows)} and columns {_listed(columns)} are read."


def _listed(numbers, most=8):
    numbers = sorted(set(numbers))
    return ", ".join(map(str, numbers[:most])) + (", ..." if len(numbers) > most else "")


def error_against_work(ax: Axes, curves: dict[str, list[tuple[float, float]]], level: float | None = None) -> str:
    """Relative error against function evaluations, and a line at the tolerance."""
    for k, (name, points) in enumerate(curves.items()):
        ax.semilogy(*zip(*[(n, max(e, 1e-17)) for n, e in points]), label=name, **style(k, len(points)))
    if level:
        ax.axhline(level, color="0.4", lw=1)
    ax.set(xlabel="function evaluations", ylabel="relative error")
    ax.legend(fontsize=8)
    ends = (f"{name}: error {points[-1][1]:.1e} after {points[-1][0]} evaluations" for name, points in curves.items())
    return "; ".join(ends) + "."


def tangent_step(ax: Axes, x: Tensor, free: Tensor, tangent: Tensor, back: Tensor) -> str:
    """One Riemannian step among symmetric 2 x 2 matrices, where those of rank 1 are a cone: ax is a 3-D axes.

    The coordinates (m00 + m11, m00 - m11, 2 m01) / sqrt 2 keep all lengths and angles; det m = 0 is p^2 = q^2 + r^2.  x: the
    point, of rank 1; free: where the gradient step goes; tangent: its projection onto the tangent plane; back: the retraction.
    """
    place = lambda m: torch.stack([m[0, 0] - m[1, 1], 2 * m[0, 1], m[0, 0] + m[1, 1]]).double() / math.sqrt(2)
    names = {"x": place(x), "gradient step": place(free), "projection": place(tangent), "retraction": place(back)}
    top = 1.15 * max(1e-3, *(float(torch.linalg.vector_norm(p)) for p in names.values())) / math.sqrt(2)
    height, angle = torch.linspace(0, top, 2)[:, None], torch.linspace(0, 2 * math.pi, 61)
    cone = (height * angle.cos(), height * angle.sin(), height.expand(-1, 61))
    ax.plot_wireframe(*(c.numpy() for c in cone), color="0.75", lw=0.5)
    ray = names["x"] / torch.linalg.vector_norm(names["x"])
    around = torch.stack([-ray[1], ray[0], 0 * ray[2]])
    around = around / torch.linalg.vector_norm(around)
    a, b = torch.meshgrid(torch.tensor([-0.5, 0.7]) * top, torch.tensor([-0.7, 0.7]) * top, indexing="ij")
    plane = names["x"][:, None, None] + ray[:, None, None] * a + around[:, None, None] * b
    ax.plot_surface(*plane.numpy(), color=COLOURS[5], alpha=0.35, lw=0)
    for k, (start, end) in enumerate(zip(names, list(names)[1:])):
        ax.plot(*torch.stack([names[start], names[end]]).T.numpy(), **{**style(k), "marker": ""})
        ax.plot(*names[end][:, None].numpy(), STYLES[k][0], color=COLOURS[k], label=end, ms=7)
    ax.plot(*names["x"][:, None].numpy(), "*", color="black", ms=10, label="x")
    ax.legend(fontsize=8, loc="upper left")
    ax.set(xlabel="$(m_{00} - m_{11})/\\sqrt{2}$", ylabel="$\\sqrt{2}\\, m_{01}$", zlabel="$(m_{00} + m_{11})/\\sqrt{2}$")
    ax.locator_params(nbins=4)
    ax.set_box_aspect((1, 1, 1), zoom=0.9)
    off, bend = (float(torch.linalg.matrix_norm(m.double() - tangent.double())) for m in (free, back))
    return f"The projection moves the step by {off:.3f} onto the tangent plane, the retraction by {bend:.3f} back onto the cone."


def success(ax: Axes, shares: dict[str, list[tuple[float, float]]]) -> str:
    """Share of runs that recover a tensor against entries seen per degree of freedom, one curve for each method."""
    for k, (name, points) in enumerate(shares.items()):
        ax.plot(*zip(*sorted(points)), label=name, **style(k))
    ax.set(xlabel="entries / degrees of freedom", ylabel="share recovered", ylim=(-0.05, 1.05), xscale="log")
    ticks = sorted({x for points in shares.values() for x, _ in points})
    ax.set_xticks(ticks, [f"{x:g}" for x in ticks], minor=False)
    ax.minorticks_off()
    ax.legend(fontsize=8)
    full = {name: min((x for x, y in points if y == 1), default=None) for name, points in shares.items()}
    said = (f"{name} {'at no number shown' if x is None else f'from {x:g}'}" for name, x in full.items())
    return "Entries per degree of freedom with which every run recovers: " + ", ".join(said) + "."


def marginals(ax: Axes, exact: Tensor, sampled: Tensor) -> str:
    """Probabilities of a 1 in each mode: bars for the exact ones, beside them hatched bars for the frequencies in samples."""
    modes = range(len(exact))
    ax.bar([k - 0.2 for k in modes], exact.tolist(), 0.4, color=COLOURS[0], label="exact")
    ax.bar([k + 0.2 for k in modes], sampled.tolist(), 0.4, color=COLOURS[4], hatch="///", label="samples")
    ax.set(xlabel="mode", ylabel="probability of a 1", ylim=(0, 1.05), xticks=modes)
    ax.legend(fontsize=8, loc="upper right")
    low, high, off = float(exact.min()), float(exact.max()), float((exact - sampled).abs().max())
    return f"A 1 has probabilities from {low:.3f} to {high:.3f}; the frequencies in the samples are off by up to {off:.3f}."


def covariances(ax: Axes, exact: Tensor, sampled: Tensor) -> str:
    """Covariances of all pairs of modes, (d, d): exact ones above the diagonal, those of samples below, the diagonal empty."""
    d = len(exact)
    both = exact.triu(1) + sampled.tril(-1)
    largest = max(float(both.abs().max()), 1e-3)
    shown = both.clone().fill_diagonal_(math.nan)
    image = ax.imshow(shown.numpy(), cmap="cividis", vmin=-largest, vmax=largest, interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, fraction=0.046)
    ax.set(xticks=range(d), yticks=range(d))
    ax.set_title("covariances: exact above, samples below", fontsize=9)
    a, b = divmod(int(exact.triu(1).abs().argmax()), d)
    said = f"{float(exact[a, b]):.3f}, of modes {a} and {b}, {float(sampled[a, b]):.3f} in the samples"
    return f"The largest covariance of two modes is {said}."
