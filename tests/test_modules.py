"""Every module of the package: what it computes is in its state dict, and no call draws random
numbers."""

import importlib
import inspect
import pkgutil

import pytest
import torch
from torch import nn

import tensorlab as tl
from tensorlab.course.digits import RowReader
from tensorlab.course.lessons.attention import Nothing
from tensorlab.course.lessons.embedding import NextWord
from tensorlab.layers.attention import (
    LatentAttention,
    MultiHeadAttention,
    MultiLinearAttention,
    TensorProductAttention,
)
from tensorlab.layers.conv import FactorizedConv2d
from tensorlab.layers.embedding import TokenTrains, TTEmbedding
from tensorlab.layers.linear import FactorizedLinear
from tensorlab.methods.coded import QuantizedEmbedding, QuantizedFactors, quantize_rows
from tensorlab.models.bert import Bert
from tensorlab.models.gpt import GPT, Block
from tensorlab.models.lenet import LeNet
from tensorlab.models.mlp import MLP
from tensorlab.papers.megatron import Attention


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=9):
    return torch.randn(shape, generator=seeded(seed))


def table(seed, rows=20, out=(4, 5)):
    return TTEmbedding.randn(rows, 6, out, (2, 3), 2 + seed, generator=seeded(seed))


def table_in_bits(seed):
    return QuantizedEmbedding(quantize_rows(randn(20, 8, seed=seed), 8))


def factors_in_bits(seed):
    sizes = ((6, 4), 1), ((4, 8), 2)
    u, v = (tl.quantize(randn(*s, seed=seed + k), 8, generator=seeded(seed)) for s, k in sizes)
    return QuantizedFactors(u, v, randn(6, seed=seed))


def adapted(seed):
    torch.manual_seed(seed)
    model = tl.add_lora(nn.Sequential(nn.Linear(8, 6)), "0", 2, kind="dora", generator=seeded(seed))
    for k, t in enumerate(model[0].delta.tensors):
        t.data = randn(*t.shape, seed=seed + k)
    return model[0]


def quantized(seed):
    weight = tl.quantize(randn(6, 8, seed=seed), 3 + seed, generator=seeded(seed))
    return tl.QuantizedLinear(weight, randn(6, seed=seed))


def permuted(seed):
    w = torch.randn(6, 8, generator=seeded(seed))
    return tl.PermutedLinear(tl.kron_permuted(w, (2, 2), 2, generator=seeded(seed)).value)


def seeded_start(make):
    """A module whose start torch draws from its own generator."""

    def build(seed):
        torch.manual_seed(seed)
        return make()

    return build


def convolution(make):
    return seeded_start(lambda: make(nn.Conv2d(4, 6, 3)))


IDS, IMAGE = torch.randint(20, (3, 4), generator=seeded(9)), randn(2, 4, 7, 7)
# name: (seed -> a module, what it is called with); ranks and bits differ where loading adopts them
MODULES = {
    "FactorizedLinear": (
        lambda seed: FactorizedLinear(tl.LowRank.randn((6, 8), 2 + seed, generator=seeded(seed))),
        randn(3, 8),
    ),
    "LoRALinear": (adapted, randn(3, 8)),
    "QuantizedLinear": (quantized, randn(3, 8)),
    "QuantizedFactors": (factors_in_bits, randn(3, 8)),
    "QuantizedEmbedding": (table_in_bits, IDS),
    "PermutedLinear": (permuted, randn(3, 8)),
    "FactorizedConv2d": (
        lambda seed: convolution(lambda c: tl.svd_conv(c, 2 + seed))(seed),
        IMAGE,
    ),
    "ConvChain": (convolution(lambda c: tl.tucker_conv(c, 3)), IMAGE),
    "TTEmbedding": (table, IDS),
    "TokenTrains": (
        lambda seed: TokenTrains.from_dense(randn(20, 8, seed=seed), (2, 2, 2), rank=1 + seed),
        IDS,
    ),
    "NextWord": (lambda seed: NextWord(table(seed, 1024, (32, 32)), seeded(seed)), IDS),
    "MultiHeadAttention": (seeded_start(lambda: MultiHeadAttention(8, 2)), randn(3, 4, 8)),
    "LatentAttention": (
        seeded_start(lambda: LatentAttention(8, 2, 3, rotary=2)),
        randn(3, 4, 8),
    ),
    "TensorProductAttention": (seeded_start(lambda: TensorProductAttention(8, 2)), randn(3, 4, 8)),
    "MultiLinearAttention": (seeded_start(lambda: MultiLinearAttention(8, 5, 3)), randn(3, 4, 8)),
    "Attention": (seeded_start(lambda: Attention(8, 2)), randn(3, 4, 8)),
    "Nothing": (seeded_start(lambda: Nothing(8, 2)), randn(3, 4, 8)),
    "Block": (seeded_start(lambda: Block(8, 2, MultiHeadAttention)), randn(3, 4, 8)),
    "RowReader": (
        lambda seed: RowReader(width=8, depth=1, heads=2, generator=seeded(seed)),
        randn(3, 8, 8),
    ),
    "GPT": (
        lambda seed: GPT(20, width=8, depth=1, heads=2, context=4, generator=seeded(seed)),
        IDS,
    ),
    "Bert": (
        seeded_start(
            lambda: Bert(vocabulary=20, width=8, heads=2, inner=16, layers=1, positions=8)
        ),
        IDS,
    ),
    "LeNet": (
        lambda seed: LeNet(8, kernel=3, padding=1, generator=seeded(seed)),
        randn(3, 8, 8),
    ),
    "MLP": (lambda seed: MLP((8, 6, 4), generator=seeded(seed)), randn(3, 8)),
}
WRAPPED = {"SentenceEncoder"}  # a Bert behind a tokenizer
WRAPPED |= {"ShardedLinear", "DealtLinear", "Nap"}  # parts of a layer that several processes hold
WRAPPED |= {"ResidualBlock"}  # of such parts
BASES = {"Holding", "HoldsCodes", "CausalAttention"}  # of modules that are in the table

every_module = pytest.mark.parametrize(("build", "x"), MODULES.values(), ids=MODULES)


def modules_of_the_package():
    for info in pkgutil.walk_packages(tl.__path__, "tensorlab."):
        if info.name.endswith("__main__"):
            continue
        for name, thing in vars(importlib.import_module(info.name)).items():
            if inspect.isclass(thing) and issubclass(thing, nn.Module):
                if thing.__module__.startswith("tensorlab."):
                    yield name


def test_the_table_has_every_module():
    assert {*modules_of_the_package()} == MODULES.keys() | WRAPPED | BASES
    for name, (build, _) in MODULES.items():
        assert type(build(0)).__name__ == name
    assert isinstance(MODULES["FactorizedConv2d"][0](0), FactorizedConv2d)


@every_module
@pytest.mark.parametrize("training", [False, True])
def test_a_call_draws_no_random_numbers(build, x, training, monkeypatch):
    module = build(0).train(training)
    first, before = module(x), torch.get_rng_state()

    def refused(*args, **kwargs):
        raise AssertionError("a generator was made in a call")

    monkeypatch.setattr(torch, "Generator", refused)
    assert torch.equal(module(x), first) and torch.equal(torch.get_rng_state(), before)


@every_module
def test_a_state_dict_holds_all_that_a_module_computes_with(build, x, tmp_path):
    a, b = build(0), build(1)
    wanted = a(x)
    assert not torch.allclose(b(x), wanted)
    tl.save_state(tmp_path / "state", a.state_dict())
    b.load_state_dict(tl.load_state(tmp_path / "state"))
    assert torch.equal(b(x), wanted)
