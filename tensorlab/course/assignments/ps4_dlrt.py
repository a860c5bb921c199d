"""Problem set 4: a step of low-rank training, why U, S and V blow up, a rank that finds itself."""

import torch
from torch import Tensor

from ...formats.lowrank import LowRank
from ...linalg import extend_basis
from ...methods.dlrt import augment, kls_step, truncate
from ..checks import Check, Unusable, gaussian, returned


def given_widen(u, s, v, right, left) -> tuple[Tensor, Tensor, Tensor]:
    """The same matrix u s vᵀ in bases of twice the rank, as three factors u, s, v."""
    wide, *_ = augment(LowRank(u, v, s), right(v), left(u))
    return wide.u, wide.s, wide.v


def given_kls(u, s, v, right, left, h: float, theta: float) -> tuple[Tensor, Tensor, Tensor]:
    """One KLS step of adaptive rank, as three factors u, s, v."""
    u, s, v = given_widen(u, s, v, right, left)
    new, *_ = truncate(LowRank(u, v, s - h * (u.mT @ right(v))), theta)
    return new.u, new.s, new.v


def given_products(u, s, v, x, y):
    """G v and Gᵀ u as functions, for the mean cross entropy of x (u s vᵀ)ᵀ."""
    scores = (x @ v @ s.mT @ u.mT).detach().requires_grad_()
    (off,) = torch.autograd.grad(torch.nn.functional.cross_entropy(scores, y), scores)
    return (lambda t: off.mT @ (x @ t)), (lambda t: x.mT @ (off @ t))


def _three(result):
    """Three factors that fit, those outside with orthonormal columns."""
    if not isinstance(result, (tuple, list)) or len(result) != 3:
        raise Unusable("three tensors u, s, v are needed.")
    u, s, v = result
    if u.shape[1:] + v.shape[1:] != s.shape:
        raise Unusable(
            f"u (m, r), s (r, r) and v (n, r) are needed, these are "
            f"{tuple(u.shape)}, {tuple(s.shape)} and {tuple(v.shape)}."
        )
    for name, q in (("u", u), ("v", v)):
        if (q.mT @ q - torch.eye(q.shape[1], dtype=q.dtype)).norm() > 1e-8:
            raise Unusable(f"the columns of {name} are not orthonormal.")
    return u, s, v


def _matrix(function, *case):
    """The matrix that three factors stand for."""
    result = returned(function, *case)
    if result is None:
        return None
    u, s, v = _three(result)
    return u @ s @ v.mT


def _gradients(function, *case):
    """G v and Gᵀ u of two functions, one below the other."""
    result = returned(function, *case)
    if result is None:
        return None
    if not isinstance(result, (tuple, list)) or not all(callable(f) for f in result):
        raise Unusable("two functions are needed, right and left.")
    right, left = result
    u, _, v = case[:3]
    return torch.cat([returned(right, v), returned(left, u)])


def _start():
    a, b, s, g = gaussian((7, 2), (6, 2), (2, 2), (7, 6))
    u, v = torch.linalg.qr(a)[0], torch.linalg.qr(b)[0]
    return u, s, v, (lambda x: g @ x), (lambda x: g.mT @ x)


def _regression():
    u, s, v, *_ = _start()
    return u, s, v, gaussian((8, 6))[0], torch.arange(8) % 7


def _product(u, s, v):
    return u @ s @ v.mT


def _speed(u, s, v, right):
    """The speed, from the dense projection and the dense gradient."""
    g = right(torch.eye(len(v), dtype=v.dtype))
    return float(
        ((torch.eye(len(u), dtype=u.dtype) - u @ u.mT) @ g @ v @ torch.linalg.inv(s)).norm()
    )


def _forbidden(*functions):
    said = "write it with torch alone; functions that do the same are not allowed here."
    return tuple((function, said) for function in functions)


WIDENING = _forbidden(given_widen, augment, extend_basis)  # not where a step may ask for it
FORBIDDEN = _forbidden(given_kls, kls_step, truncate, given_products, _speed)

widen = Check(
    function=True,
    cases=lambda: [_start()],
    read=_matrix,
    right=lambda u, s, v, right, left: _product(u, s, v),
    mistakes=(
        (
            lambda u, s, v, right, left: _product(u, s.mT, v),
            "the middle factor is transposed.",
        ),
    ),
    hint="the bases are orthonormal, but the matrix has changed: widening moves nothing.",
    moral="This matrix is kept; whether the bases hold GV and the transpose of G times U is not "
    "seen here.",
)

kls = Check(
    function=True,
    cases=lambda: [(*_start(), 0.1, theta) for theta in (0.0, 0.2)],
    read=_matrix,
    right=lambda *case: _product(*given_kls(*case)),
    mistakes=(
        (
            lambda u, s, v, right, left, h, theta: _product(
                *given_kls(u, s, v, right, left, -h, theta)
            ),
            "the step goes up the gradient, not down.",
        ),
        (
            lambda u, s, v, right, left, h, theta: _product(
                *given_kls(u, s, v, right, left, h, 0.0)
            ),
            "nothing is cut.",
        ),
    ),
    hint="compare with theta = 0, where nothing is cut: the step along the old bases is -h G.",
    moral="Two tolerances are right; try one that leaves a single value, and a start of zeros.",
)

speed = Check(
    function=True,
    cases=lambda: [_start()[:4]],
    right=_speed,
    hint="S is on the right of GV, and it is not diagonal here.",
    moral="This case is right; let the smallest singular value go to zero.",
)

products = Check(
    function=True,
    cases=lambda: [_regression()],
    read=_gradients,
    right=lambda *case: _gradients(given_products, *case),
    mistakes=(
        (
            lambda *case: len(case[4]) * _gradients(given_products, *case),
            "the loss is a mean over the inputs, not a sum.",
        ),
        (lambda *case: -_gradients(given_products, *case), "the sign is wrong."),
    ),
    hint="compare with autograd on a dense weight.",
    moral="This case is right; try as many inputs as classes.",
)
