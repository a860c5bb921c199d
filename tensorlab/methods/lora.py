"""Adapters: a frozen layer plus a small trained one, and the small one may be merged into it
[Hu2021].

    LoRA     y = w x + s B A x                     s = α / r                             [Hu2021]
    rsLoRA   the same                              s = α / √r                 [Kalajdzievski2023]
    DoRA     y = m (w + s B A) x / |w + s B A|     norms of rows, as constants          [Liu2024]
    LoKr     y = w x + s (w1 ⊗ a b) x              multiplied as w1 X (a b)ᵀ            [Yeh2024]
    dlrt     y = w x + s u S vᴴ x                  `DLRT` adapts the rank      [Schotthoefer2022]

At the start B (out, r), w1 and S are 0, A (r, in) is Gaussian, and m = |w|. B = 0 makes the change
zero before the first step, and with it the gradient of A: ∂loss/∂A = s Bᵀ ∂loss/∂Δ.
"""

import copy
import glob
import itertools
import json
import re
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from ..arguments import count, one_of
from ..formats.base import MatrixFormat
from ..formats.lokr import LoKr
from ..formats.lowrank import LowRank
from ..formats.storage import read, write
from ..layers.dense import (
    dense_weight,
    is_computed,
    is_conv1d,
    is_dense,
    like,
    without_autocast,
)
from ..layers.linear import FactorizedLinear
from ..layers.select import LINEAR, Kind, choose, fit, is_factorized, put, say, unfit_layers
from ..linalg import orthogonalize
from ..multilinear import balanced_shape
from ..rng import randn

KINDS = ("lora", "rslora", "dora", "lokr", "dlrt")
KEY = re.compile(
    r"base_model\.model\.(.+)\.(lora_A|lora_B|lora_magnitude_vector|lokr_w1|lokr_w2|lokr_w2_a|lokr_w2_b)"
    r"(?:\.default)?(?:\.weight)?"
)


class LoRALinear(nn.Module):
    """A frozen linear layer plus s times a small trained one: y = base(x) + s delta(x), (..., in)
    -> (..., out).

    base: `nn.Linear`, GPT-2's Conv1D or a `FactorizedLinear`. delta: a `FactorizedLinear` without
    bias. kind: one of KINDS; with "dora" the rows of the sum are scaled to the norms `magnitude`
    (out,), which are trained.

    >>> layer = add_lora(nn.Sequential(nn.Linear(6, 4)), "0", 2)[0]
    >>> layer
    LoRALinear(lora, Linear in=6, out=4, LowRank of rank 2, scale 4)
    >>> torch.equal(layer(torch.ones(3, 6)), layer.base(torch.ones(3, 6)))
    True
    """

    def __init__(self, base: nn.Module, delta: FactorizedLinear, scale: float, kind: str = "lora"):
        super().__init__()
        self.base, self.delta = base.requires_grad_(False), delta
        self.scale, self.kind = scale, kind
        self.magnitude = nn.Parameter(self.row_norms()) if kind == "dora" else None
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        y, change = self.base(x), self.scale * self.delta(x)
        if self.magnitude is None:
            return y + change
        gain = self.magnitude / self.row_norms()
        linear = y if self.base.bias is None else y - self.base.bias.to(y.dtype)
        more = (gain - 1).to(y.dtype)  # so that a gain of 1 changes nothing at all
        return y + more * linear + gain.to(y.dtype) * change

    @property
    def weight(self) -> Tensor:
        """What the layer multiplies by, w + s Δ, for DoRA with its rows scaled; in the layout of
        the base's, (in, out) for Conv1D. It is computed at each reading."""
        w = self._effective()
        return w.mT if is_conv1d(self.base) else w

    @property
    def bias(self) -> Tensor | None:
        """The base's."""
        return self.base.bias

    @property
    def in_features(self) -> int:
        return self.delta.in_features

    @property
    def out_features(self) -> int:
        return self.delta.out_features

    @torch.no_grad()
    def row_norms(self) -> Tensor:
        """|w + s Δ| of each row; DoRA takes them as constants [Liu2024, sec. 4.3]."""
        with without_autocast(self.delta.tensors[0]):
            w = _dense(self.base) + self.scale * self.delta.weight.to_dense()
        w = w.detach()  # a trace does not keep no_grad
        return torch.linalg.vector_norm(w, dim=1).clamp_min(torch.finfo(w.dtype).tiny)

    def _effective(self) -> Tensor:
        """w + s Δ (out, in), for DoRA with its rows scaled."""
        w = _dense(self.base) + self.scale * self.delta.weight.to_dense()
        return w if self.magnitude is None else (self.magnitude / self.row_norms())[:, None] * w

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """A layer of the base's kind that does the same: w + s Δ, for DoRA with its rows scaled.

        A low-rank base gives a low-rank layer of the ranks' sum; a base of another format, of
        indices into a codebook, or whose weight is computed gives `nn.Linear`, with a warning.
        """
        held, delta = self.base.weight, self.delta.weight
        if isinstance(held, LowRank) and isinstance(delta, LowRank):
            total = held + delta.scale(self.scale)
            if self.magnitude is not None:
                rows = (self.magnitude / self.row_norms())[:, None]
                total = LowRank(rows * total.u, total.v)
            layer = FactorizedLinear(total, self.base.bias, strategy=self.base.strategy)
            return _frozen(layer, self)
        w = self._effective()
        if is_dense(self.base) and not is_computed(self.base):
            mine = nn.Parameter(w.mT.contiguous() if is_conv1d(self.base) else w)
            return _frozen(copy.deepcopy(self.base, {id(held): mine}), self)
        kind = type(self.base if is_dense(self.base) else held).__name__
        say(f"merge_lora: a {kind} plus a {type(delta).__name__} is merged as nn.Linear")
        layer = nn.Linear(*w.shape[::-1], bias=False, device="meta")
        layer.weight = nn.Parameter(w)
        layer.bias = None if self.bias is None else nn.Parameter(self.bias.detach().clone())
        return _frozen(layer, self)

    def __repr__(self):
        base, delta = self.base, self.delta.weight
        sizes = f"in={delta.shape[1]}, out={delta.shape[0]}"
        added = f"{type(delta).__name__} of rank {delta.ranks[0]}, scale {self.scale:.4g}"
        return f"LoRALinear({self.kind}, {type(base).__name__} {sizes}, {added})"


def add_lora(
    model: nn.Module,
    names,
    rank: int,
    *,
    alpha: float = 8.0,
    kind: str = "lora",
    generator: torch.Generator | None = None,
) -> nn.Module:
    """An adapter on every linear layer that `names` chooses, all else frozen; changes the model and
    returns it [Hu2021].

    model: whose `nn.Linear`, Conv1D of GPT-2, `FactorizedLinear` and `QuantizedLinear` can be
        chosen.
    names: a pattern of `fnmatch`, several of them, or a predicate (name, layer) -> bool.
    rank: of the adapter. With "lokr" the factors are as square as the sizes allow, and the second
        is dense where the rank would not make it smaller.
    alpha: the scale is alpha / rank, of "rslora" alpha / √rank.
    kind: one of "lora", "rslora", "dora", "lokr" and "dlrt", see the module's head.
    generator: draws the start; None: torch's global one.

    The layer's hooks see the sum. A layer that overrides `forward` gets no adapter, and a warning
    names it. Raises ValueError for a name that chooses nothing, a layer with an adapter, a rank
    that is no integer >= 1, an unknown kind.

    >>> model = add_lora(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)), "*", 2)
    >>> [name for name, p in model.named_parameters() if p.requires_grad]
    ['0.delta.tensors.0', '0.delta.tensors.1', '2.delta.tensors.0', '2.delta.tensors.1']
    """
    rank, kind = count("add_lora", "rank", rank), one_of("add_lora", "kind", kind, KINDS)
    scale = alpha / rank**0.5 if kind == "rslora" else alpha / rank
    layers = _choose("add_lora", model, names)
    put(model, {m: _adapt(m, rank, scale, kind, generator) for m in layers.values()})
    return _only_adapters(model)


def merge_lora(model: nn.Module) -> nn.Module:
    """Every adapted layer becomes one plain layer that does the same, w <- w + s Δ; changes the
    model and returns it.

    The model has its old structure and the keys of its old state dict. A weight that something else
    holds too, such as an embedding, stays as it was there. The frozen weights are kept beside the
    new ones, so `unmerge_lora` is exact; what is saved lacks them. ValueError for a model without
    adapters.

    >>> model = add_lora(nn.Sequential(nn.Linear(6, 4)), "0", 2)
    >>> merge_lora(model)
    Sequential(
      (0): Linear(in_features=6, out_features=4, bias=True)
    )
    """
    layers = _adapted("merge_lora", model)
    if "" in layers:
        raise ValueError("merge_lora: needs a model around its adapted layers, got one of them")
    merged = {layer: layer.merged() for layer in layers.values()}
    for layer, plain in merged.items():
        plain.__dict__["_unmerged"] = _Unmerged(layer)  # not a child: its parameters are not here
    put(model, merged)
    return model


def unmerge_lora(model: nn.Module) -> nn.Module:
    """Back to what `merge_lora` was given, to the last bit, on the device and in the dtype that the
    model has now; changes the model and returns it.

    >>> model = add_lora(nn.Sequential(nn.Linear(6, 4)), "0", 2)
    >>> before = model[0]
    >>> unmerge_lora(merge_lora(model))[0] is before
    True
    """
    plain = [m for m in model.modules() if m.__dict__.get("_unmerged") is not None]
    if not plain:
        raise ValueError(
            f"unmerge_lora: needs a model that merge_lora has changed, got {type(model).__name__}"
        )
    before = {m: m.__dict__["_unmerged"].layer.train(m.training) for m in plain}
    for m, layer in before.items():
        now = next(m.parameters())
        layer.to(device=now.device, dtype=now.dtype)
    put(model, before)
    return model


class _Unmerged:
    """The adapted layer that a merged one stands for: a copy of the model has a copy of it, a file
    has None."""

    def __init__(self, layer: LoRALinear):
        self.layer = layer

    def __deepcopy__(self, memo):
        return _Unmerged(copy.deepcopy(self.layer, memo))

    def __reduce__(self):
        return type(None), ()


# ------------------------------------------------------------------------------------------ on disk


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The adapters alone, under PEFT's keys: base_model.model.<name>.lora_A.weight (r, in),
    .lora_B.weight (out, r), and so on.

    DoRA adds .lora_magnitude_vector (out,); LoKr has .lokr_w1 and .lokr_w2, or .lokr_w2_a and
    .lokr_w2_b. What "dlrt" trained is stored as B = u S and A = vᴴ.

    >>> sorted(lora_state_dict(add_lora(nn.Sequential(nn.Linear(6, 4)), "0", 2)))
    ['base_model.model.0.lora_A.weight', 'base_model.model.0.lora_B.weight']
    """
    state = {}
    for name, layer in _adapted("lora_state_dict", model).items():
        w = layer.delta.weight
        if isinstance(w, LoKr):
            parts = {"lokr_w1": w.w1} | (
                {"lokr_w2": w.a} if w.b is None else {"lokr_w2_a": w.a, "lokr_w2_b": w.b}
            )
        else:
            w = w.merged()
            parts = {"lora_A.weight": w.v.mH, "lora_B.weight": w.u}
        if layer.magnitude is not None:
            parts["lora_magnitude_vector"] = layer.magnitude
        state |= {
            f"base_model.model.{name}.{part}": t.detach().resolve_conj().clone().contiguous()
            for part, t in parts.items()
        }
    return state


def load_lora_state_dict(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Put adapters that are stored under PEFT's keys into the adapted layers, which take over their
    ranks; returns the model.

    Keys may have the name "default" in them, as those of a running PEFT model do. ValueError for
    layers or keys that do not fit.

    >>> one, other = (add_lora(nn.Sequential(nn.Linear(6, 4)), "0", r) for r in (2, 3))
    >>> load_lora_state_dict(one, lora_state_dict(other))[0].delta.weight.ranks
    (3,)
    """
    layers, parts = _adapted("load_lora_state_dict", model), _by_layer(state)
    if parts.keys() != layers.keys():
        raise ValueError(
            f"load_lora_state_dict: needs the layers {', '.join(layers)}, got "
            f"{', '.join(parts) or 'none'}"
        )
    new = {name: _read(name, layer, parts[name]) for name, layer in layers.items()}
    for name, layer in layers.items():
        _load(layer, *new[name])
    return model


def save_lora(path, model: nn.Module) -> None:
    """Write the adapters, and nothing of the frozen model, to a safetensors file; kinds and scales
    are in its metadata.

    >>> from tempfile import mkdtemp
    >>> path, model = mkdtemp() + "/adapter.safetensors", nn.Sequential(nn.Linear(6, 4))
    >>> save_lora(path, add_lora(copy.deepcopy(model), "0", 2))
    >>> type(load_lora(path, model)[0]).__name__
    'LoRALinear'
    """
    layers, state = _adapted("save_lora", model), lora_state_dict(model)
    if any(t.is_meta for t in state.values()):
        raise ValueError("save_lora: needs adapters with numbers, got some on meta")
    about = {name: {"kind": layer.kind, "scale": layer.scale} for name, layer in layers.items()}
    write("save_lora", path, state, {"adapters": json.dumps(about)})


def load_lora(path, model: nn.Module) -> nn.Module:
    """Put the adapters of a file that `save_lora` wrote on a model, on layers that have none yet;
    returns the model.

    >>> from tempfile import mkdtemp
    >>> path, model = mkdtemp() + "/adapter.safetensors", nn.Sequential(nn.Linear(6, 4))
    >>> save_lora(path, add_lora(copy.deepcopy(model), "0", 2, kind="dora"))
    >>> load_lora(path, model)[0]
    LoRALinear(dora, Linear in=6, out=4, LowRank of rank 2, scale 4)
    """
    state, texts = read("load_lora", path)
    about = json.loads(texts.get("adapters", "null"))
    if about is None:
        raise ValueError(
            f"load_lora: needs a file of save_lora, got {path} without scales; use add_lora and "
            f"load_lora_state_dict"
        )
    layers, parts = (
        _choose("load_lora", model, [glob.escape(name) for name in about]),
        _by_layer(state),
    )
    made = {}
    for name, layer in layers.items():
        rank = min(n for t in parts[name].values() if t.ndim == 2 for n in t.shape)
        made[layer] = _adapt(layer, rank, about[name]["scale"], about[name]["kind"], None)
    put(model, made)
    return load_lora_state_dict(_only_adapters(model), state)


# ------------------------------------------------------------------------------------------ parts


def _takes(layer) -> bool:
    return is_dense(layer) or (is_factorized(layer) and not hasattr(layer, "kernel_size"))


_LINEAR = Kind("linear layer", _takes, LINEAR.near, inside=(nn.MultiheadAttention, LoRALinear))


def _choose(who, model, names):
    """The layers that `names` chooses; an unknown one lists those there are, an adapted one is said
    so."""
    adapted = [name for name, m in model.named_modules() if isinstance(m, LoRALinear)]
    patterns = [] if callable(names) else [names] if isinstance(names, str) else list(names)
    for pattern in patterns:
        if any(fnmatchcase(name, pattern) for name in adapted):
            raise ValueError(
                f"{who}: needs layers without an adapter, got {pattern!r} for the adapted "
                f"{', '.join(adapted)}"
            )
    chosen = choose(who, model, names if callable(names) else patterns, _LINEAR)
    return fit(who, chosen, unfit_layers(chosen))


def _adapt(base, rank, scale, kind, generator) -> LoRALinear:
    w = dense_weight(base) if is_dense(base) else base.weight
    device = next(itertools.chain(base.parameters(), base.buffers())).device
    options = dict(generator=generator, dtype=w.dtype, device=device)
    delta = _start(kind, tuple(w.shape), rank, options)
    return LoRALinear(base, FactorizedLinear(delta), scale, kind)


def _start(kind, shape, rank, options) -> MatrixFormat:
    """A format that is zero, with a gradient that is not: one factor is zero, the others are
    Gaussian."""
    m, n = shape
    zeros = lambda *size: torch.zeros(*size, dtype=options["dtype"], device=options["device"])
    if kind == "lokr":
        (o2, o1), (i2, i1) = balanced_shape(m, 2), balanced_shape(n, 2)
        if 2 * rank >= max(o2, i2):
            return LoKr(zeros(o1, i1), randn(o2, i2, **options) / (3 * i2) ** 0.5)
        return LoKr(
            zeros(o1, i1),
            randn(o2, rank, **options) / (3 * rank) ** 0.5,
            randn(rank, i2, **options) / (3 * i2) ** 0.5,
        )
    if kind == "dlrt":
        r = min(rank, m, n)
        return LowRank(
            orthogonalize(randn(m, r, **options))[0],
            orthogonalize(randn(n, r, **options))[0],
            zeros(r, r),
        )
    return LowRank(zeros(m, rank), randn(n, rank, **options) / (3 * n) ** 0.5)


def _by_layer(state) -> dict[str, dict[str, Tensor]]:
    """The tensors of a state dict under PEFT's keys, by layer and part."""
    parts = {}
    for key, t in state.items():
        found = KEY.fullmatch(key)
        if found is None:
            raise ValueError(
                f"load_lora_state_dict: needs keys like base_model.model.<name>.lora_A.weight, got "
                f"{key!r}"
            )
        parts.setdefault(found[1], {})[found[2]] = t
    return parts


_PARTS = {
    "lokr": [{"lokr_w1", "lokr_w2"}, {"lokr_w1", "lokr_w2_a", "lokr_w2_b"}],
    "dora": [{"lora_A", "lora_B", "lora_magnitude_vector"}],
}


def _read(name, layer, parts) -> tuple[MatrixFormat, Tensor | None]:
    """The change and the magnitude that a layer is to have. Raises ValueError where they do not
    fit."""
    who, needed = (
        f"load_lora_state_dict: layer {name!r}",
        _PARTS.get(layer.kind, [{"lora_A", "lora_B"}]),
    )
    if parts.keys() not in needed:
        ways = " or ".join(", ".join(sorted(keys)) for keys in needed)
        got = ", ".join(sorted(parts))
        raise ValueError(f"{who} of kind {layer.kind} needs {ways}, got {got}")
    if any(p.is_meta for p in layer.delta.parameters()):
        raise ValueError(f"{who} needs a device with numbers, got meta")
    if layer.kind == "lokr":
        second = parts.get("lokr_w2", parts.get("lokr_w2_a"))
        new = LoKr(parts["lokr_w1"], second, parts.get("lokr_w2_b"))
    else:
        new = LowRank(parts["lora_B"], parts["lora_A"].mH)
        new = new.orthogonal() if layer.kind == "dlrt" else new
    if new.shape != layer.delta.weight.shape:
        raise ValueError(f"{who} needs shape {layer.delta.weight.shape}, got {new.shape}")
    magnitude = parts.get("lora_magnitude_vector")
    if magnitude is not None and magnitude.numel() != new.shape[0]:
        raise ValueError(f"{who} needs {new.shape[0]} magnitudes, got {magnitude.numel()}")
    return new, magnitude


def _load(layer, new, magnitude) -> None:
    if len(new.tensors()) == len(layer.delta.tensors):
        layer.delta.set_weight(new)
    else:  # a second factor of LoKr that is dense here and thin there
        old = layer.delta
        new = new.to(device=old.weight.device, dtype=old.weight.dtype)
        layer.delta = like(old, FactorizedLinear(new))
    if magnitude is not None:
        with torch.no_grad():
            layer.magnitude.copy_(magnitude.reshape(-1))


def _only_adapters(model):
    for p in model.parameters():
        p.requires_grad = False  # which a parameter without a size has too
    for layer in model.modules():
        if isinstance(layer, LoRALinear):
            layer.delta.requires_grad_(True)
            if layer.magnitude is not None:
                layer.magnitude.requires_grad_(True)
    return model


def _adapted(who, model) -> dict[str, LoRALinear]:
    found = {name: m for name, m in model.named_modules() if isinstance(m, LoRALinear)}
    if not found:
        raise ValueError(
            f"{who}: needs a model with adapters, got {type(model).__name__} without one"
        )
    return found


def _dense(base) -> Tensor:
    return dense_weight(base) if is_dense(base) else base.weight.to_dense()


def _frozen(layer, like):
    return layer.requires_grad_(False).train(like.training)
