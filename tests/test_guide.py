"""The page for those who come with a model: its programs are run as they are printed, and the names
that it recommends are ours."""

import re
from pathlib import Path

import pytest
import torch

import tensorlab as tl

TEXT = (Path(__file__).parents[1] / "docs" / "compressing.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)


@pytest.mark.thorough
def test_the_programs_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {}
    exec(compile("".join(BLOCKS), "compressing.md", "exec"), names)
    assert names["small"].compression.kept["numbers of the layers"] <= 0.5
    assert names["losses"][-1] < names["losses"][0]
    x = names["batches"][0]
    assert names["again"](x).equal(names["small"](x))
    assert "measured" in capsys.readouterr().out


def test_the_names_that_it_recommends_are_ours():
    names = set(re.findall(r"\btl\.(\w+)", TEXT))
    assert len(names) > 12 and not {name for name in names if not hasattr(tl, name)}
