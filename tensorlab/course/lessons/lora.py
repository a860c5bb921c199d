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
from ..checks import Check, Unusable, first_rank, gaussian, returned
from ..digits import digits
from ..widgets import Player, choice, integer

LAYERS = ["layers.0", "layers.1"]
RATES = {
    "all weights": 3e-3,
    "lora": 1e-2,
    "rslora": 5e-3,
    "dora": 1e-2,
    "lokr": 1e-2,
    "dlrt": 1e-2,
    "last layer": 1e-2,
    "from scratch": 3e-3,
}
RIVALS = ("as it was", "all weights", "last layer", "from scratch")
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


def adapted(kind: str, rank: int, seed: int = 1) -> nn.Module:
    """A copy of the trained network that a way of adapting may change: "all weights", the "last
    layer", or an adapter on both hidden layers; "from scratch" is a network without training."""
    model = copy.deepcopy(pretrained())
    if kind == "from scratch":
        return MLP((64, 64, 64, 10), generator=torch.Generator().manual_seed(seed))
    if kind == "last layer":
        for name, p in model.named_parameters():
            p.requires_grad_(name.startswith("layers.2"))
    if kind in ("all weights", "last layer"):
        return model
    return add_lora(
        model,
        LAYERS,
        rank,
        kind=kind,
        alpha=float(rank),
        generator=torch.Generator().manual_seed(seed),
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


def adapt(
    kind: str, rank: int, *, steps: int, every: int = 5, batch: int = 50, seed: int = 0
) -> Iterator[dict]:
    """Train on the digits on their side; a state before the first step, and after each `every`: the
    model and the losses so far."""
    x, y, *_ = digits()
    x, y = turned(x[:EXAMPLES]), y[:EXAMPLES]
    model, g, losses = adapted(kind, rank, 1 + seed), torch.Generator().manual_seed(seed), []
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
    length, every, begin = 150, 10, 5

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


@functools.cache
def played(kind: str, rank: int) -> dict:
    """What the player says at its end: see `seen`."""
    *_, last = adapt(kind, rank, steps=AdaptPlayer.length, every=AdaptPlayer.every)
    return seen(last["model"])


# ------------------------------------------------------------------------------- figures of rivals


def compare(steps: int, *, seeds: int) -> dict[str, list[dict]]:
    """`seen` of each seed after training, by the name of the way: adapters and rivals."""
    ways = [("lora", 1), ("lora", 4), ("lora", 16), ("rslora", 4), ("dora", 4), ("lokr", 4)]
    found = {"as it was": [seen(pretrained()) | {"numbers": 0}]}
    for kind, rank in [*((rival, 0) for rival in RIVALS[1:]), *ways, ("dlrt", 16)]:
        name = f"{kind} {rank}" if rank else kind
        found[name] = []
        for seed in range(seeds):
            *_, last = adapt(kind, max(rank, 1), steps=steps, seed=seed)
            found[name].append(seen(last["model"]))
    return found


def mean(rows: list[dict], task: str) -> float:
    """The mean accuracy of the seeds, in percent."""
    return 100 * sum(row[task] for row in rows) / len(rows)


def draw_compared(figure: Figure, found: dict[str, list[dict]]) -> str:
    """Accuracy on both tasks against the numbers trained, the network as it was and one from
    scratch as lines; a sentence."""
    said, titles = [], {"new": "turned digits", "old": "upright digits"}
    axes = figure.subplots(1, 2, sharey=True)
    families = list(dict.fromkeys(name.split(" ")[0] for name in found if name not in RIVALS))
    for ax, (task, title) in zip(axes, titles.items()):
        for k, family in enumerate([*families, "all weights", "last layer"]):
            names = [n for n in found if n == family or n.split(" ")[0] == family]
            numbers = [found[n][0]["numbers"] for n in names]
            means = [mean(found[n], task) for n in names]
            bars = [100 * float(torch.tensor([row[task] for row in found[n]]).std()) for n in names]
            ax.errorbar(numbers, means, bars, label=family, capsize=2, **plots.style(k))
        for name, ls in (("as it was", "--"), ("from scratch", ":")):
            ax.axhline(mean(found[name], task), color="0.4", lw=1, ls=ls, label=name)
        ax.set(xscale="log", xlabel="numbers trained", title=title, ylim=(0, 103))
        best = max((n for n in found if n != "as it was"), key=lambda n: mean(found[n], task))
        said.append(f"{title}: {best} with {mean(found[best], task):.1f} %")
    axes[0].set_ylabel("% right")
    axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return f"The best after training, {'; '.join(said)}."


def _spectra():
    weight = pretrained().get_submodule("layers.1").weight.detach()
    return {"change": singular_values(change(fine_tuned())), "weight": singular_values(weight)}


def draw_change(figure: Figure) -> str:
    """Singular values of the change of all weights and of the weight; a sentence."""
    ax = figure.subplots()
    seen = plots.singular_values(ax, _spectra(), 0.1)
    ax.set(ylim=(1e-4, 2))
    return seen


def held(ranks, of: str = "change") -> dict[int, float]:
    """Which share of its squared norm the best approximation of each rank holds."""
    s = _spectra()[of].square()
    return {r: float(s[:r].sum() / s.sum()) for r in ranks}


def least_bits(table) -> dict[tuple[str, int], tuple[int, float]]:
    """(numbers, bits on the test at the rate that is best on valid) by way and rank, at seed 0."""
    found = {}
    for key in dict.fromkeys((row["way"], row["rank"]) for row in table.rows):
        rows = table.where(way=key[0], rank=key[1], seed=0)
        best = min(rows, key=lambda row: row["code valid"])
        found[key] = best["numbers"], best["code test"]
    return found


def draw_recorded(figure: Figure, ours, theirs) -> str:
    """Recorded bits against numbers trained, and the printed averages; a sentence."""
    left, right = figure.subplots(1, 2)
    least = least_bits(ours)
    ways = list(dict.fromkeys(way for way, _ in least if way != "none"))
    for k, way in enumerate(ways):
        points = sorted(point for (name, _), point in least.items() if name == way)
        left.semilogx(*zip(*points), label=way, **plots.style(k))
    left.axhline(least["none", 0][1], color="0.4", lw=1, ls="--", label="as it was")
    left.set(xlabel="numbers trained", ylabel="bits per character of code", title="recorded")
    left.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    for row in theirs.rows:
        at = row["millions"] * 1e6, row["average"]
        right.semilogx(*at, "kx", ms=7)
        side = dict(ha="right", xytext=(-6, -4)) if at[0] > 1e7 else dict(xytext=(6, -4))
        right.annotate(row["way"], at, textcoords="offset points", fontsize=9, **side)
    right.set(xlabel="numbers trained", ylabel="average of GLUE", title="printed")
    right.margins(0.15)
    best = min((key for key in least if key[0] != "none"), key=lambda key: least[key][1])
    top = max(theirs.rows, key=lambda row: row["average"])
    return f"Recorded, the least is {least[best][1]:.2f} bits of {best[0]}; printed, {top['way']}."


# ---------------------------------------------------------------------------------------- exercises

lora_numbers = Check(
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


def _read_pair(function, x, a, b, alpha, dy):
    """Both gradients in one row, when their shapes are right."""
    found = returned(function, x, a, b, alpha, dy)
    if found is None:
        return None
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        raise Unusable("two tensors are needed, the gradient of A and that of B.")
    found = [torch.as_tensor(t, dtype=torch.float64) for t in found]
    for name, t, of in zip("AB", found, (a, b)):
        if t.shape != of.shape:
            raise Unusable(
                f"the gradient of {name} has the shape of {name}, {tuple(of.shape)}, this is "
                f"{tuple(t.shape)}."
            )
    return _row(*found)


def _row(*tensors):
    return torch.cat([t.flatten() for t in tensors])


def _gradients(x, a, b, alpha, dy, of_a=True, of_b=True):
    """With the scale or without it, for each of the two."""
    s = alpha / len(a)
    return _row((s if of_a else 1) * (dy @ b).T @ x, (s if of_b else 1) * dy.T @ (x @ a.T))


lora_gradients = Check(
    function=True,
    read=_read_pair,
    cases=lambda: [
        (*gaussian((5, 4), (2, 4), (4, 2)), 8.0, gaussian((5, 4))[0] + 1),
        (*gaussian((3, 6), (3, 6), (5, 3)), 1.0, gaussian((3, 5))[0]),
    ],
    right=_gradients,
    mistakes=(
        (
            lambda *case: _gradients(*case, of_a=False, of_b=False),
            "the scale alpha / r is missing.",
        ),
        (
            lambda *case: _gradients(*case, of_a=False),
            "the gradient of A has the scale alpha / r too.",
        ),
        (
            lambda *case: _gradients(*case, of_b=False),
            "the gradient of B has the scale alpha / r too.",
        ),
        (
            lambda x, a, b, alpha, dy: _gradients(x, a, b, alpha, dy) / len(x),
            "dy holds the mean already, if the loss has one: do not divide by the batch.",
        ),
    ),
    hint="with G = dyᵀ x: s Bᵀ G for A, s G Aᵀ for B.",
    moral="At B = 0 the gradient of A is zero: the first step moves B alone.",
)

lora_merge = Check(
    function=True,
    cases=lambda: [
        (*gaussian((4, 4), (2, 4), (4, 2)), 8.0),
        (*gaussian((3, 5), (3, 5), (3, 3)), 1.0),
    ],
    right=lambda w, a, b, alpha: w + alpha / len(a) * b @ a,
    mistakes=(
        (lambda w, a, b, alpha: w + b @ a, "the scale alpha / r is missing."),
        (lambda w, a, b, alpha: alpha / len(a) * b @ a, "the frozen weight is missing."),
        (lambda w, a, b, alpha: w + alpha * b @ a, "divide alpha by the rank."),
        (
            lambda w, a, b, alpha: (
                w + alpha / len(a) * (b @ a).T if w.shape[0] == w.shape[1] else None
            ),
            "that is the transpose of B A.",
        ),
    ),
    hint="y = (w + s B A) x: the weight is what is in the parentheses.",
    moral="One dense matrix again: inference costs nothing more, and another task is another sum.",
)


def _dora(w, a, b, alpha, m, dim=1):
    v = w + alpha / len(a) * b @ a
    return m[:, None] * v / v.norm(dim=dim, keepdim=True)


dora_weight = Check(
    function=True,
    cases=lambda: [
        (*gaussian((4, 4), (2, 4), (4, 2)), 8.0, gaussian((4,))[0].abs() + 1),
        (*gaussian((3, 5), (3, 5), (3, 3)), 1.0, gaussian((3,))[0].abs() + 1),
    ],
    right=_dora,
    mistakes=(
        (
            lambda w, a, b, alpha, m: w + alpha / len(a) * b @ a,
            "that is LoRA's weight: give each row the length m.",
        ),
        (
            lambda w, a, b, alpha, m: m[:, None] * (w + alpha / len(a) * b @ a),
            "divide each row by its length first.",
        ),
        (
            lambda *case: _dora(*case, dim=0),
            "those are the lengths of the columns: a row is one output.",
        ),
        (
            lambda w, a, b, alpha, m: (
                m[:, None] * (w + alpha / len(a) * b @ a) / w.norm(dim=1, keepdim=True)
            ),
            "divide by the length of the whole row, w + s B A, not by that of w.",
        ),
    ),
    hint="v = lora_merge(w, a, b, alpha); m[:, None] * v / (the norm of each row of v).",
    moral="Length and direction are trained apart; at the start m = |w| and B = 0 give w.",
)


def _left_out():
    """Relative error of the best matrix of rank 1, 2, ... to what training all weights added."""
    w = change(fine_tuned()).double()
    return [
        float((LowRank.from_dense(w, r).to_dense() - w).norm() / w.norm()) for r in range(1, 65)
    ]


rank_of_change = Check(
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


def _enough(bound=0.8):
    return next(rank for rank in range(1, 33) if played("lora", rank)["new"] > bound)


enough_rank = Check(
    right=_enough,
    mistakes=(
        (lambda: _enough() - 1, "there it is still less than 80 %: has it played to the end?"),
        (lambda: _enough() + 1, "one rank less is enough."),
        (lambda: _enough(0.7), "that rank reads more than 70 %; 80 are asked for."),
    ),
    hint="set the kind to lora and the rank to 1, play to the end, read; then the next rank.",
    moral="A few ranks more are a few hundred numbers more; what is lost of the old task grows "
    "with them.",
)
