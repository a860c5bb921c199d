"""One call compresses a model: budgets are met, data-aware beats plain, the certificate
forecasts, files come back, a killed run goes on, and what cannot be is said in one sentence."""

import copy
import math
import warnings
from collections import UserDict

import numpy as np
import pytest
import torch
from torch import nn

import tensorlab as tl
from tensorlab.compression import _fingerprint
from tensorlab.methods.candidates import FAMILIES, Layer, choices_of, plans
from tensorlab.methods.certificate import certify
from tensorlab.methods.coded import QuantizedEmbedding, quantize_rows
from tensorlab.methods.distill import distill
from tensorlab.methods.weighted import calibrate, embedding_probe

WIDTH, WORDS = 32, 60


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Conv1D(nn.Module):
    """As GPT-2 has it, weight (in, out)."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.weight = nf, nn.Parameter(torch.randn(nx, nf) / nx**0.5)
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return (x.reshape(-1, x.shape[-1]) @ self.weight + self.bias).reshape(
            *x.shape[:-1], self.nf
        )


class Net(nn.Module):
    """A table, two residual blocks and a head: words (batch, length) -> (batch, WIDTH)."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(WORDS, WIDTH)
        self.up = nn.ModuleList([nn.Linear(WIDTH, 2 * WIDTH), Conv1D(2 * WIDTH, WIDTH)])
        self.down = nn.ModuleList([nn.Linear(2 * WIDTH, WIDTH), Conv1D(WIDTH, 2 * WIDTH)])
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, ids):
        x = self.table(ids)
        for up, down in zip(self.up, self.down):
            x = x + down(torch.tanh(up(x)))
        return self.head(x.mean(1))


def net(seed=0):
    torch.manual_seed(seed)
    model = Net().eval()
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH)).Q
    with torch.no_grad():  # correlated inputs, as real ones are
        model.table.weight.copy_(3 * model.table.weight * torch.logspace(0, -1.5, WIDTH) @ turn)
    return model


def words(seed=1, batches=4):
    return [torch.randint(WORDS, (16, 6), generator=seeded(seed + k)) for k in range(batches)]


def small(**options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few tokens
        return tl.compress(net(), words(), generator=seeded(), **options)


LINEAR = ["up.*", "down.*", "head"]


# ------------------------------------------------------------------------------------ what is kept


@pytest.mark.parametrize("method", ["auto", "svd", "asvd", "whitened", "fwsvd", "kfac"])
def test_the_numbers_that_are_left(method):
    model = small(method=method, keep=0.5)
    kept, dense = model.compression.kept, sum(p.numel() for p in net().parameters())
    weights = {n: m.weight.numel() for n, m in tl.linear_layers(net()).items()}
    now = sum(p.numel() for p in model.parameters())
    of_layers = 1 - (dense - now) / sum(weights.values())
    assert 0.4 < kept["numbers of the layers"] <= 0.5
    assert kept["numbers of the layers"] == pytest.approx(of_layers)
    assert kept["numbers of the model"] == pytest.approx(now / dense)
    assert kept["FLOPs of the layers"] == pytest.approx(kept["numbers of the layers"])


def test_data_aware_ranks_and_targets_move_the_outputs_less():
    change = {
        m: small(method=m, keep=0.5).compression.certificate.measured
        for m in ("svd", "kfac", "auto")
    }
    assert change["kfac"] < 0.8 * change["svd"] and change["auto"] < 0.8 * change["svd"]


def test_pivots_keep_more_rank():
    plain, pivoted = (small(method="kfac", keep=0.5, pivoted=p).compression for p in (False, True))
    assert pivoted.kept["numbers of the layers"] <= 0.5
    assert pivoted.certificate.measured < plain.certificate.measured


def test_a_share_is_any_real_number():
    data = [torch.randn(64, 8, generator=seeded())]
    make = lambda: nn.Sequential(nn.Linear(8, 8))
    kept = lambda **o: tl.compress(make(), data, generator=seeded(), **o).compression.kept
    assert kept(keep=1, bits=8) == kept(keep=1.0, bits=8)
    assert kept(keep=np.float32(0.5))["numbers of the layers"] == 0.5
    half = dict(families=("low rank",))
    assert kept(budget={"bytes": np.float32(0.5)}, **half) == kept(budget={"bytes": 0.5}, **half)


def test_a_share_of_the_model_counts_its_bytes_and_its_table():
    model = small(keep=0.35, of="model")
    assert isinstance(model.table, QuantizedEmbedding)
    assert 0.3 < model.compression.kept["bytes of the model"] <= 0.35
    assert small(keep=0.35).table.weight.dtype == torch.float32


def test_bits_of_factors():
    kept = small(keep=0.5, bits=8).compression
    plain = small(keep=0.5).compression
    assert kept.kept["bytes of the layers"] < 0.6 * plain.kept["bytes of the layers"]
    assert kept.certificate.measured < 1.2 * plain.certificate.measured + 1e-3


def test_a_table_looks_up_the_rows_of_its_matrix():
    for bits in (2, 3, 4, 5, 8):
        layer = QuantizedEmbedding(quantize_rows(torch.randn(20, 8, generator=seeded()), bits))
        ids = torch.tensor([[3, 19], [0, 3]])
        assert torch.equal(layer(ids), layer.weight.to_dense()[ids])
        assert layer.weight.bits == bits and layer.flops(1) == 0


@pytest.mark.parametrize(
    "ids, error, said",
    [
        ([0, 20], ValueError, r"ids in 0\.\.19, got 20"),
        ([[-1]], ValueError, r"ids in 0\.\.19, got -1"),
        ([1.0], TypeError, "integer ids, got torch.float32"),
        ([True], TypeError, "integer ids, got torch.bool"),
    ],
)
def test_a_table_refuses_other_ids(ids, error, said):
    layer = QuantizedEmbedding(quantize_rows(torch.randn(20, 8, generator=seeded()), 8))
    with pytest.raises(error, match=f"QuantizedEmbedding: needs {said}"):
        layer(torch.tensor(ids))


@pytest.mark.parametrize("batch", [-1, 1.5, True, None])
def test_operations_are_those_of_a_number_of_rows(batch):
    table = quantize_rows(torch.randn(20, 8, generator=seeded()), 8)
    for weight in (table, QuantizedEmbedding(table)):
        assert isinstance(weight.flops(np.int64(2)), int)
        with pytest.raises(ValueError, match="flops: batch must be an integer >= 0, got"):
            weight.flops(batch)


# ------------------------------------------------------------------------------------------ budgets


@pytest.mark.thorough
def test_a_budget_in_bytes_is_met_and_the_mixture_competes_with_every_family():
    model = small(budget={"bytes": 0.25})
    found = model.compression
    assert found.kept["bytes of the layers"] <= 0.25 * 1.02  # low rank in bits is predicted
    assert {"mixed", "bits", "low rank", "low rank in bits"} <= found.measured.keys()
    assert found.certificate.measured == pytest.approx(min(found.measured.values()))
    assert found.measured["bits"] < found.measured["low rank"]  # bits win for each byte


@pytest.mark.thorough
def test_a_budget_in_flops_is_met_by_low_rank():
    found = small(budget={"flops": 0.5}, families=("bits", "low rank", "low rank in bits"))
    assert found.compression.kept["FLOPs of the layers"] <= 0.5
    assert "bits" not in found.compression.measured
    both = small(
        budget={"flops": 0.5, "bytes": 0.2}, families=("bits", "low rank", "low rank in bits")
    )
    kept = both.compression.kept
    assert kept["FLOPs of the layers"] <= 0.5 and kept["bytes of the layers"] <= 0.2 * 1.02
    assert "bits" not in both.compression.measured


@pytest.mark.thorough
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_built_as_it_was_priced(family):
    model = small(budget={"bytes": 0.6}, families=(family,), names="up.*")
    kept = model.compression.kept
    assert kept["bytes of the layers"] <= 0.6 * 1.02
    assert model.compression.certificate.measured < 0.5


@pytest.mark.thorough
def test_choices_come_in_one_order():
    model, batches = nn.Sequential(nn.Linear(16, 16)), [torch.randn(64, 16, generator=seeded())]
    found = tl.calibrate(model, batches, loss=embedding_probe())
    choices = choices_of(Layer.of(model[0], found["0"]), FAMILIES[::-1], seeded())
    order = ["dense", "bits", "low rank", "pivoted", "low rank in bits"]
    order += ["kronecker", "monarch", "block tt", "tt"]
    came = list(dict.fromkeys(c["family"] for c in choices))
    assert came == [f for f in order if f in came] and len(came) >= 7


def test_plans_by_hand():
    """Two layers and 13 bytes: the cheap loss falls first, and what is left is spent."""
    table = lambda loss: [
        dict(family=f, size=0, loss=loss * k, bytes=b, flops=b)
        for f, k, b in (("dense", 0, 8), ("bits", 1, 4), ("low rank", 2, 2))
    ]
    found = plans("example", {"a": table(1.0), "b": table(5.0)}, {"bytes": 12})
    assert {n: c["bytes"] for n, c in found["mixed"].items()} == {"a": 4, "b": 8}
    assert {n: c["bytes"] for n, c in found["low rank"].items()} == {"a": 2, "b": 8}


# -------------------------------------------------------------------------------------- certificate


def test_one_layer_alone_is_measured_as_forecast():
    found = small(method="kfac", keep=0.5, names="head").compression.certificate
    assert found.forecast == pytest.approx(found.measured, rel=1e-9)
    assert found.alone["head"] == pytest.approx(found.measured, rel=1e-9)


class Two(nn.Module):
    """Outputs side by side, so that their changes add up."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3, bias=False), nn.Linear(4, 5, bias=False)

    def forward(self, x):
        return torch.cat([self.a(x), self.b(x)], -1)


def test_the_forecast_by_hand():
    """measured = a + b exactly, and the product is a + b - a b / 2."""
    torch.manual_seed(0)
    model, x = Two(), [torch.randn(50, 4)]
    made = {"a": nn.Linear(4, 3, bias=False), "b": nn.Linear(4, 5, bias=False)}
    for name, layer in made.items():
        layer.weight.data.copy_(0.5 * model.get_submodule(name).weight)
    found = certify(model, made, x, generator=seeded())
    a, b = found.alone["a"], found.alone["b"]
    assert found.measured == pytest.approx(a + b) == pytest.approx(0.25, rel=1e-5)
    assert found.forecast == pytest.approx(a + b - a * b / 2)
    low, high = found.measured_interval
    assert low <= found.measured * (1 + 1e-6) and found.measured * (1 - 1e-6) <= high


def test_a_forecast_far_off_is_doubted():
    """Two layers one after the other that undo each other: alone each moves, together nothing."""
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    made = copy.deepcopy(model)
    made[0].weight.data.mul_(2)
    made[1].weight.data.div_(2)
    found = certify(model, {"0": made[0], "1": made[1]}, [torch.randn(9, 3)])
    assert found.measured < 1e-9 < found.forecast
    assert any("of what is measured" in why for why in found.doubts)


@pytest.mark.thorough
def test_the_interval_covers_what_unseen_examples_show():
    model, unseen = net(), words(seed=100, batches=32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = dict(method="kfac", keep=0.7, generator=seeded(), unseen=unseen)
        found = tl.compress(model, words(), **options).compression.certificate
    other = words(seed=500, batches=64)
    before, change, size = net(), 0.0, 0.0
    with torch.no_grad():
        for ids in other:
            full = before(ids)
            change += float((model(ids) - full).square().sum())
            size += float(full.square().sum())
    low, high = found.measured_interval
    spread = high - low  # of 512 examples; the other 1024 have their own, narrower, error
    assert low - spread / 2 < change / size < high + spread / 2
    assert found.examples == 512 and not any("calibration" in why for why in found.doubts)


def test_doubts_and_classes():
    found = small(method="kfac", keep=0.5, outputs="classes").compression.certificate
    assert 0 <= found.changed <= 1 and found.measured > 0
    assert any("calibration" in why for why in found.doubts)
    assert any("64 examples" in why for why in found.doubts)


def test_one_example_has_no_interval():
    found = certify(net(), {"head": nn.Linear(WIDTH, WIDTH)}, [words()[0][:1]])
    assert math.isnan(found.measured_interval[0]) and found.measured > 0


# -------------------------------------------------------------------------------------------- files


@pytest.mark.thorough
@pytest.mark.parametrize(
    "options",
    [
        {"keep": 0.5},
        {"keep": 0.5, "pivoted": True},
        {"keep": 0.5, "bits": 4, "embedding_bits": 4},
        {"budget": {"bytes": 0.3}, "embedding_bits": 8},
        {"budget": {"bytes": 0.6}, "families": ("kronecker", "tt")},
    ],
    ids=["low rank", "pivoted", "bits", "budget", "trains"],
)
@pytest.mark.parametrize("meta", [False, True])
def test_out_to_a_file_and_back_into_the_architecture(tmp_path, options, meta):
    model = small(**options)
    tl.save_compressed(tmp_path / "m.safetensors", model)
    fresh = net(seed=5).to("meta") if meta else net(seed=5)
    back = tl.load_compressed(tmp_path / "m.safetensors", fresh)
    with torch.no_grad():
        assert torch.equal(back(words()[0]), model(words()[0]))


def test_a_file_of_another_model_or_cut_off(tmp_path):
    path, model = tmp_path / "m.safetensors", net()
    tl.save_compressed(path, small(keep=0.5))
    other = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="needs the model that was compressed"):
        tl.load_compressed(path, other)
    assert type(other[0]) is nn.Linear
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(ValueError, match="as save_compressed wrote it, got m.* another checksum"):
        tl.load_compressed(path, model)
    path.write_bytes(raw[:-8])
    with pytest.raises(ValueError, match="whole safetensors file"):
        tl.load_compressed(path, model)


class Killed(Exception):
    pass


@pytest.mark.thorough
@pytest.mark.parametrize(
    "options",
    [{"keep": 0.5}, {"keep": 0.5, "bits": 4}, {"budget": {"bytes": 0.3}, "families": ("bits",)}],
    ids=["targets", "bits", "budget"],
)
def test_a_killed_compression_goes_on(tmp_path, options):
    steps = []

    def progress(done, whole, name):
        steps.append(name)
        if len(steps) == 3:
            raise Killed

    whole, victim = small(**options), net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = dict(generator=seeded(), folder=tmp_path, **options)
        with pytest.raises(Killed):
            tl.compress(victim, words(), progress=progress, **data)
        assert all(torch.equal(a, b) for a, b in zip(victim.parameters(), net().parameters()))
        files = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
        back = tl.compress(victim, words(), **data)
        assert len(files) >= 4 and all(p.stat().st_mtime_ns == t for p, t in files.items())
        with pytest.raises(ValueError, match="needs the folder of this compression"):
            tl.compress(net(seed=3), words(), **data)
    with torch.no_grad():
        assert torch.equal(back(words()[0]), whole(words()[0]))


def test_a_folder_knows_the_data_in_whatever_holds_them():
    model, long = nn.Linear(2, 2), np.arange(5000.0)
    other = long.copy()
    other[2500] = -1.0  # not among the numbers that are printed
    for hold in (
        lambda x: x,
        lambda x: {"x": x},
        lambda x: UserDict(x=torch.from_numpy(x)),
        lambda x: (torch.from_numpy(x),),
    ):
        assert _fingerprint(model, [hold(long)], ()) == _fingerprint(model, [hold(long)], ())
        assert _fingerprint(model, [hold(long)], ()) != _fingerprint(model, [hold(other)], ())


# ------------------------------------------------------------------------------------------ refused


def refused(error, match, model=None, data=None, **options):
    model = net() if model is None else model
    before = copy.deepcopy(model.state_dict())
    with warnings.catch_warnings(), pytest.raises(error, match=match):
        warnings.simplefilter("ignore")
        tl.compress(model, words() if data is None else data, **({"keep": 0.5} | options))
    assert all(t.is_meta or torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert type(model.head) is nn.Linear


def takes_batches():
    model, x = nn.Sequential(nn.Linear(3, 2)), torch.ones(4, 3)
    adam = torch.optim.Adam(model.parameters(), 0.1)
    return {
        "compress": lambda data: tl.compress(model, data, keep=0.5),
        "compress, unseen": lambda data: tl.compress(model, [x], keep=0.5, unseen=data),
        "calibrate": lambda data: calibrate(model, data),
        "certify": lambda data: certify(model, {}, data),
        "distill": lambda data: list(distill(model, copy.deepcopy(model), data, adam)),
    }


@pytest.mark.parametrize("name", takes_batches())
def test_what_is_no_list_of_batches_is_refused(name):
    x = torch.ones(4, 3)
    for odd in (x, x.numpy(), {"x": x}, UserDict(x=x), 3, torch.utils.data.TensorDataset(x)):
        who = name.partition(",")[0]
        with pytest.raises(TypeError, match=rf"^{who}: needs batches, such as \[x\], got one "):
            takes_batches()[name](odd)


@pytest.mark.parametrize("name", ["compress", "calibrate"])
def test_batches_with_labels_are_refused_with_the_way_out(name):
    labeled = [(torch.ones(4, 3), torch.zeros(4))]
    with pytest.raises(TypeError, match=r"^Sequential: needs .* forward=lambda .* of 2 parts$"):
        takes_batches()[name](labeled)


@pytest.mark.thorough
def test_what_cannot_be_is_refused():
    refused(ValueError, "calibration with at least one batch", data=[])
    refused(ValueError, "at least one token", data=[torch.empty(0, 6, dtype=torch.long)])
    refused(ValueError, "got 'nothing.*'", names="nothing.*")
    refused(ValueError, "keep >= ", keep=0.01)
    refused(ValueError, "keep > .* of the model", keep=0.01, of="model")
    refused(ValueError, "0 < keep <= 1", keep=1.5)
    refused(ValueError, "a budget of at least", keep=None, budget={"bytes": 10})
    refused(ValueError, "bytes, flops or both", keep=None, budget={"time": 10})
    refused(ValueError, "one of keep and budget", budget={"bytes": 0.5})
    for more in ({"of": "model"}, {"bits": 4}, {"pivoted": True}):
        refused(ValueError, "needs keep for", keep=None, budget={"bytes": 0.5}, **more)
    refused(ValueError, "one of bits and pivoted", bits=4, pivoted=True)
    refused(ValueError, "'whitened'", keep=None, budget={"bytes": 0.5}, method="whitened")
    refused(ValueError, "families of", keep=None, budget={"bytes": 0.5}, families=("magic",))
    refused(ValueError, "on meta", model=net().to("meta"))
    refused(TypeError, "gives a tensor", forward=lambda model, batch: {"z": model(batch)})


def test_layers_that_share_a_weight_are_left():
    model = net()
    model.head.weight = model.up[0].weight = nn.Parameter(torch.randn(WIDTH, WIDTH))
    model.up[0], model.down[0] = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
    model.up[0].weight = model.head.weight
    with pytest.warns(UserWarning, match="up.0 .shares its weight with head"):
        tl.compress(model, words(), keep=0.5, generator=seeded())
    assert model.up[0].weight is model.head.weight
    assert type(model.down[0]) is tl.FactorizedLinear


def test_one_row_and_dead_inputs_do_no_harm():
    model = nn.Sequential(nn.Linear(12, 16), nn.Linear(16, 12))
    x = torch.randn(40, 12, generator=seeded()) * (torch.arange(12) < 9)
    with pytest.warns(UserWarning, match="always zero in 1 layers, such as '0'"):
        tl.compress(model, [x], keep=0.6, generator=seeded())
    assert torch.isfinite(model(x)).all() and model.compression.certificate.measured < 0.5
    model = nn.Sequential(nn.Linear(12, 16), nn.Linear(16, 12))
    with pytest.warns(UserWarning, match="fewer than two tokens"):
        tl.compress(model, [x[:1]], keep=0.6, generator=seeded())
    assert torch.isfinite(model(x)).all() and model.compression.certificate.examples == 1


def test_the_report_says_it_all():
    text = str(small(keep=0.5).compression)
    for part in (
        "LowRank",
        "kept:",
        "bytes of the model",
        "a batch",
        "forecast",
        "not to be trusted",
    ):
        assert part in text
