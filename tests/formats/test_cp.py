"""CP: planted tensors, tensorly from the same start, swamps and degenerate pairs, masks,
nonnegative fits."""

import math

import pytest
import tensorly
import torch
from tensorly.decomposition import non_negative_parafac_hals, parafac
from tensors import gradcheck, relative_error

import tensorlab as tl


def start(shape, rank, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return tl.CP(
        torch.ones(rank, dtype=dtype),
        [tl.rng.rand(n, rank, generator=g, dtype=dtype) for n in shape],
    )


def planted(shape, rank, noise=0.0, seed=1, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    cp = tl.CP.randn(shape, rank, generator=g, dtype=dtype)
    x = cp.to_dense()
    e = tl.rng.randn(*shape, generator=g, dtype=dtype)
    return cp, x + e * (noise * x.norm() / e.norm())


def tensorly_cp(x, cp, sweeps, **options):
    tensorly.set_backend("pytorch")
    try:
        return tl.from_tensorly(
            parafac(x, cp.ranks[0], init=tl.to_tensorly(cp), n_iter_max=sweeps, tol=0, **options)
        )
    finally:
        tensorly.set_backend("numpy")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("shape", "rank", "sweeps"),
    [
        ((20, 21, 22), 5, 40),
        ((8, 9, 10, 11), 4, 40),
        ((100,) * 3, 10, 50),
        ((30,) * 4, 10, 50),
    ],
)
def test_reaches_tensorly_from_the_same_start(shape, rank, sweeps):
    _, x = planted(shape, rank, noise=1e-3)
    init = start(shape, rank)
    ours = tl.cp_als(x, rank, init=init, tol=0.0, max_iter=sweeps)
    theirs = relative_error(tensorly_cp(x, init, sweeps).to_dense(), x)
    assert ours.history[-1] <= theirs * (1 + 1e-6) + 1e-9


def test_a_sweep_is_tensorlys_sweep():
    _, x = planted((6, 7, 8), 3, noise=0.1)
    init = start((6, 7, 8), 3)
    for sweeps in (1, 2, 5):
        ours = tl.cp_als(x, 3, init=init, tol=0.0, max_iter=sweeps).value.to_dense()
        assert relative_error(ours, tensorly_cp(x, init, sweeps).to_dense()) < 1e-9


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128, torch.float32])
@pytest.mark.parametrize("init", ["hosvd", "random"])
def test_recovers_a_planted_tensor_up_to_scale_and_permutation(init, dtype, generator):
    truth, x = planted((11, 12, 13), 5, dtype=dtype)
    fit = tl.cp_als(x, 5, init=init, tol=0.0, max_iter=400, generator=generator)
    a, b = truth.normalized(), fit.value.normalized()
    cosines = math.prod(
        (f.mH @ g).abs() for f, g in zip(a.factors, b.factors)
    )  # of each term with each
    assert sorted(cosines.argmax(1).tolist()) == [0, 1, 2, 3, 4]
    assert cosines.max(1).values.min() > 1 - (1e-4 if dtype == torch.float32 else 1e-7)
    assert relative_error(fit.value.to_dense(), x) == pytest.approx(
        fit.history[-1], rel=0.5, abs=1e-6
    )


def test_history_is_the_true_error_also_when_tiny():
    _, x = planted((6, 7, 8), 2)
    for noise in (0.0, 1e-10, 1e-6, 1e-2):
        y = x + noise * torch.randn(
            x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype
        )
        fit = tl.cp_als(y, 2, tol=1e-13, max_iter=500)
        assert fit.history[-1] == pytest.approx(
            relative_error(fit.value.to_dense(), y), rel=1e-3, abs=1e-15
        )
        assert all(b <= a * (1 + 1e-3) + 1e-13 for a, b in zip(fit.history, fit.history[1:]))


def test_matrices_and_vectors_and_halves(generator):
    x = torch.randn(9, 8, generator=generator, dtype=torch.float64)
    s = torch.linalg.svdvals(x)
    assert tl.cp_als(x, 3, max_iter=500).history[-1] == pytest.approx(
        float(s[3:].norm() / s.norm()), rel=1e-6
    )
    assert tl.cp_als(x[0], 1).history[-1] < 1e-14
    for dtype in (torch.float16, torch.bfloat16):
        fit = tl.cp_als(planted((6, 7, 8), 2)[1].to(dtype), 2)
        assert fit.value.dtype == dtype and fit.history[-1] < torch.finfo(dtype).eps


@pytest.mark.thorough
def test_scale_and_permutation_of_modes():
    _, x = planted((6, 7, 8), 3, noise=0.1)
    init = start((6, 7, 8), 3)
    fit = tl.cp_als(x, 3, init=init)
    for scale in (2.0**-400, 2.0**400):
        again = tl.cp_als(x * scale, 3, init=tl.CP(init.weights * scale, init.factors))
        assert again.history == pytest.approx(fit.history, rel=1e-9)


def test_the_given_start_is_left_as_it_is():
    _, x = planted((6, 7, 8), 3)
    init = start((6, 7, 8), 3)
    before = [t.clone() for t in init.tensors()]
    tl.cp_als(x, 3, init=init, max_iter=3)
    assert all(torch.equal(a, b) for a, b in zip(before, init.tensors(), strict=True))


@pytest.mark.parametrize("name", ["zero", "equal columns", "rank above every mode"])
def test_singular_systems(name):
    _, x = planted((4, 5, 6), 2)
    if name == "zero":
        fit = tl.cp_als(torch.zeros(4, 5, 6), 2)
        assert fit.history[-1] == 0 and fit.value.to_dense().abs().max() == 0
    elif name == "equal columns":
        one = start((4, 5, 6), 1)
        fit = tl.cp_als(
            x,
            2,
            init=tl.CP(torch.ones(2).double(), [f.expand(-1, 2).clone() for f in one.factors]),
            max_iter=50,
        )
        best_rank_one = tl.cp_als(x, 1, init=one, max_iter=500).history[-1]
        assert fit.history[-1] <= best_rank_one + 1e-6  # two equal terms stay equal: as good as one
    else:
        assert (
            tl.cp_als(x, 9, generator=torch.Generator().manual_seed(0), max_iter=500).history[-1]
            < 1e-6
        )


@pytest.mark.thorough
def test_degenerate_pair():
    a, b = torch.eye(2, dtype=torch.float64)
    w = sum(
        torch.einsum("i,j,k->ijk", *v) for v in ((a, a, b), (a, b, a), (b, a, a))
    )  # rank 3, border rank 2
    fit = tl.cp_als(w, 2, init=start((2, 2, 2), 2), tol=0.0, max_iter=2000)
    cp = fit.value.normalized()
    cosine = math.prod(float(f[:, 0] @ f[:, 1]) for f in cp.factors)
    assert cosine < -0.9 and float(cp.weights[0]) > 3 * float(
        w.norm()
    )  # two terms that grow and cancel
    assert fit.history[-1] < 0.5 * fit.history[10]


def test_nonnegative_reaches_tensorly(generator):
    x = torch.rand(9, 10, 11, generator=generator, dtype=torch.float64)
    init = start(x.shape, 4)
    fit = tl.cp_als(x, 4, init=init, nonnegative=True, tol=0.0, max_iter=100)
    assert all(bool((t >= 0).all()) for t in fit.value.tensors())
    assert all(b <= a + 1e-12 for a, b in zip(fit.history, fit.history[1:]))
    tensorly.set_backend("numpy")
    theirs = non_negative_parafac_hals(
        x.numpy(), 4, init=tl.to_tensorly(init), n_iter_max=100, tol=0
    )
    assert fit.history[-1] <= 1.01 * relative_error(tl.from_tensorly(theirs).to_dense(), x)


@pytest.mark.parametrize("unknown", [0.0, 1e6, 1e300, math.inf, math.nan])
def test_masked_fit_completes_the_tensor(unknown, generator):
    _, x = planted((9, 10, 11), 2)
    mask = torch.rand(x.shape, generator=generator) < 0.5
    damaged = torch.where(mask, x, unknown)
    fit = tl.cp_als(
        damaged, 2, mask=mask, init="random", generator=generator, tol=1e-12, max_iter=500
    )
    assert fit.history[-1] < 1e-8 and relative_error(fit.value.to_dense(), x) < 1e-7
    rest = (fit.value.to_dense() - x)[mask].norm() / x[mask].norm()
    assert fit.history[-1] == pytest.approx(float(rest), rel=1e-3, abs=1e-14)
    assert all(b <= a * (1 + 1e-9) for a, b in zip(fit.history, fit.history[1:]))


@pytest.mark.thorough
def test_masked_nonnegative_fit(generator):
    x = start((6, 7, 8), 2).to_dense()
    mask = torch.rand(x.shape, generator=generator) < 0.6
    fit = tl.cp_als(
        x,
        2,
        mask=mask,
        nonnegative=True,
        init="random",
        generator=generator,
        tol=1e-12,
        max_iter=250,
    )
    assert all(bool((t >= 0).all()) for t in fit.value.tensors())
    assert all(b <= a + 1e-12 for a, b in zip(fit.history, fit.history[1:]))
    assert relative_error(fit.value.to_dense(), x) < 1e-2


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.complex128, torch.complex64])
def test_masked_fit_of_complex_numbers(dtype, generator):
    _, x = planted((7, 8, 9), 2, dtype=dtype)
    mask = torch.rand(x.shape, generator=generator) < 0.7
    fit = tl.cp_als(x, 2, mask=mask, tol=1e-12, max_iter=300)
    level = max(1e-11, 100 * torch.finfo(dtype).eps)  # tol, or what complex64 can hold
    assert fit.history[-1] < level and relative_error(fit.value.to_dense(), x) < 10 * level


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128, torch.complex64])
def test_normalized_is_the_same_tensor(dtype, generator):
    cp = tl.CP.randn((4, 5, 6), 4, generator=generator, dtype=dtype)
    turned = torch.tensor([-1.0, 2.0, 0.0, -3.0], dtype=dtype)
    turned = turned * torch.exp(1j * torch.arange(4)).to(dtype) if dtype.is_complex else turned
    for scale in (1.0, 2.0**-40):
        cp = tl.CP(turned * scale, cp.factors)
        unit = cp.normalized()
        assert relative_error(unit.to_dense(), cp.to_dense()) < 8 * torch.finfo(dtype).eps
        weights = unit.weights
        assert torch.equal(weights, weights.abs().to(dtype)) and float(weights[-1].abs()) == 0
        assert bool((weights.abs().diff() <= 0).all())
        for f in unit.factors:
            lengths = torch.linalg.vector_norm(f[:, :3], dim=0)
            assert torch.allclose(lengths, torch.ones_like(lengths))


def test_terms_that_grow_and_shrink_stay_in_range():
    big, small = torch.tensor([2.0**600, 2.0**-600], dtype=torch.float64), 2.0**40
    factors = [f.expand(2, 2) for f in (big, big, big.flip(0), big.flip(0))]
    cp = tl.CP(torch.ones(2, dtype=torch.float64) * small, tuple(f.clone() for f in factors))
    index = torch.zeros(1, 4, dtype=torch.long)
    assert float(cp.at(index)) == 2 * small and float(cp.to_dense()[0, 0, 0, 0]) == 2 * small
    assert float(cp.norm()) == pytest.approx(8 * small, rel=1e-14)
    assert float(cp.dot(cp)) == pytest.approx(64 * small**2, rel=1e-14)
    assert relative_error(cp.normalized().to_dense(), cp.to_dense()) < 1e-15


def test_many_modes_and_sizes_of_one():
    cp = tl.cp_als(torch.full((1,) * 40, 3.0, dtype=torch.float64), 1).value
    assert float(cp.at([[0] * 40])) == pytest.approx(3, rel=1e-14)
    ones = [torch.ones(10, 1, dtype=torch.float64)] * 400
    last = torch.tensor([[1.0], [-1.0]] + 8 * [[0.0]], dtype=torch.float64)
    one, other = (tl.CP(torch.ones(1).double(), fs) for fs in (ones, [*ones[:-1], last]))
    assert float(one.dot(other)) == 0  # not inf times 0
    assert float(one.norm()) == pytest.approx(1e200, rel=1e-12)


def test_a_full_mask_changes_nothing():
    _, x = planted((6, 7, 8), 3, noise=0.1)
    init, whole = start((6, 7, 8), 3), torch.ones(6, 7, 8, dtype=torch.bool)
    a, b = (tl.cp_als(x, 3, init=init, mask=m, max_iter=20) for m in (None, whole))
    assert a.history == pytest.approx(b.history, rel=1e-9)


@pytest.mark.thorough
def test_gradient_flows_through_the_sweeps():
    _, x = planted((3, 4, 3), 2, noise=0.3)
    init = start((3, 4, 3), 2)
    f = lambda x: tl.cp_als(x, 2, init=init, tol=0.0, max_iter=3).value.to_dense().sin().sum()  # noqa: E731
    assert gradcheck(f, (x.requires_grad_(),))


def test_steps_are_the_sweeps():
    _, x = planted((6, 7, 8), 3, noise=0.1)
    steps = tl.cp_als_steps(x, 3)
    errors = [next(steps)[1] for _ in range(5)]
    assert errors == list(tl.cp_als(x, 3, tol=0.0, max_iter=5).history)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda x: tl.cp_als(x, 2.0), TypeError, "got 2.0"),
        (lambda x: tl.cp_als(x, 0), ValueError, "got 0"),
        (lambda x: tl.cp_als(x, None), ValueError, "got neither"),
        (lambda x: tl.cp_als(x, (2, 2)), ValueError, r"1 entry .*\(2, 2\)"),
        (lambda x: tl.cp_als(x, 2, init="svd"), ValueError, "got 'svd'"),
        (lambda x: tl.cp_als(x, 2, init=start((3, 3, 3), 2)), ValueError, r"got shape \(3, 3, 3\)"),
        (lambda x: tl.cp_als(x, 2, max_iter=0), ValueError, "got 0"),
        (
            lambda x: tl.cp_als(x, 2, init=start((2, 3, 4), 2).scale(math.nan)),
            ValueError,
            "init: .*got nan",
        ),
        (
            lambda x: tl.cp_als(x, 2, nonnegative=True, init=-start((2, 3, 4), 2)),
            ValueError,
            "negative",
        ),
        (lambda x: tl.cp_als(x, 2, mask=[True]), ValueError, "got list"),
        (
            lambda x: tl.CP(torch.ones(3), torch.ones(2, 4, 3)),
            TypeError,
            "a tuple of tensors as factors, got Tensor",
        ),
        (
            lambda x: tl.CP((torch.ones(3),), (torch.ones(4, 3),)),
            TypeError,
            "a tensor as weights, got tuple",
        ),
        (lambda x: tl.CP.randn((), 2), ValueError, r"got \(\)"),
        (lambda x: tl.CP.randn((3, 0), 2), ValueError, r"got \(3, 0\)"),
        (
            lambda x: tl.cp_als(x, 2, mask=torch.ones(3)),
            ValueError,
            r"torch.float32 of shape \(3,\)",
        ),
        (
            lambda x: tl.cp_als(x, 2, mask=torch.zeros(2, 3, 4, dtype=torch.bool)),
            ValueError,
            "got none",
        ),
        (lambda x: tl.cp_als(x * 1j, 2, nonnegative=True), TypeError, "complex"),
        (
            lambda x: tl.CP(torch.ones(2), [torch.ones(3, 3)]),
            ValueError,
            r"\(2,\) and \[\(3, 3\)\]",
        ),
    ],
)
def test_refuses_bad_input(make, error, said):
    with pytest.raises(error, match=said) as caught:
        make(torch.ones(2, 3, 4, dtype=torch.float64))
    assert "\n" not in str(caught.value)
