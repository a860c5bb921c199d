"""Random numbers: one seed, one set of numbers, on any dtype and device.

Everything is drawn in float64 (complex128) on the generator's own device, then cast and moved, so
that a float32 run on an accelerator starts from the same numbers as a float64 run on a CPU.
"""

import torch
from torch import Tensor


def randn(
    *shape: int,
    generator: torch.Generator | None = None,
    dtype=None,
    device=None,
) -> Tensor:
    """Standard normal numbers; for a complex dtype E|z|^2 = 1.

    >>> g = torch.Generator().manual_seed(0)
    >>> randn(2, 3, generator=g, dtype=torch.float32).shape
    torch.Size([2, 3])
    """
    return _draw(torch.randn, shape, generator, dtype, device)


def rand(
    *shape: int,
    generator: torch.Generator | None = None,
    dtype=None,
    device=None,
) -> Tensor:
    """Uniform numbers in [0, 1).

    >>> bool((rand(5, generator=torch.Generator().manual_seed(0)) < 1).all())
    True
    """
    return _draw(torch.rand, shape, generator, dtype, device)


def check_generator(who: str, generator) -> None:
    """Raises TypeError for anything but a `torch.Generator` or None.

    >>> check_generator("randn", None)
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"{who}: needs a torch.Generator or None as generator, got {generator!r}")


def randint(
    n: int,
    *shape: int,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Integers in 0..n-1, int64, drawn on the generator's own device.

    >>> bool((randint(5, 100, generator=torch.Generator().manual_seed(0)) < 5).all())
    True
    """
    check_generator("randint", generator)
    source = generator.device if generator is not None else device
    return torch.randint(n, shape, generator=generator, device=source).to(device)


def _draw(sample, shape, generator, dtype, device):
    dtype = torch.get_default_dtype() if dtype is None else dtype
    check_generator(sample.__name__, generator)
    if not isinstance(dtype, torch.dtype) or not (dtype.is_floating_point or dtype.is_complex):
        raise TypeError(
            f"{sample.__name__}: needs a floating-point or complex dtype of torch, got {dtype!r}"
        )
    wide = torch.complex128 if dtype.is_complex else torch.float64
    source = generator.device if generator is not None else device
    drawn = sample(shape, generator=generator, dtype=wide, device=source)
    return drawn.to(dtype=dtype, device=device)
