"""Dense tensors that tests are tried on, and the errors they are measured by."""

import math

import torch
from hypothesis import strategies as st

import tensorlab as tl

RTOLS = [0.0, 1e-15, 1e-12, 1e-9, 1e-7, 1e-6, 1e-4, 1e-2, 0.1, 0.5, 0.9]
KINDS = ["full", "rank 2", "zero", "graded", "view"]


def smooth(shape, dtype=torch.float64):
    """1 / (1 + sum of coordinates), each in [0, 1)."""
    total = torch.zeros([], dtype=torch.float64)
    for k, n in enumerate(shape):
        total = total + (torch.arange(n, dtype=torch.float64) / n).reshape(
            [n] + [1] * (len(shape) - 1 - k)
        )
    return (1 / (1 + total)).to(dtype)


def noisy_train(shape, rank, noise, seed=0):
    """A random train and noise of the given relative size."""
    g = torch.Generator().manual_seed(seed)
    x = tl.TT.randn(shape, rank, generator=g, dtype=torch.float64).to_dense()
    e = torch.randn(shape, generator=g, dtype=torch.float64)
    return x + e * (noise * x.norm() / e.norm())


def tensor(kind, shape, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    wide = tl.linalg.wide(dtype)
    if kind == "rank 2":
        return tl.TT.randn(shape, 2, generator=g, dtype=wide).to_dense().to(dtype)
    if kind == "zero":
        return torch.zeros(shape, dtype=dtype)
    x = torch.randn(shape, generator=g, dtype=wide)
    if kind == "graded":  # entries from 1 down to 1e-16 along each mode
        for k, n in enumerate(shape):
            x = x * (10.0 ** (-2.0 * torch.arange(n))).reshape(
                [-1 if j == k else 1 for j in range(len(shape))]
            )
    x = x.to(dtype)
    return x.transpose(0, -1) if kind == "view" else x


def relative_error(approximation, x):
    """|approximation - x| / |x| in float64; 0 for two zeros."""
    a, b = tl.linalg.widen(approximation), tl.linalg.widen(x)
    size = float(b.norm())
    return float((a - b).norm()) / size if size else float(a.norm())


def within(fmt, x, rtol, c=64):
    """The bound of every truncation: |x - fmt| <= (rtol + c eps) |x|, eps of the data's dtype."""
    dense = fmt.to(tl.linalg.wide(x.dtype)).to_dense()
    return relative_error(dense, x) <= rtol + c * torch.finfo(x.dtype).eps


shapes = (
    st.lists(st.integers(1, 9), min_size=1, max_size=6)
    .filter(lambda s: math.prod(s) <= 8000)
    .map(tuple)
)


def gradcheck(f, inputs) -> bool:
    """torch's check of a gradient, along one random direction, and a hundred times as strict as its
    default, so that 1 % off in one entry is still seen."""
    return torch.autograd.gradcheck(f, inputs, fast_mode=True, rtol=1e-5, atol=1e-7)
