"""The photograph: a control moves, and picture and sentence say the new numbers."""

import re

import pytest

import tensorlab as tl
from tensorlab.course.lessons import start as lesson


@pytest.mark.thorough
def test_photo_says_what_the_package_computes():
    e = lesson.PhotoExplorer(rank=4)
    x = lesson.small_photo("flower")
    side = x.movedim(2, 1).reshape(len(x), -1)
    low = tl.LowRank.from_dense(side, 4)
    error = float((low.to_dense() - side).norm() / side.norm())
    assert (
        f"SVD of rank 4 stores {low.numel} of {x.numel()} numbers at a relative error of "
        f"{error:.3f}" in e.sentence
    )
    before = e.view.value
    for kind in ("CP", "Tucker", "TT"):
        e.set(format=kind)
        assert e.sentence.startswith(f"{kind} of rank 4 stores") and (
            "worse than the SVD" in e.sentence
        )
        assert e.view.value != before and html_alt(e.view.value) == e.sentence
        fmt, y, error = lesson.compressed("flower", kind, 4)
        assert error == pytest.approx(float((y - x).norm() / x.norm())) and y.shape == x.shape


def html_alt(view):
    return re.search('alt="([^"]*)"', view).group(1)


def test_photo_errors_fall_with_the_rank():
    for kind in lesson.FORMATS:
        errors = [lesson.compressed("flower", kind, r)[2] for r in lesson.PhotoExplorer.ladder]
        assert errors == sorted(errors, reverse=True)
