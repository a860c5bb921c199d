"""Checks of the exercises in the lessons: a right answer is greeted, a usual mistake gets its hint,
a forbidden method is told, and a blank is met with silence.

    from tensorlab.course.lessons import tt as lesson
    lesson.tt_storage(...)          # prints nothing before there is an answer, then one line

What is right is computed when it is asked for, and what a mistake would give is too: an exercise is
a `Check`, whose `mistakes` are pairs of a wrong way to compute the answer and a hint. The question
is Markdown of the lesson.
"""

import contextlib
import copy
import functools
import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Unusable(ValueError):
    """An answer that cannot be compared; the message is the hint."""


@dataclass(frozen=True)
class Verdict:
    """What a check found: true where the answer is right; `line` is what was said, "" for a
    blank."""

    right: bool
    line: str = ""

    def __bool__(self):
        return self.right

    def _ipython_display_(self):
        """Nothing: the line has been printed, and a notebook would add a `False`."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """An exercise. Called with an answer it prints one line, and gives a `Verdict`, true when the
    answer is right. A blank (nothing, `...`, a function without a body) prints nothing.

    right: computes the answer from a case. mistakes: wrong ways to compute it, each with its hint.
    hint: for any other wrong answer. moral: said when it is right. cases: gives the cases, tuples
    of arguments; answers that are functions are called with each. read: makes an answer comparable,
    or raises `Unusable`. function: whether the answer is a function, so that `call` reads it unless
    `read` says otherwise. rtol: relative tolerance, to 1; by default three significant digits for a
    number, nothing off for a whole number, 1e-6 for a function.

    What the question forbids: `largest(*case)`, the most entries that any tensor on the way may
    have, and `forbids`, pairs of a function and what is said where the answer calls it.
    """

    right: Callable
    mistakes: tuple[tuple[Callable, str], ...] = ()
    hint: str
    moral: str
    cases: Callable = lambda: [()]
    read: Callable | None = None
    rtol: float | None = None
    function: bool = False
    largest: Callable | None = None
    forbids: tuple[tuple[Callable, str], ...] = ()

    def __call__(self, answer=None) -> Verdict:
        if answer is None or answer is ...:
            return Verdict(False)
        for case in self.cases():
            try:
                given = self._read(answer, case)
            except Unusable as unusable:
                return _say(False, f"Not yet: {unusable}")
            if given is None or given is ...:
                return Verdict(False)
            if (hint := self._wrong(given, case)) is not None:
                return _say(False, f"Not yet: {hint}")
        return _say(True, f"Right.  {self.moral}")

    def expected(self, *case):
        """The right answer; a value, which has no case, is computed once."""
        return self.right(*case) if case else self._value

    @functools.cached_property
    def _value(self):
        return self.right()

    def _read(self, answer, case):
        read = self.read or (call if self.function else number)
        entries = None if self.largest is None else self.largest(*case)
        case = copy.deepcopy(case)  # a function may write into what it is given
        with watched(entries, self.forbids):
            return read(answer, *case)

    def _wrong(self, given, case):
        """The hint for a wrong answer; None for a right one."""
        right = self.expected(*case)
        off = self.rtol if self.rtol is not None else _digits(right, self.function)
        if _close(given, right, off):
            return None
        for wrong, hint in self.mistakes:
            if _close(given, wrong(*case), off):
                return hint
        shape = torch.as_tensor(right).shape
        told = f"the shape should be {tuple(shape)}, it is {tuple(given.shape)}.  "
        return told * (given.shape != shape) + self.hint


def number(answer, *_) -> Tensor:
    """One number, as a tensor of no modes."""
    try:
        given = torch.as_tensor(answer, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise Unusable(f"a number is needed, this is of type {type(answer).__name__}.") from error
    if given.numel() != 1 or isinstance(answer, bool):
        raise Unusable(f"one number is needed, this is {answer!r:.60}.")
    return given.detach().cpu().reshape(())


def returned(function, *case):
    """What a function returns for a case, as it is; None while its body is still missing."""
    if not callable(function):
        raise Unusable(
            f"the function itself is needed, without calling it; this is of type "
            f"{type(function).__name__}."
        )
    try:
        result = function(*case)
    except NotImplementedError:
        return None
    except Unusable:
        raise
    except (
        Exception
    ) as error:  # whatever the learner's code does, the page goes on, and says what happened
        shapes = ", ".join(str(tuple(a.shape)) for a in case if isinstance(a, Tensor))
        where = f" for arguments of shape {shapes}" if shapes else ""
        raise Unusable(
            f"your function stopped with {type(error).__name__}{where}: {error}"
        ) from error
    return None if result is ... else result


def call(function, *case) -> Tensor | None:
    """What a function returns for a case, as a tensor; None while its body is still missing."""
    result = returned(function, *case)
    if result is None:
        return None
    try:
        return torch.as_tensor(result, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise Unusable(
            f"a tensor is needed, your function returns a {type(result).__name__}."
        ) from error


def tensors(parts) -> tuple[Tensor, ...]:
    """What an answer consists of, as tensors; `Unusable` where one of them is none."""
    try:
        return tuple(torch.as_tensor(p, dtype=torch.float64).detach().cpu() for p in parts)
    except (TypeError, ValueError, RuntimeError) as error:
        kinds = ", ".join(type(p).__name__ for p in parts)
        raise Unusable(f"tensors are needed, your function returns {kinds}.") from error


# --------------------------------------------------------------------------------------- forbidden


class _Entries(TorchDispatchMode):
    """Refuses tensors of more than so many entries; a view holds those of what it looks at."""

    def __init__(self, most: int, said: list[str]):
        super().__init__()
        self.most, self.said = most, said

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No compiler is kept out, as torch would by loading it: three seconds at the first use,
        which a student's cell would have to pay."""
        return False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, Tensor):
                held = made.untyped_storage().nbytes() // max(1, made.element_size())
                if held > self.most:
                    self.said.append(
                        f"your function forms a tensor of shape {tuple(made.shape)}, {held} "
                        f"numbers; the question allows {self.most} at a time."
                    )
                    raise Unusable(self.said[-1])
        return result


@contextlib.contextmanager
def watched(most: int | None = None, forbids=()):
    """Within it a tensor of more than `most` entries, or a call of a forbidden function, is
    `Unusable`, also where an answer catches that and goes on, or changes the profiler that sees it.

    >>> with watched(forbids=[(torch.kron, "do not form the product.")]):
    ...     torch.kron(torch.ones(2), torch.ones(2))
    Traceback (most recent call last):
    tensorlab.course.checks.Unusable: do not form the product.
    """
    told = {id(_code(function)): hint for function, hint in forbids}
    said = []

    def profile(frame, event, argument):
        called = {"call": frame.f_code, "c_call": argument}.get(event)
        if id(called) in told:
            said.append(told[id(called)])
            raise Unusable(said[-1])

    before = sys.getprofile()
    try:
        if told:
            sys.setprofile(profile)
        with contextlib.nullcontext() if most is None else _Entries(most, said):
            yield
        if said:
            raise Unusable(said[0])
        if told and sys.getprofile() is not profile:
            raise Unusable("your function changes Python's profiler, which is not allowed here.")
    finally:
        sys.setprofile(before)


def _code(function):
    """What a profiler sees where a function is called: its code, or itself if not Python's."""
    return getattr(inspect.unwrap(function), "__code__", function)


# ----------------------------------------------------------------------------------------- compare


def _digits(right, function: bool) -> float:
    """The relative tolerance by what is asked: a function, a whole number, or a number to three
    significant digits. `_close` allows it twice."""
    if function:
        return 1e-6
    right = torch.as_tensor(right)
    if not right.is_floating_point() or right.numel() != 1:
        return 1e-9
    size = abs(float(right))
    return 0.25 * 10 ** (math.floor(math.log10(size)) - 2) / size + 1e-9 if size else 1e-9


def _close(given, right, rtol):
    if right is None:  # a mistake that cannot be made in this case
        return False
    right = torch.as_tensor(right, dtype=torch.float64)
    return given.shape == right.shape and torch.allclose(
        given, right, rtol=rtol, atol=rtol * float(right.norm())
    )


def _say(right, line):
    print(line)
    return Verdict(right, line)


def gaussian(*shapes) -> tuple[Tensor, ...]:
    """Gaussian tensors of these shapes, the same each time."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)


def decaying(m: int, n: int, ratio: float = 1 / 3) -> Tensor:
    """A matrix with singular values 1, ratio, ratio², ..., the same each time."""
    k = min(m, n)
    a, b = (torch.linalg.qr(g)[0] for g in gaussian((m, k), (n, k)))
    return a * ratio ** torch.arange(k, dtype=torch.float64) @ b.T


def first_rank(errors, bound):
    """The first rank, counted from 1, whose error is within the bound."""
    return next(r for r, error in enumerate(errors, 1) if error <= bound)
