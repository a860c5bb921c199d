"""ADMM's lesson: the sentence against the network itself, the three ways end in the set, and the
threshold of rho by theory."""

import copy

import pytest
import torch

import tensorlab as tl
from tensorlab.course.lessons import admm as lesson
from tensorlab.papers.table import measured


@pytest.mark.thorough
def test_the_player_tells_what_a_projection_would_do():
    player = lesson.ADMMPlayer()
    player.set(kind="low rank", rank=3, rho=0.05, growth=1.5)
    assert player.sentence.startswith("Round 0:")
    for _ in range(3):
        assert player.step()
    model = copy.deepcopy(player.state["model"])
    *_, x, y = lesson.digits()
    right = lambda: 100 * float((model(x).argmax(1) == y).double().mean())
    dense = right()
    for layer in model.layers[:2]:
        u, s, vh = torch.linalg.svd(layer.weight.detach())
        layer.weight.data = (u[:, :3] * s[:3]) @ vh[:3]
    assert player.sentence.startswith(
        f"Round 3: {dense:.1f} % of the test are right, projected now {right():.1f} %."
    )
    assert "Primal and dual residual after 3 rounds: layers.0" in player.sentence
    assert [r.rho for r in player.state["history"]] == pytest.approx([0.05, 0.075, 0.1125])


def test_a_wrong_value_is_a_sentence_and_the_picture_stays():
    player = lesson.ADMMPlayer()
    picture = player.view.value
    player.boxes["growth"].value = "3"
    assert (
        "growth: needs a number in 1..2, got 3" in player.status.value
        and player.view.value == picture
    )


def test_the_plain_network_is_left_alone():
    before = lesson.plain(0, 10).layers[0].weight.detach().clone()
    list(lesson.rounds("TT", 2, 0.1, 1.5, count=1))
    lesson.projected(lesson.plain(0, 10), "TT", 1)
    assert torch.equal(lesson.plain(0, 10).layers[0].weight, before)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", lesson.SETS)
@pytest.mark.parametrize("way", lesson.WAYS)
def test_all_ways_learn_something(way, kind):
    loss, right = lesson.compare(way, kind, 6, epochs=4)
    assert right > 0.3 and loss < 2.6


def test_stored_numbers():
    assert lesson.stored("low rank", 4) == 2 * 4 * 128
    assert lesson.stored("TT", 3) == 2 * (16 * 3 + 9 * 16 + 3 * 16)
    with pytest.raises(ValueError, match="got 'both'"):
        lesson.compare("both", "TT", 2, epochs=1)


def test_no_matrix_of_the_rank_has_a_lower_loss_than_the_best_one():
    a, c, best = lesson.weighted()
    assert torch.linalg.matrix_rank(best) == 2
    least = lesson.weighted_loss(best)
    residual = (best - a) @ c
    u, _, vh = torch.linalg.svd(best)
    tangent = u[:, 2:].T @ residual @ vh[2:].T  # all of the gradient that is left is normal
    assert float(residual.norm()) == pytest.approx(float(tangent.norm()), rel=1e-9)
    assert lesson.weighted_loss(tl.LowRank.from_dense(a, 2).to_dense()) > 1.3 * least
    for start in lesson.gaussian((12, 10), (12, 10)):
        w = start
        for _ in range(3000):
            w = tl.LowRank.from_dense(w - (w - a) @ c, 2).to_dense()
        assert lesson.weighted_loss(w) >= least * (1 - 1e-9)


def test_the_threshold_of_rho_is_that_of_theory():
    # the first above sigma_2 / sigma_1 = 0.75: at rest rho U = A - W, and Z keeps its direction
    assert lesson.smallest_rho(0.8)
    assert not lesson.settles(0.7) and lesson.settles(1.0)


def test_falls_are_measured_from_the_dense_network_of_the_same_seed():
    table = measured("Yin2021")
    found = lesson.falls(table)
    row = next(r for r in table.rows if (r["set"], r["rank"], r["way"]) == ("TT", 4, "ADMM"))
    plain = next(
        r
        for r in table.rows
        if (r["set"], r["rank"], r["way"], r["seed"]) == ("TT", 4, "direct", row["seed"])
    )
    assert found["TT", 4, "ADMM"]["tuned"][0] == row["tuned"] - plain["before"]
    assert len(found) == 12 and all(len(of["projected"]) == 3 for of in found.values())
