"""The lesson on compressing a model: the sentence, the certificate, lost digits, the pictures."""

import pytest
import torch
from matplotlib.figure import Figure

from tensorlab.course.digits import digits, trained_reader
from tensorlab.course.lessons import compress as lesson
from tensorlab.methods.certificate import distances
from tensorlab.methods.codes import quantize


def test_the_sentence_says_what_is_measured():
    e = lesson.CompressExplorer()
    e.set(method="svd", kept=40)
    *_, x, y = digits()
    model = lesson.compressed(40, "svd")
    p, q = trained_reader()(x), model(x)
    moved = float(distances(q, p, "classes").mean())
    others = float((p.argmax(1) != q.argmax(1)).double().mean())
    lost = int(((p.argmax(1) == y) & (q.argmax(1) != y)).sum())
    assert f"move by {moved:.2g}, forecast {sum(alone(model)):.2g}" in e.sentence
    assert f"{others:.1%} are others" in e.sentence and f"loses {lost} that" in e.sentence
    assert f"reads {float((q.argmax(1) == y).double().mean()):.1%} of" in e.sentence


def alone(model):
    return model.compression.certificate.alone.values()


def test_the_network_stays_as_it_is():
    before = {n: t.clone() for n, t in trained_reader().state_dict().items()}
    lesson.call(keep=0.5, method="kfac")
    assert all(torch.equal(t, before[n]) for n, t in trained_reader().state_dict().items())


def test_lost_digits_are_those_that_only_the_full_model_reads():
    assert not len(lesson.lost(trained_reader()))
    model, (*_, x, y) = lesson.compressed(30, "svd"), digits()
    found = lesson.lost(model)
    assert len(found) and bool((trained_reader()(x)[found].argmax(1) == y[found]).all())
    assert bool((model(x)[found].argmax(1) != y[found]).all())


def test_data_aware_moves_the_answers_less():
    svd, kfac = (lesson.certificate(30, m) for m in ("svd", "kfac"))
    assert kfac.measured < 0.3 * svd.measured and kfac.changed < svd.changed


def test_bits_know_the_inputs():
    """The step of the exercise, on a row of the network: less error of the outputs."""
    model = trained_reader()
    w = model.blocks[0].up.weight.double()
    x = torch.randn(500, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x @ torch.diag(torch.logspace(0, -1.5, 32).double()) @ torch.linalg.qr(x[:32]).Q
    h = x.mT @ x / len(x) + 1e-3 * torch.eye(32).double()
    levels = torch.linspace(float(w.min()), float(w.max()), 8).double()
    fed = torch.stack([lesson.round_row.right(z, h, levels) for z in w[:8]])
    near = levels[(w[:8, :, None] - levels).abs().argmin(-1)]
    error = lambda q: float((x @ (w[:8] - q).mT).norm())
    assert error(fed) < 0.8 * error(near)
    assert quantize(w, 3).bits == 3  # what the library calls it


@pytest.mark.thorough
def test_pictures_say_what_was_found():
    assert "other answers" not in lesson.draw_wrong(Figure(), lesson.compressed(30, "svd"))
    said = lesson.draw_forecasts(Figure(), (30, 50))
    ratio = [lesson.certificate(p, "svd") for p in (30, 50)]
    assert f"svd {min(c.forecast / c.measured for c in ratio):.2f} to" in said
    found = lesson.sizes((30,), (16,), (3,))
    assert 3 / 32 < found["bits"][0][0] / found["dense"][0][0] < 3 / 32 + 0.03
    assert "dense 98,304" in lesson.draw_sizes(Figure(), found)
    model = lesson.planned("bytes", 0.11, ("bits",))
    assert "The least change, here: " in lesson.draw_plans(Figure(), {"here": model})


def test_a_smaller_share_lengthens_no_slider():
    e = lesson.CompressExplorer()
    with pytest.raises(ValueError, match="kept, %: needs a whole number in 15..90, got 14"):
        e.set(kept=14)
