"""Layers in parts equal the whole ones, gradients too, and send what the formulas say."""

import pytest
import rank_jobs
import torch
from torch import distributed as dist

import tensorlab as tl
from tensorlab.parallel import cost, sharding

pytestmark = [
    pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo"),
    pytest.mark.xdist_group("ranks"),
]
ROWS, BYTES = 6, 8


def free(name):
    weight = rank_jobs.WEIGHTS[name](torch.Generator().manual_seed(0))
    return weight, *(sharding.widths(weight, split) for split in sharding.SPLITS)


@pytest.mark.parametrize("name", rank_jobs.WEIGHTS)
def test_a_pair_in_parts_is_the_whole_pair_wherever_it_is_summed(two, name):
    weight, up, down = free(name)
    numel = [t.numel() for t in weight.tensors()]
    for k in range(max(len(up), len(down))):
        at = list(up)[k % len(up)], list(down)[k % len(down)]
        for off, forward, backward, again in two.run(rank_jobs.split_in_two, name, *at):
            assert off < 1e-12 and again
            assert forward == [("all_reduce", ROWS * down[at[1]] * BYTES)]
            states = [size for _, size in backward]
            assert all(what == "all_reduce" for what, _ in backward)
            assert states.count(ROWS * up[at[0]] * BYTES) >= 1
            # besides, the gradients of tensors that are whole and work on parts
            order = [sharding.steps(weight, split) for split in sharding.SPLITS]
            cut = [sharding.cuts(weight, split) for split in sharding.SPLITS]
            partial = [numel[n] for n in order[0][at[0] :] if n not in cut[0]]
            partial += [numel[n] for n in order[1][: at[1]] if n not in cut[1]]
            sizes = [ROWS * up[at[0]], *partial]
            assert sorted(states) == sorted(BYTES * size for size in sizes)


def test_a_low_rank_pair_sends_r_of_what_a_dense_pair_sends(two):
    weight, up, down = free("LowRank")
    (off, forward, backward), _ = two.run(rank_jobs.dense_in_two)
    h, r = weight.shape[1], weight.ranks[0]
    dense = ("all_reduce", cost.split_bytes(ROWS, h, BYTES))
    assert off < 1e-11 and forward == [dense] and backward == [dense]
    for off, forward, backward, _ in two.run(rank_jobs.split_in_two, "LowRank", None, None):
        low = ("all_reduce", dense[1] * r // h)
        assert off < 1e-12 and forward == [low] and backward == [low]
    assert min(up.values()) == min(down.values()) == r


@pytest.mark.parametrize("name", ["BlockTT", "Monarch"])
def test_blocks_are_dealt_and_nothing_is_summed(two, name):
    weight, *_ = free(name)
    for off, mine, forward, backward in two.run(rank_jobs.dealt, name):
        assert off < 1e-12 and mine == (weight.numel + 64) // 2  # no tensor is whole anywhere
        states = ROWS * weight.in_[0] * weight.ranks[0] * weight.out[1] * BYTES
        assert forward == backward == [("all_to_all", states)]


def test_a_plan_for_a_model(two):
    assert max(two.run(rank_jobs.planned)) < 1e-12


# ---------------------------------------------------------------------------- what needs no process


def test_widths_by_hand():
    w = tl.LowRank.randn((12, 20), 3)
    assert sharding.widths(w, "column") == {0: 20, 1: 3}
    assert sharding.widths(w, "row") == {1: 3, 2: 12}
    w = tl.TTMatrix.randn(out=(4, 6), in_=(2, 10), rank=5)
    assert sharding.widths(w, "column") == {0: 20, 1: 2 * 5 * 6}  # x, then in_0 r out_1
    assert sharding.widths(w, "row") == {1: 4 * 5 * 10, 2: 24}  # out_0 r in_1, then y
    w = tl.BlockTT.randn((24, 20), 2, out=(4, 6), in_=(2, 10))
    assert sharding.widths(w, "column") == {0: 20, 1: 2 * 2 * 6}
    assert sharding.widths(w, "row") == {2: 24}  # its blocks along in_0 meet in the last core only


@pytest.mark.parametrize("name", rank_jobs.WEIGHTS)
@pytest.mark.parametrize("split", sharding.SPLITS)
def test_the_steps_are_the_product(name, split):
    weight = free(name)[0]
    x = rank_jobs.gaussian(5, 64)
    state = x
    for k in sharding.steps(weight, split):
        state = sharding.step(weight, k, weight.tensors()[k], state, split)
    assert torch.allclose(state, weight.apply(x), rtol=0, atol=1e-12 * float(state.norm()))


@pytest.mark.parametrize(
    "act, kind, said",
    [
        (lambda w: sharding.check_split("f", w, "row", 3), ValueError, "32, 64\\), got 3"),
        (lambda w: sharding.steps(w, "both"), ValueError, "got 'both'"),
        (lambda w: sharding.steps(tl.CP.randn((3, 4), 2), "row"), TypeError, "got CP"),
        (
            lambda w: sharding.steps(tl.TTMatrix.randn((7, 8), 2, out=(4, 2), in_=(4, 2)), "row"),
            ValueError,
            "without padding",
        ),
    ],
)
def test_what_is_refused(act, kind, said):
    with pytest.raises(kind, match=said):
        act(tl.LowRank.randn((8, 64), 2))


def test_rank_jobs_that_are_refused(two):
    with pytest.raises(
        RuntimeError, match="ValueError: ShardedLinear: needs a place of \\[0, 1\\]"
    ):
        two.run(rank_jobs.split_in_two, "LowRank", 2, None)
    with pytest.raises(RuntimeError, match="TypeError: DealtLinear: needs a BlockTT or Monarch"):
        two.run(rank_jobs.dealt, "BlockTT, three")
