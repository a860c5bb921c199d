"""Factorized convolutions: at full rank they are torch's own, for every stride, padding and
dilation; below it they are the decompositions that tensorly finds; the stable CP keeps its bound
where ALS diverges."""

import copy
import itertools
import math
import warnings

import pytest
import tensorly
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorly.decomposition import partial_tucker
from torch import nn

import tensorlab as tl
from tensorlab.formats.cp_stable import cp_degeneracy, cp_stable
from tensorlab.layers import conv
from tensorlab.layers.conv import (
    FactorizedConv2d,
    conv_kernel,
    cp_conv,
    spatial_conv,
    svd_conv,
    tt_conv,
    tucker_conv,
)
from tensorlab.layers.report import layer_flops
from tensorlab.layers.surgery import replace_conv

STRUCTURES = {
    "cp": cp_conv,
    "tucker": tucker_conv,
    "tt": tt_conv,
    "spatial": spatial_conv,
    "svd": svd_conv,
}
FULL = 10_000  # a cap that no rank reaches
structure = pytest.mark.parametrize("make", STRUCTURES.values(), ids=STRUCTURES)


def layer(inputs=5, outputs=7, kernel=3, *, dtype=torch.float64, seed=0, **options):
    """A convolution with Gaussian weights."""
    made = nn.Conv2d(inputs, outputs, kernel, dtype=dtype, **options)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(tl.rng.randn(*p.shape, generator=g, dtype=dtype))
    return made


def image(*shape, dtype=torch.float64):
    return tl.rng.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def error(module, dense):
    with torch.no_grad():
        return float((conv_kernel(module) - dense.weight).norm() / dense.weight.norm())


# -- reduces to


@pytest.mark.thorough
@structure
@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_full_rank_is_the_convolution(make, data):
    pair = lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))
    kernel, dilation = data.draw(pair(1, 4)), data.draw(pair(1, 3))
    padding = data.draw(st.one_of(pair(0, 2), st.sampled_from(["same", "valid"])))
    stride = (1, 1) if padding == "same" else data.draw(pair(1, 3))
    mode = data.draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    dense = layer(
        data.draw(st.integers(1, 4)),
        data.draw(st.integers(1, 4)),
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        padding_mode=mode,
        bias=data.draw(st.booleans()),
    )
    x = image(2, dense.in_channels, 11, 13)
    assert torch.allclose(make(dense, FULL)(x), dense(x), rtol=0, atol=1e-10)


@structure
def test_every_stride_padding_and_dilation_of_a_wide_layer(make):
    for stride, padding, dilation in itertools.product([1, (2, 1), 3], [0, (1, 2)], [1, (2, 3)]):
        dense = layer(6, 4, (3, 5), stride=stride, padding=padding, dilation=dilation)
        x = image(2, 6, 16, 17)
        assert torch.allclose(make(dense, FULL)(x), dense(x), rtol=0, atol=1e-10)


@structure
def test_below_full_rank_the_layer_is_torch_with_the_dense_kernel(make):
    dense = layer(6, 8, 3, stride=2, padding=1, dilation=2, padding_mode="circular")
    small = make(dense, 3)
    other = copy.deepcopy(dense)
    with torch.no_grad():
        other.weight.copy_(conv_kernel(small))
    x = image(2, 6, 12, 11)
    assert 0.1 < error(small, dense) < 1 and torch.allclose(small(x), other(x), rtol=0, atol=1e-10)


def test_tucker_is_that_of_tensorly():
    dense = layer(10, 12)
    tensorly.set_backend("numpy")
    for rank in ((4, 3), (8, 9)):
        (core, factors), _ = partial_tucker(
            dense.weight.detach().numpy(), rank=rank, modes=[0, 1], n_iter_max=100, tol=1e-10
        )
        theirs = tensorly.tenalg.multi_mode_dot(core, factors, modes=[0, 1])
        want = float(
            (torch.from_numpy(theirs) - dense.weight.detach()).norm() / dense.weight.detach().norm()
        )
        assert error(tucker_conv(dense, rank), dense) == pytest.approx(want, abs=2e-3)


def test_svd_and_spatial_err_by_the_tail_of_their_matrix():
    dense = layer(5, 7, (3, 2))
    w = dense.weight.detach()
    for make, matrix in (
        (svd_conv, w.reshape(7, 30)),
        (spatial_conv, w.permute(1, 2, 0, 3).reshape(15, 14)),
    ):
        s = torch.linalg.svdvals(matrix)
        for r in (1, 4, 6):
            assert error(make(dense, r), dense) == pytest.approx(
                float(s[r:].norm() / s.norm()), abs=1e-12
            )


def test_tt_of_four_modes_is_the_train_of_the_kernel():
    dense = layer(6, 5, (3, 2))
    x = dense.weight.detach().permute(1, 2, 3, 0)
    want = tl.tt_svd(x, 4).to_dense().permute(3, 0, 1, 2)
    assert torch.allclose(conv_kernel(tt_conv(dense, 4)), want, atol=1e-12)


def test_a_kernel_of_one_pixel_is_low_rank_in_every_structure():
    dense = layer(6, 8, 1)
    s = torch.linalg.svdvals(dense.weight.detach()[..., 0, 0])
    want = float(s[3:].norm() / s.norm())
    for make in (svd_conv, spatial_conv, tt_conv, tucker_conv):
        assert error(make(dense, 3), dense) == pytest.approx(want, abs=1e-12)
    assert error(cp_conv(dense, 3, ridge=1e-8), dense) == pytest.approx(want, abs=1e-3)


# -- rank, rtol, flops


@pytest.mark.thorough
@structure
@pytest.mark.parametrize("rtol", [0.7, 0.4])
def test_rtol_is_met_and_a_cap_holds(make, rtol):
    dense = layer(4, 5)
    free = make(dense, rtol=rtol)
    assert error(free, dense) <= rtol + 1e-12
    capped = make(dense, 1, rtol=rtol)
    assert error(capped, dense) > rtol
    assert sum(p.numel() for p in capped.parameters()) < sum(p.numel() for p in free.parameters())


def test_cp_finds_the_smallest_rank_of_a_kernel_that_has_one():
    dense = layer(6, 8)
    with torch.no_grad():
        dense.weight.copy_(
            tl.CP.randn(
                (8, 6, 3, 3), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
            ).to_dense()
        )
    assert cp_conv(dense, rtol=1e-2, ridge=1e-5)[0].out_channels == 3


@pytest.mark.thorough
@structure
@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(stride=2, padding=1),
        dict(dilation=2, padding="same"),
        dict(dilation=(2, 3)),
        dict(dilation=3, stride=2, padding=1),
    ],
)
@pytest.mark.parametrize("share", [0.5, 0.2])
def test_flops_are_within_the_share_and_one_rank_more_is_not(make, options, share):
    dense, size = layer(8, 12, **options), (14, 12)
    x = image(1, 8, *size)
    small = make(dense, flops=share, image_size=size)
    budget = share * sum(layer_flops(dense, x).values())
    cost = sum(layer_flops(small, x).values())
    assert cost <= budget
    ranks = (
        small.weight.ranks
        if isinstance(small, FactorizedConv2d)
        else tuple(c.out_channels for c in list(small)[:-1])
    )
    ranks = {
        tucker_conv: lambda r: r[::-1],
        cp_conv: lambda r: r[0],
        spatial_conv: lambda r: r[0],
        svd_conv: lambda r: r[0],
    }.get(make, lambda r: r)(ranks)
    more = tuple(r + 1 for r in ranks) if isinstance(ranks, tuple) else ranks + 1
    if make is not tt_conv:  # of a train some ranks are full already
        assert sum(layer_flops(make(dense, more), x).values()) > budget


@structure
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("kernel, dilation", [((2, 4), (1, 1)), ((4, 3), (1, 2)), ((2, 2), (3, 5))])
def test_same_padding_of_even_kernels_has_the_odd_one_at_the_end(make, mode, kernel, dilation):
    dense = layer(3, 4, kernel, dilation=dilation, padding="same", padding_mode=mode)
    x = image(2, 3, 9, 10)
    assert torch.allclose(make(dense, FULL)(x), dense(x), rtol=0, atol=1e-10)


def test_a_dilated_image_shrinks_in_the_count_of_flops():
    """With dilation 3 and no padding a 3 x 3 kernel leaves 8 x 6 of 14 x 12 pixels."""
    dense, size = layer(8, 12, dilation=3), (14, 12)
    assert layer_flops(dense, image(1, 8, *size)) == {"": 2 * 12 * 8 * 9 * 8 * 6}
    links = [conv.Link(8, 5, ""), conv.Link(5, 6, "hw"), conv.Link(6, 12, "")]
    by_hand = 2 * (5 * 8 * 14 * 12 + 6 * 5 * 9 * 8 * 6 + 12 * 6 * 8 * 6)
    assert conv._cost(dense, links, size) == by_hand
    assert sum(layer_flops(tucker_conv(dense, (6, 5)), image(1, 8, *size)).values()) == by_hand


def test_flops_by_hand():
    dense = layer(4, 6, 3, padding=1)
    x = image(1, 4, 10, 10)
    assert layer_flops(dense, x) == {"": 2 * 6 * 4 * 9 * 100}
    assert list(layer_flops(cp_conv(dense, 5), x).values()) == [
        100 * 2 * 5 * n for n in (4, 3, 3, 6)
    ]
    assert sum(layer_flops(svd_conv(dense, 5), x).values()) == 2 * 5 * (36 + 6) * 100
    strided = layer(4, 6, 3, stride=2, padding=1)
    assert layer_flops(spatial_conv(strided, 2), x) == {
        "0": 2 * 2 * 4 * 3 * 5 * 10,
        "1": 2 * 6 * 2 * 3 * 25,
    }


# -- the stable CP


def diverging(n=4):
    """a a b + a b a + b a a: rank 3, and as near as wanted to rank 2 [DeSilvaLim2008]."""
    a, b = torch.eye(n, dtype=torch.float64)[:2]
    return sum(torch.einsum("i,j,k->ijk", *v) for v in ((a, a, b), (a, b, a), (b, a, a)))


@pytest.mark.thorough
@pytest.mark.parametrize("ridge", [1e-1, 1e-2, 1e-3, 1e-4])
def test_terms_do_not_diverge(ridge):
    w = diverging()
    start = tl.CP.randn(
        (4, 4, 4), 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    fit = cp_stable(w, 2, ridge=ridge, init=start, tol=0.0, max_iter=200)
    assert float(fit.value.normalized().weights.square().sum()) <= float(w.square().sum()) / ridge
    plain = tl.cp_als(w, 2, init=start, tol=0.0, max_iter=200)
    assert cp_degeneracy(fit.value) < cp_degeneracy(plain.value)


def test_terms_of_plain_als_grow_and_those_of_the_stable_fit_settle():
    start = tl.CP.randn(
        (4, 4, 4), 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    plain, stable = ([], [])
    for energies, fit in (
        (plain, lambda n: tl.cp_als(diverging(), 2, init=start, tol=0.0, max_iter=n)),
        (stable, lambda n: cp_stable(diverging(), 2, ridge=1e-2, init=start, tol=0.0, max_iter=n)),
    ):
        energies += [cp_degeneracy(fit(n).value) for n in (50, 200)]
    assert plain[1] > 1.5 * plain[0] and stable[1] < 1.01 * stable[0]


def test_the_objective_never_grows():
    w, ridge = layer(8, 9).weight.detach(), 1e-2
    costs = []
    for sweeps in (1, 2, 4, 8, 16, 32):
        fit = cp_stable(
            w, 6, ridge=ridge, tol=0.0, max_iter=sweeps, generator=torch.Generator().manual_seed(0)
        )
        terms = float(fit.value.normalized().weights.square().sum() / w.square().sum())
        costs.append(fit.history[-1] ** 2 + ridge * terms)
        assert float((fit.value.to_dense() - w).norm() / w.norm()) == pytest.approx(
            fit.history[-1], rel=1e-9
        )
    assert costs == sorted(costs, reverse=True)


def test_without_ridge_it_is_alternating_least_squares():
    w = layer(8, 9).weight.detach()
    g = lambda: torch.Generator().manual_seed(0)
    ours = cp_stable(w, 6, ridge=0.0, tol=0.0, max_iter=20, generator=g())
    theirs = tl.cp_als(w, 6, tol=0.0, max_iter=21, generator=g())
    assert ours.history == pytest.approx(theirs.history[1:], rel=1e-6)


def test_the_repair_costs_little_error():
    w = layer(8, 10).weight.detach()
    g = lambda: torch.Generator().manual_seed(0)
    plain = tl.cp_als(w, 12, max_iter=200, generator=g())
    stable = cp_stable(w, 12, max_iter=200, generator=g())
    assert stable.history[-1] < plain.history[-1] + 0.01
    assert cp_degeneracy(stable.value) < cp_degeneracy(plain.value)


def test_degeneracy_by_hand():
    f = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert cp_degeneracy(tl.CP(torch.ones(2), (f, f))) == pytest.approx(0.5)  # two equal terms
    f = torch.tensor([[1.0, 1.0], [0.1, 0.0]])
    cp = tl.CP(torch.tensor([1.0, -1.0]), (f, torch.ones(2, 2)))
    assert cp_degeneracy(cp) == pytest.approx((2 * 1.01 + 2 * 1.0) / (2 * 0.01), rel=1e-5)


def test_degenerate_terms_are_warned_of(monkeypatch):
    dense = layer(6, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cp_conv(dense, 10)
    monkeypatch.setattr(conv, "DEGENERATE", 1.0)
    with pytest.warns(UserWarning, match="times the energy of their sum"):
        cp_conv(dense, 10, ridge=1e-5)


def test_terms_are_shared_equally_by_four_factors():
    b, c, d, a = (part.weight.detach() for part in cp_conv(layer(6, 8), 5))
    norms = [f.flatten(1).norm(dim=1) for f in (b, c, d, a.transpose(0, 1))]
    assert all(torch.allclose(n, norms[0], rtol=1e-10) for n in norms[1:])


@pytest.mark.parametrize("make", [tucker_conv, tt_conv, spatial_conv, cp_conv])
def test_weights_have_equal_norms(make):
    norms = [float(part.weight.detach().norm()) for part in make(layer(6, 8), 4)]
    assert norms == pytest.approx([norms[0]] * len(norms), rel=1e-10)


# -- is a layer like others


@structure
def test_state_dict_and_deepcopy(make):
    dense = layer(6, 8, padding=1)
    one, other = make(dense, 3), make(layer(6, 8, padding=1, seed=5), 3)
    x = image(2, 6, 7, 7)
    assert not torch.allclose(one(x), other(x))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(x), other(x))
    assert torch.equal(copy.deepcopy(one)(x), one(x))
    assert {id(p) for p in copy.deepcopy(one).parameters()}.isdisjoint(
        {id(p) for p in one.parameters()}
    )


@structure
def test_autocast_gives_the_dtype_of_a_convolution(make, device):
    dense = layer(6, 8, padding=1, dtype=torch.float32).to(device)
    small, x = make(dense, FULL), image(2, 6, 7, 7, dtype=torch.float32).to(device)
    exact = torch.autograd.grad(small(x).square().sum(), list(small.parameters()))
    with torch.autocast(device.type, torch.bfloat16):
        y, like = small(x), dense(x)
    grow = 32 * torch.finfo(torch.bfloat16).eps  # a few products, each rounded
    assert y.dtype == like.dtype == torch.bfloat16
    want = dense(x).detach()
    assert float((y.float() - want).detach().norm()) < grow * float(want.norm())
    got = torch.autograd.grad(y.float().square().sum(), list(small.parameters()))
    for g, e in zip(got, exact, strict=True):
        assert g.dtype == torch.float32 and float((g - e).norm()) < grow * float(e.norm())


@structure
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_an_empty_batch(make, mode):
    dense = layer(6, 8, padding=1, padding_mode=mode)
    x = image(0, 6, 7, 7)
    assert make(dense, 3)(x).shape == dense(x).shape == (0, 8, 7, 7)


@structure
@pytest.mark.parametrize(
    "options",
    [
        dict(stride=2, padding=(1, 0)),
        dict(dilation=(2, 1), padding="same", padding_mode="circular"),
    ],
    ids=["strided", "same"],
)
def test_it_has_what_others_read_of_a_convolution(make, options):
    dense = layer(6, 8, (3, 2), **options)
    small = make(dense, FULL)
    for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation"):
        assert getattr(small, name) == getattr(dense, name), name
    for name in ("groups", "padding_mode", "transposed", "output_padding"):
        assert getattr(small, name) == getattr(dense, name), name
    assert torch.equal(small.bias, dense.bias) and make(layer(bias=False), 2).bias is None
    kernel = small.weight if isinstance(small.weight, torch.Tensor) else small.weight.to_dense()
    assert torch.allclose(kernel.reshape(dense.weight.shape), dense.weight, atol=1e-8)
    assert copy.deepcopy(small).stride == dense.stride


@structure
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_dtypes(make, dtype):
    dense = layer(6, 8, padding=1)
    low = make(copy.deepcopy(dense).to(dtype), FULL)
    x = image(2, 6, 7, 7)
    assert all(p.dtype == dtype for p in low.parameters())
    y, want = low(x.to(dtype)).double(), dense(x)
    assert float((y - want).norm() / want.norm()) < 8 * torch.finfo(dtype).eps
    assert make(dense, 3).to(dtype)(x.to(dtype)).dtype == dtype


@structure
def test_devices(make, device):
    dense = layer(6, 8, padding=1).to(device)
    small = make(dense, 3)
    assert all(p.device.type == device.type for p in small.parameters())
    assert small(image(1, 6, 7, 7).to(device)).device.type == device.type
    moved = make(layer(6, 8, padding=1), 3).to(device)
    assert torch.allclose(
        moved(image(1, 6, 7, 7).to(device)), small(image(1, 6, 7, 7).to(device)), atol=1e-8
    )


@structure
def test_complex_kernels(make):
    dense = layer(4, 5, (3, 2), dtype=torch.complex128)
    x = image(1, 4, 6, 6, dtype=torch.complex128)
    assert torch.allclose(make(dense, FULL)(x), dense(x), atol=1e-10)
    assert (
        0
        < float(
            (conv_kernel(make(dense, 2)) - dense.weight).detach().norm()
            / dense.weight.detach().norm()
        )
        < 1
    )


@structure
def test_gradients(make):
    small = make(layer(3, 4, 2, stride=2, padding=1), 2)
    names, start = zip(
        *((n, p.detach().clone().requires_grad_()) for n, p in small.named_parameters())
    )
    x = image(1, 3, 4, 5).requires_grad_()

    def f(x, *parameters):
        return torch.func.functional_call(small, dict(zip(names, parameters)), (x,))

    assert torch.autograd.gradcheck(f, (x, *start))


@pytest.mark.thorough
@structure
def test_compiles(make):
    small = make(layer(6, 8, padding=1, padding_mode="reflect"), 3)
    x = image(1, 6, 7, 7)
    assert torch.allclose(
        torch.compile(small, backend="eager", fullgraph=True)(x), small(x), rtol=0, atol=1e-12
    )


@structure
def test_settings_of_the_layer_are_kept(make):
    dense = layer(6, 8, bias=False).eval().requires_grad_(False)
    small = make(dense, 3)
    assert not small.training and not any(p.requires_grad for p in small.parameters())
    assert dense.weight.grad_fn is None and len(list(dense.parameters())) == 1


@structure
def test_zero_kernel(make):
    dense = layer(3, 4)
    nn.init.zeros_(dense.weight)
    small = make(dense, 2)
    assert torch.equal(conv_kernel(small), torch.zeros_like(dense.weight))
    assert all(max(p.shape) <= 4 for p in small.parameters() if p.ndim == 4)


@structure
@pytest.mark.parametrize("exponent", [-120, 120])
def test_the_scale_of_a_kernel_does_not_matter(make, exponent):
    dense, big = layer(4, 5), layer(4, 5)
    with torch.no_grad():
        big.weight.mul_(math.ldexp(1.0, exponent))
    want = conv_kernel(make(dense, 2, **_seeded(make)))
    assert torch.allclose(
        conv_kernel(make(big, 2, **_seeded(make))) * math.ldexp(1.0, -exponent), want, atol=1e-8
    )


def _seeded(make):
    return dict(generator=torch.Generator().manual_seed(0)) if make is cp_conv else {}


# -- FactorizedConv2d


def test_weight_and_its_rank_can_be_changed():
    dense = layer(5, 7, padding=1)
    small = svd_conv(dense, 3)
    kept = [id(p) for p in small.parameters()]
    w = tl.LowRank.from_dense(dense.weight.detach().flatten(1), 6)
    small.set_weight(w)
    assert small.weight.ranks == (6,) and [id(p) for p in small.parameters()] == kept
    assert torch.allclose(conv_kernel(small).flatten(1), w.to_dense(), atol=1e-12)
    wider = svd_conv(dense, 2)
    wider.load_state_dict(small.state_dict())
    assert wider.weight.ranks == (6,)


def test_a_middle_factor_is_kept():
    dense = layer(5, 7)
    small = FactorizedConv2d.from_conv(dense, lambda w: tl.LowRank.from_dense(w, 4).orthogonal())
    x = image(2, 5, 6, 6)
    assert small.weight.s is not None and torch.allclose(
        small(x), svd_conv(dense, 4)(x), atol=1e-10
    )


# -- in a model


def model():
    return nn.Sequential(
        layer(1, 4, padding=1), nn.ReLU(), nn.Sequential(layer(4, 6), nn.ReLU()), nn.Flatten()
    )


def test_replace_by_pattern_and_by_predicate():
    x = image(2, 1, 6, 6)
    net = model()
    want = net(x)
    assert replace_conv(net, "2.*", lambda c: tucker_conv(c, FULL)) is net
    assert isinstance(net[0], nn.Conv2d) and isinstance(net[2][0], nn.Sequential)
    assert torch.allclose(net(x), want, atol=1e-10)
    net = replace_conv(model(), lambda name, c: c.in_channels == 1, lambda c: svd_conv(c, 2))
    assert isinstance(net[0], FactorizedConv2d) and isinstance(net[2][0], nn.Conv2d)


def test_a_layer_in_two_places_stays_one():
    shared = layer(4, 4, padding=1)
    net = replace_conv(
        nn.Sequential(shared, nn.ReLU(), shared), ["0", "2"], lambda c: spatial_conv(c, 2)
    )
    assert net[0] is net[2]


def test_replace_says_no_and_changes_nothing():
    net = model()
    with pytest.raises(
        ValueError, match=r"replace_conv: needs a name of a convolution \(0, 2.0\), got '1'"
    ):
        replace_conv(net, ["0", "1"], lambda c: svd_conv(c, 2))
    with pytest.raises(ValueError, match="layer 2.0: tucker_conv: rank needs 2 entries"):
        replace_conv(
            net,
            ["0", "2.0"],
            lambda c: svd_conv(c, 2) if c.in_channels == 1 else tucker_conv(c, (1, 2, 3)),
        )
    assert isinstance(net[0], nn.Conv2d) and isinstance(net[2][0], nn.Conv2d)


# -- says no


@structure
def test_says_no(make):
    name = make.__name__
    with pytest.raises(
        ValueError, match=f"{name}: needs a convolution with groups=1, got groups=2"
    ):
        make(layer(4, 6, groups=2), 2)
    for wrong in (
        nn.Linear(3, 3),
        nn.ConvTranspose2d(3, 3, 3),
        nn.LazyConv2d(3, 3),
        torch.ones(2, 2, 3, 3),
    ):
        with pytest.raises(
            TypeError,
            match=f"{name}: needs an nn.Conv2d with its weights, got {type(wrong).__name__}",
        ):
            make(wrong, 2)
    with pytest.raises(ValueError, match=f"{name}: needs a rank, an rtol or both, got neither"):
        make(layer())
    with pytest.raises(TypeError, match="rank must be an integer"):
        make(layer(), 0.5)
    with pytest.raises(ValueError, match=f"{name}: rank must be at least 1, got 0"):
        make(layer(), 0)
    with pytest.raises(
        ValueError, match=f"{name}: flops needs image_size=.height, width., got None"
    ):
        make(layer(), flops=0.5)
    with pytest.raises(ValueError, match=f"{name}: rtol must be a number >= 0, got -0.1"):
        make(layer(), rtol=-0.1, flops=0.5, image_size=(8, 8))
    with pytest.raises(ValueError, match=f"{name}: flops must be a number > 0, got -1"):
        make(layer(), flops=-1, image_size=(8, 8))
    with pytest.raises(
        ValueError,
        match=f"{name}: rank 1 costs .* of the layer at image_size=.8, 8., got flops=0.0001",
    ):
        make(layer(), flops=1e-4, image_size=(8, 8))
    bad = layer()
    with torch.no_grad():
        bad.weight[1, 2, 0, 1] = torch.nan
    with pytest.raises(
        ValueError, match=rf"{name}: needs finite entries, got nan at index \(1, 2, 0, 1\)"
    ):
        make(bad, 2)


def test_factorized_conv_says_no():
    w = tl.LowRank.randn((4, 18), 2)
    with pytest.raises(TypeError, match="FactorizedConv2d: needs a LowRank as weight, got Tensor"):
        FactorizedConv2d(torch.ones(4, 18), kernel_size=3)
    with pytest.raises(ValueError, match=r"needs a weight \(T, S·4·4\), got shape \(4, 18\)"):
        FactorizedConv2d(w, kernel_size=4)
    with pytest.raises(ValueError, match=r"padding='same' needs stride 1, got \(2, 2\)"):
        FactorizedConv2d(w, kernel_size=3, padding="same", stride=2)
    with pytest.raises(
        ValueError, match=r"make needs to give a LowRank of shape \(7, 45\), got LowRank"
    ):
        FactorizedConv2d.from_conv(layer(), lambda w: tl.LowRank.randn((3, 3), 1))
    with pytest.raises(ValueError, match="cp_stable: ridge must be a number >= 0, got -1"):
        cp_stable(torch.ones(3, 3, 3), 2, ridge=-1)
    with pytest.raises(ValueError, match=r"cp_stable: needs at least 2 modes, got shape \(3,\)"):
        cp_stable(torch.ones(3), 2)
    with pytest.raises(ValueError, match="cp_stable: max_iter must be an integer >= 1, got 0"):
        cp_stable(torch.ones(3, 3, 3), 2, max_iter=0)


@pytest.mark.parametrize("seed", range(4))
def test_without_a_price_cp_stable_is_cp_als(seed):
    drawn = torch.Generator().manual_seed(seed)
    x = tl.CP.randn((8, 9, 10), 3, generator=drawn, dtype=torch.float64).to_dense()
    for tol in (1e-8, 1e-4):
        plain, fit = tl.cp_als(x, 3, tol=tol), tl.cp_stable(x, 3, ridge=0.0, tol=tol)
        # its first sweep is the start, so the histories are one sweep apart,
        # and each is the root of a difference of squares, right to a few eps
        ours, theirs = ([e**2 for e in h] for h in (fit.history[:-1], plain.history[1:-1]))
        assert ours == pytest.approx(theirs, rel=1e-4, abs=16 * torch.finfo(torch.float64).eps)
        assert fit.converged and len(fit.history) == len(plain.history) - 1
    default = tl.cp_stable(x, 3, ridge=0.0)
    assert default.history[-1] == pytest.approx(tl.cp_als(x, 3).history[-1], rel=1e-3)


def test_cp_conv_passes_its_tolerance_on():
    torch.manual_seed(0)
    layer, sweeps = nn.Conv2d(6, 8, 3), {}
    for tol in (1e-1, 1e-8):
        steps = tl.cp_stable(
            layer.weight.detach(), 3, tol=tol, generator=torch.Generator().manual_seed(0)
        )
        sweeps[tol] = len(steps.history)
        chain = tl.cp_conv(layer, 3, tol=tol, generator=torch.Generator().manual_seed(0))
        error = float((tl.conv_kernel(chain) - layer.weight).norm() / layer.weight.norm())
        assert error == pytest.approx(steps.history[-1], rel=1e-4)
    assert sweeps[1e-1] < sweeps[1e-8]
