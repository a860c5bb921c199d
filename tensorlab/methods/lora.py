"""Adapters: a frozen layer plus a small trained one, and the small one may be merged into it
[Hu2021].

    LoRA     y = w x + s B A x                     s = α / r;  at the start B (out, r) = 0, A (r, in) Gaussian         [Hu2021]
    rsLoRA   the same                              s = α / √r                                                 [Kalajdzievski2023]
    DoRA     y = m (w + s B A) x / |w + s B A|     norms of rows, taken as constants;  at the start m = |w|           [Liu2024]
    LoKr     y = w x + s (w1 ⊗ a b) x              at the start w1 = 0;  multiplied as w1 X (a b)ᵀ                    [Yeh2024]
    dlrt     y = w x + s u S vᴴ x                  at the start S = 0;  trained by `DLRT`, which adapts the rank [Schotthoefer2022]

B = 0 makes the change zero before the first step, and with it the gradient of A: ∂loss/∂A = s Bᵀ
∂loss/∂Δ.
"""

import copy
import json
import re
import warnings
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..formats.base import MatrixFormat, check_same
from ..formats.lowrank import LowRank
from ..formats.storage import write
from ..layers.linear import FactorizedLinear, dense_weight, is_conv1d, is_dense
from ..layers.surgery import _put, linear_layers
from ..linalg import orthogonalize
from ..multilinear import balanced_shape
from ..rng import randn

KINDS = ("lora", "rslora", "dora", "lokr", "dlrt")
KEY = re.compile(
    r"base_model\.model\.(.+)\.(lora_A|lora_B|lora_magnitude_vector|lokr_w1|lokr_w2|lokr_w2_a|lokr_w2_b)"
    r"(?:\.default)?(?:\.weight)?"
)


@dataclass(frozen=True, eq=False, repr=False)
class LoKr(MatrixFormat):
    """w = w1 ⊗ (a b), or w1 ⊗ a without b: a Kronecker product whose second factor may be of low
    rank [Yeh2024].

    w1: (o1, i1), a: (o2, r), b: (r, i2) or None, and then a: (o2, i2). ranks: (r,), of w1 ⊗ a the
    shorter side of a.

    >>> LoKr(torch.ones(2, 3), torch.ones(8, 2), torch.ones(2, 9))
    LoKr(shape=(16, 27), ranks=(2,), stores 40 of 432)
    """

    w1: Tensor
    a: Tensor
    b: Tensor | None = None

    def _check(self):
        check_same("LoKr", self.tensors())
        got = [tuple(t.shape) for t in self.tensors()]
        if any(len(g) != 2 or 0 in g for g in got) or (
            self.b is not None and self.a.shape[1] != self.b.shape[0]
        ):
            raise ValueError(
                f"LoKr: needs matrices w1 (o1, i1), a (o2, r) and b (r, i2) or None, got shapes "
                f"{got}"
            )

    @property
    def shape(self):
        return (self.w1.shape[0] * self.a.shape[0], self.w1.shape[1] * self._last().shape[1])

    @property
    def ranks(self):
        return (min(self.a.shape),)

    def to_dense(self) -> Tensor:
        return torch.kron(self.w1, self.a if self.b is None else self.a @ self.b)

    def apply(self, x: Tensor) -> Tensor:
        """y = w1 X (a b)ᵀ with the input as a matrix X (i1, i2), from the right: (..., in) -> (...,
        out)."""
        y = x.unflatten(-1, (self.w1.shape[1], -1))
        if self.b is not None:
            y = y @ self.b.mT
        return (self.w1 @ y @ self.a.mT).flatten(-2)

    def flops(self, batch: int) -> int:
        (o1, i1), (o2, r) = self.w1.shape, self.a.shape
        first = 0 if self.b is None else i1 * self.b.numel()
        return 2 * batch * (first + o1 * i1 * r + o1 * r * o2)

    def lr_multipliers(self) -> tuple[float, ...]:
        """in / (fan-in of the factor) / (number of factors) [Qiu2024]."""
        return tuple(self.shape[1] / t.shape[1] / len(self.tensors()) for t in self.tensors())

    def norm(self) -> Tensor:
        """|w1| |a b|: the Frobenius norm of a Kronecker product is the product of the norms."""
        second = self.a if self.b is None else self.a @ self.b
        return torch.linalg.matrix_norm(self.w1) * torch.linalg.matrix_norm(second)

    def scale(self, number) -> "LoKr":
        return LoKr(self.w1 * number, self.a, self.b)

    def _last(self):
        return self.a if self.b is None else self.b


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
        self.base, self.delta, self.scale, self.kind = (
            base.requires_grad_(False),
            delta,
            scale,
            kind,
        )
        self.magnitude = nn.Parameter(self.row_norms()) if kind == "dora" else None
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        y, change = self.base(x), self.scale * self.delta(x)
        if self.magnitude is None:
            return y + change
        gain = self.magnitude / self.row_norms()
        linear = y if self.base.bias is None else y - self.base.bias
        return y + (gain - 1) * linear + gain * change  # so that a gain of 1 changes nothing at all

    @torch.no_grad()
    def row_norms(self) -> Tensor:
        """|w + s Δ| of each row; DoRA takes them as constants [Liu2024, sec. 4.3]."""
        w = _dense(self.base) + self.scale * self.delta.weight.to_dense()
        return torch.linalg.vector_norm(w, dim=1).clamp_min(torch.finfo(w.dtype).tiny)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """A layer of the base's kind that does the same: w + s Δ, for DoRA with its rows scaled.

        A low-rank base gives a low-rank layer of the ranks' sum; a base of another format gives
        `nn.Linear`, with a warning.
        """
        gain = None if self.magnitude is None else self.magnitude / self.row_norms()
        rows = (lambda w: w) if gain is None else (lambda w: gain[:, None] * w)
        held = self.base.weight
        if isinstance(held, LowRank) and isinstance(self.delta.weight, LowRank):
            total = held + self.delta.weight.scale(self.scale)
            return _frozen(
                FactorizedLinear(
                    LowRank(rows(total.u), total.v), self.base.bias, strategy=self.base.strategy
                ),
                self,
            )
        w = rows(_dense(self.base) + self.scale * self.delta.weight.to_dense())
        if is_dense(self.base):
            layer = copy.deepcopy(self.base)
            layer.weight = nn.Parameter(w.mT.contiguous() if is_conv1d(self.base) else w)
            return _frozen(layer, self)
        kind = type(held).__name__
        warnings.warn(
            f"merge_lora: a {kind} plus a {type(self.delta.weight).__name__} is merged as "
            f"nn.Linear",
            stacklevel=2,
        )
        layer = nn.Linear(
            w.shape[1], w.shape[0], bias=self.base.bias is not None, dtype=w.dtype, device=w.device
        )
        layer.weight = nn.Parameter(w)
        if self.base.bias is not None:
            layer.bias = nn.Parameter(self.base.bias.detach().clone())
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

    names: a pattern of `fnmatch` or several; chosen are `nn.Linear`, GPT-2's Conv1D and
    `FactorizedLinear`. kind: one of "lora", "rslora", "dora", "lokr" and "dlrt", see the module's
    head. alpha: the scale is alpha / rank, of "rslora" alpha / √rank. With "lokr" the factors are
    as square as the sizes allow, and the second is dense where the rank would not make it smaller.
    ValueError for a name that chooses nothing, a layer with an adapter, a rank that is no integer
    >= 1, an unknown kind.

    >>> model = add_lora(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)), "*", 2)
    >>> [name for name, p in model.named_parameters() if p.requires_grad]
    ['0.delta.tensors.0', '0.delta.tensors.1', '2.delta.tensors.0', '2.delta.tensors.1']
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"add_lora: needs an integer rank >= 1, got {rank!r}")
    if kind not in KINDS:
        raise ValueError(f"add_lora: needs a kind of {', '.join(KINDS)}, got {kind!r}")
    scale = alpha / rank**0.5 if kind == "rslora" else alpha / rank
    for name in _choose(model, names):
        _adapt(model, name, rank, scale, kind, generator)
    return _only_adapters(model)


def merge_lora(model: nn.Module) -> nn.Module:
    """Every adapted layer becomes one plain layer that does the same, w <- w + s Δ; changes the
    model and returns it.

    The model has its old structure and the keys of its old state dict. A weight that something else
    holds too, such as an embedding, stays as it was there. The frozen weights are kept beside the
    new ones, so `unmerge_lora` is exact; what is saved lacks them. ValueError for a model without
    adapters.
    """
    for layer in _adapted("merge_lora", model).values():
        plain = layer.merged()
        plain.__dict__["_unmerged"] = layer  # not as a child: its parameters are not the model's
        _put_everywhere(model, layer, plain)
    return model


def unmerge_lora(model: nn.Module) -> nn.Module:
    """Back to what `merge_lora` was given, to the last bit; changes the model and returns it.

    >>> model = add_lora(nn.Sequential(nn.Linear(6, 4)), "0", 2)
    >>> before = model[0]
    >>> unmerge_lora(merge_lora(model))[0] is before
    True
    """
    plain = {name: m for name, m in model.named_modules() if "_unmerged" in m.__dict__}
    if not plain:
        raise ValueError(
            f"unmerge_lora: needs a model that merge_lora has changed, got {type(model).__name__}"
        )
    for layer in plain.values():
        _put_everywhere(model, layer, layer.__dict__["_unmerged"].train(layer.training))
    return model


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
    """
    layers, parts = _adapted("load_lora_state_dict", model), {}
    for key, t in state.items():
        found = KEY.fullmatch(key)
        if found is None:
            raise ValueError(
                f"load_lora_state_dict: needs keys like base_model.model.<name>.lora_A.weight, got "
                f"{key!r}"
            )
        parts.setdefault(found[1], {})[found[2]] = t
    if parts.keys() != layers.keys():
        raise ValueError(
            f"load_lora_state_dict: needs the layers {', '.join(layers)}, got "
            f"{', '.join(parts) or 'none'}"
        )
    for name, layer in layers.items():
        _load(name, layer, parts[name])
    return model


def save_lora(path, model: nn.Module) -> None:
    """Write the adapters, and nothing of the frozen model, to a safetensors file; kinds and scales
    stand in its metadata."""
    about = {
        name: {"kind": layer.kind, "scale": layer.scale}
        for name, layer in _adapted("save_lora", model).items()
    }
    write("save_lora", path, lora_state_dict(model), {"adapters": json.dumps(about)})


def load_lora(path, model: nn.Module) -> nn.Module:
    """Put the adapters of a file that `save_lora` wrote on a model, on layers that have none yet;
    returns the model.

    >>> from tempfile import mkdtemp
    >>> path, model = mkdtemp() + "/adapter.safetensors", nn.Sequential(nn.Linear(6, 4))
    >>> save_lora(path, add_lora(copy.deepcopy(model), "0", 2, kind="dora"))
    >>> load_lora(path, model)[0]
    LoRALinear(dora, Linear in=6, out=4, LowRank of rank 2, scale 4)
    """
    with safe_open(path, framework="pt") as file:
        about = json.loads((file.metadata() or {}).get("adapters", "null"))
        state = {key: file.get_tensor(key) for key in file.keys()}
    if about is None:
        raise ValueError(
            f"load_lora: needs a file of save_lora, got {path} without scales; use add_lora and "
            f"load_lora_state_dict"
        )
    for name in _choose(model, list(about)):
        rank = min(
            t.shape[k]
            for key, t in state.items()
            if name in key
            for k in range(t.ndim)
            if t.ndim == 2
        )
        _adapt(model, name, rank, about[name]["scale"], about[name]["kind"], None)
    return load_lora_state_dict(_only_adapters(model), state)


# ------------------------------------------------------------------------------------------ parts


def _choose(model, names):
    """The names of the layers that patterns choose; an unknown one lists those there are, an
    adapted one is said so."""
    adapted = {name: m for name, m in model.named_modules() if isinstance(m, LoRALinear)}
    every = {
        **linear_layers(model),
        **{name: m for name, m in model.named_modules() if type(m) is FactorizedLinear},
    }
    free = {
        name: m
        for name, m in every.items()
        if name and not any(name.startswith(f"{taken}.") for taken in adapted)
    }
    patterns = [names] if isinstance(names, str) else list(names)
    for pattern in patterns:
        if any(fnmatchcase(name, pattern) for name in adapted):
            raise ValueError(
                f"add_lora: needs layers without an adapter, got {pattern!r} for the adapted "
                f"{', '.join(adapted)}"
            )
        if not any(fnmatchcase(name, pattern) for name in free):
            raise ValueError(
                f"add_lora: needs a name of a linear layer ({', '.join(free) or 'none'}), got "
                f"{pattern!r}"
            )
    return {name: m for name, m in free.items() if any(fnmatchcase(name, p) for p in patterns)}


def _adapt(model, name, rank, scale, kind, generator):
    base = model.get_submodule(name)
    if isinstance(base, LoRALinear):  # the same layer under a second name
        return
    like = base.tensors[0] if isinstance(base, FactorizedLinear) else base.weight
    shape = (
        base.weight.shape if isinstance(base, FactorizedLinear) else tuple(dense_weight(base).shape)
    )
    delta = _start(
        kind, shape, rank, dict(generator=generator, dtype=like.dtype, device=like.device)
    )
    _put_everywhere(model, base, LoRALinear(base, FactorizedLinear(delta), scale, kind))


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


def _load(name, layer, parts):
    needed = [{"lora_A", "lora_B"}]
    if layer.kind == "lokr":
        needed = [{"lokr_w1", "lokr_w2"}, {"lokr_w1", "lokr_w2_a", "lokr_w2_b"}]
    elif layer.kind == "dora":
        needed = [{"lora_A", "lora_B", "lora_magnitude_vector"}]
    if parts.keys() not in needed:
        ways, got = (
            " or ".join(", ".join(sorted(keys)) for keys in needed),
            ", ".join(sorted(parts)),
        )
        raise ValueError(
            f"load_lora_state_dict: layer {name!r} of kind {layer.kind} needs {ways}, got {got}"
        )
    if layer.kind == "lokr":
        new = LoKr(
            parts["lokr_w1"], parts.get("lokr_w2", parts.get("lokr_w2_a")), parts.get("lokr_w2_b")
        )
    else:
        new = LowRank(parts["lora_B"], parts["lora_A"].mH)
        new = new.orthogonal() if layer.kind == "dlrt" else new
    if new.shape != layer.delta.weight.shape:
        raise ValueError(
            f"load_lora_state_dict: layer {name!r} needs shape {layer.delta.weight.shape}, got "
            f"{new.shape}"
        )
    if len(new.tensors()) != len(
        layer.delta.tensors
    ):  # a second factor of LoKr that is dense here and thin there
        like = layer.delta.tensors[0]
        layer.delta = FactorizedLinear(new.to(device=like.device, dtype=like.dtype))
    else:
        layer.delta.set_weight(new)
    if layer.magnitude is not None:
        layer.magnitude.data = (
            parts["lora_magnitude_vector"].to(layer.magnitude).reshape(-1).clone()
        )


def _only_adapters(model):
    model.requires_grad_(False)
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


def _put_everywhere(model, old, new):
    for name in [name for name, m in model.named_modules(remove_duplicate=False) if m is old]:
        _put(model, name, new)


def _dense(base) -> Tensor:
    return base.weight.to_dense() if isinstance(base, FactorizedLinear) else dense_weight(base)


def _frozen(layer, like):
    return layer.requires_grad_(False).train(like.training)
