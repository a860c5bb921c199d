"""Checks of the exercises in the lessons: a right answer is greeted, a usual mistake gets its hint, a blank may wait.

    from tensorlab.course import checks
    checks.tt_storage(...)          # prints one line, gives back whether the answer is right

What is right is computed when it is asked for, and what a mistake would give is too: an exercise is a `Check`, whose
`question` the lesson shows, and whose `mistakes` are pairs of a wrong way to compute the answer and a hint.
"""

import copy
import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import datasets, multilinear
from ..formats.lowrank import LowRank
from ..formats.tt import TT, tt_svd


class _Unusable(ValueError):
    """An answer that cannot be compared; the message is the hint."""


@dataclass(frozen=True)
class Check:
    """An exercise.  Called with an answer it prints one line and returns True when the answer is right.

    right: computes the answer from a case.  mistakes: wrong ways to compute it, each with its hint.  hint: for any other
    wrong answer.  moral: said when it is right.  cases: gives the cases, tuples of arguments; answers that are functions
    are called with each.  read: makes an answer comparable, or raises `_Unusable`.  rtol: relative tolerance, to 1.
    """

    question: str
    right: Callable
    mistakes: tuple[tuple[Callable, str], ...]
    hint: str
    moral: str
    cases: Callable = lambda: [()]
    read: Callable | None = None
    rtol: float = 1e-6

    def __call__(self, answer=None) -> bool:
        if answer is None or answer is ...:
            return _say(False, "Not answered yet.")
        read = self.read or number
        for case in self.cases():
            try:
                given = read(answer, *case)
            except _Unusable as unusable:
                return _say(False, f"Not yet: {unusable}")
            if given is None or given is ...:
                return _say(False, "Not answered yet.")
            right = torch.as_tensor(self.right(*case), dtype=torch.float64)
            if not _close(given, right, self.rtol):
                found = (hint for wrong, hint in self.mistakes if _close(given, wrong(*case), self.rtol))
                shape = f"the shape should be {tuple(right.shape)}, it is {tuple(given.shape)}.  "
                return _say(False, "Not yet: " + next(found, shape * (given.shape != right.shape) + self.hint))
        return _say(True, f"Right.  {self.moral}")


def number(answer, *_) -> Tensor:
    """One number, as a tensor of no modes."""
    try:
        given = torch.as_tensor(answer, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _Unusable(f"a number is needed, this is of type {type(answer).__name__}.") from error
    if given.numel() != 1 or isinstance(answer, bool):
        raise _Unusable(f"one number is needed, this is {answer!r:.60}.")
    return given.detach().cpu().reshape(())


def call(function, *case) -> Tensor | None:
    """What a function gives for a case; None while its body is still missing."""
    if not callable(function):
        raise _Unusable(f"the function itself is needed, without calling it; this is of type {type(function).__name__}.")
    try:
        result = function(*copy.deepcopy(case))  # a function may write into what it is given
        if result is None or result is ...:
            return None
        return torch.as_tensor(result, dtype=torch.float64).detach().cpu()
    except NotImplementedError:
        return None
    except Exception as error:  # whatever the learner's code does, the page goes on, and says what happened
        shapes = ", ".join(str(tuple(a.shape)) for a in case if isinstance(a, Tensor))
        where = f" for arguments of shape {shapes}" if shapes else ""
        raise _Unusable(f"your function stopped with {type(error).__name__}{where}: {error}") from error


def _close(given, right, rtol):
    if right is None:  # a mistake that cannot be made in this case
        return False
    right = torch.as_tensor(right, dtype=torch.float64)
    return given.shape == right.shape and torch.allclose(given, right, rtol=rtol, atol=rtol * float(right.norm()))


def _say(right, line):
    print(line)
    return right


def _gaussian(*shapes):
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)


# -- 00_start

rank_one_storage = Check(
    question="A matrix of 1000 rows and 800 columns is the product of one column and one row.  How many numbers need to "
    "be stored?",
    cases=lambda: [(1000, 800)],
    right=lambda m, n: LowRank(*_gaussian((m, 1), (n, 1))).numel,
    mistakes=(
        (lambda m, n: m * n, "that is every entry of the matrix; the column and the row tell them all."),
        (lambda m, n: m, "that is the column alone; the row is needed too."),
        (lambda m, n: n, "that is the row alone; the column is needed too."),
        (lambda m, n: 2, "two vectors, yes, but how many numbers are in them?"),
    ),
    hint="count the numbers in the column and those in the row.",
    moral="Storage adds the sides where the matrix multiplies them: this is the whole idea of the course.",
)


# -- 01_lowrank


def _tail(s, r):
    return math.sqrt(sum(x * x for x in s[r:]) / sum(x * x for x in s))


def _cut(a, r, keep):
    u, s, vh = torch.linalg.svd(a, full_matrices=False)
    return keep(u, s, vh, r)


def _first_rank(errors, bound):
    """The first rank, counted from 1, whose error is within the bound."""
    return next(r for r, error in enumerate(errors, 1) if error <= bound)


@functools.cache
def _photo_tails():
    """For the grey photograph and each rank: the relative error in the Frobenius norm, and in the spectral norm."""
    x = datasets.photo("flower").mean(-1)
    s = torch.linalg.eigvalsh(x @ x.T).clamp_min(0).flip(0).sqrt().tolist()
    return [_tail(s, r) for r in range(1, len(s) + 1)], [value / s[0] for value in (*s[1:], 0.0)]


truncation_error = Check(
    question="A matrix has the singular values 6, 3, 2, 1.  What is the relative error, in the Frobenius norm, of its best "
    "approximation of rank 2?",
    cases=lambda: [((6.0, 3.0, 2.0, 1.0), 2)],
    right=_tail,
    mistakes=(
        (lambda s, r: _tail(s, r) ** 2, "that is the share of the energy that is lost; the error is its square root."),
        (lambda s, r: math.sqrt(sum(x * x for x in s[r:])), "that is the error itself; divide by the norm of the matrix."),
        (lambda s, r: sum(s[r:]) / sum(s), "singular values add as squares in the Frobenius norm."),
        (lambda s, r: s[r] / s[0], "that is the error in the spectral norm, where only the largest value counts."),
        (lambda s, r: math.sqrt(1 - _tail(s, r) ** 2), "that is the part that is kept; what is left out?"),
        (lambda s, r: _tail(s, r + 1), "that is for one rank more: count the values that rank 2 keeps."),
    ),
    hint="which singular values are left out, and what is the norm of a matrix in terms of its singular values?",
    moral="The error is known before anything is multiplied: the tail of the singular values says it.",
    rtol=6e-3,  # two digits are enough
)

truncate = Check(
    question="Write `truncate(a, r)`: the best approximation of rank r of a matrix `a`, again as a matrix of the same shape.",
    read=call,
    cases=lambda: [(a, r) for a, r in zip(_gaussian((5, 5), (4, 6), (7, 3)), (2, 3, 1))],
    right=lambda a, r: _cut(a, r, lambda u, s, vh, r: (u[:, :r] * s[:r]) @ vh[:r]),
    mistakes=(
        (lambda a, r: _cut(a, r, lambda u, s, vh, r: u[:, :r] @ vh[:r]), "the singular values are missing."),
        (lambda a, r: _cut(a, r, lambda u, s, vh, r: (u[:, -r:] * s[-r:]) @ vh[-r:]),
         "these are the smallest singular values; the largest ones stand first."),
        (lambda a, r: _cut(a, r, lambda u, s, vh, r: (u[:, :r] * s[:r]) @ vh[:, :r].T if len(u) == vh.shape[1] else None),
         "torch.linalg.svd returns V transposed already: its first r rows are wanted, not its columns."),
        (lambda a, r: _cut(a, r, lambda u, s, vh, r: (u[:, : r + 1] * s[: r + 1]) @ vh[: r + 1]),
         "this has rank r + 1: a slice up to r holds the r terms 0 to r - 1."),
        (lambda a, r: a, "this is `a` itself, of full rank."),
    ),
    hint="a = U diag(s) Vᵀ; keep the first r columns of U, entries of s and rows of Vᵀ, and multiply.",
    moral="No matrix of rank r is closer to a [EckartYoung1936].",
)

photo_rank = Check(
    question="Make the flower photograph grey (the mean over its colours).  What is the smallest rank whose relative error is "
    "at most 10 %?",
    right=lambda: _first_rank(_photo_tails()[0], 0.1),
    mistakes=(
        (lambda: _first_rank(_photo_tails()[0], math.sqrt(0.1)),
         "this keeps 90 % of the energy; an error of 10 % leaves only 1 % of it out."),
        (lambda: _first_rank(_photo_tails()[1], 0.1),
         "look at the whole tail of the singular values, not at the next one alone."),
        (lambda: _first_rank(_photo_tails()[0], 0.1) - 1,
         "very near: here the error is still just above 10 %, or the count began at 0."),
        (lambda: _first_rank(_photo_tails()[0], 0.1) + 1, "very near: a smaller rank will do, or one too many was counted."),
    ),
    hint="move the rank until the error crosses 10 %: above the crossing it is too large a rank, below too small.",
    moral="Its 427 rows are nearly combinations of this many.",
)


# -- 02_cp


def _columns(a, b, order):
    return torch.einsum(order, a, b).reshape(-1, a.shape[1])


def _w_cosine(n):
    """Between n (a + b/n)⊗3 and -n a⊗3, whose sum tends to W: the product of three cosines, with a minus sign."""
    return -((1 / math.sqrt(1 + n**-2)) ** 3)


cp_storage = Check(
    question="A tensor of shape (10, 20, 30) has CP rank 5.  How many numbers do its factors hold?",
    cases=lambda: [((10, 20, 30), 5)],
    right=lambda shape, r: sum(n * r for n in shape),
    mistakes=(
        (lambda shape, r: math.prod(shape), "those are the entries of the full tensor."),
        (lambda shape, r: sum(shape), "those are the vectors of one term; how many terms are there?"),
        (lambda shape, r: math.prod(shape) * r, "the terms are stored as vectors, not as full tensors."),
        (lambda shape, r: sum(shape) * r + r**3, "CP has no core with all combinations of terms; that is Tucker."),
        (lambda shape, r: sum(shape) * r + r, "the weights can go into a factor; count the factors alone."),
    ),
    hint="there is one factor for each mode, with a row for each index and a column for each term.",
    moral="Nothing is multiplied but by the rank: the count grows with the sum of the sizes.",
)

khatri_rao = Check(
    question="Write `khatri_rao(a, b)` for a of shape (m, r) and b of shape (n, r): column k of the result, of shape "
    "(m n, r), is the Kronecker product of column k of a and column k of b.",
    read=call,
    cases=lambda: [_gaussian((3, 3), (3, 3)), _gaussian((4, 2), (3, 2))],
    right=multilinear.khatri_rao,
    mistakes=(
        (torch.kron, "this is the full Kronecker product; pair each column with its own partner only."),
        (lambda a, b: _columns(a, b, "ir,jr->jir"), "the index of the second factor should run fastest."),
        (lambda a, b: _columns(a, b, "ir,jr->rij"),
         "the entries are the right ones, the columns are not: the mode of the columns should stay last."),
        (lambda a, b: a * b if a.shape == b.shape else None, "this multiplies entry by entry; the rows should all be paired."),
        (lambda a, b: (a[:, :, None] * b[:, None, :]).flatten(1) if len(a) == len(b) else None,
         "this pairs the columns and keeps the rows; it should be the other way round."),
    ),
    hint="(a[:, None, :] * b[None, :, :]) has the entries; which shape is wanted?",
    moral="With it an unfolding of a CP tensor is one factor times the Khatri-Rao product of the others.",
)

degenerate_cosine = Check(
    question="The tensor W = a⊗a⊗b + a⊗b⊗a + b⊗a⊗a, with a, b orthonormal, has CP rank 3.  Fit it with rank 2 "
    "(`cp_als`, init=\"random\", tol=0.0) and watch the two terms as the error falls.  Towards which number does the cosine "
    "between them go?",
    right=lambda: _w_cosine(1e6),
    mistakes=(
        (lambda: 1.0, "they do become parallel; but if both pointed the same way, could they cancel?"),
        (lambda: 0.0, "they are not orthogonal: start at random, and divide the inner product of the terms by their norms."),
    ),
    hint="print the cosine after 10, 100 and 1000 sweeps: the product of the cosines of the three pairs of columns, with the "
    "signs of the weights.",
    moral="Two terms grow without bound and cancel: a best approximation of rank 2 does not exist (de Silva and Lim, 2008).",
    rtol=0.05,
)


# -- 03_tucker




@functools.cache
def _photo_errors():
    """Relative errors of the HOSVD of the photograph with ranks (r, r, 3): the norm of what is cut off the full core."""
    x = datasets.photo("flower")
    u, v = (torch.linalg.eigh(a @ a.T)[1].flip(1) for a in (multilinear.unfold(x, 0), multilinear.unfold(x, 1)))
    energy = torch.einsum("ijc,ip,jq->pqc", x, u, v).square().sum(-1)
    kept = energy.cumsum(0).cumsum(1).diagonal() / energy.sum()
    return (1 - kept).clamp_min(0).sqrt().tolist()


tucker_storage = Check(
    question="A tensor of shape (10, 20, 30) has Tucker ranks (3, 4, 5).  How many numbers do its core and factors hold?",
    cases=lambda: [((10, 20, 30), (3, 4, 5))],
    right=lambda shape, r: math.prod(r) + sum(map(math.prod, zip(shape, r))),
    mistakes=(
        (lambda shape, r: sum(map(math.prod, zip(shape, r))), "those are the factors; the core is stored too."),
        (lambda shape, r: math.prod(r), "that is the core; the factors are stored too."),
        (lambda shape, r: math.prod(shape), "those are the entries of the full tensor."),
        (lambda shape, r: sum(r) + sum(map(math.prod, zip(shape, r))), "the core has an entry for each combination."),
        (lambda shape, r: math.prod(r) * sum(map(math.prod, zip(shape, r))), "core and factors stand side by side."),
    ),
    hint="the core has the ranks as its shape; the factor of a mode has its size times its rank.",
    moral="In more modes the core is what costs: it is the product of all ranks.",
)

mode_product = Check(
    question="Write `mode_product(x, matrix, mode)`: multiply mode `mode` of a 3-way tensor by a matrix of shape (m, n_mode), "
    "so that the mode has size m afterwards and stays where it was.",
    read=call,
    cases=lambda: [
        (x, m, mode) for (x, m), mode in [
            (_gaussian((3, 3, 3), (3, 3)), 1), (_gaussian((2, 3, 4), (5, 3)), 1),
            (_gaussian((2, 3, 4), (5, 2)), 0), (_gaussian((2, 3, 4), (5, 4)), 2),
        ]
    ],
    right=multilinear.mode_product,
    mistakes=(
        (lambda x, m, mode: multilinear.mode_product(x, m.T, mode) if len(m) == len(m.T) else None,
         "the matrix is transposed: its second index should meet the tensor."),
        (lambda x, m, mode: torch.tensordot(m, x, dims=([1], [mode])),
         "the products are right, but the new mode stands first; put it back where it was."),
        (lambda x, m, mode: torch.tensordot(x, m, dims=([mode], [1])),
         "the products are right, but the new mode stands last; put it back where it was."),
        (lambda x, m, mode: x @ m.T if x.shape[-1] == m.shape[1] else None,
         "this multiplies the last mode, whichever mode was asked for."),
        (lambda x, m, mode: m @ multilinear.unfold(x, mode), "the products are right; the unfolding needs to be folded back."),
    ),
    hint="torch.tensordot sums over the two indices that meet; torch.movedim puts the new mode in its place.",
    moral="A Tucker tensor is its core after one such product for each mode.",
)

photo_tucker_rank = Check(
    question="Take the flower photograph as a tensor, rows by columns by colours.  With `hosvd` and ranks (r, r, 3), what is "
    "the smallest r whose relative error is at most 10 %?",
    right=lambda: _first_rank(_photo_errors(), 0.1),
    mistakes=(
        (lambda: _first_rank(_photo_errors(), math.sqrt(0.1)),
         "this keeps 90 % of the energy; an error of 10 % leaves out 1 %."),
        (lambda: _first_rank(_photo_errors(), 0.1) - 1, "very near: here the error is still just above 10 %."),
        (lambda: _first_rank(_photo_errors(), 0.1) + 1, "very near: a smaller rank will do."),
    ),
    hint="the error falls as r grows: halve the interval until it crosses 10 %.",
    moral="Compare `compression` with that of the grey photograph at the same error.",
)


# -- 04_tt


def _train_storage(shape, ranks, edge=1):
    r = (edge, *ranks, edge)
    return sum(r[k] * n * r[k + 1] for k, n in enumerate(shape))


def _train(shape, ranks):
    r = (1, *ranks, 1)
    return _gaussian(*((r[k], n, r[k + 1]) for k, n in enumerate(shape)))


def _product(cores, index):
    out = torch.ones(1, 1, dtype=torch.float64)
    for core, i in zip(cores, index):
        out = out @ core[:, i]
    return out.reshape(())


def _mode_order_storage(order=(0, 1, 2, 3)):
    """Numbers in the train of x[a, b, c, d] = f[a, c] g[b, d] with its modes in this order."""
    f, g = _gaussian((4, 4), (4, 4))
    return tt_svd(torch.einsum("ac,bd->abcd", f, g).permute(order), rtol=1e-10).numel


def _read_order(answer, *_):
    try:
        order = tuple(int(k) for k in answer)
    except (TypeError, ValueError) as error:
        raise _Unusable("an order of the modes is needed, such as (3, 2, 1, 0).") from error
    if sorted(order) != [0, 1, 2, 3]:
        raise _Unusable(f"each of the modes 0, 1, 2, 3 is needed once, this is {order}.")
    return number(_mode_order_storage(order))


tt_storage = Check(
    question="A train for the shape (4, 5, 6, 7) has the ranks (2, 3, 2).  How many numbers do its cores hold?",
    cases=lambda: [((4, 5, 6, 7), (2, 3, 2))],
    right=lambda shape, ranks: TT(_train(shape, ranks)).numel,
    mistakes=(
        (lambda shape, ranks: _train_storage(shape, ranks, edge=2), "the ranks at the two ends of a train are 1."),
        (lambda shape, ranks: _train_storage(shape, ranks) - shape[0] * ranks[0] - shape[-1] * ranks[-1],
         "those are the inner cores; the first and the last one are stored too."),
        (lambda shape, ranks: math.prod(shape), "those are the entries of the full tensor."),
        (lambda shape, ranks: sum(n * r for n, r in zip(shape, (*ranks, 1))),
         "a core has three modes: the rank on its left, its size, and the rank on its right."),
        (lambda shape, ranks: sum(n * r for n, r in zip(shape, (1, *ranks))),
         "a core has three modes: the rank on its left, its size, and the rank on its right."),
        (lambda shape, ranks: sum(shape) * max(ranks) ** 2, "that is a bound with the largest rank everywhere."),
    ),
    hint="write the shape (r_left, n, r_right) under each core, with rank 1 at both ends, and add.",
    moral="The count is linear in the number of modes: this is what breaks the curse of dimensionality.",
)

tt_entry = Check(
    question="Write `tt_entry(cores, index)`: one entry of a tensor train, without forming the tensor.  cores: a list of "
    "tensors (r_left, n, r_right), index: a tuple of integers.",
    read=lambda answer, *case: _scalar(call(answer, *case)),
    cases=lambda: [
        (_train((3, 3, 3), (2, 2)), (0, 2, 1)), (_train((4, 5, 6, 7), (2, 3, 2)), (3, 0, 5, 6)), (_train((4,), ()), (2,)),
    ],
    right=lambda cores, index: TT(cores).at([index])[0],
    mistakes=(
        (lambda cores, index: math.prod(float(core[:, i].sum()) for core, i in zip(cores, index)),
         "each core is summed on its own; neighbours share the rank between them, so multiply their matrices."),
        (lambda cores, index: _product(cores, [i - 1 for i in index]), "indices count from 0."),
        (lambda cores, index: _product(cores, index[::-1]) if len({core.shape[1] for core in cores}) == 1 else None,
         "the indices are taken in the wrong order."),
        (lambda cores, index: math.prod(float(core[0, i, 0]) for core, i in zip(cores, index)),
         "only the first entry of each matrix is used; multiply the matrices."),
    ),
    hint="core[:, i, :] is a matrix; multiply the d matrices from the left, what remains is 1 by 1.",
    moral="d small products of a vector and a matrix: no cost that is exponential in d.",
)

mode_order = Check(
    question="The tensor x[a, b, c, d] = f[a, c] g[b, d] has generic f and g of shape (4, 4).  Permute its modes so that "
    "`tt_svd` of `x.permute(order)` stores as few numbers as possible.  Give the order, a tuple such as (3, 2, 1, 0).",
    read=_read_order,
    right=lambda: min(map(_mode_order_storage, itertools.permutations(range(4)))),
    mistakes=(),
    hint="a smaller train is possible.  Look at the ranks: which modes depend on each other, and do they stand side by side?",
    moral="Ranks measure what crosses a cut: neighbours should be the modes that belong together.",
    rtol=1e-9,
)


def _scalar(given):
    if given is not None and given.numel() != 1:
        raise _Unusable(f"an entry is one number, this has the shape {tuple(given.shape)}.")
    return given if given is None else given.reshape(())
