"""PROTES [Batsheva2023]: the smallest entry of a tensor known by its entries, sought with a train
that learns where to look.

    draw points from a train P, evaluate them, and move the cores up the gradient of
    (1/m) sum over the m best of log p(i);

    p(i) = p_0(i_0) p_1(i_1 | i_0) ... ,      p_k(j | i_0..i_{k-1}) ∝ |q_k G_k[j] z_{k+1}|
    q_{k+1} = q_k G_k[i_k] from the left,     z_k = sum_j G_k[j] z_{k+1} from the right

For cores without negative entries p = P / sum P. Steps bring minus signs in; then p is another
autoregressive distribution, as exactly normalized, and what is drawn is what is scored. No scale
matters, so q and z are brought to size 1 at every mode.

Three things are not in the paper. A point is evaluated once: known ones cost nothing and are drawn
anew. A few points of each batch, the mutants, are the best ones so far with one or two indices
changed. A constraint masks all: the model's zeros stay zeros, and no draw leaves the feasible set.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arguments import check_shape, count, is_integer, positive, returned, values_of
from ..fit import Fit
from ..formats.tt import TT
from ..linalg import dense_norm
from ..multilinear import check_int64, digit_shape, from_digits, index_keys
from ..rng import check_generator, rand

PATIENCE = 20  # batches without a new point after which a run ends
DRAWS = (
    4  # batches that are drawn, and as many of mutants, at most, to find one batch of new points
)
EVERY = 4  # modes after which what is multiplied along the train is brought to size 1
FLOOR = 1e-30  # added to each conditional that a constraint admits, so that none is 0/0


@dataclass(frozen=True)
class Optimum:
    """A multi-index and the value there."""

    index: tuple[int, ...]
    value: float


@dataclass(frozen=True, eq=False, repr=False)
class ProtesFit(Fit[Optimum]):
    """A `Fit` of a search; its history holds the best value after each batch, `converged` says that
    nothing new was left to draw.

    evaluations: distinct points that f was given. samples: points drawn, known ones included.
    reason: why the run ended. model: the train that was learned, for a warm start.

    >>> fit = protes(lambda i: 1.0 * (i - 2).square().sum(1), (5, 5), budget=25)
    >>> fit.value.index, fit.evaluations, fit.converged
    ((2, 2), 25, True)
    """

    evaluations: int = 0
    samples: int = 0
    reason: str = ""
    model: TT | None = None


@dataclass(frozen=True)
class Automaton:
    """A constraint on multi-indices: they are words that a finite automaton reads and accepts.

    step[s][i]: the state after index i in state s, or -1 where i is forbidden. accept: the states
    in which a word may end.

    >>> no_two_ones = Automaton(step=[[0, 1], [0, -1]], accept=[0, 1])
    >>> no_two_ones.tt((2, 2, 2)).to_dense().sum()
    tensor(5., dtype=torch.float64)
    """

    step: list[list[int]]
    accept: list[int]
    start: int = 0

    def tt(self, shape, *, device=None) -> TT:
        """The indicator as a train, its ranks the number of states [Batsheva2023]: G[s, i,
        step[s][i]] = 1."""
        states, shape = len(self.step), check_shape("Automaton.tt", shape)
        rows = [list(row) for row in self.step]
        if not states:
            raise ValueError("Automaton: needs at least one state, got none")
        named = (*sum(rows, []), *self.accept, self.start)
        wrong = [t for t in named if not is_integer(t) or not -1 <= t < states]
        if wrong or min(self.start, *self.accept, 0) < 0:
            raise ValueError(
                f"Automaton: needs states in 0..{states - 1}, -1 for a forbidden step, got "
                f"{(wrong or [-1])[0]}"
            )
        if min(map(len, rows)) < max(shape):
            raise ValueError(
                f"Automaton: needs {max(shape)} steps from each state for modes {shape}, got "
                f"{min(map(len, rows))}"
            )
        core = torch.zeros(states, max(shape), states + 1, dtype=torch.float64, device=device)
        to = torch.tensor([row[: max(shape)] for row in rows], device=device) % (states + 1)
        core.scatter_(2, to[..., None], 1.0)
        cores = [core[:, :n, :states] for n in shape]
        cores[0] = cores[0][self.start : self.start + 1]
        cores[-1] = cores[-1][:, :, sorted(set(self.accept))].sum(2, keepdim=True)
        return TT(tuple(cores))


def protes(
    f: Callable[[Tensor], Tensor],
    shape,
    *,
    budget: int,
    rank: int = 5,
    batch: int = 100,
    elite: int = 10,
    lr: float = 0.05,
    constraint: Automaton | TT | None = None,
    mutants: int | None = None,
    init: TT | None = None,
    quantized: bool = False,
    dtype: torch.dtype = torch.float64,
    device=None,
    generator: torch.Generator | None = None,
) -> ProtesFit:
    """The smallest value of f on a grid, and where, by sampling from a train that learns from the
    best points [Batsheva2023].

        cores <- cores + Adam(gradient of (1/elite) sum of log p(i) over a batch's `elite` best)

    f: (m, d) int64 on `device`, m <= batch -> (m,) floating, a tensor or an array of NumPy; inf for
        what is not wanted. It never gets a point twice.
    shape: (n_0, ..., n_{d-1}) of the grid.
    budget: the most points in all. The run also ends when every point is known, or after 20 batches
        without a new one.
    rank: of the train, with a constraint for each of its states.
    batch: how many points are drawn at a time.
    elite: how many of them the train learns from.
    lr: the rate of Adam.
    constraint: an `Automaton`, or a train whose cores are >= 0 and whose entries are > 0 where
        feasible, 0 elsewhere; f gets feasible points only. None: all points are feasible.
    mutants: how many points of a batch are changed copies of the best; None: a fifth.
    init: a train to begin from, such as `.model` of an earlier fit; None: random cores in [0, 1).
    quantized: the train, and the constraint, have the modes of `digit_shape(shape)`, each index in
        its prime digits; f gets plain ones.
    dtype, device: of the train; None: torch's default device.
    generator: draws points; None: torch's global one.

    Raises ValueError or TypeError for a bad argument, and for values of the wrong shape, not
    floating, NaN or -inf; RuntimeError from what f raises. From the first batch on, each of these
    carries the `ProtesFit` so far as `.partial`.

    >>> f, g = lambda i: (i - 3).square().sum(1).double(), torch.Generator().manual_seed(0)
    >>> fit = protes(f, (8,) * 10, budget=6000, generator=g)
    >>> fit.value.value, set(fit.value.index), fit.reason
    (0.0, {3}, 'the budget is spent')
    """
    search = Protes(
        shape,
        budget=budget,
        rank=rank,
        batch=batch,
        elite=elite,
        lr=lr,
        constraint=constraint,
        mutants=mutants,
        init=init,
        quantized=quantized,
        dtype=dtype,
        device=device,
        generator=generator,
    )
    try:
        while len(index := search.ask()):
            search.tell(values_of("protes", f, index))
    except (ValueError, TypeError, RuntimeError) as error:  # what f raises is the cause of the last
        error.partial = search.fit()
        raise
    return search.fit()


class Protes:
    """`protes` turned inside out: ask for points, evaluate them anywhere, tell their values; save
    and resume in between.

    shape, budget, rank, batch, elite, lr, constraint: as in `protes`.
    mutants, init, quantized, dtype, device, generator: as in `protes`.

    >>> search = Protes((4,) * 6, budget=600, generator=torch.Generator().manual_seed(0))
    >>> while len(index := search.ask()):
    ...     search.tell(index.double().sum(1))
    >>> search.fit().value.value, search.fit().evaluations
    (0.0, 600)

    `state_dict()` holds tensors and numbers only: `torch.save` it, `torch.load(...,
    weights_only=True)` it, and the search that is made with the same arguments and given it goes on
    with the same numbers; so does one that is pickled or copied.
    """

    def __init__(
        self,
        shape,
        *,
        budget,
        rank=5,
        batch=100,
        elite=10,
        lr=0.05,
        constraint=None,
        mutants=None,
        init=None,
        quantized=False,
        dtype=torch.float64,
        device=None,
        generator=None,
    ):
        self.shape = check_int64("protes", check_shape("protes", shape))
        self.budget, self.batch = count("protes", "budget", budget), count("protes", "batch", batch)
        rank, self.elite = count("protes", "rank", rank), count("protes", "elite", elite)
        mutants = self.batch // 5 if mutants is None else mutants
        self.mutants = count("protes", "mutants", mutants, 0)
        if self.elite > self.batch or self.mutants > self.batch:
            raise ValueError(
                f"protes: elite and mutants must be at most batch, {batch}, got {elite} and "
                f"{mutants}"
            )
        lr = positive("protes", "lr", lr)
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(f"protes: dtype must be torch.float32 or torch.float64, got {dtype!r}")
        check_generator("protes", generator)
        if generator is None:
            generator = torch.Generator().manual_seed(int(torch.randint(2**62, (), device="cpu")))
        self.lr, self.quantized, self.generator = lr, quantized, generator
        self.modes = digit_shape(self.shape) if quantized else self.shape
        device = torch.get_default_device() if device is None else torch.device(device)
        self.support = _support(constraint, self.modes, device)  # (d, s, n, s)
        ahead = _ahead(self.support)  # (d, s, n)
        if not ahead[0, 0].any():
            raise ValueError(
                "protes: needs a constraint that admits something, got one that admits nothing"
            )
        self.ahead, self.moves = ahead.to(dtype), self.support.transpose(1, 2).to(dtype)
        self.mask = _blocks(self.support, min(rank, max(1, _widest(self.modes)))).to(dtype)
        if init is None:
            drawn = rand(*self.mask.shape, generator=generator, dtype=dtype, device=device)
            self.cores = drawn * self.mask
        else:
            self.cores, self.mask = _started(init, self.modes, self.mask, constraint)
        self._begin(device)

    def _begin(self, device) -> None:
        """Nothing is learned, asked or known."""
        self.first, self.second = torch.zeros_like(self.cores), torch.zeros_like(self.cores)
        self.updates, self._summed = 0, (None, None)
        self.points = torch.zeros(0, len(self.modes), dtype=torch.int64, device=device)
        self.known, self.values = set(), torch.zeros(0, dtype=torch.float64, device=device)
        self.asked, self.samples, self.idle, self.share = None, 0, 0, 1.0
        self.history, self.reason = (), ""

    def ask(self) -> Tensor:
        """The next points to evaluate, (m, d) int64 with m <= batch, none asked before; (0, d) when
        the run has ended.

        Asked again before it is told, it gives the same points.
        """
        while self.asked is None and not self.reason:
            size = min(self.batch, self.budget - len(self.values))
            drawn = self.draw(math.ceil(self.batch / self.share))
            self.samples += len(drawn)
            fresh = self._fresh(drawn, {})
            self.share = max(1 / DRAWS, (self.share + len(fresh) / len(drawn)) / 2)
            own = min(self.mutants, size - 1) if len(self.values) else 0
            fresh = dict(list(fresh.items())[: size - own])
            for _ in range(DRAWS if len(self.values) else 0):
                if len(fresh) < size:
                    fresh |= self._fresh(self._mutate(self.batch), fresh)
            self._propose(list(fresh.values())[:size])
        return (
            self.points.new_zeros(0, len(self.shape))
            if self.reason
            else self._plain(self.asked.clone())
        )

    def tell(self, values: Tensor) -> None:
        """The values at the points of the last `ask`, (m,) floating: remember them, and learn from
        the best."""
        if self.asked is None:
            raise ValueError(
                "protes: needs points to be asked before values are told, got values alone"
            )
        values = self._checked(values)
        self.points, self.values = (
            torch.cat([self.points, self.asked]),
            torch.cat([self.values, values]),
        )
        order = values.argsort(stable=True)[: self.elite]  # equal ones as they came
        best, elite, self.asked = float(values[order[0]]), self.asked[order], None
        self.history = (*self.history, min((best, *self.history[-1:])))
        if len(self.values) == math.prod(self.modes):
            self.reason = "every point is known"
        elif len(self.values) >= self.budget:
            self.reason = SPENT
        else:
            self._learn(elite)

    def fit(self) -> ProtesFit | None:
        """What has been found so far; None before the first values."""
        if not len(self.values):
            return None
        i = int(self.values.argmin())
        where = Optimum(
            tuple(self._plain(self.points[i : i + 1])[0].tolist()), float(self.values[i])
        )
        model = TT(
            tuple(core[:r, :n, :q].clone() for core, r, n, q in zip(self.cores, *self._sizes()))
        )
        done = self.reason not in ("", SPENT)
        return ProtesFit(
            where,
            self.history,
            done,
            len(self.values),
            self.samples,
            self.reason or "not ended",
            model,
        )

    @torch.no_grad()
    def draw(self, n: int) -> Tensor:
        """n independent points of the model, (n, d), feasible and not yet remembered anywhere.

        >>> Protes((3, 2), budget=1, generator=torch.Generator().manual_seed(0)).draw(4).shape
        torch.Size([4, 2])
        """
        u = rand(
            n,
            len(self.modes),
            generator=self.generator,
            dtype=self.cores.dtype,
            device=self.cores.device,
        ).unbind(1)
        d, r, modes, _ = self.cores.shape
        leads = torch.einsum("krnq,kq->krn", self.cores, self._sums()[0][1:])
        q, state, rows = (
            self.cores.new_ones(n, r),
            self._states(n),
            modes * torch.arange(n, device=self.cores.device),
        )
        index = []
        for k, (core, lead) in enumerate(zip(self.cores.reshape(d, r, -1), leads)):
            i = _invert(_conditional(q @ lead, self._admitted(state, k)), u[k])
            q = (q @ core).view(n * modes, r).index_select(0, rows + i)
            q = q / _size(q) if k % EVERY == 0 else q
            state = self._after(state, k, i)
            index.append(i)
        return torch.stack(index, 1)

    def log_prob(self, index: Tensor) -> Tensor:
        """Log-probability of points, (n, d) -> (n,), in the modes of the model; -inf where the
        constraint forbids.

        >>> search = Protes((3, 2), budget=1, generator=torch.Generator().manual_seed(0))
        >>> search.log_prob(torch.cartesian_prod(torch.arange(3), torch.arange(2))).exp().sum()
        tensor(1.0000, dtype=torch.float64)
        """
        return _chain(self.cores, index, self._walk(index), self._sums())[0].log().sum(0)

    def state_dict(self) -> dict:
        """All that the search has become, tensors and numbers."""
        state = {name: getattr(self, name) for name in STATE}
        return state | {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        """Go on where another search, made with the same arguments, was saved. ValueError where it
        does not fit."""
        if state["cores"].shape != self.cores.shape:
            raise ValueError(
                f"protes: needs a state with cores {tuple(self.cores.shape)}, got "
                f"{tuple(state['cores'].shape)}"
            )
        for name in STATE:
            setattr(self, name, state[name])
        self.generator.set_state(state["generator"])
        seen = self.points if self.asked is None else torch.cat([self.points, self.asked])
        self.known = set(index_keys(seen, self.modes))

    @torch.no_grad()
    def _learn(self, elite: Tensor) -> None:
        """One step of Adam up the mean log-probability of the elite; what the mask holds at zero
        stays there."""
        gradient = _gradient(self.cores, elite, self._walk(elite), self._sums()) * self.mask
        self.updates += 1
        self.first, self.second = (
            self.first.lerp(gradient, 0.1),
            self.second.lerp(gradient.square(), 0.001),
        )
        mean, square = self.first / (1 - 0.9**self.updates), self.second / (1 - 0.999**self.updates)
        self.cores = self.cores + self.lr * mean / (square.sqrt() + 1e-8)

    def _sums(self):
        """`_right` of the cores, which drawing and learning from what was drawn both need; no core
        is ever changed in place."""
        if self._summed[0] is not self.cores:
            self._summed = self.cores, _right(self.cores)
        return self._summed[1]

    def _mutate(self, n: int) -> Tensor:
        """n copies of the best points so far, each with one or two indices changed, and led back to
        where the constraint admits."""
        best = self.points[self.values.argsort(stable=True)[: self.elite]]
        u = rand(n, 6, generator=self.generator, dtype=torch.float64, device=best.device)
        out, rows = best[(u[:, 0] * len(best)).long()], torch.arange(n, device=best.device)
        sizes = torch.tensor(self.modes, device=best.device)
        for t in (1, 3):
            k = (u[:, t] * len(sizes)).long()
            other = (out[rows, k] + 1 + (u[:, t + 1] * (sizes[k] - 1)).long()) % sizes[k]
            out[rows, k] = torch.where((u[:, 5] < 0.5) | (t == 1), other, out[rows, k])
        if self.support.shape[1] == 1:
            return out
        u, state = (
            rand(*out.shape, generator=self.generator, dtype=self.cores.dtype, device=best.device),
            self._states(n),
        )
        for k, i in enumerate(out.unbind(1)):
            admitted = self._admitted(state, k)
            out[:, k] = torch.where(admitted[rows, i] > 0, i, _invert(admitted, u[:, k]))
            state = self._after(state, k, out[:, k])
        return out

    def _plain(self, index: Tensor) -> Tensor:
        """Points in the modes of the model as f gets them."""
        return from_digits(index, self.shape) if self.quantized else index

    def _propose(self, points: list[Tensor]) -> None:
        if points:
            self.idle, self.asked = 0, torch.stack(points)
            self.known.update(index_keys(self.asked, self.modes))
            return
        self.idle += 1
        if self.idle >= PATIENCE:
            self.reason = f"{PATIENCE} batches brought no new point"

    def _fresh(self, index: Tensor, beside) -> dict[bytes, Tensor]:
        """The points that are neither known nor in `beside`, each once, by their keys."""
        return {
            key: row
            for key, row in zip(index_keys(index, self.modes), index)
            if key not in self.known and key not in beside
        }

    def _checked(self, values) -> Tensor:
        values, n = returned("protes", values, self.asked.device), len(self.asked)
        if values.shape != (n,):
            raise ValueError(
                f"protes: f must give values of shape ({n},) for an index of shape "
                f"{tuple(self.asked.shape)}, "
                f"got {tuple(values.shape)}"
            )
        if not values.is_floating_point():
            raise TypeError(f"protes: f must give floating values, got {values.dtype}")
        wrong = (values.isnan() | (values == -math.inf)).nonzero()
        if len(wrong):
            raise ValueError(
                f"protes: f must give numbers or inf, got {float(values[wrong[0, 0]])} at "
                f"{self._plain(self.asked)[wrong[0, 0]].tolist()}"
            )
        return values.detach().to(self.values)

    def _sizes(self):
        """Left ranks, modes and right ranks of the cores, without what they are padded with."""
        full = self.cores.shape[1]
        return (
            [1] + [full] * (len(self.modes) - 1),
            self.modes,
            [full] * (len(self.modes) - 1) + [1],
        )

    # which states of the constraint the points so far may be in, (n, s), and what these admit next,
    # (n, modes)

    def _states(self, n):
        return self.ahead.new_ones(n, 1).expand(n, self.support.shape[1])

    def _admitted(self, state, k):
        return (state @ self.ahead[k] > 0).to(self.ahead) if state.shape[1] > 1 else self.ahead[k]

    def _after(self, state, k, i):
        if state.shape[1] == 1:
            return state
        return (torch.bmm(state[:, None], self.moves[k].index_select(0, i))[:, 0] > 0).to(
            self.ahead
        )

    def _walk(self, index):
        """What is admitted at each mode along given points: (d, n, modes), or (d, 1, modes) where
        nothing depends on them."""
        if self.support.shape[1] == 1:
            return self.ahead
        state, out = self._states(len(index)), []
        for k, i in enumerate(index.unbind(1)):
            out.append(self._admitted(state, k))
            state = self._after(state, k, i)
        return torch.stack(out)


# ---------------------------------------------------------------------------- one chain, two sweeps


def _conditional(g: Tensor, admitted: Tensor) -> Tensor:
    """|g|, not yet divided by the sum: what is drawn from and what is scored. Where nothing is
    admitted g is 0, and stays so."""
    return torch.add(g.abs(), admitted, alpha=FLOOR)


def _invert(p: Tensor, u: Tensor) -> Tensor:
    """The index at which the running sum of each row of p first exceeds u times the whole: never
    one where p is 0."""
    c = p.cumsum(-1)
    return torch.searchsorted(c, u[:, None] * c[:, -1:], right=True)[:, 0]


def _size(x: Tensor) -> Tensor:
    return x.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)


def _right(cores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """z (d+1, r) near 1, the cores' sums over the index, (d, r, r), divided so that z_k = sums_k
    z_{k+1}, and by what, (d, 1)."""
    sums, z, by = cores.sum(2), [cores.new_ones(cores.shape[1])], [cores.new_ones(1)] * len(cores)
    for k in range(len(cores) - 1, -1, -1):
        z.append(torch.mv(sums[k], z[-1]))
        if k % EVERY == 0:
            by[k] = _size(z[-1])
            z[-1] = z[-1] / by[k]
    by = torch.stack(by)
    return torch.stack(z[::-1]), sums / by[:, :, None], by


def _left(chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q (d+1, n, r) near 1, `chosen`, G_k[i_k] of shape (d, n, r, r), divided so that q_{k+1} = q_k
    chosen_k, and by what."""
    d, n, r, _ = chosen.shape
    q, by = [chosen.new_ones(n, 1, r)], [chosen.new_ones(n, 1, 1)] * d
    for k, matrix in enumerate(chosen):
        q.append(torch.bmm(q[-1], matrix))
        if k % EVERY == 0:
            by[k] = _size(q[-1])
            q[-1] = q[-1] / by[k]
    by = torch.stack(by)
    return torch.stack(q)[:, :, 0], chosen / by, by[..., 0]


def _chain(cores: Tensor, index: Tensor, admitted: Tensor, right=None):
    """The conditional probability of each index, (d, n), and all on the way to it."""
    z, sums, by_z = right or _right(cores)
    q, chosen, by_q = _left(
        cores.transpose(1, 2)[torch.arange(len(cores), device=index.device)[:, None], index.T]
    )
    leads = torch.einsum("krnq,kq->krn", cores, z[1:])
    g = q[:-1] @ leads
    p = _conditional(g, admitted)  # (d, n, modes)
    total = p.sum(2, keepdim=True).clamp_min(
        FLOOR
    )  # of what is forbidden the probability is 0, not 0/0
    return (p / total).gather(2, index.T[..., None])[..., 0], (
        p,
        total,
        g,
        leads,
        q,
        chosen,
        by_q,
        z,
        sums,
        by_z,
    )


def _gradient(cores: Tensor, index: Tensor, admitted: Tensor, right=None) -> Tensor:
    """The gradient of the mean of log p(i) over feasible points (n, d), in two sweeps.

    e_k[j] = d log p_k / d g_k[j] = sign(g_k[j]) (1[j = i_k] / |g_k[i_k]| - 1 / sum |g_k|), g_k[j] =
    q_k G_k[j] z_{k+1} dz_{k+1} = sum_j e_k[j] q_k G_k[j] + dz_k M_k, M_k = sum_j G_k[j] from the
    left dq_k = sum_j e_k[j] G_k[j] z_{k+1} + G_k[i_k] dq_{k+1} from the right dG_k[j] = q_k (e_k[j]
    z_{k+1} + 1[j = i_k] dq_{k+1})' + dz_k z_{k+1}'
    """
    _, (p, total, g, leads, q, chosen, by_q, z, sums, by_z) = _chain(cores, index, admitted, right)
    hit = torch.nn.functional.one_hot(index.T, cores.shape[2]).to(cores)
    e = g.sign() * (hit / p.clamp_min(FLOOR) - 1 / total) / len(index)  # (d, n, modes)

    down = torch.einsum("kbr,kbj->krj", q[:-1], e)
    dz, direct = [torch.zeros_like(z[0])], torch.einsum("krj,krjq->kq", down, cores)
    for add, matrix in zip(direct[:-1], sums.mT):
        dz.append(torch.addmv(add, matrix, dz[-1]))
    dq, direct = [torch.zeros_like(q[0])[..., None]], (e @ leads.mT)[..., None]
    for k in range(len(cores) - 1, 0, -1):
        dq.append(torch.baddbmm(direct[k], chosen[k], dq[-1]))
    dz, dq = torch.stack(dz) / by_z, torch.stack(dq[::-1])[..., 0] / by_q

    right = e[..., None] * z[1:, None, None] + hit[..., None] * dq[:, :, None]  # (d, n, modes, r)
    return (
        torch.einsum("kbr,kbjq->krjq", q[:-1], right) + (dz[:, :, None] * z[1:, None])[:, :, None]
    )


# ------------------------------------------------------------------------------------ what comes in


SPENT = "the budget is spent"
STATE = "cores first second updates points values asked samples idle share history reason".split()


def _widest(modes) -> int:
    """The largest rank that a train of these modes can need."""
    return max(
        (min(math.prod(modes[:k]), math.prod(modes[k:])) for k in range(1, len(modes))), default=1
    )


def _support(constraint, modes, device) -> Tensor:
    """Which entries of the constraint's cores are not zero, padded to one shape: (d, s, n, s) bool;
    s = 1 without a constraint."""
    if constraint is None:
        constraint = TT(tuple(torch.ones(1, n, 1, device=device) for n in modes))
    elif isinstance(constraint, Automaton):
        constraint = constraint.tt(modes, device=device)
    elif not isinstance(constraint, TT):
        raise TypeError(
            f"protes: constraint must be an Automaton or a TT, got {type(constraint).__name__}"
        )
    if constraint.shape != tuple(modes):
        raise ValueError(
            f"protes: constraint must have the modes {tuple(modes)}, got {constraint.shape}"
        )
    if constraint.dtype.is_complex or any(not (core >= 0).all() for core in constraint.cores):
        raise ValueError(
            "protes: constraint must be a train of cores >= 0, got one with other numbers"
        )
    s = max(1, *constraint.ranks) if constraint.ranks else 1
    return _padded([core > 0 for core in constraint.cores], s, max(modes), device)


def _padded(cores, r, n, device) -> Tensor:
    out = torch.zeros(len(cores), r, n, r, dtype=cores[0].dtype, device=device)
    for k, core in enumerate(cores):
        out[k, : core.shape[0], : core.shape[1], : core.shape[2]] = core
    return out


def _ahead(support: Tensor) -> Tensor:
    """Whether index i in state s leads on to an accepted end: (d, s, n) bool."""
    alive, out = support.new_ones(support.shape[1]), []
    for core in support.flip(0):
        out.append((core & alive).any(2))
        alive = out[-1].any(1)
    return torch.stack(out[::-1])


def _blocks(support: Tensor, rank: int) -> Tensor:
    """The entries that the model may use: `rank` by `rank` for each of the support's, at the ends
    one row and one column."""
    mask = support.repeat_interleave(rank, 1).repeat_interleave(rank, 3)
    mask[0, 1:], mask[-1, :, :, 1:] = False, False
    return mask


def _started(init, modes, mask, constraint) -> tuple[Tensor, Tensor]:
    if not isinstance(init, TT):
        raise TypeError(f"protes: init must be a TT, got {type(init).__name__}")
    if init.shape != tuple(modes) or init.dtype.is_complex:
        raise ValueError(
            f"protes: init must be real with the modes {tuple(modes)}, got {init.dtype} with "
            f"{init.shape}"
        )
    if constraint is not None and set(init.ranks) != {mask.shape[1]}:
        raise ValueError(
            f"protes: init must have the ranks {mask.shape[1]} that the constraint asks for, got "
            f"{init.ranks}"
        )
    for core in init.cores:
        if dense_norm(core, "protes: init") == 0:
            raise ValueError("protes: init must be a train that is not zero, got a core of zeros")
    sized = [core.detach() / core.detach().abs().max() for core in init.cores]
    r = max(1, *init.ranks) if init.ranks else 1
    cores = _padded(sized, r, max(modes), mask.device).to(mask.dtype)
    if constraint is None:
        mask = _padded([torch.ones_like(core) for core in sized], r, max(modes), mask.device).to(
            mask.dtype
        )
    return cores * mask, mask
