"""Energy of a computation: read from a counter where the machine lets us, modeled where not, and
it always says which.

    modeled    joules = watts · CPU seconds        seconds measured, watts assumed by the caller
    measured    joules = counter after - before     of the whole package, with all else that ran

A model of constant watts ranks methods exactly as their CPU seconds do; it tells nothing more. No
watts are assumed for anybody, nor grams of CO2 for a kilowatt-hour.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..arguments import number, positive

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Energy:
    """Joules, and how they are known; `str` gives both.

    >>> print(modeled_energy(2.0, watts=15))
    30 J (modeled: 2 CPU seconds measured, 15 W assumed)
    """

    joules: float
    how: str

    def __str__(self):
        return f"{self.joules:.3g} J ({self.how})"

    __repr__ = __str__

    def co2(self, grams_per_kwh: float) -> str:
        """Grams of CO2 at so many for a kilowatt-hour, which the caller assumes.

        >>> modeled_energy(3600.0, watts=100).co2(400)
        '40 g of CO2 (400 g/kWh assumed; modeled: 3.6e+03 CPU seconds measured, 100 W assumed)'
        """
        number("Energy.co2", "grams_per_kwh", grams_per_kwh)
        grams = self.joules / 3.6e6 * grams_per_kwh
        return f"{grams:.3g} g of CO2 ({grams_per_kwh:g} g/kWh assumed; {self.how})"


def modeled_energy(cpu_seconds: float, *, watts: float) -> Energy:
    """watts · CPU seconds, both given. Raises ValueError for seconds below 0, and for watts that
    are not above 0.

    >>> modeled_energy(0.5, watts=4).joules
    2.0
    """
    cpu_seconds = number("modeled_energy", "cpu_seconds", cpu_seconds)
    watts = positive("modeled_energy", "watts", watts)
    how = f"modeled: {cpu_seconds:.3g} CPU seconds measured, {watts:g} W assumed"
    return Energy(watts * cpu_seconds, how)


def energy_of(f: Callable, *, watts: float, counters: Sequence[Path] | None = None) -> Energy:
    """The energy of one call f(): measured by the machine's package counters, else modeled from
    its CPU seconds, of all threads of this process.

    watts: a core at work, assumed where there is no counter. counters: folders with `energy_uj` and
    `max_energy_range_uj`, as Linux has them; None: all of this machine that can be read.

    >>> "modeled: " in str(energy_of(lambda: None, watts=15, counters=[]))
    True
    """
    watts = positive("energy_of", "watts", watts)
    counters = readable_counters() if counters is None else counters
    before, start, cpu = [_read(c) for c in counters], time.perf_counter(), time.process_time()
    f()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - start
    if not counters:
        return modeled_energy(cpu, watts=watts)
    used = 0
    for counter, old in zip(counters, before):
        new = _read(counter)  # it starts again from 0 beyond its range
        used += new - old if new >= old else new - old + _read(counter, "max_energy_range_uj")
    said = f"{len(counters)} package counter{'s' if len(counters) > 1 else ''}"
    how = f"measured: {said} over {wall:.3g} s, with all else that ran; no watts assumed"
    return Energy(used * 1e-6, how)


def readable_counters(folder: Path = POWERCAP) -> list[Path]:
    """The energy counters of the processor packages that this process may read, none on most shared
    machines.

    >>> readable_counters(Path("/nowhere"))
    []
    """
    packages = sorted(folder.glob("intel-rapl:[0-9]*"))
    whole = [package for package in packages if package.name.count(":") == 1]
    return [package for package in whole if _is_readable(package / "energy_uj")]


def _is_readable(file: Path) -> bool:
    try:
        return file.read_text().strip().isdigit()
    except OSError:  # the kernel gives it to the administrator only
        return False


def _read(counter: Path, name: str = "energy_uj") -> int:
    """Microjoules."""
    return int((counter / name).read_text())
