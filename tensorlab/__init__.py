"""Matrix and tensor methods that compress and train neural networks.

Ground:   `linalg`, `multilinear`, `rng`, `fit`, `datasets`.
Formats:  tensors held by smaller ones (`LowRank`, `CP`, `Tucker`, `TT`, `HT`, `TTMatrix`, ...),
          and the algorithms that find them.
Layers:   modules that hold a format, and how to put them into a model.
Compress: one call over layers and methods, with a certificate and a report.
Methods:  what is trained, sampled, searched, quantized or pruned by means of formats.
By name:  `models`, `papers` (tables as programs), `plots` (pictures) and `course` (widgets,
          checks, JupyterLab).
"""

from importlib.metadata import PackageNotFoundError, version

from .compression import Compression, compress
from .fit import Fit
from .formats.blocktt import BlockTT
from .formats.cp import CP, cp_als, cp_als_steps
from .formats.cp_nls import CPFit, cp_nls
from .formats.cp_stable import cp_degeneracy, cp_stable
from .formats.exchange import from_tensorly, from_tntorch, to_tensorly, to_tntorch
from .formats.htucker import HT, balanced_tree, ht_round, ht_svd, linear_tree
from .formats.kron_sum import KronSum
from .formats.kronecker import Kronecker, kron_rearrange, kron_svd
from .formats.lokr import LoKr
from .formats.lowrank import LowRank
from .formats.monarch import Monarch
from .formats.pivoted import PivotedLowRank
from .formats.storage import load, load_state, save, save_state
from .formats.tt import TT, tt_round, tt_svd
from .formats.tt_completion import tt_complete
from .formats.tt_cross import CrossFit, tt_argmax, tt_cross, tt_cross_steps
from .formats.tt_manifold import hessian_vector, riemannian_grad, tt_minimize, tt_project
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
from .layers.attention import (
    LatentAttention,
    MultiHeadAttention,
    MultiLinearAttention,
    TensorProductAttention,
    cache_bytes,
)
from .layers.conv import (
    FactorizedConv2d,
    conv_kernel,
    cp_conv,
    spatial_conv,
    svd_conv,
    tt_conv,
    tucker_conv,
)
from .layers.embedding import TokenTrains, TTEmbedding
from .layers.energy import Energy, energy_of, modeled_energy
from .layers.inputs import layer_inputs
from .layers.ledger import training_memory
from .layers.linear import FactorizedLinear, param_groups
from .layers.propagation import propagate
from .layers.report import layer_flops, layer_report
from .layers.select import linear_layers
from .layers.surgery import fold_linear, replace_conv, replace_linear
from .linalg import truncated_svd
from .methods.admm import ADMM
from .methods.codes import Quantized, quantize
from .methods.compressed_storage import load_compressed, save_compressed
from .methods.density import TTDensity
from .methods.dion import Dion
from .methods.dlrt import DLRT, dlrt_start, kls_step, usv_step
from .methods.expmachine import ExponentialMachine, rank_one_inner
from .methods.galore import GaLore, gradient_ranks
from .methods.kashin import Kashin, kashin, kashin_steps
from .methods.kron_hybrid import kron_hybrid
from .methods.kron_permuted import (
    PermutedKronecker,
    PermutedLinear,
    kron_permuted,
    replace_permuted,
)
from .methods.kron_spectral import SpectralFit, kron_spectral
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
    chamfer,
    sliced_wasserstein,
    tt_cloud,
    tt_nearest,
    tt_permute,
)
from .methods.projected import FactorSGD, Projected, prox_rank
from .methods.protes import Protes, ProtesFit, protes
from .methods.pruning import block_masks, lottery, magnitude_masks, prune
from .methods.quantize import QuantizedLinear, quantize_model
from .methods.quantized_storage import load_quantized, save_quantized
from .methods.riemannian import RiemannianSGD
from .methods.screening import screen_interactions
from .methods.tangent import TangentDLRT
from .methods.weighted import calibrate, weighted_svd
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
    __version__ = version("tensorlab-methods")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0"

# Each group names its floor, on which its names live. Words too general to be understood without
# their module are imported from it: `retract` of formats.tt_manifold, `plans` of layers.plans, ...
__all__ = [
    # ground: what an iteration gives back
    "Fit",
    # ground: a matrix cut to a rank
    "truncated_svd",
    # ground: a tensor as a matrix, and its modes split and joined
    "unfold",
    "fold",
    "mode_product",
    "khatri_rao",
    "balanced_shape",
    "digit_shape",
    "to_digits",
    "from_digits",
    # formats: tensors held by smaller ones
    "CP",
    "Tucker",
    "TT",
    "HT",
    # formats: matrices held by smaller ones, which a layer can hold
    "LowRank",
    "PivotedLowRank",
    "Kronecker",
    "KronSum",
    "LoKr",
    "Monarch",
    "BlockTT",
    "TTMatrix",
    # formats: files, and other packages
    "save",
    "load",
    "save_state",
    "load_state",
    "to_tntorch",
    "from_tntorch",
    "to_tensorly",
    "from_tensorly",
    # formats: how CP, Tucker and hierarchical Tucker are found
    "cp_als",
    "cp_als_steps",
    "cp_stable",
    "cp_degeneracy",
    "cp_nls",
    "CPFit",
    "hosvd",
    "st_hosvd",
    "hooi",
    "ht_svd",
    "ht_round",
    "balanced_tree",
    "linear_tree",
    # formats: how trains and Kronecker products are found
    "tt_svd",
    "tt_round",
    "tt_matrix_svd",
    "kron_svd",
    "kron_rearrange",
    "tt_cross",
    "tt_cross_steps",
    "CrossFit",
    "tt_argmax",
    "tt_complete",
    # formats: trains of fixed ranks as a manifold
    "tt_minimize",
    "tt_project",
    "riemannian_grad",
    "hessian_vector",
    # formats: a train as a probability
    "tt_sample",
    "tt_log_prob",
    "tt_sum",
    "tt_marginal",
    "tt_condition",
    "tt_environments",
    # layers: modules that hold a format
    "FactorizedLinear",
    "FactorizedConv2d",
    "TTEmbedding",
    "TokenTrains",
    "propagate",
    "param_groups",
    # layers: causal attention, and what it keeps
    "MultiHeadAttention",
    "LatentAttention",
    "TensorProductAttention",
    "MultiLinearAttention",
    "cache_bytes",
    # layers: convolutions in the place of one
    "svd_conv",
    "cp_conv",
    "tucker_conv",
    "tt_conv",
    "spatial_conv",
    "conv_kernel",
    # layers: chosen, replaced and counted in a model
    "linear_layers",
    "replace_linear",
    "replace_conv",
    "fold_linear",
    "layer_report",
    "layer_inputs",
    "layer_flops",
    # layers: bytes of a training step, joules that say how they are known
    "training_memory",
    "Energy",
    "energy_of",
    "modeled_energy",
    # methods: Kronecker sums in the spectral norm, of several shapes, under permutations
    "kron_spectral",
    "SpectralFit",
    "kron_hybrid",
    "kron_permuted",
    "PermutedKronecker",
    "PermutedLinear",
    "replace_permuted",
    # methods: few bits
    "kashin",
    "kashin_steps",
    "Kashin",
    "quantize",
    "Quantized",
    "QuantizedLinear",
    "quantize_model",
    "save_quantized",
    "load_quantized",
    # methods: matrices cut by what data say of them
    "calibrate",
    "weighted_svd",
    # methods: compressed models in files
    "save_compressed",
    "load_compressed",
    # methods: adapters
    "add_lora",
    "merge_lora",
    "unmerge_lora",
    "LoRALinear",
    "lora_state_dict",
    "load_lora_state_dict",
    "save_lora",
    "load_lora",
    # methods: training in low rank
    "DLRT",
    "TangentDLRT",
    "dlrt_start",
    "kls_step",
    "usv_step",
    "RiemannianSGD",
    "Projected",
    "FactorSGD",
    "prox_rank",
    # methods: low rank in the optimizer
    "GaLore",
    "Dion",
    "gradient_ranks",
    # methods: constraints and masks
    "ADMM",
    "magnitude_masks",
    "block_masks",
    "prune",
    "lottery",
    # methods: search
    "protes",
    "Protes",
    "ProtesFit",
    # methods: densities and interactions
    "TTDensity",
    "ExponentialMachine",
    "rank_one_inner",
    "screen_interactions",
    # methods: point clouds
    "tt_cloud",
    "tt_permute",
    "tt_nearest",
    "sliced_wasserstein",
    "chamfer",
    # compression: a whole model in one call
    "compress",
    "Compression",
]
