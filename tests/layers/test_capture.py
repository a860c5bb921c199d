"""Every layer under what torch does with a layer besides running it: shapes without numbers,
transforms, captured graphs, copies.

`docs/capture.md` holds the table of what is possible; `python tests/layers/test_capture.py` prints
it.
"""

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.jit.frontend import FrontendError

import tensorlab as tl
from tensorlab.formats.lokr import LoKr
from tensorlab.methods.lora import KINDS

BOOK = Path(__file__).parents[2] / "docs" / "capture.md"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------------------------- the layers


def tokens(n, seed=0):
    return torch.randn(n, 12, generator=seeded(seed), dtype=torch.float64)


def images(n, seed=0):
    return torch.randn(n, 4, 7, 5, generator=seeded(seed), dtype=torch.float64)


def ids(n, seed=0):
    return torch.randint(0, 20, (n, 3), generator=seeded(seed))


class Case(NamedTuple):
    make: Callable[[], nn.Module]
    inputs: Callable[..., torch.Tensor] = tokens

    def layer(self):
        torch.manual_seed(0)
        return self.make().double()


class Head(nn.Module):
    """The output layer that an embedding is tied to."""

    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding

    def forward(self, x):
        return self.embedding.head(x)


def linear(weight):
    return tl.FactorizedLinear(weight, torch.linspace(-1, 1, weight.shape[0]))


def lokr(thin):
    last = [(4, 2), (2, 4)] if thin else [(4, 4)]
    return LoKr(*(torch.randn(*shape, generator=seeded()) for shape in ((2, 3), *last)))


def train(**modes):
    return tl.TTMatrix.randn(**modes, generator=seeded())


def adapted(kind, base=None):
    model = nn.Sequential(base or nn.Linear(12, 8))
    layer = tl.add_lora(model, "0", 2, kind=kind, generator=seeded())[0]
    for p in layer.delta.parameters():
        p.data.normal_(generator=seeded())
    return layer


def convolution(make, **options):
    return make(nn.Conv2d(4, 6, 3, padding=1, **options))


def embedding(*modes, **options):
    return tl.TTEmbedding.randn(20, 6, *modes, 2, generator=seeded(), **options)


def head(*modes, **options):
    return Head(tl.TTEmbedding.randn(8, 12, *modes, 3, generator=seeded(), **options))


LAYERS = {
    "nn.Linear": Case(lambda: nn.Linear(12, 8)),
    "LowRank": Case(lambda: linear(tl.LowRank.randn((8, 12), 3, generator=seeded()))),
    "LowRank of three factors": Case(
        lambda: linear(tl.LowRank.randn((8, 12), 3, generator=seeded()).orthogonal())
    ),
    "PivotedLowRank": Case(
        lambda: linear(
            tl.PivotedLowRank.from_lowrank(tl.LowRank.randn((8, 12), 3, generator=seeded()))
        )
    ),
    "TTMatrix": Case(lambda: linear(train(out=(2, 4), in_=(3, 4), rank=3))),
    "TTMatrix of one core": Case(lambda: linear(train(out=(8,), in_=(12,), rank=1))),
    "TTMatrix of three cores": Case(lambda: linear(train(out=(2, 2, 2), in_=(3, 2, 2), rank=3))),
    "TTMatrix with padding": Case(
        lambda: linear(train(out=(3, 4), in_=(3, 5), rank=3, shape=(8, 12)))
    ),
    "Kronecker": Case(lambda: linear(tl.Kronecker.randn((8, 12), 2, generator=seeded()))),
    "Kronecker of three factors": Case(
        lambda: linear(tl.Kronecker.randn((8, 12), 2, factors=3, generator=seeded()))
    ),
    "Kronecker with padding": Case(
        lambda: linear(tl.Kronecker.randn((8, 12), 2, out=(3, 3), in_=(5, 3), generator=seeded()))
    ),
    "Monarch": Case(lambda: linear(tl.Monarch.randn((8, 12), 2, generator=seeded()))),
    "Monarch with padding": Case(lambda: linear(tl.Monarch.randn((8, 12), 5, generator=seeded()))),
    "BlockTT": Case(lambda: linear(tl.BlockTT.randn((8, 12), 2, generator=seeded()))),
    "BlockTT of three cores": Case(
        lambda: linear(tl.BlockTT.randn((8, 12), 2, cores=3, generator=seeded()))
    ),
    "LoKr": Case(lambda: linear(lokr(False))),
    "LoKr of three factors": Case(lambda: linear(lokr(True))),
    **{f"LoRALinear, {kind}": Case(lambda kind=kind: adapted(kind)) for kind in KINDS},
    "LoRALinear, lora on a TTMatrix": Case(
        lambda: adapted("lora", linear(train(out=(2, 4), in_=(3, 4), rank=3)))
    ),
    "LoRALinear, dora on a TTMatrix": Case(
        lambda: adapted("dora", linear(train(out=(2, 4), in_=(3, 4), rank=3)))
    ),
    "nn.Conv2d": Case(lambda: convolution(lambda layer: layer), images),
    "FactorizedConv2d": Case(lambda: convolution(lambda layer: tl.svd_conv(layer, 3)), images),
    "FactorizedConv2d of three factors": Case(
        lambda: convolution(
            lambda layer: tl.FactorizedConv2d.from_conv(
                layer, lambda w: tl.LowRank.from_dense(w, 3).orthogonal()
            )
        ),
        images,
    ),
    "FactorizedConv2d, circular": Case(
        lambda: convolution(lambda layer: tl.svd_conv(layer, 3), padding_mode="circular"), images
    ),
    "cp_conv": Case(lambda: convolution(lambda layer: tl.cp_conv(layer, 3, max_iter=3)), images),
    "tucker_conv": Case(lambda: convolution(lambda layer: tl.tucker_conv(layer, 3)), images),
    "tt_conv": Case(lambda: convolution(lambda layer: tl.tt_conv(layer, 3)), images),
    "spatial_conv": Case(lambda: convolution(lambda layer: tl.spatial_conv(layer, 3)), images),
    "nn.Embedding": Case(lambda: nn.Embedding(20, 6), ids),
    "TTEmbedding": Case(lambda: embedding((4, 5), (2, 3)), ids),
    "TTEmbedding with padding": Case(lambda: embedding((3, 3, 3), (2, 2, 2), padding_idx=3), ids),
    "TTEmbedding.head": Case(lambda: head((2, 4), (3, 4))),
    "TTEmbedding.head with padding": Case(lambda: head((3, 4), (3, 5), padding_idx=3)),
    "TokenTrains": Case(
        lambda: tl.TokenTrains.from_dense(torch.randn(20, 8, generator=seeded()), (2, 2, 2), 2),
        ids,
    ),
}


# --------------------------------------------------------------------------------------- the ways


def close(got, wanted):
    """Within 256 eps of the largest number: sums of a hundred terms, a few of them in a row."""
    assert got.shape == wanted.shape and got.dtype == wanted.dtype
    if wanted.numel():
        error = float((got - wanted).detach().abs().max())
        assert error <= 256 * torch.finfo(wanted.dtype).eps * (
            1 + float(wanted.detach().abs().max())
        )


def trained(layer):
    named = ((name.removeprefix("_orig_mod."), p) for name, p in layer.named_parameters())
    return {name: p for name, p in named if p.requires_grad}


def same_for_any_batch(captured, layer, inputs, sizes=(1, 5, 40)):
    """The outputs and the gradients of the weights."""
    mine, theirs = trained(layer), trained(captured)
    assert mine.keys() == theirs.keys()
    for n in sizes:
        got, wanted = captured(inputs(n, 1)), layer(inputs(n, 1))
        close(got, wanted)
        if mine:
            got = torch.autograd.grad(got.square().sum(), [theirs[name] for name in mine])
            for a, b in zip(got, torch.autograd.grad(wanted.square().sum(), list(mine.values()))):
                close(a, b)


def without_numbers(layer, inputs):
    """On the meta device, and with fake tensors."""
    wanted = layer(inputs(3)).shape
    assert copy.deepcopy(layer).to("meta")(inputs(3).to("meta")).shape == wanted
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert layer(mode.from_tensor(inputs(3))).shape == wanted


def no_tokens(layer, inputs):
    """Empty batches, of two axes too where a batch may have them."""
    wanted = layer(inputs(3)).shape[1:]
    for axes in [(0,)] if inputs is images else [(0,), (2, 0), (0, 5)]:
        y = layer(inputs(0).reshape(*axes, *inputs(0).shape[1:]))
        assert y.shape == (*axes, *wanted)
        if y.requires_grad:
            y.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in layer.parameters())


def vmap(layer, inputs):
    """Over the inputs, down to a single one; the weights; the gradients of the samples."""
    x, fixed = inputs(6), dict(layer.named_parameters())
    call = lambda p, x: functional_call(layer, fixed | p, (x,))
    close(torch.vmap(layer)(x), layer(x))
    close(torch.vmap(layer)(x.unflatten(0, (2, 3))), layer(x).unflatten(0, (2, 3)))
    several = {name: torch.stack([p, 2 * p]).detach() for name, p in fixed.items()}
    wanted = [call({name: p[k] for name, p in several.items()}, x) for k in range(2)]
    close(torch.vmap(call, (0, None))(several, x), torch.stack(wanted))
    weights = {name: p.detach() for name, p in trained(layer).items()}
    if weights:
        gradient = torch.func.grad(lambda p, x: call(p, x).square().sum())
        each = torch.vmap(gradient, (None, 0))(weights, x[:, None])
        for name, g in gradient(weights, x).items():
            close(each[name].sum(0), g)


def jacobians(layer, inputs):
    """jacrev, jacfwd, jvp and dual numbers, of inputs and of weights; second derivatives."""
    x, weights = inputs(2), {name: p.detach() for name, p in layer.named_parameters()}
    call = lambda p: functional_call(layer, p, (x,))
    if x.is_floating_point():
        wanted = torch.autograd.functional.jacobian(layer, x)
        close(torch.func.jacrev(layer)(x), wanted)
        close(torch.func.jacfwd(layer)(x), wanted)
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, x))).tangent
        close(tangent, torch.tensordot(wanted, x, x.ndim))
    forward, backward = torch.func.jacfwd(call)(weights), torch.func.jacrev(call)(weights)
    for name in weights:
        close(forward[name], backward[name])
    y, tangent = torch.func.jvp(call, (weights,), (weights,))
    parts = [torch.tensordot(forward[name], w, w.ndim) for name, w in weights.items()]
    close(y, layer(x))
    close(tangent, torch.stack(parts).sum(0))
    loss = lambda p: call(p).square().sum()
    assert torch.func.hessian(loss)(weights).keys() == weights.keys()


def traced(layer, inputs):
    """With one batch, run and trained with others; saved and loaded; frozen."""
    graph, file = torch.jit.trace(layer, (inputs(3),)), io.BytesIO()
    same_for_any_batch(graph, layer, inputs)
    torch.jit.save(graph, file)
    file.seek(0)
    frozen = torch.jit.trace(copy.deepcopy(layer).eval().requires_grad_(False), (inputs(3),))
    for other in (torch.jit.load(file), torch.jit.freeze(frozen)):
        close(other(inputs(5, 1)), layer(inputs(5, 1)))


def exported(layer, inputs):
    """With a batch that may change, strict or not: run, trained, saved and loaded."""
    shapes, file = ({0: torch.export.Dim("batch")},), io.BytesIO()
    for strict in (False, True):
        program = torch.export.export(layer, (inputs(3),), dynamic_shapes=shapes, strict=strict)
        same_for_any_batch(program.module(), layer, inputs, (2, 5, 40))
    torch.export.save(program, file)
    file.seek(0)
    close(torch.export.load(file).module()(inputs(5, 1)), layer(inputs(5, 1)))


def compiled(layer, inputs):
    """One graph without a break, built again at most twice for five sizes, as torch's layers."""
    from torch._dynamo.testing import CompileCounterWithBackend

    for dynamic in (None, True):
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        graph = torch.compile(layer, backend=counter, fullgraph=True, dynamic=dynamic)
        same_for_any_batch(graph, layer, inputs, (3, 5, 7, 40, 41))
        assert counter.frame_count <= 3


def copied(layer, inputs):
    """By `copy.deepcopy`, pickle and `torch.save`."""
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    saved = torch.load(file, weights_only=False)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), saved):
        same_for_any_batch(other, layer, inputs)


def to_onnx(layer, inputs):
    """By the exporter that goes through a trace. The graph is converted first, then written
    with the package onnx, which need not be there."""
    options = dict(dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "batch"}})
    try:
        torch.onnx.export(layer, (inputs(3),), io.BytesIO(), **options)
    except torch.onnx.OnnxExporterError as error:
        assert "onnx is not installed" in str(error)


def scripted(layer, inputs):
    close(torch.jit.script(layer)(inputs(5)), layer(inputs(5)))


def leaf_traced(layer, inputs):
    """By a tracer to which a layer of ours is a leaf, as those of torch are to any."""

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module, name):
            return module is layer or super().is_leaf_module(module, name)

    model = nn.Sequential(layer)
    graph = torch.fx.GraphModule(model, Tracer().trace(model))
    same_for_any_batch(graph, model, inputs)


def fx_traced(layer, inputs):
    same_for_any_batch(torch.fx.symbolic_trace(layer), layer, inputs)


WAYS = {
    "meta, fake": without_numbers,
    "no tokens": no_tokens,
    "vmap": vmap,
    "jacrev, jvp": jacobians,
    "jit.trace": traced,
    "export": exported,
    "compile": compiled,
    "pickle": copied,
    "ONNX": to_onnx,
    "fx leaf": leaf_traced,
    "fx": fx_traced,
    "jit.script": scripted,
}


# -------------------------------------------------------------------------------------- the table

OF_TORCH = {
    *("nn.Linear", "nn.Conv2d", "nn.Embedding"),
    *("cp_conv", "tucker_conv", "tt_conv", "spatial_conv"),  # chains of torch's layers
}
CANNOT = {
    "jit.script": LAYERS.keys() - OF_TORCH,
    "fx": {n for n in LAYERS.keys() - OF_TORCH if not n.startswith("FactorizedConv2d")},
}
LONG = ("export", "compile")
QUICK = ("TTMatrix with padding", "BlockTT", "TTEmbedding")


def cells():
    for way in WAYS:
        for name in LAYERS:
            slow = way in LONG and name not in QUICK
            yield pytest.param(name, way, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(("name", "way"), list(cells()))
def test_layers(name, way):
    layer, inputs = LAYERS[name].layer(), LAYERS[name].inputs
    if name in CANNOT.get(way, ()):
        with pytest.raises((RuntimeError, TypeError, ValueError, FrontendError)):
            WAYS[way](layer, inputs)
    else:
        WAYS[way](layer, inputs)


def table() -> str:
    rows = [["layer", *WAYS], ["-", *("-" for _ in WAYS)]]
    for name in LAYERS:
        rows.append([name, *("no" if name in CANNOT.get(way, ()) else "yes" for way in WAYS)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def test_the_book_has_this_table():
    assert table() in BOOK.read_text(encoding="utf-8")


if __name__ == "__main__":
    print(table())
