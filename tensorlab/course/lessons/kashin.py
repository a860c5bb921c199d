"""Lesson 23: flat sums and few bits."""

import functools
import math

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ... import plots
from ...methods.codes import METHODS as QUANTIZERS
from ...methods.codes import quantize
from ...methods.kashin import KINDS, METHODS, Rotation, kashin_steps
from ..checks import Check, gaussian
from ..widgets import Explorer, Player, choice, decimal, integer

INPUTS = ("heavy tails", "Gaussian", "one-hot", "constant")


def vector(name: str, n: int) -> Tensor:
    """A vector of n entries: Gaussian, Student's t of three degrees, a single 1, or all 1.

    >>> vector("one-hot", 4)
    tensor([0., 0., 1., 0.], dtype=torch.float64)
    """
    (g,) = gaussian((4, n))
    if name == "heavy tails":
        return g[0] / g[1:].square().mean(0).sqrt()
    ones = torch.ones(n, dtype=torch.float64)
    return {"Gaussian": g[0], "one-hot": ones * (torch.arange(n) == n // 2), "constant": ones}[name]


class StepsPlayer(Player):
    """One step of the decomposition after another: the entries of u and v, and how much of x is
    left."""

    figsize = (9, 3.3)

    def __init__(self, steps: int = 40):
        self.most = steps
        super().__init__(
            x=choice("heavy tails", INPUTS),
            size=choice(1024, (64, 256, 1024, 4096)),
            Q=choice("dct", tuple(KINDS)),
            method=choice("two_two", METHODS),
            seed=integer(0, 0, 99),
        )

    def steps(self, x, size, Q, method, seed):
        left = []
        for k, step in enumerate(
            kashin_steps(vector(x, size), Rotation(Q, (size,), seed), method=method)
        ):
            left.append(float(step.left) / float(vector(x, size).norm()))
            yield step, tuple(left)
            if k == self.most or left[-1] < 1e-12:
                return

    def draw(self, figure: Figure, state, x, size, Q, method, seed) -> str:
        step, left = state
        first, second = figure.subplots(1, 2, width_ratios=(3, 2))
        seen = plots.flat_levels(first, step.u, step.v, float(vector(x, size).norm()))
        plots.decay(second, {Q: left})
        second.set(xlabel="state", xlim=(0.9, self.most + 1), ylim=(1e-7, 2))
        return f"After {len(left) - 1} steps {left[-1]:.3g} of |x| is left.  {seen}"


def weights(tails: float, n: int = 64) -> Tensor:
    """An n by n matrix of sign(g) |g|^tails for Gaussian g: the larger `tails`, the rarer and
    larger the outliers."""
    (g,) = gaussian((n, n))
    return g.sign() * g.abs() ** tails


@functools.lru_cache(maxsize=256)
def error(tails: float, bits: int, method: str) -> tuple[float, float]:
    """Bits per weight and relative error of `weights(tails)`, seed 0.

    >>> error(1.0, 4, "kmeans")[1] < 0.1
    True
    """
    w = quantize(weights(tails), bits, method=method, generator=torch.Generator().manual_seed(0))
    return w.bits_per_weight, w.error


class BitsExplorer(Explorer):
    """Error against bits for every method, with a slider for how heavy the tails of the weights
    are."""

    figsize = (7, 3.6)

    def __init__(self):
        super().__init__(tails=decimal(2.0, 1.0, 4.0, step=0.25))

    def draw(self, figure: Figure, tails: float) -> str:
        return plots.error_against_bits(
            figure.subplots(), {m: [error(tails, b, m) for b in (2, 3, 4)] for m in QUANTIZERS}
        )


def _step(r):
    return torch.where(r < 0, -1.0, 1.0).double() * r.abs().mean()


EXAMPLE = torch.tensor([3.0, -1.0, 1.0, 1.0], dtype=torch.float64)


def _left(x=EXAMPLE):
    return float((x - _step(x)).square().sum() / x.square().sum())


energy_left = Check(
    question="x = (3, -1, 1, 1).  One step takes s sign(x) from it, s = |x|_1 / N.  Which share of "
    "|x|^2 is left?",
    right=_left,
    mistakes=(
        (lambda: 1 - _left(), "that is the share which is gone; the question is what is left."),
        (
            lambda: math.sqrt(_left()),
            "that is the share of the norm; the question is about its square.",
        ),
        (lambda: _left() * 12, "that is |r|^2 itself; divide it by |x|^2."),
        (
            lambda: float((EXAMPLE - EXAMPLE.sign()).square().sum() / 12),
            "the sign vector is multiplied by s, which is not 1.",
        ),
    ),
    hint="s is the mean of |x_i|, and |r|^2 = |x|^2 - N s^2.",
    moral="Only a vector whose entries are all of one size is finished in one step; a spiky one "
    "loses little.",
    rtol=1e-3,
)

flat_step = Check(
    question="Write `flat_step(r)`: the multiple of the sign vector of r that is nearest to r.  "
    "The sign of 0 counts as 1.",
    function=True,
    cases=lambda: [
        (gaussian((7,))[0],),
        (torch.tensor([2.0, 0.0, -4.0, 0.0, 1.0], dtype=torch.float64),),
    ],
    right=_step,
    mistakes=(
        (
            lambda r: r.sign() * r.abs().mean(),
            "where r is 0 the sign counts as 1, or the vector is shorter than sqrt(N).",
        ),
        (lambda r: r.sign(), "the sign vector still needs its factor."),
        (
            lambda r: r.sign() * r.abs().sum(),
            "the sign vector has the squared norm N; divide by it.",
        ),
        (
            lambda r: r.sign() * r.norm() / math.sqrt(len(r)),
            "that is as long as r, which is too long: project r on its signs.",
        ),
        (lambda r: r - _step(r), "that is what is left; the step itself is asked for."),
    ),
    hint="project r on e = sign(r): (r, e) / (e, e) e.",
    moral="(r, sign(r)) is the 1-norm: where it is large against the 2-norm, a flat vector "
    "explains much of r.",
)

tails_ratio = Check(
    question="Set the explorer of bits to tails 3.  At 4 bits, how many times larger is the error "
    "of kmeans than that of rotate?  "
    "To five per cent.",
    right=lambda: error(3.0, 4, "kmeans")[1] / error(3.0, 4, "rotate")[1],
    mistakes=(
        (
            lambda: error(3.0, 4, "rotate")[1] / error(3.0, 4, "kmeans")[1],
            "that is the other way round.",
        ),
        (
            lambda: error(3.0, 4, "uniform")[1] / error(3.0, 4, "rotate")[1],
            "that is uniform; kmeans is asked for.",
        ),
        (
            lambda: error(3.0, 4, "kashin")[1] / error(3.0, 4, "rotate")[1],
            "that is kashin; kmeans is asked for.",
        ),
        (lambda: error(2.0, 4, "kmeans")[1] / error(2.0, 4, "rotate")[1], "that is for tails 2."),
    ),
    hint="the sentence below the picture gives both errors at 4 bits.",
    moral="A rotation makes every entry nearly Gaussian, whatever the weights were: its error does "
    "not know about tails.",
    rtol=0.05,
)
