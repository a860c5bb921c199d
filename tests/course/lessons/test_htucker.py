"""The tree with singular values on its nodes: what is shown is what `ht_svd` finds; a wrong value
is a sentence."""

import itertools
import math

import pytest
from matplotlib.figure import Figure

import tensorlab as tl
from tensorlab.course.lessons import htucker as lesson


@pytest.mark.thorough
def test_the_tree_shows_ranks_storage_and_error():
    e = lesson.TreeExplorer()
    e.set(function="random tree of rank 3", digits=8)
    assert (
        "ranks (0 1 2 3) 3, (4 5 6 7) 3, (0 1) 3, " in e.sentence
        and f"stores {8 * 12 + 9 + 6 * 27} of 65536" in e.sentence
    )
    e.controls["tree"].value = "linear"
    assert "(1 2 3 4 5 6 7) 3, (1) 3, (2 3 4 5 6 7) 3, (2) 3, (3 4 5 6 7) 9, " in e.sentence
    e.set(function="1 / (1 + sum)", tree="balanced", leaves="even, then odd")
    e.boxes["digits"].value = "3"
    x = lesson.functions("1 / (1 + sum)")
    error = float(
        (tl.ht_svd(x, rtol=1e-3, tree=(((0, 2), (4, 6)), ((1, 3), (5, 7)))).to_dense() - x).norm()
        / x.norm()
    )
    assert (
        "ranks (0 2 4 6) " in e.sentence
        and f"Asked for a relative error of 1e-03, it has {error:.1e}." in e.sentence
    )


@pytest.mark.thorough
def test_the_order_of_the_leaves_matters():
    e = lesson.TreeExplorer()
    stored = {}
    for leaves in lesson.ORDERS:
        e.set(leaves=leaves)
        stored[leaves] = int(e.sentence.split("stores ")[1].split(" of")[0])
    assert stored["in order"] < stored["outside in"] < stored["even, then odd"]


def test_a_wrong_value_is_a_sentence_and_the_picture_stays():
    e = lesson.TreeExplorer()
    picture = e.view.value
    for wrong in ("99", "abc", "-1", "2.5"):
        e.boxes["digits"].value = wrong
        assert "rtol = 10^-digits: needs a whole number in 0..14, got " + wrong in e.status.value
        assert e.view.value == picture and e.value("digits") == 4
    with pytest.raises(ValueError, match="needs one of balanced, linear, got star"):
        e.set(tree="star")


def test_functions_by_hand():
    x = lesson.functions("nested pairs", 4, 4)  # coordinates k / 4
    g = lambda a, b: math.sqrt(1 + (a - 2 * b) ** 2)
    assert float(x[1, 2, 3, 0]) == pytest.approx(g(g(0.25, 0.5), g(0.75, 0)))
    assert float(lesson.functions("chain of neighbors", 3, 4)[0, 2, 1]) == pytest.approx(
        math.exp(-4 * (0.25 + 0.0625))
    )
    assert float(lesson.functions("1 / (1 + sum)", 3, 4)[1, 2, 3]) == pytest.approx(1 / 2.5)
    assert tl.tt_svd(lesson.functions("random train of rank 3"), rtol=1e-10).ranks == (3,) * 7
    with pytest.raises(ValueError, match="got tangent"):
        lesson.functions("tangent", 2, 2)


def test_what_is_drawn_as_stored_is_what_the_formats_hold():
    x, stored = lesson.functions("nested pairs", 4), lesson.stored_by_format(4, 1e-4)
    assert stored["nested pairs"]["balanced tree"] == tl.ht_svd(x, rtol=1e-4).numel
    assert stored["nested pairs"]["train"] == tl.tt_svd(x, rtol=1e-4).numel
    said = lesson.bars(Figure().subplots(), stored, 256)
    least = min(stored["nested pairs"].values())
    assert f"nested pairs SVD ({least})" in said and said.endswith("the tensor has 256.")


def test_best_tree_accepts_exactly_the_pairs_that_belong_together():
    for b, c, d in itertools.permutations((1, 2, 3)):
        assert bool(lesson.best_tree(((0, b), (c, d)))) is (b == 3)
        assert not lesson.best_tree((0, (b, (c, d))))


@pytest.mark.parametrize(
    "tree", [((0, 1), 2), ((0, 1), (2, 4)), (0, 1, 2, 3), 3, "abcd", [[0, 3], [1, 2]]], ids=str
)
def test_best_tree_needs_a_tree(tree, capsys):
    assert not lesson.best_tree(tree)
    line = capsys.readouterr().out
    assert "a tree of the modes 0, 1, 2, 3 is needed" in line and line.count("\n") == 1
