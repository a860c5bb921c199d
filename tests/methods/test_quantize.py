"""Few bits: errors against levels found otherwise, bits counted byte by byte, files that come back
bit for bit or are refused."""

import json
import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.cluster import KMeans
from torch import nn

import tensorlab as tl
from tensorlab.methods import quantize as module
from tensorlab.methods.quantize import METHODS, kmeans, kmeans_line, nearest, pack, spiral, unpack


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
    found = kmeans(points, spiral(4))
    peer = KMeans(16, n_init=5, random_state=0).fit(points.numpy())
    assert float((points - found[nearest(points, found)]).square().sum()) <= 1.05 * peer.inertia_


@pytest.mark.parametrize(("width", "scalar"), [(6, 0.03454), (8, 0.009497)])
def test_the_spiral_beats_the_best_scalar_levels(width, scalar):
    points = torch.randn(1 << 15, 2, generator=seeded())
    centres = spiral(width)
    assert float((points - centres[nearest(points, centres)]).square().mean()) < 0.95 * scalar


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


@pytest.mark.parametrize("method", METHODS)
def test_scale_does_not_matter(method):
    w = matrix("student", 0, 32)
    one = tl.quantize(w, method=method, generator=seeded())
    for factor in (2.0**-100, 2.0**100):
        other = tl.quantize(w * factor, method=method, generator=seeded())
        assert torch.equal(other.codes, one.codes) and other.error == pytest.approx(
            one.error, rel=1e-6
        )


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


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_model_comes_back_bit_for_bit(method, bits, tmp_path):
    model, x = network(), torch.randn(7, 32, generator=seeded())
    dense = {n: p.clone() for n, p in model.named_parameters()}
    report = tl.quantize_model(model, ("0", "2.*"), bits, method=method, generator=seeded())
    assert [r[0] for r in report.rows] == ["0", "2.0"] and isinstance(model[3], nn.Linear)
    stored = sum(
        model[i][0].weight.stored_bits if i == 2 else model[i].weight.stored_bits for i in (0, 2)
    )
    assert report.bits_per_weight == pytest.approx(stored / (2 * 32 * 48))
    errors = (
        error(model[0].weight, dense["0.weight"]),
        error(model[2][0].weight, dense["2.0.weight"]),
    )
    assert report.error == pytest.approx(max(errors))
    path = tmp_path / "model.safetensors"
    tl.save_quantized(path, model)
    other = tl.load_quantized(path, network())
    assert torch.equal(other(x), model(x))
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    )
    again = tl.load_quantized(path, other)  # into a quantised one
    assert torch.equal(again(x), model(x))
    codes = load_file(path)["0.codes"]
    assert codes.dtype == torch.uint8 and codes.numel() == 32 * 48 * bits // 8


def test_layer_keeps_its_bytes_when_cast():
    layer = network()
    tl.quantize_model(layer, "0")
    before = layer[0].weight.to_dense()
    layer.half()
    assert torch.equal(layer[0].weight.to_dense(), before) and layer[0].bias.dtype == torch.float16
    assert layer[0](torch.ones(2, 32, dtype=torch.float16)).dtype == torch.float16
    assert "pairs" in repr(layer)


def test_what_did_not_converge_is_reported():
    w = matrix("rows", 0, 64)
    q = tl.quantize(w, method="kashin", q="householder", generator=seeded())
    assert not q.converged and q.error == pytest.approx(error(q, w), rel=1e-6)
    model = nn.Sequential(nn.Linear(64, 64))
    with torch.no_grad():
        model[0].weight.copy_(w)
    report = tl.quantize_model(model, method="kashin", q="householder", generator=seeded())
    assert not report.rows[0][-1] and "not converged" in repr(report)


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
            match="load_quantized: needs a whole safetensors file, got model.safetensors",
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
        ValueError, match="needs the model that was quantised, got one that differs in 1"
    ):
        tl.load_quantized(path, nn.Sequential(nn.Linear(32, 48), nn.Linear(48, 32)))
    assert all(torch.equal(t, before[n]) for n, t in fresh.state_dict().items())


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


# -- says no


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
        (torch.ones(2, 2), 1, {}, ValueError, "bits must be 2 to 4 for pairs, got 1"),
        (
            torch.ones(2, 2),
            9,
            {"method": "kmeans"},
            ValueError,
            "bits must be 2 to 8 for kmeans, got 9",
        ),
        (torch.ones(2, 2), 4.0, {}, ValueError, "got 4.0"),
        (
            torch.ones(2, 2),
            4,
            {"method": "int4"},
            ValueError,
            "one of uniform, kmeans, rotate, kashin, pairs, got 'int4'",
        ),
        (torch.ones(2, 6), 4, {"group": 4}, ValueError, "a divisor of the row length 6, got 4"),
        (torch.ones(2, 6), 4, {"q": "hadamard"}, ValueError, "powers of two, got (2, 6)"),
        (
            torch.full((2, 2), 1e-200, dtype=torch.float64),
            4,
            {},
            ValueError,
            "root mean square is a float32, got a norm of 2e-200",
        ),
    ],
)
def test_says_no(w, bits, options, error, said):
    with pytest.raises(error) as caught:
        tl.quantize(w, bits, **options)
    assert said in str(caught.value)


def test_a_pattern_without_a_match_names_layers():
    with pytest.raises(
        ValueError, match=r"matches a linear layer such as \['0', '2.0', '3'\], got 'encoder.\*'"
    ):
        tl.quantize_model(network(), "encoder.*")
    assert module.METHODS[-1] == "pairs"
