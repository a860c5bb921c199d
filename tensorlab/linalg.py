"""Matrices: every truncation, and the one way in which long matrices are factorized.

Nothing of a tensor's size is ever given to an SVD or a QR. The leading singular vectors of a long
matrix a (m, n), m >> n, are the eigenvectors of its small Gram matrix aᴴa. A Gram matrix squares
the singular values and so loses those below sqrt(eps); where that matters, the columns are rotated
by the eigenvectors and the Gram matrix is formed once more: now its columns are nearly orthogonal,
only *graded*, and scaled to unit diagonal its factor keeps the relative accuracy of each column
[DemmelVeselic1992]. Sums are in float64 whatever the data.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .arguments import rank_caps
from .capture import differentiated, primal, readable, twice
from .sketch import factorize, frobenius

EPS = torch.finfo(torch.float64).eps
SMALL = 1 << 14  # entries up to which LAPACK's SVD is given the matrix as it is
BLOCK = 1 << 19  # entries worked on at a time: 4 MiB of float64
RUN = 128  # rows whose products are summed at once, one after another where BLAS does it so
UNREAD = "where no number can be read (torch.func.vmap, torch.compile, traces)"
SKETCH = 1 << 16  # entries from which a few rows are asked for a factorization first


class SVD(NamedTuple):
    """a ≈ u @ diag(s) @ vh with orthonormal columns in u and vhᴴ and s descending."""

    u: Tensor
    s: Tensor
    vh: Tensor


# --------------------------------------------------------------------------------- how much to keep


def choose_rank(s: Tensor, rank: int | None = None, *, atol: float = 0.0) -> int:
    """Smallest r such that the discarded tail has norm at most `atol`, capped by `rank`.

        r = min { k >= 1 : (s_{k+1}^2 + ... + s_n^2)^(1/2) <= atol }

    Every truncation in tensorlab ends here. The answer is never 0: a zero matrix has one (zero)
    term, so shapes stay regular. s: singular values, descending, shape (n,). Reading them is the
    one step that is not differentiable; where they cannot be read (`capture.readable`), r is
    `rank`.

    >>> s = torch.tensor([4.0, 3.0, 0.1])
    >>> choose_rank(s, atol=0.2), choose_rank(s, 1, atol=0.2)
    (2, 1)
    """
    if not readable(s):
        if rank is None:
            raise ValueError(f"choose_rank: needs a rank {UNREAD}, got none")
        return min(rank, len(s))
    values = s.detach().tolist()  # read once: the sums are shorter than their launches
    top = values[0] if values else 0.0
    if top == 0.0:
        return 1
    tail, kept = 0.0, len(values)
    for value in reversed(values):
        part = value / top
        tail += part * part
        if math.sqrt(tail) > atol / top:
            break
        kept -= 1
    kept = max(1, kept)
    return kept if rank is None else min(kept, int(rank))


def zero_level(dtype: torch.dtype) -> float:
    """Relative norm below which a tail of singular values counts as zero: 2 eps(dtype) + 16
    eps(float64).

    The first term is what rounding the entries to `dtype` leaves behind, the second what our sums
    do.

    >>> zero_level(torch.float32) < 3e-7
    True
    """
    return 2 * torch.finfo(dtype).eps + 16 * EPS


# ------------------------------------------------------------------------------------ what comes in


def check_dense(x: Tensor, who: str) -> None:
    """Refuse what is not a dense floating tensor of finite numbers, with the errors of
    `dense_norm`.

    >>> check_dense(torch.tensor([1.0, math.nan]), "tt_svd")
    Traceback (most recent call last):
    ValueError: tt_svd: needs finite entries, got nan at index (1,)
    """
    dense_norm(x, who)


def dense_norm(x: Tensor, who: str) -> float:
    """Frobenius norm of a dense floating tensor of finite numbers.

    One pass over the data, without a copy, unless the squares would over- or underflow. Raises
    TypeError for integers, ValueError for 0-way or empty tensors, for those without numbers (meta)
    and for NaN or Inf, with the place of the first.

    >>> dense_norm(torch.tensor([3e-200, -4e-200], dtype=torch.float64), "norm") == 5e-200
    True
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{who}: needs a torch tensor, got {type(x).__name__}")
    if not (x.is_floating_point() or x.is_complex()):
        raise TypeError(f"{who}: needs floating-point or complex entries, got {x.dtype}")
    if x.layout != torch.strided:
        raise TypeError(f"{who}: needs a dense tensor, got one of layout {x.layout}")
    if x.ndim == 0 or x.numel() == 0:
        raise ValueError(
            f"{who}: needs a tensor with at least one mode and one entry, got shape "
            f"{tuple(x.shape)}"
        )
    if x.is_meta:
        raise ValueError(f"{who}: needs a tensor with numbers, got one on the meta device")
    if not readable(x):
        raise ValueError(f"{who}: needs numbers that it can read, got a tensor {UNREAD}")
    x = x.detach()
    safe, y = 1e90, x
    if x.dtype != wide(x.dtype):  # sums in float32, for torch converts slowly
        safe, y = 1e15, x.to(torch.complex64 if x.is_complex() else torch.float32)
    size = frobenius(y)
    if 1 / safe < size < safe:
        return size
    low, high = torch.aminmax(torch.view_as_real(x.resolve_conj()) if x.is_complex() else x)
    largest = max(-float(low), float(high))
    if not math.isfinite(largest):
        bad = tuple((~torch.isfinite(x)).nonzero()[0].tolist())
        raise ValueError(f"{who}: needs finite entries, got {x[bad].item()} at index {bad}")
    scale = safe_scale(largest)
    size = float(torch.linalg.vector_norm(x * scale, dtype=wide(x.dtype))) / scale
    if size == math.inf:
        raise ValueError(
            f"{who}: needs a tensor whose norm is a float64, got entries up to {largest}"
        )
    return size


def check_cut(x: Tensor, who: str, rank) -> None:
    """`check_dense` of a tensor that is cut to a rank, with the errors of `cut_norm`.

    >>> check_cut(torch.tensor([3.0, 4.0]), "tt_round", 1)
    """
    cut_norm(x, who, rank)


def cut_norm(x: Tensor, who: str, rank) -> float:
    """`dense_norm` of a tensor that is cut to a rank, which can be done unseen.

    Where its numbers cannot be read the ranks are the caps and entries are taken to be of a size
    that can be squared: 1.0. Raises ValueError there if `rank` is None.

    >>> cut_norm(torch.tensor([3.0, 4.0]), "tt_svd", None)
    5.0
    """
    if not isinstance(x, Tensor) or x.is_meta or readable(x):
        return dense_norm(x, who)
    if rank is None:
        raise ValueError(f"{who}: needs a rank {UNREAD}, got none")
    return 1.0


def safe_scale(largest: float, safe: float = 1e90) -> float:
    """A power of two that brings numbers of this size near 1; exactly 1 where their squares are
    safe anyway, from 1 / safe to safe.

    >>> safe_scale(3.0), safe_scale(2.0**-600) == 2.0**599
    (1.0, True)
    """
    if largest == 0.0 or 1 / safe < largest < safe or not math.isfinite(largest):
        return 1.0
    return math.ldexp(1.0, min(max(-math.frexp(largest)[1], -1022), 1022))


def norm(x: Tensor) -> Tensor:
    """Frobenius norm, in the dtype that sums are done in, also where the squares would over- or
    underflow.

    >>> norm(torch.tensor([3e-200, -4e-200], dtype=torch.float64)).item() == 5e-200
    True
    """
    y, exponent = near_one(widen(x))
    return ldexp(torch.linalg.vector_norm(y), exponent)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums are done in: float64, or complex128.

    >>> wide(torch.bfloat16)
    torch.float64
    """
    return torch.complex128 if dtype.is_complex else torch.float64


def real(dtype: torch.dtype) -> torch.dtype:
    """The dtype of absolute values.  `torch.dtype.to_real`, but it can be traced.

    >>> real(torch.complex64), real(torch.float16)
    (torch.float32, torch.float16)
    """
    parts = {torch.complex32: torch.float16, torch.complex64: torch.float32}
    return {**parts, torch.complex128: torch.float64}.get(dtype, dtype)


def widen(x: Tensor) -> Tensor:
    """The same numbers in the dtype that sums are done in.

    >>> widen(torch.ones(2, dtype=torch.complex64)).dtype
    torch.complex128
    """
    return x.to(wide(x.dtype))


# -------------------------------------------------------------------------------------------- sizes


def near_one(x: Tensor, dim=None) -> tuple[Tensor, Tensor]:
    """y and e with x = y 2^e and the largest entry of y along `dim` in [1/2, 1), of zeros e = 0.

    dim: an axis or several, which stay in e with size 1; all by default, and e is one number. e:
    int32, without a gradient. So long products are kept in range: the exponents are summed apart
    and given back by `ldexp`. Nothing is read and nothing branches, so it can be traced, mapped and
    left on a GPU.

    >>> near_one(torch.tensor([[3.0, -4.0], [0.0, 0.0]]), dim=1)
    (tensor([[ 0.3750, -0.5000],
            [ 0.0000,  0.0000]]), tensor([[3],
            [0]], dtype=torch.int32))
    """
    most = _most(x.dtype)
    return _without(x, size_exponent(x, dim).clamp(1 - most, most - 1))


def in_range(x: Tensor, dim=None) -> tuple[Tensor, Tensor]:
    """y and e with x = y 2^e, where e is 0 unless a product of three such y could leave the floats.

    As `near_one`, but what is within 2^±331 (float32: 2^±32) stays as it is, so that small entries
    beside large ones keep all the range that there is: what a plain product gets right stays right.

    >>> x = torch.tensor([2.0**900, 2.0**-600], dtype=torch.float64)
    >>> in_range(x)[1], in_range(x / 2.0**600)[1]
    (tensor(570, dtype=torch.int32), tensor(0, dtype=torch.int32))
    """
    exponent, room = size_exponent(x, dim), max(0, _most(x.dtype) // 3 - 10)
    return _without(x, exponent - exponent.clamp(-room, room))


def ldexp(x: Tensor, exponent: Tensor | int) -> Tensor:
    """x * 2^exponent, in two steps, as 2^exponent alone may not be a float.

    exponent: an integer, or a tensor of them that broadcasts with x.

    >>> ldexp(torch.tensor(2.0**-1000, dtype=torch.float64), 2000).log2()
    tensor(1000., dtype=torch.float64)
    """
    if isinstance(exponent, int) and exponent == 0:
        return x
    exponent = torch.as_tensor(exponent, device=x.device).detach()
    half, most = exponent // 2, _most(x.dtype)
    for part in (half, exponent - half):
        x = x * torch.exp2(part.clamp(1 - most, most).to(real(x.dtype)))
    return x


def size_exponent(x: Tensor, dim=None) -> Tensor:
    """The e with the largest entry of x along `dim` in [2^(e-1), 2^e); of zeros 0.  As in
    `near_one`; with dim=() each entry has its own.

    >>> size_exponent(torch.tensor([0.3, -5.0]))
    tensor(3, dtype=torch.int32)
    """
    x = x.detach().abs()
    if dim is None:
        x = x.amax()
    elif not isinstance(dim, tuple) or dim:
        x = x.amax(dim, keepdim=True)
    return torch.frexp(x).exponent


def spread(tensors, carrier: int, exponent: Tensor | int, dtype: torch.dtype) -> list[Tensor]:
    """Tensors whose product is 2^exponent times that of the given ones, in `dtype`.

    The power goes into the tensor `carrier`; where that could not hold it, the tensors share its
    size evenly.

    >>> spread([torch.tensor(2.0), torch.tensor(1.0)], 0, 130, torch.float32)[0].log2()
    tensor(65.)
    """
    total = size_exponent(tensors[carrier]) + exponent
    alone = total.abs() < _most(dtype) - 1
    if everywhere(alone):
        return [
            (ldexp(t, exponent) if k == carrier else t).to(dtype) for k, t in enumerate(tensors)
        ]
    count, shared = len(tensors), torch.where(alone, 0, total)
    steps = torch.arange(count + 1, device=total.device)
    ends, rest = shared * steps // count, exponent - shared
    parts = ends[1:] - ends[:-1]
    return [
        ldexp(t, part + rest if k == carrier else part).to(dtype)
        for k, (t, part) in enumerate(zip(tensors, parts))
    ]


def everywhere(x: Tensor) -> bool:
    """Whether all of x is true; False where its numbers cannot be read, see `readable`.

    To branch on: what needs no care is computed plainly, all else, and what torch records, with
    care.

    >>> everywhere(torch.tensor([1.0, 2.0]) > 0), everywhere(torch.empty(2, device="meta") > 0)
    (True, False)
    """
    return readable(x) and bool(x.all())


def _without(x: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor]:
    return x * torch.exp2(-exponent.to(real(x.dtype))), exponent


def _most(dtype: torch.dtype) -> int:
    """The largest power of two in a dtype, by its exponent."""
    return math.frexp(torch.finfo(dtype).max)[1] - 1


# ----------------------------------------------------------------------------------- factorizations


def orthogonalize(a: Tensor) -> tuple[Tensor, Tensor]:
    """a = q @ r with orthonormal columns in q and, so that the answer is unique, diag(r) >= 0.

    a: (m, n) -> q: (m, k), r: (k, n), k = min(m, n). For factors and cores, never for whole
    tensors.

    The gradient is that of the product q @ r, as every caller here contracts q with r again;
    directions in which `a` is rank deficient are left out of it, so it is finite for every `a`.

    >>> q, r = orthogonalize(torch.tensor([[0.0, -2.0], [3.0, 0.0]], dtype=torch.float64))
    >>> r.diagonal()
    tensor([3., 2.], dtype=torch.float64)
    """
    q, r = _apply(_QR, widen(a))
    return q.to(a.dtype), r.to(a.dtype)


def orthonormal(a: Tensor) -> Tensor:
    """The q of a = q @ r alone, (m, n) -> (m, min(m, n)), in the dtype of `a`, of 32 bits or more;
    without a gradient.

    >>> orthonormal(torch.tensor([[3.0], [4.0]])).abs().flatten()
    tensor([0.6000, 0.8000])
    """
    return torch.linalg.qr(a.detach()).Q


def extend_basis(u: Tensor, x: Tensor) -> Tensor:
    """[u | q] with orthonormal columns whose span holds those of u and x; u stays unchanged.

    u: (m, r), orthonormal. x: (m, n) -> (m, min(m, r + n)). What x has of u is taken out twice,
    which leaves nothing but rounding. In the dtype of u, of 32 bits or more; without a gradient.

    >>> extend_basis(torch.eye(3, 1), torch.tensor([[5.0], [2.0], [0.0]])).abs()
    tensor([[1., 0.],
            [0., 1.],
            [0., 0.]])
    """
    m, r = u.shape
    if (
        2 * (r + x.shape[1]) > m
    ):  # what is left of x where it lies in u is noise, a large share of which u holds again
        return torch.cat([u, orthogonalize(torch.cat([u, x], 1))[0][:, r:]], 1)
    for _ in range(2):
        x = orthonormal(x - u @ (u.mH @ x))
    return torch.cat([u, x], 1)


def triangle(a: Tensor) -> Tensor:
    """The r of a = q @ r alone, with rᴴr = aᴴa: the norm of `a` in every direction, without forming
    q.

    a: (m, n) -> r: (min(m, n), n). Differentiable as `orthogonalize`, and for rank-deficient `a`
    too.

    >>> triangle(torch.tensor([[3.0], [4.0]])).abs()
    tensor([[5.]])
    """
    if differentiated(a):
        return orthogonalize(a)[1]
    return torch.linalg.qr(widen(a), mode="r").R.to(a.dtype)


def ranked_triangle(a: Tensor) -> Tensor:
    """`triangle` without its last rows where these hold no more of each column than a QR rounds,
    (m, n) -> (k, n): columns in the span of those before them leave many such. Without a gradient.

    >>> ranked_triangle(torch.ones(4, 3, dtype=torch.float64)).abs()
    tensor([[2., 2., 2.]], dtype=torch.float64)
    """
    r = torch.linalg.qr(a, mode="r").R
    if len(r) == r.shape[1]:  # the last row is one number, and often shows that all are needed
        last, column = r[-1, -1].abs(), torch.linalg.vector_norm(r[:, -1])
        if float(last) > 8 * torch.finfo(r.dtype).eps * float(column):
            return r
    sizes = r.abs()
    sizes = sizes / sizes.amax(0).clamp_min(torch.finfo(r.dtype).tiny)  # squares have a range
    tails = sizes.square().flip(0).cumsum(0)  # of each column, the last row first
    held = (tails > (8 * torch.finfo(r.dtype).eps) ** 2 * tails[-1]).any(1)
    return r[: max(1, int(held.sum()))]


def short_basis(a: Tensor, rank: int | None, share: float) -> Tensor:
    """An orthonormal basis of the leading right singular vectors of a small matrix, (m, n) ->
    (n, r), that loses at most `share` of its norm unless `rank` cuts earlier. Without a gradient.

    Where much is lost the Gram matrix of the rows shows what; else LAPACK's SVD of what a QR
    leaves, unless 1 / |r^-1|, under which no singular value is, tells that nothing is cut.

    >>> short_basis(torch.tensor([[3.0, 0.0, 4.0]]), None, 0.0).flatten().abs()
    tensor([0.6000, 0.0000, 0.8000])
    """
    (m, n), size = a.shape, float(torch.linalg.vector_norm(a))
    if not 2.0**-300 < size < 2.0**300:  # squares have a range
        a, _ = near_one(a)
        size = float(torch.linalg.vector_norm(a))
    if m >= n:
        r = a if m == n else torch.linalg.qr(a, mode="r").R
        _, s, vh = torch.linalg.svd(r, full_matrices=False)
        return vh[: choose_rank(s, rank, atol=share * size)].mH
    capped = rank is not None and rank < m
    if a.numel() >= SMALL >> 1 and (share > 1e-7 or capped):  # smaller ones gain nothing
        if (u := _clear_cut(a @ a.mH, rank, share)) is not None:
            return torch.linalg.qr(a.mH @ u).Q
    q, r = torch.linalg.qr(a.mH)
    if not capped:
        inverse = torch.linalg.solve_triangular(r, torch.eye(m).to(r), upper=True)
        if share * size * float(torch.linalg.vector_norm(inverse)) < 1:
            return q
    turn, s, _ = torch.linalg.svd(r)
    return q @ turn[:, : choose_rank(s, rank, atol=share * size)]


def _clear_cut(gram: Tensor, rank: int | None, share: float) -> Tensor | None:
    """The leading eigenvectors of a Gram matrix, as many as lose `share` of the matrix's norm; None
    where the loss is not clear of rounding, or the rank that meets it is not."""
    w, u = _eigh(gram)
    energy = float(w.sum())
    noise = 1e4 * _noise(len(w), energy)
    low, high = (
        choose_rank(w.sqrt(), rank, atol=max(share**2 * energy + sign * noise, 0.0) ** 0.5)
        for sign in (1e-4, -1e-4)
    )
    by_loss = rank is None or high < rank  # which the margins above keep
    clear = low == high < len(w) and (by_loss or float(w[high:].sum()) > noise)
    return u[:, :high] if clear and math.isfinite(energy) else None


def truncated_svd(
    a: Tensor, rank: int | None = None, *, rtol: float | None = None, atol: float | None = None
) -> SVD:
    """Best low-rank approximation a ≈ u @ diag(s) @ vh in the Frobenius norm [EckartYoung1936].

    a: (m, n), real or complex floating, of any length. Returns u: (m, r), s: (r,), vh: (r, n) in
    the dtype of `a`. `rtol` is relative to |a|, `atol` absolute; the rank is the smallest that
    meets them, capped by `rank`. Singular values under `zero_level` count as zero. Where kept
    values are equal, gradients are right for functions of the spans, of u @ vh and of s; of (u * s)
    @ vh take them by way of `LowRank.from_dense`.

    >>> truncated_svd(torch.diag(torch.tensor([3.0, 2.0, 1e-3])), rtol=1e-2).s
    tensor([3., 2.])
    """
    u, s, vh = wide_svd("truncated_svd", a, rank, rtol=rtol, atol=atol)
    return SVD(u.to(a.dtype), s.to(real(a.dtype)), vh.to(a.dtype))


def wide_svd(
    who: str, a: Tensor, rank: int | None = None, *, rtol=None, atol: float | None = None
) -> SVD:
    """`truncated_svd` in the dtype that sums are done in, for what is made of its factors.

    who: the function that the user called, for the error.
    a: a matrix (m, n).
    rank: a cap; None: no cap.
    rtol: the Frobenius error that is allowed, relative to |a|; None: only the cap counts.
    atol: the same as an absolute number, in place of rtol.

    Raises ValueError or TypeError for a bad matrix, rank or tolerance.

    >>> wide_svd("LowRank", torch.ones(2, 2, dtype=torch.float16), 1).s.round(decimals=9)
    tensor([2.], dtype=torch.float64)
    """
    size = cut_norm(a, who, rank)
    if a.ndim != 2:
        raise ValueError(f"{who}: needs a matrix, got shape {tuple(a.shape)}")
    if rtol is not None and atol is not None:
        raise ValueError(f"{who}: needs rtol or atol, not both, got rtol={rtol} and atol={atol}")
    (cap,) = rank_caps(who, rank, rtol if atol is None else atol, a.shape, 1)
    scale = safe_scale(size)
    zero, a, size = zero_level(a.dtype), a if scale == 1.0 else a * scale, size * scale
    atol = max((rtol or 0.0) * size if atol is None else atol * scale, zero * size)
    u, s, vh = _svd(a, cap, atol)
    return SVD(u, s / scale, vh)


def _svd(a: Tensor, rank: int | None, atol: float) -> SVD:
    if a.numel() <= SMALL:
        u, s, vh = _apply(_SmallSVD, widen(a))
        r = choose_rank(s, rank, atol=atol)
        return SVD(u[:, :r], s[:r], vh[:r])
    if a.shape[0] < a.shape[1]:
        u, s, vh = _svd(a.mH, rank, atol)
        return SVD(vh.mH, s, u.mH)
    v, s = right_basis(a, rank, atol=atol)
    return SVD(_unit_columns(project(a, v)), s, v.mH)


def right_basis(
    a: Tensor, rank: int | None = None, *, atol: float = 0.0, size: float | None = None
) -> tuple[Tensor, Tensor]:
    """Leading right singular vectors and values of a long matrix, from its Gram matrix.

    a: (m, n)  ->  v: (n, r) with orthonormal columns, s: (r,) descending, in float64, such that

        | a - a v vᴴ | <= max(atol, a few eps |a|)     unless `rank` cuts earlier.

    The cost is one product of 2 m n^2 flops; two where the tolerance is under about 1e-7 |a| (see
    the module's head). A wide matrix is treated by its rows. The entries must be of a size that can
    be squared (`safe_scale`). size: |a|, where it is known.

    >>> a = torch.tensor([[3.0, 0.0], [0.0, 1e-9], [4.0, 0.0]], dtype=torch.float64)
    >>> right_basis(a, atol=1e-12)[1]
    tensor([5.0000e+00, 1.0000e-09], dtype=torch.float64)
    """
    if not readable(a):  # nor can be seen whether a Gram matrix resolves what is asked for
        _, s, vh = _apply(_SmallSVD, widen(a))
        r = choose_rank(s, rank)
        return vh[:r].mH, s[:r]
    m, n = a.shape
    if m < n:
        u, s = right_basis(a.mH, rank, atol=atol, size=size)
        if float(s[0].detach()) == 0.0:
            return torch.eye(n, 1, dtype=u.dtype, device=u.device), s
        return _unit_columns(project(a.mH, u)), s
    if a.numel() > SKETCH and a.dtype.itemsize > 2 and not differentiated(a):
        found = _sketched_basis(a, rank, atol, size)
        if found is not None:
            return found
    v, s, r = _apply(_GramBasis, a, rank, atol)
    return v[:, :r], s[:r]


def project(a: Tensor, v: Tensor) -> Tensor:
    """a @ v in float64, block by block where `a` is narrower.  a: (m, n), v: (n, r)  ->  (m, r).

    >>> project(torch.ones(3, 2, dtype=torch.float16), torch.ones(2, 1, dtype=torch.float64)).dtype
    torch.float64
    """
    if a.dtype == v.dtype:
        return a @ v
    return torch.cat([widen(block) @ v for block in _blocks(a)])


def least_squares(a: Tensor, b: Tensor, rtol: float) -> Tensor:
    """The x of least norm among those with the least |a x - b|_F, singular values of a below rtol
    times the largest taken as zero. a: (m, n), b: (m, k) -> (n, k).

    >>> least_squares(torch.eye(3, 2), torch.ones(3, 1), 1e-6)
    tensor([[1.],
            [1.]])
    """
    return torch.linalg.pinv(a, rtol=rtol) @ b


def solve_gram(gram: Tensor, b: Tensor) -> Tensor:
    """Solve gram @ x = b for a Hermitian positive semidefinite matrix, or a batch of them, also
    where it is singular.

    gram: (..., r, r), b: (..., r, m) -> x: (..., r, m). The matrix is scaled to unit diagonal and r
    eps is added to it: no more than the rounding it carries, and enough that dead or equal columns
    do no harm.

    >>> solve_gram(torch.ones(2, 2), torch.ones(2, 1)).sum().round(decimals=3)
    tensor(1.)
    """
    r = gram.shape[-1]
    d = gram.diagonal(dim1=-2, dim2=-1).real.clamp_min(0)
    d = torch.where(d > 0, d, torch.ones_like(d)).rsqrt()[..., None].to(gram.dtype)
    ridge = r * torch.finfo(gram.dtype).eps * torch.eye(r, dtype=gram.dtype, device=gram.device)
    scaled = d * gram * d.mT + ridge
    factor, info = torch.linalg.cholesky_ex(scaled)
    if info.any():  # indefinite, or singular, by its own rounding
        return d * (torch.linalg.pinv(scaled, hermitian=True) @ (d * b))
    return d * torch.cholesky_solve(d * b, factor)


def solve(a: Tensor, b: Tensor) -> Tensor:
    """x with a @ x = b for a square matrix; where a is singular, the shortest of the x that come
    nearest.

    >>> solve(torch.diag(torch.tensor([2.0, 0.0])), torch.ones(2, 1)).flatten()
    tensor([0.5000, 0.0000])
    """
    x, info = torch.linalg.solve_ex(a, b)
    return torch.linalg.pinv(a) @ b if info else x


# ------------------------------------------------------------------------------------- the Gram way


def singular_values(a: Tensor) -> Tensor:
    """Singular values of a small matrix or of many, descending: (..., m, n) -> (..., min(m, n)).

    >>> singular_values(torch.tensor([[3.0, 0.0], [0.0, -4.0]]))
    tensor([4., 3.])
    """
    return torch.linalg.svdvals(a)


def small_svd(a: Tensor) -> SVD:
    """The whole SVD of many small matrices at once: (..., m, n) -> (..., m, r), (..., r), (..., r,
    n), r = min(m, n).

    >>> u, s, vh = small_svd(torch.ones(5, 2, 3))
    >>> u.shape, s.shape, vh.shape
    (torch.Size([5, 2, 2]), torch.Size([5, 2]), torch.Size([5, 2, 3]))
    """
    return SVD(*_apply(_SmallSVD, a))


def eigh(a: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors of a Hermitian matrix.

    >>> eigh(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))[0]
    tensor([-1.,  1.])
    """
    values, vectors = torch.linalg.eigh(a)
    return values, vectors


def root(s: Tensor) -> Tensor:
    """√s of numbers >= 0, with the derivative 0 where they are 0.

    >>> root(torch.tensor([4.0, 0.0]))
    tensor([2., 0.])
    """
    positive = s > 0
    return torch.where(positive, torch.where(positive, s, 1.0).sqrt(), 0.0)


def psd_root(m: Tensor, tol: float = 0.0) -> Tensor:
    """A matrix c with c cᴴ = m, of a symmetric matrix without eigenvalues below -tol times its
    largest; those count as zero.

    >>> c = psd_root(torch.tensor([[2.0, 1.0], [1.0, 2.0]]))
    >>> torch.allclose(c @ c.mT, torch.tensor([[2.0, 1.0], [1.0, 2.0]]))
    True
    """
    values, vectors = torch.linalg.eigh(m)
    askew = (m - m.mH).abs().max() > 1e-5 * m.abs().max()
    if askew or values[..., 0].min() < -tol * values.abs().max():
        raise ValueError(
            f"psd_root: needs a positive semidefinite matrix, got the eigenvalues "
            f"{values[..., 0].min():.3g} and up"
        )
    return vectors * values.clamp_min(0).sqrt()[..., None, :]


def _entries(a: Tensor) -> int:
    """Entries to work on at a time: more where a launch costs more than a cache miss."""
    return BLOCK if a.device.type == "cpu" else BLOCK << 6


def _blocks(a: Tensor):
    """Row blocks of a matrix."""
    return a.split(max(1, _entries(a) // max(1, a.shape[1])))


def _gram(a: Tensor, v: Tensor | None = None) -> Tensor:
    """(a v)ᴴ (a v) with float64 sums; v = 1 by default.  Nothing of the size of `a` is kept.

    RUN rows are summed at once, what comes of them in pairs: however a BLAS sums, its rounding is
    that of short sums (`_noise`).
    """
    m, n = a.shape
    rows = -(-max(1, _entries(a) // n) // RUN) * RUN
    if m > rows:
        half = -(-m // (2 * rows)) * rows
        return _gram(a[:half], v) + _gram(a[half:], v)
    y = widen(a) if v is None else widen(a) @ v
    runs = y[: m // RUN * RUN].reshape(m // RUN, RUN, y.shape[1])
    rest = y[m // RUN * RUN :]
    return torch.bmm(runs.mH, runs).sum(0) + rest.mH @ rest


def _noise(n: int, energy: float) -> float:
    """A bound for what rounding does to any sum of eigenvalues of `_gram`, (n, n) of trace
    `energy`.

    Independent errors of eps in each entry make sqrt(n) eps of it. Products that all round the same
    way, as of polynomials and roots on a grid, were seen to make 2.3 times that over runs of 128
    rows (200 times over runs of 4096); 10 leaves a factor of 4.
    """
    return 10 * math.sqrt(n) * EPS * energy


def _eigh(g: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, descending and not negative, and eigenvectors."""
    w, v = torch.linalg.eigh(g)
    return w.clamp_min(0).flip(0), v.flip(1)


def _gram_basis(
    a: Tensor, rank: int | None, atol: float, left: float = 0.0
) -> tuple[Tensor, Tensor, int, int]:
    """All right singular vectors and values, and two ranks, low <= high.

    The smallest rank that meets atol is at least `low`, whatever rounding did, and `high` meets it,
    together with `left`, the norm of what `a` does not hold. They differ by one at most, or by what
    `left` makes of it: else the Gram matrix is not good enough, and is repaired.
    """
    w, v = _eigh(_gram(a))
    n, energy, s = len(w), float(w.sum()), w.sqrt()
    atol, noise = min(atol, math.sqrt(energy)), _noise(n, energy)
    room = atol**2 - left**2 - noise
    low = choose_rank(s, rank, atol=math.sqrt(atol**2 + noise))
    high = choose_rank(s, rank, atol=math.sqrt(room)) if room >= 0 else min(n, rank or n)
    if high == n and low == n:
        return v, s, low, high
    # Vectors that are turned by rounding lose energy to those that are cut: more than wanted?
    tail, last = float(w[high:].sum()), float(w[high - 1])
    lost = noise / n * (noise / last) if last > 0 else math.inf
    capped = 1e-2 * tail if high == rank and tail > 4 * noise else 0.0
    precise = lost <= max((32 * EPS) ** 2 * energy, room - tail, capped)
    certain = high - low <= (room >= noise)
    if certain and not precise and 2 * high <= n and last > noise:
        v, precise = _turned(a, v, high), True
    if certain and precise:
        return v, s, low, high
    v, s = _repair(a, v)
    low = choose_rank(s, rank, atol=atol)
    return v, s, low, choose_rank(s, rank, atol=math.sqrt(max(atol**2 - left**2, 0.0)))


def _turned(a: Tensor, v: Tensor, r: int) -> Tensor:
    """One step of subspace iteration, aᴴ a v, for the first r of the singular vectors, whose values
    stand clear of the Gram matrix's noise; the others are made orthogonal to them.

    A column's rounding is eps |a| s_i of its s_i^2, so that of its energy no more than eps^2 |a|^2
    is lost.
    """
    z = sum(block.mH @ (block @ v[:, :r]) for block in map(widen, _blocks(a)))
    z = z / torch.linalg.vector_norm(z, dim=0)
    return orthogonalize(torch.cat([z, v[:, r:]], 1))[0]


def _repair(a: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Singular vectors and values to full accuracy, from the Gram matrix of the rotated columns a
    v."""
    c = _gram(a, v)
    d = c.diagonal().real.sqrt()
    unit = torch.where(d > 0, d, torch.ones_like(d))
    e, u = _eigh(c / unit[:, None] / unit)
    factor = e.sqrt()[:, None] * u.mH * d  # factorᴴ factor = c, with graded columns
    _, s, vh = torch.linalg.svd(factor)
    return v @ vh.mH, s


def _unit_columns(p: Tensor) -> Tensor:
    """Orthonormal columns from nearly orthogonal, graded ones, by a Cholesky factor of their scaled
    Gram matrix.

    Triangular, so that a column is only ever corrected by those before it: a weak one must not turn
    a strong one.
    """
    d = torch.linalg.vector_norm(p, dim=0)
    p = p / torch.where(d > 0, d, torch.ones_like(d))
    g = _gram(p)
    eye = torch.eye(len(g), dtype=g.dtype, device=g.device)
    if float(torch.linalg.matrix_norm((g - eye).detach())) > 0.5:
        return orthogonalize(p)[0]
    return torch.linalg.solve_triangular(torch.linalg.cholesky(g).mH, p, upper=True, left=False)


def _sketched_basis(
    a: Tensor, rank: int | None, atol: float, size: float | None = None
) -> tuple[Tensor, Tensor] | None:
    """`right_basis` of a matrix with two long sides, by a factorization that a few of its rows
    show; None where they do not."""
    found = factorize(a, atol, rank, size=size, best=True)
    if found is None:
        return None
    right, carried = widen(found.right), found.left if found.heavy_left else None
    if carried is not None:  # the right side is orthonormal and the left one carries the norm
        right = torch.linalg.qr(widen(carried), mode="r").R @ right
    _, s, vh = torch.linalg.svd(right, full_matrices=False)
    r = choose_rank(s, rank, atol=max(atol**2 - found.loss**2, 0.0) ** 0.5)
    return vh[:r].mH, s[:r]


# ---------------------------------------------------------------------------------------- gradients


def _over_gaps(s: Tensor) -> Tensor:
    """F_ij = 1 / (s_j^2 - s_i^2), and 0 where two values agree to half their digits.

    Between equal values any rotation of the vectors is as good: a function that does not depend on
    the choice has no gradient along it, and one that does has no gradient at all. Leaving these
    terms out is right for functions of the spans; one of vectors and values together has more,
    which its caller adds (`LowRank.from_dense`, `tt_svd`).
    """
    total = s[..., None, :] + s[..., None]
    step = s[..., None, :] - s[..., None]
    gap, same = step * total, step.abs() <= math.sqrt(EPS) * total
    return torch.where(
        same, torch.zeros_like(gap), 1 / torch.where(same, torch.ones_like(gap), gap)
    )


def _over(s: Tensor) -> Tensor:
    """1 / s, and 0 where s is zero to rounding."""
    zero = s <= EPS * s.amax(-1, keepdim=True)
    return torch.where(zero, torch.zeros_like(s), 1 / torch.where(zero, torch.ones_like(s), s))


def _apply(function, *args):
    """What a Function makes of its arguments, by the one that has a derivative in forward mode too
    unless torch compiles, which cannot trace such; where no derivative is asked for, its forward
    alone, which spares torch's record."""
    if not differentiated(args[0]):
        return function.forward(*args)
    return (function if torch.compiler.is_compiling() else _FORWARD[function]).apply(*args)


class _GramBasis(torch.autograd.Function):
    """All right singular vectors and values and the rank, with the derivative of an
    eigendecomposition of aᴴa."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a, rank, atol):
        v, s, _, r = _gram_basis(a, rank, atol)
        return v, s, r

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0], *output[:2])
        ctx.save_for_forward(inputs[0], *output[:2])

    @staticmethod
    def backward(ctx, gv, gs, _):
        a, v, s = ctx.saved_tensors
        inner = (v.mH @ gv) * _over_gaps(s) + torch.diag(0.5 * gs * _over(s)).to(v.dtype)
        both = v @ (inner + inner.mH) @ v.mH
        return project(a, both).to(a.dtype), None, None


class _SmallSVD(torch.autograd.Function):
    """Thin SVD by LAPACK, of many matrices at once too.

    The derivative is that of [Townsend2016] with `_over_gaps`, so it is finite for equal values.
    What u and v turn alike has a gap below, what they turn against each other a sum.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(a):
        return tuple(torch.linalg.svd(a, full_matrices=False))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*output)
        ctx.save_for_forward(*output)

    @staticmethod
    def backward(ctx, gu, gs, gvh):
        u, s, vh = ctx.saved_tensors
        inv, total = _over(s)[..., None, :], s[..., None, :] + s[..., None]
        ugu, vgv = u.mH @ gu, vh @ gvh.mH
        p, q = ugu - ugu.mH, vgv - vgv.mH
        # (p_ij s_j + s_i q_ij) / (s_j^2 - s_i^2)
        inner = (
            (p + q) * (_over_gaps(s) * total / 2)
            + (p - q) * _over(total) / 2
            + torch.diag_embed(gs).to(u.dtype)
        )
        ga = u @ inner @ vh
        ga = ga + ((gu - u @ ugu) * inv) @ vh
        return ga + u @ (inv.mT * (gvh - (gvh @ vh.mH) @ vh))


class _QR(torch.autograd.Function):
    """QR by LAPACK with diag(r) >= 0; the derivative of the product q r in the gauge qᴴ dq = 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a):
        q, r = torch.linalg.qr(a)
        d = r.diagonal()
        sign = torch.where(
            d.abs() > 0,
            d / torch.where(d.abs() > 0, d, torch.ones_like(d)).abs(),
            torch.ones_like(d),
        )
        return q * sign, r * sign.conj()[:, None]

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*output)
        ctx.save_for_forward(*output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, gq, gr):
        q, r = ctx.saved_tensors
        ga = torch.zeros_like(q) @ r if gr is None else q @ gr
        if gq is not None and q.shape[0] > q.shape[1]:  # else q cannot turn out of its range
            ga = ga + (gq - q @ (q.mH @ gq)) @ torch.linalg.pinv(r, rtol=16 * EPS).mH
        return ga


class _ForwardGramBasis(_GramBasis):
    @staticmethod
    @twice
    def jvp(ctx, da, *_):
        a, v, s = ctx.saved_tensors
        k = project(primal(a), v).mH @ project(da, v)
        k = k + k.mH
        return v @ (_over_gaps(s) * k), 0.5 * _over(s) * k.diagonal().real, None


class _ForwardSVD(_SmallSVD):
    @staticmethod
    @twice
    def jvp(ctx, da):
        u, s, vh = ctx.saved_tensors
        inv, total = _over(s)[..., None, :], s[..., None, :] + s[..., None]
        dav = da @ vh.mH
        m, dau = u.mH @ dav, da.mH @ u
        alike = (m + m.mH) * (_over_gaps(s) * total / 2)
        against = (m - m.mH) * _over(total) / 2
        du = u @ (alike + against) + (dav - u @ m) * inv
        dv = vh.mH @ (alike - against) + (dau - vh.mH @ m.mH) * inv
        return du, m.diagonal(dim1=-2, dim2=-1).real, dv.mH


class _ForwardQR(_QR):
    @staticmethod
    @twice
    def jvp(ctx, da):
        q, r = ctx.saved_tensors
        dr = q.mH @ da
        if q.shape[0] == q.shape[1]:
            return torch.zeros_like(q), dr
        return (da - q @ dr) @ torch.linalg.pinv(r, rtol=16 * EPS), dr


_FORWARD = {_GramBasis: _ForwardGramBasis, _SmallSVD: _ForwardSVD, _QR: _ForwardQR}
