"""Identities across modules: where two formats or methods mean the same, they give the same.

Tolerances. Each side of an identity is a few products and orthogonal transformations of tensors
with fewer than 10^3 entries, so it misses the exact value by a few eps times the square root of
that number, relative to the norm; `TOL` eps allows 64 for it. Float32 is accumulated in float64
inside decompositions and rounded at the end, so the same multiple of its eps holds.
"""

import pytest
import torch
from torch import nn

import tensorlab as tl
from tensorlab.formats.lokr import LoKr

TOL = 64
DTYPES = [torch.float32, torch.float64, torch.complex128]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def draw(*shape, dtype=torch.float64, seed=0):
    return tl.rng.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def same(a, b, times=1.0):
    """Whether |a - b| <= TOL eps |b|, or `times` as much."""
    bound = times * TOL * torch.finfo(b.dtype).eps * float(torch.linalg.vector_norm(b))
    return a.dtype == b.dtype and float(torch.linalg.vector_norm(a - b)) <= bound


def best(x, rank):
    """The nearest matrix of a rank, by torch's SVD."""
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vh[:rank]


# A cut is as well determined as the gap of the singular values that it falls into: a Gaussian
# 9 x 12 matrix of these seeds has relative gaps over 1/50, of which 1/gap is the factor.
GAP = 50


# ------------------------------------------------------------------------- two modes are a matrix


@dtypes
@pytest.mark.parametrize(
    "decompose", [tl.tt_svd, tl.hosvd, tl.st_hosvd, tl.LowRank.from_dense, tl.ht_svd]
)
def test_two_modes_are_the_truncated_svd(decompose, dtype):
    x = draw(9, 12, dtype=dtype)
    assert same(decompose(x, 4).to_dense(), best(x, 4), GAP)


@dtypes
def test_the_train_of_a_low_rank_matrix_is_the_matrix(dtype):
    for s in (None, draw(3, 3, dtype=dtype, seed=2)):
        w = tl.LowRank(draw(5, 3, dtype=dtype), draw(7, 3, dtype=dtype, seed=1), s)
        assert same(w.to_tt().to_dense(), w.to_dense())


@dtypes
def test_hooi_of_two_modes_is_the_truncated_svd(dtype):
    x = draw(9, 12, dtype=dtype)
    assert same(tl.hooi(x, 4, max_iter=5).value.to_dense(), best(x, 4), GAP)


# --------------------------------------------------------------------------- trains in other trees


@dtypes
def test_a_linear_tree_is_a_train(dtype):
    tt = tl.TT.randn((3, 4, 2, 3), (3, 4, 2), generator=torch.Generator(), dtype=dtype)
    ht = tl.HT.from_tt(tt.cores)
    assert same(ht.to_dense(), tt.to_dense()) and same(ht.to_tt().to_dense(), tt.to_dense())
    tree = tl.linear_tree(4)
    ht = tl.HT.randn((3, 4, 2, 3), 2, tree=tree, generator=torch.Generator(), dtype=dtype)
    assert same(ht.to_tt().to_dense(), ht.to_dense())


@dtypes
def test_a_core_of_full_rank_makes_tucker_a_train_of_two_modes(dtype):
    """Where one mode alone is cut, Tucker projects on the basis that the train's SVD finds."""
    x = draw(5, 4, 3, dtype=dtype)
    wanted = best(x.reshape(5, 12), 3).reshape(x.shape)
    assert same(tl.hosvd(x, (3, 4, 3)).to_dense(), wanted, GAP)
    assert same(tl.tt_svd(x, (3, 3)).to_dense(), wanted, GAP)


@dtypes
def test_rank_one_is_the_same_in_every_format(dtype):
    columns = [draw(n, dtype=dtype, seed=n) for n in (3, 4, 5)]
    wanted = torch.einsum("i,j,k->ijk", *columns)
    one, cores = torch.ones(1, dtype=dtype), [c[None, :, None] for c in columns]
    for form in (
        tl.CP(one, tuple(c[:, None] for c in columns)),
        tl.Tucker(one.reshape(1, 1, 1), tuple(c[:, None] for c in columns)),
        tl.TT(tuple(cores)),
        tl.HT.from_tt(cores),
    ):
        assert same(form.to_dense(), wanted)
        assert same(form.norm(), torch.linalg.vector_norm(wanted))


# -------------------------------------------------------------------------------- kinds of matrix


@dtypes
def test_a_tt_matrix_of_one_core_is_dense(dtype):
    w = draw(5, 7, dtype=dtype)
    form = tl.tt_matrix_svd(w, (5,), (7,), rtol=0.0)
    assert form.ranks == () and same(form.to_dense(), w)


@dtypes
@pytest.mark.parametrize("rank", [1, 3])
def test_two_cores_are_a_sum_of_kronecker_products(rank, dtype):
    """Both are the truncated SVD of the same rearrangement."""
    w = draw(6, 8, dtype=dtype)
    wanted = tl.kron_svd(w, (2, 4), rank).to_dense()
    assert same(tl.tt_matrix_svd(w, (2, 3), (4, 2), rank).to_dense(), wanted, 2 * GAP)
    rows = best(tl.kron_rearrange(w, (2, 4)), rank)
    assert same(tl.kron_rearrange(wanted, (2, 4)), rows, GAP)


@dtypes
def test_a_left_factor_of_one_entry_leaves_the_matrix(dtype):
    w = draw(6, 8, dtype=dtype)
    assert same(tl.kron_svd(w, (1, 1), 1).to_dense(), w)


@dtypes
def test_a_column_times_a_row_is_a_low_rank_matrix(dtype):
    """Kronecker factors (out, 1) and (1, in) are columns and rows: the sum is u vᴴ."""
    w = draw(6, 8, dtype=dtype)
    form = tl.kron_svd(w, (6, 1), 3)
    assert same(form.to_dense(), best(w, 3), GAP)


@dtypes
def test_monarch_is_block_tt_of_rank_one(dtype):
    w = draw(9, 9, dtype=dtype)
    monarch, block = tl.Monarch.from_dense(w, 3), tl.BlockTT.from_dense(w, 1)
    assert monarch.ranks == block.ranks == (1,)
    assert same(monarch.to_dense(), block.to_dense())


@dtypes
def test_block_tt_of_full_rank_is_dense(dtype):
    w = draw(9, 9, dtype=dtype)
    assert same(tl.BlockTT.from_dense(w, 3).to_dense(), w)


@dtypes
def test_lokr_is_one_kronecker_product(dtype):
    w1, a, b = draw(2, 3, dtype=dtype), draw(4, 2, dtype=dtype, seed=1), draw(2, 5, dtype=dtype)
    wanted = tl.Kronecker((w1[None], (a @ b)[None]))
    x = draw(3, 15, dtype=dtype)
    for form in (LoKr(w1, a, b), LoKr(w1, a @ b)):
        assert same(form.to_dense(), wanted.to_dense()) and same(form.apply(x), wanted.apply(x))


# --------------------------------------------------------------------------------- arithmetic


@dtypes
def test_a_train_plus_itself_rounds_to_its_double(dtype):
    x = tl.TT.randn((4, 5, 3), 2, generator=torch.Generator(), dtype=dtype)
    double = tl.tt_round(x + x, rtol=TOL * torch.finfo(dtype).eps)
    assert double.ranks == x.ranks and same(double.to_dense(), 2 * x.to_dense(), 2)


@dtypes
def test_a_train_projected_on_its_own_tangent_space_is_itself(dtype):
    x = tl.TT.randn((4, 5, 3), 2, generator=torch.Generator(), dtype=dtype)
    assert same(tl.tt_project(x, x).to_tt().to_dense(), x.to_dense())


def test_a_cross_of_an_exact_rank_is_tt_svd():
    """Interpolation on maximal minors loses at most the condition of the crosses over the SVD; of
    ranks 2 of Gaussian cores it is under 100."""
    x = tl.TT.randn((4, 5, 3), 2, generator=torch.Generator(), dtype=torch.float64)
    dense = x.to_dense()
    f = lambda index: dense[tuple(index.T)]
    found = tl.tt_cross(f, x.shape, rtol=1e-10, budget=60, generator=torch.Generator()).value
    assert same(found.to_dense(), tl.tt_svd(dense, rtol=1e-10).to_dense(), 100)


def test_the_squared_log_probability_is_that_of_the_dense_square():
    x = tl.TT.randn((4, 5, 3), 2, generator=torch.Generator(), dtype=torch.float64)
    index = torch.cartesian_prod(*(torch.arange(n) for n in x.shape))
    p = tl.tt_log_prob(x, index, squared=True).exp()
    square = x.at(index).square()
    assert same(p, square / square.sum())
    assert same(p.sum(), torch.tensor(1.0, dtype=torch.float64))


# ------------------------------------------------------------------------------------- in layers


@pytest.mark.parametrize("kind", ["lora", "rslora", "lokr", "dlrt"])
def test_a_merged_adapter_is_the_sum(kind):
    layer = nn.Linear(12, 8, dtype=torch.float64)
    before = layer.weight.detach().clone()
    model = tl.add_lora(nn.Sequential(layer), "0", 2, kind=kind)
    with torch.no_grad():
        for k, t in enumerate(model[0].delta.tensors):
            t.copy_(draw(*t.shape, seed=k))
        change = model[0].scale * model[0].delta.weight.to_dense()
    assert same(tl.merge_lora(model)[0].weight.detach(), before + change)
