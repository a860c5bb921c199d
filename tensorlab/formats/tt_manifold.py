"""Riemannian optimization on tensor trains of fixed ranks [Holtz2012, Steinlechner2016,
Novikov2022].

The trains of ranks r are a smooth manifold. With left-orthonormal cores U and right-orthonormal
cores V of the point x,

    tangent vectors at x:   v = sum_k U_0 ... U_{k-1} D_k V_{k+1} ... V_{d-1},
        U_kᴴ D_k = 0 for k < d-1  (the gauge)

so that <v, w> = sum_k <D_k, E_k>, and v as a train has the cores [D_0 U_0], [[V_k 0], [D_k U_k]],
[V_{d-1}; D_{d-1}] of ranks 2r. In numbers D the map from D to v is an isometry: the derivative of f
along D, gauged, is the Riemannian gradient.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from numbers import Number

import torch
from torch import Tensor

from ..arguments import count, is_real, number, one_of, scalar
from ..fit import Fit
from ..linalg import check_dense, ldexp, norm, size_exponent
from .tt import TT, tt_round, unfolding_ranks

ARMIJO = 1e-4  # share of the decrease that the slope promises, with which a step is accepted


@dataclass(frozen=True, eq=False, repr=False)
class Tangent:
    """A tangent vector at a train: v = sum_k U_0 ... U_{k-1} D_k V_{k+1} ... V_{d-1} with U_kᴴ D_k
    = 0 for k < d-1.

    left: d-1 cores U, left-orthonormal. right: d-1 cores V_1 ... V_{d-1}, right-orthonormal. last:
    the core that makes U_0 ... U_{d-2} last the point itself. deltas: d cores D_k (r_k, n_k,
    r_{k+1}). All of one dtype; of two vectors that of `torch.promote_types`. Made by `tt_project`,
    `riemannian_grad`. Vectors at one point add and scale; `dot` and `norm` cost no more than their
    deltas; `to_tt` is the train of ranks 2r.

    >>> g = torch.Generator().manual_seed(0)
    >>> x = TT.randn((4, 5, 6), rank=2, generator=g, dtype=torch.float64)
    >>> v = tt_project(x, 3 * x)
    >>> v, bool((v.to_tt() - 3 * x).norm() < 1e-12 * x.norm())
    (Tangent(shape=(4, 5, 6), ranks=(2, 2)), True)
    """

    left: tuple[Tensor, ...]
    right: tuple[Tensor, ...]
    last: Tensor
    deltas: tuple[Tensor, ...]
    __array_ufunc__ = None  # so that a NumPy number on the left leaves the product to us

    @property
    def dtype(self) -> torch.dtype:
        return self.last.dtype

    @property
    def point(self) -> TT:
        """Where the vector is tangent: a train with left-orthonormal cores."""
        return TT((*self.left, self.last))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(d.shape[1] for d in self.deltas)

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(d.shape[0] for d in self.deltas[1:])

    def __repr__(self):
        return f"Tangent(shape={self.shape}, ranks={self.ranks})"

    def to(self, dtype: torch.dtype) -> "Tangent":
        """The same vector in another dtype."""
        cast = lambda cores: tuple(core.to(dtype) for core in cores)
        return Tangent(cast(self.left), cast(self.right), self.last.to(dtype), cast(self.deltas))

    def __add__(self, other: "Tangent") -> "Tangent":
        a, b = self._pair(other, "+")
        return replace(a, deltas=tuple(map(torch.add, a.deltas, b.deltas)))

    def __sub__(self, other: "Tangent") -> "Tangent":
        a, b = self._pair(other, "-")
        return replace(a, deltas=tuple(map(torch.sub, a.deltas, b.deltas)))

    def __neg__(self) -> "Tangent":
        return -1 * self

    def __mul__(self, number) -> "Tangent":
        if not isinstance(number, (Number, Tensor)) or getattr(number, "ndim", 0):
            return NotImplemented
        number = scalar(number)
        v = self if is_real(number) else self.to(torch.promote_types(self.dtype, torch.complex64))
        return replace(v, deltas=tuple(d * number for d in v.deltas))

    __rmul__ = __mul__

    def dot(self, other: "Tangent") -> Tensor:
        """<self, other> = sum_k <D_k, E_k>: the inner product of the tensors, for the gauge makes
        the terms orthogonal."""
        a, b = self._pair(other, "dot")
        return _inner(a.deltas, b.deltas)

    def norm(self) -> Tensor:
        return norm(torch.stack([norm(d) for d in self.deltas])).to(self.dtype.to_real())

    def to_tt(self) -> TT:
        """The vector as a train of ranks 2r."""
        return _train(self.left, self.right, self.deltas)

    def _pair(self, other, sign) -> tuple["Tangent", "Tangent"]:
        """Both vectors in one dtype; ValueError unless they are at the same point."""
        fits = (
            isinstance(other, Tangent) and other.shape == self.shape and other.ranks == self.ranks
        )
        if fits:
            dtype = _common(f"Tangent {sign}", self.last, other.last)
            a, b = (v if v.dtype == dtype else v.to(dtype) for v in (self, other))
        if not fits or (a.last is not b.last and not torch.equal(a.last, b.last)):
            raise ValueError(
                f"Tangent {sign}: needs a vector at the same point, got {other!r}; `transport` it "
                f"first"
            )
        return a, b


def tt_project(x: TT, z: TT | Tensor) -> Tangent:
    """Orthogonal projection onto the tangent space at x of a train or a dense tensor [Lubich2015].

        D_k = (1 - U_k U_kᴴ) (U_0 ... U_{k-1})ᴴ z (V_{k+1} ... V_{d-1})ᴴ

    without the first factor for k = d-1.

    x: a train; ranks beyond the bounds of its unfoldings are first cut to them. z: of x's shape,
    (n_0, ..., n_{d-1}) where it is dense. The vector has the common dtype of both, as torch
    promotes them. Raises ValueError for another shape or device, TypeError for another kind of z.

    >>> g = torch.Generator().manual_seed(0)
    >>> x, z = TT.randn((4, 5, 6), 2, generator=g), TT.randn((4, 5, 6), 3, generator=g)
    >>> v = tt_project(x, z).to_tt()
    >>> bool((tt_project(x, v).to_tt() - v).norm() < 1e-5 * v.norm())
    True
    """
    who = "tt_project"
    if not isinstance(z, (TT, Tensor)):
        raise TypeError(f"{who}: needs a TT or a dense tensor, got {type(z).__name__}")
    for part in z.cores if isinstance(z, TT) else (z,):
        check_dense(part, who)
    return _project(_frame(x, who, z), z)


def transport(x: TT, tangent: Tangent) -> Tangent:
    """Carry a tangent vector to another point of the manifold, by projection [Steinlechner2016,
    sec. 3.2].

    x: a train of the vector's shape.  Raises TypeError for what is not a `Tangent`.

    >>> x, y = (TT.randn((4, 5), 2, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    >>> transport(y, tt_project(x, x)).ranks
    (2,)
    """
    z = _tangent("transport", tangent).to_tt()
    return _project(_frame(x, "transport", z), z)


def retract(tangent: Tangent, step: float = 1.0) -> TT:
    """Back to the manifold from the point x along a tangent vector: round(x + step v), at the ranks
    of x [Steinlechner2016].

    It agrees with x + step v up to O(step^2). Ranks fall only where x + step v is of smaller rank
    to rounding. Raises TypeError for what is not a `Tangent`, ValueError for a step that is not
    finite.

    >>> x = TT.randn((4, 5, 6), 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> bool((retract(tt_project(x, x), 0.5) - 1.5 * x).norm() < 1e-12 * x.norm())
    True
    """
    if not math.isfinite(abs(step)):
        raise ValueError(f"retract: step must be a finite number, got {step}")
    moved = _tangent("retract", tangent) * step
    deltas = (*moved.deltas[:-1], moved.deltas[-1] + moved.last)
    x = _train(*_even(moved.left, moved.right, deltas))
    return tt_round(x, tangent.ranks) if x.ndim > 1 else x


def riemannian_grad(f: Callable[[TT], Tensor], x: TT) -> Tangent:
    """Riemannian gradient of f at x, by automatic differentiation [Novikov2022, Alg. 1].

        D = (0, ..., 0, last);   g = dF/dD of F(D) = f(train of D)
        D_k <- g_k - U_k U_kᴴ g_k   for k < d-1

    It is the projection of the dense gradient, which is never formed. f: TT -> real scalar tensor,
    a function of the tensor (not of its cores) that torch can differentiate; it is called with a
    train of ranks 2r, and once with x, to see whether the values agree. QR stays outside of the
    tape. The cost is a constant times that of f. Raises ValueError for an f that depends on the
    cores, is not a real scalar, not finite, or has no derivative, TypeError for one that returns no
    tensor.

    >>> g = torch.Generator().manual_seed(0)
    >>> x, a = (TT.randn((4, 5, 6), 2, generator=g, dtype=torch.float64) for _ in range(2))
    >>> gradient = riemannian_grad(lambda x: (x - a).dot(x - a) / 2, x)
    >>> bool((gradient - tt_project(x, x - a)).norm() < 1e-12 * x.norm())
    True
    """
    value, gradient = _value_and_grad(f, _frame(x, "riemannian_grad"), "riemannian_grad")
    _check_function("riemannian_grad", f, gradient.point, value)
    return gradient


def hessian_vector(f: Callable[[TT], Tensor], x: TT, v: Tangent) -> Tangent:
    """P H P v: the dense Hessian H of f at x, applied to a tangent vector and projected
    [Novikov2022, Alg. 2].

        E_k = d/dD_k <dF/dD, v>, then gauged

    The Riemannian Hessian has one more term, P (DP[v]) grad f, the curvature of the manifold
    (Weingarten map): it holds the inverse singular values of x and the part of the dense gradient
    that is normal to the manifold, and is left out, as in Gauss-Newton. Where the dense gradient is
    zero, nothing is missing. f as for `riemannian_grad`; v: a tangent vector at x, whose common
    dtype with x is that of the result.

    >>> g = torch.Generator().manual_seed(0)
    >>> x, z = (TT.randn((4, 5, 6), r, generator=g, dtype=torch.float64) for r in (2, 3))
    >>> v = tt_project(x, z)
    >>> bool((hessian_vector(lambda x: x.dot(x) / 2, x, v) - v).norm() < 1e-12 * v.norm())
    True
    """
    z = _tangent("hessian_vector", v).to_tt()
    here = _frame(x, "hessian_vector", z)
    v = _project(here, z)  # as it is, in the cores of this frame
    with torch.enable_grad():
        value, first, deltas = _derivative(f, here, "hessian_vector", twice=True)
        along = _inner(first, v.deltas).real
        second = (
            torch.autograd.grad(along, deltas, allow_unused=True, materialize_grads=True)
            if along.requires_grad
            else None
        )
    _check_function("hessian_vector", f, here.point, value)
    return _gauged(here, second or [torch.zeros_like(d) for d in deltas])


def tt_minimize(
    f: Callable[[TT], Tensor], x0: TT, *, method: str = "cg", tol: float = 1e-6, max_iter: int = 200
) -> Fit[TT]:
    """Minimum of a function over the trains of the ranks of x0, by Riemannian descent
    [Steinlechner2016, Alg. 1].

        gradient g = P grad f
        direction h = -g ("gd")  or  -g + beta T h_old ("cg", Polak-Ribiere, beta >= 0)
        x <- retract(x + t h),   f(x) <= f(x_old) + 1e-4 t <g, h>   (Armijo)

    T is `transport`. The first trial of t is extrapolated from the last two steps, the second is
    the minimum of the parabola through what was found, and then t is halved until Armijo's rule
    holds.

    f: TT -> real scalar tensor, see `riemannian_grad`.
    x0: the train to start from, whose ranks are kept.
    method: "cg" or "gd".
    tol: it has converged when |g| <= tol |g at x0|.
    max_iter: the most steps.

    history holds f, at x0 first; a descent that finds no lower point ends with `converged=False`.
    Raises ValueError or TypeError for a bad argument, and for an f that
    `riemannian_grad` refuses at x0.

    >>> a = TT.randn((4, 5, 6), 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> x0 = TT.randn((4, 5, 6), 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    >>> fit = tt_minimize(lambda x: (x - a).norm() ** 2, x0)
    >>> fit.converged, bool((fit.value - a).norm() < 1e-4 * a.norm())
    (True, True)
    """
    who = "tt_minimize"
    here = _frame(x0, who)
    one_of(who, "method", method, ("gd", "cg"))
    tol, max_iter = number(who, "tol", tol), count(who, "max_iter", max_iter, 0)
    value, gradient = _value_and_grad(f, here, who)
    _check_function(who, f, here.point, value)
    unit = _unit(float(value), gradient)

    def value_and_grad(x):
        value, gradient = _value_and_grad(f, _frame(x, who), who)
        return unit * float(value), unit * gradient

    history, first, converged = [], None, False
    for x, value, gradient in descend(  # noqa: B007
        lambda x: unit * float(f(x)), value_and_grad, here.point, method
    ):
        history.append(value / unit)
        size = float(gradient.norm())
        first = size if first is None else first
        converged = size <= tol * first
        if converged or len(history) > max_iter:
            break
    return Fit(x, tuple(history), converged)


# ------------------------------------------------------------------------------------------ descent


def descend(
    f, value_and_grad, x: TT, method: str, first_step=None
) -> Iterator[tuple[TT, float, Tangent]]:
    """Yield (x, f(x), gradient), at the start and after each step; ends where no step finds a lower
    point.

    f: TT -> number, to be minimized.
    value_and_grad: TT -> (f(x), its Riemannian gradient, a `Tangent` at x).
    x: the start; its ranks are kept.
    method: "cg", conjugate gradients, or another word for steepest descent.
    first_step: direction -> the first t to be tried; None: from the last step and the slopes.
    """
    value, g = value_and_grad(x)
    h, t, slope = -g, None, 0.0
    while True:
        yield x, float(value), g
        size, before, slope = float(g.norm()) ** 2, slope, float(g.dot(h).real)
        if not slope < 0:
            h, slope = -g, -size
        if size == 0:
            return
        if first_step is not None:
            t = first_step(h)
        elif t is None:
            t = (0.1 * float(g.point.norm()) or 1.0) / float(h.norm())
        else:
            t = t * min(10.0, before / slope)
        found = _armijo(f, h, float(value), slope, t)
        if found is None and method == "cg":  # once more, from steepest descent
            h, slope = -g, -size
            found = _armijo(f, h, float(value), slope, t)
        if found is None:
            return
        x, t = found
        old, (value, g) = g, value_and_grad(x)
        if method == "cg":
            beta = float((g - _project(g, old.to_tt())).dot(g).real) / size
            h = -g + max(0.0, beta) * _project(g, h.to_tt())
        else:
            h = -g


def _armijo(f, h: Tangent, value: float, slope: float, t: float) -> tuple[TT, float] | None:
    """A step t from h's point along h that decreases f enough: the trial, and the minimum of the
    parabola through it; None where there is none, or t is not a positive number."""
    best = None
    if not 0 < t < math.inf:  # rounding, where the slope is no more than that
        return None
    for _ in range(40):
        x = retract(h, t)
        new = float(f(x))
        curvature = (new - value) / t - slope  # of the parabola value + slope t + curvature t^2 / t
        lowest = -slope * t / (2 * curvature) if curvature > 0 else 10 * t
        if new <= value + ARMIJO * t * slope:
            if best is not None and best[2] <= new:
                return best[:2]
            if best is not None or abs(lowest - t) <= 0.3 * t:
                return x, t
            best, t = (x, t, new), min(lowest, 10 * t)
        elif best is not None:
            return best[:2]
        else:
            t = min(max(lowest, 0.1 * t), 0.5 * t) if math.isfinite(new) else 0.1 * t
    return None


# ------------------------------------------------------------------------------------------ frames


def _frame(x: TT, who: str, *others: TT | Tensor) -> Tangent:
    """The point x, as a tangent vector at itself: orthonormal cores on both sides, D = (0, ..., 0,
    last). In the common dtype with what it is to meet; the cores of a real point stay real numbers.
    """
    if not isinstance(x, TT):
        raise TypeError(f"{who}: needs a TT, got {type(x).__name__}")
    for core in x.cores:
        check_dense(core, who)
    dtype = _common(who, x, *others)
    kept = dtype if x.dtype.is_complex else dtype.to_real()
    x = TT(tuple(core.detach().to(kept) for core in x.cores))
    if any(r > most for r, most in zip(x.ranks, unfolding_ranks(x.shape))):
        # now no rank is larger than the sizes to its right allow, and soon than those to its left
        x = x.orthogonal(0)
    left = x.orthogonal(x.ndim - 1).cores
    right = TT(left).orthogonal(0).cores
    here = Tangent(left[:-1], right[1:], left[-1], (*map(torch.zeros_like, left[:-1]), left[-1]))
    return here if kept == dtype else here.to(dtype)


def _common(who: str, *parts) -> torch.dtype:
    """The dtype that torch promotes those of tensors and trains to; ValueError for two devices."""
    devices = {part.device: None for part in parts}
    if len(devices) > 1:
        raise ValueError(f"{who}: needs all on one device, got {' and '.join(map(str, devices))}")
    return functools.reduce(torch.promote_types, (part.dtype for part in parts))


def _inner(a, b) -> Tensor:
    """sum_k <A_k, B_k> of two rows of cores."""
    return torch.stack([torch.vdot(x.flatten(), y.flatten()) for x, y in zip(a, b)]).sum()


def _tangent(who: str, v) -> Tangent:
    if not isinstance(v, Tangent):
        raise TypeError(f"{who}: needs a Tangent, got {type(v).__name__}")
    return v


def _train(left, right, deltas) -> TT:
    """The train of ranks 2r of sum_k U_0 ... U_{k-1} D_k V_{k+1} ... V_{d-1}."""
    if len(deltas) == 1:
        return TT(tuple(deltas))
    cores = [torch.cat([deltas[0], left[0]], 2)]
    for u, v, d in zip(left[1:], right[:-1], deltas[1:-1]):
        cores.append(torch.cat([torch.cat([v, torch.zeros_like(d)], 2), torch.cat([d, u], 2)], 0))
    return TT((*cores, torch.cat([right[-1], deltas[-1]], 0)))


def _even(left, right, deltas):
    """The same sum with all blocks of its train of one size, so that no bond is graded by the size
    of the tensor and no product on the way is larger."""
    d = len(deltas)
    exponent = size_exponent(torch.cat([delta.flatten() for delta in deltas]))
    shares = [exponent * (k + 1) // d - exponent * k // d for k in range(d)]
    left = [ldexp(u, share) for u, share in zip(left, shares)]
    right = [ldexp(v, share) for v, share in zip(right, shares[1:])]
    return left, right, [ldexp(x, share - exponent) for x, share in zip(deltas, shares)]


def _gauged(here: Tangent, deltas) -> Tangent:
    """The tangent vector of what the D_k are before the gauge: D_k - U_k U_kᴴ D_k for k < d-1."""
    gauged = []
    for u, d in zip(here.left, deltas):
        basis, rows = u.flatten(0, 1), d.flatten(0, 1)  # (r_k n_k, r_{k+1})
        gauged.append((rows - basis @ (basis.mH @ rows)).reshape(d.shape))
    return replace(here, deltas=(*gauged, deltas[-1]))


def _project(here: Tangent, z: TT | Tensor) -> Tangent:
    """`tt_project`, where the frame is at hand."""
    if tuple(z.shape) != here.shape:
        raise ValueError(
            f"tt_project: needs a tensor of the shape {here.shape} of x, got {tuple(z.shape)}"
        )
    if isinstance(z, Tensor):
        return _project_dense(here, z.to(here.dtype))
    z = z.to(here.dtype)
    ends = [here.last.new_ones(1, 1)]  # the last j modes of z against those of V: (q, r)
    for v, c in zip(reversed(here.right), reversed(z.cores)):
        ends.append(torch.tensordot(c, ends[-1], 1).flatten(1) @ v.flatten(1).mH)
    front, deltas = here.last.new_ones(1, 1), []
    for k, (c, end) in enumerate(zip(z.cores, reversed(ends))):
        rows = torch.tensordot(front, c, 1)  # (r_k, n_k, q_{k+1})
        deltas.append(torch.tensordot(rows, end, 1))
        if k < len(here.left):
            front = here.left[k].flatten(0, 1).mH @ rows.flatten(0, 1)
    return _gauged(here, deltas)


def _project_dense(here: Tangent, z: Tensor) -> Tangent:
    # z with the last j modes contracted with those of V: (n_0 ... n_{d-1-j}, r)
    rests = [z.reshape(-1, 1)]
    for v in reversed(here.right):
        rests.append(rests[-1].reshape(-1, v.shape[1] * v.shape[2]) @ v.flatten(1).mH)
    front, deltas = z.new_ones(1, 1), []  # U_0 ... U_{k-1}: (n_0 ... n_{k-1}, r_k)
    for k, rest in enumerate(reversed(rests)):
        rows = rest.reshape(len(front), -1)
        deltas.append((front.mH @ rows).reshape(here.deltas[k].shape))
        if k < len(here.left):
            front = torch.tensordot(front, here.left[k], 1).flatten(0, 1)
    return _gauged(here, deltas)


# -------------------------------------------------------------------------------------- derivatives


def _derivative(f, here: Tangent, who: str, twice=False):
    """f at the point, its derivative by the deltas (before the gauge), and the deltas."""
    with torch.enable_grad():
        deltas = [d.clone().requires_grad_() for d in here.deltas]
        value = f(_train(*_even(here.left, here.right, deltas)))
        need = f"{who}: needs a function whose value is one real number in a tensor, got"
        if not isinstance(value, Tensor):
            raise TypeError(f"{need} {type(value).__name__}")
        if value.numel() != 1 or value.is_complex():
            raise ValueError(f"{need} shape {tuple(value.shape)} and {value.dtype}")
        if not value.requires_grad:
            raise ValueError(
                f"{who}: needs a function that torch can differentiate, got a value without a graph"
            )
        first = torch.autograd.grad(
            value.reshape(()), deltas, create_graph=twice, materialize_grads=True
        )
    return value.detach(), first, deltas


def _value_and_grad(f, here: Tangent, who: str) -> tuple[Tensor, Tangent]:
    value, first, _ = _derivative(f, here, who)
    return value, _gauged(here, first)


def _check_function(who: str, f, x: TT, value: Tensor) -> None:
    """Raises ValueError for an f that is not finite, or differs between two trains of the same
    tensor: the one of ranks 2r that had `value`, and x.

    A factor goes from its last core to its first, so that no norm of a core is the same in both; 3,
    for powers of two are shared out already.
    """
    if not math.isfinite(float(value)):
        raise ValueError(f"{who}: needs a function that is finite at x, got {float(value)}")
    x = TT((3 * x.cores[0], *x.cores[1:-1], x.cores[-1] / 3)) if x.ndim > 1 else x
    with torch.no_grad():
        other = float(f(x))
        level = math.sqrt(torch.finfo(value.dtype).eps)
        if abs(float(value) - other) <= level * abs(other):
            return
        # f may be zero up to rounding at x
        scale = max(abs(float(value)), abs(other), abs(float(f(0.5 * x))))
        if not abs(float(value) - other) <= level * scale:
            raise ValueError(
                f"{who}: needs a function of the tensor, not of its cores, got {float(value):.6g} "
                f"and {other:.6g} for two trains of the same tensor"
            )


def _unit(value: float, gradient: Tangent) -> float:
    """The power of two that brings the gradient near 1, so that its squares stay in the range of
    floats, and leaves the value there too."""
    most = math.frexp(torch.finfo(gradient.dtype).max)[1] - 2
    value, size = (math.frexp(number)[1] for number in (value, float(gradient.norm())))
    return math.ldexp(1.0, max(-most, min(-size, most, 1000 - value)))
