"""Steps with orthonormal columns, from momentum of low rank [Ahn2025].

    B = M + G                     M: (m, n) momentum, G = ∂loss/∂W
    P = orth(B Q)                 (m, r), one step of the power method from the Q of the last step
    R = Bᵀ P                      (n, r)
    M <- B - (1 - μ) P Rᵀ         what P has not caught stays whole in the momentum
    Q <- R / |its columns|
    W <- (1 - lr decay) W - lr √(m / n) P Qᵀ

All directions that B has move the weight by equal lengths, small singular values as much as large
ones. Of full rank P Pᵀ = 1, so M <- μ B: the usual momentum. Where B stays the same, P and Q turn
into its leading singular vectors, and P Qᵀ into the polar factor of that part.
"""

import torch
from torch import Tensor

from ..arguments import fraction
from ..linalg import orthonormal
from ..rng import check_generator, randn
from .galore import LowRankOptimizer


class Dion(LowRankOptimizer):
    """Orthonormal steps of rank r for matrices, AdamW for all else [Ahn2025].

    params: parameters, or groups of them; each matrix keeps M and Q, m n + n r numbers.
    lr: of a step whose singular values are about √(m / n), so that it moves outputs alike whatever
        the width; AdamW of the other groups wants another.
    rank: at most the short side; a group may have another, and None for AdamW.
    momentum: μ in 0 <= μ < 1.
    betas, eps, weight_decay: those of `torch.optim.AdamW`.
    generator: draws the first Q; None: torch's global one.

    >>> w = torch.nn.Parameter(torch.eye(6, 5))
    >>> optimizer = Dion([w], lr=0.1, rank=2)
    >>> loss = (w**2).sum(); loss.backward(); optimizer.step()
    >>> [tuple(t.shape) for t in optimizer.state[w].values() if isinstance(t, torch.Tensor)]
    [(6, 5), (5, 2)]
    """

    def __init__(
        self,
        params,
        lr: float = 0.01,
        *,
        rank: int | None,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        generator: torch.Generator | None = None,
    ):
        check_generator("Dion", generator)
        self._generator = generator
        super().__init__(
            params,
            lr,
            rank=rank,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
        )

    def _check(self, group: dict) -> None:
        super()._check(group)
        fraction("Dion", "momentum", group["momentum"], zero=True)

    def direction(self, state: dict, g: Tensor, group: dict) -> Tensor:
        """√(m / n) P Qᵀ."""
        m, n = g.shape
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(g)
            q = randn(n, min(group["rank"], m, n), generator=self._generator, dtype=torch.float64)
            state["q"] = orthonormal(q).to(g)
        b = state["momentum"].add_(g)
        single = torch.promote_types(g.dtype, torch.float32)  # LAPACK knows no half precision
        p = orthonormal((b @ state["q"]).to(single)).to(g.dtype)  # (m, r)
        r = b.mT @ p  # (n, r)
        b.sub_((1 - group["momentum"]) * (p @ r.mT))
        state["q"] = r / r.norm(dim=0).clamp_min(torch.finfo(g.dtype).tiny)
        return (m / n) ** 0.5 * (p @ state["q"].mT)
