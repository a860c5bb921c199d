"""Joules are never given without how they are known."""

import time

import pytest

from tensorlab.layers.energy import Energy, energy_of, modeled_energy, readable_counters


def counter(folder, name, now, most=10_000_000):
    package = folder / name
    package.mkdir(parents=True)
    (package / "energy_uj").write_text(f"{now}\n")
    (package / "max_energy_range_uj").write_text(f"{most}\n")
    return package


def test_a_model_is_watts_times_cpu_seconds_and_says_so():
    energy = modeled_energy(0.25, watts=8)
    assert energy.joules == 2.0
    assert str(energy) == repr(energy) == f"{energy}"
    assert str(energy) == "2 J (modeled: 0.25 CPU seconds measured, 8 W assumed)"


def test_no_text_holds_joules_alone():
    for text in (str(Energy(3.0, "why")), repr([Energy(3.0, "why")]), Energy(3.6e6, "why").co2(10)):
        assert "why" in text
    assert Energy(3.6e6, "why").co2(10) == "10 g of CO2 (10 g/kWh assumed; why)"


def test_watts_have_no_default():
    with pytest.raises(TypeError, match="watts"):
        modeled_energy(1.0)
    with pytest.raises(TypeError, match="watts"):
        energy_of(lambda: None)


def test_sleep_costs_nothing_in_the_model():
    """CPU seconds, not seconds on the wall."""
    energy = energy_of(lambda: time.sleep(0.2), watts=100.0, counters=[])
    assert energy.joules < 100 * 0.1 and "modeled" in energy.how and "100 W assumed" in energy.how


@pytest.mark.parametrize("after, joules", [(3_500_000, 2.5), (500_000, 9.5)])
def test_a_counter_is_read_before_and_after_and_wraps_around(tmp_path, after, joules):
    package = counter(tmp_path, "intel-rapl:0", 1_000_000)
    energy = energy_of(
        lambda: (package / "energy_uj").write_text(str(after)), watts=1.0, counters=[package]
    )
    assert energy.joules == pytest.approx(joules)
    assert "measured: 1 package counter over" in str(energy) and "W assumed" not in str(energy)


def test_packages_are_counted_once_and_only_those_that_can_be_read(tmp_path):
    packages = [counter(tmp_path, f"intel-rapl:{k}", 5) for k in (0, 1)]
    counter(tmp_path, "intel-rapl:0:0", 5)  # the cores of package 0 are in its count
    (tmp_path / "intel-rapl:2").mkdir()  # a file that is not there, as one that may not be read
    assert readable_counters(tmp_path) == packages
    assert energy_of(lambda: None, watts=1.0, counters=packages).joules == 0.0


@pytest.mark.parametrize(
    "act, said",
    [
        (lambda: modeled_energy(-1.0, watts=5), "cpu_seconds must .* got -1.0"),
        (lambda: modeled_energy(1.0, watts=0), "watts must .* got 0"),
        (lambda: energy_of(lambda: 1 / 0, watts=-2), "watts must .* got -2"),
        (lambda: Energy(1.0, "").co2(-1), "grams_per_kwh must .* got -1"),
    ],
)
def test_says_what_came(act, said):
    with pytest.raises(ValueError, match=said):
        act()
