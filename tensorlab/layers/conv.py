"""Convolutions whose kernel is a small format: LowRank in one layer, CP, Tucker, TT and spatial as
chains of ordinary ones.

A kernel k (T, S, kh, kw) that is factorized is several small convolutions one after another: what
depends on the height alone moves along the height, what depends on the width along the width, and
channels are mixed by 1 x 1 convolutions. [Lebedev2015] [Kim2016] [Jaderberg2014] [Garipov2016]
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..arguments import is_integer, positive, rank_caps
from ..formats.cp_stable import RIDGE, cp_degeneracy, cp_stable
from ..formats.lowrank import LowRank
from ..formats.tt import tt_svd, unfolding_ranks
from ..linalg import check_dense, dense_norm, right_basis, safe_scale, widen, zero_level
from ..multilinear import unfold
from .dense import check_plain, current, dense_weight, is_lazy, like
from .linear import FactorizedLinear
from .select import say

DEGENERATE = 100.0  # a CP whose terms have this many times the energy of their sum is warned of


class Link(NamedTuple):
    """One convolution of a chain: channels in and out, and which axes of the image it moves along,
    "", "h", "w" or "hw"."""

    inputs: int
    outputs: int
    axes: str
    groups: int = 1


# ------------------------------------------------------------------------------ the five structures


def cp_conv(
    layer: nn.Conv2d,
    rank: int | None = None,
    *,
    rtol: float | None = None,
    flops: float | None = None,
    image_size=None,
    ridge: float = RIDGE,
    tol: float = 1e-8,
    max_iter: int = 200,
    generator: torch.Generator | None = None,
) -> "ConvChain":
    """Four convolutions from a CP of the kernel: 1 x 1, kh x 1 and 1 x kw each channel on its own,
    1 x 1 [Lebedev2015].

        k[t, s, i, j] = sum_r a[t, r] b[s, r] c[i, r] d[j, r]

    It stores r (S + kh + kw + T) numbers. Each term's norm is shared equally by its four factors,
    and a warning is given where `cp_degeneracy` exceeds DEGENERATE. Exact from rank T S kh kw /
    max(T, S, kh, kw) on.

    layer: an `nn.Conv2d` with groups=1.
    rank: a cap on the number of terms; None: no cap.
    rtol, flops, image_size: as in `tucker_conv`; for rtol the ranks 1, 2, 4, ... are tried and the
        last gap is bisected.
    ridge, tol, max_iter, generator: those of `cp_stable`, which makes the fit.

    >>> layer = nn.Conv2d(8, 16, 3, padding=1)
    >>> [tuple(c.weight.shape) for c in cp_conv(layer, 5)]
    [(5, 8, 1, 1), (5, 1, 3, 1), (5, 1, 1, 3), (16, 5, 1, 1)]
    """
    kernel = _kernel("cp_conv", layer)
    t, s, _, _ = kernel.shape

    def links(ranks):
        (r,) = ranks
        return [Link(s, r, ""), Link(r, r, "h", r), Link(r, r, "w", r), Link(r, t, "")]

    full = kernel.numel() // max(kernel.shape)
    (cap,) = _caps(
        "cp_conv", layer, links, rank, rtol, flops, image_size, [(r,) for r in range(1, full + 1)]
    )

    def fit(r):
        return cp_stable(kernel, r, ridge=ridge, tol=tol, max_iter=max_iter, generator=generator)

    cp = (fit(cap) if rtol is None else _smallest(fit, cap, rtol)).value.normalized()
    if (level := cp_degeneracy(cp)) > DEGENERATE:
        say(
            f"cp_conv: the terms have {level:.3g} times the energy of their sum and will not train "
            f"well, raise ridge={ridge:g} or lower the rank {cp.ranks[0]}"
        )
    a, b, c, d = (widen(f) * widen(cp.weights) ** 0.25 for f in cp.factors)
    return _chain(layer, links(cp.ranks), [b.mT, c.mT, d.mT, a])


def tucker_conv(
    layer: nn.Conv2d,
    rank=None,
    *,
    rtol: float | None = None,
    flops: float | None = None,
    image_size=None,
) -> "ConvChain":
    """Three convolutions from a Tucker-2 of the kernel, of the two channel modes only: 1 x 1, kh x
    kw, 1 x 1 [Kim2016].

        k[t, s, i, j] = sum_pq a[t, p] core[p, q, i, j] b[s, q]

    layer: an `nn.Conv2d` with groups=1, of any stride, padding, dilation and padding mode.
    rank: a cap, one integer or the two (out, in); None: no cap.
    rtol: the relative Frobenius error of the kernel that is allowed; None: any.
    flops: the largest ranks whose chain costs at most this share of the layer; None: any.
    image_size: (height, width) of the images that `flops` is for.

    Of several limits the smallest ranks count. What is frozen stays frozen, and a computed weight
    (weight_norm, a mask) enters with its present value. Raises ValueError unless groups=1,
    TypeError for a layer that overrides `forward`.

    >>> chain = tucker_conv(nn.Conv2d(8, 16, 3, stride=2, padding=1), (6, 4))
    >>> [tuple(c.weight.shape) for c in chain], chain[1].stride
    ([(4, 8, 1, 1), (6, 4, 3, 3), (16, 6, 1, 1)], (2, 2))
    """
    kernel = _kernel("tucker_conv", layer)
    t, s, _, _ = kernel.shape

    def links(r):
        return [Link(s, r[1], ""), Link(r[1], r[0], "hw"), Link(r[0], t, "")]

    top = max(t, s)
    ladder = [(-(-t * k // top), -(-s * k // top)) for k in range(1, top + 1)]
    caps = _caps("tucker_conv", layer, links, rank, rtol, flops, image_size, ladder)
    a, core, b = _tucker2(kernel, caps, rtol)
    return _chain(layer, links(core.shape), [b.mT, core, a])


def tt_conv(
    layer: nn.Conv2d,
    rank=None,
    *,
    rtol: float | None = None,
    flops: float | None = None,
    image_size=None,
) -> "ConvChain":
    """Four convolutions from a train of the kernel: 1 x 1, kh x 1, 1 x kw, 1 x 1, each mixing its
    channels [Garipov2016].

        k[t, s, i, j] = b[s] c[i] d[j] a[t]

    The four are matrices, and r_0, r_1, r_2 are the ranks between them.

    layer: an `nn.Conv2d` with groups=1.
    rank: a cap, one integer or three; None: no cap.
    rtol, flops, image_size: as in `tucker_conv`.

    >>> [tuple(c.weight.shape) for c in tt_conv(nn.Conv2d(8, 16, 3), 5)]
    [(5, 8, 1, 1), (5, 5, 3, 1), (5, 5, 1, 3), (16, 5, 1, 1)]
    """
    kernel = _kernel("tt_conv", layer)
    t, s, _, _ = kernel.shape

    def links(r):
        return [Link(s, r[0], ""), Link(r[0], r[1], "h"), Link(r[1], r[2], "w"), Link(r[2], t, "")]

    x = kernel.permute(1, 2, 3, 0)  # (S, kh, kw, T)
    most = unfolding_ranks(x.shape)
    ladder = [tuple(min(k, m) for m in most) for k in range(1, max(most) + 1)]
    train = tt_svd(
        x, _caps("tt_conv", layer, links, rank, rtol, flops, image_size, ladder), rtol=rtol
    )
    *cores, last = train.cores
    return _chain(
        layer, links(train.ranks), [*(core.permute(2, 0, 1) for core in cores), last[..., 0].mT]
    )


def spatial_conv(
    layer: nn.Conv2d,
    rank: int | None = None,
    *,
    rtol: float | None = None,
    flops: float | None = None,
    image_size=None,
) -> "ConvChain":
    """Two convolutions, kh x 1 and 1 x kw, from the SVD of the kernel as a matrix (S kh, T kw)
    [Jaderberg2014].

        k[t, s, i, j] = sum_r b[s, i, r] a[t, j, r]

    The best of this structure in the Frobenius norm.

    layer: an `nn.Conv2d` with groups=1.
    rank: a cap; None: no cap.
    rtol, flops, image_size: as in `tucker_conv`.

    >>> [tuple(c.weight.shape) for c in spatial_conv(nn.Conv2d(8, 16, 3), 5)]
    [(5, 8, 3, 1), (16, 5, 1, 3)]
    """
    kernel = _kernel("spatial_conv", layer)
    t, s, kh, kw = kernel.shape

    def links(ranks):
        (r,) = ranks
        return [Link(s, r, "h"), Link(r, t, "w")]

    ladder = [(r,) for r in range(1, min(s * kh, t * kw) + 1)]
    (cap,) = _caps("spatial_conv", layer, links, rank, rtol, flops, image_size, ladder)
    w = LowRank.from_dense(kernel.permute(1, 2, 0, 3).reshape(s * kh, t * kw), cap, rtol=rtol)
    first, second = w.u.reshape(s, kh, -1), w.v.conj().reshape(t, kw, -1)
    return _chain(layer, links(w.ranks), [first.permute(2, 0, 1), second.permute(0, 2, 1)])


def _smallest(fit, cap, rtol):
    """The fit of smallest rank with a relative error of at most rtol: 1, 2, 4, ... and the last gap
    bisected."""
    low, high = 0, 1
    while (found := fit(min(high, cap))).history[-1] > rtol and high < cap:
        low, high = high, 2 * high
    high = min(high, cap)
    while high - low > 1:
        middle = (low + high) // 2
        if (tried := fit(middle)).history[-1] <= rtol:
            high, found = middle, tried
        else:
            low = middle
    return found


# --------------------------------------------------------------------------- from kernels to chains


def _kernel(who: str, layer) -> Tensor:
    """The kernel of a layer that can be taken apart. Raises TypeError or ValueError for any
    other."""
    if not isinstance(layer, nn.Conv2d) or is_lazy(layer):
        raise TypeError(f"{who}: needs an nn.Conv2d with its weights, got {type(layer).__name__}")
    check_plain(who, layer)
    if layer.groups != 1:
        raise ValueError(f"{who}: needs a convolution with groups=1, got groups={layer.groups}")
    kernel = dense_weight(layer).detach()
    check_dense(kernel, who)
    return kernel


def _tucker2(kernel: Tensor, caps, rtol, sweeps: int = 10):
    """a (T, p), core (p, q, kh, kw), b (S, q): truncated SVDs of the two channel modes, then
    alternately improved."""
    scale = safe_scale(dense_norm(kernel, "tucker_conv"))
    x = widen(kernel.flatten(2)) * scale  # (T, S, kh kw)
    delta = max((rtol or 0.0) / math.sqrt(2), zero_level(kernel.dtype)) * float(
        torch.linalg.vector_norm(x)
    )
    a = right_basis(unfold(x, 0).mH, caps[0], atol=delta)[0]
    y = torch.tensordot(a.mH, x, 1)  # (p, S, kh kw)
    b = right_basis(unfold(y, 1).mH, caps[1], atol=delta)[0]
    for _ in range(sweeps):
        y = torch.einsum("tsx,sq->txq", x, b.conj())  # (T, kh kw, q)
        a = right_basis(unfold(y, 0).mH, a.shape[1])[0]
        y = torch.tensordot(a.mH, x, 1)
        b = right_basis(unfold(y, 1).mH, b.shape[1])[0]
    core = torch.einsum("psx,sq->pqx", y, b.conj()) / scale  # (p, q, kh kw)
    return a, core.unflatten(2, kernel.shape[2:]), b


def _caps(who, layer, links, rank, rtol, flops, image_size, ladder):
    """Caps of the ranks from `rank`, `rtol` and `flops`; ladder: all ranks in question, from the
    smallest to full."""
    full, shape = ladder[-1], (layer.out_channels, layer.in_channels, *layer.kernel_size)
    if flops is None:
        caps = rank_caps(who, rank, rtol, shape, len(full))
        return tuple(min(c or m, m) for c, m in zip(caps, full))
    flops = positive(who, "flops", flops)
    if not isinstance(image_size, (tuple, list)) or len(image_size) != 2:
        raise ValueError(f"{who}: flops needs image_size=(height, width), got {image_size}")
    image_size = tuple(map(int, image_size))
    whole = [Link(layer.in_channels, layer.out_channels, "hw")]
    budget = flops * _cost(layer, whole, image_size)
    found = [r for r in ladder if _cost(layer, links(r), image_size) <= budget]
    if not found:
        least = _cost(layer, links(ladder[0]), image_size) * flops / budget
        raise ValueError(
            f"{who}: rank 1 costs {least:.3g} of the layer at image_size={tuple(image_size)}, got "
            f"flops={flops}"
        )
    given = rank_caps(who, rank, 0.0 if rtol is None else rtol, shape, len(full))
    return tuple(min(c or m, m) for c, m in zip(given, found[-1]))


def _along(axes: str, setting: tuple[int, ...], off: int) -> tuple[int, int]:
    """A setting of the layer for those axes that a link moves along."""
    h, w = setting
    return h if "h" in axes else off, w if "w" in axes else off


def _cost(layer, links, image_size) -> int:
    """FLOPs of a chain on one image: two for each multiply-add."""
    h, w = image_size
    total = 0
    for c_in, c_out, axes, groups in links:
        kernel = _along(axes, layer.kernel_size, 1)
        if layer.padding != "same":
            padding = (0, 0) if layer.padding == "valid" else _along(axes, layer.padding, 0)
            stride, dilation = _along(axes, layer.stride, 1), layer.dilation
            h, w = (
                (n + 2 * p - d * (k - 1) - 1) // q + 1
                for n, p, d, k, q in zip((h, w), padding, dilation, kernel, stride)
            )
        total += 2 * c_out * (c_in // groups) * math.prod(kernel) * h * w
    return total


def _chain(layer: nn.Conv2d, links: list[Link], weights) -> "ConvChain":
    """The convolutions of a chain, with weights of equal norms; stride, padding and dilation go
    where their axis is."""
    kernel, bias, padding = dense_weight(layer), current(layer, "bias"), layer.padding
    sizes = [float(torch.linalg.vector_norm(widen(w))) for w in weights]
    mean = math.prod(n ** (1 / len(sizes)) for n in sizes)
    parts = []
    for k, ((c_in, c_out, axes, groups), w, n) in enumerate(zip(links, weights, sizes)):
        conv = nn.Conv2d(
            c_in,
            c_out,
            _along(axes, layer.kernel_size, 1),
            stride=_along(axes, layer.stride, 1),
            padding=padding if isinstance(padding, str) else _along(axes, padding, 0),
            dilation=_along(axes, layer.dilation, 1),
            groups=groups,
            padding_mode=layer.padding_mode if axes else "zeros",
            bias=bias is not None and k == len(links) - 1,
            device="meta",  # no numbers are drawn
            dtype=kernel.dtype,
        ).to_empty(device=kernel.device)
        with torch.no_grad():
            conv.weight.copy_((widen(w) * (mean / n if mean else 1.0)).reshape(conv.weight.shape))
            if conv.bias is not None and bias is not None:
                conv.bias.copy_(bias)
        parts.append(conv)
    chain = like(layer, ConvChain(*parts))
    for name in _SETTINGS:
        setattr(chain, name, getattr(layer, name))
    return chain


_SETTINGS = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
    "transposed",
    "output_padding",
)


class ConvChain(nn.Sequential):
    """Convolutions one after another that stand in for one: `nn.Sequential`, with the settings of
    the one that it was made from, such as `kernel_size`, `stride` and `out_channels`."""

    __jit_unused_properties__ = ["weight", "bias"]  # TorchScript would compile them too

    @property
    def weight(self) -> Tensor:
        """The kernel of the whole, (T, S, kh, kw), computed at each reading."""
        return conv_kernel(self)

    @property
    def bias(self) -> Tensor | None:
        """That of the last convolution."""
        return current(self[-1], "bias")


def conv_kernel(module: nn.Module) -> Tensor:
    """The kernel (T, S, kh, kw) of a convolution, of a chain of convolutions, or of a
    `FactorizedConv2d`.

        k[s] = sum_t second[t] first[s - t]

    Layers one after another are convolved, and their channels multiplied as matrices.

    >>> layer = nn.Conv2d(4, 6, 3, dtype=torch.float64)
    >>> bool(torch.allclose(conv_kernel(tucker_conv(layer, (6, 4))), layer.weight))
    True
    """
    if isinstance(module, FactorizedConv2d):
        w = module.weight
        return w.to_dense().reshape(w.shape[0], -1, *module.kernel_size)
    if not isinstance(module, nn.Sequential):
        return current(module)
    first, *others = (conv_kernel(part) for part in module)
    for second in others:
        pad = [k - 1 for k in second.shape[2:]]
        groups = len(first) // second.shape[1]
        y = F.conv2d(first.transpose(0, 1), second.flip(2, 3), padding=pad, groups=groups)
        first = y.transpose(0, 1)
    return first


# --------------------------------------------------------------------------- one layer on a LowRank


class FactorizedConv2d(FactorizedLinear):
    """A convolution whose kernel, flattened to w (T, S kh kw), is a `LowRank`: r filters, then 1 x
    1 [Schotthoefer2022].

        y = conv_1x1(conv(x, vᴴ as r filters (r, S, kh, kw)), u s) + b

    weight: the LowRank (T, S kh kw); its tensors become parameters, `.weight` gives it back,
        `.set_weight` changes the rank.
    bias: (T,), or None.
    kernel_size: (kh, kw), or one integer for both.
    stride, padding, dilation, padding_mode: those of `nn.Conv2d` with groups=1.

    The input is (..., S, height, width), the output (..., T, height', width').

    >>> dense = nn.Conv2d(8, 16, 3, padding=1)
    >>> layer = FactorizedConv2d.from_conv(dense, lambda w: LowRank.from_dense(w, rank=4))
    >>> layer.weight, layer(torch.ones(2, 8, 5, 5)).shape
    (LowRank(shape=(16, 72), ranks=(4,), stores 352 of 1152), torch.Size([2, 16, 5, 5]))
    """

    def __init__(
        self,
        weight: LowRank,
        bias: Tensor | None = None,
        *,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        padding_mode: str = "zeros",
    ):
        if not isinstance(weight, LowRank):
            raise TypeError(
                f"FactorizedConv2d: needs a LowRank as weight, got {type(weight).__name__}"
            )
        super().__init__(weight, bias)
        pair = lambda value: (int(value),) * 2 if is_integer(value) else tuple(value)
        self.kernel_size, self.stride = pair(kernel_size), pair(stride)
        self.dilation, self.padding_mode = pair(dilation), padding_mode
        given = (0, 0) if isinstance(padding, str) else pair(padding)
        self.padding = padding if isinstance(padding, str) else given
        self.groups, self.transposed, self.output_padding = 1, False, (0, 0)
        if weight.shape[1] % math.prod(self.kernel_size):
            need = f"a weight (T, S·{'·'.join(map(str, self.kernel_size))})"
            raise ValueError(f"FactorizedConv2d: needs {need}, got shape {weight.shape}")
        if padding == "same" and self.stride != (1, 1):
            raise ValueError(f"FactorizedConv2d: padding='same' needs stride 1, got {self.stride}")
        # the widths that F.pad takes, last axis first; "same" puts the odd one at the end
        total = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size)]
        ends = {"valid": [(0, 0)] * 2, "same": [(n // 2, n - n // 2) for n in total]}
        around = ends[padding] if isinstance(padding, str) else [(p, p) for p in given]
        self._ends = tuple(n for two in around[::-1] for n in two)

    @classmethod
    def from_conv(cls, layer: nn.Conv2d, make: Callable[[Tensor], LowRank]) -> "FactorizedConv2d":
        """The same map as a convolution's, as far as the format holds it. make: w (T, S kh kw) ->
        LowRank."""
        w = _kernel("FactorizedConv2d", layer).flatten(1)
        weight = make(w)
        if getattr(weight, "shape", None) != tuple(w.shape):
            raise ValueError(
                f"FactorizedConv2d: make needs to give a LowRank of shape {tuple(w.shape)}, got "
                f"{weight!r}"
            )
        names = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        same = {name: getattr(layer, name) for name in names}
        return like(layer, cls(weight, current(layer, "bias"), **same))

    @property
    def in_channels(self) -> int:
        return self.in_features // math.prod(self.kernel_size)

    @property
    def out_channels(self) -> int:
        return self.out_features

    def coordinates(self, x: Tensor, v: Tensor) -> Tensor:
        """vᴴ of each patch that w meets: x (..., S, height, width), v (S kh kw, k) ->
        (..., height', width', k)."""
        filters = v.conj().t().unflatten(1, (-1, *self.kernel_size))  # (k, S, kh, kw)
        padding = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self._ends, mode=self.padding_mode), 0
        x = F.conv2d(x, filters, None, self.stride, padding, self.dilation)
        c = x.ndim - 3  # from the front: older ONNX exporters move no axis counted from the end
        return x.movedim(c, c + 2)

    def forward(self, x: Tensor) -> Tensor:
        u, v, *s = self.tensors
        y = F.linear(self.coordinates(x, v), u @ s[0] if s else u, self.bias)  # 1 x 1
        return y.movedim(x.ndim - 1, x.ndim - 3)

    def extra_repr(self):
        moves = ", ".join(
            f"{name}={getattr(self, name)}"
            for name in ("kernel_size", "stride", "padding", "dilation")
        )
        return f"{super().extra_repr()}, {moves}, padding_mode={self.padding_mode}"


def svd_conv(
    layer: nn.Conv2d,
    rank: int | None = None,
    *,
    rtol: float | None = None,
    flops: float | None = None,
    image_size=None,
) -> FactorizedConv2d:
    """A `FactorizedConv2d` from the SVD of the flattened kernel (T, S kh kw), the best of its rank.

    layer: an `nn.Conv2d` with groups=1.
    rank: a cap; None: no cap.
    rtol, flops, image_size: as in `tucker_conv`.

    >>> svd_conv(nn.Conv2d(8, 16, 3), flops=0.5, image_size=(10, 10)).weight.ranks
    (6,)
    """
    kernel = _kernel("svd_conv", layer)
    t, s, _, _ = kernel.shape

    def links(ranks):
        (r,) = ranks
        return [Link(s, r, "hw"), Link(r, t, "")]

    ladder = [(r,) for r in range(1, min(t, kernel[0].numel()) + 1)]
    (cap,) = _caps("svd_conv", layer, links, rank, rtol, flops, image_size, ladder)
    return FactorizedConv2d.from_conv(layer, lambda w: LowRank.from_dense(w, cap, rtol=rtol))
