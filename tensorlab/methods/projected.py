"""What low-rank training is compared with: factors trained as they are, projection after each step,
a penalty on the rank.

    FactorSGD   W = U Vᴴ, steps on the factors, at once or in turn               [Schotthoefer2022]
    Projected   W dense; after a step  W <- argmin_{rank X <= r} |X - W|                 [Yang2020]
                or, with a penalty c,  W <- argmin_X ½ |X - W|² + c rank X  [IdelbayevCarreira2020]

To train, cut by an SVD and train on is `replace_linear(model, names, LowRank.from_dense, rank)`
between two trainings.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..arguments import count
from ..formats.lowrank import LowRank
from ..layers.dense import dense_weight, parameters_of, write_weights
from ..layers.linear import FactorizedLinear
from ..layers.select import WEIGHTS, choose, settable
from ..linalg import choose_rank, truncated_svd
from .training import (
    Idle,
    Processes,
    TrainingMethod,
    backward,
    check_finite,
    check_reached,
    check_trained,
    evaluate,
    gets_gradient,
    group_of,
    rank_of,
    weights_of,
)


def prox_rank(w: Tensor, penalty: float) -> tuple[Tensor, int]:
    """argmin_X ½ |X - W|² + penalty · rank X, and its rank: singular values with σ² / 2 > penalty
    are worth keeping.

    w: (out, in).  At least one value stays, as `choose_rank` never gives 0.

    >>> prox_rank(torch.diag(torch.tensor([3.0, 1.0])), penalty=2.0)
    (tensor([[3., 0.],
            [0., 0.]]), 1)
    """
    u, s, vh = truncated_svd(w, rtol=0.0)
    r = choose_rank(s, max(1, int((s > (2 * penalty) ** 0.5).sum())))
    return (u[:, :r] * s[:r]) @ vh[:r], r


class Projected(TrainingMethod):
    """Trains dense weights and keeps them of low rank by an SVD of each, every step or every few
    [Yang2020].

    model: whose linear layers, Conv1D of GPT-2 among them, and convolutions can be chosen.
    optimizer: steps the dense weights.
    names: patterns of `fnmatch`, or a predicate (name, layer) -> bool.
    rank: of each weight. One of rank, rtol and penalty is given.
    rtol: the relative error of a projection.
    penalty: what one rank costs in the loss [IdelbayevCarreira2020], taken as a proximal step of
        length lr.
    every: project at each k-th step.

    It holds the full weight and its full gradient: numbers are saved only after the training. A
    layer that the optimizer does not train is not projected, and a warning names it. Raises
    ValueError for a pattern that chooses nothing and for a computed weight that cannot take every
    value.

    >>> model = nn.Sequential(nn.Linear(6, 5))
    >>> method = Projected(model, torch.optim.SGD(model.parameters(), 0.1), "*", rank=2)
    >>> loss = method.step(lambda: model(torch.eye(6)).square().sum())
    >>> method.ranks, int(torch.linalg.matrix_rank(model[0].weight))
    ({'0': 2}, 2)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer,
        names,
        *,
        rank: int | None = None,
        rtol: float | None = None,
        penalty: float | None = None,
        every: int = 1,
    ):
        if sum(k is not None for k in (rank, rtol, penalty)) != 1:
            raise ValueError(
                f"Projected: needs one of rank, rtol and penalty, got rank={rank}, rtol={rtol}, "
                f"penalty={penalty}"
            )
        self.optimizer, self.every = optimizer, count("Projected", "every", every)
        self.layers = settable("Projected", choose("Projected", model, names, WEIGHTS), optimizer)
        self.rank, self.rtol, self.penalty = rank, rtol, penalty
        self.steps, self._ranks, self._idle = 0, {}, Idle("Projected")

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """A step of the optimizer, then the projection of each weight, a kernel flattened to (T, S
        kh kw); returns the loss.

        Raises ValueError if the loss has no gradient, or depends on no weight to project, and
        FloatingPointError if the training diverges.
        """
        check_trained("Projected", self.optimizer, weights_of(self.layers))
        self.optimizer.zero_grad(set_to_none=True)
        loss = evaluate("Projected.step", closure)
        loss.backward()
        reached = {name for name, layer in self.layers.items() if gets_gradient(layer)}
        check_reached("Projected.step", self.layers, reached)
        self._idle.note(self.layers, reached)
        self.optimizer.step()
        self.steps += 1
        if self.steps % self.every == 0:
            self._project()
        return loss.detach()

    @property
    def ranks(self) -> dict[str, int]:
        """The rank of each weight at the last projection, by name."""
        return dict(self._ranks)

    def state_dict(self) -> dict:
        """What a checkpoint needs besides the model's: the optimizer's state, the steps and the
        ranks."""
        return super().state_dict() | {"ranks": self.ranks}

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken; the model's own state is loaded first."""
        super().load_state_dict(state)
        self._ranks = dict(state["ranks"])

    @torch.no_grad()
    def _project(self) -> None:
        low = {}
        for name, layer in self.layers.items():
            w = dense_weight(layer)
            check_finite("Projected", name, self.steps, w)
            if self.penalty is None:
                u, s, vh = truncated_svd(w.flatten(1), self.rank, rtol=self.rtol)
                near, self._ranks[name] = (u * s) @ vh, len(s)
            else:
                length = group_of(self.optimizer, parameters_of(layer)[0])["lr"] * self.every
                near, self._ranks[name] = prox_rank(w.flatten(1), self.penalty * length)
            low[name] = near.view_as(w)
        write_weights("Projected", self.layers, low)


def balanced(w: LowRank) -> LowRank:
    """U √S and V √S of w = U S Vᴴ with a diagonal S: the same matrix as two factors of one size,
    the start of plain factors.

    >>> w = balanced(LowRank(torch.eye(3, 2), torch.eye(2), torch.diag(torch.tensor([4.0, 1.0]))))
    >>> w.u.diagonal(), w.v.diagonal()
    (tensor([2., 1.]), tensor([2., 1.]))
    """
    root = w.s.detach().sqrt()
    return LowRank(w.u.detach() @ root, w.v.detach() @ root)


class FactorSGD(TrainingMethod):
    """Plain gradient steps: on all parameters at once, or first on the left factors, then on the
    right ones.

    model: with layers on a `LowRank` of two factors, or on none. alternate: two evaluations a step:
    in the first all of u and all else move, in the second all of v. Its effective step in W = U Vᴴ
    is G V Vᴴ + U Uᴴ G: it grows and shrinks with the factors. A step raises FloatingPointError
    where the loss or a gradient is not finite, before anything of its turn has moved.

    >>> from tensorlab import LowRank
    >>> model = FactorizedLinear(LowRank.randn((5, 4), 2))
    >>> method = FactorSGD(model, torch.optim.SGD(model.parameters(), 0.001), alternate=True)
    >>> loss = method.step(lambda: model(torch.eye(4)).square().sum())
    >>> bool(model(torch.eye(4)).square().sum() < loss)
    True
    """

    def __init__(self, model: nn.Module, optimizer, *, alternate: bool = False):
        self.layers = {
            name: m for name, m in model.named_modules() if isinstance(m, FactorizedLinear)
        }
        layers = list(self.layers.values())
        many = [len(m.tensors) for m in layers if len(m.tensors) != 2]
        if alternate and (many or not layers):
            raise ValueError(
                f"FactorSGD: needs layers of two factors to alternate, got "
                f"{many[0] if many else 'no factors'}"
            )
        self.optimizer, self.steps, self._processes = optimizer, 0, Processes()
        self._called = [m for m in model.modules() if m._parameters]
        every = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        right = {id(m.tensors[1]) for m in layers}
        self._names = _layer_names(model)
        self.turns = (
            [[p for p in every if id(p) not in right], [p for p in every if id(p) in right]]
            if alternate
            else [every]
        )
        if not all(self.turns):
            raise ValueError(
                "FactorSGD: needs an optimizer with parameters to train in each turn, got one "
                "without"
            )

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """One step of the optimizer on all parameters, or one on each half; returns the loss before
        it."""
        losses = []
        for part in self.turns:
            self.optimizer.zero_grad(set_to_none=True)
            with self._processes.unreduced(self._called):
                loss = evaluate("FactorSGD.step", closure)
                mine = [*backward(loss, part), loss.detach()]
                *found, loss = self._processes.mean(mine, [*part, loss])
            losses.append(loss)
            if all(g is None for g in found):
                raise ValueError(
                    "FactorSGD.step: closure needs to return a loss that depends on the parameters "
                    "of each turn, got none of them in it"
                )
            self._check_finite(loss, part, found)
            self.optimizer.zero_grad(set_to_none=True)
            for p, g in zip(part, found):
                p.grad = g
            self.optimizer.step()
        self.steps += 1
        return losses[0]

    def _check_finite(self, loss, part, found) -> None:
        for p, g in zip(part, found):
            if g is not None:
                check_finite("FactorSGD", self._names.get(id(p), "?"), self.steps, g)
        if not loss.isfinite():
            got = f"{float(loss)} at step {self.steps}"
            raise FloatingPointError(f"FactorSGD: needs a finite loss, got {got}")

    @property
    def ranks(self) -> dict[str, int | tuple[int, ...]]:
        """The rank of each layer that holds a format, by name; it never changes."""
        return {name: rank_of(layer.weight) for name, layer in self.layers.items()}


def _layer_names(model: nn.Module) -> dict[int, str]:
    """The name of the layer that each parameter belongs to, by the parameter's id."""
    names: dict[int, str] = {}
    for name, module in model.named_modules():
        own = module.tensors if isinstance(module, FactorizedLinear) else ()
        for p in (*own, *module.parameters(recurse=False)):
            names.setdefault(id(p), name)
    return names
