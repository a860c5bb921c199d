"""Hierarchical Tucker [HackbuschKuhn2009]: a basis for each node of a tree of modes; arithmetic,
H-SVD, rounding [Grasedyck2010].

A tree is a nested tuple of modes such as ((0, 1), (2, 3)); a mode alone is a leaf. Nodes are
counted level by level from the root, left before right: in this order the children of the inner
node j (counted from 0 among the inner ones) are the nodes 2j + 1 and 2j + 2.
"""

import math
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arguments import check_same, check_shape, is_integer, rank_caps
from ..capture import read, readable
from ..linalg import (
    check_cut,
    cut_norm,
    ldexp,
    near_one,
    orthogonalize,
    project,
    real,
    right_basis,
    safe_scale,
    singular_values,
    spread,
    triangle,
    wide,
    zero_level,
)
from ..rng import randn
from .base import Format
from .tt import TT

BLOCK = 1 << 20  # entries of an intermediate result of `HT.at`


@dataclass(frozen=True, eq=False, repr=False)
class HT(Format):
    """Hierarchical Tucker: the basis of each node of a tree is held by its coordinates in those of
    its two children.

        U_t[(i, j), k] = sum_{a, b} U_l[i, a] U_r[j, b] B_t[a, b, k],      x = U_root

    factors: d matrices (n_k, r), the bases of the leaves by mode. cores: the d-1 tensors B_t
    (r_left, r_right, r), level by level from the root, where r = 1. tree: nested pairs of modes.
    ranks: one for each of the 2d-2 `nodes` below the root.

    >>> HT.randn((4, 5, 6, 7), rank=2, generator=torch.Generator().manual_seed(0))
    HT(shape=(4, 5, 6, 7), ranks=(2, 2, 2, 2, 2, 2), stores 64 of 840)
    """

    factors: tuple[Tensor, ...]
    cores: tuple[Tensor, ...] = ()
    tree: tuple | int = 0

    def _check(self):
        _check_tree("HT", self.tree, len(self.factors))
        leaves, inner = [tuple(f.shape) for f in self.factors], [tuple(c.shape) for c in self.cores]
        whole = len(inner) == len(leaves) - 1 and all(len(s) == 2 and 0 not in s for s in leaves)
        if not whole or any(len(s) != 3 or 0 in s for s in inner) or not self._chained():
            raise ValueError(
                f"HT: needs factors (n, r) and cores (r_left, r_right, r) that chain to rank 1 on "
                f"the tree {reprlib.repr(self.tree)}, "
                f"got shapes {leaves} and {inner}"
            )
        check_same("HT", self.tensors())

    def _chained(self):
        r = [t.shape[-1] for _, t, _ in self._nodes()]
        return r[0] == 1 and all(
            t.shape[:2] == (r[kids[0]], r[kids[1]]) for _, t, kids in self._nodes() if kids
        )

    @classmethod
    def randn(cls, shape, rank, *, tree=None, generator=None, dtype=None, device=None) -> "HT":
        """Gaussian factors and cores, scaled so that the entries have variance 1; ranks are capped
        by the matricizations'.

        shape: (n_0, ..., n_{d-1}).
        rank: one integer for all nodes but the root, or one for each of them.
        tree: a nested tuple of modes; None: `balanced_tree`.
        generator, dtype, device: as in `torch.randn`.
        """
        shape = check_shape("HT.randn", shape)
        tree = (
            balanced_tree(len(shape)) if tree is None else _check_tree("HT.randn", tree, len(shape))
        )
        caps = (1, *rank_caps("HT.randn", rank, None, shape, 2 * len(shape) - 2))
        below, r = [0] * len(caps), [1] * len(caps)
        for i, t, kids in reversed(_numbered(tree)):
            below[i] = below[kids[0]] * below[kids[1]] if kids else shape[t]
            r[i] = min(
                caps[i], r[kids[0]] * r[kids[1]] if kids else shape[t], math.prod(shape) // below[i]
            )
        options = dict(generator=generator, dtype=dtype, device=device)
        bases = []
        for i, t, kids in _numbered(tree):
            rows = (r[kids[0]], r[kids[1]]) if kids else (shape[t],)
            bases.append(randn(*rows, r[i], **options) / (math.prod(rows) if kids else 1) ** 0.5)
        return _assemble(bases, tree)

    @property
    def shape(self) -> tuple[int, ...]:
        """The rows (n_0, ..., n_{d-1}) of the factors."""
        return tuple(f.shape[0] for f in self.factors)

    @property
    def nodes(self) -> tuple[tuple[int, ...], ...]:
        """The modes of each node but the root, level by level: what the entries of `ranks` belong
        to."""
        return tuple(leaves(t) for _, t, _ in _numbered(self.tree)[1:])

    @property
    def ranks(self) -> tuple[int, ...]:
        """One for each of the 2d-2 `nodes` below the root."""
        return tuple(t.shape[-1] for _, t, _ in self._nodes()[1:])

    def _nodes(self):
        """(number, factor or core, numbers of the two children) of each node, from the root
        down."""
        cores = iter(self.cores)
        return [
            (i, next(cores) if kids else self.factors[t], kids)
            for i, t, kids in _numbered(self.tree)
        ]

    @property
    def _carrier(self):
        return len(self.factors) if self.cores else 0  # the root

    def _dense(self):
        u = {}
        for i, t, kids in reversed(self._nodes()):
            u[i] = _merge(t, u, kids)
        order = leaves(self.tree)
        x = u[0].reshape([self.shape[k] for k in order])
        return x.permute([order.index(k) for k in range(self.ndim)])

    def norm(self) -> Tensor:
        """Frobenius norm by orthogonalization: right to full accuracy for differences too, and for
        any d and scale."""
        (whole, exponent), r = self.to(wide(self.dtype))._near_one(), {}
        for i, t, kids in reversed(whole._nodes()):
            u, shift = near_one(_merge(t, r, kids))
            r[i], exponent = triangle(u), exponent + shift
        return ldexp(torch.linalg.matrix_norm(r[0]), exponent).to(real(self.dtype))

    def dot(self, other: "HT") -> Tensor:
        """<self, other> = sum of conj(self) * other, from the leaves up: O(d r^4) operations
        besides the leaves'."""
        (x, m), (y, n) = (z._near_one() for z in self._pair(other, "dot"))
        e, exponent = {}, m + n
        for (i, a, kids), (_, b, _) in reversed(list(zip(x._nodes(), y._nodes()))):
            e[i], shift = near_one(a.flatten(0, -2).mH @ _merge(b, e, kids))
            exponent = exponent + shift
        return ldexp(e[0].reshape(()), exponent)

    def at(self, index) -> Tensor:
        """Entries at many multi-indices: (batch, d) -> (batch,).

        A node is evaluated once for each of the different partial indices that occur, so the lower
        ones cost next to nothing.
        """
        index, (whole, whole_e) = self._index(index), self._near_one()
        # row[i]: the row of u[i] of each entry; u[i] times 2^e[i], row by row
        row = {i: index[:, t] for i, t, kids in _numbered(self.tree) if not kids}
        u, e = {}, {}
        for i, t, kids in reversed(whole._nodes()):
            if not kids:
                u[i], e[i] = near_one(t, 1)
                continue
            (left, right), (a, b) = (u[k] for k in kids), (e[k] for k in kids)
            pairs, row[i] = _distinct(row[kids[0]] * len(right) + row[kids[1]])
            some = pairs.split(max(1, BLOCK // t[0].numel()))
            rows = [_rows(t, left[p // len(right)], right[p % len(right)]) for p in some]
            u[i], shift = near_one(torch.cat(rows), 1)
            e[i] = a[pairs // len(right)] + b[pairs % len(right)] + shift
        return ldexp(u[0][row[0], 0], e[0][row[0], 0] + whole_e)

    def orthogonal(self) -> "HT":
        """The same tensor with orthonormal bases U_t below the root, whose core alone carries the
        norm, as long as that is a float."""
        bases, exponent = _orthonormal(self)
        return _assemble(spread(bases, 0, exponent, self.dtype), self.tree)

    def singular_values(self) -> dict[tuple[int, ...], Tensor]:
        """Singular values of the matricization of each node: its modes as rows, all others as
        columns [Grasedyck2010].

        The tensor is not formed: they are those of the weights above the orthonormal
        bases. No more than the rank of each; those under about eps times the largest are rounding.
        Keys as `nodes`.

        >>> i = torch.arange(4.0)
        >>> ht = ht_svd(i[:, None, None] + i[:, None] + i, rtol=1e-6)
        >>> [len(s) for s in ht.singular_values().values()]
        [2, 2, 2, 2]
        """
        bases, exponent = _orthonormal(self.to(wide(self.dtype)))
        weights = _weights(_assemble(bases, self.tree))
        values = (ldexp(singular_values(weights[i]), exponent) for i in range(1, len(bases)))
        return {node: s.to(real(self.dtype)) for node, s in zip(self.nodes, values)}

    def round(self, rank=None, *, rtol: float | None = None) -> "HT":
        """The HT of smallest ranks within a tolerance, on the same tree: `ht_round`.

            |x - result| <= (rtol + 64 eps) |x|      when `rank` does not cut earlier

        rank: a cap, one integer or one for each of `nodes`. Raises ValueError or TypeError for a
        bad rank or rtol.
        """
        return ht_round(self, rank, rtol=rtol)

    @classmethod
    def from_tt(cls, tt: TT | Sequence[Tensor]) -> "HT":
        """A tensor train as HT on the linear tree (0, (1, (2, ...))), with the train's ranks.

        tt: a TT, or its cores (r_left, n, r_right). The basis of a leaf in the middle is the
        identity; `round` finds a smaller one.

        >>> HT.from_tt(TT.randn((4, 5, 6), rank=(2, 3))).ranks
        (2, 2, 5, 3)
        """
        cores = tt.cores if isinstance(tt, TT) else tt
        if len(cores) == 1:
            return cls((cores[0].reshape(-1, 1),))
        first, *middle, last = [c.permute(1, 2, 0) for c in cores]  # (n, r_right, r_left)
        eye = lambda n: torch.eye(n, dtype=first.dtype, device=first.device)
        factors = (first[..., 0], *(eye(len(c)) for c in middle), last[:, 0])
        return cls(factors, (eye(first.shape[1])[..., None], *middle), linear_tree(len(cores)))

    def to_tt(self) -> TT:
        """The tensor train that an HT on the tree (0, (1, (2, ...))) is, with the ranks of its
        inner nodes.

        Raises ValueError for any other tree.

        >>> HT.randn((4, 5, 6), 2, tree=linear_tree(3)).to_tt()
        TT(shape=(4, 5, 6), ranks=(2, 2), stores 40 of 120)
        """
        if self.packed(self.tree) != self.packed(linear_tree(self.ndim)):
            need = reprlib.repr(linear_tree(self.ndim))
            raise ValueError(f"HT.to_tt: needs the tree {need}, got {reprlib.repr(self.tree)}")
        if self.ndim == 1:
            return TT((self.factors[0][None],))
        first = self.factors[0] @ self.cores[0][..., 0]
        middle = (
            torch.einsum("na,abr->rnb", f, c) for f, c in zip(self.factors[1:-1], self.cores[1:])
        )
        return TT((first[None], *middle, self.factors[-1].mT[..., None]))

    @staticmethod
    def packed(tree):
        """A tree as its nodes in the order root, left, right, with -1 for an inner one: flat, as
        what is nested deeply can be neither compared nor pickled.

        >>> HT.packed(((0, 1), 2))
        (-1, -1, 0, 1, 2)
        """
        return tuple(-1 if isinstance(t, tuple) else _mode(t) for t in _depth_first(tree))

    @staticmethod
    def unpacked(nodes):
        """The inverse of `packed`; a nested tree, which older files hold, as it is.

        >>> HT.unpacked((-1, -1, 0, 1, 2)), HT.unpacked(((0, 1), 2))
        (((0, 1), 2), ((0, 1), 2))
        """
        if not isinstance(nodes, tuple) or (len(nodes) > 1 and nodes[0] != -1):
            return nodes
        todo = []
        for t in reversed(nodes):
            if t == -1 and len(todo) < 2:
                raise ValueError(f"HT: needs two children for each -1 of a tree, got {nodes}")
            todo.append((todo.pop(), todo.pop()) if t == -1 else t)
        (tree,) = todo
        return tree

    def _same(self, other, sign):
        super()._same(other, sign)
        if self.packed(other.tree) != self.packed(self.tree):
            raise ValueError(
                f"HT {sign}: needs an HT on the tree {reprlib.repr(self.tree)}, got one on "
                f"{reprlib.repr(other.tree)}"
            )

    def _near_one(self) -> tuple["HT", Tensor]:
        """The same tensor as 2^e times one of whose nodes each column is near 1 in size: what a
        column of a basis is too large or too small, the row that takes it in the parent gets."""
        if self._readable() and self._moderate():
            return self, torch.zeros((), device=self.device)
        u, e = {}, {}
        for i, t, kids in reversed(self._nodes()):
            shift = sum(e[k].reshape(-1, *[1] * (2 - axis)) for axis, k in enumerate(kids))
            size = t.detach().abs().log2().float() + shift
            size = size.amax(tuple(range(t.ndim - 1))).ceil()
            e[i] = torch.where(size.isfinite(), size, 0)
            u[i] = ldexp(t, (shift - e[i]).clamp_max(1200))  # beyond it t is zero
        return _assemble([u[i] for i in range(len(u))], self.tree), e[0][0]

    def _even(self):
        whole, exponent = self._near_one()
        if whole is self:
            return self
        bases = [t for _, t, _ in whole._nodes()]
        return _assemble(spread(bases, 0, exponent.int(), self.dtype), self.tree)

    def _moderate(self) -> bool:
        """Whether all columns are so near 1 that no product of them needs exponents."""
        tensors = [t.detach().abs() for t in self.tensors()]
        columns = torch.cat([t.amax(tuple(range(t.ndim - 1))) for t in tensors])
        most = int(torch.frexp(columns).exponent.abs().max())
        return most * len(tensors) < math.log2(torch.finfo(self.dtype).max) / 4

    def _add(self, other):
        pad = torch.nn.functional.pad  # takes the last mode first
        out = []
        for (i, a, kids), (_, b, _) in zip(self._nodes(), other._nodes()):
            if not kids:
                out.append(torch.cat([a, b], 1) if i else a + b)
            else:  # block diagonal, but that the root has one column only
                m, n = ((*t.shape[:2], t.shape[2] if i else 0) for t in (a, b))
                out.append(
                    pad(a, [0, n[2], 0, n[1], 0, n[0]]) + pad(b, [m[2], 0, m[1], 0, m[0], 0])
                )
        return _assemble(out, self.tree)

    def _times(self, other):
        pairs = [(a, b) for (_, a, _), (_, b, _) in zip(self._nodes(), other._nodes())]
        return _assemble(
            [
                torch.einsum("ijk,abc->iajbkc", a, b).flatten(4).flatten(2, 3).flatten(0, 1)
                if a.ndim == 3
                else (a[:, :, None] * b[:, None, :]).flatten(1)
                for a, b in pairs
            ],
            self.tree,
        )


def ht_svd(x: Tensor, rank=None, *, rtol: float | None = None, tree=None) -> HT:
    """Hierarchical Tucker tensor of a dense one: the H-SVD, from the leaves to the root
    [Grasedyck2010].

        |x - ht| <= (rtol + 64 eps) |x|
            when `rank` does not cut earlier, and <= sqrt(2d - 3) times the best error

    x: (n_0, ..., n_{d-1}). `rank`: a cap, one integer or one for each of the 2d-2 `HT.nodes`. tree:
    nested pairs of modes, by default `balanced_tree(d)`.

    Each node is cut from what the cuts before have left of x, in the bases of its children, as
    ST-HOSVD does: the tensor shrinks on the way. A cut is an orthogonal projection; later ones stay
    within its range or act on other modes, so all commute, what they lose is mutually orthogonal
    and adds up in squares. No projection before makes a singular value larger, so each cut loses at
    most what the best approximation must lose there. The two children of the root have the same
    singular values: the first is cut, the second takes what is left, hence 2d - 3 cuts of rtol |x|
    / sqrt(2d - 3).

    >>> i = torch.arange(1.0, 9.0, dtype=torch.float64)
    >>> ht_svd(1 / (i[:, None, None, None] + i[:, None, None] + i[:, None] + i), rtol=1e-2)
    HT(shape=(8, 8, 8, 8), ranks=(2, 2, 2, 2, 2, 2), stores 84 of 4096)
    """
    size, d = cut_norm(x, "ht_svd", rank), x.ndim
    tree = balanced_tree(d) if tree is None else _check_tree("ht_svd", tree, d)
    caps = [1, *rank_caps("ht_svd", rank, rtol, x.shape, 2 * d - 2)]
    if d == 1:
        return HT((x[:, None].clone(),), (), tree)
    scale = safe_scale(size)
    delta = size * scale * max((rtol or 0.0) / math.sqrt(2 * d - 3), zero_level(x.dtype))

    nodes = _numbered(tree)
    number = {t: i for i, t, kids in nodes if not kids}
    # the nodes whose bases the modes of y belong to, always in the tree's cyclic order
    axes = [number[mode] for mode in leaves(tree)]
    width = dict(zip(axes, (x.shape[mode] for mode in leaves(tree))))
    y = (x if scale == 1.0 else x * scale).permute(leaves(tree))
    u, inner = {}, [i for i, _, kids in nodes if kids]
    for i in [i for i in axes if i > 2] + [i for i in inner[::-1] if i > 2] + [1, 2]:
        mine = nodes[i][2] or (i,)
        k = axes.index(mine[0])
        # the modes of this node come to the front; after the cut they are one, at the back
        axes = axes[k:] + axes[:k]
        y = y.reshape(math.prod([width[a] for a in axes[len(axes) - k :]]), -1).mT
        matrix = y.reshape(math.prod([width[a] for a in mine]), -1).mT
        cap, atol = (width[1], 0.0) if i == 2 else (_least(caps, i), delta)
        v, _ = right_basis(matrix, cap, atol=atol)
        u[i], y = v.conj(), project(matrix, v)
        axes, width[i] = axes[len(mine) :] + [i], v.shape[1]
    u[0] = y.reshape(-1, 1)
    bases = [u[i] for i in range(len(nodes))]
    return _assemble(spread(bases, 0, 1 - math.frexp(scale)[1], x.dtype), tree)


def ht_round(ht: HT, rank=None, *, rtol: float | None = None) -> HT:
    """The HT of smallest ranks within a tolerance, on the same tree [Grasedyck2010].

        |ht - result| <= (rtol + 64 eps) |ht|
            when `rank` does not cut earlier, and <= sqrt(2d - 3) times the best error

    The bases are made orthonormal from the leaves up. From the root down the weight of each node is
    computed, the part of its matricization above its basis. Then each node is cut as in `ht_svd`.
    At rtol=1e-10 the result for x + 2x has the ranks of x.

    >>> g = torch.Generator().manual_seed(0)
    >>> x = HT.randn((4, 5, 6, 7), rank=2, generator=g, dtype=torch.float64)
    >>> ht_round(x + 2 * x, rtol=1e-10).ranks
    (2, 2, 2, 2, 2, 2)
    """
    if not isinstance(ht, HT):
        raise TypeError(f"ht_round: needs an HT, got {type(ht).__name__}")
    d = ht.ndim
    caps = [1, *rank_caps("ht_round", rank, rtol, ht.shape, 2 * d - 2)]
    for t in ht.tensors():
        check_cut(t, "ht_round", rank)
    bases, exponent = _orthonormal(ht.to(wide(ht.dtype)))
    share = max((rtol or 0.0) / math.sqrt(max(1, 2 * d - 3)), zero_level(ht.dtype))
    delta = share * read(torch.linalg.vector_norm(bases[0].detach()))

    whole = _assemble(bases, ht.tree)
    weights, carry, u = _weights(whole), {}, {}
    for i, t, kids in reversed(whole._nodes()):
        # (the children's ranks, r): the old basis in the children's new ones
        u[i] = _merge(t, carry, kids)
        if i == 1:  # the other child of the root has been cut, this one takes what is left
            weights[1], caps[1] = bases[0][..., 0] @ carry[2].mT, len(carry[2])
        if i > 0:
            matrix = (u[i] @ weights[i]).mH
            v, _ = right_basis(matrix, _least(caps, i), atol=0.0 if i == 1 else delta)
            u[i], carry[i] = v, v.mH @ u[i]
    return _assemble(spread([u[i] for i in range(len(bases))], 0, exponent, ht.dtype), ht.tree)


# ------------------------------------------------------------------------------------------ trees


def balanced_tree(modes):
    """The tree of least depth: the modes are halved again and again. modes: their number, or the
    modes in the leaves' order.

    >>> balanced_tree(5), balanced_tree((0, 2, 1, 3))
    (((0, 1), (2, (3, 4))), ((0, 2), (1, 3)))
    """
    modes = _modes("balanced_tree", modes)
    half = len(modes) // 2
    return (balanced_tree(modes[:half]), balanced_tree(modes[half:])) if half else modes[0]


def linear_tree(modes):
    """The tree of the tensor train: one mode splits off at a time. modes: their number, or the
    modes in the leaves' order.

    >>> linear_tree(4)
    (0, (1, (2, 3)))
    """
    *modes, tree = _modes("linear_tree", modes)
    for mode in reversed(modes):
        tree = (mode, tree)
    return tree


def leaves(tree) -> tuple[int, ...]:
    """The modes of a tree from left to right.

    >>> leaves(((0, 2), (1, 3)))
    (0, 2, 1, 3)
    """
    return tuple(_mode(t) for t in _depth_first(tree) if not isinstance(t, tuple))


def _mode(leaf):
    return int(leaf) if is_integer(leaf) else leaf  # what else it is will be refused


def _depth_first(tree):
    """Every subtree, each before its children and the left before the right."""
    todo = [tree]
    while todo:
        yield (t := todo.pop())
        if isinstance(t, tuple):
            todo += t[::-1]


def _numbered(tree):
    """(number, subtree, numbers of its children or ()) of every node, level by level."""
    out, todo, inner = [], [tree], 0
    while len(out) < len(todo):
        t = todo[len(out)]
        if isinstance(t, tuple):
            out.append((len(out), t, (2 * inner + 1, 2 * inner + 2)))
            todo += t
            inner += 1
        else:
            out.append((len(out), t, ()))
    return out


def _modes(who, modes):
    modes = tuple(range(modes)) if is_integer(modes) else modes
    if not isinstance(modes, (tuple, list)) or not modes or not all(map(is_integer, modes)):
        raise ValueError(f"{who}: needs a number of modes >= 1 or a tuple of modes, got {modes!r}")
    return tuple(map(int, modes))


def _check_tree(who, tree, d):
    """The tree. Raises ValueError unless it is made of pairs and holds each of 0..d-1 once."""
    for t in _depth_first(tree):
        if not is_integer(t) and not (isinstance(t, tuple) and len(t) == 2):
            raise ValueError(
                f"{who}: needs a tree of nested pairs of modes such as ((0, 1), 2), got "
                f"{reprlib.repr(t)} in {reprlib.repr(tree)}"
            )
    found = leaves(tree)
    if len(found) != d or set(found) != set(range(d)):
        raise ValueError(
            f"{who}: needs a tree with each of the modes 0..{d - 1} once, got {reprlib.repr(tree)}"
        )
    return tree


# ------------------------------------------------------------------------------------------ nodes


def _assemble(bases, tree) -> HT:
    """An HT from the bases of all nodes, level by level: (n, r) at leaves, (r_left, r_right, r) or
    (r_left r_right, r) else."""
    r = [b.shape[-1] for b in bases]
    factors, cores = {}, []
    for i, t, kids in _numbered(tree):
        if kids:
            cores.append(bases[i].reshape(r[kids[0]], r[kids[1]], r[i]))
        else:
            factors[t] = bases[i]
    return HT(tuple(factors[k] for k in range(len(factors))), tuple(cores), tree)


def _merge(t: Tensor, below, kids) -> Tensor:
    """sum_{a, b} below_l[i, a] below_r[j, b] t[a, b, k]: (r_l, r_r, r) -> (m_l m_r, r); a leaf's
    factor as it is."""
    if not kids:
        return t
    left, right = (below[k] for k in kids)
    half = (left @ t.flatten(1)).reshape(len(left), *t.shape[1:])  # (m_l, r_r, r)
    return torch.tensordot(half.mT, right.mT, 1).mT.flatten(0, 1)


def _rows(t: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The same for pairs of rows: left (m, r_l), right (m, r_r) -> (m, r)."""
    half = (left @ t.flatten(1)).reshape(len(left), *t.shape[1:])
    return (right[:, None] @ half)[:, 0]


def _distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The different rows, and where each is among them; all of them where they cannot be read."""
    if readable(rows):
        return torch.unique(rows, return_inverse=True)
    return rows, torch.arange(len(rows), device=rows.device)


def _orthonormal(ht: HT):
    """Orthonormal bases of all nodes, and that of the root, which carries the norm, as x /
    2^exponent near 1 in size."""
    (ht, exponent), u, r = ht._near_one(), {}, {}
    for i, t, kids in reversed(ht._nodes()):
        u[i], shift = near_one(_merge(t, r, kids))
        exponent = exponent + shift
        if i > 0:
            u[i], r[i] = orthogonalize(u[i])
        if kids:
            u[i] = u[i].reshape(len(r[kids[0]]), len(r[kids[1]]), -1)
    return [u[i] for i in range(len(u))], exponent


def _weights(ht: HT):
    """Of each node W_t (r, q) with W_t W_tᴴ = G_t, the reduced Gramian: its matricization is U_t
    W_t times an isometry."""
    w = {0: ht.factors[0].new_ones(1, 1)}
    for i, t, kids in ht._nodes():
        if kids:
            both = torch.tensordot(t, w[i], 1)  # (r_l, r_r, q)
            for k, side in zip(kids, (both, both.transpose(0, 1))):
                w[k] = triangle(side.flatten(1).mH).mH
    return w


def _least(caps, i):
    """The cap of node i; the children of the root have one in common."""
    known = [c for c in (caps[1:3] if i in (1, 2) else caps[i : i + 1]) if c is not None]
    return min(known, default=None)
