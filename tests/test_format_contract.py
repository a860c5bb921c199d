"""What every format promises, tried on each row of `cases.FORMATS`."""

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from tensors import gradcheck
from torch.utils import _pytree

import tensorlab as tl
from cases import AFFINE, DTYPES, FORMATS, make

pytestmark = pytest.mark.parametrize("name", FORMATS)


def close(a, b, dtype=None):
    a, b = tl.linalg.widen(torch.as_tensor(a)), tl.linalg.widen(torch.as_tensor(b))
    eps = torch.finfo(dtype or torch.float64).eps
    return float((a - b).norm()) <= 100 * eps * (1 + float(b.norm()))


def rounds(x):
    """CP and matrices of chosen rows have no truncation."""
    return not isinstance(x, (tl.CP, tl.PivotedLowRank))


def indices(x, n=20):
    g = torch.Generator().manual_seed(1)
    return torch.stack([torch.randint(0, m, (n,), generator=g) for m in x.shape], 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_arithmetic_is_that_of_the_dense_tensors(name, dtype, device):
    x, y = make(name, 0, dtype, device), make(name, 1, dtype, device)
    dx, dy = x.to_dense(), y.to_dense()
    assert x.dtype == dx.dtype == dtype and x.device.type == dx.device.type == device.type
    assert tuple(dx.shape) == x.shape and all(type(r) is int for r in (*x.shape, *x.ranks))
    for got, wanted in [
        (x + y, dx + dy),
        (x - y, dx - dy),
        (-x, -dx),
        (x * 3, dx * 3),
        (2.5 * x, 2.5 * dx),
        (x / 2, dx / 2),
        (x * y, dx * dy),
    ]:
        assert type(got) is type(x) and got.dtype == dtype and close(got.to_dense(), wanted, dtype)
    assert close(x.dot(y), torch.vdot(dx.flatten(), dy.flatten()), dtype)
    assert close(x.norm(), dx.norm(), dtype) and x.norm().dtype == dtype.to_real()
    index = indices(x).to(device)
    assert close(x.at(index), dx[tuple(index.T)], dtype)
    assert close(x.at(index - torch.tensor(x.shape, device=device)), dx[tuple(index.T)], dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves_keep_their_dtype_and_their_digits(name, dtype):
    x, y = make(name, 0, dtype), make(name, 1, dtype)
    a, b = x.to(torch.float64), y.to(torch.float64)
    index = indices(x)
    for got, wanted, size in [
        (x.to_dense(), a.to_dense(), a.norm()),
        ((x + y).to_dense(), (a + b).to_dense(), a.norm() + b.norm()),
        ((3 * x).to_dense(), 3 * a.to_dense(), 3 * a.norm()),
        ((x * y).to_dense(), (a * b).to_dense(), a.norm() * b.norm()),
        (x.norm(), a.norm(), a.norm()),
        (x.dot(y), a.dot(b), a.norm() * b.norm()),
        (x.at(index), a.at(index), a.norm()),
    ]:
        assert got.dtype == dtype
        assert float((got.double() - wanted).norm()) <= 8 * torch.finfo(dtype).eps * float(size)


@pytest.mark.parametrize("exponent", [-1000, -700, -498, 498, 700, 1000])
def test_norm_and_rounding_at_the_ends_of_float64(name, exponent):
    x, scale = make(name), 2.0**exponent
    y = x * scale
    assert float(y.norm()) / scale == pytest.approx(float(x.norm()), rel=1e-12)
    if rounds(x):
        for rtol in (0.0, 0.3):
            z = y.round(rtol=rtol)
            assert z.ranks == x.round(rtol=rtol).ranks and close(
                z.to_dense() / scale, x.round(rtol=rtol).to_dense()
            )


def test_to(name):
    x = make(name)
    for y in (x.to(torch.complex64), x.to("cpu", torch.complex64), x.to(dtype=torch.complex64)):
        assert type(y) is type(x) and y.dtype == torch.complex64 and y.shape == x.shape
        assert close(y.to_dense(), x.to_dense(), torch.float32)
    assert x.to("meta").device.type == "meta"


@pytest.mark.thorough
def test_is_seen_through_by_the_compiler(name):
    # every format is one more recompilation of the same f, and their number is limited
    torch.compiler.reset()
    f = lambda x, y: (x + 2 * y).to_dense()
    x, y = make(name, 0), make(name, 1)
    assert torch.equal(torch.compile(f, backend="eager", fullgraph=True)(x, y), f(x, y))


def test_counts(name):
    x = make(name)
    assert x.numel == sum(t.numel() for t in x.tensors())
    assert x.compression == math.prod(x.shape) / x.numel
    assert (
        repr(x) == f"{type(x).__name__}(shape={x.shape}, ranks={x.ranks}, stores {x.numel} of "
        f"{math.prod(x.shape)})"
    )


def test_norm_of_a_small_difference_keeps_its_digits(name):
    x = make(name)
    first, *rest = x.tensors()
    moved = x.with_tensors(
        [first * (1 + 2.0**-40), *rest]
    )  # a power of two: the difference is exact
    ratio = float((moved - x).norm()) / float(x.norm()) * 2.0**40
    assert ratio == pytest.approx(
        1, rel=1e-3
    )  # sqrt of a difference of squares would give noise of size 1e-8


def test_tensors_round_trip_and_are_checked(name):
    x = make(name)
    again = x.with_tensors(x.tensors())
    assert type(again) is type(x) and torch.equal(again.to_dense(), x.to_dense())
    with pytest.raises(ValueError, match=f"needs {len(x.tensors())} tensors, got 0"):
        x.with_tensors([])
    with pytest.raises(TypeError, match="needs torch tensors, got str"):
        x.with_tensors(["abc"] * len(x.tensors()))
    first, *rest = x.tensors()
    if rest:
        with pytest.raises(ValueError, match="one dtype and device, got .*float32"):
            x.with_tensors([first.float(), *rest])


def test_is_a_pytree(name):
    x = make(name)
    leaves, spec = _pytree.tree_flatten(x)
    assert all(a is b for a, b in zip(leaves, x.tensors(), strict=True))
    assert torch.equal(_pytree.tree_unflatten(leaves, spec).to_dense(), x.to_dense())
    gradient = torch.func.grad(lambda x: x.to_dense().square().sum())(x)
    assert type(gradient) is type(x) and gradient.shape == x.shape
    double = leaves[:1] if name in AFFINE else leaves
    twice = lambda t: 2 * t if any(t is d for d in double) else t
    batch = _pytree.tree_map(lambda t: torch.stack([t, twice(t)]), x)
    dense = torch.func.vmap(lambda x: x.to_dense())(batch)
    assert close(dense[0], x.to_dense()) and close(dense[1], 2 ** len(double) * x.to_dense())


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_gradients(name, dtype):
    x = make(name, dtype=dtype)
    leaves = [t.clone().requires_grad_() for t in x.tensors()]
    dot = lambda x: x.dot(make(name, 1, dtype)).abs()
    for f in (lambda x: x.to_dense().abs().square().sin().sum(), lambda x: x.norm(), dot):
        assert gradcheck(lambda *ts, f=f: f(x.with_tensors(ts)), leaves)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16, torch.bfloat16], ids=str)
def test_save_and_load(name, dtype, tmp_path):
    x = make(name, dtype=dtype)
    tl.save(tmp_path / "x.safetensors", x)
    y = tl.load(tmp_path / "x.safetensors")
    assert type(y) is type(x)
    assert all(
        a.dtype == dtype and torch.equal(a, b)
        for a, b in zip(y.tensors(), x.tensors(), strict=True)
    )
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]  # nothing half-written is left


def test_rounding_a_sum_finds_its_ranks_at_any_scale(name):
    x = make(name)
    if not rounds(x):
        with pytest.raises(TypeError, match=r"\w+.round: needs .*, got \w+"):
            x.round(rtol=0.0)
        return
    for scale in (1, 1000, 1e-15, 1e15):
        y = (scale * (x + 2 * x)).round(rtol=1e-10)
        assert all(a <= b for a, b in zip(y.ranks, x.round(rtol=0.0).ranks, strict=True))
        assert close(y.to_dense() / scale, 3 * x.to_dense())


def test_refuses_bad_input(name):
    x = make(name)
    d = x.ndim
    for index, error, said in [
        (torch.zeros(3, d), TypeError, "float32"),
        (torch.zeros(3, d + 1, dtype=torch.long), ValueError, rf"\(3, {d + 1}\)"),
        (torch.full((1, d), 99), ValueError, "got 99 in row 0"),
        (torch.full((1, d), -99), ValueError, "got -99 in row 0"),
    ]:
        with pytest.raises(error, match=said):
            x.at(index)
    other = tl.TT.randn((9, 9), 2)
    for operation in (
        lambda: x + other,
        lambda: x - other,
        lambda: x * other,
        lambda: x.dot(other),
    ):
        with pytest.raises(ValueError, match=r"got TT of shape \(9, 9\)"):
            operation()
    for wrong in (
        torch.ones(x.shape[-1]).double(),
        "3",
        None,
        [2.0],
    ):  # a multiple is a number: nothing is broadcast
        for a, b in ((x, wrong), (wrong, x)):
            with pytest.raises(TypeError) as caught:
                a * b
            assert "\n" not in str(caught.value)


# -- one rule for dtypes

ALL = [*DTYPES, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("a, b", list(itertools.product(ALL, ALL)), ids=str)
def test_two_dtypes_are_brought_to_the_one_of_torch(name, a, b):
    x, y = make(name, 0, a), make(name, 1, b)
    dtype = torch.promote_types(a, b)
    u, v = (z.to(torch.complex128).to_dense() for z in (x, y))
    size = float(u.norm() * v.norm() + u.norm() + v.norm())
    for got, wanted in [
        ((x + y).to_dense(), u + v),
        ((x - y).to_dense(), u - v),
        ((x * y).to_dense(), u * v),
        (x.dot(y), torch.vdot(u.flatten(), v.flatten())),
    ]:
        assert got.dtype == dtype
        missed = float((got.to(torch.complex128) - wanted).norm())
        assert missed <= 16 * torch.finfo(dtype).eps * size


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_multiples_by_any_number(name, dtype):
    x = make(name, dtype=dtype)
    dense = x.to(torch.complex128).to_dense()
    whole = torch.promote_types(dtype, torch.complex64)
    numbers = [
        (3, dtype),
        (2.5, dtype),
        (True, dtype),
        (np.float64(2), dtype),
        (np.int64(-2), dtype),
    ]
    numbers += [(torch.tensor(2.0, dtype=torch.float64), dtype), (1j, whole)]
    numbers += [(np.complex128(1 + 2j), whole), (np.complex64(1 + 2j), whole)]
    numbers += [(torch.tensor(2j), whole)]
    for number, wanted in numbers:
        for y in (number * x, x * number):
            assert type(y) is type(x) and y.dtype == wanted
            error = (y.to(torch.complex128).to_dense() - complex(number) * dense).norm()
            assert float(error) <= 16 * torch.finfo(dtype).eps * float(dense.norm())
    assert (x / 2j).dtype == whole


def test_sums_by_python(name):
    x, y = make(name, 0), make(name, 1)
    assert close(sum([x, y, x]).to_dense(), 2 * x.to_dense() + y.to_dense())
    assert x + 0 is x and 0.0 + x is x
    with pytest.raises(ValueError, match="got int of shape"):
        x + 1


def test_two_devices_are_refused(name):
    x = make(name)
    y = x.to("meta")
    for operation in (lambda: x + y, lambda: x - y, lambda: x * y, lambda: x.dot(y)):
        with pytest.raises(ValueError, match="one device, got cpu and meta"):
            operation()
    with pytest.raises(ValueError, match="at: needs tensors with numbers"):
        y.at([[0] * x.ndim])


# -- values within the range of floats, whatever they are made of


def lopsided(x, exponent, way):
    """The same tensor, its tensors multiplied by powers of two whose sum is 0."""
    n = len(x.tensors())
    parts = [exponent * (-1) ** k for k in range(n)] if way == "in turn" else [exponent // n] * n
    parts[-1 if way == "in turn" else 0] -= sum(parts)
    return x.with_tensors(tl.linalg.ldexp(t, e) for t, e in zip(x.tensors(), parts))


@pytest.mark.parametrize("way", ["in turn", "one against all", "all against one"])
@pytest.mark.parametrize(
    "dtype, exponent",
    [(torch.float64, 640), (torch.complex128, 640), (torch.float32, 80), (torch.bfloat16, 80)],
    ids=str,
)
def test_sizes_of_the_tensors_do_not_matter(name, dtype, exponent, way):
    x, y = make(name, 0, dtype), make(name, 1, dtype)
    if name in AFFINE:
        assert x._even() is x  # nothing of its size may go from one tensor to another
        return
    exponent = -exponent if way == "all against one" else exponent
    a, b = (lopsided(z, exponent, way) for z in (x, y))
    index = indices(x)
    values = [
        lambda x, y: x.to_dense(),
        lambda x, y: x.norm(),
        lambda x, y: x.dot(y),
        lambda x, y: x.at(index),
        lambda x, y: (x + y).to_dense(),
        lambda x, y: (x - y).norm(),
        lambda x, y: (x * y).to_dense(),
    ]
    for method in ("orthogonal", "normalized", "merged"):
        if hasattr(x, method):
            values.append(lambda x, y, method=method: getattr(x, method)().to_dense())
    if rounds(x):
        values.append(lambda x, y: (x + x).round(rtol=1e-3).to_dense())
    for value in values:
        got, wanted = (tl.linalg.widen(torch.as_tensor(value(*z))) for z in ((a, b), (x, y)))
        eps = torch.finfo(dtype).eps
        assert float((got - wanted).norm()) <= 64 * eps * max(1.0, float(wanted.norm()))


# -- empty batches and odd indices


@pytest.mark.parametrize("index", [[], "rows", "floats"], ids=str)
def test_no_indices_give_no_entries(name, index):
    x = make(name)
    rows = {"rows": torch.zeros(0, x.ndim, dtype=torch.long), "floats": np.zeros((0, x.ndim))}
    got = x.at(rows.get(index, []) if isinstance(index, str) else index)
    assert got.shape == (0,) and got.dtype == x.dtype


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.int32])
def test_indices_of_any_integers(name, dtype):
    x = make(name)
    index = indices(x)
    assert torch.equal(x.at(index.numpy().astype(dtype)), x.at(index))
    top = np.iinfo(dtype).max  # of uint64 it is -1 in int64
    with pytest.raises(ValueError, match=f"got {top} in row 1"):
        x.at(np.array([[0] * x.ndim, [top] * x.ndim], dtype=dtype))


# -- copies


def test_copies_by_python(name):
    x = make(name)
    for y in (pickle.loads(pickle.dumps(x)), copy.deepcopy(x)):
        assert type(y) is type(x) and y.shape == x.shape and y.ranks == x.ranks
        assert all(torch.equal(a, b) for a, b in zip(y.tensors(), x.tensors(), strict=True))
        assert not {t.data_ptr() for t in y.tensors()} & {t.data_ptr() for t in x.tensors()}
        assert torch.equal((x + y).to_dense(), (x + x).to_dense())
