"""Training on the manifold of low-rank matrices: dynamical low-rank training, the KLS integrator
[Schotthoefer2022].

Gradient descent is Euler's method for W' = -∇loss(W). For W = U S Vᴴ of rank r, U and V with
orthonormal columns, one step is

    K = U S,  L = V Sᴴ        K' = -G V,  L' = -Gᴴ U     G = ∂loss/∂W, of which only these two thin products are formed
    Û = orth[U | K1],  V̂ = orth[V | L1]                   the bases turn, and grow to 2r columns
    S̃ = (ÛᴴU) S (V̂ᴴV)ᴴ                                    the same matrix in the new bases, exactly
    S̃' = -Ûᴴ G V̂                                          the one step that changes W
    P Σ Qᴴ = S1,  r' = min { r : |σ_{r+1:}| <= θ |σ| }     U = Û P[:, :r'],  S = Σ[:r'],  V = V̂ Q[:, :r']

No singular value is ever divided by: the equations for U, S, V themselves hold S⁻¹ and fail when S
is nearly singular (`usv_step`). K and L start from the same W, so a step needs two evaluations of
the gradient, not three.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..formats.lowrank import LowRank
from ..layers.linear import FactorizedLinear
from ..linalg import choose_rank, extend_basis, orthonormal, small_svd, widen, zero_level

RULES = ("tail", "sum")
# what optimisers keep for a parameter: averages of the gradient, and averages or sums of its
# squares
FIRST = {"momentum_buffer", "exp_avg", "grad_avg", "ax"}
SQUARES = {"exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "acc_delta"}

# ------------------------------------------------------------------------------ the parts of a step


def augment(w: LowRank, gk: Tensor, gl: Tensor) -> tuple[LowRank, Tensor, Tensor]:
    """The same matrix in bases of twice the rank: Û = orth[U | G V], V̂ = orth[V | Gᴴ U], S̃ =
    (ÛᴴU) S (V̂ᴴV)ᴴ [Ceruti2022].

    K1 = U S - h G V, so [U | G V] spans what [U | K1] does, for every h and without its
    cancellation. gk = G V: (out, r), gl = Gᴴ U: (in, r). Returns the LowRank of k columns and ÛᴴU,
    V̂ᴴV (k, r), k = 2r; where 2r is longer than a side, that basis is square and filled up with
    zeros.

    >>> w = LowRank.randn((6, 5), 2, generator=torch.Generator().manual_seed(0)).orthogonal()
    >>> wide, left, right = augment(w, torch.ones(6, 2), torch.ones(5, 2))
    >>> wide.ranks, torch.allclose(wide.to_dense(), w.to_dense(), atol=1e-6)
    ((4,), True)
    """
    u, v = extend_basis(w.u, gk), extend_basis(w.v, gl)
    k, one = max(u.shape[1], v.shape[1]), torch.eye(*w.s.shape).to(w.s)
    u, v = (nn.functional.pad(t, (0, k - t.shape[1])) for t in (u, v))
    s, one = (
        nn.functional.pad(t, (0, c, 0, k - len(t))) for t, c in ((w.s, k - w.s.shape[1]), (one, 0))
    )
    return LowRank(u, v, s), one, one


def turn(w: LowRank, k1: Tensor, l1: Tensor) -> tuple[LowRank, Tensor, Tensor]:
    """The step of fixed rank: Û = orth(K1), V̂ = orth(L1), and S̃ = (ÛᴴU) S (V̂ᴴV)ᴴ, the projection
    of W [CerutiLubich2022].

    k1: (out, r), l1: (in, r).  Returns the LowRank of the same rank and ÛᴴU, V̂ᴴV (r, r).

    >>> w = LowRank.randn((6, 5), 2, generator=torch.Generator().manual_seed(0)).orthogonal()
    >>> torch.allclose(turn(w, w.u @ w.s, w.v @ w.s.mH)[0].to_dense(), w.to_dense(), atol=1e-6)
    True
    """
    u, v = orthonormal(k1), orthonormal(l1)
    left, right = u.mH @ w.u, v.mH @ w.v
    return LowRank(u, v, left @ w.s @ right.mH), left, right


def truncate(
    w: LowRank,
    theta: float | None,
    *,
    rule: str = "tail",
    min_rank: int = 1,
    max_rank: int | None = None,
) -> tuple[LowRank, Tensor, Tensor]:
    """The leading singular values of W = U S Vᴴ, from those of S: P Σ Qᴴ = S, U P[:, :r], Σ[:r], V
    Q[:, :r].

    rule "tail": r = min { r : |σ_{r+1:}| <= θ |σ| }, so the relative error is at most θ. rule
    "sum": as many as exceed θ Σσ. Then min_rank <= r <= max_rank, as far as there are nonzero
    values. theta None: the rank stays and S turns diagonal. Returns the LowRank and P[:, :r]ᴴ, Q[:,
    :r]ᴴ.

    >>> w = LowRank(torch.eye(5, 3), torch.eye(4, 3), torch.diag(torch.tensor([4.0, 3.0, 0.1])))
    >>> truncate(w, 0.1)[0].s.diagonal(), truncate(w, 0.5, rule="sum")[0].s.diagonal()
    (tensor([4., 3.]), tensor([4.]))
    """
    p, sigma, qh = small_svd(widen(w.s))  # in single precision LAPACK's may fail to converge
    size, r = float(torch.linalg.vector_norm(sigma)), len(sigma)
    if theta is not None:
        most = choose_rank(sigma, max_rank, atol=zero_level(w.dtype) * size)
        r = (
            choose_rank(sigma, most, atol=theta * size)
            if rule == "tail"
            else int((sigma > theta * sigma.sum())[:most].sum())
        )
        r = max(r, min(min_rank, most))
    p, sigma, qh = (t.to(w.dtype) for t in (p[:, :r], sigma[:r], qh[:r]))
    return LowRank(w.u @ p, w.v @ qh.mH, torch.diag(sigma)), p.mH, qh


# -------------------------------------------------------------------- matrix differential equations


def kls_step(
    w: LowRank,
    flow: Callable[[Tensor], Tensor],
    h: float,
    *,
    theta: float | None = None,
    max_rank: int | None = None,
) -> LowRank:
    """One step of length h for W' = flow(W), K, L and S by Euler's method; theta: adaptive rank,
    None: fixed rank.

        | W_n - W(nh) | <= c1 ε + c2 h + c3 θ/h      with constants that no singular value enters [Schotthoefer2022]

    w: with orthonormal u and v and a middle factor (`LowRank.orthogonal`). flow: (out, in) -> (out,
    in).

    >>> a, w = torch.ones(3, 2).double(), LowRank.from_dense(torch.eye(3, 2).double(), rank=2).orthogonal()
    >>> torch.allclose(kls_step(w, lambda x: a - x, 0.1, theta=0.0).to_dense(), w.to_dense() + 0.1 * (a - w.to_dense()))
    True
    """
    g = flow(w.to_dense())
    gk, gl = g @ w.v, g.mH @ w.u
    if theta is None:
        new, *_ = turn(w, w.u @ w.s + h * gk, w.v @ w.s.mH + h * gl)
    else:
        new, *_ = augment(w, gk, gl)
    new = LowRank(new.u, new.v, new.s + h * (new.u.mH @ flow(new.to_dense()) @ new.v))
    return new if theta is None else truncate(new, theta, max_rank=max_rank)[0]


def usv_step(w: LowRank, flow: Callable[[Tensor], Tensor], h: float) -> LowRank:
    """One Euler step of the equations for U, S, V themselves, orthonormalised afterwards
    [KochLubich2007].

        S' = Uᴴ F V,   U' = (1 - U Uᴴ) F V S⁻¹,   V' = (1 - V Vᴴ) Fᴴ U S⁻ᴴ,   F = flow(W)

    Here only to be compared with: S⁻¹ makes it fail where a singular value is smaller than about h.

    >>> w = LowRank.from_dense(torch.eye(3, 2).double(), rank=2).orthogonal()
    >>> torch.allclose(usv_step(w, lambda x: -x, 0.1).to_dense(), 0.9 * w.to_dense())
    True
    """
    f, (u, v, s) = flow(w.to_dense()), w.tensors()
    fv, fu = f @ v, f.mH @ u
    u1 = u + h * torch.linalg.solve(s, fv - u @ (u.mH @ fv), left=False)
    v1 = v + h * torch.linalg.solve(s.mH, fu - v @ (v.mH @ fu), left=False)
    return LowRank(u1, v1, s + h * (u.mH @ fv)).orthogonal()


# ------------------------------------------------------------------------------ layers of a network


def dlrt_start(
    shape, rank: int, *, decay: float = 1.0, generator=None, dtype=None, device=None
) -> LowRank:
    """A weight to start from: random orthonormal u and v, σ_k proportional to decay^-k, with Σ σ² =
    2 out.

    An output then has the variance 2 E[x²], which a ReLU halves again: the signal keeps its size
    through the layers.

    >>> dlrt_start((8, 6), 2, generator=torch.Generator().manual_seed(0)).s
    tensor([[2.8284, 0.0000],
            [0.0000, 2.8284]])
    """
    m, n = shape
    options = dict(generator=generator, dtype=dtype, device=device)
    w = LowRank.randn((m, n), min(rank, m, n), **options)
    r = w.ranks[0]
    sigma = decay ** -torch.arange(r, dtype=w.dtype.to_real(), device=w.device)
    sigma = sigma * ((2 * m) ** 0.5 / torch.linalg.vector_norm(sigma))
    return LowRank(orthonormal(w.u), orthonormal(w.v), torch.diag(sigma).to(w.dtype))


class DLRT:
    """Trains a model whose layers hold a `LowRank` with its middle factor, without ever leaving low
    rank [Schotthoefer2022].

    model: its `FactorizedLinear` and `FactorizedConv2d` layers on a `LowRank` (u, v, s) are trained
    by KLS steps, all else by `optimizer`, any of torch's that needs no closure: it steps s, biases
    and dense layers. lr: the step of K and L where the rank is fixed; where it is adaptive the span
    of [U | K1] does not depend on it. K and L have no momentum: beside an optimiser with momentum β
    they keep pace at its rate / (1 - β). theta: relative error of each truncation, or None for a
    fixed rank. rule: see `truncate`. every: truncate at each k-th step only, the steps between keep
    the rank. min_rank, max_rank: limits of all ranks.

    What the optimiser keeps for s goes along when the bases turn: averages of gradients as s itself
    does, m' = A m Bᴴ; averages of squares as if entries were uncorrelated, v' = |A|² v |B|²ᴴ, and
    their mean for what is new; anything else starts anew.

    >>> from tensorlab import replace_linear
    >>> g = torch.Generator().manual_seed(0)
    >>> model = replace_linear(nn.Sequential(nn.Linear(9, 8)), "0", lambda w: dlrt_start(w.shape, 4, generator=g))
    >>> dlrt = DLRT(model, torch.optim.SGD(model.parameters(), 0.1), lr=0.1, theta=0.1)
    >>> losses = [float(dlrt.step(lambda: model(torch.eye(9)).square().sum())) for _ in range(5)]
    >>> losses == sorted(losses, reverse=True), dlrt.ranks
    (True, {'0': 4})
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer,
        *,
        lr: float,
        theta: float | None,
        rule: str = "tail",
        every: int = 1,
        min_rank: int = 2,
        max_rank: int | None = None,
    ):
        if rule not in RULES:
            raise ValueError(f"DLRT: needs a rule of {', '.join(RULES)}, got {rule!r}")
        if theta is not None and not 0 <= theta < 1:
            raise ValueError(f"DLRT: needs theta in 0 <= theta < 1 or None, got {theta}")
        if (
            not lr > 0
            or every < 1
            or min_rank < 1
            or (max_rank is not None and max_rank < min_rank)
        ):
            got = f"lr={lr}, every={every}, min_rank={min_rank}, max_rank={max_rank}"
            raise ValueError(
                f"DLRT: needs lr > 0, every >= 1 and 1 <= min_rank <= max_rank, got {got}"
            )
        every_layer = {
            name: m for name, m in model.named_modules() if isinstance(m, FactorizedLinear)
        }
        self.layers = {
            n: m
            for n, m in every_layer.items()
            if isinstance(m.weight, LowRank) and m.tensors[0].requires_grad
        }
        if not self.layers:
            raise ValueError(
                f"DLRT: needs a model with a trainable layer on a LowRank, got "
                f"{type(model).__name__} without one"
            )
        self.optimizer, self.lr, self.theta, self.rule, self.every = (
            optimizer,
            lr,
            theta,
            rule,
            every,
        )
        self.min_rank, self.max_rank, self.steps = min_rank, max_rank, 0
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, layer in self.layers.items():
            if len(layer.tensors) < 3:
                make = "LowRank.from_dense(w, r).orthogonal() or dlrt_start(w.shape, r)"
                raise ValueError(
                    f"DLRT: layer {name!r} needs a LowRank with a middle factor, as {make} gives, "
                    f"got two factors"
                )
            if id(layer.tensors[2]) not in held:
                raise ValueError(
                    f"DLRT: the optimizer needs the middle factor of layer {name!r}, got one "
                    f"without it"
                )
            layer.set_weight(_detached(layer).orthogonal())
        if len({id(layer.tensors[2]) for layer in self.layers.values()}) < len(self.layers):
            raise ValueError(
                f"DLRT: needs layers with weights of their own, got some shared among "
                f"{', '.join(self.layers)}"
            )

    @property
    def ranks(self) -> dict[str, int]:
        """The rank of each layer, by name."""
        return {name: layer.weight.ranks[0] for name, layer in self.layers.items()}

    def spectra(self) -> dict[str, Tensor]:
        """The singular values of each layer, by name: those of its middle factor, descending."""
        return {name: small_svd(widen(_detached(layer).s)).s for name, layer in self.layers.items()}

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """One KLS step of every layer, and one step of the optimiser; returns the loss before it.

        closure: computes and returns the loss of the batch, no backward; it is called twice.
        """
        self.steps += 1
        adapt = self.theta is not None and self.steps % self.every == 0
        before = {name: _detached(layer) for name, layer in self.layers.items()}
        if self.steps % 50 == 0:  # rounding of the products with P and Q has gathered
            before = {
                name: LowRank(_straight(w.u), _straight(w.v), w.s) for name, w in before.items()
            }
        loss, gradients = self._gradients(closure, before)
        moved = list(gradients)
        for name in moved:  # what a layer no longer needs is given back before the next one turns
            w, (gk, gl) = before.pop(name), gradients.pop(name)
            if adapt:
                self._put(name, *augment(w, gk, gl))
            else:
                self._put(name, *turn(w, w.u @ w.s - self.lr * gk, w.v @ w.s.mH - self.lr * gl))
        self._step_s(closure)
        for name in moved:
            w = _detached(self.layers[name])
            self._check(name, w.s)
            limits = dict(min_rank=self.min_rank, max_rank=self.max_rank)
            self._put(name, *truncate(w, self.theta if adapt else None, rule=self.rule, **limits))
        return loss

    def _gradients(self, closure, before):
        """The loss, and G V and Gᴴ U of each layer, from one pass through the model.

        With S = diag(σ), as truncation leaves it, the gradients of u and v are G V and Gᴴ U with
        column k times σ_k: dividing a column by a number costs no digits, however small it is. Any
        other S: W = [K | U] [V | 0]ᴴ, whose gradients hold both.
        """
        sigma = {name: _diagonal(w.s) for name, w in before.items()}
        for name, w in before.items():
            if sigma[name] is None:
                one = torch.eye(2 * w.ranks[0], dtype=w.dtype, device=w.device)
                both = torch.cat([w.u @ w.s, w.u], 1), torch.cat([w.v, torch.zeros_like(w.v)], 1)
                self.layers[name].set_weight(LowRank(*both, one))
        try:
            loss = _loss(closure)
            leaves = [t for layer in self.layers.values() for t in list(layer.tensors)[:2]]
            found = torch.autograd.grad(loss, leaves, allow_unused=True)
        finally:
            for name, w in before.items():
                if sigma[name] is None:
                    self.layers[name].set_weight(w)
        out = {}
        for (name, w), gu, gv in zip(before.items(), found[::2], found[1::2]):
            if gu is not None:  # a layer that the loss does not reach stays as it is
                r, d = w.ranks[0], sigma[name]
                out[name] = (gu[:, :r], gv[:, r:]) if d is None else (gu / d, gv / d)
                self._check(name, *out[name])
        return loss.detach(), out

    def _step_s(self, closure):
        """The optimiser's step on middle factors, biases and dense layers; u and v stand still."""
        self.optimizer.zero_grad(set_to_none=True)
        bases = {id(t) for layer in self.layers.values() for t in list(layer.tensors)[:2]}
        rest = [
            p
            for g in self.optimizer.param_groups
            for p in g["params"]
            if id(p) not in bases and p.requires_grad
        ]
        _loss(closure).backward(inputs=rest)
        self.optimizer.step()

    def _put(self, name, w, left, right):
        """Give a layer its new weight, and its optimiser's state the new coordinates: s' = left s
        rightᴴ."""
        layer = self.layers[name]
        layer.set_weight(w)
        s = layer.tensors[2]
        state = self.optimizer.state.get(s, {})
        if not state:
            return
        a, b, kept = left.abs().square(), right.abs().square(), {}
        for key, old in state.items():
            if not isinstance(old, Tensor) or old.ndim == 0:
                kept[key] = old
            elif key in FIRST:
                kept[key] = (left @ old @ right.mH).contiguous()
            elif key in SQUARES:
                new = (
                    1 - a.sum(1, keepdim=True) @ b.sum(1, keepdim=True).mT
                )  # the share that no old entry explains
                kept[key] = a @ old @ b.mT + new.clamp_min(0) * old.mean()
            else:
                kept = {}
                break
        self.optimizer.state[s] = kept

    def _check(self, name, *tensors):
        if not all(bool(torch.isfinite(t.sum())) for t in tensors):
            raise ValueError(
                f"DLRT: needs finite numbers, got some that are not in layer {name!r} at step "
                f"{self.steps}"
            )

    def state_dict(self) -> dict:
        """What a checkpoint needs besides `model.state_dict()`, for `save_state`: the optimiser's
        state and the number of steps."""
        return {"steps": self.steps, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken; the model's own state, its ranks with it, is loaded
        first."""
        self.steps = state["steps"]
        self.optimizer.load_state_dict(state["optimizer"])


def _loss(closure):
    with torch.enable_grad():
        loss = closure()
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            f"DLRT.step: closure needs to return the loss, a number with a gradient, got {got}"
        )
    return loss


def _detached(layer) -> LowRank:
    return LowRank(*(t.detach() for t in layer.tensors))


def _straight(q: Tensor) -> Tensor:
    """Nearly orthonormal columns made more so: a step of Newton's iteration for the polar
    factor."""
    return 1.5 * q - 0.5 * q @ (q.mH @ q)


def _diagonal(s: Tensor) -> Tensor | None:
    """σ, where s is diag(σ) with σ > 0 of a size that a product with it does not underflow; else
    None."""
    d = s.diagonal().real
    safe = torch.equal(s, torch.diag(s.diagonal())) and float(d.min()) > 1e-12 * float(d.max()) > 0
    return d if safe else None
