"""Lesson 04: tensor trains."""

import functools
import itertools
import math

import torch
from matplotlib.figure import Figure

from ... import plots
from ...formats.lowrank import LowRank
from ...formats.tt import TT, tt_svd
from ..checks import Check, Unusable, call, gaussian, number, returned
from ..digits import fit_curves, network
from ..widgets import Explorer, Player, choice, integer


def functions(name: str, d: int, n: int) -> torch.Tensor:
    """A function of d variables on n points each, as a tensor.

    >>> functions("sine of the sum", 3, 4).shape
    torch.Size([4, 4, 4])
    """
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) / n] * d, indexing="ij")
    total = sum(axes)
    if name == "1 / (1 + sum)":
        return 1 / (1 + total)
    if name == "sine of the sum":
        return total.sin()
    if name == "|first - last|":
        return (axes[0] - axes[-1]).abs()
    if name == "random":
        return torch.randn(
            total.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
    raise ValueError(f"functions: needs a known name, got {name}")


class TrainExplorer(Explorer):
    """Anatomy of a train: cores to scale, ranks, the singular values of each unfolding, and what
    `rtol` does to them."""

    figsize = (9, 3.2)
    names = ("1 / (1 + sum)", "sine of the sum", "|first - last|", "random")

    def __init__(self, digits: int = 6):
        super().__init__(
            digits=integer(digits, 0, 14, label="rtol = 10^-digits"),
            modes=integer(4, 2, 6),
            size=integer(6, 2, 8),
            function=choice(self.names[0], self.names),
        )

    def limits(self, digits: int, modes: int, size: int, function: str) -> dict:
        """At most 60000 entries."""
        return {"size": (2, max(n for n in range(2, 9) if n**modes <= 60_000))}

    def draw(self, figure: Figure, digits: int, modes: int, size: int, function: str) -> str:
        x, rtol = functions(function, modes, size), 10.0**-digits
        tt = tt_svd(x, rtol=rtol)
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        seen = plots.train(left, tt)
        plots.singular_values(right, plots.unfolding_spectra(x), rtol / math.sqrt(modes - 1))
        error = float((tt.to_dense() - x).norm() / x.norm())
        return f"{seen} Asked for a relative error of {rtol:.0e}, it has {error:.1e}."


class CutPlayer(Player):
    """TT-SVD step by step: what is cut off stays as a core, the rest is unfolded and cut again."""

    figsize = (9, 2.9)
    interval = 1.0
    begin = 1

    def __init__(self):
        super().__init__(
            digits=integer(3, 0, 10, label="rtol = 10^-digits"),
            modes=integer(4, 2, 5),
            function=choice(TrainExplorer.names[0], TrainExplorer.names),
        )

    def steps(self, digits: int, modes: int, function: str):
        x = functions(function, modes, 5)
        delta = 10.0**-digits * float(x.norm()) / math.sqrt(modes - 1)
        cores, rest, r = [], x.reshape(1, -1), 1
        yield cores, rest, None, delta
        for _ in range(modes - 1):
            u, s, vh = torch.linalg.svd(rest.reshape(r * 5, -1), full_matrices=False)
            q = max(1, int((s.square().flip(0).cumsum(0).flip(0) > delta**2).sum()))
            cores, rest = [*cores, u[:, :q].reshape(r, 5, q)], s[:q, None] * vh[:q]
            r = q
            yield cores, rest, s, delta

    def draw(self, figure: Figure, state, digits: int, modes: int, function: str) -> str:
        cores, rest, s, delta = state
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        last = cores[-1].shape[-1] if cores else 1
        plots.network(left, *_partial(cores, modes))
        if s is None:
            right.set_axis_off()
            return f"The whole: {modes} modes of size 5, {5**modes} numbers, not yet cut."
        level = max(delta / float(s[0]), 1e-16)
        plots.singular_values(right, {f"cut {len(cores)}": s}, level)
        right.axvspan(0.5, last + 0.5, color=plots.COLORS[5], alpha=0.3, lw=0)
        stored = sum(core.numel() for core in cores) + rest.numel()
        return (
            f"After cut {len(cores)} of {modes - 1}: {last} of {len(s)} singular values stay, "
            f"their tail is below {delta:.1e}; cores and rest hold {stored} of {5**modes} numbers."
        )


def _partial(cores, modes):
    """The network of the cores cut so far, and of the rest with the modes that are left."""
    names = [f"G{chr(0x2080 + k)}" for k in range(len(cores))]
    rest = "rest" if len(cores) < modes - 1 else f"G{chr(0x2080 + modes - 1)}"
    left = modes - len(cores)
    places = {name: (float(k), 0.0) for k, name in enumerate(names)}
    places[rest] = (len(cores) + (left - 1) / 2, 0.0)
    bonds = [
        plots.Edge(core.shape[-1], pair)
        for core, pair in zip(cores, zip(names, [*names[1:], rest]))
    ]
    legs = [plots.Edge(5, (name,), plots.DOWN) for name in names]
    fan = [((k - (left - 1) / 2) * 0.8, -0.75) for k in range(left)]
    return places, bonds + legs + [plots.Edge(5, (rest,), way) for way in fan]


@functools.cache
def layer_curves() -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Error and accuracy against stored numbers for the layer of `digits.network`, as a train of 8
    x 8 x 8 x 8 and as an SVD, and for the dense layer."""
    weight, _ = network()
    fits = {
        "train": [tt_svd(weight.reshape(8, 8, 8, 8), r) for r in (2, 4, 6, 8, 12, 16)],
        "SVD": [LowRank.from_dense(weight, r) for r in (1, 2, 4, 6, 8, 12, 16)],
    }
    return fit_curves(fits)


# ---------------------------------------------------------------------------------------- exercises


def _decaying(m, n, values=None):
    """A matrix with singular values 1, 1/3, 1/9, ..., or these."""
    s = 3.0 ** -torch.arange(min(m, n), dtype=torch.float64)
    s = s if values is None else torch.tensor(values, dtype=torch.float64)
    a, b = (torch.linalg.qr(g)[0] for g in gaussian((m, len(s)), (n, len(s))))
    return a * s @ b.T


def _cut(a, delta, count=lambda s, delta: int((_tails(s) > delta).sum())):
    """u and rest by the truncated SVD; count: how many singular values stay."""
    u, s, vh = torch.linalg.svd(a, full_matrices=False)
    r = max(1, count(s, delta))
    return u[:, :r], s[:r, None] * vh[:r]


def _tails(s):
    """The norms of s[k:], k = 0, 1, ..."""
    return s.square().flip(0).cumsum(0).flip(0).sqrt()


def _pair(what, result):
    """The two tensors of an answer; None for a blank."""
    if result is None:
        return None
    if not (isinstance(result, (tuple, list)) and len(result) == 2):
        raise Unusable(f"two tensors are needed, {what}; this is a {type(result).__name__}.")
    return tuple(torch.as_tensor(part, dtype=torch.float64) for part in result)


def _read_cut(function, a, delta):
    pair = _pair("u and rest", returned(function, a, delta))
    if pair is None:
        return None
    u, rest = pair
    if u.ndim != 2 or rest.ndim != 2 or u.shape[1] != rest.shape[0]:
        raise Unusable(
            f"u (m, r) and rest (r, n) are needed, these are {tuple(u.shape)} and "
            f"{tuple(rest.shape)}."
        )
    if not torch.allclose(u.T @ u, torch.eye(u.shape[1], dtype=u.dtype), atol=1e-8):
        raise Unusable("the columns of u should be orthonormal: the singular values go into rest.")
    return torch.cat([u @ rest, u.new_full((1, rest.shape[1]), float(u.shape[1]))])


def _cut_and_rank(pair):
    return torch.cat([pair[0] @ pair[1], pair[0].new_full((1, pair[1].shape[1]), pair[0].shape[1])])


def _wrong_count(count):
    """A cut with another rule for the rank, or None where it finds the same one."""

    def wrong(a, delta):
        found, right = _cut(a, delta, count), _cut(a, delta)
        return None if found[0].shape == right[0].shape else _cut_and_rank(found)

    return wrong


def _next(rest, n, delta):
    r = rest.shape[0]
    u, rest = _cut(rest.reshape(r * n, -1), delta)
    return u.reshape(r, n, -1), rest


def _read_next(function, rest, n, delta):
    pair = _pair("a core and the new rest", returned(function, rest, n, delta))
    if pair is None:
        return None
    core, rest = pair
    if core.ndim != 3:
        raise Unusable(
            f"a core has the shape (r_left, n, r_right), this one has {tuple(core.shape)}."
        )
    if core.shape[2] != rest.shape[0]:
        raise Unusable(f"{core.shape[2]} columns of the core meet {rest.shape[0]} rows of rest.")
    return torch.tensordot(core, rest, 1)


def _swapped(rest, n, delta):
    """The mode taken as the slowest index, before the rank."""
    r = rest.shape[0]
    turned = rest.reshape(r, n, -1).transpose(0, 1).reshape(n * r, -1)
    u, new = _cut(turned, delta)
    return None if r == 1 else torch.tensordot(u.reshape(r, n, -1), new, 1)


def _sweep(x, rtol, share=lambda x, rtol: rtol * float(x.norm()) / math.sqrt(x.ndim - 1)):
    """TT-SVD as in the text; share: what one cut may lose."""
    cores, rest, delta = [], x.reshape(1, -1), share(x, rtol)
    for n in x.shape[:-1]:
        core, rest = _next(rest, n, delta)
        cores.append(core)
    return TT((*cores, rest.reshape(rest.shape[0], -1, 1))).to_dense()


def _read_train(function, x, rtol):
    cores = returned(function, x, rtol)
    if cores is None:
        return None
    if not isinstance(cores, (list, tuple)) or len(cores) != x.ndim:
        raise Unusable(f"a list of {x.ndim} cores is needed, one for each mode.")
    try:
        return TT(tuple(torch.as_tensor(core, dtype=torch.float64) for core in cores)).to_dense()
    except (ValueError, TypeError) as error:
        raise Unusable(f"the cores do not make a train.  {error}") from error


def _wrong_share(share):
    """TT-SVD with another budget for a cut, or None where the ranks come out alike."""

    def wrong(x, rtol):
        found, right = _sweep(x, rtol, share), _sweep(x, rtol)
        return None if torch.allclose(found, right, rtol=1e-9) else found

    return wrong


def _long_train():
    """A train of three modes of ten million, which nothing can write out; its slices are equal."""
    first, middle, last = gaussian((1, 1, 2), (2, 1, 2), (2, 1, 1))
    return tuple(core.expand(-1, 10**7, -1) for core in (first, middle, last))


def _few_numbers(modes=4, size=6, share=0.25):
    """The most digits at which the train of 1 / (1 + sum) stores less than this share."""
    x = functions(TrainExplorer.names[0], modes, size)
    stored = [tt_svd(x, rtol=10.0**-digits).numel for digits in range(15)]
    return max(digits for digits, n in enumerate(stored) if n < share * x.numel())


def _train_storage(shape, ranks, edge=1):
    r = (edge, *ranks, edge)
    return sum(r[k] * n * r[k + 1] for k, n in enumerate(shape))


def _train(shape, ranks):
    r = (1, *ranks, 1)
    return gaussian(*((r[k], n, r[k + 1]) for k, n in enumerate(shape)))


def _product(cores, index):
    out = torch.ones(1, 1, dtype=torch.float64)
    for core, i in zip(cores, index):
        out = out @ core[:, i]
    return out.reshape(())


def _mode_order_storage(order=(0, 1, 2, 3)):
    """Numbers in the train of x[a, b, c, d] = f[a, c] g[b, d] with its modes in this order."""
    f, g = gaussian((4, 4), (4, 4))
    return tt_svd(torch.einsum("ac,bd->abcd", f, g).permute(order), rtol=1e-10).numel


def _read_order(answer, *_):
    try:
        order = tuple(int(k) for k in answer)
    except (TypeError, ValueError) as error:
        raise Unusable("an order of the modes is needed, such as (3, 2, 1, 0).") from error
    if sorted(order) != [0, 1, 2, 3]:
        raise Unusable(f"each of the modes 0, 1, 2, 3 is needed once, this is {order}.")
    return number(_mode_order_storage(order))


def _scalar(given):
    if given is not None and given.numel() != 1:
        raise Unusable(f"an entry is one number, this has the shape {tuple(given.shape)}.")
    return given if given is None else given.reshape(())


tt_storage = Check(
    cases=lambda: [((4, 5, 6, 7), (2, 3, 2))],
    right=lambda shape, ranks: TT(_train(shape, ranks)).numel,
    mistakes=(
        (
            lambda shape, ranks: _train_storage(shape, ranks, edge=2),
            "the ranks at the two ends of a train are 1.",
        ),
        (
            lambda shape, ranks: (
                _train_storage(shape, ranks) - shape[0] * ranks[0] - shape[-1] * ranks[-1]
            ),
            "those are the inner cores; the first and the last one are stored too.",
        ),
        (lambda shape, ranks: math.prod(shape), "those are the entries of the full tensor."),
        (
            lambda shape, ranks: sum(n * r for n, r in zip(shape, (*ranks, 1))),
            "a core has three modes: the rank on its left, its size, and the rank on its right.",
        ),
        (
            lambda shape, ranks: sum(n * r for n, r in zip(shape, (1, *ranks))),
            "a core has three modes: the rank on its left, its size, and the rank on its right.",
        ),
        (
            lambda shape, ranks: sum(shape) * max(ranks) ** 2,
            "that is a bound with the largest rank everywhere.",
        ),
    ),
    hint="write the shape (r_left, n, r_right) under each core, with rank 1 at both ends, and add.",
    moral="The count is linear in the number of modes: this is what breaks the curse of "
    "dimensionality.",
)

cut = Check(
    function=True,
    read=_read_cut,
    # The first case tells all mistakes apart: by them 2, 1, 5 and 6 columns would stay, not 4.
    cases=lambda: [
        (_decaying(7, 6, (4.0, 1.0, 0.9, 0.8, 0.7, 0.1)), 0.95),
        (_decaying(4, 9), 0.01),
        (_decaying(3, 3), 10.0),
    ],
    right=lambda a, delta: _cut_and_rank(_cut(a, delta)),
    mistakes=(
        (
            _wrong_count(lambda s, delta: int((s > delta).sum())),
            "each dropped value is below delta, but together they are not: the error is the root "
            "of the sum of their squares.",
        ),
        (
            _wrong_count(lambda s, delta: int((_tails(s) > delta * float(s.norm())).sum())),
            "delta is an absolute error here, not a share of the norm of a.",
        ),
        (
            _wrong_count(lambda s, delta: int((_tails(s) > delta).sum()) + 1),
            "the error is small enough, but one rank less would do as well.",
        ),
        (
            _wrong_count(lambda s, delta: len(s)),
            "nothing has been cut: keep as few columns as delta allows.",
        ),
    ),
    hint="a = u diag(s) vh; u[:, :r] stays, s[:r, None] * vh[:r] is the rest, and r is the "
    "smallest number, at least 1, with |s[r:]| <= delta.",
    moral="One cut: an orthonormal left side, and a rest that is as large as what was kept.",
    forbids=((tt_svd, "build it from torch.linalg.svd: `tt_svd` is where this goes."),),
)

next_core = Check(
    function=True,
    read=_read_next,
    cases=lambda: [
        (_decaying(3, 8), 2, 0.05),
        (_decaying(1, 12), 3, 1e-12),
        (_decaying(4, 20), 5, 0.3),
    ],
    right=lambda rest, n, delta: torch.tensordot(*_next(rest, n, delta), 1),
    mistakes=(
        (
            _swapped,
            "the rank comes first and the mode second: the rows of rest are its rank already.",
        ),
        (
            lambda rest, n, delta: rest.reshape(rest.shape[0], n, -1),
            "nothing has been cut: give delta to `cut`.",
        ),
    ),
    hint="rest.reshape(r * n, -1) has the next mode among its rows; cut it, and give u the shape "
    "(r, n, q).",
    moral="The rest shrinks by a mode each time, and never again has the size of the tensor.",
    forbids=((tt_svd, "use your `cut`: `tt_svd` is where this goes."),),
)

train = Check(
    function=True,
    read=_read_train,
    cases=lambda: [
        # All mistakes give other ranks here: (3, 5, 2), (4, 11, 4), (4, 14, 4), (4, 10, 4).
        (functions("random", 4, 4), 0.5),
        (functions("1 / (1 + sum)", 3, 5), 1e-2),
        (functions("sine of the sum", 5, 3), 1e-8),
    ],
    right=_sweep,
    mistakes=(
        (
            _wrong_share(lambda x, rtol: rtol * float(x.norm())),
            "each cut has spent the whole budget: d - 1 orthogonal errors add in squares, so each "
            "may have rtol |x| / sqrt(d - 1).",
        ),
        (
            _wrong_share(lambda x, rtol: rtol * float(x.norm()) / (x.ndim - 1)),
            "the errors of the cuts are orthogonal: they add in squares, so divide by sqrt(d - 1), "
            "not by d - 1.",
        ),
        (
            _wrong_share(lambda x, rtol: rtol),
            "rtol is relative: multiply by |x| before it is given to a cut.",
        ),
        (
            _wrong_share(lambda x, rtol: rtol * float(x.norm()) / math.sqrt(x.ndim)),
            "d modes have d - 1 cuts.",
        ),
    ),
    hint="begin with rest = x.reshape(1, -1); call `next_core` for every mode but the last; what "
    "remains is the last core.",
    moral="This is TT-SVD. Its error is at most rtol |x|, for the cuts are orthogonal.",
    forbids=((tt_svd, "`tt_svd` is what you are to build: use your `next_core`."),),
)

tt_entry = Check(
    function=True,
    read=lambda answer, *case: _scalar(call(answer, *case)),
    cases=lambda: [
        (_train((3, 3, 3), (2, 2)), (0, 2, 1)),
        (_train((4, 5, 6, 7), (2, 3, 2)), (3, 0, 5, 6)),
        (_train((4,), ()), (2,)),
        (_long_train(), (0, 5, 10**7 - 1)),
    ],
    largest=lambda cores, index: 256,
    right=lambda cores, index: _product(cores, index),
    mistakes=(
        (
            lambda cores, index: math.prod(
                float(core[:, i].sum()) for core, i in zip(cores, index)
            ),
            "each core is summed on its own; neighbors share the rank between them, so multiply "
            "their matrices.",
        ),
        (lambda cores, index: _product(cores, [i - 1 for i in index]), "indices count from 0."),
        (
            lambda cores, index: (
                _product(cores, index[::-1])
                if len({core.shape[1] for core in cores}) == 1
                else None
            ),
            "the indices are taken in the wrong order.",
        ),
        (
            lambda cores, index: math.prod(float(core[0, i, 0]) for core, i in zip(cores, index)),
            "only the first entry of each matrix is used; multiply the matrices.",
        ),
    ),
    hint="core[:, i, :] is a matrix; multiply the d matrices from the left, what remains is 1 by "
    "1.",
    moral="d small products of a vector and a matrix: no cost that is exponential in d.",
)

mode_order = Check(
    read=_read_order,
    right=lambda: min(map(_mode_order_storage, itertools.permutations(range(4)))),
    mistakes=(),
    hint="a smaller train is possible.  Look at the ranks: which modes depend on each other, and "
    "are they side by side?",
    moral="Ranks measure what crosses a cut: neighbors should be the modes that belong together.",
    rtol=1e-9,
)


most_digits = Check(
    right=_few_numbers,
    mistakes=(
        (
            lambda: _few_numbers() + 1,
            "there the train stores more than a quarter already: read the sentence below the "
            "picture.",
        ),
        (lambda: _few_numbers(share=0.5), "that is a half of the tensor's numbers, not a quarter."),
        (lambda: _few_numbers(size=5), "that is for modes of size 5."),
        (lambda: _few_numbers(size=8), "that is for modes of size 8."),
    ),
    hint="move `digits` and read how many numbers are stored; the tensor has 6^4.",
    moral="Every digit more costs about one rank more: the singular values fall like a geometric "
    "series.",
)
