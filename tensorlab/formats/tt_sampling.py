"""A train as a distribution over all its entries: sums, marginals, conditionals, exact samples
[Dolgov2020] [FerrisVidal2012].

    p(i) = x[i] / sum x          of a train without negative entries,
    p(i) = |x[i]|^2 / <x, x>
        of any train, by squared=True, also called a Born machine [Han2018].

All of it is one chain from right to left, what the modes k..d-1 sum to, seen from bond k:

    z_k = sum_i w_k[i] G_k[i] z_{k+1}
    F_k F_kᴴ = sum_ij D_k[j, i] G_k[i] F_{k+1} F_{k+1}ᴴ G_k[j]ᴴ

z_k is a vector; w_k are ones for sums, weights of a quadrature for integrals. F_k is a factor; D_k
is the identity, or a Gram matrix of functions.

Every step is brought near 1 by a power of two, and the power is kept, so that no length and no
scale over- or underflows.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from numbers import Number
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..arguments import count, is_integer
from ..linalg import check_dense, near_one, orthogonalize, psd_root, triangle, wide, widen
from ..rng import check_generator, rand
from .tt import TT

BLOCK = 1 << 22  # numbers held at a time while samples of a squared train are drawn
ROUNDING = 64  # multiples of eps below which a negative probability is taken for a zero


class SignLog(NamedTuple):
    """A number as sign * exp(log), as `torch.linalg.slogdet` gives it; of 0 the sign is 0 and the
    log -inf."""

    sign: Tensor
    log: Tensor


class Environments(NamedTuple):
    """The part right of each bond: right[k] * exp(log[k]) for k = 0..d, of which right[d] is
    1."""

    right: tuple[Tensor, ...]
    log: tuple[Tensor, ...]


def tt_environments(tt: TT, weights=None, *, squared: bool = False) -> Environments:
    """What the modes k..d-1 sum to, seen from bond k, for every k: the chain on which all here
    rests.

        right[k] exp(log[k])      z_k = sum_i w_k[i] G_k[i] z_{k+1},  (r_k,),  z_d = 1
        squared: F_k, (r_k, s_k), with |v F_k|^2 the weighted sum of |v G_k[i_k] ...
        G_{d-1}[i_{d-1}]|^2 for every row v

    weights: d of them, each None for ones or a tensor (n_k,); linear also (batch, n_k), which puts
    `batch` in front of right and log; squared also a Gram matrix D_k (n_k, n_k) with D[j, i] =
    <f_j, f_i>, taken as a constant. right[k] has its largest entry in [1/2, 1), so conditionals are
    read off without over- or underflow: those of mode k after a row v are v G_k[i] right[k+1], up
    to a factor. The result has the common dtype of train and weights, as torch promotes them.
    Raises ValueError or TypeError for weights that do not fit.

    >>> x = TT([torch.ones(1, 2, 1)] * 2000)
    >>> right, log = tt_environments(x)
    >>> right[0], (log[0] / math.log(2)).round()
    (tensor([0.5000]), tensor(2001.))
    """
    cores, shifts, weights, dtype = _weighted(tt, weights, squared, "tt_environments")
    right, exponents = _right(cores, shifts, weights, squared)
    logs = (math.log(2) * (e[..., 0, 0] if squared else e[..., 0]) for e in exponents)
    return Environments(
        tuple(r.to(dtype) for r in right), tuple(log.to(dtype.to_real()) for log in logs)
    )


def tt_sum(tt: TT, weights=None, *, squared: bool = False) -> SignLog:
    """The sum of all entries, weighted mode by mode, as a sign and a logarithm.

        sum_i x[i] w_0[i_0] ... w_{d-1}[i_{d-1}]              or, squared,
        sum_ij x[i] conj(x[j]) D_0[j_0, i_0] ... D_{d-1}[j_{d-1}, i_{d-1}],
            <x, x> without weights

    weights: as for `tt_environments`. Linear weights (batch, n_k) give `batch` sums: with one-hot
    rows entries, with values of basis functions the function that the train is a tensor of
    coefficients of. Complex: `sign` is a phase.

    >>> x = TT([torch.full((1, 3, 1), 0.5)] * 1000)
    >>> sign, log = tt_sum(x)
    >>> sign, log / 1000
    (tensor(1.), tensor(0.4055))
    """
    cores, shifts, weights, dtype = _weighted(tt, weights, squared, "tt_sum")
    sign, log = _sum(cores, shifts, weights, squared)
    return SignLog(sign.to(dtype), log.to(dtype.to_real()))


def tt_log_prob(tt: TT, index, *, squared: bool = False) -> Tensor:
    """Log-probability of many multi-indices, (n, d) -> (n,), differentiable in the cores.

        log p(i) = log x[i] - log sum x,      squared: 2 log |x[i]| - log <x, x>

    An entry that is zero, or negative by no more than rounding, has -inf. Raises ValueError for a
    negative entry unless squared, for a train that sums to zero, and for an index out of range.

    >>> x = TT([torch.tensor([1.0, 3.0]).reshape(1, 2, 1)] * 2)
    >>> tt_log_prob(x, [[0, 0], [1, 1]]).exp()
    tensor([0.0625, 0.5625])
    """
    who = "tt_log_prob"
    cores, shifts = _distribution(tt, who, squared)
    index = tt._index(index)
    _, total = _positive(cores, shifts, squared, who)
    ((v, e),) = deque(_walk(cores, index), maxlen=1)
    v, log = v[:, 0], math.log(2) * (e[:, 0] + sum(shifts)) - (total / 2 if squared else total)
    if not squared:
        wrong = _negative_entries(v, e[:, 0], cores, index, torch.finfo(tt.dtype).eps)
        if len(wrong):
            raise ValueError(
                f"{who}: needs entries >= 0 or squared=True, got a negative one in row "
                f"{int(wrong[0])}"
            )
        v = v.clamp_min(0)
    zero = v == 0
    log = torch.where(zero, -math.inf, torch.where(zero, torch.ones_like(v), v).abs().log() + log)
    return (2 * log if squared else log).to(tt.dtype.to_real())


def tt_marginal(tt: TT, modes, *, squared: bool = False) -> Tensor:
    """The joint distribution of a few modes, all others summed over: a dense tensor with sum 1.

        p[i_a, i_b, ...] = sum over all other modes of p(i)

    modes: one mode or several different ones; the result has theirs, in that order, as its shape.
    Raises ValueError for a mode out of range, and for a marginal that is negative unless
    squared.

    >>> x = TT([torch.tensor([1.0, 3.0]).reshape(1, 2, 1)] * 500)
    >>> tt_marginal(x, 7), tt_marginal(x, (0, 499)).shape
    (tensor([0.2500, 0.7500]), torch.Size([2, 2]))
    """
    who = "tt_marginal"
    cores, shifts = _distribution(tt, who, squared)
    modes = _modes(tt, (modes,) if isinstance(modes, Number) else modes, who)
    right, _ = _positive(cores, shifts, squared, who)
    last = max(modes)
    if squared:
        p = cores[0].new_ones(
            1, 1, 1
        )  # for each choice of the kept modes, v ᴴ v of the rows v summed over
        for k, core in enumerate(_right_orthonormal(cores)[: last + 1]):
            p = torch.einsum("anp,kab,bnq->knpq", core.conj(), p, core)
            p = p.flatten(0, 1) if k in modes else p.sum(1)
        p = p.diagonal(dim1=1, dim2=2).real.sum(1)
    else:
        v = cores[0].new_ones(1, 1)
        for k, core in enumerate(cores[: last + 1]):
            v = torch.tensordot(v, core, 1).flatten(0, 1) if k in modes else v @ core.sum(1)
            v, _ = _near_one(v, (0, 1))
        p = v @ right[last + 1]
        if (p < -_rounding(tt) * float(v.detach().norm() * right[last + 1].detach().norm())).any():
            raise ValueError(
                f"{who}: needs a train without negative entries or squared=True, got a negative "
                f"marginal of {modes}"
            )
        p = p.clamp_min(0)
    kept = sorted(modes)
    p = (p / p.sum()).reshape([tt.shape[k] for k in kept]).permute([kept.index(k) for k in modes])
    return p.to(tt.dtype.to_real())


def tt_condition(tt: TT, given: Mapping[int, int], *, squared: bool = False) -> TT:
    """The distribution of the other modes when some are known, a train again: its sum (squared: its
    norm) is 1.

        p(rest | given) = x[rest, given] / sum over the rest,      squared: |x[rest, given]|^2 / ...

    given: {mode: index}, at least one mode stays free. The free modes keep their order, the ranks
    do not grow. Raises ValueError for a mode or index out of range, and for a condition whose
    probability is zero or, unless squared, negative.

    >>> x = TT([torch.tensor([[1.0, 3.0]]).reshape(1, 2, 1)] * 3)
    >>> tt_condition(x, {1: 0}).to_dense()
    tensor([[0.0625, 0.1875],
            [0.1875, 0.5625]])
    """
    who = "tt_condition"
    cores, _ = _distribution(tt, who, squared)
    if not isinstance(given, Mapping):
        raise TypeError(f"{who}: needs a dict from mode to index, got {type(given).__name__}")
    fixed = {} if not given else dict(zip(_modes(tt, given, who), given.values()))
    if len(fixed) == tt.ndim:
        raise ValueError(f"{who}: needs a mode that stays free, got all {tt.ndim} given")
    for k, i in fixed.items():
        if not is_integer(i) or not 0 <= i < tt.shape[k]:
            raise ValueError(f"{who}: mode {k} has indices in 0..{tt.shape[k] - 1}, got {i}")
    free, carry = [], cores[0].new_ones(1, 1)
    for k, core in enumerate(cores):
        if k in fixed:
            carry, _ = _near_one(carry @ core[:, fixed[k]], (0, 1))
        else:
            free.append(torch.tensordot(carry, core, 1))
            carry = torch.eye(core.shape[2], dtype=core.dtype, device=core.device)
    free[-1] = torch.tensordot(free[-1], carry, 1)
    sign, log = _sum(free, [0] * len(free), [None] * len(free), squared)
    if sign.real <= 0:
        raise ValueError(
            f"{who}: needs a condition of positive probability, got "
            f"{'zero' if sign == 0 else 'less'} for {fixed}"
        )
    share = (-log / ((1 + squared) * len(free))).exp()
    return TT(tuple((core * share).to(tt.dtype) for core in free))


@torch.no_grad()
def tt_sample(
    tt: TT, n: int, *, squared: bool = False, generator: torch.Generator | None = None
) -> Tensor:
    """n independent samples of p, exact: an (n, d) tensor of multi-indices, int64.

    Mode by mode from the conditionals, by inversion of their distribution functions [Dolgov2020]:

        p(i_k | i_0, ..., i_{k-1}) = v G_k[i_k] z_{k+1} / sum over i_k,
            v = G_0[i_0] ... G_{k-1}[i_{k-1}]
        squared: |v G_k[i_k]|^2, in cores made right-orthonormal, so that nothing is needed right
        of them [FerrisVidal2012]

    The cost of a sample is d (n_k r + r^2), squared d n_k r^2. One draw serves all n samples at a
    mode, and the same seed gives the same samples. A train of cores without negative entries is
    always taken; of any other a conditional that is met and negative beyond rounding raises
    ValueError, which squared=True never does.

    >>> x = TT([torch.tensor([1.0, 0.0, 3.0]).reshape(1, 3, 1)] * 1000)
    >>> i = tt_sample(x, 100, generator=torch.Generator().manual_seed(0))
    >>> i.shape, i.unique()
    (torch.Size([100, 1000]), tensor([0, 2]))
    """
    who = "tt_sample"
    cores, shifts = _distribution(tt, who, squared)
    n = count(who, "n", n)
    check_generator(who, generator)
    right, _ = _positive(cores, shifts, squared, who)
    if squared:
        cores = _right_orthonormal(cores)
    level = 0.0 if squared else _rounding(tt)
    v, index = cores[0].new_ones(n, 1), torch.empty(n, tt.ndim, dtype=torch.int64, device=tt.device)
    for k, core in enumerate(cores):
        u = rand(n, generator=generator, dtype=torch.float64, device=tt.device)
        if squared:
            i, v = _choose_squared(v, core, u)
        else:
            ahead = core @ right[k + 1]  # (r, n_k): what each index leads to
            p = v @ ahead
            noise = level * torch.linalg.vector_norm(v, dim=1) * ahead.norm()
            wrong = (p.amin(1) < -noise) | ((p := p.clamp_min(0)).sum(1) <= noise)
            if wrong.any():
                prefix = index[wrong.nonzero()[0, 0], :k].tolist()
                raise ValueError(
                    f"{who}: needs a train without negative entries or squared=True, got a "
                    f"conditional of mode {k} that is "
                    f"negative or lost in rounding, after the indices "
                    f"({'..., ' * (k > 8)}{', '.join(map(str, prefix[-8:]))})"
                )
            i = _invert(p, u)
            v = _step(v, core, i)
        v, _ = _near_one(v, -1)
        index[:, k] = i
    return index


# ---------------------------------------------------------------------------------------- the chain


def _near_one(x: Tensor, dim) -> tuple[Tensor, Tensor]:
    """`linalg.near_one` with exponents that add up to logarithms: in float64."""
    y, exponent = near_one(x, dim)
    return y, exponent.double()


def _right(cores, shifts, weights, squared: bool) -> tuple[list[Tensor], list[Tensor]]:
    """`tt_environments` in the dtype of the cores, with exponents of two for logs."""
    one = cores[0].new_ones(1, 1) if squared else cores[0].new_ones(1)
    right, exponents = [one], [torch.zeros_like(one.real)]
    for core, shift, w in zip(cores[::-1], shifts[::-1], weights[::-1]):
        if squared:
            y = torch.tensordot(core, right[0], 1)  # (r, n, s)
            y = y if w is None else torch.einsum("rns,nm->rms", y, w)
            z, e = _near_one(triangle(y.flatten(1).mH).mH, (0, 1))
        else:
            y = torch.tensordot(right[0], core.permute(2, 0, 1), 1)  # (..., r, n)
            z, e = _near_one(y.sum(-1) if w is None else (y @ w[..., None])[..., 0], -1)
        right.insert(0, z)
        exponents.insert(0, exponents[0] + e + shift)
    return right, exponents


def _sum(cores, shifts, weights, squared: bool, right=None) -> SignLog:
    if right is None:
        right = _right(cores, shifts, weights, squared)
    right, exponents = right
    if squared:
        z, e = right[0][0, 0].abs(), exponents[0][0, 0]
    else:
        z, e = right[0][..., 0], exponents[0][..., 0]
    zero = z == 0
    log = torch.where(zero, torch.ones_like(z), z).abs().log() + math.log(2) * e
    log = torch.where(zero, -math.inf, log)
    return SignLog(z.sgn(), 2 * log if squared else log)


def _walk(cores, index: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The rows left of each bond, v_k = G_0[i_0] ... G_{k-1}[i_{k-1}], (batch, r_k) near 1, and
    their exponents (batch, 1)."""
    v = cores[0].new_ones(len(index), cores[0].shape[0])
    e = torch.zeros_like(v[:, :1].real)
    yield v, e
    for core, i in zip(cores, index.unbind(1)):
        v, shift = _near_one(_step(v, core, i), -1)
        e = e + shift
        yield v, e


def _step(v: Tensor, core: Tensor, i: Tensor) -> Tensor:
    """v[b] @ core[:, i[b]] for each row b, (batch, r) -> (batch, q): rows sorted by index, one
    product for each value."""
    counts = torch.bincount(i, minlength=core.shape[1]).tolist()
    order = torch.argsort(i)
    parts = v.index_select(0, order).split(counts)
    out = torch.cat([p @ m for p, m in zip(parts, core.unbind(1))])
    return torch.empty_like(out).index_copy(0, order, out)


def _right_orthonormal(cores) -> list[Tensor]:
    """The same train up to a factor, of norm 1, all cores with orthonormal rows (r, n q); ranks may
    shrink."""
    out, carry = [], cores[0].new_ones(1, 1)
    for core in cores[::-1]:
        y, _ = _near_one(torch.tensordot(core, carry, 1), (0, 1, 2))
        q, r = orthogonalize(y.flatten(1).mH)  # (n s, t), (t, r)
        out.insert(0, q.mH.reshape(-1, *y.shape[1:]))
        carry = r.mH
    return out


def _invert(p: Tensor, u: Tensor) -> Tensor:
    """The index at which the distribution function of each row of p first exceeds u in [0, 1):
    never one of probability 0."""
    c = p.cumsum(1)
    c = c / c[:, -1:]  # the last is 1 exactly, and u is below
    return torch.searchsorted(c, u[:, None], right=True)[:, 0]


def _choose_squared(v: Tensor, core: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Indices drawn from |v G[i]|^2 and the rows v G[i] that they lead to, a block of samples at a
    time."""
    r, n, q = core.shape
    size = max(1, BLOCK // (n * q))
    chosen = []
    for rows, draw in zip(v.split(size), u.split(size)):
        y = (rows @ core.flatten(1)).reshape(-1, n, q)
        i = _invert(y.abs().square().sum(2), draw)
        chosen.append((i, y[torch.arange(len(i), device=i.device), i]))
    indices, vectors = zip(*chosen)
    return torch.cat(indices), torch.cat(vectors)


# ------------------------------------------------------------------ what comes in, what is negative


def _cores(tt: TT, who: str, dtype=None) -> tuple[list[Tensor], list[int]]:
    """The cores in the dtype that sums are done in, each near 1, and the exponents of two taken
    out."""
    if not isinstance(tt, TT):
        raise TypeError(f"{who}: needs a TT, got {type(tt).__name__}")
    for k, core in enumerate(tt.cores):
        check_dense(core, f"{who}: core {k}")
    scaled = [_near_one(core.to(wide(dtype or tt.dtype)), (0, 1, 2)) for core in tt.cores]
    return [core for core, _ in scaled], [int(e) for _, e in scaled]


def _distribution(tt, who, squared):
    cores, shifts = _cores(tt, who)
    if tt.dtype.is_complex and not squared:
        raise TypeError(f"{who}: needs a real train or squared=True, got {tt.dtype}")
    return cores, shifts


def _positive(cores, shifts, squared, who) -> tuple[list[Tensor], Tensor]:
    """Environments and the log of the sum of all weights.

    Raises ValueError for a sum that is not positive.
    """
    chain = _right(cores, shifts, [None] * len(cores), squared)
    sign, log = _sum(cores, shifts, None, squared, chain)
    if sign.real <= 0:
        what = "a train that is not zero" if squared else "a train with a positive sum"
        raise ValueError(f"{who}: needs {what}, got {'zero' if sign == 0 else 'a negative one'}")
    return chain[0], log


def _weighted(tt, weights, squared, who):
    """The cores near 1, their exponents and the weights in the dtype that sums are done in, and the
    common dtype of train and weights."""
    if not isinstance(tt, TT):
        raise TypeError(f"{who}: needs a TT, got {type(tt).__name__}")
    weights = [None] * tt.ndim if weights is None else list(weights)
    if len(weights) != tt.ndim:
        raise ValueError(f"{who}: needs {tt.ndim} weights, one for each mode, got {len(weights)}")
    weights = [w if w is None else _weight(tt, k, w, squared, who) for k, w in enumerate(weights)]
    dtype = tt.dtype
    for w in weights:
        dtype = dtype if w is None else torch.promote_types(dtype, w.dtype)
    if squared:
        weights = [w if w is None else _root(w, k, who) for k, w in enumerate(weights)]
    return *_cores(tt, who, dtype), [w if w is None else w.to(wide(dtype)) for w in weights], dtype


def _weight(tt, k, w, squared, who) -> Tensor:
    """A weight as a floating tensor; numbers without a floating dtype take the train's."""
    if isinstance(w, Tensor) and w.device != tt.device:
        raise ValueError(f"{who}: needs weights on {tt.device}, got one on {w.device} for mode {k}")
    typed, n = hasattr(w, "dtype"), tt.shape[k]
    w = torch.as_tensor(w if typed else np.asarray(w), device=tt.device)
    if not typed or not (w.is_floating_point() or w.is_complex()):
        w = w.to(tt.dtype.to_complex() if w.is_complex() else tt.dtype)
    fits = w.shape == (n,) or (w.shape == (n, n) if squared else w.ndim == 2 and w.shape[1] == n)
    if not fits:
        other = f"({n}, {n})" if squared else f"(batch, {n})"
        raise ValueError(
            f"{who}: needs a weight of shape ({n},) or {other} for mode {k}, got {tuple(w.shape)}"
        )
    check_dense(w, f"{who}: weight {k}")
    return w


def _root(w: Tensor, k: int, who: str) -> Tensor:
    """C with C Cᴴ = D transposed, so that it multiplies a core; D is the weight, or diagonal."""
    gram = widen(torch.diag(w) if w.ndim == 1 else w.detach().mT)
    try:
        return psd_root(gram, ROUNDING * torch.finfo(w.dtype).eps)
    except ValueError as error:
        raise ValueError(
            f"{who}: needs weights >= 0 or a positive semidefinite matrix for mode {k}, got neither"
        ) from error


def _modes(tt, modes, who) -> list[int]:
    modes = list(modes)
    if not modes or len(set(modes)) < len(modes) or not all(map(is_integer, modes)):
        raise ValueError(f"{who}: needs different modes, one at least, got {modes}")
    if not all(0 <= k < tt.ndim for k in modes):
        raise ValueError(f"{who}: needs modes in 0..{tt.ndim - 1}, got {modes}")
    return [int(k) for k in modes]


def _rounding(tt) -> float:
    """How far below zero, relative to what it is made of, a probability may come out; cores without
    a minus leave no room."""
    signed = any((core < 0).any() for core in tt.cores)
    return ROUNDING * torch.finfo(tt.dtype).eps if signed else 0.0


@torch.no_grad()
def _negative_entries(v: Tensor, e: Tensor, cores, index: Tensor, eps: float) -> Tensor:
    """The rows whose entry v 2^e is negative by more than it moves when each core moves by a few
    eps of its norm.

    To first order an entry moves by eps (sum over k of |left of core k| |core k| |right of core
    k|).
    """
    rows = (v < 0).nonzero()[:, 0]
    if not len(rows):
        return rows
    v, e, index = v[rows], e[rows], index[rows]
    mirrored = [core.permute(2, 1, 0) for core in cores[::-1]]
    left, right = (
        [torch.linalg.vector_norm(v, dim=1).log() + math.log(2) * e[:, 0] for v, e in _walk(c, i)]
        for c, i in ((cores, index), (mirrored, index.flip(1)))
    )
    norms = [core.norm().log() for core in cores]
    terms = [l + c + r for l, c, r in zip(left, norms, reversed(right[: len(cores)]))]
    noise = math.log(ROUNDING * eps) + torch.stack(terms).logsumexp(0)
    return rows[v.abs().log() + math.log(2) * e > noise]
