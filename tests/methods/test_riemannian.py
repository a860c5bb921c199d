"""Riemannian steps through a model: the projected dense gradient, SGD at full rank, and no care for
the factors' scale."""

import copy

import pytest
import torch
from torch import nn

import tensorlab as tl
from tensorlab.layers.surgery import replace_linear
from tensorlab.methods.riemannian import RiemannianSGD
from tensorlab.models.mlp import MLP

F64 = torch.float64
MAKES = {
    "low rank": lambda w: tl.LowRank.from_dense(w, 3),
    "with a middle factor": lambda w: tl.LowRank.from_dense(w, 3).orthogonal(),
    "TT": lambda w: tl.tt_matrix_svd(w, (2, 2, 2), (2, 3, 2), 3),
    "padded TT": lambda w: tl.tt_matrix_svd(w, (3, 3), (4, 4), 3),
}


def gaussian(*shape, seed=0, dtype=F64):
    return tl.rng.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def network(kind, dtype=F64):
    """12 -> 8 -> 4 with a structured first layer, and its loss on one batch."""
    model = MLP((12, 8, 4), act=torch.tanh, generator=torch.Generator().manual_seed(0)).to(dtype)
    if kind is not None:
        replace_linear(model, "layers.0", MAKES[kind])
    x, y = gaussian(20, 12, seed=1, dtype=dtype), gaussian(20, 4, seed=2, dtype=dtype)
    return model, lambda: (model(x) - y).abs().square().mean()


def sgd(model, lr=0.1, momentum=0.0):
    held = {id(t) for m in model.modules() if isinstance(m, tl.FactorizedLinear) for t in m.tensors}
    return torch.optim.SGD(
        [p for p in model.parameters() if id(p) not in held], lr, momentum=momentum
    )


def dense_gradient(model, loss):
    """The gradient of the loss by the dense first weight, in a copy of the model."""
    w = model.layers[0].weight.to_dense().detach().requires_grad_()
    layer, x_in = model.layers[0], []
    handle = layer.register_forward_hook(
        lambda m, inputs, out: x_in.append(inputs[0]) or inputs[0] @ w.mT + m.bias
    )
    value = loss()
    handle.remove()
    return torch.autograd.grad(value, w)[0]


@pytest.mark.filterwarnings("ignore:Complex modules")
@pytest.mark.parametrize("dtype", [F64, torch.complex128])
@pytest.mark.parametrize("kind", MAKES)
def test_the_gradient_is_the_projected_dense_one(kind, dtype):
    model, loss = network(kind, dtype)
    w = model.layers[0].weight
    dense = dense_gradient(model, loss)
    method = RiemannianSGD(model, sgd(model), lr=0.1)
    _, found, _ = method._gradients(loss, [])
    x, g = found["layers.0"]
    if isinstance(w, tl.TTMatrix):
        (m, n), (a, b) = w.shape, w.padded_shape
        dense = nn.functional.pad(dense, (0, b - n, 0, a - m))
        d = len(w.cores)
        pairs = [axis for k in range(d) for axis in (k, d + k)]
        dense = (
            dense.reshape(*w.out, *w.in_)
            .permute(pairs)
            .reshape([i * j for i, j in zip(w.out, w.in_)])
        )
    want = tl.tt_project(w.to_tt(), dense)
    assert float((g - want).norm()) < 1e-12 * float(want.norm())
    assert torch.equal(
        model.layers[0].weight.tensors()[0], w.tensors()[0]
    )  # the layer is as it was


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_at_full_rank_it_is_sgd(momentum):
    model, loss = network(None)
    replace_linear(model, "layers.0", lambda w: tl.LowRank.from_dense(w, 8))
    dense, dense_loss = network(None)
    method = RiemannianSGD(model, sgd(model, momentum=momentum), lr=0.1, momentum=momentum)
    optimizer = torch.optim.SGD(dense.parameters(), 0.1, momentum=momentum)
    for _ in range(5):
        optimizer.zero_grad()
        expected = dense_loss()
        expected.backward()
        optimizer.step()
        assert float(method.step(loss)) == pytest.approx(expected.item(), abs=1e-12)
    assert torch.allclose(model.layers[0].weight.to_dense(), dense.layers[0].weight, atol=1e-12)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", MAKES)
def test_the_loss_falls_and_the_ranks_stay(kind):
    model, loss = network(kind)
    ranks, shapes = model.layers[0].weight.ranks, [t.shape for t in model.layers[0].tensors]
    parameters = list(model.layers[0].tensors)
    method = RiemannianSGD(model, sgd(model, 0.05), lr=0.05)
    losses = [float(method.step(loss)) for _ in range(60)]
    assert losses[-1] < 0.7 * losses[0]
    assert (
        model.layers[0].weight.ranks == ranks
        and [t.shape for t in model.layers[0].tensors] == shapes
    )
    assert all(a is b for a, b in zip(parameters, model.layers[0].tensors))


@pytest.mark.parametrize("kind", ["low rank", "TT"])
def test_the_scale_of_the_factors_does_not_matter(kind):
    runs = []
    for scale in (1.0, 1000.0):
        model, loss = network(kind)
        first, *middle, last = model.layers[0].weight.tensors()
        model.layers[0].set_weight(
            model.layers[0].weight.with_tensors([first * scale, *middle, last / scale])
        )
        method = RiemannianSGD(model, sgd(model), lr=0.1)
        runs.append([float(method.step(loss)) for _ in range(10)])
    assert runs[0] == pytest.approx(runs[1], rel=1e-8)


def test_several_layers_and_an_adam_for_the_rest():
    model, loss = network("low rank")
    replace_linear(model, "layers.1", lambda w: tl.tt_matrix_svd(w, (2, 2), (4, 2), 2))
    rest = torch.optim.Adam([layer.bias for layer in model.layers], 0.01)
    bias = model.layers[0].bias.detach().clone()
    method = RiemannianSGD(model, rest, lr=0.05)
    assert set(method.layers) == {"layers.0", "layers.1"}
    losses = [float(method.step(loss)) for _ in range(40)]
    assert losses[-1] < 0.8 * losses[0] and not torch.equal(bias, model.layers[0].bias)


def test_a_checkpoint_goes_on():
    model, loss = network("TT")
    method = RiemannianSGD(model, sgd(model, momentum=0.9), lr=0.1)
    for _ in range(3):
        method.step(loss)
    state, weights = copy.deepcopy(method.state_dict()), copy.deepcopy(model.state_dict())
    expected = [float(method.step(loss)) for _ in range(3)]
    model.load_state_dict(weights)
    other = RiemannianSGD(model, sgd(model, momentum=0.9), lr=0.1)
    other.load_state_dict(state)
    assert [float(other.step(loss)) for _ in range(3)] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda m: RiemannianSGD(m, sgd(m), lr=0.0), "lr must be a number > 0, got 0.0"),
        (lambda m: RiemannianSGD(m, sgd(m), lr=0.1, momentum=1.0), "momentum < 1, got 1.0"),
        (lambda m: RiemannianSGD(nn.Linear(2, 2), sgd(m), lr=0.1), "got Linear"),
    ],
)
def test_says_no(call, said):
    with pytest.raises(ValueError, match=said):
        call(network("low rank")[0])


def test_a_step_out_of_the_range_of_floats_is_a_divergence():
    m = network("low rank")[0]
    method = RiemannianSGD(m, sgd(m), lr=1e200)
    with pytest.raises(FloatingPointError, match="RiemannianSGD: needs finite numbers"):
        method.step(lambda: 1e200 * m(gaussian(3, 12)).square().sum())
