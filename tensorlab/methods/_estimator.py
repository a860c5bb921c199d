"""What the estimators share: parameters by name, as scikit-learn's clone and searches want them,
and tables read as tensors."""

import inspect

import torch
from torch import Tensor

from ..linalg import check_dense


class Estimator:
    """Parameters are those of `__init__`, kept under their own names; what `fit` learns has names
    that end in "_".

    scikit-learn is not needed; where it is installed, its `clone`, pipelines and searches take the
    object as one of theirs.
    """

    kind = "density_estimator"

    def get_params(self, deep: bool = True) -> dict:
        """The parameters by name."""
        return {
            name: getattr(self, name)
            for name in list(inspect.signature(type(self).__init__).parameters)[1:]
        }

    def set_params(self, **params) -> "Estimator":
        """Change parameters by name, and return the object; a name that is none changes nothing."""
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

        classifier = ClassifierTags(multi_class=False) if self.kind == "classifier" else None
        return Tags(
            estimator_type=self.kind,
            target_tags=TargetTags(required=classifier is not None),
            classifier_tags=classifier,
        )

    def _fitted(self, name: str):
        if not hasattr(self, name):
            raise ValueError(f"{type(self).__name__}: needs a call of fit first, got none")
        return getattr(self, name)


def read_table(who: str, X, d: int | None = None) -> Tensor:
    """A table as a tensor (n, d) of floating numbers, all finite; says no to anything else.

    >>> read_table("fit", [[1.0, 2.0]]).shape
    torch.Size([1, 2])
    """
    x = X if isinstance(X, Tensor) else torch.as_tensor(X)
    if x.ndim != 2 or (d is not None and x.shape[1] != d):
        raise ValueError(
            f"{who}: needs a table of shape (n, {'d' if d is None else d}), got shape "
            f"{tuple(x.shape)}"
        )
    check_dense(x, who)
    if x.is_complex():
        raise TypeError(f"{who}: needs real numbers, got {x.dtype}")
    return x.detach() if torch.finfo(x.dtype).bits >= 32 else x.detach().float()


def like(given, result: Tensor):
    """A result as the kind of thing that was given: a tensor for a tensor, else a NumPy array."""
    return result if isinstance(given, Tensor) else result.cpu().numpy()


def seeded(who: str, random_state, device) -> torch.Generator:
    """A generator on the device from a seed, a generator, or None for a seed of its own."""
    if isinstance(random_state, torch.Generator):
        return random_state
    if random_state is None:
        generator = torch.Generator(device)
        generator.seed()
        return generator
    if isinstance(random_state, bool) or not hasattr(random_state, "__index__"):
        raise TypeError(
            f"{who}: random_state must be an integer, a torch.Generator or None, got "
            f"{random_state!r}"
        )
    return torch.Generator(device).manual_seed(int(random_state))


def check_count(who: str, name: str, value, least: int) -> int:
    """An integer parameter; says no to one below `least`.

    >>> check_count("fit", "rank", 3, 1)
    3
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{who}: {name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{who}: {name} must be at least {least}, got {value}")
    return int(value)
