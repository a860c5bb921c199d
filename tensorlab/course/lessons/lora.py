"""Lesson 16: how few numbers change what a trained network does."""

import copy
import functools
from collections.abc import Iterator

import torch
from matplotlib.figure import Figure
from torch import nn

from ... import plots
from ...formats.lowrank import LowRank
from ...linalg import singular_values
from ...methods.dlrt import DLRT
from ...methods.lora import KINDS, LoRALinear, add_lora
from ...models.mlp import MLP
from ...models.training import accuracy, train
from ..checks import Check, first_rank, gaussian
from ..digits import digits
from ..widgets import Player, choice, integer

LAYERS = ["layers.0", "layers.1"]
RATES = {
    "all weights": 1e-3,
    "lora": 1e-2,
    "rslora": 5e-3,
    "dora": 1e-2,
    "lokr": 1e-2,
    "dlrt": 1e-2,
}
EXAMPLES = 300  # of the new task


@functools.cache
def pretrained() -> MLP:
    """64 -> 64 -> 64 -> 10, trained on upright digits."""
    x, y, *_ = digits()
    g = torch.Generator().manual_seed(0)
    model = MLP((64, 64, 64, 10), generator=g)
    list(train(model, torch.optim.Adam(model.parameters(), 3e-3), x, y, epochs=15, generator=g))
    return model


def turned(x: torch.Tensor) -> torch.Tensor:
    """The new task: the same digits, lying on their side.  (n, 8, 8) -> (n, 8, 8)."""
    return x.rot90(1, (1, 2))


def adapted(kind: str, rank: int) -> nn.Module:
    """A copy of the trained network that a way of adapting may change: "all weights", or an adapter
    on both hidden layers."""
    model = copy.deepcopy(pretrained())
    if kind == "all weights":
        return model
    return add_lora(
        model,
        LAYERS,
        rank,
        kind=kind,
        alpha=float(rank),
        generator=torch.Generator().manual_seed(1),
    )


def trained_numbers(model: nn.Module) -> int:
    """How many numbers are trained and saved; of an adapter with a middle factor, those of two
    factors."""
    thin = sum(
        m.delta.tensors[2].numel()
        for m in model.modules()
        if isinstance(m, LoRALinear) and m.kind == "dlrt"
    )
    return sum(p.numel() for p in model.parameters() if p.requires_grad) - thin


def adapt(kind: str, rank: int, *, steps: int, every: int = 5, batch: int = 50) -> Iterator[dict]:
    """Train on the digits on their side; a state before the first step, and after each `every`: the
    model and the losses so far."""
    x, y, *_ = digits()
    x, y = turned(x[:EXAMPLES]), y[:EXAMPLES]
    model, g, losses = adapted(kind, rank), torch.Generator().manual_seed(0), []
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], RATES[kind])
    dlrt = DLRT(model, optimizer, theta=0.15, every=5) if kind == "dlrt" else None
    yield {"model": model, "losses": []}
    for step in range(1, steps + 1):
        rows = torch.randint(len(y), (batch,), generator=g)
        closure = lambda rows=rows: nn.functional.cross_entropy(model(x[rows]), y[rows])
        if dlrt is None:
            optimizer.zero_grad()
            loss = closure()
            loss.backward()
            optimizer.step()
        else:
            loss = dlrt.step(closure)
        losses.append(loss.item())
        if step % every == 0:
            yield {"model": model, "losses": list(losses)}


@torch.no_grad()
def change(model: nn.Module, name: str = "layers.1") -> torch.Tensor:
    """What training has added to a weight, (out, in): of an adapter s Δ, or the difference of the
    weights."""
    layer, before = model.get_submodule(name), pretrained().get_submodule(name).weight
    if not isinstance(layer, LoRALinear):
        return layer.weight - before
    if layer.magnitude is None:
        return layer.scale * layer.delta.weight.to_dense()
    return layer.merged().weight - before


@functools.cache
def fine_tuned(steps: int = 150) -> nn.Module:
    """The network with all of its weights trained on the new task."""
    *_, last = adapt("all weights", 1, steps=steps)
    return last["model"]


def seen(model: nn.Module) -> dict:
    """Test accuracy on the new task and on the old one, and the numbers that were trained."""
    *_, x, y = digits()
    return {
        "new": accuracy(model, turned(x), y),
        "old": accuracy(model, x, y),
        "numbers": trained_numbers(model),
    }


class AdaptPlayer(Player):
    """An adapter while it trains: the loss, and the singular values of what it adds, beside those
    of training all weights."""

    figsize = (9, 3.4)
    length, every = 150, 10

    def __init__(self):
        super().__init__(kind=choice("lora", (*KINDS, "all weights")), rank=integer(4, 1, 32))

    def steps(self, kind: str, rank: int):
        return adapt(kind, rank, steps=self.length, every=self.every)

    def draw(self, figure: Figure, state: dict, kind: str, rank: int) -> str:
        left, right = figure.subplots(1, 2)
        losses = state["losses"]
        left.plot(range(1, len(losses) + 1), losses, **plots.style(0, len(losses)))
        left.set(xlabel="step", ylabel="loss on the new task", ylim=(0, None))
        spectra = {"all weights": singular_values(change(fine_tuned()))}
        added = change(state["model"])
        if losses and bool(added.any()):
            spectra[f"{kind} now"] = singular_values(added)
        plots.singular_values(right, spectra)
        right.set(title="what is added to layers.1", ylim=(1e-4, 2))
        s = seen(state["model"])
        at = (
            f"after {len(losses)} steps, loss {losses[-1]:.2f}"
            if losses
            else "before the first step"
        )
        return (
            f"{kind}, {s['numbers']} numbers trained, {at}: of the turned digits "
            f"{100 * s['new']:.1f} % are right, "
            f"of the upright ones {100 * s['old']:.1f} %."
        )


# -- the exercises


lora_numbers = Check(
    question="LoRA of rank 8 on a layer with 768 inputs and 3072 outputs: how many numbers are "
    "trained?",
    right=lambda: (
        add_lora(nn.Sequential(nn.Linear(768, 3072, device="meta")), "0", 8)[0].delta.weight.numel
    ),
    mistakes=(
        (lambda: 768 * 3072, "those are the frozen ones."),
        (lambda: 8 * 768, "that is A alone."),
        (lambda: 8 * 3072, "that is B alone."),
        (lambda: 8 * (768 + 3072) + 64, "there is no middle factor."),
    ),
    hint="A is 8 by 768 and B is 3072 by 8.",
    moral="Little more than one in a hundred of the weights, and of the optimizer's memory.",
)

lora_forward = Check(
    question="Write `lora_forward(x, w, a, b, alpha)`: x (n, in), w (out, in), A (r, in), B (out, "
    "r), and the scale alpha / r.",
    function=True,
    cases=lambda: [
        (*gaussian((5, 4), (3, 4), (2, 4), (3, 2)), 8.0),
        (*gaussian((2, 6), (6, 6), (4, 6), (6, 4)), 1.0),
    ],
    right=lambda x, w, a, b, alpha: x @ w.T + alpha / len(a) * (x @ a.T) @ b.T,
    mistakes=(
        (lambda x, w, a, b, alpha: x @ w.T + (x @ a.T) @ b.T, "the scale is missing."),
        (lambda x, w, a, b, alpha: x @ w.T + alpha * (x @ a.T) @ b.T, "divide alpha by the rank."),
        (
            lambda x, w, a, b, alpha: x @ w.T + alpha / len(a) ** 0.5 * (x @ a.T) @ b.T,
            "that is the scale of rsLoRA.",
        ),
        (
            lambda x, w, a, b, alpha: alpha / len(a) * (x @ a.T) @ b.T,
            "the frozen layer is missing.",
        ),
    ),
    hint="two thin products after each other, and never B A.",
    moral="r (in + out) multiply-adds more for each input; merged, none.",
)


def _left_out():
    """Relative error of the best matrix of rank 1, 2, ... to what training all weights added."""
    w = change(fine_tuned()).double()
    return [
        float((LowRank.from_dense(w, r).to_dense() - w).norm() / w.norm()) for r in range(1, 65)
    ]


rank_of_change = Check(
    question="Take what training all weights adds to layers.1, "
    "`lesson.change(lesson.fine_tuned())`.  What is the smallest rank "
    "whose best approximation holds 90 % of its squared Frobenius norm?",
    right=lambda: first_rank(_left_out(), 0.1**0.5),
    mistakes=(
        (
            lambda: first_rank(_left_out(), 0.1),
            "that rank has a relative error of a tenth; the squares are asked for.",
        ),
        (lambda: 64, "that is the size of the layer: look at the singular values."),
    ),
    hint="square the singular values, sum them up from the first, and divide by the whole sum.",
    moral="Most of the change lies in few directions, though nothing asked for it: that is what "
    "LoRA bets on.",
)
