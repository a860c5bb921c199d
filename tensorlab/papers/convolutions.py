"""A small CNN with factorized convolutions: FLOPs and wall time against accuracy [Lebedev2015]
[Kim2016].

The papers compress networks for ImageNet and for 36 characters; here it is a CNN of three
convolutions, on scikit-learn's digits at preset quick and on MNIST at preset full. Every structure
is put in at the same shares of the FLOPs of each layer, then the whole network is trained a little
more; so is the dense one, which the accuracies are compared with.
"""

import copy
import functools
import statistics
import time

import torch
from torch import Tensor, nn

from .. import datasets
from ..layers.conv import (
    conv_kernel,
    cp_conv,
    spatial_conv,
    svd_conv,
    tt_conv,
    tucker_conv,
)
from ..layers.report import layer_flops
from ..layers.surgery import replace_conv
from ..models import training
from ..models.training import accuracy, data_parallel, shuffled_parts
from .program import Program
from .table import Table

STRUCTURES = {
    "cp": cp_conv,
    "tucker": tucker_conv,
    "tt": tt_conv,
    "spatial": spatial_conv,
    "svd": svd_conv,
}
SIZES = {
    "quick": {
        "data": "digits",
        "shares": (0.3, 0.2, 0.1),
        "epochs": 12,
        "tuning": 4,
        "batch": 64,
    },
    "full": {
        "data": "MNIST",
        "shares": (0.3, 0.2, 0.1, 0.05),
        "epochs": 2,
        "tuning": 1,
        "batch": 128,
    },
}
LAYERS = ("second", "third")  # the first has one input channel, and a hundredth of the work


def small_cnn(side: int = 8, channels=(16, 32, 32), classes: int = 10) -> nn.Sequential:
    """Three convolutions 3 x 3 and a linear layer, for gray images (n, 1, side, side).

    >>> small_cnn()(torch.ones(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    a, b, c = channels
    coarse = side > 16
    model = nn.Sequential()
    model.add_module("first", nn.Conv2d(1, a, 3, padding=1))
    model.add_module("relu1", nn.ReLU())
    if coarse:
        model.add_module("pool1", nn.MaxPool2d(2))
    model.add_module("second", nn.Conv2d(a, b, 3, padding=1))
    model.add_module("relu2", nn.ReLU())
    model.add_module("pool2", nn.MaxPool2d(2))
    model.add_module("third", nn.Conv2d(b, c, 3, padding=1))
    model.add_module("relu3", nn.ReLU())
    model.add_module("pool3", nn.MaxPool2d(2))
    model.add_module("flat", nn.Flatten())
    model.add_module("last", nn.Linear(c * (side // (8 if coarse else 4)) ** 2, classes))
    return model


def images(name: str = "digits") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Train and test images (n, 1, side, side) with their digits: a third of scikit-learn's,
    shuffled, for the test."""
    if name == "MNIST":
        train, test = datasets.mnist("train"), datasets.mnist("test")
        return train.X[:, None], train.y, test.X[:, None], test.y
    x, y = datasets.digits()
    return shuffled_parts(x[:, None], y, 1200)


@torch.enable_grad()
def train(
    model: nn.Module, x: Tensor, y: Tensor, *, epochs: int, lr: float, batch: int, seed: int = 0
) -> nn.Module:
    """Adam on the cross entropy, the learning rate falling to zero along a cosine."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    steps = epochs * -(-len(x) // batch)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    g = torch.Generator().manual_seed(seed)
    options = dict(epochs=epochs, batch=batch, scheduler=cosine, generator=g)
    for _ in training.train(data_parallel(model.train()), optimizer, x, y, **options):
        pass
    return model.eval()


def factorized(model: nn.Module, structure: str, share: float, image: Tensor) -> nn.Module:
    """A copy with the second and third convolution in a structure, each at most `share` of its
    FLOPs on an image."""
    sizes, hooks = {}, []
    for name in LAYERS:
        note = lambda module, inputs, output, name=name: sizes.update(
            {module: tuple(inputs[0].shape[-2:])}
        )
        hooks.append(model.get_submodule(name).register_forward_hook(note))
    with torch.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    sizes = {name: sizes[model.get_submodule(name)] for name in LAYERS}
    model = copy.deepcopy(model)
    for name in LAYERS:
        options = dict(generator=torch.Generator().manual_seed(0)) if structure == "cp" else {}
        make = functools.partial(
            STRUCTURES[structure], flops=share, image_size=sizes[name], **options
        )
        replace_conv(model, [name], make)
    return model


@torch.no_grad()
def kernel_error(model: nn.Module, reference: nn.Module) -> float:
    """Relative Frobenius error of the factorized kernels, all together."""
    kernels = [
        (conv_kernel(model.get_submodule(n)), reference.get_submodule(n).weight) for n in LAYERS
    ]
    return float(
        (
            sum((a - b).square().sum() for a, b in kernels)
            / sum(b.square().sum() for _, b in kernels)
        ).sqrt()
    )


@functools.cache
def dense(data: str, epochs: int, batch: int) -> nn.Module:
    """The trained network before anything is factorized; made once."""
    x, y, *_ = images(data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = small_cnn(x.shape[-1])
    return train(model, x, y, epochs=epochs, lr=3e-3, batch=batch)


def cases(size: dict) -> list[dict]:
    """Network, structure and share of the FLOPs."""
    network = f"{size['data']} CNN"
    rows = [(name, share) for share in size["shares"] for name in STRUCTURES]
    return [dict(network=network, structure=s, share=p) for s, p in [("dense", 1.0), *rows]]


def measure(size: dict, network: str, structure: str, share: float) -> dict:
    """FLOPs of the network, error of the kernels, accuracy, wall time.

    flops, parameters: dense over factorized, of the whole network. error: relative, of both kernels
    together. before, after: accuracy in percent before and after fine-tuning. points: `after` less
    that of the dense network, trained on as long. speedup: wall time of one batch, dense over
    factorized, in turns.
    """
    data, epochs, tuning, batch = (size[k] for k in ("data", "epochs", "tuning", "batch"))
    x, _, test_x, test_y = images(data)
    start, whole = dense(data, epochs, batch), tuned_dense(data, epochs, tuning, batch)
    model = start if structure == "dense" else factorized(start, structure, share, x[:1])
    tuned = whole if structure == "dense" else tune(model, data, tuning, batch)
    after = accuracy(tuned, test_x, test_y)
    return dict(
        flops=_work(start, x) / _work(tuned, x),
        parameters=_numel(start) / _numel(tuned),
        error=kernel_error(model, start),
        before=100 * accuracy(model, test_x, test_y),
        after=100 * after,
        points=100 * (after - accuracy(whole, test_x, test_y)),
        speedup=speedup(start, tuned, test_x[:256]),
    )


def settings(size: dict) -> dict:
    return {name: size[name] for name in ("epochs", "tuning", "batch")} | {"seed": 0}


def tune(model: nn.Module, data: str, epochs: int, batch: int) -> nn.Module:
    """A copy, trained a little more."""
    x, y, *_ = images(data)
    return train(copy.deepcopy(model), x, y, epochs=epochs, lr=1e-3, batch=batch, seed=1)


@functools.cache
def tuned_dense(data: str, epochs: int, tuning: int, batch: int) -> nn.Module:
    """The dense network, trained on as long as the others."""
    return tune(dense(data, epochs, batch), data, tuning, batch)


def _work(model, x):
    return sum(layer_flops(model, x[:1]).values())


def _numel(model):
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def speedup(one: nn.Module, other: nn.Module, x: Tensor, repeats: int = 7) -> float:
    """Median wall time of `one` over that of `other` on a batch, measured in turns."""
    times = {one: [], other: []}
    for _ in range(repeats + 1):
        for model, seconds in times.items():
            start = time.perf_counter()
            model(x)
            seconds.append(time.perf_counter() - start)
    a, b = (statistics.median(seconds[1:]) for seconds in times.values())
    return a / b


def draw(table: Table, ax) -> str:
    """Accuracy lost against how many times fewer FLOPs, one curve for each structure."""
    from ..plots import style

    for k, name in enumerate(STRUCTURES):
        points = sorted((row["flops"], row["points"]) for row in table.where(structure=name))
        ax.plot(*zip(*points), label=name, **style(k))
    ax.axhline(-1, color="0.4", lw=1)
    ax.set(xlabel="FLOPs, dense / factorized", ylabel="accuracy, points from dense", xscale="log")
    ax.legend(fontsize=8)
    rows = [row for row in table.rows if row["structure"] != "dense" and row["points"] >= -1]
    if not rows:
        return "No structure keeps within one point of the dense network."
    best = max(rows, key=lambda row: row["flops"])
    return (
        f"Within one point of the dense network the fewest FLOPs are those of {best['structure']}: "
        f"{best['flops']:.1f} times fewer "
        f"at {best['points']:+.2f} points, and {best['speedup']:.2f} times the speed."
    )


PROGRAM = Program(
    "Lebedev2015",
    __doc__,
    SIZES,
    cases,
    measure,
    settings,
    draw,
    needs=("sklearn",),
    share="batches",
)
