"""Training of low-rank layers in tangent windows: ranks that fall to a budget, or grow to what the
outputs need [Ceruti2024].

At W = U S Vᴴ of rank r a window freezes U and V and trains B and A for some steps, at the dense
rate, from one pass a step:

    W = U Bᴴ + A Vᴴ = [U | A] [B | V]ᴴ             B = V S and A = 0 at its start
    gB = Gᴴ U,   gA = (1 - U Uᴴ) G V               the gradient's projection on the tangent space

At its end, with Q1 = orth [U | A] and Q2 = orth [B | V], the matrix is W = Q1 C Q2ᴴ exactly, and is
cut by what the layer gives for real inputs x, not by its weights:

    z = Q2ᴴ x,   R Rᴴ = cov z + δ 1,   P Σ · = svd(C R)
    W' = Q1 P' P'ᴴ C Q2ᴴ,   b' = b + (W - W') mean x         P': the first r' columns of P

No W' of rank r' is nearer in the mean square of the centered output. A new singular value is of
second order in the steps of a window, so a rank grows where a few directions more than needed, the
spares, go from one window to the next: in them it is of first order.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor

from ..arguments import count, fraction, one_of
from ..formats.lowrank import LowRank
from ..linalg import choose_rank, least_squares, orthonormal, root, small_svd, widen, zero_level
from .training import (
    MEANS,
    SQUARES,
    Idle,
    TrainingMethod,
    check_finite,
    check_optimizer,
    check_reached,
    check_trained,
    check_whole,
    evaluate,
    low_rank_layers,
    spared_buffers,
    unfrozen,
)

STEPS = ("tangent", "factors")
FALL = 0.5  # the share of the steps in which a budget falls to its end
RIDGE = 0.01  # δ, of the mean variance of z
LEAST = 0.1  # of the largest singular value: what the right one of two plain factors is scaled by


# ------------------------------------------------------------------------------- the parts of a cut


def recombined(w: LowRank) -> tuple[Tensor, Tensor, Tensor]:
    """Q1 (out, k), C (k, l), Q2 (in, l) with w = Q1 C Q2ᴴ, Q1 and Q2 orthonormal; C in double
    precision.

    >>> q1, c, q2 = recombined(LowRank(torch.ones(3, 1), torch.ones(4, 1)))
    >>> torch.allclose(q1 @ c.float() @ q2.mH, torch.ones(3, 4))
    True
    """
    q1, q2 = orthonormal(w.u), orthonormal(w.v)
    return q1, widen(q1.mH @ w.u) @ widen(q2.mH @ w.v).mH, q2


def output_svd(c: Tensor, moment: Tensor | None = None, ridge: float = RIDGE):
    """P, Σ of C R, R Rᴴ = moment + ridge · its mean eigenvalue; without a moment those of C.

    The tail of Σ over |Σ| is the relative error of the output where P keeps the columns before it.
    moment: (l, l), of the inputs in the coordinates of C's columns.

    >>> c, moment = torch.diag(torch.tensor([2.0, 1.0])), torch.diag(torch.tensor([1.0, 100.0]))
    >>> [output_svd(c, m)[0][:, 0].abs().tolist() for m in (None, moment)]
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if moment is not None and float(size := moment.diagonal().real.mean()) > 0:
        c = c @ torch.linalg.cholesky(moment + ridge * size * torch.eye(*moment.shape).to(moment))
    p, sigma, _ = small_svd(c)
    return p, sigma


def affordable(
    sigma: dict[str, Tensor], price: dict[str, int], numbers: float, least: int = 2
) -> dict[str, int]:
    """Ranks that spend at most these numbers: the best share σ²/|σ|² for its cost first, 0 in a
    layer of zeros, at least `least` for each layer.

    >>> sigma = {"a": torch.tensor([2.0, 1.0, 0.1]), "b": torch.tensor([1.0, 1.0, 1.0])}
    >>> affordable(sigma, {"a": 10, "b": 10}, 50, 1)
    {'a': 2, 'b': 3}
    """
    least = count("affordable", "least", least, 0)
    ranks = {name: min(least, len(s)) for name, s in sigma.items()}
    left = numbers - sum(r * price[name] for name, r in ranks.items())
    size = lambda s: torch.linalg.vector_norm(s).clamp_min(torch.finfo(s.dtype).tiny)
    shares = {name: (s / size(s)).square().tolist() for name, s in sigma.items()}
    offers = [
        (share / price[name], name)
        for name, mine in shares.items()
        for share in mine[ranks[name] :]
    ]
    for _, name in sorted(offers, key=lambda offer: -offer[0]):
        if price[name] <= left:
            ranks[name] += 1
            left -= price[name]
    return ranks


class _Seen:
    """Sums over the inputs of a layer in the coordinates z = Q2ᴴ x."""

    def __init__(self, q2: Tensor):
        self.q2, self.rows, self.total, self.gram = q2, 0, 0.0, 0.0

    def add(self, layer, args) -> None:
        """What a layer is given, as its forward pre-hook."""
        z = widen(layer.coordinates(args[0].to(self.q2.dtype), self.q2)).flatten(0, -2)
        self.rows, self.total = self.rows + len(z), self.total + z.sum(0)
        self.gram = self.gram + z.mT @ z.conj()

    def moments(self, centered: bool) -> tuple[Tensor | None, Tensor]:
        """The mean of z, where the bias can take it, and its covariance; or none and the second
        moment."""
        mean, second = self.total / self.rows, self.gram / self.rows
        return (mean, second - torch.outer(mean, mean.conj())) if centered else (None, second)


# ----------------------------------------------------------------------------------- what is held


def window(u: Tensor, s: Tensor, v: Tensor) -> LowRank:
    """u diag(s) vᴴ as the start of a window: [U | A] and [B | V], A = 0, B = V S."""
    return LowRank(torch.cat([u, torch.zeros_like(u)], 1), torch.cat([v * s, v], 1))


def factors(u: Tensor, s: Tensor, v: Tensor, least: float = 0.0) -> LowRank:
    """u diag(s) vᴴ as two balanced factors; v is scaled by at least √(least · s_1), so that a value
    of zero can grow."""
    t = root(s.clamp_min(least * float(s[0])))
    return LowRank(u * (s / t.clamp_min(torch.finfo(s.dtype).tiny)), v * t)


def moved(left: dict, right: dict, old: LowRank, new: LowRank, steps: str) -> tuple[dict, dict]:
    """What an optimizer keeps for the two factors of a layer, at the new ones: averages M of the
    gradient are projected, averages of its squares move as if entries were uncorrelated. Two empty
    dicts where the optimizer keeps something else: then it starts anew.

        tangent, M = U mbᴴ + ma Vᴴ:   mb' = Mᴴ U',   ma' = (1 - U' U'ᴴ) M V'
        factors, mu = M v, mv = Mᴴ u:  mu' = mu (v⁺ v'),   mv' = mv (u⁺ u')

    left, right: the optimizer's state of the two factors, at the old ones.
    old, new: the layer's weight before and after.
    steps: "tangent" or "factors", what the optimizer has stepped in.

    A mean square stays at least the square of the mean: where an input is always zero it is zero,
    and the mean, projected, is not.
    """
    means, squares = (_moved_window if steps == STEPS[0] else _moved_factors)(old, new)
    keys, known = left.keys() | right.keys(), {"step"} | MEANS | SQUARES
    anew = "grad_avg" in keys or (keys & SQUARES and old.u.is_complex())
    if left.keys() != right.keys() or not keys <= known or anew:
        return {}, {}
    out = {}, {}
    for key in left:
        pair = left[key], right[key]
        if not isinstance(pair[0], Tensor) or pair[0].ndim == 0:
            pair = tuple(t.clone() if isinstance(t, Tensor) else t for t in pair)
        else:
            pair = (means if key in MEANS else squares)(*pair)
        for state, value in zip(out, pair):
            state[key] = value
    for state in out if "exp_avg" in keys else ():
        for key in state.keys() & SQUARES:
            state[key] = torch.maximum(state[key], state["exp_avg"].square())
    return out


def _moved_window(old, new):
    r, k = old.u.shape[1] // 2, new.u.shape[1] // 2
    u, v, u1, v1 = old.u[:, :r], old.v[:, r:], new.u[:, :k], new.v[:, k:]
    uu, vv = u.mH @ u1, v.mH @ v1

    def means(mu, mv):
        ma, mb = mu[:, r:], mv[:, :r]
        a = u @ (mb.mH @ v1) + ma @ vv
        return _right(a - u1 @ (u1.mH @ a)), _left(mb @ uu + v @ (ma.mH @ u1))

    def spread(x, turn):
        turn = turn.abs().square()
        return x @ turn + (1 - turn.sum(0)).clamp_min(0) * x.mean(1, keepdim=True)

    squares = lambda su, sv: (_right(spread(su[:, r:], vv)), _left(spread(sv[:, :r], uu)))
    return means, squares


def _moved_factors(old, new):
    by_u, by_v = (
        least_squares(widen(a), widen(b), 1e-6).to(a.dtype)
        for a, b in ((old.v, new.v), (old.u, new.u))
    )
    means = lambda mu, mv: (mu @ by_u, mv @ by_v)
    squares = lambda su, sv: (su @ by_u.abs().square(), sv @ by_v.abs().square())
    return means, squares


def _left(x: Tensor) -> Tensor:
    return torch.cat([x, torch.zeros_like(x)], 1)


def _right(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x), x], 1)


# ------------------------------------------------------------------------------------ the training


class TangentDLRT(TrainingMethod):
    """Trains layers on a `LowRank` in tangent windows, at the cost and the learning rate of dense
    training; ranks fall to a budget, or grow and fall to what the outputs need [Ceruti2024].

    model: with `FactorizedLinear` and `FactorizedConv2d` layers on a `LowRank` of two factors.
    optimizer: any of torch's that needs no closure; it steps the factors, biases and dense layers,
        at the dense network's rate.
    total: the steps of the whole training; after the last the layers are cut once more and become
        two balanced factors of the ranks that stay.
    budget: numbers in the low-rank layers at the end, Σ r (out + in). What they may hold falls to
        it in the first half, N(t) = N1 + (N0 - N1) (1 - 2t)³; start with ranks of a third of the
        sides.
    theta: instead of a budget, the relative error of the output at each cut; start from any rank.
    inputs: runs the model on about a thousand training rows, the same in all processes; it is
        called at each cut, without gradients. None: cut by weights, and biases stay.
    steps: "tangent", or "factors", the cheap choice: plain steps on both factors at the rate of
        their group, under the same cuts.
    window: steps from one cut to the next.
    spares: how many directions more `theta` keeps while training, so that a rank can grow.
    min_rank: of each layer.

    `step(closure)` makes the whole step; or, in the caller's loop, `loss.backward()` as often as
    gradients are to be summed, clipping, and `step()`. What a window freezes has no gradient. A
    `GradScaler` takes it as an optimizer, and steps that it skips are not counted; schedulers take
    `optimizer`; `finish` ends a training before its total.

    Raises ValueError where nothing would be trained, for an optimizer without the factors, and for
    settings out of range.

    >>> from tensorlab import LowRank, replace_linear
    >>> x = torch.randn(64, 9, generator=torch.Generator().manual_seed(0))
    >>> model = torch.nn.Sequential(torch.nn.Linear(9, 8))
    >>> model = replace_linear(model, "0", LowRank.from_dense, rank=4)
    >>> sgd = torch.optim.SGD(model.parameters(), 0.1)
    >>> run = lambda: model(x)
    >>> method = TangentDLRT(model, sgd, budget=34, total=20, window=5, inputs=run)
    >>> losses = [float(method.step(lambda: model(x).square().mean())) for _ in range(20)]
    >>> losses[-1] < losses[0], method.ranks, method.numbers
    (True, {'0': 2}, 34)
    """

    def __init__(
        self,
        model,
        optimizer,
        *,
        total: int,
        budget: int | None = None,
        theta: float | None = None,
        inputs: Callable[[], object] | None = None,
        steps: str = "tangent",
        window: int = 50,
        spares: int = 4,
        min_rank: int = 2,
    ):
        _check_settings(total, budget, theta, steps, window, spares, min_rank)
        self.model, self.optimizer, self.inputs = model, optimizer, inputs
        self.layers = low_rank_layers("TangentDLRT", model, 2)
        self.total, self.budget, self.theta = total, budget, theta
        self.kind, self.window, self.spares, self.min_rank = steps, window, spares, min_rank
        self.steps, self.open, self._idle = 0, False, Idle("TangentDLRT")
        check_optimizer("TangentDLRT", optimizer)
        self.first = self.numbers
        self._open(self._trained())
        for layer in self.layers.values():
            for side, factor in enumerate(layer.tensors):
                factor.register_hook(partial(self._projected, layer, side))

    @property
    def param_groups(self) -> list[dict]:
        """The optimizer's groups, for a `GradScaler`."""
        return self.optimizer.param_groups

    @property
    def ranks(self) -> dict[str, int]:
        """The rank that each layer had after the last cut, spares included, by name; within a
        window it uses up to twice as many."""
        many = 2 if self._in_window else 1
        return {name: layer.weight.ranks[0] // many for name, layer in self.layers.items()}

    @property
    def numbers(self) -> int:
        """What the factors of all layers store at these ranks, Σ r (out + in)."""
        return sum(r * sum(self.layers[name].weight.shape) for name, r in self.ranks.items())

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step of the optimizer in the window, and a cut where one ends; returns the loss
        before it.

        closure: computes and returns the loss of the batch, no backward; without one the gradients
        that are there are taken. Raises ValueError if the loss depends on no low-rank layer,
        FloatingPointError at the next cut if the training diverges.
        """
        names, loss = self._trained(), None
        if closure is not None:
            self.zero_grad()
            loss = evaluate("TangentDLRT.step", closure)
            loss.backward()
            loss = loss.detach()
        reached = {n for n in names if self.layers[n].tensors[0].grad is not None}
        check_reached("TangentDLRT.step", names, reached)
        self._idle.note(names, reached)
        held = {name: self._held(name) for name in names} if self._in_window else {}
        self.optimizer.step()
        for name, fast in held.items():
            self._hold(name, *fast)
        self.steps += 1
        if self.open and (self.steps % self.window == 0 or self.steps == self.total):
            self._cut(last=self.steps >= self.total)
        return loss

    def zero_grad(self) -> None:
        """Forget the gradients of all that is trained."""
        self.optimizer.zero_grad(set_to_none=True)

    def finish(self) -> None:
        """The last cut, without spares; layers become two balanced factors, which later steps train
        as they are. `step` does it after `total` steps."""
        if self.open:
            self._cut(last=True)

    def state_dict(self) -> dict:
        """What a checkpoint needs besides the model's: the optimizer's state, the steps, whether a
        window is open, and the numbers at the start."""
        return super().state_dict() | {"open": self.open, "first": self.first}

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken; the model's own state is loaded first."""
        super().load_state_dict(state)
        self.open, self.first = state["open"], state["first"]

    @property
    def _in_window(self) -> bool:
        return self.open and self.kind == STEPS[0]

    def _trained(self) -> list[str]:
        """The names of the layers that are not frozen."""
        check_whole("TangentDLRT", self.model, self.optimizer)
        tensors = {name: list(layer.tensors) for name, layer in self.layers.items()}
        names = unfrozen("TangentDLRT", tensors)
        held = {f"factor {k} of layer {n!r}": t for n in names for k, t in enumerate(tensors[n])}
        check_trained("TangentDLRT", self.optimizer, held)
        return names

    # ------------------------------------------------------------------------------- in a window

    def _projected(self, layer, side: int, g: Tensor) -> Tensor:
        """Of a factor's gradient, what is tangent and not held fast: a hook, so that sums, norms
        and averages over processes are of nothing else."""
        if not self._in_window:
            return g
        r = g.shape[1] // 2
        if side:
            return _left(g[:, :r])
        u, a = layer.tensors[0].detach()[:, :r], g[:, r:]
        return _right(a - u @ (u.mH @ a))

    def _held(self, name):
        u, v = (t.detach() for t in self.layers[name].tensors)
        r = u.shape[1] // 2
        return u[:, :r].clone(), v[:, r:].clone()

    @torch.no_grad()
    def _hold(self, name, u0, v0) -> None:
        """U and V as before the step, whatever the optimizer made of them, such as a decay; and an
        A that is tangent where it steps entry by entry."""
        u, v = (t.detach() for t in self.layers[name].tensors)
        r = u0.shape[1]
        u[:, :r], v[:, r:] = u0, v0
        if not isinstance(self.optimizer, torch.optim.SGD):
            u[:, r:] -= u0 @ (u0.mH @ u[:, r:])

    # ------------------------------------------------------------------------- from one to the next

    @torch.no_grad()
    def _open(self, names) -> None:
        """The first windows, at the present weights."""
        for name in names:
            q1, c, q2 = recombined(self.layers[name].weight)
            x, s, yh = (t.to(q1.dtype) for t in small_svd(c))
            for p in self.layers[name].tensors:
                self.optimizer.state.pop(p, None)
            self.layers[name].set_weight(self._form(q1 @ x, s, q2 @ yh.mH))
        self.open = True

    def _form(self, u, s, v, last=False) -> LowRank:
        if last:
            return factors(u, s, v)
        return window(u, s, v) if self.kind == STEPS[0] else factors(u, s, v, LEAST)

    @torch.no_grad()
    def _cut(self, last: bool) -> None:
        """Recombine each layer, cut it, and open the next window, or none."""
        parts = {name: recombined(self.layers[name].weight) for name in self._trained()}
        for name, (_, c, _) in parts.items():
            check_finite("TangentDLRT", name, self.steps, c)
        seen = self._moments({name: q2 for name, (_, _, q2) in parts.items()})
        found = {n: output_svd(c, seen[n][1]) for n, (_, c, _) in parts.items()}
        ranks = self._chosen({name: sigma for name, (_, sigma) in found.items()}, last)
        for name, (q1, c, q2) in parts.items():
            p, mean = found[name][0][:, : ranks[name]], seen[name][0]
            if mean is not None:
                rest = (c - p @ (p.mH @ c)) @ mean
                self.layers[name].bias += q1 @ rest.to(q1.dtype)
            x, s, yh = (t.to(q1.dtype) for t in small_svd(p.mH @ c))
            self._put(name, self._form(q1 @ (p.to(x.dtype) @ x), s, q2 @ yh.mH, last), last)
        self.open = not last

    def _moments(self, bases) -> dict[str, tuple[Tensor | None, Tensor | None]]:
        """Mean and covariance of each layer's inputs in these bases, from one run of `inputs`."""
        if self.inputs is None:
            return dict.fromkeys(bases, (None, None))
        seen = {name: _Seen(q2) for name, q2 in bases.items()}
        with ExitStack() as hooks, spared_buffers(self.model):
            for name, sums in seen.items():
                hook = self.layers[name].register_forward_pre_hook(sums.add)
                hooks.callback(hook.remove)
            self.inputs()
        if missed := [name for name, sums in seen.items() if not sums.rows]:
            raise ValueError(f"TangentDLRT: inputs needs to run layer {missed[0]!r}, got none")
        biases = {name: self.layers[name].bias for name in seen}
        return {
            name: sums.moments(biases[name] is not None and biases[name].requires_grad)
            for name, sums in seen.items()
        }

    def _chosen(self, sigma: dict[str, Tensor], last: bool) -> dict[str, int]:
        """The ranks to keep."""
        if self.budget is not None:
            t = 1.0 if last else min(self.steps / (FALL * self.total), 1.0)
            numbers = self.budget + (self.first - self.budget) * (1 - t) ** 3
            price = {name: sum(self.layers[name].weight.shape) for name in sigma}
            return affordable(sigma, price, numbers, self.min_rank)
        ranks = {}
        for name, s in sigma.items():
            level = max(self.theta, zero_level(self.layers[name].weight.dtype))
            r = choose_rank(s, atol=level * float(torch.linalg.vector_norm(s)))
            ranks[name] = min(max(r + (0 if last else self.spares), self.min_rank), len(s))
        return ranks

    def _put(self, name, w: LowRank, last: bool) -> None:
        """A layer's new weight, and what the optimizer keeps for its factors at it."""
        layer = self.layers[name]
        old = LowRank(*(t.detach() for t in layer.tensors))
        layer.set_weight(w)
        left, right = (self.optimizer.state.get(p, {}) for p in layer.tensors)
        if not (left or right):
            return
        kept = ({}, {}) if last else moved(left, right, old, w, self.kind)
        for p, state in zip(layer.tensors, kept):
            self.optimizer.state[p] = state


def _check_settings(total, budget, theta, steps, window, spares, min_rank):
    who = "TangentDLRT"
    if (budget is None) == (theta is None):
        raise ValueError(f"{who}: needs one of budget and theta, got {budget=}, {theta=}")
    if theta is not None:
        fraction(who, "theta", theta, zero=True)
    else:
        count(who, "budget", budget)
    one_of(who, "steps", steps, STEPS)
    for name, value in (("total", total), ("window", window), ("min_rank", min_rank)):
        count(who, name, value)
    count(who, "spares", spares, 0)
