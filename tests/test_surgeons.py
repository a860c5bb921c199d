"""Every function that replaces layers or writes to their weights, on every model that is not plain:
computed weights, overridden forwards, hooks, ties, frozen parts, fused encoders, no numbers.

Each keeps the right numbers, or refuses in one sentence before anything has changed.
"""

import copy
import gc
import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import prune as torch_prune

import tensorlab as tl
from tensorlab.layers.conv import FactorizedConv2d
from tensorlab.layers.linear import FactorizedLinear
from tensorlab.layers.select import LINEAR, choose
from tensorlab.methods.admm import ADMM
from tensorlab.methods.lora import LoRALinear
from tensorlab.methods.projected import Projected
from tensorlab.methods.pruning import block_masks, forward_flops, hold, lottery

F64 = torch.float64
FULL = 1000  # a cap that no rank reaches


def full(w):
    return tl.LowRank.from_dense(w, min(w.shape))


class Conv1D(nn.Module):
    """GPT-2's linear layer."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.weight = nf, nn.Parameter(torch.randn(nx, nf, dtype=F64))
        self.bias = nn.Parameter(torch.randn(nf, dtype=F64))

    def forward(self, x):
        return x @ self.weight + self.bias


def old(wrap):
    def wrapped(layer):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return wrap(layer)

    return wrapped


COMPUTED = {
    "weight_norm": parametrizations.weight_norm,
    "old weight_norm": old(nn.utils.weight_norm),
    "spectral_norm": parametrizations.spectral_norm,
    "old spectral_norm": old(nn.utils.spectral_norm),
    "orthogonal": parametrizations.orthogonal,
    "mask": lambda layer: torch_prune.l1_unstructured(layer, "weight", 0.25),
}
SETTABLE = ("weight_norm", "old weight_norm")  # any value can be written to these
MAKES = {
    "linear": lambda: nn.Linear(6, 6, dtype=F64),
    "conv1d": lambda: Conv1D(6, 6),
    "conv": lambda: nn.Conv2d(4, 6, 3, dtype=F64),
}
INPUTS = {"linear": (5, 6), "conv1d": (5, 6), "conv": (2, 4, 7, 7)}


def seeded():
    return torch.Generator().manual_seed(0)


def network(kind, how=None, dtype=F64):
    """A model whose layer "0" is of a kind, its weight computed in some way; in eval its output is
    settled."""
    torch.manual_seed(0)
    layer = MAKES[kind]()
    layer = layer if how is None else COMPUTED[how](layer)
    model = nn.Sequential(layer, nn.Tanh()).to(dtype)
    model(data(kind).to(dtype))
    return model


def data(kind, n=None):
    shape = INPUTS[kind]
    g = torch.Generator().manual_seed(1)
    return torch.randn(n or shape[0], *shape[1:], generator=g, dtype=F64)


def state(model):
    return {key: t.clone() for key, t in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(t, b[key]) for key, t in a.items())


def convs(make):
    return lambda m: tl.replace_conv(m, "0", make)


def adapted_and_merged(kind):
    def act(model):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return tl.merge_lora(tl.add_lora(model, "0", 2, kind=kind))

    return act


# name -> (the kinds of layers it takes, what it does to a model whose layer "0" it shall replace)
REPLACE = {
    "replace_linear": ("linear conv1d", lambda m: tl.replace_linear(m, "0", full)),
    "from_linear": ("linear conv1d", lambda m: put(m, FactorizedLinear.from_linear(m[0], full))),
    "fold_linear": (
        "linear conv1d",
        lambda m: tl.fold_linear(tl.replace_linear(m, "0", full), "0"),
    ),
    "add_lora": ("linear conv1d", lambda m: tl.add_lora(m, "0", 2)),
    "add_lora dora": ("linear conv1d", lambda m: tl.add_lora(m, "0", 2, kind="dora")),
    "merge_lora": ("linear conv1d", adapted_and_merged("lora")),
    "merge_lora dora": ("linear conv1d", adapted_and_merged("dora")),
    "merge_lora lokr": ("linear conv1d", adapted_and_merged("lokr")),
    "cp_conv": ("conv", convs(lambda layer: tl.cp_conv(layer, FULL))),
    "tucker_conv": ("conv", convs(lambda layer: tl.tucker_conv(layer, FULL))),
    "tt_conv": ("conv", convs(lambda layer: tl.tt_conv(layer, FULL))),
    "spatial_conv": ("conv", convs(lambda layer: tl.spatial_conv(layer, FULL))),
    "svd_conv": ("conv", convs(lambda layer: tl.svd_conv(layer, FULL))),
    "from_conv": ("conv", lambda m: put(m, FactorizedConv2d.from_conv(m[0], full))),
}


def put(model, layer):
    model[0] = layer
    return model


def replacers():
    return [
        pytest.param(kind, act, id=f"{name}-{kind}")
        for name, (kinds, act) in REPLACE.items()
        for kind in kinds.split()
    ]


replacer = pytest.mark.parametrize("kind, act", replacers())


# ---------------------------------------------------------------------- weights that are computed


def stepped(kind, how):
    """A network whose parameters have moved since its last forward, as after an optimizer's step:
    what an older hook left behind is out of date."""
    model = network(kind, how).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    return model


@pytest.mark.parametrize("how", COMPUTED)
@replacer
def test_a_computed_weight_is_taken_as_it_is(kind, act, how):
    want = stepped(kind, how)(data(kind))
    assert torch.allclose(act(stepped(kind, how))(data(kind)), want, atol=1e-8)


@pytest.mark.parametrize("how", [None, *COMPUTED])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind, act", [p for p in replacers() if "lora" not in p.id])
def test_what_trained_trains_and_what_was_frozen_is(kind, act, how, frozen):
    model = network(kind, how).eval()
    for name, p in model.named_parameters():
        p.requires_grad_(not frozen or "bias" in name)
    bias = model[0].bias
    act(model)
    for name, p in model.named_parameters():
        assert p.requires_grad == (not frozen or name.endswith("bias"))
    assert not any(m.training for m in model.modules())
    if not frozen:
        model(data(kind)).square().sum().backward()
        assert all(p.grad is not None for p in model.parameters())
    assert torch.equal(model[0].bias, bias)


def test_an_embedding_with_a_computed_or_frozen_table():
    torch.manual_seed(0)
    dense = parametrizations.weight_norm(nn.Embedding(20, 6, dtype=F64))
    layer = tl.TTEmbedding.from_embedding(dense, (4, 5), (2, 3), rtol=1e-13)
    ids = torch.arange(20)
    assert torch.allclose(layer(ids), dense(ids), atol=1e-10) and layer.cores[0].requires_grad
    dense = nn.Embedding(20, 6).requires_grad_(False).eval()
    layer = tl.TTEmbedding.from_embedding(dense, (4, 5), (2, 3), rank=2)
    assert not layer.training and not any(p.requires_grad for p in layer.parameters())


# -- and written to


def sgd(model):
    return torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)


def pruned(model):
    tl.prune(model, tl.magnitude_masks(model, "0", 0.5))


def blocks(model):
    tl.prune(model, block_masks(model, "0", 0.5, (2, 3)))


def held(model):
    optimizer = sgd(model)
    hold(optimizer, model, tl.magnitude_masks(model, "0", 0.5))
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(1, *model[0].weight.shape[1:], dtype=F64)).sum().backward()
        optimizer.step()


PRUNE = {"prune": pruned, "block_masks": blocks}


@pytest.mark.parametrize("how", [None, "weight_norm", "old weight_norm", "mask"])
@pytest.mark.parametrize("kind", MAKES)
def test_half_of_the_weights_fall(kind, how):
    model = network(kind, how)
    n = tl.layers.dense.dense_weight(model[0]).numel()
    masks = tl.magnitude_masks(model, "0", 0.5)
    bias = model[0].bias.detach().clone()
    assert tl.prune(model, masks) is model
    assert int((model[0].weight == 0).sum()) == n // 2 and torch.equal(model[0].bias, bias)
    optimizer = sgd(model)
    handle = hold(optimizer, model, masks)
    for _ in range(3):
        optimizer.zero_grad()
        model(data(kind)).square().sum().backward()
        optimizer.step()
        model(data(kind))
        assert int((model[0].weight == 0).sum()) == n // 2
        assert not model[0].weight[~masks["0"]].any() and model[0].weight[masks["0"]].all()
    handle.remove()


@pytest.mark.parametrize("how", ["spectral_norm", "old spectral_norm", "orthogonal"])
@pytest.mark.parametrize("kind", MAKES)
def test_what_cannot_be_pruned_is_refused_with_nothing_changed(kind, how):
    model = nn.Sequential(MAKES[kind](), network(kind, how)[0])
    masks = tl.magnitude_masks(model, "*", 0.5)
    before = state(model)
    for act in (lambda: tl.prune(model, masks), lambda: hold(sgd(model), model, masks)):
        with pytest.raises(
            ValueError, match="prune: needs a weight that can be set, got layer '1'"
        ):
            act()
        assert same(state(model), before)


WRITE = {
    "Projected rank": lambda m, o: Projected(m, o, "0", rank=2),
    "Projected penalty": lambda m, o: Projected(m, o, "0", penalty=100.0),
    "ADMM": lambda m, o: ADMM(m, o, {"0": lambda w: full2(w)}, rho=0.5, every=1),
}


def full2(w):
    return tl.LowRank.from_dense(w.flatten(1), 2)


@pytest.mark.parametrize("how", [None, *COMPUTED])
@pytest.mark.parametrize("kind", MAKES)
@pytest.mark.parametrize("method", WRITE)
def test_projections_land_or_are_refused_with_nothing_changed(kind, how, method):
    model = network(kind, how)
    before, optimizer = state(model), sgd(model)
    if how is not None and how not in SETTABLE:
        with pytest.raises(ValueError, match="needs a weight that can be set, got layer '0'"):
            WRITE[method](model, optimizer)
        assert same(state(model), before)
        return
    made = WRITE[method](model, optimizer)
    start = tl.layers.dense.dense_weight(model[0]).detach().clone()
    for _ in range(3):
        made.step(lambda: (model(data(kind)) - 1).square().mean())
    if method == "ADMM":
        made.finish()
    model(data(kind))
    w = tl.layers.dense.dense_weight(model[0]).detach().flatten(1)
    rank = made.ranks["0"] if method != "ADMM" else 2
    s = torch.linalg.svdvals(w)
    assert 1 <= rank < 6 and float(s[rank:].norm()) < 1e-12 * float(s.norm())
    assert not torch.equal(w, start.flatten(1))


@pytest.mark.parametrize("how", [None, *SETTABLE])
def test_admm_pulls_a_computed_weight_as_a_plain_one(how):
    """The gradient of ρ/2 |W - Z + U|² arrives at the parameters that W is computed from."""
    model = network("linear", how)
    admm = ADMM(model, sgd(model), {"0": full2}, rho=2.0)
    layer, z = model[0], admm.z["0"]
    w = tl.layers.dense.current(layer)
    parameters = tl.layers.dense.parameters_of(layer)
    want = torch.autograd.grad((w - z).square().sum(), parameters)  # ρ/2 = 1
    before = [p.detach().clone() for p in parameters]
    admm.step(lambda: 0.0 * model(data("linear")).sum())
    for p, b, g in zip(parameters, before, want, strict=True):
        assert torch.allclose(b - p, 0.01 * g, atol=1e-12)


@pytest.mark.parametrize("how", [None, "weight_norm", "old weight_norm", "mask"])
def test_the_lottery_of_a_computed_weight(how):
    model, x = network("linear", how), data("linear")
    start = tl.layers.dense.current(model[0]).detach().clone()

    def train(model, masks):
        w = tl.layers.dense.current(model[0]).detach()
        assert torch.allclose(w, start * masks["0"], atol=1e-14)
        optimizer = sgd(model)
        hold(optimizer, model, masks)
        for _ in range(2):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
        return 10

    shares = [t.sparsity for t in lottery(model, train, "0", x, rounds=2, prune_rate=0.5)]
    assert shares == pytest.approx([0.0, 0.5, 0.75])


# --------------------------------------------------------------------------- overridden forwards


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Turned(Conv1D):
    def forward(self, x):
        return -super().forward(x)


class Padded(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return 2 * super()._conv_forward(x, weight, bias)


def patched(make):
    def made():
        layer = make()
        forward = layer.forward
        layer.forward = lambda x: 3 * forward(x)
        return layer

    return made


OWN = {
    "linear": [lambda: Scaled(6, 6, dtype=F64), patched(MAKES["linear"])],
    "conv1d": [lambda: Turned(6, 6), patched(MAKES["conv1d"])],
    "conv": [lambda: Padded(4, 6, 3, dtype=F64), patched(MAKES["conv"])],
}


@pytest.mark.parametrize("which", [0, 1])
@replacer
def test_an_overridden_forward_is_refused_with_nothing_changed(kind, act, which):
    torch.manual_seed(0)
    layer = OWN[kind][which]()
    model, before = nn.Sequential(layer), state(layer)
    with pytest.raises((ValueError, TypeError), match="overrides forward"):
        act(model)
    assert model[0] is layer and same(before, state(layer))
    assert all(p.requires_grad for p in layer.parameters())


@pytest.mark.parametrize(
    "act",
    [
        lambda m: tl.replace_linear(m, "*", full),
        lambda m: tl.merge_lora(tl.add_lora(m, "*", 2)),
    ],
    ids=["replace_linear", "add_lora"],
)
def test_beside_others_it_is_left_and_named(act):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 6), Scaled(6, 6), nn.LazyLinear(4), MAKES["conv1d"]().float()
    )
    model = nn.ModuleList(model)
    x = torch.randn(3, 6)
    want = [model[k](x) for k in (0, 1, 3)]
    said = r"left as they are: 1 \(overrides forward \(Scaled\)\), 2 \(has no weights before"
    with pytest.warns(UserWarning, match=said):
        act(model)
    assert type(model[1]) is Scaled
    for k, y in zip((0, 1, 3), want):
        assert torch.allclose(model[k](x), y, atol=1e-5)


def test_masks_and_projections_do_not_mind_an_overridden_forward():
    torch.manual_seed(0)
    model, x = nn.Sequential(Scaled(6, 6)), torch.randn(3, 6)
    pruned(model)
    assert int((model[0].weight == 0).sum()) == 18
    assert torch.allclose(model(x), 2 * nn.functional.linear(x, model[0].weight, model[0].bias))
    Projected(model, sgd(model), "*", rank=2).step(lambda: model(x).sum())
    assert int(torch.linalg.matrix_rank(model[0].weight)) == 2


def test_an_embedding_that_overrides_forward():
    class Shifted(nn.Embedding):
        def forward(self, ids):
            return super().forward(ids) + 1

    with pytest.raises(TypeError, match=r"TTEmbedding: .* overrides forward \(Shifted\)"):
        tl.TTEmbedding.from_embedding(Shifted(20, 6), (4, 5), (2, 3), 2)
    with pytest.raises(TypeError, match="TTEmbedding: needs .* without scale_grad_by_freq"):
        dense = nn.Embedding(20, 6, scale_grad_by_freq=True)
        tl.TTEmbedding.from_embedding(dense, (4, 5), (2, 3), 2)


# ------------------------------------------------------------------------------------------- hooks


SURGEONS = {name: REPLACE[name] for name in REPLACE if not name.startswith("from_")}


@pytest.mark.parametrize("kind, act", [p for p in replacers() if not p.id.startswith("from_")])
def test_hooks_go_over_and_their_handles_end_them(kind, act):
    model, x = network(kind), data(kind).requires_grad_()
    seen = []
    layer = model[0]
    handles = [
        layer.register_forward_pre_hook(lambda m, args: (2 * args[0],)),
        layer.register_forward_hook(lambda m, args, kwargs, y: y + 1, with_kwargs=True),
        layer.register_full_backward_hook(lambda m, gx, gy: (3 * gx[0],)),
        layer.register_full_backward_pre_hook(lambda m, gy: seen.append(type(m).__name__)),
        layer.register_forward_hook(lambda m, args, y: seen.append("always"), always_call=True),
    ]
    want = model(x)
    (gradient,) = torch.autograd.grad(want.sum(), x)
    seen.clear()
    got = act(model)(x)
    assert model[0] is not layer and torch.allclose(got, want, atol=1e-8)
    assert torch.allclose(torch.autograd.grad(got.sum(), x)[0], gradient, atol=1e-8)
    assert seen == ["always", type(model[0]).__name__]
    for handle in handles:
        handle.remove()
    assert torch.allclose(model(x), network(kind)(x), atol=1e-8)
    assert len(seen) == 2


def test_hooks_see_the_sum_and_come_back_when_a_merge_is_undone():
    model, x = network("linear"), data("linear")
    seen = []
    model[0].register_forward_hook(lambda m, args, y: seen.append(y.detach()))
    tl.add_lora(model, "0", 2)
    with torch.no_grad():
        model[0].delta.tensors[0].fill_(0.3)
    ys = [m(x) for m in (model, tl.merge_lora(model), tl.unmerge_lora(model))]
    assert len(seen) == 3 and all(torch.allclose(torch.tanh(y), ys[0]) for y in seen)


def test_the_hook_that_computes_a_weight_stays_with_it():
    model = network("linear", "old weight_norm")
    model[0].register_forward_hook(lambda m, args, y: 2 * y)
    y, bias = torch.atanh(model(data("linear"))) / 2, model[0].bias  # w x + b
    tl.add_lora(model, "0", 2)
    with torch.no_grad():
        model[0].base.weight_g.mul_(3)  # a weight that is not computed anew would be seen
    want = torch.tanh(2 * (3 * (y - bias) + bias))
    assert torch.allclose(model(data("linear")), want, atol=1e-8)


# --------------------------------------------------------------------------------- torch's encoders


def encoder(**options):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(
        8, 2, 16, batch_first=True, dropout=0.1, dtype=F64, **options
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = nn.TransformerEncoder(layer, 2).eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model


ENCODERS = {
    "replace_linear": lambda m, names: tl.replace_linear(m, names, full),
    "add_lora": lambda m, names: tl.add_lora(m, names, 2),
    "dora": lambda m, names: tl.add_lora(m, names, 2, kind="dora"),
    "merge_lora": lambda m, names: tl.merge_lora(tl.add_lora(m, names, 2)),
    "unmerge_lora": lambda m, names: tl.unmerge_lora(tl.merge_lora(tl.add_lora(m, names, 2))),
}


@pytest.mark.parametrize("act", ENCODERS.values(), ids=ENCODERS)
@pytest.mark.parametrize("names", ["*", "layers.0.*", "layers.1.*", "layers.1.linear2"])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.filterwarnings("ignore:.*left as they are:UserWarning")
def test_an_encoder_in_eval_with_a_padding_mask(act, names, frozen, grad):
    model = encoder()
    x = torch.randn(3, 5, 8, dtype=F64, generator=torch.Generator().manual_seed(2))
    mask = torch.arange(5) >= torch.tensor([[5], [3], [2]])
    with torch.set_grad_enabled(grad):
        want = [model(x), model(x, src_key_padding_mask=mask)]
        act(model, names)
        if frozen:
            model.requires_grad_(False)
        got = [model(x), model(x, src_key_padding_mask=mask)]
    assert torch.allclose(got[0], want[0], atol=1e-10)
    assert torch.allclose(got[1][~mask], want[1][~mask], atol=1e-10)


def test_an_encoder_in_training_draws_the_same_dropout():
    model = encoder().train()
    other = tl.replace_linear(copy.deepcopy(model), "layers.*.linear*", full)
    x = torch.randn(3, 5, 8, dtype=F64)
    ys = []
    for m in (model, other):
        torch.manual_seed(3)
        ys.append(m(x))
    assert torch.allclose(*ys, atol=1e-10)


# ----------------------------------------------------------------------------- sharing and freezing


def test_convolutions_that_share_a_kernel_share_the_new_one():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1, dtype=F64) for _ in range(3)))
    model[1].weight = model[0].weight
    model[2].bias = model[0].bias
    x = torch.randn(2, 4, 5, 5, dtype=F64)
    for make in (tl.tucker_conv, tl.svd_conv, tl.cp_conv):
        net = copy.deepcopy(model)
        want, kept = net(x), net[0].bias
        tl.replace_conv(net, "*", lambda layer, make=make: make(layer, FULL))
        assert torch.allclose(net(x), want, atol=1e-9)
        mine, theirs, alone = (
            {k: p for k, p in m.named_parameters() if "bias" not in k} for m in net
        )
        assert all(p is theirs[key] for key, p in mine.items())
        assert all(p is not alone[key] for key, p in mine.items())
        assert net[0].bias is kept is net[2].bias and net[1].bias is not kept


def test_a_kernel_held_elsewhere_is_left():
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    model[1].weight = model[0].weight
    with pytest.warns(UserWarning, match=r"left as they are: 0 \(shares its weight with 1\)"):
        tl.replace_conv(model, ["0", "2"], lambda layer: tl.svd_conv(layer, 2))
    assert isinstance(model[0], nn.Conv2d) and model[1].weight is model[0].weight


def test_kernels_that_share_and_come_out_unlike_are_refused():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3))
    model[1].weight = model[0].weight
    ranks = {(1, 1): 2, (0, 0): 3}
    with pytest.raises(ValueError, match="needs tensors of one shape for 0 and 1, which share"):
        tl.replace_conv(model, "*", lambda layer: tl.svd_conv(layer, ranks[layer.padding]))
    assert all(isinstance(m, nn.Conv2d) for m in model)


@pytest.mark.parametrize("names", ["0", "2", "*", ["2", "0"]])
@pytest.mark.parametrize(
    "kind, act",
    [
        ("linear", lambda m, names: tl.replace_linear(m, names, full)),
        ("linear", lambda m, names: tl.add_lora(m, names, 2)),
        ("linear", lambda m, names: tl.merge_lora(tl.add_lora(m, names, 2))),
        ("square", lambda m, names: tl.replace_conv(m, names, lambda c: tl.tucker_conv(c, FULL))),
    ],
    ids=["replace_linear", "add_lora", "merge_lora", "replace_conv"],
)
def test_a_module_under_two_names_stays_one(kind, act, names):
    torch.manual_seed(0)
    layer = MAKES["linear"]() if kind == "linear" else nn.Conv2d(4, 4, 3, padding=1, dtype=F64)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    x = data("linear") if kind == "linear" else torch.randn(2, 4, 5, 5, dtype=F64)
    want = model(x)
    act(model, names)
    assert model[0] is model[2] and model[0] is not layer
    assert torch.allclose(model(x), want, atol=1e-8)


def test_shared_weights_are_masked_once():
    model = nn.Sequential(*(nn.Linear(5, 5, bias=False) for _ in range(3)))
    model[2].weight = model[0].weight
    for share in (0.1, 0.33, 0.5):
        masks = tl.magnitude_masks(model, "*", share)
        assert list(masks) == ["0", "1"]
        pruned = tl.prune(copy.deepcopy(model), masks)
        zeros = sum(int((m.weight == 0).sum()) for m in (pruned[0], pruned[1]))
        assert zeros == round(share * 50)
    layer = nn.Linear(3, 3)
    assert list(tl.magnitude_masks(nn.Sequential(layer, layer), "1", 0.5)) == ["1"]


def test_a_report_of_ties_can_be_printed():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    report = tl.layer_report(model)
    assert str(report).splitlines()[2].split() == ["1", "dense", "4x4", "0", "0", "32", "0"]
    assert np.isnan(report["1"].storage_ratio) and report.total("parameters") == 16
    computed = nn.Sequential(*(parametrizations.weight_norm(nn.Linear(4, 4)) for _ in range(5)))
    rows = tl.layer_report(computed).rows
    assert [row.parameters for row in rows] == [16 + 4] * 5


@pytest.mark.parametrize("method", WRITE)
def test_what_the_optimizer_does_not_train_is_left_and_named(method):
    model = nn.Sequential(MAKES["linear"](), MAKES["linear"]())
    model[0].weight.requires_grad_(False)
    kept = model[0].weight.clone()
    makers = {
        "Projected rank": lambda m, o: Projected(m, o, "*", rank=2),
        "Projected penalty": lambda m, o: Projected(m, o, "*", penalty=100.0),
        "ADMM": lambda m, o: ADMM(m, o, {"*": full2}, rho=0.5),
    }
    said = r"left as they are: 0 \(the optimizer does not train it\)"
    with pytest.warns(UserWarning, match=said):
        made = makers[method](model, sgd(model))
    made.step(lambda: model(data("linear")).square().sum())
    assert torch.equal(model[0].weight, kept) and list(made.layers) == ["1"]
    with pytest.raises(
        ValueError, match=r"needs a layer that it can change, got 0 \(the optimizer"
    ):
        WRITE[method](model, torch.optim.SGD(model[1].parameters(), 0.1))


# ------------------------------------------------------------------- what is passed over, and names


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.turned = nn.Linear(6, 5, dtype=F64), Conv1D(5, 6)

    def forward(self, x):
        return self.fc(x) + self.turned(x)


def twin():
    """A block whose Conv1D holds the weight of its linear layer, transposed."""
    torch.manual_seed(0)
    block = Block()
    with torch.no_grad():
        block.turned.weight.copy_(block.fc.weight.mT)
    return block


@pytest.mark.parametrize("across", ["model", "layer"])
@pytest.mark.parametrize("block", [(1, 1), (2, 3)])
def test_conv1d_is_masked_as_the_linear_layer_that_it_is(across, block):
    masks = block_masks(twin(), "*", 0.4, block, across=across)
    assert masks["turned"].shape == (6, 5)
    if across == "layer":
        assert torch.equal(masks["turned"].mT, masks["fc"])
    again = block_masks(twin(), "*", 0.7, block, across=across, masks=masks)
    assert not any((again[name] & ~masks[name]).any() for name in masks)
    model = tl.prune(twin(), masks)
    assert torch.equal(model.turned.weight == 0, ~masks["turned"])
    assert forward_flops(twin(), data("linear")) == 2 * 60
    assert forward_flops(model, data("linear"), masks) == 2 * sum(
        int(m.sum()) for m in masks.values()
    )


def test_conv1d_is_projected_as_the_linear_layer_that_it_is():
    for make in (
        lambda m, o: Projected(m, o, "*", rank=2),
        lambda m, o: ADMM(
            m, o, {"*": lambda w: tl.LowRank.from_dense(w, (w.shape == (5, 6)) + 1)}, rho=0.5
        ),
    ):
        model = twin()
        made = make(model, torch.optim.SGD(model.parameters(), 1e-9))
        made.step(lambda model=model: model(data("linear")).sum())
        if isinstance(made, ADMM):
            assert [tuple(z.shape) for z in made.z.values()] == [(5, 6), (5, 6)]
            made.finish()
        assert torch.allclose(model.turned.weight.mT, model.fc.weight, atol=1e-6)
        assert int(torch.linalg.matrix_rank(model.turned.weight)) == 2


@pytest.mark.parametrize("make", [lambda: nn.Conv1d(3, 4, 3), lambda: nn.Conv3d(2, 4, 2)])
def test_every_convolution_has_masks_and_projections(make):
    torch.manual_seed(0)
    model = nn.Sequential(make())
    n = model[0].weight.numel()
    assert int((~tl.magnitude_masks(model, "*", 0.5)["0"]).sum()) == n // 2
    x = torch.randn(2, model[0].in_channels, *(5,) * (model[0].weight.ndim - 2))
    Projected(model, sgd(model), "*", rank=2).step(lambda: model(x).sum())
    assert int(torch.linalg.matrix_rank(model[0].weight.flatten(1))) == 2
    places = model(x).numel() // 2 // 4
    assert forward_flops(model, x) == 2 * n * places


class Odd(nn.Module):
    """What a user may count among linear layers or convolutions, and no function here works on."""

    def __init__(self):
        super().__init__()
        self.fc, self.conv = nn.Linear(4, 4), nn.Conv2d(2, 2, 1)
        self.attention, self.mix = nn.MultiheadAttention(4, 2), nn.Bilinear(4, 4, 4)
        self.up, self.line, self.rnn = nn.ConvTranspose2d(2, 2, 1), nn.Conv1d(2, 2, 1), nn.GRU(4, 4)


NAMED = {
    "replace_linear": (lambda m, n: tl.replace_linear(m, n, full), {"attention", "mix", "rnn"}),
    "add_lora": (lambda m, n: tl.add_lora(m, n, 2), {"attention", "mix", "rnn"}),
    "quantize_model": (lambda m, n: tl.quantize_model(m, n, 4), {"attention", "mix", "rnn"}),
    "replace_conv": (
        lambda m, n: tl.replace_conv(m, n, lambda c: tl.svd_conv(c, 1)),
        {"up", "line"},
    ),
    "magnitude_masks": (
        lambda m, n: tl.magnitude_masks(m, n, 0.5),
        {"attention", "mix", "rnn", "up"},
    ),
    "block_masks": (
        lambda m, n: block_masks(m, n, 0.5, (2, 2)),
        {"attention", "mix", "rnn", "up"},
    ),
    "Projected": (
        lambda m, n: Projected(m, sgd(m), n, rank=1),
        {"attention", "mix", "rnn", "up"},
    ),
    "ADMM": (
        lambda m, n: ADMM(
            m, sgd(m), dict.fromkeys([n] if isinstance(n, str) else n, full1), rho=1.0
        ),
        {"attention", "mix", "rnn", "up"},
    ),
}


def full1(w):
    return tl.LowRank.from_dense(w.flatten(1), 1)


named = pytest.mark.parametrize("who", NAMED)


@named
def test_what_is_passed_over_is_named_at_the_callers_line(who):
    act, passed = NAMED[who]
    with pytest.warns(UserWarning, match=f"^{who}: left as they are: ") as said:
        act(Odd(), "*")
    (message,) = {str(w.message) for w in said}
    assert {name for name, _ in Odd().named_children() if f" {name} (" in message} == passed
    assert {w.filename for w in said} == {__file__}


@named
def test_a_wrong_pattern_beside_right_ones_names_the_function_that_was_called(who):
    act, _ = NAMED[who]
    model = Odd()
    before = state(model)
    for names in (["fc", "conv", "nothing"], "nothing", ["nothing", "*"]):
        with pytest.raises(
            ValueError, match=f"^{who}: needs a name of a .*, got 'nothing'|got 'conv'|got 'fc'"
        ):
            act(model, names)
    with pytest.raises(ValueError, match=f"^{who}: needs a"):
        act(model, [])
    assert same(state(model), before) and all(p.requires_grad for p in model.parameters())


def test_a_predicate_chooses_everywhere():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    small = lambda name, layer: layer.out_features == 3
    assert list(tl.magnitude_masks(model, small, 0.5)) == ["1"]
    assert list(Projected(model, sgd(model), small, rank=1).layers) == ["1"]
    assert isinstance(tl.add_lora(model, small, 2)[1], LoRALinear)
    assert list(choose("example", model, "0", LINEAR)) == ["0"]


def test_masks_that_are_for_no_layer():
    model, good = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.ones(4, 4, dtype=torch.bool)
    before = state(model)
    for masks, said in (
        ({"0": good, "1": good}, "got one of '1'"),
        ({"0": ~good, "7": good}, "got one of '7'"),
        ({"0": good.float()}, "for layer '0', got torch.float32"),
    ):
        with pytest.raises(ValueError, match=f"prune: needs .*{said}"):
            tl.prune(model, masks)
        assert same(state(model), before)


# ------------------------------------------------------------------------------- without numbers


CONV_MAKERS = (tl.cp_conv, tl.tucker_conv, tl.tt_conv, tl.spatial_conv, tl.svd_conv)
META = {
    **{make.__name__: convs(lambda layer, f=make: f(layer, 2)) for make in CONV_MAKERS},
    "replace_linear": lambda m: tl.replace_linear(m, "1", full),
    "from_linear": lambda m: FactorizedLinear.from_linear(m[1], full),
    "from_conv": lambda m: FactorizedConv2d.from_conv(m[0], full),
    "from_embedding": lambda m: tl.TTEmbedding.from_embedding(m[2], (4, 5), (2, 3), 2),
    "magnitude_masks": lambda m: tl.magnitude_masks(m, "*", 0.5),
    "block_masks": lambda m: block_masks(m, "*", 0.5, (2, 2)),
    "lottery": lambda m: next(lottery(m, lambda *_: 1, "*", torch.ones(1, 4), rounds=1)),
    "Projected": lambda m: Projected(m, sgd(m), "*", rank=2),
    "ADMM": lambda m: ADMM(m, sgd(m), {"*": full2}, rho=1.0),
    "layer_report": lambda m: tl.layer_report(m, copy.deepcopy(m)),
    "save_lora": lambda m: tl.save_lora("nowhere.safetensors", tl.add_lora(m, "1", 2)),
    "load_lora": lambda m: tl.load_lora_state_dict(
        tl.add_lora(m, "1", 2),
        tl.lora_state_dict(tl.add_lora(nn.Sequential(nn.ReLU(), nn.Linear(6, 5)), "1", 2)),
    ),
}


@pytest.mark.parametrize("who", META)
def test_a_model_without_numbers_is_refused_in_one_sentence(who):
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Linear(6, 5), nn.Embedding(20, 6))
    with pytest.raises(ValueError, match=r": .*needs .*meta"):
        META[who](model)
    assert [type(m) for m in model][::2] == [nn.Conv2d, nn.Embedding]


@pytest.mark.parametrize("kind", tl.methods.lora.KINDS)
def test_what_needs_no_numbers_works_without(kind):
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(6, 5))
    tl.merge_lora(tl.add_lora(model, "0", 2, kind=kind))
    assert model[0].weight.is_meta and tl.unmerge_lora(model)[0].weight.is_meta
    model = nn.Sequential(nn.Linear(6, 5, device="meta"))
    tl.replace_linear(model, "0", lambda w: tl.LowRank.randn(w.shape, 2, device="meta"))
    assert tl.layer_report(model)["0"].parameters == 22
    assert forward_flops(model, torch.ones(3, 6, device="meta")) == 44


# ----------------------------------------------------------------------------- counts of operations


def test_operations_of_every_layer_by_hand():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3)
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(6, 5),
            "turned": Conv1D(5, 6).float(),
            "factors": FactorizedLinear.from_linear(nn.Linear(6, 5), full),
            "adapter": tl.add_lora(nn.Sequential(nn.Linear(6, 5)), "0", 2)[0],
            "conv": conv,
            "chain": tl.spatial_conv(conv, 2),
            "filters": tl.svd_conv(conv, 2),
            "groups": nn.Conv2d(4, 6, 3, groups=2),
            "up": nn.ConvTranspose2d(4, 6, 3, stride=2),
            "line": nn.Conv1d(6, 5, 2),
        }
    )

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.m = model
            self.attention = nn.MultiheadAttention(6, 2, kdim=5, vdim=3, batch_first=True)

        def forward(self, x):
            image = torch.ones(len(x), 4, 5, 7)
            for name, layer in self.m.items():
                layer(image if name in ("conv", "chain", "filters", "groups", "up") else x)
            k, v = torch.ones(len(x), 9, 5), torch.ones(len(x), 9, 3)
            self.attention(x, key=k, value=v)
            return x

    n, places = 2 * 6, 2 * 3 * 5  # rows of x; pixels that come out of a convolution
    got = tl.layers.report.layer_flops(Net(), torch.ones(2, 6, 6))
    assert got == {
        "m.linear": 2 * 30 * n,
        "m.turned": 2 * 30 * n,
        "m.factors": 2 * 5 * 11 * n,
        "m.adapter.base": 2 * 30 * n,
        "m.adapter.delta": 2 * 2 * 11 * n,
        "m.conv": 2 * 216 * places,
        "m.chain.0": 2 * 2 * 12 * 2 * 3 * 7,
        "m.chain.1": 2 * 6 * 2 * 3 * places,
        "m.filters": 2 * 2 * (36 + 6) * places,
        "m.groups": 2 * 108 * places,
        "m.up": 2 * 216 * 2 * 5 * 7,
        "m.line": 2 * 60 * 2 * 5,
        "attention": 2 * (12 * 36 + 18 * 30 + 18 * 18 + 12 * 36),
    }
    with pytest.raises(ValueError, match="forward_flops: needs a batch of at least one example"):
        forward_flops(nn.Linear(2, 2), torch.ones(0, 2))


# ------------------------------------------------------------------------------------- integers


@pytest.mark.parametrize("integer", [np.int64, np.int32, lambda n: torch.tensor(n).numpy()[()]])
def test_integers_of_numpy(integer):
    two, model = integer(2), nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    dense = nn.Conv2d(4, 6, 3)
    assert isinstance(tl.add_lora(copy.deepcopy(model), "0", two)[0].delta.weight, tl.LowRank)
    assert tl.replace_linear(copy.deepcopy(model), "*", tl.LowRank.from_dense, two)[
        0
    ].weight.ranks == (2,)
    assert tl.svd_conv(dense, two).weight.ranks == (2,)
    assert tl.tucker_conv(dense, (two, two))[1].weight.shape == (2, 2, 3, 3)
    made = FactorizedConv2d(tl.LowRank.randn((4, 8), 2), kernel_size=two, stride=two, padding=two)
    assert made(torch.ones(1, 2, 4, 4)).shape == (1, 4, 4, 4)
    assert block_masks(model, "*", 0.5, (two, two)).keys() == {"0", "1"}
    assert Projected(model, sgd(model), "*", rank=two, every=two).every == 2
    assert ADMM(model, sgd(model), {"*": full2}, rho=np.float32(0.5), every=two).every == 2
    list(lottery(model, lambda *_: 1, "0", torch.ones(3, 6), rounds=two))
    assert (
        tl.TTEmbedding(
            tl.TTMatrix.randn(out=(4, 5), in_=(2, 3), rank=2), padding_idx=two
        ).padding_idx
        == 2
    )
    table = tl.TTEmbedding.randn(integer(20), integer(6), (integer(4), 5), (two, 3), two)
    assert (table.num_embeddings, table.embedding_dim) == (20, 6)
    tl.TokenTrains.from_dense(torch.ones(5, 4), (two, two), two)
    tl.cp_stable(torch.ones(3, 3, 3), two, max_iter=two, ridge=np.float32(0.1))
    tl.tucker_conv(dense, flops=np.float32(0.5), image_size=(two + 6, 8))


# ------------------------------------------------------------------------------- copies and files


@pytest.mark.thorough
def test_a_file_of_a_merged_model_holds_no_adapter():
    model = tl.add_lora(nn.Sequential(nn.Linear(64, 64)), "0", 2)
    sizes = []
    for m in (nn.Sequential(nn.Linear(64, 64)), tl.merge_lora(model)):
        torch.save(m, buffer := io.BytesIO())
        sizes.append(len(buffer.getvalue()))
    assert sizes[1] < sizes[0] + 200
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    assert torch.equal(loaded[0].weight, model[0].weight)
    with pytest.raises(ValueError, match="unmerge_lora: needs a model that merge_lora has changed"):
        tl.unmerge_lora(loaded)
    pickle.loads(pickle.dumps(model))
    copied = copy.deepcopy(model)
    assert isinstance(tl.unmerge_lora(copied)[0], LoRALinear) and type(model[0]) is nn.Linear
    assert copied[0] is not tl.unmerge_lora(model)[0]
    gc.collect()


@pytest.mark.parametrize("base", [None, lambda w: tl.LowRank.from_dense(w, 2)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, F64])
def test_a_merge_is_undone_in_the_dtype_of_the_model(base, dtype):
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    if base is not None:
        tl.replace_linear(model, "0", base)
    tl.add_lora(model, "0", 2, kind="dora")
    tl.unmerge_lora(tl.merge_lora(model).to(dtype))
    assert {t.dtype for t in model.state_dict().values()} == {dtype}
    assert model(torch.ones(2, 6, dtype=dtype)).dtype == dtype


# ------------------------------------------------------------ one contract for all of them together


def trained(make):
    """A method that trains, made on a model and stepped once; the model."""

    def act(model, names):
        method, x = make(model, names), data("linear")
        method.step(lambda: model(x).square().mean())
        return model

    return act


def in_low_rank(m, names):
    return tl.replace_linear(m, names, lambda w: tl.LowRank.from_dense(w, 3).orthogonal())


def masked(m, names):
    return tl.prune(m, tl.magnitude_masks(m, names, 0.5))


def permuted(w):
    left = (2, 2) if max(w.shape) < 8 else (4, 4)
    return tl.kron_permuted(w, left, 1, starts=1, max_iter=3, generator=seeded()).value


# name -> what it does to the linear layers that names choose; whether the layer object stays
CONTRACT = {
    "replace_linear": (lambda m, names: tl.replace_linear(m, names, full), False),
    "add_lora": (lambda m, names: tl.add_lora(m, names, 2), False),
    "add_lora dora": (lambda m, names: tl.add_lora(m, names, 2, kind="dora"), False),
    "merge_lora": (lambda m, names: tl.merge_lora(tl.add_lora(m, names, 2)), False),
    "quantize_model": (lambda m, names: tl.quantize_model(m, names, 8), False),
    "replace_permuted": (lambda m, names: tl.replace_permuted(m, names, permuted), False),
    "prune": (masked, True),
    "Projected": (trained(lambda m, names: Projected(m, sgd(m), names, rank=2)), True),
    "ADMM": (trained(lambda m, n: ADMM(m, sgd(m), {n: full2}, rho=0.5)), True),
    "DLRT": (trained(lambda m, n: tl.DLRT(in_low_rank(m, n), sgd(m), theta=0.1)), False),
    "TangentDLRT": (
        trained(
            lambda m, n: tl.TangentDLRT(tl.replace_linear(m, n, full2), sgd(m), theta=0.1, total=1)
        ),
        False,
    ),
    "RiemannianSGD": (
        trained(lambda m, n: tl.RiemannianSGD(tl.replace_linear(m, n, full2), sgd(m), lr=0.1)),
        False,
    ),
}
WRITES = {"prune", "Projected", "ADMM"}  # to the weight that there is

contract = pytest.mark.parametrize("act, stays", CONTRACT.values(), ids=CONTRACT)


def chain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 6)).to(F64)


@contract
def test_a_layer_under_two_names_is_changed_once_and_stays_one(act, stays):
    torch.manual_seed(0)
    layer = nn.Linear(6, 6, dtype=F64)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    act(model, "0")
    assert model[0] is model[2] and (model[0] is layer) is stays
    assert len(tl.layer_report(model).rows) == 1
    x = data("linear")
    assert torch.equal(model[0](x), model[2](x))


@contract
def test_a_predicate_chooses_as_a_pattern_does(act, stays):
    a, b = chain(), chain()
    torch.manual_seed(1)
    act(a, "2")
    torch.manual_seed(1)
    act(b, lambda name, layer: name == "2")
    assert [type(m) for m in a] == [type(m) for m in b]
    assert [row.kind for row in tl.layer_report(a).rows] == [
        row.kind for row in tl.layer_report(b).rows
    ]
    x = data("linear")
    assert torch.allclose(a(x), b(x), atol=1e-12)


@contract
def test_what_is_left_alone_keeps_all_that_it_has(act, stays):
    """Frozen parts, modes, dtype and the layers that were not chosen."""
    model = chain().eval()
    model[3].requires_grad_(False)
    kept, before = model[3], state(model[3])
    act(model, "0")
    assert model[3] is kept and same(before, state(kept))
    assert not any(p.requires_grad for p in kept.parameters())
    assert not any(m.training for m in model.modules())
    assert {p.dtype for p in model.parameters()} == {F64}
    assert model(data("linear")).dtype == F64
    report = tl.layer_report(model)
    assert [row.name for row in report.rows] == ["0", "2", "3"] and "total" in str(report)


@pytest.mark.parametrize("name", [n for n in CONTRACT if not n[0].isupper()])
@pytest.mark.parametrize("masked_input", [False, True])
def test_an_encoder_layer_in_eval_runs_and_attends_as_before(name, masked_input):
    act, _ = CONTRACT[name]
    torch.manual_seed(0)
    make = dict(dropout=0.1, batch_first=True, dtype=torch.float32)
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, **make)).eval()
    copied = copy.deepcopy(model)
    act(model, ["0.linear1", "0.linear2"])
    mask = torch.arange(5) >= torch.tensor([[5], [3]]) if masked_input else None
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        got = model[0](x, src_key_padding_mask=mask)
        attended = model[0].self_attn(x, x, x, key_padding_mask=mask)[0]
        want = copied[0].self_attn(x, x, x, key_padding_mask=mask)[0]
    assert torch.isfinite(got).all() and torch.equal(attended, want)
    for p in (n for n, _ in model.named_parameters() if "linear" not in n):
        assert torch.equal(model.get_parameter(p), copied.get_parameter(p))


@pytest.mark.parametrize("name", CONTRACT)
@pytest.mark.parametrize("how", ["weight_norm", "orthogonal"])
def test_a_parametrized_model_is_changed_or_refused_whole(name, how):
    act, _ = CONTRACT[name]
    model = network("linear", how)
    before = state(model)
    if name in WRITES and how not in SETTABLE:
        with pytest.raises(ValueError, match="needs a weight that can be set, got layer '0'"):
            act(model, "0")
        assert same(state(model), before)
        return
    act(model, "0")
    assert model(data("linear")).isfinite().all() and len(tl.layer_report(model).rows) == 1


# -- the same of convolutions


MADE = {make.__name__: lambda layer, f=make: f(layer, 2) for make in CONV_MAKERS}
made = pytest.mark.parametrize("make", MADE.values(), ids=MADE)


def images():
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1)]
    return nn.Sequential(*layers).to(F64)


@made
@pytest.mark.filterwarnings("ignore:.*DEGENERATE:UserWarning")
def test_replace_conv_keeps_what_it_leaves_alone_and_takes_a_predicate(make):
    a, b = images().eval(), images().eval()
    for model in (a, b):
        model[3].requires_grad_(False)
    kept, before = a[3], state(a[3])
    tl.replace_conv(a, "0", make)
    tl.replace_conv(b, lambda name, layer: name == "0", make)
    x = torch.randn(2, 4, 6, 6, dtype=F64)
    assert torch.equal(a(x), b(x)) and a(x).dtype == F64
    assert a[3] is kept and same(before, state(kept))
    assert not any(p.requires_grad for p in kept.parameters())
    assert all(p.requires_grad for p in a[0].parameters())
    assert not any(m.training for m in a.modules())
    rows = tl.layer_report(a).rows
    assert [row.name for row in rows] == ["0", "2", "3"]
    assert rows[0].parameters == sum(
        p.numel() for n, p in a[0].named_parameters() if "bias" not in n
    )


@made
def test_replace_conv_refuses_one_wrong_pattern_beside_right_ones(make):
    model = images()
    before = state(model)
    for names in (["0", "nothing"], "nothing", lambda name, layer: False):
        with pytest.raises(ValueError, match="^replace_conv: needs a"):
            tl.replace_conv(model, names, make)
    assert same(state(model), before)
