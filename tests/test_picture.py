"""README's picture says what a run gives."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SAID = re.search(
    r"from ([\d,]+) down to ([\d,]+) compress loses almost nothing, plain SVD loses a sixth",
    (ROOT / "README.md").read_text(encoding="utf-8"),
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:compress. inputs that are always zero")
def test_what_readme_says_of_its_picture():
    whole, least = (int(number.replace(",", "")) for number in SAID.groups())
    curves = runpy.run_path(str(ROOT / "notebooks" / "_picture.py"))["curves"]()
    for name, losses in (("compress", (-0.01, 0.01)), ("plain SVD", (0.15, 0.19))):
        (most, before), *_ = curves[name]
        stored, after = min(curves[name], key=lambda point: abs(point[0] - least))
        assert round(most, -3) == whole and round(stored, -3) == least
        assert losses[0] <= before - after <= losses[1]
