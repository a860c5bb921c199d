"""Paths and gradients of a TT layer: all give the dense product and its gradients, keep what they
say, and are counted."""

import itertools

import pytest
import torch

import tensorlab as tl
from tensorlab.layers import plans as model
from tensorlab.layers.ledger import peak_bytes
from tensorlab.layers.plans import BACKWARDS, Path, choose_plan, paths, plans
from tensorlab.layers.propagation import propagate

SHAPES = [
    ((4, 2, 3), (2, 3, 4), None),
    ((4, 2, 3), (2, 3, 4), (20, 21)),
    ((5,), (4,), None),
    ((2, 2, 2, 2), (2, 3, 1, 2), (13, 11)),
]


def layer(out, in_, size=None, rank=3, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    w = tl.TTMatrix.randn(out=out, in_=in_, rank=rank, shape=size, generator=g, dtype=dtype)
    return w.with_tensors([c.requires_grad_() for c in w.cores])


def tokens(n, width, dtype=torch.float64, seed=1):
    return tl.rng.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(a, b, rtol=1e-10):
    return float((a - b).detach().norm()) <= rtol * (1e-300 + float(b.detach().norm()))


# -- reduces to


@pytest.mark.thorough
@pytest.mark.parametrize("chunk", [1 << 20, 1], ids=["one chunk", "chunks"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("out", "in_", "size"), SHAPES)
def test_every_plan_gives_the_dense_product_and_its_gradients(
    out, in_, size, dtype, chunk, monkeypatch
):
    monkeypatch.setattr(
        model, "CPU", model.CPU._replace(chunk=chunk)
    )  # 1 byte: the smallest chunks, 16 tokens
    choose_plan.cache_clear()
    w = layer(out, in_, size, dtype=dtype)
    x = tokens(42, w.shape[1], dtype).reshape(2, 21, -1).requires_grad_()
    y = x @ w.to_dense().mT
    dy = tokens(42, w.shape[0], dtype, 2).reshape(y.shape)
    wanted = torch.autograd.grad(y, [x, *w.cores], dy)
    for path, backward in itertools.product(paths(len(out)), BACKWARDS):
        got = propagate(w, x, f"{path}, {backward}")
        assert got.shape == y.shape and close(got, y), (path, backward)
        for a, b in zip(torch.autograd.grad(got, [x, *w.cores], dy), wanted, strict=True):
            assert close(a, b), (path, backward)
    for strategy in ("auto", *BACKWARDS, *map(str, paths(len(out)))):
        assert close(propagate(w, x, strategy), y)
    choose_plan.cache_clear()


@pytest.mark.thorough
@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradcheck(backward, dtype):
    w = layer((2, 3, 2), (3, 1, 2), (11, 5), rank=2, dtype=dtype)
    x = tokens(3, 5, dtype).requires_grad_()
    for path in ("left", "right 1+2"):
        f = lambda x, *cores, path=path: propagate(w.with_tensors(cores), x, f"{path}, {backward}")
        assert torch.autograd.gradcheck(f, (x, *w.cores))


@pytest.mark.parametrize("backward", BACKWARDS)
def test_second_derivatives_go_by_autograd(backward):
    w = layer((2, 3), (3, 2), rank=2)
    f = lambda x, *cores: propagate(w.with_tensors(cores), x, backward)
    assert torch.autograd.gradgradcheck(f, (tokens(3, 6).requires_grad_(), *w.cores))


def test_other_formats_multiply_by_their_apply(generator):
    w = tl.LowRank.randn((6, 4), 2, generator=generator)
    x = torch.randn(3, 4, generator=generator)
    assert torch.equal(propagate(w, x), w.apply(x))
    with pytest.raises(ValueError, match="auto for a LowRank, which has one path, got 'left'"):
        propagate(w, x, "left")


# -- only what is needed


@pytest.mark.parametrize("backward", BACKWARDS)
def test_gradients_only_for_what_needs_them(backward):
    w, x = layer((4, 2, 3), (2, 3, 4)), tokens(5, 24)
    cores = [w.cores[0].detach(), w.cores[1], w.cores[2].detach()]
    propagate(w.with_tensors(cores), x, backward).sum().backward()
    wanted = torch.autograd.grad((x @ w.to_dense().mT).sum(), w.cores[1])[0]
    assert (
        x.grad is None
        and cores[0].grad is None
        and cores[2].grad is None
        and close(cores[1].grad, wanted)
    )
    x.requires_grad_()
    frozen = w.to(torch.float64).with_tensors([c.detach() for c in w.cores])
    propagate(frozen, x, backward).sum().backward()
    assert close(x.grad, frozen.to_dense().sum(0).expand(5, -1))
    assert not propagate(frozen, x.detach(), backward).requires_grad


@pytest.mark.parametrize("rank", [2, 8, 64])
def test_no_tokens_and_one_token(rank):
    w = layer((4, 4), (3, 3), rank=rank)
    for n in (0, 1):
        x = tokens(n, 9).requires_grad_()
        y = propagate(w, x)
        y.sum().backward()
        assert y.shape == (n, 16) and x.grad.shape == (n, 9)


def measured(w, x, dy, strategy):
    """Bytes at the peak of a forward and backward pass, and bytes saved in between beside x and the
    cores."""
    known, saved = {t.untyped_storage()._cdata for t in (x, *w.cores)}, {}

    def pack(t):
        storage = t.untyped_storage()
        if storage._cdata not in known:
            saved[storage._cdata] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = propagate(w, x, strategy)
    del y
    step = lambda: torch.autograd.grad(propagate(w, x, strategy), [x, *w.cores], dy)
    return peak_bytes(step, [x, dy, *w.cores]), sum(saved.values())


@pytest.mark.thorough
@pytest.mark.parametrize("rank", [2, 8, 64])
def test_a_large_layer_keeps_to_50_mib_and_saves_nothing(rank):
    w = layer((12, 16, 16), (8, 8, 12), rank=rank, dtype=torch.float32)
    x = tokens(2048, 768, torch.float32).requires_grad_()
    peak, saved = measured(w, x, tokens(2048, 3072, torch.float32), "auto")
    assert saved == 0 and peak <= 50 * 2**20


def test_the_talks_order_of_memory_and_what_plans_say_of_it():
    w = layer((12, 16, 16), (8, 8, 12), rank=8, dtype=torch.float32)
    x, dy = tokens(256, 768, torch.float32).requires_grad_(), tokens(256, 3072, torch.float32)
    found = {plan.strategy: plan for plan in plans(w, 256)}
    peaks = {}
    tried = [
        "left, autograd",
        "left, full matrix",
        "left, environment",
        "left, recompute",
        "right 1+2, recompute",
    ]
    for strategy in tried:
        peaks[strategy], saved = measured(w, x, dy, strategy)
        if "autograd" in strategy:
            assert saved == pytest.approx(found[strategy].saved, rel=0.3) and saved > 10 * x.numel()
        else:
            assert saved == found[strategy].saved == 0
        assert found[strategy].peak == pytest.approx(peaks[strategy], rel=0.5), strategy
    assert peaks["left, autograd"] > 1.5 * max(p for s, p in peaks.items() if "autograd" not in s)


# -- dtypes, compilers


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backward", BACKWARDS)
def test_halves(dtype, backward):
    w, x = layer((4, 2, 3), (2, 3, 4)), tokens(50, 24)
    half = w.with_tensors([c.detach().to(dtype).requires_grad_() for c in w.cores])
    xs = x.to(dtype).requires_grad_()
    y = propagate(half, xs, backward)
    y.sum().backward()
    wide = half.with_tensors([c.detach().double().requires_grad_() for c in half.cores])
    wanted = propagate(wide, xs.detach().double())
    wanted.sum().backward()
    eps = torch.finfo(dtype).eps
    assert y.dtype == xs.grad.dtype == dtype and close(y.double(), wanted, 4 * eps)
    for a, b in zip(half.cores, wide.cores):
        assert a.grad.dtype == dtype and close(a.grad.double(), b.grad, 8 * eps)


def test_autocast():
    w, x = layer((4, 2, 3), (2, 3, 4), dtype=torch.float32), tokens(7, 24, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = propagate(w, x)
    y.float().sum().backward()
    assert (
        y.dtype == torch.bfloat16
        and close(y.float(), propagate(w, x), 0.05)
        and w.cores[1].grad.dtype == torch.float32
    )
    for dtype in (torch.float64, torch.complex64):  # which autocast leaves alone
        w, x = layer((4, 2, 3), (2, 3, 4), dtype=dtype), tokens(7, 24, dtype)
        with torch.autocast("cpu", torch.bfloat16):
            y = propagate(w, x)
        assert y.dtype == dtype and close(y, propagate(w, x))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "strategy", ["auto", "left, autograd", "right 1+2, recompute", "left, full matrix"]
)
def test_is_compiled_whole(strategy):
    w, x = layer((4, 2, 3), (2, 3, 4)), tokens(40, 24).requires_grad_()
    f = lambda w, x: propagate(w, x, strategy)
    y = torch.compile(f, backend="aot_eager", fullgraph=True)(w, x)
    assert close(y, f(w, x))
    for a, b in zip(
        torch.autograd.grad(y.sum(), [x, *w.cores]),
        torch.autograd.grad(f(w, x).sum(), [x, *w.cores]),
    ):
        assert close(a, b)


def test_functional_gradients():
    w, x = layer((4, 2, 3), (2, 3, 4)), tokens(5, 24)
    gradient = torch.func.grad(lambda w: propagate(w, x, "left, recompute").sum())(w)
    wanted = torch.autograd.grad(propagate(w, x).sum(), w.cores)
    assert all(close(a, b) for a, b in zip(gradient.cores, wanted))


# -- by hand


def test_operations_by_hand():
    w = tl.TTMatrix.randn(out=(12, 16, 16), in_=(8, 8, 12), rank=2)
    found = {plan.strategy: plan for plan in plans(w, 10)}
    dense, merge = 2 * 10 * 768 * 3072, 2 * 96 * 2 * 256 + 2 * 96 * 128 * 2 * 192
    assert found["left, recompute"].flops == w.flops(10)
    # from the right: (32, 12) for each of 64, then (32, 16) x 16 for each of 8, then (12, 16) x 256
    assert found["right, recompute"].flops == 2 * 10 * (
        64 * 32 * 12 + 8 * 32 * 16 * 16 + 12 * 16 * 256
    )
    assert found["rebuild, recompute"].flops == dense + merge
    assert found["left 2+1, recompute"].flops == 2 * 96 * 2 * 256 + 2 * 10 * (
        384 * 64 * 12 + 192 * 16 * 24
    )
    assert found["rebuild, recompute"].backward_flops == 2 * dense + 3 * merge
    ends = 4 * 10 * (768 + 3072)
    assert all(plan.peak >= ends and plan.seconds > 0 for plan in found.values())


def test_paths():
    assert (
        len(paths(1)) == 1 and len(paths(2)) == 3 and len(paths(4)) == 15 and len(paths(8)) == 255
    )
    assert Path("left", (1,) * 20) in paths(20) and len(paths(20)) == 2 + 2 * 19 + 1
    assert all(sum(path.groups) == 5 for path in paths(5)) and len(set(map(str, paths(5)))) == 31


def test_auto_is_the_plan_that_is_expected_to_be_fastest():
    for rank, batch in ((1, 4096), (2, 2048), (8, 2048), (64, 64), (64, 1)):
        w = tl.TTMatrix.randn(out=(12, 16, 16), in_=(8, 8, 12), rank=rank)
        shapes = tuple(tuple(c.shape) for c in w.cores)
        forward, backward, way = choose_plan(shapes, batch, 4, "cpu", "auto")
        seconds = {
            plan.forward: plan.seconds for plan in plans(w, batch) if plan.backward == "recompute"
        }
        assert backward == "recompute" and (
            forward != way or min(seconds, key=seconds.get) == str(forward)
        )


# -- says no


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ("fastest", "got 'fastest'"),
        ("left, right", "got 'left, right'"),
        ("autograd, recompute", "got 'autograd, recompute'"),
        ("left 2+2", "left 1\\+2"),
        ("", "got ''"),
    ],
)
def test_says_no_to_a_strategy(strategy, said):
    with pytest.raises(ValueError, match=said) as caught:
        propagate(layer((4, 2, 3), (2, 3, 4)), tokens(3, 24), strategy)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(
        "propagate: needs auto, a path of left, right, "
    )


def test_says_no_to_what_does_not_fit():
    w = layer((4, 2, 3), (2, 3, 4))
    with pytest.raises(ValueError, match=r"x of shape \(..., 24\), got \(3, 23\)"):
        propagate(w, tokens(3, 23))
    with pytest.raises(ValueError, match=r"got \(\)"):
        propagate(w, torch.tensor(1.0))
    with pytest.raises(ValueError, match="dtype torch.float64, got torch.float32"):
        propagate(w, tokens(3, 24, torch.float32))
