"""Linear layers in parts: each rank holds a piece of a format, and what is sent between them is
as narrow as the format allows [Shoeybi2019].

A format multiplies in steps, one small tensor each. A split cuts the weight's rows ("column", as
Megatron calls it after its wᵀ) or columns ("row"), so only the tensors that carry that index:

    column   y_p = w_p x       x is whole, y in parts     a state's gradient is summed, backwards
    row      y = Σ_p w_p x_p   x in parts, y is whole     a state is summed, forwards

Which state is free: x or y themselves as for a dense weight, or any between two steps on the whole
side of the cut. For w = u vᴴ that state has r numbers a row where x has `in`:

    column   t = vᴴ x,  y_p = u_p t           row   t = Σ_p v_pᴴ x_p,  y = u t

so all that is sent is r / h of what a dense layer of width h sends. Tensors that are whole on each
rank but work on parts get their gradients summed.
"""

import torch
from torch import Tensor, nn
from torch import distributed as dist

from ..formats.base import MatrixFormat
from ..formats.blocktt import BlockTT
from ..formats.lowrank import LowRank
from ..formats.ttmatrix import TTMatrix
from ..layers.holding import Holding, copied
from ..layers.linear import FactorizedLinear
from ..layers.select import Kind, choose, put
from .schedules import check_divides

SPLITS = ("column", "row")
FACTORIZED = Kind("factorized linear layer", lambda layer: isinstance(layer, FactorizedLinear))

# ------------------------------------------------------------- sums over ranks, and their gradients


class _Summed(torch.autograd.Function):
    """Σ_p t_p in the forward, the gradient as it is in the backward."""

    @staticmethod
    def forward(ctx, t, group):
        t = t.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(t, group=group)
        return t

    @staticmethod
    def backward(ctx, g):
        return g, None


class _Shared(torch.autograd.Function):
    """t itself, and the sum over the ranks of its gradients in the backward."""

    @staticmethod
    def forward(ctx, t, group):
        ctx.group = group
        return t.view_as(t)

    @staticmethod
    def backward(ctx, g):
        return _Summed.apply(g, ctx.group), None


class _Dealt(torch.autograd.Function):
    """From parts along mode `first` to parts along mode `second`, an all-to-all: (.., a / p, .., b)
    to (.., a, .., b / p); in the backward the other way round."""

    @staticmethod
    def forward(ctx, t, first, second, group):
        ctx.modes = first, second, group
        parts = torch.stack(t.chunk(dist.get_world_size(group), second))
        out = torch.empty_like(parts)
        dist.all_to_all_single(out, parts, group=group)
        return torch.cat(tuple(out), first)

    @staticmethod
    def backward(ctx, g):
        first, second, group = ctx.modes
        return _Dealt.apply(g, second, first, group), None, None, None


# --------------------------------------------------------------------------- the steps of a product


def steps(weight: MatrixFormat, split: str) -> list[int]:
    """In which order the tensors of a format act on x, as their places in `tensors()`, so that the
    one that is cut for this split is the last ("column") or the first ("row").

    >>> low, train = LowRank.randn((6, 4), 2), TTMatrix.randn((8, 8), 2, cores=3)
    >>> steps(low, "column"), steps(train, "column")
    ([1, 0], [2, 1, 0])
    """
    if split not in SPLITS:
        raise ValueError(f"steps: needs a split of {', '.join(SPLITS)}, got {split!r}")
    if isinstance(weight, LowRank):
        return [1, 2, 0][:: 1 if weight.s is not None else 2]
    if not isinstance(weight, (TTMatrix, BlockTT)):
        raise TypeError(
            f"steps: needs a LowRank, TTMatrix, BlockTT or Monarch, got {type(weight).__name__}"
        )
    if weight.unpadded_shape is not None:
        raise ValueError(
            f"steps: needs a weight without padding, got {weight} of {weight.padded_shape}"
        )
    order = list(range(len(weight.cores)))
    return order if split == "row" and isinstance(weight, TTMatrix) else order[::-1]


def cuts(weight: MatrixFormat, split: str) -> dict[int, int]:
    """The tensors that carry the index of this split, with its mode: rows or columns of w, of
    several modes the first.

    >>> cuts(LowRank.randn((6, 4), 2), "row"), cuts(TTMatrix.randn((8, 8), 2), "row")
    ({1: 0}, {0: 2})
    """
    steps(weight, split)
    if isinstance(weight, LowRank):
        return {0: 0} if split == "column" else {1: 0}
    if isinstance(weight, TTMatrix):
        return {0: 1} if split == "column" else {0: 2}
    if split == "column":
        return {0: 3}
    return {0: 4} | dict.fromkeys(
        range(1, len(weight.cores)), 0
    )  # in_0 numbers blocks of the others


def step(weight: MatrixFormat, k: int, tensor: Tensor, state: Tensor, split: str) -> Tensor:
    """One step of the product: a state (batch, ...) times the k-th tensor of the format.

    weight: the format, a LowRank, TTMatrix, Monarch or BlockTT.
    k: which of its tensors.
    tensor: that tensor, whole or a part of it.
    state: what the steps before have made of x.
    split: "row" or "column", the side of the matrix that is shared among ranks.
    """
    if isinstance(weight, LowRank):
        return state @ (tensor.conj() if k == 1 else tensor.mT)
    *blocks, r, _, i, q = tensor.shape
    if isinstance(weight, TTMatrix) and split == "row":  # from the left, (batch O, r, i, I)
        state = state.reshape(len(state), -1, r, i, *_columns_after(weight, k))
        return torch.einsum("borij,rpiq->bopqj", state, tensor).flatten(1)
    done = blocks[1:] or [-1]  # from the right, (batch, I, i, q, O)
    state = state.reshape(len(state), *(blocks[:1] or _columns_before(weight, k)), i, q, *done)
    formula = "bhiqo,horpiq->bhrpo" if blocks else "bhiqo,rpiq->bhrpo"
    return torch.einsum(formula, state, tensor).flatten(1)


def _columns_after(weight, k) -> tuple[int]:
    return (torch.Size(weight.in_[k + 1 :]).numel(),)


def _columns_before(weight, k) -> tuple[int]:
    return (torch.Size(weight.in_[:k]).numel(),)


def widths(weight: MatrixFormat, split: str) -> dict[int, int]:
    """How many numbers a row has that are summed, by where: before step k of the product; the
    number of steps means after the last.

    >>> widths(LowRank.randn((64, 32), 4), "column"), widths(LowRank.randn((64, 32), 4), "row")
    ({0: 32, 1: 4}, {1: 4, 2: 64})
    """
    order, cut = steps(weight, split), cuts(weight, split)
    form = weight.to("meta")
    state, sizes = torch.empty(1, weight.shape[1], device="meta", dtype=weight.dtype), []
    for k in order:
        sizes.append(state.numel())
        state = step(form, k, form.tensors()[k], state, split)
    sizes.append(state.numel())
    places = [n for n, k in enumerate(order) if k in cut]
    free = range(places[0] + 1) if split == "column" else range(places[-1] + 1, len(sizes))
    return {n: sizes[n] for n in free}


# ---------------------------------------------------------------------------------------- the layer


class ShardedLinear(Holding):
    """A rank's part of a `FactorizedLinear`; all ranks make theirs of the same layer.

    split: "column", (..., in) -> (..., out / p), or "row", (..., in / p) -> (..., out). at: where
    states are summed, a key of `widths`; None: where they are narrowest. The parts of a train are
    those of its first mode, so out_0 or in_0 has to divide. Raises ValueError where it does not, or
    there is no such place, TypeError for a format without such a plan.
    """

    def __init__(self, layer: FactorizedLinear, split: str, *, at: int | None = None, group=None):
        check_split("ShardedLinear", layer.weight, split, dist.get_world_size(group))
        weight, free = layer.weight, widths(layer.weight, split)
        if at is not None and at not in free:
            raise ValueError(f"ShardedLinear: needs a place of {list(free)}, got {at}")
        self.cut = cuts(weight, split)
        super().__init__(part(weight, split, group))
        self.split, self.group, self.free = split, group, free
        nearest = sorted(free, reverse=split == "column")  # to the cut: fewer gradients to sum
        self.at = min(nearest, key=free.get) if at is None else at
        bias = layer.bias
        if bias is not None and split == "column":
            bias = _mine(bias, 0, group)
        self.bias = None if bias is None else nn.Parameter(copied(bias))
        for mine, whole in zip(self.parameters(), layer.parameters()):
            mine.requires_grad_(whole.requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        w, state = self.weight, x.reshape(-1, x.shape[-1])
        tensors, column = w.tensors(), self.split == "column"
        for n, k in enumerate(steps(w, self.split)):
            if n == self.at:
                state = self._meet(state)
            partial = (n >= self.at) == column  # this step works on parts
            whole = partial and k not in self.cut
            t = _Shared.apply(tensors[k], self.group) if whole else tensors[k]
            state = step(w, k, t, state, self.split)
        if n + 1 == self.at:
            state = self._meet(state)
        y = state.reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias

    def _meet(self, state):
        return (_Shared if self.split == "column" else _Summed).apply(state, self.group)

    def gathered(self) -> MatrixFormat:
        """The whole weight again, without gradients; all ranks call it."""
        tensors = [t.detach() for t in self.weight.tensors()]
        for k, mode in self.cut.items():
            parts = [torch.empty_like(tensors[k]) for _ in range(dist.get_world_size(self.group))]
            dist.all_gather(parts, tensors[k], group=self.group)
            tensors[k] = torch.cat(parts, mode)
        return self.weight.with_tensors(tensors)

    def extra_repr(self):
        return f"{self.split}, {self._form}, sums {self.free[self.at]} numbers a row"


class DealtLinear(nn.Module):
    """A rank's part of a `FactorizedLinear` on a BlockTT or Monarch of two cores, cut along the
    numbers of its blocks: no tensor is whole anywhere, and nothing is summed.

        w[(a, b), (c, d)] = Σ_s L[b, a, c, s] R[c, s, b, d]        R is cut along c, L along b

    (..., in / p) -> (..., out / p): columns c, d with a part of c go in, rows a, b with a part of b
    come out, in this order. Between the cores each rank deals its states to all others. Raises
    ValueError where p does not divide c and b, TypeError for another format.
    """

    def __init__(self, layer: FactorizedLinear, *, group=None):
        weight, world = layer.weight, dist.get_world_size(group)
        if (
            not isinstance(weight, BlockTT)
            or len(weight.cores) != 2
            or weight.unpadded_shape is not None
        ):
            raise TypeError(
                f"DealtLinear: needs a BlockTT or Monarch of two cores without padding, got "
                f"{weight}"
            )
        for blocks in (weight.in_[0], weight.out[1]):
            check_divides("DealtLinear", "ranks", world, "blocks", blocks)
        super().__init__()
        left, right = (_mine(c, m, group) for c, m in zip(weight.cores, (1, 0)))
        self.left, self.right = nn.Parameter(copied(left)), nn.Parameter(copied(right))
        self.group, self.bias = group, None
        if layer.bias is not None:
            rows = layer.bias.reshape(weight.out)
            self.bias = nn.Parameter(copied(_mine(rows, 1, group).flatten()))

    def forward(self, x: Tensor) -> Tensor:
        c, _, r, b, d, _ = (
            self.right.shape
        )  # (c / p, 1, s, b, d, 1) as core 1, its rank on the left
        t = torch.einsum("ncd,csbd->ncsb", x.reshape(-1, c, d), self.right.reshape(c, r, b, d))
        t = _Dealt.apply(t, 1, 3, self.group)  # (n, c, s, b / p)
        y = torch.einsum("ncsb,bacs->nab", t, self.left[0, :, 0])
        y = y.reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


def shard(model: nn.Module, plan: dict[str, str], *, group=None) -> nn.Module:
    """Replace factorized layers by this rank's parts of them; changes the model and returns it.

    plan: from a pattern of names to "column" or "row". All ranks call it on the same model. Raises
    ValueError for another split, modes that do not divide, and patterns that no layer matches.
    """
    made = {}
    for names, split in plan.items():
        for layer in choose("shard", model, names, FACTORIZED).values():
            made[layer] = ShardedLinear(layer, split, group=group).train(layer.training)
    put(model, made)
    return model


def check_split(who: str, weight: MatrixFormat, split: str, ranks: int) -> None:
    """Raises ValueError where a weight has no parts for so many ranks; it needs no processes.

    >>> check_split("plan", TTMatrix.randn(out=(6, 4), in_=(4, 4), rank=2), "column", 4)
    Traceback (most recent call last):
    ValueError: plan: needs a number of ranks that divides 6 rows of core 0 (1, 2, 3, 6), got 4
    """
    noun = "rows" if split == "column" else "columns"
    for k, mode in cuts(weight, split).items():
        size = weight.tensors()[k].shape[mode]
        if isinstance(weight, LowRank):
            check_divides(who, "ranks", ranks, noun, size)
        elif k == 0:
            check_divides(who, "ranks", ranks, f"{noun} of core 0", size)


def part(weight: MatrixFormat, split: str, group=None) -> MatrixFormat:
    """This rank's part of a format, which is a format of the same kind: w's rows or columns."""
    cut = cuts(weight, split)
    tensors = enumerate(weight.tensors())
    return weight.with_tensors(_mine(t, cut[k], group) if k in cut else t for k, t in tensors)


def _mine(t: Tensor, mode: int, group) -> Tensor:
    return t.detach().chunk(dist.get_world_size(group), mode)[dist.get_rank(group)]
