"""Hybrid sums: the SVD and single shapes as special cases, recovery, the budget, the spectral norm,
the format, and what is refused."""

import math

import pytest
import torch

import tensorlab as tl
from tensorlab.formats.kron_sum import KronSum
from tensorlab.methods.kron_hybrid import kron_hybrid
from tensorlab.methods.kron_spectral import divisors, kron_spectral

EPS = torch.finfo(torch.float64).eps


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def error(w, value, p="fro"):
    return float(torch.linalg.matrix_norm(w - value.to_dense(), p))


def singles(w, budget):
    """(left, terms) of all shapes that the budget holds."""
    for m in divisors(w.shape[0]):
        for n in divisors(w.shape[1]):
            left, right = m * n, w.numel() // (m * n)
            if terms := min(budget // (left + right), left, right):
                yield (m, n), terms


@pytest.mark.parametrize("rank", [1, 3])
def test_columns_times_rows_are_the_svd(rank):
    w = gaussian(9, 7)
    have = kron_hybrid(w, rank * 16, shapes=[(9, 1)]).value
    assert (
        have.to_dense() - tl.LowRank.from_dense(w, rank).to_dense()
    ).norm() < 1e3 * EPS * w.norm()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [25, 60, 90])
def test_never_worse_than_one_shape_and_within_the_budget(seed, budget):
    w = gaussian(12, 8, seed=seed)
    value = kron_hybrid(w, budget).value
    assert value.numel <= budget
    best = min(error(w, tl.kron_svd(w, left, k)) for left, k in singles(w, budget))
    assert error(w, value) <= best * (1 + 1e-12)


def test_a_sum_of_two_shapes_is_found_where_one_shape_is_not_enough():
    g = torch.Generator().manual_seed(0)
    parts = [
        tl.Kronecker.randn((12, 12), 1, out=out, in_=in_, generator=g, dtype=torch.float64)
        for out, in_ in (((12, 1), (1, 12)), ((3, 4), (4, 3)))
    ]
    w = 3 * parts[0].to_dense() + parts[1].to_dense()
    fit = kron_hybrid(w, 48, sweeps=100)
    assert sorted(fit.value.ranks) == [1, 1] and error(w, fit.value) < 1e-6 * w.norm()
    assert min(error(w, tl.kron_svd(w, left, k)) for left, k in singles(w, 48)) > 0.1 * w.norm()


def test_fitting_anew_lowers_the_error_and_no_term_raises_it():
    w, shapes = gaussian(36, 36), [(36, 1), (6, 6), (12, 12), (3, 3)]
    fits = [kron_hybrid(w, 500, sweeps=k, shapes=shapes) for k in (0, 5)]
    for fit in fits:
        assert all(b <= a * (1 + 1e-12) for a, b in zip(fit.history, fit.history[1:]))
    assert fits[1].history[-2] < fits[0].history[-2]


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(2))
def test_the_spectral_norm(seed):
    w = gaussian(12, 12, seed=seed)
    shapes = [(12, 1), (3, 4), (2, 6)]
    value = kron_hybrid(w, 72, shapes=shapes, norm="spectral").value
    have = error(w, value, 2)
    assert value.numel <= 72
    assert have < error(w, kron_hybrid(w, 72, shapes=shapes).value, 2)
    for left in shapes:
        terms = 72 // (left[0] * left[1] + 144 // (left[0] * left[1]))
        single = kron_spectral(w, left, terms, max_iter=200)
        assert have <= single.error * (1 + 1e-12)


def test_scaling_changes_nothing():
    w = gaussian(12, 8)
    a, b = kron_hybrid(w, 60), kron_hybrid(w * 2.0**500, 60)
    assert a.history == b.history and a.value.ranks == b.value.ranks


def test_zeros():
    assert kron_hybrid(torch.zeros(4, 6), 20).value.to_dense().abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_the_format(dtype):
    g = torch.Generator().manual_seed(0)
    draw = lambda r, out, in_: tl.Kronecker.randn(
        (12, 8), r, out=out, in_=in_, generator=g, dtype=dtype
    )
    a = KronSum.of(draw(2, (12, 1), (1, 8)), draw(3, (3, 4), (4, 2)))
    b = KronSum.of(draw(1, (3, 4), (4, 2)))
    eps, x = 100 * torch.finfo(dtype).eps, gaussian(5, 8, dtype=dtype)
    near = lambda have, want: torch.testing.assert_close(have, want, rtol=eps, atol=eps)
    near(a.apply(x), x @ a.to_dense().mT)
    near((a + b).to_dense(), a.to_dense() + b.to_dense())
    near((a - 2 * b).to_dense(), a.to_dense() - 2 * b.to_dense())
    near((a * 1e30).to_dense() / 1e30, a.to_dense())
    assert (a + b).ranks == (2, 4) and a.numel == 2 * 20 + 3 * (12 + 8)
    near(a.norm(), a.to_dense().norm().to(a.norm().dtype))
    near(a.dot(b + a), (a.to_dense().conj() * (b + a).to_dense()).sum())
    index = torch.tensor([[0, 0], [11, 7], [5, 3]])
    near(a.at(index), a.to_dense()[index[:, 0], index[:, 1]])
    assert a.flops(7) == 7 * 12 + sum(part.flops(7) for part in a.parts)
    std = float(KronSum.of(*a.parts).initial().to_dense().abs().square().mean().sqrt())
    assert 0.2 < std * math.sqrt(3 * 8) < 3
    with pytest.raises(TypeError, match=r"KronSum \*: needs a number"):
        a * b


def test_the_format_in_a_file_and_in_a_layer(tmp_path):
    layer = torch.nn.Linear(8, 12)
    make = lambda w: kron_hybrid(w, 60).value
    model = tl.replace_linear(torch.nn.Sequential(layer), "0", make)
    weight = model[0].weight
    tl.save(tmp_path / "w.safetensors", weight)
    assert torch.equal(tl.load(tmp_path / "w.safetensors").to_dense(), weight.to_dense())
    x = gaussian(3, 8).float()
    assert torch.allclose(model(x), x @ weight.to_dense().mT + layer.bias, atol=1e-5)
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(budget=13), ["budget of 14", "13"]),
        (dict(budget=2.5), ["budget", "2.5"]),
        (dict(shapes=[(5, 1)]), ["rows of 1, 2, 3, 4, 6, 12", "(5, 1)"]),
        (dict(norm="max"), ["frobenius, spectral", "max"]),
        (dict(w=torch.full((12, 4), math.inf)), ["inf"]),
    ],
)
def test_refuses(change, words):
    with pytest.raises(ValueError) as caught:
        kron_hybrid(**dict(w=torch.ones(12, 4), budget=60) | change)
    message = str(caught.value)
    assert message.startswith("kron_hybrid: ") and all(word in message for word in words), message


def test_the_format_refuses_what_does_not_fit():
    one = lambda *shape: torch.ones(shape)
    with pytest.raises(ValueError, match="pairs of factors, got 3"):
        KronSum((one(1, 2, 2), one(1, 2, 2), one(1, 2, 2)))
    with pytest.raises(ValueError, match="parts of one shape"):
        KronSum((one(1, 2, 2), one(1, 2, 2), one(1, 2, 2), one(1, 2, 3)))
