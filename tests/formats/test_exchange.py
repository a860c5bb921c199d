"""There and back again: tntorch and tensorly hold the same tensor."""

import pytest
import tensorly
import tntorch
import torch

import tensorlab as tl
from cases import make


@pytest.mark.parametrize("name", ["CP", "Tucker", "TT"])
def test_tntorch(name):
    x = make(name)
    theirs = tl.to_tntorch(x)
    assert torch.allclose(theirs.torch(), x.to_dense(), rtol=1e-12)
    back = tl.from_tntorch(theirs)
    assert type(back) is (tl.CP if name == "CP" else tl.TT) and torch.allclose(
        back.to_dense(), x.to_dense(), rtol=1e-12
    )


def test_tntorch_mixed_cores():
    torch.manual_seed(0)
    mixed = tntorch.rand(
        [4, 5, 6, 3],
        ranks_cp=[2, None, None, 2],
        ranks_tt=[None, 3, None],
        ranks_tucker=[None, 2, 2, None],
    )
    assert torch.allclose(tl.from_tntorch(mixed).to_dense(), mixed.torch(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
@pytest.mark.parametrize("name", ["CP", "Tucker", "TT"])
def test_tensorly(name, backend):
    x = make(name)
    tensorly.set_backend(backend)
    try:
        theirs = tl.to_tensorly(x)
        assert torch.allclose(torch.as_tensor(theirs.to_tensor()), x.to_dense(), rtol=1e-12)
        back = tl.from_tensorly(theirs)
    finally:
        tensorly.set_backend("numpy")
    assert type(back) is type(x) and all(
        torch.equal(a, b) for a, b in zip(back.tensors(), x.tensors(), strict=True)
    )


@pytest.mark.parametrize(
    "function", [tl.to_tntorch, tl.to_tensorly, tl.from_tntorch, tl.from_tensorly]
)
def test_refuses_bad_input(function):
    with pytest.raises(TypeError, match="got Tensor"):
        function(torch.zeros(3))
