"""Lesson 12: factorized convolutions."""

import copy
import functools

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from ... import plots
from ...formats.cp import CP, cp_als_steps
from ...formats.cp_stable import cp_degeneracy, cp_stable_steps
from ...layers.conv import (
    conv_kernel,
    cp_conv,
    spatial_conv,
    svd_conv,
    tt_conv,
    tucker_conv,
)
from ...layers.report import layer_flops
from ...papers import convolutions
from ...papers.table import printed
from ..checks import Check, Unusable, gaussian, returned
from ..lab import fast
from ..widgets import Explorer, choice, integer

STRUCTURES = {
    "CP": cp_conv,
    "Tucker": tucker_conv,
    "TT": tt_conv,
    "spatial": spatial_conv,
    "SVD": svd_conv,
}
SIDE = 8  # of the images that the second convolution sees
CHANNELS = (8, 16, 24)


@functools.cache
def network() -> nn.Sequential:
    """A small CNN trained on scikit-learn's digits, for a short while under TENSORLAB_FAST=1; made
    once."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = convolutions.small_cnn(channels=CHANNELS)
    x, y, *_ = convolutions.images()
    return convolutions.train(model, x, y, epochs=_epochs(), lr=5e-3, batch=64)


def _epochs():
    return fast(2, full=12)


@functools.lru_cache(64)
def factorized(structure: str, rank: int) -> nn.Module:
    """The second convolution of the network in a structure."""
    if structure not in STRUCTURES:
        raise ValueError(f"structure: needs one of {', '.join(STRUCTURES)}, got {structure}")
    options = (
        dict(generator=torch.Generator().manual_seed(0), max_iter=60) if structure == "CP" else {}
    )
    return STRUCTURES[structure](network().second, rank, **options)


@torch.no_grad()
def kernel_error(structure: str, rank: int) -> float:
    """Relative Frobenius error of the factorized kernel."""
    kernel = network().second.weight
    return float((conv_kernel(factorized(structure, rank)) - kernel).norm() / kernel.norm())


class ConvExplorer(Explorer):
    """A kernel as a chain of small convolutions: their sizes, what they store and cost, and the
    filters before and after."""

    figsize = (9, 4.2)

    def __init__(self, structure: str = "CP"):
        super().__init__(structure=choice(structure, STRUCTURES), rank=integer(6, 1, 16))

    @torch.no_grad()
    def draw(self, figure: Figure, structure: str, rank: int) -> str:
        layer, chain = network().second, factorized(structure, rank)
        above, below = figure.subfigures(2, 1, height_ratios=(3, 2))
        seen = plots.chain(above.subplots(), chain)
        one, two, three = below.subplots(1, 3)
        kernel, fitted = layer.weight, conv_kernel(chain)
        level = float(kernel.abs().max())
        for ax, k, title in (
            (one, kernel, "trained"),
            (two, fitted, structure),
            (three, kernel - fitted, "difference"),
        ):
            plots.filters(ax, k, title, level)
        x = torch.ones(1, layer.in_channels, SIDE, SIDE)
        ratio = sum(layer_flops(layer, x).values()) / sum(layer_flops(chain, x).values())
        return (
            f"{structure}: {seen} The layer before had {layer.weight.numel()} weights; there are "
            f"{ratio:.2f} times fewer FLOPs, and the relative error of the kernel is "
            f"{kernel_error(structure, rank):.3f}."
        )


class TermsExplorer(Explorer):
    """A tensor of rank 3 that is as near as wanted to rank 2: the terms of plain ALS grow and
    cancel, a ridge holds them."""

    def __init__(self):
        super().__init__(
            digits=integer(3, 1, 6, label="ridge = 10^-digits"), sweeps=integer(80, 10, 400)
        )

    def draw(self, figure: Figure, digits: int, sweeps: int) -> str:
        start = CP.randn(
            (3, 3, 3), 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        fits = {
            "ALS": cp_als_steps(diverging(), 2, init=start),
            f"ridge 1e-{digits}": cp_stable_steps(diverging(), 2, ridge=10.0**-digits, init=start),
        }
        energies, errors = {}, {}
        for name, steps in fits.items():
            found = [next(steps) for _ in range(sweeps)]
            energies[name], errors[name] = [cp_degeneracy(cp) for cp, _ in found], found[-1][1]
        seen = plots.term_energy(figure.subplots(), energies)
        listed = ", ".join(f"{name} {error:.3f}" for name, error in errors.items())
        return f"{seen} Relative errors: {listed}."


def diverging() -> Tensor:
    """a∘a∘b + a∘b∘a + b∘a∘a with orthonormal a and b: rank 3, and no best approximation of rank 2
    [DeSilvaLim2008].

    >>> float(diverging().norm()) ** 2
    2.9999999999999996
    """
    a, b = torch.eye(3, dtype=torch.float64)[:2]
    return sum(torch.einsum("i,j,k->ijk", *v) for v in ((a, a, b), (a, b, a), (b, a, a)))


# ------------------------------------------------------------------------------- figures of rivals


@functools.cache
def _layer(trained: bool) -> nn.Conv2d:
    """The second convolution of the network, or one of its shape with Gaussian numbers."""
    layer = network().second
    if trained:
        return layer
    noise = nn.utils.skip_init(nn.Conv2d, layer.in_channels, layer.out_channels, 3, padding=1)
    nn.init.normal_(noise.weight, generator=torch.Generator().manual_seed(0))
    nn.init.zeros_(noise.bias)
    return noise


def spectra() -> dict[str, dict[str, Tensor]]:
    """Singular values of four unfoldings of the trained kernel, and of a random one."""
    found = {}
    for title, trained in (("trained", True), ("random", False)):
        kernel = _layer(trained).weight.detach().double()
        unfoldings = {
            "channels out": kernel.flatten(1),
            "channels in": kernel.transpose(0, 1).flatten(1),
            "in and height": _spatial_matrix(kernel),
            "height": kernel.transpose(0, 2).flatten(1),
        }
        found[title] = {name: torch.linalg.svdvals(matrix) for name, matrix in unfoldings.items()}
    return found


@functools.cache
@torch.no_grad()
def errors(trained: bool) -> dict[str, list[tuple[int, float]]]:
    """(weights, relative error of the kernel) over the ranks, by structure."""
    layer, found = _layer(trained), {}
    for name, make in STRUCTURES.items():
        options = {}
        if name == "CP":
            options = dict(generator=torch.Generator().manual_seed(0), max_iter=60)
        found[name] = []
        for rank in (1, 2, 4, 6, 8, 12) + (24,) * (name == "CP"):
            chain = make(layer, rank, **options)
            off = float((conv_kernel(chain) - layer.weight).norm() / layer.weight.norm())
            found[name].append((_weights(chain), off))
    return found


def _weights(chain):
    return sum(p.numel() for p in chain.parameters() if p.ndim > 1)


def at_most(points, weights: float) -> float:
    """The least error of points (weights, error) with at most so many weights."""
    return min(error for stored, error in points if stored <= weights)


def draw_errors(figure: Figure) -> str:
    """Errors of the trained and of the random kernel against weights; a sentence."""
    dense, said = network().second.weight.numel(), []
    for ax, trained in zip(figure.subplots(1, 2, sharey=True), (True, False)):
        curves = errors(trained)
        for k, (name, points) in enumerate(curves.items()):
            ax.semilogx(*zip(*sorted(points)), label=name, **plots.style(k))
        ax.axvline(dense, color="0.4", lw=1, ls="--")
        title = "trained" if trained else "random"
        ax.set(title=title, xlabel="weights", ylim=(0, 1.02))
        least = {name: at_most(points, dense / 2) for name, points in curves.items()}
        best = min(least, key=least.get)
        said.append(f"{title}: {best} with the error {least[best]:.2f}")
    figure.axes[0].set_ylabel("relative error")
    figure.axes[0].legend(loc="lower left")
    return f"Best with at most half of the weights, {'; '.join(said)}."


# --------------------------------------------------------------------------- accuracy, and seconds


def race(shares, *, tuning: int, seeds: int) -> dict[str, list[dict]]:
    """Networks with two convolutions at a share of their operations, by structure one row for each
    share: `flops`, dense over theirs; % right `before` training on and `after`, lists over seeds.

    dense: the network itself, trained on as long. narrow: fewer channels between the two
    convolutions, and trained from scratch.
    """
    found = {"dense": [_trained_on(network(), 1.0, tuning, seeds)]}
    for share in shares:
        for name in STRUCTURES:
            model = convolutions.factorized(network(), name.lower(), share, _images()[0][:1])
            found.setdefault(name, []).append(_trained_on(model, share, tuning, seeds))
        found.setdefault("narrow", []).append(_narrow(share, tuning, seeds))
    return found


def _images():
    """Images and digits to train on, fewer under TENSORLAB_FAST=1, and those of the test."""
    x, y, *test = convolutions.images()
    return *fast((x[:300], y[:300]), full=(x, y)), *test


def _score(model):
    return 100 * convolutions.accuracy(model, *_images()[2:])


def _flops(model):
    return sum(layer_flops(model, _images()[0][:1]).values())


def _trained_on(model, share, tuning, seeds):
    x, y, *_ = _images()
    options = dict(epochs=tuning, lr=1e-3, batch=64)
    after = [
        _score(convolutions.train(copy.deepcopy(model), x, y, seed=seed, **options))
        for seed in range(1, seeds + 1)
    ]
    flops = _flops(network()) / _flops(model)
    return dict(share=share, flops=flops, before=[_score(model)] * seeds, after=after)


def _narrow(share, tuning, seeds):
    x, y, *_ = _images()
    a, b, c = CHANNELS
    channels, after = (a, max(1, int(b * share)), c), []
    for seed in range(1, seeds + 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = convolutions.small_cnn(channels=channels)
        options = dict(epochs=_epochs() + tuning, lr=5e-3, batch=64, seed=seed)
        after.append(_score(convolutions.train(model, x, y, **options)))
    flops = _flops(network()) / _flops(model)
    return dict(share=share, flops=flops, before=after, after=after)


def draw_race(figure: Figure, found: dict[str, list[dict]]) -> str:
    """Accuracy against operations before and after training on, with printed numbers as crosses in
    points below dense; a sentence."""
    level, said = _mean(found["dense"][0]["after"]), []
    axes = figure.subplots(1, 2, sharey=False)
    for ax, when in zip(axes, ("before", "after")):
        for k, name in enumerate([*STRUCTURES, "narrow"]):
            rows = found[name]
            at = [row["flops"] for row in rows]
            means = [_mean(row[when]) for row in rows]
            bars = [float(torch.tensor(row[when]).std()) for row in rows]
            if name != "narrow" or when == "after":
                ax.errorbar(at, means, bars, label=name, capsize=2, **plots.style(k))
        ax.axhline(level, color="0.4", lw=1, ls="--", label="dense")
        ax.set(xlabel="operations, dense / theirs", title=f"{when} training on")
        shown = [n for n in found if n != "narrow" or when == "after"]
        said.append(f"{when} " + ", ".join(f"{n} {_mean(found[n][-1][when]):.1f}" for n in shown))
    axes[0].set_ylabel("% right")
    shown = [(row["flops"], level + row["points"]) for row in printed("Kim2016").rows]
    axes[1].plot(*zip(*shown), "kx", label="printed, Tucker")
    axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return f"% right at the most operations saved: {'; '.join(said)}."


def _mean(values):
    return sum(values) / len(values)


@torch.no_grad()
def speeds(sizes) -> dict[tuple[int, int], dict[str, float]]:
    """How many times faster than the layer a chain of a quarter of its operations is, by (channels,
    side of the image) and structure."""
    found = {}
    for channels, side in sizes:
        layer = nn.Conv2d(channels, channels, 3, padding=1)
        x, found[channels, side] = torch.randn(8, channels, side, side), {}
        for name, make in STRUCTURES.items():
            options = dict(max_iter=3) if name == "CP" else {}
            chain = make(layer, flops=0.25, image_size=(side, side), **options)
            found[channels, side][name] = convolutions.speedup(layer, chain, x)
    return found


def draw_speeds(figure: Figure, found: dict) -> str:
    """Speeds of the chains as bars; a sentence."""
    ax = figure.subplots()
    for k, name in enumerate(STRUCTURES):
        at = [i + 0.16 * (k - 2) for i in range(len(found))]
        ax.bar(at, [of[name] for of in found.values()], 0.15, label=name, color=plots.COLORS[k])
    ax.axhline(1, color="0.2", lw=1)
    ax.axhline(4, color="0.4", lw=1, ls="--")
    ax.set_xticks(range(len(found)), [f"{c} channels, {s} x {s}" for c, s in found])
    ax.set(ylabel="times the speed")
    ax.grid(False, axis="x")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    least = {f"{c} channels": min(of.values()) for (c, _), of in found.items()}
    return "Least speed: " + ", ".join(f"{n} {v:.2f}" for n, v in least.items()) + "."


# ---------------------------------------------------------------------------------------- exercises


def _cp_weights(inputs, outputs, kernel, rank):
    layer = nn.utils.skip_init(nn.Conv2d, inputs, outputs, kernel, bias=False)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    return sum(p.numel() for p in cp_conv(layer, rank, max_iter=1).parameters())


cp_weights = Check(
    cases=lambda: [(32, 64, 5, 40)],
    right=_cp_weights,
    mistakes=(
        (
            lambda s, t, k, r: r * (s + r * k + r * k + t),
            "the two convolutions in the middle move each channel on its own: they do not mix "
            "channels.",
        ),
        (
            lambda s, t, k, r: r * (s + k + t),
            "the kernel has a height and a width; each has a separate factor.",
        ),
        (lambda s, t, k, r: r * (s + k * k + t), "in a CP height and width are parted too."),
        (lambda s, t, k, r: s * t * k * k, "those are the weights of the whole convolution."),
        (lambda s, t, k, r: s + 2 * k + t, "that is one term; there are as many as the rank."),
    ),
    hint="each of the four modes of the kernel has a factor with one column for each term.",
    moral="The sizes of the modes are added where the kernel multiplies them: this is all the "
    "saving.",
)


def _spatial_matrix(kernel):
    t, s, kh, kw = kernel.shape
    return kernel.permute(1, 2, 0, 3).reshape(s * kh, t * kw)


def _width_first(kernel):
    """Rows (s, j), columns (t, i)."""
    return _spatial_matrix(kernel.mT)


spatial_matrix = Check(
    function=True,
    cases=lambda: [gaussian((2, 2, 3, 3)), gaussian((4, 3, 3, 2)), gaussian((3, 5, 1, 4))],
    right=_spatial_matrix,
    mistakes=(
        (
            _width_first,
            "height and width have changed places: the height stays with the channels in.",
        ),
        (
            lambda kernel: _spatial_matrix(kernel.transpose(0, 1)),
            "the rows are pairs (s, i), of the channels in; these are the channels out.",
        ),
        (
            lambda kernel: _spatial_matrix(kernel).mT,
            "rows and columns have changed places.",
        ),
        (
            lambda kernel: kernel.reshape(_spatial_matrix(kernel).shape),
            "the numbers are still in the order t, s, i, j: permute before you reshape.",
        ),
    ),
    hint="kernel.permute(1, 2, 0, 3) has the modes s, i, t, j; join the first two and the last "
    "two.",
    moral="Which modes are rows decides what one convolution sees: here channels in, and height.",
)


def _composed(who, kernels, shapes):
    """The kernels that a function returns, as float64, when their shapes are right."""
    if not isinstance(kernels, (tuple, list)) or len(kernels) != len(shapes):
        raise Unusable(f"{len(shapes)} kernels are needed, one for each convolution.")
    kernels = [torch.as_tensor(k, dtype=torch.float64) for k in kernels]
    for k, (kernel, shape) in enumerate(zip(kernels, shapes), 1):
        if kernel.shape != shape:
            raise Unusable(
                f"kernel {k} should have the shape {tuple(shape)}, it has {tuple(kernel.shape)}."
            )
    return who(*kernels)


def _read_spatial(function, kernel, rank):
    result, (t, s, kh, kw) = returned(function, kernel, rank), kernel.shape
    shapes = (rank, s, kh, 1), (t, rank, 1, kw)
    return None if result is None else _composed(_join, result, shapes)


def _join(first, second):
    return torch.einsum("rsi,trj->tsij", first[..., 0], second[:, :, 0])


def _svd(matrix, rank):
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank], s[:rank], vh[:rank]


def _spatial(kernel, rank, values=1.0, matrix=_spatial_matrix):
    t, s, kh, kw = kernel.shape
    u, sigma, vh = _svd(matrix(kernel), rank)
    return ((u * sigma**values) @ vh).reshape(s, kh, t, kw).permute(2, 0, 1, 3)


spatial_factors = Check(
    function=True,
    read=_read_spatial,
    cases=lambda: [(*gaussian((4, 3, 3, 3)), 2), (*gaussian((5, 2, 3, 4)), 3)],
    right=_spatial,
    mistakes=(
        (
            lambda kernel, rank: _spatial(kernel, rank, values=0.0),
            "the singular values are missing: give them to one of the two kernels.",
        ),
        (
            lambda kernel, rank: _spatial(kernel, rank, values=2.0),
            "the singular values are in both kernels: give them to one, or each its root.",
        ),
        (
            lambda kernel, rank: (
                _spatial(kernel, rank, matrix=_width_first) if kernel.shape[2:] == (3, 3) else None
            ),
            "your matrix has the width among its rows: use `spatial_matrix`.",
        ),
    ),
    hint="the truncated SVD of `spatial_matrix(kernel)`: u has the rows (s, i), vh the columns "
    "(t, j); permute each to (out, in, height, width).",
    moral="A structure with one cut is a matrix in disguise, and the SVD gives its best answer.",
    forbids=((spatial_conv, "`spatial_conv` is what you are to build: use your matrix."),),
)


def _spatial_case(n, s, t, kernel, rank, side):
    return gaussian((n, s, side, side), (rank, s, kernel, 1), (t, rank, 1, kernel))


def _most_numbers(x, first, second):
    """Four times what the largest of images and kernels holds on the way."""
    n, _, h, w = x.shape
    sizes = [x.numel(), first.numel(), second.numel(), n * max(len(first), len(second)) * h * w]
    return 4 * max(sizes)


spatial_apply = Check(
    function=True,
    cases=lambda: [
        _spatial_case(2, 3, 3, 3, 3, 7),
        _spatial_case(1, 2, 4, 3, 2, 6),
        _spatial_case(1, 96, 96, 9, 2, 10),
    ],
    largest=_most_numbers,
    right=lambda x, first, second: F.conv2d(F.conv2d(x, first), second),
    mistakes=(
        (
            lambda x, first, second: F.conv2d(F.conv2d(x, first, padding="same"), second),
            "nothing is padded: each convolution makes the image smaller.",
        ),
        (
            lambda x, first, second: F.conv2d(F.conv2d(x, first).relu(), second),
            "there is nothing between the two: the chain is linear, as the layer is.",
        ),
        (
            lambda x, first, second: (
                F.conv2d(F.conv2d(x, second), first) if len(second) == first.shape[1] else None
            ),
            "the two are in the wrong order: the first one sees the image.",
        ),
        (
            lambda x, first, second: F.conv2d(F.conv2d(x, first.flip(2)), second.flip(3)),
            "the kernels are not turned: `conv2d` of torch correlates.",
        ),
    ),
    hint="torch.nn.functional.conv2d with the first kernel, then with the second.",
    moral="The sum over all of (s, i, j) became two short ones: that is the whole saving.",
)


def _tucker_case(t, s, kh, kw, p, q):
    """A kernel of exactly these ranks, so that there is one best answer; and the ranks."""
    core, a, b = gaussian((p, q, kh, kw), (t, p), (s, q))
    return _tucker(core, a, b), p, q


def _tucker(core, a, b):
    return torch.einsum("pqij,tp,sq->tsij", core, a, b)


def _read_tucker(function, kernel, p, q):
    result, (t, s, kh, kw) = returned(function, kernel, p, q), kernel.shape
    shapes = (q, s, 1, 1), (p, q, kh, kw), (t, p, 1, 1)
    join = lambda b, core, a: _tucker(core, a[:, :, 0, 0], b[:, :, 0, 0].mT)
    return None if result is None else _composed(join, result, shapes)


def _in_bases(kernel, p, q, unfold_in=None, core=None):
    """A Tucker-2 with one step done in another way."""
    unfold_in = unfold_in or (lambda k: k.transpose(0, 1).flatten(1))
    a, b = _svd(kernel.flatten(1), p)[0], _svd(unfold_in(kernel), q)[0]
    inner = torch.einsum("tsij,tp,sq->pqij", kernel, a, b) if core is None else core(kernel)
    return _tucker(inner, a, b)


tucker_factors = Check(
    function=True,
    read=_read_tucker,
    cases=lambda: [_tucker_case(5, 4, 3, 3, 2, 3), _tucker_case(6, 3, 2, 4, 3, 2)],
    right=lambda kernel, p, q: kernel,
    mistakes=(
        (
            lambda kernel, p, q: _in_bases(
                kernel, p, q, unfold_in=lambda k: k.reshape(k.shape[1], -1)
            ),
            "the unfolding of the channels in is not that: exchange the first two modes before you "
            "flatten.",
        ),
        (
            lambda kernel, p, q: _in_bases(kernel, p, q, core=lambda k: k[:p, :q]),
            "the core is the kernel in the bases of both channels, not its first corner.",
        ),
    ),
    hint="a: left singular vectors of kernel.flatten(1); b: of kernel.transpose(0, 1).flatten(1); "
    "the core is the kernel times both.",
    moral="Two bases of channels and a small kernel between them: the spatial part stays whole.",
    forbids=((tucker_conv, "`tucker_conv` is what you are to build: use two SVDs."),),
)


def _saving(t, s, d, p, q):
    return d * d * s * t / (s * q + d * d * p * q + t * p)


tucker_saving = Check(
    cases=lambda: [(64, 64, 3, 16, 16)],
    right=_saving,
    mistakes=(
        (
            lambda t, s, d, p, q: s * t / (p * q),
            "that is the middle alone: the two 1 × 1 convolutions cost something too.",
        ),
        (
            lambda t, s, d, p, q: 1 / _saving(t, s, d, p, q),
            "that is their share: turn it over.",
        ),
        (
            lambda t, s, d, p, q: s * t / (s * q + d * d * p * q + t * p),
            "the layer has 3 × 3 weights for each pair of channels.",
        ),
    ),
    hint="the layer has 9 · 64 · 64 weights, the chain 64 · 16 + 9 · 16 · 16 + 16 · 64, and each "
    "is used once for a pixel.",
    moral="Ranks of a quarter make the middle sixteen times cheaper, and the whole half of that.",
)


def _half_rank():
    return next(r for r in range(1, 17) if kernel_error("Tucker", r) <= 0.5)


tucker_rank = Check(
    right=_half_rank,
    mistakes=(
        (lambda: _half_rank() - 1, "at that rank the error is still above one half."),
        (lambda: _half_rank() + 1, "a smaller rank will do."),
    ),
    hint="read the error in the sentence below the picture while you move the rank.",
    moral="Half of the kernel's norm is gone, and a little training repairs the network: the error "
    "that matters is that of the loss.",
)
