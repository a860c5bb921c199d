"""A linear layer is format + bias: y = w x + b with w held as small tensors, each of them a
parameter [Qiu2024].

With `LowRank` it is the SVD layer: two factors, √Σ on each side, that store r (out + in) numbers
instead of out · in.
"""

import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..capture import watched
from ..formats.base import MatrixFormat, digits
from ..rng import rand, randn
from .dense import (
    CONVS,
    check_plain,
    check_writable,
    current,
    dense_weight,
    is_dense,
    like,
    parameters_of,
    write_weights,
)
from .holding import Holding, copied, is_sharded
from .propagation import autocast_dtype, beats_its_dense, propagate


class FactorizedLinear(Holding[MatrixFormat]):
    """y = w x + b, with w (out, in) a matrix format: (..., in) -> (..., out).

    weight: the format; its tensors are copied and become parameters. bias: (out,) or None.
    strategy: how to multiply and differentiate, see `propagation.propagate`. New structure is a new
    format, not a new layer.

    >>> from tensorlab import LowRank
    >>> w = LowRank.randn((6, 4), 2, generator=torch.Generator().manual_seed(0))
    >>> layer = FactorizedLinear(w.initial())
    >>> layer
    FactorizedLinear(LowRank, in=4, out=6, ranks=(2,), stores 20 of 24, storage ratio 0.833,
                     bias=False)
    >>> layer(torch.ones(3, 4)).shape, len(layer.tensors)
    (torch.Size([3, 6]), 2)
    """

    if TYPE_CHECKING:  # TorchScript takes annotations of a class for interfaces
        tensors: nn.ParameterList

    _folds = False  # whether `fold` was asked for
    _cache = (
        None  # the dense weight, and of each tensor an alias and the version that it is made of
    )

    def __init__(self, weight: MatrixFormat, bias: Tensor | None = None, *, strategy: str = "auto"):
        if not isinstance(weight, MatrixFormat):
            raise TypeError(
                f"FactorizedLinear: needs a matrix format as weight, got {type(weight).__name__}"
            )
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ValueError(
                f"FactorizedLinear: needs a bias of shape {weight.shape[:1]}, got "
                f"{tuple(bias.shape)}"
            )
        super().__init__(weight)
        self.strategy = strategy
        self.bias = None if bias is None else nn.Parameter(copied(bias))

    @classmethod
    def from_linear(
        cls, layer: nn.Module, make: Callable, rank=None, *, strategy: str = "auto"
    ) -> "FactorizedLinear":
        """The same map as a dense layer's, as far as the format holds it.

        layer: `nn.Linear`, or GPT-2's Conv1D, which holds w transposed; what is frozen stays
        frozen, and a computed weight (weight_norm, a mask) is taken as it is now. make: w (out, in)
        -> MatrixFormat; with `rank` it is called as make(w, rank), and warns where the format keeps
        less than the rank asked for. Raises TypeError for a layer that overrides `forward`.

        >>> from tensorlab import LowRank
        >>> dense = nn.Linear(8, 6)
        >>> layer = FactorizedLinear.from_linear(dense, LowRank.from_dense, rank=6)
        >>> torch.allclose(layer(torch.eye(8)), dense(torch.eye(8)), atol=1e-5)
        True
        """
        weight = factorize(layer, make, rank)
        if rank is not None and less_than(weight, rank):
            warnings.warn(
                f"FactorizedLinear: rank {rank} is capped to {weight.ranks} for a weight "
                f"{weight.shape}",
                stacklevel=2,
            )
        return like(layer, cls(weight, current(layer, "bias"), strategy=strategy))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1:] != self._form.shape[1:]:
            raise ValueError(
                f"FactorizedLinear: needs input (..., {self._form.shape[1]}), got shape "
                f"{tuple(x.shape)}"
            )
        w = self.weight
        if self._folds and self._may_fold(w, x):
            y = torch.nn.functional.linear(x, self._dense(w))
        else:
            y = propagate(w, x, self.strategy)
        return y if self.bias is None else y + self.bias.to(y.dtype)  # one dtype under autocast

    def fold(self, on: bool = True) -> "FactorizedLinear":
        """Multiply by the dense weight in eval mode, where that is faster; returns the layer.

            y = w x     w is made once, at the first input, and again when a tensor has changed

        on: False goes back to the factors and frees w. Of a batch that the factors multiply in
        less than half the time they still do, and so they do where a gradient with respect to them
        is recorded and under torch.compile and transforms. w takes the memory of a dense layer; it
        is not a parameter, is not saved or copied, and goes with `train()` and `to()`. A change
        that torch does not count, in place on `.data`, is not seen: call `fold` again after it.
        `fold_linear` replaces the layers of a model for good.

        >>> from tensorlab import LowRank
        >>> layer = FactorizedLinear(LowRank.randn((6, 4), 3).initial()).eval().fold()
        >>> with torch.no_grad():
        ...     y = layer(torch.ones(5, 4))
        >>> torch.allclose(y, layer.fold(False)(torch.ones(5, 4)), atol=1e-6)
        True
        """
        self._folds, self._cache = bool(on), None
        return self

    def _may_fold(self, w: MatrixFormat, x: Tensor) -> bool:
        tensors = w.tensors()
        recorded = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        if self.training or recorded or watched(x) or is_sharded(tensors):
            return False
        if any(watched(t) or t.is_inference() for t in tensors):  # no versions are kept of these
            return False
        fits = x.dtype == w.dtype or autocast_dtype(x) is not None  # else `propagate` refuses
        return fits and not beats_its_dense(w, max(1, math.prod(x.shape[:-1])))

    def _dense(self, w: MatrixFormat) -> Tensor:
        """The dense weight, made of the tensors as they are now."""
        tensors = w.tensors()
        if self._cache is not None:
            dense, made_of = self._cache
            if all(_unchanged(t, *old) for t, old in zip(tensors, made_of, strict=True)):
                return dense
        with torch.no_grad():
            dense = w.to_dense().contiguous()
        # an alias keeps the memory, so that no other tensor can have its address
        self._cache = dense, [(t.detach(), t._version) for t in tensors]
        return dense

    def train(self, mode: bool = True) -> "FactorizedLinear":
        """As of any module; what `fold` has made goes."""
        self._cache = None
        return super().train(mode)

    def _apply(self, *args, **options):
        self._cache = None
        return super()._apply(*args, **options)

    def __getstate__(self):
        return {**vars(self), "_cache": None}

    def coordinates(self, x: Tensor, v: Tensor) -> Tensor:
        """vᴴ of each input that w meets: x (..., in), v (in, k) -> (..., k)."""
        return x @ v.conj()

    @property
    def in_features(self) -> int:
        return self._form.shape[1]

    @property
    def out_features(self) -> int:
        return self._form.shape[0]

    @property
    def storage_ratio(self) -> float:
        """Numbers stored for each number of the dense weight: r (out + in) / (out · in) for two
        factors."""
        return 1 / self._form.compression

    def extra_repr(self):
        w = self._form
        out, n, dense = map(digits, (*w.shape, w.shape[0] * w.shape[1]))
        stores = (
            f"ranks={w.ranks}, stores {w.numel} of {dense}, storage ratio {self.storage_ratio:.3g}"
        )
        return f"{type(w).__name__}, in={n}, out={out}, {stores}, bias={self.bias is not None}"

    def __repr__(self):
        return f"{type(self).__name__}({self.extra_repr()})"


def _unchanged(t: Tensor, alias: Tensor, version: int) -> bool:
    """Whether a tensor has the numbers that it had when an alias of it was made."""
    return (
        t.data_ptr() == alias.data_ptr()
        and t._version == version
        and (t.shape, t.stride(), t.dtype, t.device)
        == (alias.shape, alias.stride(), alias.dtype, alias.device)
    )


def param_groups(
    model: nn.Module, lr: float, *, base: nn.Module | None = None, per_core: bool = True
) -> list[dict]:
    """Parameter groups for Adam, each tensor of a format with the learning rate that its fan-in
    asks for [Qiu2024].

        lr(core) = lr · (in / fan-in of the core) / (number of cores) · (in of the base model / in)

    lr: what a dense weight of the base model gets; biases, norms and embeddings get it too. base: a
    model of the same layers and another width, on which `lr` was tuned; None: this one.
    per_core=False leaves the first two shares out: a core gets what a dense weight in its place
    would. Groups carry `multiplier`, lr's share.

    >>> from tensorlab import LowRank
    >>> layer = FactorizedLinear(LowRank.randn((8, 8), 2), torch.zeros(8))
    >>> [(g["lr"], len(g["params"])) for g in param_groups(layer, 0.01)]
    [(0.01, 1), (0.02, 1), (0.005, 1)]
    """
    known = [] if base is None else base.named_modules()
    width = {name: n for name, m in known if (n := fan_in(m)) is not None}
    share = {}
    for name, module in model.named_modules():
        if (n := fan_in(module)) is None:
            continue
        if base is not None and name not in width:
            raise ValueError(
                f"param_groups: needs a base model with a linear layer {name!r}, got "
                f"{sorted(width)}"
            )
        scale = width.get(name, n) / n
        if isinstance(weight := module.weight, MatrixFormat):
            tensors = weight.tensors()
            multipliers = weight.lr_multipliers() if per_core else [1.0] * len(tensors)
            share |= {t: m * scale for t, m in zip(tensors, multipliers, strict=True)}
        else:
            share |= dict.fromkeys(parameters_of(module), scale)
    groups = {}
    for p in model.parameters():
        if p.requires_grad:
            groups.setdefault(share.get(p, 1.0), []).append(p)
    return [{"params": params, "lr": lr * m, "multiplier": m} for m, params in groups.items()]


def fan_in(layer: nn.Module) -> int | None:
    """How many inputs a linear layer has, dense or factorized; None for any other module."""
    if isinstance(layer, FactorizedLinear):
        return layer.in_features
    return dense_weight(layer).shape[1] if is_dense(layer) else None


def factorize(layer: nn.Module, make: Callable, rank=None) -> MatrixFormat:
    """The format that `make` gives for a dense layer's weight. Raises TypeError for a layer that is
    not linear or overrides `forward`, ValueError for a format of another shape."""
    if not is_dense(layer):
        raise TypeError(
            f"FactorizedLinear: needs nn.Linear or a transposed Conv1D, got {type(layer).__name__}"
        )
    check_plain("FactorizedLinear", layer)
    w = dense_weight(layer).detach()
    weight = make(w) if rank is None else make(w, rank)
    if not isinstance(weight, MatrixFormat) or weight.shape != tuple(w.shape):
        got = f"{type(weight).__name__} of shape {tuple(getattr(weight, 'shape', ()))}"
        raise ValueError(
            f"FactorizedLinear: make needs to give a matrix format of shape {tuple(w.shape)}, got "
            f"{got}"
        )
    return weight


def less_than(weight: MatrixFormat, rank) -> bool:
    """Whether a format has less than the rank asked for: an integer that none of its ranks reaches,
    or one of a tuple."""
    ranks = weight.ranks
    return (
        any(r < want for r, want in zip(ranks, rank))
        if isinstance(rank, (tuple, list))
        else max(ranks, default=1) < rank
    )


@torch.no_grad()
def redraw(model: nn.Module, generator: torch.Generator | None) -> nn.Module:
    """The start that torch gives to linear, convolution and embedding layers, drawn from a
    generator; returns the model.

    Linear and convolution: uniform in ± 1/√fan-in, biases too. Embedding: normal, of variance 1,
    and zero at padding_idx. Raises ValueError for a computed weight that cannot be set.
    """
    kinds = (nn.Embedding, *CONVS)
    layers = {n: m for n, m in model.named_modules() if is_dense(m) or isinstance(m, kinds)}
    check_writable("redraw", layers)
    for name, layer in layers.items():
        w = current(layer) if isinstance(layer, nn.Embedding) else dense_weight(layer)
        options: dict[str, Any] = dict(generator=generator, dtype=w.dtype)
        bound = w[0].numel() ** -0.5
        if isinstance(layer, nn.Embedding):
            new = randn(*w.shape, **options).to(w.device)
            new[[] if layer.padding_idx is None else layer.padding_idx] = 0
        else:
            new = ((2 * rand(*w.shape, **options) - 1) * bound).to(w.device)
        write_weights("redraw", {name: layer}, {name: new})
        if (b := getattr(layer, "bias", None)) is not None:
            b.copy_((2 * rand(*b.shape, **options) - 1) * bound)
    return model
