"""A small GPT that reads and writes characters [Radford2019]: attention of any kind and two linear
layers in any format, twice, and what it needs.

    text = Characters(datasets.corpus())
    model = GPT(text.size, generator=g)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for loss in train(model, optimizer, text.encode(text.part("train")), steps=300):
        ...
    bits_per_character(model, text.encode(text.part("test")))

    latent = lambda width, heads: LatentAttention(width, heads, rank=16)
    model = replace_linear(GPT(text.size, attention=latent), "blocks.*", LowRank.from_dense, rank=8)
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..arguments import one_of, positive
from ..layers.attention import Cache, CausalAttention, MultiHeadAttention
from ..layers.linear import redraw
from ..rng import randn
from .training import batch_loss, mean_over_processes, unwrapped


class Block(nn.Module):
    """x + attention(norm(x)), then x + down(gelu(up(norm(x))))."""

    def __init__(self, width, heads, attention: Callable[..., CausalAttention]):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), attention(width, heads)
        self.norm2, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
        )

    def forward(self, x):
        return self.step(x)[0]

    def step(self, x, cache: Cache | None = None):
        """The same for tokens after those of a cache, and the cache with them."""
        y, cache = self.attention.step(self.norm1(x), cache)
        x = x + y
        return x + self.down(F.gelu(self.up(self.norm2(x)))), cache


class GPT(nn.Module):
    """Characters (batch, time) int64 -> logits of the next ones (batch, time, vocabulary).

    Time is at most `context`. Embeddings have standard deviation 0.02, and so the logits start near
    0. Raises ValueError for more characters than the context.

    tied: whether the head is the transposed embedding.
    attention: (width, heads) -> a layer of `layers.attention`.
    vocabulary: how many characters there are.
    width: of the states, a multiple of heads.
    depth: the number of blocks.
    heads: of each attention.
    context: the greatest length of a text that is read at once.
    generator: draws the weights; None: torch's global one.

    >>> g = torch.Generator().manual_seed(0)
    >>> model = GPT(50, width=32, depth=1, heads=2, context=16, generator=g)
    >>> model(torch.zeros(3, 16, dtype=torch.int64)).shape
    torch.Size([3, 16, 50])
    """

    def __init__(
        self,
        vocabulary,
        *,
        width=128,
        depth=2,
        heads=4,
        context=64,
        tied=True,
        attention: Callable[..., CausalAttention] = MultiHeadAttention,
        generator=None,
    ):
        super().__init__()
        self.context = context
        self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads, attention) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        redraw(self, generator)
        with torch.no_grad():
            for table in (self.token, self.place, self.head):
                table.weight.copy_(0.02 * randn(*table.weight.shape, generator=generator))
        if tied:
            self.head.weight = self.token.weight

    def forward(self, index: Tensor) -> Tensor:
        return self.step(index)[0]

    def step(self, index: Tensor, caches: list[Cache] | None = None) -> tuple[Tensor, list[Cache]]:
        """Go on after the characters of the caches, one cache for each block, none at the start:
        logits of the new ones, and the caches with them."""
        past = caches[0][0].shape[1] if caches else 0
        if (count := past + index.shape[1]) > self.context:
            raise ValueError(f"GPT: needs at most {self.context} characters, got {count}")
        x, kept = self.token(index) + self.place.weight[past:count], []
        for k, block in enumerate(self.blocks):
            x, cache = block.step(x, caches[k] if caches else None)
            kept.append(cache)
        return self.head(self.norm(x)), kept

    @torch.no_grad()
    def generate(
        self,
        start: Tensor,
        length: int,
        *,
        temperature: float = 1.0,
        cached: bool = True,
        generator=None,
    ) -> Tensor:
        """Continue (batch, time) by `length` characters, each drawn from softmax(logits /
        temperature).

        start: the characters to continue, (batch, time), integers.
        length: how many are drawn.
        temperature: 1 for the model's distribution; below 1 likely characters become likelier.
        cached: read each character once and keep what attention needs of it; beyond the context all
            places move, and the last `context` characters are read again for each new one.
        generator: draws the characters; None: torch's global one.

        Raises ValueError for a start without characters and a temperature that is not positive.
        """
        positive("GPT.generate", "temperature", temperature)
        if start.ndim != 2 or not start.shape[1]:
            raise ValueError(f"GPT.generate: needs a start (batch, time), got {tuple(start.shape)}")
        text, new, caches = start, start, None
        for _ in range(length):
            if cached and text.shape[1] <= self.context:
                logits, caches = self.step(new, caches)
            else:
                logits = self(text[:, -self.context :])
            p = (logits[:, -1] / temperature).softmax(-1)
            new = torch.multinomial(p, 1, generator=generator)
            text = torch.cat([text, new], 1)
        return text


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
    """Train on random windows of a text; yields the loss of each step, in bits per character.

    model: a `GPT`; where it is `data_parallel`, the processes share each batch.
    optimizer: of its parameters, with their learning rates.
    tokens: the text, (length,), integers.
    steps: how many windows of `batch` rows are drawn.
    batch: rows of a step.
    schedule: step -> share of the learning rates; None: a linear warm-up of a tenth of the steps,
        then a cosine to 0.
    generator: draws the windows; None: torch's global one.
    """
    context = unwrapped(model).context
    span = torch.arange(context + 1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule or warmup_cosine(steps))
    for _ in range(steps):
        start = torch.randint(len(tokens) - context, (batch, 1), generator=generator)
        window = tokens[start + span]  # (batch, context + 1)
        loss = batch_loss(model, window[:, :-1], window[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        yield mean_over_processes(model, loss.item()) / math.log(2)


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
