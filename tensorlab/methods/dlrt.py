"""Training on the manifold of low-rank matrices: dynamical low-rank training, the KLS integrator
[Schotthoefer2022].

Gradient descent is Euler's method for W' = -∇loss(W). For W = U S Vᴴ of rank r, U and V with
orthonormal columns, one step is

    K = U S,  L = V Sᴴ,  K' = -G V,  L' = -Gᴴ U            two thin products of G = ∂loss/∂W
    Û = orth[U | K1],  V̂ = orth[V | L1]                    the bases turn, and grow to 2r columns
    S̃ = (ÛᴴU) S (V̂ᴴV)ᴴ                                     the same matrix in the new bases, exactly
    S̃' = -Ûᴴ G V̂                                           the one step that changes W
    P Σ Qᴴ = S1,  r' = min { r : |σ_{r+1:}| <= θ |σ| }     the rank that is kept
    U = Û P[:, :r'],  S = Σ[:r'],  V = V̂ Q[:, :r']

No singular value is ever divided by: the equations for U, S, V themselves hold S⁻¹ and fail when S
is nearly singular (`usv_step`). K and L start from the same W, so a step needs two evaluations of
the gradient, not three.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache

import torch
from torch import Tensor, nn

from ..arguments import count, fraction, one_of, positive
from ..formats.lowrank import LowRank
from ..layers.holding import meanwhile
from ..linalg import choose_rank, extend_basis, orthonormal, small_svd, widen, zero_level
from .training import (
    MEANS,
    SQUARES,
    Idle,
    Processes,
    TrainingMethod,
    backward,
    check_finite,
    check_optimizer,
    check_reached,
    check_trained,
    check_whole,
    evaluate,
    group_of,
    low_rank_layers,
    spared_buffers,
    unfrozen,
)

RULES = ("tail", "sum")
STRAIGHTEN = 50  # steps in which the rounding of products with P and Q gathers
# what optimizers keep besides: sizes of the gradient; factors of a mean square, and the mean that a
# mean square is compared with
SIZES = {"exp_inf", "step_size"}
FACTORS = {"row_var", "col_var"}
MEAN_OF = {"square_avg": "grad_avg"}

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

    w: with three factors, U and V orthonormal.
    theta: θ, relative to the singular values; None: the rank stays and S turns diagonal.
    rule: "tail", r = min { r : |σ_{r+1:}| <= θ |σ| }, so the relative error is at most θ; or "sum",
        as many as exceed θ Σσ.
    min_rank: the smallest r, as far as there are so many nonzero values.
    max_rank: the largest r; None: no cap.

    Returns the LowRank and P[:, :r]ᴴ, Q[:, :r]ᴴ.

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
    """One step of length h for W' = flow(W), K, L and S by Euler's method.

        | W_n - W(nh) | <= c1 ε + c2 h + c3 θ/h

    with constants that no singular value enters [Schotthoefer2022].

    w: with orthonormal u and v and a middle factor (`LowRank.orthogonal`).
    flow: (out, in) -> (out, in).
    h: the length of the step.
    theta: the relative error of the truncation, for an adaptive rank; None: the rank of w.
    max_rank: a cap on an adaptive rank; None: no cap.

    >>> a, x = torch.ones(3, 2).double(), torch.eye(3, 2).double()
    >>> w = LowRank.from_dense(x, rank=2).orthogonal()
    >>> step = kls_step(w, lambda x: a - x, 0.1, theta=0.0)
    >>> torch.allclose(step.to_dense(), x + 0.1 * (a - x))
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
    """One Euler step of the equations for U, S, V themselves, orthonormalized afterwards
    [KochLubich2007].

        S' = Uᴴ F V,   U' = (1 - U Uᴴ) F V S⁻¹,   V' = (1 - V Vᴴ) Fᴴ U S⁻ᴴ,   F = flow(W)

    It is here for comparison: S⁻¹ makes it fail where a singular value is smaller than about h.

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

    shape: (out, in).
    rank: the number of σ_k.
    decay: σ_k / σ_{k+1}.
    generator, dtype, device: as in `torch.randn`.

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


# ------------------------------------------------------------------------- what an optimizer keeps


def transport(state: dict, left: Tensor, right: Tensor) -> dict:
    """What an optimizer keeps for s, in the coordinates of s' = left s rightᴴ; {} where it is
    unknown how, and the optimizer starts anew.

        m' = left m rightᴴ                                        averages of gradients, as s itself
        v' = |left|² v |right|²ᵀ + (1 - what left and right hold) mean(v)        averages of squares

    as if entries were uncorrelated. Of a mean square v that is compared with m the variance v - m²
    goes along, so that v' >= m'² again. left, right: (r', r).

    >>> half = torch.full((1, 2), 0.5**0.5)
    >>> m, v = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), torch.ones(2, 2)
    >>> new = transport({"step": 3, "exp_avg": m, "exp_avg_sq": v}, half, half)
    >>> new["step"], round(float(new["exp_avg"]), 6), round(float(new["exp_avg_sq"]), 6)
    (3, 0.0, 1.0)
    """

    @cache
    def shares():
        a, b = left.abs().square(), right.abs().square()
        return a, b, (1 - a.sum(1, keepdim=True) @ b.sum(1, keepdim=True).mT).clamp_min(0)

    def mean(m):
        return (left @ m @ right.mH).contiguous()

    def squares(v):
        a, b, fresh = shares()
        return a @ v @ b.mT + fresh * v.mean((-2, -1), keepdim=True)

    kept, shape = {}, (left.shape[1], right.shape[1])
    for key, old in state.items():
        if not isinstance(old, Tensor) or old.ndim == 0:
            kept[key] = old.clone() if isinstance(old, Tensor) else old
        elif old.dtype != left.dtype or (key not in FACTORS and old.shape != shape):
            return {}
        elif key in MEANS:
            kept[key] = mean(old)
        elif key in SQUARES and MEAN_OF.get(key) in state:
            m = state[MEAN_OF[key]]
            square = _parts(m).square()
            least = 8 * torch.finfo(square.dtype).eps * square  # what rounding may take away
            variance = torch.maximum(_parts(old) - square, least)
            kept[key] = _whole(squares(variance) + _parts(mean(m)).square(), old)
        elif key in SQUARES:
            kept[key] = _whole(squares(_parts(old)), old)
        elif key in SIZES:
            kept[key] = _whole(squares(_parts(old).square()).sqrt(), old)
        elif key in FACTORS and FACTORS <= state.keys():
            row, col = state["row_var"], state["col_var"]
            v = squares(row @ col / row.mean().clamp_min(torch.finfo(row.dtype).tiny))
            kept[key] = v.mean(1, keepdim=True) if key == "row_var" else v.mean(0, keepdim=True)
        else:
            return {}
    return kept


def _parts(t: Tensor) -> Tensor:
    """Real and imaginary parts as two matrices, which torch's optimizers treat apart."""
    return torch.view_as_real(t).movedim(-1, 0) if t.is_complex() else t


def _whole(parts: Tensor, like: Tensor) -> Tensor:
    return torch.view_as_complex(parts.movedim(0, -1).contiguous()) if like.is_complex() else parts


# ------------------------------------------------------------------------------------- the training


class DLRT(TrainingMethod):
    """Trains a model whose layers hold a `LowRank` with its middle factor, without ever leaving low
    rank [Schotthoefer2022].

    model: its `FactorizedLinear` and `FactorizedConv2d` layers on a `LowRank` (u, v, s) are trained
        by KLS steps, all else by the optimizer.
    optimizer: any of torch's for dense gradients that needs no closure; it steps s, biases and
        dense layers.
    theta: the relative error of each truncation, or None for a fixed rank.
    multiplier: where the rank is fixed K and L move by this times the rate of s.
    rule: see `truncate`.
    every: truncate at each k-th step only; the steps between keep the rank.
    min_rank, max_rank: limits of all ranks; None: no cap.

    Learning rates are the optimizer's, read at the step. Where the rank is adaptive they do not
    enter the span of [U | K1]. K and L have no momentum: beside an optimizer with momentum β, a
    multiplier of 1 / (1 - β) lets them keep pace.

    What the optimizer keeps for s goes along when the bases turn, see `transport`.

    In a closure that runs DistributedDataParallel the gradients of all processes are averaged here,
    those of low-rank layers in their thin form; all processes then take the same ranks. A model
    that `fully_shard` has sharded is refused. Layers that are frozen do not change.

    Raises ValueError where nothing would be trained: no such layer, one that is frozen in part, an
    optimizer that does not hold the middle factors; and for settings out of range.

    >>> from tensorlab import replace_linear
    >>> g = torch.Generator().manual_seed(0)
    >>> start = lambda w: dlrt_start(w.shape, 4, generator=g)
    >>> model = replace_linear(nn.Sequential(nn.Linear(9, 8)), "0", start)
    >>> dlrt = DLRT(model, torch.optim.SGD(model.parameters(), 0.1), theta=0.1)
    >>> losses = [float(dlrt.step(lambda: model(torch.eye(9)).square().sum())) for _ in range(5)]
    >>> losses == sorted(losses, reverse=True), dlrt.ranks
    (True, {'0': 4})
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer,
        *,
        theta: float | None,
        multiplier: float = 1.0,
        rule: str = "tail",
        every: int = 1,
        min_rank: int = 2,
        max_rank: int | None = None,
    ):
        _check_settings(theta, multiplier, rule, every, min_rank, max_rank)
        self.model, self.optimizer = model, optimizer
        self.layers = low_rank_layers("DLRT", model, 3)
        self.theta, self.multiplier, self.rule, self.every = theta, multiplier, rule, every
        self.min_rank, self.max_rank, self.steps = min_rank, max_rank, 0
        self._processes, self._idle = Processes(), Idle("DLRT")
        check_optimizer("DLRT", optimizer, rates=theta is None or every > 1)
        for name, factors in self._trained().items():
            w = _detached(factors)
            if not _is_orthonormal(w):
                self.layers[name].set_weight(w.orthogonal())
                optimizer.state.pop(factors[2], None)

    @property
    def ranks(self) -> dict[str, int]:
        """The rank of each layer, by name."""
        return {name: layer.weight.ranks[0] for name, layer in self.layers.items()}

    def spectra(self) -> dict[str, Tensor]:
        """The singular values of each layer, by name: those of its middle factor, descending."""
        return {
            name: small_svd(widen(layer.tensors[2].detach())).s
            for name, layer in self.layers.items()
        }

    def step(self, closure: Callable[[], Tensor], *, scaler=None) -> Tensor:
        """One KLS step of every layer, and one step of the optimizer; returns the loss before it.

        closure: computes and returns the loss of the batch, no backward; it is called twice, and
        buffers such as running statistics change once. If it fails, at either call, the layers and
        what the optimizer keeps for them are as before the step. scaler: a `GradScaler`, whose
        `update` is left to the caller; where scaled gradients overflow, all stays as before. Raises
        ValueError if the loss has no gradient or depends on no low-rank layer, FloatingPointError
        if the training diverges.
        """
        factors, step = self._trained(), self.steps + 1
        adapt = self.theta is not None and step % self.every == 0
        before = {name: _detached(ts) for name, ts in factors.items()}
        if step % STRAIGHTEN == 0:
            before = {
                name: LowRank(_straight(w.u), _straight(w.v), w.s) for name, w in before.items()
            }
        with (
            suppress(_Overflow),
            self._kept(before) as kept,
            self._processes.unreduced(self.layers.values()),
        ):
            with spared_buffers(self.model):
                loss, thin = self._gradients(closure, before, scaler)
            if thin is None:
                self._skip(scaler)
            check_reached("DLRT.step", factors, thin)
            self._idle.note(factors, thin)
            moved = list(thin)
            for name in moved:  # what a layer no longer needs is given back before the next turns
                kept[name] = self._turn(name, before.pop(name), *thin.pop(name), adapt)
            self._step_s(closure, scaler)
            for name in moved:
                check_finite("DLRT", name, step, factors[name][2].detach())
            for name in moved:
                self._truncate(name, adapt)
                del kept[name]
            self.steps = step
        return loss

    def _trained(self) -> dict[str, list[Tensor]]:
        """u, v and s of the layers that are not frozen, after a look at what may have changed since
        the last step."""
        check_whole("DLRT", self.model, self.optimizer)
        factors = {name: list(layer.tensors) for name, layer in self.layers.items()}
        names = unfrozen("DLRT", factors)
        middle = {f"middle factor of layer {name!r}": factors[name][2] for name in names}
        check_trained("DLRT", self.optimizer, middle)
        self._factors = factors
        return {name: factors[name] for name in names}

    def _gradients(self, closure, before, scaler=None):
        """The loss, and G V and Gᴴ U of each layer, from one pass through the model; None where
        what is scaled overflows.

        With S = diag(σ), as truncation leaves it, the gradients of u and v are G V and Gᴴ U with
        column k times σ_k: dividing a column by a number costs no digits, however small it is. Any
        other S: W = [K | U] [V | 0]ᴴ, whose gradients hold both.
        """
        sigma = {name: _diagonal(w.s) for name, w in before.items()}
        doubled = {}
        for name in (name for name in before if sigma[name] is None):
            w = before[name]
            one = torch.eye(2 * len(w.s)).to(w.s)
            both = torch.cat([w.u @ w.s, w.u], 1), torch.cat([w.v, torch.zeros_like(w.v)], 1)
            doubled[name] = LowRank(*both, one)
        with meanwhile(self.layers, doubled):
            loss = evaluate("DLRT.step", closure)
            leaves = [t for name in before for t in self._factors[name][:2]]
            found = self._processes.mean(backward(_scaled(loss, scaler), leaves), leaves)
        self._forget_gradients()
        if scaler is not None and scaler.is_enabled():
            found = [None if g is None else g / scaler.get_scale() for g in found]
            if not _finite(found):
                return loss.detach(), None
        out = {}
        for (name, w), gu, gv in zip(before.items(), found[::2], found[1::2]):
            if gu is not None:  # a layer that the loss does not reach is not moved
                r, d = len(w.s), sigma[name]
                out[name] = (gu[:, :r], gv[:, r:]) if d is None else (gu / d, gv / d)
                check_finite("DLRT", name, self.steps + 1, *out[name])
        return loss.detach(), out

    def _turn(self, name, w, gk, gl, adapt):
        """The K and L steps of a layer: new bases, in which the optimizer then steps s. Returns w
        as it was, in the first columns of the new bases where they hold it."""
        if not adapt:
            h = self._rate(name)
            self._put(name, *turn(w, w.u @ w.s - h * gk, w.v @ w.s.mH - h * gl))
            return w.u, w.v, w.s
        self._put(name, *augment(w, gk, gl))
        u, v = (t.detach()[:, : len(w.s)] for t in self._factors[name][:2])
        return u, v, w.s

    def _rate(self, name):
        """How far K and L move along their gradients: as the optimizer's group of s says now."""
        group = group_of(self.optimizer, self._factors[name][2])
        return (-1 if group.get("maximize") else 1) * self.multiplier * group["lr"]

    def _truncate(self, name, adapt):
        limits = dict(rule=self.rule, min_rank=self.min_rank, max_rank=self.max_rank)
        w = _detached(self._factors[name])
        self._put(name, *truncate(w, self.theta if adapt else None, **limits))

    def _skip(self, scaler):
        """Let a scaler see that gradients overflowed, and end the step, with all as before it."""
        self.optimizer.zero_grad(set_to_none=True)
        s = next(iter(self._factors.values()))[2]
        s.grad = torch.full_like(s, torch.inf)
        scaler.step(self.optimizer)
        s.grad = None
        raise _Overflow

    def _step_s(self, closure, scaler):
        """The optimizer's step on middle factors, biases and dense layers; u and v do not move."""
        self.optimizer.zero_grad(set_to_none=True)
        bases = {id(t) for factors in self._factors.values() for t in factors[:2]}
        rest = [
            p
            for g in self.optimizer.param_groups
            for p in g["params"]
            if id(p) not in bases and p.requires_grad
        ]
        loss = evaluate("DLRT.step", closure)
        found = self._processes.mean(backward(_scaled(loss, scaler), rest), rest)
        self._forget_gradients()
        for p, g in zip(rest, found):
            p.grad = g
        if scaler is None:
            self.optimizer.step()
        elif not scaler.is_enabled() or _finite(found):
            scaler.step(self.optimizer)
        else:
            self._skip(scaler)

    def _forget_gradients(self):
        for u, v, _ in self._factors.values():
            u.grad = v.grad = None

    def _put(self, name, w, left, right):
        """Give a layer its new weight, and its optimizer's state the new coordinates: s' = left s
        rightᴴ."""
        self.layers[name].set_weight(w)
        s = self._factors[name][2]
        if state := self.optimizer.state.get(s):
            self.optimizer.state[s] = transport(state, left, right)

    @contextmanager
    def _kept(self, before) -> Iterator[dict]:
        """u, v and s of each layer; where the block raises, those that are left in it, and what the
        optimizer keeps for their s, are put back."""
        kept = {name: (w.u, w.v, w.s) for name, w in before.items()}
        middle = {name: self._factors[name][2] for name in before}
        states = {name: self.optimizer.state.get(s) for name, s in middle.items()}
        try:
            yield kept
        except BaseException:
            for name, tensors in kept.items():
                self.layers[name].set_weight(LowRank(*tensors))
                if states[name] is None:
                    self.optimizer.state.pop(middle[name], None)
                else:
                    self.optimizer.state[middle[name]] = states[name]
            raise


class _Overflow(Exception):
    """Scaled gradients were not finite."""


def _scaled(loss: Tensor, scaler) -> Tensor:
    return loss if scaler is None else scaler.scale(loss)


def _finite(gradients) -> bool:
    return all(bool(torch.isfinite(g.sum())) for g in gradients if g is not None)


def _check_settings(theta, multiplier, rule, every, min_rank, max_rank):
    one_of("DLRT", "rule", rule, RULES)
    if theta is not None:
        fraction("DLRT", "theta", theta, zero=True)
    positive("DLRT", "multiplier", multiplier)
    count("DLRT", "every", every)
    count("DLRT", "min_rank", min_rank)
    if max_rank is not None:
        count("DLRT", "max_rank", max_rank, min_rank)


def _detached(factors) -> LowRank:
    return LowRank(*(t.detach() for t in factors))


def _straight(q: Tensor) -> Tensor:
    """Nearly orthonormal columns made more so: a step of Newton's iteration for the polar
    factor."""
    return 1.5 * q - 0.5 * q @ (q.mH @ q)


def _is_orthonormal(w: LowRank) -> bool:
    """Whether u and v have orthonormal columns, up to the rounding of `STRAIGHTEN` steps and that
    of a QR, and s is square."""
    one = torch.eye(*w.s.shape).to(w.s)
    level = 4 * STRAIGHTEN * torch.finfo(w.dtype).eps * len(one) ** 0.5
    square = w.s.shape[0] == w.s.shape[1]
    return square and all(bool((q.mH @ q - one).norm() <= level) for q in (w.u, w.v))


def _diagonal(s: Tensor) -> Tensor | None:
    """σ, where s is diag(σ) with σ > 0 of a size that a product with it does not underflow; else
    None."""
    d = s.diagonal().real
    safe = torch.equal(s, torch.diag(s.diagonal())) and float(d.min()) > 1e-12 * float(d.max()) > 0
    return d if safe else None
