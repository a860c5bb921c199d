"""The lesson on language models from scratch: sizes, bits and FLOPs counted otherwise."""

import math

import pytest
import torch
from matplotlib.figure import Figure
from torch.utils.flop_counter import FlopCounterMode

from tensorlab.course.lessons import gpt as lesson
from tensorlab.models.gpt import GPT


@pytest.mark.parametrize("name", [name for name in lesson.RIVALS if name != "dense"])
def test_models_of_a_share_have_at_most_so_many_numbers(name):
    dense = 12 * lesson.WIDTH**2
    assert lesson.numbers_of("dense", 30) == dense
    assert 0.15 * dense < lesson.numbers_of(name, 30) <= 0.3 * dense


@pytest.mark.parametrize("kind", lesson.KINDS)
def test_the_largest_rank_is_the_last_that_fits(kind):
    shape, budget = (128, 128), 5000
    rank = lesson.largest_rank(kind, shape, budget)
    sizes = [lesson.KINDS[kind](shape, r).numel for r in (rank, rank + 1)]
    assert sizes[0] <= budget < sizes[1]


def test_a_table_of_pairs_by_hand():
    text, tokens = lesson.corpus()
    train, test = (tokens[part].tolist() for part in ("train", "test"))
    counts, rows = {}, {}
    for a, b in zip(train, train[1:]):
        counts[a, b], rows[a] = counts.get((a, b), 0) + 1, rows.get(a, 0) + 1
    p = [
        (counts.get((a, b), 0) + 0.1) / (rows.get(a, 0) + 0.1 * text.size)
        for a, b in zip(test, test[1:])
    ]
    assert lesson.pair_bits() == pytest.approx(-sum(map(math.log2, p)) / len(p))


def test_the_first_picture_shows_what_was_recorded_and_what_it_costs():
    e = lesson.WorthExplorer()
    assert "20 % of the numbers, 301 KiB, at the rate 0.003: 3.21 bits" in e.sentence
    e.set(structure="SVD", rate=0.01)
    assert "3.86 bits per character after 300 steps, dense 3.48" in e.sentence
    for row in lesson.measured("Chekalina2023gpt").rows:
        if row["layers"] != "dense":
            part = lesson.cost_of(row["layers"], row["share"])["memory"]
            assert part * 2 * 12 * 128**2 == pytest.approx(row["numbers"])


@pytest.mark.thorough
def test_the_player_learns_and_says_how_large_it_is():
    player = lesson.LearnPlayer()
    player.set(structure="SVD", share=30)
    player.stop()
    assert (
        player.sentence
        == "SVD with 14,336 numbers in its block, 29% of dense, before the first step."
    )
    assert player.step() and player.step() and player.step()
    dense, thin = player.state["means"]
    assert len(dense) == 3 and dense[-1] < dense[0] and thin[-1] < thin[0]
    assert f"after 15 steps: {thin[-1]:.2f} bits per character, dense {dense[-1]:.2f}" in (
        player.sentence
    )


def test_the_explorer_says_ranks_and_multiply_adds_and_its_ranges_follow():
    e = lesson.BudgetExplorer()
    e.set(share=10)
    assert "TTM has rank 5, stores 1,600 and takes 15,360 multiply-adds" in e.sentence
    picture = e.view.value
    e.boxes["share"].value = "1"
    assert "needs a whole number in 2..100, got 1" in e.status.value and e.view.value == picture
    e.set(width=64, share=4)
    with pytest.raises(ValueError, match="4..100, got 3"):
        e.set(share=3)


def test_flops_of_a_block_are_those_that_a_counter_sees():
    width, context = 32, 16
    model = GPT(50, width=width, depth=1, heads=4, context=context)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            model(torch.zeros(1, context, dtype=torch.int64))
    head = 2 * 50 * width
    assert counter.get_total_flops() // context - head == lesson.block_flops_of(width, context)
    assert lesson.block_flops(lesson.block_flops_of)


def test_an_outcome_counts_the_block_alone():
    found = lesson.outcome("dense", 20, 1, 0)
    assert found["numbers"] == 12 * 64**2 and found["flops"] == 24 * 64**2
    assert 5 < found["bits"] < 8
    runs = {"dense": [found], "SVD": [found | {"bits": 7.0}]}
    assert "SVD 7.00" in lesson.draw_outcomes(Figure(), runs)


def test_what_was_recorded_is_shown():
    said = lesson.draw_recorded(Figure())
    assert "20 %, 40 %, 60 %" in said and "TTM 30.85, SVD 55.46" in said
    assert "BTT 3.40 with 118,784" in lesson.draw_structures(Figure())
    assert lesson.best_rates("core") == [0.01, 0.01, 0.01, 0.01, 0.03]
