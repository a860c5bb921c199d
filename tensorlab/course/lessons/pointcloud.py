"""Lesson 14: clouds of points, whose order does not matter."""

import math
from functools import lru_cache

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ... import plots
from ...clusters import kmeans
from ...formats.tt import TT
from ...methods.pointcloud import (
    chamfer,
    coreset,
    distortion,
    nearest,
    rows,
    sliced_wasserstein,
    tt_cloud_steps,
    tt_permute,
    wasserstein,
)
from ..checks import Check, gaussian
from ..widgets import Explorer, Player, choice, integer
from .embedding import row_order, vocabulary

CLOUDS = ("ring", "spiral", "two moons", "nine blobs")
LOSSES = {  # of the sliced Wasserstein distance, and of the nearest neighbors
    "both": (1.0, 1.0),
    "sliced Wasserstein": (1.0, 0.0),
    "nearest neighbors": (0.0, 1.0),
}
SHAPE = (4, 8, 8)

# ------------------------------------------------------------------------------ clouds in the plane


def cloud(name: str, n: int, seed: int = 0) -> Tensor:
    """n points of a cloud in the plane, in no order.

    >>> cloud("spiral", 5).shape
    torch.Size([5, 2])
    """
    g = torch.Generator().manual_seed(seed)
    t, noise = (
        torch.rand(n, generator=g, dtype=torch.float64),
        0.05 * torch.randn(n, 2, generator=g, dtype=torch.float64),
    )
    side = torch.randint(2, (n,), generator=g).double()
    if name == "ring":
        return noise + torch.stack([(2 * math.pi * t).cos(), (2 * math.pi * t).sin()], 1)
    if name == "spiral":
        return (
            noise + torch.stack([t * (3 * math.pi * t).cos(), t * (3 * math.pi * t).sin()], 1) * 1.5
        )
    if name == "two moons":
        x = torch.stack([(math.pi * t).cos(), (math.pi * t).sin() - 0.25], 1)
        return noise + torch.where(
            side[:, None] > 0, x, torch.tensor([1.0, 0.0], dtype=torch.float64) - x
        )
    if name == "nine blobs":
        return 2 * noise + torch.randint(3, (n, 2), generator=g).double() - 1
    raise ValueError(f"cloud: needs one of {', '.join(CLOUDS)}, got {name}")


def directions(count: int = 64) -> Tensor:
    """Evenly spread unit directions in the plane, (2, count), so that distances can be told
    again."""
    angle = math.pi * torch.arange(count, dtype=torch.float64) / count
    return torch.stack([angle.cos(), angle.sin()])


def distances(points: Tensor, other: Tensor) -> tuple[float, float]:
    """Sliced Wasserstein and nearest-neighbour distance, in units of the points' variance."""
    size = (points - points.mean(0)).square().sum(1).mean()
    return float(sliced_wasserstein(points, other, directions()) / size), float(
        chamfer(points, other) / size
    )


class CloudPlayer(Player):
    """A cloud and the cloud of a train, step by step: rank, loss and start are the reader's."""

    figsize = (9, 4)
    every = 10  # steps of Adam between two pictures

    def __init__(self, rank: int = 4):
        super().__init__(
            rank=integer(rank, 1, 12),
            cloud=choice(CLOUDS[0], CLOUDS),
            loss=choice("both", LOSSES),
            start=choice("random", ("random", "clusters")),
        )

    def steps(self, rank: int, cloud: str, loss: str, start: str):
        points, history = points_of(cloud), []
        w, c = LOSSES[loss]
        path = tt_cloud_steps(
            points,
            SHAPE,
            rank,
            wasserstein=w,
            neighbors=c,
            hierarchy=0.0,
            steps=300,
            init=start,
            generator=torch.Generator().manual_seed(0),
        )
        for step, (tt, _) in enumerate(path):
            if step % self.every == 0:
                history.append(distances(points, rows(tt)))
                yield tt, tuple(history)

    def draw(self, figure: Figure, state, rank: int, cloud: str, loss: str, start: str) -> str:
        tt, history = state
        points = points_of(cloud)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1))
        seen = plots.clouds(left, points, rows(tt), f"{tt.numel} numbers for {2 * len(points)}")
        for k, (name, values) in enumerate(
            zip(("sliced Wasserstein", "nearest neighbors"), zip(*history))
        ):
            right.semilogy(
                [self.every * i for i in range(len(values))],
                values,
                label=name,
                **plots.style(k, len(values)),
            )
        right.set(xlabel="step", ylabel="distance / variance", xlim=(-5, 305), ylim=(3e-4, 5))
        right.legend(fontsize=8)
        w, c = history[-1]
        taken = self.every * (len(history) - 1)
        return (
            f"{seen} The train has the ranks {', '.join(map(str, tt.ranks))} and {tt.numel} "
            f"numbers; after {taken} steps the sliced Wasserstein distance is {w:.4f}, that of "
            f"nearest neighbors {c:.4f}."
        )


@lru_cache
def points_of(name: str) -> Tensor:
    """The cloud of the explorer, as many points as the train has rows."""
    return cloud(name, math.prod(SHAPE))


def rivals(points: Tensor, tt: TT, seed: int = 0) -> dict[str, tuple[int, Tensor]]:
    """The train's cloud and two others of at most as many numbers: centers of k-means and a
    coreset.

    Each center is repeated for the points that are nearest to it, with one number more for how many
    these are.
    """
    k = max(1, min(tt.numel // (points.shape[1] + 1), len(points)))
    found = {"train": (tt.numel, rows(tt))}
    means = kmeans(points, k, generator=torch.Generator().manual_seed(seed)).value
    for name, centers in (("k-means", means), ("coreset", points[coreset(points, k)])):
        count = torch.bincount(nearest(points, centers), minlength=k)
        found[name] = k * (points.shape[1] + 1), centers.repeat_interleave(count, 0)
    return found


# ---------------------------------------------------------------------------------- the permutation


WORD_SHAPE = (4, 8, 8)  # of the 256 most frequent words


@lru_cache(128)
def reordered(start: str, rank: int, rounds: int):
    """Train and order of the 256 most frequent words after some rounds: the `Fit` of
    `tt_permute`."""
    x = vocabulary().table[:256]
    order = row_order("meaning")
    order = order[order < 256] if start == "clusters" else torch.arange(256)
    return tt_permute(
        x,
        WORD_SHAPE,
        rank,
        max_iter=rounds + 1,
        order=order,
        tol=0.0,
        generator=torch.Generator().manual_seed(0),
    )


class PermutationExplorer(Explorer):
    """Word vectors in their order and in one found together with a train: singular values of the
    cuts, and the error."""

    figsize = (9, 3.4)

    def __init__(self, rounds: int = 4):
        super().__init__(
            rank=integer(8, 1, 32),
            rounds=integer(rounds, 0, 10),
            start=choice("given order", ("given order", "clusters")),
        )

    def draw(self, figure: Figure, rank: int, rounds: int, start: str) -> str:
        x, fit = vocabulary().table[:256], reordered(start, rank, rounds)
        given, found = cut_spectra(x), cut_spectra(x[fit.value.order])
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        both = {"given": given, "found": found}
        plots.singular_values(
            left,
            {f"{name}, {cut}": s[cut] for cut in ("cut 2", "cut 3") for name, s in both.items()},
        )
        plots.convergence(right, {"train and order": list(fit.history)})
        share = [float(s["cut 2"][:rank].norm() / s["cut 2"].norm()) for s in (given, found)]
        same = float((given["cut 3"] - found["cut 3"]).abs().max()) <= 1e-9 * float(
            given["cut 3"][0]
        )
        first, last, took = fit.history[0], fit.history[-1], len(fit.history) - 1
        return (
            f"With rank {rank} the error goes from {first:.3f} to {last:.3f} in {took} rounds; the "
            f"first {rank} singular "
            f"values of cut 2 hold {share[0]:.3f} of the norm in the given order and "
            f"{share[1]:.3f} in the one found; those of "
            f"cut 3, rows against columns, {'stay' if same else 'change'}."
        )


def cut_spectra(table: Tensor) -> dict[str, Tensor]:
    """Singular values of the three unfoldings of a table with its rows in WORD_SHAPE."""
    return {
        f"cut {k}": torch.linalg.svdvals(table.reshape(math.prod(WORD_SHAPE[:k]), -1))
        for k in (1, 2, 3)
    }


# ---------------------------------------------------------------------------------------- exercises


def _line(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


def _unchanged():
    x = vocabulary().table[:256]
    shuffled = x[torch.randperm(256, generator=torch.Generator().manual_seed(0))]
    a, b = cut_spectra(x), cut_spectra(shuffled)
    return sum(torch.allclose(a[cut], b[cut], rtol=1e-9) for cut in a)


wasserstein_line = Check(
    question="On a line the cloud x has the points 0, 2, 5 and y the points 7, 1, 2.  What is "
    "W_2^2, the mean of the squared "
    "distances of the best matching?",
    cases=lambda: [(_line(0, 2, 5), _line(7, 1, 2))],
    right=lambda x, y: wasserstein(x, y)[0],
    mistakes=(
        (
            lambda x, y: (x - y).square().mean(),
            "that matches the points as they are written; which matching is the best?",
        ),
        (lambda x, y: wasserstein(x, y)[0] * len(x), "that is the sum; the mean is asked for."),
        (lambda x, y: wasserstein(x, y)[0].sqrt(), "that is W_2 itself; its square is asked for."),
        (
            lambda x, y: wasserstein(x, y, 1)[0],
            "that is the mean of the distances; they are to be squared.",
        ),
        (
            lambda x, y: chamfer(x, y),
            "nearest neighbors may share a partner; in a matching each point has its own.",
        ),
    ),
    hint="on a line the best matching is the one in which no two pairs cross: sort both clouds.",
    moral="On a line a sort is the best matching; sliced Wasserstein sorts in many directions.",
)

chamfer_distance = Check(
    question="Write `chamfer(x, y)` for clouds x (n, D) and y (m, D): the mean over x of the "
    "squared distance to the nearest point "
    "of y, plus the same the other way around.",
    function=True,
    cases=lambda: [gaussian((5, 3), (4, 3)), gaussian((6, 2), (6, 2)), gaussian((1, 4), (7, 4))],
    right=lambda x, y: chamfer(x, y),
    mistakes=(
        (
            lambda x, y: distortion(x, y),
            "only from x to y: a y with points far from all of x would cost nothing.",
        ),
        (
            lambda x, y: distortion(y, x),
            "only from y to x: points of x that have no partner would cost nothing.",
        ),
        (
            lambda x, y: torch.cdist(x, y).amin(1).mean() + torch.cdist(x, y).amin(0).mean(),
            "the distances are to be squared.",
        ),
        (
            lambda x, y: distortion(x, y) * len(x) + distortion(y, x) * len(y),
            "the mean over each cloud is asked for, not the sum.",
        ),
    ),
    hint="the (n, m) table of squared distances, its least entry in each row and in each column.",
    moral="No order, no matching, any numbers of points; but many points may crowd at one place "
    "unpunished.",
)

unchanged_cuts = Check(
    question="A table with 256 rows and 64 columns is a tensor of shape (4, 8, 8, 64), which has "
    "three cuts.  Its rows are "
    "shuffled: how many of the three unfoldings keep their singular values?",
    right=_unchanged,
    mistakes=(
        (
            lambda: 0,
            "look at the cut between all the rows and the columns: what does a permutation of rows "
            "do to it?",
        ),
        (lambda: 2, "try it: `lesson.cut_spectra(table[order])` for an order of your own."),
        (lambda: 3, "try it: the ranks of the other cuts are why the order matters."),
    ),
    hint="a permutation from the left is orthogonal; for which of the unfoldings is a shuffle of "
    "rows a factor from the left?",
    moral="What an order can save stands between the digits of the row; between rows and columns "
    "it saves nothing.",
)
