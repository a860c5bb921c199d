"""Lesson 05: hierarchical Tucker."""

import functools

import torch
from matplotlib.figure import Figure

from ... import plots
from ...formats.htucker import HT, balanced_tree, ht_svd, linear_tree
from ...formats.lowrank import LowRank
from ...formats.tt import TT, tt_svd
from ...formats.tucker import hosvd
from ..checks import Check, Unusable, call, gaussian, number, returned, tensors
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
    if name == "chain of neighbors":
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
        "chain of neighbors",
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


@functools.cache
def stored_by_format(d: int, rtol: float) -> dict[str, dict[str, int]]:
    """Numbers that each format stores of each function of the explorer, to a tolerance.

    >>> stored_by_format(4, 1e-2)["1 / (1 + sum)"]["train"]
    48
    """
    found = {}
    for name in TreeExplorer.names:
        x = functions(name, d)
        fits = {
            "balanced tree": ht_svd(x, rtol=rtol),
            "linear tree": ht_svd(x, rtol=rtol, tree=linear_tree(d)),
            "train": tt_svd(x, rtol=rtol),
            "Tucker": hosvd(x, rtol=rtol),
            "SVD": LowRank.from_dense(x.reshape(4 ** (d // 2), -1), rtol=rtol),
        }
        found[name] = {kind: fit.numel for kind, fit in fits.items()}
    return found


def bars(ax, stored: dict[str, dict[str, int]], dense: int) -> str:
    """Stored numbers as points, one row for each function, and a line for the dense tensor."""
    kinds = list(next(iter(stored.values())))
    for k, kind in enumerate(kinds):
        look = plots.style(k) | dict(ls="none", markevery=1, ms=6)
        rows = [row + 0.12 * (k - (len(kinds) - 1) / 2) for row in range(len(stored))]
        ax.plot([of[kind] for of in stored.values()], rows, label=kind, **look)
    ax.axvline(dense, color="0.4", lw=1)
    ax.annotate("dense", (dense, -0.4), (-4, 0), textcoords="offset points", ha="right")
    ax.set(xscale="log", xlabel="stored numbers", ylim=(len(stored) - 0.5, -0.7))
    ax.set_yticks(range(len(stored)), list(stored))
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return (
        "Fewest numbers stored: "
        + ", ".join(
            f"{name} {min(of, key=of.get)} ({min(of.values())})" for name, of in stored.items()
        )
        + f"; the tensor has {dense}."
    )


# ---------------------------------------------------------------------------------------- exercises


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


def _matrix(x, modes):
    """The matrix of a tensor with these modes as rows."""
    rest = [k for k in range(x.ndim) if k not in modes]
    rows = functools.reduce(lambda a, k: a * x.shape[k], modes, 1)
    return x.permute(*modes, *rest).reshape(rows, -1)


def _first(u, r):
    return u[:, :r]


def _last(u, r):
    return u[:, -r:]


def _frame(x, modes, r, keep=_first, matrix=_matrix):
    """The projection on the columns of a frame."""
    u = keep(torch.linalg.svd(matrix(x, modes), full_matrices=False)[0], r)
    return u @ u.T


def _read_frame(function, x, modes, r):
    u = call(function, x, modes, r)
    if u is None:
        return None
    wanted = (_matrix(x, modes).shape[0], r)
    if tuple(u.shape) != wanted:
        raise Unusable(f"columns of the shape {wanted} are needed, these have {tuple(u.shape)}.")
    if not torch.allclose(u.T @ u, torch.eye(r, dtype=u.dtype), atol=1e-8):
        raise Unusable("the columns should be orthonormal: the singular values do not belong here.")
    return u @ u.T


def _transfer(basis, left, right, rows="ia,jb,ijk->abk"):
    return torch.einsum(rows, left, right, basis.reshape(len(left), len(right), -1))


def _bases(m, n, a, b, r):
    """A basis (m n, r), and orthonormal columns (m, a) and (n, b)."""
    left, right, basis = (torch.linalg.qr(g)[0] for g in gaussian((m, a), (n, b), (m * n, r)))
    return basis, left, right


def _tree_of(x, r, keep=_first, above=True):
    """The tensor of the H-SVD of four modes: x between the projections of all its nodes."""
    n = x.shape
    p = [_frame(x, (k,), r, keep) for k in range(4)]
    y = x.reshape(n[0] * n[1], -1)
    if above:
        y = _frame(x, (0, 1), r, keep) @ y @ _frame(x, (2, 3), r, keep)
    return torch.einsum("ai,bj,ijkl,ck,dl->abcd", p[0], p[1], y.reshape(n), p[2], p[3])


def _read_tree_of(function, x, r):
    found = returned(function, x, r)
    if found is None:
        return None
    if not (isinstance(found, (tuple, list)) and len(found) == 4):
        raise Unusable("a list of four bases and three cores are needed: leaves, two nodes, root.")
    leaves, *cores = found
    if not isinstance(leaves, (tuple, list)):
        raise Unusable("the bases of the leaves come first, as a list of four.")
    shapes = [(n, r) for n in x.shape] + [(r, r, r), (r, r, r), (r, r)]
    parts = tensors([*leaves, *cores])
    if [tuple(p.shape) for p in parts] != shapes:
        raise Unusable(
            f"the shapes should be {shapes}, they are {[tuple(p.shape) for p in parts]}."
        )
    a, b, c, d, left, right, root = parts
    return torch.einsum("ia,jb,abk,kl,efl,me,nf->ijmn", a, b, left, root, right, c, d)


def _few_numbers(tree=balanced_tree, name=TreeExplorer.names[2], most=1000):
    """The most digits at which the tree of a function stores fewer than so many numbers."""
    x = functions(name)
    stored = [ht_svd(x, rtol=10.0**-digits, tree=tree(8)).numel for digits in range(15)]
    return max(digits for digits, n in enumerate(stored) if n < most)


frame = Check(
    function=True,
    read=_read_frame,
    cases=lambda: [
        (gaussian((4, 4, 4, 4))[0], (2, 3), 2),
        (gaussian((3, 4, 5, 2))[0], (1,), 2),
        (gaussian((3, 4, 2, 5))[0], (0, 2), 3),
        (gaussian((3, 4, 5, 2))[0], (0, 1), 1),
    ],
    right=_frame,
    mistakes=(
        (
            lambda x, modes, r: _frame(x, modes, r, _last),
            "these belong to the smallest singular values; the largest come first.",
        ),
        (
            lambda x, modes, r: _frame(
                x, modes, r, matrix=lambda x, m: x.reshape(_matrix(x, m).shape)
            ),
            "reshape alone does not bring the modes to the front: move them there first.",
        ),
        (
            lambda x, modes, r: _frame(x, modes[::-1], r),
            "the rows run in the wrong order: the first of the modes should be the slowest.",
        ),
    ),
    hint="move the modes to the front, make them the rows of a matrix, and take the first left "
    "singular vectors.",
    moral="No other r columns keep more of the tensor: the rank of a node is decided here.",
    forbids=((ht_svd, "build it from torch.linalg.svd."),),
)

transfer = Check(
    function=True,
    cases=lambda: [_bases(4, 4, 2, 2, 2), _bases(5, 3, 3, 2, 4), _bases(3, 3, 3, 3, 2)],
    right=_transfer,
    mistakes=(
        (
            lambda basis, left, right: (
                _transfer(basis, right, left) if left.shape == right.shape else None
            ),
            "left and right are exchanged: the rows of basis run through the left child slowest.",
        ),
        (
            lambda basis, left, right: _transfer(basis, left, right, "ia,jb,ijk->bak"),
            "the first mode of the core belongs to the left child.",
        ),
        (
            lambda basis, left, right: _transfer(basis, left, right).flatten(0, 1),
            "these are the right numbers; the core has three modes, (a, b, r).",
        ),
        (
            lambda basis, left, right: torch.einsum(
                "ia,ijk->ajk", left, basis.reshape(len(left), len(right), -1)
            ),
            "only the left child has been used: the right one shrinks the second mode.",
        ),
    ),
    hint="give basis the shape (m, n, r); then transpose(left) acts on its first mode and "
    "transpose(right) on its second.",
    moral="r³ numbers in place of a basis of m n rows: this is all that a node stores.",
)

h_svd = Check(
    function=True,
    read=_read_tree_of,
    cases=lambda: [
        (gaussian((3, 4, 5, 4))[0], 3),
        (functions("chain of neighbors", 4, 5), 2),
        (gaussian((3, 3, 3, 3))[0], 3),
    ],
    right=_tree_of,
    mistakes=(
        (
            lambda x, r: _tree_of(x, r, _last),
            "the frames belong to the smallest singular values.",
        ),
    ),
    hint="six frames, of the modes and of the two pairs; two transfers; and the matrix of x "
    "between the frames of the pairs.",
    moral="This is the H-SVD: its error is at most sqrt(2d - 3) times the best one.",
    forbids=((ht_svd, "`ht_svd` is what you are to build: use your `frame` and `transfer`."),),
)

most_digits = Check(
    right=_few_numbers,
    mistakes=(
        (
            lambda: _few_numbers() + 1,
            "there the tree stores more than 1,000 already: read the sentence below the picture.",
        ),
        (
            lambda: _few_numbers() - 1,
            "one digit more can be had for fewer than 1,000 numbers.",
        ),
        (
            lambda: _few_numbers(name="nested pairs"),
            "that is for nested pairs: choose `1 / (1 + sum)`.",
        ),
    ),
    hint="move `digits` and read how many numbers are stored.",
    moral="Each node holds the cube of the ranks: a few digits more cost it several times over.",
)

ht_storage = Check(
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
    moral="n multiplies r, not its square as in a train: d n r + d r^3 numbers.",
)

node_basis = Check(
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
    read=_read_tree,
    right=lambda: min(map(_tree_storage, _trees([0, 1, 2, 3]))),
    mistakes=(),
    hint="another tree stores less.  Where modes that depend on each other meet, nothing has to "
    "pass further up.",
    moral="What belongs together should meet first: then rank 1 goes up to the root.",
    rtol=1e-9,
)
