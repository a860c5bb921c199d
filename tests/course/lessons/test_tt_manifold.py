"""One Riemannian step: what is shown is what dense linear algebra gives; the completion's helpers
by hand."""

import math

import pytest
import torch

from tensorlab.course.lessons import tt_manifold as lesson


def by_hand(angle, step):
    """Point, projection and retraction by eigenvectors, without a train."""
    goal, u = lesson.target(), lesson.ray(angle)
    x = (u * goal).sum() * u
    z = x - goal
    tangent = x - step * (u @ z + z @ u - u @ z @ u)
    w, q = torch.linalg.eigh(tangent)
    k = int(w.abs().argmax())
    return x, tangent, w[k] * torch.outer(q[:, k], q[:, k]), goal


@pytest.mark.thorough
@pytest.mark.parametrize(("angle", "step"), [(80, 0.8), (90, 2.0), (0, 0.3), (170, 1.5)])
def test_the_picture_says_what_dense_algebra_gives(angle, step):
    e = lesson.ProjectedStep()
    e.set(angle=angle, step=step)
    x, tangent, back, goal = by_hand(angle, step)
    cost = lambda m: float((m - goal).square().sum()) / 2
    free = x - step * (x - goal)
    off, bend = float((free - tangent).norm()), float((back - tangent).norm())
    wanted = f"by {off:.3f} onto the tangent plane, the retraction by {bend:.3f} back"
    assert wanted in e.sentence and e.sentence.endswith(
        f"f was {cost(x):.3f} and is {cost(back):.3f}."
    )
    assert torch.allclose(lesson.one_step(angle, step)["back"], back, atol=1e-12)


def test_at_the_saddle_nothing_moves():
    e = lesson.ProjectedStep()
    e.set(angle=115, step=1.0)
    assert "the retraction by 0.000" in e.sentence and "f was 2.000 and is 2.000" in e.sentence
    assert lesson.saddle(115) and not lesson.saddle(25)


def test_only_the_view_moves_with_the_view():
    e = lesson.ProjectedStep()
    said, picture = e.sentence, e.view.value
    e.set(view=10)
    assert e.sentence == said and e.view.value != picture


@pytest.mark.thorough
def test_a_wrong_value_is_a_sentence_and_the_picture_stays():
    e = lesson.ProjectedStep()
    picture = e.view.value
    for name, wrong, said in [
        ("step", "9", "step: needs a number in 0..2, got 9"),
        ("angle", "1.5", "angle of x: needs a whole"),
    ]:
        e.boxes[name].value = wrong
        assert (
            said in e.status.value and "Traceback" not in e.status.value and e.view.value == picture
        )
        e.boxes[name].value = str(e.value(name))


def test_folding_is_undone_by_unfolding():
    places = torch.cartesian_prod(torch.arange(16), torch.arange(16))
    picture = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    x = torch.zeros(4, 4, 4, 4)
    x[tuple(lesson.folded(places, 16).T)] = picture.flatten()
    assert torch.equal(lesson.unfolded(x), picture)


def test_adam_learns_and_its_error_is_that_of_its_train():
    x, index = lesson.problem((6, 6, 6), 2, 4, 0, positive=True)
    y, history = lesson.adam(
        index,
        x.at(index),
        x.shape,
        2,
        steps=100,
        lr=0.05,
        generator=torch.Generator().manual_seed(0),
    )
    assert len(history) == 100 and history[-1] < 0.2 * history[0]
    after = float((y.at(index) - x.at(index)).norm() / x.at(index).norm())
    assert after == pytest.approx(history[-1], rel=0.5)


@pytest.mark.thorough
def test_the_phase_diagram_counts_runs():
    found = list(lesson.phase((6, 6, 6), 1, (0.5, 5), 2, max_iter=60))
    assert [(name, ratio) for name, ratio, _ in found] == [
        (name, ratio) for name in lesson.WAYS for ratio in (0.5, 5)
    ]
    for name, ratio, share in found:
        runs = [
            lesson.recovers((6, 6, 6), 1, ratio, s, max_iter=60, **lesson.WAYS[name])
            for s in range(2)
        ]
        assert share == sum(runs) / 2
    assert max(share for *_, share in found) > 0


def test_as_a_matrix_the_same_entries_are_seen():
    """Of all entries the matrix of rank 2 is recovered too."""
    ratio = 216 / lesson.freedom(lesson.problem((6, 6, 6), 2, 1, 0)[0])
    assert lesson.recovers((6, 6, 6), 2, ratio, 0, max_iter=200, grow=False, matrix=True)


def test_off_the_step_by_dense_algebra():
    """Of a matrix the retraction is the truncated SVD."""
    x, z = lesson.TT.randn((4, 5), 2, dtype=torch.float64), torch.randn(4, 5).double()
    found = lesson.off_the_step(x, z, (1e-1, 1e-3))
    v = lesson._tangent(x.to_dense(), z, 2)
    end = lesson._cut(x.to_dense() - 0.1 * v, 2)
    for name, way in (("tangent step", v), ("gradient step", z)):
        far = float((end - x.to_dense() + 0.1 * way).norm() / (0.1 * way.norm()))
        assert found[name][0] == pytest.approx(far, rel=1e-6)
    assert found["tangent step"][1] < 0.02 * found["tangent step"][0] + 1e-10


def test_problem_and_psnr_by_hand():
    x, index = lesson.problem((5, 4), 2, 1, 0)
    assert lesson.freedom(x) == 2 * (5 + 4) - 4 == len(index) == len(torch.unique(index, dim=0))
    assert lesson.psnr(torch.full((2, 2), 0.6), torch.full((2, 2), 0.5)) == pytest.approx(
        20, abs=1e-4
    )
    assert all(float(c.min()) >= 0 for c in lesson.problem((5, 4), 2, 1, 0, positive=True)[0].cores)
    with pytest.raises(ValueError, match="at most 20 entries, got 9 times 14"):
        lesson.problem((5, 4), 2, 9, 0)
    assert math.isclose(float(lesson.ray(30).trace()), 1)
