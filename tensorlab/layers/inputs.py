"""The inputs of the linear layers of a model: few vectors that represent all inputs of data."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..linalg import psd_root, widen
from .select import LINEAR, choose

ROUNDING = 1e-9  # of the largest eigenvalue: what rounding may leave below zero


@torch.no_grad()
def layer_inputs(model: nn.Module, names, run: Callable[[], object]) -> dict[str, Tensor]:
    """Inputs of each chosen linear layer while `run()` calls the model: (in, in), by name.

        xᵀ x / in  =  mean of the x_t x_tᵀ of all inputs x_t

    The x are as many vectors as a layer has inputs, with the same second moments as all that it
    saw: what `layer_report` and `kron_spectral` make of inputs is the same with them. names: as for
    `replace_linear`. ValueError for a layer that was not called.

    >>> model = nn.Sequential(nn.Linear(2, 3))
    >>> x = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    >>> found = layer_inputs(model, "0", lambda: model(x))["0"]
    >>> torch.allclose(found.mT @ found / 2, (x.mT @ x / 2).double())
    True
    """
    sums, chosen = {}, choose("layer_inputs", model, names, LINEAR)
    hooks = [m.register_forward_pre_hook(_summing(sums, name)) for name, m in chosen.items()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    if missed := [name for name in chosen if name not in sums]:
        raise ValueError(f"layer_inputs: needs a run that calls layer {missed[0]!r}, got none")
    return {
        name: psd_root(total / rows * len(total), tol=ROUNDING).mT
        for name, (total, rows) in sums.items()
    }


def _summing(sums, name):
    def hook(layer, args):
        x = widen(args[0].flatten(0, -2))
        total, rows = sums.get(name, (0.0, 0))
        sums[name] = total + x.mT @ x.conj(), rows + len(x)

    return hook
