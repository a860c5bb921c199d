"""Riemannian optimization on trains: against dense linear algebra, finite differences, torchtt, and
the SVD of matrices."""

import math

import numpy as np
import pytest
import torch
from tensors import relative_error
from torch.utils.flop_counter import FlopCounterMode

import tensorlab as tl
from tensorlab.formats.tt_manifold import retract, transport

SHAPES = [
    ((6,), ()),
    ((7, 5), (3,)),
    ((4, 5, 6), (2, 3)),
    ((3, 4, 2, 5), (3, 4, 2)),
    ((2, 2, 2, 2), (9, 9, 9)),
]
DTYPES = [torch.float64, torch.complex128]


def train(shape, rank, seed=0, dtype=torch.float64):
    """A random train, of these very ranks even where they are beyond the unfoldings'."""
    g = torch.Generator().manual_seed(seed)
    r = (1, *((rank,) * (len(shape) - 1) if isinstance(rank, int) else rank), 1)
    return tl.TT(
        tuple(
            tl.rng.randn(r[k], n, r[k + 1], generator=g, dtype=dtype) for k, n in enumerate(shape)
        )
    )


def dense(shape, seed=5, dtype=torch.float64):
    return tl.rng.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def projector(x):
    """The tangent space by its definition: the range of the derivative of the dense tensor by all
    cores, as q qᴴ."""
    jacobians = torch.autograd.functional.jacobian(lambda *cores: tl.TT(cores).to_dense(), x.cores)
    j = torch.cat([a.reshape(math.prod(x.shape), -1) for a in jacobians], 1)
    u, s, _ = torch.linalg.svd(j, full_matrices=False)
    return u[:, s > 1e-10 * s[0]]


# -- reduces to


@pytest.mark.parametrize(("shape", "rank"), SHAPES, ids=str)
def test_projection_is_that_onto_the_range_of_the_derivative(shape, rank):
    x, z = train(shape, rank), dense(shape)
    q = projector(x)
    wanted = (q @ (q.T @ z.flatten())).reshape(shape)
    v = tl.tt_project(x, z)
    assert relative_error(v.to_tt().to_dense(), wanted) < 1e-12
    assert (
        sum(d.numel() for d in v.deltas) - sum(r * r for r in v.ranks) == q.shape[1]
    )  # the dimension of the manifold
    assert (
        relative_error(tl.tt_project(x, tl.tt_svd(z, rtol=0.0)).to_tt().to_dense(), wanted) < 1e-12
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_two_modes_give_the_projector_of_low_rank_matrices(dtype):
    x, z = train((7, 5), 2, dtype=dtype), dense((7, 5), dtype=dtype)
    u, _, vh = torch.linalg.svd(x.to_dense())
    p, q = u[:, :2] @ u[:, :2].mH, vh[:2].mH @ vh[:2]
    assert relative_error(tl.tt_project(x, z).to_tt().to_dense(), p @ z + z @ q - p @ z @ q) < 1e-13


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "rank"), SHAPES, ids=str)
def test_the_gradient_is_the_projection_of_the_dense_gradient(shape, rank, dtype):
    a, x = dense(shape, dtype=dtype), train(shape, rank, dtype=dtype)
    f = lambda t: (
        ((t - a).abs().square() / 2 + (t * a.conj()).real.sin()).sum()
        + t.abs().square().sum().sqrt()
    )
    point = x.to_dense().requires_grad_()
    (gradient,) = torch.autograd.grad(f(point), point)
    got = tl.riemannian_grad(lambda t: f(t.to_dense()), x)
    assert (
        relative_error(got.to_tt().to_dense(), tl.tt_project(x, gradient).to_tt().to_dense())
        < 1e-10
    )


@pytest.mark.parametrize(("shape", "rank"), SHAPES, ids=str)
def test_the_hessian_product_is_the_projected_dense_one(shape, rank):
    a, x = dense(shape), train(shape, rank)
    f = lambda t: ((t - a).square() / 2 + (t * a).sin()).sum()
    v = tl.tt_project(x, dense(shape, 6))
    gradient = lambda t: t - a + a * (t * a).cos()
    h = 1e-5
    point, direction = x.to_dense(), v.to_tt().to_dense()
    difference = (gradient(point + h * direction) - gradient(point - h * direction)) / (2 * h)
    wanted = tl.tt_project(x, difference).to_tt().to_dense()
    assert (
        relative_error(
            tl.hessian_vector(lambda t: f(t.to_dense()), x, v).to_tt().to_dense(), wanted
        )
        < 1e-8
    )


def test_the_curvature_of_the_manifold_is_what_the_hessian_product_leaves_out():
    x, v = train((4, 5, 6), 2), tl.tt_project(train((4, 5, 6), 2), dense((4, 5, 6)))
    a = train((4, 5, 6), 3, 1)
    along = lambda f, h=1e-3: float(f(retract(v, h)) - 2 * f(x) + f(retract(v, -h))) / h**2
    linear = lambda t: t.dot(a)  # its dense Hessian is zero: all that bends is the manifold
    assert float(tl.hessian_vector(linear, x, v).norm()) == 0 and abs(along(linear)) > 0.1
    lowest = lambda t: (t - x).dot(t - x) / 2  # its dense gradient at x is zero: nothing is missing
    assert along(lowest) == pytest.approx(float(v.dot(tl.hessian_vector(lowest, x, v))), rel=1e-4)


def test_projection_and_gradient_agree_with_torchtt():
    manifold = pytest.importorskip("torchtt.manifold", reason="needs the bench extra")
    torchtt = pytest.importorskip("torchtt", reason="needs the bench extra")
    x, z = train((4, 5, 6, 3), 2), train((4, 5, 6, 3), 3, 1)
    theirs = manifold.riemannian_projection(torchtt.TT(list(x.cores)), torchtt.TT(list(z.cores)))
    assert relative_error(tl.tt_project(x, z).to_tt().to_dense(), theirs.full()) < 1e-12
    f = lambda full: (full - z.to_dense()).square().sum() / 2
    theirs = manifold.riemannian_gradient(torchtt.TT(list(x.cores)), lambda t: f(t.full()))
    assert (
        relative_error(
            tl.riemannian_grad(lambda t: f(t.to_dense()), x).to_tt().to_dense(), theirs.full()
        )
        < 1e-12
    )


def test_matrices_of_low_rank_end_at_the_truncated_svd():
    a = dense((9, 7))
    best = tl.LowRank.from_dense(a, 2).to_dense()
    for method in ("cg", "gd"):
        fit = tl.tt_minimize(
            lambda x: (x.to_dense() - a).square().sum(),
            train((9, 7), 2),
            method=method,
            max_iter=400,
        )
        assert fit.converged and relative_error(fit.value.to_dense(), best) < 1e-4
        assert fit.history[-1] == pytest.approx(float((best - a).square().sum()), rel=1e-9)


def test_a_trains_nearest_train_is_better_than_rounding():
    a = train((5, 6, 7, 4), 5)
    rounded = tl.tt_round(a, 2)
    fit = tl.tt_minimize(lambda x: (x - a).dot(x - a), rounded, max_iter=100)
    lost = float((rounded - a).norm()) ** 2
    assert fit.history[0] == pytest.approx(lost, rel=1e-10) and fit.history[-1] < 0.999 * lost
    assert fit.converged and fit.value.ranks == (2, 2, 2)


def test_conjugate_gradients_take_fewer_steps_than_gradients():
    a = tl.TT.randn((6, 6, 6), 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = 1 + 9 * torch.rand(
        6, 6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    f = lambda x: (weights * (x.to_dense() - a.to_dense()).square()).sum()
    x0 = tl.tt_round(a + 0.3 * train((6, 6, 6), 2, 4), 2)
    steps = {m: len(tl.tt_minimize(f, x0, method=m, max_iter=400).history) for m in ("cg", "gd")}
    assert steps["cg"] < steps["gd"]


# -- invariants


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "rank"), SHAPES, ids=str)
def test_tangent_vectors_are_a_space_with_the_inner_product_of_tensors(shape, rank, dtype):
    x = train(shape, rank, dtype=dtype)
    a, b = (tl.tt_project(x, dense(shape, s, dtype)) for s in (1, 2))
    da, db = a.to_tt().to_dense(), b.to_tt().to_dense()
    for got, wanted in [
        (a + b, da + db),
        (a - b, da - db),
        (-a, -da),
        (2.5 * a, 2.5 * da),
        (a * 2, 2 * da),
    ]:
        assert relative_error(got.to_tt().to_dense(), wanted) < 1e-13
    assert torch.allclose(a.dot(b), torch.vdot(da.flatten(), db.flatten()), rtol=1e-12)
    assert float(a.norm()) == pytest.approx(float(da.norm()), rel=1e-12)
    assert relative_error(a.point.to_dense(), x.to_dense()) < 1e-13
    for u, d in zip(a.left, a.deltas):
        u, d = u.flatten(0, 1), d.flatten(0, 1)
        assert (
            torch.allclose(u.mH @ u, torch.eye(u.shape[1], dtype=dtype), atol=1e-12)
            and float((u.mH @ d).norm()) < 1e-12
        )
    again = transport(x, a)
    assert relative_error(again.to_tt().to_dense(), da) < 1e-12  # at the same point nothing moves


def test_the_residual_of_the_projection_is_normal_to_the_tangent_space():
    x, z = train((4, 5, 6), 2), dense((4, 5, 6))
    rest = z - tl.tt_project(x, z).to_tt().to_dense()
    for seed in range(3):
        v = tl.tt_project(x, dense((4, 5, 6), seed)).to_tt().to_dense()
        assert abs(float((v * rest).sum())) < 1e-12 * float(v.norm() * rest.norm())


def test_retraction_agrees_with_the_straight_line_to_first_order():
    x = train((4, 5, 6), 2)
    v = tl.tt_project(x, dense((4, 5, 6)))
    gaps = []
    for step in (1e-1, 1e-2, 1e-3):
        y = retract(v, step)
        assert y.ranks == x.ranks
        gaps.append(float((y.to_dense() - x.to_dense() - step * v.to_tt().to_dense()).norm()))
    assert gaps[1] < 0.02 * gaps[0] and gaps[2] < 0.02 * gaps[1]
    assert relative_error(retract(v, 0.0).to_dense(), x.to_dense()) < 1e-13


def test_the_gradient_costs_a_constant_times_the_function():
    ratios = []
    for d in (3, 6, 12):
        x, a = (
            tl.TT.randn(
                (5,) * d, 5, generator=torch.Generator().manual_seed(s), dtype=torch.float64
            )
            for s in (0, 1)
        )
        f = lambda t, a=a: t.dot(a) ** 2
        with FlopCounterMode(display=False) as plain:
            f(x)
        with FlopCounterMode(display=False) as riemannian:
            tl.riemannian_grad(f, x)
        ratios.append(riemannian.get_total_flops() / plain.get_total_flops())
    assert max(ratios) < 20 and ratios[2] < 1.5 * ratios[0]


WIDTHS = [torch.float32, torch.float64, torch.complex64, torch.complex128]


@pytest.mark.parametrize("b", WIDTHS, ids=str)
@pytest.mark.parametrize("a", WIDTHS, ids=str)
def test_two_dtypes_meet_in_the_one_that_torch_promotes_them_to(a, b):
    """The result is that of both in this dtype: no imaginary part and no digit is lost."""
    x, z = train((4, 5, 6), 2, 0, a), train((4, 5, 6), 3, 1, b)
    dtype = torch.promote_types(a, b)
    tol = 1e3 * torch.finfo(dtype).eps
    f = lambda t: t.dot(t).real / 2  # its Hessian is 1
    wanted = tl.tt_project(x.to(dtype), z.to(dtype)).to_tt().to_dense()
    size = float(wanted.norm())
    for v in (
        tl.tt_project(x, z),
        tl.tt_project(x, z.to(dtype).to_dense()),
        tl.hessian_vector(f, x, tl.tt_project(x, z)),
        tl.hessian_vector(f, x, tl.tt_project(x.to(dtype), z)),
    ):
        assert v.dtype == dtype and {d.dtype for d in (*v.left, *v.right, *v.deltas)} == {dtype}
        assert float((v.to_tt().to_dense() - wanted).norm()) < tol * size
    u = tl.tt_project(z, z)
    v, w = transport(x, u), tl.tt_project(x.to(dtype), u.to_tt().to(dtype))
    assert v.dtype == dtype and float((v.to_tt() - w.to_tt()).norm()) < tol * size
    assert retract(v, 0.1).dtype == dtype


def test_at_full_rank_a_real_point_holds_all_of_a_complex_tensor():
    z = dense((4, 5, 6), dtype=torch.complex128)
    x = tl.tt_svd(z.real.contiguous(), rtol=0.0)
    assert relative_error(tl.tt_project(x, z).to_tt().to_dense(), z) < 1e-14
    assert relative_error(tl.tt_project(x, tl.tt_svd(z, rtol=0.0)).to_tt().to_dense(), z) < 1e-13


def test_real_and_complex_vectors_at_one_point_add():
    x, z = train((4, 5, 6), 2), dense((4, 5, 6), dtype=torch.complex128)
    real, complex_ = tl.tt_project(x, z.real.contiguous()), tl.tt_project(x, z)
    rest = (complex_ - real) - 1j * tl.tt_project(x, z.imag.contiguous())
    assert rest.dtype == torch.complex128 and float(rest.norm()) < 1e-13 * float(complex_.norm())
    assert complex(real.dot(complex_)) == pytest.approx(
        complex(real.to(torch.complex128).dot(complex_)), rel=1e-14
    )
    assert (1j * real).dtype == (np.complex64(1j) * real).dtype == torch.complex128
    assert (np.float64(2) * real).dtype == (real * torch.tensor(2.0)).dtype == torch.float64
    with pytest.raises(TypeError):
        real * "2"


@pytest.mark.parametrize("scale", [2.0**600, 2.0**-600])
def test_a_multiple_has_the_same_tangent_space(scale):
    times = lambda t: tl.TT((*t.cores[:-1], t.cores[-1] * scale))
    x, z, y = train((4, 5, 6), 2), train((4, 5, 6), 3, 1), train((4, 5, 6), 2, 2)
    one, other = tl.tt_project(x, z), tl.tt_project(times(x), times(z))
    gap = lambda a, b: float((a.to_dense() / scale - b.to_dense()).norm() / b.to_dense().norm())
    assert float(other.norm()) == float(one.norm()) * scale
    assert gap(other.to_tt(), one.to_tt()) < 1e-14
    assert gap(transport(times(y), other).to_tt(), transport(y, one).to_tt()) < 1e-14
    assert gap(retract(other, 0.3), retract(one, 0.3)) < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_descent_of_any_scale_takes_the_same_steps(dtype):
    a, x0 = train((4, 5, 6), 2, 0, dtype), train((4, 5, 6), 2, 1, dtype)
    run = lambda c: tl.tt_minimize(lambda x: c * (x - a).dot(x - a), x0, max_iter=12)
    one = run(1.0)
    for c in (2.0**90, 2.0**-90) if dtype == torch.float32 else (2.0**1000, 2.0**-950):
        assert run(c).history == tuple(c * h for h in one.history)
    if dtype == torch.float64:
        for c in (2.0**600, 2.0**-600):
            times = lambda t, c=c ** (1 / 3): tl.TT(tuple(core * c for core in t.cores))
            b, y0 = times(a), times(x0)
            fit = tl.tt_minimize(lambda x, b=b: (x - b).norm(), y0, max_iter=8)
            wanted = tl.tt_minimize(lambda x: (x - a).norm(), x0, max_iter=8)
            assert fit.history == pytest.approx([c * h for h in wanted.history], rel=1e-6)


def test_numbers_of_numpy_are_numbers():
    a, x0 = train((4, 5, 6), 2), train((4, 5, 6), 2, 1)
    run = lambda **o: tl.tt_minimize(lambda x: (x - a).dot(x - a), x0, **o).history
    assert run(max_iter=np.int64(3), tol=np.float32(0.5)) == run(max_iter=3, tol=0.5)


def test_a_default_device_that_is_not_the_datas():
    x, z = train((4, 5, 6), 2), train((4, 5, 6), 2, 1)
    f = lambda t: (t - z).dot(t - z)
    with torch.device("meta"):
        v = tl.tt_project(x, z.to_dense())
        sizes = [float(t.norm()) for t in (v, transport(z, v), tl.riemannian_grad(f, x))]
        fit = tl.tt_minimize(f, x, max_iter=3)
    assert all(math.isfinite(s) for s in sizes) and fit.history[-1] < fit.history[0]


@pytest.mark.parametrize("shape", [(1,), (5,), (1, 1, 1), (3, 1, 4)])
def test_one_mode_and_modes_of_one(shape):
    x, z = train(shape, 1), train(shape, 1, 1)
    v = tl.tt_project(x, z)
    y = retract(v, 1e-3).to_dense() - x.to_dense() - 1e-3 * v.to_tt().to_dense()
    assert float(y.norm()) < 1e-5 * float(z.norm())  # the second order
    fit = tl.tt_minimize(lambda t: (t - z).dot(t - z), x)
    assert fit.converged and relative_error(fit.value.to_dense(), z.to_dense()) < 1e-4


def test_scaling_the_function_or_the_tensor_changes_no_step():
    a, x0 = train((4, 5, 6), 2), train((4, 5, 6), 2, 1)
    runs = [
        tl.tt_minimize(lambda x, c=c: c * (x - a).dot(x - a), x0, max_iter=12).history
        for c in (1.0, 1024.0)
    ]
    assert runs[1] == pytest.approx([1024 * h for h in runs[0]], rel=1e-8)
    scaled = tl.tt_minimize(
        lambda x: (x - 1024 * a).dot(x - 1024 * a), 1024 * x0, max_iter=12
    ).history
    assert scaled == pytest.approx([2**20 * h for h in runs[0]], rel=1e-8)


def test_the_history_falls_and_float32_stays_float32():
    a, x0 = (train((4, 5, 6), 2, s, torch.float32) for s in (0, 1))
    fit = tl.tt_minimize(lambda x: (x - a).norm() ** 2, x0)
    assert fit.value.dtype == torch.float32 and fit.history[-1] < 1e-6 * fit.history[0]
    assert all(b < a for a, b in zip(fit.history, fit.history[1:]))


def test_complex_trains_are_found():
    a, x0 = (train((4, 5, 6), 2, s, torch.complex128) for s in (0, 1))
    fit = tl.tt_minimize(lambda x: (x - a).norm() ** 2, x0)
    assert fit.converged and relative_error(fit.value.to_dense(), a.to_dense()) < 1e-5


def test_a_start_at_a_stationary_point_stays():
    x = train((4, 5), 2)
    fit = tl.tt_minimize(lambda t: 0 * t.dot(t), x)
    assert (
        fit.converged
        and len(fit.history) == 1
        and relative_error(fit.value.to_dense(), x.to_dense()) < 1e-13
    )


def test_no_iterations_are_no_convergence():
    a, x0 = train((4, 5), 2), train((4, 5), 2, 1)
    fit = tl.tt_minimize(lambda x: (x - a).dot(x - a), x0, max_iter=0)
    assert (
        not fit.converged
        and len(fit.history) == 1
        and relative_error(fit.value.to_dense(), x0.to_dense()) < 1e-13
    )


# -- by hand


def test_by_hand():
    # at x = e_0 e_0ᵀ the tangent matrices are those with z[1, 1] = 0: that entry is what a step of
    # rank 1 cannot reach
    x = tl.tt_svd(torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64), 1)
    z = torch.tensor([[2.0, 3.0], [5.0, 7.0]], dtype=torch.float64)
    v = tl.tt_project(x, z)
    assert torch.allclose(
        v.to_tt().to_dense(),
        torch.tensor([[2.0, 3.0], [5.0, 0.0]], dtype=torch.float64),
        atol=1e-14,
    )
    assert float(v.norm()) == pytest.approx(math.sqrt(4 + 9 + 25))
    nearest = tl.LowRank.from_dense(
        torch.tensor([[3.0, 3.0], [5.0, 0.0]], dtype=torch.float64), 1
    ).to_dense()
    assert torch.allclose(retract(v).to_dense(), nearest)


# -- errors


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.cores[0].square().sum(),
        lambda x: sum(c.square().sum() for c in x.cores),
        lambda x: x.dot(x) + x.cores[1][0, 0, 0],
    ],
    ids=["the first core", "all cores", "one entry of a core"],
)
def test_a_function_of_the_cores_is_found_out(f):
    x = train((4, 5, 6), 2)
    for call, who in [
        (lambda: tl.riemannian_grad(f, x), "riemannian_grad"),
        (lambda: tl.tt_minimize(f, x), "tt_minimize"),
        (lambda: tl.hessian_vector(f, x, tl.tt_project(x, x)), "hessian_vector"),
    ]:
        with pytest.raises(
            ValueError, match=f"^{who}: needs a function of the tensor, not of its cores, got "
        ) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_function_that_is_zero_up_to_rounding_is_not_taken_for_one_of_the_cores():
    a = train((4, 5, 6), 2)
    size = float(a.dot(a))
    assert (
        float(tl.riemannian_grad(lambda x: x.dot(x) - 2 * x.dot(a) + size, a).norm()) < 1e-10 * size
    )


def _x():
    return train((4, 5), 2)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (
            lambda: tl.riemannian_grad(lambda x: x.to_dense(), _x()),
            ValueError,
            r"one real number in a tensor, got shape \(4, 5\)",
        ),
        (lambda: tl.riemannian_grad(lambda x: 3.0, _x()), TypeError, "got float"),
        (lambda: tl.riemannian_grad(lambda x: None, _x()), TypeError, "got NoneType"),
        (lambda: tl.tt_minimize(lambda x: None, _x()), TypeError, "tt_minimize: .*got NoneType"),
        (
            lambda: tl.hessian_vector(lambda x: None, _x(), tl.tt_project(_x(), _x())),
            TypeError,
            "hessian_vector: .*got NoneType",
        ),
        (
            lambda: tl.riemannian_grad(lambda x: x.dot(x) * math.inf, _x()),
            ValueError,
            "finite at x, got inf",
        ),
        (
            lambda: tl.tt_project(_x(), torch.full((4, 5), math.nan)),
            ValueError,
            r"finite entries, got nan at index \(0, 0\)",
        ),
        (
            lambda: tl.tt_project(_x(), tl.TT.randn((4, 5), 1) * math.inf),
            ValueError,
            "finite entries",
        ),
        (
            lambda: transport(_x().to("meta"), tl.tt_project(_x(), _x())),
            ValueError,
            "meta",
        ),
        (lambda: retract(tl.tt_project(_x(), _x()), math.nan), ValueError, "finite .*got nan"),
        (lambda: retract(_x()), TypeError, "got TT"),
        (lambda: tl.tt_minimize(lambda x: x.dot(x), _x(), max_iter=True), ValueError, "got True"),
        (lambda: tl.riemannian_grad(lambda x: x.dot(x) * 1j, _x()), ValueError, "complex128"),
        (
            lambda: tl.riemannian_grad(lambda x: x.dot(x).detach(), _x()),
            ValueError,
            "differentiate, got a value without a graph",
        ),
        (
            lambda: tl.riemannian_grad(lambda x: x.dot(x), torch.ones(3, 3)),
            TypeError,
            "needs a TT, got Tensor",
        ),
        (
            lambda: tl.tt_minimize(lambda x: x.dot(x) * math.nan, _x()),
            ValueError,
            "tt_minimize: needs a function that is finite at x, got nan",
        ),
        (
            lambda: tl.tt_minimize(lambda x: x.dot(x), _x(), method="newton"),
            ValueError,
            "got 'newton'",
        ),
        (lambda: tl.tt_minimize(lambda x: x.dot(x), _x(), tol=-1.0), ValueError, "got -1.0"),
        (lambda: tl.tt_minimize(lambda x: x.dot(x), _x(), max_iter=1.5), ValueError, "got 1.5"),
        (lambda: tl.tt_minimize(lambda x: x.dot(x), _x() * math.nan), ValueError, "got nan"),
        (lambda: tl.tt_project(_x(), torch.ones(4, 6)), ValueError, r"\(4, 5\) of x, got \(4, 6\)"),
        (lambda: tl.tt_project(_x(), "z"), TypeError, "got str"),
        (lambda: transport(_x(), train((4, 5), 2)), TypeError, "got TT"),
        (
            lambda: tl.tt_project(_x(), _x()) + tl.tt_project(train((4, 5), 2, 1), _x()),
            ValueError,
            "at the same point",
        ),
        (lambda: tl.tt_project(_x(), _x()).dot(3), ValueError, "got 3"),
    ],
)
def test_refuses_bad_input(make, error, said):
    with pytest.raises(error, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)
