"""FactorizedLinear: it is format + bias, its parameters are the format's tensors, and everything
torch does to a layer works."""

import copy
import io
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn

from cases import FORMATS, make
from tensorlab import LowRank
from tensorlab.formats.base import MatrixFormat
from tensorlab.formats.ttmatrix import TTMatrix
from tensorlab.layers.conv import FactorizedConv2d
from tensorlab.layers.embedding import TTEmbedding
from tensorlab.layers.linear import FactorizedLinear, fan_in, param_groups, redraw
from tensorlab.rng import randn

MATRICES = [name for name in FORMATS if isinstance(make(name), MatrixFormat)]


def low_rank(out=6, in_=4, rank=2, dtype=torch.float64, seed=0):
    return LowRank.randn(
        (out, in_), rank, generator=torch.Generator().manual_seed(seed), dtype=dtype
    )


def train_matrix(rank=3, dtype=torch.float64, seed=0):
    return TTMatrix.randn(
        out=(2, 3),
        in_=(4, 2),
        rank=rank,
        generator=torch.Generator().manual_seed(seed),
        dtype=dtype,
    )


# -- reduces to


@pytest.mark.parametrize("name", MATRICES)
def test_it_is_the_dense_layer_of_its_format(name, generator, device):
    weight = make(name, device=device)
    bias = randn(weight.shape[0], generator=generator, dtype=weight.dtype, device=device)
    x = randn(3, 2, weight.shape[1], generator=generator, dtype=weight.dtype, device=device)
    layer = FactorizedLinear(weight, bias)
    want = nn.functional.linear(x, weight.to_dense(), bias)
    assert torch.allclose(layer(x), want, rtol=1e-12, atol=1e-12)
    assert torch.allclose(FactorizedLinear(weight)(x), want - bias, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", MATRICES)
def test_its_parameters_get_the_gradient_of_the_dense_weight(name, generator):
    weight = make(name)
    x = randn(5, weight.shape[1], generator=generator, dtype=weight.dtype)
    layer = FactorizedLinear(weight)
    layer(x).square().sum().backward()
    tensors = [t.clone().requires_grad_() for t in weight.tensors()]
    (x @ weight.with_tensors(tensors).to_dense().mT).square().sum().backward()
    for p, t in zip(layer.tensors, tensors, strict=True):
        assert torch.allclose(p.grad, t.grad, rtol=1e-10, atol=1e-10)


def test_from_linear_at_full_rank_is_the_layer(generator):
    dense = redraw(nn.Linear(5, 7, dtype=torch.float64), generator)
    x = randn(9, 5, generator=generator, dtype=torch.float64)
    layer = FactorizedLinear.from_linear(dense, LowRank.from_dense, 5)
    assert torch.allclose(layer(x), dense(x), atol=1e-12)
    assert layer.bias is not dense.bias and torch.equal(layer.bias, dense.bias)


def test_the_svd_layer_has_balanced_factors_and_the_rate_of_the_talks(generator):
    dense = redraw(nn.Linear(12, 8, dtype=torch.float64), generator)
    layer = FactorizedLinear.from_linear(dense, LowRank.from_dense, 3)
    u, v = layer.tensors
    s = torch.linalg.svdvals(dense.weight)[:3]
    assert torch.allclose(u.mT @ u, torch.diag(s), atol=1e-12) and torch.allclose(
        v.mT @ v, torch.diag(s), atol=1e-12
    )
    assert layer.storage_ratio == pytest.approx(
        3 * (8 + 12) / (8 * 12)
    ) and "storage ratio 0.625" in repr(layer)


def test_from_linear_reads_the_transposed_weight_of_gpt2(generator):
    class Conv1D(nn.Module):
        def __init__(self, nf, nx):
            super().__init__()
            self.nf, self.weight, self.bias = (
                nf,
                nn.Parameter(torch.empty(nx, nf)),
                nn.Parameter(torch.ones(nf)),
            )

        def forward(self, x):
            return x @ self.weight + self.bias

    dense = Conv1D(6, 4).double()
    dense.weight.data.copy_(randn(4, 6, generator=generator, dtype=torch.float64))
    x = randn(3, 4, generator=generator, dtype=torch.float64)
    assert torch.allclose(
        FactorizedLinear.from_linear(dense, LowRank.from_dense, 4)(x), dense(x), atol=1e-12
    )


def test_redraw_is_the_start_of_torch():
    layer = redraw(nn.Linear(300, 200), torch.Generator().manual_seed(1))
    assert layer.weight.std().item() == pytest.approx((3 * 300) ** -0.5, rel=0.01)
    assert layer.weight.abs().max() <= 300**-0.5 and layer.bias.abs().max() <= 300**-0.5
    assert torch.equal(
        layer.weight, redraw(nn.Linear(300, 200), torch.Generator().manual_seed(1)).weight
    )


# -- is invariant


def test_the_weight_is_the_parameters_not_a_copy():
    layer = FactorizedLinear(low_rank())
    assert layer.weight.u is layer.tensors[0] and layer.weight.v is layer.tensors[1]
    tensors = low_rank().tensors()
    layer.tensors[0].data.zero_()
    assert tensors[0].any() and not FactorizedLinear(low_rank()).tensors[0].eq(0).all()


def test_set_weight_keeps_the_parameters_and_an_optimizer_steps_on():
    layer = FactorizedLinear(low_rank(rank=2), torch.zeros(6, dtype=torch.float64))
    before, sgd = list(layer.parameters()), torch.optim.SGD(layer.parameters(), 0.1)
    layer(torch.ones(1, 4, dtype=torch.float64)).sum().backward()
    new = low_rank(rank=3, seed=1)
    layer.set_weight(new)
    assert all(a is b for a, b in zip(before, layer.parameters(), strict=True))
    assert layer.weight.ranks == (3,) and torch.equal(layer.weight.to_dense(), new.to_dense())
    assert layer.tensors[0].grad is None
    layer(torch.ones(1, 4, dtype=torch.float64)).sum().backward()
    sgd.step()
    assert not torch.equal(layer.weight.to_dense(), new.to_dense()) and torch.equal(
        new.u, low_rank(rank=3, seed=1).u
    )


def convolution(rank=2, seed=0):
    return FactorizedConv2d(low_rank(5, 12, rank, seed=seed), kernel_size=2)


def table(rank=2, seed=0):
    options = dict(generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return TTEmbedding(TTMatrix.randn(out=(2, 3), in_=(4, 2), rank=rank, **options))


HOLDERS = {  # makes a layer of a rank, and what it is called with
    "LowRank": (lambda r, s: FactorizedLinear(low_rank(rank=r, seed=s)), (3, 4)),
    "three factors": (
        lambda r, s: FactorizedLinear(low_rank(rank=r, seed=s).orthogonal()),
        (3, 4),
    ),
    "TTMatrix": (lambda r, s: FactorizedLinear(train_matrix(r, seed=s)), (3, 8)),
    "convolution": (convolution, (2, 3, 4, 4)),
    "embedding": (table, None),
}


@pytest.mark.parametrize("how", ["set_weight", "state dict"])
@pytest.mark.parametrize("name", HOLDERS)
def test_ranks_change_while_a_graph_is_alive(name, how, generator):
    make_layer, shape = HOLDERS[name]
    layer, new = make_layer(2, 0), make_layer(3, 1)
    if name == "embedding":
        x, how, stale = torch.tensor([[0, 4], [5, 4]]), "state dict", "size of tensor"
    else:
        x = randn(*shape, generator=generator, dtype=torch.float64)
        stale = "modified by an inplace operation"
    optimizer, fired = torch.optim.SGD(layer.parameters(), 0.1), []
    first = next(layer.parameters())
    first.register_hook(lambda g: fired.append("gradient"))
    first.register_post_accumulate_grad_hook(lambda p: fired.append("summed"))
    alive = layer(x).square().sum()
    if how == "set_weight":
        layer.set_weight(new.weight)
    else:
        layer.load_state_dict(new.state_dict())
    for model in (layer, new):
        model(x).square().sum().backward()
    for p, q in zip(layer.parameters(), new.parameters(), strict=True):
        assert p.shape == q.shape and torch.allclose(p.grad, q.grad, rtol=1e-12, atol=1e-14)
    assert fired == ["gradient", "summed"]  # hooks stay with a parameter
    optimizer.step()
    assert not torch.equal(layer(x), new(x))
    with pytest.raises(RuntimeError, match=stale):
        alive.backward()


def test_a_weight_of_the_same_ranks_makes_older_graphs_stale():
    """As an optimizer's step does: their gradients would be of neither weight."""
    layer = FactorizedLinear(low_rank())
    alive = layer(torch.ones(1, 4, dtype=torch.float64)).sum()
    layer.set_weight(low_rank(seed=1))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        alive.backward()


@pytest.mark.parametrize("kind", [low_rank, train_matrix])
def test_a_state_dict_brings_its_ranks(kind):
    weight, other = kind(rank=2), kind(rank=4, seed=1)
    a, b = (
        FactorizedLinear(w, torch.full(w.shape[:1], float(k), dtype=torch.float64))
        for k, w in enumerate((weight, other))
    )
    buffer = io.BytesIO()
    torch.save(nn.Sequential(b).state_dict(), buffer)
    buffer.seek(0)
    model, parameters = nn.Sequential(a), list(a.parameters())
    model.load_state_dict(torch.load(buffer, weights_only=True))
    assert (
        a.weight.ranks == other.ranks
        and torch.equal(a.weight.to_dense(), other.to_dense())
        and torch.equal(a.bias, b.bias)
    )
    assert all(p is q for p, q in zip(parameters, a.parameters(), strict=True))


def test_a_state_dict_of_narrower_numbers_is_cast():
    a, b = (
        FactorizedLinear(low_rank(rank=2)),
        FactorizedLinear(low_rank(rank=3, dtype=torch.float32)),
    )
    a.load_state_dict(b.state_dict())
    assert a.weight.ranks == (3,) and a.weight.dtype == torch.float64


def test_a_deep_copy_is_apart():
    layer = FactorizedLinear(train_matrix(), torch.ones(6, dtype=torch.float64))
    other = copy.deepcopy(layer)
    assert torch.equal(other.weight.to_dense(), layer.weight.to_dense())
    other.set_weight(train_matrix(1))
    assert layer.weight.ranks == (3,) and other.weight.ranks == (1,)


@pytest.mark.parametrize(
    "weight",
    [low_rank(dtype=torch.float32), train_matrix(dtype=torch.float32)],
    ids=["LowRank", "TTMatrix"],
)
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision(weight, half, generator):
    layer, x = (
        FactorizedLinear(weight, torch.ones(6)),
        randn(5, weight.shape[1], generator=generator),
    )
    want, scale = layer(x), weight.norm() * x.norm()
    assert layer.to(half).weight.dtype == half
    y = layer(x.to(half))
    assert y.dtype == half and (y.float() - want).norm() < 8 * torch.finfo(half).eps * scale
    y.sum().backward()
    assert layer.tensors[0].grad.dtype == half


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", [n for n in MATRICES if not make(n).dtype.is_complex])
def test_autocast_gives_the_dtype_of_a_dense_layer(name, bias, generator, device):
    """Values and gradients are those of float32 to the rounding of bfloat16, eps = 2^-7: each of a
    few products rounds its factors and its result."""
    weight = make(name, device=device).to(torch.float32)
    (out, in_), grow = weight.shape, 32 * torch.finfo(torch.bfloat16).eps
    b = randn(out, generator=generator, device=device, dtype=torch.float32) if bias else None
    layer, dense = FactorizedLinear(weight, b), nn.Linear(in_, out, bias, device=device)
    x = randn(5, in_, generator=generator, device=device, dtype=torch.float32).requires_grad_()
    want, wrt = layer(x), [x, *layer.parameters()]
    exact = torch.autograd.grad(want.square().sum(), wrt)
    with torch.autocast(device.type, torch.bfloat16):
        y, like = layer(x), dense(x)
        inside = layer(torch.empty(0, 4, in_, device=device))
    assert y.dtype == like.dtype == inside.dtype == torch.bfloat16 and inside.shape == (0, 4, out)
    assert float((y.float() - want).detach().norm()) < grow * float(want.detach().norm())
    got = torch.autograd.grad(y.float().square().sum(), wrt)
    for g, e, p in zip(got, exact, wrt, strict=True):
        assert g.dtype == p.dtype and float((g - e).norm()) < grow * float(e.norm())


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0, 2), (0,)], ids=str)
@pytest.mark.parametrize("name", MATRICES)
def test_an_empty_batch(name, shape):
    weight = make(name)
    layer = FactorizedLinear(weight, torch.zeros(weight.shape[0], dtype=weight.dtype))
    x = torch.ones(*shape, weight.shape[1], dtype=weight.dtype, requires_grad=True)
    y = layer(x)
    assert y.shape == (*shape, weight.shape[0])
    y.abs().sum().backward()
    assert x.grad.shape == x.shape
    assert all(p.grad is None or not p.grad.any() for p in layer.tensors)


def test_the_device_moves(device):
    layer = FactorizedLinear(low_rank(), torch.ones(6, dtype=torch.float64)).to(device)
    assert layer.weight.device.type == device.type
    assert layer(torch.ones(2, 4, dtype=torch.float64, device=device)).device.type == device.type
    layer.set_weight(low_rank(rank=3))
    assert layer.weight.device.type == device.type


def test_meta_tensors_hold_the_shape_only():
    layer = FactorizedLinear(low_rank()).to("meta")
    assert layer(torch.empty(2, 4, dtype=torch.float64, device="meta")).shape == (2, 6)


def test_frozen_parameters_stay_frozen():
    layer = FactorizedLinear(low_rank()).requires_grad_(False)
    layer.set_weight(low_rank(rank=3))
    assert not any(p.requires_grad for p in layer.parameters()) and param_groups(layer, 0.1) == []


def test_ddp_averages_it(tmp_path):
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    try:
        layer = FactorizedLinear(low_rank(), torch.zeros(6, dtype=torch.float64))
        twin, x = copy.deepcopy(layer), torch.ones(3, 4, dtype=torch.float64)
        for model in (nn.parallel.DistributedDataParallel(layer), twin):
            model(x).square().sum().backward()
        for p, q in zip(layer.parameters(), twin.parameters(), strict=True):
            assert torch.equal(p.grad, q.grad)
    finally:
        dist.destroy_process_group()


def test_functional_call_sees_the_parameters():
    layer, x = FactorizedLinear(low_rank()), torch.ones(1, 4, dtype=torch.float64)
    doubled = {name: 2 * p.detach() for name, p in layer.named_parameters()}
    assert torch.allclose(
        torch.func.functional_call(layer, doubled, (x,)), 4 * layer(x), rtol=1e-12
    )


@pytest.mark.thorough
@pytest.mark.parametrize(
    "weight",
    [low_rank(dtype=torch.float32), train_matrix(dtype=torch.float32)],
    ids=["LowRank", "TTMatrix"],
)
def test_the_compiler_traces_it(weight, generator):
    layer, x = (
        FactorizedLinear(weight, torch.ones(6)),
        randn(5, weight.shape[1], generator=generator),
    )
    traced = torch.compile(layer, backend="aot_eager")
    assert torch.allclose(traced(x), layer(x), atol=1e-5)
    traced(x).sum().backward()
    assert layer.tensors[0].grad.abs().sum() > 0


# -- by hand


def test_groups_of_low_rank_by_hand():
    model = nn.Sequential(FactorizedLinear(low_rank(6, 8, 2)), nn.Linear(6, 3))
    rates = {p: g["lr"] for g in param_groups(model, 0.1) for p in g["params"]}
    u, v = model[0].tensors
    assert rates[v] == pytest.approx(0.1 * 8 / 8 / 2) and rates[u] == pytest.approx(0.1 * 8 / 2 / 2)
    assert rates[model[1].weight] == rates[model[1].bias] == 0.1
    assert len(rates) == len(list(model.parameters()))


def test_groups_fall_with_the_width_of_the_model():
    wide, base = (
        nn.Sequential(nn.Linear(5, n), FactorizedLinear(low_rank(n, n, 2)), nn.LayerNorm(n))
        for n in (8, 4)
    )
    rates = {p: g["lr"] for g in param_groups(wide, 0.1, base=base) for p in g["params"]}
    assert rates[wide[0].weight] == 0.1  # its inputs are as many in both
    assert rates[wide[1].tensors[1]] == pytest.approx(0.1 * (8 / 8 / 2) * (4 / 8))
    assert rates[wide[2].weight] == 0.1


def test_groups_of_a_tt_matrix_by_hand():
    layer = FactorizedLinear(
        train_matrix(3)
    )  # cores (1, 2, 4, 3) and (3, 3, 2, 1): fan-ins 4 and 3 * 2, of 8 inputs
    rates = {p: g["lr"] for g in param_groups(layer, 0.1) for p in g["params"]}
    assert [rates[p] for p in layer.tensors] == pytest.approx([0.1 * 8 / 4 / 2, 0.1 * 8 / 6 / 2])


# -- says no


def test_a_rank_above_its_bound_is_capped_with_one_warning():
    with pytest.warns(
        UserWarning, match=r"rank 9 is capped to \(4,\) for a weight \(6, 4\)"
    ) as said:
        layer = FactorizedLinear.from_linear(nn.Linear(4, 6), LowRank.from_dense, 9)
    assert len(said) == 1 and layer.weight.ranks == (4,)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FactorizedLinear.from_linear(nn.Linear(4, 6), LowRank.from_dense, 4)


@pytest.mark.parametrize(
    "act, error, said",
    [
        (
            lambda: FactorizedLinear(torch.ones(2, 3)),
            TypeError,
            "needs a matrix format as weight, got Tensor",
        ),
        (
            lambda: FactorizedLinear(low_rank(), torch.ones(4)),
            ValueError,
            r"bias of shape \(6,\), got \(4,\)",
        ),
        (
            lambda: FactorizedLinear(low_rank())(torch.ones(2, 6)),
            ValueError,
            r"needs input \(..., 4\), got shape \(2, 6\)",
        ),
        (
            lambda: FactorizedLinear(low_rank()).set_weight(low_rank(6, 5)),
            ValueError,
            r"LowRank of shape \(6, 5\)",
        ),
        (
            lambda: FactorizedLinear(low_rank()).set_weight(train_matrix()),
            ValueError,
            "LowRank .* got TTMatrix",
        ),
        (
            lambda: FactorizedLinear(low_rank()).set_weight(low_rank().orthogonal()),
            ValueError,
            "2 tensors, got .* with 3",
        ),
        (
            lambda: FactorizedLinear.from_linear(nn.Conv2d(1, 1, 1), LowRank.from_dense),
            TypeError,
            "got Conv2d",
        ),
        (
            lambda: FactorizedLinear.from_linear(nn.Linear(2, 3), lambda w: w),
            ValueError,
            r"shape \(3, 2\), got Tensor",
        ),
        (
            lambda: FactorizedLinear.from_linear(
                nn.Linear(2, 3), lambda w: LowRank.from_dense(w.mT, 1)
            ),
            ValueError,
            r"of shape \(3, 2\), got LowRank of shape \(2, 3\)",
        ),
        (
            lambda: param_groups(nn.Sequential(nn.Linear(2, 2)), 0.1, base=nn.ReLU()),
            ValueError,
            r"base model with a linear layer '0', got \[\]",
        ),
    ],
)
def test_says_what_came(act, error, said):
    with pytest.raises(error, match=said):
        act()


def test_a_stored_weight_of_another_shape_is_named():
    model = nn.Sequential(FactorizedLinear(low_rank(6, 4)))
    state = nn.Sequential(FactorizedLinear(low_rank(6, 5, 3))).state_dict()
    with pytest.raises(
        RuntimeError,
        match=r"0: FactorizedLinear.set_weight: needs a LowRank of shape \(6, 4\).* got .* \(6, "
        r"5\)",
    ):
        model.load_state_dict(state)


def test_fan_in_of_other_modules_is_none():
    assert fan_in(nn.LayerNorm(3)) is None and fan_in(nn.Linear(3, 2)) == 3


# ------------------------------------------------------------------------------------- fold


def folding(weight=None, bias=True):
    """A layer in eval that multiplies by its dense weight, and how to see that it does."""
    w = train_matrix() if weight is None else weight
    layer = FactorizedLinear(w, torch.ones(w.shape[0], dtype=w.dtype) if bias else None)
    return layer.eval().fold()


def dense_product(layer, x):
    return x @ layer.weight.to_dense().detach().mT + (0 if layer.bias is None else layer.bias)


@pytest.mark.parametrize("name", MATRICES)
def test_folded_is_the_same_map(name):
    layer = folding(make(name))
    x = randn(7, layer.in_features, generator=torch.Generator().manual_seed(1)).to(
        layer.weight.dtype
    )
    with torch.no_grad():
        want = layer.fold(False)(x)
        layer.fold()
        layer._dense(layer.weight)  # whatever the model says of so few numbers
        assert torch.allclose(layer(x), want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
        assert torch.allclose(x @ layer._dense(layer.weight).mT, x @ layer.weight.to_dense().mT)


def change_in_place(layer):
    with torch.no_grad():
        layer.tensors[0].mul_(2)


def step_of_an_optimizer(layer):
    for p in layer.parameters():
        p.grad = torch.ones_like(p)
    torch.optim.SGD(layer.parameters(), 0.1).step()


def other_numbers(layer, rank=3, **options):
    other = FactorizedLinear(train_matrix(rank, seed=5), torch.zeros(6))
    layer.load_state_dict(other.state_dict(), **options)


def unseen(layer):
    layer.train()
    layer.tensors[0].data.mul_(2)  # torch does not count it
    layer.eval()


CHANGES = {
    "in place": change_in_place,
    "optimizer": step_of_an_optimizer,
    "state dict": other_numbers,
    "assigned": lambda layer: other_numbers(layer, assign=True),
    "ranks": lambda layer: other_numbers(layer, rank=1),
    "set_weight": lambda layer: layer.set_weight(train_matrix(seed=7)),
    "data": lambda layer: setattr(layer.tensors[0], "data", 3 * layer.tensors[0].data),
    "train and eval": unseen,
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_what_is_folded_follows_its_tensors(change):
    layer, x = folding(), torch.eye(8, dtype=torch.float64)
    before = layer(x)
    dense = layer._cache[0]
    assert layer(x) is not before and layer._cache[0] is dense  # it is made once
    CHANGES[change](layer)
    after = layer(x)
    assert layer._cache[0] is not dense
    assert torch.allclose(after, dense_product(layer, x)) and not torch.allclose(after, before)


@torch.no_grad()
def test_what_is_folded_follows_dtype_and_device():
    layer, x = folding(), torch.eye(8, dtype=torch.float64)
    layer(x)
    assert layer.float()._cache is None
    assert torch.allclose(layer(x.float()), dense_product(layer, x.float()), atol=1e-6)
    assert layer._cache[0].dtype == torch.float32
    assert layer.to("meta")._cache is None and layer(x.float().to("meta")).is_meta


@torch.no_grad()
def test_tensors_put_in_for_a_call_are_not_taken_for_those_before():
    layer, x = folding(), torch.eye(8, dtype=torch.float64)
    layer(x)
    for seed in range(20):  # memory that is freed is given out again
        other = FactorizedLinear(train_matrix(seed=seed), torch.ones(6, dtype=torch.float64))
        state = {name: t.detach().clone() for name, t in other.named_parameters()}
        got = torch.func.functional_call(layer, state, (x,))
        assert torch.allclose(got, dense_product(other, x))


def test_folded_only_where_nothing_is_lost():
    layer, x = folding(), torch.ones(3, 8, dtype=torch.float64)
    layer(x).sum().backward()  # the factors are differentiated
    assert layer._cache is None and all(p.grad is not None for p in layer.tensors)
    for p in layer.parameters():
        p.requires_grad_(False)
    x.requires_grad_()
    (dx,) = torch.autograd.grad(layer(x).sum(), x)
    assert layer._cache is not None
    assert torch.allclose(dx, layer.weight.to_dense().sum(0).expand(3, -1))
    assert not any(d.ndim == 2 and d.shape == (6, 8) for d in layer.state_dict().values())
    assert copy.deepcopy(layer)._cache is None and copy.deepcopy(layer)._folds
    assert layer.train()._cache is None
    layer(x), layer.eval()
    with torch.no_grad():
        mapped = torch.func.vmap(layer)(x)
        assert layer._cache is None and torch.allclose(mapped, layer(x))
        with pytest.raises(ValueError, match="needs x of dtype"):
            layer(x.float())
        assert layer.fold(False)._cache is None
        layer(x)
    assert layer._cache is None


@torch.no_grad()
def test_a_batch_that_the_factors_multiply_faster_stays_with_them():
    w = LowRank.randn((64, 64), 2, generator=torch.Generator().manual_seed(0))
    layer = folding(w)
    layer(torch.ones(100, 64))
    assert layer._cache is None
