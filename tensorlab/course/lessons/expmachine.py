"""Lesson 21: classifiers with all interactions."""

import functools

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ... import datasets, plots
from ...formats.tt import TT, tt_svd
from ...methods.expmachine import ExponentialMachine, rank_one_inner
from ...papers import expmachine as paper
from ...papers.expmachine import auc
from ...papers.table import measured, printed
from ..checks import Check, Unusable, call, gaussian, returned, tensors
from ..widgets import Explorer, choice, decimal, integer

D = 8  # features of the planted task
ROWS = (100, 200, 400, 800)
WAYS = {"riemannian": "Riemannian", "cores": "core by core", "adam": "Adam"}


def planted(order: int, seed: int) -> list[tuple[int, ...]]:
    """Three random sets of features of sizes 1, 2 and `order`.

    >>> [len(s) for s in planted(3, 0)]
    [1, 2, 3]
    """
    g = torch.Generator().manual_seed(seed)
    return [tuple(sorted(torch.randperm(D, generator=g)[:size].tolist())) for size in (1, 2, order)]


def corners(n: int, sets, flipped: float, seed: int) -> tuple[Tensor, Tensor]:
    """Corners of the cube {-1, 1}^8 and the signs of a sum of the products over the sets, a share
    of them flipped."""
    g = torch.Generator().manual_seed(1000 + seed)
    x = torch.randint(2, (n, D), generator=g).double() * 2 - 1
    y = sum(w * x[:, list(s)].prod(1) for w, s in zip((0.6, -0.8, 1.0), sets)) > 0
    return x, (y ^ (torch.rand(n, generator=g) < flipped)).long()


@functools.lru_cache(maxsize=64)
def machines(rows: int, rank: int, order: int, flipped: float, seed: int):
    """A machine trained core by core on the planted task, its AUC on new rows, and that of the best
    linear model."""
    sets = planted(order, seed)
    x, y = corners(rows, sets, flipped, seed)
    z, t = corners(2000, sets, 0.0, seed + 500)
    machine = ExponentialMachine(
        rank=rank, method="cores", steps=4, ridge=3e-3, random_state=seed
    ).fit(x, y)
    slopes = torch.linalg.lstsq(x, 2 * y[:, None].double() - 1).solution[:, 0]
    return machine, auc(machine.decision_function(z), t), auc(z @ slopes, t)


class InteractionExplorer(Explorer):
    """The sets of features with the largest coefficients, beside those that were planted."""

    figsize = (9, 3.4)

    def __init__(self):
        super().__init__(
            rows=choice(400, ROWS),
            rank=integer(5, 2, 10),
            order=integer(3, 2, 4, label="largest planted set"),
            flipped=decimal(0.05, 0.0, 0.3, step=0.01, label="share of flipped classes"),
            seed=integer(0, 0, 20),
        )

    def draw(
        self, figure: Figure, rows: int, rank: int, order: int, flipped: float, seed: int
    ) -> str:
        machine, ours, linear = machines(rows, rank, order, flipped, seed)
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        seen = plots.interactions(left, machine.strongest(order, 10), planted(order, seed))
        right.barh([0, -1], [ours, linear], color=[plots.COLORS[2], "0.6"], height=0.5)
        right.axvline(0.5, color="0.4", lw=1, ls="--")
        right.set(
            yticks=[0, -1],
            yticklabels=["machine", "linear"],
            xlim=(0.4, 1),
            ylim=(-1.6, 0.6),
            xlabel="AUC on new rows; guessing 0.5",
        )
        return f"{seen}  AUC on new rows: machine {ours:.3f}, linear {linear:.3f}."


# -- pictures


def draw_losses(ax: Axes, curves: dict[str, list[tuple[float, float]]], linear: float) -> str:
    """Losses on the rows learned from against seconds, and that of the linear model as a line."""
    for k, (name, points) in enumerate(curves.items()):
        seconds, losses = zip(*((max(s, 1e-3), loss) for s, loss in points))
        ax.loglog(seconds, losses, label=WAYS[name], **plots.style(k, len(points)))
    ax.axhline(linear, color="0.4", lw=1, ls="--", label="logistic regression")
    ticks = (0.1, 0.2, 0.3, 0.5, 0.7)
    ax.set_yticks(ticks, map(str, ticks))
    ax.minorticks_off()
    ax.set(xlabel="seconds of this run", ylabel="loss")
    ax.legend()
    ends = (f"{WAYS[name]} {points[-1][1]:.3f}" for name, points in curves.items())
    return f"Losses at the end: {', '.join(ends)}; logistic regression {linear:.3f}."


def draw_formats(ax: Axes, found: dict[str, list[tuple[int, float]]], rivals: dict) -> str:
    """AUC against stored numbers by format, and what others reach as lines."""
    for k, (name, points) in enumerate(found.items()):
        ax.plot(*zip(*sorted(points)), label=name, **plots.style(k))
    for (name, value), line in zip(rivals.items(), ("--", ":")):
        ax.axhline(value, color="0.4", lw=1.2, ls=line, label=name)
    ax.set(xlabel="stored numbers", ylabel="AUC on new rows", ylim=(0.45, 1.02))
    ax.legend(ncols=2)
    said = (f"{name} {max(v for _, v in points):.3f}" for name, points in found.items())
    return f"Largest AUC: {', '.join(said)}."


def draw_auc(ax: Axes, fits: dict[str, dict]) -> str:
    """AUC by method as bars, with the recovery where there is one; guessing is a line."""
    for k, fit in enumerate(fits.values()):
        own = "recovery" in fit
        ax.barh(k, fit["AUC"], color=plots.COLORS[2 if own else 0])
        note = f"{fit['AUC']:.3f}" + (f", recovery {fit['recovery']:.2f}" if own else "")
        ax.text(fit["AUC"] + 0.005, k, note, va="center", fontsize=8.5)
    ax.axvline(0.5, color="0.4", lw=1, ls="--")
    ax.set_yticks(range(len(fits)), fits)
    ax.set(xlabel="AUC on new rows; guessing 0.5", xlim=(0.45, 1.25))
    ax.set_xticks([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    ax.invert_yaxis()
    best = max(fits, key=lambda name: fits[name]["AUC"])
    return f"Largest AUC: {best}, {fits[best]['AUC']:.3f}."


def recorded() -> tuple[dict[str, float], dict[str, float]]:
    """AUC on the synthetic task by method: recorded, and printed in the paper.

    >>> recorded()[1]["ExM rank 8"]
    0.75
    """
    both = (table(paper.PROGRAM.key).where(data=paper.SYNTHETIC) for table in (measured, printed))
    ours, theirs = ({row["method"]: row["AUC"] for row in rows} for rows in both)
    return ours, theirs


def draw_recorded(ax: Axes, ours: dict[str, float], theirs: dict[str, float]) -> str:
    """Recorded AUC as bars, printed ones as diamonds."""
    names = list(dict.fromkeys([*theirs, *ours]))
    for k, name in enumerate(names):
        if name in ours:
            label = "recorded" if k == 0 else "recorded, ExM" if name == "ExM rank 8" else None
            ax.barh(k, ours[name], color=plots.COLORS[2 if "ExM" in name else 0], label=label)
        if name in theirs:
            label = "printed" if k == 0 else None
            ax.plot(theirs[name], k, "D", mfc="none", mec="black", ms=6, label=label)
    ax.axvline(0.5, color="0.4", lw=1, ls="--")
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="AUC on new rows; guessing 0.5", xlim=(0.45, 1.02))
    ax.invert_yaxis()
    ax.legend()
    best = [max(values, key=values.get) for values in (ours, theirs)]
    return (
        f"Largest AUC: recorded {best[0]} {ours[best[0]]:.3f}, printed {best[1]} "
        f"{theirs[best[1]]:.2f}."
    )


def tumors(rows: tuple[int, ...], splits: int) -> dict[str, list[tuple[int, list[float]]]]:
    """% right on the rest of the breast cancer table, by method, rows learned from and split."""
    x, y = tuple(datasets.breast_cancer())[:2]
    x, found = (x - x.mean(0)) / x.std(0), {}
    methods = {paper.LOGISTIC: None}
    methods |= {f"rank {r}": dict(rank=r, method="cores", steps=3, ridge=1e-2) for r in (2, 8)}
    for name, settings in methods.items():
        for n in rows:
            right = []
            for seed in range(splits):
                order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
                train, test = order[:n], order[n:]
                fit = paper.fit(name, x[train], y[train], x[test], y[test], settings)
                right.append(100 * fit["accuracy"])
            found.setdefault(name, []).append((n, right))
    return found


# -- exercises


def nested_pairs(d: int = 8) -> Tensor:
    """The tensor W (2, ..., 2) of x0 x7 + x1 x6 + x2 x5 + x3 x4.

    >>> nested_pairs().sum()
    tensor(4., dtype=torch.float64)
    """
    w = torch.zeros((2,) * d, dtype=torch.float64)
    for k in range(d // 2):
        w[tuple(int(j in (k, d - 1 - k)) for j in range(d))] = 1
    return w


def largest_rank(order) -> int:
    """The largest rank of the train of `nested_pairs()` with its features in this order."""
    return max(tt_svd(nested_pairs().permute(order), rtol=1e-10).ranks)


def _read_order(answer, *_):
    try:
        order = tuple(int(k) for k in answer)
    except (TypeError, ValueError) as error:
        raise Unusable(
            "an order of the features is needed, such as (7, 6, 5, 4, 3, 2, 1, 0)."
        ) from error
    if sorted(order) != list(range(8)):
        raise Unusable(f"each of the features 0 to 7 is needed once, this is {order}.")
    return torch.tensor(float(largest_rank(order)), dtype=torch.float64)


def _cases():
    g = gaussian((1, 2, 3), (3, 2, 3), (3, 2, 1), (3,), (30,))
    return [(list(g[:3]), g[3]), (_train(30, 3), g[4])]


def _train(d, r, seed=0):
    """Cores of rank r whose products neither grow nor vanish."""
    g, ranks = torch.Generator().manual_seed(seed), [1, *[r] * (d - 1), 1]
    draw = lambda a, b: torch.randn(a, 2, b, generator=g, dtype=torch.float64) / a**0.5
    return [draw(a, b) for a, b in zip(ranks, ranks[1:])]


def _score(cores, x, first=lambda x: torch.ones_like(x)):
    return rank_one_inner(TT(cores), [torch.stack([first(v), v])[None] for v in x])[0]


def _one(given):
    if given is not None and given.numel() != 1:
        raise Unusable(f"a score is one number, this has the shape {tuple(given.shape)}.")
    return given if given is None else given.reshape(())


def _entry(cores, chosen, slice_=lambda k, chosen: int(k in chosen)):
    v = torch.ones(1, 1, dtype=torch.float64)
    for k, core in enumerate(cores):
        v = v @ core[:, slice_(k, chosen)]
    return v[0, 0]


def _read_linear(function, b, w):
    """Scores of a few objects, and the largest rank below them."""
    cores = returned(function, b, w)
    if cores is None:
        return None
    if not isinstance(cores, (list, tuple)) or len(cores) != len(w):
        raise Unusable(f"a list of {len(w)} cores is needed, this is a {type(cores).__name__}.")
    cores = tensors(cores)
    left = [1, *(core.shape[-1] for core in cores)]
    fit = all(c.ndim == 3 and c.shape[:2] == (r, 2) for c, r in zip(cores, left))
    if not fit or left[-1] != 1:
        shapes = ", ".join(str(tuple(core.shape)) for core in cores)
        raise Unusable(f"shapes such as (1, 2, 2), (2, 2, 2), (2, 2, 1) are needed, not {shapes}.")
    return _linear_seen(lambda x: _score(list(cores), x), len(w), max(left))


def _linear_seen(score, d, rank=2):
    """Scores of some objects, the rank behind them."""
    objects = [torch.zeros(d, dtype=torch.float64), *gaussian(*[(d,)] * 4)]
    return torch.stack([*(score(x) for x in objects), torch.tensor(float(rank)).double()])


def _design(cores, x, k, before=True, after=True, first=True):
    v = z = torch.ones(len(x), 1, dtype=x.dtype)
    if before:
        for j in range(k):
            v = v @ cores[j][:, 0] + x[:, [j]] * (v @ cores[j][:, 1])
    else:
        v = v.expand(-1, cores[k].shape[0])
    if after:
        for j in reversed(range(k + 1, len(cores))):
            z = z @ cores[j][:, 0].T + x[:, [j]] * (z @ cores[j][:, 1].T)
    else:
        z = z.expand(-1, cores[k].shape[2])
    phi = torch.stack([torch.full_like(x[:, k], float(first)), x[:, k]], 1)
    return torch.einsum("na,ni,nb->naib", v, phi, z).flatten(1)


def _designs():
    x, z = gaussian((7, 4), (5, 12))
    return [(_train(4, 3, 1), x, 1), (_train(4, 2, 2), x, 0), (_train(12, 3, 3), z, 11)]


def _update(cores, x, y, k, ridge):
    a = _design(cores, x, k)
    normal = a.T @ a + ridge * torch.eye(a.shape[1], dtype=a.dtype)
    return torch.linalg.solve(normal, a.T @ y).reshape(cores[k].shape)


def _updates():
    x, y = gaussian((60, 4), (60,))
    return [(_train(4, 2, 1), x, y, 1, 0.5), (_train(4, 3, 2), x, y, 3, 2.0)]


@functools.cache
def _rows_needed(least: float = 0.95) -> int:
    """The least number of rows with which the explorer's first machine has such an AUC."""
    return next(rows for rows in ROWS if machines(rows, 5, 3, 0.05, 0)[1] >= least)


machine_storage = Check(
    cases=lambda: [(30, 8)],
    right=lambda d, r: TT.randn((2,) * d, r, generator=torch.Generator().manual_seed(0)).numel,
    mistakes=(
        (lambda d, r: 2**d, "those are the coefficients; the train is there to avoid them."),
        (
            lambda d, r: d * 2 * r * r,
            "the cores at the ends are smaller: the ranks there are 1, 2, 4.",
        ),
        (lambda d, r: d * 2 * r, "that is a CP of this rank; a core has a rank on each side."),
        (
            lambda d, r: (
                TT.randn((2,) * d, r, generator=torch.Generator().manual_seed(0)).numel // 2
            ),
            "each feature has two slices, one for being in the product and one for not.",
        ),
    ),
    hint="a core holds r_left * 2 * r_right numbers; write the ranks down from both ends and add.",
    moral="Linear in the number of features, where the interactions are exponential in it.",
)

score = Check(
    function=True,
    read=lambda answer, *case: _one(call(answer, *case)),
    cases=_cases,
    largest=lambda *case: 4096,
    right=_score,
    mistakes=(
        (
            lambda cores, x: _score(cores, x, torch.zeros_like),
            "the slice G[0] is left out: a feature may also stay out of a product.",
        ),
        (lambda cores, x: _score(cores, x.flip(0)), "the features are taken in the wrong order."),
        (
            lambda cores, x: _score(cores, torch.ones_like(x)),
            "x is not used: slice G[1] belongs to the number x_k.",
        ),
        (
            lambda cores, x: sum((core[:, 0] + v * core[:, 1]).sum() for core, v in zip(cores, x)),
            "the matrices are multiplied, not added: that is where the products of features come "
            "from.",
        ),
    ),
    hint="begin with a row of one 1 and multiply it by the matrix G[0] + x_k G[1] of each core.",
    moral="One small product for each feature; the state is that of a recurrent network without a "
    "nonlinearity.",
    forbids=((rank_one_inner, "`rank_one_inner` is what you are to build."),),
)

coefficient = Check(
    function=True,
    read=lambda answer, *case: _one(call(answer, *case)),
    cases=lambda: [
        (_train(4, 3, 4), (0, 2)),
        (_train(4, 3, 4), ()),
        (_train(30, 3, 5), (3, 11, 29)),
    ],
    largest=lambda *case: 4096,
    right=_entry,
    mistakes=(
        (
            lambda cores, chosen: _entry(cores, chosen, lambda k, s: int(k not in s)),
            "the slices have changed places: G[1] is for the features in the product.",
        ),
        (
            lambda cores, chosen: _score(
                cores, torch.tensor([float(k in chosen) for k in range(len(cores))]).double()
            ),
            "that is the score where the chosen features are 1 and others 0: it adds the "
            "coefficients of all subsets.",
        ),
    ),
    hint="v = v @ core[:, int(k in chosen)] for k = 0 ... d - 1.",
    moral="Any of 2^d coefficients is d small products: this is what the bars at the top show.",
)

linear_train = Check(
    function=True,
    read=_read_linear,
    cases=lambda: [(0.7, w) for w in gaussian((5,), (3,))] + [(-1.5, gaussian((12,))[0])],
    right=lambda b, w: _linear_seen(lambda x: b + w @ x, len(w)),
    mistakes=(
        (
            lambda b, w: _linear_seen(lambda x: w @ x, len(w)),
            "the score of zeros should be b: let the sum begin with it, in the first core.",
        ),
        (
            lambda b, w: _linear_seen(lambda x: b + x.sum(), len(w)),
            "the weights w_k are not used.",
        ),
        (
            lambda b, w: _linear_seen(lambda x: b + len(w) * w @ x, len(w)),
            "each term is counted d times.",
        ),
        (
            lambda b, w: _linear_seen(lambda x: b * (1 + w * x).prod(), len(w), 1),
            "that is b times the product of all 1 + w_k x_k, of rank 1: it has all interactions.",
        ),
        (
            lambda b, w: _linear_seen(lambda x: len(w) * b + w @ x, len(w)),
            "b is added once for each feature.",
        ),
        (
            lambda b, w: _linear_seen(lambda x: b + w @ x, len(w), 3),
            "the scores are right, and rank 2 is enough for them.",
        ),
    ),
    hint="v_k = (1, b + the first k terms); G[0] is the identity, G[1] has w_k on the right of its "
    "first row.",
    moral="2^d coefficients of which d + 1 are not zero, in a train of rank 2: the start of all "
    "three ways to learn.",
)

design = Check(
    function=True,
    cases=_designs,
    largest=lambda *case: 4096,
    right=_design,
    mistakes=(
        (
            lambda *case: _design(*case, before=False),
            "what comes before core k is left out: v is carried from the left.",
        ),
        (
            lambda *case: _design(*case, after=False),
            "what comes after core k is left out: z is carried from the right.",
        ),
        (
            lambda *case: _design(*case, first=False),
            "slice G[0] belongs to the number 1: phi is (1, x_k).",
        ),
        (
            lambda *case: (
                _design(*case)
                .reshape(len(case[1]), len(case[0][case[2]]), 2, -1)
                .transpose(1, 3)
                .flatten(1)
                if case[2] == 1
                else None
            ),
            "the ranks have changed places: the columns are those of core.flatten(), left rank "
            "first.",
        ),
    ),
    hint="v (n, r) from the left, phi = (1, x_k), z (n, q) from the right; all products of their "
    "entries, flattened in the order of the core.",
    moral="One core of a machine with 2^d features is a linear model of 2 r q.",
)

update = Check(
    function=True,
    cases=_updates,
    right=_update,
    mistakes=(
        (
            lambda cores, x, y, k, ridge: _update(cores, x, y, k, 0.0),
            "ridge is left out: add it to the diagonal of Aᵀ A.",
        ),
        (
            lambda cores, x, y, k, ridge: _update(cores, x, y, k, ridge * len(x)),
            "ridge is counted once for each row: the question has the sum over rows, not the mean.",
        ),
        (
            lambda cores, x, y, k, ridge: _update(cores, x, y, k, ridge).flatten(),
            "that is g; give it the shape of the core.",
        ),
        (
            lambda cores, x, y, k, ridge: cores[k] + _update(cores, x, y, k, ridge),
            "the solution is the new core itself, not what is added to it.",
        ),
    ),
    hint="solve (Aᵀ A + ridge I) g = Aᵀ y, and reshape g.",
    moral="With a logistic loss in the place of squares each step is a Newton step, and that is "
    'method="cores".',
)

feature_order = Check(
    read=_read_order,
    right=lambda: largest_rank((0, 7, 1, 6, 2, 5, 3, 4)),
    mistakes=(),
    hint="a smaller rank is possible.  A cut through a pair costs a rank: put partners side by "
    "side.",
    moral="The order of the features matters to a train, and not to a CP.",
)

rows_needed = Check(
    right=_rows_needed,
    mistakes=(
        (lambda: 2 * _rows_needed(), "that is enough, and half of it is too."),
        (lambda: _rows_needed() / 2, "with so few the AUC of the machine is below 0.95."),
    ),
    hint="reset, then choose the rows from the list, and read the AUC of the machine in the "
    "sentence.",
    moral="There are 256 corners: the train says something of those that it has never seen.",
)
