"""Trains as distributions: against dense tensors, chains that are known on paper, chi-square, and
what other packages sum."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from tensors import gradcheck, shapes

import tensorlab as tl
from tensorlab.formats import tt_sampling

small = shapes.filter(lambda s: math.prod(s) <= 600)
both = pytest.mark.parametrize("squared", [False, True])


def positive(shape, rank=3, seed=0, dtype=torch.float64, device="cpu"):
    """A train of random cores without negative entries."""
    x = tl.TT.randn(
        shape, rank, generator=torch.Generator().manual_seed(seed), dtype=dtype, device=device
    )
    return tl.TT(tuple(core.abs() for core in x.cores))


def train(shape, squared, seed=0, dtype=torch.float64, device="cpu"):
    if not squared:
        return positive(shape, seed=seed, dtype=dtype, device=device)
    return tl.TT.randn(
        shape, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype, device=device
    )


def distribution(x, squared):
    """The dense distribution."""
    dense = x.to(tl.linalg.wide(x.dtype)).to_dense()
    p = dense.abs().square() if squared else dense
    return p / p.sum()


def everywhere(shape):
    """All multi-indices, (prod n, d)."""
    return torch.cartesian_prod(*[torch.arange(n) for n in shape]).reshape(-1, len(shape))


def markov(d, start, step, dtype=torch.float64):
    """The chain p(i) = start[i_0] step[i_0, i_1] ... as a train of rank n."""
    n = len(start)
    move = torch.diag_embed(step)  # (n, n, n): from a, to i, which is remembered as b = i
    cores = [(start * torch.eye(n).double())[None].mT, *[move] * (d - 2), step[:, :, None]]
    return tl.TT(tuple(core.to(dtype) for core in cores))


START = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
STEP = torch.tensor([[0.1, 0.6, 0.3], [0.0, 0.2, 0.8], [0.5, 0.25, 0.25]], dtype=torch.float64)


# -- reduces to: the dense tensor


@settings(max_examples=60, deadline=None, derandomize=True)
@given(shape=small, squared=st.booleans(), seed=st.integers(0, 99), data=st.data())
def test_agrees_with_the_dense_distribution(shape, squared, seed, data):
    x = train(shape, squared, seed)
    p = distribution(x, squared)
    log = tl.tt_log_prob(x, everywhere(shape), squared=squared)
    assert torch.allclose(log.exp(), p.flatten(), rtol=1e-10, atol=1e-14)
    assert float(log.exp().sum()) == pytest.approx(1, rel=1e-12)

    modes = data.draw(st.permutations(range(len(shape))))[: data.draw(st.integers(1, len(shape)))]
    rest = tuple(k for k in range(len(shape)) if k not in modes)
    wanted = (p.sum(rest) if rest else p).permute([sorted(modes).index(k) for k in modes])
    assert torch.allclose(tl.tt_marginal(x, modes, squared=squared), wanted, rtol=1e-10, atol=1e-14)

    given_ = {k: data.draw(st.integers(0, shape[k] - 1)) for k in modes[: len(shape) - 1]}
    slices = p[tuple(given_.get(k, slice(None)) for k in range(len(shape)))]
    y = tl.tt_condition(x, given_, squared=squared)
    got = y.to_dense().square() if squared else y.to_dense()
    assert y.shape == slices.shape and torch.allclose(
        got, slices / slices.sum(), rtol=1e-9, atol=1e-14
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=small, dtype=st.sampled_from([torch.float64, torch.complex128]), seed=st.integers(0, 99)
)
def test_weighted_sums_agree_with_the_dense_ones(shape, dtype, seed):
    g = torch.Generator().manual_seed(seed)
    x = tl.TT.randn(shape, 3, generator=g, dtype=dtype)
    dense, letters = x.to_dense(), "abcdef"[: len(shape)]
    close = lambda got, wanted, size: (
        abs(complex(got.sign * got.log.exp()) - complex(wanted)) <= 1e-11 * size
    )

    assert close(tl.tt_sum(x), dense.sum(), dense.abs().sum())
    w = [tl.rng.randn(n, generator=g, dtype=dtype) for n in shape]
    terms = torch.einsum(f"{letters},{','.join(letters)}->{letters}", dense, *w)
    assert close(tl.tt_sum(x, w), terms.sum(), terms.abs().sum())

    assert close(tl.tt_sum(x, squared=True), dense.abs().square().sum(), dense.norm() ** 2)
    grams = [(lambda a: a @ a.mH)(tl.rng.randn(n, n, generator=g, dtype=dtype)) for n in shape]
    moved = dense
    for k, gram in enumerate(grams):
        moved = tl.mode_product(moved, gram, k)
    wanted = torch.vdot(dense.flatten(), moved.flatten())
    assert close(tl.tt_sum(x, grams, squared=True), wanted, abs(wanted))
    heavy = [None, *(w[k].abs() for k in range(1, len(shape)))]
    wanted = torch.einsum(
        f"{letters},{','.join(letters)}->",
        dense.abs().square(),
        torch.ones(shape[0]).double(),
        *heavy[1:],
    )
    assert close(tl.tt_sum(x, heavy, squared=True), wanted, abs(wanted))


@both
def test_environments_are_the_tails(squared, generator):
    x = tl.TT.randn((3, 4, 2, 5), 3, generator=generator, dtype=torch.float64)
    w = [torch.rand(n, generator=generator, dtype=torch.float64) for n in x.shape]
    right, log = tl.tt_environments(x, w, squared=squared)
    assert len(right) == len(log) == 5
    for k in range(5):
        tail = torch.ones(1, 1, dtype=torch.float64)
        for core, weight in zip(x.cores[: k - 5 : -1], w[::-1]):
            weighed = core * (weight.sqrt() if squared else weight)[:, None]
            tail = torch.tensordot(weighed, tail, 1).flatten(1)
        assert 0.5 <= float(right[k].abs().max()) <= 1
        if squared:
            assert torch.allclose(
                right[k] @ right[k].mT * (2 * log[k]).exp(), tail @ tail.mT, rtol=1e-11
            )
        else:
            assert torch.allclose(right[k] * log[k].exp(), tail.sum(1), rtol=1e-11)


def test_batched_weights_are_entries_and_functions(generator):
    x = tl.TT.randn((3, 4, 5), 3, generator=generator, dtype=torch.float64)
    index = everywhere(x.shape)
    hot = [torch.nn.functional.one_hot(i, n).double() for i, n in zip(index.T, x.shape)]
    sign, log = tl.tt_sum(x, hot)
    assert torch.allclose(sign * log.exp(), x.to_dense().flatten(), rtol=1e-12)
    w = torch.rand(7, 4, generator=generator, dtype=torch.float64)
    sign, log = tl.tt_sum(x, [None, w, None])
    assert torch.allclose(sign * log.exp(), torch.einsum("abc,kb->k", x.to_dense(), w), rtol=1e-12)


# -- reduces to: other packages


@pytest.mark.parametrize("shape", [(7,), (3, 4), (4, 3, 5, 2)])
def test_sums_agree_with_other_packages(shape, generator):
    x = tl.TT.randn(shape, 3, generator=generator, dtype=torch.float64)
    sign, log = tl.tt_sum(x)
    value, numpy = float(sign * log.exp()), [core.numpy() for core in x.cores]
    teneva, torchtt = (
        pytest.importorskip("teneva"),
        pytest.importorskip("torchtt", reason="needs the bench extra"),
    )
    assert value == pytest.approx(float(teneva.sum(numpy)), rel=1e-11)
    assert value == pytest.approx(float(torchtt.TT(list(x.cores)).sum()), rel=1e-11)
    weights = [torch.rand(n, generator=generator, dtype=torch.float64) for n in shape]
    sign, log = tl.tt_sum(x, weights)
    assert float(sign * log.exp()) == pytest.approx(
        float(teneva.mean(numpy, [w.numpy() for w in weights])), rel=1e-11
    )
    theirs = pytest.importorskip("tntorch").sum(tl.to_tntorch(x))
    sign, log = tl.tt_sum(x)
    assert float(sign * log.exp()) == pytest.approx(float(theirs), rel=1e-11)


@pytest.mark.parametrize("package", ["teneva", "tntorch"])
def test_samples_of_other_packages_follow_our_marginals(package):
    x = positive((3, 4, 2, 3), seed=5)
    theirs = pytest.importorskip(package)
    if package == "teneva":
        index = theirs.sample([core.numpy() for core in x.cores], 20_000, seed=0)
    else:
        index = theirs.sample(tl.to_tntorch(x.to(torch.float32)), 20_000, seed=0)
    index = torch.as_tensor(np.asarray(index), dtype=torch.int64)
    assert fits(index, distribution(x, False)) > 1e-3
    assert fits(index[:, [3, 1]], tl.tt_marginal(x, (3, 1))) > 1e-3


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
def test_probabilities_of_a_born_machine_are_those_of_quimb():
    qtn = pytest.importorskip("quimb.tensor")
    x = train((3, 4, 2, 3), True, seed=5)
    first, *inner, last = (core.numpy() for core in x.cores)
    state = qtn.MatrixProductState([first[0], *inner, last[..., 0]], shape="lpr")
    state /= state.norm()
    index, theirs = zip(*state.sample(200, seed=0))
    index = torch.tensor([list(map(int, i)) for i in index])
    assert torch.allclose(
        tl.tt_log_prob(x, index, squared=True).exp(),
        torch.tensor(theirs, dtype=torch.float64),
        rtol=1e-10,
    )


# -- samples


def fits(index, p):
    """The p-value of the chi-square test that these indices are drawn from the dense distribution
    p."""
    flat = torch.as_tensor(np.ravel_multi_index(index.T.numpy(), p.shape))
    counts, expected = torch.bincount(flat, minlength=p.numel()).double(), p.flatten() * len(index)
    assert not counts[expected == 0].any()
    rare = expected < 10  # cells too thin for the test are one cell
    seen, wanted = ([*a[~rare].tolist(), float(a[rare].sum())] for a in (counts, expected))
    keep = [w > 0 for w in wanted]
    return chisquare(np.array(seen)[keep], np.array(wanted)[keep]).pvalue


@both
@pytest.mark.parametrize("shape", [(5,), (3, 4), (4, 1, 2, 3, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128], ids=str)
def test_samples_pass_a_chi_square_test(shape, squared, dtype, device):
    if dtype.is_complex and not squared:
        with pytest.raises(TypeError, match="got torch.complex128"):
            tl.tt_sample(tl.TT.randn(shape, 2, dtype=dtype, device=device), 3)
        return
    x = train(shape, squared, seed=3, dtype=dtype, device=device)
    i = tl.tt_sample(x, 20_000, squared=squared, generator=torch.Generator().manual_seed(0))
    assert (
        i.shape == (20_000, len(shape)) and i.dtype == torch.int64 and i.device.type == device.type
    )
    p = distribution(x, squared).cpu()
    assert fits(i.cpu(), p) > 1e-3
    assert (
        fits(i.cpu(), (p + 0.1 / p.numel()) / 1.1) < 1e-3
    )  # and the test would tell another distribution
    log = tl.tt_log_prob(x, i, squared=squared).cpu()
    wanted = p[tuple(i.cpu().T)].log()
    assert log.dtype == dtype.to_real() and torch.allclose(
        log.double(), wanted, rtol=0, atol=200 * torch.finfo(dtype).eps
    )


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_keeps_its_dtype_and_its_digits(dtype, squared):
    x = train((3, 4, 2), squared, dtype=dtype)
    p, eps = distribution(x, squared), torch.finfo(dtype).eps
    log = tl.tt_log_prob(x, everywhere(x.shape), squared=squared)
    assert log.dtype == dtype and torch.allclose(
        log.double(), p.flatten().log(), rtol=eps, atol=eps
    )
    pair = tl.tt_marginal(x, (0, 2), squared=squared)
    assert pair.dtype == dtype and torch.allclose(pair.double(), p.sum(1), rtol=eps)
    y = tl.tt_condition(x, {1: 0}, squared=squared)
    total = y.to(torch.float64)
    assert y.dtype == dtype and float(tl.tt_sum(total, squared=squared).log.exp()) == pytest.approx(
        1, rel=8 * eps
    )
    assert (
        fits(tl.tt_sample(x, 5000, squared=squared, generator=torch.Generator().manual_seed(0)), p)
        > 1e-3
    )


@both
def test_same_seed_same_samples(squared, monkeypatch):
    x = train((3, 4, 5, 2), squared)
    draw = lambda seed: tl.tt_sample(
        x, 500, squared=squared, generator=torch.Generator().manual_seed(seed)
    )
    first = draw(0)
    assert torch.equal(draw(0), first) and not torch.equal(draw(1), first)
    monkeypatch.setattr(tt_sampling, "BLOCK", 64)  # a few samples at a time
    assert torch.equal(draw(0), first)


@pytest.mark.parametrize("u", [0.0, float(np.nextafter(1.0, 0.0))])
@both
def test_an_index_of_probability_zero_is_never_drawn(u, squared, monkeypatch):
    monkeypatch.setattr(
        tt_sampling, "rand", lambda n, **_: torch.full((n,), u, dtype=torch.float64)
    )
    g = torch.Generator().manual_seed(0)
    for _ in range(200):  # many roundings of the last sum
        core = torch.rand(1, 9, 1, generator=g, dtype=torch.float64)
        core[:, [0, 1, 7, 8]] = 0
        i = tl.tt_sample(tl.TT([core] * 2), 3, squared=squared)
        assert (i == (2 if u == 0 else 6)).all()


def test_conditioned_samples_are_samples_of_the_condition():
    x = positive((3, 4, 2, 3), seed=1)
    p = distribution(x, False)[:, 2, :, 1]
    i = tl.tt_sample(
        tl.tt_condition(x, {1: 2, 3: 1}), 20_000, generator=torch.Generator().manual_seed(0)
    )
    assert fits(i, p / p.sum()) > 1e-3


# -- a thousand modes


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_product_of_a_thousand(dtype, device):
    d, n = 1000, 5000
    g = torch.Generator().manual_seed(0)
    p = torch.rand(d, 3, generator=g, dtype=torch.float64)
    p = p / p.sum(1, keepdim=True)
    scale = torch.randint(-30, 30, (d, 1), generator=g).double()
    x = tl.TT([(row * 10.0**s)[None, :, None].to(dtype) for row, s in zip(p, scale)]).to(device)
    eps = torch.finfo(dtype).eps
    sign, log = tl.tt_sum(x)
    wanted = float(scale.sum()) * math.log(10)
    assert sign == 1 and float(log) == pytest.approx(wanted, rel=4 * eps, abs=d * eps)
    i = tl.tt_sample(x, n, generator=g).cpu()
    for k in range(3):
        frequency, sigma = (i == k).double().mean(0), (p[:, k] * (1 - p[:, k]) / n).sqrt()
        assert ((frequency - p[:, k]) / sigma).square().mean() < 1.2 and (
            (frequency - p[:, k]).abs() < 5 * sigma
        ).all()
    wanted = p[torch.arange(d), i].log().sum(1)
    assert torch.allclose(tl.tt_log_prob(x, i).cpu().double(), wanted, rtol=4 * eps, atol=d * eps)
    assert torch.allclose(tl.tt_marginal(x, 999).cpu().double(), p[999], atol=8 * eps)


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@both
def test_a_markov_chain_of_a_thousand(dtype, squared, device):
    d, n, eps = 1000, 2000, torch.finfo(dtype).eps
    x = markov(d, START, STEP, dtype).to(device)
    if squared:  # |x|^2 is the chain when x holds its roots
        x = tl.TT([core.sqrt() for core in x.cores])
    i = tl.tt_sample(x, n, squared=squared, generator=torch.Generator().manual_seed(0)).cpu()
    pairs = torch.bincount((3 * i[:, :-1] + i[:, 1:]).flatten(), minlength=9).reshape(3, 3).double()
    visits = pairs.sum(1, keepdim=True)
    sigma = (STEP * (1 - STEP) / visits).sqrt()
    assert pairs[1, 0] == 0 and ((pairs / visits - STEP).abs() <= 4 * sigma).all()
    first = torch.bincount(i[:, 0], minlength=3) / n
    assert ((first - START).abs() <= 4 * (START * (1 - START) / n).sqrt()).all()

    log = START[i[:, 0]].log() + STEP[i[:, :-1], i[:, 1:]].log().sum(1)
    assert torch.allclose(
        tl.tt_log_prob(x, i, squared=squared).cpu().double(), log, rtol=4 * eps, atol=d * eps
    )
    forbidden = i.clone()
    forbidden[:, 500:502] = torch.tensor([1, 0])
    assert (tl.tt_log_prob(x, forbidden, squared=squared) == -math.inf).all()

    powers = START @ torch.linalg.matrix_power(STEP, 499)
    joint = powers[:, None] * torch.linalg.matrix_power(STEP, 2)
    assert torch.allclose(
        tl.tt_marginal(x, (501, 499), squared=squared).cpu().double(), joint.T, atol=50 * eps
    )
    y = tl.tt_condition(x, {k: int(i[0, k]) for k in range(d) if k != 500}, squared=squared)
    middle = STEP[i[0, 499]] * STEP[:, i[0, 501]]
    got = y.to_dense().square() if squared else y.to_dense()
    assert torch.allclose(got.cpu().double(), middle / middle.sum(), atol=50 * eps)


@pytest.mark.thorough
@both
def test_random_cores_of_a_thousand_in_float32(squared):
    x = train((2,) * 1000, squared, dtype=torch.float32)
    x = tl.TT(tuple(core * 1e-20 for core in x.cores))  # the sum is about 1e-20000
    i = tl.tt_sample(x, 20, squared=squared, generator=torch.Generator().manual_seed(0))
    log = tl.tt_log_prob(x, i, squared=squared)
    wide = tl.tt_log_prob(x.to(torch.float64), i, squared=squared)
    assert torch.isfinite(log).all() and torch.allclose(log.double(), wide, rtol=1e-6)


# -- is invariant


@both
@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e-250, 1e250])
def test_the_scale_is_not_seen(scale, squared):
    x = train((3, 4, 5), squared)
    y = tl.TT(tuple(core * scale for core in x.cores))
    index = everywhere(x.shape)
    assert torch.allclose(
        tl.tt_log_prob(y, index, squared=squared),
        tl.tt_log_prob(x, index, squared=squared),
        atol=1e-12,
    )
    assert torch.allclose(
        tl.tt_marginal(y, (2, 0), squared=squared),
        tl.tt_marginal(x, (2, 0), squared=squared),
        rtol=1e-12,
    )
    draw = lambda x: tl.tt_sample(
        x, 50, squared=squared, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(draw(y), draw(x))
    gap = (2 if squared else 1) * 3 * math.log(scale)
    assert float(
        tl.tt_sum(y, squared=squared).log - tl.tt_sum(x, squared=squared).log
    ) == pytest.approx(gap, rel=1e-12)


@both
@pytest.mark.parametrize("scale", [2.0**600, 2.0**-600])
def test_a_multiple_has_the_same_numbers(scale, squared):
    x = train((3, 4, 5), squared)
    y = tl.TT((x.cores[0], x.cores[1] * scale, x.cores[2]))
    index, g = everywhere(x.shape), lambda: torch.Generator().manual_seed(0)
    logs = (tl.tt_log_prob(z, index, squared=squared) for z in (x, y))
    size = 2 * 600 * math.log(2)  # of two logarithms whose difference it is
    assert torch.allclose(*logs, rtol=0, atol=4 * size * torch.finfo(torch.float64).eps)
    for f in (
        lambda z: tl.tt_marginal(z, (2, 0), squared=squared),
        lambda z: tl.tt_condition(z, {1: 2}, squared=squared).to_dense(),
        lambda z: tl.tt_sample(z, 50, squared=squared, generator=g()),
        lambda z: tl.tt_environments(z, squared=squared).right[1],
    ):
        assert torch.equal(f(y), f(x))
    w = [torch.full((n,), 2.0**500, dtype=torch.float64) for n in x.shape]
    one, other = (tl.tt_sum(z, v, squared=squared) for z, v in ((x, None), (y, w)))
    gap = (1 + squared) * math.log(scale) + 1500 * math.log(2)
    assert other.sign == one.sign and float(other.log - one.log) == pytest.approx(gap, rel=1e-14)


@pytest.mark.parametrize("squared", [False, True])
def test_weights_of_another_dtype_are_promoted(squared):
    """A real train with complex weights has complex sums, one of float32 with those of float64 has
    float64; numbers without a dtype take the train's, with all their digits."""
    x = train((3, 4), squared)
    g = torch.Generator().manual_seed(1)
    w = tl.rng.randn(3, generator=g, dtype=torch.complex128)
    gram = torch.outer(w, w.conj()) + torch.eye(3)
    dense = x.to_dense()
    value = lambda s: complex(s.sign * s.log.exp())
    if squared:
        got = tl.tt_sum(x, [gram, None], squared=True)
        wanted = torch.einsum("ia,ja,ji->", dense + 0j, dense + 0j, gram)
    else:
        got = tl.tt_sum(x, [w, None])
        wanted = (dense * w[:, None]).sum()
    assert got.sign.dtype == torch.complex128 and got.log.dtype == torch.float64
    assert value(got) == pytest.approx(complex(wanted), rel=1e-13)
    right, _ = tl.tt_environments(x, [None, torch.ones(4) + 0j], squared=squared)
    assert all(r.dtype == torch.complex128 for r in right)
    single = x.to(torch.float32)
    assert tl.tt_sum(single, [torch.ones(3).double(), None], squared=squared).log.dtype == (
        torch.float64
    )
    assert tl.tt_sum(single, [[1, 1, 1], None], squared=squared).log.dtype == torch.float32
    tenth = tl.tt_sum(x, [[0.1] * 3, None], squared=squared).log - tl.tt_sum(x, squared=squared).log
    assert float(tenth) == pytest.approx(math.log(0.1), rel=1e-14)
    counts = tl.tt_sum(x, [torch.ones(3, dtype=torch.int64), None], squared=squared)
    assert torch.equal(counts.log, tl.tt_sum(x, squared=squared).log)


@both
def test_numbers_of_numpy_and_any_integer_dtype(squared):
    x = train((3, 4), squared)
    p = tl.tt_marginal(x, 1, squared=squared)
    assert torch.equal(tl.tt_marginal(x, np.int64(1), squared=squared), p)
    assert torch.equal(tl.tt_marginal(x, np.array([1]), squared=squared), p)
    y = tl.tt_condition(x, {np.int64(0): np.uint8(2)}, squared=squared)
    assert torch.equal(y.to_dense(), tl.tt_condition(x, {0: 2}, squared=squared).to_dense())
    assert tl.tt_sample(x, np.int64(5), squared=squared).shape == (5, 2)
    log = tl.tt_log_prob(x, [[2, 3]], squared=squared)
    for dtype in (torch.uint8, torch.int16, torch.uint16, torch.uint64):
        index = torch.tensor([[2, 3]], dtype=dtype)
        assert torch.equal(tl.tt_log_prob(x, index, squared=squared), log)


@both
def test_a_default_device_that_is_not_the_datas(squared):
    x, g = train((3, 4, 5), squared), lambda: torch.Generator().manual_seed(0)
    calls = [
        lambda: tl.tt_sample(x, 9, squared=squared, generator=g()),
        lambda: tl.tt_log_prob(x, [[0, 1, 2]], squared=squared),
        lambda: tl.tt_marginal(x, (2, 0), squared=squared),
        lambda: tl.tt_condition(x, {1: 0}, squared=squared).to_dense(),
        lambda: tl.tt_sum(x, [None, [1.0, 2.0, 3.0, 4.0], None], squared=squared).log,
        lambda: tl.tt_environments(x, squared=squared).log[0],
    ]
    for call in calls:
        wanted = call()
        with torch.device("meta"):
            got = call()
        assert torch.equal(got, wanted)
    with torch.device("meta"):
        assert tl.tt_sample(x, 9, squared=squared).device.type == "cpu"


@both
@pytest.mark.parametrize("shape", [(1,), (4,), (1, 1, 1), (3, 1, 2)])
def test_one_mode_and_modes_of_one(shape, squared):
    x = train(shape, squared)
    p = distribution(x, squared)
    log = tl.tt_log_prob(x, everywhere(shape), squared=squared)
    assert torch.allclose(log.exp(), p.flatten(), rtol=1e-12)
    assert torch.allclose(tl.tt_marginal(x, 0, squared=squared), p.reshape(shape[0], -1).sum(1))
    assert tl.tt_sample(x, 7, squared=squared).shape == (7, len(shape))


@both
def test_reversing_the_modes_reverses_everything(squared):
    x = train((3, 4, 5, 2), squared)
    y = tl.TT(tuple(core.permute(2, 1, 0) for core in x.cores[::-1]))
    index = everywhere(x.shape)
    log = tl.tt_log_prob(x, index, squared=squared)
    assert torch.allclose(tl.tt_log_prob(y, index.flip(1), squared=squared), log, atol=1e-12)
    assert torch.allclose(
        tl.tt_marginal(y, (0, 2), squared=squared),
        tl.tt_marginal(x, (3, 1), squared=squared),
        rtol=1e-12,
    )


@both
def test_the_gauge_is_not_seen(squared):
    x = train((3, 4, 5, 2), squared)
    y = x.orthogonal(2)  # a train with signs in its cores, and the same entries
    assert squared or any((core < 0).any() for core in y.cores)
    draw = lambda x: tl.tt_sample(
        x, 2000, squared=squared, generator=torch.Generator().manual_seed(0)
    )
    assert (draw(y) == draw(x)).all(1).double().mean() > 0.999
    index = everywhere(x.shape)
    gap = tl.tt_log_prob(y, index, squared=squared) - tl.tt_log_prob(x, index, squared=squared)
    assert float(gap.abs().max()) < 1e-9


def test_squared_keeps_its_digits_for_a_small_difference(generator):
    """x = 2^-20 y, as a difference of two trains: rounding of a few eps |y| is 2^20 times as large
    beside x. What squares numbers first, as <x, x> from Gram matrices, has lost 2^40 eps = 2e-4."""
    y = tl.TT.randn((3, 4, 5), 2, generator=generator, dtype=torch.float64)
    first, *rest = y.cores
    x = tl.TT((first * (1 + 2.0**-20), *rest)) - y
    tol = 100 * 2.0**20 * torch.finfo(torch.float64).eps  # 2e-8: d cores of r n = 10 rows, twice
    pair, wanted = (tl.tt_marginal(z, (0, 2), squared=True) for z in (x, y))
    assert torch.allclose(pair, wanted, rtol=tol, atol=tol * float(wanted.max()))
    gap = tl.tt_sum(x, squared=True).log - tl.tt_sum(y, squared=True).log
    assert float(gap) == pytest.approx(-40 * math.log(2), abs=tol)


# -- by hand


def test_by_hand():
    # p(a, b) = [[1, 2], [3, 4]] / 10 as a train of rank 2
    table = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    x = tl.TT([torch.eye(2).double()[None], table[:, :, None]])
    assert tl.tt_log_prob(x, [[0, 0], [1, -1]]).exp().tolist() == pytest.approx([0.1, 0.4])
    assert tl.tt_log_prob(x, [[0, 0], [1, 1]], squared=True).exp().tolist() == pytest.approx(
        [1 / 30, 16 / 30]
    )
    assert tl.tt_marginal(x, 0).tolist() == pytest.approx([0.3, 0.7])
    assert tl.tt_marginal(x, [1], squared=True).tolist() == pytest.approx([10 / 30, 20 / 30])
    assert tl.tt_condition(x, {0: 1}).to_dense().tolist() == pytest.approx([3 / 7, 4 / 7])
    sign, log = tl.tt_sum(x, [None, [1.0, -1.0]])
    assert sign == -1 and float(log) == pytest.approx(math.log(2))


def test_a_born_machine_of_a_singlet():
    # (|01> - |10>) / sqrt 2: no train without signs has it, and its two halves never agree
    x = tl.TT(
        [torch.eye(2).double()[None], torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).double()[:, :, None]]
    )
    i = tl.tt_sample(x, 1000, squared=True, generator=torch.Generator().manual_seed(0))
    assert (i.sum(1) == 1).all() and abs(
        float(i[:, 0].double().mean()) - 0.5
    ) < 4 * 0.5 / math.sqrt(1000)
    assert tl.tt_marginal(x, (0, 1), squared=True).tolist() == [
        [0, pytest.approx(0.5)],
        [pytest.approx(0.5), 0],
    ]


# -- gradients


@pytest.mark.thorough
@both
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_gradients_are_right(squared, dtype):
    if dtype.is_complex and not squared:
        dtype = torch.float64
    x = train((3, 2, 4), squared, seed=2, dtype=dtype)
    leaves = [core.clone().requires_grad_() for core in x.cores]
    index = everywhere(x.shape)[::3]
    grams = (
        [torch.eye(n).double() + 0.1 for n in x.shape]
        if squared
        else [torch.rand(n).double() for n in x.shape]
    )
    for f in (
        lambda x: tl.tt_log_prob(x, index, squared=squared),
        lambda x: tl.tt_marginal(x, (2, 0), squared=squared),
        lambda x: tl.tt_sum(x, grams, squared=squared).log,
        lambda x: tl.tt_condition(x, {1: 1}, squared=squared).to_dense().abs(),
    ):
        assert gradcheck(lambda *cores, f=f: f(tl.TT(cores)), leaves)


def test_zeros_do_not_spoil_the_gradient_of_others():
    core = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64).reshape(1, 3, 1).requires_grad_()
    log = tl.tt_log_prob(tl.TT([core, core]), [[0, 1], [1, 2]])
    assert log[0] == -math.inf
    log[1].backward()
    assert core.grad.flatten().tolist() == pytest.approx([-2 / 4, 1 - 2 / 4, 1 / 3 - 2 / 4])


def test_learning_finds_the_distribution_of_the_data():
    data = tl.tt_sample(
        positive((3, 3, 3), rank=2, seed=4), 2000, generator=torch.Generator().manual_seed(0)
    )
    cores = [core.clone().requires_grad_() for core in train((3, 3, 3), True, seed=1).cores]
    optimizer = torch.optim.Adam(cores, lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        loss = -tl.tt_log_prob(tl.TT(cores), data, squared=True).mean()
        loss.backward()
        optimizer.step()
    counts = torch.bincount(data @ torch.tensor([9, 3, 1]), minlength=27).double()
    entropy = float(-(counts / 2000 * (counts / 2000).clamp_min(1e-300).log()).sum())
    assert entropy <= float(loss.detach()) < entropy + 0.01


# -- negative trains


def test_zeros_with_rounding_are_zeros():
    p = torch.zeros(4, 4, 4, 4, dtype=torch.float64)
    p[torch.arange(4), torch.arange(4), torch.arange(4), torch.arange(4)] = torch.tensor(
        [0.1, 0.2, 0.3, 0.4]
    ).double()
    g = torch.Generator().manual_seed(0)
    for k in range(
        4
    ):  # mixed by stochastic matrices with zeros, where the cores of the SVD have noise
        step = torch.rand(4, 4, generator=g, dtype=torch.float64) * (
            torch.rand(4, 4, generator=g) < 0.6
        )
        p = tl.mode_product(p, step, k)
    x = tl.tt_svd(p, rtol=1e-14)
    assert (x.to_dense() < 0).any()  # by rounding
    log = tl.tt_log_prob(x, everywhere(p.shape))
    assert torch.allclose(log.exp(), (p / p.sum()).flatten(), atol=1e-14)
    assert fits(tl.tt_sample(x, 20_000, generator=g), p / p.sum()) > 1e-3
    assert (tl.tt_marginal(x, (0, 3)) >= 0).all()


def test_a_negative_conditional_is_named():
    x = tl.TT(
        [torch.eye(2).double()[None], torch.tensor([[1.0, 1.0], [3.0, -1.0]]).double()[:, :, None]]
    )
    with pytest.raises(
        ValueError, match=r"conditional of mode 1 .*after the indices \(1\)"
    ) as caught:
        tl.tt_sample(x, 100, generator=torch.Generator().manual_seed(0))
    assert str(caught.value).startswith(
        "tt_sample: needs a train without negative entries or squared=True"
    )
    with pytest.raises(ValueError, match="got a negative one in row 2"):
        tl.tt_log_prob(x, [[0, 0], [1, 0], [1, 1], [1, 1]])
    assert tl.tt_log_prob(x, [[1, 1]], squared=True).exp().tolist() == pytest.approx([1 / 12])
    with pytest.raises(ValueError, match=r"negative marginal of \[0, 1\]"):
        tl.tt_marginal(x, (0, 1))
    with pytest.raises(ValueError, match=r"got less for \{1: 1, 0: 1\}"):
        tl.tt_condition(tl.TT([*x.cores, torch.ones(1, 2, 1).double()]), {1: 1, 0: 1})


@pytest.mark.parametrize("d", [3, 30, 300])
def test_a_negative_entry_is_told_from_rounding_at_any_length(d, generator):
    x = tl.TT.randn((2,) * d, 3, generator=generator, dtype=torch.float64)
    x = x * float(tl.tt_sum(x).sign)
    index = torch.randint(0, 2, (40, d), generator=generator)
    scaled = tl.TT(tuple(core * 1.5 for core in x.cores))
    negative = (scaled.at(index) < 0).nonzero()[:, 0]
    with pytest.raises(ValueError, match=f"in row {int(negative[0])}"):
        tl.tt_log_prob(x, index)
    kept = (scaled.at(index) > 0).nonzero()[:, 0]
    assert torch.isfinite(tl.tt_log_prob(x, index[kept])).all()
    with pytest.raises(ValueError, match="tt_sample: needs a train without negative entries"):
        tl.tt_sample(x, 1000, generator=generator)


# -- errors

ONES = tl.TT([torch.ones(1, 2, 1), torch.ones(1, 3, 1)])
HALF = tl.TT([torch.tensor([[[0.0], [1.0]]]), torch.ones(1, 3, 1)])


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: tl.tt_sample(torch.ones(3), 2), TypeError, "tt_sample: needs a TT, got Tensor"),
        (lambda: tl.tt_sample(ONES, 0), ValueError, ">= 1, got 0"),
        (lambda: tl.tt_sample(ONES, 2.0), ValueError, "got 2.0"),
        (lambda: tl.tt_sample(ONES, True), ValueError, "got True"),
        (lambda: tl.tt_sample(ONES * 0, 2), ValueError, "a positive sum, got zero"),
        (
            lambda: tl.tt_sample(ONES * 0, 2, squared=True),
            ValueError,
            "a train that is not zero, got zero",
        ),
        (lambda: tl.tt_sample(-ONES, 2), ValueError, "a positive sum, got a negative one"),
        (lambda: tl.tt_log_prob(ONES * 0, [[0, 0]]), ValueError, "tt_log_prob: .*got zero"),
        (lambda: tl.tt_log_prob(-ONES, [[0, 0]]), ValueError, "tt_log_prob: .*got a negative one"),
        (lambda: tl.tt_log_prob(ONES, [[0, 3]]), ValueError, "got 3 in row 0"),
        (lambda: tl.tt_log_prob(ONES, [0, 1]), ValueError, r"\(batch, 2\)"),
        (lambda: tl.tt_marginal(ONES, (0, 0)), ValueError, r"different modes.*got \[0, 0\]"),
        (lambda: tl.tt_marginal(ONES, ()), ValueError, r"got \[\]"),
        (lambda: tl.tt_marginal(ONES, 2), ValueError, r"0..1, got \[2\]"),
        (lambda: tl.tt_marginal(ONES, (0, 1.0)), ValueError, "1.0"),
        (lambda: tl.tt_marginal(ONES, -1), ValueError, r"got \[-1\]"),
        (lambda: tl.tt_condition(ONES, {0: 0, 1: 0}), ValueError, "got all 2 given"),
        (lambda: tl.tt_condition(ONES, {1: 3}), ValueError, "mode 1 has indices in 0..2, got 3"),
        (lambda: tl.tt_condition(ONES, {1: 0.5}), ValueError, "got 0.5"),
        (lambda: tl.tt_condition(ONES, {4: 0}), ValueError, r"got \[4\]"),
        (lambda: tl.tt_condition(ONES, [(0, 1)]), TypeError, "a dict from mode to index, got list"),
        (lambda: tl.tt_condition(HALF, {0: 0}), ValueError, "got zero for {0: 0}"),
        (lambda: tl.tt_sum(ONES, [None]), ValueError, "needs 2 weights, one for each mode, got 1"),
        (
            lambda: tl.tt_sum(ONES, [None, torch.ones(4)]),
            ValueError,
            r"\(3,\) or \(batch, 3\) for mode 1, got \(4,\)",
        ),
        (
            lambda: tl.tt_sum(ONES, [torch.ones(5, 2), None], squared=True),
            ValueError,
            r"\(2, 2\) for mode 0, got \(5, 2\)",
        ),
        (
            lambda: tl.tt_sum(ONES, [-torch.eye(2), None], squared=True),
            ValueError,
            "positive semidefinite matrix for mode 0",
        ),
        (
            lambda: tl.tt_sum(ONES, [torch.ones(2), -torch.ones(3)], squared=True),
            ValueError,
            "for mode 1",
        ),
        (
            lambda: tl.tt_sum(ONES, [torch.ones(2, 2).tril(), None], squared=True),
            ValueError,
            "positive semidefinite",
        ),
        (
            lambda: tl.tt_sum(ONES, [torch.ones(2, device="meta"), None]),
            ValueError,
            "weights on cpu, got one on meta for mode 0",
        ),
        (
            lambda: tl.tt_sum(ONES, [1e-20 * torch.ones(2, 2).tril(), None], squared=True),
            ValueError,
            "positive semidefinite",
        ),
        (lambda: tl.tt_sample(ONES, 2, generator=0), TypeError, "torch.Generator or None .*got 0"),
        (lambda: tl.tt_marginal(ONES, True), ValueError, r"got \[True\]"),
        (lambda: tl.tt_sum(ONES, [torch.full((2,), math.nan), None]), ValueError, "weight 0.*nan"),
        (
            lambda: tl.tt_sample(tl.TT([torch.full((1, 3, 1), math.nan)]), 1),
            ValueError,
            "tt_sample: core 0.*nan",
        ),
        (
            lambda: tl.tt_log_prob(tl.TT([torch.full((1, 3, 1), math.inf)]), [[0]]),
            ValueError,
            "tt_log_prob: core 0.*inf",
        ),
        (lambda: tl.tt_environments("x"), TypeError, "tt_environments: needs a TT, got str"),
    ],
)
def test_refuses_bad_input(make, error, said):
    with pytest.raises(error, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)
