"""Flat sums and bits: what the explorers say against steps taken by hand; a wrong value is a
sentence."""

import re

import pytest
import torch

import tensorlab as tl
from tensorlab.course.lessons import kashin as lesson
from tensorlab.methods.kashin import Rotation


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "method"), list(zip(lesson.INPUTS, (*lesson.METHODS, *lesson.METHODS)))
)
def test_steps_say_what_is_left(name, method):
    player = lesson.StepsPlayer()
    player.set(x=name, size=64, Q="hadamard", method=method, seed=3)
    assert player.sentence.startswith(
        "After 0 steps 1 of |x| is left.  The largest entry of u and v is 0.00"
    )
    x, q = lesson.vector(name, 64), Rotation("hadamard", (64,), 3)
    taken = 0
    while taken < 5 and player.step():
        taken += 1
    step = next(s for k, s in enumerate(tl.kashin_steps(x, q, method=method)) if k == taken)
    rest = x - step.u - q.to_dense() @ step.v
    largest = 8 * max(step.u.abs().max(), step.v.abs().max()) / x.norm()
    said = re.fullmatch(
        r"After (\d+) steps (\S+) of .x. is left\.  The largest entry of u and v is (\S+) .*",
        player.sentence,
    )
    assert int(said[1]) == taken and float(said[3]) == pytest.approx(float(largest), abs=6e-3)
    assert float(said[2]) == pytest.approx(float(rest.norm() / x.norm()), rel=6e-3, abs=1e-12)


@pytest.mark.thorough
def test_a_constant_is_done_in_one_step():
    player = lesson.StepsPlayer()
    player.set(x="constant", size=64, method="greedy")
    assert player.step() and player.sentence.startswith(
        "After 1 steps 0 of |x| is left.  The largest entry of u and v is 1.00"
    )
    assert not player.step()


def test_bits_are_those_of_the_package():
    explorer = lesson.BitsExplorer()
    explorer.set(tails=1.5)
    (g,) = lesson.gaussian((64, 64))
    w = torch.where(g < 0, -1, 1) * g.abs().pow(1.5)
    for method in ("uniform", "kmeans", "pairs"):
        q = tl.quantize(w, 4, method=method, generator=torch.Generator().manual_seed(0))
        error = float((q.to_dense() - w).norm() / w.norm())
        assert f"{method} {error:.3f} at {q.bits_per_weight:.2f} bits" in explorer.sentence


@pytest.mark.thorough
def test_a_wrong_value_is_a_sentence_and_the_picture_stays():
    explorer = lesson.BitsExplorer()
    picture = explorer.view.value
    for wrong in ("9", "heavy"):
        explorer.boxes["tails"].value = wrong
        assert (
            f"tails: needs a number in 1..4, got {wrong}" in explorer.status.value
            and explorer.view.value == picture
        )
    with pytest.raises(ValueError, match="size: needs one of 64, 256, 1024, 4096, got 100"):
        lesson.StepsPlayer().set(size=100)


def test_right_answers(capsys):
    assert lesson.energy_left(3 / 12)
    assert lesson.flat_step(lambda r: (2.0 * (r >= 0) - 1) * r.abs().sum() / len(r))
    assert all(line.startswith("Right.") for line in capsys.readouterr().out.splitlines())
