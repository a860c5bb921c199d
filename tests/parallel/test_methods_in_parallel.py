"""Matrix methods under data parallel training send small factors, and all ranks keep one rank."""

import pytest
import rank_jobs
from torch import distributed as dist

pytestmark = [
    pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo"),
    pytest.mark.xdist_group("ranks"),
]


def test_dlrt_sends_its_factors_and_decides_one_rank(two):
    (ranks, before, shapes, rest, seen), (others, *_) = two.run(rank_jobs.dlrt)
    assert ranks == others and min(ranks[-1].values()) > 3  # they change, and together
    k_and_l = sum(r * sum(shape) for r, shape in zip(before, shapes))
    s = sum(min(2 * r, *shape) ** 2 for r, shape in zip(before, shapes))
    numbers = {8 * k_and_l, 8 * (s + rest)}
    big = {size for _, size in seen if size > 64}  # the others are flags, one for each tensor
    assert big == numbers
    assert sum(numbers) < 8 * sum(m * n for m, n in shapes)


def test_power_sgd_sends_two_thin_factors(two):
    (dense, before), _ = two.run(rank_jobs.power_sgd, 0)
    for rank in (1, 2):
        (sent, losses), (_, others) = two.run(rank_jobs.power_sgd, rank)
        shapes = [(24, 16), (24, 24), (1, 24)]
        thin = sum(min(rank * sum(shape), shape[0] * shape[1]) for shape in shapes)
        biases = 24 + 24 + 1
        assert sent == 4 * (thin + biases) and len(others) == len(losses) == 4
