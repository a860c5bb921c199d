"""Problem set 5: chances and draws of a train, problems for PROTES, a density."""

import itertools

import torch
from torch import Tensor

from ...formats.tt import TT
from ...formats.tt_sampling import tt_condition, tt_log_prob, tt_marginal
from ..checks import Check, Unusable, call, gaussian, returned


def given_gram(m: int) -> Tensor:
    """The integrals (m, m) of products of two of m hat functions on [0, 1], by Simpson's rule.

    >>> given_gram(3) * 12
    tensor([[2., 1., 0.],
            [1., 4., 1.],
            [0., 1., 2.]], dtype=torch.float64)
    """
    at = torch.linspace(0, 1, 2 * m - 1, dtype=torch.float64)
    values = (1 - (at[:, None] * (m - 1) - torch.arange(m)).abs()).clamp_min(0)
    weights = torch.full_like(at, 2.0)
    weights[1::2], weights[0], weights[-1] = 4, 1, 1
    return values.mT @ (weights[:, None] * values) / (6 * (m - 1))


FORBIDDEN = tuple(
    (function, "write it with torch alone; trains of tl, and given_gram, are not allowed here.")
    for function in (TT.__init__, given_gram)
)


def positive(*shapes) -> list[Tensor]:
    """Cores without a minus, the same each time."""
    return [core.abs() for core in gaussian(*shapes)]


def _joined(chances):
    """Vectors of a list, one after another."""
    if not isinstance(chances, (list, tuple)) or not all(isinstance(p, Tensor) for p in chances):
        raise Unusable(f"a list of vectors is needed, this is a {type(chances).__name__}.")
    return torch.cat([p.reshape(-1) for p in chances])


def _chances(function, cores, known):
    result = returned(function, cores, known)
    return None if result is None else _joined(result)


def _right_chances(cores, known):
    tt = TT(tuple(cores))
    rest = [k for k in range(len(cores)) if k not in known]
    given = tt_condition(tt, known) if known else tt
    found = dict(zip(rest, (tt_marginal(given, [k]) for k in range(len(rest)))))
    certain = {k: torch.eye(cores[k].shape[1]).double()[i] for k, i in known.items()}
    return _joined([(found | certain)[k] for k in range(len(cores))])


def _scored(function, cores, u):
    """1 plus what is said of the draws, minus what the train says."""
    result = returned(function, cores, u)
    if result is None:
        return None
    if not isinstance(result, (list, tuple)) or len(result) != 2:
        raise Unusable("two tensors are needed, the indices and their logarithms.")
    index, log = result
    if index.shape != u.shape or log.shape != u.shape[:1]:
        raise Unusable(
            f"indices {tuple(u.shape)} and logarithms {tuple(u.shape[:1])} are needed, these are "
            f"{tuple(index.shape)} and {tuple(log.shape)}."
        )
    return 1 + log - tt_log_prob(TT(tuple(cores)), index, squared=True)


def _words(function, d, k):
    """All entries of a train of bits."""
    result = returned(function, d, k)
    if result is None:
        return None
    if not isinstance(result, (list, tuple)) or [c.shape[1] for c in result] != [2] * d:
        raise Unusable(f"a list of {d} cores (r, 2, q) is needed.")
    return TT(tuple(result)).to_dense()


def _right_words(d, k):
    words = torch.tensor(list(itertools.product((0, 1), repeat=d)))
    return (words.sum(1) == k).double().reshape((2,) * d)


def _right_marginal(cores, k, x):
    """By Simpson's rule over all other variables."""
    tables = []
    for j, core in enumerate(cores):
        m = core.shape[1]
        at = x if j == k else torch.linspace(0, 1, 2 * m - 1, dtype=torch.float64)
        hats = (1 - (at[:, None] * (m - 1) - torch.arange(m)).abs()).clamp_min(0)
        weights = torch.full_like(at, 2.0)
        weights[1::2], weights[0], weights[-1] = 4, 1, 1
        root = torch.ones_like(x) if j == k else (weights / (6 * (m - 1))).sqrt()
        tables.append(torch.einsum("ni,rix->rnx", root[:, None] * hats, core))
    square = TT(tuple(tables)).to_dense().square().movedim(k, 0).flatten(1).sum(1)
    grams = [given_gram(core.shape[1]) for core in cores]
    roots = [torch.linalg.cholesky(gram) for gram in grams]
    whole = TT(tuple(torch.einsum("ij,rix->rjx", r, c) for r, c in zip(roots, cores)))
    return square / whole.to_dense().square().sum()


chances = Check(
    function=True,
    cases=lambda: [
        (positive((1, 2, 3), (3, 3, 2), (2, 2, 1)), known) for known in ({}, {0: 1}, {2: 0})
    ],
    read=_chances,
    right=_right_chances,
    hint="compare with the table of all entries: set those to zero that contradict what is known.",
    moral="Three cases are right; try two known modes with an unknown one between them.",
)

born = Check(
    function=True,
    cases=lambda: [
        (list(gaussian((1, 2, 3), (3, 3, 2), (2, 2, 1))), gaussian((4, 3))[0] * 0 + 0.4)
    ],
    read=_scored,
    right=lambda cores, u: torch.ones(len(u)),
    hint="the logarithms are not those of these indices.",
    moral="The logarithms fit the indices; whether the indices are the right ones is not seen "
    "here.",
)

exactly = Check(
    function=True,
    cases=lambda: [(4, 2), (2, 1)],
    read=_words,
    right=_right_words,
    hint="the entry of a word should be 1 if it has k ones, and 0 otherwise.",
    moral="Two cases are right; try k = d, and a single bit.",
)

gram = Check(
    function=True,
    cases=lambda: [(3,)],
    read=call,
    right=given_gram,
    mistakes=(
        (
            lambda m: given_gram(m) * (m - 1),
            "the nodes are 1 / (m - 1) apart.",
        ),
    ),
    hint="on one interval the integrals are a third and a sixth of its length.",
    moral="This case is right; the first and the last hat are halves.",
)

marginal = Check(
    function=True,
    cases=lambda: [
        (
            list(gaussian((1, 3, 2), (2, 3, 1))),
            k,
            torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64),
        )
        for k in (0, 1)
    ],
    right=_right_marginal,
    hint="each side of variable k is one matrix; neither the square nor the division may be "
    "missing.",
    moral="These cases are right; try three variables with different numbers of hats.",
)
