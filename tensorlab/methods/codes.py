"""[Merkulov2024] Weights in 2 to 8 bits: levels on a grid, levels by k-means, and the same after
a change of basis.

    uniform   w_ij = low + step k_ij                   the extremes decide the grid
    kmeans    w_ij = c[k_ij]                           levels where the entries are [Lloyd1982]
    rotate    w = Q1 c[k] Q2ᵀ                          a rotation makes entries nearly Gaussian
    kashin    w = a[k] + Q1 b[k] Q2ᵀ                   an index names a level of u and one of v
    pairs     w = Q1 z Q2ᵀ, (z_2i, z_2i+1) = c[k_i]    an index of twice the bits names a point of
                                                       the plane

The last is the default up to 4 bits: a plane is filled better by points than by a grid, and 4^bits
points on a spiral need no storage. Above, "rotate" is.
"""

import json
import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import linalg
from ..arguments import count, is_integer, one_of
from ..clusters import far_apart, kmeans, kmeans_line, nearest
from ..formats.base import ReadAsMatrix
from ..layers.propagation import autocast_dtype
from .kashin import Rotation, kashin

METHODS = ("uniform", "kmeans", "rotate", "kashin", "pairs")
SAMPLE = 1 << 15  # points that a codebook of pairs is fitted to
FIELDS = ("codes", "codebook", "scale", "size")
ABOUT = 256  # bytes of a layer's description
DTYPES = {
    str(t).removeprefix("torch."): t
    for t in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}


@dataclass(frozen=True, eq=False)
class Quantized(ReadAsMatrix):
    """A matrix as packed indices into a codebook: w ≈ size · scale ⊙ (values, rotated back where
    there is a q).

    codes: uint8, indices of `width` bits without gaps. codebook: (levels, 1 or 2) float16, empty
    where a formula gives it. scale: float16, one number for each group of entries ((low, step) for
    "uniform"). size: () float32, float64 where it leaves that range, the root mean square. error:
    |w - w_q| / |w| when it was made. converged: False when Kashin's iteration ended early.

    >>> w = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    >>> q = quantize(w, 8, method="uniform")
    >>> q.bits, q.codes.dtype, float((q.to_dense() - w).norm() / w.norm()) < 0.01
    (8, torch.uint8, True)
    """

    codes: Tensor
    codebook: Tensor
    scale: Tensor
    size: Tensor
    method: str
    bits: int
    shape: tuple[int, ...]
    q: Rotation | None = None
    dtype: torch.dtype = torch.float32
    error: float = math.nan
    converged: bool = True

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(out, in), later modes joined."""
        return _matrix_shape(self.shape)

    @property
    def device(self) -> torch.device:
        return self.codes.device

    @property
    def stored_bits(self) -> int:
        """All that is stored: indices, codebook, scales, and 64 bits for a seed."""
        tensors = (self.codes, self.codebook, self.scale, self.size)
        return 8 * sum(t.numel() * t.element_size() for t in tensors) + 64 * (self.q is not None)

    @property
    def bits_per_weight(self) -> float:
        """stored_bits over the number of entries."""
        return self.stored_bits / math.prod(self.shape)

    @property
    def ranks(self) -> tuple[int, ...]:
        """None are free: (), as in a report of layers."""
        return ()

    def tensors(self) -> tuple[Tensor, ...]:
        """Those that are stored: codes, codebook, scale, size."""
        return tuple(getattr(self, name) for name in FIELDS)

    def with_tensors(self, tensors, drawn=None) -> "Quantized":
        """The same on other tensors. drawn: the random numbers of the rotation, as they are by
        default."""
        q = self.q if self.q is None or drawn is None else replace(self.q, drawn=tuple(drawn))
        return replace(self, **dict(zip(FIELDS, tensors, strict=True)), q=q)

    def flops(self, batch: int) -> int:
        """Multiplications and additions of `apply` without the rotation, as of a dense matrix."""
        batch = count("Quantized.flops", "batch", batch, 0)
        return 2 * batch * math.prod(self.matrix_shape) * (2 if self.method == "kashin" else 1)

    def parts(self) -> tuple[Tensor, Tensor | None]:
        """The matrices (a, b) of w = size · scale ⊙ (a + Q1 b Q2ᵀ), None for one that is absent;
        entries of unit size."""
        m, n = self.matrix_shape
        codes = unpack(self.codes, _width(self.method, self.bits), _count(self.method, m * n))
        if self.method == "uniform":
            low, step = self.scale.float().unbind(1)
            return (low[:, None] + step[:, None] * codes.reshape(low.shape[0], -1)).reshape(
                m, n
            ), None
        fitted = self.codebook.numel() > 0
        levels = self.codebook.float() if fitted else spiral(2 * self.bits, device=codes.device)
        values = levels[codes]
        if self.method == "kmeans":
            return values.reshape(m, n), None
        if self.method == "kashin":
            return values[:, 0].reshape(m, n), values[:, 1].reshape(m, n)
        return None, values.flatten()[: m * n].reshape(m, n)

    def to_dense(self) -> Tensor:
        """The matrix that the indices mean, in the shape and dtype of the one that was given."""
        a, b = self.parts()
        w = 0.0 if a is None else a
        w = self._scaled(w if b is None else w + self.q.apply(b))
        wide = torch.promote_types(self.dtype, torch.float32)
        return (self.size.to(wide) * w.to(wide)).reshape(self.shape).to(self.dtype)

    def apply(self, x: Tensor) -> Tensor:
        """x wᵀ, (..., in) -> (..., out), in the dtype of x or that of autocast; with a rotation x
        is turned, not w."""
        rows, columns = self.matrix_shape
        if x.shape[-1:] != (columns,):
            raise ValueError(f"Quantized: needs x (..., {columns}), got shape {tuple(x.shape)}")
        if not x.is_floating_point():
            raise TypeError(f"Quantized: needs x of real floating-point numbers, got {x.dtype}")
        if self.q is None or self.scale.shape[0] not in (1, rows):
            return F.linear(x, self.to_dense().reshape(rows, columns).to(x.dtype))
        a, b = self.parts()
        z = x.to(torch.promote_types(x.dtype, torch.float32))
        turned = F.linear(self.q.factor(1).adjoint(z), b.to(z.dtype))  # this product in autocast's
        y = self.q.factor(0).apply(turned.to(z.dtype))
        y = y if a is None else y + F.linear(z, a.to(z.dtype))
        return (y * self.scale.to(z.dtype) * self.size.to(z.dtype)).to(autocast_dtype(x) or x.dtype)

    def _scaled(self, w):
        if self.method == "uniform":
            return w
        return (w.reshape(self.scale.shape[0], -1) * self.scale.float()[:, None]).reshape(w.shape)

    def __repr__(self):
        bits = f"{self.bits_per_weight:.3f} bits per weight"
        return f"Quantized({self.method}, shape={self.shape}, {bits}, error {self.error:.3g})"


def quantize(
    w: Tensor,
    bits: int = 4,
    *,
    method: str | None = None,
    group: str | int | None = None,
    q: str = "dct",
    generator: torch.Generator | None = None,
) -> Quantized:
    """A weight in `bits` bits an entry, by one of the five methods above.

    w: (out, ...), real.
    bits: 2 to 8, for "pairs" 2 to 4.
    method: one of the five above; None: "pairs" up to 4 bits, "rotate" above.
    group: what shares a scale: None the whole matrix, "channel" a row, a number that many neighbors
        in a row. A group's entries are divided by their root mean square before anything else,
        while the codebook is common to all ("uniform": each group has its grid).
    q: a kind of `Rotation`.
    generator: draws the rotation; None: torch's global one.

    Raises ValueError for a method, bits, group or kind that do not fit and for entries that are not
    finite, TypeError for entries that are not real.

    >>> g = torch.Generator().manual_seed(0)
    >>> w = torch.randn(64, 64, generator=g)
    >>> quantize(w, 4, generator=g)
    Quantized(pairs, shape=(64, 64), 4.027 bits per weight, error 0.089...)
    """
    norm = linalg.dense_norm(w, "quantize")
    method, bits = _method(method, bits)
    if w.is_complex():
        raise TypeError(f"quantize: needs real entries, got {w.dtype}")
    shape, w = tuple(w.shape), w.detach()
    matrix, size = w.reshape(_matrix_shape(shape)), _size(norm / math.sqrt(w.numel()), w.device)
    z = _grouped((matrix.double() / size).float(), group)
    rotation, converged = None, True
    if method == "uniform":
        codes, scale = _on_a_grid(z, bits)
        codebook = torch.empty(0, 1, device=w.device)
    else:
        scale = z.square().mean(1).sqrt().clamp(max=6e4).half()
        z = (z / torch.where(scale > 0, scale, 1).float()[:, None]).reshape(matrix.shape)
        if method != "kmeans":
            rotation = Rotation.random(q, matrix.shape, generator)
        points, converged = _points(z, method, rotation)
        codebook = _codebook(points, method, bits).half()
        levels = codebook.float() if len(codebook) else spiral(2 * bits, device=w.device)
        codes = nearest(points, levels)
    codes = pack(codes.flatten().to(torch.uint8), _width(method, bits))
    parts = codes, codebook.half(), scale, size, method, bits, shape, rotation, w.dtype
    error = float(linalg.norm(w.double() - Quantized(*parts).to_dense().double())) / (norm or 1.0)
    return Quantized(*parts, error=error, converged=converged)


def _method(method, bits) -> tuple[str, int]:
    """Both as they are meant. Raises ValueError where they do not fit."""
    if method is None:
        method = "rotate" if is_integer(bits) and bits > 4 else "pairs"
    one_of("quantize", "method", method, METHODS)
    return method, count("quantize", f"bits of {method}", bits, 2, _top(method))


def _size(rms: float, device) -> Tensor:
    """The root mean square, 1 of zeros: () float32, or float64 where it leaves that range."""
    info = torch.finfo(torch.float32)
    dtype = torch.float32 if not rms or info.tiny <= rms <= info.max else torch.float64
    return torch.tensor(rms or 1.0, dtype=dtype, device=device)


def _on_a_grid(z, bits):
    """Entries (groups, entries of one) as indices k of low + step k, and each (low, step)."""
    low, high = z.aminmax(dim=1, keepdim=True)
    scale = torch.cat([low, (high - low) / (2**bits - 1)], 1).half()
    low, step = scale.float().split(1, 1)
    return ((z - low) / torch.where(step > 0, step, 1)).round().clamp(0, 2**bits - 1), scale


def _points(z, method, rotation) -> tuple[Tensor, bool]:
    """What is to be near a codebook's entries, (n, 1 or 2), and whether its iteration converged."""
    if method == "kashin":
        fit = kashin(z, rotation, method="greedy")
        return torch.stack([fit.value.u.flatten(), fit.value.v.flatten()], 1), fit.converged
    z = (z if rotation is None else rotation.adjoint(z)).flatten()
    if method == "pairs":
        return F.pad(z, (0, len(z) % 2)).reshape(-1, 2), True
    return z[:, None], True


def _codebook(points, method, bits) -> Tensor:
    """Levels for these points, (0, 1) where those of the spiral serve."""
    if method == "kashin":
        return _pairs_of_levels(points, bits)
    if method != "pairs":
        return kmeans_line(points[:, 0], 2**bits)[:, None]
    if bits < 4 and 2 * len(points) >= 1000 * 4**bits:
        # where points are few, fitting them gains more than it stores
        return kmeans(_sample(points), spiral(2 * bits, device=points.device), max_iter=100).value
    return points.new_empty(0, 1)


def _matrix_shape(shape) -> tuple[int, int]:
    return (1, *shape) if len(shape) == 1 else (shape[0], math.prod(shape[1:]))


def _top(method):
    return 4 if method == "pairs" else 8


def _width(method, bits):
    return 2 * bits if method == "pairs" else bits


def _count(method, n):
    return (n + 1) // 2 if method == "pairs" else n


def _grouped(z, group):
    """(out, in) -> (groups, entries of one)."""
    if group is None:
        return z.reshape(1, -1)
    if group == "channel":
        return z
    if not is_integer(group) or group < 1 or z.shape[1] % group:
        raise ValueError(
            f'quantize: group must be None, "channel" or a divisor of the row length {z.shape[1]}, '
            f"got {group!r}"
        )
    return z.reshape(-1, group)


# ---------------------------------------------------------------------------------------- codebooks


def spiral(width: int, *, device=None) -> Tensor:
    """2^width points of the plane for pairs of standard normal numbers, by a formula, on a
    sunflower's spiral.

        (r_k cos(k g), r_k sin(k g)),  r_k^2 = -4 ln(1 - (k + 1/2) / K),  g = pi (3 - sqrt 5)

    The best density of points is that of the data to the power 1/2 [Gersho1979], for a Gaussian one
    of twice the variance. For few points it is too wide: all are scaled by 1 - 0.6 / sqrt(K), which
    is where the measured error is least.

    >>> spiral(8).shape, bool(spiral(8).square().mean() < 2)
    (torch.Size([256, 2]), True)
    """
    k = torch.arange(2**width, dtype=torch.float64, device=device)
    r = (-4 * torch.log1p(-(k + 0.5) / 2**width)).sqrt() * (1 - 0.6 / 2 ** (width / 2))
    angle = k * math.pi * (3 - math.sqrt(5))
    return torch.stack([r * angle.cos(), r * angle.sin()], 1).float()


def _sample(points):
    if len(points) <= SAMPLE:
        return points
    generator = torch.Generator().manual_seed(
        0
    )  # not the caller's: the choice is part of the method
    return points[torch.randperm(len(points), generator=generator)[:SAMPLE].to(points.device)]


def _pairs_of_levels(points, bits):
    """2^bits pairs for (u_i, v_i) by k-means from the best of five starts: a grid on the peaks, and
    four of points far apart."""
    points, generator = _sample(points), torch.Generator().manual_seed(0)
    many = 2 ** ((bits + 1) // 2)
    starts = [
        torch.cartesian_prod(_medians(points[:, 0], many), _medians(points[:, 1], 2**bits // many))
    ]
    starts += [far_apart(points, 2**bits, generator=generator) for _ in range(4)]
    found = [kmeans(points, start, max_iter=12) for start in starts]
    best = min(found, key=lambda fit: fit.history[-1])
    return kmeans(points, best.value, max_iter=100).value


def _medians(z, k):
    """The medians of k parts of equal number."""
    return z.sort().values[((torch.arange(k, device=z.device) + 0.5) / k * len(z)).long()]


# ------------------------------------------------------------------------------------------ bits


def pack(codes: Tensor, width: int) -> Tensor:
    """Indices below 2^width into bytes without gaps, lowest bits first: (n,) uint8 -> (ceil(n width
    / 8),) uint8.

    >>> pack(torch.tensor([1, 2, 3], dtype=torch.uint8), 4).tolist()
    [33, 3]
    """
    bits = (codes[:, None] >> torch.arange(width, dtype=torch.uint8, device=codes.device)) & 1
    bits = F.pad(bits.flatten(), (0, -len(codes) * width % 8)).reshape(-1, 8)
    return (bits << torch.arange(8, dtype=torch.uint8, device=codes.device)).sum(
        1, dtype=torch.uint8
    )


def unpack(packed: Tensor, width: int, n: int) -> Tensor:
    """The first n indices of `pack`, (n,) int64.

    >>> unpack(torch.tensor([33, 3], dtype=torch.uint8), 4, 3).tolist()
    [1, 2, 3]
    """
    bits = (packed[:, None] >> torch.arange(8, dtype=torch.uint8, device=packed.device)) & 1
    bits = bits.flatten()[: n * width].reshape(n, width)
    return (
        (bits << torch.arange(width, dtype=torch.uint8, device=packed.device))
        .sum(1, dtype=torch.uint8)
        .long()
    )


# ------------------------------------------------------------------------------ a matrix as stored


def description_bytes(weight: Quantized) -> Tensor:
    """JSON as bytes, of one length for most, so that states can be copied one into another."""
    return torch.tensor([*json.dumps(description(weight)).encode().ljust(ABOUT)], dtype=torch.uint8)


def description(weight: Quantized) -> dict:
    q, kept = weight.q, ("method", "bits", "shape", "error", "converged")
    return {name: getattr(weight, name) for name in kept} | {
        "dtype": str(weight.dtype).removeprefix("torch."),
        "q": q and [q.kind, q.shape, q.seed],
    }


def from_stored(stored: dict[str, Tensor | None], matrix_shape) -> Quantized:
    """The weight of the tensors that a layer stores. Raises ValueError for anything else, before
    anything of a size that the file names is made."""
    lost = [name for name, t in stored.items() if t is None]
    if lost:
        raise ValueError(f"QuantizedLinear: needs all of {', '.join(stored)}, got no {lost[0]}")
    try:
        about = json.loads(bytes(stored["about"].tolist()))
        method, bits = _method(about["method"], about["bits"])
        shape, dtype = tuple(map(int, about["shape"])), DTYPES[about["dtype"]]
        error, converged = float(about["error"]), bool(about["converged"])
        if (got := _matrix_shape(shape)) == matrix_shape:
            q = about["q"] and Rotation(about["q"][0], got, about["q"][2])
    except (ValueError, TypeError, LookupError, RecursionError) as caught:
        raise ValueError(
            f"QuantizedLinear: needs the description of a quantized matrix, got {caught!r}"
        ) from None
    if got != matrix_shape:
        raise ValueError(f"QuantizedLinear: needs a matrix {matrix_shape}, got {got}")
    parts = [stored[name] for name in FIELDS]
    weight = Quantized(*parts, method, bits, shape, q, dtype, error, converged)
    _check_parts(weight)
    return weight


def _check_parts(weight: Quantized) -> None:
    """Raises ValueError for tensors that are not those of the method, the bits and the shape."""
    (m, n), bits, method = weight.matrix_shape, weight.bits, weight.method
    grid, groups = method == "uniform", len(weight.scale)
    levels = {
        "uniform": [(0, 1)],
        "kashin": [(2**bits, 2)],
        "pairs": [(0, 1), (4**bits, 2)],
    }.get(method, [(2**bits, 1)])
    right = [
        weight.codes.shape == (-(-_count(method, m * n) * _width(method, bits) // 8),),
        weight.codes.dtype == torch.uint8,
        tuple(weight.codebook.shape) in levels,
        weight.scale.shape == ((groups, 2) if grid else (groups,)),
        groups == 1 or (groups > 0 and groups % m == 0 and m * n % groups == 0),
        weight.size.shape == (),
        (weight.q is None) == (method in ("uniform", "kmeans")),
    ]
    if not all(right):
        shapes = ", ".join(f"{name} {tuple(getattr(weight, name).shape)}" for name in FIELDS)
        raise ValueError(
            f"QuantizedLinear: needs the tensors of {method}, {bits} bits, shape {weight.shape}, "
            f"got {shapes}"
        )
