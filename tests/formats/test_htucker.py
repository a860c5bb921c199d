"""Hierarchical Tucker: against dense singular values, the train on a linear tree, tntorch, and the
bounds of the docstrings."""

import copy
import itertools
import math
import pickle

import pytest
import tntorch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tensors import (
    KINDS,
    RTOLS,
    gradcheck,
    noisy_train,
    relative_error,
    shapes,
    smooth,
    tensor,
    within,
)
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

import tensorlab as tl
from tensorlab.formats import htucker
from tensorlab.formats.htucker import HT

DTYPES = [
    torch.float64,
    torch.float32,
    torch.complex128,
    torch.complex64,
    torch.float16,
    torch.bfloat16,
]


@st.composite
def trees(draw, d):
    """Any binary tree with the modes 0..d-1 as leaves, in any order."""
    parts = draw(st.permutations(range(d)))
    while len(parts) > 1:
        k = draw(st.integers(0, len(parts) - 2))
        parts = [*parts[:k], (parts[k], parts[k + 1]), *parts[k + 2 :]]
    return parts[0]


shapes_and_trees = shapes.flatmap(lambda shape: st.tuples(st.just(shape), trees(len(shape))))


def matricization(x, modes):
    """The modes of a node as rows, all others as columns."""
    rest = [k for k in range(x.ndim) if k not in modes]
    return x.permute(*modes, *rest).reshape(math.prod(x.shape[k] for k in modes), -1)


def cuts(nodes):
    """The nodes without the second child of the root, which has the singular values of the
    first."""
    return [0, *range(2, len(nodes))] if nodes else []


def relabeled(tree, names):
    return tuple(relabeled(t, names) for t in tree) if isinstance(tree, tuple) else names[tree]


# -- reduces to


def test_two_modes_give_the_svd(generator):
    x = torch.randn(30, 20, generator=generator, dtype=torch.float64)
    s = torch.linalg.svdvals(x)
    for y, r in itertools.product((x, x.T), (1, 5, 20)):
        ht = tl.ht_svd(y, r)
        assert ht.ranks == (r, r)
        assert relative_error(ht.to_dense(), y) == pytest.approx(
            float(s[r:].norm() / s.norm()), abs=1e-14
        )


def from_the_right(x, ranks):
    """TT-SVD with full SVDs, last mode first: the dense value of the train."""
    rest, bases, q = x, [], 1
    for n, r in zip(x.shape[:0:-1], ranks[::-1]):
        vh = torch.linalg.svd(rest.reshape(-1, n * q), full_matrices=False).Vh[:r]
        rest, q = rest.reshape(-1, n * q) @ vh.mH, r
        bases.append(vh)
    for vh in bases[::-1]:
        rest = (rest.reshape(-1, len(vh)) @ vh).reshape(-1, 1)
    return rest.reshape(x.shape)


@pytest.mark.parametrize("ranks", [(2, 3, 2), (4, 5, 3), (1, 1, 1), (3, 9, 5)])
def test_a_linear_tree_gives_the_train(ranks, generator):
    x = torch.randn(4, 6, 5, 5, generator=generator, dtype=torch.float64)
    tree = tl.linear_tree(4)
    nodes = tl.HT.randn(x.shape, 1, tree=tree).nodes
    bond = {(1, 2, 3): ranks[0], (2, 3): ranks[1], (3,): ranks[2]}
    ht = tl.ht_svd(x, tuple(bond.get(node, 9) for node in nodes), tree=tree)
    assert torch.allclose(ht.to_dense(), from_the_right(x, ranks), atol=1e-12)
    train = ht.to_tt()
    assert train.ranks == ranks and relative_error(train.to_dense(), ht.to_dense()) < 1e-14
    ours, theirs = (
        relative_error(t.to_dense(), x) for t in (train, tl.tt_svd(x, ranks))
    )  # that one cuts from both ends
    assert max(ours, theirs) <= math.sqrt(3) * min(ours, theirs)


@pytest.mark.parametrize(
    "x", [smooth((6, 7, 8, 5)), noisy_train((6, 7, 8, 5), (3, 4, 2), 0.0)], ids=["smooth", "train"]
)
def test_a_linear_tree_has_the_ranks_of_tt_svd_and_tntorch(x):
    for rtol in (1e-10, 1e-4):
        ht, tt = tl.ht_svd(x, rtol=rtol, tree=tl.linear_tree(4)), tl.tt_svd(x, rtol=rtol)
        theirs = tntorch.round_tt(tntorch.Tensor(x), eps=rtol)
        assert ht.to_tt().ranks == tt.ranks == tuple(theirs.ranks_tt[1:-1].tolist())
        assert relative_error(ht.to_dense(), theirs.torch()) <= 2 * rtol
        assert relative_error(ht.to_dense(), tt.to_dense()) <= 2 * rtol


def test_trains_there_and_back(generator):
    for shape in [(4, 5, 6, 3), (4, 5), (6,)]:
        tt = tl.TT.randn(shape, 3, generator=generator, dtype=torch.complex128)
        ht = tl.HT.from_tt(tt.cores)
        assert relative_error(ht.to_dense(), tt.to_dense()) < 1e-15
        assert all(torch.allclose(a, b) for a, b in zip(ht.to_tt().cores[1:], tt.cores[1:]))
        back = ht.round(rtol=0.0).to_tt()
        assert back.ranks == tt.ranks and relative_error(back.to_dense(), tt.to_dense()) < 1e-14


def test_a_tucker_tensor_of_three_modes(generator):
    x = torch.randn(6, 7, 8, generator=generator, dtype=torch.float64)
    ht = tl.ht_svd(
        x, (4, 4, 3, 5)
    )  # of ((0), (1, 2)): the root joins mode 0 to the basis of (1, 2)
    assert (
        ht.tree == (0, (1, 2))
        and ht.nodes == ((0,), (1, 2), (1,), (2,))
        and ht.ranks == (4, 4, 3, 5)
    )
    tucker = tl.st_hosvd(x.permute(1, 2, 0), (3, 5, 4))  # cuts the modes in the same order
    assert torch.allclose(ht.to_dense(), tucker.to_dense().permute(2, 0, 1), atol=1e-13)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    case=shapes_and_trees,
    kind=st.sampled_from(["full", "rank 2", "view"]),
    dtype=st.sampled_from(DTYPES[:4]),
)
def test_singular_values_are_those_of_the_matricizations(case, kind, dtype):
    shape, tree = case
    x = tensor(kind, shape, dtype)
    shape = x.shape
    ht = tl.ht_svd(x, rtol=0.0, tree=tree)
    dense = tl.linalg.widen(x)
    values = ht.singular_values()
    assert tuple(values) == ht.nodes and len(ht.nodes) == 2 * len(shape) - 2
    for node, s in values.items():
        wanted = torch.linalg.svdvals(matricization(dense, node))
        assert s.dtype == dtype.to_real() and len(s) <= len(wanted)
        wanted, got = wanted / dense.norm(), s.double() / dense.norm()
        assert torch.allclose(got, wanted[: len(s)], atol=64 * torch.finfo(dtype).eps)
        assert wanted[len(s) :].norm() <= 64 * torch.finfo(dtype).eps


def test_small_singular_values_keep_their_digits():
    s = 10.0 ** -torch.arange(0, 12, 2, dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    u, v = (
        torch.linalg.qr(torch.randn(n, 6, generator=g, dtype=torch.float64)).Q for n in (12, 15)
    )
    x = ((u * s) @ v.mT).reshape(3, 4, 3, 5)
    got = tl.ht_svd(x, rtol=0.0).singular_values()[0, 1]
    assert torch.allclose(got, s, rtol=1e-5, atol=0)  # reduced Gramians would lose all below 1e-8


# -- bounds


@pytest.mark.thorough
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    case=shapes_and_trees,
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(DTYPES),
    rtol=st.sampled_from(RTOLS),
)
def test_ht_svd_keeps_its_bound(case, kind, dtype, rtol):
    shape, tree = case
    x = tensor(kind, shape, dtype)
    ht = tl.ht_svd(x, rtol=rtol, tree=tree)
    assert ht.shape == x.shape and ht.dtype == x.dtype and ht.tree == tree
    assert within(ht, x, rtol)
    for node, r in zip(ht.nodes, ht.ranks, strict=True):
        assert type(r) is int and 1 <= r <= min(matricization(x, node).shape)
    assert ht.ranks[:1] == ht.ranks[1:2]  # the children of the root
    if (
        kind == "rank 2"
    ):  # as a train: so at each cut into first and last modes, at rtol=0.0 and in halves too
        first = [{*range(k)} for k in range(x.ndim)] + [{*range(k, x.ndim)} for k in range(x.ndim)]
        assert all(r <= 2 for node, r in zip(ht.nodes, ht.ranks) if {*node} in first)


@pytest.mark.thorough
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    case=shapes_and_trees,
    cap=st.integers(1, 6),
    kind=st.sampled_from(["full", "graded", "view"]),
    rounded=st.booleans(),
)
def test_the_error_is_within_sqrt_2d_3_of_the_best(case, cap, kind, rounded):
    shape, tree = case
    x = tensor(kind, shape)
    ht = tl.ht_svd(x, rtol=0.0, tree=tree).round(cap) if rounded else tl.ht_svd(x, cap, tree=tree)
    tails = [
        float(torch.linalg.svdvals(matricization(x, ht.nodes[i]))[cap:].norm())
        for i in cuts(ht.nodes)
    ]
    error, noise = float((ht.to_dense() - x).norm()), 1e-13 * float(x.norm())
    best = max(tails, default=0.0)  # no HT of these ranks, the best included, can lose less
    assert (
        best - noise
        <= error
        <= math.hypot(*tails) + noise
        <= math.sqrt(max(1, len(tails))) * best + 2 * noise
    )
    assert len(tails) == max(0, 2 * len(shape) - 3) and max(ht.ranks, default=1) <= cap


@pytest.mark.thorough
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    case=shapes_and_trees,
    rtol=st.sampled_from(RTOLS),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 9),
)
def test_rounding_keeps_its_bound(case, rtol, dtype, seed):
    shape, tree = case
    g = torch.Generator().manual_seed(seed)
    a, b = (tl.HT.randn(shape, 3, tree=tree, generator=g, dtype=dtype) for _ in range(2))
    total = a + 2 * a + b
    rounded = tl.ht_round(total, rtol=rtol)
    wide = tl.linalg.wide(dtype)
    assert rounded.dtype == dtype and rounded.tree == tree
    dense = total.to(wide).to_dense()
    assert relative_error(rounded.to(wide).to_dense(), dense) <= rtol + 64 * torch.finfo(dtype).eps
    assert all(r <= p + q for r, p, q in zip(rounded.ranks, a.ranks, b.ranks, strict=True))


def test_exact_ranks():
    i = torch.arange(5, dtype=torch.float64)
    s = i[:, None, None, None] + i[:, None, None] + i[:, None] + i
    for tree in (tl.balanced_tree(4), tl.linear_tree(4), ((3, 0), (2, 1))):
        assert tl.ht_svd(s, rtol=0.0, tree=tree).ranks == (2,) * 6  # a sum of coordinates
        assert tl.ht_svd(s.sin(), rtol=0.0, tree=tree).ranks == (2,) * 6
        assert tl.ht_svd(s.exp(), rtol=0.0, tree=tree).ranks == (1,) * 6
    assert tl.ht_svd(torch.zeros(2, 3, 4), rtol=0.0).ranks == (1,) * 4


def test_rounding_finds_the_ranks_of_ht_svd(generator):
    x = noisy_train((5, 4, 3, 4, 5), 2, 1e-5)
    for tree in (tl.balanced_tree(5), tl.linear_tree((4, 0, 3, 1, 2))):
        full = tl.ht_svd(x, rtol=0.0, tree=tree)
        for rtol in (1e-2, 1e-4):
            assert full.round(rtol=rtol).ranks == tl.ht_svd(x, rtol=rtol, tree=tree).ranks
        assert (full + 2 * full).round(rtol=1e-12).ranks == full.ranks


class Recorder(TorchDispatchMode):
    """Remembers the sizes that LAPACK is given."""

    sizes = ()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(part in str(function) for part in ("svd", "qr", "eigh", "cholesky")):
            self.sizes += (tuple(args[0].shape),)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("tree", [None, tl.linear_tree(4)], ids=["balanced", "linear"])
def test_only_small_matrices_are_factorized(tree):
    x = noisy_train((24, 20, 22, 26), 3, 1e-6)
    with Recorder() as seen:
        ht = tl.ht_svd(x, rtol=1e-4, tree=tree)
    assert sorted(ht.ranks) == [
        3,
        3,
        3,
        3,
        9,
        9,
    ]  # the leaves in the middle of a train see both its bonds
    assert seen.sizes and max(math.prod(size) for size in seen.sizes) <= (3 * 9) ** 2


# -- is invariant


@pytest.mark.thorough
@settings(max_examples=40, deadline=None, derandomize=True)
@given(case=shapes_and_trees, kind=st.sampled_from(KINDS), rtol=st.sampled_from(RTOLS))
def test_ranks_do_not_see_the_scale(case, kind, rtol):
    shape, tree = case
    x = tensor(kind, shape)
    ranks = tl.ht_svd(x, rtol=rtol, tree=tree).ranks
    for exponent in (-498, -50, 50, 498):
        ht = tl.ht_svd(x * math.ldexp(1.0, exponent), rtol=rtol, tree=tree)
        assert ht.ranks == ranks and within(ht * math.ldexp(1.0, -exponent), x, rtol)


@pytest.mark.thorough
@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1000, 1e15, 1e150, 1e300])
@pytest.mark.parametrize("rtol", [0.0, 1e-8, 1e-3, 0.5])
def test_ranks_do_not_see_a_decimal_scale(scale, rtol):
    x = noisy_train((6, 7, 5, 4), 3, 1e-5)
    assert tl.ht_svd(x * scale, rtol=rtol).ranks == tl.ht_svd(x, rtol=rtol).ranks
    ht = tl.ht_svd(x, rtol=0.0)
    assert tl.ht_round(ht * scale, rtol=rtol).ranks == tl.ht_round(ht, rtol=rtol).ranks
    assert float((ht * scale).norm()) == pytest.approx(float(x.norm()) * scale, rel=1e-12)


@pytest.mark.parametrize("order", [*itertools.permutations(range(4))])
def test_permuted_modes_with_a_permuted_tree_are_the_same(order):
    x, tree = noisy_train((4, 5, 3, 6), 3, 1e-4), ((0, 2), (1, 3))
    a = tl.ht_svd(x, 3, tree=tree)
    b = tl.ht_svd(x.permute(order), 3, tree=relabeled(tree, [order.index(k) for k in range(4)]))
    assert b.ranks == a.ranks and torch.allclose(
        b.to_dense(), a.to_dense().permute(order), atol=1e-12
    )
    assert all(
        torch.allclose(s, t)
        for s, t in zip(b.singular_values().values(), a.singular_values().values())
    )


def test_views(generator):
    z = torch.randn(4, 6, 5, generator=generator, dtype=torch.complex128)
    expanded = z[:, :1].expand(-1, 3, -1)
    for x in (
        z[::2, 1::3],
        z.real,
        z.imag,
        z.conj(),
        z.conj().imag,
        z.flip(1),
        expanded,
        z.permute(2, 0, 1),
        z[0].mH,
    ):
        before = x.clone()
        assert relative_error(tl.ht_svd(x, rtol=0.0).to_dense(), x) < 1e-14 and torch.equal(
            x, before
        )


def test_rank_and_rtol_together():
    x = smooth((8, 8, 8, 8))
    free = tl.ht_svd(x, rtol=1e-8).ranks
    assert tl.ht_svd(x, 99, rtol=1e-8).ranks == free == (free[0],) * 2 + free[2:]
    assert tl.ht_svd(x, 3, rtol=1e-8).ranks == (3,) * 6
    caps = (4, 3, 2, 2, 1, 3)
    assert (
        tl.ht_svd(x, caps).ranks == (3, 3, 2, 2, 1, 3) == tl.ht_svd(x, rtol=1e-8).round(caps).ranks
    )


def test_orthogonal(generator):
    x = tl.HT.randn((4, 5, 6, 3), 3, generator=generator, dtype=torch.complex128)
    for y in (x.orthogonal(), tl.ht_svd(x.to_dense(), rtol=0.0), (x + x).round(rtol=1e-12)):
        for m in (*y.factors, *(c.flatten(0, 1) for c in y.cores[1:])):
            assert torch.allclose(m.mH @ m, torch.eye(m.shape[1], dtype=m.dtype), atol=1e-13)
        assert float(y.cores[0].norm()) == pytest.approx(float(y.to_dense().norm()), rel=1e-12)
    assert relative_error(x.orthogonal().to_dense(), x.to_dense()) < 1e-14


@pytest.mark.thorough
def test_many_modes(generator):
    for tree in (None, tl.linear_tree(200)):
        x = tl.HT.randn((4,) * 200, 3, tree=tree, generator=generator, dtype=torch.float64)
        y = tl.ht_round(1e3 * (x + x), rtol=1e-8)
        assert y.ranks == x.ranks and all(torch.isfinite(t).all() for t in y.tensors())
        index = torch.randint(0, 4, (5, 200), generator=generator)
        assert torch.allclose(y.at(index), 2e3 * x.at(index), rtol=1e-6)
        assert float((y - 2e3 * x).norm()) <= 1e-8 * float(y.norm())


def test_random_entries_have_variance_one(generator):
    x = torch.stack([tl.HT.randn((8, 8, 8), 3, generator=generator).to_dense() for _ in range(300)])
    assert float(x.square().mean()) == pytest.approx(1, rel=0.1)


def test_entries_in_blocks(generator, monkeypatch):
    x = tl.HT.randn((6, 5, 4, 6), 3, generator=generator, dtype=torch.float64)
    index = torch.cartesian_prod(*(torch.arange(n) for n in x.shape))
    whole = x.at(index)
    monkeypatch.setattr(htucker, "BLOCK", 50)
    assert torch.allclose(x.at(index), whole, atol=1e-14) and torch.allclose(
        whole.reshape(x.shape), x.to_dense()
    )
    assert x.at(index[:0]).shape == (0,)


def test_a_half_precision_norm_that_does_not_fit_is_shared_out():
    x = torch.full((9, 9, 9, 9), 6e4, dtype=torch.float16)  # |x| is 4.9e6, float16 ends at 65504
    ht = tl.ht_svd(x, rtol=0.0)
    assert all(torch.isfinite(t).all() for t in ht.tensors()) and within(ht, x, 0.0)


# -- by hand


def test_by_hand():
    # x[i, j, k, l] = i + j + k + l on ((0, 1), (2, 3)): every basis is [1, index sum], the root
    # joins 1 with the sum both ways
    u = torch.stack([torch.ones(3), torch.arange(3.0)], 1)  # (n, 2)
    join = torch.zeros(2, 2, 2)
    join[0, 0, 0] = join[0, 1, 1] = join[1, 0, 1] = 1  # 1 = 1 * 1, sum = 1 * right + left * 1
    root = torch.tensor([[0.0, 1.0], [1.0, 0.0]])[..., None]
    ht = tl.HT((u,) * 4, (root, join, join), ((0, 1), (2, 3)))
    i = torch.arange(3.0)
    assert torch.equal(ht.to_dense(), i[:, None, None, None] + i[:, None, None] + i[:, None] + i)
    assert ht.at([[2, 1, 0, 2], [2, 2, 2, 2]]).tolist() == [5, 8] and ht.numel == 4 * 6 + 4 + 2 * 8
    assert ht.nodes == ((0, 1), (2, 3), (0,), (1,), (2,), (3,)) and ht.ranks == (2,) * 6


def test_trees_by_hand():
    assert tl.balanced_tree(1) == 0 == tl.linear_tree(1)
    assert tl.balanced_tree(4) == ((0, 1), (2, 3)) and tl.balanced_tree(3) == (0, (1, 2))
    assert tl.linear_tree((2, 0, 1)) == (2, (0, 1)) and tl.balanced_tree([3, 1, 0, 2]) == (
        (3, 1),
        (0, 2),
    )


def test_the_tree_matters():
    # f[a, c] g[b, d]: the node (0, 2) has rank 1, the node (0, 1) the product of the two ranks
    g = torch.Generator().manual_seed(0)
    f, h = (torch.randn(4, 4, generator=g, dtype=torch.float64) for _ in range(2))
    x = torch.einsum("ac,bd->abcd", f, h)
    assert tl.ht_svd(x, rtol=1e-10, tree=((0, 2), (1, 3))).ranks == (1, 1, 4, 4, 4, 4)
    assert tl.ht_svd(x, rtol=1e-10, tree=((0, 1), (2, 3))).ranks == (16, 16, 4, 4, 4, 4)


# -- gradients


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("tree", [None, (1, (3, (0, 2)))], ids=["balanced", "linear"])
@pytest.mark.parametrize(
    "make",
    [
        lambda x, tree: tl.ht_svd(x, 2, tree=tree),
        lambda x, tree: tl.ht_svd(x, rtol=0.0, tree=tree),
        lambda x, tree: tl.ht_round(
            tl.ht_svd(x, rtol=0.0, tree=tree) + tl.ht_svd(x, 1, tree=tree), 2
        ),
    ],
    ids=["rank 2", "exact", "round"],
)
def test_gradients_are_right(make, tree, dtype, generator):
    x = torch.randn(3, 2, 2, 3, generator=generator, dtype=dtype).requires_grad_()
    assert gradcheck(lambda x: make(x, tree).to_dense().abs().square().sin().sum(), (x,))


def test_gradient_of_equal_singular_values():
    x = torch.eye(6, dtype=torch.float64).reshape(2, 3, 3, 2).requires_grad_()
    tl.ht_svd(x, rtol=0.0).to_dense().sin().sum().backward()
    assert torch.allclose(x.grad, x.detach().cos(), atol=1e-14)  # at full rank it is x itself


@pytest.mark.thorough
def test_gradient_of_the_singular_values(generator):
    x = tl.HT.randn((3, 4, 2, 3), 2, generator=generator, dtype=torch.float64)
    f = lambda *ts: sum(s.sum() for s in x.with_tensors(ts).singular_values().values())
    assert gradcheck(f, [t.clone().requires_grad_() for t in x.tensors()])


# -- the tree is kept


def test_the_tree_is_metadata(tmp_path, generator):
    x = tl.HT.randn((3, 4, 2, 3), 2, tree=(2, (0, (3, 1))), generator=generator)
    leaves, spec = _pytree.tree_flatten(x)
    assert len(leaves) == 7 and _pytree.tree_unflatten(leaves, spec).tree == x.tree
    other = _pytree.tree_flatten(tl.HT(x.factors, x.cores, (2, (0, (1, 3)))))[1]
    assert spec != other and hash(x.tree) == hash((2, (0, (3, 1))))
    tl.save(tmp_path / "x", x)
    y = tl.load(tmp_path / "x")
    assert y.tree == x.tree and torch.equal(y.to_dense(), x.to_dense())


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (None, "each of the modes 0..1 once"),
        ("[[0, 1], [2, 3]", "delimiter"),
        ("[[0, 1], 2]", "each of the modes 0..1 once"),
        ('"os.system"', "nested pairs"),
        ("[" * 10**5, "recursion"),
        ("[[0.0, 1.0]]", "nested pairs"),
    ],
    ids=["none", "broken", "other", "text", "deep", "floats"],
)
def test_refuses_files_with_another_tree(tree, said, tmp_path):
    tensors = {
        "factors.0": torch.ones(3, 1),
        "factors.1": torch.ones(3, 1),
        "cores.0": torch.ones(1, 1, 1),
    }
    save_file(
        tensors,
        tmp_path / "x",
        metadata={"format": "HT", "complex": "False"} | ({"tree": tree} if tree else {}),
    )
    with pytest.raises(ValueError, match=said) as caught:
        tl.load(tmp_path / "x")
    assert str(caught.value).startswith("load: ") and "\n" not in str(caught.value)


# -- errors


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (dict(), ValueError, "got neither"),
        (
            dict(rank=(3,) * 5),
            ValueError,
            r"rank needs 6 entries for a 4-way tensor of shape \(4, 5, 6, 7\), got \(3, 3, 3, 3, "
            r"3\)",
        ),
        (dict(rank=0), ValueError, "at least 1, got 0"),
        (dict(rank=2.0), TypeError, "got 2.0"),
        (dict(rtol=-0.1), ValueError, "got -0.1"),
        (
            dict(rank=2, tree=((0, 1), 2)),
            ValueError,
            r"each of the modes 0..3 once, got \(\(0, 1\), 2\)",
        ),
        (
            dict(rank=2, tree=((0, 1), (2, 2))),
            ValueError,
            r"each of the modes 0..3 once, got \(\(0, 1\), \(2, 2\)\)",
        ),
        (dict(rank=2, tree=((0, 1), (2, 4))), ValueError, "each of the modes 0..3 once"),
        (
            dict(rank=2, tree=(0, 1, 2, 3)),
            ValueError,
            r"nested pairs of modes such as \(\(0, 1\), 2\), got \(0, 1, 2, 3\)",
        ),
        (dict(rank=2, tree="linear"), ValueError, "got 'linear'"),
        (dict(rank=2, tree=((0, 1), (2, True))), ValueError, "got True"),
    ],
    ids=str,
)
def test_refuses_arguments(arguments, error, said):
    with pytest.raises(error, match=said) as caught:
        tl.ht_svd(torch.zeros(4, 5, 6, 7), **arguments)
    assert str(caught.value).startswith("ht_svd: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("x", "error", "said"),
    [
        (torch.zeros(4, 5, dtype=torch.int64), TypeError, "got torch.int64"),
        (torch.zeros(0, 5), ValueError, r"\(0, 5\)"),
        (torch.tensor(1.0), ValueError, r"shape \(\)"),
        ([[1.0]], TypeError, "got list"),
        (torch.tensor([[1.0, 2.0], [math.nan, 1.0]]), ValueError, r"got nan at index \(1, 0\)"),
        (
            torch.tensor([[1.0, -math.inf]], dtype=torch.bfloat16),
            ValueError,
            r"got -inf at index \(0, 1\)",
        ),
    ],
    ids=["integers", "empty", "0-way", "list", "nan", "inf"],
)
def test_refuses_tensors(x, error, said):
    with pytest.raises(error, match=said) as caught:
        tl.ht_svd(x, 2)
    assert "\n" not in str(caught.value)


u, c = torch.zeros(3, 2), torch.zeros(2, 2, 1)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: tl.HT(()), ValueError, r"modes 0..-1 once, got 0"),
        (lambda: tl.HT((u, u), (c,)), ValueError, r"modes 0..1 once, got 0"),
        (
            lambda: tl.HT((u, u), (), (0, 1)),
            ValueError,
            r"got shapes \[\(3, 2\), \(3, 2\)\] and \[\]",
        ),
        (
            lambda: tl.HT((u, u), (torch.zeros(2, 2, 2),), (0, 1)),
            ValueError,
            r"on the tree \(0, 1\).*\(2, 2, 2\)",
        ),
        (lambda: tl.HT((u, torch.zeros(3, 1)), (c,), (0, 1)), ValueError, r"\(3, 1\)"),
        (lambda: tl.HT((u, u[None]), (c,), (0, 1)), ValueError, r"\(1, 3, 2\)"),
        (lambda: tl.HT((u, u), (c[0],), (0, 1)), ValueError, r"\[\(2, 1\)\]"),
        (lambda: tl.HT((u,)), ValueError, r"got shapes \[\(3, 2\)\] and \[\]"),
        (lambda: tl.HT((u, u.double()), (c,), (0, 1)), ValueError, "one dtype"),
        (lambda: tl.HT(u, (c,), (0, 1)), TypeError, "a tuple of tensors as factors, got Tensor"),
        (lambda: tl.HT([u, u], [c], [0, 1]), ValueError, r"nested pairs.*got \[0, 1\]"),
        (lambda: tl.HT([u.int(), u.int()], [c.int()], (0, 1)), TypeError, "int32"),
        (lambda: tl.HT.randn((3, 0), 2), ValueError, r"got \(3, 0\)"),
        (lambda: tl.HT.randn((3, 3, 3), (2, 2)), ValueError, "4 entries"),
        (lambda: tl.HT.randn((3, 3), 2, tree=(0, 2)), ValueError, r"HT.randn: .*got \(0, 2\)"),
        (
            lambda: tl.HT.randn((3, 3, 3), 2) + tl.HT.randn((3, 3, 3), 2, tree=((0, 1), 2)),
            ValueError,
            r"HT \+: needs an HT on the tree \(0, \(1, 2\)\), got one on \(\(0, 1\), 2\)",
        ),
        (
            lambda: tl.HT.randn((3, 3, 3), 2, tree=((0, 1), 2)).to_tt(),
            ValueError,
            r"got \(\(0, 1\), 2\)",
        ),
        (lambda: tl.ht_round(tl.HT.randn((3, 3, 3), 2)), ValueError, "got neither"),
        (
            lambda: tl.ht_round(tl.HT.randn((3, 3, 3), 2), (1, 2, 3)),
            ValueError,
            r"4 entries .*got \(1, 2, 3\)",
        ),
        (lambda: tl.ht_round(torch.zeros(3), 2), TypeError, "got Tensor"),
        (lambda: tl.HT([torch.full((3, 1), math.nan)]).round(1), ValueError, "nan"),
        (lambda: tl.balanced_tree(0), ValueError, r"got \(\)"),
        (lambda: tl.linear_tree(2.5), ValueError, "got 2.5"),
    ],
)
def test_refuses_trees_and_formats(make, error, said):
    with pytest.raises(error, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)


# -- deep trees


def deep(d, n=2):
    ones = torch.ones(n, 1, dtype=torch.float64)
    return tl.HT(
        [ones] * d, [torch.ones(1, 1, 1, dtype=torch.float64)] * (d - 1), tl.linear_tree(d)
    )


@pytest.mark.thorough
def test_a_deep_tree_is_stored_copied_and_compared(tmp_path):
    d = 1500
    x, zeros = deep(d), torch.zeros(1, d, dtype=torch.long)
    tl.save(tmp_path / "x", x)
    copies = [tl.load(tmp_path / "x"), pickle.loads(pickle.dumps(x)), copy.deepcopy(x)]
    leaves, spec = _pytree.tree_flatten(x)
    copies.append(_pytree.tree_unflatten(leaves, spec))
    for y in copies:
        assert HT.packed(y.tree) == HT.packed(x.tree)
        assert (x + y).ranks[:2] == (2, 2) and (x * y).ranks[:2] == (1, 1)
    assert float((x + copies[0]).at(zeros)) == 2
    assert _pytree.tree_flatten(copies[0])[1] == spec and isinstance(hash(spec), int)
    assert x.to_tt().ndim == d


def test_a_deep_tree_that_does_not_fit_is_refused_in_a_line():
    x = deep(1500)
    other = tl.HT(x.factors, x.cores, tl.linear_tree(tuple(range(1500))[::-1]))
    for call in (
        lambda: x + other,
        lambda: other.to_tt(),
        lambda: tl.HT(x.factors[:-1], x.cores, x.tree),
        lambda: tl.HT(x.factors, x.cores[:-1], x.tree),
        lambda: tl.ht_svd(torch.ones(2, 2), 1, tree=x.tree),
        lambda: tl.ht_svd(torch.ones(2, 2), 1, tree=nest(2000)),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert len(str(caught.value).split(", got shapes")[0]) < 400
        assert "\n" not in str(caught.value)


def nest(depth):
    tree = 0
    for _ in range(depth):
        tree = (tree,)
    return tree


@given(case=shapes_and_trees)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_a_packed_tree_is_the_tree(case):
    _, tree = case
    nodes = HT.packed(tree)
    assert HT.unpacked(nodes) == tree == HT.unpacked(tree)
    assert all(type(n) is int for n in nodes)


@pytest.mark.parametrize("nodes", [(-1, 0), (-1, -1, 0, 1), (-1, 0, 1, 2), (-1,)])
def test_a_damaged_tree_is_refused(nodes, tmp_path):
    with pytest.raises(ValueError):
        HT.unpacked(nodes)
    x = tl.HT.randn((3, 4), 2)
    about = {"format": "HT", "complex": "False", "tree": str(list(nodes))}
    tensors = {"factors.0": x.factors[0], "factors.1": x.factors[1], "cores.0": x.cores[0]}
    save_file({n: t.contiguous() for n, t in tensors.items()}, tmp_path / "x", metadata=about)
    with pytest.raises(ValueError, match="load: needs the tensors of a HT"):
        tl.load(tmp_path / "x")


def test_files_with_nested_trees_are_read(tmp_path):
    x = tl.HT.randn((3, 4, 2), 2)
    tensors = {f"factors.{k}": t for k, t in enumerate(x.factors)}
    tensors |= {f"cores.{k}": t for k, t in enumerate(x.cores)}
    about = {"format": "HT", "complex": "False", "tree": "[0, [1, 2]]"}
    save_file({n: t.contiguous() for n, t in tensors.items()}, tmp_path / "x", metadata=about)
    y = tl.load(tmp_path / "x")
    assert y.tree == x.tree == (0, (1, 2)) and torch.equal(y.to_dense(), x.to_dense())


# -- the range of floats


@pytest.mark.thorough
@pytest.mark.parametrize(
    "d, tree",
    [
        (340, tl.balanced_tree),
        pytest.param(340, tl.linear_tree, marks=pytest.mark.slow),
        pytest.param(1400, tl.balanced_tree, marks=pytest.mark.slow),
        pytest.param(1400, tl.linear_tree, marks=pytest.mark.slow),
    ],
)
def test_long_tensors_whose_bonds_are_graded_are_rounded(d, tree):
    ones = torch.ones(10, 1, dtype=torch.float64)  # their norm is 10^(d/2), up to 10^700
    x = tl.HT([ones] * d, [torch.ones(1, 1, 1, dtype=torch.float64)] * (d - 1), tree(d))
    index = torch.full((1, d), 7)
    y = x.round(rtol=1e-6)
    level = 1e-13 * d
    assert float(y.at(index)) == pytest.approx(1, rel=level)
    assert float(x.orthogonal().at(index)) == pytest.approx(1, rel=level)
    both = y + x  # one term orthonormal, the other of ones: bonds graded by up to 1e350
    assert float(both.at(index)) == pytest.approx(2, rel=level)
    rounded = both.round(rtol=1e-6)
    assert float(rounded.at(index)) == pytest.approx(2, rel=level) and set(rounded.ranks) == {1}
    if d == 340:
        assert float(both.norm()) == pytest.approx(2e170, rel=level)


@pytest.mark.thorough
def test_a_norm_beyond_the_floats_is_shared_by_all_nodes():
    ones = torch.ones(10, 1, dtype=torch.float64)
    one, z = torch.ones(1, 1, 1, dtype=torch.float64), torch.zeros(1, 640, dtype=torch.long)
    x = tl.HT([ones] * 640, [one] * 639, tl.balanced_tree(640))  # its norm is 1e320
    assert float(x.at(z)) == 1 and float(x.round(rtol=1e-6).at(z)) == pytest.approx(1, rel=1e-11)


def test_values_in_range_of_factors_far_from_it():
    big, small = (torch.full((2, 1), s, dtype=torch.float64) for s in (1e10, 1e-10))
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    x = tl.HT([big] * 40 + [small] * 40, [one] * 79, tl.balanced_tree(80))  # all entries 1
    assert float(x.at(torch.zeros(1, 80, dtype=torch.long))) == pytest.approx(1, rel=1e-13)
    assert float(x.dot(x)) == pytest.approx(2.0**80, rel=1e-13)
    assert float(x.norm()) == pytest.approx(2.0**40, rel=1e-13)
    assert float((x - x.round(rtol=0.0)).norm()) <= 1e-12 * 2.0**40
