"""TT embeddings: against torch's embedding on the dense table and tntorch's entries; what is
gathered, and what it may cost."""

import math

import pytest
import tntorch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import relative_error
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import tensorlab as tl
from tensorlab.formats.ttmatrix import TTMatrix, tt_matrix_svd
from tensorlab.layers.embedding import TokenTrains, TTEmbedding, head_flops, tt_rows

OUT, IN = (4, 5, 3), (2, 3, 2)


def table(seed=0, dtype=torch.float64, size=None, rank=4, out=OUT, in_=IN):
    return TTMatrix.randn(
        out=out,
        in_=in_,
        rank=rank,
        shape=size,
        generator=torch.Generator().manual_seed(seed),
        dtype=dtype,
    )


class Largest(TorchDispatchMode):
    """The most entries of any tensor that an operation makes, views of them not counted twice."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(t, torch.Tensor):
                self.entries = max(self.entries, t.numel())
        return out


# -- reduces to


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.complex128, torch.float16, torch.bfloat16],
    ids=str,
)
@pytest.mark.parametrize("size", [None, (53, 11)], ids=["whole", "padded"])
def test_is_torchs_embedding_of_the_dense_table(dtype, size):
    layer = TTEmbedding(table(dtype=dtype, size=size))
    ids = torch.tensor([[0, 52, 7], [7, 7, 31]])
    wanted = layer.weight.to(tl.linalg.wide(dtype)).to_dense().detach()[ids]
    out = layer(ids)
    assert out.dtype == dtype and out.shape == (2, 3, (size or (0, 12))[1])
    assert relative_error(out.detach(), wanted) <= 8 * torch.finfo(dtype).eps


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    data=st.data(),
    modes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=5),
)
def test_any_modes_and_ids(data, modes):
    out, in_ = zip(*modes)
    layer = TTEmbedding(table(out=out, in_=in_, rank=data.draw(st.integers(1, 5))))
    ids = torch.tensor(
        data.draw(st.lists(st.integers(0, math.prod(out) - 1), max_size=12)), dtype=torch.long
    )
    wanted = functional.embedding(ids, layer.weight.to_dense())
    assert layer(ids).shape == wanted.shape and torch.allclose(
        layer(ids), wanted, rtol=1e-12, atol=1e-12
    )


def test_entries_are_tntorchs():
    w = table()
    train = (
        tntorch.Tensor([core.flatten(1, 2) for core in w.cores]).torch().reshape(4, 2, 5, 3, 3, 2)
    )
    assert torch.allclose(
        TTEmbedding(w)(torch.tensor([38]))[0].reshape(2, 3, 2), train[2, :, 2, :, 2, :], rtol=1e-12
    )  # 38 = 2 2 2


def test_gradients_of_the_cores_are_those_through_the_dense_table():
    layer, ids = TTEmbedding(table(), padding_idx=7), torch.tensor([[0, 59, 7], [7, 8, 8]])
    target = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (layer(ids) * target).sum().backward()
    leaves = [core.detach().clone().requires_grad_() for core in layer.cores]
    rows = (
        functional.embedding(ids, layer.weight.with_tensors(leaves).to_dense())
        * (ids != 7)[..., None]
    )
    (rows * target).sum().backward()
    for core, leaf in zip(layer.cores, leaves):
        assert torch.allclose(core.grad, leaf.grad, rtol=1e-10, atol=1e-12)


def test_gradcheck():
    w, ids = table(rank=2), torch.tensor([0, 13, 59])
    leaves = [core.clone().requires_grad_() for core in w.cores]
    assert torch.autograd.gradcheck(lambda *cores: tt_rows(w.with_tensors(cores), ids), leaves)


@pytest.mark.parametrize("size", [None, (53, 11)], ids=["whole", "padded"])
def test_from_embedding_at_full_rank_is_the_same_layer(size, generator):
    v, d = size or (60, 12)
    dense = torch.nn.Embedding(v, d, padding_idx=3).double()
    layer = TTEmbedding.from_embedding(dense, OUT, IN, rtol=1e-13)
    ids = torch.randint(v, (40,), generator=generator)
    assert layer.padding_idx == 3 and torch.allclose(layer(ids), dense(ids), atol=1e-11)
    coarse = TTEmbedding.from_embedding(dense, OUT, IN, 3)
    wanted = tt_matrix_svd(dense.weight.detach(), OUT, IN, 3).to_dense()
    wanted[3] = 0  # cut from what goes out, whatever the train has there
    assert torch.allclose(coarse(torch.arange(v)), wanted, atol=1e-12)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (400,)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("size", [None, (53, 11)], ids=["whole", "padded"])
def test_head_is_the_product_with_the_table(shape, dtype, size):
    layer = TTEmbedding(table(dtype=dtype, size=size, rank=2), padding_idx=5)
    e = layer(torch.arange(layer.weight.shape[0]))
    h = torch.randn(*shape, e.shape[1], dtype=dtype, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(layer.head(h), h @ e.mT, rtol=1e-10, atol=1e-10)


def test_head_takes_each_path_somewhere_and_its_counts_are_those_of_the_products():
    paths = {}
    for out, in_, rank, batch in [
        ((2, 2, 30), (8, 2, 1), 2, 4),
        ((30, 2, 2), (1, 2, 8), 2, 4),
        ((4, 4), (4, 4), 16, 50),
    ]:
        w = table(out=out, in_=in_, rank=rank)
        h = torch.randn(
            batch, math.prod(in_), dtype=torch.float64, generator=torch.Generator().manual_seed(1)
        )
        flops = head_flops(w, batch)
        path = min(flops, key=flops.get)
        with FlopCounterMode(display=False) as counter:
            y = TTEmbedding(w).head(h)
        assert (
            torch.allclose(y, h @ w.to_dense().mT, atol=1e-10)
            and counter.get_total_flops() == flops[path]
        )
        paths[path] = flops[path]
    assert set(paths) == {"left", "right", "table"}


def test_head_does_not_form_the_table_when_that_is_dearer():
    layer = TTEmbedding.randn(4096, 64, (16, 16, 16), (4, 4, 4), 2)
    with Largest() as made, torch.no_grad():
        layer.head(torch.ones(1, 64))
    assert made.entries <= 4096 * 64 / 8


# -- what it costs


def test_a_gather_never_builds_the_table():
    layer = TTEmbedding.randn(25000, 256, (25, 30, 40), (4, 8, 8), 16)
    ids = torch.randint(25000, (64, 16), generator=torch.Generator().manual_seed(0)) % 500
    with Largest() as made:
        layer(ids).square().sum().backward()
    assert made.entries < 25000 * 256 / 5
    with Largest() as dense:
        layer.weight.to_dense()
    assert dense.entries >= 30000 * 256


def test_repeated_ids_are_computed_once():
    layer, few = TTEmbedding(table()), torch.tensor([3, 17, 59])
    many = few[torch.randint(3, (1000,), generator=torch.Generator().manual_seed(0))]
    counts = []
    for ids in (few, many):
        with FlopCounterMode(display=False) as counter:
            layer(ids)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_the_papers_compression_at_its_shapes():
    """[Hrinchuk2020], IMDB: 25 000 x 256 at rank 16, padding counted; with six cores 16 is more
    than the 10 of the first bond."""
    shapes = [
        ((25, 30, 40), (4, 8, 8), 93),
        ((10, 10, 15, 20), (4, 4, 4, 4), 232),
        ((5, 5, 5, 5, 6, 8), (2, 2, 2, 2, 4, 4), 441),
    ]
    for out, in_, printed in shapes:
        r = (1, *(16,) * (len(out) - 1), 1)
        w = TTMatrix(
            tuple(torch.zeros(r[k], m, n, r[k + 1]) for k, (m, n) in enumerate(zip(out, in_))),
            (25000, 256),
        )
        assert int(w.compression) == printed
        made = TTEmbedding.randn(25000, 256, out, in_, 16).weight
        assert made.padded_shape == (30000, 256) and int(made.compression) == (
            printed if len(out) < 6 else 474
        )


# -- is invariant


def test_variance_of_the_start(generator):
    for options, wanted in [({}, 2 / (3000 + 64)), ({"std": 0.5}, 0.25)]:
        squares = []
        for _ in range(24):
            layer = TTEmbedding.randn(
                3000, 64, (12, 16, 16), (4, 4, 4), 8, generator=generator, **options
            )
            squares.append(float(layer.weight.to_dense().detach().square().mean()))
        assert sum(squares) / len(squares) == pytest.approx(wanted, rel=0.1)


def test_same_seed_same_numbers():
    a, b = (
        TTEmbedding.randn(60, 12, OUT, IN, 3, generator=torch.Generator().manual_seed(5))
        for _ in range(2)
    )
    assert torch.equal(a(torch.arange(60)), b(torch.arange(60)))


def test_padding_learns_nothing_and_is_zero():
    layer = TTEmbedding(table(), padding_idx=-1)
    assert layer.padding_idx == 59
    layer(torch.tensor([59, 59])).sum().backward()
    assert torch.equal(layer(torch.tensor([59])), torch.zeros(1, 12, dtype=torch.float64))
    assert all(float(core.grad.abs().max()) == 0 for core in layer.cores)


def test_state_dict_adopts_the_stored_ranks_and_keeps_the_parameters():
    a, b = TTEmbedding(table(rank=4)), TTEmbedding(table(1, rank=2))
    mine = list(b.cores)
    b.load_state_dict(a.state_dict())
    assert all(x is y for x, y in zip(mine, b.cores)) and b.weight.ranks == (4, 4)
    assert torch.equal(a(torch.arange(60)), b(torch.arange(60)))
    with pytest.raises(RuntimeError, match="size mismatch"):
        TTEmbedding(table(out=(5, 4, 3))).load_state_dict(a.state_dict())


def test_moves_with_its_module():
    layer = torch.nn.Sequential(TTEmbedding(table()))
    assert layer.to(torch.float32)(torch.tensor([1])).dtype == torch.float32
    assert len(list(layer.parameters())) == 3


def test_learns_a_table(generator):
    wanted = table(3, rank=2).to_dense()
    layer = TTEmbedding.randn(60, 12, OUT, IN, 3, std=0.5, generator=generator, dtype=torch.float64)
    optimizer, ids = torch.optim.Adam(layer.parameters(), lr=0.05), torch.arange(60)
    losses = []
    for _ in range(200):
        loss = (layer(ids) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]


def test_it_has_what_others_read_of_an_embedding():
    layer = TTEmbedding(table(size=(53, 11)), padding_idx=3)
    trains = TokenTrains.from_dense(torch.ones(5, 8), (2, 2, 2), rank=1)
    for module, sizes in ((layer, (53, 11)), (trains, (5, 8))):
        assert (module.num_embeddings, module.embedding_dim) == sizes
    dense = torch.nn.Embedding(53, 11, padding_idx=3)
    for name in ("padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse"):
        assert getattr(layer, name) == getattr(dense, name)


def test_autocast_leaves_the_dtype_of_a_look_up(device):
    dense = torch.nn.Embedding(60, 12, device=device)
    layer = TTEmbedding.from_embedding(dense, OUT, IN, rank=3)
    trains = TokenTrains.from_dense(dense.weight, (3, 4), rank=2)
    ids = torch.tensor([[3, 17], [59, 3]], device=device)
    for module in (layer, trains):
        want = module(ids)
        with torch.autocast(device.type, torch.bfloat16):
            got = module(ids)
            assert got.dtype == dense(ids).dtype == torch.float32 and torch.equal(got, want)
    h = torch.ones(2, 12, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        assert layer.head(h).dtype == functional.linear(h, dense.weight).dtype == torch.bfloat16


def test_empty_ids_and_an_empty_head():
    layer, none = TTEmbedding(table(), padding_idx=1), torch.zeros(0, 3, dtype=torch.long)
    layer(none).sum().backward()
    assert layer.head(torch.ones(0, 12, dtype=torch.float64)).shape == (0, 60)
    trains = TokenTrains.from_dense(torch.ones(5, 8), (2, 2, 2), rank=1)
    assert trains(none).shape == (0, 3, 8)


def test_token_trains_adopt_the_stored_ranks():
    g = torch.Generator().manual_seed(0)
    dense = torch.randn(5, 8, generator=g)
    a, b = (TokenTrains.from_dense(dense, (2, 2, 2), rank=r) for r in (2, 1))
    mine, ids = list(b.cores), torch.arange(5)
    b.load_state_dict(a.state_dict())
    assert all(x is y for x, y in zip(mine, b.cores)) and torch.equal(b(ids), a(ids))
    assert torch.equal(a.kept, b.kept) and b.numel == a.numel
    for other in (
        TokenTrains.from_dense(torch.ones(6, 8), (2, 2, 2), rank=2),
        TokenTrains.from_dense(torch.ones(5, 12), (2, 3, 2), rank=2),
    ):
        with pytest.raises(RuntimeError, match="size mismatch"):
            b.load_state_dict(other.state_dict())
        assert torch.equal(b(ids), a(ids))


# -- by hand


def test_by_hand():
    a = torch.tensor([[1.0], [2.0]]).reshape(1, 2, 1, 1)  # token digit 0: times 1, digit 1: times 2
    b = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]).reshape(1, 3, 2, 1)
    layer = TTEmbedding(TTMatrix((a, b)), padding_idx=0)
    assert layer(torch.tensor([0, 2, 4])).tolist() == [
        [0.0, 0.0],
        [5.0, 6.0],
        [6.0, 8.0],
    ]  # 4 = (1, 1)
    assert layer.head(torch.tensor([1.0, 1.0])).tolist() == [0.0, 7.0, 11.0, 6.0, 14.0, 22.0]


def test_empty():
    assert TTEmbedding(table())(torch.zeros(2, 0, dtype=torch.long)).shape == (2, 0, 12)


# -- a train for each token


@pytest.mark.parametrize("shape", [(12,), (3, 4), (2, 3, 2), (2, 2, 3, 1)], ids=str)
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.complex128, torch.bfloat16], ids=str
)
def test_token_trains_are_tt_svd_token_by_token(shape, dtype):
    e = tl.rng.randn(20, 12, generator=torch.Generator().manual_seed(0), dtype=dtype)
    for options in ({"rank": 2}, {"rtol": 0.3}, {"rtol": 0.0}):
        trains = TokenTrains.from_dense(e, shape, **options)
        got = trains(torch.arange(20))
        assert got.dtype == dtype
        numbers = 0
        for v, row in enumerate(e):
            tt = tl.tt_svd(row.reshape(shape), **options)
            error = relative_error(tt.to(tl.linalg.wide(dtype)).to_dense().flatten(), row)
            mine = relative_error(got[v], row)
            if (
                "rank" in options
            ):  # two modes cut alike; with more, each within sqrt(d - 1) of the best
                assert (
                    mine <= math.sqrt(max(1, len(shape) - 1)) * error + 16 * torch.finfo(dtype).eps
                )
            else:
                assert mine <= options["rtol"] + 64 * torch.finfo(dtype).eps
            r = (1, *trains.kept[v].tolist(), 1)
            numbers += sum(r[k] * n * r[k + 1] for k, n in enumerate(shape))
        assert trains.numel == numbers <= trains.padded


def test_token_trains_find_the_ranks_of_each_token():
    g = torch.Generator().manual_seed(0)
    rows = [
        tl.TT.randn((4, 4, 4), r, generator=g, dtype=torch.float64).to_dense().flatten()
        for r in (1, 3, 2)
    ]
    trains = TokenTrains.from_dense(
        torch.stack([*rows, torch.zeros(64, dtype=torch.float64)]), (4, 4, 4), rtol=1e-10
    )
    assert trains.kept.tolist() == [[1, 1], [3, 3], [2, 2], [1, 1]]
    assert trains.numel == sum(8 * r + 4 * r * r for r in (1, 3, 2, 1))


def test_token_trains_can_be_extended():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 8, generator=g), torch.randn(3, 8, generator=g)
    both = TokenTrains.from_dense(a, (2, 4), rank=1).extended(b, rank=2)
    assert torch.equal(
        both(torch.arange(5)), TokenTrains.from_dense(a, (2, 4), rank=1)(torch.arange(5))
    )
    assert (
        torch.allclose(both(torch.arange(5, 8)), b, atol=1e-5)
        and both.kept.flatten().tolist() == [1] * 5 + [2] * 3
    )
    again = TokenTrains.from_dense(torch.cat([a, b]), (2, 4), rank=2)
    again.load_state_dict(both.state_dict())
    assert torch.equal(again.kept, both.kept)


def test_xu_compression_by_hand():
    """A vector of 768 = 3 2^8 at rank 1 needs 3 + 8 * 2 numbers."""
    trains = TokenTrains.from_dense(torch.randn(4, 768), (3, *(2,) * 8), rank=1)
    assert trains.numel == 4 * 19


# -- says no


@pytest.mark.parametrize(
    "ids, error, said",
    [
        (torch.tensor([0, 60]), ValueError, "TTEmbedding: needs ids in 0..59, got 60"),
        (torch.tensor([[-1]]), ValueError, "got -1"),
        (torch.tensor([1.0]), TypeError, "integer ids, got torch.float32"),
        (torch.tensor([True]), TypeError, "got torch.bool"),
    ],
)
def test_says_no_to_ids(ids, error, said):
    with pytest.raises(error, match=said):
        TTEmbedding(table())(ids)
    with pytest.raises(error):
        TokenTrains.from_dense(torch.ones(60, 4), (2, 2), 1)(ids)


def test_ids_between_vocabulary_and_padding_are_out_of_range():
    with pytest.raises(ValueError, match=r"ids in 0\.\.52, got 53"):
        TTEmbedding(table(size=(53, 11)))(torch.tensor([53]))


def test_says_no():
    with pytest.raises(TypeError, match="needs a TTMatrix, got Tensor"):
        TTEmbedding(torch.ones(3, 3))
    with pytest.raises(ValueError, match=r"padding_idx must be an integer in -60\.\.59, got 60"):
        TTEmbedding(table(), padding_idx=60)
    with pytest.raises(TypeError, match="without max_norm, got one with max_norm"):
        TTEmbedding.from_embedding(torch.nn.Embedding(60, 12, max_norm=1.0), OUT, IN, 2)
    with pytest.raises(TypeError, match="got Linear"):
        TTEmbedding.from_embedding(torch.nn.Linear(60, 12), OUT, IN, 2)
    with pytest.raises(ValueError, match=r"\(\.\.\., 12\), got \(3, 11\)"):
        TTEmbedding(table()).head(torch.ones(3, 11).double())
    with pytest.raises(ValueError, match=r"\(vocabulary, 6\), got shape \(3, 8\)"):
        TokenTrains.from_dense(torch.ones(3, 8), (2, 3), 1)
    with pytest.raises(ValueError, match="rank"):
        TokenTrains.from_dense(torch.ones(3, 8), (2, 4))
