"""Lesson 15: what the pictures say is what the methods give."""

import pytest
import torch

import tensorlab as tl
from tensorlab.course.lessons import dlrt as lesson
from tensorlab.methods.dlrt import truncate


@pytest.mark.thorough
def test_the_player_trains_by_dlrt_and_goes_on_after_a_pause():
    e = lesson.RankExplorer(theta=0.3)
    assert f"After {e.begin * e.every} steps the ranks are" in e.sentence
    assert e.step()
    e.pause()
    assert e.step()
    model, g = lesson.network(32, decay=1.1)
    dlrt = tl.DLRT(model, torch.optim.SGD(model.parameters(), 0.05, momentum=0.9), theta=0.3)
    training = lesson.training(model, dlrt, g, 2, every=1)
    losses = [next(training) for _ in range((e.begin + 2) * e.every)]
    ranks = ", ".join(f"{name} {r}" for name, r in dlrt.ranks.items())
    numbers = sum(r * sum(dlrt.layers[name].weight.shape) for name, r in dlrt.ranks.items())
    assert e.sentence.startswith(
        f"After {len(losses)} steps the ranks are {ranks}. The three weights hold {numbers} "
        f"numbers; "
    )
    assert e.sentence.endswith(f" and the loss is {losses[-1]:.3f}.")
    assert max(dlrt.ranks.values()) < 32  # they fall at once


@pytest.mark.thorough
def test_larger_theta_smaller_ranks():
    e = lesson.RankExplorer()
    ends = []
    for theta in (0.05, 0.2, 0.5):
        e.set(theta=theta)
        e.step()
        ends.append([r[-1] for r in e.state["ranks"].values()])
    assert all(a > b > c for a, b, c in zip(*ends))


@pytest.mark.thorough
def test_a_wrong_value_is_a_sentence(monkeypatch):
    monkeypatch.setenv("TENSORLAB_STRICT", "0")
    e = lesson.OneStep()
    picture = e.view.value
    e.boxes["sigma"].value = "0"
    assert (
        "singular value: needs a number in 1e-06..1, got 0" in e.status.value
        and e.view.value == picture
    )


@pytest.mark.thorough
@pytest.mark.parametrize("sigma", [0.5, 1e-4])
def test_one_step_says_how_far_each_is(sigma):
    e = lesson.OneStep()
    e.set(sigma=sigma)
    h, t = 0.3, lesson.TARGET
    q = torch.tensor([[0.5], [3**0.5 / 2]], dtype=torch.float64)
    w = sigma * q @ q.T
    euler = w + h * (t - w)
    u, s, vh = torch.linalg.svd(euler)
    cut = s[0] * u[:, :1] @ vh[:1]
    flow = w
    for _ in range(20000):  # the projected flow, by Euler's method on the matrix itself
        d, p = t - flow, flow / flow.trace()
        flow = flow + h / 20000 * (d @ p + p @ d - p @ d @ p)
    start, path, ends = lesson.one_step(sigma, h, 60)
    assert torch.allclose(start.to_dense(), w) and torch.allclose(ends["KLS, then truncated"], cut)
    for name in ("Euler, rank 2", "KLS, then truncated"):
        expected = float(({"Euler, rank 2": euler}.get(name, cut) - path[-1]).norm())
        assert f"{name} by {expected:.2g}" in e.sentence
    if sigma == 0.5:
        assert torch.allclose(path[-1], flow, atol=2e-3)
    kls, usv = (
        float((ends[name] - path[-1]).norm()) for name in ("KLS, then truncated", "U, S, V")
    )
    assert kls < 0.3 and (usv > 3 * kls) is (sigma < 0.1)


def test_errors_are_of_order_h_and_usv_breaks_down():
    a, b = (lesson.flow_errors(1e-8, h) for h in (0.1, 0.05))
    for name in ("KLS", "KLS, fixed rank"):
        assert b[name] == pytest.approx(a[name] / 2, rel=0.2)
    assert b["U, S, V"] > 10 * b["KLS"]
    assert (
        lesson.flow_errors(1e-8, 0.05, theta=0.2)["KLS"] > 5 * b["KLS"]
    )  # truncation forgets what a step adds
    assert lesson.flow_errors(1e-8, 0.05, epsilon=0.5)["KLS"] > 2 * b["KLS"]


def test_the_factors_are_those_of_the_same_network():
    model, _ = lesson.network(5, decay=2.0)
    before = [layer.weight.to_dense().detach() for layer in model.layers[:-1]]
    lesson.balance(model)
    assert all(
        torch.allclose(layer.weight.to_dense(), w, atol=1e-6)
        for layer, w in zip(model.layers, before)
    )
    assert all(len(layer.tensors) == 2 for layer in model.layers[:-1])


def test_what_is_above_theta_is_the_rank():
    """The right panel: as many values as stay stand above the line."""
    sigma = torch.tensor([1.0, 0.5, 0.2, 0.1])
    for theta in (0.05, 0.15, 0.3, 0.6):
        w = tl.LowRank(torch.eye(5, 4), torch.eye(6, 4), sigma.diag())
        for rule, share in lesson.RULES.items():
            r = truncate(w, theta, rule=rule)[0].ranks[0]
            assert r == max(1, int((share(sigma) > theta).sum()))


def test_sizes_of_the_ways():
    assert lesson.trained("dense", 0, seed=0, epochs=1)[0] == 64 * 100 + 2 * 100 * 100
    assert lesson.trained("plain factors", 3, seed=0, epochs=1)[0] == 3 * (164 + 200 + 200)
