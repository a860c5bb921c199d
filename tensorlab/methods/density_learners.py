"""How the trains of a density are found: a start by EM and three ways to learn [Novikov2021].

    natural         sweeps over the cores, a step of the natural gradient with a line search in each
    adam            Adam on all cores at -log sum_c q_c(x)^2 + log sum_c Z_c
    least_squares   Riemannian descent on |A|^2 - 2 E q(x), for a linear model

Each takes the `Task` and the trains of the start, and gives back the trains that are best on the
rows held out, with the history (step, seconds, value on those rows).
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..clusters import kmeans, nearest
from ..formats.tt import TT
from ..formats.tt_manifold import descend, riemannian_grad
from ..formats.tt_sampling import tt_sum
from ..linalg import orthogonalize
from ..rng import randn
from .spline_trains import active_slices, bare, log_square, mean_log, mean_value, whitened
from .splines import Splines, Where

EM_ROWS = 20_000  # that the start looks at
STEPS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.3)  # tried on a line
History = tuple[tuple[int, float, float], ...]


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be learned, from which rows and with which settings.

    train, check: rows (n, d) to fit and to judge by. orders: of each train, the variables of its
    modes. began: when, by `time.perf_counter`. batch: rows of a step; noise: what is added to them,
    folded back into [0, 1] where `folded`.
    """

    splines: Splines
    orders: list[list[int]]
    train: Tensor
    check: Tensor
    generator: torch.Generator
    began: float
    steps: int
    batch: int
    lr: float
    noise: float
    folded: bool

    def rows(self) -> Tensor:
        """A batch of the rows to fit, with its noise."""
        x = self.train
        n = min(self.batch, len(x))
        x = x[torch.randperm(len(x), generator=self.generator, device=x.device)[:n]]
        if self.noise:
            options = dict(generator=self.generator, dtype=x.dtype, device=x.device)
            x = x + self.noise * randn(*x.shape, **options)
        return 1 - (1 - x.remainder(2)).abs() if self.folded else x

    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.perf_counter() - self.began


class _Best:
    """The trains of the greatest value so far, and the history of all values."""

    def __init__(self, task: Task):
        self.task, self.kept, self.value = task, None, -math.inf
        self.history: list[tuple[int, float, float]] = []

    def see(self, step: int, value: float, trains: Callable[[], list]) -> None:
        """Record a value, and keep the trains if they are better than all before."""
        self.history.append((step, self.task.seconds(), value))
        if value > self.value:
            self.kept, self.value = trains(), value

    def result(self, said: str = "") -> tuple[list[TT], History]:
        """What was best. Raises FloatingPointError if no value was a number."""
        if self.kept is None:
            raise FloatingPointError(f"TTDensity.fit: needs steps that stay finite, got none{said}")
        trains = [TT(tuple(core.contiguous() for core in train)) for train in self.kept]
        return trains, tuple(self.history)


# ---------------------------------------------------------------------------------------- the start


def start_trains(task: Task, rank: int, em_steps: int, root: bool) -> list[TT]:
    """A train for each order of the variables: mixtures of `rank` products, rooted for a squared
    model."""
    first = task.train[:EM_ROWS]
    where, trains = task.splines.at(first), []
    for variables in task.orders:
        mixture = product_mixture(where, task.splines, rank, em_steps, first, task.generator)
        trains.append(diagonal(mixture, variables, root, task.generator))
    return trains


def product_mixture(
    where: Where, splines: Splines, rank: int, steps: int, x: Tensor, generator
) -> tuple[Tensor, Tensor]:
    """A mixture of products of one-dimensional spline densities, by EM: shares (R,), coefficients
    (R, d, m) with sum_i w_i c_i = 1.

        gamma[n, r] ~ share_r prod_k p_rk(x_nk);   share <- mean gamma
        w_i <- w_i / (c_i sum_n gamma_n) sum_n gamma_n b_i(x_n) / p(x_n)

    where: the rows x in the basis of `splines`.
    splines: the bases of the d variables.
    rank: R, the number of products.
    steps: of EM, at least one.
    x: (n, d), the rows; EM starts from their cells under k-means.
    generator: draws the start of k-means; None: torch's global one.

    The coefficients keep one thousandth of the uniform density.
    """
    n, d, width = where.values.shape
    tiny = torch.finfo(x.dtype).tiny
    even = 1 / splines.integral.sum(1)  # each the uniform density
    w = even[None, :, None].repeat(rank, 1, splines.integral.shape[1])
    flat = where.interval[..., None] + torch.arange(width, device=x.device)  # (n, d, q + 1)
    gamma = _cells(x, rank, generator)
    for _ in range(max(1, steps)):
        share = gamma.mean(0).clamp_min(tiny)
        log, total = share.log(), len(x) * share
        for k in range(d):
            terms = w[:, k][:, flat[:, k]] * where.values[:, k]  # (R, n, q + 1)
            terms = terms * (gamma.T / terms.sum(2).clamp_min(tiny))[..., None]
            new = w.new_zeros(rank, w.shape[2])
            new.index_add_(1, flat[:, k].flatten(), terms.flatten(1))
            new = new / (splines.integral[k] * total[:, None])
            w[:, k] = 0.999 * new + 0.001 * even[k]
            value = (w[:, k][:, flat[:, k]] * where.values[:, k]).sum(2)  # (R, n)
            log = log + value.T.clamp_min(tiny).log()
        gamma = log.softmax(1)
    return share, w


def _cells(x: Tensor, rank: int, generator) -> Tensor:
    """Shares (n, rank) of the cells of three steps of k-means, a tenth spread over all."""
    centers = kmeans(x, min(rank, len(x)), max_iter=3, generator=generator).value
    cell = torch.nn.functional.one_hot(nearest(x, centers), rank).to(x)
    return 0.9 * cell + 0.1 / rank


def diagonal(mixture, order, root: bool, generator) -> TT:
    """The mixture as a train with diagonal cores, its coefficients rooted for a squared model, and
    one per cent of noise."""
    share, w = mixture
    w = w[:, order].clone()
    if len(order) == 1:
        core = torch.einsum("r,rm->m", share, w[:, 0])[None, :, None]
        return TT((core.sqrt() if root else core,))
    w[:, 0] = w[:, 0] * share[:, None]
    w = w.sqrt() if root else w
    middle = (torch.diag_embed(w[:, k].T).permute(1, 0, 2) for k in range(1, len(order) - 1))
    cores = [w[:, 0].T[None], *middle, w[:, -1][..., None]]
    options = dict(generator=generator, dtype=w.dtype, device=w.device)
    noise = lambda core: 0.01 * core.abs().mean() * randn(*core.shape, **options)
    return TT(tuple((core + noise(core)).contiguous() for core in cores))


def of_mass_one(train: TT, splines: Splines, spread: Tensor) -> TT:
    """A linear train over its integral, for variables in units of `spread`, which may be of any
    size."""
    sign, log = tt_sum(train, list(splines.integral))
    if sign <= 0:
        raise ValueError(
            "TTDensity.fit: needs a linear model of positive integral, got another; take more data"
        )
    cores = [core / unit for core, unit in zip(train.cores, spread)]
    return TT(tuple(cores)).scale(float(torch.exp(-log)))


# ------------------------------------------------------------------------------------- the learners


def natural(task: Task, trains: list[TT]) -> tuple[list[TT], History]:
    """Sweeps of the natural gradient over each component, its rows weighted by their
    responsibilities, as in EM.

    Directions come from a batch, their lengths from the rows held out.
    """
    roots, held = torch.linalg.cholesky(task.splines.gram), task.splines.at(task.check)
    inner = [whitened(t, o, roots).orthogonal(0).cores for t, o in zip(trains, task.orders)]
    inner = [list(cores) for cores in inner]
    shares = torch.stack([cores[0].norm().square() for cores in inner])
    best = _Best(task)
    for step in range(task.steps + 1):
        _share_out(inner, shares / shares.sum())
        now = [
            [bare(g, roots[k]) for k, g in zip(o, cores)] for o, cores in zip(task.orders, inner)
        ]
        with torch.no_grad():
            value = float(mean_log(now, task.orders, task.splines, held))
        best.see(step, value, lambda now=now: now)
        if step < task.steps:
            shares = _sweep_all(task, inner, now, roots)
    return best.result()


def _share_out(inner: list, shares: Tensor) -> None:
    """Give each whitened train its share of the mass, in its first core."""
    for cores, share in zip(inner, shares):
        cores[0] = cores[0] * (share.sqrt() / cores[0].norm())


def _sweep_all(task: Task, inner: list, now: list, roots: Tensor) -> Tensor:
    """A sweep there and back in each component, on a batch; the new shares of the components."""
    batch = task.rows()
    where = task.splines.at(torch.cat([batch, task.check]))
    learns = torch.arange(len(batch) + len(task.check), device=batch.device) < len(batch)
    with torch.no_grad():
        logs = [log_square(cores, o, where) for cores, o in zip(now, task.orders)]
        weights = torch.stack(logs).softmax(0)
    for cores, order, weight in zip(inner, task.orders, weights):
        fit, judge = weight * learns, weight * ~learns
        for variables in (order, order[::-1]):
            natural_sweep(cores, [roots[k] for k in variables], variables, where, fit, judge)
            cores[:] = [core.permute(2, 1, 0) for core in cores[::-1]]
    return weights[:, learns].mean(1)


def natural_sweep(cores: list, roots, order, where: Where, weight: Tensor, judge: Tensor) -> None:
    """One step of the natural gradient in each core of a squared train, from the first to the last;
    changes `cores`.

        H = sum_n w_n phi_n / q(x_n) / sum_n w_n,     q(x_n) = <G, phi_n>
        G_t = (1 - t) G + t H,     t = argmax of  sum_n w_n log q_t(x_n)^2 / |G_t|^2

    The direction from G is H - G, for p = q^2 of norm 1 has the Fisher information 4 times the
    metric of L2. On the line q_t(x_n) is linear in t, so it is searched without further passes over
    the data; t is the best for the rows of `judge` in place of w. Rows that did not make H keep a
    step from following their noise.

    cores: of the train, (r, m, q) each, whitened, G' = Cᵀ G with D = C Cᵀ, and right-orthonormal
        but for the first; they end left-orthonormal but for the last.
    roots: the C of each variable.
    order: the variable of each mode.
    where: the rows in the spline basis.
    weight: w, (n,) >= 0, of the rows that make H.
    judge: (n,) >= 0, of the rows that choose t.

    phi_n / q(x_n) does not change with the size of phi_n, so rows are kept at norm 1; a q that is
    small beside theirs counts as no smaller than 1% of its root mean square.
    """
    n, d = len(weight), len(cores)
    local = lambda core, k: active_slices(
        bare(core, roots[k]), where.interval[:, order[k]], where.values[:, order[k]]
    )
    rights = [cores[0].new_ones(n, 1)]
    for k in range(d - 1, 0, -1):
        rights.insert(0, _unit((local(cores[k], k) @ rights[0][..., None])[..., 0]))
    row = cores[0].new_ones(n, 1)
    for k in range(d):
        value = lambda core, k=k, row=row: ((row[:, None] @ local(core, k))[:, 0] * rights[k]).sum(
            1
        )
        core = (cores[k] / cores[k].norm()).requires_grad_()
        q = value(core)
        inverse = q.detach() / (q.detach().square() + 1e-4 * q.detach().square().mean())
        (h,) = torch.autograd.grad((weight * inverse * q).sum() / weight.sum(), core)
        core, q = core.detach(), q.detach()
        with torch.no_grad():
            s = value(h)
            gains = [
                float(
                    (judge * ((1 - t) * q + t * s).square().clamp_min(1e-30).log()).sum()
                    / judge.sum()
                    - ((1 - t) * core + t * h).square().sum().log()
                )
                for t in STEPS
            ]
            t = STEPS[max(range(len(STEPS)), key=gains.__getitem__)]
            cores[k] = (1 - t) * core + t * h
            if k < d - 1:
                r, m, _ = core.shape
                basis, rest = orthogonalize(cores[k].reshape(r * m, -1))
                cores[k], cores[k + 1] = (
                    basis.reshape(r, m, -1),
                    torch.tensordot(rest, cores[k + 1], 1),
                )
                row = _unit((row[:, None] @ local(cores[k], k))[:, 0])


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)


def adam(task: Task, trains: list[TT]) -> tuple[list[TT], History]:
    """Adam on -log sum_c q_c(x)^2 + log sum_c Z_c, its rate falling to 0."""
    cores = [[core.clone().requires_grad_() for core in train.cores] for train in trains]
    optimizer = torch.optim.Adam([c for train in cores for c in train], task.lr, betas=(0.9, 0.99))
    held, best = task.splines.at(task.check), _Best(task)
    copies = lambda: [[core.detach().clone() for core in train] for train in cores]
    for step in range(task.steps + 1):
        if step % max(1, task.steps // 10) == 0 or step == task.steps:
            with torch.no_grad():
                value = float(mean_log(cores, task.orders, task.splines, held))
            best.see(step, value, copies)
        if step < task.steps:
            optimizer.param_groups[0]["lr"] = task.lr * (1 - step / task.steps)
            optimizer.zero_grad()
            where = task.splines.at(task.rows())
            (-mean_log(cores, task.orders, task.splines, where)).backward()
            optimizer.step()
    return best.result(f" with lr={task.lr}")


def least_squares(task: Task, trains: list[TT]) -> tuple[list[TT], History]:
    """Riemannian descent on |A|^2 - 2 E q(x), with D = C Cᵀ taken into the cores: A' = Cᵀ A, b' =
    C^-1 b. The history holds the loss."""
    roots = torch.linalg.cholesky(task.splines.gram)
    cores = lambda tt: [bare(g, c) for c, g in zip(roots, tt.cores)]
    loss = lambda tt, where: tt.dot(tt) - 2 * mean_value(cores(tt), where)
    fitted, held = task.splines.at(task.train), task.splines.at(task.check)
    f = lambda tt: loss(tt, fitted)
    grad = lambda tt: (f(tt).detach(), riemannian_grad(f, tt))
    inner, best = whitened(trains[0], range(len(roots)), roots).orthogonal(0), _Best(task)
    if not math.isfinite(f(inner)):
        return best.result()
    for step, (tt, _, _) in enumerate(descend(lambda tt: float(f(tt)), grad, inner, "cg")):
        best.see(step, -float(loss(tt, held)), lambda tt=tt: [cores(tt)])
        if step == task.steps:
            break
    kept, history = best.result()
    return kept, tuple((step, seconds, -value) for step, seconds, value in history)
