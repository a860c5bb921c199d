"""The ground: truncation, the repaired Gram matrix, stable gradients, and the rest of the ground
files."""

import ast
import math
from pathlib import Path

import pytest
import torch
from sources import tree
from tensors import relative_error

import tensorlab as tl
from tensorlab import linalg, rng

DTYPES = [torch.float64, torch.float32, torch.complex128, torch.complex64]


def graded(m, n, decay, generator, dtype=torch.float64):
    """A long matrix with singular values decay^k."""
    u = torch.linalg.qr(rng.randn(m, n, generator=generator, dtype=dtype)).Q
    v = torch.linalg.qr(rng.randn(n, n, generator=generator, dtype=dtype)).Q
    return u * (decay ** torch.arange(n, dtype=torch.float64)) @ v.mH


def test_choose_rank_by_hand():
    s = torch.tensor([4.0, 3.0, 0.4, 0.3])
    assert [linalg.choose_rank(s, atol=a) for a in (0.0, 0.29, 0.31, 0.51, 3.1, 9.0)] == [
        4,
        4,
        3,
        2,
        1,
        1,
    ]
    assert (
        linalg.choose_rank(s, 3) == 3
        and linalg.choose_rank(s, 9) == 4
        and linalg.choose_rank(torch.zeros(3)) == 1
    )
    assert (
        linalg.choose_rank(torch.zeros(0)) == linalg.choose_rank(s, atol=math.inf) == 1
    )  # never 0
    assert linalg.choose_rank(torch.tensor([4.0, 3.0]), atol=3.0) == 1  # a tail of just atol may go
    s = s.double()
    assert (
        linalg.choose_rank(s * 1e-200, atol=0.31e-200)
        == linalg.choose_rank(s * 1e200, atol=0.31e200)
        == 3
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (5000, 20), (20, 5000), (600, 500)])
def test_truncated_svd_is_lapacks(shape, dtype, generator):
    a = rng.randn(*shape, generator=generator, dtype=dtype)
    s = torch.linalg.svdvals(linalg.widen(a))
    for options, r in (
        (dict(rank=6), 6),
        (dict(rtol=0.0), min(shape)),
        (dict(atol=float(s[9:].norm()) * 1.0001), 9),
    ):
        got = tl.truncated_svd(a, **options)
        assert got.s.shape == (r,) and got.u.dtype == dtype and got.s.dtype == dtype.to_real()
        assert torch.allclose(
            got.s.double(), s[:r], rtol=1e-6 if dtype.to_real() == torch.float32 else 1e-12
        )
        u, rest, vh = (linalg.widen(t) for t in got)
        error = relative_error((u * rest) @ vh, a)
        assert error == pytest.approx(
            float(s[r:].norm() / s.norm()), rel=1e-5, abs=linalg.zero_level(dtype)
        )
        for basis in (got.u, got.vh.mH):
            off = basis.mH @ basis - torch.eye(r, dtype=dtype)
            assert off.abs().max() < 64 * torch.finfo(dtype).eps


def test_the_repaired_gram_matrix_is_as_good_as_a_qr(generator):
    a = graded(20000, 24, 0.2, generator)
    v, s = linalg.right_basis(a, atol=1e-14)
    true = 0.2 ** torch.arange(24.0).double()
    assert ((s - true[: len(s)]) / true[: len(s)]).abs()[
        :12
    ].max() < 1e-7  # down to 1e-8 of the largest
    assert (s - true[: len(s)]).abs().max() < 2e-15
    assert relative_error(a @ v @ v.T, a) < 1.5e-14
    v, s = linalg.right_basis(a, atol=4e-16)
    assert len(s) < 24 and relative_error(a @ v @ v.T, a) < 1e-15
    plain = torch.linalg.eigh(a.T @ a).eigenvectors  # what an unrepaired Gram matrix makes of it
    best, v = float((true[12:]).norm() / true.norm()), linalg.right_basis(a, 12)[0]
    keep = plain[:, -12:]
    assert (
        relative_error(a @ v @ v.T, a) == pytest.approx(best, rel=1e-6)
        and relative_error(a @ keep @ keep.T, a) > 1.01 * best
    )


@pytest.mark.parametrize("atol", [1e-3, 1e-6, 3e-7, 1e-7, 1e-9, 1e-12])
def test_right_basis_keeps_its_bound_on_both_sides_of_the_repair(atol, generator):
    for decay in (0.9, 0.5, 0.1):
        a = graded(3000, 64, decay, generator)
        for matrix in (a, a.mH):
            v, s = linalg.right_basis(matrix, atol=atol)
            assert (matrix - matrix @ v @ v.mH).norm() <= atol * (1 + 1e-6) + 1e-14
            best = linalg.choose_rank(decay ** torch.arange(64.0).double(), atol=atol)
            assert best <= len(s) <= best + 1


def test_the_sketch_gives_the_exact_answer_or_none(generator):
    low = tl.LowRank.randn((900, 700), 15, generator=generator, dtype=torch.float64).to_dense()
    noise = torch.randn(900, 700, generator=generator, dtype=torch.float64)
    a = low + noise * (1e-5 * low.norm() / noise.norm())
    size, s = float(a.norm()), torch.linalg.svdvals(a)
    for rank, atol in ((15, 0.0), (None, 4e-5 * size), (40, 4e-5 * size)):
        v, got = linalg._sketched_basis(a, rank, atol)
        assert v.shape == (700, 15) and torch.allclose(got, s[:15], rtol=1e-9)
        assert (a - a @ v @ v.T).norm() <= 1.0001 * s[15:].norm()
    assert linalg._sketched_basis(noise, 15, 0.0) is None  # nothing falls: the exact way is taken
    v, _ = linalg.right_basis(noise, 15)
    assert (noise - noise @ v @ v.T).norm() == pytest.approx(
        float(torch.linalg.svdvals(noise)[15:].norm()), rel=1e-10
    )


@pytest.mark.parametrize("last", [1.0, 1e-4])
def test_an_exact_rank_is_kept_to_rounding(last, generator):
    """Weak columns of a matrix whose rank is the cap: their vectors, turned by the Gram matrix's
    rounding, would lose 1000 eps. Worst seen 13."""
    a = graded(40_000, 64, last ** (1 / 11), generator)
    a = tl.truncated_svd(a, 12)
    a = (a.u * a.s) @ a.vh
    v, _ = linalg.right_basis(a, 12, atol=1e-15)
    assert relative_error(a @ v @ v.mH, a) < 64 * linalg.EPS


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5), (5, 4)])
def test_gradients(shape, dtype, generator):
    a = rng.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    def svd(a):
        u, s, vh = tl.truncated_svd(a, 2)
        return ((u * s) @ vh).abs().square().sin().sum() + (s**3).sum()

    def basis(a):
        v, s = linalg.right_basis(a, 2)
        return (a @ v @ v.mH).abs().square().sin().sum() + (s**3).sum()

    def qr(a):
        q, r = linalg.orthogonalize(a)
        return (q @ r).abs().square().sin().sum() + linalg.triangle(a).norm()

    for f in (svd, basis, qr):
        assert torch.autograd.gradcheck(f, (a,))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
@pytest.mark.parametrize("values", [(2, 2, 1, 0.1), (2, 2, 0, 0), (2, 1, 0.5, 0.5)], ids=str)
def test_gradients_are_right_for_equal_singular_values(values, shape, dtype, generator):
    u, v = (torch.linalg.qr(rng.randn(n, 4, generator=generator, dtype=dtype)).Q for n in shape)
    a = (u * torch.tensor(values)) @ v.mH

    def f(t):
        return t.abs().square().sin().sum()

    def spans(a):
        u, s, vh = tl.truncated_svd(a, 2)
        return f(u @ vh) + f(u @ u.mH @ a) + (s**3).sum()

    def basis(a):
        v, s = linalg.right_basis(a, 2)
        return f(a @ v @ v.mH) + (s**3).sum()

    for function in (spans, basis, lambda a: f(tl.LowRank.from_dense(a, 2).to_dense())):
        assert torch.autograd.gradcheck(function, (a.detach().clone().requires_grad_(),))


@pytest.mark.parametrize(
    "a",
    [
        torch.eye(4),
        torch.diag(torch.tensor([2.0, 2.0, 1.0, 0.0])),
        torch.ones(5, 3),
        torch.zeros(4, 3),
    ],
)
def test_gradients_are_finite_for_equal_and_zero_singular_values(a):
    for factorize in (
        lambda a: tl.truncated_svd(a, 2),
        lambda a: linalg.right_basis(a, 2),
        linalg.orthogonalize,
    ):
        x = a.double().requires_grad_()
        sum((t * torch.arange(t.numel()).reshape(t.shape)).sum() for t in factorize(x)).backward()
        assert torch.isfinite(x.grad).all()


def test_orthogonalize(generator):
    for shape in ((7, 4), (4, 7)):
        a = rng.randn(*shape, generator=generator, dtype=torch.complex128)
        q, r = linalg.orthogonalize(a)
        assert relative_error(q @ r, a) < 1e-14 and torch.allclose(r, r.triu())
        assert (r.diagonal().real >= 0).all() and r.diagonal().imag.abs().max() < 1e-14
        assert relative_error(linalg.triangle(a).mH @ linalg.triangle(a), a.mH @ a) < 1e-14


def test_solve_gram(generator):
    f = torch.randn(3, 9, 5, generator=generator, dtype=torch.float64) * 10.0 ** torch.arange(5)
    gram, x = f.mT @ f, torch.randn(3, 5, 2, generator=generator, dtype=torch.float64)
    assert torch.allclose(linalg.solve_gram(gram, gram @ x), x, rtol=1e-9)
    f = rng.randn(9, 2, generator=generator, dtype=torch.complex128) @ rng.randn(
        2, 5, generator=generator, dtype=torch.complex128
    )
    gram = f.mH @ f
    b = gram @ rng.randn(5, 3, generator=generator, dtype=torch.complex128)
    assert (
        relative_error(gram @ linalg.solve_gram(gram, b), b) < 1e-12
    )  # rank 2 of 5: some solution, not a huge one
    assert linalg.solve_gram(gram, b).abs().max() < 1e3
    dead = torch.diag(torch.tensor([2.0, 0.0]))
    assert linalg.solve_gram(
        dead, torch.tensor([[4.0], [0.0]])
    ).flatten().tolist() == pytest.approx([2.0, 0.0])


def test_solve_is_exact_and_short_where_singular(generator):
    a, b = (rng.randn(5, n, generator=generator, dtype=torch.complex128) for n in (5, 2))
    assert relative_error(a @ linalg.solve(a, b), b) < 1e-12
    a = torch.diag(torch.tensor([2.0, 0.0, 4.0], dtype=torch.float64))
    assert linalg.solve(a, torch.ones(3, 1, dtype=torch.float64)).flatten().tolist() == [
        0.5,
        0.0,
        0.25,
    ]


@pytest.mark.parametrize("m, r, n", [(9, 3, 3), (9, 3, 6), (6, 4, 4), (5, 5, 5), (60, 3, 4)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_extend_basis_spans_both(m, r, n, dtype, generator):
    """Orthonormal and holding x to rounding; also where x lies in u but for rounding, is zero, or
    fills the space."""
    u = linalg.orthonormal(rng.randn(m, r, generator=generator, dtype=dtype))
    x = rng.randn(m, n, generator=generator, dtype=dtype)
    inside = u @ rng.randn(r, n, generator=generator, dtype=dtype)
    eps = torch.finfo(dtype).eps
    for given in (x, inside, 0 * x, inside + 1e-6 * x):
        basis = linalg.extend_basis(u, given)
        assert basis.shape == (m, min(m, r + n)) and torch.equal(basis[:, :r], u)
        eye = torch.eye(basis.shape[1], dtype=dtype)
        assert float((basis.mH @ basis - eye).abs().max()) < 50 * eps
        assert float((given - basis @ (basis.mH @ given)).norm()) <= 50 * eps * float(given.norm())


def test_lapack_is_called_in_linalg_only():
    """Long matrices must go the one way, so the names that factorize are in one file."""
    package = Path(linalg.__file__).parent
    for path in package.rglob("*.py"):
        nodes = list(ast.walk(tree(path)))
        names = {n.attr for n in nodes if isinstance(n, ast.Attribute)}
        names |= {
            a.name
            for n in nodes
            if isinstance(n, ast.ImportFrom) and "torch" in (n.module or "")
            for a in n.names
        }
        found = names & {"svd", "svdvals", "qr", "eigh", "lstsq", "svd_lowrank", "pinv"}
        assert (
            not found
            or path.name in ("linalg.py", "sketch.py")
            or "plots" in path.name
            or "course" in path.parts
        ), (path, found)


def test_check_dense(generator):
    for dtype in (*DTYPES, torch.float16, torch.bfloat16):
        x = rng.randn(50, 300, generator=generator, dtype=dtype)
        assert linalg.dense_norm(x, "x") == pytest.approx(float(linalg.widen(x).norm()), rel=1e-6)
    x = torch.tensor([3.0, 4.0], dtype=torch.float64)
    for exponent in (-1020, -700, 0, 700, 1020):
        assert linalg.dense_norm(x * math.ldexp(1.0, exponent), "x") == math.ldexp(5.0, exponent)
        assert float(linalg.norm(x * math.ldexp(1.0, exponent))) == math.ldexp(5.0, exponent)
    assert (
        float(linalg.norm(torch.zeros(3))) == 0
        and float(linalg.norm(torch.tensor([math.inf, 1.0]))) == math.inf
    )
    with pytest.raises(
        ValueError, match="^x: needs a tensor with numbers, got one on the meta device"
    ):
        linalg.check_dense(torch.ones(2, device="meta"), "x")


# -- multilinear, rng, fit


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_unfold_fold_and_mode_product(mode, generator):
    x = torch.randn(3, 4, 5, generator=generator)
    m = torch.randn(6, x.shape[mode], generator=generator)
    assert torch.equal(tl.fold(tl.unfold(x, mode), mode, x.shape), x)
    letters = "abc".replace("abc"[mode], "i")
    wanted = torch.einsum(f"{letters},ji->{letters.replace('i', 'j')}", x, m)
    assert torch.allclose(tl.mode_product(x, m, mode), wanted, atol=1e-5)
    assert torch.allclose(
        tl.unfold(tl.mode_product(x, m, mode), mode), m @ tl.unfold(x, mode), atol=1e-5
    )


def test_khatri_rao_is_columnwise_kronecker(generator):
    a, b, c = (torch.randn(n, 3, generator=generator) for n in (2, 4, 5))
    got = tl.khatri_rao(a, b, c)
    for r in range(3):
        assert torch.allclose(got[:, r], torch.kron(torch.kron(a[:, r], b[:, r]), c[:, r]))


@pytest.mark.parametrize(("n", "d"), [(1, 3), (7, 2), (4096, 4), (30522, 3), (640, 5)])
def test_balanced_shape(n, d):
    shape = tl.balanced_shape(n, d)
    assert len(shape) == d and math.prod(shape) == n and list(shape) == sorted(shape, reverse=True)


def test_digits_address_the_reshaped_tensor():
    shape = (12, 1, 7, 30)
    assert tl.digit_shape(shape) == (2, 2, 3, 1, 7, 2, 3, 5)
    index = torch.cartesian_prod(*map(torch.arange, shape))
    digits = tl.to_digits(index, shape)
    x = torch.arange(math.prod(shape))
    assert torch.equal(
        x.reshape(tl.digit_shape(shape))[tuple(digits.T)], x.reshape(shape)[tuple(index.T)]
    )
    assert torch.equal(tl.from_digits(digits, shape), index)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: tl.unfold(torch.zeros(2, 3, 4), 3),
            "unfold of shape (2, 3, 4): mode must be an integer in 0..2, got 3",
        ),
        (lambda: tl.unfold(torch.zeros(2, 3), -1), "got -1"),
        (lambda: tl.unfold(torch.zeros(2, 3), 1.0), "got 1.0"),
        (lambda: tl.unfold(torch.zeros(2, 3), True), "got True"),
        (lambda: tl.mode_product(torch.zeros(2, 3), torch.zeros(2, 2), 2), "got 2"),
        (
            lambda: tl.truncated_svd(torch.full((3, 3), 1.7e308, dtype=torch.float64), 1),
            "got entries up to 1.7e+308",
        ),
        (lambda: tl.fold(torch.zeros(2, 3), 0, (2, 2, 2)), "got (2, 3)"),
        (lambda: tl.fold(torch.zeros(2, 3), 5, (2, 3)), "got 5"),
        (lambda: tl.mode_product(torch.zeros(2, 3), torch.zeros(4, 2), 1), "got shape (4, 2)"),
        (lambda: tl.khatri_rao(torch.zeros(2, 3), torch.zeros(2, 4)), "[(2, 3), (2, 4)]"),
        (lambda: tl.khatri_rao(), "[]"),
        (lambda: tl.balanced_shape(0, 2), "n must be an integer >= 1, got 0"),
        (lambda: tl.linalg.psd_root(-torch.eye(2)), "got the eigenvalues -1"),
        (lambda: tl.truncated_svd(torch.zeros(2, 2), rtol=0.1, atol=0.1), "rtol=0.1 and atol=0.1"),
        (lambda: tl.truncated_svd(torch.zeros(2, 2)), "got neither"),
        (lambda: tl.truncated_svd(torch.zeros(2), 1), "got shape (2,)"),
    ],
)
def test_refuses_bad_input(make, said):
    with pytest.raises(ValueError) as caught:
        make()
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_one_seed_gives_one_set_of_numbers():
    def draw(sample, dtype):
        return sample(4, 5, generator=torch.Generator().manual_seed(3), dtype=dtype)

    for sample in (rng.randn, rng.rand):
        wide = draw(sample, torch.float64)
        for dtype in (torch.float32, torch.float16):
            assert torch.equal(draw(sample, dtype), wide.to(dtype))
    assert float(draw(rng.randn, torch.complex128).abs().square().mean()) == pytest.approx(
        1, abs=0.5
    )


@pytest.mark.cuda
def test_one_seed_on_a_gpu_too():
    a = rng.randn(4, generator=torch.Generator().manual_seed(3), device="cuda")
    assert torch.equal(a.cpu(), rng.randn(4, generator=torch.Generator().manual_seed(3)))


def test_fit_says_how_it_went():
    assert (
        repr(tl.Fit(1, (0.5, 0.25), False))
        == "Fit(value=1, 2 iterations, last 0.25, not converged)"
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_a_gram_matrix_that_is_singular_with_its_ridge_is_solved(dtype):
    off = 1 + 2 * linalg.EPS  # rounding of two equal columns; the ridge makes all four equal
    gram = torch.tensor([[1, off], [off, 1]], dtype=dtype)
    x = linalg.solve_gram(gram, torch.ones(2, 1, dtype=dtype))
    assert torch.allclose(x, torch.full_like(x, 0.5), rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("m, n", [(12, 40), (12, 800), (12, 12), (40, 12)])
@pytest.mark.parametrize("last", [1.0, 1e-4, 1e-12])
@pytest.mark.parametrize(
    "rank, share", [(None, 1e-14), (None, 1e-10), (None, 1e-3), (5, 0.0), (12, 0.0)]
)
@pytest.mark.parametrize("scale", [1.0, 2.0**-700, 2.0**700])
def test_a_short_basis_is_that_of_the_svd(dtype, m, n, last, rank, share, scale):
    g = torch.Generator().manual_seed(m + n)
    draw = lambda *k: torch.linalg.qr(torch.randn(*k, generator=g, dtype=dtype)).Q
    s = torch.logspace(0, math.log10(last), 12, dtype=torch.float64)
    a = draw(m, 12) * s.to(dtype) @ draw(n, 12).mH
    v = linalg.short_basis(a * scale, rank, share)
    size, eye = float(s.norm()), torch.eye(v.shape[1], dtype=dtype)
    assert v.shape[1] == linalg.choose_rank(s, rank, atol=share * size)
    assert float((v.mH @ v - eye).norm()) < 64 * 12 * linalg.EPS
    lost, best = float((a - a @ v @ v.mH).norm()), float(s[v.shape[1] :].norm())
    assert lost <= best * (1 + 1e-4) + 64 * 12 * linalg.EPS * size


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9])
def test_a_ranked_triangle_keeps_every_column(scale):
    g = torch.Generator().manual_seed(2)
    draw = lambda n: torch.randn(60, n, generator=g, dtype=torch.float64)
    a, b = draw(8), scale * draw(4)
    whole = torch.cat([a, 2 * a, b, a + 1e-10 * draw(8)], 1)
    r, columns = linalg.ranked_triangle(whole), whole.norm(dim=0)
    gram = (r.mT @ r - whole.mT @ whole) / columns / columns[:, None]
    assert float(gram.abs().max()) < 64 * 28 * linalg.EPS
    assert float(torch.linalg.svdvals(r / columns)[19]) > 1e-12  # what is 1e-10 apart stays so
    assert len(linalg.ranked_triangle(torch.cat([a, 2 * a], 1))) == 8
    full, gone = torch.cat([2 * a, b, a[:, :3] + draw(3)], 1), torch.cat([b, a, a[:, :1]], 1)
    assert len(linalg.ranked_triangle(full)) == 15 and len(linalg.ranked_triangle(gone)) == 12
    late = torch.cat([a, a[:, :2], draw(1)], 1)  # rows that hold nothing before one that does
    assert len(linalg.ranked_triangle(late)) == 11
