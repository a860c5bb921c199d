"""[Merkulov2024] Weights in 2, 3 or 4 bits: levels on a grid, levels by k-means, and the same after
a change of basis.

    uniform   w_ij = low + step k_ij                                    the extremes decide the grid
    kmeans    w_ij = c[k_ij]                                            levels where the entries are [Lloyd1982]
    rotate    w = Q1 c[k] Q2ᵀ                                           a rotation first: every entry is nearly Gaussian
    kashin    w = a[k] + Q1 b[k] Q2ᵀ                                    one index names a pair of levels, for u and for v
    pairs     w = Q1 z Q2ᵀ, (z_2i, z_2i+1) = c[k_i]                     one index of twice the bits names a point of the plane

The last is the default: a plane is filled better by points than by a grid, and 4^bits points on a
spiral need no storage.
"""

import fnmatch
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .. import linalg
from ..formats.storage import write
from .kashin import Rotation, kashin

METHODS = ("uniform", "kmeans", "rotate", "kashin", "pairs")
SAMPLE = 1 << 15  # points that a codebook of pairs is fitted to
FIELDS = ("codes", "codebook", "scale", "size")


@dataclass(frozen=True, eq=False)
class Quantized:
    """A matrix as packed indices into a codebook: w ≈ size · scale ⊙ (values, rotated back where
    there is a q).

    codes: uint8, indices of `width` bits without gaps. codebook: (levels, 1 or 2) float16, empty
    where a formula gives it. scale: float16, one number for each group of entries ((low, step) for
    "uniform"). size: () float32, the root mean square. error: |w - w_q| / |w| when it was made.
    converged: False when Kashin's iteration ended early.
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
        return self.shape[0] if len(self.shape) > 1 else 1, math.prod(self.shape[1:]) if len(
            self.shape
        ) > 1 else self.shape[0]

    @property
    def stored_bits(self) -> int:
        """All that is stored: indices, codebook, scales, and 64 bits for a seed."""
        tensors = (self.codes, self.codebook, self.scale, self.size)
        return 8 * sum(t.numel() * t.element_size() for t in tensors) + 64 * (self.q is not None)

    @property
    def bits_per_weight(self) -> float:
        """stored_bits over the number of entries."""
        return self.stored_bits / math.prod(self.shape)

    def parts(self) -> tuple[Tensor, Tensor | None]:
        """The matrices (a, b) of w = size · scale ⊙ (a + Q1 b Q2ᵀ), None for one that is absent;
        entries of unit size."""
        m, n = self.matrix_shape
        codes = unpack(self.codes, _width(self.method, self.bits), _count(self.method, m * n))
        if self.method == "uniform":
            low, step = self.scale.float().unbind(1)
            return (low[:, None] + step[:, None] * codes.reshape(len(low), -1)).reshape(m, n), None
        levels = (
            self.codebook.float()
            if self.codebook.numel()
            else spiral(2 * self.bits).to(codes.device)
        )
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
        w = w if b is None else w + self.q.apply(b)
        return (self.size * self._scaled(w)).reshape(self.shape).to(self.dtype)

    def apply(self, x: Tensor) -> Tensor:
        """x wᵀ, (..., in) -> (..., out); with a rotation x is turned, not w."""
        a, b = self.parts()
        if self.q is None or len(self.scale) not in (1, self.matrix_shape[0]):
            return F.linear(x, self.to_dense().reshape(self.matrix_shape).to(x.dtype))
        z = x if x.dtype in (torch.float32, torch.float64) else x.float()
        y = self.q.factor(0).apply(F.linear(self.q.factor(1).adjoint(z), b.to(z.dtype)))
        y = y if a is None else y + F.linear(z, a.to(z.dtype))
        return (y * (self.size * self.scale.float())).to(x.dtype)

    def _scaled(self, w):
        return (
            w
            if self.method == "uniform"
            else (w.reshape(len(self.scale), -1) * self.scale.float()[:, None]).reshape(w.shape)
        )

    def __repr__(self):
        return f"Quantized({self.method}, shape={self.shape}, {self.bits_per_weight:.3f} bits per weight, error {self.error:.3g})"


def quantize(
    w: Tensor,
    bits: int = 4,
    *,
    method: str = "pairs",
    group: str | int | None = None,
    q: str = "dct",
    generator: torch.Generator | None = None,
) -> Quantized:
    """A weight in `bits` bits an entry, by one of the five methods above.

    w: (out, ...), real. bits: 2 to 8, for "pairs" 2 to 4. group: what shares a scale: None the
    whole matrix, "channel" a row, a number that many neighbours in a row; a group's entries are
    divided by their root mean square before anything else, while the codebook is common to all
    ("uniform": each group has a grid of its own). q: a kind of `Rotation`.

    >>> g = torch.Generator().manual_seed(0)
    >>> w = torch.randn(64, 64, generator=g)
    >>> quantize(w, 4, generator=g)
    Quantized(pairs, shape=(64, 64), 4.027 bits per weight, error 0.089...)
    """
    size = linalg.check_dense(w, "quantize")
    if w.is_complex():
        raise TypeError(f"quantize: needs real entries, got {w.dtype}")
    if method not in METHODS:
        raise ValueError(f"quantize: method must be one of {', '.join(METHODS)}, got {method!r}")
    top = 4 if method == "pairs" else 8
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= top:
        raise ValueError(f"quantize: bits must be 2 to {top} for {method}, got {bits!r}")
    shape, w = tuple(w.shape), w.detach()
    matrix = w.reshape(shape[0], -1) if w.ndim > 1 else w[None]
    size = torch.tensor(size / math.sqrt(w.numel()) or 1.0, dtype=torch.float32, device=w.device)
    if not 0 < float(size) < math.inf:
        raise ValueError(
            f"quantize: needs weights whose root mean square is a float32, got a norm of "
            f"{float(linalg.norm(w)):.3g}"
        )
    z = _grouped((matrix.double() / size).float(), group)
    converged, rotation, codebook = True, None, torch.empty(0, 1, device=w.device)
    if method == "uniform":
        low, high = z.aminmax(dim=1, keepdim=True)
        scale = torch.cat([low, (high - low) / (2**bits - 1)], 1).half()
        low, step = scale.float().split(1, 1)
        codes = ((z - low) / torch.where(step > 0, step, 1)).round().clamp(0, 2**bits - 1)
    else:
        scale = z.square().mean(1).sqrt().clamp(max=6e4).half()
        z = (z / torch.where(scale > 0, scale, 1).float()[:, None]).reshape(matrix.shape)
        if method != "kmeans":
            rotation = Rotation(
                q, tuple(matrix.shape), int(torch.randint(2**31, (), generator=generator))
            )
        if method == "kashin":
            fit = kashin(z, rotation, method="greedy")
            points, converged = (
                torch.stack([fit.value.u.flatten(), fit.value.v.flatten()], 1),
                fit.converged,
            )
            codebook = _pairs_of_levels(points, bits)
        elif method == "pairs":
            points = F.pad(rotation.adjoint(z).flatten(), (0, z.numel() % 2)).reshape(-1, 2)
            levels = spiral(2 * bits).to(w.device)
            if bits < 4 and w.numel() >= 1000 * len(
                levels
            ):  # where points are few, fitting them gains more than it stores
                codebook = kmeans(points, levels)
        else:
            points = (z if rotation is None else rotation.adjoint(z)).reshape(-1, 1)
            codebook = kmeans_line(points[:, 0], 2**bits)[:, None]
        codebook = codebook.half()
        codes = nearest(points, codebook.float() if codebook.numel() else levels)
    codes = pack(codes.flatten().to(torch.uint8), _width(method, bits))
    make = lambda **about: Quantized(
        codes, codebook.half(), scale, size, method, bits, shape, rotation, w.dtype, **about
    )
    error = float(linalg.norm(w.double() - make().to_dense().double())) / (
        float(linalg.norm(w)) or 1.0
    )
    return make(error=error, converged=converged)


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
    if isinstance(group, bool) or not isinstance(group, int) or group < 1 or z.shape[1] % group:
        raise ValueError(
            f'quantize: group must be None, "channel" or a divisor of the row length {z.shape[1]}, '
            f"got {group!r}"
        )
    return z.reshape(-1, group)


# ---------------------------------------------------------------------------------------- codebooks


def kmeans_line(x: Tensor, k: int, *, max_iter: int = 1000) -> Tensor:
    """Lloyd's levels of numbers, ascending [Lloyd1982]: each the mean of the numbers that it is
    nearest to.

    x: (n,) -> (k,). Numbers are sorted once; sums of neighbours are then differences of prefix
    sums, so an iteration costs k log n. It starts where the density to the power 1/3 has equal
    parts, which is right for many levels [Gersho1979].

    >>> kmeans_line(torch.tensor([0.0, 1.0, 10.0, 11.0, 12.0]), 2)
    tensor([ 0.5000, 11.0000])
    """
    x = x.double().sort().values
    sums = F.pad(x.cumsum(0), (1, 0))
    share = F.pad(x.diff().pow(2 / 3).cumsum(0), (1, 0))
    at = (torch.arange(k, dtype=torch.float64, device=x.device) + 0.5) / k * share[-1]
    levels = x[torch.searchsorted(share, at).clamp(max=len(x) - 1)]
    for _ in range(max_iter):
        ends = torch.searchsorted(x, (levels[1:] + levels[:-1]) / 2)
        ends = F.pad(F.pad(ends, (1, 0)), (0, 1), value=len(x))
        count = ends.diff()
        new = torch.where(count > 0, sums[ends].diff() / count.clamp_min(1), levels)
        if torch.equal(new, levels):
            break
        levels = new
    return levels.float()


def kmeans(points: Tensor, centres: Tensor, *, max_iter: int = 100, tol: float = 1e-4) -> Tensor:
    """Lloyd's iteration from given centres, on at most SAMPLE of the points [Lloyd1982].

    points: (n, d), centres: (k, d) -> (k, d). Ends when the centres move by less than tol of their
    size.

    >>> kmeans(torch.tensor([[0.0, 0.0], [0.0, 2.0], [9.0, 9.0]]), torch.tensor([[0.0, 0.0], [5.0, 5.0]]))
    tensor([[0., 1.], [9., 9.]])
    """
    points = _sample(points)
    for _ in range(max_iter):
        index = nearest(points, centres)
        count = torch.bincount(index, minlength=len(centres))[:, None]
        new = torch.zeros_like(centres).index_add_(0, index, points) / count.clamp_min(1)
        new = torch.where(count > 0, new, centres)
        moved, centres = float((new - centres).norm()), new
        if moved <= tol * float(centres.norm()):
            break
    return centres


def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Which centre is nearest to each point: (n, d), (k, d) -> (n,) int64.

    >>> nearest(torch.tensor([[0.2], [0.9]]), torch.tensor([[0.0], [1.0]])).tolist()
    [0, 1]
    """
    if centres.shape[1] == 1:
        line, order = centres[:, 0].sort()
        return order[torch.searchsorted((line[1:] + line[:-1]) / 2, points[:, 0].contiguous())]
    half = centres.square().sum(1) / 2
    return torch.cat(
        [torch.addmm(half, part, centres.T, alpha=-1).argmin(1) for part in points.split(1 << 14)]
    )


def spiral(width: int) -> Tensor:
    """2^width points of the plane for pairs of standard normal numbers, by a formula, on a
    sunflower's spiral.

        (r_k cos(k g), r_k sin(k g)),  r_k^2 = -4 ln(1 - (k + 1/2) / K),  g = pi (3 - sqrt 5)

    The best density of points is that of the data to the power 1/2 [Gersho1979], for a Gaussian one
    of twice the variance. For few points it is too wide: all are scaled by 1 - 0.6 / sqrt(K), which
    is where the measured error is least.

    >>> spiral(8).shape, bool(spiral(8).square().mean() < 2)
    (torch.Size([256, 2]), True)
    """
    k = torch.arange(2**width, dtype=torch.float64)
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
    starts += [_far_apart(points, 2**bits, generator) for _ in range(4)]
    found = [kmeans(points, start, max_iter=12) for start in starts]
    return kmeans(
        points, min(found, key=lambda c: float((points - c[nearest(points, c)]).square().sum()))
    )


def _medians(z, k):
    """The medians of k parts of equal number."""
    return z.sort().values[((torch.arange(k, device=z.device) + 0.5) / k * len(z)).long()]


def _far_apart(points, k, generator):
    """k of the points, each drawn with the square of its distance to those before [Arthur2007]."""
    centres = points[:1]
    while len(centres) < k:
        weight = (points - centres[nearest(points, centres)]).square().sum(1).double().cpu()
        weight = weight if weight.any() else torch.ones_like(weight)
        centres = torch.cat(
            [centres, points[torch.multinomial(weight, 1, generator=generator).to(points.device)]]
        )
    return centres


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


# ------------------------------------------------------------------------------------------ models


class QuantizedLinear(nn.Module):
    """y = x w_qᵀ + bias; the indices and the codebook are buffers, so they move and are saved with
    the model.

    >>> layer = nn.Linear(32, 16)
    >>> QuantizedLinear(quantize(layer.weight), layer.bias)(torch.ones(3, 32)).shape
    torch.Size([3, 16])
    """

    def __init__(self, weight: Quantized, bias: Tensor | None = None):
        super().__init__()
        self.about = {
            f: getattr(weight, f)
            for f in ("method", "bits", "shape", "q", "dtype", "error", "converged")
        }
        for name in FIELDS:
            self.register_buffer(name, getattr(weight, name))
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())

    @property
    def weight(self) -> Quantized:
        """The quantised matrix."""
        return Quantized(*(getattr(self, name) for name in FIELDS), **self.about)

    def forward(self, x: Tensor) -> Tensor:
        y = self.weight.apply(x)
        return y if self.bias is None else y + self.bias

    def _apply(self, fn, recurse=True):
        """Moves between devices; `half()` and its like change the bias only, for the buffers are
        what is stored."""
        kept = {name: getattr(self, name) for name in FIELDS}
        super()._apply(fn, recurse)
        for name, tensor in kept.items():
            setattr(self, name, tensor.to(getattr(self, name).device))
        return self

    def extra_repr(self):
        return repr(self.weight)


@dataclass(frozen=True)
class Report:
    """What `quantize_model` did. rows: (name, shape, bits per weight, relative error, converged),
    one for each layer."""

    rows: tuple[tuple[str, tuple[int, ...], float, float, bool], ...]

    @property
    def bits_per_weight(self) -> float:
        """Of all quantised layers together, codebooks, norms and seeds counted; biases and other
        layers are not."""
        return sum(bits * math.prod(shape) for _, shape, bits, *_ in self.rows) / sum(
            math.prod(r[1]) for r in self.rows
        )

    @property
    def error(self) -> float:
        """The largest relative error of a layer."""
        return max(row[3] for row in self.rows)

    def __repr__(self):
        said = lambda ok: "" if ok else "  not converged"
        lines = [
            f"{n:40} {str(s):14} {b:7.3f} bits  error {e:.4f}{said(ok)}"
            for n, s, b, e, ok in self.rows
        ]
        total = f"{len(lines)} layers, {self.bits_per_weight:.3f} bits per weight, error up to {self.error:.4f}"
        return "\n".join([*lines, total])


def quantize_model(
    model: nn.Module,
    names: str | tuple[str, ...] = "*",
    bits: int = 4,
    *,
    method: str = "pairs",
    group: str | int | None = None,
    q: str = "dct",
    generator: torch.Generator | None = None,
) -> Report:
    """Quantises, in place, the linear layers whose names match, and reports bits per weight and
    error.

    names: a pattern such as "encoder.*.dense", or several. The rest as `quantize`. A weight that is
    tied to another stays as it was there. ValueError when nothing matches.

    >>> model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> len(quantize_model(model, "0").rows), type(model[0]).__name__, type(model[2]).__name__
    (1, 'QuantizedLinear', 'Linear')
    """
    patterns = (names,) if isinstance(names, str) else tuple(names)
    linear = {n: m for n, m in model.named_modules() if n and type(m) is nn.Linear}
    found = [(n, m) for n, m in linear.items() if any(fnmatch.fnmatch(n, p) for p in patterns)]
    if not found:
        raise ValueError(
            f"quantize_model: needs a pattern that matches a linear layer such as {[*linear][:3]}, "
            f"got {names!r}"
        )
    rows = []
    for name, layer in found:
        weight = quantize(layer.weight, bits, method=method, group=group, q=q, generator=generator)
        _replace(model, name, QuantizedLinear(weight, layer.bias))
        rows.append((name, weight.shape, weight.bits_per_weight, weight.error, weight.converged))
    return Report(tuple(rows))


def _replace(model, name, layer):
    parent, _, child = name.rpartition(".")
    layer.train(model.get_submodule(name).training)
    setattr(model.get_submodule(parent), child, layer)


def save_quantized(path, model: nn.Module) -> None:
    """Write a model with its quantised layers to a safetensors file, with a checksum over all of
    it.

    >>> from tempfile import mkdtemp
    >>> model, path = nn.Sequential(nn.Linear(16, 4)), mkdtemp() + "/q.safetensors"
    >>> x, report = torch.ones(16), quantize_model(model)
    >>> save_quantized(path, model)
    >>> torch.equal(load_quantized(path, nn.Sequential(nn.Linear(16, 4)))(x), model(x))
    True
    """
    layers = {
        n: _written(m.about) for n, m in model.named_modules() if isinstance(m, QuantizedLinear)
    }
    tensors = {n: t.detach().cpu().clone().contiguous() for n, t in model.state_dict().items()}
    about = json.dumps(layers, sort_keys=True)
    about = {"quantized": about, "sha256": _checksum(tensors, about)}
    write("save_quantized", path, tensors, about)


def load_quantized(path, model: nn.Module) -> nn.Module:
    """Read what `save_quantized` wrote into a model built as the one that was quantised; changes it
    and returns it.

    A file that is cut off, changed, or of another model is refused with a ValueError, and the model
    stays as it was.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(
            f"load_quantized: needs a whole safetensors file, got {Path(path).name}: {error}"
        ) from None
    if "quantized" not in about or about.get("sha256") != _checksum(tensors, about["quantized"]):
        raise ValueError(
            f"load_quantized: needs a file as save_quantized wrote it, got {Path(path).name} with "
            f"another checksum"
        )
    layers = json.loads(about["quantized"])
    plain = {
        n: t.shape for n, t in model.state_dict().items() if n.rpartition(".")[0] not in layers
    }
    held = {n: t.shape for n, t in tensors.items() if n.rpartition(".")[0] not in layers}
    here = {
        n: _shape(m) for n, m in model.named_modules() if type(m) in (nn.Linear, QuantizedLinear)
    }
    wanted = {n: tuple(fields["shape"]) for n, fields in layers.items()}
    odd = sorted(
        {n for n, _ in plain.items() ^ held.items()} | {n for n, _ in wanted.items() - here.items()}
    )
    if odd:
        raise ValueError(
            f"load_quantized: needs the model that was quantised, got one that differs in {odd[0]}"
        )
    for name, fields in layers.items():
        weight = Quantized(*(tensors[f"{name}.{f}"] for f in FIELDS), **_read(fields))
        _replace(
            model, name, QuantizedLinear(weight, tensors.get(f"{name}.bias")).to(_device(model))
        )
    model.load_state_dict(tensors)
    return model


def _shape(layer):
    return layer.about["shape"] if isinstance(layer, QuantizedLinear) else tuple(layer.weight.shape)


def _device(model):
    return next((t.device for t in model.state_dict().values()), torch.device("cpu"))


def _written(about):
    q = about["q"]
    return about | {
        "dtype": str(about["dtype"]).removeprefix("torch."),
        "q": q and [q.kind, q.shape, q.seed],
    }


def _read(fields):
    q = fields["q"]
    q = q and Rotation(q[0], tuple(q[1]), q[2])
    return fields | {
        "dtype": getattr(torch, fields["dtype"]),
        "q": q,
        "shape": tuple(fields["shape"]),
    }


def _checksum(tensors, about):
    digest = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        t = tensors[name].contiguous()
        digest.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        digest.update(t.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
