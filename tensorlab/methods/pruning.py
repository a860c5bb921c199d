"""Pruning: the smallest weights are set to zero, one by one or block by block, and lottery tickets
are drawn [FrankleCarbin2019].

    mask = |w| > t      t such that a share s of the weights falls
    w <- mask * w       and stays so while training goes on

A ticket is the mask that a trained network leaves, on the weights it started from. It is found by
training again and again, so what it costs is counted: the FLOPs of 3 forward passes for each
example (one forward, two backward), of kept weights and of all.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..arguments import check_matrix_shape, count, fraction, one_of
from ..layers.dense import current, dense_weight, is_conv1d, write_weights
from ..layers.report import layer_flops
from ..layers.select import WEIGHTS, choose, settable
from .training import check_trained, weights_of


def magnitude_masks(
    model: nn.Module, names, sparsity: float, *, across: str = "model", masks: dict | None = None
) -> dict[str, Tensor]:
    """Which weights stay when the share `sparsity` of smallest magnitude falls [Han2015]: {layer
    name: mask of the weight's shape}.

    model: whose linear layers, Conv1D of GPT-2 among them, and convolutions can be chosen.
    names: patterns of `fnmatch`, or a predicate (name, layer) -> bool.
    sparsity: the share that falls.
    across: "model" has one threshold for all layers, "layer" one for each.
    masks: what has fallen before stays fallen, and counts; None: nothing has.

    Ties at the threshold fall in the order of the entries of w (out, in), so the count is exact:
    round(sparsity n), a weight that two layers share counted once. Raises ValueError for a bad
    share, name or `across`.

    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False))
    >>> model[0].weight.data = torch.tensor([[1.0, -4.0], [0.5, 2.0]])
    >>> magnitude_masks(model, "*", 0.5)["0"]
    tensor([[False,  True],
            [False,  True]])
    """
    return _masks("magnitude_masks", model, names, sparsity, (1, 1), across, masks)


def block_masks(
    model: nn.Module,
    names,
    sparsity: float,
    block: tuple[int, int],
    *,
    across: str = "model",
    masks: dict | None = None,
) -> dict[str, Tensor]:
    """The same for blocks (rows, columns) of the weight, a kernel flattened to (T, S kh kw), by
    their mean square [Lagunas2021].

    model, names, sparsity, across, masks: as in `magnitude_masks`.
    block: (rows, columns); blocks at the edge may be smaller.

    A zero block is never multiplied with, on any machine; a zero entry usually is.

    >>> model = nn.Sequential(nn.Linear(4, 2, bias=False))
    >>> model[0].weight.data = torch.tensor([[1.0, 1.0, 3.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    >>> block_masks(model, "*", 0.5, (2, 2))["0"].int()
    tensor([[0, 0, 1, 1],
            [0, 0, 1, 1]], dtype=torch.int32)
    """
    return _masks("block_masks", model, names, sparsity, block, across, masks)


def prune(model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    """w <- mask * w for each layer that `masks` names; changes the model and returns it.

    A weight under `weight_norm`, or under a mask of torch.nn.utils.prune, is pruned through its
    parameters. Raises ValueError, before anything is changed, for no mask at all, for one that does
    not fit and for a computed weight that cannot be set, such as one under `spectral_norm`.

    >>> model = nn.Sequential(nn.Linear(2, 1, bias=False))
    >>> prune(model, {"0": torch.tensor([[True, False]])})[0].weight[0, 1].item()
    0.0
    """
    _check_some("prune", masks)
    layers = {name: _layer(model, name, mask) for name, mask in masks.items()}
    values = {}
    for name, layer in layers.items():
        w, mask = dense_weight(layer).detach(), _oriented(layer, masks[name])
        values[name] = w.masked_fill(~mask.to(w.device), 0)  # also where the weight is not finite
    write_weights("prune", layers, values)
    return model


def _layer(model, name, mask) -> nn.Module:
    """The layer that a mask is for. Raises ValueError where it is for none."""
    layer = dict(model.named_modules(remove_duplicate=False)).get(name)
    if layer is None or not WEIGHTS.takes(layer):
        raise ValueError(f"prune: needs masks of linear or convolution layers, got one of {name!r}")
    shape = current(layer).shape
    if mask.dtype != torch.bool or mask.shape != shape:
        got = tuple(mask.shape) if mask.dtype == torch.bool else mask.dtype
        raise ValueError(
            f"prune: needs a boolean mask of shape {tuple(shape)} for layer {name!r}, got {got}"
        )
    return layer


def _oriented(layer, mask) -> Tensor:
    """A mask of a layer's stored weight as one of w (out, in), and back."""
    return mask.mT if is_conv1d(layer) else mask


def hold(optimizer: torch.optim.Optimizer, model: nn.Module, masks: dict[str, Tensor]):
    """Prune now and after each step of the optimizer, whatever its momentum wants; returns the
    handle, whose `remove()` ends it.

    Raises ValueError for an optimizer that does not hold a masked weight which is trained.

    >>> model = nn.Sequential(nn.Linear(3, 2))
    >>> optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    >>> handle = hold(optimizer, model, magnitude_masks(model, "*", 0.5))
    >>> model(torch.ones(3)).sum().backward()
    >>> optimizer.step()
    >>> int((model[0].weight == 0).sum())
    3
    """
    weights = weights_of({name: _layer(model, name, mask) for name, mask in masks.items()})
    check_trained("hold", optimizer, {n: w for n, w in weights.items() if w.requires_grad})
    prune(model, masks)
    return optimizer.register_step_post_hook(lambda *_: prune(model, masks) and None)


def sparsity(masks: dict[str, Tensor]) -> float:
    """The share of weights that have fallen.

    >>> sparsity({"0": torch.tensor([True, False]), "1": torch.tensor([False, False])})
    0.75
    """
    _check_some("sparsity", masks)
    return 1 - sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())


def _check_some(who, masks):
    if not masks:
        raise ValueError(f"{who}: needs a mask for at least one layer, got none")


def forward_flops(model: nn.Module, x: Tensor, masks: dict[str, Tensor] | None = None) -> int:
    """FLOPs of one example through the linear and convolution layers, two for each weight that is
    kept and place it is used at: those of `layer_flops`.

    x: one batch of inputs, run once. masks: weights that have fallen cost nothing; None: all
    weights count. Raises ValueError for an empty batch.

    >>> forward_flops(nn.Sequential(nn.Linear(3, 2)), torch.ones(5, 3))
    12
    """
    if not len(x):
        raise ValueError("forward_flops: needs a batch of at least one example, got none")
    return sum(layer_flops(model, x, masks).values()) // len(x)


@dataclass(frozen=True)
class Ticket:
    """A round of `lottery`: the network of these masks, trained from where the first started.

    round: from 0, the dense network. masks: what was kept while it trained. examples: how many it
    saw. flops, dense_flops: of its training, with the kept weights and with all; what a ticket
    costs is the sum over its round and those before.
    """

    round: int
    masks: dict[str, Tensor]
    examples: int
    flops: int
    dense_flops: int

    @property
    def sparsity(self) -> float:
        return sparsity(self.masks)


def lottery(
    model: nn.Module,
    train: Callable[[nn.Module, dict[str, Tensor]], int],
    names,
    x: Tensor,
    *,
    rounds: int,
    prune_rate: float = 0.2,
    block: tuple[int, int] | None = None,
    across: str = "model",
    restart: Callable[[nn.Module], object] | None = None,
) -> Iterator[Ticket]:
    """Iterative magnitude pruning with rewinding: train, prune, go back to the start, again
    [FrankleCarbin2019].

        w <- m * w_0
        train
        m <- m without the share `prune_rate` of what is left, the smallest

    A generator: after round k, of 0 to `rounds`, the model holds the trained network of sparsity 1
    - (1 - prune_rate)^k, and a `Ticket` says what it cost.

    model: it starts at w_0.
    train: (model, masks) -> number of examples seen; it makes its optimizer and calls `hold`.
    names: patterns of `fnmatch`, or a predicate (name, layer) -> bool.
    x: a batch, to count FLOPs with.
    rounds: how often it prunes.
    prune_rate: the share of what is left that falls in a round.
    block: (rows, columns) of blocks that fall whole; None: single entries fall.
    across: as in `magnitude_masks`.
    restart: model -> anything, draws other weights than w_0 in place: the control for a ticket;
        None: back to w_0.

    >>> model, x = nn.Sequential(nn.Linear(5, 4)), torch.ones(3, 5)
    >>> tickets = lottery(model, lambda model, masks: 3, "*", x, rounds=2, prune_rate=0.5)
    >>> [round(t.sparsity, 2) for t in tickets]
    [0.0, 0.5, 0.75]
    """
    fraction("lottery", "prune_rate", prune_rate)
    rounds = count("lottery", "rounds", rounds)
    start = {name: t.clone() for name, t in model.state_dict().items()}
    masks = _masks("lottery", model, names, 0.0, block or (1, 1), across, None)
    for k in range(rounds + 1):
        model.load_state_dict(start)
        if restart is not None and k:
            restart(model)
        prune(model, masks)
        examples = train(model, masks)
        for name, mask in masks.items():
            if current(model.get_submodule(name)).detach()[~mask].any():
                raise ValueError(
                    f"lottery: train needs to hold the masks of layer {name!r}, got weights that "
                    f"came back"
                )
        flops, dense = (3 * examples * forward_flops(model, x, m) for m in (masks, None))
        yield Ticket(k, masks, examples, flops, dense)
        if k < rounds:
            masks = _masks(
                "lottery",
                model,
                names,
                1 - (1 - prune_rate) ** (k + 1),
                block or (1, 1),
                across,
                masks,
            )


def _masks(who, model, names, sparsity, block, across, before):
    fraction(who, "sparsity", sparsity, zero=True)
    one_of(who, "across", across, ("model", "layer"))
    block = check_matrix_shape(f"{who}: block", block)
    layers = settable(who, choose(who, model, names, WEIGHTS))
    weights = {name: dense_weight(layer).detach() for name, layer in layers.items()}
    before = {name: _earlier(who, layers, name, mask) for name, mask in (before or {}).items()}
    scores = {name: _scores(w, block, before.get(name)) for name, w in weights.items()}
    groups = [list(scores)] if across == "model" else [[name] for name in scores]
    kept = {}
    for group in groups:
        every = torch.cat([scores[name].flatten() for name in group])
        stays = torch.ones_like(every, dtype=torch.bool)
        stays[every.argsort(stable=True)[: round(sparsity * len(every))]] = False
        kept |= zip(group, stays.split([scores[name].numel() for name in group]))
    spread = {n: _spread(kept[n].view_as(scores[n]), w, block) for n, w in weights.items()}
    return {name: _oriented(layers[name], mask) for name, mask in spread.items()}


def _earlier(who, layers, name, mask) -> Tensor:
    """An earlier mask of a layer as one of w (out, in). Raises ValueError where it does not fit."""
    if name not in layers or mask.shape != current(layers[name]).shape:
        raise ValueError(
            f"{who}: needs earlier masks of the layers {', '.join(layers)} in their shapes, got "
            f"one of {name!r}"
        )
    return _oriented(layers[name], mask)


def _scores(w, block, mask):
    """The mean square of each block, -1 where it has fallen before: (rows of blocks, columns of
    blocks)."""
    (m, n), (p, q) = w.flatten(1).shape, block
    pad = (0, -n % q, 0, -m % p)
    tiles = lambda t: (
        nn.functional.pad(t, pad).unflatten(1, (-1, q)).unflatten(0, (-1, p)).sum((1, 3))
    )
    square = w.flatten(1).abs().double().square()
    scores = tiles(square) / tiles(torch.ones_like(square))
    return (
        scores if mask is None else torch.where(tiles(mask.flatten(1).double()) > 0, scores, -1.0)
    )


def _spread(stays, w, block):
    m, n = w.flatten(1).shape
    return (
        stays.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[:m, :n].reshape(w.shape)
    )
