"""What every decomposition promises: any scale, tensors that are not views, true errors, and plain
refusals."""

import math

import numpy as np
import pytest
import torch
from tensors import relative_error

import tensorlab as tl
from cases import DECOMPOSITIONS, decompose, seeded

F64 = torch.float64
FITS = [name for name in DECOMPOSITIONS if name.startswith(("hooi", "cp_"))]
every = pytest.mark.parametrize("name", DECOMPOSITIONS)


def given(shape, dtype=F64, noise=0.1):
    """A train of rank 2 and noise, entries of about 1."""
    wide = tl.linalg.wide(dtype)
    x = tl.TT.randn(shape, 2, generator=seeded(), dtype=wide).to_dense()
    return (x + noise * tl.rng.randn(*shape, generator=seeded(), dtype=wide)).to(dtype)


def missed(form, x):
    """The relative error in float64, at any scale."""
    wide, scale = tl.linalg.wide(x.dtype), float(tl.linalg.norm(x))
    return relative_error(form.to(wide).to_dense() / scale, x.to(wide) / scale)


# -- any scale

SCALES = [
    (F64, 600),
    (torch.complex128, 600),
    (torch.float32, 60),
    (torch.complex64, 60),
    (torch.bfloat16, 60),
    (torch.float16, 8),
]


@pytest.mark.thorough
@every
@pytest.mark.parametrize("dtype, exponent", SCALES, ids=str)
def test_the_scale_changes_nothing(name, dtype, exponent):
    if dtype.is_complex and "nonnegative" in name:
        return  # refused, see test_cp
    shape, function = DECOMPOSITIONS[name]
    x = given(shape, dtype)
    x = x.abs() if "nonnegative" in name else x
    eps = torch.finfo(dtype).eps
    for options in ((2, None), (None, 0.3), (None, 0.0)):
        first = function(x, *options)
        for scale in (2.0**exponent, 2.0**-exponent):
            again = function(x * scale, *options)
            if isinstance(first, tl.Fit):
                assert again.history == pytest.approx(first.history, abs=16 * eps)
                assert again.converged == first.converged
            a, b = (f.value if isinstance(f, tl.Fit) else f for f in (first, again))
            assert b.ranks == a.ranks and b.dtype == dtype
            assert missed(b, x * scale) == pytest.approx(missed(a, x), abs=16 * eps)


# -- tensors that are not views


@pytest.mark.thorough
@every
@pytest.mark.parametrize("kind", ["as it is", "one mode", "sizes of 1", "a view"])
def test_the_result_shares_no_memory_with_the_input(name, kind):
    shape = DECOMPOSITIONS[name][0]
    if kind == "one mode" and (len(shape) == 2 or name.startswith("cp_stable")):
        return  # matrices, and cp_stable, have two modes at least
    sizes = {"one mode": (5,), "sizes of 1": (1,) * len(shape)}
    if name in ("TTMatrix", "kron_svd", "Monarch"):
        sizes.pop("sizes of 1")  # their sizes are given
    whole = given(sizes.get(kind, shape)) if kind != "a view" else given((*shape, 2))
    x = whole if kind != "a view" else whole[..., 1]
    for rtol in (0.0, 0.3):
        form = decompose(name, x, min(x.shape) if name == "cp_als" else None, rtol)
        before = [t.clone() for t in form.tensors()]
        memory = whole.untyped_storage().data_ptr()
        assert all(t.untyped_storage().data_ptr() != memory for t in form.tensors())
        kept = x.clone()
        x.zero_()
        assert all(torch.equal(a, b) for a, b in zip(form.tensors(), before, strict=True))
        x.copy_(kept)


# -- errors that are true


@pytest.mark.thorough
@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["constant", "noisy", "exact"])
def test_the_last_error_is_that_of_the_value(name, dtype, kind):
    shape, function = DECOMPOSITIONS[name]
    x = torch.full(shape, 0.1, dtype=dtype) if kind == "constant" else None
    x = given(shape, dtype, noise=0.0 if kind == "exact" else 0.1) if x is None else x
    x = x.abs() if "nonnegative" in name else x
    fit = function(x, 2, None)
    dense, wanted = fit.value.to(F64).to_dense(), x.to(F64)
    if "mask" in name:
        seen = torch.rand(shape, generator=seeded()) < 0.8
        dense, wanted = dense[seen], wanted[seen]
    error = relative_error(dense, wanted)
    assert fit.history[-1] == pytest.approx(error, rel=1e-6, abs=16 * torch.finfo(F64).eps)


def test_steps_in_half_precision_report_what_they_yield():
    for dtype in (torch.float16, torch.bfloat16):
        x = given((5, 6, 4), dtype)
        for steps in (tl.cp_als_steps, tl.formats.cp_stable.cp_stable_steps):
            for _, (cp, error) in zip(range(4), steps(x, 2)):
                assert error == pytest.approx(missed(cp, x), rel=1e-6)


# -- half precision at the ends of its range


@pytest.mark.thorough
@every
@pytest.mark.parametrize("size", [60000.0, 6e-7])
def test_half_precision_where_the_norm_is_no_half(name, size):
    shape = DECOMPOSITIONS[name][0]
    x = torch.full(shape, size, dtype=torch.float16)  # its norm is 11 times more, or less than
    form = decompose(name, x, None, 0.0)
    assert all(bool(t.isfinite().all()) for t in form.tensors())
    assert missed(form, x) <= 8 * torch.finfo(torch.float16).eps


# -- integers of NumPy, and refusals


@pytest.mark.thorough
@every
def test_integers_of_numpy_are_integers(name):
    shape, _ = DECOMPOSITIONS[name]
    x = given(shape)
    assert decompose(name, x, np.int64(2)).ranks == decompose(name, x, 2).ranks


@pytest.mark.parametrize(
    "call",
    [
        lambda n: tl.unfold(torch.ones(2, 3), n),
        lambda n: tl.fold(torch.ones(3, 2), n, (2, 3)),
        lambda n: tl.mode_product(torch.ones(2, 3), torch.ones(4, 3), n),
        lambda n: tl.hooi(torch.ones(2, 3), 1, max_iter=n),
        lambda n: tl.cp_als(torch.ones(2, 3), 1, max_iter=n),
        lambda n: tl.cp_nls(torch.ones(2, 3), 1, max_iter=n),
        lambda n: tl.cp_stable(torch.ones(2, 3), 1, max_iter=n),
        lambda n: tl.balanced_shape(n, n),
        lambda n: tl.balanced_tree(n),
        lambda n: tl.linear_tree(n),
        lambda n: tl.ht_svd(torch.ones(2, 3), 1, tree=(0, n)),
        lambda n: tl.TT.randn((n, n), n),
        lambda n: tl.HT.randn((n, n), n),
        lambda n: tl.CP.randn((n, n), n),
        lambda n: tl.Tucker.randn((n, n), n),
        lambda n: tl.LowRank.randn((n, n), n),
        lambda n: tl.TTMatrix.randn(out=(n, n), in_=(n, n), rank=n),
        lambda n: tl.Monarch.randn((4, 4), n),
        lambda n: tl.Monarch.from_dense(torch.ones(4, 4), n),
        lambda n: tl.Kronecker.from_dense(torch.ones(4, 4), 1, factors=n + 1),
        lambda n: tl.kron_svd(torch.ones(4, 4), (n, n), n),
        lambda n: tl.BlockTT.from_dense(torch.ones(4, 4), n, cores=n + 1),
        lambda n: tl.TT.randn((2, 3), 1).orthogonal(n),
    ],
)
def test_integers_of_numpy_are_integers_everywhere(call):
    for kind in (np.int64, np.int32, np.uint8):
        got, wanted = call(kind(1)), call(1)
        if isinstance(wanted, tl.formats.base.Format):
            assert got.shape == wanted.shape and got.ranks == wanted.ranks
            assert all(type(n) is int for n in (*got.shape, *got.ranks))
        elif isinstance(wanted, (tuple, int)):
            assert got == wanted


@every
def test_a_tensor_without_numbers_is_refused(name):
    x = torch.empty(DECOMPOSITIONS[name][0], device="meta", dtype=F64)
    with pytest.raises(ValueError, match="meta device") as caught:
        if "mask" in name or "nonnegative" in name:
            fit = tl.cp_nls if name.startswith("cp_nls") else tl.cp_als
            fit(x, 2, nonnegative="nonnegative" in name)
        else:
            decompose(name, x, 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "draw",
    [
        lambda **o: tl.TT.randn((3, 4), 2, **o),
        lambda **o: tl.HT.randn((3, 4), 2, **o),
        lambda **o: tl.CP.randn((3, 4), 2, **o),
        lambda **o: tl.Tucker.randn((3, 4), 2, **o),
        lambda **o: tl.LowRank.randn((3, 4), 2, **o),
        lambda **o: tl.Kronecker.randn((4, 4), 2, **o),
        lambda **o: tl.Monarch.randn((4, 4), 2, **o),
        lambda **o: tl.BlockTT.randn((4, 4), 2, **o),
        lambda **o: tl.TTMatrix.randn(out=(2, 2), in_=(2, 2), rank=2, **o),
        lambda **o: tl.rng.randn(3, **o),
        lambda **o: tl.rng.rand(3, **o),
    ],
)
def test_generators_and_dtypes_are_those_of_torch(draw):
    for wrong in (0, "0", np.random.default_rng(0)):
        with pytest.raises(TypeError, match="needs a torch.Generator or None as generator, got"):
            draw(generator=wrong)
    for wrong in ("float64", np.float64, float, torch.int64, torch.bool):
        with pytest.raises(TypeError, match="needs a floating-point or complex dtype of torch"):
            draw(dtype=wrong)
    assert draw(dtype=None).dtype == torch.get_default_dtype()


@pytest.mark.parametrize("fit", [tl.cp_als, tl.cp_nls])
def test_a_complex_start_for_real_data_is_refused(fit):
    init = tl.CP.randn((3, 4), 2, dtype=torch.complex128)
    said = f"{fit.__name__}: init needs real numbers .*, got torch.complex128"
    with pytest.raises(ValueError, match=said):
        fit(torch.ones(3, 4), 2, init=init)
    assert math.isfinite(fit(torch.ones(3, 4) * 1j, 2, init=init).history[-1])


# -- bounds, where every cut loses about its share

CUTS = {
    "tt_svd": lambda x, t: tl.tt_svd(x, rtol=t),
    "hosvd": lambda x, t: tl.hosvd(x, rtol=t),
    "st_hosvd": lambda x, t: tl.st_hosvd(x, rtol=t),
    "ht_svd": lambda x, t: tl.ht_svd(x, rtol=t),
    "ht_svd on a linear tree": lambda x, t: tl.ht_svd(x, rtol=t, tree=tl.linear_tree(x.ndim)),
    "tt_round": lambda x, t: tl.tt_svd(x, rtol=0.0).round(rtol=t),
    "ht_round": lambda x, t: tl.ht_svd(x, rtol=0.0).round(rtol=t),
    "Tucker.round": lambda x, t: tl.hosvd(x, rtol=0.0).round(rtol=t),
    "TTMatrix": lambda x, t: tl.tt_matrix_svd(x.reshape(64, 64), (4,) * 3, (4,) * 3, rtol=t),
}


def loose(d, delta, dtype):
    """A corner of 1, and in each two neighboring modes one entry of delta, whose direction is seen
    by no other: each cut that may lose delta loses another one."""
    x = torch.zeros((8,) * d, dtype=dtype)
    x[(0,) * d] = 1
    for k in range(d - 1):
        x[tuple(k + 1 if j in (k, k + 1) else 0 for j in range(d))] = delta
    return x


@pytest.mark.thorough
@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("dtype", [F64, torch.complex128], ids=str)
def test_the_bound_holds_where_every_cut_loses_its_share(name, dtype):
    used = []
    for delta in np.linspace(0.02, 0.11, 31):
        x = loose(4, delta, dtype)
        dense = CUTS[name](x, 0.1).to_dense().reshape(x.shape)
        used.append(relative_error(dense, x) / 0.1)
    assert max(used) <= 1
    assert max(used) > 0.7  # a smaller share would waste ranks
