"""Densities of tables: held-out log-density, sliced total variation and CPU seconds of trains,
mixtures and kernels [Novikov2021].

The paper's POWER has four years of a household's meters; ours is a subset of ten weeks
(`datasets.tabular("power")`), prepared in the same way, so its numbers are printed beside
the others under a separate name. They are compared with mixtures of full Gaussians, a row for each
number of components; the one to compare with is the likeliest on a held-out tenth ("validation").
The meters count in whole numbers, so their densities jump: the trains take the distribution
function of each variable first (`cells`). Their settings for POWER were chosen on a tenth of the
rows to learn from. Rows outside of a model's support, and rows where a linear model is negative,
have no logarithm: the mean is over the others, and their shares are beside it.
"""

import functools
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .. import datasets
from ..methods.density import TTDensity
from ..rng import rand, randn
from .program import Program
from .table import Table

TOYS = ("moons", "pinwheel", "checkerboard", "eight Gaussians")
POWER = "POWER, ten weeks"
KERNELS = (0.02, 0.04, 0.06, 0.08, 0.1, 0.14, 0.2, 0.3)
SIZES = {
    "quick": {
        "sets": TOYS[:2],
        "rows": 1500,
        "steps": (1, 6),
        "parts": (1, 4, 8, 16),
        "power rows": 0,
        "power parts": (),
    },
    "full": {
        "sets": (*TOYS, POWER),
        "rows": 5000,
        "steps": (1, 3, 8),
        "parts": (1, 4, 8, 16, 32),
        "power rows": 50_000,
        "power parts": (16, 32, 64, 128),
    },
}
SETTINGS = {
    "toy": dict(rank=16, basis=40, noise=0.02),
    POWER: dict(rank=24, basis=32, cells=512, batch=100_000, em_steps=10),
}


class Fitted(NamedTuple):
    """A trained density: rows -> log-densities, n -> samples, mean log-density of its held-out
    tenth, what was chosen by that."""

    log: Callable[[Tensor], Tensor]
    draw: Callable[[int], Tensor]
    validation: float | None = None
    chosen: str | None = None


def cases(size: dict) -> list[dict]:
    """Data, method and steps."""
    return [
        {"data": name, "method": method, "steps": steps}
        for name in size["sets"]
        for method, steps in _methods(name, size)
    ]


def measure(size: dict, data: str, method: str, steps: int) -> dict:
    """Mean log-density, that of the validation rows and what they chose, shares without one, sliced
    total variation of samples, seconds of the processor for the fit."""
    import sklearn.mixture, sklearn.neighbors  # noqa: E401, F401, I001  before the clock starts

    x, z = _split(data, size)
    start = time.process_time()  # of the processor: what else runs on the machine does not count
    model = fit(method, x, data, steps, size["parts"])
    seconds = time.process_time() - start
    log = model.log(z)
    gap = sliced_tv(model.draw(len(z)), z, generator=torch.Generator().manual_seed(0))
    return {
        "log-likelihood": round(float(log[log.isfinite()].mean()), 4),
        "validation": None if model.validation is None else round(model.validation, 4),
        "chosen": model.chosen,
        "outside": round(float((log == -math.inf).double().mean()), 6),
        "negative": round(float(log.isnan().double().mean()), 6),
        "sliced TV": round(gap, 4),
        "CPU seconds": round(seconds, 2),
    }


def settings(size: dict) -> dict:
    return {
        "rows of a toy": size["rows"],
        "rows of POWER": size["power rows"],
        "parts": size["parts"],
        "seed": 0,
        "train on a toy": SETTINGS["toy"],
        "train on POWER": SETTINGS[POWER],
    }


def _methods(name, size):
    yield ("one Gaussian", 0)
    if name != POWER:
        yield from (("tuned mixture of Gaussians", 0), ("tuned KDE", 0))
    yield from (
        ("TTDE, squared", steps) for steps in ((0, 1, 2) if name == POWER else size["steps"])
    )
    yield ("TTDE, linear", 20)
    if name == POWER:
        yield from ((f"{parts} Gaussians", 0) for parts in size["power parts"])


def fit(method: str, x: Tensor, data: str, steps: int = 0, parts=(1, 4, 8)) -> Fitted:
    """A trained method: "TTDE, squared", "TTDE, linear", "tuned KDE", "tuned mixture of Gaussians",
    "one" or "<n> Gaussians".

    Each keeps a tenth of x to choose by: trains among their steps, kernels a bandwidth, mixtures a
    number of components.
    """
    if method.startswith("TTDE"):
        return _trains(method.split(", ")[1], x, data, steps)
    if method == "tuned KDE":
        return _kernels(x)
    if method != "tuned mixture of Gaussians":
        number = method.split()[0]
        parts = (1 if number == "one" else int(number),)
    return _mixtures(x, parts)


def _trains(model: str, x: Tensor, data: str, steps: int) -> Fitted:
    """A TTDensity, "squared" or "linear"."""
    settings = dict(SETTINGS.get(data, SETTINGS["toy"]), model=model, steps=steps, background=0)
    if model == "linear":
        settings |= {"rank": min(settings["rank"], 8)}
    density = TTDensity(**settings).fit(x)
    draw = lambda n: density.sample(n, 0)
    if model == "linear":
        return Fitted(density.score_samples, draw)
    step, _, value = max(density.history_, key=lambda row: row[2])
    value -= float(x.std(0, correction=0).log().sum())
    return Fitted(density.score_samples, draw, value, f"step {step}")


def _kernels(x: Tensor) -> Fitted:
    """A Gaussian at each point, of the bandwidth in KERNELS that fits the tenth best."""
    from sklearn.neighbors import KernelDensity

    cut, arrays, scale = len(x) // 10, x.numpy(), x.std(0).mean().item()
    fitted = lambda h, points: KernelDensity(bandwidth=scale * h).fit(points)
    held = {h: fitted(h, arrays[cut:]).score(arrays[:cut]) / cut for h in KERNELS}
    h = max(held, key=held.get)
    best = fitted(h, arrays)
    score = lambda z: torch.as_tensor(best.score_samples(z.numpy()))
    return Fitted(score, lambda n: torch.as_tensor(best.sample(n, 0)), held[h], f"bandwidth {h}")


def _mixtures(x: Tensor, parts) -> Fitted:
    """A mixture of as many Gaussians, one of `parts`, as fit the tenth best."""
    from sklearn.mixture import GaussianMixture

    cut, arrays, held = len(x) // 10, x.numpy(), {}
    for k in parts:
        model = GaussianMixture(k, random_state=0, max_iter=200).fit(arrays[cut:])
        held[model] = float(model.score(arrays[:cut]))
    best = max(held, key=held.get)
    score = lambda z: torch.as_tensor(best.score_samples(z.numpy()))
    draw = lambda n: torch.as_tensor(best.sample(n)[0])
    return Fitted(score, draw, held[best], f"{best.n_components} components")


def toy(name: str, n: int, *, generator: torch.Generator | None = None) -> Tensor:
    """n points of a density in the plane: "moons", "pinwheel", "checkerboard" or "eight Gaussians".

    >>> toy("checkerboard", 1000, generator=torch.Generator().manual_seed(0)).abs().max() <= 4
    tensor(True)
    """
    uniform = lambda *shape: rand(*shape, generator=generator, dtype=torch.float64)
    normal = lambda *shape: randn(*shape, generator=generator, dtype=torch.float64)
    if name == "moons":
        angle, upper = math.pi * uniform(n), uniform(n) < 0.5
        x = torch.stack([angle.cos(), angle.sin()], 1)
        return torch.where(upper[:, None], x, x.new_tensor([1.0, 0.5]) - x) + 0.05 * normal(n, 2)
    if name == "pinwheel":
        arm = (5 * uniform(n)).floor()
        x = torch.stack([1 + 0.3 * normal(n), 0.1 * normal(n)], 1)
        angle = 2 * math.pi / 5 * arm + 0.25 * x[:, 0].exp()
        return 2 * torch.stack(
            [
                angle.cos() * x[:, 0] + angle.sin() * x[:, 1],
                angle.cos() * x[:, 1] - angle.sin() * x[:, 0],
            ],
            1,
        )
    if name == "checkerboard":
        column, row = (4 * uniform(n)).floor(), 2 * (2 * uniform(n)).floor()
        return 2 * torch.stack([column + uniform(n), row + column % 2 + uniform(n)], 1) - 4
    if name == "eight Gaussians":
        angle = 2 * math.pi / 8 * (8 * uniform(n)).floor()
        return 2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.2 * normal(n, 2)
    raise ValueError(f"toy: needs one of {', '.join(TOYS)}, got {name!r}")


@functools.lru_cache(maxsize=2)
def power() -> tuple[Tensor, Tensor]:
    """The rows to learn from and those to be measured on: columns 1 and 3 dropped, noise of the
    meters' rounding added, a random tenth for the test, standardized by the rest, as is usual for
    POWER."""
    x, g = datasets.tabular("power").X, torch.Generator().manual_seed(0)
    x = x[torch.randperm(len(x), generator=g)][:, [0, 2, 4, 5, 6, 7]]
    x = x + x.new_tensor([0.001, 0.01, 1, 1, 1, 0]) * rand(*x.shape, generator=g, dtype=x.dtype)
    cut = len(x) // 10
    test, train = x[:cut], x[cut:]
    return (train - train.mean(0)) / train.std(0), (test - train.mean(0)) / train.std(0)


def _split(data, size):
    if data == POWER:
        train, test = power()
        return train[: size["power rows"]], test
    g = torch.Generator().manual_seed(0)
    return toy(data, size["rows"], generator=g), toy(data, size["rows"], generator=g)


def sliced_tv(
    a: Tensor,
    b: Tensor,
    directions: int = 100,
    bins: int = 50,
    *,
    generator: torch.Generator | None = None,
) -> float:
    """Mean over random directions of the total variation between histograms of the projected rows
    of a and b.

        1/2 sum over bins |share of a - share of b|,     bins even over the range of both

    >>> a, g = torch.zeros(5, 2), torch.Generator().manual_seed(0)
    >>> sliced_tv(a, a + 1, 3, generator=g)
    1.0
    """
    d = randn(a.shape[1], directions, generator=generator, dtype=a.dtype, device=a.device)
    d = d / d.norm(dim=0)
    gaps = []
    for p, q in zip((a @ d).T, (b @ d).T):
        low, high = float(min(p.min(), q.min())), float(max(p.max(), q.max()))
        shares = [torch.histc(z, bins, low, high) / len(z) for z in (p, q)]
        gaps.append((shares[0] - shares[1]).abs().sum() / 2)
    return round(float(torch.stack(gaps).mean()), 12)


def draw(table: Table, ax) -> str:
    """Log-density against the seconds of the fit, one curve for each set; the mixture of Gaussians
    that is likeliest on the validation rows as a line; a sentence."""
    said = []
    measured = dict.fromkeys(
        row["data"] for row in table.rows if row.get("CPU seconds") is not None
    )
    for name, color in zip(measured, ("C0", "C1", "C2", "C3", "C4")):
        rows = [row for row in table.rows if row["data"] == name]
        points = sorted(
            (row["CPU seconds"], row["log-likelihood"])
            for row in rows
            if row["method"] == "TTDE, squared"
        )
        mixtures = [row for row in rows if row["method"].endswith("Gaussians")]
        other = max(mixtures, key=lambda row: row["validation"])["log-likelihood"]
        ax.plot(*zip(*points), "o-", color=color, label=name)
        ax.axhline(other, color=color, ls=":")
        said.append(f"{name} {points[-1][1]:.2f} (mixture of Gaussians {other:.2f})")
    ax.set(xlabel="CPU seconds of the fit", ylabel="mean log-density", xscale="log")
    ax.legend()
    return f"After the longest fit: {', '.join(said)}."


PROGRAM = Program("Novikov2021", __doc__, SIZES, cases, measure, settings, draw, needs=("sklearn",))
