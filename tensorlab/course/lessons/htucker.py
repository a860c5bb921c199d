"""Lesson 05: hierarchical Tucker."""

import torch
from matplotlib.figure import Figure

from ... import plots
from ...formats.htucker import HT, balanced_tree, ht_svd, linear_tree
from ...formats.tt import TT
from ..checks import Check, Unusable, call, gaussian, number
from ..widgets import Explorer, choice, integer

TREES = {"balanced": balanced_tree, "linear": linear_tree}
ORDERS = {
    "in order": (0, 1, 2, 3, 4, 5, 6, 7),
    "even, then odd": (0, 2, 4, 6, 1, 3, 5, 7),
    "outside in": (0, 7, 1, 6, 2, 5, 3, 4),
}


def functions(name: str, d: int = 8, n: int = 4) -> torch.Tensor:
    """A function of d variables on n points of [0, 1) each, as a tensor; d is a power of two for
    nested pairs.

    >>> functions("nested pairs", 4, 3).shape
    torch.Size([3, 3, 3, 3])
    """
    g = torch.Generator().manual_seed(0)
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) / n] * d, indexing="ij")
    if name == "nested pairs":  # g(g(g(x0, x1), g(x2, x3)), ...)
        while len(axes) > 1:
            axes = [(1 + (a - 2 * b).square()).sqrt() for a, b in zip(axes[::2], axes[1::2])]
        return axes[0]
    if name == "chain of neighbours":
        return (-4 * sum((a - b).square() for a, b in zip(axes, axes[1:]))).exp()
    if name == "1 / (1 + sum)":
        return 1 / (1 + sum(axes))
    if name == "random tree of rank 3":
        return HT.randn((n,) * d, 3, generator=g, dtype=torch.float64).to_dense()
    if name == "random train of rank 3":
        return TT.randn((n,) * d, 3, generator=g, dtype=torch.float64).to_dense()
    raise ValueError(f"functions: needs a known name, got {name}")


class TreeExplorer(Explorer):
    """A tree of eight modes with singular values on its nodes: what the tree, the order of its
    leaves and `rtol` do."""

    figsize = (9, 5.4)
    names = (
        "nested pairs",
        "chain of neighbours",
        "1 / (1 + sum)",
        "random tree of rank 3",
        "random train of rank 3",
    )

    def __init__(self, digits: int = 4):
        super().__init__(
            digits=integer(digits, 0, 14, label="rtol = 10^-digits"),
            function=choice(self.names[0], self.names),
            tree=choice("balanced", tuple(TREES)),
            leaves=choice("in order", tuple(ORDERS)),
        )

    def draw(self, figure: Figure, digits: int, function: str, tree: str, leaves: str) -> str:
        x, rtol = functions(function), 10.0**-digits
        whole = ht_svd(x, rtol=0.0, tree=TREES[tree](ORDERS[leaves]))
        ht = ht_svd(x, rtol=rtol, tree=whole.tree)
        seen = plots.tree(figure.subplots(), ht, whole.singular_values())
        error = float((ht.to_dense() - x).norm() / x.norm())
        return f"{seen} Asked for a relative error of {rtol:.0e}, it has {error:.1e}."


def _storage(d, n, r, root=None):
    return d * n * r + (r * r if root is None else root) + (d - 2) * r**3


def _tree_storage(tree=((0, 3), (1, 2))):
    """Numbers in the HT of x[a, b, c, d] = f[a, d] g[b, c] on this tree."""
    f, g = gaussian((4, 4), (4, 4))
    return ht_svd(torch.einsum("ad,bc->abcd", f, g), rtol=1e-10, tree=tree).numel


def _trees(modes):
    """Every tree of these modes, up to the exchange of left and right."""
    if len(modes) == 1:
        return [modes[0]]
    splits = range(1, 2 ** (len(modes) - 1))  # the part without the last mode
    parts = [
        [[m for k, m in enumerate(modes) if (split >> k & 1) == side] for side in (1, 0)]
        for split in splits
    ]
    return [(a, b) for left, right in parts for a in _trees(left) for b in _trees(right)]


def _read_tree(answer, *_):
    try:
        return number(_tree_storage(answer))
    except ValueError as error:
        raise Unusable(
            f"a tree of the modes 0, 1, 2, 3 is needed, such as ((0, 1), (2, 3)): {error}"
        ) from error


def _node(rows):
    return lambda left, right, core: torch.einsum(rows, left, right, core)


ht_storage = Check(
    question="An HT of the shape (10, 10, 10, 10) on the tree ((0, 1), (2, 3)) has rank 4 at every "
    "node but the root.  How many "
    "numbers does it store?",
    cases=lambda: [(4, 10, 4)],
    right=lambda d, n, r: HT.randn((n,) * d, r).numel,
    mistakes=(
        (lambda d, n, r: 2 * n * r + (d - 2) * n * r * r, "that is a tensor train of these ranks."),
        (
            lambda d, n, r: d * n * r + r**d,
            "that is a Tucker tensor: its one core has a mode for each leaf.",
        ),
        (lambda d, n, r: _storage(d, n, r, r**3), "the root has no parent: its rank is 1."),
        (lambda d, n, r: _storage(d, n, r, 0), "the root has a core too, of rank 1."),
        (
            lambda d, n, r: d * n * r,
            "those are the factors at the leaves; each inner node has a core besides.",
        ),
        (
            lambda d, n, r: _storage(d, n, r) - d * n * r,
            "those are the cores of the inner nodes; the leaves have factors besides.",
        ),
        (lambda d, n, r: n**d, "those are the entries of the full tensor."),
    ),
    hint="write (n, r) at each leaf and (r_left, r_right, r) at each inner node, with r = 1 at the "
    "root, and add.",
    moral="n stands beside r, not beside its square as in a train: d n r + d r^3 numbers.",
)

node_basis = Check(
    question="Write `node_basis(left, right, core)`: the basis of a node from those of its "
    "children.  left: (m, a), right: (n, b), "
    "core: (a, b, r); the result: (m n, r), row i n + j belongs to row i on the left and row j on "
    "the right.",
    function=True,
    read=lambda answer, *case: call(answer, *case),
    cases=lambda: [
        gaussian((3, 2), (3, 2), (2, 2, 3)),
        gaussian((4, 3), (5, 2), (3, 2, 4)),
        gaussian((2, 1), (3, 3), (1, 3, 1)),
    ],
    right=lambda *case: _node("ma,nb,abr->mnr")(*case).flatten(0, 1),
    mistakes=(
        (
            lambda *case: _node("ma,nb,abr->nmr")(*case).flatten(0, 1),
            "the row on the right runs faster than that on the left.",
        ),
        (
            lambda *case: _node("ma,nb,abr->mnr")(*case),
            "the rows of the two children become one mode: (m n, r).",
        ),
        (
            lambda left, right, core: (
                _node("ma,nb,bar->mnr")(left, right, core).flatten(0, 1)
                if len(core) == core.shape[1]
                else None
            ),
            "the first mode of the core belongs to the left child.",
        ),
        (
            lambda left, right, core: (
                _node("ma,na,aar->mnr")(left, right, core).flatten(0, 1)
                if len(core) == core.shape[1]
                else None
            ),
            "the core joins each column on the left with each on the right, not only the equal "
            "ones.",
        ),
        (
            lambda left, right, core: torch.kron(left, right),
            "these are products of columns; the core still has to combine them.",
        ),
    ),
    hint="contract the core with left over its first mode and with right over its second, then "
    "reshape.",
    moral="The whole tensor is this step, repeated up to the root; every algorithm on the tree is "
    "too.",
)

best_tree = Check(
    question="The tensor x[a, b, c, d] = f[a, d] g[b, c] has generic f and g of shape (4, 4).  "
    "Give the tree of the modes "
    "0, 1, 2, 3 on which `ht_svd(x, rtol=1e-10, tree=...)` stores the fewest numbers, such as ((0, "
    "1), (2, 3)).",
    read=_read_tree,
    right=lambda: min(map(_tree_storage, _trees([0, 1, 2, 3]))),
    mistakes=(),
    hint="another tree stores less.  Where modes that depend on each other meet, nothing has to "
    "pass further up.",
    moral="What belongs together should meet first: then rank 1 goes up to the root.",
    rtol=1e-9,
)
