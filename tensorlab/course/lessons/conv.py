"""Lesson 12: factorized convolutions."""

import functools

import torch
from matplotlib.figure import Figure
from torch import nn

from ... import plots
from ...formats.cp import CP, cp_als_steps
from ...formats.cp_stable import cp_degeneracy, cp_stable_steps
from ...formats.lowrank import LowRank
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
from ..checks import Check, Unusable, call, gaussian
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


@functools.cache
def network() -> nn.Sequential:
    """A small CNN trained on scikit-learn's digits, for a short while under TENSORLAB_FAST=1; made
    once."""
    epochs = fast(2, full=12)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = convolutions.small_cnn(channels=(8, 16, 24))
    x, y, *_ = convolutions.images()
    return convolutions.train(model, x, y, epochs=epochs, lr=5e-3, batch=64)


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


def diverging() -> torch.Tensor:
    """a∘a∘b + a∘b∘a + b∘a∘a with orthonormal a and b: rank 3, and no best approximation of rank 2
    [DeSilvaLim2008].

    >>> float(diverging().norm()) ** 2
    2.9999999999999996
    """
    a, b = torch.eye(3, dtype=torch.float64)[:2]
    return sum(torch.einsum("i,j,k->ijk", *v) for v in ((a, a, b), (a, b, a), (b, a, a)))


# ---------------------------------------------------------------------------------------- exercises


def _cp_weights(inputs, outputs, kernel, rank):
    layer = nn.utils.skip_init(nn.Conv2d, inputs, outputs, kernel, bias=False)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    return sum(p.numel() for p in cp_conv(layer, rank, max_iter=1).parameters())


cp_weights = Check(
    question="A convolution 5 × 5 from 32 to 64 channels, without a bias, becomes a CP chain of "
    "rank 40.  How many weights has "
    "the chain?",
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
            "the kernel has a height and a width; each has a factor of its own.",
        ),
        (lambda s, t, k, r: r * (s + k * k + t), "in a CP height and width are parted too."),
        (lambda s, t, k, r: s * t * k * k, "those are the weights of the whole convolution."),
        (lambda s, t, k, r: s + 2 * k + t, "that is one term; there are as many as the rank."),
    ),
    hint="each of the four modes of the kernel has a factor with one column for each term.",
    moral="The sizes of the modes are added where the kernel multiplies them: this is all the "
    "saving.",
)


def _spatial(kernel, rank):
    t, s, kh, kw = kernel.shape
    w = LowRank.from_dense(kernel.permute(1, 2, 0, 3).reshape(s * kh, t * kw), rank).to_dense()
    return w.reshape(s, kh, t, kw).permute(2, 0, 1, 3)


def _square(given, kernel):
    if given is not None and given.shape != kernel.shape:
        raise Unusable(
            f"the answer has the shape of the kernel, {tuple(kernel.shape)}, this is "
            f"{tuple(given.shape)}."
        )
    return given


spatial_kernel = Check(
    question="Write `spatial_kernel(kernel, rank)`: the kernel (T, S, kh, kw) nearest to the given "
    "one that a convolution kh × 1 "
    "to `rank` channels and then one 1 × kw can do.",
    function=True,
    read=lambda answer, *case: _square(call(answer, *case), case[0]),
    cases=lambda: [(gaussian((4, 3, 3, 3))[0], 2), (gaussian((5, 2, 3, 4))[0], 3)],
    right=_spatial,
    mistakes=(
        (
            lambda kernel, rank: (
                LowRank.from_dense(kernel.flatten(1), rank).to_dense().reshape(kernel.shape)
            ),
            "that is the best for a whole kernel to few channels and then 1 × 1; here height goes "
            "with the input and width "
            "with the output.",
        ),
        (
            lambda kernel, rank: _spatial(kernel.mT, rank).mT,
            "the height comes first: it stays with the channels of the input.",
        ),
        (lambda kernel, rank: _spatial(kernel, rank + 1), "a channel too many is kept."),
        (
            lambda kernel, rank: kernel,
            "that is the kernel itself, which needs more channels in the middle.",
        ),
    ),
    hint="which two of the four modes does the first convolution see?  Put these on the rows of a "
    "matrix and truncate its SVD.",
    moral="A structure with one cut is a matrix in disguise, and the SVD gives its best answer.",
)


def _half_rank():
    return next(r for r in range(1, 17) if kernel_error("Tucker", r) <= 0.5)


tucker_rank = Check(
    question="Move the explorer to Tucker.  Which is the smallest rank at which the relative error "
    "of the kernel is at most one "
    "half?",
    right=_half_rank,
    mistakes=(
        (lambda: _half_rank() - 1, "at that rank the error is still above one half."),
        (lambda: _half_rank() + 1, "a smaller rank will do."),
    ),
    hint="read the error in the sentence below the picture while you move the rank.",
    moral="Half of the kernel's norm gone, and yet the network hardly notices: the error that "
    "matters is that of the loss.",
)
