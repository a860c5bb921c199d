"""Lesson 07: trains of fixed ranks as a manifold, and completion."""

import math

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ... import datasets, plots
from ...formats.tt import TT, tt_svd
from ...formats.tt_completion import Entries, tt_complete
from ...formats.tt_manifold import retract, riemannian_grad, tt_project
from ...rng import rand
from ..checks import Check, gaussian
from ..widgets import Explorer, decimal, integer

# ----------------------------------------------------------------------------------------- one step


def target() -> Tensor:
    """The symmetric matrix that the explorer comes near: eigenvalues 2 and 0.6, the first
    eigenvector at 25 degrees."""
    return 2.0 * ray(25) + 0.6 * ray(115)


def ray(angle: float) -> Tensor:
    """u uᵀ for the unit vector u at an angle in degrees.

    >>> ray(90).round(decimals=6)
    tensor([[0., 0.],
            [0., 1.]], dtype=torch.float64)
    """
    u = torch.tensor(
        [math.cos(math.radians(angle)), math.sin(math.radians(angle))], dtype=torch.float64
    )
    return torch.outer(u, u)


def one_step(angle: float, step: float) -> dict[str, Tensor]:
    """A Riemannian gradient step on f(m) = |m - target|^2 / 2, from the best multiple of u uᵀ: x,
    free, tangent, back."""
    goal = target()
    u = ray(angle)
    dense = (u * goal).sum() * u
    g = riemannian_grad(lambda t: (t.to_dense() - goal).square().sum() / 2, tt_svd(dense, 1))
    tangent = dense - step * g.to_tt().to_dense()
    return dict(
        x=dense,
        free=dense - step * (dense - goal),
        tangent=tangent,
        back=retract(g, -step).to_dense(),
    )


class ProjectedStep(Explorer):
    """The gradient step, its projection onto the tangent plane and the retraction, on the cone of
    rank-1 matrices."""

    figsize = (7.5, 5)

    def __init__(self, step: float = 0.8):
        super().__init__(
            step=decimal(step, 0, 2, step=0.05),
            angle=integer(80, 0, 179, label="angle of x"),
            view=integer(300, 0, 359),
        )

    def draw(self, figure: Figure, step: float, angle: int, view: int) -> str:
        ax = figure.add_subplot(projection="3d")
        ax.view_init(elev=22, azim=view)
        path = one_step(angle, step)
        seen = plots.tangent_step(ax, *path.values())
        cost = lambda m: float((m - target()).square().sum()) / 2
        return f"{seen} f was {cost(path['x']):.3f} and is {cost(path['back']):.3f}."


# --------------------------------------------------------------------------------------- completion


def problem(
    shape, rank: int, ratio: float, seed: int, *, positive: bool = False
) -> tuple[TT, Tensor]:
    """A random train, Gaussian or with cores uniform in [0, 1), and `ratio` times its degrees of
    freedom in random places.

    >>> x, index = problem((6, 6, 6), 2, 3, 0)
    >>> x, index.shape
    (TT(shape=(6, 6, 6), ranks=(2, 2), stores 48 of 216), torch.Size([120, 3]))
    """
    g = torch.Generator().manual_seed(seed)
    x = TT.randn(shape, rank, generator=g, dtype=torch.float64)
    if positive:
        x = TT(tuple(rand(*c.shape, generator=g, dtype=c.dtype) for c in x.cores))
    count, total = round(ratio * freedom(x)), math.prod(shape)
    if count > total:
        raise ValueError(
            f"problem: needs a ratio that asks for at most {total} entries, got {ratio} times "
            f"{freedom(x)}"
        )
    flat = (
        torch.randperm(total, generator=g)[:count]
        if total <= 1e7
        else torch.randint(0, total, (count,), generator=g)
    )
    return x, torch.stack(torch.unravel_index(flat, shape), 1)


def freedom(x: TT) -> int:
    """Degrees of freedom of the trains of x's ranks: stored numbers less those of the changes of
    basis at the bonds."""
    return x.numel - sum(r * r for r in x.ranks)


def recovers(
    shape, rank: int, ratio: float, seed: int, *, max_iter: int, matrix: bool = False, **options
) -> bool:
    """Whether one run finds the whole tensor to 1e-6; matrix: of the first mode by all others."""
    x, index = problem(shape, rank, ratio, seed)
    values, kind = x.at(index), shape
    if matrix:
        kind = (shape[0], math.prod(shape[1:]))
        flat = index @ torch.tensor([math.prod(shape[k + 1 :]) for k in range(len(shape))])
        index = torch.stack(torch.unravel_index(flat, kind), 1)
    g = torch.Generator().manual_seed(1000 + seed)
    fit = tt_complete(index, values, kind, rank, max_iter=max_iter, generator=g, **options)
    found = fit.value.to_dense().reshape(shape)
    return float((found - x.to_dense()).norm()) <= 1e-6 * float(x.norm())


WAYS = {
    "at full rank": dict(grow=False),
    "ranks grow": dict(grow=True),
    "as a matrix": dict(grow=False, matrix=True),
}


def phase(shape, rank: int, ratios, seeds: int, *, max_iter: int = 200):
    """Yield (way, ratio, share of seeds that are recovered) for the two ways to start, and for the
    matrix of the first mode by all others."""
    for name, way in WAYS.items():
        for ratio in ratios:
            runs = (recovers(shape, rank, ratio, s, max_iter=max_iter, **way) for s in range(seeds))
            yield name, ratio, sum(runs) / seeds


def adam(
    index: Tensor, values: Tensor, shape, rank: int, *, steps: int, lr: float, generator=None
) -> tuple[TT, list[float]]:
    """The straight way: autograd on the cores, and Adam. The train and the relative error on the
    entries after each step."""
    entries = Entries(index, values, shape)
    ranks = (1, *(rank,) * (len(shape) - 1), 1)
    size = (
        entries.unit ** (1 / len(shape)) / rank ** ((len(shape) - 1) / len(shape)) * 2
    )  # entries as large as the data's
    cores = [
        (
            size * rand(ranks[k], n, ranks[k + 1], generator=generator, dtype=values.dtype)
        ).requires_grad_()
        for k, n in enumerate(shape)
    ]
    optimizer = torch.optim.Adam(cores, lr=lr)
    history = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (entries.at(TT(tuple(cores))) - values).square().mean()
        loss.backward()
        optimizer.step()
        history.append(math.sqrt(float(loss.detach())) / entries.unit)
    return TT(tuple(c.detach() for c in cores)), history


def photograph(side: int) -> Tensor:
    """A gray square of the flower: (side, side), side a power of 4 that is at most 256."""
    x = datasets.photo("flower").mean(-1)[80:336, 180:436]
    return x.reshape(side, 256 // side, side, 256 // side).mean((1, 3))


def folded(places: Tensor, side: int) -> Tensor:
    """Rows and columns (m, 2) as (fine row, coarse row, coarse column, fine column), each in
    0..sqrt(side)-1."""
    b = math.isqrt(side)
    row, column = places.unbind(1)
    return torch.stack([row % b, row // b, column // b, column % b], 1)


def unfolded(x: Tensor) -> Tensor:
    """The picture of a dense tensor with the modes of `folded`."""
    side = x.shape[0] * x.shape[1]
    return x.permute(1, 0, 2, 3).reshape(side, side)


def psnr(y: Tensor, x: Tensor) -> float:
    """Peak signal to noise ratio in dB, of pictures in [0, 1]."""
    return -10 * math.log10(float((y.clamp(0, 1) - x).square().mean()))


def off_the_step(x: TT, z: Tensor, steps) -> dict[str, list[float]]:
    """How far |retract(x, -t v) - (x - t v)| a retraction ends from the step, for the projection v
    of z, and how far from x - t z it must end for z itself, relative to the length of the step."""
    v = tt_project(x, z)
    point, along = v.point.to_dense(), v.to_tt().to_dense()
    ends = [retract(v, -t).to_dense() for t in steps]
    far = lambda direction: [
        float((end - point + t * direction).norm() / (t * direction.norm()))
        for t, end in zip(steps, ends)
    ]
    return {"tangent step": far(along), "gradient step": far(z)}


# ---------------------------------------------------------------------------------------- exercises


def _cores(shape, ranks):
    r = (1, *ranks, 1)
    return gaussian(*((r[k], n, r[k + 1]) for k, n in enumerate(shape)))


def _bases(m, n, r):
    u, v, z = gaussian((m, r), (n, r), (m, n))
    return torch.linalg.qr(u).Q, torch.linalg.qr(v).Q, z


def _stationary(which):
    """The angles in degrees of the eigenvectors of the explorer's target, the least eigenvalue
    first."""
    _, q = torch.linalg.eigh(target())
    return math.degrees(math.atan2(float(q[1, which]), float(q[0, which]))) % 180


def _cut(y, r, first=0):
    """The sum of r singular terms of a matrix, from number `first` on."""
    u, s, vh = torch.linalg.svd(y, full_matrices=False)
    kept = slice(first, first + r)
    return (u[:, kept] * s[kept]) @ vh[kept]


def _tangent(x, z, r):
    """The projection of z onto the tangent space at x, whose rank is r."""
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    u, v = u[:, :r], vh[:r].mT
    return z - (z - u @ (u.mT @ z)) @ (torch.eye(len(v), dtype=v.dtype) - v @ v.mT)


def _step(x, z, t, r, project=_tangent):
    return _cut(x - t * project(x, z, r), r)


def _complete(y, mask, r, steps, length=None, known=True):
    """`steps` steps for the entries of y in the mask, by their best length or by one that is
    given."""
    x = _cut(mask * y, r)
    for _ in range(steps):
        z = mask * (x - y) if known else x - y
        v = _tangent(x, z, r)
        t = length or v.square().sum() / (mask * v).square().sum()
        x = _step(x, z, t, r)
    return x


def _point(m, n, r):
    """A matrix of rank r, another matrix, and a length."""
    a, b, z = gaussian((m, r), (r, n), (m, n))
    return a @ b, z, 0.3, r


def _puzzle(m, n, r, steps):
    """A matrix of rank r of which two thirds are known, with nines in place of the others."""
    a, b, chance = gaussian((m, r), (r, n), (m, n))
    mask = (chance > -0.43).double()
    return torch.where(mask == 1, a @ b, 9.0), mask, r, steps


degrees_of_freedom = Check(
    cases=lambda: [((6, 7, 8, 5), (3, 4, 2))],
    right=lambda shape, ranks: freedom(TT(_cores(shape, ranks))),
    mistakes=(
        (
            lambda shape, ranks: TT(_cores(shape, ranks)).numel,
            "those are the stored numbers; a matrix and its inverse can be put between two cores, "
            "and the tensor stays.",
        ),
        (
            lambda shape, ranks: TT(_cores(shape, ranks)).numel - sum(ranks),
            "what can be put between two cores is a matrix, not a diagonal.",
        ),
        (
            lambda shape, ranks: math.prod(shape),
            "those are the entries of the tensor, not of its manifold.",
        ),
    ),
    hint="count the stored numbers, then take away those of an invertible matrix at each bond.",
    moral="It is also the number of free entries in the deltas of a tangent vector: the gauge "
    "takes away the same.",
)

gauge = Check(
    function=True,
    cases=lambda: [
        (_bases(4, 4, 2)[0], gaussian((4, 4))[0]),
        (_bases(6, 3, 2)[0], gaussian((6, 3))[0]),
    ],
    right=lambda u, d: d - u @ (u.mT @ d),
    mistakes=(
        (
            lambda u, d: u @ (u.mT @ d),
            "that is the part that lies in the columns of u; it is the part to take away.",
        ),
        (
            lambda u, d: d - d @ u @ u.mT if d.shape[1] == len(u) else None,
            "u acts on the columns of d, so it comes on the left of d.",
        ),
        (
            lambda u, d: d - 2 * u @ (u.mT @ d),
            "that is a reflection: the part in the columns of u is taken away once, not twice.",
        ),
    ),
    hint="u @ (u.T @ d) is the part of d in the columns of u.",
    moral="Twice is as good as once: it is a projection, and no m by m matrix is formed.",
)

tangent_projection = Check(
    function=True,
    cases=lambda: [_bases(5, 4, 2), _bases(3, 6, 1)],
    right=lambda u, v, z: tt_project(TT((u[None], v.mT[..., None])), z).to_tt().to_dense(),
    mistakes=(
        (
            lambda u, v, z: u @ (u.mT @ z) + (z @ v) @ v.mT,
            "the part with columns in u and rows in v is counted twice.",
        ),
        (
            lambda u, v, z: u @ (u.mT @ z @ v) @ v.mT,
            "the columns or the rows may leave their space, though not both at once.",
        ),
        (lambda u, v, z: u @ (u.mT @ z), "the columns may also change, where the rows stay."),
        (lambda u, v, z: z @ v @ v.mT, "the rows may also change, where the columns stay."),
        (
            lambda u, v, z: z - u @ (u.mT @ z) - (z - u @ (u.mT @ z)) @ v @ v.mT,
            "that is the part normal to the tangent space.",
        ),
    ),
    hint="what is lost has its columns outside of u and its rows outside of v; take that away from "
    "z.",
    moral="For trains it is the same at every bond: `tt_project`.",
    forbids=((tt_project, "`tt_project` is what you are to build: use your `gauge`."),),
)

back = Check(
    function=True,
    cases=lambda: [(gaussian((5, 5))[0], 2), (gaussian((4, 7))[0], 1), (gaussian((6, 3))[0], 3)],
    right=_cut,
    mistakes=(
        (
            lambda y, r: _cut(y, r, max(0, min(y.shape) - r)),
            "those are the smallest singular terms; the largest are to stay.",
        ),
        (
            lambda y, r: torch.linalg.svd(y)[0][:, :r] @ torch.linalg.svd(y)[2][:r],
            "the singular values are missing.",
        ),
        (
            lambda y, r: (
                (torch.linalg.svd(y)[0][:, :r] * torch.linalg.svd(y)[1][:r])
                @ torch.linalg.svd(y)[2][:, :r].mT
                if len(y) == y.shape[1]
                else None
            ),
            "torch gives the rows of V transposed: the first r rows of vh, as they are.",
        ),
        (lambda y, r: y, "y still has all of its rank."),
    ),
    hint="u, s, vh = torch.linalg.svd(y, full_matrices=False), and the first r of each.",
    moral="The nearest point of rank r; along a tangent vector it agrees with the step up to its "
    "square.",
)

riemannian_step = Check(
    function=True,
    cases=lambda: [_point(5, 6, 2), _point(7, 4, 1)],
    right=_step,
    mistakes=(
        (
            lambda x, z, t, r: _step(x, z, -t, r),
            "that goes uphill: the step is against the gradient.",
        ),
        (
            lambda x, z, t, r: _step(x, z, t, r, lambda x, z, r: z),
            "z is not projected: the step leaves the tangent space.",
        ),
        (
            lambda x, z, t, r: x - t * _tangent(x, z, r),
            "that is still on the tangent plane, of rank up to 2r: bring it `back`.",
        ),
        (
            lambda x, z, t, r: _cut(-t * _tangent(x, z, r), r),
            "that is the step alone: it begins at x.",
        ),
    ),
    hint="project z with the singular vectors of x, walk -t along it, and bring the end back.",
    moral="Project, step, retract: gradient descent on a manifold.",
    forbids=(
        (tt_project, "`tt_project` is for trains: use your `tangent_projection`."),
        (retract, "`retract` is for trains: use your `back`."),
    ),
)

complete = Check(
    function=True,
    cases=lambda: [_puzzle(7, 6, 2, 4), _puzzle(9, 8, 1, 3), _puzzle(6, 6, 2, 0)],
    right=_complete,
    mistakes=(
        (
            lambda y, mask, r, steps: _complete(y, mask, r, steps, known=False),
            "entries outside of the mask take part; the gradient is zero there.",
        ),
        (
            lambda y, mask, r, steps: _complete(y, mask, r, steps, length=1.0),
            "the length of the step is always 1; the best one has the squares of v over those of "
            "mask * v.",
        ),
        (
            lambda y, mask, r, steps: _complete(y, mask, r, 0),
            "that is the start: the steps are missing.",
        ),
        (lambda y, mask, r, steps: _complete(y, mask, r, steps - 1), "that is one step too few."),
    ),
    hint="z = mask * (x - y), its projection v, the length |v|^2 / |mask * v|^2, and your "
    "`riemannian_step`.",
    moral="That is completion by Riemannian descent; `tt_complete` adds conjugate directions, and "
    "never forms z.",
    forbids=((tt_complete, "`tt_complete` is what you are to build: use your functions."),),
)

saddle = Check(
    right=lambda: _stationary(0),
    mistakes=(
        (
            lambda: _stationary(1),
            "there f is the least; there is one more place where the gradient is normal to the "
            "cone.",
        ),
    ),
    hint="look for an angle at which the projection falls on x itself.",
    moral="There x is another eigenvector: a stationary point that descent leaves at the first "
    "rounding error.",
)
