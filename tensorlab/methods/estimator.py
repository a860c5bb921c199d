"""What the estimators share: parameters by name, as scikit-learn's clone and searches want them,
and tables read as tensors."""

import importlib
import inspect
import warnings

import numpy as np
import torch
from torch import Tensor


class Unfitted(ValueError, AttributeError):
    """A question to an estimator before its fit, where scikit-learn's NotFittedError is not
    installed."""


class Estimator:
    """Parameters are those of `__init__`, kept under their own names; what `fit` learns has names
    that end in "_".

    scikit-learn is not needed; where it is installed, its `clone`, pipelines and searches take the
    object as one of theirs.
    """

    _estimator_type = "density_estimator"

    def get_params(self, deep: bool = True) -> dict:
        """The parameters by name."""
        return {
            name: getattr(self, name)
            for name in list(inspect.signature(type(self).__init__).parameters)[1:]
        }

    def set_params(self, **params) -> "Estimator":
        """Change parameters by name, and return the object.

        Raises ValueError for an unknown name, and then changes nothing.
        """
        known = self.get_params()
        for name in params:
            if name not in known:
                raise ValueError(
                    f"{type(self).__name__}: needs parameters out of {', '.join(known)}, got "
                    f"{name!r}"
                )
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __repr__(self):
        standard = {
            name: p.default for name, p in inspect.signature(type(self).__init__).parameters.items()
        }
        changed = (
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if value is not standard[name]
        )
        return f"{type(self).__name__}({', '.join(changed)})"

    def __sklearn_tags__(self):
        from sklearn.utils import ClassifierTags, Tags, TargetTags  # asked for by scikit-learn only

        classifier = self._estimator_type == "classifier"
        return Tags(
            estimator_type=self._estimator_type,
            target_tags=TargetTags(required=classifier),
            classifier_tags=ClassifierTags(multi_class=False) if classifier else None,
        )

    def _more_tags(self):  # what scikit-learn 1.5 asks for in place of these
        classifier = self._estimator_type == "classifier"
        return {"binary_only": classifier, "requires_y": classifier}

    def _fitted(self, name: str):
        if not hasattr(self, name):
            unfitted = sklearn_class("NotFittedError", Unfitted)
            raise unfitted(f"{type(self).__name__}: needs a call of fit first, got none")
        return getattr(self, name)

    def _remember(self, X, d: int) -> None:
        """Take down the number and the names of the columns that `fit` was given."""
        names = column_names(X)
        self.n_features_in_, self._array = d, not isinstance(X, Tensor)
        if names is not None:
            self.feature_names_in_ = np.array(names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def _rows(self, method: str, X, columns=None) -> Tensor:
        """A table with the columns of `fit`, or with some of them in another order, as a tensor."""
        who = f"{type(self).__name__}.{method}"
        columns = list(range(self.n_features_in_) if columns is None else columns)
        self._check_names(who, column_names(X), columns)
        x = read_table(who, X)
        if x.shape[1] != len(columns):
            raise ValueError(
                f"{who}: X has {x.shape[1]} features, but {type(self).__name__} is expecting "
                f"{len(columns)} features as input"
            )
        return x

    def _check_names(self, who, got, columns):
        fitted = getattr(self, "feature_names_in_", None)
        if got is not None and fitted is not None:
            wanted = [fitted[k] for k in columns]
            if got != wanted:
                raise ValueError(
                    f"{who}: the feature names should match those that were passed during fit, "
                    f"{wanted}, got {got}"
                )
        elif got is None and fitted is not None:
            warnings.warn(
                f"{who}: X does not have valid feature names, but {type(self).__name__} was fitted "
                f"with feature names",
                stacklevel=4,
            )
        elif got is not None:
            warnings.warn(
                f"{who}: X has feature names, but {type(self).__name__} was fitted without feature "
                f"names",
                stacklevel=4,
            )


# ------------------------------------------------------------------------------------------- tables


def read_table(who: str, X) -> Tensor:
    """A table (n, d) of finite numbers as a tensor: float32 from floats of 32 bits or fewer, else
    float64.

    X: a tensor; or what NumPy reads as an array, such as a list of rows, a data frame, an array of
    integers, of another byte order, with negative strides, or that cannot be written to. Raises
    ValueError for other shapes, empty tables, NaN, Inf and complex numbers, and TypeError for
    sparse tables and for entries that are not numbers.

    >>> read_table("fit", [[1, 2]])
    tensor([[1., 2.]], dtype=torch.float64)
    """
    x = read_numbers(who, X)
    if x.ndim == 1:
        n = len(x)
        raise ValueError(
            f"{who}: needs a table of shape (n, d), got shape ({n},); Reshape your data to "
            f"({n}, 1) if it is one column, or to (1, {n}) if it is one row"
        )
    if x.ndim != 2:
        raise ValueError(f"{who}: needs a table of shape (n, d), got shape {tuple(x.shape)}")
    for size, what in zip(x.shape, ("sample(s)", "feature(s)")):
        if size == 0:
            raise ValueError(
                f"{who}: got 0 {what} (shape={tuple(x.shape)}) while a minimum of 1 is required."
            )
    bad = ~x.isfinite()
    if bool(bad.any()):
        row, column = bad.nonzero()[0].tolist()
        value = float(x[row, column])
        raise ValueError(
            f"{who}: needs finite entries, got {value} at index {(row, column)}; a table must not "
            f"hold NaN or inf"
        )
    return x


def read_numbers(who: str, x) -> Tensor:
    """A tensor of real numbers of any shape, in float32 or float64; what `read_table` says of its
    entries holds.

    >>> read_numbers("fit", [True, False])
    tensor([1., 0.], dtype=torch.float64)
    """
    if not isinstance(x, Tensor):
        return _from_numpy(who, x)
    x = x.detach()
    if x.layout != torch.strided:
        raise TypeError(f"{who}: needs a dense table, got sparse input of layout {x.layout}")
    if x.is_complex():
        raise ValueError(f"{who}: Complex data not supported, got {x.dtype}")
    if not x.is_floating_point():
        x = x.double()
    elif torch.finfo(x.dtype).bits < 32:
        x = x.float()
    return x.contiguous()


def _from_numpy(who: str, X) -> Tensor:
    """What NumPy reads as an array of numbers, as a tensor; numbers as objects become float64."""
    if hasattr(X, "toarray"):
        raise TypeError(f"{who}: needs a dense table, got sparse input, a {type(X).__name__}")
    if isinstance(X, np.ma.MaskedArray):  # NumPy would read what lies under the mask
        X = X.astype(float).filled(np.nan)
    try:
        a = np.asarray(X)
        a = a.astype(np.float64) if a.dtype == object else a
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{who}: needs a table of numbers: {error}") from error
    if a.dtype.kind == "c":
        raise ValueError(f"{who}: Complex data not supported, got {a.dtype}")
    if a.dtype.kind not in "buif":
        raise TypeError(f"{who}: needs a table of numbers, got entries of type {a.dtype}")
    narrow = a.dtype.kind == "f" and a.dtype.itemsize <= 4
    dtype = np.float32 if narrow else np.float64
    return torch.from_numpy(np.require(a, dtype, ["C", "ALIGNED", "WRITEABLE"]))


def column_names(X) -> list[str] | None:
    """The names of a data frame's columns, if all are strings.

    >>> column_names([[1.0, 2.0]])
    """
    names = list(getattr(X, "columns", ()))
    return names if names and all(isinstance(name, str) for name in names) else None


def like(given, result: Tensor):
    """A result as the kind of thing that was given: a tensor for a tensor, else a NumPy array."""
    return result if isinstance(given, Tensor) else result.cpu().numpy()


def standardize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Columns of mean 0 and deviation 1, and in float64 the means and the deviations; a constant
    column becomes 0, its deviation 1.

    Columns of any size: they are brought near 1 by powers of two before anything is squared. A
    column is constant when it varies by no more than rounding: one eps of its entries, and a few
    of the sums.

    >>> standardize(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))[0]
    tensor([[-1.,  0.],
            [ 1.,  0.]])
    """
    largest = x.abs().amax(0).double()
    unit = torch.exp2(largest.log2().floor().clamp(-1000, 1000))
    y = x.double() / unit
    mean = y.mean(0)
    deviation = (y - mean).square().mean(0).sqrt()
    rounding = torch.finfo(x.dtype).eps + 8 * torch.finfo(y.dtype).eps
    flat = deviation <= rounding * y.square().mean(0).sqrt()
    deviation = torch.where(flat, 1 / unit, deviation)
    z = torch.where(flat, 0.0, (y - mean) / deviation)
    return z.to(x), mean * unit, deviation * unit


# --------------------------------------------------------------------------------------- parameters


def seeded(who: str, random_state, device) -> torch.Generator:
    """A generator on the device from a seed, from None for a fresh seed, or from a generator
    of torch or NumPy.

    A torch.Generator of this device is used itself; of others one number is drawn as the seed.

    >>> seeded("fit", 3, "cpu").initial_seed()
    3
    """
    if random_state is None:
        generator = torch.Generator(device)
        generator.seed()
        return generator
    if isinstance(random_state, torch.Generator):
        if random_state.device.type == torch.device(device).type:
            return random_state
        source = random_state.device
        random_state = torch.randint(2**62, (), generator=random_state, device=source)
    elif isinstance(random_state, np.random.Generator):
        random_state = random_state.integers(2**62)
    elif isinstance(random_state, np.random.RandomState):
        random_state = random_state.randint(2**31)
    if isinstance(random_state, (bool, np.bool_)) or not hasattr(random_state, "__index__"):
        raise TypeError(
            f"{who}: random_state must be an integer, a generator of torch or NumPy, or None, got "
            f"{random_state!r}"
        )
    return torch.Generator(device).manual_seed(int(random_state))


def sklearn_class(name: str, otherwise: type) -> type:
    """An error or a warning of scikit-learn's, so that it is known by its type; without
    scikit-learn another one."""
    try:
        return getattr(importlib.import_module("sklearn.exceptions"), name)
    except ModuleNotFoundError:
        return otherwise
