"""To and from tntorch and tensorly, which are imported only when asked for."""

import torch

from .cp import CP
from .tt import TT
from .tucker import Tucker


def to_tntorch(x: CP | Tucker | TT):
    """The same tensor as a `tntorch.Tensor`: TT cores, CP factors, or Tucker factors around a train
    of the core.

    >>> to_tntorch(TT.randn((4, 5, 6), rank=2)).ranks_tt.tolist()
    [1, 2, 2, 1]
    """
    import tntorch

    if isinstance(x, TT):
        return tntorch.Tensor([c.clone() for c in x.cores])
    if isinstance(x, CP):
        return tntorch.Tensor([x.factors[0] * x.weights, *(f.clone() for f in x.factors[1:])])
    if isinstance(x, Tucker):
        from .tt import tt_svd

        return tntorch.Tensor(
            list(tt_svd(x.core, rtol=0.0).cores), Us=[f.clone() for f in x.factors]
        )
    raise TypeError(f"to_tntorch: needs a CP, Tucker or TT, got {type(x).__name__}")


def from_tntorch(x) -> CP | TT:
    """A CP from a `tntorch.Tensor` of CP factors, a TT from any other (Tucker factors are
    multiplied into the cores).

    >>> from_tntorch(to_tntorch(TT.randn((4, 5, 6), rank=2)))
    TT(shape=(4, 5, 6), ranks=(2, 2), stores 40 of 120)
    """
    if not hasattr(x, "decompress_tucker_factors"):
        raise TypeError(f"from_tntorch: needs a tntorch.Tensor, got {type(x).__name__}")
    cores = [c.clone() for c in x.decompress_tucker_factors().cores]
    if all(c.ndim == 2 for c in cores):
        return CP(torch.ones_like(cores[0][0]), tuple(cores))
    cores = [torch.diag_embed(c).transpose(0, 1).contiguous() if c.ndim == 2 else c for c in cores]
    if cores[0].shape[0] > 1:  # CP factors at the ends: sum over their open rank
        cores[0] = cores[0].sum(0, keepdim=True)
    if cores[-1].shape[2] > 1:
        cores[-1] = cores[-1].sum(2, keepdim=True)
    return TT(tuple(cores))


def to_tensorly(x: CP | Tucker | TT):
    """The same tensor as tensorly's `CPTensor`, `TuckerTensor` or `TTTensor`, in its present
    backend (NumPy or PyTorch).

    >>> to_tensorly(TT.randn((4, 5, 6), rank=2)).rank
    (1, 2, 2, 1)
    """
    import tensorly
    from tensorly.cp_tensor import CPTensor
    from tensorly.tt_tensor import TTTensor
    from tensorly.tucker_tensor import TuckerTensor

    def out(t):
        return (
            t.clone()
            if tensorly.get_backend() == "pytorch"
            else tensorly.tensor(t.detach().cpu().numpy())
        )

    if isinstance(x, TT):
        return TTTensor([out(c) for c in x.cores])
    if isinstance(x, CP):
        return CPTensor((out(x.weights), [out(f) for f in x.factors]))
    if isinstance(x, Tucker):
        return TuckerTensor((out(x.core), [out(f) for f in x.factors]))
    raise TypeError(f"to_tensorly: needs a CP, Tucker or TT, got {type(x).__name__}")


def from_tensorly(x) -> CP | Tucker | TT:
    """A CP, Tucker or TT from tensorly's tensor of that kind, from its NumPy or PyTorch backend.

    >>> from_tensorly(to_tensorly(Tucker.randn((4, 5, 6), rank=2))).ranks
    (2, 2, 2)
    """
    from tensorly.cp_tensor import CPTensor
    from tensorly.tt_tensor import TTTensor
    from tensorly.tucker_tensor import TuckerTensor

    if isinstance(x, TTTensor):
        return TT(tuple(torch.as_tensor(c).clone() for c in x.factors))
    if isinstance(x, TuckerTensor):
        return Tucker(
            torch.as_tensor(x.core).clone(), tuple(torch.as_tensor(f).clone() for f in x.factors)
        )
    if isinstance(x, CPTensor):
        factors = tuple(torch.as_tensor(f).clone() for f in x.factors)
        weights = (
            torch.ones_like(factors[0][0])
            if x.weights is None
            else torch.as_tensor(x.weights).clone()
        )
        return CP(weights, factors)
    raise TypeError(
        f"from_tensorly: needs a CPTensor, TuckerTensor or TTTensor, got {type(x).__name__}"
    )
