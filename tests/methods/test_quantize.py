"""Few bits: errors against levels found otherwise, bits counted byte by byte, files that come back
bit for bit or are refused."""

import copy
import json
import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.cluster import KMeans
from torch import nn

import tensorlab as tl
from tensorlab.clusters import kmeans, kmeans_line, nearest
from tensorlab.methods import kashin as kashin_module
from tensorlab.methods.codes import METHODS, pack, spiral, unpack
from tensorlab.methods.kashin import KINDS


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def matrix(kind, seed, n=128):
    """A square matrix of unit norm; the tails grow from kind to kind."""
    g = seeded(seed)
    randn = lambda *shape: torch.randn(shape, generator=g, dtype=torch.float64)
    x = randn(n, n)
    if kind == "student":
        x = x / randn(3, n, n).square().mean(0).sqrt()
    if kind == "outliers":
        x = torch.where(torch.rand(n, n, generator=g) < 1e-3, 30 * x, x)
    if kind == "rows":
        x = x * randn(n, 1).exp()
    return x / x.norm()


def error(q, w):
    return float((q.to_dense() - w).norm() / w.norm())


# -- reduces to


@settings(max_examples=60, deadline=None, derandomize=True)
@given(width=st.integers(1, 8), n=st.integers(1, 50), seed=st.integers(0, 99))
def test_packing_is_the_number_written_in_binary(width, n, seed):
    codes = torch.randint(2**width, (n,), generator=seeded(seed)).to(torch.uint8)
    packed = pack(codes, width)
    assert len(packed) == math.ceil(n * width / 8)
    assert int.from_bytes(bytes(packed.tolist()), "little") == sum(
        c << (width * i) for i, c in enumerate(codes.tolist())
    )
    assert torch.equal(unpack(packed, width, n), codes.long())


def test_uniform_is_rounding_to_a_grid():
    w = torch.tensor([[0.0, 1.0, 2.0, 3.0, 0.4, 2.6]])
    assert torch.allclose(
        tl.quantize(w, 2, method="uniform").to_dense(),
        torch.tensor([[0.0, 1.0, 2.0, 3.0, 0.0, 3.0]]),
        atol=2e-3,
    )
    w = torch.randn(64, 48, generator=seeded())
    for group, shape in ((None, (1, -1)), ("channel", (64, -1)), (16, (-1, 16))):
        low, high = w.reshape(shape).aminmax(dim=1, keepdim=True)
        step = (high - low) / 15
        wanted = (low + step * ((w.reshape(shape) - low) / step).round()).reshape(64, 48)
        found = tl.quantize(w, method="uniform", group=group).to_dense()
        off = (
            (found - wanted).reshape(shape) / step
        ).abs()  # in steps; low and step are float16, so a few codes turn
        assert float((off < 0.05).double().mean()) > 0.98
        assert float(((found - w).reshape(shape) / step).abs().max()) < 0.55


@pytest.mark.parametrize("kind", ["gaussian", "student", "outliers"])
def test_levels_are_as_good_as_those_of_scikit_learn(kind):
    x = matrix(kind, 3, 64).flatten()
    levels = kmeans_line(x, 8)
    peer = KMeans(8, n_init=5, random_state=0).fit(x[:, None].numpy())
    ours = float((x - levels[nearest(x[:, None].float(), levels[:, None])]).square().sum())
    assert ours <= 1.02 * peer.inertia_
    assert torch.equal(levels, levels.sort().values)
    parts = nearest(x[:, None].float(), levels[:, None])
    means = torch.stack([x[parts == k].mean() for k in range(8)]).float()  # Lloyd's condition
    assert torch.allclose(levels, means, atol=1e-4 * float(levels.abs().max()))


def test_levels_of_a_gaussian_are_those_of_the_tables():
    x = torch.randn(1 << 18, generator=seeded(), dtype=torch.float64)
    wanted = torch.tensor([-1.510, -0.4528, 0.4528, 1.510])  # Lloyd and Max, four levels
    assert torch.allclose(kmeans_line(x, 4), wanted, atol=0.01)
    w = x[: 1 << 16].reshape(256, 256)
    assert tl.quantize(w, 2, method="kmeans").error ** 2 == pytest.approx(0.1175, rel=0.02)
    assert tl.quantize(w, 4, method="kmeans").error ** 2 == pytest.approx(0.009497, rel=0.02)


def test_pairs_in_the_plane_are_as_good_as_those_of_scikit_learn():
    points = torch.randn(4000, 2, generator=seeded())
    found = kmeans(points, spiral(4)).value
    peer = KMeans(16, n_init=5, random_state=0).fit(points.numpy())
    assert float((points - found[nearest(points, found)]).square().sum()) <= 1.05 * peer.inertia_


@pytest.mark.parametrize(("width", "scalar"), [(6, 0.03454), (8, 0.009497)])
def test_the_spiral_beats_the_best_scalar_levels(width, scalar):
    points = torch.randn(1 << 15, 2, generator=seeded())
    centers = spiral(width)
    assert float((points - centers[nearest(points, centers)]).square().mean()) < 0.95 * scalar


@pytest.mark.parametrize("width", [4, 6, 8])
def test_the_spiral_has_the_size_of_least_error(width):
    points = torch.randn(1 << 15, 2, generator=seeded())
    square = lambda c: float((points - c[nearest(points, c)]).square().mean())
    least = square(spiral(width))
    assert all(square(spiral(width) * factor) > 1.002 * least for factor in (0.95, 1.05))


def test_the_spiral_by_hand():
    # K = 4: r_0^2 = -4 ln(7/8), r_3^2 = -4 ln(1/8), both times 1 - 0.6 / 2; the angle of 0 is 0
    assert spiral(2)[0].tolist() == pytest.approx([0.7 * 0.73085, 0], abs=1e-5)
    assert float(spiral(2)[3].norm()) == pytest.approx(0.7 * 2.88405, abs=1e-5)


@pytest.mark.parametrize("bits", [3, 4])
def test_all_levels_on_the_line_give_the_rotation_and_scalar_levels(bits):
    w = torch.randn(32, 40, generator=seeded())
    quantized = tl.quantize(w, bits, method="rotate", generator=seeded())
    turned = quantized.q.adjoint(w / w.square().mean().sqrt())
    levels = kmeans_line(turned.flatten(), 2**bits)
    wanted = (
        quantized.q.apply(levels[nearest(turned.reshape(-1, 1), levels[:, None])].reshape(32, 40))
        * w.square().mean().sqrt()
    )
    assert torch.allclose(quantized.to_dense(), wanted, atol=4e-3 * float(wanted.abs().max()))


# -- the table: medians of twenty draws, 128 x 128 at 4 bits


TABLE = {  # kmeans, rotate, kashin
    "gaussian": (0.097, 0.097, 0.145),
    "student": (0.164, 0.099, 0.155),
    "outliers": (0.159, 0.102, 0.157),
    "rows": (0.166, 0.108, 0.182),
}


@pytest.mark.thorough
@pytest.mark.parametrize("draws", [3, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", TABLE)
def test_table_of_errors(kind, draws):
    found = {m: [] for m in METHODS}
    for seed in range(draws):
        w = matrix(kind, seed)
        for m in METHODS:
            quantized = tl.quantize(w, method=m, generator=seeded(seed))
            assert quantized.converged and quantized.error == pytest.approx(
                error(quantized, w), rel=1e-6
            )
            found[m].append(quantized.error)
    for m, wanted in zip(("kmeans", "rotate", "kashin"), TABLE[kind]):
        assert statistics.median(found[m]) <= 1.1 * wanted
    assert all(u > r > p for u, r, p in zip(found["uniform"], found["rotate"], found["pairs"]))
    assert all(u > k > r for u, k, r in zip(found["uniform"], found["kashin"], found["rotate"]))


@pytest.mark.thorough
@pytest.mark.parametrize(("bits", "n"), [(2, 128), (3, 128), (4, 64)])
def test_the_default_is_at_least_as_good_as_rotation_and_levels(bits, n):
    for kind in TABLE:
        pairs, rotate = (
            [tl.quantize(matrix(kind, s, n), bits, method=m, generator=seeded(s)) for s in range(4)]
            for m in ("pairs", "rotate")
        )
        assert statistics.median(q.error for q in pairs) <= statistics.median(
            q.error for q in rotate
        )
        assert all(p.error <= 1.03 * r.error for p, r in zip(pairs, rotate))
        assert pairs[0].bits_per_weight <= rotate[0].bits_per_weight + 0.03


# -- is invariant


@pytest.mark.thorough
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("group", [None, "channel", 8])
@pytest.mark.parametrize("shape", [(1, 8), (5, 8), (7, 24), (6, 2, 4)])
def test_forward_is_that_of_the_dense_matrix(method, group, shape):
    w = torch.randn(shape, generator=seeded(), dtype=torch.float64)
    q = tl.quantize(w, method=method, group=group, generator=seeded())
    dense = q.to_dense()
    assert dense.shape == w.shape and dense.dtype == w.dtype
    x = torch.randn(
        3, 2, math.prod(shape[1:]), generator=seeded(1), dtype=torch.float64, requires_grad=True
    )
    wanted = x @ dense.reshape(shape[0], -1).mT
    assert torch.allclose(q.apply(x), wanted, atol=3e-5 * float(wanted.detach().abs().max()))
    (g,) = torch.autograd.grad(q.apply(x).sum(), x)
    assert torch.allclose(g, dense.reshape(shape[0], -1).sum(0).expand_as(x), atol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("dtype", "powers"),
    [
        (torch.float64, (-900, -600, -100, 100, 600, 900)),
        (torch.float32, (-120, -60, 60, 120)),
        (torch.bfloat16, (-60, 60)),
        (torch.float16, (4, 8)),
    ],
)
def test_scale_does_not_matter(method, dtype, powers):
    w = (5 * matrix("student", 0, 32)).to(dtype)
    one = tl.quantize(w, method=method, generator=seeded())
    x = torch.randn(3, 32, generator=seeded(1)).to(dtype)
    for power in powers:
        other = tl.quantize(w * 2.0**power, method=method, generator=seeded())
        assert torch.equal(other.codes, one.codes)
        assert other.error == pytest.approx(one.error, rel=1e-6)
        close = dict(rtol=0, atol=4 * torch.finfo(dtype).eps)
        unit = lambda y: y.double() / y.double().abs().max()
        assert torch.allclose(unit(other.to_dense()), unit(one.to_dense()), **close)
        assert torch.allclose(unit(other.apply(x)), unit(one.apply(x)), **close)
        assert other.bits_per_weight <= one.bits_per_weight + 32 / w.numel()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(1,), (1, 1), (3,), (5, 3), (1, 7)])
def test_small_and_odd_shapes(method, shape):
    w = torch.randn(shape, generator=seeded())
    q = tl.quantize(w, method=method, generator=seeded())
    assert q.to_dense().shape == w.shape and q.error < 0.6
    zero = tl.quantize(torch.zeros(shape), method=method, generator=seeded())
    assert not zero.to_dense().any() and zero.error == 0


@pytest.mark.parametrize("method", METHODS)
def test_rows_of_zeros_stay_zero_by_channel(method):
    w = torch.randn(4, 16, generator=seeded())
    w[2] = 0
    assert (
        not tl.quantize(w, method=method, group="channel", generator=seeded()).to_dense()[2].any()
    )


@pytest.mark.thorough
def test_scales_by_channel_mend_scaled_rows_where_no_rotation_has():
    w = matrix("rows", 0)
    for method in METHODS:
        whole, rows = (
            tl.quantize(w, method=method, group=g, generator=seeded()) for g in (None, "channel")
        )
        assert rows.error < (0.8 if method in ("uniform", "kmeans") else 1.03) * whole.error
        assert whole.bits_per_weight < rows.bits_per_weight < whole.bits_per_weight + 0.3


def test_bits_are_counted_by_the_byte():
    w = torch.randn(64, 64, generator=seeded())
    n, norm, seed = 4096, 32, 64
    wanted = {
        "uniform": n * 3 + 2 * 16 + norm,
        "kmeans": n * 3 + 8 * 16 + 16 + norm,
        "rotate": n * 3 + 8 * 16 + 16 + norm + seed,
        "kashin": n * 3 + 2 * 8 * 16 + 16 + norm + seed,
        "pairs": n * 3 + 16 + norm + seed,
    }
    for method, bits in wanted.items():
        assert tl.quantize(w, 3, method=method).stored_bits == bits, method


# -- models and files


def network():
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(48, 32, bias=False), nn.LayerNorm(32))
    return nn.Sequential(nn.Linear(32, 48), nn.ReLU(), inner, nn.Linear(32, 5))


def quantized(report):
    """The names of the layers that a report lists as quantized."""
    return [row.name for row in report.rows if row.kind == "Quantized"]


@pytest.mark.thorough
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_model_comes_back_bit_for_bit(method, bits, tmp_path):
    model, x = network(), torch.randn(7, 32, generator=seeded())
    dense, names = copy.deepcopy(model), ("0", "2.*")
    assert tl.quantize_model(model, names, bits, method=method, generator=seeded()) is model
    report = tl.layer_report(model, dense)
    assert quantized(report) == ["0", "2.0"] and isinstance(model[3], nn.Linear)
    for name in ("0", "2.0"):
        row, w = report[name], model.get_submodule(name).weight
        assert row.bytes == (w.stored_bits - 64 * (w.q is not None)) // 8  # without the seed
        assert row.error == pytest.approx(error(w, dense.get_submodule(name).weight))
        assert row.error == pytest.approx(w.error, rel=1e-6)
    path = tmp_path / "model.safetensors"
    tl.save_quantized(path, model)
    other = tl.load_quantized(path, network())
    assert torch.equal(other(x), model(x))
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    )
    again = tl.load_quantized(path, other)  # into a quantized one
    assert torch.equal(again(x), model(x))
    codes = load_file(path)["0.codes"]
    assert codes.dtype == torch.uint8 and codes.numel() == 32 * 48 * bits // 8


@pytest.mark.parametrize(
    ("bits", "method"), [(4, "pairs"), (5, "rotate"), (8, "rotate"), (np.int64(3), "pairs")]
)
def test_the_default_method_has_the_bits_that_are_asked_for(bits, method):
    q = tl.quantize(torch.randn(16, 8, generator=seeded()), bits, generator=seeded())
    assert (q.method, q.bits) == (method, bits) and type(q.bits) is int
    grouped = tl.quantize(torch.randn(4, 6), group=np.int64(3), method="uniform")
    assert grouped.scale.shape == (8, 2)


def test_layer_keeps_its_bytes_when_cast():
    layer = network()
    tl.quantize_model(layer, "0")
    before = layer[0].weight.to_dense()
    layer.half()
    assert torch.equal(layer[0].weight.to_dense(), before) and layer[0].bias.dtype == torch.float16
    assert layer[0](torch.ones(2, 32, dtype=torch.float16)).dtype == torch.float16
    assert "pairs" in repr(layer)


@pytest.mark.thorough
def test_what_did_not_converge_is_reported():
    w = matrix("rows", 0, 64)
    q = tl.quantize(w, method="kashin", q="householder", generator=seeded())
    assert not q.converged and q.error == pytest.approx(error(q, w), rel=1e-6)
    model = nn.Sequential(nn.Linear(64, 64))
    with torch.no_grad():
        model[0].weight.copy_(w)
    tl.quantize_model(model, method="kashin", q="householder", generator=seeded())
    assert not model[0].weight.converged


def test_a_file_cut_off_or_changed_is_refused(tmp_path):
    model, path = network(), tmp_path / "model.safetensors"
    tl.quantize_model(model)
    tl.save_quantized(path, model)
    whole = path.read_bytes()
    fresh = network()
    before = {n: t.clone() for n, t in fresh.state_dict().items()}
    with safe_open(path, "pt") as file:
        about = file.metadata()
    tensors = load_file(path)
    for cut in (0, 7, 100, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(
            ValueError,
            match="load_quantized: needs a whole safetensors file, got .*model.safetensors",
        ):
            tl.load_quantized(path, fresh)
    for at in (len(whole) - 1, len(whole) - 500):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ValueError, match="with another checksum"):
            tl.load_quantized(path, fresh)
    layers = json.loads(about["quantized"])
    layers["0"]["bits"] = 3
    save_file(tensors, path, metadata=about | {"quantized": json.dumps(layers, sort_keys=True)})
    with pytest.raises(ValueError, match="with another checksum"):
        tl.load_quantized(path, fresh)
    save_file(tensors, path)
    with pytest.raises(ValueError, match="needs a file as save_quantized wrote it"):
        tl.load_quantized(path, fresh)
    path.write_bytes(whole)
    with pytest.raises(
        ValueError, match="needs the model that was quantized, got one that differs in 1"
    ):
        tl.load_quantized(path, nn.Sequential(nn.Linear(32, 48), nn.Linear(48, 32)))
    assert all(torch.equal(t, before[n]) for n, t in fresh.state_dict().items())


# -- the layer: captured, saved, moved


CASES = [
    ("uniform", "dct"),
    ("kmeans", "dct"),
    *(("rotate", q) for q in KINDS),
    ("kashin", "dct"),
    ("pairs", "dct"),
]


def layer(method="pairs", q="dct", bits=4, seed=0, group=None):
    w = torch.randn(16, 32, generator=seeded())
    weight = tl.quantize(w, bits, method=method, q=q, group=group, generator=seeded(seed))
    return tl.QuantizedLinear(weight, torch.randn(16, generator=seeded(1)))


def captured(way, module, x):
    """The module as another of torch's tools has it, for any number of rows where it can."""
    if way == "export":
        dynamic = ({0: torch.export.Dim("rows")},)
        return torch.export.export(module, (x,), dynamic_shapes=dynamic).module()
    if way == "compile":
        torch._dynamo.reset()
        return torch.compile(module, fullgraph=True, backend="aot_eager")
    if way == "vmap":
        return lambda x: torch.func.vmap(module)(x[:, None])[:, 0]
    return torch.jit.trace(module, x)


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace")
@pytest.mark.parametrize(
    ("method", "q", "way"),
    [
        *((*case, way) for case in CASES for way in ("export", "trace", "vmap")),
        ("pairs", "dct", "compile"),
        ("uniform", "dct", "compile"),
    ],
)
def test_a_captured_layer_gives_its_own_numbers_at_each_call(method, q, way, monkeypatch):
    monkeypatch.setattr(kashin_module, "BLOCK", 1 << 8)  # so that six rows are one, sixty several
    module, few = layer(method, q), torch.randn(6, 32, generator=seeded(2))
    many = torch.randn(60, 32, generator=seeded(3))
    graph = captured(way, module, few)
    wanted = few @ module.weight.to_dense().mT + module.bias
    for x in (few, few, many, few):
        assert torch.allclose(graph(x), module(x), rtol=0, atol=1e-5)
    assert torch.allclose(graph(few), wanted, atol=3e-5 * float(wanted.detach().abs().max()))


@pytest.mark.parametrize(("method", "q"), CASES)
@pytest.mark.parametrize("rows", [1, 60])
def test_gradients_go_through_at_any_number_of_rows(method, q, rows, monkeypatch):
    monkeypatch.setattr(kashin_module, "BLOCK", 1 << 8)
    module = layer(method, q)
    x = torch.randn(rows, 32, generator=seeded(), requires_grad=True)
    (g,) = torch.autograd.grad(module(x).square().sum(), x)
    dense = nn.functional.linear(x, module.weight.to_dense(), module.bias).square().sum()
    assert torch.allclose(g, torch.autograd.grad(dense, x)[0], rtol=0, atol=1e-3)


def through_a_file(state, path):
    tl.save_state(path, state)
    return tl.load_state(path)


@pytest.mark.thorough
@pytest.mark.parametrize("way", ["load", "assign", "file", "emptied"])
@pytest.mark.parametrize("other", [("rotate", "dct", 4, 7), ("uniform", "dct", 2, 0)])
@pytest.mark.parametrize(("method", "q"), CASES)
def test_a_state_dict_brings_the_rotation_with_it(method, q, other, way, tmp_path):
    a, b, x = layer(method, q), layer(*other), torch.randn(5, 32, generator=seeded(2))
    state = a.state_dict()
    if way == "file":
        state = through_a_file(state, tmp_path / "layer.safetensors")
    if way == "emptied":
        b = b.to_empty(device="cpu")
    b.load_state_dict(state, assign=way == "assign")
    assert torch.equal(b(x), a(x)) and repr(b) == repr(a)
    assert repr(b.weight.q) == repr(a.weight.q)
    again = through_a_file(b.state_dict(), tmp_path / "again.safetensors")
    assert all(torch.equal(again[name], t) for name, t in a.state_dict().items())


def test_a_loaded_layer_does_not_share_what_it_was_loaded_from():
    a, b = layer(bits=4), layer(bits=3, seed=1)
    b.load_state_dict(a.state_dict())
    before = a.state_dict()["codes"].clone()
    b.codes.zero_()
    assert torch.equal(a.codes, before)


def test_two_quantized_models_load_each_other():
    x = torch.randn(7, 32, generator=seeded())
    a, b = network(), network()
    tl.quantize_model(a, generator=seeded(1))
    tl.quantize_model(b, generator=seeded(2))
    assert not torch.allclose(a(x), b(x), rtol=1e-3)
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(x), b(x)) and torch.equal(copy.deepcopy(b)(x), a(x))


def broken(state, **changed):
    about = json.loads(bytes(state["about"].tolist())) | changed
    text = json.dumps(about).encode()
    return state | {"about": torch.tensor([*text], dtype=torch.uint8)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: {k: t for k, t in s.items() if k != "about"}, "needs all of .*, got no about"),
        (lambda s: {k: t for k, t in s.items() if k != "scale"}, "needs all of .*, got no scale"),
        (lambda s: s | {"about": s["about"][:20]}, "needs the description of a quantized matrix"),
        (lambda s: s | {"about": torch.zeros(0)}, "needs the description of a quantized matrix"),
        (lambda s: broken(s, shape=[32, 16]), r"needs a matrix \(16, 32\), got \(32, 16\)"),
        (lambda s: broken(s, bits=9), "needs the description"),
        (lambda s: broken(s, dtype="nn"), "needs the description"),
        (lambda s: broken(s, q=["dct"]), "needs the description"),
        (lambda s: broken(s, q=None), "needs the tensors of pairs"),
        (lambda s: broken(s, bits=3), "needs the tensors of pairs, 3 bits"),
        (lambda s: broken(s, method="kmeans"), "needs the tensors of kmeans"),
        (lambda s: s | {"scale": torch.ones(7).half()}, "needs the tensors of pairs"),
        (lambda s: s | {"codes": s["codes"].float()}, "needs the tensors of pairs"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_state_that_is_not_a_layers_is_refused(change, said, strict):
    module, x = layer(), torch.ones(32)
    before = module(x)
    with pytest.raises(RuntimeError, match=said):
        module.load_state_dict(change(layer(seed=3).state_dict()), strict=strict)
    assert torch.equal(module(x), before)


def test_a_layer_has_what_others_read():
    for module in (layer(), layer("uniform")):
        assert (module.in_features, module.out_features) == (32, 16)
        w = module.weight
        assert (w.dtype, w.device.type, w.shape) == (torch.float32, "cpu", (16, 32))
    assert layer().bias.shape == (16,)


@pytest.mark.parametrize(("method", "q"), CASES)
@pytest.mark.parametrize("group", [None, "channel", 8])
def test_an_empty_batch_has_an_empty_output(method, q, group):
    module = layer(method, q, group=group)
    x = torch.ones(0, 3, 32, requires_grad=True)
    y = module(x)
    assert y.shape == (0, 3, 16) and y.dtype == x.dtype
    y.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize(("method", "q"), CASES)
def test_a_layer_moves_between_devices(method, q, device):
    module, x = layer(method, q), torch.randn(4, 32, generator=seeded(2))
    moved = copy.deepcopy(module).to(device)
    assert {t.device.type for t in moved.buffers()} == {device.type} == {moved.weight.device.type}
    assert torch.allclose(moved(x.to(device)).cpu(), module(x), rtol=0, atol=1e-4)
    assert moved(torch.ones(0, 32, device=device)).shape == (0, 16)
    other = layer("uniform", bits=2).to(device)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(x.to(device)), moved(x.to(device)))
    made = tl.quantize(moved.weight.to_dense(), method=method, q=q, generator=seeded())
    assert made.device.type == device.type and made.error < 0.2
    there = torch.Generator(device).manual_seed(0)
    assert tl.quantize(moved.weight.to_dense(), method=method, q=q, generator=there).error < 0.2


@pytest.mark.thorough
@pytest.mark.parametrize(("method", "q"), CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_the_dtype_of_a_dense_layer(method, q, dtype, device):
    module, x = layer(method, q).to(device), torch.randn(4, 32, generator=seeded(2)).to(device)
    x.requires_grad_()
    with torch.autocast(device.type, dtype):
        y = module(x)
        assert y.dtype == nn.functional.linear(x, torch.ones(16, 32, device=device)).dtype == dtype
        out = torch.zeros(9, 16, dtype=dtype, device=device)
        out.index_add_(0, torch.arange(4, device=device), y)
        wide = torch.ones(2, 32, dtype=torch.float64, device=device)
        assert module(wide).dtype == torch.float64
    wanted = module(x)
    assert torch.allclose(y.float(), wanted, atol=16 * torch.finfo(dtype).eps * 10)
    y.float().sum().backward()
    assert x.grad.dtype == torch.float32


def test_a_layer_refuses_what_it_cannot_multiply():
    module = layer()
    with pytest.raises(ValueError, match=r"needs x \(\.\.\., 32\), got shape \(2, 31\)"):
        module(torch.ones(2, 31))
    for dtype in (torch.int64, torch.complex64):
        with pytest.raises(TypeError, match=f"real floating-point numbers, got {dtype}"):
            module(torch.ones(2, 32, dtype=dtype))
    with pytest.raises(TypeError, match="QuantizedLinear: needs a Quantized, got Tensor"):
        tl.QuantizedLinear(torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"needs a bias of shape \(16,\), got \(3,\)"):
        tl.QuantizedLinear(module.weight, torch.ones(3))


# -- models of others


class Conv1D(nn.Module):
    """GPT-2's layer: a weight (in, out)."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf, generator=seeded()))
        self.bias = nn.Parameter(torch.randn(nf, generator=seeded(1)))

    def forward(self, x):
        return x @ self.weight + self.bias


def within(model, reference, x, error):
    """Whether the output changed by no more than the error of the weights, but changed."""
    y, wanted = model(x), reference(x)
    off = float(((y - wanted).norm() / wanted.norm()).detach())
    return 0 < off <= error


def test_conv1d_is_quantized_as_a_linear_layer_is():
    model = nn.Sequential(Conv1D(24, 32), nn.ReLU(), nn.Linear(24, 3))
    dense, x = copy.deepcopy(model), torch.randn(5, 32, generator=seeded())
    report = tl.layer_report(tl.quantize_model(model, bits=8, generator=seeded()), dense)
    assert quantized(report) == ["0", "2"] and report["0"].shape == (24, 32)
    assert within(model, dense, x, 2 * max(row.error for row in report.rows))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_an_encoder_in_eval_calls_its_quantized_layers(masked, norm_first, whole):
    torch.manual_seed(0)
    part = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first)
    model = nn.TransformerEncoder(part, 2).eval() if whole else nn.Sequential(part).eval()
    dense, x = copy.deepcopy(model), torch.randn(3, 5, 16, generator=seeded())
    mask = torch.arange(5) >= torch.tensor([5, 3, 2])[:, None] if masked else None
    call = lambda m: m(x, src_key_padding_mask=mask) if whole else m[0](x, None, mask)
    with torch.no_grad():
        tl.quantize_model(model, "*linear*", 8, generator=seeded())
        errors = [m.weight.error for m in model.modules() if isinstance(m, tl.QuantizedLinear)]
        kept = torch.ones(3, 5, dtype=torch.bool) if mask is None else ~mask
        off = (call(model) - call(dense))[kept].norm() / call(dense)[kept].norm()
    assert 0 < float(off) <= len(errors) * max(errors)


def test_sharing_stays():
    shared = nn.Linear(8, 8)
    tied = nn.Linear(8, 8)
    tied.weight = shared.weight
    model = nn.Sequential(shared, nn.ReLU(), shared, tied)
    x = torch.randn(4, 8, generator=seeded())
    tl.quantize_model(model, generator=seeded())
    assert model[0] is model[2] and model[3] is not model[0]
    assert model[3].codes is model[0].codes and model[3].bias is tied.bias
    assert torch.equal(model[3].weight.to_dense(), model[0].weight.to_dense())
    model.load_state_dict(copy.deepcopy(model).state_dict())
    assert model[3].codes is model[0].codes
    assert torch.isfinite(model(x)).all()


def test_what_is_tied_to_an_embedding_is_left_with_a_warning():
    model = nn.ModuleDict({"wte": nn.Embedding(9, 8), "mlp": nn.Linear(8, 8)})
    model["head"] = nn.Linear(8, 9, bias=False)
    model["head"].weight = model["wte"].weight
    with pytest.warns(UserWarning, match="quantize_model: left as they are: head .*wte"):
        tl.quantize_model(model)
    assert quantized(tl.layer_report(model)) == ["mlp"]
    assert model["head"].weight is model["wte"].weight
    with pytest.raises(ValueError, match="quantize_model: .*head .*wte"):
        tl.quantize_model(model, "head")


def test_modes_dtypes_and_freezing_stay():
    model = network().double().eval()
    model[0].bias.requires_grad_(False)
    bias = model[3].bias
    tl.quantize_model(model, generator=seeded())
    assert not any(m.training for m in model.modules())
    assert not model[0].bias.requires_grad and model[3].bias is bias and bias.requires_grad
    assert model[0].weight.dtype == torch.float64
    assert model(torch.ones(2, 32, dtype=torch.float64)).dtype == torch.float64


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_a_layer_that_overrides_forward_is_left_with_a_warning():
    model = nn.Sequential(Scaled(4, 4), nn.Linear(4, 4))
    with pytest.warns(UserWarning, match="quantize_model: left as they are: 0 .*Scaled"):
        tl.quantize_model(model)
    assert type(model[0]) is Scaled and type(model[1]) is tl.QuantizedLinear
    with pytest.raises(ValueError, match="quantize_model: .*overrides forward"):
        tl.quantize_model(model, "0")


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize(
    "wrap",
    [
        torch.nn.utils.parametrizations.weight_norm,
        torch.nn.utils.parametrizations.spectral_norm,
        torch.nn.utils.weight_norm,
        lambda m: torch.nn.utils.prune.l1_unstructured(m, "weight", 0.5),
    ],
)
def test_a_computed_weight_is_quantized_as_it_is(wrap):
    torch.manual_seed(0)
    model = nn.Sequential(wrap(nn.Linear(32, 24))).eval()
    x = torch.randn(5, 32, generator=seeded())
    wanted = model(x)
    tl.quantize_model(model, bits=8, generator=seeded())
    off = float(((model(x) - wanted).norm() / wanted.norm()).detach())
    assert 0 < off <= 2 * model[0].weight.error < 0.05


def test_an_error_names_the_layer_and_nothing_is_changed():
    model = network()
    with torch.no_grad():
        model[3].weight[1, 2] = math.nan
    with pytest.raises(ValueError, match=r"quantize_model: layer 3: quantize: .* got nan"):
        tl.quantize_model(model)
    with pytest.raises(ValueError, match=r"quantize_model: layer 0: quantize: bits of .* must be"):
        tl.quantize_model(model, bits=1)
    with pytest.raises(ValueError, match=r"quantize_model: layer 0: quantize: .* meta"):
        tl.quantize_model(network().to("meta"))
    assert all(type(m) is not tl.QuantizedLinear for m in model.modules())


def test_a_report_of_layers_lists_quantized_ones():
    model = network()
    dense = copy.deepcopy(model)
    tl.quantize_model(model, "0", 4, generator=seeded())
    report, weight = tl.layer_report(model, dense), model[0].weight
    row = report["0"]
    assert [r.name for r in report.rows] == ["0", "2.0", "3"] and row.kind == "Quantized"
    assert row.bytes == (weight.stored_bits - 64) // 8  # without the seed
    assert row.flops == 2 * 32 * 48 and row.shape == (48, 32) and "Quantized" in str(report)
    assert row.error == pytest.approx(weight.error, rel=1e-6) and report["3"].error == 0


def test_files_keep_shared_and_transposed_layers(tmp_path):
    def build():
        inner = nn.Linear(32, 32)
        return nn.Sequential(inner, Conv1D(32, 32), inner, nn.Linear(32, 2, bias=False))

    model, x = build(), torch.randn(3, 32, generator=seeded())
    tl.quantize_model(model, ["0", "1"], generator=seeded())
    tl.save_quantized(tmp_path / "m.safetensors", model)
    fresh = build().eval()
    fresh[0].bias.requires_grad_(False)
    other = tl.load_quantized(tmp_path / "m.safetensors", fresh)
    assert torch.equal(other(x), model(x)) and other[0] is other[2]
    assert not other[0].training and not other[0].bias.requires_grad
    without = build()
    without[1].bias = None
    with pytest.raises(ValueError, match="got one that differs in 1.bias"):
        tl.load_quantized(tmp_path / "m.safetensors", without)
    assert type(without[0]) is nn.Linear


def test_torchao_int4_is_close_to_our_uniform_groups():
    torchao = pytest.importorskip(
        "torchao.quantization.quant_primitives", reason="needs the bench extra"
    )
    w = torch.randn(64, 128, generator=seeded())
    kind = torchao.MappingType.ASYMMETRIC
    scale, zero = torchao.choose_qparams_affine(
        w, kind, (1, 32), torch.int32, quant_min=0, quant_max=15
    )
    codes = torchao.quantize_affine(w, (1, 32), scale, zero, torch.int32, 0, 15)
    theirs = torchao.dequantize_affine(codes, (1, 32), scale, zero, torch.int32, 0, 15)
    ours = tl.quantize(w, method="uniform", group=32)
    assert ours.error == pytest.approx(float((theirs - w).norm() / w.norm()), rel=0.05)


# -- refuses


@pytest.mark.parametrize(
    ("w", "bits", "options", "error", "said"),
    [
        (
            torch.tensor([[1.0, math.nan]]),
            4,
            {},
            ValueError,
            "quantize: needs finite entries, got nan at index (0, 1)",
        ),
        (torch.ones(2, 2, dtype=torch.int8), 4, {}, TypeError, "got torch.int8"),
        (
            torch.ones(2, 2, dtype=torch.complex64),
            4,
            {},
            TypeError,
            "quantize: needs real entries, got torch.complex64",
        ),
        (torch.ones(2, 2), 1, {}, ValueError, "bits of pairs must be an integer in 2..4, got 1"),
        (
            torch.ones(2, 2),
            9,
            {"method": "kmeans"},
            ValueError,
            "bits of kmeans must be an integer in 2..8, got 9",
        ),
        (torch.ones(2, 2), 4.0, {}, ValueError, "got 4.0"),
        (
            torch.ones(2, 2),
            4,
            {"method": "int4"},
            ValueError,
            "got 'int4'",
        ),
        (torch.ones(2, 6), 4, {"group": 4}, ValueError, "a divisor of the row length 6, got 4"),
        (torch.ones(2, 6), 4, {"q": "hadamard"}, ValueError, "powers of two, got (2, 6)"),
        (torch.ones(2, 2), True, {}, ValueError, "got True"),
        (torch.ones(2, 2), 9, {}, ValueError, "bits of rotate must be an integer in 2..8, got 9"),
        (torch.ones(2, 6), 4, {"group": True}, ValueError, "a divisor of the row length 6"),
        (torch.ones(2, 6, device="meta"), 4, {}, ValueError, "got one on the meta device"),
    ],
)
def test_says_no(w, bits, options, error, said):
    with pytest.raises(error) as caught:
        tl.quantize(w, bits, **options)
    assert said in str(caught.value)


@pytest.mark.parametrize("names", ["encoder.*", ["0", "encoder.*"], lambda name, layer: False])
def test_names_that_choose_nothing_are_refused_with_those_there_are(names):
    model = network()
    with pytest.raises(ValueError, match=r"^quantize_model: .*0, 2\.0, 3.*, got ('encoder|none)"):
        tl.quantize_model(model, names)
    assert isinstance(model[0], nn.Linear)
