"""Matrix and tensor methods that compress and train neural networks.

Ground:   `linalg`, `multilinear`, `rng`, `fit`, `datasets`.
Formats:  tensors held by smaller ones (`LowRank`, `CP`, `Tucker`, `TT`), and the algorithms that find them.
By name:  `tensorlab.plots` (pictures) and `tensorlab.course` (widgets, checks, JupyterLab) are imported when wanted.
"""

from importlib.metadata import PackageNotFoundError, version

from .fit import Fit
from .formats.cp import CP, cp_als, cp_als_steps
from .formats.exchange import from_tensorly, from_tntorch, to_tensorly, to_tntorch
from .formats.lowrank import LowRank
from .formats.storage import load, save
from .formats.tt import TT, tt_round, tt_svd
from .formats.tucker import Tucker, hooi, hosvd, st_hosvd
from .linalg import truncated_svd
from .multilinear import balanced_shape, fold, khatri_rao, mode_product, unfold

try:
    __version__ = version("tensorlab")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0"

__all__ = [
    # ground
    "Fit", "truncated_svd", "unfold", "fold", "mode_product", "khatri_rao", "balanced_shape",
    # formats
    "LowRank", "CP", "Tucker", "TT", "save", "load",
    "to_tntorch", "from_tntorch", "to_tensorly", "from_tensorly",
    # their algorithms
    "cp_als", "cp_als_steps", "hosvd", "st_hosvd", "hooi", "tt_svd", "tt_round",
]  # fmt: skip
