"""Lesson 29: what training and inference cost, in bytes, in seconds and in joules."""

import functools

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ... import datasets, plots
from ...formats.lowrank import LowRank
from ...layers.ledger import MIB, StepMemory, training_memory
from ...layers.surgery import replace_linear
from ...linalg import choose_rank, singular_values
from ...methods.dion import Dion
from ...methods.dlrt import DLRT, dlrt_start
from ...methods.galore import GaLore, gradient_ranks, leading_basis
from ...models import gpt
from ...models.mlp import MLP
from ...models.training import accuracy
from ...papers import footprint, table
from ..checks import Check, Unusable, call, decaying, gaussian, returned, tensors
from ..digits import digits
from ..lab import fast
from ..widgets import Explorer, choice, decimal, integer

SIZE = {"width": 96, "layers": 2, "heads": 4, "words": 500}
TOKENS, MOST = 64, 16  # of a sequence, and sequences in a batch
SHARE = footprint.SHARE
OPTIMIZERS = {
    "SVD": ("Adam", "none", "SGD"),
    "TTM": ("Adam", "none", "SGD"),
    "DLRT": ("DLRT",),
    "dense": ("Adam", "none", "SGD", "GaLore", "Dion"),
}
COLOR = {name: k for k, name in enumerate(("dense", "SVD", "TTM", "GaLore", "Dion", "DLRT"))}
PLAIN = {"DLRT": "SGD", "GaLore": "Adam", "Dion": "Adam"}  # what a dense rival steps with


def look(layers: str, optimizer: str, *_) -> dict:
    """Color and line of a way, the same in all pictures."""
    return plots.style(COLOR[optimizer if optimizer in footprint.LOW else layers])


@functools.cache
def ledger(layers: str, optimizer: str, share: float, batch: int) -> StepMemory:
    """Bytes of a step of an encoder whose linear layers keep a share of their numbers; of a dense
    one the share is that of the rank of GaLore and Dion. The optimizer's state is there already.

    >>> ledger("dense", "Adam", 1.0, 1).load > 2 * ledger("dense", "none", 1.0, 1).load
    True
    """
    g = torch.Generator().manual_seed(0)
    model = footprint.encoder(SIZE, layers, "all", g, share)
    ids = torch.randint(SIZE["words"], (batch, TOKENS), generator=g)
    by = footprint.stepper(model, optimizer, share)
    for _ in range(2 if by else 1):
        found = training_memory(model, lambda: model(ids).square().mean(), **by, inputs=[ids])
    return found


class LedgerExplorer(Explorer):
    """What an encoder holds at each moment of a training step, and at the peak as its batch
    grows."""

    figsize = (9, 3.4)

    def __init__(self):
        super().__init__(
            layers=choice("SVD", tuple(OPTIMIZERS)),
            batch=integer(1, 1, MOST),
            share=decimal(SHARE, 0.02, 0.95, step=0.01, label="share kept"),
            optimizer=choice("Adam", OPTIMIZERS["SVD"]),
        )

    def limits(self, layers: str, optimizer: str, **others) -> dict:
        options = OPTIMIZERS[layers]
        whole = layers == "dense" and optimizer not in footprint.LOW
        return {"optimizer": options, "share": (1.0, 1.0) if whole else (0.02, 0.95)}

    def draw(self, figure: Figure, layers: str, batch: int, share: float, optimizer: str) -> str:
        rival = PLAIN.get(optimizer, optimizer)
        ways = {
            f"dense, {rival}": ("dense", rival, 1.0),
            f"{layers}, {optimizer}, here": (layers, optimizer, round(share, 3)),
        }
        left, right = figure.subplots(1, 2)
        held = {name: ledger(*way, batch) for name, way in ways.items()}
        bars(left, held, [look(*way)["color"] for way in ways.values()])
        draw_peaks(right, ways, sorted({1, batch, MOST // 2, MOST}))
        dense, here = held.values()
        right.plot(batch, here.peak / MIB, "o", ms=12, mfc="none", mec="black", mew=1.5)
        low = optimizer in footprint.LOW
        kept = f"a rank of {share:.0%} of the width" if low else f"{share:.0%} kept"
        return (
            f"{layers}, {optimizer} with {kept}, batch {batch}: {here.peak / MIB:.2f} MiB at the "
            f"peak, {here.peak / dense.peak:.3f} times those of dense with {rival}; "
            f"autograd keeps {(here.forward - here.load) / MIB:.2f} MiB, of dense "
            f"{(dense.forward - dense.load) / MIB:.2f}."
        )


def bars(ax, held: dict[str, StepMemory], colors: list[str]) -> None:
    """Bars for the moments of a step, a color for each way."""
    parts = [name for name, n in vars(next(iter(held.values()))).items() if n is not None]
    wide = 0.8 / len(held)
    for k, (name, memory) in enumerate(held.items()):
        heights = [getattr(memory, part) / MIB for part in parts]
        at = [i + (k - 0.5) * wide for i in range(len(parts))]
        ax.bar(at, heights, wide, label=name, color=colors[k], hatch="/" * 2 * k, ec="white")
    ax.set_xticks(range(len(parts)), parts)
    most = max(memory.peak for memory in held.values()) / MIB
    ax.set(ylabel="MiB", ylim=(0, 1.3 * most))
    ax.legend(loc="upper left")


def draw_peaks(ax, ways: dict[str, tuple], batches) -> str:
    """Peak of a step against the batch, a curve for each way (layers, optimizer, share); a
    sentence."""
    said = []
    for name, way in ways.items():
        peaks = [ledger(*way, batch).peak / MIB for batch in batches]
        ax.plot(batches, peaks, label=name, **look(*way))
        said.append(f"{name} {peaks[0]:.2f} and {peaks[-1]:.2f}")
    ax.set(xlabel=f"sequences of {TOKENS} tokens in a batch", ylabel="MiB at the peak", ylim=0)
    ax.legend()
    return f"MiB at the peak, batch {batches[0]} and {batches[-1]}: {', '.join(said)}."


WITHOUT = {
    "dense": ("dense", "none", 1.0),
    "SVD": ("SVD", "none", SHARE),
    "TTM": ("TTM", "none", SHARE),
}
STEPPED = {
    "dense, Adam": ("dense", "Adam", 1.0),
    "SVD, Adam": ("SVD", "Adam", SHARE),
    "dense, GaLore": ("dense", "GaLore", 0.25),
    "dense, Dion": ("dense", "Dion", 0.25),
}
STEPPED |= fast({}, full={"TTM, Adam": ("TTM", "Adam", SHARE), "DLRT": ("DLRT", "DLRT", SHARE)})


def peak_shares(ways: dict[str, tuple], batch: int) -> dict[str, float]:
    """Peaks over that of the first way."""
    peaks = {name: ledger(*way, batch).peak for name, way in ways.items()}
    return {name: peak / next(iter(peaks.values())) for name, peak in peaks.items()}


def draw_batches(figure: Figure, batches) -> str:
    """`draw_peaks` over that of dense, without an optimizer and with one; a sentence."""
    said = []
    for ax, ways, title in zip(
        figure.subplots(1, 2, sharey=True), (WITHOUT, STEPPED), ("no optimizer", "with one")
    ):
        shares = [peak_shares(ways, batch) for batch in batches]
        for name, way in ways.items():
            values = [share[name] for share in shares]
            ax.plot(batches, values, label=name, **look(*way))
        ax.set(title=title, xlabel=f"sequences of {TOKENS} tokens in a batch")
        above = [name for name, share in shares[-1].items() if share > 1]
        said.append(f"{title}, above dense at batch {batches[-1]}: {', '.join(above) or 'none'}")
    figure.axes[0].set(ylabel="peak / that of the dense rival")
    figure.axes[0].legend(loc="lower right")
    figure.axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return f"Peaks of a training step; {'; '.join(said)}."


# ------------------------------------------------------------------------- recorded, and printed


def recorded(batch: int, optimizer: str = "") -> dict[str, dict]:
    """Rows of the recorded table for a batch, by a short name; those with this optimizer."""
    found = {}
    for row in table.measured("Chekalina2023footprint").where(batch=batch):
        words = [row[k] for k in ("layers", "where", "optimizer") if row[k] != "none"]
        if optimizer in ("", row["optimizer"]):
            found[" ".join(dict.fromkeys(words))] = row
    return found


def draw_recorded(figure: Figure) -> str:
    """Recorded peaks over the dense model's without an optimizer, crosses for what is printed; a
    sentence."""
    said = []
    for ax, batch in zip(figure.subplots(1, 2, sharey=True), (1, 16)):
        rows = {name: row for name, row in recorded(batch).items() if row["peak"]}
        dense, shares = rows["dense"], {}
        for k, label in enumerate(("no optimizer", "with one")):
            names = [name for name, row in rows.items() if (row["optimizer"] != "none") == k]
            shares |= {name: rows[name]["peak"] / dense["peak"] for name in names}
            lengths = [shares[name] for name in names]
            ax.barh(names, lengths, label=label, color=plots.COLORS[k], hatch="/" * 2 * k, ec="w")
        ax.axvline(1, color="0.4", ls="--", lw=1)
        for name, row in rows.items():
            if row["peak (printed)"]:
                ax.plot(row["peak (printed)"] / dense["peak (printed)"], name, "kx", ms=7)
        ax.set(title=f"batch {batch}", xlabel="peak / peak of dense without an optimizer")
        said.append(f"batch {batch}: SVD {shares['SVD all']:.2f}, TTM {shares['TTM all']:.2f}")
    figure.axes[0].invert_yaxis()
    figure.axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return f"Recorded peaks over that of dense with all layers at 49 %, {'; '.join(said)}."


def joules(row: dict) -> float:
    """The number before "J" of a recorded energy, which says itself how it is known."""
    return float(row[f"energy of {footprint.PASSES}"].split(" J ")[0])


def draw_inference(figure: Figure) -> str:
    """Recorded times of an inference over the dense model's, and energy against them, with what is
    printed; a sentence."""
    left, right = figure.subplots(1, 2)
    rows = recorded(1, "none")
    names, dense = list(rows), rows["dense"]
    for k, batch in enumerate((1, 16)):
        times = [row["time of dense"] for row in recorded(batch, "none").values()]
        at = [i + 0.4 * (k - 0.5) for i in range(len(names))]
        left.barh(at, times, 0.4, label=f"batch {batch}", color=plots.COLORS[k])
    left.axvline(1, color="0.4", ls="--", lw=1)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set(xlabel="time / time of dense")
    ours = [(row["ms"] / dense["ms"], joules(row) / joules(dense)) for row in rows.values()]
    right.plot(*zip(*ours), "o", ms=7, color=plots.COLORS[0], label="ours: watts · seconds")
    theirs = []
    for name, row in rows.items():
        if row["ms (printed)"]:
            left.plot(row["time of dense (printed)"], names.index(name) - 0.2, "kx", ms=7)
            energy = row["1e-5 kWh (printed)"] / dense["1e-5 kWh (printed)"]
            theirs.append((row["time of dense (printed)"], energy))
    right.plot(*zip(*theirs), "kx", ms=7, label="printed, of a GPU")
    right.axline((1, 1), slope=1, color="0.4", ls=":")
    right.set(xlabel="time / time of dense", ylabel="energy / energy of dense")
    for ax in (left, right):
        ax.legend()
    shares = ", ".join(f"{name} {row['time of dense']:.2f}" for name, row in rows.items())
    return f"Times of an inference at batch 1 over those of dense: {shares}."


# ------------------------------------------------------------------------- ranks of the gradients


@functools.cache
def trained_gradients(batch: int, steps: int) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of one weight, (32, 128), of a small character model while Adam trains it, and the
    weight's change after each step."""
    text = gpt.Characters(datasets.corpus()[:60_000])
    g = torch.Generator().manual_seed(0)
    model = gpt.GPT(text.size, width=32, depth=2, heads=2, context=32, generator=g)
    weight = model.blocks[0].down.weight
    start, gradients, changes = weight.detach().clone(), [], []
    adam = torch.optim.Adam(model.parameters(), 3e-3)
    tokens = text.encode(text.text)
    for _ in gpt.train(model, adam, tokens, steps=steps, batch=batch, generator=g):
        gradients.append(weight.grad.clone())
        changes.append(weight.detach() - start)
    return gradients, changes


def ranks(batch: int, steps: int, rtol: float = 0.1) -> dict[str, list[int]]:
    """Numerical ranks of each gradient, of the sum so far, and of what Adam made of it."""
    gradients, changes = trained_gradients(batch, steps)
    one, total = zip(*gradient_ranks(gradients, rtol=rtol))
    of = lambda s: choose_rank(s, atol=rtol * float(s.norm()))
    change = [of(singular_values(c)) for c in changes]
    return {"one gradient": [*one], "their sum": [*total], "the change by Adam": change}


def draw_ranks(figure: Figure, batches, steps: int) -> str:
    """`ranks` step by step, a panel for each batch; a sentence."""
    said = []
    for ax, batch in zip(figure.subplots(1, len(batches), sharey=True), batches):
        found = ranks(batch, steps)
        for k, (name, values) in enumerate(found.items()):
            ax.plot(range(1, steps + 1), values, label=name, **plots.style(k, steps))
        ax.axhline(32, color="0.4", ls=":", label="full")
        ax.set(title=f"{batch * 32:,} tokens in a batch", xlabel="step")
        last = ", ".join(f"{name} {values[-1]}" for name, values in found.items())
        said.append(f"{batch * 32:,} tokens: {last}")
    figure.axes[0].set(ylabel="numerical rank, rtol = 0.1")
    figure.axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return f"Ranks of 32 at step {steps}; {'; '.join(said)}."


def held(batch: int, steps: int, rank: int, every: int) -> dict[str, list[float]]:
    """Which share of |gradient|² lies in the leading subspace of itself, of the gradient when the
    subspace was taken anew last, and of the first gradient."""
    gradients, _ = trained_gradients(batch, steps)
    bases = [leading_basis(g, rank) for g in gradients]
    share = lambda p, g: float((p.mT @ g).square().sum() / g.square().sum())
    source = {
        "its own": lambda k: k,
        f"taken every {every} steps": lambda k: k // every * every,
        "taken once": lambda k: 0,
    }
    return {
        name: [share(bases[of(k)], g) for k, g in enumerate(gradients)]
        for name, of in source.items()
    }


def draw_held(figure: Figure, batch: int, steps: int, rank: int, every: int) -> str:
    """`held` step by step, with the share of a random subspace as a line; a sentence."""
    ax, found = figure.subplots(), held(batch, steps, rank, every)
    for k, (name, values) in enumerate(found.items()):
        percent = [100 * v for v in values]
        ax.plot(range(1, steps + 1), percent, label=name, **plots.style(k, steps))
    ax.axhline(100 * rank / 32, color="0.4", ls=":", label="a random one")
    ax.set(xlabel="step", ylabel="% of |gradient|² held", ylim=(0, 103))
    ax.legend(title=f"subspace of {rank}", loc="center left", bbox_to_anchor=(1, 0.5))
    means = ", ".join(f"{name} {sum(v) / len(v):.0%}" for name, v in found.items())
    return f"A subspace of {rank} of 32 holds, in the mean over {steps} steps: {means}."


# ----------------------------------------------------------------------------- what is lost by it

RATES = {"Adam": 3e-3, "SVD": 1e-2, "GaLore": 3e-2, "Dion": 1e-1, "DLRT": 1e-1}
LAYERS = ["layers.0", "layers.1"]


def learner(way: str, rank: int, seed: int) -> tuple[nn.Module, dict]:
    """A network 64 -> 64 -> 64 -> 10 and what steps it, as `training_memory` takes it."""
    g, rate = torch.Generator().manual_seed(seed), RATES[way]
    model = MLP((64, 64, 64, 10), generator=g)
    if way == "SVD":
        start = lambda w: LowRank.randn(w.shape, rank, generator=g).initial()
        replace_linear(model, LAYERS, start)
    if way == "DLRT":
        replace_linear(model, LAYERS, lambda w: dlrt_start(w.shape, rank, generator=g))
        sgd = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
        return model, {"method": DLRT(model, sgd, theta=None)}
    matrices = [p for p in model.parameters() if p.ndim > 1]
    biases = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices}, {"params": biases, "rank": None, "lr": 1e-2}]
    made = {
        "GaLore": lambda: GaLore(groups, rate, rank=rank, every=20),
        "Dion": lambda: Dion(groups, rate, rank=rank, generator=g),
    }
    return model, {"optimizer": made.get(way, lambda: torch.optim.Adam(model.parameters(), rate))()}


def learned(way: str, rank: int, steps: int, seed: int) -> tuple[int, float]:
    """(bytes held between two steps, share of test digits read) after training."""
    x, y, *test = digits()
    (model, by), g = learner(way, rank, seed), torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(y), (50,), generator=g)
        loss = lambda rows=rows: nn.functional.cross_entropy(model(x[rows]), y[rows])
        if "method" in by:
            by["method"].step(loss)
            continue
        by["optimizer"].zero_grad()
        loss().backward()
        by["optimizer"].step()
    return training_memory(model, loss, **by).load, accuracy(model, *test)


def compare(ranks, steps: int, seeds: int) -> dict[str, list[tuple[int, float]]]:
    """(bytes, mean share of digits read) by way, for each rank; Adam of the dense layers has
    none."""
    found = {}
    for way in RATES:
        found[way] = []
        for rank in ranks[:1] if way == "Adam" else ranks:
            held, right = zip(*(learned(way, rank, steps, seed) for seed in range(seeds)))
            found[way].append((held[0], sum(right) / seeds))
    return found


def draw_compared(figure: Figure, found: dict[str, list[tuple[int, float]]]) -> str:
    """Digits read against what is held between two steps, dense with Adam as a line; a sentence."""
    ax = figure.subplots()
    for way, points in found.items():
        held, right = zip(*points)
        if way == "Adam":
            ax.axhline(100 * right[0], color="0.4", lw=1, ls="--", label="dense, Adam")
            ax.axvline(held[0] / 1024, color="0.4", lw=1, ls="--")
        else:
            kib = [n / 1024 for n in held]
            ax.semilogx(kib, [100 * r for r in right], label=way, **look(way, way))
    ax.set(xlabel="KiB between two steps: weights, and what the optimizer keeps", ylabel="% right")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    best = {way: max(points, key=lambda p: p[1]) for way, points in found.items()}
    said = ", ".join(f"{w} {100 * r:.1f} % with {n / 1024:.0f} KiB" for w, (n, r) in best.items())
    return f"The most digits that each reads: {said}."


# ---------------------------------------------------------------------------------------- exercises


def _first_tokens(m, n, r, copies=1):
    """The first number of tokens at which r numbers for each are more than the weights saved."""
    return copies * (m * n - r * (m + n)) // r + 1


break_even = Check(
    cases=lambda: [(384, 384, 94)],
    right=_first_tokens,
    mistakes=(
        (lambda m, n, r: m * n // (m + n), "that is the rank at which two factors store as much."),
        (lambda m, n, r: m + n, "that is what the factors store, for each of the 94."),
        (
            lambda m, n, r: m * n // r + 1,
            "the factors are not free: they store 94 (384 + 384) numbers.",
        ),
        (
            lambda m, n, r: _first_tokens(m, n, r) - 1,
            "one less: the two are asked to be more than the dense layer, not less.",
        ),
        (
            lambda m, n, r: _first_tokens(m, n, r, copies=4),
            "the gradient and Adam's averages are not there after a forward pass.",
        ),
    ),
    hint="saved are m n - r (m + n) numbers; for each token autograd keeps r more.",
    moral="About seven sequences of 128 tokens: beyond them the smaller layer holds more.",
)


def _numbers(shapes):
    return sum(torch.Size(shape).numel() for shape in shapes)


adam_bytes = Check(
    function=True,
    cases=lambda: [([(5, 3), (7,)], 4), ([(384, 94), (384, 94)], 4), ([(64, 64)], 2)],
    right=lambda shapes, itemsize: 4 * itemsize * _numbers(shapes),
    mistakes=(
        (lambda shapes, itemsize: 4 * _numbers(shapes), "those are numbers: times their bytes."),
        (
            lambda shapes, itemsize: 2 * itemsize * _numbers(shapes),
            "two of the four: the weight, its gradient, the mean, the mean of squares.",
        ),
        (
            lambda shapes, itemsize: 3 * itemsize * _numbers(shapes),
            "three of the four: the weight, its gradient, the mean, the mean of squares.",
        ),
        (
            lambda shapes, itemsize: 4 * itemsize * sum(map(sum, shapes)),
            "a tensor has the product of its sides as numbers, not their sum.",
        ),
    ),
    hint="four tensors of each shape: weight, gradient, and Adam's two averages.",
    moral="A number that is not stored is saved four times, whatever the batch.",
)


kept_bytes = Check(
    function=True,
    cases=lambda: [(7, (6, 2, 3), 4), (100, (64, 64), 4), (10, (384, 94, 384), 2)],
    right=lambda tokens, sides, itemsize: tokens * sum(sides[:-1]) * itemsize,
    mistakes=(
        (
            lambda tokens, sides, itemsize: tokens * sum(sides) * itemsize,
            "the last output is not needed for any gradient of these products: whoever takes it "
            "next may keep it.",
        ),
        (
            lambda tokens, sides, itemsize: tokens * sides[0] * itemsize,
            "the input of *each* product is kept, what is in the middle too.",
        ),
        (
            lambda tokens, sides, itemsize: tokens * sum(sides[1:]) * itemsize,
            "those are the outputs: a gradient needs what the weight was multiplied by.",
        ),
        (
            lambda tokens, sides, itemsize: sum(sides[:-1]) * itemsize,
            "that is for one token.",
        ),
        (lambda tokens, sides, itemsize: tokens * sum(sides[:-1]), "those are numbers, not bytes."),
    ),
    hint="dW of y = x Wᵀ is dyᵀ x: the x of each product is kept, tokens by its side.",
    moral="The more factors, the more in between is kept, for each token of the batch.",
)


def _projector(g, rank, of=lambda u, s, vh: u):
    u, s, vh = torch.linalg.svd(g, full_matrices=False)
    p = of(u, s, vh)[:, :rank]
    return p @ p.mT


def _basis(function, g, rank):
    p = call(function, g, rank)
    if p is not None and p.ndim != 2:
        raise Unusable(f"a matrix of {rank} columns is needed, this has {p.ndim} modes.")
    return None if p is None else p @ p.mT


gradient_basis = Check(
    function=True,
    cases=lambda: [(decaying(5, 5, 0.6), 2), (decaying(4, 9, 0.7), 3)],
    read=_basis,
    right=_projector,
    mistakes=(
        (
            lambda g, rank: _projector(g, rank, lambda u, s, vh: vh.mT),
            "those are right singular vectors: the rows of g are projected.",
        ),
        (
            lambda g, rank: _projector(g, rank, lambda u, s, vh: u.flip(1)),
            "those are the last ones, in which the least of the gradient lies.",
        ),
        (
            lambda g, rank: _projector(g, g.shape[0]),
            "all of them: the subspace is to have `rank` dimensions.",
        ),
        (
            lambda g, rank: _projector(g, rank, lambda u, s, vh: u * s),
            "the columns should have the length one: leave the singular values out.",
        ),
    ),
    hint="the first columns of u in torch.linalg.svd(g).",
    moral="Of all subspaces of this dimension it holds the most of this gradient, and of no other.",
    forbids=((leading_basis, "write it from torch.linalg.svd: `leading_basis` is its like."),),
)


def _step(w, g, p, first, second, t, lr, correct=True, square=True, root=True, sign=-1.0):
    r = p.mT @ g
    first = 0.9 * first + 0.1 * r
    second = 0.999 * second + 0.001 * (r * r if square else r.abs())
    m, v = (first / (1 - 0.9**t), second / (1 - 0.999**t)) if correct else (first, second)
    move = p @ (m / ((v.sqrt() if root else v) + 1e-8))
    return _flat((w + sign * lr * move, first, second))


def _flat(parts):
    return torch.cat([part.flatten() for part in parts])


def _stepped(function, *case):
    parts = returned(function, *case)
    if parts is None:
        return None
    if not isinstance(parts, (tuple, list)) or len(parts) != 3:
        raise Unusable("three tensors are needed: the weight and the two averages.")
    found, shapes = tensors(parts), [case[i].shape for i in (0, 3, 4)]
    if [part.shape for part in found] != shapes:
        got = ", ".join(str(tuple(part.shape)) for part in found)
        need = ", ".join(str(tuple(shape)) for shape in shapes)
        raise Unusable(f"shapes {need} are needed, these are {got}: only the averages are low.")
    return _flat(found)


def _start_of_step(m, n, rank, t):
    w, g, p, first, second = gaussian((m, n), (m, n), (m, rank), (rank, n), (rank, n))
    return w, g, torch.linalg.qr(p)[0], first, second.square(), t, 0.1


galore_step = Check(
    function=True,
    cases=lambda: [_start_of_step(5, 7, 2, 3), _start_of_step(4, 6, 1, 1)],
    read=_stepped,
    right=_step,
    mistakes=(
        (
            lambda *case: _step(*case, correct=False),
            "the averages begin at zero: divide them by 1 - βᵗ.",
        ),
        (lambda *case: _step(*case, square=False), "the second average is of squares."),
        (lambda *case: _step(*case, root=False), "divide by the root of the second average."),
        (lambda *case: _step(*case, sign=1.0), "the loss falls against the gradient."),
    ),
    hint="r = pᵀ g; Adam on r as if r were the gradient; back by p; the weight goes down.",
    moral="Kept are r (m + 2 n) numbers, not 2 m n; the weight and its gradient are dense still.",
    forbids=((GaLore.direction, "write the step out."),),
)


def _ranks(gradients, rtol, of=None, rule=None):
    rule = rule or (lambda s: _tails(s) <= rtol * s.norm())
    of = of or (lambda k: sum(gradients[: k + 1]))
    found = []
    for k in range(len(gradients)):
        s = torch.linalg.svdvals(of(k))
        found.append(int((~rule(s)).sum()))
    return torch.tensor(found, dtype=torch.float64)


def _tails(s):
    """|σ from r on|, for r = 0, 1, ..."""
    return s.square().flip(0).cumsum(0).flip(0).sqrt()


def _turning():
    """Gradients whose subspaces turn, each with singular values that decay."""
    bases = gaussian(*[(8, 8)] * 4)
    return [torch.linalg.qr(a)[0] @ decaying(8, 6, 0.45) for a in bases]


sum_ranks = Check(
    function=True,
    cases=lambda: [(_turning(), 0.2), (_turning()[::-1], 0.05)],
    right=_ranks,
    mistakes=(
        (
            lambda gradients, rtol: _ranks(gradients, rtol, of=lambda k: gradients[k]),
            "those are ranks of the gradients, one by one: add them up.",
        ),
        (
            lambda gradients, rtol: _ranks(gradients, rtol, rule=lambda s: s <= rtol * s[0]),
            "compare the *tail* with the norm, not each σ with the first: many small ones add up.",
        ),
        (
            lambda gradients, rtol: _ranks(
                gradients, rtol, rule=lambda s: _tails(s).square() <= rtol * s.square().sum()
            ),
            "norms are compared, not their squares: take roots, or square rtol.",
        ),
        (
            lambda gradients, rtol: _ranks(gradients, rtol)[-1:],
            "one rank for each step: of the first gradient, of the first two, and so on.",
        ),
    ),
    hint="for each k the least r with |σ from r on| ≤ rtol |σ|, σ of the sum of the first k.",
    moral="What is low for one gradient need not be for the sum, by which the weight has moved.",
    forbids=((gradient_ranks, "write it from torch.linalg.svdvals."),),
)


def _energy(function, weights, tokens, rate, watts):
    parts = returned(function, weights, tokens, rate, watts)
    if parts is None:
        return None
    if not isinstance(parts, (tuple, list)) or len(parts) != 2 or not isinstance(parts[1], str):
        raise Unusable("a number and a sentence are needed: joules, and what they rest on.")
    said = parts[1].replace(",", "")
    if "assum" not in said or f"{watts:g}" not in said:
        raise Unusable(f"the sentence must say that {watts:g} W were assumed.")
    return tensors(parts[:1])[0].reshape(())


training_joules = Check(
    function=True,
    cases=lambda: [(10_600_000, 2048, 4e10, 15), (1000, 1, 1e6, 250)],
    read=_energy,
    right=lambda weights, tokens, rate, watts: 6 * weights * tokens / rate * watts,
    mistakes=(
        (
            lambda weights, tokens, rate, watts: 2 * weights * tokens / rate * watts,
            "that is the forward pass alone: the backward takes two more products of its size.",
        ),
        (
            lambda weights, tokens, rate, watts: 3 * weights * tokens / rate * watts,
            "a multiplication and an addition are two operations.",
        ),
        (
            lambda weights, tokens, rate, watts: 6 * weights * tokens / rate,
            "those are seconds: watts are joules for each.",
        ),
        (
            lambda weights, tokens, rate, watts: 6 * weights * tokens * watts,
            "operations are no seconds: divide by how many there are in one.",
        ),
    ),
    hint="operations 2 · weights · tokens forward, twice that backward; / rate; · watts.",
    moral="Two of its four factors were assumed: it is a model, and it says so.",
)


@functools.cache
def first_above(share: float) -> int:
    """The least batch at which an SVD layer's peak is above the dense one's, without an
    optimizer."""
    ways = {"dense": ("dense", "none", 1.0), "SVD": ("SVD", "none", share)}
    return next(b for b in range(1, MOST + 1) if peak_shares(ways, b)["SVD"] > 1)


crossing = Check(
    right=lambda: first_above(SHARE),
    mistakes=(
        (lambda: first_above(SHARE) - 1, "there SVD is still below, by a little."),
        (lambda: MOST, "SVD is above before that."),
        (lambda: 1, "at batch 1 SVD holds less than dense."),
    ),
    hint="SVD, share 0.49, optimizer none; move the batch until the ratio in the sentence is "
    "above 1.",
    moral="With Adam it comes later, for each number saved is saved three times at the peak.",
)
