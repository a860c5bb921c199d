"""TT-matrices where it matters: Fisher weights inside TT-SVD [Hsu2022], and a fit that repairs it.

    at a bond, C and J (rows, rest), J the squares of gradients: d = (row sums of J)^(1/2)
    diag(d) C ≈ U S Vᴴ,   core = diag(1/d) U,   C <- S Vᴴ,   J <- (U ∘ U)ᵀ diag(1/d²) J

Each step is the best for its own row weights only. Whitening and trains do not commute: ŵ R is no
train of the same ranks. So the train is fitted to w in the norm |L (w - ŵ) R| by L-BFGS instead,
and so is any other format.
"""

import torch
from torch import Tensor

from ..fit import Fit
from ..formats.base import MatrixFormat
from ..formats.ttmatrix import TTMatrix
from ..layers.holding import copied
from ..linalg import check_dense, near_one, norm, rank_caps, wide_svd, widen
from .weighted import checked_weight, times

CLAMP = 1e-2  # least weight of a row, as a share of the mean


@torch.no_grad()
def weighted_ttm(w: Tensor, fisher: Tensor, out, in_, rank) -> TTMatrix:
    """FWTTM: the TT-matrix of w whose steps weigh rows by Fisher information.

    w: (out, in).
    fisher: the weight of each entry, (out, in), >= 0; where it is constant the result is that of
        `tt_matrix_svd`.
    out, in_, rank: as in `tt_matrix_svd`.

    Raises ValueError or TypeError for bad sizes, ranks or weights.

    >>> w = torch.arange(36.0).reshape(6, 6)
    >>> weighted_ttm(w, torch.ones(6, 6), (2, 3), (3, 2), 4)
    TTMatrix(shape=(6, 6), ranks=(2,), stores 24 of 36)
    """
    who = "weighted_ttm"
    check_dense(w, who)
    check_dense(fisher, f"{who}: fisher")
    if fisher.shape != w.shape or fisher.is_complex() or float(fisher.min()) < 0:
        least = "complex" if fisher.is_complex() else f"{float(fisher.min()):.3g}"
        got = f"shape {tuple(fisher.shape)}, least {least}"
        raise ValueError(f"{who}: needs a fisher >= 0 of shape {tuple(w.shape)}, got {got}")
    plain = TTMatrix.from_dense(w, 1, out=out, in_=in_)  # checks the sizes
    caps = rank_caps(who, rank, None, w.shape, len(plain.cores) - 1)
    (x, size), (j, _) = (near_one(widen(_interleaved(t, plain))) for t in (w, fisher))
    cores, r = [], 1
    for mode, cap in zip(zip(plain.out, plain.in_), caps):
        n = r * mode[0] * mode[1]
        x, j = x.reshape(n, -1), j.reshape(n, -1)
        d = _row_weights(j)
        u, s, vh = wide_svd(who, d[:, None] * x, cap)
        core = u / d[:, None]
        cores.append(core.reshape(r, *mode, -1))
        x, j, r = s[:, None] * vh, core.abs().square().mT @ j, len(s)
    cores.append(x.reshape(r, plain.out[-1], plain.in_[-1], 1))
    return TTMatrix(tuple(cores), plain.unpadded_shape).scale(2.0 ** int(size)).to(w.dtype)


def weighted_fit(
    w: Tensor,
    form: MatrixFormat,
    *,
    left: Tensor | None = None,
    right: Tensor | None = None,
    max_iter: int = 60,
    tol: float = 1e-6,
) -> Fit:
    """The format nearest to w in the norm |L (w - ŵ) R|, by L-BFGS from `form` on.

    w: (out, in).
    form: where it starts, such as `tt_matrix_svd` of w; its kind, ranks and dtype stay.
    left, right: as in `weighted_svd`.
    max_iter: the most iterations.
    tol: it has converged when the error falls by less than this share of itself.

    history holds |L (w - ŵ) R| / |L w R|, which never rises. Raises ValueError for a format of
    another shape.

    >>> from tensorlab import Kronecker
    >>> w, right = torch.diag(torch.arange(1.0, 7.0)), torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 9.0])
    >>> fit = weighted_fit(w, Kronecker.from_dense(w, 1), right=right)
    >>> fit.history[-1] < 0.6 * fit.history[0]
    True
    """
    who = "weighted_fit"
    check_dense(w, who)
    if tuple(form.shape) != tuple(w.shape):
        raise ValueError(f"{who}: needs a format of shape {tuple(w.shape)}, got {form}")
    w, size = near_one(w.to(form.dtype))
    left, right = (
        None if t is None else t.to(form.dtype)
        for t in (
            checked_weight(who, "left", left, w, 0)[0],
            checked_weight(who, "right", right, w, 1)[0],
        )
    )
    seen = lambda e: times(right, times(left, e).mT)
    whole = norm(seen(w)).to(w.dtype) or 1.0
    leaves = [copied(t).requires_grad_() for t in _balanced(form.scale(2.0 ** -int(size)))]
    error = lambda: (seen(w - form.with_tensors(leaves).to_dense()) / whole).abs().square().sum()
    history = _descend(error, leaves, max_iter, tol)
    value = form.with_tensors(t.detach() for t in leaves).scale(2.0 ** int(size))
    converged = len(history) > 1 and history[-2] - history[-1] <= tol * history[-2]
    return Fit(value, tuple(history), converged)


def _descend(error, leaves, max_iter, tol) -> list[float]:
    """L-BFGS with a line search, ten steps at a time; the square roots of the errors."""
    options = dict(max_iter=10, history_size=10, tolerance_grad=0, tolerance_change=0)
    optimizer = torch.optim.LBFGS(leaves, line_search_fn="strong_wolfe", **options)

    def closure():
        optimizer.zero_grad()
        loss = error()
        loss.backward()
        return loss

    with torch.enable_grad():
        history = [float(error().detach()) ** 0.5]
        for _ in range(-(-max_iter // 10)):
            kept = [t.detach().clone() for t in leaves]
            optimizer.step(closure)
            now = float(error().detach()) ** 0.5
            if not now <= history[-1]:  # rounding, or not finite: the last ones are the best
                for t, k in zip(leaves, kept):
                    t.data.copy_(k)
                return history
            history.append(now)
            if history[-2] - now <= tol * history[-2]:
                break
    return history


def _balanced(form) -> list[Tensor]:
    """The tensors of a format that is linear in each, scaled to one norm; others as they are."""
    tensors = form.tensors()
    sizes = torch.stack([norm(t) for t in tensors])
    even = form.with_tensors([t * s for t, s in zip(tensors, sizes.log().mean().exp() / sizes)])
    same = sizes.min() > 0 and torch.allclose(even.to_dense(), form.to_dense(), rtol=1e-3)
    return [t.to(form.dtype) for t in (even if same else form).tensors()]


def _row_weights(j: Tensor) -> Tensor:
    """The roots of the row sums, none far below their mean."""
    d = j.sum(1)
    mean = float(d.mean())
    return d.clamp_min(CLAMP * mean).sqrt() if mean > 0 else torch.ones_like(d)


def _interleaved(w: Tensor, form: TTMatrix) -> Tensor:
    """The tensor with modes out_k in_k, padded as the format is."""
    d, (m, n) = len(form.cores), form.padded_shape
    w = torch.nn.functional.pad(w, (0, n - w.shape[1], 0, m - w.shape[0]))
    return w.reshape(*form.out, *form.in_).permute([a for k in range(d) for a in (k, d + k)])
