"""The programs of examples/, run at small size, do what they are there to show."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tensorlab import FactorizedLinear

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str):
    """What a program defines."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


@pytest.mark.thorough
@pytest.mark.parametrize("whose", ["of Hugging Face", "ours"])
def test_a_transformer_is_compressed_saved_and_read(whose, monkeypatch, tmp_path, capsys):
    if whose == "ours":
        monkeypatch.setitem(sys.modules, "transformers", None)
    else:
        pytest.importorskip("transformers", reason="needs the bench extra")
    main = example("compress_transformer")["main"]
    before, after, model = main(keep=0.5, steps=30, batch=8, save=str(tmp_path / "model"))
    assert type(model).__name__ == ("GPT" if whose == "ours" else "GPT2LMHeadModel")
    assert model.compression.kept["numbers of the layers"] <= 0.5
    assert before < 6 and abs(after - before) < 0.1  # of log2 103 = 6.7 before any training
    assert "read into a new model" in capsys.readouterr().out


@pytest.mark.thorough
def test_a_network_is_trained_in_low_rank_in_an_ordinary_loop():
    right, models = example("train_low_rank")["main"](epochs=6)
    layers = [m for m in models["low rank"].modules() if isinstance(m, FactorizedLinear)]
    assert len(layers) == 2 and all(layer.weight.ranks[0] <= 16 for layer in layers)
    assert right["low rank"] > 0.7 and right["whole"] > 0.7  # chance: 0.1


@pytest.mark.thorough
@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_an_example_says_how_it_is_called(name):
    command = [sys.executable, EXAMPLES / f"{name}.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and f"python examples/{name}.py" in done.stdout, done.stderr
