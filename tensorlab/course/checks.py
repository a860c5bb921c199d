"""Checks of the exercises in the lessons: a right answer is greeted, a usual mistake gets its hint,
a blank may wait.

    from tensorlab.course.lessons import tt as lesson
    lesson.tt_storage(...)          # prints one line, gives back whether the answer is right

What is right is computed when it is asked for, and what a mistake would give is too: an exercise is
a `Check`, whose `question` the lesson shows, and whose `mistakes` are pairs of a wrong way to
compute the answer and a hint.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


class Unusable(ValueError):
    """An answer that cannot be compared; the message is the hint."""


@dataclass(frozen=True)
class Check:
    """An exercise. Called with an answer it prints one line and returns True when the answer is
    right.

    right: computes the answer from a case. mistakes: wrong ways to compute it, each with its hint.
    hint: for any other wrong answer. moral: said when it is right. cases: gives the cases, tuples
    of arguments; answers that are functions are called with each. read: makes an answer comparable,
    or raises `Unusable`. rtol: relative tolerance, to 1. function: whether the answer is a
    function, so that `call` reads it unless `read` says otherwise.
    """

    question: str
    right: Callable
    mistakes: tuple[tuple[Callable, str], ...]
    hint: str
    moral: str
    cases: Callable = lambda: [()]
    read: Callable | None = None
    rtol: float = 1e-6
    function: bool = False

    def __call__(self, answer=None) -> bool:
        if answer is None or answer is ...:
            return _say(False, "Not answered yet.")
        read = self.read or (call if self.function else number)
        for case in self.cases():
            try:
                given = read(answer, *case)
            except Unusable as unusable:
                return _say(False, f"Not yet: {unusable}")
            if given is None or given is ...:
                return _say(False, "Not answered yet.")
            right = torch.as_tensor(self.right(*case), dtype=torch.float64)
            if not _close(given, right, self.rtol):
                found = (
                    hint for wrong, hint in self.mistakes if _close(given, wrong(*case), self.rtol)
                )
                shape = f"the shape should be {tuple(right.shape)}, it is {tuple(given.shape)}.  "
                return _say(
                    False,
                    "Not yet: " + next(found, shape * (given.shape != right.shape) + self.hint),
                )
        return _say(True, f"Right.  {self.moral}")


def number(answer, *_) -> Tensor:
    """One number, as a tensor of no modes."""
    try:
        given = torch.as_tensor(answer, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise Unusable(f"a number is needed, this is of type {type(answer).__name__}.") from error
    if given.numel() != 1 or isinstance(answer, bool):
        raise Unusable(f"one number is needed, this is {answer!r:.60}.")
    return given.detach().cpu().reshape(())


def call(function, *case) -> Tensor | None:
    """What a function gives for a case; None while its body is still missing."""
    if not callable(function):
        raise Unusable(
            f"the function itself is needed, without calling it; this is of type "
            f"{type(function).__name__}."
        )
    try:
        result = function(*copy.deepcopy(case))  # a function may write into what it is given
        if result is None or result is ...:
            return None
        return torch.as_tensor(result, dtype=torch.float64).detach().cpu()
    except NotImplementedError:
        return None
    except (
        Exception
    ) as error:  # whatever the learner's code does, the page goes on, and says what happened
        shapes = ", ".join(str(tuple(a.shape)) for a in case if isinstance(a, Tensor))
        where = f" for arguments of shape {shapes}" if shapes else ""
        raise Unusable(
            f"your function stopped with {type(error).__name__}{where}: {error}"
        ) from error


def _close(given, right, rtol):
    if right is None:  # a mistake that cannot be made in this case
        return False
    right = torch.as_tensor(right, dtype=torch.float64)
    return given.shape == right.shape and torch.allclose(
        given, right, rtol=rtol, atol=rtol * float(right.norm())
    )


def _say(right, line):
    print(line)
    return right


def gaussian(*shapes) -> tuple[Tensor, ...]:
    """Gaussian tensors of these shapes, the same each time."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)


def first_rank(errors, bound):
    """The first rank, counted from 1, whose error is within the bound."""
    return next(r for r, error in enumerate(errors, 1) if error <= bound)
