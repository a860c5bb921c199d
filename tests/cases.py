"""One row for each format and for each decomposition: what their contracts are tried on."""

import torch

import tensorlab as tl


def _middle(w, generator):
    """A low-rank matrix with its middle factor present."""
    s = tl.rng.randn(*2 * w.ranks, generator=generator, dtype=w.dtype, device=w.device)
    return tl.LowRank(w.u, w.v, s)


def _pivoted(w):
    """With pivots that are not the first rows."""
    return w.with_tensors(w.tensors(), (1, 2, 5))


FORMATS = {
    "LowRank": lambda **o: tl.LowRank.randn((7, 5), 3, **o),
    "LowRank with s": lambda **o: _middle(tl.LowRank.randn((7, 5), 3, **o), o["generator"]),
    "PivotedLowRank": lambda **o: _pivoted(tl.PivotedLowRank.randn((7, 5), 3, **o)),
    "CP": lambda **o: tl.CP.randn((4, 3, 5), 3, **o),
    "Tucker": lambda **o: tl.Tucker.randn((4, 3, 5), (2, 3, 2), **o),
    "TT": lambda **o: tl.TT.randn((4, 3, 2, 3), (3, 4, 2), **o),
    "HT": lambda **o: tl.HT.randn((4, 3, 2, 3), (3, 3, 3, 2, 2, 2), **o),
    "HT on a linear tree": lambda **o: tl.HT.randn((3, 4, 2, 3), 3, tree=(2, (0, (3, 1))), **o),
    "HT of one mode": lambda **o: tl.HT.randn((6,), 1, **o),
    "TTMatrix": lambda **o: tl.TTMatrix.randn(out=(2, 3, 2), in_=(3, 1, 2), rank=(3, 2), **o),
    "TTMatrix with padding": lambda **o: tl.TTMatrix.randn(
        out=(2, 4), in_=(3, 2), rank=3, shape=(7, 5), **o
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

AFFINE = {"PivotedLowRank"}  # linear in the first tensor only, where the others are linear in each

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]


def make(name, seed=0, dtype=torch.float64, device="cpu"):
    return FORMATS[name](generator=torch.Generator().manual_seed(seed), dtype=dtype, device=device)


def seeded():
    return torch.Generator().manual_seed(0)


def _seen(x):
    return torch.rand(x.shape, generator=seeded()) < 0.8


def _nonnegative(x, rank, rtol):
    return tl.cp_als(x.abs(), rank or 2, nonnegative=True, max_iter=9)


def _masked(x, rank, rtol):
    return tl.cp_als(x, rank or 2, mask=_seen(x), init="random", max_iter=9, generator=seeded())


def _nonnegative_nls(x, rank, rtol):
    return tl.cp_nls(x.abs(), rank or 2, nonnegative=True, max_iter=9)


def _masked_nls(x, rank, rtol):
    return tl.cp_nls(x, rank or 2, mask=_seen(x), max_iter=9, generator=seeded())


# name: the shape it is tried on, and x, rank, rtol -> format or Fit
DECOMPOSITIONS = {
    "tt_svd": ((5, 6, 4), lambda x, r, t: tl.tt_svd(x, r, rtol=t)),
    "hosvd": ((5, 6, 4), lambda x, r, t: tl.hosvd(x, r, rtol=t)),
    "st_hosvd": ((5, 6, 4), lambda x, r, t: tl.st_hosvd(x, r, rtol=t)),
    "hooi": ((5, 6, 4), lambda x, r, t: tl.hooi(x, r or 2, max_iter=9)),
    "ht_svd": ((3, 4, 2, 5), lambda x, r, t: tl.ht_svd(x, r, rtol=t)),
    "cp_als": ((5, 6, 4), lambda x, r, t: tl.cp_als(x, r or 2, max_iter=9)),
    "cp_als nonnegative": ((5, 6, 4), _nonnegative),
    "cp_als with a mask": ((5, 6, 4), _masked),
    "cp_nls": ((5, 6, 4), lambda x, r, t: tl.cp_nls(x, r or 2, max_iter=9)),
    "cp_nls above the dimensions": (
        (5, 6, 4),
        lambda x, r, t: tl.cp_nls(x, 7, max_iter=9, generator=seeded()),
    ),
    "cp_nls nonnegative": ((5, 6, 4), _nonnegative_nls),
    "cp_nls with a mask": ((5, 6, 4), _masked_nls),
    "cp_stable": ((5, 6, 4), lambda x, r, t: tl.cp_stable(x, r or 2, max_iter=9)),
    "cp_stable, exact": ((5, 6, 4), lambda x, r, t: tl.cp_stable(x, 20)),
    "LowRank": ((8, 9), lambda x, r, t: tl.LowRank.from_dense(x, r, rtol=t)),
    "PivotedLowRank": ((8, 9), lambda x, r, t: tl.PivotedLowRank.from_dense(x, r, rtol=t)),
    "Kronecker": ((8, 9), lambda x, r, t: tl.Kronecker.from_dense(x, r, rtol=t)),
    "Kronecker of three": (
        (8, 9),
        lambda x, r, t: tl.Kronecker.from_dense(x, r, rtol=t, factors=3),
    ),
    "kron_svd": ((8, 9), lambda x, r, t: tl.kron_svd(x, (2, 4), r, rtol=t)),
    "Monarch": ((8, 9), lambda x, r, t: tl.Monarch.from_dense(x, 2)),
    "Monarch of three": ((8, 9), lambda x, r, t: tl.Monarch.from_dense(x, cores=3)),
    "BlockTT": ((8, 9), lambda x, r, t: tl.BlockTT.from_dense(x, r, rtol=t)),
    "BlockTT of three": ((8, 9), lambda x, r, t: tl.BlockTT.from_dense(x, r, rtol=t, cores=3)),
    "TTMatrix": ((8, 9), lambda x, r, t: tl.tt_matrix_svd(x, (2, 4), (3, 3), r, rtol=t)),
}


def decompose(name, x, rank=None, rtol=None):
    """The format that a decomposition gives."""
    made = DECOMPOSITIONS[name][1](x, rank, rtol)
    return made.value if isinstance(made, tl.Fit) else made
