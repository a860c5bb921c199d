"""Adapters while they train: the sentence's numbers counted otherwise, and what is shown as added
is what was added."""

import pytest
import torch

import tensorlab as tl
from tensorlab.course.lessons import lora as lesson


@pytest.mark.parametrize(
    "kind, numbers",
    [
        ("lora", 3 * 2 * 128),
        ("dora", 3 * 2 * 128 + 128),
        ("dlrt", 3 * 2 * 128),
        ("all weights", 65 * 64 * 2 + 650),
        ("last layer", 650),
        ("from scratch", 65 * 64 * 2 + 650),
    ],
)
def test_numbers_that_are_trained(kind, numbers):
    assert lesson.trained_numbers(lesson.adapted(kind, 3)) == numbers


@pytest.mark.thorough
def test_the_player_starts_where_the_network_is_and_learns():
    player = lesson.AdaptPlayer()
    player.set(kind="lora", rank=2)
    player.stop()
    *_, x, y = lesson.digits()
    right = float((lesson.pretrained()(lesson.turned(x)).argmax(1) == y).double().mean())
    assert player.sentence.startswith("lora, 512 numbers trained, before the first step")
    assert f"of the turned digits {100 * right:.1f} % are right" in player.sentence
    while player.step():
        pass
    assert f"after {player.length} steps" in player.sentence
    model = player.state["model"]
    now = float((model(lesson.turned(x)).argmax(1) == y).double().mean())
    assert (
        f"of the turned digits {100 * now:.1f} % are right" in player.sentence and now > right + 0.2
    )
    assert int(torch.linalg.matrix_rank(lesson.change(model).double(), rtol=1e-5)) == 2


def test_a_wrong_value_is_a_sentence_and_the_picture_stays():
    player = lesson.AdaptPlayer()
    picture = player.view.value
    player.boxes["rank"].value = "0"
    assert (
        "rank: needs a whole number in 1..32, got 0" in player.status.value
        and player.view.value == picture
    )


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr", "dlrt", "all weights"])
def test_the_change_is_what_the_layer_adds(kind):
    *_, last = lesson.adapt(kind, 2, steps=5)
    layer, x = last["model"].layers[1], torch.eye(64)
    before = lesson.pretrained().layers[1]
    with torch.no_grad():
        added = layer(x) - layer(0 * x) - before.weight.T  # training all weights moves the bias too
        assert torch.allclose(added.T, lesson.change(last["model"]), atol=1e-5)
    assert len(last["losses"]) == 5


def test_pretrained_is_left_alone():
    before = {name: t.clone() for name, t in lesson.pretrained().state_dict().items()}
    list(lesson.adapt("all weights", 1, steps=5))
    tl.merge_lora(lesson.adapted("lora", 2))
    assert all(torch.equal(t, before[name]) for name, t in lesson.pretrained().state_dict().items())
