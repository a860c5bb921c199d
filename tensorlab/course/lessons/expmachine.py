"""Lesson 21: classifiers with all interactions."""

import functools

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ... import plots
from ...formats.tt import TT, tt_svd
from ...methods.expmachine import ExponentialMachine, rank_one_inner
from ...papers.expmachine import auc
from ..checks import Check, Unusable, call, gaussian
from ..widgets import Explorer, choice, decimal, integer

D = 8  # features of the planted task


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
            rows=choice(400, (100, 200, 400, 800)),
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
        right.barh([0, -1], [ours, linear], color=plots.COLORS[:2])
        right.set(
            yticks=[0, -1],
            yticklabels=["machine", "linear"],
            xlim=(0.4, 1),
            xlabel="AUC on new rows",
        )
        return f"{seen}  AUC on new rows: machine {ours:.3f}, linear {linear:.3f}."


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
    g = gaussian((1, 2, 3), (3, 2, 3), (3, 2, 1), (3,), (1, 2, 2), (2, 2, 1), (2,))
    return [(list(g[:3]), g[3]), (list(g[4:6]), g[6])]


def _score(cores, x, first=lambda x: torch.ones_like(x)):
    return rank_one_inner(TT(cores), [torch.stack([first(v), v])[None] for v in x])[0]


machine_storage = Check(
    question="30 numeric features, a train of rank 8 (its ranks cut to what the features allow: 2, "
    "4, 8, ..., 8, 4, 2).  How many "
    "numbers hold the 2^30 coefficients?",
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

machine_score = Check(
    question="Write `score(cores, x)`: y(x) = <W, (1, x_0) o ... o (1, x_{d-1})> for one object.  "
    "cores: a list of tensors "
    "(r, 2, q), x: (d,); the result is one number.",
    function=True,
    read=lambda answer, *case: _one(call(answer, *case)),
    cases=_cases,
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
)

feature_order = Check(
    question="y = x0 x7 + x1 x6 + x2 x5 + x3 x4.  In which order do the features need the smallest "
    "largest rank?  Give a tuple "
    "such as (7, 6, 5, 4, 3, 2, 1, 0); `lesson.largest_rank(order)` tells the rank.",
    read=_read_order,
    right=lambda: largest_rank((0, 7, 1, 6, 2, 5, 3, 4)),
    mistakes=(),
    hint="a smaller rank is possible.  A cut through a pair costs a rank: put partners side by "
    "side.",
    moral="The order of the features matters to a train, and not to a CP.",
)


def _one(given):
    if given is not None and given.numel() != 1:
        raise Unusable(f"a score is one number, this has the shape {tuple(given.shape)}.")
    return given if given is None else given.reshape(())
