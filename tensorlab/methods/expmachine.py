"""Exponential machines: a linear model in all products of features, its weights a train, a CP or a
tree [Novikov2016].

    y(x) = <W, phi_0(x) o ... o phi_{d-1}(x)>,     phi_k = (1, x_k),  or (1, one-hot) of a category

W has an entry for each set of features, 2^d of them, and is never formed. The three formats are
three networks [Cohen2016] [Khrulkov2018]: the CP is a shallow one, the tree a deep one, and the
train a recurrent one,

    CP   sum_r w_r prod_k (phi_k F_k)_r
    HT   u_t = B_t (u_left, u_right)
    TT   v_{k+1} = v_k sum_i phi_k[i] G_k[i]

which costs O(d n r), O(d (n r + r^3)) and O(d n r^2) for each object.

The paper starts from the linear model. Where interactions of six features have no weaker traces,
descent from there sees almost nothing; so what is ours here is a second start, products found by
screening.
"""

import itertools
import math
import time
import warnings
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from ..arguments import count, number, one_of
from ..formats.base import Format
from ..formats.cp import CP
from ..formats.htucker import HT, balanced_tree
from ..formats.tt import TT
from ..formats.tt_manifold import descend, riemannian_grad
from ..linalg import orthogonalize, solve_gram
from ..rng import randn
from .estimator import Estimator, like, read_table, seeded, sklearn_class, standardize
from .screening import screen_interactions

CHUNK = 1 << 22  # numbers of an intermediate result, by which objects are taken at a time


def rank_one_inner(w: Format, features: list[Tensor]) -> Tensor:
    """<w, phi_0 o ... o phi_{d-1}> for a batch of rank-one tensors: d features (n, n_k) -> (n,),
    for TT, CP and HT.

    Differentiable in w and in the features. With one-hot rows it is `w.at`. Raises ValueError for
    features of other sizes, TypeError for another format.

    >>> w = TT([torch.ones(1, 2, 1)] * 3)
    >>> rank_one_inner(w, [torch.tensor([[1.0, 2.0]])] * 3)
    tensor([27.])
    """
    got = tuple(f.shape[-1] for f in features)
    if got != tuple(w.shape):
        raise ValueError(f"rank_one_inner: needs features of the sizes {tuple(w.shape)}, got {got}")
    if isinstance(w, TT):
        v = features[0] @ w.cores[0][0]  # (n, r)
        for f, core in zip(features[1:], w.cores[1:]):
            r, n, q = core.shape
            v = ((v @ core.reshape(r, n * q)).reshape(-1, n, q) * f[..., None]).sum(1)
        return v[:, 0]
    if isinstance(w, CP):
        terms = w.weights
        for f, factor in zip(features, w.factors):
            terms = terms * (f @ factor)
        return terms.sum(-1)
    if isinstance(w, HT):
        u = {}
        for i, t, kids in reversed(list(w._nodes())):
            if kids:
                a, b, c = t.shape
                left, right = u.pop(kids[0]), u.pop(kids[1])
                u[i] = ((left @ t.reshape(a, b * c)).reshape(-1, b, c) * right[..., None]).sum(1)
            else:
                u[i] = features[_leaf(w, i)] @ t
        return u[0][:, 0]
    raise TypeError(f"rank_one_inner: needs a TT, CP or HT, got {type(w).__name__}")


def _leaf(w: HT, i: int) -> int:
    return 0 if i == 0 else w.nodes[i - 1][0]


class ExponentialMachine(Estimator):
    """A classifier of two classes with all interactions of its features, with the interface of
    scikit-learn.

        P(second class | x) = 1 / (1 + exp(-y(x)))
        loss = mean log(1 + exp(-s y(x))) + ridge / 2 |W|^2,     s = -1 or 1

    y of the standardized columns, (x - mean_) / scale_, so that units do not matter; a constant
    column is 0. All formats start from the same CP: the logistic linear model, and `rank` - 2
    products.

    rank: of W.
    format: "tt", "cp" or "ht".
    categorical: columns that hold codes of categories; one that `fit` has not seen has only the
        entry 1.
    init: "linear", the products are of (1, spread N(0, 1)) with small weights; "screened", they are
        those of 2 to `order` numeric columns that correlate most with the linear model's residual
        (`screen_interactions`), with fitted weights; categorical columns are left out of them.
    order: the most columns in a screened product.
    method: "adam", all cores on batches; "riemannian", conjugate gradients on the manifold with
        Armijo's rule (trains only), on all rows, or one step on each batch; "cores", each core in
        turn by a Newton step with line search, all rows.
    steps: of Adam, of the descent, or sweeps there and back.
    batch: how many rows a step takes.
    lr: the rate of Adam.
    ridge: the weight of |W|^2.
    spread: the scale of the start, see init.
    random_state: an integer gives the same numbers at each fit; a generator of torch or NumPy goes
        on from its state.

    fit learns weights_ (the format), mean_ and scale_ (0 and 1 of categories), classes_ (a NumPy
    array), history_ (step, seconds, loss), n_features_in_, and feature_names_in_ from a data frame.
    X: (n, d), a tensor, an array, a data frame or a list of rows; integers become float64. y: (n,),
    numbers or strings. Raises ValueError for NaN, one row, other than two classes, and y of another
    length, and TypeError for what is not a table of numbers, before anything learned is replaced.
    Constant columns and repeated rows are allowed.

    >>> x = torch.tensor([[-1.0, -1], [-1, 1], [1, -1], [1, 1]], dtype=torch.float64)
    >>> ExponentialMachine(rank=3, method="cores", steps=5).fit(x, [0, 1, 1, 0]).predict(x).tolist()
    [0, 1, 1, 0]
    """

    _estimator_type = "classifier"

    def __init__(
        self,
        rank=8,
        *,
        format="tt",
        categorical=(),
        init="linear",
        order=4,
        method="adam",
        steps=300,
        batch=512,
        lr=0.01,
        ridge=1e-4,
        spread=0.3,
        random_state=0,
    ):
        self.rank = rank
        self.format = format
        self.categorical = categorical
        self.init = init
        self.order = order
        self.method = method
        self.steps = steps
        self.batch = batch
        self.lr = lr
        self.ridge = ridge
        self.spread = spread
        self.random_state = random_state

    def fit(self, X, y) -> "ExponentialMachine":
        """Learn from the rows of X (n, d) and their classes y (n,)."""
        x, sign, classes, generator = self._data(X, y)
        start = time.perf_counter()
        levels = {k: x[:, k].unique() for k in sorted(self.categorical)}
        numeric = [k for k in range(x.shape[1]) if k not in levels]
        x, mean, scale = without_units(x, numeric)
        phi = features(x, levels)
        screened = self.init == "screened" and self.rank > 2 and len(numeric) > 1
        terms = (
            screened_terms(x, phi, sign, numeric, self.order, self.rank - 2) if screened else None
        )
        cp = linear_start(phi, sign, self.rank, self.spread, generator, terms=terms)
        learn = {"adam": self._adam, "riemannian": self._riemannian, "cores": self._cores}
        w, history = learn[self.method](as_format(cp, self.format), phi, sign, generator, start)
        self.weights_, self.classes_, self.history_ = w, classes, history
        self.mean_, self.scale_, self.levels_ = mean, scale, levels
        self._remember(X, x.shape[1])
        return self

    def decision_function(self, X):
        """y(x), the log of the odds of the second class: (n,)."""
        w = self._fitted("weights_")
        x = self._rows("decision_function", X).to(self.mean_.device)
        x = ((x - self.mean_) / self.scale_).to(w.dtype)
        with torch.no_grad():
            rows = max(1, CHUNK // max(t.numel() for t in w.tensors()))
            out = torch.cat(
                [rank_one_inner(w, features(part, self.levels_)) for part in x.split(rows)]
            )
        return like(X, out)

    def predict_proba(self, X):
        """Probabilities of the two classes, in the order of classes_: (n, 2)."""
        p = torch.as_tensor(self.decision_function(X)).sigmoid()
        return like(X, torch.stack([1 - p, p], 1))

    def predict(self, X):
        """The likelier class of each row: (n,); a tensor for a tensor if the classes are numbers,
        else an array."""
        second = torch.as_tensor(self.decision_function(X)) > 0
        found = self.classes_[second.long().cpu().numpy()]
        if isinstance(X, Tensor) and found.dtype.kind in "biuf":
            return torch.as_tensor(found, device=second.device)
        return found

    def score(self, X, y) -> float:
        """The share of rows whose class is right. Raises ValueError if y has another length."""
        found, y = labels(self.predict(X)), labels(y)
        if y.shape != found.shape:
            raise ValueError(
                f"ExponentialMachine.score: needs a class for each of the {len(found)} rows, got y "
                f"{y.shape}"
            )
        return float((found == y).mean())

    def coefficient(self, subsets: Iterable[tuple[int, ...]]) -> Tensor:
        """Entries of W: the coefficients of the products of these columns, numeric ones and
        standardized; () is the constant. (number of subsets,)

        >>> x = torch.tensor([[-1.0, -1], [-1, 1], [1, -1], [1, 1]], dtype=torch.float64)
        >>> machine = ExponentialMachine(rank=3, method="cores", steps=5).fit(x, [0, 1, 1, 0])
        >>> machine.coefficient([(0,), (0, 1)]).abs().argmax().item()
        1
        """
        w, subsets = self._fitted("weights_"), [tuple(s) for s in subsets]
        for s in subsets:
            if len(set(s)) < len(s) or any(k in self.levels_ or not 0 <= k < w.ndim for k in s):
                raise ValueError(
                    f"ExponentialMachine.coefficient: needs sets of numeric columns in "
                    f"0..{w.ndim - 1}, got {s}"
                )
        index = torch.zeros(len(subsets), w.ndim, dtype=torch.int64)
        for row, s in zip(index, subsets):
            row[list(s)] = 1
        return w.at(index)

    def strongest(self, order: int, count: int) -> list[tuple[tuple[int, ...], float]]:
        """The `count` sets of up to `order` numeric columns with the largest coefficients, and
        these."""
        w = self._fitted("weights_")
        columns = [k for k in range(w.ndim) if k not in self.levels_]
        subsets = [s for size in range(1, order + 1) for s in itertools.combinations(columns, size)]
        values = self.coefficient(subsets)
        best = values.abs().argsort(descending=True)[:count].tolist()
        return [(subsets[i], float(values[i])) for i in best]

    # -- three ways to learn

    def _loss(self, w, phi, sign):
        return softplus(-sign * rank_one_inner(w, phi)).mean() + self.ridge / 2 * w.dot(w)

    def _adam(self, w, phi, sign, generator, start):
        tensors = [t.clone().requires_grad_() for t in w.tensors()]
        adam, history = torch.optim.Adam(tensors, self.lr), []
        for step in range(self.steps):
            rows = torch.randint(
                len(sign), (min(self.batch, len(sign)),), generator=generator, device=sign.device
            )
            adam.param_groups[0]["lr"] = self.lr * min(1.0, 2 * (1 - step / self.steps))
            adam.zero_grad()
            loss = self._loss(w.with_tensors(tensors), [f[rows] for f in phi], sign[rows])
            loss.backward()
            adam.step()
            if step % max(1, self.steps // 50) == 0 or step == self.steps - 1:
                history.append((step + 1, time.perf_counter() - start, float(loss.detach())))
        return w.with_tensors(t.detach() for t in tensors), tuple(history)

    def _riemannian(self, w, phi, sign, generator, start):
        history, whole = [], self.batch >= len(sign)
        if whole:
            f = lambda tt: self._loss(tt, phi, sign)
            for step, (w, value, _) in enumerate(_descent(f, w)):  # noqa: B007, B020
                history.append((step, time.perf_counter() - start, value))
                if step == self.steps:
                    break
            return w, tuple(history)
        for step in range(self.steps):
            rows = torch.randint(len(sign), (self.batch,), generator=generator, device=sign.device)
            part = [f[rows] for f in phi]
            path = _descent(lambda tt, part=part, rows=rows: self._loss(tt, part, sign[rows]), w)
            _, value, _ = next(path)
            w, _, _ = next(path, (w, value, None))
            history.append((step, time.perf_counter() - start, value))
        return w, tuple(history)

    def _cores(self, w, phi, sign, generator, start):
        """y is linear in each core, so each is a logistic regression: a Newton step, halved until
        the loss falls."""
        cores, history = list(w.orthogonal(0).cores), []
        for step in range(self.steps):
            for _ in range(2):
                loss = core_sweep(cores, phi, sign, self.ridge)
                cores, phi = [core.permute(2, 1, 0) for core in cores[::-1]], phi[::-1]
            history.append((step + 1, time.perf_counter() - start, loss))
        return TT(tuple(core.contiguous() for core in cores)), tuple(history)

    def _check(self, who: str) -> None:
        one_of(who, "format", self.format, ("tt", "cp", "ht"))
        one_of(who, "init", self.init, ("linear", "screened"))
        one_of(who, "method", self.method, ("adam", "riemannian", "cores"))
        if self.format != "tt" and self.method != "adam":
            raise ValueError(
                f'{who}: method {self.method!r} needs format "tt", got {self.format!r}'
            )
        for name, least in (("rank", 2), ("order", 2), ("steps", 1), ("batch", 1)):
            count(who, name, getattr(self, name), least)
        for name in ("lr", "ridge", "spread"):
            number(who, name, getattr(self, name))

    def _data(self, X, y) -> tuple[Tensor, Tensor, np.ndarray, torch.Generator]:
        """Rows, -1 or 1 for the class of each, the classes, and the generator, all checked."""
        who = "ExponentialMachine.fit"
        self._check(who)
        x = read_table(who, X)
        n, d = x.shape
        if any(
            isinstance(k, bool) or not hasattr(k, "__index__") or not 0 <= k < d
            for k in self.categorical
        ):
            raise ValueError(
                f"{who}: categorical needs columns in 0..{d - 1}, got {tuple(self.categorical)}"
            )
        if n < 2:
            raise ValueError(f"{who}: needs two rows or more, got {n} sample")
        classes, second = two_classes(who, y, n)
        sign = torch.as_tensor(2.0 * second - 1).to(x)
        return x, sign, classes, seeded(who, self.random_state, x.device)


# ----------------------------------------------------------------------------------------- classes


def labels(y) -> np.ndarray:
    """Classes as a NumPy array.

    >>> labels(torch.tensor([1, 0])), labels(["no", "yes"])
    (array([1, 0]), array(['no', 'yes'], dtype='<U3'))
    """
    if isinstance(y, Tensor):
        y = y.detach().cpu()
        y = y.float() if y.dtype == torch.bfloat16 else y
    y = np.asarray(y)
    return y.astype(y.dtype.newbyteorder("="), copy=False)


def two_classes(who: str, y, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The two classes in y (n,), sorted, and for each entry 1 if it is the second, else 0.

    Raises ValueError for another shape, for NaN and for other than two classes, and TypeError for
    classes that cannot be compared.

    >>> two_classes("fit", ["b", "a", "b"], 3)[1]
    array([1, 0, 1])
    """
    if y is None:
        raise ValueError(f"{who}: requires y to be passed, but the target y is None")
    y = labels(y)
    if y.shape == (n, 1):
        said = sklearn_class("DataConversionWarning", UserWarning)
        sentence = "A column-vector y was passed when a 1d array was expected"
        warnings.warn(sentence, said, stacklevel=4)
        y = y[:, 0]
    if y.shape != (n,):
        raise ValueError(f"{who}: needs a class for each of the {n} rows, got y {y.shape}")
    numbers = y if y.dtype.kind == "f" else [v for v in y if isinstance(v, float)]
    missing = [v for v in numbers if not math.isfinite(v)] + [v for v in y if v is None]
    if missing:
        raise ValueError(f"{who}: needs finite classes, got {missing[0]}")
    try:
        classes, second = np.unique(y, return_inverse=True)
    except TypeError as error:
        raise TypeError(f"{who}: needs classes that can be compared: {error}") from error
    if len(classes) > 2 and classes.dtype.kind == "f" and (classes % 1 != 0).any():
        raise ValueError(
            f"{who}: needs two classes, got {len(classes)} values; Unknown label type: continuous"
        )
    if len(classes) != 2:
        raise ValueError(
            f"{who}: needs two classes, got {len(classes)}: {classes[:5].tolist()}; Only binary "
            f"classification is supported."
        )
    return classes, second


# --------------------------------------------------------------------------- features and the start


def without_units(x: Tensor, numeric: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """The numeric columns standardized, the others as they are, and what was subtracted, then
    divided by: (n, d), (d,), (d,).

    >>> without_units(torch.tensor([[1.0, 7.0], [3.0, 8.0]]), [0])[0]
    tensor([[-1.,  7.],
            [ 1.,  8.]])
    """
    z, mean, scale = x.clone(), x.new_zeros(x.shape[1]).double(), x.new_ones(x.shape[1]).double()
    if numeric:
        z[:, numeric], mean[numeric], scale[numeric] = standardize(x[:, numeric])
    return z, mean, scale


def features(x: Tensor, levels: dict[int, Tensor]) -> list[Tensor]:
    """phi_k for each column: (n, 2) of 1 and the number, or (n, 1 + levels) of 1 and the one-hot
    category.

    >>> [f.tolist() for f in features(torch.tensor([[3.0, 7.0]]), {1: torch.tensor([5.0, 7.0])})]
    [[[1.0, 3.0]], [[1.0, 0.0, 1.0]]]
    """
    one = torch.ones_like(x[:, :1])
    return [
        torch.cat([one, (x[:, [k]] == levels[k]).to(x) if k in levels else x[:, [k]]], 1)
        for k in range(x.shape[1])
    ]


def as_format(cp: CP, name: str) -> Format:
    """The same tensor as a "cp", a "tt" or an "ht" on the balanced tree: a CP is a train and a tree
    with diagonal cores.

    >>> cp = CP.randn((2, 3, 4), 2, generator=torch.Generator().manual_seed(0))
    >>> same = lambda w: bool(torch.allclose(w.to_dense(), cp.to_dense(), atol=1e-6))
    >>> [same(as_format(cp, name)) for name in ("cp", "tt", "ht")]
    [True, True, True]
    """
    if name == "cp":
        return cp
    first, *rest = cp.factors
    if name == "tt":
        if not rest:
            return TT(((first @ cp.weights)[None, :, None],))
        middle = (torch.diag_embed(f).permute(1, 0, 2) for f in rest[:-1])
        return TT(
            (
                (first * cp.weights)[None],
                *(m.contiguous() for m in middle),
                rest[-1].mT[..., None].contiguous(),
            )
        )
    if not rest:
        return HT(((first @ cp.weights)[:, None],))
    r = len(cp.weights)
    eye = torch.diag_embed(torch.eye(r).to(cp.weights))  # (r, r, r)
    return HT(
        cp.factors,
        (torch.diag(cp.weights)[..., None], *[eye] * (len(rest) - 1)),
        balanced_tree(len(cp.factors)),
    )


def linear_start(
    phi: list[Tensor],
    sign: Tensor,
    rank: int,
    spread: float,
    generator,
    ridge: float = 1e-3,
    terms=None,
) -> CP:
    """The logistic linear model as a CP of rank 2, up to products of its small steps, and `rank` -
    2 other products.

        y(x) ~ (prod_k (1 + h w_k x_k) - 1) / h + b + sum_j c_j prod_k phi_k F_k[:, j]
        h = 0.1 / max |w|

    phi: the features of each column, (n, n_k), as from `features`.
    sign: the classes, (n,), as 1 and -1.
    rank: of the CP, at least 2.
    spread: the standard deviation of the random entries of its factors.
    generator: draws them; None: torch's global one.
    ridge: the weight of |w|^2 / 2 in the logistic model.
    terms: F, factors (n_k, q) of products whose c is fitted together with w; what is left of `rank`
        - 2 is random and small. None: all of it is.
    """
    q = 0 if terms is None else min(rank - 2, terms[0].shape[1])
    table = _linear_table(phi)
    if q:
        table = torch.cat([table, math.prod(f @ t[:, :q] for f, t in zip(phi, terms))], 1)
    bias, slopes, c = logistic(table, sign, ridge).split([1, table.shape[1] - 1 - q, q])
    h = 0.1 / max(float(slopes.abs().max()), 0.1)
    factors = []
    for k, (f, slope) in enumerate(zip(phi, slopes.split([f.shape[1] - 1 for f in phi]))):
        noise = spread * randn(
            rank, f.shape[1] - 1, generator=generator, dtype=f.dtype, device=f.device
        )
        noise[0], noise[1] = h * slope, 0.0
        factor = torch.cat([torch.ones_like(noise[:, :1]), noise], 1).mT.contiguous()
        if q:
            factor[:, 2 : 2 + q] = terms[k][:, :q]
        factors.append(factor)
    weights = 0.1 / rank * randn(rank, generator=generator, dtype=sign.dtype, device=sign.device)
    weights[0], weights[1], weights[2 : 2 + q] = 1 / h, float(bias) - 1 / h, c
    return CP(weights, tuple(factors))


def screened_terms(
    x: Tensor, phi: list[Tensor], sign: Tensor, numeric: list[int], order: int, count: int
) -> list[Tensor]:
    """The `count` products of standardized columns that correlate most with the residual of the
    linear model [FanLv2008].

        y(x) ~ prod_{k in S_j} (x_k - mean_k) / deviation_k,        j = 1, ..., q

    x: (n, d), the columns.
    phi: their features, (n, n_k), as from `features`.
    sign: the classes, (n,), as 1 and -1.
    numeric: the columns that a product may have.
    order: the most columns in a product, which has at least 2.
    count: the most products.

    Returns factors (n_k, q), q <= count: column j of the k-th holds (-mean_k, 1) / deviation_k
    where k is in the set S_j, else (1, 0, ...).
    """
    table = _linear_table(phi)
    residual = sign * (-sign * (table @ logistic(table, sign))).sigmoid()
    found = screen_interactions(x[:, numeric], residual, order, count)
    _, mean, deviation = standardize(x)
    terms = [torch.eye(f.shape[1], 1).to(f).repeat(1, len(found)) for f in phi]
    for j, (columns, _) in enumerate(found):
        for k in (numeric[i] for i in columns):
            terms[k][:, j] = torch.stack([-mean[k], torch.ones_like(mean[k])]) / deviation[k]
    return terms


def _linear_table(phi):
    return torch.cat([phi[0][:, :1], *(f[:, 1:] for f in phi)], 1)  # (n, 1 + features)


def logistic(table: Tensor, sign: Tensor, ridge: float = 1e-3) -> Tensor:
    """The w (m,) that minimizes mean log(1 + exp(-s table w)) + ridge / 2 |w|^2, after eight Newton
    steps. table: (n, m).

    >>> logistic(torch.ones(4, 1), torch.tensor([1.0, 1.0, 1.0, -1.0]), 1e-9)  # log 3
    tensor([1.0986])
    """
    w = sign.new_zeros(table.shape[1])
    for _ in range(8):
        p = (table @ w).sigmoid()
        hessian = table.mT @ ((p * (1 - p)).clamp_min(1e-6)[:, None] * table) / len(sign)
        hessian = hessian + ridge * torch.eye(len(w)).to(w)
        w = (
            w
            - solve_gram(
                hessian, (table.mT @ (p - (sign + 1) / 2) / len(sign) + ridge * w)[:, None]
            )[:, 0]
        )
    return w


def core_sweep(cores: list[Tensor], phi: list[Tensor], sign: Tensor, ridge: float) -> float:
    """A Newton step in each core of a train, from the first to the last; changes `cores` and
    returns the loss.

        min over G of  mean log(1 + exp(-s_n y_n)) + ridge / 2 |G|^2
        y_n = <G, l_n o phi_n o r_n>

    cores: right-orthonormal but the first, so that |G| = |W|; they end left-orthonormal but the
    last.
    """
    n, d, loss = len(sign), len(cores), math.inf
    step = lambda v, f, core: (
        (v @ core.flatten(1)).reshape(n, *core.shape[1:]) * f[..., None]
    ).sum(1)
    rights = [sign.new_ones(n, 1)]
    for f, core in zip(phi[:0:-1], cores[:0:-1]):
        rights.insert(0, step(rights[0], f, core.permute(2, 1, 0)))
    left = sign.new_ones(n, 1)
    for k, (f, core) in enumerate(zip(phi, cores)):
        rows = torch.einsum("na,nm,nb->namb", left, f, rights[k]).flatten(1)  # (n, r m q)
        g, value = (
            core.reshape(-1),
            lambda g, rows=rows: softplus(-sign * (rows @ g)).mean() + ridge / 2 * g.square().sum(),
        )
        p = (-sign * (rows @ g)).sigmoid()
        slope = rows.mT @ (-sign * p) / n + ridge * g
        hessian = rows.mT @ ((p * (1 - p))[:, None] * rows) / n + max(ridge, 1e-8) * torch.eye(
            len(g)
        ).to(g)
        move, loss, t = -solve_gram(hessian, slope[:, None])[:, 0], float(value(g)), 1.0
        while t > 1e-4 and not float(value(g + t * move)) <= loss:
            t /= 2
        if t > 1e-4:
            g = g + t * move
            loss = float(value(g))
        core = g.reshape(core.shape)
        if k < d - 1:
            r, m, _ = core.shape
            basis, rest = orthogonalize(core.reshape(r * m, -1))
            cores[k + 1] = torch.tensordot(rest, cores[k + 1], 1)
            core = basis.reshape(r, m, -1)
            left = step(left, f, core)
        cores[k] = core
    return loss


def _descent(f, w: TT):
    return descend(
        lambda tt: float(f(tt)), lambda tt: (f(tt).detach(), riemannian_grad(f, tt)), w, "cg"
    )
