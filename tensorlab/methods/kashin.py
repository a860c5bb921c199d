"""[Merkulov2024] Every vector is the sum of two flat ones, one of them seen from another basis:

    x = u + Q v,    max |u_i|, |v_i| <= c |x| / sqrt(N),    Q orthogonal, almost any [Kashin1977].

Neither basis is good for all x, but no x is spiky in both. `Rotation` is Q, made from a seed;
`kashin` finds u and v.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import linalg, rng
from ..arguments import check_shape, count, one_of, positive
from ..capture import readable
from ..fit import Fit

METHODS = ("greedy", "two_two", "frame")
BLOCK = 1 << 16  # numbers that are transformed at a time


# ------------------------------------------------------------------------------------------ Q


@dataclass(frozen=True)
class Rotation:
    """An orthogonal Q on the last modes of a tensor, stored as no more than kind, shape and seed;
    Q = Q1 ⊗ Q2 on two modes.

    kind: "dct" (random signs, then the cosine transform, O(N log N), any size); "hadamard" and
    "butterfly" (powers of two, O(N log N)); "orthogonal" (Haar, dense, O(N^2)); "householder" (one
    reflection) and "givens" (rotations of N/2 planes), both too near to the identity. shape: sizes
    of the modes. The same seed gives the same Q on any device. drawn: the random numbers of each
    mode, drawn from the seed here and never later, so that a captured graph holds them.

    Raises ValueError for an unknown kind, a shape without one or two modes, or sizes that the kind
    does not have.

    >>> q, x = Rotation("dct", (6,), seed=1), torch.arange(6, dtype=torch.float64)
    >>> torch.allclose(q.apply(q.adjoint(x)), x), bool(q.adjoint(x).norm().isclose(x.norm()))
    (True, True)
    """

    kind: str
    shape: tuple[int, ...]
    seed: int = 0
    drawn: tuple[Tensor, ...] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self):
        if self.drawn is not None:
            return
        shape = _checked_sizes(self.kind, self.shape)
        for name, value in (("shape", shape), ("seed", int(self.seed))):
            object.__setattr__(self, name, value)
        draw = KINDS[self.kind].draw
        drawn = [draw(n, torch.Generator().manual_seed(self.seed + k)) for k, n in enumerate(shape)]
        object.__setattr__(self, "drawn", tuple(drawn))

    @classmethod
    def random(cls, kind: str, shape, generator: torch.Generator | None = None) -> "Rotation":
        """A rotation with a seed drawn from the generator.

        >>> Rotation.random("dct", (6,), torch.Generator().manual_seed(0))
        Rotation(kind='dct', shape=(6,), seed=...)
        """
        return cls(kind, tuple(shape), int(rng.randint(2**31, generator=generator)))

    def maps(self, like: Tensor) -> tuple[Callable, Callable]:
        """The functions v -> Q v and x -> Qᵀ x for tensors of the dtype and on the device of
        `like`, ready for many calls."""
        maps = KINDS[self.kind].maps
        pairs = [maps(n, like, numbers) for n, numbers in zip(self.shape, self.drawn)]
        if len(pairs) == 1:
            return tuple(map(_by_rows, pairs[0]))
        (left, left_t), (right, right_t) = (map(_by_rows, pair) for pair in pairs)
        turned = lambda z: z.mT.contiguous()
        return lambda v: turned(left(turned(right(v)))), lambda x: turned(
            left_t(turned(right_t(x)))
        )

    def factor(self, k: int) -> "Rotation":
        """The Q of one mode: Q1 for k = 0, Q2 for k = 1."""
        return Rotation(self.kind, self.shape[k : k + 1], self.seed + k, self.drawn[k : k + 1])

    def apply(self, v: Tensor) -> Tensor:
        """Q v on the last modes, (..., *shape) -> (..., *shape)."""
        return self.maps(wide := _wide(v))[0](wide).to(v.dtype)

    def adjoint(self, x: Tensor) -> Tensor:
        """Qᵀ x on the last modes, (..., *shape) -> (..., *shape)."""
        return self.maps(wide := _wide(x))[1](wide).to(x.dtype)

    def to_dense(self, dtype=torch.float64, device=None) -> Tensor:
        """Q as a matrix (N, N), N the product of the sizes."""
        n = math.prod(self.shape)
        return (
            self.apply(torch.eye(n, dtype=dtype, device=device).reshape(n, *self.shape))
            .reshape(n, n)
            .mT
        )


def _checked_sizes(kind, shape) -> tuple[int, ...]:
    """The sizes of a rotation as integers. Raises ValueError for what no `Rotation` is."""
    one_of("Rotation", "kind", kind, KINDS)
    sizes = check_shape("Rotation", shape)
    if len(sizes) > 2:
        raise ValueError(f"Rotation: needs one or two modes, got shape {sizes}")
    if kind in ("hadamard", "butterfly") and any(n & (n - 1) for n in sizes):
        raise ValueError(f"Rotation: {kind} needs sizes that are powers of two, got {sizes}")
    return sizes


def _by_rows(f: Callable) -> Callable:
    """f on the last mode, of as many rows at a time as stay in the cache with all that f makes of
    them."""

    def run(x):
        if not readable(x):  # a number of blocks would be that of this batch
            return f(x)
        if x.numel() == 0:  # FFT libraries may refuse a transform of no rows
            return x
        if x.numel() <= BLOCK:
            return f(x)
        rows = x.reshape(-1, x.shape[-1])
        few = max(1, BLOCK // x.shape[-1])
        return torch.cat([f(part) for part in rows.split(few)]).reshape(x.shape)

    return run


def _wide(x):
    """At least float32: FFTs of narrower numbers are not everywhere."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _signs(n, generator):
    return (2 * torch.randint(2, (n,), generator=generator) - 1).to(torch.int8)


def _dct(n, like, signs):
    """Q = diag(signs) Cᵀ, C the orthonormal cosine transform by a real FFT of n numbers
    [Makhoul1980]."""
    signs, half = signs.to(like), n // 2 + 1
    even, upper = (n + 1) // 2, (n - 1) // 2
    k = torch.arange(half, dtype=torch.float64, device=like.device)
    size = torch.where(k > 0, math.sqrt(2.0), torch.ones_like(k))
    cos, sin = torch.cos(math.pi / (2 * n) * k), torch.sin(math.pi / (2 * n) * k)
    turn = torch.complex((size * cos).to(like), (-size * sin).to(like))
    back = torch.complex((cos / size).to(like), (sin / size).to(like))  # 1 / turn

    def transform(x):  # frequencies k > n/2 are the imaginary parts of the n - k below
        x = x * signs
        w = torch.fft.rfft(torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], -1), norm="ortho") * turn
        return torch.cat([w.real, w.imag[..., 1 : upper + 1].flip(-1).neg()], -1)

    def inverse(c):
        w = torch.complex(c[..., :half], F.pad(c[..., n - half + 1 :].flip(-1).neg(), (1, 0)))
        x = torch.fft.irfft(w * back, n, norm="ortho")
        odd = F.pad(x[..., even:].flip(-1), (0, 2 * even - n))
        return torch.stack([x[..., :even], odd], -1).flatten(-2)[..., :n] * signs

    return inverse, transform


def _hadamard(n, like, signs):
    """Q = diag(signs) H, H the Walsh-Hadamard matrix over sqrt(n), symmetric."""
    signs = signs.to(like)

    def walsh(z):
        for k in range(n.bit_length() - 1):
            a, b = z.unflatten(-1, (-1, 2, 1 << k)).unbind(-2)
            z = torch.stack([a + b, a - b], -2).flatten(-3)
        return z / math.sqrt(n)

    return lambda v: signs * walsh(v), lambda x: walsh(signs * x)


def _angles(*shape, generator):
    return 2 * math.pi * rng.rand(*shape, generator=generator, dtype=torch.float64)


def _butterfly_draw(n, generator):
    return _angles(n.bit_length() - 1, n // 2, generator=generator)


def _butterfly(n, like, angles):
    """Q = B_1 B_2 ... of log2(n) stages; stage k turns each plane (i, i + 2^k) by an angle of its
    own."""
    cos, sin = angles.cos().to(like), angles.sin().to(like)

    def run(z, order, sign):
        for k in order:
            a, b = z.unflatten(-1, (-1, 2, 1 << k)).unbind(-2)
            c, s = cos[k].reshape(-1, 1 << k), sign * sin[k].reshape(-1, 1 << k)
            z = torch.stack([c * a - s * b, s * a + c * b], -2).flatten(-3)
        return z

    stages = range(len(angles))
    return lambda v: run(v, stages, 1), lambda x: run(x, reversed(stages), -1)


def _orthogonal_draw(n, generator):
    return linalg.orthogonalize(rng.randn(n, n, generator=generator, dtype=torch.float64))[0]


def _orthogonal(n, like, q):
    """Q from the QR of a Gaussian matrix with diag(R) > 0: uniform over all orthogonal matrices."""
    q = q.to(like)
    return lambda v: v @ q.mT, lambda x: x @ q


def _householder_draw(n, generator):
    w = rng.randn(n, generator=generator, dtype=torch.float64)
    return w / w.norm()


def _householder(n, like, w):
    """Q = I - 2 w wᵀ, |w| = 1."""
    w = w.to(like)
    reflect = lambda z: z - 2 * (z @ w)[..., None] * w
    return reflect, reflect


def _givens_draw(n, generator):
    """(i, j, angle) of each plane, (3, n/2)."""
    planes = torch.randperm(n, generator=generator)[: n // 2 * 2].reshape(2, -1)
    return torch.cat([planes.double(), _angles(1, n // 2, generator=generator)])


def _givens(n, like, planes):
    """Q turns n/2 planes that have no coordinate in common, drawn at random, by angles drawn at
    random."""
    i, j, angle = planes.to(like.device)
    i, j = i.long(), j.long()
    cos, sin = angle.cos().to(like), angle.sin().to(like)

    def run(z, sign):
        a, b = z.index_select(-1, i), z.index_select(-1, j)
        return z.index_copy(-1, i, cos * a - sign * sin * b).index_copy(
            -1, j, sign * sin * a + cos * b
        )

    return lambda v: run(v, 1), lambda x: run(x, -1)


class RotationKind(NamedTuple):
    """draw: (n, generator) -> the random numbers of a Q of size n, on the CPU. maps: (n, like,
    numbers) -> the functions v -> Q v and x -> Qᵀ x on the last mode."""

    draw: Callable
    maps: Callable


KINDS = {
    "dct": RotationKind(_signs, _dct),
    "orthogonal": RotationKind(_orthogonal_draw, _orthogonal),
    "butterfly": RotationKind(_butterfly_draw, _butterfly),
    "hadamard": RotationKind(_signs, _hadamard),
    "householder": RotationKind(_householder_draw, _householder),
    "givens": RotationKind(_givens_draw, _givens),
}


# -------------------------------------------------------------------------------------- x = u + Q v


@dataclass(frozen=True, eq=False)
class Kashin:
    """x = u + Q v.

    u, v: as x. q: the rotation. bound: sqrt(N) max(|u|_inf, |v|_inf) / |x|, Kashin's constant as
    measured, one for each item of the batch. residual: |x - u - Q v| / |x| when the iteration
    ended; it has been added to u since.

    >>> x = torch.randn(64, generator=torch.Generator().manual_seed(0))
    >>> found = kashin(x).value
    >>> torch.allclose(found.u + found.q.apply(found.v), x, atol=1e-5)
    True
    """

    u: Tensor
    v: Tensor
    q: Rotation
    bound: Tensor
    residual: Tensor

    def to_dense(self) -> Tensor:
        """u + Q v."""
        return self.u + self.q.apply(self.v)

    def __repr__(self):
        worst = float(self.bound.max())
        return f"Kashin({self.q.kind}, shape={tuple(self.u.shape)}, bound {worst:.3g})"


class Step(NamedTuple):
    """One state of the iteration, by item. left: |r| of r = x - u - Q v. drop: what the last step
    was to take from |r|^2."""

    u: Tensor
    v: Tensor
    left: Tensor
    drop: Tensor


def kashin(
    x: Tensor,
    q: str | Rotation = "dct",
    *,
    modes: int | None = None,
    method: str = "greedy",
    tol: float = 1e-6,
    max_iter: int = 5000,
    generator: torch.Generator | None = None,
) -> Fit[Kashin]:
    """Kashin's decomposition x = u + Q v into flat u and v.

        greedy:   s = |r|_1 / N, u += s sign(r)   or   t = |Qᵀr|_1 / N, v += t sign(Qᵀr),
                  the larger of s and t [Merkulov2024]
        two_two:  the same steps, two of u then two of v, so that each has few levels,
                  and two transforms serve four steps
        frame:    (u, v) += clip((r, Qᵀr) / 2, level |r| / sqrt(N)),
                  truncation in the frame (I, Q) [LyubarskiiVershynin2010]

    x: vectors (..., N) or matrices (..., m, n); the modes before the last are a batch.
    q: a kind of `Rotation` to be drawn, or one.
    modes: how many last modes are decomposed, 1 or 2; None: 2 where there are 2.
    method: "greedy", "two_two" or "frame".
    tol: it ends when |r| <= tol |x| for all items.
    max_iter: the most steps; after them `converged=False`, for Q was too near to the identity, or x
        one of the few that Q does not fit.
    generator: draws the rotation; None: torch's global one.

    What is left of r is added to u, so that x = u + Q v to rounding. No gradients. history holds
    the largest |r| / |x| after each step. Raises ValueError for a method, modes, tol, max_iter or
    rotation that do not fit, TypeError for entries that are not real.

    >>> x = torch.eye(64, dtype=torch.float64)[3]
    >>> fit = kashin(x, generator=torch.Generator().manual_seed(0))
    >>> fit.converged, bool(fit.value.bound < 2), torch.allclose(fit.value.to_dense(), x)
    (True, True, True)
    """
    modes, q = _checked(x, q, modes, method, generator)
    positive("kashin", "tol", tol)
    max_iter = count("kashin", "max_iter", max_iter, 0)
    dims, n = tuple(range(-modes, 0)), math.prod(x.shape[-modes:])
    work = _wide(x.detach())
    size = _sizes(work, dims)
    unit = work / size
    history, converged = [], False
    for k, step in enumerate(_steps(unit, q, modes, method, 0.7, Tensor.add_, Tensor.sub_)):
        history += [float(step.left.max())] * (k > 0)
        converged = bool((step.left <= tol).all())
        if converged or k == max_iter:
            break
    v = step.v.mul_(size)
    u = work - q.apply(v)  # what is left has gone into u
    largest = torch.maximum(_largest(u, dims), _largest(v, dims))
    bound = math.sqrt(n) * (largest / size).reshape(step.left.shape)
    return Fit(Kashin(u.to(x.dtype), v.to(x.dtype), q, bound, step.left), tuple(history), converged)


def kashin_steps(
    x: Tensor,
    q: str | Rotation = "dct",
    *,
    modes: int | None = None,
    method: str = "greedy",
    delta: float = 0.7,
    generator: torch.Generator | None = None,
) -> Iterator[Step]:
    """The states of `kashin`, without end, beginning with u = v = 0; tensors of a state are not
    changed later.

        |r - s sign(r)|^2 = |r|^2 - N s^2    for s = |r|_1 / N

    x, q, modes, method, generator: as in `kashin`.
    delta: "frame" clips at |r| / sqrt(4 delta N).

    `drop` is N s^2 for the methods with signs, and measured for "frame". Raises as `kashin`, and
    ValueError for a delta that is not positive.

    >>> x = torch.tensor([3.0, 4.0], dtype=torch.float64)
    >>> steps = kashin_steps(x, Rotation("householder", (2,)))
    >>> [(float(step.left), float(step.drop)) for step, _ in zip(steps, range(2))]
    [(5.0, 0.0), (0.707..., 24.5)]
    """
    modes, q = _checked(x, q, modes, method, generator)
    positive("kashin", "delta", delta)
    unit, exponent = linalg.near_one(_wide(x.detach()), tuple(range(-modes, 0)))
    return (
        _times_power(step, exponent, exponent.flatten(-modes)[..., 0])
        for step in _steps(unit, q, modes, method, delta, torch.add, torch.sub)
    )


def _times_power(step: Step, exponent: Tensor, of_item: Tensor) -> Step:
    """The state of x 2^exponent, without rounding, from that of x."""
    u, v = (linalg.ldexp(z, exponent) for z in (step.u, step.v))
    return Step(u, v, linalg.ldexp(step.left, of_item), linalg.ldexp(step.drop, 2 * of_item))


def _steps(x, q, modes, method, delta, add, sub):
    """The states; `add` and `sub` may change their first argument, x and the parts of earlier
    states with it."""
    dims, n = tuple(range(-modes, 0)), math.prod(x.shape[-modes:])
    forward, adjoint = q.maps(x)
    mean = lambda z: torch.linalg.vector_norm(z, 1, dim=dims, keepdim=True) / n
    size = lambda z: torch.linalg.vector_norm(z, dim=dims)
    drop = lambda s: n * s.flatten(-modes)[..., 0].square()
    u, v, r = torch.zeros_like(x), torch.zeros_like(x), x
    yield Step(u, v, size(r), torch.zeros_like(size(r)))
    y = None if method == "two_two" else adjoint(r)
    while method == "greedy":
        s, t = mean(r), mean(y)
        s, t = torch.where(s >= t, s, 0), torch.where(s >= t, 0, t)
        if s.any():
            du = _sign(r, s)
            u, r, y = add(u, du), sub(r, du), sub(y, adjoint(du))
        if t.any():
            dv = _sign(y, t)
            v, y, r = add(v, dv), sub(y, dv), sub(r, forward(dv))
        yield Step(u, v, size(r), drop(s + t))
    while method == "two_two":
        for _ in range(2):
            du = _sign(r, s := mean(r))
            u, r = add(u, du), sub(r, du)
            yield Step(u, v, size(r), drop(s))
        y = adjoint(r)
        for _ in range(2):
            dv = _sign(y, t := mean(y))
            v, y = add(v, dv), sub(y, dv)
            yield Step(u, v, size(y), drop(t))
        r = forward(y)
    while method == "frame":
        top = torch.linalg.vector_norm(r, dim=dims, keepdim=True) / math.sqrt(4 * delta * n)
        du, dv = (r / 2).clamp(-top, top), (y / 2).clamp(-top, top)
        before = size(r)
        u, v, r = add(u, du), add(v, dv), sub(sub(r, du), forward(dv))
        y = adjoint(r)
        yield Step(u, v, size(r), before.square() - size(r).square())


def _sign(r: Tensor, s: Tensor) -> Tensor:
    """s sign(r) with a sign for 0 too, so that its norm is s sqrt(N)."""
    return torch.copysign(s, r)


def _largest(x: Tensor, dims) -> Tensor:
    return torch.linalg.vector_norm(x, math.inf, dim=dims, keepdim=True)


def _sizes(x: Tensor, dims) -> Tensor:
    """Norms of the items, kept as modes of size 1, safe at any scale; 1 for an item of zeros."""
    top = _largest(x, dims)
    top = torch.where(top > 0, top, 1)
    size = top * torch.linalg.vector_norm(x / top, dim=dims, keepdim=True)
    return torch.where(size > 0, size, 1)


def _checked(x, q, modes, method, generator):
    """The number of modes and the rotation that are meant. Raises ValueError or TypeError where
    there are none."""
    linalg.check_dense(x, "kashin")
    if x.is_complex():
        raise TypeError(f"kashin: needs real entries, got {x.dtype}")
    one_of("kashin", "method", method, METHODS)
    most = min(x.ndim, 2)
    modes = most if modes is None else count("kashin", "modes", modes, 1, most)
    shape = tuple(x.shape[-modes:])
    if not isinstance(q, Rotation):
        q = Rotation.random(q, shape, generator)
    if q.shape != shape:
        raise ValueError(f"kashin: needs a rotation of shape {shape}, got {q}")
    return modes, q
