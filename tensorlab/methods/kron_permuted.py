"""Kronecker sums of a matrix whose rows and columns may trade places [Abronin2024].

    minimize | w[rows][:, columns] - sum_k A_k ⊗ B_k |_F      over both permutations and the factors

In turn: the factors by one SVD (`kron_svd`), then the rows by an exact assignment, whose cost of
putting row i of w in the place of row j of the sum is -<w_i, m_j>, then the columns. No step raises
the error; where it ends depends on the start, so several starts are tried.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..arguments import count
from ..fit import Fit
from ..formats.base import MatrixFormat
from ..layers.dense import current, dense_weight
from ..layers.linear import FactorizedLinear
from ..layers.select import LINEAR
from ..layers.surgery import replace
from ..rng import check_generator
from .kron_spectral import Sizes, Sum, check_terms, factor_sizes, scaled_problem
from .pointcloud import assignment

POWERS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # of the norms by which rows are told apart


class PermutedKronecker(NamedTuple):
    """w[rows][:, columns] ≈ kronecker: row i of the sum is row rows[i] of w.

    >>> value = kron_permuted(torch.eye(4)[[1, 0, 3, 2]], (2, 2), 1).value
    >>> value.to_dense().round(decimals=4)[0]
    tensor([0., 1., 0., 0.])
    """

    kronecker: MatrixFormat
    rows: Tensor
    columns: Tensor

    def to_dense(self) -> Tensor:
        """The approximation of w, (out, in), its rows and columns in the order of w."""
        m = self.kronecker.to_dense()
        return m[self.rows.argsort()][:, self.columns.argsort()]


def kron_permuted(
    w: Tensor,
    left,
    rank: int,
    *,
    starts: int = 5,
    max_iter: int = 50,
    generator: torch.Generator | None = None,
) -> Fit[PermutedKronecker]:
    """A sum of `rank` Kronecker products near w with rows and columns permuted, in the Frobenius
    norm, which is never larger than that of `kron_svd`.

    w: (out, in), real.
    left: the (rows, columns) of the left factors, divisors of w's.
    rank: the number of terms.
    starts: how many. The first is w in its own order; then come the orders in which the norms of
        rows and columns form the grid that those of one product form, where they do; the others are
        random.
    max_iter: the most iterations of each start.
    generator: draws random starts; None: torch's global one.

    history holds the relative error after each iteration of the best one; converged: its
    permutations have come to rest. Raises ValueError or TypeError for a bad argument.

    >>> g = torch.Generator().manual_seed(0)
    >>> w = torch.kron(torch.randn(4, 4, generator=g), torch.randn(4, 4, generator=g))
    >>> mixed = w[torch.randperm(16, generator=g)][:, torch.randperm(16, generator=g)]
    >>> fit = kron_permuted(mixed, (4, 4), 1, starts=3, generator=g)
    >>> bool((fit.value.to_dense() - mixed).norm() < 1e-5 * mixed.norm())
    True
    """
    who = "kron_permuted"
    problem, sizes = scaled_problem(who, w), factor_sizes(who, w.shape, left)
    check_terms(who, rank, sizes)
    if w.is_complex():
        raise TypeError(f"{who}: needs a real matrix, got {w.dtype}")
    check_generator(who, generator)
    whole = float(torch.linalg.vector_norm(problem.w))
    best = None
    for orders in _orders(problem.w, sizes, count(who, "starts", starts), generator):
        found = _alternate(problem.w, sizes, rank, orders, count(who, "max_iter", max_iter))
        best = found if best is None or found[2][-1] < best[2][-1] else best
        if best[2][-1] <= 1e-12 * whole:
            break
    part, (rows, columns), history, rest = best
    value = PermutedKronecker(part.format(problem.exponent, w.dtype), rows, columns)
    return Fit(value, tuple(e / whole if whole else 0.0 for e in history), rest)


def permuted_layer(layer: nn.Module, value: PermutedKronecker) -> "PermutedLinear":
    """The layer that multiplies by `value`, with the bias of a dense one."""
    return PermutedLinear(value, current(layer, "bias"))


def replace_permuted(
    model: nn.Module, names, make: Callable[[Tensor], PermutedKronecker]
) -> nn.Module:
    """Every dense linear layer that `names` chooses becomes a `PermutedLinear`, as `replace_linear`
    does it; changes the model and returns it.

    make: w (out, in) -> PermutedKronecker, such as lambda w: kron_permuted(w, left, rank).value.

    >>> model = nn.Sequential(nn.Linear(6, 6))
    >>> replace_permuted(model, "0", lambda w: kron_permuted(w, (2, 3), 1).value)[0]
    PermutedLinear(in=6, out=6, ranks=(1,), stores 12 of 36 and 12 places)
    """
    build = lambda name, layer: permuted_layer(layer, make(dense_weight(layer).detach()))
    return replace("replace_permuted", model, names, build, LINEAR)


class PermutedLinear(nn.Module):
    """y[rows] = m x[columns] + bias[rows], with m a format: two index gathers around a product.

    The permutations are buffers: saved and moved with the module, never trained.

    >>> value = kron_permuted(torch.eye(4)[[1, 0, 3, 2]], (2, 2), 1).value
    >>> PermutedLinear(value)(torch.tensor([1.0, 2.0, 3.0, 4.0])).round(decimals=4)
    tensor([2., 1., 4., 3.], grad_fn=<RoundBackward1>)
    """

    def __init__(self, value: PermutedKronecker, bias: Tensor | None = None):
        super().__init__()
        self.inner = FactorizedLinear(value.kronecker)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.register_buffer("columns", value.columns.clone())
        self.register_buffer("places", value.rows.argsort())  # of each output in the product's

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x.index_select(-1, self.columns)).index_select(-1, self.places)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @property
    def weight(self) -> Tensor:
        """The matrix that the layer multiplies by, in the order of its inputs and outputs."""
        m = self.inner.weight.to_dense()
        return m.index_select(0, self.places).index_select(1, self.columns.argsort())

    @property
    def in_features(self) -> int:
        return self.inner.in_features

    @property
    def out_features(self) -> int:
        return self.inner.out_features

    def __repr__(self):
        w, places = self.inner.weight, len(self.columns) + len(self.places)
        dense = w.shape[0] * w.shape[1]
        stored = f"stores {w.numel} of {dense} and {places} places"
        return f"PermutedLinear(in={w.shape[1]}, out={w.shape[0]}, ranks={w.ranks}, {stored})"


def _orders(w: Tensor, sizes: Sizes, starts: int, generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Where to start: in the order of w, on the grids that the rows and columns form, at random."""
    m, n = w.shape
    yield torch.arange(m, device=w.device), torch.arange(n, device=w.device)
    if starts == 1:
        return
    rows, columns = _grids(w, sizes.m, sizes.rows), _grids(w.mT, sizes.n, sizes.columns)
    pairs = [(r, c) for r in rows[:1] for c in columns]  # turning both gives B ⊗ A for A ⊗ B
    yield from pairs[: max(0, starts - 1)]
    for _ in range(starts - 1 - len(pairs)):
        yield _shuffled(m, generator, w.device), _shuffled(n, generator, w.device)


def _shuffled(n: int, generator, device) -> Tensor:
    source = "cpu" if generator is None else generator.device
    return torch.randperm(n, generator=generator, device=source).to(device)


def _grids(w: Tensor, m: int, k: int) -> list[Tensor]:
    """Orders of the rows in which they may be those of A ⊗ B, A with m rows and B with k; none
    where the rows do not look like it.

    The p-norm of row (i, a) of a product is that of A's row i times that of B's row a, so the
    vectors f of their logarithms for several p form a grid: with row 0 as (i0, a0),

        f(i, a) = f(i, a0) + f(i0, a) - f(i0, a0)

    The pairs of rows whose sum, less f(0), is nearest to another row's f are the pairs ((i, a0),
    (i0, a)): each of m-1 rows with each of k-1.
    """
    f = torch.stack([torch.linalg.vector_norm(w, p, dim=1).log() for p in POWERS], 1)
    if min(m, k) == 1 or not f.isfinite().all():
        return []
    exact = "donot_use_mm_for_euclid_dist"
    near = [torch.cdist(row + f - f[0], f, compute_mode=exact).min(1) for row in f]
    far, third = (torch.stack(part) for part in zip(*near))
    far = torch.where(torch.eye(len(w), device=w.device) > 0, math.inf, far)
    far[0], far[:, 0] = math.inf, math.inf
    pairs = torch.zeros_like(far, dtype=torch.bool).flatten()
    pairs[far.flatten().argsort()[: 2 * (m - 1) * (k - 1)]] = True
    pairs = pairs.reshape(far.shape)
    one = pairs[int(pairs.sum(1).argmax())]  # those who stand on the other side of one row
    other = pairs[int(one.nonzero()[0])]
    sides = [torch.cat([one.new_zeros(1).long(), s.nonzero()[:, 0]]) for s in (one, other)]
    found = [(a, b) for a, b in (sides, sides[::-1]) if (len(a), len(b)) == (m, k)]
    orders = [_placed(third, a, b) for a, b in found]
    return [order for order in orders if len(order.unique()) == len(w)]


def _placed(third: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The row at each place of the grid, a and b being its first column and its first row."""
    order = third[a][:, b]
    order[0], order[:, 0] = b, a
    return order.flatten()


def _alternate(w: Tensor, sizes: Sizes, rank: int, orders, max_iter: int):
    """Factors, rows, columns in turn: (sum, orders, errors, whether they have come to rest)."""
    rows, columns = orders
    history, rest = [], False
    for _ in range(max_iter):
        here = w[rows][:, columns]
        part = Sum.nearest(sizes, here, rank)
        m = part.dense()
        history.append(float(torch.linalg.vector_norm(here - m)))
        step = _matched(here, m)
        rows, here = rows[step], here[step]
        turn = _matched(here.mT, m.mT)
        columns = columns[turn]
        straight = (
            torch.arange(len(step), device=w.device),
            torch.arange(len(turn), device=w.device),
        )
        rest = torch.equal(step, straight[0]) and torch.equal(turn, straight[1])
        if rest or (len(history) > 1 and history[-1] > history[-2] * (1 - 1e-9)):
            break
    part = Sum.nearest(sizes, w[rows][:, columns], rank)
    history.append(float(torch.linalg.vector_norm(w[rows][:, columns] - part.dense())))
    return part, (rows, columns), history, rest


def _matched(w: Tensor, m: Tensor) -> Tensor:
    """The row of w for each row of m such that the sum of <w_i, m_j> is largest; as they are, where
    that is as good."""
    gain = m @ w.mT
    found = assignment(-gain).to(w.device)
    straight = gain.diagonal().sum()
    better = gain.gather(1, found[:, None]).sum() > straight + 1e-12 * straight.abs()
    return found if better else torch.arange(len(found), device=w.device)
