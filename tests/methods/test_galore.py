"""GaLore: Adam in a rotated basis at full rank, its formula below; and the ranks of gradients."""

import copy

import pytest
import torch
from torch import nn

import tensorlab as tl
from tensorlab.methods.galore import GaLore, adam_direction, gradient_ranks, leading_basis
from tensorlab.models.gpt import GPT, train
from tensorlab.rng import randn

F64, EPS = torch.float64, torch.finfo(torch.float64).eps
SHAPES = [(5, 8), (8, 5), (6, 6)]


def gradients(shape, steps=7, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [randn(*shape, generator=g, dtype=F64) for _ in range(steps)]


def stepped(optimizer, p, grads):
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
    return p.detach()


# -- reduces to


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_of_full_rank_it_is_adam_in_the_rotated_basis(shape, decay):
    """torch's AdamW on Pᵀ W, or on W P, with P of the first gradient."""
    grads, w = gradients(shape), gradients(shape, 1, seed=1)[0]
    basis = leading_basis(grads[0] if shape[0] <= shape[1] else grads[0].mT, min(shape))
    turn = (lambda t: basis.mT @ t) if shape[0] <= shape[1] else (lambda t: t @ basis)
    back = (lambda t: basis @ t) if shape[0] <= shape[1] else (lambda t: t @ basis.mT)
    ours = nn.Parameter(w.clone())
    options = {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": decay}
    ours = stepped(GaLore([ours], rank=min(shape), **options), ours, grads)
    turned = nn.Parameter(turn(w))
    turned = stepped(torch.optim.AdamW([turned], **options), turned, [turn(g) for g in grads])
    # 7 steps; the rounding of a gradient is divided by its size, of at least 1e-3 here
    assert torch.allclose(ours, back(turned), rtol=0, atol=1e6 * EPS)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_without_a_rank_and_for_vectors_it_is_adamw(decay):
    options = {"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": decay}
    w, b = nn.Parameter(gradients((4, 3), 1)[0]), nn.Parameter(gradients((4,), 1)[0])
    v, c = (nn.Parameter(p.detach().clone()) for p in (w, b))
    with pytest.warns(UserWarning, match="GaLore: no parameter is a matrix with a rank"):
        ours = GaLore([{"params": [w], "rank": None}, {"params": [b]}], rank=2, **options)
    theirs = torch.optim.AdamW([v, c], **options)
    for g, h in zip(gradients((4, 3)), gradients((4,), seed=3)):
        w.grad, b.grad, v.grad, c.grad = g, h, g.clone(), h.clone()
        ours.step()
        theirs.step()
    assert torch.allclose(w, v, rtol=0, atol=1e4 * EPS)
    assert torch.allclose(b, c, rtol=0, atol=1e4 * EPS)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_formula_of_the_paper(shape):
    """Written down once more, in NumPy's SVD, with the subspace taken anew every third step."""
    grads, rank, lr, (b1, b2), eps = gradients(shape), 2, 0.1, (0.9, 0.999), 1e-8
    w = gradients(shape, 1, seed=1)[0]
    p = nn.Parameter(w.clone())
    ours = stepped(GaLore([p], lr=lr, rank=rank, every=3, scale=0.25), p, grads)
    m = v = 0.0
    for t, g in enumerate(grads, 1):
        g = g if shape[0] <= shape[1] else g.mT
        if t % 3 == 1:
            basis = torch.linalg.svd(g).U[:, :rank]
            # a sign of a singular vector turns M with it: the implementation's are taken
            basis = basis * (basis * leading_basis(g, rank)).sum(0).sign()
        r = basis.mT @ g
        m, v = b1 * m + (1 - b1) * r, b2 * v + (1 - b2) * r * r
        move = basis @ (m / (1 - b1**t) / ((v / (1 - b2**t)).sqrt() + eps))
        w = w - lr * 0.25 * (move if shape[0] <= shape[1] else move.mT)
    assert torch.allclose(ours, w, rtol=0, atol=1e6 * EPS)


# -- is invariant


def test_a_step_has_the_rank_that_is_asked_for():
    p = nn.Parameter(gradients((9, 7), 1)[0])
    before, optimizer = p.detach().clone(), GaLore([p], lr=0.1, rank=3)
    moved = stepped(optimizer, p, gradients((9, 7), 4)) - before
    assert torch.linalg.matrix_rank(moved, rtol=1e-10) == 3
    held = [t for t in optimizer.state[p].values() if isinstance(t, torch.Tensor)]
    assert sum(t.numel() for t in held) == 3 * (7 + 2 * 9)  # r (m + 2 n), m the short side


def test_kernels_are_matrices():
    conv = nn.Conv2d(3, 4, 2, bias=False).double()
    flat = nn.Parameter(conv.weight.detach().flatten(1).clone())
    g = gradients((4, 3, 2, 2))
    ours = stepped(GaLore(conv.parameters(), rank=2), conv.weight, g)
    assert torch.equal(
        ours.flatten(1), stepped(GaLore([flat], rank=2), flat, [t.flatten(1) for t in g])
    )


def test_the_basis_is_orthonormal_and_full_where_the_gradient_is_not():
    g = torch.zeros(5, 7, dtype=F64)
    g[0, 0] = 3.0
    p = leading_basis(g, 4)
    assert p.shape == (5, 4) and torch.allclose(p.mT @ p, torch.eye(4, dtype=F64), atol=100 * EPS)
    assert abs(abs(p[0, 0].item()) - 1) < 100 * EPS


def test_a_checkpoint_goes_on_bit_for_bit():
    grads = gradients((6, 8), 9)
    p = nn.Parameter(gradients((6, 8), 1, seed=1)[0])
    optimizer = GaLore([p], rank=2, every=4)
    stepped(optimizer, p, grads[:5])
    q, state = nn.Parameter(p.detach().clone()), copy.deepcopy(optimizer.state_dict())
    other = GaLore([q], rank=2, every=4)
    other.load_state_dict(state)
    assert torch.equal(stepped(optimizer, p, grads[5:]), stepped(other, q, grads[5:]))


@pytest.mark.parametrize("make", [tl.GaLore, tl.Dion], ids=["GaLore", "Dion"])
def test_it_trains_a_model_and_keeps_less_than_adam(make, generator):
    model = GPT(7, width=32, depth=1, heads=2, context=8, generator=generator)
    matrices = [p for n, p in model.named_parameters() if n.startswith("blocks") and p.ndim > 1]
    rest = [p for n, p in model.named_parameters() if not any(p is q for q in matrices)]
    groups = [{"params": matrices}, {"params": rest, "rank": None}]
    optimizer = make(groups, lr=1e-2, rank=4)
    tokens = torch.arange(300) % 7
    losses = list(train(model, optimizer, tokens, steps=60, generator=generator))
    assert losses[0] > 2.5 and losses[-1] < 0.5
    numbers = lambda t: t.numel() if isinstance(t, torch.Tensor) else 0
    held = sum(numbers(t) for p in matrices for t in optimizer.state[p].values())
    assert held < (0.5 if make is tl.GaLore else 0.7) * 2 * sum(p.numel() for p in matrices)


def test_a_closure_is_evaluated_with_gradients():
    p = nn.Parameter(torch.eye(3))
    optimizer = GaLore([p], rank=1)

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 3.0 and p.square().sum() < 3.0


# -- the ranks of gradients


def test_ranks_by_hand():
    e = torch.eye(4, dtype=F64)
    one = lambda a, b: torch.outer(e[a], e[b])
    grads = [one(0, 0), one(0, 1), one(2, 1) + 0.01 * one(3, 3), one(1, 2)]
    assert gradient_ranks(iter(grads)) == [(1, 1), (1, 1), (1, 2), (1, 3)]
    assert gradient_ranks(grads, rtol=1e-6) == [(1, 1), (1, 1), (2, 3), (1, 4)]
    assert gradient_ranks([torch.zeros(2, 3)]) == [(1, 1)]  # no rank is below 1


def test_the_rank_of_a_sum_grows_in_training(generator):
    """A gradient of a batch of b inputs has at most rank b; the sum over steps has more."""
    layer = nn.Linear(16, 16, bias=False)
    target = randn(16, 16, generator=generator, dtype=torch.float32)

    def steps():
        for _ in range(12):
            x = randn(2, 16, generator=generator, dtype=torch.float32)
            (grad,) = torch.autograd.grad((layer(x) - x @ target.mT).square().mean(), layer.weight)
            layer.weight.data -= 0.1 * grad
            yield grad

    ranks = gradient_ranks(steps(), rtol=1e-3)
    assert max(one for one, _ in ranks) <= 2 and ranks[-1][1] >= 12
    totals = [total for _, total in ranks]
    assert totals == sorted(totals)


# -- says what came


@pytest.mark.parametrize("make", [tl.GaLore, tl.Dion], ids=["GaLore", "Dion"])
@pytest.mark.parametrize(
    "options, said",
    [
        ({"rank": 0}, "rank must be an integer >= 1, got 0"),
        ({"rank": 2.5}, "rank must .* got 2.5"),
        ({"rank": 2, "lr": -1.0}, "lr must .* got -1.0"),
        ({"rank": 2, "betas": (0.9, 1.0)}, "betas must .* got 1.0"),
        ({"rank": 2, "eps": 0.0}, "eps must .* got 0.0"),
        ({"rank": 2, "weight_decay": -0.1}, "weight_decay must .* got -0.1"),
    ],
)
def test_says_what_came(make, options, said):
    with pytest.raises(ValueError, match=f"{make.__name__}: {said}"):
        make([nn.Parameter(torch.eye(3))], **options)
    group = {"params": [nn.Parameter(torch.eye(3))], **options}
    refused_as_a_group(lambda *p: make(*p, rank=2), group, f"{make.__name__}: {said}")


def refused_as_a_group(make, group, said):
    """At the start, and later, when the optimizer stays as it was."""
    with pytest.raises(ValueError, match=said):
        make([group])
    optimizer = make([nn.Parameter(torch.eye(2))])
    with pytest.raises(ValueError, match=said):
        optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    "make, options, said",
    [
        (tl.GaLore, {"every": 0}, "GaLore: every must .* got 0"),
        (tl.GaLore, {"scale": 0.0}, "GaLore: scale must .* got 0.0"),
        (tl.Dion, {"momentum": 1.0}, "Dion: momentum must .* got 1.0"),
    ],
)
def test_a_group_says_what_came(make, options, said):
    group = {"params": [nn.Parameter(torch.eye(3))], **options}
    refused_as_a_group(lambda *p: make(*p, rank=2), group, said)


@pytest.mark.parametrize(
    "act, said",
    [
        (lambda p: GaLore(p, rank=2, every=0), "GaLore: every must .* got 0"),
        (lambda p: GaLore(p, rank=2, scale=0.0), "GaLore: scale must .* got 0.0"),
        (lambda p: tl.Dion(p, rank=2, momentum=1.0), "Dion: momentum must .* got 1.0"),
        (lambda p: gradient_ranks(p, rtol=1.0), "rtol must .* got 1.0"),
        (lambda p: gradient_ranks([torch.ones(2, 3), torch.ones(3, 2)]), r"\(2, 3\), got \(3, 2\)"),
    ],
)
def test_more_says_what_came(act, said):
    with pytest.raises(ValueError, match=said):
        act([nn.Parameter(torch.eye(3))])


def test_adam_direction_of_a_first_step_is_the_sign():
    g = torch.tensor([2.0, -1e-3, 5e5], dtype=F64)
    move = adam_direction({"step": 1}, g, {"betas": (0.9, 0.99), "eps": 1e-30})
    assert torch.allclose(move, g.sign(), atol=100 * EPS)
