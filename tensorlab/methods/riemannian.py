"""Stochastic Riemannian steps: low-rank and TT weights of several layers move on their manifolds
[Bonnabel2013] [Novikov2022].

    g = P_x ∂loss/∂w        the gradient projected onto the tangent space at x, from one pass
    m <- β T(m) + g         momentum, transported to x by projection
    x <- round(x - h m)     back to the manifold, at the same ranks

A step changes w as a dense gradient step does, up to the projection: the learning rate is a dense
weight's, whatever the factors. Gradient steps on the factors themselves change w by G V Vᴴ + U Uᴴ G
instead, which grows and shrinks with them.

A `LowRank` is a train of two cores, a `TTMatrix` a train with modes out_k in_k: both are
`formats.tt_manifold`'s.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..arguments import fraction, positive
from ..formats.lowrank import LowRank
from ..formats.tt import TT
from ..formats.tt_manifold import Tangent, retract, transport, tt_project
from ..formats.ttmatrix import TTMatrix
from ..layers.holding import meanwhile
from ..layers.linear import FactorizedLinear
from .training import (
    Idle,
    Processes,
    TrainingMethod,
    backward,
    check_finite,
    check_reached,
    check_whole,
    evaluate,
    rank_of,
    unfrozen,
)


class RiemannianSGD(TrainingMethod):
    """Stochastic gradient descent with momentum on the manifolds of the model's `LowRank` and
    `TTMatrix` layers.

    All other parameters are stepped by `optimizer`, any of torch's; what it holds of the factors is
    left alone. lr: as for a dense weight, the attribute that the caller's schedule changes.
    momentum: β in 0 <= β < 1. Under DistributedDataParallel the gradients of all processes are
    averaged here; a model that `fully_shard` has sharded is refused.

    >>> from tensorlab import LowRank, replace_linear
    >>> model = replace_linear(nn.Sequential(nn.Linear(9, 8)), "0", LowRank.from_dense, rank=3)
    >>> method = RiemannianSGD(model, torch.optim.SGD([model[0].bias], 0.1), lr=0.1)
    >>> losses = [float(method.step(lambda: model(torch.eye(9)).square().sum())) for _ in range(4)]
    >>> losses == sorted(losses, reverse=True), model[0].weight.ranks
    (True, (3,))
    """

    def __init__(self, model: nn.Module, optimizer, *, lr: float, momentum: float = 0.9):
        positive("RiemannianSGD", "lr", lr)
        fraction("RiemannianSGD", "momentum", momentum, zero=True)
        every = {name: m for name, m in model.named_modules() if isinstance(m, FactorizedLinear)}
        self.layers = {
            n: m
            for n, m in every.items()
            if isinstance(m.weight, (LowRank, TTMatrix)) and any(t.requires_grad for t in m.tensors)
        }
        if not self.layers:
            raise ValueError(
                f"RiemannianSGD: needs a model with a LowRank or TTMatrix layer to train, got "
                f"{type(model).__name__}"
            )
        if len({id(m.tensors[0]) for m in self.layers.values()}) < len(self.layers):
            shared = ", ".join(self.layers)
            raise ValueError(
                f"RiemannianSGD: needs layers that share no weight, got some shared among {shared}"
            )
        self.model, self.optimizer, self.lr, self.momentum = model, optimizer, lr, momentum
        self.steps, self.velocity = 0, {}
        self._processes, self._idle = Processes(), Idle("RiemannianSGD")
        self._trained()

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """One step of every layer and of the optimizer, from one evaluation; returns the loss
        before it.

        closure: computes and returns the loss of the batch, no backward. Raises ValueError if it
        has no gradient or depends on no layer to train, FloatingPointError if training diverges.
        """
        self.steps += 1
        held = {id(t) for m in self.layers.values() for t in m.tensors}
        rest = [
            p
            for group in self.optimizer.param_groups
            for p in group["params"]
            if id(p) not in held and p.requires_grad
        ]
        with self._processes.unreduced(self.layers.values()):
            loss, gradients, others = self._gradients(closure, rest)
        self.optimizer.zero_grad(set_to_none=True)
        for p, g in zip(rest, others):
            p.grad = g
        self.optimizer.step()
        for name, (x, g) in gradients.items():
            old = self.velocity.get(name)
            v = g if old is None else self.momentum * transport(x, old) + g
            check_finite("RiemannianSGD", name, self.steps, *(self.lr * d for d in v.deltas))
            x = retract(v, -self.lr)
            check_finite("RiemannianSGD", name, self.steps, *x.cores)
            if self.momentum:
                self.velocity[name] = v
            self.layers[name].set_weight(_like(self.layers[name].weight, x))
        return loss

    def _trained(self) -> dict[str, FactorizedLinear]:
        """The layers that are not frozen."""
        check_whole("RiemannianSGD", self.model, self.optimizer)
        tensors = {name: list(layer.tensors) for name, layer in self.layers.items()}
        return {name: self.layers[name] for name in unfrozen("RiemannianSGD", tensors)}

    def _gradients(self, closure, rest):
        """The loss, the point and Riemannian gradient of each layer, and the gradients of the rest,
        from one pass.

        At x = U_0 ... U_{d-2} D_{d-1} written as the tangent train of ranks 2r with D = (0, ..., 0,
        last), the derivative along each D_k is in a block of core k's gradient.
        """
        layers = self._trained()
        before = {
            name: m.weight.with_tensors(t.detach() for t in m.tensors) for name, m in layers.items()
        }
        points = {name: w.to_tt() for name, w in before.items()}
        here = {name: tt_project(x, x) for name, x in points.items()}
        with meanwhile(layers, {n: _like(w, here[n].to_tt()) for n, w in before.items()}):
            loss = evaluate("RiemannianSGD.step", closure)
            leaves = {name: list(m.tensors) for name, m in layers.items()}
            every = [t for ts in leaves.values() for t in ts] + rest
            found = self._processes.mean(backward(loss, every), every)
        gradients, start = {}, 0
        for name, ts in leaves.items():
            part, start = found[start : start + len(ts)], start + len(ts)
            if part[0] is not None:  # a layer that the loss does not reach is not moved
                gradients[name] = points[name], _riemannian(here[name], _cores(before[name], part))
        check_reached("RiemannianSGD.step", layers, gradients)
        self._idle.note(layers, gradients)
        return loss.detach(), gradients, found[start:]

    @property
    def ranks(self) -> dict[str, int | tuple[int, ...]]:
        """The rank of each layer, by name; those of a train are several."""
        return {name: rank_of(layer.weight) for name, layer in self.layers.items()}

    def state_dict(self) -> dict:
        """What a checkpoint needs besides the model's: the optimizer's state, the steps, the
        learning rate, and the momentum at the point where it was computed."""
        copied = lambda value: [t.clone() for t in value] if isinstance(value, tuple) else value
        momentum = {
            name: {part: copied(value) for part, value in vars(v).items()}
            for name, v in self.velocity.items()
        }
        return super().state_dict() | {"lr": self.lr, "velocity": momentum}

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken; the model's own state is loaded first."""
        super().load_state_dict(state)
        self.lr = state["lr"]
        held = lambda value: tuple(value) if isinstance(value, list) else value
        self.velocity = {
            name: Tangent(**{part: held(value) for part, value in parts.items()})
            for name, parts in state["velocity"].items()
        }


def _like(w, x: TT):
    """The train x as a weight of the kind of w, with as many tensors."""
    if isinstance(w, TTMatrix):
        return TTMatrix(
            tuple(c.unflatten(1, (m, n)) for c, m, n in zip(x.cores, w.out, w.in_)),
            w.unpadded_shape,
        )
    u, v = x.cores[0][0], x.cores[1][:, :, 0].mH
    s = None if w.s is None else torch.eye(u.shape[1], dtype=u.dtype, device=u.device)
    return LowRank(u, v, s)


def _cores(w, gradients) -> list[Tensor]:
    """Gradients of a weight's tensors as those of the train's cores."""
    if isinstance(w, TTMatrix):
        return [g.flatten(1, 2) for g in gradients]
    return [gradients[0][None], gradients[1].mH[:, :, None]]


def _riemannian(here: Tangent, gradients) -> Tangent:
    """The gauged derivative along the D_k: the blocks of [D_0 U_0], [[V_k 0], [D_k U_k]], [V_{d-1};
    D_{d-1}] that hold them."""
    deltas = []
    for k, (g, d) in enumerate(zip(gradients, here.deltas)):
        g = g[len(g) - len(d) :, :, : d.shape[2]]
        if k < len(here.left):
            basis = here.left[k].flatten(0, 1)
            g = (g.flatten(0, 1) - basis @ (basis.mH @ g.flatten(0, 1))).reshape(d.shape)
        deltas.append(g)
    return replace(here, deltas=tuple(deltas))
