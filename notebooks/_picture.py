"""Draws README's picture: a network that reads digits, at fewer and fewer numbers.

python notebooks/_picture.py    writes docs/compressed.png
"""

import copy
import warnings
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tensorlab import compress, plots
from tensorlab.course.digits import digits
from tensorlab.models.mlp import MLP
from tensorlab.models.training import accuracy, train

TARGET = Path(__file__).parents[1] / "docs" / "compressed.png"
SIZES, KEPT = (64, 256, 256, 10), (0.5, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03)
HIDDEN = ["layers.0", "layers.1"]


def stored(model) -> int:
    """The numbers of all parameters."""
    return sum(p.numel() for p in model.parameters())


def curves() -> dict[str, list[tuple[float, float]]]:
    """(stored numbers, accuracy on digits that were not seen) for each way to compress."""
    x, y, *test = digits()
    g = torch.Generator().manual_seed(0)
    model = MLP(SIZES, generator=g)
    adam = torch.optim.Adam(model.parameters(), 3e-3)
    list(train(model, adam, x, y, epochs=30, generator=g))
    drawn = {"plain SVD": "svd", "compress": "auto"}
    found = {name: [(stored(model), accuracy(model, *test))] for name in drawn}
    for name, method in drawn.items():
        for keep in KEPT:
            options = dict(keep=keep, method=method, names=HIDDEN, outputs="classes")
            small = compress(copy.deepcopy(model), [x], **options, generator=g)
            found[name].append((stored(small), accuracy(small, *test)))
    return found


def factors(ax, n: int, r: int) -> None:
    """A matrix of n x n numbers and its two factors of rank r, drawn to scale."""
    gap = n / 8
    boxes = [(0, 0, n, n), (n + 2 * gap, 0, r, n), (n + 3 * gap + r, n - r, n, r)]
    for (x, y, wide, high), color in zip(boxes, ("0.75", "C0", "C1")):
        ax.add_patch(Rectangle((x, y), wide, high, facecolor=color, edgecolor="0.2"))
    ax.text(n + gap, n / 2, "≈", ha="center", va="center", fontsize=18)
    ax.text(n / 2, n / 2, f"w\n{n * n} numbers", ha="center", va="center")
    ax.text(n + 3 * gap + r, n / 2, f"  u v\n  {2 * n * r} numbers", ha="left", va="center")
    ax.set(xlim=(-gap / 4, 2 * n + 3.3 * gap + r), ylim=(-gap / 4, n + gap / 4), aspect="equal")
    ax.axis("off")


def draw() -> str:
    """Draw it, and return the sentence that says what is seen."""
    figure = Figure(figsize=(9.6, 3.4), dpi=96)
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    factors(left, SIZES[1], 20)
    sentence = plots.accuracy_against_storage(right, curves())
    left.set_title("a layer of a network is nearly the product of two thin matrices")
    right.set_title("three such layers reading digits they have not seen")
    ticks = (5000, 10_000, 20_000, 40_000, 80_000)
    right.set_xticks(ticks, [f"{n:,}" for n in ticks])
    right.set_xticks([], minor=True)
    figure.savefig(TARGET, dpi=160)
    return sentence


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "compress: inputs that are always zero")  # a digit's margin
    with plots.look():
        print(draw())
