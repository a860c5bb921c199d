"""Functions of one variable for densities: B-splines, distribution functions and their inverses."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..rng import rand

BISECTIONS = 60


class Where(NamedTuple):
    """Points in a spline basis: interval (n, d) of each coordinate, values (n, d, q + 1) of its
    functions, and which are inside."""

    interval: Tensor
    values: Tensor
    inside: Tensor


@dataclass(frozen=True, eq=False)
class Splines:
    """B-splines of degree q for each of d variables, with the exact integrals that densities need.

    edges: (d, K + 1), increasing; interval j of a variable carries the functions j, ..., j + q of
    its m = K + q. pieces: (d, K, q + 1, q + 1), function a of interval j at edges[j] + h s is sum_c
    pieces[j, a, c] s^c. gram: (d, m, m), integrals of products over [edges[0], edges[K]]; integral:
    (d, m).

    >>> s = Splines.on(torch.linspace(0, 1, 5, dtype=torch.float64)[None], 2)
    >>> x = torch.tensor([[0.5], [1.5]], dtype=torch.float64)
    >>> s.at(x).inside.tolist(), round(float(s.integral.sum()), 12)
    ([True, False], 1.0)
    """

    edges: Tensor
    pieces: Tensor
    gram: Tensor
    integral: Tensor

    @classmethod
    def on(cls, edges: Tensor, degree: int) -> "Splines":
        """The basis whose intervals lie between the edges (d, K + 1); beyond them the first and
        last lengths are repeated."""
        d, k, q = len(edges), edges.shape[1] - 1, degree
        h = edges.diff()  # (d, K)
        out = torch.arange(1, q + 1).to(h)
        t = torch.cat(
            [edges[:, :1] - h[:, :1] * out.flip(0), edges, edges[:, -1:] + h[:, -1:] * out], 1
        )
        one = edges.new_zeros(d, k, q + 1)
        one[..., 0] = 1
        pieces = [one]
        for p in range(1, q + 1):  # Cox and de Boor, as polynomials in s
            rising, j = pieces, torch.arange(k, device=edges.device) + q  # t[j] is the left edge
            pieces = [torch.zeros_like(one) for _ in range(p + 1)]
            for a, b in enumerate(rising):  # b is function i + 1 = j - p + 1 + a of degree p - 1
                i = j - p + a
                width = (t[:, i + p + 1] - t[:, i + 1])[..., None]
                up, slope = (t[:, j] - t[:, i + 1])[..., None] / width, h[..., None] / width
                times = up * b + slope * torch.nn.functional.pad(b, (1, -1))
                pieces[a + 1] = pieces[a + 1] + times
                pieces[a] = pieces[a] + b - times
        pieces = torch.stack(pieces, 2)  # (d, K, q + 1, q + 1)
        power = torch.arange(q + 1, device=edges.device)
        hilbert = 1 / (power[:, None] + power + 1).to(edges)
        local = h[..., None, None] * (pieces @ hilbert @ pieces.mT)
        gram, integral = edges.new_zeros(d, k + q, k + q), edges.new_zeros(d, k + q)
        for a in range(q + 1):
            integral[:, a : a + k] += h * (pieces[:, :, a] @ hilbert[0])
            for b in range(q + 1):
                gram.diagonal(b - a, 1, 2)[:, min(a, b) : min(a, b) + k] += local[:, :, a, b]
        return cls(edges, pieces, gram, integral)

    def moved(self, shift: Tensor, scale: Tensor) -> "Splines":
        """The same functions of (x - shift) / scale."""
        one, two = scale[:, None], scale[:, None, None]
        return Splines(
            one * self.edges + shift[:, None], self.pieces, two * self.gram, one * self.integral
        )

    @property
    def degree(self) -> int:
        return self.pieces.shape[-1] - 1

    def at(self, x: Tensor, dims=None) -> Where:
        """The functions that are not zero at x (n, d), or at (n, len(dims)) of some variables;
        beyond an edge, at the edge."""
        dims = (
            torch.arange(len(self.edges), device=x.device)
            if dims is None
            else torch.as_tensor(dims, device=x.device)
        )
        edges, x = self.edges[dims], x.T.contiguous()  # (d, K + 1), (d, n)
        inside = ((x >= edges[:, :1]) & (x <= edges[:, -1:])).all(0)
        x = x.clamp(edges[:, :1], edges[:, -1:])
        j = (torch.searchsorted(edges, x, right=True) - 1).clamp(0, edges.shape[1] - 2)
        low, high = edges.gather(1, j), edges.gather(1, j + 1)
        s = ((x - low) / (high - low))[..., None] ** torch.arange(self.degree + 1, device=x.device)
        values = (self.pieces[dims[:, None], j] @ s[..., None])[..., 0]  # (d, n, q + 1)
        return Where(j.T, values.transpose(0, 1), inside)


@dataclass(frozen=True, eq=False)
class Margins:
    """A distribution function for each of d variables, linear on cells: u_k = F_k(x_k), from the
    support of x_k onto [0, 1].

    edges: (d, M + 1) in x;  levels: (d, M + 1) from 0 to 1, both increasing.

    >>> f = Margins(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[0.0, 0.75, 1.0]]))
    >>> u, log = f.at(torch.tensor([[0.5]]))
    >>> u, log.exp(), f.back(u)
    (tensor([[0.3750]]), tensor([[0.7500]]), tensor([[0.5000]]))
    """

    edges: Tensor
    levels: Tensor

    @classmethod
    def of(cls, x: Tensor, cells: int, margin: float) -> "Margins":
        """99 parts of the empirical distribution function of x (n, d) and one of the uniform, on
        the cells of `spline_edges`."""
        edges = spline_edges(x, cells, 0, "quantile", margin)
        empirical = torch.searchsorted(x.T.sort().values.contiguous(), edges, right=True).to(
            x
        ) / len(x)
        uniform = (edges - edges[:, :1]) / (edges[:, -1:] - edges[:, :1])
        levels = 0.99 * empirical + 0.01 * uniform
        levels[:, 0], levels[:, -1] = 0, 1
        return cls(edges, levels)

    def moved(self, shift: Tensor, scale: Tensor) -> "Margins":
        """The same functions of (x - shift) / scale."""
        return Margins(scale[:, None] * self.edges + shift[:, None], self.levels)

    def at(self, x: Tensor, dims=None) -> tuple[Tensor, Tensor]:
        """u and log F'(x), both (n, d), or (n, len(dims)) of some variables; beyond the support u
        is beyond 0 or 1."""
        dims = slice(None) if dims is None else list(dims)
        u, slope = _interpolate(x.T, self.edges[dims], self.levels[dims])
        return u.T, slope.log().T

    def back(self, u: Tensor) -> Tensor:
        """x (n, d) at u (n, d)."""
        return _interpolate(u.T, self.levels, self.edges)[0].T


@dataclass(frozen=True, eq=False)
class Background:
    """A density that is nowhere zero, independent in its d variables: the share that a model keeps
    for what its data have not shown.

        g(x) = prod_k e^-z_k / (s_k (1 + e^-z_k)^2),     z_k = (x_k - c_k) / s_k     (logistic)

    share: of the mass, 0 for none. center, size: c and s, (d,).

    >>> g = Background(0.5, torch.zeros(1), torch.ones(1))
    >>> g.log(torch.tensor([[0.0]]), [0]).exp()
    tensor([0.2500])
    """

    share: float
    center: Tensor
    size: Tensor

    def log(self, x: Tensor, dims) -> Tensor:
        """log g of the variables dims at x (n, len(dims)): (n,)."""
        z = ((x - self.center[dims]) / self.size[dims]).abs()
        return -(z + 2 * (-z).exp().log1p() + self.size[dims].log()).sum(1)

    def draw(self, n: int, generator) -> Tensor:
        """Independent samples (n, d)."""
        u = rand(
            n, len(self.size), generator=generator, dtype=torch.float64, device=self.size.device
        )
        return self.center + self.size * u.clamp_min(1e-300).logit().to(self.size)

    def mixed(self, log: Tensor, sign: Tensor, own: Tensor) -> Tensor:
        """log((1 - share) sign e^log + share e^own), NaN where that is negative."""
        if self.share == 0:
            return torch.where(sign < 0, torch.nan, log)
        log, own = log + math.log1p(-self.share), own + math.log(self.share)
        top = torch.maximum(log, own).clamp_min(torch.finfo(log.dtype).min)
        value = sign * (log - top).exp() + (own - top).exp()
        return torch.where(value >= 0, value.log() + top, torch.nan)


def _interpolate(x: Tensor, at: Tensor, to: Tensor) -> tuple[Tensor, Tensor]:
    """The piecewise linear function through (at, to), both (d, M + 1), at x (d, n), and its slope
    there."""
    x = x.contiguous()
    j = (torch.searchsorted(at, x, right=True) - 1).clamp(0, at.shape[1] - 2)
    width, rise = at.diff().gather(1, j), to.diff().gather(1, j)
    return torch.lerp(
        to.gather(1, j), to.gather(1, j + 1), (x - at.gather(1, j)) / width
    ), rise / width


def spline_edges(
    x: Tensor, basis: int, degree: int, knots: str = "quantile", margin: float = 0.05
) -> Tensor:
    """Edges (d, basis - degree + 1) for data (n, d), over their range and a share `margin` of it on
    both sides.

    x: (n, d).
    basis: the number of functions of each variable.
    degree: of the splines.
    knots: "uniform"; or "quantile", at equal steps of the mean of the empirical and the uniform
        distribution function, so that no interval is longer than two uniform ones and there are
        more of them where the data lie.
    margin: the share of the range that is added on each side.

    >>> spline_edges(torch.tensor([[0.0], [1.0]]), 4, 2, "uniform", 0.0)
    tensor([[0.0000, 0.5000, 1.0000]])
    """
    low, high = x.amin(0), x.amax(0)
    low, high = low - margin * (high - low), high + margin * (high - low)
    at = torch.linspace(0, 1, basis - degree + 1, dtype=x.dtype, device=x.device)
    uniform = low[:, None] + (high - low)[:, None] * at
    if knots == "uniform":
        return uniform
    fine = low[:, None] + (high - low)[:, None] * torch.linspace(
        0, 1, 4097, dtype=x.dtype, device=x.device
    )  # (d, 4097)
    empirical = torch.searchsorted(
        x.T.sort().values.contiguous(), fine.contiguous(), right=True
    ).to(x) / len(x)
    share = (empirical + (fine - low[:, None]) / (high - low)[:, None]) / 2
    share[:, 0], share[:, -1] = 0, 1
    j = (
        torch.searchsorted(share, at.expand(len(share), -1).contiguous(), right=True).clamp(1, 4096)
        - 1
    )
    a, b = share.gather(1, j), share.gather(1, j + 1)
    edges = fine.gather(1, j) + (at - a) / (b - a) * (fine[:, 1:2] - fine[:, :1])
    edges[:, 0], edges[:, -1] = low, high
    return edges


def invert(
    y: Tensor, pieces: Tensor, edges: Tensor, squared: bool, u: Tensor
) -> tuple[Tensor, float]:
    """Points (n,) at which the distribution functions reach u, and the largest share of mass that
    was negative.

    y: (n, m, s), coefficients of the density |sum_i b_i y_i|^2, or sum_i b_i y_i with s = 1.
    pieces: of the variable, (K, q + 1, q + 1), as in `Splines`.
    edges: of its intervals, (K + 1,).
    squared: whether the density is the square.
    u: (n,), in 0..1.
    """
    q = pieces.shape[-1] - 1
    z = torch.einsum(
        "njsa,jac->njcs", y.unfold(1, q + 1, 1), pieces
    )  # (n, K, q + 1, s): polynomials on each interval
    if squared:
        f = z.new_zeros(*z.shape[:2], 2 * q + 1)
        for a in range(q + 1):
            for b in range(q + 1):
                f[..., a + b] += (z[:, :, a] * z[:, :, b]).sum(-1)
    else:
        f = z[..., 0]
    power = torch.arange(f.shape[-1], device=f.device)
    f = (
        f * edges.diff()[:, None] / (power + 1)
    )  # the distribution function on an interval: sum_c f_c s^(c + 1)
    mass = f.sum(-1)
    kept = mass.clamp_min(0)
    clipped = (
        float(((kept - mass).sum(1) / mass.abs().sum(1).clamp_min(torch.finfo(f.dtype).tiny)).max())
        if not squared
        else 0.0
    )
    above = kept.cumsum(1)
    target = u * above[:, -1]
    j = torch.searchsorted(above, target[:, None], right=True).clamp_max(
        mass.shape[1] - 1
    )  # (n, 1)
    rest = target - (above.gather(1, j) - kept.gather(1, j))[:, 0]
    f = f.gather(1, j[..., None].expand(-1, -1, f.shape[-1]))[:, 0]  # (n, degree + 1)
    low, high = torch.zeros_like(rest), torch.ones_like(rest)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        value = torch.zeros_like(rest)
        for c in range(f.shape[1] - 1, -1, -1):
            value = (value + f[:, c]) * middle
        low, high = torch.where(value < rest, middle, low), torch.where(value < rest, high, middle)
    j = j[:, 0]
    return edges[j] + (low + high) / 2 * (edges[j + 1] - edges[j]), clipped
