"""Matrix and tensor methods that compress and train neural networks.

Ground:   `linalg`, `multilinear`, `rng`, `fit`, `datasets`.
Formats:  tensors held by smaller ones (`LowRank`, `CP`, `Tucker`, `TT`, `HT`, `TTMatrix`, ...),
          and the algorithms that find them.
Layers:   modules that hold a format, and how to put them into a model.
Methods:  what is trained, sampled, searched, quantized or pruned by means of formats.
By name:  `models`, `papers` (tables as programs), `plots` (pictures) and `course` (widgets,
          checks, JupyterLab).
"""

from importlib.metadata import PackageNotFoundError, version

from .fit import Fit
from .formats.blocktt import BlockTT
from .formats.cp import CP, cp_als, cp_als_steps
from .formats.cp_nls import CPFit, cp_nls
from .formats.cp_stable import cp_degeneracy, cp_stable
from .formats.exchange import from_tensorly, from_tntorch, to_tensorly, to_tntorch
from .formats.htucker import HT, balanced_tree, ht_round, ht_svd, linear_tree
from .formats.kronecker import Kronecker, kron_rearrange, kron_svd
from .formats.lokr import LoKr
from .formats.lowrank import LowRank
from .formats.monarch import Monarch
from .formats.storage import load, load_state, save, save_state
from .formats.tt import TT, tt_round, tt_svd
from .formats.tt_completion import tt_complete
from .formats.tt_cross import CrossFit, tt_argmax, tt_cross, tt_cross_steps
from .formats.tt_manifold import (
    Tangent,
    hessian_vector,
    retract,
    riemannian_grad,
    transport,
    tt_minimize,
    tt_project,
)
from .formats.tt_sampling import (
    tt_condition,
    tt_environments,
    tt_log_prob,
    tt_marginal,
    tt_sample,
    tt_sum,
)
from .formats.ttmatrix import TTMatrix, tt_matrix_svd
from .formats.tucker import Tucker, hooi, hosvd, st_hosvd
from .layers.conv import (
    FactorizedConv2d,
    conv_flops,
    conv_kernel,
    cp_conv,
    spatial_conv,
    svd_conv,
    tt_conv,
    tucker_conv,
)
from .layers.embedding import TokenTrains, TTEmbedding
from .layers.linear import FactorizedLinear, param_groups
from .layers.plans import plans
from .layers.propagation import propagate
from .layers.report import layer_report
from .layers.select import linear_layers
from .layers.surgery import replace_conv, replace_linear
from .linalg import truncated_svd
from .methods.admm import ADMM
from .methods.codes import Quantized, quantize
from .methods.density import TTDensity
from .methods.dlrt import DLRT, dlrt_start, kls_step, usv_step
from .methods.expmachine import ExponentialMachine, rank_one_inner
from .methods.kashin import Kashin, Rotation, kashin, kashin_steps
from .methods.lora import (
    LoRALinear,
    add_lora,
    load_lora,
    load_lora_state_dict,
    lora_state_dict,
    merge_lora,
    save_lora,
    unmerge_lora,
)
from .methods.pointcloud import (
    Permuted,
    chamfer,
    sliced_wasserstein,
    tt_cloud,
    tt_nearest,
    tt_permute,
)
from .methods.projected import FactorSGD, Projected, prox_rank
from .methods.protes import Automaton, Optimum, Protes, ProtesFit, protes
from .methods.pruning import Ticket, block_masks, hold, lottery, magnitude_masks, prune
from .methods.quantize import QuantizedLinear, quantize_model
from .methods.quantized_storage import load_quantized, save_quantized
from .methods.riemannian import RiemannianSGD
from .methods.screening import screen_interactions
from .multilinear import (
    balanced_shape,
    digit_shape,
    fold,
    from_digits,
    khatri_rao,
    mode_product,
    to_digits,
    unfold,
)

try:
    __version__ = version("tensorlab")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0"

__all__ = [
    # ground
    "Fit",
    "truncated_svd",
    "unfold",
    "fold",
    "mode_product",
    "khatri_rao",
    "balanced_shape",
    "digit_shape",
    "to_digits",
    "from_digits",
    # formats
    "TTMatrix",
    "tt_matrix_svd",
    "propagate",
    "plans",
    "LowRank",
    "CP",
    "Tucker",
    "TT",
    "HT",
    "save",
    "load",
    "save_state",
    "load_state",
    "to_tntorch",
    "from_tntorch",
    "to_tensorly",
    "from_tensorly",
    "Kronecker",
    "kron_svd",
    "kron_rearrange",
    "Monarch",
    "BlockTT",
    "LoKr",
    # their algorithms
    "cp_als",
    "cp_als_steps",
    "cp_nls",
    "CPFit",
    "hosvd",
    "st_hosvd",
    "hooi",
    "tt_svd",
    "tt_round",
    "tt_cross",
    "tt_cross_steps",
    "CrossFit",
    "tt_argmax",
    "ht_svd",
    "ht_round",
    "balanced_tree",
    "linear_tree",
    "tt_minimize",
    "tt_complete",
    "tt_project",
    "Tangent",
    "riemannian_grad",
    "hessian_vector",
    "retract",
    "transport",
    "tt_sample",
    "tt_log_prob",
    "tt_sum",
    "tt_marginal",
    "tt_condition",
    "tt_environments",
    # layers
    "FactorizedLinear",
    "param_groups",
    "replace_linear",
    "layer_report",
    "linear_layers",
    # convolutions
    "FactorizedConv2d",
    "svd_conv",
    "cp_conv",
    "tucker_conv",
    "tt_conv",
    "spatial_conv",
    "replace_conv",
    "conv_kernel",
    "conv_flops",
    "cp_stable",
    "cp_degeneracy",
    # flat sums and few bits
    "kashin",
    "kashin_steps",
    "Kashin",
    "Rotation",
    "quantize",
    "Quantized",
    "QuantizedLinear",
    "quantize_model",
    "save_quantized",
    "load_quantized",
    # embeddings and point clouds
    "TTEmbedding",
    "TokenTrains",
    "tt_cloud",
    "tt_permute",
    "tt_nearest",
    "Permuted",
    "sliced_wasserstein",
    "chamfer",
    "protes",
    "Protes",
    "ProtesFit",
    "Optimum",
    "Automaton",
    # densities and interactions
    "TTDensity",
    "ExponentialMachine",
    "rank_one_inner",
    "screen_interactions",
    # training in low rank
    "DLRT",
    "dlrt_start",
    "kls_step",
    "usv_step",
    "Projected",
    "FactorSGD",
    "prox_rank",
    # adapters; constraints; masks
    "add_lora",
    "merge_lora",
    "unmerge_lora",
    "LoRALinear",
    "lora_state_dict",
    "load_lora_state_dict",
    "save_lora",
    "load_lora",
    "ADMM",
    "RiemannianSGD",
    "magnitude_masks",
    "block_masks",
    "prune",
    "hold",
    "lottery",
    "Ticket",
]
