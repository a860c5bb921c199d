"""Tensor trains [Oseledets2011]: the format, its arithmetic, TT-SVD and rounding.

TT-SVD here works from both ends: it takes modes off the end that is cheaper, several small ones at
once as a slab, and replaces them by the leading basis of the slab (`linalg.right_basis`), so that
already the first pass over the data shrinks it [RohrigZollner2022].
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..arguments import check_same, check_shape, count, rank_caps
from ..capture import differentiated, known, read, readable
from ..linalg import (
    check_cut,
    choose_rank,
    cut_norm,
    in_range,
    ldexp,
    near_one,
    orthogonalize,
    project,
    ranked_triangle,
    real,
    right_basis,
    safe_scale,
    short_basis,
    size_exponent,
    small_svd,
    spread,
    triangle,
    truncated_svd,
    wide,
    widen,
    zero_level,
)
from ..rng import randn
from ..sketch import factorize
from .base import Format

DENSE = 1 << 16  # entries from which a factorization in the middle is tried
SLAB = 64  # columns up to which trailing modes are merged
READ = 1 << 20  # entries of a file that are read at a time


@dataclass(frozen=True, eq=False, repr=False)
class TT(Format):
    """Tensor train: x[i_0, ..., i_{d-1}] = G_0[i_0] G_1[i_1] ... G_{d-1}[i_{d-1}], a product of
    matrices.

    cores: d tensors, core k of shape (r_k, n_k, r_{k+1}) with r_0 = r_d = 1. ranks: the d-1 free
    ones.

    >>> TT.randn((4, 5, 6), rank=3, generator=torch.Generator().manual_seed(0))
    TT(shape=(4, 5, 6), ranks=(3, 3), stores 75 of 120)
    """

    cores: tuple[Tensor, ...]

    def _check(self):
        got = [tuple(c.shape) for c in self.cores]
        chained = all(a[-1:] == b[:1] for a, b in zip(got, got[1:]))
        if (
            not got
            or any(len(g) != 3 or 0 in g for g in got)
            or not chained
            or got[0][0] != 1
            or got[-1][2] != 1
        ):
            raise ValueError(
                f"TT: needs cores (r_left, n, r_right) that chain from rank 1 to rank 1, got "
                f"shapes {got}"
            )
        check_same("TT", self.cores)

    @classmethod
    def randn(cls, shape, rank, *, generator=None, dtype=None, device=None) -> "TT":
        """Gaussian cores, scaled so that the entries have variance 1; ranks are capped by the
        unfoldings'.

        shape: (n_0, ..., n_{d-1}).
        rank: one integer for all bonds, or d - 1 of them.
        generator, dtype, device: as in `torch.randn`.
        """
        shape = check_shape("TT.randn", shape)
        caps = rank_caps("TT.randn", rank, None, shape, len(shape) - 1)
        r = [1, *(min(c, m) for c, m in zip(caps, unfolding_ranks(shape))), 1]
        options = dict(generator=generator, dtype=dtype, device=device)
        return cls(
            tuple(randn(r[k], n, r[k + 1], **options) / r[k] ** 0.5 for k, n in enumerate(shape))
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes (n_0, ..., n_{d-1}) of the modes."""
        return tuple(c.shape[1] for c in self.cores)

    @property
    def ranks(self) -> tuple[int, ...]:
        """(r_1, ..., r_{d-1}), one for each bond."""
        return tuple(c.shape[0] for c in self.cores[1:])

    def to_dense(self) -> Tensor:
        """The dense tensor, (n_0, ..., n_{d-1}): core by core from the left."""
        first, *rest = TT(tuple(_singles(self.cores)))._even().cores
        out = first.reshape(-1, first.shape[2])
        for core in rest:
            r, _, q = core.shape
            out = (out @ core.reshape(r, -1)).reshape(-1, q)
        return out.reshape(self.shape).to(self.dtype)

    def norm(self) -> Tensor:
        """Frobenius norm by orthogonalization: right to full accuracy for differences too, and for
        any d, scale and grading."""
        cores = _wide(self.cores)

        def compute(care):
            _, weights, _, exponent = _from_left(cores, _triangle, care)
            return weights[-1][0].abs(), exponent

        return ldexp(*_in_range([cores], compute))[0].to(real(self.dtype))

    def dot(self, other: "TT") -> Tensor:
        """<self, other> = sum of conj(self) * other, in d (r^2 q + r q^2) n operations."""
        x, y = self._pair(other, "dot")
        ours, theirs = _singles(x.cores), _singles(y.cores)

        def compute(care):
            (left, i), (right, j) = _gauged(ours, care), _gauged(theirs, care)
            e, exponent = left[0].new_ones(1, 1), i + j
            for a, b in zip(left, right):
                b = (e @ b.reshape(b.shape[0], -1)).reshape(-1, b.shape[2])
                e = a.conj().reshape(-1, a.shape[2]).mT @ b
                if care:
                    e, shift = in_range(e)
                    exponent = exponent + shift
            return e[0, 0], exponent

        return ldexp(*_in_range([ours, theirs], compute)).to(x.dtype)

    def at(self, index) -> Tensor:
        """Entries at many multi-indices: (batch, d) -> (batch,)."""
        index, cores = self._index(index), _singles(self.cores)

        def compute(care):
            (first, *rest), exponent = _gauged(cores, care)
            v = first[0].index_select(0, index[:, 0])  # (batch, r)
            for core, i in zip(rest, index.unbind(1)[1:]):
                v = _times_slices(v, core, i)
                if care:
                    v, shift = in_range(v, 1)
                    exponent = exponent + shift
            return v, exponent

        return ldexp(*_in_range([cores], compute))[:, 0].to(self.dtype)

    def orthogonal(self, center: int = 0) -> "TT":
        """The same train with orthonormal cores on both sides of `center`, which alone carries the
        norm; where it cannot hold it, all share its power of two."""
        d = self.ndim
        center = count("TT.orthogonal", "center", center, 0, d - 1)
        cores = _wide(self.cores)

        def compute(care):
            left, (*_, w), _, e = _from_left(cores[:center], orthogonalize, care, one)
            mirrored = [_mirror(core) for core in cores[:center:-1]]
            right, (*_, v), _, f = _from_left(mirrored, orthogonalize, care, one)
            core, exponent = cores[center], 0
            if care:
                (size,) = _exponents([core])
                core, exponent = _gauge(core, size, e[:, None] + f, (0, 1))
            core = torch.tensordot(torch.tensordot(w, core, 1), v.mT, 1)
            made = [*left, core, *(_mirror(core) for core in right[::-1])]
            return torch.linalg.vector_norm(core), exponent, made

        one = cores[0].new_ones(1, 1)
        _, exponent, cores = _in_range([cores], compute)
        return TT(tuple(spread(cores, center, exponent, self.dtype)))

    def round(self, rank=None, *, rtol: float | None = None) -> "TT":
        """The train of smallest ranks within a tolerance: `tt_round`.

            |x - result| <= (rtol + 64 eps) |x|      when `rank` does not cut earlier

        rank: a cap, one integer or d-1 of them. Raises ValueError or TypeError for a bad rank or
        rtol.
        """
        return tt_round(self, rank, rtol=rtol)

    def to_tt(self) -> "TT":
        """The train itself."""
        return self

    def _add(self, other):
        if self.ndim == 1:
            return TT((self.cores[0] + other.cores[0],))
        cores = [torch.cat([self.cores[0], other.cores[0]], 2)]
        for a, b in zip(self.cores[1:-1], other.cores[1:-1]):
            top = torch.cat([a, a.new_zeros(a.shape[0], a.shape[1], b.shape[2])], 2)
            cores.append(
                torch.cat(
                    [top, torch.cat([b.new_zeros(b.shape[0], b.shape[1], a.shape[2]), b], 2)], 0
                )
            )
        return TT((*cores, torch.cat([self.cores[-1], other.cores[-1]], 0)))

    def _times(self, other):
        pairs = zip(self.cores, other.cores)
        return TT(
            tuple(torch.einsum("anb,cnd->acnbd", a, b).flatten(3).flatten(0, 1) for a, b in pairs)
        )


def tt_svd(x: Tensor | Iterable[Tensor], rank=None, *, rtol: float | None = None) -> TT:
    """Tensor train of a dense tensor, by truncated SVDs of its unfoldings [Oseledets2011, Alg. 1].

        |x - tt| <= (rtol + 64 eps) |x|
            when `rank` does not cut earlier, eps that of x.dtype, d <= 10

    x: (n_0, ..., n_{d-1}). `rank`: a cap, one integer or d-1 of them. Each of the d-1 cuts may lose
    rtol |x| / sqrt(d-1), and their errors are orthogonal. Where a few rows of the unfolding in the
    middle show that it is of low rank, it is factorized first, with a measured loss (`factorize`),
    and the halves are cut; else slabs are cut off the ends by their Gram matrices (`right_basis`).
    The cores come orthonormal up to one in the middle, which carries the norm.

    x may be larger than the memory: a `numpy.memmap`, or any iterable of s slabs (k, n_1, ...,
    n_{d-1}), which are tensors along mode 0. They are read once, and the bound is
    (rtol + 64 (2 + log2 s) eps) |x|; with a rank every merge of two cuts to it. Raises ValueError
    or TypeError for a bad rank, rtol, tensor or slab.

    >>> i = torch.arange(1.0, 9.0, dtype=torch.float64)
    >>> tt_svd(1 / (i[:, None, None] + i[:, None] + i), rtol=1e-2)
    TT(shape=(8, 8, 8), ranks=(2, 2), stores 64 of 512)
    """
    if isinstance(x, np.memmap):
        return _from_slabs(_read(x), rank, rtol)
    if isinstance(x, Iterable) and not isinstance(x, (Tensor, np.ndarray)):
        return _from_slabs(x, rank, rtol)
    x = cast(Tensor, x)  # anything else `cut_norm` refuses
    size = cut_norm(x, "tt_svd", rank)
    caps = rank_caps("tt_svd", rank, rtol, x.shape, x.ndim - 1)
    scale = safe_scale(size)
    share = max((rtol or 0.0) / math.sqrt(max(1, x.ndim - 1)), zero_level(x.dtype))
    y, size = (x, size) if scale == 1.0 else (x * scale, size * scale)
    found = None
    if x.numel() > DENSE and x.ndim > 1 and x.dtype.itemsize > 2 and not differentiated(x):
        found = _from_the_middle(y, caps, size, share * size)
    cores, center = found or _from_the_ends(y, caps, share * size)
    return TT(tuple(spread(cores, center, 1 - math.frexp(scale)[1], x.dtype)))


def _read(x: np.memmap) -> Iterator[Tensor]:
    """The slabs of a file, of READ entries or of one index."""
    step = max(1, READ * len(x) // max(1, x.size))
    return (torch.from_numpy(np.array(x[k : k + step])) for k in range(0, len(x), step))


def _from_slabs(slabs: Iterable[Tensor], rank, rtol: float | None) -> TT:
    """The train of slabs along mode 0. Two trains of 2^k slabs each are merged and rounded, as a
    counter carries.

    The errors of slabs are orthogonal, and so are those of the merges of one level: a slab may lose
    rtol / 8 of its norm, a merge of level k rtol / 8 2^-k, and the last one 3 rtol / 4.
    """
    share = lambda part: None if rtol is None else rtol * part
    trains: list[tuple[int, TT]] = []
    for slab in slabs:
        if not isinstance(slab, Tensor):
            raise TypeError(f"tt_svd: needs a torch tensor as slab, got {type(slab).__name__}")
        if trains and slab.shape[1:] != trains[0][1].shape[1:]:
            first, got = trains[0][1].shape, tuple(slab.shape)
            raise ValueError(f"tt_svd: needs slabs alike but for mode 0, got {first} and {got}")
        trains.append((0, tt_svd(slab, rank, rtol=share(1 / 8))))
        while len(trains) > 1 and trains[-1][0] == trains[-2][0]:
            (level, left), (_, right) = trains[-2:]
            merged = tt_round(_stacked(left, right), rank, rtol=share(1 / 8 * 0.5 ** (level + 1)))
            trains[-2:] = [(level + 1, merged)]
    if not trains:
        raise ValueError("tt_svd: needs one slab at least, got none")
    whole = reduce(_stacked, [tt for _, tt in trains])
    return tt_round(whole, rank, rtol=share(3 / 4))


def _stacked(a: TT, b: TT) -> TT:
    """Two trains one after the other along mode 0."""
    pad, (m, n) = torch.nn.functional.pad, (a.shape[0], b.shape[0])
    first = pad(a.cores[0], (0, 0, 0, n)), pad(b.cores[0], (0, 0, m, 0))
    return TT((first[0], *a.cores[1:])) + TT((first[1], *b.cores[1:]))


def _from_the_ends(x: Tensor, caps, delta: float) -> tuple[list[Tensor], int]:
    """Cores of a dense tensor, by cuts of slabs off its ends, and which one carries the norm."""
    modes, y = list(x.shape), x  # y: (a, modes lo..hi-1, b), what is still dense
    left, right, a, b, lo, hi = [], [], 1, 1, 0, len(modes)
    while hi - lo > 1:
        p, q = _slab(modes[lo:hi], a), _slab(modes[lo:hi][::-1], b)
        rows, columns = a * math.prod(modes[lo : lo + p]), math.prod(modes[hi - q : hi]) * b
        if columns <= rows:
            matrix = y.reshape(-1, columns)
            v, s = right_basis(matrix, caps[hi - q - 1], atol=delta)
            slab = v.mH.reshape(-1, *modes[hi - q : hi], b)
            y, b, hi = project(matrix, v), len(s), hi - q
            right = _split(slab, _weight(y, s), caps[hi : hi + q - 1], delta) + right
        else:  # the same from the left, mirrored
            matrix = y.reshape(rows, -1).mT
            v, s = right_basis(matrix, caps[lo + p - 1], atol=delta)
            slab = v.mH.reshape(-1, a, *modes[lo : lo + p])
            slab = slab.permute(0, *range(p + 1, 0, -1))
            y, a, lo = project(matrix, v), len(s), lo + p
            cores = _split(slab, _weight(y, s), caps[lo - p : lo - 1][::-1], delta)
            left, y = left + [_mirror(c) for c in cores][::-1], y.mT
    middle = y.reshape(a, modes[lo], b).to(wide(x.dtype), copy=y is x)  # one mode: x itself
    return [*left, middle, *right], len(left)


def _from_the_middle(x: Tensor, caps, size: float, delta: float):
    """The same by way of a low-rank factorization at the bond where both sides are most alike, the
    halves of which are cut from their outer ends inwards; None where there is none.

    The half that carries the norm goes first. The c cuts of the other may not be orthogonal to the
    loss e of the factorization, all others are: cuts of delta' add up to

        (e + sqrt(c) delta')^2 + (d - 1 - c) delta'^2 = (d - 1) delta^2
    """
    d, sides = x.ndim, [math.prod(x.shape[:k]) for k in range(x.ndim)]
    k = min(range(1, d), key=lambda k: abs(math.log(sides[k] ** 2 / x.numel())))
    found = factorize(x.reshape(sides[k], -1), delta, caps[k - 1], size=size)
    if found is None:
        return None
    left = found.left.reshape(*x.shape[:k], -1).permute(*range(k, -1, -1))  # (r, n_{k-1}, ..., n_0)
    right = found.right.reshape(-1, *x.shape[k:])  # (r, n_k, ..., n_{d-1})
    before, after = list(caps[: k - 1])[::-1], list(caps[k:])  # caps of the bonds in each
    if found.heavy_left:
        left, right, before, after = right, left, after, before
    c, e = left.ndim - 2, found.loss
    square = c * e**2 + (d - 1) * ((d - 1) * delta**2 - e**2)
    share = (max(square, 0.0) ** 0.5 - c**0.5 * e) / (d - 1)
    share = max(share, zero_level(x.dtype) * size)
    weight, outer = _sweep(widen(right), [caps[k - 1], *after], share)  # (r, q)
    rest = torch.tensordot(weight.mT, widen(left), 1)  # (q, n_{k-1}, ..., n_0)
    middle, ends = _sweep(rest.flatten(0, 1), before, share)
    middle = middle.reshape(*rest.shape[:2], -1)
    if found.heavy_left:
        return [*(_mirror(core) for core in outer[::-1]), middle, *ends], len(outer)
    return [*(_mirror(core) for core in ends[::-1]), _mirror(middle), *outer], len(ends)


def _sweep(y: Tensor, caps, delta: float) -> tuple[Tensor, list[Tensor]]:
    """Cut the modes off the right end of (a, n_0, ..., n_{p-1}), one by one: what is left, (a, r),
    and right-orthonormal cores."""
    cores, a, b = [], y.shape[0], 1
    for n, cap in zip(y.shape[:0:-1], caps[::-1], strict=True):
        matrix = y.reshape(-1, n * b)
        v = _rows_basis(matrix, cap, delta)
        cores.insert(0, v.mH.reshape(-1, n, b))
        y, b = matrix @ v, v.shape[1]
    return y.reshape(a, b), cores


def _rows_basis(matrix: Tensor, cap, delta: float) -> Tensor:
    """`right_basis` by way of LAPACK's SVD of what a QR leaves, which costs less for small ones."""
    m, n = matrix.shape
    if matrix.numel() > DENSE and min(m, n) > SLAB:
        return right_basis(matrix, cap, atol=delta)[0]
    _, s, vh = small_svd(triangle(matrix) if m > n else matrix)
    return vh[: choose_rank(s, cap, atol=delta)].mH


def tt_round(tt: TT, rank=None, *, rtol: float | None = None) -> TT:
    """The train of smallest ranks within a tolerance, by weighing each bond and cutting it
    [Oseledets2011, Alg. 2].

        |tt - result| <= (rtol + 64 eps) |tt|      when `rank` does not cut earlier

    From left to right the triangular factor of all cores left of each bond is computed (no q is
    formed); from right to left each core is weighted by it and cut to its leading basis. Exact
    ranks are found: at rtol=1e-10 the result for x + 2x has the ranks of x. The cores are
    right-orthonormal but for the first, which carries the norm; where it cannot hold it, all share
    its power of two. Trains may have any length and bonds any grading: every factor is kept near 1
    in size.

    >>> g = torch.Generator().manual_seed(0)
    >>> x = TT.randn((4, 5, 6), rank=2, generator=g, dtype=torch.float64)
    >>> tt_round(x + 2 * x, rtol=1e-10).ranks
    (2, 2)
    """
    if not isinstance(tt, TT):
        raise TypeError(f"tt_round: needs a TT, got {type(tt).__name__}")
    caps = rank_caps("tt_round", rank, rtol, tt.shape, tt.ndim - 1)
    _check_cores(tt.cores, "tt_round", rank)
    share = max((rtol or 0.0) / math.sqrt(max(1, tt.ndim - 1)), zero_level(tt.dtype))
    cores = _wide(tt.cores)
    seen = any(differentiated(core) for core in cores)  # and nothing may be left out
    factor, basis = (_triangle, _smooth_basis) if seen else (_ranked_triangle, short_basis)

    def compute(care):
        _, weights, gauged, exponent = _from_left(cores, factor, care)
        return torch.linalg.vector_norm(weights[-1]), exponent, weights, gauged, care

    _, exponent, weights, cores, care = _in_range([cores], compute)
    carry = cores[0].new_ones(1, 1)
    for k in range(tt.ndim - 1, 0, -1):
        shape = (*cores[k].shape[:2], carry.shape[1])
        rows = (cores[k].flatten(0, 1) @ carry).reshape(len(cores[k]), -1)  # (r_k, n_k q)
        if care:
            rows, shift = near_one(rows)
            exponent = exponent + shift
        v = basis(weights[k] @ rows, caps[k - 1], share)  # of the unfolding, up to an isometry
        cores[k], carry = v.mH.reshape(-1, *shape[1:]), rows @ v
    cores[0] = torch.tensordot(cores[0], carry, 1)
    return TT(tuple(spread(cores, 0, exponent, tt.dtype)))


def _check_cores(cores, who: str, rank) -> None:
    """`check_cut` of each core, after one look at all of them."""
    first = cores[0]
    if (first.is_floating_point() or first.is_complex()) and all(map(readable, cores)):
        norms = [torch.linalg.vector_norm(core.detach()) for core in cores]
        if all(map(math.isfinite, torch.stack(norms).tolist())):
            return
    for core in cores:
        check_cut(core, who, rank)


def _smooth_basis(weighed: Tensor, cap, share: float) -> Tensor:
    """`short_basis`, to be differentiated or where no number can be read."""
    weighed, _ = near_one(weighed)
    size = read(torch.linalg.matrix_norm(weighed))
    return right_basis(weighed, cap, atol=share * size)[0]


def unfolding_ranks(shape) -> tuple[int, ...]:
    """The largest ranks a train of this shape can need: the smaller side of each of its d-1
    unfoldings.

    >>> unfolding_ranks((2, 3, 4))
    (2, 4)
    """
    shape = [int(n) for n in shape]
    return tuple(min(math.prod(shape[:k]), math.prod(shape[k:])) for k in range(1, len(shape)))


def _slab(modes, r):
    """How many modes to take off an end at once: as many as keep the slab within SLAB columns, one
    at least."""
    count, width = 1, r * modes[0]
    while count < len(modes) - 1 and width * modes[count] <= SLAB:
        width *= modes[count]
        count += 1
    return count


def _weight(y: Tensor, s: Tensor) -> Tensor:
    """The root of yᴴ y: diag(s), but where values of s are equal its derivative is a full block. y:
    (m, k), s: (k,)."""
    weight = torch.diag(s).to(y.dtype)
    if not differentiated(y):
        return weight
    total = s + s[:, None]
    rest = (y.mH @ y).fill_diagonal_(0) / torch.where(total > 0, total, torch.ones_like(total))
    return weight + rest - rest.detach()


def _split(slab: Tensor, weight: Tensor, caps, delta: float) -> list[Tensor]:
    """Cut a slab with orthonormal rows (k, n_0, ..., n_{p-1}, b) into p cores, the last p-1 of them
    right-orthonormal.

    What is measured is weight @ slab, the part of the whole tensor that it represents; what is
    projected is the slab.
    """
    k, *modes, b = slab.shape
    cores = []
    for j in range(len(modes) - 1, 0, -1):
        rows = slab.reshape(k, -1, modes[j] * b)
        v = truncated_svd(
            torch.tensordot(weight, rows, 1).flatten(0, 1), caps[j - 1], atol=delta
        ).vh.mH
        cores.insert(0, v.mH.reshape(-1, modes[j], b))
        slab, b = rows @ v, v.shape[1]
    return [slab.reshape(k, modes[0], b), *cores]


def _times_slices(v: Tensor, core: Tensor, i: Tensor) -> Tensor:
    """v[b] core[:, i_b] for each of a batch: (batch, r), (r, n, q), (batch,) -> (batch, q).

    The batch is sorted by its index, so that there is one product for each value and no slice is
    gathered for each entry. They are gathered where the index cannot be read, and where there are
    more values than entries.
    """
    if not readable(i) or core.shape[1] > len(i):
        return torch.bmm(v[:, None], core.transpose(0, 1).index_select(0, i))[:, 0]
    counts, order = torch.bincount(i, minlength=core.shape[1]).tolist(), torch.argsort(i)
    parts = v.index_select(0, order).split(counts)
    v = torch.cat([p @ m for p, m in zip(parts, core.unbind(1))])
    return torch.empty_like(v).index_copy(0, order, v)


def _mirror(core: Tensor) -> Tensor:
    return core.permute(2, 1, 0)


# -------------------------------------------------------------------------------------------- range


FAR = 2.0**40  # more than any exponent


def _in_range(trains, compute):
    """compute(care) -> value, exponent, ...: plainly where no product on the way leaves the floats
    in a way that the value shows, else with care, that is with exponents of two beside.

    trains: the cores of all that are multiplied. What is lost under the floats is at most the
    smallest of them times what the cores that follow make of it, and shows unless the value is far
    larger. A zero is believed where nothing grows by more than a quarter of the exponents.
    """
    if not all(known(core) for cores in trains for core in cores):
        return compute(True)
    out = compute(False)
    if not known(out[0]):  # the places are mapped, and not the trains
        return compute(True)
    value, most = out[0].detach().abs(), _most(out[0])
    swing, least = _swing(trains, value.amin() if value.numel() else value.new_ones(()))
    if least == 0.0 and swing < most / 4:
        least = float((value + (value == 0)).amin())
    if swing >= most - 23:
        return compute(True)
    lost = 2.0 ** (swing - most + 20) / torch.finfo(value.dtype).eps
    return out if least > lost else compute(True)


def _swing(trains, value: Tensor) -> tuple[float, float]:
    """log2 of what the first or the last few cores of trains multiply by, at most, and the number
    in `value`; inf and 0 where they are not finite."""
    with torch.no_grad():
        norms = [torch.linalg.vector_norm(core) for cores in trains for core in cores]
        *numbers, last = torch.stack([*norms, value.to(norms[0].dtype)]).tolist()
    if not math.isfinite(sum(numbers) + last):
        return math.inf, 0.0
    least = math.sqrt(torch.finfo(trains[0][0].dtype).tiny)  # squares under it are lost
    sizes = [math.log2(max(norm, least)) for norm in numbers]
    sizes = [sum(sizes[k :: len(trains[0])]) for k in range(len(trains[0]))]
    return max(0.0, *accumulate(sizes), *accumulate(sizes[::-1])), last


def _exponents(cores) -> list[Tensor]:
    """The exponents of two of max_n |core[a, n, b]|, (r, q) in float64 for each core; of zeros
    about -FAR."""
    with torch.no_grad():
        largest = [core.abs().amax(1) for core in cores]
        x = torch.cat([t.flatten() for t in largest]).double()
        e = x.log2().clamp_min(1 - _most(cores[0])).ceil() + (x.sign() - 1) * FAR
    return [t.reshape(x.shape) for t, x in zip(e.split([x.numel() for x in largest]), largest)]


def _gauge(
    core: Tensor, size: Tensor, shift: Tensor, dim: int | tuple[int, ...] = 0
) -> tuple[Tensor, Tensor]:
    """core[a, :, b] 2^(shift_ab - top) and top, which makes the largest entry along `dim` about 1.

    size: of `_exponents`. shift: (r, 1) or (r, q): each part of what a bond sums has its
    own exponent, and so may be of any size. top: (q,), or one number for dim=(0, 1).
    """
    top = (size + shift).amax(dim)
    return ldexp(core, (shift - top)[:, None]), top


def _gauged(cores, care: bool):
    """With care: a train whose first few cores have a product near 1, column by column, and the
    power of two that the given one is of it."""
    if not care:
        return cores, 0
    out, sizes = [], _exponents(cores)
    exponent = torch.zeros_like(sizes[0][:, 0])
    for core, size in zip(cores, sizes):
        core, exponent = _gauge(core, size, exponent[:, None])
        out.append(core)
    return out, exponent[0]


def _from_left(
    cores, factor, care: bool, one: Tensor | None = None
) -> tuple[list, list, list, Any]:
    """Of the first cores of a train, one after another, the part left of the bond behind: q w.

    factor: t -> q, w with t = q w and orthonormal columns in q. Returns the q (rows, n, k) or None,
    the w (k, r), first of all `one`, the cores, and an exponent. With care: the part left is
    q w diag(2^exponent), columns of w are near 1, and the cores are in the gauge in which they
    multiply the q w. So a bond may be graded by any power.
    """
    w = cores[0].new_ones(1, 1) if one is None else one
    bases, weights, out = [], [w], []
    exponent: Any = torch.zeros_like(w[0].real) if care else 0  # a 0 that `ldexp` leaves alone
    for core, size in zip(cores, _exponents(cores) if care and len(cores) else cores):
        if care:
            core, exponent = _gauge(core, size, exponent[:, None])
        q, w = factor((w @ core.flatten(1)).reshape(-1, core.shape[2]))
        if care:
            shift = size_exponent(w, 0)[0].to(exponent.dtype)
            back, exponent = torch.exp2(-shift), exponent + shift
            w, core = w * back, core * back
        bases.append(q if q is None else q.unflatten(0, (len(weights[-1]), -1)))
        weights.append(w)
        out.append(core)
    return bases, weights, out, exponent


def _triangle(t: Tensor) -> tuple[None, Tensor]:
    return None, triangle(t)


def _ranked_triangle(t: Tensor) -> tuple[None, Tensor]:
    return None, ranked_triangle(t)


def _wide(cores) -> list[Tensor]:
    return [widen(core) for core in cores]


def _singles(cores) -> list[Tensor]:
    """Half precision in 32 bits: it has too few powers of two for products."""
    return [core if core.dtype.itemsize > 2 else core.float() for core in cores]


def _most(core: Tensor) -> int:
    """The largest power of two of its dtype, by its exponent."""
    return math.frexp(torch.finfo(core.dtype).max)[1] - 1
