"""Adam in a subspace of the gradient: the weight is dense, what the optimizer keeps is low
[Zhao2024].

    G = ∂loss/∂W: (m, n), m <= n        P = the r leading left singular vectors of G, now and then
    R = Pᵀ G: (r, n)                    M <- β₁ M + (1 - β₁) R,  V <- β₂ V + (1 - β₂) R²
    W <- (1 - lr decay) W - lr scale P M̂ / (√V̂ + eps)

Where m > n the roles of rows and columns change. P, M and V are r (m + 2 n) numbers in the place of
Adam's 2 m n. Of full rank it is Adam on Pᵀ W, in the rotated basis.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..arguments import count, fraction, number, positive
from ..linalg import choose_rank, eigh, singular_values, widen


class LowRankOptimizer(torch.optim.Optimizer, ABC):
    """An optimizer of torch's kind that steps matrices, kernels flattened to matrices among them,
    by `direction`, and all else by AdamW.

        p <- (1 - lr weight_decay) p - lr direction(∂loss/∂p)

    params: parameters, or groups of them.
    lr: the learning rate.
    rank: of all matrices, or of a group; None: AdamW for the group, as embeddings want it.
    betas, eps, weight_decay: those of `torch.optim.AdamW`.
    more: further options that a group may set, with their defaults.

    Raises ValueError for a rank, a rate, an average, an eps or a decay out of range.
    """

    def __init__(self, params, lr: float, *, rank: int | None, betas, eps, weight_decay, **more):
        defaults = dict(lr=lr, rank=rank, betas=betas, eps=eps, weight_decay=weight_decay)
        super().__init__(params, defaults | more)
        if all(not self._is_low(p, group) for group in self.param_groups for p in group["params"]):
            warnings.warn(
                f"{type(self).__name__}: no parameter is a matrix with a rank, all get AdamW",
                stacklevel=3,
            )

    def add_param_group(self, param_group: dict) -> None:
        """One more group, with the optimizer's values where it sets none."""
        self._check(self.defaults | param_group)
        super().add_param_group(param_group)

    def _check(self, group: dict) -> None:
        who = type(self).__name__
        number(who, "lr", group["lr"])
        if group["rank"] is not None:
            count(who, "rank", group["rank"])
        for beta in group["betas"]:
            fraction(who, "betas", beta, zero=True)
        positive(who, "eps", group["eps"])
        number(who, "weight_decay", group["weight_decay"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None):
        """One step with the gradients that are there; returns what a closure returns."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                state["step"] = state.get("step", 0) + 1
                if self._is_low(p, group):
                    move = self.direction(state, p.grad.flatten(1), group).view_as(p)
                else:
                    move = adam_direction(state, p.grad, group)
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * move)
        return loss

    @abstractmethod
    def direction(self, state: dict, g: Tensor, group: dict) -> Tensor:
        """Where a matrix moves, (m, n), from its gradient and the state that is kept of it."""

    @staticmethod
    def _is_low(p: Tensor, group: dict) -> bool:
        return group["rank"] is not None and p.ndim > 1


def adam_direction(state: dict, g: Tensor, group: dict) -> Tensor:
    """M̂ / (√V̂ + eps), with the averages kept in `state`.

        M <- β₁ M + (1 - β₁) g,  V <- β₂ V + (1 - β₂) g²,  M̂ = M / (1 - β₁ᵗ),  V̂ = V / (1 - β₂ᵗ)

    >>> adam_direction({"step": 1}, torch.tensor([3.0, -0.1]), {"betas": (0.9, 0.999), "eps": 1e-8})
    tensor([ 1.0000, -1.0000])
    """
    (b1, b2), t = group["betas"], state["step"]
    if "exp_avg" not in state:
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(g), torch.zeros_like(g)
    m = state["exp_avg"].lerp_(g, 1 - b1)
    v = state["exp_avg_sq"].mul_(b2).addcmul_(g, g, value=1 - b2)
    return (m / (1 - b1**t)).div_((v / (1 - b2**t)).sqrt_().add_(group["eps"]))


class GaLore(LowRankOptimizer):
    """Adam on gradients that are projected to their leading subspace [Zhao2024].

    params: parameters, or groups of them.
    lr: Adam's.
    rank: of the subspace, at most the short side; a group may have another, and None for plain
        AdamW.
    every: steps after which the subspace is taken anew; the averages stay, in coordinates that have
        turned.
    scale: of the steps of matrices, 0.25 in the paper.
    betas, eps, weight_decay: those of `torch.optim.AdamW`.

    >>> w = torch.nn.Parameter(torch.eye(6, 5))
    >>> optimizer = GaLore([w], lr=0.1, rank=2)
    >>> loss = (w**2).sum(); loss.backward(); optimizer.step()
    >>> [tuple(t.shape) for t in optimizer.state[w].values() if isinstance(t, torch.Tensor)]
    [(5, 2), (2, 6), (2, 6)]
    """

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        *,
        rank: int | None,
        every: int = 200,
        scale: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        more = dict(every=every, scale=scale)
        super().__init__(
            params, lr, rank=rank, betas=betas, eps=eps, weight_decay=weight_decay, **more
        )

    def _check(self, group: dict) -> None:
        super()._check(group)
        count("GaLore", "every", group["every"])
        positive("GaLore", "scale", group["scale"])

    def direction(self, state: dict, g: Tensor, group: dict) -> Tensor:
        """scale P M̂ / (√V̂ + eps), of the gradient or, where that has more rows, of its
        transpose."""
        tall = g.shape[0] > g.shape[1]
        g = g.mT if tall else g
        if (state["step"] - 1) % group["every"] == 0:
            state["basis"] = leading_basis(g, group["rank"])
        p = state["basis"]
        move = group["scale"] * (p @ adam_direction(state, p.mT @ g, group))
        return move.mT.contiguous() if tall else move


def leading_basis(g: Tensor, rank: int) -> Tensor:
    """The leading left singular vectors, always as many as asked for: (m, n) -> (m, min(rank, m)).

    From the Gram matrix of the rows, in float64; where g has a lower rank, what fills the basis up
    is orthonormal all the same.

    >>> leading_basis(torch.tensor([[0.0, 0.0], [0.0, 5.0]]), 1).abs()
    tensor([[0.],
            [1.]])
    """
    wide = widen(g)
    _, vectors = eigh(wide @ wide.mT)
    return vectors[:, -rank:].flip(1).to(g.dtype)


def gradient_ranks(gradients: Iterable[Tensor], *, rtol: float = 0.1) -> list[tuple[int, int]]:
    """For each of the gradients of a matrix, in the order of the steps: its rank, and the rank of
    the sum of it and those before.

        rank = min { r : |σ_{r+1:}| <= rtol |σ| }

    A gradient over few tokens has a low rank, and methods that keep what is low of it live on that.
    The sum, by which gradient descent moves the weight, turns from step to step: its rank grows.
    gradients: (m, n) each, or kernels, which are flattened; an iterator that trains is fine. Raises
    ValueError for an rtol outside (0, 1) and for gradients of another shape.

    >>> gradient_ranks([torch.diag(torch.eye(3)[k]) for k in range(3)])
    [(1, 1), (1, 2), (1, 3)]
    """
    fraction("gradient_ranks", "rtol", rtol)
    rank = lambda s: choose_rank(s, atol=rtol * float(s.norm()))
    total, found = None, []
    for g in gradients:
        g = widen(g.detach().flatten(1))
        if total is not None and g.shape != total.shape:
            need = f"gradients of one shape {tuple(total.shape)}"
            raise ValueError(f"gradient_ranks: needs {need}, got {tuple(g.shape)}")
        total = g.clone() if total is None else total.add_(g)
        found.append((rank(singular_values(g)), rank(singular_values(total))))
    return found
