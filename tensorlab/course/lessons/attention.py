"""Lesson 28: how few numbers attention must keep of a token."""

import functools

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from ... import plots
from ...layers.attention import (
    CausalAttention,
    LatentAttention,
    MultiHeadAttention,
    MultiLinearAttention,
    TensorProductAttention,
    cache_bytes,
    causal,
)
from ...models.gpt import GPT, bits_per_character, train
from ...papers.attention import PUBLISHED, kinds
from ...papers.ttm_gpt import corpus
from ..checks import Check, first_rank, gaussian
from ..widgets import Explorer, choice, integer

WIDTH, CONTEXT, STEPS = 32, 32, 150
WAYS = ("latent", "shared heads", "tensor product")
SHOWN = 16  # characters of an attention map


# ------------------------------------------------------------------------ a trained layer, cut down


@functools.cache
def trained(heads: int) -> GPT:
    """A character model of one block with so many full heads, trained for a moment."""
    text, tokens = corpus()
    g = torch.Generator().manual_seed(0)
    model = GPT(text.size, width=WIDTH, depth=1, heads=heads, context=CONTEXT, generator=g)
    adam = torch.optim.Adam(model.parameters(), 1e-2, betas=(0.9, 0.95))
    for _ in train(model, adam, tokens["train"], steps=STEPS, generator=g):
        pass
    return model.requires_grad_(False)


@functools.cache
def windows() -> Tensor:
    """Characters that were held out, (64, context)."""
    return corpus()[1]["test"][: 64 * CONTEXT].view(64, CONTEXT)


def inputs(heads: int) -> Tensor:
    """What the trained attention is given for `windows`, (64, context, width)."""
    model = trained(heads)
    return model.blocks[0].norm1(model.token(windows()) + model.place.weight)


@functools.cache
def full(heads: int) -> tuple[MultiHeadAttention, Tensor, Tensor, Tensor]:
    """The trained attention; queries, keys and values that it makes of `windows`."""
    layer = trained(heads).blocks[0].attention
    query, (key, value) = layer.project(inputs(heads), 0)
    return layer, query, key, value


def cut(heads: int, way: str, rank: int) -> tuple[Tensor, Tensor, int]:
    """What is left of all keys and values when few numbers are kept of each token, and how many.

    "latent": all of them from one vector of size rank, by the SVD of the weights. "shared heads":
    the mean over the heads of a group, `rank` groups. "tensor product": the matrix (heads, d) of
    each token as the sum of `rank` products that is nearest.
    """
    layer, _, key, value = full(heads)
    d = layer.head
    if way == "shared heads":
        group = torch.arange(heads) * rank // heads
        means = (group[:, None] == group).float()
        means = means / means.sum(1, keepdim=True)
        key, value = (torch.einsum("gh,bthd->btgd", means, t) for t in (key, value))
        return key, value, 2 * rank * d
    if way == "tensor product":
        key, value = (_nearest(t, rank) for t in (key, value))
        return key, value, 2 * rank * (heads + d)
    latent = LatentAttention.from_multihead(layer, rank).requires_grad_(False)
    _, (c,) = latent.project(inputs(heads), 0)
    key, value = (up(c).unflatten(-1, (heads, d)) for up in (latent.up_key, latent.up_value))
    return key, value + layer.qkv.bias[-WIDTH:].view(heads, d), latent.cached


def _nearest(t: Tensor, rank: int) -> Tensor:
    """The best matrices of this rank."""
    u, s, vh = torch.linalg.svd(t, full_matrices=False)
    return (u * s[..., None, :])[..., :rank] @ vh[..., :rank, :]


def largest_rank(heads: int, way: str) -> int:
    """From here on nothing is lost."""
    return {
        "latent": WIDTH,
        "shared heads": heads,
        "tensor product": min(heads, WIDTH // heads),
    }[way]


def weights(query: Tensor, key: Tensor) -> Tensor:
    """Who reads whom: softmax_j(q_ihᵀ k_jh / √d), (batch, time, heads, d) twice -> (batch, heads,
    time, time)."""
    one = torch.eye(query.shape[1])[:, None].expand(len(query), -1, query.shape[2], -1)
    return causal(query, key, one).transpose(1, 2)  # values that say whose they are


@functools.cache
def error(heads: int, way: str, rank: int) -> float:
    """Relative error of the layer's outputs on held-out text."""
    layer, query, *exact = full(heads)
    y, near = (layer.attend(query, tuple(t)) for t in (exact, cut(heads, way, rank)[:2]))
    return float((near - y).norm() / y.norm())


@functools.cache
def curves(heads: int) -> dict[str, list[tuple[int, float]]]:
    """(numbers kept of a token, error) of each way, for all of its ranks."""
    ranks = {way: range(1, largest_rank(heads, way) + 1) for way in WAYS}
    return {
        way: [(numbers(heads, way, r), error(heads, way, r)) for r in ranks[way]] for way in WAYS
    }


def numbers(heads: int, way: str, rank: int) -> int:
    """How many are kept of a token.

    >>> [numbers(4, way, 2) for way in WAYS]
    [2, 32, 48]
    """
    d = WIDTH // heads
    each = {"latent": 1, "shared heads": 2 * d, "tensor product": 2 * (heads + d)}
    return each[way] * rank


class KeepExplorer(Explorer):
    """Who reads whom in one head of a trained layer, before and after its cache was cut down."""

    figsize = (10.5, 3.4)

    def __init__(self):
        super().__init__(
            way=choice("latent", WAYS),
            rank=integer(2, 1, WIDTH, label="rank or groups"),
            heads=choice(4, (2, 4, 8)),
            head=integer(1, 1, 4),
        )

    def limits(self, way: str, heads: int, **others) -> dict[str, tuple]:
        return {"rank": (1, largest_rank(heads, way)), "head": (1, heads)}

    def draw(self, figure: Figure, way: str, rank: int, heads: int, head: int) -> str:
        left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.25))
        _, query, exact, _ = full(heads)
        key, _, kept = cut(heads, way, rank)
        maps = [weights(query[:1], k[:1])[0, head - 1, :SHOWN, :SHOWN] for k in (exact, key)]
        draw_map(left, maps[0], f"full, head {head}")
        draw_map(middle, maps[1], f"{way}, {kept} numbers")
        off = error(heads, way, rank)
        draw_errors(right, heads, (kept, max(off, 1e-3)))
        moved = float((maps[0] - maps[1]).abs().sum(1).mean()) / 2
        return (
            f"{heads} heads, {way} {rank}: {kept} numbers are kept of a token, {4 * kept} bytes, "
            f"of {2 * WIDTH} for full heads; the outputs have a relative error of {off:.1%}; of "
            f"what the shown tokens read in head {head} {moved:.0%} comes from elsewhere."
        )


def draw_map(ax, p: Tensor, title: str) -> None:
    """An attention map, rows read columns, with the characters."""
    shown = corpus()[0].decode(windows()[0, :SHOWN]).replace(" ", "␣").replace("\n", "↵")
    ax.grid(False)
    ax.imshow(p.sqrt().numpy(), cmap="cividis", vmin=0, vmax=1)  # roots: small weights are seen too
    ax.set_xticks(range(SHOWN), list(shown))
    ax.set_yticks(range(SHOWN), list(shown))
    ax.tick_params(length=0, labelsize=8.5)
    ax.set(xlabel="is read", ylabel="reads", title=title)


def draw_errors(ax, heads: int, here: tuple[int, float]) -> None:
    """Errors against numbers kept, full heads as a line, a ring where the reader is."""
    for k, (way, points) in enumerate(curves(heads).items()):
        n, off = zip(*points)
        ax.semilogy(n, [max(e, 1e-3) for e in off], label=way, **plots.style(k, len(n)))
    ax.plot(*here, "o", ms=12, mfc="none", mec="0.1", mew=1.5)
    ax.axvline(2 * WIDTH, color="0.4", ls="--", lw=1, label="full heads")
    ax.set(xlabel="numbers kept of a token", ylabel="error of the outputs", ylim=(7e-4, 1.5))
    ax.legend()


# ------------------------------------------------------------------------ large layers

LARGE = {"width": 4096, "heads": 32, "layers": 32, "tokens": 32768}


@functools.cache
def large() -> dict[str, int]:
    """Numbers kept of a token and layer at the size of a model of seven billion numbers."""
    width, heads = LARGE["width"], LARGE["heads"]
    with torch.device("meta"):  # nothing of that size is made
        layers = {
            "multi-head": MultiHeadAttention(width, heads),
            "8 groups": MultiHeadAttention(width, heads, groups=8),
            "1 group": MultiHeadAttention(width, heads, groups=1),
            "latent, 512 + 64": LatentAttention(width, heads, 512, rotary=64),
            "tensor product, 2 + 2": TensorProductAttention(width, heads, ranks=(2, 2)),
            "multi-linear, width / 2": MultiLinearAttention(width, 16, width // 2),
        }
    return {name: layer.cached for name, layer in layers.items()}


def gib(kept: int) -> float:
    """GiB of the caches of all large layers for one text, in 16 bits.

    >>> gib(8192)
    16.0
    """
    return kept * 2 * LARGE["layers"] * LARGE["tokens"] / 2**30


def draw_cached(figure: Figure) -> str:
    """GiB of the large caches as bars; a sentence."""
    ax, kept = figure.subplots(), large()
    bars = ax.barh(list(kept), [gib(n) for n in kept.values()], color=plots.COLORS[0])
    said = [f"{n:,} numbers, {gib(n):.2g} GiB" for n in kept.values()]
    ax.bar_label(bars, said, padding=4)
    ax.set(xlabel=f"GiB for a text of {LARGE['tokens']:,} tokens", xlim=(0, 24))
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    return "Kept of a token and layer: " + ", ".join(f"{k} {n:,}" for k, n in kept.items()) + "."


def products(tokens: int, rank: int = 512) -> dict[str, int]:
    """Multiply-adds of scores and sums for one new token that reads so many, one large layer.

    >>> products(1000)["multi-head"] == 1000 * 2 * 4096
    True
    """
    width, heads = LARGE["width"], LARGE["heads"]
    return {
        "multi-head": tokens * 2 * width,
        "latent, expanded": tokens * (rank * 2 * width + 2 * width),
        "latent, absorbed": 2 * width * rank + tokens * 2 * heads * rank,
    }


def draw_products(figure: Figure) -> str:
    """Multiply-adds against tokens kept; a sentence."""
    ax, tokens = figure.subplots(), [2**k for k in range(4, 16)]
    for k, way in enumerate(products(1)):
        ax.loglog(tokens, [products(t)[way] for t in tokens], label=way, **plots.style(k))
    ax.set(xlabel="tokens that are kept", ylabel="multiply-adds for a new one")
    ax.legend()
    last = ", ".join(f"{way} {n:.1e}" for way, n in products(tokens[-1]).items())
    return f"Multiply-adds for one new token after {tokens[-1]:,}: {last}."


# ------------------------------------------------------------------------ the mask


@torch.no_grad()
def moved(name: str, token: int, time: int = 16) -> list[float]:
    """How far each output moves, relative to its size, when one token changes; an untrained layer
    of `papers.attention.kinds`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer, x = kinds(time)[name](WIDTH, 4).double(), torch.randn(1, time, WIDTH).double()
    changed = x.clone()
    changed[:, token] = -x[:, token]
    a, b = layer(x)[0], layer(changed)[0]
    return ((a - b).norm(dim=1) / a.norm(dim=1)).tolist()


MASKED = ("multi-head", "latent, width / 4", "tensor product, rank 1", "multi-linear, masked")


def draw_moved(figure: Figure, token: int = 9) -> str:
    """Moves of all outputs when one token changes, masked kinds and the layer of 2019; a
    sentence."""
    axes, least = figure.subplots(1, 2, sharey=True), {}
    for ax, names in zip(axes, (MASKED, (PUBLISHED,))):
        for name in names:
            k = (*MASKED, PUBLISHED).index(name)
            found = moved(name, token)
            ax.plot(range(len(found)), found, label=name, **plots.style(k))
            least[name] = max(found[:token])
        ax.axvline(token, color="0.4", ls=":", lw=1)
        ax.set(xlabel="token", yscale="symlog")
        ax.set_yscale("symlog", linthresh=1e-3)
        ax.set_ylim(-2e-4, 10)
        ax.legend(loc="upper left")
    axes[0].set_ylabel("relative move of the output")
    return (
        f"Token {token} has changed: outputs before it move by {least[PUBLISHED]:.2g} in the "
        f"layer of 2019, by {max(least[name] for name in MASKED):.1g} in the others."
    )


# ------------------------------------------------------------------------ live training


class Nothing(CausalAttention):
    """The trivial baseline: a token reads itself alone, and nothing is kept."""

    cached = 0

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.out = nn.Linear(width, width)

    def project(self, x: Tensor, past: int):
        return x, (x[..., :0],)

    def attend(self, query: Tensor, kept) -> Tensor:
        return self.out(query)


TRAINED = (
    "nothing",
    "multi-head",
    "2 groups",
    "1 group",
    "latent, width / 4",
    "tensor product, rank 1",
    "multi-linear, masked",
    PUBLISHED,
)


def bits(name: str, steps: int, seed: int) -> tuple[int, float]:
    """Numbers kept of a token, and test bits per character of a small model after training."""
    text, tokens = corpus()
    g = torch.Generator().manual_seed(seed)
    kind = Nothing if name == "nothing" else kinds(CONTEXT)[name]
    model = GPT(
        text.size, width=WIDTH, depth=1, heads=4, context=CONTEXT, attention=kind, generator=g
    )
    adam = torch.optim.Adam(model.parameters(), 1e-2, betas=(0.9, 0.95))
    for _ in train(model, adam, tokens["train"], steps=steps, batch=16, generator=g):
        pass
    return model.blocks[0].attention.cached, bits_per_character(model, tokens["test"])


def draw_bits(figure: Figure, runs: dict[str, list[tuple[int, float]]]) -> str:
    """Bits per character of each seed against numbers kept, the baselines as lines; a sentence."""
    ax = figure.subplots()
    mean = {name: sum(b for _, b in of) / len(of) for name, of in runs.items()}
    honest = [name for name in runs if name not in ("nothing", PUBLISHED)]
    for k, name in enumerate(honest):
        ax.plot(*zip(*runs[name]), label=name, **plots.style(k) | {"ls": "none", "ms": 7})
    ax.axhline(mean["nothing"], color="0.4", ls="--", lw=1, label="reads nothing")
    ax.axhline(mean[PUBLISHED], color="0.4", ls=":", lw=1, label="of 2019: looks ahead")
    ax.set(xlabel="numbers kept of a token", ylabel="test bits per character")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    said = (f"{name} {mean[name]:.2f} with {runs[name][0][0]}" for name in honest)
    return f"Bits per character, numbers kept: {', '.join(said)}."


# ---------------------------------------------------------------------------------------- exercises


def _cache_mib(groups: int = 8, layers: int = 32, dtype=torch.float16) -> int:
    with torch.device("meta"):
        layer = MultiHeadAttention(4096, 32, groups=groups).to(dtype)
    return layers * cache_bytes(layer, 1, 8192) // 2**20


cache_mib = Check(
    right=_cache_mib,
    mistakes=(
        (lambda: _cache_mib(groups=32), "that is with a key for each head: 8 groups share theirs."),
        (lambda: _cache_mib() // 2, "values are kept as well as keys."),
        (lambda: _cache_mib(layers=1), "that is one layer of 32."),
        (lambda: _cache_mib(dtype=torch.float32), "a number of 16 bits has two bytes."),
    ),
    hint="keys and values, 8 groups of 128 numbers, two bytes each; times layers and tokens.",
    moral="One reader of one text; a server has many, and each token that it writes reads it all.",
)


def _attend(q, k, v, scale=None, mask=True, dim=1):
    s = q @ k.T * (k.shape[1] ** -0.5 if scale is None else scale)
    if mask:
        s = s.masked_fill(torch.ones(len(q), len(k)).triu(1).bool(), -torch.inf)
    return s.softmax(dim) @ v


attend = Check(
    function=True,
    cases=lambda: [gaussian((5, 4), (5, 4), (5, 3)), gaussian((7, 2), (7, 2), (7, 6))],
    right=_attend,
    mistakes=(
        (lambda q, k, v: _attend(q, k, v, mask=False), "a token reads those after it: mask them."),
        (lambda q, k, v: _attend(q, k, v, scale=1.0), "divide the scores by √d."),
        (
            lambda q, k, v: _attend(q, k, v, scale=1 / k.shape[1]),
            "divide by √d, not by d: a product of d numbers has the deviation √d.",
        ),
        (
            lambda q, k, v: (q @ k.T * k.shape[1] ** -0.5).softmax(1).tril() @ v,
            "mask before the softmax: weights that are removed after it no longer sum to one.",
        ),
        (
            lambda q, k, v: _attend(q, k, v, dim=0),
            "the softmax goes over the tokens that are read, along a row.",
        ),
    ),
    hint="scores q kᵀ / √d, -∞ above the diagonal, softmax along the rows, times v.",
    moral="The first token reads itself alone, so its output is v_0.",
    forbids=(
        (F.scaled_dot_product_attention, "write it with matrix products and softmax."),
        (causal, "write it with matrix products and softmax."),
    ),
)


def _grouped(q, k, v, group=lambda h, groups, heads: h * groups // heads):
    use = [group(h, len(k), len(q)) for h in range(len(q))]
    return torch.stack([_attend(q[h], k[g], v[g]) for h, g in enumerate(use)])


grouped = Check(
    function=True,
    cases=lambda: [
        gaussian((4, 5, 3), (2, 5, 3), (2, 5, 3)),
        gaussian((6, 4, 2), (3, 4, 2), (3, 4, 2)),
        gaussian((3, 4, 2), (1, 4, 2), (1, 4, 2)),
    ],
    right=_grouped,
    mistakes=(
        (
            lambda q, k, v: _grouped(q, k, v, lambda h, groups, heads: h % groups),
            "heads of a group are neighbors: heads 0 and 1 read group 0, if there are two each.",
        ),
        (
            lambda q, k, v: _grouped(q, k, v, lambda h, groups, heads: 0),
            "all heads read group 0 now.",
        ),
        (
            lambda q, k, v: torch.stack([_attend(t, k.mean(0), v.mean(0)) for t in q]),
            "that is the mean over the groups: each head reads one of them.",
        ),
    ),
    hint="head h reads group h * groups // heads; call your `attend` for each head.",
    moral="Queries cost no memory, so only keys and values are shared.",
    forbids=((causal, "build it from your `attend`."),),
)


def _absorbed(q, c, up_key, up_value, scale=None, expand=True):
    s = c @ (up_key.T @ q) * (len(q) ** -0.5 if scale is None else scale)
    read = s.softmax(0) @ c
    return up_value @ read if expand else read


absorbed = Check(
    function=True,
    cases=lambda: [
        gaussian((8,), (50, 3), (8, 3), (8, 3)),
        gaussian((16,), (60, 2), (16, 2), (16, 2)),
    ],
    right=_absorbed,
    mistakes=(
        (
            lambda q, c, up_key, up_value: _absorbed(
                q, c, up_key, up_value, scale=c.shape[1] ** -0.5
            ),
            "divide by √d of the query, not by √rank: the scores are those of the expanded keys.",
        ),
        (lambda *case: _absorbed(*case, scale=1.0), "divide the scores by √d."),
        (
            lambda *case: _absorbed(*case, expand=False),
            "that is what was read of the latents: V makes the value of it.",
        ),
    ),
    hint="q' = Kᵀ q once; scores c q' / √d; V times the sum of the latents by the softmax.",
    moral="Two small products for the new token, and the cache is read as it is kept.",
    largest=lambda *case: 200,
)

product_key = Check(
    function=True,
    cases=lambda: [gaussian((2, 4), (2, 3)), gaussian((3, 2), (3, 5))],
    right=lambda a, b: a.T @ b / len(a),
    mistakes=(
        (lambda a, b: a.T @ b, "divide by the rank: it is a mean of products."),
        (lambda a, b: b.T @ a / len(a), "that is transposed: heads are the rows."),
        (lambda a, b: torch.outer(a[0], b[0]), "that is the first of the products alone."),
        (
            lambda a, b: torch.outer(a.mean(0), b.mean(0)),
            "the mean of products is not the product of means.",
        ),
    ),
    hint="1/R Σ_r a_r b_rᵀ is one matrix product, (heads, R) times (R, d).",
    moral="R (heads + d) numbers are kept in place of heads · d.",
)


def _slice(q, k, v, i, rows=True, columns=True):
    t = (k * q[i]) @ v.T
    seen = torch.arange(len(k)) <= i
    t = t * seen[:, None] if rows else t
    return t * seen if columns else t


slice_of_cube = Check(
    function=True,
    cases=lambda: [
        (*gaussian((6, 3), (6, 3), (6, 3)), 2),
        (*gaussian((40, 5), (40, 5), (40, 5)), 17),
    ],
    right=_slice,
    mistakes=(
        (
            lambda *case: _slice(*case, rows=False, columns=False),
            "token i reads those after it: both j and k are at most i.",
        ),
        (lambda *case: _slice(*case, columns=False), "k is at most i too."),
        (lambda *case: _slice(*case, rows=False), "j is at most i too."),
        (
            lambda q, k, v, i: (
                (k * q[i]) @ v.T * (torch.arange(len(k)) < i)[:, None] * (torch.arange(len(k)) < i)
            ),
            "token i reads itself: j <= i, not j < i.",
        ),
        (
            lambda q, k, v, i: _slice(q, k, v, i).T,
            "that is transposed: j is of the keys, and comes first.",
        ),
    ),
    hint="(k * q[i]) @ v.T is the slice without its mask.",
    moral="A slice is a matrix of rank R; the cube, T times as large, is never needed.",
    largest=lambda q, *rest: 2 * len(q) ** 2,
)


def _enough(bound: float = 0.1) -> int:
    return first_rank((e for _, e in curves(4)["latent"]), bound)


enough_rank = Check(
    right=_enough,
    mistakes=(
        (lambda: _enough() - 1, "there the error is still above 10 %."),
        (lambda: _enough() + 1, "one rank less is enough."),
        (lambda: WIDTH, "that is the full rank, where nothing is lost."),
    ),
    hint="choose latent, and go up from the lowest rank; the sentence has the error.",
    moral="Full heads keep 64: keys and values of all heads share most of their directions.",
)
