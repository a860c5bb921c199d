"""A train as a distribution: what the explorer says against enumeration and formulas; a wrong value
is a sentence."""

import math

import pytest
import torch

from tensorlab.course.lessons import tt_sampling as lesson


def enumerated(name, d, coupling):
    """The distribution by its definition, entry by entry."""
    bits = torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * d)
    if name == "Ising chain":
        spins = 2 * bits - 1
        p = (coupling * (spins[:, 1:] * spins[:, :-1]).sum(1)).exp()
    elif name == "two patterns":
        right = 1 / (1 + math.exp(-2 * coupling))
        p = 0
        for pattern in ([k % 2 for k in range(d)], [k // 2 % 2 for k in range(d)]):
            alike = (bits == torch.tensor(pattern)).double()
            p = p + (alike * right + (1 - alike) * (1 - right)).prod(1)
    else:
        amplitude = (2 * coupling * torch.arange(d)).cos()
        p = torch.where(bits.sum(1) == 1, bits @ amplitude.double().square(), 0.0)
    return bits, p / p.sum()


@pytest.mark.thorough
@pytest.mark.parametrize("name", lesson.NAMES)
@pytest.mark.parametrize(("known", "mode"), [("nothing", 0), ("a 0", 2), ("a 1", 4)])
def test_says_what_enumeration_gives(name, known, mode):
    e = lesson.DistributionExplorer(samples=10)
    e.set(distribution=name, modes=5, coupling=0.7, known=known, mode=mode, samples=4000)
    bits, p = enumerated(name, 5, 0.7)
    if known != "nothing":
        p = torch.where(bits[:, mode] == int(known[-1]), p, 0.0)
        p = p / p.sum()
    mean = p @ bits
    assert f"from {float(mean.min()):.3f} to {float(mean.max()):.3f}" in e.sentence
    off = float(e.sentence.split("off by up to ")[1].split(". ")[0])
    assert off < 4.5 * math.sqrt(0.25 / 4000)
    covariance = (bits.T * p @ bits - torch.outer(mean, mean)).triu(1)
    a, b = divmod(int(covariance.abs().argmax()), 5)
    if float(covariance.abs().max()) > 1e-3:
        said = e.sentence.split("of two modes is ")[1]
        assert float(said.split(",")[0]) == pytest.approx(float(covariance[a, b]), abs=6e-4)
        assert float(said.split(", ")[2].split()[0]) == pytest.approx(
            float(covariance[a, b]), abs=4.5 * math.sqrt(0.25 / 4000)
        )


@pytest.mark.thorough
def test_the_seed_decides():
    e, f = lesson.DistributionExplorer(), lesson.DistributionExplorer()
    assert e.sentence == f.sentence
    e.set(seed=1)
    assert e.sentence != f.sentence
    e.set(seed=0)
    assert e.sentence == f.sentence


def test_two_modes_with_one_known_have_no_pairs_to_show():
    e = lesson.DistributionExplorer()
    e.set(modes=2, known="a 1", mode=1, coupling=0.5)
    alike = 1 / (1 + math.exp(-1.0))
    assert (
        e.sentence.startswith(f"A 1 has probabilities from {alike:.3f} to 1.000;")
        and "covariance" not in e.sentence
    )


@pytest.mark.thorough
def test_a_wrong_value_is_a_sentence_and_the_picture_stays():
    e = lesson.DistributionExplorer()
    picture = e.view.value
    for wrong in ("99", "abc", "2.5"):
        e.boxes["modes"].value = wrong
        assert (
            f"modes: needs a whole number in 2..10, got {wrong}" in e.status.value
            and e.view.value == picture
        )
    e.boxes["modes"].value = "8"
    e.boxes["mode"].value = "9"
    assert "known in mode: needs a whole number in 0..7, got 9" in e.status.value


def test_the_known_mode_is_one_that_is_there():
    e = lesson.DistributionExplorer()
    e.set(known="a 0", mode=7)
    e.set(modes=3)
    assert e.value("mode") == 2 and "off by up to" in e.sentence


def test_an_impossible_condition_is_a_sentence(monkeypatch):
    monkeypatch.setenv("TENSORLAB_STRICT", "0")
    e = lesson.DistributionExplorer()
    e.set(distribution="two patterns", modes=4, coupling=0.5)
    picture = e.view.value
    monkeypatch.setattr(
        lesson,
        "example_distribution",
        lambda *_: (lesson.TT([torch.tensor([[[1.0], [0.0]]]).double()] * 4), False),
    )
    e.set(known="a 1", mode=3)
    assert (
        "needs a condition of positive probability, got zero for {3: 1}" in e.status.value
        and e.view.value == picture
    )
    monkeypatch.undo()
    with pytest.raises(ValueError, match="got random"):
        lesson.example_distribution("random", 3, 1.0)


def test_the_heat_bath_comes_to_the_ising_chain():
    g = torch.Generator().manual_seed(0)
    ((sweep, spins),) = lesson.heat_bath(0.5, 40, 200, 60, {60}, g)
    differ = float((spins[:, 1:] != spins[:, :-1]).double().mean())
    assert sweep == 60 and set(spins.unique().tolist()) == {-1.0, 1.0}
    assert differ == pytest.approx(1 / (1 + math.exp(1.0)), abs=0.025)


def test_bars_and_stripes_and_their_markov_chain():
    data = lesson.bars_and_stripes()
    assert data.shape == (30, 16)
    for picture in data.reshape(-1, 4, 4):
        assert (picture == picture[:1]).all() or (picture == picture[:, :1]).all()
    joint = lambda k: torch.stack([(data[:, k] == i).double().mean() for i in (0, 1)])
    log = joint(0)[data[:, 0]].log()
    for k in range(15):
        both = (data[:, k : k + 2, None] == data[:, k : k + 2].T[None]).all(1).double().mean(1)
        log = log + (both / joint(k)[data[:, k]]).log()
    assert lesson.markov_loss(data) == pytest.approx(-float(log.mean()), rel=1e-5)


def test_two_hills_sum_to_one():
    p = lesson.two_hills(6)
    assert p.shape == (6,) * 4 and float(p.sum()) == pytest.approx(1) and float(p.min()) > 0
