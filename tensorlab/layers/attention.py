"""Causal attention as tensors: many heads, shared heads, a latent, tensor products, and blocks of
three ways.

    y_i = W_o [ Σ_{j<=i} softmax_j(q_ihᵀ k_jh / √d) v_jh ]_h        token i, heads h of size d

The kinds differ in how keys and values come from x, and so in the numbers that are kept of each
token for those after it, the KV cache:

    MultiHeadAttention      k_jg, v_jg, heads in groups      2 groups d              [Vaswani2017]
    LatentAttention         k_jh = K_h c_j, v_jh = V_h c_j   rank + rotary           [DeepSeek2024]
    TensorProductAttention  k_j = 1/R Σ_r a_jr b_jrᵀ         (R_k + R_v)(heads + d)  [Zhang2025]
    MultiLinearAttention    Σ_r g_r q_ir k_jr v_kr           2 R                     [Ma2019]

All projections are `nn.Linear`, so that `replace_linear` gives them any format.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import count
from ..capture import readable
from ..formats.lowrank import LowRank

Cache = tuple[Tensor, ...]  # each (batch, tokens, ...)
# Slices of the cube made at once: of so many tokens, since the mask removes more of a larger chunk,
CHUNK = 8
ROWS = 32  # but at least so many in all, since each operation has a fixed cost


class CausalAttention(nn.Module, ABC):
    """(batch, time, width) -> the same; what comes out for token i depends on tokens 0..i only.

    A kind gives `project`, which makes queries and what is kept of new tokens, and `attend`, which
    lets the queries of the last tokens read all that is kept.
    """

    cached: int  # numbers kept for each token

    def forward(self, x: Tensor) -> Tensor:
        return self.step(x)[0]

    def step(self, x: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """Go on after the tokens of a cache, none at the start: (batch, new, width) -> the same,
        and the cache with the new tokens. Raises ValueError for x of other modes."""
        self._check_modes(x)
        past = 0 if cache is None else cache[0].shape[1]
        query, new = self.project(x, past)
        kept = new if cache is None else tuple(torch.cat(pair, 1) for pair in zip(cache, new))
        return self.attend(query, kept), kept

    def _check_modes(self, x: Tensor) -> None:
        if x.ndim != 3:
            need = "x of shape (batch, tokens, width)"
            raise ValueError(f"{type(self).__name__}: needs {need}, got {tuple(x.shape)}")

    @abstractmethod
    def project(self, x: Tensor, past: int) -> tuple[Tensor, Cache]:
        """Queries, and what is kept of x, whose first token has number `past`."""

    @abstractmethod
    def attend(self, query: Tensor, kept: Cache) -> Tensor:
        """What the last tokens read."""


def cache_bytes(model: nn.Module, batch: int, tokens: int) -> int:
    """Bytes of the KV caches of all attention layers of a model, in the dtype of its parameters.

        bytes = batch · tokens · Σ_layers cached · bytes of a number

    Raises ValueError if the model has no such layer.

    >>> cache_bytes(MultiHeadAttention(8, 2), batch=1, tokens=10)  # 2 · 8 numbers of 4 bytes each
    640
    """
    batch, tokens = count("cache_bytes", "batch", batch), count("cache_bytes", "tokens", tokens, 0)
    layers = [m for m in model.modules() if isinstance(m, CausalAttention)]
    if not layers:
        raise ValueError(f"cache_bytes: needs a model with attention, got {type(model).__name__}")
    each = (layer.cached * next(layer.parameters()).element_size() for layer in layers)
    return batch * tokens * sum(each)


def causal(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """Softmax attention of the last tokens over all: (batch, new, heads, d), (batch, tokens, heads,
    d), (batch, tokens, heads, e) -> (batch, new, heads, e).

        y_i = Σ_{j<=i} softmax_j(scale · q_iᵀ k_j) v_j,    scale = 1/√d unless given

    >>> one = torch.ones(1, 3, 1, 2)
    >>> causal(one, one, torch.tensor([3.0, 1.0, 2.0]).view(1, 3, 1, 1)).flatten()
    tensor([3., 2., 2.])
    """
    new, past = query.shape[1], key.shape[1] - query.shape[1]
    q, k, v = (t.transpose(1, 2) for t in (query, key, value))
    if past == 0:
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    else:
        seen = torch.ones(new, past + new, dtype=torch.bool, device=q.device).tril(past)
        mask = seen if new > 1 else None  # one new token reads all
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return y.transpose(1, 2)


def rotate(x: Tensor, past: int = 0) -> Tensor:
    """Rotary positions [Su2024]: (batch, time, heads, d) -> the same, its first token number
    `past`.

        (x_m, x_{m + d/2}) turned by the angle  token · 10000^(-2m/d),    m < d/2

    The product of a turned query and a turned key depends on how far apart their tokens are.

    >>> x = torch.tensor([1.0, 0.0]).expand(1, 2, 1, 2)
    >>> rotate(x)[0, :, 0]  # by 0 and by 1 radian
    tensor([[1.0000, 0.0000],
            [0.5403, 0.8415]])
    """
    t, half = x.shape[1], x.shape[-1] // 2
    kind = {"dtype": torch.promote_types(x.dtype, torch.float32), "device": x.device}
    speed = 10000.0 ** (-torch.arange(half, **kind) / max(1, half))
    angle = torch.arange(past, past + t, **kind)[:, None, None] * speed  # (t, 1, half)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def matrix(layer: nn.Module) -> Tensor:
    """The weight (out, in) of a linear layer as a tensor, whatever format holds it."""
    weight: Any = layer.weight
    return weight if isinstance(weight, Tensor) else weight.to_dense()


def _sizes(who: str, width: int, heads: int) -> tuple[int, int, int]:
    """width, heads and width / heads. Raises ValueError unless the heads divide the width."""
    width, heads = count(who, "width", width), count(who, "heads", heads)
    if width % heads:
        raise ValueError(f"{who}: needs a width that the heads divide, got {width=} and {heads=}")
    return width, heads, width // heads


def _check_even(who: str, turned: int) -> None:
    """Raises ValueError for an odd number of entries to rotate: they turn in pairs."""
    if turned % 2:
        raise ValueError(f"{who}: needs an even number of rotary entries, got {turned}")


class MultiHeadAttention(CausalAttention):
    """Heads that have each a key and a value, or one for a group of heads [Vaswani2017]
    [Ainslie2023].

        q_h, k_g, v_g = W x + b,    head h reads group g = ⌊h groups / heads⌋

    groups: pairs of keys and values, a divisor of the heads; None: one for each head. One group for
    all is multi-query attention. rotary: `rotate` queries and keys. Raises ValueError unless heads
    divide the width and groups divide the heads.

    >>> layer = MultiHeadAttention(8, 4, groups=2)
    >>> layer(torch.ones(3, 5, 8)).shape, layer.cached
    (torch.Size([3, 5, 8]), 8)
    """

    def __init__(self, width: int, heads: int, *, groups: int | None = None, rotary: bool = False):
        super().__init__()
        width, heads, self.head = _sizes("MultiHeadAttention", width, heads)
        _check_even("MultiHeadAttention", self.head if rotary else 0)
        self.width, self.heads, self.rotary = width, heads, rotary
        self.groups = heads if groups is None else count("MultiHeadAttention", "groups", groups)
        if heads % self.groups:
            raise ValueError(
                f"MultiHeadAttention: needs groups that divide the heads, got {groups=} and "
                f"{heads=}"
            )
        self.cached = 2 * self.groups * self.head
        self.qkv = nn.Linear(width, width + self.cached)
        self.out = nn.Linear(width, width)

    def project(self, x: Tensor, past: int) -> tuple[Tensor, Cache]:
        sizes = [self.width, self.cached // 2, self.cached // 2]
        q, k, v = (y.unflatten(-1, (-1, self.head)) for y in self.qkv(x).split(sizes, -1))
        if self.rotary:
            q, k = rotate(q, past), rotate(k, past)
        return q, (k, v)  # (batch, time, heads, d), (batch, time, groups, d)

    def attend(self, query: Tensor, kept: Cache) -> Tensor:
        share = self.heads // self.groups
        k, v = kept if share == 1 else (t.repeat_interleave(share, 2) for t in kept)
        return self.out(causal(query, k, v).flatten(-2))


class LatentAttention(CausalAttention):
    """Keys and values of all heads come from one short vector, and it alone is kept (MLA)
    [DeepSeek2024].

        c = W_c x,   k_h = [K_h c; rotate(W_r x)],   v_h = V_h c        c: (rank,), W_r x: (rotary,)
        absorbed:   q_hᵀ K_h c = (K_hᵀ q_h)ᵀ c,      Σ_j p_j V_h c_j = V_h Σ_j p_j c_j

    The absorbed way never expands a key or a value. A rotation between K_hᵀ and q_h would change
    with each token, so positions are in separate entries, which all heads share. c is not
    normalized, unlike DeepSeek's.

    width: the length of a token's vector.
    heads: how many there are; they divide the width.
    rank: the length of c.
    rotary: how many entries hold positions, an even number; 0: no positions.
    absorb: True or False fixes the way; None takes the absorbed one where tokens read a cache.

    Raises ValueError unless heads divide the width and rotary is even.

    >>> layer = LatentAttention(8, 2, rank=3, rotary=2)
    >>> layer(torch.ones(1, 5, 8)).shape, layer.cached
    (torch.Size([1, 5, 8]), 5)
    """

    def __init__(
        self, width: int, heads: int, rank: int, *, rotary: int = 0, absorb: bool | None = None
    ):
        super().__init__()
        width, heads, self.head = _sizes("LatentAttention", width, heads)
        self.rank = rank = count("LatentAttention", "rank", rank)
        rotary = count("LatentAttention", "rotary", rotary, 0)
        _check_even("LatentAttention", rotary)
        self.heads, self.rotary, self.absorb = heads, rotary, absorb
        self.cached = rank + rotary
        self.query = nn.Linear(width, width + heads * rotary)
        self.down = nn.Linear(width, self.cached, bias=False)
        self.up_key = nn.Linear(rank, width, bias=False)
        self.up_value = nn.Linear(rank, width, bias=False)
        self.out = nn.Linear(width, width)

    @classmethod
    @torch.no_grad()
    def from_multihead(
        cls, layer: MultiHeadAttention, rank: int, *, absorb: bool | None = None
    ) -> "LatentAttention":
        """The attention whose [W_k; W_v] is the nearest of this rank: K, V = U √Σ and W_c = √Σ Vᵀ.

        From rank `width` on it is the same map: a bias of the keys moves all scores of a query
        alike, and softmax removes it; one of the values goes through to the output. Raises
        ValueError for shared heads and for rotary positions, which do not commute with K.

        >>> a = MultiHeadAttention(8, 2)
        >>> b, x = LatentAttention.from_multihead(a, 8), torch.randn(1, 5, 8)
        >>> torch.allclose(a(x), b(x), atol=1e-5)
        True
        """
        if layer.groups != layer.heads or layer.rotary:
            need = "a key for each head and no rotary positions"
            got = f"{layer.groups} groups for {layer.heads} heads, rotary={layer.rotary}"
            raise ValueError(f"LatentAttention.from_multihead: needs {need}, got {got}")
        n, w = layer.width, matrix(layer.qkv)
        made = cls(n, layer.heads, rank, absorb=absorb).to(w)
        both = LowRank.from_dense(w[n:], min(rank, n))  # (2 width, width)
        for new, old in (
            (made.query.weight, w[:n]),
            (made.down.weight[:rank], F.pad(both.v.mT, (0, 0, 0, rank - both.ranks[0]))),
            (made.up_key.weight, F.pad(both.u[:n], (0, rank - both.ranks[0]))),
            (made.up_value.weight, F.pad(both.u[n:], (0, rank - both.ranks[0]))),
            (made.out.weight, matrix(layer.out)),
            (made.query.bias, layer.qkv.bias[:n]),
            (made.out.bias, layer.out.bias + matrix(layer.out) @ layer.qkv.bias[2 * n :]),
        ):
            new.copy_(old)
        return made

    def project(self, x: Tensor, past: int) -> tuple[Tensor, Cache]:
        q = self.query(x).unflatten(-1, (self.heads, -1))  # (batch, time, heads, d + rotary)
        c = self.down(x)  # (batch, time, rank + rotary)
        if self.rotary:
            q = torch.cat([q[..., : self.head], rotate(q[..., self.head :], past)], -1)
            turned = rotate(c[:, :, None, self.rank :], past)[:, :, 0]
            c = torch.cat([c[..., : self.rank], turned], -1)
        return q, (c,)

    def attend(self, query: Tensor, kept: Cache) -> Tensor:
        (c,) = kept
        few = query.shape[1] < c.shape[1] if self.absorb is None else self.absorb
        return self.out((self._absorbed if few else self._expanded)(query, c).flatten(-2))

    def _expanded(self, query: Tensor, c: Tensor) -> Tensor:
        c, turned = c.split([self.rank, self.rotary], -1)
        key, value = (up(c).unflatten(-1, (self.heads, -1)) for up in (self.up_key, self.up_value))
        turned = turned[:, :, None].expand(-1, -1, self.heads, -1)
        return causal(query, torch.cat([key, turned], -1), value)

    def _absorbed(self, query: Tensor, c: Tensor) -> Tensor:
        key, value = (
            matrix(up).unflatten(0, (self.heads, -1)) for up in (self.up_key, self.up_value)
        )  # (heads, d, rank)
        q, turned = query.split([self.head, self.rotary], -1)
        q = torch.cat([torch.einsum("bthd,hdr->bthr", q, key), turned], -1)
        each = c[:, :, None].expand(-1, -1, self.heads, -1)  # one for all heads, not copied
        read = causal(q, each, each[..., : self.rank], scale=(self.head + self.rotary) ** -0.5)
        return torch.einsum("bthr,hdr->bthd", read, value)


class TensorProductAttention(CausalAttention):
    """Keys and values of a token are matrices (heads, d) of low rank, made from it and kept as
    factors [Zhang2025].

        k = 1/R Σ_r a_r b_rᵀ,    a_r = A_r x + α_r: (heads,),    b_r = B_r x + β_r: (d,)

    and v the same with another rank; q too if it has a rank, else it is W x. A constant a that
    picks one head for each r gives multi-head attention; one that all heads share, multi-query.
    Rotations act on b alone, so they commute with the sum.

    width: the length of a token's vector.
    heads: how many there are; they divide the width.
    ranks: R of the keys and of the values.
    query_rank: R of the queries; None: they are W x.
    rotary: whether queries and keys are rotated by their positions.

    Raises ValueError unless heads divide the width, and for an odd head size with rotary.

    >>> layer = TensorProductAttention(8, 2, ranks=(1, 2))
    >>> layer(torch.ones(1, 5, 8)).shape, layer.cached
    (torch.Size([1, 5, 8]), 18)
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        ranks: tuple[int, int] = (2, 2),
        query_rank: int | None = None,
        rotary: bool = False,
    ):
        super().__init__()
        width, heads, self.head = _sizes("TensorProductAttention", width, heads)
        _check_even("TensorProductAttention", self.head if rotary else 0)
        self.ranks = tuple(count("TensorProductAttention", "ranks", r) for r in ranks)
        if query_rank is not None:
            query_rank = count("TensorProductAttention", "query_rank", query_rank)
        self.heads, self.query_rank, self.rotary = heads, query_rank, rotary
        self.cached = sum(self.ranks) * (heads + self.head)
        factors = lambda rank: nn.Linear(width, rank * (heads + self.head))
        self.query = nn.Linear(width, width) if query_rank is None else factors(query_rank)
        self.key, self.value = map(factors, self.ranks)
        self.out = nn.Linear(width, width)

    def project(self, x: Tensor, past: int) -> tuple[Tensor, Cache]:
        turn = (lambda b: rotate(b, past)) if self.rotary else (lambda b: b)
        if self.query_rank is None:
            q = turn(self.query(x).unflatten(-1, (self.heads, self.head)))
        else:
            a, b = self._factors(self.query(x))
            q = _summed(a, turn(b))
        (ak, bk), (av, bv) = self._factors(self.key(x)), self._factors(self.value(x))
        return q, (ak, turn(bk), av, bv)

    def attend(self, query: Tensor, kept: Cache) -> Tensor:
        ak, bk, av, bv = kept
        return self.out(causal(query, _summed(ak, bk), _summed(av, bv)).flatten(-2))

    def _factors(self, y: Tensor) -> list[Tensor]:
        """(batch, time, R (heads + d)) -> a (batch, time, R, heads), b (batch, time, R, d)."""
        size = self.heads + self.head
        return list(y.unflatten(-1, (-1, size)).split([self.heads, self.head], -1))


def _summed(a: Tensor, b: Tensor) -> Tensor:
    """1/R Σ_r a_r b_rᵀ: (batch, time, R, heads), (batch, time, R, d) -> (batch, time, heads, d)."""
    return torch.einsum("btrh,btrd->bthd", a, b) / a.shape[2]


class MultiLinearAttention(CausalAttention):
    """Attention without softmax: a tensor of three ways over queries, keys and values, one of whose
    slices is read by a dense layer [Ma2019].

        T_ijk = Σ_r g_r q_ir k_jr v_kr  for j, k <= i, else 0,       y_i = Σ_jk W_jk T_ijk + b
        g = mean over cores of softmax(core)                         q, k, v: (time, rank)

    Cores share their factors, so that several are one with the mean of their weights. W has
    context² columns, in an order in which the pairs (j, k) below any token come first: token i
    reads the first (i + 1)² of them, and shorter texts and generation need no more. Slices are made
    for a few tokens at a time, not the cube; autograd keeps the part that the mask leaves, a third
    of it.

    width: the length of a token's vector.
    context: the most tokens.
    rank: the length of a query, a key and a value.
    cores: over how many g is a mean.
    causal: False is the published layer, whose tokens read those after them too; it has no cache.

    Raises ValueError for more tokens than the context.

    >>> layer = MultiLinearAttention(8, context=6, rank=3)
    >>> layer(torch.ones(1, 5, 8)).shape, layer.cached
    (torch.Size([1, 5, 8]), 6)
    """

    pairs: Tensor

    def __init__(self, width: int, context: int, rank: int, *, cores: int = 1, causal: bool = True):
        super().__init__()
        named = {"width": width, "context": context, "rank": rank, "cores": cores}
        width, context, rank, cores = (
            count("MultiLinearAttention", name, value) for name, value in named.items()
        )
        self.context, self.rank, self.causal, self.cached = context, rank, causal, 2 * rank
        self.qkv = nn.Linear(width, 3 * rank, bias=False)
        self.core = nn.Parameter(torch.zeros(cores, rank))
        self.out = nn.Linear(context**2, width)
        self.register_buffer("pairs", _shells(context), persistent=False)

    def project(self, x: Tensor, past: int) -> tuple[Tensor, Cache]:
        if (tokens := past + x.shape[1]) > self.context or (past and not self.causal):
            need = f"at most {self.context} tokens" if self.causal else "all tokens at once"
            raise ValueError(f"MultiLinearAttention: needs {need}, got {tokens}")
        q, k, v = self.qkv(x).split(self.rank, -1)
        return q * self.core.softmax(-1).mean(0), (k, v)

    def attend(self, query: Tensor, kept: Cache) -> Tensor:
        k, v = kept
        w = matrix(self.out)
        if not self.causal:
            return self._unmasked(query, k, v, w)
        parts, start = [], k.shape[1] - query.shape[1]
        batch = len(query) if readable(query) else ROWS
        for q in query.split(max(CHUNK, ROWS // batch), 1):
            end = start + q.shape[1]
            slices = self._slices(q, k[:, :end], v[:, :end])
            parts.append(F.linear(slices, w[:, : end**2], self.out.bias))
            start = end
        return torch.cat(parts, 1)

    def _slices(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """T_ijk of the last tokens i, the pairs (j, k) in the order of W: (batch, tokens, end²)."""
        end, new = k.shape[1], q.shape[1]
        rows = (q[:, :, None] * k[:, None]).flatten(1, 2)  # (batch, new end, rank)
        t = (rows @ v.mT).unflatten(1, (new, end)).flatten(2)  # (batch, new, end²)
        seen = torch.arange(end - new + 1, end + 1, device=q.device).square()[:, None]
        mask = torch.arange(end**2, device=q.device) < seen  # (new, end²)
        return t.index_select(2, self._order(end)) * mask

    def _order(self, end: int) -> Tensor:
        """Positions in a flat (end, end) matrix of the pairs below `end`, in the order of W."""
        j, k = self.pairs[:, : end**2]
        return j * end + k

    def _unmasked(self, q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
        """y_i = Σ_r q_ir A_r, with A_r = Σ_jk W_jk k_jr v_kr: linear in q, so no slice is made."""
        end = k.shape[1]
        products = (k.mT[:, :, :, None] * v.mT[:, :, None]).flatten(2)  # (batch, rank, end²)
        a = products.index_select(2, self._order(end)) @ w[:, : end**2].mT  # (batch, rank, width)
        return q @ a + self.out.bias

    def cube(self, x: Tensor) -> Tensor:
        """T itself, (batch, time, time, time), which `forward` never makes.

        >>> layer = MultiLinearAttention(8, context=6, rank=3)
        >>> layer.cube(torch.ones(1, 5, 8)).shape
        torch.Size([1, 5, 5, 5])
        """
        self._check_modes(x)
        q, (k, v) = self.project(x, 0)
        t = torch.einsum("bir,bjr,bkr->bijk", q, k, v)
        if not self.causal:
            return t
        i = torch.arange(x.shape[1], device=x.device)
        seen = i <= i[:, None]  # (i, j)
        return t * (seen[:, :, None] & seen[:, None, :])


def _shells(n: int) -> Tensor:
    """All pairs (j, k) of n tokens in the order of max(j, k): the first m² are those below m.

    >>> _shells(2)
    tensor([[0, 0, 1, 1],
            [0, 1, 0, 1]])
    """
    j, k = torch.cartesian_prod(torch.arange(n), torch.arange(n)).T.reshape(2, -1)
    return torch.stack([j, k])[:, torch.maximum(j, k).argsort(stable=True)]
