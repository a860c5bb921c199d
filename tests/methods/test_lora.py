"""Adapters: nothing changes before the first step, merged equals unmerged, and PEFT's keys lead out
and back."""

import copy
import importlib.util

import pytest
import torch
from torch import nn

import tensorlab as tl
from tensorlab.formats.lokr import LoKr
from tensorlab.layers.surgery import replace_linear
from tensorlab.methods.dlrt import DLRT
from tensorlab.methods.lora import (
    KINDS,
    LoRALinear,
    add_lora,
    load_lora,
    load_lora_state_dict,
    lora_state_dict,
    merge_lora,
    save_lora,
    unmerge_lora,
)
from tensorlab.models.gpt import GPT
from tensorlab.models.mlp import MLP
from tensorlab.models.training import train

F64 = torch.float64


class Conv1D(nn.Module):
    """GPT-2's linear layer: weight (in, out)."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight, self.bias = (
            nn.Parameter(gaussian(nx, nf, seed=8)),
            nn.Parameter(gaussian(nf, seed=9)),
        )

    def forward(self, x):
        return x @ self.weight + self.bias


def gaussian(*shape, seed=0, dtype=F64):
    return tl.rng.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def network(kind="dense"):
    """12 -> 8 -> 6 -> 4, the middle layer of a kind."""
    torch.manual_seed(0)
    middle = Conv1D(6, 8) if kind == "conv1d" else nn.Linear(8, 6)
    model = nn.Sequential(
        nn.Linear(12, 8), nn.Tanh(), middle, nn.Tanh(), nn.Linear(6, 4, bias=False)
    ).double()
    if kind == "low rank":
        replace_linear(model, "2", tl.LowRank.from_dense, rank=3)
    if kind == "TT":
        replace_linear(model, "2", lambda w: tl.tt_matrix_svd(w, (3, 2), (4, 2), 2))
    return model


def trained(kind, base="dense", rank=2, steps=5, lr=0.05):
    """A network with adapters that have moved."""
    model = add_lora(
        network(base), "[024]", rank, kind=kind, generator=torch.Generator().manual_seed(1)
    )
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(gaussian(20, 12)) - gaussian(20, 4, seed=1)).square().mean().backward()
        optimizer.step()
    return model


BASES = ["dense", "conv1d", "low rank", "TT"]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_changes_before_the_first_step(kind, base):
    model, x = network(base), gaussian(5, 12)
    before = model(x)
    adapted = add_lora(model, "*", 2, kind=kind)
    assert adapted is model and torch.equal(model(x), before)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if ".base." in name}


@pytest.mark.parametrize(
    "kind, zero", [("lora", 1), ("rslora", 1), ("dora", 1), ("lokr", 1), ("lokr", 2)]
)
def test_the_gradient_of_all_but_the_zero_factor_is_zero_at_first(kind, zero):
    model = add_lora(network(), "0", 1, kind=kind)
    model(gaussian(5, 12)).square().sum().backward()
    gradients = [t.grad for t in model[0].delta.tensors]
    assert gradients[0].abs().max() > 0 and not gradients[zero].any()


@pytest.mark.thorough
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:merge_lora")
def test_merged_equals_unmerged(kind, base):
    model, x = trained(kind, base), gaussian(7, 12, seed=5)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    expected = model(x)
    assert not torch.allclose(expected, network(base)(x))  # the adapters did something
    assert torch.allclose(merge_lora(model)(x), expected, atol=1e-12)
    assert not any(isinstance(m, LoRALinear) for m in model.modules())
    if base != "TT" and (base, kind) != ("low rank", "lokr"):  # these two become dense
        assert model.state_dict().keys() == network(base).state_dict().keys()
        assert [type(m) for m in model] == [type(m) for m in network(base)]
    unmerge_lora(model)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert torch.equal(model(x), expected)


def test_merging_a_train_warns_and_low_rank_stays_low_rank():
    with pytest.warns(UserWarning, match="a TTMatrix plus a LowRank is merged as nn.Linear"):
        assert type(merge_lora(trained("lora", "TT"))[2]) is nn.Linear
    assert merge_lora(trained("lora", "low rank"))[2].weight.ranks == (5,)


# -- by hand


@pytest.mark.parametrize(
    "kind, scale", [("lora", 16 / 4), ("rslora", 16 / 2), ("dora", 16 / 4), ("lokr", 16 / 4)]
)
def test_scales(kind, scale):
    assert add_lora(network(), "0", 4, alpha=16.0, kind=kind)[0].scale == scale


@pytest.mark.parametrize("kind, scale", [("lora", 4.0), ("rslora", 8 / 2**0.5)])
def test_the_weight_is_what_the_keys_say(kind, scale):
    model, x = trained(kind), gaussian(3, 12)
    state = lora_state_dict(model)
    a, b = (state[f"base_model.model.0.lora_{part}.weight"] for part in "AB")
    assert a.shape == (2, 12) and b.shape == (8, 2)
    base = model[0].base
    assert torch.allclose(model[0](x), x @ (base.weight + scale * b @ a).T + base.bias)


def test_dora_by_its_formula_and_with_the_norm_as_a_constant():
    model, x = trained("dora"), gaussian(3, 12)
    layer, state = model[0], lora_state_dict(model)
    a, b, m = (
        state[f"base_model.model.0.lora_{part}"]
        for part in ("A.weight", "B.weight", "magnitude_vector")
    )
    v = layer.base.weight + layer.scale * b @ a
    norm = v.norm(dim=1, keepdim=True)
    assert torch.allclose(layer(x), x @ (m[:, None] * v / norm).T + layer.base.bias)
    model.zero_grad()
    layer(x).sum().backward()
    b = b.clone().requires_grad_()
    ((layer.base.weight + layer.scale * b @ a) * (m[:, None] / norm) @ x.T).sum().backward()
    assert torch.allclose(layer.delta.tensors[0].grad, b.grad)


@pytest.mark.parametrize("rank", [1, 2, 50])
def test_lokr_multiplies_as_the_kronecker_product(rank):
    model, x = (
        add_lora(nn.Sequential(nn.Linear(24, 30)).double(), "0", rank, kind="lokr"),
        gaussian(2, 3, 24),
    )
    w = model[0].delta.weight
    w = w.with_tensors(gaussian(*t.shape, seed=k) for k, t in enumerate(w.tensors()))
    assert w.w1.shape == (5, 4) and (w.b is None) == (2 * rank >= 6)
    assert torch.allclose(w.apply(x), x @ w.to_dense().T)
    second = w.a if w.b is None else w.a @ w.b
    assert torch.allclose(w.to_dense(), torch.kron(w.w1, second))
    assert torch.allclose(w.norm(), w.to_dense().norm()) and torch.allclose(
        w.scale(3).to_dense(), 3 * w.to_dense()
    )
    i1, r = w.w1.shape[1], w.a.shape[1]
    assert w.flops(3) == 6 * (
        (0 if w.b is None else i1 * w.b.numel()) + w.w1.numel() * r + 5 * r * 6
    )


def test_a_tied_head_leaves_its_embedding_alone():
    model = GPT(
        20, width=16, depth=1, heads=2, context=8, generator=torch.Generator().manual_seed(0)
    )
    table = model.token.weight.detach().clone()
    add_lora(model, ["head", "blocks.*.up"], 2)
    with torch.no_grad():
        model.head.delta.tensors[0].fill_(0.1)
    index = torch.arange(8)[None]
    expected = model(index)
    assert torch.allclose(merge_lora(model)(index), expected, atol=1e-5)
    assert torch.equal(model.token.weight, table) and model.head.weight is not model.token.weight
    assert unmerge_lora(model).head.base.weight is model.token.weight


def test_a_layer_in_two_places_has_one_adapter():
    layer = nn.Linear(4, 4)
    model = add_lora(nn.Sequential(layer, nn.ReLU(), layer), "*", 2)
    assert model[0] is model[2] and isinstance(model[0].base, nn.Linear)
    assert merge_lora(model)[0] is model[2]


def test_the_fused_path_of_torchs_encoder_sees_the_adapter():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0).eval()
    add_lora(model, "linear1", 2)
    x = torch.randn(2, 3, 8)
    with torch.no_grad():
        before = model(x)
        model.linear1.delta.tensors[0].fill_(1.0)
        assert not torch.allclose(model(x), before)


# -- read by others


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_weight_is_the_effective_one(kind, base):
    model, x = trained(kind, base), gaussian(7, 12)
    for layer, x in ((model[0], gaussian(7, 12)), (model[2], gaussian(7, 8))):
        w = layer.weight if not isinstance(layer.base, Conv1D) else layer.weight.mT
        assert w.shape == (layer.out_features, layer.in_features)
        assert torch.allclose(nn.functional.linear(x, w, layer.bias), layer(x), atol=1e-12)
        assert layer.weight.dtype == F64 and layer.bias is layer.base.bias
    want = torch.autograd.grad(model[0](x := gaussian(7, 12)).sum(), model[0].delta.tensors[0])
    y = nn.functional.linear(x, model[0].weight, model[0].bias)
    got = torch.autograd.grad(y.sum(), model[0].delta.tensors[0])
    assert torch.allclose(got[0], want[0], atol=1e-10)
    assert model[4].bias is None


def test_a_model_that_reads_its_layers_runs():
    """As T5 does: it casts to the dtype of a weight, and so reads it."""

    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.wo = nn.Linear(6, 4)

        def forward(self, x):
            return self.wo(x.to(self.wo.weight.dtype)) + 0 * self.wo.bias

    for kind in KINDS:
        model = add_lora(Reads(), "wo", 2, kind=kind)
        assert model(gaussian(3, 6)).shape == (3, 4)
        assert model.wo.weight.device == model.wo.delta.weight.device


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", KINDS)
def test_autocast_gives_the_dtype_of_a_dense_layer(kind, base, device):
    """Values and gradients are those of float32 to the rounding of a few products in bfloat16."""
    model = trained(kind, base).float().to(device)
    x = gaussian(7, 12).float().to(device)
    grow = 32 * torch.finfo(torch.bfloat16).eps
    for layer in (model[0], model[2]):
        x = x[:, : layer.in_features]
        wrt = [p for p in layer.parameters() if p.requires_grad]
        want = layer(x)
        exact = torch.autograd.grad(want.square().sum(), wrt)
        with torch.autocast(device.type, torch.bfloat16):
            y, like = layer(x), layer.base(x)
        assert y.dtype == like.dtype and (base == "conv1d" or y.dtype == torch.bfloat16)
        assert float((y.float() - want).detach().norm()) < grow * float(want.detach().norm())
        for g, e in zip(torch.autograd.grad(y.float().square().sum(), wrt), exact, strict=True):
            assert g.dtype == torch.float32 and float((g - e).norm()) <= grow * float(e.norm())
        assert layer(x[:0]).shape == (0, layer.out_features)


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_quantized_base(kind):
    torch.manual_seed(0)
    model = add_lora(nn.Sequential(nn.Linear(32, 16)), "0", 2, kind=kind)
    tl.quantize_model(model, "0.base", 4)
    with torch.no_grad():
        for t in model[0].delta.tensors:
            t.add_(0.05)
    x = gaussian(7, 32, dtype=torch.float32)
    want = model(x)
    assert torch.allclose(want, nn.functional.linear(x, model[0].weight, model[0].bias), atol=1e-4)
    want.sum().backward()
    assert all(t.grad is not None for t in model[0].delta.tensors)
    with pytest.warns(
        UserWarning, match="merge_lora: a Quantized plus a .* is merged as nn.Linear"
    ) as said:
        merge_lora(model)
    assert [w.filename for w in said] == [__file__]
    assert torch.allclose(model(x), want, atol=1e-4)
    assert torch.equal(unmerge_lora(model)(x), want)


# -- on disk


def test_a_bad_file_changes_no_layer():
    model = add_lora(network(), "[02]", 2, kind="dora")
    before = copy.deepcopy(model.state_dict())
    state = lora_state_dict(trained("dora"))
    state = {key: t for key, t in state.items() if ".4." not in key}
    for part, wrong in (
        ("lora_A.weight", torch.ones(2, 5)),
        ("lora_magnitude_vector", torch.ones(3)),
    ):
        with pytest.raises(ValueError, match="layer '2' needs"):
            load_lora_state_dict(model, state | {f"base_model.model.2.{part}": wrong.double()})
        assert all(torch.equal(t, before[key]) for key, t in model.state_dict().items())


def test_a_layer_that_is_loaded_keeps_its_mode():
    """The second factor of LoKr is dense at one rank and thin at another: a new layer stands for
    it."""
    state = lora_state_dict(trained("lokr", rank=1))
    model = add_lora(network(), "[024]", 9, kind="lokr").eval().requires_grad_(False)
    load_lora_state_dict(model, state)
    assert not any(m.training for m in model.modules())
    assert not any(p.requires_grad for p in model.parameters())


def test_a_file_for_layers_that_are_not_there(tmp_path):
    save_lora(tmp_path / "a.safetensors", add_lora(network(), "[02]", 2))
    model = nn.Sequential(*network()[:2])
    with pytest.raises(
        ValueError, match=r"load_lora: needs a name of a linear layer \(0\), got '2'"
    ):
        load_lora(tmp_path / "a.safetensors", model)
    assert isinstance(model[0], nn.Linear) and model[0].weight.requires_grad


@pytest.mark.parametrize("base", ["dense", "low rank"])
@pytest.mark.parametrize("kind", KINDS)
def test_keys_lead_out_and_back(kind, base):
    model, x = trained(kind, base), gaussian(3, 12)
    state = lora_state_dict(model)
    assert not any("base." in key.replace("base_model.", "") for key in state)
    fresh = add_lora(network(base), "[024]", 2, kind=kind)
    assert load_lora_state_dict(fresh, state) is fresh
    assert torch.allclose(fresh(x), model(x), atol=1e-12)
    live = {
        key.replace(".lora_A.", ".lora_A.default.").replace("vector", "vector.default.weight"): t
        for key, t in state.items()
    }
    assert torch.allclose(
        load_lora_state_dict(add_lora(network(base), "[024]", 2, kind=kind), live)(x),
        model(x),
        atol=1e-12,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_adapter_is_saved(kind, tmp_path):
    model, x = trained(kind), gaussian(3, 12)
    save_lora(tmp_path / "a.safetensors", model)
    numbers = sum(t.numel() for t in lora_state_dict(model).values())
    assert (tmp_path / "a.safetensors").stat().st_size < 8 * numbers + 2000
    assert torch.allclose(load_lora(tmp_path / "a.safetensors", network())(x), model(x), atol=1e-12)


def test_other_ranks_are_taken_over():
    state = lora_state_dict(trained("lora", rank=4))
    model = load_lora_state_dict(add_lora(network(), "[024]", 1), state)
    assert [model[k].delta.weight.ranks for k in (0, 2, 4)] == [(4,)] * 3
    state = lora_state_dict(trained("lokr", rank=1))
    assert (
        load_lora_state_dict(add_lora(network(), "[024]", 9, kind="lokr"), state)[0].delta.weight.b
        is not None
    )


if importlib.util.find_spec("peft"):  # no skip where it is missing: nothing here depends on it

    def test_peft_reads_the_keys_and_does_the_same():
        import peft

        model, x = trained("lora").float(), gaussian(3, 12, dtype=torch.float32)
        config = peft.LoraConfig(r=2, lora_alpha=8, target_modules=["0", "2", "4"])
        theirs = peft.get_peft_model(network().float(), config)
        peft.set_peft_model_state_dict(theirs, lora_state_dict(model))
        assert torch.allclose(theirs(x), model(x), atol=1e-6)
        assert peft.get_peft_model_state_dict(theirs).keys() == lora_state_dict(model).keys()


# -- trained by DLRT


def test_the_integrator_adapts_the_rank():
    """The dense layer misses a change of rank 3; the adapter starts at rank 6 and keeps what is
    needed."""
    target = nn.Linear(12, 10).double()
    model = add_lora(nn.Sequential(copy.deepcopy(target)), "0", 6, alpha=6.0, kind="dlrt")
    with torch.no_grad():
        target.weight += gaussian(10, 3, seed=1) @ gaussian(3, 12, seed=2)
    x = gaussian(200, 12, seed=3)
    dlrt = DLRT(
        model,
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.5),
        theta=0.01,
    )
    losses = [float(dlrt.step(lambda: (model(x) - target(x)).square().mean())) for _ in range(150)]
    assert dlrt.ranks == {"0.delta": 3} and losses[-1] < 1e-3 * losses[0]
    assert lora_state_dict(model)["base_model.model.0.lora_A.weight"].shape == (3, 12)
    assert torch.allclose(merge_lora(model)[0].weight, target.weight, atol=0.05)


# -- says no


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda m: add_lora(m, "7", 2), r"needs a name of a linear layer \(0, 2, 4\), got '7'"),
        (lambda m: add_lora(m, "0", 0), "rank must be an integer >= 1, got 0"),
        (lambda m: add_lora(m, "0", 2.0), "got 2.0"),
        (lambda m: add_lora(m, "0", 2, kind="loha"), "got 'loha'"),
        (
            lambda m: add_lora(add_lora(m, "0", 2), "0", 2),
            "needs layers without an adapter, got '0' for the adapted 0",
        ),
        (lambda m: merge_lora(m), "needs a model with adapters, got Sequential without one"),
        (lambda m: merge_lora(add_lora(m, "0", 2)[0]), "needs a model around its adapted layers"),
        (lambda m: unmerge_lora(m), "needs a model that merge_lora has changed"),
        (
            lambda m: load_lora_state_dict(add_lora(m, "0", 2), {"0.lora_A": torch.ones(1)}),
            "got '0.lora_A'",
        ),
        (
            lambda m: load_lora_state_dict(
                add_lora(m, "0", 2), {"base_model.model.2.lora_A.weight": torch.ones(1)}
            ),
            "needs the layers 0, got 2",
        ),
        (
            lambda m: load_lora_state_dict(
                add_lora(m, "0", 2), {"base_model.model.0.lora_A.weight": torch.ones(1)}
            ),
            "needs lora_A, lora_B, got lora_A",
        ),
        (
            lambda m: load_lora_state_dict(
                add_lora(m, "0", 2),
                lora_state_dict(add_lora(nn.Sequential(nn.Linear(5, 8)), "0", 2)),
            ),
            r"needs shape \(8, 12\), got \(8, 5\)",
        ),
        (lambda m: LoKr(torch.ones(2, 2), torch.ones(3, 2), torch.ones(3, 4)), "got shapes"),
    ],
)
def test_says_no(call, said):
    with pytest.raises(ValueError, match=said):
        call(network())


def test_a_second_call_leaves_the_first_adapters_trainable():
    model = add_lora(add_lora(network(), "0", 2), "2", 3, kind="dora")
    assert [m.kind for m in (model[0], model[2])] == ["lora", "dora"]
    assert all(p.requires_grad for k in (0, 2) for p in model[k].delta.parameters())


def test_any_dtype_and_device(device):
    for dtype in (torch.float32, torch.bfloat16, torch.complex64):
        model = add_lora(nn.Sequential(nn.Linear(6, 4, dtype=dtype, device=device)), "0", 2)
        x = torch.ones(3, 6, dtype=dtype, device=device)
        with torch.no_grad():
            model[0].delta.tensors[0].fill_(0.5)
        y = model(x)
        assert y.dtype == dtype and y.device.type == device.type
        assert torch.allclose(merge_lora(model)(x), y, rtol=0.05)


def test_mlp_on_digits_learns_through_the_adapter_alone():
    model = add_lora(
        MLP((6, 5, 3), generator=torch.Generator().manual_seed(0)),
        "*",
        2,
        generator=torch.Generator().manual_seed(1),
    )
    x, y = gaussian(30, 6, dtype=torch.float32), torch.arange(30) % 3
    frozen = [layer.base.weight.clone() for layer in model.layers]
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.05)
    losses = list(train(model, optimizer, x, y, epochs=30, batch=30))
    assert losses[-1] < 0.7 * losses[0] and all(
        torch.equal(a, layer.base.weight) for a, layer in zip(frozen, model.layers)
    )
