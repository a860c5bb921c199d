"""Tensor parallel layers: collectives of a transformer block counted in two processes, and what low
rank sends instead [Shoeybi2019].

One row for each part and plan: all-reduces in the forward and in the backward, all other
collectives, the bytes of both, and the largest difference of the output and the input's gradient to
one process, relative. MLP and attention are dense, in float64, cut by DTensor: up, q, k and v by
columns, down and o by rows. `q, k, v each`: the plan that comes to mind, whose backward sums the
gradient of the input three times; `input shared once` says so where it is used. `rows twice` cuts
both layers of the MLP by rows: nothing fails, only more is sent. Low-rank, TT, BlockTT and Monarch
pairs are cut by `parallel.sharding` and summed where they are narrowest.
"""

import functools

import torch
from torch import Tensor, nn
from torch import distributed as dist

from ..formats.blocktt import BlockTT
from ..formats.lowrank import LowRank
from ..formats.monarch import Monarch
from ..formats.ttmatrix import TTMatrix
from ..layers.linear import FactorizedLinear, redraw
from ..parallel.distributed import Collectives, Ranks
from ..parallel.schedules import check_divides
from ..parallel.sharding import shard
from .program import Program, beside_printed

SIZES = {
    "quick": {"batch": 2, "tokens": 8, "width": 16, "heads": 4, "rank": 2, "ranks": 2},
    "full": {"batch": 8, "tokens": 16, "width": 64, "heads": 4, "rank": 4, "ranks": 2},
}
F64 = torch.float64
ONCE, EACH, TWICE = "column and row, input shared once", "q, k, v each", "rows twice"
PLANS = {
    "MLP": ("column and row", TWICE),
    "attention": (EACH, ONCE),
    "block": (EACH, ONCE),
    "low-rank MLP": ("column and row",),
    "TT MLP": ("column and row",),
    "BlockTT MLP": ("column and row",),
    "Monarch MLP": ("column and row",),
}
FORMATS = {
    "low-rank MLP": lambda shape, rank, g: LowRank.randn(shape, rank, generator=g, dtype=F64),
    "TT MLP": lambda shape, rank, g: TTMatrix.randn(shape, rank, generator=g, dtype=F64),
    "BlockTT MLP": lambda shape, rank, g: BlockTT.randn(shape, 1, generator=g, dtype=F64),
    "Monarch MLP": lambda shape, rank, g: Monarch.randn(shape, generator=g, dtype=F64),
}


class Attention(nn.Module):
    """softmax(q kᵀ / √d) v with heads, then o; the heads of this rank where q, k and v are cut."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.d = width // heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        apart = lambda t: t.reshape(*t.shape[:2], -1, self.d).transpose(1, 2)
        q, k, v = (apart(layer(x)) for layer in (self.q, self.k, self.v))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).flatten(2))


class ResidualBlock(nn.Module):
    """x + attention(x), then y + MLP(y)."""

    def __init__(self, attention: nn.Module, mlp: nn.Module):
        super().__init__()
        self.attention, self.mlp = attention, mlp

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.attention(x)
        return y + self.mlp(y)


def model_of(what: str, size: dict) -> nn.Module:
    """A part of a transformer, the same on all ranks."""
    g, h = torch.Generator().manual_seed(0), size["width"]
    if what in FORMATS:
        make = lambda: FORMATS[what]((h, h), size["rank"], g).initial()
        zeros = lambda: torch.zeros(h, dtype=F64)
        pair = (FactorizedLinear(make(), zeros()) for _ in range(2))
        return nn.Sequential(next(pair), nn.GELU(), next(pair))
    mlp = nn.Sequential(nn.Linear(h, 4 * h), nn.GELU(), nn.Linear(4 * h, h))
    attention = Attention(h, size["heads"])
    parts = {"MLP": mlp, "attention": attention, "block": ResidualBlock(attention, mlp)}
    return redraw(parts[what].double(), g)


def split_model(model: nn.Module, what: str, plan: str) -> nn.Module:
    """Cut a model for the ranks of this group, as a plan says."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor import parallel as tp

    if what in FORMATS:
        return shard(model, {"0": "column", "2": "row"})
    column, row = tp.ColwiseParallel, tp.RowwiseParallel
    once = lambda: tp.PrepareModuleInput(
        input_layouts=Replicate(), desired_input_layouts=Replicate()
    )
    mlp = {"0": column(), "2": row()}
    if plan == TWICE:
        mlp = {
            "0": row(input_layouts=Replicate()),
            "2": row(input_layouts=Replicate()),
        }
    attention = {"q": column(), "k": column(), "v": column(), "o": row()}
    attention |= {"": once()} if plan == ONCE else {}
    under = lambda name, layers: {
        f"{name}.{key}".rstrip("."): style for key, style in layers.items()
    }
    layers = {"MLP": mlp, "attention": attention}.get(what)
    layers = layers or under("attention", attention) | under("mlp", mlp)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return tp.parallelize_module(model, mesh, layers)


def passes(model: nn.Module, x: Tensor):
    """The output and the input's gradient, and what each pass sent."""
    x = x.clone().requires_grad_()
    with Collectives() as forward:
        y = model(x).sin()
    with Collectives() as backward:
        y.square().sum().backward()
    return y.detach(), x.grad, forward.seen, backward.seen


def counted(size: dict, what: str, plan: str) -> dict:
    """A row, as each rank counts it."""
    shape = size["batch"], size["tokens"], size["width"]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=F64)
    y, dx, *_ = passes(model_of(what, size), x)
    got_y, got_dx, *sent = passes(split_model(model_of(what, size), what, plan), x)
    sums = [sum(name == "all_reduce" for name, _ in seen) for seen in sent]
    off = max((got_y - y).norm() / y.norm(), (got_dx - dx).norm() / dx.norm())
    return {
        "forward": sums[0],
        "backward": sums[1],
        "others": sum(map(len, sent)) - sum(sums),
        **{f"{way} bytes": sum(n for _, n in seen) for way, seen in zip(("there", "back"), sent)},
        "difference": float(f"{float(off):.0e}"),
    }


def cases(size: dict) -> list[dict]:
    check_divides("Shoeybi2019", "ranks", size["ranks"], "heads", size["heads"])
    return [{"what": what, "plan": plan} for what, plans in PLANS.items() for plan in plans]


def measure(size: dict, what: str, plan: str, ranks: Ranks | None = None) -> dict:
    """A row; ranks: processes that are there already."""
    return (ranks or processes(size["ranks"])).run(counted, size, what, plan)[0]


@functools.cache
def processes(world: int) -> Ranks:
    """The processes of all rows; they leave with the program that asked for them."""
    return Ranks(world, timeout=300)


def settings(size: dict) -> dict:
    return dict(size)


PROGRAM = Program(
    "Shoeybi2019", __doc__, SIZES, cases, measure, settings=settings, finish=beside_printed
)
