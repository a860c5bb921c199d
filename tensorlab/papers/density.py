"""Densities of tables: held-out log-density, sliced total variation and seconds of trains, mixtures and kernels [Novikov2021].

The paper's POWER has four years of a household's meters; ours is a subset of ten weeks (`datasets.tabular("power")`), prepared in
the same way, so its numbers stand beside the printed ones under a name of their own.  They are compared with a mixture of full
Gaussians whose number of components is tuned on a held-out tenth.  Rows outside of a model's support have no logarithm: the mean
is over the others, and their share stands beside it.
"""

import functools
import math
import time

import torch
from torch import Tensor

from .. import datasets
from ..methods.density import TTDensity
from ..rng import rand, randn
from .table import Table, check_preset, run_rows

KEY = "Novikov2021"
TOYS = ("moons", "pinwheel", "checkerboard", "eight Gaussians")
POWER = "POWER, ten weeks"
KERNELS = (0.02, 0.04, 0.06, 0.08, 0.1, 0.14, 0.2, 0.3)
SIZES = {
    "quick": {"sets": TOYS[:2], "rows": 1500, "steps": (1, 6), "parts": (1, 4, 8, 16)},
    "full": {"sets": (*TOYS, POWER), "rows": 5000, "steps": (1, 3, 8), "parts": (1, 4, 8, 16, 32, 64)},
}
SETTINGS = {
    "toy": dict(rank=16, basis=40, noise=0.02),
    POWER: dict(rank=32, basis=128, batch=30_000, em_steps=30, noise=0.01),
}


def run(preset: str, *, resume: bool = True, progress: bool = True) -> Table:
    """Rows: data, method, steps; mean log-density, shares without one, sliced total variation of samples, seconds of the fit."""
    check_preset(KEY, preset)
    size = SIZES[preset]
    cases = [{"data": name, "method": method, "steps": steps} for name in size["sets"] for method, steps in _methods(name, size)]

    def measure(data, method, steps):
        x, z = _split(data, size["rows"])
        start = time.perf_counter()
        log, draw = fit(method, x, data, steps, size["parts"])
        seconds = time.perf_counter() - start
        log = log(z)
        outside, negative = float((log == -math.inf).double().mean()), float(log.isnan().double().mean())
        gap = sliced_tv(draw(len(z)), z, generator=torch.Generator().manual_seed(0))
        return {"log-likelihood": round(float(log[log.isfinite()].mean()), 4), "outside": round(outside, 6),
                "negative": round(negative, 6), "sliced TV": round(gap, 4), "seconds": round(seconds, 2)}  # fmt: skip

    settings = {"rows of a toy": size["rows"], "parts": size["parts"], "seed": 0}
    return run_rows(KEY, preset, cases, measure, settings=settings, resume=resume, progress=progress)


def _methods(name, size):
    yield from (("one Gaussian", 0), ("tuned mixture of Gaussians", 0))
    if name != POWER:
        yield ("tuned KDE", 0)
    yield from (("TTDE, squared", steps) for steps in ((0, 1) if name == POWER else size["steps"]))
    yield ("TTDE, linear", 20)


def fit(method: str, x: Tensor, data: str, steps: int = 0, parts=(1, 4, 8)):
    """A trained method as two functions: rows -> log-densities, and n -> samples."""
    if method.startswith("TTDE"):
        settings = dict(SETTINGS.get(data, SETTINGS["toy"]), model=method.split(", ")[1], steps=steps)
        if settings["model"] == "linear":
            settings |= {"rank": min(settings["rank"], 8)}
        model = TTDensity(**settings).fit(x)
        return model.score_samples, lambda n: model.sample(n, 0)
    from sklearn.mixture import GaussianMixture
    from sklearn.neighbors import KernelDensity

    cut, arrays = len(x) // 10, x.numpy()
    if method == "tuned KDE":
        scale = x.std(0).mean().item()
        fits = [KernelDensity(bandwidth=scale * h).fit(arrays[cut:]) for h in KERNELS]
        best = max(fits, key=lambda m: m.score(arrays[:cut]))
        best.fit(arrays)
        return lambda z: torch.as_tensor(best.score_samples(z.numpy())), lambda n: torch.as_tensor(best.sample(n, 0))
    parts = (1,) if method == "one Gaussian" else parts
    fits = [GaussianMixture(k, random_state=0, max_iter=200).fit(arrays[cut:]) for k in parts]
    best = max(fits, key=lambda m: m.score(arrays[:cut]))
    return lambda z: torch.as_tensor(best.score_samples(z.numpy())), lambda n: torch.as_tensor(best.sample(n)[0])


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
        return 2 * torch.stack([angle.cos() * x[:, 0] + angle.sin() * x[:, 1], angle.cos() * x[:, 1] - angle.sin() * x[:, 0]], 1)
    if name == "checkerboard":
        column, row = (4 * uniform(n)).floor(), 2 * (2 * uniform(n)).floor()
        return 2 * torch.stack([column + uniform(n), row + column % 2 + uniform(n)], 1) - 4
    if name == "eight Gaussians":
        angle = 2 * math.pi / 8 * (8 * uniform(n)).floor()
        return 2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.2 * normal(n, 2)
    raise ValueError(f"toy: needs one of {', '.join(TOYS)}, got {name!r}")


@functools.lru_cache(maxsize=2)
def power() -> tuple[Tensor, Tensor]:
    """The rows to learn from and those to be measured on: columns 1 and 3 dropped, noise of the meters' rounding added, a random
    tenth for the test, standardised by the rest, as is usual for POWER."""
    x, g = datasets.tabular("power").X, torch.Generator().manual_seed(0)
    x = x[torch.randperm(len(x), generator=g)][:, [0, 2, 4, 5, 6, 7]]
    x = x + x.new_tensor([0.001, 0.01, 1, 1, 1, 0]) * rand(*x.shape, generator=g, dtype=x.dtype)
    cut = len(x) // 10
    test, train = x[:cut], x[cut:]
    return (train - train.mean(0)) / train.std(0), (test - train.mean(0)) / train.std(0)


def _split(data, rows):
    if data == POWER:
        return power()
    g = torch.Generator().manual_seed(0)
    return toy(data, rows, generator=g), toy(data, rows, generator=g)


def sliced_tv(a: Tensor, b: Tensor, directions: int = 100, bins: int = 50, *, generator: torch.Generator | None = None) -> float:
    """Mean over random directions of the total variation between histograms of the projected rows of a and b.

        1/2 sum over bins |share of a - share of b|,     bins even over the range of both

    >>> sliced_tv(torch.zeros(5, 2), torch.zeros(5, 2) + 1, 3, generator=torch.Generator().manual_seed(0))
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
    """Log-density against the seconds of the fit, one curve for each set, the tuned mixture of Gaussians as a line; a sentence."""
    said = []
    measured = dict.fromkeys(row["data"] for row in table.rows if row.get("seconds") is not None)
    for name, colour in zip(measured, ("C0", "C1", "C2", "C3", "C4")):
        rows = [row for row in table.rows if row["data"] == name]
        points = sorted((row["seconds"], row["log-likelihood"]) for row in rows if row["method"] == "TTDE, squared")
        (other,) = (row["log-likelihood"] for row in rows if row["method"] == "tuned mixture of Gaussians")
        ax.plot(*zip(*points), "o-", color=colour, label=name)
        ax.axhline(other, color=colour, ls=":")
        said.append(f"{name} {points[-1][1]:.2f} (mixture of Gaussians {other:.2f})")
    ax.set(xlabel="seconds of the fit", ylabel="mean log-density", xscale="log")
    ax.legend()
    return f"After the longest fit: {', '.join(said)}."
