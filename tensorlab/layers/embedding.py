"""A vocabulary as a train [Hrinchuk2020]: a table (vocabulary, width) as a TT-matrix; a token
gathers a slice of each core.

    E[v] = G_1[v_1] ... G_d[v_d],        v = (v_1 ... v_d) in mixed radix
    G_k[v_k]: r_k x width_k x r_{k+1}

`TTEmbedding` shares the cores among all tokens and can be trained; `TokenTrains` [Xu2023] has a
train for each token.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..arguments import check_shape, count, rank_caps
from ..capture import readable, tokens
from ..formats.ttmatrix import TTMatrix, tt_matrix_svd
from ..linalg import check_dense, choose_rank, small_svd, widen, zero_level
from .dense import check_plain, current, like, without_autocast
from .holding import Holding, reshaped, set_tensors


class TTEmbedding(Holding[TTMatrix]):
    """ids (...,) -> (..., width): rows of a TT-matrix of shape (vocabulary, width), gathered
    without ever forming it.

    weight: the table; its cores are copied and become parameters. padding_idx: a token whose row is
    zero and learns nothing; as no row of a train is free, it is cut from what goes out. Each id is
    computed once, and so is each prefix that ids share. Its sizes are read as those of
    `nn.Embedding`: num_embeddings, embedding_dim.

    >>> g = torch.Generator().manual_seed(0)
    >>> table = TTMatrix.randn(out=(4, 5), in_=(2, 3), rank=2, generator=g)
    >>> layer = TTEmbedding(table)
    >>> layer, torch.allclose(layer(torch.tensor([3, 17])), table.to_dense()[[3, 17]], atol=1e-6)
    (TTEmbedding(20, 6, out=(4, 5), in=(2, 3), ranks=(2,), stores 46 of 120), True)
    """

    held = "cores"
    max_norm, norm_type, scale_grad_by_freq, sparse = None, 2.0, False, False  # as others read it

    def __init__(self, weight: TTMatrix, *, padding_idx: int | None = None):
        if not isinstance(weight, TTMatrix):
            raise TypeError(f"TTEmbedding: needs a TTMatrix, got {type(weight).__name__}")
        padding_idx = _padding("TTEmbedding", padding_idx, weight.shape[0])
        super().__init__(weight)
        self.padding_idx = padding_idx

    @classmethod
    def randn(
        cls,
        vocabulary: int,
        width: int,
        out,
        in_,
        rank,
        *,
        std: float | None = None,
        padding_idx: int | None = None,
        generator: torch.Generator | None = None,
        dtype=None,
        device=None,
    ) -> "TTEmbedding":
        """A start: entries of variance std^2, by default 2 / (vocabulary + width) [Hrinchuk2020],
        shared evenly by the cores.

        vocabulary: the number of tokens.
        width: the length of a token's vector.
        out, in_: sizes whose products are at least vocabulary and width.
        rank: one integer for all bonds, or one for each.
        std: the standard deviation of an entry; None: as above.
        padding_idx: the token whose vector is zero; None: there is none.
        generator, dtype, device: as in `torch.randn`.

        >>> TTEmbedding.randn(25000, 256, (25, 30, 40), (4, 8, 8), 16)
        TTEmbedding(25000, 256, out=(25, 30, 40), in=(4, 8, 8), ranks=(16, 16),
                    stores 68160 of 6400000)
        """
        options: dict[str, Any] = dict(generator=generator, dtype=dtype, device=device)
        options |= dict(shape=(vocabulary, width))
        table = TTMatrix.randn(out=out, in_=in_, rank=rank, **options)
        std = math.sqrt(2 / (vocabulary + width)) if std is None else std
        share = std ** (1 / len(table.cores))
        return cls(
            table.with_tensors(core * share for core in table.cores), padding_idx=padding_idx
        )

    @classmethod
    def from_embedding(
        cls, layer: nn.Embedding, out, in_, rank=None, *, rtol: float | None = None
    ) -> "TTEmbedding":
        """The table of a dense layer by `tt_matrix_svd`, to a rank or a relative error; its
        padding_idx stays, and a frozen table stays frozen.

        layer: an `nn.Embedding`.
        out, in_: sizes whose products are at least the vocabulary and the width.
        rank: a cap, one integer or one for each bond; None: no cap.
        rtol: the relative Frobenius error that is allowed; None: only the cap counts.

        Raises TypeError for another layer, one with max_norm or scale_grad_by_freq, or one
        that overrides `forward`.

        >>> dense = nn.Embedding(20, 6, padding_idx=0)
        >>> layer = TTEmbedding.from_embedding(dense, (4, 5), (2, 3), rtol=1e-6)
        >>> torch.allclose(layer(torch.arange(20)), dense(torch.arange(20)), atol=1e-5)
        True
        """
        if not isinstance(layer, nn.Embedding):
            raise TypeError(f"TTEmbedding: needs an nn.Embedding, got {type(layer).__name__}")
        check_plain("TTEmbedding", layer)
        for name in ("max_norm", "scale_grad_by_freq"):
            if getattr(layer, name):
                raise TypeError(
                    f"TTEmbedding: needs an nn.Embedding without {name}, got one with {name}"
                )
        table = tt_matrix_svd(current(layer).detach(), out, in_, rank, rtol=rtol)
        return like(layer, cls(table, padding_idx=layer.padding_idx))

    @property
    def num_embeddings(self) -> int:
        return self._form.shape[0]

    @property
    def embedding_dim(self) -> int:
        return self._form.shape[1]

    def _fits(self, weight: TTMatrix) -> bool:
        """A token keeps its digits, so the sizes of the modes stay."""
        form = self._form
        return super()._fits(weight) and (weight.out, weight.in_) == (form.out, form.in_)

    def forward(self, ids: Tensor) -> Tensor:
        table = self.weight

        def rows(ids):
            with without_autocast(table.cores[0]):  # as a look-up in a table
                out = tt_rows(table, ids)
            pad = self.padding_idx
            return out if pad is None else out.masked_fill((ids == pad).unsqueeze(1), 0)

        return _look_up(rows, checked_ids("TTEmbedding", ids, table.shape[0]))

    def flops(self, batch: int) -> int:
        """Operations of so many tokens that share no prefix, two for each multiply-add: each core
        adds its columns to the state.

        >>> TTEmbedding(TTMatrix.randn(out=(4, 5), in_=(2, 3), rank=2)).flops(1)
        32
        """
        batch = count("TTEmbedding.flops", "batch", batch, 0)
        total, columns = 0, 1
        for core in self.weight.cores:
            r, _, m, q = core.shape
            total += 2 * batch * columns * r * m * q
            columns *= m
        return total

    def head(self, h: Tensor) -> Tensor:
        """The logits of a tied output layer, h Eᵀ: (..., width) -> (..., vocabulary), over the path
        of fewest operations.

        Through the cores from the left or from the right, or over the table where that is cheaper
        (`head_flops`).
        """
        if h.shape[-1:] != self._form.shape[1:]:
            raise ValueError(
                f"TTEmbedding.head: needs h of shape (..., {self._form.shape[1]}), got "
                f"{tuple(h.shape)}"
            )
        table = self.weight
        flops = head_flops(table, tokens(h))
        path, *_ = sorted(flops, key=lambda path: flops[path])
        if path == "table":
            y = h @ table.to_dense().t()
        else:
            y = table.apply(h) if path == "left" else _from_right(table, h)
        if self.padding_idx is not None:
            y = y.masked_fill(torch.arange(y.shape[-1], device=y.device) == self.padding_idx, 0)
        return y

    def extra_repr(self):
        w, padding = (
            self._form,
            "" if self.padding_idx is None else f", padding_idx={self.padding_idx}",
        )
        sizes = f"{w.shape[0]}, {w.shape[1]}{padding}, out={w.out}, in={w.in_}"
        return f"{sizes}, ranks={w.ranks}, stores {w.numel} of {math.prod(w.shape)}"

    def __repr__(self):
        return f"{type(self).__name__}({self.extra_repr()})"


def tt_rows(table: TTMatrix, ids: Tensor) -> Tensor:
    """Rows of a TT-matrix, each prefix of their digits computed once: (b,) sorted, without repeats
    -> (b, in).

    After core k there is one state (in_1 ... in_k, r) for each prefix v_1 ... v_k that occurs; it
    is made from the state of v_1 ... v_{k-1} and the slice G_k[v_k]. Nothing has more rows than b.
    Ids that cannot be read (under `torch.compile`, vmap, ...) have a state each, in any order.

    >>> table = TTMatrix.randn(out=(4, 5), in_=(2, 3), rank=2, dtype=torch.float64)
    >>> torch.allclose(tt_rows(table, torch.tensor([3, 17])), table.to_dense()[[3, 17]])
    True
    """
    below, shared = table.padded_shape[0], readable(ids)
    state, before = table.cores[0].new_ones(1, 1, 1), ids.new_zeros(1)
    for core in table.cores:
        r, n, m, q = core.shape
        below //= n
        prefix = ids // below
        if shared:
            prefix = torch.unique_consecutive(prefix)
            parent = torch.searchsorted(before, prefix // n)
            state, before = state.index_select(0, parent), before.index_select(0, parent)
        slices = core.transpose(0, 1).reshape(n, r, m * q).index_select(0, prefix - n * before)
        state = (state @ slices).reshape(-1, state.shape[1] * m, q)  # (prefixes, in_1 ... in_k, q)
        before = prefix
    return state.select(2, 0).narrow(1, 0, table.shape[1])


def head_flops(table: TTMatrix, batch: int) -> dict[str, int]:
    """Operations of `TTEmbedding.head` over each path, two for each multiply-add.

    >>> flops = head_flops(TTMatrix.randn(out=(25, 30, 40), in_=(4, 8, 8), rank=16), 1)
    >>> min(flops, key=flops.get), flops["table"] // flops["right"]
    ('right', 11)
    """
    batch = count("head_flops", "batch", batch, 0)
    right, build = 0, 0
    columns, rows, entries = table.padded_shape[1], 1, 1
    for core in reversed(table.cores):
        columns //= core.shape[2]
        right += 2 * batch * columns * rows * core.numel()
        rows *= core.shape[1]
    for core in table.cores:
        build += 2 * entries * core.numel() if entries > 1 else 0
        entries *= core.shape[1] * core.shape[2]
    return {
        "left": table.flops(batch),
        "right": right,
        "table": build + 2 * batch * math.prod(table.shape),
    }


def _from_right(table, h):
    """h Eᵀ, the last core first: (batch I, i q, O) -> (batch I, r o, O)."""
    (v, d), (rows, width) = table.shape, table.padded_shape
    t, done = pad(h, (0, width - d)), 1
    for core in reversed(table.cores):
        r, o, i, q = core.shape
        t = core.reshape(r, o, i, q).flatten(2).flatten(0, 1) @ t.reshape(-1, i * q, done)
        done *= o
    return t.reshape(*h.shape[:-1], rows)[..., :v]


# --------------------------------------------------------------------------- a train for each token


class TokenTrains(nn.Module):
    """ids (...,) -> (..., width): each token's vector is a separate train of shape (n_1, ...,
    n_d) [Xu2023].

        E[v, (i_1 ... i_d)] = G_1[v, i_1] ... G_d[v, i_d]

    cores: d tensors (vocabulary, r_k, n_k, r_{k+1}), the ranks those of the token with the largest;
    what a token does not need is zero. kept: (vocabulary, d-1), the ranks of each token. Not
    trained: tokens can be added one by one (`extended`).
    """

    if TYPE_CHECKING:  # TorchScript takes annotations of a class for interfaces
        cores: nn.ParameterList
        kept: Tensor

    def __init__(self, cores, kept: Tensor):
        super().__init__()
        self.cores = nn.ParameterList(nn.Parameter(core, requires_grad=False) for core in cores)
        self.register_buffer("kept", kept)

    @classmethod
    def from_dense(
        cls, table: Tensor, shape, rank=None, *, rtol: float | None = None
    ) -> "TokenTrains":
        """TT-SVD of all tokens at once: in each step a batch of small SVDs, cut token by token.

            |E[v] - result[v]| <= (rtol + 64 eps) |E[v]|      unless `rank` cuts the token earlier

        table: (vocabulary, width), shape: sizes with product width.

        >>> trains = TokenTrains.from_dense(torch.ones(5, 8), (2, 2, 2), rtol=1e-3)
        >>> trains.kept[0].tolist(), trains.numel, trains(torch.tensor([4])).shape
        ([1, 1], 30, torch.Size([1, 8]))
        """
        check_dense(table, "TokenTrains")
        shape = check_shape("TokenTrains", shape)
        if table.ndim != 2 or math.prod(shape) != table.shape[1]:
            raise ValueError(
                f"TokenTrains: needs a table (vocabulary, {math.prod(shape)}), got shape "
                f"{tuple(table.shape)}"
            )
        d, v = len(shape), len(table)
        caps = rank_caps("TokenTrains", rank, rtol, shape, d - 1)
        rest = widen(table.detach())
        share = max((rtol or 0.0) / math.sqrt(max(1, d - 1)), zero_level(table.dtype))
        allowed = (share * torch.linalg.vector_norm(rest, dim=1)).tolist()
        cores, kept, rest = [], [], rest[:, None, :]
        for n, cap in zip(shape, caps):
            r = rest.shape[1]
            u, s, vh = small_svd(rest.reshape(v, r * n, -1))
            kept.append(
                torch.tensor(
                    [choose_rank(row, cap, atol=atol) for row, atol in zip(s.cpu(), allowed)]
                )
            )
            q = int(kept[-1].max())
            keep = torch.arange(q) < kept[-1][:, None]  # (v, q)
            keep = keep.to(s)
            cores.append((u[:, :, :q] * keep[:, None]).reshape(v, r, n, q))
            rest = (s[:, :q] * keep)[:, :, None] * vh[:, :q]
        cores.append(rest[..., None])
        return cls(
            [core.to(table.dtype) for core in cores],
            torch.stack(kept, 1) if kept else torch.zeros(v, 0, dtype=torch.long),
        )

    def forward(self, ids: Tensor) -> Tensor:
        ids = checked_ids("TokenTrains", ids, len(self.kept))
        return _look_up(self._rows, ids)

    def _rows(self, ids: Tensor) -> Tensor:
        out = self.cores[0].index_select(0, ids).select(1, 0)  # (b, n_1, r_1)
        with without_autocast(self.cores[0]):  # as a look-up in a table
            for core in list(self.cores)[1:]:
                _, r, n, q = core.shape
                out = out @ core.index_select(0, ids).reshape(-1, r, n * q)
                out = out.reshape(-1, out.shape[1] * n, q)  # (b, n_1 ... n_k, r_k)
        return out.select(2, 0)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        """Adopt the ranks that are stored, before the cores themselves are loaded; the tokens and
        the sizes n_k are those of this layer."""
        stored = [state_dict.get(f"{prefix}cores.{k}") for k in range(len(self.cores))]
        sizes = lambda cores: [(len(core), core.shape[2]) for core in cores]
        if all(core is not None and core.ndim == 4 for core in stored):
            mine = list(self.cores)
            if sizes(stored) == sizes(mine) and reshaped(mine, stored):
                set_tensors(self, mine, [m.data.new_empty(c.shape) for m, c in zip(mine, stored)])
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extended(self, table: Tensor, rank=None, *, rtol: float | None = None) -> "TokenTrains":
        """These tokens and those of a table (more, width) after them; the trains of these stay as
        they are.

        >>> trains = TokenTrains.from_dense(torch.ones(5, 8), (2, 2, 2), rank=1)
        >>> len(trains.extended(torch.zeros(2, 8), rank=1).kept)
        7
        """
        new = type(self).from_dense(table, [core.shape[2] for core in self.cores], rank, rtol=rtol)
        cores = []
        for a, b in zip(self.cores, new.cores):
            r, q = max(a.shape[1], b.shape[1]), max(a.shape[3], b.shape[3])
            cores.append(
                torch.cat(
                    [pad(c, (0, q - c.shape[3], 0, 0, 0, r - c.shape[1])) for c in (a, b.to(a))]
                )
            )
        return type(self)(cores, torch.cat([self.kept, new.kept.to(self.kept)]))

    @property
    def num_embeddings(self) -> int:
        return len(self.kept)

    @property
    def embedding_dim(self) -> int:
        return math.prod(core.shape[2] for core in self.cores)

    def flops(self, batch: int) -> int:
        """Operations of so many tokens, two for each multiply-add, at the ranks that are padded."""
        batch = count(f"{type(self).__name__}.flops", "batch", batch, 0)
        total, columns = 0, self.cores[0].shape[2]
        for core in list(self.cores)[1:]:
            _, r, n, q = core.shape
            total += 2 * batch * columns * r * n * q
            columns *= n
        return total

    @property
    def numel(self) -> int:
        """Numbers needed, each token with its own ranks; `padded` are those that the cores here
        hold."""
        ends = self.kept.new_ones(len(self.kept), 1)
        r = torch.cat([ends, self.kept, ends], 1)
        return sum(
            int((r[:, k] * core.shape[2] * r[:, k + 1]).sum()) for k, core in enumerate(self.cores)
        )

    @property
    def padded(self) -> int:
        """Numbers held, with the zeros that make all tokens alike."""
        return sum(core.numel() for core in self.cores)

    def extra_repr(self):
        shape = tuple(core.shape[2] for core in self.cores)
        tokens, width = len(self.kept), math.prod(shape)
        return f"{tokens}, {width}, shape={shape}, stores {self.numel} of {tokens * width}"

    def __repr__(self):
        return f"{type(self).__name__}({self.extra_repr()})"


def _look_up(rows: Callable, ids: Tensor) -> Tensor:
    """rows(ids), (b,) -> (b, width), for ids of any shape; each is computed once where they can be
    read."""
    if readable(ids):
        own, place = torch.unique(ids, return_inverse=True)
        return rows(own)[place]
    found = rows(ids.flatten())
    return found.reshape(*ids.shape, found.shape[1])


def checked_ids(who, ids, vocabulary):
    """The ids, which are in range; those that cannot be read are made such that a look-up of one
    out of range fails."""
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"{who}: needs integer ids, got {ids.dtype}")
    if not readable(ids):
        return torch.where((ids >= 0) & (ids < vocabulary), ids, torch.iinfo(ids.dtype).max)
    if ids.numel():
        low, high = (int(i) for i in torch.aminmax(ids))
        if low < 0 or high >= vocabulary:
            raise ValueError(
                f"{who}: needs ids in 0..{vocabulary - 1}, got {low if low < 0 else high}"
            )
    return ids


def _padding(who, index, vocabulary):
    if index is None:
        return None
    return count(who, "padding_idx", index, -vocabulary, vocabulary - 1) % vocabulary
