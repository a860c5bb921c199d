"""x = u + Q v: each Q against a matrix written down otherwise, the energy of each step, the bound,
and the Q that stall."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dct
from scipy.linalg import hadamard

import tensorlab as tl
from tensorlab.methods import kashin as module
from tensorlab.methods.kashin import KINDS, METHODS, Rotation, kashin_steps

F64 = torch.float64
ANY = [k for k in KINDS if k not in ("hadamard", "butterfly")]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0, dtype=F64):
    return torch.randn(shape, generator=seeded(seed), dtype=F64).to(dtype)


def vectors(n):
    """Inputs from flat to as spiky as can be."""
    x, g = randn(n), seeded(1)
    outliers = x.clone()
    outliers[torch.randperm(n, generator=g)[: max(1, n // 1000)]] *= 30
    return {
        "gaussian": x,
        "student": x / randn(3, n, seed=2).square().mean(0).sqrt(),
        "outliers": outliers,
        "one-hot": torch.nn.functional.one_hot(torch.tensor(n // 3), n).double(),
        "constant": torch.full((n,), -2.0, dtype=F64),
    }


# -- reduces to: matrices


def written_down(kind, n, seed):
    """Q by its definition, from the same random numbers."""
    g = seeded(seed)
    if kind in ("dct", "hadamard"):
        signs = torch.diag(2.0 * torch.randint(2, (n,), generator=g) - 1).double()
        basis = (
            dct(torch.eye(n, dtype=F64).numpy(), axis=0, norm="ortho").T
            if kind == "dct"
            else hadamard(n) / math.sqrt(n)
        )
        return signs @ torch.tensor(basis, dtype=F64)
    if kind == "orthogonal":
        q, r = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=F64))
        return q * r.diagonal().sign()
    if kind == "householder":
        w = torch.randn(n, generator=g, dtype=F64)
        return torch.eye(n, dtype=F64) - 2 * torch.outer(w, w) / w.dot(w)
    q = torch.eye(n, dtype=F64)
    if kind == "givens":
        planes = torch.randperm(n, generator=g)[: n // 2 * 2].reshape(2, -1).T.tolist()
        stages = [
            list(zip(planes, (2 * math.pi * torch.rand(n // 2, generator=g, dtype=F64)).tolist()))
        ]
    else:
        angles = 2 * math.pi * torch.rand(n.bit_length() - 1, n // 2, generator=g, dtype=F64)
        low = [[i for i in range(n) if not i >> k & 1] for k in range(n.bit_length() - 1)]
        stages = [
            [((i, i + (1 << k)), a) for i, a in zip(low[k], angles[k].tolist())]
            for k in range(len(low))
        ]
    for stage in stages:
        turn = torch.eye(n, dtype=F64)
        for (i, j), a in stage:
            turn[[i, i, j, j], [i, j, i, j]] = torch.tensor(
                [math.cos(a), -math.sin(a), math.sin(a), math.cos(a)], dtype=F64
            )
        q = turn @ q
    return q


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 12, 64])
def test_every_rotation_is_its_matrix(kind, n):
    if kind not in ANY and n & (n - 1):
        with pytest.raises(
            ValueError, match=rf"Rotation: {kind} needs sizes that are powers of two, got \({n},\)"
        ):
            Rotation(kind, (n,))
        return
    q, dense, x = Rotation(kind, (n,), seed=5), written_down(kind, n, 5), randn(4, 3, n)
    assert torch.allclose(q.to_dense(), dense, atol=1e-13)
    assert torch.allclose(q.apply(x), x @ dense.mT, atol=1e-13)
    assert torch.allclose(q.adjoint(x), x @ dense, atol=1e-13)


@pytest.mark.parametrize("kind", ANY)
def test_two_modes_are_a_kronecker_product(kind):
    q = Rotation(kind, (6, 5), seed=3)
    kron = torch.kron(q.factor(0).to_dense(), q.factor(1).to_dense())
    x = randn(2, 6, 5)
    assert torch.allclose(q.to_dense(), kron, atol=1e-13)
    assert torch.allclose(q.apply(x).reshape(2, 30), x.reshape(2, 30) @ kron.mT, atol=1e-13)
    assert torch.allclose(q.adjoint(x).reshape(2, 30), x.reshape(2, 30) @ kron, atol=1e-13)


def test_a_batch_is_its_items():
    x, q = randn(3, 2, 50), Rotation("dct", (50,), 1)
    for method in METHODS:
        states = [step for step, _ in zip(kashin_steps(x, q, modes=1, method=method), range(20))]
        for i, j in ((0, 0), (2, 1)):
            for whole, one in zip(states, kashin_steps(x[i, j], q, method=method)):
                assert torch.allclose(whole.u[i, j], one.u, atol=1e-12) and torch.allclose(
                    whole.v[i, j], one.v, atol=1e-12
                )
                assert float(whole.left[i, j]) == pytest.approx(float(one.left), abs=1e-12)


# -- the theorem


@pytest.mark.thorough
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [2**8, 1000, 2**11, 2**14])
def test_the_sum_is_exact_and_flat(n, method):
    for name, x in vectors(n).items():
        fit = tl.kashin(x, method=method, generator=seeded())
        u, v, q = fit.value.u, fit.value.v, fit.value.q
        assert fit.converged and fit.history[-1] <= 1e-6 and len(fit.history) < 1000, name
        assert float((u + q.apply(v) - x).norm()) <= 1e-12 * float(x.norm())
        largest = max(float(u.abs().max()), float(v.abs().max()))
        assert float(fit.value.bound) == pytest.approx(
            math.sqrt(n) * largest / float(x.norm()), rel=1e-12
        )
        assert float(fit.value.bound) <= 2.0, name


@pytest.mark.thorough
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shape=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    seed=st.integers(0, 99),
    kind=st.sampled_from(ANY),
    method=st.sampled_from(METHODS),
    zero=st.booleans(),
)
def test_the_sum_is_exact_whatever_the_shape(shape, seed, kind, method, zero):
    x = randn(*shape, seed=seed)
    x = torch.where(torch.arange(len(x)).reshape(-1, *[1] * (x.ndim - 1)) == 0, 0, x) if zero else x
    for modes in range(1, min(x.ndim, 2) + 1):
        fit = tl.kashin(x, kind, modes=modes, method=method, max_iter=30, generator=seeded(seed))
        assert torch.allclose(fit.value.to_dense(), x, rtol=0, atol=1e-12 * float(x.abs().max()))
        assert fit.value.bound.shape == x.shape[: x.ndim - modes] == fit.value.residual.shape


@pytest.mark.parametrize("method", ["greedy", "two_two"])
@pytest.mark.parametrize("modes", [1, 2])
def test_each_step_lowers_the_energy_by_the_computed_amount(method, modes):
    x, before, rest_before = randn(5, 24, 31), None, None
    q = Rotation("dct", (31,) if modes == 1 else (24, 31), 2)
    dims = tuple(range(-modes, 0))
    for step, _ in zip(kashin_steps(x, q, modes=modes, method=method), range(25)):
        rest = x - step.u - q.apply(step.v)
        energy = rest.square().sum(dims)
        assert torch.allclose(step.left.square(), energy, rtol=1e-9)
        if before is not None:
            assert torch.allclose(before - energy, step.drop, rtol=1e-9) and bool(
                (step.drop > 0).all()
            )
            sides = torch.stack(
                [rest_before.abs().sum(dims), q.adjoint(rest_before).abs().sum(dims)]
            )
            if method == "greedy":  # N s^2 of the larger
                assert torch.allclose(
                    step.drop, sides.amax(0).square() / math.prod(q.shape), rtol=1e-9
                )
        before, rest_before = energy, rest


def test_two_and_two_have_four_levels_each():
    steps = kashin_steps(randn(500), "dct", method="two_two", generator=seeded())
    u, v = next((s.u, s.v) for k, s in enumerate(steps) if k == 4)
    assert len(u.unique()) == 4 and len(v.unique()) == 4
    assert torch.allclose(u.unique(), -u.unique().flip(0))


def test_one_step_by_hand():
    steps = kashin_steps(torch.tensor([3.0, -1.0], dtype=F64), Rotation("givens", (2,), 0))
    next(steps)
    one = next(steps)
    if one.u.any():  # |x|_1 = 4, s = 2, r = (1, 1): from 10 to 2 by N s^2 = 8
        assert (
            one.u.tolist() == [2, -2]
            and float(one.drop) == 8
            and float(one.left**2) == pytest.approx(2)
        )
    else:
        y = Rotation("givens", (2,), 0).adjoint(torch.tensor([3.0, -1.0], dtype=F64))
        assert float(y.abs().sum()) > 4 and float(one.drop) == pytest.approx(
            float(y.abs().sum()) ** 2 / 2
        )


@pytest.mark.parametrize("kind", ["householder", "givens"])
def test_near_the_identity_it_stalls_and_says_so(kind):
    x = vectors(512)["one-hot"]
    good, bad = (tl.kashin(x, k, max_iter=400, generator=seeded()) for k in ("dct", kind))
    assert good.converged and not bad.converged and len(bad.history) == 400
    assert bad.history[-1] > 1e-2 > 1e-6 >= good.history[-1]
    assert float(bad.value.bound) > 2 > float(good.value.bound)
    assert torch.allclose(bad.value.to_dense(), x, atol=1e-14)  # what is left is in u all the same
    assert "not converged" in repr(bad)


def test_an_input_that_is_spiky_in_both_bases_is_not_flat():
    n, q = 1024, Rotation("dct", (1024,), 0)
    near, far = Rotation("householder", (n,), 0), vectors(n)["one-hot"]
    assert float(tl.kashin(far, near, max_iter=300).value.bound) > 5
    comb = torch.zeros(n, dtype=F64)
    comb[16::32] = 1  # a comb has few cosines
    comb = comb * written_down("hadamard", n, 0).sign()[:, 0]  # the signs of this seed taken off
    worst, usual = (float(tl.kashin(comb, r).value.bound) for r in (q, Rotation("dct", (n,), 1)))
    assert worst > usual and usual < 2


# -- is invariant


POWERS = [(F64, p) for p in (-900, -600, 10, 600, 900)] + [
    (torch.float32, p) for p in (-100, -60, 60, 100)
]


@pytest.mark.thorough
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "power"), POWERS)
def test_scale_does_not_matter(method, dtype, power):
    x = randn(200, dtype=dtype)
    eps = torch.finfo(dtype).eps
    one, other = (
        tl.kashin(x * 2.0**p, method=method, tol=1e-5, generator=seeded()) for p in (0, power)
    )
    assert len(other.history) == len(one.history)
    assert float(other.value.bound) == pytest.approx(float(one.value.bound), rel=16 * eps)
    assert torch.allclose(other.value.u * 2.0**-power, one.value.u, rtol=0, atol=64 * eps)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "power"), POWERS)
def test_scale_does_not_matter_for_the_states(method, dtype, power):
    """Items of a batch have scales of their own, and |r| is right where |r|^2 is not a float."""
    x, modes = randn(3, 40, dtype=dtype), dict(modes=1, method=method)
    powers = torch.tensor([[0], [power], [-power]], dtype=torch.int32)
    scaled = tl.linalg.ldexp(x, powers)
    q = Rotation("dct", (40,), 1)
    for one, other, _ in zip(
        kashin_steps(x, q, **modes), kashin_steps(scaled, q, **modes), range(6)
    ):
        for a, b in ((one.u, other.u), (one.v, other.v)):
            assert torch.equal(tl.linalg.ldexp(b, -powers), a)
        assert torch.equal(tl.linalg.ldexp(other.left, -powers[:, 0]), one.left)


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_are_turned_into_no_rows(kind):
    q = Rotation(kind, (8,), 1)
    x = torch.ones(0, 8, requires_grad=True)
    for y in (q.apply(x), q.adjoint(x), Rotation(kind, (8, 4), 1).apply(torch.ones(0, 8, 4))):
        assert len(y) == 0 and y.shape[-1] in (8, 4)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace")
@pytest.mark.parametrize("kind", KINDS)
def test_a_captured_rotation_is_the_one_it_was(kind, monkeypatch):
    """Its random numbers are drawn when it is made, not when it is called."""
    monkeypatch.setattr(module, "BLOCK", 64)
    q, x = Rotation(kind, (16,), 3), randn(3, 16)
    graph = torch.jit.trace(q.adjoint, x)
    for many in (x, x, randn(50, 16, seed=1)):
        assert torch.allclose(graph(many), many @ q.to_dense(), atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_go_through_many_blocks_of_rows(kind, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 64)
    q, x = Rotation(kind, (16,), 3), randn(50, 16).requires_grad_()
    weight = randn(50, 16, seed=1)
    (g,) = torch.autograd.grad((q.apply(x) * weight).sum(), x)
    assert torch.allclose(g, q.adjoint(weight), atol=1e-13)


def test_sizes_and_seeds_may_be_of_numpy():
    q = Rotation("dct", (np.int64(6), np.int64(4)), np.int64(3))
    assert repr(q) == "Rotation(kind='dct', shape=(6, 4), seed=3)" and hash(q) == hash(q)
    assert tl.kashin(randn(6, 4), q, modes=np.int64(2), max_iter=np.int64(5)).value.q == q


def test_the_seed_decides():
    x = randn(64)
    a, b, c = (tl.kashin(x, generator=seeded(s)).value for s in (0, 0, 1))
    assert torch.equal(a.u, b.u) and a.q == b.q and a.q != c.q and not torch.equal(a.u, c.u)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_dtypes(dtype, device):
    x = randn(3, 128, dtype=dtype).to(device)
    fit = tl.kashin(x, modes=1, tol=1e-4, generator=seeded())
    assert (
        fit.converged
        and fit.value.u.dtype == fit.value.v.dtype == dtype
        and fit.value.u.device.type == device.type
    )
    dense = fit.value.u.double() + fit.value.q.apply(fit.value.v.double())
    assert torch.allclose(dense, x.double(), atol=4 * torch.finfo(dtype).eps * float(x.abs().max()))


def test_zeros():
    fit = tl.kashin(torch.zeros(4, 8, dtype=F64), modes=1, generator=seeded())
    assert (
        fit.converged
        and fit.history == ()
        and not fit.value.u.any()
        and not fit.value.v.any()
        and not fit.value.bound.any()
    )


# -- says no


@pytest.mark.parametrize(
    ("x", "options", "error", "said"),
    [
        (
            torch.tensor([1.0, math.nan]),
            {},
            ValueError,
            "kashin: needs finite entries, got nan at index (1,)",
        ),
        (
            torch.ones(3, dtype=torch.int64),
            {},
            TypeError,
            "kashin: needs floating-point or complex entries, got torch.int64",
        ),
        (
            torch.ones(3, dtype=torch.complex64),
            {},
            TypeError,
            "kashin: needs real entries, got torch.complex64",
        ),
        (torch.ones(0), {}, ValueError, "got shape (0,)"),
        (
            torch.ones(3),
            {"modes": 2},
            ValueError,
            "modes must be an integer in 1..1, got 2",
        ),
        (
            torch.ones(3),
            {"method": "lasso"},
            ValueError,
            """method must be "greedy", "two_two" or "frame", got 'lasso'""",
        ),
        (torch.ones(3), {"q": "fourier"}, ValueError, 'kind must be "dct"'),
        (
            torch.ones(3),
            {"q": Rotation("dct", (4,))},
            ValueError,
            "needs a rotation of shape (3,), got Rotation",
        ),
        (torch.ones(3), {"tol": 0}, ValueError, "tol must be a number > 0, got 0"),
        (torch.ones(3), {"modes": 1.0}, ValueError, "modes must be an integer in 1..1"),
        (torch.ones(3), {"max_iter": -1}, ValueError, "max_iter must be an integer >= 0, got -1"),
        (torch.ones(3, device="meta"), {}, ValueError, "got one on the meta device"),
    ],
)
def test_says_no(x, options, error, said):
    with pytest.raises(error) as caught:
        tl.kashin(x, **options)
    assert said in str(caught.value)
