"""Lesson 14: clouds of points, whose order does not matter."""

import math
from functools import lru_cache

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ... import plots
from ...clusters import kmeans
from ...formats.lowrank import LowRank
from ...formats.tt import TT, tt_svd
from ...methods.pointcloud import (
    assignment,
    chamfer,
    cluster_order,
    coreset,
    distortion,
    nearest,
    rows,
    sliced_wasserstein,
    tt_cloud,
    tt_cloud_steps,
    tt_nearest,
    tt_permute,
    wasserstein,
)
from ..checks import Check, Unusable, gaussian, returned
from ..widgets import Explorer, Player, choice, integer
from .embedding import encoder_vocabulary, row_order, vocabulary

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
    """Sliced Wasserstein and nearest-neighbor distance, in units of the points' variance."""
    size = (points - points.mean(0)).square().sum(1).mean()
    return float(sliced_wasserstein(points, other, directions()) / size), float(
        chamfer(points, other) / size
    )


class CloudPlayer(Player):
    """A cloud and the cloud of a train, step by step: rank, loss and start are the reader's."""

    figsize = (9, 4)
    every = 10  # steps of Adam between two pictures
    begin = 3

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
        right.legend()
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


# ------------------------------------------------------------------------------- figures of rivals


def _seeded():
    return torch.Generator().manual_seed(0)


def _clustered(points: Tensor, shape, rank: int) -> TT:
    """The train of points in an order of clusters, trained by nobody."""
    return tt_svd(points[cluster_order(points, shape)].reshape(*shape, -1), rank)


def by_loss(clouds, steps: int, rank: int = 4) -> dict[str, dict[str, tuple[float, float]]]:
    """(sliced, neighbors) of trains of each loss from a random start, and of the untrained one in
    an order of clusters, by cloud."""
    found = {}
    for name in clouds:
        x = points_of(name)
        untrained = _clustered(x, SHAPE, rank)
        found[name] = {"clusters, untrained": distances(x, rows(untrained))}
        for loss, (w, c) in LOSSES.items():
            options = dict(wasserstein=w, neighbors=c, hierarchy=0.0, steps=steps, init="random")
            fit = tt_cloud(x, SHAPE, rank, generator=_seeded(), **options)
            found[name][loss] = distances(x, rows(fit.value))
    return found


def draw_by_loss(figure: Figure, found: dict) -> str:
    """Both distances of each loss, the untrained start as short lines; a sentence."""
    return _grouped(figure, found, list(LOSSES), "clusters, untrained")


def at_equal_numbers(clouds, n: int, shape, steps: int, rank: int = 4) -> dict:
    """(sliced, neighbors) of a train, of k-means and of a coreset of as many numbers, and of the
    untrained train, by cloud."""
    found = {}
    for name in clouds:
        x = cloud(name, n)
        options = dict(hierarchy=0.0, steps=steps, batch=512, generator=_seeded())
        fit = tt_cloud(x, shape, rank, **options)
        found[name] = {rival: distances(x, y) for rival, (_, y) in rivals(x, fit.value).items()}
        found[name]["train, untrained"] = distances(x, rows(_clustered(x, shape, rank)))
    return found


def draw_rivals(figure: Figure, found: dict) -> str:
    """Both distances of the train and its rivals, the untrained train as short lines; a
    sentence."""
    return _grouped(figure, found, ["train", "k-means", "coreset"], "train, untrained")


def _grouped(figure, found, names, line):
    """A panel for each distance, marks for each cloud, a short line across for one more."""
    wide, said = 0.8 / len(names), []
    titles = "sliced Wasserstein", "nearest neighbors"
    for side, (ax, title) in enumerate(zip(figure.subplots(1, 2), titles)):
        for k, name in enumerate(names):
            at = [i + wide * (k - (len(names) - 1) / 2) for i in range(len(found))]
            values = [of[name][side] for of in found.values()]
            ax.plot(at, values, label=name, **plots.style(k) | dict(ls="", ms=7))
        levels = [of[line][side] for of in found.values()]
        places = [range(len(found)), [i - 0.45 for i in range(len(found))]]
        ax.hlines(levels, places[1], [i + 0.45 for i in places[0]], "0.2", lw=1.5, label=line)
        ax.set_xticks(places[0], list(found))
        ax.set(title=title, yscale="log")
        ax.yaxis.set_minor_formatter("")
        best = {cloud: min(of, key=lambda n: of[n][side]) for cloud, of in found.items()}
        said.append(f"{title}: " + ", ".join(f"{b} on {cloud}" for cloud, b in best.items()))
    figure.axes[0].set_ylabel("distance / variance")
    figure.axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return f"The least distances, {'; '.join(said)}."


def searches(name: str, steps: int, beams=(1, 2, 4, 8, 16, 32)) -> dict[str, list]:
    """(beam, share of the points whose nearest row is found), with and without the term that keeps
    prefixes clusters."""
    x, found = points_of(name), {}
    for label, weight in (("without the term", 0.0), ("prefixes kept clusters", 1.0)):
        options = dict(hierarchy=weight, steps=steps, init="random", generator=_seeded())
        tt = tt_cloud(x, SHAPE, 4, **options).value
        best = distortions(x, rows(tt)) * (1 + 1e-9)
        hits = [tt_nearest(tt, x, beam)[1] <= best for beam in beams]
        found[label] = [(beam, float(hit.double().mean())) for beam, hit in zip(beams, hits)]
    return found


def distortions(x: Tensor, y: Tensor) -> Tensor:
    """Squared distance of each row of x to the nearest of y."""
    return (x - y[nearest(x, y)]).square().sum(1)


def draw_searches(figure: Figure, found: dict[str, list]) -> str:
    """Share of nearest rows found against the beam, and the share of rows looked at; a sentence."""
    ax = figure.subplots()
    for k, (name, points) in enumerate(found.items()):
        ax.plot(*zip(*points), label=name, **plots.style(k))
    beams = [beam for beam, _ in points]
    prefixes = math.prod(SHAPE[:-1])
    looked = [min(1, beam / prefixes) for beam in beams]
    ax.plot(beams, looked, color="0.4", lw=1, ls="--", label="rows looked at")
    ax.set(xscale="log", xlabel="beam", ylabel="share found", ylim=(0, 1.05))
    ax.set_xticks(beams, [str(beam) for beam in beams])
    ax.minorticks_off()
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    first = ", ".join(f"{name} {points[0][1]:.2f}" for name, points in found.items())
    return f"Share of the nearest rows found with a beam of {beams[0]}: {first}."


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


def low_rank_error(table: Tensor, numbers: int) -> float:
    """The relative error of the SVD with at most so many numbers."""
    w = LowRank.from_dense(table, max(1, numbers // sum(table.shape)))
    return float((w.to_dense() - table).norm() / table.norm())


def permuted(n: int, shape, *, rounds: int, encoder: bool, rank: int = 8) -> dict[str, dict]:
    """Errors of trains of word vectors, from the given order and from one of clusters, before and
    after a search, and of the SVD of as many numbers; by table."""
    tables = {"words": vocabulary().table[:n]}
    if encoder and (real := encoder_vocabulary(n)) is not None:
        tables["words of an encoder"] = real.table
    found = {}
    for name, x in tables.items():
        options = dict(max_iter=rounds + 1, generator=_seeded())
        given = tt_permute(x, shape, rank, order=torch.arange(n), **options)
        clustered = tt_permute(x, shape, rank, **options)
        found[name] = {
            "given order": given.history[0],
            "given, then sought": given.history[-1],
            "clusters": clustered.history[0],
            "clusters, then sought": clustered.history[-1],
            "low rank": low_rank_error(x, given.value.tt.numel),
        }
    return found


def draw_permuted(figure: Figure, found: dict[str, dict]) -> str:
    """Errors as marks, one group for each table; a sentence."""
    ax, names = figure.subplots(), list(next(iter(found.values())))
    for k, name in enumerate(names):
        at = [i + 0.16 * (k - 2) for i in range(len(found))]
        values = [of[name] for of in found.values()]
        ax.plot(at, values, label=name, **plots.style(k) | dict(ls="", ms=8))
    ax.axhline(1, color="0.4", lw=1, ls="--", label="zeros")
    ax.set_xticks(range(len(found)), list(found))
    ax.set(ylabel="relative error", xlim=(-0.6, len(found) - 0.4))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    best = ", ".join(f"{min(of, key=of.get)} for {name}" for name, of in found.items())
    return f"The least errors: {best}."


# ---------------------------------------------------------------------------------------- exercises


def _line(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


def _unchanged():
    x = vocabulary().table[:256]
    shuffled = x[torch.randperm(256, generator=torch.Generator().manual_seed(0))]
    a, b = cut_spectra(x), cut_spectra(shuffled)
    return sum(torch.allclose(a[cut], b[cut], rtol=1e-9) for cut in a)


wasserstein_line = Check(
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


def _columns(x, y, sort=True, mean=True):
    if sort:
        x, y = x.sort(0).values, y.sort(0).values
    return (x - y).square().mean(0) if mean else (x - y).square().sum(0)


wasserstein_columns = Check(
    function=True,
    cases=lambda: [gaussian((5, 3), (5, 3)), gaussian((8, 1), (8, 1)), gaussian((4, 6), (4, 6))],
    right=_columns,
    mistakes=(
        (
            lambda x, y: _columns(x, y, sort=False),
            "the points are matched in the given order: sort both first.",
        ),
        (lambda x, y: _columns(x, y, mean=False), "that is the sum; the mean is asked for."),
        (
            lambda x, y: _columns(x, y).sqrt(),
            "that is W_2 itself; its square is asked for.",
        ),
        (
            lambda x, y: _columns(x.sort(1).values, y.sort(1).values, sort=False),
            "each column is a separate line: sort along the rows' axis, 0.",
        ),
        (lambda x, y: _columns(x, y).mean(), "one number for each column is needed."),
    ),
    hint="x.sort(0).values and y.sort(0).values, then the mean of the squared differences over 0.",
    moral="A sort is all it takes: n log n, and a gradient goes through it.",
    forbids=((wasserstein, "`wasserstein` is what you are to build: sort the columns."),),
)

sliced_distance = Check(
    function=True,
    cases=lambda: [
        gaussian((5, 3), (5, 3), (3, 4)),
        gaussian((6, 2), (6, 2), (2, 7)),
        gaussian((4, 5), (4, 5), (5, 1)),
    ],
    right=lambda x, y, u: x.shape[1] * _columns(x @ u, y @ u).mean(),
    mistakes=(
        (
            lambda x, y, u: _columns(x @ u, y @ u).mean(),
            "times D is missing: one direction sees only its share of a shift.",
        ),
        (
            lambda x, y, u: x.shape[1] * _columns(x @ u, y @ u).sum(),
            "the mean over the directions is asked for, not the sum.",
        ),
        (
            lambda x, y, u: x.shape[1] * _columns(x @ u, y @ u, sort=False).mean(),
            "the projections have to be sorted, each direction by itself.",
        ),
        (
            lambda x, y, u: _columns(x, y).sum(),
            "those are the coordinates: project on the directions first.",
        ),
    ),
    hint="D times the mean of wasserstein_columns(x @ directions, y @ directions).",
    moral="No matching of n points in D dimensions, and yet it is zero only for equal clouds, if "
    "there are directions enough.",
    forbids=((sliced_wasserstein, "`sliced_wasserstein` is what you are to build."),),
)

chamfer_distance = Check(
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
    forbids=((chamfer, "`chamfer` is what you are to build: take the table of distances."),),
)


def _read_order(function, table, order, shape, rank):
    """How far the rows are from those of the train, in the order that a function returns."""
    found = returned(function, table, order, shape, rank)
    if found is None:
        return None
    needed = f"an order of the {len(table)} rows is needed, each of them once."
    try:
        found = torch.as_tensor(found).long()
    except (TypeError, ValueError, RuntimeError) as error:
        raise Unusable(needed) from error
    if found.shape != order.shape or sorted(found.tolist()) != sorted(order.tolist()):
        raise Unusable(needed)
    return _apart(table, order, shape, rank, found)


def _train_rows(table, order, shape, rank):
    return tt_svd(table[order].reshape(*shape, -1), rank).to_dense().reshape(table.shape)


def _apart(table, order, shape, rank, found):
    return (_train_rows(table, order, shape, rank) - table[found]).norm()


def _costs(table, order, shape, rank):
    return torch.cdist(_train_rows(table, order, shape, rank), table).square()


def _by(find):
    """The distance in the order that `find` makes of the costs."""
    return lambda *case: _apart(*case, find(_costs(*case), case[1]))


def _order_case(n, width, shape, rank):
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    return gaussian((n, width))[0], order, shape, rank


next_order = Check(
    function=True,
    read=_read_order,
    cases=lambda: [
        _order_case(12, 3, (3, 4), 2),
        _order_case(16, 5, (4, 4), 3),
        _order_case(8, 2, (2, 2, 2), 2),
    ],
    right=_by(lambda cost, order: assignment(cost)),
    mistakes=(
        (_by(lambda cost, order: order), "the order has not changed: find the assignment."),
        (
            _by(lambda cost, order: assignment(cost).argsort()),
            "that is the inverse: where each row of the table goes, not which one comes there.",
        ),
        (
            _by(lambda cost, order: assignment(cost[:, order])),
            "the answer counts within the old order: the rows of the costs are those of the table.",
        ),
    ),
    hint="the costs are torch.cdist(rows of the train, table).square(), and the assignment of "
    "them is the order.",
    moral="Two steps, each of which can only lower the error: the train for an order, the order "
    "for a train.",
    forbids=((tt_permute, "`tt_permute` is where this goes: do one round of it."),),
)

unchanged_cuts = Check(
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
    moral="What an order can save is between the digits of the row; between rows and columns "
    "it saves nothing.",
)


def _rounds(after=1):
    """The first number of rounds from the given order with a smaller error than clusters have."""
    bound = reordered("clusters", 8, after).history[-1]
    return next(r for r in range(11) if reordered("given order", 8, r).history[-1] < bound)


rounds_needed = Check(
    right=_rounds,
    mistakes=(
        (lambda: _rounds(after=0), "that is the bound of the clusters with 0 rounds, not with 1."),
        (lambda: _rounds() - 1, "there it is still above: look at the third digit."),
        (lambda: _rounds() + 1, "one round less is enough."),
    ),
    hint="read the last error of the clusters with rounds = 1, then that of the given order for 0, "
    "1, 2, ... rounds.",
    moral="A start from clusters saves rounds; and all of them end within a hundredth of each "
    "other.",
)
