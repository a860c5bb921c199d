"""The rearranged matrix: the explorer's errors are those of NumPy's SVDs; a wrong number is a
sentence."""

import numpy as np
import pytest
import torch

import tensorlab as tl
from tensorlab.course.lessons import kronecker as lesson


def test_the_sentence_says_the_errors_of_both():
    e = lesson.KroneckerExplorer()
    e.set(matrix="random", terms=3, rows=4, columns=16)
    w = lesson.example_matrix("random").numpy()
    r = w.reshape(4, 16, 16, 4).transpose(0, 2, 1, 3).reshape(64, 64)
    s, t = np.linalg.svd(r, compute_uv=False), np.linalg.svd(w, compute_uv=False)
    kron, low = (np.linalg.norm(v[3:]) / np.linalg.norm(v) for v in (s, t))
    assert f"3 Kronecker terms (384 numbers) leave a relative error of {kron:.2g}" in e.sentence
    assert f"rank 3 (384 numbers) leaves {low:.2g}" in e.sentence


def test_the_tile_is_one_product_at_its_own_size_only():
    e = lesson.KroneckerExplorer()
    e.set(matrix="tiled pattern", terms=1, rows=8, columns=8)
    assert "1 Kronecker terms (128 numbers)" in e.sentence
    w = lesson.example_matrix("tiled pattern")
    assert float((tl.kron_svd(w, (8, 8), 1).to_dense() - w).norm()) < 1e-12
    assert tl.kron_svd(lesson.example_matrix("tiled pattern"), (4, 4), rtol=1e-10).ranks != (1,)
    assert lesson.best_left(8) and not lesson.best_left(16)


def test_a_wrong_value_is_a_sentence_and_the_picture_stays():
    e = lesson.KroneckerExplorer()
    picture = e.view.value
    for wrong in ("99", "abc", "0"):
        e.boxes["terms"].value = wrong
        assert "terms: needs a whole number in 1..16, got " + wrong in e.status.value
        assert e.view.value == picture and e.value("terms") == 4


def test_errors_are_tails():
    w = lesson.example_matrix("random", 16)
    kron, svd = lesson.errors(w, (4, 4), 5)
    assert kron[1][1] == pytest.approx(
        float((tl.kron_svd(w, (4, 4), 2).to_dense() - w).norm() / w.norm())
    )
    assert svd[1][1] == pytest.approx(
        float((tl.LowRank.from_dense(w, 2).to_dense() - w).norm() / w.norm())
    )
    assert kron[1][0] == svd[1][0] == 64
    kron, svd = lesson.errors(lesson.example_matrix("random low rank"), (8, 8), 6)
    assert [error > 0 for _, error in svd] == [True] * 3 + [False] * 3 and kron[5][1] > 0.5


@pytest.mark.thorough
def test_the_player_moves_each_block_into_a_row():
    e = lesson.RearrangePlayer()
    assert "7 of 24" in e.sentence and "row 1 of R(w), 6 by 4, is block (0, 1)" in e.sentence
    while e.step():
        pass
    assert "24 of 24" in e.sentence and "row 5 of R(w), 6 by 4, is block (1, 2)" in e.sentence
    e.set(rows=4, columns=1)
    assert "0 of 24 entries have moved; row 0 of R(w), 4 by 6" in e.sentence


def test_no_more_terms_than_there_are():
    e = lesson.KroneckerExplorer()
    e.set(terms=16)
    e.set(rows=2, columns=4)
    assert e.value("terms") == 8 and "8 Kronecker terms" in e.sentence


def test_example_matrices():
    with pytest.raises(ValueError, match="got marble"):
        lesson.example_matrix("marble")
    assert torch.equal(lesson.example_matrix("random"), lesson.example_matrix("random"))
    assert all(lesson.example_matrix(name).shape == (64, 64) for name in lesson.NAMES)
