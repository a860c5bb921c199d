"""Matrix and tensor methods that compress and train neural networks.

Ground:   `linalg`, `multilinear`, `rng`, `fit`, `datasets`.
Formats:  tensors held by smaller ones (`LowRank`, `CP`, `Tucker`, `TT`, `HT`), and the algorithms that find them.
By name:  `tensorlab.plots` (pictures) and `tensorlab.course` (widgets, checks, JupyterLab) are imported when wanted.
"""

from importlib.metadata import PackageNotFoundError, version

from .fit import Fit
from .formats.cp import CP, cp_als, cp_als_steps
from .formats.exchange import from_tensorly, from_tntorch, to_tensorly, to_tntorch
from .formats.htucker import HT, balanced_tree, ht_round, ht_svd, linear_tree
from .formats.lowrank import LowRank
from .formats.storage import load, save
from .formats.tt import TT, tt_round, tt_svd
from .formats.tt_completion import tt_complete
from .formats.tt_cross import CrossFit, tt_argmax, tt_cross, tt_cross_steps
from .formats.tt_manifold import Tangent, hessian_vector, retract, riemannian_grad, transport, tt_minimize, tt_project
from .formats.tt_sampling import tt_condition, tt_environments, tt_log_prob, tt_marginal, tt_sample, tt_sum
from .formats.tucker import Tucker, hooi, hosvd, st_hosvd
from .linalg import truncated_svd
from .multilinear import balanced_shape, digit_shape, fold, from_digits, khatri_rao, mode_product, to_digits, unfold

try:
    __version__ = version("tensorlab")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0"

__all__ = [
    # ground
    "Fit", "truncated_svd", "unfold", "fold", "mode_product", "khatri_rao", "balanced_shape",
    "digit_shape", "to_digits", "from_digits",
    # formats
    "LowRank", "CP", "Tucker", "TT", "HT", "save", "load",
    "to_tntorch", "from_tntorch", "to_tensorly", "from_tensorly",
    # their algorithms
    "cp_als", "cp_als_steps", "hosvd", "st_hosvd", "hooi", "tt_svd", "tt_round",
    "tt_cross", "tt_cross_steps", "CrossFit", "tt_argmax", "ht_svd", "ht_round", "balanced_tree", "linear_tree",
    "tt_minimize", "tt_complete", "tt_project", "Tangent", "riemannian_grad", "hessian_vector", "retract", "transport",
    "tt_sample", "tt_log_prob", "tt_sum", "tt_marginal", "tt_condition", "tt_environments",
]  # fmt: skip
