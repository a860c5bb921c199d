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
    "TTMatrix": lambda **o: tl.TTMatrix.randn(out=(2, 3, 2), in_=(3, 1, 2), rank=(3, 2), **o),
    "TTMatrix with padding": lambda **o: tl.TTMatrix.randn(
        out=(2, 4), in_=(3, 2), rank=3, size=(7, 5), **o
    ),
    "Kronecker": lambda **o: tl.Kronecker.randn((6, 8), 2, **o),
    "Kronecker with padding": lambda **o: tl.Kronecker.randn((5, 7), 2, **o),
    "Kronecker of three factors": lambda **o: tl.Kronecker.randn((8, 12), 1, factors=3, **o),
    "Monarch": lambda **o: tl.Monarch.randn((8, 12), 2, **o),
    "Monarch with padding": lambda **o: tl.Monarch.randn((7, 9), 3, **o),
    "BlockTT": lambda **o: tl.BlockTT.randn((6, 8), 2, **o),
    "BlockTT with padding": lambda **o: tl.BlockTT.randn((5, 7), 2, **o),
    "BlockTT of three cores": lambda **o: tl.BlockTT.randn((8, 12), (2, 2), cores=3, **o),
    "TT of one mode": lambda **o: tl.TT.randn((6,), 1, **o),
}

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]


def make(name, seed=0, dtype=torch.float64, device="cpu"):
    return FORMATS[name](generator=torch.Generator().manual_seed(seed), dtype=dtype, device=device)
