"""A trained model in fewer numbers, bytes or operations, in one call [Wang2025].

statistics of the calibration data -> what each layer keeps -> layers -> a certificate -> a report

model = compress(model, batches, keep=0.5)                 ranks by the predicted loss
model = compress(model, batches, keep=0.5, bits=4)         the same, its factors in 4 bits
model = compress(model, batches, budget={"bytes": 0.125})  any format, that of the least change
print(model.compression)
"""

import copy
import dataclasses
import hashlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .arguments import check_batches, count, is_number, one_of
from .formats.lowrank import LowRank
from .formats.pivoted import PivotedLowRank
from .formats.storage import load_state, save_state
from .layers.dense import current, dense_weight, in_eval, is_dense, like
from .layers.linear import FactorizedLinear
from .layers.report import LayerReport, layer_report
from .layers.select import Kind, choose, fit, put, say, tied_layers, unfit_layers
from .methods.candidates import FAMILIES, Layer, built, choices_of, plans
from .methods.certificate import OUTPUTS, Certificate, certify, output_of
from .methods.coded import (
    QuantizedEmbedding,
    QuantizedFactors,
    factors_with_feedback,
    quantize_rows,
)
from .methods.compressed_storage import layer_of, layer_state
from .methods.targets import sequential_layers
from .methods.weighted import (
    METHODS,
    Squares,
    Statistics,
    calibrate,
    class_probe,
    damping_of,
    embedding_probe,
    plain_forward,
    spectrum_ranks,
    uniform_ranks,
    weighted_bases,
)

WHO = "compress"
BOTH = Kind("dense linear layer or embedding", lambda m: is_dense(m) or isinstance(m, nn.Embedding))
ROW_BITS = (8, 7, 6, 5, 4)  # of a table, most first
TABLE = 300  # bytes of a table in bits beside its rows: how it is put together, its levels


@dataclasses.dataclass(frozen=True)
class Compression:
    """What a compression did: `model.compression`.

    layers: of `layer_report`, after it. kept: shares of the numbers, bytes and FLOPs that are left,
    of the compressed layers and of the whole model. family: what was chosen, and measured: the
    change of the outputs by each plan that was tried. seconds: of each layer and of all; forward:
    of one batch, before and after.

    >>> model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    >>> found = compress(model, [torch.randn(64, 8)], keep=0.5, method="svd").compression
    >>> found.layers["0"].kind, round(found.kept["numbers of the layers"], 2)
    ('LowRank', 0.5)
    """

    layers: LayerReport
    certificate: Certificate
    kept: dict[str, float]
    family: str
    measured: dict[str, float]
    seconds: dict[str, float]
    forward: tuple[float, float]

    def __str__(self):
        lines = [str(self.layers), "", "layer: change of the outputs alone, seconds"]
        for name, change in self.certificate.alone.items():
            lines.append(f"{name}: {change:.2e}, {self.seconds.get(name, 0.0):.2f}")
        lines.append("kept: " + ", ".join(f"{x:.1%} of {n}" for n, x in self.kept.items()))
        plans = ", ".join(f"{n} {x:.3g}" for n, x in self.measured.items())
        lines.append(f"chosen: {self.family}" + (f" (change by plan: {plans})" if plans else ""))
        lines.append(
            f"{self.seconds['all']:.1f} s; a batch {self.forward[0]:.4f} s before, "
            f"{self.forward[1]:.4f} s after"
        )
        return "\n".join([*lines, str(self.certificate)])


def compress(
    model: nn.Module,
    calibration: Iterable,
    *,
    method: str = "auto",
    keep: float | None = None,
    of: str = "layers",
    budget: dict[str, float] | None = None,
    names="*",
    bits: int | None = None,
    embedding_bits: int | None = None,
    pivoted: bool = False,
    families: tuple[str, ...] = FAMILIES,
    outputs: str = "vectors",
    forward: Callable | None = None,
    loss: Callable | None = None,
    mask: Callable | None = None,
    unseen: Iterable | None = None,
    folder=None,
    progress: bool | Callable = False,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Compress the linear layers and tables that `names` chooses; changes the model and returns it,
    with a report as `model.compression`.

    model: on any device but meta.
    calibration: batches, such as a list or a DataLoader.
    method: of the weighted SVD, or "auto": "kfac" with ranks by its spectrum and targets of the
        full model.
    keep: the share that is left, of the numbers of the chosen linear layers or, with of="model", of
        the bytes of the whole model, whose tables then get rows in 8 to 4 bits.
    of: "layers" or "model", see keep.
    budget: instead of keep, {"bytes": b} or {"flops": f} or both, of the linear layers: a float is
        a share, an integer a count (FLOPs for one token).
    names: a pattern of `fnmatch`, several of them, or a predicate (name, layer) -> bool.
    bits: of factors, 2 to 8; None: not quantized.
    embedding_bits: of rows of tables, 2 to 8; None: not quantized, or with of="model" what fits.
    pivoted: whether factors are in the pivoted format.
    families: the formats that a budget chooses from.
    outputs: "vectors", or "classes" for logits.
    forward, loss, mask: as in `calibrate`; without a loss a probe without labels.
    unseen: batches for the certificate; None: the calibration.
    folder: where finished parts are written, and from where a compression that was killed goes on;
        None: nowhere.
    progress: True for a bar of tqdm where it is installed, or a function (done, all, name).
    generator: draws probes and codes; None: a fixed seed.

    Raises ValueError or TypeError in one sentence for calibration without rows, names that choose
    nothing, layers that cannot be compressed, a keep or budget below what is possible, and a model
    on the meta device; the model is then unchanged. Warns of inputs that are always zero, and of
    layers that are left out.

    >>> g = torch.Generator().manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16))
    >>> small = compress(model, [torch.randn(64, 16, generator=g)], keep=0.5, generator=g)
    >>> small.compression.kept["numbers of the layers"] <= 0.5
    True
    """
    start = time.perf_counter()
    _check(method, keep, of, budget, bits, embedding_bits, pivoted, outputs)
    linear, tables = _chosen(model, names)
    batches = list(check_batches(WHO, calibration))
    if not batches:
        raise ValueError(f"{WHO}: needs calibration with at least one batch, got none")
    if unseen is not None:
        check_batches(WHO, unseen)
    job = _Job(model, linear, batches, method, outputs, forward, loss, mask, generator, progress)
    asked = (
        method,
        outputs,
        keep,
        of,
        budget,
        sorted(linear),
        bits,
        embedding_bits,
        pivoted,
        list(families),
    )
    job.begin(folder, asked)
    if of == "model":
        share, embedding_bits = _shares(model, linear, tables, keep, embedding_bits)
    else:
        share = keep
    if keep is not None and linear:
        family, measured = f"{job.method} low rank", {}
        made = job.coded(job.cut(share, bits, pivoted), bits)
    elif linear:
        family, measured, made = job.planned(budget, families)
    else:
        family, measured, made = "tables", {}, {}
    if embedding_bits is not None:
        made |= {n: job.table(n, layer, embedding_bits) for n, layer in tables.items()}
    if not made:
        raise ValueError(f"{WHO}: needs keep < 1 or bits to change a layer, got keep={keep}")
    return _finish(job, made, family, measured, unseen, start)


def _check(method, keep, of, budget, bits, embedding_bits, pivoted, outputs) -> None:
    one_of(WHO, "outputs", outputs, OUTPUTS)
    one_of(WHO, "of", of, ("layers", "model"))
    one_of(WHO, "method", method, ("auto", *METHODS))
    if (keep is None) == (budget is None):
        raise ValueError(
            f"{WHO}: needs one of keep and budget, got {'none' if keep is None else 'both'}"
        )
    if keep is not None and (not is_number(keep) or not 0 < keep <= 1):
        raise ValueError(f"{WHO}: needs 0 < keep <= 1, got {keep!r}")
    if budget is not None and (of == "model" or bits is not None or pivoted):
        got = f"of={of!r}, bits={bits}, pivoted={pivoted}"
        raise ValueError(f"{WHO}: needs keep for a share of the model, bits or pivots, got {got}")
    if bits is not None and pivoted:
        raise ValueError(f"{WHO}: needs one of bits and pivoted, got both")
    for name, value in (("bits", bits), ("embedding_bits", embedding_bits)):
        if value is not None:
            count(WHO, name, value, 2, 8)


def _finish(job, made, family, measured, unseen, start) -> nn.Module:
    """Certificate, surgery, report."""
    model, counted = job.model, [*job.linear, *(n for n in made if n not in job.linear)]
    doubts = () if unseen is not None else ("measured on the calibration data themselves",)
    seen = job.batches if unseen is None else unseen
    options = dict(outputs=job.outputs, forward=job.run, doubts=doubts)
    certificate = certify(model, made, seen, generator=job.draw("certificate"), **options)
    before, slow = _sizes(model, counted), job.timed()
    old = {name: model.get_submodule(name) for name in made}
    put(model, {old[name]: like(old[name], new) for name, new in made.items()})
    after, fast = _sizes(model, counted), job.timed()
    kept = {what: after[what] / before[what] for what in before if before[what]}
    job.seconds["all"] = time.perf_counter() - start
    report = layer_report(model)
    parts = (report, certificate, kept, family, measured, job.seconds, (slow, fast))
    model.compression = Compression(*parts)
    return model


def _sizes(model, names) -> dict[str, int]:
    report = layer_report(model)
    rows = [row for row in report.rows if row.name in names]
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}.values()
    drawn = {
        id(t)
        for m in model.modules()
        for n, t in m.named_buffers(recurse=False)
        if n in m._non_persistent_buffers_set
    }
    stored = [t for t in tensors if id(t) not in drawn]
    return {
        "numbers of the layers": sum(row.parameters for row in rows),
        "numbers of the model": sum(t.numel() for t in stored),
        "bytes of the layers": sum(row.bytes for row in rows),
        "bytes of the model": sum(t.numel() * t.element_size() for t in stored),
        "FLOPs of the layers": sum(row.flops for row in rows),
        "FLOPs of the model": report.total("flops"),
    }


def _chosen(model, names) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """Linear layers and tables; what cannot be compressed is left, with a warning."""
    chosen = choose(WHO, model, names, BOTH)
    left = unfit_layers(chosen) | tied_layers(model, chosen)
    holders: dict[nn.Parameter, str] = {}
    for name, layer in chosen.items():
        weight = layer._parameters.get("weight")
        if weight is not None and holders.setdefault(weight, name) != name:
            first = holders[weight]
            left[name], left[first] = (
                f"shares its weight with {first}",
                f"shares its weight with {name}",
            )
        if is_dense(layer) and name not in left and min(dense_weight(layer).shape) < 2:
            left[name] = "has one input or output"
        if isinstance(layer, nn.Embedding) and layer.max_norm is not None:
            left[name] = "has max_norm"
    chosen = fit(WHO, chosen, left)
    for name, layer in chosen.items():
        if current(layer).is_meta:
            raise ValueError(f"{WHO}: needs weights with numbers, got layer {name!r} on meta")
    linear = {n: m for n, m in chosen.items() if is_dense(m)}
    return linear, {n: m for n, m in chosen.items() if n not in linear}


def _shares(model, linear, tables, keep, bits) -> tuple[float, int | None]:
    """The share that linear layers may keep so that the model keeps `keep` of its bytes, and the
    bits of the tables: the most at which the layers keep that share too, else the fewest."""
    sizes = lambda layers: sum(
        current(m).numel() * current(m).element_size() for m in layers.values()
    )
    whole = _sizes(model, linear)["bytes of the model"]
    dense, rows = sizes(linear), sizes(tables)
    left = lambda b: (
        keep * whole
        - (whole - dense - rows)
        - sum(TABLE + t.shape[0] * (t.shape[1] * b / 8 + 4) for t in map(current, tables.values()))
    )
    tried = ROW_BITS if bits is None else (bits,)
    bits = next((b for b in tried if left(b) >= keep * dense), tried[-1])
    share = left(bits) / dense if dense else float(left(bits) >= 0)
    if share <= 0:
        least = keep - left(bits) / whole
        what = "what is not compressed"
        raise ValueError(f"{WHO}: needs keep > {least:.3g} of the model, for {what}, got {keep}")
    return min(1.0, share), (bits if tables else None)


# ------------------------------------------------------------------------------------------ one job


@dataclasses.dataclass
class _Job:
    """A compression under way: what was asked for, what is finished."""

    model: nn.Module
    linear: dict[str, nn.Module]
    batches: list
    asked: str
    outputs: str
    forward: Callable | None
    loss: Callable | None
    mask: Callable | None
    generator: torch.Generator | None
    progress: bool | Callable
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def begin(self, folder, asked) -> None:
        self.method = "kfac" if self.asked == "auto" else self.asked
        self.run = self.forward or plain_forward
        self.seed = 0 if self.generator is None else self.generator.initial_seed()
        with torch.no_grad(), in_eval(self.model):
            output_of(WHO, self.run(self.model, self.batches[0]))
        self.kept = _Kept(
            folder, lambda: _fingerprint(self.model, self.batches, (asked, self.seed))
        )
        self.bar = _bar(self.progress)
        self.statistics = self._statistics() if self.linear else {}
        if dead := [n for n, s in self.statistics.items() if not s.inputs.total.diagonal().all()]:
            say(
                f"{WHO}: inputs that are always zero in {len(dead)} layers, such as {dead[0]!r}, "
                "may be lost"
            )

    def draw(self, what: str) -> torch.Generator:
        """A generator for one part, the same however many parts were there before."""
        digest = hashlib.sha256(f"{self.seed} {what}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

    def _statistics(self) -> dict[str, Statistics]:
        probe = {"vectors": embedding_probe, "classes": class_probe}[self.outputs]
        loss = (self.loss or probe(self.draw("probe"))) if self.method[0] in "kf" else None
        options = dict(forward=self.forward, loss=loss, mask=self.mask)
        options["fisher"] = self.method.startswith("fwsvd")
        chosen = lambda name, layer: name in self.linear
        make = lambda: _packed(calibrate(self.model, self.batches, chosen, **options))
        found = self.kept.get("statistics", make)
        return {name: _statistic(state) for name, state in found.items()}

    def cut(self, share: float, bits, pivoted: bool) -> dict[str, nn.Module]:
        """Layers of low rank; those that stay dense are not among them."""
        options = dict(step=2 if bits else 1, pivoted=pivoted)
        bases = weighted_bases(self.model, self.statistics, self.method)
        if self.method == "kfac":
            ranks = spectrum_ranks(bases, share, **options)
        else:
            ranks = uniform_ranks(bases, share, **options)
        cut = [n for n in bases if ranks[n] is not None]
        if self.asked == "auto":
            lows = self._sequential({n: ranks[n] for n in cut})
        else:
            make = lambda n: FactorizedLinear(
                bases[n].cut(ranks[n]), current(self.linear[n], "bias")
            )
            lows = {n: self.layer("low", n, lambda n=n: make(n)) for n in cut}
        if pivoted:
            make = lambda m: FactorizedLinear(PivotedLowRank.from_lowrank(m.weight), m.bias)
            lows = {n: make(m) for n, m in lows.items()}
        return lows

    def _sequential(self, ranks: dict[str, int]) -> dict[str, nn.Module]:
        """With targets of the full model; layers that are finished already are put first."""
        work = copy.deepcopy(self.model)
        done = {n: m for n in ranks if (m := self.kept.layer(f"low {n}")) is not None}
        put(work, {work.get_submodule(n): m for n, m in done.items()})
        clock = time.perf_counter()

        def finished(name):
            nonlocal clock
            self.layer("low", name, lambda: work.get_submodule(name))
            self.seconds[name], clock = time.perf_counter() - clock, time.perf_counter()

        rest = {n: r for n, r in ranks.items() if n not in done}
        options = dict(method=self.method, forward=self.forward, mask=self.mask, progress=finished)
        if rest:
            sequential_layers(
                work, self.model, self.statistics, rest, lambda: self.batches, **options
            )
        return {n: work.get_submodule(n) for n in ranks}

    def coded(self, lows: dict[str, nn.Module], bits: int | None) -> dict[str, nn.Module]:
        """The factors in bits, and the layers that stayed dense."""
        if bits is None:
            return lows
        made = {}
        for name, layer in self.linear.items():
            low = lows.get(name)

            def make(name=name, layer=layer, low=low):
                if low is None:
                    return built(self.candidate(name), "bits", bits, self.draw(name))
                s = self.statistics[name]
                weight = LowRank(*(t.detach() for t in low.weight.tensors()))
                damping = damping_of(s.rows, weight.shape[1])
                options = dict(damping=damping, generator=self.draw(name))
                u, v = factors_with_feedback(
                    weight.to_dense(), weight, s.inputs.total, bits, **options
                )
                return QuantizedFactors(u, v, low.bias)

            made[name] = self.layer("coded", name, make)
        return made

    def candidate(self, name: str) -> Layer:
        return Layer.of(self.linear[name], self.statistics[name], self.method)

    def planned(self, budget, families):
        """Of the best plan of each family and of all, the one that moves the outputs least."""
        if self.method != "kfac":
            raise ValueError(
                f"{WHO}: needs method 'kfac' for a budget, for errors by {self.method!r} cannot be "
                f"compared between layers"
            )
        layers = {n: self.candidate(n) for n in self.linear}
        tables = {}
        for name, layer in layers.items():
            make = lambda layer=layer, name=name: choices_of(layer, families, self.draw(name))
            tables[name] = self.kept.get(f"choices {name}", make)
            self.bar(len(tables), len(layers), f"formats of {name}")
        found = plans(WHO, tables, budget)
        best, measured, known = None, {}, {}
        for family, plan in found.items():
            made = {}
            for name, choice in plan.items():
                if choice["family"] != "dense":
                    key = f"{choice['family']} {choice['size']}", name
                    make = lambda n=name, c=choice: built(
                        layers[n], c["family"], c["size"], self.draw(n)
                    )
                    known[key] = made[name] = known.get(key) or self.layer(*key, make)
            options = dict(outputs=self.outputs, forward=self.run)
            measured[family] = certify(
                self.model, {}, self.batches, together=made, **options
            ).measured
            if best is None or measured[family] < measured[best[0]]:
                best = family, made
        return best[0], measured, best[1]

    def table(self, name, layer, bits) -> nn.Module:
        make = lambda: QuantizedEmbedding(quantize_rows(current(layer).detach(), bits))
        return self.layer("table", name, make)

    def layer(self, what: str, name: str, make: Callable[[], nn.Module]) -> nn.Module:
        """A finished layer from the folder, or a new one."""
        clock, what = time.perf_counter(), f"{what} {name}"
        found = self.kept.layer(what)
        if found is None:
            found = make()
            self.kept.put_layer(what, found)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - clock
        self.bar(len(self.seconds), len(self.linear), what)
        device = next((t.device for t in self.model.get_submodule(name).parameters()), None)
        return found.to(device)

    @torch.no_grad()
    def timed(self) -> float:
        """The least of three times of the first batch."""
        times = []
        with in_eval(self.model):
            for _ in range(3):
                clock = time.perf_counter()
                self.run(self.model, self.batches[0]).flatten()[0].item()  # waits for a device
                times.append(time.perf_counter() - clock)
        return min(times)


class _Kept:
    """Parts of a compression in a folder, each a whole file, or nowhere."""

    def __init__(self, folder, fingerprint: Callable[[], str]):
        self.folder = None if folder is None else Path(folder)
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        mine = fingerprint()
        if self.get("compression", lambda: mine) != mine:
            raise ValueError(
                f"{WHO}: needs the folder of this compression, got {folder} of another"
            )

    def path(self, what: str) -> Path:
        return self.folder / f"{hashlib.sha256(what.encode()).hexdigest()[:16]}.safetensors"

    def get(self, what: str, make: Callable):
        """A state from its file, or a new one that is written there."""
        if self.folder is None:
            return make()
        if self.path(what).exists():
            return load_state(self.path(what))
        state = make()
        save_state(self.path(what), state)
        return state

    def layer(self, what: str) -> nn.Module | None:
        if self.folder is None or not self.path(what).exists():
            return None
        state = load_state(self.path(what))
        return layer_of(state["tensors"], json.loads(state["about"]), str(self.folder))

    def put_layer(self, what: str, layer: nn.Module) -> None:
        if self.folder is not None and not self.path(what).exists():
            tensors, about = layer_state(layer)
            save_state(self.path(what), {"tensors": tensors, "about": json.dumps(about)})


def _fingerprint(model, batches, asked) -> str:
    """Of the numbers of a model, the data and what is asked for."""
    digest = hashlib.sha256(repr(asked).encode())

    def take(x):
        if isinstance(x, Tensor):
            raw = x.detach().cpu().contiguous()
            digest.update(f"{raw.dtype} {tuple(raw.shape)}".encode())
            digest.update(raw.reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(x, np.ndarray):
            take(torch.as_tensor(x))
        elif isinstance(x, Mapping):
            for key in x:
                digest.update(str(key).encode())
                take(x[key])
        elif isinstance(x, (list, tuple)):
            for each in x:
                take(each)
        else:
            digest.update(repr(x).encode())

    take(model.state_dict())
    take(batches)
    return digest.hexdigest()


def _packed(found: dict[str, Statistics]) -> dict:
    pair = lambda s: None if s is None else (s.total, s.exponent)
    return {
        n: (s.rows, pair(s.inputs), s.size, pair(s.outputs), s.gradient, pair(s.fisher))
        for n, s in found.items()
    }


def _statistic(state) -> Statistics:
    squares = lambda pair: None if pair is None else Squares(*pair)
    rows, inputs, size, outputs, gradient, fisher = state
    return Statistics(rows, squares(inputs), size, squares(outputs), gradient, squares(fisher))


def _bar(progress) -> Callable[[int, int, str], None]:
    """Of (done, all, name): the caller's, a tqdm bar, lines where that is not installed, none."""
    if callable(progress):
        return progress
    if not progress:
        return lambda done, whole, name: None
    if importlib.util.find_spec("tqdm") is None:
        return lambda done, whole, name: print(f"{WHO}: {name} ({done})", file=sys.stderr)
    from tqdm import tqdm

    bar = tqdm(desc=WHO)

    def step(done, whole, name):
        bar.set_postfix_str(name, refresh=False)
        bar.update()

    return step
