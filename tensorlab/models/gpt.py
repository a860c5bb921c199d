"""A small GPT that reads and writes characters [Radford2019]: attention and two dense layers,
twice, and what it needs.

    text = Characters(datasets.corpus())
    model = GPT(text.size, generator=g)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for loss in train(model, optimizer, text.encode(text.part("train")), steps=300):
        ...
    bits_per_character(model, text.encode(text.part("test")))
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..arguments import one_of
from ..layers.linear import redraw
from ..rng import randn


class Attention(nn.Module):
    """Causal attention: each character reads those before it.  (batch, time, width) -> the same."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (
            self.qkv(x).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        )  # (b, heads, t, c / heads)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(b, t, c))


class Block(nn.Module):
    """x + attention(norm(x)), then x + down(gelu(up(norm(x))))."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
        )

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Characters (batch, time) int64 -> logits of the next ones (batch, time, vocabulary).

    time is at most `context`. tied: the head is the transposed embedding. Embeddings have standard
    deviation 0.02, and so the logits start near 0.

    >>> g = torch.Generator().manual_seed(0)
    >>> model = GPT(50, width=32, depth=1, heads=2, context=16, generator=g)
    >>> model(torch.zeros(3, 16, dtype=torch.int64)).shape
    torch.Size([3, 16, 50])
    """

    def __init__(
        self, vocabulary, *, width=128, depth=2, heads=4, context=64, tied=True, generator=None
    ):
        super().__init__()
        if width % heads:
            raise ValueError(
                f"GPT: needs a width that the heads divide, got width={width} and heads={heads}"
            )
        self.context = context
        self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        redraw(self, generator)
        with torch.no_grad():
            for table in (self.token, self.place, self.head):
                table.weight.copy_(0.02 * randn(*table.weight.shape, generator=generator))
        if tied:
            self.head.weight = self.token.weight

    def forward(self, index: Tensor) -> Tensor:
        if index.shape[1] > self.context:
            raise ValueError(f"GPT: needs at most {self.context} characters, got {index.shape[1]}")
        x = self.token(index) + self.place.weight[: index.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    @torch.no_grad()
    def generate(
        self, start: Tensor, length: int, *, temperature: float = 1.0, generator=None
    ) -> Tensor:
        """Continue (batch, time) by `length` characters, each drawn from softmax(logits /
        temperature)."""
        for _ in range(length):
            logits = self(start[:, -self.context :])[:, -1]
            drawn = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
            start = torch.cat([start, drawn], 1)
        return start


class Characters:
    """A text and its alphabet; parts "train" (first 90 %), "valid" and "test" (5 % each), by
    position.

    >>> text = Characters("abracadabra" * 10)
    >>> text.size, text.encode("cab").tolist(), text.decode(text.encode("bad"))
    (5, [2, 0, 1], 'bad')
    >>> len(text.part("valid"))
    5
    """

    def __init__(self, text: str):
        self.text = text
        self.alphabet = sorted(set(text))
        self._number = {c: i for i, c in enumerate(self.alphabet)}

    @property
    def size(self) -> int:
        return len(self.alphabet)

    def part(self, name: str) -> str:
        cuts = {"train": (0.0, 0.9), "valid": (0.9, 0.95), "test": (0.95, 1.0)}
        one_of("Characters.part", "name", name, cuts)
        a, b = (int(share * len(self.text)) for share in cuts[name])
        return self.text[a:b]

    def encode(self, text: str) -> Tensor:
        unknown = set(text) - set(self._number)
        if unknown:
            raise ValueError(
                f"Characters.encode: needs characters of the alphabet, got {sorted(unknown)}"
            )
        return torch.tensor([self._number[c] for c in text], dtype=torch.int64)

    def decode(self, index: Tensor) -> str:
        return "".join(self.alphabet[i] for i in index.tolist())


def train(
    model: nn.Module,
    optimizer,
    tokens: Tensor,
    *,
    steps: int,
    batch: int = 8,
    schedule=None,
    generator=None,
):
    """Steps on random windows of a text; a generator that gives the loss of each step, in bits per
    character.

    schedule: step -> share of the learning rates; None: a linear warm-up of a tenth of the steps,
    then a cosine to 0.
    """
    span = torch.arange(model.context + 1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule or warmup_cosine(steps))
    for _ in range(steps):
        start = torch.randint(len(tokens) - model.context, (batch, 1), generator=generator)
        window = tokens[start + span]  # (batch, context + 1)
        loss = F.cross_entropy(model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        yield loss.item() / math.log(2)


def warmup_cosine(steps: int):
    """step -> share of the learning rate: up linearly over a tenth of the steps, then down along a
    cosine to 0."""
    warm = max(1, steps // 10)
    return lambda step: min(
        (step + 1) / warm,
        0.5 + 0.5 * math.cos(math.pi * max(0, step - warm) / max(1, steps - warm)),
    )


@torch.no_grad()
def bits_per_character(model: nn.Module, tokens: Tensor, *, batch: int = 64) -> float:
    """Mean of -log2 p(next character) over a text in windows that do not overlap."""
    n = (len(tokens) - 1) // model.context
    if n < 1:
        raise ValueError(
            f"bits_per_character: needs more than {model.context} characters, got {len(tokens)}"
        )
    x, y = (tokens[k : k + n * model.context].view(n, -1) for k in (0, 1))
    total = 0.0
    for a, b in zip(x.split(batch), y.split(batch)):
        total += F.cross_entropy(model(a).flatten(0, 1), b.flatten(), reduction="sum").item()
    return total / y.numel() / math.log(2)
