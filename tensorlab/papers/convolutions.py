"""A small CNN with factorised convolutions: FLOPs and wall time against accuracy [Lebedev2015]
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
from torch.nn import functional as F

from .. import datasets
from ..layers.conv import (
    conv_flops,
    conv_kernel,
    cp_conv,
    replace_conv,
    spatial_conv,
    svd_conv,
    tt_conv,
    tucker_conv,
)
from .table import Table, check_preset, run_rows

KEY = "Lebedev2015"
STRUCTURES = {
    "cp": cp_conv,
    "tucker": tucker_conv,
    "tt": tt_conv,
    "spatial": spatial_conv,
    "svd": svd_conv,
}
SHARES = {"quick": (0.3, 0.2, 0.1), "full": (0.3, 0.2, 0.1, 0.05)}
SIZES = {"quick": dict(epochs=12, tuning=4, batch=64), "full": dict(epochs=2, tuning=1, batch=128)}
LAYERS = ("second", "third")  # the first has one input channel, and a hundredth of the work


def small_cnn(side: int = 8, channels=(16, 32, 32), classes: int = 10) -> nn.Sequential:
    """Three convolutions 3 x 3 and a linear layer, for grey images (n, 1, side, side).

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


def images(preset: str = "quick") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Train and test images (n, 1, side, side) with their digits: a third of scikit-learn's,
    shuffled, for the test."""
    if preset == "full":
        train, test = datasets.mnist("train"), datasets.mnist("test")
        return train.X[:, None], train.y, test.X[:, None], test.y
    x, y = datasets.digits()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y, n = x.float()[order, None], y[order], 1200
    return x[:n], y[:n], x[n:], y[n:]


@torch.enable_grad()
def train(
    model: nn.Module, x: Tensor, y: Tensor, *, epochs: int, lr: float, batch: int, seed: int = 0
) -> nn.Module:
    """Adam on the cross entropy, the learning rate falling to zero along a cosine."""
    g = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    steps = epochs * -(-len(x) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=g).split(batch):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of images that are classified rightly."""
    return sum(
        int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(1000), y.split(1000))
    ) / len(y)


def factorised(model: nn.Module, structure: str, share: float, image: Tensor) -> nn.Module:
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
        make = functools.partial(STRUCTURES[structure], flops=share, size=sizes[name], **options)
        replace_conv(model, [name], make)
    return model


@torch.no_grad()
def kernel_error(model: nn.Module, reference: nn.Module) -> float:
    """Relative Frobenius error of the factorised kernels, all together."""
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
def dense(preset: str) -> nn.Module:
    """The trained network before anything is factorised; made once."""
    x, y, *_ = images(preset)
    sizes = SIZES[preset]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = small_cnn(x.shape[-1])
    return train(model, x, y, epochs=sizes["epochs"], lr=3e-3, batch=sizes["batch"])


def run(preset: str = "quick", *, resume: bool = True, progress: bool = True) -> Table:
    """One row for each structure and share: FLOPs of the network, error of the kernels, accuracy,
    wall time.

    flops, parameters: dense over factorised, of the whole network. error: relative, of both kernels
    together. before, after: accuracy in percent before and after fine-tuning. points: `after` less
    that of the dense network, trained on as long. speedup: wall time of one batch, dense over
    factorised, in turns.
    """
    check_preset(KEY, preset)
    network = {"quick": "digits CNN", "full": "MNIST CNN"}[preset]
    cases = [dict(network=network, structure="dense", share=1.0)]
    cases += [
        dict(network=network, structure=name, share=share)
        for share in SHARES[preset]
        for name in STRUCTURES
    ]
    settings = SIZES[preset] | dict(seed=0)
    return run_rows(
        KEY,
        preset,
        cases,
        functools.partial(_row, preset),
        settings=settings,
        resume=resume,
        progress=progress,
    )


def _row(preset, network, structure, share):
    x, y, test_x, test_y = images(preset)
    start = dense(preset)
    model = (
        copy.deepcopy(start) if structure == "dense" else factorised(start, structure, share, x[:1])
    )
    before = accuracy(model, test_x, test_y)
    error = kernel_error(model, start)
    sizes = SIZES[preset]
    train(model, x, y, epochs=sizes["tuning"], lr=1e-3, batch=sizes["batch"], seed=1)
    after = accuracy(model, test_x, test_y)
    return dict(
        flops=_work(start, x) / _work(model, x),
        parameters=_numel(start) / _numel(model),
        error=error,
        before=100 * before,
        after=100 * after,
        points=100 * (after - _tuned(preset)),
        speedup=speedup(start, model, test_x[:256]),
    )


@functools.cache
def _tuned(preset):
    """Accuracy of the dense network, fine-tuned as long as the others."""
    x, y, test_x, test_y = images(preset)
    sizes = SIZES[preset]
    model = train(
        copy.deepcopy(dense(preset)),
        x,
        y,
        epochs=sizes["tuning"],
        lr=1e-3,
        batch=sizes["batch"],
        seed=1,
    )
    return accuracy(model, test_x, test_y)


def _work(model, x):
    return sum(conv_flops(model, x[:1]).values())


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
    ax.set(xlabel="FLOPs, dense / factorised", ylabel="accuracy, points from dense", xscale="log")
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
