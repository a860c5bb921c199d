"""How far compressed layers move the outputs of a model: each alone, all together, and how certain
that is.

    d = mean |z - z_full|² / mean |z_full|²
    forecast = 2 (1 - prod over layers of (1 - d_layer / 2))

Vectors of one length move by at most 4, uncorrelated ones by 2: the product saturates as they do.
For classes d is the divergence of the probabilities, and the forecast the sum.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..arguments import check_batches
from ..layers.dense import in_eval
from ..rng import randint
from .weighted import plain_forward

OUTPUTS = ("vectors", "classes")
DRAWS = 1000  # of the bootstrap
FAR = 0.35  # a forecast that differs by more says so
ENOUGH = 500  # examples below which 20 % cannot be promised


@dataclass(frozen=True)
class Certificate:
    """alone: the change of the outputs from each layer by itself. forecast: of all of them, by
    the product (classes: the sum). measured: of all of them. ..._interval: 95 % of bootstrap
    samples of the examples, NaN for one example. changed: the share of other answers, for classes.
    doubts: where it is not to be trusted."""

    alone: dict[str, float]
    forecast: float
    forecast_interval: tuple[float, float]
    measured: float
    measured_interval: tuple[float, float]
    changed: float | None
    examples: int
    doubts: tuple[str, ...]

    def __str__(self):
        span = lambda pair: f"{pair[0]:.3g} to {pair[1]:.3g}"
        lines = [
            f"change of the outputs, {self.examples} examples: forecast {self.forecast:.3g} "
            f"({span(self.forecast_interval)}), measured {self.measured:.3g} "
            f"({span(self.measured_interval)})"
        ]
        if self.changed is not None:
            lines.append(f"answers that are others: {self.changed:.1%}")
        return "\n".join([*lines, *(f"not to be trusted: {why}" for why in self.doubts)])


@torch.no_grad()
def certify(
    model: nn.Module,
    made: dict[str, nn.Module],
    batches: Iterable,
    *,
    together: dict[str, nn.Module] | None = None,
    outputs: str = "vectors",
    forward: Callable | None = None,
    doubts: tuple[str, ...] = (),
    generator: torch.Generator | None = None,
) -> Certificate:
    """The change of a model's outputs when layers give way to others; the model is not changed.

    model: it runs in eval.
    made: {name: the layer that takes its place}, each measured alone for the forecast; where it is
        empty the forecast is 0.
    batches: an iterable of batches, read once.
    together: the layers that are measured all at once; None: those of `made`.
    outputs: what the model gives, "vectors" or "classes" (logits), with examples on the first axis.
    forward: (model, batch) -> outputs; None: as `calibrate` does it.
    doubts: sentences that the caller adds to those of the certificate.
    generator: draws the resamples; None: torch's global one.

    The model runs once for each layer of `made` and twice more on each batch.

    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False))
    >>> half = nn.Linear(2, 2, bias=False)
    >>> _ = half.weight.data.copy_(model[0].weight / 2)
    >>> round(certify(model, {"0": half}, [torch.ones(3, 2)]).measured, 3)
    0.25
    """
    run, sums = forward or plain_forward, {name: [] for name in (*made, "")}
    together, sizes, others = made if together is None else together, [], []
    with in_eval(model):
        for batch in check_batches("certify", batches):
            full = output_of("certify", run(model, batch))
            for name in made:
                z = exchanged(model, {name: made[name]}, lambda b=batch: run(model, b))
                sums[name].append(distances(z, full, outputs))
            z = exchanged(model, together, lambda b=batch: run(model, b))
            sums[""].append(distances(z, full, outputs))
            sizes.append(full.double().square().flatten(1).sum(1))
            others.append((z.argmax(-1) != full.argmax(-1)).double().reshape(len(z), -1).mean(1))
    each = {name: torch.cat(parts) for name, parts in sums.items()}
    size = torch.cat(sizes) if outputs == "vectors" else torch.ones_like(each[""])
    return _certificate(each, size, torch.cat(others), outputs, tuple(doubts), generator)


def _certificate(each, size, others, outputs, doubts, generator) -> Certificate:
    n = len(size)
    draws = randint(n, DRAWS, n, generator=generator).to(size.device)
    all_of = torch.arange(n, device=size.device)[None]
    share = lambda d, at: d[at].sum(1) / size[at].sum(1).clamp_min(1e-300)
    ones = [d for name, d in each.items() if name]

    def forecast(at):
        changes = torch.stack([share(d, at) for d in ones] or [torch.zeros(len(at))])
        if outputs == "classes":
            return changes.sum(0)
        return 2 * (1 - (1 - changes / 2).clamp_min(0).prod(0))

    def interval(values):
        low, high = torch.quantile(values, torch.tensor([0.025, 0.975]).to(values)).tolist()
        return (low, high) if n > 1 else (float("nan"), float("nan"))

    value, measured = float(forecast(all_of)), float(share(each[""], all_of))
    if n < ENOUGH:
        doubts += (f"{n} examples, where {ENOUGH} are needed",)
    if outputs == "vectors" and value > 0.5:
        doubts += (f"a forecast of {value:.2g}, where changes of layers no longer add up",)
    if each.keys() - {""} and abs(value - measured) > FAR * measured:
        doubts += (f"a forecast that is {value / max(measured, 1e-300):.2f} of what is measured",)
    return Certificate(
        {name: float(share(d, all_of)) for name, d in each.items() if name},
        value,
        interval(forecast(draws)),
        measured,
        interval(share(each[""], draws)),
        float(others.mean()) if outputs == "classes" else None,
        n,
        doubts,
    )


def output_of(who: str, z) -> Tensor:
    """The outputs; raises TypeError for anything but a tensor of examples."""
    if not isinstance(z, Tensor) or z.ndim < 2:
        got = f"shape {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
        raise TypeError(f"{who}: needs a forward that gives a tensor (examples, ...), got {got}")
    return z


def distances(z: Tensor, full: Tensor, outputs: str) -> Tensor:
    """The squared distance of each example, summed over its vectors; for classes the mean
    divergence of its answers."""
    z, full = z.double(), full.double()
    if outputs == "vectors":
        return (z - full).square().flatten(1).sum(1)
    p, q = full.log_softmax(-1), z.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).reshape(len(z), -1).mean(1)


def exchanged(model: nn.Module, made: dict[str, nn.Module], run: Callable) -> Tensor:
    """What `run` gives while other layers answer instead of some."""
    hooks = []

    def answer(new):
        return lambda layer, args, kwargs, y: new(*args, **kwargs)

    try:
        for name, new in made.items():
            layer = model.get_submodule(name)
            hooks.append(layer.register_forward_hook(answer(new), with_kwargs=True))
        return run()
    finally:
        for hook in hooks:
            hook.remove()
