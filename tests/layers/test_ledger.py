"""The ledger of live bytes: by hand, against what torch says it has saved, and the sizes of a
compressed encoder."""

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

import tensorlab as tl
from tensorlab.layers.ledger import Ledger, StepMemory, peak_bytes, training_memory
from tensorlab.models.gpt import GPT
from tensorlab.papers import footprint


def bytes_of(tensors):
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def saved_by_torch(model, closure, inputs):
    """Bytes of the storages that autograd saves beside what was there, and of the loss."""
    known = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers(), *inputs)}
    saved = {}

    def pack(t):
        storage = t.untyped_storage()
        if storage._cdata not in known:
            saved[storage._cdata] = storage  # held, so that no address comes twice
        return t

    with saved_tensors_hooks(pack, lambda t: t):
        loss = closure()
    saved[loss.untyped_storage()._cdata] = loss.untyped_storage()
    return sum(storage.nbytes() for storage in saved.values())


# -- by hand


def test_a_linear_layer_by_hand():
    """w: 12 numbers, x: 20, y = x wᵀ: 15; the square keeps y, the sum nothing; dw: 12."""
    layer, x = nn.Linear(4, 3, bias=False), torch.ones(5, 4)
    memory = training_memory(layer, lambda: layer(x).square().sum(), inputs=[x])
    assert memory.load == 4 * (12 + 20)
    assert memory.forward == memory.load + 4 * (15 + 1)  # y and the loss
    # 1 for the gradient of the loss is kept by nobody; the loss is gone when backward has returned
    assert memory.backward in (memory.load + 4 * 12, memory.load + 4 * 13)
    assert memory.step is None
    assert memory.peak >= memory.load + 4 * (15 + 15 + 12)  # in backward: y, dy, dw
    again = training_memory(layer, lambda: layer(x).square().sum(), inputs=[x])
    assert again == memory  # the gradient that the first left is dropped, not added to


def test_an_optimizers_state_comes_with_its_first_step_and_is_loaded_in_the_second():
    layer, x = nn.Linear(50, 40, bias=False), torch.ones(2, 50)
    adam = torch.optim.Adam(layer.parameters(), foreach=False)
    step = lambda: training_memory(layer, lambda: layer(x).sum(), optimizer=adam, inputs=[x])
    first, second = step(), step()
    assert first.load == 4 * (2000 + 100) and second.load - first.load >= 2 * 4 * 2000
    assert first.step - first.backward >= 2 * 4 * 2000 and second.step == second.backward


def test_the_end_of_a_forward_is_that_of_the_first():
    """A method may evaluate the loss twice, and hold other things by then."""
    layer, x = nn.Linear(4, 3), torch.ones(5, 4)

    class Twice:
        optimizer = torch.optim.SGD(layer.parameters(), 0.1)

        def step(self, closure):
            closure()
            self.kept = torch.ones(1000)
            closure().backward()
            self.optimizer.step()

    memory = training_memory(layer, lambda: layer(x).sum(), method=Twice(), inputs=[x])
    assert memory.load < memory.forward < memory.load + 4000 < memory.backward


def test_what_is_freed_is_off_the_books():
    x = torch.ones(1000)
    with Ledger([x]) as ledger:
        y = x + 1
        assert ledger.live == 8000
        del y
        assert ledger.live == 4000 and ledger.peak == 8000
        view = x[:10]
        view.add_(1)  # a view is no new storage
        assert ledger.live == 4000
        del x, view
        assert ledger.live == 0
        shape = torch.ones(1000, device="meta")
        assert ledger.live == 0 and shape.numel() == 1000  # no numbers
    assert peak_bytes(lambda: [torch.ones(1000) + 1 for _ in range(5)]) == 24000


def test_a_sparse_gradient_is_its_indices_and_values():
    layer, ids = nn.Embedding(1000, 16, sparse=True), torch.arange(10)
    memory = training_memory(layer, lambda: layer(ids).square().sum(), inputs=[ids])
    values = 4 * 10 * 16
    assert layer.weight.grad.is_sparse
    assert values <= memory.backward - memory.load <= values + 8 * 10 + 64


def test_it_prints_the_parts():
    text = str(StepMemory(2**20, 2**21, 3 * 2**19, None, 2**22))
    assert text == "load 1.0, forward 2.0, backward 1.5, peak 4.0 MiB"


# -- against torch


ids = torch.arange(24).view(2, 12) % 7
MODELS = {
    "MLP": (
        lambda: nn.Sequential(nn.Linear(12, 40), nn.GELU(), nn.Linear(40, 40), nn.Tanh()),
        torch.ones(6, 12),
    ),
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)),
        torch.ones(2, 3, 9, 9),
    ),
    "GPT": (lambda: GPT(7, width=16, depth=2, heads=2, context=12), ids),
}
FORMATS = {
    "dense": None,
    "LowRank": lambda w: tl.LowRank.from_dense(w, 2),
    "TTMatrix": lambda w: tl.TTMatrix.from_dense(w, 2),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("structure", FORMATS)
def test_after_the_forward_there_is_what_torch_says_it_saved(name, structure):
    """saved_tensors_hooks see each tensor that autograd keeps; the ledger sees storages live."""
    make, x = MODELS[name]
    model = make()
    if FORMATS[structure] and name != "convolutions":
        tl.replace_linear(model, lambda n, m: n != "head", FORMATS[structure])
    closure = lambda: model(x).square().mean()
    memory = training_memory(model, closure, inputs=[x])
    grads = bytes_of([p.grad for p in model.parameters() if p.grad is not None])
    assert memory.load == bytes_of([*model.parameters(), *model.buffers(), x])
    assert 0 <= memory.backward - memory.load - grads <= 64  # and the loss, and the like of it
    closure()  # what plans and caches make once is there
    assert memory.forward - memory.load == saved_by_torch(model, closure, [x])


def test_a_step_of_dlrt_is_seen_through_its_two_evaluations():
    g = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    tl.replace_linear(model, "*", lambda w: tl.dlrt_start(w.shape, 4, generator=g))
    method = tl.DLRT(model, torch.optim.SGD(model.parameters(), 0.1), theta=None)
    x = torch.ones(8, 64)
    memory = training_memory(model, lambda: model(x).square().mean(), method=method, inputs=[x])
    assert method.steps == 1 and memory.load < memory.forward <= memory.peak
    assert memory.load <= memory.backward <= memory.peak and memory.step >= memory.load
    moved = [p.grad for p in model.parameters() if p.grad is not None]  # of s and the biases
    now = bytes_of([*model.parameters(), *moved, x])  # the factors are exchanged, not added
    assert 0 <= memory.step - now <= 8


# -- the sizes that the talk's table is about


@pytest.mark.thorough
def test_peaks_of_a_compressed_encoder():
    x = torch.randint(30522, (1, 128), generator=torch.Generator().manual_seed(0))
    found = {}
    for name in ("dense", "SVD", "TTM"):
        where = "none" if name == "dense" else "all"
        model = footprint.encoder(footprint.SIZES["full"], name, where, torch.Generator())
        closure = lambda: model(x).square().mean()  # noqa: B023
        found[name] = training_memory(model, closure, inputs=[x])
    assert found["TTM"].peak <= 0.80 * found["dense"].peak
    assert found["SVD"].peak <= 0.72 * found["dense"].peak
    for part in ("load", "forward", "backward"):
        assert all(getattr(found[n], part) < getattr(found["dense"], part) for n in ("SVD", "TTM"))


def test_says_what_came():
    with pytest.raises(ValueError, match="an optimizer or a method, got both"):
        training_memory(nn.Linear(2, 2), lambda: 0, optimizer=1, method=2)
