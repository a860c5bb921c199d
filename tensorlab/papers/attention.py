"""Attention of four kinds in a character model: what is cached of a token beside bits per character
[Ma2019].

Multi-head attention with fewer groups, latents (MLA), tensor products, all with rotary positions,
and the multi-linear layer of 2019, which has no scores to turn, masked and as published. One row
for each learning rate at seed 0, then for the other seeds at the rate that was best on the valid
part. `leak` is how far outputs move, relative to their size, when only characters after them
change: the published layer looks at what it must predict, so its bits are not those of a language
model. The paper's code has that layer, so its perplexities are not compared with ours. The
dense layer of a multi-linear attention holds context² · width numbers, 4 width² where the paper has
context 32 and width 256; a context that is longer costs more.
Preset quick: width 32, one rate, one seed, few steps.
"""

import torch
from torch import Tensor, nn

from ..layers.attention import (
    LatentAttention,
    MultiHeadAttention,
    MultiLinearAttention,
    TensorProductAttention,
    cache_bytes,
)
from ..models.gpt import GPT, bits_per_character, train
from ..models.training import data_parallel
from .program import Program
from .table import Table
from .ttm_gpt import at_best_rate, corpus, over_seeds, tuned

SIZES = {
    "quick": {"rates": (1e-2,), "seeds": (0,), "steps": 40, "width": 32, "context": 16},
    "full": {
        "rates": (1e-3, 3e-3, 1e-2),
        "seeds": (0, 1, 2),
        "steps": 400,
        "width": 64,
        "context": 32,
    },
}
BATCH, DEPTH, HEADS = 16, 2, 4
PUBLISHED = "multi-linear, as published"


def kinds(context: int) -> dict:
    """(width, heads) -> a layer, by name."""
    groups = lambda n: lambda w, h: MultiHeadAttention(w, h, groups=n, rotary=True)
    latent = lambda share: lambda w, h: LatentAttention(w, h, w // share, rotary=w // h // 2)
    product = lambda r: lambda w, h: TensorProductAttention(w, h, ranks=(r, r), rotary=True)
    linear = lambda masked: (
        lambda w, h: MultiLinearAttention(w, context, w // 2, cores=2, causal=masked)
    )
    return {
        "multi-head": groups(None),
        "2 groups": groups(2),
        "1 group": groups(1),
        "latent, width / 2": latent(2),
        "latent, width / 4": latent(4),
        "latent, width / 8": latent(8),
        "tensor product, rank 2": product(2),
        "tensor product, rank 1": product(1),
        "multi-linear, masked": linear(True),
        PUBLISHED: linear(False),
    }


def cases(size: dict):
    """Attention, learning rate, seed: each rate at seed 0, the other seeds at the best."""

    def rows(table):
        for name in kinds(size["context"]):
            yield from tuned(table, size, attention=name)

    return rows


def measure(size: dict, attention: str, rate: float, seed: int) -> dict:
    """Numbers cached for a token and layer, KiB of all caches at the full context, numbers in the
    attention, bits per character, and the leak."""
    text, tokens = corpus()
    g = torch.Generator().manual_seed(seed)
    model = GPT(
        text.size,
        width=size["width"],
        depth=DEPTH,
        heads=HEADS,
        context=size["context"],
        attention=kinds(size["context"])[attention],
        generator=g,
    )
    adam = torch.optim.Adam(model.parameters(), rate, betas=(0.9, 0.95))
    wrapped = data_parallel(model)
    for _ in train(wrapped, adam, tokens["train"], steps=size["steps"], batch=BATCH, generator=g):
        pass
    layer, published = model.blocks[0].attention, attention == PUBLISHED
    bits = lambda part: round(bits_per_character(model, tokens[part]), 4)
    kib = cache_bytes(model, 1, size["context"]) / 2**10
    return {
        "cached": None if published else layer.cached,  # what reads ahead cannot be continued
        "cache KiB": None if published else round(kib, 2),
        "numbers": sum(p.numel() for p in layer.parameters()),
        "valid bits": bits("valid"),
        "test bits": bits("test"),
        "leak": float(f"{leak(model, tokens['test'][: size['context']]):.1e}"),
    }


@torch.no_grad()
def leak(model: nn.Module, tokens: Tensor) -> float:
    """The largest change of the logits of the first half of a text when its second half is another,
    relative to the largest of them. tokens: (time,)."""
    half = len(tokens) // 2
    changed = torch.cat([tokens[:half], tokens[half:].flip(0)])
    a, b = (model(t[None])[0, :half] for t in (tokens, changed))
    return float((a - b).abs().max() / a.abs().max())


def settings(size: dict) -> dict:
    kept = {name: size[name] for name in ("steps", "width", "context")}
    fixed = {"batch": BATCH, "depth": DEPTH, "heads": HEADS, "positions": "rotary where possible"}
    return kept | fixed | {"corpus": f"pydoc, {len(corpus()[0].text)} characters"}


def summary(table: Table) -> Table:
    """One row for each kind: the rate that was best on valid, mean and spread of test bits over the
    seeds, perplexity per character."""
    rows = []
    for name in dict.fromkeys(table["attention"]):
        mine = at_best_rate(table, attention=name)
        names = ("attention", "cached", "cache KiB", "numbers", "rate")
        row = {k: mine[0][k] for k in names} | over_seeds(mine)
        worst = max(row["leak"] for row in table.where(attention=name))
        rows.append(row | {"perplexity": 2 ** row["test bits"], "leak": worst})
    return Table(table.key, rows, table.notes)


def draw(table: Table, ax) -> str:
    """Test bits per character against the numbers cached for each token; returns a sentence."""
    from ..plots import style  # brings matplotlib

    rows = summary(table).rows
    honest = [row for row in rows if row["cached"] is not None]
    for k, row in enumerate(honest):
        ax.errorbar(
            row["cached"],
            row["test bits"],
            row["spread"] or 0.0,
            capsize=3,
            label=row["attention"],
            **style(k),
        )
    ax.set(xlabel="numbers cached for a token and layer", ylabel="test bits per character")
    ax.set_xscale("log", base=2)
    ax.legend(fontsize=8)
    best = min(honest, key=lambda row: row["test bits"])
    leaks = [row["attention"] for row in rows if row["leak"] > 1e-3]
    return (
        f"Fewest bits: {best['attention']}, {best['test bits']:.3f} with {best['cached']} numbers "
        f"cached; looks ahead: {', '.join(leaks) or 'none'}."
    )


PROGRAM = Program("Ma2019", __doc__, SIZES, cases, measure, settings, draw, share="batches")
