"""Blocks are dropped as asked, a student learns its teacher, and the other baselines of the talk
store what they say."""

import copy

import pytest
import torch
from torch import nn

import tensorlab as tl
from tensorlab.methods.distill import distill, drop_blocks

F64 = torch.float64


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class Net(nn.Module):
    def __init__(self, kind=nn.ModuleList):
        super().__init__()
        torch.manual_seed(0)
        blocks = [nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(4)]
        self.body = nn.ModuleDict(
            {"blocks": kind(blocks) if kind is nn.ModuleList else kind(*blocks)}
        )
        self.double()

    def forward(self, x):
        for block in self.body["blocks"]:
            x = x + 0.5 * block(x)
        return x


@pytest.mark.parametrize("kind", [nn.ModuleList, nn.Sequential])
def test_blocks_that_are_kept_are_the_same_ones(kind):
    model, x = Net(kind), draw(3, 8)
    kept = [model.body["blocks"][k] for k in (0, 2)]
    assert drop_blocks(model, "body.blocks", (0, 2)) is model
    assert type(model.body["blocks"]) is kind and list(model.body["blocks"]) == kept
    want = x + 0.5 * kept[0](x)
    assert torch.equal(model(x), want + 0.5 * kept[1](want))


@pytest.mark.parametrize("kept", [(), (2, 0), (0, 0), (0, 4), (-1,), (0.5,), (True, 2)], ids=str)
def test_blocks_that_are_not_there_are_refused(kept):
    with pytest.raises(ValueError, match="drop_blocks: needs ascending numbers below 4, got"):
        drop_blocks(Net(), "body.blocks", kept)


@pytest.mark.parametrize("name", ["", "body", "nothing"])
def test_a_name_of_something_else_is_refused(name):
    with pytest.raises(
        ValueError, match=r"drop_blocks: needs a list of blocks \(.*body.blocks.*\), got"
    ):
        drop_blocks(Net(), name, (0,))


def test_a_student_of_half_the_blocks_learns():
    """On inputs that it has not seen, and only what the optimizer holds moves."""
    teacher = Net().train()
    student = drop_blocks(copy.deepcopy(teacher), "body.blocks", (0, 2))
    frozen = student.body["blocks"][0].requires_grad_(False)
    before = copy.deepcopy(frozen.state_dict())
    moving = [p for p in student.parameters() if p.requires_grad]
    change = lambda: float(
        (student(draw(200, 8, seed=9)) - teacher(draw(200, 8, seed=9))).detach().norm()
    )
    start = change()
    batches = [draw(32, 8, seed=10 + k) for k in range(80)]
    losses = list(distill(student, teacher, batches, torch.optim.Adam(moving, 1e-2)))
    assert change() < 0.8 * start and len(losses) == 80 and losses[-1] < losses[0]
    assert teacher.training and all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(t, before[k]) for k, t in frozen.state_dict().items())


def test_a_factorized_student_learns_too():
    teacher = Net()
    student = tl.replace_linear(copy.deepcopy(teacher), "*", tl.LowRank.from_dense, rank=2)
    batches = [draw(32, 8, seed=10 + k) for k in range(40)]
    losses = list(distill(student, teacher, batches, torch.optim.Adam(student.parameters(), 1e-2)))
    assert losses[-1] < 0.8 * losses[0]


def test_a_wrong_student_is_refused():
    x, student = draw(4, 8).float(), nn.Linear(8, 3)
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    with pytest.raises(
        ValueError, match=r"distill: needs outputs of one shape, got \(4, 3\) and \(4, 2\)"
    ):
        next(distill(student, nn.Linear(8, 2), [x], optimizer))
    student.requires_grad_(False)
    with pytest.raises(ValueError, match="distill: closure needs to return the loss"):
        next(distill(student, nn.Linear(8, 3), [x], optimizer))


def test_bytes_of_the_other_baselines():
    """bf16 half, int8 a quarter with its scales, and a masked block costs what it did."""
    make = lambda: nn.Sequential(nn.Linear(64, 64, bias=False))
    size = lambda model: tl.layer_report(model).total("bytes") / (4 * 64 * 64)
    assert size(make().to(torch.bfloat16)) == 0.5
    model, x = make(), torch.randn(99, 64, generator=torch.Generator().manual_seed(0))
    want = model(x)
    tl.quantize_model(model, "*", 8, method="uniform", group="channel")
    assert 0.25 < size(model) < 0.3
    assert float((model(x) - want).detach().norm() / want.detach().norm()) < 0.01
    masked = make()
    tl.prune(masked, tl.block_masks(masked, "*", 0.5, (8, 8)))
    report = tl.layer_report(masked)
    assert size(masked) == 1 and report.total("nonzero") == report.total("parameters") // 2
