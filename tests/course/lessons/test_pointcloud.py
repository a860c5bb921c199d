"""Clouds and permutations: the sentences say what scipy and dense linear algebra give; the player
takes the method's steps."""

import re

import pytest
import scipy.spatial
import torch

import tensorlab as tl
from tensorlab.course.lessons import pointcloud as lesson
from tensorlab.course.lessons.embedding import vocabulary
from tensorlab.methods import pointcloud as pc


@pytest.fixture(scope="module")
def player():
    return lesson.CloudPlayer()


@pytest.mark.parametrize("name", lesson.CLOUDS)
def test_clouds(name):
    x = lesson.cloud(name, 500)
    assert (
        x.shape == (500, 2)
        and torch.equal(x, lesson.cloud(name, 500))
        and float(x.abs().max()) < 2.5
    )


def test_no_other_cloud():
    with pytest.raises(ValueError, match="got cube"):
        lesson.cloud("cube", 3)


@pytest.mark.thorough
def test_player_says_the_distance_and_takes_the_methods_steps(player):
    player.set(rank=3, cloud="spiral", loss="both", start="clusters")
    x = lesson.cloud("spiral", 256)
    tt = tl.tt_svd(x[pc.cluster_order(x, lesson.SHAPE)].reshape(*lesson.SHAPE, 2), 3)
    y = pc.rows(tt)
    a, b = (scipy.spatial.cKDTree(q.numpy()).query(p.numpy())[0] for p, q in ((x, y), (y, x)))
    size = float((x - x.mean(0)).square().sum(1).mean())
    assert f"neighbors {((a**2).mean() + (b**2).mean()) / size:.4f}." in player.sentence
    assert f"ranks 3, 3, 2 and {tt.numel} numbers; after 0 steps" in player.sentence
    before = float(re.search(r"neighbors (\S+)\.$", player.sentence)[1])
    for _ in range(3):
        assert player.step()
    path = pc.tt_cloud_steps(
        x, lesson.SHAPE, 3, hierarchy=0.0, steps=300, generator=torch.Generator().manual_seed(0)
    )
    wanted = [tt for tt, _ in (next(path) for _ in range(31))][-1]
    assert (
        torch.equal(player.state[0].to_dense(), wanted.to_dense())
        and "after 30 steps" in player.sentence
    )
    assert float(re.search(r"neighbors (\S+)\.$", player.sentence)[1]) < before
    player.stop()
    assert "after 0 steps" in player.sentence


@pytest.mark.thorough
def test_each_loss_trains(player):
    for loss in lesson.LOSSES:
        player.set(loss=loss, start="random", cloud="two moons", rank=4)
        first = player.state[1][0]
        for _ in range(3):
            player.step()
        k = 1 if loss == "nearest neighbors" else 0
        assert player.state[1][-1][k] < 0.8 * first[k]


def test_a_wrong_value_is_a_sentence_and_the_picture_stays(player):
    picture = player.view.value
    for wrong in ("0", "13", "much"):
        player.boxes["rank"].value = wrong
        assert (
            f"rank: needs a whole number in 1..12, got {wrong}" in player.status.value
            and player.view.value == picture
        )


def test_distances_are_squares_in_units_of_the_variance():
    x = lesson.cloud("ring", 300)
    size = float((x - x.mean(0)).square().sum(1).mean())
    assert lesson.distances(x, x + torch.tensor([0.3, -0.4], dtype=x.dtype))[0] == pytest.approx(
        0.25 / size, rel=1e-10
    )
    u = lesson.directions()
    assert torch.allclose(u @ u.T, 32 * torch.eye(2, dtype=torch.float64), atol=1e-10)


def test_rivals_store_no_more_than_the_train():
    x = lesson.cloud("two moons", 256)
    found = lesson.rivals(x, tl.TT.randn((4, 8, 8, 2), 3, dtype=torch.float64))
    for name, (numbers, y) in found.items():
        assert y.shape == (256, 2) and numbers <= found["train"][0]
        if name != "train":
            assert len(y.unique(dim=0)) <= numbers // 3
    assert float(torch.cdist(found["coreset"][1], x).amin(1).max()) == pytest.approx(
        0, abs=1e-6
    )  # its centers are points


def test_permutation_explorer_says_what_dense_algebra_gives():
    e = lesson.PermutationExplorer(rounds=0)
    x = vocabulary().table[:256]
    e.set(rank=5, rounds=1, start="given order")
    fit = tl.tt_permute(
        x,
        (4, 8, 8),
        5,
        order=torch.arange(256),
        max_iter=2,
        tol=0.0,
        generator=torch.Generator().manual_seed(0),
    )
    error = lambda order, tt: float((pc.rows(tt) - x[order]).norm() / x.norm())
    start = error(torch.arange(256), tl.tt_svd(x.reshape(4, 8, 8, 64), 5))
    assert (
        f"the error goes from {start:.3f} to {error(fit.value.order, fit.value.tt):.3f} in 1 rounds"
        in e.sentence
    )
    s = torch.linalg.svdvals(x[fit.value.order].reshape(32, 512))
    assert (
        f"and {float(s[:5].norm() / x.norm()):.3f} in the one found" in e.sentence
        and e.sentence.endswith("columns, stay.")
    )
    assert fit.history[-1] < start
