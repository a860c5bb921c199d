"""What everything iterative returns."""

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Fit(Generic[T]):
    """The result of an iteration: its value, how it came about, and whether it got there.

    value: what was sought. history: one number per iteration, the relative error unless the method
    says otherwise. converged: whether the stopping rule was met; running out of iterations is not
    an error, it is `converged=False`.

    >>> Fit(3.0, (0.5, 0.1), True)
    Fit(value=3.0, 2 iterations, last 0.1, converged)
    """

    value: T
    history: tuple[float, ...]
    converged: bool

    def __repr__(self):
        last = f", last {self.history[-1]:.3g}" if self.history else ""
        state = "converged" if self.converged else "not converged"
        return f"Fit(value={self.value!r}, {len(self.history)} iterations{last}, {state})"
