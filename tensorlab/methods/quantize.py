"""[Merkulov2024] A model whose linear layers multiply by matrices of few bits; how a matrix becomes
one is in `codes`.

    y = x w_qᵀ + bias,     w_q = quantize(w, bits)
"""

import torch
from torch import Tensor, nn

from ..layers.dense import current, dense_weight
from ..layers.select import LINEAR
from ..layers.surgery import replace as replace_layers
from .codes import FIELDS, Quantized, description_bytes, from_stored, quantize


class HoldsCodes(nn.Module):
    """A module whose weight is a quantized matrix.

    All that the matrix consists of are buffers, so it moves and is saved with the model. The random
    numbers of its rotation are buffers too, but what is saved is their seed. A state dict of
    another method, number of bits or seed is adopted, one of another shape refused. Raises
    TypeError for a weight that is not `Quantized`.
    """

    def __init__(self, weight: Quantized):
        super().__init__()
        if not isinstance(weight, Quantized):
            raise TypeError(
                f"{type(self).__name__}: needs a Quantized, got {type(weight).__name__}"
            )
        about = description_bytes(weight).to(weight.device)
        self._hold(weight, dict(zip(FIELDS, weight.tensors())) | {"about": about})

    def _hold(self, weight: Quantized, stored: dict[str, Tensor]) -> None:
        """Take over how a weight is put together and its random numbers, and what is stored."""
        for name in [*self._buffers]:
            delattr(self, name)
        drawn = () if weight.q is None else weight.q.drawn
        meta = lambda tensors: [t.to("meta") for t in tensors]
        self._form = weight.with_tensors(meta(weight.tensors()), meta(drawn))
        for name, t in stored.items():
            self.register_buffer(name, t)
        for k, t in enumerate(drawn):
            self.register_buffer(f"drawn_{k}", t.to(self.codes.device), persistent=False)

    @property
    def weight(self) -> Quantized:
        """The quantized matrix on the buffers."""
        drawn = (t for name, t in self._buffers.items() if name.startswith("drawn"))
        return self._form.with_tensors((getattr(self, name) for name in FIELDS), drawn)

    def _apply(self, fn, recurse=True):
        """Moves between devices; `half()` and its like change the bias only, for the buffers are
        what is stored."""
        kept = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, t in kept.items():
            if self._buffers[name].dtype != t.dtype:
                self._buffers[name] = t.to(self._buffers[name].device)
        return self

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors
    ):
        stored = {name: state_dict.get(prefix + name) for name in (*FIELDS, "about")}
        if any(t is not None for t in stored.values()):
            try:
                self._adopt(stored, local_metadata.get("assign_to_params_buffers", False))
            except ValueError as error:
                errors.append(f"{prefix.rstrip('.')}: {error}")  # torch raises all at once
                return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing, unexpected, errors
        )

    def _adopt(self, stored: dict[str, Tensor | None], assign: bool) -> None:
        """Take over the method, the bits and the rotation that are stored, with room for the
        numbers: they are loaded after this."""
        weight = from_stored(stored, self._form.matrix_shape)
        device = (weight if assign else self).codes.device
        room = {}
        for name, t in stored.items():
            mine = self.get_buffer(name)
            fits = (mine.shape, mine.dtype) == (t.shape, t.dtype)
            room[name] = mine if fits else torch.empty_like(t, device=device)
        self._hold(weight, room)

    def extra_repr(self):
        return repr(self.weight)


class QuantizedLinear(HoldsCodes):
    """y = x w_qᵀ + bias: (..., in) -> (..., out).

    weight: the matrix, whose parts are buffers, as `HoldsCodes` says. bias: (out,) or None; it is
    copied and becomes a parameter. Raises TypeError for a weight that is not
    `Quantized`, ValueError for a bias of another shape.

    >>> layer = nn.Linear(32, 16)
    >>> QuantizedLinear(quantize(layer.weight), layer.bias)(torch.ones(3, 32)).shape
    torch.Size([3, 16])
    """

    def __init__(self, weight: Quantized, bias: Tensor | None = None):
        super().__init__(weight)
        if bias is not None and bias.shape != weight.matrix_shape[:1]:
            raise ValueError(
                f"QuantizedLinear: needs a bias of shape {weight.matrix_shape[:1]}, got "
                f"{tuple(bias.shape)}"
            )
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())

    @property
    def in_features(self) -> int:
        return self._form.matrix_shape[1]

    @property
    def out_features(self) -> int:
        return self._form.matrix_shape[0]

    def forward(self, x: Tensor) -> Tensor:
        y = self.weight.apply(x)
        return y if self.bias is None else y + self.bias.to(y.dtype)


def quantize_model(
    model: nn.Module,
    names="*",
    bits: int = 4,
    *,
    method: str | None = None,
    group: str | int | None = None,
    q: str = "dct",
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Quantize the linear layers that `names` chooses; changes the model and returns it.

    model: whose `nn.Linear` and Conv1D of GPT-2 can be chosen.
    names: a pattern such as "encoder.*.dense", several of them, or a predicate (name, layer) ->
        bool.
    bits, method, group, q, generator: as in `quantize`.

    `layer_report(model, reference)` tells what each layer stores and how far it is from the layer
    before; `layer.weight.converged` tells whether Kashin's iteration ended in time.

    Modes, hooks and the bias stay; layers that share a weight share the quantized one. A layer
    whose weight something else holds too, such as an embedding, or whose class overrides `forward`,
    is not quantized, and a warning names it. Raises ValueError for a pattern that chooses nothing;
    an error of `quantize` names the layer, and nothing is changed.

    >>> model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> [type(layer).__name__ for layer in quantize_model(model, "0")]
    ['QuantizedLinear', 'ReLU', 'Linear']
    """
    done = {}

    def build(name, layer):
        shared = layer._parameters.get("weight")
        weight = done.get(shared)
        if weight is None:
            options = dict(method=method, group=group, q=q, generator=generator)
            weight = quantize(dense_weight(layer), bits, **options)
        if shared is not None:
            done[shared] = weight
        return QuantizedLinear(weight, current(layer, "bias"))

    return replace_layers("quantize_model", model, names, build, LINEAR)
