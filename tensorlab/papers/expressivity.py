"""How wide a network must be to be another: ranks of matricizations of random trains, CP and trees
[Khrulkov2018].

The scores of a recurrent, a shallow and a deep network with products are <W, f(x_0) o ... o
f(x_{d-1})>, W a TT, a CP or an HT on the balanced tree [Cohen2016]. A CP of rank R has no
matricization of a rank above R, so any of them bounds it from below; with the odd modes as rows and
the even ones as columns, almost every train of ranks r has rank q^(d/2) or more, q = min(n, r).
"""

import math

import torch
from torch import Tensor

from ..formats.base import Format
from ..formats.cp import CP
from ..formats.htucker import HT
from ..formats.tt import TT
from ..linalg import singular_values
from .program import Program, beside_printed
from .table import Table

RTOL = 1e-13  # singular values below this share of the largest count as zero
PRIME = 2**30 - 35
FORMATS = {"TT": TT, "CP": CP, "HT": HT}
SIZES = {
    "quick": {"depths": (4, 6, 8), "most": 10_000},
    "full": {"depths": (4, 6, 8, 10, 12), "most": 1_000_000},
}


BOUND = "CP from TT, bound"


def cases(size: dict) -> list[dict]:
    """What, modes n, ranks r, depth d."""
    bounds = [
        (n, r, d) for n, r in ((2, 2), (3, 2), (2, 3), (3, 3), (4, 2)) for d in size["depths"]
    ]
    shapes = [(2, 2, 4), (3, 3, 4), (2, 2, 8), (3, 3, 8), (2, 2, 16)]
    pairs = [f"{to} from {source}" for to in FORMATS for source in FORMATS if to != source]
    rows = [(BOUND, *shape) for shape in bounds]
    rows += [(what, *shape) for what in pairs for shape in shapes]
    return [dict(what=what, n=n, r=r, d=d) for what, n, r, d in rows if n**d <= size["most"]]


def measure(size: dict, what: str, n: int, r: int, d: int) -> dict:
    """Rows "bound": the rank in exact arithmetic and the bound.

    Rows "X from Y": the width that a network X needs to be a random Y of width r, from its ranks;
    for CP it is a lower bound.
    """
    if what == BOUND:
        return {"width": exact_rank(n, r, d), "theory": min(n, r) ** (d // 2)}
    to, source = what.split(" from ")
    return {"width": width(to, network(source, n, r, d)), "theory": theory(to, source, r, d)}


def settings(size: dict) -> dict:
    return {"seed": 0, "rtol": RTOL}


def network(name: str, n: int, r: int, d: int, seed: int = 0) -> Format:
    """A random "TT", "CP" or "HT" on the balanced tree, d modes of size n, ranks at most r.

    >>> network("TT", 2, 2, 4).shape
    (2, 2, 2, 2)
    """
    return FORMATS[name].randn(
        (n,) * d, r, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def matricization(x: Tensor, rows) -> Tensor:
    """The matrix of a tensor with these modes as rows and the others as columns, both in their
    order."""
    rows = list(rows)
    columns = [k for k in range(x.ndim) if k not in rows]
    return x.permute(*rows, *columns).reshape(math.prod(x.shape[k] for k in rows), -1)


def matricization_rank(x: Tensor, rows, rtol: float = RTOL) -> int:
    """How many singular values of a matricization exceed rtol times the largest, or what rounding
    leaves.

    >>> matricization_rank(torch.ones(2, 2, 2, 2), (0, 2))
    1
    """
    s = singular_values(matricization(x, rows))
    return int((s > max(rtol, len(s) * torch.finfo(s.dtype).eps) * s[0]).sum())


def exact_rank(n: int, r: int, d: int, seed: int = 0, p: int = PRIME) -> int:
    """The rank of the odd-even matricization of a random train of integers, modulo a prime: no
    rounding, no tolerance.

    The rank over the rationals is this or more, so it proves a lower bound for the width of a CP.

    >>> exact_rank(2, 2, 6)
    8
    """
    g = torch.Generator().manual_seed(seed)
    x = torch.ones(1, 1, dtype=torch.int64)
    for k in range(d):
        core = torch.randint(p, (x.shape[1], n, r if k < d - 1 else 1), generator=g)
        x = (
            sum(x[:, a, None, None] * core[a] % p for a in range(len(core))).reshape(
                -1, core.shape[2]
            )
            % p
        )
    return rank_modulo(matricization(x.reshape((n,) * d), range(0, d, 2)), p)


def rank_modulo(a: Tensor, p: int = PRIME) -> int:
    """The rank of an integer matrix modulo a prime below 2^31, by elimination.

    >>> rank_modulo(torch.tensor([[1, 2], [2, 4]])), rank_modulo(torch.tensor([[1, 2], [2, 5]]))
    (1, 2)
    """
    a, rank = a % p, 0
    for column in range(a.shape[1]):
        places = a[rank:, column].nonzero()
        if len(places) == 0:
            continue
        row = rank + int(places[0])
        a[[rank, row]] = a[[row, rank]]
        a[rank] = a[rank] * pow(int(a[rank, column]), -1, p) % p
        a[rank + 1 :] = (a[rank + 1 :] - a[rank + 1 :, column, None] * a[rank] % p) % p
        rank += 1
        if rank == len(a):
            break
    return rank


def width(to: str, network: Format) -> int:
    """The largest rank that the format `to` needs for this tensor: exact for TT and HT, for CP a
    lower bound."""
    x = network.to_dense()
    d = x.ndim
    if to == "TT":
        cuts = [range(k) for k in range(1, d)]
    elif to == "HT":
        cuts = [node for node in HT.randn(x.shape, 1).nodes if len(node) < d]
    else:
        cuts = [range(0, d, 2), range(d // 2), *(range(k) for k in range(1, d))]
        cuts += [
            [k for k in range(d) if k // 2 % 2],
            [k for k in range(d) if bin(k).count("1") % 2],
        ]
    return max(matricization_rank(x, rows) for rows in cuts)


def theory(to: str, source: str, r: int, d: int) -> str:
    """The table of the paper: the width that is enough ("<="), or what almost all need at least
    (">=")."""
    if source == "CP":
        return f"<= {r}"
    if to == "CP":
        return f">= {r}^(d/2) = {r ** (d // 2)}, or what n allows"
    return (
        f"<= {r}^2 = {r * r}"
        if to == "HT"
        else f"<= {r}^(log2(d)/2) = {r ** (math.log2(d) / 2):.3g}, the exponent rounded up"
    )


def growth(name: str, n: int, widths, depths) -> list[tuple[int, int]]:
    """(depth, rank of the odd-even matricization) where one width is given, (width, rank) where one
    depth is."""
    widths, depths = list(widths), list(depths)
    ranks = [
        matricization_rank(network(name, n, r, d).to_dense(), range(0, d, 2))
        for r in widths
        for d in depths
    ]
    return list(zip(depths if len(widths) == 1 else widths, ranks))


def draw(table: Table, ax) -> str:
    """Measured ranks against the bound q^(d/2); a sentence."""
    rows = [row for row in table.rows if row["what"] == BOUND and row.get("width") is not None]
    for n, r in sorted({(row["n"], row["r"]) for row in rows}):
        points = sorted(
            (row["d"], row["width"], row["theory"])
            for row in rows
            if (row["n"], row["r"]) == (n, r)
        )
        (line,) = ax.semilogy(
            [d for d, _, _ in points], [w for _, w, _ in points], "o-", label=f"n {n}, r {r}"
        )
        ax.semilogy(
            [d for d, _, _ in points], [t for _, _, t in points], ":", color=line.get_color()
        )
    ax.set(xlabel="depth d", ylabel="rank, odd by even modes")
    ax.legend()
    held = sum(row["width"] >= row["theory"] for row in rows)
    return f"The bound q^(d/2) (dotted) holds in {held} of {len(rows)} cases."


PROGRAM = Program(
    "Khrulkov2018", __doc__, SIZES, cases, measure, settings, draw, finish=beside_printed
)
