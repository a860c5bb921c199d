"""The lesson on attention: its sentences counted otherwise, and what is cut down against what it is
cut from."""

import pytest
import torch
from matplotlib.figure import Figure
from torch.utils.flop_counter import FlopCounterMode

from tensorlab.course.lessons import attention as lesson
from tensorlab.layers.attention import (
    LatentAttention,
    MultiHeadAttention,
    TensorProductAttention,
)


@pytest.mark.parametrize("way", lesson.WAYS)
def test_at_the_largest_rank_nothing_is_lost(way):
    rank = lesson.largest_rank(4, way)
    assert lesson.error(4, way, rank) < 1e-4 < lesson.error(4, way, rank - 1)


@pytest.mark.parametrize("way", lesson.WAYS)
def test_what_is_kept_is_what_such_a_layer_keeps(way):
    layer = {
        "latent": LatentAttention(32, 4, 3),
        "shared heads": MultiHeadAttention(32, 4, groups=2),
        "tensor product": TensorProductAttention(32, 4, ranks=(3, 3)),
    }[way]
    rank = 2 if way == "shared heads" else 3
    assert lesson.numbers(4, way, rank) == layer.cached == lesson.cut(4, way, rank)[2]


def test_the_cut_latent_is_the_latent_layer():
    full, *_ = lesson.full(4)
    x, y = lesson.inputs(4), full(lesson.inputs(4))
    near = LatentAttention.from_multihead(full, 3)(x).detach()
    assert lesson.error(4, "latent", 3) == pytest.approx(float((near - y).norm() / y.norm()))


def test_maps_are_those_of_softmax():
    _, query, key, _ = lesson.full(4)
    p = lesson.weights(query[:2], key[:2])
    scores = torch.einsum("bihd,bjhd->bhij", query[:2], key[:2]) / 8**0.5
    later = torch.ones(lesson.CONTEXT, lesson.CONTEXT).triu(1).bool()
    assert torch.allclose(p, scores.masked_fill(later, -torch.inf).softmax(-1), atol=1e-5)


def test_the_explorer_says_what_is_kept_and_its_ranges_follow():
    e = lesson.KeepExplorer()
    e.set(way="shared heads", rank=2, head=4)
    assert "32 numbers are kept of a token, 128 bytes, of 64" in e.sentence
    assert f"error of {lesson.error(4, 'shared heads', 2):.1%}" in e.sentence
    e.set(heads=2)
    assert e.values == {"way": "shared heads", "rank": 2, "heads": 2, "head": 2}
    picture = e.view.value
    e.boxes["rank"].value = "3"
    assert "needs a whole number in 1..2, got 3" in e.status.value and e.view.value == picture


def test_multiply_adds_are_those_of_the_layers():
    """Half the flops of the products that a counter sees, at a width where it can run."""
    tokens, width, heads, rank = 20, 32, 4, 8
    layer = LatentAttention(width, heads, rank)
    q, c = torch.randn(1, 1, heads, width // heads), torch.randn(1, tokens, rank)
    found = {}
    for way in ("_expanded", "_absorbed"):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
                getattr(layer, way)(q, c)
        found[way] = counter.get_total_flops() // 2
    assert found["_expanded"] == tokens * (rank * 2 * width + 2 * width)
    assert found["_absorbed"] == 2 * width * rank + tokens * 2 * heads * rank
    at = lesson.products(tokens, rank)
    assert at["latent, absorbed"] == 2 * 4096 * rank + tokens * 2 * 32 * rank
    assert at["latent, expanded"] == tokens * 2 * 4096 * (rank + 1)


def test_only_the_published_layer_looks_ahead():
    for name in lesson.MASKED:
        assert max(lesson.moved(name, 5)[:5]) < 1e-12 and min(lesson.moved(name, 5)[5:]) > 1e-4
    assert min(lesson.moved(lesson.PUBLISHED, 5)[:5]) > 1e-3
    assert "Token 5 has changed" in lesson.draw_moved(Figure(), 5)


def test_large_caches_are_counted_by_hand():
    kept = lesson.large()
    assert list(kept.values()) == [8192, 2048, 256, 576, 4 * (32 + 128), 4096]
    assert lesson.gib(8192) == 16 and "multi-head 8,192" in lesson.draw_cached(Figure())


def test_a_short_training_runs_with_and_without_reading():
    runs = {n: [lesson.bits(n, 2, 0)] for n in ("nothing", "1 group", lesson.PUBLISHED)}
    assert runs["nothing"][0][0] == 0 and runs["1 group"][0][0] == 16
    assert all(3 < bits < 7 for of in runs.values() for _, bits in of)
    assert "1 group" in lesson.draw_bits(Figure(), runs)
