"""The corner that lights up: what is shown is what `hosvd` finds."""

import pytest

import tensorlab as tl
from tensorlab import datasets
from tensorlab.course.lessons import tucker as lesson


@pytest.mark.thorough
def test_the_corner_has_the_error_of_the_hosvd():
    e = lesson.CornerPlayer()
    x = datasets.photo("flower")
    for r in (6, 7):
        y = tl.hosvd(x, (r, r, 3))
        error = float((y.to_dense() - x).norm() / x.norm())
        assert e.sentence.startswith(f"The corner {r} x {r} x 3 holds {1 - error**2:.2%}")
        assert f"with {y.numel} of {x.numel()} numbers" in e.sentence
        assert f"the relative error is {error:.4f}." in e.sentence
        assert e.step()


def test_the_last_corner_is_the_whole():
    e = lesson.CornerPlayer()
    e.set(rank=427)
    assert "The corner 427 x 427 x 3 holds" in e.sentence and not e.step()
    with pytest.raises(ValueError, match="size of the corner: needs a whole number in 1..427"):
        e.set(rank=428)
