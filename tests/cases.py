"""One row for each format: what the contract of formats is tried on."""

import torch

import tensorlab as tl


def _middle(w, generator):
    """A low-rank matrix with its middle factor present."""
    s = tl.rng.randn(*2 * w.ranks, generator=generator, dtype=w.dtype, device=w.device)
    return tl.LowRank(w.u, w.v, s)


FORMATS = {
    "LowRank": lambda **o: tl.LowRank.randn((7, 5), 3, **o),
    "LowRank with s": lambda **o: _middle(tl.LowRank.randn((7, 5), 3, **o), o["generator"]),
    "CP": lambda **o: tl.CP.randn((4, 3, 5), 3, **o),
    "Tucker": lambda **o: tl.Tucker.randn((4, 3, 5), (2, 3, 2), **o),
    "TT": lambda **o: tl.TT.randn((4, 3, 2, 3), (3, 4, 2), **o),
    "HT": lambda **o: tl.HT.randn((4, 3, 2, 3), (3, 3, 3, 2, 2, 2), **o),
    "HT on a linear tree": lambda **o: tl.HT.randn((3, 4, 2, 3), 3, tree=(2, (0, (3, 1))), **o),
    "HT of one mode": lambda **o: tl.HT.randn((6,), 1, **o),
    "TT of one mode": lambda **o: tl.TT.randn((6,), 1, **o),
}

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]


def make(name, seed=0, dtype=torch.float64, device="cpu"):
    return FORMATS[name](generator=torch.Generator().manual_seed(seed), dtype=dtype, device=device)
