"""A low-rank factorization of a matrix with two long sides, from a few of its rows, certified.

    a ~ left right,   one of them orthonormal,   loss = |a - left right|_F, measured

Random sums of rows give a basis of the rows' span and, held out, an estimate of what each width of
it would lose [HalkoMartinssonTropp2011]; neither reads the matrix. One product with the basis, two
where the singular values fall fast, and the loss is known. Where the rows do not tell enough, or
the matrix has no low rank at this tolerance, there is no factorization, and little was spent.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

WIDTH, HELD, GROUP = 32, 8, 8  # sums to begin with, sums held out, rows in each sum
MOST = 160  # sums after which the rows are given up
PIECE = 1 << 17  # entries of the residual that are formed at a time
LONG = 96  # the shorter side from which a matrix is looked at
CLEAR = 0.03  # loss over the last singular value kept under which a cut to a rank is near the best


@dataclass(frozen=True)
class Factorization:
    """a ~ left right, (m, r) and (r, n). heavy: whether the left one carries the norm, the right
    one's rows are orthonormal; else the left one's columns are. loss: |a - left right|_F."""

    left: Tensor
    right: Tensor
    heavy_left: bool
    loss: float

    def transposed(self) -> "Factorization":
        return Factorization(self.right.mT, self.left.mT, not self.heavy_left, self.loss)


def frobenius(x: Tensor) -> float:
    """|x|_F, by sums of 4096 squares, each in the dtype of x: torch's long sums lose digits.

    >>> frobenius(torch.full((3, 3), 2.0))
    6.0
    """
    flat = (x.mT if x.ndim > 1 and x.mT.is_contiguous() else x).reshape(-1)  # without a copy
    even = len(flat) // 4096 * 4096
    parts = flat[:even].reshape(-1, 4096), flat[None, even:]
    sums = torch.cat([torch.linalg.vector_norm(p, dim=1).double() for p in parts])
    return float(torch.linalg.vector_norm(sums))


def factorize(
    a: Tensor,
    atol: float,
    rank: int | None = None,
    *,
    size: float | None = None,
    best: bool = False,
) -> Factorization | None:
    """a ~ left right within 0.9 atol; None where a few rows do not show how, or where atol is below
    16 eps |a|, the rounding of its products.

    a: (m, n) of 32 bits or more, of a size that can be squared.
    atol: the loss that is allowed, as an absolute number.
    rank: the cap to which the caller cuts the result afterwards; then a loss of 16 eps |a|, or one
        that is small against the last singular value kept, is enough. None: no cap.
    size: `frobenius(a)`; None: it is computed.
    best: whether a loss within the limit is not enough: then the span must be that of leading
        singular vectors, to the accuracy of a power step, and the smallest rank within atol must
        be that of the whole matrix.

    >>> i = torch.arange(400.0, dtype=torch.float64)
    >>> a = 1 / (400 + i[:, None] + i)
    >>> found = factorize(a, 1e-8)
    >>> found.left.shape[1] < 10, float((a - found.left @ found.right).norm()) <= 1e-8
    (True, True)
    """
    if min(a.shape) < LONG:
        return None
    size = frobenius(a) if size is None else size
    least = 16 * torch.finfo(a.dtype).eps * size  # what products in its dtype can show
    if atol < least and rank is None:
        return None
    if a.shape[0] < a.shape[1]:
        found = factorize(a.mT, atol, rank, size=size, best=best)
        return None if found is None else found.transposed()
    rows = _Rows(a, size, atol, rank)
    for trim in (0.05, 1e-3):
        basis = rows.basis(trim)  # (n, r)
        if basis is None:
            return None
        c = (basis.mT @ a.mT).mT  # a narrow product is faster so
        if not best:
            limit = max(atol / 2, least)
            loss = _loss(a, c, basis.mH, c, size, limit)
            if loss <= limit:
                return Factorization(c, basis.mH, True, loss)
        q = torch.linalg.qr(c).Q  # half a power step
        b = q.mH @ a
        limit = max(0.9 * atol, least)
        clear = partial(_clear, b, rank, atol) if best else None
        loss = _loss(a, q, b, b, size, limit, clear)
        serves = loss <= limit or loss <= _clear(b, rank)
        if serves and not (best and _doubtful(b, loss, atol, rank)):
            return Factorization(q, b, False, loss)
    return None


class _Rows:
    """Sums of random rows with random signs, the first few of them held out.

    What a basis of n - r columns loses of a held-out sum is, times the root of m / GROUP, what it
    loses of the matrix.
    """

    def __init__(self, a: Tensor, size: float, atol: float, rank: int | None):
        self.a, self.rank, self.width = a, rank, WIDTH if rank is None else max(WIDTH, rank + 12)
        self.atol, self.floor = atol, 8 * torch.finfo(a.dtype).eps * size
        self.scale = (a.shape[0] / GROUP) ** 0.5
        self.generator = torch.Generator().manual_seed(
            0
        )  # not the caller's: no answer depends on it
        self.sums = a[:0]

    def basis(self, trim: float) -> Tensor | None:
        """The fewest columns that seem to lose no more than trim atol, (n, r); None if that is too
        many."""
        while self.width <= min(self.a.shape[1] // 3, MOST):
            self._draw(HELD + self.width - len(self.sums))
            v, lost, values = self._spectrum()
            k, enough = len(lost) - 1, max(trim * self.atol, self.floor)
            flat, last = lost[k] > 0.6 * lost[k // 2], lost[k]
            clear = self.rank is not None and last <= CLEAR / 3 * values[self.rank - 1]
            self.width *= 2
            if last <= 4 * enough or (flat and last <= 1.5 * self.atol) or clear:
                least = 1 if self.rank is None else min(k, self.rank + 8)
                r = next(r for r in range(k + 1) if lost[r] <= max(enough, 1.1 * last))
                return v[:, : max(r, least)]
            if last > 0.9 * lost[k // 2]:
                return None
        return None

    def _draw(self, more: int) -> None:
        m = self.a.shape[0]
        index = torch.randint(m, (more * GROUP,), generator=self.generator).to(self.a.device)
        signs = torch.randint(2, (more, GROUP, 1), generator=self.generator).to(self.a) * 2 - 1
        picked = self.a[index].reshape(more, GROUP, -1)
        self.sums = torch.cat([self.sums, (picked * signs).sum(1)])

    def _spectrum(self) -> tuple[Tensor, list[float], list[float]]:
        """Right singular vectors (n, k) of the sums that are not held out, what each number of them
        loses of the matrix, and their singular values, all as estimates."""
        held, shown = self.sums[:HELD].mT, self.sums[HELD:].mT
        q, r = torch.linalg.qr(shown)
        turn, s, _ = torch.linalg.svd(r)
        v = q @ turn
        part = v.mH @ held
        rest = (held - v @ part).abs().square().sum()
        tails = part.abs().square().sum(1).flip(0).cumsum(0).flip(0)
        lost = ((torch.cat([tails, tails.new_zeros(1)]) + rest) / HELD).sqrt() * self.scale
        return v, lost.tolist(), (s * self.scale / shown.shape[1] ** 0.5).tolist()


def _clear(heavy: Tensor, rank: int | None, atol: float = 0.0) -> float:
    """The loss that is small against the last singular value that a cut to `rank` keeps; 0 where
    none is kept, or where `atol` might cut earlier."""
    if rank is None or min(heavy.shape) < rank:
        return 0.0
    narrow = heavy if heavy.shape[0] >= heavy.shape[1] else heavy.mH
    last = float(torch.linalg.eigvalsh(narrow.mH @ narrow)[-rank].clamp_min(0)) ** 0.5
    return CLEAR * last if last > atol else 0.0


def _doubtful(heavy: Tensor, loss: float, atol: float, rank: int | None) -> bool:
    """Whether the smallest rank whose cut is within atol depends on what is not in `heavy`."""
    narrow = heavy if heavy.shape[0] >= heavy.shape[1] else heavy.mH
    s = torch.linalg.svdvals(torch.linalg.qr(narrow, mode="r").R)
    tails = s.double().square().flip(0).cumsum(0)
    least, most = ((tails > atol**2 - square).sum() for square in (0.0, loss**2))
    return bool(least != most) and (rank is None or bool(least < rank))


def _loss(a, left, right, heavy, size: float, limit: float, clear=None) -> float:
    """|a - left right|_F: a bound from norms, by Pythagoras, where that decides whether it is
    within the limit, or shows that it is below `clear()`, where no more is asked for; else
    formed."""
    eps = torch.finfo(a.dtype).eps
    square = size**2 - frobenius(heavy) ** 2
    slack = (40 + max(a.shape)) * eps * size**2  # sums that all round the same way
    if max(square, 0.0) + slack <= limit**2 or square - slack > limit**2:
        return (max(square, 0.0) + slack) ** 0.5
    if clear is not None and max(square, 0.0) + slack <= clear() ** 2:
        return (max(square, 0.0) + slack) ** 0.5
    if a.stride(-1) != 1:  # rows in the order of memory
        a, left, right = a.mT, right.mT, left.mT
    pieces = zip(*(t.split(max(1, PIECE // a.shape[1])) for t in (a, left)))
    norms = [torch.linalg.vector_norm(torch.addmm(x, y, right, alpha=-1)) for x, y in pieces]
    return float(torch.linalg.vector_norm(torch.stack(norms).double()))
