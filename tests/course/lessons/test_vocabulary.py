"""The words, drawn: the unfolding grows fiber by fiber, a network counts what a format stores."""

import pytest

from tensorlab.course.lessons import vocabulary as lesson


@pytest.mark.thorough
def test_unfolding_fiber_by_fiber():
    e = lesson.UnfoldPlayer()
    assert e.sentence == "3 of 8 fibers of mode 0 are columns of the unfolding of 3 by 8."
    e.set(mode=1)
    assert e.sentence.startswith("0 of 6 fibers of mode 1")
    while e.step():
        pass
    assert e.sentence.startswith("6 of 6 fibers of mode 1")


@pytest.mark.parametrize("name", lesson.NETWORKS)
def test_the_network_of_every_format(name):
    e = lesson.NetworkExplorer()
    e.set(format=name, modes=3, size=2, rank=2)
    assert f"stores {lesson.example(name, 3, 2, 2).numel} of" in e.sentence


def test_the_blocks_of_a_kronecker_product():
    e = lesson.KroneckerProductExplorer()
    assert e.sentence.startswith("2 by 3 blocks, each a multiple of B: a matrix of 4 by 6")
    e.set(rows=3, columns=1)
    assert "a matrix of 6 by 2, made of 3 + 4 numbers" in e.sentence
