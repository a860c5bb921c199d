"""Lesson 06: a train of a function, from few of its values."""

import functools
import math

import torch
from matplotlib.figure import Figure

from ... import plots
from ...formats.tt import TT, tt_svd
from ...formats.tt_cross import tt_cross, tt_cross_steps
from ..checks import Check, Unusable, gaussian, number, returned, tensors
from ..widgets import Player, choice, integer

NAMES = ("1 / norm", "ripples", "narrow peak", "jump")


def example_function(name: str, d: int, n: int):
    """A function of d coordinates in (0, 1] on n points each, as a function of index tensors
    (batch, d).

    >>> example_function("jump", 2, 4)(torch.tensor([[0, 0], [3, 3]]))
    tensor([0., 1.], dtype=torch.float64)
    """
    grid = torch.arange(1, n + 1, dtype=torch.float64) / n
    of = {
        "1 / norm": lambda x: x.square().sum(1).rsqrt(),
        "ripples": lambda x: (6 * x.square().sum(1).sqrt()).cos(),
        "narrow peak": lambda x: 1 / (1e-3 + (x - 0.3).square().sum(1)),
        "jump": lambda x: (x.square().sum(1) > 0.4 * x.shape[1]).double(),
    }[name]
    return lambda index: of(grid[index])


class CrossExplorer(Player):
    """Cross approximation sweep by sweep: which fibers it reads, what is still wrong, and what it
    has cost."""

    figsize = (9, 3.1)
    grids = {2: 60, 6: 32}
    budget = 60_000
    begin = 4

    def __init__(self, name: str = "1 / norm", modes: int = 2):
        super().__init__(
            function=choice(name, NAMES),
            modes=choice(modes, tuple(self.grids)),
            digits=integer(6, 1, 10, label="rtol = 10^-digits"),
            bond=integer(1, 1, 5),
            seed=integer(0, 0, 99),
        )

    def limits(self, modes: int, **others) -> dict:
        """A bond that is there."""
        return {"bond": (1, modes - 1)}

    def steps(self, function: str, modes: int, digits: int, bond: int, seed: int):
        """States: the fit, and (evaluations, held-out error) after each sweep so far."""
        f, n = example_function(function, modes, self.grids[modes]), self.grids[modes]
        g, path = torch.Generator().manual_seed(seed), []
        budget = min(self.budget, n**modes)
        for fit in tt_cross_steps(f, (n,) * modes, rtol=10.0**-digits, budget=budget, generator=g):
            path.append((fit.evaluations, fit.error))
            yield fit, list(path)

    def draw(
        self, figure: Figure, state, function: str, modes: int, digits: int, bond: int, seed: int
    ) -> str:
        fit, path = state
        n, k = self.grids[modes], bond - 1
        f = example_function(function, modes, n)
        left, right = fit.pivots[k]
        at = torch.cat([left[0], right[0]]).repeat(
            n * n, 1
        )  # the plane of modes k, k + 1 through the first pivot
        at[:, k : k + 2] = torch.cartesian_prod(torch.arange(n), torch.arange(n))
        x = f(at).reshape(n, n)
        missed = (fit.value.at(at).reshape(n, n) - x).abs().clamp_min(1e-16).log10()
        axes = figure.subplots(1, 3, width_ratios=(4, 4, 3))
        seen = plots.crosses(
            axes[0],
            x,
            left[:, -1].tolist(),
            right[:, 0].tolist(),
            f"{function}, modes {k} and {k + 1}",
        )
        plots.crosses(
            axes[1],
            missed,
            [],
            [],
            f"log10 |error|, from {float(missed.min()):.0f} to {float(missed.max()):.0f}",
        )
        plots.error_against_work(axes[2], {"held-out": path}, 10.0**-digits)
        ranks = ", ".join(map(str, fit.value.ranks))
        state = "converged" if fit.converged else "not converged"
        return (
            f"Sweep {len(path) - 1}: {fit.evaluations} of {n**modes} entries read, ranks {ranks}, "
            f"held-out error "
            f"{fit.error:.1e}, {state}. {seen}"
        )


def searched(f, shape, *, rtol: float, budget: int):
    """The fit of `tt_cross`, and (evaluations, held-out error) after each of its sweeps."""
    path, g = [], torch.Generator().manual_seed(0)
    for fit in tt_cross_steps(f, shape, rtol=rtol, budget=budget, generator=g):
        path.append((fit.evaluations, fit.error))
    return fit, path


def quadratic(f, n: int, d: int, count: int, fresh: torch.Tensor) -> float:
    """Relative error at fresh points of the quadratic polynomial that fits f best at so many random
    points of a grid of n points in each of d coordinates."""
    g = torch.Generator().manual_seed(2)
    seen = torch.randint(n, (count, d), generator=g)
    pairs = torch.combinations(torch.arange(d), with_replacement=True).T

    def features(index):
        x = (index + 1).double() / n
        return torch.cat([torch.ones_like(x[:, :1]), x, x[:, pairs[0]] * x[:, pairs[1]]], 1)

    weights = torch.linalg.lstsq(features(seen), f(seen)[:, None]).solution[:, 0]
    return float((features(fresh) @ weights - f(fresh)).norm() / f(fresh).norm())


def random_cross(x: torch.Tensor, r: int, runs: int = 20) -> float:
    """The median relative error of a cross through r random rows and columns of a matrix; blocks
    met by chance are ill-conditioned, and each is inverted down to the level that suits it best.

    >>> random_cross(torch.eye(3, dtype=torch.float64), 3) < 1e-15
    True
    """
    g, errors = torch.Generator().manual_seed(0), []
    for _ in range(runs):
        rows, columns = (torch.randperm(m, generator=g)[:r] for m in x.shape)
        inverses = (torch.linalg.pinv(x[rows][:, columns], rtol=10.0**-k) for k in range(1, 17))
        found = (x[:, columns] @ inverse @ x[rows] for inverse in inverses)
        errors.append(min(float((y - x).norm() / x.norm()) for y in found))
    return sorted(errors)[runs // 2]


# ---------------------------------------------------------------------------------------- exercises


def _cross(x, i, j):
    """The rank-one cross of a matrix through the entry (i, j)."""
    return torch.outer(x[:, j], x[i]) / x[i, j]


def _fiber_count(shape, ranks, ends=1):
    r = (ends, *ranks, ends)
    return sum(r[k] * n * r[k + 1] for k, n in enumerate(shape))


def _largest(rest):
    return divmod(int(rest.abs().argmax()), rest.shape[1])


def _pivots(x, r, pick=_largest, peel=True):
    """Rows and columns of r pivots, (2, r)."""
    found, rest = [], x.clone()
    for _ in range(r):
        i, j = pick(rest)
        found.append((i, j))
        if peel:
            rest = rest - _cross(rest, i, j)
        else:
            rest[i, j] = 0
    return torch.tensor(found, dtype=torch.float64).T


def _read_pivots(function, x, r):
    found = returned(function, x, r)
    if found is None:
        return None
    if not (isinstance(found, (tuple, list)) and len(found) == 2):
        raise Unusable("two lists are needed, of rows and of columns.")
    rows, columns = tensors(found)
    if rows.shape != (r,) or columns.shape != (r,):
        raise Unusable(f"each of the two lists should have {r} numbers.")
    return torch.stack([rows, columns])


def _sides(x, r):
    rows, columns = _pivots(x, r).long()
    block = x[rows][:, columns]
    return torch.linalg.solve(block, x[:, columns], left=False), x[rows]


def _both(left, right):
    """One tensor of two matrices."""
    return torch.cat([left.flatten(), right.flatten()])


def _read_sides(function, x, r):
    found = returned(function, x, r)
    if found is None:
        return None
    if not (isinstance(found, (tuple, list)) and len(found) == 2):
        raise Unusable("two matrices are needed, of shapes (m, r) and (r, n).")
    left, right = tensors(found)
    shapes, wanted = (tuple(left.shape), tuple(right.shape)), ((len(x), r), (r, x.shape[1]))
    if shapes != wanted:
        raise Unusable(f"matrices of the shapes {wanted} are needed, these have {shapes}.")
    return _both(left, right)


def _wrong_sides(change):
    """The two sides with something else in place of the inverse of the block."""

    def wrong(x, r):
        rows, columns = _pivots(x, r).long()
        return _both(change(x[:, columns], x[rows][:, columns]), x[rows])

    return wrong


def _read_train(function, x, r):
    cores = returned(function, x, r)
    if cores is None:
        return None
    if not isinstance(cores, (list, tuple)) or len(cores) != x.ndim:
        raise Unusable(f"a list of {x.ndim} cores is needed, one for each mode.")
    try:
        tt = TT(tensors(cores))
    except (ValueError, TypeError) as error:
        raise Unusable(f"the cores do not make a train: {error}") from error
    if max(tt.ranks) > r:
        raise Unusable(f"ranks of {r} are asked for, these are {tt.ranks}.")
    return tt.to_dense()


def _train_of(x, r, sides=_sides):
    cores, rest = [], x.reshape(1, -1)
    for n in x.shape[:-1]:
        rank = len(rest)
        left, rest = sides(rest.reshape(rank * n, -1), r)
        cores.append(left.reshape(rank, n, r))
    return TT((*cores, rest[:, :, None])).to_dense()


def _unsolved(x, r):
    """The two sides without the inverse of the block."""
    rows, columns = _pivots(x, r).long()
    return x[:, columns], x[rows]


def _random_train(shape, r, seed=0):
    g = torch.Generator().manual_seed(seed)
    return TT.randn(shape, r, generator=g, dtype=torch.float64).to_dense()


pivots = Check(
    function=True,
    read=_read_pivots,
    # In the first case each mistake gives other pivots.
    cases=lambda: [(gaussian((6, 6))[0], 4), (gaussian((5, 8))[0], 3), (gaussian((7, 3))[0], 1)],
    right=_pivots,
    mistakes=(
        (
            lambda x, r: _pivots(x, r, peel=False),
            "these are the largest entries of x; after each, its cross is taken away.",
        ),
        (
            lambda x, r: _pivots(x, r, lambda rest: divmod(int(rest.argmax()), rest.shape[1])),
            "the largest in absolute value is sought: a negative entry may be a pivot too.",
        ),
        (
            lambda x, r: _pivots(x, r).flip(0),
            "rows and columns are exchanged: the rows come first.",
        ),
    ),
    hint="look for the largest absolute value in rest, take its cross away, and go on.",
    moral="Gaussian elimination with complete pivoting, read as approximation.",
)

sides = Check(
    function=True,
    read=_read_sides,
    cases=lambda: [(gaussian((5, 5))[0], 3), (gaussian((4, 7))[0], 2), (gaussian((6, 3))[0], 3)],
    right=lambda x, r: _both(*_sides(x, r)),
    mistakes=(
        (
            _wrong_sides(lambda columns, block: columns),
            "the block in which they cross is not divided away: where rows and columns meet it "
            "counts twice.",
        ),
        (
            _wrong_sides(lambda columns, block: columns @ torch.linalg.inv(block).T),
            "the inverse of the block is transposed.",
        ),
        (
            _wrong_sides(lambda columns, block: columns / block.diagonal()),
            "that divides by the pivots only; the whole block has to be inverted.",
        ),
        (
            _wrong_sides(lambda columns, block: columns @ block),
            "the block is multiplied; its inverse is needed.",
        ),
    ),
    hint="x[:, columns] times the inverse of x[rows][:, columns], and x[rows].",
    moral="The left one is the identity in the rows I: the product agrees with x there.",
)

cross_train = Check(
    function=True,
    read=_read_train,
    cases=lambda: [
        (_random_train((3, 4, 5), 2), 2),
        (_random_train((3, 3, 3, 3), 3), 3),
        (_random_train((6, 5), 4), 4),
    ],
    right=lambda x, r: x,
    mistakes=(
        (
            lambda x, r: _train_of(x, r, _unsolved),
            "the blocks in which rows and columns cross are not divided away: use `sides`.",
        ),
    ),
    hint="it is TT-SVD with `sides` in place of the SVD: the rows that stay are the rest.",
    moral="Of a train of these ranks nothing is lost, and the cores hold rows and columns of x.",
    forbids=(
        (tt_svd, "`tt_svd` needs all entries: use your `sides`."),
        (tt_cross, "`tt_cross` is what you are to build: use your `sides`."),
    ),
)

cross_evaluations = Check(
    cases=lambda: [((32, 32, 32, 32), (5, 5, 5))],
    right=lambda shape, ranks: TT(gaussian(*zip((1, *ranks), shape, (*ranks, 1)))).numel,
    mistakes=(
        (
            lambda shape, ranks: math.prod(shape),
            "that is the whole tensor: a cross reads fibers only.",
        ),
        (
            lambda shape, ranks: _fiber_count(shape, ranks, ends=5),
            "nothing is left of the first mode or right of the last.",
        ),
        (
            lambda shape, ranks: sum(n * r for n, r in zip(shape, (*ranks, 1))),
            "T_k has a choice on its left and one on its right.",
        ),
        (lambda shape, ranks: sum(shape), "that is one fiber in each mode: rank 1."),
    ),
    hint="T_k = f(I_k, :, J_{k+1}) has r_k choices on the left and r_{k+1} on the right of all "
    "values of index k.",
    moral="d n r^2 evaluations, where the tensor has n^d entries.",
)

cross_rank_one = Check(
    function=True,
    cases=lambda: [(gaussian((4, 4))[0], 1, 2), (gaussian((5, 3))[0], 4, 0)],
    right=_cross,
    mistakes=(
        (
            lambda x, i, j: torch.outer(x[:, j], x[i]),
            "right up to a factor: at the crossing it must give x[i, j], not its square.",
        ),
        (
            lambda x, i, j: (
                torch.outer(x[i], x[:, j]) / x[i, j] if x.shape[0] == x.shape[1] else None
            ),
            "this is transposed: the column runs along the rows of the result.",
        ),
        (
            lambda x, i, j: x - _cross(x, i, j),
            "that is what is left over; the cross itself is asked for.",
        ),
    ),
    hint="column times row, divided by the entry in which they meet.",
    moral="Subtract it, look for the largest entry that is left, and go on: that is cross "
    "approximation.",
)


@functools.cache
def _evaluations(name, digits):
    """Evaluations to the tolerance for six modes, averaged over seeds."""
    explorer = CrossExplorer.__new__(CrossExplorer)
    runs = [list(explorer.steps(name, 6, digits, 1, seed))[-1][0] for seed in range(2)]
    return sum(fit.evaluations if fit.converged else math.inf for fit in runs) / len(runs)


def _read_name(answer, *_):
    if answer not in NAMES:
        raise Unusable(f"the name of one of the functions is needed: {', '.join(NAMES)}.")
    return number(NAMES.index(answer))


hard_function = Check(
    read=_read_name,
    right=lambda: next(k for k, name in enumerate(NAMES) if _evaluations(name, 3) == math.inf),
    mistakes=(),
    hint="let the explorer play each of them to its end and read the last words of the first "
    "sentence.",
    moral="Few entries suffice where the ranks are small; an edge that no axis follows has none "
    "such.",
)
