"""ADMM: train a dense network toward a set of few parameters, and land in it without a fall
[Boyd2011] [Yin2021].

    min loss(W)  such that W in S
    S: matrices of a rank, TT-matrices or Tucker tensors of given ranks, ...

    W  <-  steps of an optimizer on  loss(W) + ρ/2 |W - Z + U|²          many of them, not one
    Z  <-  Π_S(W + U)                                                    an SVD, a TT-SVD, an HOSVD
    U  <-  U + W - Z                                                     the scaled dual variable

Primal residual |W - Z| / |W|: what would be lost by projecting now. Dual residual ρ |Z - Z_old| /
|W|: whether Z still moves. The sets are not convex and Π_S of a train is only quasi-optimal, so
neither needs to fall at each round: they are recorded.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..arguments import count, positive
from ..formats.base import Format
from ..layers.dense import dense_weight, write_weights
from ..layers.select import WEIGHTS, choose, settable
from .training import (
    Idle,
    TrainingMethod,
    check_finite,
    check_reached,
    check_trained,
    evaluate,
    gets_gradient,
    rank_of,
    weights_of,
)


@dataclass(frozen=True)
class Residuals:
    """A round of ADMM: ρ, and for each layer the primal residual |W - Z| / |W| and the dual one ρ
    |Z - Z_old| / |W|."""

    rho: float
    primal: dict[str, float]
    dual: dict[str, float]


class ADMM(TrainingMethod):
    """Trains dense weights toward sets: `step` moves W, `update` Z and U, `finish` puts the
    projections in [Yin2021].

    model: whose linear layers, Conv1D of GPT-2 among them, and convolutions can be chosen.
    optimizer: steps W. Weight decay pulls W away from Z: leave it out.
    sets: {pattern of layer names: project} with project: w (out, in, ...) -> a `Format` of as many
        entries, the nearest in its set, such as `lambda w: LowRank.from_dense(w, 4)`, `lambda w:
        tt_matrix_svd(w, (4, 8), (8, 8), 3)`, or for kernels `lambda w: hosvd(w, r)`.
    rho: the penalty, a number or round -> number; about 1e-3 to 1e-1, raised with the rounds. When
        ρ changes, U is scaled so that ρ U, the multiplier, stays [Boyd2011, sec. 3.4].
    every: how many steps between two rounds, about an epoch; None: the caller calls `update`.

    A layer that the optimizer does not train is not projected, and a warning names it. Raises
    ValueError for a pattern that chooses nothing and for a computed weight that cannot take every
    value.

    >>> from tensorlab import LowRank
    >>> model = nn.Sequential(nn.Linear(6, 5))
    >>> sgd, low = torch.optim.SGD(model.parameters(), 0.1), lambda w: LowRank.from_dense(w, 2)
    >>> admm = ADMM(model, sgd, {"*": low}, rho=1.0, every=5)
    >>> losses = [admm.step(lambda: (model(torch.eye(6)) - 1).square().mean()) for _ in range(200)]
    >>> len(admm.history), admm.history[-1].primal["0"] < 0.1 * admm.history[0].primal["0"]
    (40, True)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer,
        sets: dict[str, Callable[[Tensor], Format]],
        *,
        rho: float | Callable[[int], float],
        every: int | None = None,
    ):
        self.optimizer = optimizer
        self.every = None if every is None else count("ADMM", "every", every)
        self._rho = rho if callable(rho) else lambda round: rho
        chosen, self._sets = {}, {}
        for pattern, project in sets.items():
            mine = choose("ADMM", model, pattern, WEIGHTS)
            chosen |= mine
            self._sets |= dict.fromkeys(mine, project)
        if not chosen:
            raise ValueError("ADMM: needs a set for at least one layer, got none")
        self.layers = settable("ADMM", chosen, optimizer)
        self.steps, self.history, self._ranks, self._idle = 0, [], {}, Idle("ADMM")
        self.rho = self._checked(0)
        weights = {name: dense_weight(layer).detach() for name, layer in self.layers.items()}
        for name, w in weights.items():
            if not bool(torch.isfinite(w).all()):
                raise ValueError(
                    f"ADMM: needs finite weights, got some that are not in layer {name!r}"
                )
        self.z = {name: self._project(name, w)[1] for name, w in weights.items()}
        self.u = {name: torch.zeros_like(z) for name, z in self.z.items()}

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """A step of the optimizer on loss + ρ/2 |W - Z + U|²; after each `every` steps an `update`.
        Returns the loss alone.

        closure: computes and returns the loss of the batch, no backward. Raises ValueError if it
        has no gradient, or depends on no weight with a set; one of several that it does not depend
        on goes to its set. Raises FloatingPointError if the training diverges.
        """
        check_trained("ADMM", self.optimizer, weights_of(self.layers))
        self.optimizer.zero_grad(set_to_none=True)
        loss = evaluate("ADMM.step", closure)
        loss.backward()
        reached = {name for name, layer in self.layers.items() if gets_gradient(layer)}
        check_reached("ADMM.step", self.layers, reached)
        self._idle.note(self.layers, reached)
        for name, layer in self.layers.items():  # the gradient of the penalty, ρ (W - Z + U)
            w = dense_weight(layer)
            torch.autograd.backward(w, self.rho * (w.detach() - self.z[name] + self.u[name]))
        self.optimizer.step()
        self.steps += 1
        if self.every is not None and self.steps % self.every == 0:
            self.update()
        return loss.detach()

    @torch.no_grad()
    def update(self) -> Residuals:
        """Z <- Π(W + U), U <- U + W - Z, and the next ρ; returns the residuals, which are also kept
        in `history`."""
        primal, dual = {}, {}
        for name, layer in self.layers.items():
            w, old = dense_weight(layer), self.z[name]
            self.z[name] = z = self._project(name, w + self.u[name])[1]
            self.u[name] += w - z
            size = float(torch.linalg.vector_norm(w)) or 1.0
            primal[name] = float(torch.linalg.vector_norm(w - z)) / size
            dual[name] = self.rho * float(torch.linalg.vector_norm(z - old)) / size
        self.history.append(Residuals(self.rho, primal, dual))
        before, self.rho = self.rho, self._checked(len(self.history))
        for u in self.u.values():
            u *= before / self.rho
        return self.history[-1]

    @torch.no_grad()
    def formats(self) -> dict[str, Format]:
        """The projections of the present weights, by layer: what `replace_linear` makes for
        fine-tuning."""
        return {
            name: self._project(name, dense_weight(layer).detach())[0]
            for name, layer in self.layers.items()
        }

    @torch.no_grad()
    def finish(self) -> dict[str, Format]:
        """W <- Π(W): the weights lie in their sets now; returns the formats."""
        formats = self.formats()
        dense = {
            name: form.to_dense().reshape(self.z[name].shape) for name, form in formats.items()
        }
        write_weights("ADMM", self.layers, dense)
        return formats

    @property
    def ranks(self) -> dict[str, int | tuple[int, ...]]:
        """The ranks of the last projection of each layer, by name."""
        return dict(self._ranks)

    def state_dict(self) -> dict:
        """What a checkpoint needs besides the model's: the optimizer's state, the steps, Z and U,
        and the rounds so far with the next ρ."""
        rounds = [[r.rho, dict(r.primal), dict(r.dual)] for r in self.history]
        z, u = ({name: t.clone() for name, t in ts.items()} for ts in (self.z, self.u))
        more = {"z": z, "u": u, "rho": self.rho, "history": rounds, "ranks": self.ranks}
        return super().state_dict() | more

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken; the model's own state is loaded first."""
        super().load_state_dict(state)
        self.z, self.u = ({n: t.clone() for n, t in state[key].items()} for key in ("z", "u"))
        self.rho, self._ranks = state["rho"], dict(state["ranks"])
        self.history = [Residuals(*parts) for parts in state["history"]]

    def _checked(self, round):
        return positive("ADMM", f"rho in round {round}", self._rho(round))

    def _project(self, name, w) -> tuple[Format, Tensor]:
        check_finite("ADMM", name, self.steps, w)
        form = self._sets[name](w)
        z = form.to_dense() if isinstance(form, Format) else None
        if z is None or z.numel() != w.numel():
            got = (
                type(form).__name__
                if z is None
                else f"{type(form).__name__} of shape {tuple(z.shape)}"
            )
            raise ValueError(
                f"ADMM: layer {name!r} needs a project that gives a format of {tuple(w.shape)}'s "
                f"entries, got {got}"
            )
        self._ranks[name] = rank_of(form)
        return form, z.reshape(w.shape)
