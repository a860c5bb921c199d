"""Lesson 20: densities as trains on B-splines."""

import functools

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ... import plots
from ...methods.density import TTDensity
from ...papers import density as paper
from ...papers.density import toy
from ...papers.table import measured, printed
from ..checks import Check, first_rank, gaussian
from ..lab import fast
from ..widgets import Explorer, choice, decimal, integer

NAMES = ("x0", "x1", "x2", "x3")


def table(n: int = 3000) -> Tensor:
    """Four variables: the two of the moons, x2 that tells them apart with noise, and x3 = x0 x1
    with noise; standardized.

    >>> table(100).shape
    torch.Size([100, 4])
    """
    g = torch.Generator().manual_seed(0)
    x = toy("moons", n, generator=g)
    noise = torch.randn(n, 2, generator=g, dtype=torch.float64)
    upper = (x.square().sum(1).sqrt() - 1).abs() < (x - x.new_tensor([1.0, 0.5])).square().sum(
        1
    ).sqrt().sub(1).abs()
    x = torch.cat(
        [
            x,
            (upper.double() + 0.25 * noise[:, 0])[:, None],
            (x.prod(1) + 0.15 * noise[:, 1])[:, None],
        ],
        1,
    )
    return (x - x.mean(0)) / x.std(0)


@functools.cache
def model(steps: int) -> TTDensity:
    """A density of `table()`."""
    return TTDensity(rank=8, basis=20, steps=steps, noise=0.03).fit(table())


class ConditionExplorer(Explorer):
    """A density that can be asked: two variables on the axes, a third one known, the density of the
    two and fresh samples."""

    figsize = (9, 3.4)

    def __init__(self, steps: int | None = None):
        self.model = model(fast(1, full=6) if steps is None else steps)
        super().__init__(
            known=choice("x2", NAMES),
            value=decimal(0.8, -2.0, 2.0, step=0.05, label="value of the known"),
            across=choice("x0", ("x0", "x1", "x3")),
            up=choice("x1", ("x1", "x3")),
            samples=integer(150, 0, 1000),
            seed=integer(0, 0, 99),
        )

    def limits(self, known: str, across: str, **others) -> dict:
        """Three different variables: what is known is on no axis, and the axes differ."""
        free = tuple(name for name in NAMES if name != known)
        across = across if across in free else free[0]
        return {"across": free, "up": tuple(name for name in free if name != across)}

    def draw(
        self,
        figure: Figure,
        known: str,
        value: float,
        across: str,
        up: str,
        samples: int,
        seed: int,
    ) -> str:
        a, b, c = (NAMES.index(name) for name in (across, up, known))
        left, right = figure.subplots(1, 2, width_ratios=(4, 3))
        x, y, p = density_grid(self.model, a, b, {c: value})
        drawn = self.model.sample(samples, seed, given={c: value})[:, [a, b]] if samples else None
        seen = plots.density_map(left, x, y, p, drawn)
        left.set(xlabel=across, ylabel=up, title=f"given {known} = {value:g}")
        lines = {
            f"given {known}": line_of(self.model, a, {c: value})[1],
            "of all": line_of(self.model, a, {})[1],
        }
        means = plots.density_lines(right, x, lines)
        right.set(xlabel=across)
        return f"{seen}  {means}"


def density_grid(
    model: TTDensity, a: int, b: int, given: dict, n: int = 60
) -> tuple[Tensor, Tensor, Tensor]:
    """Grids of two variables over their support, and their density there (n, n), the first along
    the columns."""
    inner = torch.linspace(1e-6, 1 - 1e-6, n, dtype=torch.float64)
    x, y = (low + (high - low) * inner for low, high in model.support_[[a, b]])
    points = torch.cartesian_prod(y, x).flip(1)
    return x, y, model.score_samples(points, dims=(a, b), given=given).exp().reshape(n, n)


def line_of(model: TTDensity, a: int, given: dict, n: int = 60) -> tuple[Tensor, Tensor]:
    """A grid of one variable over its support, and its density there."""
    low, high = model.support_[a]
    x = low + (high - low) * torch.linspace(1e-6, 1 - 1e-6, n, dtype=torch.float64)
    return x, model.score_samples(x[:, None], dims=[a], given=given).exp()


def conditional_mean(model: TTDensity, a: int, given: dict) -> float:
    """The mean of a variable when others are known, as the picture says it."""
    x, p = line_of(model, a, given)
    return float(torch.trapezoid(p * x, x) / torch.trapezoid(p, x))


def draw_counted(ax: Axes, model: TTDensity, near: Tensor, value: float) -> str:
    """The density of x1 given x2, and a histogram of x1 in the rows that are near."""
    x, p = line_of(model, 1, {2: value}, 120)
    label = f"{len(near)} rows with x2 near {value:g}"
    ax.hist(near.numpy(), 20, density=True, color=plots.COLORS[5], label=label)
    ax.plot(x, p, color=plots.COLORS[1], label=f"model, given x2 = {value:g}")
    ax.plot(*line_of(model, 1, {}, 120), "--", color="0.4", label="model, of all")
    ax.set(xlabel="x1", ylabel="density")
    ax.legend()
    k = int(p.argmax())
    return f"Given x2 the density of x1 is highest at {float(x[k]):.2g}, {float(p[k]):.2g}."


# -- recorded

METHODS = {
    "one Gaussian": "one Gaussian",
    "mixture": "tuned mixture of Gaussians",
    "kernels": "tuned KDE",
    "squared": "TTDE, squared",
    "linear": "TTDE, linear",
}


def toys() -> dict[str, dict[str, tuple[float, float]]]:
    """By data and method: the recorded mean log-density, and the share of rows without one; of
    trains after their last step.

    >>> toys()["moons"]["kernels"]
    (-0.3292, 0.0)
    """
    found = {}
    for row in measured(paper.PROGRAM.key).rows:  # later steps come later
        for name, method in METHODS.items():
            if row["data"] in paper.TOYS and row["method"] == method:
                value = row["log-likelihood"], row["negative"] + row["outside"]
                found.setdefault(row["data"], {})[name] = value
    return found


def draw_toys(axes, found: dict) -> str:
    """Mean log-densities less that of the better rival, a mixture or kernels, a panel for each
    toy; hatched where rows have none."""
    said = []
    for ax, (data, values) in zip(axes, found.items()):
        base = max(values["mixture"][0], values["kernels"][0])
        names = [name for name in values if name != "one Gaussian"]
        for k, name in enumerate(names):
            lacks, own = values[name][1] > 0, name in ("squared", "linear")
            color = plots.COLORS[2 if own else 0]
            ax.bar(k, values[name][0] - base, color=color, hatch="//" if lacks else None)
        ax.axhline(0, color="0.4", lw=0.8)
        ax.set_xticks(range(len(names)), names, rotation=60)
        ax.set_title(data)
        best = max(names, key=lambda name: values[name][0])
        said.append(f"{data} {best} {values[best][0]:.2f}")
    axes[0].set_ylabel("log-density above\nthe better rival's")
    return f"Highest mean: {', '.join(said)}; hatched where some rows have no logarithm."


def power() -> tuple[dict[str, dict], dict[str, float]]:
    """By method: the recorded row of POWER, ten weeks, and the printed means, four years."""
    ours = {r["method"]: r for r in measured(paper.PROGRAM.key).where(data=paper.POWER)}
    theirs = {r["method"]: r["log-likelihood"] for r in printed(paper.PROGRAM.key).rows}
    return ours, theirs


def draw_power(figure: Figure, ours: dict[str, dict], theirs: dict[str, float]) -> str:
    """Ours and the printed ones on an axis each."""
    left, right = figure.subplots(1, 2)
    for k, (name, row) in enumerate(ours.items()):
        lacks, color = row["negative"] > 0, plots.COLORS[2 if "TTDE" in name else 0]
        left.barh(k, row["log-likelihood"], color=color, hatch="//" if lacks else None)
    left.set_yticks(range(len(ours)), ours)
    right.plot(list(theirs.values()), range(len(theirs)), "D", mfc="none", mec="black", ms=6)
    right.set_yticks(range(len(theirs)), theirs)
    for ax, title in ((left, "ten weeks, ours"), (right, "four years, printed")):
        ax.axvline(0, color="0.4", lw=0.8)
        ax.set(xlabel="mean log-density", xlim=(-8.5, 2.2), title=title)
        ax.invert_yaxis()
    best = max(ours, key=lambda name: ours[name]["log-likelihood"])
    lacks = [name for name, row in ours.items() if row["negative"] > 0]
    return f"Highest, {best}: {ours[best]['log-likelihood']:.2f}; hatched is {' and '.join(lacks)}."


def draw_ranks(ax: Axes, by_rank: dict[int, float], levels: dict[str, float]) -> str:
    """Mean log-density of trains against their rank, and what others reach as lines."""
    ax.plot(*zip(*by_rank.items()), label="train", **plots.style(0))
    for (name, value), line in zip(levels.items(), (":", "--")):
        ax.axhline(value, color="0.4", lw=1.2, ls=line, label=name)
    ax.set(xlabel="rank", ylabel="mean log-density", xticks=list(by_rank))
    ax.legend()
    best = max(by_rank, key=by_rank.get)
    said = ", ".join(f"{name} {value:.2f}" for name, value in levels.items())
    return f"The best train has {by_rank[best]:.2f}, at rank {best}; {said}."


# -- exercises


def _step(core, gram, state):
    return torch.einsum("aib,ij,bd,cjd->ac", core, gram, state, core)


def _known(core, b):
    return torch.einsum("rms,m->rs", core, b)


def _one():
    return torch.ones(1, 1, dtype=torch.float64)


def _mass(cores, grams, step=_step):
    state = _one()
    for core, gram in zip(reversed(cores), reversed(grams)):
        state = step(core, gram, state)
    return state.sum()


def _conditional(cores, grams, seen, b, rest=True, given=True):
    k, state, v = len(seen), _one(), _one()
    if rest:
        for core, gram in zip(reversed(cores[k + 1 :]), reversed(grams[k + 1 :])):
            state = _step(core, gram, state)
    else:
        state = torch.eye(cores[k].shape[2], dtype=torch.float64)
    for core, values in zip(cores, seen):
        v = v @ _known(core, values)
    w = v @ _known(cores[k], b)
    top = (w @ state @ w.T)[0, 0]
    return top / (
        (v @ _step(cores[k], grams[k], state) @ v.T)[0, 0] if given else _mass(cores, grams)
    )


def _gram(m, seed):
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(m, m, generator=g, dtype=torch.float64)
    return root @ root.T / m


def _train(d, m, r, seed=0):
    """Cores of ranks r that do not grow or vanish, and their Gram matrices."""
    g, ranks = torch.Generator().manual_seed(seed), [1, *[r] * (d - 1), 1]
    draw = lambda a, b: torch.randn(a, m, b, generator=g, dtype=torch.float64) / (a * m) ** 0.5
    return [draw(a, b) for a, b in zip(ranks, ranks[1:])], [_gram(m, k) for k in range(d)]


def _steps():
    g = gaussian((3, 4, 2), (2, 2), (2, 5, 3), (3, 3))
    return [(g[0], _gram(4, 0), g[1] @ g[1].T), (g[2], _gram(5, 1), g[3] @ g[3].T)]


def _conditions():
    b = gaussian(*[(4,)] * 12)
    return [
        (*_train(4, 4, 3, 1), list(b[:2]), b[2]),
        (*_train(3, 4, 2, 2), [], b[0]),
        (*_train(30, 4, 3, 3), list(b[:5]), b[6]),
    ]


def _root_rank(bound, n=200, correlation=0.9):
    """The smallest rank of a truncated SVD of q = sqrt(p) within a relative error, for p a Gaussian
    in the plane."""
    x = torch.linspace(-7, 7, n, dtype=torch.float64)
    p = (
        -(x[:, None].square() + x.square() - 2 * correlation * x[:, None] * x)
        / (2 * (1 - correlation**2))
    ).exp()
    s = torch.linalg.svdvals(p.sqrt())
    tail = s.square().flip(0).cumsum(0).flip(0).sqrt() / s.norm()
    return first_rank(tail[1:].tolist(), bound)


def _most_moved() -> int:
    """The variable whose mean moves most when x2 goes from -1 to 1."""
    mean = lambda a, value: conditional_mean(model(fast(1, full=6)), a, {2: value})
    return max((0, 1, 3), key=lambda a: abs(mean(a, 1.0) - mean(a, -1.0)))


products = Check(
    cases=lambda: [(6, 2, 32)],
    right=lambda d, degree, m: (degree + 1) ** d,
    mistakes=(
        (
            lambda d, degree, m: degree**d,
            "a spline reaches over one interval more than its degree.",
        ),
        (
            lambda d, degree, m: (degree + 1) * d,
            "those are the functions; each of one variable meets each of the others.",
        ),
        (
            lambda d, degree, m: m**d,
            "those are all products; most splines are zero at a given number.",
        ),
        (lambda d, degree, m: m * d, "those are the functions stored for all variables."),
    ),
    hint="count the splines of one variable that are not zero at one number, then the ways to "
    "choose one for each variable.",
    moral="The train sums them in 6 products of small matrices, each from 3 of its 32 slices.",
)

known = Check(
    function=True,
    cases=lambda: [gaussian((3, 4, 2), (4,)), gaussian((2, 5, 3), (5,))],
    right=_known,
    mistakes=(
        (
            lambda core, b: core[:, int(b.argmax())],
            "that is one slice; each slice counts with the value of its spline.",
        ),
        (lambda core, b: core.sum(1), "the values of the splines are left out."),
        (lambda core, b: _known(core, b).T, "the ranks have changed places."),
        (lambda core, b: _known(core, b.square()), "q is linear in the splines: no squares yet."),
    ),
    hint="the sum over i of b[i] * core[:, i].",
    moral="A variable that is known is one small matrix.",
)

behind = Check(
    function=True,
    cases=_steps,
    right=_step,
    mistakes=(
        (
            lambda core, gram, state: _step(core, torch.diag(gram.diagonal()), state),
            "only i = j is summed; neighboring splines overlap, so D is a band.",
        ),
        (
            lambda core, gram, state: torch.einsum(
                "aib,i,bd,cjd,j->ac", core, gram.sum(1), state, core, gram.sum(1)
            ),
            "that is the square of an integral, not the integral of a square.",
        ),
        (
            lambda core, gram, state: torch.einsum("aib,ij,cjb->ac", core, gram, core),
            "the state S of the variables behind is left out.",
        ),
        (
            lambda core, gram, state: _step(core, torch.eye(len(gram)).to(gram), state),
            "the splines are not orthonormal; their integrals D_ij belong in the sum.",
        ),
    ),
    hint="`torch.einsum` with four factors does it: core, gram, state, core; which letters are "
    "summed, and which stay?",
    moral="A variable that is not asked about is one small matrix as well.",
    forbids=(),
)

mass = Check(
    function=True,
    cases=lambda: [_train(3, 4, 2, 4), _train(30, 4, 3, 5)],
    largest=lambda cores, grams: 4096,
    right=_mass,
    mistakes=(
        (
            lambda cores, grams: _mass(
                cores, grams, lambda c, d, s: _step(c, torch.eye(len(d)).to(d), s)
            ),
            "that is the sum of the squared coefficients; the integrals D of the splines are "
            "missing.",
        ),
        (
            lambda cores, grams: _mass(cores, grams).sqrt(),
            "that is the norm of q; Z is the integral of its square.",
        ),
    ),
    hint="a state of one 1, and a `behind` for each core from the last to the first.",
    moral="d such steps give the normalization of m^d functions exactly: no sampling and no bound.",
)

conditional = Check(
    function=True,
    cases=_conditions,
    largest=lambda *case: 4096,
    right=_conditional,
    mistakes=(
        (
            lambda *case: _conditional(*case, rest=False),
            "the variables behind are integrated: their state is not the identity.",
        ),
        (
            lambda *case: _conditional(*case, given=False),
            "that is the joint density of what is seen and x_k: divide by the density of what is "
            "seen.",
        ),
        (
            lambda cores, grams, seen, b: _conditional(cores, grams, [], b) if seen else None,
            "what is seen is left out, or the wrong core is used: k is len(seen).",
        ),
        (
            lambda *case: _conditional(*case).sqrt(),
            "that is |q|; a density is its square.",
        ),
    ),
    hint="v = product of known(core, values) over what is seen; S = all behind k; w = v @ "
    "known(cores[k], b); the answer is w S wᵀ over v behind(cores[k], D, S) vᵀ.",
    moral="Two chains of small matrices: this is the number that the picture at the top shows, "
    "point by point.",
)

root_rank = Check(
    right=lambda: _root_rank(0.01),
    mistakes=(
        (lambda: _root_rank(0.1), "that is enough for an error of a tenth."),
        (lambda: _root_rank(0.001), "that is what an error of a thousandth takes."),
        (lambda: 2, "the exponent x0 x1 has a small rank; its exponential has not."),
        (
            lambda: float("inf"),
            "the singular values fall geometrically, so finitely many are enough.",
        ),
    ),
    hint="fill a 200 by 200 grid on [-7, 7]^2 with q, take its singular values, and look how many "
    "leave a tail of 1 % of the norm.",
    moral="The singular values fall like powers of (1 - sqrt(1 - c^2)) / c: correlation costs "
    "rank.",
)

most_moved = Check(
    right=_most_moved,
    mistakes=(
        (lambda: 0, "x0 moves as well, another one by more: compare the means at both ends of x2."),
        (lambda: 2, "x2 is what is known."),
        (lambda: 3, "x3 = x0 x1 hardly moves: its mean is nearly the same on both moons."),
    ),
    hint="put each variable across, and read its mean at both ends of x2.",
    moral="x2 tells on which moon a point is, and the moons differ most in their height.",
)
