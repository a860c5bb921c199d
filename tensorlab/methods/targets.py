"""Low rank layer by layer, each one fitted to what the full model does there: its targets hold the
errors of the layers before it, and those of the residual stream [Wang2025].

    x: inputs in the model that is compressed so far,    y = w x_full + b  (+ stream_full - stream)
    w* = (mean y xᵀ + ρ w)(mean x xᵀ + ρ 1)⁻¹    about the means,    ŵ = the weighted SVD of w*

stream: what the model adds to the output of the layer, where it does so, as after an attention. It
is found by watching additions, so the model needs no names for it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..formats.base import MatrixFormat
from ..formats.lowrank import LowRank
from ..layers.dense import current, dense_weight, in_eval
from ..layers.linear import FactorizedLinear
from ..layers.select import LINEAR
from ..layers.surgery import replace
from ..linalg import widen
from .weighted import Squares, Statistics, metrics, moment_root, plain_forward, weighted_basis

RIDGE = 0.02  # ρ, as a share of the mean of the inputs' second moments


@dataclass
class _Moments:
    """Sums over tokens of x, y, x xᵀ and y xᵀ."""

    rows: int
    x: Tensor
    y: Tensor
    xx: Tensor
    yx: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> "_Moments":
        x, y = widen(x), widen(y)
        return cls(len(x), x.sum(0), y.sum(0), x.mT @ x, y.mT @ x)

    def __add__(self, other: "_Moments") -> "_Moments":
        names = ("rows", "x", "y", "xx", "yx")
        return _Moments(*(getattr(self, n) + getattr(other, n) for n in names))


@dataclass
class _Call:
    """Input and output of a layer, copied before anything is written to them, and what is added."""

    x: Tensor
    y: Tensor
    held: tuple[Tensor, Tensor]
    stream: Tensor | None = None


@torch.no_grad()
def sequential_layers(
    model: nn.Module,
    reference: nn.Module,
    statistics: dict[str, Statistics],
    ranks: dict[str, int | None],
    batches: Callable[[], Iterable],
    *,
    method: str = "kfac",
    forward: Callable | None = None,
    mask: Callable | None = None,
    ridge: float = RIDGE,
    make: Callable[[LowRank], MatrixFormat] | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> nn.Module:
    """Cut the layers of a model in the order in which it calls them, each with targets of the full
    model; changes the model and returns it.

    model: it runs in eval; its layers are cut.
    reference: the full model, a copy.
    statistics: of `calibrate`, by the names of the layers.
    ranks: by the names of the layers; None leaves a layer dense.
    batches: () -> the calibration data, a new pass each time; both models run once over them for
        each group of layers with one input.
    method: one of METHODS, for the weight of the outputs; inputs are weighed by their moment.
    forward, mask: as in `calibrate`.
    ridge: added to the moment of the inputs, in units of the mean of its diagonal.
    make: another format of the same matrix, such as `PivotedLowRank.from_lowrank`; None: LowRank.
    progress: called with the name of each layer that is done.

    Raises ValueError for a layer without statistics.

    >>> import copy
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    >>> data, student = [torch.randn(40, 3)], copy.deepcopy(model)
    >>> from tensorlab.methods.weighted import calibrate
    >>> found = calibrate(model, data)
    >>> options = dict(ranks={"0": 2, "2": 1}, batches=lambda: data, method="whitened")
    >>> sequential_layers(model, student, found, **options)[2].weight.ranks
    (1,)
    """
    who, run = "sequential_layers", forward or plain_forward
    if lost := ranks.keys() - statistics.keys():
        raise ValueError(f"{who}: needs statistics of each layer, got none of {min(lost)!r}")
    with in_eval(model), in_eval(reference):
        for group in _order(reference, [n for n in statistics if n in ranks], batches, run):
            group = [name for name in group if ranks[name] is not None]
            found: dict[str, _Moments] = {}
            for batch in batches() if group else ():
                seen = None if mask is None else mask(batch)
                full = _watch(reference, group, lambda m, b=batch: run(m, b))
                mine = _watch(model, group, lambda m, b=batch: run(m, b))
                for name in group:
                    part = _moments(full[name], mine[name], seen)
                    found[name] = found[name] + part if name in found else part
            for name in group:
                low, bias = _fit(
                    model, name, found[name], statistics[name], ranks[name], method, ridge
                )
                _put(who, model, name, low if make is None else make(low), bias)
                progress(name)
    return model


def _moments(full: _Call, mine: _Call, seen: Tensor | None) -> _Moments:
    """Of the inputs in the compressed model and the targets, of one batch."""
    x, y = mine.x, full.y
    if mine.stream is not None and full.stream is not None:
        y = y + (full.stream - mine.stream)
    if seen is not None and seen.shape == x.shape[:-1]:
        return _Moments.of(x[seen], y[seen])
    return _Moments.of(x.flatten(0, -2), y.flatten(0, -2))


def _fit(model, name, sums: _Moments, statistics, rank, method, ridge) -> tuple[LowRank, Tensor]:
    """The layer of a rank nearest to the targets, and its bias, which takes the mean error."""
    layer = model.get_submodule(name)
    w = dense_weight(layer).detach()
    x, y = sums.x / sums.rows, sums.y / sums.rows
    xx = sums.xx / sums.rows - torch.outer(x, x)
    yx = sums.yx / sums.rows - torch.outer(y, x)
    rho = ridge * max(float(xx.diagonal().mean()), torch.finfo(xx.dtype).tiny)
    xx = xx + rho * torch.eye(len(xx), dtype=xx.dtype, device=xx.device)
    best = torch.linalg.solve(xx, (yx + rho * widen(w)).mT).mT
    left = metrics(statistics, method)[0]
    low = weighted_basis(best, left=left, right=moment_root(Squares(xx, 0))).cut(rank)
    bias = y - low.apply(x)
    return low.to(w.dtype), bias.to(w.dtype)


def _put(who, model, name, weight, bias):
    def build(_, layer):
        new = FactorizedLinear(weight, bias)
        held = current(layer, "bias")
        if held is not None:  # the parameter stays the one that others hold
            held.copy_(bias)
        return new

    replace(who, model, [name], build, LINEAR)


# ----------------------------------------------------------------------- what a forward calls, adds


class _Stop(Exception):
    """All that a pass is for has been seen."""


class _Adding(TorchFunctionMode):
    """Notes, for outputs of layers, the other term of the first sum that they enter."""

    def __init__(self, calls: dict[str, _Call], count: int):
        super().__init__()
        self.calls, self.count = calls, count

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in _SUMS and len(args) > 1:
            self._note(args[0], args[1])
            self._note(args[1], args[0])
            streams = [call.stream is not None for call in self.calls.values()]
            if len(streams) == self.count and all(streams):
                raise _Stop
        return function(*args, **(kwargs or {}))

    def _note(self, a, b):
        for call in self.calls.values():
            fits = isinstance(b, Tensor) and _same(a, call.held[1]) and b.shape == a.shape
            if fits and call.stream is None:
                call.stream = b.clone()


_SUMS = {"add", "add_", "__add__", "__radd__", "__iadd__"}


def _same(a, b) -> bool:
    """Whether two tensors are one, or views of all of it, as dropout in eval makes them."""
    return isinstance(a, Tensor) and a.shape == b.shape and a.data_ptr() == b.data_ptr()


def _watch(model, names, run) -> dict[str, _Call]:
    """The first call of each layer; what comes after the last sum is not run."""
    calls: dict[str, _Call] = {}
    hooks = [
        model.get_submodule(n).register_forward_hook(_noting(calls, n), with_kwargs=True)
        for n in names
    ]
    try:
        with _Adding(calls, len(names)):
            run(model)
    except _Stop:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _noting(calls, name):
    def hook(layer, args, kwargs, y):
        x = args[0] if args else kwargs["input"]
        calls.setdefault(name, _Call(x.clone(), y.clone(), (x, y)))

    return hook


def _order(model, names, batches, run) -> list[list[str]]:
    """The layers in the order of their calls, those with one input together."""
    calls = _watch(model, names, lambda m: run(m, next(iter(batches()))))
    groups: list[list[str]] = []
    for name, call in calls.items():
        if groups and _same(calls[groups[-1][0]].held[0], call.held[0]):
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups
