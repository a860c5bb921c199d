"""Whether torch records a computation or only runs it.

A function that is compiled, exported, traced or mapped may not read a number, for there may be none
yet, nor fix a size, for another may follow. Nearly all of tensorlab is written so that it needs
neither; where it gains by reading (ids that occur twice, ranks, plans for a batch), it asks here
first. The private parts of torch that this takes are touched in this file only.
"""

import functools
import math

import torch
from torch import Tensor
from torch.autograd import forward_ad

_functorch = torch._C._functorch
UNKNOWN = 1 << 11  # tokens that a plan is made for where their number is not fixed


def known(x: Tensor) -> bool:
    """Whether the numbers of a weight can be read: as `readable`, and in a `torch.jit.trace` too,
    which keeps the weights that it finds.

    >>> known(torch.ones(2)), known(torch.ones(2, device="meta"))
    (True, False)
    """
    if torch.compiler.is_compiling():
        return False
    while _functorch.is_functorch_wrapped_tensor(x):
        if _functorch.is_batchedtensor(x):
            return False
        x = _functorch.get_unwrapped(x)
    return not (x.is_meta or hasattr(x, "fake_mode"))


def readable(x: Tensor) -> bool:
    """Whether the numbers of a tensor can be read here and now.

    False under `torch.compile`, `torch.export` and `torch.jit.trace`, for what `torch.func.vmap`
    maps over, and for tensors without numbers (meta, fake).

    >>> readable(torch.ones(2)), readable(torch.ones(2, device="meta"))
    (True, False)
    """
    return not torch.jit.is_tracing() and known(x)


def watched(x: Tensor) -> bool:
    """Whether torch must see each operation on a tensor: where it is not `readable`, under any
    transform of `torch.func`, and in forward-mode differentiation.

    A custom gradient (`torch.autograd.Function`) and operations with `out=` are for the other
    cases.

    >>> watched(torch.ones(2)), torch.func.grad(lambda x: x * watched(x))(torch.tensor(5.0))
    (False, tensor(1.))
    """
    if not readable(x):
        return True
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def differentiated(x: Tensor) -> bool:
    """Whether what is made of a tensor is to be differentiated or transformed: where autograd
    records it, and where it is `watched`.

    >>> differentiated(torch.ones(2)), differentiated(torch.ones(2, requires_grad=True))
    (False, True)
    """
    return (x.requires_grad and torch.is_grad_enabled()) or watched(x)


def read(x: Tensor) -> float:
    """The number in a tensor, for decisions that fall back on something else where it cannot be
    read; 0.0 there.

    >>> read(torch.tensor(3.0)), read(torch.tensor(3.0, device="meta"))
    (3.0, 0.0)
    """
    return float(x.detach()) if readable(x) else 0.0


def tokens(x: Tensor) -> int:
    """For how many tokens (..., n) a way to multiply is chosen: as many as there are, or UNKNOWN
    where another number may follow.

    >>> tokens(torch.ones(3, 4, 5)), tokens(torch.ones(3, 4, 5, device="meta"))
    (12, 2048)
    """
    return math.prod(x.shape[:-1]) if readable(x) else UNKNOWN


def primal(x: Tensor) -> Tensor:
    """A tensor without its tangent of forward mode."""
    return forward_ad.unpack_dual(x).primal


def twice(rule):
    """The rule of a Function for forward mode, made such that it can be differentiated in forward
    mode once more: torch turns that off within a rule, and second derivatives are silently wrong.
    """

    @functools.wraps(rule)
    def jvp(ctx, *tangents):
        with forward_ad._set_fwd_grad_enabled(True):
            return rule(ctx, *tangents)

    return jvp


def constant(function):
    """Mark a function whose result depends on sizes and names alone, so that the compiler calls it
    and does not look into it.

    This is `torch.compiler.assume_constant_result`, which loads the compiler only to be named.
    """
    function._dynamo_marked_constant = True
    return function
