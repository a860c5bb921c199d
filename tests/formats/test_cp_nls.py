"""CP by nonlinear least squares: exact products, collinear factors, swamps, degenerate fits, masks,
nonnegative fits."""

import math

import pytest
import torch
from tensors import relative_error

import tensorlab as tl
from tensorlab.formats import cp_nls as module

F64, C128 = torch.float64, torch.complex128


def collinear(shape, rank, cosine=0.9, noise=0.0, seed=0, dtype=F64):
    """A tensor of norm 1 whose columns meet at about this cosine in every mode; one with noise."""
    g, factors = torch.Generator().manual_seed(seed), []
    for n in shape:
        base = tl.linalg.orthonormal(tl.rng.randn(n, 1, generator=g, dtype=dtype))
        own = tl.rng.randn(n, rank, generator=g, dtype=dtype)
        own = own - base @ (base.mH @ own)
        own = own / torch.linalg.vector_norm(own, dim=0)
        factors.append(math.sqrt(cosine) * base + math.sqrt(1 - cosine) * own)
    clean = tl.CP(torch.ones(rank, dtype=dtype), tuple(factors)).to_dense()
    clean = clean / clean.norm()
    e = tl.rng.randn(*shape, generator=g, dtype=dtype)
    return clean, clean + e * (noise / e.norm())


def border(n=10, dtype=F64):
    """Rank 3, and as near as one likes to tensors of rank 2 [DeSilvaLim2008]."""
    g = torch.Generator().manual_seed(0)
    a, b, c, u, v, w = (tl.rng.randn(n, generator=g, dtype=dtype) for _ in range(6))
    x = sum(torch.einsum("i,j,k->ijk", *t) for t in ((a, b, w), (a, v, c), (u, b, c)))
    return x / x.norm()


def factors_of(shape, rank, dtype, seed=3):
    g = torch.Generator().manual_seed(seed)
    return [tl.rng.randn(n, rank, generator=g, dtype=dtype) for n in shape]


def jacobian(factors):
    """J of the tensor in the stacked factors, column by column, from the dense tensor itself."""
    stacked = torch.cat(factors)
    ones = torch.ones_like(stacked[0])
    sizes = [len(a) for a in factors]
    columns = []
    for i in range(stacked.numel()):
        k = int((torch.tensor(sizes).cumsum(0) <= i // stacked.shape[1]).sum())
        unit = torch.zeros_like(stacked).flatten()
        unit[i] = 1
        moved = list(factors)
        moved[k] = unit.reshape(stacked.shape).split(sizes)[k]
        columns.append(tl.CP(ones, tuple(moved)).to_dense().flatten())
    return torch.stack(columns, 1)


# -- the equations

SHAPES = [(4, 3), (4, 2, 5), (2, 3, 2, 4), (5,)]


@pytest.mark.thorough
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("way", ["times", "solve", "conjugate gradients", "free"])
def test_products_and_solutions_are_those_of_the_jacobian(shape, dtype, masked, way, monkeypatch):
    if way == "free" and dtype.is_complex:
        return  # nonnegative fits are real
    factors = factors_of(shape, 3, dtype)
    g = torch.Generator().manual_seed(1)
    mask = torch.rand(shape, generator=g) < 0.7
    j = jacobian(factors) * (mask.flatten()[:, None] if masked else 1)
    normal = module._Masked(factors, mask) if masked else module._Whole(factors)
    v = tl.rng.randn(sum(shape), 3, generator=g, dtype=dtype)
    free, damping, h = None, 0.3, j.mH @ j
    if way == "times":
        wanted, got = h @ v.flatten(), normal.times(v)
    else:
        if way == "free":
            free = torch.rand(v.shape, generator=g) < 0.6
            v = v * free
            h = h * free.flatten() * free.flatten()[:, None]
        if way != "solve":
            monkeypatch.setattr(module, "DENSE", 0)
            monkeypatch.setattr(module, "DENSE_SEEN", 0)
            monkeypatch.setattr(module, "PRODUCTS", 500)
        size = 1e-24 if way != "solve" else 1.0  # small right sides are solved to high accuracy
        wanted = torch.linalg.solve(h + damping * torch.eye(len(h), dtype=F64), v.flatten())
        got = normal.solve(v * size, damping, free) / size
    assert normal.top == pytest.approx(float((j.mH @ j).diagonal().real.max()), rel=1e-12)
    assert relative_error(got.flatten(), wanted) < 1e-10


def test_a_short_mode_beside_long_ones_is_padded_and_solved():
    factors = factors_of((9, 2, 12), 4, F64)
    j = jacobian(factors)
    v = torch.cat(factors_of((9, 2, 12), 4, F64, seed=5))
    wanted = torch.linalg.solve(j.T @ j + 0.1 * torch.eye(j.shape[1], dtype=F64), v.flatten())
    assert relative_error(module._Whole(factors).solve(v, 0.1, None).flatten(), wanted) < 1e-12


# -- the algebraic start


@pytest.mark.parametrize(
    "shape, rank",
    [
        ((4, 5, 6), 4),
        ((6, 5, 2), 5),
        ((2, 5, 6), 5),
        ((3, 3, 2, 3, 2), 6),
        ((7, 3, 3, 2), 6),
        ((4, 4, 3), 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
def test_the_algebraic_start_is_exact(shape, rank, dtype):
    x = tl.CP(torch.ones(rank, dtype=dtype), tuple(factors_of(shape, rank, dtype))).to_dense()
    found = module.gevd(x, rank)
    assert relative_error(tl.CP(torch.ones_like(found[0][0]), tuple(found)).to_dense(), x) < 1e-9


@pytest.mark.parametrize("shape, rank", [((4, 4, 4, 4), 6), ((3, 4, 5), 5), ((5, 6), 2)], ids=str)
def test_without_two_groups_of_enough_rows_there_is_no_algebraic_start(shape, rank):
    assert module.gevd(tl.rng.randn(*shape, dtype=F64), rank) is None


# -- fits


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("shape, rank", [((30,) * 3, 5), ((30,) * 3, 10), ((12,) * 4, 6)], ids=str)
@pytest.mark.parametrize("noise, bound", [(0.0, 1e-13), (1e-4, 2e-5), (1e-2, 2e-3)])
def test_collinear_factors(shape, rank, dtype, noise, bound):
    clean, x = collinear(shape, rank, noise=noise, dtype=dtype)
    fit = tl.cp_nls(x, rank)
    assert fit.converged and 0 < fit.largest < 1
    assert relative_error(fit.value.to_dense(), clean) < bound
    assert relative_error(fit.value.to_dense(), x) < noise + 1e-13
    assert all(b <= a + 1e-8 for a, b in zip(fit.history, fit.history[1:]))


@pytest.mark.slow
@pytest.mark.parametrize("shape, rank", [((100,) * 3, 10), ((30,) * 4, 8)], ids=str)
@pytest.mark.parametrize("noise, bound", [(0.0, 1e-13), (1e-4, 2e-5), (1e-2, 2e-3)])
def test_collinear_factors_of_large_tensors(shape, rank, noise, bound):
    clean, x = collinear(shape, rank, noise=noise)
    assert relative_error(tl.cp_nls(x, rank).value.to_dense(), clean) < bound


def test_the_end_is_a_stationary_point():
    _, x = collinear((8, 9, 10), 4, noise=1e-2)
    fit = tl.cp_nls(x, 4, tol=1e-14)
    weights, *factors = fit.value.tensors()
    factors = [f.clone().requires_grad_() for f in (factors[0] * weights, *factors[1:])]
    (tl.CP(torch.ones(4, dtype=F64), tuple(factors)).to_dense() - x).square().sum().backward()
    assert max(float(f.grad.norm()) for f in factors) < 1e-8


@pytest.mark.thorough
@pytest.mark.parametrize("noise, bound", [(0.0, 1e-12), (1e-5, 4e-6), (1e-3, 4e-4)])
def test_a_swamp_is_left(noise, bound):
    clean, x = collinear((20,) * 3, 6, cosine=0.99, noise=noise)
    fit = tl.cp_nls(x, 6)
    als = tl.cp_als(x, 6, tol=0.0, max_iter=200)
    assert fit.converged and relative_error(fit.value.to_dense(), clean) < bound
    assert relative_error(als.value.to_dense(), clean) > 4e-4  # ALS is still in it


def test_the_swamp_of_the_lesson_from_its_own_start():
    from tensorlab.course.lessons.cp import als_problem

    x, start = als_problem("swamp")
    for init in ("gevd", start):
        assert tl.cp_nls(x, 3, init=init).history[-1] < 1e-13
    assert tl.cp_als(x, 3, init=start, tol=0.0, max_iter=200).history[-1] > 1e-4


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
def test_a_degenerate_fit_is_named(dtype):
    fit = tl.cp_nls(border(dtype=dtype), 2)
    assert not fit.converged and fit.largest > 10
    assert "degenerate" in fit.reason and f"{fit.largest:.1e} |x|" in repr(fit)
    sane = tl.cp_nls(border(dtype=dtype), 3)
    assert sane.converged and sane.largest < 10 and sane.history[-1] < 1e-12
    assert "degenerate" not in repr(sane)


@pytest.mark.thorough
@pytest.mark.parametrize("shape, rank", [((8,) * 3, 10), ((4,) * 4, 7)], ids=str)
def test_ranks_above_the_dimensions_are_as_good_as_als(shape, rank):
    g = torch.Generator().manual_seed(1)
    clean = tl.CP.randn(shape, rank, generator=g, dtype=F64).to_dense()
    x = clean + 1e-4 * clean.norm() * tl.rng.randn(*shape, generator=g, dtype=F64) / 20
    seeded = lambda: torch.Generator().manual_seed(2)
    als = tl.cp_als(x, rank, tol=1e-10, max_iter=1000, generator=seeded())
    fit = tl.cp_nls(x, rank, generator=seeded())
    assert fit.converged and fit.history[-1] <= als.history[-1] * (1 + 1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(3))
def test_nonnegative_is_no_worse_than_als(seed):
    g = torch.Generator().manual_seed(seed)
    thin = lambda: (
        torch.rand(15, 4, generator=g, dtype=F64) * (torch.rand(15, 4, generator=g) < 0.6)
    )
    x = tl.CP(torch.ones(4, dtype=F64), (thin(), thin(), thin())).to_dense()
    x = (x + 1e-2 * x.norm() / 58 * torch.randn(15, 15, 15, generator=g, dtype=F64)).clamp_min(0)
    fit = tl.cp_nls(x, 4, nonnegative=True)
    als = tl.cp_als(x, 4, nonnegative=True, tol=1e-10, max_iter=1000)
    assert all(bool((t >= 0).all()) for t in fit.value.tensors())
    assert fit.converged and fit.history[-1] <= als.history[-1] * (1 + 1e-5)
    zeros = sum(int((f == 0).sum()) for f in fit.value.factors)
    assert zeros > 10  # kept at the wall, not only near it


@pytest.mark.parametrize("unknown", [0.0, 1e300, math.nan])
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
def test_a_masked_fit_completes_the_tensor(unknown, dtype):
    clean, x = collinear((12, 13, 14), 3, noise=1e-3, dtype=dtype)
    g = torch.Generator().manual_seed(0)
    mask = torch.rand(x.shape, generator=g) < 0.4
    damaged = torch.where(mask, x, unknown)
    fit = tl.cp_nls(damaged, 3, mask=mask, generator=g)
    assert fit.converged and relative_error(fit.value.to_dense(), clean) < 1e-3
    rest = (fit.value.to_dense() - x)[mask].norm() / x[mask].norm()
    assert fit.history[-1] == pytest.approx(float(rest), rel=1e-6)


def test_a_masked_nonnegative_fit():
    g = torch.Generator().manual_seed(0)
    x = tl.CP(
        torch.ones(2, dtype=F64), tuple(f.abs() for f in factors_of((8, 9, 7), 2, F64))
    ).to_dense()
    mask = torch.rand(x.shape, generator=g) < 0.6
    fit = tl.cp_nls(torch.where(mask, x, -5.0), 2, mask=mask, nonnegative=True, generator=g)
    assert all(bool((t >= 0).all()) for t in fit.value.tensors())
    assert relative_error(fit.value.to_dense(), x) < 1e-6


def test_a_full_mask_changes_nothing():
    _, x = collinear((8, 9, 10), 3, noise=1e-2)
    init = tl.CP(torch.ones(3, dtype=F64), tuple(factors_of(x.shape, 3, F64)))
    a, b = (tl.cp_nls(x, 3, init=init, mask=m) for m in (None, torch.ones(x.shape) > 0))
    assert a.history[-1] == pytest.approx(b.history[-1], rel=1e-7)


@pytest.mark.parametrize("shape", [(9, 8), (1, 9, 1, 8), (7,), (1, 7), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("rank", [1, 3, 9])
def test_matrices_are_their_svd(shape, dtype, rank):
    x = tl.rng.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    fit = tl.cp_nls(x, rank)
    s = torch.linalg.svdvals(x.reshape(max(shape) if x.ndim != 2 else shape[0], -1))
    best = float(s[rank:].norm() / s.norm())
    assert fit.value.ranks == (rank,) and fit.history[-1] == pytest.approx(best, abs=1e-12)
    assert relative_error(fit.value.to_dense(), x) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("init", ["hosvd", "random"])
def test_other_starts(init):
    clean, x = collinear((9, 10, 11), 3, cosine=0.5, noise=1e-3)
    fit = tl.cp_nls(x, 3, init=init, generator=torch.Generator().manual_seed(0))
    assert fit.history[-1] == pytest.approx(tl.cp_nls(x, 3).history[-1], rel=1e-7)


def test_the_given_start_is_left_as_it_is_and_zero_is_zero():
    _, x = collinear((6, 7, 8), 3)
    init = tl.CP(torch.ones(3, dtype=F64), tuple(factors_of(x.shape, 3, F64)))
    before = [t.clone() for t in init.tensors()]
    tl.cp_nls(x, 3, init=init, max_iter=3)
    assert all(torch.equal(a, b) for a, b in zip(before, init.tensors(), strict=True))
    for begin in ("gevd", init):
        fit = tl.cp_nls(torch.zeros(6, 7, 8, dtype=F64), 3, init=begin)
        assert fit.history == (0.0,) and fit.converged and not fit.value.to_dense().any()


def test_max_iter_ends_it_and_says_so():
    _, x = collinear((20,) * 3, 6, cosine=0.99, noise=1e-3)
    fit = tl.cp_nls(x, 6, init="hosvd", max_iter=2)
    assert not fit.converged and len(fit.history) == 3 and "max_iter" in fit.reason


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.complex64])
def test_narrow_dtypes_are_fitted_in_float64(dtype):
    wide = tl.linalg.wide(dtype)
    x = tl.CP(torch.ones(3, dtype=wide), tuple(factors_of((6, 7, 8), 3, wide))).to_dense().to(dtype)
    fit = tl.cp_nls(x, 3)
    assert fit.value.dtype == dtype and fit.history[-1] < 4 * torch.finfo(dtype).eps


@pytest.mark.cuda
def test_on_a_gpu():
    clean, x = collinear((30,) * 3, 5, noise=1e-4)
    for options in ({}, {"mask": torch.rand(x.shape) < 0.5}):
        fit = tl.cp_nls(x.cuda(), 5, **options)
        assert fit.value.weights.is_cuda
        assert relative_error(fit.value.to("cpu").to_dense(), clean) < 1e-4


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        (dict(rank=2.0), TypeError, "got 2.0"),
        (dict(rank=0), ValueError, "got 0"),
        (dict(rank=None), ValueError, "got neither"),
        (dict(rank=(2, 2)), ValueError, r"1 entry .*\(2, 2\)"),
        (dict(init="svd"), ValueError, "got 'svd'"),
        (dict(init=tl.CP.randn((3, 3, 3), 2)), ValueError, r"got shape \(3, 3, 3\)"),
        (dict(max_iter=0), ValueError, "got 0"),
        (dict(tol=-1), ValueError, "got -1"),
        (dict(tol=math.nan), ValueError, "got nan"),
        (dict(init=tl.CP.randn((2, 3, 4), 2).scale(math.nan)), ValueError, "init: .*got nan"),
        (dict(mask=[True]), ValueError, "got list"),
        (dict(mask=torch.zeros(2, 3, 4, dtype=torch.bool)), ValueError, "got none"),
        (dict(generator=0), TypeError, "got 0"),
        (dict(x=torch.ones(2, 3, 4) * 1j, nonnegative=True), TypeError, "got torch.complex64"),
        (dict(x=torch.ones(2, 3, 4).long()), TypeError, "got torch.int64"),
        (dict(x=torch.ones(2, 3, device="meta")), ValueError, "meta device"),
        (dict(x=torch.full((2, 3), math.nan)), ValueError, r"got nan at index \(0, 0\)"),
        (dict(x=[1.0]), TypeError, "got list"),
    ],
)
def test_says_no(options, error, said):
    options = dict(x=torch.ones(2, 3, 4, dtype=F64), rank=2) | options
    with pytest.raises(error, match=f"cp_nls: .*{said}|cp_nls: {said}") as caught:
        tl.cp_nls(options.pop("x"), options.pop("rank"), **options)
    assert "\n" not in str(caught.value)
